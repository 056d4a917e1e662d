/* A planned network on the CPU: oneDNN's primitives and our loops on host memory.
 *
 * cpu_prepare makes the primitives and binds every pointer that never changes; after that nothing
 * here allocates or decides. All is done when a call returns, so a step is never behind. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "net/internal.h"
#include "ops/centralize.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/pool.h"
#include "ops/sgd.h"

/* ---- preparing ---- */

static void want_scratch(struct mabn_net *net, size_t bytes)
{
    if (bytes > net->scratch_bytes) net->scratch_bytes = bytes;
}

static mabn_status prepare_conv(struct mabn_net *net, struct node *node, size_t *packed,
                                size_t *biases)
{
    const struct node *x = &net->nodes[node->x];
    struct mabn_conv_shape shape = {
        net->options.batch, x->h,          x->w, x->c, node->c, node->conv.kernel,
        node->conv.stride,  node->conv.pad};
    struct mabn_conv_options options = {.training = net->options.training,
                                        .no_dx = !x->trains,
                                        .bias = node->conv.bias,
                                        .exact = net->options.exact};
    if (node->folded >= 0) {
        const struct node *norm = &net->nodes[node->folded];
        options.bias = true;
        options.relu = norm->io.relu;
        options.add = norm->residual >= 0;
    }
    MABN_TRY(mabn_conv_new(&node->op, net->device, &shape, &options));
    want_scratch(net, mabn_conv_scratch_bytes(node->op));
    size_t weights = net->parameters[node->weight].count * sizeof(float);
    if (weights > net->weight_bytes) net->weight_bytes = weights;
    if (net->options.training) return MABN_OK;
    node->packed_offset = *packed;
    *packed += mabn_conv_packed_bytes(node->op);
    node->bias_offset = *biases;
    *biases += (size_t)(node->c + 15) & ~(size_t)15;
    return MABN_OK;
}

/* Every pointer of a norm's calls that never changes; gradients' too. */
static void bind_norm(struct mabn_net *net, struct node *node)
{
    struct mabn_norm_io *io = &node->io;
    const struct node *x = &net->nodes[node->x];
    bool shortcut = node->residual >= 0;
    io->samples = net->options.batch;
    io->positions = node->h * node->w;
    io->gamma = net_weight(net, node->weight);
    io->beta = net_weight(net, node->bias);
    io->state = net->state.base + node->state_offset;
    io->saved = net_buffer(net, node->extra);
    io->x = net_buffer(net, x->data);
    io->residual = shortcut ? net_buffer(net, net->nodes[node->residual].data) : NULL;
    io->y = net_buffer(net, node->data);
    if (!net->options.training) return;
    io->dy = net_buffer(net, node->grad);
    io->dx = x->trains ? net_buffer(net, x->grad) : NULL;
    io->dresidual =
        shortcut && net->nodes[node->residual].trains ? net_buffer(net, node->grad) : NULL;
    io->dgamma = net_gradient(net, node->weight);
    io->dbeta = net_gradient(net, node->bias);
}

static void list_sgd(struct mabn_net *net)
{
    net->sgd = mabn_xcalloc((size_t)net->parameter_count, sizeof *net->sgd);
    for (int i = 0; i < net->parameter_count; i++) {
        const struct parameter *p = &net->parameters[i];
        if (!p->trains) continue;
        net->sgd[net->sgd_count++] = (struct mabn_sgd_param){
            .param = net_weight(net, i),
            .buffer = (float *)net->momentum.base + p->offset,
            .grad = net_gradient(net, i),
            .count = (int64_t)p->count,
            .lr_factor = 1,
        };
    }
}

static mabn_status get_memory(struct mabn_net *net, size_t packed, size_t biases)
{
    size_t batch = (size_t)net->options.batch;
    if (!net->options.training) {
        MABN_TRY(mabn_net_get_arena(net, &net->packed, packed));
        net->folded_bias = mabn_xcalloc(biases + 1, sizeof *net->folded_bias);
    }
    int64_t widest = 1;
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].c > widest) widest = net->nodes[i].c;
    net->fold_a = mabn_xcalloc((size_t)widest, sizeof *net->fold_a);
    net->fold_b = mabn_xcalloc((size_t)widest, sizeof *net->fold_b);
    net->labels = mabn_xcalloc(batch, sizeof *net->labels);
    net->ranks = mabn_xcalloc(batch, sizeof *net->ranks);
    net->losses = mabn_xcalloc(batch, sizeof *net->losses);
    net->weight_bytes = net_align(net->weight_bytes);
    void *scratch;
    return mabn_device_scratch(net->device, &scratch, net->weight_bytes + net->scratch_bytes);
}

static mabn_status cpu_prepare(struct mabn_net *net)
{
    size_t packed = 0, biases = 0;
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (node->kind == NODE_CONV) MABN_TRY(prepare_conv(net, node, &packed, &biases));
        if (node->kind == NODE_NORM)
            want_scratch(
                net, mabn_norm_scratch_bytes(&node->norm, net->options.batch, node->h * node->w));
    }
    MABN_TRY(get_memory(net, packed, biases));
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].kind == NODE_NORM) bind_norm(net, &net->nodes[i]);
    if (net->options.training) list_sgd(net);
    return MABN_OK;
}

static void cpu_release(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++)
        mabn_conv_free(net->nodes[i].op);
    free(net->folded_bias);
    free(net->fold_a);
    free(net->fold_b);
    free(net->sgd);
    free(net->labels);
    free(net->ranks);
    free(net->losses);
}

/* ---- running ---- */

/* The device's scratch, cut in two: a layer's weights in use, then the operations' own. */
struct scratch {
    float *weights;
    void *ops;
};

static mabn_status get_scratch(const struct mabn_net *net, struct scratch *s)
{
    void *base;
    MABN_TRY(mabn_device_scratch(net->device, &base, net->weight_bytes + net->scratch_bytes));
    s->weights = base;
    s->ops = (char *)base + net->weight_bytes;
    return MABN_OK;
}

static struct mabn_pool_shape pool_shape(const struct mabn_net *net, const struct node *node)
{
    const struct node *x = &net->nodes[node->x];
    return (struct mabn_pool_shape){
        net->options.batch, x->h, x->w, x->c, node->conv.kernel, node->conv.stride, node->conv.pad};
}

static int64_t filter_size(const struct mabn_net *net, const struct node *conv)
{
    const struct parameter *p = &net->parameters[conv->weight];
    return p->in * p->area;
}

/* The weights that a convolution uses: centralized into scratch where it asks for that. */
static const float *weights_in_use(const struct mabn_net *net, const struct node *conv,
                                   const struct scratch *s)
{
    const float *raw = net_weight(net, conv->weight);
    if (!conv->conv.centralize) return raw;
    mabn_centralize(s->weights, raw, conv->c, filter_size(net, conv));
    return s->weights;
}

/* ---- inference: packed weights ---- */

static mabn_status pack_conv(struct mabn_net *net, struct node *conv, const struct scratch *s)
{
    const float *weight = net_weight(net, conv->weight), *bias = net_weight(net, conv->bias);
    float *bias_out = net->folded_bias + conv->bias_offset;
    if (conv->folded >= 0) {
        const struct node *norm = &net->nodes[conv->folded];
        MABN_TRY(mabn_norm_affine(&norm->norm, net->fold_a, net->fold_b, norm->io.gamma,
                                  norm->io.beta, norm->io.state));
        mabn_norm_fold(s->weights, bias_out, weight, bias, net->fold_a, net->fold_b, conv->c,
                       filter_size(net, conv), conv->conv.centralize);
        weight = s->weights;
    } else {
        weight = weights_in_use(net, conv, s);
        if (bias) memcpy(bias_out, bias, (size_t)conv->c * sizeof *bias);
    }
    return mabn_conv_pack(conv->op, net->packed.base + conv->packed_offset, weight, s->ops);
}

static mabn_status pack_all(struct mabn_net *net, const struct scratch *s)
{
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].kind == NODE_CONV) MABN_TRY(pack_conv(net, &net->nodes[i], s));
    net->stale = false;
    return MABN_OK;
}

/* Run a convolution whose result goes to the output of `at`: itself, or the norm it took in. */
static mabn_status infer_conv(struct mabn_net *net, const struct node *conv, const struct node *at,
                              const struct scratch *s)
{
    bool bias = conv->folded >= 0 || conv->conv.bias;
    float *y = net_buffer(net, at->data);
    if (conv->folded >= 0 && at->residual >= 0) {
        const struct node *shortcut = &net->nodes[at->residual];
        if (shortcut->data != at->data)
            memcpy(y, net_buffer(net, shortcut->data), (size_t)net_values(net, at) * sizeof(float));
    }
    return mabn_conv_infer(conv->op, y, net_buffer(net, net->nodes[conv->x].data),
                           net->packed.base + conv->packed_offset,
                           bias ? net->folded_bias + conv->bias_offset : NULL, s->ops);
}

/* ---- forward ---- */

static mabn_status forward_conv(struct mabn_net *net, struct node *node, const struct scratch *s)
{
    if (!net->options.training) return node->folded >= 0 ? MABN_OK : infer_conv(net, node, node, s);
    return mabn_conv_forward(node->op, net_buffer(net, node->data),
                             net_buffer(net, net->nodes[node->x].data),
                             weights_in_use(net, node, s), net_weight(net, node->bias), s->ops);
}

static mabn_status forward_norm(struct mabn_net *net, struct node *node, const struct scratch *s)
{
    if (node->folded >= 0) return infer_conv(net, &net->nodes[node->folded], node, s);
    node->io.scratch = s->ops;
    node->io.y = net_buffer(net, node->data);
    return net->options.training ? mabn_norm_forward(&node->norm, &node->io)
                                 : mabn_norm_infer(&node->norm, &node->io);
}

static mabn_status forward_node(struct mabn_net *net, struct node *node, const struct scratch *s)
{
    float *y = net_buffer(net, node->data);
    const struct node *x = &net->nodes[node->x < 0 ? 0 : node->x];
    struct mabn_pool_shape pool;
    switch (node->kind) {
    case NODE_INPUT:
        return MABN_OK;
    case NODE_CONV:
        return forward_conv(net, node, s);
    case NODE_NORM:
        return forward_norm(net, node, s);
    case NODE_MAX_POOL:
        pool = pool_shape(net, node);
        return mabn_maxpool_forward(y, (uint8_t *)net_buffer(net, node->extra),
                                    net_buffer(net, x->data), &pool);
    case NODE_GLOBAL_POOL:
        mabn_avgpool_forward(y, net_buffer(net, x->data), net->options.batch, x->h * x->w, x->c);
        return MABN_OK;
    case NODE_LINEAR:
        return mabn_linear_forward(y, net_buffer(net, x->data), net_weight(net, node->weight),
                                   net_weight(net, node->bias), net->options.batch, x->c, node->c);
    }
    return MABN_OK;
}

static mabn_status cpu_forward(struct mabn_net *net)
{
    struct scratch s;
    MABN_TRY(get_scratch(net, &s));
    if (!net->options.training && net->stale) MABN_TRY(pack_all(net, &s));
    for (int i = 0; i < net->node_count; i++)
        MABN_TRY(forward_node(net, &net->nodes[i], &s));
    return MABN_OK;
}

static mabn_status cpu_loss(struct mabn_net *net, double smoothing, double *loss)
{
    const struct node *output = &net->nodes[net->output];
    int batch = net->options.batch, labelled = 0;
    for (int i = 0; i < batch; i++)
        labelled += net->labels[i] >= 0;
    struct mabn_xent_out out = {
        .loss = net->losses,
        .rank = net->ranks,
        .dlogits = net->options.training ? net_buffer(net, output->grad) : NULL,
    };
    double share = labelled ? 1.0 / labelled : 0;
    MABN_TRY(mabn_softmax_xent(&out, net_buffer(net, output->data), net->labels, batch, output->c,
                               smoothing, share));
    *loss = 0;
    for (int i = 0; i < batch; i++)
        *loss += net->losses[i];
    *loss *= share;
    return MABN_OK;
}

/* ---- backward ---- */

static mabn_status backward_norm(struct mabn_net *net, struct node *node, const struct scratch *s)
{
    node->io.scratch = s->ops;
    /* Without a shortcut the mask comes from x, and the output may be gone. */
    node->io.y = node->residual >= 0 ? net_buffer(net, node->data) : NULL;
    MABN_TRY(mabn_net_record_norm(net, node, &node->io)); /* before dy may be written over */
    return mabn_norm_backward(&node->norm, &node->io);
}

/* What a layer read in forward: kept, or made again by the first that needs it. */
static mabn_status input_again(struct mabn_net *net, const struct node *reader,
                               const struct scratch *s, const float **input)
{
    struct node *x = &net->nodes[reader->x];
    *input = net_buffer(net, x->again >= 0 ? x->again : x->data);
    if (x->again < 0 || &net->nodes[x->remake_for] != reader) return MABN_OK;
    x->io.scratch = s->ops;
    x->io.y = net_buffer(net, x->again);
    return mabn_norm_reapply(&x->norm, &x->io);
}

static mabn_status backward_conv(struct mabn_net *net, struct node *node, const struct scratch *s)
{
    const struct node *x = &net->nodes[node->x];
    const float *dy = net_buffer(net, node->grad), *input;
    float *dweight = net_gradient(net, node->weight);
    MABN_TRY(input_again(net, node, s, &input));
    MABN_TRY(mabn_conv_backward_weights(node->op, dweight, net_gradient(net, node->bias), input, dy,
                                        s->ops));
    if (node->conv.centralize)
        mabn_centralize_backward(dweight, dweight, node->c, filter_size(net, node));
    if (!x->trains) return MABN_OK;
    return mabn_conv_backward_data(node->op, net_buffer(net, x->grad), dy,
                                   weights_in_use(net, node, s), node->dx_adds, s->ops);
}

static mabn_status backward_linear(struct mabn_net *net, struct node *node)
{
    const struct node *x = &net->nodes[node->x];
    const float *dy = net_buffer(net, node->grad);
    int64_t batch = net->options.batch;
    MABN_TRY(mabn_linear_backward_weights(net_gradient(net, node->weight),
                                          net_gradient(net, node->bias), net_buffer(net, x->data),
                                          dy, batch, x->c, node->c));
    if (!x->trains) return MABN_OK;
    return mabn_linear_backward_data(net_buffer(net, x->grad), dy, net_weight(net, node->weight),
                                     batch, x->c, node->c, node->dx_adds);
}

static mabn_status backward_node(struct mabn_net *net, struct node *node, const struct scratch *s)
{
    const struct node *x = &net->nodes[node->x];
    struct mabn_pool_shape pool;
    switch (node->kind) {
    case NODE_INPUT:
        return MABN_OK;
    case NODE_CONV:
        return backward_conv(net, node, s);
    case NODE_NORM:
        return backward_norm(net, node, s);
    case NODE_LINEAR:
        return backward_linear(net, node);
    case NODE_MAX_POOL:
        pool = pool_shape(net, node);
        if (!x->trains) return MABN_OK;
        return mabn_maxpool_backward(net_buffer(net, x->grad), net_buffer(net, node->grad),
                                     (uint8_t *)net_buffer(net, node->extra), &pool);
    case NODE_GLOBAL_POOL:
        if (!x->trains) return MABN_OK;
        mabn_avgpool_backward(net_buffer(net, x->grad), net_buffer(net, node->grad),
                              net->options.batch, x->h * x->w, x->c);
        return MABN_OK;
    }
    return MABN_OK;
}

static mabn_status cpu_backward(struct mabn_net *net)
{
    struct scratch s;
    MABN_TRY(get_scratch(net, &s));
    for (int i = net->output; i > 0; i--)
        if (net->nodes[i].grad >= 0) MABN_TRY(backward_node(net, &net->nodes[i], &s));
    return MABN_OK;
}

static mabn_status cpu_update(struct mabn_net *net, const struct mabn_net_sgd *sgd)
{
    struct mabn_sgd_options options;
    mabn_sgd_options_init(&options);
    options.momentum = sgd->momentum;
    options.nesterov = sgd->nesterov;
    for (int i = 0, k = 0; i < net->parameter_count; i++) {
        const struct parameter *p = &net->parameters[i];
        if (!p->trains) continue;
        net->sgd[k++].decay = p->decays || !sgd->no_decay_norm_bias ? sgd->weight_decay : 0;
    }
    mabn_sgd_step(&options, sgd->lr, net->sgd, net->sgd_count);
    return MABN_OK;
}

/* ---- looking inside ---- */

static mabn_status run_bare_layer(struct mabn_net *net, struct node *node, const struct scratch *s)
{
    const struct node *x = &net->nodes[node->x < 0 ? 0 : node->x];
    const float *input = net_buffer(net, x->data), *weight = net_weight(net, node->weight);
    if (node->kind == NODE_LINEAR) {
        MABN_TRY(forward_node(net, node, s));
        return net->options.training ? backward_linear(net, node) : MABN_OK;
    }
    if (node->kind != NODE_CONV) return MABN_OK;
    if (!net->options.training)
        return infer_conv(net, node, node->folded >= 0 ? &net->nodes[node->folded] : node, s);
    MABN_TRY(mabn_conv_forward(node->op, net_buffer(net, node->data), input, weight,
                               net_weight(net, node->bias), s->ops));
    const float *dy = net_buffer(net, node->grad);
    MABN_TRY(mabn_conv_backward_weights(node->op, net_gradient(net, node->weight),
                                        net_gradient(net, node->bias), input, dy, s->ops));
    if (!x->trains) return MABN_OK;
    return mabn_conv_backward_data(node->op, net_buffer(net, x->grad), dy, weight, false, s->ops);
}

static mabn_status cpu_time_convolutions(struct mabn_net *net, double *seconds)
{
    struct scratch s;
    MABN_TRY(get_scratch(net, &s));
    if (!net->options.training && net->stale) MABN_TRY(pack_all(net, &s));
    double start = mabn_now();
    for (int i = 0; i < net->node_count; i++)
        MABN_TRY(run_bare_layer(net, &net->nodes[i], &s));
    *seconds = mabn_now() - start;
    return MABN_OK;
}

static mabn_status cpu_time_layers(struct mabn_net *net, struct net_layer_time *times)
{
    struct scratch s;
    double loss, start;
    MABN_TRY(get_scratch(net, &s));
    if (!net->options.training && net->stale) MABN_TRY(pack_all(net, &s));
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        times[i].elsewhere = node->kind == NODE_CONV && node->folded >= 0;
        times[i].with_conv = node->kind == NODE_NORM && node->folded >= 0;
        start = mabn_now();
        MABN_TRY(forward_node(net, node, &s));
        if (!times[i].elsewhere) times[i].forward = mabn_now() - start;
    }
    if (!net->options.training) return MABN_OK;
    MABN_TRY(cpu_loss(net, 0, &loss));
    for (int i = net->output; i > 0; i--) {
        if (net->nodes[i].grad < 0) continue;
        start = mabn_now();
        MABN_TRY(backward_node(net, &net->nodes[i], &s));
        times[i].backward = mabn_now() - start;
    }
    return MABN_OK;
}

enum { COPY_PIECE = 1 << 20 };

static mabn_status cpu_time_copy(struct mabn_net *net, void *to, const void *from, size_t bytes,
                                 double *seconds)
{
    (void)net;
    const int64_t pieces = (int64_t)((bytes + COPY_PIECE - 1) / COPY_PIECE);
    const double start = mabn_now();
#pragma omp parallel for
    for (int64_t i = 0; i < pieces; i++) {
        const size_t at = (size_t)i * COPY_PIECE;
        memcpy((char *)to + at, (const char *)from + at,
               bytes - at < COPY_PIECE ? bytes - at : COPY_PIECE);
    }
    *seconds = mabn_now() - start;
    return MABN_OK;
}

/* ---- one step ---- */

static mabn_status cpu_step(struct mabn_net *net, double smoothing, const struct mabn_net_sgd *sgd)
{
    struct mabn_net_result *r = &net->result;
    *r = (struct mabn_net_result){.loss_scale = 1};
    MABN_TRY(cpu_forward(net));
    MABN_TRY(cpu_loss(net, smoothing, &r->loss));
    for (int i = 0; i < net->options.batch; i++) {
        r->labelled += net->ranks[i] >= 0;
        r->top1 += net->ranks[i] == 0;
        r->top5 += net->ranks[i] >= 0 && net->ranks[i] < 5;
    }
    if (!net->options.training) return MABN_OK;
    MABN_TRY(cpu_backward(net));
    return cpu_update(net, sgd);
}

static mabn_status cpu_result(struct mabn_net *net, struct mabn_net_result *result)
{
    *result = net->result;
    return MABN_OK;
}

static mabn_status cpu_copy(struct mabn_net *net, void *to, const void *from, size_t bytes)
{
    (void)net;
    memcpy(to, from, bytes);
    return MABN_OK;
}

static void *cpu_input(struct mabn_net *net)
{
    return net_buffer(net, net->nodes[0].data);
}

static int32_t *cpu_labels(struct mabn_net *net)
{
    return net->labels;
}

static const float *cpu_logits(const struct mabn_net *net)
{
    return net_buffer(net, net->nodes[net->output].data);
}

static const int32_t *cpu_ranks(const struct mabn_net *net)
{
    return net->ranks;
}

const struct net_backend mabn_net_cpu = {
    .depth = 1,
    .prepare = cpu_prepare,
    .release = cpu_release,
    .input = cpu_input,
    .labels = cpu_labels,
    .logits = cpu_logits,
    .ranks = cpu_ranks,
    .forward = cpu_forward,
    .loss = cpu_loss,
    .backward = cpu_backward,
    .update = cpu_update,
    .step = cpu_step,
    .result = cpu_result,
    .copy = cpu_copy,
    .time_convolutions = cpu_time_convolutions,
    .time_layers = cpu_time_layers,
    .time_copy = cpu_time_copy,
};
