#!/usr/bin/env bats
load helpers

# log NORM NORM_BATCH SEED ERROR: a small log
log() {
    echo "{\"t\":\"start\",\"step\":0,\"norm\":\"$1\",\"norm_batch\":$2,\"batch\":32,\"seed\":$3,\"arch\":\"x\"}"
    for s in 1 2 3 4 5; do
        echo "{\"t\":\"step\",\"step\":$s,\"epoch\":0.$s,\"loss\":$((9 - s)).5,\"top1\":$((s * 9)),\"lr\":0.1}"
    done
    echo "{\"t\":\"val\",\"step\":5,\"epoch\":0.5,\"loss\":1,\"top1\":$((100 - $4)),\"top5\":99,\"images\":9,\"seconds\":1}"
}

@test "curves: PNG and SVG by name, the same each time" {
    log bn 32 1 12 >a.jsonl
    log mabn 2 1 11 >b.jsonl
    run --separate-stderr mabn-plot curves "yardstick=a.jsonl" b.jsonl -o c.png -o c.svg --more
    assert_success
    assert_output ""
    assert_equal "$(head -c 4 c.png | tail -c 3)" PNG
    grep -q '</svg>' c.svg
    mabn-plot curves "yardstick=a.jsonl" b.jsonl -o d.png -o - --more >d.svg
    cmp c.png d.png
    cmp c.svg d.svg
    mabn-plot curves - -o - <a.jsonl | grep -q '</svg>'
}

@test "curves: a detector's losses and AP" {
    {
        echo '{"t":"start","step":0,"task":"detect","norm":"body=frozen,fpn=mabn,heads=mabn","batch":2,"seed":1}'
        for s in 1 2 3; do
            echo "{\"t\":\"step\",\"step\":$s,\"epoch\":0.$s,\"loss\":$((9 - s)),\"loss_objectness\":0.$s,\"loss_mask\":1,\"lr\":0.1}"
        done
        echo '{"t":"val","step":3,"epoch":0.3,"box_ap":0.25,"mask_ap":0.2,"images":9}'
    } >d.jsonl
    mabn-plot curves d.jsonl -o - >few.svg
    mabn-plot curves d.jsonl -o - --more >more.svg
    # Letters are outlines: what can be counted are the rows of two panels, by the picture's height.
    height() { grep -o 'viewBox="[^"]*"' "$1" | tr -d '"' | cut -d ' ' -f 4; }
    grep -v -e val d.jsonl | mabn-plot curves - -o - >losses.svg
    sed 's/"loss_mask":1,//' d.jsonl | mabn-plot curves - -o - --more >five.svg
    assert_equal "$(height five.svg)" "$(height more.svg)" # 5 panels and 6
    [ "$(height losses.svg)" -lt "$(height few.svg)" ]     # 1 and 3
    [ "$(height few.svg)" -lt "$(height more.svg)" ]       # 3 and 6
}

@test "sweep: seeds are averaged; one point is enough" {
    for b in 1 2 4; do log mabn $b 1 $((10 + b)); done >/dev/null
    for b in 2 4 8; do for s in 1 2; do log bn $b $s $((30 - b + s)) >bn-$b-$s.jsonl; done; done
    log mabn 2 1 9 >mabn.jsonl
    mabn-plot sweep ./*.jsonl -o s.svg -o s.png
    grep -q '</svg>' s.svg
    mabn-plot sweep mabn.jsonl -o one.png
}

@test "logs with null, unknown keys and other lines are read" {
    { log bn 2 1 5; echo '{"t":"step","step":6,"epoch":0.6,"loss":null,"new":{"a":[1]}}'; echo '{"t":"note"}'; } >a.jsonl
    mabn-plot curves a.jsonl -o a.svg
}

@test "bad options and bad files" {
    log bn 2 1 5 >a.jsonl
    fails 2 "no picture to write" mabn-plot curves a.jsonl
    fails 1 "'a.gif': a figure's name ends in .png or .svg" mabn-plot curves a.jsonl -o a.gif
    fails 1 "cannot open 'none.jsonl'" mabn-plot curves none.jsonl -o a.png
    echo '{"t":"step","step":1,' >bad.jsonl
    fails 1 "'bad.jsonl':" mabn-plot curves bad.jsonl -o a.png
    echo '{}' >empty.jsonl
    fails 1 "no step or validation lines to draw" mabn-plot curves empty.jsonl -o a.png
    fails 1 "no recorded statistics" mabn-plot stats a.jsonl -o a.png
    assert_not_exist a.png
    mabn-plot curves a.jsonl -o a.png
    fails 1 "a.png" mabn-plot curves a.jsonl -o a.png
    mabn-plot curves a.jsonl -o a.png -f
    fails 1 "cannot write standard output: No space left on device" bash -c 'mabn-plot curves a.jsonl -o - >/dev/full'
}

@test "scores: tables of mabn-score coco" {
    printf 'id\tcategory\trecall\tprecision\tscore\n\tall\t0.00\t1\t\n\tall\t0.01\t0.5\t\n3\tcat\t0.00\t1\t0.9\n3\tcat\t0.01\t0.5\t0.8\n' >pr.tsv
    printf 'low\thigh\tcount\tscore\tright\n0.0\t0.1\t0\t0\t0\n0.1\t0.2\t4\t0.15\t0.25\n' >cal.tsv
    printf 'truth\tcat\tdog\tbackground\ncat\t1\t1\t0\ndog\t0\t0\t2\nbackground\t2\t1\t0\n' >c.tsv
    for t in pr cal c; do
        mabn-plot scores $t.tsv -o $t.svg
        mabn-plot scores one=$t.tsv two=$t.tsv -o $t.png
        assert_file_exist $t.png
        # as an editor of another system leaves it: a byte order mark, lines that end in CR LF
        (printf '\xef\xbb\xbf'; sed 's/$/\r/' $t.tsv) >edited.tsv
        mabn-plot scores x=$t.tsv -o x.svg -f
        mabn-plot scores x=edited.tsv -o - | cmp x.svg -
    done
    fails 1 "another kind than 'pr.tsv'" mabn-plot scores pr.tsv c.tsv -o x.png
    echo hello >text
    fails 1 "'text' is not a table of mabn-score coco" mabn-plot scores text -o x.png
    sed '2s/\t1\t/\tone\t/' c.tsv >bad.tsv
    fails 1 "'bad.tsv':2: expected a number" mabn-plot scores bad.tsv -o x.png
    head -3 c.tsv >bad.tsv
    fails 1 "the table is not square" mabn-plot scores bad.tsv -o x.png
    need_python PIL
    # the darkest cell is the one that holds its whole row
    run $PYTHON -c '
from PIL import Image
i = Image.open("c.png").convert("RGB"); print(min(i.getdata(), key=lambda p: p[0] + (p[2] < 150) * 1000))'
    assert_output "(0, 115, 179)"
}
