#!/usr/bin/python3
"""Compare SyncBN on two processes with PyTorch's SyncBatchNorm on two processes (gloo).

    /usr/bin/python3 tests/peer/sync.py [--cases 20] [--seed 1] [--build build/release]

Run from the top of the tree after `make` and `make dist-programs`, where an MPI is. PyTorch has the
kernels of its layer for GPUs only: the five are given here for CPUs, by their definitions, in
float64; what crosses between the processes, and what becomes of it, is PyTorch's own code. Shares are
equal, unequal and empty. Ours runs under mpirun and fails above 2e-5 of the largest value.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.modules._functions import SyncBatchNorm

STEPS, EPS, MOMENTUM = 3, 1e-5, 0.1
AXES = [0, 2, 3]


def line(v):
    return v.view(1, -1, 1, 1)


def stats(x, eps):
    return x.mean(AXES), 1 / torch.sqrt(x.var(AXES, unbiased=False) + eps)


def gather_stats(x, means, invstds, running_mean, running_var, momentum, eps, counts):
    counts = counts.view(-1, 1)
    n = counts.sum()
    mean = (counts * means).sum(0) / n
    var = (counts * (1 / invstds**2 - eps + means**2)).sum(0) / n - mean**2
    running_mean.mul_(1 - momentum).add_(momentum * mean)
    running_var.mul_(1 - momentum).add_(momentum * var * n / (n - 1))
    return mean, 1 / torch.sqrt(var + eps)


def elemt(x, weight, bias, mean, invstd, eps):
    return (x - line(mean)) * line(invstd * weight) + line(bias)


def backward_reduce(dy, x, mean, invstd, weight, *needed):
    sum_dy, sum_dy_xmu = dy.sum(AXES), (dy * (x - line(mean))).sum(AXES)
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy


def backward_elemt(dy, x, mean, invstd, weight, sum_dy, sum_dy_xmu, counts):
    n = counts.sum()
    return (dy - line(sum_dy / n) - (x - line(mean)) * line(invstd**2 * sum_dy_xmu / n)) * line(
        invstd * weight)


def put_kernels():
    torch.batch_norm_stats = stats
    torch.batch_norm_gather_stats_with_counts = gather_stats
    torch.batch_norm_elemt = elemt
    torch.batch_norm_backward_reduce = backward_reduce
    torch.batch_norm_backward_elemt = backward_elemt
    torch.cuda.is_current_stream_capturing = lambda: False


def one_case(x, dy, weight, bias):
    """(steps,N,C,H,W) of this process; a dict of what the layer gives, in float64."""
    out = {k: [] for k in ("y64", "gx64", "gweight64", "gbias64", "running_mean64", "running_var64")}
    mean, var = torch.zeros(len(weight)).double(), torch.ones(len(weight)).double()
    for s in range(STEPS):
        leaf = [torch.tensor(v).double().requires_grad_() for v in (x[s], weight, bias)]
        y = SyncBatchNorm.apply(*leaf, mean, var, EPS, MOMENTUM, dist.group.WORLD, 2)
        y.backward(torch.tensor(dy[s]).double())
        gradients = [torch.zeros_like(v) if v.grad is None else v.grad for v in leaf]
        for name, value in zip(out, [y.detach(), *gradients, mean.clone(), var.clone()]):
            out[name].append(value.numpy())
    return {name: np.stack(values) for name, values in out.items()}


def process(rank, folder):
    dist.init_process_group("gloo", init_method="file://%s/meeting" % folder, rank=rank, world_size=2)
    put_kernels()
    with h5py.File(folder + "/cases.h5") as cases, h5py.File("%s/rank%d.h5" % (folder, rank), "w") as to:
        for name, k in cases.items():
            mine = k["rank%d" % rank]
            for what, value in one_case(mine["x"][()], mine["gy"][()], k["weight"][()], k["bias"][()]).items():
                to["%s/%s" % (name, what)] = value
    dist.destroy_process_group()


def draw_cases(path, count, seed):
    random = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for i in range(count):
            c = int(random.integers(1, 40))
            group = file.create_group("case%02d" % i)
            group.attrs["weighted"] = 1.0
            group["weight"] = random.uniform(-2, 2, c).astype("f4")
            group["bias"] = random.normal(size=c).astype("f4")
            n, hw = random.integers(1, 6, 2), random.integers(1, 9, (2, 2))
            n[random.integers(2)] *= i % 4 != 1 # empty
            if i % 4 == 0:
                n[1], hw[1] = n[0], hw[0] # equal
            centre = random.normal(size=(1, 1, c, 1, 1)) * 3
            for r in range(2):
                shape = (STEPS, n[r], c, *hw[r])
                group["rank%d/x" % r] = (random.normal(size=shape) + centre).astype("f4")
                group["rank%d/gy" % r] = random.normal(size=shape).astype("f4")


def join(folder):
    with h5py.File(folder + "/cases.h5", "a") as cases:
        for r in range(2):
            with h5py.File("%s/rank%d.h5" % (folder, r)) as results:
                for name in results:
                    for what in results[name]:
                        results.copy("%s/%s" % (name, what), cases["%s/rank%d" % (name, r)], what)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", type=int, default=20)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--build", default="build/release")
    o = p.parse_args()
    which = [m for m in ("openmpi", "mpich") if os.path.exists("%s/lib/mabn/mabn-mpi-%s.so" % (o.build, m))]
    if not which:
        sys.exit("sync.py: this build has no plug-in for an MPI")
    launcher = shutil.which("mpirun." + which[0]) or "mpirun"
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_rmaps_base_oversubscribe="1",
                       PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe", OMP_NUM_THREADS="1")
    with tempfile.TemporaryDirectory() as folder:
        draw_cases(folder + "/cases.h5", o.cases, o.seed)
        mp.spawn(process, (folder,), 2)
        join(folder)
        done = subprocess.run([launcher, "-n", "2", o.build + "/tests/dist/test_sync", "file",
                               folder + "/cases.h5"], env=environment, stdin=subprocess.DEVNULL)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
