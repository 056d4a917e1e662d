/* Norms over the whole batch, fused into the neighbouring convolutions (ops/conv_cuda.h,
 * norm/norm_cuda.h): for which layers, and how they run.
 *
 *     forward    The convolution before a norm computes Σ x and Σ x² while it writes x. The norm need
 *                not measure and only applies. Once MABN's affine map is known ahead, the convolution
 *                runs in the norm's place in the list and writes the norm's output, too.
 *     backward   Several convolutions may add to the gradient of a norm's output. The last of them
 *                applies ReLU's mask and sums Σ dy·x and Σ dy, whether the map is known or not.
 *
 * Forward saves a read of x. Backward saves a read of dy and a read of x, and with a shortcut a write
 * of dy. (MABN's Σ dy comes from the pass that writes dx and is not requested.) The fused kernels may be
 * slower than the separate ones. So `tune` times both, once for all layers that are alike, on one's own
 * memory. */
#include <algorithm>
#include <vector>

#include "base/log.h"
#include "base/mem.h"
#include "device/launch.cuh"
#include "net/cuda.cuh"

/* ---- which ---- */

static bool is_mabn(const struct node *norm)
{
    return norm->norm.options.kind == MABN_NORM_MABN;
}

/* The other norms' sums are taken in float32 about zero (norm_cuda.h), which is not exact enough
 * for exact float32. */
static bool can_join(const struct mabn_net *net, const struct node *norm)
{
    if (!net_has_state(norm) || !mabn_norm_cuda_can_join(&norm->norm, net->options.batch))
        return false;
    return is_mabn(norm) || net->options.precision != MABN_NET_FP32 ||
           net->options.join == MABN_NET_JOIN_ALWAYS;
}

/* Is this convolution the last to add to the gradient of its input? */
static bool is_last_to_add(const struct mabn_net *net, const struct node *conv)
{
    for (int i = conv->reads[0] + 1; i < conv - net->nodes; i++)
        if (net_reads(&net->nodes[i], conv->reads[0])) return false;
    return true;
}

void mabn_net_cuda_request_joins(const struct mabn_net *net, const struct node *conv,
                                 struct mabn_conv_cuda_options *o)
{
    const struct mabn_net_options *options = &net->options;
    const bool timed = options->join == MABN_NET_JOIN_AUTO && options->tune;
    if (!options->training || options->vary_rows) return;
    if (options->join != MABN_NET_JOIN_ALWAYS && !timed) return;
    if (!conv->kind->takes_norms) return;
    if (conv->neighbour >= 0 && can_join(net, &net->nodes[conv->neighbour])) {
        const struct node *norm = &net->nodes[conv->neighbour];
        o->after.requested = is_mabn(norm);
        o->after.residual = is_mabn(norm) && norm->reads[1] >= 0;
        o->after.relu = is_mabn(norm) && norm->io.relu;
        /* The few steps before MABN's affine map is known are not worth compiling a kernel for. */
        o->after.sums = !is_mabn(norm) || options->join == MABN_NET_JOIN_ALWAYS;
    }
    const struct node *x = &net->nodes[conv->reads[0]];
    if (can_join(net, x) && x->trains && is_last_to_add(net, conv)) {
        o->before.requested = true;
        o->before.add = conv->dx_adds[0];
        o->before.mask = !x->io.relu        ? MABN_CONV_MASK_NONE
                         : x->reads[1] >= 0 ? MABN_CONV_MASK_Y
                                            : MABN_CONV_MASK_X;
        o->before.sum = !is_mabn(x);
    }
}

/* ---- how they run ---- */

bool mabn_net_cuda_forward_joins(const struct mabn_net *net, const struct node *conv)
{
    const struct net_cuda *c = net->cuda;
    return conv->neighbour >= 0 && layer_of(net, conv)->after && c->until_known == 0 &&
           c->layers[conv->neighbour].may_know;
}

bool mabn_net_cuda_forward_sums(const struct mabn_net *net, const struct node *conv)
{
    return conv->neighbour >= 0 && layer_of(net, conv)->sums &&
           !mabn_net_cuda_forward_joins(net, conv);
}

mabn_status mabn_net_cuda_begin_joined(struct mabn_net *net)
{
    const struct net_cuda *c = net->cuda;
    if (c->sums_bytes)
        MABN_CUDA_TRY(cudaMemsetAsync(c->joined.base, 0, c->sums_bytes, (cudaStream_t)c->stream));
    if (!c->join_count || c->until_known) return MABN_OK;
    return mabn_norm_cuda_known(c->join_list, c->join_count, c->join_channels, c->stream);
}

static mabn_status joined_conv(struct mabn_net *net, const struct node *conv)
{
    const struct node *norm = &net->nodes[conv->neighbour];
    const struct layer *layer = layer_of(net, conv), *behind = layer_of(net, norm);
    const struct mabn_conv_cuda_norm_out out = {memory(net, norm->data), behind->io.residual,
                                                behind->a, behind->b, behind->totals[SQUARE]};
    return mabn_conv_cuda_forward_norm(layer->conv, memory(net, conv->data),
                                       memory(net, net->nodes[conv->reads[0]].data), layer->work,
                                       &out, net->cuda->scratch, net->cuda->stream);
}

mabn_status mabn_net_cuda_forward_joined(struct mabn_net *net, const struct node *conv)
{
    const struct node *norm = &net->nodes[conv->neighbour];
    struct mabn_norm_cuda_io *io = &layer_of(net, norm)->io;
    MABN_TRY(joined_conv(net, conv));
    io->scratch = net->cuda->scratch;
    io->y = memory(net, norm->data);
    io->known = true;
    io->square = layer_of(net, norm)->totals[SQUARE];
    const mabn_status status = mabn_norm_cuda_forward(&norm->norm, io);
    io->square = NULL;
    return status;
}

mabn_status mabn_net_cuda_forward_summing(struct mabn_net *net, const struct node *conv)
{
    const struct layer *layer = layer_of(net, conv);
    float *const *totals = net->cuda->layers[conv->neighbour].totals;
    return mabn_conv_cuda_forward_sums(
        layer->conv, memory(net, conv->data), memory(net, net->nodes[conv->reads[0]].data),
        layer->work, totals[SUM], totals[SQUARE], net->cuda->scratch, net->cuda->stream);
}

mabn_status mabn_net_cuda_forward_summed(struct mabn_net *net, const struct node *norm)
{
    struct layer *layer = layer_of(net, norm);
    struct mabn_norm_cuda_io io = layer->io;
    io.scratch = net->cuda->scratch;
    io.y = memory(net, norm->data);
    io.known = false;
    io.sum = layer->totals[SUM];
    io.square = layer->totals[SQUARE];
    return mabn_norm_cuda_forward(&norm->norm, &io);
}

mabn_status mabn_net_cuda_backward_joined(struct mabn_net *net, const struct node *conv)
{
    const struct node *norm = &net->nodes[conv->reads[0]];
    const struct layer *layer = layer_of(net, conv);
    struct layer *before = layer_of(net, norm);
    struct mabn_conv_cuda_norm_in in = {before->io.x,        NULL, NULL, NULL, before->totals[DOT],
                                        before->totals[DSUM]};
    if (norm->reads[1] >= 0) in.y = memory(net, norm->data);
    mabn_norm_cuda_saved_affine(&norm->norm, before->io.saved, net->options.batch, &in.a, &in.b);
    return mabn_conv_cuda_backward_norm(layer->conv, memory(net, norm->grad),
                                        memory(net, conv->grad), layer->work, &in,
                                        net->cuda->scratch, net->cuda->stream);
}

/* Let the norm's backward use the sums that the convolution computed. */
static void take_gradient_sums(const struct mabn_net *net, const struct node *norm,
                               struct mabn_norm_cuda_io *io)
{
    const struct layer *layer = layer_of(net, norm);
    io->dot = layer->totals[DOT];
    io->dsum = is_mabn(norm) ? NULL : layer->totals[DSUM];
}

/* ---- timing both ways ---- */

enum { REPEATS = 8, TRIALS = 5 };
const double ENOUGH = 0.03; /* seconds of trials after which no further one is made */
const double HOLD = 0.002;  /* seconds that the device is held up while the host queues the timed
                             * work */

/* Milliseconds for what `queue` queues: the fastest trial. */
template <typename Queue>
static mabn_status time_of(const struct mabn_net *net, double *ms, Queue queue)
{
    const struct net_cuda *c = net->cuda;
    double spent = 0, seconds;
    *ms = 0;
    MABN_TRY(queue()); /* warm up, not timed */
    for (int trial = 0; trial < TRIALS && spent < ENOUGH; trial++) {
        MABN_TRY(mabn_cuda_hold(net->device, HOLD));
        MABN_TRY(mabn_cuda_event_record(c->begin, c->stream));
        for (int i = 0; i < REPEATS; i++)
            MABN_TRY(queue());
        MABN_TRY(mabn_cuda_event_record(c->end, c->stream));
        MABN_TRY(mabn_cuda_event_wait(c->end));
        MABN_TRY(mabn_cuda_event_seconds(&seconds, c->begin, c->end));
        spent += seconds;
        if (!trial || seconds * 1e3 / REPEATS < *ms) *ms = seconds * 1e3 / REPEATS;
    }
    return MABN_OK;
}

static void report(const struct node *conv, const char *what, const char *how, double joined,
                   double apart)
{
    mabn_verbose("%s: %s: %s, %.4f ms; apart %.4f ms", conv->name, what, how, joined, apart);
}

/* Apart from the apply step, the rest of the norm's forward is the same in both cases. */
static mabn_status time_after(struct mabn_net *net, const struct node *conv, bool *better)
{
    const struct node *norm = &net->nodes[conv->neighbour];
    const struct layer *layer = layer_of(net, conv);
    struct mabn_norm_cuda_io *io = &layer_of(net, norm)->io;
    const struct net_cuda *c = net->cuda;
    double joined, apart;
    io->scratch = c->scratch;
    io->y = memory(net, norm->data);
    MABN_TRY(time_of(net, &joined, [&] { return joined_conv(net, conv); }));
    MABN_TRY(time_of(net, &apart, [&]() -> mabn_status {
        MABN_TRY(mabn_net_cuda_conv(net, conv));
        return mabn_norm_cuda_reapply(&norm->norm, io);
    }));
    *better = joined < apart;
    report(conv, "with the norm behind it",
           mabn_conv_cuda_describe(layer->conv, MABN_CONV_FORWARD_NORM), joined, apart);
    return MABN_OK;
}

static mabn_status time_sums(struct mabn_net *net, const struct node *conv, bool *better)
{
    const struct node *norm = &net->nodes[conv->neighbour];
    const struct layer *layer = layer_of(net, conv);
    struct mabn_norm_cuda_io io = layer_of(net, norm)->io;
    const struct net_cuda *c = net->cuda;
    double joined, apart;
    io.scratch = c->scratch;
    io.y = memory(net, norm->data);
    io.known = false;
    MABN_TRY(time_of(net, &joined, [&]() -> mabn_status {
        MABN_TRY(mabn_net_cuda_forward_summing(net, conv));
        return mabn_net_cuda_forward_summed(net, norm);
    }));
    MABN_TRY(time_of(net, &apart, [&]() -> mabn_status {
        MABN_TRY(mabn_net_cuda_conv(net, conv));
        return mabn_norm_cuda_forward(&norm->norm, &io);
    }));
    *better = joined < apart;
    report(conv, "with the sums of the norm behind it",
           mabn_conv_cuda_describe(layer->conv, MABN_CONV_FORWARD_SUMS), joined, apart);
    return MABN_OK;
}

static mabn_status time_before(struct mabn_net *net, const struct node *conv, bool *better)
{
    const struct node *norm = &net->nodes[conv->reads[0]];
    const struct layer *layer = layer_of(net, conv);
    struct mabn_norm_cuda_io io = layer_of(net, norm)->io;
    const struct net_cuda *c = net->cuda;
    double joined, apart;
    io.scratch = c->scratch;
    io.y = memory(net, norm->data);
    MABN_TRY(mabn_norm_cuda_forward(&norm->norm, &io)); /* the place in the window is set in each
                                                         * call */
    if (norm->reads[1] < 0) io.y = NULL;
    MABN_TRY(time_of(net, &apart, [&]() -> mabn_status {
        MABN_TRY(mabn_conv_cuda_backward_data(layer->conv, memory(net, norm->grad),
                                              memory(net, conv->grad), layer->work,
                                              conv->dx_adds[0], c->scratch, c->stream));
        return mabn_norm_cuda_backward(&norm->norm, &io);
    }));
    take_gradient_sums(net, norm, &io);
    MABN_TRY(time_of(net, &joined, [&]() -> mabn_status {
        MABN_TRY(mabn_net_cuda_backward_joined(net, conv));
        return mabn_norm_cuda_backward(&norm->norm, &io);
    }));
    *better = joined < apart;
    report(conv, "with the norm before it",
           mabn_conv_cuda_describe(layer->conv, MABN_CONV_BACKWARD_NORM), joined, apart);
    return MABN_OK;
}

/* ---- choosing ---- */

static mabn_status choose(struct mabn_net *net, const struct node *conv)
{
    const struct layer *layer = layer_of(net, conv);
    struct shared_conv *shared = &net->cuda->convs[layer->shared];
    if (shared->chosen) return MABN_OK;
    shared->chosen = true;
    shared->after = mabn_conv_cuda_joins(layer->conv, MABN_CONV_FORWARD_NORM);
    shared->sums = mabn_conv_cuda_joins(layer->conv, MABN_CONV_FORWARD_SUMS);
    shared->before = mabn_conv_cuda_joins(layer->conv, MABN_CONV_BACKWARD_NORM);
    if (net->options.join == MABN_NET_JOIN_ALWAYS) return MABN_OK;
    if (shared->after) MABN_TRY(time_after(net, conv, &shared->after));
    if (shared->sums) MABN_TRY(time_sums(net, conv, &shared->sums));
    if (shared->before) MABN_TRY(time_before(net, conv, &shared->before));
    return MABN_OK;
}

/* Place the arrays of norms that may be fused: first all sums, which a step clears in one go, then
 * a and b, each (C). Returns the bytes used; with base NULL only counts. */
static size_t place(struct mabn_net *net, char *base)
{
    struct net_cuda *c = net->cuda;
    size_t at = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < net->node_count; i++) {
            struct layer *layer = &c->layers[i];
            float **const maps[] = {&layer->a, &layer->b};
            if (!can_join(net, &net->nodes[i])) continue;
            for (int k = 0; k < (pass ? 2 : JOINED_SUMS); k++) {
                float **const p = pass ? maps[k] : &layer->totals[k];
                if (base) *p = (float *)(base + at);
                at += net_align((size_t)net->nodes[i].c * sizeof(float));
            }
        }
        if (!pass) c->sums_bytes = at;
    }
    return at;
}

static mabn_status list_joined(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    std::vector<struct mabn_norm_cuda_join> list;
    for (int i = 0; i < net->node_count; i++) {
        const struct node *norm = &net->nodes[i];
        const struct layer *layer = &c->layers[i];
        struct mabn_norm_cuda_join join;
        if (!net_has_state(norm) || norm->neighbour < 0) continue;
        if (!c->layers[norm->neighbour].after) continue;
        MABN_TRY(mabn_norm_cuda_join_init(&join, &norm->norm, layer->io.state, layer->io.gamma,
                                          layer->io.beta, layer->a, layer->b));
        list.push_back(join);
        c->join_channels = std::max(c->join_channels, (int)norm->c);
    }
    if (list.empty()) return MABN_OK;
    c->join_count = (int)list.size();
    MABN_TRY(mabn_net_get_arena(net, &c->join_entries, list.size() * sizeof list[0]));
    c->join_list = (struct mabn_norm_cuda_join *)c->join_entries.base;
    return mabn_device_put(net->device, c->join_list, list.data(), list.size() * sizeof list[0]);
}

/* Choose for every convolution. Timing changes the state of the norms, which other networks may
 * share, so it is restored. */
static mabn_status choose_all(struct mabn_net *net)
{
    const struct arena *state = &net->params->state;
    char *kept = (char *)mabn_xmalloc(state->bytes + 1);
    mabn_status status = mabn_device_get(net->device, kept, state->base, state->bytes);
    for (int i = 0; i < net->node_count && !status; i++)
        if (net->nodes[i].kind->takes_norms) status = choose(net, &net->nodes[i]);
    if (!status) status = mabn_device_put(net->device, state->base, kept, state->bytes);
    free(kept);
    return status;
}

mabn_status mabn_net_cuda_prepare_joins(struct mabn_net *net)
{
    struct net_cuda *c = net->cuda;
    bool any = false;
    for (int i = 0; i < net->node_count; i++)
        if (has_weights(&net->nodes[i])) {
            const struct mabn_conv_cuda_options *o = &c->convs[c->layers[i].shared].options;
            any = any || o->after.requested || o->after.sums || o->before.requested;
        }
    if (!any) return MABN_OK;
    MABN_TRY(mabn_net_get_arena(net, &c->joined, place(net, NULL)));
    place(net, c->joined.base);
    /* Time on zeros: channels whose mean is far from zero are measured a second time, which would
     * be slow. */
    MABN_TRY(mabn_device_zero(net->device, c->joined.base, c->joined.bytes));
    MABN_TRY(mabn_device_zero(net->device, net->activations.base, net->activations.bytes));
    MABN_TRY(choose_all(net));
    for (int i = 0; i < net->node_count; i++) {
        if (!net->nodes[i].kind->takes_norms) continue;
        struct layer *layer = &c->layers[i];
        layer->after = c->convs[layer->shared].after;
        layer->sums = c->convs[layer->shared].sums;
        layer->before = c->convs[layer->shared].before;
        if (!layer->before) continue;
        const struct node *norm = &net->nodes[net->nodes[i].reads[0]];
        take_gradient_sums(net, norm, &layer_of(net, norm)->io);
    }
    return list_joined(net);
}
