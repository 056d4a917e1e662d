/* Pasting: from the 28 × 28 probabilities of a detection to its mask in the image, as run lengths.
 *
 *     legacy,      the map gets a border of one zero pixel; the box grows by 30/28 about its
 *     torchvision  centre, its corners are truncated to whole pixels, both of which belong to it;
 *                  the map is resized to that size by two taps; a pixel is in the mask when > 0.5
 *     detectron2   the map is sampled where the centre of each pixel of the box lies, 0 outside;
 *                  a pixel is in the mask when ≥ 0.5
 *
 * Nothing of the image's size is ever written: a column of the box meets about thirty stretches
 * between two rows of the map, most of which are surely inside or outside; only the pixels of the
 * others are computed, in the float32 arithmetic of the programs. */
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
 * (4) in the image. A box that is outside, empty or not finite gives an empty mask.  */
MABN_MUST_USE mabn_status mabn_paste(struct mabn_rle *mask, const float *map, int side,
                                     const float *box, int width, int height,
                                     const struct mabn_box_convention *c,
                                     struct mabn_scratch *scratch);

MABN_END_DECLS
#endif
