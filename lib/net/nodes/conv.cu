/* Convolutions and fully connected layers on a GPU; a fully connected layer is a 1×1 convolution
 * there.
 *
 * Plans are made for the whole batch. Where rows vary, the rows behind the last live one are zero
 * in what backward sums over rows; elsewhere they are computed and ignored. */
#include "net/cuda.cuh"

static struct mabn_conv_shape conv_shape(const struct mabn_net *net, const struct node *node,
                                         int64_t rows)
{
    const struct node *x = net_read(net, node, 0);
    const int64_t in = x->kind->input ? net->input_channels : x->c;
    const struct mabn_net_conv *conv = &node->conv;
    return {rows, x->h, x->w, in, node->c, conv->kernel, conv->stride, conv->pad};
}

/* All of an image is one position. */
static struct mabn_conv_shape linear_shape(const struct mabn_net *net, const struct node *node,
                                           int64_t rows)
{
    return {rows, 1, 1, net_row(net_read(net, node, 0)), node->c, 1, 1, 0};
}

mabn_status mabn_net_cuda_infer_conv(struct mabn_net *net, const struct node *node,
                                     const struct node *at)
{
    const struct layer *layer = layer_of(net, node);
    void *y = memory(net, at->data);
    if (node->folded >= 0 && at->reads[1] >= 0) {
        const struct node *shortcut = &net->nodes[at->reads[1]];
        if (shortcut->data != at->data)
            MABN_TRY(mabn_net_cuda_copy(net, y, memory(net, shortcut->data),
                                        (size_t)net_values(net, at) * mabn_dtype_size(net->dtype)));
    }
    return mabn_conv_cuda_infer(layer->conv, y, net_read_data(net, node, 0), layer->work,
                                layer->bias, net->cuda->scratch, net->cuda->stream);
}

mabn_status mabn_net_cuda_conv(struct mabn_net *net, const struct node *node)
{
    const struct layer *layer = layer_of(net, node);
    return mabn_conv_cuda_forward(layer->conv, memory(net, node->data), net_read_data(net, node, 0),
                                  layer->work, layer->bias, net->cuda->scratch, net->cuda->stream);
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    if (!net->options.training)
        return node->folded >= 0 ? MABN_OK : mabn_net_cuda_infer_conv(net, node, node);
    if (mabn_net_cuda_forward_joins(net, node)) return MABN_OK; /* runs in its norm's place */
    if (mabn_net_cuda_forward_sums(net, node)) return mabn_net_cuda_forward_summing(net, node);
    return mabn_net_cuda_conv(net, node);
}

static mabn_status backward_weights(struct mabn_net *net, const struct node *node, const void *x,
                                    const void *dy)
{
    const struct layer *layer = layer_of(net, node);
    const struct net_cuda *c = net->cuda;
    const int64_t channels = net_read(net, node, 0)->c;
    struct net_cuda_gradient to;
    if (!net_gradient(net, node->weight)) return MABN_OK;
    mabn_net_cuda_gradient_begin(net, node, &to);
    MABN_TRY(mabn_conv_cuda_backward_weights(layer->conv, layer->padded ? layer->dwork : to.weight,
                                             to.bias, x, dy, c->scratch, c->stream));
    if (layer->padded)
        MABN_TRY(mabn_cuda_unpad_gradient(to.weight, layer->dwork, node->c,
                                          filter_size(net, node) / channels, (int)channels,
                                          (int)net->input_channels, c->stream));
    return mabn_net_cuda_gradient_end(net, node, &to);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    const struct layer *layer = layer_of(net, node);
    const struct net_cuda *c = net->cuda;
    void *dy = memory(net, node->grad);
    const void *input;
    MABN_TRY(mabn_net_input_again(net, node, &input));
    MABN_TRY(mabn_net_cuda_clear_rest(net, dy, node));
    MABN_TRY(mabn_net_cuda_clear_rest(net, (void *)input, x));
    MABN_TRY(backward_weights(net, node, input, dy));
    if (!x->trains) return MABN_OK;
    if (layer->before) return mabn_net_cuda_backward_joined(net, node);
    void *dx = net_dx(net, node, 0);
    if (node->dx_adds[0]) MABN_TRY(mabn_net_cuda_clear_rest(net, dx, x));
    return mabn_conv_cuda_backward_data(layer->conv, dx, dy, layer->work, node->dx_adds[0],
                                        c->scratch, c->stream);
}

static mabn_status bare(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    const struct layer *layer = layer_of(net, node);
    const struct net_cuda *c = net->cuda;
    if (!net->options.training)
        return mabn_net_cuda_infer_conv(net, node,
                                        node->folded >= 0 ? &net->nodes[node->folded] : node);
    MABN_TRY(mabn_net_cuda_conv(net, node));
    const void *dy = memory(net, node->grad);
    if (!dy || !net_gradient(net, node->weight)) return MABN_OK;
    MABN_TRY(mabn_conv_cuda_backward_weights(
        layer->conv, layer->padded ? layer->dwork : net_gradient(net, node->weight),
        net_gradient(net, node->bias), net_read_data(net, node, 0), dy, c->scratch, c->stream));
    if (!x->trains) return MABN_OK;
    return mabn_conv_cuda_backward_data(layer->conv, net_dx(net, node, 0), dy, layer->work, false,
                                        c->scratch, c->stream);
}

extern "C" const struct node_ops mabn_node_conv_cuda = {false, NULL, forward, backward,   NULL,
                                                        NULL,  bare, NULL,    conv_shape, NULL};
extern "C" const struct node_ops mabn_node_linear_cuda = {false, NULL, forward, backward,     NULL,
                                                          NULL,  bare, NULL,    linear_shape, NULL};
