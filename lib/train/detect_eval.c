#include "train/detect_eval.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/signal.h"
#include "base/json.h"
#include "coco/categories.h"
#include "coco/report.h"
#include "data/scene_loader.h"
#include "detect/convention.h"

/* ---- categories ---- */

void mabn_detect_categories(struct mabn_str *json, const struct mabn_coco *coco)
{
    if (mabn_coco_categories(json, coco, (int)coco->n_categories, MABN_CATEGORIES_AS_GIVEN))
        MABN_BUG("a file with other categories than its own");
}

/* The next object of a list that mabn_detect_categories made, from `at` on; NULL: there is none.
 * *length: of its text. */
static const char *next_category(const char *at, size_t *length)
{
    const char *const start = strstr(at, "{\"id\":");
    if (!start) return NULL;
    const char *end = strstr(start, ",{\"id\":");
    if (!end) end = start + strlen(start) - 1; /* ] */
    *length = (size_t)(end - start);
    return start;
}

/* Its place in the list, from 0; -1: it is not there. */
static int find_category(const char *list, const char *category, size_t length)
{
    size_t n;
    int k = 0;
    for (const char *at = list; (at = next_category(at, &n)); at += n, k++)
        if (n == length && !memcmp(at, category, n)) return k;
    return -1;
}

static bool is_nothing(const char *category, size_t length)
{
    static const char end[] = ",\"name\":\"N/A\"}";
    const size_t n = sizeof end - 1;
    return length > n && !memcmp(category + length - n, end, n);
}

/* The first of a list that the other has not; NULL: it has all. */
static const char *first_missing(const char *list, const char *other, size_t *length)
{
    for (const char *at = list; (at = next_category(at, length)); at += *length)
        if (find_category(other, at, *length) < 0 && !is_nothing(at, *length)) return at;
    return NULL;
}

static mabn_status refuse_categories(const char *categories, const char *model, const char *own,
                                     const char *dataset)
{
    enum { SHOWN = 400 }; /* bytes of each list */
    const char *first = first_missing(own, categories, &(size_t){0}), *lacks = model;
    size_t n = 0;
    if (!first) {
        first = first_missing(categories, own, &n);
        lacks = dataset;
    }
    const char *const at = first ? next_category(first, &n) : NULL;
    return mabn_fail(
        MABN_ERR_MISMATCH, "'%s' knows the categories %.*s%s, '%s' has %.*s%s; %s%.*s%s%s%s", model,
        SHOWN, categories, strlen(categories) > SHOWN ? "…" : "", dataset, SHOWN, own,
        strlen(own) > SHOWN ? "…" : "", at ? "" : "they differ in their order", at ? (int)n : 0,
        at ? at : "", at ? " is not in '" : "", at ? lacks : "", at ? "'" : "");
}

mabn_status mabn_detect_check_categories(const char *categories, const char *model,
                                         const struct mabn_coco *coco, const char *dataset)
{
    struct mabn_str own;
    mabn_str_init(&own);
    mabn_detect_categories(&own, coco);
    const mabn_status status = strcmp(own.text, categories)
                                   ? refuse_categories(categories, model, own.text, dataset)
                                   : MABN_OK;
    mabn_str_release(&own);
    return status;
}

mabn_status mabn_detect_match_categories(int *class_of, const char *categories, const char *model,
                                         const struct mabn_coco *coco, const char *dataset)
{
    struct mabn_str own;
    size_t n;
    int k = 0;
    bool same = true;
    mabn_str_init(&own);
    mabn_detect_categories(&own, coco);
    for (const char *at = own.text; (at = next_category(at, &n)); at += n, k++) {
        const int place = find_category(categories, at, n);
        same = same && place >= 0;
        if (class_of) class_of[k] = place;
    }
    same = same && !first_missing(categories, own.text, &n);
    const mabn_status status =
        same ? MABN_OK : refuse_categories(categories, model, own.text, dataset);
    mabn_str_release(&own);
    return status;
}

/* The id of one object {"id":…,…}, as the annotations' reader has it. */
static void read_id(struct mabn_json *j, int64_t *id)
{
    struct mabn_json_text key, text;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (!mabn_json_is(key, "id"))
            mabn_json_skip(j);
        else if (mabn_json_peek(j) != MABN_JSON_STRING)
            mabn_json_read_int64(j, id);
        else if (!mabn_json_read_string(j, &text))
            *id = mabn_coco_text_id(text.bytes, text.length);
    }
}

mabn_status mabn_detect_category_ids(const char *categories, int64_t *ids, int classes)
{
    struct mabn_json *j =
        mabn_json_new_bytes(categories, strlen(categories), "attribute categories");
    int n = 0;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        int64_t id = 0;
        read_id(j, &id);
        if (n < classes) ids[n] = id;
        n++;
    }
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    if (!status && n != classes)
        status = mabn_fail(MABN_ERR_FORMAT, "%d categories of %d classes", n, classes);
    return status;
}

void mabn_detect_input(struct mabn_scene_options *o, const struct mabn_detector *d)
{
    if (mabn_scene_preset(o, d->convention, false))
        MABN_BUG("no pictures for the convention '%s'", d->convention);
    o->min_sizes[0] = d->min_size;
    o->min_size_count = 1;
    o->max_size = d->max_size;
    o->bgr = d->bgr;
    o->range = d->range;
    for (int i = 0; i < 3; i++) {
        o->mean[i] = (float)d->pixel_mean[i];
        o->deviation[i] = (float)d->pixel_deviation[i];
    }
}

struct mabn_rcnn_image mabn_detect_image(const struct mabn_scene *s)
{
    return (struct mabn_rcnn_image){.number = s->sample,
                                    .width = s->width,
                                    .height = s->height,
                                    .count = s->count,
                                    .boxes = s->boxes,
                                    .labels = s->labels,
                                    .first_polygon = s->first_polygon,
                                    .first_number = s->first_number,
                                    .numbers = s->numbers};
}

mabn_status mabn_detect_fill(struct mabn_rcnn *rcnn, const struct mabn_scene_batch *batch)
{
    const size_t pixels = (size_t)batch->height * (size_t)batch->width;
    float *x;
    if (batch->raw)
        return mabn_rcnn_put_raw(rcnn, batch->raw, batch->count, batch->height, batch->width);
    MABN_TRY(mabn_rcnn_input(rcnn, &x, batch->count, batch->height, batch->width));
    memcpy(x, batch->x, (size_t)batch->count * pixels * 3 * sizeof *x);
    return MABN_OK;
}

/* ---- running ---- */

/* With R ranks the photographs are processed in windows of WINDOW·R. In a window each rank has a
 * run of neighbouring photographs, so that the results of the ranks in order are those of the
 * photographs in order. Once a window the ranks send their detections to rank 0. In the last window
 * the runs are as even as possible. */
enum { WINDOW = 4 };

/* What a rank sends to the others for each window. */
struct report {
    int64_t images, bad, detections;
    int64_t stop;                          /* a signal's number, or 0 */
    double loss[WINDOW][MABN_RCNN_LOSSES]; /* of each image */
};

/* A photograph that was begun. */
struct begun {
    uint64_t sample;
    bool bad;
};

enum { AHEAD = 2 };

struct detecting {
    struct mabn_detect_result *result;
    struct mabn_rcnn *rcnn;
    const struct mabn_detect_options *options;
    struct mabn_scene_loader *loader; /* NULL: this rank has no photographs */
    struct mabn_progress *progress;   /* may be NULL */
    struct mabn_rcnn_found found;
    struct begun begun[AHEAD]; /* in a ring: the n-th of this rank's photographs in n % AHEAD */
    uint64_t first, next;      /* first photograph under way; first that is not begun */
    uint64_t mine;             /* photographs of this rank */
    uint64_t count;            /* of the set */
    int rank, ranks;
    uint64_t window;        /* photographs of a rank in a window */
    struct report *reports; /* (ranks) */
    struct mabn_str packed; /* what was found in this window */
};

struct run {
    uint64_t first, count;
};

static uint64_t windows(const struct detecting *d)
{
    const uint64_t size = d->window * (uint64_t)d->ranks;
    return (d->count + size - 1) / size;
}

/* This rank's photographs of a window. */
static struct run run_of(const struct detecting *d, uint64_t window)
{
    const uint64_t ranks = (uint64_t)d->ranks, r = (uint64_t)d->rank, size = d->window * ranks;
    const uint64_t first = window * size, left = d->count - first, n = left < size ? left : size;
    return (struct run){first + n * r / ranks, n * (r + 1) / ranks - n * r / ranks};
}

/* A batch is one photograph: sizes differ, and on a CPU larger batches are not faster. */
static mabn_status open_loader(struct detecting *d, const struct mabn_scene_set *set)
{
    struct mabn_scene_loader_options lo;
    uint64_t *mine = mabn_xmalloc((d->count + 1) * sizeof *mine), n = 0;
    for (uint64_t w = 0; w < windows(d); w++) {
        const struct run run = run_of(d, w);
        for (uint64_t i = 0; i < run.count; i++)
            mine[n++] = run.first + i;
    }
    mabn_scene_loader_options_init(&lo);
    mabn_detect_input(&lo.scene, mabn_rcnn_detector(d->rcnn));
    lo.raw = mabn_rcnn_takes_raw(d->rcnn);
    lo.threads = d->options->threads;
    lo.skip_bad = d->options->skip_bad;
    lo.sampler.samples = mine;
    lo.sampler.count = d->mine = n;
    /* A rank may have none; the loader reports a set without any. */
    mabn_status status = MABN_OK;
    if (n || !d->count) status = mabn_scene_loader_new(&d->loader, set, &lo);
    free(mine);
    return status;
}

static mabn_status begin_one(struct detecting *d)
{
    const struct mabn_scene_batch *batch;
    MABN_TRY(mabn_scene_loader_next(d->loader, &batch));
    const struct mabn_scene *s = &batch->scenes[0];
    struct begun *b = &d->begun[d->next % AHEAD];
    struct mabn_rcnn_image image = {.number = s->sample, .width = s->width, .height = s->height};
    if (d->options->losses) image = mabn_detect_image(s);
    const struct mabn_rcnn_size original = {s->original_width, s->original_height};
    *b = (struct begun){s->sample, s->bad};
    d->next++;
    if (s->bad) return MABN_OK;
    MABN_TRY(mabn_detect_fill(d->rcnn, batch));
    return mabn_rcnn_detect_begin(d->rcnn, &image, &original);
}

/* Have as many under way as may be, also of the next window: a GPU computes while results are looked at. */
static mabn_status begin_more(struct detecting *d)
{
    const uint64_t depth = (uint64_t)mabn_rcnn_depth(d->rcnn);
    while (d->next < d->mine && d->next - d->first < (depth < AHEAD ? depth : AHEAD))
        MABN_TRY(begin_one(d));
    return MABN_OK;
}

static mabn_status finish_one(struct detecting *d, double loss[MABN_RCNN_LOSSES])
{
    struct mabn_rcnn_figures figures;
    MABN_TRY(mabn_rcnn_detect_result(d->rcnn, &d->found, &figures));
    for (int k = 0; k < MABN_RCNN_PARTS; k++)
        d->result->parts[k] += figures.seconds[k];
    memcpy(loss, figures.loss, sizeof figures.loss);
    return MABN_OK;
}

/* ---- what was found, as bytes: by this program for itself on another host ---- */

struct packed_head {
    uint64_t sample;
    int64_t count;
    int64_t masks; /* 0 or 1 */
};

static void pack(struct mabn_str *to, uint64_t sample, const struct mabn_rcnn_found *found)
{
    const struct mabn_detections *b = &found->boxes;
    const size_t n = (size_t)b->count;
    const struct packed_head head = {sample, b->count, found->masks != NULL};
    mabn_str_add_bytes(to, &head, sizeof head);
    mabn_str_add_bytes(to, b->box, 4 * n * sizeof *b->box);
    mabn_str_add_bytes(to, b->score, n * sizeof *b->score);
    mabn_str_add_bytes(to, b->label, n * sizeof *b->label);
    for (size_t i = 0; i < n && found->masks; i++) {
        const struct mabn_rle *m = &found->masks[i];
        const uint32_t size[3] = {m->height, m->width, (uint32_t)m->count};
        mabn_str_add_bytes(to, size, sizeof size);
        mabn_str_add_bytes(to, m->counts, m->count * sizeof *m->counts);
    }
}

/* The next `bytes` of them, copied: they need not be aligned. */
static void *take(const char **at, size_t bytes)
{
    void *copy = mabn_xmalloc(bytes + 1);
    memcpy(copy, *at, bytes);
    *at += bytes;
    return copy;
}

static void unpack(const char **at, uint64_t *sample, struct mabn_rcnn_found *found)
{
    struct packed_head head;
    memset(found, 0, sizeof *found);
    memcpy(&head, *at, sizeof head);
    *at += sizeof head;
    *sample = head.sample;
    const size_t n = (size_t)head.count;
    found->boxes = (struct mabn_detections){.count = head.count,
                                            .box = take(at, 4 * n * sizeof(float)),
                                            .score = take(at, n * sizeof(float)),
                                            .label = take(at, n * sizeof(int32_t))};
    if (!head.masks) return;
    found->masks = mabn_xcalloc(n + 1, sizeof *found->masks);
    found->mask_room = head.count;
    for (size_t i = 0; i < n; i++) {
        uint32_t size[3];
        memcpy(size, *at, sizeof size);
        *at += sizeof size;
        found->masks[i] = (struct mabn_rle){.height = size[0],
                                            .width = size[1],
                                            .counts = take(at, size[2] * sizeof(uint32_t)),
                                            .count = size[2],
                                            .capacity = size[2]};
    }
}

static mabn_status show_packed(const struct mabn_detect_options *options, const char *bytes,
                               size_t size)
{
    const char *at = bytes;
    mabn_status status = MABN_OK;
    while (at < bytes + size && !status) {
        struct mabn_rcnn_found found;
        uint64_t sample;
        unpack(&at, &sample, &found);
        status = options->each(options->context, sample, &found);
        mabn_rcnn_found_release(&found);
    }
    return status;
}

/* ---- windows ---- */

static mabn_status keep_found(struct detecting *d, uint64_t sample)
{
    if (!d->options->each) return MABN_OK;
    if (d->ranks == 1) return d->options->each(d->options->context, sample, &d->found);
    pack(&d->packed, sample, &d->found);
    return MABN_OK;
}

static mabn_status detect_run(struct detecting *d, uint64_t count, struct report *report)
{
    for (uint64_t i = 0; i < count; i++) {
        if ((report->stop = mabn_stop_requested())) return MABN_OK;
        MABN_TRY(begin_more(d));
        const struct begun *b = &d->begun[d->first++ % AHEAD];
        if (b->bad) {
            report->bad++;
            continue;
        }
        MABN_TRY(finish_one(d, report->loss[report->images]));
        report->images++;
        report->detections += d->found.boxes.count;
        MABN_TRY(keep_found(d, b->sample));
    }
    return MABN_OK;
}

static mabn_status show_window(struct detecting *d)
{
    void *all = NULL;
    size_t total = 0;
    if (!d->options->each || d->ranks == 1) return MABN_OK;
    size_t *sizes = mabn_xcalloc((size_t)d->ranks, sizeof *sizes);
    mabn_status status =
        mabn_comm_gather(d->options->comm, d->packed.text, d->packed.length, &all, sizes);
    for (int r = 0; r < d->ranks; r++)
        total += sizes[r];
    if (!status && d->rank == 0) status = show_packed(d->options, all, total);
    mabn_free(all);
    free(sizes);
    mabn_str_clear(&d->packed);
    return status;
}

/* Image by image in the order of the set, so that the sums have the same bits on any number of ranks. */
static void add_losses(struct detecting *d, const struct report *report)
{
    for (int64_t i = 0; i < report->images; i++)
        for (int k = 0; k < MABN_RCNN_LOSSES; k++)
            d->result->loss[k] += report->loss[i][k];
}

static mabn_status detect_window(struct detecting *d, uint64_t window)
{
    struct report mine = {.images = 0};
    MABN_TRY(detect_run(d, run_of(d, window).count, &mine));
    d->reports[0] = mine;
    if (d->ranks > 1)
        MABN_TRY(mabn_comm_all_gather(d->options->comm, &mine, sizeof mine, d->reports));
    for (int r = 0; r < d->ranks; r++) {
        const struct report *report = &d->reports[r];
        if (report->stop)
            return mabn_fail(MABN_ERR_STOPPED, "stopped by %s",
                             mabn_signal_name((int)report->stop));
        d->result->images += report->images;
        d->result->bad += report->bad;
        d->result->detections += report->detections;
        add_losses(d, report);
        if (d->progress) mabn_progress_add(d->progress, (uint64_t)(report->images + report->bad));
    }
    return show_window(d);
}

/* Fetch what is still under way after a failure or a signal, which `status` is. */
static mabn_status abandon(struct detecting *d, mabn_status status)
{
    struct mabn_rcnn_figures figures;
    if (!mabn_rcnn_behind(d->rcnn)) return status;
    char *told = mabn_error_detach();
    while (mabn_rcnn_behind(d->rcnn))
        if (mabn_rcnn_detect_result(d->rcnn, &d->found, &figures)) mabn_error_clear();
    return mabn_error_attach(status, told);
}

mabn_status mabn_detect(struct mabn_detect_result *result, struct mabn_rcnn *rcnn,
                        const struct mabn_scene_set *set, const struct mabn_detect_options *options)
{
    struct detecting d = {.result = result,
                          .rcnn = rcnn,
                          .options = options,
                          .count = mabn_scene_set_count(set),
                          .rank = options->comm ? mabn_comm_rank(options->comm) : 0,
                          .ranks = options->comm ? mabn_comm_ranks(options->comm) : 1};
    struct mabn_scene_loader_stats stats = {.wait_seconds = 0};
    const double start = mabn_now();
    memset(result, 0, sizeof *result);
    d.window = d.ranks > 1 ? WINDOW : 1;
    mabn_str_init(&d.packed);
    d.reports = mabn_xcalloc((size_t)d.ranks, sizeof *d.reports);
    mabn_status status = open_loader(&d, set);
    if (!status && options->progress && d.rank == 0)
        d.progress = mabn_progress_new(options->progress, "images", d.count);
    for (uint64_t w = 0; w < windows(&d) && !status; w++)
        status = detect_window(&d, w);
    status = abandon(&d, status);
    if (d.loader) mabn_scene_loader_stats(d.loader, &stats);
    for (int k = 0; k < MABN_RCNN_LOSSES && result->images; k++)
        result->loss[k] /= (double)result->images;
    result->waited = stats.wait_seconds;
    result->seconds = mabn_now() - start;
    mabn_progress_free(d.progress);
    mabn_scene_loader_free(d.loader);
    mabn_rcnn_found_release(&d.found);
    mabn_str_release(&d.packed);
    free(d.reports);
    return status;
}

/* ---- writing ---- */

static void put_box(struct mabn_json_writer *json, const float *box,
                    const struct mabn_box_convention *convention)
{
    double record[4];
    mabn_detection_record(record, box, convention);
    mabn_json_put_doubles(json, "bbox", record, 4);
}

void mabn_detect_write(struct mabn_json_writer *json, struct mabn_detect_writer *writer,
                       uint64_t sample, const struct mabn_rcnn_found *found)
{
    const struct mabn_detections *d = &found->boxes;
    const struct mabn_coco *coco = mabn_scene_set_coco(writer->set);
    for (int64_t i = 0; i < d->count; i++) {
        if (d->score[i] < writer->min_score) continue;
        if (!writer->first) mabn_json_put_line(json, 0);
        writer->first = false;
        mabn_json_put_object(json, NULL);
        mabn_coco_put_id(json, "image_id", coco, mabn_scene_set_image_id(writer->set, sample));
        if (writer->files)
            mabn_json_put_string(json, "file_name", mabn_scene_set_file(writer->set, sample));
        mabn_coco_put_id(json, "category_id", coco, writer->categories[d->label[i] - 1]);
        if (writer->boxes) put_box(json, d->box + 4 * i, writer->convention);
        mabn_json_put_double(json, "score", d->score[i]);
        if (writer->masks && found->masks) mabn_rle_put(json, "segmentation", &found->masks[i]);
        mabn_json_put_end(json);
    }
}

/* ---- judging ---- */

struct collector {
    struct mabn_str text;
    struct mabn_json_writer json; /* onto text */
    struct mabn_detect_writer writer;
};

static mabn_status collect(void *context, uint64_t sample, const struct mabn_rcnn_found *found)
{
    struct collector *c = context;
    mabn_detect_write(&c->json, &c->writer, sample, found);
    return MABN_OK;
}

static mabn_status judge_type(double stats[MABN_COCO_STATS], struct mabn_str *table,
                              enum mabn_coco_type type, const struct mabn_coco *truth,
                              const struct mabn_coco *results)
{
    struct mabn_coco_params params;
    struct mabn_coco_evaluation *e;
    struct mabn_coco_score score;
    mabn_coco_params_init(&params, type);
    params.quiet = true;
    MABN_TRY(mabn_coco_evaluate(&e, truth, results, &params));
    const mabn_status status = mabn_coco_accumulate(&score, e, NULL);
    if (!status) memcpy(stats, score.stats, MABN_COCO_STATS * sizeof *stats);
    if (!status && table) mabn_coco_report_lines(table, &score);
    if (!status) mabn_coco_score_release(&score);
    mabn_coco_evaluation_free(e);
    return status;
}

/* By way of a results file, so that the statistics equal those of mabn-score to the last digit. */
static mabn_status judge(struct mabn_detect_score *score, struct mabn_str *tables,
                         const struct collector *c)
{
    const struct mabn_coco *truth = mabn_scene_set_coco(c->writer.set);
    const enum mabn_coco_type type = c->writer.masks ? MABN_COCO_SEGM : MABN_COCO_BBOX;
    struct mabn_coco results;
    MABN_TRY(mabn_coco_read_bytes(&results, c->text.text, c->text.length, true,
                                  MABN_COCO_KEEP_SEGMENTATIONS));
    mabn_status status =
        judge_type(type == MABN_COCO_SEGM ? score->mask : score->box,
                   tables ? &tables[type == MABN_COCO_SEGM] : NULL, type, truth, &results);
    mabn_coco_release(&results);
    return status;
}

/* Boxes and masks separately, as the reference, which writes two files: in a record with both, the
 * area of the box would count for the mask as well. */
struct collectors {
    struct collector of[2];
    int count;
    const struct mabn_detect_options *options;
};

static mabn_status collect_both(void *context, uint64_t sample, const struct mabn_rcnn_found *found)
{
    struct collectors *c = context;
    for (int i = 0; i < c->count; i++)
        MABN_TRY(collect(&c->of[i], sample, found));
    return c->options->each ? c->options->each(c->options->context, sample, found) : MABN_OK;
}

static void start_collecting(struct collectors *c, const struct mabn_rcnn *rcnn,
                             const struct mabn_scene_set *set, const int64_t *categories,
                             const struct mabn_box_convention *convention)
{
    c->count = mabn_rcnn_detector(rcnn)->masks ? 2 : 1;
    for (int i = 0; i < c->count; i++) {
        mabn_str_init(&c->of[i].text);
        mabn_json_writer_init(&c->of[i].json, &c->of[i].text);
        mabn_json_put_array(&c->of[i].json, NULL);
        c->of[i].writer = (struct mabn_detect_writer){.set = set,
                                                      .categories = categories,
                                                      .convention = convention,
                                                      .boxes = i == 0,
                                                      .masks = i == 1,
                                                      .first = true};
    }
}

static bool first_rank(const struct mabn_detect_options *options)
{
    return !options->comm || mabn_comm_rank(options->comm) == 0;
}

mabn_status mabn_detect_judge(struct mabn_detect_score *score, struct mabn_str *tables,
                              struct mabn_detect_result *result, struct mabn_rcnn *rcnn,
                              const struct mabn_scene_set *set,
                              const struct mabn_detect_options *options)
{
    const struct mabn_coco *coco = mabn_scene_set_coco(set);
    const struct mabn_box_convention *convention;
    struct collectors c = {.options = options};
    struct mabn_detect_options o = *options;
    memset(score, 0, sizeof *score);
    MABN_TRY(mabn_box_convention_find(&convention, mabn_rcnn_detector(rcnn)->convention));
    int64_t *categories = mabn_xcalloc(coco->n_categories + 1, sizeof *categories);
    for (size_t i = 0; i < coco->n_categories; i++)
        categories[i] = coco->categories[i].id;
    start_collecting(&c, rcnn, set, options->categories ? options->categories : categories,
                     convention);
    score->masks = c.count == 2;
    o.each = collect_both;
    o.context = &c;
    mabn_status status = mabn_detect(result, rcnn, set, &o);
    for (int i = 0; i < c.count; i++) {
        mabn_json_put_end(&c.of[i].json);
        if (!status && first_rank(options)) status = judge(score, tables, &c.of[i]);
        mabn_str_release(&c.of[i].text);
    }
    if (!status && options->comm) status = mabn_comm_broadcast(options->comm, score, sizeof *score);
    free(categories);
    return status;
}

mabn_status mabn_detect_check_truth(const struct mabn_scene_set *set, bool masks)
{
    const struct mabn_coco *truth = mabn_scene_set_coco(set);
    struct mabn_coco nothing;
    double stats[MABN_COCO_STATS];
    MABN_TRY(mabn_coco_read_bytes(&nothing, "[]", 2, true, MABN_COCO_KEEP_SEGMENTATIONS));
    mabn_status status = judge_type(stats, NULL, MABN_COCO_BBOX, truth, &nothing);
    if (!status && masks) status = judge_type(stats, NULL, MABN_COCO_SEGM, truth, &nothing);
    mabn_coco_release(&nothing);
    return status;
}
