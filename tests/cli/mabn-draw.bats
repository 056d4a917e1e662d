#!/usr/bin/env bats
# mabn-draw: pictures of the right size with the right colours in the right places.
load helpers

setup_more() {
    "$ROOT/tests/make-images" tree 1 4 30
    cp tree/class000/image0003.JPEG a.jpg # 24 x 16
    mkdir images
    cp a.jpg images/a.jpg
    cp tree/class000/image0000.JPEG images/b.png
    cat >truth.json <<'END'
{"images": [{"id": 1, "height": 16, "width": 24, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.png"}],
 "categories": [{"id": 3, "name": "cat"}],
 "annotations": [
  {"id": 1, "image_id": 1, "category_id": 3, "bbox": [4, 4, 8, 8], "area": 64, "iscrowd": 0,
   "segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]]},
  {"id": 2, "image_id": 2, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 1,
   "keypoints": [2, 2, 2, 8, 8, 1], "num_keypoints": 2}]}
END
    cat >results.json <<'END'
[{"image_id": 1, "category_id": 3, "bbox": [4, 4, 8, 8], "score": 0.9},
 {"image_id": 1, "category_id": 3, "bbox": [14, 2, 8, 8], "score": 0.1}]
END
}

@test "one picture is as large as the photograph, changed only where something is" {
    need_python PIL
    mabn-draw images truth.json --no-labels -i 1 -o out.png
    mabn-draw images truth.json --no-labels --no-boxes --no-masks -i a.jpg -o plain.png
    run $PYTHON - <<'END'
from PIL import Image
out, plain, a = [Image.open(f).convert("RGB") for f in ("out.png", "plain.png", "a.jpg")]
assert out.size == a.size == (24, 16)
assert list(plain.getdata()) == list(a.getdata())
changed = [(x, y) for x in range(24) for y in range(16) if out.getpixel((x, y)) != a.getpixel((x, y))]
assert (8, 8) in changed and (20, 8) not in changed
assert min(x for x, y in changed) >= 1 and max(x for x, y in changed) <= 14
r, g, b = out.getpixel((8, 8)); p = a.getpixel((8, 8))
assert b - r > p[2] - p[0], "the first category is blue"
END
    assert_success
}

@test "results, above a score" {
    need_python PIL
    mabn-draw images truth.json -r results.json --no-labels -i 1 -o some.png
    mabn-draw images truth.json -r - --min-score 0.05 --no-labels -i 1 -o all.png <results.json
    run $PYTHON - <<'END'
from PIL import Image
some, all, a = [Image.open(f).convert("RGB") for f in ("some.png", "all.png", "a.jpg")]
assert some.getpixel((22, 6)) == a.getpixel((22, 6)) and all.getpixel((22, 6)) != a.getpixel((22, 6))
assert some.getpixel((4, 8)) == all.getpixel((4, 8)) != a.getpixel((4, 8))
END
    assert_success
}

@test "an odd result never costs the picture, and what the score leaves out is told" {
    for odd in '"none"' null '[4, 4, 8]' '["4", "4", "8", "8"]'; do
        for line in 1 2; do
            sed "${line}s/\"bbox\": [^]]*]/\"bbox\": $odd/" results.json >odd.json
            run --separate-stderr mabn-draw -f images truth.json -r odd.json --min-score 0.05 -i 1 -o odd.png
            assert_success
            [[ $stderr == *"1 result has no box, mask or keypoints to draw (the first: line $line)"* ]]
        done
        fails 1 '' mabn-score coco -q truth.json odd.json # but counting needs them
    done
    run --separate-stderr mabn-draw -f images truth.json -r results.json -i 1 -o some.png
    [[ $stderr == *"'results.json': 1 of 2 results are below --min-score 0.3 and left out"* ]]
    run --separate-stderr mabn-draw -f images truth.json -r results.json --min-score 0.95 -i 1 -o none.png
    [[ $stderr == *"warning: 'results.json': no result reaches --min-score 0.95: nothing is drawn"* ]]
    echo '[]' >empty.json
    run --separate-stderr mabn-draw -f images truth.json -r empty.json -i 1 -o none.png
    [[ $stderr == *"warning: 'empty.json' has no results: nothing is drawn"* ]]
}

@test "an input is never replaced" {
    cp truth.json t.json
    cp results.json r.json
    fails 2 "'t.json' is to be written, and named a second time" mabn-draw -f images t.json -o t.json
    fails 2 "'./r.json' is to be written" mabn-draw -f images t.json -r r.json -o ./r.json
    cmp t.json truth.json
    cmp r.json results.json
    cp -r images photographs
    fails 1 "'photographs/../photographs/b.png' is one of the photographs of 'truth.json'" mabn-draw -f photographs truth.json -i 1 -o photographs/../photographs/b.png
    cmp photographs/b.png images/b.png
    mabn-draw photographs truth.json -i 1 -o photographs/new.png # any other name
    mabn-draw -f photographs truth.json -i 1 -o photographs/new.png
}

@test "a category that is not named is labelled by its id, which may be a text" {
    need_python PIL
    mkdir gray
    $PYTHON -c 'from PIL import Image; Image.new("RGB", (200, 100), (90, 90, 90)).save("gray/a.png")'
    echo '{"images": [{"id": 1, "file_name": "a.png", "height": 100, "width": 200}], "annotations": [], "categories": [{"id": 8, "name": "category dog"}]}' >one.json
    for id in '"dog"' '"owl"' -5; do
        echo "[{\"image_id\": 1, \"category_id\": $id, \"score\": 1, \"bbox\": [20, 40, 100, 40]}]" >$id.json
        mabn-draw gray one.json -r $id.json -o $id.png
    done
    run cmp '"dog".png' '"owl".png'
    assert_failure
    # the letters of a named category, in its own colour
    sed 's/"dog"/8/' '"dog".json' >named.json
    mabn-draw gray one.json -r named.json -o named.png
    run $PYTHON - <<'END'
from PIL import Image
widths = []
for f in ('"dog".png', "named.png"):
    image = Image.open(f).convert("L")
    widths.append(image.point(lambda v: 255 * (v != 90)).getbbox())
assert widths[0] == widths[1], widths
END
    assert_success
}

@test "a contact sheet, the same every time, from files and from a dataset" {
    need_python PIL
    mabn-draw images truth.json -n 9 --tile 100 -o sheet.png
    $PYTHON -c 'from PIL import Image; s = Image.open("sheet.png"); assert s.size == (2 * 108 + 8, 75 + 22 + 8 + 8), s.size'
    mabn-pack coco -q images truth.json -o t.h5
    mabn-draw t.h5 -n 9 --tile 100 -o again.png
    cmp sheet.png again.png
    mabn-draw t.h5 -n 2 --shuffle --seed 3 --columns 1 -o column.png
    mabn-draw t.h5 -n 2 --shuffle --seed 3 --columns 1 -f -o column2.png
    cmp column.png column2.png
}

@test "pictures with classes" {
    mabn-pack imagenet -q tree -o c.h5
    mabn-draw c.h5 -n 4 --tile 64 -o c.png
    assert_file_exist c.png
    fails 1 "no COCO annotations" mabn-draw c.h5 -r results.json -o d.png
}

@test "errors" {
    fails 2 "no output" mabn-draw images truth.json
    fails 1 "no image '7'" mabn-draw images truth.json -i 7 -o x.png
    fails 1 "there are only 2 images" mabn-draw images truth.json --first 2 -o x.png
    fails 1 "cannot open 'none.h5'" mabn-draw none.h5 -o x.png
    fails 1 "no file 'none/a.jpg'" mabn-draw none truth.json -o x.png
    head -c 200 a.jpg >images/a.jpg
    fails 1 "'images/a.jpg'" mabn-draw images truth.json -o x.png
    assert_file_not_exist x.png
    cp a.jpg images/a.jpg
    mabn-draw images truth.json -o x.png
    fails 1 "x.png" mabn-draw images truth.json -o x.png
    mabn-draw -f images truth.json -o x.png
    sed 's/\[\[4, 4, 12.*\]\]/{"size": [9, 9], "counts": [1, 2]}/' truth.json >odd.json
    run --separate-stderr mabn-draw images odd.json -o y.png # the box is drawn
    assert_success
    assert_equal "$stderr" "mabn-draw: warning: 1 mask could not be drawn (the first: 'odd.json':4: annotation 1 (image 1): its mask is 9 x 9 pixels, the image 24 x 16)"
    if [ -e /dev/full ]; then fails 1 "" mabn-draw images truth.json -f -o /dev/full; fi
}

# Which pixels of two pictures differ: the box around them.
changed() {
    $PYTHON - "$@" <<'END'
import sys
from PIL import Image, ImageChops
a, b = [Image.open(f).convert("RGB") for f in sys.argv[1:3]]
print(*(ImageChops.difference(a, b).getbbox() or ["none"]))
END
}

@test "an odd record never costs the picture, an odd picture never the sheet" {
    need_python PIL
    for odd in '[]' '[[4, 4, 12, 12]]' '"none"' '{"size": [16, 24], "counts": [999]}'; do
        sed "s/\[\[4, 4, 12.*\]\]/$odd/" truth.json >odd.json
        run mabn-draw -f images odd.json --no-labels -o box.png
        assert_success
        [ "$(changed box.png a.jpg)" != none ]
    done
    sed 's/"b.png"/"..\/b.png"/' truth.json >odd.json
    run --separate-stderr mabn-draw images odd.json -n 2 --tile 100 -o sheet.png
    assert_success
    [[ $stderr == *"warning: 'odd.json':1: image 2 ('../b.png'): its \"file_name\" leads out of the folder"* ]]
    fails 1 "leads out of the folder" mabn-draw images odd.json -i 2 -o x.png
    sed 's/"id": 2, "file_name": "b.png"/"id": 2, "file_name": "1"/' truth.json >names.json
    cp -r images pipes
    rm pipes/a.jpg
    mkfifo pipes/a.jpg
    fails 1 "'pipes/a.jpg' is a pipe, not a photograph" timeout 20 mabn-draw pipes truth.json -i 1 -o x.png
    fails 1 "'1' is ambiguous: images" mabn-draw images names.json -i 1 -o x.png
    fails 1 "no image ''" mabn-draw images truth.json -i '' -o x.png
}

# A picture of 200 x 100 gray pixels.
gray() { $PYTHON -c 'import sys; from PIL import Image; Image.new("RGB", (200, 100), (90, 90, 90)).save(sys.argv[1])' "$1"; }

@test "what is on no picture, or cannot be seen, is counted" {
    sed 's/"image_id": 2/"image_id": 7/' truth.json >strays.json
    run --separate-stderr mabn-draw images strays.json -o out.png
    assert_success
    assert_equal "$stderr" "mabn-draw: warning: 'strays.json': 1 annotation of images that are not listed (the first: line 6, image 7) cannot be drawn"
    sed 's/"image_id": 1/"image_id": "x"/' results.json >strays.json
    run --separate-stderr mabn-draw -q -f images truth.json -r strays.json -o out.png
    assert_success
    assert_equal "$stderr" "mabn-draw: warning: 'strays.json': 2 results of images that are not listed (the first: line 1, image x) cannot be drawn"
    sed 's/"bbox": \[1, 1, 9, 9\], //; s/"keypoints": .*}]}/"keypoints": []}]}/' truth.json >bare.json
    run --separate-stderr mabn-draw -f images bare.json -n 2 -o out.png
    assert_success
    assert_equal "$stderr" "mabn-draw: warning: 1 annotation has no box, mask or keypoints to draw (the first: line 6)"
}

@test "the label of a polygon without a box is at the polygon" {
    need_python PIL
    gray images/g.png
    echo '{"images": [{"id": 1, "width": 200, "height": 100, "file_name": "g.png"}], "categories": [{"id": 1, "name": "x"}], "annotations": []}' >g.json
    echo '[{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": [[120, 50, 150, 50, 150, 80, 120, 80]]}]' >poly.json
    mabn-draw images g.json -r poly.json --no-masks --no-boxes -o label.png
    read -r x0 y0 x1 y1 <<<"$(changed label.png images/g.png)"
    [ "$x0" -ge 117 ] && [ "$y0" -ge 30 ] && [ "$x1" -le 200 ] && [ "$y1" -le 55 ]
}

@test "a category's own skeleton, COCO's only for people" {
    need_python PIL
    gray images/g.png
    points=$(for i in $(seq 17); do printf '%d, %d, 2, ' $((10 * i)) 50; done | sed 's/, $//')
    for name in person horse; do
        for skeleton in '[]' '[[1, 17], [1, 99], 5]'; do
            echo '{"images": [{"id": 1, "file_name": "g.png"}], "categories": [{"id": 1, "name": "'$name'", "skeleton": '"$skeleton"'}],
                   "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": ['"$points"']}]}' >k.json
            mabn-draw -f images k.json --no-boxes --no-labels -o k.png
            mabn-pack coco -q -f images k.json -o k.h5
            mabn-draw -f k.h5 --no-boxes --no-labels -o k2.png
            cmp k.png k2.png
            $PYTHON -c 'from PIL import Image; print(Image.open("k.png").convert("RGB").getpixel((95, 50)) != (90, 90, 90))'
        done
    done >bones
    assert_equal "$(tr '\n' ' ' <bones)" "True True False True "
    # keypoints are numbered from 1: a pair with 0 is left out, not without a word
    sed 's/\[\[1, 17\], .*5\]/[[0, 1], [1, 17]]/' k.json >zero.json
    run --separate-stderr mabn-draw -f images zero.json -o k.png
    assert_success
    assert_equal "$stderr" "mabn-draw: warning: 'zero.json': 1 line of skeletons names no two keypoints, which are numbered from 1 (the first: line 1): left out"
}

@test "things of one category have shades" {
    need_python PIL
    gray images/g.png
    echo '{"images": [{"id": 1, "file_name": "g.png"}], "categories": [{"id": 1, "name": "x"}],
           "annotations": ['"$(for i in 0 1 2 3 4 5 6; do echo "{\"id\": $i, \"image_id\": 1, \"category_id\": 1, \"bbox\": [$((5 + 27 * i)), 20, 22, 60]},"; done | sed '$s/,$//')"']}' >s.json
    mabn-draw images s.json --no-labels -o s.png
    run $PYTHON -c 'from PIL import Image; i = Image.open("s.png").convert("RGB"); print(len({i.getpixel((5 + 27 * n, 50)) for n in range(7)}))'
    assert_output 7
}

@test "letters that DejaVu lacks come from another font" {
    need_python PIL
    need_python fontTools
    mkdir fonts
    # A font of one letter, U+7EA2: a full square.
    $PYTHON - <<'END'
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
fb = FontBuilder(1000, isTTF=True)
fb.setupGlyphOrder([".notdef", "a"])
fb.setupCharacterMap({0x7EA2: "a"})
pen = TTGlyphPen(None)
for n, p in enumerate([(0, 0), (0, 900), (1000, 900), (1000, 0)]): (pen.lineTo if n else pen.moveTo)(p)
pen.closePath()
fb.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "a": pen.glyph()})
fb.setupHorizontalMetrics({".notdef": (1000, 0), "a": (1000, 0)})
fb.setupHorizontalHeader(ascent=900, descent=-100)
fb.setupNameTable({"familyName": "Square", "styleName": "Regular"})
fb.setupOS2(); fb.setupPost(); fb.save("fonts/square.ttf")
END
    # Where Debian keeps it, if the system cannot say.
    dejavu=$(fc-match -f '%{file}' 'DejaVu Sans' || echo /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf)
    echo "<fontconfig><dir>$PWD/fonts</dir><dir>${dejavu%/*}</dir><cachedir>$PWD/cache</cachedir></fontconfig>" >fonts.conf
    gray images/g.png
    echo '{"images": [{"id": 1, "file_name": "g.png"}], "categories": [{"id": 1, "name": "红"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [50, 50, 60, 30]}]}' >u.json
    FONTCONFIG_FILE=$PWD/fonts.conf mabn-draw images u.json --no-boxes --text 40 -o u.png
    run $PYTHON -c '
from PIL import Image
i = Image.open("u.png").convert("RGB")
print(max(sum(i.getpixel((x, y)) == (0, 0, 0) for x in range(200)) for y in range(100)))'
    [ "$output" -ge 38 ] # a row of the square is black from side to side
}

@test "WebP, BMP and GIF: the first picture as Pillow has it; others by name" {
    need_python PIL
    run $PYTHON - <<'END'
import random
from PIL import Image
rng = random.Random(1)
i = Image.frombytes("RGB", (37, 23), rng.randbytes(37 * 23 * 3)).resize((61, 47), Image.BICUBIC)
j = i.transpose(Image.FLIP_LEFT_RIGHT)
i.save("images/rgb.bmp"); i.convert("L").save("images/gray.bmp"); i.quantize(16).save("images/palette.bmp")
i.convert("1").save("images/bits.bmp"); i.convert("RGBA").save("images/rgba.bmp")
i.save("images/lossy.webp", quality=80); i.save("images/lossless.webp", lossless=True)
i.save("images/moving.webp", save_all=True, append_images=[j], duration=100, lossless=True)
i.quantize(64).save("images/still.gif"); i.quantize(64).save("images/interlaced.gif", interlace=1)
i.quantize(200).save("images/moving.gif", save_all=True, append_images=[j.quantize(200)])
p = i.quantize(30); p.save("images/clear.gif", transparency=3)
i.save("images/x.tif"); i.save("images/x.ppm")
END
    assert_success
    mkdir all
    list=$(cd images && ls ./*.webp ./*.bmp ./*.gif)
    n=0
    for f in $list; do
        n=$((n + 1))
        echo "{\"id\": $n, \"width\": 61, \"height\": 47, \"file_name\": \"${f#./}\"},"
    done | sed '$s/,$//' >list
    echo "{\"images\": [$(cat list)], \"categories\": [], \"annotations\": []}" >formats.json
    mabn-pack coco -q --verify images formats.json -o formats.h5
    n=0
    for f in $list; do
        n=$((n + 1))
        mabn-draw -f images formats.json -i $n -o one.png
        mabn-draw -f formats.h5 -i $n -o two.png
        cmp one.png two.png
        assert_equal "$f $(changed one.png "images/$f")" "$f none"
    done
    sed 's/lossy.webp/x.tif/' formats.json >tif.json
    fails 1 "'images/x.tif': this is a TIFF picture; expected JPEG, PNG, WebP, BMP or GIF" mabn-pack coco images tif.json -o t.h5
    # every file cut short is refused, never a crash
    for f in $list; do
        size=$(stat -c %s "images/$f")
        for cut in 10 20 60 $((size / 2)); do
            head -c $cut "images/$f" >images/cut
            sed 's/"id": 1,.*lossless.webp"/"id": 1, "file_name": "cut"/;s/.*/&/' formats.json >cut.json
            echo '{"images": [{"id": 1, "file_name": "cut"}], "categories": [], "annotations": []}' >cut.json
            fails 1 "images/cut" mabn-draw -f images cut.json -o cut.png
        done
    done
}

@test "EXIF orientations: told, and turned when asked" {
    need_python PIL
    run $PYTHON - <<'END'
import random
from PIL import Image, ImageOps
i = Image.frombytes("RGB", (40, 24), random.Random(2).randbytes(40 * 24 * 3)).resize((80, 48))
for n in range(1, 9):
    exif = Image.Exif(); exif[0x0112] = n
    i.save(f"images/o{n}.jpg", exif=exif); i.save(f"images/o{n}.png", exif=exif); i.save(f"images/o{n}.webp", exif=exif, lossless=True)
    for kind in ("jpg", "png", "webp"):
        ImageOps.exif_transpose(Image.open(f"images/o{n}.{kind}")).convert("RGB").save(f"turned{n}{kind}.png")
END
    assert_success
    for kind in jpg png webp; do
        for n in 1 2 3 4 5 6 7 8; do
            echo '{"images": [{"id": 1, "file_name": "o'$n.$kind'"}], "categories": [], "annotations": []}' >o.json
            run --separate-stderr mabn-draw -f images o.json -o stored.png
            assert_success
            assert_equal "$(changed stored.png images/o$n.$kind)" none
            if [ $n = 1 ]; then
                [ -z "$stderr" ]
            else
                [[ $stderr == *"'o$n.$kind' has the EXIF orientation $n and is drawn as stored (--exif rotates it)"* ]]
            fi
            run --separate-stderr mabn-draw -f --exif images o.json -o turned.png
            [ -z "$stderr" ]
            assert_equal "$(changed turned.png turned$n$kind.png)" none
        done
    done
    echo '{"images": [{"id": 1, "width": 48, "height": 80, "file_name": "o6.png"}], "categories": [], "annotations": []}' >o.json
    wrong="image 1: the file is 80 x 48 pixels, 'o.json' says 48 x 80 (EXIF orientation 6 turns the picture; --exif does so)"
    run --separate-stderr mabn-draw -f images o.json -o stored.png
    assert_equal "$stderr" "mabn-draw: warning: $wrong"
    run --separate-stderr mabn-pack coco images o.json -o o.h5
    assert_failure
    [[ $stderr == *"$wrong"* ]]
    run --separate-stderr mabn-pack coco --exif -f images o.json -o o.h5
    assert_success
    [[ $stderr == *"1 picture has an EXIF orientation (the first: 'images/o6.png'): packed turned"* ]]
    mabn-draw -f o.h5 -o turned.png
    assert_equal "$(changed turned.png turned6png.png)" none
    sed 's/"width": 48, "height": 80, //' o.json >unsized.json
    run --separate-stderr mabn-pack coco -f images unsized.json -o o.h5
    assert_success
    [[ $stderr == *"packed as stored, not turned (--exif turns them)"* ]]
}
