/* Planning: who reads what and when, which buffers that takes, where they lie.
 *
 * Time runs in steps (internal.h). A buffer is wanted from its first to its last step; buffers
 * whose times overlap must not overlap in memory. Placing takes them by size, the largest first,
 * and gives each the lowest offset that is free for its whole time.
 *
 * Training. What a backward pass reads is kept until then: a convolution its input, a norm its
 * input, a norm with residual and ReLU its output (the mask). Nothing else is: a pool keeps its
 * winners, a ReLU without residual finds its mask in the norm's input. Gradients take over buffers
 * where they can: a norm writes its input's gradient over its output's, a shortcut takes the
 * gradient of the block's output as its own.
 *
 * Inference. A norm that folds is executed by the convolution before it, at the norm's place in the
 * list, adding to the shortcut's buffer; the convolution's own node does nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/internal.h"
#include "ops/pool.h"
#include "ops/sgd.h"

static int new_buffer(struct mabn_net *net, size_t bytes, int first, int last)
{
    MABN_GROW(net->buffers, net->buffer_count, net->buffer_capacity);
    bytes = net_align(bytes);
    net->buffers[net->buffer_count] = (struct buffer){.bytes = bytes, .first = first, .last = last};
    return net->buffer_count++;
}

/* Of a node's gradient, and of its output but for logits, which are float32. */
static size_t node_bytes(const struct mabn_net *net, const struct node *node)
{
    int64_t values = net_values(net, node);
    if (node->kind == NODE_INPUT) values = values / node->c * net->input_channels;
    return (size_t)values * mabn_dtype_size(net->dtype);
}

static size_t output_bytes(const struct mabn_net *net, const struct node *node)
{
    bool logits = node == &net->nodes[net->output];
    return logits ? (size_t)net_values(net, node) * sizeof(float) : node_bytes(net, node);
}

static void hold_until(struct mabn_net *net, int buffer, int step)
{
    if (net->buffers[buffer].last < step) net->buffers[buffer].last = step;
}

/* The last node that reads x in forward; x itself when none does. */
static int last_reader(const struct mabn_net *net, int x)
{
    int last = x;
    for (int j = x + 1; j < net->node_count; j++)
        if (net_reads(&net->nodes[j], x)) last = j;
    return last;
}

/* The only reader of x, or -1. */
static int only_reader(const struct mabn_net *net, int x)
{
    int reader = -1;
    for (int j = x + 1; j < net->node_count; j++)
        if (net_reads(&net->nodes[j], x)) {
            if (reader >= 0) return -1;
            reader = j;
        }
    return reader;
}

/* ---- inference ---- */

static void fold_norms(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        struct node *norm = &net->nodes[i];
        if (norm->kind != NODE_NORM || !mabn_norm_folds(norm->norm.options.kind)) continue;
        struct node *conv = &net->nodes[norm->x];
        if (conv->kind != NODE_CONV || only_reader(net, norm->x) != i || net->output == norm->x)
            continue;
        norm->folded = norm->x;
        conv->folded = i;
    }
}

static void plan_inference(struct mabn_net *net)
{
    if (!net->options.no_fold) fold_norms(net);
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (node->kind == NODE_CONV && node->folded >= 0) continue;
        int last = i == net->output ? 2 * net->node_count : last_reader(net, i);
        /* A convolution that is executed later, by its norm, reads its input then. */
        for (int j = i + 1; j < net->node_count; j++)
            if (net->nodes[j].x == i && net->nodes[j].kind == NODE_CONV &&
                net->nodes[j].folded > last)
                last = net->nodes[j].folded;
        int over = node->kind != NODE_NORM ? -1 : node->folded >= 0 ? node->residual : node->x;
        if (over > 0 && net->buffers[net->nodes[over].data].last == i) {
            node->data = net->nodes[over].data;
            hold_until(net, node->data, last);
        } else {
            node->data = new_buffer(net, output_bytes(net, node), i, last);
        }
    }
    net->buffers[net->nodes[0].data].last = 2 * net->node_count; /* the caller fills it any time */
    net->buffers[net->nodes[0].data].first = 0;
}

/* ---- training ---- */

/* The step of the last backward pass that reads the output of node i, or 0. */
static int backward_need(const struct mabn_net *net, int i)
{
    const struct node *node = &net->nodes[i];
    int need = 0;
    if (node->kind == NODE_NORM && node->residual >= 0 && node->io.relu)
        need = net_backward_step(net, i);
    for (int j = i + 1; j < net->node_count; j++) {
        const struct node *reader = &net->nodes[j];
        bool keeps =
            reader->kind == NODE_CONV || reader->kind == NODE_LINEAR || reader->kind == NODE_NORM;
        if (reader->x == i && keeps && net_backward_step(net, j) > need)
            need = net_backward_step(net, j);
    }
    return need;
}

/* With save_memory: may this output be dropped after forward and made again from the norm's input?
 * The reader whose backward comes first makes it. */
static bool can_remake(const struct mabn_net *net, int i)
{
    const struct node *node = &net->nodes[i];
    if (!net->options.save_memory || node->kind != NODE_NORM || node->residual >= 0) return false;
    for (int j = i + 1; j < net->node_count; j++)
        if (net_reads(&net->nodes[j], i) &&
            (net->nodes[j].kind != NODE_CONV || net->nodes[j].residual == i))
            return false;
    return i != net->output;
}

static void find_partners(struct mabn_net *net)
{
    if (mabn_device_kind_of(net->device) == MABN_DEVICE_CPU) return;
    for (int i = 0; i < net->node_count; i++) {
        struct node *norm = &net->nodes[i];
        if (norm->kind != NODE_NORM) continue;
        struct node *conv = &net->nodes[norm->x];
        if (conv->kind != NODE_CONV || only_reader(net, norm->x) != i || net->output == norm->x)
            continue;
        norm->partner = norm->x;
        conv->partner = i;
    }
}

static void plan_outputs(struct mabn_net *net)
{
    find_partners(net);
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        int last = last_reader(net, i), need = backward_need(net, i);
        if (i == net->output) last = 2 * net->node_count;
        if (need && can_remake(net, i)) {
            node->remake_for = last;
            node->again =
                new_buffer(net, node_bytes(net, node), net_backward_step(net, last), need);
        } else if (need > last) {
            last = need;
        }
        node->data = new_buffer(net, output_bytes(net, node), i, last);
        int until = net_backward_step(net, i);
        if (node->kind == NODE_NORM)
            node->extra =
                new_buffer(net, mabn_norm_saved_bytes(&node->norm, net->options.batch), i, until);
        if (node->kind == NODE_MAX_POOL)
            node->extra = new_buffer(net, (size_t)net_values(net, node), i, until);
    }
    for (int i = 0; i < net->node_count; i++) {
        const struct node *conv = &net->nodes[i];
        if (conv->kind == NODE_CONV && conv->partner >= 0 &&
            net->nodes[conv->partner].norm.options.kind == MABN_NORM_MABN)
            hold_until(net, net->nodes[conv->x].data, conv->partner);
    }
    net->buffers[net->nodes[0].data].last = 2 * net->node_count;
}

/* The gradient of x is written by the backward of a reader at `step` and read by x's own. */
static mabn_status give_gradient(struct mabn_net *net, int x, int buffer, int step)
{
    struct node *node = &net->nodes[x];
    if (buffer < 0) buffer = new_buffer(net, node_bytes(net, node), step, step);
    node->grad = buffer;
    hold_until(net, buffer, net_backward_step(net, x));
    return MABN_OK;
}

static mabn_status plan_node_gradient(struct mabn_net *net, int i)
{
    struct node *node = &net->nodes[i], *x = &net->nodes[node->x];
    int step = net_backward_step(net, i);
    bool can_add = node->kind == NODE_CONV || node->kind == NODE_LINEAR;
    int mine = node->grad;
    if (node->kind == NODE_NORM && node->residual >= 0 && net->nodes[node->residual].trains) {
        if (net->nodes[node->residual].grad >= 0 || node->residual == node->x)
            return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': its shortcut is read after it",
                             node->name);
        MABN_TRY(give_gradient(net, node->residual, mine, step));
        mine = -1;
    }
    if (!x->trains) return MABN_OK;
    node->dx_adds = x->grad >= 0;
    if (node->dx_adds && !can_add)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': its input is read by others too", node->name);
    if (node->dx_adds) return MABN_OK;
    return give_gradient(net, node->x, node->kind == NODE_NORM ? mine : -1, step);
}

static mabn_status plan_training(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        for (int p = 0; p < 2; p++) {
            int parameter = p ? node->bias : node->weight;
            if (parameter >= 0 && net->parameters[parameter].trains) node->trains = true;
        }
        if (node->x >= 0 && net->nodes[node->x].trains) node->trains = true;
        if (node->residual >= 0 && net->nodes[node->residual].trains) node->trains = true;
    }
    plan_outputs(net);
    struct node *output = &net->nodes[net->output];
    output->grad = new_buffer(net, node_bytes(net, output), net->node_count,
                              net_backward_step(net, net->output));
    for (int i = net->output; i > 0; i--)
        if (net->nodes[i].grad >= 0) MABN_TRY(plan_node_gradient(net, i));
    return MABN_OK;
}

/* ---- placing ---- */

static int by_size(const void *a, const void *b)
{
    const struct buffer *p = *(struct buffer *const *)a, *q = *(struct buffer *const *)b;
    if (p->bytes != q->bytes) return p->bytes < q->bytes ? 1 : -1;
    return p < q ? -1 : p > q;
}

static int by_offset(const void *a, const void *b)
{
    const struct buffer *p = *(struct buffer *const *)a, *q = *(struct buffer *const *)b;
    return p->offset < q->offset ? -1 : p->offset > q->offset;
}

/* Returns the bytes of the arena. */
static size_t place_buffers(struct mabn_net *net)
{
    size_t end = 0;
    size_t count = (size_t)net->buffer_count;
    struct buffer **order = mabn_xcalloc(count, sizeof *order);
    struct buffer **busy = mabn_xcalloc(count, sizeof *busy);
    for (size_t i = 0; i < count; i++)
        order[i] = &net->buffers[i];
    qsort(order, count, sizeof *order, by_size);
    for (size_t i = 0; i < count; i++) {
        struct buffer *b = order[i];
        size_t others = 0;
        for (size_t j = 0; j < i; j++)
            if (order[j]->first <= b->last && b->first <= order[j]->last) busy[others++] = order[j];
        qsort(busy, others, sizeof *busy, by_offset);
        for (size_t j = 0; j < others; j++) {
            if (busy[j]->offset >= b->offset + b->bytes) break;
            if (b->offset < busy[j]->offset + busy[j]->bytes)
                b->offset = busy[j]->offset + busy[j]->bytes;
        }
        if (b->offset + b->bytes > end) end = b->offset + b->bytes;
    }
    free(order);
    free(busy);
    return end;
}

/* ---- arenas ---- */

mabn_status mabn_net_get_arena(struct mabn_net *net, struct arena *arena, size_t bytes)
{
    void *base;
    arena->bytes = bytes;
    net->arena_bytes += bytes;
    MABN_TRY(mabn_device_alloc(net->device, &base, bytes));
    arena->base = base;
    return MABN_OK;
}

static mabn_status get_arenas(struct mabn_net *net)
{
    size_t floats = net->values * sizeof(float), state = 0;
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (node->kind != NODE_NORM) continue;
        node->state_bytes = mabn_norm_state_bytes(&node->norm);
        node->state_offset = state;
        state += node->state_bytes;
    }
    MABN_TRY(mabn_net_get_arena(net, &net->weights, floats));
    MABN_TRY(mabn_net_get_arena(net, &net->state, state));
    MABN_TRY(mabn_net_get_arena(net, &net->activations, place_buffers(net)));
    if (!net->options.training) return MABN_OK;
    MABN_TRY(mabn_net_get_arena(net, &net->gradients, floats));
    return mabn_net_get_arena(net, &net->momentum, floats);
}

/* Tensor cores want channels in rows of 16 bytes; a convolution does not mind a few zeros more. */
static void pad_input(struct mabn_net *net)
{
    int64_t row = 16 / (int64_t)mabn_dtype_size(net->dtype);
    net->input_channels = net->nodes[0].c;
    if (mabn_device_kind_of(net->device) == MABN_DEVICE_CPU) return;
    for (int i = 1; i < net->node_count; i++)
        if (net_reads(&net->nodes[i], 0) && net->nodes[i].kind != NODE_CONV) return;
    net->input_channels = (net->input_channels + row - 1) / row * row;
}

mabn_status mabn_net_plan(struct mabn_net *net, int output)
{
    if (net->planned) MABN_BUG("network planned twice");
    MABN_TRY(mabn_net_check(net));
    if (!net->node_count || net->nodes[0].kind != NODE_INPUT || output < 1 ||
        output >= net->node_count)
        return mabn_fail(MABN_ERR_ARG, "a network is an input, layers and one of them as output");
    net->output = output;
    pad_input(net);
    if (net->options.training)
        MABN_TRY(plan_training(net));
    else
        plan_inference(net);
    MABN_TRY(get_arenas(net));
    MABN_TRY(net->backend->prepare(net));
    mabn_net_list_tensors(net);
    MABN_TRY(mabn_net_reset_state(net));
    net->planned = true;
    return MABN_OK;
}
