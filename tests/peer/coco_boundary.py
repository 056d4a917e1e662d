#!/usr/bin/env python3
"""Compare `mabn-score coco -t segm --boundary` with pycocotools whose overlaps are those of boundaries.

    tests/peer/coco_boundary.py [--bin build/release/bin] [--sets 40] [--seed 0]

Boundaries are made as in the authors' own code: OpenCV's erosion of the padded mask. The statistics and
the whole arrays of precision must agree to 1e-12. Needs pycocotools, numpy, opencv-python-headless (PyPI).
"""
import argparse
import contextlib
import io
import json
import random
import subprocess
import sys
import tempfile

import cv2
import numpy as np
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def boundary(rle):
    mask = mask_tools.decode(rle)
    h, w = mask.shape
    distance = max(1, int(round(0.02 * np.sqrt(h * h + w * w))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:h + 1, 1:w + 1]
    return mask_tools.encode(np.asfortranarray(mask - eroded))


class BoundaryEval(COCOeval):
    def computeIoU(self, image, category):
        gt, dt = self._gts[image, category], self._dts[image, category]
        if not gt or not dt:
            return []
        order = np.argsort([-d["score"] for d in dt], kind="mergesort")[:self.params.maxDets[-1]]
        g, d = [x["segmentation"] for x in gt], [dt[i]["segmentation"] for i in order]
        crowd = [int(x["iscrowd"]) for x in gt]
        return np.minimum(mask_tools.iou(d, g, crowd), mask_tools.iou([boundary(x) for x in d], [boundary(x) for x in g], crowd))


def make_set(rng):
    h, w = rng.choice([(60, 90), (200, 150), (400, 500)])
    images = [{"id": i, "height": h, "width": w} for i in range(1, rng.choice([2, 6]))]
    annotations, results = [], []

    def shape():
        m = np.zeros((h, w), np.uint8)
        for _ in range(rng.choice([1, 2, 3])):
            y, x = rng.randrange(-10, h - 5), rng.randrange(-10, w - 5)
            cv2.ellipse(m, (x + 20, y + 20), (rng.randrange(1, w // 3), rng.randrange(1, h // 3)), rng.randrange(180), 0, 360, 1, -1)
        if rng.random() < 0.2:
            m ^= (np.random.RandomState(rng.randrange(1 << 30)).rand(h, w) < 0.01).astype(np.uint8)
        return m

    def text(m):
        rle = mask_tools.encode(np.asfortranarray(m))
        return {"size": [h, w], "counts": rle["counts"].decode()}

    for i in images:
        for _ in range(rng.choice([0, 1, 5])):
            m = shape()
            c = rng.choice([1, 2])
            annotations.append({"id": len(annotations) + 1, "image_id": i["id"], "category_id": c, "segmentation": text(m), "area": int(m.sum()),
                                "bbox": [0, 0, w, h], "iscrowd": int(rng.random() < 0.15)})
            for _ in range(rng.choice([1, 3])):
                near = np.roll(m, rng.choice([0, 1, 2, 4]), axis=rng.choice([0, 1]))
                results.append({"image_id": i["id"], "category_id": c, "score": rng.random(), "segmentation": text(near)})
        results.append({"image_id": i["id"], "category_id": 1, "score": rng.random(), "segmentation": text(shape())})
    return {"images": images, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], "annotations": annotations}, results


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", default="build/release/bin")
    ap.add_argument("--sets", type=int, default=40)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    folder = tempfile.mkdtemp()
    bad, worst = 0, 0.0
    for n in range(args.sets):
        truth, results = make_set(random.Random(f"{args.seed}-{n}"))
        json.dump(truth, open(f"{folder}/truth.json", "w"))
        json.dump(results, open(f"{folder}/results.json", "w"))
        ours = json.loads(subprocess.run([f"{args.bin}/mabn-score", "coco", "-q", "-t", "segm", "--boundary", "--json", "--curves", f"{folder}/truth.json",
                                          f"{folder}/results.json"], check=True, capture_output=True, text=True).stdout)["segm"]
        with contextlib.redirect_stdout(io.StringIO()):
            gt = COCO(f"{folder}/truth.json")
            e = BoundaryEval(gt, gt.loadRes(f"{folder}/results.json"), "segm")
            e.evaluate()
            e.accumulate()
            e.summarize()
        for a, b in (ours["stats"], e.stats), (ours["precision"], e.eval["precision"]):
            difference = float(np.abs(np.array(a) - np.array(b)).max())
            worst = max(worst, difference)
            if difference > 1e-12:
                bad += 1
                print(f"set {n}: differs by {difference}")
                break
    print(f"{args.sets} sets, {bad} bad, largest difference {worst:g}")
    sys.exit(bad > 0)


main()
