/* For tests: the trajectories recorded from the authors' own layers, and the comparison with them.
 *
 * $MABN_GOLDEN names a folder with mabn_formal.h5, mabn_subbatch.h5 and cenconv2d.h5. Each
 * top-level group of a file is a case; shapes and settings are read from the file.
 *
 * Tolerance: |got − want| ≤ GOLDEN_TOLERANCE · scale. The scale is the largest magnitude in the
 * tensor of that iteration; for sums (gradients of gamma, beta, weights) it is the sum of the
 * magnitudes of the terms. The recordings are float32 themselves: each value is the end of a chain
 * of about ten roundings of 6e-8, and a sum of n terms carries up to sqrt(n) more. */
#ifndef MABN_TESTS_GOLDEN_H
#define MABN_TESTS_GOLDEN_H

#include "h5array.h"

#include "norm/norm.h"

#define GOLDEN_TOLERANCE 1e-6

/* ---- comparing ---- */

/* Largest error, in units of the scale. */
struct golden_worst {
    const char *what;
    double error;
    size_t row;
};

static inline void golden_compare(struct golden_worst *w, const char *what, const float *got,
                                  const float *want, size_t n, double scale, size_t row)
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

static inline void golden_judge(const char *name, const struct golden_worst *w, size_t count)
{
    for (size_t i = 0; i < count; i++)
        tap_ok(w[i].error <= GOLDEN_TOLERANCE, "%s: %s: largest error %.2e of scale, at row %zu",
               name, w[i].what, w[i].error, w[i].row);
}

/* ---- MABN ---- */

struct golden_case {
    struct h5array x, gy, y, gx, gweight, gbias, running_var, weight, bias, eval_x, eval_y;
    size_t n, c, hw;
};

static inline struct golden_case golden_read(hid_t g)
{
    struct golden_case k;
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

static inline void golden_free(struct golden_case *k)
{
    struct h5array *all[] = {&k->x,       &k->gy,     &k->y,           &k->gx,
                             &k->gweight, &k->gbias,  &k->running_var, &k->weight,
                             &k->bias,    &k->eval_x, &k->eval_y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->values);
}

/* Scale of the gradient sums of channel c: Σ |gy·(y−beta)/gamma| and Σ |gy|, largest channel. */
static inline void golden_sum_scales(double scale[2], const struct golden_case *k, size_t row)
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

/* Options of a case in mabn_formal.h5 or, `subbatch`, in mabn_subbatch.h5. */
static inline void golden_options(struct mabn_norm_options *o, hid_t g, bool subbatch)
{
    mabn_norm_options_init(o, MABN_NORM_MABN);
    o->window = (int)h5array_attribute(g, "buffer_size");
    o->eps = h5array_attribute(g, "eps");
    o->momentum = h5array_attribute(g, "momentum");
    o->window_rule = subbatch ? MABN_WINDOW_SUBBATCH : MABN_WINDOW_ITERATION;
    if (subbatch)
        o->norm_batch = (int)h5array_attribute(g, "norm_batch");
    else
        o->warmup = (int)h5array_attribute(g, "warmup_iters");
}

/* ---- centralized convolution ---- */

struct golden_conv {
    int64_t n, c, h, w, o, oh, ow, k, stride, pad, dilation, groups;
};

/* The three sums of a convolution differ only in which of three arrays is the output: y += x·w,
 * gx += gy·w, gw += gy·x. `size`: the same over magnitudes. */
enum golden_sum { GOLDEN_Y, GOLDEN_GX, GOLDEN_GW };

static inline void golden_conv_sum(double *out, double *size, const float *x, const float *w,
                                   const float *gy, const struct golden_conv *s,
                                   enum golden_sum which)
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
            const int64_t to = which == GOLDEN_Y ? i : which == GOLDEN_GX ? at : wt;
            const double term = which == GOLDEN_Y    ? (double)x[at] * w[wt]
                                : which == GOLDEN_GX ? (double)gy[i] * w[wt]
                                                     : (double)gy[i] * x[at];
            out[to] += term;
            size[to] += fabs(term);
        }
    }
}

struct golden_conv_case {
    struct h5array x, w, y, gy, gx, gw, bias; /* bias.values NULL: none */
    struct golden_conv shape;
};

static inline struct golden_conv_case golden_conv_read(hid_t g)
{
    struct golden_conv_case k;
    memset(&k, 0, sizeof k);
    k.x = h5array_read(g, "x");
    k.w = h5array_read(g, "weight");
    k.y = h5array_read(g, "y");
    k.gy = h5array_read(g, "gy");
    k.gx = h5array_read(g, "gx");
    k.gw = h5array_read(g, "gweight");
    if (h5array_attribute(g, "bias") != 0) k.bias = h5array_read(g, "bias");
    k.shape.n = (int64_t)k.x.shape[0];
    k.shape.c = (int64_t)k.x.shape[1];
    k.shape.h = (int64_t)k.x.shape[2];
    k.shape.w = (int64_t)k.x.shape[3];
    k.shape.o = (int64_t)k.y.shape[1];
    k.shape.oh = (int64_t)k.y.shape[2];
    k.shape.ow = (int64_t)k.y.shape[3];
    k.shape.k = (int64_t)h5array_attribute(g, "kernel");
    k.shape.stride = (int64_t)h5array_attribute(g, "stride");
    k.shape.pad = (int64_t)h5array_attribute(g, "padding");
    k.shape.dilation = (int64_t)h5array_attribute(g, "dilation");
    k.shape.groups = (int64_t)h5array_attribute(g, "groups");
    return k;
}

static inline void golden_conv_free(struct golden_conv_case *k)
{
    struct h5array *all[] = {&k->x, &k->w, &k->y, &k->gy, &k->gx, &k->gw, &k->bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->values);
}

/* One of the three sums with the centralized weight `w`, compared with the recording. `centralize`
 * is the backend's function that subtracts the row means from the weight's gradient. */
static inline void golden_conv_check(struct golden_worst *worst, const char *what,
                                     const struct golden_conv_case *k, const float *w,
                                     enum golden_sum which,
                                     void (*centralize)(float *gw, int64_t outputs, int64_t filter))
{
    const struct golden_conv *s = &k->shape;
    const struct h5array *want = which == GOLDEN_Y ? &k->y : which == GOLDEN_GX ? &k->gx : &k->gw;
    double *out = (double *)calloc(want->count, sizeof *out);
    double *size = (double *)calloc(want->count, sizeof *size);
    float *got = (float *)calloc(want->count, sizeof *got);
    double scale = 0;

    golden_conv_sum(out, size, k->x.values, w, k->gy.values, s, which);
    for (size_t i = 0; i < want->count; i++) {
        if (which == GOLDEN_Y && k->bias.values)
            out[i] += k->bias.values[(int64_t)i / (s->oh * s->ow) % s->o];
        got[i] = (float)out[i];
        scale = fmax(scale, size[i]);
    }
    if (which == GOLDEN_GW) centralize(got, s->o, (int64_t)want->count / s->o);
    golden_compare(worst, what, got, want->values, want->count, scale, 0);
    free(out);
    free(size);
    free(got);
}

/* ---- files ---- */

typedef void (*golden_check)(hid_t group, const char *name);

struct golden_visit {
    golden_check check;
    const char *file;
    int cases;
};

static inline herr_t golden_visit_case(hid_t file, const char *name, const H5L_info_t *info,
                                       void *context)
{
    struct golden_visit *v = (struct golden_visit *)context;
    char label[300];
    hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
    (void)info;
    snprintf(label, sizeof label, "%s %s", v->file, name);
    v->check(group, label);
    v->cases++;
    H5Gclose(group);
    return 0;
}

static inline void golden_file(const char *folder, const char *name, golden_check check)
{
    struct golden_visit v = {check, name, 0};
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (!tap_ok(file >= 0, "open %s", path)) return;
    H5Literate(file, H5_INDEX_NAME, H5_ITER_INC, NULL, golden_visit_case, &v);
    tap_ok(v.cases > 0, "%s: %d cases", name, v.cases);
    H5Fclose(file);
}

/* The folder; NULL, after printing a skip, when there is none. */
static inline const char *golden_folder(void)
{
    const char *folder = getenv("MABN_GOLDEN");
    if (folder && *folder) return folder;
    tap_skip("MABN_GOLDEN is not set: the authors' trajectories were not compared");
    return NULL;
}

#endif
