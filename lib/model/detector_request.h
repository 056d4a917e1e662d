/* A user's settings for a detector: one struct for every tool that makes or changes one. A setting
 * that is not given (0, NULL, or < 0 where 0 has a meaning) leaves the detector unchanged. */
#ifndef MABN_MODEL_DETECTOR_REQUEST_H
#define MABN_MODEL_DETECTOR_REQUEST_H

#include "model/detector.h"
#include "model/norm_request.h"

MABN_BEGIN_DECLS

struct mabn_detector_request {
    /* the network; fixed when there are weights */
    int fpn_width, head_width, fc_width; /* head: convolutions of box and mask head */
    int expansion;                       /* of bottlenecks */
    int box_head;                        /* enum mabn_box_head; < 0 */
    int box_convs, mask_convs;           /* < 0 */
    int stem_bias;                       /* < 0 */
    const char *convention;
    double anchors[MABN_DETECTOR_LEVELS];
    /* training and testing */
    int frozen; /* < 0 */
    int min_size, max_size;
    int proposals;            /* of a training batch (legacy), and half as many of a test image */
    int rpn_batch, box_batch; /* sampled of an image */
    double min_score;         /* < 0 */
    double nms;               /* overlap that suppresses a detection */
    int detections;
};
#define MABN_DETECTOR_REQUEST_INIT                                                        \
    {                                                                                     \
        .box_head = -1, .box_convs = -1, .mask_convs = -1, .stem_bias = -1, .frozen = -1, \
        .min_score = -1                                                                   \
    }

/* fixed: the detector has weights, so its network cannot change. MABN_ERR_ARG if the request would
 * change it, or is invalid. */
MABN_MUST_USE mabn_status mabn_detector_request(struct mabn_detector *detector,
                                                const struct mabn_detector_request *request,
                                                bool fixed);
/* norm_batch counts images, so it applies to body and fpn only: a head's statistic is taken over
 * all regions of a step. GN's groups are reduced to a number that divides the channels. */
MABN_MUST_USE mabn_status mabn_detector_request_norm(struct mabn_detector *detector,
                                                     const struct mabn_norm_request *request);

MABN_END_DECLS
#endif
