/* Convolution by implicit GEMM, compared with plain loops in double: strides, odd sizes, a stride above
 * the kernel, one part of the pixels and several, long sums, fused operations, and the same bits with any
 * number of threads. */
#include <string.h>

#include "base/mem.h"
#include "draw.h"
#include "ops/centralize.h"
#include "ops/implicit_gemm.h"
#include "tap.h"

/* y += x·w, dx += dy·w, dw += dy·x */
static void reference(const struct mabn_implicit_gemm *s, const float *x, const float *w,
                      const float *dy, double *y, double *dx, double *dw)
{
    const int64_t taps = s->kernel * s->kernel;
    for (int64_t at = 0; at < s->n * s->oh * s->ow * taps; at++) {
        const int64_t k = at % taps, column = at / taps % s->ow, row = at / taps / s->ow % s->oh;
        const int64_t n = at / taps / s->ow / s->oh;
        const int64_t i = row * s->stride + k / s->kernel - s->pad,
                      j = column * s->stride + k % s->kernel - s->pad;
        if (i < 0 || j < 0 || i >= s->h || j >= s->w) continue;
        const int64_t from = ((n * s->h + i) * s->w + j) * s->in,
                      to = ((n * s->oh + row) * s->ow + column) * s->out;
        for (int64_t o = 0; o < s->out; o++)
            for (int64_t c = 0; c < s->in; c++) {
                const int64_t f = (o * taps + k) * s->in + c;
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

/* y, dx and dw, each after what is in it: NaN, which must not be read. */
static void compute(const struct mabn_implicit_gemm *s, const float *x, const float *w,
                    const float *dy, float *y, float *dx, float *dw)
{
    void *used = mabn_xmalloc(mabn_implicit_gemm_weights_bytes(s));
    void *scratch = mabn_xmalloc(mabn_implicit_gemm_scratch_bytes(s));
    const struct mabn_implicit_gemm_end plain = {NULL, false, false};
    mabn_implicit_gemm_weights(used, w, NULL, s, false);
    mabn_implicit_gemm_run(y, x, used, s, &plain, scratch);
    mabn_implicit_gemm_weights(used, w, NULL, s, true);
    mabn_implicit_gemm_data(dx, dy, used, s, false, scratch);
    free(scratch);
    scratch = mabn_xmalloc(mabn_implicit_gemm_gradient_scratch_bytes(s));
    mabn_implicit_gemm_gradient(dw, x, dy, s, scratch);
    free(scratch);
    free(used);
}

/* The filters' means, subtracted on the way or before. */
static bool subtracts(const struct mabn_implicit_gemm *s, const float *w)
{
    const int64_t filter = s->in * s->kernel * s->kernel;
    const size_t bytes = mabn_implicit_gemm_weights_bytes(s);
    float *means = draw_uniform((size_t)s->out, 8), *less = mabn_xmalloc(bytes);
    void *used = mabn_xmalloc(bytes), *want = mabn_xmalloc(bytes);
    bool same = true;
    mabn_subtract_means(less, w, means, s->out, filter);
    for (int to_data = 0; to_data < 2; to_data++) {
        mabn_implicit_gemm_weights(used, w, means, s, to_data);
        mabn_implicit_gemm_weights(want, less, NULL, s, to_data);
        same = same && !memcmp(used, want, bytes);
    }
    free(means);
    free(less);
    free(used);
    free(want);
    return same;
}

/* Bias, sum and ReLU; dx that is added to. `y` and `dx` are the plain results. */
static void check_fused(const struct mabn_implicit_gemm *s, const float *x, const float *w,
                        const float *dy, const double *y, const double *dx, size_t ny, size_t nx,
                        const char *name)
{
    void *used = mabn_xmalloc(mabn_implicit_gemm_weights_bytes(s));
    void *scratch = mabn_xmalloc(mabn_implicit_gemm_scratch_bytes(s));
    float *bias = draw_uniform((size_t)s->out, 5), *sum = draw_uniform(ny, 6),
          *added = draw_uniform(nx, 7);
    double *want = mabn_xcalloc(ny > nx ? ny : nx, sizeof *want);
    for (size_t i = 0; i < ny; i++) {
        want[i] = y[i] + (double)bias[i % (size_t)s->out] + (double)sum[i];
        want[i] = want[i] > 0 ? want[i] : 0;
    }
    mabn_implicit_gemm_weights(used, w, NULL, s, false);
    mabn_implicit_gemm_run(sum, x, used, s, &(struct mabn_implicit_gemm_end){bias, true, true},
                           scratch);
    const double of_y = worst(sum, want, ny);
    for (size_t i = 0; i < nx; i++)
        want[i] = dx[i] + (double)added[i];
    mabn_implicit_gemm_weights(used, w, NULL, s, true);
    mabn_implicit_gemm_data(added, dy, used, s, true, scratch);
    const double of_dx = worst(added, want, nx);
    tap_ok(of_y < 1e-4 && of_dx < 1e-4, "%s: fused %.1e, added %.1e", name, of_y, of_dx);
    free(used);
    free(scratch);
    free(bias);
    free(sum);
    free(added);
    free(want);
}

static void check(int n, int h, int w, int in, int out, int kernel, int stride, int pad)
{
    struct mabn_implicit_gemm s = {.n = n,
                                   .h = h,
                                   .w = w,
                                   .in = in,
                                   .out = out,
                                   .oh = (h + 2 * pad - kernel) / stride + 1,
                                   .ow = (w + 2 * pad - kernel) / stride + 1,
                                   .kernel = kernel,
                                   .stride = stride,
                                   .pad = pad,
                                   .threads = 1};
    const size_t nx = (size_t)(s.n * s.h * s.w * s.in), ny = (size_t)(s.n * s.oh * s.ow * s.out),
                 nw = (size_t)(s.in * s.out * kernel * kernel), all = ny + nx + nw;
    float *x = draw_uniform(nx, 1), *weight = draw_uniform(nw, 2), *dy = draw_uniform(ny, 3);
    float *got = mabn_xmalloc(all * sizeof *got), *other = mabn_xmalloc(all * sizeof *got);
    double *want = mabn_xcalloc(all, sizeof *want);
    char name[80];
    snprintf(name, sizeof name, "%dx%dx%dx%d-%d k%d s%d p%d", n, h, w, in, out, kernel, stride,
             pad);
    reference(&s, x, weight, dy, want, want + ny, want + ny + nx);
    memset(got, 0xff, all * sizeof *got);
    compute(&s, x, weight, dy, got, got + ny, got + ny + nx);
    const double ey = worst(got, want, ny), ex = worst(got + ny, want + ny, nx),
                 ew = worst(got + ny + nx, want + ny + nx, nw);
    tap_ok(ey < 1e-4 && ex < 1e-4 && ew < 1e-4, "%s: y %.1e, dx %.1e, dw %.1e", name, ey, ex, ew);
    check_fused(&s, x, weight, dy, want, want + ny, ny, nx, name);
    tap_ok(subtracts(&s, weight), "%s: less the filters' means", name);
    s.threads = 5;
    memset(other, 0xff, all * sizeof *other);
    compute(&s, x, weight, dy, other, other + ny, other + ny + nx);
    tap_ok(!memcmp(got, other, all * sizeof *got), "%s: the same bits on five threads", name);
    free(x);
    free(weight);
    free(dy);
    free(got);
    free(other);
    free(want);
}

int main(void)
{
    check(1, 1, 1, 16, 16, 1, 1, 0);
    check(2, 9, 7, 32, 48, 3, 2, 1);
    check(1, 8, 10, 48, 16, 3, 2, 1);
    check(3, 5, 6, 16, 32, 3, 1, 1);
    check(2, 7, 7, 16, 16, 1, 2, 0); /* pixels of dx that no tap meets */
    check(1, 11, 9, 16, 16, 2, 3, 0);
    check(1, 12, 13, 16, 32, 7, 2, 3);
    check(1, 10, 9, 16, 16, 5, 3, 1);
    check(2, 21, 23, 32, 16, 1, 1, 0);   /* two parts of the gradient's pixels */
    check(4, 60, 61, 16, 16, 1, 1, 0);   /* many */
    check(3, 31, 30, 16, 16, 3, 2, 1);   /* one, in several groups */
    check(1, 20, 20, 256, 272, 1, 1, 0); /* more weights than parts may have */
    check(1, 7, 7, 528, 272, 1, 1, 0);   /* sums in several steps */
    check(1, 1, 8, 16, 16, 1, 1, 0);     /* rows that are not whole blocks */
    check(1, 1, 9, 16, 16, 1, 1, 0);
    return tap_done();
}
