/* COCO files in memory: ground truth (images, categories, annotations) and results (a list of
 * detections), read as streams; only what is asked for is kept.
 *
 * Both become lists of one kind of record, in file order. Variable-length parts (corners of
 * polygons, strings and counts of masks, keypoints) lie end to end in three pools.
 *
 * What a file may hold, and what it means here:
 *   ids are whole numbers of 64 bits, 0 included; duplicates of an image or category id: the last
 *   one wins; of an annotation id: see coco/score.h;
 *   "segmentation" is a list of polygons, or {"size", "counts"} with a list or a string; null, or
 *   absent, is none;
 *   "iscrowd" and "ignore" are numbers or booleans; unknown fields are passed over.
 * Numbers must be finite. Errors name file, line and field. */
#ifndef MABN_COCO_ANNOTATIONS_H
#define MABN_COCO_ANNOTATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "coco/mask.h"

MABN_BEGIN_DECLS

/* What to keep besides ids, boxes, areas and flags. */
enum mabn_coco_keep {
    MABN_COCO_KEEP_SEGMENTATIONS = 1,
    MABN_COCO_KEEP_KEYPOINTS = 2,
};

enum mabn_segmentation_kind {
    MABN_SEGMENTATION_NONE,
    MABN_SEGMENTATION_POLYGONS,
    MABN_SEGMENTATION_STRING, /* compressed run lengths */
    MABN_SEGMENTATION_COUNTS, /* run lengths */
};

struct mabn_segmentation {
    size_t at;              /* numbers[at] (polygons), bytes[at] (string), lengths[at] (counts) */
    size_t sizes;           /* polygons: lengths[sizes + i] numbers in polygon i */
    uint32_t n;             /* polygons, bytes, or counts */
    uint32_t height, width; /* masks only: their own size */
    uint8_t kind;           /* enum mabn_segmentation_kind */
};

struct mabn_coco_image {
    int64_t id;
    uint32_t height, width; /* 0: not given */
    char *file_name;        /* NULL: not given */
};

struct mabn_coco_category {
    int64_t id;
    char *name; /* NULL: not given */
};

struct mabn_coco_record {
    int64_t id, image_id, category_id;
    double score; /* results */
    double area;
    struct mabn_box box;
    struct mabn_segmentation segmentation;
    size_t keypoints; /* numbers[keypoints], n_keypoints triples x, y, visibility */
    uint32_t n_keypoints;
    uint32_t num_keypoints; /* the field: how many are labelled */
    uint32_t line;          /* in the file; 0: beyond 2^32 */
    bool crowd, ignore, has_area, has_box, has_num_keypoints, has_keypoints;
};

struct mabn_coco {
    char *name; /* the file, for messages */
    struct mabn_coco_image *images;
    size_t n_images;
    struct mabn_coco_category *categories;
    size_t n_categories;
    struct mabn_coco_record *records;
    size_t n_records;
    double *numbers;
    size_t n_numbers;
    uint32_t *lengths;
    size_t n_lengths;
    char *bytes;
    size_t n_bytes;
};

/* Read ground truth: an object with "images", "annotations", "categories" in any order. `keep` is
 * a set of enum mabn_coco_keep. On failure *out is empty. "-" is standard input. */
MABN_MUST_USE mabn_status mabn_coco_read(struct mabn_coco *out, const char *path, unsigned keep);

/* Read results: a list of {"image_id", "category_id", "score", and "bbox", "segmentation" or
 * "keypoints"}. As the first record decides (COCO's rule), every record needs a box, or a
 * segmentation, or keypoints; what is missing besides is derived when it is scored. */
MABN_MUST_USE mabn_status mabn_coco_read_results(struct mabn_coco *out, const char *path,
                                                 unsigned keep);
/* The same from bytes in memory; for tests. */
MABN_MUST_USE mabn_status mabn_coco_read_bytes(struct mabn_coco *out, const void *bytes,
                                               size_t size, bool results, unsigned keep);
void mabn_coco_release(struct mabn_coco *c);

/* The mask of a record, on an image of this size (for polygons; masks have their own). A record
 * without segmentation has its box as mask. Fails with file and line. */
MABN_MUST_USE mabn_status mabn_coco_mask(struct mabn_rle *out, const struct mabn_coco *c,
                                         const struct mabn_coco_record *record, uint32_t height,
                                         uint32_t width);

/* How many columns the outlines of a record's polygons cross in an image of this width: what
 * mabn_coco_mask takes, in time and runs. 0 for masks of other kinds. */
uint64_t mabn_coco_mask_columns(const struct mabn_coco *c, const struct mabn_coco_record *record,
                                uint32_t width);

/* A failure about a record: "'FILE':LINE: annotation ID: ...". */
mabn_status mabn_coco_fail(const struct mabn_coco *c, const struct mabn_coco_record *record,
                           mabn_status status, const char *format, ...) MABN_PRINTF(4, 5);

MABN_END_DECLS
#endif
