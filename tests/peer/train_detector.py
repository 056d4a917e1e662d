#!/usr/bin/python3
"""One step of training against torchvision's Mask and Faster R-CNN: the five losses, and every gradient.

torchvision's models, full width, with random weights: torch.save -> mabn-convert -> one step of
mabn-train with rate 1 and neither momentum nor decay, so that weights before less weights after are
the gradients (biases have twice the rate). Anchors and regions are all sampled in both, so that
nothing is drawn at random; the pictures need no resizing, and the objects are rectangles of whole
pixels, so that torchvision's bitmaps are our polygons. How far torchvision is from itself in float64
is printed beside.

Needs PyTorch, torchvision, numpy, h5py and PIL. Usage: train_detector.py [--tools FOLDER] [--size N]
"""
import argparse
import json
import os
import subprocess
import tempfile

import numpy as np
import torch
from PIL import Image
from torchvision.models import detection
from torchvision.ops.misc import FrozenBatchNorm2d

parser = argparse.ArgumentParser()
parser.add_argument("--tools", default="build/release/bin")
parser.add_argument("--size", type=int, default=256)
args = parser.parse_args()
SIZE, CLASSES, PROPOSALS, REGIONS = args.size, 5, 100, 480
failed = False


def tool(name, *options):
    return subprocess.run([os.path.join(args.tools, name), *map(str, options), "-q"], check=True,
                          stdout=subprocess.PIPE).stdout.decode()


def make_scenes(count, seed):
    """Pictures of noise with rectangles in them, as files and as torchvision's targets."""
    rng = np.random.RandomState(seed)
    truth = {"images": [], "annotations": [],
             "categories": [{"id": k, "name": "kind %d" % k} for k in range(1, CLASSES + 1)]}
    pictures, targets = [], []
    os.makedirs("images", exist_ok=True)
    for i in range(1, count + 1):
        pixels = rng.randint(0, 255, (SIZE // 8, SIZE // 8, 3)).astype("u1").repeat(8, 0).repeat(8, 1)
        boxes, labels, masks = [], [], []
        for k in range(4):
            w, h = rng.randint(SIZE // 8, SIZE // 2, 2)
            x, y = rng.randint(0, SIZE - w), rng.randint(0, SIZE - h)
            label = int(rng.randint(1, CLASSES + 1))
            pixels[y:y + h, x:x + w] = 40 * label
            mask = np.zeros((SIZE, SIZE), "u1")
            mask[y:y + h, x:x + w] = 1
            boxes.append([x, y, x + w, y + h]), labels.append(label), masks.append(mask)
            x, y, w, h = map(int, (x, y, w, h))
            truth["annotations"].append({
                "id": len(truth["annotations"]) + 1, "image_id": i, "category_id": label, "iscrowd": 0,
                "bbox": [x, y, w, h], "area": w * h,
                "segmentation": [[x, y, x, y + h, x + w, y + h, x + w, y]]})
        Image.fromarray(pixels).save("images/%d.png" % i)
        truth["images"].append({"id": i, "file_name": "%d.png" % i, "width": SIZE, "height": SIZE})
        pictures.append(torch.from_numpy(pixels.astype("f4") / 255).permute(2, 0, 1))
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels),
                        "masks": torch.from_numpy(np.stack(masks))})
    with open("truth.json", "w") as f:
        json.dump(truth, f)
    return pictures, targets


def make(name, seed):
    torch.manual_seed(seed)
    model = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=SIZE, max_size=SIZE,
        rpn_pre_nms_top_n_train=PROPOSALS, rpn_post_nms_top_n_train=PROPOSALS,
        rpn_batch_size_per_image=65536, box_batch_size_per_image=REGIONS)
    for module in list(model.backbone.body.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):  # as in models that are made with weights
                frozen = FrozenBatchNorm2d(child.num_features, eps=0.0)
                frozen.weight.fill_(0.2 if child_name == "bn3" else 1.0)
                setattr(module, child_name, frozen)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.train()


def their_step(model, pictures, targets, dtype):
    model = model.to(dtype)
    model.zero_grad(set_to_none=True)
    losses = model([p.to(dtype) for p in pictures],
                   [dict(t, boxes=t["boxes"].to(dtype)) for t in targets])
    sum(losses.values()).backward()
    grads = {n: p.grad.double().numpy().copy() for n, p in model.named_parameters()}
    return {k: float(v.detach()) for k, v in losses.items()}, grads


def our_step(masks):
    tool("mabn-pack", "coco", "-f", "images", "truth.json", "-o", "d.h5")
    log = tool("mabn-train", "--train", "d.h5", "-f", "-o", "run", "-b", 2, "--steps", 1, "--lr", 1, "--lr-exact",
               "--momentum", 0, "--weight-decay", 0, "--schedule", "constant", "--flip", 0, "--min-size", SIZE,
               "--max-size", SIZE, "--proposals", PROPOSALS, "--rpn-samples", 65536, "--box-samples", REGIONS,
               "--frozen", 0, "--early-images", 0, "--log-every", 1, "--device", "cpu", "--precision", "fp32",
               "ours.h5")
    step, = [json.loads(l) for l in log.splitlines() if '"t":"step"' in l]
    tool("mabn-convert", "-f", "--to", "torchvision", "run/model.h5", "-o", "after.pth")
    return step, torch.load("after.pth")


def worst(grads, other):
    """The largest difference of a tensor as a share of its largest gradient, and whose it is."""
    return max((float(np.abs(grads[n] - other[n]).max() / max(np.abs(grads[n]).max(), 1e-9)), n) for n in grads)


def check(name, seed):
    global failed
    pictures, targets = make_scenes(2, seed)
    model = make(name, seed)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(before, "theirs.pth")
    tool("mabn-convert", "-f", "--categories", "truth.json", "theirs.pth", "-o", "ours.h5")
    losses, grads = their_step(model, pictures, targets, torch.float32)
    step, after = our_step(model.roi_heads.has_mask())
    ours = {n: (before[n].double() - after[n].double()).numpy() / (2 if "bias" in n else 1) for n in grads}
    exact_losses, exact = their_step(model, pictures, targets, torch.float64)
    model.float()
    for k, theirs in losses.items():
        difference = abs(step[k] - theirs) / max(theirs, 1e-9)
        noise = abs(exact_losses[k] - theirs) / max(theirs, 1e-9)
        good = difference < 1e-5 + 10 * noise
        failed |= not good
        print("%-6s %s %-18s %.7g here, %.7g there: %.1e (torchvision in float64: %.1e)" %
              ("ok" if good else "FAILED", name, k, step[k], theirs, difference, noise), flush=True)
    (share, tensor), (noise, its) = worst(grads, ours), worst(grads, exact)
    good = share < 1e-3 + 10 * noise
    failed |= not good
    print("%-6s %s: %d gradients, within %.1e of the largest of each, worst %s (torchvision in float64: %.1e, %s)" %
          ("ok" if good else "FAILED", name, len(grads), share, tensor, noise, its), flush=True)


args.tools = os.path.abspath(args.tools)
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    check("maskrcnn_resnet50_fpn", 1)
    check("fasterrcnn_resnet50_fpn", 2)
raise SystemExit(failed)
