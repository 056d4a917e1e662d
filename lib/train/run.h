/* Private to this room: a run that is under way. */
#ifndef MABN_TRAIN_RUN_H
#define MABN_TRAIN_RUN_H

#include "base/str.h"
#include "data/loader.h"
#include "device/device.h"
#include "net/net.h"
#include "store/dataset.h"
#include "train/behind.h"
#include "train/evaluate.h"
#include "train/jsonl.h"
#include "model/model_file.h"
#include "train/pace.h"
#include "train/shards.h"
#include "train/task.h"
#include "train/train.h"

MABN_BEGIN_DECLS

/* What a user asks a run for; several ranks vote on it (mabn_comm_vote). */
enum mabn_run_signal {
    MABN_RUN_SIGINT = 1,
    MABN_RUN_SIGTERM = 2,
    MABN_RUN_SIGUSR1 = 4, /* save; over ranks: and stop */
};

struct mabn_run {
    const struct mabn_train_options *options;
    struct mabn_train_options *options_adjusted; /* the same object; the task fills in defaults */

    /* set-up (setup.c and the task) */
    const struct mabn_task *task;
    void *own; /* what the task keeps */
    struct mabn_schedule schedule;
    int64_t epoch_steps, steps; /* of an epoch, of the run */
    int64_t save_every, val_every;
    bool validates;         /* there is something to validate on */
    struct mabn_str course; /* what decides the run, `key = value` lines */
    struct mabn_device *device;
    struct mabn_params *params; /* the task's */
    struct mabn_shards shards;
    int shard_images;            /* of a step: batch / shards.count */
    struct mabn_norm_sync *sync; /* SyncBN's, of each shard of this rank; NULL: alone */
    struct mabn_nccl *nccl;      /* of ranks with GPUs; NULL: there is none */
    bool ended_together;         /* all ranks came to the end: NCCL may be left in order */

    /* the run (train.c, state.c) */
    int64_t step, first_step; /* steps done; those done before this process began */
    bool val_pending;         /* the validation due at `step` has not been done */
    const char *best_name;    /* the figure that validations are compared by */
    double score,
        best; /* of the last and of the best validation. More is better: a loss is negated */
    uint64_t val_identity; /* of the data validated on; a best on other data does not count */
    int64_t stale;         /* validations since the best */
    double meter[MABN_MAX_METERS]; /* sums since the last step line */
    unsigned signals;              /* received by any rank: enum mabn_run_signal */
    double waited_told;            /* mabn_comm_waited at the last step line */
    char *command;                 /* command line of the run's first start */
    struct mabn_taken taken;       /* what it took of the weights it started from; zeroed: none */
    char *last_saved;
    int64_t last_saved_step;
    struct mabn_behind behind; /* rank 0: the model file that is being written */
    char *saving;              /* path of the checkpoint in `behind`; NULL: none */
    int64_t saving_step;       /* its step */
    struct mabn_jsonl metrics, copy, stats;
    int lock; /* of the run folder; 0: none */
    struct mabn_progress *progress;
    struct mabn_pace pace;
};

/* Rank 0 alone writes. */
static inline bool mabn_run_writes(const struct mabn_run *run)
{
    return run->shards.rank == 0;
}
/* For the watchdog: what this rank does now; a static string or NULL. */
static inline void mabn_run_note(const struct mabn_run *run, const char *doing)
{
    if (run->shards.comm) mabn_comm_note(run->shards.comm, run->step, doing);
}

/* course.c: run->device, and what ranks with GPUs add up by. */
MABN_MUST_USE mabn_status mabn_run_open_device(struct mabn_run *run);
/* course.c: wait for all ranks before a pass. Inside a pass a GPU's norms would wait for a missing rank,
 * and the watchdog could not tell which one is missing. */
MABN_MUST_USE mabn_status mabn_run_meet(const struct mabn_run *run);

/* course.c: between opening the device and building a network with these norms. If one is SyncBN, sets
 * run->sync and decides whether the shards of this rank go in step. */
MABN_MUST_USE mabn_status mabn_run_open_sync(struct mabn_run *run,
                                             const struct mabn_norm_options *const *norms,
                                             int count);

static inline const struct mabn_norm_sync *mabn_run_sync(const struct mabn_run *run, int shard)
{
    return run->sync ? &run->sync[shard] : NULL;
}

/* state.c, after a validation: write the network to best.h5 if its score is the best so far. */
MABN_MUST_USE mabn_status mabn_run_keep_best(struct mabn_run *run);
/* course.c: write a figure of a validation to its line. Takes the score if it is run->best_name. */
void mabn_run_put_figure(struct mabn_run *run, struct mabn_json_writer *line, const char *name,
                         double value);
/* Have there been more validations without a better one than --patience allows? */
static inline bool mabn_run_lost_patience(const struct mabn_run *run)
{
    return run->options->patience && run->stale >= run->options->patience;
}

/* setup.c: choose the task and have it open, decide and build everything. */
MABN_MUST_USE mabn_status mabn_run_set_up(struct mabn_run *run);
void mabn_run_release(struct mabn_run *run);

/* course.c, for tasks: decide steps, schedule and how often to save. The dataset has `images` images,
 * and an epoch epoch_steps steps. */
MABN_MUST_USE mabn_status mabn_run_decide_course(struct mabn_run *run, int64_t epoch_steps,
                                                 int64_t images);
/* Write the part of run->course that all tasks share; add one line to it. */
void mabn_run_write_course(struct mabn_run *run);
void mabn_run_add_course(struct mabn_run *run, const char *key, const char *format, ...)
    MABN_PRINTF(3, 4);

/* course.c: what all tasks say of the course. The first writes the keys of the start line from "lr" on.
 * The second tells the user how the learning rate was derived and how long the run is. drawn: how
 * images are drawn, or "". */
void mabn_run_put_course(const struct mabn_run *run, struct mabn_json_writer *line, int classes,
                         int64_t images);
void mabn_run_tell_course(const struct mabn_run *run, int64_t images, const char *drawn);
/* The update that the options ask for, at this learning rate. */
struct mabn_params_sgd mabn_run_sgd(const struct mabn_run *run, double lr);

/* The error for a loss or weight that is not finite. */
MABN_MUST_USE mabn_status mabn_run_not_finite(struct mabn_run *run, const char *what, int64_t step);

/* state.c: checkpoints. */
MABN_MUST_USE mabn_status mabn_run_start(struct mabn_run *run); /* fresh, weights or resume */
/* Rank 0 writes the file now and commits it while training goes on (behind.h), one file at a time. */
MABN_MUST_USE mabn_status mabn_run_save(struct mabn_run *run);
/* Collect the result of the file being committed, if it is done; with `wait`, wait until it is. A
 * failure to commit is reported here. */
MABN_MUST_USE mabn_status mabn_run_saved(struct mabn_run *run, bool wait);
MABN_MUST_USE mabn_status mabn_run_save_model(struct mabn_run *run);
/* Is the trained model there? */
MABN_MUST_USE mabn_status mabn_run_is_done(const struct mabn_run *run, bool *done);
/* Write a line to metrics.jsonl and its copy. */
MABN_MUST_USE mabn_status mabn_run_log(struct mabn_run *run, const struct mabn_str *line);

/* The loss scale as named numbers of a checkpoint, and reading them back. Only in float16. */
MABN_MUST_USE mabn_status mabn_run_get_scale(const struct mabn_run *run, const char *const **names,
                                             double *values, int *count);
MABN_MUST_USE mabn_status mabn_run_set_scale(const struct mabn_run *run,
                                             const struct mabn_h5_file *h5);

MABN_END_DECLS
#endif
