#!/usr/bin/env bats
load helpers

ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
PATH=${MABN_BIN:-$ROOT/build/release/bin}:$PATH

setup_file() {
    cd "$BATS_FILE_TMPDIR" || return 1
    "$ROOT/tests/make-images" tree 4 9 6
    mabn-pack imagenet -q tree -o data.h5
    mabn-init cifar-resnet8 --base-width 4 --classes 4 --height 16 --width 16 --norm bn -o model.h5 -q
}
setup_more() { ln -s "$BATS_FILE_TMPDIR"/*.h5 .; }

@test "text and JSON say the same" {
    run --separate-stderr mabn-eval imagenet model.h5 data.h5
    assert_success
    assert_line --index 0 "images  36"
    assert_line --index 1 --regexp '^top-1   [0-9.]+ %$'
    top1=$(awk '/top-1/ { print $2 }' <<<"$output")
    run --separate-stderr mabn-eval imagenet model.h5 data.h5 --json -b 7
    assert_output --regexp '^\{"schema":"mabn-eval/1","images":36,"top1":[0-9.]+,"top5":100,"loss":[0-9.]+,"folded":true,"seconds":[0-9.]+\}$'
    json=${output#*top1\":}
    awk -v a="$top1" -v b="${json%%,*}" 'BEGIN { exit !(a - b < 0.01 && b - a < 0.01) }'
}

@test "--predictions: a line an image, in order, and the figures follow from it" {
    mabn-eval imagenet model.h5 data.h5 -p --logits >lines
    assert_equal "$(wc -l <lines)" 36
    run head -n 1 lines
    assert_output --regexp '^\{"sample":0,"label":0,"top":\[[0-3](,[0-3]){3}\],"prob":\[[-0-9.e,]+\],"loss":[0-9.]+,"logits":\[[-0-9.e,]+\]\}$'
    need_python numpy
    mabn-eval imagenet model.h5 data.h5 --json >json
    run $PYTHON - <<'E2'
import json, math
lines = [json.loads(x) for x in open("lines")]
total = json.load(open("json"))
assert [x["sample"] for x in lines] == list(range(36))
for x in lines:
    e = [math.exp(v) for v in x["logits"]]
    order = sorted(range(4), key=lambda c: -x["logits"][c])
    assert order == x["top"]
    assert all(abs(p - e[c] / sum(e)) < 1e-6 for p, c in zip(x["prob"], x["top"]))
    assert abs(x["loss"] + math.log(e[x["label"]] / sum(e))) < 1e-5
assert abs(total["loss"] - sum(x["loss"] for x in lines) / 36) < 1e-5
assert abs(total["top1"] - 100 / 36 * sum(x["top"][0] == x["label"] for x in lines)) < 1e-9
E2
    assert_success
}

@test "folded and unfolded agree to 1e-4, any batch and thread count" {
    mabn-eval imagenet model.h5 data.h5 --precision fp32 -p --logits >a
    mabn-eval imagenet model.h5 data.h5 --precision fp32 -p --logits --no-fold -b 5 -j 1 --decoders 3 >b
    need_python numpy
    run $PYTHON - <<'E2'
import json
for x, y in zip(open("a"), open("b")):
    x, y = json.loads(x), json.loads(y)
    assert all(abs(p - q) <= 1e-4 * max(1, abs(q)) for p, q in zip(x["logits"], y["logits"]))
E2
    assert_success
}

@test "bfloat16: within its rounding of float32; what auto takes is said" {
    mabn-eval imagenet model.h5 data.h5 --precision fp32 -p --logits >a
    run --separate-stderr mabn-eval imagenet model.h5 data.h5 --precision bf16 -p --logits
    assert_success
    [[ $stderr == *"; bf16"* ]]
    printf '%s\n' "$output" >b
    need_python numpy
    run $PYTHON - <<'E2'
import json
apart = 0
for x, y in zip(open("a"), open("b")):
    x, y = json.loads(x), json.loads(y)
    assert all(abs(p - q) <= 0.03 * max(1, abs(q)) for p, q in zip(x["logits"], y["logits"]))
    apart += x["logits"] != y["logits"]
assert apart
E2
    assert_success
    want=fp32
    grep -q 'avx512_bf16' /proc/cpuinfo && want=bf16
    run --separate-stderr mabn-eval imagenet model.h5 data.h5
    [[ $stderr == *"; $want"* ]]
    run --separate-stderr mabn-eval imagenet model.h5 data.h5 --exact
    [[ $stderr == *"; fp32"* ]]
}

@test "bad options and bad files" {
    fails 2 "unknown device 'x'" mabn-eval imagenet model.h5 data.h5 --device x
    fails 2 "--precision tf32 needs a GPU" mabn-eval imagenet model.h5 data.h5 --device cpu --precision tf32
    fails 2 "--logits goes with --predictions" mabn-eval imagenet model.h5 data.h5 --logits
    fails 1 "cannot open 'none.h5'" mabn-eval imagenet none.h5 data.h5
    fails 1 "cannot open 'none.h5'" mabn-eval imagenet model.h5 none.h5
    head -c 3000 model.h5 >cut.h5
    fails 1 "cut.h5" mabn-eval imagenet cut.h5 data.h5
    fails 1 "data.h5" mabn-eval imagenet data.h5 data.h5
    mabn-init cifar-resnet8 --classes 10 -o ten.h5 -q
    fails 1 "'ten.h5' knows 10 classes, 'data.h5' has 4" mabn-eval imagenet ten.h5 data.h5
    for more in "" -p; do
        fails 1 "cannot write standard output: No space left on device" \
            bash -c "mabn-eval imagenet -q $more model.h5 data.h5 >/dev/full"
    done
}

@test "without a GPU: cuda is refused, auto is the CPU and says why" {
    no_gpu
    fails 1 "$why" mabn-eval imagenet model.h5 data.h5 --device cuda
    run --separate-stderr mabn-eval imagenet model.h5 data.h5
    assert_success
    [[ $stderr == *"CPU, "*"; no GPU: $why"* ]]
}

# poke IN OUT NAME INDEX VALUE: a number of a tensor in a safetensors file
poke() {
    $PYTHON - "$@" <<'P'
import json, struct, sys
source, out, name, index, value = sys.argv[1:]
b = bytearray(open(source, "rb").read()); n, = struct.unpack("<Q", b[:8])
at = 8 + n + json.loads(b[8:8 + n])[name]["data_offsets"][0] + 4 * int(index)
b[at:at + 4] = struct.pack("<f", float(value))
open(out, "wb").write(b)
P
}

@test "a weight or a statistic that is not finite is named, folded or not" {
    mabn-convert -q model.h5 -o m.safetensors
    while read -r name index value what; do
        poke m.safetensors bad.safetensors "$name" "$index" "$value"
        mabn-convert -q -f bad.safetensors -o bad.h5
        for fold in -q --no-fold; do
            fails 1 "'bad.h5': '$name' has $what" mabn-eval imagenet -q $fold bad.h5 data.h5
        done
        fails 1 "'bad.h5': '$name' has $what" mabn-train -q --size 16 --batch 8 --steps 1 --train data.h5 -o run bad.h5
    done <<<"conv1.weight 30 nan nan in filter 1
layer1.0.bn1.running_var 3 nan nan in channel 3
layer1.0.bn1.running_var 3 -1 -1 in channel 3
layer2.0.bn1.weight 2 inf inf in channel 2
fc.bias 1 nan nan in channel 1"
}

@test "finite numbers whose product is not are named, folded or not" {
    mabn-convert -q model.h5 -o m.safetensors
    poke m.safetensors a.safetensors bn1.weight 1 3e38
    poke a.safetensors b.safetensors bn1.running_var 1 1e-10
    mabn-convert -q b.safetensors -o scale.h5
    for fold in -q --no-fold; do
        fails 1 "'bn1': channel 1: weight 3e+38" mabn-eval imagenet -q $fold scale.h5 data.h5
    done
    poke m.safetensors a.safetensors bn1.weight 1 1e20
    poke a.safetensors b.safetensors conv1.weight 30 1e30
    mabn-convert -q -f b.safetensors -o filter.h5
    fails 1 "'conv1': filter 1 is not finite when it is multiplied by its norm's scale" mabn-eval imagenet -q filter.h5 data.h5
    fails 1 "are not finite" mabn-eval imagenet -q --no-fold filter.h5 data.h5
}

@test "outputs that are not finite are an error that names the image" {
    mabn-convert -q model.h5 -o m.safetensors
    poke m.safetensors a.safetensors fc.weight 0 3e38
    poke a.safetensors b.safetensors bn1.weight 0 1e38
    poke b.safetensors c.safetensors fc.weight 1 3e38
    mabn-convert -q c.safetensors -o big.h5
    for fold in -q --no-fold; do
        fails 1 "outputs for sample 0 'class000/image0000.JPEG' are not finite" mabn-eval imagenet -q $fold big.h5 data.h5
    done
}

@test "a model is not judged on other classes" {
    mabn-train -q --arch cifar-resnet8 --base-width 4 --size 16 --augment plain --batch 8 --steps 2 --train data.h5 -o run >/dev/null
    mabn-eval imagenet -q run/model.h5 data.h5
    cp -r "$BATS_FILE_TMPDIR/tree" tree
    mv tree/class002 tree/other
    mabn-pack imagenet -q tree -o other.h5
    fails 1 "class 2 is 'class002' in 'run/model.h5' but 'class003' in 'other.h5'" mabn-eval imagenet -q run/model.h5 other.h5
    # where only one has names they cannot be compared, which is told
    k=0
    for d in tree/*/; do
        for f in "$d"*; do printf '%s\t%d\n' "$f" "$k"; done
        k=$((k + 1))
    done >list
    mabn-pack list -q list -o numbers.h5
    run --separate-stderr mabn-eval imagenet run/model.h5 numbers.h5
    assert_success
    [[ $stderr == *"'numbers.h5' has no names of classes: not compared with those of 'run/model.h5'"* ]]
    run --separate-stderr mabn-eval imagenet run/model.h5 data.h5
    ! [[ $stderr == *"names of classes"* ]]
    # the names survive other formats
    for e in pth safetensors onnx; do
        mabn-convert -q run/model.h5 -o "m.$e"
        mabn-convert -q -f "m.$e" -o back.h5
        fails 1 "class 2 is 'class002' in 'back.h5'" mabn-eval imagenet -q back.h5 other.h5
    done
    # fine-tuning: refused, or with a new classifier
    tune=(mabn-train -q --size 16 --augment plain --batch 8 --steps 1 --train other.h5)
    fails 1 "class 2 is 'class002' in 'run/model.h5' but 'class003' in 'other.h5' (--allow-weights classes" "${tune[@]}" -o tuned run/model.h5
    "${tune[@]}" --lr 0 --allow-weights classes -o tuned run/model.h5 >/dev/null
    mabn-eval imagenet -q tuned/model.h5 other.h5
    run mabn-convert --check run/model.h5 tuned/model.h5
    assert_failure
    assert_line --partial "fc.weight"
    refute_line --partial "conv1.weight"
    # training tells it too, of --val and of the model that it starts from, once
    small="--arch cifar-resnet8 --base-width 4 --size 16 --augment plain --batch 8 --steps 1"
    note="has no names of classes: not compared with those of"
    # shellcheck disable=SC2086
    run --separate-stderr mabn-train $small --train data.h5 --val numbers.h5 -o tell1
    assert_success
    assert_equal "$(grep "$note" <<<"$stderr")" "mabn-train: 'numbers.h5' $note 'data.h5'"
    # shellcheck disable=SC2086
    run --separate-stderr mabn-train $small --train numbers.h5 --val numbers.h5 -o tell2
    assert_success
    refute grep "$note" <<<"$stderr"
    run --separate-stderr mabn-train --size 16 --augment plain --batch 8 --steps 1 --train data.h5 -o tell3 tell2/model.h5
    assert_success
    assert_equal "$(grep "$note" <<<"$stderr")" "mabn-train: 'tell2/model.h5' $note 'data.h5'"
    run --separate-stderr mabn-train --size 16 --augment plain --batch 8 --steps 1 --train numbers.h5 -o tell4 tell3/model.h5
    assert_success
    assert_equal "$(grep "$note" <<<"$stderr")" "mabn-train: 'numbers.h5' $note 'tell3/model.h5'"
}

digits() { sed -E 's/("loss":[0-9]+\.[0-9]{6})[0-9]*/\1/' <<<"$1"; }

@test "--skip-bad leaves out what cannot be read: each image once, and says which" {
    cp -r "$BATS_FILE_TMPDIR/tree" tree
    cp "$ROOT/tests/golden/image/bad/broken-scan.jpg" tree/class001/z1.jpg
    cp "$ROOT/tests/golden/image/bad/broken-scan.jpg" tree/class003/z2.jpg
    mabn-pack imagenet -q tree -o holes.h5
    fails 1 "z1.jpg" mabn-eval imagenet -q model.h5 holes.h5
    for b in 1 4 32; do
        run --separate-stderr mabn-eval imagenet -q --precision fp32 --skip-bad --json -b $b model.h5 holes.h5
        assert_success
        assert_equal "$stderr" "mabn-eval: warning: 2 images of 38 cannot be read and left out: sample 18 'class001/z1.jpg', sample 37 'class003/z2.jpg'"
        figures=${output%,\"folded*}
        run mabn-eval imagenet -q --precision fp32 --json -b $b model.h5 data.h5
        # Batches hold other images together: the loss is the same but for the order of its sum.
        assert_equal "$(digits "$figures")" "$(digits "${output%,\"folded*}")"
        mabn-eval imagenet -q -p --skip-bad -b $b model.h5 holes.h5 2>/dev/null | grep -o '"sample":[0-9]*' >samples
        assert_equal "$(sort -u samples | wc -l)" 36
        assert_equal "$(wc -l <samples)" 36
        refute grep -q ':18$' samples
    done
    run --separate-stderr mabn-train -q --arch cifar-resnet8 --base-width 4 --size 16 --augment plain --batch 4 --epochs 2 --log-every 9 --skip-bad --train holes.h5 -o run
    assert_success
    assert_equal "$stderr" "mabn-train: warning: 2 images of 38 cannot be read and replaced by the next that can: sample 18 'class001/z1.jpg', sample 37 'class003/z2.jpg'"
}

@test "photographs in a folder or a list: what they are, by name, as the dataset has it" {
    cp -r "$BATS_FILE_TMPDIR/tree" tree
    mabn-train -q --arch cifar-resnet8 --base-width 4 --size 16 --augment plain --batch 8 --steps 2 --train data.h5 -o run >/dev/null
    mabn-eval imagenet -q -p run/model.h5 data.h5 >packed
    echo hidden >tree/.hidden
    for b in 1 5 32; do
        mabn-eval imagenet -q -b $b run/model.h5 tree >folder
        find tree -name '*.JPEG' | sort | mabn-eval imagenet -q -b $b run/model.h5 - >piped
        cmp folder piped
    done
    find tree -name '*.JPEG' | sort | sed $'1s/^/\xef\xbb\xbf/; s/$/\tanything\r/' >list
    mabn-eval imagenet -q run/model.h5 list >listed
    cmp folder listed
    assert_equal "$(grep -o '"top":[^]]*]' folder)" "$(grep -o '"top":[^]]*]' packed)"
    run head -n 1 folder
    assert_output --regexp '^\{"file":"tree/class000/image0000.JPEG","top":\[[0-3](,[0-3]){3}\],"class":\["class00[0-3]".*\],"prob":\[[-0-9.e,]+\]\}$'
    assert_equal "$(wc -l <folder)" 36
    echo text >tree/class001/notes.txt
    fails 1 "'tree/class001/notes.txt'" bash -c "mabn-eval imagenet -q run/model.h5 tree >out"
    run --separate-stderr mabn-eval imagenet -q --skip-bad run/model.h5 tree
    assert_equal "$(wc -l <<<"$output")" 36
    assert_equal "$stderr" "mabn-eval: warning: 1 image of 37 cannot be read and left out: sample 18 'tree/class001/notes.txt'"
    if $PYTHON -c 'import PIL' 2>/dev/null; then
        mkdir odd
        $PYTHON -c '
from PIL import Image
i = Image.new("RGB", (30, 20), (200, 10, 10)); exif = Image.Exif(); exif[0x0112] = 6
i.save("odd/b.jpg", exif=exif); i.quantize(4).save("odd/c.gif", save_all=True, append_images=[Image.new("RGB", (30, 20)).quantize(4)])
i.putalpha(99); i.save("odd/d.png"); i.save("odd/a.webp")'
        run --separate-stderr mabn-eval imagenet -q run/model.h5 odd
        assert_equal "$(grep -c file <<<"$output")" 4
        assert_equal "$stderr" "mabn-eval: warning: 1 file holds more than one picture (the first: 'odd/c.gif'): the first of each is read, 1 other is left out
mabn-eval: warning: 2 pictures have an alpha channel or a transparent colour (the first: 'odd/a.webp'), which is ignored: pixels have the colours stored under it
mabn-eval: warning: 1 picture has an EXIF orientation (the first: 'odd/b.jpg'): read as stored, not turned"
    fi
    # a file that is not there is left out too, and a photograph stands for itself
    first=$(sed -n '1s/,"prob.*//p' folder)
    printf '%s\n' tree/class000/image0000.JPEG tree/none.jpg >list
    fails 1 "'tree/none.jpg': cannot open" bash -c "mabn-eval imagenet -q run/model.h5 list >out"
    run --separate-stderr mabn-eval imagenet -q --skip-bad run/model.h5 list
    assert_success
    assert_equal "${output%,\"prob*}" "$first" # figures depend on the batch's size
    assert_equal "$stderr" "mabn-eval: warning: 1 image of 2 cannot be read and left out: sample 1 'tree/none.jpg'"
    run --separate-stderr mabn-eval imagenet -q run/model.h5 tree/class000/image0000.JPEG
    assert_equal "${output%,\"prob*}" "$first"
    fails 1 "standard input is a picture: expected paths" mabn-eval imagenet -q run/model.h5 - <tree/class000/image0000.JPEG
    # data is never replaced
    cp data.h5 own.h5
    fails 2 "'own.h5' is to be written, and named a second time" mabn-eval imagenet --recalibrate own.h5 -f -o own.h5 run/model.h5
    fails 2 "'own.h5' is to be written, and named a second time" mabn-eval imagenet --recalibrate data.h5 -f -o own.h5 run/model.h5 own.h5
    fails 2 "'own.h5' is to be written, and named a second time" mabn-eval coco -f -o own.h5 run/model.h5 own.h5
    cmp data.h5 own.h5
    mkdir empty
    fails 1 "'empty' holds no files" mabn-eval imagenet -q run/model.h5 empty
    fails 1 "lists no images" mabn-eval imagenet -q run/model.h5 - </dev/null
    fails 2 "leave out --json" mabn-eval imagenet -q --json run/model.h5 tree
    # a model that does not know its classes by name gives their numbers
    run mabn-eval imagenet -q model.h5 tree/class000
    refute_output --partial '"class"'
}

@test "--recalibrate finds the statistics that PyTorch finds, and evaluates with them" {
    need_python torch; need_python PIL
    $PYTHON "$ROOT/tests/cli/torch_steps.py" . # for its pictures
    mabn-pack imagenet -q tree -o small.h5
    train() { mabn-train -q --arch cifar-resnet8 --base-width 4 --size 16 --crop none --batch 8 \
        --lr 0.1 --lr-exact --train small.h5 "$@"; }
    for norm in bn brn mabn syncbn; do
        train -o "run-$norm" --norm "$norm" -B 4 --steps 3 >/dev/null
        run --separate-stderr mabn-eval imagenet --recalibrate small.h5 --batch 4 --exact -o "$norm.h5" "run-$norm/model.h5"
        assert_success
        assert_output ""
        # shellcheck disable=SC2154
        [[ $stderr == *"statistics of 9 norms estimated from 16 images of 'small.h5'"* ]]
        mabn-eval imagenet "$norm.h5" small.h5 --precision fp32 -q >want
        mabn-eval imagenet --recalibrate small.h5 --batch 4 --exact --precision fp32 "run-$norm/model.h5" small.h5 -q >got
        cmp want got
        mabn-eval imagenet "run-$norm/model.h5" small.h5 -q >old
        run cmp -s old got
        assert_failure
        mabn-convert -q "run-$norm/model.h5" -o start.pth -f
        mabn-convert -q "$norm.h5" -o new.pth -f
        $PYTHON "$ROOT/tests/cli/torch_recalibrate.py" start.pth new.pth tree 4 16
    done
}

@test "--recalibrate: fewer images, other norms, what cannot be" {
    run --separate-stderr mabn-eval imagenet --recalibrate data.h5 --recalibrate-images 20 -b 6 model.h5 data.h5
    assert_success
    [[ $stderr == *"estimated from 18 images of 'data.h5'"* ]]
    fails 1 "'model.h5': recalibrating takes whole batches of 37 images, there are 36" \
        mabn-eval imagenet -q --recalibrate data.h5 -b 37 model.h5 data.h5
    mabn-init cifar-resnet8 --base-width 4 --classes 4 --height 16 --width 16 --norm gn --groups 2 -o gn.h5 -q
    fails 1 "'gn.h5': the model's norms keep no running statistics" \
        mabn-eval imagenet -q --recalibrate data.h5 gn.h5 data.h5
    mabn-convert -q --fold model.h5 -o folded.onnx
    mabn-convert -q folded.onnx -o folded.h5
    fails 1 "'folded.h5': the model's norms keep no running statistics" \
        mabn-eval imagenet -q --recalibrate data.h5 folded.h5 data.h5
    fails 2 "-o and --recalibrate-images go with --recalibrate" mabn-eval imagenet -o x.h5 model.h5 data.h5
    fails 2 "give DATA, or --recalibrate with -o" mabn-eval imagenet model.h5
    # parts without statistics stay, and a file that is there is not replaced
    mabn-init cifar-resnet8 --base-width 4 --classes 4 --height 16 --width 16 --norm body=mabn,stem=frozen -o part.h5 -q
    run --separate-stderr mabn-eval imagenet --recalibrate data.h5 -b 9 -o x.h5 part.h5
    assert_success
    [[ $stderr == *"statistics of 8 norms"* ]]
    fails 1 "x.h5" mabn-eval imagenet -q --recalibrate data.h5 -b 9 -o x.h5 part.h5
}

@test "--tune: timed once, kept in a file, the same bits from then on" {
    export MABN_TUNE_FILE=$PWD/cache/tune.tsv XDG_CACHE_HOME=$PWD/xdg
    mkdir cache
    : >"$MABN_TUNE_FILE" # as good as none
    logits() { mabn-eval imagenet -q --precision fp32 -b 6 -p --logits "$@" model.h5 data.h5; }
    logits --tune >first
    grep -q "^# mabn tune 1" "$MABN_TUNE_FILE"
    [ "$(grep -c "	inference float32 .* k3 " "$MABN_TUNE_FILE")" -gt 2 ]
    cp "$MABN_TUNE_FILE" before
    logits --tune >again
    cmp first again
    cmp before "$MABN_TUNE_FILE"
    # What the file says is done.
    sed -E 's/	(winograd|blocked|direct)$/	nonsense/' before >"$MABN_TUNE_FILE"
    fails 1 "unknown algorithm 'nonsense': expected winograd, direct" logits --tune
    sed -E 's/	(inference.*k1 .*)	(blocked|direct)$/	\1	winograd/' before >"$MABN_TUNE_FILE"
    fails 1 ": 'winograd' cannot do it" logits --tune
    logits >plain # without the option the file is not looked at
    unset MABN_TUNE_FILE
    logits --tune >/dev/null
    assert_file_exist xdg/mabn/tune.tsv
    echo "no tab" >>xdg/mabn/tune.tsv
    fails 1 "tune.tsv', line" logits --tune
}
