#!/usr/bin/python3
"""torchvision's detectors through mabn-convert: the same boxes, scores and masks on real photographs,
and back.

maskrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn and their _v2, whole, with random weights that are
scaled on the photographs so that some detections pass: torch.save -> mabn-convert -> mabn-eval coco
against the model in torchvision, the same sizes of picture. Masks are compared pixel by pixel, but
for pixels whose probability is near a half; how far torchvision is from itself in float64 is the
measure. Then the other way: mabn-convert --to torchvision, loaded
with strict=True, tensor by tensor; and a detector that mabn-init made, with trained norms, run by
torchvision. The largest differences are printed.

Needs python3-torch, python3-torchvision, python3-pil and a folder of photographs, by default
coco-tiny/val2017 in $MABN_SHARED/data.
Usage: convert_detector.py [FOLDER] [--tools FOLDER] [--images N] [--size SHORT] [--only NAME]
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.models import detection
from torchvision.ops.misc import FrozenBatchNorm2d

parser = argparse.ArgumentParser()
parser.add_argument("folder", nargs="?",
                    default=os.path.join(os.environ.get("MABN_SHARED", ""), "data/coco-tiny/val2017"))
parser.add_argument("--tools", default="build/release/bin")
parser.add_argument("--images", type=int, default=3)
parser.add_argument("--size", type=int, default=256)
parser.add_argument("--detections", type=int, default=20)
parser.add_argument("--only")
args = parser.parse_args()
LONG = args.size * 11 // 8
failed = False


def tool(name, *options):
    return subprocess.run([os.path.join(args.tools, name), *map(str, options), "-q"], check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout.decode()


def report(good, what):
    global failed
    failed |= not good
    print("%-6s %s" % ("ok" if good else "FAILED", what), flush=True)


# ---- models ----

def scale_outputs(model, pictures, layers):
    """Scale the weights of layers so that their outputs have these deviations on the pictures."""
    seen, hooks = {layer: [] for layer in layers}, []
    for layer in layers:
        hooks.append(layer.register_forward_hook(lambda m, i, o: seen[m].append(float(o.std()))))
    model(pictures)
    for hook in hooks:
        hook.remove()
    for layer, deviation in layers.items():
        layer.weight.data *= deviation / max(np.mean(seen[layer]), 1e-12)


def make(name, pictures, seed, **options):
    torch.manual_seed(seed)
    options.setdefault("box_detections_per_img", args.detections)
    model = getattr(detection, name)(weights=None, weights_backbone=None, min_size=args.size,
                                     max_size=LONG, **options).eval()
    rpn, heads = model.rpn, model.roi_heads
    kept = rpn._post_nms_top_n, heads.detections_per_img
    rpn._post_nms_top_n, heads.detections_per_img = {"training": 50, "testing": 50}, 10
    for module in model.modules():  # averages of the pictures themselves
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.train()
    model(pictures)
    model.eval()
    scale_outputs(model, pictures, {rpn.head.cls_logits: 2, rpn.head.bbox_pred: 0.1})
    scale_outputs(model, pictures, {heads.box_predictor.cls_score: 2,
                                    heads.box_predictor.bbox_pred: 0.3})
    if heads.has_mask():
        scale_outputs(model, pictures, {heads.mask_predictor.mask_fcn_logits: 2})
    rpn._post_nms_top_n, heads.detections_per_img = kept
    return model


def freeze(module):
    """As in models that are made with weights: the same norms, frozen."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=0.0)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            freeze(child)


# ---- comparing ----

def decode(rle):
    """COCO's compressed run lengths to a mask."""
    counts, text, at = [], rle["counts"].encode(), 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            c = text[at] - 48
            value |= (c & 31) << shift
            more, at, shift = c & 32, at + 1, shift + 5
            if not more and c & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    h, w = rle["size"]
    flat = np.zeros(h * w, bool)
    at = 0
    for i, n in enumerate(counts):
        flat[at:at + n] = i % 2
        at += n
    return flat.reshape(w, h).T


def of_theirs(found):
    """Detections as (label, box, score, probabilities of the mask or None)."""
    masks = found["masks"][:, 0].float().numpy() if "masks" in found else [None] * len(found["scores"])
    return list(zip(found["labels"].tolist(), found["boxes"].tolist(), found["scores"].tolist(), masks))


def of_ours(records):
    result = []
    for r in records:
        x, y, w, h = r["bbox"]
        mask = decode(r["segmentation"]).astype("f4") if "segmentation" in r else None
        result.append((r["category_id"], [x, y, x + w, y + h], r["score"], mask))
    return result


def differences(want, got):
    """How many are in both, how many in one only, largest differences of boxes and scores, pixels of
    masks that differ where `want` is not near a half."""
    left, n, box, score, pixels = list(got), 0, 0.0, 0.0, 0
    for label, b, s, soft in want:
        def distance(other):
            return max(abs(p - q) for p, q in zip(b, other[1]))
        best = min((o for o in left if o[0] == label), key=distance, default=None)
        if best is None or distance(best) > 1:
            continue
        left = [o for o in left if o is not best]
        n += 1
        box, score = max(box, distance(best)), max(score, abs(s - best[2]))
        if soft is not None:
            pixels += int((((best[3] > 0.5) != (soft > 0.5)) & (abs(soft - 0.5) > 0.02)).sum())
    return n, len(want) + len(got) - 2 * n, box, score, pixels


def compare(what, model, ours, pictures):
    """Random weights amplify rounding: what torchvision differs by from itself in float64 is the
    measure."""
    total, noise = np.zeros(5), np.zeros(5)
    for image, picture in enumerate(pictures):
        theirs = of_theirs(model.float()([picture])[0])
        for sums, other in (
                (total, of_ours([r for r in ours if r["image_id"] == image])),
                (noise, of_theirs(model.double()([picture.double()])[0]))):
            found = differences(theirs, other)
            sums[[0, 1, 4]] += np.array(found)[[0, 1, 4]]
            sums[2:4] = np.maximum(sums[2:4], found[2:4])
    model.float()
    n, lost, box, score, pixels = total
    good = (n > 0 and lost <= 2 * noise[1] + 0.04 * n and box < 0.02 + 10 * noise[2] and
            score < 2e-4 + 10 * noise[3] and pixels <= 10 * noise[4])
    line = ("%s: %d detections in both, %d in one only; boxes within %.1e pixels, scores within "
            "%.1e, %d pixels of masks differ")
    report(good, line % (what, *total))
    print("       " + line % ("torchvision in float64", *noise), flush=True)


def run_ours(h5, *options):
    return json.loads(tool("mabn-eval", "coco", "--precision", "fp32", h5, "photographs", "--min-size",
                           args.size, "--max-size", LONG, "--max-dets", args.detections, *options))


def check(what, name, seed, pictures, frozen=False, options=None, ours=(), convert=()):
    if args.only and args.only not in what:
        return
    model = make(name, pictures, seed, **(options or {}))
    if frozen:
        freeze(model.backbone)
    torch.save(model.state_dict(), "theirs.pth")
    tool("mabn-convert", "-f", *convert, "theirs.pth", "-o", "ours.h5")
    compare(what, model, run_ours("ours.h5", *ours), pictures)
    tool("mabn-convert", "-f", "--to", "torchvision", "ours.h5", "-o", "back.pth")
    back, theirs = torch.load("back.pth"), model.state_dict()
    model.load_state_dict(back, strict=True)
    same = back.keys() == theirs.keys() and all(torch.equal(back[k], theirs[k]) for k in back)
    report(same, "%s: %d tensors go back as they came" % (what, len(back)))


def check_own(what, norm, loader, pictures, *options):
    """A detector of ours in torchvision."""
    if args.only and args.only not in what:
        return
    tool("mabn-init", "mask-rcnn-r50-fpn", "-f", "--boxes", "torchvision", "--norm", norm, *options,
         "--classes", 5, "-o", "new.h5")
    tool("mabn-convert", "-f", "--to", "torchvision", "new.h5", "-o", "new.pth")
    model = getattr(detection, loader)(weights=None, weights_backbone=None, num_classes=6,
                                       min_size=args.size, max_size=LONG, box_score_thresh=0.0,
                                       box_detections_per_img=args.detections)
    model.load_state_dict(torch.load("new.pth"), strict=True)
    model.eval()
    tool("mabn-convert", "-f", "--categories", "five.json", "new.pth", "-o", "new.h5")
    compare(what, model, run_ours("new.h5", "--min-score", 0), pictures)


names = sorted(os.listdir(args.folder))[:args.images]
with tempfile.TemporaryDirectory() as folder:
    args.tools, args.folder = os.path.abspath(args.tools), os.path.abspath(args.folder)
    os.chdir(folder)
    os.mkdir("photographs")
    pictures = []
    for i, name in enumerate(names):
        picture = Image.open(os.path.join(args.folder, name)).convert("RGB")
        picture.save("photographs/%d.png" % i)
        pictures.append(torchvision.transforms.functional.to_tensor(picture))
    with open("five.json", "w") as f:
        json.dump({"images": [], "annotations": [],
                   "categories": [{"id": i, "name": "%d" % i} for i in range(1, 6)]}, f)
    torch.set_grad_enabled(False)
    check("mask rcnn", "maskrcnn_resnet50_fpn", 1, pictures)
    check("mask rcnn, frozen", "maskrcnn_resnet50_fpn", 2, pictures, frozen=True)
    check("faster rcnn, frozen", "fasterrcnn_resnet50_fpn", 3, pictures, frozen=True)
    check("mask rcnn v2", "maskrcnn_resnet50_fpn_v2", 4, pictures)
    check("faster rcnn v2", "fasterrcnn_resnet50_fpn_v2", 5, pictures)
    check("mask rcnn, 5 classes", "maskrcnn_resnet50_fpn", 6, pictures,
          options={"num_classes": 6, "box_score_thresh": 0.2}, ours=("--min-score", 0.2), convert=("--categories", "five.json"))
    check_own("ours, frozen", "body=frozen,fpn=none,heads=none", "maskrcnn_resnet50_fpn", pictures,
              "--box-head", "2fc")
    check_own("ours, bn", "body=bn,fpn=none,heads=none", "maskrcnn_resnet50_fpn", pictures,
              "--box-head", "2fc")
sys.exit(failed)
