#!/usr/bin/env python3
"""Annotations as JSON and packed: the same results to the last bit, or the same refusal.

    tests/peer/coco_packed.py [--bin build/release/bin] [--sets 60] [--seed 0]

Random annotation files full of odd things: ids that are texts, huge, null, missing or twice; annotations
of unlisted images and categories; polygons of odd counts; masks that overrun or have another size; no
boxes, sizes, areas; keypoints of other counts or none; crowds that are no answer; names that are no Unicode. Needs nothing but Python and the tools.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import zlib

WIDTH, HEIGHT = 24, 16


def png():
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    header = WIDTH.to_bytes(4, "big") + HEIGHT.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress((b"\0" + b"\x80" * WIDTH) * HEIGHT)) + chunk(b"IEND", b"")


def segmentation(rng, box, odd):
    x, y, w, h = box
    kind = rng.random() * (1 if odd else 0.6)
    if kind < 0.4:
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if kind < 0.5:
        return {"size": [HEIGHT, WIDTH], "counts": [3, 5, 8, 5, HEIGHT * WIDTH - 21]}
    if kind < 0.6:
        return [[x, y, x + w, y, x + w / 2, y + h], [0, 0, 3, 0, 3, 3.5]]
    return rng.choice([[], None, [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[]], "none", 5,
                       {"size": [HEIGHT, WIDTH], "counts": [400]}, {"size": [HEIGHT, WIDTH], "counts": [3, 50]}, {"size": [WIDTH, HEIGHT], "counts": [9, 9]}, {"size": [9, 9], "counts": [3, 4]}, {"size": [-1, 9], "counts": [3]},
                       {"size": [HEIGHT, WIDTH], "counts": "c14<00000]8"}, {"size": [HEIGHT, WIDTH], "counts": "oo"}, {"counts": [1]},
                       [[1, 2, None, 4, 5, 6]]])


def make_set(rng):
    """A few kinds of oddness in each, so that not all are refused."""
    odds = {name for name in ("texts", "ids", "orphans", "masks", "boxes", "sizes", "areas", "keypoints", "crowds", "names") if rng.random() < 0.25}
    image_ids = [f"i{n}" if "texts" in odds and rng.random() < 0.7 else n for n in rng.sample(range(50), rng.choice([1, 3, 8]))]
    category_ids = [f"c {n}" if "texts" in odds and rng.random() < 0.5 else n for n in rng.sample(range(9), rng.choice([1, 3]))]
    images = [{"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.png"} for i in image_ids]
    if "sizes" in odds:
        for i in images:
            i.update(rng.choice([{}, {"height": None}, {"height": -1, "width": -1}, {"width": "24"}]))
    count = rng.choice([2, 17])
    annotations, results = [], []

    def points():
        return [v for _ in range(count) for v in (rng.randrange(WIDTH), rng.randrange(HEIGHT), rng.randrange(3))]

    for n in range(rng.choice([0, 3, 20])):
        box = [rng.randrange(12), rng.randrange(8), rng.randrange(4, 12), rng.randrange(4, 8)]
        a = {"id": n + rng.choice([0, 1]) if "ids" in odds else n + 1, "image_id": rng.choice(image_ids), "category_id": rng.choice(category_ids), "bbox": box,
             "area": rng.choice([box[2] * box[3], 1024, 5000]), "iscrowd": int(rng.random() < 0.1), "segmentation": segmentation(rng, box, "masks" in odds),
             "keypoints": points(), "num_keypoints": rng.choice([0, 1, count])}
        if "ids" in odds:
            a["id"] = rng.choice([a["id"], a["id"], 0, "x", None, 10 ** 25 + n, 1.5])
            if rng.random() < 0.1:
                del a["id"]
        if "orphans" in odds:
            a[rng.choice(["image_id", "category_id", "note"])] = rng.choice([77, "nowhere"])
        if "boxes" in odds and rng.random() < 0.3:
            a["bbox"] = rng.choice([None, [], [1, 2, 3], "box", [1, 2, "3", 4]])
            if rng.random() < 0.3:
                a["bbox"] = rng.choice([[1e308, 0, 1e308, 1e308], [9, 9, -4, 5], [0, 0, 0, 0], [1, 2, 3, float("nan")]])
        if "crowds" in odds and rng.random() < 0.2:
            a["iscrowd"] = rng.choice(["0", True, None, 2, 0.5, [], float("nan")])
        if "areas" in odds:
            a["area"] = rng.choice([None, 1e12, 0, -1, "9", float("inf"), a["area"]])
        if "keypoints" in odds:
            a["keypoints"] = rng.choice([[], None, points(), points(), [1, 2], "none", [1, 2, 2]])
            a["num_keypoints"] = rng.choice([None, 0, "many", 3])
        if rng.random() < 0.1:
            a["ignore"] = rng.choice([1, True, "yes", None])
        annotations.append(a)
    for _ in range(rng.choice([0, 5, 40])):
        box = [rng.randrange(12), rng.randrange(8), rng.randrange(4, 12), rng.randrange(4, 8)]
        results.append({"image_id": rng.choice(image_ids), "category_id": rng.choice(category_ids), "bbox": box, "score": rng.choice([0.5, rng.random()]),
                        "keypoints": points(), "segmentation": segmentation(rng, box, False)})
    truth = {"images": images, "categories": [{"id": c, "name": str(c), "skeleton": [[1, 2]]} for c in category_ids], "annotations": annotations}
    if "names" in odds:
        truth["categories"][0]["name"] = rng.choice(["caf\udce9", 7, "a\tb", "\u732b", "\x00"])
    if rng.random() < 0.05:
        del truth["annotations"]
    return truth, results, count


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--bin", default="build/release/bin")
    ap.add_argument("--sets", type=int, default=60)
    ap.add_argument("--seed", default="0")
    args = ap.parse_args()
    folder = tempfile.mkdtemp()
    truth_file, results_file, packed = f"{folder}/truth.json", f"{folder}/results.json", f"{folder}/packed.h5"
    picture = png()
    bad = scored = refused = 0
    for n in range(args.sets):
        rng = random.Random(f"{args.seed}-{n}")
        truth, results, count = make_set(rng)
        json.dump(truth, open(truth_file, "w"))
        json.dump(results, open(results_file, "w"))
        for i in truth["images"]:
            with open(f"{folder}/{i['file_name']}", "wb") as f:
                f.write(picture)
        pack = subprocess.run([f"{args.bin}/mabn-pack", "coco", "-q", "-f", folder, truth_file, "-o", packed], capture_output=True, text=True)
        if pack.returncode:
            bad += 1
            print(f"set {n}: not packed: {pack.stderr}")
            continue
        for kind in ("bbox", "segm", "keypoints"):
            for more in ([], ["--fix-quirks"], ["--class-agnostic"], ["--errors", "--operating-point", "best"]):
                if kind == "keypoints" and "--errors" in more:
                    continue
                runs = [subprocess.run([f"{args.bin}/mabn-score", "coco", "-q", "--json", "--curves", "-t", kind, *more, "--sigmas", ",".join(["0.05"] * count),
                                        file, results_file], capture_output=True, text=True) for file in (truth_file, packed)]
                if runs[0].returncode != runs[1].returncode or runs[0].stdout != runs[1].stdout:
                    bad += 1
                    print(f"set {n}, {kind} {more}: {runs[0].returncode} {runs[0].stderr.strip()} | {runs[1].returncode} {runs[1].stderr.strip()}")
                scored += runs[0].returncode == 0
                refused += runs[0].returncode != 0
    print(f"{args.sets} sets, {scored} scored, {refused} refused, {bad} bad")
    sys.exit(bad > 0)


main()
