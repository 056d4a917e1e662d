/* Max pooling, and the mean over an image. */
#include "ops/pool.h"

#include "net/nodes/shared.h"

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    const struct node *x = net_read(net, node, 0);
    const double winners = node->extra >= 0 ? (double)net_values(net, node) : 0;
    (void)time;
    layer->forward_bytes =
        mabn_net_output_bytes(net, x) + mabn_net_output_bytes(net, node) + winners;
    layer->backward_bytes =
        mabn_net_gradient_bytes(net, x) + mabn_net_gradient_bytes(net, node) + winners;
}

/* ---- max ---- */

/* One byte an output: the winner's place in its window. */
static size_t winner_bytes(const struct mabn_net *net, const struct node *node)
{
    return (size_t)net_values(net, node);
}

static struct mabn_pool_shape pool_shape(const struct mabn_net *net, const struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    return (struct mabn_pool_shape){net->rows,         x->h,          x->w, x->c, node->conv.kernel,
                                    node->conv.stride, node->conv.pad};
}

static mabn_status max_forward(struct mabn_net *net, struct node *node)
{
    const struct mabn_pool_shape shape = pool_shape(net, node);
    return mabn_maxpool_forward(net_buffer(net, node->data), net_buffer(net, node->extra),
                                net_read_data(net, node, 0), &shape, node->dtype);
}

static mabn_status max_backward(struct mabn_net *net, struct node *node)
{
    const struct mabn_pool_shape shape = pool_shape(net, node);
    if (!net_read(net, node, 0)->trains) return MABN_OK;
    return mabn_maxpool_backward(net_dx(net, node, 0), net_buffer(net, node->grad),
                                 net_buffer(net, node->extra), &shape, node->dtype);
}

static const struct node_ops max_cpu = {
    .half = true, .forward = max_forward, .backward = max_backward};

const struct node_kind mabn_node_max_pool = {
    .name = "max pool",
    .saved_bytes = winner_bytes,
    .one_type = true,
    .attributes = mabn_node_window_attributes,
    .describe = describe,
    .cpu = &max_cpu,
#if MABN_CUDA
    .cuda = &mabn_node_max_pool_cuda,
#endif
};

int mabn_net_add_max_pool(struct mabn_net *net, int x, int kernel, int stride, int pad)
{
    struct node *node = mabn_net_add(net, &mabn_node_max_pool, "max-pool", &x, 1);
    if (!node) return -1;
    const struct node *in = net_read(net, node, 0);
    node->conv = (struct mabn_net_conv){.kernel = kernel, .stride = stride, .pad = pad};
    node->h = mabn_pool_out(in->h, kernel, stride, pad);
    node->w = mabn_pool_out(in->w, kernel, stride, pad);
    node->c = in->c;
    if (node->h < 1 || node->w < 1)
        return mabn_net_refuse(net,
                               mabn_fail(MABN_ERR_ARG, "the image is too small to pool: %lld×%lld",
                                         (long long)in->h, (long long)in->w));
    return mabn_net_added(net, node);
}

/* ---- mean ---- */

static mabn_status mean_forward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    mabn_avgpool_forward(net_buffer(net, node->data), net_read_data(net, node, 0), net->rows,
                         x->h * x->w, x->c, node->dtype);
    return MABN_OK;
}

static mabn_status mean_backward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    if (!x->trains) return MABN_OK;
    mabn_avgpool_backward(net_dx(net, node, 0), net_buffer(net, node->grad), net->rows, x->h * x->w,
                          x->c, node->dtype);
    return MABN_OK;
}

static const struct node_ops mean_cpu = {
    .half = true, .forward = mean_forward, .backward = mean_backward};

const struct node_kind mabn_node_global_pool = {
    .name = "mean pool",
    .one_type = true,
    .describe = describe,
    .cpu = &mean_cpu,
#if MABN_CUDA
    .cuda = &mabn_node_global_pool_cuda,
#endif
};

int mabn_net_add_global_pool(struct mabn_net *net, int x)
{
    struct node *node = mabn_net_add(net, &mabn_node_global_pool, "global-pool", &x, 1);
    if (!node) return -1;
    node->h = node->w = 1;
    node->c = net_read(net, node, 0)->c;
    return mabn_net_added(net, node);
}
