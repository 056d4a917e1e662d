#!/usr/bin/python3
"""Compare suppression with torchvision's, live, on random boxes; or the speed of it and of pasting.

    /usr/bin/python3 tests/peer/nms_paste.py [--cases 300] [--seed 1]
    /usr/bin/python3 tests/peer/nms_paste.py --bench [--rounds 9]

Run from the top of the tree after `make`. The first form wants the same boxes kept in the same
order. The second times, on one thread and in turns, medians: suppression of 1000, 2000 and 4000
boxes by score, few of them suppressed and many; and 100 masks of 28x28 into a 640x480 photograph,
here down to run lengths, there down to a byte an image pixel (what its evaluator then encodes).
"""
import argparse
import ctypes
import sys
import time

import numpy as np
import torch
import torchvision
from torchvision.models.detection import roi_heads

import shim

SHIM = r"""
#include "detect/nms.h"
#include "detect/paste.h"

static struct mabn_scratch scratch;

long peer_nms(int *keep, const float *box, const float *score, long n, double threshold)
{
    const struct mabn_box_convention *c;
    int64_t kept = -1;
    if (mabn_box_convention_find(&c, "torchvision") ||
        mabn_nms(keep, &kept, box, score, n, n, mabn_box_threshold(c, threshold), c->one, 0,
                 &scratch))
        return -1;
    return kept;
}

/* The area of all masks. */
long peer_paste(const float *map, const float *box, long n, int width, int height)
{
    const struct mabn_box_convention *c;
    struct mabn_rle mask;
    long area = 0;
    mabn_rle_init(&mask);
    if (mabn_box_convention_find(&c, "torchvision")) return -1;
    for (long i = 0; i < n; i++) {
        if (mabn_paste(&mask, map + 784 * i, 28, box + 4 * i, width, height, c, &scratch))
            return -1;
        area += (long)mabn_rle_area(&mask);
    }
    mabn_rle_release(&mask);
    return area;
}
"""


def load():
    lib = shim.load(SHIM)
    lib.peer_nms.restype = lib.peer_paste.restype = ctypes.c_long
    lib.peer_nms.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long, ctypes.c_double]
    lib.peer_paste.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long, ctypes.c_int, ctypes.c_int]
    return lib


def random_boxes(rng, n, spread, width=1333, height=800):
    """n boxes about n/spread places."""
    places = rng.uniform(0, [width, height], (max(1, int(n / spread)), 2))
    sides = rng.uniform(8, 250, (len(places), 2))
    which = rng.integers(0, len(places), n)
    noise = 0.1 * sides[which]
    centre = places[which] + rng.normal(size=(n, 2)) * noise
    half = sides[which] / 2 * np.exp(0.1 * rng.normal(size=(n, 2)))
    box = np.concatenate([centre - half, centre + half], 1)
    return np.clip(box, 0, [width, height, width, height]).astype(np.float32)


def ours(lib, box, score, threshold):
    keep = np.empty(max(1, len(box)), np.int32)
    n = lib.peer_nms(keep.ctypes.data, box.ctypes.data, score.ctypes.data, len(box), threshold)
    return keep[:n]


def compare(lib, cases, seed):
    rng = np.random.default_rng(seed)
    bad = kept = 0
    for case in range(cases):
        n = int(rng.integers(0, 1500))
        box = random_boxes(rng, n, rng.choice([1, 4, 30])) if n else np.empty((0, 4), np.float32)
        score = rng.uniform(size=n).astype(np.float32)
        if case % 3 == 0:
            box = np.round(box)
        threshold = float(rng.choice([0.3, 0.5, 0.7, rng.uniform(0.05, 0.95)]))
        want = torchvision.ops.nms(torch.from_numpy(box), torch.from_numpy(score), threshold)
        got = ours(lib, box, score, threshold)
        kept += len(got)
        if not np.array_equal(got, want.numpy()):
            bad += 1
            print("case %d differs: %d boxes, threshold %g" % (case, n, threshold))
    print("%d cases, %d boxes kept, %d cases differ" % (cases, kept, bad))
    return bad


def in_turns(rounds, first, second):
    times = ([], [])
    for _ in range(rounds):
        for k, call in enumerate((first, second)):
            start = time.perf_counter()
            call()
            times[k].append(time.perf_counter() - start)
    return [1e3 * np.median(t) for t in times]


def bench(lib, rounds, seed):
    rng = np.random.default_rng(seed)
    torch.set_num_threads(1)
    print("%-34s %10s %14s %7s" % ("one thread", "ours, ms", "torchvision", "ratio"))
    for spread, name in ((1, "few suppressed"), (8, "many")):
        for n in (1000, 2000, 4000):
            box, score = random_boxes(rng, n, spread), rng.uniform(size=n).astype(np.float32)
            tbox, tscore = torch.from_numpy(box), torch.from_numpy(score)
            t = in_turns(rounds, lambda: ours(lib, box, score, 0.7),
                         lambda: torchvision.ops.nms(tbox, tscore, 0.7))
            kept = len(ours(lib, box, score, 0.7))
            print("nms, %4d boxes, %-4d kept (%s) %8.3f %14.3f %6.1fx" % (n, kept, name, *t, t[1] / t[0]))
    box = random_boxes(rng, 100, 1, 640, 480)
    grid = np.linspace(-1, 1, 28)
    blob = np.clip(1.5 - np.hypot(*np.meshgrid(grid, grid)) - 0.5, 0, 1)
    maps = np.clip(blob + rng.normal(size=(100, 28, 28)) * 0.1, 0, 1).astype(np.float32)
    tbox, tmaps = torch.from_numpy(box), torch.from_numpy(maps)[:, None]
    t = in_turns(rounds, lambda: lib.peer_paste(maps.ctypes.data, box.ctypes.data, 100, 640, 480),
                 lambda: (roi_heads.paste_masks_in_image(tmaps, tbox, (480, 640)) > 0.5).byte())
    print("%-34s %10.3f %14.3f %6.1fx" % ("paste 100 masks into 640x480", *t, t[1] / t[0]))
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lib = load()
    if options.bench:
        sys.exit(bench(lib, options.rounds, options.seed))
    sys.exit(1 if compare(lib, options.cases, options.seed) else 0)


main()
