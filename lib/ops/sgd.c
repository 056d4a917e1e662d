/* SGD with momentum. One pass over parameter, gradient and buffer; a centralized weight's gradient
 * is centralized row by row on the way, while the row is in the cache. */
#include "ops/sgd.h"

#include "ops/centralize.h"

void mabn_sgd_options_init(struct mabn_sgd_options *options)
{
    options->momentum = 0.9;
    options->nesterov = false;
    options->reference = false;
    options->grad_scale = 1;
}

struct step {
    float lr, momentum, decay, scale, mean; /* mean: of the scaled gradient, to be subtracted */
};

MABN_CLONES static void step_torch(float *p, float *buf, const float *grad, int64_t n,
                                   struct step s)
{
    for (int64_t i = 0; i < n; i++) {
        const float d = (grad[i] * s.scale - s.mean) + s.decay * p[i];
        buf[i] = s.momentum * buf[i] + d;
        p[i] -= s.lr * buf[i];
    }
}

MABN_CLONES static void step_nesterov(float *p, float *buf, const float *grad, int64_t n,
                                      struct step s)
{
    for (int64_t i = 0; i < n; i++) {
        const float d = (grad[i] * s.scale - s.mean) + s.decay * p[i];
        buf[i] = s.momentum * buf[i] + d;
        p[i] -= s.lr * (d + s.momentum * buf[i]);
    }
}

MABN_CLONES static void step_reference(float *p, float *buf, const float *grad, int64_t n,
                                       struct step s)
{
    for (int64_t i = 0; i < n; i++) {
        buf[i] = (s.momentum * buf[i] + (grad[i] * s.scale - s.mean)) + s.decay * p[i];
        p[i] -= s.lr * buf[i];
    }
}

static void step_row(const struct mabn_sgd_options *o, const struct mabn_sgd_param *param,
                     int64_t begin, int64_t count, struct step s, bool centralize)
{
    const float *grad = param->grad + begin;

    if (centralize) s.mean = (float)(mabn_filter_mean(grad, count) * s.scale);
    (o->reference  ? step_reference
     : o->nesterov ? step_nesterov
                   : step_torch)(param->param + begin, param->buffer + begin, grad, count, s);
}

static void step_param(const struct mabn_sgd_options *o, double lr,
                       const struct mabn_sgd_param *param)
{
    const struct step s = {(float)(lr * param->lr_factor), (float)o->momentum, (float)param->decay,
                           (float)o->grad_scale, 0};
    const bool centralize = param->filters > 0;
    const int64_t row = centralize ? param->count / param->filters : 16384;

#pragma omp parallel for schedule(static) if (param->count > 16384)
    for (int64_t begin = 0; begin < param->count; begin += row)
        step_row(o, param, begin, begin + row < param->count ? row : param->count - begin, s,
                 centralize);
}

void mabn_sgd_step(const struct mabn_sgd_options *options, double lr,
                   const struct mabn_sgd_param *params, int count)
{
    for (int i = 0; i < count; i++)
        if (params[i].count) step_param(options, lr, &params[i]);
}
