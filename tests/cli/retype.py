#!/usr/bin/env python3
"""The float32 tensors of a safetensors file in another type, cut off and not rounded.

Usage: retype.py IN float64|float16|bfloat16 OUT. Python's standard library only.
"""
import json
import struct
import sys

source, to, target = sys.argv[1:]
name = {"float64": "F64", "float16": "F16", "bfloat16": "BF16"}[to]
with open(source, "rb") as f:
    n, = struct.unpack("<Q", f.read(8))
    head, data = json.loads(f.read(n)), f.read()
out = b""
for key, t in head.items():
    if key == "__metadata__":
        continue
    values = data[slice(*t["data_offsets"])]
    if t["dtype"] == "F32":
        numbers = struct.unpack("<%df" % (len(values) // 4), values)
        t["dtype"] = name
        values = (b"".join(values[i + 2:i + 4] for i in range(0, len(values), 4))
                  if name == "BF16" else
                  struct.pack("<%d%s" % (len(numbers), "d" if name == "F64" else "e"), *numbers))
    t["data_offsets"] = [len(out), len(out) + len(values)]
    out += values
text = json.dumps(head).encode()
text += b" " * (-len(text) % 8)
with open(target, "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + out)
