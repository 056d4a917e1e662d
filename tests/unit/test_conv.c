/* Convolution and linear layers against plain loops in double, over odd shapes: forward, fused
 * inference, both backwards, adding and overwriting; and their gradients by finite differences. */
#include <unistd.h>

#include "base/mem.h"
#include "draw.h"
#include "device/tune.h"
#include "ops/centralize.h"
#include "ops/conv.h"
#include "ops/linear.h"
#include "tap.h"

static struct mabn_device *device;

struct layer {
    struct mabn_conv_shape s;
    int64_t oh, ow;
    size_t nx, ny, nw;
    float *x, *w, *b, *dy;
};

static void layer_init(struct layer *l, struct mabn_conv_shape s)
{
    l->s = s;
    l->oh = mabn_conv_out(s.h, s.kernel, s.stride, s.pad);
    l->ow = mabn_conv_out(s.w, s.kernel, s.stride, s.pad);
    l->nx = (size_t)(s.n * s.h * s.w * s.in);
    l->ny = (size_t)(s.n * l->oh * l->ow * s.out);
    l->nw = (size_t)(s.out * s.kernel * s.kernel * s.in);
    l->x = draw_uniform(l->nx, 1);
    l->w = draw_uniform(l->nw, 2);
    l->b = draw_uniform((size_t)s.out, 3);
    l->dy = draw_uniform(l->ny, 4);
}

static void layer_release(struct layer *l)
{
    free(l->x);
    free(l->w);
    free(l->b);
    free(l->dy);
}

/* One walk over every product of the convolution: y += x·w, dx += dy·w, dw += dy·x. */
static void reference(const struct layer *l, double *y, double *dx, double *dw)
{
    const struct mabn_conv_shape *s = &l->s;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t oy = 0; oy < l->oh; oy++)
            for (int64_t ox = 0; ox < l->ow; ox++)
                for (int64_t ky = 0; ky < s->kernel; ky++)
                    for (int64_t kx = 0; kx < s->kernel; kx++) {
                        int64_t iy = oy * s->stride + ky - s->pad,
                                ix = ox * s->stride + kx - s->pad;
                        if (iy < 0 || ix < 0 || iy >= s->h || ix >= s->w) continue;
                        size_t xi = (size_t)(((n * s->h + iy) * s->w + ix) * s->in);
                        size_t yi = (size_t)(((n * l->oh + oy) * l->ow + ox) * s->out);
                        for (int64_t o = 0; o < s->out; o++)
                            for (int64_t i = 0; i < s->in; i++) {
                                size_t wi =
                                    (size_t)(((o * s->kernel + ky) * s->kernel + kx) * s->in + i);
                                double g = l->dy[yi + (size_t)o];
                                y[yi + (size_t)o] += (double)l->x[xi + (size_t)i] * l->w[wi];
                                dx[xi + (size_t)i] += g * l->w[wi];
                                dw[wi] += g * l->x[xi + (size_t)i];
                            }
                    }
}

/* Largest error, relative to the size of the sums behind the values. */
static double worst(const float *got, const double *want, size_t n, double scale)
{
    double e = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]) / scale;
        if (!(d <= e)) e = d;
    }
    return e;
}

/* With the filters' means: as with weights that have lost them before, to the last bit. */
static void check_means(struct mabn_conv *conv, const struct layer *l, const float *bias,
                        void *scratch, const char *name)
{
    const int64_t filter = (int64_t)l->nw / l->s.out;
    float *means = draw_uniform((size_t)l->s.out, 6);
    float *less = mabn_xcalloc(l->nw, sizeof *less);
    float *y[2], *dx[2];
    mabn_status s[2];
    mabn_subtract_means(less, l->w, means, l->s.out, filter);
    for (int given = 0; given < 2; given++) {
        const float *w = given ? l->w : less, *m = given ? means : NULL;
        y[given] = mabn_xcalloc(l->ny, sizeof **y);
        dx[given] = mabn_xcalloc(l->nx, sizeof **dx);
        s[given] = mabn_conv_forward(conv, y[given], l->x, w, m, bias, scratch);
        if (!s[given])
            s[given] = mabn_conv_backward_data(conv, dx[given], l->dy, w, m, false, scratch);
    }
    tap_ok(!s[0] && !s[1] && !memcmp(y[0], y[1], l->ny * sizeof **y) &&
               !memcmp(dx[0], dx[1], l->nx * sizeof **dx),
           "%s: less the filters' means", name);
    mabn_filter_means(means, l->w, l->s.out, filter);
    double e = 0;
    for (int64_t o = 0; o < l->s.out; o++) {
        double sum = 0;
        for (int64_t i = 0; i < filter; i++)
            sum += l->w[o * filter + i];
        e = fmax(e, fabs(means[o] - sum / (double)filter));
    }
    tap_ok(e < 1e-7, "%s: the means, off by %.1e", name, e);
    for (int given = 0; given < 2; given++) {
        free(y[given]);
        free(dx[given]);
    }
    free(means);
    free(less);
}

static void check_training(const struct layer *l, const double *y, const double *dx,
                           const double *dw, const char *name, bool bias, double tolerance)
{
    struct mabn_conv *conv;
    struct mabn_conv_options options = {.training = true, .bias = bias, .centralize = true};
    tap_status(mabn_conv_new(&conv, device, &l->s, &options), "%s: prepare", name);
    if (!conv) return;
    void *scratch;
    mabn_status s = mabn_device_scratch(device, &scratch, mabn_conv_scratch_bytes(conv));
    float *fy = mabn_xcalloc(l->ny, sizeof *fy), *fdx = mabn_xcalloc(l->nx, sizeof *fdx);
    float *fdw = mabn_xcalloc(l->nw, sizeof *fdw),
          *fdb = mabn_xcalloc((size_t)l->s.out, sizeof *fdb);
    double *want = mabn_xcalloc(l->ny > l->nx ? l->ny : l->nx, sizeof *want);
    double area = (double)(l->s.kernel * l->s.kernel), out = (double)(l->oh * l->ow * l->s.n);
    if (!s) s = mabn_conv_forward(conv, fy, l->x, l->w, NULL, bias ? l->b : NULL, scratch);
    for (size_t i = 0; i < l->ny; i++)
        want[i] = y[i] + (bias ? (double)l->b[i % (size_t)l->s.out] : 0);
    tap_ok(!s && worst(fy, want, l->ny, sqrt(area * (double)l->s.in)) < tolerance, "%s: forward",
           name);
    s = mabn_conv_backward_data(conv, fdx, l->dy, l->w, NULL, false, scratch);
    double scale = sqrt(area * (double)l->s.out);
    tap_ok(!s && worst(fdx, dx, l->nx, scale) < tolerance, "%s: to data", name);
    s = mabn_conv_backward_data(conv, fdx, l->dy, l->w, NULL, true, scratch);
    for (size_t i = 0; i < l->nx; i++)
        want[i] = 2 * dx[i];
    tap_ok(!s && worst(fdx, want, l->nx, scale) < 2 * tolerance, "%s: to data, adding", name);
    s = mabn_conv_backward_weights(conv, fdw, bias ? fdb : NULL, l->x, l->dy, scratch);
    tap_ok(!s && worst(fdw, dw, l->nw, sqrt(out)) < tolerance, "%s: to weights", name);
    double sum = 0;
    for (size_t i = 0; i < l->ny; i += (size_t)l->s.out)
        sum += l->dy[i];
    tap_ok(!bias || fabs(fdb[0] - sum) < 1e-4 * sqrt(out), "%s: to bias", name);
    check_means(conv, l, bias ? l->b : NULL, scratch, name);
    free(fy);
    free(fdx);
    free(fdw);
    free(fdb);
    free(want);
    mabn_conv_free(conv);
}

static void check_inference(const struct layer *l, const double *y, const char *name, bool add,
                            double tolerance)
{
    struct mabn_conv *conv;
    struct mabn_conv_options options = {.bias = true, .add = add, .relu = true};
    tap_status(mabn_conv_new(&conv, device, &l->s, &options), "%s: prepare inference", name);
    if (!conv) return;
    void *scratch, *packed;
    mabn_status s = mabn_device_scratch(device, &scratch, mabn_conv_scratch_bytes(conv));
    if (!s) s = mabn_alloc_zero(&packed, mabn_conv_packed_bytes(conv));
    float *before = draw_uniform(l->ny, 5), *fy = draw_uniform(l->ny, 5);
    double *want = mabn_xcalloc(l->ny, sizeof *want);
    for (size_t i = 0; i < l->ny; i++)
        want[i] =
            fmax(0, y[i] + (double)l->b[i % (size_t)l->s.out] + (add ? (double)before[i] : 0));
    if (!s) s = mabn_conv_pack(conv, packed, l->w, scratch);
    if (!s) s = mabn_conv_infer(conv, fy, l->x, packed, l->b, scratch);
    tap_ok(!s && worst(fy, want, l->ny, (double)l->s.kernel * sqrt((double)l->s.in)) < tolerance,
           "%s: inference%s", name, add ? ", adding" : "");
    free(before);
    free(fy);
    free(want);
    mabn_free(packed);
    mabn_conv_free(conv);
}

static void check_shape(struct mabn_conv_shape s, const char *name, double tolerance)
{
    struct layer l;
    layer_init(&l, s);
    double *y = mabn_xcalloc(l.ny, sizeof *y), *dx = mabn_xcalloc(l.nx, sizeof *dx);
    double *dw = mabn_xcalloc(l.nw, sizeof *dw);
    reference(&l, y, dx, dw);
    check_training(&l, y, dx, dw, name, s.kernel == 7, tolerance);
    check_inference(&l, y, name, false, tolerance);
    check_inference(&l, y, name, true, tolerance);
    free(y);
    free(dx);
    free(dw);
    layer_release(&l);
}

static void check_linear(void)
{
    enum { N = 5, I = 7, O = 3 };
    float *x = draw_uniform(N * I, 1), *w = draw_uniform(O * I, 2), *b = draw_uniform(O, 3);
    float *dy = draw_uniform(N * O, 4), y[N * O], dx[N * I], dw[O * I], db[O];
    tap_status(mabn_linear_forward(y, x, w, b, N, I, O), "linear: forward");
    tap_status(mabn_linear_backward_data(dx, dy, w, N, I, O, false), "linear: to data");
    tap_status(mabn_linear_backward_weights(dw, db, x, dy, N, I, O), "linear: to weights");
    /* loss = Σ dy·y is linear in each argument, so a difference of any size is exact. */
    struct {
        float *value;
        const float *gradient;
        int count;
        const char *name;
    } checks[] = {{x, dx, N * I, "x"}, {w, dw, O * I, "weight"}, {b, db, O, "bias"}};
    for (int k = 0; k < 3; k++) {
        double error = 0;
        for (int i = 0; i < checks[k].count; i++) {
            double loss[2] = {0};
            for (int side = 0; side < 2; side++) {
                checks[k].value[i] += side ? -1.0f : 0.5f;
                mabn_status s = mabn_linear_forward(y, x, w, b, N, I, O);
                for (int j = 0; !s && j < N * O; j++)
                    loss[side] += (double)y[j] * dy[j];
            }
            checks[k].value[i] += 0.5f;
            error = fmax(error, fabs(loss[0] - loss[1] - checks[k].gradient[i]));
        }
        tap_ok(error < 1e-5, "linear: gradient of %s by differences (%.1e)", checks[k].name, error);
    }
    free(x);
    free(w);
    free(b);
    free(dy);
}

/* ---- choices by time ---- */

static void put_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f)) abort();
}

/* Every strategy of every pass, forced by a file, agrees with the plain loops. */
static void check_way(const char *way, struct mabn_conv_shape s, const char *path)
{
    static const char *const passes[] = {"forward", "to-data", "to-weights", "inference"};
    struct mabn_device *tuned;
    struct mabn_conv *conv;
    struct layer l;
    char text[2000] = "# mabn tune 1\n";
    char machine[300] = "";

    layer_init(&l, s);
    /* The machine's name, as the first tuning writes it. */
    remove(path);
    tap_status(mabn_device_new(&tuned, MABN_DEVICE_CPU, 1), "a device");
    tap_status(mabn_device_tune(tuned, true), "a device that times");
    const struct mabn_conv_options train = {.training = true, .centralize = true, .tune = true};
    tap_status(mabn_conv_new(&conv, tuned, &s, &train), "timed");
    mabn_conv_free(conv);
    tap_status(mabn_tune_save(mabn_device_tuning(tuned)), "saved");
    mabn_device_free(tuned);
    FILE *f = fopen(path, "r");
    if (!tap_ok(f && fgets(machine, sizeof machine, f) && fgets(machine, sizeof machine, f),
                "a choice is written"))
        return;
    fclose(f);
    *strchr(machine, '\t') = 0;
    for (int i = 0; i < 3; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text),
                 "%s\t%s float32 float32-float32 %dx%dx%dx%d-%d k%d s%d p%d\t%s\n", machine,
                 passes[i], (int)s.n, (int)s.h, (int)s.w, (int)s.in, (int)s.out, s.kernel, s.stride,
                 s.pad, !i && !strcmp(way, "matrix") ? "direct" : way);
    put_text(path, text);

    double *y = mabn_xcalloc(l.ny, sizeof *y), *dx = mabn_xcalloc(l.nx, sizeof *dx),
           *dw = mabn_xcalloc(l.nw, sizeof *dw);
    float *got = mabn_xcalloc(l.ny + l.nx + l.nw, sizeof *got);
    void *scratch;
    reference(&l, y, dx, dw);
    tap_status(mabn_device_new(&tuned, MABN_DEVICE_CPU, 1), "a device");
    tap_status(mabn_device_tune(tuned, false), "a device that reads");
    tap_status(mabn_conv_new(&conv, tuned, &s, &train), "%s by the file", way);
    tap_status(mabn_device_scratch(tuned, &scratch, mabn_conv_scratch_bytes(conv) + 64), "scratch");
    tap_status(mabn_conv_forward(conv, got, l.x, l.w, NULL, NULL, scratch), "%s forward", way);
    double e = worst(got, y, l.ny, sqrt((double)(s.in * s.kernel * s.kernel)));
    tap_ok(e < 1e-5, "%s forward: %.1e", way, e);
    tap_status(mabn_conv_backward_data(conv, got, l.dy, l.w, NULL, false, scratch), "%s to data",
               way);
    e = worst(got, dx, l.nx, sqrt((double)(s.out * s.kernel * s.kernel)));
    tap_ok(e < 1e-5, "%s to data: %.1e", way, e);
    tap_status(mabn_conv_backward_weights(conv, got, NULL, l.x, l.dy, scratch), "%s to weights",
               way);
    e = worst(got, dw, l.nw, sqrt((double)(s.n * l.oh * l.ow)));
    tap_ok(e < 1e-5, "%s to weights: %.1e", way, e);
    check_means(conv, &l, NULL, scratch, way);
    mabn_conv_free(conv);
    mabn_device_free(tuned);
    free(y);
    free(dx);
    free(dw);
    free(got);
    layer_release(&l);
}

static void test_tune(void)
{
    char path[] = "/tmp/mabn-tune-XXXXXX";
    struct mabn_tune *tune;
    const int fd = mkstemp(path);
    if (!tap_ok(fd >= 0, "a file")) return;
    close(fd);
    setenv("MABN_TUNE_FILE", path, 1);
    const struct mabn_conv_shape small = {2, 9, 7, 32, 48, 3, 1, 1},
                                 strided = {2, 9, 7, 32, 48, 3, 2, 1},
                                 one = {2, 6, 5, 24, 40, 1, 1, 0};
    check_way("direct", small, path);
    check_way("blocked", small, path);
    check_way("winograd", small, path);
    check_way("implicit", small, path);
    check_way("implicit", strided, path);
    check_way("direct", one, path);
    check_way("blocked", one, path);
    check_way("matrix", one, path);

    put_text(path, "# mabn tune 1\nm\tkey\tdirect\nother\tkey\tblocked\n");
    tap_status(mabn_tune_open(&tune, path, "m"), "open");
    tap_str_eq(mabn_tune_find(tune, "key"), "direct", "the machine's own choice");
    tap_ok(!mabn_tune_find(tune, "another"), "no such choice");
    mabn_tune_add(tune, "another", "matrix");
    tap_status(mabn_tune_save(tune), "save");
    mabn_tune_free(tune);
    tap_status(mabn_tune_open(&tune, path, "other"), "open as another machine");
    tap_str_eq(mabn_tune_find(tune, "key"), "blocked", "another machine's lines are kept");
    tap_ok(!mabn_tune_find(tune, "another"), "and no other's are its own");
    mabn_tune_free(tune);
    put_text(path, "# mabn tune 1\nm\tkey\n");
    tap_fails(mabn_tune_open(&tune, path, "m"), MABN_ERR_FORMAT, "line 2", "a line of two fields");
    put_text(path, "something else\n");
    tap_fails(mabn_tune_open(&tune, path, "m"), MABN_ERR_FORMAT, "line 1", "another file");
    remove(path);
    unsetenv("MABN_TUNE_FILE");
}

int main(void)
{
    tap_status(mabn_device_new(&device, MABN_DEVICE_CPU, 2), "device");
    check_shape((struct mabn_conv_shape){2, 19, 17, 3, 16, 7, 2, 3}, "7×7/2, 3→16", 1e-5);
    check_shape((struct mabn_conv_shape){2, 9, 9, 1, 16, 3, 1, 1}, "3×3, 1→16", 1e-5);
    check_shape((struct mabn_conv_shape){1, 8, 7, 16, 32, 3, 2, 1}, "3×3/2, 16→32", 1e-5);
    check_shape((struct mabn_conv_shape){3, 6, 5, 16, 48, 1, 1, 0}, "1×1, 16→48", 1e-5);
    check_shape((struct mabn_conv_shape){2, 7, 7, 32, 16, 1, 2, 0}, "1×1/2, 32→16", 1e-5);
    check_shape((struct mabn_conv_shape){1, 8, 8, 4, 8, 1, 2, 0}, "1×1/2, 4→8", 1e-5);
    check_shape((struct mabn_conv_shape){8, 16, 16, 4, 8, 1, 2, 0}, "1×1/2, 4→8, eight", 1e-5);
    check_shape((struct mabn_conv_shape){1, 16, 16, 5, 10, 1, 2, 0}, "1×1/2, 5→10", 1e-5);
    check_shape((struct mabn_conv_shape){2, 5, 5, 5, 7, 3, 1, 1}, "3×3, 5→7", 1e-5);
    check_shape((struct mabn_conv_shape){2, 9, 10, 64, 64, 3, 1, 1}, "3×3, 64→64", 3e-5);
    struct mabn_conv *conv;
    tap_fails(mabn_conv_new(&conv, device, &(struct mabn_conv_shape){1, 2, 2, 4, 4, 7, 1, 0},
                            &(struct mabn_conv_options){.training = true}),
              MABN_ERR_ARG, "does not fit", "a kernel larger than its input");
    check_linear();
    test_tune();
    mabn_device_free(device);
    return tap_done();
}
