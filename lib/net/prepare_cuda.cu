/* Preparing a network on an NVIDIA GPU: memory in addition to the arenas, the plans of the convolutions,
 * and the weights in use.
 *
 * The weights in use are copies in the net's element type, centralized where requested. The update writes
 * them in the same pass as the parameters. They are made again here when anything else has written the
 * parameters. Gradients of centralized weights keep their filters' means until the update subtracts
 * them. */
#include <stdlib.h>
#include <string.h>

#include <tuple>

#include "base/log.h"
#include "base/mem.h"
#include "net/cuda.cuh"

/* ---- preparing ---- */

static struct mabn_conv_cuda_options conv_options(const struct mabn_net *net,
                                                  const struct node *node)
{
    const struct node *x = &net->nodes[node->reads[0]];
    struct mabn_conv_cuda_options o = {};
    o.dtype = net->dtype;
    o.y_dtype = net_scores(net, (int)(node - net->nodes)) ? MABN_DTYPE_F32 : net->dtype;
    o.tf32 = net->options.precision == MABN_NET_TF32;
    o.training = net->options.training;
    o.no_dx = !x->trains;
    o.no_add = !node->dx_adds[0];
    o.bias = node->bias >= 0;
    o.reference = net->options.exact;
    o.tune = net->options.tune;
    if (node->kind->transposed) { /* all passes are called, in other roles */
        o.training = true;
        o.no_dx = o.bias = false;
        o.no_add = true;
        return o;
    }
    if (node->folded >= 0) {
        const struct node *norm = &net->nodes[node->folded];
        o.bias = true;
        o.bias_dtype = net->dtype;
        o.relu = norm->io.relu;
        o.add = norm->reads[1] >= 0;
    }
    mabn_net_cuda_request_joins(net, node, &o);
    return o;
}

/* All that a plan depends on. */
static auto fields(const struct mabn_conv_shape &s, const struct mabn_conv_cuda_options &o)
{
    return std::make_tuple(s.n, s.h, s.w, s.in, s.out, s.kernel, s.stride, s.pad, o.dtype,
                           o.y_dtype, o.tf32, o.training, o.no_dx, o.no_add, o.bias, o.add, o.relu,
                           o.reference, o.tune, o.bias_dtype, o.after.requested, o.after.residual,
                           o.after.relu, o.after.sums, o.before.requested, o.before.add,
                           o.before.mask, o.before.sum);
}

/* The plan of a layer: an earlier one's that is alike, or a new one. */
static mabn_status find_conv(struct mabn_net *net, const struct node *node)
{
    struct net_cuda *c = net->cuda;
    struct layer *layer = layer_of(net, node);
    const struct mabn_conv_shape shape =
        node->kind->cuda->conv_shape(net, node, net->options.batch);
    const struct mabn_conv_cuda_options options = conv_options(net, node);
    layer->shared = 0;
    while (layer->shared < c->conv_count &&
           fields(c->convs[layer->shared].shape, c->convs[layer->shared].options) !=
               fields(shape, options))
        layer->shared++;
    if (layer->shared == c->conv_count) {
        MABN_GROW(c->convs, c->conv_count, c->conv_capacity);
        struct shared_conv *shared = &c->convs[c->conv_count++];
        *shared = {};
        shared->shape = shape;
        shared->options = options;
        MABN_TRY(mabn_conv_cuda_new(&shared->conv, net->device, &shape, &options));
    }
    layer->conv = c->convs[layer->shared].conv;
    return MABN_OK;
}

static mabn_status prepare_conv(struct mabn_net *net, struct node *node)
{
    struct layer *layer = layer_of(net, node);
    const mabn_status status = find_conv(net, node);
    if (status) return mabn_fail_prefix(status, "'%s'", node->name);
    layer->padded = net->nodes[node->reads[0]].kind->input &&
                    net->input_channels != net->nodes[node->reads[0]].c;
    const size_t workspace = net_align(mabn_conv_cuda_workspace(layer->conv));
    net_request_scratch(net, 0, workspace);
    mabn_verbose("%s: %s; %s; %s", node->name,
                 mabn_conv_cuda_describe(layer->conv, MABN_CONV_FORWARD),
                 mabn_conv_cuda_describe(layer->conv, MABN_CONV_BACKWARD_DATA),
                 mabn_conv_cuda_describe(layer->conv, MABN_CONV_BACKWARD_WEIGHTS));
    layer->bias = net_weight(net, node->bias);
    layer->owns_work = is_half(net) || layer->padded || node->conv.centralize || node->folded >= 0;
    return MABN_OK;
}

/* An earlier layer whose copy of the same weights this one can use, or -1. */
static int same_copy(const struct mabn_net *net, int i)
{
    const struct layer *layers = net->cuda->layers;
    if (!layers[i].owns_work || layers[i].padded || net->nodes[i].folded >= 0) return -1;
    for (int k = 0; k < i; k++)
        if (has_weights(&net->nodes[k]) && net->nodes[k].weight == net->nodes[i].weight &&
            layers[k].owns_work && !layers[k].padded && net->nodes[k].folded < 0)
            return k;
    return -1;
}

/* Places for the weights in use, folded biases, and padded gradients. */
static mabn_status place_weights(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    const size_t element = mabn_dtype_size(net->dtype);
    size_t work = 0, biases = 0, dwork = 0;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) {
            MABN_TRY(mabn_net_get_arena(net, &net->packed, work));
            MABN_TRY(mabn_net_get_arena(net, &c->biases, biases));
            MABN_TRY(mabn_net_get_arena(net, &c->half_biases, is_half(net) ? biases / 2 : 0));
            MABN_TRY(mabn_net_get_arena(net, &c->dwork, dwork));
            work = biases = dwork = 0;
        }
        for (int i = 0; i < net->node_count; i++) {
            struct node *node = &net->nodes[i];
            struct layer *layer = &c->layers[i];
            const int same = has_weights(node) ? same_copy(net, i) : -1;
            if (same >= 0) layer->work = c->layers[same].work;
            if (!has_weights(node) || same >= 0) continue;
            size_t count = net->params->list[node->weight].count;
            if (layer->padded)
                count = count / (size_t)net->nodes[node->reads[0]].c * (size_t)net->input_channels;
            layer->work =
                layer->owns_work ? net->packed.base + work : (void *)net_weight(net, node->weight);
            if (layer->owns_work) work += net_align(count * element);
            if (node->folded >= 0) {
                layer->bias_at = biases / sizeof(float);
                layer->bias =
                    is_half(net) ? c->half_biases.base + biases / 2 : c->biases.base + biases;
                biases += net_align((size_t)node->c * sizeof(float));
            }
            if (layer->padded && net->options.training) {
                layer->dwork = (float *)(c->dwork.base + dwork);
                dwork += net_align(count * sizeof(float));
            }
        }
    }
    return MABN_OK;
}

mabn_status mabn_net_cuda_own(struct mabn_net *net, const struct node *node, size_t bytes)
{
    struct arena *own = &layer_of(net, node)->own;
    if (own->bytes >= bytes) return MABN_OK;
    mabn_device_release(net->device, own->base, own->bytes);
    net->arena_bytes -= own->bytes;
    own->base = NULL;
    return mabn_net_get_arena(net, own, bytes);
}

mabn_status mabn_net_cuda_get_spare(struct mabn_net *net)
{
    size_t most = 0;
    if (net->cuda->spare.base) return MABN_OK;
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (!has_weights(node)) continue;
        size_t count = net->params->list[node->weight].count;
        if (node->bias >= 0) count += net->params->list[node->bias].count;
        if (count > most) most = count;
    }
    return most ? mabn_net_get_arena(net, &net->cuda->spare, most * sizeof(float)) : MABN_OK;
}

static mabn_status prepare_kinds(struct mabn_net *net)
{
    bool adds = false;
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        adds = adds || node->parameters_add;
        if (node->kind->cuda->prepare) MABN_TRY(node->kind->cuda->prepare(net, node));
    }
    return adds ? mabn_net_cuda_get_spare(net) : MABN_OK;
}

/* The list of parameters for the update; their decay comes with the first update. */
static mabn_status prepare_sgd(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    struct mabn_cuda_sgd_param *list =
        (struct mabn_cuda_sgd_param *)mabn_xcalloc((size_t)net->params->count + 1, sizeof *list);
    int count = 0;
    c->host_params = list;
    for (int i = 0; i < net->params->count; i++) {
        const struct parameter *p = &net->params->list[i];
        if (!p->trains) continue;
        struct mabn_cuda_sgd_param *s = &list[count++];
        s->param = net_weight(net, i);
        s->buffer = (float *)net->params->momentum.base + p->offset;
        s->grad = net_gradient(net, i);
        s->work_dtype = net->dtype;
        s->count = (int64_t)p->count;
        s->filters = p->centralize ? p->out : 0;
        s->lr_factor = (float)p->rate;
        for (int k = 0; k < net->node_count; k++)
            if (net->nodes[k].weight == i && c->layers[k].owns_work && !c->layers[k].padded)
                s->work = c->layers[k].work;
    }
    c->piece_count = mabn_cuda_sgd_cut(NULL, list, count);
    const size_t params = net_align((size_t)count * sizeof *list);
    const size_t pieces = (size_t)c->piece_count * sizeof *c->pieces;
    MABN_TRY(mabn_net_get_arena(net, &c->sgd, params + pieces));
    c->params = (struct mabn_cuda_sgd_param *)c->sgd.base;
    c->pieces = (struct mabn_cuda_sgd_piece *)(c->sgd.base + params);
    struct mabn_cuda_sgd_piece *cut =
        (struct mabn_cuda_sgd_piece *)mabn_xcalloc((size_t)c->piece_count + 1, sizeof *cut);
    mabn_cuda_sgd_cut(cut, list, count);
    const mabn_status status = mabn_device_put(net->device, c->pieces, cut, pieces);
    free(cut);
    c->no_decay_norm_bias = -1;
    return status;
}

static mabn_status prepare_slot(struct mabn_net *net, struct slot *slot, bool apart)
{
    struct net_cuda *c = net->cuda;
    const size_t logits =
        is_classifier(net) ? (size_t)net_values(net, &net->nodes[net->output]) * sizeof(float) : 0;
    void *p;
    MABN_TRY(mabn_cuda_host_alloc(net->device, &p, c->figure_bytes));
    slot->figures = (struct figures *)p;
    MABN_TRY(mabn_cuda_host_alloc(net->device, &p, logits));
    slot->logits = (float *)p;
    if (apart) return MABN_OK;
    MABN_TRY(mabn_cuda_host_alloc(net->device, &p, c->upload_bytes));
    slot->pictures = p;
    slot->inputs = (struct inputs *)((char *)p + c->picture_bytes);
    MABN_TRY(mabn_cuda_event_new(&slot->uploaded, net->device, false));
    return mabn_cuda_event_new(&slot->done, net->device, false);
}

/* Slots on the host, and what lies beside the arenas on the device. */
static mabn_status prepare_memory(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    const size_t n = (size_t)net->options.batch;
    if (!net->options.feed)
        c->picture_bytes = net_align((size_t)net_values(net, &net->nodes[0]) *
                                     (net->options.bytes ? 1 : sizeof(float)));
    c->input_bytes = sizeof(struct inputs) + n * sizeof(int32_t);
    c->upload_bytes = c->picture_bytes + c->input_bytes;
    c->figure_bytes = sizeof(struct figures);
    for (int i = 0; i <= SLOTS; i++)
        MABN_TRY(prepare_slot(net, &c->slots[i], i == APART));
    c->seen = &c->slots[APART];
    MABN_TRY(mabn_cuda_event_new(&c->taken, net->device, false));
    MABN_TRY(mabn_cuda_event_new(&c->begin, net->device, true));
    MABN_TRY(mabn_cuda_event_new(&c->end, net->device, true));
    MABN_TRY(mabn_net_get_arena(net, &c->staged, c->upload_bytes));
    const size_t figures = net_align(c->figure_bytes), inputs = net_align(c->input_bytes);
    const size_t losses = net_align(n * sizeof(double)), ranks = net_align(n * sizeof(int32_t));
    const size_t table = net->options.bytes ? (size_t)net->nodes[0].c * 256 * sizeof(float) : 0;
    MABN_TRY(mabn_net_get_arena(net, &c->small, figures + inputs + losses + ranks + table + 256));
    c->figures = (struct figures *)c->small.base;
    c->inputs = (struct inputs *)(c->small.base + figures);
    c->labels = (int32_t *)(c->inputs + 1);
    c->losses = (double *)(c->small.base + figures + inputs);
    c->ranks = (int32_t *)(c->small.base + figures + inputs + losses);
    c->byte_table = (float *)(c->small.base + figures + inputs + losses + ranks);
    c->share = (float *)(c->small.base + figures + inputs + losses + ranks + table);
    if (net->options.precision != MABN_NET_FP16 || !net->options.training) return MABN_OK;
    if (!is_classifier(net)) return mabn_params_cuda_scaler(net->params, &c->scaler);
    c->scaler = &c->figures->scaler;
    return mabn_cuda_scaler_init(c->scaler, c->stream);
}

/* In a type of 2 bytes losses need float32, which only convolutions and linear layers can give. */
static mabn_status check_scores(const struct mabn_net *net)
{
    for (int i = 0; i < net->node_count && is_half(net); i++) {
        const struct node *node = &net->nodes[i];
        const bool gives = node->kind->scores;
        if (net_scores(net, i) ? gives : !net_loss_reads(net, i)) continue;
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "'%s': on a GPU scores in %s come from a convolution or linear layer that "
                         "nothing else reads",
                         node->name, mabn_net_precision_name(net->options.precision));
    }
    return MABN_OK;
}

mabn_status mabn_net_cuda_prepare(struct mabn_net *net)
{
    MABN_TRY(check_scores(net));
    int losses = 0;
    for (int i = 0; i < net->node_count; i++)
        losses += net->nodes[i].kind->figure;
    if (losses > 1)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "on a GPU a network has one softmax loss");
    struct net_cuda *c = net->cuda = (struct net_cuda *)mabn_xcalloc(1, sizeof *c);
    c->layers = (struct layer *)mabn_xcalloc((size_t)net->node_count, sizeof *c->layers);
    c->stream = mabn_cuda_stream(net->device);
    c->copy_stream = mabn_cuda_copy_stream(net->device);
    MABN_TRY(prepare_memory(net));
    for (int i = 0; i < net->node_count; i++)
        if (has_weights(&net->nodes[i])) MABN_TRY(prepare_conv(net, &net->nodes[i]));
    MABN_TRY(place_weights(net));
    MABN_TRY(prepare_kinds(net));
    if (net->options.training && !net->params->shares) MABN_TRY(prepare_sgd(net));
    MABN_TRY(mabn_device_scratch(net->device, &c->scratch, net->scratch_bytes));
    return net->options.training ? mabn_net_cuda_prepare_joins(net) : MABN_OK;
}

void mabn_net_cuda_release(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    if (!c) return;
    if (mabn_device_wait(net->device)) { /* reported by whoever waited before; nothing runs now */
    }
    mabn_cuda_graph_free(c->bare.graph);
    for (const struct variant &v : c->variants)
        mabn_cuda_graph_free(v.graph);
    for (struct slot &slot : c->slots) {
        mabn_cuda_host_release(net->device, slot.pictures);
        mabn_cuda_host_release(net->device, slot.figures);
        mabn_cuda_host_release(net->device, slot.logits);
        mabn_cuda_event_free(slot.uploaded);
        mabn_cuda_event_free(slot.done);
    }
    struct mabn_cuda_event *events[] = {c->taken, c->begin, c->end};
    for (struct mabn_cuda_event *event : events)
        mabn_cuda_event_free(event);
    const struct arena arenas[] = {c->staged, c->small,  c->biases,       c->half_biases, c->dwork,
                                   c->sgd,    c->joined, c->join_entries, c->spare};
    for (const struct arena &arena : arenas)
        mabn_device_release(net->device, arena.base, arena.bytes);
    for (int i = 0; i < c->conv_count; i++)
        mabn_conv_cuda_free(c->convs[i].conv);
    for (int i = 0; i < net->node_count && c->layers; i++)
        mabn_device_release(net->device, c->layers[i].own.base, c->layers[i].own.bytes);
    free(c->convs);
    free(c->layers);
    free(c->host_params);
    free(c);
    net->cuda = NULL;
}

/* ---- weights in use ---- */

/* The copy of a layer's weights from float32 ones on the device. */
mabn_status mabn_net_cuda_write_work(const struct mabn_net *net, const struct node *node,
                                     const float *weight, bool centralize)
{
    const struct layer *layer = layer_of(net, node);
    const int64_t filter = filter_size(net, node);
    if (!layer->padded)
        return mabn_cuda_cast_weight(layer->work, weight, node->c, filter, centralize, net->dtype,
                                     net->cuda->stream);
    const int channels = (int)net->nodes[node->reads[0]].c;
    return mabn_cuda_pad_weight(layer->work, weight, node->c, filter / channels, channels,
                                (int)net->input_channels, centralize, net->dtype,
                                net->cuda->stream);
}

/* Fold a convolution's norm into it, on the host. Arrays as the arenas; bias (O). */
static mabn_status fold(const struct mabn_net *net, const struct node *node, float *folded,
                        float *bias, const float *weights, const char *state)
{
    const struct node *norm = &net->nodes[node->folded];
    const struct parameter *p = net->params->list;
    float *a = (float *)mabn_xcalloc((size_t)node->c, sizeof *a);
    float *b = (float *)mabn_xcalloc((size_t)node->c, sizeof *b);
    mabn_status status = mabn_norm_affine(
        &norm->norm, a, b, norm->weight < 0 ? NULL : weights + p[norm->weight].offset,
        norm->bias < 0 ? NULL : weights + p[norm->bias].offset,
        state + net->params->states[norm->state].offset);
    if (status)
        mabn_fail_prefix(status, "'%s'", norm->name);
    else if ((status = mabn_norm_fold(
                  folded + p[node->weight].offset, bias, weights + p[node->weight].offset,
                  node->bias < 0 ? NULL : weights + p[node->bias].offset, a, b, node->c,
                  filter_size(net, node), node->conv.centralize)) != MABN_OK)
        mabn_fail_prefix(status, "'%s'", node->name);
    free(a);
    free(b);
    return status;
}

static mabn_status fold_all(struct mabn_net *net, float *folded, float *biases,
                            const float *weights, const char *state)
{
    struct net_cuda *c = net->cuda;
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (!has_weights(node) || node->folded < 0) continue;
        MABN_TRY(fold(net, node, folded, biases + c->layers[i].bias_at, weights, state));
    }
    MABN_TRY(mabn_device_put(net->device, c->biases.base, biases, c->biases.bytes));
    if (!is_half(net)) return MABN_OK;
    return mabn_cuda_cast(c->half_biases.base, net->dtype, c->biases.base, MABN_DTYPE_F32,
                          (int64_t)(c->biases.bytes / sizeof(float)), c->stream);
}

/* Inference with folded norms: fold on the host, round on the device. */
static mabn_status write_folded(struct mabn_net *net)
{
    const size_t bytes = net->params->values * sizeof(float);
    float *weights = (float *)mabn_xmalloc(bytes + 1),
          *folded = (float *)mabn_xcalloc(bytes + 1, 1);
    float *biases = (float *)mabn_xcalloc(net->cuda->biases.bytes + 1, 1);
    char *state = (char *)mabn_xmalloc(net->params->state.bytes + 1);
    void *on_device = NULL;
    mabn_status status;
    MABN_TRY_GOTO(mabn_device_get(net->device, weights, net->params->weights.base, bytes), out);
    MABN_TRY_GOTO(
        mabn_device_get(net->device, state, net->params->state.base, net->params->state.bytes),
        out);
    MABN_TRY_GOTO(fold_all(net, folded, biases, weights, state), out);
    MABN_TRY_GOTO(mabn_device_alloc(net->device, &on_device, bytes), out);
    MABN_TRY_GOTO(mabn_device_put(net->device, on_device, folded, bytes), out);
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (!has_weights(node) || node->folded < 0) continue;
        const float *weight = (const float *)on_device + net->params->list[node->weight].offset;
        MABN_TRY_GOTO(mabn_net_cuda_write_work(net, node, weight, false), out);
    }
    status = mabn_device_wait(net->device);
out:
    mabn_device_release(net->device, on_device, bytes);
    free(weights);
    free(folded);
    free(biases);
    free(state);
    return status;
}

/* Count the calls until every MABN layer knows its affine map ahead, leaving out layers that never
 * will. Plans of other shapes advance the same state, so the count is renewed until it is 0. From
 * then on it stays 0. */
static mabn_status count_until_known(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    if (c->state_version == net->params->state_version && c->until_known <= 0) return MABN_OK;
    c->state_version = net->params->state_version;
    c->until_known = -1;
    if (net->options.vary_rows) return MABN_OK; /* the number of runs varies, too */
    char *state = (char *)mabn_xmalloc(net->params->state.bytes + 1);
    const mabn_status status =
        mabn_device_get(net->device, state, net->params->state.base, net->params->state.bytes);
    for (int i = 0; i < net->node_count && !status; i++) {
        const struct node *node = &net->nodes[i];
        if (!net_has_state(node)) continue;
        const int64_t calls = mabn_norm_calls_until_known(
            &node->norm, state + net->params->states[node->state].offset, net->options.batch);
        c->layers[i].may_know = calls >= 0;
        if (calls > c->until_known) c->until_known = calls;
    }
    free(state);
    return status;
}

/* After anything but this network's update has written parameters or state. */
mabn_status mabn_net_cuda_refresh(struct mabn_net *net)
{
    bool folds = false;
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (!has_weights(node) || !net->cuda->layers[i].owns_work) continue;
        if (node->folded >= 0)
            folds = true;
        else
            MABN_TRY(mabn_net_cuda_write_work(net, node, net_weight(net, node->weight),
                                              node->conv.centralize));
    }
    if (folds) MABN_TRY(write_folded(net));
    if (net->options.training) MABN_TRY(count_until_known(net));
    net->version = net->params->version;
    return MABN_OK;
}
