/* The training loop. */
#include "train/train.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/signal.h"
#include "dist/comm.h"
#include "train/run.h"

/* ---- lines ---- */

/* Steps whose results have arrived: on a GPU fewer than were begun. */
static int64_t steps_done(const struct mabn_run *run)
{
    return run->step - run->task->behind(run);
}

static double epochs(const struct mabn_run *run, int64_t steps)
{
    return (double)steps / (double)run->epoch_steps;
}

static bool due(const struct mabn_run *run, int64_t step, int64_t every)
{
    return step == run->steps || (every > 0 && step % every == 0);
}

struct line {
    struct mabn_str text;
    struct mabn_json_writer json; /* onto text */
};

static void open_line(struct line *line, const struct mabn_run *run, const char *type)
{
    mabn_str_init(&line->text);
    mabn_json_writer_init(&line->json, &line->text);
    mabn_json_put_object(&line->json, NULL);
    mabn_json_put_string(&line->json, "t", type);
    mabn_json_put_int(&line->json, "step", steps_done(run));
    mabn_json_put_double(&line->json, "epoch", epochs(run, steps_done(run)));
}

static mabn_status close_line(struct line *line, struct mabn_run *run)
{
    mabn_json_put_end(&line->json);
    if (isatty(STDOUT_FILENO)) mabn_progress_hide(run->progress);
    mabn_status status = mabn_run_log(run, &line->text);
    mabn_str_release(&line->text);
    return status;
}

struct waits { /* seconds since the last line */
    double others, data;
};

/* Print how long each rank waited for others: the slowest rank waits least. *data becomes the
 * longest wait for data. */
static mabn_status tell_waits(struct mabn_run *run, double *data)
{
    struct mabn_comm *comm = run->shards.comm;
    struct mabn_str text;
    if (run->shards.ranks == 1) return MABN_OK;
    struct waits mine = {mabn_comm_waited(comm) - run->waited_told, *data};
    struct waits *all = mabn_xcalloc((size_t)run->shards.ranks, sizeof *all);
    run->waited_told += mine.others;
    const mabn_status status = mabn_comm_all_gather(comm, &mine, sizeof mine, all);
    mabn_str_init(&text);
    for (int r = 0; r < run->shards.ranks && !status; r++) {
        mabn_str_printf(&text, "%s%d: %.2f s", r ? ", " : "", r, all[r].others);
        *data = fmax(*data, all[r].data);
    }
    if (!status)
        mabn_verbose("step %lld: ranks waited for others %s", (long long)run->step, text.text);
    mabn_str_release(&text);
    free(all);
    return status;
}

/* Write a step line: means since the last one. */
static mabn_status log_steps(struct mabn_run *run, double lr)
{
    struct line line;
    struct mabn_json_writer *w = &line.json;
    struct mabn_pace_span span =
        mabn_pace_line(&run->pace, mabn_now(), run->task->waited(run), steps_done(run), run->step);
    double images = (double)span.steps * run->options->batch;
    MABN_TRY(tell_waits(run, &span.waited));
    open_line(&line, run, "step");
    run->task->means(run, w);
    mabn_json_put_float(w, "lr", (float)lr);
    mabn_json_put_double(w, "images_s", round(10 * images / span.seconds) / 10);
    mabn_json_put_double(w, "data_wait", round(1e4 * fmin(1, span.waited / span.seconds)) / 1e4);
    mabn_json_put_int(w, "memory", (int64_t)mabn_peak_memory());
    memset(run->meter, 0, sizeof run->meter);
    return close_line(&line, run);
}

static mabn_status log_start(struct mabn_run *run)
{
    struct line line;
    open_line(&line, run, "start");
    run->task->describe(run, &line.json);
    if (run->shards.count > 1) {
        mabn_json_put_int(&line.json, "shards", run->shards.count);
        mabn_json_put_int(&line.json, "ranks", run->shards.ranks);
    }
    return close_line(&line, run);
}

/* What the network has of the weights that it starts from. */
static mabn_status log_weights(struct mabn_run *run)
{
    struct line line;
    if (!run->taken.file) return MABN_OK;
    if (mabn_run_writes(run)) mabn_taken_tell(&run->taken, run->options->weights);
    open_line(&line, run, "weights");
    mabn_taken_put(&run->taken, &line.json, run->options->weights);
    return close_line(&line, run);
}

static mabn_status log_end(struct mabn_run *run)
{
    struct line line;
    open_line(&line, run, "end");
    if (run->step < run->steps) mabn_json_put_string(&line.json, "reason", "patience");
    return close_line(&line, run);
}

/* ---- parts of a step ---- */

/* Fetch the result of the oldest step in flight, and write a line if one is due. */
static mabn_status finish_step(struct mabn_run *run)
{
    const int64_t step = steps_done(run);
    MABN_TRY(run->task->finish(run, step));
    if (step == run->first_step) mabn_tell_start("the first step is done");
    if (!due(run, step + 1, run->options->log_every)) return MABN_OK;
    return log_steps(run, mabn_schedule_lr(&run->schedule, step));
}

static mabn_status finish_steps(struct mabn_run *run)
{
    while (run->task->behind(run))
        MABN_TRY(finish_step(run));
    return MABN_OK;
}

/* Begin one step; its result may come with a later one. */
static mabn_status step_once(struct mabn_run *run)
{
    if (run->step == run->first_step) mabn_tell_start("the first step begins");
    MABN_TRY(run->task->begin(run, mabn_schedule_lr(&run->schedule, run->step)));
    run->step++;
    if (run->task->behind(run) == run->task->depth(run)) MABN_TRY(finish_step(run));
    return run->task->after ? run->task->after(run) : MABN_OK;
}

/* ---- signals ---- */

static unsigned my_signals(void)
{
    const int stop = mabn_stop_requested();
    return (stop == SIGINT ? MABN_RUN_SIGINT
            : stop         ? MABN_RUN_SIGTERM
                           : 0) |
           (mabn_save_requested() ? MABN_RUN_SIGUSR1 : 0);
}

/* The signals that any rank has received; all ranks agree after the same step. */
static mabn_status hear_signals(struct mabn_run *run)
{
    unsigned agreed = my_signals();
    if (run->shards.ranks > 1) MABN_TRY(mabn_comm_vote(run->shards.comm, agreed, &agreed));
    run->signals |= agreed;
    return MABN_OK;
}

/* The signal that ends the run, or 0. Over ranks SIGUSR1 ends it too, because mpirun gives no time
 * after other signals. */
static int stop_signal(const struct mabn_run *run)
{
    if (run->signals & MABN_RUN_SIGINT) return SIGINT;
    if (run->signals & MABN_RUN_SIGTERM) return SIGTERM;
    return run->shards.ranks > 1 && run->signals & MABN_RUN_SIGUSR1 ? SIGUSR1 : 0;
}

/* ---- between steps ---- */

/* If one rank was stopped during a validation, it counts as not done on all ranks. */
static mabn_status agree_on_stop(struct mabn_run *run, mabn_status status)
{
    int64_t stopped = status == MABN_ERR_STOPPED ? my_signals() : 0;
    if (run->shards.ranks == 1 || (status && status != MABN_ERR_STOPPED)) return status;
    MABN_TRY(mabn_comm_fold(run->shards.comm, MABN_COMM_OR, &stopped, 1));
    run->signals |= (unsigned)stopped;
    return stopped
               ? mabn_fail(MABN_ERR_STOPPED, "stopped by %s", mabn_signal_name(stop_signal(run)))
               : MABN_OK;
}

static mabn_status validate(struct mabn_run *run)
{
    struct line line;
    MABN_TRY(finish_steps(run));
    double start = mabn_now();
    mabn_progress_note(run->progress, "validating");
    mabn_run_note(run, "validating");
    MABN_TRY(mabn_shards_merge(&run->shards));
    open_line(&line, run, "val");
    const mabn_status status = agree_on_stop(run, run->task->validate(run, &line.json));
    mabn_run_note(run, NULL);
    if (status) {
        mabn_str_release(&line.text);
        return status;
    }
    run->val_pending = false;
    MABN_TRY(close_line(&line, run));
    MABN_TRY(mabn_run_keep_best(run));
    mabn_pace_pause(&run->pace, mabn_now() - start); /* images/s counts training only */
    return MABN_OK;
}

static mabn_status save(struct mabn_run *run)
{
    char *bad;
    MABN_TRY(finish_steps(run));
    const double start = mabn_now();
    MABN_TRY(mabn_run_saved(run, true));
    if (run->last_saved && run->last_saved_step == run->step && !run->val_pending) return MABN_OK;
    MABN_TRY(mabn_shards_merge(&run->shards));
    MABN_TRY(mabn_model_find_bad(run->params, &bad));
    if (bad) {
        mabn_status status = mabn_run_not_finite(run, bad, run->step);
        free(bad);
        return status;
    }
    mabn_run_note(run, "saving");
    MABN_TRY(mabn_run_save(run));
    mabn_run_note(run, NULL);
    mabn_pace_pause(&run->pace, mabn_now() - start);
    return MABN_OK;
}

/* After a step: validation, checkpoint, signals. */
static mabn_status after_step(struct mabn_run *run)
{
    if (run->validates && due(run, run->step, run->val_every)) run->val_pending = true;
    MABN_TRY(mabn_run_saved(run, false));
    MABN_TRY(hear_signals(run));
    if (run->val_pending && !stop_signal(run)) {
        const mabn_status status = validate(run);
        if (status && status != MABN_ERR_STOPPED) return status;
        MABN_TRY(hear_signals(run));
    }
    const int stop = stop_signal(run);
    const bool enough = mabn_run_lost_patience(run) && !run->val_pending;
    const bool asked = run->signals & MABN_RUN_SIGUSR1;
    run->signals &= ~(unsigned)MABN_RUN_SIGUSR1;
    if (stop || asked || enough || due(run, run->step, run->save_every)) MABN_TRY(save(run));
    if (stop || asked) MABN_TRY(mabn_run_saved(run, true));
    if (asked && !stop) mabn_info("saved '%s' at step %lld", run->last_saved, (long long)run->step);
    if (!stop || enough || (run->step == run->steps && !run->val_pending)) return MABN_OK;
    return mabn_fail(MABN_ERR_STOPPED,
                     "stopped by %s after step %lld of %lld; saved '%s'; continue with --resume",
                     mabn_signal_name(stop), (long long)run->step, (long long)run->steps,
                     run->last_saved);
}

/* Compare the ranks, for --check-ranks. */
static mabn_status check_ranks(struct mabn_run *run)
{
    const int64_t every = run->options->check_ranks;
    char when[40];
    if (!every || run->step % every) return MABN_OK;
    MABN_TRY(finish_steps(run));
    snprintf(when, sizeof when, "after step %lld", (long long)run->step);
    return mabn_shards_check(&run->shards, when);
}

static mabn_status train_steps(struct mabn_run *run)
{
    if (run->val_pending) MABN_TRY(after_step(run));
    while (run->step < run->steps && !mabn_run_lost_patience(run)) {
        MABN_TRY(step_once(run));
        MABN_TRY(check_ranks(run));
        mabn_progress_set(run->progress, (uint64_t)(run->step - run->first_step));
        MABN_TRY(after_step(run));
    }
    if (run->step < run->steps)
        mabn_info("no better %s in %lld validations: the run ends after step %lld of %lld",
                  run->best_name, (long long)run->stale, (long long)run->step,
                  (long long)run->steps);
    return finish_steps(run);
}

mabn_status mabn_train(const struct mabn_train_options *options)
{
    struct mabn_train_options adjusted = *options;
    struct mabn_run run = {.options = &adjusted, .options_adjusted = &adjusted};
    mabn_status status;
    run.metrics.fd = run.copy.fd = run.stats.fd = -1;
    mabn_str_init(&run.course);
    MABN_TRY_GOTO(mabn_run_set_up(&run), out);
    MABN_TRY_GOTO(mabn_run_start(&run), out);
    bool done = (run.step >= run.steps || mabn_run_lost_patience(&run)) && run.first_step > 0 &&
                !run.val_pending;
    if (done) MABN_TRY_GOTO(mabn_run_is_done(&run, &done), out);
    if (done) {
        mabn_info("'%s' is done: nothing to do", options->run);
        goto out;
    }
    if (mabn_run_writes(&run))
        run.progress = mabn_progress_new("training", "steps", (uint64_t)(run.steps - run.step));
    MABN_TRY_GOTO(log_start(&run), out);
    MABN_TRY_GOTO(log_weights(&run), out);
    mabn_pace_start(&run.pace, mabn_now(), run.first_step);
    MABN_TRY_GOTO(train_steps(&run), out);
    MABN_TRY_GOTO(mabn_run_save_model(&run), out);
    status = log_end(&run);
out:
    run.ended_together = !status || status == MABN_ERR_STOPPED;
    mabn_progress_free(run.progress);
    mabn_run_release(&run);
    return status;
}
