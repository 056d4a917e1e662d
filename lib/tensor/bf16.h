/* bfloat16: the upper half of a float32. Rounded to nearest, ties to even; NaN stays NaN. The same
 * bits on every processor (the instruction that rounds to bfloat16 would flush tiny values). */
#ifndef MABN_TENSOR_BF16_H
#define MABN_TENSOR_BF16_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

static inline float mabn_bf16_float(uint16_t v)
{
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The upper half of the result is v, rounded. The lower half has no meaning. */
static inline uint32_t mabn_bf16_upper(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const uint32_t quiet = bits | 0x400000;
    return (bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded;
}

static inline uint16_t mabn_bf16_round(float v)
{
    return (uint16_t)(mabn_bf16_upper(v) >> 16);
}

/* Read and write value i of an array that is bfloat16 (`half`) or float32: for loops that are written
 * once and compiled for both types, with `half` a constant. */
static inline float mabn_at(const void *p, int64_t i, const bool half)
{
    return half ? mabn_bf16_float(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static inline void mabn_put(void *p, int64_t i, float v, const bool half)
{
    if (half)
        ((uint16_t *)p)[i] = mabn_bf16_round(v);
    else
        ((float *)p)[i] = v;
}

/* Whole arrays, by one thread; ops/elementwise.h does it by all threads. */
void mabn_bf16_widen(float *to, const uint16_t *from, int64_t count);
void mabn_bf16_narrow(uint16_t *to, const float *from, int64_t count);

MABN_END_DECLS
#endif
