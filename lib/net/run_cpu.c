/* A planned network on the CPU: oneDNN's primitives and our own loops on host memory.
 *
 * cpu_prepare lets the nodes create their primitives and bind the pointers that never change. After
 * that nothing here allocates or decides, except that where rows vary a primitive is created when
 * its number of rows is first needed. Every call is done when it returns, so no step is ever in
 * flight. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "device/tune.h"
#include "net/internal.h"
#include "net/packed.h"
#include "ops/elementwise.h"

/* ---- preparing ---- */

static mabn_status get_memory(struct mabn_net *net)
{
    struct scratch s;
    MABN_TRY(mabn_packed_place(net->params));
    return mabn_net_scratch(net, &s);
}

static mabn_status cpu_prepare(struct mabn_net *net)
{
    int64_t widest = 1;
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].c > widest) widest = net->nodes[i].c;
    net->fold_a = mabn_xcalloc((size_t)widest, sizeof *net->fold_a);
    net->fold_b = mabn_xcalloc((size_t)widest, sizeof *net->fold_b);
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (node->kind->cpu->prepare) MABN_TRY(node->kind->cpu->prepare(net, node));
    }
    if (net->options.tune && mabn_device_tuning(net->device))
        MABN_TRY(mabn_tune_save(mabn_device_tuning(net->device)));
    return get_memory(net);
}

static void cpu_release(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].kind->cpu && net->nodes[i].kind->cpu->release)
            net->nodes[i].kind->cpu->release(&net->nodes[i]);
    free(net->fold_a);
    free(net->fold_b);
}

/* ---- running ---- */

mabn_status mabn_net_scratch(struct mabn_net *net, struct scratch *s)
{
    void *base;
    MABN_TRY(mabn_device_scratch(net->device, &base, net->weight_bytes + net->scratch_bytes));
    s->weights = base;
    s->ops = (char *)base + net->weight_bytes;
    return MABN_OK;
}

/* Renew what inference derived from parameters that have changed since. */
static mabn_status refresh(struct mabn_net *net)
{
    if (net->options.training || !net_stale(net)) return MABN_OK;
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (node->kind->cpu->refresh) MABN_TRY(node->kind->cpu->refresh(net, node));
    }
    net->version = net->params->version;
    return MABN_OK;
}

static mabn_status forward_node(struct mabn_net *net, struct node *node)
{
    return node->kind->cpu->forward ? node->kind->cpu->forward(net, node) : MABN_OK;
}

static mabn_status cpu_forward(struct mabn_net *net)
{
    MABN_TRY(refresh(net));
    for (int i = 0; i < net->node_count; i++)
        MABN_TRY(forward_node(net, &net->nodes[i]));
    if (net->options.training) net->params->version++; /* the norms' state has changed */
    return MABN_OK;
}

/* ---- backward ---- */

struct net_gradients mabn_net_gradients_begin(const struct mabn_net *net, const struct node *node,
                                              float *weights)
{
    struct net_gradients to = {net_gradient(net, node->weight), net_gradient(net, node->bias)};
    if (!net_adds(net, node)) return to;
    if (to.weight) to.weight = weights;
    if (to.bias) to.bias = net->fold_a;
    return to;
}

void mabn_net_gradients_end(const struct mabn_net *net, const struct node *node,
                            const struct net_gradients *to)
{
    float *weight = net_gradient(net, node->weight), *bias = net_gradient(net, node->bias);
    if (!net_adds(net, node)) return;
    mabn_add(weight, weight, to->weight, (int64_t)net->params->list[node->weight].count, false);
    if (bias) mabn_add(bias, bias, to->bias, node->c, false);
}

/* Add the gradients that the kind could not add itself. */
static void add_gradients(struct mabn_net *net, const struct node *node)
{
    for (int k = 0; k < NODE_MAX_READS; k++) {
        const struct node *x = net_read(net, node, k);
        if (!x || !node->dx_adds[k] || node->dx[k] == x->grad) continue;
        void *sum = net_buffer(net, x->grad);
        if (x->dtype == MABN_DTYPE_BF16)
            mabn_add_half(sum, sum, net_buffer(net, node->dx[k]), net->rows * net_row(x));
        else
            mabn_add(sum, sum, net_buffer(net, node->dx[k]), net->rows * net_row(x), false);
    }
}

static mabn_status backward_node(struct mabn_net *net, struct node *node)
{
    if (!net_goes_back(node) || !node->kind->cpu->backward) return MABN_OK;
    MABN_TRY(node->kind->cpu->backward(net, node));
    add_gradients(net, node);
    return MABN_OK;
}

static mabn_status cpu_backward(struct mabn_net *net)
{
    for (int i = net->node_count - 1; i > 0; i--) {
        MABN_TRY(backward_node(net, &net->nodes[i]));
        if (net->ready) MABN_TRY(net->ready(net->ready_context, net->ready_from[i]));
    }
    return MABN_OK;
}

static mabn_status cpu_update(struct mabn_net *net, const struct mabn_params_sgd *sgd)
{
    return mabn_params_update(net->params, sgd);
}

/* ---- looking inside ---- */

static mabn_status cpu_time_convolutions(struct mabn_net *net, double *seconds)
{
    MABN_TRY(refresh(net));
    double start = mabn_now();
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (node->kind->cpu->bare) MABN_TRY(node->kind->cpu->bare(net, node));
    }
    *seconds = mabn_now() - start;
    return MABN_OK;
}

static mabn_status cpu_time_layers(struct mabn_net *net, struct net_layer_time *times)
{
    double start;
    MABN_TRY(refresh(net));
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        times[i].elsewhere = node->runs_at != i;
        if (node->runs_at != i) times[node->runs_at].with_conv = true;
        start = mabn_now();
        MABN_TRY(forward_node(net, node));
        if (!times[i].elsewhere) times[i].forward = mabn_now() - start;
    }
    if (!net->options.training) return MABN_OK;
    for (int i = net->node_count - 1; i > 0; i--) {
        if (!net_goes_back(&net->nodes[i])) continue;
        start = mabn_now();
        MABN_TRY(backward_node(net, &net->nodes[i]));
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

static mabn_status cpu_step(struct mabn_net *net, const struct mabn_params_sgd *sgd)
{
    MABN_TRY(cpu_forward(net));
    if (!net->options.training) return MABN_OK;
    MABN_TRY(cpu_backward(net));
    return sgd ? cpu_update(net, sgd) : MABN_OK;
}

static mabn_status cpu_result(struct mabn_net *net, struct mabn_net_result *result)
{
    (void)net;
    *result = (struct mabn_net_result){.loss_scale = 1};
    return MABN_OK;
}

static const struct node_ops *cpu_ops(const struct node_kind *kind)
{
    return kind->cpu;
}

static void *cpu_input(struct mabn_net *net)
{
    return net_data(net, &net->nodes[0]);
}

static const float *cpu_logits(const struct mabn_net *net)
{
    return net_buffer(net, net->nodes[net->output].data);
}

const struct net_backend mabn_net_cpu = {
    .depth = 1,
    .mixes = true,
    .ops = cpu_ops,
    .prepare = cpu_prepare,
    .release = cpu_release,
    .input = cpu_input,
    .logits = cpu_logits,
    .forward = cpu_forward,
    .backward = cpu_backward,
    .update = cpu_update,
    .step = cpu_step,
    .result = cpu_result,
    .time_convolutions = cpu_time_convolutions,
    .time_layers = cpu_time_layers,
    .time_copy = cpu_time_copy,
};
