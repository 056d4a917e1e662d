/* The options that shape a detector: the same rows in every tool that makes or trains one. `r` is a
 * struct mabn_detector_request *. */
#ifndef MABN_CLI_DETECTOR_OPTIONS_H
#define MABN_CLI_DETECTOR_OPTIONS_H

#include "cli/cli.h"
#include "model/detector_request.h"

/* clang-format off */
#define MABN_OPTIONS_DETECTOR(r) \
    MABN_OPT_CALL(0, "box-head", mabn_cli_box_head, &(r)->box_head, "KIND", "2fc: two linear layers; conv: convolutions, then one linear layer. Default: conv"), \
    MABN_OPT_INT(0, "fpn-width", &(r)->fpn_width, 0, 8192, "N", "channels of the pyramid; 0: 256"), \
    MABN_OPT_INT(0, "head-width", &(r)->head_width, 0, 8192, "N", "channels of the heads' convolutions; 0: 256"), \
    MABN_OPT_INT(0, "fc-width", &(r)->fc_width, 0, 8192, "N", "outputs of the box head's linear layers; 0: 1024"), \
    MABN_OPT_INT(0, "box-convs", &(r)->box_convs, -1, 16, "N", "convolutions of the box head; -1: 4"), \
    MABN_OPT_INT(0, "mask-convs", &(r)->mask_convs, -1, 16, "N", "convolutions of the mask head; -1: 4"), \
    MABN_OPT_CALL(0, "anchors", mabn_cli_anchors, (r)->anchors, "S,S,S,S,S", "sides of the anchors of P2 to P6. Default: 32,64,128,256,512"), \
    MABN_OPT_STRING(0, "boxes", &(r)->convention, "FAMILY", "boxes, pixels and stride as in legacy (the reference, the default), detectron2 or torchvision"), \
    MABN_OPT_INT(0, "frozen", &(r)->frozen, -1, 5, "K", "stages of the body that are not trained: 1 the stem, 2 also layer1, ...; -1: none, or as in the model"), \
    MABN_OPT_INT(0, "min-size", &(r)->min_size, 0, 16384, "PIXELS", "shorter side of a picture; 0: 800, or as in the model"), \
    MABN_OPT_INT(0, "max-size", &(r)->max_size, 0, 16384, "PIXELS", "largest longer side; 0: 1333, or in proportion to --min-size"), \
    MABN_OPT_INT(0, "proposals", &(r)->proposals, 0, 65536, "N", "proposals of a training step, and half as many for a test picture; 0: 2000"), \
    MABN_OPT_INT(0, "rpn-samples", &(r)->rpn_batch, 0, 65536, "N", "anchors sampled from a picture; 0: 256"), \
    MABN_OPT_INT(0, "box-samples", &(r)->box_batch, 0, 65536, "N", "regions sampled from a picture; 0: 512")
/* clang-format on */

/* The names of the above, then NULL. */
extern const char *const mabn_cli_detector_options[];

/* For the above: a word to an int, enum mabn_box_head; five numbers to doubles. */
mabn_status mabn_cli_box_head(const char *argument, void *value);
mabn_status mabn_cli_anchors(const char *argument, void *value);

#endif
