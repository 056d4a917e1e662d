/* Planning: which node reads what and when, which buffers that takes, and where they lie.
 *
 * Time runs in steps (internal.h). A buffer is in use from its first to its last step; buffers
 * whose times overlap must not overlap in memory. Buffers are placed by size, the largest first,
 * each at the lowest offset that is free for its whole time.
 *
 * Training. What a backward pass reads is kept until then: the input of a convolution, the input of
 * a norm with statistics, and the output of a norm with residual and ReLU (for the mask). Nothing
 * else is kept: a pool keeps its winners, and a ReLU without residual finds its mask in the norm's
 * input. What is not kept is overwritten where it is read last, also by a norm without statistics,
 * whose ReLU finds its mask in the output. Gradients reuse buffers where they can: a norm writes its
 * input's gradient over its output's, and a shortcut takes the gradient of the block's output as its
 * own. Outputs that no loss reads have their gradients from the end of forward on.
 *
 * Inference. A node that is executed in another's place has no output of its own. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/internal.h"

static int new_buffer(struct mabn_net *net, size_t bytes, int first, int last)
{
    MABN_GROW(net->buffers, net->buffer_count, net->buffer_capacity);
    bytes = net_align(bytes);
    net->buffers[net->buffer_count] = (struct buffer){.bytes = bytes, .first = first, .last = last};
    return net->buffer_count++;
}

/* Bytes of a node's output, or of its gradient. An input has padded channels. */
static size_t node_bytes(const struct mabn_net *net, const struct node *node)
{
    int64_t values = net_values(net, node);
    if (node->kind->input) values = values / node->c * net->input_channels;
    return (size_t)values * mabn_dtype_size(node->dtype);
}

static bool is_float(const struct mabn_net *net, int i)
{
    return i < 0 || net->nodes[i].dtype == MABN_DTYPE_F32;
}

/* For a node whose output has the type of its reads: if one read is float32, all must be. */
static bool agree(struct mabn_net *net, int i)
{
    struct node *node = &net->nodes[i];
    bool any = is_float(net, i), all = any;
    for (int k = 0; k < NODE_MAX_READS; k++) {
        any = any || (node->reads[k] >= 0 && is_float(net, node->reads[k]));
        all = all && is_float(net, node->reads[k]);
    }
    if (!any || all) return false;
    node->dtype = MABN_DTYPE_F32;
    for (int k = 0; k < NODE_MAX_READS; k++)
        if (node->reads[k] >= 0) net->nodes[node->reads[k]].dtype = MABN_DTYPE_F32;
    return true;
}

static void choose_types(struct mabn_net *net)
{
    bool changed = net->backend->mixes;
    for (int i = 0; i < net->node_count; i++) {
        const struct node_kind *kind = net->nodes[i].kind;
        const bool edge =
            net_is_output(net, i) || kind->input || kind->loss || net_loss_reads(net, i);
        net->nodes[i].dtype = edge && net->backend->mixes ? MABN_DTYPE_F32 : net->dtype;
    }
    while (changed) {
        changed = false;
        for (int i = 0; i < net->node_count; i++)
            if (net->nodes[i].kind->one_type && agree(net, i)) changed = true;
    }
}

/* Of the output alone: scores are float32. */
static size_t output_bytes(const struct mabn_net *net, int i)
{
    const struct node *node = &net->nodes[i];
    return net_scores(net, i) ? (size_t)net_values(net, node) * sizeof(float)
                              : node_bytes(net, node);
}

static void hold_until(struct mabn_net *net, int buffer, int step)
{
    if (buffer >= 0 && net->buffers[buffer].last < step) net->buffers[buffer].last = step;
}

/* When x is last read in forward; x itself when it is not. */
static int last_reader(const struct mabn_net *net, int x)
{
    int last = x;
    for (int j = x + 1; j < net->node_count; j++)
        if (net_reads(&net->nodes[j], x) && net->nodes[j].runs_at > last)
            last = net->nodes[j].runs_at;
    return last;
}

int mabn_net_only_reader(const struct mabn_net *net, int x)
{
    int reader = -1;
    for (int j = x + 1; j < net->node_count; j++)
        if (net_reads(&net->nodes[j], x)) {
            if (reader >= 0) return -1;
            reader = j;
        }
    return reader;
}

static void join_nodes(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].kind->join) net->nodes[i].kind->join(net, i);
}

/* The caller may fill inputs at any time. */
static void hold_inputs(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (!node->kind->input || node->bound) continue;
        net->buffers[node->data].first = 0;
        net->buffers[node->data].last = 2 * net->node_count;
    }
}

/* The read whose buffer the output may overwrite because this is its last use. */
static int over(const struct mabn_net *net, int i)
{
    const struct node *node = &net->nodes[i];
    int read = node->kind->over ? node->kind->over(net, node) : -1;
    if (read < 0 || net->nodes[read].kind->input || net_is_output(net, read)) return -1;
    return net->buffers[net->nodes[read].data].last == i ? read : -1;
}

static void place_output(struct mabn_net *net, int i, int last)
{
    struct node *node = &net->nodes[i];
    const int under = over(net, i);
    if (under >= 0) {
        node->data = net->nodes[under].data;
        hold_until(net, node->data, last);
    } else {
        node->data = new_buffer(net, output_bytes(net, i), i, last);
    }
}

/* ---- inference ---- */

static void plan_inference(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (node->runs_at != i || node->bound || node->kind->loss) continue;
        place_output(net, i, net_is_output(net, i) ? 2 * net->node_count : last_reader(net, i));
    }
    hold_inputs(net);
}

/* ---- training ---- */

static bool keeps(const struct node *reader, int x)
{
    for (int k = 0; k < NODE_MAX_READS; k++)
        if (reader->reads[k] == x && reader->kind->keeps && reader->kind->keeps(reader, k))
            return true;
    return false;
}

/* The step of the last backward pass that reads the output of node i, or 0. */
static int backward_need(const struct mabn_net *net, int i)
{
    const struct node *node = &net->nodes[i];
    int need = 0;
    if (node->kind->keeps_output && node->kind->keeps_output(node))
        need = net_backward_step(net, i);
    for (int j = i + 1; j < net->node_count; j++) {
        const struct node *reader = &net->nodes[j];
        if (keeps(reader, i) && net_backward_step(net, j) > need) need = net_backward_step(net, j);
    }
    return need;
}

/* The node whose backward is the first to need the output of i; -1: none that trains. */
static int first_backward(const struct mabn_net *net, int i)
{
    for (int j = net->node_count - 1; j > i; j--)
        if (net->nodes[j].trains && keeps(&net->nodes[j], i)) return j;
    return -1;
}

/* Is the shortcut that norm i adds still there at this step? One that is itself recomputed is not,
 * so of the blocks of a stage every second output is kept. On a GPU the shortcut's part of backward
 * may be fused into a convolution, which reads the output that was kept. */
static bool shortcut_stays(const struct mabn_net *net, int i, int step)
{
    const int shortcut = net->nodes[i].reads[1];
    if (shortcut < 0) return true;
    return !net->backend->pairs && net->nodes[shortcut].again < 0 &&
           backward_need(net, shortcut) >= step;
}

/* With save_memory: may this output be dropped after forward and recomputed from the norm's input?
 * The reader whose backward comes first recomputes it. */
static bool can_remake(const struct mabn_net *net, int i)
{
    const struct node *node = &net->nodes[i];
    const int first = first_backward(net, i);
    if (!net->options.save_memory || !node->kind->remakes || !node->kind->keeps(node, 0))
        return false;
    for (int j = i + 1; j < net->node_count; j++)
        if (keeps(&net->nodes[j], i) && !net->nodes[j].kind->finds_again) return false;
    return first >= 0 && !net_is_output(net, i) &&
           shortcut_stays(net, i, net_backward_step(net, first));
}

static void find_trained(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (net_gradient(net, node->weight) || net_gradient(net, node->bias)) node->trains = true;
        for (int k = 0; k < NODE_MAX_READS; k++)
            if (node->reads[k] >= 0 && net->nodes[node->reads[k]].trains) node->trains = true;
    }
}

static void plan_outputs(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        int last = last_reader(net, i), need = backward_need(net, i);
        if (node->bound || node->kind->loss) continue;
        if (net_is_output(net, i)) last = 2 * net->node_count;
        if (need && can_remake(net, i)) {
            node->remake_for = first_backward(net, i);
            node->again = new_buffer(net, node_bytes(net, node),
                                     net_backward_step(net, node->remake_for), need);
        } else if (need > last) {
            last = need;
        }
        place_output(net, i, last);
        if (node->kind->saved_bytes)
            node->extra =
                new_buffer(net, node->kind->saved_bytes(net, node), i, net_backward_step(net, i));
    }
    hold_inputs(net);
}

/* The gradient of x is first written at `step` and read by x's own backward. It has its own buffer,
 * or reuses another's. */
static int give_gradient(struct mabn_net *net, int x, int buffer, int step)
{
    struct node *node = &net->nodes[x];
    if (buffer < 0) buffer = new_buffer(net, node_bytes(net, node), step, step);
    node->grad = buffer;
    hold_until(net, buffer, net_backward_step(net, x));
    return buffer;
}

/* Where backward of node i writes the gradient of read k. `mine`: the node's own gradient, while
 * its buffer was not reused. */
static void plan_read(struct mabn_net *net, int i, int k, int *mine)
{
    struct node *node = &net->nodes[i], *x = net_read(net, node, k);
    const int step = net_backward_step(net, i);
    if (!x || !x->trains || x->bound) return;
    if (x->grad < 0) {
        const bool takes = node->kind->takes_over && node->kind->takes_over(node, k);
        node->dx[k] = give_gradient(net, node->reads[k], takes ? *mine : -1, step);
        if (takes) *mine = -1;
        return;
    }
    node->dx_adds[k] = true;
    node->dx[k] = x->grad;
    if (node->kind->adds && node->kind->adds(node, k)) return;
    node->dx[k] =
        new_buffer(net, node_bytes(net, x), step, step); /* the backend adds it to x->grad */
}

/* Parameters that several nodes use: the backward that comes first overwrites. */
static void find_shared(struct mabn_net *net)
{
    for (int i = net->node_count - 1; i > 0; i--) {
        const struct node *node = &net->nodes[i];
        if (node->grad < 0 || node->weight < 0) continue;
        for (int j = i - 1; j > 0; j--)
            if (net->nodes[j].weight == node->weight) net->nodes[j].parameters_add = true;
    }
}

static void plan_training(struct mabn_net *net)
{
    find_trained(net);
    plan_outputs(net);
    for (int k = 0; k < net->output_count; k++) {
        struct node *node = &net->nodes[net->outputs[k].node];
        if (node->trains && node->grad < 0 && !net_loss_reads(net, net->outputs[k].node))
            node->grad = new_buffer(net, node_bytes(net, node), net->node_count,
                                    net_backward_step(net, net->outputs[k].node));
    }
    for (int i = net->node_count - 1; i > 0; i--) {
        int mine = net->nodes[i].grad;
        if (!net_goes_back(&net->nodes[i])) continue;
        /* The shortcut may reuse the buffer before the input may. */
        for (int k = NODE_MAX_READS - 1; k >= 0; k--)
            plan_read(net, i, k, &mine);
    }
    find_shared(net);
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

void mabn_net_pool_release(struct mabn_net_memory_pool *pool, struct mabn_device *device)
{
    mabn_device_release(device, pool->base, pool->bytes);
    pool->base = NULL;
    pool->bytes = 0;
}

static mabn_status get_activations(struct mabn_net *net, size_t bytes)
{
    struct mabn_net_memory_pool *pool = net->options.pool;
    if (!pool) return mabn_net_get_arena(net, &net->activations, bytes);
    if (pool->bytes < bytes) {
        pool->outgrown(pool->context);
        mabn_net_pool_release(pool, net->device);
        MABN_TRY(mabn_device_alloc(net->device, &pool->base, bytes));
        pool->bytes = bytes;
    }
    net->activations = (struct arena){pool->base, bytes};
    net->arena_bytes += bytes;
    return MABN_OK;
}

/* Tensor cores need channels in rows of 16 bytes. Channels of zeros do not change a convolution. */
static void pad_input(struct mabn_net *net)
{
    const int64_t row = net->backend->row_bytes / (int64_t)mabn_dtype_size(net->dtype);
    net->input_channels = net->nodes[0].c;
    if (!row) return;
    for (int i = 1; i < net->node_count; i++)
        if (net_reads(&net->nodes[i], 0) && !net->nodes[i].kind->pads_input) return;
    net->input_channels = (net->input_channels + row - 1) / row * row;
}

mabn_status mabn_net_built(struct mabn_net *net)
{
    MABN_TRY(mabn_net_check(net));
    if (!net->node_count || !net->nodes[0].kind->input || !net->output_count)
        return mabn_fail(MABN_ERR_ARG, "a network needs an input, layers and an output");
    return MABN_OK;
}

/* Does the backend have every kind of node? */
static mabn_status check_kinds(const struct mabn_net *net)
{
    const bool half = net->dtype != MABN_DTYPE_F32 && net->backend->mixes;
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (!net_ops(net, node))
            return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': a %s does not run on this device",
                             node->name, node->kind->name);
        if (half && !net_ops(net, node)->half && !node->kind->loss)
            return mabn_fail(MABN_ERR_UNSUPPORTED,
                             "'%s': a %s does not compute in bfloat16 on this device", node->name,
                             node->kind->name);
    }
    return MABN_OK;
}

mabn_status mabn_net_plan(struct mabn_net *net)
{
    if (net->planned) MABN_BUG("network planned twice");
    MABN_TRY(mabn_net_built(net));
    MABN_TRY(check_kinds(net));
    if (!net->params->placed) MABN_TRY(mabn_params_place(net->params, net->options.training));
    if (net->options.training && !net->params->training)
        return mabn_fail(MABN_ERR_ARG, "these parameters are not placed for training");
    choose_types(net);
    pad_input(net);
    join_nodes(net);
    if (net->options.training)
        plan_training(net);
    else
        plan_inference(net);
    MABN_TRY(get_activations(net, place_buffers(net)));
    MABN_TRY(net->backend->prepare(net));
    net->version = 0;
    net->planned = true;
    return MABN_OK;
}
