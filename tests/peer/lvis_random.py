#!/usr/bin/env python3
"""Compare `mabn-score coco --lvis` with the package lvis on random data sets.

    tests/peer/lvis_random.py [--bin build/release/bin] [--sets 100] [--seed 0]

Negative and incomplete categories, frequencies, ignored truths, ids 0 and twice, more than 300 results
in an image, ties. The 13 statistics and the whole precision and recall arrays must agree to 1e-12.
Needs lvis, pycocotools and numpy (PyPI).
"""
import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile

import numpy as np

np.float = float  # lvis 0.5.3 wants a numpy of before 1.24
from lvis import LVISEval  # noqa: E402

logging.disable(logging.WARNING)
ORDER = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300")


def make_set(rng, kind):
    ids = rng.sample(range(0, 50), rng.choice([1, 4, 12]))
    categories = [{"id": i, "name": f"c{i}", "frequency": rng.choice("rcf"), "image_count": 1, "instance_count": 1, "synset": "x", "synonyms": [], "def": ""} for i in ids]
    images, annotations, results = [], [], []
    scores = [round(rng.random(), 3) for _ in range(rng.choice([4, 500]))]
    next_id = rng.choice([0, 1, 7])

    def shape(box):
        x, y, w, h = box
        return {"bbox": box, **({"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})}

    for i in rng.sample(range(1, 500), rng.choice([1, 3, 12])):
        few = lambda: rng.sample(ids, rng.randint(0, min(3, len(ids))))
        images.append({"id": i, "height": 200, "width": 200, "neg_category_ids": few(), "not_exhaustive_category_ids": few()})
        boxes = []
        for _ in range(rng.choice([0, 1, 5, 15])):
            box = [rng.randrange(0, 100), rng.randrange(0, 100), rng.choice([10, 32, 60, 96]), rng.choice([10, 32, 60, 96])]
            boxes.append(box)
            a = {"id": next_id, "image_id": i, "category_id": rng.choice(ids), "area": rng.choice([box[2] * box[3], 1024, 9216]), **shape(box)}
            if rng.random() < 0.08:
                a["ignore"] = 1
            annotations.append(a)
            next_id += rng.random() > 0.03
        for _ in range(rng.choice([0, 5, 40, 350])):
            box = rng.choice(boxes) if boxes and rng.random() < 0.7 else [rng.randrange(0, 100), rng.randrange(0, 100), rng.randrange(5, 90), rng.randrange(5, 90)]
            box = [v + rng.choice([0, 0, 1, 4]) for v in box]
            r = {"image_id": i, "category_id": rng.choice(ids), "score": rng.choice(scores)}
            r.update(shape(box) if kind == "segm" else {"bbox": box})
            results.append(r)
    return {"images": images, "categories": categories, "annotations": annotations, "info": {}, "licenses": []}, results


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", default="build/release/bin")
    ap.add_argument("--sets", type=int, default=100)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    folder = tempfile.mkdtemp()
    truth_file, results_file = f"{folder}/truth.json", f"{folder}/results.json"
    bad, compared, worst = 0, 0, 0.0
    for n in range(args.sets):
        rng = random.Random(f"{args.seed}-{n}")
        kind = rng.choice(["bbox", "segm"])
        truth, results = make_set(rng, kind)
        if not results:
            continue
        json.dump(truth, open(truth_file, "w"))
        json.dump(results, open(results_file, "w"))
        ours = json.loads(subprocess.run([f"{args.bin}/mabn-score", "coco", "-q", "--lvis", "--json", "--curves", "-t", kind, truth_file, results_file],
                                         check=True, capture_output=True, text=True).stdout)[kind]
        e = LVISEval(truth_file, results_file, kind)
        e.run()
        theirs = [e.results[k] for k in ORDER]
        pairs = [("stats", ours["stats"], theirs), ("precision", np.array(ours["precision"])[..., 0], e.eval["precision"]),
                 ("recall", np.array(ours["recall"])[..., 0], e.eval["recall"])]
        compared += 1
        for name, a, b in pairs:
            difference = float(np.abs(np.array(a, dtype=float) - np.array(b, dtype=float)).max())
            worst = max(worst, difference)
            if difference > 1e-12:
                bad += 1
                print(f"set {n} ({kind}): {name} differ by {difference}")
                break
    print(f"{compared} sets, {bad} bad, largest difference {worst:g}")
    sys.exit(bad > 0)


main()
