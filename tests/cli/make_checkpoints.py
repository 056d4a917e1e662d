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

def module(name):
    sys.modules[name] = types.ModuleType(name)
    return sys.modules[name]


torch, utils, numpy = module("torch"), module("torch._utils"), module("numpy")
module("numpy.core")
multiarray = module("numpy.core.multiarray")


def stand_in(module, name):
    def function(*args):
        raise RuntimeError("never called")
    function.__module__, function.__name__, function.__qualname__ = module.__name__, name, name
    setattr(module, name, function)
    return function


rebuild = stand_in(utils, "_rebuild_tensor_v2")
rebuild3 = stand_in(utils, "_rebuild_tensor_v3")
sparse = stand_in(utils, "_rebuild_sparse_tensor")
storages = {"F32": (stand_in(torch, "FloatStorage"), "f", 4),
            "I64": (stand_in(torch, "LongStorage"), "q", 8),
            "BOOL": (stand_in(torch, "BoolStorage"), "?", 1),
            "C64": (stand_in(torch, "ComplexFloatStorage"), "ff", 8),
            "QI8": (stand_in(torch, "QInt8Storage"), "b", 1),
            "BYTES": (stand_in(torch, "ByteStorage"), "B", 1)}
uint16 = stand_in(torch, "uint16")
reconstruct, ndarray = stand_in(multiarray, "_reconstruct"), stand_in(numpy, "ndarray")
dtype, matrix = stand_in(numpy, "dtype"), stand_in(numpy, "matrix")


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


class Typed(Tensor):
    """A tensor whose storage is bytes and whose type is an argument of its own."""

    def __reduce__(self):
        _, args = Tensor.__reduce__(self)
        return rebuild3, args + (uint16,)


class Type:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return dtype, (self.name, 0, 1), (3, "<", None, None, None, -1, -1, 0)


class Array:
    """numpy's array of a type ("u4"); the class may be a subclass."""

    def __init__(self, name, shape, data, cls=ndarray):
        self.state, self.cls = (1, shape, Type(name), False, data), cls

    def __reduce__(self):
        return reconstruct, (self.cls, (0,), b"b"), self.state


class Class:
    def __call__(self):
        raise RuntimeError("never called")


class Sparse:
    def __reduce__(self):
        return sparse, (1, 2)


def save(path, value, legacy=False, protocol=2):
    kept = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Class):
                return "module", argparse.Namespace, "net.py", "source"
            if not isinstance(obj, Storage):
                return None
            kept.append(obj)
            cls, _, size = storages[obj.kind]
            return "storage", cls, str(len(kept) - 1), "cpu", len(obj.data) // size

    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    if legacy:
        with open(os.path.join(folder, path), "wb") as f:
            for head in (0x1950a86a20f9469cfc6c, 1001, {"little_endian": True}):
                pickle.dump(head, f, protocol)
            f.write(out.getvalue())
            pickle.dump([str(i) for i in range(len(kept))], f, protocol)
            for s in kept:
                f.write(struct.pack("<q", len(s.data) // storages[s.kind][2]) + s.data)
        return
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
for n in (2, 4, 5):
    save("old-%d.pth" % n, net, True, n)
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
save("ema-beside.ckpt", {"state_dict": dict(prefixed("model."), **prefixed("ema_model.", average)),
                         "epoch": 3})
save("swa-beside.ckpt", {"state_dict": dict(prefixed("model."), **{
    "swa_model." + k: t for k, t in swa.items()})})
save("two-nets.pth", dict(prefixed("a."), **prefixed("b.")))
save("part-module.pth", collections.OrderedDict(
    (k if k.startswith("fc.") else "module." + k, t) for k, t in net.items()))
save("inner-module.pth", collections.OrderedDict(
    (k.replace("layer2.", "layer2.module."), t) for k, t in net.items()))
save("module-twice.pth", dict(net, **prefixed("module.")))
save("inside.pth", dict(net, **{"my_orig_mod.weight": net["fc.bias"]}))
save("loss-beside.ckpt", {"state_dict": dict(prefixed("model."), **{
    "loss.weight": net["fc.bias"]})})
save("swa-key.pth", {"model": net, "swa": swa})
save("ema-plain.pth", dict(net, **prefixed("teacher.", average)))
save("ema-online.pth", dict(
    prefixed("online_model."), **prefixed("ema_model.", average),
    initted=Tensor("BOOL", (), b"\1"), step=Tensor("I64", (), bytes(8))))
save("ema-buffers.pth", {"state_dict": dict(net, **{
    "ema_" + k.replace(".", "_"): t for k, t in average.items()})})
trained = [k for k in net if k.rsplit(".", 1)[1] in ("weight", "bias")]
save("ema-shadow.pth", {"model": net, "ema": {
    "decay": 0.9, "shadow": {k: average[k] for k in trained}, "backup": {}}})
save("ema-list.pth", {"model": net, "ema": {
    "decay": 0.9, "num_updates": 3, "shadow_params": [average[k] for k in trained],
    "collected_params": None}})
save("ema-list-short.pth", {"model": net, "ema": {"shadow_params": [average["fc.bias"]]}})
save("ema-numbered.pth", {"state_dict": net, "ema_0.9999": average})
save("ema-polyak.pth", {"my_net": net, "polyak_state": {"shadow": average}})
save("ema-top-list.pth", {"model": net, "model_ema": [average[k] for k in trained]})
save("ema-pair.pth", {"ema": {"online_model": net, "ema_model": average}})
save("ema-figure.pth", {"my_net": net, "ema_loss": {"box": net["fc.bias"]}, "cinema": average,
                        "teacher_schedule": [net["fc.bias"]]})
save("average-trained.pth", dict(net, **{k: average[k] for k in trained}))
save("ema-other.pth", {"state_dict": dict(net, **{"teacher.conv1.weight": net["fc.weight"]})})
save("ema-only-nested.pth", {"ema": {"module": average, "updates": 7}})
save("ema-only.pth", {"model_ema": average})
save("swa.pth", swa)
save("average.pth", average)
save("module-object.pth", space)
save("object.pth", {"model": space, "epoch": 3})
save("headless.pth", {k: t for k, t in net.items() if not k.startswith("fc.")})
statistics = ("running_mean", "running_var", "num_batches_tracked")
save("bare.pth", {k: t for k, t in net.items() if not k.endswith(statistics)})
save("part-bare.pth", {k: t for k, t in net.items()
                       if not (k.endswith(statistics) and k.startswith("layer2."))})
save("unknown.pth", {k: t for k, t in net.items() if not k.startswith("layer3.")})
save("empty.pth", collections.OrderedDict())
save("empty-model.pth", {"model": collections.OrderedDict(), "args": space})
save("sparse.pth", dict(net, **{"fc.weight": Sparse()}))
negative = net["fc.weight"]
save("negative.pth", dict(net, **{"fc.weight": Tensor(
    "F32", negative.shape, negative.storage.data, {"neg": True})}))
save("not-negative.pth", dict(net, **{"fc.weight": Tensor(
    "F32", negative.shape, negative.storage.data, {"neg": False})}))

# ---- numbers that no network can use ----


def with_number(name, index, x):
    """The network with x as one number of a tensor."""
    t = net[name]
    numbers = list(struct.unpack("<%df" % (len(t.storage.data) // 4), t.storage.data))
    numbers[index] = x
    return dict(net, **{name: Tensor("F32", t.shape, struct.pack("<%df" % len(numbers), *numbers))})


save("nan-mean.pth", with_number("bn1.running_mean", 2, float("nan")))
save("nan-filter.pth", with_number("conv1.weight", 28, float("nan")))
save("negative-variance.pth", with_number("bn1.running_var", 1, -1e-6))
save("inf-fc.pth", with_number("fc.weight", -1, float("inf")))

# ---- what stands beside the weights, and is no number that is read ----

complex2 = Tensor("C64", (2,), struct.pack("<4f", 1, 2, 3, 4))
loop = []
loop.append(loop)
random_state = ("MT19937", Array("u4", (624,), bytes(4 * 624)), 624, 0, 0.0)
for legacy in (False, True):
    old = "-old" if legacy else ""
    save("random%s.pth" % old, {
        "rng": {"numpy": random_state, "python": (3, tuple(range(625)), None),
                "torch": Tensor("BYTES", (16,), bytes(16))},
        "state_dict": net, "seen": Tensor("BOOL", (2,), b"\0\1")}, legacy)
    save("odd%s.pth" % old, {
        "state_dict": net, "complex": complex2, "quantized": Tensor("QI8", (4,), bytes(4)),
        "names": Array("U3", (1,), bytes(12)), "objects": Array("O8", (1,), ["x"]),
        "empty": Array("f4", (0,), b""), "matrix": Array("f4", (1, 1), bytes(4), matrix),
        "typed": Typed("BYTES", (2,), bytes(4)), "sparse": Sparse(), "loop": loop,
        "byplace": {(1, 2): complex2, "/tmp/a.png": complex2, None: 3, "": 1, "\n": net["fc.bias"]},
        "dims": Tensor("F32", (1,) * 9, bytes(4)), "a": {"b": net["fc.bias"]}, "a.b": net["fc.bias"], (3, 4): 5}, legacy)
for name, t in (("complex", complex2), ("quantized", Tensor("QI8", (4,), bytes(4))),
                ("typed", Typed("BYTES", (2,), bytes(4))), ("array", Array("u4", (1,), bytes(4)))):
    save("weight-%s.pth" % name, {"state_dict": dict(net, **{"fc.bias": t}), "epoch": 3})
save("flat-random.pth", dict(net, rng=random_state))
save("own-key.pth", {"trunk": net, "rng": random_state, "stats": {"mean": net["fc.bias"]}})
save("two-keys.pth", {"trunk": net, "other": net})


class Module:
    """In an old file its class is a persistent id."""

    def __reduce__(self):
        return Class(), ()


save("class-old.pth", {"state_dict": net, "object": Module()}, True)
save("momentum-complex.pth", {"model": net, "optimizer": {
    "state": {0: {"momentum_buffer": complex2}},
    "param_groups": [{"params": [0], "param_names": ["conv1.weight"]}]}})

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
