/* Resizing, by two exact definitions.
 *
 * MABN_RESIZE_PIL: Pillow's 8-bit BILINEAR, which widens its triangle when it shrinks
 * (antialiasing) and rounds to 8 bits between the horizontal and the vertical pass. Bit for bit
 * Pillow's result. Detection uses it, and torchvision's transforms on PIL images.
 *
 * MABN_RESIZE_CV: OpenCV's 8-bit INTER_LINEAR, two taps whatever the ratio (no antialiasing),
 * 11-bit weights, and the 2×2 mean when both sides shrink exactly to half. Bit for bit what OpenCV
 * 4.8 gives on x86-64; other builds of OpenCV may differ by 1. The classification reference uses
 * it.
 *
 * tests/peer/resize.py compares both with the originals. */
#ifndef MABN_IMAGE_RESIZE_H
#define MABN_IMAGE_RESIZE_H

#include "image/image.h"

MABN_BEGIN_DECLS

enum mabn_resize_kind { MABN_RESIZE_PIL, MABN_RESIZE_CV };

/* Weights and row buffers, reused from call to call: one for each thread. */
struct mabn_resizer;
struct mabn_resizer *mabn_resizer_new(void);
void mabn_resizer_free(struct mabn_resizer *resizer);

/* A region of a picture; may be fractional (after scaled decoding). */
struct mabn_region {
    double x, y, width, height;
};

/* out becomes width × height with the channels of `in`. box NULL: the whole of `in`. What lies
 * outside the box is not looked at (a whole-pixel box equals cropping first), save the rest of
 * pixels that a fractional box cuts. The box lies within the picture. in and out differ. */
MABN_MUST_USE mabn_status mabn_image_resize(struct mabn_resizer *resizer, struct mabn_image *out,
                                            const struct mabn_image *in,
                                            const struct mabn_region *box, int width, int height,
                                            enum mabn_resize_kind kind);

MABN_END_DECLS
#endif
