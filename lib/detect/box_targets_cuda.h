/* The heads' targets on an NVIDIA GPU: box_targets.h and mask_targets.h for all images of a batch, in
 * device memory, from proposals that lie there.
 *
 * Boxes, labels, levels and masks are the CPU's to the bit; deltas differ by the rounding of log. Only
 * the device knows how many rows there are, so the arrays have room for the most. Rows behind the last
 * live one have no effect: label −1, weight 0, an empty box of image 0. Calls only launch kernels in
 * `stream` (cudaStream_t) and may be captured. */
#ifndef MABN_DETECT_BOX_TARGETS_CUDA_H
#define MABN_DETECT_BOX_TARGETS_CUDA_H

#include "base/rng.h"
#include "detect/box_targets.h"
#include "detect/proposals_cuda.h"

MABN_BEGIN_DECLS

/* The ground truth of a batch, on the device: image i has objects first[i] … first[i+1] − 1. Polygons and
 * numbers are as in struct mabn_outlines, but counted through the whole batch. */
struct mabn_cuda_objects {
    int64_t images;
    const int32_t *first;          /* (images+1) */
    const float *box;              /* (objects,4) */
    const int32_t *label;          /* (objects) 1 … classes */
    const struct mabn_rng *rng;    /* (images) from mabn_sample_stream */
    const int *width, *height;     /* (images), without padding */
    const uint32_t *first_polygon; /* (objects+1); NULL: no masks */
    const uint32_t *first_number;  /* (polygons+1) */
    const float *numbers;
};

/* As struct mabn_box_targets, and what the mask head reads: the positive rows, in order. */
struct mabn_cuda_box_targets {
    int64_t room, mask_room;
    float *box;                                    /* (room,4) */
    int32_t *image;                                /* (room) */
    int32_t *level;                                /* (room) as of mabn_box_levels from 2 to 5 */
    int32_t *label;                                /* (room) */
    float *delta;                                  /* (room,4) */
    float *weight;                                 /* (room) */
    float *mask_box;                               /* (mask_room,4) */
    int32_t *mask_image, *mask_level, *mask_label; /* (mask_room) */
    int32_t *mask_object;                          /* (mask_room) counted through the batch */
    int32_t *counts;                               /* (2): rows that live, positives */
};

size_t mabn_cuda_box_targets_bytes(int64_t images, int64_t room);
/* Appends the objects to the proposals, as mabn_proposals_add, then matches, samples and writes targets.
 * scratch: mabn_cuda_box_targets_bytes of proposals->room. MABN_ERR_ARG: a matcher with rescue. */
MABN_MUST_USE mabn_status mabn_cuda_box_targets_make(const struct mabn_cuda_box_targets *out,
                                                     const struct mabn_cuda_proposals *proposals,
                                                     const struct mabn_cuda_objects *objects,
                                                     const struct mabn_box_target_options *options,
                                                     const struct mabn_box_convention *c,
                                                     void *scratch, void *stream);

/* target (mask_room,side,side): mabn_mask_targets_fill of the positive rows, which have masks, side up
 * to 32; zeros behind them. */
MABN_MUST_USE mabn_status mabn_cuda_mask_targets_fill(uint8_t *target, int side,
                                                      const struct mabn_cuda_box_targets *rows,
                                                      const struct mabn_cuda_objects *objects,
                                                      const struct mabn_box_convention *c,
                                                      void *stream);

MABN_END_DECLS
#endif
