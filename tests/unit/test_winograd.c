/* Winograd's convolution, compared with plain loops in double: odd sizes, fewer tiles than a block,
 * several chunks and groups, fused operations, and the same bits with any number of threads. */
#include <string.h>

#include "base/mem.h"
#include "draw.h"
#include "ops/winograd.h"
#include "tap.h"

/* y += x·w, dx += dy·w, dw += dy·x */
static void reference(const struct mabn_winograd *s, const float *x, const float *w,
                      const float *dy, double *y, double *dx, double *dw)
{
    for (int64_t at = 0; at < s->n * s->h * s->w * 9; at++) {
        const int64_t k = at % 9, column = at / 9 % s->w, row = at / 9 / s->w % s->h;
        const int64_t n = at / 9 / s->w / s->h, i = row + k / 3 - 1, j = column + k % 3 - 1;
        if (i < 0 || j < 0 || i >= s->h || j >= s->w) continue;
        const int64_t from = ((n * s->h + i) * s->w + j) * s->in,
                      to = ((n * s->h + row) * s->w + column) * s->out;
        for (int64_t o = 0; o < s->out; o++)
            for (int64_t c = 0; c < s->in; c++) {
                const int64_t f = (o * 9 + k) * s->in + c;
                y[to + o] += (double)x[from + c] * w[f];
                dx[from + c] += (double)dy[to + o] * w[f];
                dw[f] += (double)dy[to + o] * x[from + c];
            }
    }
}

static double worst(const float *got, const double *want, size_t n)
{
    double e = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = fabs((double)got[i] - want[i]);
        if (!(d <= e)) e = d;
    }
    return e;
}

/* 16 outputs at a time, in scratch that is no larger than they need: the bits of all at once. */
static void check_parts(const struct mabn_winograd *shape, const float *x, const float *w,
                        const float *dy, const char *name)
{
    const struct mabn_winograd back = {.n = shape->n,
                                       .h = shape->h,
                                       .w = shape->w,
                                       .in = shape->out,
                                       .out = shape->in,
                                       .threads = shape->threads};
    const size_t ny = (size_t)(shape->n * shape->h * shape->w * shape->out),
                 nx = (size_t)(shape->n * shape->h * shape->w * shape->in),
                 nw = (size_t)(shape->in * shape->out * 9), n = ny > nx ? ny : nx;
    float *got[2][3], *bias = draw_uniform((size_t)shape->out, 4);
    for (int parts = 0; parts < 2; parts++) {
        struct mabn_winograd s = *shape, b = back, layer = *shape;
        for (int k = 0; k < 3; k++)
            got[parts][k] = mabn_xcalloc(k < 2 ? n : nw, sizeof *x);
        if (parts) s.part = b.part = layer.part = 16;
        float *used = mabn_xmalloc(mabn_winograd_weights_bytes(&s));
        void *scratch = mabn_xmalloc(mabn_winograd_scratch_bytes(&s));
        for (; s.first < s.out; s.first += parts ? 16 : s.out) {
            mabn_winograd_weights(used, w, NULL, &s, false);
            mabn_winograd_run(got[parts][0], x, used, &s, &(struct mabn_winograd_end){.bias = bias},
                              scratch);
        }
        free(used);
        free(scratch);
        used = mabn_xmalloc(mabn_winograd_weights_bytes(&b));
        scratch = mabn_xmalloc(mabn_winograd_scratch_bytes(&b));
        for (; b.first < b.out; b.first += parts ? 16 : b.out) {
            layer.first = b.first;
            mabn_winograd_weights(used, w, NULL, &layer, true);
            mabn_winograd_run(got[parts][1], dy, used, &b, &(struct mabn_winograd_end){0}, scratch);
        }
        free(used);
        free(scratch);
        scratch = mabn_xmalloc(mabn_winograd_gradient_scratch_bytes(&s));
        for (s.first = 0; s.first < s.out; s.first += parts ? 16 : s.out)
            mabn_winograd_gradient(got[parts][2], x, dy, &s, scratch);
        free(scratch);
    }
    for (int k = 0; k < 3; k++) {
        static const char *const passes[] = {"forward", "to data", "to weights"};
        tap_ok(!memcmp(got[0][k], got[1][k], (k < 2 ? n : nw) * sizeof(float)),
               "%s: %s in parts, the same bits", name, passes[k]);
        free(got[0][k]);
        free(got[1][k]);
    }
    free(bias);
}

static void check(struct mabn_winograd s, const char *name)
{
    const size_t nx = (size_t)(s.n * s.h * s.w * s.in), ny = (size_t)(s.n * s.h * s.w * s.out),
                 nw = (size_t)(s.in * s.out * 9);
    const struct mabn_winograd back = {
        .n = s.n, .h = s.h, .w = s.w, .in = s.out, .out = s.in, .threads = s.threads};
    const struct mabn_winograd_end plain = {0}, adds = {.add = true};
    float *x = draw_uniform(nx, 1), *w = draw_uniform(nw, 2), *dy = draw_uniform(ny, 3),
          *bias = draw_uniform((size_t)s.out, 4), *y = mabn_xcalloc(ny, sizeof *y),
          *dx = mabn_xcalloc(nx, sizeof *dx), *dw = mabn_xcalloc(nw, sizeof *dw),
          *before = draw_uniform(ny, 5);
    double *wy = mabn_xcalloc(ny, sizeof *wy), *wdx = mabn_xcalloc(nx, sizeof *wdx),
           *wdw = mabn_xcalloc(nw, sizeof *wdw);
    float *used = mabn_xmalloc(mabn_winograd_weights_bytes(&s));
    void *scratch = mabn_xmalloc(mabn_winograd_scratch_bytes(&s));
    reference(&s, x, w, dy, wy, wdx, wdw);

    mabn_winograd_weights(used, w, NULL, &s, false);
    mabn_winograd_run(y, x, used, &s, &plain, scratch);
    const double scale = sqrt(9.0 * (double)s.in);
    tap_ok(worst(y, wy, ny) < 1e-5 * scale, "%s: forward, off by %g", name, worst(y, wy, ny));
    const struct mabn_winograd_end fused = {bias, true, true};
    memcpy(y, before, ny * sizeof *y);
    mabn_winograd_run(y, x, used, &s, &fused, scratch);
    for (size_t k = 0; k < ny; k++) {
        const double sum = wy[k] + (double)bias[k % (size_t)s.out] + (double)before[k];
        wy[k] = sum > 0 ? sum : 0;
    }
    tap_ok(worst(y, wy, ny) < 1e-5 * scale, "%s: with bias, sum and ReLU", name);

    free(scratch);
    scratch = mabn_xmalloc(mabn_winograd_scratch_bytes(&back));
    mabn_winograd_weights(used, w, NULL, &s, true);
    mabn_winograd_run(dx, dy, used, &back, &plain, scratch);
    tap_ok(worst(dx, wdx, nx) < 1e-5 * sqrt(9.0 * (double)s.out), "%s: to data", name);
    mabn_winograd_run(dx, dy, used, &back, &adds, scratch);
    for (size_t k = 0; k < nx; k++)
        wdx[k] *= 2;
    tap_ok(worst(dx, wdx, nx) < 2e-5 * sqrt(9.0 * (double)s.out), "%s: to data, adding", name);

    free(scratch);
    scratch = mabn_xmalloc(mabn_winograd_gradient_scratch_bytes(&s));
    mabn_winograd_gradient(dw, x, dy, &s, scratch);
    tap_ok(worst(dw, wdw, nw) < 1e-5 * sqrt((double)(s.n * s.h * s.w)) + 1e-6,
           "%s: to weights, off by %g", name, worst(dw, wdw, nw));

    struct mabn_winograd many = s;
    float *other = mabn_xcalloc(ny > nw ? ny : nw, sizeof *other);
    many.threads = 5;
    free(scratch);
    scratch = mabn_xmalloc(mabn_winograd_gradient_scratch_bytes(&many));
    mabn_winograd_gradient(other, x, dy, &many, scratch);
    bool same = !memcmp(other, dw, nw * sizeof *dw);
    free(scratch);
    scratch = mabn_xmalloc(mabn_winograd_scratch_bytes(&many));
    mabn_winograd_weights(used, w, NULL, &many, false);
    memcpy(other, before, ny * sizeof *other);
    mabn_winograd_run(other, x, used, &many, &fused, scratch);
    tap_ok(same && !memcmp(other, y, ny * sizeof *y), "%s: the same bits on five threads", name);
    check_parts(&s, x, w, dy, name);
    void *all[] = {x, w, dy, bias, y, dx, dw, before, wy, wdx, wdw, used, scratch, other};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        free(all[k]);
}

static struct mabn_winograd shape(int n, int h, int w, int in, int out, int threads)
{
    return (struct mabn_winograd){.n = n, .h = h, .w = w, .in = in, .out = out, .threads = threads};
}

int main(void)
{
    check(shape(1, 4, 4, 16, 16, 1), "one tile");
    check(shape(1, 1, 3, 16, 32, 2), "less than a tile");
    check(shape(2, 7, 9, 32, 48, 2), "odd sides");
    check(shape(1, 40, 41, 48, 16, 2), "several chunks");
    check(shape(3, 64, 60, 64, 32, 2), "several groups");
    check(shape(1, 12, 12, 272, 32, 2), "sums in two steps");
    return tap_done();
}
