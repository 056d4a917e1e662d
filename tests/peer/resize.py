#!/usr/bin/python3
"""Compare our two resizes, byte by byte, with Pillow's and OpenCV's on many sizes and crops.

usage: tests/peer/resize.py [BUILD] [CASES]

Needs python3-numpy and python3-pil; OpenCV (cv2) is compared when it can be imported. Prints one
line a definition: cases, bytes, bytes that differ, largest difference. Exit 1 when Pillow's differ
at all, or OpenCV's by more than 1."""
import ctypes
import glob
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image


class Picture(ctypes.Structure):
    _fields_ = [("pixels", ctypes.POINTER(ctypes.c_uint8)), ("width", ctypes.c_int),
                ("height", ctypes.c_int), ("channels", ctypes.c_int),
                ("capacity", ctypes.c_size_t)]


class Box(ctypes.Structure):
    _fields_ = [(name, ctypes.c_double) for name in ("x", "y", "width", "height")]


def load(build):
    """The image and base rooms as a shared library."""
    objects = glob.glob(f"{build}/lib/image/*.o") + glob.glob(f"{build}/lib/base/*.o")
    if not objects:
        sys.exit(f"resize.py: no objects under {build}: run make first")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "libimage.so")
        subprocess.check_call(["cc", "-shared", "-fopenmp", "-o", path, *objects, "-ljpeg",
                               "-lpng", "-lm", "-pthread"])
        library = ctypes.CDLL(path)
    library.mabn_resizer_new.restype = ctypes.c_void_p
    library.mabn_error_message.restype = ctypes.c_char_p
    return library


def resize(library, resizer, array, box, width, height, kind):
    height_in, width_in, channels = array.shape
    source = Picture(array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), width_in, height_in,
                     channels, array.size)
    out = Picture()
    status = library.mabn_image_resize(ctypes.c_void_p(resizer), ctypes.byref(out),
                                       ctypes.byref(source), ctypes.byref(Box(*box)), width,
                                       height, kind)
    if status:
        sys.exit(f"resize.py: {library.mabn_error_message().decode()}")
    result = np.ctypeslib.as_array(out.pixels, (height, width, channels)).copy()
    library.mabn_image_release(ctypes.byref(out))
    return result


def by_pillow(array, width, height):
    picture = Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])
    result = np.asarray(picture.resize((width, height), Image.BILINEAR))
    return result.reshape(height, width, -1)


def by_opencv(array, width, height):
    import cv2
    cv2.setNumThreads(1)
    result = cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR)
    return result.reshape(height, width, -1)


def case(rng):
    """An array, a whole-pixel crop of it, and an output size."""
    largest = rng.choice([4, 40, 400, 900])
    w, h = rng.randint(1, largest), rng.randint(1, largest)
    channels = rng.choice([3, 3, 1])
    array = np.random.RandomState(rng.getrandbits(31)).randint(0, 256, (h, w, channels), np.uint8)
    if rng.random() < 0.3:
        array = (array > 127).astype(np.uint8) * 255
    cw, ch = rng.randint(1, w), rng.randint(1, h)
    box = (rng.randint(0, w - cw), rng.randint(0, h - ch), cw, ch)
    if rng.random() < 0.4:
        box = (0, 0, w, h)
    size = (rng.randint(1, 500), rng.randint(1, 500))
    kind = rng.random()
    if kind < 0.1:
        size = (max(1, box[2] // 2), max(1, box[3] // 2))
    elif kind < 0.15:
        size = box[2:]
    elif kind < 0.3:
        size = (224, 224)
    return array, box, size


def compare(library, name, kind, peer, cases):
    rng = random.Random(1)
    resizer = library.mabn_resizer_new()
    total = differ = largest = 0
    for _ in range(cases):
        array, box, (width, height) = case(rng)
        ours = resize(library, resizer, array, box, width, height, kind)
        x, y, w, h = box
        theirs = peer(np.ascontiguousarray(array[y:y + h, x:x + w]), width, height)
        delta = np.abs(ours.astype(int) - theirs.astype(int))
        if delta.max() > largest:
            largest = delta.max()
            print(f"  {name}: first difference of {largest}: {w}x{h} -> {width}x{height}, "
                  f"{array.shape[2]} channels")
        total += delta.size
        differ += np.count_nonzero(delta)
    print(f"{name}: {cases} cases, {total} bytes, {differ} differ, largest difference {largest}")
    return largest


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else "build/release"
    cases = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    library = load(build)
    failed = compare(library, "Pillow " + Image.__version__, 0, by_pillow, cases) > 0
    try:
        import cv2
    except ImportError:
        print("OpenCV: skipped (no module cv2)")
    else:
        failed |= compare(library, "OpenCV " + cv2.__version__, 1, by_opencv, cases) > 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
