/* Pooling, loss, centralization, SGD, initialisation and element-wise passes, compared with
 * definitions and finite differences, and with different numbers of threads. */
#include "tap.h"

#include <omp.h>

#include "base/mem.h"
#include "draw.h"
#include "ops/centralize.h"
#include "ops/elementwise.h"
#include "ops/init.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/pool.h"
#include "ops/sgd.h"
#include "tensor/bf16.h"

/* ---- pooling ---- */

/* Naive, NHWC; index of the winner in x (first of equals). */
static int64_t window_max(const float *x, const struct mabn_pool_shape *s, int64_t n, int64_t oy,
                          int64_t ox, int64_t c)
{
    int64_t best = -1;
    for (int64_t iy = oy * s->stride - s->pad; iy < oy * s->stride - s->pad + s->kernel; iy++)
        for (int64_t ix = ox * s->stride - s->pad; ix < ox * s->stride - s->pad + s->kernel; ix++) {
            if (iy < 0 || iy >= s->h || ix < 0 || ix >= s->w) continue;
            int64_t at = ((n * s->h + iy) * s->w + ix) * s->c + c;
            if (best < 0 || x[at] > x[best] || isnan(x[at])) best = at;
        }
    return best;
}

static void check_maxpool(struct mabn_pool_shape s)
{
    const int64_t oh = mabn_pool_out(s.h, s.kernel, s.stride, s.pad);
    const int64_t ow = mabn_pool_out(s.w, s.kernel, s.stride, s.pad);
    const int64_t in = s.n * s.h * s.w * s.c, out = s.n * oh * ow * s.c;
    float *x = draw(in), *y = draw(out), *dy = draw(out), *dx = draw(in), *y2 = draw(out);
    double *want = calloc((size_t)in, sizeof *want);
    uint8_t *winner = malloc((size_t)out);
    bool good = true;

    for (int64_t i = 0; i < in; i++)
        x[i] = (float)((int)(x[i] * 2)); /* many equal values */
    tap_status(mabn_maxpool_forward(y, winner, x, &s, MABN_DTYPE_F32), "max pool %d/%d/%d",
               s.kernel, s.stride, s.pad);
    tap_status(mabn_maxpool_forward(y2, NULL, x, &s, MABN_DTYPE_F32), "max pool without winners");
    tap_status(mabn_maxpool_backward(dx, dy, winner, &s, MABN_DTYPE_F32), "max pool backward");
    for (int64_t i = 0; i < out; i++) {
        const int64_t c = i % s.c, ox = i / s.c % ow, oy = i / s.c / ow % oh, n = i / s.c / ow / oh;
        const int64_t best = window_max(x, &s, n, oy, ox, c);
        good = good && y[i] == x[best] && y2[i] == x[best];
        want[best] += dy[i];
    }
    tap_ok(good, "max pool %dx%d of %dx%dx%dx%d: values", s.kernel, s.kernel, (int)s.n, (int)s.h,
           (int)s.w, (int)s.c);
    for (int64_t i = 0; i < in; i++)
        good = good && fabs(dx[i] - want[i]) < 1e-6;
    tap_ok(good, "gradient goes to the first of the largest");
    free(x);
    free(y);
    free(dy);
    free(dx);
    free(y2);
    free(want);
    free(winner);
}

/* In bfloat16 as in float32 with the same values, rounded once. One value in 50 is a NaN. */
static void check_maxpool_half(struct mabn_pool_shape s)
{
    const int64_t oh = mabn_pool_out(s.h, s.kernel, s.stride, s.pad);
    const int64_t ow = mabn_pool_out(s.w, s.kernel, s.stride, s.pad);
    const int64_t in = s.n * s.h * s.w * s.c, out = s.n * oh * ow * s.c;
    float *x = draw(in), *y = draw(out), *dy = draw(out), *dx = draw(in);
    uint16_t *half = mabn_xcalloc((size_t)in, sizeof *half), *other = mabn_xcalloc((size_t)in, 2);
    uint16_t *got = mabn_xcalloc((size_t)in, sizeof *got), *want = mabn_xcalloc((size_t)in, 2);
    uint8_t *winner[2] = {malloc((size_t)out), malloc((size_t)out)};

    for (int64_t i = 0; i < in; i += 50)
        x[i] = NAN;
    mabn_bf16_narrow(half, x, in);
    mabn_bf16_widen(x, half, in);
    mabn_bf16_narrow(other, dy, out);
    mabn_bf16_widen(dy, other, out);
    bool done = !mabn_maxpool_forward(y, winner[0], x, &s, MABN_DTYPE_F32) &&
                !mabn_maxpool_forward(got, winner[1], half, &s, MABN_DTYPE_BF16);
    mabn_bf16_narrow(want, y, out);
    tap_ok(done && !memcmp(got, want, (size_t)out * 2) &&
               !memcmp(winner[0], winner[1], (size_t)out),
           "max pool of %d channels in bfloat16", (int)s.c);
    done = !mabn_maxpool_forward(got, NULL, half, &s, MABN_DTYPE_BF16);
    tap_ok(done && !memcmp(got, want, (size_t)out * 2), "likewise without winners");
    done = !mabn_maxpool_backward(dx, dy, winner[0], &s, MABN_DTYPE_F32) &&
           !mabn_maxpool_backward(got, other, winner[0], &s, MABN_DTYPE_BF16);
    mabn_bf16_narrow(want, dx, in);
    tap_ok(done && !memcmp(got, want, (size_t)in * 2), "likewise backward");
    free(x);
    free(y);
    free(dy);
    free(dx);
    free(half);
    free(other);
    free(got);
    free(want);
    free(winner[0]);
    free(winner[1]);
}

static void test_pool(void)
{
    check_maxpool_half((struct mabn_pool_shape){2, 7, 9, 5, 3, 2, 1});
    check_maxpool_half(
        (struct mabn_pool_shape){1, 6, 5, 600, 3, 2, 1}); /* more than it takes at once */
    check_maxpool((struct mabn_pool_shape){1, 5, 6, 600, 3, 2, 1});
    check_maxpool((struct mabn_pool_shape){2, 7, 9, 5, 3, 2, 1});
    check_maxpool((struct mabn_pool_shape){1, 8, 8, 70, 3, 2, 1});
    check_maxpool((struct mabn_pool_shape){3, 5, 4, 1, 2, 2, 0});
    check_maxpool((struct mabn_pool_shape){2, 5, 6, 3, 1, 2, 0}); /* every other position */
    check_maxpool((struct mabn_pool_shape){1, 6, 5, 2, 3, 1, 1});
    check_maxpool((struct mabn_pool_shape){1, 1, 1, 4, 3, 2, 1});

    const struct mabn_pool_shape nan = {1, 1, 3, 1, 3, 1, 1};
    const struct mabn_pool_shape bad = {1, 1, 1, 1, 3, 1, 2}, small = {1, 1, 1, 1, 3, 1, 0};
    float x[3] = {1, NAN, 5}, y[3];
    tap_status(mabn_maxpool_forward(y, NULL, x, &nan, MABN_DTYPE_F32), "max pool");
    tap_ok(isnan(y[0]) && isnan(y[1]) && isnan(y[2]), "NaN wins");
    tap_fails(mabn_maxpool_forward(y, NULL, x, &bad, MABN_DTYPE_F32), MABN_ERR_ARG, "padding",
              "padding too wide");
    tap_fails(mabn_maxpool_forward(y, NULL, x, &small, MABN_DTYPE_F32), MABN_ERR_ARG, "smaller",
              "image too small");

    float *in = draw(2 * 6 * 3), out[6], dx[36], *dy = draw(6);
    double worst = 0;
    mabn_avgpool_forward(out, in, 2, 6, 3, MABN_DTYPE_F32);
    mabn_avgpool_backward(dx, dy, 2, 6, 3, MABN_DTYPE_F32);
    for (int n = 0; n < 2; n++)
        for (int c = 0; c < 3; c++) {
            double sum = 0;
            for (int p = 0; p < 6; p++) {
                sum += in[(n * 6 + p) * 3 + c];
                worst = fmax(worst, fabs(dx[(n * 6 + p) * 3 + c] - dy[n * 3 + c] / 6));
            }
            worst = fmax(worst, fabs(out[n * 3 + c] - sum / 6));
        }
    tap_ok(worst < 1e-6, "global average and its gradient: %.1e", worst);
    free(in);
    free(dy);
}

/* ---- loss ---- */

static double xent(const double *z, int64_t k, int64_t truth, double s)
{
    double sum = 0, loss = 0;
    for (int64_t j = 0; j < k; j++)
        sum += exp(z[j]);
    for (int64_t j = 0; j < k; j++)
        loss -= ((j == truth ? 1 - s : 0) + s / (double)k) * (z[j] - log(sum));
    return loss;
}

static void check_loss(int64_t n, int64_t k, double smoothing)
{
    float *z = draw(n * k), *p = draw(n * k), *dz = draw(n * k);
    int32_t *label = malloc((size_t)n * sizeof *label);
    double *loss = malloc((size_t)n * sizeof *loss), *zd = malloc((size_t)k * sizeof *zd);
    const struct mabn_xent_out out = {loss, p, dz};
    double worst = 0, worst_grad = 0, worst_sum = 0;

    for (int64_t i = 0; i < n; i++)
        label[i] = (int32_t)mabn_rng_below(&rng, (uint64_t)k);
    tap_status(mabn_softmax_xent(&out, z, label, n, k, smoothing, 1.0 / (double)n), "loss");
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t j = 0; j < k; j++)
            zd[j] = z[i * k + j];
        worst = fmax(worst, fabs(loss[i] - xent(zd, k, label[i], smoothing)));
        for (int64_t j = 0; j < k; j++) {
            const double old = zd[j], h = 1e-5;
            zd[j] = old + h;
            double up = xent(zd, k, label[i], smoothing);
            zd[j] = old - h;
            double slope = (up - xent(zd, k, label[i], smoothing)) / (2 * h) / (double)n;
            zd[j] = old;
            worst_grad = fmax(worst_grad, fabs(slope - dz[i * k + j]));
            sum += p[i * k + j];
        }
        worst_sum = fmax(worst_sum, fabs(sum - 1));
    }
    tap_ok(worst < 1e-9, "loss N%d K%d smoothing %g: %.1e", (int)n, (int)k, smoothing, worst);
    tap_ok(worst_grad < 1e-7, "its gradient by finite differences: %.1e", worst_grad);
    tap_ok(worst_sum < 1e-6, "probabilities sum to 1: %.1e", worst_sum);
    free(z);
    free(p);
    free(dz);
    free(label);
    free(loss);
    free(zd);
}

static void test_loss(void)
{
    check_loss(3, 5, 0);
    check_loss(4, 1000, 0.1);
    check_loss(1, 1, 0.1);
    check_loss(7, 2, 0.3);

    float z[3][4] = {{1, 3, 3, -2}, {800, -800, 0, 0}, {1, NAN, 0, 2}};
    int32_t label[3] = {2, 0, 1};
    double loss[3];
    struct mabn_xent_out out = {loss, NULL, NULL};
    tap_status(mabn_softmax_xent(&out, z[0], label, 3, 4, 0.1, 1), "loss");
    tap_ok(mabn_label_rank(z[0], 4, label[0]) == 1,
           "an equal logit with a lower number stands before");
    tap_ok(mabn_label_rank(z[1], 4, label[1]) == 0 && isfinite(loss[1]),
           "large logits do not overflow");
    tap_ok(mabn_label_rank(z[2], 4, label[2]) == 4 && isnan(loss[2]),
           "NaN is never right and stays NaN");
    label[0] = 1;
    tap_status(mabn_softmax_xent(&out, z[0], label, 1, 4, 0.1, 1), "loss");
    tap_ok(mabn_label_rank(z[0], 4, label[0]) == 0, "and one with a higher number behind");
    label[1] = -1;
    out.dlogits = z[0];
    tap_status(mabn_softmax_xent(&out, z[0], label, 2, 4, 0.1, 1), "loss in place");
    tap_ok(mabn_label_rank(z[1], 4, label[1]) == -1 && loss[1] == 0 && z[1][0] == 0,
           "no label: no loss, no gradient");
    label[1] = 4;
    tap_fails(mabn_softmax_xent(&out, z[0], label, 2, 4, 0.1, 1), MABN_ERR_ARG, "label 4",
              "label out of range");
}

/* ---- centralization, SGD ---- */

static void test_centralize(void)
{
    enum { O = 3, K = 29 };
    float *w = draw(O * K), *g = draw(O * K), out[O * K], dw[O * K];
    double worst_mean = 0, dot_out = 0, dot_in = 0;

    mabn_centralize(out, w, O, K);
    mabn_centralize_backward(dw, g, O, K);
    for (int o = 0; o < O; o++) {
        double mean = 0;
        for (int k = 0; k < K; k++)
            mean += out[o * K + k] / (double)K;
        worst_mean = fmax(worst_mean, fabs(mean));
    }
    /* <g, C w> = <C' g, w>: backward is the transpose. */
    for (int i = 0; i < O * K; i++) {
        dot_out += (double)g[i] * out[i];
        dot_in += (double)dw[i] * w[i];
    }
    tap_ok(worst_mean < 1e-7, "centralized filters have no mean: %.1e", worst_mean);
    tap_close(dot_in, dot_out, 1e-5, "backward is the transpose");
    tap_close(out[0] - out[1], w[0] - w[1], 1e-6, "differences stay");
    free(w);
    free(g);
}

/* Three steps against the rule in double. */
static void check_sgd(bool reference, bool nesterov, bool centralize, double decay)
{
    enum { O = 5, K = 11, COUNT = O * K };
    struct mabn_sgd_options o;
    float *p = draw(COUNT), *g = draw(COUNT), buf[COUNT] = {0};
    double pd[COUNT], bd[COUNT] = {0}, worst = 0;

    mabn_sgd_options_init(&o);
    o.reference = reference;
    o.nesterov = nesterov;
    o.grad_scale = 0.5;
    for (int i = 0; i < COUNT; i++)
        pd[i] = p[i];
    const struct mabn_sgd_param param = {p, buf, g, COUNT, centralize ? O : 0, 2, decay};
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < COUNT; i++)
            g[i] = (float)mabn_rng_normal(&rng);
        mabn_sgd_step(&o, 0.1, &param, 1);
        for (int i = 0; i < COUNT; i++) {
            double mean = 0;
            for (int k = 0; centralize && k < K; k++)
                mean += 0.5 * g[i / K * K + k] / K;
            double d = 0.5 * g[i] - mean + decay * pd[i];
            bd[i] = 0.9 * bd[i] + d;
            pd[i] -= 0.2 * (nesterov ? d + 0.9 * bd[i] : bd[i]);
        }
    }
    for (int i = 0; i < COUNT; i++)
        worst = fmax(worst, fmax(fabs(p[i] - pd[i]), fabs(buf[i] - bd[i])));
    tap_ok(worst < 2e-6, "SGD%s%s%s, decay %g: %.1e", reference ? " as the reference" : "",
           nesterov ? " Nesterov" : "", centralize ? " centralized" : "", decay, worst);
    free(p);
    free(g);
}

static void test_sgd(void)
{
    check_sgd(false, false, false, 1e-2);
    check_sgd(false, false, true, 0);
    check_sgd(false, true, false, 1e-2);
    check_sgd(true, false, true, 1e-2);
}

/* ---- initialisation, element-wise ---- */

static void test_init(void)
{
    enum { COUNT = 100000 };
    float *a = malloc(COUNT * sizeof *a), *b = malloc(COUNT * sizeof *b);
    double mean = 0, square = 0, low = 0, high = 0;

    mabn_init_normal(a, COUNT, 1, 2, 7, mabn_init_id("conv1.weight"));
    for (int i = 0; i < COUNT; i++) {
        mean += a[i] / COUNT;
        square += (double)a[i] * a[i] / COUNT;
    }
    tap_close(mean, 1, 0.03, "normal: mean");
    tap_close(sqrt(square - mean * mean), 2, 0.03, "normal: deviation");
    omp_set_num_threads(3);
    mabn_init_normal(b, COUNT, 1, 2, 7, mabn_init_id("conv1.weight"));
    tap_ok(!memcmp(a, b, COUNT * sizeof *a), "the same with three threads");
    mabn_init_normal(b, 5000, 1, 2, 7, mabn_init_id("conv1.weight"));
    tap_ok(!memcmp(a, b, 5000 * sizeof *a), "a shorter tensor is the beginning of a longer one");
    mabn_init_normal(b, COUNT, 1, 2, 7, mabn_init_id("conv2.weight"));
    tap_ok(memcmp(a, b, COUNT * sizeof *a) != 0, "another tensor, other values");
    mabn_init_uniform(a, COUNT, -0.5, 0.25, 7, 1);
    for (int i = 0; i < COUNT; i++) {
        low = fmin(low, a[i]);
        high = fmax(high, a[i]);
    }
    tap_ok(low >= -0.5 && low < -0.499 && high <= 0.25 && high > 0.249, "uniform: %g to %g", low,
           high);
    free(a);
    free(b);
}

static void test_elementwise(void)
{
    enum { COUNT = 100003 };
    float *a = draw(COUNT), *b = draw(COUNT), *y = draw(COUNT);
    bool good = true;

    mabn_add(y, a, b, COUNT, true);
    for (int i = 0; i < COUNT; i++)
        good = good && y[i] == (a[i] + b[i] > 0 ? a[i] + b[i] : 0);
    mabn_add(y, a, b, COUNT, false);
    for (int i = 0; i < COUNT; i++)
        good = good && y[i] == a[i] + b[i];
    tap_ok(good, "add, and through ReLU");
    a[77777] = NAN;
    mabn_add(a, a, b, COUNT, true);
    tap_ok(isnan(a[77777]), "NaN goes through ReLU");
    free(a);
    free(b);
    free(y);
}

/* Few rows, many, and the first number that is cut; more columns than are summed at a time. */
static void check_column_sums(int64_t rows, int64_t columns, bool half)
{
    const enum mabn_dtype dtype = half ? MABN_DTYPE_BF16 : MABN_DTYPE_F32;
    float *a = draw(rows * columns), *sums = draw(columns), *alone = draw(columns);
    uint16_t *narrow = malloc((size_t)(rows * columns) * sizeof *narrow);
    const void *values = half ? (const void *)narrow : a;
    const int threads = omp_get_max_threads();
    double worst = 0;

    mabn_bf16_narrow(narrow, a, rows * columns);
    mabn_column_sums(sums, values, dtype, rows, columns);
    for (int64_t c = 0; c < columns; c++) {
        double want = 0;
        for (int64_t r = 0; r < rows; r++)
            want += (double)mabn_at(values, r * columns + c, half);
        worst = fmax(worst, fabs(sums[c] - want) / (1 + fabs(want)));
    }
    tap_ok(worst < 1e-7, "sums of %d columns of %d, %s: within %.1g", (int)columns, (int)rows,
           half ? "bfloat16" : "float32", worst);
    omp_set_num_threads(1);
    mabn_column_sums(alone, values, dtype, rows, columns);
    omp_set_num_threads(threads);
    tap_ok(!memcmp(sums, alone, (size_t)columns * sizeof *sums), "by one thread: the same bits");
    free(a);
    free(sums);
    free(alone);
    free(narrow);
}

static void test_column_sums(void)
{
    const int64_t rows[] = {1, 1023, 1024, 1025, 3001}, columns[] = {1, 67, 256, 300};
    for (int r = 0; r < 5; r++)
        for (int c = 0; c < 4; c++)
            for (int half = 0; half < 2; half++)
                check_column_sums(rows[r], columns[c], half);
}

int main(void)
{
    mabn_rng_init(&rng, 11, MABN_RNG_TEST, 0, 0);
    test_pool();
    test_loss();
    test_centralize();
    test_sgd();
    test_init();
    test_elementwise();
    test_column_sums();
    return tap_done();
}
