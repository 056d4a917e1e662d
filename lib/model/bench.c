/* Timing networks: see bench.h. */
#include "model/bench.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/rng.h"

enum { STEP, FORWARD, BACKWARD, UPDATE, CONVOLUTIONS, TIMES };

static void fill(struct mabn_net *net)
{
    struct mabn_rng rng;
    struct mabn_shape s = mabn_net_input_shape(net);
    size_t n = 0;
    if (!mabn_shape_count(&s, &n)) MABN_BUG("input shape");
    float *x = mabn_net_input(net);
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)mabn_rng_range(&rng, -1, 1);
    for (int i = 0; i < mabn_net_batch(net); i++)
        mabn_net_labels(net)[i] = i % mabn_net_classes(net);
}

static mabn_status one_step(struct mabn_net *net, bool training, double *times)
{
    const struct mabn_net_sgd sgd = {.lr = 1e-3, .momentum = 0.9, .weight_decay = 1e-4};
    double start = mabn_now(), loss;
    MABN_TRY(mabn_net_forward(net));
    double forward = mabn_now(), backward = forward;
    if (training) {
        MABN_TRY(mabn_net_loss(net, 0.1, &loss));
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

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median of times[round][which] of one case. */
static double median(const double *times, int rounds, size_t stride, double *sorted)
{
    for (int r = 0; r < rounds; r++)
        sorted[r] = times[(size_t)r * stride];
    qsort(sorted, (size_t)rounds, sizeof *sorted, by_value);
    return rounds % 2 ? sorted[rounds / 2] : (sorted[rounds / 2 - 1] + sorted[rounds / 2]) / 2;
}

mabn_status mabn_bench_run(struct mabn_bench_result *results, struct mabn_device *device,
                           const struct mabn_bench_case *cases, int count, int rounds)
{
    mabn_status status = MABN_OK;
    size_t n = (size_t)count, row = n * TIMES;
    struct mabn_net **nets = mabn_xcalloc(n, sizeof *nets);
    double *times = mabn_xcalloc(row * (size_t)rounds, sizeof *times);
    double *sorted = mabn_xcalloc((size_t)rounds, sizeof *sorted), ignored[TIMES];
    for (size_t i = 0; i < n; i++) {
        MABN_TRY_GOTO(mabn_model_build(&nets[i], device, &cases[i].model, &cases[i].options), out);
        mabn_net_initialize(nets[i], 1, MABN_NET_INIT_FAN_OUT);
        fill(nets[i]);
        MABN_TRY_GOTO(one_step(nets[i], cases[i].options.training, ignored), out);
    }
    for (int r = 0; r < rounds; r++)
        for (size_t i = 0; i < n; i++)
            MABN_TRY_GOTO(
                one_step(nets[i], cases[i].options.training, times + (size_t)r * row + i * TIMES),
                out);
    for (size_t i = 0; i < n; i++) {
        double m[TIMES];
        for (size_t k = 0; k < TIMES; k++)
            m[k] = median(times + i * TIMES + k, rounds, row, sorted);
        results[i] =
            (struct mabn_bench_result){m[STEP],   m[FORWARD],      m[BACKWARD],
                                       m[UPDATE], m[CONVOLUTIONS], mabn_net_memory_of(nets[i])};
    }
out:
    for (size_t i = 0; i < n; i++)
        mabn_net_free(nets[i]);
    free(nets);
    free(times);
    free(sorted);
    return status;
}
