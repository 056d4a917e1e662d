/* Timing detectors: see bench_detector.h. */
#include "model/bench_detector.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/rng.h"
#include "image/finish.h"
#include "model/bench.h"

const char *const mabn_bench_detector_share_names[MABN_BENCH_SHARES] = {
    "body", "FPN", "RPN", "RoIAlign", "box head", "mask head"};

enum { CORNERS = 8 };

/* A detector with its pictures. */
struct bench {
    const struct mabn_bench_detector_case *c;
    struct mabn_params *params;
    struct mabn_rcnn *rcnn;
    int height, width; /* padded */
    struct mabn_rcnn_image *images;
    struct mabn_rcnn_size *sizes;
    struct mabn_rcnn_found *found;
    float *boxes, *numbers;
    int32_t *labels;
    uint32_t *first_polygon, *first_number;
    uint64_t step;
    struct mabn_raw *raw; /* on a GPU: each picture */
    size_t raw_room;
};

/* ---- pictures ---- */

static void *of_objects(const struct mabn_bench_detector_case *c, int each, size_t size)
{
    const size_t n = (size_t)c->images * ((size_t)c->objects + 1);
    return mabn_xcalloc(n * (size_t)each, size);
}

/* An octagon in a box. */
static void outline(float *number, const float *box)
{
    static const float at[CORNERS][2] = {{0.3F, 0}, {0.7F, 0}, {1, 0.3F}, {1, 0.7F},
                                         {0.7F, 1}, {0.3F, 1}, {0, 0.7F}, {0, 0.3F}};
    for (int i = 0; i < CORNERS; i++) {
        number[2 * i] = box[0] + at[i][0] * (box[2] - box[0]);
        number[2 * i + 1] = box[1] + at[i][1] * (box[3] - box[1]);
    }
}

/* Objects of an eighth to a half of the picture's sides. */
static void make_object(struct bench *b, struct mabn_rng *rng, size_t i)
{
    const double w = mabn_rng_range(rng, 0.125, 0.5) * b->c->width;
    const double h = mabn_rng_range(rng, 0.125, 0.5) * b->c->height;
    float *box = b->boxes + 4 * i;
    box[0] = (float)mabn_rng_range(rng, 0, b->c->width - w);
    box[1] = (float)mabn_rng_range(rng, 0, b->c->height - h);
    box[2] = (float)(box[0] + w);
    box[3] = (float)(box[1] + h);
    b->labels[i] = 1 + (int32_t)(i % (size_t)b->c->detector.classes);
    outline(b->numbers + 2 * CORNERS * i, box);
}

static void make_objects(struct bench *b)
{
    const struct mabn_bench_detector_case *c = b->c;
    struct mabn_rng rng;
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 1, 0);
    for (int k = 0; k <= c->objects; k++) {
        b->first_polygon[k] = (uint32_t)k;
        b->first_number[k] = (uint32_t)(2 * CORNERS * k);
    }
    for (int i = 0; i < c->images; i++) {
        const size_t first = (size_t)i * (size_t)c->objects;
        for (size_t k = 0; k < (size_t)c->objects; k++)
            make_object(b, &rng, first + k);
        b->sizes[i] = (struct mabn_rcnn_size){c->width, c->height};
        b->images[i] = (struct mabn_rcnn_image){.number = (uint64_t)i,
                                                .width = c->width,
                                                .height = c->height,
                                                .count = c->training ? c->objects : 0,
                                                .boxes = b->boxes + 4 * first,
                                                .labels = b->labels + first,
                                                .first_polygon = b->first_polygon,
                                                .first_number = b->first_number,
                                                .numbers = b->numbers + 2 * CORNERS * first};
    }
}

/* A photograph of noise, of three fifths the size, as COCO's are of 1333 × 800. */
static mabn_status make_raw(struct bench *b)
{
    const struct mabn_normalization n = {
        .channels = 3, .range = 2, .mean = {1, 1, 1}, .deviation = {1, 1, 1}};
    float table[3][256];
    const struct mabn_raw_plan plan = {MABN_RAW_BYTES, b->c->width, b->c->height,
                                       false,          true,        table};
    struct mabn_image image = {0};
    struct mabn_rng rng;
    mabn_normalization_table(&n, table);
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    MABN_TRY(mabn_image_resize_storage(&image, (b->c->width * 3 + 4) / 5,
                                       (b->c->height * 3 + 4) / 5, 3));
    for (int i = 0; i < 3 * image.width * image.height; i++)
        image.pixels[i] = (uint8_t)mabn_rng_below(&rng, 256);
    const mabn_status status = mabn_raw_pack(&b->raw, &b->raw_room, &image, &plan);
    mabn_image_release(&image);
    return status;
}

/* Raw, as in training on a GPU. */
static mabn_status put_raw(struct bench *b)
{
    if (!b->raw) MABN_TRY(make_raw(b));
    struct mabn_raw **all = mabn_xcalloc((size_t)b->c->images, sizeof *all);
    for (int i = 0; i < b->c->images; i++)
        all[i] = b->raw;
    const mabn_status status = mabn_rcnn_put_raw(b->rcnn, all, b->c->images, b->height, b->width);
    free(all);
    return status;
}

static mabn_status fill_pictures(struct bench *b)
{
    struct mabn_rng rng;
    float *x;
    if (mabn_rcnn_takes_raw(b->rcnn)) return put_raw(b);
    MABN_TRY(mabn_rcnn_input(b->rcnn, &x, b->c->images, b->height, b->width));
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    const size_t n = 3 * (size_t)b->c->images * (size_t)b->height * (size_t)b->width;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)mabn_rng_range(&rng, -1, 1);
    return MABN_OK;
}

/* ---- life ---- */

static void bench_release(struct bench *b)
{
    mabn_rcnn_free(b->rcnn);
    mabn_free(b->raw);
    mabn_params_free(b->params);
    for (int i = 0; b->found && i < b->c->images; i++)
        mabn_rcnn_found_release(&b->found[i]);
    free(b->images);
    free(b->sizes);
    free(b->found);
    free(b->boxes);
    free(b->numbers);
    free(b->labels);
    free(b->first_polygon);
    free(b->first_number);
}

static mabn_status bench_start(struct bench *b, struct mabn_device *device,
                               const struct mabn_bench_detector_case *c)
{
    const struct mabn_rcnn_options options = {.training = c->training,
                                              .precision = c->precision,
                                              .images = c->images,
                                              .save_memory = c->save_memory,
                                              .no_fold = c->no_fold,
                                              .exact = c->exact,
                                              .tune = c->tune,
                                              .seed = 1};
    const size_t n = (size_t)c->images;
    *b = (struct bench){.c = c,
                        .height = (c->height + 31) / 32 * 32,
                        .width = (c->width + 31) / 32 * 32,
                        .images = mabn_xcalloc(n, sizeof *b->images),
                        .sizes = mabn_xcalloc(n, sizeof *b->sizes),
                        .found = mabn_xcalloc(n, sizeof *b->found),
                        .boxes = of_objects(c, 4, sizeof *b->boxes),
                        .labels = of_objects(c, 1, sizeof *b->labels),
                        .numbers = of_objects(c, 2 * CORNERS, sizeof *b->numbers),
                        .first_polygon = of_objects(c, 1, sizeof *b->first_polygon),
                        .first_number = of_objects(c, 1, sizeof *b->first_number)};
    make_objects(b);
    MABN_TRY(mabn_params_new(&b->params, device));
    MABN_TRY(mabn_detector_declare(b->params, device, &c->detector, c->training));
    MABN_TRY(mabn_params_initialize(b->params, 1, MABN_PARAMS_INIT_FAN_IN));
    return mabn_rcnn_new(&b->rcnn, device, &c->detector, b->params, &options);
}

/* ---- a step ---- */

/* A rate so small that the losses on noise do not change. */
static const struct mabn_params_sgd sgd = {.lr = 1e-6, .momentum = 0.9, .weight_decay = 1e-4};

static mabn_status run_step(struct bench *b, struct mabn_rcnn_figures *f, double *update)
{
    struct mabn_device *device = mabn_params_device(b->params);
    *update = 0;
    if (!b->c->training) return mabn_rcnn_detect(b->rcnn, b->images, b->sizes, b->found, f);
    MABN_TRY(mabn_rcnn_step(b->rcnn, b->images, b->step++, f));
    const double start = mabn_now();
    MABN_TRY(mabn_params_update(b->params, &sgd));
    MABN_TRY(mabn_device_wait(device));
    *update = mabn_now() - start;
    return MABN_OK;
}

/* A GPU's step is not timed by its parts, which takes another. */
static mabn_status time_parts(struct bench *b, struct mabn_rcnn_figures *f)
{
    double update;
    const enum mabn_device_kind kind = mabn_device_kind_of(mabn_params_device(b->params));
    if (kind != MABN_DEVICE_CUDA) return MABN_OK;
    MABN_TRY(fill_pictures(b));
    mabn_rcnn_time_parts(b->rcnn, true);
    const mabn_status status = run_step(b, f, &update);
    mabn_rcnn_time_parts(b->rcnn, false);
    return status;
}

static mabn_status time_convolutions(struct bench *b, double *seconds)
{
    *seconds = 0;
    for (int k = 0; k < MABN_RCNN_PLANS; k++) {
        struct mabn_net *net = mabn_rcnn_plan(b->rcnn, (enum mabn_rcnn_plan)k);
        double one = 0;
        if (net) MABN_TRY(mabn_net_time_convolutions(net, &one));
        *seconds += one;
    }
    return MABN_OK;
}

/* ---- layers ---- */

static int count_layers(const struct bench *b)
{
    int n = 0;
    for (int k = 0; k < MABN_RCNN_PLANS; k++) {
        const struct mabn_net *net = mabn_rcnn_plan(b->rcnn, (enum mabn_rcnn_plan)k);
        if (net) n += mabn_net_layer_count(net);
    }
    return n;
}

/* layers: those of one plan after another; plan: the plan of each layer. */
static mabn_status time_layers(struct bench *b, struct mabn_net_layer *layers, int *plan)
{
    int n = 0;
    for (int k = 0; k < MABN_RCNN_PLANS; k++) {
        struct mabn_net *net = mabn_rcnn_plan(b->rcnn, (enum mabn_rcnn_plan)k);
        if (!net) continue;
        MABN_TRY(mabn_net_time_layers(net, layers + n));
        for (int i = mabn_net_layer_count(net); i > 0; i--)
            plan[n++] = k;
    }
    return MABN_OK;
}

/* The share to which a layer belongs; one without a name belongs to the share of the layer before
 * it. */
static enum mabn_bench_detector_share share_of(const struct mabn_net_layer *l, int plan,
                                               enum mabn_bench_detector_share before)
{
    if (!strcmp(l->kind, "roi align")) return MABN_BENCH_ROI_ALIGN;
    if (plan == MABN_RCNN_BOX_PLAN) return MABN_BENCH_BOX_HEAD;
    if (plan == MABN_RCNN_MASK_PLAN) return MABN_BENCH_MASK_HEAD;
    if (!strncmp(l->name, "rpn", 3) || !strncmp(l->name, "loss", 4)) return MABN_BENCH_RPN;
    if (!strncmp(l->name, "backbone.fpn", 12)) return MABN_BENCH_FPN;
    return *l->name ? MABN_BENCH_BODY : before;
}

static void add_shares(double *shares, const struct mabn_net_layer *layers, const int *plan, int n)
{
    enum mabn_bench_detector_share share = MABN_BENCH_BODY;
    for (int i = 0; i < n; i++) {
        share = share_of(&layers[i], plan[i], share);
        shares[share] += layers[i].forward + layers[i].backward;
    }
}

/* ---- rounds ---- */

enum { STEP, UPDATE, CONVOLUTIONS, PARTS, SHARES = PARTS + MABN_RCNN_PARTS };
enum { TIMES = SHARES + MABN_BENCH_SHARES };

/* A step, its convolutions alone, and its layers one by one: column `round` of times. */
static mabn_status run_round(struct bench *b, struct mabn_rcnn_figures *f, double *times,
                             int rounds, int round)
{
    const int n = count_layers(b);
    double t[TIMES] = {0};
    struct mabn_net_layer *layers = mabn_xcalloc((size_t)n, sizeof *layers);
    int *plan = mabn_xcalloc((size_t)n, sizeof *plan);
    mabn_status status = fill_pictures(b);
    const double start = mabn_now();
    if (!status) status = run_step(b, f, &t[UPDATE]);
    t[STEP] = mabn_now() - start;
    if (!status) status = time_parts(b, f);
    if (!status) status = fill_pictures(b);
    if (!status) status = time_layers(b, layers, plan);
    if (!status) status = time_convolutions(b, &t[CONVOLUTIONS]);
    if (!status) add_shares(t + SHARES, layers, plan, n);
    memcpy(t + PARTS, f->seconds, sizeof f->seconds);
    for (int k = 0; k < TIMES; k++)
        times[k * rounds + round] = t[k];
    free(layers);
    free(plan);
    return status;
}

static void add_memory(struct mabn_bench_detector_result *result, const struct bench *b)
{
    size_t heads = 0; /* which share the memory of the larger one */
    result->memory.parameters = mabn_params_bytes(b->params);
    for (int k = 0; k < MABN_RCNN_PLANS; k++) {
        const struct mabn_net *net = mabn_rcnn_plan(b->rcnn, (enum mabn_rcnn_plan)k);
        if (!net) continue;
        const struct mabn_net_memory m = mabn_net_memory_of(net);
        if (k == MABN_RCNN_BODY_PLAN)
            result->memory.activations = m.activations;
        else if (m.activations > heads)
            heads = m.activations;
        result->memory.parameters += m.parameters;
        result->memory.scratch += m.scratch;
    }
    result->memory.activations += heads;
}

static void sum_up(struct mabn_bench_detector_result *result, const struct bench *b,
                   const struct mabn_rcnn_figures *f, double *times, int rounds)
{
    double m[TIMES];
    for (int k = 0; k < TIMES; k++)
        m[k] = mabn_bench_median(times + k * rounds, rounds);
    *result = (struct mabn_bench_detector_result){.step = m[STEP],
                                                  .update = m[UPDATE],
                                                  .convolutions = m[CONVOLUTIONS],
                                                  .padded_height = b->height,
                                                  .padded_width = b->width,
                                                  .boxes = f->boxes,
                                                  .masks = f->positives};
    memcpy(result->parts, m + PARTS, sizeof result->parts);
    memcpy(result->shares, m + SHARES, sizeof result->shares);
    for (int i = 0; !b->c->training && i < b->c->images; i++)
        result->masks += b->found[i].boxes.count;
    add_memory(result, b);
}

mabn_status mabn_bench_detector_run(struct mabn_bench_detector_result *result,
                                    struct mabn_device *device,
                                    const struct mabn_bench_detector_case *c, int rounds)
{
    struct bench b;
    struct mabn_rcnn_figures f;
    double update;
    double *times = mabn_xcalloc((size_t)rounds * TIMES, sizeof *times);
    /* For plans and memory, and for a GPU's graph of the step. */
    const int warm = mabn_device_kind_of(device) == MABN_DEVICE_CUDA ? 2 : 1;
    mabn_status status = bench_start(&b, device, c);
    if (!status) status = fill_pictures(&b);
    for (int k = 0; k < warm && !status; k++) {
        status = run_step(&b, &f, &update);
        if (!status) status = fill_pictures(&b);
    }
    for (int r = 0; r < rounds && !status; r++)
        status = run_round(&b, &f, times, rounds, r);
    if (!status) sum_up(result, &b, &f, times, rounds);
    free(times);
    bench_release(&b);
    return status;
}

/* ---- layers ---- */

enum { FORWARD, BACKWARD, WAYS };

static mabn_status time_copy(struct bench *b, double *bytes_per_second)
{
    return mabn_net_time_copy(mabn_rcnn_plan(b->rcnn, MABN_RCNN_BODY_PLAN), bytes_per_second);
}

/* Copy the names: they belong to the plans, which are freed before the result. */
static void keep_names(struct mabn_bench_detector_layers *result)
{
    result->names = mabn_xcalloc((size_t)result->count + 1, sizeof *result->names);
    for (int i = 0; i < result->count; i++)
        result->layers[i].name = result->names[i] = mabn_xstrdup(result->layers[i].name);
}

static mabn_status layer_rounds(struct mabn_bench_detector_layers *result, struct bench *b,
                                int rounds)
{
    const int n = result->count;
    int *plan = mabn_xcalloc((size_t)n, sizeof *plan);
    double *times = mabn_xcalloc((size_t)(n * WAYS + 1) * (size_t)rounds, sizeof *times);
    double *copies = times + (size_t)n * WAYS * (size_t)rounds;
    mabn_status status = MABN_OK;
    for (int r = 0; r < rounds && !status; r++) {
        status = fill_pictures(b);
        if (!status) status = time_layers(b, result->layers, plan);
        if (!status) status = time_copy(b, &copies[r]);
        for (int i = 0; i < n; i++) {
            times[(i * WAYS + FORWARD) * rounds + r] = result->layers[i].forward;
            times[(i * WAYS + BACKWARD) * rounds + r] = result->layers[i].backward;
        }
    }
    for (int i = 0; i < n && !status; i++) {
        double *t = times + (size_t)i * WAYS * (size_t)rounds;
        result->layers[i].forward = mabn_bench_median(t, rounds);
        result->layers[i].backward = mabn_bench_median(t + rounds, rounds);
    }
    if (!status) result->copy = mabn_bench_median(copies, rounds);
    free(plan);
    free(times);
    return status;
}

mabn_status mabn_bench_detector_layers_run(struct mabn_bench_detector_layers *result,
                                           struct mabn_device *device,
                                           const struct mabn_bench_detector_case *c, int rounds)
{
    struct bench b;
    struct mabn_rcnn_figures f;
    double update;
    *result = (struct mabn_bench_detector_layers){0};
    mabn_status status = bench_start(&b, device, c);
    if (!status) status = fill_pictures(&b);
    if (!status) status = run_step(&b, &f, &update);
    if (!status) {
        result->count = count_layers(&b);
        result->layers = mabn_xcalloc((size_t)result->count, sizeof *result->layers);
        status = layer_rounds(result, &b, rounds);
    }
    if (!status)
        keep_names(result);
    else
        mabn_bench_detector_layers_release(result);
    bench_release(&b);
    return status;
}

void mabn_bench_detector_layers_release(struct mabn_bench_detector_layers *result)
{
    for (int i = 0; result->names && i < result->count; i++)
        free(result->names[i]);
    free(result->names);
    free(result->layers);
    *result = (struct mabn_bench_detector_layers){0};
}
