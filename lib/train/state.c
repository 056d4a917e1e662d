/* Where a run stands: starting, going on, saving. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "train/run.h"

static const char *const double_names[] = {"meter_loss",   "meter_top1",  "meter_top5",
                                           "meter_images", "val_pending", "run_steps",
                                           "threads",      "loss_scale",  "loss_scale_steps"};
/* The last two only in float16. */
enum { N_DOUBLES = sizeof double_names / sizeof *double_names, ALWAYS = N_DOUBLES - 2 };

static bool scales_loss(const struct mabn_run *run)
{
    return mabn_net_precision_of(run->net) == MABN_NET_FP16;
}

/* What computes, as far as it decides the last bits: "CPU" (and its threads, kept apart) or the
 * name of a GPU. */
static void machine_text(const struct mabn_run *run, struct mabn_str *text)
{
    const char *name = mabn_device_name(run->device);
    mabn_str_printf(text, "%.*s in %s", (int)strcspn(name, ","), name,
                    mabn_net_precision_name(mabn_net_precision_of(run->net)));
}

/* ---- saving ---- */

static mabn_status save_as(struct mabn_run *run, const char *path, bool whole)
{
    static const char *const string_names[] = {"course", "machine"};
    struct mabn_str machine;
    mabn_str_init(&machine);
    machine_text(run, &machine);
    const char *strings[] = {run->course.text, machine.text};
    struct mabn_net_loss_scale scale;
    mabn_status status = mabn_net_loss_scale_get(run->net, &scale);
    double doubles[N_DOUBLES] = {run->meter.loss,
                                 run->meter.top1,
                                 run->meter.top5,
                                 run->meter.images,
                                 run->val_pending,
                                 (double)run->steps,
                                 mabn_device_threads(run->device),
                                 scale.scale,
                                 scale.steps};
    struct mabn_model_save save = {
        .model = &run->model,
        .input = &run->input,
        .step = run->step,
        .epoch = run->step / run->epoch_steps,
        .sampler_position = run->step % run->epoch_steps * run->options->batch,
        .seed = run->options->seed,
        .command = run->command,
        .tool = run->options->tool,
        .momentum = whole,
        .string_names = string_names,
        .strings = strings,
        .n_strings = whole ? 2 : 1,
        .double_names = double_names,
        .doubles = doubles,
        .n_doubles = !whole             ? 0
                     : scales_loss(run) ? N_DOUBLES
                                        : ALWAYS,
    };
    if (!status) status = mabn_model_file_save(path, true, run->net, &save);
    mabn_str_release(&machine);
    return status;
}

mabn_status mabn_run_save(struct mabn_run *run)
{
    char *path = mabn_checkpoint_step_path(run->options->run, run->step);
    mabn_status status = save_as(run, path, true);
    if (status) {
        free(path);
        return status;
    }
    free(run->last_saved);
    run->last_saved = path;
    run->last_saved_step = run->step;
    return mabn_checkpoint_prune(run->options->run, run->options->keep);
}

static char *model_path(const struct mabn_run *run)
{
    return mabn_path_join(run->options->run, "model.h5");
}

mabn_status mabn_run_save_model(struct mabn_run *run)
{
    char *path = model_path(run);
    mabn_status status = save_as(run, path, false);
    free(path);
    return status;
}

bool mabn_run_is_done(const struct mabn_run *run)
{
    char *path = model_path(run);
    bool done = mabn_path_exists(path);
    free(path);
    return done;
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
                                   "'%s' is of another run, so going on would "
                                   "not be the same run: %s",
                                   path, text.text);
    mabn_str_release(&text);
    return status;
}

/* Another machine than the checkpoint's? Then say so. */
static mabn_status compare_machine(const struct mabn_run *run, const struct mabn_h5_file *h5,
                                   double threads)
{
    const char *then = "CPU in fp32"; /* before GPUs it was not written down */
    struct mabn_str now;
    if (mabn_h5_has_attribute(h5, "machine")) MABN_TRY(mabn_h5_get_string(h5, "machine", &then));
    mabn_str_init(&now);
    machine_text(run, &now);
    if (strcmp(now.text, then))
        mabn_warn("on %s now, on %s before: the result is the same only to rounding", now.text,
                  then);
    else if (mabn_device_kind_of(run->device) == MABN_DEVICE_CPU &&
             mabn_device_threads(run->device) != (int)threads)
        mabn_warn("%d threads now, %.0f before: the result is the same only to rounding",
                  mabn_device_threads(run->device), threads);
    mabn_str_release(&now);
    return MABN_OK;
}

/* A run that was in another precision before has none. */
static mabn_status restore_loss_scale(struct mabn_run *run, const struct mabn_h5_file *h5)
{
    struct mabn_net_loss_scale scale;
    if (!scales_loss(run) || !mabn_h5_has_attribute(h5, double_names[ALWAYS])) return MABN_OK;
    MABN_TRY(mabn_h5_get_double(h5, double_names[ALWAYS], &scale.scale));
    MABN_TRY(mabn_h5_get_double(h5, double_names[ALWAYS + 1], &scale.steps));
    return mabn_net_loss_scale_set(run->net, &scale);
}

static mabn_status restore(struct mabn_run *run, const char *path)
{
    struct mabn_model_file file;
    const char *course;
    double doubles[N_DOUBLES];
    MABN_TRY(mabn_model_file_open(&file, path));
    const struct mabn_h5_file *h5 = mabn_checkpoint_file(file.checkpoint);
    mabn_status status;
    if (!mabn_h5_has_attribute(h5, "course") || !mabn_h5_has_attribute(h5, "meter_loss")) {
        status = mabn_fail(MABN_ERR_MISMATCH, "'%s' was not written by a training run", path);
        goto out;
    }
    MABN_TRY_GOTO(mabn_h5_get_string(h5, "course", &course), out);
    MABN_TRY_GOTO(compare_course(run, course, path), out);
    for (int i = 0; i < ALWAYS; i++)
        MABN_TRY_GOTO(mabn_h5_get_double(h5, double_names[i], &doubles[i]), out);
    struct mabn_model_load load = {.momentum = true};
    MABN_TRY_GOTO(mabn_model_file_load(&file, run->net, &load), out);
    MABN_TRY_GOTO(restore_loss_scale(run, h5), out);
    run->meter = (struct mabn_meter){doubles[0], doubles[1], doubles[2], doubles[3]};
    run->val_pending = doubles[4] != 0 && run->val_set;
    run->step = run->first_step = file.meta.step;
    run->command = mabn_xstrdup(file.meta.command ? file.meta.command : "");
    run->last_saved = mabn_xstrdup(path);
    run->last_saved_step = run->step;
    mabn_info("going on from '%s' at step %lld", path, (long long)run->step);
    if ((double)run->steps != doubles[5])
        mabn_info("the run has %lld steps now, %.0f before", (long long)run->steps, doubles[5]);
    status = compare_machine(run, h5, doubles[6]);
out:
    mabn_model_file_release(&file);
    return status;
}

/* ---- going on from another program's training ---- */

/* How many parameters have momentum in the file, of how many. */
static int count_momenta(const struct mabn_run *run, int *parameters)
{
    int found = 0;
    *parameters = 0;
    for (int i = 0; i < mabn_params_count(mabn_net_params(run->net)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(run->net), i);
        if (t->role != MABN_PARAMS_MOMENTUM) continue;
        char *name = mabn_xasprintf("optimizer/momentum/%s", t->name);
        found += mabn_checkpoint_find(run->weights.checkpoint, name) != NULL;
        free(name);
        ++*parameters;
    }
    return found;
}

/* A number that PyTorch's optimizer noted ("lr"), or NaN. */
static double optimizer_note(const char *notes, const char *key)
{
    char *name = mabn_xasprintf("optimizer.%s", key);
    struct mabn_json *j = mabn_json_new_bytes(notes, strlen(notes), "attribute notes");
    struct mabn_json_text field, value;
    double number = NAN;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &field)) {
        bool wanted = mabn_json_is(field, name);
        if (mabn_json_read_string(j, &value)) break;
        if (!wanted) continue;
        char *text = mabn_xstrndup(value.bytes, value.length);
        number = !strcmp(text, "true") ? 1 : !strcmp(text, "false") ? 0 : strtod(text, NULL);
        free(text);
    }
    mabn_json_free(j);
    mabn_error_clear();
    free(name);
    return number;
}

static void compare_number(const char *key, double then, double now)
{
    if (isnan(then) || fabs(then - now) <= 1e-6 * fabs(then)) return;
    mabn_warn("the file's optimizer has %s %g; here it is %g", key, then, now);
}

/* Options that are not what the file's optimizer had. */
static void compare_optimizer(const struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const struct mabn_h5_file *h5 = mabn_checkpoint_file(run->weights.checkpoint);
    const char *notes;
    if (!mabn_h5_has_attribute(h5, "notes") || mabn_h5_get_string(h5, "notes", &notes)) return;
    compare_number("lr", optimizer_note(notes, "lr"), mabn_schedule_lr(&run->schedule, run->step));
    compare_number("momentum", optimizer_note(notes, "momentum"), o->momentum);
    compare_number("weight decay", optimizer_note(notes, "weight_decay"), o->weight_decay);
    compare_number("nesterov", optimizer_note(notes, "nesterov"), o->nesterov);
    if (optimizer_note(notes, "dampening") > 0)
        mabn_warn("the file's optimizer has dampening, which there is none of here");
}

/* The weights are in; their momentum and step. Everything else is as the options have it. */
static mabn_status take_training(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    const char *path = o->weights;
    int parameters, momenta = count_momenta(run, &parameters);
    if (!momenta)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' has no momentum to go on with: without "
                         "--resume-model its weights are a start",
                         path);
    run->step = run->first_step = o->start_step >= 0 ? o->start_step : run->weights.meta.step;
    if (run->step < 0 || run->step >= run->steps)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' stands at step %lld, and the run has %lld steps "
                         "(--steps, --epochs; --start-step, if the file counts something else)",
                         path, (long long)run->step, (long long)run->steps);
    mabn_info("going on from '%s' at step %lld (%s): weights and momentum of %d parameters of %d%s",
              path, (long long)run->step,
              o->start_step >= 0           ? "as --start-step says"
              : run->weights.meta.step > 0 ? "its iteration"
                                           : "it has no iteration",
              momenta, parameters, momenta < parameters ? "; the others start from rest" : "");
    mabn_info(
        "from the options, as the file cannot say them: learning rate (%.6g at this step) and "
        "its schedule, weight decay, order of the images (epoch %lld, batch %lld of %lld)",
        mabn_schedule_lr(&run->schedule, run->step), (long long)(run->step / run->epoch_steps),
        (long long)(run->step % run->epoch_steps), (long long)run->epoch_steps);
    compare_optimizer(run);
    return MABN_OK;
}

/* ---- starting ---- */

static mabn_status start_network(struct mabn_run *run)
{
    MABN_TRY(mabn_params_initialize(mabn_net_params(run->net), (uint64_t)run->options->seed,
                                    MABN_PARAMS_INIT_FAN_OUT));
    run->command = mabn_xstrdup(run->options->command ? run->options->command : "");
    if (!run->weights.checkpoint) return MABN_OK;
    struct mabn_model_load load = {.momentum = run->options->resume_model,
                                   .some_momentum = true,
                                   .other_state = run->options->allow_norm,
                                   .other_head = run->options->allow_classes};
    if (!load.momentum) mabn_info("starting from the weights of '%s'", run->options->weights);
    MABN_TRY(mabn_model_file_load(&run->weights, run->net, &load));
    return load.momentum ? take_training(run) : MABN_OK;
}

/* With --force: what an earlier run left. */
static mabn_status remove_old(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir) return mabn_fail_errno("cannot read folder '%s'", folder);
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        const char *name = entry->d_name;
        size_t n = strlen(name);
        bool step = n > 8 && !strncmp(name, "step-", 5) && !strcmp(name + n - 3, ".h5");
        if (!step && strcmp(name, "model.h5")) continue;
        char *path = mabn_path_join(folder, name);
        if (unlink(path)) mabn_warn("cannot remove '%s': %s", path, strerror(errno));
        free(path);
    }
    closedir(dir);
    return MABN_OK;
}

/* *path: the checkpoint to go on from, or NULL. */
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
    if (status || !*path) return status;
    if (o->resume) return MABN_OK;
    status = mabn_fail(MABN_ERR_ARG,
                       "'%s' holds a run already (%s): --resume goes on with it, "
                       "--force starts again",
                       o->run, *path);
    free(*path);
    *path = NULL;
    return status;
}

static mabn_status open_logs(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
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
    mabn_str_init(&line);
    mabn_str_add(&line, "{\"t\":\"start\",\"step\":0");
    mabn_run_describe(run, &line);
    mabn_str_add_char(&line, '}');
    status = mabn_jsonl_write(&run->stats, &line);
    mabn_str_release(&line);
    return status;
}

mabn_status mabn_run_start(struct mabn_run *run)
{
    const struct mabn_train_options *o = run->options;
    char *path;
    MABN_TRY(mabn_make_dirs(o->run));
    MABN_TRY(find_start(run, &path));
    if (!path && o->resume) mabn_verbose("'%s' holds no checkpoint: starting at step 0", o->run);
    mabn_status status = path ? restore(run, path) : start_network(run);
    free(path);
    if (status) return status;
    MABN_TRY(open_logs(run));

    struct mabn_loader_options lo;
    mabn_loader_options_init(&lo);
    lo.augment = run->augment;
    lo.batch = o->batch;
    lo.threads = o->decoders;
    lo.skip_bad = o->skip_bad;
    lo.bytes = mabn_net_takes_bytes(run->net);
    lo.first_epoch = (uint64_t)(run->step / run->epoch_steps);
    lo.first_index = (uint64_t)(run->step % run->epoch_steps);
    uint64_t length = o->epoch_steps ? (uint64_t)o->epoch_steps * (uint64_t)o->batch : 0;
    MABN_TRY(mabn_sampler_init(&lo.sampler,
                               o->replacement ? MABN_SAMPLER_REPLACEMENT : MABN_SAMPLER_SHUFFLE,
                               run->train_source.count, length, (uint64_t)o->seed));
    return mabn_loader_new(&run->loader, &run->train_source, &lo);
}
