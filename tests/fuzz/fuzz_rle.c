/* Run-length masks from strings and from counts: whatever is accepted is a sound mask. Two bytes of
 * height, two of width, one that says string or counts, the rest. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "coco/mask.h"
#include "coco/outline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SMALL = 1 << 12 };

static void check(const struct mabn_rle *r)
{
    uint64_t sum = 0;
    if (r->count == 0) abort();
    for (size_t i = 0; i < r->count; i++) {
        if (i && r->counts[i] == 0) abort();
        sum += r->counts[i];
    }
    if (sum != (uint64_t)r->height * r->width) abort();
}

/* The outline fills to the mask. */
static void check_outline(const struct mabn_rle *r)
{
    struct mabn_outline o = {0};
    struct mabn_rle all, one, both;
    mabn_rle_init(&all);
    mabn_rle_init(&one);
    mabn_rle_init(&both);
    if (mabn_outline_of_rle(&o, r) || mabn_rle_from_counts(&all, NULL, 0, r->height, r->width))
        abort();
    const double *xy = o.xy;
    for (size_t p = 0; p < o.count; xy += o.sizes[p++]) {
        if (mabn_rle_from_polygon(&one, xy, o.sizes[p], r->height, r->width)) abort();
        const struct mabn_rle pair[2] = {all, one};
        if (mabn_rle_merge(&both, pair, 2, false)) abort();
        const struct mabn_rle swap = all;
        all = both;
        both = swap;
    }
    if (all.count != r->count || memcmp(all.counts, r->counts, 4 * r->count)) abort();
    mabn_rle_release(&all);
    mabn_rle_release(&one);
    mabn_rle_release(&both);
    mabn_outline_release(&o);
}

static void check_operations(const struct mabn_rle *r, const struct mabn_rle *other)
{
    struct mabn_rle back, merged, pair[2] = {*r, *other};
    struct mabn_str text;
    mabn_rle_init(&back);
    mabn_rle_init(&merged);
    mabn_str_init(&text);
    mabn_rle_to_string(&text, r);
    if (mabn_rle_from_string(&back, text.text, text.length, r->height, r->width)) abort();
    if (back.count != r->count || memcmp(back.counts, r->counts, 4 * r->count)) abort();
    uint64_t area = mabn_rle_area(r), both = 0, any = 0;
    struct mabn_box box = mabn_rle_box(r);
    if (box.w * box.h < (double)area || box.x + box.w > r->width || box.y + box.h > r->height)
        abort();
    if (area && mabn_rle_iou(r, r, false) != 1) abort();
    if (mabn_rle_merge(&merged, pair, 2, true)) abort();
    check(&merged);
    both = mabn_rle_area(&merged);
    if (mabn_rle_merge(&merged, pair, 2, false)) abort();
    check(&merged);
    any = mabn_rle_area(&merged);
    if (both + any != area + mabn_rle_area(other)) abort();
    double iou = mabn_rle_iou(r, other, false);
    if (iou != (both ? (double)both / (double)any : 0)) abort();
    if ((uint64_t)r->height * r->width <= SMALL) {
        uint8_t pixels[SMALL], rows[SMALL];
        check_outline(r);
        mabn_rle_decode(pixels, r);
        mabn_rle_decode_rows(rows, r);
        if (mabn_rle_encode(&back, pixels, r->height, r->width)) abort();
        if (back.count != r->count || memcmp(back.counts, r->counts, 4 * r->count)) abort();
        if (mabn_rle_encode_rows(&back, rows, r->height, r->width)) abort();
        if (back.count != r->count || memcmp(back.counts, r->counts, 4 * r->count)) abort();
    }
    mabn_rle_release(&back);
    mabn_rle_release(&merged);
    mabn_str_release(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mabn_rle r, half;
    if (size < 5) return 0;
    uint32_t height = data[0] | (uint32_t)data[1] << 8, width = data[2] | (uint32_t)data[3] << 8;
    if (data[4] & 2) height <<= data[4] >> 4; /* also beyond all limits */
    const uint8_t *rest = data + 5;
    size_t n = size - 5;
    mabn_status status;
    mabn_rle_init(&r);
    mabn_rle_init(&half);
    if (data[4] & 1) {
        uint32_t counts[256];
        size_t m = n / 4 < 256 ? n / 4 : 256;
        if (m) memcpy(counts, rest, 4 * m);
        for (size_t i = 0; i < m && data[4] & 4; i++)
            counts[i] &= 0x3f;
        status = mabn_rle_from_counts(&r, counts, m, height, width);
        if (!status && mabn_rle_from_counts(&half, counts, m / 2, height, width)) abort();
    } else {
        status = mabn_rle_from_string(&r, (const char *)rest, n, height, width);
        if (mabn_rle_from_string(&half, (const char *)rest, n / 2, height, width))
            status = MABN_ERR_FORMAT;
    }
    if (!status) {
        check(&r);
        check(&half);
        check_operations(&r, &half);
    }
    mabn_rle_release(&r);
    mabn_rle_release(&half);
    return 0;
}
