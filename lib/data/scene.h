/* A scene: one photograph with its annotations, prepared for a detector.
 *
 * The annotations become ground truth, in this order (the reference's):
 *   1. crowds are dropped, and what has no box;
 *   2. boxes x, y, w, h become corners in float32: x2 = x + max(w − 1, 0) where corners are
 *      inclusive (legacy), x + w elsewhere; likewise y2;
 *   3. boxes are clipped to the photograph: [0, W − 1] where inclusive, else [0, W];
 *   4. boxes stay only if x2 > x1 and y2 > y1;
 *   5. polygons of fewer than 6 numbers are dropped. Where the reference then loses step between
 *      boxes and polygons, here an object without a polygon stays, without a mask; so does one
 *      whose segmentation cannot be used (mabn-pack says why);
 *   6. masks given as run lengths, which the reference cannot use, become polygons that COCO's rule
 *      fills to exactly the same pixels (coco/outline.h).
 * Class k + 1 is category k in the order of the annotation file; 0 is background.
 *
 * Photograph, boxes and polygons are then resized by the rule of a family of detectors, flipped
 * (legacy: x' = W − 1 − x, elsewhere W − x), and the pixels normalized to float32 and written to
 * the upper left corner of a padded picture whose rest is zero. EXIF data are ignored unless
 * mabn_scene_set_turn was called. */
#ifndef MABN_DATA_SCENE_H
#define MABN_DATA_SCENE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "data/scene_options.h"
#include "data/scene_set.h"
#include "image/raw.h"

MABN_BEGIN_DECLS

/* ---- which photographs are trained on ---- */

struct mabn_scene_census {
    uint64_t images, kept;
    uint64_t bare;           /* left out: no annotation */
    uint64_t degenerate;     /* left out: every annotation is at most 1 pixel wide or high */
    uint64_t unposed;        /* left out: annotated with keypoints, fewer than 10 of them visible */
    uint64_t left_out_empty; /* left out: nothing remains of the annotations */
    uint64_t empty; /* kept although nothing remains: only crowds, boxes outside, or none */
    /* Annotations of the photographs kept. */
    uint64_t objects;  /* kept */
    uint64_t crowds;   /* dropped: crowds */
    uint64_t boxless;  /* dropped: their boxes are missing or invalid */
    uint64_t outside;  /* dropped by 3 and 4 */
    uint64_t maskless; /* kept without a mask */
};
/* *samples (malloc'd, caller frees): the numbers of the photographs to train on, ascending, by the
 * reference's filter. Fails if no object is left. census may be NULL. */
MABN_MUST_USE mabn_status mabn_scene_select(const struct mabn_scene_set *set,
                                            const struct mabn_scene_options *options,
                                            uint64_t **samples, uint64_t *count,
                                            struct mabn_scene_census *census);
/* Append it in words, for the log: "979 of 1000 photographs; left out: 21 without annotations; …".
 */
void mabn_scene_census_text(struct mabn_str *text, const struct mabn_scene_census *census);

/* Steps 1 to 4 for one record: false when it is dropped. box: x1, y1, x2, y2 in the photograph. */
bool mabn_scene_box(const struct mabn_scene_options *options, const struct mabn_coco_record *record,
                    int width, int height, float box[4]);

/* ---- scenes ---- */

/* A zeroed struct is a valid empty scene. It owns its arrays, which are reused for the next
 * scene. */
struct mabn_scene {
    uint64_t sample;
    int64_t image_id;
    int original_width, original_height;
    int width, height; /* resized, without padding: the size that boxes are clipped to */
    struct mabn_scene_choice choice;
    bool bad; /* could not be decoded and was skipped: zeros, no objects */

    int count;
    float *boxes;            /* (count,4) x1, y1, x2, y2 in the resized photograph */
    int32_t *labels;         /* (count) 1…K */
    uint32_t *records;       /* (count) the annotation's index in mabn_scene_set_coco */
    uint32_t *first_polygon; /* (count+1) polygons [first_polygon[i], first_polygon[i+1]) */
    uint32_t *first_number;  /* (polygons+1) numbers [first_number[p], first_number[p+1]) */
    float *numbers;          /* x, y, x, y, … in the resized photograph */

    /* private: room in the arrays */
    size_t object_room, polygon_room, number_room, n_polygons, n_numbers;
};
void mabn_scene_release(struct mabn_scene *scene);

/* The state of one thread that makes scenes. The set is borrowed, the options are copied. */
struct mabn_scene_maker;
struct mabn_scene_maker *mabn_scene_maker_new(const struct mabn_scene_set *set,
                                              const struct mabn_scene_options *options);
void mabn_scene_maker_free(struct mabn_scene_maker *maker);

/* Only size and ground truth: nothing is read or decoded. */
MABN_MUST_USE mabn_status mabn_scene_target(struct mabn_scene_maker *maker,
                                            struct mabn_scene *scene, uint64_t sample,
                                            struct mabn_scene_choice choice);
/* The whole scene. x (padded_height,padded_width,3) is written entirely; the padded size is at
 * least the scene's. A photograph that cannot be read or decoded, or whose size is not the one in
 * its header, is an error that names it; `scene` then has its size and ground truth. */
MABN_MUST_USE mabn_status mabn_scene_make(struct mabn_scene_maker *maker, struct mabn_scene *scene,
                                          uint64_t sample, struct mabn_scene_choice choice,
                                          float *x, int padded_width, int padded_height);
/* The same, but the photograph is only decoded: what remains to be done goes with it into a block
 * (image/raw.h), under the rules of mabn_raw_pack. Drawn, it is x. */
MABN_MUST_USE mabn_status mabn_scene_make_raw(struct mabn_scene_maker *maker,
                                              struct mabn_scene *scene, uint64_t sample,
                                              struct mabn_scene_choice choice,
                                              struct mabn_raw **block, size_t *capacity);
/* No objects: used for a photograph that is skipped. The pixels are zeros: mabn_scene_clear, or
 * mabn_raw_blank. */
void mabn_scene_blank(struct mabn_scene *scene);
void mabn_scene_clear(float *x, int padded_width, int padded_height);

MABN_END_DECLS
#endif
