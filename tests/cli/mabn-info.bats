#!/usr/bin/env bats
load helpers

setup_more() {
    "$ROOT/tests/make-images" tree
    mabn-pack imagenet -q tree -o a.h5
}

@test "a dataset, for people" {
    run --separate-stderr mabn-info a.h5
    assert_success
    assert_line --index 0 --regexp '^a\.h5: dataset, 0\.[0-9] MB$'
    assert_line "  images        24: 6 JPEG, 18 PNG; 766 bytes each"
    assert_line "  classes       3, 8 images each"
    assert_line "                class000, class001, class002"
    assert_line "  command       mabn-pack imagenet tree"
    run mabn-info --list --verify a.h5
    assert_line "  checked       all 24 images and 11 arrays are whole"
    assert_line --regexp '^  uint64    \(24\) +/images/checksum$'
}

@test "a dataset, as JSON" {
    need_python
    mabn-info --json --verify a.h5 a.h5 >out
    [ "$(wc -l <out)" -eq 2 ]
    run $PYTHON - <<'E2'
import h5py, json
f = h5py.File("a.h5")
for line in open("out"):
    d = json.loads(line)
    assert d["format"] == "mabn-dataset" and d["images"] == 24 and d["verified"] is True
    assert d["images_per_class"] == [8, 8, 8] and d["jpeg"] == 6 and d["png"] == 18
    assert d["attributes"]["command"] == "mabn-pack imagenet tree"
    for a in d["arrays"]:
        h = f[a["name"]]
        assert list(h.shape) == a["shape"] and h.id.get_offset() == a["offset"]
        assert h.id.get_storage_size() == a["bytes"]
E2
    assert_success
}

@test "every kind of damage is noticed, in one line that names the file" {
    size=$(stat -c %s a.h5)
    for at in 5 600 $((size / 2)) $((size - 2000)) $((size - 100)) $((size - 40)) $((size - 1)); do
        cp a.h5 b.h5
        printf '\125\252' | dd of=b.h5 bs=1 seek="$at" conv=notrunc status=none
        fails 1 "'b.h5'" mabn-info --verify b.h5
    done
    for n in 0 10 1000 $((size / 2)) $((size - 1)); do
        head -c "$n" a.h5 >b.h5
        run --separate-stderr mabn-info b.h5
        assert_equal "$status" 1
        # shellcheck disable=SC2154
        [[ $stderr == *"'b.h5'"* ]]
    done
    (cat a.h5; echo) >b.h5
    fails 1 "'b.h5'" mabn-info b.h5
    fails 1 "truncated: at least" bash -c 'head -c 34000 a.h5 >b.h5; exec mabn-info b.h5'
}

@test "other files, missing files, a full disk" {
    fails 1 "cannot open 'none.h5'" mabn-info none.h5
    fails 1 "folder" mabn-info tree
    echo hello >text
    fails 1 "'text'" mabn-info text
    : >empty
    fails 1 "'empty'" mabn-info empty
    run bash -c 'mabn-info a.h5 >/dev/full'
    assert_equal "$status" 1
}

@test "text from a file cannot reach the terminal" {
    mv tree/class000 $'tree/\033[31mred'
    mabn-pack imagenet -q tree -o b.h5
    run mabn-info b.h5
    assert_success
    refute_output --partial $'\033'
}
