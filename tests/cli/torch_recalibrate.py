#!/usr/bin/python3
"""torch_recalibrate.py START.pth NEW.pth TREE BATCH IMAGES: is NEW, what mabn-eval --recalibrate wrote,
START with the statistics that PyTorch finds in the same batches?

The network is a cifar-resnet8. Each batch is normalized by its own statistics; the variance is that of
all elements of all batches, taken from their mean and mean square in double.
"""
import glob
import os
import sys

import numpy as np
import torch
import torch.nn as nn
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from make_net_fixtures import ResNet

start, new = (torch.load(p, map_location="cpu") for p in sys.argv[1:3])
tree, batch, images = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
start = start.get("model", start)
new = new.get("model", new)
mabn = "bn1.running_mean" not in start


class Measure(nn.Module):
    """Normalizes by the batch, and remembers Σx and Σx² of all."""

    def __init__(self, c):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.sum, self.square, self.count = 0, 0, 0

    def forward(self, x):
        self.sum += x.sum((0, 2, 3))
        self.square += (x * x).sum((0, 2, 3))
        self.count += x.numel() // x.shape[1]
        mean = 0 if mabn else x.mean((0, 2, 3), keepdim=True)
        scale = torch.sqrt(((x - mean) ** 2).mean((0, 2, 3), keepdim=True) + 1e-5)
        return (x - mean) / scale * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def measuring(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, Measure(child.num_features))
        else:
            measuring(child)


width = start["conv1.weight"].shape[0]
net = ResNet("bn", False, [1, 1, 1], width, 3, start["fc.bias"].shape[0], False, False)
measuring(net)
net = net.double()
values = {k: v.double() for k, v in start.items() if k in net.state_dict()}
if mabn:  # centralized weights
    for k, v in values.items():
        if v.dim() == 4:
            values[k] = v - v.mean((1, 2, 3), keepdim=True)
net.load_state_dict(values)

files = sorted(glob.glob(tree + "/*/*"))
pixels = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files]).astype(np.float64) / 255
pixels = (pixels - [0.4914, 0.4822, 0.4465]) / [0.247, 0.2435, 0.2616]
x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
batches = images // batch
with torch.no_grad():
    for k in range(batches):
        net(x[[(i * batches + k) * len(files) // (batch * batches) for i in range(batch)]])

worst = 0
for name, module in net.named_modules():
    if not isinstance(module, Measure):
        continue
    mean = module.sum / module.count
    want = {"running_var": module.square / module.count - (0 if mabn else mean * mean)}
    if not mabn:
        want["running_mean"] = mean
    for key, value in want.items():
        got, before = (d["%s.%s" % (name, key)].double().reshape(-1) for d in (new, start))
        assert (got - before).abs().max() > 1e-3, "%s.%s was not changed" % (name, key)
        worst = max(worst, ((got - value).abs() / value.abs().max()).max().item())
for key, value in start.items():
    if "running" not in key:
        assert torch.equal(value, new[key]), key + " was changed"
print("largest difference %.1e" % worst)
assert worst < 2e-6
