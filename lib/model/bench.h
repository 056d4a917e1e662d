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
    double step, forward, backward, update;
    double convolutions; /* one pass over the convolutions alone, in the same rounds */
    struct mabn_net_memory memory;
};

/* Build all cases at once, warm up, then let them take turns, round by round, so that whatever
 * else the machine does hits all alike. */
MABN_MUST_USE mabn_status mabn_bench_run(struct mabn_bench_result *results,
                                         struct mabn_device *device,
                                         const struct mabn_bench_case *cases, int count,
                                         int rounds);

MABN_END_DECLS
#endif
