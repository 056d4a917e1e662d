#!/usr/bin/python3
"""Expected values for tests/unit/test_net.c, from PyTorch (made with 1.13.1, CPU, float64).

Weights and images are not stored: both sides make them by the same small hash of a name and an
index. For each case the file has the logits, the loss and, for each parameter, the length of its
gradient and its product with a pattern made by the same hash.

    tests/golden/make_net_fixtures.py > tests/golden/net.tsv
"""
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peer"))
import resnet  # MABN in PyTorch

MABN, CentralizedConv = resnet.mabn_layers(torch, 2)


def noise(name, count):
    """`count` numbers in [-1, 1): a hash of (name, index), 32-bit arithmetic."""
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
    x = (np.arange(count, dtype=np.uint64) * 2654435761 + h) & 0xFFFFFFFF
    x ^= x >> np.uint64(16)
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x ^= x >> np.uint64(15)
    x = (x * 0x846CA68B) & 0xFFFFFFFF
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2147483648.0 - 1.0


def norm(kind, c):
    return {
        "bn": lambda: nn.BatchNorm2d(c),
        "mabn": lambda: MABN(c),
        "gn": lambda: nn.GroupNorm(2, c),
        "ln": lambda: nn.GroupNorm(1, c),
        "in": lambda: nn.GroupNorm(c, c),
    }[kind]()


def conv(i, o, k, s):
    return nn.Conv2d(i, o, k, s, k // 2, bias=False)


class Block(nn.Module):
    def __init__(self, kind, bottleneck, i, width, stride, early):
        super().__init__()
        o = 4 * width if bottleneck else width
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1, self.bn1 = conv(i, width, 1, stride if early else 1), norm(kind, width)
            self.conv2, self.bn2 = conv(width, width, 3, 1 if early else stride), norm(kind, width)
            self.conv3, self.bn3 = conv(width, o, 1, 1), norm(kind, o)
        else:
            self.conv1, self.bn1 = conv(i, width, 3, stride), norm(kind, width)
            self.conv2, self.bn2 = conv(width, o, 3, 1), norm(kind, o)
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(conv(i, o, 1, stride), norm(kind, o))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, kind, bottleneck, blocks, width, channels, classes, large, early):
        super().__init__()
        self.large = large
        self.conv1 = conv(channels, width, 7, 2) if large else conv(channels, width, 3, 1)
        self.bn1 = norm(kind, width)
        i = width
        self.layers = []
        for s, n in enumerate(blocks):
            layer = []
            for b in range(n):
                layer.append(Block(kind, bottleneck, i, width << s, 2 if s and not b else 1, early))
                i = (4 if bottleneck else 1) * (width << s)
            self.layers.append("layer%d" % (s + 1))
            setattr(self, self.layers[-1], nn.Sequential(*layer))
        self.fc = nn.Linear(i, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        for layer in self.layers:
            x = getattr(self, layer)(x)
        return self.fc(x.mean((2, 3)))


# name, arch, norm, options of ResNet, batch, height, width, channels, classes
CASES = [
    ("cifar-bn", "bn", (False, [1, 1, 1], 8, 1, 10, False, False), (4, 12, 10)),
    ("cifar-gn", "gn", (False, [1, 1, 1], 8, 3, 10, False, False), (3, 12, 10)),
    ("cifar-ln", "ln", (False, [1, 1, 1], 8, 3, 10, False, False), (3, 12, 10)),
    ("cifar-in", "in", (False, [1, 1, 1], 8, 3, 10, False, False), (3, 12, 12)),
    ("basic-bn", "bn", (False, [1, 1, 1, 1], 32, 3, 7, True, False), (4, 127, 129)),
    ("bottleneck-bn", "bn", (True, [3, 4, 6, 3], 4, 3, 7, True, False), (4, 64, 64)),
    ("stride-in-1x1", "bn", (True, [3, 4, 6, 3], 4, 3, 7, True, True), (4, 64, 64)),
]


# Steps of the whole recipe: moving windows, centralized weights, momentum, decay.
STEPS_CASE = ("mabn-steps", "mabn", (False, [1, 1, 1], 8, 3, 10, False, False), 8, [(12, 12)])
# One network, images of one size and of another by turns.
SHAPES_CASES = [
    ("two-shapes-" + kind, kind, (False, [1, 1, 1], 8, 3, 10, False, False), 4,
     [(32, 32), (48, 40)]) for kind in ("mabn", "bn")
]
STEPS = 6


def row(case, what, values):
    print("\t".join([case, what] + ["%.9g" % v for v in values]))


def make_net(kind, options):
    net = ResNet(kind, *options)
    for name, p in net.named_parameters():
        v = noise(name, p.numel()).reshape(p.shape)
        if p.dim() > 1:
            v = v * (3.0 / p[0].numel()) ** 0.5
        elif name.endswith("weight"):
            v = 1 + 0.25 * v
        else:
            v = 0.25 * v
        p.data = torch.from_numpy(v.astype(np.float32).astype(np.float64))
    return net


def make_images(name, n, channels, h, w):
    x = noise(name, n * channels * h * w).astype(np.float32).astype(np.float64)
    return torch.from_numpy(x).reshape(n, h, w, channels).permute(0, 3, 1, 2).contiguous()


RECORDED = ["bn1", "layer2.0.downsample.1", "layer3.0.bn2"]


def record(net, case):
    """The reference recorder's four statistics of channel 1 (its y is that of sample 0)."""
    def watch(name, m):
        def keep(m, inputs, y):
            def done(g):
                x, g = inputs[0][:, 1].detach(), g[:, 1]
                mean = x.mean()
                row(case, "record:" + name, [
                    mean, (x * x).mean() - mean * mean, g.mean() * m.weight[1].detach(),
                    (g * y[0, 1].detach()).mean()])
            y.register_hook(done)
        m.register_forward_hook(keep)
    for name, m in net.named_modules():
        if name in RECORDED:
            watch(name, m)


def one_step(case, kind, options, size):
    net = make_net(kind, options)
    if kind == "bn":
        record(net, case)
    x = make_images("image", size[0], options[3], *size[1:])
    y = torch.arange(size[0]) * 3 % options[4]
    logits = net(x)
    loss = F.cross_entropy(logits, y, label_smoothing=0.1)
    loss.backward()
    row(case, "logits", logits.detach().flatten().numpy())
    row(case, "loss", [loss.item()])
    for name, p in net.named_parameters():
        g = p.grad.flatten().numpy()
        row(case, name, [np.sqrt((g * g).sum()), (g * noise("pattern", g.size)).sum()])
    net.eval()
    row(case, "eval", net(x).detach().flatten().numpy())


def many_steps(case, kind, options, batch, sizes):
    net = make_net(kind, options)
    for m in net.modules():
        if type(m) is nn.Conv2d and kind == "mabn":
            m.__class__ = CentralizedConv
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for step in range(STEPS):
        x = make_images("image%d" % step, batch, options[3], *sizes[step % len(sizes)])
        y = (torch.arange(batch) * 3 + step) % options[4]
        logits = net(x)
        loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        row(case, "logits%d" % step, logits.detach().flatten().numpy())
        row(case, "loss%d" % step, [loss.item()])
    net.eval()
    row(case, "eval", net(x).detach().flatten().numpy())


def main():
    print("# made by tests/golden/make_net_fixtures.py; torch", torch.__version__)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    for case in CASES:
        one_step(*case)
    for case in [STEPS_CASE] + SHAPES_CASES:
        many_steps(*case)


if __name__ == "__main__":
    main()
