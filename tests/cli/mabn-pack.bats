#!/usr/bin/env bats
load helpers

tree() { "$ROOT/tests/make-images" "${1:-tree}" "${@:2}"; }

# idx IMAGES.idx LABELS.idx: three 2x2 images, two labels used
idx() {
    printf '\0\0\10\3\0\0\0\3\0\0\0\2\0\0\0\2abcdefghijkl' >images.idx
    printf '\0\0\10\1\0\0\0\3\2\0\2' >labels.idx
}

@test "a class tree: every byte, label, name and size is there" {
    need_python
    tree
    run --separate-stderr mabn-pack imagenet tree -o a.h5
    assert_success
    assert_output ""
    # shellcheck disable=SC2154
    [[ $stderr == "mabn-pack: packed 24 images of 3 classes into 'a.h5'"* ]]
    run $PYTHON - <<'E2'
import glob, h5py, os, struct
f = h5py.File("a.h5")
files = sorted(glob.glob("tree/*/*"))
b, o, l = f["images/bytes"][:], f["images/offset"][:], f["images/length"][:]
assert len(files) == f.attrs["count"] == len(o) == 24
for i, p in enumerate(files):
    data = open(p, "rb").read()
    assert b[o[i]:o[i] + l[i]].tobytes() == data, p
    assert "tree/" + f["images/name"][i].decode() == p
    w, h = struct.unpack(">II", data[16:24]) if data[1:4] == b"PNG" else (24, 16)
    assert (f["images/width"][i], f["images/height"][i]) == (w, h)
    assert f["images/format"][i] == (2 if data[1:4] == b"PNG" else 1)
    assert f["labels"][i] == int(p[10:13])
assert f["classes"][:].tolist() == [b"class000", b"class001", b"class002"]
assert f.attrs["command"] == b"mabn-pack imagenet tree"
E2
    assert_success
    run h5dump -H a.h5
    assert_success
    assert_output --partial 'DATASET "checksum"'
}

@test "the same bytes for any number of threads, output name and time" {
    tree tree 3 60
    mabn-pack imagenet -q tree -j1 -o a.h5
    sleep 1
    mabn-pack imagenet -q tree -j2 -o b.h5
    mabn-pack imagenet -q -v tree -j8 -o c.h5
    cmp a.h5 b.h5
    cmp a.h5 c.h5
}

@test "class files fix and name the classes" {
    need_python
    tree
    printf 'class002\tlast\nunused\nclass000\nclass001\n' >classes
    mabn-pack imagenet -q tree -c classes -o a.h5
    run $PYTHON -c 'import h5py; f = h5py.File("a.h5"); print(f["classes"][:].tolist(), f["labels"][0], f["labels"][-1], f["images/name"][0])'
    assert_output "[b'last', b'unused', b'class000', b'class001'] 0 3 b'class002/image0000.JPEG'"
    echo class000 >few
    fails 1 "folder 'tree/class001' is not in the class file" mabn-pack imagenet tree -c few -o b.h5
    printf 'a\nb\na\n' >twice
    fails 1 "class 'a' appears twice" mabn-pack imagenet tree -c twice -o b.h5
    : >empty
    fails 1 "names no classes" mabn-pack imagenet tree -c empty -o b.h5
    assert_file_not_exist b.h5
}

@test "lists: numbers, names, standard input, tabs in paths" {
    need_python
    tree
    mv tree/class000/image0000.JPEG $'tree/with\ttab'
    printf '%s\t%s\n' tree/class001/image0003.JPEG 7 $'tree/with\ttab' 0 |
        mabn-pack list - -q -o a.h5
    run $PYTHON -c 'import h5py; f = h5py.File("a.h5"); print(f["labels"][:].tolist(), f.attrs["classes"], f["images/name"][1], "classes" in f)'
    assert_output "[7, 0] 8 b'tree/with\ttab' False"
    printf '%s\t%s\n' tree/class001/image0003.JPEG zebra tree/class001/image0001.JPEG ant >list
    mabn-pack list list -q -o b.h5
    run $PYTHON -c 'import h5py; f = h5py.File("b.h5"); print(f["labels"][:].tolist(), f["classes"][:].tolist())'
    assert_output "[1, 0] [b'ant', b'zebra']"
    printf 'zebra\nbee\nant\n' >classes
    mabn-pack list list -q -c classes -o c.h5
    run $PYTHON -c 'import h5py; f = h5py.File("c.h5"); print(f["labels"][:].tolist(), f["classes"][:].tolist())'
    assert_output "[0, 2] [b'zebra', b'bee', b'ant']"
    echo 'no tab here' >bad
    fails 1 "'bad':1: expected PATH, a tab and a label" mabn-pack list bad -o d.h5
    printf 'tree/class001/image0003.JPEG\t3\n' >high
    fails 1 "'high':1: label '3' is not in the class file" mabn-pack list high -c classes -o d.h5
    printf '%s\t%s\n' tree/class001/image0003.JPEG 7 tree/class001/image0001.JPEG ant >mixed
    fails 1 "'mixed':2: label 'ant' is not a number" mabn-pack list mixed -o d.h5
    fails 1 "lists no images" mabn-pack list /dev/null -o d.h5
    printf '%s\t%s\n' tree/class001/image0003.JPEG -1 tree/class001/image0001.JPEG 0 >negative
    fails 1 "'negative':1: label '-1' is negative: leave out images without a class" mabn-pack list negative -o d.h5
    printf '%s\t0\n' tree/class001/image000{3,1,3,3}.JPEG >again
    run --separate-stderr mabn-pack list -q again -o e.h5
    assert_success
    assert_equal "$stderr" "mabn-pack: warning: 'again': 2 lines have an image that is listed before (the first: line 3, 'tree/class001/image0003.JPEG'): it counts as often as it is listed"
}

@test "lists: labels that are not what they look like" {
    tree
    a=tree/class001/image0001.JPEG b=tree/class001/image0003.JPEG
    # spaces around a label are no part of it
    printf '%s\t%s\n' $a 'cat ' $b ' cat' >list
    run --separate-stderr mabn-pack list list -o a.h5
    assert_equal "$(grep -c "2 images of 1 classes" <<<"$stderr")" 1
    printf '%s\t%s\n' $a ' 1' $b '0 ' >list
    mabn-pack list -f -q list -o a.h5
    mabn-info a.h5 | grep -q "classes       2, 1 images each"
    printf '%s\t  \n' $a >list
    fails 1 "'list':1: expected PATH, a tab and a label" mabn-pack list list -o b.h5
    # nor of a class file's, and empty lines at the end are none
    printf 'cat \ndog\n\n\r\n' >classes
    printf '%s\t%s\n' $a 'cat ' $b dog >list
    printf '\n\n' >>list
    mabn-pack list -f -q list -c classes -o a.h5
    printf '%s\t%s\n' $a cat $b dog >list
    mabn-pack list -q list -c classes -o same.h5
    cmp a.h5 same.h5
    printf 'cat\n\ndog\n' >classes
    fails 1 "'classes':2: empty class name" mabn-pack list list -c classes -o b.h5
    # one file by two paths
    printf '%s\t%s\n' $a 0 ./$a 1 $b 0 .//${b/\//\/.\/} 0 >list
    run --separate-stderr mabn-pack list -f -q list -o a.h5
    assert_success
    [[ $stderr == *"'list': 2 lines have an image that is listed before (the first: line 2, './$a')"* ]]
    # a word that is a name here and a number there
    printf '1\n2\n3\n' >classes
    printf '%s\t%s\n' $a 0 $b 1 >list
    fails 1 "'list':2: label '1' is a name in the class file, label '0' (line 1) only a number" mabn-pack list list -c classes -o b.h5
    printf 'zebra\n1\nant\n' >classes
    mabn-pack list -q list -c classes -o b.h5 # 1 by either rule
    # numbers of other kinds, and from 1 on
    printf '%s\t%s\n' $a 0.0 $b 10.0 >list
    run --separate-stderr mabn-pack list -q list -o c.h5
    assert_equal "$stderr" "mabn-pack: warning: 'list': labels such as '0.0' are taken as names, numbered in byte order: numbers are whole and without a sign"
    printf '%s\t%s\n' $a 1 $b 2 >list
    run --separate-stderr mabn-pack list -q list -o d.h5
    assert_equal "$stderr" "mabn-pack: warning: 'list': labels begin at 1: class 0, the first of 3, has no image"
    printf '%s\t%s\n' $a 0 $b 5 >list
    run --separate-stderr mabn-pack list list -o e.h5
    [[ $stderr == *"'list': 4 of 6 classes have no image (the first: 1)"* ]]
    printf '%s\t0\0\n' $a >list
    fails 1 "'list' holds a zero byte" mabn-pack list list -o f.h5
    printf 'class001\0\n' >classes
    fails 1 "'classes' holds a zero byte" mabn-pack imagenet tree -c classes -o f.h5
}

@test "hidden files and nested folders are told" {
    tree
    mkdir tree/.git
    cp tree/class001/image0001.JPEG tree/class001/.b.jpg
    cp tree/class001/image0001.JPEG tree/class001/.a.jpg
    run --separate-stderr mabn-pack imagenet tree -o a.h5
    [[ $stderr == *"'tree': 3 hidden files or folders are passed over (the first: '.git')"*"packed 24 images"* ]]
    run --separate-stderr mabn-pack imagenet -q -f tree -o a.h5
    assert_equal "$stderr" ""
    rm -r tree/.git tree/class001/.*.jpg
    mkdir tree/class000/more
    cp tree/class001/image0001.JPEG tree/class000/more
    run --separate-stderr mabn-pack imagenet -f tree -o a.h5
    [[ $stderr == *"'tree': 1 of 25 images lie in folders below their class's"* && $stderr != *hidden* ]]
    mkdir above
    mv tree above/train
    run --separate-stderr mabn-pack imagenet -q above -o b.h5
    [[ $stderr == *"warning: 'above': every image lies in a folder below its class's (such as 'train/class000/image0000.JPEG'): are the class folders one level further down?"* ]]
}

@test "idx files, plain and compressed" {
    need_python
    idx
    mabn-pack idx images.idx labels.idx -q -o a.h5
    gzip -k images.idx labels.idx
    mabn-pack idx images.idx.gz labels.idx.gz -q -o b.h5
    run $PYTHON -c 'import h5py
for n in "ab":
    f = h5py.File(n + ".h5"); a = f.attrs
    print(f["images/bytes"][:].tobytes(), f["labels"][:].tolist(), a["encoding"], a["height"], a["width"], a["channels"], a["classes"])'
    assert_line --index 0 "b'abcdefghijkl' [2, 0, 2] b'raw' 2 2 1 3"
    assert_line --index 1 "b'abcdefghijkl' [2, 0, 2] b'raw' 2 2 1 3"
    # labels from 1 on, as EMNIST's letters have
    printf '\0\0\10\1\0\0\0\3\2\1\2' >ones.idx
    run --separate-stderr mabn-pack idx images.idx ones.idx -q -o c.h5
    assert_equal "$stderr" "mabn-pack: warning: 'c.h5': labels begin at 1: class 0, the first of 3, has no image"
    printf 'a\nb\n' >names
    fails 1 "label 2 (image 0) is not in the class file, which names 2: labels count from 0" mabn-pack idx -f -c names images.idx ones.idx -o c.h5
    mabn-info c.h5 >/dev/null # the old one
    fails 1 "label 2 (image 0)" mabn-pack idx -c names images.idx ones.idx -o d.h5
    assert_file_not_exist d.h5
}

@test "bad idx files: one line each" {
    idx
    fails 1 "are the two files in the right order" mabn-pack idx labels.idx images.idx -o a.h5
    head -c 25 images.idx >cut.idx
    fails 1 "'cut.idx' is truncated" mabn-pack idx cut.idx labels.idx -o a.h5
    gzip -c images.idx | head -c 30 >cut.gz
    fails 1 "'cut.gz' is truncated" mabn-pack idx cut.gz labels.idx -o a.h5
    gzip -c images.idx >flip.gz
    printf 'x' | dd of=flip.gz bs=1 seek=25 conv=notrunc status=none
    fails 1 "'flip.gz'" mabn-pack idx flip.gz labels.idx -o a.h5
    (cat images.idx; echo more) >long.idx
    fails 1 "bytes left over" mabn-pack idx long.idx labels.idx -o a.h5
    printf '\0\0\10\3\377\377\377\377\377\377\377\377\0\0\0\1' >bomb.idx
    fails 1 "'bomb.idx'" mabn-pack idx bomb.idx labels.idx -o a.h5
    printf '\0\0\15\1\0\0\0\1\0\0\0\0' >float.idx
    fails 1 "elements of type 0x0d" mabn-pack idx images.idx float.idx -o a.h5
    printf '\0\0\10\1\0\0\0\2\1\1' >two.idx
    fails 1 "there are 3 images but 2 labels" mabn-pack idx images.idx two.idx -o a.h5
    assert_file_not_exist a.h5
}

@test "--resize shrinks large images and leaves small ones as they are" {
    need_python
    tree tree 2 8 40
    mabn-pack imagenet -q tree --resize 32 -o a.h5
    run $PYTHON - <<'E2'
import glob, h5py, struct
f = h5py.File("a.h5")
for i, p in enumerate(sorted(glob.glob("tree/*/*"))):
    data = open(p, "rb").read()
    stored = f["images/bytes"][int(f["images/offset"][i]):][:f["images/length"][i]].tobytes()
    size = (f["images/width"][i], f["images/height"][i])
    if data[1:4] == b"PNG":
        w, h = struct.unpack(">II", data[16:24])
        assert min(size) == 32 and max(size) == 32 * max(w, h) // min(w, h), (size, w, h)
        assert stored[:2] == b"\xff\xd8" and f["images/format"][i] == 1
    else:
        assert stored == data and size == (24, 16)
E2
    assert_success
}

@test "bad images: one line and the work is kept, or --skip-bad" {
    tree tree 3 100
    echo 'not an image' >tree/class001/image0050.JPEG
    : >tree/class001/image0051.JPEG
    ln -s nowhere tree/class002/broken.JPEG
    fails 1 "'tree/class001/image0050.JPEG'" mabn-pack imagenet tree -j2 -o a.h5
    assert_file_not_exist a.h5
    assert_file_exist a.h5.partial
    run --separate-stderr mabn-pack imagenet tree -j2 --skip-bad -o b.h5
    assert_success
    [ "$(grep -c 'warning: skipped' <<<"$stderr")" -eq 3 ]
    [[ $stderr == *"packed 298 images"* ]]
    mabn-pack imagenet -q tree -j1 --skip-bad -o c.h5 2>/dev/null
    cmp b.h5 c.h5
    # mended: the same command goes on, with the same result as without the accident
    cp tree/class000/image0000.JPEG tree/class001/image0050.JPEG
    cp tree/class000/image0000.JPEG tree/class001/image0051.JPEG
    rm tree/class002/broken.JPEG
    run --separate-stderr mabn-pack imagenet tree -j2 -o a.h5
    assert_success
    mabn-pack imagenet -q tree -o d.h5
    cmp a.h5 d.h5
}

@test "damage between header and end is found by --verify" {
    tree
    png=tree/class000/image0000.JPEG # a PNG, as in ImageNet: its pixels are no longer what they were
    printf 'xxxx' | dd of=$png bs=1 seek=60 conv=notrunc status=none
    mabn-pack imagenet -q tree -o a.h5
    fails 1 "'$png'" mabn-pack imagenet tree --verify -o b.h5
}

@test "a picture that its header or its end show to be bad is refused without --verify" {
    tree
    bad=$ROOT/tests/golden/image/bad good=$ROOT/tests/golden/image/good
    while read -r file why; do
        printf '%s\t0\n' "$bad/$file" >list
        fails 1 "$file': $why" mabn-pack list list -q -f -o a.h5
    done <<<"cut-half.jpg JPEG is truncated: its end is missing
cut-end.jpg JPEG is truncated: its end is missing
cut-progressive.jpg JPEG is truncated: its end is missing
cut-half.png PNG is truncated: its end is missing
huge.png the picture is 60000 x 60000, more than the limit
hollow.jpg JPEG is truncated: 1797 bytes cannot hold a picture of 9000 x 9000
hollow.png PNG is truncated: 69 bytes cannot hold a picture of 9000 x 9000
arithmetic.jpg JPEG is arithmetic-coded"
    $PYTHON - <<'END'
import struct, zlib
def chunk(kind, data, more=0):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ more)
def write(name, bits=8, colour=2, more=0, chunks=(b"IDAT", b"IEND"), side=4):
    open(name, "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, 4, bits, colour, 0, 0, 0), more)
        + b"".join(chunk(k, zlib.compress(bytes(200)) if k == b"IDAT" else bytes(3)) for k in chunks))
write("depth.png", 3)
write("two.png", 2)
write("sum.png", more=1)
write("hollow.png", chunks=[b"IEND"])
write("colours.png", colour=3)
write("late.png", colour=3, chunks=[b"IDAT", b"PLTE", b"IEND"])
write("wide.png", side=2**31 - 1)
write("fine.png", 4, 3, chunks=[b"PLTE", b"IDAT", b"IEND"])
END
    while read -r file why; do
        printf '%s\t0\n' "$file" >list
        fails 1 "$file': $why" mabn-pack list list -q -f -o a.h5
    done <<<"depth.png PNG: 3 bits for colour type 2 do not exist
two.png PNG: 2 bits for colour type 2 do not exist
sum.png PNG is damaged: its header has another checksum
hollow.png PNG without pixels
colours.png PNG without a palette
late.png PNG without a palette
wide.png the picture is 2147483647 x 4, more than the limit of 536870911 pixels a side"
    printf 'fine.png\t0\n' >list
    mabn-pack list list -q -f -o a.h5
    printf 'II*\0 and so on' >photo.jpg
    printf 'photo.jpg\t0\n' >list
    fails 1 "'photo.jpg': this is a TIFF picture" mabn-pack list list -q -f -o a.h5
    printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n' >photo.jpg
    fails 1 "'photo.jpg': this is a pointer of Git LFS (git lfs pull gets the file)" mabn-pack list list -q -f -o a.h5
    printf '\0\5\x16\7\0\2\0\0Mac OS X        ' >photo.jpg
    fails 1 "'photo.jpg': this is what macOS keeps beside a file" mabn-pack list list -q -f -o a.h5
    printf '%s\t0\n' "$good/garbage-after.jpg" "$bad/cut-half.jpg" "$bad/huge.png" >list
    run --separate-stderr mabn-pack list list -q --skip-bad -f -o b.h5
    assert_success
    assert_equal "$(grep -c 'warning: skipped' <<<"$stderr")" 2
    run mabn-info b.h5
    assert_line --regexp ' 1 '
}

@test "an image that changed since the work was cut off is packed again" {
    tree tree 3 200
    echo bad >tree/class002/image0199.JPEG
    fails 1 "image0199" mabn-pack imagenet tree -j1 -o a.h5
    cp tree/class000/image0001.JPEG tree/class000/image0002.JPEG
    cp tree/class000/image0001.JPEG tree/class002/image0199.JPEG
    mabn-pack imagenet -q tree -o a.h5
    mabn-pack imagenet -q tree -o b.h5
    cmp a.h5 b.h5
}

@test "the output is whole or not there" {
    tree
    fails 1 "No such file or directory" mabn-pack imagenet tree -o nowhere/a.h5
    fails 1 "is a folder" mabn-pack imagenet tree -o tree
    fails 1 "not a regular file" mabn-pack imagenet tree -f -o /dev/full
    echo old >a.h5
    fails 1 "'a.h5' exists" mabn-pack imagenet tree -o a.h5
    [ "$(cat a.h5)" = old ]
    mabn-pack imagenet -q tree -f -o a.h5
    [ "$(head -c 4 a.h5 | tail -c 3)" = HDF ]
    if [ "$(id -u)" -ne 0 ]; then
        mkdir closed && chmod 555 closed
        fails 1 "Permission denied" mabn-pack imagenet tree -o closed/a.h5
    fi
}

@test "a file-size limit ends in one line, and leaves nothing" {
    tree tree 3 60 40
    fails 1 "File too large" bash -c "trap '' XFSZ; ulimit -f 300; exec mabn-pack imagenet tree -o a.h5"
    run bash -c 'ls a.h5*'
    assert_failure
}

@test "a full disk ends in one line, and leaves nothing" {
    mkdir small
    mkdir probe && unshare -rm mount -t tmpfs none probe 2>/dev/null || skip "cannot mount here"
    tree tree 3 60 60
    fails 1 "No space left" unshare -rm bash -c \
        'mount -t tmpfs -o size=300k none small && mabn-pack imagenet tree -o small/a.h5; s=$?; ls small >left; exit $s'
    [ ! -s left ]
}

@test "a signal stops with 75, and the same command goes on" {
    tree tree 3 400 40
    mabn-pack imagenet -q tree --resize 32 -o a.h5
    for ((try = 0; try < 20; try++)); do # it may be done before the signal comes
        rm -f b.h5
        mabn-pack imagenet tree --resize 32 -j1 -o b.h5 2>log &
        pid=$!
        until [ "$(stat -c %s b.h5.journal 2>/dev/null || echo 0)" -gt 72 ] || [ -e b.h5 ]; do
            sleep 0.01
        done
        kill -TERM $pid
        ended $pid
        [ "$status" -eq 0 ] || break
    done
    assert_equal "$status" 75
    grep -q "stopped by SIGTERM" log
    assert_file_not_exist b.h5
    run --separate-stderr mabn-pack imagenet tree --resize 32 -o b.h5
    assert_success
    [[ $stderr == *"continuing after"* ]]
    cmp a.h5 b.h5
}

@test "kill -9, five times: nothing is lost" {
    run "$ROOT/tests/kill/pack.sh" "$MABN_BIN" 3
    assert_success
    assert_output --partial " 0 lost or different"
}

@test "an input is never replaced" {
    tree
    printf 'tree/class001/image0003.JPEG\t0\n' >list
    echo a >classes
    ln list same
    for output in list same classes; do
        fails 2 "'$output' is to be written, and named a second time" mabn-pack list list -c classes -f -o $output
    done
    idx
    fails 2 "'labels.idx' is to be written" mabn-pack idx images.idx labels.idx -f -o labels.idx
    assert_equal "$(wc -c <labels.idx)" 11
}

@test "misuse" {
    tree
    fails 2 "no output" mabn-pack imagenet tree
    run mabn-pack imagenet -o a.h5
    assert_equal "$status" 2
    run mabn-pack nonsense
    assert_equal "$status" 2
    fails 2 "quality" mabn-pack imagenet tree --quality 101 -o a.h5
    mkdir empty
    fails 1 "holds no class folders" mabn-pack imagenet empty -o a.h5
    mkdir empty/class
    run --separate-stderr mabn-pack imagenet -q empty -o a.h5
    assert_equal "$status" 1
    [[ $stderr == *"hold no files"* ]]
    fails 1 "No such file" mabn-pack imagenet missing -o a.h5
}

@test "images as they come: CMYK, progressive, palettes, 16 bits, wrong names; and broken ones" {
    need_python
    g=$ROOT/tests/golden/image
    find "$g/good" -type f | sort | awk '{print $0 "\t0"}' >good
    find "$g/bad" -type f | sort | awk '{print $0 "\t1"}' >bad
    mabn-pack list good -q --verify -o a.h5
    mabn-pack list good -q --resize 8 -o b.h5
    run $PYTHON -c 'import h5py; f = h5py.File("a.h5"); print(f.attrs["count"], sorted(set(f["images/channels"][:].tolist())), sorted(set(f["images/format"][:].tolist())))'
    assert_output "$(wc -l <good) [1, 2, 3, 4] [1, 2]"
    fails 1 "no image is left" bash -c 'mabn-pack list bad -q --verify --skip-bad -o c.h5 2>&1 | tail -n 1 >&2; exit "${PIPESTATUS[0]}"'
    cat good bad >both
    mabn-pack list both -q --verify --skip-bad -o d.h5 2>warnings
    [ "$(grep -c 'warning: skipped' warnings)" -eq "$(wc -l <bad)" ]
    run mabn-info d.h5
    assert_line --partial "images        $(wc -l <good):"
}

@test "two at once: the second says so" {
    tree
    exec 9>a.h5.partial
    flock 9
    fails 1 "another process is writing 'a.h5.partial'" mabn-pack imagenet tree -o a.h5
    exec 9>&-
    mabn-pack imagenet -q tree -o a.h5
}

@test "a folder that may not be written" {
    [ "$(id -u)" -eq 0 ] || skip "needs root to become somebody else"
    tree
    mkdir closed
    chmod 755 . closed
    somebody="setpriv --reuid 65534 --regid 65534 --clear-groups"
    $somebody "$MABN_BIN/mabn-pack" --version && $somebody ls tree || skip "others cannot come here"
    # shellcheck disable=SC2086
    fails 1 "Permission denied" $somebody "$MABN_BIN/mabn-pack" imagenet tree -o closed/a.h5
    [ -z "$(ls closed)" ]
}

@test "a byte order mark is no part of a list's first path, nor of a class's name" {
    tree
    printf '\357\273\277tree/class000/image0000.JPEG\tant\r\ntree/class001/image0003.JPEG\tbee\r\n' >list
    printf '\357\273\277ant\r\nbee\r\n' >classes
    mabn-pack list -q list -o a.h5
    mabn-pack list -q list -c classes -o b.h5
    mabn-pack list -q - -o c.h5 <list
    printf '\357\273\277class000\nclass001\nclass002\n' >folders
    mabn-pack imagenet -q tree -c folders -o d.h5
    printf '\377\376t\0' >utf16
    fails 1 "'utf16' is UTF-16 text: save it as UTF-8" mabn-pack list utf16 -o e.h5
}

@test "further pictures of a file and transparency are told once, with the first" {
    need_python PIL
    mkdir -p tree/a
    $PYTHON - <<'END'
import random, struct
from PIL import Image
rng = random.Random(1)
i, j, k = [Image.frombytes("RGB", (20, 16), rng.randbytes(960)) for _ in range(3)]
i.save("tree/a/00.jpg"); i.save("tree/a/01.png"); i.save("tree/a/02.webp"); i.quantize(8).save("tree/a/03.gif")
i.quantize(8).save("tree/a/10.gif", save_all=True, append_images=[j.quantize(8), k.quantize(8)])
i.save("tree/a/11.webp", save_all=True, append_images=[j], lossless=True)
i.save("tree/a/12.png", save_all=True, append_images=[j])
# a picture beside an animation of two
i.save("tree/a/13.png", save_all=True, append_images=[j, k], default_image=True)
a = i.convert("RGBA"); a.putalpha(Image.linear_gradient("L").resize(i.size))
a.save("tree/a/20.png"); a.save("tree/a/21.webp", lossless=True, exact=True)
i.quantize(8).save("tree/a/22.png", transparency=2); i.quantize(8).save("tree/a/23.gif", transparency=2)
i.save("tree/a/24.png", transparency=i.getpixel((0, 0)))
# alpha channels and a transparent colour under which every pixel is opaque: nothing is lost
a.putalpha(255)
a.save("tree/a/04.png"); a.save("tree/a/05.webp", lossless=True, exact=True)
i.quantize(8).save("tree/a/06.png", transparency=200); i.quantize(8).save("tree/a/07.gif", transparency=200)
# transparency of the second picture alone; a chunk of odd length before the pictures of an animation
one = open("tree/a/03.gif", "rb").read()
start = 13 + 3 * (2 << (one[10] & 7))
start += 8 * (one[start] == 0x21) # the first picture's own extension
open("tree/a/14.gif", "wb").write(b"GIF89a" + one[6:-1] + b"\x21\xf9\4\1\0\0\2\0" + one[start:])
webp = open("tree/a/11.webp", "rb").read()
webp = webp[:30] + b"ABCD\3\0\0\0abc\0" + webp[30:]
open("tree/a/15.webp", "wb").write(webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:])
def bmp(name, alpha): # 32 bits with a mask for alpha, as Windows writes them
    head = struct.pack("<IiiHHIIiiII4I", 124, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0, 0xff0000, 0xff00, 0xff, 0xff000000) + bytes(68)
    open(name, "wb").write(b"BM" + struct.pack("<IHHI", 154, 0, 0, 138) + head + b"abc\xff" * 3 + b"abc" + alpha)
bmp("tree/a/08.bmp", b"\xff"); bmp("tree/a/25.bmp", b"\xfe")
# a JPEG that says it holds two pictures, as telephones write them
jpeg = open("tree/a/00.jpg", "rb").read()
mpf = b"MPF\0MM\0*" + struct.pack(">IHHHI4sHHII", 8, 2, 0xb000, 7, 4, b"0100", 0xb001, 4, 1, 2) + bytes(4)
open("tree/a/30.jpg", "wb").write(jpeg[:2] + b"\xff\xe2" + struct.pack(">H", len(mpf) + 2) + mpf + jpeg[2:])
END
    run --separate-stderr mabn-pack imagenet tree -o a.h5
    assert_success
    several="7 files hold more than one picture (the first: 'tree/a/10.gif'): the first of each is packed, 9 others are left out"
    alpha="6 pictures have an alpha channel or a transparent colour (the first: 'tree/a/20.png'), which is ignored: pixels have the colours stored under it"
    assert_equal "$(grep warning <<<"$stderr")" "mabn-pack: warning: $several
mabn-pack: warning: $alpha"
    # the others say nothing
    mkdir -p plain/a && cp tree/a/0* plain/a
    run --separate-stderr mabn-pack imagenet plain -o b.h5
    assert_success
    refute grep warning <<<"$stderr"
    # pixels are those under the alpha, as Pillow's convert has them
    mabn-pack imagenet -q tree --verify -f -o a.h5
    run $PYTHON - <<'END'
import h5py, io
from PIL import Image
f = h5py.File("a.h5")
names = sorted(__import__("os").listdir("tree/a"))
for n, at, size in zip(names, f["images/offset"][:], f["images/length"][:]):
    ours = Image.open(io.BytesIO(f["images/bytes"][at:at + size].tobytes())).convert("RGB")
    assert ours.tobytes() == Image.open("tree/a/" + n).convert("RGB").tobytes(), n
END
    assert_success
}

@test "a GIF or another picture that is cut anywhere says that it is truncated" {
    need_python PIL
    $PYTHON -c '
import random
from PIL import Image
i = Image.frombytes("RGB", (40, 40), random.Random(1).randbytes(4800)).quantize(256)
i.save("a.gif")'
    for n in 12 13 200 780 781 785 790 900 1500; do
        head -c $n a.gif >cut.gif
        printf 'cut.gif\t0\n' >list
        fails 1 "'cut.gif': GIF is truncated" mabn-pack list -q list -f -o a.h5
    done
    head -c 200 a.gif >cut.gif
    fails 1 "'cut.gif': GIF is truncated in its colour table, after 62 of 256 colours" mabn-pack list -q list -f -o a.h5
}
