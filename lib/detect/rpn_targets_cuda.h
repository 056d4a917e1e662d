/* The RPN's targets on an NVIDIA GPU: rpn_targets.h for all images of a batch, in device memory.
 *
 * The labels and the samples are the same as on the CPU; deltas differ by the rounding of log.
 * Calls only launch kernels in `stream` (cudaStream_t) and may be captured. */
#ifndef MABN_DETECT_RPN_TARGETS_CUDA_H
#define MABN_DETECT_RPN_TARGETS_CUDA_H

#include "base/rng.h"
#include "detect/anchors.h"
#include "detect/rpn_targets.h"

MABN_BEGIN_DECLS

/* The ground truth of a batch, in device memory: image i has objects first[i] … first[i+1] − 1. */
struct mabn_cuda_truth {
    int64_t images;
    int64_t most;               /* objects of an image, at most */
    const int32_t *first;       /* (images+1) */
    const float *box;           /* (objects,4) */
    const int *width, *height;  /* (images), without padding */
    const struct mabn_rng *rng; /* (images) from mabn_sample_stream */
};

/* For the losses, level by level: anchor k of level l of image i is element
 * images·before(l) + i·level[l] + k, where before(l) counts the anchors of the levels before. */
struct mabn_cuda_rpn_targets {
    float *target, *weight, *box_weight; /* (images·n) */
    float *delta;                        /* (images·n,4): 0 where box_weight is 0 */
    int32_t *sampled, *positives;        /* (images) */
};

size_t mabn_cuda_rpn_targets_bytes(int64_t images, int64_t n, int64_t most);
/* anchor (n,4); level (levels): how many anchors each level has. scratch: mabn_cuda_rpn_targets_bytes. */
MABN_MUST_USE mabn_status mabn_cuda_rpn_targets_make(
    const struct mabn_cuda_rpn_targets *out, const float *anchor, const int64_t *level, int levels,
    const struct mabn_cuda_truth *truth, const struct mabn_rpn_target_options *options,
    const struct mabn_box_convention *c, void *scratch, void *stream);

MABN_END_DECLS
#endif
