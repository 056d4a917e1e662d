/* See winograd.h. With d a tile of x, 6×6, g a filter and e a tile of dy, 4×4:
 *
 *     y tile = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        dg = Gᵀ [ Σ (Bᵀ d B) ⊙ (A e Aᵀ) ] G
 *
 * The ⊙ over all channels are 36 matrix products, one for each place in the tile. Tiles are taken in
 * chunks whose values stay in the caches. Everything lies in panels of 16 channels:
 *
 *     of tiles     (place, channels/16, tile, 16)
 *     of weights   (place, out/16, in, 16)
 *     of gradients (out/16, in/16, place, 16 of out, 16 of in)
 *
 * Places are a cache line of 64 bytes further apart than necessary. Otherwise all 36 of a tile would fall
 * into the same sets of a cache. */
#include "ops/winograd.h"

#include <string.h>

#include <omp.h>

#include "ops/panels.h"

enum {
    PLACES = 36,
    CHUNK = 24,            /* tiles of a thread */
    GROUP_FLOATS = 1 << 19 /* of x and of dy in a gradient's group of tiles, about */
};

static int64_t tiles_down(const struct mabn_winograd *s)
{
    return (s->h + 3) / 4;
}

static int64_t tiles_across(const struct mabn_winograd *s)
{
    return (s->w + 3) / 4;
}

static int64_t tiles_of(const struct mabn_winograd *s)
{
    return s->n * tiles_down(s) * tiles_across(s);
}

/* Floats from one place of so many tiles and channels to the next. */
static size_t place_stride(int64_t tiles, int64_t channels)
{
    return (size_t)(tiles * channels + LANES);
}

/* The outputs that are computed. */
static int64_t outputs(const struct mabn_winograd *s)
{
    return s->part ? s->part : s->out;
}

static int64_t most_channels(const struct mabn_winograd *s)
{
    return s->in > s->out ? s->in : s->out;
}

/* ---- lines of six ----
 *
 * Points 0, ±P, ±Q and infinity. With 1 and 2, as in the paper, rounding errors are several times as
 * large; these are exact in float, and so are their powers. */

#define P 0.625f
#define Q 1.5f
#define P2 (P * P)
#define Q2 (Q * Q)
#define NP (1 / (2 * P2 * (P2 - Q2)))
#define NQ (1 / (2 * Q2 * (Q2 - P2)))

/* Bᵀ: six to six. */
ALWAYS_INLINE void times_b(vec *to, int step, const vec *a, int from)
{
    const vec a0 = a[0], a1 = a[from], a2 = a[2 * from], a3 = a[3 * from], a4 = a[4 * from],
              a5 = a[5 * from];
    const vec p = a4 - Q2 * a2, q = P * (a3 - Q2 * a1), r = a4 - P2 * a2, s = Q * (a3 - P2 * a1);
    to[0] = P2 * Q2 * a0 - (P2 + Q2) * a2 + a4;
    to[step] = p + q;
    to[2 * step] = p - q;
    to[3 * step] = r + s;
    to[4 * step] = r - s;
    to[5 * step] = P2 * Q2 * a1 - (P2 + Q2) * a3 + a5;
}

/* Aᵀ: six to four. */
ALWAYS_INLINE void times_a(vec *to, int step, const vec *m, int from)
{
    const vec m0 = m[0], m1 = m[from], m2 = m[2 * from], m3 = m[3 * from], m4 = m[4 * from],
              m5 = m[5 * from];
    const vec p = m1 + m2, q = m1 - m2, r = m3 + m4, s = m3 - m4;
    to[0] = m0 + p + r;
    to[step] = P * q + Q * s;
    to[2 * step] = P2 * p + Q2 * r;
    to[3 * step] = P * P2 * q + Q * Q2 * s + m5;
}

/* A: four to six. */
ALWAYS_INLINE void spread_a(vec *to, int step, const vec *e, int from)
{
    const vec e0 = e[0], e1 = e[from], e2 = e[2 * from], e3 = e[3 * from];
    const vec p = e0 + P2 * e2, q = P * e1 + P * P2 * e3, r = e0 + Q2 * e2,
              s = Q * e1 + Q * Q2 * e3;
    to[0] = e0;
    to[step] = p + q;
    to[2 * step] = p - q;
    to[3 * step] = r + s;
    to[4 * step] = r - s;
    to[5 * step] = e3;
}

/* G: three to six. */
ALWAYS_INLINE void spread_g(vec *to, int step, const vec *g, int from)
{
    const vec g0 = g[0], g1 = g[from], g2 = g[2 * from];
    const vec p = (g0 + P2 * g2) * NP, q = g1 * (P * NP), r = (g0 + Q2 * g2) * NQ,
              s = g1 * (Q * NQ);
    to[0] = g0 * (1 / (P2 * Q2));
    to[step] = p + q;
    to[2 * step] = p - q;
    to[3 * step] = r + s;
    to[4 * step] = r - s;
    to[5 * step] = g2;
}

/* Gᵀ: six to three. */
ALWAYS_INLINE void times_g(vec *to, int step, const vec *u, int from)
{
    const vec u0 = u[0], u1 = u[from], u2 = u[2 * from], u3 = u[3 * from], u4 = u[4 * from],
              u5 = u[5 * from];
    const vec p = (u1 + u2) * NP, r = (u3 + u4) * NQ;
    to[0] = u0 * (1 / (P2 * Q2)) + p + r;
    to[step] = (u1 - u2) * (P * NP) + (u3 - u4) * (Q * NQ);
    to[2 * step] = P2 * p + Q2 * r + u5;
}

/* ---- tiles ---- */

/* Where a tile's pixels are, from `before` rows and columns before its first output on; zeros outside. */
static void find_pixels(const float **at, int side, int before, const float *x, int64_t channels,
                        const struct mabn_winograd *s, int64_t tile, const float *zeros)
{
    const int64_t across = tiles_across(s), image = tiles_down(s) * across, n = tile / image;
    const int64_t top = tile % image / across * 4 - before, left = tile % across * 4 - before;
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            const int64_t row = top + i, column = left + j;
            const bool inside = row >= 0 && row < s->h && column >= 0 && column < s->w;
            at[i * side + j] = inside ? x + ((n * s->h + row) * s->w + column) * channels : zeros;
        }
}

/* Bᵀ d B of one tile, all channels. */
ALWAYS_INLINE void transform_x(float *to, size_t place, int64_t tiles, const float *const *at,
                               int64_t channels)
{
    for (int64_t c = 0; c < channels; c += 8) {
        vec d[PLACES], t[PLACES];
        for (int k = 0; k < PLACES; k++)
            d[k] = *(const vec *)(at[k] + c);
        for (int j = 0; j < 6; j++)
            times_b(t + j, 6, d + j, 6);
        for (int i = 0; i < 6; i++)
            times_b(d + 6 * i, 1, t + 6 * i, 1);
        float *out = to + (c / LANES * tiles) * LANES + c % LANES;
        for (int k = 0; k < PLACES; k++)
            *(vec *)(out + (size_t)k * place) = d[k];
    }
}

/* A e Aᵀ of one tile. */
ALWAYS_INLINE void transform_dy(float *to, size_t place, int64_t tiles, const float *const *at,
                                int64_t channels)
{
    for (int64_t c = 0; c < channels; c += 8) {
        vec e[16], t[24], d[PLACES];
        for (int k = 0; k < 16; k++)
            e[k] = *(const vec *)(at[k] + c);
        for (int j = 0; j < 4; j++)
            spread_a(t + j, 4, e + j, 4);
        for (int i = 0; i < 6; i++)
            spread_a(d + 6 * i, 1, t + 4 * i, 1);
        float *out = to + (c / LANES * tiles) * LANES + c % LANES;
        for (int k = 0; k < PLACES; k++)
            *(vec *)(out + (size_t)k * place) = d[k];
    }
}

/* Aᵀ m A of one tile into y, as far as it is inside. */
ALWAYS_INLINE void transform_y(float *y, const float *m, size_t place, int64_t tiles, int64_t tile,
                               const struct mabn_winograd *s, const struct mabn_winograd_end *end)
{
    const int64_t across = tiles_across(s), image = tiles_down(s) * across, n = tile / image;
    const int64_t top = tile % image / across * 4, left = tile % across * 4;
    const int64_t rows = s->h - top < 4 ? s->h - top : 4,
                  columns = s->w - left < 4 ? s->w - left : 4;
    float *first = y + ((n * s->h + top) * s->w + left) * s->out + s->first;
    for (int64_t c = 0; c < outputs(s); c += 8) {
        vec d[PLACES], t[24], o[16];
        const float *from = m + (c / LANES * tiles) * LANES + c % LANES;
        for (int k = 0; k < PLACES; k++)
            d[k] = *(const vec *)(from + (size_t)k * place);
        for (int j = 0; j < 6; j++)
            times_a(t + j, 6, d + j, 6);
        for (int i = 0; i < 4; i++)
            times_a(o + 4 * i, 1, t + 6 * i, 1);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                vec *to = (vec *)(first + (i * s->w + j) * s->out + c), v = o[4 * i + j];
                if (end->bias) v += *(const vec *)(end->bias + s->first + c);
                if (end->add) v += *to;
                if (end->relu) v = (vec)((bits)v & ~(v < 0)); /* NaN stays */
                *to = v;
            }
    }
}

/* ---- products ---- */

/* All places and channels of `count` tiles. */
MABN_CLONES static void multiply(float *m, size_t m_place, const float *v, size_t v_place,
                                 const float *used, int64_t count, int64_t in, int64_t out)
{
    const size_t panel = (size_t)(count * LANES);
    for (int p = 0; p < PLACES; p++)
        for (int64_t o = 0; o < out; o += LANES) {
            const float *u = used + ((size_t)p * (size_t)out + (size_t)o) * (size_t)in;
            const float *a = v + (size_t)p * v_place;
            float *c = m + (size_t)p * m_place + (size_t)(o * count);
            products(c, a, panel, in, u, count, false);
        }
}

MABN_CLONES static void add_panels(float *c, const float *d, const float *v, int64_t tiles)
{
    outer_products(c, LANES, d, v, tiles, true);
}

/* ---- weights ---- */

size_t mabn_winograd_weights_bytes(const struct mabn_winograd *s)
{
    return (size_t)(PLACES * s->in * outputs(s)) * sizeof(float);
}

/* The layer's filters, less their means if those are not NULL. */
struct filters {
    const float *weight, *means;
};

/* G g Gᵀ of filter o for 16 inputs from i on; turned: of the filter turned by half a circle. */
ALWAYS_INLINE void transform_filter(float to[PLACES][LANES], const struct filters *filters,
                                    int64_t in, int64_t o, int64_t i, bool turned)
{
    const float *weight = filters->weight, mean = filters->means ? filters->means[o] : 0;
    for (int half = 0; half < LANES; half += 8) {
        vec g[9], t[18], u[PLACES];
        for (int k = 0; k < 9; k++)
            g[k] = *(const vec *)(weight + (o * 9 + (turned ? 8 - k : k)) * in + i + half) - mean;
        for (int j = 0; j < 3; j++)
            spread_g(t + j, 3, g + j, 3);
        for (int r = 0; r < 6; r++)
            spread_g(u + 6 * r, 1, t + 3 * r, 1);
        for (int p = 0; p < PLACES; p++)
            *(vec *)(to[p] + half) = u[p];
    }
}

/* 16 outputs, 16 inputs: inputs become rows. The pass has `part` outputs from `first` on. */
MABN_CLONES static void forward_filters(float *used, const struct filters *filters,
                                        const struct mabn_winograd *s, int64_t part, int64_t o,
                                        int64_t i)
{
    const int64_t in = s->in;
    float u[LANES][PLACES][LANES];
    for (int l = 0; l < LANES; l++)
        transform_filter(u[l], filters, in, o + l, i, false);
    for (int p = 0; p < PLACES; p++) {
        float *to = used + (p * part + o - s->first) * in + i * LANES;
        for (int k = 0; k < LANES; k++)
            for (int l = 0; l < LANES; l++)
                to[k * LANES + l] = u[l][p][k];
    }
}

/* The layer's outputs are the rows already. */
MABN_CLONES static void backward_filters(float *used, const struct filters *filters,
                                         const struct mabn_winograd *s, int64_t part, int64_t o,
                                         int64_t i)
{
    const int64_t in = s->in, out = s->out;
    float u[PLACES][LANES];
    for (int l = 0; l < LANES; l++) {
        transform_filter(u, filters, in, o + l, i, true);
        for (int p = 0; p < PLACES; p++)
            memcpy(used + (p * part + i - s->first) * out + (o + l) * LANES, u[p], sizeof u[p]);
    }
}

void mabn_winograd_weights(float *used, const float *weight, const float *means,
                           const struct mabn_winograd *s, bool to_data)
{
    const struct filters filters = {weight, means};
    const int64_t part = s->part ? s->part : to_data ? s->in : s->out;
    const int64_t o = to_data ? 0 : s->first, i = to_data ? s->first : 0;
    const int64_t across = (to_data ? part : s->in) / LANES;
    const int64_t blocks = across * ((to_data ? s->out : part) / LANES);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t b = 0; b < blocks; b++)
        (to_data ? backward_filters : forward_filters)(
            used, &filters, s, part, o + b / across * LANES, i + b % across * LANES);
}

/* ---- forward, and backward to data ---- */

/* Tiles that a thread takes at once: no more than its share. */
static int64_t chunk_of(const struct mabn_winograd *s)
{
    return even_share(tiles_of(s), CHUNK, s->threads);
}

static size_t thread_floats(const struct mabn_winograd *s)
{
    const int64_t chunk = chunk_of(s);
    return PLACES * (place_stride(chunk, s->in) + place_stride(chunk, outputs(s)));
}

size_t mabn_winograd_scratch_bytes(const struct mabn_winograd *s)
{
    return ((size_t)most_channels(s) + thread_floats(s) * (size_t)s->threads) * sizeof(float);
}

MABN_CLONES static void transform_tiles(float *v, size_t place, const float *x,
                                        const struct mabn_winograd *s, int64_t first, int64_t count,
                                        const float *zeros)
{
    const float *at[PLACES];
    for (int64_t t = 0; t < count; t++) {
        find_pixels(at, 6, 1, x, s->in, s, first + t, zeros);
        transform_x(v + t * LANES, place, count, at, s->in);
    }
}

MABN_CLONES static void finish_tiles(float *y, const float *m, size_t place,
                                     const struct mabn_winograd *s, int64_t first, int64_t count,
                                     const struct mabn_winograd_end *end)
{
    for (int64_t t = 0; t < count; t++)
        transform_y(y, m + t * LANES, place, count, first + t, s, end);
}

void mabn_winograd_run(float *y, const float *x, const float *used, const struct mabn_winograd *s,
                       const struct mabn_winograd_end *end, void *scratch)
{
    const int64_t tiles = tiles_of(s), chunk = chunk_of(s), chunks = (tiles + chunk - 1) / chunk;
    const size_t v_place = place_stride(chunk, s->in), m_place = place_stride(chunk, outputs(s));
    float *zeros = scratch;
    memset(zeros, 0, (size_t)most_channels(s) * sizeof *zeros);
#pragma omp parallel num_threads(s->threads)
    {
        float *v = zeros + most_channels(s) + thread_floats(s) * (size_t)omp_get_thread_num();
        float *m = v + PLACES * v_place;
#pragma omp for schedule(dynamic)
        for (int64_t k = 0; k < chunks; k++) {
            const int64_t first = k * chunk, count = tiles - first < chunk ? tiles - first : chunk;
            transform_tiles(v, v_place, x, s, first, count, zeros);
            multiply(m, m_place, v, v_place, used, count, s->in, outputs(s));
            finish_tiles(y, m, m_place, s, first, count, end);
        }
    }
}

/* ---- backward to weights ---- */

/* Tiles that are transformed before they are multiplied; by the shape alone, since it decides the
 * order of sums. */
static int64_t group_of(const struct mabn_winograd *s)
{
    const int64_t most = GROUP_FLOATS / (PLACES * most_channels(s)), tiles = tiles_of(s);
    const int64_t least = most < 32 ? 32 : most;
    return tiles < least ? tiles : least;
}

size_t mabn_winograd_gradient_scratch_bytes(const struct mabn_winograd *s)
{
    const int64_t group = group_of(s);
    return ((size_t)most_channels(s) + (size_t)(PLACES * s->in * outputs(s)) +
            PLACES * (place_stride(group, s->in) + place_stride(group, outputs(s)))) *
           sizeof(float);
}

MABN_CLONES static void transform_pair(float *v, size_t v_place, float *d, size_t d_place,
                                       const float *x, const float *dy,
                                       const struct mabn_winograd *s, int64_t tile, int64_t count,
                                       const float *zeros)
{
    const float *at[PLACES];
    find_pixels(at, 6, 1, x, s->in, s, tile, zeros);
    transform_x(v, v_place, count, at, s->in);
    find_pixels(at, 4, 0, dy + s->first, s->out, s, tile, zeros);
    transform_dy(d, d_place, count, at, outputs(s));
}

/* Gᵀ u G for 16 outputs and 16 inputs. */
MABN_CLONES static void finish_filters(float *dweight, const float *sums, int64_t in, int64_t o,
                                       int64_t i)
{
    for (int l = 0; l < LANES; l++)
        for (int half = 0; half < LANES; half += 8) {
            vec u[PLACES], t[18], g[9];
            for (int p = 0; p < PLACES; p++)
                u[p] = *(const vec *)(sums + (p * LANES + l) * LANES + half);
            for (int j = 0; j < 6; j++)
                times_g(t + j, 6, u + j, 6);
            for (int r = 0; r < 3; r++)
                times_g(g + 3 * r, 1, t + 6 * r, 1);
            for (int k = 0; k < 9; k++)
                *(vec *)(dweight + ((o + l) * 9 + k) * in + i + half) = g[k];
        }
}

void mabn_winograd_gradient(float *dweight, const float *x, const float *dy,
                            const struct mabn_winograd *s, void *scratch)
{
    const int64_t tiles = tiles_of(s), group = group_of(s);
    const int64_t part = outputs(s), across = s->in / LANES, blocks = across * (part / LANES);
    const size_t v_place = place_stride(group, s->in), d_place = place_stride(group, part);
    const size_t block = (size_t)PLACES * LANES * LANES;
    float *zeros = scratch, *sums = zeros + most_channels(s), *v = sums + (size_t)blocks * block,
          *d = v + PLACES * v_place;
    memset(zeros, 0, (size_t)most_channels(s) * sizeof *zeros);
#pragma omp parallel num_threads(s->threads)
    for (int64_t first = 0; first < tiles; first += group) {
        const int64_t count = tiles - first < group ? tiles - first : group;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < count; t++)
            transform_pair(v + t * LANES, v_place, d + t * LANES, d_place, x, dy, s, first + t,
                           count, zeros);
#pragma omp for schedule(static) collapse(2)
        for (int p = 0; p < PLACES; p++)
            for (int64_t o = 0; o < part; o += LANES)
                for (int64_t i = 0; i < s->in; i += LANES) {
                    float *c = sums + (size_t)(o / LANES * across + i / LANES) * block +
                               (size_t)p * LANES * LANES;
                    if (!first) memset(c, 0, LANES * LANES * sizeof *c);
                    add_panels(c, d + (size_t)p * d_place + (size_t)(o * count),
                               v + (size_t)p * v_place + (size_t)(i * count), count);
                }
    }
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t b = 0; b < blocks; b++)
        finish_filters(dweight, sums + (size_t)b * block, s->in, s->first + b / across * LANES,
                       b % across * LANES);
}
