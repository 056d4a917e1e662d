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
        .area_min = NAN,
        .flip = NAN,
        .lighting = NAN,
        .erase = NAN,
        .range = NAN,
        .pad = -1,
        .short_side = -1,
        .batch = 256,
        .epochs = 90,
        .seed = 1,
        .schedule = MABN_SCHEDULE_COSINE,
        .lr = 0.1,
        .lr_batch = 256,
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

/* ---- the course ---- */

mabn_status mabn_run_decide_course(struct mabn_run *run, int64_t epoch_steps, int64_t images)
{
    const struct mabn_train_options *o = run->options;
    run->epoch_steps = o->epoch_steps ? o->epoch_steps : epoch_steps;
    if (run->epoch_steps < 1)
        return mabn_fail(MABN_ERR_ARG,
                         "'%s' has %lld images, fewer than one batch of %d "
                         "(--epoch-steps N goes round several times)",
                         o->train, (long long)images, o->batch);
    run->steps = o->steps ? o->steps : o->epochs * run->epoch_steps;
    run->save_every = o->save_every ? o->save_every : run->epoch_steps;
    run->val_every = o->val_every ? o->val_every : run->epoch_steps;

    struct mabn_schedule *s = &run->schedule;
    double per_epoch = (double)run->epoch_steps;
    s->kind = (enum mabn_schedule_kind)o->schedule;
    s->lr = o->lr_exact ? o->lr : o->lr * o->batch / o->lr_batch;
    s->steps = run->steps;
    s->warmup = (int64_t)llround(o->warmup_epochs * per_epoch);
    s->gamma = o->gamma;
    s->n_milestones = o->n_milestones;
    for (int i = 0; i < o->n_milestones; i++)
        s->milestones[i] = (int64_t)llround(o->milestones[i] * per_epoch);
    return MABN_OK;
}

void mabn_run_add_course(struct mabn_run *run, const char *key, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mabn_str_printf(&run->course, "%s = %s\n", key, text);
}

/* The part of the course that all tasks share. */
void mabn_run_write_course(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_schedule *s = &run->schedule;
    static const char *const kinds[] = {"step", "cosine", "constant"};
    mabn_run_add_course(run, "seed", "%lld", (long long)o->seed);
    mabn_run_add_course(run, "sampler", "%s", o->replacement ? "replacement" : "shuffle");
    mabn_run_add_course(run, "batch", "%d", o->batch);
    mabn_run_add_course(run, "epoch-steps", "%lld", (long long)run->epoch_steps);
    mabn_run_add_course(run, "lr", "%.9g", s->lr);
    mabn_run_add_course(run, "schedule", "%s", kinds[s->kind]);
    mabn_run_add_course(run, "warm-up steps", "%lld", (long long)s->warmup);
    if (s->kind == MABN_SCHEDULE_STEP) {
        mabn_run_add_course(run, "gamma", "%.9g", s->gamma);
        for (int i = 0; i < s->n_milestones; i++)
            mabn_run_add_course(run, "milestone", "%lld", (long long)s->milestones[i]);
    }
    mabn_run_add_course(run, "momentum", "%.9g", o->momentum);
    mabn_run_add_course(run, "weight-decay", "%.9g", o->weight_decay);
    mabn_run_add_course(run, "nesterov", "%d", o->nesterov);
    mabn_run_add_course(run, "decay-norm-bias", "%d", !o->no_decay_norm_bias);
}

/* ---- which task ---- */

static const struct mabn_task *const tasks[] = {&mabn_task_classify};

/* By the dataset's kind, which the model has to suit. */
static mabn_status choose_task(struct mabn_run *run)
{
    run->task = tasks[0];
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
