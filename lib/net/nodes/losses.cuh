/* What the losses on a GPU share: where their targets lie, which are there or come from the host with
 * each run, and how their value gets back, or stays. */
#ifndef MABN_NET_NODES_LOSSES_CUH
#define MABN_NET_NODES_LOSSES_CUH

#include "net/cuda.cuh"
#include "ops/chunks.h"

/* At the begin of a loss's own memory; its targets come after it. */
struct loss_memory {
    double parts[MABN_CHUNKS], loss;
    float normalizer; /* the host's */
    float scale;      /* of the gradient: 1/normalizer */
    float padding[60];
};

static inline char *loss_targets(const struct mabn_net *net, const struct node *node)
{
    return layer_of(net, node)->own.base + sizeof(struct loss_memory);
}

/* Where the bare sum is. */
static inline const double *loss_at(const struct mabn_net *net, const struct node *node)
{
    return &((const struct loss_memory *)layer_of(net, node)->own.base)->loss;
}

static inline double loss_scale(double normalizer)
{
    return normalizer > 0 ? 1 / normalizer : 0;
}

/* Room for `bytes` of targets, and the scale in its place: 1/normalizer, of the number on the host or,
 * where there is one, on the device. */
static inline mabn_status loss_begin(struct mabn_net *net, const struct node *node, size_t bytes,
                                     double normalizer, const float *normalizer_at)
{
    const struct net_cuda *c = net->cuda;
    const float host = (float)normalizer;
    MABN_TRY(mabn_net_cuda_own(net, node, sizeof(struct loss_memory) + bytes));
    struct loss_memory *m = (struct loss_memory *)layer_of(net, node)->own.base;
    if (!normalizer_at) {
        MABN_TRY(mabn_device_put(net->device, &m->normalizer, &host, sizeof host));
        normalizer_at = &m->normalizer;
    }
    return mabn_cuda_loss_share(&m->scale, normalizer_at, c->scaler ? &c->scaler->scale : NULL,
                                c->stream);
}

/* Rows of `row` bytes that lie `stride` bytes apart on the host, one behind another. */
static inline mabn_status loss_upload(const struct mabn_net *net, char *to, const void *from,
                                      size_t row, size_t stride)
{
    if (row == stride) return mabn_device_put(net->device, to, from, row * (size_t)net->rows);
    for (int64_t i = 0; i < net->rows; i++)
        MABN_TRY(mabn_device_put(net->device, to + (size_t)i * row,
                                 (const char *)from + (size_t)i * stride, row));
    return MABN_OK;
}

/* For the kernels: the loss alone, or its gradient as well. */
static inline struct mabn_cuda_loss loss_out(const struct mabn_net *net, const struct node *node,
                                             void *gradient)
{
    struct loss_memory *m = (struct loss_memory *)layer_of(net, node)->own.base;
    const struct mabn_cuda_loss out = {&m->loss, m->parts, gradient, gradient ? &m->scale : NULL};
    return out;
}

/* The value, once the kernel is queued; it stays where its normalizer is. */
static inline mabn_status loss_end(const struct mabn_net *net, struct node *node, double normalizer,
                                   const float *normalizer_at)
{
    if (normalizer_at) return MABN_OK;
    const struct loss_memory *m = (const struct loss_memory *)layer_of(net, node)->own.base;
    MABN_TRY(mabn_device_get(net->device, &node->loss, &m->loss, sizeof node->loss));
    node->loss *= loss_scale(normalizer);
    return MABN_OK;
}

#endif
