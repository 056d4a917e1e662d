#!/usr/bin/env python3
"""Make tests/golden/coco: small annotation and results files and what pycocotools says of them.

    tests/golden/make_coco_fixtures.py        (needs pycocotools 2.0.11 and numpy; PyPI)

The data sets are those of tests/peer/coco_random.py, a few chosen seeds of each type that hold
crowds, ties, empty images, more than 100 detections, masks of all kinds, ids twice and id 0.
"""
import importlib.util
import json
import os
import random

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("coco_random", f"{HERE}/../peer/coco_random.py")
peer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peer)

WANTED = {"bbox": 4, "segm": 4, "keypoints": 3}
LIMIT = 60000  # bytes of a set

out = f"{HERE}/coco"
os.makedirs(out, exist_ok=True)
for kind, wanted in WANTED.items():
    found, seed = 0, 0
    while found < wanted:
        seed += 1
        rng = random.Random(f"{kind} {seed}")
        truth, results = peer.make_set(rng, kind)
        settings = peer.settings(rng, truth, kind)
        text = json.dumps({"truth": truth, "results": results})
        if len(text) > LIMIT or len(truth["annotations"]) < 10:
            continue
        want = peer.run_peer(truth, results, kind, settings)
        if want["stats"][0] < 0.02:
            continue
        ap = {}
        categories = settings.get("categories") or sorted(c["id"] for c in truth["categories"])
        last = want["precision"].shape[-1] - 1
        for k, c in enumerate([-1] if settings.get("class_agnostic") else categories):
            p = want["precision"][:, :, k, 0, last]
            ap[str(c)] = float(np.mean(p[p > -1])) if (p > -1).any() else -1.0
        name = f"{out}/{kind}_{found}"
        json.dump(truth, open(f"{name}_truth.json", "w"), separators=(",", ":"))
        json.dump(results, open(f"{name}_results.json", "w"), separators=(",", ":"))
        json.dump({"arguments": ["-t", kind] + peer.arguments(settings), "stats": list(map(float, want["stats"])),
                   "ap_per_category": ap, "recall": want["recall"].tolist()},
                  open(f"{name}_expected.json", "w"), separators=(",", ":"))
        found += 1
