/* What the conductor of a detector has done on a GPU between its plans in testing: anchors, and proposals
 * from the RPN's maps where they lie, of which only the boxes come back; of the mask head's output the
 * channels of the detections, and where the pixels of pasted masks change. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "detect/detect_cuda.h"
#include "detect/paste_cuda.h"
#include "detect/proposals_cuda.h"
#include "device/cuda.h"
#include "model/rcnn_internal.h"

/* Device memory, made anew where it is too small. */
struct room {
    void *base;
    size_t bytes;
};

struct rcnn_cuda {
    struct room proposals; /* then scratch */
    struct room masks;     /* maps, boxes, channels, counts of a picture's masks */
    struct room places;    /* where their pixels change */
    int32_t *count;        /* (images), on the host */
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
    r->cuda->count = (int32_t *)mabn_xcalloc((size_t)r->options.images, sizeof(int32_t));
    return r->cuda;
}

void mabn_rcnn_cuda_free(struct mabn_rcnn *r)
{
    if (!r->cuda) return;
    struct room *rooms[] = {&r->cuda->proposals, &r->cuda->masks, &r->cuda->places};
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

/* ---- masks ---- */

enum { MASK_PIXELS = RCNN_MASK_SIDE * RCNN_MASK_SIDE };

/* Of n masks, on the device; the channels' logits lie where the maps come later. */
struct mask_pieces {
    float *map, *box;
    int32_t *channel, *count;
    int64_t *first;
};

static mabn_status get_mask_pieces(struct mabn_rcnn *r, struct mask_pieces *p, size_t n)
{
    struct rcnn_cuda *c = cuda_of(r);
    size_t at = 0;
    const size_t map = piece(&at, n * MASK_PIXELS * sizeof(float)),
                 box = piece(&at, n * 4 * sizeof(float));
    const size_t channel = piece(&at, n * sizeof(int32_t)), count = piece(&at, n * sizeof(int32_t));
    const size_t first = piece(&at, n * sizeof(int64_t));
    MABN_TRY(need_room(r, &c->masks, at));
    char *base = (char *)c->masks.base;
    p->map = (float *)(base + map);
    p->box = (float *)(base + box);
    p->channel = (int32_t *)(base + channel);
    p->count = (int32_t *)(base + count);
    p->first = (int64_t *)(base + first);
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_mask_logits(struct mabn_rcnn *r, float *logit,
                                       const struct mabn_net_output *all, const int32_t *label,
                                       int64_t n)
{
    const size_t count = (size_t)n;
    struct mask_pieces p;
    int32_t *channel;
    MABN_TRY(get_mask_pieces(r, &p, count));
    MABN_TRY(mabn_scratch_take(&r->scratch, &channel, count, sizeof *channel));
    for (int64_t i = 0; i < n; i++) {
        channel[i] = all->c == 1 ? 0 : label[i] - r->convention->background_last;
        if (channel[i] < 0 || channel[i] >= all->c)
            return mabn_fail(MABN_ERR_ARG, "detection %lld: class %d, masks of %lld classes",
                             (long long)i, (int)label[i], (long long)all->c);
    }
    MABN_TRY(mabn_device_put(r->device, p.channel, channel, count * sizeof *channel));
    MABN_TRY(mabn_cuda_paste_select(p.map, all->values, p.channel, n, MASK_PIXELS, all->c,
                                    mabn_cuda_stream(r->device)));
    return mabn_device_get(r->device, logit, p.map, count * MASK_PIXELS * sizeof *logit);
}

/* Runs of zeros and ones between the places where a mask changes. */
static mabn_status make_rle(struct mabn_rle *mask, uint32_t *place, int64_t n,
                            const struct mabn_rcnn_size *size)
{
    uint32_t before = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t at = place[i];
        place[i] = at - before;
        before = at;
    }
    return mabn_rle_from_counts(mask, place, (size_t)n, (uint32_t)size->height,
                                (uint32_t)size->width);
}

static mabn_status fetch_masks(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                               const struct mabn_rcnn_size *size, const struct mask_pieces *p,
                               const struct mabn_cuda_paste *paste)
{
    const size_t n = (size_t)paste->n;
    int32_t *count;
    int64_t *first, all = 0;
    uint32_t *place;
    MABN_TRY(mabn_scratch_take(&r->scratch, &count, n, sizeof *count));
    MABN_TRY(mabn_scratch_take(&r->scratch, &first, n, sizeof *first));
    MABN_TRY(mabn_device_get(r->device, count, p->count, n * sizeof *count));
    for (size_t i = 0; i < n; i++) {
        first[i] = all;
        all += count[i];
    }
    const size_t bytes = (size_t)all * sizeof *place;
    MABN_TRY(need_room(r, &r->cuda->places, bytes + 1));
    MABN_TRY(mabn_scratch_take(&r->scratch, &place, (size_t)all + 1, sizeof *place));
    MABN_TRY(mabn_device_put(r->device, p->first, first, n * sizeof *first));
    MABN_TRY(mabn_cuda_paste_places((uint32_t *)r->cuda->places.base, p->first, paste,
                                    r->convention, mabn_cuda_stream(r->device)));
    MABN_TRY(mabn_device_get(r->device, place, r->cuda->places.base, bytes));
    for (size_t i = 0; i < n; i++)
        MABN_TRY(make_rle(&found->masks[i], place + first[i], count[i], size));
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_paste(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                                 const struct mabn_rcnn_size *size, const float *probability)
{
    const struct mabn_detections *d = &found->boxes;
    const size_t n = (size_t)d->count;
    struct mask_pieces p;
    float *maps;
    if (!n) return MABN_OK;
    MABN_TRY(get_mask_pieces(r, &p, n));
    MABN_TRY(mabn_scratch_take(&r->scratch, &maps, n * MASK_PIXELS, sizeof *maps));
    for (size_t k = 0; k < n; k++)
        memcpy(maps + k * MASK_PIXELS, probability + d->mask[k] * MASK_PIXELS,
               MASK_PIXELS * sizeof *maps);
    MABN_TRY(mabn_device_put(r->device, p.map, maps, n * MASK_PIXELS * sizeof *maps));
    MABN_TRY(mabn_device_put(r->device, p.box, d->box, n * 4 * sizeof *d->box));
    const struct mabn_cuda_paste paste = {p.map,          p.box,       d->count,
                                          RCNN_MASK_SIDE, size->width, size->height};
    MABN_TRY(mabn_cuda_paste_count(p.count, &paste, r->convention, mabn_cuda_stream(r->device)));
    return fetch_masks(r, found, size, &p, &paste);
}
