/* Pasting: from the 28 × 28 probabilities of a detection to its mask in the image, as run lengths.
 *
 *     legacy,      The map gets a border of one zero pixel. The box grows by 30/28 about its centre.
 *     torchvision  Its corners are truncated to whole pixels, both of which belong to it. The map is
 *                  resized to that size by two taps. A pixel is in the mask when > 0.5.
 *     detectron2   The map is sampled at the centre of each pixel of the box, and is 0 outside. A
 *                  pixel is in the mask when ≥ 0.5.
 *
 * Nothing of the image's size is ever written. The map's rows cut a column of the box into about
 * thirty stretches, and most of these are surely inside or surely outside. Only the pixels of the
 * others are computed, in the float32 arithmetic of the other programs. */
#ifndef MABN_DETECT_PASTE_H
#define MABN_DETECT_PASTE_H

#include <stdint.h>

#include "coco/mask.h"
#include "detect/convention.h"
#include "detect/scratch.h"

MABN_BEGIN_DECLS

enum { MABN_PASTE_MAX_SIDE = 254 };

/* When the image has the size of the map, the reference uses the map itself as the mask; that is
 * not reproduced.
 *
 * mask: initialised; replaced by a mask of width × height pixels. map (side,side), rows first; box
 * (4) in the image. A box that is outside, empty or not finite gives an empty mask. */
MABN_MUST_USE mabn_status mabn_paste(struct mabn_rle *mask, const float *map, int side,
                                     const float *box, int width, int height,
                                     const struct mabn_box_convention *c,
                                     struct mabn_scratch *scratch);

MABN_END_DECLS
#endif
