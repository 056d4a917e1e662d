/* The state of a run: starting, resuming, saving. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "train/run.h"

/* Numbers in addition to the task's meters and its own. */
static const char *const double_names[] = {"val_pending", "run_steps", "threads", "stale"};
enum { VAL_PENDING, RUN_STEPS, THREADS, STALE, N_DOUBLES };
/* Of a best file: the figure that it is the best by. */
#define SCORE "score"
#define SCORE_NAME "score_name"
#define SCORE_DATA "score_data" /* the identity of what it was validated on */
enum { MOST_DOUBLES = MABN_MAX_METERS + N_DOUBLES + 4 };

/* The device, as far as the last bits depend on it: "CPU" (its threads are saved separately) or the
 * name of a GPU. */
static void machine_text(const struct mabn_run *run, struct mabn_str *text)
{
    const char *name = mabn_device_name(run->device);
    mabn_str_printf(text, "%.*s in %s", (int)strcspn(name, ","), name,
                    mabn_net_precision_name(run->task->precision(run)));
}

/* ---- saving ---- */

/* Write a file with all its bytes; it is still to be committed. whole: the shards' states, for a checkpoint
 * with everything needed to resume. whole NULL: the network alone; if `scored`, with the run's score. */
static mabn_status write_as(struct mabn_run *run, struct mabn_checkpoint_writer **writer,
                            const char *path, const struct mabn_shard_states *whole, bool scored)
{
    const char *const string_names[] = {"course", whole ? "machine" : SCORE_NAME, SCORE_DATA};
    char data[24];
    snprintf(data, sizeof data, "%016llx", (unsigned long long)run->val_identity);
    struct mabn_str machine;
    mabn_str_init(&machine);
    machine_text(run, &machine);
    const char *strings[] = {run->course.text, whole ? machine.text : run->best_name, data};
    const char *names[MOST_DOUBLES], *const *extra = NULL;
    double doubles[MOST_DOUBLES];
    int n = 0, more = 0;
    for (int i = 0; i < run->task->meters; i++, n++) {
        names[n] = run->task->meter_names[i];
        doubles[n] = run->meter[i];
    }
    const double values[N_DOUBLES] = {run->val_pending, (double)run->steps,
                                      mabn_device_threads(run->device), (double)run->stale};
    for (int i = 0; i < N_DOUBLES; i++, n++) {
        names[n] = double_names[i];
        doubles[n] = values[i];
    }
    if (scored) {
        names[0] = SCORE;
        doubles[0] = run->score;
    }
    mabn_status status = mabn_run_get_scale(run, &extra, doubles + n, &more);
    for (int i = 0; i < more; i++)
        names[n + i] = extra[i];
    struct mabn_model_save save = {
        .step = run->step,
        .epoch = run->step / run->epoch_steps,
        .sampler_position = run->step % run->epoch_steps * run->options->batch,
        .seed = run->options->seed,
        .command = run->command,
        .tool = run->options->tool,
        .momentum = whole != NULL,
        .string_names = string_names,
        .strings = strings,
        .n_strings = scored  ? 3
                     : whole ? 2
                             : 1,
        .double_names = names,
        .doubles = doubles,
        .n_doubles = whole ? n + more : scored,
        .shards = whole && run->shards.count > 1 ? run->shards.count : 0,
        .shard_states = whole,
    };
    run->task->save(run, &save);
    *writer = NULL;
    if (!status) status = mabn_model_file_write(writer, path, true, run->params, &save);
    mabn_str_release(&machine);
    return status;
}

/* One at a time: the one before is waited for. */
static mabn_status write_behind(struct mabn_run *run, const char *path,
                                const struct mabn_shard_states *whole, bool scored)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_checkpoint_writer *writer;
    MABN_TRY(mabn_run_saved(run, true));
    MABN_TRY(write_as(run, &writer, path, whole, scored));
    mabn_behind_start(&run->behind, writer, whole ? o->run : NULL, o->keep);
    return MABN_OK;
}

mabn_status mabn_run_saved(struct mabn_run *run, bool wait)
{
    const bool busy = mabn_behind_busy(&run->behind);
    if ((!busy && !run->saving) || (busy && !wait && !mabn_behind_done(&run->behind)))
        return MABN_OK;
    mabn_run_note(run, "saving");
    const mabn_status status = mabn_behind_wait(&run->behind);
    mabn_run_note(run, NULL);
    if (run->saving && !status) {
        free(run->last_saved);
        run->last_saved = run->saving;
        run->last_saved_step = run->saving_step;
    } else {
        free(run->saving);
    }
    run->saving = NULL;
    return status;
}

/* All ranks give their shards' states; rank 0 writes while the others go on. */
mabn_status mabn_run_save(struct mabn_run *run)
{
    struct mabn_shard_states states;
    MABN_TRY(mabn_shards_collect(&run->shards, &states));
    mabn_status status = mabn_shards_merge(&run->shards);
    char *path = mabn_checkpoint_step_path(run->options->run, run->step);
    if (!status && mabn_run_writes(run)) status = write_behind(run, path, &states, false);
    mabn_shard_states_release(&states);
    if (status) {
        free(path);
        return status;
    }
    /* Only rank 0 knows when the file is committed. The others take it as saved now. */
    char **saved = mabn_run_writes(run) ? &run->saving : &run->last_saved;
    free(*saved);
    *saved = path;
    *(mabn_run_writes(run) ? &run->saving_step : &run->last_saved_step) = run->step;
    return MABN_OK;
}

static char *model_path(const struct mabn_run *run)
{
    return mabn_path_join(run->options->run, "model.h5");
}

mabn_status mabn_run_save_model(struct mabn_run *run)
{
    MABN_TRY(mabn_shards_merge(&run->shards));
    if (!mabn_run_writes(run)) return MABN_OK;
    char *path = model_path(run);
    mabn_status status = write_behind(run, path, NULL, false);
    free(path);
    return status ? status : mabn_run_saved(run, true);
}

static char *best_path(const struct mabn_run *run)
{
    return mabn_path_join(run->options->run, "best.h5");
}

mabn_status mabn_run_keep_best(struct mabn_run *run)
{
    run->stale++;
    if (!(run->score > run->best)) return MABN_OK;
    run->best = run->score;
    run->stale = 0;
    mabn_verbose("step %lld: %s %.6g, the best so far", (long long)run->step, run->best_name,
                 fabs(run->score));
    if (!mabn_run_writes(run)) return MABN_OK;
    char *path = best_path(run);
    const mabn_status status = write_behind(run, path, NULL, true);
    free(path);
    return status;
}

/* The best score up to the step at which a run resumes. A best file of a later step does not count,
 * because the run repeats that step. Nor does one that is the best by another figure, or on other
 * data. */
static mabn_status find_best(struct mabn_run *run)
{
    struct mabn_model_file file;
    run->best = -INFINITY;
    char *path = best_path(run);
    const bool there = mabn_path_exists(path);
    mabn_status status = there ? mabn_model_file_open(&file, path) : MABN_OK;
    free(path);
    if (status || !there) return status;
    const struct mabn_h5_file *h5 = mabn_checkpoint_file(file.checkpoint);
    const char *name = run->best_name; /* before there was a choice */
    const char *data = NULL;
    if (mabn_h5_has_attribute(h5, SCORE_NAME)) status = mabn_h5_get_string(h5, SCORE_NAME, &name);
    if (!status && strcmp(name, run->best_name))
        mabn_info("best.h5 was kept by %s, and is from now on by %s", name, run->best_name);
    else if (!status && run->validates && mabn_h5_has_attribute(h5, SCORE_DATA) &&
             !mabn_h5_get_string(h5, SCORE_DATA, &data) &&
             strtoull(data, NULL, 16) != run->val_identity)
        mabn_warn(
            "'%s' is not what this run validated on before: the best so far, in 'best.h5', does "
            "not count any more",
            run->options->val);
    else if (!status && file.meta.step <= run->step && mabn_h5_has_attribute(h5, SCORE))
        status = mabn_h5_get_double(h5, SCORE, &run->best);
    mabn_model_file_release(&file);
    return status;
}

mabn_status mabn_run_is_done(const struct mabn_run *run, bool *done)
{
    char *path = model_path(run), *log = mabn_path_join(run->options->run, "metrics.jsonl");
    /* If the run was killed between saving and writing, its last line is still missing. */
    *done = mabn_path_exists(path) && mabn_jsonl_ends_with(log, "{\"t\":\"end\"");
    free(path);
    free(log);
    return run->shards.comm ? mabn_comm_broadcast(run->shards.comm, done, sizeof *done) : MABN_OK;
}

mabn_status mabn_run_log(struct mabn_run *run, const struct mabn_str *line)
{
    MABN_TRY(mabn_jsonl_write(&run->metrics, line));
    return mabn_jsonl_write(&run->copy, line);
}

/* ---- going on ---- */

/* The value of `key` in a course, up to its newline; NULL when it is not there. `at` counts equal
 * keys (milestones). */
static const char *course_line(const char *course, int number)
{
    while (number-- > 0 && (course = strchr(course, '\n')))
        course++;
    return course && *course ? course : NULL;
}

/* One of the two lines may be NULL. */
static void add_difference(struct mabn_str *text, const char *now, const char *then)
{
    const char *line = now ? now : then;
    /* cppcheck-suppress nullPointerRedundantCheck */
    int key = (int)strcspn(line, "=\n") - 1;
    mabn_str_printf(text, "%s%.*s", text->length ? "; " : "", key, line);
    int n = now ? (int)strcspn(now, "\n") : 0, m = then ? (int)strcspn(then, "\n") : 0;
    if (now && then && n - key - 3 <= 40 && m - key - 3 <= 40 && !strncmp(now, then, (size_t)key))
        mabn_str_printf(text, " %.*s instead of %.*s", n - key - 3, now + key + 3, m - key - 3,
                        then + key + 3);
}

static mabn_status compare_course(const struct mabn_run *run, const char *then, const char *path)
{
    if (!strcmp(run->course.text, then)) return MABN_OK;
    struct mabn_str text;
    mabn_str_init(&text);
    for (int i = 0;; i++) {
        const char *a = course_line(run->course.text, i), *b = course_line(then, i);
        if (!a && !b) break;
        size_t n = a ? strcspn(a, "\n") : 0, m = b ? strcspn(b, "\n") : 0;
        if (n == m && a && b && !memcmp(a, b, n)) continue;
        add_difference(&text, a, b);
    }
    mabn_status status = mabn_fail(MABN_ERR_MISMATCH,
                                   "'%s' belongs to a run with other settings and cannot be "
                                   "resumed: %s (as MODEL of a new run it is where that starts)",
                                   path, text.text);
    mabn_str_release(&text);
    return status;
}

/* Warn if the checkpoint was made on another kind of device. */
static mabn_status compare_machine(const struct mabn_run *run, const struct mabn_h5_file *h5,
                                   double threads)
{
    const char *then = "CPU in fp32"; /* older checkpoints, from before GPUs, do not say it */
    struct mabn_str now;
    if (!mabn_run_writes(run)) return MABN_OK; /* reported once */
    if (mabn_h5_has_attribute(h5, "machine")) MABN_TRY(mabn_h5_get_string(h5, "machine", &then));
    mabn_str_init(&now);
    machine_text(run, &now);
    if (strcmp(now.text, then))
        mabn_warn("on %s now, on %s before: results agree only up to rounding", now.text, then);
    else if (mabn_device_kind_of(run->device) == MABN_DEVICE_CPU &&
             mabn_device_threads(run->device) != (int)threads)
        mabn_warn("%d threads now, %.0f before: results agree only up to rounding",
                  mabn_device_threads(run->device), threads);
    mabn_str_release(&now);
    return MABN_OK;
}

/* Read the task's meters, if the file has them. */
static mabn_status restore_meters(struct mabn_run *run, const struct mabn_h5_file *h5,
                                  const char *path)
{
    for (int i = 0; i < run->task->meters; i++) {
        if (!mabn_h5_has_attribute(h5, run->task->meter_names[i]))
            return mabn_fail(MABN_ERR_MISMATCH, "'%s' was not written by a training run", path);
        MABN_TRY(mabn_h5_get_double(h5, run->task->meter_names[i], &run->meter[i]));
    }
    return MABN_OK;
}

static mabn_status compare_classes(const struct mabn_run *run, const struct mabn_model *then,
                                   const char *path)
{
    struct mabn_model_save now = {.model = NULL};
    run->task->save(run, &now);
    const int other = now.model ? mabn_model_other_class(now.model, then) : -1;
    if (other < 0) return MABN_OK;
    return mabn_fail(MABN_ERR_MISMATCH, "class %d is '%s' in '%s' but '%s' in '%s'", other,
                     mabn_model_class_name(then, other), path,
                     mabn_model_class_name(now.model, other), run->options->train);
}

static mabn_status restore(struct mabn_run *run, const char *path)
{
    struct mabn_model_file file;
    const char *course;
    double doubles[N_DOUBLES];
    MABN_TRY(mabn_model_file_open(&file, path));
    const struct mabn_h5_file *h5 = mabn_checkpoint_file(file.checkpoint);
    mabn_status status;
    if (!mabn_h5_has_attribute(h5, "course")) {
        status = mabn_fail(MABN_ERR_MISMATCH, "'%s' was not written by a training run", path);
        goto out;
    }
    MABN_TRY_GOTO(mabn_h5_get_string(h5, "course", &course), out);
    MABN_TRY_GOTO(compare_classes(run, &file.model, path), out);
    MABN_TRY_GOTO(compare_course(run, course, path), out);
    MABN_TRY_GOTO(restore_meters(run, h5, path), out);
    doubles[STALE] = 0; /* older runs do not count */
    for (int i = 0; i < N_DOUBLES; i++)
        if (i != STALE || mabn_h5_has_attribute(h5, double_names[i]))
            MABN_TRY_GOTO(mabn_h5_get_double(h5, double_names[i], &doubles[i]), out);
    struct mabn_model_load load = {.momentum = true};
    MABN_TRY_GOTO(mabn_model_file_load(&file, run->params, &load), out);
    MABN_TRY_GOTO(mabn_shards_start(&run->shards, run->params), out);
    MABN_TRY_GOTO(mabn_shards_restore(&run->shards, file.checkpoint), out);
    MABN_TRY_GOTO(mabn_run_set_scale(run, h5), out);
    run->val_pending = doubles[VAL_PENDING] != 0 && run->validates;
    run->stale = (int64_t)doubles[STALE];
    run->step = run->first_step = file.meta.step;
    run->command = mabn_xstrdup(file.meta.command ? file.meta.command : "");
    run->last_saved = mabn_xstrdup(path);
    run->last_saved_step = run->step;
    mabn_info("resuming from '%s' at step %lld", path, (long long)run->step);
    if ((double)run->steps != doubles[RUN_STEPS])
        mabn_info("the run has %lld steps now, %.0f before", (long long)run->steps,
                  doubles[RUN_STEPS]);
    status = compare_machine(run, h5, doubles[THREADS]);
out:
    mabn_model_file_release(&file);
    return status;
}

/* ---- starting ---- */

/* With --force: remove the files of an earlier run. */
static mabn_status remove_old(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir) return mabn_fail_errno("cannot read folder '%s'", folder);
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        const char *name = entry->d_name;
        size_t n = strlen(name);
        bool step = n > 8 && !strncmp(name, "step-", 5) && !strcmp(name + n - 3, ".h5");
        if (!step && strcmp(name, "model.h5") && strcmp(name, "best.h5")) continue;
        char *path = mabn_path_join(folder, name);
        if (unlink(path)) mabn_warn("cannot remove '%s': %s", path, strerror(errno));
        free(path);
    }
    closedir(dir);
    return MABN_OK;
}

/* A network without a checkpoint to go on from, which a new run would overwrite: that of a finished run whose
 * checkpoints were removed, or, unless a run is resumed that was stopped before its first checkpoint, the
 * best one. */
static mabn_status spare_networks(const struct mabn_train_options *o)
{
    static const char *const names[] = {"model.h5", "best.h5"};
    for (int i = 0; i < (o->resume ? 1 : 2); i++) {
        char *path = mabn_path_join(o->run, names[i]);
        const bool there = mabn_path_exists(path);
        free(path);
        if (there)
            return mabn_fail(MABN_ERR_ARG,
                             "'%s' holds '%s' but no checkpoint to continue from: --force starts "
                             "again and removes it",
                             o->run, names[i]);
    }
    return MABN_OK;
}

/* *path: the checkpoint to resume from, or NULL. */
static mabn_status find_start(const struct mabn_run *run, char **path)
{
    const struct mabn_train_options *o = run->options;
    struct mabn_str skipped;
    *path = NULL;
    if (o->force && !o->resume) return remove_old(o->run);
    mabn_str_init(&skipped);
    mabn_status status = mabn_checkpoint_find_latest(o->run, path, &skipped);
    char *rest = skipped.text, *line;
    while (skipped.length && (line = strsep(&rest, "\n")))
        if (*line) mabn_warn("%s", line);
    mabn_str_release(&skipped);
    if (status) return status;
    if (!*path) return spare_networks(o);
    if (o->resume) return MABN_OK;
    status = mabn_fail(MABN_ERR_ARG,
                       "'%s' already holds a run (%s): --resume continues it, --force starts again",
                       o->run, *path);
    free(*path);
    *path = NULL;
    return status;
}

static mabn_status open_logs(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    if (!mabn_run_writes(run)) return MABN_OK;
    int64_t keep = run->first_step > 0 ? run->step : -1;
    char *path = mabn_path_join(o->run, "metrics.jsonl");
    mabn_status status = mabn_jsonl_open(&run->metrics, path, keep);
    free(path);
    if (status) return status;
    if (o->log) MABN_TRY(mabn_jsonl_open(&run->copy, o->log, keep));
    if (!o->stats) return MABN_OK;
    MABN_TRY(mabn_jsonl_open(&run->stats, o->stats, keep));
    if (keep >= 0) return MABN_OK;
    struct mabn_str line;
    struct mabn_json_writer w;
    mabn_str_init(&line);
    mabn_json_writer_init(&w, &line);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_string(&w, "t", "start");
    mabn_json_put_int(&w, "step", 0);
    run->task->describe(run, &w);
    mabn_json_put_end(&w);
    status = mabn_jsonl_write(&run->stats, &line);
    mabn_str_release(&line);
    return status;
}

/* Two runs in one folder would overwrite each other's checkpoints, so the second is refused while
 * the first is running. One process of a run holds the lock, whatever the number of ranks. */
static mabn_status lock_folder(struct mabn_run *run)
{
    const char *folder = run->options->run;
    char *path = mabn_path_join(folder, ".lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    free(path);
    if (fd < 0) return mabn_fail_errno("cannot write into '%s'", folder);
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        bool taken = errno == EWOULDBLOCK;
        close(fd);
        if (taken) return mabn_fail(MABN_ERR_IO, "another mabn-train is running in '%s'", folder);
        return MABN_OK; /* this file system has no locks: continue without */
    }
    run->lock = fd;
    return MABN_OK;
}

/* Rank 0 decides where the run starts, and sends that to the others. */
static mabn_status agree_on_start(struct mabn_run *run, char **path)
{
    char text[PATH_MAX] = "";
    *path = NULL;
    if (mabn_run_writes(run)) {
        MABN_TRY(mabn_make_dirs(run->options->run));
        MABN_TRY(lock_folder(run));
        MABN_TRY(find_start(run, path));
    }
    if (run->shards.ranks == 1) return MABN_OK;
    if (*path) snprintf(text, sizeof text, "%s", *path);
    MABN_TRY(mabn_comm_broadcast(run->shards.comm, text, sizeof text));
    if (!*path && *text) *path = mabn_xstrdup(text);
    return MABN_OK;
}

mabn_status mabn_run_start(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    char *path;
    MABN_TRY(agree_on_start(run, &path));
    if (!path && o->resume) mabn_verbose("'%s' holds no checkpoint: starting at step 0", o->run);
    if (!path) run->command = mabn_xstrdup(o->command ? o->command : "");
    mabn_status status = path ? restore(run, path) : run->task->start(run);
    if (!path && !status) status = mabn_shards_start(&run->shards, run->params);
    free(path);
    if (status) return status;
    if (mabn_run_writes(run)) MABN_TRY(find_best(run));
    if (run->shards.ranks > 1)
        MABN_TRY(mabn_comm_broadcast(run->shards.comm, &run->best, sizeof run->best));
    MABN_TRY(mabn_shards_check(&run->shards, "at the start"));
    MABN_TRY(open_logs(run));
    return run->task->load(run);
}
