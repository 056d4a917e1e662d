#!/usr/bin/env bats
load helpers

@test "a small network: written, and the same again for the same seed" {
    run --separate-stderr mabn-init cifar-resnet8 -o a.h5
    assert_success
    assert_output ""
    mabn-init cifar-resnet8 -o b.h5
    OMP_NUM_THREADS=1 mabn-init cifar-resnet8 -o c.h5
    mabn-init cifar-resnet8 --seed 2 -o d.h5
    for f in a b c d; do
        h5dump -d /model/layer3.0.conv2.weight $f.h5 | tail -n +2 >$f.txt
    done
    cmp a.txt b.txt
    cmp a.txt c.txt
    ! cmp -s a.txt d.txt
}

@test "--list is a table on stdout, shapes as in files" {
    run --separate-stderr mabn-init resnet18 --norm bn --classes 7 --list -q
    assert_success
    assert_line --index 0 "$(printf 'name\tkind\ttype\tshape')"
    assert_line "$(printf 'conv1.weight\tparameter\tfloat32\t(64,3,7,7)')"
    assert_line "$(printf 'layer2.0.downsample.0.weight\tparameter\tfloat32\t(128,64,1,1)')"
    assert_line "$(printf 'bn1.num_batches_tracked\tstate\tint64\t()')"
    assert_line "$(printf 'fc.weight\tparameter\tfloat32\t(7,512)')"
}

@test "weights have the reference's distributions" {
    need_python h5py
    mabn-init resnet18 --norm mabn -o out.h5
    mabn-init resnet18 --norm mabn --init fan-in -o in.h5
    $PYTHON - <<'PY'
import h5py
w = h5py.File("out.h5")["model/layer4.1.conv2.weight"][()]
assert abs(w.std() / (2 / (512 * 9)) ** 0.5 - 1) < 0.01 and abs(w.mean()) < 1e-4
w = h5py.File("in.h5")["model/layer4.1.conv2.weight"][()]
limit = (3 / (512 * 9)) ** 0.5
assert 0.99 * limit < abs(w).max() <= limit and abs(w.std() / (limit / 3 ** 0.5) - 1) < 0.01
f = h5py.File("out.h5")["model/fc.weight"][()]
assert 0.99 < abs(f).max() * 512 ** 0.5 <= 1
assert (h5py.File("out.h5")["model/bn1.weight"][()] == 1).all()
PY
}

@test "norms part by part" {
    run mabn-init resnet18 --norm body=gn,layer4=bn --list -q
    assert_success
    refute_line --partial layer3.0.bn1.running_var
    assert_line --partial layer4.0.bn1.running_var
}

@test "syncbn weighs all elements alike unless it is told to weigh the ranks" {
    for options in "" --sync-weighted --no-sync-weighted; do
        # shellcheck disable=SC2086
        mabn-init cifar-resnet8 --norm syncbn $options -q -f -o s.h5
        mabn-info s.h5 >"info$options"
    done
    grep -q '"sync_reference":false' info
    grep -q '"sync_reference":false' info--sync-weighted
    grep -q '"sync_reference":true' info--no-sync-weighted
}

@test "options of the other kind of network are refused" {
    fails 2 "--channels is for classifiers" mabn-init mask-rcnn-r18-fpn --channels 1 -o d.h5
    fails 2 "--input is for classifiers" mabn-init mask-rcnn-r18-fpn --input plain -o d.h5
    fails 2 "--frozen is for detectors" mabn-init cifar-resnet8 --frozen 2 -o c.h5
    fails 2 "--box-samples is for detectors" mabn-init cifar-resnet8 --box-samples 8 -o c.h5
    [ ! -e d.h5 ] && [ ! -e c.h5 ]
}

@test "what is refused" {
    fails 1 "unknown architecture 'vgg16': expected resnet10, resnet18" mabn-init vgg16 -o x.h5
    fails 1 "unknown part 'head': expected body, stem" mabn-init resnet18 --norm head=bn -o x.h5
    fails 1 "bn5" mabn-init resnet18 --norm bn5 -o x.h5
    fails 2 "give -o FILE, or --list" mabn-init resnet18
    fails 2 "1 or 3, not 2" mabn-init resnet18 --channels 2 -o x.h5
    fails 1 "/no/such/folder" mabn-init cifar-resnet8 -o /no/such/folder/x.h5
    mabn-init cifar-resnet8 -o x.h5
    fails 1 "x.h5" mabn-init cifar-resnet8 -o x.h5
    mabn-init cifar-resnet8 -f -o x.h5
    fails 1 "cannot write standard output: No space left on device" bash -c 'mabn-init -q cifar-resnet8 --list > /dev/full'
}
