#!/usr/bin/python3
"""ResNet beside Debian's PyTorch: speed and peak memory, training and inference.

Every contender is a process of its own and they take turns, round by round, so that what else the
machine does hits all alike; the figures are medians over rounds of each process's median step.
PyTorch runs in both memory layouts in the first round and goes on in its better one. MABN in
PyTorch is written from the same equations as ours (sub-batch rule, window of one step, centralized
weights), as a custom autograd function with whole-tensor operations.

    PATH=build/release/bin:$PATH tests/peer/resnet.py [--rounds 3] [--arch resnet50] ...

Needs python3-torch (and python3-torchvision for its resnets). Prints a table and the ratios.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=3, help="timed steps of a process")
    p.add_argument("--arch", default="resnet50", help="resnet18…152, or cifar-resnet8…56")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--size", type=int, default=224)
    p.add_argument("--channels", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--norm-batch", type=int, default=2, help="of MABN")
    p.add_argument("--only", choices=["training", "inference"])
    p.add_argument("--layout", choices=["nchw", "nhwc"], help="of PyTorch; default: the better")
    p.add_argument("--torch-child", nargs=3, help=argparse.SUPPRESS)
    return p.parse_args()


# ---- PyTorch, in a child process ----


def mabn_layers(torch, norm_batch):
    nn, F = torch.nn, torch.nn.functional

    class Normalize(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, gamma, beta, layer):
            n, c, h, w = x.shape
            runs = n // norm_batch
            layer.steps += 1
            x2 = (x * x).mean((2, 3)).reshape(runs, norm_batch, c).mean(1)
            first = layer.steps == 1
            v = x2 if first else layer.window(runs) @ torch.cat([layer.before_x2, x2])
            deviation = torch.sqrt(v + 1e-5)
            each = lambda t: t.repeat_interleave(norm_batch, 0)[:, :, None, None]
            z = x / each(deviation)
            if layer.steps < 100:
                r = torch.ones_like(v)
            else:
                r = (deviation / torch.sqrt(layer.running_var + 1e-5)).clamp(0.2, 5)
            if first:
                layer.running_var.copy_(v.mean(0))
            layer.running_var.mul_(0.98).add_(v.mean(0), alpha=0.02)
            layer.before_x2 = x2
            ctx.layer, ctx.first, ctx.each = layer, first, each
            ctx.save_for_backward(z, gamma, deviation, r)
            return gamma[:, None, None] * (each(r) * z) + beta[:, None, None]

        @staticmethod
        def backward(ctx, dy):
            z, gamma, deviation, r = ctx.saved_tensors
            layer, each = ctx.layer, ctx.each
            runs, c = r.shape
            g = dy * gamma[:, None, None] * each(r)
            psi = (g * z).mean((2, 3)).reshape(runs, norm_batch, c).mean(1)
            mean = psi if ctx.first else layer.window(runs) @ torch.cat([layer.before_gz, psi])
            layer.before_gz = psi
            dx = (g - z * each(mean)) / each(deviation)
            return dx, (dy * each(r) * z).sum((0, 2, 3)), dy.sum((0, 2, 3)), None

    class MABN(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.steps, self.matrix = 0, None

        def window(self, runs):
            if self.matrix is None:
                self.matrix = torch.zeros(runs, 2 * runs)
                for i in range(runs):
                    self.matrix[i, i + 1 : i + 1 + runs] = 1 / runs
            return self.matrix

        def forward(self, x):
            if self.training:
                return Normalize.apply(x, self.weight, self.bias, self)
            scale = self.weight / torch.sqrt(self.running_var + 1e-5)
            return x * scale[:, None, None] + self.bias[:, None, None]

    class CentralizedConv(nn.Conv2d):
        def forward(self, x):
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, w, self.bias, self.stride, self.padding)

    return MABN, CentralizedConv


def cifar_resnet(nn, depth, channels, conv, norm):
    class Block(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.main = nn.Sequential(
                conv(i, o, 3, stride, 1, bias=False), norm(o), nn.ReLU(inplace=True),
                conv(o, o, 3, 1, 1, bias=False), norm(o))
            self.short = nn.Sequential()
            if stride != 1 or i != o:
                self.short = nn.Sequential(conv(i, o, 1, stride, bias=False), norm(o))
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.main(x) + self.short(x))

    layers, width = [conv(channels, 16, 3, 1, 1, bias=False), norm(16), nn.ReLU(inplace=True)], 16
    for stage in range(3):
        for block in range((depth - 2) // 6):
            out = 16 << stage
            layers.append(Block(width, out, 2 if stage and not block else 1))
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def torch_net(torch, o, norm):
    nn = torch.nn
    make_norm, conv = nn.BatchNorm2d, nn.Conv2d
    if norm == "mabn":
        make_norm, conv = mabn_layers(torch, o.norm_batch)
    if o.arch.startswith("cifar-"):
        return cifar_resnet(nn, int(o.arch[len("cifar-resnet"):]), o.channels, conv, make_norm)
    import torchvision

    net = getattr(torchvision.models, o.arch)(norm_layer=make_norm)
    if norm == "mabn":
        for m in net.modules():
            if type(m) is nn.Conv2d:
                m.__class__ = conv
    return net


def torch_child(o):
    work, norm, layout = o.torch_child
    import torch

    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    net = torch_net(torch, o, norm)
    x = torch.randn(o.batch, o.channels, o.size, o.size)
    if layout == "nhwc":
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    y = torch.arange(o.batch) % 10
    net.train(work == "training")
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    def step():
        if work == "inference":
            with torch.no_grad():
                net(x)
            return
        sgd.zero_grad(set_to_none=True)
        loss_of(net(x), y).backward()
        sgd.step()

    times = []
    for i in range(o.steps + 1):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_seconds": statistics.median(times[1:]), "peak_bytes": peak}))


# ---- taking turns ----


def run_torch(o, work, norm, layout):
    args = [sys.executable, os.path.abspath(__file__), "--torch-child", work, norm, layout]
    for name in ("arch", "batch", "size", "channels", "threads", "steps"):
        args += ["--" + name, str(getattr(o, name))]
    args += ["--norm-batch", str(o.norm_batch)]
    env = dict(os.environ, OMP_NUM_THREADS=str(o.threads))
    return json.loads(subprocess.run(args, check=True, stdout=subprocess.PIPE, env=env).stdout)


def run_ours(o, work, norm):
    args = ["mabn-bench", "net", o.arch, "--norm", norm, "--batch", str(o.batch), "--size",
            str(o.size), "--channels", str(o.channels), "-j", str(o.threads), "--rounds",
            str(o.steps), "--json", "--quiet"]
    if work == "training":
        args.append("--training")
        if norm == "mabn":
            args += ["-B", str(o.norm_batch), "--window", str(o.batch // o.norm_batch)]
    return json.loads(subprocess.run(args, check=True, stdout=subprocess.PIPE).stdout)


def main():
    o = options()
    if o.torch_child:
        torch_child(o)
        return
    works = [o.only] if o.only else ["inference", "training"]
    contenders = [(who, work, norm) for work in works for norm in ("bn", "mabn")
                  for who in ("ours", "torch")]
    results = {}
    layout = {key: o.layout for key in contenders if o.layout and key[0] == "torch"}
    for r in range(o.rounds):
        for key in contenders:
            who, work, norm = key
            if who == "ours":
                results.setdefault(key, []).append(run_ours(o, work, norm))
                continue
            if key in layout:
                got = run_torch(o, work, norm, layout[key])
                results.setdefault(key, []).append(got)
                continue
            both = {way: run_torch(o, work, norm, way) for way in ("nchw", "nhwc")}
            layout[key] = min(both, key=lambda way: both[way]["step_seconds"])
            results[key] = [both[layout[key]]]
        print("round %d of %d" % (r + 1, o.rounds), file=sys.stderr, flush=True)
    median = lambda key, what: statistics.median(x[what] for x in results[key])
    print("# %s, %dx%d, batch %d, %d threads; medians of %d rounds of %d steps" %
          (o.arch, o.size, o.size, o.batch, o.threads, o.rounds, o.steps))
    print("who\twork\tnorm\tlayout\timages/s\tpeak MiB\tstep/convolutions")
    for key in contenders:
        who, work, norm = key
        bare = "-"
        if who == "ours":
            bare = "%.3f" % statistics.median(
                x["step_seconds"] / x["convolution_seconds"] for x in results[key])
        print("\t".join([who, work, norm, layout.get(key, "nhwc"),
                         "%.2f" % (o.batch / median(key, "step_seconds")),
                         "%.0f" % (median(key, "peak_bytes") / 2**20), bare]))
    ratio = lambda a, b, what: median(a, what) / median(b, what)
    for work in works:
        ours, bn, mabn = ("ours", work, "mabn"), ("torch", work, "bn"), ("torch", work, "mabn")
        print("%s: our MABN is %.2f times as fast as PyTorch's BN, %.2f times its MABN; "
              "peak memory %.2f of its BN's" %
              (work, ratio(bn, ours, "step_seconds"), ratio(mabn, ours, "step_seconds"),
               ratio(ours, bn, "peak_bytes")))


if __name__ == "__main__":
    main()
