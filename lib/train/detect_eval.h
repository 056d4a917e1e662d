/* Run a detector over photographs, write its detections as COCO results, and score them. */
#ifndef MABN_TRAIN_DETECT_EVAL_H
#define MABN_TRAIN_DETECT_EVAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json_write.h"
#include "base/status.h"
#include "base/str.h"
#include "coco/score.h"
#include "data/scene_loader.h"
#include "dist/comm.h"
#include "model/rcnn.h"

MABN_BEGIN_DECLS

/* The categories of a dataset as a model's file keeps them: JSON [{"id":1,"name":"person"},…]. */
void mabn_detect_categories(struct mabn_str *json, const struct mabn_coco *coco);
/* Are these the dataset's? MABN_ERR_MISMATCH with both lists, shortened. */
MABN_MUST_USE mabn_status mabn_detect_check_categories(const char *categories, const char *model,
                                                       const struct mabn_coco *coco,
                                                       const char *dataset);
/* Are the model's categories the dataset's, by id and name? They may be in another order, and there may
 * be further ones that are called "N/A", as torchvision's have for ids that nothing has.
 * class_of[k], from 0: the model's class that is category k; may be NULL. MABN_ERR_MISMATCH with both
 * lists and the first that differs. */
MABN_MUST_USE mabn_status mabn_detect_match_categories(int *class_of, const char *categories,
                                                       const char *model,
                                                       const struct mabn_coco *coco,
                                                       const char *dataset);
/* The ids of the categories in a file with this many classes. */
MABN_MUST_USE mabn_status mabn_detect_category_ids(const char *categories, int64_t *ids,
                                                   int classes);
/* How photographs become this detector's input. */
void mabn_detect_input(struct mabn_scene_options *options, const struct mabn_detector *detector);

/* A scene as struct mabn_rcnn takes it: size, objects and masks, borrowed. */
struct mabn_rcnn_image mabn_detect_image(const struct mabn_scene *scene);
/* Give a batch's pictures to `rcnn` as input. The loader may be asked for raw pictures only if
 * mabn_rcnn_takes_raw. */
MABN_MUST_USE mabn_status mabn_detect_fill(struct mabn_rcnn *rcnn,
                                           const struct mabn_scene_batch *batch);

struct mabn_detect_options {
    int threads;               /* decoding; 0: as many as the process may use */
    bool skip_bad;             /* skip photographs that cannot be decoded, and count them */
    const char *progress;      /* label of the progress bar; NULL: none */
    bool losses;               /* the losses too; the detector was made with losses (rcnn.h) */
    const int64_t *categories; /* for scoring: ids in the order of the classes; NULL: the set's */
    /* Share the photographs with these ranks, which all make the same call. Results and statistics
     * are over all ranks, and every rank gets them. NULL: one process. */
    struct mabn_comm *comm;
    /* Called for each photograph, in the order of the set; on rank 0 alone. May be NULL. */
    mabn_status (*each)(void *context, uint64_t sample, const struct mabn_rcnn_found *found);
    void *context;
};

struct mabn_detect_result {
    int64_t images, bad, detections;
    double seconds, waited;        /* of this rank: in all; spent waiting for photographs */
    double parts[MABN_RCNN_PARTS]; /* seconds, of this rank */
    double loss[MABN_RCNN_LOSSES]; /* with losses: means over the images, the same on all ranks */
};

/* Every photograph of the set once, in order, whatever the number of ranks. MABN_ERR_STOPPED when a
 * signal asks so. */
MABN_MUST_USE mabn_status mabn_detect(struct mabn_detect_result *result, struct mabn_rcnn *rcnn,
                                      const struct mabn_scene_set *set,
                                      const struct mabn_detect_options *options);

/* The detections of one photograph as records of a COCO results file, one a line, with boxes, masks or
 * both:
 *     {"image_id":…,"category_id":…,"bbox":[x,y,w,h],"score":…,"segmentation":{"size":[h,w],"counts":…}}
 * The array's brackets are the caller's. */
struct mabn_detect_writer {
    const struct mabn_scene_set *set;
    const int64_t *categories;                    /* ids, in the order of the classes */
    const struct mabn_box_convention *convention; /* the detector's */
    bool boxes, masks;
    bool files;       /* each record has its "file_name": for photographs without annotations */
    double min_score; /* lower ones are left out */
    bool first;       /* nothing was written yet; cleared when something is */
};
void mabn_detect_write(struct mabn_json_writer *json, struct mabn_detect_writer *writer,
                       uint64_t sample, const struct mabn_rcnn_found *found);

/* COCO's twelve statistics of boxes, and of masks where the detector has them, over all of the
 * set's annotations; what `mabn-score coco` gives for the same results. tables: NULL, or two texts to
 * which its lines are appended, of boxes and of masks; on rank 0 alone. */
struct mabn_detect_score {
    double box[MABN_COCO_STATS], mask[MABN_COCO_STATS];
    bool masks;
};
MABN_MUST_USE mabn_status mabn_detect_judge(struct mabn_detect_score *score,
                                            struct mabn_str *tables,
                                            struct mabn_detect_result *result,
                                            struct mabn_rcnn *rcnn,
                                            const struct mabn_scene_set *set,
                                            const struct mabn_detect_options *options);

/* Can results be scored against the set's annotations, for boxes and, if requested, masks? Checked
 * at the start, so that a training does not fail at its first validation. */
MABN_MUST_USE mabn_status mabn_detect_check_truth(const struct mabn_scene_set *set, bool masks);

MABN_END_DECLS
#endif
