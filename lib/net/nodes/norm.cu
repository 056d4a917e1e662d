/* A normalization layer on a GPU. Part of its work may be fused into its neighbours
 * (join_cuda.cu). */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdlib.h>

#include "base/mem.h"
#include "net/cuda.cuh"
#include "net/nodes/shared.h"

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    struct mabn_norm_cuda_io *io = &layer_of(net, node)->io;
    const struct node *x = net_read(net, node, 0), *shortcut = net_read(net, node, 1);
    io->samples = net->options.batch;
    io->positions = node->h * node->w;
    io->dtype = net->dtype;
    io->relu = node->io.relu;
    io->gamma = net_weight(net, node->weight);
    io->beta = net_weight(net, node->bias);
    io->act = net_weight(net, node->act);
    io->state = params_state(net->params, node->state);
    io->saved = memory(net, node->extra);
    io->x = memory(net, x->data);
    io->residual = shortcut ? memory(net, shortcut->data) : NULL;
    io->stream = net->cuda->stream;
    io->scaler = net->cuda->scaler;
    net_request_scratch(
        net, 0, net_align(mabn_norm_cuda_scratch_bytes(&node->norm, io->samples, io->positions)));
    if (!net->options.training) return MABN_OK;
    io->dy = memory(net, node->grad);
    io->dx = net_dx(net, node, 0);
    io->dresidual = shortcut ? net_dx(net, node, 1) : NULL;
    io->dgamma = net_gradient(net, node->weight);
    io->dbeta = net_gradient(net, node->bias);
    io->dact = net_gradient(net, node->act);
    return MABN_OK;
}

static struct mabn_norm_cuda_io *bind_run(struct mabn_net *net, const struct node *node)
{
    struct mabn_norm_cuda_io *io = &layer_of(net, node)->io;
    io->scratch = net->cuda->scratch;
    io->samples = net->rows;
    io->live = net->live;
    return io;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct node *conv = node->neighbour < 0 ? NULL : &net->nodes[node->neighbour];
    if (node->folded >= 0) return mabn_net_cuda_infer_conv(net, &net->nodes[node->folded], node);
    if (conv && mabn_net_cuda_forward_joins(net, conv))
        return mabn_net_cuda_forward_joined(net, conv);
    if (conv && mabn_net_cuda_forward_sums(net, conv))
        return mabn_net_cuda_forward_summed(net, node);
    struct mabn_norm_cuda_io *io = bind_run(net, node);
    io->y = memory(net, node->data);
    if (!net->options.training) return mabn_norm_cuda_infer(&node->norm, io);
    io->known = layer_of(net, node)->may_know && net->cuda->until_known == 0;
    return mabn_norm_cuda_forward(&node->norm, io);
}

static mabn_status record(struct mabn_net *net, const struct node *node);

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    struct mabn_norm_cuda_io *io = bind_run(net, node);
    /* An output that was not kept may have been overwritten. */
    io->y = mabn_node_norm_has_mask(node) ? memory(net, node->data) : NULL;
    io->accumulate = net_adds(net, node);
    if (net->record_channel_count) MABN_TRY(record(net, node)); /* before dy may be overwritten */
    return mabn_norm_cuda_backward(&node->norm, io);
}

static mabn_status meet(struct mabn_net *net, struct node *node, bool backwards)
{
    if (!mabn_node_norm_meets(node)) return MABN_OK;
    MABN_TRY(mabn_device_scratch(net->device, &net->cuda->scratch, net->scratch_bytes));
    struct mabn_norm_cuda_io *io = bind_run(net, node);
    io->y = memory(net, node->data);
    io->accumulate = net_adds(net, node);
    return backwards ? mabn_norm_cuda_backward(&node->norm, io)
                     : mabn_norm_cuda_forward(&node->norm, io);
}

static mabn_status remake(struct mabn_net *net, struct node *node)
{
    struct mabn_norm_cuda_io *io = bind_run(net, node);
    io->y = memory(net, node->again);
    return mabn_norm_cuda_reapply(&node->norm, io);
}

extern "C" const struct node_ops mabn_node_norm_cuda = {false, prepare, forward, backward, remake,
                                                        NULL,  NULL,    NULL,    NULL,     meet};

/* ---- looking inside ---- */

/* Copy activations to the host as float32; gradients are divided by the loss scale. */
static mabn_status fetch_floats(const struct mabn_net *net, float **out, const void *from,
                                size_t count, float scale)
{
    const size_t bytes = count * mabn_dtype_size(net->dtype);
    *out = NULL;
    if (!from) return MABN_OK;
    float *values = *out = (float *)mabn_xmalloc(count * sizeof *values + 1);
    if (!is_half(net)) return mabn_device_get(net->device, values, from, bytes);
    void *raw = mabn_xmalloc(bytes + 1);
    const mabn_status status = mabn_device_get(net->device, raw, from, bytes);
    for (size_t i = 0; i < count && !status; i++)
        values[i] = scale * (net->dtype == MABN_DTYPE_BF16
                                 ? __bfloat162float(((const __nv_bfloat16 *)raw)[i])
                                 : __half2float(((const __half *)raw)[i]));
    free(raw);
    return status;
}

static mabn_status fetch_bytes(const struct mabn_net *net, void **out, const void *from,
                               size_t bytes)
{
    *out = NULL;
    if (!from) return MABN_OK;
    *out = mabn_xmalloc(bytes + 1);
    return mabn_device_get(net->device, *out, from, bytes);
}

/* The CPU's code records, from copies of the first run's activations and of the small arrays. */
static mabn_status record(struct mabn_net *net, const struct node *node)
{
    const struct mabn_norm_cuda_io *d = &layer_of(net, node)->io;
    const size_t c = (size_t)node->c;
    const size_t count =
        (size_t)(mabn_norm_run_samples(&node->norm, d->samples) * d->positions) * c;
    const size_t state_bytes = net->params->states[node->state].bytes;
    void *state = NULL, *saved = NULL, *gamma = NULL, *beta = NULL, *act = NULL;
    float *x = NULL, *y = NULL, *dy = NULL, scale = 1;
    struct mabn_norm_io io = node->io;
    mabn_status status;
    if (net->cuda->scaler)
        MABN_TRY(mabn_device_get(net->device, &scale, &net->cuda->scaler->inverse, sizeof scale));
    MABN_TRY_GOTO(fetch_bytes(net, &state, state_bytes ? d->state : NULL, state_bytes), out);
    MABN_TRY_GOTO(
        fetch_bytes(net, &saved, d->saved, mabn_norm_saved_bytes(&node->norm, d->samples)), out);
    MABN_TRY_GOTO(fetch_bytes(net, &gamma, d->gamma, c * sizeof(float)), out);
    MABN_TRY_GOTO(fetch_bytes(net, &beta, d->beta, c * sizeof(float)), out);
    MABN_TRY_GOTO(fetch_bytes(net, &act, d->act, c * sizeof(float)), out);
    MABN_TRY_GOTO(fetch_floats(net, &x, d->x, count, 1), out);
    MABN_TRY_GOTO(fetch_floats(net, &y, d->y, count, 1), out);
    MABN_TRY_GOTO(fetch_floats(net, &dy, d->dy, count, scale), out);
    io.samples = d->samples;
    io.positions = d->positions;
    io.gamma = (const float *)gamma;
    io.beta = (const float *)beta;
    io.act = (const float *)act;
    io.state = state;
    io.saved = saved;
    io.x = x;
    io.y = y;
    io.dy = dy;
    status = mabn_net_record_norm(net, node, &io);
out:
    free(state);
    free(saved);
    free(gamma);
    free(beta);
    free(act);
    free(x);
    free(y);
    free(dy);
    return status;
}
