/* Transposed convolution 2×2 with stride 2 and bias: twice the height and width. In bfloat16 its
 * forward is the data gradient of a convolution with the same weights, and its own data gradient is
 * that convolution. */
#include "ops/transposed_conv.h"

#include "net/nodes/shared.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

struct mabn_transposed_conv mabn_node_transposed_conv_op(const struct mabn_net *net,
                                                         const struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    return (struct mabn_transposed_conv){net->rows, x->h, x->w, x->c, node->c};
}

/* ---- in bfloat16 ---- */

static bool as_conv(const struct mabn_net *net)
{
    return net->dtype == MABN_DTYPE_BF16;
}

/* The convolution whose data gradient this node computes. */
static struct mabn_conv_shape conv_shape(const struct mabn_net *net, const struct node *node,
                                         int64_t rows)
{
    const int64_t in = net_read(net, node, 0)->c;
    return (struct mabn_conv_shape){rows, node->h, node->w, node->c, in, 2, 2, 0};
}

static mabn_status forward_half(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    struct mabn_conv *conv;
    struct scratch s;
    int64_t rows;
    void *y = net_buffer(net, node->data), *input = net_data(net, x);
    MABN_TRY(mabn_node_conv_find(net, node, &conv, &rows));
    MABN_TRY(mabn_net_scratch(net, &s));
    net_clear_rows(input, net->rows, rows, x);
    MABN_TRY(
        mabn_conv_backward_data(conv, y, input, net_weight(net, node->weight), NULL, false, s.ops));
    mabn_add_bias(y, net_weight(net, node->bias), node->dtype, net->rows * node->h * node->w,
                  node->c);
    return MABN_OK;
}

static mabn_status backward_weights_half(struct mabn_net *net, const struct node *node,
                                         struct mabn_conv *conv, const struct scratch *s)
{
    const void *x = net_read_data(net, node, 0), *dy = net_buffer(net, node->grad);
    const struct net_gradients to = mabn_net_gradients_begin(net, node, s->weights);
    if (!to.weight) return MABN_OK;
    MABN_TRY(mabn_conv_backward_weights(conv, to.weight, NULL, dy, x, s->ops));
    mabn_column_sums(to.bias, dy, node->dtype, net->rows * node->h * node->w, node->c);
    mabn_net_gradients_end(net, node, &to);
    return MABN_OK;
}

static mabn_status backward_half(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    void *dy = net_buffer(net, node->grad), *dx = net_dx(net, node, 0);
    struct mabn_conv *conv;
    struct scratch s;
    int64_t rows;
    MABN_TRY(mabn_node_conv_find(net, node, &conv, &rows));
    MABN_TRY(mabn_net_scratch(net, &s));
    net_clear_rows(dy, net->rows, rows, node);
    net_clear_rows(net_data(net, x), net->rows, rows, x);
    MABN_TRY(backward_weights_half(net, node, conv, &s));
    if (!x->trains) return MABN_OK;
    return mabn_conv_forward(conv, dx, dy, net_weight(net, node->weight), NULL, NULL, s.ops);
}

/* ---- on the CPU ---- */

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    if (as_conv(net)) return mabn_node_conv.cpu->prepare(net, node);
    net_request_scratch(net, net->params->list[node->weight].count * sizeof(float),
                        mabn_transposed_conv_scratch_bytes(node->c));
    return MABN_OK;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    if (as_conv(net)) return forward_half(net, node);
    const struct mabn_transposed_conv op = mabn_node_transposed_conv_op(net, node);
    struct scratch s;
    MABN_TRY(mabn_net_scratch(net, &s));
    return mabn_transposed_conv_forward(net_buffer(net, node->data), net_read_data(net, node, 0),
                                        net_weight(net, node->weight), net_weight(net, node->bias),
                                        &op, false, s.ops);
}

static mabn_status backward_weights(struct mabn_net *net, const struct node *node,
                                    const struct mabn_transposed_conv *op, const struct scratch *s)
{
    const struct net_gradients to = mabn_net_gradients_begin(net, node, s->weights);
    if (!to.weight) return MABN_OK;
    MABN_TRY(mabn_transposed_conv_backward_weights(to.weight, to.bias, net_read_data(net, node, 0),
                                                   net_buffer(net, node->grad), op, s->ops));
    mabn_net_gradients_end(net, node, &to);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    if (as_conv(net)) return backward_half(net, node);
    const struct mabn_transposed_conv op = mabn_node_transposed_conv_op(net, node);
    struct scratch s;
    MABN_TRY(mabn_net_scratch(net, &s));
    MABN_TRY(backward_weights(net, node, &op, &s));
    if (!net_read(net, node, 0)->trains) return MABN_OK;
    return mabn_transposed_conv_backward_data(net_dx(net, node, 0), net_buffer(net, node->grad),
                                              net_weight(net, node->weight), &op, false, s.ops);
}

static mabn_status bare(struct mabn_net *net, struct node *node)
{
    MABN_TRY(forward(net, node));
    return net->options.training ? backward(net, node) : MABN_OK;
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    const struct node *x = net_read(net, node, 0);
    (void)time;
    layer->macs = (double)net_values(net, x) * 4 * (double)node->c;
    layer->forward_bytes = mabn_net_output_bytes(net, x) + mabn_net_output_bytes(net, node) +
                           mabn_net_weight_bytes(net, node);
    layer->backward_bytes = 2 * mabn_net_gradient_bytes(net, node) + mabn_net_output_bytes(net, x) +
                            mabn_net_gradient_bytes(net, x) + 2 * mabn_net_weight_bytes(net, node);
}

static const struct node_ops cpu = {.half = true,
                                    .prepare = prepare,
                                    .forward = forward,
                                    .backward = backward,
                                    .bare = bare,
                                    .release = mabn_node_conv_release,
                                    .conv_shape = conv_shape};

const struct node_kind mabn_node_transposed_conv = {
    .name = "transposed convolution",
    .transposed = true,
    .keeps = node_first_read,
    .describe = describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_transposed_conv_cuda,
#endif
};

int mabn_net_add_transposed_conv(struct mabn_net *net, int x, const char *name, int out,
                                 const struct mabn_net_start *start)
{
    struct node *node = mabn_net_add(net, &mabn_node_transposed_conv, name, &x, 1);
    if (!node) return -1;
    const struct node *in = net_read(net, node, 0);
    node->h = 2 * in->h;
    node->w = 2 * in->w;
    node->c = out;
    /* (in,out,2,2) in files, (in,2,2,out) in memory: reordered as a convolution's weights are. */
    struct parameter weight = {.kind = PARAMETER_WEIGHT,
                               .out = in->c,
                               .in = out,
                               .area = 4,
                               .fill = net_fill(start, FILL_CONV),
                               .spread = start->spread,
                               .fan_in = (double)(4 * out)};
    struct parameter bias = {.kind = PARAMETER_BIAS,
                             .fill = start->rule ? FILL_ZERO : FILL_LINEAR,
                             .fan_in = (double)(4 * out)};
    mabn_net_declare(net, node, &node->weight, "weight", MABN_SHAPE(4, in->c, out, 2, 2), &weight);
    mabn_net_declare(net, node, &node->bias, "bias", MABN_SHAPE(1, out), &bias);
    return net->status ? -1 : mabn_net_added(net, node);
}
