/* BMP in: headers of 12, 40 and more bytes; 1, 4, 8 (palette), 16, 24 and 32 bits, not compressed.
 * Rows are padded to four bytes and come from the bottom, unless the height is negative. */
#include <string.h>

#include "image/codec.h"

struct header {
    size_t pixels;  /* offset of the first row */
    size_t palette; /* offset of the palette */
    size_t colours; /* in it */
    int entry;      /* bytes of a colour: 3 or 4 */
    int width, height, bits;
    bool down;               /* rows from the top */
    uint32_t mask[3], alpha; /* alpha 0: none */
    size_t stride;
};

static uint32_t le(const uint8_t *p, int n)
{
    uint32_t v = 0;
    for (int i = n; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

static mabn_status read_masks(struct header *h, const uint8_t *p, size_t size, uint32_t compression)
{
    static const uint32_t usual[2][3] = {{0x7c00, 0x3e0, 0x1f}, {0xff0000, 0xff00, 0xff}};
    memcpy(h->mask, usual[h->bits == 32], sizeof h->mask);
    if (compression == 0) return MABN_OK;
    if (size < 66) return mabn_fail(MABN_ERR_FORMAT, "BMP: truncated");
    for (int i = 0; i < 3; i++) {
        h->mask[i] = le(p + 54 + 4 * i, 4);
        if (!h->mask[i]) return mabn_fail(MABN_ERR_FORMAT, "BMP: an empty colour mask");
    }
    return MABN_OK;
}

static mabn_status read_header(struct header *h, const uint8_t *p, size_t size)
{
    memset(h, 0, sizeof *h);
    if (size < 26) return mabn_fail(MABN_ERR_FORMAT, "BMP: truncated");
    uint32_t length = le(p + 14, 4), compression = 0;
    int64_t width, height;
    if (length == 12) {
        width = le(p + 18, 2);
        height = le(p + 20, 2);
        h->bits = (int)le(p + 24, 2);
    } else if (length >= 40 && length <= 256 && size >= 54) {
        width = (int32_t)le(p + 18, 4);
        height = (int32_t)le(p + 22, 4);
        h->bits = (int)le(p + 28, 2);
        compression = le(p + 30, 4);
        h->colours = le(p + 46, 4);
    } else {
        return mabn_fail(MABN_ERR_FORMAT, "BMP: a header of %u bytes", length);
    }
    if (compression == 1 || compression == 2)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "BMP: compressed by run lengths");
    if (h->bits != 1 && h->bits != 4 && h->bits != 8 && h->bits != 16 && h->bits != 24 &&
        h->bits != 32)
        return mabn_fail(MABN_ERR_FORMAT, "BMP: %d bits a pixel", h->bits);
    if (compression != 0 && !((compression == 3 || compression == 6) && h->bits % 16 == 0))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "BMP: compression %u", compression);
    h->down = height < 0;
    if (height < 0) height = -height;
    MABN_TRY(mabn_image_check_size(width > 0 ? (uint64_t)width : 0, (uint64_t)height, UINT64_MAX));
    h->width = (int)width;
    h->height = (int)height;
    h->pixels = le(p + 10, 4);
    h->palette = 14 + (size_t)length + (length == 40 && compression == 3 ? 12 : 0);
    h->entry = length == 12 ? 3 : 4;
    if (h->bits <= 8 && (!h->colours || h->colours > 1u << h->bits)) h->colours = 1u << h->bits;
    if (h->bits % 16 == 0 && compression && length >= 56 && size >= 70) h->alpha = le(p + 66, 4);
    h->stride = ((size_t)h->width * (size_t)h->bits + 31) / 32 * 4;
    return h->bits % 16 == 0 ? read_masks(h, p, size, compression) : MABN_OK;
}

mabn_status mabn_bmp_probe(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    struct header h;
    MABN_TRY(read_header(&h, bytes, size));
    *info = (struct mabn_image_info){.type = MABN_IMAGE_BMP,
                                     .colour = h.bits <= 8 ? MABN_COLOUR_PALETTE : MABN_COLOUR_RGB,
                                     .width = h.width,
                                     .height = h.height,
                                     .channels = h.bits <= 8 ? 1 : 3,
                                     .bits = h.bits <= 8    ? h.bits
                                             : h.bits == 16 ? 5
                                                            : 8,
                                     .alpha = h.alpha != 0};
    return MABN_OK;
}

/* The bits under a mask, stretched to 0...255. */
static uint8_t masked(uint32_t v, uint32_t mask)
{
    int shift = __builtin_ctz(mask);
    uint32_t top = mask >> shift;
    return (uint8_t)((uint64_t)((v & mask) >> shift) * 255 / top);
}

static void unpack_row(const struct header *h, const uint8_t *file, const uint8_t *row,
                       uint8_t *out)
{
    for (int x = 0; x < h->width; x++, out += 3) {
        if (h->bits == 24) {
            out[0] = row[3 * x + 2];
            out[1] = row[3 * x + 1];
            out[2] = row[3 * x];
        } else if (h->bits > 8) {
            uint32_t v = le(row + (size_t)x * (size_t)(h->bits / 8), h->bits / 8);
            for (int i = 0; i < 3; i++)
                out[i] = masked(v, h->mask[i]);
        } else {
            int at = x * h->bits, low = 8 - h->bits - at % 8;
            uint32_t index = row[at / 8] >> low & ((1u << h->bits) - 1);
            if (index >= h->colours) index = 0;
            const uint8_t *c = file + h->palette + index * (size_t)h->entry;
            out[0] = c[2];
            out[1] = c[1];
            out[2] = c[0];
        }
    }
}

mabn_status mabn_bmp_decode(struct mabn_decode_job *job)
{
    struct header h;
    struct mabn_image *image = job->image;
    MABN_TRY(read_header(&h, job->bytes, job->size));
    MABN_TRY(mabn_image_check_size((uint64_t)h.width, (uint64_t)h.height, job->options.max_pixels));
    job->part = (struct mabn_rect){0, 0, h.width, h.height};
    size_t need = h.stride * (size_t)h.height;
    if (h.bits <= 8 && h.palette + h.colours * (size_t)h.entry > job->size)
        return mabn_fail(MABN_ERR_FORMAT, "BMP: the palette is truncated");
    bool whole = h.pixels <= job->size && need <= job->size - h.pixels;
    if (!whole && (!job->options.allow_damaged || job->size < need / 64))
        return mabn_fail(MABN_ERR_FORMAT, "BMP: truncated: %zu bytes, expected %zu", job->size,
                         h.pixels + need);
    MABN_TRY(mabn_image_resize_storage(image, h.width, h.height, 3));
    memset(image->pixels, 0, 3 * (size_t)h.width * (size_t)h.height);
    for (int y = 0; y < h.height; y++) {
        size_t at = h.pixels + (size_t)y * h.stride;
        if (at > job->size || job->size - at < h.stride) break;
        int to = h.down ? y : h.height - 1 - y;
        unpack_row(&h, job->bytes, job->bytes + at,
                   image->pixels + 3 * (size_t)to * (size_t)h.width);
    }
    return mabn_image_set_channels(image, job->options.channels);
}

mabn_status mabn_bmp_alpha(struct mabn_image *alpha, bool *found, const uint8_t *bytes, size_t size)
{
    const struct mabn_decode_options limits = MABN_DECODE_DEFAULTS;
    struct header h;
    MABN_TRY(read_header(&h, bytes, size));
    MABN_TRY(mabn_image_check_size((uint64_t)h.width, (uint64_t)h.height, limits.max_pixels));
    if (!h.alpha) return MABN_OK;
    if (h.pixels > size || h.stride * (size_t)h.height > size - h.pixels)
        return mabn_fail(MABN_ERR_FORMAT, "BMP: truncated");
    MABN_TRY(mabn_image_resize_storage(alpha, h.width, h.height, 1));
    const int step = h.bits / 8;
    for (int y = 0; y < h.height; y++) {
        const uint8_t *row = bytes + h.pixels + (size_t)y * h.stride;
        uint8_t *out = alpha->pixels + (size_t)(h.down ? y : h.height - 1 - y) * (size_t)h.width;
        for (int x = 0; x < h.width; x++)
            out[x] = masked(le(row + (size_t)x * (size_t)step, step), h.alpha);
    }
    *found = true;
    return MABN_OK;
}
