#!/usr/bin/python3
"""Mask R-CNN beside torchvision's maskrcnn_resnet50_fpn: speed and peak memory on the same photographs.

Inference runs the same weights in both: torchvision's model with random weights, written as a .pth
file and read by mabn-convert. Three classes are favoured, so that there are 3,000 boxes to choose from
and 100 masks to paste in every photograph, as with a trained model (torchvision leaves its masks as
pixels, mabn-eval encodes and writes them). Training is whole steps, data included, of the same network
from random weights, with BN in the body and no other norm. Every contender is a process of its own and they
take turns, round by round; figures are medians over rounds. torchvision runs in both memory layouts
in the first round and goes on in its better one.

    PATH=build/release/bin:$PATH tests/peer/detector.py IMAGES ANNOTATIONS [--rounds 3] ...

Needs PyTorch and torchvision (python3-torchvision, or version 2 from PyPI) and numpy. Prints a table.
"""
import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("images", help="folder of photographs")
    p.add_argument("annotations", help="COCO's instances of them")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--photographs", type=int, default=4, help="landscapes of 640x480; more is steadier")
    p.add_argument("--steps", type=int, default=3, help="timed training steps of a process")
    p.add_argument("--size", type=int, default=800, help="shorter side that the network sees")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="ours, of inference")
    p.add_argument("--only", choices=["training", "inference"])
    p.add_argument("--torch-child", nargs=3, help=argparse.SUPPRESS)
    return p.parse_args()


# ---- torchvision, in a child process ----


def torch_model(o, folder):
    import torch
    import torchvision

    torch.manual_seed(1)
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=o.size)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[1:4] = 3
    path = os.path.join(folder, "peer.pth")
    if os.path.exists(path):
        model.load_state_dict(torch.load(path))
    return torch, model, path


def photographs(torch, folder):
    import torchvision

    with open(os.path.join(folder, "subset.json")) as f:
        data = json.load(f)
    anns = {}
    for a in data["annotations"]:
        anns.setdefault(a["image_id"], []).append(a)
    for image in data["images"]:
        yield image, anns.get(image["id"], [])


def decode(torch, o, image):
    import torchvision

    path = os.path.join(o.images, image["file_name"])
    mode = torchvision.io.ImageReadMode.RGB
    return torchvision.io.read_image(path, mode).float() / 255


def target(torch, image, anns):
    """Boxes, labels and masks, drawn by OpenCV-free means: one polygon filled by PIL."""
    import numpy
    from PIL import Image, ImageDraw

    boxes, labels, masks = [], [], []
    for a in anns:
        if a.get("iscrowd") or not isinstance(a["segmentation"], list):
            continue
        x, y, w, h = a["bbox"]
        if w < 1 or h < 1:
            continue
        canvas = Image.new("L", (image["width"], image["height"]))
        for polygon in a["segmentation"]:
            ImageDraw.Draw(canvas).polygon([float(v) for v in polygon], fill=1)
        boxes.append([x, y, x + w, y + h])
        labels.append(a["category_id"])
        masks.append(numpy.array(canvas))
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels),
            "masks": torch.from_numpy(numpy.stack(masks))}


def torch_inference(torch, o, model, folder, layout):
    items = list(photographs(torch, folder))
    model.eval()
    if layout == "nhwc":
        model = model.to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for k in range(len(items) + 1):  # the first once more, before the clock
            start = time.perf_counter()
            found = model([decode(torch, o, items[max(k - 1, 0)][0])])
            times.append(time.perf_counter() - start)
    return {"seconds": statistics.mean(times[1:]), "found": len(found[0]["scores"])}


def torch_training(torch, o, model, folder, layout):
    items = [i for i in photographs(torch, folder) if i[1]]
    model.train()
    if layout == "nhwc":
        model = model.to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), 1e-5, momentum=0.9, weight_decay=1e-4)
    times, at = [], 0
    for _ in range(o.steps + 1):
        start = time.perf_counter()
        pair = [items[(at + k) % len(items)] for k in range(2)]
        at += 2
        loss = sum(model([decode(torch, o, i) for i, _ in pair],
                         [target(torch, i, a) for i, a in pair]).values())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:]) / 2}


def torch_child(o, what, layout, folder):
    os.environ["OMP_NUM_THREADS"] = str(o.threads)
    torch, model, _ = torch_model(o, folder)
    torch.set_num_threads(o.threads)
    run = torch_training if what == "training" else torch_inference
    result = run(torch, o, model, folder, layout)
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["version"] = torch.__version__
    print(json.dumps(result))


# ---- the two of them ----


def run_child(command, environment):
    """stdout, seconds, and the most memory of the process."""
    start = time.perf_counter()
    p = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    out = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return out, time.perf_counter() - start, usage.ru_maxrss * 1024


def peer(o, what, layout, folder):
    command = [sys.executable, __file__, o.images, o.annotations, "--size", str(o.size), "--steps",
               str(o.steps), "--threads", str(o.threads), "--torch-child", what, layout, folder]
    out, _, _ = run_child(command, {**os.environ, "OMP_NUM_THREADS": str(o.threads)})
    return json.loads(out)


def ours_inference(o, folder):
    """The whole process over all photographs, less one over the first alone, which costs the start."""
    times, peak = {}, 0
    for name in ("one", "all"):
        _, times[name], memory = run_child(
            ["mabn-eval", "coco", "-q", "--precision", o.precision, "-j", str(o.threads), "--min-size", str(o.size),
             os.path.join(folder, "model.h5"), os.path.join(folder, name + ".h5")],
            {**os.environ, "OMP_NUM_THREADS": str(o.threads)})
        peak = max(peak, memory)
    return {"seconds": (times["all"] - times["one"]) / (o.photographs - 1), "peak": peak}


def ours_training(o, folder, more):
    """The whole process over some steps, less one over a single step."""
    one, _ = train_for(o, folder, 1, more)
    all_of_them, peak = train_for(o, folder, 1 + o.steps, more)
    return {"seconds": (all_of_them - one) / (2 * o.steps), "peak": peak}


def train_for(o, folder, steps, more):
    run = os.path.join(folder, "run")
    _, seconds, peak = run_child(
        ["mabn-train", "-q", "--train", os.path.join(folder, "all.h5"), "-o", run, "-f", "--batch", "2",
         "--steps", str(steps), "--lr", "1e-5", "--lr-exact", "--schedule", "constant",
         "--log-every", "1", "--save-every", "1000", "--min-size", str(o.size), "-j", str(o.threads), "--boxes", "torchvision",
         "--arch", "mask-rcnn-r50-fpn", "--box-head", "2fc", "--norm", "body=bn,fpn=none,heads=none",
         "--early-images", "0"] + more,
        {**os.environ, "OMP_NUM_THREADS": str(o.threads)})
    return seconds, peak


def prepare(o, folder):
    with open(o.annotations) as f:
        data = json.load(f)
    labelled = {a["image_id"] for a in data["annotations"] if not a["iscrowd"]}
    fits = [i for i in data["images"]
            if (i["width"], i["height"]) == (640, 480) and i["id"] in labelled][:o.photographs]
    if len(fits) < 2:
        sys.exit("fewer than two photographs of 640x480 with objects")
    o.photographs = len(fits)
    for name, images in (("one", fits[:1]), ("all", fits)):
        ids = {i["id"] for i in images}
        part = {**data, "images": images,
                "annotations": [a for a in data["annotations"] if a["image_id"] in ids]}
        path = os.path.join(folder, "subset.json" if name == "all" else "one.json")
        with open(path, "w") as f:
            json.dump(part, f)
        subprocess.run(["mabn-pack", "coco", "-q", o.images, path, "-o",
                        os.path.join(folder, name + ".h5")], check=True)
    torch, model, path = torch_model(o, folder)
    torch.save(model.state_dict(), path)
    subprocess.run(["mabn-convert", "-q", path, "-o", os.path.join(folder, "model.h5")], check=True)


def figures(o, folder, what):
    """Rounds in turns. Yields a row for each way of ours: medians of seconds an image and peak bytes of
    both, and of the ratios."""
    first = {layout: peer(o, what, layout, folder) for layout in ("nchw", "nhwc")}
    layout = min(first, key=lambda k: first[k]["seconds"])
    ways = {"inference": {what: lambda: ours_inference(o, folder)},
            "training": {what: lambda: ours_training(o, folder, []),
                         "  --no-save-memory": lambda: ours_training(o, folder, ["--no-save-memory"])}}[what]
    ours, theirs = {way: [] for way in ways}, []
    for _ in range(o.rounds):
        for way, run in ways.items():
            ours[way].append(run())
        theirs.append(peer(o, what, layout, folder))
    middle = lambda rows, key: statistics.median(r[key] for r in rows)
    for way, rows in ours.items():
        yield {"way": way, "layout": layout, "version": first["nchw"]["version"],
               "ours": middle(rows, "seconds"), "theirs": middle(theirs, "seconds"),
               "speed": statistics.median(t["seconds"] / m["seconds"] for m, t in zip(rows, theirs)),
               "ours_peak": middle(rows, "peak"), "theirs_peak": middle(theirs, "peak")}


def main():
    o = options()
    if o.torch_child:
        return torch_child(o, *o.torch_child)
    with tempfile.TemporaryDirectory(prefix="mabn-peer-") as folder:
        prepare(o, folder)
        print("work               ours s/image  peer s/image  speed  ours MiB  peer MiB  memory  peer")
        for what in ("inference", "training"):
            if o.only not in (None, what):
                continue
            for f in figures(o, folder, what):
                print(f"{f['way']:18} {f['ours']:12.3f} {f['theirs']:13.3f} {f['speed']:5.2f}x"
                      f" {f['ours_peak'] / 2**20:9.0f} {f['theirs_peak'] / 2**20:9.0f}"
                      f" {f['ours_peak'] / f['theirs_peak']:6.2f}x  PyTorch {f['version']}, {f['layout']}",
                      flush=True)


main()
