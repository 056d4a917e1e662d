#!/usr/bin/python3
"""Compare RoIAlign with torchvision's, live, on random boxes; or their speed.

    /usr/bin/python3 tests/peer/roi_align.py [--cases 200] [--seed 1]
    /usr/bin/python3 tests/peer/roi_align.py --bench [--threads 2] [--rounds 7]

Run from the top of the tree after `make`. The first form wants the forward pass bit for bit, and the
backward pass within 1e-5 of the largest gradient. The second times both passes on the pyramid of two
800x1344 images with 256 channels, boxes of all sizes on the levels that a detector reads them from:
512 boxes an image of 7x7 bins, and 128 of 14x14. Both libraries in turns in the same process,
medians; torchvision gets its own layout, NCHW, and one call for each level.
"""
import argparse
import ctypes
import sys
import time

import numpy as np
import torch
import torchvision

import shim

SHIM = r"""
#include "ops/roi_align.h"

static struct mabn_roi_align op;
static const float *x[MABN_ROI_MAX_LEVELS];
static float *dx[MABN_ROI_MAX_LEVELS];

void peer_op(long images, long channels, int bins, int sampling, int aligned)
{
    op = (struct mabn_roi_align){.images = images, .channels = channels, .rows = bins,
                                 .columns = bins, .sampling = sampling, .aligned = aligned};
}

void peer_level(long h, long w, double scale, const float *map, float *gradient)
{
    x[op.levels] = map;
    dx[op.levels] = gradient;
    op.level[op.levels++] = (struct mabn_roi_level){h, w, scale};
}

int peer_forward(float *y, long count, const float *box, const int *image, const int *level)
{
    const struct mabn_rois rois = {count, box, image, level};
    return mabn_roi_align_forward(y, x, &rois, &op);
}

int peer_backward(const float *dy, long count, const float *box, const int *image, const int *level)
{
    const struct mabn_rois rois = {count, box, image, level};
    return mabn_roi_align_backward(dx, dy, &rois, &op, 0);
}
"""


def load():
    lib = shim.load(SHIM)
    lib.peer_op.argtypes = [ctypes.c_long, ctypes.c_long] + [ctypes.c_int] * 3
    lib.peer_level.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_double] + [ctypes.c_void_p] * 2
    lib.peer_forward.argtypes = lib.peer_backward.argtypes = (
        [ctypes.c_void_p, ctypes.c_long] + [ctypes.c_void_p] * 3)
    return lib


def nhwc(a):
    return np.ascontiguousarray(np.transpose(a, (0, 2, 3, 1)))


def nchw(a):
    return np.ascontiguousarray(np.transpose(a, (0, 3, 1, 2)))


class Case:
    """Maps, boxes and gradients for both libraries."""

    def __init__(self, lib, rng, maps, box, image, level, bins, sampling, aligned):
        draw = lambda *s: rng.standard_normal(s).astype(np.float32)
        self.lib, self.bins, self.sampling, self.aligned = lib, bins, sampling, aligned
        self.scales = [scale for _, scale in maps]
        self.n, self.c = maps[0][0][:2]
        self.x = [draw(*shape) for shape, _ in maps]
        self.box, self.image, self.level = box, image, level
        self.dy = draw(len(box), self.c, bins, bins)
        self.mx, self.mdy = [nhwc(x) for x in self.x], nhwc(self.dy)
        self.mdx = [np.empty_like(x) for x in self.mx]
        self.my = np.empty_like(self.mdy)
        # torchvision: one call for each level, image and box in one array
        rois = np.concatenate([image[:, None].astype(np.float32), box], 1)
        self.rows = [np.flatnonzero(level == k) for k in range(len(maps))]
        self.tx = [torch.from_numpy(x) for x in self.x]
        self.rois = [torch.from_numpy(rois[r]) for r in self.rows]
        self.tdy = [torch.from_numpy(self.dy[r]) for r in self.rows]

    def ours(self):
        at = lambda a: a.ctypes.data
        self.lib.peer_op(self.n, self.c, self.bins, self.sampling, self.aligned)
        for mx, mdx, scale in zip(self.mx, self.mdx, self.scales):
            self.lib.peer_level(mx.shape[1], mx.shape[2], scale, at(mx), at(mdx))
        boxes = (len(self.box), at(self.box), at(self.image), at(self.level))
        t0 = time.perf_counter()
        assert self.lib.peer_forward(at(self.my), *boxes) == 0
        t1 = time.perf_counter()
        assert self.lib.peer_backward(at(self.mdy), *boxes) == 0
        return t1 - t0, time.perf_counter() - t1

    def torchvision(self):
        t0 = time.perf_counter()
        self.ty = [torch.ops.torchvision.roi_align(x, r, s, self.bins, self.bins, self.sampling,
                                                   self.aligned)
                   for x, r, s in zip(self.tx, self.rois, self.scales)]
        t1 = time.perf_counter()
        self.tdx = [torch.ops.torchvision._roi_align_backward(
            dy, r, s, self.bins, self.bins, *x.shape, self.sampling, self.aligned)
                    for dy, r, s, x in zip(self.tdy, self.rois, self.scales, self.tx)]
        return t1 - t0, time.perf_counter() - t1

    def differences(self):
        """Values of y that differ in any bit; the largest error of dx relative to its size."""
        bits, worst = 0, 0.0
        y = nchw(self.my)
        for k, rows in enumerate(self.rows):
            bits += int((y[rows] != self.ty[k].numpy()).sum())
            want = self.tdx[k].numpy()
            size = float(np.abs(want).max()) or 1.0
            worst = max(worst, float(np.abs(nchw(self.mdx[k]) - want).max()) / size)
        return bits, worst


def random_case(lib, rng):
    n, c = int(rng.integers(1, 4)), int(rng.choice([1, 3, 16, 31, 64, 100]))
    maps = [((n, c, int(rng.integers(1, 40)), int(rng.integers(1, 40))), 0.5 ** (k + 2))
            for k in range(int(rng.integers(1, 5)))]
    count = int(rng.integers(0, 40))
    first = rng.uniform(-40, 160, (count, 2))
    last = first + rng.uniform(0, 1, (count, 1)) * rng.uniform(-5, 160, (count, 2))
    box = np.concatenate([first, last], 1).astype(np.float32)
    image, level = rng.integers(0, n, count), rng.integers(0, len(maps), count)
    return Case(lib, rng, maps, box, image.astype(np.int32), level.astype(np.int32),
                int(rng.choice([1, 2, 7, 14])), int(rng.choice([0, 1, 2, 3])),
                bool(rng.integers(2)))


def compare(lib, cases, seed):
    rng, bad = np.random.default_rng(seed), 0
    worst, bits, values = 0.0, 0, 0
    for i in range(cases):
        case = random_case(lib, rng)
        case.ours(), case.torchvision()
        b, e = case.differences()
        bits, worst, values = bits + b, max(worst, e), values + case.my.size
        bad += b > 0 or not e <= 1e-5
    print(f"y\t{bits} of {values} values differ\ndx\t{worst:.1e}\n{bad} of {cases} cases too far")
    return bad


def detector_case(lib, rng, boxes, bins, sampling, aligned):
    """Boxes of 16 to 600 pixels a side, on the level of their size."""
    maps = [((2, 256, 800 // s, 1344 // s), 1 / s) for s in (4, 8, 16, 32)]
    size = np.exp(rng.uniform(np.log(16), np.log(600), (2 * boxes, 2)))
    first = rng.uniform(0, 1, size.shape) * np.maximum((1344, 800) - size, 1)
    last = np.minimum(first + size, (1343, 799))
    box = np.concatenate([first, last], 1).astype(np.float32)
    side = np.sqrt((last - first + 1).prod(1))
    level = np.clip(np.floor(2 + np.log2(side / 224 + 1e-6)), 0, 3).astype(np.int32)
    image = np.repeat([0, 1], boxes).astype(np.int32)
    return Case(lib, rng, maps, box, image, level, bins, sampling, aligned)


def bench(lib, threads, rounds):
    torch.set_num_threads(threads)
    ctypes.CDLL("libgomp.so.1").omp_set_num_threads(threads)
    print(f"torchvision {torchvision.__version__}, {threads} threads, medians of {rounds}\n"
          "bins\tboxes\tsampling\tpass\tours_ms\ttorchvision_ms\tratio")
    for boxes, bins in ((512, 7), (128, 14)):
        for sampling, aligned in ((2, False), (0, True)):
            case = detector_case(lib, np.random.default_rng(0), boxes, bins, sampling, aligned)
            times = np.array([[case.ours(), case.torchvision()] for _ in range(rounds + 1)][1:])
            ours, theirs = np.median(times, 0) * 1e3
            for k, what in enumerate(("forward", "backward")):
                print(f"{bins}\t{2 * boxes}\t{sampling or 'adaptive'}\t{what}\t{ours[k]:.1f}\t"
                      f"{theirs[k]:.1f}\t{theirs[k] / ours[k]:.2f}", flush=True)
            bits, worst = case.differences()
            print(f"# {bits} values of y differ; dx within {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    a = parser.parse_args()
    lib = load()
    if a.bench:
        bench(lib, a.threads, a.rounds)
        return 0
    return 1 if compare(lib, a.cases, a.seed) else 0


sys.exit(main())
