#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/signal.h"
#include "net/losses.h"
#include "ops/loss.h"

int mabn_eval_other_class(const struct mabn_model *model, const struct mabn_dataset *data)
{
    const int classes = mabn_dataset_classes(data);
    const char *ours = model->class_names;
    for (int c = 0; ours && c < classes && c < model->classes; c++, ours += strlen(ours) + 1) {
        const char *theirs = mabn_dataset_class_name(data, c);
        if (theirs && !mabn_same_in_json(ours, theirs)) return c;
    }
    return -1;
}

mabn_status mabn_eval_check(const struct mabn_model *model, const struct mabn_dataset *data,
                            const char *name)
{
    int classes = mabn_dataset_classes(data), other = mabn_eval_other_class(model, data);
    if (!model->classes)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' has no classifier (mabn-train adds one)", name);
    if (classes && classes != model->classes)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' knows %d classes, '%s' has %d", name,
                         model->classes, mabn_dataset_path(data), classes);
    if (other >= 0)
        return mabn_fail(MABN_ERR_MISMATCH, "class %d is '%s' in '%s' but '%s' in '%s'", other,
                         mabn_model_class_name(model, other), name,
                         mabn_dataset_class_name(data, other), mabn_dataset_path(data));
    if (mabn_dataset_count(data) < 1)
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is empty", mabn_dataset_path(data));
    return MABN_OK;
}

void mabn_eval_tell_names(const struct mabn_model *model, const struct mabn_dataset *data,
                          const char *name)
{
    const bool ours = model->class_names, theirs = mabn_dataset_class_name(data, 0);
    if (ours != theirs)
        mabn_info("'%s' has no names of classes: not compared with those of '%s'",
                  ours ? mabn_dataset_path(data) : name, ours ? name : mabn_dataset_path(data));
}

void mabn_eval_fill(struct mabn_net *net, const struct mabn_batch *batch, size_t values)
{
    if (batch->bytes)
        memcpy(mabn_net_bytes(net), batch->bytes, values);
    else
        memcpy(mabn_net_input(net), batch->x, values * sizeof(float));
}

bool mabn_eval_sends_bytes(const struct mabn_device *device, const struct mabn_augment *input)
{
    return mabn_device_kind_of(device) != MABN_DEVICE_CPU && mabn_augment_has_bytes(input);
}

mabn_status mabn_eval_set_table(struct mabn_net *net, const struct mabn_augment *input)
{
    float table[3][256];
    if (!mabn_net_takes_bytes(net)) return MABN_OK;
    mabn_augment_table(input, table);
    return mabn_net_byte_table(net, table[0]);
}

void mabn_eval_labels(int32_t *labels, int rows, const struct mabn_batch *batch,
                      const struct mabn_dataset *data)
{
    for (int i = 0; i < rows; i++) {
        const bool sample = i < batch->count && batch->samples[i] != MABN_NO_SAMPLE;
        labels[i] = data && sample ? mabn_dataset_label(data, (int64_t)batch->samples[i]) : -1;
    }
}

void mabn_top_add(struct mabn_top *top, const float *logits, const int32_t *labels, int64_t rows,
                  int64_t classes)
{
    for (int64_t i = 0; i < rows; i++) {
        const int32_t rank = mabn_label_rank(logits + i * classes, classes, labels[i]);
        top->labelled += rank >= 0;
        top->top1 += rank == 0;
        top->top5 += rank >= 0 && rank < 5;
    }
}

/* What a rank sends to the others for each batch. */
struct report {
    int64_t images, labelled, top1, top5;
    double loss;   /* sum over the labelled */
    int32_t count; /* rows */
    int32_t stop;  /* a signal's number, or 0 */
};

/* A batch that was given to the net, without its pictures. */
struct flight {
    struct mabn_batch batch;
    int32_t *labels; /* (rows of the net) */
};

/* A running evaluation. The net may be a batch or two ahead of the results, while the loader keeps
 * only its newest batch.
 *
 * With R ranks, round k has the batches kR to kR + R − 1, one for each rank; in the last round some
 * ranks may have none. The ranks communicate once a round. */
struct evaluation {
    struct mabn_net *net;
    const struct mabn_source *source;
    const struct mabn_eval_options *options;
    struct mabn_eval_result *result;
    struct mabn_progress *progress; /* may be NULL */
    int rank, ranks;
    struct report *reports; /* (ranks) of a round */
    struct flight *flights; /* (depth) a ring */
    int oldest;             /* its place in the ring */
    uint64_t round;
    bool begun; /* the first batch was given to the net */
};

static void start_evaluation(struct evaluation *e)
{
    size_t rows = (size_t)mabn_net_batch(e->net);
    struct mabn_comm *comm = e->options->comm;
    e->rank = comm ? mabn_comm_rank(comm) : 0;
    e->ranks = comm ? mabn_comm_ranks(comm) : 1;
    e->reports = mabn_xcalloc((size_t)e->ranks, sizeof *e->reports);
    e->flights = mabn_xcalloc((size_t)mabn_net_depth(e->net), sizeof *e->flights);
    for (int i = 0; i < mabn_net_depth(e->net); i++) {
        struct flight *f = &e->flights[i];
        f->labels = mabn_xcalloc(rows, sizeof *f->labels);
        f->batch.samples = mabn_xcalloc(rows, sizeof *f->batch.samples);
    }
    if (e->options->progress && e->rank == 0)
        e->progress = mabn_progress_new(e->options->progress, "images", e->source->count);
}

static void end_evaluation(struct evaluation *e)
{
    for (int i = 0; i < mabn_net_depth(e->net); i++) {
        free(e->flights[i].labels);
        free(e->flights[i].batch.samples);
    }
    free(e->flights);
    free(e->reports);
    mabn_progress_free(e->progress);
}

/* The rows that hold a sample, of `count`. */
static int64_t count_samples(const struct mabn_batch *batch)
{
    int64_t n = 0;
    for (int i = 0; i < batch->count; i++)
        n += batch->samples[i] != MABN_NO_SAMPLE;
    return n;
}

static mabn_status check_outputs(const struct evaluation *e, const struct mabn_batch *batch)
{
    const int classes = mabn_net_classes(e->net);
    const float *logits = mabn_net_logits(e->net);
    for (int i = 0; i < batch->count; i++, logits += classes) {
        char name[256] = "";
        bool finite = true;
        for (int c = 0; c < classes; c++)
            finite &= isfinite(logits[c]) != 0;
        if (finite || batch->samples[i] == MABN_NO_SAMPLE) continue;
        if (e->source->name)
            e->source->name(e->source->context, batch->samples[i], name, sizeof name);
        return mabn_fail(MABN_ERR_NONFINITE,
                         "the network's outputs for sample %llu '%s' are not finite",
                         (unsigned long long)batch->samples[i], name);
    }
    return MABN_OK;
}

/* ---- a round ---- */

/* A batch as it goes to rank 0: its samples and outputs, one after the other. */
static size_t packed_bytes(int count, int classes)
{
    return (size_t)count * (sizeof(uint64_t) + (size_t)classes * sizeof(float));
}

static char *pack_batch(const struct mabn_batch *batch, const float *logits, int classes)
{
    const size_t n = (size_t)batch->count;
    char *bytes = mabn_xmalloc(packed_bytes(batch->count, classes) + 1);
    if (!n) return bytes;
    memcpy(bytes, batch->samples, n * sizeof *batch->samples);
    memcpy(bytes + n * sizeof *batch->samples, logits, n * (size_t)classes * sizeof *logits);
    return bytes;
}

/* The batches of all ranks, packed one after the other: call `each` for them. Copied, because they
 * need not be aligned. */
static mabn_status unpack_batches(const struct evaluation *e, const char *bytes, int classes)
{
    mabn_status status = MABN_OK;
    for (int r = 0; r < e->ranks && !status; r++) {
        const size_t n = (size_t)e->reports[r].count, values = n * (size_t)classes;
        struct mabn_batch batch = {.count = (int)n,
                                   .index = e->round * (uint64_t)e->ranks + (uint64_t)r};
        if (!n) continue;
        batch.samples = mabn_xmalloc(n * sizeof *batch.samples);
        float *logits = mabn_xmalloc(values * sizeof *logits);
        memcpy(batch.samples, bytes, n * sizeof *batch.samples);
        bytes += n * sizeof *batch.samples;
        memcpy(logits, bytes, values * sizeof *logits);
        bytes += values * sizeof *logits;
        status = e->options->each(e->options->context, &batch, logits, classes);
        free(batch.samples);
        free(logits);
    }
    return status;
}

static mabn_status show_batches(const struct evaluation *e, const struct mabn_batch *batch)
{
    const int classes = mabn_net_classes(e->net);
    if (!e->options->each) return MABN_OK;
    if (e->ranks == 1)
        return e->options->each(e->options->context, batch, mabn_net_logits(e->net), classes);
    void *all;
    size_t *sizes = mabn_xcalloc((size_t)e->ranks, sizeof *sizes);
    char *mine = pack_batch(batch, batch->count ? mabn_net_logits(e->net) : NULL, classes);
    mabn_status status =
        mabn_comm_gather(e->options->comm, mine, packed_bytes(batch->count, classes), &all, sizes);
    if (!status && e->rank == 0) status = unpack_batches(e, all, classes);
    mabn_free(all);
    free(sizes);
    free(mine);
    return status;
}

static void add_report(struct mabn_eval_result *sum, const struct report *r)
{
    sum->images += r->images;
    sum->labelled += r->labelled;
    sum->loss += r->loss;
    sum->top1 += (double)r->top1;
    sum->top5 += (double)r->top5;
}

/* Exchange results for this rank's batch, which may be empty. All ranks add up the round's results
 * in the same order, and stop after the same round. */
static mabn_status finish_round(struct evaluation *e, const struct mabn_batch *batch,
                                const struct mabn_top *top, double loss)
{
    const struct report mine = {.images = count_samples(batch),
                                .labelled = top->labelled,
                                .top1 = top->top1,
                                .top5 = top->top5,
                                .loss = loss * (double)top->labelled,
                                .count = batch->count,
                                .stop = mabn_stop_requested()};
    e->reports[0] = mine;
    if (e->ranks > 1)
        MABN_TRY(mabn_comm_all_gather(e->options->comm, &mine, sizeof mine, e->reports));
    for (int r = 0; r < e->ranks; r++) {
        if (e->reports[r].stop)
            return mabn_fail(MABN_ERR_STOPPED, "stopped by %s",
                             mabn_signal_name(e->reports[r].stop));
        add_report(e->result, &e->reports[r]);
        if (e->progress) mabn_progress_add(e->progress, (uint64_t)e->reports[r].count);
    }
    MABN_TRY(show_batches(e, batch));
    e->round++;
    return MABN_OK;
}

/* ---- batches ---- */

static mabn_status finish_batch(struct evaluation *e)
{
    const struct flight *flight = &e->flights[e->oldest];
    const struct mabn_batch *batch = &flight->batch;
    struct mabn_net_result result;
    struct mabn_top top = {0};
    MABN_TRY(mabn_net_result(e->net, &result));
    mabn_top_add(&top, mabn_net_logits(e->net), flight->labels, batch->count,
                 mabn_net_classes(e->net));
    MABN_TRY(check_outputs(e, batch));
    e->oldest = (e->oldest + 1) % mabn_net_depth(e->net);
    return finish_round(e, batch, &top, mabn_net_loss_of(e->net, "loss"));
}

static mabn_status finish_batches(struct evaluation *e)
{
    while (mabn_net_behind(e->net))
        MABN_TRY(finish_batch(e));
    return MABN_OK;
}

static mabn_status begin_batch(struct evaluation *e, const struct mabn_batch *batch)
{
    struct mabn_shape shape = mabn_net_input_shape(e->net);
    int rows = mabn_net_batch(e->net), depth = mabn_net_depth(e->net);
    size_t values = (size_t)(batch->count * shape.dim[1] * shape.dim[2] * shape.dim[3]);
    mabn_eval_fill(e->net, batch, values);
    struct flight *flight = &e->flights[(e->oldest + mabn_net_behind(e->net)) % depth];
    struct mabn_batch *kept = &flight->batch;
    size_t count = (size_t)batch->count;
    mabn_eval_labels(flight->labels, rows, batch, e->options->labels);
    memcpy(kept->samples, batch->samples, count * sizeof *kept->samples);
    kept->count = batch->count;
    kept->epoch = batch->epoch;
    kept->index = batch->index;
    const struct mabn_net_labels labels = {.labels = flight->labels,
                                           .smoothing = e->options->smoothing,
                                           .normalizer =
                                               (double)mabn_labelled(flight->labels, rows)};
    mabn_net_set_labels(e->net, "loss", &labels);
    if (!e->begun && e->rank == 0) mabn_tell_start("the first batch is computed");
    e->begun = true;
    MABN_TRY(mabn_net_step(e->net, NULL));
    return mabn_net_behind(e->net) == depth ? finish_batch(e) : MABN_OK;
}

static mabn_status evaluate_batches(struct evaluation *e, struct mabn_loader *loader)
{
    const struct mabn_batch *batch;
    const struct mabn_top nothing = {0};
    for (;;) {
        MABN_TRY(mabn_loader_next(loader, &batch));
        if (!batch) return finish_batches(e);
        if (batch->count) {
            MABN_TRY(begin_batch(e, batch));
        } else { /* other ranks have the rest of the last round */
            MABN_TRY(finish_batches(e));
            MABN_TRY(finish_round(e, batch, &nothing, 0));
        }
    }
}

static int by_number(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* One warning for all ranks' unreadable samples. */
static mabn_status tell_bad(const struct evaluation *e, struct mabn_loader *loader)
{
    uint64_t *mine, *bad;
    const size_t count = mabn_loader_bad(loader, &mine);
    size_t *sizes = mabn_xcalloc((size_t)e->ranks, sizeof *sizes), all = 0;
    mabn_status status = MABN_OK;
    void *gathered = NULL;
    if (e->ranks > 1)
        status = mabn_comm_gather(e->options->comm, mine, count * sizeof *mine, &gathered, sizes);
    bad = gathered ? gathered : mine;
    for (int r = 0; r < e->ranks; r++)
        all += sizes[r] / sizeof *mine;
    if (!gathered) all = count;
    if (!status && e->rank == 0 && all) {
        qsort(bad, all, sizeof *bad, by_number);
        mabn_source_tell_bad(e->source, bad, all, true);
    }
    mabn_free(gathered);
    free(sizes);
    free(mine);
    return status;
}

static mabn_status open_loader(struct mabn_loader **loader, const struct evaluation *e,
                               const struct mabn_augment *input)
{
    struct mabn_loader_options lo;
    mabn_loader_options_init(&lo);
    lo.augment = *input;
    lo.batch = mabn_net_batch(e->net);
    lo.rank = e->rank;
    lo.ranks = e->ranks;
    lo.threads = e->options->threads;
    lo.keep_last = true;
    lo.epochs = 1;
    lo.skip_bad = lo.leave_out = e->options->skip_bad;
    lo.bytes = mabn_net_takes_bytes(e->net);
    MABN_TRY(mabn_sampler_init(&lo.sampler, MABN_SAMPLER_SEQUENTIAL, e->source->count, 0, 0));
    return mabn_loader_new(loader, e->source, &lo);
}

mabn_status mabn_evaluate(struct mabn_eval_result *result, struct mabn_net *net,
                          const struct mabn_source *source, const struct mabn_augment *input,
                          const struct mabn_eval_options *options)
{
    struct mabn_loader *loader = NULL;
    struct evaluation e = {.net = net, .source = source, .options = options, .result = result};
    double start = mabn_now();
    memset(result, 0, sizeof *result);
    MABN_TRY(mabn_eval_set_table(net, input));
    start_evaluation(&e);
    mabn_status status = open_loader(&loader, &e, input);
    if (!status) status = evaluate_batches(&e, loader);
    if (!status && options->skip_bad) status = tell_bad(&e, loader);
    while (mabn_net_behind(net)) { /* after a failure: leave no steps for the next evaluation */
        struct mabn_net_result dropped;
        if (mabn_net_result(net, &dropped)) break;
    }
    end_evaluation(&e);
    mabn_loader_free(loader);
    if (status) return status;
    double n = result->labelled ? (double)result->labelled : 1;
    result->loss /= n;
    result->top1 = 100 * result->top1 / n;
    result->top5 = 100 * result->top5 / n;
    result->seconds = mabn_now() - start;
    return MABN_OK;
}

/* ---- predictions ---- */

/* The classes with the largest logits, best first; equal ones by number. */
static int best_classes(int best[5], const float *logits, int classes)
{
    int n = 0;
    for (int c = 0; c < classes; c++) {
        int at = n;
        while (at > 0 && logits[c] > logits[best[at - 1]])
            at--;
        if (at == 5) continue;
        int last = n < 5 ? n++ : 4;
        memmove(best + at + 1, best + at, (size_t)(last - at) * sizeof *best);
        best[at] = c;
    }
    return n;
}

static double sum_of_exponentials(const float *logits, int classes, double most)
{
    double sum = 0;
    for (int c = 0; c < classes; c++)
        sum += exp(logits[c] - most);
    return sum;
}

static void put_top(struct mabn_json_writer *w, const int *best, int n)
{
    mabn_json_put_array(w, "top");
    for (int i = 0; i < n; i++)
        mabn_json_put_int(w, NULL, best[i]);
    mabn_json_put_end(w);
}

static void put_probabilities(struct mabn_json_writer *w, const int *best, int n,
                              const float *logits, double sum)
{
    mabn_json_put_array(w, "prob");
    for (int i = 0; i < n; i++)
        mabn_json_put_float(w, NULL, (float)(exp(logits[best[i]] - (double)logits[best[0]]) / sum));
    mabn_json_put_end(w);
}

static void put_logits(struct mabn_json_writer *w, const float *logits, int classes)
{
    mabn_json_put_array(w, "logits");
    for (int c = 0; c < classes; c++)
        mabn_json_put_float(w, NULL, logits[c]);
    mabn_json_put_end(w);
}

void mabn_prediction_line(struct mabn_str *line, uint64_t sample, int label, const float *logits,
                          int classes, bool with_logits)
{
    int best[5], n = best_classes(best, logits, classes);
    const double most = n ? logits[best[0]] : 0, sum = sum_of_exponentials(logits, classes, most);
    const bool known = label >= 0 && label < classes;
    struct mabn_json_writer w;
    mabn_json_writer_init(&w, line);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_int(&w, "sample", (int64_t)sample);
    if (label >= 0)
        mabn_json_put_int(&w, "label", label);
    else
        mabn_json_put_null(&w, "label");
    put_top(&w, best, n);
    put_probabilities(&w, best, n, logits, sum);
    mabn_json_put_float(&w, "loss", known ? (float)(log(sum) - (logits[label] - most)) : NAN);
    if (with_logits) put_logits(&w, logits, classes);
    mabn_json_put_end(&w);
}

void mabn_photograph_line(struct mabn_str *line, const char *path, const struct mabn_model *model,
                          const float *logits, bool with_logits)
{
    int best[5], n = best_classes(best, logits, model->classes);
    const double most = n ? logits[best[0]] : 0;
    struct mabn_json_writer w;
    mabn_json_writer_init(&w, line);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_string(&w, "file", path);
    put_top(&w, best, n);
    if (model->class_names && n) {
        mabn_json_put_array(&w, "class");
        for (int i = 0; i < n; i++)
            mabn_json_put_string(&w, NULL, mabn_model_class_name(model, best[i]));
        mabn_json_put_end(&w);
    }
    put_probabilities(&w, best, n, logits, sum_of_exponentials(logits, model->classes, most));
    if (with_logits) put_logits(&w, logits, model->classes);
    mabn_json_put_end(&w);
}
