/* Changes of colour on 8-bit pictures, with Pillow's arithmetic (ImageEnhance, and torchvision's
 * adjust_hue on PIL images), to the bit. Brightness and contrast take gray pictures too. */
#ifndef MABN_IMAGE_COLOUR_H
#define MABN_IMAGE_COLOUR_H

#include "image/image.h"

MABN_BEGIN_DECLS

/* factor 1: no change; 0: black, uniform gray, grayscale. */
void mabn_colour_brightness(struct mabn_image *image, float factor);
void mabn_colour_contrast(struct mabn_image *image, float factor);
void mabn_colour_saturation(struct mabn_image *image, float factor);
/* Turn the hue by `turn` (−½…½) of a full circle. */
void mabn_colour_hue(struct mabn_image *image, double turn);

MABN_END_DECLS
#endif
