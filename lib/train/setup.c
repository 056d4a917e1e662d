/* Setting up a run: its task, its shards, its schedule and its course. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "norm/sync.h"
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
        .early_images = 8,
        .stats_every = 1,
        .save_memory = -1,
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

/* By the dataset's kind, which must fit the model. */
static mabn_status choose_task(struct mabn_run *run)
{
    struct mabn_train_options *o = run->options_adjusted;
    struct mabn_dataset *ds;
    int i = 0;
    MABN_TRY(mabn_dataset_open(&ds, o->train));
    while (i < TASKS && strcmp(tasks[i].kind, mabn_dataset_kind(ds)))
        i++;
    mabn_dataset_free(ds);
    if (i == TASKS) i = 0; /* its set_up reports the error */
    run->task = tasks[i].task;
    const bool detector = run->task == &mabn_task_detect;
    const char *without_effect = detector ? o->for_classifiers : o->for_detectors;
    if (without_effect)
        return mabn_fail(MABN_ERR_ARG, "--%s is for %s, and '%s' is a dataset for %s",
                         without_effect, detector ? "classifiers" : "detectors", o->train,
                         detector ? "detectors" : "classifiers");
    if (!o->batch) o->batch = tasks[i].batch;
    if (o->lr <= 0 && !o->lr_given) o->lr = tasks[i].lr;
    if (!o->lr_batch) o->lr_batch = tasks[i].lr_batch;
    return MABN_OK;
}

/* ---- shards ---- */

/* The shards of the run in the folder, read by rank 0; 0: there is no run. */
static int64_t shards_before(const struct mabn_train_options *o)
{
    struct mabn_checkpoint *c = o->resume ? mabn_checkpoint_open_newest(o->run) : NULL;
    int64_t shards = c ? 1 : 0;
    if (c && mabn_h5_has_attribute(mabn_checkpoint_file(c), "shards") &&
        mabn_h5_get_int64(mabn_checkpoint_file(c), "shards", &shards))
        mabn_error_clear(); /* it will not be taken for whole */
    mabn_checkpoint_free(c);
    return shards;
}

static mabn_status decide_shards(struct mabn_run *run)
{
    struct mabn_train_options *o = run->options_adjusted;
    const int ranks = o->comm ? mabn_comm_ranks(o->comm) : 1;
    int64_t shards = o->shards;
    if (!shards && !(o->comm && mabn_comm_rank(o->comm))) shards = shards_before(o);
    if (o->comm) MABN_TRY(mabn_comm_broadcast(o->comm, &shards, sizeof shards));
    const int preset = o->preset_shards;
    if (!shards && preset && ranks > 1 && preset % ranks == 0 && o->batch % preset == 0)
        shards = preset;
    if (!shards) shards = ranks;
    if (shards < 1 || shards > MABN_MAX_SHARDS || o->batch % shards)
        return mabn_fail(MABN_ERR_ARG, "a batch of %d images is not %lld equal shards", o->batch,
                         (long long)shards);
    if (!o->comm && shards > 1)
        return mabn_fail(MABN_ERR_ARG, "%lld shards need a communicator", (long long)shards);
    o->shards = (int)shards;
    if (o->comm) MABN_TRY(mabn_comm_set_shards(o->comm, o->shards));
    mabn_shards_init(&run->shards, o->comm);
    run->shard_images = o->batch / o->shards;
    return MABN_OK;
}

/* Refuse what would leave ranks waiting for others, or make them compute different things. */
static mabn_status compare_ranks(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_str text;
    if (run->shards.ranks == 1) return MABN_OK;
    mabn_str_init(&text);
    mabn_str_printf(&text, "%s%s\n%s\n%d %d %d %lld %lld %lld %lld %lld %d %d", run->course.text,
                    o->tool ? o->tool : "", o->val ? o->val : "",
                    10 * (int)mabn_device_kind_of(run->device) + (int)run->task->precision(run),
                    o->resume, run->validates, (long long)run->steps, (long long)o->log_every,
                    (long long)run->save_every, (long long)run->val_every,
                    (long long)o->check_ranks, o->stats != NULL, o->skip_bad);
    const mabn_status status =
        mabn_comm_check_same(o->comm, "the options or the data", text.text, text.length);
    mabn_str_release(&text);
    return status;
}

static void tell_shards(const struct mabn_run *run)
{
    const struct mabn_shards *s = &run->shards;
    if (s->count == 1) return;
    mabn_info("%d shards of %d images on %d rank%s%s%s%s%s%s", s->count, run->shard_images,
              s->ranks, s->ranks > 1 ? "s: " : "", s->ranks > 1 ? mabn_comm_library(s->comm) : "",
              s->nccl ? ", " : "", s->nccl ? mabn_nccl_name(s->nccl) : "",
              s->ranks > 1 ? "; rank 0 " : "", s->ranks > 1 ? mabn_comm_binding(s->comm) : "");
}

/* The figure that validations are compared by. */
static mabn_status choose_best(struct mabn_run *run)
{
    const char *asked = run->options->best;
    struct mabn_str all;
    run->best_name = run->task->figures[0];
    if (!asked) return MABN_OK;
    mabn_str_init(&all);
    for (int i = 0; run->task->figures[i]; i++) {
        mabn_str_printf(&all, "%s%s", i ? ", " : "", run->task->figures[i]);
        if (!strcmp(asked, run->task->figures[i])) run->best_name = run->task->figures[i];
    }
    const mabn_status status =
        strcmp(run->best_name, asked)
            ? mabn_fail(MABN_ERR_ARG, "--best '%s' is none of %s", asked, all.text)
            : MABN_OK;
    mabn_str_release(&all);
    return status;
}

mabn_status mabn_run_set_up(struct mabn_run *run)
{
    MABN_TRY(choose_task(run));
    MABN_TRY(choose_best(run));
    MABN_TRY(decide_shards(run));
    MABN_TRY(run->task->set_up(run));
    tell_shards(run);
    return compare_ranks(run);
}

/* A file is still being written here only if the run has failed. Keep the message of that failure. */
static void finish_writing(struct mabn_run *run)
{
    if (!mabn_behind_busy(&run->behind)) return;
    char *told = mabn_error_detach();
    const mabn_status status = mabn_behind_wait(&run->behind);
    (void)mabn_error_attach(status, told);
}

void mabn_run_release(struct mabn_run *run)
{
    finish_writing(run);
    if (run->task) run->task->release(run); /* its networks borrow the shards' seats */
    mabn_shards_release(&run->shards);
    mabn_norm_sync_free(run->sync);
    mabn_nccl_close(run->nccl, run->ended_together);
    if (run->lock) close(run->lock);
    mabn_device_free(run->device);
    mabn_jsonl_close(&run->metrics);
    mabn_jsonl_close(&run->copy);
    mabn_jsonl_close(&run->stats);
    mabn_str_release(&run->course);
    mabn_taken_release(&run->taken);
    free(run->command);
    free(run->last_saved);
    free(run->saving);
}
