/* Tensor names of other projects, and ours.
 *
 * Ours are PyTorch's own: torchvision's for classifiers ("layer1.0.conv1.weight", which timm's
 * ResNets and the reference's classifier use too) and the reference's for detectors
 * ("backbone.body.layer1.0.conv1.weight", "rpn.head.conv.weight", …). A table translates each
 * foreign style, one row a pattern; the tables are at the top of names.c.
 *
 * Body names translate to the classifier's form, names of the other parts to the detector's; then
 * mabn_names_body moves the body into a detector or out of one. */
#ifndef MABN_EXCHANGE_NAMES_H
#define MABN_EXCHANGE_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "exchange/weights.h"

MABN_BEGIN_DECLS

enum mabn_names {
    MABN_NAMES_OURS,        /* torchvision's and timm's classifiers, the reference */
    MABN_NAMES_TORCHVISION, /* torchvision's detectors */
    MABN_NAMES_DETECTRON2,
    MABN_NAMES_CAFFE2,
    MABN_NAMES_COUNT
};
const char *mabn_names_title(enum mabn_names names); /* "torchvision, timm or reference", … */

/* Which style most names of a file follow. */
enum mabn_names mabn_names_guess(const struct mabn_weights *w);

/* A prefix of all names of the model, or of most ("model." of Lightning, whose loss may have tensors
 * too), that belongs to no style: most names are known without it, and none with it. malloc'd; NULL:
 * there is none. */
char *mabn_names_prefix(const struct mabn_weights *w);

/* Our name for `theirs`, malloc'd; NULL when no row fits. */
char *mabn_names_to_ours(enum mabn_names names, const char *theirs);
/* Their name for our tensor of a detector, malloc'd; NULL when they have no such tensor. */
char *mabn_names_from_ours(enum mabn_names names, const char *ours);
/* Is it a tensor that belongs to no network: a learning rate, a counter, a pixel mean? */
bool mabn_names_ignored(enum mabn_names names, const char *theirs);

/* A body name in a classifier ↔ in a detector: "layer1.0.bn1.weight" ↔
 * "backbone.body.layer1.0.bn1.weight". malloc'd; NULL when it is not of the body. */
char *mabn_names_into_detector(const char *classifier);
char *mabn_names_out_of_detector(const char *detector);
bool mabn_names_is_detector(const char *ours);

/* Translate by one row: if `text` fits `pattern`, the expansion of `other` with the same
 * variables, malloc'd, else NULL. In both,
 *     {v}      a number        {v+1} {v*3-3}  the same, shifted (also when matching)
 *     {v:abc}  a letter of the list; its value counts from 1
 *     *        at the end: the rest, at least one character */
char *mabn_names_translate(const char *pattern, const char *other, const char *text);

MABN_END_DECLS
#endif
