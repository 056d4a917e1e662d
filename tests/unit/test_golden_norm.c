/* Trajectories recorded from the authors' own layers, matched to float32 rounding.
 *
 * $MABN_GOLDEN names a folder with mabn_formal.h5, mabn_subbatch.h5 and cenconv2d.h5; every
 * top-level group is a case, shapes and settings are read from the file.
 *
 * Tolerance: |got − want| ≤ TOLERANCE · scale, where scale is the largest magnitude in the tensor
 * of that iteration, and for sums (gradients of gamma, beta, weights) the sum of the magnitudes of
 * its terms. The recorded side is float32 itself: each of its values is the end of a chain of about
 * ten roundings of 6e-8, and its sums of n terms carry up to sqrt(n) more. */
#include "h5array.h"

#include "norm/norm.h"
#include "ops/centralize.h"

#define TOLERANCE 1e-6

/* ---- comparing ---- */

/* Largest error, in units of the scale. */
struct worst {
    const char *what;
    double error;
    size_t row;
};

static void compare(struct worst *w, const char *what, const float *got, const float *want,
                    size_t n, double scale, size_t row)
{
    w->what = what;
    if (scale == 0)
        for (size_t i = 0; i < n; i++)
            scale = fmax(scale, fabs(want[i]));
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]) / (scale > 0 ? scale : 1);
        if (!(e <= w->error)) {
            w->error = e;
            w->row = row;
        }
    }
}

static void judge(const char *name, const struct worst *w, size_t count)
{
    for (size_t i = 0; i < count; i++)
        tap_ok(w[i].error <= TOLERANCE, "%s: %s: largest error %.2e of scale, at row %zu", name,
               w[i].what, w[i].error, w[i].row);
}

/* ---- MABN ---- */

struct mabn_case {
    struct h5array x, gy, y, gx, gweight, gbias, running_var, weight, bias, eval_x, eval_y;
    size_t n, c, hw;
};

static struct mabn_case read_case(hid_t g)
{
    struct mabn_case k;
    k.x = h5array_read(g, "x");
    k.gy = h5array_read(g, "gy");
    k.y = h5array_read(g, "y");
    k.gx = h5array_read(g, "gx");
    k.gweight = h5array_read(g, "gweight");
    k.gbias = h5array_read(g, "gbias");
    k.running_var = h5array_read(g, "running_var");
    k.weight = h5array_read(g, "weight");
    k.bias = h5array_read(g, "bias");
    k.eval_x = h5array_read(g, "eval_x");
    k.eval_y = h5array_read(g, "eval_y");
    k.n = k.x.shape[1];
    k.c = k.x.shape[2];
    k.hw = k.x.count / (k.x.shape[0] * k.n * k.c);
    return k;
}

static void free_case(struct mabn_case *k)
{
    struct h5array *all[] = {&k->x,       &k->gy,     &k->y,           &k->gx,
                             &k->gweight, &k->gbias,  &k->running_var, &k->weight,
                             &k->bias,    &k->eval_x, &k->eval_y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->values);
}

/* Scale of the gradient sums of channel c: Σ |gy·(y−beta)/gamma| and Σ |gy|, largest channel. */
static void sum_scales(double scale[2], const struct mabn_case *k, size_t row)
{
    const size_t one = k->n * k->c * k->hw;
    scale[0] = scale[1] = 0;
    for (size_t c = 0; c < k->c; c++) {
        double gamma = 0, beta = 0;
        for (size_t i = 0; i < k->n; i++)
            for (size_t p = 0; p < k->hw; p++) {
                size_t at = row * one + (i * k->c + c) * k->hw + p;
                double z = (k->y.values[at] - k->bias.values[c]) / k->weight.values[c];
                gamma += fabs(k->gy.values[at] * z);
                beta += fabs(k->gy.values[at]);
            }
        scale[0] = fmax(scale[0], gamma);
        scale[1] = fmax(scale[1], beta);
    }
}

static float *running_var(const struct mabn_norm *norm, void *state)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(norm, state, list);
    for (int i = 0; i < count; i++)
        if (!strcmp(list[i].name, "running_var")) return list[i].data;
    return NULL;
}

static void run_trajectory(const char *name, const struct mabn_norm_options *options,
                           const struct mabn_case *k)
{
    const size_t one = k->n * k->c * k->hw, rows = k->x.shape[0];
    const size_t eval_n = k->eval_x.shape[0], eval = k->eval_x.count;
    const size_t most = one > eval ? one : eval;
    struct worst w[6] = {{0}};
    struct mabn_norm norm;
    float *buf[6], *dgamma = calloc(k->c, sizeof(float)), *dbeta = calloc(k->c, sizeof(float));

    tap_status(mabn_norm_init(&norm, options, (int)k->c), "%s: options", name);
    for (int i = 0; i < 6; i++)
        buf[i] = calloc(most, sizeof(float));
    const int64_t n_most = (int64_t)(k->n > eval_n ? k->n : eval_n);
    struct mabn_norm_io io = {.samples = (int64_t)k->n,
                              .positions = (int64_t)k->hw,
                              .gamma = k->weight.values,
                              .beta = k->bias.values,
                              .state = malloc(mabn_norm_state_bytes(&norm)),
                              .saved = malloc(mabn_norm_saved_bytes(&norm, n_most)),
                              .x = buf[0],
                              .y = buf[1],
                              .dy = buf[2],
                              .dx = buf[3],
                              .dgamma = dgamma,
                              .dbeta = dbeta};
    io.scratch = malloc(mabn_norm_scratch_bytes(&norm, n_most, io.positions));
    mabn_norm_state_reset(&norm, io.state);

    for (size_t row = 0; row < rows; row++) {
        double scale[2];
        to_nhwc(buf[0], k->x.values + row * one, k->n, k->c, k->hw);
        to_nhwc(buf[2], k->gy.values + row * one, k->n, k->c, k->hw);
        if (mabn_norm_forward(&norm, &io) || mabn_norm_backward(&norm, &io)) {
            tap_ok(0, "%s: %s", name, mabn_error_message());
            break;
        }
        sum_scales(scale, k, row);
        to_nchw(buf[4], buf[1], k->n, k->c, k->hw);
        compare(&w[0], "y", buf[4], k->y.values + row * one, one, 0, row);
        to_nchw(buf[4], buf[3], k->n, k->c, k->hw);
        compare(&w[1], "gx", buf[4], k->gx.values + row * one, one, 0, row);
        compare(&w[2], "gweight", dgamma, k->gweight.values + row * k->c, k->c, scale[0], row);
        compare(&w[3], "gbias", dbeta, k->gbias.values + row * k->c, k->c, scale[1], row);
        compare(&w[4], "running_var", running_var(&norm, io.state),
                k->running_var.values + row * k->c, k->c, 0, row);
    }
    io.samples = (int64_t)eval_n;
    to_nhwc(buf[0], k->eval_x.values, eval_n, k->c, k->hw);
    tap_status(mabn_norm_infer(&norm, &io), "%s: inference", name);
    to_nchw(buf[4], buf[1], eval_n, k->c, k->hw);
    compare(&w[5], "eval_y", buf[4], k->eval_y.values, eval, 0, 0);
    judge(name, w, 6);

    for (int i = 0; i < 6; i++)
        free(buf[i]);
    free(dgamma);
    free(dbeta);
    free(io.state);
    free(io.saved);
    free(io.scratch);
}

static void mabn_common(struct mabn_norm_options *o, hid_t g)
{
    mabn_norm_options_init(o, MABN_NORM_MABN);
    o->window = (int)h5array_attribute(g, "buffer_size");
    o->eps = h5array_attribute(g, "eps");
    o->momentum = h5array_attribute(g, "momentum");
}

static void check_formal(hid_t g, const char *name)
{
    struct mabn_norm_options o;
    struct mabn_case k = read_case(g);
    mabn_common(&o, g);
    o.window_rule = MABN_WINDOW_ITERATION;
    o.warmup = (int)h5array_attribute(g, "warmup_iters");
    run_trajectory(name, &o, &k);
    free_case(&k);
}

static void check_subbatch(hid_t g, const char *name)
{
    struct mabn_norm_options o;
    struct mabn_case k = read_case(g);
    mabn_common(&o, g);
    o.window_rule = MABN_WINDOW_SUBBATCH;
    o.norm_batch = (int)h5array_attribute(g, "norm_batch");
    run_trajectory(name, &o, &k);
    free_case(&k);
}

/* ---- centralized convolution ---- */

struct conv {
    int64_t n, c, h, w, o, oh, ow, k, stride, pad, dilation, groups;
};

/* The three sums of a convolution differ only in which of three arrays is the output: y += x·w,
 * gx += gy·w, gw += gy·x. `size`: the same over magnitudes. */
enum sum { SUM_Y, SUM_GX, SUM_GW };

static void conv_sum(double *out, double *size, const float *x, const float *w, const float *gy,
                     const struct conv *s, enum sum which)
{
    const int64_t in = s->c / s->groups, per = s->o / s->groups;
    for (int64_t i = 0; i < s->n * s->o * s->oh * s->ow; i++) {
        const int64_t ox = i % s->ow, oy = i / s->ow % s->oh, o = i / s->ow / s->oh % s->o;
        const int64_t n = i / s->ow / s->oh / s->o;
        for (int64_t j = 0; j < in * s->k * s->k; j++) {
            const int64_t kx = j % s->k, ky = j / s->k % s->k, c = j / s->k / s->k;
            const int64_t iy = oy * s->stride - s->pad + ky * s->dilation;
            const int64_t ix = ox * s->stride - s->pad + kx * s->dilation;
            if (iy < 0 || iy >= s->h || ix < 0 || ix >= s->w) continue;
            const int64_t at = ((n * s->c + o / per * in + c) * s->h + iy) * s->w + ix;
            const int64_t wt = o * in * s->k * s->k + j;
            const int64_t to = which == SUM_Y ? i : which == SUM_GX ? at : wt;
            const double term = which == SUM_Y    ? (double)x[at] * w[wt]
                                : which == SUM_GX ? (double)gy[i] * w[wt]
                                                  : (double)gy[i] * x[at];
            out[to] += term;
            size[to] += fabs(term);
        }
    }
}

static void check_sum(struct worst *worst, const char *what, const float *x, const float *w,
                      const float *gy, const float *bias, const struct h5array *want,
                      const struct conv *s, enum sum which)
{
    double *out = calloc(want->count, sizeof *out), *size = calloc(want->count, sizeof *size);
    float *got = calloc(want->count, sizeof *got);
    double scale = 0;

    conv_sum(out, size, x, w, gy, s, which);
    for (size_t i = 0; i < want->count; i++) {
        if (bias) out[i] += bias[(int64_t)i / (s->oh * s->ow) % s->o];
        got[i] = (float)out[i];
        scale = fmax(scale, size[i]);
    }
    if (which == SUM_GW) mabn_centralize_backward(got, got, s->o, (int64_t)want->count / s->o);
    compare(worst, what, got, want->values, want->count, scale, 0);
    free(out);
    free(size);
    free(got);
}

static void check_cenconv(hid_t g, const char *name)
{
    struct h5array x = h5array_read(g, "x"), w = h5array_read(g, "weight"),
                   y = h5array_read(g, "y");
    struct h5array gy = h5array_read(g, "gy"), gx = h5array_read(g, "gx"),
                   gw = h5array_read(g, "gweight");
    const bool has_bias = h5array_attribute(g, "bias") != 0;
    struct h5array bias = {0};
    struct worst worst[3] = {{0}};
    const struct conv s = {.n = (int64_t)x.shape[0],
                           .c = (int64_t)x.shape[1],
                           .h = (int64_t)x.shape[2],
                           .w = (int64_t)x.shape[3],
                           .o = (int64_t)y.shape[1],
                           .oh = (int64_t)y.shape[2],
                           .ow = (int64_t)y.shape[3],
                           .k = (int64_t)h5array_attribute(g, "kernel"),
                           .stride = (int64_t)h5array_attribute(g, "stride"),
                           .pad = (int64_t)h5array_attribute(g, "padding"),
                           .dilation = (int64_t)h5array_attribute(g, "dilation"),
                           .groups = (int64_t)h5array_attribute(g, "groups")};
    float *effective = calloc(w.count, sizeof(float));

    if (has_bias) bias = h5array_read(g, "bias");
    mabn_centralize(effective, w.values, s.o, (int64_t)w.count / s.o);
    check_sum(&worst[0], "y", x.values, effective, gy.values, bias.values, &y, &s, SUM_Y);
    check_sum(&worst[1], "gx", x.values, effective, gy.values, NULL, &gx, &s, SUM_GX);
    check_sum(&worst[2], "gweight", x.values, effective, gy.values, NULL, &gw, &s, SUM_GW);
    judge(name, worst, 3);

    free(effective);
    struct h5array *all[] = {&x, &w, &y, &gy, &gx, &gw, &bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->values);
}

/* ---- files ---- */

typedef void (*check_fn)(hid_t group, const char *name);

struct visit {
    check_fn check;
    const char *file;
    int cases;
};

static herr_t visit_case(hid_t file, const char *name, const H5L_info_t *info, void *context)
{
    struct visit *v = context;
    char label[300];
    hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
    (void)info;
    snprintf(label, sizeof label, "%s %s", v->file, name);
    v->check(group, label);
    v->cases++;
    H5Gclose(group);
    return 0;
}

static void check_file(const char *folder, const char *name, check_fn check)
{
    struct visit v = {check, name, 0};
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (!tap_ok(file >= 0, "open %s", path)) return;
    H5Literate(file, H5_INDEX_NAME, H5_ITER_INC, NULL, visit_case, &v);
    tap_ok(v.cases > 0, "%s: %d cases", name, v.cases);
    H5Fclose(file);
}

int main(void)
{
    const char *folder = getenv("MABN_GOLDEN");
    if (!folder || !*folder) {
        tap_skip("MABN_GOLDEN is not set: the authors' trajectories were not compared");
        return tap_done();
    }
    check_file(folder, "mabn_formal.h5", check_formal);
    check_file(folder, "mabn_subbatch.h5", check_subbatch);
    check_file(folder, "cenconv2d.h5", check_cenconv);
    return tap_done();
}
