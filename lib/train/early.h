/* The first pictures of a detector's training as the network sees them: resized, flipped, with the
 * boxes, names and masks that it is to learn, on one sheet. Boxes in another form, categories that do
 * not fit and channels in another order are seen here, before days are spent on them. */
#ifndef MABN_TRAIN_EARLY_H
#define MABN_TRAIN_EARLY_H

#include "coco/annotations.h"
#include "data/scene_loader.h"

MABN_BEGIN_DECLS

struct mabn_early;

/* A sheet of `count` pictures, to become the PNG `path`. coco: of the photographs, borrowed. */
MABN_MUST_USE mabn_status mabn_early_new(struct mabn_early **early, const char *path, int count,
                                         const struct mabn_scene_options *scene,
                                         const struct mabn_coco *coco);
void mabn_early_free(struct mabn_early *early); /* NULL is fine */
/* The pictures of a batch, as long as there is room; the last one writes the file. */
MABN_MUST_USE mabn_status mabn_early_add(struct mabn_early *early,
                                         const struct mabn_scene_batch *batch);

MABN_END_DECLS
#endif
