/* Non-maximum suppression, greedy: best first, a box stays unless a better one that stayed overlaps
 * it by more than the threshold (IoU in float32, by division). Strictly more is the rule of the
 * reference's GPU kernel, from which its published numbers come; its CPU kernel uses at least.
 *
 * A box is only compared with those that stayed, so the time grows with n times the number kept. Boxes
 * are compared in blocks that vectorize. Only a block that may hold an overlap costs divisions. */
#ifndef MABN_DETECT_NMS_H
#define MABN_DETECT_NMS_H

#include <stdint.h>

#include "detect/convention.h"
#include "detect/scratch.h"

MABN_BEGIN_DECLS

/* Floats of scratch for n boxes. */
#define MABN_NMS_ROOM(n) (5 * ((size_t)(n) + 64))

/* Of the boxes (n,4), best first, the indices of those that stay into `keep`, ascending, at most `most`.
 * Returns how many. threshold is mabn_box_threshold's; with 0 or less all stay, whatever `most` says.
 * room: MABN_NMS_ROOM(min(n, most)) floats. */
int64_t mabn_nms_sorted(int32_t *keep, const float *box, int64_t n, int64_t most, float threshold,
                        float one, float *room);

/* Boxes in any order, equal scores by lowest index. keep (n): the indices that stay, best first, at most
 * `most`. With `ascending` they ascend, and `most` then cuts off the highest indices, not the worst
 * boxes, as the reference does. *kept: how many. */
MABN_MUST_USE mabn_status mabn_nms(int32_t *keep, int64_t *kept, const float *box,
                                   const float *score, int64_t n, int64_t most, float threshold,
                                   float one, bool ascending, struct mabn_scratch *scratch);

/* out (n,4): boxes moved by group·(m + 1) in float32, with m the largest coordinate of all. The
 * other programs use this to suppress in all groups at once. The moved coordinates are rounded,
 * which matters for boxes near the threshold, so it is reproduced here. */
void mabn_nms_shift(float *out, const float *box, int64_t n, int32_t group, float largest);

MABN_END_DECLS
#endif
