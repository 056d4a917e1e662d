#!/usr/bin/env bats
load helpers

setup_file() {
    export DATA=$BATS_FILE_TMPDIR/data.h5
    "$ROOT/tests/make-images" "$BATS_FILE_TMPDIR/tree" 4 16 6
    mabn-pack imagenet -q "$BATS_FILE_TMPDIR/tree" -o "$DATA"
}
ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
PATH=${MABN_BIN:-$ROOT/build/release/bin}:$PATH

# A network of a few thousand weights on 16x16 pictures; 8 steps an epoch.
small=(--arch cifar-resnet8 --base-width 4 --size 16 --augment plain --flip 0.5 --batch 8
    --lr 0.1 --lr-exact)
train() { mabn-train "${small[@]}" --train "$DATA" "$@"; }

# wait_for FILE TEXT: until a line of a growing file has the text
wait_for() {
    for _ in $(seq 1200); do
        grep -qs "$2" "$1" && return
        sleep 0.1
    done
    echo "no '$2' in $1"; return 1
}

tensor() { h5dump -d "/model/$2" "$1" | tail -n +2; }

@test "a run: metrics on stdout, a complete run folder" {
    run --separate-stderr train --val "$DATA" -o run --norm mabn -B 2 --epochs 2 --log-every 4
    assert_success
    printf '%s\n' "$output" >out
    cmp out run/metrics.jsonl
    assert_equal "$(grep -c '"t":"step"' out)" 4
    assert_equal "$(grep -c '"t":"val"' out)" 2
    for key in loss top1 top5 lr images_s data_wait memory; do grep '"t":"step"' out | grep -q "\"$key\":"; done
    assert_line --index 0 --partial '"norm":"mabn","batch":8,"norm_batch":2,"window":16,"window_rule":"subbatch","effective_samples":32'
    assert_line --index -1 --partial '"t":"end","step":16'
    # shellcheck disable=SC2154
    [[ $stderr == *"batch 8 (images of one SGD step), norm-batch 2 (images of one statistic), window 16"*"32 effective samples"* ]]
    assert_equal "$(cd run && echo *)" "best.h5 metrics.jsonl model.h5 step-000000008.h5 step-000000016.h5"
}

@test "-v says when the first step of this process begins and is done" {
    seconds='[0-9]+\.[0-9]{2} s'
    first() { grep -cE "the first step $1 $seconds after the start, $seconds of processor time" "$2" || true; }
    train -v -o run --norm bn --steps 2 >out 2>err
    train -v -o run --norm bn --steps 5 --resume >out 2>again
    train -o other --norm bn --steps 1 >out 2>less
    for said in begins "is done"; do
        assert_equal "$(first "$said" err) $(first "$said" again) $(first "$said" less)" "1 1 0"
    done
    mabn-eval imagenet -v run/model.h5 "$DATA" 2>err >out
    grep -qE "the first batch is computed $seconds after the start, $seconds of processor time" err
}

@test "--patience and --best: by the loss, and with more patience the run goes on" {
    few=(-q -j 1 --norm gn --groups 2 --lr 0 --val "$DATA" --val-every 2 --best loss) # the first is the best
    train "${few[@]}" -o run --steps 90 --patience 2 >out
    assert_equal "$(tail -n 1 out | cut -d, -f 2,4)" '"step":6,"reason":"patience"}'
    h5dump -a step run/best.h5 | grep -q '(0): 2'
    h5dump -a score_name run/best.h5 | grep -q loss
    train "${few[@]}" -o run --steps 90 --patience 3 --resume >out
    assert_equal "$(tail -n 1 out | cut -d, -f 2,4)" '"step":8,"reason":"patience"}'
    fails 1 "--best 'box_ap' is none of top1, top5, loss" train "${few[@]}" -o other --best box_ap
}

@test "the model's evaluation is the last validation, folded or not" {
    train --val "$DATA" -o run --norm mabn -B 2 --epochs 1 -q >out
    mabn-eval imagenet run/model.h5 "$DATA" --precision fp32 --json -q >folded
    mabn-eval imagenet run/model.h5 "$DATA" --precision fp32 --json -q --no-fold >apart
    # shellcheck disable=SC2001
    value() { sed "s/.*\"$2\":\([-0-9.e]*\).*/\1/" <<<"$1"; }
    val=$(grep '"t":"val"' out)
    for f in folded apart; do
        assert_equal "$(value "$(cat $f)" top1)" "$(value "$val" top1)"
        awk -v a="$(value "$(cat $f)" loss)" -v b="$(value "$val" loss)" 'BEGIN { exit !(a - b < 1e-4 && b - a < 1e-4) }'
    done
}

@test "the rate is scaled to the batch, and said" {
    run --separate-stderr train -o run --steps 1 --no-lr-exact
    assert_success
    [[ $stderr == *"lr 0.1 for batch 256, scaled to 0.003125 for batch 8"* ]]
    assert_output --partial '"lr":0.003125'
}

@test "schedules: warm-up, step, cosine, constant" {
    lrs() { train -o run -f -q --epochs 4 --log-every 8 --val-every -1 "$@" | grep '"t":"step"' | sed 's/.*"lr":\([^,]*\).*/\1/' | tr '\n' ' '; }
    assert_equal "$(lrs --schedule constant)" "0.1 0.1 0.1 0.1 "
    assert_equal "$(lrs --schedule step --milestones 1,3 --gamma 0.5)" "0.1 0.05 0.05 0.025 "
    assert_equal "$(lrs --schedule constant --warmup-epochs 2)" "0.05 0.1 0.1 0.1 "
    [[ $(lrs --schedule cosine) == "0.0886"*" 0.00024"* ]]
}

@test "without MODEL it starts where mabn-init leaves off" {
    mabn-init cifar-resnet8 --base-width 4 --classes 4 --height 16 --width 16 --norm mabn --seed 5 -o init.h5 -q
    train -o a --norm mabn --seed 5 --steps 2 -q >/dev/null
    mabn-train --size 16 --augment plain --flip 0.5 --batch 8 --lr 0.1 --lr-exact --train "$DATA" -o b \
        --seed 5 --steps 2 -q init.h5 >/dev/null
    tensor a/model.h5 layer3.0.conv2.weight >a.txt
    tensor b/model.h5 layer3.0.conv2.weight >b.txt
    cmp a.txt b.txt
}

@test "SIGTERM saves and exits 75; --resume goes on to the same bits" {
    mkdir a b
    steps=(--norm mabn -B 2 --steps 60 --log-every 1 --val-every 25 --resume -o run -q -l log)
    (cd a && train --val "$DATA" "${steps[@]}")
    (cd b && exec mabn-train "${small[@]}" --train "$DATA" --val "$DATA" "${steps[@]}" 2>err) &
    pid=$!
    wait_for b/run/metrics.jsonl '"step":3,'
    kill -TERM $pid
    ended $pid
    if [ $status -ne 0 ]; then # else it was too quick to be stopped
        assert_equal $status 75
        grep -q "stopped by SIGTERM after step .* continue with --resume" b/err
        assert_file_not_exist b/run/model.h5
    fi
    (cd b && train --val "$DATA" "${steps[@]}")
    cmp a/run/model.h5 b/run/model.h5
    cmp a/run/step-000000060.h5 b/run/step-000000060.h5
    for f in a b; do
        grep -v '"t":"start"' $f/run/metrics.jsonl | sed -E 's/"(images_s|data_wait|memory|seconds)":[^,}]*//g' >$f.lines
    done
    cmp a.lines b.lines
}

@test "best.h5 is the network that validated best, in resumed runs too" {
    run_of() { train --val "$DATA" --norm bn --schedule constant --val-every 1 --save-every 3 --resume -q -o "$@" >>log.txt; }
    same_best() { # but for the command line
        [ "$(h5dump -N step -N score whole/best.h5 | tail -n +2)" = "$(h5dump -N step -N score parts/best.h5 | tail -n +2)" ] || return 1
        for d in $(h5ls -r whole/best.h5 | awk '/Dataset/ {print $1}'); do
            h5diff -q whole/best.h5 parts/best.h5 "$d" "$d" || return 1
        done
    }
    run_of whole --steps 12
    best=$($PYTHON - <<'END'
import json
vals = [json.loads(l) for l in open("whole/metrics.jsonl") if '"t":"val"' in l]
assert len({v["top1"] for v in vals}) > 2 and len(vals) == 12, vals
best = max(vals, key=lambda v: v["top1"])  # the first of equals
print(best["step"], best["top1"])
END
)
    assert_equal "$(h5dump -N step -y whole/best.h5 | grep -oE '^ +[0-9]+$' | tr -d ' ')" "${best% *}"
    top1=$(mabn-eval imagenet -q --precision fp32 --json whole/best.h5 "$DATA" | $PYTHON -c 'import json, sys; print(json.load(sys.stdin)["top1"])')
    $PYTHON -c 'import sys; assert abs(float(sys.argv[1]) - float(sys.argv[2])) < 1e-6, sys.argv' "$top1" "${best#* }"
    # Stopped anywhere, with a best file of a step that the run comes to again.
    for stop in 3 7 10; do
        rm -rf parts
        run_of parts --steps $stop
        rm -f parts/model.h5
        [ $stop != 7 ] || { rm parts/step-000000007.h5; cp whole/best.h5 parts/; }
        run_of parts --steps 12
        same_best || { echo "stopped at $stop"; return 1; }
    done
    train --val "$DATA" --norm bn --steps 1 --val-every -1 -f -q -o parts >>log.txt
    run ! same_best
}

@test "killed between the model and the log's last line, it writes the line" {
    train --steps 4 --log-every 2 -o run -q >/dev/null
    cp -r run whole
    sed -i '$d' run/metrics.jsonl # the line that says "end"
    train --steps 4 --log-every 2 -o run -q --resume >/dev/null
    cmp whole/model.h5 run/model.h5
    cmp <(grep -v '"t":"start"' whole/metrics.jsonl) <(grep -v '"t":"start"' run/metrics.jsonl)
    run --separate-stderr train --steps 4 --log-every 2 -o run --resume
    assert_success
    [[ $stderr == *"'run' is done: nothing to do"* ]]
}

@test "SIGUSR1 saves and goes on" {
    # More steps than anybody waits for: the run ends when it has been seen to save and go on.
    mabn-train "${small[@]}" --train "$DATA" --steps 10000000 --log-every 1 --save-every 9999999 \
        --keep 99 -o run -q -l log 2>err &
    pid=$!
    wait_for run/metrics.jsonl '"step":2,'
    assert_equal "$(</proc/$pid/comm)" mabn-train # what pkill goes by
    kill -USR1 $pid
    for _ in $(seq 1200); do compgen -G 'run/step-*.h5' >saved && break; sleep 0.1; done
    [ "$(wc -l <saved)" -eq 1 ]
    step=$((10#$(basename "$(<saved)" .h5 | cut -d- -f2)))
    wait_for run/metrics.jsonl "\"step\":$((step + 2)),"
    kill -TERM $pid
    ended $pid
    assert_equal $status 75
    assert_equal "$(compgen -G 'run/step-*.h5' | wc -l)" 2
}

@test "killed with -9 at random moments, it ends with the same bits" {
    run "$ROOT/tests/kill/train.sh" "$MABN_BIN" 2
    assert_success
    assert_output --partial " 0 different"
}

@test "a loss that is not finite: one line, exit 1, the last checkpoint intact" {
    train -o run --steps 8 --save-every 4 -q >/dev/null
    rm run/model.h5
    cp run/step-000000008.h5 good.h5
    run --separate-stderr train -o bad --steps 100 --save-every 1 --lr 1e30 --schedule constant -q
    assert_failure 1
    [[ $stderr == "mabn-train: "*" at step "*"lr 1e+30, batch 8"*"lower --lr"* ]]
    for f in bad/step-*.h5; do [ ! -e "$f" ] || mabn-info --verify "$f" >/dev/null; done
    cmp good.h5 run/step-000000008.h5
}

@test "a run is never gone on with, or overwritten, unless asked" {
    train -o run --steps 2 -q >/dev/null
    fails 1 "'run' already holds a run (run/step-000000002.h5): --resume continues it, --force starts again" train -o run --steps 2 -q
    fails 1 "belongs to a run with other settings and cannot be resumed: seed 2 instead of 1; momentum 0.5 instead of 0.9" \
        train -o run --steps 4 --resume -q --seed 2 --momentum 0.5
    train -o run --steps 3 --resume -q --schedule cosine >/dev/null
    assert_file_exist run/step-000000003.h5
    run --separate-stderr train -o run --steps 3 --resume
    assert_success
    [[ $stderr == *"'run' is done: nothing to do"* ]]
    train -o run --steps 1 --force -q >/dev/null
    assert_equal "$(cd run && echo *)" "metrics.jsonl model.h5 step-000000001.h5"
    # a finished run whose checkpoints were removed
    rm run/step-*; cp run/model.h5 kept.h5
    for options in -q --resume; do
        fails 1 "'run' holds 'model.h5' but no checkpoint to continue from: --force starts again and removes it" train -o run --steps 2 $options -q
        cmp kept.h5 run/model.h5
    done
    # one that was stopped before its first checkpoint may have a best network
    mv run/model.h5 run/best.h5
    fails 1 "'run' holds 'best.h5' but no checkpoint" train -o run --steps 2 -q
    train -o run --steps 2 --resume -q >/dev/null
}

@test "a log never replaces what is read, nor another log" {
    cp "$DATA" own.h5
    train -o old --steps 1 -q >/dev/null
    cp old/model.h5 model.h5
    for option in --log --record-stats; do
        fails 2 "'own.h5' is to be written, and named a second time" mabn-train "${small[@]}" --train own.h5 -o run $option own.h5
        fails 2 "'./own.h5' is to be written, and named a second time" train --val own.h5 -o run $option ./own.h5
        fails 2 "'model.h5' is to be written, and named a second time" mabn-train --train own.h5 -o run $option model.h5 model.h5
        fails 2 "'run/metrics.jsonl' is to be written, and named a second time" train -o run $option run/metrics.jsonl
    done
    fails 2 "'one' is to be written, and named a second time" train -o run --log one --record-stats one
    cmp "$DATA" own.h5
    cmp old/model.h5 model.h5
}

@test "names of classes that are not UTF-8 are those of the model that was trained on them" {
    for name in $'caf\351' $'\351t\351' plain; do
        mkdir -p "odd/$name"
        cp "${DATA%/*}/tree/class000/image0000.JPEG" "${DATA%/*}/tree/class000/image0001.JPEG" "odd/$name"
    done
    mabn-pack imagenet -q odd -o odd.h5
    mabn-train "${small[@]}" --batch 2 --train odd.h5 --val odd.h5 -o run --steps 2 -q >/dev/null
    mabn-eval imagenet -q run/model.h5 odd.h5
    mabn-train "${small[@]}" --batch 2 --train odd.h5 -o run --steps 3 --resume -q >/dev/null
    mv odd/plain odd/pure
    mabn-pack imagenet -q odd -o other.h5
    fails 1 "class 1 is 'plain' in 'run/model.h5' but 'pure' in 'other.h5'" mabn-eval imagenet -q run/model.h5 other.h5
}

@test "a damaged newest checkpoint is passed over, and said" {
    train -o run --steps 8 --save-every 4 -q >/dev/null
    mv run/model.h5 want.h5
    printf x | dd of=run/step-000000008.h5 bs=1 seek=20000 conv=notrunc status=none
    run --separate-stderr train -o run --steps 8 --save-every 4 --resume
    assert_success
    [[ $stderr == *"warning: "*step-000000008.h5*"resuming from 'run/step-000000004.h5' at step 4"* ]]
    cmp want.h5 run/model.h5
}

@test "a model keeps its own norm settings; --window and --norm-momentum override them" {
    train -o old --norm mabn --window 6 --norm-momentum 0.9 --norm-eps 0.001 --steps 3 -q >/dev/null
    from() { mabn-train --batch 8 --size 16 --augment plain --train "$DATA" -f --steps 1 --lr 0 "$@" old/model.h5; }
    setting() { h5dump -a config "$1/model.h5" | tr -d '\n' | grep -o "\"$2\":[^,]*" | sort -u; }
    for norm in "" "--norm mabn" "--norm body=mabn"; do
        # shellcheck disable=SC2086
        from -o same -q $norm >/dev/null
        for key in window momentum eps; do
            assert_equal "$(setting same $key)" "$(setting old $key)"
        done
        run tensor same/model.h5 bn1.iters
        assert_output --partial "(0): 4"
    done
    run --separate-stderr from -o new --norm mabn --window 3 --norm-momentum 0.5
    assert_success
    # shellcheck disable=SC2154
    [[ $stderr == *"9 norms have another window than in 'old/model.h5': their windows start empty"* ]]
    assert_equal "$(setting new window) $(setting new momentum)" '"window":3 "momentum":0.5'
    assert_equal "$(setting new eps)" "$(setting old eps)"
    run tensor new/model.h5 bn1.iters
    assert_output --partial "(0): 1"
    run tensor new/model.h5 bn1.pre_x2
    assert_output --partial "( 3, 4 )"
    from -o rule -q --window-rule iteration >/dev/null
    run tensor rule/model.h5 bn1.iters
    assert_output --partial "(0): 1"
}

@test "weights of the wrong kind are refused, unless allowed" {
    mabn-init cifar-resnet8 --base-width 4 --classes 4 --norm bn -o bn.h5 -q
    mabn-init cifar-resnet8 --base-width 4 --classes 7 --norm mabn -o seven.h5 -q
    from() { mabn-train --batch 8 --size 16 --augment plain --train "$DATA" -o run -f --steps 1 -q "$@"; }
    fails 1 "'bn.h5' has norm bn, not mabn (--allow-weights norm allows it)" from --norm mabn bn.h5
    fails 1 "'bn.h5' is without centralized weights" from --norm mabn --allow-weights norm bn.h5
    fails 1 "'seven.h5' knows 7 classes" from seven.h5
    from --norm mabn --allow-weights norm,centralized bn.h5 >/dev/null
    from --allow-weights classes seven.h5 >/dev/null
    train -o one --steps 1 -q >/dev/null
    fails 1 "was trained on RGB pixels from 0 to 1" from --mean 0.5 one/model.h5
    from --mean 0.5 --allow-weights input one/model.h5 >/dev/null
}

@test "FRN and EvoNorm-S0: their own activations are trained, kept, evaluated and converted" {
    value() { sed "s/.*\"$2\":\([-0-9.e]*\).*/\1/" <<<"$1"; }
    for norm in frn evonorm-s0; do
        own=$([ $norm = frn ] && echo tau || echo v)
        train --val "$DATA" -o $norm --norm $norm --groups 2 --epochs 2 --precision fp32 -q >out
        val=$(grep '"t":"val"' out | tail -1)
        mabn-eval imagenet $norm/model.h5 "$DATA" --precision fp32 --json -q >eval
        assert_equal "$(value "$(cat eval)" top1)" "$(value "$val" top1)"
        # Where a shortcut is added, tau cuts off the sum; EvoNorm-S0 has no v there.
        mabn-init cifar-resnet8 --base-width 4 --norm $norm --groups 2 --list -q >list
        grep -q "^bn1.$own	" list
        run -1 grep "downsample.1.$own" list
        run grep -c "bn2.$own" list
        assert_equal "$output" "$([ $norm = frn ] && echo 3 || echo 0)"
        run tensor $norm/model.h5 "bn1.$own"
        assert_success
        refute_output --partial "nan"
        run -1 grep -E '\(0\): [01], [01],' <<<"$output" # trained
        # With less memory: the same bits.
        train --val "$DATA" -o less --norm $norm --groups 2 --epochs 2 --precision fp32 -q --save-memory >out
        assert_equal "$(grep '"t":"val"' out | tail -1 | sed 's/,"seconds.*//')" "$(sed 's/,"seconds.*//' <<<"$val")"
        mabn-convert -q -f $norm/model.h5 -o a.pth
        mabn-convert -q -f a.pth -o back.h5
        run tensor back.h5 "layer3.0.bn1.$own"
        assert_output "$(tensor $norm/model.h5 "layer3.0.bn1.$own")"
        run mabn-convert -q $norm/model.h5 -o a.onnx
        assert_failure 1
        assert_output --partial "has norm $norm, which cannot be written as ONNX"
        rm -rf less
    done
    mabn-eval imagenet frn/model.h5 "$DATA" --precision bf16 --json -q >eval
    run train -o one --norm frn --size 8 --arch resnet10 --base-width 4 -q
    assert_failure 1
    assert_output --partial "norm frn over a single position"
}

@test "recorded statistics: four numbers a layer and step, drawn by mabn-plot" {
    for b in 2 8; do
        train -o run$b --norm bn -B $b --steps 6 --record-stats stats$b.jsonl --stats-channels 0,3 -q >/dev/null
    done
    assert_equal "$(grep -c '"t":"stat"' stats2.jsonl)" $((6 * 9 * 2))
    grep -q '"step":6,"layer":"bn1","channel":3,"mu_x":[^,]*,"var_x":[^,]*,"mu_g":[^,]*,"mu_gy":[-0-9]' stats2.jsonl
    mabn-plot stats stats2.jsonl stats8.jsonl -l layer2.0.bn1 -o stats.png -o stats.svg
    grep -q '</svg>' stats.svg
}

@test "the reference's recipe is one word, and every part of it can be changed" {
    mabn-pack imagenet -q --resize 8 "$BATS_FILE_TMPDIR/tree" -o d.h5
    run --separate-stderr mabn-train --arch cifar-resnet8 --size 16 --preset imagenet --batch 8 --base-width 4 \
        --epoch-steps 4 --epochs 3 --milestones 1,2 --train d.h5 -o run --log-every 4
    assert_success
    assert_line --index 0 --partial '"arch":"cifar-resnet8","norm":"mabn","batch":8,"norm_batch":2,"window":16,"window_rule":"subbatch"'
    assert_line --index 0 --partial '"epoch_steps":4,"steps":12'
    assert_line --index 1 --partial '"lr":0.003125,'
    assert_line --index 3 --partial '"lr":3.125e-05'
    [[ $stderr == *"drawn with replacement"* ]]
}

@test "bad options and bad files" {
    fails 2 "no dataset to train on" mabn-train -o run
    fails 2 "no run folder" mabn-train --train "$DATA"
    fails 2 "--norm-batch 9 is larger than --batch 8" train -o run --norm-batch 9
    fails 2 "--schedule step needs --milestones" train -o run --schedule step
    fails 2 "contradict" train -o run --force --resume
    fails 2 "three numbers" train -o run --mean 1,2
    fails 1 "--frozen is for detectors, and '$DATA' is a dataset for classifiers" train -o run --frozen 2
    fails 1 "--clip-norm is for detectors" train -o run --clip-norm 5
    fails 1 "unknown crop 'x': expected none, centre, square, resized, pad" train -o run --crop x
    fails 1 "cannot open 'none.h5'" mabn-train --train none.h5 -o run
    head -c 5000 "$DATA" >cut.h5
    fails 1 "cut.h5" mabn-train --train cut.h5 -o run
    fails 1 "none.h5" mabn-train --train "$DATA" -o run none.h5
    fails 2 "MODEL has its own" train -o run none.h5
    fails 1 "--epoch-steps" train -o run --batch 65
    assert_not_exist run
}

@test "a full disk for the metrics, or a folder that cannot be made, is one line and exit 1" {
    run --separate-stderr bash -c 'exec mabn-train "$@" >/dev/full' _ "${small[@]}" \
        --train "$DATA" -o run --steps 2 -q
    assert_failure 1
    [[ $stderr == *"No space left on device"* ]]
    touch file
    fails 1 "file" train -o file/run --steps 1 -q
}

@test "--resume-model: a step after two of PyTorch's is PyTorch's third" {
    need_python torch; need_python PIL
    "$PYTHON" "$ROOT/tests/cli/torch_steps.py" .
    mabn-pack imagenet -q tree -o d.h5
    mabn-convert -q two.pth -o two.h5
    mabn-convert -q three.pth -o three.h5
    go_on=(--train d.h5 --batch 16 --crop none --flip 0 --size 16 --steps 3 --epoch-steps 1
        --lr 0.05 --lr-exact --schedule constant --momentum 0.8 --nesterov --weight-decay 1e-3)
    run --separate-stderr mabn-train "${go_on[@]}" -o run --resume-model two.h5
    assert_success
    assert_line --index 0 --partial '"t":"start","step":2,'
    [[ $stderr == *"resuming from 'two.h5' at step 2 (its iteration): weights and momentum of 29 parameters of 29"* ]]
    [[ $stderr == *"from the options, because the file does not have them: learning rate (0.05 at this step)"* ]]
    [[ $stderr != *"file's optimizer"* ]]
    mabn-convert -q --check --atol 2e-7 --rtol 2e-6 run/model.h5 three.h5
    # without the momentum it is another step
    mabn-train "${go_on[@]}" -q -o rest --steps 1 two.h5 >/dev/null
    run mabn-convert -q --check --atol 1e-4 rest/model.h5 three.h5
    assert_failure 1

    # what differs from the file's optimizer is told; its own checkpoints go on with --resume
    run --separate-stderr mabn-train "${go_on[@]}" -o more --momentum 0.9 --lr 0.01 --steps 4 --resume-model two.h5
    assert_success
    [[ $stderr == *"the file's optimizer has lr 0.05; here it is 0.01"*"has momentum 0.8; here it is 0.9"* ]]
    run --separate-stderr mabn-train "${go_on[@]}" -o more --momentum 0.9 --lr 0.01 --steps 6 --resume --resume-model two.h5
    assert_success
    [[ $stderr == *"resuming from 'more/step-000000004.h5' at step 4"* ]]

    # an iteration that counts epochs
    run --separate-stderr mabn-train "${go_on[@]}" -q -o epochs --steps 12 --start-step 10 --resume-model two.h5
    assert_success
    assert_line --index 0 --partial '"step":10,'
    fails 1 "'two.h5' is at step 2, and the run has 2 steps" mabn-train "${go_on[@]}" -q -o no --steps 2 --resume-model two.h5
    fails 1 "'three.h5' has no momentum to resume with" mabn-train "${go_on[@]}" -q -o no --resume-model three.h5
    fails 2 "--resume-model needs a MODEL" train -o no --resume-model
    fails 2 "--start-step needs --resume-model" train -o no --start-step 3
}

@test "the device and the precision: refused, or said" {
    fails 2 "unknown device 'gpu'" train -o run --device gpu
    fails 2 "--precision fp16 needs a GPU" train -o run --device cpu --precision fp16
    run --separate-stderr train -o run --steps 1 --device cpu
    assert_success
    assert_line --index 0 --regexp '"precision":"fp32","device":"CPU, [0-9]+ thread'
    [[ $stderr == *"parameters, fp32; CPU, "* ]]
    no_gpu
    run --separate-stderr train -o other --steps 1 --device cuda
    assert_failure 1
    [[ $stderr == *"$why"* ]]
    run --separate-stderr train -o other --steps 1
    assert_success
    [[ $stderr == *"; no GPU: $why"* ]]
}

@test "a run goes on with its own data only: identity is the content, not the count" {
    cp -r "$BATS_FILE_TMPDIR/tree" tree
    mabn-pack imagenet -q tree -o own.h5
    go=(mabn-train "${small[@]}" -q --train own.h5 -o run)
    "${go[@]}" --steps 2 >/dev/null
    mabn-pack imagenet -q -f tree/ -o own.h5 # packed anew from a folder called otherwise
    "${go[@]}" --resume --steps 3 >/dev/null
    mv tree/class000 tree/zebra
    mabn-pack imagenet -q -f tree -o own.h5
    fails 1 "class 0 is 'class000' in 'run/step-000000003.h5' but 'class001' in 'own.h5'" "${go[@]}" --resume --steps 4
    mv tree/zebra tree/class000
    cp tree/class001/image0003.JPEG tree/class000/image0000.JPEG # as many images, one is another
    mabn-pack imagenet -q -f tree -o own.h5
    fails 1 "belongs to a run with other settings and cannot be resumed: data " "${go[@]}" --resume --steps 4
}

@test "a best on other data does not count" {
    cp -r "$BATS_FILE_TMPDIR/tree" tree
    mabn-pack imagenet -q tree -o val.h5
    go=(mabn-train "${small[@]}" -q --train "$DATA" -o run --val-every 1 --resume)
    "${go[@]}" --val val.h5 --steps 2 >/dev/null
    run --separate-stderr "${go[@]}" --val val.h5 --steps 3
    [ -z "$stderr" ]
    cp tree/class001/image0003.JPEG tree/class000/image0000.JPEG
    mabn-pack imagenet -q tree -o other.h5
    run --separate-stderr "${go[@]}" --val other.h5 --steps 4
    assert_success
    assert_equal "$stderr" "mabn-train: warning: 'other.h5' is not what this run validated on before: the best so far, in 'best.h5', does not count any more"
    assert_equal "$(h5dump -N step -y run/best.h5 | grep -oE '^ +[0-9]+$' | tr -d ' ')" 4
    run --separate-stderr "${go[@]}" --val other.h5 --steps 5
    [ -z "$stderr" ]
}

@test "of two runs in one folder the second is refused" {
    first=(mabn-train "${small[@]}" -q --train "$DATA" -o run --steps 100000 --log-every 1)
    "${first[@]}" >out & p=$!
    wait_for out '"t":"step"'
    fails 1 "another mabn-train is running in 'run'" train -q -o run --resume --steps 8
    fails 1 "another mabn-train is running in 'run'" train -q -o run --force --steps 8
    kill -TERM $p
    ended $p
    assert_equal "$status" 75
    step=$(grep -o 'step-[0-9]*' <(echo run/step-*) | tail -n 1 | tr -dc 0-9)
    train -q -o run --resume --steps $((10#$step + 2)) >out
    grep -q '"t":"end"' out
}

@test "a batch statistic over one value is refused, and the layer named" {
    one=(mabn-train -q --arch resnet10 --base-width 4 --stem large --size 16 --augment plain --batch 4
        --steps 1 --train "$DATA")
    for norm in bn brn; do
        fails 1 "'layer3.0.bn1': a batch statistic over one value" "${one[@]}" --norm $norm -B 1 -o run
        "${one[@]}" --norm $norm -B 2 -o "$norm" >/dev/null
    done
    "${one[@]}" --norm mabn -B 1 -o mabn >/dev/null
    "${one[@]}" --norm ln -o ln >/dev/null
    # likewise where each channel of an image has a statistic of its own
    fails 1 "'layer3.0.bn1': norm in over one value (1x1, as many groups as channels)" "${one[@]}" --norm in -o run
    fails 1 "'layer1.0.bn1': norm gn over one value" "${one[@]}" --norm gn --groups 4 --size 4 -o run
    "${one[@]}" --norm in --size 64 -o in >/dev/null
    "${one[@]}" --norm gn --groups 4 -o gn >/dev/null
}

@test "shards change nothing but whose statistics are whose, and are kept in checkpoints" {
    loss() { sed -n 's/.*"t":"step".*"loss":\([^,]*\).*/\1/p' "$1/metrics.jsonl"; }
    train -q --norm bn -B 2 --epochs 1 --log-every 1 -o one >/dev/null
    train -q --norm bn -B 2 --epochs 1 --log-every 1 --shards 4 -o four >/dev/null
    paste <(loss one) <(loss four) | awk '{ d = $1 - $2; if (d > 1e-4 || d < -1e-4) exit 1; n++ } END { exit n != 8 }'
    # MABN's windows are each shard's own.
    train -q --norm mabn --window 4 --schedule constant --steps 7 --shards 4 -o whole >/dev/null
    train -q --norm mabn --window 4 --schedule constant --steps 4 --shards 4 -o parts >/dev/null
    run -0 h5dump -H -d /state/shards/bn1.pre_x2 parts/step-000000004.h5
    assert_output --partial "( 4, 16 )"
    train -q --norm mabn --window 4 --schedule constant --steps 7 --resume -o parts >/dev/null
    for t in fc.weight bn1.running_var bn1.pre_gz layer3.0.bn2.pre_x2; do
        cmp <(tensor whole/model.h5 $t) <(tensor parts/model.h5 $t)
    done
    fails 1 "a batch of 8 images is not 3 equal shards" train -q --shards 3 -o no
}
