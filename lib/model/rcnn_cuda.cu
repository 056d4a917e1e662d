/* What the conductor of a detector has done on a GPU between its plans: proposals, from the RPN's
 * maps where they lie. Only the boxes that come of them cross the bus. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "detect/detect_cuda.h"
#include "detect/proposals_cuda.h"
#include "device/cuda.h"
#include "model/rcnn_internal.h"

struct rcnn_cuda {
    void *memory; /* the proposals, then scratch */
    size_t bytes;
    int32_t *count; /* (images), on the host */
};

void mabn_rcnn_cuda_free(struct mabn_rcnn *r)
{
    if (!r->cuda) return;
    mabn_device_release(r->device, r->cuda->memory, r->cuda->bytes);
    free(r->cuda->count);
    free(r->cuda);
    r->cuda = NULL;
}

mabn_status mabn_rcnn_cuda_anchors(struct mabn_rcnn *r, struct rcnn_body *body,
                                   const struct mabn_anchor_grid *grid)
{
    const struct mabn_anchors *a = &r->anchors;
    void *memory;
    MABN_TRY(mabn_device_alloc(r->device, &memory,
                               (size_t)body->anchor_count * 4 * sizeof(float)));
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
    struct rcnn_cuda *c = r->cuda;
    const size_t images = (size_t)r->options.images, rows = images * (size_t)r->proposals.room;
    size_t at = 0;
    const size_t box = piece(&at, rows * 4 * sizeof(float)), score = piece(&at, rows * sizeof(float));
    const size_t count = piece(&at, images * sizeof(int32_t));
    const size_t sizes = piece(&at, 2 * images * sizeof(int)), rest = piece(&at, scratch);
    if (at > c->bytes) {
        mabn_device_release(r->device, c->memory, c->bytes);
        c->memory = NULL;
        c->bytes = 0;
        MABN_TRY(mabn_device_alloc(r->device, &c->memory, at));
        c->bytes = at;
    }
    char *base = (char *)c->memory;
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
    MABN_TRY(mabn_device_get(r->device, r->cuda->count, p->out.count,
                             (size_t)images * sizeof(int32_t)));
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
    if (!r->cuda) {
        r->cuda = (struct rcnn_cuda *)mabn_xcalloc(1, sizeof *r->cuda);
        r->cuda->count = (int32_t *)mabn_xcalloc((size_t)r->options.images, sizeof(int32_t));
    }
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
