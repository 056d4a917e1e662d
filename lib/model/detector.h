/* The description of a detector: Faster and Mask R-CNN on a feature pyramid (Lin et al. 2017, He et
 * al. 2017). It is stored in checkpoints as one JSON object.
 *
 * A detector is three plans over one store of parameters (net/params.h):
 *
 *     body   pictures → pyramid P2…P6 → for each level the RPN's objectness and box deltas
 *     box    regions of interest → class logits and box deltas
 *     mask   positive regions (in testing: detections) → a mask for each class
 *
 * model/rcnn.h runs them. Names are the reference's ("backbone.body.layer1.0.conv1.weight",
 * "roi_heads.box.feature_extractor.fc6.weight"), which are maskrcnn-benchmark's.
 *
 * Architectures: "mask-rcnn-BODY-fpn" and "faster-rcnn-BODY-fpn", BODY r18, r34, r50, r101 or
 * r152.  */
#ifndef MABN_MODEL_DETECTOR_H
#define MABN_MODEL_DETECTOR_H

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"
#include "model/model.h"
#include "net/net.h"

MABN_BEGIN_DECLS

enum { MABN_DETECTOR_LEVELS = 5, MABN_DETECTOR_POOLED = 4, MABN_DETECTOR_RATIOS = 3 };

/* "2fc": two linear layers. "conv": convolutions, then one linear layer. */
enum mabn_box_head { MABN_BOX_HEAD_2FC, MABN_BOX_HEAD_CONV };

/* Settings that differ between training and testing. */
struct mabn_detector_counts {
    int pre_nms, post_nms; /* proposals of a level of an image before and after suppression */
    int proposals;         /* kept over all levels: of a batch in training (legacy), of an image in
                    * testing */
};

struct mabn_detector {
    char arch[32];
    int classes;                             /* without the background */
    struct mabn_model body;                  /* its classifier is not used */
    struct mabn_norm_options fpn, box, mask; /* kind none: convolutions with bias instead */
    bool masks;
    int rpn_convs;  /* 3×3 convolutions before the RPN's outputs: 1 */
    bool stem_bias; /* the first convolution has a bias, as the reference's SyncBN bodies have */
    int frozen;     /* 0: everything is trained; 1: not the stem; k: nor layer1 to layer(k−1) */
    int fpn_width;  /* 256 */
    enum mabn_box_head box_head;
    int box_convs, box_conv_width; /* 4, 256 */
    int box_width;                 /* of the linear layers: 1024 */
    int mask_convs, mask_width;    /* 4, 256 */

    char convention[16]; /* detect/convention.h: "legacy", "detectron2", "torchvision" */
    double anchor_size[MABN_DETECTOR_LEVELS];  /* 32, 64, 128, 256, 512 */
    double anchor_ratio[MABN_DETECTOR_RATIOS]; /* 0.5, 1, 2 */

    struct mabn_detector_counts train, test;
    double rpn_nms, rpn_foreground, rpn_background; /* 0.7, 0.7, 0.3 */
    int rpn_batch;                                  /* anchors sampled of an image: 256 */
    double rpn_positive;                            /* at most this share of them is positive:
                                                     * 0.5 */
    double rpn_min_size;
    double box_foreground, box_background; /* 0.5, 0.5 */
    int box_batch;                         /* regions sampled of an image: 512 */
    double box_positive;                   /* 0.25 */
    double min_score, nms;                 /* 0.05, 0.5 */
    int detections;                        /* of an image: 100 */

    /* pictures */
    int min_size, max_size; /* 800, 1333 */
    bool bgr;               /* channel order; true */
    double range;           /* the value of white before mean and deviation are applied: 255 or 1 */
    double pixel_mean[3], pixel_deviation[3]; /* in the order of the channels */
};

/* Is this the name of a detector's architecture? */
bool mabn_detector_is(const char *arch);
extern const struct mabn_word mabn_detector_archs[]; /* "mask-rcnn-r50-fpn" and so on */
/* The defaults of an architecture: the reference's, norm mabn, box head "conv", 80 classes. */
MABN_MUST_USE mabn_status mabn_detector_init(struct mabn_detector *detector, const char *arch);

/* Set what one program does with all its detectors: box convention, pixel values, where bottlenecks
 * have their stride, the number of proposals in training. */
MABN_MUST_USE mabn_status mabn_detector_set_family(struct mabn_detector *detector,
                                                   const char *convention);

/* "mabn", or part by part: "body=frozen,fpn=mabn,heads=mabn". Parts: all, body (stem, layer1 …
 * layer4), fpn, heads (box, mask). Later entries win; parts not named keep what they have. Frozen is for the
 * body alone: for fpn and heads it means none, that is convolutions with bias. */
MABN_MUST_USE mabn_status mabn_detector_set_norm(struct mabn_detector *detector, const char *spec);
/* The kinds of all parts, in order. */
int mabn_detector_norms(struct mabn_detector *detector, struct mabn_norm_options *norms[8]);
void mabn_detector_norm_text(const struct mabn_detector *detector, struct mabn_str *text);

/* Are the convolutions before this norm of the detector centralized? */
bool mabn_detector_centralizes(const struct mabn_detector *detector,
                               const struct mabn_norm_options *norm);

/* A layer of FPN or heads that can have a norm: its name without and with the norm, and the name of
 * the norm (or of the ReLU, if there is no norm). */
struct mabn_detector_layer {
    const struct mabn_norm_options *norm; /* the detector's */
    char alone[80], with[96], after[96];
};
/* The i-th of them; false: there are no more. */
bool mabn_detector_layer_at(const struct mabn_detector *detector, int i,
                            struct mabn_detector_layer *layer);
/* The options of the norm that belongs to a layer, by the name of the layer or of one of its
 * tensors; NULL: layers of this name have none. */
const struct mabn_norm_options *mabn_detector_norm_of(const struct mabn_detector *detector,
                                                      const char *name);

void mabn_detector_to_json(const struct mabn_detector *detector, struct mabn_str *json);
MABN_MUST_USE mabn_status mabn_detector_from_json(struct mabn_detector *detector, const char *json);
/* Does this JSON describe a detector? */
bool mabn_detector_describes(const char *json);
/* Check that the detector can be built: widths, counts and thresholds. */
MABN_MUST_USE mabn_status mabn_detector_check(const struct mabn_detector *detector);

/* ---- the three graphs; outputs, inputs and, if wanted, losses by these names ---- */

/* Outputs "p2" … "p5" (and "p6", which only the RPN reads), "objectness2" … "objectness6"
 * (N,h,w,3), "deltas2" … "deltas6" (N,h,w,12). Losses "loss_objectness2" … and
 * "loss_rpn_box_reg2" … */
void mabn_detector_add_body(struct mabn_net *net, const struct mabn_detector *detector,
                            bool losses);

/* The inputs of a head: bound inputs for P2 to P5 and the RoIAlign, which the caller binds and
 * fills. */
struct mabn_detector_head {
    int features[MABN_DETECTOR_POOLED], rois;
};
/* Output "class_logits" (R,1,1,classes+1), "box_deltas" (R,1,1,4·G): G is classes+1, or classes
 * where background comes last (detect/convention.h). Losses "loss_classifier", "loss_box_reg". In
 * training backward continues into the features. */
struct mabn_detector_head
mabn_detector_add_box_head(struct mabn_net *net, const struct mabn_detector *detector, bool losses);
/* Output "mask_logits" (R,28,28,G). Loss "loss_mask". */
struct mabn_detector_head mabn_detector_add_mask_head(struct mabn_net *net,
                                                      const struct mabn_detector *detector,
                                                      bool losses);

/* Declare all parameters of the detector in `params`, freeze and group them as described (biases
 * with double rate and without decay), and place them. */
MABN_MUST_USE mabn_status mabn_detector_declare(struct mabn_params *params,
                                                struct mabn_device *device,
                                                const struct mabn_detector *detector,
                                                bool training);

MABN_END_DECLS
#endif
