#!/usr/bin/python3
"""Compare the normalization layers with PyTorch's (FRN and EvoNorm-S0: written out), live, on random shapes; or their speed.

    /usr/bin/python3 tests/peer/norms.py [--cases 200] [--seed 1]
    /usr/bin/python3 tests/peer/norms.py --bench [--batch 8] [--threads 2]

Run from the top of the tree after `make`. The first form prints the largest difference for each norm,
relative to the largest value of the tensor, and fails above 1e-5 (PyTorch in float32: its own
rounding is in the figure). The second times forward and backward with ReLU on ResNet-50's shapes,
both libraries in turn in the same process, PyTorch in the better of its two layouts, medians.
"""
import argparse
import ctypes
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import shim

SHIM = r"""
#include <stdlib.h>
#include <string.h>
#include "norm/norm.h"

struct peer { struct mabn_norm norm; struct mabn_norm_io io; };

static void *block(size_t bytes)
{
    void *p = NULL;
    return posix_memalign(&p, 64, bytes + 64) ? NULL : memset(p, 0, bytes + 64);
}

struct peer *peer_new(const char *kind, int norm_batch, int groups, int steady, long n, long hw, int c,
                      int relu, float *gamma, float *beta)
{
    struct peer *p = calloc(1, sizeof *p);
    struct mabn_norm_options o;
    enum mabn_norm_kind k;
    if (mabn_norm_kind_parse(&k, kind)) return NULL;
    mabn_norm_options_init(&o, k);
    o.norm_batch = norm_batch;
    o.groups = groups;
    o.r_start = steady;
    if (mabn_norm_init(&p->norm, &o, c)) return NULL;
    p->io = (struct mabn_norm_io){.samples = n, .positions = hw, .relu = relu, .gamma = gamma,
        .beta = beta, .state = block(mabn_norm_state_bytes(&p->norm)),
        .saved = block(mabn_norm_saved_bytes(&p->norm, n)),
        .scratch = block(mabn_norm_scratch_bytes(&p->norm, n, hw))};
    mabn_norm_state_reset(&p->norm, p->io.state);
    return p;
}

void *peer_state(struct peer *p, const char *name)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(&p->norm, p->io.state, list);
    for (int i = 0; i < count; i++)
        if (!strcmp(list[i].name, name)) return list[i].data;
    return NULL;
}

int peer_forward(struct peer *p, float *y, const float *x, const float *residual)
{
    p->io.x = x, p->io.y = y, p->io.residual = residual;
    return mabn_norm_forward(&p->norm, &p->io);
}

/* y NULL: ReLU's mask from x. */
int peer_backward(struct peer *p, float *dx, float *dres, float *dgamma, float *dbeta,
                  const float *dy, float *y)
{
    p->io.y = y, p->io.dx = dx, p->io.dresidual = dres, p->io.dgamma = dgamma;
    p->io.dbeta = dbeta, p->io.dy = dy;
    return mabn_norm_backward(&p->norm, &p->io);
}

int peer_infer(struct peer *p, float *y, const float *x, const float *residual)
{
    p->io.x = x, p->io.y = y, p->io.residual = residual;
    return mabn_norm_infer(&p->norm, &p->io);
}

/* FRN's tau or EvoNorm-S0's v, and where its gradient goes. */
void peer_act(struct peer *p, float *act, float *dact)
{
    p->io.act = act, p->io.dact = dact;
}

void peer_free(struct peer *p)
{
    free(p->io.state), free(p->io.saved), free(p->io.scratch), free(p);
}
"""


def load():
    lib = shim.load(SHIM)
    lib.peer_new.restype = lib.peer_state.restype = ctypes.c_void_p
    lib.peer_new.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                             ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int,
                             ctypes.c_void_p, ctypes.c_void_p]
    for f, n in ((lib.peer_forward, 4), (lib.peer_infer, 4), (lib.peer_backward, 7),
                 (lib.peer_act, 3),
                 (lib.peer_free, 1)):
        f.argtypes = [ctypes.c_void_p] * n
    lib.peer_state.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return lib


def at(a):
    return None if a is None else a.ctypes.data


def nhwc(a):
    return np.ascontiguousarray(np.transpose(a, (0, 2, 3, 1)))


def nchw(a):
    return np.transpose(a, (0, 3, 1, 2))


def layer(kind, groups, c):
    return {"bn": lambda: nn.BatchNorm2d(c), "in": lambda: nn.InstanceNorm2d(c, affine=True),
            "gn": lambda: nn.GroupNorm(groups, c), "ln": lambda: nn.GroupNorm(1, c)}[kind]()


def compare_case(lib, rng, kind, worst):
    n, c = int(rng.integers(1, 9)), int(rng.choice([1, 2, 3, 8, 12, 31, 64, 65, 100, 256]))
    h, w = int(rng.integers(1, 20)), int(rng.integers(1, 20))
    # One value a statistic is an error in PyTorch, two make a gradient of rounding only.
    if n * h * w < 4 or (kind == "in" and h * w < 4):
        n, h, w = n + 1, h + 3, w
    groups = int(rng.choice([g for g in (1, 2, 4, 32) if c % g == 0]))
    if kind in ("gn", "ln") and c // groups * h * w < 4:
        groups, h = 1, h + 3
    relu, residual = bool(rng.integers(2)), bool(rng.integers(2))
    draw = lambda *s: rng.standard_normal(s).astype(np.float32)
    x, r, gy = draw(n, c, h, w) + np.float32(0.5), draw(n, c, h, w), draw(n, c, h, w)
    gamma, beta = draw(c), draw(c)

    norm = layer(kind, groups, c)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(gamma)), norm.bias.copy_(torch.tensor(beta))
    xt, rt = torch.tensor(x, requires_grad=True), torch.tensor(r, requires_grad=True)
    y = norm(xt)
    y = y + rt if residual else y
    y = torch.relu(y) if relu else y
    y.backward(torch.tensor(gy))

    peer = lib.peer_new(kind.encode(), 0, groups, 0, n, h * w, c, relu, at(gamma), at(beta))
    mx, mr, mgy = nhwc(x), nhwc(r) if residual else None, nhwc(gy)
    my, mdx, mdr = np.empty_like(mx), np.empty_like(mx), np.empty_like(mx) if residual else None
    mdg, mdb = np.empty_like(gamma), np.empty_like(beta)
    assert lib.peer_forward(peer, at(my), at(mx), at(mr)) == 0
    mask = at(my) if residual else None
    assert lib.peer_backward(peer, at(mdx), at(mdr), at(mdg), at(mdb), at(mgy), mask) == 0

    pairs = [("y", nchw(my), y), ("dx", nchw(mdx), xt.grad), ("dgamma", mdg, norm.weight.grad),
             ("dbeta", mdb, norm.bias.grad)]
    if residual:
        pairs.append(("dresidual", nchw(mdr), rt.grad))
    if kind == "bn":
        state = lambda name: np.ctypeslib.as_array(
            ctypes.cast(lib.peer_state(peer, name), ctypes.POINTER(ctypes.c_float)), (c,))
        pairs += [("running_mean", state(b"running_mean"), norm.running_mean),
                  ("running_var", state(b"running_var"), norm.running_var)]
    # Sums may cancel: judged against the sum of the magnitudes of what they add.
    size = max(float(np.abs(gy).sum(axis=(0, 2, 3)).max()), 1e-9)
    for what, got, want in pairs:
        want = want.detach().numpy()
        scale = size if what in ("dgamma", "dbeta") else float(np.abs(want).max()) or 1.0
        e = float(np.abs(got - want).max()) / scale
        key = (kind, what)
        if e > worst.get(key, (0,))[0]:
            worst[key] = (e, f"N{n} C{c} H{h} W{w} groups {groups}")
    lib.peer_free(peer)


class Frn(nn.Module):
    """Filter response normalization, from the formulas of Singh and Krishnan 2020."""

    def __init__(self, c):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.act = nn.Parameter(torch.zeros(c))

    def forward(self, x, residual, active):
        column = lambda p: p.view(1, -1, 1, 1)
        nu2 = x.square().mean((2, 3), keepdim=True)
        y = column(self.weight) * x / torch.sqrt(nu2 + 1e-6) + column(self.bias)
        y = y if residual is None else y + residual
        return torch.maximum(y, column(self.act)) if active else y


class EvoNormS0(nn.Module):
    """From the formulas of Liu et al. 2020: x·sigmoid(v·x) over the groups' deviation; without an
    activation gamma and beta alone, to which a shortcut is added and ReLU."""

    def __init__(self, c, groups):
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.act = nn.Parameter(torch.ones(c))

    def forward(self, x, residual, active):
        column = lambda p: p.view(1, -1, 1, 1)
        if active and residual is None:
            n, c, h, w = x.shape
            var = x.view(n, self.groups, -1).var(2, unbiased=False)
            std = torch.sqrt(var + 1e-5).repeat_interleave(c // self.groups, 1).view(n, c, 1, 1)
            x = x * torch.sigmoid(column(self.act) * x) / std
        y = column(self.weight) * x + column(self.bias)
        y = y if residual is None else y + residual
        return torch.relu(y) if active and residual is not None else y


def compare_act(lib, rng, kind, worst):
    """FRN and EvoNorm-S0, in float64 on PyTorch's side: its float32 decides otherwise at a threshold."""
    n, c = int(rng.integers(1, 9)), int(rng.choice([1, 2, 3, 8, 12, 31, 64, 65, 100, 256]))
    h, w = int(rng.integers(2, 20)), int(rng.integers(2, 20))
    groups = int(rng.choice([g for g in (1, 2, 4, 32) if c % g == 0]))
    active, residual = bool(rng.integers(2)), bool(rng.integers(2))
    draw = lambda *s: rng.standard_normal(s).astype(np.float32)
    x, r, gy = draw(n, c, h, w) + np.float32(0.5), draw(n, c, h, w), draw(n, c, h, w)
    gamma, beta, act = draw(c), draw(c), draw(c)
    own = active and not (kind == "evonorm-s0" and residual)

    norm = (Frn(c) if kind == "frn" else EvoNormS0(c, groups)).double()
    with torch.no_grad():
        for parameter, values in ((norm.weight, gamma), (norm.bias, beta), (norm.act, act)):
            parameter.copy_(torch.tensor(values))
    xt = torch.tensor(x, dtype=torch.double, requires_grad=True)
    rt = torch.tensor(r, dtype=torch.double, requires_grad=True)
    y = norm(xt, rt if residual else None, active)
    y.backward(torch.tensor(gy, dtype=torch.double))

    peer = lib.peer_new(kind.encode(), 0, groups, 0, n, h * w, c, active, at(gamma), at(beta))
    mx, mr, mgy = nhwc(x), nhwc(r) if residual else None, nhwc(gy)
    my, mdx, mdr = np.empty_like(mx), np.empty_like(mx), np.empty_like(mx) if residual else None
    mdg, mdb, mda = np.empty_like(gamma), np.empty_like(beta), np.empty_like(act)
    if own:
        lib.peer_act(peer, at(act), at(mda))
    assert lib.peer_forward(peer, at(my), at(mx), at(mr)) == 0
    mask = at(my) if residual else None
    assert lib.peer_backward(peer, at(mdx), at(mdr), at(mdg), at(mdb), at(mgy), mask) == 0
    pairs = [("y", nchw(my), y), ("dx", nchw(mdx), xt.grad), ("dgamma", mdg, norm.weight.grad),
             ("dbeta", mdb, norm.bias.grad)]
    pairs += [("dresidual", nchw(mdr), rt.grad)] if residual else []
    pairs += [("dact", mda, norm.act.grad)] if own else []
    for what, got, want in pairs:
        want = want.detach().numpy()
        e = float(np.abs(got - want).max()) / (float(np.abs(want).max()) or 1.0)
        if e > worst.get((kind, what), (0,))[0]:
            worst[kind, what] = (e, f"N{n} C{c} H{h} W{w} groups {groups}")
    lib.peer_free(peer)


def compare(lib, cases, seed):
    rng, worst = np.random.default_rng(seed), {}
    for i in range(cases):
        for kind in ("frn", "evonorm-s0"):
            compare_act(lib, rng, kind, worst)
        for kind in ("bn", "gn", "ln", "in"):
            compare_case(lib, rng, kind, worst)
    bad = 0
    for (kind, what), (e, where) in sorted(worst.items()):
        bad += e > 1e-5
        print(f"{kind}\t{what}\t{e:.1e}\t{where}\t{'ok' if e <= 1e-5 else 'TOO FAR'}")
    return bad


# ---- speed ----

SHAPES = [(112, 64, 1), (56, 64, 6), (56, 256, 4), (28, 128, 7), (28, 512, 5), (14, 256, 11),
          (14, 1024, 7), (7, 512, 5), (7, 2048, 4)]


class PlainMabn(torch.autograd.Function):
    """MABN past its warm-up, one statistic, as one writes it in PyTorch from the paper's equations."""

    @staticmethod
    def forward(ctx, x, gamma, window, psi, rho, eps):
        window[0] = (x * x).mean((0, 2, 3))
        v = window.mean(0).view(1, -1, 1, 1)
        z = x / (v + eps).sqrt()
        r = ((v + eps).sqrt() / (rho + eps).sqrt()).clamp(0.2, 5)
        rho.mul_(0.98).add_(0.02 * v)
        ctx.save_for_backward(z, v, r, gamma, psi)
        ctx.eps = eps
        return r * z

    @staticmethod
    def backward(ctx, g):
        z, v, r, gamma, psi = ctx.saved_tensors
        g = g * r
        psi[0] = (g * z).mean((0, 2, 3))
        return ((g - z * psi.mean(0).view(1, -1, 1, 1)) / (v + ctx.eps).sqrt(),) + (None,) * 5


def torch_step(kind, x, gy, c):
    if kind == "mabn":
        gamma, beta = torch.ones(1, c, 1, 1, requires_grad=True), torch.zeros(
            1, c, 1, 1, requires_grad=True)
        window, psi, rho = torch.ones(16, c), torch.zeros(16, c), torch.ones(1, c, 1, 1)
        norm = lambda v: gamma * PlainMabn.apply(v, gamma, window, psi, rho, 1e-5) + beta
    else:
        norm = layer(kind, 32, c)

    def step():
        x.grad = None
        t0 = time.perf_counter()
        y = F.relu(norm(x), inplace=True)
        t1 = time.perf_counter()
        y.backward(gy)
        return t1 - t0, time.perf_counter() - t1

    return step


def mabn_step(lib, kind, n, hw, c):
    draw = lambda: np.random.default_rng(0).standard_normal((n, hw, c)).astype(np.float32)
    x, dy, y, dx = draw(), draw(), draw(), draw()
    gamma, beta, dg, db = np.ones(c, np.float32), np.zeros(c, np.float32), np.empty(
        c, np.float32), np.empty(c, np.float32)
    peer = lib.peer_new(kind.encode(), 0, 32, 1, n, hw, c, 1, at(gamma), at(beta))

    def step():
        t0 = time.perf_counter()
        lib.peer_forward(peer, at(y), at(x), None)
        t1 = time.perf_counter()
        lib.peer_backward(peer, at(dx), None, at(dg), at(db), at(dy), None)
        return t1 - t0, time.perf_counter() - t1

    step.keep = (x, dy, y, dx, gamma, beta, dg, db)
    return step


def bench(lib, batch, threads):
    torch.set_num_threads(threads)
    ctypes.CDLL("libgomp.so.1").omp_set_num_threads(threads)
    print("norm\tours_ms\tours_forward\tpytorch_ms\tpytorch_forward\tratio")
    for kind in ("bn", "mabn", "gn", "ln", "in"):
        total = np.zeros((2, 2))
        for side, c, layers in SHAPES:
            steps = [mabn_step(lib, kind, batch, side * side, c)]
            for form in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(batch, c, side, side).contiguous(memory_format=form)
                gy = torch.randn(batch, c, side, side).contiguous(memory_format=form)
                steps.append(torch_step(kind, x.requires_grad_(True), gy, c))
            times = np.array([[s() for s in steps] for _ in range(8)][1:])  # rounds, sides, 2
            ours, theirs = np.median(times[:, 0], 0), np.median(times[:, 1:], 0)
            total[0] += layers * ours
            total[1] += layers * theirs[theirs.sum(1).argmin()]
        ms = total * 1e3
        print(f"{kind}\t{ms[0].sum():.1f}\t{ms[0][0]:.1f}\t{ms[1].sum():.1f}\t{ms[1][0]:.1f}\t"
              f"{ms[1].sum() / ms[0].sum():.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    lib = load()
    if a.bench:
        bench(lib, a.batch, a.threads)
        return 0
    return 1 if compare(lib, a.cases, a.seed) else 0


sys.exit(main())
