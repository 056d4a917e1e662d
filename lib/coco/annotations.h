/* COCO files in memory: ground truth (images, categories, annotations) and results (a list of
 * detections), read as streams; only what is asked for is kept.
 *
 * Both become lists of one kind of record, in file order. Variable-length parts (corners of
 * polygons, strings and counts of masks, keypoints) lie end to end in three pools.
 *
 * What a file may hold, and what it means here:
 *   Ids of images and categories are numbers or strings. A whole number of 64 bits stands for itself.
 *   Any other id becomes a negative number made of its text, and the text is kept. No two images may
 *   have one id. Two categories may, if they have one name; the second is passed over.
 *   Ids of annotations are the same, but no text is kept, and two may be equal (coco/score.h). Without
 *   an id, or with null, an annotation has one of its own.
 *   "segmentation" is a list of polygons, or {"size", "counts"} with a list or a string. Null, an empty
 *   list and an absent field are none.
 *   "iscrowd" is a number or a boolean; null is no crowd. Unknown fields are passed over.
 *
 * A field of a wrong form is an error only for those who need it. A segmentation keeps the reason why it
 * cannot be used, and mabn_coco_mask fails with that. A box, keypoints or "iscrowd" are marked as odd. A
 * size or an area counts as not given, with a warning where it matters. NaN and Infinity, which Python
 * writes, are such wrong values. The name of a category may be a number. Errors name file, line and
 * field. */
#ifndef MABN_COCO_ANNOTATIONS_H
#define MABN_COCO_ANNOTATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json_write.h"
#include "base/status.h"
#include "coco/mask.h"

MABN_BEGIN_DECLS

/* What to keep in addition to ids, boxes, areas and flags. */
enum mabn_coco_keep {
    MABN_COCO_KEEP_SEGMENTATIONS = 1,
    MABN_COCO_KEEP_KEYPOINTS = 2,
    MABN_COCO_KEEP_LVIS = 8, /* LVIS's lists and frequencies */
    /* Do not fail on ids that occur twice (for coco/inspect.h), nor on results without a box, a
     * segmentation or keypoints, or with odd ones (for drawing). */
    MABN_COCO_KEEP_FAULTS = 4,
};

enum mabn_segmentation_kind {
    MABN_SEGMENTATION_NONE,
    MABN_SEGMENTATION_POLYGONS,
    MABN_SEGMENTATION_STRING, /* compressed run lengths */
    MABN_SEGMENTATION_COUNTS, /* run lengths */
    MABN_SEGMENTATION_ODD,    /* cannot be used: bytes[at] say why */
};

struct mabn_segmentation {
    size_t at;    /* numbers[at] (polygons), bytes[at] (string, odd), lengths[at] (counts) */
    size_t sizes; /* polygons: lengths[sizes + i] numbers in polygon i */
    uint32_t n;   /* polygons, bytes, or counts */
    uint32_t height, width; /* masks only: their own size */
    uint8_t kind;           /* enum mabn_segmentation_kind */
};

static inline bool mabn_segmentation_is_mask(const struct mabn_segmentation *s)
{
    return s->kind == MABN_SEGMENTATION_STRING || s->kind == MABN_SEGMENTATION_COUNTS;
}

struct mabn_coco_image {
    int64_t id;
    uint32_t height, width; /* 0: not given */
    bool unsized;           /* the annotations do not give the size (a packed dataset has it) */
    uint8_t odd_name;       /* "file_name" is there but of this enum mabn_json_kind */
    uint32_t line;
    char *file_name; /* NULL: not given */
    /* LVIS: category ids listed[listed], n_negatives known not to be there, then n_partial whose
     * annotations may be incomplete; has_lists: both lists are given. */
    size_t listed;
    uint32_t n_negatives, n_partial;
    bool has_lists;
};

struct mabn_coco_category {
    int64_t id;
    char *name;             /* NULL: not given */
    size_t bones;           /* the skeleton: bones[2 * bones], pairs of keypoints counted from 1 */
    uint32_t n_bones, line; /* n_bones: pairs */
    char frequency;         /* LVIS: r, c, f; 0: not given */
};

/* An id that is no number of 64 bits. */
struct mabn_coco_text {
    int64_t id;
    char *text;
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
    bool odd_id;        /* no number of 64 bits, or none at all: name it by its place */
    bool no_id;         /* none: `id` is the record's alone */
    bool odd_box;       /* "bbox" is there but not four finite numbers */
    bool odd_area;      /* "area" is there but no finite number; it counts as not given */
    bool odd_crowd;     /* "iscrowd" is there but no number or boolean */
    bool odd_keypoints; /* "keypoints" is there but not three finite numbers for each */
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
    uint32_t *bones; /* pairs */
    size_t n_bones;
    struct mabn_coco_text *texts; /* ascending by id */
    size_t n_texts;
    int64_t *listed;
    size_t n_listed;
    bool annotated; /* ground truth: there is a list of annotations */
    /* NULL, or (records), for a packed dataset where annotation ids occur twice: the record that
     * has the id last in the annotation file, UINT32_MAX when it is not in the dataset. */
    uint32_t *stands_for;
    /* NULL, or (n_images), for a packed dataset whose images came in another order: the place of
     * each in the annotation file. */
    uint32_t *image_places;
};

/* Read ground truth: an object with "images", "categories" and (if annotated) "annotations" in any
 * order. `keep` is a set of enum mabn_coco_keep. On failure *out is empty. "-" is standard input.
 */
MABN_MUST_USE mabn_status mabn_coco_read(struct mabn_coco *out, const char *path, unsigned keep);

/* How many of the records are of images that `truth` does not list; *first: the first of them. */
size_t mabn_coco_strays(const struct mabn_coco *truth, const struct mabn_coco *records,
                        const struct mabn_coco_record **first);

/* Read results: a list of {"image_id", "category_id", "score", and "bbox", "segmentation" or
 * "keypoints"}; also an object that holds such a list, or JSON Lines. The first record decides (COCO's
 * rule) whether every record needs a box, a segmentation or keypoints; a record that lacks it fails only
 * when it is scored. What else is missing is derived then. */
MABN_MUST_USE mabn_status mabn_coco_read_results(struct mabn_coco *out, const char *path,
                                                 unsigned keep);
/* The same from bytes in memory; for tests. */
MABN_MUST_USE mabn_status mabn_coco_read_bytes(struct mabn_coco *out, const void *bytes,
                                               size_t size, bool results, unsigned keep);
void mabn_coco_release(struct mabn_coco *c);

/* Whether a file's first result makes it one of boxes: it has a box, or an odd one and nothing else. */
bool mabn_coco_results_are_boxes(const struct mabn_coco_record *first);

/* The mask of a record, in an image of this size (used for polygons; masks have their own size).
 * Without a segmentation it is the box. Errors name file and line. */
MABN_MUST_USE mabn_status mabn_coco_mask(struct mabn_rle *out, const struct mabn_coco *c,
                                         const struct mabn_coco_record *record, uint32_t height,
                                         uint32_t width);

/* How many columns the outlines of a record's polygons cross in an image of this width: what
 * mabn_coco_mask takes, in time and runs. 0 for masks of other kinds. */
uint64_t mabn_coco_mask_columns(const struct mabn_coco *c, const struct mabn_coco_record *record,
                                uint32_t width);

/* An id as it is in the file: a number, or its text; `buffer` may be used. */
const char *mabn_coco_id_text(const struct mabn_coco *c, int64_t id, char buffer[24]);
/* The same as JSON: what a results file must hold as "image_id". */
void mabn_coco_add_id(struct mabn_str *out, const struct mabn_coco *c, int64_t id);
void mabn_coco_put_id(struct mabn_json_writer *w, const char *key, const struct mabn_coco *c,
                      int64_t id);
/* The id that a text has when it is no number of 64 bits. */
int64_t mabn_coco_text_id(const char *text, size_t length);
/* Order of ids: numbers, then texts by their bytes. */
int mabn_coco_compare_ids(const struct mabn_coco *c, int64_t a, int64_t b);

/* Why an image's file name cannot be used; NULL: it can. */
const char *mabn_coco_name_fault(const struct mabn_coco_image *image);
/* The path of an image's file in `folder`, malloc'd. Fails, naming the image, if its file name is
 * missing, is not text or leads out of the folder. */
MABN_MUST_USE mabn_status mabn_coco_image_path(char **out, const struct mabn_coco *c,
                                               const struct mabn_coco_image *image,
                                               const char *folder);

/* Clear the crowd flag of every annotation: LVIS has no crowds. */
void mabn_coco_forget_crowds(struct mabn_coco *c);

/* The line of something in its file, for messages: ":LINE", to follow the file's name; "" without a
 * line (in a packed dataset). */
const char *mabn_coco_line(uint32_t line, char buffer[16]);
/* A record in a sentence: "line 12", or its id when it has no line. */
const char *mabn_coco_record_place(const struct mabn_coco *c, const struct mabn_coco_record *record,
                                   char buffer[48]);

/* A failure: the file of an image has width x height pixels, which is not the size in the
 * annotations. orientation: from its EXIF data; 0 or 1: none. */
mabn_status mabn_coco_wrong_size(const struct mabn_coco *c, const struct mabn_coco_image *image,
                                 int width, int height, int orientation);

/* A failure about a record: "'FILE':LINE: annotation ID: ...", the line where there is one. */
mabn_status mabn_coco_fail(const struct mabn_coco *c, const struct mabn_coco_record *record,
                           mabn_status status, const char *format, ...) MABN_PRINTF(4, 5);

MABN_END_DECLS
#endif
