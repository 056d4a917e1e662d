/* The last steps of augmentation: lighting, flip, channel order; then bytes or floats.
 *
 * Lighting and normalization are functions of one 8-bit value, so a table of 256 values a channel
 * defines them exactly for every mean and deviation. The vector code beside the tables gives the
 * same bits. */
#ifndef MABN_IMAGE_FINISH_H
#define MABN_IMAGE_FINISH_H

#include <stdbool.h>
#include <stdint.h>

#include "image/image.h"

MABN_BEGIN_DECLS

/* The output's channels: 1 or 3; tables, mean and deviation are in their order. */
struct mabn_normalization {
    int channels;
    double range; /* what white becomes, before mean and deviation */
    float mean[3], deviation[3];
};
/* (value·range/255 − mean)/deviation in single precision, for every value. */
void mabn_normalization_table(const struct mabn_normalization *n, float table[3][256]);

/* What to do to one picture. */
struct mabn_finish {
    bool flip;
    bool swap;                 /* reverse the order of channels; 3 channels */
    const uint8_t (*lit)[256]; /* by output channel, 3 channels; NULL: no lighting */
};

/* out (height,width,channels), not the picture itself. */
void mabn_finish_bytes(uint8_t *out, const struct mabn_image *in, const struct mabn_finish *finish);

/* Tables and a row of storage. */
struct mabn_finisher;
struct mabn_finisher *mabn_finisher_new(const struct mabn_normalization *n);
void mabn_finisher_free(struct mabn_finisher *finisher);
/* out (height,width,channels); `in` has the normalization's channels. */
void mabn_finish_floats(struct mabn_finisher *finisher, float *out, const struct mabn_image *in,
                        const struct mabn_finish *finish);
/* The same into rows that are `stride` floats apart; what lies between is left alone. */
void mabn_finish_rows(struct mabn_finisher *finisher, float *out, size_t stride,
                      const struct mabn_image *in, const struct mabn_finish *finish);

MABN_END_DECLS
#endif
