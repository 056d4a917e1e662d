/* The normalization engine, compared with definitions written out in double, with PyTorch's layers,
 * with finite differences, and with its own other methods of computing the same. */
#include "h5array.h"

#include <omp.h>

#include "base/rng.h"
#include "norm/norm.h"
#include "tensor/bf16.h"

/* ---- a layer with its memory ---- */

struct layer {
    struct mabn_norm norm;
    struct mabn_norm_io io;
    size_t count; /* values of x */
    float *x, *y, *residual, *dy, *dx, *dresidual, *gamma, *beta, *dgamma, *dbeta, *act, *dact;
};

static struct mabn_rng rng;

static float *draw(size_t count, double mean, double deviation)
{
    float *v = malloc((count + 1) * sizeof *v);
    for (size_t i = 0; i < count; i++) /* large arrays repeat, because drawing takes longer than the
                                        * test */
        v[i] = i < 4093 ? (float)(mean + deviation * mabn_rng_normal(&rng)) : v[i - 4093];
    return v;
}

static void layer_new(struct layer *l, const struct mabn_norm_options *o, int64_t n, int64_t hw,
                      int c, bool relu, bool residual)
{
    memset(l, 0, sizeof *l);
    if (mabn_norm_init(&l->norm, o, c)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    l->count = (size_t)(n * hw * c);
    l->x = draw(l->count, 0.3, 1);
    l->y = draw(l->count, 0, 1);
    l->residual = draw(l->count, 0, 1);
    l->dy = draw(l->count, 0.1, 1);
    l->dx = draw(l->count, 0, 1);
    l->dresidual = draw(l->count, 0, 1);
    l->gamma = draw((size_t)c, 1, 0.5);
    l->beta = draw((size_t)c, 0, 0.5);
    l->dgamma = draw((size_t)c, 0, 1);
    l->dbeta = draw((size_t)c, 0, 1);
    l->act = draw((size_t)c, o->kind == MABN_NORM_FRN ? -0.1 : 1, 0.3);
    l->dact = draw((size_t)c, 0, 1);
    l->io.samples = n;
    l->io.positions = hw;
    l->io.relu = relu;
    l->io.gamma = l->gamma;
    l->io.beta = l->beta;
    if (posix_memalign(&l->io.state, 64, mabn_norm_state_bytes(&l->norm) + 64) ||
        posix_memalign(&l->io.saved, 64, mabn_norm_saved_bytes(&l->norm, n) + 64) ||
        posix_memalign(&l->io.scratch, 64, mabn_norm_scratch_bytes(&l->norm, n, hw) + 64))
        abort();
    mabn_norm_state_reset(&l->norm, l->io.state);
    l->io.x = l->x;
    l->io.y = l->y;
    l->io.residual = residual ? l->residual : NULL;
    l->io.dy = l->dy;
    l->io.dx = l->dx;
    l->io.dresidual = residual ? l->dresidual : NULL;
    l->io.dgamma = l->dgamma;
    l->io.dbeta = l->dbeta;
    const bool evonorm = o->kind == MABN_NORM_EVONORM_S0;
    if (!relu || !mabn_norm_act_name(o->kind) || (evonorm && residual)) return;
    l->io.act = l->act;
    l->io.dact = l->dact;
}

static void layer_free(struct layer *l)
{
    void *all[] = {l->x,         l->y,     l->residual, l->dy,       l->dx,
                   l->dresidual, l->gamma, l->beta,     l->dgamma,   l->dbeta,
                   l->act,       l->dact,  l->io.state, l->io.saved, l->io.scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static float *state_f32(const struct layer *l, const char *name)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(&l->norm, l->io.state, list);
    for (int i = 0; i < count; i++)
        if (!strcmp(list[i].name, name)) return list[i].data;
    printf("Bail out! no state %s\n", name);
    exit(1);
}

static mabn_status step(const struct layer *l)
{
    MABN_TRY(mabn_norm_forward(&l->norm, &l->io));
    return mabn_norm_backward(&l->norm, &l->io);
}

static double max_abs(const float *v, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(v[i]));
    return most;
}

/* Largest error against doubles, relative to the largest value, or to `least` if that is larger. */
static double error_above(double least, const float *got, const double *want, size_t n)
{
    double most = least, worst = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(want[i]));
    for (size_t i = 0; i < n; i++) {
        double e = fabs(got[i] - want[i]) / most;
        if (!(e <= worst)) worst = e;
    }
    return worst;
}

static double error_of(const float *got, const double *want, size_t n)
{
    return error_above(1e-30, got, want, n);
}

static bool same(const float *a, const float *b, size_t n)
{
    return !memcmp(a, b, n * sizeof *a);
}

/* ---- the vectors of the reference's fact sheet ---- */

struct vector {
    float x[2], dy[2];
    double o[2], rho, dx[2], dgamma, dbeta;
};

static void play_vectors(struct layer *l, const char *name, const struct vector *v, int count)
{
    for (int i = 0; i < count; i++) {
        memcpy(l->x, v[i].x, sizeof v[i].x);
        memcpy(l->dy, v[i].dy, sizeof v[i].dy);
        tap_status(step(l), "vectors %s, step %d", name, i);
        tap_close(l->y[0], v[i].o[0], 4e-7 * 5, "o[0]");
        tap_close(l->y[1], v[i].o[1], 4e-7 * 5, "o[1]");
        tap_close(*state_f32(l, "running_var"), v[i].rho, 2e-7, "running_var");
        tap_close(l->dx[0], v[i].dx[0], 2e-7, "dx[0]");
        tap_close(l->dx[1], v[i].dx[1], 2e-7, "dx[1]");
        tap_close(l->dgamma[0], v[i].dgamma, 4e-7, "dgamma");
        tap_close(l->dbeta[0], v[i].dbeta, 2e-7, "dbeta");
    }
}

static void test_vectors(void)
{
    static const struct vector a[] = {{{1, -2},
                                       {.1f, .3f},
                                       {1.19868140, -1.64736280},
                                       1.03,
                                       {.18973590, .09486890},
                                       -.31622713,
                                       .4},
                                      {{.5f, 3},
                                       {-.2f, .4f},
                                       {.59874254, 2.34245524},
                                       1.1019,
                                       {-.18096901, .03016205},
                                       .51148906,
                                       .2},
                                      {{2, 2},
                                       {.5f, -.1f},
                                       {1.74999813, 1.74999813},
                                       1.159862,
                                       {.22500009, -.22499934},
                                       .39999950,
                                       .4}};
    static const struct vector b[] = {{{1, -2},
                                       {.1f, .3f},
                                       {1.92704050, -3.10408100},
                                       .834,
                                       {.23155582, .37540861},
                                       -.55901350,
                                       .4},
                                      {{.5f, 3},
                                       {-.2f, .4f},
                                       {1.07125048, 5.17750286},
                                       .88857,
                                       {-.36247311, .45316289},
                                       1.20450070,
                                       .2}};
    static const float x2[] = {2.5f, 4.625f}, gz[] = {.1f, -.05f};
    struct mabn_norm_options o;
    struct layer l;

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.window_rule = MABN_WINDOW_ITERATION;
    o.window = 2;
    o.warmup = 4;
    layer_new(&l, &o, 2, 1, 1, false, false);
    l.gamma[0] = 1.5f;
    l.beta[0] = 0.25f;
    play_vectors(&l, "A", a, 3);
    layer_free(&l);

    o.warmup = 100;
    layer_new(&l, &o, 1, 2, 1, false, false);
    l.gamma[0] = 1.5f;
    l.beta[0] = 0.25f;
    *(int64_t *)(void *)state_f32(&l, "iters") = 1000;
    *state_f32(&l, "running_var") = 0.8f;
    memcpy(state_f32(&l, "buffer_x2"), x2, sizeof x2);
    memcpy(state_f32(&l, "buffer_gz"), gz, sizeof gz);
    play_vectors(&l, "B", b, 2);
    layer_free(&l);
}

/* ---- PyTorch ---- */

static void load_nhwc(float *out, hid_t g, const char *name, const struct layer *l)
{
    struct h5array a = h5array_read(g, name);
    to_nhwc(out, a.values, (size_t)l->io.samples, (size_t)l->norm.channels,
            (size_t)l->io.positions);
    free(a.values);
}

static void load(float *out, hid_t g, const char *name)
{
    struct h5array a = h5array_read(g, name);
    memcpy(out, a.values, a.count * sizeof *out);
    free(a.values);
}

static void match(const char *which, const char *what, const float *got, hid_t g, size_t n,
                  size_t c, size_t hw, double tolerance)
{
    struct h5array want = h5array_read(g, what);
    float *nhwc = malloc(want.count * sizeof *nhwc);
    to_nhwc(nhwc, want.values, n, c, hw);
    double most = max_abs(nhwc, want.count), worst = 0;
    for (size_t i = 0; i < want.count; i++)
        worst = fmax(worst, fabs((double)got[i] - nhwc[i]) / most);
    tap_ok(worst <= tolerance, "PyTorch %s: %s: %.1e", which, what, worst);
    free(nhwc);
    free(want.values);
}

static herr_t check_fixture(hid_t file, const char *name, const H5L_info_t *info, void *unused)
{
    hid_t g = H5Gopen2(file, name, H5P_DEFAULT);
    struct h5array x = h5array_read(g, "x");
    const size_t n = x.shape[0], c = x.shape[1], hw = x.count / (n * c);
    const bool residual = h5array_attribute(g, "residual") != 0;
    /* Far from zero the precision is already lost in the float32 input: a·x + b cancels. */
    const double tolerance = strstr(name, "far") ? 1e-5 : 1e-6;
    struct mabn_norm_options o;
    struct layer l;
    char kind[8] = {0};

    (void)info;
    (void)unused;
    memcpy(kind, name, strcspn(name, "_"));
    enum mabn_norm_kind k = MABN_NORM_NONE;
    tap_status(mabn_norm_kind_parse(&k, kind), "PyTorch %s", name);
    mabn_norm_options_init(&o, k);
    o.groups = (int)h5array_attribute(g, "groups");
    layer_new(&l, &o, (int64_t)n, (int64_t)hw, (int)c, h5array_attribute(g, "relu") != 0, residual);
    load_nhwc(l.x, g, "x", &l);
    load_nhwc(l.residual, g, "residual", &l);
    load_nhwc(l.dy, g, "gy", &l);
    load(l.gamma, g, "weight");
    load(l.beta, g, "bias");
    if (k == MABN_NORM_BN) {
        load(state_f32(&l, "running_mean"), g, "running_mean");
        load(state_f32(&l, "running_var"), g, "running_var");
    }
    tap_status(mabn_norm_infer(&l.norm, &l.io), "PyTorch %s: inference", name);
    match(name, "eval_y", l.y, g, n, c, hw, tolerance);
    tap_status(step(&l), "PyTorch %s: training", name);
    match(name, "y", l.y, g, n, c, hw, tolerance);
    match(name, "gx", l.dx, g, n, c, hw, tolerance);
    match(name, "gweight", l.dgamma, g, 1, c, 1, tolerance);
    match(name, "gbias", l.dbeta, g, 1, c, 1, tolerance);
    if (residual) match(name, "gresidual", l.dresidual, g, n, c, hw, 0);
    if (k == MABN_NORM_BN) {
        match(name, "running_mean_after", state_f32(&l, "running_mean"), g, 1, c, 1, 1e-6);
        match(name, "running_var_after", state_f32(&l, "running_var"), g, 1, c, 1, 1e-6);
    }
    layer_free(&l);
    free(x.values);
    H5Gclose(g);
    return 0;
}

static void test_pytorch(void)
{
    hid_t file = H5Fopen("tests/golden/norms.h5", H5F_ACC_RDONLY, H5P_DEFAULT);
    if (!tap_ok(file >= 0, "open tests/golden/norms.h5")) return;
    H5Literate(file, H5_INDEX_NAME, H5_ITER_INC, NULL, check_fixture, NULL);
    H5Fclose(file);
}

/* ---- definitions, in double ---- */

struct truth {
    const struct layer *l;
    double *x, *residual, *gamma, *beta, *act; /* copies, to be moved for finite differences */
    double *y;
    double *r, *d; /* (S,C) of BRN, constant in differences; filled when `fix` */
    bool fix;
    int64_t call; /* BRN */
};

static double *to_double(const float *v, size_t n)
{
    double *out = malloc((n + 1) * sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = v[i];
    return out;
}

static int64_t run_length(const struct layer *l)
{
    const struct mabn_norm_options *o = &l->norm.options;
    if (!mabn_norm_folds(o->kind)) return 1;
    int64_t b = o->norm_batch;
    return !b || b > l->io.samples ? l->io.samples : b;
}

/* Mean and variance (MABN: 0 and E[x²]) over samples s0…s1 and channels c0…c1. */
static void moments(const struct truth *t, int64_t s0, int64_t s1, int64_t c0, int64_t c1,
                    double *mean, double *var)
{
    const int64_t c = t->l->norm.channels, hw = t->l->io.positions;
    const double n = (double)((s1 - s0) * hw * (c1 - c0));
    double m = 0, v = 0;
    for (int64_t r = s0 * hw; r < s1 * hw; r++)
        for (int64_t j = c0; j < c1; j++)
            m += t->x[r * c + j];
    const enum mabn_norm_kind kind = t->l->norm.options.kind;
    m = kind == MABN_NORM_MABN || kind == MABN_NORM_FRN ? 0 : m / n;
    for (int64_t r = s0 * hw; r < s1 * hw; r++)
        for (int64_t j = c0; j < c1; j++)
            v += (t->x[r * c + j] - m) * (t->x[r * c + j] - m);
    *mean = m;
    *var = v / n;
}

static double clip(double v, double low, double high)
{
    return fmin(fmax(v, low), high);
}

/* The formula of the EvoNorm-S0 paper for one value, before gamma and beta. */
static double evonorm(const struct truth *t, double x, double std, int64_t j)
{
    return t->l->io.act ? x / (1 + exp(-t->act[j] * x)) / std : x;
}

/* ReLU, or FRN's threshold. */
static double activate(const struct truth *t, double v, int64_t j)
{
    const struct layer *l = t->l;
    if (!l->io.relu || (l->norm.options.kind == MABN_NORM_EVONORM_S0 && l->io.act)) return v;
    return fmax(v, l->io.act ? t->act[j] : 0);
}

/* y by definition; batch statistics (MABN: of the first iterations). */
static void define(struct truth *t)
{
    const struct layer *l = t->l;
    const struct mabn_norm_options *o = &l->norm.options;
    const int64_t n = l->io.samples, hw = l->io.positions, c = l->norm.channels, b = run_length(l);
    const int64_t size = mabn_norm_folds(o->kind) ? 1 : c / o->groups;

    for (int64_t s0 = 0; s0 < n; s0 += b)
        for (int64_t c0 = 0; c0 < c; c0 += size) {
            const int64_t s1 = s0 + b < n ? s0 + b : n, at = s0 / b * c + c0;
            double mean, var, r = 1, d = 0;
            moments(t, s0, s1, c0, c0 + size, &mean, &var);
            const double std = sqrt(var + o->eps);
            if (o->kind == MABN_NORM_BRN) {
                if (t->fix) {
                    double part = (double)(t->call - o->ramp_start);
                    double r_max =
                        1 + (o->r_max - 1) * part / (double)(o->r_ramp_end - o->ramp_start);
                    double d_max = o->d_max * part / (double)(o->d_ramp_end - o->ramp_start);
                    double rm = state_f32(l, "running_mean")[c0];
                    double rs = sqrt(state_f32(l, "running_var")[c0] + o->eps);
                    t->r[at] = clip(std / rs, 1 / r_max, r_max);
                    t->d[at] = clip((mean - rm) / rs, -d_max, d_max);
                }
                r = t->r[at];
                d = t->d[at];
            }
            for (int64_t row = s0 * hw; row < s1 * hw; row++)
                for (int64_t j = c0; j < c0 + size; j++) {
                    double v = (t->x[row * c + j] - mean) / std * r + d;
                    if (o->kind == MABN_NORM_EVONORM_S0) v = evonorm(t, t->x[row * c + j], std, j);
                    v = v * t->gamma[j] + t->beta[j];
                    if (l->io.residual) v += t->residual[row * c + j];
                    t->y[row * c + j] = activate(t, v, j);
                }
        }
}

static void truth_new(struct truth *t, const struct layer *l, int64_t call)
{
    const size_t c = (size_t)l->norm.channels;
    memset(t, 0, sizeof *t);
    t->l = l;
    t->x = to_double(l->x, l->count);
    t->residual = to_double(l->residual, l->count);
    t->gamma = to_double(l->gamma, c);
    t->beta = to_double(l->beta, c);
    t->act = to_double(l->act, c);
    t->y = calloc(l->count + 1, sizeof *t->y);
    t->r = calloc((size_t)l->io.samples * c + 1, sizeof *t->r);
    t->d = calloc((size_t)l->io.samples * c + 1, sizeof *t->d);
    t->call = call;
    t->fix = true;
    define(t);
    t->fix = false;
}

static void truth_free(struct truth *t)
{
    double *all[] = {t->x, t->residual, t->gamma, t->beta, t->act, t->y, t->r, t->d};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static double loss(struct truth *t)
{
    double sum = 0;
    define(t);
    for (size_t i = 0; i < t->l->count; i++)
        sum += t->y[i] * t->l->dy[i];
    return sum;
}

/* Central differences of the loss in each of `n` numbers. */
static double *differences(struct truth *t, double *at, size_t n)
{
    const double h = 1e-6;
    double *out = malloc((n + 1) * sizeof *out);
    for (size_t i = 0; i < n; i++) {
        const double old = at[i];
        at[i] = old + h;
        double up = loss(t);
        at[i] = old - h;
        out[i] = (up - loss(t)) / (2 * h);
        at[i] = old;
    }
    return out;
}

static void check_gradient(struct truth *t, const float *got, double *at, size_t n,
                           const char *name, const char *what)
{
    double *want = differences(t, at, n);
    double e = error_of(got, want, n);
    tap_ok(e < 2e-6, "%s: %s by finite differences: %.1e", name, what, e);
    free(want);
}

/* Compare the engine with the definition and its differences. */
static void check_definition(const struct mabn_norm_options *o, int64_t n, int64_t hw, int c,
                             bool relu, bool residual)
{
    struct layer l;
    struct truth t;
    char name[120];
    int64_t call = 1;

    snprintf(name, sizeof name, "%s N%d HW%d C%d B%d%s%s", mabn_norm_kind_name(o->kind), (int)n,
             (int)hw, c, o->norm_batch, relu ? " relu" : "", residual ? " residual" : "");
    layer_new(&l, o, n, hw, c, relu, residual);
    if (o->kind == MABN_NORM_BRN) {
        call = 8000;
        *(int64_t *)(void *)state_f32(&l, "num_batches_tracked") = call - 1;
        for (int i = 0; i < c; i++) {
            state_f32(&l, "running_mean")[i] = (float)(0.5 * mabn_rng_normal(&rng));
            state_f32(&l, "running_var")[i] = (float)(0.3 + 2 * mabn_rng_uniform(&rng));
        }
    }
    truth_new(&t, &l, call);
    if (!residual && relu) {
        /* The mask comes from x: y is not available after forward. */
        tap_status(mabn_norm_forward(&l.norm, &l.io), "%s: forward", name);
        l.io.y = NULL;
        tap_status(mabn_norm_backward(&l.norm, &l.io), "%s: backward, mask from x", name);
    } else {
        tap_status(step(&l), "%s", name);
    }
    double e = error_above(1, l.y, t.y, l.count);
    tap_ok(e < 1e-6, "%s: y: %.1e", name, e);
    check_gradient(&t, l.dx, t.x, l.count, name, "dx");
    check_gradient(&t, l.dgamma, t.gamma, (size_t)c, name, "dgamma");
    check_gradient(&t, l.dbeta, t.beta, (size_t)c, name, "dbeta");
    if (l.io.act) check_gradient(&t, l.dact, t.act, (size_t)c, name, "dact");
    if (residual) check_gradient(&t, l.dresidual, t.residual, l.count, name, "dresidual");
    truth_free(&t);
    layer_free(&l);
}

static void test_definitions(void)
{
    static const int shapes[][4] = {/* N, HW, C, B */
                                    {5, 6, 3, 2}, {4, 9, 1, 2},  {3, 4, 66, 1}, {7, 5, 20, 3},
                                    {2, 7, 8, 0}, {8, 1, 12, 4}, {1, 3, 5, 0}};
    static const enum mabn_norm_kind kinds[] = {
        MABN_NORM_BN, MABN_NORM_BRN, MABN_NORM_SYNCBN, MABN_NORM_MABN,      MABN_NORM_GN,
        MABN_NORM_LN, MABN_NORM_IN,  MABN_NORM_FRN,    MABN_NORM_EVONORM_S0};
    int round = 0;

    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++, round++) {
            struct mabn_norm_options o;
            const int *shape = shapes[s];
            mabn_norm_options_init(&o, kinds[k]);
            o.norm_batch = kinds[k] == MABN_NORM_SYNCBN ? 0 : shape[3];
            o.groups = shape[2] % 2 ? 1 : 2;
            o.window_rule = round % 2 ? MABN_WINDOW_ITERATION : MABN_WINDOW_SUBBATCH;
            o.window = 64; /* the whole call uses batch statistics */
            /* A statistic of one value leaves only the value's sign, so there is nothing to
             * differentiate. */
            const bool single = kinds[k] == MABN_NORM_IN || kinds[k] == MABN_NORM_FRN;
            if (single && shape[1] == 1) continue;
            check_definition(&o, shape[0], shape[1], shape[2], round % 3 > 0, round % 4 > 1);
        }
}

/* ---- MABN's windows over calls of any shape, in double ---- */

/* One channel's statistics in the order of the calls; the variance over a window of the newest m. */
static double window_mean(const double *seen, int64_t count, int m)
{
    double sum = 0;
    for (int64_t i = count - m; i < count; i++)
        sum += seen[i];
    return sum / m;
}

/* Sub-batch rule with S runs a call: S below, at and above m, and a short last run. One channel,
 * forward and backward, compared with a simple history. */
static void check_subbatch(int64_t n, int b, int m, int r_start)
{
    enum { HW = 3, CALLS = 9, FIRST = 64 };
    struct mabn_norm_options o;
    struct layer l;
    double x2[1024], gz[1024], rho = 0, worst_y = 0, worst_dx = 0;
    int64_t seen = FIRST, seen_gz = FIRST;

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.norm_batch = b;
    o.window = m;
    o.r_start = r_start;
    layer_new(&l, &o, n, HW, 1, false, false);
    const double gamma = l.gamma[0], beta = l.beta[0], eps = o.eps;
    for (int call = 1; call <= CALLS; call++) {
        const int64_t runs = (n + b - 1) / b;
        double v[64], r[64], mean_v = 0, rho_old = rho;
        for (size_t i = 0; i < l.count; i++) {
            l.x[i] = (float)(mabn_rng_normal(&rng) * (call == 7 ? 40 : 1)); /* 7: r is clipped */
            l.dy[i] = (float)mabn_rng_normal(&rng);
        }
        tap_status(step(&l), "window: call %d", call);
        double now[64] = {0}, mean = 0;
        for (int64_t i = 0; i < runs; i++) {
            int64_t r0 = i * b * HW, r1 = i * b * HW + b * HW < n * HW ? r0 + b * HW : n * HW;
            for (int64_t k = r0; k < r1; k++)
                now[i] += (double)l.x[k] * l.x[k] / (double)(r1 - r0);
            mean += now[i] / (double)runs;
        }
        for (int i = 0; call == 1 && i < FIRST; i++)
            x2[i] = mean;
        for (int64_t i = 0; i < runs; i++) {
            x2[seen++] = now[i];
            v[i] = call == 1 ? now[i] : window_mean(x2, seen, m);
            mean_v += v[i] / (double)runs;
        }
        if (call == 1) rho = mean_v;
        rho = 0.98 * rho + 0.02 * mean_v;
        double psi_now[64] = {0}, psi_mean = 0, dx[1024];
        for (int64_t i = 0; i < runs; i++) {
            int64_t r0 = i * b * HW, r1 = i * b * HW + b * HW < n * HW ? r0 + b * HW : n * HW;
            r[i] = call < r_start ? 1 : clip(sqrt((v[i] + eps) / (rho_old + eps)), 0.2, 5);
            for (int64_t k = r0; k < r1; k++) {
                double z = l.x[k] / sqrt(v[i] + eps), y = gamma * r[i] * z + beta;
                worst_y = fmax(worst_y, fabs(l.y[k] - y) / fmax(1, fabs(y)));
                psi_now[i] += gamma * r[i] * l.dy[k] * z / (double)(r1 - r0);
            }
            psi_mean += psi_now[i] / (double)runs;
        }
        for (int i = 0; call == 1 && i < FIRST; i++)
            gz[i] = psi_mean;
        for (int64_t i = 0; i < runs; i++) {
            int64_t r0 = i * b * HW, r1 = i * b * HW + b * HW < n * HW ? r0 + b * HW : n * HW;
            gz[seen_gz++] = psi_now[i];
            double psi = call == 1 ? psi_now[i] : window_mean(gz, seen_gz, m);
            for (int64_t k = r0; k < r1; k++) {
                double z = l.x[k] / sqrt(v[i] + eps);
                dx[k] = (gamma * r[i] * l.dy[k] - z * psi) / sqrt(v[i] + eps);
            }
        }
        worst_dx = fmax(worst_dx, error_of(l.dx, dx, l.count));
    }
    tap_ok(worst_y < 2e-6, "sub-batch window N%d B%d m%d: y: %.1e", (int)n, b, m, worst_y);
    tap_ok(worst_dx < 2e-6, "sub-batch window N%d B%d m%d: dx: %.1e", (int)n, b, m, worst_dx);
    tap_close(*state_f32(&l, "running_var") / rho, 1, 1e-6, "running_var");
    layer_free(&l);
}

/* Iteration rule: a call with S runs equals S calls with one. */
static void check_iteration_runs(void)
{
    struct mabn_norm_options o;
    struct layer all, one;
    bool equal = true;
    double dgamma[3];

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.window_rule = MABN_WINDOW_ITERATION;
    o.window = 3;
    o.warmup = 5;
    o.r_start = 12;
    o.norm_batch = 2;
    layer_new(&all, &o, 6, 4, 3, true, false);
    layer_new(&one, &o, 2, 4, 3, true, false);
    memcpy(one.gamma, all.gamma, 3 * sizeof(float));
    memcpy(one.beta, all.beta, 3 * sizeof(float));
    for (int call = 0; call < 10; call++) {
        for (size_t i = 0; i < all.count; i++)
            all.x[i] = (float)mabn_rng_normal(&rng);
        if (step(&all)) equal = false;
        memset(dgamma, 0, sizeof dgamma);
        for (size_t run = 0; run < 3; run++) {
            const size_t at = run * one.count;
            memcpy(one.x, all.x + at, one.count * sizeof(float));
            memcpy(one.dy, all.dy + at, one.count * sizeof(float));
            if (step(&one)) equal = false;
            equal =
                equal && same(one.y, all.y + at, one.count) && same(one.dx, all.dx + at, one.count);
            for (int c = 0; c < 3; c++)
                dgamma[c] += one.dgamma[c];
        }
        equal = equal && error_of(all.dgamma, dgamma, 3) < 1e-6;
    }
    tap_ok(equal, "iteration rule: a call of three runs is three calls, bit for bit");
    tap_ok(!memcmp(all.io.state, one.io.state, mabn_norm_state_bytes(&all.norm)),
           "iteration rule: and so is the state");
    layer_free(&all);
    layer_free(&one);
}

/* Iteration rule: the buffer is full at iteration m, but used from m + 1 on. */
static void check_first_window(void)
{
    struct mabn_norm_options o;
    struct layer l;
    double seen = 0;

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.window_rule = MABN_WINDOW_ITERATION;
    o.window = 3;
    o.warmup = 0;
    layer_new(&l, &o, 1, 1, 1, false, false);
    l.gamma[0] = 1;
    l.beta[0] = 0;
    for (int it = 1; it <= 4; it++) {
        l.x[0] = (float)it;
        tap_status(step(&l), "iteration %d", it);
        seen += it > 1 ? it * it / 3.0 : 0;
        tap_close(l.y[0], it / sqrt((it < 4 ? it * it : seen) + 1e-5), 1e-6, "y of iteration %d",
                  it);
    }
    layer_free(&l);
}

static void test_windows(void)
{
    check_first_window();
    check_subbatch(8, 2, 4, 3);
    check_subbatch(8, 2, 3, 3);  /* more runs than the window */
    check_subbatch(4, 2, 5, 3);  /* fewer */
    check_subbatch(7, 2, 4, 3);  /* short last run */
    check_subbatch(3, 4, 2, 3);  /* one run, itself short of B */
    check_subbatch(5, 1, 1, 3);  /* window of one */
    check_subbatch(8, 2, 4, 99); /* r never active */
    check_iteration_runs();
}

/* ---- the same bits ---- */

struct result {
    float *y, *dx, *dresidual, *dgamma, *dbeta, *dact;
    void *state;
};

static struct result copy_result(const struct layer *l)
{
    const size_t bytes = l->count * sizeof(float), c = (size_t)l->norm.channels * sizeof(float);
    struct result r = {malloc(bytes),
                       malloc(bytes),
                       malloc(bytes),
                       malloc(c),
                       malloc(c),
                       malloc(c),
                       malloc(mabn_norm_state_bytes(&l->norm) + 1)};
    memcpy(r.y, l->y, bytes);
    memcpy(r.dx, l->dx, bytes);
    memcpy(r.dresidual, l->dresidual, bytes);
    memcpy(r.dgamma, l->dgamma, c);
    memcpy(r.dbeta, l->dbeta, c);
    memcpy(r.dact, l->dact, c);
    if (mabn_norm_state_bytes(&l->norm))
        memcpy(r.state, l->io.state, mabn_norm_state_bytes(&l->norm));
    return r;
}

static bool equals(const struct layer *l, const struct result *r)
{
    const size_t c = (size_t)l->norm.channels;
    return same(l->y, r->y, l->count) && same(l->dx, r->dx, l->count) &&
           same(l->dresidual, r->dresidual, l->count) && same(l->dgamma, r->dgamma, c) &&
           same(l->dbeta, r->dbeta, c) && (!l->io.act || same(l->dact, r->dact, c)) &&
           !memcmp(l->io.state, r->state, mabn_norm_state_bytes(&l->norm));
}

static void result_free(struct result *r)
{
    void *all[] = {r->y, r->dx, r->dresidual, r->dgamma, r->dbeta, r->dact, r->state};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* Large enough for several rounds of threads and several chunks. */
static void check_threads(enum mabn_norm_kind kind, int64_t hw, int c, bool residual)
{
    struct mabn_norm_options o;
    struct layer l;
    const int before = omp_get_max_threads();

    mabn_norm_options_init(&o, kind);
    o.norm_batch = kind == MABN_NORM_SYNCBN || kind == MABN_NORM_FROZEN ? 0 : 2;
    o.groups = c % 4 ? 1 : 4;
    o.r_start = 1;
    layer_new(&l, &o, 5, hw, c, true, residual);
    void *start = malloc(mabn_norm_state_bytes(&l.norm) + 1);
    memcpy(start, l.io.state, mabn_norm_state_bytes(&l.norm));
    omp_set_num_threads(1);
    tap_status(step(&l), "%s C%d: one thread", mabn_norm_kind_name(kind), c);
    struct result r = copy_result(&l);
    for (int threads = 2; threads <= 8; threads += 3) {
        omp_set_num_threads(threads);
        memcpy(l.io.state, start, mabn_norm_state_bytes(&l.norm));
        tap_status(step(&l), "%s C%d: %d threads", mabn_norm_kind_name(kind), c, threads);
        tap_ok(equals(&l, &r), "%s C%d: the same bits with %d threads", mabn_norm_kind_name(kind),
               c, threads);
    }
    omp_set_num_threads(before);
    result_free(&r);
    free(start);
    layer_free(&l);
}

/* MABN with y computed before its statistics, compared with the usual order; clipped and not; and
 * in place. */
static void check_known_affine(bool outlier)
{
    struct mabn_norm_options o;
    struct layer fast, slow;
    bool equal = true;

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.norm_batch = 2;
    o.window = 3;
    o.r_start = 2;
    layer_new(&fast, &o, 6, 50, 70, true, true);
    layer_new(&slow, &o, 6, 50, 70, true, true);
    memcpy(slow.gamma, fast.gamma, 70 * sizeof(float));
    memcpy(slow.beta, fast.beta, 70 * sizeof(float));
    memcpy(slow.dy, fast.dy, fast.count * sizeof(float));
    slow.io.residual = slow.y; /* y over residual: cannot be done twice */
    for (int call = 1; call < 6; call++) {
        for (size_t i = 0; i < fast.count; i++)
            fast.x[i] = (float)mabn_rng_normal(&rng);
        if (outlier && call == 4)
            for (size_t i = 2 * 50 * 70 + 7; i < 4 * 50 * 70; i += 70)
                fast.x[i] *= 100;
        memcpy(slow.x, fast.x, fast.count * sizeof(float));
        memcpy(slow.y, fast.residual, fast.count * sizeof(float));
        if (step(&fast) || step(&slow)) equal = false;
        struct result r = copy_result(&fast);
        equal = equal && equals(&slow, &r);
        result_free(&r);
    }
    tap_ok(equal, "MABN ahead of its statistics%s: the same bits as behind them",
           outlier ? ", with an outlier" : "");

    /* y recomputed, and backward in place with the mask from x. */
    struct result r = copy_result(&fast);
    memset(fast.y, 0, fast.count * sizeof(float));
    tap_status(mabn_norm_reapply(&fast.norm, &fast.io), "reapply");
    tap_ok(same(fast.y, r.y, fast.count), "reapply gives y's bits");
    result_free(&r);
    layer_free(&fast);
    layer_free(&slow);
}

static void check_in_place(enum mabn_norm_kind kind, bool relu, bool residual)
{
    struct mabn_norm_options o;
    struct layer l;
    const char *name = mabn_norm_kind_name(kind);

    mabn_norm_options_init(&o, kind);
    o.norm_batch = kind == MABN_NORM_BN ? 2 : 0;
    o.groups = 2;
    layer_new(&l, &o, 4, 9, 6, relu, residual);
    for (int c = 0; mabn_norm_state_bytes(&l.norm) && c < 6; c++)
        state_f32(&l, "running_var")[c] = (float)(1 + c);
    tap_status(step(&l), "%s", name);
    struct result r = copy_result(&l);

    tap_status(mabn_norm_forward(&l.norm, &l.io), "%s again", name);
    float *dy = malloc(l.count * sizeof *dy);
    memcpy(dy, l.dy, l.count * sizeof *dy);
    l.io.dx = l.dy;
    if (!residual) l.io.y = NULL;
    tap_status(mabn_norm_backward(&l.norm, &l.io), "%s: dx over dy", name);
    tap_ok(same(l.dy, r.dx, l.count), "%s: dx over dy: the same bits", name);
    if (residual) {
        tap_ok(same(l.dresidual, r.dresidual, l.count), "%s: dresidual beside it", name);
        memcpy(l.dy, dy, l.count * sizeof *dy);
        l.io.dx = l.dx;
        l.io.dresidual = l.dy;
        tap_status(mabn_norm_backward(&l.norm, &l.io), "%s: dresidual over dy", name);
        tap_ok(same(l.dy, r.dresidual, l.count) && same(l.dx, r.dx, l.count),
               "%s: dresidual over dy: the same bits", name);
    }
    free(dy);

    /* Inference over x. */
    l.io.y = l.y;
    tap_status(mabn_norm_infer(&l.norm, &l.io), "%s: inference", name);
    memcpy(r.y, l.y, l.count * sizeof(float));
    l.io.y = l.x;
    tap_status(mabn_norm_infer(&l.norm, &l.io), "%s: inference over x", name);
    tap_ok(same(l.x, r.y, l.count), "%s: inference over x: the same bits", name);
    result_free(&r);
    layer_free(&l);
}

/* y recomputed, of norms with an activation; and EvoNorm-S0's far tails, which must not overflow. */
static void check_act_again(enum mabn_norm_kind kind)
{
    struct mabn_norm_options o;
    struct layer l;
    bool finite = true;

    mabn_norm_options_init(&o, kind);
    o.groups = 3;
    layer_new(&l, &o, 3, 40, 6, true, false);
    for (size_t i = 0; i < l.count; i += 17)
        l.x[i] *= 1e4f;
    tap_status(step(&l), "%s", mabn_norm_kind_name(kind));
    struct result r = copy_result(&l);
    for (size_t i = 0; i < l.count; i++)
        finite = finite && isfinite(l.y[i]) && isfinite(l.dx[i]);
    tap_ok(finite, "%s of large values", mabn_norm_kind_name(kind));
    memset(l.y, 0, l.count * sizeof(float));
    tap_status(mabn_norm_reapply(&l.norm, &l.io), "reapply");
    tap_ok(same(l.y, r.y, l.count), "%s: reapply gives y's bits", mabn_norm_kind_name(kind));
    l.io.residual = l.residual;
    if (kind == MABN_NORM_EVONORM_S0)
        tap_fails(mabn_norm_forward(&l.norm, &l.io), MABN_ERR_ARG, "residual",
                  "EvoNorm-S0 with activation and residual");
    l.io.relu = false;
    if (kind == MABN_NORM_FRN)
        tap_fails(mabn_norm_backward(&l.norm, &l.io), MABN_ERR_ARG, "relu",
                  "FRN: tau without ReLU");
    result_free(&r);
    layer_free(&l);
}

static void check_accumulate(void)
{
    struct mabn_norm_options o;
    struct layer l;

    mabn_norm_options_init(&o, MABN_NORM_BN);
    layer_new(&l, &o, 2, 3, 2, false, false);
    tap_status(step(&l), "bn");
    struct result r = copy_result(&l);
    l.dgamma[0] = 5;
    l.dbeta[1] = -7;
    l.io.accumulate = true;
    tap_status(mabn_norm_backward(&l.norm, &l.io), "bn: accumulate");
    tap_close(l.dgamma[0], 5 + r.dgamma[0], 1e-6, "dgamma is added to");
    tap_close(l.dbeta[1], -7 + r.dbeta[1], 1e-6, "dbeta is added to");
    result_free(&r);
    layer_free(&l);

    mabn_norm_options_init(&o, MABN_NORM_FRN);
    layer_new(&l, &o, 2, 3, 2, true, false);
    tap_status(step(&l), "frn");
    r = copy_result(&l);
    l.dact[0] = 3;
    l.dact[1] = 0;
    l.io.accumulate = true;
    tap_status(mabn_norm_backward(&l.norm, &l.io), "frn: accumulate");
    tap_close(l.dact[0], 3 + r.dact[0], 1e-6, "dact is added to");
    tap_close(l.dact[1], r.dact[1], 1e-6, "dact is added to");
    result_free(&r);
    layer_free(&l);
}

/* Columns first to first + width of rows of `columns`. */
static void take(float *to, const float *from, size_t rows, size_t columns, size_t first,
                 size_t width)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * width, from + r * columns + first, width * sizeof *to);
}

static double difference(const float *wide, const float *narrow, size_t rows, size_t columns,
                         size_t first, size_t width)
{
    double worst = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < width; c++)
            worst =
                fmax(worst, fabs((double)wide[r * columns + first + c] - narrow[r * width + c]));
    return worst;
}

/* More channels than the kernels take at a time: as in layers that have a third of them. */
static void check_wide(enum mabn_norm_kind kind, int64_t n, bool relu, bool residual)
{
    enum { PARTS = 3, PART = 700, C = PARTS * PART, POSITIONS = 9 };
    const size_t rows = (size_t)n * POSITIONS;
    struct mabn_norm_options o;
    struct layer wide, part;
    double worst = 0;

    mabn_norm_options_init(&o, kind);
    o.norm_batch = kind == MABN_NORM_MABN ? 2 : 0;
    layer_new(&wide, &o, n, POSITIONS, C, relu, residual);
    tap_status(step(&wide), "%s C%d", mabn_norm_kind_name(kind), C);
    for (size_t first = 0; first < C; first += PART) {
        layer_new(&part, &o, n, POSITIONS, PART, relu, residual);
        take(part.x, wide.x, rows, C, first, PART);
        take(part.residual, wide.residual, rows, C, first, PART);
        take(part.dy, wide.dy, rows, C, first, PART);
        take(part.gamma, wide.gamma, 1, C, first, PART);
        take(part.beta, wide.beta, 1, C, first, PART);
        tap_status(step(&part), "%s C%d", mabn_norm_kind_name(kind), PART);
        worst = fmax(worst, difference(wide.y, part.y, rows, C, first, PART));
        worst = fmax(worst, difference(wide.dx, part.dx, rows, C, first, PART));
        worst = fmax(worst, difference(wide.dgamma, part.dgamma, 1, C, first, PART));
        worst = fmax(worst, difference(wide.dbeta, part.dbeta, 1, C, first, PART));
        if (residual)
            worst = fmax(worst, difference(wide.dresidual, part.dresidual, rows, C, first, PART));
        layer_free(&part);
    }
    tap_ok(worst < 2e-5, "%s C%d, %d samples%s%s: as of fewer channels: %.1e",
           mabn_norm_kind_name(kind), C, (int)n, relu ? ", ReLU" : "", residual ? ", residual" : "",
           worst);
    layer_free(&wide);
}

/* Memory sized for the largest call is enough for every smaller one, and no byte behind it is
 * touched. */
static void check_memory(enum mabn_norm_kind kind, int c, int64_t n, int64_t hw, int b)
{
    enum { GUARD = 4096 };
    struct mabn_norm_options o;
    struct layer l;
    bool clean = true;

    mabn_norm_options_init(&o, kind);
    o.norm_batch = b;
    o.groups = 1;
    layer_new(&l, &o, n, hw, c, true, false);
    const size_t saved = mabn_norm_saved_bytes(&l.norm, n);
    const size_t scratch = mabn_norm_scratch_bytes(&l.norm, n, hw);
    free(l.io.saved);
    free(l.io.scratch);
    l.io.saved = malloc(saved + GUARD);
    l.io.scratch = malloc(scratch + GUARD);
    memset((char *)l.io.saved + saved, 77, GUARD);
    memset((char *)l.io.scratch + scratch, 77, GUARD);
    for (int i = 0; i < 12 && clean; i++) {
        if (i) { /* the first is the largest */
            l.io.samples = 1 + (int64_t)mabn_rng_below(&rng, (uint64_t)n);
            l.io.positions = 1 + (int64_t)mabn_rng_below(&rng, (uint64_t)(i % 2 ? hw : hw / 9 + 1));
        }
        l.io.y = l.y;
        clean = !step(&l) && !mabn_norm_infer(&l.norm, &l.io);
        for (int g = 0; g < GUARD; g++)
            clean = clean && ((char *)l.io.saved + saved)[g] == 77 &&
                    ((char *)l.io.scratch + scratch)[g] == 77;
    }
    tap_ok(clean, "%s C%d N%d HW%d B%d: smaller calls stay within the largest's memory",
           mabn_norm_kind_name(kind), c, (int)n, (int)hw, b);
    layer_free(&l);
}

static void test_memory(void)
{
    check_memory(MABN_NORM_BN, 300, 3, 1000, 0);
    check_memory(MABN_NORM_BN, 64, 40, 130, 1);
    check_memory(MABN_NORM_MABN, 2048, 20, 9, 2);
    check_memory(MABN_NORM_MABN, 5, 33, 700, 2);
    check_memory(MABN_NORM_GN, 16, 200, 9, 0);
    check_memory(MABN_NORM_IN, 1030, 30, 12, 0);
    check_memory(MABN_NORM_FRN, 40, 70, 12, 0);
    check_memory(MABN_NORM_EVONORM_S0, 300, 9, 130, 0);
    check_memory(MABN_NORM_SYNCBN, 700, 9, 50, 0);
    check_memory(MABN_NORM_FROZEN, 1, 9, 5000, 0);
}

static void test_same_bits(void)
{
    for (int k = MABN_NORM_NONE; k < MABN_NORM_KINDS; k++)
        check_threads((enum mabn_norm_kind)k, 2000, k % 2 ? 72 : 10, true);
    check_threads(MABN_NORM_MABN, 500, 600, true);
    check_threads(MABN_NORM_FRN, 500, 600, false);
    check_threads(MABN_NORM_EVONORM_S0, 500, 600, false);
    check_threads(MABN_NORM_EVONORM_S0, 900, 12, false);
    check_known_affine(false);
    check_known_affine(true);
    check_in_place(MABN_NORM_BN, true, true);
    check_in_place(MABN_NORM_BN, true, false);
    check_in_place(MABN_NORM_GN, true, false);
    check_in_place(MABN_NORM_FROZEN, true, true);
    check_in_place(MABN_NORM_FROZEN, true, false);
    check_in_place(MABN_NORM_NONE, true, true);
    check_in_place(MABN_NORM_FRN, true, true);
    check_in_place(MABN_NORM_FRN, true, false);
    check_in_place(MABN_NORM_EVONORM_S0, true, true);
    check_in_place(MABN_NORM_EVONORM_S0, true, false);
    check_act_again(MABN_NORM_FRN);
    check_act_again(MABN_NORM_EVONORM_S0);
    check_accumulate();
    check_wide(MABN_NORM_BN, 4, true, true);
    check_wide(MABN_NORM_BN, 3, true, false);
    check_wide(MABN_NORM_BN, 3, false, true);
    check_wide(MABN_NORM_MABN, 4, true, true);
    check_wide(MABN_NORM_MABN, 4, false, false);
}

/* ---- frozen, none, empty ---- */

static void test_fixed(void)
{
    struct mabn_norm_options o;
    struct layer l;

    mabn_norm_options_init(&o, MABN_NORM_FROZEN);
    layer_new(&l, &o, 2, 3, 4, false, false);
    for (int c = 0; c < 4; c++) {
        state_f32(&l, "running_mean")[c] = (float)c - 1;
        state_f32(&l, "running_var")[c] = 0.25f + (float)c;
    }
    l.io.dgamma = l.io.dbeta = NULL;
    tap_status(mabn_norm_forward(&l.norm, &l.io), "frozen");
    l.io.x = NULL; /* not needed for the gradient */
    tap_status(mabn_norm_backward(&l.norm, &l.io), "frozen: backward without x");
    double worst = 0, worst_dx = 0;
    for (size_t i = 0; i < l.count; i++) {
        size_t c = i % 4;
        double k = l.gamma[c] / sqrt(0.25 + (double)c);
        worst = fmax(worst, fabs(l.y[i] - (l.x[i] * k + (l.beta[c] - ((double)c - 1) * k))));
        worst_dx = fmax(worst_dx, fabs(l.dx[i] - l.dy[i] * k));
    }
    tap_ok(worst < 1e-6, "frozen: no eps: %.1e", worst);
    tap_ok(worst_dx < 1e-6, "frozen: dx: %.1e", worst_dx);
    layer_free(&l);

    mabn_norm_options_init(&o, MABN_NORM_NONE);
    layer_new(&l, &o, 2, 3, 4, true, true);
    tap_status(step(&l), "none");
    bool good = true;
    for (size_t i = 0; i < l.count; i++) {
        float v = l.x[i] + l.residual[i];
        good = good && l.y[i] == (v > 0 ? v : 0) && l.dx[i] == (v > 0 ? l.dy[i] : 0) &&
               l.dresidual[i] == l.dx[i];
    }
    tap_ok(good, "none is ReLU of a sum");
    layer_free(&l);

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    layer_new(&l, &o, 0, 3, 4, true, false);
    struct result r = copy_result(&l);
    tap_status(step(&l), "no samples");
    tap_ok(!memcmp(r.state, l.io.state, mabn_norm_state_bytes(&l.norm)),
           "no samples: the state stays");
    tap_ok(l.dgamma[0] == 0 && l.dbeta[3] == 0, "no samples: no gradient");
    result_free(&r);
    layer_free(&l);

    mabn_norm_options_init(&o, MABN_NORM_BN);
    layer_new(&l, &o, 2, 3, 1, true, false);
    l.x[2] = NAN;
    tap_status(mabn_norm_forward(&l.norm, &l.io), "bn");
    tap_ok(isnan(l.y[0]) && isnan(*state_f32(&l, "running_mean")), "NaN is not hidden by ReLU");
    layer_free(&l);
}

/* ---- ranks ---- */

/* Ranks are threads: each adds, all wait, all read. */
struct meeting {
    double sum[64];
    int ranks;
};

static mabn_status meet(void *context, double *values, size_t count)
{
    struct meeting *m = context;
#pragma omp barrier
#pragma omp single
    memset(m->sum, 0, sizeof m->sum);
    for (int rank = 0; rank < m->ranks; rank++) {
        if (rank == omp_get_thread_num())
            for (size_t i = 0; i < count; i++)
                m->sum[i] += values[i];
#pragma omp barrier
    }
    memcpy(values, m->sum, count * sizeof *values);
#pragma omp barrier
    return MABN_OK;
}

static void run_ranks(struct layer *ranks, int count)
{
    int failed = 0;
#pragma omp parallel num_threads(count) reduction(+ : failed)
    failed += step(&ranks[omp_get_thread_num()]) != MABN_OK;
    tap_ok(!failed, "%d ranks", count);
}

/* Ranks with 3, 0 and 2 samples equal one batch of 5. */
static void test_sync_sane(void)
{
    enum { C = 6, HW = 4 };
    static const int samples[] = {3, 0, 2};
    struct mabn_norm_options o;
    struct meeting meeting = {{0}, 3};
    struct mabn_norm_sync sync = {.all_reduce = meet, .context = &meeting};
    struct layer whole, ranks[3];
    double dgamma[C] = {0};
    bool close = true;

    mabn_norm_options_init(&o, MABN_NORM_BN);
    layer_new(&whole, &o, 5, HW, C, true, false);
    tap_status(step(&whole), "bn of all");
    o.kind = MABN_NORM_SYNCBN;
    for (int r = 0, at = 0; r < 3; at += samples[r++]) {
        layer_new(&ranks[r], &o, samples[r], HW, C, true, false);
        ranks[r].norm.sync = &sync;
        memcpy(ranks[r].gamma, whole.gamma, sizeof(float) * C);
        memcpy(ranks[r].beta, whole.beta, sizeof(float) * C);
        memcpy(ranks[r].x, whole.x + at * HW * C, ranks[r].count * sizeof(float));
        memcpy(ranks[r].dy, whole.dy + at * HW * C, ranks[r].count * sizeof(float));
    }
    run_ranks(ranks, 3);
    for (int r = 0, at = 0; r < 3; at += samples[r++]) {
        for (size_t i = 0; i < ranks[r].count; i++) {
            size_t j = (size_t)at * HW * C + i;
            close = close && fabs(ranks[r].y[i] - whole.y[j]) < 1e-6 &&
                    fabs(ranks[r].dx[i] - whole.dx[j]) < 1e-6;
        }
        for (int c = 0; c < C; c++) {
            dgamma[c] += ranks[r].dgamma[c];
            close = close && fabs(state_f32(&ranks[r], "running_var")[c] -
                                  state_f32(&whole, "running_var")[c]) < 1e-6;
        }
    }
    tap_ok(close, "SyncBN of unequal ranks is BN of them together");
    tap_ok(error_of(whole.dgamma, dgamma, C) < 1e-6, "SyncBN: ranks' dgamma add up");
    for (int r = 0; r < 3; r++)
        layer_free(&ranks[r]);
    layer_free(&whole);
}

/* The reference's formulas, one channel, two ranks of equal size. */
static void test_sync_reference(void)
{
    enum { M = 6 };
    struct mabn_norm_options o;
    struct meeting meeting = {{0}, 2};
    struct mabn_norm_sync sync = {.all_reduce = meet, .context = &meeting};
    struct layer ranks[2];
    double mean = 0, square = 0, d[2] = {0}, a[2] = {0}, worst = 0;

    mabn_norm_options_init(&o, MABN_NORM_SYNCBN);
    o.sync_reference = true;
    for (int r = 0; r < 2; r++) {
        layer_new(&ranks[r], &o, 2, M / 2, 1, false, false);
        ranks[r].norm.sync = &sync;
        ranks[r].gamma[0] = 1.3f;
        ranks[r].beta[0] = 0.4f;
    }
    run_ranks(ranks, 2);
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < M; i++) {
            mean += ranks[r].x[i] / (2.0 * M);
            square += (double)ranks[r].x[i] * ranks[r].x[i] / (2.0 * M);
        }
    const double gamma = ranks[0].gamma[0], n = 2 * M, cf = n / (n - 1);
    const double var = cf * (square - mean * mean), s = sqrt(var + 1e-5);
    for (int r = 0; r < 2; r++)
        for (int i = 0; i < M; i++) {
            d[r] += ranks[r].dy[i] * (ranks[r].x[i] - mean);
            a[r] += ranks[r].dy[i];
        }
    double gq = 0, gm = 0;
    for (int r = 0; r < 2; r++) {
        gq += -0.5 * gamma * cf * d[r] / (s * s * s) / 2;
        gm += (-gamma * a[r] / s + gamma * cf * mean * d[r] / (s * s * s)) / 2;
    }
    for (int r = 0; r < 2; r++) {
        for (int i = 0; i < M; i++) {
            double y = gamma * (ranks[r].x[i] - mean) / s + ranks[r].beta[0];
            double dx = gamma * ranks[r].dy[i] / s + (2 * ranks[r].x[i] * gq + gm) / M;
            worst = fmax(worst, fabs(ranks[r].y[i] - y));
            worst = fmax(worst, fabs(ranks[r].dx[i] - dx));
        }
        worst = fmax(worst, fabs(ranks[r].dgamma[0] - d[r] / s));
        worst = fmax(worst, fabs(*state_f32(&ranks[r], "running_var") - (0.9 + 0.1 * var)));
        layer_free(&ranks[r]);
    }
    tap_ok(worst < 1e-6, "SyncBN as the reference has it: %.1e", worst);
}

/* ---- BN's running averages over runs; BRN's ---- */

static void test_averages(void)
{
    struct mabn_norm_options o;
    struct layer l;

    /* Runs of 2, 2 and 1 samples, one position, one channel: weights 2/5, 2/5, 1/5. */
    mabn_norm_options_init(&o, MABN_NORM_BN);
    o.norm_batch = 2;
    layer_new(&l, &o, 5, 1, 1, false, false);
    memcpy(l.x, (float[]){1, 3, 0, 8, 5}, 5 * sizeof(float));
    tap_status(step(&l), "bn");
    tap_close(*state_f32(&l, "running_mean"), 0.1 * (0.4 * 2 + 0.4 * 4 + 0.2 * 5), 1e-7, "mean");
    tap_close(*state_f32(&l, "running_var"), 0.9 + 0.1 * (0.4 * 2 + 0.4 * 32 + 0), 3e-7,
              "variance");
    tap_ok(*(int64_t *)(void *)state_f32(&l, "num_batches_tracked") == 1, "one batch tracked");
    layer_free(&l);

    mabn_norm_options_init(&o, MABN_NORM_BRN);
    layer_new(&l, &o, 4, 1, 1, false, false);
    memcpy(l.x, (float[]){1, 3, 0, 8}, 4 * sizeof(float));
    tap_status(step(&l), "brn");
    const double std = sqrt(9.5 + 1e-5); /* biased variance of 1, 3, 0, 8 */
    const double moved = 0.99 * sqrt(1 + 1e-5) + 0.01 * std;
    tap_close(*state_f32(&l, "running_var"), moved * moved - 1e-5, 3e-7, "BRN averages deviations");
    tap_close(l.y[0], l.gamma[0] * (1 - 3) / std + l.beta[0], 1e-6, "BRN is BN before its ramps");
    layer_free(&l);
}

/* ---- names, options, state, folding, records ---- */

static void test_options(void)
{
    struct mabn_norm_options o;
    struct mabn_norm norm;
    enum mabn_norm_kind kind;

    for (int k = 0; k < MABN_NORM_KINDS; k++) {
        const char *name = mabn_norm_kind_name((enum mabn_norm_kind)k);
        tap_ok(!mabn_norm_kind_parse(&kind, name) && (int)kind == k, "'%s' is read back", name);
    }
    tap_fails(mabn_norm_kind_parse(&kind, "abn"), MABN_ERR_ARG, "'abn'", "unknown norm");

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    tap_fails(mabn_norm_init(&norm, &o, 0), MABN_ERR_ARG, "channels", "no channels");
    o.window = 0;
    tap_fails(mabn_norm_init(&norm, &o, 3), MABN_ERR_ARG, "window", "window 0");
    o.window = 16;
    o.lambda = 0.5;
    tap_fails(mabn_norm_init(&norm, &o, 3), MABN_ERR_ARG, "lambda", "lambda below 1");
    o.lambda = 5;
    o.eps = NAN;
    tap_fails(mabn_norm_init(&norm, &o, 3), MABN_ERR_ARG, "eps", "eps is not a number");
    mabn_norm_options_init(&o, MABN_NORM_GN);
    tap_fails(mabn_norm_init(&norm, &o, 48), MABN_ERR_ARG, "divide", "32 groups of 48");
    mabn_norm_options_init(&o, MABN_NORM_EVONORM_S0);
    tap_fails(mabn_norm_init(&norm, &o, 48), MABN_ERR_ARG, "divide", "32 groups of 48");
    mabn_norm_options_init(&o, MABN_NORM_BRN);
    o.r_ramp_end = 4;
    tap_fails(mabn_norm_init(&norm, &o, 48), MABN_ERR_ARG, "ramps", "a ramp that ends early");
    mabn_norm_options_init(&o, MABN_NORM_MABN);
    tap_ok(!mabn_norm_init(&norm, &o, 3) && norm.options.r_start == 100, "r starts at 100");
    o.window_rule = MABN_WINDOW_ITERATION;
    o.warmup = 3;
    tap_ok(!mabn_norm_init(&norm, &o, 3) && norm.options.r_start == 1001, "r starts at 1001");
    o.warmup = 5000;
    tap_ok(!mabn_norm_init(&norm, &o, 3) && norm.options.r_start == 5001, "r starts at 5001");
}

static void describe(char *out, size_t size, const struct mabn_norm_options *o)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    struct mabn_norm norm;
    size_t used = 0;

    if (mabn_norm_init(&norm, o, 3)) return;
    int count = mabn_norm_state_list(&norm, NULL, list);
    out[0] = 0;
    for (int i = 0; i < count; i++) {
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? " " : "", list[i].name);
        for (int d = 0; d < list[i].rank; d++)
            used += (size_t)snprintf(out + used, size - used, ",%d", (int)list[i].shape[d]);
        if (list[i].dtype == MABN_NORM_I64)
            used += (size_t)snprintf(out + used, size - used, ":i64");
    }
}

static void test_state(void)
{
    struct mabn_norm_options o;
    struct layer l;
    char text[300];

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.window = 2;
    describe(text, sizeof text, &o);
    tap_str_eq(text, "running_var,3 sta_matrix,2,4 pre_x2,2,3 pre_gz,2,3 iters,1",
               "sub-batch state");
    o.window_rule = MABN_WINDOW_ITERATION;
    describe(text, sizeof text, &o);
    tap_str_eq(text, "running_var,1,3,1,1 iters,1:i64 buffer_x2,2,3 buffer_gz,2,3",
               "iteration state");
    mabn_norm_options_init(&o, MABN_NORM_BN);
    describe(text, sizeof text, &o);
    tap_str_eq(text, "running_mean,3 running_var,3 num_batches_tracked:i64", "bn's state");

    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.window = 2;
    layer_new(&l, &o, 1, 1, 3, false, false);
    tap_ok(!memcmp(state_f32(&l, "sta_matrix"), (float[]){0, .5f, .5f, 0, 0, 0, .5f, .5f},
                   8 * sizeof(float)),
           "window matrix of size 2");
    tap_ok(state_f32(&l, "pre_x2")[5] == 1 && state_f32(&l, "pre_gz")[5] == 0 &&
               *state_f32(&l, "iters") == 0,
           "initial state");
    layer_free(&l);
}

static void test_fold(void)
{
    enum { O = 3, K = 4 };
    struct mabn_norm_options o;
    struct layer l;
    float a[O], b[O], bias[O] = {.5f, -1, 2}, folded[O * K], folded_bias[O], x[K] = {1, -2, 3, .5f};
    double worst = 0;

    mabn_norm_options_init(&o, MABN_NORM_BN);
    layer_new(&l, &o, 1, 1, O, false, false);
    for (int c = 0; c < O; c++) {
        state_f32(&l, "running_mean")[c] = (float)c;
        state_f32(&l, "running_var")[c] = 2 + (float)c;
    }
    float *w = draw(O * K, 0.2, 1);
    tap_status(mabn_norm_affine(&l.norm, a, b, l.gamma, l.beta, l.io.state), "affine of bn");
    tap_status(mabn_norm_fold(folded, folded_bias, w, bias, a, b, O, K, true), "fold");
    for (int c = 0; c < O; c++) {
        double mean = 0, sum = bias[c], got = folded_bias[c];
        for (int k = 0; k < K; k++)
            mean += w[c * K + k] / (double)K;
        for (int k = 0; k < K; k++) {
            sum += (w[c * K + k] - mean) * x[k];
            got += (double)folded[c * K + k] * x[k];
        }
        double y = l.gamma[c] * (sum - c) / sqrt(2 + c + 1e-5) + l.beta[c];
        worst = fmax(worst, fabs(got - y));
    }
    tap_ok(worst < 2e-6, "a folded, centralized filter: %.1e", worst);
    for (int far = 0; far < 2; far++) { /* finite, but not when folded: a filter, a bias */
        w[K + 2] = far ? 0 : 1e30f;
        bias[1] = far ? -1e30f : 0;
        a[1] = 1e20f;
        tap_fails(mabn_norm_fold(folded, folded_bias, w, bias, a, b, O, K, far), MABN_ERR_NONFINITE,
                  "filter 1 is not finite", "overflow in folding is an error");
    }
    l.gamma[2] = 1e38f;
    state_f32(&l, "running_var")[2] = 1e-12f;
    tap_fails(mabn_norm_affine(&l.norm, a, b, l.gamma, l.beta, l.io.state), MABN_ERR_NONFINITE,
              "channel 2", "a scale that is not finite is an error");
    free(w);
    layer_free(&l);

    struct mabn_norm norm;
    mabn_norm_options_init(&o, MABN_NORM_GN);
    tap_status(mabn_norm_init(&norm, &o, 32), "gn");
    tap_fails(mabn_norm_affine(&norm, a, b, NULL, NULL, NULL), MABN_ERR_UNSUPPORTED, "fold",
              "GN does not fold");
}

static void test_record(void)
{
    struct mabn_norm_options o;
    struct layer l;
    struct mabn_norm_record r;
    const int channel = 1, none = 2;
    double mean = 0, square = 0, g1 = 0, psi = 0, quirk = 0;

    mabn_norm_options_init(&o, MABN_NORM_BN);
    o.norm_batch = 2;
    layer_new(&l, &o, 5, 3, 2, true, false);
    tap_status(mabn_norm_forward(&l.norm, &l.io), "bn");
    for (int i = 6; i < 12; i++) { /* run 1: samples 2 and 3 */
        mean += l.x[i * 2 + 1] / 6.0;
        square += (double)l.x[i * 2 + 1] * l.x[i * 2 + 1] / 6;
    }
    const double var = square - mean * mean;
    for (int i = 6; i < 12; i++) {
        double xhat = (l.x[i * 2 + 1] - mean) / sqrt(var + 1e-5);
        double first = (l.x[(6 + i % 3) * 2 + 1] - mean) / sqrt(var + 1e-5);
        double g = l.y[i * 2 + 1] > 0 ? l.dy[i * 2 + 1] : 0;
        g1 += l.gamma[1] * g / 6;
        psi += l.gamma[1] * g * xhat / 6;
        quirk += g * (l.gamma[1] * first + l.beta[1]) / 6;
    }
    tap_status(mabn_norm_record(&l.norm, &l.io, 1, &channel, 1, false, &r), "record");
    tap_close(r.mu_x, mean, 1e-6, "mu_x");
    tap_close(r.var_x, var, 1e-6, "var_x");
    tap_close(r.mu_g, g1, 1e-6, "mu_g");
    tap_close(r.mu_gy, psi, 1e-6, "mu_gy");
    l.io.y = NULL;
    tap_status(mabn_norm_record(&l.norm, &l.io, 1, &channel, 1, true, &r), "mask from x");
    tap_close(r.mu_gy, quirk, 1e-6, "mu_gy as the reference");
    tap_fails(mabn_norm_record(&l.norm, &l.io, 3, &channel, 1, false, &r), MABN_ERR_ARG, "run 3",
              "no such run");
    tap_fails(mabn_norm_record(&l.norm, &l.io, 0, &none, 1, false, &r), MABN_ERR_ARG, "channel 2",
              "no such channel");
    layer_free(&l);
}

/* ---- bfloat16: the same arithmetic on rounded arrays ---- */

static uint16_t *to_half(const float *v, size_t n)
{
    uint16_t *half = malloc((n + 1) * sizeof *half);
    mabn_bf16_narrow(half, v, (int64_t)n);
    return half;
}

static void round_values(float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        v[i] = mabn_bf16_float(mabn_bf16_round(v[i]));
}

static bool is_rounded(const uint16_t *half, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (half[i] != mabn_bf16_round(v[i])) return false;
    return true;
}

/* On arrays of bfloat16 values, a float32 layer's results, rounded, are those of the layer in
 * bfloat16. The gradients of gamma and beta and the state are the same floats. */
static void check_half(const struct mabn_norm_options *o, int64_t n, int64_t hw, int c, bool relu,
                       bool residual)
{
    struct layer l, h;
    layer_new(&l, o, n, hw, c, relu, residual);
    h = l;
    round_values(l.x, l.count);
    round_values(l.residual, l.count);
    round_values(l.dy, l.count);
    if (o->kind == MABN_NORM_FRN) round_values(l.act, (size_t)c);
    uint16_t *x = to_half(l.x, l.count), *y = to_half(l.y, l.count), *dx = to_half(l.dx, l.count),
             *r = to_half(l.residual, l.count), *dy = to_half(l.dy, l.count),
             *dr = to_half(l.dresidual, l.count);
    h.io.dtype = MABN_DTYPE_BF16;
    h.io.x = x;
    h.io.y = y;
    h.io.residual = residual ? r : NULL;
    h.io.dy = dy;
    h.io.dx = dx;
    h.io.dresidual = residual ? dr : NULL;
    const size_t state = mabn_norm_state_bytes(&l.norm);
    if (posix_memalign(&h.io.state, 64, state + 64)) abort();
    bool good = true;
    for (int call = 0; call < 4; call++) {
        float dgamma[2080];
        memcpy(h.io.state, l.io.state, state);
        good = good && !step(&h);
        memcpy(dgamma, l.dgamma, (size_t)c * sizeof *dgamma);
        good = good && !mabn_norm_forward(&l.norm, &l.io);
        round_values(l.y, l.count); /* for FRN's mask: a value just above tau is rounded to tau */
        good = good && !mabn_norm_backward(&l.norm, &l.io);
        good = good && is_rounded(y, l.y, l.count) && is_rounded(dx, l.dx, l.count) &&
               same(dgamma, l.dgamma, (size_t)c) && !memcmp(h.io.state, l.io.state, state) &&
               (!residual || is_rounded(dr, l.dresidual, l.count));
    }
    tap_ok(good, "%s in bfloat16, norm batch %d, %d channels%s%s: float32's, rounded",
           mabn_norm_kind_name(o->kind), o->norm_batch, c, relu ? ", ReLU" : "",
           residual ? ", residual" : "");
    free(h.io.state);
    void *all[] = {x, y, dx, r, dy, dr};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    layer_free(&l);
}

/* A tau that bfloat16 rounds up: all of y is raised to it, and none is above it. */
static void check_half_tau(void)
{
    enum { COUNT = 2 * 3 * 2 };
    struct mabn_norm_options o;
    struct layer l;
    uint16_t x[COUNT] = {0}, residual[COUNT] = {0}, y[COUNT], dy[COUNT], dx[COUNT], dr[COUNT];

    mabn_norm_options_init(&o, MABN_NORM_FRN);
    layer_new(&l, &o, 2, 3, 2, true, true);
    for (int c = 0; c < 2; c++) {
        l.beta[c] = -1;
        l.act[c] = 0.1f;
    }
    for (int i = 0; i < COUNT; i++)
        dy[i] = mabn_bf16_round(1);
    l.io.dtype = MABN_DTYPE_BF16;
    l.io.x = x;
    l.io.residual = residual;
    l.io.y = y;
    l.io.dy = dy;
    l.io.dx = dx;
    l.io.dresidual = dr;
    tap_status(step(&l), "frn in bfloat16");
    tap_ok(mabn_bf16_float(y[3]) > 0.1f, "tau is rounded up in y");
    tap_ok(l.dact[0] == 6 && l.dact[1] == 6 && l.dbeta[0] == 0 && dr[5] == 0,
           "a gradient that the activation cuts off goes to tau: %g", l.dact[0]);
    layer_free(&l);
}

static void test_half(void)
{
    static const int channels[] = {3, 64, 512, 2080};
    tap_ok(mabn_bf16_round(1.00390625f) == 0x3f80 && mabn_bf16_round(1.01171875f) == 0x3f82 &&
               mabn_bf16_round(-1.0f) == 0xbf80 && mabn_bf16_round(NAN) == 0x7fc0 &&
               mabn_bf16_round(1e-40f) == 1 && mabn_bf16_round(3.4e38f) == 0x7f80,
           "rounding to bfloat16: to nearest, ties to even, NaN, tiny, too large");
    for (int kind = MABN_NORM_NONE; kind < MABN_NORM_KINDS; kind++)
        for (int i = 0; i < 8; i++) {
            struct mabn_norm_options o;
            mabn_norm_options_init(&o, (enum mabn_norm_kind)kind);
            o.norm_batch = i % 2 ? 2 : 0;
            o.groups = channels[i / 2] == 3 ? 3 : 32;
            o.r_start = 2;
            o.window = 4;
            check_half(&o, 5, i < 6 ? 7 * 7 : 3, channels[i / 2], i % 3 > 0, i % 3 > 1);
        }
    check_half_tau();
}

int main(void)
{
    mabn_rng_init(&rng, 7, MABN_RNG_TEST, 0, 0);
    test_vectors();
    test_pytorch();
    test_definitions();
    test_windows();
    test_same_bits();
    test_memory();
    test_fixed();
    test_sync_sane();
    test_sync_reference();
    test_averages();
    test_options();
    test_state();
    test_fold();
    test_record();
    test_half();
    return tap_done();
}
