/* What each layer of a planned network takes, and what it has to move. */
#include <stdlib.h>

#include "base/mem.h"
#include "net/internal.h"

static const char *const kinds[] = {
    [NODE_INPUT] = "input",       [NODE_CONV] = "convolution",      [NODE_NORM] = "norm",
    [NODE_MAX_POOL] = "max pool", [NODE_GLOBAL_POOL] = "mean pool", [NODE_LINEAR] = "linear",
};

/* The bytes of a node's output, of its gradient, and of its weights in use. */
static double output_bytes(const struct mabn_net *net, const struct node *node)
{
    const bool logits = node == &net->nodes[net->output];
    return (double)net_values(net, node) *
           (double)(logits ? sizeof(float) : mabn_dtype_size(net->dtype));
}

static double gradient_bytes(const struct mabn_net *net, const struct node *node)
{
    return (double)net_values(net, node) * (double)mabn_dtype_size(net->dtype);
}

static double weight_bytes(const struct mabn_net *net, const struct node *node)
{
    return (double)net->parameters[node->weight].count * (double)mabn_dtype_size(net->dtype);
}

/* Of a convolution or linear layer whose result goes through `norm` (NULL: it does not), which in
 * training keeps what the convolution itself computed. */
static double forward_bytes(const struct mabn_net *net, const struct node *node,
                            const struct node *norm)
{
    double bytes = output_bytes(net, &net->nodes[node->x]) + weight_bytes(net, node);
    if (!norm || net->options.training) bytes += output_bytes(net, node);
    if (!norm) return bytes;
    bytes += output_bytes(net, norm);
    return norm->residual < 0 ? bytes : bytes + output_bytes(net, norm);
}

/* Both gradients; with the norm before it, also what its ReLU and its sum need. */
static double backward_bytes(const struct mabn_net *net, const struct node *node, bool with_norm)
{
    const struct node *x = &net->nodes[node->x];
    const double dw = (double)net->parameters[node->weight].count * (double)sizeof(float);
    double bytes = output_bytes(net, x) + gradient_bytes(net, node) + dw;
    if (!x->trains) return bytes;
    bytes += gradient_bytes(net, node) + weight_bytes(net, node) + gradient_bytes(net, x);
    if (node->dx_adds) bytes += gradient_bytes(net, x);
    if (with_norm) bytes += output_bytes(net, x) * (x->residual >= 0 ? 2 : 1);
    return bytes;
}

/* relieved: ReLU is done, and the shortcut's gradient there. */
static double norm_backward_bytes(const struct mabn_net *net, const struct node *node,
                                  bool relieved)
{
    const struct node *shortcut = node->residual < 0 ? NULL : &net->nodes[node->residual];
    double bytes = 2 * gradient_bytes(net, node) + output_bytes(net, node); /* dy, dx, x */
    if (relieved) return bytes;
    if (shortcut && node->io.relu) bytes += output_bytes(net, node);
    if (shortcut && shortcut->trains) bytes += gradient_bytes(net, node);
    return bytes;
}

static void describe_pool(const struct mabn_net *net, const struct node *node,
                          struct mabn_net_layer *layer)
{
    const struct node *x = &net->nodes[node->x];
    const double winners =
        node->kind == NODE_MAX_POOL && net->options.training ? (double)net_values(net, node) : 0;
    layer->forward_bytes = output_bytes(net, x) + output_bytes(net, node) + winners;
    layer->backward_bytes = gradient_bytes(net, x) + gradient_bytes(net, node) + winners;
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    const struct node *conv = NULL; /* that runs here */
    if (node->kind == NODE_CONV || node->kind == NODE_LINEAR) conv = node;
    if (node->kind == NODE_NORM && time->with_conv) conv = &net->nodes[node->x];
    layer->kind = conv && conv != node ? "convolution and norm" : kinds[node->kind];
    if (conv) {
        layer->macs = (double)net->parameters[conv->weight].count * (double)net_values(net, conv) /
                      (double)conv->c;
        layer->forward_bytes = forward_bytes(net, conv, conv == node ? NULL : node);
        if (conv == node) layer->backward_bytes = backward_bytes(net, node, time->with_norm);
    } else if (node->kind == NODE_NORM) {
        layer->forward_bytes = 2 * output_bytes(net, node);
        if (node->residual >= 0) layer->forward_bytes += output_bytes(net, node);
    } else if (node->kind != NODE_INPUT) {
        describe_pool(net, node, layer);
    }
    if (node->kind == NODE_NORM)
        layer->backward_bytes = norm_backward_bytes(net, node, time->relieved);
}

int mabn_net_layer_count(const struct mabn_net *net)
{
    return net->node_count - 1;
}

mabn_status mabn_net_time_layers(struct mabn_net *net, struct mabn_net_layer *layers)
{
    MABN_TRY(mabn_net_check(net));
    struct net_layer_time *times = mabn_xcalloc((size_t)net->node_count, sizeof *times);
    const mabn_status status = net->backend->time_layers(net, times);
    for (int i = 1; i < net->node_count && !status; i++) {
        const struct node *node = &net->nodes[i];
        struct mabn_net_layer *layer = &layers[i - 1];
        *layer = (struct mabn_net_layer){.name = node->name,
                                         .height = node->h,
                                         .width = node->w,
                                         .channels = node->c,
                                         .forward = times[i].forward,
                                         .backward = times[i].backward};
        describe(net, node, &times[i], layer);
        if (times[i].elsewhere) layer->macs = layer->forward_bytes = 0;
        if (!net->options.training || node->grad < 0) layer->backward_bytes = 0;
    }
    free(times);
    return status;
}

mabn_status mabn_net_time_copy(struct mabn_net *net, double *bytes_per_second)
{
    const size_t most = (size_t)1 << 30;
    size_t half = net->activations.bytes / 2 / 256 * 256;
    double seconds;
    MABN_TRY(mabn_net_check(net));
    if (half > most) half = most;
    MABN_TRY(net->backend->time_copy(net, net->activations.base, net->activations.base + half, half,
                                     &seconds));
    *bytes_per_second = 2 * (double)half / seconds;
    return MABN_OK;
}
