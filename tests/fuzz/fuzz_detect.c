/* Masks of a detector from odd numbers: polygons seen through boxes, maps pasted into images. One
 * byte chooses the convention, two the image, the rest are float32 numbers of any kind. Targets
 * must be 0 or 1, and a pasted mask a mask of the image. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "detect/mask_targets.h"
#include "detect/paste.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NUMBERS = 256, SIDE = 28 };

static struct mabn_scratch scratch;

static void fill(const float *number, uint32_t n, const float *box, int width, int height,
                 const struct mabn_box_convention *c)
{
    static const int32_t object[1] = {0};
    const uint32_t polygon[2] = {0, 2}, first[3] = {0, n / 2, n};
    const struct mabn_outlines o = {1, polygon, first, number, width, height};
    uint8_t target[SIDE * SIDE];
    float pooled[SIDE * SIDE];
    if (mabn_mask_targets_fill(target, box, object, 1, SIDE, &o, c)) abort();
    for (int i = 0; i < SIDE * SIDE; i++)
        if (target[i] > 1) abort();
    /* Boxes that are not finite, or too large, are refused. */
    if (!mabn_mask_targets_pool(pooled, box, object, 1, SIDE, &o, c->roi_aligned, &scratch))
        for (int i = 0; i < SIDE * SIDE; i++)
            if (!(pooled[i] >= 0 && pooled[i] < 1.001f)) abort();
}

static void paste(const float *number, uint32_t n, const float *box, int width, int height,
                  const struct mabn_box_convention *c)
{
    float map[SIDE * SIDE];
    struct mabn_rle mask;
    uint64_t pixels = 0;
    for (int i = 0; i < SIDE * SIDE; i++)
        map[i] = n ? number[(uint32_t)i * 7 % n] : 1;
    mabn_rle_init(&mask);
    if (mabn_paste(&mask, map, SIDE, box, width, height, c, &scratch)) abort();
    for (size_t i = 0; i < mask.count; i++) {
        pixels += mask.counts[i];
        if (i > 0 && mask.counts[i] == 0) abort();
    }
    if (pixels != (uint64_t)width * (uint64_t)height) abort();
    mabn_rle_release(&mask);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const conventions[] = {"legacy", "detectron2", "torchvision"};
    const struct mabn_box_convention *c;
    float box[4], number[NUMBERS];
    if (size < 3 + sizeof box) return 0;
    const int width = data[1] + 1, height = data[2] + 1;
    if (mabn_box_convention_find(&c, conventions[data[0] % 3])) abort();
    memcpy(box, data + 3, sizeof box);
    size_t n = (size - 3 - sizeof box) / sizeof *number;
    if (n > NUMBERS) n = NUMBERS;
    memcpy(number, data + 3 + sizeof box, n * sizeof *number);
    fill(number, (uint32_t)n, box, width, height, c);
    paste(number, (uint32_t)n, box, width, height, c);
    return 0;
}
