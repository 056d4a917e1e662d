/* A planned network on an NVIDIA GPU: which kernels and library calls a step queues.
 *
 * One step; at most two are in flight:
 *
 *     copy stream      the slot's pictures, labels and rates, into `staged`
 *     compute stream   the pictures into the plan's input, rounded and padded
 *                      labels and rates to their places
 *                      one graph: forward, loss, backward, update, statistics
 *                      figures and logits, back into the slot
 *
 * The slot differs from step to step. It is read before the graph and written after it, so that one
 * graph serves both slots. Once the pictures have left `staged`, those of the next step can cross
 * the bus while this one computes.
 *
 * A step has up to eight graphs (variant_of). The affine maps of all MABN layers are known in advance or
 * not (norm_cuda.h; the host counts the steps until then); backward adds to gradients or overwrites; it
 * calls net->ready or not. Sums over ranks, of statistics and gradients, are part of the graph if the
 * device adds them up. If norms' sums pass through the host, there is no graph.
 *
 * A graph is captured the second time it is needed. The first time its work is queued directly, so that
 * libraries can load and allocate. If capturing fails, work is queued directly from then on, with a
 * warning. */
#include <cuda_runtime.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "base/log.h"
#include "base/mem.h"
#include "device/launch.cuh"
#include "net/cuda.cuh"
#include "net/losses.h"
#include "net/nodes/losses.cuh"
#include "net/queue.h"

/* ---- what a step queues: everything below may be captured ---- */

mabn_status mabn_net_cuda_copy(const struct mabn_net *net, void *to, const void *from, size_t bytes)
{
    MABN_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                  (cudaStream_t)net->cuda->stream));
    return MABN_OK;
}

mabn_status mabn_net_cuda_clear(const struct mabn_net *net, void *buffer, size_t bytes)
{
    MABN_CUDA_TRY(cudaMemsetAsync(buffer, 0, bytes, (cudaStream_t)net->cuda->stream));
    return MABN_OK;
}

mabn_status mabn_net_cuda_clear_rest(const struct mabn_net *net, void *buffer,
                                     const struct node *node)
{
    const size_t live = rows_bytes(net, node);
    if (net->live)
        return mabn_cuda_clear_behind(buffer, net->live, net->rows,
                                      net_row(node) * (int64_t)mabn_dtype_size(net->dtype),
                                      net->cuda->stream);
    const size_t all = (size_t)net_values(net, node) * mabn_dtype_size(net->dtype);
    if (live == all) return MABN_OK;
    return mabn_net_cuda_clear(net, (char *)buffer + live, all - live);
}

void mabn_net_cuda_gradient_begin(const struct mabn_net *net, const struct node *node,
                                  struct net_cuda_gradient *to)
{
    to->weight = net_gradient(net, node->weight);
    to->bias = net_gradient(net, node->bias);
    if (!net_adds(net, node)) return;
    to->weight = (float *)net->cuda->spare.base;
    if (to->bias) to->bias = to->weight + net->params->list[node->weight].count;
}

mabn_status mabn_net_cuda_gradient_end(const struct mabn_net *net, const struct node *node,
                                       const struct net_cuda_gradient *to)
{
    const struct parameter *list = net->params->list;
    const struct net_cuda *c = net->cuda;
    if (!net_adds(net, node)) return MABN_OK;
    MABN_TRY(mabn_cuda_add(net_gradient(net, node->weight), to->weight,
                           (int64_t)list[node->weight].count, MABN_DTYPE_F32, c->stream));
    if (!to->bias) return MABN_OK;
    return mabn_cuda_add(net_gradient(net, node->bias), to->bias, (int64_t)list[node->bias].count,
                         MABN_DTYPE_F32, c->stream);
}

static mabn_status forward_node(struct mabn_net *net, struct node *node)
{
    return node->kind->cuda->forward ? node->kind->cuda->forward(net, node) : MABN_OK;
}

static mabn_status forward_all(struct mabn_net *net)
{
    if (net->options.training) MABN_TRY(mabn_net_cuda_begin_joined(net));
    for (int i = 0; i < net->node_count; i++)
        MABN_TRY(forward_node(net, &net->nodes[i]));
    return MABN_OK;
}

/* Add the gradients that the kind could not add itself. */
static mabn_status add_gradients(struct mabn_net *net, const struct node *node)
{
    for (int k = 0; k < NODE_MAX_READS; k++) {
        const struct node *x = net_read(net, node, k);
        if (!x || !node->dx_adds[k] || node->dx[k] == x->grad) continue;
        MABN_TRY(mabn_cuda_add(memory(net, x->grad), memory(net, node->dx[k]),
                               net->rows * net_row(x), net->dtype, net->cuda->stream));
    }
    return MABN_OK;
}

static mabn_status backward_node(struct mabn_net *net, struct node *node)
{
    if (!node->kind->cuda->backward) return MABN_OK;
    MABN_TRY(node->kind->cuda->backward(net, node));
    return add_gradients(net, node);
}

static mabn_status backward_all(struct mabn_net *net)
{
    for (int i = net->node_count - 1; i > 0; i--) {
        if (net_goes_back(&net->nodes[i])) MABN_TRY(backward_node(net, &net->nodes[i]));
        if (net->ready) MABN_TRY(net->ready(net->ready_context, net->ready_from[i]));
    }
    return MABN_OK;
}

static mabn_status queue_update(struct mabn_net *net, bool nesterov)
{
    struct net_cuda *c = net->cuda;
    if (c->scaler)
        MABN_TRY(mabn_cuda_gradients_finite(&c->scaler->overflow,
                                            (const float *)net->params->gradients.base,
                                            (int64_t)net->params->values, c->stream));
    MABN_TRY(mabn_cuda_sgd_step(c->params, c->pieces, c->piece_count, &c->inputs->rates, c->scaler,
                                nesterov, false, c->stream));
    if (c->scaler) MABN_TRY(mabn_cuda_scaler_update(c->scaler, c->stream));
    for (int i = 0; i < net->node_count; i++)
        if (c->layers[i].padded)
            MABN_TRY(mabn_net_cuda_write_work(net, &net->nodes[i],
                                              net_weight(net, net->nodes[i].weight),
                                              net->nodes[i].conv.centralize));
    return MABN_OK;
}

static mabn_status queue_step(struct mabn_net *net, bool update, bool nesterov)
{
    MABN_TRY(forward_all(net));
    if (!net->options.training) return MABN_OK;
    MABN_TRY(backward_all(net));
    return update ? queue_update(net, nesterov) : MABN_OK;
}

/* ---- before and after it ---- */

static struct slot *next_slot(const struct mabn_net *net)
{
    return &net->cuda->slots[net->cuda->steps % SLOTS];
}

/* Staged pictures to the plan's input: rounded, and padded to its channels. */
static mabn_status take_pictures(struct mabn_net *net)
{
    const struct net_cuda *c = net->cuda;
    const struct node *input = &net->nodes[0];
    const int64_t pixels = net->options.batch * input->h * input->w;
    const int channels = (int)input->c, padded = (int)net->input_channels;
    void *to = memory(net, input->data);
    if (net->options.bytes)
        return mabn_cuda_look_up_pixels(to, (const uint8_t *)c->staged.base, pixels, channels,
                                        padded, c->byte_table, net->dtype, c->stream);
    return mabn_cuda_round_pixels(to, (const float *)c->staged.base, pixels, channels, padded,
                                  net->dtype, c->stream);
}

static mabn_status feed(struct mabn_net *net)
{
    return net->options.feed(net->options.feed_context, net);
}

/* The slot's pictures, labels and rates to where the plan reads them. */
static mabn_status upload(struct mabn_net *net, const struct slot *slot)
{
    struct net_cuda *c = net->cuda;
    MABN_TRY(mabn_cuda_event_order(c->taken, c->copy_stream));
    MABN_TRY(mabn_cuda_copy_in(net->device, c->staged.base, slot->pictures, c->upload_bytes,
                               c->copy_stream));
    MABN_TRY(mabn_cuda_event_record(slot->uploaded, c->copy_stream));
    MABN_TRY(mabn_cuda_event_order(slot->uploaded, c->stream));
    MABN_TRY(net->options.feed ? feed(net) : take_pictures(net));
    MABN_TRY(mabn_net_cuda_copy(net, c->inputs, c->staged.base + c->picture_bytes, c->input_bytes));
    return mabn_cuda_event_record(c->taken, c->stream);
}

/* Copy the results of a step to the host. */
static mabn_status download(struct mabn_net *net, const struct slot *slot)
{
    struct net_cuda *c = net->cuda;
    const struct node *output = &net->nodes[net->output];
    MABN_TRY(
        mabn_cuda_copy_out(net->device, slot->figures, c->figures, c->figure_bytes, c->stream));
    if (!is_classifier(net)) return MABN_OK;
    return mabn_cuda_copy_out(net->device, slot->logits, memory(net, output->data),
                              (size_t)net_values(net, output) * sizeof(float), c->stream);
}

/* Weight decay is stored in the list of parameters, which is written again in the rare case that it
 * changes. */
static mabn_status set_rates(struct mabn_net *net, struct slot *slot,
                             const struct mabn_params_sgd *sgd)
{
    struct net_cuda *c = net->cuda;
    int count = 0;
    slot->inputs->rates.lr = (float)sgd->lr;
    slot->inputs->rates.momentum = (float)sgd->momentum;
    slot->inputs->rates.grad_scale = sgd->grad_scale != 0 ? (float)sgd->grad_scale : 1.0f;
    if (c->weight_decay == sgd->weight_decay && c->no_decay_norm_bias == sgd->no_decay_norm_bias)
        return MABN_OK;
    for (int i = 0; i < net->params->count; i++) {
        const struct parameter *p = &net->params->list[i];
        if (!p->trains) continue;
        c->host_params[count++].decay = (float)params_decay(p, sgd);
    }
    c->weight_decay = sgd->weight_decay;
    c->no_decay_norm_bias = sgd->no_decay_norm_bias;
    return mabn_device_put(net->device, c->params, c->host_params,
                           (size_t)count * sizeof *c->host_params);
}

/* Before anything runs: find the scratch buffer, which another net may have moved, and renew the
 * weights. */
static mabn_status make_ready(struct mabn_net *net)
{
    MABN_TRY(mabn_device_scratch(net->device, &net->cuda->scratch, net->scratch_bytes));
    if (net->accumulate) MABN_TRY(mabn_net_cuda_get_spare(net));
    return net_stale(net) ? mabn_net_cuda_refresh(net) : MABN_OK;
}

/* Parameters or state have changed; this network's own copies were updated with them. */
static void told_others(struct mabn_net *net)
{
    net->version = ++net->params->version;
}

static void count_forward(struct mabn_net *net)
{
    if (!net->options.training) return;
    if (net->cuda->until_known > 0) net->cuda->until_known--;
    told_others(net);
}

/* ---- graphs ---- */

/* Capture what `queue` queues. A failure does not fail the step: it turns graphs off. */
template <typename Queue>
static mabn_status capture(struct mabn_net *net, struct variant *v, Queue queue)
{
    struct net_cuda *c = net->cuda;
    if (v->graph) MABN_TRY(mabn_device_wait(net->device));
    mabn_cuda_graph_free(v->graph);
    v->graph = NULL;
    mabn_status status = mabn_cuda_capture_begin(net->device);
    if (!status) status = mabn_cuda_capture_end(net->device, &v->graph, queue());
    if (!status) return MABN_OK;
    mabn_warn("no CUDA graph of a step, which will be slower: %s", mabn_error_message());
    v->graph = NULL;
    c->no_graphs = true;
    return MABN_OK;
}

static bool same_capture(const struct captured &a, const struct captured &b)
{
    return a.smoothing == b.smoothing && a.update == b.update && a.nesterov == b.nesterov &&
           a.scratch == b.scratch;
}

/* Run what `queue` queues: directly the first time, as a graph from then on. *launched: was it a graph? */
template <typename Queue>
static mabn_status run_variant(struct mabn_net *net, struct variant *v, bool update, bool nesterov,
                               bool *launched, Queue queue)
{
    const struct net_cuda *c = net->cuda;
    const struct captured now = {c->smoothing, update, nesterov, c->scratch};
    if (v->warm && !c->no_graphs && !(v->graph && same_capture(v->with, now))) {
        MABN_TRY(capture(net, v, queue));
        v->with = now;
    }
    *launched = v->warm && v->graph && !c->no_graphs;
    if (*launched) return mabn_cuda_graph_launch(net->device, v->graph);
    v->warm = true;
    return queue();
}

/* ---- steps ---- */

/* All maps are known or not; gradients are added to or not; net->ready is called or not. */
static struct variant *variant_of(const struct mabn_net *net)
{
    const int which =
        (net->cuda->until_known == 0) | net->accumulate << 1 | (net->ready != NULL) << 2;
    return &net->cuda->variants[which];
}

static bool can_capture(const struct mabn_net *net)
{
    const bool records = net->record_channel_count && net->options.training;
    return !records && !(net->options.training && net->options.sync && !net->options.sync->queues);
}

static mabn_status cuda_step(struct mabn_net *net, const struct mabn_params_sgd *sgd)
{
    struct net_cuda *c = net->cuda;
    struct slot *slot = next_slot(net);
    const bool nesterov = sgd && sgd->nesterov;
    const auto queue = [&] { return queue_step(net, sgd != NULL, nesterov); };
    bool launched = false;
    if (!is_classifier(net) || net->options.vary_rows)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "on a GPU only classifiers of whole batches step");
    MABN_TRY(make_ready(net));
    if (sgd) MABN_TRY(set_rates(net, slot, sgd));
    MABN_TRY(upload(net, slot));
    slot->normalizer = slot->inputs->normalizer;
    if (can_capture(net))
        MABN_TRY(run_variant(net, variant_of(net), sgd != NULL, nesterov, &launched, queue));
    else
        MABN_TRY(queue());
    if (launched && net->ready) MABN_TRY(net->ready(net->ready_context, MABN_NET_READY_AGAIN));
    count_forward(net);
    MABN_TRY(download(net, slot));
    MABN_TRY(mabn_cuda_event_record(slot->done, c->stream));
    c->steps++;
    return MABN_OK;
}

/* The value of the loss, if there is one, of the step whose figures are here. */
static void read_loss(struct mabn_net *net, const struct slot *slot)
{
    const double sum = slot->figures->total.loss;
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].kind->figure)
            net->nodes[i].loss = slot->normalizer > 0 ? sum / slot->normalizer : 0;
}

static mabn_status cuda_result(struct mabn_net *net, struct mabn_net_result *result)
{
    struct net_cuda *c = net->cuda;
    const struct slot *slot = &c->slots[(c->steps - net->behind) % SLOTS];
    MABN_TRY(mabn_cuda_event_wait(slot->done));
    c->seen = slot;
    read_loss(net, slot);
    result->skipped = c->scaler && slot->figures->scaler.skipped_last;
    result->loss_scale = c->scaler ? (double)slot->figures->scaler.scale : 1;
    return MABN_OK;
}

/* ---- the same in separate calls, each done on return ---- */

static mabn_status cuda_forward(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    MABN_TRY(make_ready(net));
    MABN_TRY(upload(net, next_slot(net)));
    MABN_TRY(forward_all(net));
    count_forward(net);
    struct slot *apart = &c->slots[APART];
    c->seen = apart;
    apart->normalizer = next_slot(net)->inputs->normalizer;
    MABN_TRY(download(net, apart));
    MABN_TRY(mabn_device_wait(net->device));
    read_loss(net, apart);
    return MABN_OK;
}

static mabn_status cuda_backward(struct mabn_net *net)
{
    MABN_TRY(make_ready(net));
    MABN_TRY(backward_all(net));
    return mabn_device_wait(net->device);
}

static mabn_status cuda_update(struct mabn_net *net, const struct mabn_params_sgd *sgd)
{
    struct net_cuda *c = net->cuda;
    struct slot *slot = next_slot(net);
    MABN_TRY(set_rates(net, slot, sgd));
    MABN_TRY(mabn_cuda_copy_in(net->device, c->inputs, slot->inputs, c->input_bytes, c->stream));
    MABN_TRY(queue_update(net, sgd->nesterov));
    told_others(net);
    return mabn_device_wait(net->device);
}

/* Wait until the host may write again: until its previous upload is done. */
static struct slot *writable_slot(struct mabn_net *net)
{
    struct slot *slot = next_slot(net);
    if (mabn_cuda_event_wait(slot->uploaded)) { /* the next call that can report it will */
    }
    return slot;
}

static void *cuda_input(struct mabn_net *net)
{
    return writable_slot(net)->pictures;
}

static mabn_status cuda_byte_table(struct mabn_net *net, const float *table)
{
    return mabn_device_put(net->device, net->cuda->byte_table, table,
                           (size_t)net->nodes[0].c * 256 * sizeof(float));
}

/* The smoothing is part of a graph; labels and normalizer are uploaded with the pictures. */
static void cuda_set_labels(struct mabn_net *net, const struct mabn_net_labels *labels)
{
    net->cuda->smoothing = labels->smoothing;
    net->cuda->labels_at = labels->on_device ? labels->labels : NULL;
    net->cuda->normalizer_at = labels->normalizer_at;
    if (labels->on_device) return;
    struct inputs *inputs = writable_slot(net)->inputs;
    inputs->normalizer = (float)labels->normalizer;
    int32_t *to = (int32_t *)(inputs + 1);
    memcpy(to, labels->labels, (size_t)net->rows * sizeof *to);
    for (int64_t i = net->rows; i < net->options.batch; i++)
        to[i] = -1;
}

static const float *cuda_logits(const struct mabn_net *net)
{
    return net->cuda->seen->logits;
}

/* ---- several plans in one step: queue.h ---- */

mabn_status mabn_net_queue_ready(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    MABN_TRY(mabn_net_check(net));
    MABN_TRY(make_ready(net));
    if (net->nodes[0].bound) return MABN_OK;
    if (net->options.feed) return feed(net); /* labels and normalizers lie on the device */
    MABN_TRY(upload(net, next_slot(net)));
    c->steps++;
    return MABN_OK;
}

mabn_status mabn_net_queue_forward(struct mabn_net *net)
{
    return forward_all(net);
}

mabn_status mabn_net_queue_backward(struct mabn_net *net)
{
    net->record_count = 0;
    return backward_all(net);
}

struct mabn_net_fed mabn_net_fed_of(const struct mabn_net *net)
{
    const struct node *input = &net->nodes[0];
    struct mabn_net_fed fed = {};
    fed.x = memory(net, input->data);
    fed.n = net->options.batch;
    fed.h = input->h;
    fed.w = input->w;
    fed.channels = (int)input->c;
    fed.padded = (int)net->input_channels;
    fed.dtype = net->dtype;
    return fed;
}

struct mabn_net_queue_stamp mabn_net_queue_stamp_of(const struct mabn_net *net)
{
    const struct mabn_net_queue_stamp stamp = {net->cuda->scratch, net->cuda->until_known == 0,
                                               net->accumulate};
    return stamp;
}

void mabn_net_queued(struct mabn_net *net)
{
    count_forward(net);
}

const double *mabn_net_queue_loss(const struct mabn_net *net, const char *loss)
{
    const struct node *node = mabn_net_loss_node(net, loss, NULL);
    if (node->kind->figure) return &net->cuda->figures->total.loss;
    return loss_at(net, node);
}

/* ---- looking inside ---- */

static mabn_status cuda_time_convolutions(struct mabn_net *net, double *seconds)
{
    struct net_cuda *c = net->cuda;
    const auto queue = [&]() -> mabn_status {
        for (int i = 0; i < net->node_count; i++)
            if (net->nodes[i].kind->cuda->bare)
                MABN_TRY(net->nodes[i].kind->cuda->bare(net, &net->nodes[i]));
        return MABN_OK;
    };
    bool launched;
    MABN_TRY(make_ready(net));
    if (!c->bare.warm) /* not to be timed */
        MABN_TRY(run_variant(net, &c->bare, false, false, &launched, queue));
    MABN_TRY(mabn_device_wait(net->device));
    MABN_TRY(mabn_cuda_event_record(c->begin, c->stream));
    MABN_TRY(run_variant(net, &c->bare, false, false, &launched, queue));
    MABN_TRY(mabn_cuda_event_record(c->end, c->stream));
    MABN_TRY(mabn_cuda_event_wait(c->end));
    return mabn_cuda_event_seconds(seconds, c->begin, c->end);
}

/* Events in the queue: before the first layer and after each layer. */
struct marks {
    std::vector<struct mabn_cuda_event *> events;
    ~marks()
    {
        for (struct mabn_cuda_event *event : events)
            mabn_cuda_event_free(event);
    }
    mabn_status mark(struct mabn_net *net)
    {
        struct mabn_cuda_event *event;
        MABN_TRY(mabn_cuda_event_new(&event, net->device, true));
        events.push_back(event);
        return mabn_cuda_event_record(event, net->cuda->stream);
    }
    /* Seconds before the k-th mark, from 1. */
    mabn_status before(size_t k, double *seconds) const
    {
        return mabn_cuda_event_seconds(seconds, events[k - 1], events[k]);
    }
};

static void tell_joins(const struct mabn_net *net, struct net_layer_time *times)
{
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (!has_weights(node)) continue;
        const int norm = net->options.training ? node->neighbour : node->folded;
        times[i].with_norm = net->cuda->layers[i].before;
        if (times[i].with_norm) times[node->reads[0]].fused = true;
        times[i].elsewhere =
            net->options.training ? mabn_net_cuda_forward_joins(net, node) : norm >= 0;
        if (times[i].elsewhere) times[norm].with_conv = true;
    }
}

/* Seconds that the device is held up so that the host gets ahead, and its pauses are not timed. */
static const double HOLD_LAYERS = 0.02;

static mabn_status cuda_time_layers(struct mabn_net *net, struct net_layer_time *times)
{
    struct marks forward, backward;
    MABN_TRY(make_ready(net));
    MABN_TRY(upload(net, next_slot(net)));
    tell_joins(net, times);
    if (net->options.training) MABN_TRY(mabn_net_cuda_begin_joined(net));
    MABN_TRY(mabn_cuda_hold(net->device, HOLD_LAYERS));
    MABN_TRY(forward.mark(net));
    for (int i = 0; i < net->node_count; i++) {
        MABN_TRY(forward_node(net, &net->nodes[i]));
        MABN_TRY(forward.mark(net));
    }
    count_forward(net);
    MABN_TRY(backward.mark(net));
    for (int i = net->node_count - 1; i > 0 && net->options.training; i--) {
        if (net_goes_back(&net->nodes[i])) MABN_TRY(backward_node(net, &net->nodes[i]));
        MABN_TRY(backward.mark(net));
    }
    MABN_TRY(mabn_device_wait(net->device));
    for (int i = 0; i < net->node_count; i++)
        if (!times[i].elsewhere && i) MABN_TRY(forward.before((size_t)i + 1, &times[i].forward));
    for (int i = net->node_count - 1; i > 0 && net->options.training; i--)
        if (net_goes_back(&net->nodes[i]))
            MABN_TRY(backward.before((size_t)(net->node_count - i), &times[i].backward));
    return MABN_OK;
}

static mabn_status cuda_time_copy(struct mabn_net *net, void *to, const void *from, size_t bytes,
                                  double *seconds)
{
    const struct net_cuda *c = net->cuda;
    MABN_TRY(mabn_net_cuda_copy(net, to, from, bytes)); /* not to be timed */
    MABN_TRY(mabn_cuda_event_record(c->begin, c->stream));
    MABN_TRY(mabn_net_cuda_copy(net, to, from, bytes));
    MABN_TRY(mabn_cuda_event_record(c->end, c->stream));
    MABN_TRY(mabn_cuda_event_wait(c->end));
    return mabn_cuda_event_seconds(seconds, c->begin, c->end);
}

static mabn_status cuda_get_scale(struct mabn_net *net, struct mabn_net_loss_scale *scale)
{
    struct mabn_cuda_scaler s;
    if (!net->cuda->scaler) return MABN_OK;
    MABN_TRY(mabn_device_get(net->device, &s, net->cuda->scaler, sizeof s));
    scale->scale = (double)s.scale;
    scale->steps = s.good;
    return MABN_OK;
}

static mabn_status cuda_set_scale(struct mabn_net *net, const struct mabn_net_loss_scale *scale)
{
    struct mabn_cuda_scaler s;
    if (!net->cuda->scaler) return MABN_OK;
    /* Read from a file, so it is checked: the scale must be a power of two whose inverse is normal
     * too, and the count must not be negative. */
    int exponent;
    if (!(scale->scale > 0) || frexp(scale->scale, &exponent) != 0.5 || abs(exponent) > 120 ||
        !(scale->steps >= 0 && scale->steps <= 1e6))
        return mabn_fail(MABN_ERR_FORMAT, "a loss scale of %g, good for %g steps", scale->scale,
                         scale->steps);
    MABN_TRY(mabn_device_get(net->device, &s, net->cuda->scaler, sizeof s));
    s.scale = (float)scale->scale;
    s.inverse = 1 / s.scale;
    s.good = (int32_t)scale->steps;
    return mabn_device_put(net->device, net->cuda->scaler, &s, sizeof s);
}

static const struct node_ops *cuda_ops(const struct node_kind *kind)
{
    return kind->cuda;
}

const struct net_backend mabn_net_cuda = {
    SLOTS,
    16, /* tensor cores need channels in rows of this many bytes */
    true,
    false,
    cuda_ops,
    mabn_net_cuda_prepare,
    mabn_net_cuda_release,
    cuda_input,
    cuda_byte_table,
    cuda_set_labels,
    cuda_logits,
    cuda_forward,
    cuda_backward,
    cuda_update,
    cuda_step,
    cuda_result,
    cuda_get_scale,
    cuda_set_scale,
    cuda_time_convolutions,
    cuda_time_layers,
    cuda_time_copy,
};
