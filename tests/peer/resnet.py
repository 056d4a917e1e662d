#!/usr/bin/env python3
"""ResNet beside PyTorch and onnxruntime: speed and peak memory, training and inference.

Every contender is a process of its own and they take turns, round by round, so that what else the
machine does hits all alike; the figures are medians over rounds of each process's median step.
PyTorch runs in all its ways in the first round (both memory layouts, compiled where it is version 2;
under autocast for bf16) and goes on in its best one. MABN in PyTorch is written from the same
equations as ours (sub-batch rule, window of one step, centralized weights), as a custom autograd
function with whole-tensor operations.

    PATH=build/release/bin:$PATH tests/peer/resnet.py [--rounds 3] [--arch resnet50] ...

Needs PyTorch (and torchvision for its resnets); onnxruntime where it is there. `--batch 1` is
latency. bf16 is left out where the processor does not compute in it, and so is who takes longer than
--limit, which is said. "ours --tune" chooses its convolutions by timing in the first round and keeps the
choices. Prints a table and the medians over rounds of the ratios.
"""
import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time


TUNED = "ours --tune"
OURS = ("ours", TUNED)


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
    p.add_argument("--precision", choices=["fp32", "bf16"], help="default: both")
    p.add_argument("--limit", type=float, default=180, help="seconds of one process")
    p.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    p.add_argument("--torch-child", nargs=4, help=argparse.SUPPRESS)
    p.add_argument("--onnx-child", help=argparse.SUPPRESS)
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
    work, norm, precision, way = o.torch_child
    import torch

    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    net = torch_net(torch, o, norm)
    x = torch.randn(o.batch, o.channels, o.size, o.size)
    if "nhwc" in way:
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    y = torch.arange(o.batch) % 10
    net.train(work == "training")
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

    run = torch.compile(net) if "compiled" in way else net

    def step():
        half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
        if work == "inference":
            with torch.no_grad(), half:
                run(x)
            return
        sgd.zero_grad(set_to_none=True)
        with half:
            loss = loss_of(run(x), y)
        loss.backward()
        sgd.step()

    time_steps(o, step)


def onnx_child(o):
    import numpy
    import onnxruntime

    with_options = onnxruntime.SessionOptions()
    with_options.intra_op_num_threads = o.threads
    session = onnxruntime.InferenceSession(o.onnx_child, with_options,
                                           providers=["CPUExecutionProvider"])
    x = numpy.random.RandomState(0).randn(o.batch, o.channels, o.size, o.size).astype("float32")
    name = session.get_inputs()[0].name
    time_steps(o, lambda: session.run(None, {name: x}))


def time_steps(o, step):
    times = []
    for i in range(o.steps + 2):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_seconds": statistics.median(times[2:]), "peak_bytes": peak}))


# ---- taking turns ----


def computes_bf16():
    """Has the processor AVX512_BF16 or AMX? (Elsewhere it is emulated, which is no faster than float32.)"""
    try:
        text = open("/proc/cpuinfo").read()
    except OSError:
        return False
    return "avx512_bf16" in text or "amx_bf16" in text


def run_limited(o, args, env=None):
    """What the process prints; None: it took too long, or failed."""
    try:
        done = subprocess.run(args, check=True, stdout=subprocess.PIPE, env=env, timeout=o.limit)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        print("left out, over %.0f s: %s" % (o.limit, " ".join(args[1:])), file=sys.stderr)
    except subprocess.CalledProcessError as e:
        print("left out, exit status %d: %s" % (e.returncode, " ".join(args[1:])), file=sys.stderr)


def run_child(o, what):
    args = [sys.executable, os.path.abspath(__file__)] + what
    for name in ("arch", "batch", "size", "channels", "threads", "steps"):
        args += ["--" + name, str(getattr(o, name))]
    args += ["--norm-batch", str(o.norm_batch)]
    env = dict(os.environ, OMP_NUM_THREADS=str(o.threads))
    return run_limited(o, args, env)


def run_ours(o, who, work, norm, precision):
    args = ["mabn-bench", "net", o.arch, "--norm", norm, "--batch", str(o.batch), "--size",
            str(o.size), "--channels", str(o.channels), "-j", str(o.threads), "--rounds",
            str(o.steps), "--precision", precision, "--json", "--quiet"]
    if work == "training":
        args.append("--training")
        if norm == "mabn" and o.batch > o.norm_batch:
            args += ["-B", str(o.norm_batch), "--window", str(o.batch // o.norm_batch)]
    if who == TUNED:
        args.append("--tune")
    return run_limited(o, args)


def onnx_model(o, folder):
    """Ours, folded, for onnxruntime; None without it."""
    if o.only == "training" or not importlib.util.find_spec("onnxruntime"):
        return None
    start, model = (os.path.join(folder, name) for name in ("start.h5", "model.onnx"))
    subprocess.run(["mabn-init", "-q", o.arch, "--norm", "mabn", "--channels", str(o.channels),
                    "-o", start], check=True)
    subprocess.run(["mabn-convert", "-q", "--fold", start, "-o", model], check=True)
    return model


def ways_of(o, precision, norm):
    """How PyTorch may compute."""
    ways = ["nhwc"] if precision == "bf16" or norm == "mabn" else ["nchw", "nhwc"]
    # Not imported here: a child's peak begins with what its parent holds.
    version = importlib.metadata.version("torch")
    if norm == "bn" and int(version.split(".")[0]) >= 2 and not o.no_compile:
        ways += ["nhwc compiled"]
    return ways


def run_one(o, key, ways, model):
    """A round of one contender; ways: those of PyTorch that are still in question."""
    who, work, norm, precision = key
    if who in OURS:
        return run_ours(o, who, work, norm, precision)
    if who == "onnxruntime":
        return run_child(o, ["--onnx-child", model])
    got = {way: run_child(o, ["--torch-child", work, norm, precision, way]) for way in ways[key]}
    got = {way: result for way, result in got.items() if result}
    if not got:
        return None
    best = min(got, key=lambda way: got[way]["step_seconds"])
    for way in got:
        print("PyTorch %s, %s, %s, %s: %.1f ms" % (work, norm, precision, way,
              got[way]["step_seconds"] * 1e3), file=sys.stderr, flush=True)
    ways[key] = [best]
    return got[best]


def print_table(o, results, ways):
    median = lambda key, what: statistics.median(x[what] for x in results[key])
    print("# %s, %dx%d, batch %d, %d threads; medians of %d rounds of %d steps" %
          (o.arch, o.size, o.size, o.batch, o.threads, o.rounds, o.steps))
    print("who\twork\tnorm\tprecision\tway\timages/s\tms\tpeak MiB\tstep/convolutions")
    for key in results:
        bare = "-"
        if key[0] in OURS:
            bare = "%.3f" % statistics.median(
                x["step_seconds"] / x["convolution_seconds"] for x in results[key])
        seconds = median(key, "step_seconds")
        print("\t".join(key + (ways.get(key, ["nhwc"])[0], "%.2f" % (o.batch / seconds),
                               "%.1f" % (seconds * 1e3),
                               "%.0f" % (median(key, "peak_bytes") / 2**20), bare)))


def print_ratios(results):
    ratio = lambda a, b, what: statistics.median(
        x[what] / y[what] for x, y in zip(results[a], results[b]))
    for ours in results:
        who, work, norm, precision = ours
        others = [key for key in results if key[0] not in OURS and key[1] == work and
                  key[3] == precision]
        if who not in OURS or norm != "mabn" or not others:
            continue
        for other in others:
            print("%s, %s: our MABN%s is %.2f times as fast as %s's %s, in %.2f of its memory" %
                  (work, precision, who[len("ours"):], ratio(other, ours, "step_seconds"), other[0], other[2].upper(),
                   ratio(ours, other, "peak_bytes")))


def main():
    o = options()
    if o.torch_child:
        return torch_child(o)
    if o.onnx_child:
        return onnx_child(o)
    works = [o.only] if o.only else ["inference", "training"]
    contenders, ways, results = [], {}, {}
    precisions = ["fp32", "bf16"] if computes_bf16() else ["fp32"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MABN_TUNE_FILE"] = os.path.join(folder, "tune.tsv")
        model = onnx_model(o, folder)
        for work in works:
            for precision in [o.precision] if o.precision else precisions:
                norms = ("bn", "mabn") if precision == "fp32" else ("bn",)
                contenders += [("ours", work, norm, precision) for norm in ("bn", "mabn")]
                if precision == "fp32":
                    contenders.append((TUNED, work, "mabn", precision))
                contenders += [("PyTorch", work, norm, precision) for norm in norms]
                if model and work == "inference" and precision == "fp32":
                    contenders.append(("onnxruntime", work, "mabn", precision))
        for key in contenders:
            if key[0] == "PyTorch":
                ways[key] = ways_of(o, key[3], key[2])
        for r in range(o.rounds):
            for key in list(contenders):
                result = run_one(o, key, ways, model)
                if result:
                    results.setdefault(key, []).append(result)
                else:
                    contenders.remove(key)
                    results.pop(key, None)
            print("round %d of %d" % (r + 1, o.rounds), file=sys.stderr, flush=True)
    if not o.precision and len(precisions) == 1:
        print("# this processor does not compute in bfloat16 (AVX512_BF16, AMX)")
    print_table(o, results, ways)
    print_ratios(results)


if __name__ == "__main__":
    main()
