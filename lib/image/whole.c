/* Checks of a file that need no decoding: is its end there, is it small enough?
 *
 * A JPEG is markers (ff, then neither 00 nor ff) with lengths, and between SOS and the next marker
 * compressed data, in which ff is followed by 00 or a restart marker. A PNG is chunks: length,
 * four letters, data, checksum. Both may be followed by anything, as cameras do. */
#include <string.h>
#include <zlib.h>

#include "image/codec.h"
#include "image/image.h"

enum { RST0 = 0xd0, RST7 = 0xd7, SOI = 0xd8, EOI = 0xd9, SOS = 0xda, TEM = 0x01 };

/* The next marker at or after `at`, or `size`. */
static size_t next_marker(const uint8_t *bytes, size_t size, size_t at)
{
    while (at + 1 < size) {
        const uint8_t *found = memchr(bytes + at, 0xff, size - at - 1);
        if (!found) break;
        at = (size_t)(found - bytes);
        uint8_t code = bytes[at + 1];
        if (code && code != 0xff && (code < RST0 || code > RST7)) return at;
        at += code == 0xff ? 1 : 2;
    }
    return size;
}

static bool jpeg_is_whole(const uint8_t *bytes, size_t size)
{
    if (size > 4 && bytes[size - 2] == 0xff && bytes[size - 1] == EOI) return true;
    size_t at = 2; /* after SOI */
    while ((at = next_marker(bytes, size, at)) < size) {
        uint8_t code = bytes[at + 1];
        if (code == EOI) return true;
        at += 2;
        if (code == SOI || code == TEM) continue;
        if (size - at < 2) return false;
        size_t length = (size_t)bytes[at] << 8 | bytes[at + 1];
        if (length > size - at) return false;
        at += length;
    }
    return false;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Does it end, and have what no decoder does without? The header is at 8: length, letters, 13 bytes, sum. */
static mabn_status check_png(const struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    bool data = false, palette = info->colour != MABN_COLOUR_PALETTE;
    size_t at = 8;
    if (size >= 33 && (uint32_t)crc32(0, bytes + 12, 17) != be32(bytes + 29))
        return mabn_fail(MABN_ERR_FORMAT, "PNG is damaged: its header has another checksum");
    while (size - at >= 12) {
        const size_t length = be32(bytes + at);
        const uint8_t *letters = bytes + at + 4;
        if (length > size - at - 12) break;
        data = data || !memcmp(letters, "IDAT", 4);
        palette = palette || (!data && !memcmp(letters, "PLTE", 4));
        if (!memcmp(letters, "IEND", 4)) {
            if (data && palette) return MABN_OK;
            return mabn_fail(MABN_ERR_FORMAT, "PNG without %s", data ? "a palette" : "pixels");
        }
        at += length + 12;
    }
    return mabn_fail(MABN_ERR_FORMAT, "PNG is truncated: its end is missing");
}

mabn_status mabn_image_check(const struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    const struct mabn_decode_options defaults = MABN_DECODE_DEFAULTS;
    MABN_TRY(
        mabn_image_check_size((uint64_t)info->width, (uint64_t)info->height, defaults.max_pixels));
    if (info->type == MABN_IMAGE_PNG) MABN_TRY(mabn_png_check(info, size));
    if (info->type == MABN_IMAGE_JPEG && !jpeg_is_whole(bytes, size))
        return mabn_fail(MABN_ERR_FORMAT, "JPEG is truncated: its end is missing");
    return info->type == MABN_IMAGE_PNG ? check_png(info, bytes, size) : MABN_OK;
}
