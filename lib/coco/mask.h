/* Masks as run lengths, the way COCO keeps them.
 *
 * A mask of height H and width W is read column by column (pixel (x,y) is number x*H + y) and kept
 * as the lengths of its runs, zeros first: counts[0] zeros (perhaps none), then counts[1] ones, ...
 * The counts of every mask made here are canonical: they sum to H*W, and only the first may be 0.
 *
 * In JSON a mask is {"size": [H, W], "counts": ...} where counts is a list (uncompressed) or a
 * string (compressed: from the fourth count on, the difference to the count two places before; in
 * groups of five bits, lowest first, plus 32 when another group follows, plus 48).
 *
 * All sizes are checked: H and W below 2^31, H*W below 2^32, counts that overrun the image, strings
 * that end early, coordinates beyond 10^8: MABN_ERR_FORMAT or MABN_ERR_LIMIT, never a crash.
 * Counts that stop short of the image are filled up with zeros, as pycocotools' decoder does. */
#ifndef MABN_COCO_MASK_H
#define MABN_COCO_MASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json_write.h"
#include "base/status.h"
#include "base/str.h"

MABN_BEGIN_DECLS

/* Invariant: _init or a successful call leaves valid counts. capacity 0: counts are borrowed. */
struct mabn_rle {
    uint32_t height, width;
    uint32_t *counts; /* (count) */
    size_t count, capacity;
    uint32_t missing; /* pixels behind the last run that was read; they are zeros */
};

struct mabn_box {
    double x, y, w, h; /* left, top, width, height */
};

void mabn_rle_init(struct mabn_rle *r);
void mabn_rle_release(struct mabn_rle *r);

/* Each of these replaces what `out` held and reuses its storage. */

/* From pixels, column-major: mask[x*height + y] != 0. */
MABN_MUST_USE mabn_status mabn_rle_encode(struct mabn_rle *out, const uint8_t *mask,
                                          uint32_t height, uint32_t width);
/* From pixels in rows, as images are: mask[y*width + x] != 0. */
MABN_MUST_USE mabn_status mabn_rle_encode_rows(struct mabn_rle *out, const uint8_t *mask,
                                               uint32_t height, uint32_t width);
MABN_MUST_USE mabn_status mabn_rle_from_counts(struct mabn_rle *out, const uint32_t *counts,
                                               size_t n, uint32_t height, uint32_t width);
MABN_MUST_USE mabn_status mabn_rle_from_string(struct mabn_rle *out, const char *text, size_t n,
                                               uint32_t height, uint32_t width);
/* Polygon of n/2 corners x0,y0,x1,y1,... (an odd last number is ignored), filled even-odd exactly
 * as COCO's tools do: corners are rounded to a fifth of a pixel. */
MABN_MUST_USE mabn_status mabn_rle_from_polygon(struct mabn_rle *out, const double *xy, size_t n,
                                                uint32_t height, uint32_t width);
MABN_MUST_USE mabn_status mabn_rle_from_box(struct mabn_rle *out, struct mabn_box box,
                                            uint32_t height, uint32_t width);
/* Union (or intersection) of n masks of one size, else MABN_ERR_MISMATCH; n 0: a 0×0 mask. `out` is none
 * of the masks. */
MABN_MUST_USE mabn_status mabn_rle_merge(struct mabn_rle *out, const struct mabn_rle *masks,
                                         size_t n, bool intersect);

/* Pixels 0 or 1, column-major, height*width of them; and the same in rows. */
void mabn_rle_decode(uint8_t *mask, const struct mabn_rle *r);
void mabn_rle_decode_rows(uint8_t *mask, const struct mabn_rle *r);
/* Append the compressed string. */
void mabn_rle_to_string(struct mabn_str *out, const struct mabn_rle *r);
/* As annotations have it: {"size":[height,width],"counts":…}. */
void mabn_rle_put(struct mabn_json_writer *w, const char *key, const struct mabn_rle *r);

uint64_t mabn_rle_area(const struct mabn_rle *r);
/* The smallest box; all zero for an empty mask. COCO's quirk: a run of ones that enters another
 * column makes the box full height. */
struct mabn_box mabn_rle_box(const struct mabn_rle *r);

/* Intersection over union; over the detection's own area when the truth is a crowd. -1 when the
 * sizes differ although the boxes overlap (which never matches). */
double mabn_rle_iou(const struct mabn_rle *detection, const struct mabn_rle *truth, bool crowd);
double mabn_box_iou(struct mabn_box detection, struct mabn_box truth, bool crowd);

/* The pixels of a mask that are at most `distance` (1 or more) from its outside, by rows, columns and
 * diagonals alike; beyond the image is outside. */
MABN_MUST_USE mabn_status mabn_rle_boundary(struct mabn_rle *out, const struct mabn_rle *r,
                                            uint32_t distance);
/* The distance of boundary IoU (Cheng and others, 2021): 2 % of the image's diagonal, rounded, at least
 * 1. */
uint32_t mabn_rle_boundary_distance(uint32_t height, uint32_t width);

MABN_END_DECLS
#endif
