/* Timing ranks. Every round times each kind of work once, so that other load on the machines
 * affects all of them. The ranks synchronize before each. */
#include "model/bench_dist.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"

enum { BUCKET = 25 << 20 }; /* bytes of one sum in flight */

static const struct mabn_params_sgd sgd = {.lr = 1e-3, .momentum = 0.9, .weight_decay = 1e-4};

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times, int rounds)
{
    qsort(times, (size_t)rounds, sizeof *times, by_value);
    return rounds % 2 ? times[rounds / 2] : (times[rounds / 2 - 1] + times[rounds / 2]) / 2;
}

/* This rank's seconds become the slowest rank's. */
static mabn_status slowest(struct mabn_comm *comm, double *seconds)
{
    int64_t ns = (int64_t)(*seconds * 1e9);
    MABN_TRY(mabn_comm_fold(comm, MABN_COMM_MAX, &ns, 1));
    *seconds = (double)ns * 1e-9;
    return MABN_OK;
}

/* ---- sums ---- */

/* Small sums are timed many at a time. */
static int repeats(size_t bytes)
{
    return bytes >= 1 << 20 ? 1 : bytes >= 1 << 14 ? 10 : 50;
}

mabn_status mabn_bench_sum(double *seconds, struct mabn_comm *comm, size_t bytes, int rounds)
{
    const size_t count = bytes / sizeof(float);
    const int times = repeats(bytes);
    float *values = mabn_xcalloc(count + 1, sizeof *values);
    double *took = mabn_xcalloc((size_t)rounds, sizeof *took);
    mabn_status status = MABN_OK;
    for (int r = -1; r < rounds && !status; r++) { /* the first one is not counted */
        status = mabn_comm_barrier(comm);
        const double start = mabn_now();
        for (int i = 0; i < times && !status; i++)
            status = mabn_comm_sum(comm, MABN_DIST_F32, values, count);
        double one = (mabn_now() - start) / times;
        if (!status) status = slowest(comm, &one);
        if (r >= 0) took[r] = one;
    }
    *seconds = median(took, rounds);
    free(took);
    free(values);
    return status;
}

/* ---- steps ---- */

enum { ALONE, TOGETHER, SUM, STEP, OVERLAP, TURNS };

struct bench {
    struct mabn_comm *comm;
    struct mabn_net *net;
    float *gradients; /* in place of the net's, which a backward pass is writing */
    size_t count;
    struct mabn_comm_sum *sums;
    int buckets;
};

static mabn_status start_sums(struct bench *b)
{
    const size_t most = BUCKET / sizeof(float);
    for (int i = 0; i < b->buckets; i++) {
        const size_t at = (size_t)i * most, left = b->count - at;
        b->sums[i] = (struct mabn_comm_sum){.type = MABN_DIST_F32,
                                            .count = left < most ? left : most,
                                            .parts = {b->gradients + at},
                                            .result = b->gradients + at};
        MABN_TRY(mabn_comm_sum_start(b->comm, &b->sums[i]));
    }
    return MABN_OK;
}

static mabn_status finish_sums(struct bench *b)
{
    for (int i = 0; i < b->buckets; i++)
        MABN_TRY(mabn_comm_sum_wait(b->comm, &b->sums[i]));
    return MABN_OK;
}

static mabn_status train(struct bench *b)
{
    MABN_TRY(mabn_net_forward(b->net));
    MABN_TRY(mabn_net_backward(b->net));
    return mabn_net_update(b->net, &sgd);
}

static mabn_status work(struct bench *b, int turn)
{
    if (turn == ALONE && mabn_comm_rank(b->comm)) return MABN_OK;
    if (turn == OVERLAP) MABN_TRY(start_sums(b));
    if (turn != SUM) MABN_TRY(train(b));
    if (turn == SUM || turn == STEP) MABN_TRY(start_sums(b));
    return turn >= SUM ? finish_sums(b) : MABN_OK;
}

static mabn_status time_turn(double *seconds, struct bench *b, int turn)
{
    MABN_TRY(mabn_comm_barrier(b->comm));
    const double start = mabn_now();
    MABN_TRY(work(b, turn));
    *seconds = mabn_now() - start;
    return slowest(b->comm, seconds);
}

static mabn_status build(struct bench *b, struct mabn_device *device,
                         const struct mabn_bench_case *c)
{
    MABN_TRY(mabn_model_build(&b->net, device, &c->model, &c->options));
    MABN_TRY(mabn_params_initialize(mabn_net_params(b->net), 1, MABN_PARAMS_INIT_FAN_OUT));
    mabn_bench_fill(b->net);
    mabn_params_gradients(mabn_net_params(b->net), &b->count);
    b->gradients = mabn_xcalloc(b->count + 1, sizeof *b->gradients);
    b->buckets = (int)((b->count * sizeof(float) + BUCKET - 1) / BUCKET);
    b->sums = mabn_xcalloc((size_t)b->buckets + 1, sizeof *b->sums);
    return MABN_OK;
}

mabn_status mabn_bench_ranks_run(struct mabn_bench_ranks *result, struct mabn_comm *comm,
                                 struct mabn_device *device, const struct mabn_bench_case *c,
                                 int rounds)
{
    struct bench b = {.comm = comm};
    double *times = mabn_xcalloc((size_t)(rounds * TURNS), sizeof *times), ignored;
    mabn_status status = build(&b, device, c);
    for (int r = -1; r < rounds; r++)
        for (int turn = 0; turn < TURNS && !status; turn++)
            status = time_turn(r < 0 ? &ignored : &times[turn * rounds + r], &b, turn);
    *result = (struct mabn_bench_ranks){.gradient_bytes = b.count * sizeof(float),
                                        .alone = median(times + ALONE * rounds, rounds),
                                        .together = median(times + TOGETHER * rounds, rounds),
                                        .sum = median(times + SUM * rounds, rounds),
                                        .step = median(times + STEP * rounds, rounds),
                                        .overlap = median(times + OVERLAP * rounds, rounds)};
    mabn_net_free(b.net);
    free(b.gradients);
    free(b.sums);
    free(times);
    return status;
}
