/* Targets of the mask head: the mask of each positive box's object within the box, at 28 × 28
 * pixels.
 *
 * Polygons are moved and scaled from the box to the small canvas and filled there by COCO's rule
 * (coco/mask.h), so that the target is 0 or 1. Or the mask is rasterized as an image and pooled by
 * RoIAlign, which gives values in between. Invalid polygons (far away, not finite) and boxes
 * without area give some target, never a failure. */
#ifndef MABN_DETECT_MASK_TARGETS_H
#define MABN_DETECT_MASK_TARGETS_H

#include <stdint.h>

#include "coco/mask.h"
#include "detect/convention.h"
#include "detect/scratch.h"

MABN_BEGIN_DECLS

/* The objects of one image: object i has polygons first_polygon[i] … first_polygon[i+1] − 1,
 * polygon p the numbers first_number[p] … first_number[p+1] − 1: x, y, x, y, … in the image as the
 * network sees it. An object may have none: its mask is empty. */
struct mabn_outlines {
    int64_t count;
    const uint32_t *first_polygon; /* (count+1) */
    const uint32_t *first_number;  /* (polygons+1) */
    const float *numbers;
    int width, height; /* of the image, without padding */
};

/* target (n,side,side) of 0 and 1, from box (n,4) and object (n) of `outlines`; an object outside
 * it is MABN_ERR_ARG. By the convention's rule for polygons (where it pools, like detectron2). */
MABN_MUST_USE mabn_status mabn_mask_targets_fill(uint8_t *target, const float *box,
                                                 const int32_t *object, int64_t n, int side,
                                                 const struct mabn_outlines *outlines,
                                                 const struct mabn_box_convention *c);

/* target (n,side,side) from 0 to 1: each object's mask of height × width pixels pooled by RoIAlign
 * with as many samples as the box has pixels, aligned (detectron2's bitmask format, which then
 * takes ≥ 0.5) or not (torchvision). A box that is not finite, or more than twice as large as the
 * image, is an error. */
MABN_MUST_USE mabn_status mabn_mask_targets_pool(float *target, const float *box,
                                                 const int32_t *object, int64_t n, int side,
                                                 const struct mabn_outlines *outlines, bool aligned,
                                                 struct mabn_scratch *scratch);

/* The two steps of it, for a mask given as run lengths: picture (height,width) of 0 and 1 from a
 * mask; target (n,side,side) from that picture and boxes (n,4). */
void mabn_mask_picture(float *picture, const struct mabn_rle *mask);
MABN_MUST_USE mabn_status mabn_mask_pool(float *target, const float *picture, int height, int width,
                                         const float *box, int64_t n, int side, bool aligned);

MABN_END_DECLS
#endif
