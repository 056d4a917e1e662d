/* mabn-score: score results against the ground truth. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/out.h"
#include "base/str.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "coco/confusion.h"
#include "coco/dataset.h"
#include "coco/doubt.h"
#include "coco/errors.h"
#include "coco/operating.h"
#include "coco/report.h"
#include "coco/score.h"
#include "coco/topk.h"

/* ---- mabn-score coco ---- */

struct id_list {
    int64_t *ids;
    size_t n, room;
};

static struct coco_options {
    bool types[MABN_COCO_TYPES];
    bool json, per_category, tsv, curves, class_agnostic, fix_quirks;
    bool errors, points, force, lvis, boundary;
    double point; /* NaN: the score of the best F1 */
    double min_score;
    const char *confusion, *pr, *calibration;
    struct mabn_coco_sigmas *own; /* (n_own) */
    char **own_names;
    size_t n_own, room_own, room_own_names;
    const char *compare, *categories, *images;
    struct mabn_coco_params custom; /* where n_... > 0 */
    int rounds, threads;
    double confidence;
    int64_t seed;
} coco = {.types = {true}, .rounds = 1000, .confidence = 0.95};

/* Cut the next piece off a comma-separated list; false at its end. */
static bool next_piece(const char **list, char *piece, size_t room)
{
    if (!**list) return false;
    size_t n = strcspn(*list, ",");
    snprintf(piece, room, "%.*s", (int)(n < room ? n : room), *list);
    *list += n + ((*list)[n] == ',');
    return true;
}

static mabn_status parse_number(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out >= -1e300 && *out <= 1e300))
        return mabn_fail(MABN_ERR_ARG, "'%s' is not a number", text);
    return MABN_OK;
}

static mabn_status parse_types(const char *text, void *value)
{
    bool *types = value;
    char piece[32];
    memset(types, 0, MABN_COCO_TYPES * sizeof *types);
    if (!*text) return mabn_fail(MABN_ERR_ARG, "no type");
    while (next_piece(&text, piece, sizeof piece)) {
        int type;
        MABN_TRY(mabn_word_parse(&type, mabn_coco_types, "type", piece));
        types[type] = true;
    }
    return MABN_OK;
}

/* FROM:TO:STEP. Binary sums deviate from decimal ones (0.05 + 9 * 0.05 is not 0.5), so each
 * threshold is rounded to nine decimals. COCO's own range gives COCO's own values. */
static mabn_status parse_range(struct mabn_coco_params *p, const char *text, double low,
                               double high, double step)
{
    struct mabn_coco_params usual;
    double steps = (high - low) / step;
    if (!(step > 0 && high >= low && steps < MABN_COCO_MAX_THRESHOLDS - 1))
        return mabn_fail(MABN_ERR_ARG, "'%s' is not FROM:TO:STEP with at most %d thresholds", text,
                         MABN_COCO_MAX_THRESHOLDS);
    if (!(low > 0 && high <= 1)) return mabn_fail(MABN_ERR_ARG, "'%s' is not in (0, 1]", text);
    if (fabs(steps - round(steps)) > 1e-6)
        return mabn_fail(MABN_ERR_ARG, "steps of %g from %g do not reach %g exactly", step, low,
                         high);
    p->n_thresholds = (int)round(steps) + 1;
    for (int i = 0; i < p->n_thresholds; i++)
        p->thresholds[i] = round((low + i * step) * 1e9) / 1e9;
    mabn_coco_params_init(&usual, MABN_COCO_BBOX);
    if (low == 0.5 && high == 0.95 && p->n_thresholds == usual.n_thresholds)
        memcpy(p->thresholds, usual.thresholds, sizeof usual.thresholds);
    return MABN_OK;
}

/* "0.5,0.75", or "0.5:0.95:0.05". */
static mabn_status parse_overlaps(const char *text, void *value)
{
    struct mabn_coco_params *p = value;
    char piece[64];
    double low, high, step;
    int used = 0;
    p->n_thresholds = 0;
    if (sscanf(text, "%lf:%lf:%lf%n", &low, &high, &step, &used) == 3 && !text[used])
        return parse_range(p, text, low, high, step);
    while (next_piece(&text, piece, sizeof piece)) {
        if (p->n_thresholds == MABN_COCO_MAX_THRESHOLDS)
            return mabn_fail(MABN_ERR_ARG, "more than %d thresholds", MABN_COCO_MAX_THRESHOLDS);
        MABN_TRY(parse_number(piece, &p->thresholds[p->n_thresholds]));
        double v = p->thresholds[p->n_thresholds++];
        if (!(v > 0 && v <= 1)) return mabn_fail(MABN_ERR_ARG, "%s is not in (0, 1]", piece);
    }
    return p->n_thresholds ? MABN_OK : mabn_fail(MABN_ERR_ARG, "no threshold");
}

static mabn_status parse_max_dets(const char *text, void *value)
{
    struct mabn_coco_params *p = value;
    char piece[64];
    p->n_max_dets = 0;
    while (next_piece(&text, piece, sizeof piece)) {
        double v;
        if (p->n_max_dets == MABN_COCO_MAX_MAX_DETS)
            return mabn_fail(MABN_ERR_ARG, "more than %d numbers", MABN_COCO_MAX_MAX_DETS);
        MABN_TRY(parse_number(piece, &v));
        int before = p->n_max_dets ? p->max_dets[p->n_max_dets - 1] : 0;
        if (!(v >= 1 && v <= 1e9 && v == (int)v && (int)v > before))
            return mabn_fail(MABN_ERR_ARG, "expected positive whole numbers, ascending");
        p->max_dets[p->n_max_dets++] = (int)v;
    }
    return p->n_max_dets ? MABN_OK : mabn_fail(MABN_ERR_ARG, "no number");
}

/* "NAME:LOW:HIGH,..."; an empty HIGH has no bound. */
static mabn_status parse_areas(const char *text, void *value)
{
    struct mabn_coco_params *p = value;
    char piece[128];
    p->n_areas = 0;
    while (next_piece(&text, piece, sizeof piece)) {
        struct mabn_coco_area *a = &p->areas[p->n_areas];
        char *low = strchr(piece, ':'), *high = low ? strchr(low + 1, ':') : NULL;
        if (p->n_areas == MABN_COCO_MAX_AREAS)
            return mabn_fail(MABN_ERR_ARG, "more than %d areas", MABN_COCO_MAX_AREAS);
        if (!high || low == piece || low - piece >= (int)sizeof a->name)
            return mabn_fail(MABN_ERR_ARG, "'%s' is not NAME:LOW:HIGH (a name of 1 to 15 letters)",
                             piece);
        *low++ = *high++ = 0;
        memcpy(a->name, piece, strlen(piece) + 1);
        a->high = INFINITY;
        MABN_TRY(parse_number(low, &a->low));
        if (*high) MABN_TRY(parse_number(high, &a->high));
        if (!(a->low <= a->high)) return mabn_fail(MABN_ERR_ARG, "'%s': LOW is above HIGH", piece);
        p->n_areas++;
        if (mabn_coco_area_index(p, a->name) != p->n_areas - 1)
            return mabn_fail(MABN_ERR_ARG, "two areas named '%s'", a->name);
    }
    return p->n_areas ? MABN_OK : mabn_fail(MABN_ERR_ARG, "no area");
}

static mabn_status parse_deviations(const char *text, double *sigmas, int *n)
{
    char piece[64];
    *n = 0;
    while (next_piece(&text, piece, sizeof piece)) {
        if (*n == MABN_COCO_MAX_KEYPOINTS)
            return mabn_fail(MABN_ERR_ARG, "more than %d keypoints", MABN_COCO_MAX_KEYPOINTS);
        MABN_TRY(parse_number(piece, &sigmas[*n]));
        if (!(sigmas[(*n)++] > 0)) return mabn_fail(MABN_ERR_ARG, "%s is not positive", piece);
    }
    return *n ? MABN_OK : mabn_fail(MABN_ERR_ARG, "no number");
}

/* LIST for all categories, or CATEGORY=LIST for one, which is looked up later. */
static mabn_status parse_sigmas(const char *text, void *value)
{
    struct mabn_coco_params *p = value;
    const char *equals = strrchr(text, '=');
    if (!equals) return parse_deviations(text, p->sigmas, &p->n_sigmas);
    MABN_GROW(coco.own, coco.n_own, coco.room_own);
    MABN_GROW(coco.own_names, coco.n_own, coco.room_own_names);
    struct mabn_coco_sigmas *own = &coco.own[coco.n_own];
    MABN_TRY(parse_deviations(equals + 1, own->sigmas, &own->n));
    coco.own_names[coco.n_own++] = mabn_xstrndup(text, (size_t)(equals - text));
    return MABN_OK;
}

static mabn_status parse_point(const char *text, void *value)
{
    coco.points = true;
    *(double *)value = NAN;
    return strcmp(text, "best") ? parse_number(text, value) : MABN_OK;
}

static const struct mabn_option coco_table[] = {
    MABN_OPT_GROUP("What is judged"),
    MABN_OPT_CALL('t', "type", parse_types, coco.types, "LIST",
                  "one or more of bbox, segm, keypoints [bbox]"),
    MABN_OPT_CALL(0, "iou", parse_overlaps, &coco.custom, "LIST",
                  "overlap thresholds, or FROM:TO:STEP [0.5:0.95:0.05]"),
    MABN_OPT_CALL(0, "max-dets", parse_max_dets, &coco.custom, "LIST",
                  "detections of an image that count [1,10,100; keypoints 20]"),
    MABN_OPT_CALL(0, "areas", parse_areas, &coco.custom, "LIST",
                  "area ranges NAME:LOW:HIGH [all, small, medium, large]"),
    MABN_OPT_STRING(0, "categories", &coco.categories, "LIST", "only these category ids or names"),
    MABN_OPT_STRING(0, "images", &coco.images, "LIST",
                    "only these image ids, or @FILE with one on each line"),
    MABN_OPT_FLAG(0, "class-agnostic", &coco.class_agnostic, "take all categories as one"),
    MABN_OPT_FLAG(0, "boundary", &coco.boundary, "masks by the overlap of their boundaries"),
    MABN_OPT_FLAG(0, "lvis", &coco.lvis, "by LVIS's rules, for its annotation files"),
    MABN_OPT_CALL(0, "sigmas", parse_sigmas, &coco.custom, "LIST",
                  "keypoint deviations, for other than COCO's 17; CATEGORY=LIST for one category"),
    MABN_OPT_FLAG(0, "fix-quirks", &coco.fix_quirks,
                  "correct the errors of pycocotools; see the manual"),
    MABN_OPT_GROUP("What is printed"),
    MABN_OPT_FLAG(0, "json", &coco.json, "everything, as a JSON object keyed by type"),
    MABN_OPT_FLAG(0, "curves", &coco.curves, "with --json: precision, recall and scores too"),
    MABN_OPT_FLAG('c', "per-category", &coco.per_category, "add a table of the categories"),
    MABN_OPT_FLAG(0, "tsv", &coco.tsv, "tab-separated values in full precision"),
    MABN_OPT_GROUP("Analysis, at one overlap: 0.5, or the one given by --iou"),
    MABN_OPT_FLAG(0, "errors", &coco.errors,
                  "where precision is lost, by the kinds of errors of TIDE"),
    MABN_OPT_CALL(0, "operating-point", parse_point, &coco.point, "SCORE",
                  "precision, recall, F1 and counts from this score on; best: of greatest F1"),
    MABN_OPT_STRING(0, "confusion", &coco.confusion, "FILE", "write the confusion matrix"),
    MABN_OPT_DOUBLE(0, "min-score", &coco.min_score, 0, 1, "S",
                    "lowest score of detections in that matrix"),
    MABN_OPT_STRING(0, "pr", &coco.pr, "FILE", "write precision-recall curves"),
    MABN_OPT_STRING(0, "calibration", &coco.calibration, "FILE",
                    "write how often results of each score are correct"),
    MABN_OPT_FORCE(&coco.force),
    MABN_OPT_GROUP("Comparison"),
    MABN_OPT_STRING(0, "compare", &coco.compare, "OTHER",
                    "other results: show both, the difference and its interval"),
    MABN_OPT_INT(0, "rounds", &coco.rounds, 10, 1e6, "N", "bootstrap rounds over images"),
    MABN_OPT_DOUBLE(0, "confidence", &coco.confidence, 0.01, 0.9999, "P", "of the interval"),
    MABN_OPT_SEED(&coco.seed),
    MABN_OPT_GROUP("General"),
    MABN_OPT_THREADS(&coco.threads),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

struct files {
    const char *paths[3]; /* truth, results, other results */
    struct mabn_coco read[3];
    unsigned keep;
};

static mabn_status read_file(void *context, int64_t index, int worker)
{
    struct files *f = context;
    (void)worker;
    return index == 0 ? mabn_coco_read_any(&f->read[0], f->paths[0], f->keep)
                      : mabn_coco_read_results(&f->read[index], f->paths[index], f->keep);
}

/* An image's id: a number, or a string that is an id in the ground truth. */
static mabn_status add_id(struct id_list *list, const char *text, const struct mabn_coco *truth)
{
    char *end;
    errno = 0;
    long long id = strtoll(text, &end, 10);
    bool number = end != text && !*end && !errno;
    int64_t other = mabn_coco_text_id(text, strlen(text));
    bool known[2] = {false, false};
    for (size_t i = 0; i < truth->n_images && truth->n_texts; i++) {
        known[0] |= number && truth->images[i].id == id;
        known[1] |= truth->images[i].id == other;
    }
    if (known[0] && known[1])
        return mabn_fail(MABN_ERR_ARG,
                         "'%s' is ambiguous: the ids of two images of '%s', a number and a text",
                         text, truth->name);
    if (!number && !known[1])
        return truth->n_texts
                   ? mabn_fail(MABN_ERR_NOTFOUND, "image '%s' is not in '%s'", text, truth->name)
                   : mabn_fail(MABN_ERR_ARG, "'%s' is not an id", text);
    MABN_GROW(list->ids, list->n, list->room);
    list->ids[list->n++] = known[1] ? other : id;
    return MABN_OK;
}

static mabn_status list_words(struct id_list *list, const char *text, const char *apart,
                              const struct mabn_coco *truth)
{
    char *words = mabn_xstrdup(text), *rest = words, *word;
    mabn_status status = MABN_OK;
    while (!status && (word = strsep(&rest, apart)) != NULL)
        if (*word) status = add_id(list, word, truth);
    free(words);
    return status;
}

/* Ids separated by commas; or those in a file, separated by white space (by line ends only, if ids
 * are strings). */
static mabn_status list_images(struct id_list *list, const char *text,
                               const struct mabn_coco *truth)
{
    struct mabn_input in;
    if (*text != '@') return list_words(list, text, ",", truth);
    MABN_TRY(mabn_input_open_text(&in, text + 1, 0));
    char *copy = mabn_xstrndup((const char *)in.bytes, in.size);
    mabn_status status = list_words(list, copy, truth->n_texts ? "\r\n" : " \t\r\n", truth);
    if (status) mabn_fail_prefix(status, "'%s'", in.name);
    free(copy);
    mabn_input_release(&in);
    return status;
}

/* By id or by name. A word that could mean more than one category is refused. */
static mabn_status find_category(int64_t *out, const char *word, const struct mabn_coco *truth)
{
    const struct mabn_coco_category *found = NULL;
    char a[24], b[24];
    for (size_t i = 0; i < truth->n_categories; i++) {
        const struct mabn_coco_category *c = &truth->categories[i];
        bool id = !strcmp(mabn_coco_id_text(truth, c->id, a), word);
        if (!id && !(c->name && !strcmp(c->name, word))) continue;
        if (found && found->id != c->id)
            return mabn_fail(
                MABN_ERR_ARG, "'%s' is ambiguous in '%s': categories %s (%s) and %s (%s)", word,
                truth->name, mabn_coco_id_text(truth, found->id, a), found->name ? found->name : "",
                mabn_coco_id_text(truth, c->id, b), c->name ? c->name : "");
        found = c;
    }
    if (!found)
        return mabn_fail(MABN_ERR_NOTFOUND, "category '%s' is not in '%s'", word, truth->name);
    *out = found->id;
    return MABN_OK;
}

static mabn_status list_categories(struct id_list *list, const char *text,
                                   const struct mabn_coco *truth)
{
    char *words = mabn_xstrdup(text), *rest = words, *word;
    mabn_status status = MABN_OK;
    while (!status && (word = strsep(&rest, ",")) != NULL) {
        MABN_GROW(list->ids, list->n, list->room);
        if (!*word)
            status = mabn_fail(MABN_ERR_ARG, "--categories: an empty item in '%s'", text);
        else
            status = find_category(&list->ids[list->n++], word, truth);
    }
    free(words);
    return status;
}

static void set_params(struct mabn_coco_params *p, enum mabn_coco_type type)
{
    const struct mabn_coco_params *custom = &coco.custom;
    mabn_coco_params_init(p, type);
    if (coco.lvis) mabn_coco_params_lvis(p);
    if (custom->n_thresholds) {
        memcpy(p->thresholds, custom->thresholds, sizeof p->thresholds);
        p->n_thresholds = custom->n_thresholds;
    }
    if (custom->n_max_dets) {
        memcpy(p->max_dets, custom->max_dets, sizeof p->max_dets);
        p->n_max_dets = custom->n_max_dets;
    }
    if (custom->n_areas) {
        memcpy(p->areas, custom->areas, sizeof p->areas);
        p->n_areas = custom->n_areas;
    }
    if (custom->n_sigmas) {
        for (int i = 0; i < custom->n_sigmas; i++)
            p->sigmas[i] = custom->sigmas[i];
        p->n_sigmas = custom->n_sigmas;
    }
    p->boundary = coco.boundary && type == MABN_COCO_SEGM;
    p->own_sigmas = coco.own;
    p->n_own_sigmas = coco.n_own;
    p->class_agnostic = coco.class_agnostic;
    p->fix_quirks = coco.fix_quirks;
    p->full = coco.curves || coco.pr;
    p->threads = coco.threads;
}

/* The text for standard output; --json writes to it through `json`. */
struct output {
    struct mabn_str text;
    struct mabn_json_writer json;
};

static void report(struct mabn_str *out, const struct mabn_coco_score *s, bool several)
{
    if (coco.tsv && (coco.errors || coco.points)) return;
    if (coco.tsv && coco.per_category) {
        mabn_coco_report_categories(out, s, true);
    } else if (coco.tsv) {
        mabn_coco_report_tsv(out, s);
    } else {
        if (several)
            mabn_str_printf(out, "Evaluate annotation type *%s*\n",
                            mabn_coco_type_name(s->params.type));
        mabn_coco_report_lines(out, s);
        if (coco.per_category) mabn_coco_report_categories(out, s, false);
    }
}

/* Two results: bootstrap, then one report of both. */
static mabn_status compare(struct output *out, const struct mabn_coco_evaluation *first,
                           const struct mabn_coco_score *a, const struct files *f,
                           const struct mabn_coco_params *params, bool several)
{
    struct mabn_coco_evaluation *second;
    struct mabn_coco_interval intervals[MABN_COCO_STATS];
    struct mabn_coco_score b;
    memset(&b, 0, sizeof b);
    MABN_TRY(mabn_coco_evaluate(&second, &f->read[0], &f->read[2], params));
    mabn_status status = mabn_coco_accumulate(&b, second, NULL);
    if (!status)
        status = mabn_coco_bootstrap(intervals, first, second, coco.rounds, coco.confidence,
                                     (uint64_t)coco.seed, coco.threads);
    if (!status && coco.json) {
        mabn_json_put_line(&out->json, 2);
        mabn_coco_report_comparison_json(&out->json, a, &b, intervals, coco.confidence);
    } else if (!status) {
        if (several)
            mabn_str_printf(&out->text, "Evaluate annotation type *%s*\n",
                            mabn_coco_type_name(params->type));
        mabn_coco_report_comparison(&out->text, a, &b, intervals, coco.confidence);
    }
    mabn_coco_score_release(&b);
    mabn_coco_evaluation_free(second);
    return status;
}

/* The overlap at which errors and tables are computed. */
static double one_threshold(const struct mabn_coco_params *p)
{
    return p->n_thresholds == 1 ? p->thresholds[0] : 0.5;
}

static mabn_status write_file(const char *path, const struct mabn_str *text)
{
    struct mabn_outfile file;
    MABN_TRY(mabn_outfile_open(&file, path, coco.force));
    mabn_status status = mabn_write_all(file.fd, text->text, text->length, file.path);
    if (!status) return mabn_outfile_commit(&file);
    mabn_outfile_abort(&file);
    return status;
}

static mabn_status write_tables(const struct mabn_coco_evaluation *e,
                                const struct mabn_coco_score *s, const struct files *f,
                                const struct mabn_coco_params *params)
{
    struct mabn_coco_confusion confusion;
    struct mabn_coco_calibration calibration;
    struct mabn_str text;
    double threshold = one_threshold(params);
    mabn_status status = MABN_OK;
    mabn_str_init(&text);
    if (coco.confusion) {
        MABN_TRY_GOTO(mabn_coco_confuse(&confusion, &f->read[0], &f->read[1], params, threshold,
                                        coco.min_score),
                      done);
        mabn_coco_report_confusion(&text, &confusion, s);
        mabn_coco_confusion_release(&confusion);
        MABN_TRY_GOTO(write_file(coco.confusion, &text), done);
    }
    if (coco.pr) {
        mabn_str_clear(&text);
        MABN_TRY_GOTO(mabn_coco_report_curves(&text, s, threshold), done);
        MABN_TRY_GOTO(write_file(coco.pr, &text), done);
    }
    if (coco.calibration) {
        mabn_str_clear(&text);
        MABN_TRY_GOTO(mabn_coco_calibrate(&calibration, e, threshold), done);
        mabn_coco_report_calibration(&text, &calibration);
        status = write_file(coco.calibration, &text);
        mabn_info("expected calibration error: %.4f", calibration.error);
    }
done:
    mabn_str_release(&text);
    return status;
}

/* Errors and the operating point, after the numbers. */
static mabn_status explain(struct output *out, const struct mabn_coco_evaluation *e,
                           const struct mabn_coco_score *s, const struct files *f,
                           const struct mabn_coco_params *params)
{
    struct mabn_coco_errors errors;
    double threshold = one_threshold(params);
    struct mabn_coco_point *points = mabn_xcalloc(s->n_categories + 1, sizeof *points);
    mabn_status status = MABN_OK;
    if (coco.errors) {
        MABN_TRY_GOTO(mabn_coco_find_errors(&errors, &f->read[0], &f->read[1], params, threshold),
                      done);
        if (coco.json) {
            mabn_json_put_line(&out->json, 2);
            mabn_coco_report_errors_json(&out->json, &errors);
        } else {
            (coco.tsv ? mabn_coco_report_errors_tsv : mabn_coco_report_errors)(&out->text, &errors);
        }
    }
    if (coco.points) {
        MABN_TRY_GOTO(mabn_coco_operating_points(points, e, threshold, coco.point), done);
        if (coco.json) {
            mabn_json_put_line(&out->json, 2);
            mabn_coco_report_points_json(&out->json, points, s);
        } else if (coco.tsv) {
            mabn_coco_report_points_tsv(&out->text, points, s);
        } else {
            mabn_coco_report_points(&out->text, points, s, coco.per_category);
        }
    }
done:
    free(points);
    return status;
}

/* Warn if more boxes would match in another form. Returns false if there is no such form. *fit: most boxes
 * lie on an object, of whatever category. */
static bool tell_form(const struct mabn_coco *truth, const struct mabn_coco *results, bool *fit)
{
    struct mabn_coco_form form;
    mabn_coco_find_form(&form, truth, results);
    *fit = 2 * form.plain > form.tried;
    if (!form.name) return false;
    mabn_warn("'%s': %zu of %zu detections reach IoU 0.5 with an object as x, y, width, height in "
              "pixels, and %zu if the boxes of '%s' are read as %s",
              results->name, form.plain, form.tried, form.better,
              form.truth ? truth->name : results->name, form.name);
    return true;
}

/* Warn if the coordinates of just one of the files lie within 0 to 1. Returns false if not. */
static bool tell_fractions(const struct mabn_coco *truth, const struct mabn_coco *results)
{
    const bool a = mabn_coco_is_fractions(truth), b = mabn_coco_is_fractions(results);
    if (a == b) return false;
    mabn_warn("'%s': all coordinates lie within 0 to 1: pixels are expected, not fractions",
              a ? truth->name : results->name);
    return true;
}

static bool tell_other_categories(const struct files *f, const struct mabn_coco_errors *errors)
{
    const size_t n = f->read[1].n_records;
    const int64_t others = errors->count[MABN_COCO_ERROR_CLASS];
    if (2 * (uint64_t)others <= n) return false;
    mabn_warn("'%s': %lld of %zu detections lie on an object of another category: do the category "
              "ids agree with those of '%s'?",
              f->read[1].name, (long long)others, n, f->read[0].name);
    return true;
}

/* If category ids do not agree, or boxes are in another form, the AP is about 0 although the drawings look
 * right. Warn when most detections lie on an object of another category, when none lies on an object, or
 * when more would in another form. */
static mabn_status doubt_results(const struct files *f, const struct mabn_coco_score *s,
                                 const struct mabn_coco_params *params)
{
    struct mabn_coco_errors errors;
    const struct mabn_coco *truth = &f->read[0], *results = &f->read[1];
    const size_t n = results->n_records;
    if (!n) mabn_warn("'%s' has no results: every object counts as missed", results->name);
    if (!n || !(s->stats[0] >= 0 && s->stats[1] < 0.3)) return MABN_OK;
    if (s->stats[1] == 0 && tell_fractions(truth, results)) return MABN_OK;
    if (params->type == MABN_COCO_KEYPOINTS || n < 10) return MABN_OK;
    bool fit = false;
    if (params->type == MABN_COCO_BBOX && tell_form(truth, results, &fit)) return MABN_OK;
    if (coco.lvis || coco.class_agnostic || s->stats[0] >= 0.05) return MABN_OK;
    MABN_TRY(mabn_coco_find_errors(&errors, truth, results, params, 0.5));
    if (tell_other_categories(f, &errors) || s->stats[1] > 0 || fit ||
        errors.count[MABN_COCO_ERROR_CLASS] || errors.count[MABN_COCO_ERROR_DUPLICATE])
        return MABN_OK;
    mabn_warn(
        "'%s': 0 of %zu detections reach IoU 0.5 with an object: are image ids and boxes (%s) "
        "those of the photographs of '%s'?",
        results->name, n,
        params->type == MABN_COCO_BBOX ? "x, y, width, height in pixels of the original"
                                       : "masks of the original's size",
        truth->name);
    return MABN_OK;
}

/* Warn about scores outside 0 to 1 if they are used as probabilities. */
static void doubt_scores(const struct mabn_coco *results)
{
    const struct mabn_coco_record *first;
    const bool asked = coco.calibration || (coco.confusion && coco.min_score > 0) ||
                       (coco.points && !isnan(coco.point));
    const size_t n = asked ? mabn_coco_odd_scores(results, &first) : 0;
    char place[48];
    if (n)
        mabn_warn("'%s': %zu of %zu scores lie outside 0 to 1 (the first: %s, %g): thresholds and "
                  "the calibration expect probabilities",
                  results->name, n, results->n_records,
                  mabn_coco_record_place(results, first, place), first->score);
}

static mabn_status score_type(struct output *out, const struct files *f,
                              const struct mabn_coco_params *params, bool several)
{
    struct mabn_coco_evaluation *e;
    struct mabn_coco_score s;
    memset(&s, 0, sizeof s);
    MABN_TRY(mabn_coco_evaluate(&e, &f->read[0], &f->read[1], params));
    mabn_status status = mabn_coco_accumulate(&s, e, NULL);
    if (!status && coco.json) {
        mabn_json_put_line(&out->json, 1);
        mabn_json_put_object(&out->json, mabn_coco_type_name(params->type));
        mabn_coco_report_json(&out->json, &s, coco.curves);
    } else if (!status && !f->paths[2]) {
        report(&out->text, &s, several);
    }
    if (!status)
        status =
            f->paths[2] ? compare(out, e, &s, f, params, several) : explain(out, e, &s, f, params);
    if (!status && coco.json) {
        mabn_json_put_line(&out->json, 1);
        mabn_json_put_end(&out->json);
    }
    if (!status && !f->paths[2]) status = doubt_results(f, &s, params);
    if (!status && !f->paths[2]) status = write_tables(e, &s, f, params);
    mabn_coco_score_release(&s);
    mabn_coco_evaluation_free(e);
    return status;
}

static mabn_status score_all(struct files *f)
{
    struct id_list images = {NULL, 0, 0}, categories = {NULL, 0, 0};
    struct output out;
    bool told = false;
    int n_types = 0, n_files = f->paths[2] ? 3 : 2;
    mabn_status status = MABN_OK;
    mabn_str_init(&out.text);
    mabn_json_writer_init_spaced(&out.json, &out.text);
    int threads = coco.threads ? coco.threads : mabn_threads_available();
    MABN_TRY_GOTO(mabn_parallel(threads < n_files ? threads : n_files, n_files, 1, read_file, f),
                  done);
    if (!f->read[0].annotated)
        MABN_TRY_GOTO(mabn_fail(MABN_ERR_FORMAT,
                                "'%s': no \"annotations\": is this a COCO annotation file?",
                                f->read[0].name),
                      done);
    if (coco.lvis) mabn_coco_forget_crowds(&f->read[0]);
    if (coco.images) MABN_TRY_GOTO(list_images(&images, coco.images, &f->read[0]), done);
    doubt_scores(&f->read[1]);
    if (coco.images && !images.n)
        MABN_TRY_GOTO(mabn_fail(MABN_ERR_ARG, "--images: '%s' names no image", coco.images), done);
    for (size_t i = 0; i < coco.n_own; i++)
        MABN_TRY_GOTO(find_category(&coco.own[i].category, coco.own_names[i], &f->read[0]), done);
    if (coco.categories)
        MABN_TRY_GOTO(list_categories(&categories, coco.categories, &f->read[0]), done);
    for (int t = 0; t < MABN_COCO_TYPES; t++)
        n_types += coco.types[t];
    if (coco.json) mabn_json_put_object(&out.json, NULL);
    for (int t = 0; t < MABN_COCO_TYPES && !status; t++) {
        struct mabn_coco_params params;
        if (!coco.types[t]) continue;
        set_params(&params, (enum mabn_coco_type)t);
        params.images = images.ids;
        params.n_images = images.n;
        params.categories = categories.ids;
        params.n_categories = categories.n;
        params.quiet = told;
        told = true;
        status = score_type(&out, f, &params, n_types > 1);
    }
    if (!status && coco.json) {
        mabn_json_put_line(&out.json, 0);
        mabn_json_put_end(&out.json);
        mabn_str_add_char(&out.text, '\n');
    }
    if (!status) mabn_out_write(out.text.text, out.text.length);
done:
    for (int i = 0; i < 3; i++)
        mabn_coco_release(&f->read[i]);
    mabn_str_release(&out.text);
    free(images.ids);
    free(categories.ids);
    for (size_t i = 0; i < coco.n_own; i++)
        free(coco.own_names[i]);
    free(coco.own_names);
    free(coco.own);
    return status;
}

static const struct mabn_cli coco_cli = {
    .name = "mabn-score coco",
    .usage = "[OPTION]... ANNOTATIONS RESULTS",
    .summary = "average precision and recall of detections, as pycocotools computes them",
    .options = coco_table,
    .epilog = "Examples:\n"
              "  mabn-score coco instances_val2017.json results.json\n"
              "  mabn-eval coco model.h5 val.h5 | mabn-score coco -t bbox,segm ann.json -\n"
              "  mabn-score coco --per-category --tsv ann.json results.json\n"
              "  mabn-score coco --compare new.json ann.json old.json\n",
    .min_args = 2,
    .max_args = 2,
};

static void check_outputs(const struct files *f)
{
    const char *const outputs[] = {coco.confusion, coco.pr, coco.calibration};
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++)
            mabn_cli_check_output(outputs[i], f->paths[k]);
        for (int k = 0; k < i; k++)
            mabn_cli_check_output(outputs[i], outputs[k]);
    }
}

static mabn_status run_coco(int argc, char **argv)
{
    char **args;
    struct files f;
    memset(&f, 0, sizeof f);
    mabn_cli_start(&coco_cli, argc, argv, &args);
    f.paths[0] = args[0];
    f.paths[1] = args[1];
    f.paths[2] = coco.compare;
    int inputs = !strcmp(args[0], "-") + !strcmp(args[1], "-") +
                 (coco.compare && !strcmp(coco.compare, "-"));
    if (inputs > 1) mabn_cli_usage_error("only one file can come from standard input");
    check_outputs(&f);
    if (coco.curves && !coco.json) mabn_cli_usage_error("--curves goes with --json");
    bool more = coco.errors || coco.points || coco.confusion || coco.pr || coco.calibration;
    int types = coco.types[0] + coco.types[1] + coco.types[2];
    if (more && (coco.compare || coco.class_agnostic))
        mabn_cli_usage_error("errors and tables do not go with --compare or --class-agnostic");
    if ((coco.confusion || coco.pr || coco.calibration) && types > 1)
        mabn_cli_usage_error("tables are written for one type");
    if (coco.min_score > 0 && !coco.confusion)
        mabn_cli_usage_error("--min-score goes with --confusion");
    if ((coco.confusion || coco.errors) && coco.types[MABN_COCO_KEYPOINTS])
        mabn_cli_usage_error("--errors and --confusion are for boxes and masks");
    if (coco.tsv && coco.errors + coco.points + coco.per_category > 1)
        mabn_cli_usage_error("--tsv prints one table");
    if (coco.tsv && (coco.json || coco.compare))
        mabn_cli_usage_error("--tsv does not go with --json or --compare");
    if (coco.boundary && !coco.types[MABN_COCO_SEGM])
        mabn_cli_usage_error("--boundary is for masks: -t segm");
    if (coco.lvis && (coco.class_agnostic || coco.types[MABN_COCO_KEYPOINTS]))
        mabn_cli_usage_error("--lvis is for boxes and masks, by category");
    if (coco.n_own && coco.class_agnostic)
        mabn_cli_usage_error("--sigmas of one category do not go with --class-agnostic");
    if (coco.lvis && (coco.errors || coco.confusion))
        mabn_cli_usage_error(
            "--errors and --confusion do not go with --lvis, whose images leave categories open");
    if (coco.lvis) f.keep |= MABN_COCO_KEEP_LVIS;
    if (coco.types[MABN_COCO_SEGM]) f.keep |= MABN_COCO_KEEP_SEGMENTATIONS;
    if (coco.types[MABN_COCO_KEYPOINTS]) f.keep |= MABN_COCO_KEEP_KEYPOINTS;
    return score_all(&f);
}

/* ---- mabn-score topk ---- */

static struct {
    bool json, per_class, tsv;
    const char *classes;
    int k, confusions;
} topk = {.k = 5, .confusions = 10};

static const struct mabn_option topk_table[] = {
    MABN_OPT_INT('k', "top", &topk.k, 1, 1000, "K", "also count labels among the first K"),
    MABN_OPT_STRING(0, "classes", &topk.classes, "FILE", "class names, one a line"),
    MABN_OPT_INT(0, "confusions", &topk.confusions, 0, 1e6, "N", "most frequent mistakes to list"),
    MABN_OPT_FLAG('c', "per-class", &topk.per_class, "add a table of the classes"),
    MABN_OPT_FLAG(0, "tsv", &topk.tsv, "only the table of classes, tab-separated"),
    MABN_OPT_FLAG(0, "json", &topk.json, "everything, as a JSON object"),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_cli topk_cli = {
    .name = "mabn-score topk",
    .usage = "[OPTION]... PREDICTIONS",
    .summary = "accuracy of classification, from the lines of mabn-eval imagenet --predictions",
    .options = topk_table,
    .epilog = "Example:\n"
              "  mabn-eval imagenet model.h5 val.h5 --predictions | mabn-score topk -\n",
    .min_args = 1,
    .max_args = 1,
};

static mabn_status run_topk(int argc, char **argv)
{
    char **args;
    struct mabn_topk t;
    struct mabn_str out;
    mabn_cli_start(&topk_cli, argc, argv, &args);
    if (topk.json && (topk.tsv || topk.per_class))
        mabn_cli_usage_error("--json does not go with --tsv or --per-class: it has everything");
    MABN_TRY(mabn_topk_read(&t, args[0], topk.k));
    mabn_status status = topk.classes ? mabn_topk_read_names(&t, topk.classes) : MABN_OK;
    mabn_str_init(&out);
    if (topk.json) {
        mabn_topk_report_json(&out, &t, topk.confusions);
    } else {
        if (!topk.tsv) mabn_topk_report(&out, &t, topk.confusions);
        if (topk.tsv || topk.per_class) mabn_topk_report_classes(&out, &t, topk.tsv);
    }
    if (!status) mabn_out_write(out.text, out.length);
    mabn_str_release(&out);
    mabn_topk_release(&t);
    return status;
}

/* ---- the tool ---- */

int main(int argc, char **argv)
{
    const struct mabn_cli clis[] = {coco_cli, topk_cli, {0}};
    int which = mabn_cli_choose(clis, "mabn-score", "judge results against the truth", argc, argv);
    mabn_status status = which == 0 ? run_coco(argc - 1, argv + 1) : run_topk(argc - 1, argv + 1);
    return mabn_cli_finish(status);
}
