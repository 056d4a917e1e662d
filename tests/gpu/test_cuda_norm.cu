/* The normalization engine on the GPU, compared with the CPU: all norms, all element types, ReLU
 * and residual, groups with a short last run, and several steps, so that windows, counters and
 * running averages advance. */
#include <algorithm>
#include <memory>

#include "device/pack.cuh"
#include "harness.h"
#include "joined.h"
#include "norm/coefficients.h"
#include "norm/internal.h"
#include "norm/kernels.cuh"
#include "norm/norm.h"
#include "norm/norm_cuda.h"
#include "ops/ops_cuda.h"

struct shape {
    int64_t samples, positions;
    int channels, norm_batch;
};

struct mode {
    bool relu, residual, known;
};

/* One layer, on host and device. */
struct layer {
    struct mabn_norm norm;
    struct shape shape;
    enum mabn_dtype dtype;
    std::vector<float> gamma, beta, act;
    std::vector<char> state;
    std::vector<char> saved, scratch;
    std::vector<float> y, dx, dresidual, dgamma, dbeta, dact;

    layer(const struct mabn_norm_options &o, const struct shape &s, enum mabn_dtype type)
        : shape(s), dtype(type)
    {
        struct mabn_norm_options options = o;
        options.norm_batch = s.norm_batch;
        if (mabn_norm_init(&norm, &options, s.channels)) MABN_BUG("%s", mabn_error_message());
        gamma = gpu_random((size_t)s.channels, 1, MABN_DTYPE_F32, 1, 0.3);
        beta = gpu_random((size_t)s.channels, 2, MABN_DTYPE_F32, 0, 0.3);
        const bool frn = norm.options.kind == MABN_NORM_FRN;
        act = gpu_random((size_t)s.channels, 3, type, frn ? -0.1 : 1, 0.3);
        state.resize(mabn_norm_state_bytes(&norm) + 64);
        mabn_norm_state_reset(&norm, state.data());
        saved.resize(mabn_norm_saved_bytes(&norm, s.samples));
        scratch.resize(mabn_norm_scratch_bytes(&norm, s.samples, s.positions));
        const size_t n = values();
        y.resize(n);
        dx.resize(n);
        dresidual.resize(n);
        dgamma.resize((size_t)s.channels);
        dbeta.resize((size_t)s.channels);
        dact.resize((size_t)s.channels);
    }
    bool acts(const struct mode &m) const
    {
        const enum mabn_norm_kind kind = norm.options.kind;
        return m.relu && mabn_norm_act_name(kind) && (kind != MABN_NORM_EVONORM_S0 || !m.residual);
    }
    size_t values() const
    {
        return (size_t)(shape.samples * shape.positions * shape.channels);
    }
};

/* One layer's device side. */
struct side {
    gpu_values<char> state;
    gpu_bytes saved, scratch;
    gpu_array y, dx;
    gpu_values<float> dgamma, dbeta;
    struct mabn_norm_cuda_io io = {};

    side(const struct layer &l, const gpu_values<float> &gamma, const gpu_values<float> &beta,
         bool relu)
        : state(l.state), saved(l.saved.size()),
          scratch(mabn_norm_cuda_scratch_bytes(&l.norm, l.shape.samples, l.shape.positions)),
          y(l.values(), l.dtype), dx(l.values(), l.dtype), dgamma(l.dgamma), dbeta(l.dbeta)
    {
        io.samples = l.shape.samples;
        io.positions = l.shape.positions;
        io.dtype = l.dtype;
        io.relu = relu;
        io.gamma = gamma.at();
        io.beta = beta.at();
        io.state = state.p;
        io.saved = saved.p;
        io.scratch = scratch.p;
        io.dx = dx.p;
        io.dgamma = dgamma.at();
        io.dbeta = dbeta.at();
    }
};

static const char *describe(const struct layer &l, const struct mode &m)
{
    static char text[160];
    snprintf(text, sizeof text, "%s%s %s: %dx%dx%d by %d%s%s%s",
             mabn_norm_kind_name(l.norm.options.kind),
             l.norm.options.kind != MABN_NORM_MABN                 ? ""
             : l.norm.options.window_rule == MABN_WINDOW_ITERATION ? " iteration"
                                                                   : " subbatch",
             mabn_dtype_name(l.dtype), (int)l.shape.samples, (int)l.shape.positions,
             l.shape.channels, l.shape.norm_batch, m.relu ? " relu" : "",
             m.residual ? " residual" : "", m.known ? " known" : "");
    return text;
}

static struct mabn_norm_io cpu_io(struct layer &l, const struct mode &m, const float *x,
                                  const float *residual, const float *dy)
{
    struct mabn_norm_io io = {};
    io.samples = l.shape.samples;
    io.positions = l.shape.positions;
    io.relu = m.relu;
    io.gamma = l.gamma.data();
    io.beta = l.beta.data();
    io.state = l.state.data();
    io.saved = l.saved.data();
    io.scratch = l.scratch.data();
    io.x = x;
    io.residual = m.residual ? residual : NULL;
    io.y = l.y.data();
    io.dy = dy;
    io.dx = l.dx.data();
    io.dresidual = m.residual ? l.dresidual.data() : NULL;
    io.dgamma = l.dgamma.data();
    io.dbeta = l.dbeta.data();
    if (l.acts(m)) {
        io.act = l.act.data();
        io.dact = l.dact.data();
    }
    return io;
}

static void compare_state(struct gpu_verdict *verdict, const struct layer &l,
                          const std::vector<char> &device)
{
    struct mabn_norm_tensor host_list[MABN_NORM_MAX_TENSORS], device_list[MABN_NORM_MAX_TENSORS];
    const int count = mabn_norm_state_list(&l.norm, (void *)l.state.data(), host_list);
    mabn_norm_state_list(&l.norm, (void *)device.data(), device_list);
    for (int i = 0; i < count; i++) {
        const size_t n = host_list[i].bytes / 4;
        const float *want = (const float *)host_list[i].data;
        const float *got = (const float *)device_list[i].data;
        if (host_list[i].dtype == MABN_NORM_I64)
            verdict->add(host_list[i].name, memcmp(got, want, host_list[i].bytes) ? 1 : 0, 0);
        else
            verdict->add(host_list[i].name, std::vector<float>(got, got + n),
                         std::vector<float>(want, want + n), 1e-5);
    }
}

/* Before step `step` (from 0). */
static int64_t calls_until_known(const struct layer &l, int step)
{
    const struct mabn_norm_options &o = l.norm.options;
    const bool one_run = l.shape.norm_batch == 0 || l.shape.norm_batch >= l.shape.samples;

    if (o.kind != MABN_NORM_MABN) return -1;
    if (o.window_rule == MABN_WINDOW_ITERATION && !one_run) return -1;
    return std::max(0, o.r_start - 1 - step);
}

/* A layer's steps: forward, reapply, backward, state; then inference. */
static void run(const struct mabn_norm_options &options, const struct shape &s,
                enum mabn_dtype dtype, const struct mode &m, int steps)
{
    struct layer l(options, s, dtype);
    struct gpu_verdict verdict;
    const size_t n = l.values();
    const double tolerance = gpu_tolerance(dtype);
    gpu_values<float> gamma(l.gamma), beta(l.beta), act(l.act), dact(l.dact);
    struct side got(l, gamma, beta, m.relu);
    gpu_array again(n, dtype), dresidual(n, dtype);
    const gpu_array &y = got.y, &dx = got.dx;
    struct mabn_norm_cuda_io &io = got.io;

    io.act = l.acts(m) ? act.at() : NULL;
    io.dact = l.acts(m) ? dact.at() : NULL;
    for (int step = 0; step < steps; step++) {
        /* The last step's input is an outlier: r is clipped. */
        const double size = step == steps - 1 ? 12 : 1;
        const std::vector<float> x = gpu_random(n, 10 + step, dtype, 0.4 * size, size);
        const std::vector<float> residual = gpu_random(n, 30 + step, dtype, 0, 1);
        const std::vector<float> dy = gpu_random(n, 50 + step, dtype, 0, 1);
        gpu_array gpu_x(x, dtype), gpu_residual(residual, dtype), gpu_dy(dy, dtype);
        struct mabn_norm_io cpu = cpu_io(l, m, x.data(), residual.data(), dy.data());

        gpu_order(step);
        const int64_t until = mabn_norm_calls_until_known(&l.norm, l.state.data(), s.samples);
        verdict.add("calls until known", until != calls_until_known(l, step), 0);
        io.known = m.known && until == 0;
        io.x = gpu_x.p;
        io.residual = m.residual ? gpu_residual.p : NULL;
        io.y = y.p;
        io.dy = gpu_dy.p;
        /* In place in every second step. */
        const gpu_array &to = step % 2 ? gpu_dy : m.residual ? dresidual : dx;
        io.dx = m.residual ? dx.p : to.p;
        io.dresidual = m.residual ? to.p : NULL;
        io.accumulate = cpu.accumulate = step % 2;
        if (mabn_norm_forward(&l.norm, &cpu)) MABN_BUG("%s", mabn_error_message());
        if (mabn_norm_cuda_forward(&l.norm, &io)) verdict.add(mabn_error_message(), 1, 0);
        verdict.add("y", y.values(), l.y, tolerance);
        /* FRN's mask: a value just above tau is rounded to tau. */
        if (l.acts(m)) {
            const std::vector<float> held = gpu_array(l.y, dtype).values();
            std::copy(held.begin(), held.end(), l.y.begin());
        }
        io.y = again.p;
        if (mabn_norm_cuda_reapply(&l.norm, &io)) verdict.add(mabn_error_message(), 1, 0);
        verdict.add("y again", again.values(), y.values(), 0);
        if (!m.residual) cpu.y = NULL; /* the mask is recomputed */
        io.y = m.residual ? y.p : NULL;
        if (mabn_norm_backward(&l.norm, &cpu)) MABN_BUG("%s", mabn_error_message());
        if (mabn_norm_cuda_backward(&l.norm, &io)) verdict.add(mabn_error_message(), 1, 0);
        verdict.add("dx", m.residual ? dx.values() : to.values(), l.dx, tolerance);
        if (m.residual) verdict.add("dresidual", to.values(), l.dresidual, tolerance);
        if (mabn_norm_trains(options.kind)) {
            verdict.add("dgamma", got.dgamma.values(), l.dgamma, 3e-5);
            verdict.add("dbeta", got.dbeta.values(), l.dbeta, 3e-5);
        }
        if (l.acts(m)) verdict.add("dact", dact.values(), l.dact, 3e-5);
        compare_state(&verdict, l, got.state.values());

        if (step + 1 < steps) continue;
        cpu.y = l.y.data();
        io.y = y.p;
        if (mabn_norm_infer(&l.norm, &cpu)) MABN_BUG("%s", mabn_error_message());
        if (mabn_norm_cuda_infer(&l.norm, &io)) verdict.add(mabn_error_message(), 1, 0);
        verdict.add("inference", y.values(), l.y, tolerance);
    }
    gpu_order(0);
    verdict.print(describe(l, m));
}

static struct mabn_norm_options options_of(enum mabn_norm_kind kind, enum mabn_window_rule rule)
{
    struct mabn_norm_options o;
    mabn_norm_options_init(&o, kind);
    o.window_rule = rule;
    o.window = 3;
    o.warmup = 2;
    o.r_start = kind == MABN_NORM_MABN ? 4 : 0;
    o.lambda = 1.5;
    o.momentum = 0.7;
    o.ramp_start = 0;
    o.r_ramp_end = o.d_ramp_end = 3;
    return o;
}

static void test_kind(enum mabn_norm_kind kind, enum mabn_window_rule rule)
{
    /* Odd numbers of channels (no vectors), vectors that do not fill a tile, several tiles and
     * chunks, and several tiles of whole groups. */
    static const struct shape shapes[] = {{5, 7, 5, 2},   {4, 3, 24, 2}, {3, 130, 40, 0},
                                          {7, 5, 136, 3}, {1, 9, 8, 1},  {2, 33, 64, 0}};
    static const struct mode modes[] = {
        {true, false, false}, {true, true, false}, {false, true, true}, {true, false, true}};
    const enum mabn_dtype types[] = {MABN_DTYPE_F32, MABN_DTYPE_BF16, MABN_DTYPE_F16};

    for (int i = 0; i < 18; i++) {
        struct mabn_norm_options o = options_of(kind, rule);
        const struct shape s = shapes[i / 3];
        struct mode m = modes[(i / 3 + i) % 4];
        if (kind != MABN_NORM_MABN) m.known = false;
        o.groups = s.channels % 8 ? 1 : 8;
        run(o, s, types[i % 3], m, 6);
    }
}

/* Samples that fit into shared memory only in forward, and not even there. */
static void test_large_samples(void)
{
    struct mabn_norm_options o = options_of(MABN_NORM_GN, MABN_WINDOW_SUBBATCH);
    const struct mode m = {true, true, false};

    o.groups = 4;
    run(o, {1, 6600, 8, 0}, MABN_DTYPE_BF16, m, 1);
    run(o, {1, 12600, 8, 0}, MABN_DTYPE_F16, m, 1);
}

/* Gradients are multiplied by a loss scale that changes from step to step: so are the results, but
 * not the state. In the last step a gradient overflows: the window stays finite and advances. */
static void test_scaler(enum mabn_window_rule rule)
{
    const struct mabn_norm_options o = options_of(MABN_NORM_MABN, rule);
    const struct shape s = {4, 6, 8, rule == MABN_WINDOW_ITERATION ? 0 : 2};
    const enum mabn_dtype dtype = MABN_DTYPE_F16;
    struct layer l(o, s, dtype);
    const size_t n = l.values();
    gpu_values<float> gamma(l.gamma), beta(l.beta);
    struct side want(l, gamma, beta, false), got(l, gamma, beta, false);
    gpu_values<struct mabn_cuda_scaler> scaler(std::vector<struct mabn_cuda_scaler>(1));
    struct gpu_verdict verdict;

    got.io.scaler = scaler.at();
    for (int step = 0; step < 6; step++) {
        const float scale = step % 2 ? 64 : 16;
        const std::vector<float> x = gpu_random(n, 10 + step, dtype, 0.4, 1);
        std::vector<float> dy = gpu_random(n, 50 + step, dtype, 0, 1), larger = dy;
        const struct mabn_cuda_scaler now = {scale, 1 / scale, 0, 0, 0, 0, 0};
        for (float &v : larger)
            v *= scale;
        if (step == 5) larger[3] = INFINITY;
        gpu_array gpu_x(x, dtype), gpu_dy(dy, dtype), gpu_larger(larger, dtype);
        scaler.put(&now);
        want.io.dy = gpu_dy.p;
        got.io.dy = gpu_larger.p;
        for (struct side *side : {&want, &got}) {
            side->io.x = gpu_x.p;
            side->io.y = side->y.p;
            if (mabn_norm_cuda_forward(&l.norm, &side->io) ||
                mabn_norm_cuda_backward(&l.norm, &side->io))
                verdict.add(mabn_error_message(), 1, 0);
        }
        if (step == 5) break;
        std::vector<float> dx = got.dx.values();
        for (float &v : dx)
            v /= scale;
        verdict.add("dx", dx, want.dx.values(), 0);
        verdict.add("state", got.state.values() == want.state.values() ? 0 : 1, 0);
    }
    const std::vector<char> last = got.state.values();
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    const int count = mabn_norm_state_list(&l.norm, (void *)last.data(), list);
    for (int i = 0; i < count; i++)
        for (size_t j = 0; list[i].dtype == MABN_NORM_F32 && j < list[i].bytes / 4; j++)
            verdict.add("finite", !isfinite(((const float *)list[i].data)[j]), 0);
    verdict.add("overflow is seen", isfinite(got.dgamma.values()[3]), 0);
    verdict.print(rule == MABN_WINDOW_ITERATION ? "loss scaling, iteration" : "loss scaling");
}

/* ---- joined with convolutions ---- */

/* A graph contains a launch with much shared memory. The same kernel, launched with little
 * afterwards, must not lower the graph's limit. */
static void test_large_then_small(void)
{
    struct mabn_norm_options o = options_of(MABN_NORM_GN, MABN_WINDOW_SUBBATCH);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec = NULL;
    o.groups = 4;
    struct layer large(o, {1, 6600, 8, 0}, MABN_DTYPE_BF16), small(o, {1, 10, 8, 0}, large.dtype);
    const gpu_values<float> gamma(large.gamma), beta(large.beta);
    struct side a(large, gamma, beta, true), b(small, gamma, beta, true);
    const gpu_array x(gpu_random(large.values(), 10, large.dtype, 0, 1), large.dtype);

    gpu_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    for (struct side *side : {&a, &b}) {
        side->io.stream = stream;
        side->io.x = x.p;
        side->io.y = side->y.p;
    }
    gpu_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "a capture");
    const mabn_status status = mabn_norm_cuda_forward(&large.norm, &a.io);
    gpu_check(cudaStreamEndCapture(stream, &graph), "its end");
    tap_status(status, "a large sample is captured");
    tap_status(mabn_norm_cuda_forward(&small.norm, &b.io), "a small one runs");
    gpu_check(cudaGraphInstantiate(&exec, graph, 0), "a graph");
    const cudaError_t error = cudaGraphLaunch(exec, stream);
    tap_ok(error == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess,
           "the graph of the large one runs after it: %s", cudaGetErrorString(error));
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}

/* A step of the side that is not joined, as at the end of a block: dy becomes dresidual, if there
 * is one. */
static void plain_step(struct gpu_verdict *verdict, struct side *s, const struct mabn_norm *norm,
                       const gpu_array &dy)
{
    s->io.y = s->y.p;
    s->io.dy = dy.p;
    s->io.dresidual = s->io.residual ? dy.p : NULL;
    if (mabn_norm_cuda_forward(norm, &s->io)) verdict->add(mabn_error_message(), 1, 0);
    if (!s->io.residual) s->io.y = NULL;
    if (mabn_norm_cuda_backward(norm, &s->io)) verdict->add(mabn_error_message(), 1, 0);
}

/* a·x + b from what forward saved; positive where ReLU passes the gradient. */
static std::vector<float> saved_affine(const struct layer &l, const struct side &s,
                                       const std::vector<float> &x)
{
    const size_t channels = (size_t)l.shape.channels;
    const float *at[2];
    std::vector<float> k[2], y(x.size());

    mabn_norm_cuda_saved_affine(&l.norm, s.saved.p, l.shape.samples, &at[0], &at[1]);
    for (int i = 0; i < 2; i++) {
        k[i].resize(channels);
        gpu_check(cudaMemcpy(k[i].data(), at[i], channels * sizeof(float), cudaMemcpyDeviceToHost),
                  "copy out");
    }
    for (size_t i = 0; i < x.size(); i++)
        y[i] = fmaf(k[0][i % channels], x[i], k[1][i % channels]);
    return y;
}

static void compare_sides(struct gpu_verdict *verdict, const struct layer &l,
                          const struct side &plain, const struct side &got, const gpu_array &dx,
                          double scale)
{
    const double tolerance = 2 * gpu_tolerance(l.dtype); /* both are rounded */
    std::vector<float> sums[4] = {got.dgamma.values(), plain.dgamma.values(), got.dbeta.values(),
                                  plain.dbeta.values()};
    struct layer want = l;

    for (std::vector<float> &v : sums)
        for (float &x : v)
            x = (float)(x / scale);
    want.state = plain.state.values();
    verdict->add("y", got.y.values(), plain.y.values(), tolerance);
    verdict->add("dx", dx.values(), plain.dx.values(), tolerance);
    verdict->add("dgamma", sums[0], sums[1], 3e-5);
    verdict->add("dbeta", sums[2], sums[3], 3e-5);
    compare_state(verdict, want, got.state.values());
}

/* How many passes over x or dy measured. */
static uint64_t measuring_passes(void)
{
    return gpu_launches("moments_kernel") + gpu_launches("grad_moments_kernel");
}

/* One layer alone and joined: first its batch is measured, and from some call on MABN's y is known.
 * Outliers in two steps cause r to be clipped while the window holds them. */
static void run_joined(const struct mabn_norm_options &options, const struct shape &s,
                       enum mabn_dtype dtype, const struct mode &m)
{
    struct layer l(options, s, dtype);
    const size_t n = l.values();
    const float scale = dtype == MABN_DTYPE_F16 ? 64 : 1;
    gpu_values<float> gamma(l.gamma), beta(l.beta);
    struct side plain(l, gamma, beta, m.relu), got(l, gamma, beta, m.relu);
    const struct joined join(&l.norm, got.io);
    gpu_values<struct mabn_cuda_scaler> scaler({{scale, 1 / scale, 0, 0, 0, 0, 0}});
    struct gpu_verdict verdict;
    const bool mabn = options.kind == MABN_NORM_MABN;
    int clipped = 0, not_clipped = 0;

    for (int step = 0; step < 11; step++) {
        const double size = step == 5 || step == 6 ? 12 : 1;
        const std::vector<float> x = gpu_random(n, 10 + step, dtype, 0.4 * size, size);
        const std::vector<float> add = gpu_random(m.residual ? n : 0, 30 + step, dtype, 0, 1);
        std::vector<float> dy = gpu_random(n, 50 + step, dtype, 0, scale);
        gpu_array gpu_x(x, dtype), residual(add, dtype), gpu_dy(dy, dtype), g(n, dtype);

        gpu_order(step);
        for (struct side *side : {&plain, &got}) {
            side->io.known = mabn && step >= 3; /* r_start is 4 */
            side->io.x = gpu_x.p;
            side->io.residual = m.residual ? residual.p : NULL;
            side->io.dbeta = step == 7 ? NULL : side->dbeta.at();
            side->io.accumulate = step % 2;
            side->io.scaler = scale > 1 ? scaler.at() : NULL;
        }
        plain_step(&verdict, &plain, &l.norm, gpu_dy);
        const uint64_t measured = measuring_passes();
        const uint64_t applied = gpu_launches("apply_kernel");
        gpu_check(cudaMemset(got.scratch.p, 0xff, got.scratch.bytes), "memset");
        got.io.y = got.y.p;
        if (step == 1 || step == 9) { /* forward alone, backward joined */
            if (mabn_norm_cuda_forward(&l.norm, &got.io)) verdict.add(mabn_error_message(), 1, 0);
        } else if (got.io.known ? join.forward(&got.io, got.y, x, add)
                                : join.measured(&got.io, x)) {
            verdict.add(mabn_error_message(), 1, 0);
        } else {
            verdict.add("forward measures", (double)(measuring_passes() - measured), 0);
            if (got.io.known)
                verdict.add("forward applies", (double)(gpu_launches("apply_kernel") - applied), 0);
        }
        const uint64_t measured_forward = measuring_passes();
        const std::vector<float> affine = saved_affine(l, got, x);
        const std::vector<float> y = m.residual ? got.y.values() : affine;
        const gpu_array &dx = m.residual || step % 2 ? got.dx : g; /* in place in every second step
                                                                    */
        got.io.dx = dx.p;
        got.io.dresidual = m.residual ? g.p : NULL;
        gpu_check(cudaMemset(got.scratch.p, 0xff, got.scratch.bytes), "memset");
        if (join.backward(&got.io, g, x, dy, y)) verdict.add(mabn_error_message(), 1, 0);
        verdict.add("backward measures", (double)(measuring_passes() - measured_forward), 0);
        got.io.sum = got.io.square = got.io.dsum = got.io.dot = NULL;
        compare_sides(&verdict, l, plain, got, dx, scale);
        if (m.residual) verdict.add("dresidual", g.values(), gpu_dy.values(), 0);

        const std::vector<float> known = join.a.values();
        for (int c = 0; c < s.channels; c++) {
            const bool same =
                affine[c] == fmaf(known[c], x[c], l.beta[c]); /* the first row is enough */
            (same ? not_clipped : clipped)++;
        }
    }
    gpu_order(0);
    verdict.add("some runs are clipped, and some not", mabn && (!clipped || !not_clipped), 0);
    verdict.print((std::string("joined, ") + describe(l, m)).c_str());
}

static void test_joined(enum mabn_norm_kind kind, enum mabn_window_rule rule)
{
    static const struct shape shapes[] = {
        {5, 7, 5, 0}, {4, 3, 24, 4}, {3, 130, 40, 0}, {7, 50, 136, 9}, {1, 9, 8, 0}};
    static const struct mode modes[] = {{true, false, false}, {true, true, false}, {}};
    const enum mabn_dtype types[] = {MABN_DTYPE_F32, MABN_DTYPE_BF16, MABN_DTYPE_F16};

    /* BRN and SyncBN differ little from BN, so the small shapes are enough. */
    const bool all = kind == MABN_NORM_MABN || kind == MABN_NORM_BN;
    for (int i = 0; i < (all ? 15 : 6); i++)
        run_joined(options_of(kind, rule), shapes[i / 3], types[i % 3], modes[(i / 3 + i) % 3]);
}

/* Wrong sums give wrong results: no other pass measured again. */
static void test_sums_are_used(enum mabn_norm_kind kind, bool known)
{
    const struct shape s = {4, 6, 8, 0};
    struct layer l(options_of(kind, MABN_WINDOW_ITERATION), s, MABN_DTYPE_F32);
    const size_t n = l.values(), channels = 8;
    gpu_values<float> gamma(l.gamma), beta(l.beta);
    struct side right(l, gamma, beta, true), wrong(l, gamma, beta, true);
    struct joined truth(&l.norm, right.io), lie(&l.norm, wrong.io);
    const std::vector<float> x = gpu_random(n, 10, MABN_DTYPE_F32, 0.4, 1);
    const std::vector<float> dy = gpu_random(n, 11, MABN_DTYPE_F32, 0, 1);
    gpu_array gpu_x(x, MABN_DTYPE_F32), g(n, MABN_DTYPE_F32);
    struct gpu_verdict verdict;
    char what[80];

    lie.errors = {1, 3, 1, 1}; /* of 2·x; and of 2·dy */
    for (struct side *side : {&right, &wrong}) {
        const struct joined &join = side == &right ? truth : lie;
        side->io.x = gpu_x.p;
        side->io.y = side->y.p;
        if (known ? join.forward(&side->io, side->y, x, {}) : join.measured(&side->io, x))
            verdict.add(mabn_error_message(), 1, 0);
    }
    /* Where y is not known ahead, it is x normalized by the moments of 2·x. */
    const std::vector<float> ones(n, 1), sum = joined_sums(x, ones, channels);
    const std::vector<float> square = joined_sums(x, x, channels), y = right.y.values();
    std::vector<float> want = y;
    for (size_t i = 0; !known && i < n; i++) {
        const size_t c = i % channels;
        const double mean = kind == MABN_NORM_MABN ? 0 : 2 * sum[c] * channels / (double)n;
        const double var = 4 * square[c] * channels / (double)n - mean * mean;
        want[i] =
            (float)fmax(0, l.gamma[c] * (x[i] - mean) / sqrt(var + l.norm.options.eps) + l.beta[c]);
    }
    if (!known && kind != MABN_NORM_BRN) verdict.add("y", wrong.y.values(), want, 1e-5); /* r, d */
    verdict.add("state", right.state.values() == wrong.state.values(), 0);

    /* From here both have the same forward; backward's sums are linear. */
    const std::vector<char> saved = [&] {
        std::vector<char> bytes(right.saved.bytes);
        right.saved.get(bytes.data());
        return bytes;
    }();
    wrong.saved.put(saved.data());
    std::vector<float> sums[2];
    for (struct side *side : {&right, &wrong}) {
        const struct joined &join = side == &right ? truth : lie;
        if (join.backward(&side->io, g, x, dy, y)) verdict.add(mabn_error_message(), 1, 0);
        for (const gpu_values<float> *p : {&side->dgamma, &side->dbeta}) {
            std::vector<float> v = p->values();
            /* MABN's Σ dy comes from the pass that writes dx. */
            const bool doubled = p == &side->dgamma || kind != MABN_NORM_MABN;
            for (float &f : v)
                f *= side == &right && doubled ? 2 : 1;
            sums[side == &wrong].insert(sums[side == &wrong].end(), v.begin(), v.end());
        }
    }
    verdict.add("dgamma and dbeta", sums[1], sums[0], 1e-5);
    verdict.add("dx", wrong.dx.values() == right.dx.values(), 0);
    snprintf(what, sizeof what, "%s%s: the sums that are given decide", mabn_norm_kind_name(kind),
             known ? " known" : "");
    verdict.print(what);
}

/* Channels far from zero, and constant ones, with sums in the precision of atomics. */
static void test_cancellation(enum mabn_norm_kind kind, enum mabn_dtype dtype)
{
    const struct shape s = {4, 50, 12, 0};
    struct layer l(options_of(kind, MABN_WINDOW_SUBBATCH), s, dtype);
    const size_t n = l.values();
    gpu_values<float> gamma(l.gamma), beta(l.beta);
    struct side plain(l, gamma, beta, false), got(l, gamma, beta, false);
    struct joined join(&l.norm, got.io);
    /* Mean and deviation by channel; the first two are not measured again. */
    static const double means[] = {0.5, 20, 60, 2000}, deviations[] = {1, 1, 1, 0};
    static const double tolerances[] = {1e-5, 5e-3, 1e-4, 1e-4};
    std::vector<float> x = gpu_random(n, 10, dtype, 0, 1);
    const std::vector<float> dy = gpu_random(n, 11, dtype, 0, 1);
    struct gpu_verdict verdict;
    char what[80];

    for (size_t i = 0; i < n; i++)
        x[i] = gpu_round((float)(means[i % 4] + deviations[i % 4] * x[i]), dtype);
    gpu_array gpu_x(x, dtype), gpu_dy(dy, dtype), g(n, dtype);
    join.errors = {1e-6, -1e-6, 1e-6, -1e-6};
    for (struct side *side : {&plain, &got}) {
        side->io.x = gpu_x.p;
        side->io.y = side->y.p;
    }
    plain_step(&verdict, &plain, &l.norm, gpu_dy);
    gpu_check(cudaMemset(got.scratch.p, 0xff, got.scratch.bytes), "memset");
    if (join.measured(&got.io, x)) verdict.add(mabn_error_message(), 1, 0);
    gpu_check(cudaMemset(got.scratch.p, 0xff, got.scratch.bytes), "memset");
    if (join.backward(&got.io, g, x, dy, {})) verdict.add(mabn_error_message(), 1, 0);
    const std::vector<float> pairs[][2] = {{got.y.values(), plain.y.values()},
                                           {got.dx.values(), plain.dx.values()},
                                           {got.dgamma.values(), plain.dgamma.values()},
                                           {got.dbeta.values(), plain.dbeta.values()}};
    static const char *const names[] = {"y", "dx", "dgamma", "dbeta"};
    for (int k = 0; k < 4; k++)
        for (size_t c = 0; c < 4; c++) {
            std::vector<float> a, b;
            for (size_t i = c; i < pairs[k][0].size(); i += 4) {
                a.push_back(pairs[k][0][i]);
                b.push_back(pairs[k][1][i]);
            }
            snprintf(what, sizeof what, "%s, mean %g", names[k], means[c]);
            verdict.add(what, a, b, tolerances[c] + (k < 2 ? gpu_tolerance(dtype) : 0));
        }
    snprintf(what, sizeof what, "%s %s: means far from zero", mabn_norm_kind_name(kind),
             mabn_dtype_name(dtype));
    verdict.print(what);
}

/* Layers of different sizes in one launch: each has its own a and b, and its counter. */
static void test_known(void)
{
    static const int channels[] = {5, 300, 64};
    std::vector<struct mabn_norm_cuda_join> list;
    std::vector<std::unique_ptr<gpu_values<float>>> keep;
    std::vector<std::unique_ptr<struct side>> sides;
    std::vector<std::unique_ptr<struct layer>> layers;
    std::vector<const gpu_values<float> *> affine;
    struct gpu_verdict verdict;

    for (int i = 0; i < 3; i++) {
        const struct shape s = {2, 3, channels[i], 0};
        const struct mabn_norm_options o =
            options_of(MABN_NORM_MABN, i % 2 ? MABN_WINDOW_ITERATION : MABN_WINDOW_SUBBATCH);
        layers.emplace_back(new layer(o, s, MABN_DTYPE_F32));
        struct layer &l = *layers.back();
        struct mabn_norm_state view;
        mabn_norm_state_view(&view, &l.norm, l.state.data());
        for (int c = 0; c < channels[i]; c++)
            view.running_var[c] = 0.5f + (float)c;
        keep.emplace_back(new gpu_values<float>(l.gamma));
        keep.emplace_back(new gpu_values<float>(l.beta));
        sides.emplace_back(new side(l, *keep[keep.size() - 2], *keep.back(), false));
        /* a, b, and places that must not change. */
        keep.emplace_back(new gpu_values<float>(std::vector<float>(2 * 300 + 2, -7)));
        float *a = keep.back()->at();
        struct mabn_norm_cuda_join e;
        affine.push_back(keep.back().get());
        tap_status(mabn_norm_cuda_join_init(&e, &l.norm, sides.back()->state.p,
                                            sides.back()->io.gamma, sides.back()->io.beta, a,
                                            a + channels[i] + 1),
                   "an entry");
        list.push_back(e);
    }
    gpu_values<struct mabn_norm_cuda_join> gpu_list(list);
    if (mabn_norm_cuda_known(gpu_list.at(), 3, 300, NULL)) verdict.add(mabn_error_message(), 1, 0);
    for (size_t i = 0; i < 3; i++) {
        struct layer &l = *layers[i];
        struct mabn_norm_state view;
        std::vector<float> want(2 * 300 + 2, -7);
        mabn_norm_state_view(&view, &l.norm, l.state.data());
        for (int c = 0; c < channels[i]; c++) {
            want[c] = (float)mabn_known_a(l.gamma[c], view.running_var[c], l.norm.options.eps);
            want[channels[i] + 1 + c] = l.beta[c];
        }
        if (view.iters) ++*view.iters;
        if (view.iters_f32) ++*view.iters_f32;
        verdict.add("a and b", affine[i]->values(), want, 0);
        verdict.add("state", sides[i]->state.values() != l.state, 0);
    }
    verdict.print("known of several layers at once");
}

/* The bound behind the scratch's size holds for every smaller call of either type. */
static void test_scratch(void)
{
    int bad = 0;

    for (int channels : {3, 64, 300, 2048})
        for (int64_t batch : {1, 2, 7, 64}) {
            struct mabn_cuda_rows most = {64 * 3136,
                                          batch * 3136,
                                          (64 + batch - 1) / batch,
                                          channels,
                                          MABN_DTYPE_F32,
                                          false,
                                          NULL,
                                          0};
            const int64_t bound = mabn_cuda_most_partials(&most);
            for (int64_t n : {1, 2, 9, 63, 64})
                for (int64_t hw : {1, 49, 1000, 3136})
                    for (int i = 0; i < 4; i++) {
                        const int64_t run = batch < n ? batch : n;
                        const enum mabn_dtype type = i % 2 ? MABN_DTYPE_F16 : MABN_DTYPE_F32;
                        struct mabn_cuda_rows r = {
                            n * hw, run * hw, (n + run - 1) / run, channels, type, false, NULL, 0};
                        r.wide = i / 2 && mabn_pack_fits(type, channels, NULL, 0);
                        bad += r.runs * mabn_cuda_chunks(&r) > bound;
                    }
        }
    tap_ok(bad == 0, "scratch is enough for smaller calls");
}

/* The first `n` of many. */
static std::vector<float> first(const std::vector<float> &all, size_t n)
{
    return std::vector<float>(all.begin(), all.begin() + (std::ptrdiff_t)n);
}

/* One step of a layer with ReLU, in which `count` on the device says how many samples there are. The
 * results are the CPU's for that number; values behind them are finite. */
static void live_step(struct gpu_verdict *verdict, struct layer &l, struct side &got,
                      const gpu_values<int32_t> &count, int32_t live, int step, bool accumulate)
{
    const size_t n = l.values(), there = (size_t)(live * l.shape.positions * l.shape.channels);
    const std::vector<float> x = gpu_random(n, 10 + step, l.dtype, 0.4, 1);
    const std::vector<float> dy = gpu_random(n, 50 + step, l.dtype, 0, 1);
    gpu_array gpu_x(x, l.dtype), gpu_dy(dy, l.dtype);
    const struct mode m = {true, false, false};
    const double tolerance = gpu_tolerance(l.dtype);
    struct mabn_norm_io cpu = cpu_io(l, m, x.data(), NULL, dy.data());
    struct mabn_norm_cuda_io &io = got.io;

    gpu_order(step);
    count.put(&live);
    cpu.samples = live;
    io.live = count.at();
    io.x = gpu_x.p;
    io.dy = gpu_dy.p;
    io.y = got.y.p;
    io.accumulate = cpu.accumulate = accumulate;
    if (mabn_norm_forward(&l.norm, &cpu)) MABN_BUG("%s", mabn_error_message());
    if (mabn_norm_cuda_forward(&l.norm, &io)) verdict->add(mabn_error_message(), 1, 0);
    const std::vector<float> y = got.y.values();
    verdict->add("y", first(y, there), first(l.y, there), tolerance);
    io.y = NULL;
    cpu.y = NULL;
    if (mabn_norm_backward(&l.norm, &cpu)) MABN_BUG("%s", mabn_error_message());
    if (mabn_norm_cuda_backward(&l.norm, &io)) verdict->add(mabn_error_message(), 1, 0);
    const std::vector<float> dx = got.dx.values();
    verdict->add("dx", first(dx, there), first(l.dx, there), tolerance);
    for (size_t i = 0; i < n; i++)
        verdict->add("behind", std::isfinite(y[i]) && std::isfinite(dx[i]) ? 0 : 1, 0);
    verdict->add("dgamma", got.dgamma.values(), l.dgamma, 3e-5);
    verdict->add("dbeta", got.dbeta.values(), l.dbeta, 3e-5);
    compare_state(verdict, l, got.state.values());
}

/* The samples are fewer than there is room for, or none. */
static void test_live(enum mabn_norm_kind kind, enum mabn_window_rule rule, enum mabn_dtype dtype,
                      int norm_batch)
{
    enum { ROOM = 6, POSITIONS = 130, CHANNELS = 24, STEPS = 7 };
    static const int32_t live[STEPS] = {6, 4, 0, 2, 5, 0, 1};
    const struct shape s = {ROOM, POSITIONS, CHANNELS, norm_batch};
    struct layer l(options_of(kind, rule), s, dtype);
    struct gpu_verdict verdict;
    gpu_values<float> gamma(l.gamma), beta(l.beta);
    struct side got(l, gamma, beta, true);
    gpu_values<int32_t> count({0});
    for (int step = 0; step < STEPS; step++)
        live_step(&verdict, l, got, count, live[step], step, step == 5);
    gpu_order(0);
    char title[80];
    snprintf(title, sizeof title, "%s%s %s of samples that the device counts, in runs of %d",
             mabn_norm_kind_name(kind), rule == MABN_WINDOW_ITERATION ? " iteration" : "",
             mabn_dtype_name(dtype), norm_batch ? norm_batch : ROOM);
    verdict.print(title);
}

/* What another rank adds to a sum: on the host, or in the device's queue. */
struct other_rank {
    std::vector<double> sums;
    gpu_values<double> there;
    other_rank(int channels, double rows) : sums(2 * (size_t)channels + 2), there(sums)
    {
        for (size_t i = 0; i < sums.size(); i++)
            sums[i] = rows * (0.3 + 0.01 * (double)i + (i < (size_t)channels ? 0 : 2));
        sums[sums.size() - 2] = rows;
        sums[sums.size() - 1] = rows > 0;
        there.put(sums.data());
    }
};

static mabn_status add_here(void *context, double *values, size_t count)
{
    const struct other_rank *o = (const struct other_rank *)context;
    for (size_t i = 0; i < count; i++)
        values[i] += o->sums[i];
    return MABN_OK;
}

static __global__ void add_other(double *values, const double *other, int count)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count) values[i] += other[i];
}

static mabn_status add_there(void *context, double *values, size_t count)
{
    const struct other_rank *o = (const struct other_rank *)context;
    return MABN_LAUNCH(add_other, 1, 256, 0, (cudaStream_t)0, values, o->there.at(), (int)count);
}

/* SyncBN over two ranks: this one's samples, of which there may be none, are counted by the device; the
 * other has as many as are given, also none. */
static void test_live_ranks(bool reference, double other_rows)
{
    enum { ROOM = 6, POSITIONS = 30, CHANNELS = 24, STEPS = 5 };
    static const int32_t live[STEPS] = {6, 4, 0, 2, 5};
    const struct shape s = {ROOM, POSITIONS, CHANNELS, 0};
    struct mabn_norm_options o = options_of(MABN_NORM_SYNCBN, MABN_WINDOW_SUBBATCH);
    o.sync_reference = reference;
    struct other_rank other(CHANNELS, other_rows);
    struct mabn_norm_sync sync = {};
    sync.all_reduce = add_here;
    sync.queue = add_there;
    sync.context = &other;
    sync.groups = 1;
    struct layer l(o, s, MABN_DTYPE_F32);
    l.norm.sync = &sync;
    struct gpu_verdict verdict;
    gpu_values<float> gamma(l.gamma), beta(l.beta);
    struct side got(l, gamma, beta, true);
    gpu_bytes scratch(mabn_norm_cuda_scratch_bytes(&l.norm, ROOM, POSITIONS));
    l.scratch.resize(mabn_norm_scratch_bytes(&l.norm, ROOM, POSITIONS));
    gpu_values<int32_t> count({0});
    got.io.scratch = scratch.p;
    for (int step = 0; step < STEPS; step++)
        live_step(&verdict, l, got, count, live[step], step, false);
    gpu_order(0);
    char title[160];
    snprintf(title, sizeof title,
             "SyncBN%s of samples that the device counts, the other rank's %g rows",
             reference ? " by the reference's rule" : "", other_rows);
    verdict.print(title);
}

static void test_all_live(void)
{
    for (int norm_batch : {0, 2, 4}) {
        const enum mabn_dtype dtype = norm_batch == 4 ? MABN_DTYPE_BF16 : MABN_DTYPE_F32;
        test_live(MABN_NORM_MABN, MABN_WINDOW_ITERATION, dtype, norm_batch);
        test_live(MABN_NORM_MABN, MABN_WINDOW_SUBBATCH, dtype, norm_batch);
        test_live(MABN_NORM_BN, MABN_WINDOW_SUBBATCH, dtype, norm_batch);
        test_live(MABN_NORM_BRN, MABN_WINDOW_SUBBATCH, dtype, norm_batch);
    }
    for (double other_rows : {0, 90}) {
        test_live_ranks(false, other_rows);
        test_live_ranks(true, other_rows);
    }
}

static void test_refusals(void)
{
    struct mabn_norm_options o = options_of(MABN_NORM_BN, MABN_WINDOW_SUBBATCH);
    struct mabn_norm norm;
    struct mabn_norm_cuda_io io = {};
    float word = 0;

    tap_status(mabn_norm_init(&norm, &o, 8), "a norm");
    tap_fails(mabn_norm_cuda_forward(&norm, &io), MABN_ERR_ARG, "gamma", "no gamma");
    io.gamma = io.beta = &word;
    tap_fails(mabn_norm_cuda_forward(&norm, &io), MABN_ERR_ARG, "state", "no state");
    io.state = &word;
    tap_status(mabn_norm_cuda_forward(&norm, &io), "no samples: nothing to do");
    io.samples = io.positions = 1;
    tap_fails(mabn_norm_cuda_forward(&norm, &io), MABN_ERR_ARG, "overwrite", "y over x");
    io.y = &word;
    io.dtype = MABN_DTYPE_F64;
    io.scratch = &word;
    tap_fails(mabn_norm_cuda_forward(&norm, &io), MABN_ERR_UNSUPPORTED, "float32", "float64");
}

static void test_join_refusals(void)
{
    struct mabn_norm_options o = options_of(MABN_NORM_MABN, MABN_WINDOW_SUBBATCH);
    struct mabn_norm norm, bn, gn;
    struct mabn_norm_cuda_join join;
    struct mabn_norm_cuda_io io = {};
    float word[4] = {0};

    o.norm_batch = 2;
    tap_status(mabn_norm_init(&norm, &o, 8), "a norm");
    o.kind = MABN_NORM_GN;
    o.groups = 2;
    tap_status(mabn_norm_init(&gn, &o, 8), "another");
    tap_ok(!mabn_norm_cuda_can_join(&gn, 1), "GN does not join");
    o.kind = MABN_NORM_BN;
    tap_status(mabn_norm_init(&bn, &o, 8), "a third");
    tap_ok(mabn_norm_cuda_can_join(&norm, 2), "MABN of one run joins");
    tap_ok(!mabn_norm_cuda_can_join(&norm, 3), "of two it does not");
    tap_ok(mabn_norm_cuda_can_join(&bn, 2) && !mabn_norm_cuda_can_join(&bn, 3), "likewise BN");
    tap_fails(mabn_norm_cuda_join_init(&join, &bn, word, word, word, word, word), MABN_ERR_ARG,
              "not bn", "an entry for BN");
    io.samples = 2;
    io.positions = 1;
    io.gamma = io.beta = io.square = word;
    io.state = io.scratch = io.saved = word;
    io.x = &word[1];
    io.y = &word[2];
    tap_fails(mabn_norm_cuda_forward(&gn, &io), MABN_ERR_ARG, "not gn", "GN with square");
    tap_fails(mabn_norm_cuda_forward(&bn, &io), MABN_ERR_ARG, "lacks", "BN without sum");
    io.known = true;
    io.sum = word;
    tap_fails(mabn_norm_cuda_forward(&bn, &io), MABN_ERR_ARG, "known ahead", "BN known");
    io.square = NULL;
    tap_fails(mabn_norm_cuda_forward(&bn, &io), MABN_ERR_ARG, "lacks", "BN without square");
    io.square = word;
    io.residual = io.y;
    tap_fails(mabn_norm_cuda_forward(&norm, &io), MABN_ERR_ARG, "residual", "y over residual");
    io.dot = word;
    io.dy = &word[2];
    io.dx = &word[3];
    tap_fails(mabn_norm_cuda_backward(&bn, &io), MABN_ERR_ARG, "lacks", "BN without dsum");
    io.dresidual = &word[1];
    tap_fails(mabn_norm_cuda_backward(&norm, &io), MABN_ERR_ARG, "dresidual", "dresidual apart");
    io.dresidual = io.dx = &word[2];
    tap_fails(mabn_norm_cuda_backward(&norm, &io), MABN_ERR_ARG, "differ", "dx over dresidual");
    io.samples = 3;
    tap_fails(mabn_norm_cuda_forward(&norm, &io), MABN_ERR_ARG, "of 2", "forward of two runs");
    tap_fails(mabn_norm_cuda_backward(&norm, &io), MABN_ERR_ARG, "of 2", "backward of two runs");
}

int main(void)
{
    if (!gpu_ready()) return tap_done();
    for (int kind = 0; kind < MABN_NORM_KINDS; kind++)
        test_kind((enum mabn_norm_kind)kind, MABN_WINDOW_SUBBATCH);
    test_kind(MABN_NORM_MABN, MABN_WINDOW_ITERATION);
    test_large_samples();
    test_large_then_small();
    test_scaler(MABN_WINDOW_SUBBATCH);
    test_scaler(MABN_WINDOW_ITERATION);
    test_joined(MABN_NORM_MABN, MABN_WINDOW_SUBBATCH);
    test_joined(MABN_NORM_MABN, MABN_WINDOW_ITERATION);
    test_sums_are_used(MABN_NORM_MABN, true);
    test_sums_are_used(MABN_NORM_MABN, false);
    for (enum mabn_norm_kind kind : {MABN_NORM_BN, MABN_NORM_BRN, MABN_NORM_SYNCBN}) {
        test_joined(kind, MABN_WINDOW_SUBBATCH);
        test_sums_are_used(kind, false);
        test_cancellation(kind, MABN_DTYPE_F32);
        test_cancellation(kind, MABN_DTYPE_BF16);
    }
    test_known();
    test_scratch();
    test_all_live();
    test_refusals();
    test_join_refusals();
    return tap_done();
}
