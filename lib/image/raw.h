/* A raw picture: as it was decoded, together with all that is still to be done to it on its way into a
 * batch for a detector (resizing, flip, order of channels, normalization), as one block of memory. Blocks
 * can be copied as bytes: a GPU that is given one does the rest (mabn_cuda_draw_raw in ops/ops_cuda.h),
 * which moves 1 MB of a COCO photograph over the bus in place of 13 MB of float32.
 *
 * Resizing is one of two rules, each to the last bit what the CPU's own code gives:
 *   MABN_RAW_BYTES   Pillow's 8-bit resize (image/resize.h), then the table
 *   MABN_RAW_FLOATS  the table, then two taps in float32 (image/bilinear.h)
 * Weights are computed here, once for each row and column, so that nothing depends on the double
 * arithmetic of a device.
 *
 * Layout: the head; `table` (3,256) floats by channel of the output; `x` (new_width) and `y` (new_height)
 * rows of 2 + taps numbers of 32 bits; `pixels` (height,width,3) bytes R G B. A row is
 *   MABN_RAW_BYTES   first pixel, number of taps, weights of 22 bits behind the point (PIL)
 *   MABN_RAW_FLOATS  the two pixels, the two weights (float32) */
#ifndef MABN_IMAGE_RAW_H
#define MABN_IMAGE_RAW_H

#include "image/image.h"

MABN_BEGIN_DECLS

enum mabn_raw_rule { MABN_RAW_BYTES, MABN_RAW_FLOATS };

struct mabn_raw {
    uint64_t bytes;                /* of the whole block: a multiple of 16 */
    uint64_t table, x, y, pixels;  /* places, in bytes from the head's beginning */
    int32_t width, height;         /* as decoded */
    int32_t new_width, new_height; /* as it will be; 0 × 0: no picture, only padding */
    int32_t rule;                  /* enum mabn_raw_rule */
    int32_t flip, swap;            /* the output is mirrored; it is in the order B G R */
    int32_t x_taps, y_taps;        /* most of a column, of a row */
    int32_t unused;
};

/* What is to be done. */
struct mabn_raw_plan {
    enum mabn_raw_rule rule;
    int width, height; /* to be */
    bool flip, swap;
    const float (*table)[256]; /* (3) by channel of the output: mabn_normalization_table */
};

/* *block becomes the picture's, of 3 channels. It is the caller's, begins as NULL, is reused while it is
 * large enough (*capacity), and freed with mabn_free. */
MABN_MUST_USE mabn_status mabn_raw_pack(struct mabn_raw **block, size_t *capacity,
                                        const struct mabn_image *image,
                                        const struct mabn_raw_plan *plan);
/* A block that holds no picture: only padding is drawn. Ownership as above. */
MABN_MUST_USE mabn_status mabn_raw_blank(struct mabn_raw **block, size_t *capacity);

/* The rest, done here: x (height,width,3) with the picture at the upper left and zeros elsewhere. Bit for
 * bit what a GPU draws in float32; slow, for tests and a few pictures. The block fits. */
void mabn_raw_draw(float *x, int width, int height, const struct mabn_raw *block);

MABN_END_DECLS
#endif
