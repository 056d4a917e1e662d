/* Testing: from pictures to detections. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "detect/paste.h"
#include "model/rcnn_internal.h"

static void lap(struct mabn_rcnn_figures *f, enum mabn_rcnn_part part, double *start)
{
    const double now = mabn_now();
    f->seconds[part] += now - *start;
    *start = now;
}

/* All proposals of all images as rows of the box head. */
static void list_boxes(struct mabn_rcnn *r)
{
    int64_t n = 0;
    for (int i = 0; i < r->body->images; i++) {
        const float *from = r->proposals.box + 4 * i * r->proposals.room;
        const int64_t count = r->proposals.count[i];
        memcpy(r->boxes.box + 4 * n, from, (size_t)count * 4 * sizeof(float));
        for (int64_t k = 0; k < count; k++)
            r->boxes.image[n++] = i;
    }
    r->boxes.count = n;
}

static mabn_status run_boxes(struct mabn_rcnn *r)
{
    const struct mabn_net_rois rois = {.count = r->boxes.count,
                                       .boxes = r->boxes.box,
                                       .image = r->boxes.image,
                                       .level = r->levels};
    mabn_box_levels(r->levels, r->boxes.box, r->boxes.count, 2, 5, r->convention);
    mabn_rcnn_bind(r, r->box_net, &r->box_head, &rois);
    return mabn_net_forward(r->box_net);
}

struct mabn_detection_options mabn_rcnn_detection_options(const struct mabn_rcnn *r)
{
    struct mabn_detection_options options = mabn_detection_defaults(r->detector.classes);
    options.min_score = r->detector.min_score;
    options.threshold = r->detector.nms;
    options.most = r->detector.detections;
    options.across = r->options.nms_across;
    return options;
}

static mabn_status detect_all(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                              struct mabn_rcnn_found *found)
{
    const struct mabn_net_output logits = mabn_net_output_of(r->box_net, "class_logits"),
                                 deltas = mabn_net_output_of(r->box_net, "box_deltas");
    const struct mabn_detection_options options = mabn_rcnn_detection_options(r);
    const float *logit, *delta;
    int64_t row = 0;
    MABN_TRY(mabn_rcnn_fetch(r, &logit, &logits));
    MABN_TRY(mabn_rcnn_fetch(r, &delta, &deltas));
    for (int i = 0; i < r->body->images; i++) {
        const struct mabn_box_scores scores = {.n = r->proposals.count[i],
                                               .proposal = r->boxes.box + 4 * row,
                                               .logit = logit + row * logits.c,
                                               .delta = delta + row * deltas.c,
                                               .width = images[i].width,
                                               .height = images[i].height};
        MABN_TRY(
            mabn_detections_make(&found[i].boxes, &scores, &options, r->convention, &r->scratch));
        row += scores.n;
    }
    return MABN_OK;
}

static mabn_status make_detections(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                   struct mabn_rcnn_found *found)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(&r->scratch);
    const mabn_status status = detect_all(r, images, found);
    mabn_scratch_back(&r->scratch, mark);
    return status;
}

/* ---- masks ---- */

static mabn_status need_masks(struct mabn_rcnn_found *found)
{
    const int64_t n = found->boxes.count;
    if (n <= found->mask_room) return MABN_OK;
    found->masks = mabn_xrealloc(found->masks, (size_t)n * sizeof *found->masks);
    for (int64_t i = found->mask_room; i < n; i++)
        mabn_rle_init(&found->masks[i]);
    found->mask_room = n;
    return MABN_OK;
}

/* The probabilities of n detections of these labels, from the mask head's output. */
static mabn_status find_probability(struct mabn_rcnn *r, float *probability, const int32_t *label,
                                    int64_t n)
{
    const int64_t pixels = RCNN_MASK_SIDE * RCNN_MASK_SIDE;
    const struct mabn_net_output logits = mabn_net_output_of(r->mask_net, "mask_logits");
    const float *values = logits.values;
    int64_t channels = logits.c;
    if (r->gpu) {
        float *own;
        MABN_TRY(mabn_scratch_take(&r->scratch, &own, (size_t)(n * pixels), sizeof *own));
        MABN_TRY(r->gpu->mask_logits(r, own, &logits, label, n));
        values = own;
        channels = 1;
    }
    return mabn_mask_probability(probability, values, label, n, pixels, channels, r->convention);
}

/* Probabilities (count,28,28) of all detections of image i, as many at a time as the plan takes. */
static mabn_status run_masks(struct mabn_rcnn *r, int i, const struct mabn_detections *d,
                             float *probability)
{
    const int64_t pixels = RCNN_MASK_SIDE * RCNN_MASK_SIDE;
    for (int64_t from = 0; from < d->count; from += r->mask_room) {
        const int64_t n = d->count - from < r->mask_room ? d->count - from : r->mask_room;
        const struct mabn_net_rois rois = {
            .count = n, .boxes = d->box + 4 * from, .image = r->mask_image, .level = r->mask_level};
        for (int64_t k = 0; k < n; k++)
            r->mask_image[k] = i;
        mabn_box_levels(r->mask_level, rois.boxes, n, 2, 5, r->convention);
        mabn_rcnn_bind(r, r->mask_net, &r->mask_head, &rois);
        MABN_TRY(mabn_net_forward(r->mask_net));
        const struct mabn_scratch_mark mark = mabn_scratch_mark(&r->scratch);
        MABN_TRY(find_probability(r, probability + from * pixels, d->label + from, n));
        mabn_scratch_back(&r->scratch, mark);
    }
    return MABN_OK;
}

static mabn_status paste(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                         const struct mabn_rcnn_size *original, const float *probability)
{
    const int64_t pixels = RCNN_MASK_SIDE * RCNN_MASK_SIDE;
    const struct mabn_detections *d = &found->boxes;
    if (r->gpu) return r->gpu->paste(r, found, original, probability);
    for (int64_t k = 0; k < d->count; k++)
        MABN_TRY(mabn_paste(&found->masks[k], probability + d->mask[k] * pixels, RCNN_MASK_SIDE,
                            d->box + 4 * k, original->width, original->height, r->convention,
                            &r->scratch));
    return MABN_OK;
}

/* done: the mask head has run already, on the GPU, and its logits are kept. */
static mabn_status find_masks(struct mabn_rcnn *r, int i, struct mabn_rcnn_found *found, bool done,
                              float **probability)
{
    const struct mabn_detections *d = &found->boxes;
    const size_t pixels = RCNN_MASK_SIDE * RCNN_MASK_SIDE;
    MABN_TRY(need_masks(found));
    MABN_TRY(mabn_scratch_take(&r->scratch, probability, (size_t)d->count + 1,
                               pixels * sizeof **probability));
    if (done)
        return mabn_mask_probability(*probability, r->gpu->found_masks(r, i), d->label, d->count,
                                     (int64_t)pixels, 1, r->convention);
    return run_masks(r, i, d, *probability);
}

static mabn_status finish_image(struct mabn_rcnn *r, int i, const struct mabn_rcnn_image *image,
                                const struct mabn_rcnn_size *original,
                                struct mabn_rcnn_found *found, bool done,
                                struct mabn_rcnn_figures *f)
{
    struct mabn_detections *d = &found->boxes;
    double start = mabn_now();
    float *probability = NULL;
    if (r->mask_net) {
        MABN_TRY(find_masks(r, i, found, done, &probability));
        lap(f, MABN_RCNN_PART_MASK_HEAD, &start);
    }
    mabn_detections_scale(d, image->width, image->height, original->width, original->height,
                          r->convention);
    if (r->mask_net) MABN_TRY(paste(r, found, original, probability));
    lap(f, MABN_RCNN_PART_PASTING, &start);
    return MABN_OK;
}

static mabn_status finish(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                          const struct mabn_rcnn_size *originals, struct mabn_rcnn_found *found,
                          bool done, struct mabn_rcnn_figures *f)
{
    mabn_status status = MABN_OK;
    for (int i = 0; i < r->body->images && !status; i++) {
        const struct mabn_scratch_mark mark = mabn_scratch_mark(&r->scratch);
        status = finish_image(r, i, &images[i], &originals[i], &found[i], done, f);
        mabn_scratch_back(&r->scratch, mark);
    }
    return status;
}

/* From the body's maps on, with the decisions made here. */
static mabn_status decide(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                          struct mabn_rcnn_found *found, struct mabn_rcnn_figures *f)
{
    double start = mabn_now();
    MABN_TRY(mabn_rcnn_propose(r, images, false));
    list_boxes(r);
    f->proposals = f->boxes = r->boxes.count;
    lap(f, MABN_RCNN_PART_PROPOSALS, &start);
    MABN_TRY(run_boxes(r));
    lap(f, MABN_RCNN_PART_BOX_HEAD, &start);
    MABN_TRY(make_detections(r, images, found));
    lap(f, MABN_RCNN_PART_DETECTIONS, &start);
    return MABN_OK;
}

/* ---- detections begun ---- */

static struct rcnn_detection *next_detection(struct mabn_rcnn *r,
                                             const struct mabn_rcnn_image *images,
                                             const struct mabn_rcnn_size *originals)
{
    struct rcnn_detection *d = &r->detections[r->detections_begun % RCNN_DETECTIONS];
    const size_t n = (size_t)r->options.images, now = (size_t)r->body->images;
    if (!d->found) {
        d->images = mabn_xcalloc(n, sizeof *d->images);
        d->originals = mabn_xcalloc(n, sizeof *d->originals);
        d->found = mabn_xcalloc(n, sizeof *d->found);
    }
    memcpy(d->images, images, now * sizeof *images);
    memcpy(d->originals, originals, now * sizeof *originals);
    d->count = r->body->images;
    d->body = r->body;
    d->feed = r->gpu ? r->gpu->next_feed(r) : 0;
    d->figures = (struct mabn_rcnn_figures){0};
    d->finished = false;
    return d;
}

/* From the pictures on, here and now. */
static mabn_status find_here(struct mabn_rcnn *r, struct rcnn_detection *d)
{
    MABN_TRY(decide(r, d->images, d->found, &d->figures));
    return finish(r, d->images, d->originals, d->found, false, &d->figures);
}

/* With losses. On a GPU they come from there where they can. */
static mabn_status measure_here(struct mabn_rcnn *r, struct rcnn_detection *d)
{
    struct mabn_rcnn_figures *f = &d->figures;
    const bool there = r->gpu && r->gpu->measures(r);
    double start = mabn_now();
    MABN_TRY(there ? r->gpu->measure_body(r, d->images) : mabn_rcnn_measure_body(r, d->images, f));
    lap(f, MABN_RCNN_PART_BODY, &start);
    MABN_TRY(find_here(r, d));
    start = mabn_now();
    MABN_TRY(there ? r->gpu->measure_heads(r, f) : mabn_rcnn_measure_heads(r, d->images, f));
    lap(f, MABN_RCNN_PART_TARGETS, &start);
    return MABN_OK;
}

static mabn_status detect_here(struct mabn_rcnn *r, struct rcnn_detection *d)
{
    double start = mabn_now();
    MABN_TRY(mabn_net_forward(r->body->net));
    lap(&d->figures, MABN_RCNN_PART_BODY, &start);
    return find_here(r, d);
}

/* Finish a queued detection. If there were too many ties, repeat it from its pictures, which are still in
 * place, with the decisions made here. The losses are right either way. */
static mabn_status finish_queued(struct mabn_rcnn *r, struct rcnn_detection *d)
{
    bool all;
    MABN_TRY(r->gpu->detect_result(r, d->found, &all, &d->figures));
    if (all) return finish(r, d->images, d->originals, d->found, true, &d->figures);
    r->gpu->feed_again(r, d->feed);
    return detect_here(r, d);
}

static mabn_status begin_detection(struct mabn_rcnn *r, struct rcnn_detection *d, bool queued)
{
    if (queued) return r->gpu->detect_begin(r, d->images);
    return r->options.losses ? measure_here(r, d) : detect_here(r, d);
}

static mabn_status settle_one(struct mabn_rcnn *r, struct rcnn_detection *d)
{
    struct rcnn_body *now = r->body;
    if (d->finished) return MABN_OK;
    d->finished = true; /* whatever happens */
    r->body = d->body;
    const mabn_status status = finish_queued(r, d);
    r->body = now;
    return status;
}

static mabn_status settle(struct mabn_rcnn *r)
{
    for (int64_t k = r->detections_told; k < r->detections_begun; k++)
        MABN_TRY(settle_one(r, &r->detections[k % RCNN_DETECTIONS]));
    return MABN_OK;
}

mabn_status mabn_rcnn_detect_begin(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                   const struct mabn_rcnn_size *originals)
{
    if (r->options.training || !r->body) MABN_BUG("detecting without a plan for it");
    if (mabn_rcnn_behind(r) == mabn_rcnn_depth(r))
        return mabn_fail(MABN_ERR_ARG, "the detections of earlier pictures were not fetched");
    struct rcnn_detection *d = next_detection(r, images, originals);
    const bool queued = r->gpu && r->gpu->detects(r);
    r->settle = settle;
    const mabn_status status = begin_detection(r, d, queued);
    d->finished = !queued;
    r->detections_begun += !status;
    return status;
}

mabn_status mabn_rcnn_detect_result(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                                    struct mabn_rcnn_figures *f)
{
    *f = (struct mabn_rcnn_figures){0};
    if (!mabn_rcnn_behind(r))
        return mabn_fail(MABN_ERR_ARG, "there are no pictures to fetch the detections of");
    struct rcnn_detection *d = &r->detections[r->detections_told % RCNN_DETECTIONS];
    const mabn_status status = settle_one(r, d);
    r->detections_told++;
    if (status) return status;
    *f = d->figures;
    for (int i = 0; i < d->count; i++) {
        const struct mabn_rcnn_found mine = d->found[i];
        d->found[i] = found[i];
        found[i] = mine;
    }
    return MABN_OK;
}

mabn_status mabn_rcnn_detect(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                             const struct mabn_rcnn_size *originals, struct mabn_rcnn_found *found,
                             struct mabn_rcnn_figures *f)
{
    if (mabn_rcnn_behind(r)) MABN_BUG("detections are under way");
    MABN_TRY(mabn_rcnn_detect_begin(r, images, originals));
    return mabn_rcnn_detect_result(r, found, f);
}
