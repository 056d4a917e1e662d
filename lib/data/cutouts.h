/* Cut-outs: objects of known classes, each a small picture with a mask of its pixels. Scenes are
 * composed of them (compose.h).
 *
 * From a classification dataset (`mabn-pack idx`, `imagenet`, `list`), or from a folder with a
 * folder of pictures for each class. In a PNG, WebP or GIF with alpha the mask holds the pixels that are at
 * least half opaque (only in folders and datasets of encoded files). Other pictures have a black
 * background: the mask holds the pixels that are brighter than a threshold in any channel, and dark
 * ones that they enclose. */
#ifndef MABN_DATA_CUTOUTS_H
#define MABN_DATA_CUTOUTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "image/image.h"

MABN_BEGIN_DECLS

struct mabn_cutouts;

/* path: an HDF5 dataset or a folder. threshold: 0…254. */
MABN_MUST_USE mabn_status mabn_cutouts_open(struct mabn_cutouts **cutouts, const char *path,
                                            int threshold);
void mabn_cutouts_free(struct mabn_cutouts *cutouts); /* NULL is fine */

uint64_t mabn_cutouts_count(const struct mabn_cutouts *cutouts);
int mabn_cutouts_classes(const struct mabn_cutouts *cutouts);
/* "class 3" if the dataset has no names. Owned by the set. */
const char *mabn_cutouts_class_name(const struct mabn_cutouts *cutouts, int class_index);

/* One cut-out, cropped to its mask's box. A zeroed struct is valid; it can be reused from one to
 * the next. */
struct mabn_cutout {
    int label;
    bool gray;               /* the picture has no colours */
    struct mabn_image image; /* (height,width,3), black where the mask is not */
    struct mabn_image mask;  /* (height,width,1) 0 or 255 */
    /* private */
    struct mabn_image whole, whole_mask;
    int *queue;
    size_t queue_room;
};
/* From any number of threads, each with its own decoder and cut-out. *empty: the picture has no
 * pixels of an object. Errors name the picture. */
MABN_MUST_USE mabn_status mabn_cutouts_get(const struct mabn_cutouts *cutouts, uint64_t index,
                                           struct mabn_decoder *decoder, struct mabn_cutout *out,
                                           bool *empty);
/* Warn of what was passed over in the pictures read so far (image/oddities.h). */
void mabn_cutouts_tell(const struct mabn_cutouts *cutouts);
void mabn_cutout_release(struct mabn_cutout *cutout);

MABN_END_DECLS
#endif
