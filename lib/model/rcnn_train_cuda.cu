/* A step of training a detector on a GPU: everything that rcnn_train.c does between the plans is queued
 * there as well, and the host waits for nothing.
 *
 * The true boxes, labels and masks go to the device in one block. It has room for a power of two of each,
 * so that most steps use the same addresses. Losses, counts and normalizers stay on the device; a last
 * kernel gathers the results for the host. Heads run over all the rows that they have room for; only the
 * device knows how many of them are in use. If the CPU makes the proposals, the host waits for the maps in
 * the middle of the step. Otherwise a step of each shape is a CUDA graph.
 *
 * In testing with losses rcnn_cuda.cu puts the forward half of this between its own parts. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "detect/box_targets_cuda.h"
#include "detect/detect_cuda.h"
#include "detect/proposals_cuda.h"
#include "detect/rpn_targets_cuda.h"
#include "device/cuda.h"
#include "device/launch.cuh"
#include "model/rcnn_graph.cuh"
#include "model/rcnn_cuda.h"
#include "net/losses.h"
#include "net/queue.h"
#include "ops/ops_cuda.h"

namespace
{

enum { SLOTS = 2, APART = SLOTS, MARKS = 12, MASK_PIXELS = RCNN_MASK_SIDE * RCNN_MASK_SIDE };
enum { RPN, BOXES, MASKS, NORMALIZERS };

struct room {
    char *base;
    size_t bytes;
};

/* The same layout on the device and on the host. */
struct results {
    double loss[MABN_RCNN_LOSSES];
    int64_t rpn_sampled, rpn_positives, proposals, boxes, positives;
};

/* A step under way: its block of truth (boxes, labels, masks) and its results, in pinned memory. */
struct slot {
    void *truth;
    size_t truth_bytes;
    struct results *results;
    struct mabn_cuda_event *done;
};

/* For how many of each the block of truth has room: powers of two. */
struct sizes {
    size_t most; /* objects of an image */
    size_t objects, polygons, numbers;
};

/* Offsets of the pieces in the block of truth, and its size, in bytes. */
struct truth_layout {
    size_t first, box, label, sizes, rng, first_polygon, first_number, numbers, bytes;
};

/* What a step works on, on the device. */
struct pieces {
    struct mabn_cuda_truth rpn_truth;
    struct mabn_cuda_objects objects;
    struct mabn_cuda_rpn_targets rpn;
    struct mabn_cuda_proposals proposals;
    struct mabn_cuda_box_targets boxes;
    uint8_t *masks;     /* (mask room,28,28) */
    float *normalizers; /* (NORMALIZERS) */
    struct results *results;
    void *scratch;
};

} // namespace

struct rcnn_train {
    struct slot slots[SLOTS + 1]; /* the last is for calls that wait for their result */
    int64_t begun, fetched;
    struct room truth, work; /* on the device */
    struct sizes sizes;
    struct pieces now; /* of the step begun last */
    struct results last;
    bool no_graphs; /* capturing has failed */
    struct mabn_cuda_event *marks[MARKS];
    enum mabn_rcnn_part parts[MARKS]; /* what ends at a mark */
    int mark_count;
};

namespace
{

/* ---- life ---- */

mabn_status get_train(struct mabn_rcnn *r, struct rcnn_train **out)
{
    struct rcnn_train *t = *out = r->train;
    if (t) return MABN_OK;
    t = *out = r->train = (struct rcnn_train *)mabn_xcalloc(1, sizeof *t);
    for (struct slot &slot : t->slots) {
        void *p;
        MABN_TRY(mabn_cuda_host_alloc(r->device, &p, sizeof *slot.results));
        slot.results = (struct results *)p;
        MABN_TRY(mabn_cuda_event_new(&slot.done, r->device, false));
    }
    return MABN_OK;
}

mabn_status need_room(struct mabn_rcnn *r, struct room *room, size_t bytes)
{
    void *p;
    if (bytes <= room->bytes) return MABN_OK;
    MABN_TRY(mabn_device_wait(r->device)); /* steps under way use it */
    mabn_device_release(r->device, room->base, room->bytes);
    *room = {};
    MABN_TRY(mabn_device_alloc(r->device, &p, bytes));
    room->base = (char *)p;
    room->bytes = bytes;
    return MABN_OK;
}

/* ---- what is true ---- */

size_t piece(size_t *at, size_t bytes)
{
    const size_t begin = *at;
    *at += (bytes + 255) & ~(size_t)255;
    return begin;
}

void grow(size_t *capacity, size_t need)
{
    if (!*capacity) *capacity = 8;
    while (*capacity < need)
        *capacity *= 2;
}

void grow_sizes(struct sizes *s, const struct mabn_rcnn_image *images, int n)
{
    size_t objects = 0, polygons = 0, numbers = 0;
    for (int i = 0; i < n; i++) {
        const struct mabn_rcnn_image *image = &images[i];
        objects += (size_t)image->count;
        grow(&s->most, (size_t)image->count);
        if (!image->first_polygon) continue;
        polygons += image->first_polygon[image->count] - image->first_polygon[0];
        numbers += image->first_number[image->first_polygon[image->count]] -
                   image->first_number[image->first_polygon[0]];
    }
    grow(&s->objects, objects);
    grow(&s->polygons, polygons);
    grow(&s->numbers, numbers);
}

struct truth_layout lay_out_truth(const struct sizes *s, size_t images)
{
    struct truth_layout l;
    size_t at = 0;
    l.first = piece(&at, (images + 1) * sizeof(int32_t));
    l.box = piece(&at, s->objects * 4 * sizeof(float));
    l.label = piece(&at, s->objects * sizeof(int32_t));
    l.sizes = piece(&at, 2 * images * sizeof(int));
    l.rng = piece(&at, 2 * images * sizeof(struct mabn_rng));
    l.first_polygon = piece(&at, (s->objects + 1) * sizeof(uint32_t));
    l.first_number = piece(&at, (s->polygons + 1) * sizeof(uint32_t));
    l.numbers = piece(&at, s->numbers * sizeof(float));
    l.bytes = at;
    return l;
}

/* An image's outlines behind those of the images before, which end at these polygons and numbers. */
void pack_outlines(char *to, const struct truth_layout *l, const struct mabn_rcnn_image *image,
                   size_t object, uint32_t *polygons, uint32_t *numbers)
{
    uint32_t *first_polygon = (uint32_t *)(to + l->first_polygon) + object;
    uint32_t *first_number = (uint32_t *)(to + l->first_number);
    float *all = (float *)(to + l->numbers);
    for (int k = 0; k < image->count; k++) {
        for (uint32_t p = image->first_polygon[k]; p < image->first_polygon[k + 1]; p++) {
            const uint32_t begin = image->first_number[p], n = image->first_number[p + 1] - begin;
            memcpy(all + *numbers, image->numbers + begin, n * sizeof *all);
            *numbers += n;
            first_number[++*polygons] = *numbers;
        }
        first_polygon[k + 1] = *polygons;
    }
}

void pack_truth(char *to, const struct truth_layout *l, const struct mabn_rcnn *r,
                const struct mabn_rcnn_image *images, uint64_t step)
{
    const int n = r->body->images;
    int32_t *first = (int32_t *)(to + l->first);
    int *sizes = (int *)(to + l->sizes);
    struct mabn_rng *rng = (struct mabn_rng *)(to + l->rng);
    uint32_t polygons = 0, numbers = 0;
    first[0] = 0;
    *(uint32_t *)(to + l->first_polygon) = *(uint32_t *)(to + l->first_number) = 0;
    for (int i = 0; i < n; i++) {
        const struct mabn_rcnn_image *image = &images[i];
        const size_t objects = (size_t)image->count, before = (size_t)first[i];
        first[i + 1] = first[i] + image->count;
        if (objects) {
            memcpy(to + l->box + before * 4 * sizeof(float), image->boxes,
                   objects * 4 * sizeof(float));
            memcpy(to + l->label + before * sizeof(int32_t), image->labels,
                   objects * sizeof(int32_t));
        }
        if (image->first_polygon) pack_outlines(to, l, image, before, &polygons, &numbers);
        sizes[i] = image->width;
        sizes[n + i] = image->height;
        for (int stage = 0; stage < 2; stage++) {
            const struct mabn_sample_key key = {r->options.seed, step, image->number,
                                                stage ? MABN_SAMPLE_BOXES : MABN_SAMPLE_RPN};
            mabn_sample_stream(&rng[stage * n + i], &key);
        }
    }
}

mabn_status put_truth(struct mabn_rcnn *r, struct slot *slot, const struct mabn_rcnn_image *images,
                      uint64_t step)
{
    struct rcnn_train *t = r->train;
    const size_t n = (size_t)r->body->images;
    for (size_t i = 0; i < n && r->mask_net; i++)
        if (!images[i].first_polygon)
            return mabn_fail(MABN_ERR_ARG, "a picture without masks in a detector of masks");
    grow_sizes(&t->sizes, images, (int)n);
    const struct truth_layout l = lay_out_truth(&t->sizes, n);
    MABN_TRY(need_room(r, &t->truth, l.bytes));
    if (l.bytes > slot->truth_bytes) {
        mabn_cuda_host_release(r->device, slot->truth);
        slot->truth_bytes = 0;
        MABN_TRY(mabn_cuda_host_alloc(r->device, &slot->truth, l.bytes));
        slot->truth_bytes = l.bytes;
    }
    pack_truth((char *)slot->truth, &l, r, images, step);
    char *base = t->truth.base;
    struct mabn_cuda_objects *o = &t->now.objects;
    o->images = (int64_t)n;
    o->first = (const int32_t *)(base + l.first);
    o->box = (const float *)(base + l.box);
    o->label = (const int32_t *)(base + l.label);
    o->width = (const int *)(base + l.sizes);
    o->height = o->width + n;
    o->rng = (const struct mabn_rng *)(base + l.rng) + n;
    o->first_polygon = r->mask_net ? (const uint32_t *)(base + l.first_polygon) : NULL;
    o->first_number = (const uint32_t *)(base + l.first_number);
    o->numbers = (const float *)(base + l.numbers);
    t->now.rpn_truth = {(int64_t)n, (int64_t)t->sizes.most, o->first, o->box, o->width, o->height,
                        o->rng - n};
    return mabn_cuda_copy_in(r->device, base, slot->truth, l.bytes, mabn_cuda_stream(r->device));
}

/* ---- memory ---- */

size_t max_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* A piece of the memory at `base`, which may be NULL. */
template <typename T> void take(T **out, char *base, size_t *at, size_t count)
{
    const size_t begin = piece(at, count * sizeof **out);
    *out = (T *)(base ? base + begin : NULL);
}

size_t lay_out(struct pieces *p, char *base, const struct mabn_rcnn *r, const struct rcnn_train *t,
               const struct mabn_rpn_maps *maps, const struct mabn_proposal_options *options)
{
    const size_t images = (size_t)r->body->images, anchors = images * (size_t)r->body->anchor_count;
    const size_t rows = (size_t)r->box_room, masks = (size_t)r->mask_room;
    const bool fits = mabn_cuda_proposals_fit(maps, options);
    size_t at = 0;
    p->proposals.room = mabn_proposals_room(maps, options) + (int64_t)t->sizes.most;
    p->boxes.room = r->box_room;
    p->boxes.mask_room = r->mask_net ? r->mask_room : 0;
    const size_t proposals = images * (size_t)p->proposals.room;
    take(&p->rpn.target, base, &at, anchors);
    take(&p->rpn.weight, base, &at, anchors);
    take(&p->rpn.box_weight, base, &at, anchors);
    take(&p->rpn.delta, base, &at, 4 * anchors);
    take(&p->rpn.sampled, base, &at, 2 * images);
    p->rpn.positives = base ? p->rpn.sampled + images : NULL;
    take(&p->proposals.box, base, &at, 4 * proposals);
    take(&p->proposals.score, base, &at, proposals);
    take(&p->proposals.count, base, &at, images);
    take(&p->boxes.box, base, &at, 4 * rows);
    take(&p->boxes.image, base, &at, rows);
    take(&p->boxes.level, base, &at, rows);
    take(&p->boxes.label, base, &at, rows);
    take(&p->boxes.delta, base, &at, 4 * rows);
    take(&p->boxes.weight, base, &at, rows);
    take(&p->boxes.mask_box, base, &at, 4 * masks);
    take(&p->boxes.mask_image, base, &at, masks);
    take(&p->boxes.mask_level, base, &at, masks);
    take(&p->boxes.mask_label, base, &at, masks);
    take(&p->boxes.mask_object, base, &at, masks);
    take(&p->boxes.counts, base, &at, 2);
    take(&p->masks, base, &at, masks * MASK_PIXELS);
    take(&p->normalizers, base, &at, NORMALIZERS);
    take(&p->results, base, &at, 1);
    size_t scratch =
        mabn_cuda_rpn_targets_bytes((int64_t)images, r->body->anchor_count, (int64_t)t->sizes.most);
    scratch = max_of(scratch, mabn_cuda_box_targets_bytes((int64_t)images, p->proposals.room));
    if (fits) scratch = max_of(scratch, mabn_cuda_proposals_bytes(maps, options));
    p->scratch = base ? base + piece(&at, scratch) : (piece(&at, scratch), (void *)NULL);
    return at;
}

mabn_status get_pieces(struct mabn_rcnn *r, const struct mabn_rpn_maps *maps,
                       const struct mabn_proposal_options *options)
{
    struct rcnn_train *t = r->train;
    MABN_TRY(need_room(r, &t->work, lay_out(&t->now, NULL, r, t, maps, options)));
    lay_out(&t->now, t->work.base, r, t, maps, options);
    return MABN_OK;
}

/* ---- kernels ---- */

/* `fixed` if that is > 0, otherwise `each` times the sum of n counts. */
__global__ void normalizer_kernel(float *to, const int32_t *counts, int n, float each, float fixed)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += counts[i];
    *to = fixed > 0 ? fixed : each * (float)sum;
}

struct gathered {
    const double *sum[MABN_RCNN_LOSSES][MABN_DETECTOR_LEVELS]; /* those that are not NULL */
    const float *normalizer[MABN_RCNN_LOSSES];
    const int32_t *rpn, *proposals, *boxes, *first;
    int images;
};

__global__ void gather_kernel(struct results *out, struct gathered in)
{
    struct results r = {};
    for (int k = 0; k < MABN_RCNN_LOSSES; k++)
        for (int l = 0; l < MABN_DETECTOR_LEVELS && in.sum[k][l]; l++)
            r.loss[k] +=
                *in.normalizer[k] > 0 ? *in.sum[k][l] * (1 / (double)*in.normalizer[k]) : 0;
    for (int i = 0; i < in.images; i++) {
        r.rpn_sampled += in.rpn[i];
        r.rpn_positives += in.rpn[in.images + i];
        r.proposals += in.proposals[i];
    }
    r.proposals -= in.first[in.images]; /* the true boxes, which joined them */
    r.boxes = in.boxes[0];
    r.positives = in.boxes[1];
    *out = r;
}

/* ---- parts of a step ---- */

mabn_status mark(struct mabn_rcnn *r, enum mabn_rcnn_part part)
{
    struct rcnn_train *t = r->train;
    if (!r->timed) return MABN_OK;
    if (t->mark_count == MARKS) MABN_BUG("a step of more than %d parts", MARKS);
    if (!t->marks[t->mark_count])
        MABN_TRY(mabn_cuda_event_new(&t->marks[t->mark_count], r->device, true));
    t->parts[t->mark_count] = part;
    return mabn_cuda_event_record(t->marks[t->mark_count++], mabn_cuda_stream(r->device));
}

mabn_status normalize(struct mabn_rcnn *r, int which, const int32_t *counts, int n, double each,
                      double fixed)
{
    return MABN_LAUNCH(normalizer_kernel, 1, 1, 0, (cudaStream_t)mabn_cuda_stream(r->device),
                       r->train->now.normalizers + which, counts, n, (float)each, (float)fixed);
}

void set_rpn_targets(struct mabn_rcnn *r)
{
    const struct pieces *p = &r->train->now;
    int64_t before = 0;
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++) {
        struct mabn_net_sigmoid_targets objectness = {};
        struct mabn_net_box_targets boxes = {};
        objectness.target = p->rpn.target + before;
        objectness.weight = p->rpn.weight + before;
        boxes.target = p->rpn.delta + 4 * before;
        boxes.weight = p->rpn.box_weight + before;
        objectness.on_device = boxes.on_device = true;
        objectness.normalizer_at = boxes.normalizer_at = p->normalizers + RPN;
        mabn_rcnn_set_level_targets(r, l, &objectness, &boxes);
        before += r->body->level_anchors[l] * r->body->images;
    }
}

mabn_status run_body(struct mabn_rcnn *r)
{
    const struct mabn_rpn_target_options options = mabn_rcnn_rpn_options(r);
    const struct pieces *p = &r->train->now;
    const int images = r->body->images;
    const double fixed =
        r->convention->mean_over_capacity ? (double)r->detector.rpn_batch * images : 0;
    MABN_TRY(mabn_cuda_rpn_targets_make(&p->rpn, r->body->gpu_anchors, r->body->level_anchors,
                                        MABN_DETECTOR_LEVELS, &p->rpn_truth, &options,
                                        r->convention, p->scratch, mabn_cuda_stream(r->device)));
    MABN_TRY(normalize(r, RPN, p->rpn.sampled, images, 1, fixed));
    set_rpn_targets(r);
    MABN_TRY(mark(r, MABN_RCNN_PART_TARGETS));
    MABN_TRY(mabn_net_queue_forward(r->body->net));
    return mark(r, MABN_RCNN_PART_BODY);
}

/* By the CPU, which waits for the maps. */
mabn_status propose_here(struct mabn_rcnn *r, const struct mabn_rcnn_image *images)
{
    const struct mabn_cuda_proposals *to = &r->train->now.proposals;
    MABN_TRY(mabn_rcnn_propose(r, images, true));
    for (int i = 0; i < r->body->images; i++) {
        const struct mabn_proposals *from = &r->proposals;
        const int32_t count = (int32_t)from->count[i];
        const size_t n = (size_t)count;
        MABN_TRY(mabn_device_put(r->device, to->box + 4 * i * to->room,
                                 from->box + 4 * i * from->room, n * 4 * sizeof(float)));
        MABN_TRY(mabn_device_put(r->device, to->score + i * to->room, from->score + i * from->room,
                                 n * sizeof(float)));
        MABN_TRY(mabn_device_put(r->device, to->count + i, &count, sizeof count));
    }
    return MABN_OK;
}

mabn_status propose(struct mabn_rcnn *r, const struct mabn_rcnn_image *images)
{
    const struct mabn_proposal_options options = mabn_rcnn_proposal_options(r, true);
    struct pieces *p = &r->train->now;
    struct mabn_rpn_maps maps;
    MABN_TRY(mabn_rcnn_find_maps(r, &maps, false));
    if (!mabn_cuda_proposals_fit(&maps, &options)) return propose_here(r, images);
    maps.width = p->objects.width;
    maps.height = p->objects.height;
    maps.anchor = r->body->gpu_anchors;
    return mabn_cuda_proposals_make(&p->proposals, &maps, &options, r->convention, p->scratch,
                                    mabn_cuda_stream(r->device));
}

mabn_status make_targets(struct mabn_rcnn *r)
{
    const struct mabn_box_target_options options = mabn_rcnn_box_options(r);
    const struct pieces *p = &r->train->now;
    void *stream = mabn_cuda_stream(r->device);
    MABN_TRY(mabn_cuda_box_targets_make(&p->boxes, &p->proposals, &p->objects, &options,
                                        r->convention, p->scratch, stream));
    MABN_TRY(normalize(r, BOXES, p->boxes.counts, 1, 1, 0));
    MABN_TRY(normalize(r, MASKS, p->boxes.counts + 1, 1, MASK_PIXELS, 0));
    if (!r->mask_net) return MABN_OK;
    return mabn_cuda_mask_targets_fill(p->masks, RCNN_MASK_SIDE, &p->boxes, &p->objects,
                                       r->convention, stream);
}

/* The heads add to the gradients of the pyramid. */
mabn_status clear_pyramid(struct mabn_rcnn *r)
{
    for (int i = 0; i < MABN_DETECTOR_POOLED; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i + 2);
        const struct mabn_net_output p = mabn_net_output_of(r->body->net, name);
        if (p.gradient)
            MABN_CUDA_TRY(cudaMemsetAsync(
                p.gradient, 0, (size_t)(p.n * p.h * p.w * p.c) * mabn_dtype_size(p.dtype),
                (cudaStream_t)mabn_cuda_stream(r->device)));
    }
    return MABN_OK;
}

bool goes_back(const struct mabn_rcnn *r)
{
    return r->options.training && !r->options.measures;
}

mabn_status run_head(const struct mabn_rcnn *r, struct mabn_net *net)
{
    MABN_TRY(mabn_net_queue_forward(net));
    return goes_back(r) ? mabn_net_queue_backward(net) : MABN_OK;
}

mabn_status run_boxes(struct mabn_rcnn *r)
{
    const struct mabn_cuda_box_targets *b = &r->train->now.boxes;
    const float *normalizer = r->train->now.normalizers + BOXES;
    const struct mabn_net_rois rois = {b->room, b->box, b->image, b->level, true, b->counts};
    struct mabn_net_labels labels = {};
    struct mabn_net_box_targets boxes = {};
    mabn_rcnn_bind(r, r->box_net, &r->box_head, &rois);
    labels.labels = b->label;
    boxes.target = b->delta;
    boxes.weight = b->weight;
    boxes.group = b->label;
    labels.on_device = boxes.on_device = true;
    labels.normalizer_at = boxes.normalizer_at = normalizer;
    mabn_net_set_labels(r->box_net, "loss_classifier", &labels);
    mabn_net_set_box_targets(r->box_net, "loss_box_reg", &boxes);
    MABN_TRY(run_head(r, r->box_net));
    return mark(r, MABN_RCNN_PART_BOX_HEAD);
}

mabn_status run_masks(struct mabn_rcnn *r)
{
    const struct mabn_cuda_box_targets *b = &r->train->now.boxes;
    const struct mabn_net_rois rois = {b->mask_room,  b->mask_box, b->mask_image,
                                       b->mask_level, true,        b->counts + 1};
    struct mabn_net_sigmoid_targets targets = {};
    mabn_rcnn_bind(r, r->mask_net, &r->mask_head, &rois);
    targets.channel = b->mask_label;
    targets.bits = r->train->now.masks;
    targets.on_device = true;
    targets.normalizer_at = r->train->now.normalizers + MASKS;
    mabn_net_set_sigmoid_targets(r->mask_net, "loss_mask", &targets);
    MABN_TRY(run_head(r, r->mask_net));
    return mark(r, MABN_RCNN_PART_MASK_HEAD);
}

mabn_status gather(struct mabn_rcnn *r)
{
    const struct pieces *p = &r->train->now;
    struct gathered in = {};
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++) {
        char name[32];
        snprintf(name, sizeof name, "loss_objectness%d", l + 2);
        in.sum[MABN_RCNN_OBJECTNESS][l] = mabn_net_queue_loss(r->body->net, name);
        snprintf(name, sizeof name, "loss_rpn_box_reg%d", l + 2);
        in.sum[MABN_RCNN_RPN_BOX][l] = mabn_net_queue_loss(r->body->net, name);
    }
    in.sum[MABN_RCNN_CLASSIFIER][0] = mabn_net_queue_loss(r->box_net, "loss_classifier");
    in.sum[MABN_RCNN_BOX][0] = mabn_net_queue_loss(r->box_net, "loss_box_reg");
    if (r->mask_net) in.sum[MABN_RCNN_MASK][0] = mabn_net_queue_loss(r->mask_net, "loss_mask");
    in.normalizer[MABN_RCNN_OBJECTNESS] = in.normalizer[MABN_RCNN_RPN_BOX] = p->normalizers + RPN;
    in.normalizer[MABN_RCNN_CLASSIFIER] = in.normalizer[MABN_RCNN_BOX] = p->normalizers + BOXES;
    in.normalizer[MABN_RCNN_MASK] = p->normalizers + MASKS;
    in.rpn = p->rpn.sampled;
    in.proposals = p->proposals.count;
    in.boxes = p->boxes.counts;
    in.first = p->objects.first;
    in.images = r->body->images;
    return MABN_LAUNCH(gather_kernel, 1, 1, 0, (cudaStream_t)mabn_cuda_stream(r->device),
                       p->results, in);
}

/* Queue everything between the copy to the device and the copy of the results back. */
mabn_status queue(struct mabn_rcnn *r, const struct mabn_rcnn_image *images)
{
    MABN_TRY(run_body(r));
    MABN_TRY(propose(r, images));
    MABN_TRY(mark(r, MABN_RCNN_PART_PROPOSALS));
    MABN_TRY(make_targets(r));
    if (goes_back(r)) MABN_TRY(clear_pyramid(r));
    MABN_TRY(mark(r, MABN_RCNN_PART_TARGETS));
    MABN_TRY(run_boxes(r));
    if (r->mask_net) MABN_TRY(run_masks(r));
    mabn_net_tell_gradients(r->body->net, r->ready, r->ready_context);
    if (goes_back(r)) MABN_TRY(mabn_net_queue_backward(r->body->net));
    MABN_TRY(gather(r));
    return mark(r, MABN_RCNN_PART_BODY);
}

/* ---- the same as a graph ---- */

struct rcnn_graph_key key_of(const struct mabn_rcnn *r)
{
    struct rcnn_graph_key key = rcnn_graph_key_of(r);
    key.tells = r->ready && goes_back(r);
    mabn_rcnn_cuda_truth_key(r, &key);
    return key;
}

/* Can a step be captured, because nothing in it waits for the host? */
bool can_capture(struct mabn_rcnn *r, const struct mabn_rpn_maps *maps,
                 const struct mabn_proposal_options *options)
{
    const bool queues = !r->options.sync || r->options.sync->queues;
    return queues && !r->train->no_graphs && !r->timed && mabn_cuda_proposals_fit(maps, options);
}

mabn_status ready_plans(struct mabn_rcnn *r)
{
    MABN_TRY(mabn_net_queue_ready(r->body->net));
    MABN_TRY(mabn_net_queue_ready(r->box_net));
    return r->mask_net ? mabn_net_queue_ready(r->mask_net) : MABN_OK;
}

void count_plans(struct mabn_rcnn *r)
{
    mabn_net_queued(r->body->net);
    mabn_net_queued(r->box_net);
    if (r->mask_net) mabn_net_queued(r->mask_net);
}

} // namespace

void mabn_rcnn_cuda_graph_free(struct rcnn_body *body)
{
    if (!body->graph) return;
    for (const struct rcnn_graph_kind &kind : body->graph->kinds)
        mabn_cuda_graph_free(kind.graph);
    free(body->graph);
    body->graph = NULL;
}

void mabn_rcnn_cuda_train_free(struct mabn_rcnn *r)
{
    struct rcnn_train *t = r->train;
    if (!t) return;
    if (mabn_device_wait(r->device)) { /* reported by whoever waited before; nothing runs now */
    }
    for (struct slot &slot : t->slots) {
        mabn_cuda_host_release(r->device, slot.truth);
        mabn_cuda_host_release(r->device, slot.results);
        mabn_cuda_event_free(slot.done);
    }
    for (struct mabn_cuda_event *event : t->marks)
        mabn_cuda_event_free(event);
    mabn_device_release(r->device, t->truth.base, t->truth.bytes);
    mabn_device_release(r->device, t->work.base, t->work.bytes);
    free(t);
    r->train = NULL;
}

void mabn_rcnn_cuda_truth_key(const struct mabn_rcnn *r, struct rcnn_graph_key *key)
{
    const struct rcnn_train *t = r->train;
    const size_t sizes[] = {t->sizes.most, t->sizes.objects, t->sizes.polygons, t->sizes.numbers};
    key->memory[1] = t->truth.base;
    key->memory[2] = t->work.base;
    memcpy(key->sizes, sizes, sizeof key->sizes);
}

/* Copy the truth of the pictures to the device, and make room for what a step computes from it. */
static mabn_status set_out(struct mabn_rcnn *r, bool apart, const struct mabn_rcnn_image *images,
                           uint64_t step)
{
    const struct mabn_proposal_options options = mabn_rcnn_proposal_options(r, true);
    struct mabn_rpn_maps maps;
    struct rcnn_train *t;
    MABN_TRY(get_train(r, &t));
    MABN_TRY(mabn_rcnn_find_maps(r, &maps, false));
    MABN_TRY(put_truth(r, &t->slots[apart ? (int64_t)APART : t->begun % SLOTS], images, step));
    t->mark_count = 0;
    return get_pieces(r, &maps, &options);
}

/* Queue the copy of the results to the host. */
static mabn_status send_results(struct mabn_rcnn *r, const struct slot *slot)
{
    MABN_TRY(mabn_cuda_copy_out(r->device, slot->results, r->train->now.results,
                                sizeof *slot->results, mabn_cuda_stream(r->device)));
    return mabn_cuda_event_record(slot->done, mabn_cuda_stream(r->device));
}

static mabn_status fetch_results(struct mabn_rcnn *r, const struct slot *slot,
                                 struct mabn_rcnn_figures *f)
{
    MABN_TRY(mabn_cuda_event_wait(slot->done));
    r->train->last = *slot->results;
    memcpy(f->loss, slot->results->loss, sizeof f->loss);
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_measure_end(struct mabn_rcnn *r)
{
    struct rcnn_train *t = r->train;
    return send_results(r, &t->slots[t->begun++ % SLOTS]);
}

mabn_status mabn_rcnn_cuda_measured(struct mabn_rcnn *r, struct mabn_rcnn_figures *f)
{
    struct rcnn_train *t = r->train;
    return fetch_results(r, &t->slots[t->fetched++ % SLOTS], f);
}

mabn_status mabn_rcnn_cuda_begin(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                 uint64_t step)
{
    const struct mabn_proposal_options options = mabn_rcnn_proposal_options(r, true);
    struct mabn_rpn_maps maps;
    MABN_TRY(set_out(r, false, images, step));
    MABN_TRY(mabn_rcnn_find_maps(r, &maps, false));
    MABN_TRY(ready_plans(r));
    MABN_TRY(mark(r, MABN_RCNN_PARTS)); /* from here on */
    if (can_capture(r, &maps, &options))
        MABN_TRY(
            rcnn_graph_run(r, key_of(r), &r->train->no_graphs, [&] { return queue(r, images); }));
    else
        MABN_TRY(queue(r, images));
    count_plans(r);
    return mabn_rcnn_cuda_measure_end(r);
}

mabn_status mabn_rcnn_cuda_result(struct mabn_rcnn *r, struct mabn_rcnn_figures *f)
{
    const struct rcnn_train *t = r->train;
    MABN_TRY(mabn_rcnn_cuda_measured(r, f));
    f->rpn_sampled = t->last.rpn_sampled;
    f->rpn_positives = t->last.rpn_positives;
    f->proposals = t->last.proposals;
    f->boxes = t->last.boxes;
    f->positives = t->last.positives;
    for (int i = 1; i < t->mark_count; i++) {
        double seconds;
        MABN_TRY(mabn_cuda_event_seconds(&seconds, t->marks[i - 1], t->marks[i]));
        f->seconds[t->parts[i]] += seconds;
    }
    return MABN_OK;
}

int mabn_rcnn_cuda_behind(const struct mabn_rcnn *r)
{
    return r->train ? (int)(r->train->begun - r->train->fetched) : 0;
}

/* ---- losses in testing ---- */

bool mabn_rcnn_cuda_measures(struct mabn_rcnn *r)
{
    const struct mabn_proposal_options options = mabn_rcnn_proposal_options(r, true);
    struct mabn_rpn_maps maps;
    if (r->mask_net && r->convention->mask == MABN_MASK_SOFT) return false;
    return !mabn_rcnn_find_maps(r, &maps, false) && mabn_cuda_proposals_fit(&maps, &options);
}

mabn_status mabn_rcnn_cuda_measure_begin(struct mabn_rcnn *r, const struct mabn_rcnn_image *images)
{
    return set_out(r, false, images, 0);
}

/* The plans run again without targets. */
static void forget_rpn_targets(struct mabn_rcnn *r)
{
    const struct mabn_net_sigmoid_targets objectness = {};
    const struct mabn_net_box_targets boxes = {};
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++)
        mabn_rcnn_set_level_targets(r, l, &objectness, &boxes);
}

static void forget_head_targets(struct mabn_rcnn *r)
{
    const struct mabn_net_box_targets boxes = {};
    const struct mabn_net_sigmoid_targets masks = {};
    struct mabn_net_labels labels = {};
    labels.on_device = true; /* none there either: the plan's own */
    mabn_net_set_labels(r->box_net, "loss_classifier", &labels);
    mabn_net_set_box_targets(r->box_net, "loss_box_reg", &boxes);
    if (r->mask_net) mabn_net_set_sigmoid_targets(r->mask_net, "loss_mask", &masks);
}

mabn_status mabn_rcnn_cuda_measure_body(struct mabn_rcnn *r)
{
    const mabn_status status = run_body(r);
    forget_rpn_targets(r);
    return status;
}

static mabn_status run_heads(struct mabn_rcnn *r)
{
    MABN_TRY(propose(r, NULL));
    MABN_TRY(make_targets(r));
    MABN_TRY(run_boxes(r));
    return r->mask_net ? run_masks(r) : MABN_OK;
}

mabn_status mabn_rcnn_cuda_measure_heads(struct mabn_rcnn *r)
{
    const mabn_status status = run_heads(r);
    forget_head_targets(r);
    return status ? status : gather(r);
}

mabn_status mabn_rcnn_cuda_measure_body_now(struct mabn_rcnn *r,
                                            const struct mabn_rcnn_image *images)
{
    MABN_TRY(set_out(r, true, images, 0));
    MABN_TRY(ready_plans(r));
    return mabn_rcnn_cuda_measure_body(r);
}

mabn_status mabn_rcnn_cuda_measure_heads_now(struct mabn_rcnn *r, struct mabn_rcnn_figures *f)
{
    const struct slot *slot = &r->train->slots[APART];
    MABN_TRY(mabn_rcnn_cuda_measure_heads(r));
    MABN_TRY(send_results(r, slot));
    return fetch_results(r, slot, f);
}

/* ---- for tests ---- */

mabn_status mabn_rcnn_cuda_trace(struct mabn_rcnn *r)
{
    const struct rcnn_train *t = r->train;
    const struct pieces *p = &t->now;
    const size_t n = (size_t)t->last.boxes, images = (size_t)r->body->images;
    int32_t *counts;
    MABN_TRY(mabn_rcnn_need_proposals(r, p->proposals.room));
    MABN_TRY(mabn_scratch_take(&r->scratch, &counts, images, sizeof *counts));
    MABN_TRY(mabn_device_get(r->device, counts, p->proposals.count, images * sizeof *counts));
    for (size_t i = 0; i < images; i++) {
        r->proposals.count[i] = counts[i];
        MABN_TRY(mabn_device_get(r->device, r->proposals.box + 4 * i * (size_t)r->proposals.room,
                                 p->proposals.box + 4 * i * (size_t)p->proposals.room,
                                 (size_t)counts[i] * 4 * sizeof(float)));
    }
    r->boxes.count = t->last.boxes;
    r->boxes.positives = t->last.positives;
    MABN_TRY(mabn_device_get(r->device, r->boxes.box, p->boxes.box, n * 4 * sizeof(float)));
    MABN_TRY(mabn_device_get(r->device, r->boxes.delta, p->boxes.delta, n * 4 * sizeof(float)));
    MABN_TRY(mabn_device_get(r->device, r->boxes.image, p->boxes.image, n * sizeof(int32_t)));
    MABN_TRY(mabn_device_get(r->device, r->boxes.label, p->boxes.label, n * sizeof(int32_t)));
    if (!r->mask_net) return MABN_OK;
    return mabn_device_get(r->device, r->mask_target, p->masks,
                           (size_t)t->last.positives * MASK_PIXELS);
}
