/* The contents of an annotation file and its faults, to be checked before training.
 *
 * Faults, each with its line: ids, names or file names that occur twice; annotations without an id,
 * categories without a name; images without a size or a file name that can be used; annotations of
 * images or categories that are not listed; boxes and segmentations that cannot be used, that lie
 * outside their image or have no extent; masks of another size than the image; areas that are missing,
 * not positive or larger than the image; "iscrowd" that is no number or boolean; keypoints that cannot
 * be used, or whose number differs from "num_keypoints" or within their category; skeletons with
 * keypoints that the annotations of the category do not have. */
#ifndef MABN_COCO_INSPECT_H
#define MABN_COCO_INSPECT_H

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"
#include "coco/annotations.h"

MABN_BEGIN_DECLS

/* Is this file an object in JSON, by its first bytes? */
bool mabn_coco_looks_like_json(const char *path);

struct mabn_inspect_options {
    bool json;   /* one object on one line */
    bool verify; /* list the faults too; when there are some, the description ends in a failure */
    bool all;    /* all of them, not only the first 10 of a kind */
};

/* Append the description of an annotation file. With `verify` and faults the text is there and the
 * status is MABN_ERR_FORMAT: "'FILE': 3 faults". */
MABN_MUST_USE mabn_status mabn_coco_inspect(struct mabn_str *out, const char *path,
                                            const struct mabn_inspect_options *options);

/* The same of annotations in memory, read with MABN_COCO_KEEP_FAULTS and all else. */
MABN_MUST_USE mabn_status mabn_coco_describe(struct mabn_str *out, const struct mabn_coco *c,
                                             const struct mabn_inspect_options *options);

/* One line about the annotations: how many, of what, crowds. */
void mabn_coco_summary(struct mabn_str *out, const struct mabn_coco *c);

MABN_END_DECLS
#endif
