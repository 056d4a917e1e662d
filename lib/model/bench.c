/* Timing networks: see bench.h. */
#include "model/bench.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/rng.h"
#include "device/cuda.h"
#include "net/losses.h"

enum { STEP, FORWARD, BACKWARD, UPDATE, CONVOLUTIONS, TIMES };

static void label(struct mabn_net *net)
{
    const int rows = mabn_net_batch(net);
    int32_t *classes = mabn_xcalloc((size_t)rows, sizeof *classes);
    for (int i = 0; i < rows; i++)
        classes[i] = i % mabn_net_classes(net);
    const struct mabn_net_labels labels = {.labels = classes, .smoothing = 0.1, .normalizer = rows};
    mabn_net_set_labels(net, "loss", &labels);
    free(classes);
}

void mabn_bench_fill(struct mabn_net *net)
{
    struct mabn_rng rng;
    struct mabn_shape s = mabn_net_input_shape(net);
    size_t n = 0;
    if (!mabn_shape_count(&s, &n)) MABN_BUG("input shape");
    float *x = mabn_net_input(net);
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)mabn_rng_range(&rng, -1, 1);
    label(net);
}

static const struct mabn_params_sgd sgd = {.lr = 1e-3, .momentum = 0.9, .weight_decay = 1e-4};

/* ---- on the CPU: a step by the clock ---- */

static mabn_status time_cpu(struct mabn_net *net, bool training, double *times)
{
    double start = mabn_now();
    MABN_TRY(mabn_net_forward(net));
    double forward = mabn_now(), backward = forward;
    if (training) {
        MABN_TRY(mabn_net_backward(net));
        backward = mabn_now();
        MABN_TRY(mabn_net_update(net, &sgd));
    }
    double end = mabn_now();
    times[FORWARD] = forward - start;
    times[BACKWARD] = backward - forward;
    times[UPDATE] = end - backward;
    times[STEP] = end - start;
    return mabn_net_time_convolutions(net, &times[CONVOLUTIONS]);
}

/* ---- on a GPU: many steps by events ---- */

#if MABN_CUDA
static mabn_status queue_steps(struct mabn_net *net, bool training, int count)
{
    struct mabn_net_result ignored;
    for (int i = 0; i < count; i++) {
        if (mabn_net_behind(net) == mabn_net_depth(net)) MABN_TRY(mabn_net_result(net, &ignored));
        MABN_TRY(mabn_net_step(net, training ? &sgd : NULL));
    }
    return MABN_OK;
}

static mabn_status finish_steps(struct mabn_net *net)
{
    struct mabn_net_result ignored;
    while (mabn_net_behind(net))
        MABN_TRY(mabn_net_result(net, &ignored));
    return MABN_OK;
}

/* Seconds a step, measured over `count` steps, with other steps queued before them. */
static mabn_status time_steps(double *seconds, struct mabn_net *net, struct mabn_device *device,
                              bool training, int count)
{
    mabn_status status;
    void *stream = mabn_cuda_stream(device);
    struct mabn_cuda_event *begin = NULL, *end = NULL;
    MABN_TRY_GOTO(mabn_cuda_event_new(&begin, device, true), out);
    MABN_TRY_GOTO(mabn_cuda_event_new(&end, device, true), out);
    MABN_TRY_GOTO(queue_steps(net, training, mabn_net_depth(net)), out);
    MABN_TRY_GOTO(mabn_cuda_event_record(begin, stream), out);
    MABN_TRY_GOTO(queue_steps(net, training, count), out);
    MABN_TRY_GOTO(mabn_cuda_event_record(end, stream), out);
    MABN_TRY_GOTO(finish_steps(net), out);
    MABN_TRY_GOTO(mabn_cuda_event_wait(end), out);
    MABN_TRY_GOTO(mabn_cuda_event_seconds(seconds, begin, end), out);
    *seconds /= count;
out:
    mabn_cuda_event_free(begin);
    mabn_cuda_event_free(end);
    return status;
}

enum { MOST_STEPS = 500 };

/* As many steps as take a quarter of a second. */
static mabn_status time_gpu(struct mabn_net *net, struct mabn_device *device, bool training,
                            double *times)
{
    double once;
    MABN_TRY(time_steps(&once, net, device, training, 3));
    int count = once * MOST_STEPS > 0.25 ? (int)(0.25 / once) : MOST_STEPS;
    MABN_TRY(time_steps(&times[STEP], net, device, training, count < 3 ? 3 : count));
    return mabn_net_time_convolutions(net, &times[CONVOLUTIONS]);
}

/* The number of steps until every norm is in its steady state. */
static int unsteady_steps(const struct mabn_model *model)
{
    int steps = 3;
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        const struct mabn_norm_options *o = &model->norm[p];
        int start = o->r_start ? o->r_start : o->window_rule == MABN_WINDOW_ITERATION ? 1001 : 100;
        if (o->kind == MABN_NORM_MABN && start + 3 > steps) steps = start + 3;
    }
    return steps;
}

/* Fill every slot of the input, and run steps until the steady state is reached. */
static mabn_status warm_gpu(struct mabn_net *net, const struct mabn_model *model, bool training)
{
    for (int i = 0; i < mabn_net_depth(net); i++) {
        mabn_bench_fill(net);
        MABN_TRY(queue_steps(net, training, 1));
    }
    MABN_TRY(queue_steps(net, training, training ? unsteady_steps(model) : 3));
    return finish_steps(net);
}
#endif

static mabn_status time_one(struct mabn_net *net, struct mabn_device *device, bool training,
                            double *times)
{
#if MABN_CUDA
    if (mabn_device_kind_of(device) == MABN_DEVICE_CUDA)
        return time_gpu(net, device, training, times);
#endif
    (void)device;
    return time_cpu(net, training, times);
}

static mabn_status warm_up(struct mabn_net *net, struct mabn_device *device,
                           const struct mabn_bench_case *c)
{
    const bool training = c->options.training;
    double ignored[TIMES];
#if MABN_CUDA
    if (mabn_device_kind_of(device) == MABN_DEVICE_CUDA) return warm_gpu(net, &c->model, training);
#endif
    (void)device;
    mabn_bench_fill(net);
    return time_cpu(net, training, ignored);
}

static size_t gpu_bytes(struct mabn_device *device)
{
#if MABN_CUDA
    if (mabn_device_kind_of(device) == MABN_DEVICE_CUDA) return mabn_cuda_memory_used(device);
#endif
    (void)device;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double mabn_bench_median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* Median of times[round][which] of one case. */
static double median(const double *times, int rounds, size_t stride, double *sorted)
{
    for (int r = 0; r < rounds; r++)
        sorted[r] = times[(size_t)r * stride];
    return mabn_bench_median(sorted, rounds);
}

mabn_status mabn_bench_run(struct mabn_bench_result *results, struct mabn_device *device,
                           const struct mabn_bench_case *cases, int count, int rounds)
{
    mabn_status status = MABN_OK;
    size_t n = (size_t)count, row = n * TIMES;
    struct mabn_net **nets = mabn_xcalloc(n, sizeof *nets);
    double *times = mabn_xcalloc(row * (size_t)rounds, sizeof *times);
    double *sorted = mabn_xcalloc((size_t)rounds, sizeof *sorted);
    for (size_t i = 0; i < n; i++) {
        MABN_TRY_GOTO(mabn_model_build(&nets[i], device, &cases[i].model, &cases[i].options), out);
        MABN_TRY(mabn_params_initialize(mabn_net_params(nets[i]), 1, MABN_PARAMS_INIT_FAN_OUT));
        MABN_TRY_GOTO(warm_up(nets[i], device, &cases[i]), out);
    }
    for (int r = 0; r < rounds; r++)
        for (size_t i = 0; i < n; i++)
            MABN_TRY_GOTO(time_one(nets[i], device, cases[i].options.training,
                                   times + (size_t)r * row + i * TIMES),
                          out);
    for (size_t i = 0; i < n; i++) {
        double m[TIMES];
        for (size_t k = 0; k < TIMES; k++)
            m[k] = median(times + i * TIMES + k, rounds, row, sorted);
        results[i] = (struct mabn_bench_result){.step = m[STEP],
                                                .forward = m[FORWARD],
                                                .backward = m[BACKWARD],
                                                .update = m[UPDATE],
                                                .convolutions = m[CONVOLUTIONS],
                                                .memory = mabn_net_memory_of(nets[i]),
                                                .gpu_bytes = gpu_bytes(device)};
    }
out:
    for (size_t i = 0; i < n; i++)
        mabn_net_free(nets[i]);
    free(nets);
    free(times);
    free(sorted);
    return status;
}

/* ---- layers ---- */

enum { LAYER_FORWARD, LAYER_BACKWARD, LAYER_TIMES };

mabn_status mabn_bench_layers_run(struct mabn_bench_layers *result, struct mabn_device *device,
                                  const struct mabn_bench_case *c, int rounds)
{
    mabn_status status;
    double *times = NULL, *sorted = mabn_xcalloc((size_t)rounds, sizeof *sorted);
    double *copies = mabn_xcalloc((size_t)rounds, sizeof *copies);
    *result = (struct mabn_bench_layers){0};
    MABN_TRY_GOTO(mabn_model_build(&result->net, device, &c->model, &c->options), out);
    MABN_TRY(mabn_params_initialize(mabn_net_params(result->net), 1, MABN_PARAMS_INIT_FAN_OUT));
    MABN_TRY_GOTO(warm_up(result->net, device, c), out);
    result->count = mabn_net_layer_count(result->net);
    const size_t n = (size_t)result->count, row = n * LAYER_TIMES;
    result->layers = mabn_xcalloc(n, sizeof *result->layers);
    times = mabn_xcalloc(row * (size_t)rounds, sizeof *times);
    for (int r = -1; r < rounds; r++) { /* the first one is not counted */
        MABN_TRY_GOTO(mabn_net_time_layers(result->net, result->layers), out);
        for (size_t i = 0; i < n && r >= 0; i++) {
            double *p = times + (size_t)r * row + i * LAYER_TIMES;
            p[LAYER_FORWARD] = result->layers[i].forward;
            p[LAYER_BACKWARD] = result->layers[i].backward;
        }
        if (r >= 0) MABN_TRY_GOTO(mabn_net_time_copy(result->net, &copies[r]), out);
    }
    for (size_t i = 0; i < n; i++) {
        double *p = times + i * LAYER_TIMES;
        result->layers[i].forward = median(p + LAYER_FORWARD, rounds, row, sorted);
        result->layers[i].backward = median(p + LAYER_BACKWARD, rounds, row, sorted);
    }
    result->copy = median(copies, rounds, 1, sorted);
out:
    if (status) mabn_bench_layers_release(result);
    free(times);
    free(sorted);
    free(copies);
    return status;
}

void mabn_bench_layers_release(struct mabn_bench_layers *result)
{
    mabn_net_free(result->net);
    free(result->layers);
    *result = (struct mabn_bench_layers){0};
}
