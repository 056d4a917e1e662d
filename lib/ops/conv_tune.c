/* Choosing the strategies of a convolution by time. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/words.h"
#include "device/tune.h"
#include "ops/conv_internal.h"

static const struct mabn_word strategies[] = {{WINOGRAD, "winograd"}, {DIRECT, "direct"},
                                              {BLOCKED, "blocked"},   {MATRIX, "matrix"},
                                              {IMPLICIT, "implicit"}, {0, NULL}};

struct trial {
    void *x, *y;
    float *weight, *dweight, *bias;
};

static void trial_release(struct trial *t)
{
    void *all[] = {t->x, t->y, t->weight, t->dweight, t->bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mabn_free(all[i]);
}

/* Packed weights may be larger than ours: four times with Winograd, and rounded up to whole
 * blocks. */
static mabn_status trial_init(struct trial *t, const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    const size_t area = (size_t)(s->kernel * s->kernel), block = 64;
    const size_t weights = ((size_t)s->out + block) * ((size_t)s->in + block) * area * 16;
    *t = (struct trial){0};
    MABN_TRY(mabn_alloc_zero(&t->x, (size_t)(s->n * s->h * s->w * s->in) * sizeof(float)));
    MABN_TRY(mabn_alloc_zero(&t->y, (size_t)(s->n * c->oh * c->ow * s->out) * sizeof(float)));
    MABN_TRY(mabn_alloc_zero((void **)&t->weight, weights));
    MABN_TRY(mabn_alloc_zero((void **)&t->dweight, weights));
    return mabn_alloc_zero((void **)&t->bias, (size_t)s->out * sizeof(float));
}

static mabn_status run_strategy(struct mabn_conv *c, int which, struct trial *t, void *scratch)
{
    const float *bias = c->options.bias ? t->bias : NULL;
    if (which == TO_DATA)
        return mabn_conv_strategy_data(c, t->x, t->y, t->weight, NULL, false, scratch);
    if (which == TO_WEIGHTS) return mabn_conv_strategy_weights(c, t->dweight, t->x, t->y, scratch);
    if (c->options.training)
        return mabn_conv_strategy_forward(c, t->y, t->x, t->weight, NULL, bias, scratch);
    return mabn_conv_strategy_infer(c, t->y, t->x, t->weight, bias, scratch);
}

/* The best of a few runs; infinite where the algorithm does not exist. */
static mabn_status time_strategy(double *seconds, const struct mabn_conv *c, int which,
                                 enum strategy strategy, struct trial *t)
{
    enum { RUNS = 5 };
    struct mabn_conv one = {
        .device = c->device, .shape = c->shape, .options = c->options, .oh = c->oh, .ow = c->ow};
    void *scratch;
    *seconds = INFINITY;
    one.strategy[which] = strategy;
    if (mabn_conv_make_strategy(&one.pass[which], &one, which)) {
        mabn_conv_pass_release(&one.pass[which]);
        return MABN_OK;
    }
    mabn_status status =
        mabn_device_scratch(c->device, &scratch, conv_round(one.pass[which].scratch) + 64);
    for (int i = 0; i < RUNS && !status; i++) {
        const double start = mabn_now();
        status = run_strategy(&one, which, t, scratch);
        const double took = mabn_now() - start;
        if (i && took < *seconds) *seconds = took; /* the first warms up */
    }
    mabn_conv_pass_release(&one.pass[which]);
    return status;
}

/* May this strategy be chosen, by timing here or by a file of choices from another machine? */
static bool is_candidate(const struct mabn_conv *c, int which, enum strategy strategy)
{
    if (strategy == MATRIX) return which != FORWARD && conv_is_product(c);
    if (strategy == IMPLICIT) return conv_is_implicit(c);
    return strategy == WINOGRAD ? conv_is_winograd(c) : true;
}

/* The fastest. The default is kept unless another is more than 5 % faster, which is more than
 * noise. */
static mabn_status time_strategies(enum strategy *best, const struct mabn_conv *c, int which)
{
    const enum strategy usual = *best;
    double seconds[STRATEGIES];
    struct trial t;
    mabn_status status = trial_init(&t, c);
    for (int w = 0; w < STRATEGIES && !status; w++) {
        seconds[w] = INFINITY;
        if (is_candidate(c, which, (enum strategy)w))
            status = time_strategy(&seconds[w], c, which, (enum strategy)w, &t);
    }
    for (int w = 0; w < STRATEGIES && !status; w++)
        if (seconds[w] < seconds[*best] && seconds[w] < 0.95 * seconds[usual])
            *best = (enum strategy)w;
    trial_release(&t);
    return status;
}

static void tune_key(char *key, size_t size, const struct mabn_conv *c, int which)
{
    static const char *const passes[] = {"forward", "to-data", "to-weights"};
    const struct mabn_conv_shape *s = &c->shape;
    const struct mabn_conv_options *o = &c->options;
    snprintf(key, size, "%s %s %s-%s %lldx%lldx%lldx%lld-%lld k%d s%d p%d%s%s%s",
             o->training || which != FORWARD ? passes[which] : "inference",
             mabn_dtype_name(o->dtype), mabn_dtype_name(o->x_dtype), mabn_dtype_name(o->y_dtype),
             (long long)s->n, (long long)s->h, (long long)s->w, (long long)s->in, (long long)s->out,
             s->kernel, s->stride, s->pad, o->bias ? " bias" : "", o->add ? " add" : "",
             o->relu ? " relu" : "");
}

/* The algorithm that was chosen before; otherwise, on a device that may time, the fastest one
 * now. */
mabn_status mabn_conv_tune_pass(struct mabn_conv *c, int which)
{
    struct mabn_tune *tune = mabn_device_tuning(c->device);
    char key[200];
    if (!tune) return MABN_OK;
    tune_key(key, sizeof key, c, which);
    const char *chosen = mabn_tune_find(tune, key);
    if (!chosen && !mabn_device_times(c->device)) return MABN_OK;
    if (!chosen) {
        MABN_TRY(time_strategies(&c->strategy[which], c, which));
        mabn_tune_add(tune, key, mabn_word_name(strategies, c->strategy[which]));
        return MABN_OK;
    }
    int known;
    if (mabn_word_parse(&known, strategies, "algorithm", chosen))
        return mabn_fail_prefix(MABN_ERR_FORMAT, "'%s': %s", mabn_tune_path(tune), key);
    if (!is_candidate(c, which, (enum strategy)known))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': %s: '%s' cannot do it", mabn_tune_path(tune), key,
                         chosen);
    c->strategy[which] = (enum strategy)known;
    return MABN_OK;
}
