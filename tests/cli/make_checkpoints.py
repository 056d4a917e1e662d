#!/usr/bin/env python3
"""PyTorch files as training programs leave them, made of the weights in a safetensors file.

Usage: make_checkpoints.py NET.safetensors FOLDER. Python's standard library only: torch is not
needed, since a tensor in a pickle is a call of a name and a reference to a storage.
"""
import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile

torch = types.ModuleType("torch")
utils = types.ModuleType("torch._utils")
sys.modules["torch"], sys.modules["torch._utils"] = torch, utils


def stand_in(module, name):
    def function(*args):
        raise RuntimeError("never called")
    function.__module__, function.__name__, function.__qualname__ = module.__name__, name, name
    setattr(module, name, function)
    return function


rebuild = stand_in(utils, "_rebuild_tensor_v2")
sparse = stand_in(utils, "_rebuild_sparse_tensor")
storages = {"F32": (stand_in(torch, "FloatStorage"), "f", 4),
            "I64": (stand_in(torch, "LongStorage"), "q", 8)}


class Storage:
    def __init__(self, kind, data):
        self.kind, self.data = kind, data


class Tensor:
    """`metadata` is the last argument of the rebuilding call, or None."""

    def __init__(self, kind, shape, data, metadata=None):
        self.storage, self.shape, self.metadata = Storage(kind, data), tuple(shape), metadata

    def __reduce__(self):
        stride, step = [], 1
        for n in reversed(self.shape):
            stride.insert(0, step)
            step *= n
        more = () if self.metadata is None else (self.metadata,)
        return rebuild, (self.storage, 0, self.shape, tuple(stride), False,
                         collections.OrderedDict()) + more


class Sparse:
    def __reduce__(self):
        return sparse, (1, 2)


def save(path, value):
    kept = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            kept.append(obj)
            cls, _, size = storages[obj.kind]
            return "storage", cls, str(len(kept) - 1), "cpu", len(obj.data) // size

    out = io.BytesIO()
    Pickler(out, 2).dump(value)
    with zipfile.ZipFile(os.path.join(folder, path), "w") as z:
        z.writestr("archive/data.pkl", out.getvalue())
        for i, s in enumerate(kept):
            z.writestr("archive/data/%d" % i, s.data)
        z.writestr("archive/version", "3\n")


def read(path):
    with open(path, "rb") as f:
        n, = struct.unpack("<Q", f.read(8))
        head, data = json.loads(f.read(n)), f.read()
    head.pop("__metadata__", None)
    return collections.OrderedDict(
        (k, Tensor(v["dtype"], v["shape"], data[slice(*v["data_offsets"])]))
        for k, v in head.items())


def plus(t, x):
    """The same tensor with x added to its numbers."""
    _, letter, size = storages[t.storage.kind]
    form = "<%d%s" % (len(t.storage.data) // size, letter)
    numbers = struct.unpack(form, t.storage.data)
    return Tensor(t.storage.kind, t.shape, struct.pack(form, *(v + x for v in numbers)))


source, folder = sys.argv[1:]
net = read(source)
average = collections.OrderedDict(
    (k, plus(t, 0.5) if t.storage.kind == "F32" else t) for k, t in net.items())
swa = collections.OrderedDict([("n_averaged", Tensor("I64", (), struct.pack("<q", 3)))])
swa.update(("module." + k, t) for k, t in average.items())
space = argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("data"), tags={"a", "b"}, deep=[
    argparse.Namespace(x=1)], frozen=frozenset((1, 2)))


def prefixed(prefix, state=net):
    return collections.OrderedDict((prefix + k, t) for k, t in state.items())


save("plain.pth", net)
save("namespace.pth", {"model": net, "args": space, "epoch": 3})
save("namespace-first.pth", {"args": space, "state_dict": net})
save("beside.pth", {"net": net, "hparams": collections.Counter(a=1), "fn": print,
                    "ordered": collections.defaultdict(list, a=[1])})
save("module.pth", prefixed("module."))
save("orig-mod.pth", prefixed("_orig_mod."))
save("both.pth", prefixed("module._orig_mod."))
save("inner.pth", collections.OrderedDict(
    (k.replace("layer2.", "layer2._orig_mod."), t) for k, t in net.items()))
save("lightning.ckpt", {"state_dict": prefixed("model."), "epoch": 3, "optimizer_states": [],
                        "callbacks": {"best": Tensor("F32", (), struct.pack("<f", 0.5))}})
save("deep.pth", prefixed("learner.encoder.net."))
save("ema.pth", {"model": net, "model_ema": swa})
save("ema-timm.pth", {"state_dict": net, "state_dict_ema": average})
save("ema-only.pth", {"model_ema": average})
save("swa.pth", swa)
save("average.pth", average)
save("module-object.pth", space)
save("headless.pth", {k: t for k, t in net.items() if not k.startswith("fc.")})
save("unknown.pth", {k: t for k, t in net.items() if not k.startswith("layer3.")})
save("empty.pth", collections.OrderedDict())
save("empty-model.pth", {"model": collections.OrderedDict(), "args": space})
save("sparse.pth", dict(net, **{"fc.weight": Sparse()}))
negative = net["fc.weight"]
save("negative.pth", dict(net, **{"fc.weight": Tensor(
    "F32", negative.shape, negative.storage.data, {"neg": True})}))
save("not-negative.pth", dict(net, **{"fc.weight": Tensor(
    "F32", negative.shape, negative.storage.data, {"neg": False})}))

# ---- momentum: each parameter's is the parameter and 1, so that a test can tell whose it is ----

buffers = ("running_mean", "running_var", "num_batches_tracked")
parameters = [k for k in net if k.rsplit(".", 1)[1] not in buffers]


def training(path, groups, momentum="momentum_buffer"):
    ids = iter(range(len(parameters)))
    numbered = [[(next(ids), k) for k in g] for g in groups]
    save(path, {"model": net, "iteration": 7, "optimizer": {
        "state": {i: {momentum: plus(net[k], 1)} for g in numbered for i, k in g},
        "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [i for i, _ in g]}
                         for g in numbered]}})


def split(*tests):
    left, groups = list(parameters), []
    for test in tests:
        groups.append([k for k in left if test(k)])
        left = [k for k in left if not test(k)]
    return groups + [left]


def norm(k):
    return len(net[k].shape) == 1 and not k.startswith("fc.")


training("one-group.pth", [parameters])
training("decay.pth", split(lambda k: len(net[k].shape) > 1))
training("no-decay-first.pth", split(lambda k: len(net[k].shape) == 1))
training("norms.pth", split(norm))
training("biases.pth", split(lambda k: k.endswith(".bias") and not norm(k), norm))
training("head-first.pth", split(lambda k: k.startswith("fc.")))
training("unclear.pth", split(lambda k: norm(k) and k.endswith(".weight"),
                              lambda k: k.endswith(".bias")))
training("shuffled.pth", [list(reversed(parameters))])
training("adam.pth", [parameters], "exp_avg")
