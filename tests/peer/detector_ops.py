#!/usr/bin/python3
"""Compare a detector's small operations and losses with PyTorch's, live, on random shapes.

    /usr/bin/python3 tests/peer/detector_ops.py [--cases 50] [--seed 1]

Run from the top of the tree after `make`. Prints the largest difference of each, relative to the
largest value of the tensor, and fails above 1e-5: PyTorch computes in float64 here, ours in float32
with sums of up to some thousand terms.
"""
import argparse
import ctypes
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from torch.nn import functional as F

NAMES = ["upsample_add", "upsample_backward", "transposed_conv_forward",
         "transposed_conv_backward_data", "transposed_conv_backward_weights",
         "transposed_conv_scratch_bytes", "sigmoid_xent", "mask_loss", "smooth_l1",
         "softmax_xent", "sigmoid", "sigmoid_backward"]


class Upsample(ctypes.Structure):
    _fields_ = [(f, ctypes.c_int64) for f in ("n", "c", "h", "w", "out_h", "out_w")]


class TransposedConv(ctypes.Structure):
    _fields_ = [(f, ctypes.c_int64) for f in ("n", "h", "w", "in_", "out")]


class XentOut(ctypes.Structure):
    _fields_ = [(f, ctypes.c_void_p) for f in ("loss", "prob", "dlogits")]


class SmoothL1(ctypes.Structure):
    _fields_ = [("rows", ctypes.c_int64), ("groups", ctypes.c_int64), ("beta", ctypes.c_double),
                ("scale", ctypes.c_double)]


def load():
    """What is needed of libmabn.a, as a shared library."""
    archive = next((a for a in ("build/release/libmabn.a", "build/release-cuda/libmabn.a")
                    if os.path.exists(a)), None)
    if not archive:
        sys.exit("detector_ops.py: run from the top of the tree, after make")
    library = os.path.join(tempfile.mkdtemp(), "ops.so")
    wanted = [f"-Wl,-u,mabn_{name}" for name in NAMES]
    subprocess.run(["cc", "-shared", "-fopenmp", *wanted, archive, "-ldnnl", "-lm", "-o", library],
                   check=True)
    lib = ctypes.CDLL(library)
    lib.mabn_transposed_conv_scratch_bytes.restype = ctypes.c_size_t
    return lib


def at(a):
    return ctypes.c_void_p(a.ctypes.data)


def call(lib, name, *args):
    """Arrays by address, structures by reference, numbers as C's int64_t and double."""
    kinds = {np.ndarray: at, int: ctypes.c_int64, float: ctypes.c_double, bool: ctypes.c_bool,
             type(None): lambda _: ctypes.c_void_p(None)}
    status = getattr(lib, "mabn_" + name)(*[kinds.get(type(a), ctypes.byref)(a) for a in args])
    return status


def nhwc(t):
    return np.ascontiguousarray(t.detach().permute(0, 2, 3, 1).float().numpy())


def nchw(a):
    return np.transpose(a, (0, 3, 1, 2))


class Judge:
    def __init__(self):
        self.worst = {}

    def add(self, what, got, want):
        want = want.detach().numpy() if torch.is_tensor(want) else np.asarray(want)
        scale = max(float(np.abs(want).max()) if want.size else 0.0, 1e-30)
        e = float(np.abs(got - want).max()) / scale if want.size else 0.0
        self.worst[what] = max(self.worst.get(what, 0.0), e)

    def report(self):
        for what, e in self.worst.items():
            print(f"{what}\t{e:.1e}\t{'ok' if e <= 1e-5 else 'TOO FAR'}")
        return sum(not e <= 1e-5 for e in self.worst.values())


def draw(rng, *shape):
    """Values of float32, in a tensor of float64 with a gradient."""
    v = torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).double()
    return v.requires_grad_(True)


def f32(t):
    return np.ascontiguousarray(t.detach().float().numpy())


def upsample(lib, rng, judge):
    """The sizes of a pyramid: a side is halved rounding up."""
    n, c, oh, ow = (int(rng.integers(1, high)) for high in (4, 70, 40, 40))
    h, w = (oh + 1) // 2, (ow + 1) // 2
    a, b, dy = draw(rng, n, c, oh, ow), draw(rng, n, c, h, w), draw(rng, n, c, oh, ow)
    y = a + F.interpolate(b, size=(oh, ow), mode="nearest")
    y.backward(dy)
    op, got, db = Upsample(n, c, h, w, oh, ow), nhwc(a), np.empty_like(nhwc(b))
    call(lib, "upsample_add", got, nhwc(a), nhwc(b), op)
    call(lib, "upsample_backward", db, nhwc(dy), op, False)
    judge.add("upsampling: y", nchw(got), y)
    judge.add("upsampling: db", nchw(db), b.grad)


def transposed_conv(lib, rng, judge):
    n, h, w, i, o = (int(rng.integers(1, high)) for high in (12, 15, 15, 40, 40))
    x, weight, bias = draw(rng, n, i, h, w), draw(rng, i, o, 2, 2), draw(rng, o)
    y, dy = F.conv_transpose2d(x, weight, bias, stride=2), draw(rng, n, o, 2 * h, 2 * w)
    y.backward(dy)
    op, mx, mw, mdy = TransposedConv(n, h, w, i, o), nhwc(x), nhwc(weight), nhwc(dy)
    scratch = np.empty(lib.mabn_transposed_conv_scratch_bytes(ctypes.c_int64(o)), np.uint8)
    got, dx, dw, db = np.empty_like(mdy), np.empty_like(mx), np.empty_like(mw), f32(bias)
    assert call(lib, "transposed_conv_forward", got, mx, mw, f32(bias), op, False, scratch) == 0
    assert call(lib, "transposed_conv_backward_data", dx, mdy, mw, op, False, scratch) == 0
    assert call(lib, "transposed_conv_backward_weights", dw, db, mx, mdy, op, scratch) == 0
    for what, mine, theirs in (("y", nchw(got), y), ("dx", nchw(dx), x.grad),
                               ("dW", nchw(dw), weight.grad), ("dbias", db, bias.grad)):
        judge.add("transposed convolution: " + what, mine, theirs)


def mask_loss(lib, rng, judge):
    p, hw, k = int(rng.integers(1, 20)), int(rng.integers(1, 29)), int(rng.integers(1, 30))
    x, labels = draw(rng, p, k, hw, hw), rng.integers(0, k, p).astype(np.int32)
    target = rng.integers(0, 2, (p, hw, hw)).astype(np.uint8)
    chosen = x[torch.arange(p), torch.from_numpy(labels).long()]
    loss = F.binary_cross_entropy_with_logits(chosen, torch.from_numpy(target).double())
    loss.backward()
    got, dx = np.empty(1), np.empty_like(nhwc(x))
    call(lib, "mask_loss", got, dx, nhwc(x), labels, target, p, hw * hw, k, 1 / target.size)
    judge.add("mask loss: value", got, loss)
    judge.add("mask loss: gradient", nchw(dx), x.grad)


def sigmoid(lib, rng, judge):
    n = int(rng.integers(1, 5000))
    x, dy = draw(rng, n), draw(rng, n)
    t, w = (torch.from_numpy(rng.uniform(0, 1, n).astype(np.float32)).double() for _ in range(2))
    y = torch.sigmoid(x)
    y.backward(dy)
    my, dx, got = f32(x), f32(x), np.empty(1)
    call(lib, "sigmoid", my, f32(x), n)
    call(lib, "sigmoid_backward", dx, f32(dy), my, n)
    judge.add("sigmoid: y", my, y)
    judge.add("sigmoid: dx", dx, x.grad)
    x.grad = None
    loss = F.binary_cross_entropy_with_logits(x, t, weight=w)
    loss.backward()
    call(lib, "sigmoid_xent", got, dx, f32(x), f32(t), f32(w), n, 1 / n)
    judge.add("sigmoid cross-entropy: value", got, loss)
    judge.add("sigmoid cross-entropy: gradient", dx, x.grad)


def box_losses(lib, rng, judge):
    n, k = int(rng.integers(1, 600)), int(rng.integers(2, 90))
    labels, smoothing = rng.integers(0, k, n).astype(np.int32), float(rng.choice([0, 0.1]))
    t_labels, x, got = torch.from_numpy(labels).long(), draw(rng, n, k), np.empty(1)
    loss = F.cross_entropy(x, t_labels, label_smoothing=smoothing)
    loss.backward()
    dx, losses = f32(x), np.empty(n)
    out = XentOut(losses.ctypes.data, None, dx.ctypes.data)
    assert call(lib, "softmax_xent", out, f32(x), labels, n, k, smoothing, 1 / n) == 0
    judge.add("softmax cross-entropy: value", losses.mean(keepdims=True), loss)
    judge.add("softmax cross-entropy: gradient", dx, x.grad)

    beta, b, target = float(rng.choice([0, 1 / 9, 1])), draw(rng, n, 4 * k), draw(rng, n, 4)
    of_class = b.reshape(n, k, 4)[torch.arange(n), t_labels]
    loss = F.smooth_l1_loss(of_class, target.detach(), beta=beta, reduction="sum") / n
    loss.backward()
    db = f32(b)
    call(lib, "smooth_l1", got, db, f32(b), f32(target), labels, None, SmoothL1(n, k, beta, 1 / n))
    judge.add("smooth L1: value", got, loss)
    judge.add("smooth L1: gradient", db, b.grad)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    lib, rng, judge = load(), np.random.default_rng(a.seed), Judge()
    for i in range(a.cases):
        for compare in (upsample, transposed_conv, sigmoid, mask_loss, box_losses):
            compare(lib, rng, judge)
    return 1 if judge.report() else 0


sys.exit(main())
