#!/usr/bin/env python3
"""Compare lib/coco/mask.h with pycocotools' C code on random masks and polygons.

    tests/peer/coco_masks.py [BUILD] [ROUNDS]     (default build/release 20000)

Needs pycocotools and numpy (PyPI). Counts, strings, areas, boxes and overlaps must be equal.
"""
import ctypes
import glob
import random
import subprocess
import sys
import tempfile

import numpy as np
from pycocotools import mask as peer

build = sys.argv[1] if len(sys.argv) > 1 else "build/release"
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 20000

folder = tempfile.TemporaryDirectory()
library = folder.name + "/libmask.so"
objects = [f"{build}/lib/coco/mask.o"] + glob.glob(f"{build}/lib/base/*.o")
subprocess.run(["cc", "-shared", "-fopenmp", "-o", library, *objects, "-lxxhash", "-lm"], check=True)
ours = ctypes.CDLL(library)


class Rle(ctypes.Structure):
    _fields_ = [("height", ctypes.c_uint32), ("width", ctypes.c_uint32),
                ("counts", ctypes.POINTER(ctypes.c_uint32)), ("count", ctypes.c_size_t),
                ("capacity", ctypes.c_size_t), ("missing", ctypes.c_uint32)]


class Str(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("length", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


class Box(ctypes.Structure):
    _fields_ = [(k, ctypes.c_double) for k in "xywh"]


ours.mabn_rle_area.restype = ctypes.c_uint64
ours.mabn_rle_box.restype = Box
ours.mabn_rle_iou.restype = ctypes.c_double
ours.mabn_rle_iou.argtypes = [ctypes.POINTER(Rle), ctypes.POINTER(Rle), ctypes.c_bool]


def text_of(r):
    s = Str()
    ours.mabn_str_init(ctypes.byref(s))
    ours.mabn_rle_to_string(ctypes.byref(s), ctypes.byref(r))
    out = ctypes.string_at(s.text, s.length)
    ours.mabn_str_release(ctypes.byref(s))
    return out


def polygon(xy, h, w):
    r = Rle()
    a = (ctypes.c_double * len(xy))(*xy)
    assert ours.mabn_rle_from_polygon(ctypes.byref(r), a, ctypes.c_size_t(len(xy)), h, w) == 0
    return r


def random_polygon(rng, h, w):
    kind = rng.randrange(6)
    n = rng.choice([3, 3, 4, 5, 8, 20, 60])
    margin = rng.choice([0, 0, 3, 50, 1000])
    if kind == 0:  # integers
        return [rng.randrange(-margin, (w if i % 2 == 0 else h) + margin + 1) for i in range(2 * n)]
    if kind == 1:  # on the fifths and tenths, where rounding is decided
        return [rng.randrange(-10 * margin, 10 * (w if i % 2 == 0 else h) + 10 * margin + 1) / 10 for i in range(2 * n)]
    if kind == 2:  # a blob, two decimals
        cx, cy, r = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0.3, max(h, w))
        out = []
        for i in range(n):
            a = 6.2831853 * i / n
            d = r * rng.uniform(0.5, 1)
            out += [round(cx + d * np.cos(a), 2), round(cy + d * np.sin(a), 2)]
        return out
    if kind == 3:  # tiny
        x, y = rng.uniform(-2, w + 2), rng.uniform(-2, h + 2)
        return [v + rng.uniform(-1, 1) for _ in range(n) for v in (x, y)]
    if kind == 4:  # repeated corners and straight lines
        pts = [(rng.randrange(0, w + 1), rng.randrange(0, h + 1)) for _ in range(3)]
        return [float(v) for _ in range(n) for v in rng.choice(pts)]
    return [rng.uniform(-margin, (w if i % 2 == 0 else h) + margin) for i in range(2 * n)]


rng = random.Random(1)
bad = 0
previous = None
for k in range(rounds):
    h, w = rng.choice([(rng.randint(1, 12), rng.randint(1, 12)), (rng.randint(1, 90), rng.randint(1, 90)), (480, 640)])
    if previous and rng.random() < 0.7:
        h, w = previous[1]["size"]
    xy = random_polygon(rng, h, w)
    if rng.random() < 0.05:
        xy = xy + [1.5]
    want = peer.frPyObjects([xy], h, w)[0]
    mine = polygon(xy, h, w)
    string = text_of(mine)
    fail = string != want["counts"]
    fail |= ours.mabn_rle_area(ctypes.byref(mine)) != int(peer.area(want))
    b = ours.mabn_rle_box(ctypes.byref(mine))
    fail |= [b.x, b.y, b.w, b.h] != list(peer.toBbox(want))
    if previous:
        crowd = rng.random() < 0.3
        fail |= ours.mabn_rle_iou(ctypes.byref(previous[0]), ctypes.byref(mine), crowd) != \
            peer.iou([previous[1]], [want], [int(crowd)])[0, 0]
        if previous[1]["size"] == want["size"]:
            both, merged, inter = (Rle * 2)(previous[0], mine), Rle(), rng.random() < 0.5
            assert ours.mabn_rle_merge(ctypes.byref(merged), both, ctypes.c_size_t(2), inter) == 0
            fail |= text_of(merged) != peer.merge([previous[1], want], inter)["counts"]
            ours.mabn_rle_release(ctypes.byref(merged))
        ours.mabn_rle_release(ctypes.byref(previous[0]))
    if fail:
        bad += 1
        if bad < 10:
            print(f"differs: {h} x {w}: {xy}\n  ours {string}\n  peer {want['counts']}")
    previous = (mine, want)
print(f"{rounds} polygons: {bad} differ")
sys.exit(bad != 0)
