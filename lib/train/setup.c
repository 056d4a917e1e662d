/* Setting up a run: which task it is, its schedule, and what decides it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "store/dataset.h"
#include "train/run.h"

void mabn_train_options_init(struct mabn_train_options *o)
{
    *o = (struct mabn_train_options){
        .start_step = -1,
        .norm = MABN_NORM_REQUEST_INIT,
        .detector = MABN_DETECTOR_REQUEST_INIT,
        .accumulate = 1,
        .area_min = NAN,
        .flip = NAN,
        .lighting = NAN,
        .erase = NAN,
        .range = NAN,
        .pad = -1,
        .short_side = -1,
        .epochs = 90,
        .seed = 1,
        .schedule = MABN_SCHEDULE_COSINE,
        .gamma = 0.1,
        .momentum = 0.9,
        .weight_decay = 1e-4,
        .log_every = 50,
        .keep = 3,
        .stats_every = 1,
        .device = "auto",
        .n_channels = 1,
    };
    for (int i = 0; i < 4; i++)
        o->jitter[i] = NAN;
    for (int i = 0; i < 3; i++)
        o->mean[i] = o->deviation[i] = NAN;
}

/* ---- which task ---- */

static const struct {
    const char *kind; /* of the dataset */
    const struct mabn_task *task;
    int batch; /* where none is asked for */
    double lr, lr_batch;
} tasks[] = {
    {"imagenet", &mabn_task_classify, 256, 0.1, 256},
    {"coco", &mabn_task_detect, 2, 0.02, 16},
};
enum { TASKS = sizeof tasks / sizeof *tasks };

/* By the dataset's kind, which the model has to suit. */
static mabn_status choose_task(struct mabn_run *run)
{
    struct mabn_train_options *o = run->options_adjusted;
    struct mabn_dataset *ds;
    int i = 0;
    MABN_TRY(mabn_dataset_open(&ds, o->train));
    while (i < TASKS && strcmp(tasks[i].kind, mabn_dataset_kind(ds)))
        i++;
    mabn_dataset_free(ds);
    if (i == TASKS) i = 0; /* it says what is wrong */
    run->task = tasks[i].task;
    if (!o->batch) o->batch = tasks[i].batch;
    if (o->lr <= 0 && !o->lr_given) o->lr = tasks[i].lr;
    if (!o->lr_batch) o->lr_batch = tasks[i].lr_batch;
    return MABN_OK;
}

mabn_status mabn_run_set_up(struct mabn_run *run)
{
    MABN_TRY(choose_task(run));
    return run->task->set_up(run);
}

void mabn_run_release(struct mabn_run *run)
{
    if (run->task) run->task->release(run);
    if (run->lock) close(run->lock);
    mabn_device_free(run->device);
    mabn_jsonl_close(&run->metrics);
    mabn_jsonl_close(&run->copy);
    mabn_jsonl_close(&run->stats);
    mabn_str_release(&run->course);
    free(run->command);
    free(run->last_saved);
}
