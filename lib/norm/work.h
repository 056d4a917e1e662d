/* One call on the CPU: how its rows are cut up, where its scratch lies, and the stages that
 * norm_cpu.c runs. Private to lib/norm. */
#ifndef MABN_NORM_WORK_H
#define MABN_NORM_WORK_H

#include "norm/coefficients.h"
#include "norm/internal.h"

MABN_BEGIN_DECLS

/* How a call is cut up, which depends on the shape alone. */
struct mabn_work_shape {
    int64_t channels;
    int64_t fold, width; /* rows with few channels are taken `fold` at a time, as one row of
                          * `width` */
    int64_t runs, run_samples;
    int64_t run_rows, last_rows; /* rows (of C) of every run but the last; of the last run */
    int64_t chunk_rows, chunks;  /* wide rows of a chunk; chunks of a run */
    int64_t unit_runs;           /* when threads share runs: runs that a thread takes together */
    int64_t slots;               /* threads that may share them; 1 when runs are large */
    int64_t wave_runs;           /* when threads share rows: runs of a wave */
    int64_t sums;                /* sums of a channel: 2, or 3 with an activation that has a
                                  * parameter */
};

/* Coefficient arrays of a run, repeated to the shape's width. */
enum mabn_work_array { AT_A, AT_B, AT_SHIFT, AT_P, AT_Q, AT_R, MABN_WORK_ARRAYS };

/* The runs [first, first + count) of a call, and scratch for them. */
struct mabn_work {
    const struct mabn_norm *norm;
    const struct mabn_norm_io *io;
    struct mabn_work_shape g;
    struct mabn_norm_state state;
    struct mabn_norm_saved saved; /* all NULL in inference */
    double *partial;              /* (runs,chunks,sums,width) sums of chunks */
    double *sums;                 /* (runs,sums,C) */
    float *wide;                  /* (runs,ARRAYS,width) */
    double *total;                /* (sums,C), over all runs of the call */
    float *act;                   /* (width) io->act as used (rounded); NULL: none */
    bool affine;                  /* EvoNorm-S0 without activation: no statistics */
    int64_t first, count;
    bool serial;                /* use one thread */
    bool shared;                /* other threads work on other runs of this call */
    bool known;                 /* y was applied before the sums, with the known a */
    bool clipped;               /* the known a turned out wrong, because r is clipped */
    double sync_n, sync_shards; /* SyncBN, of the group: elements; shards that have any */
};

size_t mabn_work_scratch(const struct mabn_norm *norm, int64_t samples, int64_t positions);
void mabn_work_init(struct mabn_work *w, const struct mabn_norm *norm,
                    const struct mabn_norm_io *io);
/* The next wave; false after the last. Starts with count = 0. */
bool mabn_work_next(struct mabn_work *w);
/* A view of unit `unit` for the thread of slot `slot`. */
struct mabn_work mabn_work_unit(const struct mabn_work *w, int64_t unit, int slot);

static inline int64_t mabn_work_rows(const struct mabn_work *w, int64_t run)
{
    return run == w->g.runs - 1 ? w->g.last_rows : w->g.run_rows;
}

/* Array `which` of run first + i. */
static inline float *mabn_work_wide(const struct mabn_work *w, int64_t i,
                                    enum mabn_work_array which)
{
    return w->wide + (i * MABN_WORK_ARRAYS + (int64_t)which) * w->g.width;
}

/* ---- walks over the rows of the work's runs, by the kernels: work.c ---- */

/* Sums of x: Σ x² alone, or Σ (x − shift) and Σ (x − shift)². */
void mabn_work_sums(const struct mabn_work *w, bool shifted);
/* y from a and b; with `squares`, Σ x² on the way. */
void mabn_work_apply(const struct mabn_work *w, bool squares);
/* Sums of g and g·(x − shift). */
void mabn_work_grad_sums(const struct mabn_work *w);
/* dx and dresidual; `full`: from p, q, r, else from p alone. */
void mabn_work_grad_apply(const struct mabn_work *w, bool full);

/* ---- stages of coefficients, for channels [c0, c1): coefs.c ---- */

typedef void (*mabn_work_stage)(struct mabn_work *w, int64_t c0, int64_t c1);

/* Call `stage` for all channels, in blocks over the threads; a block holds whole groups. */
void mabn_work_channels(struct mabn_work *w, mabn_work_stage stage);

/* Chunks' sums → w->sums. */
void mabn_stage_reduce(struct mabn_work *w, int64_t c0, int64_t c1);
/* Before the sums: the values that moments are taken about; MABN's a and b where they are known. */
void mabn_stage_shift(struct mabn_work *w, int64_t c0, int64_t c1);
void mabn_stage_known(struct mabn_work *w, int64_t c0, int64_t c1);
/* Are moments taken about the mean, not about 0? */
bool mabn_work_centres(const struct mabn_work *w);
/* MABN: can the work's runs be applied before they are measured? */
bool mabn_work_knows(const struct mabn_work *w);

/* Forward: from sums to a, b and saved. First the part that a run can do alone, then the part that
 * goes in the order of the runs; `finish` after the last run. */
void mabn_stage_forward(struct mabn_work *w, int64_t c0, int64_t c1);
void mabn_stage_forward_ordered(struct mabn_work *w, int64_t c0, int64_t c1);
void mabn_stage_forward_finish(struct mabn_work *w, int64_t c0, int64_t c1);
/* Backward: recall a, b and mean; from sums to p, q, r; likewise. */
void mabn_stage_recall(struct mabn_work *w, int64_t c0, int64_t c1);
void mabn_stage_backward(struct mabn_work *w, int64_t c0, int64_t c1);
void mabn_stage_backward_ordered(struct mabn_work *w, int64_t c0, int64_t c1);
void mabn_stage_backward_finish(struct mabn_work *w, int64_t c0, int64_t c1);
/* Count the call: iters, num_batches_tracked. After forward_finish. */
void mabn_work_count(struct mabn_work *w);

/* SyncBN: replace this shard's sums by those of its group. */
MABN_MUST_USE mabn_status mabn_work_sync_forward(struct mabn_work *w);
MABN_MUST_USE mabn_status mabn_work_sync_backward(struct mabn_work *w);

MABN_END_DECLS
#endif
