#!/usr/bin/env python3
"""Make the seeds of fuzz_convert: tables of tensors of small detectors and classifiers under each
program's names, as mabn-init and mabn-convert have them.

The seeds are committed; only who changes them needs this. Usage: make_convert_corpus.py BIN [FOLDER]
"""
import os
import subprocess
import sys
import tempfile

tools = os.path.abspath(sys.argv[1])
root = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(__file__), "corpus/convert")
os.makedirs(root, exist_ok=True)
small = "--base-width 2 --fpn-width 2 --head-width 2 --fc-width 3 --classes 2".split()
# name: architecture and options of mabn-init, family to convert to, the seed's first byte
seeds = {
    "mask-mabn": ("mask-rcnn-r18-fpn --norm mabn", None, 0),
    "mask-bn": ("mask-rcnn-r18-fpn --norm bn --box-head 2fc", None, 0),
    "mask-r50-frozen": ("mask-rcnn-r50-fpn --norm body=frozen,fpn=none,heads=none --box-head 2fc", "reference", 0),
    "faster-torchvision": ("faster-rcnn-r18-fpn --norm body=frozen,fpn=none,heads=none --box-head 2fc"
                           " --boxes torchvision", "torchvision", 4),
    "mask-torchvision": ("mask-rcnn-r18-fpn --norm body=bn,fpn=bn,heads=bn --boxes torchvision", "torchvision", 4 + 1),
    "mask-detectron2": ("mask-rcnn-r50-fpn --norm body=frozen,fpn=none,heads=none --box-head 2fc"
                        " --boxes detectron2", "detectron2", 4 + 2),
    "mask-gn": ("mask-rcnn-r18-fpn --norm gn --groups 1", "reference", 0),
    "body-into": ("resnet18 --norm bn --base-width 2", None, 32 + 16),
}
with tempfile.TemporaryDirectory() as folder:
    for name, (options, family, first) in seeds.items():
        detector = "rcnn" in options
        path = os.path.join(folder, name + ".h5")
        subprocess.run([tools + "/mabn-init", "-q", *options.split(), *(small if detector else []), "-o", path],
                       check=True)
        if family:
            there = path.replace(".h5", ".pth")
            subprocess.run([tools + "/mabn-convert", "-q", "--to", family, path, "-o", there], check=True)
            path = there
        table = subprocess.run([tools + "/mabn-convert", "-q", "--list", path], check=True,
                               stdout=subprocess.PIPE).stdout.decode()
        lines = []
        for row in table.splitlines():
            source, shape = row.split("\t")[:2]
            if source in ("-", "source", "name"):
                continue
            lines.append(" ".join([source] + [d for d in shape.strip("()[]").replace("x", ",").split(",") if d.strip()]))
        with open(os.path.join(root, name), "wb") as f:
            f.write(bytes([first]) + "\n".join(lines).encode() + b"\n")
