/* The functions of rcnn.c's table for a GPU. struct rcnn_gpu (rcnn_internal.h) says what each does. */
#ifndef MABN_MODEL_RCNN_CUDA_H
#define MABN_MODEL_RCNN_CUDA_H

#include "model/rcnn_internal.h"

MABN_BEGIN_DECLS

/* ---- rcnn_cuda.cu: testing, and what both need ---- */

MABN_MUST_USE mabn_status mabn_rcnn_cuda_anchors(struct mabn_rcnn *r, struct rcnn_body *body,
                                                 const struct mabn_anchor_grid *grid);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_propose(struct mabn_rcnn *r,
                                                 const struct mabn_rpn_maps *maps,
                                                 const struct mabn_proposal_options *options);
bool mabn_rcnn_cuda_detects(struct mabn_rcnn *r);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_detect_begin(struct mabn_rcnn *r,
                                                      const struct mabn_rcnn_image *images);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_detect_result(struct mabn_rcnn *r,
                                                       struct mabn_rcnn_found *found, bool *all,
                                                       struct mabn_rcnn_figures *f);
const float *mabn_rcnn_cuda_found_masks(const struct mabn_rcnn *r, int image);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_mask_logits(struct mabn_rcnn *r, float *logit,
                                                     const struct mabn_net_output *all,
                                                     const int32_t *label, int64_t n);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_paste(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                                               const struct mabn_rcnn_size *size,
                                               const float *probability);
void mabn_rcnn_cuda_free(struct mabn_rcnn *r);

/* ---- rcnn_train_cuda.cu: steps of training ---- */

MABN_MUST_USE mabn_status mabn_rcnn_cuda_begin(struct mabn_rcnn *r,
                                               const struct mabn_rcnn_image *images, uint64_t step);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_result(struct mabn_rcnn *r, struct mabn_rcnn_figures *f);
int mabn_rcnn_cuda_behind(const struct mabn_rcnn *r);
/* The losses of a detection's pictures, for rcnn_cuda.cu if mabn_rcnn_cuda_measures. `begin` copies the true
 * boxes, labels and masks to the device. `body` and `heads` queue the forward halves of a step and may be
 * captured. `end` queues the copy of the losses to the host. `measured` waits for the oldest and sets
 * f->loss. */
bool mabn_rcnn_cuda_measures(struct mabn_rcnn *r);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_measure_begin(struct mabn_rcnn *r,
                                                       const struct mabn_rcnn_image *images);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_measure_body(struct mabn_rcnn *r);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_measure_heads(struct mabn_rcnn *r);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_measure_end(struct mabn_rcnn *r);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_measured(struct mabn_rcnn *r, struct mabn_rcnn_figures *f);
/* The same in two calls. */
MABN_MUST_USE mabn_status mabn_rcnn_cuda_measure_body_now(struct mabn_rcnn *r,
                                                          const struct mabn_rcnn_image *images);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_measure_heads_now(struct mabn_rcnn *r,
                                                           struct mabn_rcnn_figures *f);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_trace(struct mabn_rcnn *r);
void mabn_rcnn_cuda_graph_free(struct rcnn_body *body);
void mabn_rcnn_cuda_train_free(struct mabn_rcnn *r);

/* ---- rcnn_input_cuda.cu: pictures ---- */

MABN_MUST_USE mabn_status mabn_rcnn_cuda_input(struct mabn_rcnn *r, void **memory,
                                               const struct rcnn_pictures *pictures);
MABN_MUST_USE mabn_status mabn_rcnn_cuda_feed(void *context, struct mabn_net *net);
int64_t mabn_rcnn_cuda_next_feed(const struct mabn_rcnn *r);
void mabn_rcnn_cuda_feed_again(struct mabn_rcnn *r, int64_t number);
void mabn_rcnn_cuda_input_free(struct mabn_rcnn *r);

MABN_END_DECLS
#endif
