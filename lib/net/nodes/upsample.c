/* y = fine + up(coarse): how a feature pyramid merges its levels. */
#include "ops/upsample.h"

#include "net/nodes/shared.h"

enum { FINE, COARSE };

static bool adds(const struct node *node, int k)
{
    (void)node;
    return k == COARSE;
}

/* The gradient of `fine` is the output's own. */
static bool takes_over(const struct node *node, int k)
{
    (void)node;
    return k == FINE;
}

static int over(const struct mabn_net *net, const struct node *node)
{
    (void)net;
    return node->reads[FINE];
}

struct mabn_upsample mabn_node_upsample_op(const struct mabn_net *net, const struct node *node)
{
    const struct node *coarse = net_read(net, node, COARSE);
    return (struct mabn_upsample){net->rows, node->c, coarse->h, coarse->w, node->h, node->w};
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct mabn_upsample op = mabn_node_upsample_op(net, node);
    mabn_upsample_add(net_buffer(net, node->data), net_read_data(net, node, FINE),
                      net_read_data(net, node, COARSE), &op, node->dtype);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct mabn_upsample op = mabn_node_upsample_op(net, node);
    void *dfine = net_dx(net, node, FINE), *dcoarse = net_dx(net, node, COARSE);
    const void *dy = net_buffer(net, node->grad);
    if (dcoarse) mabn_upsample_backward(dcoarse, dy, &op, node->dx_adds[COARSE], node->dtype);
    if (dfine && dfine != dy) memcpy(dfine, dy, net_row_bytes(node, net->rows));
    return MABN_OK;
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    const struct node *coarse = net_read(net, node, COARSE);
    (void)time;
    layer->forward_bytes =
        2 * mabn_net_output_bytes(net, node) + mabn_net_output_bytes(net, coarse);
    layer->backward_bytes =
        mabn_net_gradient_bytes(net, node) + mabn_net_gradient_bytes(net, coarse);
}

static const struct node_ops cpu = {.half = true, .forward = forward, .backward = backward};

const struct node_kind mabn_node_upsample = {
    .name = "upsampling",
    .adds = adds,
    .takes_over = takes_over,
    .over = over,
    .one_type = true,
    .describe = describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_upsample_cuda,
#endif
};

int mabn_net_add_upsample(struct mabn_net *net, int fine, int coarse, const char *name)
{
    struct node *node = mabn_net_add(net, &mabn_node_upsample, name, (int[]){fine, coarse}, 2);
    if (!node) return -1;
    const struct node *a = net_read(net, node, FINE), *b = net_read(net, node, COARSE);
    node->h = a->h;
    node->w = a->w;
    node->c = a->c;
    if (b->c != a->c || b->h > a->h || b->w > a->w)
        return mabn_net_refuse(
            net, mabn_fail(MABN_ERR_ARG, "'%s': the coarse map does not fit the fine one", name));
    return mabn_net_added(net, node);
}
