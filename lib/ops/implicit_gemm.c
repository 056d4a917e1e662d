/* See implicit_gemm.h. With P pixels of y, and for each tap of the kernel the pixels of x that it meets,
 * gathered as a matrix X (P,in):
 *
 *     y (P,out) = Σ over taps X Wᵀ          dW of a tap (out,in) = dyᵀ X
 *
 * dx is as y, computed from dy: with stride s its pixels fall into s² classes, each of which meets some of
 * the taps. The matrices lie in panels of 16 channels:
 *
 *     pixels    (channels/16, pixel, 16), a few hundred pixels at a time
 *     weights   (tap, out/16, in, 16); to data (tap, in/16, out, 16)
 *
 * Panels are a cache line of 64 bytes further apart than necessary. Otherwise all of them could fall into
 * the same sets of a cache. */
#include "ops/implicit_gemm.h"

#include <string.h>

#include <omp.h>

#include "ops/panels.h"

enum {
    TAPS = MABN_IMPLICIT_GEMM_KERNEL * MABN_IMPLICIT_GEMM_KERNEL,
    CHUNK = 192,             /* pixels of a thread */
    CHUNK_FLOATS = 96 << 10, /* and the values of them that it has at a time, about */
    ROWS = 192,           /* pixels of a gradient's product: two panels stay in the first cache */
    PARTS = 32,           /* of a gradient's pixels, at most, */
    PART_FLOATS = 1 << 16 /* where there are no more weights than these */
};

/* What a tap meets: the source's pixel (down, across) from where the computed pixel is. */
struct tap {
    int64_t down, across;
    int index; /* in the kernel */
};

/* Computed pixels (rows, columns) of every image, `step` apart in the output and `source_step` in the
 * source. */
struct grid {
    int64_t rows, columns;
    int64_t top, left, step, h, w, channels;
    int64_t source_step, source_h, source_w, source_channels;
    int n_taps;
    struct tap taps[TAPS];
};

static int64_t pixels_of(const struct mabn_implicit_gemm *s, const struct grid *g)
{
    return s->n * g->rows * g->columns;
}

static struct grid forward_grid(const struct mabn_implicit_gemm *s)
{
    struct grid g = {.rows = s->oh,
                     .columns = s->ow,
                     .step = 1,
                     .h = s->oh,
                     .w = s->ow,
                     .channels = s->out,
                     .source_step = s->stride,
                     .source_h = s->h,
                     .source_w = s->w,
                     .source_channels = s->in};
    for (int k = 0; k < s->kernel * s->kernel; k++)
        g.taps[g.n_taps++] = (struct tap){k / s->kernel - s->pad, k % s->kernel - s->pad, k};
    return g;
}

/* The pixels of dx in rows top, top + stride, … and columns likewise. */
static struct grid data_grid(const struct mabn_implicit_gemm *s, int64_t top, int64_t left)
{
    struct grid g = {.rows = (s->h - top + s->stride - 1) / s->stride,
                     .columns = (s->w - left + s->stride - 1) / s->stride,
                     .top = top,
                     .left = left,
                     .step = s->stride,
                     .h = s->h,
                     .w = s->w,
                     .channels = s->in,
                     .source_step = 1,
                     .source_h = s->oh,
                     .source_w = s->ow,
                     .source_channels = s->out};
    for (int k = 0; k < s->kernel * s->kernel; k++) {
        const int64_t down = top + s->pad - k / s->kernel, across = left + s->pad - k % s->kernel;
        if (down % s->stride == 0 && across % s->stride == 0)
            g.taps[g.n_taps++] = (struct tap){down / s->stride, across / s->stride, k};
    }
    return g;
}

/* A computed pixel. */
struct place {
    int64_t image, row, column;
};

static struct place place_of(const struct grid *g, int64_t pixel)
{
    const int64_t in_image = pixel % (g->rows * g->columns);
    return (struct place){pixel / (g->rows * g->columns), in_image / g->columns,
                          in_image % g->columns};
}

static void next_place(struct place *p, const struct grid *g)
{
    if (++p->column < g->columns) return;
    p->column = 0;
    if (++p->row < g->rows) return;
    p->row = 0;
    p->image++;
}

ALWAYS_INLINE void pack(float *to, size_t panel, const float *from, int64_t channels)
{
    for (int64_t c = 0; c < channels; c += LANES, to += panel) {
        *(vec *)to = *(const vec *)(from + c);
        *(vec *)(to + 8) = *(const vec *)(from + c + 8);
    }
}

/* The source's pixels that a tap meets from `count` computed pixels, in panels; zeros outside. */
MABN_CLONES static void gather(float *to, size_t panel, const float *source, const struct grid *g,
                               const struct tap *tap, int64_t first, int64_t count,
                               const float *zeros)
{
    struct place p = place_of(g, first);
    for (int64_t k = 0; k < count; k++, to += LANES, next_place(&p, g)) {
        const int64_t y = p.row * g->source_step + tap->down,
                      x = p.column * g->source_step + tap->across;
        const bool inside = y >= 0 && y < g->source_h && x >= 0 && x < g->source_w;
        pack(to, panel,
             inside ? source + ((p.image * g->source_h + y) * g->source_w + x) * g->source_channels
                    : zeros,
             g->source_channels);
    }
}

static int64_t most_channels(const struct mabn_implicit_gemm *s)
{
    return s->in > s->out ? s->in : s->out;
}

static size_t panel_floats(int64_t pixels)
{
    return (size_t)(pixels + 1) * LANES;
}

static size_t matrix_floats(int64_t pixels, int64_t channels)
{
    return panel_floats(pixels) * (size_t)(channels / LANES);
}

/* ---- weights ---- */

size_t mabn_implicit_gemm_weights_bytes(const struct mabn_implicit_gemm *s)
{
    return (size_t)(s->kernel * s->kernel * s->in * s->out) * sizeof(float);
}

/* A tap's panel of 16 outputs: inputs become rows. */
static void forward_panel(float *used, const float *weight, const float *means,
                          const struct mabn_implicit_gemm *s, int tap, int64_t o)
{
    const int64_t taps = s->kernel * s->kernel;
    for (int64_t i = 0; i < s->in; i += LANES)
        for (int l = 0; l < LANES; l++) {
            const float *from = weight + ((o + l) * taps + tap) * s->in + i;
            const float mean = means ? means[o + l] : 0;
            for (int k = 0; k < LANES; k++)
                used[(i + k) * LANES + l] = from[k] - mean;
        }
}

/* Of 16 inputs: outputs are the rows already. */
static void data_panel(float *used, const float *weight, const float *means,
                       const struct mabn_implicit_gemm *s, int tap, int64_t i)
{
    const int64_t taps = s->kernel * s->kernel;
    for (int64_t o = 0; o < s->out; o++) {
        const float *from = weight + (o * taps + tap) * s->in + i, mean = means ? means[o] : 0;
        for (int k = 0; k < LANES; k++)
            used[o * LANES + k] = from[k] - mean;
    }
}

void mabn_implicit_gemm_weights(float *used, const float *weight, const float *means,
                                const struct mabn_implicit_gemm *s, bool to_data)
{
    const int64_t panels = (to_data ? s->in : s->out) / LANES, rows = to_data ? s->out : s->in;
    const int64_t all = s->kernel * s->kernel * panels;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t k = 0; k < all; k++)
        (to_data ? data_panel : forward_panel)(used + k * rows * LANES, weight, means, s,
                                               (int)(k / panels), k % panels * LANES);
}

/* ---- forward, and backward to data ---- */

/* Pixels that a thread takes at once, at most. */
static int64_t chunk_of(const struct mabn_implicit_gemm *s)
{
    const int64_t chunk = CHUNK_FLOATS / (s->in + s->out);
    return chunk < 1 ? 1 : chunk < CHUNK ? chunk : CHUNK;
}

static size_t thread_floats(const struct mabn_implicit_gemm *s, int64_t chunk)
{
    return matrix_floats(chunk, s->in) + matrix_floats(chunk, s->out);
}

size_t mabn_implicit_gemm_scratch_bytes(const struct mabn_implicit_gemm *s)
{
    const int64_t chunk = chunk_of(s);
    return ((size_t)most_channels(s) + thread_floats(s, chunk) * (size_t)s->threads) *
           sizeof(float);
}

/* c += the pixels that a tap meets · its weights, or = of the first tap. */
MABN_CLONES static void multiply(float *c, const float *a, size_t panel, int64_t count, int64_t in,
                                 int64_t out, const float *used, bool first)
{
    for (int64_t o = 0; o < out; o += LANES, c += panel, used += in * LANES)
        products(c, a, panel, in, used, count, !first);
}

MABN_CLONES static void finish(float *y, const float *c, size_t panel, const struct grid *g,
                               int64_t first, int64_t count,
                               const struct mabn_implicit_gemm_end *end)
{
    struct place p = place_of(g, first);
    for (int64_t k = 0; k < count; k++, c += LANES, next_place(&p, g)) {
        float *to = y + ((p.image * g->h + g->top + p.row * g->step) * g->w + g->left +
                         p.column * g->step) *
                            g->channels;
        for (int64_t o = 0; o < g->channels; o += 8) {
            vec v = *(const vec *)(c + (size_t)(o / LANES) * panel + o % LANES);
            if (end->bias) v += *(const vec *)(end->bias + o);
            if (end->add) v += *(const vec *)(to + o);
            if (end->relu) v = (vec)((bits)v & ~(v < 0)); /* NaN stays */
            *(vec *)(to + o) = v;
        }
    }
}

static void run_grid(float *y, const float *source, const float *used, const struct grid *g,
                     const struct mabn_implicit_gemm *s, const struct mabn_implicit_gemm_end *end,
                     float *scratch)
{
    const int64_t pixels = pixels_of(s, g), chunk = even_share(pixels, chunk_of(s), s->threads);
    const int64_t in = g->source_channels, out = g->channels;
    float *zeros = scratch;
#pragma omp parallel num_threads(s->threads)
    {
        float *a =
            zeros + most_channels(s) + thread_floats(s, chunk) * (size_t)omp_get_thread_num();
        float *c = a + matrix_floats(chunk, in);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < pixels; first += chunk) {
            const int64_t count = pixels - first < chunk ? pixels - first : chunk;
            const size_t panel = panel_floats(chunk);
            if (!g->n_taps) memset(c, 0, matrix_floats(chunk, out) * sizeof *c);
            for (int t = 0; t < g->n_taps; t++) {
                gather(a, panel, source, g, &g->taps[t], first, count, zeros);
                multiply(c, a, panel, count, in, out, used + g->taps[t].index * in * out, !t);
            }
            finish(y, c, panel, g, first, count, end);
        }
    }
}

void mabn_implicit_gemm_run(float *y, const float *x, const float *used,
                            const struct mabn_implicit_gemm *s,
                            const struct mabn_implicit_gemm_end *end, void *scratch)
{
    const struct grid g = forward_grid(s);
    memset(scratch, 0, (size_t)most_channels(s) * sizeof(float));
    run_grid(y, x, used, &g, s, end, scratch);
}

void mabn_implicit_gemm_data(float *dx, const float *dy, const float *used,
                             const struct mabn_implicit_gemm *s, bool add, void *scratch)
{
    const struct mabn_implicit_gemm_end end = {.add = add};
    memset(scratch, 0, (size_t)most_channels(s) * sizeof(float));
    for (int64_t top = 0; top < s->stride && top < s->h; top++)
        for (int64_t left = 0; left < s->stride && left < s->w; left++) {
            const struct grid g = data_grid(s, top, left);
            run_grid(dx, dy, used, &g, s, &end, scratch);
        }
}

/* ---- backward to weights ---- */

/* Small weights: the pixels are divided into parts, each with a sum of its own, so that threads need not
 * wait for each other. Large ones are divided instead. By the shape alone, since it decides the order of
 * sums. */
static int64_t parts_of(const struct mabn_implicit_gemm *s)
{
    const int64_t parts = s->n * s->oh * s->ow / (2 * ROWS);
    if (parts < 2 || s->kernel * s->kernel * s->in * s->out > PART_FLOATS) return 1;
    return parts < PARTS ? parts : PARTS;
}

static int64_t part_pixels(const struct mabn_implicit_gemm *s)
{
    return (s->n * s->oh * s->ow + parts_of(s) - 1) / parts_of(s);
}

/* Pixels that are multiplied at a time. */
static int64_t rows_of(const struct mabn_implicit_gemm *s)
{
    const int64_t pixels = part_pixels(s), times = (pixels + ROWS - 1) / ROWS;
    return (pixels + times - 1) / times;
}

size_t mabn_implicit_gemm_gradient_scratch_bytes(const struct mabn_implicit_gemm *s)
{
    const int64_t rows = rows_of(s), parts = parts_of(s);
    const size_t matrices = matrix_floats(rows, s->in) + matrix_floats(rows, s->out);
    return (size_t)most_channels(s) * sizeof(float) +
           (parts > 1 ? (size_t)s->threads : 1) * matrices * sizeof(float) +
           (size_t)(parts - 1) * mabn_implicit_gemm_weights_bytes(s);
}

/* 16 filters, 16 inputs of a tap. */
MABN_CLONES static void gradient_block(float *dweight, size_t filter, const float *d,
                                       const float *v, int64_t count, bool first)
{
    if (first)
        outer_products(dweight, filter, d, v, count, false);
    else
        outer_products(dweight, filter, d, v, count, true);
}

/* dy's pixels themselves. */
static struct grid gradient_grid(const struct mabn_implicit_gemm *s)
{
    struct grid g = forward_grid(s);
    g.source_step = 1;
    g.source_h = s->oh;
    g.source_w = s->ow;
    g.source_channels = s->out;
    g.taps[0] = (struct tap){0, 0, 0};
    g.n_taps = 1;
    return g;
}

/* The blocks of a tap, of 16 inputs, or all of them. */
static void gradient_blocks(float *dweight, const struct mabn_implicit_gemm *s, int tap, int64_t i,
                            const float *d, const float *v, size_t panel, int64_t count, bool first)
{
    const size_t filter = (size_t)(s->kernel * s->kernel * s->in);
    for (int64_t o = 0; o < s->out; o += LANES, d += panel)
        gradient_block(dweight + (size_t)o * filter + (size_t)(tap * s->in + i), filter, d, v,
                       count, first);
}

/* One thread: the sum over pixels [from, to). */
static void gradient_part(float *dweight, const float *x, const float *dy,
                          const struct mabn_implicit_gemm *s, const struct grid *g,
                          const struct grid *own, int64_t from, int64_t to, const float *zeros,
                          float *d)
{
    const int64_t rows = rows_of(s);
    const size_t panel = panel_floats(rows);
    float *v = d + matrix_floats(rows, s->out);
    for (int64_t first = from; first < to; first += rows) {
        const int64_t count = to - first < rows ? to - first : rows;
        gather(d, panel, dy, own, own->taps, first, count, zeros);
        for (int t = 0; t < g->n_taps; t++) {
            gather(v, panel, x, g, &g->taps[t], first, count, zeros);
            for (int64_t i = 0; i < s->in; i += LANES)
                gradient_blocks(dweight, s, t, i, d, v + (size_t)(i / LANES) * panel, panel, count,
                                first == from);
        }
    }
}

MABN_CLONES static void add_parts(float *dweight, const float *sums, int64_t parts, size_t floats,
                                  size_t first, size_t count)
{
    for (int64_t p = 0; p < parts; p++)
        for (size_t k = first; k < first + count; k++)
            dweight[k] += sums[(size_t)p * floats + k];
}

static void gradient_in_parts(float *dweight, const float *x, const float *dy,
                              const struct mabn_implicit_gemm *s, float *scratch)
{
    const struct grid g = forward_grid(s), own = gradient_grid(s);
    const int64_t parts = parts_of(s), part = part_pixels(s), pixels = pixels_of(s, &g);
    const int64_t rows = rows_of(s), filter = s->kernel * s->kernel * s->in;
    const size_t floats = (size_t)(filter * s->out),
                 matrices = matrix_floats(rows, s->in) + matrix_floats(rows, s->out);
    float *zeros = scratch, *sums = zeros + most_channels(s),
          *d = sums + (size_t)(parts - 1) * floats;
#pragma omp parallel num_threads(s->threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < parts; p++)
            gradient_part(p ? sums + (size_t)(p - 1) * floats : dweight, x, dy, s, &g, &own,
                          p * part, p * part + part < pixels ? p * part + part : pixels, zeros,
                          d + matrices * (size_t)omp_get_thread_num());
#pragma omp for schedule(static)
        for (int64_t o = 0; o < s->out; o++)
            add_parts(dweight, sums, parts - 1, floats, (size_t)(o * filter), (size_t)filter);
    }
}

/* All threads together, one group of pixels after the other. */
static void gradient_at_once(float *dweight, const float *x, const float *dy,
                             const struct mabn_implicit_gemm *s, float *scratch)
{
    enum { PIECE = 16 }; /* pixels that a thread packs at once */
    const struct grid g = forward_grid(s), own = gradient_grid(s);
    const int64_t pixels = pixels_of(s, &g), rows = rows_of(s);
    const size_t panel = panel_floats(rows);
    float *zeros = scratch, *d = zeros + most_channels(s), *v = d + matrix_floats(rows, s->out);
#pragma omp parallel num_threads(s->threads)
    for (int64_t first = 0; first < pixels; first += rows) {
        const int64_t count = pixels - first < rows ? pixels - first : rows;
#pragma omp for schedule(static) nowait
        for (int64_t k = 0; k < count; k += PIECE)
            gather(d + k * LANES, panel, dy, &own, own.taps, first + k,
                   count - k < PIECE ? count - k : PIECE, zeros);
        for (int t = 0; t < g.n_taps; t++) {
#pragma omp for schedule(static)
            for (int64_t k = 0; k < count; k += PIECE)
                gather(v + k * LANES, panel, x, &g, &g.taps[t], first + k,
                       count - k < PIECE ? count - k : PIECE, zeros);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < s->in; i += LANES)
                gradient_blocks(dweight, s, t, i, d, v + (size_t)(i / LANES) * panel, panel, count,
                                !first);
        }
    }
}

void mabn_implicit_gemm_gradient(float *dweight, const float *x, const float *dy,
                                 const struct mabn_implicit_gemm *s, void *scratch)
{
    memset(scratch, 0, (size_t)most_channels(s) * sizeof(float));
    (parts_of(s) > 1 ? gradient_in_parts : gradient_at_once)(dweight, x, dy, s, scratch);
}
