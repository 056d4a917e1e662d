/* y = 1/(1 + e^−x). */
#include "ops/sigmoid.h"

#include "net/nodes/shared.h"

static bool keeps_output(const struct node *node)
{
    (void)node;
    return true;
}

static int over(const struct mabn_net *net, const struct node *node)
{
    (void)net;
    return node->reads[0];
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    mabn_sigmoid(net_buffer(net, node->data), net_read_data(net, node, 0),
                 net->rows * net_row(node), node->dtype);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    mabn_sigmoid_backward(net_dx(net, node, 0), net_buffer(net, node->grad),
                          net_buffer(net, node->data), net->rows * net_row(node), node->dtype);
    return MABN_OK;
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    (void)time;
    layer->forward_bytes = 2 * mabn_net_output_bytes(net, node);
    layer->backward_bytes =
        2 * mabn_net_gradient_bytes(net, node) + mabn_net_output_bytes(net, node);
}

static const struct node_ops cpu = {.half = true, .forward = forward, .backward = backward};

const struct node_kind mabn_node_sigmoid = {
    .name = "sigmoid",
    .keeps_output = keeps_output,
    .takes_over = node_first_read,
    .over = over,
    .one_type = true,
    .describe = describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_sigmoid_cuda,
#endif
};

int mabn_net_add_sigmoid(struct mabn_net *net, int x)
{
    struct node *node = mabn_net_add(net, &mabn_node_sigmoid, "sigmoid", &x, 1);
    if (!node) return -1;
    const struct node *in = net_read(net, node, 0);
    node->h = in->h;
    node->w = in->w;
    node->c = in->c;
    return mabn_net_added(net, node);
}
