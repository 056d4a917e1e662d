/* The update of a store of parameters on a GPU, without a plan: with its own list for the kernel of
 * ops_cuda.h. Plans renew the copies they made of the parameters when they find a newer version. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/cuda.h"
#include "net/params_internal.h"
#include "ops/centralize.h"
#include "ops/ops_cuda.h"

struct params_cuda {
    struct mabn_cuda_sgd_param *list; /* on the host */
    int count;
    struct arena memory; /* on the device: the same list, then pieces and rates */
    size_t pieces_at, rates_at;
    int64_t piece_count;
    struct mabn_cuda_scaler *scaler; /* NULL: gradients are not scaled */
    double weight_decay;             /* of the list on the device */
    int no_decay_norm_bias;          /* of the list on the device; −1: it is not there yet */
};

static struct mabn_cuda_sgd_param entry(const struct mabn_params *params, int i)
{
    const struct parameter *p = &params->list[i];
    struct mabn_cuda_sgd_param s = {};
    s.param = params_weight(params, i);
    s.buffer = (float *)params->momentum.base + p->offset;
    s.grad = params_gradient(params, i);
    s.count = (int64_t)p->count;
    s.filters = p->centralize ? p->out : 0;
    s.lr_factor = (float)p->rate;
    return s;
}

static size_t aligned(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

static mabn_status place(struct mabn_params *params, struct params_cuda *c)
{
    void *base;
    c->piece_count = mabn_cuda_sgd_cut(NULL, c->list, c->count);
    const size_t pieces = (size_t)c->piece_count * sizeof(struct mabn_cuda_sgd_piece);
    c->pieces_at = aligned((size_t)c->count * sizeof *c->list);
    c->rates_at = c->pieces_at + aligned(pieces);
    const size_t bytes = c->rates_at + aligned(sizeof(struct mabn_cuda_sgd_rates));
    MABN_TRY(mabn_device_alloc(params->device, &base, bytes));
    c->memory.base = (char *)base;
    c->memory.bytes = bytes;
    struct mabn_cuda_sgd_piece *cut = (struct mabn_cuda_sgd_piece *)mabn_xmalloc(pieces + 1);
    mabn_cuda_sgd_cut(cut, c->list, c->count);
    const mabn_status status =
        mabn_device_put(params->device, c->memory.base + c->pieces_at, cut, pieces);
    free(cut);
    return status;
}

static void release(struct mabn_params *params)
{
    struct params_cuda *c = params->cuda;
    if (!c) return;
    mabn_device_release(params->device, c->memory.base, c->memory.bytes);
    mabn_device_release(params->device, c->scaler, sizeof *c->scaler);
    free(c->list);
    free(c);
    params->cuda = NULL;
}

static mabn_status prepare(struct mabn_params *params)
{
    if (params->cuda) return MABN_OK;
    struct params_cuda *c = params->cuda = (struct params_cuda *)mabn_xcalloc(1, sizeof *c);
    c->list =
        (struct mabn_cuda_sgd_param *)mabn_xcalloc((size_t)params->count + 1, sizeof *c->list);
    for (int i = 0; i < params->count; i++)
        if (params->list[i].trains) c->list[c->count++] = entry(params, i);
    c->no_decay_norm_bias = -1;
    const mabn_status status = place(params, c);
    if (status) release(params);
    return status;
}

/* Each parameter's decay, written to the device when it has changed. */
static mabn_status set_decay(struct mabn_params *params, const struct mabn_params_sgd *sgd)
{
    struct params_cuda *c = params->cuda;
    int k = 0;
    if (c->weight_decay == sgd->weight_decay && c->no_decay_norm_bias == sgd->no_decay_norm_bias)
        return MABN_OK;
    for (int i = 0; i < params->count; i++) {
        const struct parameter *p = &params->list[i];
        if (!p->trains) continue;
        c->list[k++].decay = (float)params_decay(p, sgd);
    }
    c->weight_decay = sgd->weight_decay;
    c->no_decay_norm_bias = sgd->no_decay_norm_bias;
    return mabn_device_put(params->device, c->memory.base, c->list,
                           (size_t)c->count * sizeof *c->list);
}

static mabn_status set_rates(struct mabn_params *params, const struct mabn_params_sgd *sgd)
{
    struct mabn_cuda_sgd_rates rates = {};
    rates.lr = (float)sgd->lr;
    rates.momentum = (float)sgd->momentum;
    rates.grad_scale = sgd->grad_scale != 0 ? (float)sgd->grad_scale : 1;
    return mabn_cuda_sgd_set_rates(
        (struct mabn_cuda_sgd_rates *)(params->cuda->memory.base + params->cuda->rates_at), &rates,
        mabn_cuda_stream(params->device));
}

static mabn_status update(struct mabn_params *params, const struct mabn_params_sgd *sgd)
{
    MABN_TRY(prepare(params));
    MABN_TRY(set_decay(params, sgd));
    MABN_TRY(set_rates(params, sgd));
    const char *base = params->cuda->memory.base;
    struct mabn_cuda_scaler *scaler = params->cuda->scaler;
    void *stream = mabn_cuda_stream(params->device);
    if (scaler)
        MABN_TRY(mabn_cuda_gradients_finite(&scaler->overflow,
                                            (const float *)params->gradients.base,
                                            (int64_t)params->values, stream));
    MABN_TRY(
        mabn_cuda_sgd_step((const struct mabn_cuda_sgd_param *)base,
                           (const struct mabn_cuda_sgd_piece *)(base + params->cuda->pieces_at),
                           params->cuda->piece_count,
                           (const struct mabn_cuda_sgd_rates *)(base + params->cuda->rates_at),
                           scaler, sgd->nesterov, false, stream));
    return scaler ? mabn_cuda_scaler_update(scaler, stream) : MABN_OK;
}

mabn_status mabn_params_cuda_scaler(struct mabn_params *params, struct mabn_cuda_scaler **scaler)
{
    void *p;
    MABN_TRY(prepare(params));
    *scaler = params->cuda->scaler;
    if (*scaler) return MABN_OK;
    MABN_TRY(mabn_device_alloc(params->device, &p, sizeof **scaler));
    *scaler = params->cuda->scaler = (struct mabn_cuda_scaler *)p;
    return mabn_cuda_scaler_init(*scaler, mabn_cuda_stream(params->device));
}

/* Of the gradients as the update uses them: filters of centralized weights without their means. */
static double gradient_norm(const struct mabn_params *params)
{
    const size_t bytes = params->values * sizeof(float);
    float *all = (float *)mabn_xmalloc(bytes + 1);
    double sum = 0, inverse = 1;
    struct mabn_cuda_scaler scaler = {};
    mabn_status status = mabn_device_get(params->device, all, params->gradients.base, bytes);
    if (!status && params->cuda && params->cuda->scaler) {
        status = mabn_device_get(params->device, &scaler, params->cuda->scaler, sizeof scaler);
        inverse = scaler.inverse;
    }
    for (int i = 0; i < params->count && !status; i++) {
        const struct parameter *p = &params->list[i];
        float *g = all + p->offset;
        double part = 0;
        if (!p->trains) continue;
        if (p->centralize) mabn_centralize_backward(g, g, p->out, (int64_t)p->count / p->out);
        for (size_t k = 0; k < p->count; k++)
            part += (double)g[k] * g[k];
        sum += part;
    }
    free(all);
    return status ? NAN : inverse * sqrt(sum);
}

extern "C" const struct params_backend mabn_params_on_gpu = {false, update, gradient_norm, release};
