#!/usr/bin/env python3
"""Files that try to do harm, each with words that its refusal must contain.

Usage: make_attacks.py FOLDER: writes the files there and prints "NAME<tab>WORDS" for each.
Python's standard library only.
"""
import io
import json
import os
import pickle
import struct
import sys
import zipfile
import zlib

folder = sys.argv[1]


def attack(name, data, words):
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)
    print("%s\t%s" % (name, words))


# ---- pickles that call something ----

def call(module, name, argument="id"):
    text = argument.encode()
    return (b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n"
            + b"X" + struct.pack("<I", len(text)) + text + b"\x85R.")


for module, name in (
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"),
        ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "open"),
        ("builtins", "__import__"), ("__builtin__", "eval"), ("__builtin__", "apply"),
        ("importlib", "import_module"), ("runpy", "run_path"), ("pickle", "loads"),
        ("_pickle", "loads"), ("marshal", "loads"), ("types", "FunctionType"), ("pty", "spawn"),
        ("socket", "socket"), ("webbrowser", "open"), ("shutil", "rmtree"), ("code", "interact"),
        ("operator", "attrgetter"), ("functools", "partial"), ("ctypes", "CDLL"),
        ("torch", "load"), ("torch.hub", "load"), ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch.storage", "_load_from_bytes"), ("torch.jit", "load"),
        ("numpy", "load"), ("numpy.testing._private.utils", "runstring"),
        ("collections", "OrderedDict.update"), ("argparse", "Namespace"),
        ("torch.nn.modules.linear", "Linear"), ("timeit", "timeit"), ("bdb", "Bdb.run")):
    attack("call_%s_%s.pkl" % (module, name), call(module, name), "'%s.%s'" % (module, name))

attack("stack_global.pkl", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", "'os.system'")
attack("inst.pkl", b"(S'id'\nios\nsystem\n.", "INST")
attack("newobj.pkl", b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ")
attack("ext.pkl", b"\x80\x02\x82\x01)R.", "EXT")
attack("persid.pkl", b"\x80\x02Pos.system\n.", "PERSID")
attack("reduce_a_string.pkl", b"\x80\x02X\x02\x00\x00\x00id)R.", "cannot be called")
attack("build_on_a_list.pkl", b"\x80\x02]}X\x01\x00\x00\x00aK\x01sb.", "BUILD")
attack("dict_subclass_state.pkl", b"\x80\x02ccollections\nOrderedDict\n)RK\x01b.", "BUILD")
attack("out_of_band.pkl", b"\x80\x05\x97.", "out-of-band")
attack("control_name.pkl", b"\x80\x02co\x1bs\nsystem\n.", "refused")

# ---- pickles that grow ----



def laughs(levels, width):
    """A list of lists of lists, `width` references to the level below in each."""
    out = b"\x80\x02]q\x00K\x01a0"
    for level in range(1, levels + 1):
        out += b"](" + (b"h" + bytes([level - 1])) * width + b"eq" + bytes([level]) + b"0"
    return out + b"}X\x01\x00\x00\x00ah" + bytes([levels]) + b"s."


attack("memo_bomb.pkl", laughs(25, 2), "memo bomb")
attack("wide_bomb.pkl", laughs(5, 40), "memo bomb")
attack("deep_bomb.pkl", laughs(200, 1), "nested too deeply")
attack("list_in_itself.pkl", b"\x80\x02}X\x01\x00\x00\x00a]q\x00h\x00as.", "nested too deeply")
attack("huge_memo.pkl", b"\x80\x02Nr\xff\xff\xff\x7f.", "memo index")
attack("long_string.pkl", b"\x80\x02X\xff\xff\xff\xff", "only 0 are left")
attack("long_bytes8.pkl", b"\x80\x04\x8e" + b"\xff" * 8, "are left")
attack("long_integer.pkl", b"\x80\x02\x8b\xff\xff\xff\x7f", "are left")
attack("many_opcodes.pkl", b"\x80\x02" + b"N0" * (1 << 20) + b"}.", "opcodes")
attack("deep_tuples.pkl", b"\x80\x02}X\x01\x00\x00\x00aK\x01" + b"\x85" * 1000 + b"s.",
       "nested too deeply")
attack("empty_stack.pkl", b"\x80\x02s.", "stack is empty")
attack("no_stop.pkl", b"\x80\x02}", "truncated")
attack("appended.pkl", pickle.dumps({"a": 1}, 2) + b"#!/bin/sh\n", "bytes follow")


# ---- tensors that claim too much ----

def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def tensor(count=4, offset=0, shape=(4,), stride=(1,), kind="FloatStorage", key="0"):
    def numbers(values):
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\n"
            + kind.encode() + b"\n" + text(key) + text("cpu") + b"\x8a\x08"
            + struct.pack("<q", count) + b"tQ" + b"\x8a\x08" + struct.pack("<q", offset)
            + numbers(shape) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtR")


def pth(body, name="w", data=bytes(16)):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("archive/data.pkl", b"\x80\x02}" + text(name) + body + b"s.")
        z.writestr("archive/data/0", data)
        z.writestr("archive/version", "3\n")
    return out.getvalue()


good = pth(tensor())
big = 1 << 62
attack("tensor_past_storage.pth", pth(tensor(shape=(5,))), "reaches to byte")
attack("tensor_offset.pth", pth(tensor(offset=1)), "reaches to byte")
attack("tensor_negative_offset.pth", pth(tensor(offset=-1)), "damaged shape")
attack("tensor_stride.pth", pth(tensor(stride=(big,))), "impossible shape")
attack("tensor_negative_stride.pth", pth(tensor(stride=(-1,))), "damaged shape")
attack("tensor_wraps.pth", pth(tensor(shape=(big, 4), stride=(4, 1))), "impossible shape")
attack("tensor_repeated.pth", pth(tensor(shape=(1 << 40,), stride=(0,))), "claims")
attack("tensor_rank.pth", pth(tensor(shape=(1,) * 9, stride=(1,) * 9)), "more than 8 dimensions")
attack("storage_count.pth", pth(tensor(count=5)), "smaller than it claims")
attack("storage_missing.pth", pth(tensor(key="1")), "not in the archive")
attack("storage_path.pth", pth(tensor(key="../version")), "not in the archive")
attack("name_path.pth", pth(tensor(), name="../../etc/passwd"), "looks like a path")
attack("name_absolute.pth", pth(tensor(), name="/etc/passwd"), "looks like a path")
attack("name_escape.pth", pth(tensor(), name="a\x1b[2Jb"), "not plain UTF-8")
attack("name_twice.pth", pth(tensor() + b"s" + text("w") + tensor()), "two tensors are called")
attack("same_storage_often.pth", pth(b"K\x00" + b"".join(
    b"s" + text("w%d" % i) + tensor(count=1 << 18, shape=(1 << 18,)) for i in range(40)),
    data=bytes(1 << 20)), "claims")


# ---- zip ----

def change(data, find, at, value):
    i = data.find(find) if isinstance(find, bytes) else find
    assert i >= 0
    return data[:i + at] + value + data[i + at + len(value):]


local, central, end = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
attack("zip_local_size.pth", change(good, local, 22, struct.pack("<I", 1)), "another size")
attack("zip_local_crc.pth", change(good, local, 14, b"\0\0\0\1"), "another size or CRC")
attack("zip_local_name.pth", change(good, local, 30, b"brchive"), "another name")
attack("zip_local_method.pth", change(good, local, 8, b"\x08"), "another method")
attack("zip_central_size.pth", change(good, central, 20, struct.pack("<II", 99, 99)), "another size")
attack("zip_huge.pth", change(change(good, central, 20, b"\xfe\xff\xff\xff" * 2), local, 18,
                              b"\xfe\xff\xff\xff" * 2), "reaches into the zip directory")
attack("zip_encrypted.pth", change(good, central, 8, b"\x01"), "encrypted")
attack("zip_two_sizes.pth", change(good, central, 20, struct.pack("<I", 1)), "two sizes")
attack("zip_count.pth", change(good, end, 10, b"\xfe\xff"), "claims 65534 entries")
attack("zip_fewer.pth", change(good, end, 10, b"\x02"), "more bytes than entries")
attack("zip_offset.pth", change(good, end, 16, b"\0\0\0\0"), "does not end at its end record")
attack("zip_appended.pth", good + b"x", "appended")
attack("zip_truncated.pth", good[:-1], "not found")
attack("zip_in_parts.pth", change(good, end, 4, b"\x01"), "several parts")
deflated = io.BytesIO()
with zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("archive/data.pkl", b"\x80\x02}" + b"N0" * 99 + b".")
attack("zip_deflated.pth", deflated.getvalue(), "compressed")
for name, entry in (("dots", "../data.pkl"), ("absolute", "/data.pkl"), ("inside", "a/../data.pkl"),
                    ("drive", "c:data.pkl"), ("back", "a\\data.pkl"), ("control", "a\n/data.pkl")):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        info = zipfile.ZipInfo("x" * len(entry))
        z.writestr(info, b"\x80\x02}.")
    attack("zip_name_%s.pth" % name, out.getvalue().replace(b"x" * len(entry), entry.encode()),
           "plain relative name")
out = io.BytesIO()
with zipfile.ZipFile(out, "w") as z:
    for name in ("archive/data.pkl", "archive/data.pkx"):
        z.writestr(name, b"\x80\x02}.")
attack("zip_same_name.pth", out.getvalue().replace(b"data.pkx", b"data.pkl"), "are called")
out = io.BytesIO()
with zipfile.ZipFile(out, "w") as z:
    z.writestr("a/data.pkl", b"\x80\x02}.")
    z.writestr("b/data.pkl", b"\x80\x02}.")
attack("zip_two_pickles.pth", out.getvalue(), "two entries are called data.pkl")
out = io.BytesIO()
with zipfile.ZipFile(out, "w") as z:
    z.writestr("a/data.pkl", b"\x80\x02}.")
    z.writestr("a/constants.pkl", b"\x80\x02}.")
attack("zip_script.pth", out.getvalue(), "TorchScript")
# The second entry's local header lies inside the first one's data.
inner = (local + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0x21, zlib.crc32(b"z"), 1, 1, 3, 0)
         + b"a/b" + b"z")
outer = io.BytesIO()
with zipfile.ZipFile(outer, "w") as z:
    z.writestr("a/data.pkl", b"\x80\x02}." + inner)
data = outer.getvalue()
start = data.find(end)
extra = (central + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0x21, zlib.crc32(b"z"), 1, 1, 3,
                               0, 0, 0, 0, 0, data.find(inner)) + b"a/b")
data = data[:start] + extra + data[start:]
data = change(change(data, end, 8, b"\x02\x00\x02\x00"), end, 12,
              struct.pack("<I", start + len(extra) - data.find(central)))
attack("zip_overlap.pth", data, "overlap")
i = good.find(b"\x80\x02}")
attack("zip_pickle_crc.pth", change(good, i + 4, 0, b"\xff"), "CRC-32")
attack("zip_data_crc.pth", change(good, good.find(bytes(16)), 3, b"\x01"), "CRC-32")


# ---- safetensors ----

def safetensors(header, data=bytes(8), pad=True):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8 if pad else 0)
    return struct.pack("<Q", len(raw)) + raw + data


def entry(begin, stop, shape=None, dtype="U8"):
    return {"dtype": dtype, "shape": [stop - begin] if shape is None else shape,
            "data_offsets": [begin, stop]}


attack("st_overlap.safetensors", safetensors({"a": entry(0, 5), "b": entry(4, 8)}), "overlaps")
attack("st_hole.safetensors", safetensors({"a": entry(0, 3), "b": entry(4, 8)}), "hole")
attack("st_rest.safetensors", safetensors({"a": entry(0, 4)}), "follow the last tensor")
attack("st_past.safetensors", safetensors({"a": entry(0, 9)}), "do not fit")
attack("st_backward.safetensors", safetensors({"a": entry(8, 0, [8])}), "do not fit")
attack("st_shape.safetensors", safetensors({"a": entry(0, 8, [7])}), "do not fit")
attack("st_wraps.safetensors", safetensors({"a": entry(0, 8, [1 << 62, 4, 2])}), "impossible shape")
attack("st_negative.safetensors", safetensors({"a": entry(0, 8, [-8])}), "none negative")
attack("st_type.safetensors", safetensors({"a": entry(0, 8, [8], "X9")}), "'X9' is not supported")
attack("st_twice.safetensors", safetensors(
    b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
    b'"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}'), "two tensors")
attack("st_header.safetensors", struct.pack("<Q", 1 << 40) + b"{}", "not in a known format")
attack("st_deep.safetensors", safetensors(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"), "expected")
attack("st_path.safetensors", safetensors({"../a": entry(0, 8)}), "looks like a path")


# ---- ONNX ----

def field(number, payload):
    n = len(payload)
    length = b""
    while n >= 0x80:
        length += bytes([n & 0x7f | 0x80])
        n >>= 7
    return bytes([number << 3 | 2]) + length + bytes([n]) + payload


def onnx(tensor_fields):
    return b"\x08\x07" + field(7, field(5, tensor_fields))


ok = b"\x08\x02\x10\x02" + field(8, b"w") + field(9, b"ab")
attack("onnx_external.onnx", onnx(b"\x08\x02\x10\x02" + field(8, b"w") + field(13, field(
    1, b"location") + field(2, b"../../etc/passwd")) + b"\x70\x01"), "in another file")
attack("onnx_size.onnx", onnx(b"\x08\x7f\x10\x02" + field(8, b"w") + field(9, b"ab")),
       "2 bytes of data instead of 127")
attack("onnx_negative.onnx", onnx(b"\x08" + b"\xff" * 9 + b"\x01\x10\x02" + field(8, b"w")),
       "negative")
attack("onnx_length.onnx", b"\x08\x07\x3a\xff\xff\xff\xff\x7f", "past its message")
attack("onnx_no_graph.onnx", b"\x08\x07", "no graph")
attack("onnx_twice.onnx", onnx(ok + field(9, b"cd")), "data twice")
attack("onnx_varint.onnx", b"\x08" + b"\xff" * 11, "not in a known format")

# ---- neither ----

attack("empty", b"", "is empty")
attack("text", b"hello, world\n", "not in a known format")
attack("png", b"\x89PNG\r\n\x1a\n" + bytes(64), "not in a known format")
