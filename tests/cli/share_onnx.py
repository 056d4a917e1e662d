#!/usr/bin/env python3
"""share_onnx.py IN.onnx OUT.onnx: initialisers of equal values once, and an Identity node for each other
name, as PyTorch exports them (a network whose norms are new has many). Prints how many."""
import sys


def varint(b, at):
    value = shift = 0
    while True:
        value |= (b[at] & 127) << shift
        shift += 7
        at += 1
        if b[at - 1] < 128:
            return value, at


def fields(b):
    """(number, wire type, payload, whole field)"""
    at = 0
    while at < len(b):
        start = at
        tag, at = varint(b, at)
        if tag & 7 == 2:
            n, at = varint(b, at)
            body, at = b[at:at + n], at + n
        elif tag & 7 == 0:
            body, at = varint(b, at)
        else:
            at += 4 if tag & 7 == 5 else 8
            body = None
        yield tag >> 3, tag & 7, body, b[start:at]


def pack(number, body):
    out, n = bytes([number << 3 | 2]), len(body)
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n]) + body


GRAPH, NODE, INITIALIZER, NAME = 7, 1, 5, 8
first, nodes, rest, chain = {}, b"", b"", {}
out = b""
for number, wire, body, whole in fields(open(sys.argv[1], "rb").read()):
    if number != GRAPH:
        out += whole
        continue
    for n, w, b, f in fields(body):
        if n == INITIALIZER:
            name = next(x for k, _, x, _ in fields(b) if k == NAME)
            values = b"".join(x for k, _, _, x in fields(b) if k != NAME)
            if values in first:  # every second one by way of the one before
                source = chain.get(values, first[values]) if len(chain) % 2 else first[values]
                nodes += pack(NODE, pack(1, source) + pack(2, name) + pack(4, b"Identity"))
                chain[values] = name
                print(name.decode())
                continue
            first[values] = name
        rest += f
    out += pack(GRAPH, rest + nodes)
open(sys.argv[2], "wb").write(out)
