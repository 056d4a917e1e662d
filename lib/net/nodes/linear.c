/* A fully connected layer over all of an image or region: y = W·x + b. In bfloat16 it is a 1×1
 * convolution. */
#include "net/nodes/shared.h"
#include "ops/linear.h"

/* ---- on the CPU ---- */

/* A convolution that computes it in bfloat16; NULL: the functions below do. */
static const struct node_ops *as_conv(const struct mabn_net *net)
{
    return net->dtype == MABN_DTYPE_BF16 ? mabn_node_conv.cpu : NULL;
}

/* 1×1 over a column of rows. */
static struct mabn_conv_shape conv_shape(const struct mabn_net *net, const struct node *node,
                                         int64_t rows)
{
    return (struct mabn_conv_shape){1, rows, 1, net_row(net_read(net, node, 0)), node->c, 1, 1, 0};
}

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    if (as_conv(net)) return as_conv(net)->prepare(net, node);
    /* Scratch for a gradient that is then added to the one that is there. */
    if (node->parameters_add)
        net_request_scratch(net, net->params->list[node->weight].count * sizeof(float), 0);
    return MABN_OK;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    if (as_conv(net)) return as_conv(net)->forward(net, node);
    return mabn_linear_forward(net_buffer(net, node->data), net_read_data(net, node, 0),
                               net_weight(net, node->weight), net_weight(net, node->bias),
                               net->rows, net_row(x), node->c);
}

static mabn_status backward_weights(struct mabn_net *net, const struct node *node)
{
    struct scratch s = {0};
    if (!net_gradient(net, node->weight)) return MABN_OK;
    if (net_adds(net, node)) {
        net_request_scratch(net, net->params->list[node->weight].count * sizeof(float), 0);
        MABN_TRY(mabn_net_scratch(net, &s));
    }
    const struct net_gradients to = mabn_net_gradients_begin(net, node, s.weights);
    MABN_TRY(mabn_linear_backward_weights(to.weight, to.bias, net_read_data(net, node, 0),
                                          net_buffer(net, node->grad), net->rows,
                                          net_row(net_read(net, node, 0)), node->c));
    mabn_net_gradients_end(net, node, &to);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    if (as_conv(net)) return as_conv(net)->backward(net, node);
    MABN_TRY(backward_weights(net, node));
    if (!x->trains) return MABN_OK;
    return mabn_linear_backward_data(net_dx(net, node, 0), net_buffer(net, node->grad),
                                     net_weight(net, node->weight), net->rows, net_row(x), node->c,
                                     node->dx_adds[0]);
}

static mabn_status bare(struct mabn_net *net, struct node *node)
{
    MABN_TRY(forward(net, node));
    return net->options.training ? backward(net, node) : MABN_OK;
}

static mabn_status refresh(struct mabn_net *net, struct node *node)
{
    return as_conv(net) ? as_conv(net)->refresh(net, node) : MABN_OK;
}

static const struct node_ops cpu = {.half = true,
                                    .prepare = prepare,
                                    .forward = forward,
                                    .backward = backward,
                                    .refresh = refresh,
                                    .bare = bare,
                                    .release = mabn_node_conv_release,
                                    .conv_shape = conv_shape};

static void attributes(const struct node *node, struct mabn_net_node *told)
{
    told->bias = node->bias >= 0;
}

const struct node_kind mabn_node_linear = {
    .name = "linear",
    .scores = true,
    .keeps = node_first_read,
    .adds = node_first_read,
    .attributes = attributes,
    .describe = mabn_node_conv_describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_linear_cuda,
#endif
};

int mabn_net_add_linear(struct mabn_net *net, int x, const char *name,
                        const struct mabn_net_linear *linear)
{
    struct node *node = mabn_net_add(net, &mabn_node_linear, name, &x, 1);
    if (!node) return -1;
    const struct node *in = net_read(net, node, 0);
    const int64_t area = in->h * in->w, values = area * in->c;
    node->h = node->w = 1;
    node->c = linear->out;
    if (linear->out < 1)
        return mabn_net_refuse(
            net, mabn_fail(MABN_ERR_ARG, "'%s': expected outputs, found %d", name, linear->out));
    struct parameter weight = {.kind = PARAMETER_WEIGHT,
                               .out = linear->out,
                               .in = in->c,
                               .area = area > 1 ? area : 0,
                               .fill = net_fill(&linear->start, FILL_LINEAR),
                               .spread = linear->start.spread,
                               .fan_in = (double)values};
    struct parameter bias = {.kind = PARAMETER_BIAS,
                             .fill = linear->start.rule ? FILL_ZERO : FILL_LINEAR,
                             .fan_in = (double)values};
    mabn_net_declare(net, node, &node->weight, "weight", MABN_SHAPE(2, linear->out, values),
                     &weight);
    if (!linear->no_bias)
        mabn_net_declare(net, node, &node->bias, "bias", MABN_SHAPE(1, linear->out), &bias);
    return net->status ? -1 : mabn_net_added(net, node);
}
