#!/usr/bin/env bats
# Standard input, output or error may be closed when a tool starts (a daemon's child, cron).
load helpers

# A dataset and a checkpoint, and a file that h5py has changed: HDF5 itself reads that one.
setup_more() {
    "$ROOT/tests/make-images" tree 2 6
    mabn-pack imagenet -q tree -o set.h5
    mabn-init -q cifar-resnet8 --base-width 4 --classes 2 -o net.h5
    if $PYTHON -c "import h5py" 2>/dev/null; then
        cp set.h5 touched.h5
        $PYTHON -c 'import h5py; h5py.File("touched.h5", "a").attrs["remark"] = "mine"'
    else
        ln -s set.h5 touched.h5
    fi
}

@test "with standard input closed every tool does what it does with it open" {
    mabn-pack imagenet -q tree -o b.h5 <&-
    cmp set.h5 b.h5
    mabn-init -q cifar-resnet8 --base-width 4 --classes 2 -o net2.h5 <&-
    mabn-convert --check net.h5 net2.h5 <&-
    for e in h5 pth safetensors onnx; do mabn-convert -q net.h5 -o "c.$e" <&-; done
    for f in set.h5 touched.h5 net.h5 c.pth; do
        mabn-info "$f" >open
        mabn-info "$f" >closed <&-
        cmp open closed
    done
    mabn-eval imagenet -q --device cpu net.h5 set.h5 >open
    mabn-eval imagenet -q --device cpu net.h5 set.h5 >closed <&-
    cmp open closed
}

@test "with standard error closed too, and nothing of the messages lands in a file" {
    mabn-pack imagenet tree -o b.h5 2>&-
    cmp set.h5 b.h5
    mabn-pack imagenet tree -o c.h5 <&- >&- 2>&-
    cmp set.h5 c.h5
    mabn-info touched.h5 >closed 2>&-
    mabn-info touched.h5 >open
    cmp open closed
}

@test "a result that cannot be written is a failure" {
    fails 1 "cannot write standard output" bash -c "mabn-info set.h5 >&-"
    fails 1 "cannot write standard output" bash -c "mabn-info touched.h5 >&-"
    fails 1 "cannot write standard output" bash -c "mabn-convert --list net.h5 >&-"
    fails 1 "cannot write standard output" bash -c "mabn-eval imagenet -q --device cpu net.h5 set.h5 >&-"
    fails 1 "cannot write standard output" bash -c "mabn-pack --help >&-"
}

@test "what is to be read from a closed standard input is named" {
    fails 1 "standard input" bash -c "mabn-pack list - -o d.h5 <&-"
    assert_file_not_exist d.h5
}
