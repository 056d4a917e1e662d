/* RoIAlign: a box of a feature map, sampled bilinearly and averaged to a fixed number of bins.
 *
 * The maps are float32 (N,H,W,C), one for each level of a pyramid; a call handles the boxes of all
 * levels. Box r lies in image image[r] and is read from level level[r]; its corners times the scale
 * of that level are positions on the map. Each bin averages a grid of samples. A sample more than
 * one pixel outside the map has value 0 and still counts; one that is closer takes the value at the
 * border.
 *
 *                 offset of the scaled corners   extent            grid of a bin
 *     not aligned 0                              at least 1        sampling × sampling
 *     aligned     −0.5                           as it is          or, with sampling 0,
 *                                                                  ceil(extent / bins) each way
 *
 * maskrcnn-benchmark and torchvision's detectors use (not aligned, 2), Detectron2 (aligned, 0). The
 * forward sums are in torchvision's order, so that its numbers come out bit for bit. The results do
 * not depend on the number of threads. That includes backward, where a thread owns channels. */
#ifndef MABN_OPS_ROI_ALIGN_H
#define MABN_OPS_ROI_ALIGN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum { MABN_ROI_MAX_LEVELS = 8 };

struct mabn_roi_level {
    int64_t h, w;
    double scale; /* pixels of the map to a pixel of the image: 1/4 for P2 */
};

struct mabn_roi_align {
    int64_t images, channels;
    int levels;
    struct mabn_roi_level level[MABN_ROI_MAX_LEVELS];
    int rows, columns; /* bins: 7×7, 14×14 */
    int sampling;      /* samples of a bin each way; 0: as many as it has pixels */
    bool aligned;
};

/* The boxes of one call; count may be 0, and is otherwise free to change from call to call. */
struct mabn_rois {
    int64_t count;
    const float *box;     /* (K,4): x1, y1, x2, y2 in pixels of the image */
    const int32_t *image; /* (K) */
    const int32_t *level; /* (K), NULL: all 0 */
};

/* MABN_ERR_ARG: an image or level that does not exist; MABN_ERR_NONFINITE: a box that is not finite;
 * MABN_ERR_LIMIT: one that would take more than 2^20 samples along a side. The message names the box.
 * Forward and backward check the boxes themselves. */
MABN_MUST_USE mabn_status mabn_rois_check(const struct mabn_rois *rois,
                                          const struct mabn_roi_align *op);
/* y (K,rows,columns,C) is overwritten; x[level] (N,H,W,C). */
MABN_MUST_USE mabn_status mabn_roi_align_forward(float *y, const float *const *x,
                                                 const struct mabn_rois *rois,
                                                 const struct mabn_roi_align *op);
/* dx[level] (N,H,W,C) of every level: overwritten (zero where no box lies), or with `add` added to.
 * dy (K,rows,columns,C). The boxes get no gradient. */
MABN_MUST_USE mabn_status mabn_roi_align_backward(float *const *dx, const float *dy,
                                                  const struct mabn_rois *rois,
                                                  const struct mabn_roi_align *op, bool add);

/* The reference: the same, sample by sample as defined, on one thread. Tests compare the others
 * with it. backward adds to dx. */
MABN_MUST_USE mabn_status mabn_roi_align_forward_reference(float *y, const float *const *x,
                                                           const struct mabn_rois *rois,
                                                           const struct mabn_roi_align *op);
MABN_MUST_USE mabn_status mabn_roi_align_backward_reference(double *const *dx, const float *dy,
                                                            const struct mabn_rois *rois,
                                                            const struct mabn_roi_align *op);

MABN_END_DECLS
#endif
