#!/usr/bin/env python3
"""Time `mabn-score coco` beside pycocotools, faster-coco-eval and hotcoco, loading included.

    tests/bench/coco_score.py SHARED [--bin build/release/bin] [--runs 5] [--peers pycocotools,faster,hotcoco]

SHARED holds data/coco-tiny, whose validation annotations are repeated 62 times with shifted ids:
4,960 images and 50,530 annotations. Results are made from these annotations (moved a little, some of
another category, with random scores): 321,408 boxes and 107,136 masks, again 62 times the same.
Every tool runs in a process of its own; wall time is the median of the
runs, memory the peak of the process. Runs are interleaved. Prints the ratios; fails when a statistic
differs by more than 1e-12 or a goal is missed (boxes 60 times, masks 30 times as fast as pycocotools
in less than half of its memory; 5 times as fast as faster-coco-eval; 3 and 4 times as fast as hotcoco in
at most 0.8 and 0.6 of its memory).
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

COPIES, BOXES, MASKS = 62, 5184, 1728
# peer: kind: times as fast, share of the memory
GOALS = {"pycocotools": {"bbox": (60, 0.5), "segm": (30, 0.5)}, "faster": {"bbox": (5, 0.5), "segm": (5, 0.5)},
         "hotcoco": {"bbox": (3, 0.8), "segm": (4, 0.6)}}
SHIFT = 10 ** 6

PEER = """
import sys, contextlib, io, json
with contextlib.redirect_stdout(io.StringIO()):
    if {peer!r} == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    elif {peer!r} == "hotcoco":
        from hotcoco import COCO, COCOeval
    else:
        from faster_coco_eval import COCO, COCOeval_faster as COCOeval
    gt = COCO({truth!r}); dt = gt.loadRes({results!r})
    e = COCOeval(gt, dt, {kind!r}); e.evaluate(); e.accumulate(); e.summarize()
print(json.dumps([float(v) for v in e.stats][:12]))
"""


def make_results(truth, rng):
    """Boxes and masks as a detector finds them: near an annotation, mostly of its category."""
    from pycocotools import mask
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth["images"]}
    categories = [c["id"] for c in truth["categories"]]
    outlines = [a for a in truth["annotations"] if isinstance(a["segmentation"], list)]
    results = {"bbox": [], "segm": []}

    def common(a):
        category = a["category_id"] if rng.random() < 0.8 else rng.choice(categories)
        return {"image_id": a["image_id"], "category_id": category, "score": round(rng.random(), 6)}

    for _ in range(BOXES):
        a = rng.choice(truth["annotations"])
        box = [round(max(0, v + rng.gauss(0, 4)), 2) for v in a["bbox"]]
        results["bbox"].append({**common(a), "bbox": box})
    for _ in range(MASKS):
        a = rng.choice(outlines)
        dx, dy = rng.gauss(0, 3), rng.gauss(0, 3)
        moved = [[v + (dy if i % 2 else dx) for i, v in enumerate(p)] for p in a["segmentation"]]
        rle = mask.merge(mask.frPyObjects(moved, *sizes[a["image_id"]]))
        rle["counts"] = rle["counts"].decode()
        results["segm"].append({**common(a), "segmentation": rle})
    return results


def make(shared, folder):
    rng = random.Random(1)
    truth = json.load(open(f"{shared}/data/coco-tiny/annotations/instances_val2017.json"))
    found = make_results(truth, rng)
    big = {"images": [], "annotations": [], "categories": truth["categories"]}
    results = {"bbox": [], "segm": []}
    base = 10 ** 9
    for k in range(COPIES):
        big["images"] += [{**i, "id": i["id"] + k * SHIFT} for i in truth["images"]]
        big["annotations"] += [{**a, "id": base + n + k * SHIFT, "image_id": a["image_id"] + k * SHIFT}
                               for n, a in enumerate(truth["annotations"])]
        for kind, some in found.items():
            results[kind] += [{**r, "image_id": r["image_id"] + k * SHIFT} for r in some]
    json.dump(big, open(f"{folder}/truth.json", "w"))
    for kind, some in results.items():
        json.dump(some, open(f"{folder}/{kind}.json", "w"))
    print(f"{len(big['images'])} images, {len(big['annotations'])} annotations, "
          f"{len(results['bbox'])} boxes, {len(results['segm'])} masks")


def run(cmd):
    """Wall seconds, peak megabytes, standard output."""
    read, write = os.pipe()
    start = time.perf_counter()
    child = subprocess.Popen(cmd, stdout=write)
    os.close(write)
    with os.fdopen(read) as f:
        text = f.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"failed: {cmd}")
    return wall, usage.ru_maxrss / 1024, text


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("shared")
    ap.add_argument("--bin", default="build/release/bin")
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--peers", default="pycocotools,faster,hotcoco")
    ap.add_argument("--folder", help="keep the data here and use it again")
    args = ap.parse_args()
    folder = args.folder or tempfile.mkdtemp()
    os.makedirs(folder, exist_ok=True)
    if not os.path.exists(f"{folder}/segm.json"):
        make(args.shared, folder)
    failed = False
    for kind in "bbox", "segm":
        files = {"truth": f"{folder}/truth.json", "results": f"{folder}/{kind}.json", "kind": kind}
        ours = [f"{args.bin}/mabn-score", "coco", "-q", "--json", "-t", kind, files["truth"], files["results"]]
        tools = {"mabn-score": ours}
        for peer in args.peers.split(",") if args.peers else []:
            tools[peer] = [sys.executable, "-c", PEER.format(peer=peer, **files)]
        wall, memory, stats = {t: [] for t in tools}, {}, {}
        for n in range(args.runs):
            for tool, cmd in tools.items():
                if tool == "pycocotools" and n > 0:
                    continue  # a minute each
                for _ in range(3 if tool == "mabn-score" else 1):
                    seconds, megabytes, text = run(cmd)
                    wall[tool].append(seconds)
                    memory[tool] = megabytes
                stats[tool] = json.loads(text)[kind]["stats"] if tool == "mabn-score" else json.loads(text)
        median = {t: sorted(w)[len(w) // 2] for t, w in wall.items()}
        for tool in tools:
            line = f"{kind} {tool:12} {median[tool]:8.3f} s  {memory[tool]:7.0f} MB"
            if tool != "mabn-score":
                times = median[tool] / median["mabn-score"]
                worst = max(abs(a - b) for a, b in zip(stats[tool], stats["mabn-score"]))
                line += f"  mabn-score is {times:.2f} times as fast, with {memory['mabn-score'] / memory[tool]:.3f} of the memory; largest difference {worst:g}"
                goal, share = GOALS[tool][kind]
                missed = times < goal or memory["mabn-score"] > memory[tool] * share
                if tool == "pycocotools":
                    missed |= worst > 1e-12
                failed |= missed
                line += "  MISSED" if missed else ""
            print(line, flush=True)
    sys.exit(failed)


main()
