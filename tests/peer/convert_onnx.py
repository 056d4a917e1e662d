#!/usr/bin/env python3
"""ONNX files of mabn-convert, run by onnxruntime, against PyTorch's and against each other.

For torchvision's ResNet-18 and -50 with random weights: unfolded and folded logits against
PyTorch's, to 1e-4. For every norm of ours: unfolded against folded, and against mabn's own network
where --forward names a program that runs it.

Needs python3-torch, python3-torchvision, python3-onnx and onnxruntime (from PyPI, in an environment
with --system-site-packages). Usage: convert_onnx.py [FOLDER OF THE TOOLS]
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision

tools = sys.argv[1] if len(sys.argv) > 1 else "build/release/bin"
onnxruntime.set_default_logger_severity(3)
failed = False


def convert(*args):
    subprocess.check_call([os.path.join(tools, "mabn-convert"), "-qf", *args])


def run(path, x):
    onnx.checker.check_model(path)
    return onnxruntime.InferenceSession(path).run(None, {"input": x})[0]


def report(what, a, b, tolerance):
    global failed
    error = float(np.abs(a - b).max())
    ok = error <= tolerance
    failed |= not ok
    print("%-6s %-44s max abs %.2e of %.3g" % ("ok" if ok else "FAILED", what, error,
                                              np.abs(b).max()))


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder) if os.path.isabs(tools) else None
    torch.manual_seed(1)
    for name in ("resnet18", "resnet50"):
        net = getattr(torchvision.models, name)()
        with torch.no_grad():
            for _ in range(10):  # running statistics that are not 0 and 1
                net(torch.randn(4, 3, 128, 128))
        net.eval()
        pth = os.path.join(folder, name + ".pth")
        torch.save(net.state_dict(), pth)
        x = torch.randn(2, 3, 160, 192)
        with torch.no_grad():
            want = net(x).numpy()
        for option in ([], ["--fold"], ["--fold-frozen"]):
            out = os.path.join(folder, "x.onnx")
            convert(*option, pth, "-o", out)
            report(" ".join([name] + option), run(out, x.numpy()), want, 1e-4)
    x = np.random.default_rng(1).normal(size=(2, 3, 64, 64)).astype(np.float32)
    for norm in ("bn", "mabn", "frozen", "gn", "ln", "in", "brn", "stem=frozen,layer1=gn,layer3=mabn"):
        h5 = os.path.join(folder, "n.h5")
        subprocess.check_call([os.path.join(tools, "mabn-init"), "-qf", "resnet10", "--norm", norm,
                               "-o", h5])
        convert(h5, "-o", os.path.join(folder, "a.onnx"))
        convert("--fold", h5, "-o", os.path.join(folder, "b.onnx"))
        report("resnet10 " + norm + ", folded or not", run(os.path.join(folder, "b.onnx"), x),
               run(os.path.join(folder, "a.onnx"), x), 1e-4)
sys.exit(failed)
