/* Detections: from the box head's output for an image's proposals to the reported boxes.
 *
 * Class by class, the proposals whose probability is above the least score are decoded with that
 * class's deltas, clipped and suppressed. Of what stays in all classes the best are kept: in legacy
 * class by class in the order of proposals, with all that tie with the last; elsewhere best first
 * and at most the requested number. */
#ifndef MABN_DETECT_DETECTIONS_H
#define MABN_DETECT_DETECTIONS_H

#include <stdint.h>

#include "detect/boxes.h"
#include "detect/scratch.h"

MABN_BEGIN_DECLS

struct mabn_detection_options {
    double min_score; /* 0.05 */
    double threshold; /* of suppression: 0.5 */
    int64_t most;     /* 100; 0: all */
    struct mabn_box_weights weights;
    int32_t classes; /* without background */
    bool one_box;    /* the head regresses one box for all classes */
    bool across;     /* a detection suppresses those of other classes too */
};
struct mabn_detection_options mabn_detection_defaults(int32_t classes);

/* A zeroed struct is valid and empty. It owns its arrays, which are reused for the next image. */
struct mabn_detections {
    int64_t count;
    float *box;      /* (count,4) */
    float *score;    /* (count) */
    int32_t *label;  /* (count) 1…classes, in every convention */
    int32_t *source; /* (count) the proposal it comes from */
    int32_t *mask;   /* (count) its number before mabn_detections_scale, which may drop some */
    int64_t room;    /* private */
};
void mabn_detections_release(struct mabn_detections *d);

/* The box head's output for the n proposals (n,4) of an image: logit (n,classes+1), in the head's own
 * numbering (mabn_class_label), and delta (n,4·groups). With `one_box` there is one group; else one for
 * each logit, but none for a background that comes last. */
struct mabn_box_scores {
    int64_t n;
    const float *proposal, *logit, *delta;
    int width, height; /* of the image, without padding */
};

/* Replaces *d. */
MABN_MUST_USE mabn_status mabn_detections_make(struct mabn_detections *d,
                                               const struct mabn_box_scores *scores,
                                               const struct mabn_detection_options *options,
                                               const struct mabn_box_convention *c,
                                               struct mabn_scratch *scratch);

/* Replaces *d by n that were made elsewhere. */
void mabn_detections_set(struct mabn_detections *d, int64_t n, const float *box, const float *score,
                         const int32_t *label, const int32_t *source);

/* From an image of width × height to its original size, in place. */
void mabn_detections_scale(struct mabn_detections *d, int width, int height, int original_width,
                           int original_height, const struct mabn_box_convention *c);

/* x, y, width, height as in a results file. */
void mabn_detection_record(double record[4], const float *box, const struct mabn_box_convention *c);

/* probability (n,pixels): the sigmoid of each detection's class, from logit (n,pixels,channels) as
 * the mask head gave them. There is one channel for all classes, or one for each logit of the boxes,
 * but none for a background that comes last. label (n) as above; MABN_ERR_ARG if one has no channel. */
MABN_MUST_USE mabn_status mabn_mask_probability(float *probability, const float *logit,
                                                const int32_t *label, int64_t n, int64_t pixels,
                                                int64_t channels,
                                                const struct mabn_box_convention *c);

MABN_END_DECLS
#endif
