/* See recalibrate.h. The batches are measured by the norms themselves: with a momentum of 0 the
 * running statistics after a forward are that batch's. BRN whose r and d may not move is BN, and it
 * keeps the biased variance.
 *
 * With R ranks, round k is batches kR … kR + R − 1, one a rank; in the last round some have none. The
 * ranks tell each other what they measured, and each joins it in the order of the batches. */
#include "train/recalibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/signal.h"
#include "data/scene_loader.h"
#include "model/rcnn.h"
#include "train/detect_eval.h"
#include "train/evaluate.h"

/* ---- which images ---- */

struct spread {
    const struct mabn_source *source;
    uint64_t batch, batches;
};

static uint64_t spread_index(const struct spread *s, uint64_t at)
{
    const uint64_t place = at % s->batch * s->batches + at / s->batch;
    return (uint64_t)((unsigned __int128)place * s->source->count / (s->batch * s->batches));
}

static mabn_status spread_get(const void *context, uint64_t index, struct mabn_sample *sample)
{
    const struct spread *s = context;
    return s->source->get(s->source->context, spread_index(s, index), sample);
}

static void spread_name(const void *context, uint64_t index, char *text, size_t capacity)
{
    const struct spread *s = context;
    s->source->name(s->source->context, spread_index(s, index), text, capacity);
}

static void spread_prefetch(const void *context, uint64_t index)
{
    const struct spread *s = context;
    s->source->prefetch(s->source->context, spread_index(s, index));
}

static mabn_status choose(struct spread *s, const struct mabn_source *source,
                          const struct mabn_recalibrate_options *options)
{
    const uint64_t batch = (uint64_t)options->batch;
    uint64_t images =
        options->images > 0 ? (uint64_t)options->images : MABN_RECALIBRATE_BATCHES * batch;
    if (images > source->count) images = source->count;
    *s = (struct spread){source, batch, images / batch};
    if (s->batches) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG,
                     "recalibrating takes whole batches of %llu images, there are %llu",
                     (unsigned long long)batch, (unsigned long long)images);
}

static mabn_status open_loader(struct mabn_loader **loader, const struct spread *s,
                               const struct mabn_net *net, const struct mabn_augment *input,
                               const struct mabn_recalibrate_options *options)
{
    struct mabn_loader_options lo;
    const struct mabn_source source = {.count = s->batch * s->batches,
                                       .get = spread_get,
                                       .name = s->source->name ? spread_name : NULL,
                                       .prefetch = s->source->prefetch ? spread_prefetch : NULL,
                                       .context = s};
    mabn_loader_options_init(&lo);
    lo.augment = *input;
    lo.batch = options->batch;
    lo.threads = options->threads;
    lo.rank = options->comm ? mabn_comm_rank(options->comm) : 0;
    lo.ranks = options->comm ? mabn_comm_ranks(options->comm) : 1;
    lo.keep_last = true; /* all are whole, but a rank may have none in the last round */
    lo.epochs = 1;
    lo.bytes = mabn_net_takes_bytes(net);
    MABN_TRY(mabn_sampler_init(&lo.sampler, MABN_SAMPLER_SEQUENTIAL, source.count, 0, 0));
    return mabn_loader_new(loader, &source, &lo);
}

/* ---- the norms that are measured ---- */

struct measured {
    int mean, var; /* in the measuring store; mean -1: MABN, whose running_var is the mean of x² */
    char *name;    /* "layer1.0.bn1." */
    bool of_masks; /* sees positive regions alone, of which a batch may have none */
    uint64_t seen; /* batches */
    size_t channels;
    size_t at;                  /* place of its variances in a batch's values; its means follow */
    double *sum_mean, *sum_var; /* mean and n·variance over the batches so far */
};

/* A batch's first values: the number of a signal that came, or 0; did its mask head see anything? */
enum { STOP, MASKS, FIRST };

struct pass {
    struct mabn_net *net; /* of a classifier */
    struct mabn_rcnn *rcnn;
    struct mabn_params *own;    /* of a detector */
    struct mabn_params *params; /* what is measured in, of either */
    struct measured *norms;
    int count;
    size_t floats;     /* values of a batch */
    float *mine, *all; /* (floats), (ranks,floats); the same for a single rank */
    struct mabn_comm *comm;
    int ranks;
    uint64_t seen; /* batches */
};

static bool measures(enum mabn_norm_kind kind)
{
    return kind == MABN_NORM_BN || kind == MABN_NORM_BRN || kind == MABN_NORM_SYNCBN;
}

static void set_norm(struct mabn_norm_options *norm)
{
    if (measures(norm->kind)) {
        const double eps = norm->eps;
        mabn_norm_options_init(norm, MABN_NORM_BRN);
        norm->eps = eps;
        norm->r_max = 1;
        norm->d_max = 0;
    } else if (norm->kind == MABN_NORM_MABN) {
        norm->window_rule = MABN_WINDOW_ITERATION;
        norm->window = 1;
        norm->warmup = norm->r_start = INT32_MAX;
    } else {
        return;
    }
    norm->norm_batch = 0;
    norm->momentum = 0;
}

static int find_state(const struct mabn_params *params, const char *stem, const char *end)
{
    char *name = mabn_xasprintf("%s%s", stem, end);
    const int index = mabn_params_find(params, name, MABN_PARAMS_STATE);
    free(name);
    return index;
}

/* A frozen norm has running statistics too, but counts nothing. */
static bool counts(const struct mabn_params *params, const char *stem)
{
    return find_state(params, stem, "num_batches_tracked") >= 0 ||
           find_state(params, stem, "iters") >= 0;
}

static void list_norms(struct pass *p)
{
    static const char end[] = "running_var";
    const struct mabn_params *params = p->params;
    p->floats = FIRST;
    p->norms = mabn_xcalloc((size_t)mabn_params_count(params) + 1, sizeof *p->norms);
    for (int i = 0; i < mabn_params_count(params); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        const size_t length = strlen(t->name), n = sizeof end - 1;
        struct measured *m = &p->norms[p->count];
        if (t->role != MABN_PARAMS_STATE || length < n || strcmp(t->name + length - n, end))
            continue;
        m->name = mabn_xasprintf("%.*s", (int)(length - n), t->name);
        if (!counts(params, m->name) || !mabn_shape_count(&t->shape, &m->channels)) {
            free(m->name);
            continue;
        }
        m->var = i;
        m->mean = find_state(params, m->name, "running_mean");
        m->sum_mean = mabn_xcalloc(m->channels, sizeof *m->sum_mean);
        m->sum_var = mabn_xcalloc(m->channels, sizeof *m->sum_var);
        m->of_masks = !strncmp(m->name, "roi_heads.mask.", 15);
        m->at = p->floats;
        p->floats += 2 * m->channels;
        p->count++;
    }
    p->mine = mabn_xcalloc(p->floats, sizeof *p->mine);
    p->all = p->mine;
    if (p->ranks > 1) p->all = mabn_xcalloc(p->floats * (size_t)p->ranks, sizeof *p->all);
}

static void release(struct pass *p)
{
    for (int i = 0; i < p->count; i++) {
        free(p->norms[i].name);
        free(p->norms[i].sum_mean);
        free(p->norms[i].sum_var);
    }
    free(p->norms);
    if (p->all != p->mine) free(p->all);
    free(p->mine);
    mabn_net_free(p->net);
    mabn_rcnn_free(p->rcnn);
    mabn_params_free(p->own);
}

static mabn_status need_norms(struct pass *p)
{
    list_norms(p);
    if (p->count) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "the model's norms keep no running statistics");
}

/* ---- the pass ---- */

/* What the norms measured of this rank's batch. */
static mabn_status collect(struct pass *p)
{
    const struct mabn_params *params = p->params;
    for (int i = 0; i < p->count; i++) {
        const struct measured *m = &p->norms[i];
        const size_t bytes = m->channels * sizeof(float);
        float *var = p->mine + m->at, *mean = var + m->channels;
        MABN_TRY(mabn_params_get(params, m->var, var, bytes));
        if (m->mean >= 0) MABN_TRY(mabn_params_get(params, m->mean, mean, bytes));
    }
    return MABN_OK;
}

/* Join a batch's statistics to those of the batches before. */
static mabn_status join(struct measured *m, const float *values)
{
    const float *var = values + m->at, *mean = var + m->channels;
    const double before = (double)m->seen, all = before + 1;
    if (m->of_masks && values[MASKS] <= 0) return MABN_OK;
    for (size_t c = 0; c < m->channels; c++) {
        const double difference = mean[c] - m->sum_mean[c];
        if (!isfinite(mean[c]) || !isfinite(var[c]))
            return mabn_fail(MABN_ERR_NONFINITE,
                             "'%s': the statistics of channel %zu are not finite", m->name, c);
        m->sum_var[c] += fmax(var[c], 0) + difference * difference * before / all;
        m->sum_mean[c] += difference / all;
    }
    m->seen++;
    return MABN_OK;
}

/* Meet with what this rank measured, and join the round's batches. */
static mabn_status finish_round(struct pass *p, uint64_t batches)
{
    p->mine[STOP] = (float)mabn_stop_requested();
    if (p->ranks > 1)
        MABN_TRY(mabn_comm_all_gather(p->comm, p->mine, p->floats * sizeof *p->mine, p->all));
    for (int r = 0; r < p->ranks; r++) {
        const float *values = p->all + p->floats * (size_t)r;
        if (values[STOP] > 0)
            return mabn_fail(MABN_ERR_STOPPED, "stopped by %s",
                             mabn_signal_name((int)values[STOP]));
        if (p->seen == batches) continue;
        for (int i = 0; i < p->count; i++)
            MABN_TRY(join(&p->norms[i], values));
        p->seen++;
    }
    return MABN_OK;
}

static mabn_status run_batch(struct pass *p, const struct mabn_batch *batch, uint64_t batches)
{
    size_t values;
    const struct mabn_shape shape = mabn_net_input_shape(p->net);
    if (!mabn_shape_count(&shape, &values))
        return mabn_fail(MABN_ERR_ARG, "the input is too large");
    if (batch->count) {
        mabn_eval_fill(p->net, batch, values);
        MABN_TRY(mabn_net_forward(p->net));
        MABN_TRY(collect(p));
    }
    return finish_round(p, batches);
}

static mabn_status run_batches(struct pass *p, const struct spread *s,
                               const struct mabn_augment *input,
                               const struct mabn_recalibrate_options *options)
{
    struct mabn_loader *loader;
    const struct mabn_batch *batch;
    struct mabn_progress *progress = NULL;
    MABN_TRY(mabn_eval_set_table(p->net, input));
    MABN_TRY(open_loader(&loader, s, p->net, input, options));
    if (options->progress)
        progress = mabn_progress_new(options->progress, "images", s->batch * s->batches);
    mabn_status status;
    while (!(status = mabn_loader_next(loader, &batch)) && batch) {
        status = run_batch(p, batch, s->batches);
        if (status) break;
        if (progress) mabn_progress_set(progress, s->batch * p->seen);
    }
    mabn_progress_free(progress);
    mabn_loader_free(loader);
    return status;
}

/* ---- the result ---- */

static mabn_status store(const struct pass *p, struct mabn_params *params)
{
    for (int i = 0; i < p->count; i++) {
        const struct measured *m = &p->norms[i];
        const int mean = find_state(params, m->name, "running_mean");
        const int var = find_state(params, m->name, "running_var");
        if (var < 0 || (mean < 0) != (m->mean < 0))
            MABN_BUG("'%s' is another norm in the network", m->name);
        float *values = p->mine + m->at;
        if (!m->seen)
            return mabn_fail(MABN_ERR_ARG, "'%s': no photograph shows it anything", m->name);
        for (size_t c = 0; c < m->channels; c++)
            values[c] = (float)(m->sum_var[c] / (double)m->seen);
        MABN_TRY(mabn_params_set(params, var, values, m->channels * sizeof(float)));
        if (mean < 0) continue;
        for (size_t c = 0; c < m->channels; c++)
            values[c] = (float)m->sum_mean[c];
        MABN_TRY(mabn_params_set(params, mean, values, m->channels * sizeof(float)));
    }
    return MABN_OK;
}

static mabn_status build(struct pass *p, struct mabn_device *device,
                         const struct mabn_model_file *file,
                         const struct mabn_recalibrate_options *options)
{
    struct mabn_model model = file->model;
    const struct mabn_model_load load = {.other_state = true, .other_windows = true};
    const struct mabn_net_options no = {.batch = options->batch,
                                        .height = file->input.height,
                                        .width = file->input.width,
                                        .precision = (enum mabn_net_precision)options->precision,
                                        .training = true,
                                        .exact = options->exact,
                                        .bytes = mabn_eval_sends_bytes(device, &file->input)};
    if (file->meta.folded)
        return mabn_fail(MABN_ERR_ARG, "its normalization is folded into the convolutions");
    for (int part = 0; part < MABN_MODEL_PARTS; part++)
        set_norm(&model.norm[part]);
    MABN_TRY(mabn_model_build(&p->net, device, &model, &no));
    MABN_TRY(mabn_params_initialize(mabn_net_params(p->net), 0, MABN_PARAMS_INIT_FAN_OUT));
    p->params = mabn_net_params(p->net);
    MABN_TRY(mabn_model_file_load(file, p->params, &load));
    return need_norms(p);
}

static struct pass start(const struct mabn_recalibrate_options *options)
{
    return (struct pass){.comm = options->comm,
                         .ranks = options->comm ? mabn_comm_ranks(options->comm) : 1};
}

mabn_status mabn_recalibrate(struct mabn_recalibrate_result *result, struct mabn_params *params,
                             struct mabn_device *device, const struct mabn_model_file *file,
                             const struct mabn_source *source,
                             const struct mabn_recalibrate_options *options)
{
    struct pass p = start(options);
    struct spread spread;
    mabn_status status;
    memset(result, 0, sizeof *result);
    MABN_TRY_GOTO(choose(&spread, source, options), out);
    MABN_TRY_GOTO(build(&p, device, file, options), out);
    MABN_TRY_GOTO(run_batches(&p, &spread, &file->input, options), out);
    MABN_TRY_GOTO(store(&p, params), out);
    result->images = (int64_t)(spread.batch * p.seen);
    result->norms = p.count;
out:
    release(&p);
    return status;
}

/* ---- detectors ---- */

static mabn_status build_detector(struct pass *p, struct mabn_device *device,
                                  const struct mabn_model_file *file,
                                  const struct mabn_recalibrate_options *options)
{
    struct mabn_detector detector = file->detector;
    struct mabn_norm_options *norms[8];
    const struct mabn_model_load load = {.other_state = true, .other_windows = true};
    const struct mabn_rcnn_options ro = {.training = true,
                                         .measures = true,
                                         .images = options->batch,
                                         .precision = (enum mabn_net_precision)options->precision,
                                         .exact = options->exact};
    const int count = mabn_detector_norms(&detector, norms);
    for (int i = 0; i < count; i++)
        set_norm(norms[i]);
    MABN_TRY(mabn_params_new(&p->own, device));
    MABN_TRY(mabn_detector_declare(p->own, device, &detector, true));
    MABN_TRY(mabn_params_initialize(p->own, 0, MABN_PARAMS_INIT_FAN_IN));
    MABN_TRY(mabn_model_file_load(file, p->own, &load));
    p->params = p->own;
    MABN_TRY(need_norms(p));
    return mabn_rcnn_new(&p->rcnn, device, &detector, p->own, &ro);
}

/* Photographs that training sees, taken evenly from all, wide with wide and tall with tall. */
static mabn_status open_scenes(struct mabn_scene_loader **loader, const struct pass *p,
                               const struct mabn_scene_set *set,
                               const struct mabn_recalibrate_options *options)
{
    struct mabn_scene_loader_options lo;
    uint64_t *samples, count;
    const uint64_t batch = (uint64_t)options->batch;
    mabn_scene_loader_options_init(&lo);
    mabn_detect_input(&lo.scene, mabn_rcnn_detector(p->rcnn));
    MABN_TRY(mabn_scene_select(set, &lo.scene, &samples, &count, NULL));
    uint64_t n = options->images > 0 ? (uint64_t)options->images : MABN_RECALIBRATE_BATCHES * batch;
    if (n > count) n = count;
    for (uint64_t i = 0; i < n; i++)
        samples[i] = samples[(uint64_t)((unsigned __int128)i * count / n)];
    lo.sampler = (struct mabn_scene_sampler_options){
        .samples = samples, .count = n, .batch = options->batch, .group = true, .fill = true};
    lo.raw = mabn_rcnn_takes_raw(p->rcnn);
    lo.threads = options->threads;
    lo.epochs = 0;
    lo.period = p->ranks;
    lo.count = 1;
    lo.first = options->comm ? mabn_comm_rank(options->comm) : 0;
    mabn_status status = mabn_scene_loader_new(loader, set, &lo);
    free(samples);
    return status;
}

static mabn_status run_scenes(struct pass *p, const struct mabn_scene_batch *batch, uint64_t number)
{
    struct mabn_rcnn_figures figures;
    struct mabn_rcnn_image *images = mabn_xcalloc((size_t)batch->count, sizeof *images);
    mabn_status status = mabn_detect_fill(p->rcnn, batch);
    for (int i = 0; i < batch->count; i++)
        images[i] = mabn_detect_image(&batch->scenes[i]);
    if (!status) status = mabn_rcnn_step(p->rcnn, images, number, &figures);
    if (!status) status = collect(p);
    p->mine[MASKS] = status ? 0 : (float)figures.positives;
    free(images);
    return status;
}

static mabn_status run_scene_batches(struct pass *p, const struct mabn_scene_set *set,
                                     const struct mabn_recalibrate_options *options)
{
    struct mabn_scene_loader *loader;
    const struct mabn_scene_batch *batch;
    struct mabn_progress *progress = NULL;
    mabn_status status = MABN_OK;
    const uint64_t rank = options->comm ? (uint64_t)mabn_comm_rank(options->comm) : 0;
    MABN_TRY(open_scenes(&loader, p, set, options));
    const uint64_t batches = mabn_scene_loader_batches_per_epoch(loader);
    if (options->progress) progress = mabn_progress_new(options->progress, "batches", batches);
    while (!status && p->seen < batches) {
        const uint64_t number = p->seen + rank;
        if (number < batches) status = mabn_scene_loader_next(loader, &batch);
        if (!status && number < batches) status = run_scenes(p, batch, number);
        if (!status) status = finish_round(p, batches);
        if (progress) mabn_progress_set(progress, p->seen);
    }
    mabn_progress_free(progress);
    mabn_scene_loader_free(loader);
    return status;
}

mabn_status mabn_recalibrate_detector(struct mabn_recalibrate_result *result,
                                      struct mabn_params *params, struct mabn_device *device,
                                      const struct mabn_model_file *file,
                                      const struct mabn_scene_set *set,
                                      const struct mabn_recalibrate_options *options)
{
    struct pass p = start(options);
    mabn_status status;
    memset(result, 0, sizeof *result);
    MABN_TRY_GOTO(build_detector(&p, device, file, options), out);
    MABN_TRY_GOTO(run_scene_batches(&p, set, options), out);
    MABN_TRY_GOTO(store(&p, params), out);
    result->images = (int64_t)p.seen * options->batch;
    result->norms = p.count;
out:
    release(&p);
    return status;
}
