#include "cli/detector_options.h"

#include <stdlib.h>

#include "base/words.h"

const char *const mabn_cli_detector_options[] = {
    "box-head",   "fpn-width", "head-width",  "fc-width",    "box-convs",
    "mask-convs", "anchors",   "boxes",       "frozen",      "min-size",
    "max-size",   "proposals", "rpn-samples", "box-samples", NULL};

mabn_status mabn_cli_box_head(const char *argument, void *value)
{
    static const struct mabn_word kinds[] = {
        {MABN_BOX_HEAD_2FC, "2fc"}, {MABN_BOX_HEAD_CONV, "conv"}, {0, NULL}};
    return mabn_word_parse(value, kinds, "box head", argument);
}

mabn_status mabn_cli_anchors(const char *argument, void *value)
{
    double *anchors = value;
    const char *at = argument;
    for (int i = 0; i < MABN_DETECTOR_LEVELS; i++) {
        char *end;
        anchors[i] = strtod(at, &end);
        const char follows = i < MABN_DETECTOR_LEVELS - 1 ? ',' : 0;
        if (end == at || *end != follows || !(anchors[i] >= 1 && anchors[i] <= 1e5))
            return mabn_fail(MABN_ERR_ARG, "expected %d sides of 1 to 100000 pixels, found '%s'",
                             MABN_DETECTOR_LEVELS, argument);
        at = end + 1;
    }
    return MABN_OK;
}
