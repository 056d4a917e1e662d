#!/usr/bin/env python3
"""Make the seeds of fuzz_json, fuzz_rle, fuzz_polygon and fuzz_coco: tests/fuzz/corpus/NAME.

    tests/fuzz/make_coco_corpus.py         (needs only Python)
"""
import glob
import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))


def put(name, seeds):
    folder = f"{HERE}/corpus/{name}"
    os.makedirs(folder, exist_ok=True)
    for i, seed in enumerate(seeds):
        with open(f"{folder}/seed{i:02}", "wb") as f:
            f.write(seed)


put("json", [s.encode() for s in [
    '{"a": [1, -2.5e3, 0.1, "x\\u00e9\\ud83d\\ude00\\n", true, false, null, {}], "b": {"c": []}}',
    '[[[[[[]]]]]]', '"\u00e9\u20ac\U0001f600"', "\ufeff[1]", " 123456789012345678901 ", "[1e308, 1e-320, 1e400, 0.5531082614048057]",
    '{"images": [{"id": 1, "height": 4}], "annotations": []}', '[1, 2,\n 3 ]', '"\\"\\\\\\/\\b\\f\\n\\r\\t"', "nul", "[1,]", '{"a" : }']])

rle = []
for h, w, text in [(8, 8, "93500000g0"), (10, 10, "091O1O1O1O1O1O1O1O;"), (10, 12, "0642N1Oc10\\N2N2NN"),
                   (7, 1, "231N"), (3, 4, "<"), (3, 4, "0<"), (100, 50, "Xo05So02NLSTO"), (9, 9, "oooooooo"), (0, 0, "0")]:
    rle.append(struct.pack("<HHB", h, w, 0) + text.encode())
for h, w, counts in [(8, 8, [9, 3, 5, 3, 44]), (3, 4, [0, 12]), (3, 4, [12]), (3, 4, [4000000000, 4000000000]), (5, 5, [1, 0, 0, 2, 3])]:
    rle.append(struct.pack("<HHB", h, w, 1) + struct.pack(f"<{len(counts)}I", *counts))
rle.append(struct.pack("<HHB", 65535, 65535, 0xf2) + b"1")
put("rle", rle)

polygons = []
for form, xy in [(2, [1, 1, 1, 4, 5, 4, 5, 1]), (2, [0, 0, 10, 0, 0, 10]), (1, [23, 17, 79, 32, 44, 86]),
                 (1, [-30, 20, 60, -25, 140, 50, 55, 130]), (2, [0, 0, 9, 9, 9, 0, 0, 9]), (0, [640, 384, 640, 1408, 1408, 1408, 1408, 384]),
                 (3, [-3000, 20, 30000, -25, 140, 30000]), (2, [5, 5]), (2, [])]:
    polygons.append(bytes([9, 11, form]) + struct.pack(f"<{len(xy)}h", *xy))
polygons.append(bytes([9, 11, 4]) + struct.pack("<6d", 1e8, -1e8, 3.5, float("nan"), 1e300, 5))
put("polygon", polygons)

coco = []
for truth in sorted(glob.glob(f"{HERE}/../golden/coco/*_truth.json")):
    t = json.load(open(truth))
    r = json.load(open(truth.replace("_truth", "_results")))
    images = {i["id"] for i in t["images"][:3]}
    t["images"] = t["images"][:3]
    t["annotations"] = [a for a in t["annotations"] if a["image_id"] in images][:6]
    r = [d for d in r if d["image_id"] in images][:6]
    if t["annotations"] and r:
        coco.append(json.dumps(t, separators=(",", ":")).encode() + b"\0" + json.dumps(r, separators=(",", ":")).encode())
put("coco", coco[:8])
