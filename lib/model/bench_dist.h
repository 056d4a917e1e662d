/* Timing ranks (dist/comm.h): the cost of a sum, and of a training step compared with a single
 * rank. All ranks make these calls, and all get the results. Times are in seconds: of the slowest
 * rank in each round, and then the median over the rounds. CPU only. */
#ifndef MABN_MODEL_BENCH_DIST_H
#define MABN_MODEL_BENCH_DIST_H

#include "dist/comm.h"
#include "model/bench.h"

MABN_BEGIN_DECLS

/* A sum of `bytes` (a multiple of 4) of float32 over all ranks. */
MABN_MUST_USE mabn_status mabn_bench_sum(double *seconds, struct mabn_comm *comm, size_t bytes,
                                         int rounds);

struct mabn_bench_ranks {
    size_t gradient_bytes;
    double alone;    /* a training step of rank 0 while the others wait */
    double together; /* a step of all ranks at once, without a sum */
    double sum;      /* the sum of the gradients alone, in buckets */
    double step;     /* a step of all ranks, followed by the sum */
    double overlap;  /* a step of all ranks, overlapped with the sum */
};
/* c: a training step of one rank. */
MABN_MUST_USE mabn_status mabn_bench_ranks_run(struct mabn_bench_ranks *result,
                                               struct mabn_comm *comm, struct mabn_device *device,
                                               const struct mabn_bench_case *c, int rounds);

MABN_END_DECLS
#endif
