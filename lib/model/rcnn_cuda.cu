/* Testing a detector on a GPU: what happens between its plans.
 *
 * Everything from the pictures to the detections and the logits of their masks is queued, and the host
 * waits for nothing. Proposals, the box head's rows, detections and the mask head's rows stay in device
 * memory with their counts, each with room for the most that there may be. The detections are then copied
 * to the host, which reads them when the next pictures' work is already queued. For each shape of the
 * pictures the queue is a CUDA graph. Losses, if they are wanted, are computed after the detections as in
 * training (rcnn_train_cuda.cu).
 *
 * This is not possible with suppression across classes, too many boxes, more ties than there is room for,
 * or losses by masks between 0 and 1. Then the host fetches the proposals and decides itself. In both cases
 * masks are pasted here, in the stream of copies: the GPU finds the places where their pixels change. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "detect/detect_cuda.h"
#include "detect/detections_cuda.h"
#include "detect/paste_cuda.h"
#include "detect/proposals_cuda.h"
#include "device/cuda.h"
#include "model/rcnn_graph.cuh"
#include "model/rcnn_cuda.h"
#include "net/queue.h"

enum { MARKS = 6, SLOTS = 2 };

/* Device memory, made anew where it is too small. */
struct room {
    void *base;
    size_t bytes;
};

/* A detection under way: what is copied to the host, in pinned memory. */
struct slot {
    struct room fetched;                         /* the front of struct rcnn_cuda.found */
    struct room sizes;                           /* of the pictures: widths, then heights */
    struct mabn_cuda_event *done, *marks[MARKS]; /* between its parts, where they are timed */
    bool timed;
};

struct rcnn_cuda {
    struct room proposals;               /* then scratch */
    struct room masks;                   /* maps, boxes, channels, counts of a picture's masks */
    struct room places;                  /* where their pixels change */
    struct room masks_here, places_here; /* the same, pinned */
    struct mabn_cuda_event *pasted;
    int32_t *count;    /* (images), on the host */
    struct room found; /* what a detection works on */
    struct slot slots[SLOTS];
    int64_t begun, told;
    const struct slot *seen; /* the slot that was reported last */
    bool no_graphs;          /* capturing has failed */
};

static mabn_status need_room(struct mabn_rcnn *r, struct room *room, size_t bytes)
{
    if (bytes <= room->bytes) return MABN_OK;
    MABN_TRY(mabn_device_wait(r->device)); /* detections under way use it */
    mabn_device_release(r->device, room->base, room->bytes);
    *room = {};
    MABN_TRY(mabn_device_alloc(r->device, &room->base, bytes));
    room->bytes = bytes;
    return MABN_OK;
}

/* Likewise of pinned memory, which nothing under way uses. */
static mabn_status need_pinned(struct mabn_rcnn *r, struct room *room, size_t bytes)
{
    if (bytes <= room->bytes) return MABN_OK;
    mabn_cuda_host_release(r->device, room->base);
    *room = {};
    MABN_TRY(mabn_cuda_host_alloc(r->device, &room->base, bytes));
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
    struct rcnn_cuda *c = r->cuda;
    if (mabn_device_wait(r->device)) { /* reported by whoever waited before; nothing runs now */
    }
    struct room *rooms[] = {&c->proposals, &c->masks, &c->places, &c->found};
    for (struct room *room : rooms)
        mabn_device_release(r->device, room->base, room->bytes);
    for (struct slot &slot : c->slots) {
        mabn_cuda_host_release(r->device, slot.fetched.base);
        mabn_cuda_host_release(r->device, slot.sizes.base);
        mabn_cuda_event_free(slot.done);
        for (struct mabn_cuda_event *event : slot.marks)
            mabn_cuda_event_free(event);
    }
    mabn_cuda_host_release(r->device, c->masks_here.base);
    mabn_cuda_host_release(r->device, c->places_here.base);
    mabn_cuda_event_free(c->pasted);
    free(c->count);
    free(c);
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

/* ---- from pictures to detections ---- */

enum { MASK_PIXELS = RCNN_MASK_SIDE * RCNN_MASK_SIDE };

/* Offsets in the memory of struct rcnn_cuda.found, in bytes. The first `seen` bytes go to the host. */
struct found_layout {
    size_t count, first, box, score, label, source, mask, seen;
    size_t live, image, level;                  /* of detections */
    size_t proposal, proposal_score, proposals; /* and their counts */
    size_t row_box, row_image, row_level, sizes, scratch, bytes;
};

static struct found_layout lay_out_found(const struct mabn_rcnn *r, size_t room, size_t scratch)
{
    const size_t images = (size_t)r->body->images, n = images * (size_t)r->mask_room;
    const size_t rows = (size_t)r->box_room, four = 4 * sizeof(float), one = sizeof(int32_t);
    struct found_layout l;
    size_t at = 0;
    l.count = piece(&at, images * one);
    l.first = piece(&at, (images + 1) * one);
    l.box = piece(&at, n * four);
    l.score = piece(&at, n * sizeof(float));
    l.label = piece(&at, n * one);
    l.source = piece(&at, n * one);
    l.mask = piece(&at, r->mask_net ? n * MASK_PIXELS * sizeof(float) : 0);
    l.seen = at;
    l.live = piece(&at, images * one);
    l.image = piece(&at, n * one);
    l.level = piece(&at, n * one);
    l.proposal = piece(&at, images * room * four);
    l.proposal_score = piece(&at, images * room * sizeof(float));
    l.proposals = piece(&at, images * one);
    l.row_box = piece(&at, rows * four);
    l.row_image = piece(&at, rows * one);
    l.row_level = piece(&at, rows * one);
    l.sizes = piece(&at, 2 * images * sizeof(int));
    l.scratch = piece(&at, scratch);
    l.bytes = at;
    return l;
}

/* What a detection works on. */
struct detecting {
    struct mabn_rcnn *r;
    void *stream;
    struct slot *slot; /* of one that begins */
    struct mabn_proposal_options proposing;
    struct mabn_detection_options choosing;
    struct found_layout at;
    char *base;
    struct mabn_rpn_maps maps; /* on the device */
    struct mabn_cuda_proposals proposals;
    struct mabn_cuda_box_scores scores;
    struct mabn_cuda_detections found;
    int marks;
};

static int64_t most_proposals(const struct mabn_rcnn *r)
{
    return r->detector.test.proposals;
}

/* Everything but pointers. */
static mabn_status prepare(struct detecting *d, struct mabn_rcnn *r)
{
    *d = {};
    d->r = r;
    d->stream = mabn_cuda_stream(r->device);
    d->proposing = mabn_rcnn_proposal_options(r, false);
    d->choosing = mabn_rcnn_detection_options(r);
    d->scores.images = r->body->images;
    d->scores.most = most_proposals(r);
    d->scores.rows.room = r->box_room;
    d->proposals.room = most_proposals(r);
    d->found.room = r->mask_room;
    return mabn_rcnn_find_maps(r, &d->maps, false);
}

static size_t scratch_bytes(const struct detecting *d)
{
    const size_t proposing = mabn_cuda_proposals_bytes(&d->maps, &d->proposing);
    const size_t choosing = mabn_cuda_detections_bytes(&d->scores, &d->choosing);
    return proposing > choosing ? proposing : choosing;
}

static mabn_status place(struct detecting *d)
{
    struct mabn_rcnn *r = d->r;
    struct rcnn_cuda *c = cuda_of(r);
    d->at = lay_out_found(r, (size_t)d->proposals.room, scratch_bytes(d));
    MABN_TRY(need_room(r, &c->found, d->at.bytes));
    char *base = d->base = (char *)c->found.base;
    d->proposals.box = (float *)(base + d->at.proposal);
    d->proposals.score = (float *)(base + d->at.proposal_score);
    d->proposals.count = (int32_t *)(base + d->at.proposals);
    d->scores.rows.box = (float *)(base + d->at.row_box);
    d->scores.rows.image = (int32_t *)(base + d->at.row_image);
    d->scores.rows.level = (int32_t *)(base + d->at.row_level);
    d->scores.rows.first = (int32_t *)(base + d->at.first);
    d->scores.width = (int *)(base + d->at.sizes);
    d->scores.height = d->scores.width + d->scores.images;
    d->found.box = (float *)(base + d->at.box);
    d->found.score = (float *)(base + d->at.score);
    d->found.label = (int32_t *)(base + d->at.label);
    d->found.source = (int32_t *)(base + d->at.source);
    d->found.image = (int32_t *)(base + d->at.image);
    d->found.level = (int32_t *)(base + d->at.level);
    d->found.count = (int32_t *)(base + d->at.count);
    d->found.live = (int32_t *)(base + d->at.live);
    d->maps.width = d->scores.width;
    d->maps.height = d->scores.height;
    d->maps.anchor = r->body->gpu_anchors;
    return MABN_OK;
}

/* Its own memory, and what the host writes: the sizes of the pictures. */
static mabn_status take_slot(struct detecting *d, const struct mabn_rcnn_image *images)
{
    struct mabn_rcnn *r = d->r;
    struct slot *slot = d->slot = &r->cuda->slots[r->cuda->begun % SLOTS];
    const size_t n = (size_t)d->scores.images;
    MABN_TRY(need_pinned(r, &slot->fetched, d->at.seen));
    MABN_TRY(need_pinned(r, &slot->sizes, 2 * n * sizeof(int)));
    int *sizes = (int *)slot->sizes.base;
    for (size_t i = 0; i < n; i++) {
        sizes[i] = images[i].width;
        sizes[n + i] = images[i].height;
    }
    if (!slot->done) MABN_TRY(mabn_cuda_event_new(&slot->done, r->device, false));
    slot->timed = r->timed;
    for (struct mabn_cuda_event *&event : slot->marks)
        if (slot->timed && !event) MABN_TRY(mabn_cuda_event_new(&event, r->device, true));
    return mabn_cuda_copy_in(r->device, (void *)d->scores.width, sizes, 2 * n * sizeof *sizes,
                             d->stream);
}

static mabn_status mark(struct detecting *d)
{
    if (!d->slot->timed) return MABN_OK;
    return mabn_cuda_event_record(d->slot->marks[d->marks++], d->stream);
}

static mabn_status queue_boxes(struct detecting *d)
{
    struct mabn_rcnn *r = d->r;
    const struct mabn_cuda_box_rows *rows = &d->scores.rows;
    const struct mabn_net_rois rois = {rows->room,  rows->box, rows->image,
                                       rows->level, true,      rows->first + d->scores.images};
    MABN_TRY(
        mabn_cuda_box_rows_fill(rows, &d->proposals, d->scores.images, r->convention, d->stream));
    mabn_rcnn_bind(r, r->box_net, &r->box_head, &rois);
    MABN_TRY(mabn_net_queue_forward(r->box_net));
    d->scores.logit = mabn_net_output_of(r->box_net, "class_logits").values;
    d->scores.delta = mabn_net_output_of(r->box_net, "box_deltas").values;
    return MABN_OK;
}

/* The logits of each detection's class, image by image. */
static mabn_status queue_masks(struct detecting *d)
{
    struct mabn_rcnn *r = d->r;
    const struct mabn_cuda_detections *f = &d->found;
    for (int64_t i = 0; i < d->scores.images && r->mask_net; i++) {
        const int64_t row = i * f->room;
        const struct mabn_net_rois rois = {
            f->room, f->box + 4 * row, f->image + row, f->level + row, true, f->live + i};
        mabn_rcnn_bind(r, r->mask_net, &r->mask_head, &rois);
        MABN_TRY(mabn_net_queue_forward(r->mask_net));
        const struct mabn_net_output all = mabn_net_output_of(r->mask_net, "mask_logits");
        MABN_TRY(mabn_cuda_paste_select((float *)(d->base + d->at.mask) + row * MASK_PIXELS,
                                        all.values, f->label + row, r->convention->background_last,
                                        f->room, MASK_PIXELS, all.c, d->stream));
    }
    return MABN_OK;
}

static mabn_status queue(struct detecting *d)
{
    struct mabn_rcnn *r = d->r;
    MABN_TRY(mark(d));
    MABN_TRY(r->options.losses ? mabn_rcnn_cuda_measure_body(r)
                               : mabn_net_queue_forward(r->body->net));
    MABN_TRY(mark(d));
    MABN_TRY(mabn_cuda_proposals_make(&d->proposals, &d->maps, &d->proposing, r->convention,
                                      d->base + d->at.scratch, d->stream));
    MABN_TRY(mark(d));
    MABN_TRY(queue_boxes(d));
    MABN_TRY(mark(d));
    MABN_TRY(mabn_cuda_detections_make(&d->found, &d->scores, &d->choosing, r->convention,
                                       d->base + d->at.scratch, d->stream));
    MABN_TRY(mark(d));
    MABN_TRY(queue_masks(d));
    MABN_TRY(mark(d));
    return r->options.losses ? mabn_rcnn_cuda_measure_heads(r) : MABN_OK;
}

static mabn_status ready_plans(struct mabn_rcnn *r)
{
    MABN_TRY(mabn_net_queue_ready(r->body->net));
    MABN_TRY(mabn_net_queue_ready(r->box_net));
    return r->mask_net ? mabn_net_queue_ready(r->mask_net) : MABN_OK;
}

static mabn_status run(struct detecting *d)
{
    struct rcnn_graph_key key = rcnn_graph_key_of(d->r);
    if (d->slot->timed || d->r->cuda->no_graphs) return queue(d);
    key.memory[0] = d->base;
    if (d->r->options.losses) mabn_rcnn_cuda_truth_key(d->r, &key);
    return rcnn_graph_run(d->r, key, &d->r->cuda->no_graphs, [&] { return queue(d); });
}

static mabn_status tell_seconds(const struct slot *slot, struct mabn_rcnn_figures *f)
{
    static const enum mabn_rcnn_part parts[] = {MABN_RCNN_PART_BODY, MABN_RCNN_PART_PROPOSALS,
                                                MABN_RCNN_PART_BOX_HEAD, MABN_RCNN_PART_DETECTIONS,
                                                MABN_RCNN_PART_MASK_HEAD};
    for (int k = 0; k + 1 < MARKS && slot->timed; k++) {
        double seconds;
        MABN_TRY(mabn_cuda_event_seconds(&seconds, slot->marks[k], slot->marks[k + 1]));
        f->seconds[parts[k]] += seconds;
    }
    return MABN_OK;
}

/* From what the host sees. */
static mabn_status tell(const struct detecting *d, const struct slot *slot,
                        struct mabn_rcnn_found *found, bool *all, struct mabn_rcnn_figures *f)
{
    const char *seen = (const char *)slot->fetched.base;
    const int32_t *count = (const int32_t *)(seen + d->at.count);
    const int64_t images = d->scores.images;
    f->proposals = f->boxes = ((const int32_t *)(seen + d->at.first))[images];
    MABN_TRY(tell_seconds(slot, f));
    *all = true;
    for (int64_t i = 0; i < images; i++) {
        const size_t row = (size_t)(i * d->found.room);
        *all = *all && count[i] <= d->found.room;
        if (!*all) return MABN_OK;
        mabn_detections_set(&found[i].boxes, count[i], (const float *)(seen + d->at.box) + 4 * row,
                            (const float *)(seen + d->at.score) + row,
                            (const int32_t *)(seen + d->at.label) + row,
                            (const int32_t *)(seen + d->at.source) + row);
    }
    return MABN_OK;
}

bool mabn_rcnn_cuda_detects(struct mabn_rcnn *r)
{
    struct detecting d;
    if ((r->options.losses && !mabn_rcnn_cuda_measures(r)) || prepare(&d, r)) return false;
    return mabn_cuda_proposals_fit(&d.maps, &d.proposing) &&
           mabn_cuda_detections_fit(d.scores.images, d.scores.most, &d.choosing, r->convention);
}

mabn_status mabn_rcnn_cuda_detect_begin(struct mabn_rcnn *r, const struct mabn_rcnn_image *images)
{
    struct detecting d;
    MABN_TRY(prepare(&d, r));
    MABN_TRY(place(&d));
    MABN_TRY(take_slot(&d, images));
    if (r->options.losses) MABN_TRY(mabn_rcnn_cuda_measure_begin(r, images));
    MABN_TRY(ready_plans(r));
    MABN_TRY(run(&d));
    mabn_net_queued(r->body->net);
    mabn_net_queued(r->box_net);
    if (r->mask_net) mabn_net_queued(r->mask_net);
    MABN_TRY(mabn_cuda_copy_out(r->device, d.slot->fetched.base, d.base, d.at.seen, d.stream));
    MABN_TRY(mabn_cuda_event_record(d.slot->done, d.stream));
    if (r->options.losses) MABN_TRY(mabn_rcnn_cuda_measure_end(r));
    r->cuda->begun++;
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_detect_result(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                                         bool *all, struct mabn_rcnn_figures *f)
{
    struct rcnn_cuda *c = r->cuda;
    const struct slot *slot = c->seen = &c->slots[c->told++ % SLOTS];
    struct detecting d;
    MABN_TRY(prepare(&d, r));
    d.at = lay_out_found(r, (size_t)d.proposals.room, 0);
    MABN_TRY(mabn_cuda_event_wait(slot->done));
    if (r->options.losses) MABN_TRY(mabn_rcnn_cuda_measured(r, f));
    return tell(&d, slot, found, all, f);
}

const float *mabn_rcnn_cuda_found_masks(const struct mabn_rcnn *r, int image)
{
    const struct found_layout at = lay_out_found(r, (size_t)most_proposals(r), 0);
    return (const float *)((const char *)r->cuda->seen->fetched.base + at.mask) +
           (int64_t)image * r->mask_room * MASK_PIXELS;
}

/* ---- masks ---- */

/* Offsets for n masks, on the device or on the host, in bytes. `map` also serves for logits. */
struct mask_layout {
    size_t map, box, channel, count, first, bytes;
};

static struct mask_layout lay_out_masks(size_t n)
{
    struct mask_layout l;
    size_t at = 0;
    l.map = piece(&at, n * MASK_PIXELS * sizeof(float));
    l.box = piece(&at, n * 4 * sizeof(float));
    l.channel = piece(&at, n * sizeof(int32_t));
    l.count = piece(&at, n * sizeof(int32_t));
    l.first = piece(&at, n * sizeof(int64_t));
    l.bytes = at;
    return l;
}

mabn_status mabn_rcnn_cuda_mask_logits(struct mabn_rcnn *r, float *logit,
                                       const struct mabn_net_output *all, const int32_t *label,
                                       int64_t n)
{
    const struct mask_layout at = lay_out_masks((size_t)n);
    struct rcnn_cuda *c = cuda_of(r);
    int32_t *channel;
    MABN_TRY(need_room(r, &c->masks, at.bytes));
    float *maps = (float *)((char *)c->masks.base + at.map);
    int32_t *channels = (int32_t *)((char *)c->masks.base + at.channel);
    MABN_TRY(mabn_scratch_take(&r->scratch, &channel, (size_t)n, sizeof *channel));
    for (int64_t i = 0; i < n; i++) {
        channel[i] = all->c == 1 ? 0 : label[i] - r->convention->background_last;
        if (channel[i] < 0 || channel[i] >= all->c)
            return mabn_fail(MABN_ERR_ARG, "detection %lld: class %d, masks of %lld classes",
                             (long long)i, (int)label[i], (long long)all->c);
    }
    MABN_TRY(mabn_device_put(r->device, channels, channel, (size_t)n * sizeof *channel));
    MABN_TRY(mabn_cuda_paste_select(maps, all->values, channels, 0, n, MASK_PIXELS, all->c,
                                    mabn_cuda_stream(r->device)));
    return mabn_device_get(r->device, logit, maps, (size_t)n * MASK_PIXELS * sizeof *logit);
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

/* A picture's masks being pasted, in the stream of copies: the next picture is computed beside it. */
struct pasting {
    struct mabn_rcnn *r;
    const struct mabn_rcnn_size *size;
    void *stream;
    struct mask_layout at;
    char *there, *here; /* the pieces, on the device and pinned */
    struct mabn_cuda_paste paste;
};

static mabn_status start_pasting(struct pasting *p, struct mabn_rcnn *r, size_t n,
                                 const struct mabn_rcnn_size *size)
{
    struct rcnn_cuda *c = cuda_of(r);
    *p = {};
    p->r = r;
    p->size = size;
    p->stream = mabn_cuda_copy_stream(r->device);
    p->at = lay_out_masks(n);
    MABN_TRY(need_room(r, &c->masks, p->at.bytes));
    MABN_TRY(need_pinned(r, &c->masks_here, p->at.bytes));
    if (!c->pasted) MABN_TRY(mabn_cuda_event_new(&c->pasted, r->device, false));
    p->there = (char *)c->masks.base;
    p->here = (char *)c->masks_here.base;
    p->paste = {(const float *)(p->there + p->at.map),
                (const float *)(p->there + p->at.box),
                (int64_t)n,
                RCNN_MASK_SIDE,
                size->width,
                size->height};
    return MABN_OK;
}

static mabn_status wait_for_pasting(const struct pasting *p)
{
    MABN_TRY(mabn_cuda_event_record(p->r->cuda->pasted, p->stream));
    return mabn_cuda_event_wait(p->r->cuda->pasted);
}

/* Count the changes of each mask, from its map and box, which are still on the host. */
static mabn_status count_changes(const struct pasting *p)
{
    struct mabn_device *device = p->r->device;
    const size_t counts = (size_t)p->paste.n * sizeof(int32_t);
    MABN_TRY(mabn_cuda_copy_in(device, p->there, p->here, p->at.channel, p->stream));
    MABN_TRY(mabn_cuda_paste_count((int32_t *)(p->there + p->at.count), &p->paste, p->r->convention,
                                   p->stream));
    MABN_TRY(mabn_cuda_copy_out(device, p->here + p->at.count, p->there + p->at.count, counts,
                                p->stream));
    return wait_for_pasting(p);
}

/* Find the places of all changes; those of a mask begin at its `first`. */
static mabn_status find_changes(const struct pasting *p, size_t all)
{
    struct rcnn_cuda *c = p->r->cuda;
    struct mabn_device *device = p->r->device;
    const size_t bytes = all * sizeof(uint32_t), firsts = (size_t)p->paste.n * sizeof(int64_t);
    MABN_TRY(need_room(p->r, &c->places, bytes + 1));
    MABN_TRY(need_pinned(p->r, &c->places_here, bytes + 1));
    MABN_TRY(mabn_cuda_copy_in(device, p->there + p->at.first, p->here + p->at.first, firsts,
                               p->stream));
    MABN_TRY(mabn_cuda_paste_places((uint32_t *)c->places.base,
                                    (const int64_t *)(p->there + p->at.first), &p->paste,
                                    p->r->convention, p->stream));
    MABN_TRY(mabn_cuda_copy_out(device, c->places_here.base, c->places.base, bytes, p->stream));
    return wait_for_pasting(p);
}

static mabn_status paste_masks(const struct pasting *p, struct mabn_rcnn_found *found)
{
    const int32_t *count = (const int32_t *)(p->here + p->at.count);
    int64_t *first = (int64_t *)(p->here + p->at.first), all = 0;
    MABN_TRY(count_changes(p));
    for (int64_t i = 0; i < p->paste.n; i++) {
        first[i] = all;
        all += count[i];
    }
    MABN_TRY(find_changes(p, (size_t)all));
    uint32_t *place = (uint32_t *)p->r->cuda->places_here.base;
    for (int64_t i = 0; i < p->paste.n; i++)
        MABN_TRY(make_rle(&found->masks[i], place + first[i], count[i], p->size));
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_paste(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                                 const struct mabn_rcnn_size *size, const float *probability)
{
    const struct mabn_detections *d = &found->boxes;
    const size_t n = (size_t)d->count;
    struct pasting p;
    if (!n) return MABN_OK;
    MABN_TRY(start_pasting(&p, r, n, size));
    float *maps = (float *)(p.here + p.at.map);
    for (size_t k = 0; k < n; k++)
        memcpy(maps + k * MASK_PIXELS, probability + d->mask[k] * MASK_PIXELS,
               MASK_PIXELS * sizeof *maps);
    memcpy(p.here + p.at.box, d->box, n * 4 * sizeof *d->box);
    return paste_masks(&p, found);
}
