#!/usr/bin/env bats
# A finished file survives a crash of the machine: its bytes are synced before it gets its name, and
# the name (the folder) after it, before the tool says that it is done. No crash is needed to see
# whether that is so: durable_shim.c writes the calls down.
load helpers

setup_file() {
    cc -shared -fPIC -O1 -o "$BATS_FILE_TMPDIR/shim.so" "$BATS_TEST_DIRNAME/durable_shim.c" -ldl
}
setup_more() {
    ! ldd "$MABN_BIN/mabn-init" | grep -q asan || skip "sanitizers want to be loaded first"
    "$ROOT/tests/make-images" tree 2 8 6
    export DURABLE_LOG=$T/calls
}

# durable FILE COMMAND...: runs it; FILE must be a name that was given as it should
durable() {
    local file want=$PWD/$1; shift
    rm -f "$DURABLE_LOG"
    LD_PRELOAD=$BATS_FILE_TMPDIR/shim.so "$@" >/dev/null
    file=$(awk -v to="$want" '$1 == "rename" && $3 == to { print $2 }' "$DURABLE_LOG" | tail -n 1)
    [ -n "$file" ] || { echo "'$want' got its name by no rename"; cat "$DURABLE_LOG"; return 1; }
    awk -v from="$file" -v to="$want" -v folder="$(dirname "$want")" '
        $1 == "write" && $2 == from { written = 1; synced = 0 }
        $1 == "write" && $2 == to && named { late = 1 }
        $1 == "sync" && $2 == from { synced = 1 }
        $1 == "rename" && $3 == to { named = 1; before = synced; after = 0 }
        $1 == "sync" && $2 == folder && named { after = 1 }
        END {
            if (!written) print to ": nothing was seen to be written"
            if (!before) print to ": renamed before its bytes were synced"
            if (!after) print to ": the folder was not synced after the rename"
            if (late) print to ": written to after the rename"
            exit !(written && before && after && !late)
        }' "$DURABLE_LOG"
}

@test "datasets" {
    durable set.h5 mabn-pack imagenet -q tree -o set.h5
    printf 'tree/class000/image0000.JPEG\t0\n' >list
    durable list.h5 mabn-pack list -q list -o list.h5
    printf '\0\0\10\3\0\0\0\3\0\0\0\2\0\0\0\2abcdefghijkl' >images.idx
    printf '\0\0\10\1\0\0\0\3\2\0\2' >labels.idx
    durable idx.h5 mabn-pack idx -q images.idx labels.idx -o idx.h5
    echo '{"images":[{"id":1,"file_name":"image0001.JPEG","width":7,"height":10}],"annotations":[],"categories":[{"id":1,"name":"a"}]}' >truth.json
    durable coco.h5 mabn-pack coco -q tree/class000 truth.json -o coco.h5
}

@test "checkpoints in every format" {
    durable net.h5 mabn-init -q cifar-resnet8 --base-width 4 --classes 2 -o net.h5
    for e in h5 pth safetensors onnx; do
        durable "out.$e" mabn-convert -q net.h5 -o "out.$e"
    done
    durable net.h5 mabn-init -q -f cifar-resnet8 --base-width 4 --classes 2 -o net.h5
}

@test "what training saves" {
    mabn-pack imagenet -q tree -o set.h5
    train=(mabn-train -q --arch cifar-resnet8 --base-width 4 --size 16 --augment plain --batch 4
        --steps 2 --save-every 1 --train set.h5)
    for file in step-000000001.h5 step-000000002.h5 model.h5; do
        rm -rf run
        durable run/$file "${train[@]}" -o run
    done
}

@test "checkpoints are written behind the training, and what fails there ends it" {
    mabn-pack imagenet -q tree -o set.h5
    train=(mabn-train -q --arch cifar-resnet8 --base-width 4 --size 16 --augment plain --batch 4 --train set.h5)
    LD_PRELOAD=$BATS_FILE_TMPDIR/shim.so "${train[@]}" --steps 3 --save-every 2 -o run >/dev/null
    grep -q '^sync .*/step-000000002.h5.* behind$' "$DURABLE_LOG"
    LD_PRELOAD=$BATS_FILE_TMPDIR/shim.so DURABLE_FAIL=step- run -1 --separate-stderr \
        "${train[@]}" --steps 1000000 --save-every 2 -o failed
    assert_equal "$stderr" "mabn-train: cannot write 'failed/step-000000002.h5': Input/output error"
    run ! ls failed/step-000000002.h5
}

@test "pictures" {
    echo '{"t":"step","step":1,"epoch":1,"loss":1,"top1":1,"top5":1,"lr":1}' >run.jsonl
    echo '{"t":"step","step":2,"epoch":2,"loss":1,"top1":1,"top5":1,"lr":1}' >>run.jsonl
    durable curves.svg mabn-plot curves -q run.jsonl -o curves.svg
    durable curves.png mabn-plot curves -q run.jsonl -o curves.png
    echo '{"images":[{"id":1,"file_name":"image0001.JPEG","width":7,"height":10}],"annotations":[{"id":1,"image_id":1,"category_id":1,"bbox":[1,1,3,3],"area":9,"iscrowd":0}],"categories":[{"id":1,"name":"a"}]}' >truth.json
    durable sheet.png mabn-draw -q tree/class000 truth.json -o sheet.png
}
