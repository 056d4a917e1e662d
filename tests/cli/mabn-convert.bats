#!/usr/bin/env bats
load helpers

# Checkpoints of ours to start from, and the committed files of PyTorch itself.
setup_file() {
    load helpers
    mabn-init -q resnet10 --norm mabn --classes 10 -o "$BATS_FILE_TMPDIR/r10.h5"
    mabn-init -q cifar-resnet8 --norm mabn -o "$BATS_FILE_TMPDIR/r8.h5"
}
setup_more() {
    SEEDS=$ROOT/tests/fuzz/corpus
    ln -s "$BATS_FILE_TMPDIR"/r*.h5 .
}

# protobuf: protobuf.py, which takes the fields of ONNX files apart and puts them together
protobuf() {
    cat >protobuf.py <<'END'
def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])
def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data
def number(n, value):
    return varint(n << 3) + varint(value)
def fields(data):
    at = 0
    def get():
        nonlocal at
        n = shift = 0
        while True:
            b = data[at]; at += 1
            n |= (b & 127) << shift; shift += 7
            if b < 128: return n
    while at < len(data):
        start, key = at, get()
        if key & 7 == 2:
            n = get(); at += n
            yield key >> 3, data[at - n:at], data[start:at]
        else:
            get()
            yield key >> 3, None, data[start:at]
END
}

@test "every pair of formats: there and back is exact" {
    for a in h5 pth safetensors onnx; do
        mabn-convert -q --as-is r8.h5 -o "a.$a"
        for b in h5 pth safetensors onnx; do
            mabn-convert -q --as-is -f "a.$a" -o "b.$b"
            mabn-convert -q --as-is -f "b.$b" -o back.h5
            run mabn-convert --check r8.h5 back.h5
            assert_success
            assert_output --partial " 0 differ, 0 only in one; max abs 0"
        done
    done
}

@test "the network survives as well as its tensors" {
    for e in pth safetensors onnx; do
        mabn-convert -q -f r10.h5 -o "x.$e"
        mabn-convert -q -f "x.$e" -o back.h5
        run mabn-convert --check r10.h5 back.h5
        assert_success
        run bash -c "mabn-info --json back.h5 | grep -o '\"config\":.*' | head -c 60"
        assert_output --partial resnet10
    done
}

@test "the same input gives the same bytes" {
    for e in h5 pth safetensors onnx; do
        mkdir -p p q
        (cd p && mabn-convert -q -f ../r8.h5 -o "x.$e")
        (cd q && mabn-convert -q -f ../r8.h5 -o "x.$e")
        run cmp "p/x.$e" "q/x.$e"
        assert_success
    done
}

@test "every type of PyTorch and numpy is read, and kept by --as-is" {
    for f in zip/torch_types pickle/torch_types; do
        mabn-convert -q --as-is -f "$SEEDS/$f" -o t.pth
        run mabn-convert --list --as-is t.pth
        assert_line $'f\t(2)\tfloat32\tf'
        assert_line $'d\t(2)\tfloat64\td'
        assert_line $'h\t(2)\tfloat16\th'
        assert_line $'b\t(2)\tbfloat16\tb'
        assert_line $'i\t(2)\tint64\ti'
        assert_line $'t\t(2)\tbool\tt'
        assert_line $'u\t(1)\tuint8\tu'
        run mabn-convert --check "$SEEDS/$f" t.pth
        assert_success
    done
}

@test "momentum and iteration come along, and module. goes" {
    for f in zip/torch_training pickle/torch_training; do
        run mabn-convert --list --as-is "$SEEDS/$f"
        assert_line $'fc.weight\t(2,2)\tfloat32\tfc.weight'
        assert_line $'optimizer.momentum.fc.weight\t(2,2)\tfloat32\toptimizer.momentum.fc.weight'
        for e in h5 safetensors onnx pth; do
            mabn-convert -q --as-is -f "$SEEDS/$f" -o "t.$e"
            run mabn-convert --check "$SEEDS/$f" "t.$e"
            assert_success
            assert_output --partial "4 tensors compared"
            run mabn-info "t.$e"
            assert_output --partial step
        done
    done
}

@test "--weights-only leaves momentum and iteration behind" {
    mabn-convert -q --weights-only "$SEEDS/zip/torch_training" -o t.pth --partial
    run mabn-convert --list --as-is t.pth
    refute_output --partial momentum
}

@test "Detectron's pickle: {blobs: ...}, momentum and lr left out, every protocol" {
    for p in 1 2 3 4 5; do
        run mabn-convert --list --names caffe2 "$SEEDS/pickle/numpy_$p"
        assert_success
        assert_line $'conv1_w\t(2,2,2,1)\tfloat32\tconv1.weight'
        assert_line --regexp $'^lr\t.*\t-$'
    done
}

@test "unmatched and missing tensors are an error unless --partial, and are printed" {
    mabn-init -q resnet10 --norm bn --classes 10 -o bn.h5
    run --separate-stderr mabn-convert --like r10.h5 bn.h5 -o x.h5
    assert_failure 1
    [[ $stderr == *"unmatched: 'bn1.running_mean' (64)"* ]]
    [[ $stderr == *"missing: 'bn1.pre_x2'"* ]]
    assert_file_not_exist x.h5
    run --separate-stderr mabn-convert --partial --like r10.h5 bn.h5 -o x.h5
    assert_success
    [[ $stderr == *"missing: 'bn1.pre_x2'"* ]]
}

@test "a shape that does not fit is an error, --partial or not" {
    mabn-init -q resnet10 --norm mabn --classes 11 -o other.h5
    fails 1 "'fc.weight' has shape (10,512), but 'fc.weight' needs (11,512)" \
        mabn-convert --partial --like other.h5 r10.h5 -o x.h5
}

@test "into a detector and out again; running_var changes its shape" {
    mabn-convert -q --body detector r10.h5 -o d.pth
    run mabn-convert --list d.pth
    assert_line $'backbone.body.stem.bn1.running_var\t(1,64,1,1)\tfloat32\tbackbone.body.stem.bn1.running_var'
    refute_output --partial "fc."
    refute_output --partial "pre_x2"
    mabn-convert -q --body classifier --partial d.pth -o c.pth
    run mabn-convert --list c.pth
    assert_line --partial $'layer4.0.conv2.weight\t(512,512,3,3)'
}

@test "--suffix feeds names by their longest suffix, as the reference does" {
    mabn-convert -q --body detector r10.h5 -o like.pth
    mabn-convert -q --suffix --like like.pth --partial r10.h5 -o out.pth
    mabn-convert -q --check like.pth out.pth
    fails 2 "--suffix needs --like" mabn-convert --suffix r10.h5 -o x.pth
}

@test "--fold-frozen: statistics go into weight and bias" {
    mabn-convert -q --fold-frozen r10.h5 -o f.h5
    run mabn-convert --list f.h5
    assert_line --partial $'bn1.running_mean\t(64)'
    refute_output --partial pre_x2
    run mabn-info f.h5
    assert_output --partial frozen
}

@test "weights that are not centralized are warned of where MABN wants them" {
    need_python torch
    $PYTHON - <<'EOF'
import torch
d = torch.load
from collections import OrderedDict
w = OrderedDict()
def conv(n, o, i, k): w[n + ".weight"] = torch.randn(o, i, k, k) * .01 + .02
def bn(n, c):
    w[n + ".weight"] = torch.ones(c); w[n + ".bias"] = torch.zeros(c)
    w[n + ".running_var"] = torch.ones(c)
    w[n + ".pre_x2"] = torch.ones(16, c); w[n + ".pre_gz"] = torch.zeros(16, c)
    w[n + ".iters"] = torch.zeros(1)
conv("conv1", 64, 3, 7); bn("bn1", 64)
c = 64
for s, o in enumerate((64, 128, 256, 512), 1):
    b = "layer%d.0." % s
    conv(b + "conv1", o, c, 3); bn(b + "bn1", o); conv(b + "conv2", o, o, 3); bn(b + "bn2", o)
    if s > 1: conv(b + "downsample.0", o, c, 1); bn(b + "downsample.1", o)
    c = o
w["fc.weight"] = torch.zeros(10, 512); w["fc.bias"] = torch.zeros(10)
torch.save(w, "off.pth")
EOF
    run --separate-stderr mabn-convert off.pth -o x.h5
    assert_success
    [[ $stderr == *"not trained with weight centralization"* ]]
    run --separate-stderr mabn-convert -f r10.h5 -o x.h5
    [[ $stderr != *"centralization"* ]]
}

@test "--check tells what differs, and exits 1" {
    mabn-init -q resnet10 --norm mabn --classes 10 --seed 2 -o b.h5
    run --separate-stderr mabn-convert --check r10.h5 b.h5
    assert_failure 1
    assert_line --regexp $'^conv1.weight\t[0-9.e-]+\t[0-9.e+-]+\t[0-9]+$'
    refute_line --regexp '^bn1.weight'
    assert_output --partial "# 98 tensors compared"
    run mabn-convert --check --atol 10 r10.h5 b.h5
    assert_success
    mabn-convert -q --body detector r10.h5 -o d.pth
    run mabn-convert --check r10.h5 d.pth
    assert_failure 1
    assert_line --partial $'conv1.weight\tonly in'
}

@test "attacks are refused in one line, quickly, and write nothing" {
    $PYTHON "$ROOT/tests/cli/make_attacks.py" . >list
    [ "$(wc -l <list)" -ge 125 ]
    while IFS=$'\t' read -r file words; do
        fails 1 "$words" timeout 120 mabn-convert -q --as-is "$file" -o "out.h5"
        assert_file_not_exist out.h5
    done <list
}

@test "a PyTorch file cut at any of many places is refused" {
    f=$SEEDS/zip/torch_training
    size=$(stat -c %s "$f")
    for ((n = 0; n < size; n += 97)); do
        head -c $n "$f" >cut.pth
        run mabn-convert -q --as-is cut.pth -o x.h5
        assert_equal "$status" 1
    done
}

@test "outputs: an existing file needs --force, an unknown ending --to" {
    touch x.h5
    fails 1 "x.h5" mabn-convert -q r10.h5 -o x.h5
    fails 1 "the ending of 'x.bin' names no known format" mabn-convert r10.h5 -o x.bin
    mabn-convert -q --to safetensors r10.h5 -o x.bin
    run mabn-info x.bin
    assert_output --partial safetensors
    fails 1 "missing.pth" mabn-convert missing.pth -o y.h5
    fails 2 "no output" mabn-convert r10.h5
    fails 2 "--check takes two files" mabn-convert --check r10.h5
    fails 1 "cannot write standard output: No space left on device" bash -c "mabn-convert --list r10.h5 > /dev/full"
}

@test "what PyTorch reads: weights_only, names, momentum in its optimizer" {
    need_python torch
    mabn-convert -q --as-is "$SEEDS/zip/torch_training" -o t.pth
    mabn-convert -q r10.h5 -o r10.pth
    $PYTHON - <<EOF
import torch
w = torch.load("r10.pth", weights_only=True)
assert list(w)[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"], list(w)[:3]
assert w["fc.weight"].shape == (10, 512)
a, b = torch.load("$SEEDS/zip/torch_training"), torch.load("t.pth")
assert b["iteration"] == 7
for k in 0, 1:
    assert torch.equal(a["optimizer"]["state"][k]["momentum_buffer"],
                       b["optimizer"]["state"][k]["momentum_buffer"])
assert b["optimizer"]["param_groups"][0]["lr"] == 0.1
t = torch.load("$SEEDS/zip/torch_types")
EOF
}

@test "a .pkl in Detectron's layout, fused or not, gives the same tensors" {
    need_python h5py
    $PYTHON - <<'EOF'
import pickle, subprocess, h5py, numpy as np
rng = np.random.default_rng(1)
for kind in "fused", "unfused", "gn":
    blobs, want = {}, {}
    def put(theirs, ours, *shape):
        blobs[theirs] = rng.normal(size=shape).astype("f4")
        want[ours] = blobs[theirs]
    def norm(theirs, ours, c):
        if kind == "gn":
            leaves = (("_gn_s", ".weight"), ("_gn_b", ".bias"))
            theirs = theirs.replace("res_conv1", "conv1")
        elif kind == "fused":
            leaves = (("_bn_s", ".weight"), ("_bn_b", ".bias"))
        else:
            leaves = (("_bn_gamma", ".weight"), ("_bn_beta", ".bias"),
                      ("_bn_running_mean", ".running_mean"), ("_bn_running_var", ".running_var"))
        for a, b in leaves:
            put(theirs + a, ours + b, c)
    put("conv1_w", "conv1.weight", 32, 3, 7, 7)
    norm("res_conv1", "bn1", 32)
    cin = 32
    for s, n in enumerate((3, 4, 6, 3)):
        w = 32 << s
        for b in range(n):
            t, o = "res%d_%d_branch" % (s + 2, b), "layer%d.%d." % (s + 1, b)
            if b == 0:
                put(t + "1_w", o + "downsample.0.weight", 4 * w, cin, 1, 1)
                norm(t + "1", o + "downsample.1", 4 * w)
            for k, (i, m, f) in enumerate(((cin, w, 1), (w, w, 3), (w, 4 * w, 1))):
                put(t + "2" + "abc"[k] + "_w", o + "conv%d.weight" % (k + 1), m, i, f, f)
                norm(t + "2" + "abc"[k], o + "bn%d" % (k + 1), m)
            cin = 4 * w
    put("fc1000_w", "fc.weight", 11, cin)
    put("fc1000_b", "fc.bias", 11)
    blobs["conv1_w_momentum"] = blobs["conv1_w"]
    blobs["lr"] = np.array(0.1, "f4")
    shift = 0
    if kind == "fused":  # MSRA's stem has a bias
        shift = blobs["conv1_b"] = rng.normal(size=32).astype("f4")
    with open(kind + ".pkl", "wb") as f:
        pickle.dump({"blobs": blobs} if kind != "gn" else blobs, f, 2)
    subprocess.check_call(["mabn-convert", "-q", kind + ".pkl", "-o", kind + ".h5"])
    h = h5py.File(kind + ".h5")
    assert h.attrs["architecture"] in ("resnet50", b"resnet50")
    assert h.attrs["norm"] in {"fused": ("frozen", b"frozen"), "unfused": ("bn", b"bn"),
                               "gn": ("gn", b"gn")}[kind], h.attrs["norm"]
    assert h.attrs["channel_order"] in ("bgr", b"bgr") and h.attrs["mean_0"] == 102.9801
    assert b'"stride_in_1x1":true' in h.attrs["config"].encode() if isinstance(
        h.attrs["config"], str) else h.attrs["config"]
    for name, value in want.items():
        assert np.array_equal(h["model/" + name], value), name
    if kind == "fused":
        assert np.array_equal(h["model/bn1.running_mean"], -shift)
        assert np.array_equal(h["model/layer1.0.bn1.running_var"], np.ones(32, "f4"))
EOF
}

@test "a file that lies about its network is refused before anything is built" {
    mabn-convert -q r8.h5 -o a.safetensors
    for change in 's/\\"base_width\\":16/\\"base_width\\":99/' 's/\\"classes\\":10/\\"classes\\":99/' \
        's/\\"window\\":16/\\"window\\":99999999/g' 's/cifar-resnet8/cifar-resnet9/'; do
        $PYTHON - "$change" <<'EOF'
import re, struct, sys
_, old, new = sys.argv[1].split("/")[:3]
data = open("a.safetensors", "rb").read()
n, = struct.unpack("<Q", data[:8])
header = data[8:8 + n].decode().replace(old.replace("\\\\", "\\"), new.replace("\\\\", "\\")).encode()
assert header != data[8:8 + n]
open("b.safetensors", "wb").write(struct.pack("<Q", len(header)) + header + data[8 + n:])
EOF
        run timeout 120 mabn-convert -q -f b.safetensors -o b.h5
        assert_failure 1
        assert_file_not_exist b.h5
    done
}

@test "detectron2's detector: names, norms of layers, the background first" {
    need_python torch
    $PYTHON - <<'EOF'
import subprocess, torch
t = torch.randn
d2 = {"backbone.bottom_up.stem.conv1.weight": t(8, 3, 7, 7),
      "backbone.bottom_up.stem.conv1.norm.weight": t(8), "backbone.bottom_up.stem.conv1.norm.bias": t(8),
      "backbone.fpn_lateral2.weight": t(4, 8, 1, 1), "backbone.fpn_lateral2.norm.weight": t(4),
      "backbone.fpn_output2.weight": t(4, 4, 3, 3), "backbone.fpn_output2.bias": t(4),
      "proposal_generator.rpn_head.anchor_deltas.weight": t(12, 4, 1, 1),
      "roi_heads.box_predictor.cls_score.weight": t(6, 7), "roi_heads.box_predictor.cls_score.bias": t(6),
      "roi_heads.box_predictor.bbox_pred.weight": t(20, 7),
      "roi_heads.mask_head.predictor.weight": t(5, 4, 1, 1), "pixel_mean": t(3, 1, 1)}
torch.save({"model": d2, "iteration": 3}, "d2.pth")
subprocess.check_call("mabn-convert -q --weights-only d2.pth -o ours.pth", shell=True)
o = torch.load("ours.pth", weights_only=True)
same = lambda a, b: torch.equal(o[a], d2[b])
assert same("backbone.body.stem.conv1.weight", "backbone.bottom_up.stem.conv1.weight"), list(o)
assert same("backbone.body.stem.bn1.bias", "backbone.bottom_up.stem.conv1.norm.bias")
assert same("backbone.fpn.fpn_inner1.0.weight", "backbone.fpn_lateral2.weight")
assert same("backbone.fpn.fpn_inner1.1.weight", "backbone.fpn_lateral2.norm.weight")
assert same("backbone.fpn.fpn_layer1.weight", "backbone.fpn_output2.weight")
assert same("rpn.head.bbox_pred.weight", "proposal_generator.rpn_head.anchor_deltas.weight")
cls = d2["roi_heads.box_predictor.cls_score.weight"]
assert torch.equal(o["roi_heads.box.predictor.cls_score.weight"], torch.cat([cls[5:], cls[:5]]))
box = o["roi_heads.box.predictor.bbox_pred.weight"]
assert box.shape == (24, 7) and not box[:4].any() and torch.equal(
    box[4:], d2["roi_heads.box_predictor.bbox_pred.weight"])
mask = o["roi_heads.mask.predictor.mask_fcn_logits.weight"]
assert mask.shape == (6, 4, 1, 1) and torch.equal(mask[1:], d2["roi_heads.mask_head.predictor.weight"])
assert "pixel_mean" not in o
EOF
    mabn-convert -q --body detector --weights-only d2.pth -o det.pth
    run mabn-convert --list det.pth
    assert_line --partial backbone.body.stem.bn1.bias
}

@test "a whole Mask R-CNN of Detectron or detectron2: every name is the reference's" {
    need_python numpy
    for norm in frozen gn; do
        $PYTHON "$ROOT/tests/cli/detectors.py" $norm
        for file in detectron.pkl detectron2.pkl; do
            mabn-convert --list --weights-only $file -o "$norm-$file.h5" >list 2>err
            run cat err
            refute_output --partial unmatched
            # one line a tensor; each has our name, and they are the reference's
            assert_equal "$(wc -l <list)" "$(cat count-$file)"
            run awk -F'\t' '$NF == "-" && $1 !~ /_momentum$|^lr$|^pixel_/' list
            refute_output
            awk -F"\t" '$NF != "-" { print $NF }' list | sort >ours
            if [ $file = detectron.pkl ]; then grep -v -e running_ -e cell_anchors reference | sort; else sort reference; fi >wanted
            diff wanted ours
        done
    done
}

@test "--fold-frozen into a detector: y = weight x + bias is the norm's own line" {
    need_python torch
    mabn-convert -q r10.h5 -o r10.pth
    mabn-convert -q --body detector --fold-frozen r10.h5 -o f.pth
    $PYTHON - <<'EOF'
import torch
a, f = torch.load("r10.pth"), torch.load("f.pth", weights_only=True)
p = "backbone.body.layer2.0."
assert sorted(k[len(p):] for k in f if k.startswith(p + "bn2.")) == [
    "bn2.bias", "bn2.running_mean", "bn2.running_var", "bn2.weight"]
k = a["layer2.0.bn2.weight"] / (a["layer2.0.bn2.running_var"] + 1e-5).sqrt()
assert torch.allclose(f[p + "bn2.weight"], k, rtol=1e-6)
assert f[p + "bn2.running_var"].shape == (128,) and (f[p + "bn2.running_var"] == 1).all()
w = a["layer2.0.conv2.weight"]
assert torch.allclose(f[p + "conv2.weight"], w - w.mean((1, 2, 3), keepdim=True), atol=1e-7)
EOF
}

@test "many notes, and one note many times, take time and memory like the file" {
    need_python torch
    $PYTHON - <<'EOF'
import json, struct, torch
from collections import OrderedDict
model, text = OrderedDict(w=torch.ones(2)), "a" * 2**20
model._metadata = {"mabn": {"k%d" % i: text for i in range(2000)}}
torch.save(model, "copies.pth")
notes = {"note number %d" % i: str(i) for i in range(60000)}
head = json.dumps({"__metadata__": notes, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
open("a.safetensors", "wb").write(struct.pack("<Q", len(head)) + head.encode() + bytes(8))
EOF
    # one text of 1 MB, by reference 2000 times: 8 GB when all were copied
    $PYTHON - <<'EOF'
import resource, subprocess
subprocess.run("mabn-convert -q --as-is copies.pth -o copies.h5".split(), check=True, timeout=60)
assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 600e3
EOF
    # 60000 notes pass through every format
    timeout 120 mabn-convert -q --as-is a.safetensors -o b.h5
    timeout 120 mabn-convert -q --as-is b.h5 -o c.pth
    timeout 120 mabn-convert -q --as-is c.pth -o d.onnx
    timeout 120 mabn-convert -q --as-is d.onnx -o e.safetensors
    $PYTHON - <<'EOF'
import json, struct
def notes(path):
    data = open(path, "rb").read()
    n, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + n])["__metadata__"]
a, e = notes("a.safetensors"), notes("e.safetensors")
assert len(a) == 60000 and all(e[k] == v for k, v in a.items())
EOF
}

# Files as training programs leave them; plain.pth holds nothing but the weights, and a parameter's
# momentum is the parameter and 1.
checkpoints() {
    mabn-init -q cifar-resnet8 --norm bn --base-width 4 --classes 3 -o bn8.h5
    mabn-convert -q bn8.h5 -o bn8.safetensors
    $PYTHON "$ROOT/tests/cli/make_checkpoints.py" bn8.safetensors .
}

same() { # same FILE FILE: the tensors and no more
    run mabn-convert --check "$1" "$2"
    assert_success
    assert_output --partial " 0 differ, 0 only in one"
}

@test "objects beside the weights are passed over and told, and nothing is called" {
    checkpoints
    for f in namespace namespace-first beside; do
        run --separate-stderr mabn-convert -f $f.pth -o x.h5
        assert_success
        same x.h5 plain.pth
        [[ $stderr == *"skipped 1 object of other classes; the first is '"* ]]
    done
    run --separate-stderr mabn-convert -f -q namespace.pth -o x.h5
    assert_equal "$stderr" "mabn-convert: warning: skipped 1 object of other classes; the first is 'args' (argparse.Namespace)"
    fails 1 "a 'argparse.Namespace', not a dictionary of named tensors" mabn-convert module-object.pth -o y.h5
    assert_file_not_exist y.h5
}

@test "numbers of other types beside the weights never stop them, and are told once" {
    checkpoints
    for f in random random-old; do
        run --separate-stderr mabn-convert -q -f $f.pth -o x.h5
        assert_success
        same x.h5 plain.pth
        [[ $stderr == *"skipped 1 value beside the weights; the first is rng.numpy.1: an array of numpy's type 'u4' is not supported"* ]]
    done
    for f in odd odd-old; do
        run --separate-stderr mabn-convert -q -f $f.pth -o x.h5
        assert_success
        same x.h5 plain.pth
        [[ $stderr == *"skipped 14 values beside the weights; the first is complex: numbers of type 'torch.ComplexFloatStorage' are not supported"* ]]
        [[ $stderr == *"skipped 1 object of other classes; the first is 'matrix' (numpy.matrix)"* ]]
        [[ $stderr == *"skipped 1 tensor beside the weights whose name another has; the first is 'a.b'"* ]]
    done
    # a list is no weight, wherever it is; a state dict may have a key of its own
    for f in flat-random own-key; do
        run --separate-stderr mabn-convert -q -f $f.pth -o x.h5
        assert_success
        same x.h5 plain.pth
        [[ $stderr == *"skipped 1 value beside the weights; the first is rng.1: an array of numpy's type 'u4'"* ]]
    done
    run mabn-convert -q -f two-keys.pth -o x.h5
    assert_failure
    run --separate-stderr mabn-convert -q -f class-old.pth -o x.h5
    assert_success
    same x.h5 plain.pth
    [[ $stderr == *"skipped 1 object of other classes; the first is 'object' (argparse.Namespace)"* ]]
    run --separate-stderr mabn-convert -q -f momentum-complex.pth -o x.h5
    assert_success
    same x.h5 plain.pth
    [[ $stderr == *"the first is momentum: numbers of type 'torch.ComplexFloatStorage'"* ]]
}

@test "numbers of other types among the weights are refused by name" {
    checkpoints
    fails 1 "fc.bias: numbers of type 'torch.ComplexFloatStorage' are not supported" mabn-convert weight-complex.pth -o x.h5
    fails 1 "fc.bias: numbers of type 'torch.QInt8Storage' are not supported" mabn-convert weight-quantized.pth -o x.h5
    fails 1 "fc.bias: numbers of type 'torch.uint16' are not supported" mabn-convert weight-typed.pth -o x.h5
    fails 1 "fc.bias: an array of numpy's type 'u4' is not supported" mabn-convert weight-array.pth -o x.h5
    assert_file_not_exist x.h5
}

@test "what a tensor is rebuilt with is honoured or refused" {
    checkpoints
    fails 1 "fc.weight: a tensor made by 'torch._utils._rebuild_sparse_tensor' is not supported" mabn-convert sparse.pth -o x.h5
    fails 1 "fc.weight: a tensor whose 'neg' is set is not supported" mabn-convert negative.pth -o x.h5
    assert_file_not_exist x.h5
    mabn-convert -q not-negative.pth -o x.h5
    same x.h5 plain.pth
}

@test "numbers that no network can use: an error where norms are folded, else told" {
    checkpoints
    while read -r file what; do
        run --separate-stderr mabn-convert -q -f "$file.pth" -o x.h5
        assert_success
        assert_equal "$stderr" "mabn-convert: warning: 1 tensor with numbers that are not finite, or a negative variance: $what; no tool runs such a network"
        mabn-convert -q -f "$file.pth" -o x.onnx 2>/dev/null
        rm x.onnx
        fails 1 "'${what:1:3}" mabn-convert -q -f --fold "$file.pth" -o x.onnx
        fails 1 "'${what:1:3}" mabn-convert -q -f --fold-frozen "$file.pth" -o x.onnx
        assert_file_not_exist x.onnx
    done <<<"nan-mean 'bn1.running_mean' has nan in channel 2
nan-filter 'conv1.weight' has nan in filter 1
negative-variance 'bn1.running_var' has -1e-06 in channel 1
inf-fc 'fc.weight' has inf in filter 2"
    fails 1 "'nan-mean.pth': norm 'bn1' cannot be folded: channel 2 has weight 1, bias 0, mean nan and variance 1" mabn-convert -q --fold nan-mean.pth -o x.onnx
    # in every type
    mabn-convert -q -f --as-is nan-mean.pth -o x.safetensors 2>/dev/null
    for t in float64 float16 bfloat16; do
        $PYTHON "$ROOT/tests/cli/retype.py" x.safetensors $t y.safetensors
        run --separate-stderr mabn-convert -q -f --as-is y.safetensors -o z.pth
        assert_success
        [[ $stderr == *"1 tensor with numbers that are not finite, or a negative variance: 'bn1.running_mean' has nan in channel 2;"* ]]
    done
}

@test "the older stream in every protocol that PyTorch can load" {
    checkpoints
    for n in 2 4 5; do
        mabn-convert -q -f old-$n.pth -o x.h5
        same x.h5 plain.pth
    done
}

@test "what is in front of all names, or wraps a part, is cut off and told" {
    checkpoints
    while read -r file what; do
        run --separate-stderr mabn-convert -f "$file" -o x.h5
        assert_success
        same x.h5 plain.pth
        [[ $stderr == *", without $what, 56 tensors; cifar-resnet8"* ]]
    done <<<"module.pth 'module.'
orig-mod.pth '_orig_mod.'
both.pth '_orig_mod.', 'module.'
inner.pth '_orig_mod.'
part-module.pth 'module.'
inner-module.pth 'module.'
lightning.ckpt 'model.'
deep.pth 'learner.encoder.net.'"
    # of most names, too
    said=$(mabn-convert -q loss-beside.ckpt -o y.h5 2>&1 || true)
    [[ $said == *"unmatched: 'loss.weight' (3)"*"1 tensors are unmatched or missing"* ]]
    mabn-convert -q -f --partial loss-beside.ckpt -o x.h5
    same x.h5 plain.pth
    # but not of half of them, nor within a name
    said=$(mabn-convert two-nets.pth -o y.h5 2>&1 || true)
    [[ $said == *"unmatched: 'a."* && $said != *"without 'a.'"* ]]
    said=$(mabn-convert inside.pth -o y.h5 2>&1 || true)
    [[ $said == *"unmatched: 'my_orig_mod.weight'"* ]]
    # nor where two names would become one
    said=$(mabn-convert module-twice.pth -o y.h5 2>&1 || true)
    [[ $said == *"unmatched: 'module."* && $said != *"without"* ]]
    # the names of a detector's body begin alike, and stay
    mabn-convert -q --body detector plain.pth -o d.pth
    run --separate-stderr mabn-convert d.pth -o d.h5
    assert_success
    [[ $stderr != *without* ]]
}

@test "safetensors: what other programs write in the header" {
    need_python json
    mabn-convert -q r8.h5 -o net.safetensors
    $PYTHON - <<'END'
import json, struct
data = open("net.safetensors", "rb").read()
n = struct.unpack("<Q", data[:8])[0]
header, data = json.loads(data[8:8 + n]), data[8 + n:]
del header["__metadata__"]
def write(name, metadata, **more):
    h = dict({"__metadata__": metadata}, **header)
    h["fc.bias"] = dict(h["fc.bias"], **more)
    text = json.dumps(h).encode()
    open(name + ".safetensors", "wb").write(struct.pack("<Q", len(text)) + text + data)
write("pt", {"format": "pt"})
write("names", {"format": "pt", "version": "x", "notes": "mine", "a/b": "slash",
                "\u4e2d": "\u6587", "long": "x" * 100000, "plain": "text"})
write("numbers", {"format": 3, "deep": {"a": [1]}, "plain": "text"})
write("none", None)
write("list", [1])
write("field", {"format": "pt"}, comment=[1, {"a": 2}])
END
    for f in pt names numbers none list field; do
        run --separate-stderr mabn-convert -q -f $f.safetensors -o x.h5
        assert_success
        case $f in
            numbers) [[ $stderr == *"skipped 2 of the values of '__metadata__', which should be strings; the first is 'format'" ]] ;;
            list) [[ $stderr == *"skipped '__metadata__', which is an array, not an object" ]] ;;
            field) [[ $stderr == *"skipped keys of tensors that no reader knows: 1, the first 'comment' of 'fc.bias'" ]] ;;
            *) [ -z "$stderr" ] ;;
        esac
        run mabn-convert --check r8.h5 x.h5
        assert_output --partial " 0 differ, 0 only in one"
        mabn-info x.h5 | grep -q 'architecture  *cifar-resnet8'
        # and they come back
        mabn-convert -q -f x.h5 -o $f.back.safetensors
    done
    $PYTHON - <<'END'
import json, struct
def notes(name):
    data = open(name + ".safetensors", "rb").read()
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
for name in "pt", "names", "field":
    before, after = notes(name), notes(name + ".back")
    assert {k: after.get(k) for k in before} == before, (name, after.keys())
END
}

@test "of weights and their moving average the weights are taken, and told; --average chooses" {
    checkpoints
    for f in "ema model_ema" "ema-timm state_dict_ema"; do
        run --separate-stderr mabn-convert -q -f "${f% *}.pth" -o x.h5
        assert_success
        assert_equal "$stderr" "mabn-convert: warning: the file holds a moving average of the weights too, '${f#* }', which is left out (--average takes it instead)"
        same x.h5 plain.pth
        mabn-convert -q -f --average "${f% *}.pth" -o x.h5
        same x.h5 average.pth
    done
    for options in "" --average; do
        run --separate-stderr mabn-convert -q -f $options swa.pth -o x.h5
        assert_equal "$stderr" "mabn-convert: warning: the weights are an average, as 'n_averaged' beside them says: there are no others"
        same x.h5 average.pth
        run --separate-stderr mabn-convert -q -f $options ema-only-nested.pth -o x.h5
        assert_equal "$stderr" "mabn-convert: warning: the weights are the moving average 'ema.module': there are no others"
        same x.h5 average.pth
    done
    run --separate-stderr mabn-convert -q -f ema-only.pth -o x.h5
    assert_equal "$stderr" "mabn-convert: warning: the weights are the moving average 'model_ema': there are no others"
    same x.h5 average.pth
    run --separate-stderr mabn-convert -q -f ema-pair.pth -o x.h5
    assert_equal "$stderr" "mabn-convert: warning: the weights are the moving average 'ema.ema_model': the others beside it are left out"
    same x.h5 average.pth
    fails 1 "holds no moving average" mabn-convert --average plain.pth -o y.h5
    # a figure's average is none of the weights
    fails 1 "holds no moving average" mabn-convert --average ema-figure.pth -o y.h5
}

@test "an average among the weights, or without its statistics, is told and chosen" {
    checkpoints
    while read -r file what; do
        run --separate-stderr mabn-convert -q -f "$file" -o x.h5
        assert_success
        [[ $stderr == *"the file holds a moving average of the weights too, '$what', which is left out (--average takes it instead)"* ]]
        same x.h5 plain.pth
        run --separate-stderr mabn-convert -q -f --average "$file" -o x.h5
        assert_success
        case $what in
        ema.shadow* | model_ema)
            [[ $stderr == *"the average lacks 27 tensors, which are those of the weights; the first is 'bn1.num_batches_tracked'"* ]]
            same x.h5 average-trained.pth ;;
        *) same x.h5 average.pth ;;
        esac
    done <<<"ema-beside.ckpt ema_model
swa-beside.ckpt swa_model
swa-key.pth swa
ema-plain.pth teacher
ema-online.pth ema_model
ema-buffers.pth ema
ema-shadow.pth ema.shadow
ema-list.pth ema.shadow_params
ema-numbered.pth ema_0.9999
ema-polyak.pth polyak_state.shadow
ema-top-list.pth model_ema"
    fails 1 "the average 'ema.shadow_params' is a list of 1 tensors without names, which do not fit the parameters" mabn-convert -f --average ema-list-short.pth -o x.h5
    # names like an average's that no weights belong to are no average
    run mabn-convert -f ema-other.pth -o x.h5
    assert_failure
    assert_output --partial "unmatched: 'teacher.conv1.weight'"
}

@test "a file without weights is an error" {
    checkpoints
    for f in empty empty-model; do
        fails 1 "'$f.pth' holds no weights" mabn-convert $f.pth -o x.h5
        fails 1 "'$f.pth' holds no weights" mabn-convert --as-is $f.pth -o x.h5
        fails 1 "'$f.pth' holds no weights" mabn-convert --list $f.pth
    done
    fails 1 "'object.pth' holds no weights: not one tensor of a network; skipped 1 object of other classes; the first is 'model' (argparse.Namespace)" mabn-convert object.pth -o x.h5
    assert_file_not_exist x.h5
}

@test "momentum in several groups finds its parameters, or is told" {
    checkpoints
    for f in one-group decay no-decay-first norms biases head-first; do
        run --separate-stderr mabn-convert -q -f $f.pth -o x.safetensors
        assert_success
        assert_equal "$stderr" ""
        run $PYTHON - <<'P'
import json, struct
b = open("x.safetensors", "rb").read(); n, = struct.unpack("<Q", b[:8]); h = json.loads(b[8:8 + n])
def numbers(name):
    s, e = h[name]["data_offsets"]
    return struct.unpack("<%df" % ((e - s) // 4), b[8 + n + s:8 + n + e])
names = [k for k in h if k.startswith("optimizer.momentum.")]
assert len(names) == 29, len(names)
for k in names:
    for m, w in zip(numbers(k), numbers(k[len("optimizer.momentum."):])):
        assert abs(m - 1 - w) < 1e-6, k
P
        assert_success
    done
    while IFS='|' read -r file why; do
        run --separate-stderr mabn-convert -q -f "$file" -o x.h5
        assert_success
        assert_equal "$stderr" "mabn-convert: warning: $why"
    done <<<"unclear.pth|the momentum of 29 parameters (3 groups) is left out: their shapes fit the model's parameters in more than one order
shuffled.pth|the momentum of 29 parameters (1 group) is left out: their shapes do not fit the model's parameters in any order known here
adam.pth|the optimizer's state of 29 parameters is left out: 'exp_avg' is not the momentum of stochastic gradient descent"
}

@test "a body without classifier is recognized, and trained with a new one" {
    checkpoints
    "$ROOT/tests/make-images" tree 3 9 6
    mabn-pack imagenet -q tree -o set.h5
    run --separate-stderr mabn-convert headless.pth -o body.h5
    assert_success
    [[ $stderr == *"54 tensors; cifar-resnet8, norm bn, no classifier"* ]]
    run mabn-info body.h5
    assert_line --partial "RGB, mean 123.675"
    fails 1 "'body.h5' has no classifier (mabn-train adds one)" mabn-eval imagenet body.h5 set.h5
    fails 1 "without classifier cannot be written as ONNX" mabn-convert -q headless.pth -o body.onnx
    for e in pth safetensors; do
        mabn-convert -q body.h5 -o "back.$e"
        mabn-convert -q -f "back.$e" -o back.h5
        same body.h5 back.h5
    done
    run --separate-stderr mabn-train --size 16 --batch 4 --steps 1 --lr 0 --train set.h5 -o run body.h5
    assert_success
    [[ $stderr == *"'body.h5' has no classifier: it gets one of 3 classes"* ]]
    mabn-eval imagenet -q run/model.h5 set.h5
    run mabn-convert --check body.h5 run/model.h5
    refute_line --regexp '^(conv1|layer..0.conv..)[.]weight'
    # a classifier's tensors, and its description, from another file
    mabn-convert -q --partial --like bn8.h5 headless.pth -o like.h5 2>/dev/null
    mabn-eval imagenet -q like.h5 set.h5
    fails 1 "'unknown.pth' is not a known network" mabn-convert -q unknown.pth -o x.h5
    mabn-convert -q --as-is unknown.pth -o x.h5
}

@test "norms with a weight and a bias alone are told, and --norm says what they are" {
    checkpoints
    # 4 channels are no 32 groups
    run mabn-convert bare.pth -o x.h5
    assert_failure 1
    assert_line --partial "missing: 'bn1.running_mean'"
    mkdir wide && cd wide
    mabn-init -q cifar-resnet8 --norm bn --base-width 32 --classes 3 -o bn8.h5
    mabn-convert -q bn8.h5 -o bn8.safetensors
    $PYTHON "$ROOT/tests/cli/make_checkpoints.py" bn8.safetensors .
    run --separate-stderr mabn-convert bare.pth -o gn.h5
    assert_success
    [[ $stderr == *"warning: 9 norms have a weight and a bias but no statistics (the first: 'bn1.weight'), which is taken for group norm; for another kind use --norm"* ]]
    run mabn-info gn.h5
    assert_line --regexp '^ *norm .*layer3=gn'
    # told by the user, it is not in doubt
    run --separate-stderr mabn-convert --norm gn bare.pth -o told.h5
    assert_success
    [[ $stderr != *statistics* ]]
    same gn.h5 told.h5
    run mabn-convert --norm bn bare.pth -o x.h5
    assert_failure 1
    assert_line --partial "missing: 'bn1.running_mean'"
    mabn-convert -q --norm bn --partial bare.pth -o bn.h5 2>/dev/null
    "$ROOT/tests/make-images" tree 3 9 6
    mabn-pack imagenet -q tree -o set.h5
    mabn-eval imagenet -q --recalibrate set.h5 -b 9 -o again.h5 bn.h5 set.h5
    run mabn-info again.h5
    assert_line --regexp '^ *norm +bn$'
    # a stage alone that lacks them has lost them
    run mabn-convert part-bare.pth -o x.h5
    assert_failure 1
    assert_line --partial "missing: 'layer2.0.bn1.running_mean'"
    # group norms that their names tell are in no doubt
    run --separate-stderr mabn-convert bn8.h5 -o y.pth
    [[ $stderr != *"no statistics"* ]]
}

@test "ONNX: no counters of batches; folded norms come back as frozen ones" {
    "$ROOT/tests/make-images" tree 3 9 6
    mabn-pack imagenet -q tree -o set.h5
    mabn-train -q --arch cifar-resnet8 --base-width 4 --norm bn --size 16 --augment plain --batch 8 --steps 3 --train set.h5 -o run >/dev/null
    mabn-convert -q run/model.h5 -o plain.onnx
    run mabn-convert --list --as-is plain.onnx
    refute_output --partial num_batches_tracked
    mabn-convert -q plain.onnx -o back.h5
    run mabn-convert --check back.h5 run/model.h5 # all but the counters
    assert_line --partial "# 56 tensors compared, 9 differ, 0 only in one"
    assert_equal "$(grep -c num_batches_tracked <<<"$output")" 10
    files=(fold.onnx)
    mabn-convert -q --fold run/model.h5 -o fold.onnx
    if $PYTHON -c 'import torch' 2>/dev/null; then # PyTorch names what it folded "onnx::Conv_12"
        mabn-convert -q --weights-only run/model.h5 -o state.pth
        $PYTHON "$ROOT/tests/cli/torch_onnx.py" state.pth torch.onnx
        files+=(torch.onnx)
    fi
    mabn-eval imagenet -q --precision fp32 -p --logits run/model.h5 set.h5 | sed 's/.*"logits"//' >want
    for f in "${files[@]}"; do
        run --separate-stderr mabn-convert -f --pixels auto "$f" -o folded.h5
        assert_success
        [[ $stderr == *"47 tensors; cifar-resnet8, norm frozen, 3 classes"* ]]
        run mabn-convert --check --atol 1e-6 --rtol 1e-5 fold.onnx "$f"
        assert_success
    done
    mabn-convert -q -f fold.onnx -o folded.h5
    mabn-eval imagenet -q --precision fp32 -p --logits folded.h5 set.h5 | sed 's/.*"logits"//' >have
    paste -d ' ' want have | tr -d '[]:}' | awk '{ n = split($1, a, ","); split($2, b, ",")
        for (i = 1; i <= n; i++) if ((a[i] - b[i]) ^ 2 > 1e-8) exit 1 }'
}

@test "ONNX: values that several tensors share have all their names" {
    need_python ""
    mabn-init -q cifar-resnet8 --norm bn -c 3 -o new.h5
    mabn-convert -q new.h5 -o whole.onnx
    $PYTHON "$ROOT/tests/cli/share_onnx.py" whole.onnx shared.onnx >names
    assert_equal "$(wc -l <names)" 30
    mabn-convert -q shared.onnx -o back.h5
    run mabn-convert --check back.h5 new.h5
    assert_output --partial "# 56 tensors compared, 0 differ, 0 only in one"
}

# A small detector: `small FAMILY NORM [OPTION]...` writes det.h5.
small() {
    mabn-init -q -f mask-rcnn-r50-fpn --base-width 8 --fpn-width 16 --head-width 16 --fc-width 32 \
        --classes 3 --boxes "$1" --norm "$2" "${@:3}" -o det.h5
}

# There and back: the network that comes back has det.h5's tensors.
there_and_back() {
    mabn-convert -q -f --weights-only --to "$1" det.h5 -o "out.$2"
    run --separate-stderr mabn-convert -f "out.$2" -o back.h5
    assert_success
    run mabn-convert --check det.h5 back.h5
    assert_output --partial " 0 differ, ${3:-0} only in one; max abs 0,"
    assert_success || [ -n "$3" ]
}

@test "a detector to each program and back: the same tensors" {
    small torchvision body=bn,fpn=none,heads=none --box-head 2fc
    there_and_back torchvision pth
    small torchvision bn --seed 1
    there_and_back torchvision safetensors
    small torchvision gn --seed 2
    there_and_back torchvision pth
    small detectron2 body=frozen,fpn=none,heads=none --box-head 2fc --seed 3
    there_and_back detectron2 pkl
    small detectron2 gn --no-stride-in-1x1 --seed 4
    there_and_back detectron2 pth
    small detectron2 bn --box-convs 2 --seed 5
    there_and_back detectron2 pkl
    small detectron2 body=bn,fpn=none,heads=none --box-convs 3 --seed 6
    there_and_back detectron2 pkl
    small legacy mabn --seed 7
    there_and_back reference pth
    small legacy syncbn --seed 8
    there_and_back reference pth
    small legacy gn --box-head 2fc --no-stride-in-1x1 --seed 9
    there_and_back reference pth
}

@test "a detector that is converted back is described as it was" {
    for family in legacy torchvision detectron2; do
        small $family body=frozen,fpn=none,heads=none --box-head 2fc
        to=${family/legacy/reference}
        mabn-convert -q -f --to $to det.h5 -o out.pth
        mabn-convert -q -f --frozen-eps 0 out.pth -o back.h5 2>/dev/null
        for f in det back; do
            mabn-info --json $f.h5 | $PYTHON -c '
import json, sys
c = json.loads(json.load(sys.stdin)["attributes"]["config"])
c.pop("frozen"), c.pop("box_conv_width") # of training, and of no use with 2fc
b = json.loads(c.pop("body"))
for part in [c[k] for k in c if k.startswith("norm_")] + list(b["norm"].values()):
    part.pop("window_rule"), part.pop("groups")
print(json.dumps([c, b["stride_in_1x1"], b["norm"]], sort_keys=True))' >$f.json
        done
        diff det.json back.json
    done
}

@test "--to prints the settings that the program needs, and refuses what it cannot have" {
    small legacy mabn
    fails 1 "norm mabn, which detectron2 cannot have (--fold-frozen" \
        mabn-convert --to detectron2 det.h5 -o x.pkl
    fails 1 "stride of its bottlenecks in the first 1×1, which torchvision cannot have" \
        mabn-convert --to torchvision --fold-frozen det.h5 -o x.pth
    run --separate-stderr mabn-convert --to detectron2 --fold-frozen det.h5 -o x.pkl
    assert_success
    [[ $stderr == *"give them to detectron2: MODEL.PIXEL_MEAN [102.9801,115.9465,122.7717] "* ]]
    [[ $stderr == *" MODEL.ROI_HEADS.NUM_CLASSES 3 MODEL.ROI_BOX_HEAD.NUM_CONV 4 "* ]]
    [[ $stderr == *"trained with the boxes of the reference"* ]]
    fails 1 "is not a detector" mabn-convert --to torchvision r10.h5 -o x.pth
    fails 2 "a detector for another program is written as" mabn-convert --to torchvision det.h5 -o x.h5
    fails 2 "a detector for another program cannot be combined" \
        mabn-convert --to torchvision --body classifier det.h5 -o y.pth
    small legacy gn --box-head 2fc
    fails 1 "norms between the linear layers of its box head" \
        mabn-convert --to detectron2 det.h5 -o y.pkl
}

@test "classes change places between programs, and change back" {
    small torchvision bn --seed 3
    mabn-convert -q --to torchvision det.h5 -o want.pth
    mabn-convert -q --to detectron2 det.h5 -o d2.pkl
    run mabn-convert --list d2.pkl
    assert_line --regexp $'^roi_heads.box_predictor.bbox_pred.weight\t\\(12,32\\)'
    mabn-convert -q --stride-in-1x1 no --pixels torchvision --to torchvision d2.pkl -o tv.pth
    # all but the rows of the background, which detectron2 does not keep
    run mabn-convert --check want.pth tv.pth
    assert_output --partial "430 tensors compared, 2 differ, 0 only in one"
    assert_line --regexp '^roi_heads.box.predictor.bbox_pred.weight'
    assert_line --regexp '^roi_heads.mask.predictor.mask_fcn_logits.weight'
}

@test "detectron2's detector of one class or two: one box for each, none for the background" {
    for n in 1 2; do
        mabn-init -q -f mask-rcnn-r18-fpn --norm body=frozen,fpn=none,heads=none --box-head 2fc --boxes detectron2 \
            --base-width 4 --fpn-width 4 --head-width 4 --fc-width 4 --classes $n -o few.h5
        mabn-convert -q -f --to detectron2 few.h5 -o few.pth 2>/dev/null
        mabn-convert -q -f few.pth -o back.h5 2>/dev/null
        h5diff -q few.h5 back.h5 model model
    done
    run mabn-convert -f few.h5 -o few.onnx
    assert_output --partial "'few.onnx' gets a detector's tensors alone"
}

@test "detectors of other kinds are refused with what is in them" {
    need_python torch
    small torchvision bn
    mabn-convert -q --to torchvision det.h5 -o tv.pth
    $PYTHON - <<'EOF'
import torch
w = torch.load("tv.pth", weights_only=True)
def variant(name, add={}, change={}):
    v = dict(w); v.update(add)
    for k, f in change.items(): v[k] = f(v[k])
    torch.save(v, name)
variant("keypoints.pth", {"roi_heads.keypoint_head.0.weight": torch.zeros(1)})
variant("deformable.pth", {"backbone.body.layer2.0.conv2_offset.weight": torch.zeros(1)})
variant("cascade.pth", {"roi_heads.box_predictor.0.cls_score.weight": torch.zeros(1)})
variant("agnostic.pth", change={"roi_heads.box_predictor.bbox_pred.weight": lambda t: t[:4],
                                "roi_heads.box_predictor.bbox_pred.bias": lambda t: t[:4]})
variant("anchors.pth", change={"rpn.head.cls_logits.weight": lambda t: torch.cat([t, t])})
variant("unknown.pth", {"roi_heads.other.weight": torch.zeros(1)})
v = {k: t for k, t in w.items() if not k.startswith("backbone.body.layer3.5.")}
torch.save(v, "body.pth")
EOF
    fails 1 "a keypoint head" mabn-convert keypoints.pth -o x.h5
    fails 1 "deformable convolutions" mabn-convert deformable.pth -o x.h5
    fails 1 "a cascade of box heads" mabn-convert cascade.pth -o x.h5
    fails 1 "one box for all classes" mabn-convert agnostic.pth -o x.h5
    fails 1 "one for each of 3 anchors" mabn-convert anchors.pth -o x.h5
    mabn-convert -q --to reference det.h5 -o ref.pth
    $PYTHON - <<'EOF'
import torch
w = torch.load("ref.pth", weights_only=True)
w["rpn.anchor_generator.cell_anchors.1"][2, 3] += 5
torch.save(w, "ratios.pth")
EOF
    fails 1 "do not have the ratios 0.5, 1 and 2" mabn-convert ratios.pth -o x.h5
    fails 1 "whose body is not a supported ResNet" mabn-convert body.pth -o x.h5
    run --separate-stderr mabn-convert unknown.pth -o x.h5
    assert_failure 1
    [[ $stderr == *"unmatched: 'roi_heads.other.weight'"* ]]
    assert_file_not_exist x.h5
}

@test "--categories names a detector's classes, by the rule of its program" {
    small torchvision bn
    mabn-convert -q --to torchvision det.h5 -o tv.pth
    small detectron2 bn
    mabn-convert -q --to detectron2 det.h5 -o d2.pkl
    echo '{"images":[],"annotations":[],"categories":[{"id":3,"name":"c"},{"id":1,"name":"a"}]}' >two.json
    echo '{"images":[],"annotations":[],"categories":[{"id":30,"name":"c"},{"id":1,"name":"a"},{"id":7,"name":"b"}]}' >three.json
    mabn-convert -q --categories two.json tv.pth -o tv.h5
    run mabn-info --json tv.h5
    assert_output --partial 'id\":1,\"name\":\"a\"},{\"id\":2,\"name\":\"N/A\"},{\"id\":3,\"name\":\"c\"}'
    mabn-convert -q --categories three.json d2.pkl -o d2.h5
    run mabn-info --json d2.h5
    assert_output --partial 'id\":1,\"name\":\"a\"},{\"id\":7,\"name\":\"b\"},{\"id\":30,\"name\":\"c\"}'
    echo '{"images":[],"annotations":[],"categories":[{"id":"c","name":"c"},{"id":"b","name":"b"},{"id":1,"name":"a"}]}' >texts.json
    mabn-convert -q --categories texts.json d2.pkl -o texts.h5
    run mabn-info --json texts.h5
    assert_output --partial 'id\":1,\"name\":\"a\"},{\"id\":\"b\",\"name\":\"b\"},{\"id\":\"c\",\"name\":\"c\"}'
    fails 1 "category 'c' has the id c, and the detector's classes are numbered 1 to 3" mabn-convert --categories texts.json tv.pth -o x.h5
    fails 1 "2 categories for a detector of 3 classes" mabn-convert --categories two.json d2.pkl -o x.h5
    fails 1 "numbered 1 to 3" mabn-convert --categories three.json tv.pth -o x.h5
    run --separate-stderr mabn-convert tv.pth -o x.h5
    [[ $stderr == *"nothing says what the 3 classes are"* ]]
    # later is not too late
    mabn-convert -q --categories two.json x.h5 -o named.h5
    run mabn-info --json named.h5
    assert_output --partial 'id\":3,\"name\":\"c\"}'
}

@test "files of other kinds are named for what they are" {
    $PYTHON - <<'END'
import bz2, gzip, io, json, lzma, tarfile, zipfile
text = b"some weights" * 100
gzip.open("a.gz", "wb").write(text)
bz2.open("a.bz2", "wb").write(text)
lzma.open("a.xz", "wb").write(text)
with tarfile.open("a.tar", "w") as t:
    i = tarfile.TarInfo("a.pth")
    i.size = len(text)
    t.addfile(i, io.BytesIO(text))
def archive(name, **entries):
    for method, ending in (zipfile.ZIP_STORED, ""), (zipfile.ZIP_DEFLATED, ".small"):
        with zipfile.ZipFile(name + ending, "w", method) as z:
            for entry, data in entries.items():
                z.writestr(entry, data)
archive("script.pt", **{"net/data.pkl": b"\x80\2}.", "net/code/__torch__.py": text, "net/constants.pkl": b"\x80\2)."})
archive("export.pt2", **{"version": "8.8", "serialized_exported_program.json": text})
archive("export2.pt2", **{"m/archive_format": "pt2", "m/models/model.json": text})
archive("a.npz", **{"conv1.weight.npy": b"\x93NUMPY" + text})
archive("a.keras", **{"metadata.json": text, "config.json": text, "model.weights.h5": text})
archive("a.zip", **{"folder/net.pth": text})
archive("two.zip", **{"first.pth": text, "second.onnx": text})
archive("pictures.zip", **{"a.jpg": text})
open("a.npy", "wb").write(b"\x93NUMPY\1\0" + text)
open("a.tflite", "wb").write(b"\x1c\0\0\0TFL3" + text)
open("a.pb", "wb").write(b"\x08\x01\x12\x02ab")
json.dump({"metadata": {}, "weight_map": {"conv1.weight": "pytorch_model-00001-of-00002.bin"}}, open("index.json", "w"), indent=2)
json.dump({"architectures": ["ResNet"]}, open("config.json", "w"))
open("lfs.pth", "w").write("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
open("page.pth", "w").write("<!DOCTYPE html>\n<html></html>\n")
open("none.pth", "w")
try:
    import h5py
    with h5py.File("keras.h5", "w") as f:
        f.attrs["keras_version"] = "2.9"
        f["model_weights/conv1/kernel:0"] = [1., 2.]
    with h5py.File("keras3.h5", "w") as f:
        f["layers/conv2d/vars/0"] = [1., 2.]
    with h5py.File("other.h5", "w") as f:
        f["layers/x"] = [1., 2.]
except ImportError:
    pass
END
    mkdir folder
    while IFS='|' read -r file why; do
        case $file in *.h5) [ -e "$file" ] || continue ;; esac
        fails 1 "'$file'$why" mabn-convert "$file" -o out.h5
        case $file in *.json | *.h5) ;; *) fails 1 "'$file'$why" mabn-info "$file" ;; esac
        assert_not_exist out.h5
    done <<'END'
a.gz| is compressed by gzip: unpack it first
a.bz2| is compressed by bzip2: unpack it first
a.xz| is compressed by xz: unpack it first
a.tar| is a tar archive: unpack it first
script.pt| is a TorchScript program: save the model's state_dict() instead
script.pt.small| is a TorchScript program: save the model's state_dict() instead
export.pt2| is a program of torch.export: save the model's state_dict() instead
export2.pt2.small| is a program of torch.export: save the model's state_dict() instead
a.npz| is an archive of NumPy (.npz): save its arrays as safetensors
a.npz.small| is an archive of NumPy (.npz): save its arrays as safetensors
a.keras| is a model of Keras
a.zip| is a zip archive that holds 'folder/net.pth': unpack it first
a.zip.small| is a zip archive that holds 'folder/net.pth': unpack it first
two.zip| is a zip archive that holds 'first.pth': unpack it first
pictures.zip| is a zip archive, but not one of PyTorch's
a.npy| is an array of NumPy (.npy), without names for its tensors
a.tflite| is a model of TensorFlow Lite
a.pb|: damaged ONNX file at offset 6: no graph (models of TensorFlow and Core ML begin likewise)
index.json| is the index of a checkpoint in parts ('pytorch_model-00001-of-00002.bin' and others): save it as one file first
config.json| is JSON, not weights
lfs.pth| is a pointer of Git LFS: git lfs pull fetches the file
page.pth| is an HTML page: the download failed
none.pth| is empty
keras.h5| is a model of Keras
keras3.h5| is a model of Keras
other.h5| is not a mabn checkpoint
END
    fails 1 "cannot open 'folder': it is a folder, a file is expected" mabn-convert folder -o out.h5
}

@test "ONNX of other makers: other forms of numbers, other types, constants" {
    mabn-init cifar-resnet8 --classes 4 --norm bn -o net.h5
    mabn-convert -q net.h5 -o net.onnx
    protobuf
    # a second graph's worth of fields: initialisers that are appended to the graph
    $PYTHON - <<'END'
from protobuf import *
model = open("net.onnx", "rb").read()
def write(name, change):
    out = b""
    for k, value, whole in fields(model):
        out += field(7, change(value)) if k == 7 else whole
    open(name, "wb").write(out)
shape = number(1, 2) + number(2, 7) + field(7, b"\1\2") + field(8, b"shape") # int64 as varints
words = number(1, 1) + number(2, 8) + field(6, b"word") + field(8, b"words") # text
write("more.onnx", lambda g: g + field(5, shape) + field(5, words))
def doubles(g): # float32 numbers as float64 in double_data
    import struct
    out = b""
    for k, value, whole in fields(g):
        if k == 5:
            tensor = b""
            for n, v, w in fields(value):
                if n == 2: w = number(2, 11)
                if n in (4, 9): w = field(10, struct.pack("<%dd" % (len(v) // 4), *struct.unpack("<%df" % (len(v) // 4), v)))
                tensor += w
            whole = field(5, tensor)
        out += whole
    return out
write("double.onnx", doubles)
def first_tensor(dtype, number_of_data, data): # its type and its data replaced
    def change(g):
        out = b""
        for k, value, whole in fields(g):
            if k == 5 and not change.done:
                change.done = True
                tensor = field(8, b"odd") + number(2, dtype) + number(1, 2) + field(number_of_data, data)
                whole = field(5, tensor)
            out += whole
        return out
    change.done = False
    return change
write("typed1.onnx", first_tensor(11, 4, b"\0" * 16))  # float64 given as float_data, of its length
write("typed2.onnx", first_tensor(1, 10, b"\0" * 8))   # float32 as double_data
write("short.onnx", first_tensor(1, 4, b"\0" * 12))
write("wire1.onnx", lambda g: g + field(5, field(2, b"\1") + shape))
write("wire2.onnx", lambda g: g + field(5, field(14, b"\1") + shape))
def constants(g): # no initialisers, but nodes with a tensor
    out = b""
    for k, value, whole in fields(g):
        out += field(1, field(2, b"c") + field(4, b"Constant")) if k == 5 else whole
    return out
write("constant.onnx", constants)
END
    run mabn-convert more.onnx -o more.h5
    assert_success
    assert_output --partial "skipped 2 initialisers of types or forms that are not read; the first is 'shape'"
    mabn-convert -q double.onnx -o double.h5
    for f in more double; do
        run mabn-convert --check net.h5 $f.h5
        assert_success
    done
    fails 1 "'typed1.onnx': initialiser 'odd' is float64, its data are float32" mabn-convert typed1.onnx -o c.h5
    fails 1 "'typed2.onnx': initialiser 'odd' is float32, its data are float64" mabn-convert typed2.onnx -o c.h5
    fails 1 "'short.onnx': initialiser 'odd' has 12 bytes of data instead of 8" mabn-convert short.onnx -o c.h5
    fails 1 "a data type of another kind" mabn-convert wire1.onnx -o c.h5
    fails 1 "a place of another kind" mabn-convert wire2.onnx -o c.h5
    fails 1 "'constant.onnx' has its tensors in 47 Constant nodes, which are not read: export it with initialisers" mabn-convert constant.onnx -o c.h5
}

@test "counters of batches in other types are counts; what is none is told" {
    need_python torch
    mabn-init -q cifar-resnet8 --norm bn -o bn.h5
    mabn-convert -q bn.h5 -o bn.pth
    $PYTHON - <<'END'
import torch
whole = torch.load("bn.pth")
names = [n for n in whole if n.endswith("num_batches_tracked")]
def save(file, counts, **types):
    tensors = dict(whole)
    for n, c in zip(names, counts): tensors[n] = torch.tensor(c, **types)
    torch.save(tensors, file)
save("int.pth", [-5, 16777217, 2**31 - 1], dtype=torch.int32)
save("float.pth", [-5, 450000, 7], dtype=torch.float32)
save("double.pth", [-5, 2**53 - 1, 7], dtype=torch.float64)
save("odd.pth", [float("inf"), 2.75, 1e30, float("nan")], dtype=torch.float32)
END
    for f in int float double; do
        run --separate-stderr mabn-convert -q $f.pth -o $f.h5
        assert_success
        assert_equal "$stderr" ""
    done
    run --separate-stderr mabn-convert -q odd.pth -o odd.h5
    assert_success
    assert_equal "$stderr" "mabn-convert: warning: 4 num_batches_tracked are no whole number (the first: 'bn1.num_batches_tracked', inf): rounded, or 0 where it is no number of 64 bits"
    for f in int float double odd; do mabn-convert -q $f.h5 -o $f-back.pth; done
    run -0 $PYTHON - <<'END'
import torch
for f in ("int", "float", "double", "odd"):
    print(*[v.item() for k, v in torch.load(f + "-back.pth").items() if "tracked" in k][:4])
END
    assert_output - <<'END'
-5 16777217 2147483647 0
-5 450000 7 0
-5 9007199254740991 7 0
0 3 0 0
END
}

@test "a note called model does not take the weights' place in a pickle" {
    $PYTHON - <<'END'
import json, struct
head = json.dumps({"__metadata__": {"model": "resnet", "who": "x"},
                   "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
open("a.safetensors", "wb").write(struct.pack("<Q", len(head)) + head + struct.pack("<2f", 1, 2))
END
    mabn-convert -q --as-is a.safetensors -o a.pkl
    run $PYTHON -c 'import pickle; d = pickle.load(open("a.pkl", "rb")); print(list(d["model"]["w"]), d["note_model"], d["who"])'
    assert_output --partial "1.0"
    assert_output --partial "resnet x"
}

@test "networks of other families are refused by name" {
    $PYTHON - <<'END'
import json, struct
def save(name, **shapes):
    head, at, data = {}, 0, b""
    for k, shape in shapes.items():
        n = 4
        for v in shape: n *= v
        head[k], at = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + n]}, at + n
        data += bytes(n)
    text = json.dumps(head).encode()
    open(name + ".safetensors", "wb").write(struct.pack("<Q", len(text)) + text + data)
save("mm", **{"backbone.conv1.weight": [8, 3, 7, 7], "neck.lateral_convs.0.conv.weight": [4, 8, 1, 1]})
save("detr", **{"transformer.encoder.layers.0.norm1.weight": [8], "class_embed.bias": [3]})
save("yolo", **{"model.22.dfl.conv.weight": [1, 16, 1, 1], "model.0.conv.weight": [8, 3, 3, 3]})
save("vit", **{"class_token": [1, 1, 8], "conv_proj.bias": [8]})
save("mobile", **{"features.0.0.weight": [8, 3, 3, 3], "classifier.3.bias": [4]})
END
    said() {
        run --separate-stderr mabn-convert "$1.safetensors" -o out.h5
        assert_failure
        [[ ${stderr##*$'\n'} == *"it looks like $2, which is not read (--partial"* ]]
        assert_not_exist out.h5
    }
    said mm "a detector of mmdetection"
    said detr "a detector like DETR"
    said yolo "a YOLO of ultralytics"
    said vit "a vision transformer"
    said mobile "a network like VGG, MobileNet, EfficientNet or DenseNet"
}

@test "a state_dict that Python's pickle wrote says how it should be saved" {
    $PYTHON - <<'END'
import pickle, sys, types
# what a tensor's and a storage's __reduce__ give, with functions of the same names
for name, function in ("torch._utils", "_rebuild_tensor_v2"), ("torch.storage", "_load_from_bytes"):
    module = types.ModuleType(name)
    exec(f"def {function}(*a): pass", module.__dict__)
    getattr(module, function).__module__ = name
    sys.modules[name] = module
sys.modules["torch"] = types.ModuleType("torch")
class Storage:
    def __reduce__(self):
        return sys.modules["torch.storage"]._load_from_bytes, (b"numbers",)
class Tensor:
    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (Storage(), 0, (2, 3), (3, 1), False, {})
for protocol in 2, 4:
    pickle.dump({"conv1.weight": Tensor()}, open(f"dumped-{protocol}.pkl", "wb"), protocol)
END
    for p in 2 4; do
        fails 1 "a tensor whose numbers are not beside it: was it written by Python's pickle in place of torch.save?" mabn-convert dumped-$p.pkl -o out.h5
        assert_not_exist out.h5
    done
}

@test "ONNX of PyTorch's newer exporter: numbers in a file beside it, biases named after weights" {
    mabn-init cifar-resnet8 --classes 4 --norm bn -o net.h5 -q
    mabn-convert -q --fold net.h5 -o net.onnx
    mkdir -p sub
    protobuf
    $PYTHON - <<'END'
from protobuf import *
def fused(name): # conv1.bias of the weight conv1.weight
    return name[:-5] + b".weight_bias" if name.endswith(b".bias") and b"fc" not in name else name
def pair(key, value):
    return field(13, field(1, key) + field(2, value))
numbers = b""
value = field(5, varint(1 << 3) + b"\2" + varint(2 << 3) + b"\7" + field(8, b"val_226") + field(9, bytes(16)))
def tensor(data, location):
    global numbers
    out, raw = b"", None
    for k, v, whole in fields(data):
        if k == 9:
            raw = v
        else:
            out += field(8, fused(v)) if k == 8 else whole
    out += pair(b"location", location) + pair(b"offset", b"%d" % len(numbers)) + pair(b"length", b"%d" % len(raw))
    numbers += raw + bytes(len(raw) % 64)
    return out + varint(14 << 3) + b"\1"
def node(data):
    return b"".join(field(1, fused(v)) if k == 1 else whole for k, v, whole in fields(data))
def graph(data, location):
    return b"".join(field(5, tensor(v, location)) if k == 5 else field(1, node(v)) if k == 1 else whole
                    for k, v, whole in fields(data)) + value
model = open("net.onnx", "rb").read()
for name, location in ("sub/ext", b"ext.onnx.data"), ("cut", b"cut.data"), ("out", b"../out.data"), ("none", b"none.data"):
    numbers = b""
    open(name + ".onnx", "wb").write(b"".join(field(7, graph(v, location)) if k == 7 else whole for k, v, whole in fields(model)))
    if name == "sub/ext": open("sub/ext.onnx.data", "wb").write(numbers)
    if name == "cut": open("cut.data", "wb").write(numbers[:-999])
END
    run mabn-convert sub/ext.onnx -o ext.h5
    assert_success
    assert_output --partial "skipped 1 constant of the exporter's graph; the first is 'val_226'"
    mabn-convert -q net.onnx -o one.h5
    run mabn-convert --check one.h5 ext.h5
    assert_success
    fails 1 "'cut.data' is truncated: tensor '" mabn-convert cut.onnx -o out.h5
    fails 1 "'out.onnx': its data are in another file, '../out.data', outside its folder" mabn-convert out.onnx -o out.h5
    fails 1 "'none.onnx' has its data in another file: cannot open 'none.data'" mabn-convert none.onnx -o out.h5
    assert_not_exist out.h5
}
