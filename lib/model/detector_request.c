#include "model/detector_request.h"

#include <stdio.h>
#include <string.h>

static void set(int *value, int asked)
{
    if (asked > 0) *value = asked;
}

static bool asks_for_network(const struct mabn_detector_request *r)
{
    bool anchors = false;
    for (int i = 0; i < MABN_DETECTOR_LEVELS; i++)
        anchors = anchors || r->anchors[i] > 0;
    return r->fpn_width || r->head_width || r->fc_width || r->expansion || r->box_head >= 0 ||
           r->box_convs >= 0 || r->mask_convs >= 0 || r->stem_bias >= 0 || r->convention || anchors;
}

static mabn_status shape(struct mabn_detector *d, const struct mabn_detector_request *r)
{
    if (r->convention) MABN_TRY(mabn_detector_set_family(d, r->convention));
    set(&d->fpn_width, r->fpn_width);
    set(&d->box_conv_width, r->head_width);
    set(&d->mask_width, r->head_width);
    set(&d->box_width, r->fc_width);
    set(&d->body.expansion, r->expansion);
    if (r->box_head >= 0) d->box_head = (enum mabn_box_head)r->box_head;
    if (r->box_convs >= 0) d->box_convs = r->box_convs;
    if (r->mask_convs >= 0) d->mask_convs = r->mask_convs;
    if (r->stem_bias >= 0) d->stem_bias = r->stem_bias > 0;
    for (int i = 0; i < MABN_DETECTOR_LEVELS; i++)
        if (r->anchors[i] > 0) d->anchor_size[i] = r->anchors[i];
    return MABN_OK;
}

mabn_status mabn_detector_request(struct mabn_detector *d, const struct mabn_detector_request *r,
                                  bool fixed)
{
    if (fixed && asks_for_network(r))
        return mabn_fail(MABN_ERR_ARG, "widths, heads, anchors and box convention shape a new "
                                       "network; the model has its own");
    MABN_TRY(shape(d, r));
    if (r->frozen >= 0) d->frozen = r->frozen;
    set(&d->min_size, r->min_size);
    set(&d->max_size, r->max_size);
    if (r->min_size && !r->max_size && d->max_size < d->min_size) d->max_size = d->min_size * 5 / 3;
    if (r->min_size && !r->max_size && d->max_size == 1333 && r->min_size < 800)
        d->max_size = (r->min_size * 1333 + 400) / 800; /* in the usual proportion */
    if (r->proposals) {
        d->train = (struct mabn_detector_counts){r->proposals, r->proposals, r->proposals};
        const int half = (r->proposals + 1) / 2;
        d->test = (struct mabn_detector_counts){half, half, half};
    }
    set(&d->rpn_batch, r->rpn_batch);
    set(&d->box_batch, r->box_batch);
    if (r->min_score >= 0) d->min_score = r->min_score;
    if (r->nms > 0) d->nms = r->nms;
    set(&d->detections, r->detections);
    return mabn_detector_check(d);
}

static int divisor(int a, int b)
{
    while (b) {
        const int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

mabn_status mabn_detector_request_norm(struct mabn_detector *d,
                                       const struct mabn_norm_request *request)
{
    struct mabn_norm_options *norms[8];
    struct mabn_norm_request heads = *request;
    if (request->norm) MABN_TRY(mabn_detector_set_norm(d, request->norm));
    heads.norm_batch = -1;
    const int count = mabn_detector_norms(d, norms);
    for (int p = 0; p < count; p++) {
        const bool head = p > MABN_MODEL_PARTS;
        const int width = p < MABN_MODEL_PARTS               ? d->body.base_width
                          : p == MABN_MODEL_PARTS            ? d->fpn_width
                          : p == count - 1                   ? d->mask_width
                          : d->box_head == MABN_BOX_HEAD_2FC ? d->box_width
                                                             : d->box_conv_width;
        mabn_norm_request_apply(norms[p], head ? &heads : request);
        norms[p]->groups = divisor(norms[p]->groups, width);
    }
    return MABN_OK;
}
