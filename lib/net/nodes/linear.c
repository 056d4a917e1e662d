/* A fully connected layer over all of an image or region: y = W·x + b. In bfloat16 it is a 1×1
 * convolution. */
#include <string.h>

#include "base/mem.h"
#include "net/internal.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

static bool keeps(const struct node *node, int k)
{
    (void)node;
    return k == 0;
}

static bool adds(const struct node *node, int k)
{
    (void)node;
    return k == 0;
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    mabn_node_conv.describe(net, node, time, layer);
}

/* ---- on the CPU ---- */

/* A convolution that computes it in bfloat16; NULL: the functions below do. */
static const struct node_ops *as_conv(const struct mabn_net *net)
{
    return net->dtype == MABN_DTYPE_BF16 ? mabn_node_conv.cpu : NULL;
}

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    if (as_conv(net)) return as_conv(net)->prepare(net, node);
    /* Scratch for a gradient that is then added to the one that is there. */
    if (node->parameters_add)
        net_want_scratch(net, net->params->list[node->weight].count * sizeof(float), 0);
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

static mabn_status add_gradients(struct mabn_net *net, const struct node *node, const float *x,
                                 const float *dy)
{
    const int64_t in = net_row(net_read(net, node, 0));
    struct scratch s;
    net_want_scratch(net, net->params->list[node->weight].count * sizeof(float), 0);
    MABN_TRY(mabn_net_scratch(net, &s));
    float *dweight = net_gradient(net, node->weight), *dbias = net_gradient(net, node->bias);
    MABN_TRY(mabn_linear_backward_weights(s.weights, dbias ? net->fold_a : NULL, x, dy, net->rows,
                                          in, node->c));
    mabn_add(dweight, dweight, s.weights, in * node->c, false);
    if (dbias) mabn_add(dbias, dbias, net->fold_a, node->c, false);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    const float *dy = net_buffer(net, node->grad), *input = net_read_data(net, node, 0);
    if (as_conv(net)) return as_conv(net)->backward(net, node);
    if (net_gradient(net, node->weight)) {
        if (net_adds(net, node))
            MABN_TRY(add_gradients(net, node, input, dy));
        else
            MABN_TRY(mabn_linear_backward_weights(net_gradient(net, node->weight),
                                                  net_gradient(net, node->bias), input, dy,
                                                  net->rows, net_row(x), node->c));
    }
    if (!x->trains) return MABN_OK;
    return mabn_linear_backward_data(net_dx(net, node, 0), dy, net_weight(net, node->weight),
                                     net->rows, net_row(x), node->c, node->dx_adds[0]);
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

static void release(struct node *node)
{
    mabn_node_conv.cpu->release(node);
}

static const struct node_ops cpu = {.half = true,
                                    .prepare = prepare,
                                    .forward = forward,
                                    .backward = backward,
                                    .refresh = refresh,
                                    .bare = bare,
                                    .release = release};

const struct node_kind mabn_node_linear = {
    .name = "linear",
    .keeps = keeps,
    .adds = adds,
    .describe = describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_conv_cuda, /* a 1×1 convolution there */
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
        return mabn_net_refuse(net, mabn_fail(MABN_ERR_ARG, "'%s': %d outputs", name, linear->out));
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
