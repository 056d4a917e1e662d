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
#include "train/model_file.h"
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
    struct mabn_train_options *options_adjusted; /* the same: the task fills in its own */

    /* set-up (setup.c and the task) */
    const struct mabn_task *task;
    void *own; /* the task's */
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
    int64_t step, first_step; /* done; done when this process began */
    bool val_pending;         /* the validation due at `step` has not been done */
    const char *best_name; /* the figure that validations are compared by; a loss is better lower */
    double score, best;    /* of the last validation, of the best so far: more is better */
    int64_t stale;         /* validations since the best */
    double meter[MABN_MAX_METERS]; /* sums since the last step line */
    unsigned signals;              /* that any rank has got: enum mabn_run_signal */
    double waited_told;            /* of mabn_comm_waited */
    char *command;                 /* of the run's first start */
    struct mabn_taken taken;       /* of the weights that it started from; zeroed: none */
    char *last_saved;
    int64_t last_saved_step;
    struct mabn_behind behind; /* rank 0: the model file that is being written */
    char *saving;              /* if that is a checkpoint: its path */
    int64_t saving_step;       /* and its step */
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
/* course.c, once a rank has what it needs for a pass: a GPU whose norms wait for other ranks' keeps the
 * watchdog in the dark about who is missing. So ranks meet first. */
MABN_MUST_USE mabn_status mabn_run_meet(const struct mabn_run *run);

/* course.c: with the device, before the network is built of a model with these norms: run->sync, where one
 * is SyncBN, and whether the shards of this rank go in step. */
MABN_MUST_USE mabn_status mabn_run_open_sync(struct mabn_run *run,
                                             const struct mabn_norm_options *const *norms,
                                             int count);

static inline const struct mabn_norm_sync *mabn_run_sync(const struct mabn_run *run, int shard)
{
    return run->sync ? &run->sync[shard] : NULL;
}

/* state.c, after a validation: best.h5 is the network, if no score has been as good. */
MABN_MUST_USE mabn_status mabn_run_keep_best(struct mabn_run *run);
/* course.c: a figure of a validation, for its line; it may be the one that validations are compared by. */
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

/* course.c, for tasks and loop: steps, schedule and how often to save, of a dataset of so many images, so many steps
 * once through; the part of the course that all share; one more line of it. */
MABN_MUST_USE mabn_status mabn_run_decide_course(struct mabn_run *run, int64_t epoch_steps,
                                                 int64_t images);
void mabn_run_write_course(struct mabn_run *run);
void mabn_run_add_course(struct mabn_run *run, const char *key, const char *format, ...)
    MABN_PRINTF(3, 4);

/* course.c: what both tasks say of the course. Keys of the start line from "lr" on; lines for the user,
 * of how the learning rate came about and how long the run is (drawn: how images are drawn, or ""). */
void mabn_run_put_course(const struct mabn_run *run, struct mabn_json_writer *line, int classes,
                         int64_t images);
void mabn_run_tell_course(const struct mabn_run *run, int64_t images, const char *drawn);
/* The update that the options ask for, at this learning rate. */
struct mabn_params_sgd mabn_run_sgd(const struct mabn_run *run, double lr);

/* The error for a loss or weight that is not finite. */
MABN_MUST_USE mabn_status mabn_run_not_finite(struct mabn_run *run, const char *what, int64_t step);

/* state.c: checkpoints. */
MABN_MUST_USE mabn_status mabn_run_start(struct mabn_run *run); /* fresh, weights or resume */
/* Rank 0 writes the file at once, and commits it while training goes on (behind.h); one file at a time. */
MABN_MUST_USE mabn_status mabn_run_save(struct mabn_run *run);
/* What became of the file under way, if it has ended; with `wait` when it has. Its failure is this
 * call's. */
MABN_MUST_USE mabn_status mabn_run_saved(struct mabn_run *run, bool wait);
MABN_MUST_USE mabn_status mabn_run_save_model(struct mabn_run *run);
/* Is the trained model there? */
MABN_MUST_USE mabn_status mabn_run_is_done(const struct mabn_run *run, bool *done);
/* Write a line to metrics.jsonl and its copy. */
MABN_MUST_USE mabn_status mabn_run_log(struct mabn_run *run, const struct mabn_str *line);

/* Numbers of a checkpoint, by name; and reading them back: the loss scale, in float16 alone. */
MABN_MUST_USE mabn_status mabn_run_get_scale(const struct mabn_run *run, const char *const **names,
                                             double *values, int *count);
MABN_MUST_USE mabn_status mabn_run_set_scale(const struct mabn_run *run,
                                             const struct mabn_h5_file *h5);

MABN_END_DECLS
#endif
