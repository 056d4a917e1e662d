/* mabn-bench: time norms, networks and ranks on synthetic data. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_write.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/out.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "cli/detector_options.h"
#include "cli/norm_options.h"
#include "cli/ranks.h"
#include "data/scene_options.h"
#include "device/tune.h"
#include "model/bench.h"
#include "model/bench_detector.h"
#include "model/bench_dist.h"

static struct {
    const char *arch, *device;
    struct mabn_norm_request norm;
    struct mabn_detector_request detector;
    int precision, batch, size, channels, classes, base_width, rounds, threads;
    int64_t max_bytes;
    bool training, inference, no_fold, exact, tune, json;
    int save_memory;
} o = {.norm = MABN_NORM_REQUEST_INIT,
       .detector = MABN_DETECTOR_REQUEST_INIT,
       .arch = "resnet50",
       .device = "auto",
       .rounds = 5,
       .save_memory = -1,
       .max_bytes = 64 << 20};

/* clang-format off */
#define OPTS_WORK                                                                                  \
    MABN_OPT_INT('b', "batch", &o.batch, 0, 65536, "N", "images of a step; 0: 8, for detectors 2 in training and 1 in inference"), \
    MABN_OPT_INT('s', "size", &o.size, 0, 65535, "N", "height and width of the images; for detectors the shorter side of photographs of 640x480; 0: the architecture's"), \
    MABN_OPT_INT(0, "channels", &o.channels, 0, 3, "N", "channels of the images; 0: 3"),           \
    MABN_OPTIONS_NORM(&o.norm),                                                                    \
    MABN_OPT_INT('r', "rounds", &o.rounds, 1, 100000, "N", "rounds; medians are shown")
#define OPTS_END                                                                                   \
    MABN_OPT_FLAG(0, "json", &o.json, "one JSON object a line instead of a table"),                \
    MABN_OPT_DEVICE(&o.device),                                                                    \
    MABN_OPT_PRECISION(&o.precision),                                                              \
    MABN_OPT_FLAG(0, "tune", &o.tune, "choose convolution algorithms by timing: on a CPU once, kept in a file; on a GPU in every run, so that last bits may differ"), \
    MABN_OPT_THREADS(&o.threads),                                                                  \
    MABN_OPTIONS_COMMON,                                                                           \
    MABN_OPT_END

static const struct mabn_option norms_options[] = {
    MABN_OPT_STRING('a', "arch", &o.arch, "NAME", "the network"),
    MABN_OPT_FLAG('t', "training", &o.training, "only training"),
    MABN_OPT_FLAG('i', "inference", &o.inference, "only inference"),
    OPTS_WORK, OPTS_END};
static const struct mabn_option net_options[] = {
    MABN_OPT_NORM(&o.norm),
    MABN_OPT_INT('c', "classes", &o.classes, 0, 1 << 24, "N", "outputs of the classifier; 0: the architecture's"),
    MABN_OPT_INT(0, "base-width", &o.base_width, 0, 4096, "N", "channels of the first stage; 0: the architecture's"),
    MABN_OPT_FLAG('t', "training", &o.training, "time training steps, not inference"),
    MABN_OPT_FLAG(0, "no-fold", &o.no_fold, "inference: do not fold norms into convolutions"),
    MABN_OPT_FLAG(0, "exact", &o.exact, "do not use Winograd convolutions"),
    MABN_OPT_SWITCH(0, "save-memory", &o.save_memory, "training: recompute some activations in the backward pass; not given: only for detectors on CPUs"),
    OPTS_WORK, MABN_OPTIONS_DETECTOR(&o.detector), OPTS_END};
static const struct mabn_option dist_options[] = {
    MABN_OPT_NORM(&o.norm),
    MABN_OPT_STRING('a', "arch", &o.arch, "NAME", "the network"),
    OPTS_WORK,
    MABN_OPT_SIZE(0, "max-bytes", &o.max_bytes, "BYTES", "the largest sum that is timed"),
    MABN_OPT_FLAG(0, "json", &o.json, "one JSON object a line instead of a table"),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END};
/* clang-format on */

enum { NORMS, NET, LAYERS, DIST };
static const struct mabn_cli clis[] = {
    [NORMS] = {"mabn-bench norms", "[OPTION]...", "each norm in one network, against BN",
               norms_options, "Example:\n  mabn-bench norms --batch 8\n", 0, 0},
    [NET] = {"mabn-bench net", "[OPTION]... ARCHITECTURE",
             "images a second and memory of a network", net_options,
             "Example:\n  mabn-bench net resnet50 --training --norm mabn -B 2\n", 1, 1},
    [LAYERS] = {"mabn-bench layers", "[OPTION]... ARCHITECTURE",
                "each layer of a network: its time, and its share of a copy's bandwidth",
                net_options, "Example:\n  mabn-bench layers resnet50 --training --norm mabn\n", 1,
                1},
    [DIST] =
        {.name = "mabn-bench dist",
         .usage = "[OPTION]...",
         .summary =
             "ranks: the time of a sum by its size, and of a training step against one rank alone",
         .options = dist_options,
         .epilog = "Example:\n  mpirun -n 4 mabn-bench dist --arch resnet50 --batch 32\n",
         .ranks = true},
    {0},
};

static mabn_status describe(struct mabn_bench_case *c, const struct mabn_device *device,
                            const char *arch, const char *norm, bool training)
{
    const int precision =
        training ? o.precision : mabn_cli_infer_precision(device, o.precision, o.exact);
    *c = (struct mabn_bench_case){.options = {.batch = o.batch,
                                              .height = o.size,
                                              .width = o.size,
                                              .precision = (enum mabn_net_precision)precision,
                                              .training = training,
                                              .no_fold = o.no_fold,
                                              .exact = o.exact,
                                              .tune = o.tune,
                                              .save_memory = o.save_memory > 0,
                                              .takes_weights = true}};
    MABN_TRY(mabn_model_init(&c->model, arch));
    struct mabn_norm_request request = o.norm;
    request.norm = norm;
    MABN_TRY(mabn_model_request_norm(&c->model, &request));
    if (o.channels) c->model.channels = o.channels;
    if (o.classes) c->model.classes = o.classes;
    if (o.base_width) c->model.base_width = o.base_width;
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        struct mabn_norm_options *n = &c->model.norm[p];
        if (o.norm.groups < 1 && c->model.base_width % n->groups) n->groups = c->model.base_width;
        /* The steady state is timed, and should be reached soon. */
        if (o.norm.warmup < 0) n->warmup = n->window + 1;
        if (o.norm.r_start < 0) n->r_start = n->window + 2;
    }
    return MABN_OK;
}

/* ---- net ---- */

/* Every JSON object is printed on its own line. */
static void print_line(struct mabn_str *line)
{
    mabn_out_print("%s\n", line->text);
    mabn_out_flush();
    mabn_str_release(line);
}

static void start_object(struct mabn_json_writer *w, struct mabn_str *line)
{
    mabn_str_init(line);
    mabn_json_writer_init(w, line);
    mabn_json_put_object(w, NULL);
}

static void print_net_json(const struct mabn_bench_case *c, const struct mabn_bench_result *r,
                           const char *device_name)
{
    struct mabn_json_writer w;
    struct mabn_str line;
    start_object(&w, &line);
    mabn_json_put_string(&w, "arch", c->model.arch);
    mabn_json_put_string(&w, "norm", o.norm.norm);
    mabn_json_put_bool(&w, "training", o.training);
    mabn_json_put_int(&w, "batch", o.batch);
    mabn_json_put_int(&w, "threads", o.threads);
    mabn_json_put_rounded(&w, "images_per_second", c->options.batch / r->step, 6);
    mabn_json_put_rounded(&w, "step_seconds", r->step, 6);
    if (!r->gpu_bytes) {
        mabn_json_put_rounded(&w, "forward_seconds", r->forward, 6);
        mabn_json_put_rounded(&w, "backward_seconds", r->backward, 6);
        mabn_json_put_rounded(&w, "update_seconds", r->update, 6);
    }
    mabn_json_put_rounded(&w, "convolution_seconds", r->convolutions, 6);
    mabn_json_put_int(&w, "activation_bytes", (int64_t)r->memory.activations);
    mabn_json_put_int(&w, "parameter_bytes", (int64_t)r->memory.parameters);
    mabn_json_put_int(&w, "scratch_bytes", (int64_t)r->memory.scratch);
    mabn_json_put_int(&w, "gpu_bytes", (int64_t)r->gpu_bytes);
    mabn_json_put_int(&w, "peak_bytes", (int64_t)mabn_peak_memory());
    mabn_json_put_int(&w, "norm_batch", o.norm.norm_batch);
    mabn_json_put_string(&w, "device", device_name);
    mabn_json_put_end(&w);
    print_line(&line);
}

static void print_net(const struct mabn_bench_case *c, const struct mabn_bench_result *r)
{
    double mib = 1048576, peak = (double)mabn_peak_memory(), batch = c->options.batch;
    mabn_out_print("images/s\t%.4g\n", batch / r->step);
    mabn_out_print("ms/step\t%.4g\n", r->step * 1e3);
    if (o.training && !r->gpu_bytes)
        mabn_out_print("forward ms\t%.4g\nbackward ms\t%.4g\nupdate ms\t%.4g\n", r->forward * 1e3,
                       r->backward * 1e3, r->update * 1e3);
    mabn_out_print("bare convolutions ms\t%.4g\n", r->convolutions * 1e3);
    mabn_out_print("step / convolutions\t%.3f\n", r->step / r->convolutions);
    mabn_out_print(
        "activations MiB\t%.1f\nparameters MiB\t%.1f\nscratch MiB\t%.1f\npeak memory MiB\t%.1f\n",
        (double)r->memory.activations / mib, (double)r->memory.parameters / mib,
        (double)r->memory.scratch / mib, peak / mib);
    if (r->gpu_bytes) mabn_out_print("GPU memory in use MiB\t%.1f\n", (double)r->gpu_bytes / mib);
}

static mabn_status run_net(struct mabn_device *device, const char *arch)
{
    struct mabn_bench_case c;
    struct mabn_bench_result result;
    MABN_TRY(describe(&c, device, arch, o.norm.norm, o.training));
    MABN_TRY(mabn_bench_run(&result, device, &c, 1, o.rounds));
    if (o.json)
        print_net_json(&c, &result, mabn_device_name(device));
    else
        print_net(&c, &result);
    return MABN_OK;
}

/* ---- a detector ---- */

static mabn_status describe_detector(struct mabn_bench_detector_case *c,
                                     const struct mabn_device *device, const char *arch)
{
    const int precision =
        o.training ? o.precision : mabn_cli_infer_precision(device, o.precision, o.exact);
    *c = (struct mabn_bench_detector_case){
        .images = o.batch      ? o.batch
                  : o.training ? 2
                               : 1,
        .objects = 7,
        .precision = (enum mabn_net_precision)precision,
        .training = o.training,
        .no_fold = o.no_fold,
        .exact = o.exact,
        .tune = o.tune,
        .save_memory =
            o.save_memory < 0 ? mabn_device_kind_of(device) == MABN_DEVICE_CPU : o.save_memory};
    if (o.size) o.detector.min_size = o.size;
    MABN_TRY(mabn_detector_init(&c->detector, arch));
    if (o.classes) c->detector.classes = o.classes;
    if (o.base_width) c->detector.body.base_width = o.base_width;
    MABN_TRY(mabn_detector_request(&c->detector, &o.detector, false));
    MABN_TRY(mabn_detector_request_norm(&c->detector, &o.norm));
    /* Untrained scores are low: accept all, so that there are masks to compute. */
    c->detector.min_score = 0;
    const struct mabn_scene_options scene = {.max_size = c->detector.max_size};
    mabn_scene_size(&scene, c->detector.min_size, 640, 480, &c->width, &c->height);
    return MABN_OK;
}

/* The parts of a step outside the layers of its plans. */
static const enum mabn_rcnn_part between[] = {MABN_RCNN_PART_PROPOSALS, MABN_RCNN_PART_TARGETS,
                                              MABN_RCNN_PART_DETECTIONS, MABN_RCNN_PART_PASTING};
enum { BETWEEN = sizeof between / sizeof *between };

static void print_share(const char *name, double seconds, double step)
{
    mabn_out_print("%s ms\t%.4g\t%.1f %%\n", name, seconds * 1e3, seconds / step * 100);
}

static void print_detector(const struct mabn_bench_detector_case *c,
                           const struct mabn_bench_detector_result *r)
{
    const double mib = 1048576;
    mabn_out_print("picture\t%dx%d in %dx%d\n", c->width, c->height, r->padded_width,
                   r->padded_height);
    mabn_out_print("regions\t%lld\nmasks\t%lld\n", (long long)r->boxes, (long long)r->masks);
    mabn_out_print("images/s\t%.4g\nms/step\t%.4g\n", c->images / r->step, r->step * 1e3);
    for (int i = 0; i < MABN_BENCH_SHARES; i++)
        print_share(mabn_bench_detector_share_names[i], r->shares[i], r->step);
    for (int i = 0; i < BETWEEN; i++)
        if (r->parts[between[i]] > 0)
            print_share(mabn_rcnn_part_names[between[i]], r->parts[between[i]], r->step);
    if (c->training) print_share("update", r->update, r->step);
    mabn_out_print("bare convolutions ms\t%.4g\nstep / convolutions\t%.3f\n", r->convolutions * 1e3,
                   r->step / r->convolutions);
    mabn_out_print("activations MiB\t%.1f\nparameters MiB\t%.1f\nscratch MiB\t%.1f\n"
                   "peak memory MiB\t%.1f\n",
                   (double)r->memory.activations / mib, (double)r->memory.parameters / mib,
                   (double)r->memory.scratch / mib, (double)mabn_peak_memory() / mib);
}

static void put_seconds(struct mabn_json_writer *w, const char *name, double seconds)
{
    mabn_json_put_rounded(w, name, seconds, 6);
}

static void print_detector_json(const struct mabn_bench_detector_case *c,
                                const struct mabn_bench_detector_result *r, const char *device_name)
{
    struct mabn_json_writer w;
    struct mabn_str line;
    start_object(&w, &line);
    mabn_json_put_string(&w, "arch", c->detector.arch);
    mabn_json_put_bool(&w, "training", c->training);
    mabn_json_put_int(&w, "batch", c->images);
    mabn_json_put_int(&w, "threads", o.threads);
    mabn_json_put_int(&w, "width", c->width);
    mabn_json_put_int(&w, "height", c->height);
    mabn_json_put_int(&w, "regions", r->boxes);
    mabn_json_put_int(&w, "masks", r->masks);
    mabn_json_put_rounded(&w, "images_per_second", c->images / r->step, 6);
    put_seconds(&w, "step_seconds", r->step);
    mabn_json_put_object(&w, "seconds");
    for (int i = 0; i < MABN_BENCH_SHARES; i++)
        put_seconds(&w, mabn_bench_detector_share_names[i], r->shares[i]);
    for (int i = 0; i < BETWEEN; i++)
        put_seconds(&w, mabn_rcnn_part_names[between[i]], r->parts[between[i]]);
    put_seconds(&w, "update", r->update);
    mabn_json_put_end(&w);
    put_seconds(&w, "convolution_seconds", r->convolutions);
    mabn_json_put_int(&w, "activation_bytes", (int64_t)r->memory.activations);
    mabn_json_put_int(&w, "parameter_bytes", (int64_t)r->memory.parameters);
    mabn_json_put_int(&w, "scratch_bytes", (int64_t)r->memory.scratch);
    mabn_json_put_int(&w, "peak_bytes", (int64_t)mabn_peak_memory());
    mabn_json_put_string(&w, "device", device_name);
    mabn_json_put_end(&w);
    print_line(&line);
}

static mabn_status run_detector(struct mabn_device *device, const char *arch)
{
    struct mabn_bench_detector_case c;
    struct mabn_bench_detector_result r;
    MABN_TRY(describe_detector(&c, device, arch));
    MABN_TRY(mabn_bench_detector_run(&r, device, &c, o.rounds));
    if (o.json)
        print_detector_json(&c, &r, mabn_device_name(device));
    else
        print_detector(&c, &r);
    return MABN_OK;
}

/* ---- layers ---- */

/* Layers of one network or of a detector's plans; borrowed. */
struct layers {
    const struct mabn_net_layer *layers;
    int count;
    double copy; /* bytes a second */
};

/* A pass of a layer, or of all layers of a kind: milliseconds, and its bandwidth relative to a
 * copy. */
static void print_pass(double seconds, double bytes, double copy)
{
    if (seconds > 0)
        mabn_out_print("\t%.4f\t%.1f\t%.2f", seconds * 1e3, bytes / seconds * 1e-9,
                       bytes / seconds / copy);
    else
        mabn_out_print("\t-\t-\t-");
}

static void print_layer_json(const struct mabn_net_layer *l)
{
    struct mabn_json_writer w;
    struct mabn_str line;
    start_object(&w, &line);
    mabn_json_put_string(&w, "layer", l->name);
    mabn_json_put_string(&w, "kind", l->kind);
    mabn_json_put_int(&w, "height", l->height);
    mabn_json_put_int(&w, "width", l->width);
    mabn_json_put_int(&w, "channels", l->channels);
    mabn_json_put_int(&w, "macs", (int64_t)l->macs);
    mabn_json_put_rounded(&w, "forward_seconds", l->forward, 6);
    mabn_json_put_int(&w, "forward_bytes", (int64_t)l->forward_bytes);
    mabn_json_put_rounded(&w, "backward_seconds", l->backward, 6);
    mabn_json_put_int(&w, "backward_bytes", (int64_t)l->backward_bytes);
    mabn_json_put_end(&w);
    print_line(&line);
}

static void print_layer(const struct mabn_net_layer *l, double copy)
{
    mabn_out_print("%s\t%s\t%lldx%lldx%lld", *l->name ? l->name : "-", l->kind,
                   (long long)l->height, (long long)l->width, (long long)l->channels);
    print_pass(l->forward, l->forward_bytes, copy);
    print_pass(l->backward, l->backward_bytes, copy);
    mabn_out_print("\n");
}

/* Sums over layers of the same kind, in the order of their first layer. */
static void print_kinds(const struct layers *r)
{
    for (int i = 0; i < r->count; i++) {
        struct mabn_net_layer sum = {.kind = r->layers[i].kind};
        int first = 0, count = 0;
        while (strcmp(r->layers[first].kind, sum.kind))
            first++;
        for (int k = i; first == i && k < r->count; k++) {
            const struct mabn_net_layer *l = &r->layers[k];
            if (strcmp(l->kind, sum.kind)) continue;
            count++;
            sum.forward += l->forward;
            sum.backward += l->backward;
            sum.forward_bytes += l->forward_bytes;
            sum.backward_bytes += l->backward_bytes;
        }
        if (!count) continue;
        mabn_out_print("# %d\t%s\t", count, sum.kind);
        print_pass(sum.forward, sum.forward_bytes, r->copy);
        print_pass(sum.backward, sum.backward_bytes, r->copy);
        mabn_out_print("\n");
    }
}

static void print_layers(const struct layers *r)
{
    mabn_out_print("layer\tkind\toutput\tforward ms\tGB/s\tof copy\tbackward ms\tGB/s\tof copy\n");
    for (int i = 0; i < r->count; i++)
        print_layer(&r->layers[i], r->copy);
    print_kinds(r);
    mabn_out_print("# copy\t%.1f GB/s\n", r->copy * 1e-9);
}

static void print_layers_json(const struct layers *r, const char *device_name)
{
    struct mabn_json_writer w;
    struct mabn_str line;
    for (int i = 0; i < r->count; i++)
        print_layer_json(&r->layers[i]);
    start_object(&w, &line);
    mabn_json_put_rounded(&w, "copy_bytes_per_second", r->copy, 6);
    mabn_json_put_string(&w, "device", device_name);
    mabn_json_put_end(&w);
    print_line(&line);
}

static void show_layers(const struct layers *r, const char *device_name)
{
    if (o.json)
        print_layers_json(r, device_name);
    else
        print_layers(r);
}

static mabn_status run_detector_layers(struct mabn_device *device, const char *arch)
{
    struct mabn_bench_detector_case c;
    struct mabn_bench_detector_layers r;
    MABN_TRY(describe_detector(&c, device, arch));
    MABN_TRY(mabn_bench_detector_layers_run(&r, device, &c, o.rounds));
    show_layers(&(struct layers){r.layers, r.count, r.copy}, mabn_device_name(device));
    mabn_bench_detector_layers_release(&r);
    return MABN_OK;
}

static mabn_status run_layers(struct mabn_device *device, const char *arch)
{
    struct mabn_bench_case c;
    struct mabn_bench_layers r;
    MABN_TRY(describe(&c, device, arch, o.norm.norm, o.training));
    MABN_TRY(mabn_bench_layers_run(&r, device, &c, o.rounds));
    show_layers(&(struct layers){r.layers, r.count, r.copy}, mabn_device_name(device));
    mabn_bench_layers_release(&r);
    return MABN_OK;
}

/* ---- dist ---- */

/* Bytes a second over the bus: a sum over R ranks moves every byte at least 2(R − 1)/R times. */
static double bus_speed(int ranks, double bytes, double seconds)
{
    return 2.0 * (ranks - 1) / ranks * bytes / seconds;
}

static void print_sum(int ranks, size_t bytes, double seconds)
{
    struct mabn_json_writer w;
    struct mabn_str line;
    if (!o.json) {
        mabn_out_print("%zu\t%.4g\t%.4g\n", bytes, seconds * 1e6,
                       bus_speed(ranks, (double)bytes, seconds) * 1e-9);
        mabn_out_flush();
        return;
    }
    start_object(&w, &line);
    mabn_json_put_int(&w, "bytes", (int64_t)bytes);
    mabn_json_put_rounded(&w, "seconds", seconds, 6);
    mabn_json_put_rounded(&w, "bus_bytes_per_second", bus_speed(ranks, (double)bytes, seconds), 6);
    mabn_json_put_end(&w);
    print_line(&line);
}

/* The share of the sum's time (or the step's, if shorter) that was hidden behind the other. */
static double hidden(const struct mabn_bench_ranks *r)
{
    const double shorter = r->sum < r->together ? r->sum : r->together;
    const double share = (r->together + r->sum - r->overlap) / shorter;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

static void print_ranks(const struct mabn_bench_ranks *r, int ranks)
{
    struct mabn_json_writer w;
    struct mabn_str line;
    if (!o.json) {
        mabn_out_print("gradients MiB\t%.1f\n", (double)r->gradient_bytes / 1048576);
        mabn_out_print("one rank alone ms/step\t%.4g\n", r->alone * 1e3);
        mabn_out_print("all, without a sum ms/step\t%.4g\n", r->together * 1e3);
        mabn_out_print("sum of the gradients ms\t%.4g\n", r->sum * 1e3);
        mabn_out_print("step, then sum ms/step\t%.4g\n", r->step * 1e3);
        mabn_out_print("sum during the step ms/step\t%.4g\n", r->overlap * 1e3);
        mabn_out_print("hidden\t%.2f\n", hidden(r));
        mabn_out_print("images/s\t%.4g\n", ranks * o.batch / r->overlap);
        mabn_out_print("efficiency\t%.3f\n", r->alone / r->overlap);
        return;
    }
    start_object(&w, &line);
    mabn_json_put_string(&w, "arch", o.arch);
    mabn_json_put_int(&w, "ranks", ranks);
    mabn_json_put_int(&w, "batch", o.batch);
    mabn_json_put_int(&w, "threads", o.threads);
    mabn_json_put_int(&w, "gradient_bytes", (int64_t)r->gradient_bytes);
    mabn_json_put_rounded(&w, "alone_seconds", r->alone, 6);
    mabn_json_put_rounded(&w, "together_seconds", r->together, 6);
    mabn_json_put_rounded(&w, "sum_seconds", r->sum, 6);
    mabn_json_put_rounded(&w, "step_seconds", r->step, 6);
    mabn_json_put_rounded(&w, "overlap_seconds", r->overlap, 6);
    mabn_json_put_rounded(&w, "hidden", hidden(r), 6);
    mabn_json_put_rounded(&w, "efficiency", r->alone / r->overlap, 6);
    mabn_json_put_end(&w);
    print_line(&line);
}

static mabn_status run_sums(struct mabn_comm *comm)
{
    const bool first = mabn_comm_rank(comm) == 0;
    double seconds;
    if (first && !o.json) mabn_out_print("bytes\tus/sum\tGB/s\n");
    for (size_t bytes = 4; bytes <= (size_t)o.max_bytes; bytes *= 8) {
        MABN_TRY(mabn_bench_sum(&seconds, comm, bytes, o.rounds));
        if (first) print_sum(mabn_comm_ranks(comm), bytes, seconds);
    }
    return MABN_OK;
}

static mabn_status run_dist(struct mabn_comm *comm)
{
    struct mabn_device *device = NULL;
    struct mabn_bench_case c;
    struct mabn_bench_ranks result;
    const int ranks = mabn_comm_ranks(comm);
    mabn_status status;
    if (ranks == 1)
        return mabn_fail(MABN_ERR_ARG,
                         "only one process: start it on several ranks, with mpirun or srun");
    if (!o.threads) o.threads = mabn_comm_threads(comm);
    mabn_info("%d ranks by %s, %d on this host, %s", ranks, mabn_comm_library(comm),
              mabn_comm_local_ranks(comm), mabn_comm_binding(comm));
    MABN_TRY_GOTO(mabn_device_open(&device, "cpu", o.threads), out);
    MABN_TRY_GOTO(describe(&c, device, o.arch, o.norm.norm, true), out);
    MABN_TRY_GOTO(run_sums(comm), out);
    MABN_TRY_GOTO(mabn_bench_ranks_run(&result, comm, device, &c, o.rounds), out);
    if (mabn_comm_rank(comm) == 0) print_ranks(&result, ranks);
out:
    mabn_device_free(device);
    return status;
}

/* ---- norms ---- */

static const char *const norms[] = {"bn", "mabn", "brn", "in", "gn", "ln"};

/* Time one norm against BN, in alternation: iterations a second and the ratio to BN. */
static mabn_status run_norm(struct mabn_device *device, const char *norm, bool training)
{
    struct mabn_bench_case c[2];
    struct mabn_bench_result r[2];
    MABN_TRY(describe(&c[0], device, o.arch, "bn", training));
    MABN_TRY(describe(&c[1], device, o.arch, norm, training));
    MABN_TRY(mabn_bench_run(r, device, c, 2, o.rounds));
    double rate = 1 / r[1].step, ratio = r[0].step / r[1].step;
    if (!o.json) {
        mabn_out_print("%s\t%s\t%.4g\t%.4g\t%.3f\n", norm, training ? "training" : "inference",
                       rate, rate * o.batch, ratio);
        mabn_out_flush();
        return MABN_OK;
    }
    struct mabn_json_writer w;
    struct mabn_str line;
    start_object(&w, &line);
    mabn_json_put_string(&w, "norm", norm);
    mabn_json_put_bool(&w, "training", training);
    mabn_json_put_rounded(&w, "iterations_per_second", rate, 6);
    mabn_json_put_rounded(&w, "images_per_second", rate * o.batch, 6);
    mabn_json_put_rounded(&w, "relative_to_bn", ratio, 6);
    mabn_json_put_end(&w);
    print_line(&line);
    return MABN_OK;
}

static mabn_status run_norms(struct mabn_device *device)
{
    if (!o.json) mabn_out_print("norm\twork\titerations/s\timages/s\tto BN\n");
    for (int training = 0; training < 2; training++) {
        if (training ? o.inference : o.training) continue;
        for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
            MABN_TRY(run_norm(device, norms[i], training));
    }
    return MABN_OK;
}

int main(int argc, char **argv)
{
    char **args;
    struct mabn_device *device;
    mabn_threads_wait_asleep(argv);
    int which = mabn_cli_choose(clis, "mabn-bench", "time norms and networks on synthetic data",
                                argc, argv);
    mabn_cli_start(&clis[which], argc - 1, argv + 1, &args);
    if (which == NORMS && o.training && o.inference)
        mabn_cli_usage_error("--training and --inference exclude each other");
    const bool detector = (which == NET || which == LAYERS) && mabn_detector_is(args[0]);
    const char *other =
        which == NET || which == LAYERS ? mabn_cli_first_given(mabn_cli_detector_options) : NULL;
    if (other && !detector) mabn_cli_usage_error("--%s is for detectors", other);
    mabn_cli_check_machine(o.device, o.precision);
    if (!o.norm.norm) o.norm.norm = MABN_NORM_DEFAULT;
    if (o.norm.norm_batch < 0) o.norm.norm_batch = 0;
    if (which == DIST) {
        if (!o.batch) o.batch = 8;
        struct mabn_comm *comm = mabn_cli_open_ranks();
        return mabn_cli_finish_ranks(comm, run_dist(comm));
    }
    mabn_status status = mabn_device_open(&device, o.device, o.threads);
    if (!status && o.tune) status = mabn_device_tune(device, true);
    if (status) {
        mabn_device_free(device);
        return mabn_cli_finish(status);
    }
    o.threads = mabn_device_threads(device);
    mabn_info("%s", mabn_device_name(device));
    if (!o.batch && !detector) o.batch = 8;
    if (which == NORMS)
        status = run_norms(device);
    else if (which == NET)
        status = detector ? run_detector(device, args[0]) : run_net(device, args[0]);
    else
        status = detector ? run_detector_layers(device, args[0]) : run_layers(device, args[0]);
    mabn_device_free(device);
    return mabn_cli_finish(status);
}
