/* A detector from mabn_rcnn_new to mabn_rcnn_free. This file alone knows who does a detector's work on a
 * GPU; the files below it call that through a table. */
#include "model/rcnn.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/rcnn_internal.h"
#if MABN_CUDA
#include "detect/proposals_cuda.h"
#include "model/rcnn_cuda.h"
#endif

const char *const mabn_rcnn_loss_names[MABN_RCNN_LOSSES] = {
    "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"};
const char *const mabn_rcnn_part_names[MABN_RCNN_PARTS] = {
    "body, FPN and RPN", "proposals", "targets", "box head", "mask head", "detections", "pasting"};

#if MABN_CUDA
static void free_gpu(struct mabn_rcnn *r)
{
    mabn_rcnn_cuda_train_free(r);
    mabn_rcnn_cuda_free(r);
    mabn_rcnn_cuda_input_free(r);
}

static const struct rcnn_gpu gpu = {.input = mabn_rcnn_cuda_input,
                                    .feed = mabn_rcnn_cuda_feed,
                                    .next_feed = mabn_rcnn_cuda_next_feed,
                                    .feed_again = mabn_rcnn_cuda_feed_again,
                                    .anchors = mabn_rcnn_cuda_anchors,
                                    .proposes = mabn_cuda_proposals_fit,
                                    .propose = mabn_rcnn_cuda_propose,
                                    .detects = mabn_rcnn_cuda_detects,
                                    .detect_begin = mabn_rcnn_cuda_detect_begin,
                                    .detect_result = mabn_rcnn_cuda_detect_result,
                                    .found_masks = mabn_rcnn_cuda_found_masks,
                                    .measures = mabn_rcnn_cuda_measures,
                                    .measure_body = mabn_rcnn_cuda_measure_body_now,
                                    .measure_heads = mabn_rcnn_cuda_measure_heads_now,
                                    .mask_logits = mabn_rcnn_cuda_mask_logits,
                                    .paste = mabn_rcnn_cuda_paste,
                                    .begin = mabn_rcnn_cuda_begin,
                                    .result = mabn_rcnn_cuda_result,
                                    .behind = mabn_rcnn_cuda_behind,
                                    .trace = mabn_rcnn_cuda_trace,
                                    .graph_free = mabn_rcnn_cuda_graph_free,
                                    .free = free_gpu};
#endif

static mabn_status take(void *out, int64_t count, size_t size)
{
    void *memory;
    MABN_TRY(mabn_alloc_zero(&memory, (size_t)(count + 1) * size));
    memcpy(out, &memory, sizeof memory);
    return MABN_OK;
}

static mabn_status get_memory(struct mabn_rcnn *r)
{
    const int64_t n = r->options.images, b = r->box_room, m = r->mask_room;
    MABN_TRY(take(&r->widths, n, sizeof *r->widths));
    MABN_TRY(take(&r->heights, n, sizeof *r->heights));
    MABN_TRY(take(&r->proposals.count, n, sizeof *r->proposals.count));
    r->boxes.room = b;
    MABN_TRY(take(&r->boxes.box, b, 4 * sizeof(float)));
    MABN_TRY(take(&r->boxes.image, b, sizeof(int32_t)));
    MABN_TRY(take(&r->boxes.label, b, sizeof(int32_t)));
    MABN_TRY(take(&r->boxes.object, b, sizeof(int32_t)));
    MABN_TRY(take(&r->boxes.delta, b, 4 * sizeof(float)));
    MABN_TRY(take(&r->boxes.weight, b, sizeof(float)));
    MABN_TRY(take(&r->levels, b, sizeof *r->levels));
    MABN_TRY(take(&r->positive, b, sizeof *r->positive));
    MABN_TRY(take(&r->mask_box, m, 4 * sizeof(float)));
    MABN_TRY(take(&r->mask_image, m, sizeof(int32_t)));
    MABN_TRY(take(&r->mask_level, m, sizeof(int32_t)));
    MABN_TRY(take(&r->mask_label, m, sizeof(int32_t)));
    MABN_TRY(take(&r->mask_object, m, sizeof(int32_t)));
    if (mabn_rcnn_has_losses(r) && r->convention->mask == MABN_MASK_SOFT)
        MABN_TRY(take(&r->soft_target, m, RCNN_MASK_SIDE * RCNN_MASK_SIDE * sizeof(float)));
    return take(&r->mask_target, m, RCNN_MASK_SIDE * RCNN_MASK_SIDE);
}

/* Rows of the heads: what is sampled in training, proposals and detections in testing. */
static void find_rooms(struct mabn_rcnn *r)
{
    const struct mabn_detector *d = &r->detector;
    int box = 0, mask = 1;
    if (mabn_rcnn_has_losses(r)) {
        box = d->box_batch;
        mask = r->options.images * (int)(d->box_batch * d->box_positive);
    }
    if (!r->options.training && d->test.proposals > box) box = d->test.proposals;
    if (!r->options.training && d->detections > mask) mask = d->detections;
    r->box_room = r->options.images * box;
    r->mask_room = mask < 1 ? 1 : mask;
}

static mabn_status set_up(struct mabn_rcnn *r)
{
    const struct mabn_detector *d = &r->detector;
    MABN_TRY(mabn_box_convention_find(&r->convention, d->convention));
    r->anchors =
        (struct mabn_anchors){.levels = MABN_DETECTOR_LEVELS, .ratios = MABN_DETECTOR_RATIOS};
    for (int i = 0; i < MABN_DETECTOR_LEVELS; i++) {
        r->anchors.stride[i] = 4 << i;
        r->anchors.size[i] = d->anchor_size[i];
    }
    memcpy(r->anchors.ratio, d->anchor_ratio, sizeof d->anchor_ratio);
    if (r->options.training && d->masks && r->gpu && r->convention->mask == MABN_MASK_SOFT)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "on a GPU masks are 0 or 1, not what '%s' pools from them", d->convention);
    find_rooms(r);
    MABN_TRY(get_memory(r));
    return mabn_rcnn_set_up_plans(r);
}

mabn_status mabn_rcnn_new(struct mabn_rcnn **out, struct mabn_device *device,
                          const struct mabn_detector *detector, struct mabn_params *params,
                          const struct mabn_rcnn_options *options)
{
    *out = NULL;
    MABN_TRY(mabn_detector_check(detector));
    if (options->images < 1 || options->images > 1024)
        return mabn_fail(MABN_ERR_ARG, "%d pictures a step", options->images);
    struct mabn_rcnn *r = mabn_xcalloc(1, sizeof *r);
    r->device = device;
#if MABN_CUDA
    if (mabn_device_kind_of(device) == MABN_DEVICE_CUDA) r->gpu = &gpu;
#endif
    r->detector = *detector;
    r->params = params;
    r->options = *options;
    if (r->options.precision == MABN_NET_AUTO) r->options.precision = MABN_NET_FP32;
    const mabn_status status = set_up(r);
    if (status) {
        mabn_rcnn_free(r);
        return status;
    }
    *out = r;
    return MABN_OK;
}

void mabn_rcnn_found_release(struct mabn_rcnn_found *found)
{
    mabn_detections_release(&found->boxes);
    for (int64_t i = 0; i < found->mask_room; i++)
        mabn_rle_release(&found->masks[i]);
    free(found->masks);
    memset(found, 0, sizeof *found);
}

static void release_detections(struct mabn_rcnn *r)
{
    for (int k = 0; k < RCNN_DETECTIONS; k++) {
        struct rcnn_detection *d = &r->detections[k];
        for (int i = 0; i < r->options.images && d->found; i++)
            mabn_rcnn_found_release(&d->found[i]);
        free(d->images);
        free(d->originals);
        free(d->found);
    }
}

void mabn_rcnn_free(struct mabn_rcnn *r)
{
    if (!r) return;
    mabn_rcnn_release_plans(r);
    if (r->gpu) r->gpu->free(r);
    release_detections(r);
    mabn_scratch_release(&r->scratch);
    void *arrays[] = {r->widths,          r->heights,     r->proposals.box, r->proposals.score,
                      r->proposals.count, r->boxes.box,   r->boxes.image,   r->boxes.label,
                      r->boxes.object,    r->boxes.delta, r->boxes.weight,  r->levels,
                      r->positive,        r->mask_box,    r->mask_image,    r->mask_level,
                      r->mask_label,      r->mask_object, r->mask_target,   r->soft_target};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        mabn_free(arrays[i]);
    free(r);
}

/* ---- small questions ---- */

const struct mabn_detector *mabn_rcnn_detector(const struct mabn_rcnn *r)
{
    return &r->detector;
}

void mabn_rcnn_tell_gradients(struct mabn_rcnn *r, mabn_net_ready ready, void *context)
{
    r->ready = ready;
    r->ready_context = context;
}

mabn_status mabn_rcnn_trace(struct mabn_rcnn *r, struct mabn_rcnn_trace *trace)
{
    if (r->gpu) {
        const struct mabn_scratch_mark mark = mabn_scratch_mark(&r->scratch);
        const mabn_status status = r->gpu->trace(r);
        mabn_scratch_back(&r->scratch, mark);
        if (status) return status;
    }
    *trace = (struct mabn_rcnn_trace){.room = r->proposals.room,
                                      .proposals = r->proposals.box,
                                      .counts = r->proposals.count,
                                      .boxes = r->boxes.count,
                                      .positives = r->boxes.positives,
                                      .box = r->boxes.box,
                                      .image = r->boxes.image,
                                      .label = r->boxes.label,
                                      .delta = r->boxes.delta,
                                      .masks = r->mask_target};
    return MABN_OK;
}
