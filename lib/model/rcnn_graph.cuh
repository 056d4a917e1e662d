/* A stretch of a detector's queue as a CUDA graph, for each shape of the pictures. If a step has several
 * passes, the first, the last and those between have graphs of their own. The first time the work is queued
 * directly, so that libraries are loaded and memory is allocated. The second time, if nothing has changed,
 * it is captured. */
#ifndef MABN_MODEL_RCNN_GRAPH_CUH
#define MABN_MODEL_RCNN_GRAPH_CUH

#include "base/log.h"
#include "base/mem.h"
#include "device/cuda.h"
#include "model/rcnn_internal.h"
#include "net/queue.h"

/* Everything that may differ between two stretches of one shape, except values in device memory. */
struct rcnn_graph_key {
    const void *memory[3];
    size_t sizes[4];
    bool tells; /* gradients to r->ready */
    struct mabn_net_queue_stamp plans[MABN_RCNN_PLANS];
};

struct rcnn_graph_kind {
    struct mabn_cuda_graph *graph;
    struct rcnn_graph_key key;
    bool warm;
};
struct rcnn_graph {
    struct rcnn_graph_kind kinds[4]; /* adding to gradients or not, telling of them or not */
};

/* The plans' part; the rest is zero. */
static inline struct rcnn_graph_key rcnn_graph_key_of(const struct mabn_rcnn *r)
{
    struct rcnn_graph_key key = {};
    for (int i = 0; i < MABN_RCNN_PLANS; i++) {
        const struct mabn_net *net = mabn_rcnn_plan(r, (enum mabn_rcnn_plan)i);
        if (net) key.plans[i] = mabn_net_queue_stamp_of(net);
    }
    return key;
}

static inline bool rcnn_graph_same(const struct rcnn_graph_key &a, const struct rcnn_graph_key &b)
{
    bool same = a.tells == b.tells;
    for (int i = 0; i < 3; i++)
        same = same && a.memory[i] == b.memory[i];
    for (int i = 0; i < 4; i++)
        same = same && a.sizes[i] == b.sizes[i];
    for (int i = 0; i < MABN_RCNN_PLANS; i++)
        same = same && a.plans[i].scratch == b.plans[i].scratch &&
               a.plans[i].known == b.plans[i].known &&
               a.plans[i].accumulate == b.plans[i].accumulate;
    return same;
}

/* The part of what is true of the pictures: rcnn_train_cuda.cu's. */
void mabn_rcnn_cuda_truth_key(const struct mabn_rcnn *r, struct rcnn_graph_key *key);

/* A failure does not fail the step: it turns graphs off. */
template <typename Queue>
mabn_status rcnn_graph_capture(struct mabn_rcnn *r, struct rcnn_graph_kind *g, bool *no_graphs,
                               Queue queue)
{
    mabn_status status = mabn_cuda_capture_begin(r->device);
    if (!status) status = mabn_cuda_capture_end(r->device, &g->graph, queue());
    if (!status) return MABN_OK;
    mabn_warn("no CUDA graph of a detector's step, which will be slower: %s", mabn_error_message());
    g->graph = NULL;
    *no_graphs = true;
    return MABN_OK;
}

/* Run what `queue` queues for the body's shape. */
template <typename Queue>
mabn_status rcnn_graph_run(struct mabn_rcnn *r, const struct rcnn_graph_key &key, bool *no_graphs,
                           Queue queue)
{
    struct rcnn_graph **all = &r->body->graph;
    if (!*all) *all = (struct rcnn_graph *)mabn_xcalloc(1, sizeof **all);
    struct rcnn_graph_kind *g =
        &(*all)->kinds[key.plans[MABN_RCNN_BODY_PLAN].accumulate | key.tells << 1];
    if (!g->warm || !rcnn_graph_same(g->key, key)) {
        if (g->graph) MABN_TRY(mabn_device_wait(r->device));
        mabn_cuda_graph_free(g->graph);
        g->graph = NULL;
        g->key = key;
        g->warm = true;
        return queue();
    }
    if (!g->graph) MABN_TRY(rcnn_graph_capture(r, g, no_graphs, queue));
    if (!g->graph) return queue();
    MABN_TRY(mabn_cuda_graph_launch(r->device, g->graph));
    return key.tells ? r->ready(r->ready_context, MABN_NET_READY_AGAIN) : MABN_OK;
}

#endif
