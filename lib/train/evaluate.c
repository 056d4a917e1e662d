#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/signal.h"

int mabn_eval_other_class(const struct mabn_model *model, const struct mabn_dataset *data)
{
    const int classes = mabn_dataset_classes(data);
    const char *ours = model->class_names;
    for (int c = 0; ours && c < classes && c < model->classes; c++, ours += strlen(ours) + 1) {
        const char *theirs = mabn_dataset_class_name(data, c);
        if (theirs && strcmp(ours, theirs)) return c;
    }
    return -1;
}

mabn_status mabn_eval_check(const struct mabn_model *model, const struct mabn_dataset *data,
                            const char *name)
{
    int classes = mabn_dataset_classes(data), other = mabn_eval_other_class(model, data);
    if (!model->classes)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' has no classifier: mabn-train puts one on", name);
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

/* An evaluation under way: the net may be a batch or two ahead of the results, while the loader
 * keeps only its newest batch. */
struct evaluation {
    struct mabn_net *net;
    const struct mabn_source *source;
    const struct mabn_eval_options *options;
    struct mabn_eval_result *result;
    struct mabn_batch *batches; /* (depth) what was begun, without the pictures; a ring … */
    int oldest;                 /* … that begins here */
};

static void start_evaluation(struct evaluation *e)
{
    size_t rows = (size_t)mabn_net_batch(e->net);
    e->batches = mabn_xcalloc((size_t)mabn_net_depth(e->net), sizeof *e->batches);
    for (int i = 0; i < mabn_net_depth(e->net); i++) {
        e->batches[i].labels = mabn_xcalloc(rows, sizeof *e->batches[i].labels);
        e->batches[i].samples = mabn_xcalloc(rows, sizeof *e->batches[i].samples);
    }
}

static void end_evaluation(struct evaluation *e)
{
    for (int i = 0; i < mabn_net_depth(e->net); i++) {
        free(e->batches[i].labels);
        free(e->batches[i].samples);
    }
    free(e->batches);
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

static mabn_status finish_batch(struct evaluation *e)
{
    struct mabn_eval_result *sum = e->result;
    const struct mabn_batch *batch = &e->batches[e->oldest];
    struct mabn_net_result result;
    MABN_TRY(mabn_net_result(e->net, &result));
    MABN_TRY(check_outputs(e, batch));
    e->oldest = (e->oldest + 1) % mabn_net_depth(e->net);
    sum->images += count_samples(batch);
    sum->labelled += result.labelled;
    sum->loss += result.loss * (double)result.labelled;
    sum->top1 += (double)result.top1;
    sum->top5 += (double)result.top5;
    if (!e->options->each) return MABN_OK;
    return e->options->each(e->options->context, batch, mabn_net_logits(e->net),
                            mabn_net_classes(e->net));
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
    int32_t *labels = mabn_net_labels(e->net);
    for (int i = 0; i < rows; i++)
        labels[i] = i < batch->count ? batch->labels[i] : -1;

    struct mabn_batch *kept = &e->batches[(e->oldest + mabn_net_behind(e->net)) % depth];
    size_t count = (size_t)batch->count;
    memcpy(kept->labels, batch->labels, count * sizeof *kept->labels);
    memcpy(kept->samples, batch->samples, count * sizeof *kept->samples);
    kept->count = batch->count;
    kept->epoch = batch->epoch;
    kept->index = batch->index;
    MABN_TRY(mabn_net_step(e->net, e->options->smoothing, NULL));
    return mabn_net_behind(e->net) == depth ? finish_batch(e) : MABN_OK;
}

mabn_status mabn_evaluate(struct mabn_eval_result *result, struct mabn_net *net,
                          const struct mabn_source *source, const struct mabn_augment *input,
                          const struct mabn_eval_options *options)
{
    struct mabn_loader_options lo;
    struct mabn_loader *loader = NULL;
    const struct mabn_batch *batch;
    struct mabn_progress *progress = NULL;
    struct evaluation e = {.net = net, .source = source, .options = options, .result = result};
    double start = mabn_now();
    memset(result, 0, sizeof *result);
    mabn_loader_options_init(&lo);
    lo.augment = *input;
    lo.batch = mabn_net_batch(net);
    lo.threads = options->threads;
    lo.keep_last = true;
    lo.epochs = 1;
    lo.skip_bad = lo.leave_out = options->skip_bad;
    lo.bytes = mabn_net_takes_bytes(net);
    MABN_TRY(mabn_eval_set_table(net, input));
    MABN_TRY(mabn_sampler_init(&lo.sampler, MABN_SAMPLER_SEQUENTIAL, source->count, 0, 0));
    MABN_TRY(mabn_loader_new(&loader, source, &lo));
    start_evaluation(&e);
    if (options->progress) progress = mabn_progress_new(options->progress, "images", source->count);
    mabn_status status;
    while (!(status = mabn_loader_next(loader, &batch)) && batch) {
        if (mabn_stop_requested()) {
            status = mabn_fail(MABN_ERR_STOPPED, "stopped by %s",
                               mabn_signal_name(mabn_stop_requested()));
            break;
        }
        MABN_TRY_GOTO(begin_batch(&e, batch), out);
        if (progress) mabn_progress_add(progress, (uint64_t)batch->count);
    }
    if (!status) status = finish_batches(&e);
    if (!status) mabn_loader_tell_bad(loader, 0);
out:
    while (mabn_net_behind(net)) { /* after a failure: leave none for the next evaluation */
        struct mabn_net_result dropped;
        if (mabn_net_result(net, &dropped)) break;
    }
    end_evaluation(&e);
    mabn_progress_free(progress);
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

static void add_top(struct mabn_str *line, const int *best, int n)
{
    mabn_str_add(line, ",\"top\":[");
    for (int i = 0; i < n; i++)
        mabn_str_printf(line, "%s%d", i ? "," : "", best[i]);
    mabn_str_add_char(line, ']');
}

static void add_probabilities(struct mabn_str *line, const int *best, int n, const float *logits,
                              double sum)
{
    mabn_str_add(line, ",\"prob\":[");
    for (int i = 0; i < n; i++) {
        if (i) mabn_str_add_char(line, ',');
        mabn_str_add_float(line, (float)(exp(logits[best[i]] - (double)logits[best[0]]) / sum));
    }
    mabn_str_add_char(line, ']');
}

static void add_logits(struct mabn_str *line, const float *logits, int classes)
{
    mabn_str_add(line, ",\"logits\":[");
    for (int c = 0; c < classes; c++) {
        if (c) mabn_str_add_char(line, ',');
        mabn_str_add_float(line, logits[c]);
    }
    mabn_str_add_char(line, ']');
}

void mabn_prediction_line(struct mabn_str *line, uint64_t sample, int label, const float *logits,
                          int classes, bool with_logits)
{
    int best[5], n = best_classes(best, logits, classes);
    const double most = n ? logits[best[0]] : 0, sum = sum_of_exponentials(logits, classes, most);
    mabn_str_printf(line, "{\"sample\":%llu,\"label\":", (unsigned long long)sample);
    if (label >= 0)
        mabn_str_printf(line, "%d", label);
    else
        mabn_str_add(line, "null");
    add_top(line, best, n);
    add_probabilities(line, best, n, logits, sum);
    mabn_str_add(line, ",\"loss\":");
    if (label >= 0 && label < classes)
        mabn_str_add_float(line, (float)(log(sum) - (logits[label] - most)));
    else
        mabn_str_add(line, "null");
    if (with_logits) add_logits(line, logits, classes);
    mabn_str_add_char(line, '}');
}

void mabn_photograph_line(struct mabn_str *line, const char *path, const struct mabn_model *model,
                          const float *logits, bool with_logits)
{
    int best[5], n = best_classes(best, logits, model->classes);
    const double most = n ? logits[best[0]] : 0;
    mabn_str_add(line, "{\"file\":");
    mabn_str_add_json(line, path);
    add_top(line, best, n);
    for (int i = 0; model->class_names && i < n; i++) {
        mabn_str_add(line, i ? "," : ",\"class\":[");
        mabn_str_add_json(line, mabn_model_class_name(model, best[i]));
    }
    if (model->class_names && n) mabn_str_add_char(line, ']');
    add_probabilities(line, best, n, logits, sum_of_exponentials(logits, model->classes, most));
    if (with_logits) add_logits(line, logits, model->classes);
    mabn_str_add_char(line, '}');
}
