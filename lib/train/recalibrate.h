/* Estimating running statistics again ("precise BN"), for networks whose running averages from
 * training are poor because batch statistics were noisy or drifted.
 *
 * The network runs over training images as in training, but its weights stay fixed, and every norm
 * measures over its whole batch. BRN and SyncBN are plain BN in that pass. MABN uses the batch's own mean
 * of x², without window and without the renormalizing factor.
 *
 * For each channel the batches' means and variances are combined into those over all elements (Chan et
 * al.'s formula; all batches weigh the same):
 *   BN, BRN, SyncBN   running_mean, and running_var, biased
 *   MABN              running_var, which is the mean of x²
 * Frozen norms and those without running statistics stay as they are.   */
#ifndef MABN_TRAIN_RECALIBRATE_H
#define MABN_TRAIN_RECALIBRATE_H

#include "data/loader.h"
#include "data/scene_set.h"
#include "dist/comm.h"
#include "model/model_file.h"

MABN_BEGIN_DECLS

struct mabn_recalibrate_options {
    int batch;      /* images of a batch */
    int64_t images; /* how many; 0: MABN_RECALIBRATE_BATCHES batches, or all if there are fewer */
    int threads;    /* decoding; 0: as many as the process may use */
    int precision;  /* enum mabn_net_precision */
    bool exact;
    const char *progress; /* what to show progress as; NULL: not at all */
    /* Share the batches with these ranks, which all make the same call. Every rank has the result,
     * the same bits for any number of ranks. NULL: one process. */
    struct mabn_comm *comm;
};
#define MABN_RECALIBRATE_BATCHES 200

struct mabn_recalibrate_result {
    int64_t images; /* a whole number of batches */
    int norms;      /* whose statistics changed */
};

/* Writes the statistics into the state of `params`, the store of a network built for file->model
 * (with the file's values or without). Nothing changes on failure. The images are prepared as for
 * evaluation and taken evenly from the whole of `source`: of n images in b batches, the i-th of
 * batch k is the sample floor((i·b + k)·count/n). MABN_ERR_ARG: no norm has running statistics, or
 * there are not enough images for a batch; MABN_ERR_NONFINITE names the norm; MABN_ERR_STOPPED by a
 * signal. */
MABN_MUST_USE mabn_status mabn_recalibrate(struct mabn_recalibrate_result *result,
                                           struct mabn_params *params, struct mabn_device *device,
                                           const struct mabn_model_file *file,
                                           const struct mabn_source *source,
                                           const struct mabn_recalibrate_options *options);

/* The same for a detector. It takes the photographs of `set` that training would use, with their
 * annotations, at the size of evaluation, in batches of `batch` photographs of similar shape. The last
 * batch may hold some twice. The heads see the regions that training would sample; the mask head's
 * norms skip batches without any. `params` is declared for file->detector. */
MABN_MUST_USE mabn_status mabn_recalibrate_detector(struct mabn_recalibrate_result *result,
                                                    struct mabn_params *params,
                                                    struct mabn_device *device,
                                                    const struct mabn_model_file *file,
                                                    const struct mabn_scene_set *set,
                                                    const struct mabn_recalibrate_options *options);

MABN_END_DECLS
#endif
