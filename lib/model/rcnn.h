/* Running a detector: its three plans (model/detector.h) and the steps between them (lib/detect),
 * in training and in testing.
 *
 *     training   targets of the RPN → body forward → proposals → sample
 *                → box head forward, backward → positives → mask head forward, backward
 *                → body backward
 *     testing    body forward → proposals → box head → detections → mask head
 *
 * The losses are nodes of the three plans. Body plans are kept for the 16 most recently used
 * shapes, on a GPU for 64; they share memory for activations. Gradients are left in the store; the
 * caller does the update. The order of all computations is fixed, so a step repeats bit for bit.
 *
 * On a GPU the plans and the steps between them run there, in training (rcnn_train_cuda.cu) and in testing
 * from the pictures to the detections (rcnn_cuda.cu). The CPU computes the probabilities of masks. */
#ifndef MABN_MODEL_RCNN_H
#define MABN_MODEL_RCNN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "coco/mask.h"
#include "detect/detections.h"
#include "image/raw.h"
#include "model/detector.h"
#include "net/net.h"

MABN_BEGIN_DECLS

struct mabn_rcnn;

struct mabn_rcnn_options {
    bool training;
    bool measures; /* training: forward alone, for the norms' statistics: no gradients */
    int images;    /* at most, of a step */
    enum mabn_net_precision precision; /* AUTO: fp32, also on a GPU */
    bool save_memory;                  /* training: as in net.h */
    bool no_fold;                      /* testing: likewise */
    bool exact, tune;                  /* likewise; heads, whose rows vary, are not tuned */
    bool nms_across; /* testing: a detection suppresses those of other classes too */
    bool losses;     /* testing: the losses too, of pictures that come with what is in them */
    bool spread;     /* sample evenly, as in the golden recordings, instead of at random
                      * (detect/sample.h) */
    uint64_t seed;   /* of the samples */
    const struct mabn_norm_sync *sync;
};

/* params: borrowed; declared by mabn_detector_declare, for training if `training`. */
MABN_MUST_USE mabn_status mabn_rcnn_new(struct mabn_rcnn **rcnn, struct mabn_device *device,
                                        const struct mabn_detector *detector,
                                        struct mabn_params *params,
                                        const struct mabn_rcnn_options *options);
void mabn_rcnn_free(struct mabn_rcnn *rcnn); /* NULL is fine */
const struct mabn_detector *mabn_rcnn_detector(const struct mabn_rcnn *rcnn);

/* Memory for the next step's pictures, (images,height,width,3): to be filled with normalized
 * values, and zeros beyond each picture's own size. height and width are multiples of 32. MABN_ERR_ARG if
 * they are not, if `images` is more than options.images, and in testing while two detections are under
 * way. */
MABN_MUST_USE mabn_status mabn_rcnn_input(struct mabn_rcnn *rcnn, float **x, int images, int height,
                                          int width);

/* On a GPU that takes them, instead of mabn_rcnn_input: pictures as they were decoded, one block each
 * (image/raw.h). The GPU resizes, flips, normalizes and pads them. They are copied. */
bool mabn_rcnn_takes_raw(const struct mabn_rcnn *rcnn);
MABN_MUST_USE mabn_status mabn_rcnn_put_raw(struct mabn_rcnn *rcnn, struct mabn_raw *const *raw,
                                            int images, int height, int width);

/* One picture and its objects, in coordinates of the picture as the network sees it; borrowed. */
struct mabn_rcnn_image {
    uint64_t number;       /* its number in the whole run, on which random choices for it depend */
    int width, height;     /* without padding */
    int count;             /* of objects; in testing 0, or for the losses */
    const float *boxes;    /* (count,4) */
    const int32_t *labels; /* (count) 1 … classes */
    /* masks, as in detect/mask_targets.h; NULL without */
    const uint32_t *first_polygon, *first_number;
    const float *numbers;
};

enum mabn_rcnn_loss {
    MABN_RCNN_OBJECTNESS,
    MABN_RCNN_RPN_BOX,
    MABN_RCNN_CLASSIFIER,
    MABN_RCNN_BOX,
    MABN_RCNN_MASK,
    MABN_RCNN_LOSSES
};
/* "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask". */
extern const char *const mabn_rcnn_loss_names[MABN_RCNN_LOSSES];

enum mabn_rcnn_part {
    MABN_RCNN_PART_BODY, /* with FPN, RPN head and its losses */
    MABN_RCNN_PART_PROPOSALS,
    MABN_RCNN_PART_TARGETS, /* matching, sampling, targets of masks */
    MABN_RCNN_PART_BOX_HEAD,
    MABN_RCNN_PART_MASK_HEAD,
    MABN_RCNN_PART_DETECTIONS, /* testing: from the outputs of the box head to boxes */
    MABN_RCNN_PART_PASTING,    /* testing: from the outputs of the mask head to masks of the
                                * picture's size */
    MABN_RCNN_PARTS
};
extern const char *const mabn_rcnn_part_names[MABN_RCNN_PARTS];

struct mabn_rcnn_figures {
    double loss[MABN_RCNN_LOSSES];
    int64_t rpn_sampled, rpn_positives; /* anchors */
    int64_t proposals;                  /* without the true boxes that join them */
    int64_t boxes, positives;           /* regions that the box head saw */
    double seconds[MABN_RCNN_PARTS]; /* on a GPU with mabn_rcnn_time_parts alone, but for the masks
                                         * in testing */
};

/* Compute losses and all gradients for the pictures in the input; `images` has as many entries as
 * the input has pictures. Random samples depend on (seed, step, image number). */
MABN_MUST_USE mabn_status mabn_rcnn_step(struct mabn_rcnn *rcnn,
                                         const struct mabn_rcnn_image *images, uint64_t step,
                                         struct mabn_rcnn_figures *figures);
/* mabn_rcnn_step in two halves. On a GPU begin only queues the step, and the next step may begin before its
 * result is fetched. At most mabn_rcnn_depth steps may be without a fetched result; mabn_rcnn_behind says
 * how many are. After begin ask for the input's memory again: it has moved. Other calls that read or write
 * the parameters wait for the steps begun. */
MABN_MUST_USE mabn_status mabn_rcnn_begin(struct mabn_rcnn *rcnn,
                                          const struct mabn_rcnn_image *images, uint64_t step);
MABN_MUST_USE mabn_status mabn_rcnn_result(struct mabn_rcnn *rcnn,
                                           struct mabn_rcnn_figures *figures);
int mabn_rcnn_behind(const struct mabn_rcnn *rcnn);
int mabn_rcnn_depth(const struct mabn_rcnn *rcnn);
/* On a GPU: measure the parts of the steps and detections that begin from now on. These then run one at a
 * time and kernel by kernel, which is slower. None may be under way. */
void mabn_rcnn_time_parts(struct mabn_rcnn *rcnn, bool wanted);
/* As mabn_net_tell_gradients, for the body's backward, which comes last. */
void mabn_rcnn_tell_gradients(struct mabn_rcnn *rcnn, mabn_net_ready ready, void *context);
/* From now on, do steps add to the existing gradients? */
void mabn_rcnn_accumulate(struct mabn_rcnn *rcnn, bool accumulate);

/* ---- testing ---- */

/* The original size of a picture; struct mabn_rcnn_image has the size that the network sees. */
struct mabn_rcnn_size {
    int width, height;
};

/* The detections of one picture, in coordinates of the original. A zeroed struct is valid and
 * empty; it can be reused for the next picture. */
struct mabn_rcnn_found {
    struct mabn_detections boxes; /* detect/detections.h */
    struct mabn_rle *masks;       /* (boxes.count) of the original's size; NULL without masks */
    int64_t mask_room;            /* private */
};
void mabn_rcnn_found_release(struct mabn_rcnn_found *found);

/* Detect objects in the pictures of the input, with the detector's thresholds and limits. images:
 * their sizes; originals and found: one for each picture. With options.losses the images also have
 * their objects, and figures->loss has the losses of training, with the norms as in testing. No parameter
 * and no statistic changes. For the losses proposals are made and sampled a second time as in training;
 * the samples depend on (seed, image number). */
MABN_MUST_USE mabn_status mabn_rcnn_detect(struct mabn_rcnn *rcnn,
                                           const struct mabn_rcnn_image *images,
                                           const struct mabn_rcnn_size *originals,
                                           struct mabn_rcnn_found *found,
                                           struct mabn_rcnn_figures *figures);
/* mabn_rcnn_detect in two halves, under the rules of mabn_rcnn_begin and _result: on a GPU the next pictures
 * may begin before the detections of the last ones are fetched. The detections are the same. What the
 * images point to is not needed after begin. */
MABN_MUST_USE mabn_status mabn_rcnn_detect_begin(struct mabn_rcnn *rcnn,
                                                 const struct mabn_rcnn_image *images,
                                                 const struct mabn_rcnn_size *originals);
MABN_MUST_USE mabn_status mabn_rcnn_detect_result(struct mabn_rcnn *rcnn,
                                                  struct mabn_rcnn_found *found,
                                                  struct mabn_rcnn_figures *figures);

/* The plans that the last step used, for inspection and timing (net/net.h); NULL: none. */
enum mabn_rcnn_plan {
    MABN_RCNN_BODY_PLAN,
    MABN_RCNN_BOX_PLAN,
    MABN_RCNN_MASK_PLAN,
    MABN_RCNN_PLANS
};
struct mabn_net *mabn_rcnn_plan(const struct mabn_rcnn *rcnn, enum mabn_rcnn_plan plan);

/* The intermediate results of a step, for tests; valid until the next step. */
struct mabn_rcnn_trace {
    int64_t room;           /* rows of an image in the two below */
    const float *proposals; /* (images·room,4) with the true boxes */
    const int64_t *counts;  /* (images) */
    int64_t boxes, positives;
    const float *box;             /* (boxes,4) */
    const int32_t *image, *label; /* (boxes) */
    const float *delta;           /* (boxes,4) */
    const uint8_t *masks;         /* (positives,28,28) */
};
MABN_MUST_USE mabn_status mabn_rcnn_trace(struct mabn_rcnn *rcnn, struct mabn_rcnn_trace *trace);

MABN_END_DECLS
#endif
