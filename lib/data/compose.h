/* Scenes composed of cut-outs: a background with some objects on it, rotated, scaled, coloured, one
 * over another, with exact masks and boxes. They make a dataset for detection out of one for
 * classification.
 *
 * A scene depends only on (options, cut-outs, number). Objects are placed one after the other; a
 * later one hides what lies beneath. One that would hide too much of another is tried elsewhere,
 * and left out after some tries. An object's mask holds its visible part. */
#ifndef MABN_DATA_COMPOSE_H
#define MABN_DATA_COMPOSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "coco/mask.h"
#include "data/cutouts.h"
#include "image/image.h"

MABN_BEGIN_DECLS

enum mabn_compose_background {
    MABN_BACKGROUND_MIXED, /* one of the others, at random */
    MABN_BACKGROUND_PLAIN,
    MABN_BACKGROUND_GRADIENT, /* from one colour to another, at any angle */
    MABN_BACKGROUND_NOISE,    /* clouds and grain of two colours */
};

struct mabn_compose_options {
    int width, height;
    int min_objects, max_objects; /* that are tried */
    double min_scale, max_scale;  /* an object's longer side, before rotation, over the scene's
                                  * shorter side */
    double rotation;              /* rotated by up to this many degrees in either direction */
    bool mirror;                  /* mirror half of them left to right */
    double overlap;               /* largest share of an object that others may hide, 0…1 */
    int min_area;                 /* smallest visible area of each in pixels, ≥ 1 */
    double tint;                  /* 0…1: how strongly gray objects are coloured */
    enum mabn_compose_background background;
    uint64_t seed;
};
/* 128 × 128, 2…6 objects of 0.25…0.5, rotated by up to 45°, mirrored, hidden by at most 0.4, at
 * least 24 pixels visible, tint 0.7, mixed backgrounds. */
void mabn_compose_options_init(struct mabn_compose_options *options);
/* MABN_ERR_ARG names the invalid field. */
MABN_MUST_USE mabn_status mabn_compose_check(const struct mabn_compose_options *options);

struct mabn_composed_object {
    int label;
    uint64_t cutout;      /* number of the cut-out */
    struct mabn_rect box; /* of its mask */
    uint64_t area;        /* pixels of its mask */
    struct mabn_rle mask; /* its visible part */
};

/* A zeroed struct is valid; it can be reused from scene to scene. */
struct mabn_composition {
    struct mabn_image image;
    struct mabn_composed_object *objects; /* (count) from the lowest to the uppermost */
    int count;
    int left_out; /* because they would hide too much */
    int room;     /* private */
};
void mabn_composition_release(struct mabn_composition *composition);

/* The state of one thread. The cut-outs are borrowed. */
struct mabn_composer;
struct mabn_composer *mabn_composer_new(const struct mabn_cutouts *cutouts,
                                        const struct mabn_compose_options *options);
void mabn_composer_free(struct mabn_composer *composer);
MABN_MUST_USE mabn_status mabn_compose(struct mabn_composer *composer, struct mabn_composition *out,
                                       uint64_t number);

MABN_END_DECLS
#endif
