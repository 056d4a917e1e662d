/* From a stored picture to the network's input: crop, resize, colour, flip, normalize.
 *
 * One struct holds all settings; presets fill it, options override them. The steps, in this order:
 *
 *   crop and resize to width × height (decoding no more of a JPEG than the crop needs)
 *   PCA lighting          \
 *   colour jitter          > on 8 bits
 *   horizontal flip       /
 *   (value·range/255 − mean)/deviation, channel order → float32 (height,width,channels)
 *   random erasing        sets normalized values to 0
 *
 * Every random choice comes from a stream keyed by (seed, epoch, position, purpose), position being
 * the sample's place in the epoch: the same picture drawn twice in an epoch differs, and nothing
 * depends on threads or ranks.  */
#ifndef MABN_IMAGE_AUGMENT_H
#define MABN_IMAGE_AUGMENT_H

#include "base/words.h"
#include "image/image.h"
#include "image/resize.h"

MABN_BEGIN_DECLS

enum mabn_crop_kind {
    /* Take the picture as it is, resizing it when its size differs. */
    MABN_CROP_NONE,
    /* Validation: shorter side to `short_side`, then the centre. short_side 0: no resizing. */
    MABN_CROP_CENTRE,
    /* The reference's square crop: edge = round(√(area·H·W)), top and left inside the picture;
     * after `attempts` windows that do not fit the last one is used, zero outside. */
    MABN_CROP_SQUARE,
    /* torchvision's RandomResizedCrop: area and aspect (log-uniform), fallback to the centre. */
    MABN_CROP_RESIZED,
    /* CIFAR: `pad` zeros on each side, then a random window of the output size. */
    MABN_CROP_PAD,
};

struct mabn_augment {
    int width, height; /* of the output */
    int channels;      /* of the output: 3, or 1 for gray */
    enum mabn_crop_kind crop;
    double area_min, area_max;     /* SQUARE, RESIZED: part of the picture's area */
    double aspect_min, aspect_max; /* RESIZED: width / height */
    int attempts;                  /* SQUARE, RESIZED: 10 */
    int pad;                       /* PAD */
    int short_side;                /* CENTRE */
    enum mabn_resize_kind resize;
    bool scaled_decode; /* let JPEGs be decoded at 1/2, 1/4, 1/8: quicker, pixels differ */

    double lighting;                              /* deviation of the PCA coefficients; 0: off */
    double brightness, contrast, saturation, hue; /* jitter as torchvision's ColorJitter; 0: off */
    double flip;                                  /* probability */
    double erase;                                 /* probability; 0: off */
    double erase_area_min, erase_area_max;        /* part of the output's area */
    double erase_aspect_min, erase_aspect_max;

    bool bgr;           /* channel order of the output */
    double range;       /* 255 or 1: what white becomes before mean and deviation */
    float mean[3];      /* in units of `range`, in the output's channel order */
    float deviation[3]; /* likewise */
};

/* Fill from a preset, for training or validation.
 *   "imagenet"    the reference: square crop (area 0.08…1), OpenCV resize, lighting 0.1, flip ½;
 *                 validation 256 → centre 224; BGR 0…255, no mean
 *   "torchvision" RandomResizedCrop (area 0.08…1, aspect ¾…4/3), Pillow resize, flip ½; validation
 *                 256 → 224; RGB 0…1, ImageNet's mean and deviation
 *   "cifar"       pad 4 and crop 32, flip ½; RGB 0…1, CIFAR-10's mean and deviation
 *   "plain"       no crop, no flip; RGB 0…1
 * Sizes are 224, 224, 32 and 0 (to be set by the caller). An unknown name is MABN_ERR_ARG.  */
MABN_MUST_USE mabn_status mabn_augment_preset(struct mabn_augment *augment, const char *name,
                                              bool training);
/* The words of presets, of crops, of resizing and of the channels' order (1: BGR). */
extern const struct mabn_word mabn_augment_presets[], mabn_augment_crops[], mabn_augment_resizes[],
    mabn_augment_orders[];

/* Check the fields; the message of MABN_ERR_ARG says which is wrong. */
MABN_MUST_USE mabn_status mabn_augment_check(const struct mabn_augment *augment);

/* Can the output be bytes, one table a channel away from the floats? All but erasing allows it. */
bool mabn_augment_has_bytes(const struct mabn_augment *augment);
/* The float of each byte, in the output's channel order: normalization. */
void mabn_augment_table(const struct mabn_augment *augment, float table[3][256]);

/* The sample for which random choices are made. */
struct mabn_augment_key {
    uint64_t seed, epoch, position;
};

/* Decoder, resizer and pictures of one thread. */
struct mabn_augmenter;
struct mabn_augmenter *mabn_augmenter_new(const struct mabn_augment *augment /* copied */);
/* Write bytes, not yet normalized, from here on; if mabn_augment_has_bytes. */
void mabn_augmenter_set_bytes(struct mabn_augmenter *augmenter);
void mabn_augmenter_free(struct mabn_augmenter *augmenter);

/* Encoded bytes, or pixels, to out (height,width,channels), of float or of uint8_t. */
MABN_MUST_USE mabn_status mabn_augment_encoded(struct mabn_augmenter *augmenter, void *out,
                                               const uint8_t *bytes, size_t size,
                                               const struct mabn_augment_key *key);
MABN_MUST_USE mabn_status mabn_augment_pixels(struct mabn_augmenter *augmenter, void *out,
                                              const uint8_t *pixels /* (height,width,channels) */,
                                              int width, int height, int channels,
                                              const struct mabn_augment_key *key);

MABN_END_DECLS
#endif
