/* Scenes composed of cut-outs: a background and some things on it, turned, scaled, coloured, one
 * over another, with exact masks and boxes. A dataset for detection out of one for classification.
 *
 * A scene is a pure function of (options, cut-outs, number). Things are put down one after the
 * other; a later one hides what lies beneath. One that would hide too much of another is tried
 * elsewhere, and after some tries left out. What an object's mask holds is what is seen of it. */
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
    MABN_BACKGROUND_MIXED, /* one of the others, by lot */
    MABN_BACKGROUND_PLAIN,
    MABN_BACKGROUND_GRADIENT, /* from one colour to another, at any angle */
    MABN_BACKGROUND_NOISE,    /* clouds and grain of two colours */
};

struct mabn_compose_options {
    int width, height;
    int min_objects, max_objects; /* that are tried */
    double min_scale, max_scale; /* a thing's longer side, before turning, by the scene's shorter */
    double rotation;             /* rotated by up to this many degrees in either direction */
    bool mirror;                 /* half of them left to right */
    double overlap;              /* most of a thing that others may hide, 0…1 */
    int min_area;                /* pixels of each that must be seen, ≥ 1 */
    double tint;                 /* 0…1: how strongly gray things are coloured */
    enum mabn_compose_background background;
    uint64_t seed;
};
/* 128 × 128, 2…6 things of 0.25…0.5, turned by up to 45°, mirrored, hidden by at most 0.4, at least
 * 24 pixels, tint 0.7, mixed backgrounds. */
void mabn_compose_options_init(struct mabn_compose_options *options);
/* MABN_ERR_ARG says which field makes no sense. */
MABN_MUST_USE mabn_status mabn_compose_check(const struct mabn_compose_options *options);

struct mabn_composed_object {
    int label;
    uint64_t cutout;      /* which it is of */
    struct mabn_rect box; /* of its mask */
    uint64_t area;        /* pixels of its mask */
    struct mabn_rle mask; /* what is seen of it */
};

/* Zeroed is valid; used again from scene to scene. */
struct mabn_composition {
    struct mabn_image image;
    struct mabn_composed_object *objects; /* (count) from the lowest to the uppermost */
    int count;
    int left_out; /* for want of room */
    int room;     /* private */
};
void mabn_composition_release(struct mabn_composition *composition);

/* What one thread needs. The cut-outs are borrowed. */
struct mabn_composer;
struct mabn_composer *mabn_composer_new(const struct mabn_cutouts *cutouts,
                                        const struct mabn_compose_options *options);
void mabn_composer_free(struct mabn_composer *composer);
MABN_MUST_USE mabn_status mabn_compose(struct mabn_composer *composer, struct mabn_composition *out,
                                       uint64_t number);

MABN_END_DECLS
#endif
