/* A convolution, with or without bias, its weights centralized or not.
 *
 * In inference a norm may be folded into it (nodes/norm.c joins the two). It then runs in the norm's
 * place, adds the norm's shortcut and applies its ReLU.
 *
 * Where rows vary, primitives are made on demand, for a few numbers of rows. A run uses the primitives for
 * at most a quarter more rows than it has. The extra rows are zeros in the input and ignored in the
 * output. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/nodes/shared.h"
#include "net/packed.h"
#include "ops/centralize.h"
#include "ops/elementwise.h"

/* The primitives of one layer for one number of rows. */
struct sized {
    int64_t rows;
    struct mabn_conv *op;
    struct packed *packed; /* inference: its weights */
};

struct sizes {
    struct sized *list;
    int count, capacity;
};

/* ---- on the CPU ---- */

static int64_t filter_size(const struct mabn_net *net, const struct node *conv)
{
    return (int64_t)net->params->list[conv->weight].count / conv->c;
}

static struct mabn_conv_shape conv_shape(const struct mabn_net *net, const struct node *node,
                                         int64_t rows)
{
    const struct node *x = net_read(net, node, 0);
    return (struct mabn_conv_shape){
        rows, x->h, x->w, x->c, node->c, node->conv.kernel, node->conv.stride, node->conv.pad};
}

static mabn_status new_op(struct mabn_net *net, struct node *node, int64_t rows,
                          struct mabn_conv **op)
{
    const struct node *x = net_read(net, node, 0);
    const struct mabn_conv_shape shape = net_ops(net, node)->conv_shape(net, node, rows);
    struct mabn_conv_options options = {.dtype = net->dtype,
                                        .x_dtype = x->dtype,
                                        .y_dtype = node->dtype,
                                        .training = net->options.training,
                                        .no_dx = !x->trains,
                                        .centralize = node->means,
                                        .bias = node->bias >= 0,
                                        .tune = net->options.tune && !net->options.vary_rows,
                                        .exact = net->options.exact};
    if (node->kind->transposed)
        options = (struct mabn_conv_options){
            .dtype = net->dtype, .x_dtype = node->dtype, .y_dtype = x->dtype, .training = true};
    if (node->folded >= 0) {
        const struct node *norm = &net->nodes[node->folded];
        options.bias = true;
        options.relu = norm->io.relu;
        options.add = norm->reads[1] >= 0;
    }
    MABN_TRY(mabn_conv_new(op, net->device, &shape, &options));
    net_request_scratch(net, 0, mabn_conv_scratch_bytes(*op));
    return MABN_OK;
}

/* NULL where weights are not packed. */
static struct packed *get_packed(const struct mabn_net *net, const struct node *node,
                                 struct mabn_conv *op)
{
    if (net->options.training || node->kind->transposed) return NULL;
    const struct node *norm = node->folded < 0 ? NULL : &net->nodes[node->folded];
    const struct packed_source source = {.weight = node->weight,
                                         .bias = node->bias,
                                         .norm_weight = norm ? norm->weight : -1,
                                         .norm_state = norm ? norm->state : -1,
                                         .folded = norm,
                                         .centralized = node->conv.centralize};
    return mabn_packed_get(net->params, &source, op, node->c);
}

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    net_request_scratch(net, net->params->list[node->weight].count * sizeof(float), 0);
    if (net->options.training && node->conv.centralize)
        node->means = mabn_xcalloc((size_t)node->c, sizeof *node->means);
    if (net->options.vary_rows) {
        node->own = mabn_xcalloc(1, sizeof(struct sizes));
        return MABN_OK;
    }
    MABN_TRY(new_op(net, node, net->options.batch, &node->op));
    node->packed = get_packed(net, node, node->op);
    return MABN_OK;
}

void mabn_node_conv_release(struct node *node)
{
    struct sizes *sizes = node->own;
    mabn_packed_release(node->packed);
    mabn_conv_free(node->op);
    free(node->means);
    for (int i = 0; sizes && i < sizes->count; i++) {
        mabn_packed_release(sizes->list[i].packed);
        mabn_conv_free(sizes->list[i].op);
    }
    if (sizes) free(sizes->list);
}

/* Rounded up to one of four sizes between powers of two, but at most the plan's capacity. */
static int64_t sized_rows(const struct mabn_net *net, int64_t rows)
{
    int64_t step = 1;
    while (step * 8 <= rows)
        step *= 2;
    rows = (rows + step - 1) / step * step;
    return rows < net->options.batch ? rows : net->options.batch;
}

/* The layer's primitives for the live rows, and the number of rows they are made for. */
static mabn_status find_sized(struct mabn_net *net, struct node *node, struct sized *found)
{
    *found = (struct sized){net->options.batch, node->op, node->packed};
    if (!net->options.vary_rows) return MABN_OK;
    struct sizes *sizes = node->own;
    const int64_t rows = sized_rows(net, net->rows);
    int i = 0;
    while (i < sizes->count && sizes->list[i].rows != rows)
        i++;
    if (i == sizes->count) {
        struct sized made = {.rows = rows};
        MABN_TRY(new_op(net, node, rows, &made.op));
        made.packed = get_packed(net, node, made.op);
        MABN_GROW(sizes->list, sizes->count, sizes->capacity);
        sizes->list[sizes->count++] = made;
    }
    *found = sizes->list[i];
    return MABN_OK;
}

mabn_status mabn_node_conv_find(struct mabn_net *net, struct node *node, struct mabn_conv **op,
                                int64_t *rows)
{
    struct sized found;
    MABN_TRY(find_sized(net, node, &found));
    *op = found.op;
    *rows = found.rows;
    return MABN_OK;
}

/* ---- inference ---- */

/* The weights, centralized into scratch if they are used so. */
static const float *weights_in_use(const struct mabn_net *net, const struct node *conv,
                                   const struct scratch *s)
{
    const float *raw = net_weight(net, conv->weight);
    if (!conv->conv.centralize) return raw;
    mabn_centralize(s->weights, raw, conv->c, filter_size(net, conv));
    return s->weights;
}

/* Weights and bias as used: folded and centralized. The weights may be in scratch. */
static mabn_status final_weights(struct mabn_net *net, const struct node *conv,
                                 const struct scratch *s, const float **final, float *bias_out)
{
    const float *weight = net_weight(net, conv->weight), *bias = net_weight(net, conv->bias);
    if (conv->folded < 0) {
        *final = weights_in_use(net, conv, s);
        if (bias) memcpy(bias_out, bias, (size_t)conv->c * sizeof *bias);
        return MABN_OK;
    }
    const struct node *norm = &net->nodes[conv->folded];
    mabn_status status = mabn_norm_affine(&norm->norm, net->fold_a, net->fold_b, norm->io.gamma,
                                          norm->io.beta, norm->io.state);
    if (status) return mabn_fail_prefix(status, "'%s'", norm->name);
    *final = s->weights;
    status = mabn_norm_fold(s->weights, bias_out, weight, bias, net->fold_a, net->fold_b, conv->c,
                            filter_size(net, conv), conv->conv.centralize);
    return status ? mabn_fail_prefix(status, "'%s'", conv->name) : MABN_OK;
}

/* Does a later node, which is refreshed after this one, have the same weights? */
static bool shares_later(const struct mabn_net *net, const struct node *node)
{
    for (const struct node *n = node + 1; n < net->nodes + net->node_count; n++)
        if (n->weight == node->weight) return true;
    return false;
}

/* Pack the weights, unless this plan or another did so since they last changed. */
static mabn_status renew(struct mabn_net *net, const struct node *node, const struct sized *now,
                         const struct scratch *s)
{
    struct packed *packed = now->packed;
    const float *weight = NULL;
    if (packed->version == net->params->version) return MABN_OK;
    if (net->params->list[node->weight].lost)
        MABN_BUG("the weights of '%s' are used again after they were given back", node->name);
    if (!packed->weights) MABN_TRY(mabn_packed_place(net->params));
    MABN_TRY(final_weights(net, node, s, &weight, packed->bias));
    MABN_TRY(mabn_conv_pack(now->op, packed->weights, weight, s->ops));
    packed->version = net->params->version;
    return MABN_OK;
}

static mabn_status refresh(struct mabn_net *net, struct node *node)
{
    struct sized now;
    struct scratch s;
    if (net->options.vary_rows) return MABN_OK; /* done when each size is next used */
    MABN_TRY(find_sized(net, node, &now));
    MABN_TRY(mabn_net_scratch(net, &s));
    MABN_TRY(renew(net, node, &now, &s));
    if (net->options.takes_weights && !shares_later(net, node))
        mabn_params_lose(net->params, node->weight);
    return MABN_OK;
}

/* Run a convolution whose result goes to the output of `at`: itself, or the norm that is folded
 * into it. */
static mabn_status infer(struct mabn_net *net, struct node *conv, const struct node *at)
{
    const bool bias = conv->folded >= 0 || conv->bias >= 0;
    const struct node *x = net_read(net, conv, 0);
    void *y = net_buffer(net, at->data);
    struct sized now;
    struct scratch s;
    MABN_TRY(find_sized(net, conv, &now));
    MABN_TRY(mabn_net_scratch(net, &s));
    if (net->options.vary_rows) MABN_TRY(renew(net, conv, &now, &s));
    if (conv->folded >= 0 && at->reads[1] >= 0) {
        const struct node *shortcut = net_read(net, at, 1);
        if (shortcut->data != at->data)
            memcpy(y, net_data(net, shortcut), net_row_bytes(at, now.rows));
    }
    net_clear_rows(net_data(net, x), net->rows, now.rows, x);
    return mabn_conv_infer(now.op, y, net_data(net, x), now.packed->weights,
                           bias ? now.packed->bias : NULL, s.ops);
}

mabn_status mabn_node_conv_infer_for(struct mabn_net *net, int conv, const struct node *norm)
{
    return infer(net, &net->nodes[conv], norm);
}

/* ---- training ---- */

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    const float *weight = net_weight(net, node->weight);
    struct sized now;
    struct scratch s;
    if (!net->options.training) return node->folded >= 0 ? MABN_OK : infer(net, node, node);
    MABN_TRY(find_sized(net, node, &now));
    MABN_TRY(mabn_net_scratch(net, &s));
    net_clear_rows(net_data(net, x), net->rows, now.rows, x);
    if (node->means) mabn_filter_means(node->means, weight, node->c, filter_size(net, node));
    return mabn_conv_forward(now.op, net_buffer(net, node->data), net_data(net, x), weight,
                             node->means, net_weight(net, node->bias), s.ops);
}

static mabn_status backward_weights(struct mabn_net *net, const struct node *node,
                                    const struct sized *now, const void *input, const void *dy,
                                    const struct scratch *s)
{
    const struct net_gradients to = mabn_net_gradients_begin(net, node, s->weights);
    if (!to.weight) return MABN_OK;
    MABN_TRY(mabn_conv_backward_weights(now->op, to.weight, to.bias, input, dy, s->ops));
    mabn_net_gradients_end(net, node, &to);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    void *dy = net_buffer(net, node->grad);
    const void *input;
    struct sized now;
    struct scratch s;
    MABN_TRY(find_sized(net, node, &now));
    MABN_TRY(mabn_net_input_again(net, node, &input));
    MABN_TRY(mabn_net_scratch(net, &s));
    net_clear_rows(dy, net->rows, now.rows, node);
    net_clear_rows((void *)input, net->rows, now.rows, x);
    MABN_TRY(backward_weights(net, node, &now, input, dy, &s));
    if (!x->trains) return MABN_OK;
    void *dx = net_dx(net, node, 0);
    if (node->dx_adds[0]) net_clear_rows(dx, net->rows, now.rows, x);
    return mabn_conv_backward_data(now.op, dx, dy, net_weight(net, node->weight), node->means,
                                   node->dx_adds[0], s.ops);
}

static mabn_status bare(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    const void *input = net_data(net, x);
    const float *weight = net_weight(net, node->weight);
    void *dy = net_buffer(net, node->grad);
    struct sized now;
    struct scratch s;
    if (!net->options.training)
        return infer(net, node, node->folded >= 0 ? &net->nodes[node->folded] : node);
    MABN_TRY(find_sized(net, node, &now));
    MABN_TRY(mabn_net_scratch(net, &s));
    MABN_TRY(mabn_conv_forward(now.op, net_buffer(net, node->data), input, weight, NULL,
                               net_weight(net, node->bias), s.ops));
    if (!dy || !net_gradient(net, node->weight)) return MABN_OK;
    MABN_TRY(mabn_conv_backward_weights(now.op, net_gradient(net, node->weight),
                                        net_gradient(net, node->bias), input, dy, s.ops));
    if (!x->trains) return MABN_OK;
    return mabn_conv_backward_data(now.op, net_dx(net, node, 0), dy, weight, NULL, false, s.ops);
}

static const struct node_ops cpu = {.half = true,
                                    .prepare = prepare,
                                    .forward = forward,
                                    .backward = backward,
                                    .refresh = refresh,
                                    .bare = bare,
                                    .release = mabn_node_conv_release,
                                    .conv_shape = conv_shape};

/* ---- what it moves ---- */

/* A convolution or linear layer whose result goes through `norm` (or NULL). In training the
 * convolution's own output is kept. */
static double forward_bytes(const struct mabn_net *net, const struct node *node,
                            const struct node *norm)
{
    double bytes =
        mabn_net_output_bytes(net, net_read(net, node, 0)) + mabn_net_weight_bytes(net, node);
    if (!norm || net->options.training) bytes += mabn_net_output_bytes(net, node);
    if (!norm) return bytes;
    bytes += mabn_net_output_bytes(net, norm);
    return norm->reads[1] < 0 ? bytes : bytes + mabn_net_output_bytes(net, norm);
}

/* Both gradients; with a norm before it, also what the norm's ReLU and sums need. */
static double backward_bytes(const struct mabn_net *net, const struct node *node, bool with_norm)
{
    const struct node *x = net_read(net, node, 0);
    const double dw = (double)net->params->list[node->weight].count * (double)sizeof(float);
    double bytes = mabn_net_output_bytes(net, x) + mabn_net_gradient_bytes(net, node) + dw;
    if (!x->trains) return bytes;
    bytes += mabn_net_gradient_bytes(net, node) + mabn_net_weight_bytes(net, node) +
             mabn_net_gradient_bytes(net, x);
    if (node->dx_adds[0]) bytes += mabn_net_gradient_bytes(net, x);
    if (with_norm) bytes += mabn_net_output_bytes(net, x) * (x->reads[1] >= 0 ? 2 : 1);
    return bytes;
}

void mabn_node_conv_describe_in(const struct mabn_net *net, const struct node *conv,
                                const struct node *norm, struct mabn_net_layer *layer)
{
    layer->macs = (double)net->params->list[conv->weight].count * (double)net_values(net, conv) /
                  (double)conv->c;
    layer->forward_bytes = forward_bytes(net, conv, norm);
}

void mabn_node_conv_describe(const struct mabn_net *net, const struct node *node,
                             const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    mabn_node_conv_describe_in(net, node, NULL, layer);
    layer->backward_bytes = backward_bytes(net, node, time->with_norm);
}

static void attributes(const struct node *node, struct mabn_net_node *told)
{
    mabn_node_window_attributes(node, told);
    told->bias = node->bias >= 0;
    told->centralize = node->conv.centralize;
}

const struct node_kind mabn_node_conv = {
    .name = "convolution",
    .pads_input = true,
    .takes_norms = true,
    .scores = true,
    .keeps = node_first_read,
    .adds = node_first_read,
    .finds_again = true,
    .attributes = attributes,
    .describe = mabn_node_conv_describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_conv_cuda,
#endif
};

int mabn_net_add_conv(struct mabn_net *net, int x, const char *name,
                      const struct mabn_net_conv *conv)
{
    struct node *node = mabn_net_add(net, &mabn_node_conv, name, &x, 1);
    if (!node) return -1;
    const struct node *in = net_read(net, node, 0);
    node->conv = *conv;
    node->h = mabn_conv_out(in->h, conv->kernel, conv->stride, conv->pad);
    node->w = mabn_conv_out(in->w, conv->kernel, conv->stride, conv->pad);
    node->c = conv->out_channels;
    if (node->h < 1 || node->w < 1 || node->c < 1)
        return mabn_net_refuse(net, mabn_fail(MABN_ERR_ARG,
                                              "'%s': the image has become too small: %lld×%lld",
                                              name, (long long)in->h, (long long)in->w));
    int64_t k = conv->kernel;
    struct parameter weight = {.kind = PARAMETER_WEIGHT,
                               .out = node->c,
                               .in = in->c,
                               .area = k * k,
                               .centralize = conv->centralize,
                               .fill = net_fill(&conv->start, FILL_CONV),
                               .spread = conv->start.spread,
                               .fan_in = (double)(in->c * k * k)};
    struct parameter bias = {.kind = PARAMETER_BIAS,
                             .fill = conv->start.rule ? FILL_ZERO : FILL_LINEAR,
                             .fan_in = weight.fan_in};
    mabn_net_declare(net, node, &node->weight, "weight", MABN_SHAPE(4, node->c, in->c, k, k),
                     &weight);
    if (conv->bias) mabn_net_declare(net, node, &node->bias, "bias", MABN_SHAPE(1, node->c), &bias);
    return net->status ? -1 : mabn_net_added(net, node);
}
