/* Timing a detector on synthetic pictures: whole steps, their parts, and the convolutions in them
 * alone. The pictures are noise with a few objects each, so that training has boxes and masks to
 * learn and testing has detections to paste. No files are read. */
#ifndef MABN_MODEL_BENCH_DETECTOR_H
#define MABN_MODEL_BENCH_DETECTOR_H

#include "model/rcnn.h"

MABN_BEGIN_DECLS

struct mabn_bench_detector_case {
    struct mabn_detector detector;
    int images;        /* of a step */
    int height, width; /* of a picture, which is scaled to the detector's sizes first */
    int objects;       /* in a picture */
    enum mabn_net_precision precision;
    bool training, no_fold, exact, tune, save_memory;
};

/* The parts that are only told apart by timing each layer. */
enum mabn_bench_detector_share {
    MABN_BENCH_BODY,
    MABN_BENCH_FPN,
    MABN_BENCH_RPN,
    MABN_BENCH_ROI_ALIGN,
    MABN_BENCH_BOX_HEAD,
    MABN_BENCH_MASK_HEAD,
    MABN_BENCH_SHARES
};
extern const char *const mabn_bench_detector_share_names[MABN_BENCH_SHARES];

/* Medians over the rounds, seconds of a step. */
struct mabn_bench_detector_result {
    double step, update;
    double parts[MABN_RCNN_PARTS];    /* as timed within the step */
    double shares[MABN_BENCH_SHARES]; /* the layers of the plans, forward and backward, timed one by
                                       * one */
    double convolutions;              /* the convolutions and linear layers of the plans alone */
    int padded_height, padded_width;
    int64_t boxes, masks; /* regions that the heads processed in the last step */
    struct mabn_net_memory memory;
};

MABN_MUST_USE mabn_status mabn_bench_detector_run(struct mabn_bench_detector_result *result,
                                                  struct mabn_device *device,
                                                  const struct mabn_bench_detector_case *c,
                                                  int rounds);

/* Time every layer of the three plans, and a copy in the same round, as in model/bench.h. */
struct mabn_bench_detector_layers {
    struct mabn_net_layer *layers; /* names are owned by the struct */
    char **names;
    int count;
    double copy; /* bytes a second, read plus written */
};
MABN_MUST_USE mabn_status mabn_bench_detector_layers_run(struct mabn_bench_detector_layers *result,
                                                         struct mabn_device *device,
                                                         const struct mabn_bench_detector_case *c,
                                                         int rounds);
void mabn_bench_detector_layers_release(struct mabn_bench_detector_layers *result);

MABN_END_DECLS
#endif
