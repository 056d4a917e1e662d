#!/usr/bin/env python3
"""Make the seeds of fuzz_pickle, fuzz_zip, fuzz_safetensors and fuzz_onnx.

Needs Debian's python3-torch and python3-onnx (run with /usr/bin/python3); the seeds are committed,
so only who changes them needs it. Usage: make_weights_corpus.py [FOLDER]
"""
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import torch

root = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "corpus")


def put(kind, name, data):
    folder = os.path.join(root, kind)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def saved(obj, zipped):
    out = io.BytesIO()
    torch.save(obj, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def tensors():
    base = torch.arange(24, dtype=torch.float32)
    yield "types", {
        "f": base[:2], "d": base[:2].double(), "h": base[:2].half(), "b": base[:2].bfloat16(),
        "i": torch.tensor([1, -1]), "t": torch.tensor([True, False]), "u": base[:1].byte()}
    yield "views", {"whole": base, "part": base[3:9], "turned": base.view(4, 6).t(),
                    "repeated": base[:2].expand(3, 2), "scalar": base[5], "none": base[:0]}
    p = torch.nn.Parameter(base[:4].view(2, 2))
    yield "training", {
        "model": OrderedDict([("module.fc.weight", p), ("module.fc.bias", base[:2])]),
        "optimizer": {"state": {0: {"momentum_buffer": base[:4].view(2, 2)},
                                1: {"momentum_buffer": base[:2]}},
                      "param_groups": [{"lr": 0.1, "momentum": 0.9, "params": [0, 1]}]},
        "scheduler": {"milestones": [1, 2], "gamma": 0.1, "last_epoch": 3}, "iteration": 7}


for name, value in tensors():
    legacy, archive = saved(value, False), saved(value, True)
    put("pickle", "torch_" + name, legacy)
    put("zip", "torch_" + name, archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as z:
        pkl = next(n for n in z.namelist() if n.endswith("data.pkl"))
        put("pickle", "data_" + name, z.read(pkl))

arrays = {"blobs": {"conv1_w": np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1),
                    "conv1_b": np.float64([1, 2]), "t_w": np.asfortranarray(np.ones((2, 3), "f2")),
                    "lr": np.array(0.1, "f4"), "s": np.float32(2), "conv1_w_momentum": np.ones(8),
                    "big": np.array([1, 2], dtype=">i4")}}
for protocol in range(1, 6):
    put("pickle", "numpy_%d" % protocol, pickle.dumps(arrays, protocol))
put("pickle", "flat_0", pickle.dumps({"a": 1, "b": 2.5, "c": [True, None], "d": "text"}, 0))

out = io.BytesIO()
with zipfile.ZipFile(out, "w") as z:
    z.writestr("a/data.pkl", pickle.dumps({}, 2))
    z.writestr("a/version", "3\n")
put("zip", "plain", out.getvalue())
with zipfile.ZipFile(out, "w") as z:
    with z.open("a/data.pkl", "w", force_zip64=True) as f:
        f.write(pickle.dumps({"x": 1}, 2))
put("zip", "zip64", out.getvalue())


def safetensors(header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


put("safetensors", "two", safetensors(
    {"__metadata__": {"format": "pt"},
     "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
     "b": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]}}, bytes(16)))
put("safetensors", "types", safetensors(
    {t: {"dtype": t, "shape": [1], "data_offsets": [o, o + n]} for t, o, n in
     (("F64", 0, 8), ("F16", 8, 2), ("BF16", 10, 2), ("U8", 12, 1), ("I8", 13, 1), ("BOOL", 14, 1))},
    bytes(15)))
put("safetensors", "empty", safetensors({"e": {"dtype": "F32", "shape": [0, 3],
                                               "data_offsets": [0, 0]}}, b""))
put("safetensors", "overlap", safetensors(
    {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
     "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}, bytes(6)))

initializers = [onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w"),
                onnx.numpy_helper.from_array(np.int64([1, 2]), "i"),
                onnx.helper.make_tensor("f", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])]
graph = onnx.helper.make_graph(
    [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
    [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])],
    [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])], initializers)
model = onnx.helper.make_model(graph)
model.metadata_props.add(key="k", value="v")
put("onnx", "small", model.SerializeToString())
