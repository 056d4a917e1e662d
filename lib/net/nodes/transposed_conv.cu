/* Transposed convolution on a GPU. Its matrix product is the data gradient of a 1×1 convolution
 * (ops_cuda.h). The product's result g, of the output's size, lies in scratch behind the product's own;
 * mabn_cuda_interleave then puts it in its places. */
#include "net/cuda.cuh"
#include "net/nodes/shared.h"

/* The 1×1 convolution in the opposite direction. */
static struct mabn_conv_shape conv_shape(const struct mabn_net *net, const struct node *node,
                                         int64_t rows)
{
    const struct node *x = net_read(net, node, 0);
    return {rows, x->h, x->w, 4 * node->c, x->c, 1, 1, 0};
}

static void *own_scratch(const struct mabn_net *net, const struct node *node)
{
    return (char *)net->cuda->scratch +
           net_align(mabn_conv_cuda_workspace(layer_of(net, node)->conv));
}

static size_t whole_bytes(const struct mabn_net *net, const struct node *node)
{
    return net_align((size_t)net_values(net, node) * mabn_dtype_size(net->dtype));
}

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    const size_t product = net_align(mabn_conv_cuda_workspace(layer_of(net, node)->conv));
    net_request_scratch(net, 0, product + whole_bytes(net, node));
    return MABN_OK;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct mabn_transposed_conv op = mabn_node_transposed_conv_op(net, node);
    const struct layer *layer = layer_of(net, node);
    const struct net_cuda *c = net->cuda;
    void *g = own_scratch(net, node);
    MABN_TRY(mabn_conv_cuda_backward_data(layer->conv, g, net_read_data(net, node, 0), layer->work,
                                          false, c->scratch, c->stream));
    return mabn_cuda_interleave(memory(net, node->data), g, net_weight(net, node->bias), &op, false,
                                net->dtype, c->stream);
}

static mabn_status backward_weights(struct mabn_net *net, const struct node *node,
                                    const struct mabn_transposed_conv *op, const void *dg)
{
    const struct net_cuda *c = net->cuda;
    struct net_cuda_gradient to;
    if (!net_gradient(net, node->weight)) return MABN_OK;
    mabn_net_cuda_gradient_begin(net, node, &to);
    MABN_TRY(mabn_conv_cuda_backward_weights(layer_of(net, node)->conv, to.weight, NULL, dg,
                                             net_read_data(net, node, 0), c->scratch, c->stream));
    MABN_TRY(mabn_cuda_column_sums(to.bias, memory(net, node->grad), 4 * op->n * op->h * op->w,
                                   op->out, net->dtype, c->stream));
    return mabn_net_cuda_gradient_end(net, node, &to);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct mabn_transposed_conv op = mabn_node_transposed_conv_op(net, node);
    const struct node *x = net_read(net, node, 0);
    const struct layer *layer = layer_of(net, node);
    const struct net_cuda *c = net->cuda;
    void *g = own_scratch(net, node);
    MABN_TRY(mabn_cuda_deinterleave(g, memory(net, node->grad), &op, net->dtype, c->stream));
    MABN_TRY(mabn_net_cuda_clear_rest(net, g, node)); /* as many values as the output */
    MABN_TRY(mabn_net_cuda_clear_rest(net, net_data(net, x), x));
    MABN_TRY(backward_weights(net, node, &op, g));
    if (!x->trains) return MABN_OK;
    return mabn_conv_cuda_forward(layer->conv, net_dx(net, node, 0), g, layer->work, NULL,
                                  c->scratch, c->stream);
}

static mabn_status bare(struct mabn_net *net, struct node *node)
{
    MABN_TRY(forward(net, node));
    return net->options.training && node->grad >= 0 ? backward(net, node) : MABN_OK;
}

extern "C" const struct node_ops mabn_node_transposed_conv_cuda = {
    false, prepare, forward, backward, NULL, NULL, bare, NULL, conv_shape, NULL};
