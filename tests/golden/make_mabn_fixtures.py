#!/usr/bin/python3
"""Write tests/golden/mabn.h5: MABN over many steps, at normalization batches of 8 and 32.

The layer is written here from the paper's equations (Yan et al. 2020, sections 4.1 to 4.3) on PyTorch's
autograd, apart from the library and from the authors' code. Arithmetic in double; what a layer keeps
from step to step (windows, running variance) is float32, as it is in checkpoints. NCHW. Made with
PyTorch 1.13.1 (Debian bookworm's python3-torch); any version should give the same.

    /usr/bin/python3 tests/golden/make_mabn_fixtures.py        (from the top of the tree)

A case is a group: x, gy, y, gx (steps,N,C,H,W); gweight, gbias, running_var (steps,C); weight, bias (C);
eval_x, eval_y. Attributes: rule, norm_batch, buffer_size (the window), momentum, eps, warmup_iters,
r_start. From two thirds of the steps on, channel 0 is 20 times as large, so that r is clipped there.
"""
import h5py
import numpy as np
import torch

EPS, MOMENTUM, LIMIT = 1e-5, 0.98, 5.0

CASES = [  # name, rule, images of a step, norm batch, window, (C, H, W), steps, warm-up, first step of r
    ("subbatch_norm8_window4", "subbatch", 32, 8, 4, (2, 1, 2), 15, 0, 6),
    ("subbatch_norm32_window1", "subbatch", 32, 32, 1, (2, 1, 2), 15, 0, 6),
    ("iteration_norm8_window4", "iteration", 16, 8, 4, (2, 1, 2), 15, 7, 14),
    ("iteration_norm32_window1", "iteration", 32, 32, 1, (2, 1, 2), 12, 4, 6),
]


class Normalize(torch.autograd.Function):
    """y = r·x/sqrt(v + eps) for one run; v and r are given. The gradient is the paper's: the mean of
    gradient times normalized x comes from `use`, which is given this batch's and returns the one to
    take."""

    @staticmethod
    def forward(ctx, x, v, r, use):
        z = x / torch.sqrt(v + EPS).view(1, -1, 1, 1)
        ctx.save_for_backward(z, v, r)
        ctx.use = use
        return r.view(1, -1, 1, 1) * z

    @staticmethod
    def backward(ctx, grad):
        z, v, r = ctx.saved_tensors
        g = grad * r.view(1, -1, 1, 1)
        psi = ctx.use((g * z).mean(dim=(0, 2, 3)))
        return (g - z * psi.view(1, -1, 1, 1)) / torch.sqrt(v + EPS).view(1, -1, 1, 1), None, None, None


class History:
    """The last statistics, newest last, as float32."""

    def __init__(self, window):
        self.window, self.rows = window, []

    def add(self, row):
        self.rows = (self.rows + [row.detach().float()])[-self.window:]

    def mean(self):
        return torch.stack([r.double() for r in self.rows]).mean(0)


class Mabn:
    def __init__(self, rule, norm_batch, window, channels, warmup, r_start):
        self.rule, self.batch, self.window = rule, norm_batch, window
        self.warmup, self.r_start = warmup, r_start
        self.x2, self.gz = History(window), History(window)
        self.rho, self.iteration = torch.ones(channels), 0

    def factor(self, v):
        if self.iteration < self.r_start:
            return torch.ones_like(v)
        return (torch.sqrt(v + EPS) / torch.sqrt(self.rho.double() + EPS)).clamp(1 / LIMIT, LIMIT)

    def move(self, v):
        self.rho = np.float32(MOMENTUM) * self.rho + np.float32(1 - MOMENTUM) * v.float()

    def user(self, averages):
        def use(psi):
            self.gz.add(psi)
            return self.gz.mean() if averages else psi
        return use

    def run(self, x, averages):
        """One normalization batch: its part of the output, and the second moment that it used."""
        x2 = (x.detach() ** 2).mean(dim=(0, 2, 3))
        self.x2.add(x2)
        v = self.x2.mean() if averages else x2
        return Normalize.apply(x, v, self.factor(v), self.user(averages)), v

    def __call__(self, x):
        runs, out, used = x.split(self.batch), [], []
        if self.rule == "subbatch":  # one iteration a step, with all its runs
            self.iteration += 1
            for part in runs:
                y, v = self.run(part, self.iteration > 1)
                out.append(y), used.append(v)
            mean = torch.stack(used).mean(0)
            if self.iteration == 1:
                self.rho = mean.float()
            self.move(mean)
        else:  # one iteration a run
            for part in runs:
                self.iteration += 1
                y, v = self.run(part, self.iteration > max(self.window, self.warmup - 1))
                self.move(v)
                out.append(y)
        return out


def write(f, rng, name, rule, images, norm_batch, window, shape, steps, warmup, r_start):
    draw = lambda *s: rng.standard_normal(s).astype(np.float32)
    c = shape[0]
    layer = Mabn(rule, norm_batch, window, c, warmup, r_start)
    weight, bias = draw(c) + 1, draw(c)
    record = {k: [] for k in ("x", "gy", "y", "gx", "gweight", "gbias", "running_var")}
    for step in range(steps):
        x, gy = draw(images, *shape), draw(images, *shape)
        if step >= 2 * steps // 3:
            x[:, 0] *= 20
        w, b = (torch.tensor(v.astype(np.float64), requires_grad=True) for v in (weight, bias))
        xt = torch.tensor(x.astype(np.float64), requires_grad=True)
        ys = [y * w.view(1, -1, 1, 1) + b.view(1, -1, 1, 1) for y in layer(xt)]
        # Run after run, so that the backward window is filled in their order.
        for y, g in zip(ys, torch.tensor(gy.astype(np.float64)).split(norm_batch)):
            y.backward(g)
        for k, v in (("x", x), ("gy", gy), ("y", torch.cat(ys)), ("gx", xt.grad), ("gweight", w.grad),
                     ("gbias", b.grad), ("running_var", layer.rho)):
            record[k].append(np.asarray(v.detach() if torch.is_tensor(v) else v, dtype=np.float32))
    eval_x = draw(3, *shape)
    scale = weight / np.sqrt(layer.rho.numpy().astype(np.float64) + EPS)
    eval_y = eval_x * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)
    g = f.create_group(name)
    g.attrs["rule"] = np.bytes_(rule)
    for k, v in (("norm_batch", norm_batch), ("buffer_size", window), ("momentum", MOMENTUM), ("eps", EPS),
                 ("warmup_iters", warmup), ("r_start", r_start)):
        g.attrs[k] = v
    for k, v in record.items():
        g.create_dataset(k, data=np.stack(v), compression="gzip")
    for k, v in (("weight", weight), ("bias", bias), ("eval_x", eval_x), ("eval_y", eval_y)):
        g.create_dataset(k, data=np.asarray(v, dtype=np.float32))


def main():
    rng = np.random.default_rng(81632)
    with h5py.File("tests/golden/mabn.h5", "w", libver=("earliest", "v108")) as f:
        f.attrs["about"] = "made by make_mabn_fixtures.py; PyTorch " + torch.__version__
        for case in CASES:
            write(f, rng, *case)


main()
