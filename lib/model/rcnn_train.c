/* One step of training: targets for the losses in the three plans, and every gradient. Or the losses
 * alone, of plans for testing. */
#include <stdio.h>
#include <string.h>

#include "base/progress.h"
#include "model/rcnn_internal.h"
#include "net/losses.h"

/* Add the seconds since `start` to a part; the next part starts now. */
static void lap(struct mabn_rcnn_figures *f, enum mabn_rcnn_part part, double *start)
{
    const double now = mabn_now();
    f->seconds[part] += now - *start;
    *start = now;
}

static struct mabn_truth truth_of(const struct mabn_rcnn_image *image)
{
    return (struct mabn_truth){image->count, image->boxes, image->labels, image->width,
                               image->height};
}

static bool goes_back(const struct mabn_rcnn *r)
{
    return r->options.training && !r->options.measures;
}

/* ---- RPN ---- */

struct mabn_rpn_target_options mabn_rcnn_rpn_options(const struct mabn_rcnn *r)
{
    const struct mabn_detector *d = &r->detector;
    struct mabn_rpn_target_options options = mabn_rpn_target_defaults();
    options.matcher.high = (float)d->rpn_foreground;
    options.matcher.low = (float)d->rpn_background;
    options.sampler = (struct mabn_sampler){d->rpn_batch, d->rpn_positive, r->options.spread};
    return options;
}

static mabn_status make_rpn_targets(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                    uint64_t step, struct rcnn_rpn_targets *all)
{
    const struct mabn_rpn_target_options options = mabn_rcnn_rpn_options(r);
    const int64_t n = r->body->anchor_count;
    const size_t count = (size_t)(n * r->body->images);
    *all = (struct rcnn_rpn_targets){0};
    MABN_TRY(mabn_scratch_take(&r->scratch, &all->target, count, sizeof(float)));
    MABN_TRY(mabn_scratch_take(&r->scratch, &all->weight, count, sizeof(float)));
    MABN_TRY(mabn_scratch_take(&r->scratch, &all->box_weight, count, sizeof(float)));
    MABN_TRY(mabn_scratch_take(&r->scratch, &all->delta, 4 * count, sizeof(float)));
    for (int i = 0; i < r->body->images; i++) {
        const struct mabn_truth truth = truth_of(&images[i]);
        const struct mabn_sample_key key = {r->options.seed, step, images[i].number,
                                            MABN_SAMPLE_RPN};
        struct mabn_rpn_targets one = {.target = all->target + i * n,
                                       .weight = all->weight + i * n,
                                       .box_weight = all->box_weight + i * n,
                                       .delta = all->delta + i * n * 4};
        MABN_TRY(mabn_rpn_targets_make(&one, r->body->anchors, n, &truth, &options, &key,
                                       r->convention, &r->scratch));
        all->sampled += one.sampled;
        all->positives += one.positives;
    }
    return MABN_OK;
}

static double rpn_normalizer(const struct mabn_rcnn *r, const struct rcnn_rpn_targets *t)
{
    return r->convention->mean_over_capacity ? (double)r->detector.rpn_batch * r->body->images
                                             : (double)t->sampled;
}

void mabn_rcnn_set_level_targets(struct mabn_rcnn *r, int level,
                                 const struct mabn_net_sigmoid_targets *objectness,
                                 const struct mabn_net_box_targets *boxes)
{
    char name[32];
    snprintf(name, sizeof name, "loss_objectness%d", level + 2);
    mabn_net_set_sigmoid_targets(r->body->net, name, objectness);
    snprintf(name, sizeof name, "loss_rpn_box_reg%d", level + 2);
    mabn_net_set_box_targets(r->body->net, name, boxes);
}

/* The maps hold images one after another, the CPU's targets levels one after another in each image. */
static void set_rpn_targets(struct mabn_rcnn *r, const struct rcnn_rpn_targets *t)
{
    const double normalizer = rpn_normalizer(r, t);
    const int64_t stride = r->body->anchor_count;
    int64_t before = 0;
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++) {
        const struct mabn_net_sigmoid_targets objectness = {.target = t->target + before,
                                                            .weight = t->weight + before,
                                                            .stride = stride,
                                                            .normalizer = normalizer};
        const struct mabn_net_box_targets boxes = {.target = t->delta + 4 * before,
                                                   .weight = t->box_weight + before,
                                                   .stride = stride,
                                                   .normalizer = normalizer};
        mabn_rcnn_set_level_targets(r, l, &objectness, &boxes);
        before += r->body->level_anchors[l];
    }
}

static void forget_rpn_targets(struct mabn_rcnn *r)
{
    const struct mabn_net_sigmoid_targets objectness = {0};
    const struct mabn_net_box_targets boxes = {0};
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++)
        mabn_rcnn_set_level_targets(r, l, &objectness, &boxes);
}

static void read_rpn_losses(const struct mabn_rcnn *r, struct mabn_rcnn_figures *f)
{
    for (int l = 0; l < MABN_DETECTOR_LEVELS; l++) {
        char name[32];
        snprintf(name, sizeof name, "loss_objectness%d", l + 2);
        f->loss[MABN_RCNN_OBJECTNESS] += mabn_net_loss_of(r->body->net, name);
        snprintf(name, sizeof name, "loss_rpn_box_reg%d", l + 2);
        f->loss[MABN_RCNN_RPN_BOX] += mabn_net_loss_of(r->body->net, name);
    }
}

/* ---- box head ---- */

struct mabn_box_target_options mabn_rcnn_box_options(const struct mabn_rcnn *r)
{
    const struct mabn_detector *d = &r->detector;
    struct mabn_box_target_options options = mabn_box_target_defaults(d->classes);
    options.matcher.high = (float)d->box_foreground;
    options.matcher.low = (float)d->box_background;
    options.sampler = (struct mabn_sampler){d->box_batch, d->box_positive, r->options.spread};
    return options;
}

static mabn_status sample_boxes(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                uint64_t step)
{
    const struct mabn_box_target_options options = mabn_rcnn_box_options(r);
    r->boxes.count = r->boxes.positives = 0;
    for (int i = 0; i < r->body->images; i++) {
        const struct mabn_truth truth = truth_of(&images[i]);
        const struct mabn_sample_key key = {r->options.seed, step, images[i].number,
                                            MABN_SAMPLE_BOXES};
        mabn_proposals_add(&r->proposals, i, images[i].boxes, images[i].count);
        MABN_TRY(mabn_box_targets_add(&r->boxes, i, r->proposals.box + 4 * i * r->proposals.room,
                                      r->proposals.count[i], &truth, &options, &key, r->convention,
                                      &r->scratch));
    }
    return MABN_OK;
}

static void set_box_targets(struct mabn_rcnn *r)
{
    const double normalizer = (double)r->boxes.count;
    const struct mabn_net_labels labels = {.labels = r->boxes.label, .normalizer = normalizer};
    const struct mabn_net_box_targets boxes = {.target = r->boxes.delta,
                                               .weight = r->boxes.weight,
                                               .group = r->boxes.label,
                                               .normalizer = normalizer};
    mabn_net_set_labels(r->box_net, "loss_classifier", &labels);
    mabn_net_set_box_targets(r->box_net, "loss_box_reg", &boxes);
}

static mabn_status train_boxes(struct mabn_rcnn *r, struct mabn_rcnn_figures *f)
{
    const struct mabn_net_rois rois = {.count = r->boxes.count,
                                       .boxes = r->boxes.box,
                                       .image = r->boxes.image,
                                       .level = r->levels};
    mabn_box_levels(r->levels, r->boxes.box, r->boxes.count, 2, 5, r->convention);
    mabn_rcnn_bind(r, r->box_net, &r->box_head, &rois);
    set_box_targets(r);
    MABN_TRY(mabn_net_forward(r->box_net));
    f->loss[MABN_RCNN_CLASSIFIER] = mabn_net_loss_of(r->box_net, "loss_classifier");
    f->loss[MABN_RCNN_BOX] = mabn_net_loss_of(r->box_net, "loss_box_reg");
    return goes_back(r) ? mabn_net_backward(r->box_net) : MABN_OK;
}

/* ---- mask head ---- */

/* The positive boxes with their target masks. */
static mabn_status make_masks(struct mabn_rcnn *r, const struct mabn_rcnn_image *images)
{
    const struct mabn_box_targets *b = &r->boxes;
    const size_t pixels = RCNN_MASK_SIDE * RCNN_MASK_SIDE;
    const int64_t n = mabn_box_targets_positive(r->positive, b);
    for (int64_t k = 0; k < n; k++) {
        const int32_t row = r->positive[k];
        memcpy(r->mask_box + 4 * k, b->box + 4 * row, 4 * sizeof(float));
        r->mask_image[k] = b->image[row];
        r->mask_level[k] = r->levels[row];
        r->mask_label[k] = b->label[row];
        r->mask_object[k] = b->object[row];
    }
    for (int64_t k = 0; k < n;) {
        const struct mabn_rcnn_image *image = &images[r->mask_image[k]];
        const struct mabn_outlines outlines = {image->count,        image->first_polygon,
                                               image->first_number, image->numbers,
                                               image->width,        image->height};
        int64_t end = k;
        while (end < n && r->mask_image[end] == r->mask_image[k])
            end++;
        if (!image->first_polygon)
            return mabn_fail(MABN_ERR_ARG, "a picture without masks in a detector of masks");
        if (r->soft_target)
            MABN_TRY(mabn_mask_targets_pool(r->soft_target + (size_t)k * pixels,
                                            r->mask_box + 4 * k, r->mask_object + k, end - k,
                                            RCNN_MASK_SIDE, &outlines, false, &r->scratch));
        else
            MABN_TRY(mabn_mask_targets_fill(r->mask_target + (size_t)k * pixels,
                                            r->mask_box + 4 * k, r->mask_object + k, end - k,
                                            RCNN_MASK_SIDE, &outlines, r->convention));
        k = end;
    }
    return MABN_OK;
}

static mabn_status train_masks(struct mabn_rcnn *r, struct mabn_rcnn_figures *f)
{
    const int64_t n = r->boxes.positives, pixels = RCNN_MASK_SIDE * RCNN_MASK_SIDE;
    const struct mabn_net_rois rois = {
        .count = n, .boxes = r->mask_box, .image = r->mask_image, .level = r->mask_level};
    const struct mabn_net_sigmoid_targets targets = {.channel = r->mask_label,
                                                     .bits = r->soft_target ? NULL : r->mask_target,
                                                     .target = r->soft_target,
                                                     .normalizer = (double)(n * pixels)};
    mabn_rcnn_bind(r, r->mask_net, &r->mask_head, &rois);
    mabn_net_set_sigmoid_targets(r->mask_net, "loss_mask", &targets);
    MABN_TRY(mabn_net_forward(r->mask_net));
    f->loss[MABN_RCNN_MASK] = mabn_net_loss_of(r->mask_net, "loss_mask");
    return goes_back(r) ? mabn_net_backward(r->mask_net) : MABN_OK;
}

/* ---- all ---- */

/* The heads add to the gradients of the pyramid. */
static mabn_status clear_pyramid(struct mabn_rcnn *r)
{
    for (int i = 0; i < MABN_DETECTOR_POOLED; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i + 2);
        const struct mabn_net_output p = mabn_net_output_of(r->body->net, name);
        if (p.gradient)
            MABN_TRY(mabn_device_zero(r->device, p.gradient,
                                      (size_t)(p.n * p.h * p.w * p.c) * sizeof(float)));
    }
    return MABN_OK;
}

/* With the targets of the RPN in the scratch, which the body's losses read to the end. */
static mabn_status step_with_targets(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                     uint64_t step, struct mabn_rcnn_figures *f, double *start)
{
    MABN_TRY(mabn_net_forward(r->body->net));
    read_rpn_losses(r, f);
    lap(f, MABN_RCNN_PART_BODY, start);
    MABN_TRY(mabn_rcnn_propose(r, images, true));
    for (int i = 0; i < r->body->images; i++)
        f->proposals += r->proposals.count[i];
    lap(f, MABN_RCNN_PART_PROPOSALS, start);
    MABN_TRY(sample_boxes(r, images, step));
    f->boxes = r->boxes.count;
    f->positives = r->boxes.positives;
    if (!r->options.measures) MABN_TRY(clear_pyramid(r));
    lap(f, MABN_RCNN_PART_TARGETS, start);
    MABN_TRY(train_boxes(r, f));
    lap(f, MABN_RCNN_PART_BOX_HEAD, start);
    if (r->mask_net) {
        MABN_TRY(make_masks(r, images));
        lap(f, MABN_RCNN_PART_TARGETS, start);
        MABN_TRY(train_masks(r, f));
        lap(f, MABN_RCNN_PART_MASK_HEAD, start);
    }
    if (r->options.measures) return MABN_OK;
    mabn_net_tell_gradients(r->body->net, r->ready, r->ready_context);
    MABN_TRY(mabn_net_backward(r->body->net));
    lap(f, MABN_RCNN_PART_BODY, start);
    return MABN_OK;
}

static mabn_status step_here(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                             uint64_t step, struct mabn_rcnn_figures *f)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(&r->scratch);
    double start = mabn_now();
    struct rcnn_rpn_targets targets;
    *f = (struct mabn_rcnn_figures){0};
    mabn_status status = make_rpn_targets(r, images, step, &targets);
    f->rpn_sampled = targets.sampled;
    f->rpn_positives = targets.positives;
    if (!status) {
        set_rpn_targets(r, &targets);
        lap(f, MABN_RCNN_PART_TARGETS, &start);
        status = step_with_targets(r, images, step, f, &start);
    }
    forget_rpn_targets(r); /* which lie in the scratch */
    mabn_scratch_back(&r->scratch, mark);
    return status;
}

/* ---- the losses alone ---- */

mabn_status mabn_rcnn_measure_body(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                   struct mabn_rcnn_figures *f)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(&r->scratch);
    struct rcnn_rpn_targets targets;
    mabn_status status = make_rpn_targets(r, images, 0, &targets);
    if (!status) {
        set_rpn_targets(r, &targets);
        status = mabn_net_forward(r->body->net);
    }
    if (!status) read_rpn_losses(r, f);
    forget_rpn_targets(r); /* which lie in the scratch */
    mabn_scratch_back(&r->scratch, mark);
    return status;
}

mabn_status mabn_rcnn_measure_heads(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                                    struct mabn_rcnn_figures *f)
{
    const struct mabn_net_box_targets no_boxes = {0};
    const struct mabn_net_sigmoid_targets no_masks = {0};
    MABN_TRY(mabn_rcnn_propose(r, images, true));
    MABN_TRY(sample_boxes(r, images, 0));
    MABN_TRY(train_boxes(r, f));
    mabn_net_set_box_targets(r->box_net, "loss_box_reg", &no_boxes);
    if (!r->mask_net) return MABN_OK;
    MABN_TRY(make_masks(r, images));
    MABN_TRY(train_masks(r, f));
    mabn_net_set_sigmoid_targets(r->mask_net, "loss_mask", &no_masks);
    return MABN_OK;
}

/* ---- on either device ---- */

int mabn_rcnn_behind(const struct mabn_rcnn *r)
{
    if (!r->options.training) return (int)(r->detections_begun - r->detections_told);
    if (r->gpu) return r->gpu->behind(r);
    return r->behind;
}

int mabn_rcnn_depth(const struct mabn_rcnn *r)
{
    return r->gpu && !r->timed ? 2 : 1;
}

void mabn_rcnn_time_parts(struct mabn_rcnn *r, bool wanted)
{
    if (mabn_rcnn_behind(r)) MABN_BUG("a step is under way");
    r->timed = wanted;
}

mabn_status mabn_rcnn_begin(struct mabn_rcnn *r, const struct mabn_rcnn_image *images,
                            uint64_t step)
{
    if (!r->options.training || !r->body) MABN_BUG("a step of training without a plan for it");
    if (mabn_rcnn_behind(r) == mabn_rcnn_depth(r))
        return mabn_fail(MABN_ERR_ARG, "the result of an earlier step was not fetched");
    if (r->gpu) return r->gpu->begin(r, images, step);
    MABN_TRY(step_here(r, images, step, &r->figures));
    r->behind = 1;
    return MABN_OK;
}

mabn_status mabn_rcnn_result(struct mabn_rcnn *r, struct mabn_rcnn_figures *f)
{
    *f = (struct mabn_rcnn_figures){0};
    if (!mabn_rcnn_behind(r))
        return mabn_fail(MABN_ERR_ARG, "there is no step to fetch the result of");
    if (r->gpu) return r->gpu->result(r, f);
    *f = r->figures;
    r->behind = 0;
    return MABN_OK;
}

mabn_status mabn_rcnn_step(struct mabn_rcnn *r, const struct mabn_rcnn_image *images, uint64_t step,
                           struct mabn_rcnn_figures *f)
{
    MABN_TRY(mabn_rcnn_begin(r, images, step));
    return mabn_rcnn_result(r, f);
}
