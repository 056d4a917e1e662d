/* How a mask's map is pasted, pixel by pixel: the two rules of paste.h, inline, for paste.c and for
 * kernels that paste on a GPU what the CPU would. Multiply-adds are written out where they are meant;
 * elsewhere none may be made of these expressions (-std=c11; nvcc -fmad=false). */
#ifndef MABN_DETECT_PASTE_RULE_H
#define MABN_DETECT_PASTE_RULE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define MABN_PASTE_RULE __host__ __device__ static inline
#else
#define MABN_PASTE_RULE static inline
#endif

/* Along each axis a pixel reads two neighbouring places of the map, which has a border of zeros. */
struct mabn_paste_tap {
    int32_t low, high;
    float w_low, w_high;
};

struct mabn_paste_span {
    int64_t first, size; /* of the box in whole pixels, which may lie outside the image */
    int from, to;        /* the part of it in the image */
};

MABN_PASTE_RULE int64_t mabn_paste_whole(float v)
{
    return v > 1e9f ? 1000000000 : v > -1e9f ? (int64_t)v : -1000000000; /* NaN too */
}

MABN_PASTE_RULE int mabn_paste_clamp(int64_t v, int size)
{
    return v < 0 ? 0 : v > size ? size : (int)v;
}

MABN_PASTE_RULE struct mabn_paste_span mabn_paste_span_resize(float a, float b, int side, int size)
{
    const float half = (b - a) * 0.5f * ((float)(side + 2) / (float)side);
    const float centre = (b + a) * 0.5f;
    struct mabn_paste_span s;
    s.first = mabn_paste_whole(centre - half);
    const int64_t last = mabn_paste_whole(centre + half);
    s.size = last - s.first + 1 > 1 ? last - s.first + 1 : 1;
    s.from = mabn_paste_clamp(s.first, size);
    s.to = mabn_paste_clamp(last + 1, size);
    return s;
}

MABN_PASTE_RULE struct mabn_paste_span mabn_paste_span_sample(float a, float b, int size)
{
    struct mabn_paste_span s;
    s.first = s.size = 0;
    s.from = mabn_paste_clamp(mabn_paste_whole(floorf(a)) - 1, size);
    s.to = mabn_paste_clamp(mabn_paste_whole(ceilf(b)) + 1, size);
    return s;
}

/* line: side + 2 */
MABN_PASTE_RULE struct mabn_paste_tap mabn_paste_tap_resize(int i, const struct mabn_paste_span *s,
                                                            int line)
{
    const float scale = (float)line / (float)s->size;
    float at = scale * ((float)(i - s->first) + 0.5f) - 0.5f;
    struct mabn_paste_tap t;
    at = at > 0 ? at : 0;
    t.low = (int32_t)at < line - 1 ? (int32_t)at : line - 1;
    t.high = t.low + 1 < line ? t.low + 1 : line - 1;
    t.w_high = at - (float)t.low;
    t.w_low = 1 - t.w_high;
    return t;
}

/* Places −1 and `side` of the map are its border here, 0 and side + 1. */
MABN_PASTE_RULE struct mabn_paste_tap mabn_paste_tap_sample(int i, float a, float b, int side)
{
    const float g = (((float)i + 0.5f) - a) / (b - a) * 2 - 1;
    const float at = fmaf(g + 1, (float)side * 0.5f, -0.5f);
    const bool before = at < -1, after = !(at < (float)side);
    const float low = before ? -1 : after ? (float)side : floorf(at);
    struct mabn_paste_tap t;
    t.low = (int32_t)low + 1;
    t.high = t.low < side + 1 ? t.low + 1 : t.low;
    t.w_high = before || after ? 0 : at - low;
    t.w_low = 1 - t.w_high;
    return t;
}

/* A column of pixels sees the map reduced to one line of values. */
MABN_PASTE_RULE float mabn_paste_between(float low, float high, float w_low, float w_high)
{
    return fmaf(low, w_low, high * w_high);
}

/* The pixel, of the line's values at its rows. */
MABN_PASTE_RULE bool mabn_paste_pixel_resize(float low, float high, const struct mabn_paste_tap *y)
{
    return mabn_paste_between(low, high, y->w_low, y->w_high) > 0.5f;
}

/* The pixel, of the map's four values: column low or high, row low or high. */
MABN_PASTE_RULE bool mabn_paste_pixel_sample(float low_low, float high_low, float low_high,
                                             float high_high, const struct mabn_paste_tap *x,
                                             const struct mabn_paste_tap *y)
{
    float v = low_low * (y->w_low * x->w_low);
    v = fmaf(high_low, y->w_low * x->w_high, v);
    v = fmaf(low_high, y->w_high * x->w_low, v);
    v = fmaf(high_high, y->w_high * x->w_high, v);
    return v >= 0.5f;
}

#endif
