#!/usr/bin/python3
"""torch_steps.py FOLDER: three SGD steps in PyTorch, of which ours can do the third.

Writes pictures (FOLDER/tree, class folders), a training checkpoint after two steps (two.pth: model,
optimizer, iteration, as the reference saves them) and the weights after the third (three.pth). Each
step sees all pictures, so that their order does not matter; the whole batch is behind each statistic.
"""
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from make_net_fixtures import ResNet, noise

CLASSES, IMAGES, SIDE = 4, 4, 16
folder = sys.argv[1]
pixels, labels = [], []
for c in range(CLASSES):
    os.makedirs("%s/tree/class%d" % (folder, c))
    for i in range(IMAGES):
        x = noise("picture %d %d" % (c, i), SIDE * SIDE * 3).reshape(SIDE, SIDE, 3)
        x = np.clip(128 + 100 * x + 20 * c, 0, 255).astype(np.uint8)
        Image.fromarray(x).save("%s/tree/class%d/%d.png" % (folder, c, i))
        pixels.append(x.astype(np.float32) / 255)
        labels.append(c)
x = (np.stack(pixels) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
torch.set_num_threads(1)
x = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
y = torch.tensor(labels)

torch.manual_seed(7)
net = ResNet("bn", False, [1, 1, 1], 4, 3, CLASSES, False, False).double()
sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.8, weight_decay=1e-3, nesterov=True)
for step in range(3):
    sgd.zero_grad()
    F.cross_entropy(net(x), y).backward()
    sgd.step()
    if step == 1:
        float_net = {k: v.float() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        state = sgd.state_dict()
        for s in state["state"].values():
            s["momentum_buffer"] = s["momentum_buffer"].float()
        torch.save({"model": float_net, "optimizer": state, "iteration": 2}, folder + "/two.pth")
torch.save({k: v.float() if v.is_floating_point() else v for k, v in net.state_dict().items()},
           folder + "/three.pth")
