/* Names, defaults and checks of the norms. */
#include "norm/options.h"

#include <math.h>
#include <string.h>

const struct mabn_word mabn_norm_kinds[] = {
    {MABN_NORM_NONE, "none"},
    {MABN_NORM_BN, "bn"},
    {MABN_NORM_BRN, "brn"},
    {MABN_NORM_SYNCBN, "syncbn"},
    {MABN_NORM_MABN, "mabn"},
    {MABN_NORM_FROZEN, "frozen"},
    {MABN_NORM_GN, "gn"},
    {MABN_NORM_LN, "ln"},
    {MABN_NORM_IN, "in"},
    {MABN_NORM_FRN, "frn"},
    {MABN_NORM_EVONORM_S0, "evonorm-s0"},
    {0, NULL},
};
const struct mabn_word mabn_window_rules[] = {
    {MABN_WINDOW_SUBBATCH, "subbatch"},
    {MABN_WINDOW_ITERATION, "iteration"},
    {0, NULL},
};

const char *mabn_norm_kind_name(enum mabn_norm_kind kind)
{
    return mabn_word_name(mabn_norm_kinds, (int)kind);
}

mabn_status mabn_norm_kind_parse(enum mabn_norm_kind *kind, const char *name)
{
    int value;
    MABN_TRY(mabn_word_parse(&value, mabn_norm_kinds, "norm", name));
    *kind = (enum mabn_norm_kind)value;
    return MABN_OK;
}

const char *mabn_window_rule_name(enum mabn_window_rule rule)
{
    return mabn_word_name(mabn_window_rules, (int)rule);
}

void mabn_norm_options_init(struct mabn_norm_options *options, enum mabn_norm_kind kind)
{
    memset(options, 0, sizeof *options);
    options->kind = kind;
    options->eps = kind == MABN_NORM_FROZEN ? 0 : kind == MABN_NORM_FRN ? 1e-6 : 1e-5;
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

void mabn_norm_options_choose(struct mabn_norm_options *options,
                              const struct mabn_norm_options *before, enum mabn_norm_kind kind)
{
    if (before->kind == kind)
        *options = *before;
    else
        mabn_norm_options_init(options, kind);
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
        return mabn_fail(MABN_ERR_ARG, "lambda must be finite and at least 1, is %g", o->lambda);
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
        return mabn_fail(MABN_ERR_ARG, "BRN's ramps must not end before they start");
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
        return mabn_fail(MABN_ERR_ARG, "eps must be finite and not negative, is %g", o.eps);
    if (!(o.momentum >= 0 && o.momentum <= 1))
        return mabn_fail(MABN_ERR_ARG, "a norm's momentum must be 0 to 1, is %g", o.momentum);
    if (o.kind == MABN_NORM_MABN) MABN_TRY(check_mabn(&o));
    if (o.kind == MABN_NORM_BRN) MABN_TRY(check_brn(&o));
    const bool grouped = o.kind == MABN_NORM_GN || o.kind == MABN_NORM_EVONORM_S0;
    if (grouped && (o.groups < 1 || channels % o.groups))
        return mabn_fail(MABN_ERR_ARG, "%d groups do not divide %d channels", o.groups, channels);
    if (o.kind == MABN_NORM_LN) o.groups = 1;
    if (o.kind == MABN_NORM_IN || o.kind == MABN_NORM_FRN) o.groups = channels;
    memset(norm, 0, sizeof *norm);
    norm->options = o;
    norm->channels = channels;
    return MABN_OK;
}

bool mabn_norm_folds(enum mabn_norm_kind kind)
{
    switch (kind) {
    case MABN_NORM_GN:
    case MABN_NORM_LN:
    case MABN_NORM_IN:
    case MABN_NORM_FRN:
    case MABN_NORM_EVONORM_S0:
        return false;
    default:
        return true;
    }
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

const char *mabn_norm_act_name(enum mabn_norm_kind kind)
{
    return kind == MABN_NORM_FRN ? "tau" : kind == MABN_NORM_EVONORM_S0 ? "v" : NULL;
}
