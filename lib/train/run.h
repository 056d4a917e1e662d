/* Private to this room: a run that is under way. */
#ifndef MABN_TRAIN_RUN_H
#define MABN_TRAIN_RUN_H

#include "base/str.h"
#include "data/loader.h"
#include "device/device.h"
#include "net/net.h"
#include "store/dataset.h"
#include "train/evaluate.h"
#include "train/jsonl.h"
#include "train/model_file.h"
#include "train/pace.h"
#include "train/train.h"

MABN_BEGIN_DECLS

/* Sums since the last step line; saved, so that lines after a resume are the same. */
struct mabn_meter {
    double loss, top1, top5, images;
};

struct mabn_run {
    const struct mabn_train_options *options;

    /* set-up (setup.c) */
    struct mabn_dataset *train_set, *val_set;
    struct mabn_source train_source, val_source;
    struct mabn_model_file weights; /* weights.checkpoint NULL: none */
    struct mabn_model model;
    struct mabn_augment augment, input; /* of training, of evaluation */
    struct mabn_schedule schedule;
    int64_t epoch_steps, steps; /* of an epoch, of the run */
    int64_t save_every, val_every;
    struct mabn_str course; /* what decides the run, `key = value` lines */
    struct mabn_device *device;
    struct mabn_net *net, *val_net;
    struct mabn_loader *loader;

    /* the run (train.c, state.c) */
    int64_t step, first_step; /* done; done when this process began */
    bool val_pending;         /* the validation due at `step` has not been done */
    struct mabn_meter meter;
    char *command; /* of the run's first start */
    char *last_saved;
    int64_t last_saved_step;
    struct mabn_jsonl metrics, copy, stats;
    struct mabn_progress *progress;
    struct mabn_pace pace;
};

/* setup.c: open, decide and build everything; tell the user what was decided. */
MABN_MUST_USE mabn_status mabn_run_set_up(struct mabn_run *run);
void mabn_run_release(struct mabn_run *run);
/* "norm":…, the sizes and the learning rate as JSON fields, for the start lines. */
void mabn_run_describe(const struct mabn_run *run, struct mabn_str *json);

/* state.c: checkpoints. */
MABN_MUST_USE mabn_status mabn_run_start(struct mabn_run *run); /* fresh, weights or resume */
MABN_MUST_USE mabn_status mabn_run_save(struct mabn_run *run);
MABN_MUST_USE mabn_status mabn_run_save_model(struct mabn_run *run);
/* Is the trained model there? */
bool mabn_run_is_done(const struct mabn_run *run);
/* Write a line to metrics.jsonl and its copy. */
MABN_MUST_USE mabn_status mabn_run_log(struct mabn_run *run, const struct mabn_str *line);

MABN_END_DECLS
#endif
