/* Two source rows are resized along x, kept while the next output rows need them, and mixed. */
#include "image/bilinear.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "image/avx2.h"

struct mabn_bilinear_tap mabn_bilinear_tap_of(int i, int in, int out)
{
    const float scale = (float)in / (float)out;
    float place = scale * ((float)i + 0.5f) - 0.5f;
    if (!(place > 0)) place = 0;
    const int low = (int)place < in ? (int)place : in - 1;
    const float w1 = place - (float)low;
    return (struct mabn_bilinear_tap){low, low + 1 < in ? low + 1 : low, 1 - w1, w1};
}

/* Each loop exists twice: for processors with FMA, and with C's fmaf, slower but of the same bits. */
static inline __attribute__((always_inline)) void stretch_body(float *out, const uint8_t *in,
                                                               const struct mabn_bilinear_tap *taps,
                                                               int width, const float table[3][256])
{
    for (int x = 0; x < width; x++) {
        const struct mabn_bilinear_tap t = taps[x];
        const uint8_t *a = in + 3 * (size_t)t.low, *b = in + 3 * (size_t)t.high;
        for (int c = 0; c < 3; c++)
            out[3 * x + c] = fmaf(table[c][a[c]], t.w0, table[c][b[c]] * t.w1);
    }
}

static inline __attribute__((always_inline)) void
mix_body(float *out, const float *a, const float *b, float w0, float w1, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = fmaf(a[i], w0, b[i] * w1);
}

static void stretch_plain(float *out, const uint8_t *in, const struct mabn_bilinear_tap *taps,
                          int width, const float table[3][256])
{
    stretch_body(out, in, taps, width, table);
}

static void mix_plain(float *out, const float *a, const float *b, float w0, float w1, size_t n)
{
    mix_body(out, a, b, w0, w1, n);
}

#if WITH_AVX2
#define FMA __attribute__((target("avx2,fma")))
FMA static void stretch_fma(float *out, const uint8_t *in, const struct mabn_bilinear_tap *taps,
                            int width, const float table[3][256])
{
    stretch_body(out, in, taps, width, table);
}

FMA static void mix_fma(float *out, const float *a, const float *b, float w0, float w1, size_t n)
{
    mix_body(out, a, b, w0, w1, n);
}
#endif

struct loops {
    void (*stretch)(float *out, const uint8_t *in, const struct mabn_bilinear_tap *taps, int width,
                    const float table[3][256]);
    void (*mix)(float *out, const float *a, const float *b, float w0, float w1, size_t n);
};

static struct loops choose_loops(void)
{
#if WITH_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (struct loops){stretch_fma, mix_fma};
#endif
    return (struct loops){stretch_plain, mix_plain};
}

static mabn_status make_room(struct mabn_bilinear *s, int width)
{
    const size_t row = 3 * (size_t)width;
    if (s->room < row) {
        mabn_bilinear_release(s);
        MABN_TRY(mabn_alloc((void **)&s->rows, 2 * row * sizeof *s->rows));
        MABN_TRY(mabn_alloc((void **)&s->taps, (size_t)width * sizeof *s->taps));
        s->room = row;
    }
    return MABN_OK;
}

mabn_status mabn_bilinear_resize(struct mabn_bilinear *s, float *out, size_t stride, int width,
                                 int height, const struct mabn_image *in, const float table[3][256])
{
    const struct loops loops = choose_loops();
    const size_t row = 3 * (size_t)width, from = 3 * (size_t)in->width;
    int held[2] = {-1, -1}; /* the source rows that rows[0] and rows[1] are made of */
    MABN_TRY(make_room(s, width));
    float *rows[2] = {s->rows, s->rows + row};
    for (int x = 0; x < width; x++)
        s->taps[x] = mabn_bilinear_tap_of(x, in->width, width);
    for (int y = 0; y < height; y++) {
        const struct mabn_bilinear_tap t = mabn_bilinear_tap_of(y, in->height, height);
        const int wanted[2] = {t.low, t.high};
        const int low = wanted[0] == held[1] ? 1 : 0; /* rows only move down */
        for (int k = 0; k < 2; k++) {
            const int at = k ? !low : low;
            if (held[at] == wanted[k]) continue;
            loops.stretch(rows[at], in->pixels + from * (size_t)wanted[k], s->taps, width, table);
            held[at] = wanted[k];
        }
        loops.mix(out + stride * (size_t)y, rows[low], rows[!low], t.w0, t.w1, row);
    }
    return MABN_OK;
}

void mabn_bilinear_release(struct mabn_bilinear *s)
{
    mabn_free(s->rows);
    mabn_free(s->taps);
    *s = (struct mabn_bilinear){0};
}
