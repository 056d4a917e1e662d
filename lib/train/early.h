/* The first pictures of a detector's training as the network sees them: resized, flipped, with the
 * boxes, names and masks that it is to learn, on one sheet. Boxes in a wrong form, wrong categories
 * and a wrong channel order are visible here, before days are spent on them. */
#ifndef MABN_TRAIN_EARLY_H
#define MABN_TRAIN_EARLY_H

#include "coco/annotations.h"
#include "data/scene_loader.h"

MABN_BEGIN_DECLS

struct mabn_early;

/* A sheet of `count` pictures, to be written to the PNG `path`. coco: annotations of the
 * photographs, borrowed. */
MABN_MUST_USE mabn_status mabn_early_new(struct mabn_early **early, const char *path, int count,
                                         const struct mabn_scene_options *scene,
                                         const struct mabn_coco *coco);
void mabn_early_free(struct mabn_early *early); /* NULL is fine */
/* Add the pictures of a batch, up to `count`; the last one writes the file. */
MABN_MUST_USE mabn_status mabn_early_add(struct mabn_early *early,
                                         const struct mabn_scene_batch *batch);

MABN_END_DECLS
#endif
