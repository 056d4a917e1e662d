/* Sigmoid cross-entropy on a GPU, with weights, or of one channel of each row against a mask. */
#include "net/losses.h"
#include "net/nodes/losses.cuh"

/* Targets on the device: those of every score, then their weights; or the rows' channels, then
 * their masks. */
static mabn_status upload(struct mabn_net *net, const struct node *node,
                          const struct mabn_net_sigmoid_targets *t)
{
    const struct node *scores = net_read(net, node, 0);
    const size_t n = (size_t)net->rows, row = (size_t)net_row(scores) * sizeof(float);
    const size_t stride = t->stride ? (size_t)t->stride * sizeof(float) : row;
    const size_t pixels = (size_t)(scores->h * scores->w);
    if (t->on_device) return loss_begin(net, node, 0, t->normalizer, t->normalizer_at);
    if (t->channel) {
        MABN_TRY(
            loss_begin(net, node, n * (sizeof(int32_t) + pixels), t->normalizer, t->normalizer_at));
        char *to = loss_targets(net, node);
        MABN_TRY(mabn_device_put(net->device, to, t->channel, n * sizeof(int32_t)));
        return mabn_device_put(net->device, to + n * sizeof(int32_t), t->bits, n * pixels);
    }
    MABN_TRY(loss_begin(net, node, 2 * n * row, t->normalizer, t->normalizer_at));
    char *to = loss_targets(net, node);
    MABN_TRY(loss_upload(net, to, t->target, row, stride));
    return t->weight ? loss_upload(net, to + n * row, t->weight, row, stride) : MABN_OK;
}

static mabn_status compute(const struct mabn_net *net, const struct node *node, void *gradient)
{
    const struct mabn_net_sigmoid_targets *t = (const struct mabn_net_sigmoid_targets *)node->own;
    const struct node *scores = net_read(net, node, 0);
    const struct mabn_cuda_loss out = loss_out(net, node, gradient);
    const char *targets = loss_targets(net, node);
    const float *x = (const float *)net_read_data(net, node, 0);
    const int64_t count = net->rows * net_row(scores);
    if (t->channel) {
        const int32_t *channel = t->on_device ? t->channel : (const int32_t *)targets;
        const uint8_t *bits = (const uint8_t *)targets + (size_t)net->rows * sizeof(int32_t);
        return mabn_cuda_mask_loss(&out, x, channel, t->on_device ? t->bits : bits, net->rows,
                                   scores->h * scores->w, scores->c, net->dtype, net->cuda->stream);
    }
    const float *target = (const float *)targets, *weight = t->weight ? target + count : NULL;
    if (t->on_device) {
        target = t->target;
        weight = t->weight;
    }
    return mabn_cuda_sigmoid_xent(&out, x, target, weight, count, net->dtype, net->cuda->stream);
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct mabn_net_sigmoid_targets *t = (const struct mabn_net_sigmoid_targets *)node->own;
    node->loss = 0;
    if (t->channel && !t->bits)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': masks between 0 and 1 are for the CPU alone",
                         node->name);
    if (!t->channel && !t->target) return MABN_OK;
    MABN_TRY(upload(net, node, t));
    MABN_TRY(compute(net, node, NULL));
    return loss_end(net, node, t->normalizer, t->normalizer_at);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct mabn_net_sigmoid_targets *t = (const struct mabn_net_sigmoid_targets *)node->own;
    void *dx = net_dx(net, node, 0);
    if (t->channel || t->target) return compute(net, node, dx);
    return mabn_net_cuda_clear(net, dx, rows_bytes(net, net_read(net, node, 0)));
}

extern "C" const struct node_ops mabn_node_sigmoid_loss_cuda = {
    false, NULL, forward, backward, NULL, NULL, NULL, NULL, NULL, NULL};
