/* Shared by the losses on a GPU. Their targets lie on the device or come from the host with each run;
 * their value goes back to the host or stays. */
#ifndef MABN_NET_NODES_LOSSES_CUH
#define MABN_NET_NODES_LOSSES_CUH

#include "net/cuda.cuh"
#include "ops/chunks.h"

/* At the beginning of a loss's own memory; its targets follow. */
struct loss_memory {
    double parts[MABN_CHUNKS], loss;
    float normalizer; /* if it comes from the host */
    float scale;      /* of the gradient: 1/normalizer */
    float padding[60];
};

static inline char *loss_targets(const struct mabn_net *net, const struct node *node)
{
    return layer_of(net, node)->own.base + sizeof(struct loss_memory);
}

/* Where the sum is, not yet divided by the normalizer. */
static inline const double *loss_at(const struct mabn_net *net, const struct node *node)
{
    return &((const struct loss_memory *)layer_of(net, node)->own.base)->loss;
}

static inline double loss_scale(double normalizer)
{
    return normalizer > 0 ? 1 / normalizer : 0;
}

/* Make room for `bytes` of targets and compute the gradient's scale, 1/normalizer. The normalizer is
 * *normalizer_at on the device, or if that is NULL the number on the host. */
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

/* Copy rows of `row` bytes, which begin `stride` bytes apart on the host, to contiguous ones. */
static inline mabn_status loss_upload(const struct mabn_net *net, char *to, const void *from,
                                      size_t row, size_t stride)
{
    if (row == stride) return mabn_device_put(net->device, to, from, row * (size_t)net->rows);
    for (int64_t i = 0; i < net->rows; i++)
        MABN_TRY(mabn_device_put(net->device, to + (size_t)i * row,
                                 (const char *)from + (size_t)i * stride, row));
    return MABN_OK;
}

/* The kernels' outputs: the loss, and its gradient unless that is NULL. */
static inline struct mabn_cuda_loss loss_out(const struct mabn_net *net, const struct node *node,
                                             void *gradient)
{
    struct loss_memory *m = (struct loss_memory *)layer_of(net, node)->own.base;
    const struct mabn_cuda_loss out = {&m->loss, m->parts, gradient, gradient ? &m->scale : NULL};
    return out;
}

/* Fetch the value, once the kernel is queued, unless the normalizer is on the device: then it stays
 * there. */
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
