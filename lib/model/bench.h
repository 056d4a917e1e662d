/* Timing networks on made-up data: whole steps, and the bare convolutions they stand on. */
#ifndef MABN_MODEL_BENCH_H
#define MABN_MODEL_BENCH_H

#include "model/model.h"

MABN_BEGIN_DECLS

struct mabn_bench_case {
    struct mabn_model model;
    struct mabn_net_options options; /* batch, size, training, … */
};

/* Medians over the rounds, seconds; per step (training) or batch (inference). */
struct mabn_bench_result {
    double step;
    double forward, backward, update; /* parts of a training step; 0 on a GPU, where it is one */
    double convolutions;              /* one pass over the convolutions alone, in the same rounds */
    struct mabn_net_memory memory;
    size_t gpu_bytes; /* in use on the GPU while all cases are there; 0 on the CPU */
};

/* Made-up pictures and labels into the net's input, always the same. */
void mabn_bench_fill(struct mabn_net *net);

/* Build all cases at once, warm up, then let them take turns, round by round, so that whatever
 * else the machine does hits all alike. On the CPU a round is one step, by the clock; on a GPU as
 * many steps as take a quarter of a second, by the GPU's own events, the input crossing the bus
 * each time. */
MABN_MUST_USE mabn_status mabn_bench_run(struct mabn_bench_result *results,
                                         struct mabn_device *device,
                                         const struct mabn_bench_case *cases, int count,
                                         int rounds);

struct mabn_bench_layers {
    struct mabn_net *net; /* owns the layers' names */
    struct mabn_net_layer *layers;
    int count;
    double copy; /* bytes a second, read plus written */
};
/* Every layer of one network by itself, and a copy of the same round: medians over the rounds. */
MABN_MUST_USE mabn_status mabn_bench_layers_run(struct mabn_bench_layers *result,
                                                struct mabn_device *device,
                                                const struct mabn_bench_case *c, int rounds);
void mabn_bench_layers_release(struct mabn_bench_layers *result);

/* The median; sorts the values. */
double mabn_bench_median(double *values, int count);

MABN_END_DECLS
#endif
