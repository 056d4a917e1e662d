#!/usr/bin/env bash
# steady.sh BIN [PICTURES]: does the memory of mabn-eval coco stay where it is? Photographs of many shapes
# (PICTURES, 500 by default) through a small detector, and a fifth of them: the peak of both in MB. Fails
# when the whole set takes more than a tenth above the fifth, in which every shape has been seen.
set -euo pipefail
bin=$(cd "$1" && pwd) pictures=${2:-500}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cd "$work"
"$bin/mabn-init" -q mask-rcnn-r18-fpn --norm gn --groups 2 --classes 4 --base-width 8 --fpn-width 8 \
    --head-width 8 --fc-width 16 --min-size 96 --max-size 160 --proposals 60 -o model.h5
/usr/bin/python3 - "$bin" "$pictures" <<'E2'
import os, random, resource, subprocess, sys
from PIL import Image
bin, n = sys.argv[1], int(sys.argv[2])
draw = random.Random(1)
shapes = [(draw.randint(40, 400), draw.randint(40, 400)) for _ in range(50)]
names = []
for i, shape in enumerate(shapes):
    names.append("%d.png" % i)
    Image.frombytes("RGB", shape, bytes(draw.randrange(256) for _ in range(3 * shape[0] * shape[1]))).save(names[-1])
peaks = []
for count in n // 5, n:
    with open("list", "w") as f:
        f.writelines(names[i % len(names)] + "\n" for i in range(count))
    child = subprocess.Popen([bin + "/mabn-eval", "coco", "-q", "--min-score", "0", "-f", "-o", "found.json",
                              "model.h5", "list"])
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, status
    peaks.append(usage.ru_maxrss / 1024)
    print("%d photographs of 50 shapes: peak %.1f MB" % (count, peaks[-1]))
sys.exit(peaks[1] > 1.1 * peaks[0])
E2
