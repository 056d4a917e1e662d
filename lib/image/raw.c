/* Packing a picture with its weights, and drawing what was packed. */
#include "image/raw.h"

#include <string.h>

#include "base/mem.h"
#include "image/bilinear.h"
#include "image/codec.h"
#include "image/raw_rule.h"

static uint64_t piece(uint64_t *at, uint64_t bytes)
{
    const uint64_t begin = *at;
    *at += (bytes + 15) & ~(uint64_t)15;
    return begin;
}

static uint64_t axis_bytes(int out, int taps)
{
    return (uint64_t)out * (2 + (uint64_t)taps) * sizeof(int32_t);
}

/* Everything but the contents. */
static void lay_out(struct mabn_raw *raw, const struct mabn_image *image,
                    const struct mabn_raw_plan *plan)
{
    const bool bytes = plan->rule == MABN_RAW_BYTES;
    uint64_t at = 0;
    *raw = (struct mabn_raw){.width = image->width,
                             .height = image->height,
                             .new_width = plan->width,
                             .new_height = plan->height,
                             .rule = (int32_t)plan->rule,
                             .flip = plan->flip,
                             .swap = plan->swap};
    raw->x_taps = bytes ? mabn_resize_taps(image->width, plan->width) : 2;
    raw->y_taps = bytes ? mabn_resize_taps(image->height, plan->height) : 2;
    piece(&at, sizeof *raw);
    raw->table = piece(&at, 3 * 256 * sizeof(float));
    raw->x = piece(&at, axis_bytes(raw->new_width, raw->x_taps));
    raw->y = piece(&at, axis_bytes(raw->new_height, raw->y_taps));
    raw->pixels = piece(&at, 3 * (uint64_t)raw->width * (uint64_t)raw->height);
    raw->bytes = at;
}

static mabn_status need(struct mabn_raw **block, size_t *capacity, uint64_t bytes)
{
    void *p;
    if (bytes <= *capacity) return MABN_OK;
    mabn_free(*block);
    *block = NULL;
    *capacity = 0;
    MABN_TRY(mabn_alloc(&p, bytes));
    *block = p;
    *capacity = bytes;
    return MABN_OK;
}

static void fill_floats(int32_t *rows, int in, int out)
{
    for (int i = 0; i < out; i++, rows += 4) {
        const struct mabn_bilinear_tap tap = mabn_bilinear_tap_of(i, in, out);
        union mabn_raw_word w0, w1;
        w0.value = tap.w0;
        w1.value = tap.w1;
        rows[0] = tap.low;
        rows[1] = tap.high;
        rows[2] = w0.bits;
        rows[3] = w1.bits;
    }
}

static mabn_status fill(int32_t *rows, int in, int out, const struct mabn_raw_plan *plan)
{
    if (plan->rule == MABN_RAW_BYTES) return mabn_resize_weights(rows, in, out);
    fill_floats(rows, in, out);
    return MABN_OK;
}

mabn_status mabn_raw_pack(struct mabn_raw **block, size_t *capacity, const struct mabn_image *image,
                          const struct mabn_raw_plan *plan)
{
    struct mabn_raw raw;
    if (!image->pixels || image->channels != 3 || plan->width < 1 || plan->height < 1)
        return mabn_fail(MABN_ERR_ARG, "cannot resize a picture of %d channels to %d x %d",
                         image->channels, plan->width, plan->height);
    lay_out(&raw, image, plan);
    MABN_TRY(need(block, capacity, raw.bytes));
    char *base = (char *)*block;
    memcpy(base, &raw, sizeof raw);
    memcpy(base + raw.table, plan->table, 3 * 256 * sizeof(float));
    MABN_TRY(fill((int32_t *)(base + raw.x), raw.width, raw.new_width, plan));
    MABN_TRY(fill((int32_t *)(base + raw.y), raw.height, raw.new_height, plan));
    memcpy(base + raw.pixels, image->pixels, 3 * (size_t)raw.width * (size_t)raw.height);
    return MABN_OK;
}

mabn_status mabn_raw_blank(struct mabn_raw **block, size_t *capacity)
{
    const uint64_t bytes = (sizeof **block + 15) & ~(uint64_t)15;
    MABN_TRY(need(block, capacity, bytes));
    **block = (struct mabn_raw){.bytes = bytes};
    return MABN_OK;
}

void mabn_raw_draw(float *x, int width, int height, const struct mabn_raw *raw)
{
    memset(x, 0, 3 * (size_t)width * (size_t)height * sizeof *x);
    for (int row = 0; row < raw->new_height; row++)
        for (int column = 0; column < raw->new_width; column++)
            mabn_raw_pixel(x + 3 * ((size_t)row * (size_t)width + (size_t)column), raw, column,
                           row);
}
