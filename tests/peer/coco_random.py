#!/usr/bin/env python3
"""Compare `mabn-score coco` with pycocotools on random data sets full of odd cases.

    tests/peer/coco_random.py [--bin build/release/bin] [--sets 300] [--seed 0] [--save DIR]

Crowds, ties in score and overlap, empty images, more than 100 detections, small odd masks, areas on
the bounds, ids 0 and twice, unknown categories, settings of all kinds. The statistics and the whole
precision, recall and score arrays must agree to 1e-12. Needs pycocotools and numpy (PyPI).
--save keeps the files of the last set (or of the first that differs).
"""
import argparse
import contextlib
import copy
import io
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KINDS = ("bbox", "segm", "keypoints")


def coordinate(rng, limit):
    """On a coarse grid half of the time, so that overlaps tie."""
    v = rng.uniform(0, limit)
    return float(round(v / 10) * 10) if rng.random() < 0.5 else round(v, 2)


def random_box(rng, h, w):
    x, y = coordinate(rng, w), coordinate(rng, h)
    kind = rng.random()
    if kind < 0.1:
        return [x, y, 32.0, 32.0]  # area on the bound of small and medium
    if kind < 0.2:
        return [x, y, 96.0, 96.0]
    if kind < 0.25:
        return [x, y, 0.0, coordinate(rng, h)]  # degenerate, as two in train2017 are
    return [x, y, coordinate(rng, w / 2), coordinate(rng, h / 2)]


def near(rng, box):
    """A detection of this box: exact, shifted or scaled."""
    kind = rng.random()
    if kind < 0.3:
        return list(box)
    x, y, w, h = box
    s = rng.choice([1, 5, 20])
    return [round(x + rng.uniform(-s, s), 2), round(y + rng.uniform(-s, s), 2),
            max(0.0, round(w * rng.uniform(0.7, 1.3), 2)), max(0.0, round(h * rng.uniform(0.7, 1.3), 2))]


def polygon_of(rng, box):
    x, y, w, h = box
    if rng.random() < 0.5:
        return [x, y, x, y + h, x + w, y + h, x + w, y]
    n = rng.randint(3, 12)
    out = []
    for i in range(n):
        a = 2 * np.pi * i / n
        out += [round(float(x + w / 2 + w / 2 * rng.uniform(0.6, 1) * np.cos(a)), 2),
                round(float(y + h / 2 + h / 2 * rng.uniform(0.6, 1) * np.sin(a)), 2)]
    return out


def noise_mask(rng, h, w):
    m = np.zeros((h, w), np.uint8, order="F")
    for _ in range(rng.randint(0, 4)):
        y, x = rng.randrange(h), rng.randrange(w)
        m[y:y + rng.randint(1, 40), x:x + rng.randint(1, 40)] ^= 1
    if rng.random() < 0.2:
        m ^= (np.random.RandomState(rng.randrange(1 << 30)).rand(h, w) < 0.02).astype(np.uint8)
    return np.asfortranarray(m)


def text_rle(rle):
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()}


def list_rle(m):
    flat = m.flatten(order="F")
    counts, last, run = [], 0, 0
    for v in flat:
        if v != last:
            counts.append(run)
            run, last = 0, v
        run += 1
    counts.append(run)
    return {"size": list(m.shape), "counts": [int(c) for c in counts]}


def truth_segmentation(rng, box, h, w, crowd):
    kind = rng.random()
    if crowd or kind < 0.15:
        m = noise_mask(rng, h, w)
        return list_rle(m) if rng.random() < 0.6 else text_rle(mask_tools.encode(m))
    return [polygon_of(rng, near(rng, box)) for _ in range(rng.choice([1, 1, 1, 2, 3]))]


def keypoints_of(rng, box, jitter, visible):
    x, y, w, h = box
    base = random.Random(repr(box))
    out = []
    for _ in range(17):
        px, py = x + base.random() * w, y + base.random() * h
        v = base.choice([0, 1, 2]) if visible else 0
        out += [round(px + rng.uniform(-jitter, jitter), 2), round(py + rng.uniform(-jitter, jitter), 2), v]
    return out


def make_set(rng, kind):
    n_images = rng.choice([1, 2, 5, 12, 30])
    image_ids = rng.sample(range(0, 10 ** rng.choice([3, 9])), n_images)
    images = [{"id": i, "height": rng.randint(20, 300), "width": rng.randint(20, 300), "file_name": f"{i}.jpg"} for i in image_ids]
    n_categories = 1 if kind == "keypoints" and rng.random() < 0.5 else rng.choice([1, 2, 5])
    category_ids = rng.sample(range(0, 100), n_categories)
    annotations, results = [], []
    many = rng.random() < 0.1
    next_id = rng.choice([0, 1, 1, 1000])
    scores = [round(rng.random(), 2) for _ in range(rng.choice([3, 20, 1000]))]
    for image in images:
        h, w = image["height"], image["width"]
        boxes = []
        for _ in range(rng.choice([0, 0, 1, 3, 8, 20])):
            box = random_box(rng, h, w) if not boxes or rng.random() < 0.8 else list(rng.choice(boxes))
            boxes.append(box)
            crowd = rng.random() < (0.15 if kind != "keypoints" else 0.05)
            a = {"id": next_id, "image_id": image["id"], "category_id": rng.choice(category_ids), "bbox": box,
                 "iscrowd": int(crowd),
                 "area": rng.choice([1024, 9216, 1024.0001, 0, round(box[2] * box[3] * rng.uniform(0.5, 1), 2), box[2] * box[3]])}
            next_id += 1
            if kind == "segm" or rng.random() < 0.1:
                a["segmentation"] = truth_segmentation(rng, box, h, w, crowd)
            if kind == "keypoints":
                a["keypoints"] = keypoints_of(rng, box, 0, rng.random() < 0.8)
                a["num_keypoints"] = sum(v > 0 for v in a["keypoints"][2::3]) if rng.random() < 0.9 else 0
            if rng.random() < 0.05:
                a["ignore"] = 1
            annotations.append(a)
        for _ in range(rng.choice([0, 2, 10, 30]) if not many else 250):
            box = near(rng, rng.choice(boxes)) if boxes and rng.random() < 0.7 else random_box(rng, h, w)
            r = {"image_id": image["id"], "category_id": rng.choice(category_ids) if rng.random() < 0.97 else 777,
                 "score": rng.choice(scores)}
            if kind == "bbox":
                r["bbox"] = box
            elif kind == "segm":
                if rng.random() < 0.6:
                    rle = mask_tools.merge(mask_tools.frPyObjects([polygon_of(rng, box)], h, w))
                else:
                    rle = mask_tools.encode(noise_mask(rng, h, w))
                r["segmentation"] = text_rle(rle)
                if rng.random() < 0.02:  # of another size
                    r["segmentation"] = text_rle(mask_tools.encode(noise_mask(rng, h + 1, w)))
            else:
                r["keypoints"] = keypoints_of(rng, rng.choice(boxes) if boxes and rng.random() < 0.8 else box, rng.choice([0, 1, 5, 20]), True)
            results.append(r)
    if not results:
        return make_set(rng, kind)
    if len(annotations) > 2 and rng.random() < 0.15:  # an id that occurs twice
        annotations[rng.randrange(len(annotations))]["id"] = rng.choice(annotations)["id"]
    if kind == "segm" and rng.random() < 0.2:  # boxes and masks: the first record makes it a box file
        for r in results:
            r["bbox"] = [float(v) for v in mask_tools.toBbox({"size": r["segmentation"]["size"], "counts": r["segmentation"]["counts"].encode()})]
    if kind == "bbox" and rng.random() < 0.1:  # masks judged as boxes
        for r in results:
            i = next(i for i in images if i["id"] == r["image_id"])
            r["segmentation"] = text_rle(mask_tools.merge(mask_tools.frPyObjects([polygon_of(rng, r.pop("bbox"))], i["height"], i["width"])))
    rng.shuffle(results)
    rng.shuffle(annotations)
    rng.shuffle(images)
    truth = {"images": images, "annotations": annotations,
             "categories": [{"id": c, "name": f"class {c}"} for c in category_ids]}
    return truth, results


def settings(rng, truth, kind):
    s = {}
    if rng.random() < 0.25:
        s["max_dets"] = rng.choice([[1, 3, 7], [2, 10, 100], [1, 10, 50], [5, 100, 300]]) if kind != "keypoints" else [20]
    if rng.random() < 0.2:
        s["iou"] = rng.choice([[0.5], [0.3, 0.5, 0.75], [0.75, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0]])
    if rng.random() < 0.2 and kind != "keypoints":  # where pycocotools loses the overlaps
        s["class_agnostic"] = True
    if rng.random() < 0.2:
        s["categories"] = sorted(rng.sample([c["id"] for c in truth["categories"]], rng.randint(1, len(truth["categories"]))))
    if rng.random() < 0.2:
        s["images"] = rng.sample([i["id"] for i in truth["images"]], rng.randint(1, len(truth["images"])))
    if rng.random() < 0.2:
        s["areas"] = [["all", 0, 1e10], ["small", 0, 500], ["medium", 500, 1024], ["large", 1024, 1e10], ["tiny", 0, 100]]
    return s


def run_peer(truth, results, kind, s):
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        dt = gt.loadRes(copy.deepcopy(results))
        e = COCOeval(gt, dt, kind)
        p = e.params
        if "max_dets" in s:
            p.maxDets = s["max_dets"]
        if "iou" in s:
            p.iouThrs = np.array(s["iou"])
        if "categories" in s:
            p.catIds = s["categories"]
        if "images" in s:
            p.imgIds = s["images"]
        if "areas" in s:
            p.areaRng = [a[1:] for a in s["areas"]]
            p.areaRngLbl = [a[0] for a in s["areas"]]
        if s.get("class_agnostic"):
            p.useCats = 0
        e.evaluate()
        e.accumulate()
        e.summarize()
    return {"stats": np.array(e.stats), **{k: e.eval[k] for k in ("precision", "recall", "scores")}}


def arguments(s):
    """The settings as options of mabn-score."""
    out = []
    if "max_dets" in s:
        out += ["--max-dets", ",".join(map(str, s["max_dets"]))]
    if "iou" in s:
        out += ["--iou", ",".join(map(repr, s["iou"]))]
    if "categories" in s:
        out += ["--categories", ",".join(map(str, s["categories"]))]
    if "images" in s:
        out += ["--images", ",".join(map(str, s["images"]))]
    if "areas" in s:
        out += ["--areas", ",".join(f"{n}:{lo}:{hi!r}" for n, lo, hi in s["areas"])]
    if s.get("class_agnostic"):
        out += ["--class-agnostic"]
    return out


def run_ours(binary, folder, truth, results, kind, s, threads):
    with open(f"{folder}/truth.json", "w") as f:
        json.dump(truth, f, indent=random.choice([None, 1]))
    with open(f"{folder}/results.json", "w") as f:
        json.dump(results, f)
    cmd = [f"{binary}/mabn-score", "coco", "-q", "--json", "--curves", "-t", kind, "-j", str(threads)]
    cmd += arguments(s)
    cmd += [f"{folder}/truth.json", f"{folder}/results.json"]
    out = subprocess.run(cmd, capture_output=True, text=True)
    if out.returncode:
        return {"error": out.stderr, "cmd": cmd}
    j = json.loads(out.stdout)[kind]
    return {k: np.array(j[k]) for k in ("stats", "precision", "recall", "scores")}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", default="build/release/bin")
    ap.add_argument("--sets", type=int, default=300)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--save")
    args = ap.parse_args()
    folder = args.save or tempfile.mkdtemp()
    os.makedirs(folder, exist_ok=True)
    worst, bad, exact = 0.0, 0, 0
    for n in range(args.sets):
        rng = random.Random(args.seed * 1000003 + n)
        kind = KINDS[n % 3]
        truth, results = make_set(rng, kind)
        s = settings(rng, truth, kind)
        want = run_peer(truth, results, kind, s)
        got = run_ours(args.bin, folder, truth, results, kind, s, rng.choice([1, 2, 5]))
        if "error" in got:
            print(f"set {n} ({kind}) {s}: {got['error']}")
            bad += 1
            continue
        difference = 0.0
        for k in want:
            if want[k].shape != got[k].shape:
                print(f"set {n}: {k} has shape {got[k].shape}, not {want[k].shape}")
                difference = np.inf
            else:
                difference = max(difference, float(np.max(np.abs(want[k] - got[k]), initial=0)))
        worst = max(worst, difference)
        exact += difference == 0
        if not difference <= 1e-12:
            print(f"set {n} ({kind}) {s}: differs by {difference}")
            bad += 1
            if args.save:
                break
    print(f"{args.sets} sets, {bad} bad, {exact} exactly equal, largest difference {worst:g}")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
