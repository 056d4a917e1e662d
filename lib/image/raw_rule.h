/* What a raw picture (raw.h) becomes, pixel by pixel: inline, for raw.c and for the kernel that draws one
 * on a GPU. Multiply-adds are written out where they are meant, and no others can be made of these
 * expressions. */
#ifndef MABN_IMAGE_RAW_RULE_H
#define MABN_IMAGE_RAW_RULE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "image/raw.h"

#ifdef __CUDACC__
#define MABN_RAW_RULE __host__ __device__ static inline
#else
#define MABN_RAW_RULE static inline
#endif

enum { MABN_RAW_BITS = 22 };

union mabn_raw_word {
    int32_t bits;
    float value;
};

MABN_RAW_RULE float mabn_raw_float(int32_t bits)
{
    union mabn_raw_word word;
    word.bits = bits;
    return word.value;
}

/* Sums are at most a little above 255 (resize.c), never below 0. */
MABN_RAW_RULE int32_t mabn_raw_round(int32_t sum)
{
    const int32_t v = sum >> MABN_RAW_BITS;
    return v > 255 ? 255 : v;
}

/* The three bytes, by channel of the file, of a pixel of the resized picture. */
MABN_RAW_RULE void mabn_raw_resized(int32_t byte[3], const uint8_t *pixels, int64_t row,
                                    const int32_t *tx, const int32_t *ty)
{
    const int32_t half = 1 << (MABN_RAW_BITS - 1);
    int32_t sum[3] = {half, half, half};
    for (int j = 0; j < ty[1]; j++) {
        const uint8_t *p = pixels + (ty[0] + j) * row + 3 * tx[0];
        int32_t across[3] = {half, half, half};
        for (int i = 0; i < tx[1]; i++, p += 3)
            for (int c = 0; c < 3; c++)
                across[c] += p[c] * tx[2 + i];
        for (int c = 0; c < 3; c++)
            sum[c] += mabn_raw_round(across[c]) * ty[2 + j];
    }
    for (int c = 0; c < 3; c++)
        byte[c] = mabn_raw_round(sum[c]);
}

MABN_RAW_RULE float mabn_raw_mix(float low, float high, const int32_t *tap)
{
    return fmaf(low, mabn_raw_float(tap[2]), high * mabn_raw_float(tap[3]));
}

/* The output (3) at column x of row y, which lies within the new size. */
MABN_RAW_RULE void mabn_raw_pixel(float out[3], const struct mabn_raw *raw, int x, int y)
{
    const char *base = (const char *)raw;
    const float *table = (const float *)(base + raw->table);
    const uint8_t *pixels = (const uint8_t *)(base + raw->pixels);
    const bool bytes = raw->rule == MABN_RAW_BYTES;
    const int64_t row = 3 * (int64_t)raw->width;
    const int column = bytes && raw->flip ? raw->new_width - 1 - x : x;
    const int32_t *tx = (const int32_t *)(base + raw->x) + (int64_t)column * (2 + raw->x_taps);
    const int32_t *ty = (const int32_t *)(base + raw->y) + (int64_t)y * (2 + raw->y_taps);
    if (bytes) {
        int32_t byte[3];
        mabn_raw_resized(byte, pixels, row, tx, ty);
        for (int c = 0; c < 3; c++)
            out[c] = table[256 * c + byte[raw->swap ? 2 - c : c]];
        return;
    }
    /* Mirrored before it is resized. */
    const int a = 3 * (raw->flip ? raw->width - 1 - tx[0] : tx[0]);
    const int b = 3 * (raw->flip ? raw->width - 1 - tx[1] : tx[1]);
    const uint8_t *low = pixels + ty[0] * row, *high = pixels + ty[1] * row;
    for (int c = 0; c < 3; c++) {
        const int from = raw->swap ? 2 - c : c;
        const float *of = table + 256 * c;
        out[c] = mabn_raw_mix(mabn_raw_mix(of[low[a + from]], of[low[b + from]], tx),
                              mabn_raw_mix(of[high[a + from]], of[high[b + from]], tx), ty);
    }
}

#endif
