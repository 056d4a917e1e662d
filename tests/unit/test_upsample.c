/* Upsampling with addition, and sigmoid, compared with their definitions; backward is the
 * transpose; the same bits with any number of threads. */
#include "tap.h"

#include <omp.h>
#include <stdbool.h>

#include "draw.h"
#include "ops/pool.h"
#include "ops/sigmoid.h"
#include "ops/upsample.h"

/* Where value i of the large map comes from in the small one. */
static int64_t source(const struct mabn_upsample *s, int64_t i)
{
    const int64_t c = i % s->c, x = i / s->c % s->out_w, y = i / s->c / s->out_w % s->out_h;
    const int64_t n = i / s->c / s->out_w / s->out_h;
    return ((n * s->h + y * s->h / s->out_h) * s->w + x * s->w / s->out_w) * s->c + c;
}

static void check_upsample(struct mabn_upsample s)
{
    const int64_t small = s.n * s.h * s.w * s.c, large = s.n * s.out_h * s.out_w * s.c;
    float *a = draw(large), *b = draw(small), *y = draw(large), *dy = draw(large);
    float *db = draw(small), *twice = draw(small);
    double *want = calloc((size_t)small + 1, sizeof *want), worst = 0, worst_twice = 0;
    bool good = true, same = true;

    mabn_upsample_add(y, a, b, &s, MABN_DTYPE_F32);
    mabn_upsample_backward(db, dy, &s, false, MABN_DTYPE_F32);
    memcpy(twice, db, (size_t)small * sizeof *db);
    mabn_upsample_backward(twice, dy, &s, true, MABN_DTYPE_F32);
    for (int64_t i = 0; i < large; i++) {
        good = good && y[i] == a[i] + b[source(&s, i)];
        want[source(&s, i)] += dy[i];
    }
    for (int64_t i = 0; i < small; i++) {
        worst = fmax(worst, fabs(db[i] - want[i]));
        worst_twice = fmax(worst_twice, fabs(twice[i] - 2 * want[i]));
    }
    tap_ok(good, "%dx%d to %dx%d: y", (int)s.h, (int)s.w, (int)s.out_h, (int)s.out_w);
    tap_ok(worst < 2e-6, "backward: %.1e", worst);
    tap_ok(worst_twice < 4e-6, "backward, added: %.1e", worst_twice);
    for (int threads = 1; threads < 6; threads += 2) {
        omp_set_num_threads(threads);
        mabn_upsample_backward(twice, dy, &s, false, MABN_DTYPE_F32);
        same = same && !memcmp(twice, db, (size_t)small * sizeof *db);
    }
    mabn_upsample_add(a, a, b, &s, MABN_DTYPE_F32);
    tap_ok(same && !memcmp(a, y, (size_t)large * sizeof *y), "any threads, and in place");
    free(a);
    free(b);
    free(y);
    free(dy);
    free(db);
    free(twice);
    free(want);
}

static void test_sigmoid(void)
{
    enum { COUNT = 40003 };
    float *x = draw(COUNT), *dy = draw(COUNT), *y = draw(COUNT), *dx = draw(COUNT);
    double worst = 0, worst_slope = 0;
    const float edges[4] = {INFINITY, -INFINITY, NAN, 0};
    float at_edges[4];

    mabn_sigmoid(y, x, COUNT, MABN_DTYPE_F32);
    mabn_sigmoid_backward(dx, dy, y, COUNT, MABN_DTYPE_F32);
    for (int i = 0; i < COUNT; i++) {
        const double s = 1 / (1 + exp(-(double)x[i]));
        const double low = 1 / (1 + exp(1e-6 - x[i])), high = 1 / (1 + exp(-1e-6 - x[i]));
        worst = fmax(worst, fabs(y[i] - s) / s);
        worst_slope = fmax(worst_slope, fabs(dx[i] - dy[i] * (high - low) / 2e-6));
    }
    tap_ok(worst < 6e-8, "sigmoid: %.1e", worst);
    tap_ok(worst_slope < 1e-6, "its gradient by finite differences: %.1e", worst_slope);
    mabn_sigmoid(at_edges, edges, 4, MABN_DTYPE_F32);
    tap_ok(at_edges[0] == 1 && at_edges[1] == 0 && isnan(at_edges[2]) && at_edges[3] == 0.5,
           "infinities, NaN, 0");
    mabn_sigmoid(x, x, COUNT, MABN_DTYPE_F32);
    mabn_sigmoid_backward(dy, dy, y, COUNT, MABN_DTYPE_F32);
    tap_ok(!memcmp(x, y, sizeof *x * COUNT) && !memcmp(dx, dy, sizeof *x * COUNT), "in place");
    free(x);
    free(y);
    free(dx);
    free(dy);
}

int main(void)
{
    mabn_rng_init(&rng, 14, MABN_RNG_TEST, 0, 0);
    check_upsample((struct mabn_upsample){2, 19, 7, 5, 14, 10});
    check_upsample((struct mabn_upsample){1, 3, 13, 21, 25, 42});
    check_upsample((struct mabn_upsample){3, 64, 4, 5, 7, 9});
    check_upsample((struct mabn_upsample){2, 5, 3, 4, 10, 13});
    check_upsample((struct mabn_upsample){2, 1, 1, 1, 1, 1});
    check_upsample((struct mabn_upsample){0, 8, 4, 4, 8, 8});
    test_sigmoid();
    return tap_done();
}
