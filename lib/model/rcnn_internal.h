/* Shared by a detector's files, from the lowest: rcnn_plans.c, rcnn_train.c, rcnn_test.c, the GPU's
 * rcnn_input_cuda.cu, rcnn_train_cuda.cu and rcnn_cuda.cu, rcnn.c. */
#ifndef MABN_MODEL_RCNN_INTERNAL_H
#define MABN_MODEL_RCNN_INTERNAL_H

#include "detect/box_targets.h"
#include "detect/mask_targets.h"
#include "detect/proposals.h"
#include "model/rcnn.h"
#include "net/losses.h"

MABN_BEGIN_DECLS

/* Plans are expensive to make on a GPU, because each one queries NVIDIA's libraries again. 260 of COCO's
 * photographs have 31 shapes. For batches of two, 16 plans would not have the shape of one batch in 70. */
enum { RCNN_MASK_SIDE = 28, RCNN_MAX_PLANS = 64, RCNN_MAX_PLANS_CPU = 16 };

/* A body plan of one shape. */
struct rcnn_body {
    struct mabn_net *net;
    int images, height, width;
    uint64_t used;      /* when last */
    float *anchors;     /* (all,4) */
    float *gpu_anchors; /* the same on a GPU, or NULL */
    int64_t anchor_count;
    int64_t level_anchors[MABN_ANCHOR_LEVELS];
    struct rcnn_graph *graph; /* of a step of this shape: rcnn_graph.cuh's; NULL: none */
};

/* What the host leaves for a body plan. */
struct rcnn_pictures {
    int images, height, width; /* padded */
    bool raw;                  /* places (images), blocks (image/raw.h); else floats */
    size_t bytes;
};

/* What a GPU does between the plans. rcnn.c sets this table; the files below know nothing else of the
 * GPU's. */
struct rcnn_gpu {
    /* Pinned memory for the next pictures, pictures->bytes of it. Plans of all shapes take turns in using
     * it. A body plan calls `feed` (net.h), which moves the pictures from there to the plan's input. */
    mabn_status (*input)(struct mabn_rcnn *r, void **memory, const struct rcnn_pictures *pictures);
    mabn_status (*feed)(void *context, struct mabn_net *net);
    /* The number of the next feed; and make the next feed repeat the pictures of an earlier one, which is
     * possible while they are the last but one. */
    int64_t (*next_feed)(const struct mabn_rcnn *r);
    void (*feed_again)(struct mabn_rcnn *r, int64_t number);
    mabn_status (*anchors)(struct mabn_rcnn *r, struct rcnn_body *body,
                           const struct mabn_anchor_grid *grid);
    /* Can the GPU make the proposals? If so, `propose` makes them from maps in device memory (it does not
     * read `anchor`) into r->proposals, which has room for them. */
    bool (*proposes)(const struct mabn_rpn_maps *maps, const struct mabn_proposal_options *options);
    mabn_status (*propose)(struct mabn_rcnn *r, const struct mabn_rpn_maps *maps,
                           const struct mabn_proposal_options *options);
    /* Can the GPU make all decisions between the pictures and the detections? If so, begin queues them
     * for the pictures in the input. result waits for the oldest detection under way, whose plan must be
     * r->body: it gives the detections, not yet scaled to the originals. found_masks: the logits
     * (detections,28,28) of an image's masks. *all false: more scores tie than there is room for, and
     * `found` is unchanged. */
    bool (*detects)(struct mabn_rcnn *r);
    mabn_status (*detect_begin)(struct mabn_rcnn *r, const struct mabn_rcnn_image *images);
    mabn_status (*detect_result)(struct mabn_rcnn *r, struct mabn_rcnn_found *found, bool *all,
                                 struct mabn_rcnn_figures *f);
    const float *(*found_masks)(const struct mabn_rcnn *r, int image);
    /* As mabn_rcnn_measure_body and _heads, if the GPU can make the targets. */
    bool (*measures)(struct mabn_rcnn *r);
    mabn_status (*measure_body)(struct mabn_rcnn *r, const struct mabn_rcnn_image *images);
    mabn_status (*measure_heads)(struct mabn_rcnn *r, struct mabn_rcnn_figures *f);
    /* From the mask head's output (n,28,28,channels), copy the logits (n,28,28) of each mask's class to
     * the host. */
    mabn_status (*mask_logits)(struct mabn_rcnn *r, float *logit, const struct mabn_net_output *all,
                               const int32_t *label, int64_t n);
    /* The masks of these detections, of the original's size, from all probabilities (·,28,28). */
    mabn_status (*paste)(struct mabn_rcnn *r, struct mabn_rcnn_found *found,
                         const struct mabn_rcnn_size *size, const float *probability);
    /* As mabn_rcnn_begin, _result, _behind. */
    mabn_status (*begin)(struct mabn_rcnn *r, const struct mabn_rcnn_image *images, uint64_t step);
    mabn_status (*result)(struct mabn_rcnn *r, struct mabn_rcnn_figures *f);
    int (*behind)(const struct mabn_rcnn *r);
    mabn_status (*trace)(struct mabn_rcnn *r); /* what mabn_rcnn_trace shows, to the host */
    void (*graph_free)(struct rcnn_body *body);
    void (*free)(struct mabn_rcnn *r);
};

/* On the CPU, of all images: image by image with all levels of each. */
struct rcnn_rpn_targets {
    float *target, *weight, *box_weight, *delta;
    int64_t sampled, positives;
};

enum { RCNN_DETECTIONS = 2 };

/* A detection begun in testing: rcnn_test.c's. */
struct rcnn_detection {
    int count;                        /* of pictures */
    struct rcnn_body *body;           /* until it is finished */
    int64_t feed;                     /* on a GPU: the number of the pictures */
    struct mabn_rcnn_image *images;   /* (options.images) */
    struct mabn_rcnn_size *originals; /* likewise */
    struct mabn_rcnn_found *found;    /* likewise, once it is finished */
    struct mabn_rcnn_figures figures;
    bool finished;
};

struct mabn_rcnn {
    struct mabn_device *device;
    const struct rcnn_gpu *gpu; /* NULL: all is done by the CPU */
    struct mabn_detector detector;
    const struct mabn_box_convention *convention;
    struct mabn_params *params;
    struct mabn_rcnn_options options;
    bool accumulate;
    mabn_net_ready ready; /* of the body's backward */
    void *ready_context;

    struct mabn_net_memory_pool pool;      /* of the bodies, of which one runs at a time */
    struct mabn_net_memory_pool head_pool; /* of the heads: boxes are done when masks begin */
    struct rcnn_body bodies[RCNN_MAX_PLANS];
    int body_count;
    struct rcnn_body *body; /* of the next step */
    uint64_t clock;
    struct mabn_net *box_net, *mask_net;
    struct mabn_detector_head box_head, mask_head;
    int box_room, mask_room; /* rows */

    struct rcnn_input *input;         /* what rcnn_input_cuda.cu keeps */
    struct rcnn_cuda *cuda;           /* what rcnn_cuda.cu keeps; NULL: nothing */
    struct rcnn_train *train;         /* what rcnn_train_cuda.cu keeps */
    bool timed;                       /* parts of steps, on a GPU */
    int behind;                       /* on the CPU: 1 if a step's result was not fetched yet */
    struct mabn_rcnn_figures figures; /* that result */
    struct rcnn_detection detections[RCNN_DETECTIONS];
    int64_t detections_begun, detections_told;
    /* Called before a plan of another shape is made, because that may free existing plans. NULL: nothing
     * to call. */
    mabn_status (*settle)(struct mabn_rcnn *r);
    struct mabn_scratch scratch;
    struct mabn_anchors anchors;
    int *widths, *heights; /* (images) */
    struct mabn_proposals proposals;
    int64_t proposal_room;
    struct mabn_box_targets boxes;
    int32_t *levels;                                             /* (box room) of the pyramid */
    int32_t *positive;                                           /* (mask room) rows of boxes */
    float *mask_box;                                             /* (mask room,4) */
    int32_t *mask_image, *mask_level, *mask_label, *mask_object; /* (mask room) */
    uint8_t *mask_target;                                        /* (mask room,28,28) */
    float *soft_target; /* the same where the convention has such masks; else NULL */
};

/* The values of an output in host memory; for a GPU a copy in the scratch. */
mabn_status mabn_rcnn_fetch(struct mabn_rcnn *r, const float **values,
                            const struct mabn_net_output *output);
/* rcnn_plans.c, for rcnn.c: the heads' plans, and where those of bodies will lie; all of them freed. */
MABN_MUST_USE mabn_status mabn_rcnn_set_up_plans(struct mabn_rcnn *r);
void mabn_rcnn_release_plans(struct mabn_rcnn *r);
/* The same file. The options of this detector's proposals; the RPN's maps of the last body forward, where
 * they lie or with `fetch` copied from a GPU into the scratch; room for `room` proposals of each image,
 * with its true boxes. */
struct mabn_proposal_options mabn_rcnn_proposal_options(const struct mabn_rcnn *r, bool training);
MABN_MUST_USE mabn_status mabn_rcnn_find_maps(struct mabn_rcnn *r, struct mabn_rpn_maps *maps,
                                              bool fetch);
MABN_MUST_USE mabn_status mabn_rcnn_need_proposals(struct mabn_rcnn *r, int64_t room);
/* rcnn_test.c: how detections are chosen. */
struct mabn_detection_options mabn_rcnn_detection_options(const struct mabn_rcnn *r);
/* rcnn_train.c: how targets are chosen. */
struct mabn_rpn_target_options mabn_rcnn_rpn_options(const struct mabn_rcnn *r);
void mabn_rcnn_set_level_targets(struct mabn_rcnn *r, int level,
                                 const struct mabn_net_sigmoid_targets *objectness,
                                 const struct mabn_net_box_targets *boxes);
struct mabn_box_target_options mabn_rcnn_box_options(const struct mabn_rcnn *r);
/* Proposals of the pictures in `images` into r->proposals, as many as training or testing has. */
MABN_MUST_USE mabn_status mabn_rcnn_propose(struct mabn_rcnn *r,
                                            const struct mabn_rcnn_image *images, bool training);
/* rcnn_train.c, for testing with options.losses: the body's forward with the losses of the RPN; after it
 * those of the heads. Into f->loss. */
MABN_MUST_USE mabn_status mabn_rcnn_measure_body(struct mabn_rcnn *r,
                                                 const struct mabn_rcnn_image *images,
                                                 struct mabn_rcnn_figures *f);
MABN_MUST_USE mabn_status mabn_rcnn_measure_heads(struct mabn_rcnn *r,
                                                  const struct mabn_rcnn_image *images,
                                                  struct mabn_rcnn_figures *f);
/* Bind a head to the body's pyramid and set the boxes that it pools. */
void mabn_rcnn_bind(struct mabn_rcnn *r, struct mabn_net *net,
                    const struct mabn_detector_head *head, const struct mabn_net_rois *rois);
/* Do the plans have losses? */
static inline bool mabn_rcnn_has_losses(const struct mabn_rcnn *r)
{
    return r->options.training || r->options.losses;
}
static inline int mabn_rcnn_groups(const struct mabn_rcnn *r)
{
    return r->detector.classes + !r->convention->background_last;
}

MABN_END_DECLS
#endif
