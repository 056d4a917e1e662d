/* Shared by tasks and loop: the schedule, the course of a run, what is printed about it, and the
 * error for a loss that is not finite. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "norm/sync.h"
#include "train/run.h"

/* ---- the course ---- */

mabn_status mabn_run_decide_course(struct mabn_run *run, int64_t epoch_steps, int64_t images)
{
    const struct mabn_train_options *o = run->options;
    run->epoch_steps = o->epoch_steps ? o->epoch_steps : epoch_steps;
    if (run->epoch_steps < 1)
        return mabn_fail(MABN_ERR_ARG,
                         "'%s' has %lld images, fewer than one batch of %d (--epoch-steps N uses "
                         "each several times)",
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
    if (o->n_milestone_steps) {
        s->n_milestones = o->n_milestone_steps;
        memcpy(s->milestones, o->milestone_steps, sizeof s->milestones);
    }
    if (o->warmup_steps) s->warmup = o->warmup_steps;
    s->warmup_factor = o->warmup_factor;
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
    if (run->shards.count > 1) mabn_run_add_course(run, "shards", "%d", run->shards.count);
    mabn_run_add_course(run, "epoch-steps", "%lld", (long long)run->epoch_steps);
    mabn_run_add_course(run, "lr", "%.9g", s->lr);
    mabn_run_add_course(run, "schedule", "%s", kinds[s->kind]);
    mabn_run_add_course(run, "warm-up steps", "%lld", (long long)s->warmup);
    if (s->warmup_factor > 0) mabn_run_add_course(run, "warm-up factor", "%.9g", s->warmup_factor);
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

/* ---- validations ---- */

void mabn_run_put_figure(struct mabn_run *run, struct mabn_json_writer *line, const char *name,
                         double value)
{
    mabn_json_put_double(line, name, value);
    if (!strcmp(name, run->best_name)) run->score = strncmp(name, "loss", 4) ? value : -value;
}

/* ---- what is told ---- */

void mabn_run_put_course(const struct mabn_run *run, struct mabn_json_writer *line, int classes,
                         int64_t images)
{
    size_t parameters;
    mabn_params_values(run->params, &parameters);
    mabn_json_put_double(line, "lr", run->schedule.lr);
    mabn_json_put_int(line, "seed", run->options->seed);
    mabn_json_put_int(line, "epoch_steps", run->epoch_steps);
    mabn_json_put_int(line, "steps", run->steps);
    mabn_json_put_int(line, "classes", classes);
    mabn_json_put_int(line, "parameters", (int64_t)parameters);
    mabn_json_put_int(line, "train_images", images);
    mabn_json_put_int(line, "threads", mabn_device_threads(run->device));
    mabn_json_put_string(line, "precision", mabn_net_precision_name(run->task->precision(run)));
    mabn_json_put_string(line, "device", mabn_device_name(run->device));
    if (run->options->command) mabn_json_put_string(line, "command", run->options->command);
}

void mabn_run_tell_course(const struct mabn_run *run, int64_t images, const char *drawn)
{
    const struct mabn_train_options *o = run->options;
    if (o->lr_exact)
        mabn_info("lr %.6g as given, not scaled to the batch", run->schedule.lr);
    else
        mabn_info("lr %.6g for batch %.0f, scaled to %.6g for batch %d (--lr-exact does not scale)",
                  o->lr, o->lr_batch, run->schedule.lr, o->batch);
    mabn_info("%lld training images%s, %lld steps an epoch, %lld steps in all", (long long)images,
              drawn, (long long)run->epoch_steps, (long long)run->steps);
}

struct mabn_params_sgd mabn_run_sgd(const struct mabn_run *run, double lr)
{
    const struct mabn_train_options *o = run->options;
    return (struct mabn_params_sgd){.lr = lr,
                                    .momentum = o->momentum,
                                    .weight_decay = o->weight_decay,
                                    .nesterov = o->nesterov,
                                    .no_decay_norm_bias = o->no_decay_norm_bias};
}

mabn_status mabn_run_not_finite(struct mabn_run *run, const char *what, int64_t step)
{
    if (mabn_run_saved(run, true)) mabn_error_clear(); /* if it succeeds, last_saved names it */
    double lr = mabn_schedule_lr(&run->schedule, step);
    struct mabn_str text;
    mabn_str_init(&text);
    mabn_str_printf(&text, "%s at step %lld (epoch %.2f, lr %.4g, batch %d); ", what,
                    (long long)step, (double)step / (double)run->epoch_steps, lr,
                    run->options->batch);
    if (run->last_saved)
        mabn_str_printf(&text, "last good checkpoint: '%s'; ", run->last_saved);
    else
        mabn_str_add(&text, "no checkpoint had been saved; ");
    mabn_str_add(&text, "try a lower --lr or a longer --warmup-epochs");
    mabn_status status = mabn_fail(MABN_ERR_NONFINITE, "%s", text.text);
    mabn_str_release(&text);
    return status;
}

/* ---- the device ---- */

/* Ranks always agree on NCCL, so that no rank waits for one that was started with --exact. */
mabn_status mabn_run_open_device(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_str why;
    MABN_TRY(mabn_device_open(&run->device, o->device, o->threads));
    mabn_str_init(&why);
    mabn_run_note(run, "starting NCCL");
    const mabn_status status =
        mabn_nccl_open(&run->nccl, o->comm, o->exact ? "" : mabn_device_gpu(run->device), &why);
    mabn_run_note(run, NULL);
    run->shards.nccl = run->nccl;
    if (!status && why.length && mabn_run_writes(run))
        mabn_info("sums over ranks go through the host, without NCCL: %s", why.text);
    mabn_str_release(&why);
    return status;
}

mabn_status mabn_run_meet(const struct mabn_run *run)
{
    return run->sync && run->sync->queues ? mabn_comm_barrier(run->shards.comm) : MABN_OK;
}

/* ---- SyncBN ---- */

mabn_status mabn_run_open_sync(struct mabn_run *run, const struct mabn_norm_options *const *norms,
                               int count)
{
    const struct mabn_train_options *o = run->options;
    bool syncs = false;
    for (int i = 0; i < count; i++)
        syncs |= norms[i]->kind == MABN_NORM_SYNCBN;
    if (o->sync_group && !syncs)
        return mabn_fail(MABN_ERR_ARG, "--sync-group needs syncbn, which this model does not have");
    if (!syncs) return MABN_OK;
    if (o->sync_group) mabn_run_add_course(run, "sync-group", "%d", o->sync_group);
    if (!o->comm) return MABN_OK;
    bool steps;
    MABN_TRY(mabn_norm_sync_steps(&steps, o->comm, o->sync_group));
    if (steps && o->precision == MABN_NET_FP16)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "in fp16 syncbn needs a rank for each shard: there are %d shards on %d "
                         "rank%s",
                         run->shards.count, run->shards.ranks, run->shards.ranks > 1 ? "s" : "");
    if (steps) MABN_TRY(mabn_shards_step(&run->shards, run->device));
    const int local = run->shards.local;
    struct mabn_device **devices = mabn_xcalloc((size_t)local, sizeof *devices);
    for (int i = 0; i < local; i++) {
        const struct mabn_shard_seat *seat = mabn_shards_seat_of(&run->shards, i);
        devices[i] = seat ? seat->device : run->device;
    }
    const mabn_status status = mabn_norm_sync_new(&run->sync, o->comm, o->sync_group, devices,
                                                  run->shards.nccl, run->shards.lockstep);
    free(devices);
    return status;
}
