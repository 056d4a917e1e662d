/* Smooth L1 between boxes, with weights. */
#include "ops/smooth_l1.h"

#include <string.h>

#include "base/mem.h"
#include "net/nodes/shared.h"

/* ---- on the CPU ---- */

/* The loss; with dx also its gradient. Row by row where the rows of targets are not contiguous. */
static double compute(const struct mabn_net *net, const struct node *node, float *dx)
{
    const struct smooth_l1_own *own = node->own;
    const struct mabn_net_box_targets *t = &own->targets;
    const float *x = net_read_data(net, node, 0);
    const int64_t row = net_row(net_read(net, node, 0)), boxes = row / (4 * own->options.groups);
    const int64_t stride = t->stride ? t->stride : boxes;
    const int64_t blocks = stride == boxes ? 1 : net->rows;
    const struct mabn_smooth_l1 op = {boxes * net->rows / blocks, own->options.groups,
                                      own->options.beta, t->normalizer > 0 ? 1 / t->normalizer : 0};
    double sum = 0;
    for (int64_t i = 0; i < blocks; i++) {
        double loss;
        mabn_smooth_l1(&loss, dx ? dx + i * row : NULL, x + i * row, t->target + 4 * i * stride,
                       t->group ? t->group + i * stride : NULL,
                       t->weight ? t->weight + i * stride : NULL, &op);
        sum += loss;
    }
    return sum;
}

static bool has_targets(const struct node *node)
{
    return ((const struct smooth_l1_own *)node->own)->targets.target != NULL;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    node->loss = has_targets(node) ? compute(net, node, NULL) : 0;
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    float *dx = net_dx(net, node, 0);
    if (has_targets(node))
        compute(net, node, dx);
    else
        memset(dx, 0, (size_t)(net->rows * net_row(net_read(net, node, 0))) * sizeof *dx);
    return MABN_OK;
}

static const struct node_ops cpu = {.forward = forward, .backward = backward};

const struct node_kind mabn_node_smooth_l1_loss = {
    .name = "smooth L1 loss",
    .loss = true,
    .keeps = node_first_read,
    .describe = mabn_node_loss_describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_smooth_l1_loss_cuda,
#endif
};

int mabn_net_add_smooth_l1_loss(struct mabn_net *net, int scores, const char *name,
                                const struct mabn_net_smooth_l1 *options)
{
    struct node *node = mabn_net_add(net, &mabn_node_smooth_l1_loss, name, &scores, 1);
    if (!node) return -1;
    struct smooth_l1_own *own = node->own = mabn_xcalloc(1, sizeof *own);
    own->options = *options;
    node->h = node->w = node->c = 1;
    if (options->groups < 1 || net_row(net_read(net, node, 0)) % (4 * options->groups))
        return mabn_net_refuse(net, mabn_fail(MABN_ERR_ARG,
                                              "'%s': %lld scores cannot be divided into boxes of "
                                              "four for %d groups",
                                              name, (long long)net_row(net_read(net, node, 0)),
                                              options->groups));
    return mabn_net_added(net, node);
}

void mabn_net_set_box_targets(struct mabn_net *net, const char *loss,
                              const struct mabn_net_box_targets *targets)
{
    struct node *node = mabn_net_loss_node(net, loss, &mabn_node_smooth_l1_loss);
    ((struct smooth_l1_own *)node->own)->targets = *targets;
}
