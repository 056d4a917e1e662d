/* Timing ranks (dist/comm.h): what a sum costs, and what a training step costs beside one rank alone.
 * All ranks make these calls; all get the results. Times are seconds: the slowest rank's of a round,
 * then the median over the rounds. CPU only. */
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
    double together; /* of all ranks at once, nothing summed */
    double sum;      /* the gradients' sum by itself, in buckets */
    double step;     /* of all ranks, and then the sum */
    double overlap;  /* of all ranks, the sum under way meanwhile */
};
/* c: a training step of one rank. */
MABN_MUST_USE mabn_status mabn_bench_ranks_run(struct mabn_bench_ranks *result,
                                               struct mabn_comm *comm, struct mabn_device *device,
                                               const struct mabn_bench_case *c, int rounds);

MABN_END_DECLS
#endif
