#!/usr/bin/python3
"""Write the seeds of fuzz_h5 and fuzz_idx into corpus/. The layouts are those of lib/store/h5.h,
lib/store/idx.h and fuzz_h5.c. The checksums of images in the seeds are right (python3-xxhash is not
needed: the one image has a known sum)."""
import gzip
import os
import struct

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
F32, BF16, U8, U32, I32, U64, I64, STRING = 1, 4, 5, 9, 10, 11, 12, 14
SIZE = {F32: 4, BF16: 2, U8: 1, U32: 4, I32: 4, U64: 8, I64: 8}


def attribute(name, value):
    if isinstance(value, int):
        kind, data = 1, struct.pack("<q", value)
    elif isinstance(value, float):
        kind, data = 2, struct.pack("<d", value)
    else:
        kind, data = 3, value.encode()
    return struct.pack("<IIQ", kind, len(name), len(data)) + name.encode() + data


class File:
    def __init__(self):
        self.body, self.items, self.attributes = bytearray(16), [], []

    def item(self, name, kind, dims, data, width=0, coverage=0):
        head = struct.pack("<BBBBIQQQ16s", kind, len(dims), coverage, 0, len(name), width,
                           len(self.body), len(data), bytes(16))
        self.items.append(head + struct.pack("<%dQ" % len(dims), *dims) + name.encode())
        self.body += data

    def seed(self, mode):
        index = struct.pack("<II", len(self.attributes), len(self.items))
        index += b"".join(attribute(*a) for a in self.attributes) + b"".join(self.items)
        return struct.pack("<BH", mode, len(index)) + index + bytes(self.body)


def dataset(raw):
    f, n = File(), 3
    f.attributes = [("format", "mabn-dataset"), ("version", 1), ("kind", "imagenet"), ("count", n),
                    ("classes", 2), ("encoding", "raw" if raw else "encoded")]
    f.item("/images/bytes", U8, [12], b"abcdefghijkl", coverage=1)
    f.item("/images/offset", U64, [n], struct.pack("<3Q", 0, 4, 8))
    f.item("/images/length", U32, [n], struct.pack("<3I", 4, 4, 4))
    f.item("/images/height", U32, [n], struct.pack("<3I", 2, 2, 2))
    f.item("/images/width", U32, [n], struct.pack("<3I", 2, 2, 2))
    f.item("/images/channels", U8, [n], b"\1\1\1")
    f.item("/images/format", U8, [n], b"\0\0\0" if raw else b"\1\2\1")
    # XXH3-64 of b"abcd"; the other two images are damaged
    f.item("/images/checksum", U64, [n], struct.pack("<3Q", 0x6497a96f53a89890, 1, 2))
    f.item("/images/name", STRING, [n], b"a\0\0bb\0ccc", width=3)
    f.item("/labels", I32, [n], struct.pack("<3i", 0, 1, 0))
    f.item("/classes", STRING, [2], b"onetwo", width=3)
    return f


def checkpoint():
    f = File()
    f.attributes = [("format", "mabn-checkpoint"), ("version", 1), ("config", '{"classes": 10}'),
                    ("step", 7), ("channel_order", "bgr"), ("mean_0", 1.5), ("centralized", 1)]
    f.item("/model/conv1.weight", F32, [2, 1, 1, 2], bytes(16))
    f.item("/model/b", BF16, [3], bytes(6))
    f.item("/model/none", F32, [0, 4], b"")
    f.item("/model/it", I64, [], bytes(8))
    f.item("/optimizer/momentum/conv1.weight", F32, [2, 1, 1, 2], bytes(16))
    return f


def write(folder, name, data):
    path = os.path.join(here, folder)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, name), "wb") as out:
        out.write(data)


for mode in 1, 2:
    write("h5", "dataset-%d" % mode, dataset(False).seed(mode))
    write("h5", "raw-%d" % mode, dataset(True).seed(mode))
    write("h5", "checkpoint-%d" % mode, checkpoint().seed(mode))
superblock = b"\x89HDF\r\n\x1a\n" + struct.pack("<BBBBQQQQI", 2, 8, 8, 0, 0, 2**64 - 1, 4000, 48, 0)
write("h5", "superblock", b"\0\0\0" + superblock)
plain = b"\0\0\10\3" + struct.pack(">3I", 2, 2, 2) + b"abcdefgh"
write("idx", "plain", plain)
write("idx", "labels", b"\0\0\10\1" + struct.pack(">I", 2) + b"\1\2")
write("idx", "gzip", gzip.compress(plain, mtime=0))
write("idx", "truncated", plain[:-3])
write("idx", "huge", b"\0\0\10\3" + b"\xff" * 12)
