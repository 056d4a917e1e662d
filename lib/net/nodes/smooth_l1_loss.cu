/* Smooth L1 between boxes on a GPU, with weights. */
#include "net/nodes/losses.cuh"
#include "net/nodes/shared.h"

struct layout {
    int64_t boxes; /* of one row */
    size_t all;    /* of all live rows */
};

static struct layout layout_of(const struct mabn_net *net, const struct node *node)
{
    const struct smooth_l1_own *own = (const struct smooth_l1_own *)node->own;
    const int64_t boxes = net_row(net_read(net, node, 0)) / (4 * own->options.groups);
    const struct layout layout = {boxes, (size_t)(boxes * net->rows)};
    return layout;
}

/* On the device: targets, then weights, then groups. */
static mabn_status upload(struct mabn_net *net, const struct node *node,
                          const struct mabn_net_box_targets *t)
{
    const struct layout l = layout_of(net, node);
    const size_t value = sizeof(float), row = (size_t)l.boxes * value;
    const size_t stride = (size_t)(t->stride ? t->stride : l.boxes) * value;
    MABN_TRY(loss_begin(net, node, t->on_device ? 0 : 6 * l.all * value, t->normalizer,
                        t->normalizer_at));
    if (t->on_device) return MABN_OK;
    char *to = loss_targets(net, node);
    MABN_TRY(loss_upload(net, to, t->target, 4 * row, 4 * stride));
    if (t->weight) MABN_TRY(loss_upload(net, to + 4 * l.all * value, t->weight, row, stride));
    return t->group ? loss_upload(net, to + 5 * l.all * value, t->group, row, stride) : MABN_OK;
}

static mabn_status compute(const struct mabn_net *net, const struct node *node, void *gradient)
{
    const struct smooth_l1_own *own = (const struct smooth_l1_own *)node->own;
    const struct layout l = layout_of(net, node);
    const struct mabn_smooth_l1 op = {(int64_t)l.all, own->options.groups, own->options.beta, 1};
    const struct mabn_cuda_loss out = loss_out(net, node, gradient);
    const float *targets = (const float *)loss_targets(net, node);
    const float *weight = own->targets.weight ? targets + 4 * l.all : NULL;
    const int32_t *group = own->targets.group ? (const int32_t *)(targets + 5 * l.all) : NULL;
    if (own->targets.on_device) {
        targets = own->targets.target;
        weight = own->targets.weight;
        group = own->targets.group;
    }
    return mabn_cuda_smooth_l1(&out, (const float *)net_read_data(net, node, 0), targets, group,
                               weight, &op, net->dtype, net->cuda->stream);
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct mabn_net_box_targets *t = &((const struct smooth_l1_own *)node->own)->targets;
    node->loss = 0;
    if (!t->target) return MABN_OK;
    MABN_TRY(upload(net, node, t));
    MABN_TRY(compute(net, node, NULL));
    return loss_end(net, node, t->normalizer, t->normalizer_at);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct mabn_net_box_targets *t = &((const struct smooth_l1_own *)node->own)->targets;
    void *dx = net_dx(net, node, 0);
    if (t->target) return compute(net, node, dx);
    return mabn_net_cuda_clear(net, dx, rows_bytes(net, net_read(net, node, 0)));
}

extern "C" const struct node_ops mabn_node_smooth_l1_loss_cuda = {
    false, NULL, forward, backward, NULL, NULL, NULL, NULL, NULL, NULL};
