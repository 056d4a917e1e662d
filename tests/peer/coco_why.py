#!/usr/bin/env python3
"""Compare what `mabn-score coco` says beyond pycocotools with independent packages, on random sets.

    tests/peer/coco_why.py [--bin build/release/bin] [--sets 100] [--seed 0]

--errors with tidecv 1.0.1 (gains in AP and their base to 1e-9, counts exactly); --operating-point with
counts from pycocotools' own matches; --calibration and --confusion with hotcoco 1.3. Needs pycocotools,
numpy, tidecv and hotcoco (PyPI).
"""
import argparse
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile

import hotcoco
import numpy as np
import tidecv
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = {"Cls": "classification", "Loc": "localization", "Both": "both", "Dupe": "duplicate",
         "Bkg": "background", "Miss": "missed", "FalsePos": "false positive", "FalseNeg": "false negative"}


def make_set(rng):
    """Boxes and a square mask in each; ties in score and overlap; crowds; empty images."""
    categories = [{"id": i, "name": f"c{i}"} for i in rng.sample(range(1, 30), rng.choice([1, 3, 6]))]
    images = [{"id": i, "height": 200, "width": 200, "file_name": f"{i}.jpg"} for i in rng.sample(range(1, 500), rng.choice([1, 4, 15]))]
    annotations, results = [], []
    plain = rng.random() < 0.4  # no crowds, no ties: where hotcoco's matrix leaves nothing open
    scores = [round(rng.random(), 3) for _ in range(rng.choice([4, 500]))]

    def polygon(b):
        x, y, w, h = b
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]

    def box():
        return [rng.randrange(0, 120), rng.randrange(0, 120), rng.randrange(8, 70), rng.randrange(8, 70)]

    for image in images:
        boxes = []
        for _ in range(rng.choice([0, 1, 4, 12])):
            b = box()
            boxes.append(b)
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], "category_id": rng.choice(categories)["id"], "bbox": b,
                                "area": b[2] * b[3], "iscrowd": int(not plain and rng.random() < 0.1), "segmentation": polygon(b)})
        for _ in range(rng.choice([0, 3, 20, 120])):
            b = box()
            if boxes and rng.random() < 0.75:
                b = [max(1, v + rng.choice([0, 0, 1, -3, 10])) for v in rng.choice(boxes)]
            results.append({"image_id": image["id"], "category_id": rng.choice(categories)["id"], "score": rng.random() if plain else rng.choice(scores), "bbox": b,
                            "segmentation": polygon(b)})
    return {"images": images, "categories": categories, "annotations": annotations}, results, plain


def check(name, ours, theirs, tolerance=0.0):
    if not abs(ours - theirs) <= tolerance:
        raise AssertionError(f"{name}: ours {ours!r}, theirs {theirs!r}")


def compare_errors(ours, truth, results, kind, threshold):
    from pycocotools import mask as mask_tools
    to_rle = {json.dumps(r["segmentation"]): mask_tools.merge(mask_tools.frPyObjects(r["segmentation"], 200, 200)) for r in truth["annotations"] + results}
    gt, dt = tidecv.Data("gt"), tidecv.Data("dt")
    for i in truth["images"]:
        gt.add_image(i["id"], i["file_name"])
    for a in truth["annotations"]:
        (gt.add_ignore_region if a["iscrowd"] else gt.add_ground_truth)(a["image_id"], a["category_id"], a["bbox"], to_rle[json.dumps(a["segmentation"])])
    for r in results:
        dt.add_detection(r["image_id"], r["category_id"], r["score"], r["bbox"], to_rle[json.dumps(r["segmentation"])])
    tide = tidecv.TIDE(mode=tidecv.TIDE.BOX if kind == "bbox" else tidecv.TIDE.MASK)
    run = tide.evaluate(gt, dt, pos_threshold=threshold)
    check("base AP", ours["ap"], run.ap, 1e-9)
    gains = {**tide.get_main_errors()["dt"], **tide.get_special_errors()["dt"]}
    for short, gain in gains.items():
        check(f"gain of {short}", ours[NAMES[short]]["gain"], gain, 1e-9)
    for error, count in run.count_errors().items():
        check(f"count of {error.short_name}", ours[NAMES[error.short_name]]["count"], count)


def compare_points(ours, evaluator, score):
    p = evaluator.params
    by_category = {c: [] for c in p.catIds}
    truths = dict.fromkeys(p.catIds, 0)
    for e in evaluator.evalImgs:
        if e is None or e["aRng"] != p.areaRng[0]:
            continue
        truths[e["category_id"]] += int((np.array(e["gtIgnore"]) == 0).sum())
        for s, m, i in zip(e["dtScores"], e["dtMatches"][0], e["dtIgnore"][0]):
            if not i:
                by_category[e["category_id"]].append((s, m > 0))

    def at(list_, n, s):
        tp = sum(m for v, m in list_ if v >= s)
        fp = sum(not m for v, m in list_ if v >= s)
        return 2 * tp / (2 * tp + fp + n - tp) if 2 * tp + fp + n - tp else 0, tp, fp, n - tp

    def best(list_, n):
        return max((at(list_, n, s)[0] for s in {v for v, _ in list_}), default=0)

    for c, entry in list(zip(p.catIds, ours["categories"])) + [(None, ours["all"])]:
        list_ = by_category[c] if c is not None else sum(by_category.values(), [])
        n = truths[c] if c is not None else sum(truths.values())
        f1, tp, fp, fn = at(list_, n, entry["score"])
        for name, value in ("f1", f1), ("tp", tp), ("fp", fp), ("fn", fn):
            check(f"{name} of {c}", entry[name], value, 1e-12)
        if score == "best":
            check(f"best f1 of {c}", entry["f1"], best(list_, n), 1e-12)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", default="build/release/bin")
    ap.add_argument("--sets", type=int, default=100)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    folder = tempfile.mkdtemp()
    truth_file, results_file = f"{folder}/truth.json", f"{folder}/results.json"
    bad = 0
    for n in range(args.sets):
        rng = random.Random(f"{args.seed}-{n}")
        truth, results, plain = make_set(rng)
        json.dump(truth, open(truth_file, "w"))
        json.dump(results, open(results_file, "w"))
        kind, threshold = rng.choice(["bbox", "segm"]), rng.choice([0.5, 0.5, 0.75])
        score = rng.choice(["best", "0.3"])
        try:
            text = subprocess.run([f"{args.bin}/mabn-score", "coco", "-q", "-f", "-t", kind, "--iou", str(threshold), "--json", "--errors",
                                   "--operating-point", score, "--confusion", f"{folder}/confusion.tsv", "--calibration",
                                   f"{folder}/calibration.tsv", "--min-score", "0.25", truth_file, results_file], check=True, capture_output=True, text=True).stdout
            ours = json.loads(text)[kind]
            with contextlib.redirect_stdout(io.StringIO()):
                if results and truth["annotations"]:  # tidecv divides by the number of categories with either
                    compare_errors(ours["errors"], truth, results, kind, threshold)
                if not results:
                    continue
                gt = COCO(truth_file)
                e = COCOeval(gt, gt.loadRes(results_file), kind)
                e.params.iouThrs = np.array([threshold])
                e.evaluate()
                compare_points(ours["operating_point"], e, score)
                gt = hotcoco.COCO(truth_file)
                h = hotcoco.COCOeval(gt, gt.loadRes(results_file), kind)
                h.params.iouThrs = [threshold]
                h.evaluate()
                theirs = h.calibration(iou_threshold=threshold)
                rows = [l.split("\t") for l in open(f"{folder}/calibration.tsv").read().splitlines()[1:]]
                for row, b in zip(rows, theirs["bins"]):
                    check("calibration count", int(row[2]), b["count"])
                    if b["count"]:
                        check("calibration score", float(row[3]), b["avg_confidence"], 1e-9)
                        check("calibration right", float(row[4]), b["avg_accuracy"], 1e-9)
                matrix = h.confusion_matrix(iou_thr=threshold, max_det=100, min_score=0.25)["matrix"]
                rows = [l.split("\t")[1:] for l in open(f"{folder}/confusion.tsv").read().splitlines()[1:]]
                if plain:
                    check("confusion", int((np.array(rows, dtype=int) != matrix.astype(int)).sum()), 0)
        except AssertionError as e:
            bad += 1
            print(f"set {n} ({kind}, {threshold}): {e}")
    print(f"{args.sets} sets, {bad} bad")
    sys.exit(bad > 0)


main()
