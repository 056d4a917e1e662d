/* Timing networks on synthetic data: whole steps, and the convolutions in them alone. */
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
    double forward, backward, update; /* parts of a training step; 0 on a GPU, where a step is one
                                       * graph */
    double convolutions;              /* one pass over the convolutions alone, in the same rounds */
    struct mabn_net_memory memory;
    size_t gpu_bytes; /* in use on the GPU while the networks of all cases exist; 0 on the CPU */
};

/* Fill the net's input with synthetic pictures and labels, always the same. */
void mabn_bench_fill(struct mabn_net *net);

/* Build the networks of all cases, warm up, and time them in turn, round by round, so that other
 * load on the machine affects all of them. On the CPU a round is one step, by the clock. On a GPU
 * it is as many steps as take a quarter of a second, each with its transfer of input, by the GPU's
 * own events. */
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
/* Time every layer of one network, and a copy in the same round: medians over the rounds. */
MABN_MUST_USE mabn_status mabn_bench_layers_run(struct mabn_bench_layers *result,
                                                struct mabn_device *device,
                                                const struct mabn_bench_case *c, int rounds);
void mabn_bench_layers_release(struct mabn_bench_layers *result);

/* The median; sorts the values. */
double mabn_bench_median(double *values, int count);

MABN_END_DECLS
#endif
