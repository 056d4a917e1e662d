/* Training a classifier or a detector: from a dataset to a run folder.
 *
 * Three sizes that are never confused:
 *   batch       images of one optimizer step
 *   norm_batch  images behind one batch statistic; the batch is cut into batch/norm_batch runs
 *   window      statistics that MABN's moving average spans (the paper's m)
 *
 * The run folder is complete in itself:
 *   metrics.jsonl       one JSON object a line; "t" says what it is: start, weights, step, val, end
 *   step-000001000.h5   checkpoints, the last `keep` of them: everything needed to go on
 *   model.h5            the trained network, when the run is done
 *   best.h5             the network of the best validation: by the figure `best`; if that is not given, by
 *                       top-1 accuracy, or for a detector by the average precision of masks, or of boxes
 *                       if it has no masks
 *   early.png           of a detector: its first pictures, with what is to be learned
 *
 * Resuming is exact: a run that is killed and resumed gives the same bits as an uninterrupted one,
 * with the same number of threads (or GPU) and the same precision. All settings that affect the
 * results, the run's course, are written into its checkpoints as a text of `key = value` lines, and
 * a run is resumed only with the same text. The length of the run may differ.
 *
 * Over ranks a run has shards (train/shards.h). Their number belongs to the course. Any number of
 * ranks that divides it can resume the run, with the same bits. Only rank 0 writes.
 *
 * If a loss, or at a checkpoint a weight, is not finite, the run ends with MABN_ERR_NONFINITE and
 * nothing is saved, so the newest checkpoint is a good one. */
#ifndef MABN_TRAIN_TRAIN_H
#define MABN_TRAIN_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/sampler.h"
#include "data/scene.h"
#include "image/augment.h"
#include "model/detector_request.h"
#include "model/norm_request.h"
#include "net/net.h"
#include "train/schedule.h"

MABN_BEGIN_DECLS

enum { MABN_MAX_RECORD_CHANNELS = 64 };

struct mabn_comm;

struct mabn_train_options {
    /* files */
    const char *train, *val; /* datasets; val may be NULL */
    const char *run;         /* folder */
    const char *weights;     /* a model file to start from; NULL: a new network */
    const char *log;         /* a copy of metrics.jsonl: a file, "-" for stdout, or NULL */
    const char *stats;       /* file for the recorded statistics, or NULL */
    const char *command, *tool;
    bool resume, force;
    bool resume_model;  /* also use the weights' momentum and step */
    int64_t start_step; /* resume_model: the step, if the file does not have it; -1: it does */

    /* the network: of a new one, or overriding the weights' where set */
    const char *arch;
    struct mabn_norm_request norm; /* overrides the weights' own norms, or MABN_NORM_DEFAULT */
    const char *stem;              /* "large", "small"; NULL: as the architecture has it */
    const char *centralize; /* "auto", "on", "off"; NULL: as the weights have it, else auto */
    int base_width;         /* 0: as the architecture has it */
    bool stride_in_1x1;
    bool allow_norm, allow_centralized, allow_folded, allow_classes, allow_input, allow_stride;

    /* a detector */
    struct mabn_detector_request detector;
    int train_sizes[MABN_SCENE_SIZES],
        n_train_sizes; /* shorter sides drawn from; 0: its min_size */
    bool keep_empty;   /* train on photographs without an object too */

    /* pictures; size 0: as in the weights, the augmentation or the dataset */
    const char *augment; /* preset name; NULL: chosen by the dataset */
    int size;
    /* overriding the preset where set; NaN, NULL and -1: not set */
    const char *crop, *resize, *order;
    double area_min, flip, lighting, erase, range;
    double jitter[4];
    double mean[3], deviation[3];
    int pad, short_side;
    bool skip_bad;

    /* the course */
    int batch, val_batch;               /* batch 0: the task's default; val_batch 0: as batch */
    int accumulate;                     /* detectors: passes of one step */
    double clip_norm;                   /* detectors: the largest norm of the gradient; 0: no
                                         * limit */
    int64_t epochs, epoch_steps, steps; /* epoch_steps 0: once through; steps 0: all epochs */
    int64_t seed;
    bool replacement;    /* the sampler draws with replacement */
    int schedule;        /* enum mabn_schedule_kind */
    double lr, lr_batch; /* 0: the task's default, unless lr_given */
    bool lr_given;
    /* The name of an option that was given and has an effect on one kind of network alone; NULL: none. */
    const char *for_detectors, *for_classifiers;
    bool lr_exact;
    double milestones[MABN_MAX_MILESTONES]; /* epochs */
    int n_milestones;
    double gamma, warmup_epochs;
    int64_t milestone_steps[MABN_MAX_MILESTONES], warmup_steps; /* over the two in epochs, if any */
    int n_milestone_steps;
    double warmup_factor; /* of the rate at the first step of the warm-up; 0: 1/steps */
    double momentum, weight_decay, smoothing;
    bool nesterov, no_decay_norm_bias;

    /* watching */
    int64_t log_every, save_every,
        val_every; /* steps; save, val 0: every epoch; val < 0: at the end */
    int keep;
    const char *best; /* the figure of a validation that best.h5 is kept by; NULL: the task's own */
    int patience;     /* validations without a better one that end the run; 0: never */
    int early_images; /* a detector's first pictures that are drawn into early.png; 0: none */
    int channels[MABN_MAX_RECORD_CHANNELS], n_channels;
    int64_t stats_every;
    bool stats_reference;

    /* the machine */
    const char *device; /* a word of mabn_device_open */
    enum mabn_net_precision precision;
    int threads, decoders;
    bool exact, tune;
    int save_memory;        /* 0 or 1; < 0: as it suits, which is yes for a detector on CPUs */
    struct mabn_comm *comm; /* dist/comm.h; borrowed; NULL: one process */
    int shards;        /* 0: as in the run's checkpoints; a new run has one for each rank, unless
                             * preset_shards says otherwise */
    int preset_shards; /* for a new run, if there are several ranks, and they divide this number and
                        * the batch evenly; 0: none */
    int sync_group;    /* shards of a statistic of SyncBN; 0: all */
    int64_t check_ranks; /* steps between comparisons of the ranks' parameters; 0: never */
};

void mabn_train_options_init(struct mabn_train_options *options);

/* Train to the end. MABN_ERR_STOPPED after a signal, when all is saved. */
MABN_MUST_USE mabn_status mabn_train(const struct mabn_train_options *options);

MABN_END_DECLS
#endif
