/* Names, options, state and checks of the normalization layers; the work is the backend's. */
#include "norm/norm.h"

#include <math.h>
#include <string.h>

#include "norm/coefficients.h"
#include "norm/internal.h"

/* ---- names and options ---- */

static const char *const kind_names[MABN_NORM_KINDS] = {"none",   "bn", "brn", "syncbn", "mabn",
                                                        "frozen", "gn", "ln",  "in"};
static const char *const rule_names[] = {"subbatch", "iteration"};

const char *mabn_norm_kind_name(enum mabn_norm_kind kind)
{
    return (unsigned)kind < MABN_NORM_KINDS ? kind_names[kind] : "?";
}

mabn_status mabn_norm_kind_parse(enum mabn_norm_kind *kind, const char *name)
{
    for (int i = 0; i < MABN_NORM_KINDS; i++)
        if (!strcmp(name, kind_names[i])) {
            *kind = (enum mabn_norm_kind)i;
            return MABN_OK;
        }
    return mabn_fail(MABN_ERR_ARG,
                     "unknown norm '%s' (known: none bn brn syncbn mabn frozen gn ln in)", name);
}

const char *mabn_window_rule_name(enum mabn_window_rule rule)
{
    return (unsigned)rule < 2 ? rule_names[rule] : "?";
}

mabn_status mabn_window_rule_parse(enum mabn_window_rule *rule, const char *name)
{
    for (int i = 0; i < 2; i++)
        if (!strcmp(name, rule_names[i])) {
            *rule = (enum mabn_window_rule)i;
            return MABN_OK;
        }
    return mabn_fail(MABN_ERR_ARG, "unknown window rule '%s' (known: subbatch iteration)", name);
}

void mabn_norm_options_init(struct mabn_norm_options *options, enum mabn_norm_kind kind)
{
    memset(options, 0, sizeof *options);
    options->kind = kind;
    options->eps = kind == MABN_NORM_FROZEN ? 0 : 1e-5;
    options->momentum = kind == MABN_NORM_MABN ? 0.98 : kind == MABN_NORM_BRN ? 0.99 : 0.9;
    options->groups = 32;
    options->window_rule = MABN_WINDOW_SUBBATCH;
    options->window = 16;
    options->warmup = 100;
    options->lambda = 5;
    options->r_max = 3;
    options->d_max = 5;
    options->ramp_start = 5000;
    options->r_ramp_end = 40000;
    options->d_ramp_end = 25000;
}

static mabn_status check_mabn(struct mabn_norm_options *o)
{
    /* The sub-batch rule stores a matrix of m by 2m with every layer. */
    const int most = o->window_rule == MABN_WINDOW_SUBBATCH ? 1024 : 4096;

    if (o->window < 1 || o->window > most)
        return mabn_fail(MABN_ERR_ARG, "window must be 1 to %d, is %d", most, o->window);
    if ((unsigned)o->window_rule > 1) return mabn_fail(MABN_ERR_ARG, "unknown window rule");
    if (o->warmup < 0 || o->r_start < 0)
        return mabn_fail(MABN_ERR_ARG, "warm-up and r start must not be negative");
    if (!(o->lambda >= 1) || !isfinite(o->lambda))
        return mabn_fail(MABN_ERR_ARG, "lambda must be at least 1, is %g", o->lambda);
    if (!o->r_start)
        o->r_start = o->window_rule == MABN_WINDOW_SUBBATCH ? 100
                     : o->warmup > 1000                     ? o->warmup + 1
                                                            : 1001;
    return MABN_OK;
}

static mabn_status check_brn(const struct mabn_norm_options *o)
{
    if (!(o->r_max >= 1) || !isfinite(o->r_max) || !(o->d_max >= 0) || !isfinite(o->d_max))
        return mabn_fail(MABN_ERR_ARG, "BRN needs r_max ≥ 1 and d_max ≥ 0, has %g and %g", o->r_max,
                         o->d_max);
    if (o->ramp_start < 0 || o->r_ramp_end < o->ramp_start || o->d_ramp_end < o->ramp_start)
        return mabn_fail(MABN_ERR_ARG, "BRN's ramps must end after they start");
    return MABN_OK;
}

mabn_status mabn_norm_init(struct mabn_norm *norm, const struct mabn_norm_options *options,
                           int channels)
{
    struct mabn_norm_options o = *options;

    if ((unsigned)o.kind >= MABN_NORM_KINDS) return mabn_fail(MABN_ERR_ARG, "unknown norm");
    if (channels < 1) return mabn_fail(MABN_ERR_ARG, "a norm needs channels, has %d", channels);
    if (o.norm_batch < 0)
        return mabn_fail(MABN_ERR_ARG, "norm batch must not be negative, is %d", o.norm_batch);
    if (!(o.eps >= 0) || !isfinite(o.eps))
        return mabn_fail(MABN_ERR_ARG, "eps must not be negative, is %g", o.eps);
    if (!(o.momentum >= 0 && o.momentum <= 1))
        return mabn_fail(MABN_ERR_ARG, "a norm's momentum must be 0 to 1, is %g", o.momentum);
    if (o.kind == MABN_NORM_MABN) MABN_TRY(check_mabn(&o));
    if (o.kind == MABN_NORM_BRN) MABN_TRY(check_brn(&o));
    if (o.kind == MABN_NORM_GN && (o.groups < 1 || channels % o.groups))
        return mabn_fail(MABN_ERR_ARG, "%d groups do not divide %d channels", o.groups, channels);
    if (o.kind == MABN_NORM_LN) o.groups = 1;
    if (o.kind == MABN_NORM_IN) o.groups = channels;
    memset(norm, 0, sizeof *norm);
    norm->options = o;
    norm->channels = channels;
    return MABN_OK;
}

bool mabn_norm_folds(enum mabn_norm_kind kind)
{
    return kind != MABN_NORM_GN && kind != MABN_NORM_LN && kind != MABN_NORM_IN;
}

bool mabn_norm_measures(enum mabn_norm_kind kind)
{
    return kind != MABN_NORM_NONE && kind != MABN_NORM_FROZEN;
}

bool mabn_norm_trains(enum mabn_norm_kind kind)
{
    return mabn_norm_measures(kind);
}

bool mabn_norm_has_affine(enum mabn_norm_kind kind)
{
    return kind != MABN_NORM_NONE;
}

/* ---- state ---- */

struct list {
    struct mabn_norm_tensor *at;
    int count;
    size_t offset;
    void *base;
};

static void add(struct list *l, const char *name, enum mabn_norm_dtype dtype, int rank, int64_t d0,
                int64_t d1)
{
    struct mabn_norm_tensor *t = &l->at[l->count++];
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = dtype;
    t->rank = rank;
    for (int i = 0; i < 4; i++)
        t->shape[i] = 1;
    t->shape[0] = d0;
    t->shape[1] = d1;
    t->bytes = (size_t)(d0 * d1) * (dtype == MABN_NORM_F32 ? sizeof(float) : sizeof(int64_t));
    t->data = (char *)l->base + l->offset;
    l->offset += (t->bytes + 63) / 64 * 64;
}

static size_t list_state(const struct mabn_norm *norm, void *state, struct mabn_norm_tensor *at,
                         int *count)
{
    struct list l = {at, 0, 0, state};
    const struct mabn_norm_options *o = &norm->options;
    const int64_t c = norm->channels, m = o->window;

    switch (o->kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_SYNCBN:
        add(&l, "running_mean", MABN_NORM_F32, 1, c, 1);
        add(&l, "running_var", MABN_NORM_F32, 1, c, 1);
        add(&l, "num_batches_tracked", MABN_NORM_I64, 0, 1, 1);
        break;
    case MABN_NORM_FROZEN:
        add(&l, "running_mean", MABN_NORM_F32, 1, c, 1);
        add(&l, "running_var", MABN_NORM_F32, 1, c, 1);
        break;
    case MABN_NORM_MABN:
        if (o->window_rule == MABN_WINDOW_SUBBATCH) {
            add(&l, "running_var", MABN_NORM_F32, 1, c, 1);
            add(&l, "sta_matrix", MABN_NORM_F32, 2, m, 2 * m);
            at[l.count - 1].constant = true;
            add(&l, "pre_x2", MABN_NORM_F32, 2, m, c);
            add(&l, "pre_gz", MABN_NORM_F32, 2, m, c);
            add(&l, "iters", MABN_NORM_F32, 1, 1, 1);
        } else {
            add(&l, "running_var", MABN_NORM_F32, 4, 1, c);
            add(&l, "iters", MABN_NORM_I64, 1, 1, 1);
            add(&l, "buffer_x2", MABN_NORM_F32, 2, m, c);
            add(&l, "buffer_gz", MABN_NORM_F32, 2, m, c);
        }
        break;
    default:
        break;
    }
    *count = l.count;
    return l.offset;
}

int mabn_norm_state_list(const struct mabn_norm *norm, void *state,
                         struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS])
{
    int count;
    list_state(norm, state, list, &count);
    return count;
}

size_t mabn_norm_state_bytes(const struct mabn_norm *norm)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count;
    return list_state(norm, NULL, list, &count);
}

void mabn_norm_state_view(struct mabn_norm_state *view, const struct mabn_norm *norm, void *state)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(norm, state, list);

    memset(view, 0, sizeof *view);
    for (int i = 0; i < count; i++) {
        const char *name = list[i].name;
        float *f = (float *)list[i].data;
        if (!strcmp(name, "running_mean"))
            view->running_mean = f;
        else if (!strcmp(name, "running_var"))
            view->running_var = f;
        else if (!strcmp(name, "sta_matrix"))
            view->sta_matrix = f;
        else if (!strcmp(name, "pre_x2") || !strcmp(name, "buffer_x2"))
            view->window_x2 = f;
        else if (!strcmp(name, "pre_gz") || !strcmp(name, "buffer_gz"))
            view->window_gz = f;
        else if (!strcmp(name, "num_batches_tracked"))
            view->batches = (int64_t *)list[i].data;
        else if (list[i].dtype == MABN_NORM_F32)
            view->iters_f32 = f;
        else
            view->iters = (int64_t *)list[i].data;
    }
}

void mabn_norm_state_reset(const struct mabn_norm *norm, void *state)
{
    struct mabn_norm_state s;
    const int64_t m = norm->options.window;
    size_t bytes = mabn_norm_state_bytes(norm);

    if (!bytes) return;
    memset(state, 0, bytes);
    mabn_norm_state_view(&s, norm, state);
    for (int c = 0; c < norm->channels; c++)
        s.running_var[c] = 1;
    if (!s.sta_matrix) return;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = i + 1; j <= i + m; j++)
            s.sta_matrix[i * 2 * m + j] = (float)(1.0 / (double)m);
    for (int64_t i = 0; i < m * norm->channels; i++)
        s.window_x2[i] = 1;
}

int64_t mabn_norm_calls_until_known(const struct mabn_norm *norm, const void *state,
                                    int64_t samples)
{
    const struct mabn_norm_options *o = &norm->options;
    struct mabn_norm_state s;

    if (o->kind != MABN_NORM_MABN) return -1;
    /* Several runs under the iteration rule each move running_var. */
    if (o->window_rule == MABN_WINDOW_ITERATION && mabn_norm_runs(norm, samples) != 1) return -1;
    mabn_norm_state_view(&s, norm, (void *)state);
    const int64_t next = (s.iters ? *s.iters : (int64_t)*s.iters_f32) + 1;
    return next >= o->r_start ? 0 : o->r_start - next;
}

/* ---- memory ---- */

int64_t mabn_norm_run_samples(const struct mabn_norm *norm, int64_t samples)
{
    switch (norm->options.kind) {
    case MABN_NORM_GN:
    case MABN_NORM_LN:
    case MABN_NORM_IN:
        return 1;
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_MABN: {
        int64_t b = norm->options.norm_batch;
        return b && b < samples ? b : samples;
    }
    default:
        return samples;
    }
}

int64_t mabn_norm_runs(const struct mabn_norm *norm, int64_t samples)
{
    int64_t b = mabn_norm_run_samples(norm, samples);
    return b ? (samples + b - 1) / b : 1;
}

size_t mabn_norm_saved_bytes(const struct mabn_norm *norm, int64_t samples)
{
    size_t one = (size_t)mabn_norm_runs(norm, samples) * (size_t)norm->channels * sizeof(float);
    return 6 * ((one + 63) / 64 * 64);
}

void mabn_norm_saved_view(struct mabn_norm_saved *view, const struct mabn_norm *norm, void *saved,
                          int64_t samples)
{
    size_t one = mabn_norm_saved_bytes(norm, samples) / 6;
    char *p = (char *)saved;

    view->a = (float *)p;
    view->b = (float *)(p + one);
    view->mean = (float *)(p + 2 * one);
    view->istd = (float *)(p + 3 * one);
    view->scale = (float *)(p + 4 * one);
    view->shift = (float *)(p + 5 * one);
}

size_t mabn_norm_scratch_bytes(const struct mabn_norm *norm, int64_t samples, int64_t positions)
{
    return mabn_norm_cpu_scratch(norm, samples, positions);
}

/* ---- work ---- */

static mabn_status check_io(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    if (io->samples < 0 || io->positions < 0) return mabn_fail(MABN_ERR_ARG, "norm: negative size");
    if (mabn_norm_has_affine(norm->options.kind) && (!io->gamma || !io->beta))
        return mabn_fail(MABN_ERR_ARG, "norm: gamma and beta are missing");
    if (mabn_norm_state_bytes(norm) && !io->state)
        return mabn_fail(MABN_ERR_ARG, "norm: state is missing");
    return MABN_OK;
}

/* SyncBN's ranks meet even when one has nothing to add. */
static bool is_empty(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    return norm->options.kind != MABN_NORM_SYNCBN && (!io->samples || !io->positions);
}

mabn_status mabn_norm_forward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (is_empty(norm, io)) return MABN_OK;
    if (io->y == io->x && io->samples)
        return mabn_fail(MABN_ERR_ARG, "norm: training needs x, y must not overwrite it");
    return mabn_norm_cpu_forward(norm, io);
}

mabn_status mabn_norm_reapply(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (io->samples && io->positions) mabn_norm_cpu_reapply(norm, io);
    return MABN_OK;
}

mabn_status mabn_norm_backward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (is_empty(norm, io)) {
        size_t bytes = io->accumulate ? 0 : (size_t)norm->channels * sizeof(float);
        if (io->dgamma) memset(io->dgamma, 0, bytes);
        if (io->dbeta) memset(io->dbeta, 0, bytes);
        return MABN_OK;
    }
    if (io->relu && !io->y && io->dresidual)
        return mabn_fail(MABN_ERR_ARG, "norm: backward through ReLU with a residual needs y");
    if (io->dresidual && io->dresidual == io->dx)
        return mabn_fail(MABN_ERR_ARG, "norm: dresidual and dx must differ");
    return mabn_norm_cpu_backward(norm, io);
}

mabn_status mabn_norm_infer(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (!io->samples || !io->positions) return MABN_OK;
    return mabn_norm_cpu_infer(norm, io);
}

mabn_status mabn_norm_affine(const struct mabn_norm *norm, float *a, float *b, const float *gamma,
                             const float *beta, const void *state)
{
    const struct mabn_norm_options *o = &norm->options;
    struct mabn_norm_state s;

    if (!mabn_norm_folds(o->kind))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "norm '%s' depends on its input and cannot fold",
                         mabn_norm_kind_name(o->kind));
    mabn_norm_state_view(&s, norm, (void *)(uintptr_t)state);
    for (int c = 0; c < norm->channels; c++) {
        if (o->kind == MABN_NORM_NONE) {
            a[c] = 1;
            b[c] = 0;
            continue;
        }
        double scale = gamma[c] * mabn_known_scale(s.running_var[c], o->eps);
        double mean = s.running_mean ? s.running_mean[c] : 0;
        a[c] = (float)scale;
        b[c] = (float)(beta[c] - mean * scale);
    }
    return MABN_OK;
}

void mabn_norm_fold(float *weight_out, float *bias_out, const float *weight, const float *bias,
                    const float *a, const float *b, int64_t outputs, int64_t filter,
                    bool centralize)
{
    for (int64_t o = 0; o < outputs; o++) {
        const float *in = weight + o * filter;
        float *out = weight_out + o * filter;
        double sum = 0;
        if (centralize)
            for (int64_t i = 0; i < filter; i++)
                sum += in[i];
        double mean = filter ? sum / (double)filter : 0;
        for (int64_t i = 0; i < filter; i++)
            out[i] = (float)((in[i] - mean) * a[o]);
        bias_out[o] = (float)((bias ? (double)a[o] * bias[o] : 0) + b[o]);
    }
}
