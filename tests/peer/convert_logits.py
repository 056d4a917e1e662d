#!/usr/bin/env python3
"""torchvision's ResNets through mabn-convert: the same logits on real photographs, and back.

Each network has random weights and running statistics of its own. torch.save → mabn-convert →
mabn-pack, mabn-eval (our decoding, resizing and network) against PyTorch (Pillow's decoding and
resizing): within 1e-3. The same network behind identical input is within 1e-4: mabn-eval of
pictures that need no resizing (224x224 PNG). Then our file back to .pth into torchvision.

Needs python3-torch, python3-torchvision, python3-pil and a folder of class folders with JPEG
photographs. Usage: convert_logits.py FOLDER [FOLDER OF THE TOOLS] [IMAGES]
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torchvision
from PIL import Image

photographs = sys.argv[1]
tools = sys.argv[2] if len(sys.argv) > 2 else "build/release/bin"
limit = int(sys.argv[3]) if len(sys.argv) > 3 else 32
failed = False


def tool(name, *args):
    return subprocess.run([os.path.join(tools, name), *args, "-q"], check=True,
                          stdout=subprocess.PIPE).stdout.decode()


def report(what, error, scale, tolerance):
    global failed
    failed |= not error <= tolerance
    print("%-6s %-34s max abs %.2e of %.3g" % ("ok" if error <= tolerance else "FAILED", what, error,
                                              scale))


def our_logits(h5, dataset):
    text = tool("mabn-eval", "imagenet", "--precision", "fp32", h5, dataset, "--predictions", "--logits")
    lines = [json.loads(line) for line in text.splitlines()]
    return np.array([line["logits"] for line in sorted(lines, key=lambda v: v["sample"])], "f4")


preprocess = torchvision.transforms.Compose([
    torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224),
    torchvision.transforms.ToTensor(),
    torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])

with tempfile.TemporaryDirectory() as folder:
    names = sorted(os.path.join(d, f) for d in sorted(os.listdir(photographs))
                   for f in os.listdir(os.path.join(photographs, d)))[:limit]
    batch, lists = [], {"photographs": [], "224x224": []}
    for i, name in enumerate(names):
        picture = Image.open(os.path.join(photographs, name)).convert("RGB")
        batch.append(preprocess(picture))
        # What PyTorch sees after resizing and cropping, as a picture that needs neither.
        small = torchvision.transforms.Compose(preprocess.transforms[:2])(picture)
        png = os.path.join(folder, "%04d.png" % i)
        # A border, so that resizing the shorter side to 256 leaves the pixels alone.
        wide = Image.new("RGB", (256, 256))
        wide.paste(small, (16, 16))
        wide.save(png)
        lists["photographs"].append(os.path.abspath(os.path.join(photographs, name)))
        lists["224x224"].append(png)
    x = torch.stack(batch)
    classes = os.path.join(folder, "classes")  # mabn-eval wants as many as the network has
    with open(classes, "w") as f:
        f.writelines("class%d\n" % i for i in range(1000))
    for kind, paths in lists.items():
        with open(os.path.join(folder, kind + ".tsv"), "w") as f:
            f.writelines("%s\tclass0\n" % path for path in paths)
        tool("mabn-pack", "list", os.path.join(folder, kind + ".tsv"), "-c", classes, "-o",
             os.path.join(folder, kind + ".h5"))
    torch.manual_seed(1)
    for arch in ("resnet18", "resnet50"):
        net = getattr(torchvision.models, arch)()
        with torch.no_grad():
            for k in range(0, len(x) - 7, 8):
                net(x[k:k + 8])
        net.eval()
        pth, h5 = os.path.join(folder, "a.pth"), os.path.join(folder, "a.h5")
        torch.save(net.state_dict(), pth)
        tool("mabn-convert", "-f", pth, "-o", h5)
        with torch.no_grad():
            want = torch.cat([net(x[k:k + 8]) for k in range(0, len(x), 8)]).numpy()
        for kind, tolerance in (("photographs", 1e-3), ("224x224", 1e-4)):
            got = our_logits(h5, os.path.join(folder, kind + ".h5"))
            report("%s, %d %s" % (arch, len(x), kind), float(np.abs(got - want).max()),
                   np.abs(want).max(), tolerance)
        back = os.path.join(folder, "b.pth")
        tool("mabn-convert", "-f", h5, "-o", back)
        again = getattr(torchvision.models, arch)()
        again.load_state_dict(torch.load(back, weights_only=True))
        again.eval()
        with torch.no_grad():
            error = float((again(x[:8]) - net(x[:8])).abs().max())
        report("%s, back into torchvision" % arch, error, np.abs(want).max(), 0)
sys.exit(failed)
