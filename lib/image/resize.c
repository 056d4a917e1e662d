/* Pillow's and OpenCV's 8-bit bilinear resizing, to the bit.
 *
 * Both are separable: each output row is a weighted sum of rows that were resized horizontally.
 *
 * Pillow: taps j in [first, last) of output i have weight tri((j − c + ½)/fs), c = (i+½)·scale,
 * fs = max(scale, 1), normalized to sum 1, as 22-bit fixed point; each pass is rounded to 8 bits.
 *
 * OpenCV: f = (i+½)·scale − ½ in float; taps ⌊f⌋ and ⌊f⌋+1 with weights 1−f and f, ×2048, rounded
 * half to even. Horizontal sums stay at 19 bits, of which the vertical pass takes the upper 15:
 * out = ((b0·(S0≫4))≫16 + (b1·(S1≫4))≫16 + 2)≫2. Columns beyond the border get weight 0, rows
 * beyond it are the border row (the truncations make this differ).
 *
 * The plain loops are the definition. The AVX2 ones beside them compute the same integers. */
#include "image/resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/avx2.h"
#include "image/codec.h"

enum { PIL_BITS = 22 };

/* One axis of a resize: which inputs make output i, and how much of each. */
struct axis {
    int *first;       /* (out) */
    int *taps;        /* (out) Pillow: number of taps; OpenCV: unused */
    int32_t *weights; /* (out,stride) */
    int stride;
    int16_t *split; /* (out,groups,32) Pillow, AVX2: see split_weights() */
    int groups;
    size_t first_cap, weights_cap, split_cap;
};

struct mabn_resizer {
    struct axis x, y;
    struct mabn_image rows; /* Pillow: what the horizontal pass made, a ring of rows */
    const uint8_t **taps;   /* Pillow: the rows of one output row */
    size_t taps_cap;
    int16_t *lines; /* OpenCV: two horizontally resized rows */
    size_t lines_cap;
    bool avx2;
};

/* The pixels at hand. */
struct view {
    const uint8_t *pixels;
    size_t stride;
    int width, height, channels;
};

/* One axis of the job, in whole pixels of the crop: the pixels that the box touches. */
struct side {
    double from, length; /* the box */
    int in;              /* size of the crop */
    int out;             /* what it becomes */
    int begin, count;    /* the part of that which is wanted */
    int origin;          /* where in the crop the view begins; may be negative */
};

struct mabn_resizer *mabn_resizer_new(void)
{
    struct mabn_resizer *resizer = mabn_xcalloc(1, sizeof *resizer);
#if WITH_AVX2
    resizer->avx2 = __builtin_cpu_supports("avx2");
#endif
    return resizer;
}

static void axis_release(struct axis *axis)
{
    free(axis->first);
    free(axis->taps);
    free(axis->weights);
    free(axis->split);
}

void mabn_resizer_free(struct mabn_resizer *resizer)
{
    if (!resizer) return;
    axis_release(&resizer->x);
    axis_release(&resizer->y);
    mabn_image_release(&resizer->rows);
    free(resizer->taps);
    free(resizer->lines);
    free(resizer);
}

/* Room for `out` outputs of `stride` taps. */
static void axis_reserve(struct axis *axis, int out, int stride)
{
    const size_t n = (size_t)out, weights = n * (size_t)stride;
    if (n > axis->first_cap) {
        axis->first = mabn_xrealloc(axis->first, n * sizeof *axis->first);
        axis->taps = mabn_xrealloc(axis->taps, n * sizeof *axis->taps);
        axis->first_cap = n;
    }
    if (weights > axis->weights_cap) {
        axis->weights = mabn_xrealloc(axis->weights, weights * sizeof *axis->weights);
        axis->weights_cap = weights;
    }
    axis->stride = stride;
}

#if WITH_AVX2
/* Is there memory of ours `bytes` past the end of row y? */
static bool may_overread(const struct mabn_resizer *resizer, const struct view *in, int y,
                         size_t bytes)
{
    return resizer->avx2 && (size_t)(in->height - 1 - y) * in->stride >= bytes;
}
#endif

/* ---- Pillow ---- */

static int most_taps(double scale)
{
    return (int)ceil(scale < 1 ? 1 : scale) * 2 + 1;
}

static mabn_status pil_axis(struct axis *axis, const struct side *side)
{
    const int in = side->in, out = side->count;
    const double scale = side->length / side->out;
    const double filter_scale = scale < 1 ? 1 : scale;
    const int stride = most_taps(scale);
    size_t cells;
    if (!mabn_size_mul((size_t)out, (size_t)stride, &cells) || cells > (size_t)1 << 28)
        return mabn_fail(MABN_ERR_LIMIT, "cannot resize %d to %d pixels", in, out);
    axis_reserve(axis, out, stride);
    double *w = mabn_xmalloc((size_t)stride * sizeof *w);
    for (int i = 0; i < out; i++) {
        const double centre = side->from + (side->begin + i + 0.5) * scale;
        int first = (int)(centre - filter_scale + 0.5);
        int last = (int)(centre + filter_scale + 0.5);
        if (first < 0) first = 0;
        if (last > in) last = in;
        double sum = 0;
        for (int j = first; j < last; j++) {
            const double d = fabs((j - centre + 0.5) * (1.0 / filter_scale));
            w[j - first] = d < 1 ? 1 - d : 0;
            sum += w[j - first];
        }
        int32_t *weights = axis->weights + (size_t)i * stride;
        memset(weights, 0, (size_t)stride * sizeof *weights);
        for (int j = 0; j < last - first; j++) {
            if (sum != 0) w[j] /= sum;
            weights[j] = (int32_t)(0.5 + w[j] * (1 << PIL_BITS));
        }
        axis->first[i] = first - side->origin;
        axis->taps[i] = last - first;
    }
    free(w);
    return MABN_OK;
}

int mabn_resize_taps(int in, int out)
{
    return most_taps((double)in / out);
}

mabn_status mabn_resize_weights(int32_t *rows, int in, int out)
{
    struct axis axis = {0};
    const struct side side = {.length = in, .in = in, .out = out, .count = out};
    const mabn_status status = pil_axis(&axis, &side);
    for (int i = 0; i < out && !status; i++) {
        *rows++ = axis.first[i];
        *rows++ = axis.taps[i];
        memcpy(rows, axis.weights + (size_t)i * axis.stride, (size_t)axis.stride * sizeof *rows);
        rows += axis.stride;
    }
    axis_release(&axis);
    return status;
}

/* Weights are positive and sum to at most 2²² + taps/2, so the sum stays within 31 bits and only
 * the upper clamp can ever be needed. */
static uint8_t pil_round(int32_t sum)
{
    const int32_t v = sum >> PIL_BITS;
    return (uint8_t)(v > 255 ? 255 : v);
}

static void pil_horizontal_c(uint8_t *out, const uint8_t *in, const struct axis *axis, int width,
                             int channels)
{
    for (int i = 0; i < width; i++) {
        const uint8_t *p = in + (size_t)axis->first[i] * channels;
        const int32_t *w = axis->weights + (size_t)i * axis->stride;
        for (int c = 0; c < channels; c++) {
            int32_t sum = 1 << (PIL_BITS - 1);
            for (int j = 0; j < axis->taps[i]; j++)
                sum += p[j * channels + c] * w[j];
            *out++ = pil_round(sum);
        }
    }
}

static void pil_vertical_c(uint8_t *out, const uint8_t *const *in, const int32_t *w, int taps,
                           int from, int n)
{
    for (int i = from; i < n; i++) {
        int32_t sum = 1 << (PIL_BITS - 1);
        for (int j = 0; j < taps; j++)
            sum += in[j][i] * w[j];
        out[i] = pil_round(sum);
    }
}

#if WITH_AVX2
/* The horizontal pass for three channels: two pixels, one a lane, and four taps at a time. A
 * multiply-add of 16-bit pairs does two taps at once, so the 22-bit weights are split into an upper
 * and a lower 11 bits and laid out as the pixels will be: for every two pixels and four taps, the
 * lower bits of taps 0 and 1 (for r, g, b, of both pixels), the upper bits, then taps 2 and 3. */
enum { SPLIT_BITS = 11 };

static void split_weights(struct axis *axis, int out)
{
    int most = 0;
    for (int i = 0; i < out; i++)
        if (axis->taps[i] > most) most = axis->taps[i];
    axis->groups = (most + 3) / 4;
    const size_t n = (size_t)(out + 1) / 2 * (size_t)axis->groups * 64;
    if (n > axis->split_cap) {
        axis->split = mabn_xrealloc(axis->split, n * sizeof *axis->split);
        axis->split_cap = n;
    }
    int16_t *to = axis->split;
    for (int i = 0; i < out; i += 2)
        for (int j = 0; j < 4 * axis->groups; j += 4, to += 64)
            for (int k = 0; k < 32; k++) {
                const int pixel = i + k % 16 / 8, tap = j + k / 16 * 2 + k % 2;
                const bool used = k % 8 < 6 && pixel < out && tap < axis->taps[pixel];
                const int32_t w = used ? axis->weights[(size_t)pixel * axis->stride + tap] : 0;
                int16_t *at = to + k / 16 * 32 + k % 16;
                at[0] = (int16_t)(w & ((1 << SPLIT_BITS) - 1));
                at[16] = (int16_t)(w >> SPLIT_BITS);
            }
}

/* Reads 16 bytes from every fourth tap on, writes 4 bytes a pixel. Returns how many were done. */
AVX2 static int pil_horizontal_avx2(uint8_t *out, const uint8_t *in, const struct axis *axis,
                                    int width)
{
    const __m256i taps01 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    const __m256i taps23 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
    const __m256i half = _mm256_set1_epi32(1 << (PIL_BITS - 1));
    const __m256i *w = (const __m256i *)axis->split;
    int i = 0;
    for (; i + 2 < width; i += 2) {
        const uint8_t *p0 = in + (size_t)axis->first[i] * 3;
        const uint8_t *p1 = in + (size_t)axis->first[i + 1] * 3;
        __m256i low = half, high = _mm256_setzero_si256();
        for (int g = 0; g < axis->groups; g++, p0 += 12, p1 += 12, w += 4) {
            const __m256i v = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p0)),
                _mm_loadu_si128((const __m128i *)p1), 1);
            const __m256i a = _mm256_shuffle_epi8(v, taps01), b = _mm256_shuffle_epi8(v, taps23);
            low = _mm256_add_epi32(low, _mm256_madd_epi16(a, _mm256_loadu_si256(w)));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(a, _mm256_loadu_si256(w + 1)));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(b, _mm256_loadu_si256(w + 2)));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(b, _mm256_loadu_si256(w + 3)));
        }
        low = _mm256_add_epi32(low, _mm256_slli_epi32(high, SPLIT_BITS));
        low = _mm256_srai_epi32(low, PIL_BITS);
        low = _mm256_packus_epi16(_mm256_packs_epi32(low, low), low);
        const int rgb0 = _mm_cvtsi128_si32(_mm256_castsi256_si128(low));
        const int rgb1 = _mm_cvtsi128_si32(_mm256_extracti128_si256(low, 1));
        memcpy(out + 3 * (size_t)i, &rgb0, 4);
        memcpy(out + 3 * (size_t)i + 3, &rgb1, 4);
    }
    return i;
}

/* 32 bytes at a time; returns how many were done. */
AVX2 static int pil_vertical_avx2(uint8_t *out, const uint8_t *const *in, const int32_t *w,
                                  int taps, int n)
{
    const __m256i half = _mm256_set1_epi32(1 << (PIL_BITS - 1));
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = half, b = half, c = half, d = half;
        for (int j = 0; j < taps; j++) {
            const uint8_t *p = in[j] + i;
            const __m256i k = _mm256_set1_epi32(w[j]);
#define TAP(sum, offset)                                                                    \
    sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(k, _mm256_cvtepu8_epi32(_mm_loadl_epi64( \
                                                          (const __m128i *)(p + (offset))))))
            TAP(a, 0);
            TAP(b, 8);
            TAP(c, 16);
            TAP(d, 24);
#undef TAP
        }
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, PIL_BITS), _mm256_srai_epi32(b, PIL_BITS));
        c = _mm256_packs_epi32(_mm256_srai_epi32(c, PIL_BITS), _mm256_srai_epi32(d, PIL_BITS));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        a = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, c), order);
        _mm256_storeu_si256((__m256i *)(out + i), a);
    }
    return i;
}
#endif

static void pil_horizontal(const struct mabn_resizer *resizer, uint8_t *out, const struct view *in,
                           int y, int width)
{
    const uint8_t *row = in->pixels + (size_t)y * in->stride;
    int done = 0;
#if WITH_AVX2
    if (in->channels == 3 && may_overread(resizer, in, y, (size_t)resizer->x.groups * 12 + 16))
        done = pil_horizontal_avx2(out, row, &resizer->x, width);
#endif
    struct axis rest = resizer->x;
    rest.first += done;
    rest.taps += done;
    rest.weights += (size_t)done * rest.stride;
    pil_horizontal_c(out + (size_t)done * in->channels, row, &rest, width - done, in->channels);
}

/* Rows pass through a ring just long enough for one output row, which stays in the cache. */
static mabn_status resize_pil(struct mabn_resizer *resizer, struct mabn_image *out,
                              const struct view *in, const struct side *sx, const struct side *sy)
{
    const int width = out->width, height = out->height;
    MABN_TRY(pil_axis(&resizer->x, sx));
    MABN_TRY(pil_axis(&resizer->y, sy));
#if WITH_AVX2
    if (resizer->avx2 && in->channels == 3) split_weights(&resizer->x, width);
#endif
    const struct axis *ay = &resizer->y;
    const int ring = ay->stride; /* rows: no output has more taps */
    MABN_TRY(mabn_image_resize_storage(&resizer->rows, width, ring, in->channels));
    const size_t bytes = (size_t)width * in->channels;
    if ((size_t)ring > resizer->taps_cap) {
        resizer->taps = mabn_xrealloc(resizer->taps, (size_t)ring * sizeof *resizer->taps);
        resizer->taps_cap = (size_t)ring;
    }
    int made = ay->first[0]; /* rows before this one are in the ring, or no longer needed */
    for (int y = 0; y < height; y++) {
        const int first = ay->first[y], taps = ay->taps[y];
        for (; made < first + taps; made++)
            pil_horizontal(resizer, resizer->rows.pixels + (size_t)(made % ring) * bytes, in, made,
                           width);
        for (int j = 0; j < taps; j++)
            resizer->taps[j] = resizer->rows.pixels + (size_t)((first + j) % ring) * bytes;
        const int32_t *w = ay->weights + (size_t)y * ay->stride;
        uint8_t *to = out->pixels + (size_t)y * bytes;
        int done = 0;
#if WITH_AVX2
        if (resizer->avx2) done = pil_vertical_avx2(to, resizer->taps, w, taps, (int)bytes);
#endif
        pil_vertical_c(to, resizer->taps, w, taps, done, (int)bytes);
    }
    return MABN_OK;
}

/* ---- OpenCV ---- */

/* clamp: taps beyond the border lose their weight (columns); else they keep it (rows). */
static void cv_axis(struct axis *axis, const struct side *side, bool clamp)
{
    const int in = side->in;
    const double scale = 1.0 / (side->out / side->length);
    axis_reserve(axis, side->count, 2);
    for (int i = 0; i < side->count; i++) {
        float f = (float)((side->begin + i + 0.5) * scale - 0.5 + side->from);
        int s = (int)floorf(f);
        f -= (float)s;
        if (clamp && s < 0) f = 0, s = 0;
        if (clamp && s >= in - 1) f = 0, s = in - 1;
        axis->first[i] = s - side->origin;
        axis->weights[2 * i] = (int32_t)lrintf((1.0f - f) * 2048);
        axis->weights[2 * i + 1] = (int32_t)lrintf(f * 2048);
    }
}

/* (S ≫ 4) of every output of a row. */
static void cv_horizontal_c(int16_t *out, const uint8_t *in, const struct axis *axis, int from,
                            int width, int channels)
{
    for (int i = from; i < width; i++) {
        const uint8_t *p = in + (size_t)axis->first[i] * channels;
        const int a = axis->weights[2 * i], b = axis->weights[2 * i + 1];
        const int next = b ? channels : 0;
        for (int c = 0; c < channels; c++)
            out[i * channels + c] = (int16_t)((p[c] * a + p[next + c] * b) >> 4);
    }
}

MABN_CLONES static void cv_vertical(uint8_t *out, const int16_t *s0, const int16_t *s1, int b0,
                                    int b1, int n)
{
    const int16_t w0 = (int16_t)b0, w1 = (int16_t)b1;
    for (int i = 0; i < n; i++) {
        const int16_t t0 = (int16_t)((s0[i] * w0) >> 16), t1 = (int16_t)((s1[i] * w1) >> 16);
        out[i] = (uint8_t)((int16_t)(t0 + t1 + 2) >> 2);
    }
}

#if WITH_AVX2
/* Three channels, two pixels at a time, both taps of a channel side by side for one multiply-add.
 * Reads 8 bytes at a pixel's first tap, writes 8 bytes a pixel: the last two are the caller's. */
AVX2 static int cv_horizontal_avx2(int16_t *out, const uint8_t *in, const struct axis *axis,
                                   int width)
{
    const __m128i pairs = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 8, 11, 9, 12, 10, 13, -1, -1);
    int i = 0;
    for (; i + 4 <= width; i += 2) {
        const uint8_t *p0 = in + (size_t)axis->first[i] * 3;
        const uint8_t *p1 = in + (size_t)axis->first[i + 1] * 3;
        const __m128i p = _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)p0),
                                             _mm_loadl_epi64((const __m128i *)p1));
        const __m256i v = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(p, pairs));
        /* weights a0 b0 a1 b1 as 32 bits → 16-bit pairs, one a lane */
        const __m128i w = _mm_loadu_si128((const __m128i *)(axis->weights + 2 * i));
        const __m128i k = _mm_packs_epi32(w, w);
        const __m256i kk = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_shuffle_epi32(k, 0)),
                                                   _mm_shuffle_epi32(k, 0x55), 1);
        const __m256i s = _mm256_srai_epi32(_mm256_madd_epi16(v, kk), 4);
        const __m256i h = _mm256_packs_epi32(s, s);
        _mm_storel_epi64((__m128i *)(out + 3 * i), _mm256_castsi256_si128(h));
        _mm_storel_epi64((__m128i *)(out + 3 * i + 3), _mm256_extracti128_si256(h, 1));
    }
    return i;
}
#endif

static void cv_horizontal(const struct mabn_resizer *resizer, int16_t *out, const struct view *in,
                          int y, int width)
{
    const uint8_t *row = in->pixels + (size_t)y * in->stride;
    int done = 0;
#if WITH_AVX2
    if (in->channels == 3 && may_overread(resizer, in, y, 8))
        done = cv_horizontal_avx2(out, row, &resizer->x, width);
#endif
    cv_horizontal_c(out, row, &resizer->x, done, width, in->channels);
}

/* Exactly half in both directions: OpenCV takes the mean of 2×2 pixels. */
static void cv_half(struct mabn_image *out, const struct view *in, const struct side *sx,
                    const struct side *sy)
{
    const size_t c = (size_t)in->channels;
    const uint8_t *top = in->pixels + (size_t)(2 * sy->begin - sy->origin) * in->stride +
                         (size_t)(2 * sx->begin - sx->origin) * c;
    uint8_t *to = out->pixels;
    for (int y = 0; y < out->height; y++, top += 2 * in->stride) {
        const uint8_t *a = top, *b = top + in->stride;
        for (int x = 0; x < out->width; x++, a += 2 * c, b += 2 * c)
            for (size_t k = 0; k < c; k++)
                *to++ = (uint8_t)((a[k] + a[k + c] + b[k] + b[k + c] + 2) >> 2);
    }
}

static int clamp_row(int y, int height)
{
    return y < 0 ? 0 : y >= height ? height - 1 : y;
}

static void resize_cv(struct mabn_resizer *resizer, struct mabn_image *out, const struct view *in,
                      const struct side *sx, const struct side *sy)
{
    const int n = out->width * in->channels;
    if (sx->length == 2.0 * sx->out && sy->length == 2.0 * sy->out && !sx->from && !sy->from) {
        cv_half(out, in, sx, sy);
        return;
    }
    cv_axis(&resizer->x, sx, true);
    cv_axis(&resizer->y, sy, false);
    if (resizer->lines_cap < 2 * (size_t)n) {
        resizer->lines_cap = 2 * (size_t)n;
        resizer->lines = mabn_xrealloc(resizer->lines, resizer->lines_cap * sizeof(int16_t));
    }
    int16_t *line[2] = {resizer->lines, resizer->lines + n};
    int held[2] = {-1, -1}; /* which row of the crop each line holds */
    for (int y = 0; y < out->height; y++) {
        const int s = resizer->y.first[y] + sy->origin;
        const int want[2] = {clamp_row(s, sy->in), clamp_row(s + 1, sy->in)};
        if (held[1] == want[0] && held[0] != want[0]) {
            int16_t *t = line[0];
            line[0] = line[1], line[1] = t;
            held[1] = held[0], held[0] = want[0];
        }
        for (int k = 0; k < 2; k++)
            if (held[k] != want[k]) {
                cv_horizontal(resizer, line[k], in, want[k] - sy->origin, out->width);
                held[k] = want[k];
            }
        const int32_t *b = resizer->y.weights + 2 * y;
        cv_vertical(out->pixels + (size_t)y * n, line[0], line[1], b[0], b[1], n);
    }
}

/* ---- both ---- */

/* What of the crop, along one axis, outputs [begin, begin + count) look at: a pixel or two more. */
static void side_reach(const struct side *side, int *first, int *last)
{
    const double scale = side->length / side->out, reach = (scale < 1 ? 1 : scale) + 1;
    *first = (int)fmax(floor(side->from + side->begin * scale - reach), 0);
    *last = (int)fmin(ceil(side->from + (side->begin + side->count) * scale + reach), side->in);
}

static mabn_status make_sides(const struct mabn_resize_job *job, struct mabn_rect *crop,
                              struct side *sx, struct side *sy)
{
    const struct mabn_region b = job->box;
    if (job->width < 1 || job->height < 1)
        return mabn_fail(MABN_ERR_ARG, "cannot resize to %d x %d", job->width, job->height);
    if (!(b.width > 0 && b.height > 0 && fabs(b.x) < 1e9 && fabs(b.y) < 1e9 && b.width < 1e9 &&
          b.height < 1e9))
        return mabn_fail(MABN_ERR_ARG, "cannot resize a box of %g x %g", b.width, b.height);
    crop->x = (int)floor(b.x);
    crop->y = (int)floor(b.y);
    crop->width = (int)ceil(b.x + b.width) - crop->x;
    crop->height = (int)ceil(b.y + b.height) - crop->y;
    *sx = (struct side){b.x - crop->x, b.width,           crop->width,          job->width,
                        job->window.x, job->window.width, job->part.x - crop->x};
    *sy = (struct side){b.y - crop->y, b.height,           crop->height,         job->height,
                        job->window.y, job->window.height, job->part.y - crop->y};
    return MABN_OK;
}

mabn_status mabn_resize_reach(const struct mabn_resize_job *job, struct mabn_rect *reach)
{
    struct mabn_rect crop = {0};
    struct side sx = {0}, sy = {0};
    int x0, x1, y0, y1;
    MABN_TRY(make_sides(job, &crop, &sx, &sy));
    side_reach(&sx, &x0, &x1);
    side_reach(&sy, &y0, &y1);
    *reach = (struct mabn_rect){crop.x + x0, crop.y + y0, x1 - x0, y1 - y0};
    return MABN_OK;
}

mabn_status mabn_resize_run(struct mabn_resizer *resizer, struct mabn_image *out,
                            const struct mabn_resize_job *job)
{
    const struct mabn_image *in = job->in;
    struct mabn_rect crop = {0}, reach = {0};
    struct side sx = {0}, sy = {0};
    MABN_TRY(make_sides(job, &crop, &sx, &sy));
    MABN_TRY(mabn_resize_reach(job, &reach));
    if (reach.x < job->part.x || reach.y < job->part.y ||
        reach.x + reach.width > job->part.x + in->width ||
        reach.y + reach.height > job->part.y + in->height)
        return mabn_fail(MABN_ERR_ARG, "the box to resize reaches outside the picture");
    MABN_TRY(mabn_image_resize_storage(out, job->window.width, job->window.height, in->channels));
    const struct view view = {in->pixels, (size_t)in->width * in->channels, in->width, in->height,
                              in->channels};
    if (job->kind == MABN_RESIZE_PIL) return resize_pil(resizer, out, &view, &sx, &sy);
    resize_cv(resizer, out, &view, &sx, &sy);
    return MABN_OK;
}

mabn_status mabn_image_resize(struct mabn_resizer *resizer, struct mabn_image *out,
                              const struct mabn_image *in, const struct mabn_region *box, int width,
                              int height, enum mabn_resize_kind kind)
{
    if (!in->pixels || out == in) return mabn_fail(MABN_ERR_ARG, "no picture to resize");
    const struct mabn_resize_job job = {
        .in = in,
        .part = {0, 0, in->width, in->height},
        .box = box ? *box : (struct mabn_region){0, 0, in->width, in->height},
        .width = width,
        .height = height,
        .window = {0, 0, width, height},
        .kind = kind};
    return mabn_resize_run(resizer, out, &job);
}
