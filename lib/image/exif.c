/* The one number of EXIF data that changes what a picture is: its orientation. EXIF is a TIFF
 * directory, which stands in a segment of a JPEG, in a chunk of a PNG or of a WebP. Damaged data
 * give 0, not an error, because the orientation is optional. A second such directory in a JPEG says
 * how many pictures the file holds (CIPA DC-007, "multi-picture format"). */
#include <string.h>

#include "image/codec.h"

static uint32_t get(const uint8_t *p, int n, bool big)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint32_t)p[i] << 8 * (big ? n - 1 - i : i);
    return v;
}

/* The first number of a tag in the first directory; 0: there is none. */
static uint32_t tiff_number(const uint8_t *p, size_t size, uint32_t tag)
{
    enum { SHORT = 3, LONG = 4 };
    if (size < 14 || (memcmp(p, "II*\0", 4) && memcmp(p, "MM\0*", 4))) return 0;
    bool big = *p == 'M';
    size_t at = get(p + 4, 4, big);
    if (at > size - 2) return 0;
    size_t n = get(p + at, 2, big);
    at += 2;
    for (; n > 0 && size - at >= 12; n--, at += 12) {
        if (get(p + at, 2, big) != tag) continue;
        uint32_t type = get(p + at + 2, 2, big);
        return type == SHORT ? get(p + at + 8, 2, big) : type == LONG ? get(p + at + 8, 4, big) : 0;
    }
    return 0;
}

static int tiff_orientation(const uint8_t *p, size_t size)
{
    if (size >= 6 && !memcmp(p, "Exif\0\0", 6)) {
        p += 6;
        size -= 6;
    }
    uint32_t v = tiff_number(p, size, 0x0112);
    return v <= 8 ? (int)v : 0;
}

/* A segment before the pixels, by its marker and the `n` bytes that it begins with: the first counts.
 * NULL: there is none. */
static const uint8_t *find_segment(const uint8_t *p, size_t size, uint8_t wanted, const char *begin,
                                   size_t n, size_t *length)
{
    size_t at = 2;
    while (at + 4 <= size && p[at] == 0xff) {
        uint8_t marker = p[at + 1];
        if (marker == 0xff) { /* padding */
            at++;
            continue;
        }
        if (marker == 0xda || marker == 0xd9) return NULL;
        *length = get(p + at + 2, 2, true);
        if (*length < 2 || *length > size - at - 2) return NULL;
        if (marker == wanted && *length >= n + 2 && !memcmp(p + at + 4, begin, n)) {
            *length -= 2;
            return p + at + 4;
        }
        at += 2 + *length;
    }
    return NULL;
}

static int in_jpeg(const uint8_t *p, size_t size)
{
    size_t length;
    const uint8_t *segment = find_segment(p, size, 0xe1, "Exif\0\0", 6, &length);
    return segment ? tiff_orientation(segment, length) : 0;
}

uint32_t mabn_jpeg_pictures(const uint8_t *bytes, size_t size)
{
    size_t length;
    const uint8_t *segment = find_segment(bytes, size, 0xe2, "MPF\0", 4, &length);
    return segment ? tiff_number(segment + 4, length - 4, 0xb001) : 0;
}

/* Chunks of PNG (length, name, data, checksum) and RIFF (name, length, data, padding). */
static int in_chunks(const uint8_t *p, size_t size, bool png)
{
    size_t at = png ? 8 : 12;
    while (at + 8 <= size) {
        size_t length = get(p + at + (png ? 0 : 4), 4, png);
        const uint8_t *name = p + at + (png ? 4 : 0);
        if (length > size - at - 8) return 0;
        if (!memcmp(name, png ? "eXIf" : "EXIF", 4)) return tiff_orientation(p + at + 8, length);
        at += 8 + length + (png ? 4 : length % 2);
    }
    return 0;
}

int mabn_exif_orientation(enum mabn_image_type type, const uint8_t *bytes, size_t size)
{
    switch (type) {
    case MABN_IMAGE_JPEG:
        return in_jpeg(bytes, size);
    case MABN_IMAGE_PNG:
    case MABN_IMAGE_WEBP:
        return in_chunks(bytes, size, type == MABN_IMAGE_PNG);
    default:
        return 0;
    }
}
