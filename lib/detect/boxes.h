/* Boxes: clipping, overlap, and the coding of boxes as a network's regression targets.
 *
 * With w = x2 − x1 + one, cx = x1 + w/2 (see convention.h) and weights wx, wy, ww, wh, a network
 * describes a box relative to a reference box by
 *
 *     dx = wx·(cx' − cx)/w    dw = ww·ln(w'/w)        likewise dy, dh
 *
 * Decoding caps dw and dh (divided by their weights) at ln(1000/16), so that no box explodes.
 * All in float32, in the order of operations of the reference. */
#ifndef MABN_DETECT_BOXES_H
#define MABN_DETECT_BOXES_H

#include <stdint.h>

#include "detect/convention.h"

MABN_BEGIN_DECLS

/* 10, 10, 5, 5 in the box head; 1, 1, 1, 1 in the RPN. */
struct mabn_box_weights {
    float x, y, w, h;
};

/* delta (n,4) of `truth` (n,4) as seen from `box` (n,4). */
void mabn_box_encode(float *delta, const float *box, const float *truth, int64_t n,
                     struct mabn_box_weights weights, float one);
/* out (4): `delta` (4) applied to `box` (4). */
void mabn_box_decode(float *out, const float *box, const float *delta,
                     struct mabn_box_weights weights, float one);

/* In place, box (n,4): x to [0, width − one], y to [0, height − one]. NaN stays. */
void mabn_box_clip(float *box, int64_t n, int width, int height, float one);

/* Whether both sides of the box are at least `min`, or with `more` greater than it. */
bool mabn_box_large_enough(const float *box, double min, bool more, float one);

/* iou (n): of one box with n. 0/0 is NaN. */
void mabn_box_iou_row(float *iou, const float *box, const float *boxes, int64_t n, float one);

/* level (n) of the pyramid that a box head reads each box from, `lowest` (2 for P2) being 0:
 * floor(4 + log2(√area / 224)), with the convention's epsilon, from lowest to highest. */
void mabn_box_levels(int32_t *level, const float *box, int64_t n, int lowest, int highest,
                     const struct mabn_box_convention *c);
/* The smallest √area / 224 for which that rule gives `level` or more, so that callers can decide
 * without computing a logarithm. It includes epsilon where the convention adds it inside the
 * logarithm. */
float mabn_box_level_from(int level, const struct mabn_box_convention *c);

MABN_END_DECLS
#endif
