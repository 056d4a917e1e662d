/* Plain bilinear resizing in float32: two taps whatever the ratio (no antialiasing), as PyTorch's
 * `interpolate(mode="bilinear", align_corners=False)` does it on the CPU with several threads, to
 * the bit. torchvision's detectors resize in this way, after normalizing.
 *
 *   scale = in/out in float32; place = max(scale·(i + ½) − ½, 0); low = trunc, high = min(low + 1,
 *   in − 1), weights l1 = place − low and l0 = 1 − l1; first along rows, then along columns, each
 *   fma(v0, l0, v1·l1). */
#ifndef MABN_IMAGE_BILINEAR_H
#define MABN_IMAGE_BILINEAR_H

#include <stddef.h>

#include "image/image.h"

MABN_BEGIN_DECLS

/* The pixels low and high, with these weights. */
struct mabn_bilinear_tap {
    int low, high;
    float w0, w1;
};
/* Of output i of a side. */
struct mabn_bilinear_tap mabn_bilinear_tap_of(int i, int in, int out);

struct mabn_bilinear {
    float *rows;
    size_t room;
    struct mabn_bilinear_tap *taps;
};
/* out (height rows of `stride` floats, width·3 of each written) from a picture of 3 channels, whose
 * values are looked up by channel: table[c][v]. `scratch` is the caller's, zeroed at
 * first and kept from call to call. */
MABN_MUST_USE mabn_status mabn_bilinear_resize(struct mabn_bilinear *scratch, float *out,
                                               size_t stride, int width, int height,
                                               const struct mabn_image *in,
                                               const float table[3][256]);
void mabn_bilinear_release(struct mabn_bilinear *scratch);

MABN_END_DECLS
#endif
