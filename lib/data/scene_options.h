/* How a photograph is prepared for a detector (scene.h): the options, and what follows from them and
 * the photograph's size alone.
 *
 * Random choices (training size, flip) come from a stream keyed by (seed, epoch, sample), so that
 * the size of a scene is known before it is made and nothing depends on threads. */
#ifndef MABN_DATA_SCENE_OPTIONS_H
#define MABN_DATA_SCENE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/words.h"

MABN_BEGIN_DECLS

/* ---- options ---- */

/* Which program's sizes. With s the requested smaller side and m the longest allowed, of w × h:
 *   LEGACY       s ← round(m·min/max) (half to even) when max/min·s > m; then the smaller side is s
 *                and the other trunc(s·max/min), so that it can be m + 1. Pillow's 8-bit resize.
 *   DETECTRON2   both times s/min, then both times m/max if the larger is too long, each
 *                trunc(x + ½). Pillow's 8-bit resize.
 *   TORCHVISION  both times k = min(s/min, m/max), truncated. Normalized first, then resized in
 *                float32 by two taps, without antialiasing.
 * No side becomes less than 1. */
enum mabn_scene_rule {
    MABN_SCENE_LEGACY,
    MABN_SCENE_DETECTRON2,
    MABN_SCENE_TORCHVISION,
};

enum { MABN_SCENE_SIZES = 16 };

struct mabn_scene_options {
    enum mabn_scene_rule rule;
    int min_sizes[MABN_SCENE_SIZES]; /* one of these is chosen at random */
    int min_size_count;
    int max_size;
    int multiple;                /* padded sides are multiples of this: 32 */
    bool inclusive;              /* corners are pixels: legacy */
    double flip;                 /* probability */
    bool bgr;                    /* channel order of the output */
    double range;                /* the value of white before mean and deviation are applied: 255 or
                                  * 1 */
    float mean[3], deviation[3]; /* in units of `range`, in the output's channel order */
    bool leave_out_empty;        /* mabn_scene_select: no photographs without ground truth */
    bool keep_empty;             /* mabn_scene_select: all of them, whatever their annotations */
};

/* "legacy", "detectron2" or "torchvision"; for training (flip ½; detectron2's six sizes) or not.
 * Unknown names: MABN_ERR_NOTFOUND. */
MABN_MUST_USE mabn_status mabn_scene_preset(struct mabn_scene_options *options, const char *name,
                                            bool training);
extern const struct mabn_word mabn_scene_presets[];
/* MABN_ERR_ARG names the invalid field. */
MABN_MUST_USE mabn_status mabn_scene_check(const struct mabn_scene_options *options);

/* ---- sizes and choices ---- */

void mabn_scene_size(const struct mabn_scene_options *options, int min_size, int width, int height,
                     int *new_width, int *new_height);

struct mabn_scene_key {
    uint64_t seed, epoch, sample;
};
struct mabn_scene_choice {
    int min_size;
    bool flip;
};
struct mabn_scene_choice mabn_scene_choose(const struct mabn_scene_options *options,
                                           const struct mabn_scene_key *key);

MABN_END_DECLS
#endif
