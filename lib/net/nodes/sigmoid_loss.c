/* Sigmoid cross-entropy with weights; or of one channel of each row against a mask of bits. */
#include "ops/sigmoid_loss.h"

#include <string.h>

#include "base/mem.h"
#include "net/nodes/shared.h"

/* ---- on the CPU ---- */

/* Every score has a target. Row by row where the rows of targets are not contiguous. */
static double all_channels(const struct mabn_net *net, const struct node *node, float *dx,
                           double scale)
{
    const struct mabn_net_sigmoid_targets *t = node->own;
    const float *x = net_read_data(net, node, 0);
    const int64_t row = net_row(net_read(net, node, 0)), stride = t->stride ? t->stride : row;
    const int64_t blocks = stride == row ? 1 : net->rows, count = row * net->rows / blocks;
    double sum = 0;
    for (int64_t i = 0; i < blocks; i++) {
        double loss;
        mabn_sigmoid_xent(&loss, dx ? dx + i * row : NULL, x + i * row, t->target + i * stride,
                          t->weight ? t->weight + i * stride : NULL, count, scale);
        sum += loss;
    }
    return sum;
}

/* The loss; with dx also its gradient. */
static double compute(const struct mabn_net *net, const struct node *node, float *dx)
{
    const struct mabn_net_sigmoid_targets *t = node->own;
    const struct node *scores = net_read(net, node, 0);
    const double scale = t->normalizer > 0 ? 1 / t->normalizer : 0;
    double loss = 0;
    if (t->channel && !t->bits)
        mabn_soft_mask_loss(&loss, dx, net_read_data(net, node, 0), t->channel, t->target,
                            net->rows, scores->h * scores->w, scores->c, scale);
    else if (t->channel)
        mabn_mask_loss(&loss, dx, net_read_data(net, node, 0), t->channel, t->bits, net->rows,
                       scores->h * scores->w, scores->c, scale);
    else if (t->target)
        loss = all_channels(net, node, dx, scale);
    else if (dx)
        memset(dx, 0, (size_t)(net->rows * net_row(scores)) * sizeof *dx);
    return loss;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    node->loss = compute(net, node, NULL);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    compute(net, node, net_dx(net, node, 0));
    return MABN_OK;
}

static const struct node_ops cpu = {.forward = forward, .backward = backward};

const struct node_kind mabn_node_sigmoid_loss = {
    .name = "sigmoid loss",
    .loss = true,
    .keeps = node_first_read,
    .describe = mabn_node_loss_describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_sigmoid_loss_cuda,
#endif
};

int mabn_net_add_sigmoid_loss(struct mabn_net *net, int scores, const char *name)
{
    struct node *node = mabn_net_add(net, &mabn_node_sigmoid_loss, name, &scores, 1);
    if (!node) return -1;
    node->own = mabn_xcalloc(1, sizeof(struct mabn_net_sigmoid_targets));
    node->h = node->w = node->c = 1;
    return mabn_net_added(net, node);
}

void mabn_net_set_sigmoid_targets(struct mabn_net *net, const char *loss,
                                  const struct mabn_net_sigmoid_targets *targets)
{
    struct node *node = mabn_net_loss_node(net, loss, &mabn_node_sigmoid_loss);
    *(struct mabn_net_sigmoid_targets *)node->own = *targets;
}
