#!/usr/bin/env python3
"""Make tests/golden/scene: awkward annotations and what the detection reference makes of them.

    tests/golden/make_scene_fixtures.py        (needs numpy)

Written after the reference's rules (its dataset, transforms and BoxList), in numpy's float32 where
it computes in torch's; nothing of mabn is used. expected.tsv:
    keep    IMAGE  kept|bare|degenerate|unposed
    scene   IMAGE  FLIP  WIDTH HEIGHT                    resized, by 48/80
    object  IMAGE  FLIP  ANNOTATION LABEL  X1 Y1 X2 Y2   in hexadecimal
    polygon IMAGE  FLIP  ANNOTATION  X Y X Y ...
"""
import json
import os

import numpy as np

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scene")
F = np.float32
MIN, MAX = 48, 80


def rle(mask):
    flat = np.asarray(mask, np.uint8).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    return [int(n) for n in np.diff(np.concatenate([[0], edges]))]


hole = np.zeros((48, 64), int)
hole[10:30, 5:40] = 1
hole[15:20, 10:30] = 0
hole[17, 12] = 1
hole[40, 60] = hole[41, 61] = 1

IMAGES = {7: (64, 48), 9: (48, 64), 11: (64, 48), 12: (30, 100), 15: (64, 64), 16: (64, 48), 20: (100, 30)}
CATEGORIES = [18, 3, 44]  # contiguous classes 1, 2, 3: not in the order of their ids
square = [10.25, 10.5, 30.75, 10.5, 30.75, 25.125, 10.25, 25.125]
ANNOTATIONS = [
    # 7: a crowd, an object of two polygons, all three categories
    (1, 7, 3, [10.25, 10.5, 20.5, 14.625], 0, [square, [1, 2, 3, 4, 1, 4]]),
    (2, 7, 18, [0, 0, 63, 47], 1, {"size": [48, 64], "counts": [5, 3000, 67]}),
    (3, 7, 44, [33.3, 2.7, 17.77, 40.01], 0, [[33.3, 2.7, 51.07, 2.7, 40.1, 42.71]]),
    # 9: nothing. 11: nothing but degenerate boxes
    (4, 11, 3, [5, 5, 1, 20], 0, [[5, 5, 6, 5, 6, 25]]),
    (5, 11, 3, [5, 5, 20, 0.5], 0, [[5, 5, 25, 5, 25, 5.5]]),
    # 12: crowds only
    (6, 12, 18, [1, 1, 20, 80], 1, {"size": [100, 30], "counts": [101, 80, 2819]}),
    # 15: over the borders, outside, at the very edge, a pixel wide, and just wide enough
    (7, 15, 3, [-5.5, -3.25, 20.1, 30.2], 0, [[-5.5, -3.25, 14.6, -3.25, 14.6, 26.95]]),
    (8, 15, 3, [70, 10, 20, 20], 0, [[70, 10, 90, 10, 90, 30]]),
    (9, 15, 18, [60.5, 50.5, 20, 20], 0, [[60.5, 50.5, 80.5, 50.5, 80.5, 70.5]]),
    (10, 15, 18, [63, 5, 9, 9], 0, [[63, 5, 72, 5, 72, 14]]),
    (11, 15, 44, [20, 20, 1, 9], 0, [[20, 20, 21, 20, 21, 29]]),
    (12, 15, 44, [20, 20, 1.5, 9], 0, [[20, 20, 21.5, 20, 21.5, 29]]),
    # 16: a mask with a hole, an island in it and corners that touch; no mask; only a short polygon
    (13, 16, 3, [5, 10, 57, 32], 0, {"size": [48, 64], "counts": rle(hole)}),
    (14, 16, 18, [3.7, 4.9, 22.2, 11.1], 0, None),
    (15, 16, 18, [3.7, 4.9, 22.2, 11.1], 0, [[3.7, 4.9, 25.9, 16]]),
    # 20: wide enough that the size rule gives way
    (16, 20, 44, [10.1, 3.3, 80.9, 20.7], 0, [[10.1, 3.3, 91, 3.3, 91, 24, 10.1, 24]]),
    (17, 20, 44, None, 0, [[10, 3, 20, 3, 20, 24]]),  # the reference would stop here
]


def size(w, h):
    s, small, large = MIN, float(min(w, h)), float(max(w, h))
    if large / small * s > MAX:
        s = int(round(MAX * small / large))
    if (w <= h and w == s) or (h <= w and h == s):
        return w, h
    return (s, int(s * h / w)) if w < h else (int(s * w / h), s)


def hexes(values):
    return "\t".join(float(v).hex() for v in values)


lines = []
for image, (w, h) in IMAGES.items():
    own = [a for a in ANNOTATIONS if a[1] == image]
    kept = "bare" if not own else "degenerate" if all(not a[3] or a[3][2] <= 1 or a[3][3] <= 1 for a in own) else "kept"
    lines.append(f"keep\t{image}\t{kept}")
    ow, oh = size(w, h)
    rx, ry = F(ow / w), F(oh / h)
    for flip in 0, 1:
        lines.append(f"scene\t{image}\t{flip}\t{ow}\t{oh}")
        for number, _, category, box, crowd, segmentation in own:
            if crowd or not box:
                continue
            x, y, bw, bh = (F(v) for v in box)
            x2, y2 = x + max(bw - F(1), F(0)), y + max(bh - F(1), F(0))
            x, x2 = np.clip([x, x2], F(0), F(w - 1))
            y, y2 = np.clip([y, y2], F(0), F(h - 1))
            if not (x2 > x and y2 > y):
                continue
            x, x2, y, y2 = x * rx, x2 * rx, y * ry, y2 * ry
            if flip:
                x, x2 = F(ow) - x2 - F(1), F(ow) - x - F(1)
            label = CATEGORIES.index(category) + 1
            lines.append(f"object\t{image}\t{flip}\t{number}\t{label}\t{hexes([x, y, x2, y2])}")
            if not isinstance(segmentation, list):
                continue
            for polygon in segmentation:
                if len(polygon) < 6:
                    continue
                p = np.array(polygon, F)
                p[0::2] *= rx
                p[1::2] *= ry
                if flip:
                    p[0::2] = F(ow) - p[0::2] - F(1)
                lines.append(f"polygon\t{image}\t{flip}\t{number}\t{hexes(p)}")

# Keypoints: 21 has 10 visible, 22 has 9, in two annotations each.
poses = []
for image, visible in (21, 10), (22, 9):
    for k in range(2):
        n = visible - 4 if k else 4
        points = [v for i in range(8) for v in (i, i, 2 if i < n else 0)]
        poses.append({"id": len(poses) + 1, "image_id": image, "category_id": 18, "bbox": [1, 1, 20, 20], "area": 400,
                      "iscrowd": 0, "keypoints": points, "num_keypoints": n})
lines += ["keep\t21\tkept", "keep\t22\tunposed"]


def write(name, images, annotations):
    with open(f"{OUT}/{name}", "w") as f:
        json.dump({"images": [{"id": i, "width": w, "height": h, "file_name": f"{i:012}.png"} for i, (w, h) in images],
                   "categories": [{"id": c, "name": f"thing {c}"} for c in CATEGORIES], "annotations": annotations},
                  f, separators=(",", ":"))


os.makedirs(OUT, exist_ok=True)
annotations = []
for number, image, category, box, crowd, segmentation in ANNOTATIONS:
    a = {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd}
    if box:
        a |= {"bbox": box, "area": box[2] * box[3]}
    if segmentation is not None:
        a["segmentation"] = segmentation
    annotations.append(a)
write("scenes.json", reversed(list(IMAGES.items())), annotations)
write("poses.json", [(21, (64, 48)), (22, (64, 48))], poses)
with open(f"{OUT}/expected.tsv", "w") as f:
    f.write("\n".join(lines) + "\n")
