/* The normalization engine on the GPU: which kernels a call launches, on which memory.
 *
 *     forward              moments, coefficients, apply
 *     forward, known       apply with Σx², coefficients (and y again where a run was clipped)
 *     forward, joined      coefficients (likewise); not known: coefficients, apply
 *     forward over shards  moments, this shard's sums, the group's, coefficients, apply
 *     backward             gradient moments, gradients, gradient apply
 *     backward, joined     gradients, gradient apply; MABN: the latter with Σ dy, dbeta
 *     backward over shards gradient moments, this shard's sums, the group's, gradients, gradient apply
 *     inference            affine, apply; norms over a sample as forward
 *
 * FRN and EvoNorm-S0 have kernels of their own (act_cuda.cu).
 *
 * GN, LN and IN are one launch where a sample's groups fit into shared memory; backward then needs a
 * second, small one for dgamma and dbeta. */
#include "norm/norm_cuda.h"

#include "device/pack.cuh"
#include "norm/coefficients.cuh"
#include "norm/kernels.cuh"

namespace
{

struct call {
    const struct mabn_norm *norm;
    const struct mabn_norm_cuda_io *io;
    struct mabn_cuda_rows rows;
    struct mabn_cuda_work work;
    float *sum, *square; /* the work's, to be written */
    double *places;      /* (groups)(2C+2) of SyncBN over shards */
    cudaStream_t stream;
};

size_t align64(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

struct layout {
    size_t sum, square, first, stat0, stat1, known, grad, places, saved, bytes;
};

/* Is it SyncBN over several shards? */
bool syncs(const struct mabn_norm *norm)
{
    return norm->options.kind == MABN_NORM_SYNCBN && norm->sync;
}

size_t places_bytes(const struct mabn_norm *norm)
{
    const size_t count = 2 * (size_t)norm->channels + 2;
    return syncs(norm) ? align64((size_t)norm->sync->groups * count * sizeof(double)) : 0;
}

/* partials: partial sums of a channel, over all runs. */
struct layout scratch_layout(const struct mabn_norm *norm, int64_t samples, int64_t partials)
{
    const size_t c = (size_t)norm->channels, rc = (size_t)mabn_norm_runs(norm, samples) * c;
    struct layout l;

    l.sum = 0;
    l.square = l.sum + align64((size_t)partials * c * sizeof(float));
    l.first = l.square + align64((size_t)partials * c * sizeof(float));
    l.stat0 = l.first + align64(rc * sizeof(float));
    l.stat1 = l.stat0 + align64(rc * sizeof(double));
    l.known = l.stat1 + align64(rc * sizeof(double));
    l.grad = l.known + 2 * align64(c * sizeof(float));
    l.places = l.grad + 3 * align64(rc * sizeof(float));
    l.saved = l.places + places_bytes(norm);
    l.bytes = l.saved + mabn_norm_saved_bytes(norm, samples);
    return l;
}

struct mabn_cuda_rows rows_of(const struct mabn_norm *norm, int64_t samples, int64_t positions,
                              enum mabn_dtype dtype)
{
    struct mabn_cuda_rows r;
    r.rows = samples * positions;
    r.run_rows = mabn_norm_run_samples(norm, samples) * positions;
    r.runs = mabn_norm_runs(norm, samples);
    r.channels = norm->channels;
    r.dtype = dtype;
    r.wide = false;
    r.live = NULL;
    r.positions = positions;
    return r;
}

bool over_sample(enum mabn_norm_kind kind)
{
    return kind == MABN_NORM_GN || kind == MABN_NORM_LN || kind == MABN_NORM_IN;
}

/* Are statistics over the batch? Only those depend on which samples are live. */
bool over_batch(const struct mabn_norm *norm)
{
    const enum mabn_norm_kind kind = norm->options.kind;
    return mabn_norm_measures(kind) && !over_sample(kind) && !mabn_norm_act_name(kind);
}

void call_init(struct call *c, const struct mabn_norm *norm, const struct mabn_norm_cuda_io *io)
{
    struct mabn_cuda_work *w = &c->work;
    char *p = static_cast<char *>(io->scratch);
    const void *all[] = {io->x,     io->residual, io->y,    io->dy,       io->dx,
                         io->saved, io->gamma,    io->beta, io->dresidual};

    *c = {};
    c->norm = norm;
    c->io = io;
    c->stream = static_cast<cudaStream_t>(io->stream);
    c->rows = rows_of(norm, io->samples, io->positions, io->dtype);
    c->rows.wide = mabn_pack_fits(io->dtype, norm->channels, all, sizeof all / sizeof *all);

    if (over_batch(norm)) c->rows.live = w->live = io->live;
    w->positions = io->positions;
    w->o = norm->options;
    mabn_norm_state_view(&w->state, norm, io->state);
    w->gamma = io->gamma;
    w->beta = io->beta;
    w->runs = c->rows.runs;
    w->run_rows = c->rows.run_rows;
    w->rows = c->rows.rows;
    w->run_samples = mabn_norm_run_samples(norm, io->samples);
    w->samples = io->samples;
    w->channels = norm->channels;
    w->chunks = c->rows.rows ? mabn_cuda_chunks(&c->rows) : 0;
    w->dgamma = io->dgamma;
    w->dbeta = io->dbeta;
    w->act = io->act;
    w->dact = io->dact;
    w->accumulate = io->accumulate;
    w->scaler = io->scaler;

    const struct layout l = scratch_layout(norm, io->samples, w->runs * w->chunks);
    const size_t one = (l.places - l.grad) / 3;
    w->sum = c->sum = reinterpret_cast<float *>(p + l.sum);
    w->square = c->square = reinterpret_cast<float *>(p + l.square);
    w->first = reinterpret_cast<float *>(p + l.first);
    w->stat0 = reinterpret_cast<double *>(p + l.stat0);
    w->stat1 = reinterpret_cast<double *>(p + l.stat1);
    w->known_a = reinterpret_cast<float *>(p + l.known);
    w->known_b = reinterpret_cast<float *>(p + l.known + (l.grad - l.known) / 2);
    w->p = reinterpret_cast<float *>(p + l.grad);
    w->q = reinterpret_cast<float *>(p + l.grad + one);
    w->r = reinterpret_cast<float *>(p + l.grad + 2 * one);
    c->places = reinterpret_cast<double *>(p + l.places);
    w->sums = c->places + (syncs(norm) ? norm->sync->mine * (2 * (size_t)norm->channels + 2) : 0);
    /* Inference has no saved block; norms over a sample use scratch in its place. */
    mabn_norm_saved_view(&w->saved, norm, io->saved ? io->saved : p + l.saved, io->samples);
}

mabn_status check(const struct mabn_norm *norm, const struct mabn_norm_cuda_io *io)
{
    if (io->samples < 0 || io->positions < 0) return mabn_fail(MABN_ERR_ARG, "norm: negative size");
    if (mabn_norm_has_affine(norm->options.kind) && (!io->gamma || !io->beta))
        return mabn_fail(MABN_ERR_ARG, "norm: gamma and beta are missing");
    if (mabn_norm_state_bytes(norm) && !io->state)
        return mabn_fail(MABN_ERR_ARG, "norm: state is missing");
    if (norm->options.kind == MABN_NORM_EVONORM_S0 && io->act && (io->residual || io->dresidual))
        return mabn_fail(MABN_ERR_ARG, "norm: EvoNorm-S0's activation takes no residual");
    if (norm->options.kind == MABN_NORM_FRN && io->act && !io->relu)
        return mabn_fail(MABN_ERR_ARG, "norm: FRN's tau needs relu");
    if (norm->sync && !norm->sync->queue)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "norm: these shards cannot add up sums on a GPU");
    return MABN_OK;
}

mabn_status check_join(const struct mabn_norm *norm, int64_t samples)
{
    if (mabn_norm_cuda_can_join(norm, samples)) return MABN_OK;
    return mabn_fail(
        MABN_ERR_ARG,
        "norm: only BN, BRN, SyncBN and MABN of one run join with convolutions, not %s "
        "of %lld",
        mabn_norm_kind_name(norm->options.kind), (long long)mabn_norm_runs(norm, samples));
}

/* Are moments taken about the mean, not about 0? */
bool centres(enum mabn_norm_kind kind)
{
    return kind != MABN_NORM_MABN;
}

mabn_status check_joined_forward(const struct mabn_norm *norm, const struct mabn_norm_cuda_io *io)
{
    MABN_TRY(check_join(norm, io->samples));
    if (!io->square || (centres(norm->options.kind) && !io->sum))
        return mabn_fail(MABN_ERR_ARG, "norm: a joined forward lacks one of its sums");
    if (!io->known) return MABN_OK;
    if (norm->options.kind != MABN_NORM_MABN)
        return mabn_fail(MABN_ERR_ARG, "norm: %s is never known ahead",
                         mabn_norm_kind_name(norm->options.kind));
    if (!io->y || io->y == io->residual)
        return mabn_fail(MABN_ERR_ARG, "norm: a joined forward needs y, and not over residual");
    return MABN_OK;
}

struct mabn_cuda_counter counter_of(const struct call *c)
{
    const struct mabn_norm_state *s = &c->work.state;
    struct mabn_cuda_counter counter = {s->iters_f32, s->iters ? s->iters : s->batches,
                                        c->work.samples, 0};
    if (s->iters) counter.run_samples = c->work.run_samples;
    return counter;
}

/* y = a·x + b; `stride`: floats from a run's coefficients to the next run's. */
struct mabn_cuda_apply_in apply_in(const struct call *c, const float *a, const float *b,
                                   int64_t stride)
{
    struct mabn_cuda_apply_in in = {};
    in.y = c->io->y;
    in.x = c->io->x;
    in.residual = c->io->residual;
    in.affine.a = a;
    in.affine.b = b;
    in.affine.stride = stride;
    in.relu = c->io->relu;
    return in;
}

mabn_status apply_saved(const struct call *c, struct mabn_cuda_counter counter)
{
    const struct mabn_norm_saved *s = &c->work.saved;
    struct mabn_cuda_apply_in in = apply_in(c, s->a, s->b, c->work.channels);
    in.counter = counter;
    return mabn_cuda_apply(&in, &c->rows, c->stream);
}

struct mabn_cuda_repair repair_of(const struct call *c)
{
    const struct mabn_norm_cuda_io *io = c->io;
    return {io->y, io->x, io->residual, io->dtype, io->relu};
}

mabn_status forward_known(struct call *c)
{
    struct mabn_cuda_work *w = &c->work;
    struct mabn_cuda_apply_in in = apply_in(c, NULL, NULL, 0);
    const struct mabn_cuda_known known = {w->gamma, w->beta, w->state.running_var, w->o.eps};

    w->repair = repair_of(c);
    in.counter = counter_of(c);
    MABN_TRY(mabn_cuda_apply_known(&in, &known, c->square, &c->rows, c->stream));
    return mabn_cuda_coefficients(w, c->stream);
}

/* The convolution has computed the sums of the whole run and, if the map was known, has written
 * y. */
mabn_status forward_joined(struct call *c)
{
    struct mabn_cuda_work *w = &c->work;

    w->sum = centres(w->o.kind) ? c->io->sum : NULL;
    w->square = c->io->square;
    w->chunks = 1;
    if (c->io->known) {
        w->repair = repair_of(c);
        return mabn_cuda_coefficients(w, c->stream);
    }
    if (centres(w->o.kind)) w->given = {c->io->x, NULL, c->io->dtype};
    w->uncounted = 1;
    MABN_TRY(mabn_cuda_coefficients(w, c->stream));
    return apply_saved(c, counter_of(c));
}

mabn_status measure_and_apply(struct call *c)
{
    const struct mabn_cuda_work *w = &c->work;
    const struct mabn_cuda_apply_in in = apply_in(c, NULL, NULL, 0);
    bool done = false;

    if (mabn_norm_act_name(c->norm->options.kind))
        return mabn_cuda_act_forward(w, &in, &c->rows, false, c->stream);
    if (over_sample(c->norm->options.kind))
        MABN_TRY(mabn_cuda_sample_forward(&done, w, &in, &c->rows, c->stream));
    if (done) return MABN_OK;
    if (c->norm->options.kind == MABN_NORM_MABN)
        MABN_TRY(mabn_cuda_square(c->square, c->io->x, counter_of(c), &c->rows, c->stream));
    else
        MABN_TRY(mabn_cuda_moments(c->sum, c->square, w->first, c->io->x, counter_of(c), &c->rows,
                                   c->stream));
    MABN_TRY(mabn_cuda_coefficients(w, c->stream));
    return apply_saved(c, {});
}

/* ---- SyncBN over shards ---- */

bool empty(const struct call *c)
{
    return !c->io->samples || !c->io->positions;
}

/* Zeros for the other groups, and for a shard without rows. */
mabn_status clear_places(const struct call *c)
{
    MABN_CUDA_TRY(cudaMemsetAsync(c->places, 0, places_bytes(c->norm), c->stream));
    return MABN_OK;
}

mabn_status add_places(const struct call *c)
{
    const struct mabn_norm_sync *sync = c->norm->sync;
    return sync->queue(sync->context, c->places, 2 * (size_t)c->norm->channels + 2);
}

mabn_status forward_sync(struct call *c)
{
    struct mabn_cuda_work *w = &c->work;
    MABN_TRY(clear_places(c));
    if (!empty(c)) {
        MABN_TRY(mabn_cuda_moments(c->sum, c->square, w->first, c->io->x, {}, &c->rows, c->stream));
        MABN_TRY(mabn_cuda_sync_moments(w, c->stream));
    }
    MABN_TRY(add_places(c));
    w->uncounted = 1;
    MABN_TRY(mabn_cuda_sync_coefficients(w, c->stream));
    return empty(c) ? MABN_OK : apply_saved(c, {});
}

/* As on the CPU: under the iteration rule each of several runs updates running_var. */
bool knows_affine(const struct call *c)
{
    const struct mabn_norm_options *o = &c->norm->options;
    return c->io->known && !c->io->live && o->kind == MABN_NORM_MABN &&
           c->io->y != c->io->residual &&
           (o->window_rule == MABN_WINDOW_SUBBATCH || c->work.runs == 1);
}

/* ---- backward ---- */

mabn_status check_backward(const struct mabn_norm_cuda_io *io)
{
    if (io->relu && !io->y && io->dresidual)
        return mabn_fail(MABN_ERR_ARG, "norm: backward through ReLU with a residual needs y");
    if (io->dresidual && io->dresidual == io->dx)
        return mabn_fail(MABN_ERR_ARG, "norm: dresidual and dx must differ");
    return MABN_OK;
}

mabn_status check_joined_backward(const struct mabn_norm *norm, const struct mabn_norm_cuda_io *io)
{
    MABN_TRY(check_join(norm, io->samples));
    if (!io->dot || (centres(norm->options.kind) && !io->dsum))
        return mabn_fail(MABN_ERR_ARG, "norm: a joined backward lacks one of its sums");
    if (io->dresidual && io->dresidual != io->dy)
        return mabn_fail(MABN_ERR_ARG, "norm: a joined backward's dresidual is dy or nothing");
    if (io->dresidual && io->dresidual == io->dx)
        return mabn_fail(MABN_ERR_ARG, "norm: dresidual and dx must differ");
    return MABN_OK;
}

struct mabn_cuda_grad grad_of(const struct call *c)
{
    const struct mabn_norm_cuda_io *io = c->io;
    const struct mabn_norm_saved *saved = &c->work.saved;
    struct mabn_cuda_grad in = {};

    in.dy = io->dy;
    in.y = io->y;
    in.mask = !io->relu ? MABN_MASK_NONE : io->y ? MABN_MASK_Y : MABN_MASK_X;
    /* Norms without statistics read x only for the mask. */
    in.x = in.mask == MABN_MASK_X || mabn_norm_measures(c->norm->options.kind) ? io->x : io->dy;
    in.affine.a = saved->a;
    in.affine.b = saved->b;
    in.affine.stride = c->work.channels;
    return in;
}

/* Where the residual's gradient is needed, the first pass writes it, and the second starts from it
 * and does not read y again. */
mabn_status backward_measured(const struct call *c, struct mabn_cuda_grad *in)
{
    const struct mabn_cuda_work *w = &c->work;
    const bool centred = centres(w->o.kind);
    void *dresidual = c->io->dresidual;
    void *masked = in->mask == MABN_MASK_Y ? dresidual : NULL;
    bool done = false;

    if (in->mask == MABN_MASK_NONE && in->dy == dresidual) dresidual = NULL; /* it is dy itself */
    if (mabn_norm_act_name(w->o.kind))
        return mabn_cuda_act_backward(c->io->dx, dresidual, w, in, &c->rows, c->stream);
    if (over_sample(w->o.kind))
        MABN_TRY(
            mabn_cuda_sample_backward(&done, c->io->dx, dresidual, w, in, &c->rows, c->stream));
    if (done) return MABN_OK;
    in->shift = centred ? w->saved.mean : NULL;
    MABN_TRY(mabn_cuda_grad_moments(c->sum, c->square, masked, in, &c->rows, c->stream));
    MABN_TRY(mabn_cuda_gradients(w, c->stream));
    if (masked) {
        in->dy = masked;
        in->mask = MABN_MASK_NONE;
        dresidual = NULL;
    }
    return mabn_cuda_grad_apply(c->io->dx, dresidual, in, w->p, w->q, centred ? w->r : NULL,
                                w->channels, &c->rows, c->stream);
}

mabn_status backward_sync(const struct call *c, struct mabn_cuda_grad *in)
{
    const struct mabn_cuda_work *w = &c->work;
    MABN_TRY(clear_places(c));
    if (!empty(c)) {
        in->shift = w->saved.mean;
        MABN_TRY(mabn_cuda_grad_moments(c->sum, c->square, NULL, in, &c->rows, c->stream));
        MABN_TRY(mabn_cuda_sync_gradients(w, c->stream));
    }
    MABN_TRY(add_places(c));
    if (empty(c)) return MABN_OK;
    MABN_TRY(mabn_cuda_sync_finish(w, c->stream));
    void *dresidual = c->io->dresidual;
    if (in->mask == MABN_MASK_NONE && in->dy == dresidual) dresidual = NULL; /* it is dy itself */
    return mabn_cuda_grad_apply(c->io->dx, dresidual, in, w->p, w->q, w->r, w->channels, &c->rows,
                                c->stream);
}

/* MABN's Σ dy is needed for dbeta alone and comes from the pass that writes dx. */
mabn_status backward_joined(const struct call *c)
{
    const struct mabn_norm_cuda_io *io = c->io;
    const bool centred = centres(c->work.o.kind);
    struct mabn_cuda_work w = c->work;
    struct mabn_cuda_grad in = {};

    in.dy = io->dy;
    in.x = io->x;
    w.sum = centred ? io->dsum : NULL;
    w.square = io->dot;
    w.chunks = 1;
    if (centred) w.given = {io->x, io->dy, io->dtype};
    MABN_TRY(mabn_cuda_gradients(&w, c->stream));
    if (centred) {
        in.shift = w.saved.mean;
        return mabn_cuda_grad_apply(io->dx, NULL, &in, w.p, w.q, w.r, w.channels, &c->rows,
                                    c->stream);
    }
    if (!io->dbeta)
        return mabn_cuda_grad_apply(io->dx, NULL, &in, w.p, w.q, NULL, w.channels, &c->rows,
                                    c->stream);
    MABN_TRY(mabn_cuda_grad_apply_sum(io->dx, c->sum, &in, w.p, w.q, &c->rows, c->stream));
    return mabn_cuda_grad_beta(&c->work, c->stream);
}

} // namespace

size_t mabn_norm_cuda_scratch_bytes(const struct mabn_norm *norm, int64_t samples,
                                    int64_t positions)
{
    const struct mabn_cuda_rows rows = rows_of(norm, samples, positions, MABN_DTYPE_F32);
    return scratch_layout(norm, samples, mabn_cuda_most_partials(&rows)).bytes;
}

mabn_status mabn_norm_cuda_forward(const struct mabn_norm *norm, const struct mabn_norm_cuda_io *io)
{
    struct call c;

    MABN_TRY(check(norm, io));
    if ((!io->samples || !io->positions) && !syncs(norm)) return MABN_OK;
    if (io->y == io->x && mabn_norm_measures(norm->options.kind))
        return mabn_fail(MABN_ERR_ARG, "norm: y must not overwrite x, which backward needs");
    const bool joined = io->sum || io->square;
    if (joined) MABN_TRY(check_joined_forward(norm, io));
    call_init(&c, norm, io);
    if (syncs(norm)) return forward_sync(&c);
    if (joined) return forward_joined(&c);
    if (!mabn_norm_measures(norm->options.kind)) {
        MABN_TRY(mabn_cuda_affine_of(c.work.saved.a, c.work.saved.b, &c.work, c.stream));
        return apply_saved(&c, {});
    }
    return knows_affine(&c) ? forward_known(&c) : measure_and_apply(&c);
}

mabn_status mabn_norm_cuda_reapply(const struct mabn_norm *norm, const struct mabn_norm_cuda_io *io)
{
    struct call c;

    MABN_TRY(check(norm, io));
    if (!io->samples || !io->positions) return MABN_OK;
    call_init(&c, norm, io);
    const struct mabn_cuda_apply_in in = apply_in(&c, NULL, NULL, 0);
    if (mabn_norm_act_name(norm->options.kind))
        return mabn_cuda_act_forward(&c.work, &in, &c.rows, true, c.stream);
    return apply_saved(&c, {});
}

mabn_status mabn_norm_cuda_backward(const struct mabn_norm *norm,
                                    const struct mabn_norm_cuda_io *io)
{
    struct call c;

    MABN_TRY(check(norm, io));
    if (!io->samples || !io->positions) {
        const size_t bytes = io->accumulate ? 0 : (size_t)norm->channels * sizeof(float);
        const cudaStream_t stream = static_cast<cudaStream_t>(io->stream);
        if (io->dgamma) MABN_CUDA_TRY(cudaMemsetAsync(io->dgamma, 0, bytes, stream));
        if (io->dbeta) MABN_CUDA_TRY(cudaMemsetAsync(io->dbeta, 0, bytes, stream));
        if (io->dact) MABN_CUDA_TRY(cudaMemsetAsync(io->dact, 0, bytes, stream));
        if (!syncs(norm)) return MABN_OK;
    }
    const bool joined = io->dsum || io->dot;
    MABN_TRY(joined ? check_joined_backward(norm, io) : check_backward(io));
    call_init(&c, norm, io);
    if (joined) return backward_joined(&c);
    struct mabn_cuda_grad in = grad_of(&c);
    if (syncs(norm)) return backward_sync(&c, &in);
    if (mabn_norm_measures(norm->options.kind)) return backward_measured(&c, &in);
    return mabn_cuda_grad_apply(io->dx, io->dresidual, &in, c.work.saved.a, NULL, NULL,
                                c.work.channels, &c.rows, c.stream);
}

mabn_status mabn_norm_cuda_infer(const struct mabn_norm *norm, const struct mabn_norm_cuda_io *io)
{
    struct mabn_norm_cuda_io call_io = *io;
    struct mabn_norm plain = *norm;
    struct call c;

    MABN_TRY(check(norm, io));
    if (!io->samples || !io->positions) return MABN_OK;
    call_io.saved = NULL;
    if (!mabn_norm_folds(norm->options.kind)) {
        call_init(&c, norm, &call_io);
        return measure_and_apply(&c);
    }
    plain.options.norm_batch = 0; /* one run of everything */
    call_init(&c, &plain, &call_io);
    MABN_TRY(mabn_cuda_affine_of(c.work.known_a, c.work.known_b, &c.work, c.stream));
    const struct mabn_cuda_apply_in in = apply_in(&c, c.work.known_a, c.work.known_b, 0);
    return mabn_cuda_apply(&in, &c.rows, c.stream);
}

/* ---- joining ---- */

bool mabn_norm_cuda_can_join(const struct mabn_norm *norm, int64_t samples)
{
    switch (norm->options.kind) {
    case MABN_NORM_BN:
    case MABN_NORM_BRN:
    case MABN_NORM_SYNCBN:
    case MABN_NORM_MABN:
        return mabn_norm_runs(norm, samples) == 1 && !syncs(norm);
    default:
        return false;
    }
}

mabn_status mabn_norm_cuda_join_init(struct mabn_norm_cuda_join *join, const struct mabn_norm *norm,
                                     void *state, const float *gamma, const float *beta, float *a,
                                     float *b)
{
    struct mabn_norm_state s;

    if (norm->options.kind != MABN_NORM_MABN)
        return mabn_fail(MABN_ERR_ARG, "norm: only MABN is known ahead, not %s",
                         mabn_norm_kind_name(norm->options.kind));
    mabn_norm_state_view(&s, norm, state);
    *join = {};
    join->gamma = gamma;
    join->beta = beta;
    join->running_var = s.running_var;
    join->a = a;
    join->b = b;
    join->iters_f32 = s.iters_f32;
    join->iters = s.iters;
    join->eps = norm->options.eps;
    join->channels = norm->channels;
    return MABN_OK;
}

void mabn_norm_cuda_saved_affine(const struct mabn_norm *norm, const void *saved, int64_t samples,
                                 const float **a, const float **b)
{
    struct mabn_norm_saved view;

    mabn_norm_saved_view(&view, norm, const_cast<void *>(saved), samples);
    *a = view.a;
    *b = view.b;
}
