/* Transposed convolution, compared with its definition in double, for any number of rows. */
#include "tap.h"

#include <stdbool.h>
#include <stdint.h>

#include "draw.h"
#include "ops/transposed_conv.h"

struct fixture {
    struct mabn_transposed_conv op;
    int64_t rows, x_count, y_count, w_count;
    float *x, *w, *bias, *y, *dy, *dx, *dw, *dbias;
    double *want_y, *want_dx, *want_dw, *want_dbias;
    void *scratch;
};

static void fixture_init(struct fixture *f, struct mabn_transposed_conv op)
{
    f->op = op;
    f->rows = op.n * op.h * op.w;
    f->x_count = f->rows * op.in;
    f->y_count = 4 * f->rows * op.out;
    f->w_count = 4 * op.in * op.out;
    f->x = draw(f->x_count);
    f->w = draw(f->w_count);
    f->bias = draw(op.out);
    f->y = draw(f->y_count);
    f->dy = draw(f->y_count);
    f->dx = draw(f->x_count);
    f->dw = draw(f->w_count);
    f->dbias = draw(op.out);
    f->want_y = calloc((size_t)f->y_count + 1, sizeof(double));
    f->want_dx = calloc((size_t)f->x_count + 1, sizeof(double));
    f->want_dw = calloc((size_t)f->w_count + 1, sizeof(double));
    f->want_dbias = calloc((size_t)op.out + 1, sizeof(double));
    f->scratch = malloc(mabn_transposed_conv_scratch_bytes(op.out));
}

static void fixture_free(struct fixture *f)
{
    void *all[] = {f->x,     f->w,      f->bias,    f->y,       f->dy,         f->dx,     f->dw,
                   f->dbias, f->want_y, f->want_dx, f->want_dw, f->want_dbias, f->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* One output of one input position: the three products. */
static void define_one(struct fixture *f, int64_t row, int64_t a, int64_t b, int64_t o)
{
    const struct mabn_transposed_conv *s = &f->op;
    const int64_t j = row % s->w, i = row / s->w % s->h, n = row / s->w / s->h;
    const int64_t at = ((n * 2 * s->h + 2 * i + a) * 2 * s->w + 2 * j + b) * s->out + o;
    f->want_y[at] += f->bias[o];
    f->want_dbias[o] += f->dy[at];
    for (int64_t c = 0; c < s->in; c++) {
        const int64_t weight = ((c * 2 + a) * 2 + b) * s->out + o, from = row * s->in + c;
        f->want_y[at] += (double)f->x[from] * f->w[weight];
        f->want_dx[from] += (double)f->dy[at] * f->w[weight];
        f->want_dw[weight] += (double)f->dy[at] * f->x[from];
    }
}

static void define(struct fixture *f)
{
    for (int64_t row = 0; row < f->rows; row++)
        for (int64_t i = 0; i < 4 * f->op.out; i++)
            define_one(f, row, i / f->op.out / 2, i / f->op.out % 2, i % f->op.out);
}

/* Largest difference, relative to the root of the number of terms. */
static double worst(const float *got, const double *want, int64_t count, double times,
                    int64_t terms)
{
    double e = 0;
    for (int64_t i = 0; i < count; i++)
        e = fmax(e, fabs(got[i] - times * want[i]));
    return e / sqrt((double)terms + 1);
}

static void check(struct mabn_transposed_conv op)
{
    struct fixture f;
    bool cut = true;
    char name[100];
    snprintf(name, sizeof name, "%d of %dx%d, %d to %d channels", (int)op.n, (int)op.h, (int)op.w,
             (int)op.in, (int)op.out);
    fixture_init(&f, op);
    define(&f);
    tap_status(mabn_transposed_conv_forward(f.y, f.x, f.w, f.bias, &op, false, f.scratch), "%s",
               name);
    tap_status(mabn_transposed_conv_backward_data(f.dx, f.dy, f.w, &op, false, f.scratch), "%s",
               name);
    tap_status(mabn_transposed_conv_backward_weights(f.dw, f.dbias, f.x, f.dy, &op, f.scratch),
               "%s", name);
    double e = worst(f.y, f.want_y, f.y_count, 1, op.in);
    tap_ok(e < 3e-6, "%s: y: %.1e", name, e);
    e = worst(f.dx, f.want_dx, f.x_count, 1, 4 * op.out);
    tap_ok(e < 3e-6, "%s: dx: %.1e", name, e);
    e = worst(f.dw, f.want_dw, f.w_count, 1, f.rows);
    tap_ok(e < 1e-5, "%s: dW: %.1e", name, e); /* sums of thousands */
    e = worst(f.dbias, f.want_dbias, op.out, 1, 4 * f.rows);
    tap_ok(e < 3e-6, "%s: dbias: %.1e", name, e);
    tap_status(mabn_transposed_conv_backward_data(f.dx, f.dy, f.w, &op, true, f.scratch), "add");
    e = worst(f.dx, f.want_dx, f.x_count, 2, 4 * op.out);
    tap_ok(e < 6e-6, "%s: dx, added: %.1e", name, e);
    memcpy(f.dy, f.y, (size_t)f.y_count * sizeof *f.y);
    tap_status(mabn_transposed_conv_forward(f.y, f.x, f.w, f.bias, &op, true, f.scratch), "ReLU");
    for (int64_t i = 0; i < f.y_count; i++)
        cut = cut && f.y[i] == (f.dy[i] < 0 ? 0 : f.dy[i]);
    tap_ok(cut, "%s: ReLU", name);
    fixture_free(&f);
}

static void test_plain(void)
{
    const struct mabn_transposed_conv op = {1, 1, 1, 1, 1};
    const float x = 2, w[4] = {1, 2, 3, 4};
    float y[4], *scratch = malloc(mabn_transposed_conv_scratch_bytes(1));
    tap_status(mabn_transposed_conv_forward(y, &x, w, NULL, &op, false, scratch), "one position");
    tap_ok(y[0] == 2 && y[1] == 4 && y[2] == 6 && y[3] == 8, "rows first, no bias");
    free(scratch);
}

int main(void)
{
    mabn_rng_init(&rng, 15, MABN_RNG_TEST, 0, 0);
    test_plain();
    check((struct mabn_transposed_conv){0, 14, 14, 8, 4});
    check((struct mabn_transposed_conv){3, 5, 4, 7, 9});
    check((struct mabn_transposed_conv){11, 14, 14, 16, 3}); /* more than one portion */
    check((struct mabn_transposed_conv){1, 1, 3, 64, 128});
    return tap_done();
}
