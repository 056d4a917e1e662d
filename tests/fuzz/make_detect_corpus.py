#!/usr/bin/python3
"""Write the seeds of fuzz_detect into corpus/detect: a byte for the convention, two for width - 1 and
height - 1 of the image, then float32 numbers: a box x1, y1, x2, y2 and a polygon x, y, x, y, ..."""
import os
import struct

out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", "detect")
SQUARE = [10, 10, 40, 10, 40, 40, 10, 40]
STAR = [50, 5, 60, 40, 95, 50, 60, 60, 50, 95, 40, 60, 5, 50, 40, 40]
CASES = {  # convention, width, height, box, numbers
    "square": (0, 64, 64, [8, 8, 44, 44], SQUARE),
    "aligned": (1, 64, 48, [8.5, 7.25, 41.75, 40.5], SQUARE + STAR),
    "star": (2, 100, 100, [0, 0, 100, 100], STAR),
    "outside": (0, 50, 50, [-20, -30, 80, 200], [v - 30 for v in STAR]),
    "thin": (1, 256, 1, [0, 0, 256, 0.5], [0, 0, 256, 0, 256, 1]),
    "point": (2, 1, 1, [0.5, 0.5, 0.5, 0.5], [0.5] * 6),
    "backwards": (0, 30, 30, [20, 20, 5, 5], SQUARE),
    "huge": (1, 256, 256, [-1e30, -1e30, 1e30, 1e30], [1e30, -1e30, 1e20, 0, 0, 1e9]),
    "odd": (2, 20, 20, [float("nan"), 0, float("inf"), 5], [float("nan"), float("inf"), -0.0, 1e-40] * 2),
    "no-polygon": (0, 10, 10, [1, 1, 9, 9], []),
}

os.makedirs(out, exist_ok=True)
for name, (convention, width, height, box, numbers) in CASES.items():
    with open(os.path.join(out, name), "wb") as f:
        f.write(bytes([convention, width - 1, height - 1]) + struct.pack("<4f", *box)
                + struct.pack("<%df" % len(numbers), *numbers))
