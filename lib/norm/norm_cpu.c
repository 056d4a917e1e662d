/* The normalization engine on the CPU.
 *
 * A call consists of runs of rows; each run has one statistic. There are two ways to share it among
 * threads, chosen by the numbers of runs and threads. Both add the same numbers in the same order,
 * so the choice does not change results:
 *
 *   runs over threads   A thread takes a run: sums, coefficients, apply, while the run is in its
 *                       cache. What must go in the order of the runs (MABN's window, sums over
 *                       runs) is an OpenMP ordered section in the middle; otherwise nobody waits.
 *   rows over threads   There are few runs for the threads. All walk the rows of a wave of runs
 *                       together: sums, then coefficients (channels over threads), then apply. A
 *                       wave is as many runs as stay in the caches, at least one.
 *
 * MABN, where r is active: y = a·x + b with a = gamma/sqrt(running_var + eps) is known before the
 * sums (the window's variance cancels), so one pass over x applies and sums. Where r turns out to
 * be clipped, which is rare, the run is applied again. */
#include <omp.h>
#include <string.h>

#include "norm/work.h"

size_t mabn_norm_cpu_scratch(const struct mabn_norm *norm, int64_t samples, int64_t positions)
{
    return mabn_work_scratch(norm, samples, positions);
}

/* The number of threads among which the call's runs are divided; 0: rows are divided, which is faster. */
static int run_threads(const struct mabn_work *w)
{
    const int64_t units = (w->g.runs + w->g.unit_runs - 1) / w->g.unit_runs;
    const int threads = w->serial ? 1 : omp_get_max_threads();

    if (threads > w->g.slots) return 0;
    return units >= 2 * threads || units % threads == 0 ? threads : 0;
}

typedef void (*work_step)(struct mabn_work *w);

/* For all runs: `before`, then `ordered` run after run, then `after`. */
static void for_runs(const struct mabn_work *w, int threads, work_step before, work_step ordered,
                     work_step after)
{
    const int64_t units = (w->g.runs + w->g.unit_runs - 1) / w->g.unit_runs;

#pragma omp parallel for ordered schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t unit = 0; unit < units; unit++) {
        struct mabn_work one = mabn_work_unit(w, unit, omp_get_thread_num());
        before(&one);
#pragma omp ordered
        ordered(&one);
        after(&one);
    }
}

/* ---- forward ---- */

/* Sums; in the same pass y, where its map is known. */
static void measure(struct mabn_work *w)
{
    const bool shifted = mabn_work_centres(w);
    const bool empty = !w->io->samples || !w->io->positions;

    if (w->affine) return;
    w->clipped = false;
    w->known = mabn_work_knows(w);
    if (w->known) {
        mabn_stage_known(w, 0, w->g.channels);
        mabn_work_apply(w, true);
        return;
    }
    if (shifted && !empty) mabn_stage_shift(w, 0, w->g.channels);
    mabn_work_sums(w, shifted);
}

static void measure_and_derive(struct mabn_work *w)
{
    measure(w);
    if (!w->affine) mabn_stage_reduce(w, 0, w->g.channels);
    mabn_stage_forward(w, 0, w->g.channels);
}

static void forward_in_order(struct mabn_work *w)
{
    mabn_stage_forward_ordered(w, 0, w->g.channels);
}

static void apply(struct mabn_work *w)
{
    if (!w->known || w->clipped) mabn_work_apply(w, false);
}

static void reduce_and_forward(struct mabn_work *w, int64_t c0, int64_t c1)
{
    if (!w->affine) mabn_stage_reduce(w, c0, c1);
    mabn_stage_forward(w, c0, c1);
    mabn_stage_forward_ordered(w, c0, c1);
}

static mabn_status forward_sync(struct mabn_work *w)
{
    mabn_work_next(w);
    measure(w);
    mabn_work_channels(w, mabn_stage_reduce);
    MABN_TRY(mabn_work_sync_forward(w));
    if (!w->sync_n) return MABN_OK; /* no shard has any rows */
    mabn_work_channels(w, mabn_stage_forward);
    apply(w);
    mabn_work_channels(w, mabn_stage_forward_finish);
    mabn_work_count(w);
    return MABN_OK;
}

static void measure_and_apply(struct mabn_work *w)
{
    const int threads = run_threads(w);

    if (threads)
        for_runs(w, threads, measure_and_derive, forward_in_order, apply);
    else
        while (mabn_work_next(w)) {
            measure(w);
            mabn_work_channels(w, reduce_and_forward);
            apply(w);
        }
    mabn_stage_forward_finish(w, 0, w->g.channels);
    mabn_work_count(w);
}

/* None and frozen: nothing is measured. One run. */
static mabn_status apply_fixed(struct mabn_work *w)
{
    const struct mabn_norm_io *io = w->io;
    const size_t bytes = (size_t)w->g.channels * sizeof(float);

    mabn_work_next(w);
    float *a = mabn_work_wide(w, 0, AT_A), *b = mabn_work_wide(w, 0, AT_B);
    MABN_TRY(mabn_norm_affine(w->norm, a, b, io->gamma, io->beta, io->state));
    for (int64_t f = 1; f < w->g.fold; f++) {
        memcpy(a + f * w->g.channels, a, bytes);
        memcpy(b + f * w->g.channels, b, bytes);
    }
    if (w->saved.a) {
        memcpy(w->saved.a, a, bytes);
        memcpy(w->saved.b, b, bytes);
        memset(w->saved.mean, 0, bytes);
    }
    mabn_work_apply(w, false);
    return MABN_OK;
}

mabn_status mabn_norm_cpu_forward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct mabn_work w;

    mabn_work_init(&w, norm, io);
    if (!mabn_norm_measures(norm->options.kind)) return apply_fixed(&w);
    if (norm->options.kind == MABN_NORM_SYNCBN) return forward_sync(&w);
    measure_and_apply(&w);
    return MABN_OK;
}

mabn_status mabn_norm_cpu_infer(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct mabn_norm_io call = *io;
    struct mabn_norm whole = *norm;
    struct mabn_work w;

    call.saved = NULL;
    whole.options.norm_batch = 0; /* norms that fold treat all samples as one run */
    mabn_work_init(&w, &whole, &call);
    if (mabn_norm_folds(norm->options.kind)) return apply_fixed(&w);
    measure_and_apply(&w);
    return MABN_OK;
}

void mabn_norm_cpu_reapply(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct mabn_work w;

    mabn_work_init(&w, norm, io);
    while (mabn_work_next(&w)) {
        mabn_stage_recall(&w, 0, w.g.channels);
        mabn_work_apply(&w, false);
    }
}

/* ---- backward ---- */

static void grad_measure(struct mabn_work *w)
{
    mabn_stage_recall(w, 0, w->g.channels);
    mabn_work_grad_sums(w);
}

static void grad_measure_and_derive(struct mabn_work *w)
{
    grad_measure(w);
    mabn_stage_reduce(w, 0, w->g.channels);
    mabn_stage_backward(w, 0, w->g.channels);
}

static void backward_in_order(struct mabn_work *w)
{
    mabn_stage_backward_ordered(w, 0, w->g.channels);
}

static void grad_apply(struct mabn_work *w)
{
    mabn_work_grad_apply(w, !w->affine);
}

static void reduce_and_backward(struct mabn_work *w, int64_t c0, int64_t c1)
{
    mabn_stage_reduce(w, c0, c1);
    mabn_stage_backward(w, c0, c1);
    mabn_stage_backward_ordered(w, c0, c1);
}

static mabn_status backward_sync(struct mabn_work *w)
{
    mabn_work_next(w);
    grad_measure(w);
    mabn_work_channels(w, mabn_stage_reduce);
    MABN_TRY(mabn_work_sync_backward(w));
    if (w->sync_n) {
        mabn_work_channels(w, mabn_stage_backward);
        grad_apply(w);
    }
    mabn_stage_backward_finish(w, 0, w->g.channels);
    return MABN_OK;
}

/* None and frozen: dx = a·g. */
static void backward_fixed(struct mabn_work *w)
{
    mabn_work_next(w);
    mabn_stage_recall(w, 0, w->g.channels);
    memcpy(mabn_work_wide(w, 0, AT_P), mabn_work_wide(w, 0, AT_A),
           (size_t)w->g.width * sizeof(float));
    mabn_work_grad_apply(w, false);
}

mabn_status mabn_norm_cpu_backward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    struct mabn_work w;

    mabn_work_init(&w, norm, io);
    if (!mabn_norm_measures(norm->options.kind)) {
        backward_fixed(&w);
        return MABN_OK;
    }
    if (norm->options.kind == MABN_NORM_SYNCBN) return backward_sync(&w);
    const int threads = run_threads(&w);
    if (threads)
        for_runs(&w, threads, grad_measure_and_derive, backward_in_order, grad_apply);
    else
        while (mabn_work_next(&w)) {
            grad_measure(&w);
            mabn_work_channels(&w, reduce_and_backward);
            grad_apply(&w);
        }
    mabn_stage_backward_finish(&w, 0, norm->channels);
    return MABN_OK;
}
