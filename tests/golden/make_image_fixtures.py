#!/usr/bin/python3
"""Make tests/golden/image: small pictures of every kind we must read, or refuse, and what Pillow,
torchvision and OpenCV make of them (expected.tsv, CRC-32 of the pixels); and the seeds of the image
fuzzer in tests/fuzz/corpus/image. All pictures are drawn here.

usage: tests/golden/make_image_fixtures.py

Made with Pillow 9.4.0, torchvision 0.14.1, numpy 1.24.2, opencv-python-headless 4.8.1 on Debian 12
(libjpeg-turbo 2.1.5). Without cv2 the lines about OpenCV are left as they were."""
import io
import os
import shutil
import struct
import zlib

import numpy as np
from PIL import Image
from torchvision.transforms import functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "image")
SEEDS = os.path.join(HERE, "..", "fuzz", "corpus", "image")
WIDTH, HEIGHT = 67, 45


def picture(width=WIDTH, height=HEIGHT):
    """Slopes, discs and a little noise: all three channels differ."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    rng = np.random.RandomState(7)
    rgb = np.stack([255 * x / width, 255 * y / height, 128 + 127 * np.sin(x / 5 + y / 9)], 2)
    for i in range(5):
        cx, cy, r = rng.rand(3) * [width, height, height / 3]
        rgb[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.randint(0, 256, 3)
    return Image.fromarray(np.clip(rgb + rng.randn(height, width, 3) * 6, 0, 255).astype(np.uint8))


def encode(image, kind="JPEG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg_marker(data, marker):
    """Where the segment FF marker begins."""
    at = 2
    while data[at + 1] != marker:
        at += 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
    return at


def jpeg_with_size(data, width, height):
    at = jpeg_marker(data, 0xC0)
    return data[:at + 5] + struct.pack(">HH", height, width) + data[at + 9:]


def jpeg_insert(data, marker, payload):
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def jpeg_without(data, marker):
    """Without the segments FF marker."""
    at = jpeg_marker(data, marker)
    length = 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
    rest = data[:at] + data[at + length:]
    return jpeg_without(rest, marker) if bytes([0xFF, marker, 0]) in rest else rest


def jpeg_first_scans(data, count):
    """A progressive file that ends, properly, after so many scans."""
    at = 0
    for _ in range(count + 1):
        at = data.index(b"\xff\xda", at + 2)
    # what stands between two scans, their tables, may stay
    return data[:at] + b"\xff\xd9"


def png_chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(
        ">I", zlib.crc32(kind + payload))


def png(width, height, bits, colour, rows, interlace=0, extra=b""):
    """A PNG from raw rows (filter bytes included), for what Pillow does not write."""
    return (b"\x89PNG\r\n\x1a\n"
            + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))
            + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b""))


def png_rgb16(image):
    high = np.asarray(image).astype(np.uint16) << 8
    low = np.random.RandomState(3).randint(0, 256, high.shape).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in high | low)
    return png(image.width, image.height, 16, 2, rows)


def png_interlaced(image):
    """Adam7, by hand."""
    array, rows = np.asarray(image), b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                           (1, 0, 2, 2), (0, 1, 1, 2)]:
        for row in array[y0::dy, x0::dx]:
            if row.size:
                rows += b"\0" + row.tobytes()
    return png(image.width, image.height, 8, 2, rows, interlace=1)


def good_pictures():
    """name → bytes of pictures that must be read."""
    rgb = picture()
    gray = rgb.convert("L")
    alpha = Image.fromarray(np.dstack([np.asarray(rgb), np.asarray(gray)]))
    jpeg = encode(rgb, quality=85)
    cmyk = encode(rgb.convert("CMYK"), quality=85)
    adobe = jpeg_marker(cmyk, 0xEE)
    palette = rgb.quantize(16)
    return {
        "420.jpg": jpeg,
        "422.jpg": encode(rgb, quality=85, subsampling=1),
        "444.jpg": encode(rgb, quality=85, subsampling=0),
        "gray.jpg": encode(gray, quality=85),
        "progressive.jpg": encode(rgb, quality=85, progressive=True),
        "unfinished.jpg": jpeg_first_scans(encode(rgb, quality=85, progressive=True), 4),
        "cmyk.jpg": cmyk,
        # the same bytes, declared YCCK: wrong colours, but defined ones
        "ycck.jpg": cmyk[:adobe + 15] + b"\2" + cmyk[adobe + 16:],
        "bad-exif.jpg": jpeg_insert(jpeg, 0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xee" * 40),
        "garbage-after.jpg": jpeg + b"garbage" * 5,
        "one-pixel.jpg": encode(rgb.crop((0, 0, 1, 1))),
        "rgb.png": encode(rgb, "PNG"),
        "gray.png": encode(gray, "PNG"),
        "named.JPEG": encode(alpha, "PNG"),
        "gray-alpha.png": encode(alpha.convert("LA"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette-transparent.png": encode(palette, "PNG", transparency=3),
        "one-bit.png": encode(gray.convert("1"), "PNG"),
        "rgb16.png": png_rgb16(rgb),
        "interlaced.png": png_interlaced(rgb),
    }


def bad_pictures():
    """name → bytes of files that must be refused."""
    rgb = picture()
    jpeg, png_bytes = encode(rgb, quality=85), encode(rgb, "PNG")
    progressive = encode(rgb, quality=85, progressive=True)
    broken = bytearray(jpeg)
    sos = jpeg_marker(jpeg, 0xDA)
    for i in range(sos + 200, sos + 230):
        broken[i] = 0xFF if i % 2 else 0xD9
    broken_png = bytearray(png_bytes)
    broken_png[len(png_bytes) // 2] ^= 0x55
    return {
        "empty.jpg": b"",
        "zeros.jpg": bytes(100),
        "text.jpg": b"<html>404 not found</html>\n",
        "cut-header.jpg": jpeg[:100],
        "cut-half.jpg": jpeg[:len(jpeg) // 2],
        "cut-end.jpg": jpeg[:-2],
        "cut-progressive.jpg": progressive[:len(progressive) * 2 // 3],
        "broken-scan.jpg": bytes(broken),
        "huge.jpg": jpeg_with_size(jpeg, 65500, 65500),
        "hollow.jpg": jpeg_with_size(jpeg, 9000, 9000),
        "arithmetic.jpg": jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "no-tables.jpg": jpeg_without(jpeg, 0xDB),
        "no-width.jpg": jpeg_with_size(jpeg, 0, 45),
        "cut-half.png": png_bytes[:len(png_bytes) // 2],
        "broken.png": bytes(broken_png),
        "huge.png": png(60000, 60000, 8, 2, b"\0" * 100),
        "hollow.png": png(9000, 9000, 8, 2, b"\0" * 100),
        "no-height.png": png(10, 0, 8, 2, b"\0"),
        "bad-colour.png": png(10, 10, 8, 5, b"\0" * 310),
    }


def crc(array):
    return "%08x" % zlib.crc32(np.ascontiguousarray(array).tobytes())


def expected_decodes(good):
    for name, data in good.items():
        image = Image.open(io.BytesIO(data))
        yield "decode", name, image.width, image.height, crc(np.asarray(image.convert("RGB")))


def expected_colours(rgb):
    for name, change in [("brightness", F.adjust_brightness), ("contrast", F.adjust_contrast),
                         ("saturation", F.adjust_saturation), ("hue", F.adjust_hue)]:
        for factor in [-0.5, -0.1, 0.03, 0.2, 0.5] if name == "hue" else [0, 0.3, 0.77, 1, 1.4, 3]:
            yield "colour", name, factor, crc(np.asarray(change(rgb, factor)))
    yield "gray", crc(np.asarray(rgb.convert("L")))


def expected_resizes(rgb):
    boxes = [(0, 0, WIDTH, HEIGHT), (3, 5, 40, 31), (10, 0, 22, 45), (66, 44, 1, 1)]
    sizes = [(67, 45), (20, 15), (11, 31), (130, 99), (1, 1), (7, 200)]
    for x, y, w, h in boxes:
        for width, height in sizes:
            crop = rgb.crop((x, y, x + w, y + h))
            yield ("resize", "pil", x, y, w, h, width, height,
                   crc(np.asarray(crop.resize((width, height), Image.BILINEAR))))


def expected_centres(rgb):
    for short, size in [(32, 28), (33, 33), (64, 56), (45, 20)]:
        image = F.center_crop(F.resize(rgb, short), size)
        yield "centre", "pil", short, size, crc(np.asarray(image))


def expected_opencv(rgb):
    import cv2
    array = np.asarray(rgb)
    boxes = [(0, 0, WIDTH, HEIGHT), (3, 5, 40, 30), (10, 0, 22, 45), (66, 44, 1, 1)]
    sizes = [(67, 45), (20, 15), (11, 31), (130, 99), (1, 1), (7, 200)]
    for x, y, w, h in boxes:
        for width, height in sizes:
            crop = np.ascontiguousarray(array[y:y + h, x:x + w])
            yield "resize", "cv", x, y, w, h, width, height, crc(cv2.resize(crop, (width, height)))
    for short, size in [(32, 28), (33, 33), (64, 56), (45, 20)]:
        scale = short / min(WIDTH, HEIGHT)
        width, height = int(np.floor(scale * WIDTH + 0.5)), short  # wider than high
        top, left = round((height - size) / 2), round((width - size) / 2)
        image = cv2.resize(array, (width, height))[top:top + size, left:left + size]
        yield "centre", "cv", short, size, crc(image)


def write_expected(good):
    path = os.path.join(OUT, "expected.tsv")
    rgb = picture()
    lines = []
    for part in (expected_decodes(good), expected_colours(rgb), expected_resizes(rgb),
                 expected_centres(rgb)):
        lines += ["\t".join(map(str, line)) for line in part]
    try:
        lines += ["\t".join(map(str, line)) for line in expected_opencv(rgb)]
    except ImportError:
        with open(path) as old:
            lines += [line.rstrip("\n") for line in old if "\tcv\t" in line]
    with open(path, "w") as out:
        out.write("\n".join(lines) + "\n")


def main():
    good, bad = good_pictures(), bad_pictures()
    for folder, files in [("good", good), ("bad", bad)]:
        path = os.path.join(OUT, folder)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        for name, data in files.items():
            with open(os.path.join(path, name), "wb") as out:
                out.write(data)
    shutil.rmtree(SEEDS, ignore_errors=True)
    os.makedirs(SEEDS)
    tiny = picture(19, 13)
    seeds = {
        "420.jpg": encode(tiny, quality=50),
        "444-optimized.jpg": encode(tiny, quality=50, subsampling=0, optimize=True),
        "progressive.jpg": encode(tiny, quality=50, progressive=True),
        "unfinished.jpg": jpeg_first_scans(encode(tiny, quality=50, progressive=True), 2),
        "gray.jpg": encode(tiny.convert("L"), quality=50),
        "cmyk.jpg": encode(tiny.convert("CMYK"), quality=50),
        "rgb.png": encode(tiny, "PNG"),
        "palette.png": encode(tiny.quantize(4), "PNG"),
        "interlaced.png": png_interlaced(tiny),
        "rgb16.png": png_rgb16(tiny),
    }
    for name, data in seeds.items():
        with open(os.path.join(SEEDS, name), "wb") as out:
            out.write(data)
    write_expected(good)


if __name__ == "__main__":
    main()
