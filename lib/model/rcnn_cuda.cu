/* What the conductor of a detector has done on a GPU between its plans: the RPN's targets, for its
 * losses to read where they are made, and proposals from its maps where they lie. True boxes go to the
 * GPU, and only the boxes that are proposed come back. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "detect/detect_cuda.h"
#include "detect/proposals_cuda.h"
#include "detect/rpn_targets_cuda.h"
#include "device/cuda.h"
#include "model/rcnn_internal.h"

/* Device memory, made anew where it is too small. */
struct room {
    void *base;
    size_t bytes;
};

struct rcnn_cuda {
    struct room proposals; /* then scratch */
    struct room targets;   /* of the RPN, then scratch; and what is true */
    struct room truth;
    int32_t *count; /* (2·images), on the host */
};

static mabn_status need_room(struct mabn_rcnn *r, struct room *room, size_t bytes)
{
    if (bytes <= room->bytes) return MABN_OK;
    mabn_device_release(r->device, room->base, room->bytes);
    *room = {};
    MABN_TRY(mabn_device_alloc(r->device, &room->base, bytes));
    room->bytes = bytes;
    return MABN_OK;
}

static struct rcnn_cuda *cuda_of(struct mabn_rcnn *r)
{
    if (r->cuda) return r->cuda;
    r->cuda = (struct rcnn_cuda *)mabn_xcalloc(1, sizeof *r->cuda);
    r->cuda->count = (int32_t *)mabn_xcalloc(2 * (size_t)r->options.images, sizeof(int32_t));
    return r->cuda;
}

void mabn_rcnn_cuda_free(struct mabn_rcnn *r)
{
    if (!r->cuda) return;
    struct room *rooms[] = {&r->cuda->proposals, &r->cuda->targets, &r->cuda->truth};
    for (struct room *room : rooms)
        mabn_device_release(r->device, room->base, room->bytes);
    free(r->cuda->count);
    free(r->cuda);
    r->cuda = NULL;
}

mabn_status mabn_rcnn_cuda_anchors(struct mabn_rcnn *r, struct rcnn_body *body,
                                   const struct mabn_anchor_grid *grid)
{
    const struct mabn_anchors *a = &r->anchors;
    void *memory;
    MABN_TRY(mabn_device_alloc(r->device, &memory, (size_t)body->anchor_count * 4 * sizeof(float)));
    float *box = body->gpu_anchors = (float *)memory;
    for (int l = 0; l < a->levels; l++) {
        float base[4 * MABN_ANCHOR_RATIOS];
        int64_t stride_y = a->stride[l], stride_x = a->stride[l];
        if (r->convention->stride_from_grid) {
            stride_y = grid->padded_height / grid->h[l];
            stride_x = grid->padded_width / grid->w[l];
        }
        mabn_anchors_base(base, a, l, r->convention);
        MABN_TRY(mabn_cuda_anchors_level(box, base, a->ratios, grid->h[l], grid->w[l], stride_y,
                                         stride_x, mabn_cuda_stream(r->device)));
        box += 4 * body->level_anchors[l];
    }
    return MABN_OK;
}

/* ---- proposals ---- */

/* Pieces of the memory, one behind another. */
struct pieces {
    struct mabn_cuda_proposals out;
    int *sizes; /* widths, then heights */
    void *scratch;
};

static size_t piece(size_t *at, size_t bytes)
{
    const size_t begin = *at;
    *at += (bytes + 255) & ~(size_t)255;
    return begin;
}

static mabn_status get_memory(struct mabn_rcnn *r, struct pieces *p, size_t scratch)
{
    struct rcnn_cuda *c = cuda_of(r);
    const size_t images = (size_t)r->options.images, rows = images * (size_t)r->proposals.room;
    size_t at = 0;
    const size_t box = piece(&at, rows * 4 * sizeof(float)),
                 score = piece(&at, rows * sizeof(float));
    const size_t count = piece(&at, images * sizeof(int32_t));
    const size_t sizes = piece(&at, 2 * images * sizeof(int)), rest = piece(&at, scratch);
    MABN_TRY(need_room(r, &c->proposals, at));
    char *base = (char *)c->proposals.base;
    p->out.room = r->proposals.room;
    p->out.box = (float *)(base + box);
    p->out.score = (float *)(base + score);
    p->out.count = (int32_t *)(base + count);
    p->sizes = (int *)(base + sizes);
    p->scratch = base + rest;
    return MABN_OK;
}

/* An image's rows at a time: as many as there are. */
static mabn_status fetch(struct mabn_rcnn *r, const struct pieces *p, int64_t images)
{
    const int64_t room = r->proposals.room;
    MABN_TRY(
        mabn_device_get(r->device, r->cuda->count, p->out.count, (size_t)images * sizeof(int32_t)));
    for (int64_t i = 0; i < images; i++) {
        const size_t n = (size_t)(r->proposals.count[i] = r->cuda->count[i]);
        MABN_TRY(mabn_device_get(r->device, r->proposals.box + 4 * i * room,
                                 p->out.box + 4 * i * room, n * 4 * sizeof(float)));
        MABN_TRY(mabn_device_get(r->device, r->proposals.score + i * room, p->out.score + i * room,
                                 n * sizeof(float)));
    }
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_propose(struct mabn_rcnn *r, const struct mabn_rpn_maps *maps,
                                   const struct mabn_proposal_options *options)
{
    const size_t n = (size_t)maps->images;
    struct mabn_rpn_maps there = *maps;
    struct pieces p;
    MABN_TRY(get_memory(r, &p, mabn_cuda_proposals_bytes(maps, options)));
    MABN_TRY(mabn_device_put(r->device, p.sizes, maps->width, n * sizeof(int)));
    MABN_TRY(mabn_device_put(r->device, p.sizes + n, maps->height, n * sizeof(int)));
    there.width = p.sizes;
    there.height = p.sizes + n;
    there.anchor = r->body->gpu_anchors;
    MABN_TRY(mabn_cuda_proposals_make(&p.out, &there, options, r->convention, p.scratch,
                                      mabn_cuda_stream(r->device)));
    return fetch(r, &p, maps->images);
}

/* ---- targets of the RPN ---- */

/* What is true of the pictures, and the streams that samples are drawn from: packed on the host, one
 * copy to the device. */
static mabn_status put_truth(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                             uint64_t step, struct mabn_cuda_truth *t)
{
    const int n = r->body->images;
    size_t objects = 0, at = 0;
    *t = {};
    t->images = n;
    for (int i = 0; i < n; i++) {
        objects += (size_t)images[i].count;
        if (images[i].count > t->most) t->most = images[i].count;
    }
    const size_t first = piece(&at, ((size_t)n + 1) * sizeof(int32_t));
    const size_t box = piece(&at, objects * 4 * sizeof(float));
    const size_t sizes = piece(&at, 2 * (size_t)n * sizeof(int));
    const size_t streams = piece(&at, (size_t)n * sizeof(struct mabn_rng));
    char *host;
    MABN_TRY(need_room(r, &r->cuda->truth, at));
    MABN_TRY(mabn_scratch_take(&r->scratch, &host, at, 1));
    memset(host, 0, at);
    int32_t *firsts = (int32_t *)(host + first);
    for (int i = 0; i < n; i++) {
        const struct mabn_sample_key key = {r->options.seed, step, images[i].number,
                                            MABN_SAMPLE_RPN};
        firsts[i + 1] = firsts[i] + images[i].count;
        if (images[i].count)
            memcpy(host + box + (size_t)firsts[i] * 4 * sizeof(float), images[i].boxes,
                   (size_t)images[i].count * 4 * sizeof(float));
        ((int *)(host + sizes))[i] = images[i].width;
        ((int *)(host + sizes))[n + i] = images[i].height;
        mabn_sample_stream((struct mabn_rng *)(host + streams) + i, &key);
    }
    char *base = (char *)r->cuda->truth.base;
    t->first = (const int32_t *)(base + first);
    t->box = (const float *)(base + box);
    t->width = (const int *)(base + sizes);
    t->height = t->width + n;
    t->rng = (const struct mabn_rng *)(base + streams);
    return mabn_device_put(r->device, base, host, at);
}

/* How many were sampled: the losses are divided by it, and told. */
static mabn_status fetch_counts(struct mabn_rcnn *r, const struct mabn_cuda_rpn_targets *t,
                                struct rcnn_rpn_targets *all)
{
    const int n = r->body->images;
    int32_t *count = r->cuda->count;
    MABN_TRY(mabn_device_get(r->device, count, t->sampled, 2 * (size_t)n * sizeof *count));
    for (int i = 0; i < n; i++) {
        all->sampled += count[i];
        all->positives += count[n + i];
    }
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_rpn_targets(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                       uint64_t step, const struct mabn_rpn_target_options *options,
                                       struct rcnn_rpn_targets *all)
{
    const int64_t n = r->body->anchor_count;
    const size_t pictures = (size_t)r->body->images, each = pictures * (size_t)n * sizeof(float);
    struct room *room = &cuda_of(r)->targets;
    struct mabn_cuda_rpn_targets out;
    struct mabn_cuda_truth truth;
    size_t at = 0;
    MABN_TRY(put_truth(r, images, step, &truth));
    const size_t target = piece(&at, each), weight = piece(&at, each);
    const size_t box_weight = piece(&at, each), delta = piece(&at, 4 * each);
    const size_t counts = piece(&at, 2 * pictures * sizeof(int32_t));
    const size_t rest = piece(&at, mabn_cuda_rpn_targets_bytes(truth.images, n, truth.most));
    MABN_TRY(need_room(r, room, at));
    char *base = (char *)room->base;
    all->on_device = true;
    all->target = out.target = (float *)(base + target);
    all->weight = out.weight = (float *)(base + weight);
    all->box_weight = out.box_weight = (float *)(base + box_weight);
    all->delta = out.delta = (float *)(base + delta);
    out.sampled = (int32_t *)(base + counts);
    out.positives = out.sampled + pictures;
    MABN_TRY(mabn_cuda_rpn_targets_make(&out, r->body->gpu_anchors, r->body->level_anchors,
                                        MABN_DETECTOR_LEVELS, &truth, options, r->convention,
                                        base + rest, mabn_cuda_stream(r->device)));
    return fetch_counts(r, &out, all);
}
