#!/usr/bin/env bats
load helpers

@test "net: a table on stdout" {
    run --separate-stderr mabn-bench net cifar-resnet8 --size 16 -b 2 -r 2 -q
    assert_success
    assert_line --regexp '^images/s	[0-9.]+'
    assert_line --regexp '^step / convolutions	[0-9.]+$'
    assert_line --regexp '^peak memory MiB	[0-9.]+$'
}

@test "net: training, as JSON" {
    run --separate-stderr mabn-bench net cifar-resnet8 --size 16 -b 4 -B 2 -r 2 -t --save-memory --json
    assert_success
    $PYTHON -c 'import json, sys; d = json.loads(sys.argv[1]); assert d["images_per_second"] > 0 and d["training"] and d["convolution_seconds"] > 0' "$output"
}

@test "norms: every norm, both kinds of work" {
    run --separate-stderr mabn-bench norms -a cifar-resnet8 --size 8 -b 2 -r 1 -q
    assert_success
    for n in bn mabn brn in gn ln; do
        assert_line --regexp "^$n	inference	[0-9.e+]+	[0-9.e+]+	[0-9.]+$"
        assert_line --regexp "^$n	training	[0-9.e+]+	[0-9.e+]+	[0-9.]+$"
    done
}

@test "what is refused" {
    fails 1 "there is no architecture" mabn-bench net vgg16 -q
    fails 2 "exclude each other" mabn-bench norms -t -i
    run bash -c 'mabn-bench net cifar-resnet8 --size 8 -b 1 -r 1 -q > /dev/full'
    assert_equal "$status" 1
}
