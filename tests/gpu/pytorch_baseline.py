#!/usr/bin/env python3
"""ResNet-50 and Mask R-CNN on a GPU beside PyTorch 2: training and inference, NHWC, bfloat16.

PyTorch's modes stay resident and take turns with ours (mabn-bench, a process each time), round by
round, so that clocks and heat hit all alike; a contender's figure is the median over the rounds.

  training    BatchNorm2d, channels_last, bf16 autocast, fused SGD: eager in a CUDA graph, and
              compiled with max-autotune; the reference's MABN (iteration rule, centralized
              weights) in plain PyTorch operations
  inference   bf16 weights, channels_last, batch 256 and 1: eager in a CUDA graph, and compiled;
              GN, LN and IN in a CUDA graph
  detector    training of Mask R-CNN R50-FPN on two photographs of 640x480, seven objects each,
              shorter side 800, BN in the body alone: torchvision's as it comes, in float32, and
              channels_last with bf16 autocast, eager and with body, FPN and RPN head compiled; ours
              in bfloat16

    pytorch_baseline.py [--bench mabn-bench] [--seconds 480] [--no-compile] [--json FILE]

Ends by itself near --seconds, with what it has: the quick parts come first. Each part prints its
own table when it is done; the last lines are all ratios, which --json writes to a file as well.
"""
import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import time

START = time.monotonic()
TORCHVISION = "PyTorch, torchvision float32"
DETECTOR_WANTED = 60  # images a second, in training
DETECTOR_BEST = 180  # images a second of the best published run, on one H100
torch = None


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--bench", default="mabn-bench", help="our benchmark, or a word of its own command")
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--size", type=int, default=224)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=480)
    p.add_argument("--no-compile", action="store_true", help="leave the compiled modes out")
    p.add_argument("--tune", action="store_true",
                   help="mabn-bench --tune: ours are measured once, not in each round")
    p.add_argument("--only", help="only parts with this word in their name")
    p.add_argument("--json", help="file for the figures and ratios")
    return p.parse_args()


def left(o):
    return o.seconds - (time.monotonic() - START)


# ---- PyTorch: networks ----


def reference_mabn():
    """MABN for small batches, by the reference's equations, one operation after another."""
    nn, F = torch.nn, torch.nn.functional

    class Normalize(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)
        def forward(ctx, x, gamma, beta, layer):
            layer.steps += 1
            row, m = layer.steps % layer.window, layer.window
            batch_mode = layer.steps <= m
            x2 = (x * x).mean((0, 2, 3))
            layer.buffer_x2[row] = x2
            v = x2 if batch_mode else layer.buffer_x2.mean(0)
            each = lambda t: t[:, None, None]
            z = x / each(torch.sqrt(v + 1e-5))
            r = torch.ones_like(v)
            if layer.steps > m + 1:
                r = torch.sqrt((v + 1e-5) / (layer.running_var + 1e-5)).clamp(0.2, 5)
            layer.running_var.mul_(0.98).add_(v, alpha=0.02)
            ctx.layer, ctx.row, ctx.batch_mode = layer, row, batch_mode
            ctx.save_for_backward(z, v, r, gamma)
            return each(gamma * r) * z + each(beta)

        @staticmethod
        @torch.amp.custom_bwd(device_type="cuda")
        def backward(ctx, dy):
            z, v, r, gamma = ctx.saved_tensors
            each = lambda t: t[:, None, None]
            dy = dy.float()
            g = dy * each(gamma * r)
            psi = (g * z).mean((0, 2, 3))
            ctx.layer.buffer_gz[ctx.row] = psi
            mean = psi if ctx.batch_mode else ctx.layer.buffer_gz.mean(0)
            dx = (g - z * each(mean)) / each(torch.sqrt(v + 1e-5))
            return dx, (dy * each(r) * z).sum((0, 2, 3)), dy.sum((0, 2, 3)), None

    class MABN(nn.Module):
        def __init__(self, channels, window=16):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))
            self.register_buffer("buffer_x2", torch.zeros(window, channels))
            self.register_buffer("buffer_gz", torch.zeros(window, channels))
            self.steps, self.window = 0, window

        def forward(self, x):
            return Normalize.apply(x, self.weight, self.bias, self)

    class CentralizedConv(nn.Conv2d):
        def forward(self, x):
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, w, self.bias, self.stride, self.padding)

    return MABN, CentralizedConv


def network(norm):
    import torchvision

    nn = torch.nn
    layers = {
        "bn": nn.BatchNorm2d,
        "gn": lambda c: nn.GroupNorm(32, c),
        "ln": lambda c: nn.GroupNorm(1, c),
        "in": lambda c: nn.InstanceNorm2d(c, affine=True),
    }
    if norm != "mabn":
        return torchvision.models.resnet50(norm_layer=layers[norm])
    mabn, conv = reference_mabn()
    net = torchvision.models.resnet50(norm_layer=mabn)
    for module in net.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = conv
    return net


def photograph():
    """Like mabn-bench's: noise, and octagons of an eighth to a half of the picture's sides."""
    x = torch.rand(3, 480, 640).cuda()
    boxes, masks = [], []
    v, u = (t.cuda() for t in torch.meshgrid(torch.arange(480), torch.arange(640), indexing="ij"))
    for _ in range(7):
        w, h = (float(t) for t in (torch.rand(2) * 0.375 + 0.125) * torch.tensor([640, 480]))
        x0, y0 = float(torch.rand(1)) * (640 - w), float(torch.rand(1)) * (480 - h)
        across, down = (u - x0 - w / 2).abs() / w, (v - y0 - h / 2).abs() / h
        masks.append((across <= 0.5) & (down <= 0.5) & (across + down <= 0.7))
        boxes.append([x0, y0, x0 + w, y0 + h])
    return x, {"boxes": torch.tensor(boxes).cuda(),
               "labels": torch.arange(1, 8).cuda(),
               "masks": torch.stack(masks).to(torch.uint8)}


# ---- PyTorch: steps; each maker returns a function that queues one ----


def training_step(o, norm, mode):
    net = network(norm).cuda().to(memory_format=torch.channels_last).train()
    x = torch.randn(o.batch, 3, o.size, o.size, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 1000, (o.batch,), device="cuda")
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    run = net
    if mode == "compiled":
        run = torch.compile(net, mode="max-autotune")

    def step():
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=mode != "graph"):
            loss = loss_of(run(x), y)
        loss.backward()
        sgd.step()
        sgd.zero_grad(set_to_none=True)

    return captured(step) if mode == "graph" else step


def detector_step(mode):
    import torchvision

    net = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    net = net.cuda().train()
    if mode != "float32":
        net = net.to(memory_format=torch.channels_last)
    if mode == "compiled":
        net.backbone = torch.compile(net.backbone)
        net.rpn.head = torch.compile(net.rpn.head)
    images, targets = zip(*(photograph() for _ in range(2)))
    sgd = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True)

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=mode != "float32"):
            loss = sum(net(list(images), [dict(t) for t in targets]).values())
        loss.backward()
        sgd.step()
        sgd.zero_grad(set_to_none=True)

    return step


def inference_step(o, norm, mode, batch):
    net = network(norm).cuda().to(torch.bfloat16).to(memory_format=torch.channels_last).eval()
    x = torch.randn(batch, 3, o.size, o.size, device="cuda", dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    run = net
    if mode == "compiled":
        run = torch.compile(net, mode="max-autotune")

    def step():
        with torch.inference_mode() if mode == "graph" else torch.no_grad():
            run(x)

    return captured(step) if mode == "graph" else step


def captured(step):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def seconds_of(step, enough=0.4):
    """Seconds a step, over steps that take about `enough` seconds, by the GPU's events."""

    def time_steps(count):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count

    time_steps(2)
    once = time_steps(3)
    return time_steps(max(5, min(2000, int(enough / once))))


# ---- ours ----


def ours(o, work, norm, batch, *more):
    command = ["resnet50", "--precision", "bf16", "--norm", norm, "--batch", str(batch),
               "--size", str(o.size), *more]
    if work == "training":
        command.append("--training")
    if o.tune:
        command.append("--tune")
    return measured(o, *command)


def our_detector(o, norm):
    """In bfloat16, as torchvision's."""
    return measured(o, "mask-rcnn-r50-fpn", "--precision", "bf16", "--batch", "2", "--size", "800",
                    "--training", "--box-head", "2fc", "--norm", norm)


def measured(o, *words):
    command = o.bench.split() + ["net", *words, "--device", "cuda", "--rounds", "3", "--json",
                                 "--quiet"]
    env = dict(os.environ)
    if "MABN_LIBRARY_PATH" in env:
        env["LD_LIBRARY_PATH"] = env["MABN_LIBRARY_PATH"]  # `run` keeps in it what was there
    most = 300 if o.tune else 120
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=max(10, min(most, left(o))), text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip()
                           else "mabn-bench ended with %d" % done.returncode)
    return json.loads(done.stdout)["step_seconds"]


# ---- taking turns ----


class Part:
    """A name, and contenders: (name, images a step, kind, what); kind "torch": what() makes a
    step, kind "ours": what() measures one. Makers run once, in turn; rounds go over all."""

    def __init__(self, name, contenders, rounds=None):
        self.name, self.contenders, self.rounds = name, contenders, rounds
        self.rates = {}  # contender: images a second, median
        self.notes = {}  # contender: why there is none

    def note(self, name, error):
        text = " ".join(str(error).split()) or type(error).__name__
        self.notes[name] = text[:300]
        print("# %s, %s: %s" % (self.name, name, text[:300]), flush=True)

    def run(self, o):
        steps, times = {}, {}
        for name, images, kind, what in self.contenders:
            if kind != "torch":
                continue
            try:
                began = time.monotonic()
                steps[name] = what()
                seconds_of(steps[name], 0.01)
                torch.cuda.synchronize()
                print("# %s, %s: ready after %.0f s" % (self.name, name, time.monotonic() - began),
                      flush=True)
            except Exception as error:  # out of memory, a compiler's failure: the others go on
                self.note(name, error)
                steps.pop(name, None)
        for _ in range(self.rounds or o.rounds):
            for name, images, kind, what in self.contenders:
                if name in self.notes or (left(o) < 5 and times):
                    continue
                # Choosing by time takes minutes in each process: once, with its own three rounds.
                if o.tune and kind == "ours" and name in times:
                    continue
                try:
                    took = seconds_of(steps[name]) if kind == "torch" else what()
                    times.setdefault(name, []).append(took)
                except Exception as error:
                    self.note(name, error)
        for name, images, kind, what in self.contenders:
            if name in times:
                self.rates[name] = images / statistics.median(times[name])
        steps.clear()
        gc.collect()
        torch.cuda.empty_cache()
        if hasattr(torch, "_dynamo"):
            torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
        self.table(times)

    def table(self, times):
        print("\n%s\timages/s\tscatter\tms" % self.name)
        for name, images, kind, what in self.contenders:
            if name not in self.rates:
                print("%s\t-\t-\t-" % name)
                continue
            t = times[name]
            print("%s\t%.5g\t%.1f %%\t%.4g" % (name, self.rates[name],
                                             100 * (max(t) - min(t)) / statistics.median(t),
                                             1e3 * statistics.median(t)))
        print(flush=True)


def parts_of(o):
    b = o.batch
    graph, compiled = "PyTorch, CUDA graph", "PyTorch, compiled"
    our_training = [
        ("our BN", b, "ours", lambda: ours(o, "training", "bn", b)),
        ("our MABN, iteration", b, "ours",
         lambda: ours(o, "training", "mabn", b, "--window-rule", "iteration")),
        ("our MABN, sub-batches of 2", b, "ours", lambda: ours(o, "training", "mabn", b, "-B", "2")),
    ]

    def our_inference(n):
        return [("our " + norm.upper(), n, "ours",
                 lambda norm=norm: ours(o, "inference", norm, n)) for norm in ("bn", "mabn")]

    def torch_inference(mode, n, norm="bn"):
        return lambda: inference_step(o, norm, mode, n)

    quick = [
        Part("training", [(graph, b, "torch", lambda: training_step(o, "bn", "graph"))] + our_training),
        Part("inference %d" % b,
             [(graph, b, "torch", torch_inference("graph", b))] + our_inference(b)),
        Part("inference 1", [(graph, 1, "torch", torch_inference("graph", 1))] + our_inference(1)),
        Part("reference MABN", [
            ("PyTorch's MABN, eager", b, "torch", lambda: training_step(o, "mabn", "eager")),
            our_training[1]], rounds=2),
    ]
    slow = [
        Part("inference %d, compiled" % b,
             [(compiled, b, "torch", torch_inference("compiled", b))] + our_inference(b)),
        Part("inference 1, compiled",
             [(compiled, 1, "torch", torch_inference("compiled", 1))] + our_inference(1)),
        Part("training, compiled",
             [(compiled, b, "torch", lambda: training_step(o, "bn", "compiled"))] + our_training),
    ]
    our_detectors = [
        ("our detector", 2, "ours", lambda: our_detector(o, "body=bn,fpn=none,heads=none")),
        ("our detector, MABN", 2, "ours", lambda: our_detector(o, "mabn"))]
    quick.append(Part("detector", [
        (TORCHVISION, 2, "torch", lambda: detector_step("float32")),
        ("PyTorch, torchvision bf16", 2, "torch", lambda: detector_step("eager"))] + our_detectors))
    slow.insert(0, Part("detector, compiled", [
        ("PyTorch, torchvision bf16 compiled", 2, "torch", lambda: detector_step("compiled"))] +
        our_detectors))
    norms = [Part("inference %d, %s" % (b, norm), [
        (graph, b, "torch", torch_inference("graph", b, norm)),
        ("our " + norm.upper(), b, "ours", lambda norm=norm: ours(o, "inference", norm, b))],
        rounds=2) for norm in ("gn", "ln", "in")]
    return quick + ([] if o.no_compile else slow) + norms


# ---- what it comes to ----


def machine(o):
    """Copy bandwidth and matrix rate: what any step can hope for."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    c = torch.empty_like(a)
    copy = 2 * a.numel() / seconds_of(lambda: c.copy_(a), 0.2)
    del a, c
    m = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = 2 * 8192**3 / seconds_of(lambda: m @ m, 0.3)
    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
             "cudnn": torch.backends.cudnn.version(), "copy_bytes_per_second": copy,
             "matrix_flops": rate}
    print("# %(device)s, PyTorch %(torch)s, cuDNN %(cudnn)s" % facts)
    print("# copy %.0f GB/s, bf16 8192^3 matrix product %.0f TFLOP/s" % (copy / 1e9, rate / 1e12),
          flush=True)
    return facts


def ratios(o, parts):
    """(what, ratio, wanted); against the faster of PyTorch's modes, each in its own rounds."""
    rows = []

    def fastest(names):
        best = None
        for part in parts:
            if part.name in names:
                for name, rate in part.rates.items():
                    if name.startswith("PyTorch") and (best is None or rate > best[2]):
                        best = (part, name, rate)
        return best

    def add(names, ours_name, wanted):
        best = fastest(names)
        if best and ours_name in best[0].rates:
            rows.append(("%s: %s / %s" % (names[0], ours_name, best[1]),
                         best[0].rates[ours_name] / best[2], wanted))

    training = ("training", "training, compiled")
    add(training, "our BN", 1.25)
    add(training, "our MABN, iteration", 1.5)
    add(training, "our MABN, sub-batches of 2", 1.25)
    add(("reference MABN",), "our MABN, iteration", 5)
    for part in parts:
        if part.name in training and {"our BN", "our MABN, iteration"} <= set(part.rates):
            rows.append(("%s: our MABN, iteration / our BN" % part.name,
                         part.rates["our MABN, iteration"] / part.rates["our BN"], 1))
    for n in dict.fromkeys((o.batch, 1)):
        names = ("inference %d" % n, "inference %d, compiled" % n)
        add(names, "our BN", 1.3)
        add(names, "our MABN", 1.3)
    for norm in ("gn", "ln", "in"):
        add(("inference %d, %s" % (o.batch, norm),), "our " + norm.upper(), 1.5)
    for name in ("our detector", "our detector, MABN"):
        for part in parts:
            if {TORCHVISION, name} <= set(part.rates):
                rows.append(("%s: %s / %s" % (part.name, name, TORCHVISION),
                             part.rates[name] / part.rates[TORCHVISION], 3))
        add(("detector", "detector, compiled"), name, 3)
    return list(dict.fromkeys(rows))  # float32 may be the fastest


def absolute(parts):
    """(what, images a second, wanted): of detectors, the best round of turns."""
    rows = []
    for name in ("our detector", "our detector, MABN"):
        rates = [p.rates[name] for p in parts if name in p.rates]
        if rates:
            rows.append((name, max(rates), DETECTOR_WANTED))
    return rows


def report(o, facts, parts):
    rows = ratios(o, parts)
    print("ratio\tis\twanted")
    for what, ratio, wanted in rows:
        print("%s\t%.3f\t%g%s" % (what, ratio, wanted, "" if ratio >= wanted else "  short"))
    for what, rate, wanted in absolute(parts):
        print("%s, training, images/s\t%.3g\t%g%s" % (what, rate, wanted,
                                                     "" if rate >= wanted else "  short"))
        print("%s, of the best published %d images/s\t%.3f\t-" % (what, DETECTOR_BEST,
                                                                 rate / DETECTOR_BEST))
    sys.stdout.flush()
    if not o.json:
        return
    result = {"machine": facts, "batch": o.batch, "size": o.size, "seconds": time.monotonic() - START,
              "parts": [{"name": p.name, "images_per_second": p.rates, "missing": p.notes}
                        for p in parts],
              "ratios": [{"what": w, "ratio": r, "wanted": x} for w, r, x in rows],
              "detectors": [{"what": w, "images_per_second": r, "wanted": x,
                             "of_best_published": r / DETECTOR_BEST}
                            for w, r, x in absolute(parts)]}
    with open(o.json + ".part", "w") as f:
        json.dump(result, f, indent=1)
    os.replace(o.json + ".part", o.json)


def main():
    global torch
    o = options()
    try:
        import torch as found
        import torchvision  # noqa: F401
    except ImportError as error:
        sys.exit("pytorch_baseline: %s" % error)
    torch = found
    if not torch.cuda.is_available():
        sys.exit("pytorch_baseline: PyTorch sees no GPU here")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    facts = machine(o)
    done = []
    for part in parts_of(o):
        if o.only and o.only not in part.name:
            continue
        need = 100 if "compiled" in part.name else 20
        if left(o) < need:
            print("# %s: left out, %.0f s remain" % (part.name, left(o)), flush=True)
            continue
        part.run(o)
        done.append(part)
        with contextlib.suppress(OSError):
            report(o, facts, done)  # what there is, should the next part be the last


if __name__ == "__main__":
    main()
