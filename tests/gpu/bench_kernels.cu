/* bench_kernels [--json] [BATCH]: what the memory-bound kernels reach on this GPU. First the
 * ceiling: a large device-to-device copy, bytes read plus bytes written. Then each kernel over the
 * norm shapes of ResNet-50 at 224×224 (batch 256) in bfloat16, float16 and float32, with GB/s and
 * the share of the ceiling; then whole layers, forward and backward; then the operations beside the
 * norms; then for each kernel in how many of the 53 places it reaches 0.8 of the copy, and in how
 * many of the large ones 0.9. A table of tab-separated values, its summary behind '#'; --json: an
 * object a line.
 *
 * A kernel's bytes are those it must move: each array once. Times are medians over replays of a
 * CUDA graph of many launches that rotate through more memory than the caches hold. */
#include "harness.h"

#ifdef MABN_EXECUTOR
#error "this program is for a GPU"
#endif

#include <algorithm>
#include <functional>

#include "device/pack.cuh"
#include "norm/internal.h"
#include "norm/kernels.cuh"
#include "norm/norm_cuda.h"
#include "ops/ops_cuda.h"

enum { REPLAYS = 15, LARGE = 64 << 20 /* bytes of an array */ };

/* The 53 norms of ResNet-50: side, channels, how many, and in how many of them a block's residual
 * is added (the others: none). */
static const struct bench_shape {
    int side, channels, count;
} shapes[] = {
    {112, 64, 1}, {56, 64, 6},   {56, 256, 4},  {56, 128, 1}, {28, 128, 7}, {28, 512, 5},
    {28, 256, 1}, {14, 256, 11}, {14, 1024, 7}, {14, 512, 1}, {7, 512, 5},  {7, 2048, 4},
};

struct result {
    std::string what, shape;
    enum mabn_dtype dtype;
    double share; /* of the copy */
    int count;    /* places in the network */
    bool large;
};

struct bench {
    cudaStream_t stream;
    double copy; /* bytes a second */
    char *memory[4];
    size_t bytes; /* of each */
    bool json;
    std::vector<struct result> results;
};

/* Median seconds of one call of work(i), i counting launches. */
static double seconds_of(struct bench *b, const std::function<mabn_status(int)> &work)
{
    enum { LAUNCHES = 20 };
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    std::vector<float> times;

    gpu_check(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < LAUNCHES; i++)
        if (work(i)) gpu_check(cudaErrorUnknown, mabn_error_message());
    gpu_check(cudaStreamEndCapture(b->stream, &graph), "capture");
    gpu_check(cudaGraphInstantiate(&exec, graph, 0), "graph");
    gpu_check(cudaEventCreate(&begin), "event");
    gpu_check(cudaEventCreate(&end), "event");
    for (int i = 0; i < REPLAYS + 2; i++) {
        float ms;
        gpu_check(cudaEventRecord(begin, b->stream), "event");
        gpu_check(cudaGraphLaunch(exec, b->stream), "graph");
        gpu_check(cudaEventRecord(end, b->stream), "event");
        gpu_check(cudaEventSynchronize(end), "graph");
        gpu_check(cudaEventElapsedTime(&ms, begin, end), "event");
        if (i >= 2) times.push_back(ms);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2] * 1e-3 / LAUNCHES;
}

/* One line; kept for the summary where `count` is not 0. */
static void line(struct bench *b, const char *what, enum mabn_dtype dtype, const char *shape,
                 double seconds, double bytes, int count = 0, bool large = false)
{
    const double speed = bytes / seconds, share = speed / b->copy;

    if (b->json)
        printf("{\"what\":\"%s\",\"dtype\":\"%s\",\"shape\":\"%s\",\"us\":%.2f,"
               "\"gb_per_s\":%.1f,\"of_copy\":%.3f}\n",
               what, mabn_dtype_name(dtype), shape, seconds * 1e6, speed * 1e-9, share);
    else
        printf("%s\t%s\t%s\t%.1f\t%.0f\t%.2f\n", what, mabn_dtype_name(dtype), shape, seconds * 1e6,
               speed * 1e-9, share);
    fflush(stdout);
    if (count) b->results.push_back({what, shape, dtype, share, count, large});
}

/* Of one kernel's lines. */
static void summarize(const struct bench *b, const char *what, enum mabn_dtype dtype)
{
    int all = 0, good = 0, large = 0, large_good = 0;
    const struct result *worst = NULL;

    for (const struct result &r : b->results) {
        if (r.what != what || r.dtype != dtype) continue;
        all += r.count;
        good += r.share >= 0.8 ? r.count : 0;
        large += r.large ? r.count : 0;
        large_good += r.large && r.share >= 0.9 ? r.count : 0;
        if (!worst || r.share < worst->share) worst = &r;
    }
    if (!worst) return;
    if (b->json)
        printf("{\"summary\":\"%s\",\"dtype\":\"%s\",\"places\":%d,\"at_0.8\":%d,\"large\":%d,"
               "\"large_at_0.9\":%d,\"worst\":%.3f,\"worst_shape\":\"%s\"}\n",
               what, mabn_dtype_name(dtype), all, good, large, large_good, worst->share,
               worst->shape.c_str());
    else
        printf(
            "# %s, %s: 0.8 of the copy in %d of %d places, 0.9 in %d of %d large ones; worst %.2f "
            "(%s)\n",
            what, mabn_dtype_name(dtype), good, all, large_good, large, worst->share,
            worst->shape.c_str());
}

/* Array `which` for launch `i`: another piece of its memory each time. */
static void *piece(const struct bench *b, int which, int i, size_t bytes)
{
    const size_t slot = (bytes + 255) / 256 * 256, slots = b->bytes / slot;
    return b->memory[which] + (size_t)i % slots * slot;
}

/* ---- kernels alone, one run of all samples ---- */

static const char *const kernel_names[] = {"copy",           "square",
                                           "moments",        "apply",
                                           "apply+residual", "apply+square",
                                           "grad moments",   "grad moments+residual",
                                           "grad apply",     "grad apply, no mask",
                                           "grad mabn",      "grad mabn, no mask",
                                           "grad mabn+sum"};
enum { KERNELS = sizeof kernel_names / sizeof *kernel_names };

static void bench_kernels(struct bench *b, const struct bench_shape *s, int batch,
                          enum mabn_dtype dtype, double *total)
{
    const struct mabn_cuda_rows rows = {(int64_t)batch * s->side * s->side,
                                        (int64_t)batch * s->side * s->side,
                                        1,
                                        s->channels,
                                        dtype,
                                        true};
    const size_t bytes = (size_t)rows.rows * s->channels * mabn_dtype_size(dtype);
    const size_t partial = (size_t)mabn_cuda_most_partials(&rows) * s->channels * sizeof(float);
    gpu_bytes sum(partial), square(partial), coef(s->channels * 6 * sizeof(float));
    float *k = (float *)coef.p;
    const struct mabn_cuda_affine affine = {k, k + s->channels, 0};
    const struct mabn_cuda_known known = {k, k + s->channels, k + 2 * s->channels, 1e-5};
    const struct mabn_cuda_counter none = {};
    char shape[40];

    gpu_check(cudaMemset(coef.p, 0x3f, coef.bytes), "cudaMemset"); /* 0.747: zeros run faster */
    snprintf(shape, sizeof shape, "%dx%dx%dx%d", batch, s->side, s->side, s->channels);
    auto grad = [&](int i, enum mabn_mask mask) {
        const struct mabn_cuda_grad in = {piece(b, 0, i, bytes),
                                          piece(b, 1, i, bytes),
                                          piece(b, 2, i, bytes),
                                          affine,
                                          NULL,
                                          mask};
        return in;
    };
    auto grad_apply = [&](int i, enum mabn_mask mask, const float *r) {
        const struct mabn_cuda_grad in = grad(i, mask);
        return mabn_cuda_grad_apply(piece(b, 3, i, bytes), NULL, &in, k, k, r, 0, &rows, b->stream);
    };
    const struct {
        double arrays;
        std::function<mabn_status(int)> work;
    } kernels[KERNELS] = {
        {2,
         [&](int i) {
             return cudaMemcpyAsync(piece(b, 1, i, bytes), piece(b, 0, i, bytes), bytes,
                                    cudaMemcpyDeviceToDevice, b->stream) == cudaSuccess
                        ? MABN_OK
                        : MABN_ERR_CUDA;
         }},
        {1,
         [&](int i) {
             return mabn_cuda_square((float *)square.p, piece(b, 0, i, bytes), none, &rows,
                                     b->stream);
         }},
        {1,
         [&](int i) {
             return mabn_cuda_moments((float *)sum.p, (float *)square.p, k, piece(b, 0, i, bytes),
                                      none, &rows, b->stream);
         }},
        {2,
         [&](int i) {
             struct mabn_cuda_apply_in in = {};
             in.y = piece(b, 1, i, bytes);
             in.x = piece(b, 0, i, bytes);
             in.affine = affine;
             in.relu = true;
             return mabn_cuda_apply(&in, &rows, b->stream);
         }},
        {3,
         [&](int i) {
             struct mabn_cuda_apply_in in = {};
             in.y = piece(b, 1, i, bytes);
             in.x = piece(b, 0, i, bytes);
             in.residual = piece(b, 2, i, bytes);
             in.affine = affine;
             in.relu = true;
             return mabn_cuda_apply(&in, &rows, b->stream);
         }},
        {2,
         [&](int i) {
             struct mabn_cuda_apply_in in = {};
             in.y = piece(b, 1, i, bytes);
             in.x = piece(b, 0, i, bytes);
             in.relu = true;
             return mabn_cuda_apply_known(&in, &known, (float *)square.p, &rows, b->stream);
         }},
        {2,
         [&](int i) {
             const struct mabn_cuda_grad in = grad(i, MABN_MASK_X);
             return mabn_cuda_grad_moments((float *)sum.p, (float *)square.p, NULL, &in, &rows,
                                           b->stream);
         }},
        {4,
         [&](int i) {
             const struct mabn_cuda_grad in = grad(i, MABN_MASK_Y);
             return mabn_cuda_grad_moments((float *)sum.p, (float *)square.p, piece(b, 3, i, bytes),
                                           &in, &rows, b->stream);
         }},
        {3, [&](int i) { return grad_apply(i, MABN_MASK_X, k); }},
        {3, [&](int i) { return grad_apply(i, MABN_MASK_NONE, k); }},
        {3, [&](int i) { return grad_apply(i, MABN_MASK_X, NULL); }},
        {3, [&](int i) { return grad_apply(i, MABN_MASK_NONE, NULL); }},
        {3,
         [&](int i) {
             const struct mabn_cuda_grad in = grad(i, MABN_MASK_NONE);
             return mabn_cuda_grad_apply_sum(piece(b, 3, i, bytes), (float *)sum.p, &in, k, k,
                                             &rows, b->stream);
         }},
    };
    for (int i = 0; i < KERNELS; i++) {
        const double seconds = seconds_of(b, kernels[i].work);
        line(b, kernel_names[i], dtype, shape, seconds, kernels[i].arrays * (double)bytes, s->count,
             bytes >= LARGE);
        total[2 * i] += seconds * s->count;
        total[2 * i + 1] += kernels[i].arrays * (double)bytes * s->count;
    }
}

/* ---- whole layers ---- */

struct layer_case {
    const char *name;
    enum mabn_norm_kind kind;
    int norm_batch;
    bool known;
    /* How many arrays must move; 0: none. GN and IN: as if all samples fit into shared memory; only
     * the stem's do not, in backward. LN: two passes, as in most places. */
    double forward, backward;
    bool residual, joined;
};
static const struct layer_case layers[] = {
    {"bn", MABN_NORM_BN, 0, false, 3, 5},
    {"mabn", MABN_NORM_MABN, 0, false, 3, 5},
    {"mabn known", MABN_NORM_MABN, 0, true, 2, 5},
    {"bn by 2", MABN_NORM_BN, 2, false, 3, 5},
    {"mabn by 2 known", MABN_NORM_MABN, 2, true, 2, 5},
    {"gn", MABN_NORM_GN, 0, false, 2, 3},
    {"ln", MABN_NORM_LN, 0, false, 3, 5},
    {"in", MABN_NORM_IN, 0, false, 2, 3},
    {"bn+residual", MABN_NORM_BN, 0, false, 4, 7, true},
    {"mabn+residual known", MABN_NORM_MABN, 0, true, 3, 7, true},
    {"gn+residual", MABN_NORM_GN, 0, false, 3, 5, true},
    {"bn joined", MABN_NORM_BN, 0, false, 2, 3, false, true},
    {"mabn joined", MABN_NORM_MABN, 0, true, 0, 3, false, true},
};

/* As if the convolutions had done their part. */
static void join(struct bench *b, const struct mabn_norm *norm, struct mabn_norm_cuda_io *io,
                 const float *sums)
{
    struct mabn_norm_cuda_join entry;
    gpu_bytes affine(2 * norm->channels * sizeof(float));
    float *a = (float *)affine.p;

    io->square = io->dot = sums;
    if (norm->options.kind == MABN_NORM_BN) io->sum = io->dsum = sums;
    if (norm->options.kind == MABN_NORM_BN) return;
    if (mabn_norm_cuda_join_init(&entry, norm, io->state, io->gamma, io->beta, a,
                                 a + norm->channels))
        gpu_check(cudaErrorUnknown, mabn_error_message());
    gpu_values<struct mabn_norm_cuda_join> list({entry});
    if (mabn_norm_cuda_known(list.at(), 1, norm->channels, b->stream))
        gpu_check(cudaErrorUnknown, mabn_error_message());
    gpu_check(cudaStreamSynchronize(b->stream), "known");
}

static void bench_layer(struct bench *b, const struct layer_case *l, const struct bench_shape *s,
                        int batch, enum mabn_dtype dtype, double *total)
{
    const int64_t positions = (int64_t)s->side * s->side;
    const size_t bytes = (size_t)batch * positions * s->channels * mabn_dtype_size(dtype);
    struct mabn_norm_options o;
    struct mabn_norm norm;
    struct mabn_norm_cuda_io io = {};
    char shape[40], name[40];

    mabn_norm_options_init(&o, l->kind);
    o.norm_batch = l->norm_batch;
    o.r_start = l->known ? 1 : 0;
    if (mabn_norm_init(&norm, &o, s->channels)) gpu_check(cudaErrorUnknown, mabn_error_message());
    std::vector<char> first(mabn_norm_state_bytes(&norm) + 64);
    mabn_norm_state_reset(&norm, first.data());
    gpu_values<char> state(first);
    gpu_values<float> gamma(std::vector<float>((size_t)s->channels, 1.0f));
    gpu_values<float> beta(std::vector<float>((size_t)s->channels, 0.0f));
    gpu_bytes saved(mabn_norm_saved_bytes(&norm, batch));
    gpu_bytes scratch(mabn_norm_cuda_scratch_bytes(&norm, batch, positions));
    gpu_bytes dgamma(s->channels * sizeof(float)), dbeta(s->channels * sizeof(float));
    gpu_values<float> sums(/* like sums of numbers from -1 to 1 */
                           std::vector<float>((size_t)s->channels, (float)(batch * positions) / 3));
    io.samples = batch;
    io.positions = positions;
    io.dtype = dtype;
    io.relu = true;
    io.known = l->known;
    io.gamma = gamma.at();
    io.beta = beta.at();
    io.state = state.p;
    io.saved = saved.p;
    io.scratch = scratch.p;
    io.dgamma = (float *)dgamma.p;
    io.dbeta = (float *)dbeta.p;
    io.stream = b->stream;
    if (l->joined) join(b, &norm, &io, sums.at());
    snprintf(shape, sizeof shape, "%dx%dx%dx%d", batch, s->side, s->side, s->channels);

    double seconds = seconds_of(b, [&](int i) {
        io.x = piece(b, 0, i, bytes);
        io.y = piece(b, 1, i, bytes);
        io.residual = l->residual ? piece(b, 2, i, bytes) : NULL;
        return mabn_norm_cuda_forward(&norm, &io);
    });
    snprintf(name, sizeof name, "%s forward", l->name);
    line(b, name, dtype, shape, seconds, l->forward * (double)bytes, l->forward > 0 ? s->count : 0,
         bytes >= LARGE);
    total[0] += seconds * s->count;
    seconds = seconds_of(b, [&](int i) {
        io.x = piece(b, 0, i, bytes);
        io.dy = piece(b, 1, i, bytes);
        io.dx = piece(b, 2, i, bytes);
        io.y = l->residual ? piece(b, 3, i, bytes) : NULL;
        io.dresidual = l->residual ? piece(b, 1, i, bytes) : NULL; /* as in a block: dy */
        return mabn_norm_cuda_backward(&norm, &io);
    });
    snprintf(name, sizeof name, "%s backward", l->name);
    line(b, name, dtype, shape, seconds, l->backward * (double)bytes, s->count, bytes >= LARGE);
    total[1] += seconds * s->count;
}

/* ---- beside the norms ---- */

/* ResNet-50's convolutions: outputs, values of a filter, how many. */
static const struct filters {
    int outputs, filter, count;
} convolutions[] = {
    {64, 147, 1},    {64, 64, 1},    {64, 256, 2},   {64, 576, 3},   {256, 64, 4},
    {128, 256, 1},   {128, 512, 3},  {128, 1152, 4}, {512, 128, 4},  {512, 256, 1},
    {256, 512, 1},   {256, 1024, 5}, {256, 2304, 6}, {1024, 256, 6}, {1024, 512, 1},
    {512, 1024, 1},  {512, 2048, 2}, {512, 4608, 3}, {2048, 512, 3}, {2048, 1024, 1},
    {1000, 2048, 1},
};

static void bench_sgd(struct bench *b, enum mabn_dtype dtype)
{
    std::vector<struct mabn_cuda_sgd_param> params;
    int64_t values = 0;

    for (const struct filters &f : convolutions)
        for (int i = 0; i < f.count; i++) {
            const int64_t count = (int64_t)f.outputs * f.filter;
            params.push_back({(float *)b->memory[0] + values, (float *)b->memory[1] + values,
                              (float *)b->memory[2] + values,
                              b->memory[3] + values * (int64_t)mabn_dtype_size(dtype), dtype, count,
                              f.outputs == 1000 ? 0 : f.outputs, 1, 1e-4f});
            values += count / 64 * 64 + 64;
        }
    std::vector<struct mabn_cuda_sgd_piece> pieces(
        (size_t)mabn_cuda_sgd_cut(NULL, params.data(), (int)params.size()));
    mabn_cuda_sgd_cut(pieces.data(), params.data(), (int)params.size());
    const struct mabn_cuda_sgd_rates rates = {1e-30f, 0.9f, 1e-30f};
    gpu_values<struct mabn_cuda_sgd_param> gpu_params(params);
    gpu_values<struct mabn_cuda_sgd_piece> gpu_pieces(pieces);
    gpu_values<struct mabn_cuda_sgd_rates> gpu_rates({rates});
    gpu_values<int32_t> overflow({0});

    for (int i = 0; i < 3; i++) /* numbers, whatever they were */
        gpu_check(cudaMemset(b->memory[i], 0x3f, (size_t)values * 4), "cudaMemset");
    line(b, "sgd, centralized", dtype, "ResNet-50",
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_sgd_step(gpu_params.at(), gpu_pieces.at(),
                                                  (int64_t)pieces.size(), gpu_rates.at(), NULL,
                                                  false, false, b->stream);
                    }),
         (double)values * (20 + (double)mabn_dtype_size(dtype)));
    line(b, "gradients finite", MABN_DTYPE_F32, "ResNet-50",
         seconds_of(b,
                    [&](int i) {
                        return mabn_cuda_gradients_finite(
                            overflow.at(), (float *)piece(b, i % 3, i, (size_t)values * 4), values,
                            b->stream);
                    }),
         (double)values * 4);
}

static void bench_others(struct bench *b, int batch, enum mabn_dtype dtype)
{
    const struct mabn_pool_shape pool = {batch, 112, 112, 64, 3, 2, 1};
    const int64_t stem = (int64_t)batch * 112 * 112 * 64, pooled = stem / 4;
    const int64_t last = (int64_t)batch * 49 * 2048, pixels = (int64_t)batch * 224 * 224;
    const double size = (double)mabn_dtype_size(dtype);
    uint8_t *winner = (uint8_t *)b->memory[2];
    char shape[40];

    snprintf(shape, sizeof shape, "%dx112x112x64", batch);
    line(b, "max pool forward", dtype, shape,
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_maxpool_forward(b->memory[1], winner, b->memory[0], &pool,
                                                         dtype, b->stream);
                    }),
         (double)(stem + pooled) * size + (double)pooled);
    line(b, "max pool backward", dtype, shape,
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_maxpool_backward(b->memory[0], b->memory[1], winner, &pool,
                                                          dtype, b->stream);
                    }),
         (double)(stem + pooled) * size + (double)pooled);
    line(b, "add", dtype, shape,
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_add(b->memory[0], b->memory[1], stem, dtype, b->stream);
                    }),
         3 * (double)stem * size);
    line(b, "bias+residual+relu", dtype, shape,
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_add_bias(b->memory[2], b->memory[0], b->memory[1],
                                                  (float *)b->memory[3], stem / 64, 64, true, dtype,
                                                  b->stream);
                    }),
         3 * (double)stem * size);
    line(b, "cast from float32", dtype, shape,
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_cast(b->memory[1], dtype, b->memory[0], MABN_DTYPE_F32,
                                              pooled, b->stream);
                    }),
         (double)pooled * (4 + size));
    snprintf(shape, sizeof shape, "%dx7x7x2048", batch);
    line(b, "average pool forward", dtype, shape,
         seconds_of(b,
                    [&](int i) {
                        return mabn_cuda_avgpool_forward(
                            b->memory[1], piece(b, 0, i, (size_t)((double)last * size)), batch, 49,
                            2048, dtype, b->stream);
                    }),
         (double)last * size);
    line(b, "average pool backward", dtype, shape,
         seconds_of(b,
                    [&](int i) {
                        return mabn_cuda_avgpool_backward(
                            piece(b, 0, i, (size_t)((double)last * size)), b->memory[1], batch, 49,
                            2048, dtype, b->stream);
                    }),
         (double)last * size);
    snprintf(shape, sizeof shape, "%dx224x224", batch);
    line(b, "bytes to 8 channels", dtype, shape,
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_look_up_pixels(b->memory[0], winner, pixels, 3, 8,
                                                        (const float *)b->memory[1], dtype,
                                                        b->stream);
                    }),
         (double)pixels * (3 + 8 * size));
}

/* RoIAlign over the pyramid of two pictures at 800×1344: 1,024 boxes of 7×7, and backward both by
 * gathering and by atomic additions. Bytes: the maps and the rows once. */
static void bench_roi_align(struct bench *b, enum mabn_dtype dtype)
{
    enum { BOXES = 1024 };
    struct mabn_roi_align op = {2, 256, 4, {}, 7, 7, 2, false};
    const double size = (double)mabn_dtype_size(dtype), rows = (double)BOXES * 49 * 256;
    std::vector<float> box;
    std::vector<int32_t> image, level;
    const void *x[4];
    void *dx[4];
    struct mabn_rng rng;
    double values = 0;

    for (int l = 0; l < 4; l++) {
        op.level[l] = {200 >> l, 336 >> l, 0.25 / (1 << l)};
        dx[l] = b->memory[0] + (size_t)(values * size);
        x[l] = dx[l];
        values += 2.0 * (double)(op.level[l].h * op.level[l].w) * 256;
    }
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    for (int r = 0; r < BOXES; r++) { /* of the size that belongs to its level */
        const double side = 56 << r % 4, x0 = mabn_rng_range(&rng, 0, 1344 - side),
                     y0 = mabn_rng_range(&rng, 0, 800 - side);
        for (double v : {x0, y0, x0 + side, y0 + side})
            box.push_back((float)v);
        image.push_back(r % 8 / 4);
        level.push_back(r % 4);
    }
    gpu_values<float> gpu_box(box);
    gpu_values<int32_t> gpu_image(image), gpu_level(level);
    const struct mabn_cuda_rois rois = {BOXES, NULL, gpu_box.at(), gpu_image.at(), gpu_level.at()};
    const double bytes = (values + rows) * size;
    line(b, "RoIAlign forward", dtype, "1024 of 7x7",
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_roi_align_forward(b->memory[1], x, &rois, &op, dtype,
                                                           b->stream);
                    }),
         bytes);
    line(b, "RoIAlign backward", dtype, "1024 of 7x7",
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_roi_align_backward(dx, b->memory[1], &rois, &op, true,
                                                            dtype, b->stream);
                    }),
         bytes + values * size);
    if (dtype != MABN_DTYPE_F32) return;
    line(b, "RoIAlign backward, atomic", dtype, "1024 of 7x7",
         seconds_of(b,
                    [&](int) {
                        return mabn_cuda_roi_align_backward_atomic(
                            (float *const *)dx, (const float *)b->memory[1], &rois, &op, b->stream);
                    }),
         bytes + values * size);
}

/* ---- */

template <typename T> __global__ void fill_kernel(T *p, size_t count, unsigned seed)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x) {
        unsigned h = (unsigned)i * 2654435761u + seed;
        h ^= h >> 15;
        h *= 2246822519u;
        h ^= h >> 13;
        mabn_from_float(&p[i], (float)(h & 0xffff) / 32768.0f - 1.0f);
    }
}

template <typename T> static void fill(struct bench *b)
{
    for (int i = 0; i < 4; i++)
        if (MABN_LAUNCH(fill_kernel<T>, 2048, 256, 0, b->stream, (T *)b->memory[i],
                        b->bytes / sizeof(T), (unsigned)i))
            gpu_check(cudaErrorUnknown, mabn_error_message());
    gpu_check(cudaStreamSynchronize(b->stream), "fill");
}

/* Fill all memory with numbers from -1 to 1. */
static void fill_as(struct bench *b, enum mabn_dtype dtype)
{
    if (dtype == MABN_DTYPE_F32)
        fill<float>(b);
    else if (dtype == MABN_DTYPE_F16)
        fill<__half>(b);
    else
        fill<__nv_bfloat16>(b);
}

static void start(struct bench *b, size_t largest)
{
    size_t free_bytes, all;
    struct cudaDeviceProp device;

    gpu_check(cudaGetDeviceProperties(&device, 0), "device");
    gpu_check(cudaMemGetInfo(&free_bytes, &all), "memory");
    printf(b->json ? "{\"device\":\"%s\",\"processors\":%d,\"gib\":%.0f,\"l2_mib\":%.0f,\"early_"
                     "launch\":%d}\n"
                   : "# %s, %d multiprocessors, %.0f GiB, L2 %.0f MiB, early launch %d\n",
           device.name, device.multiProcessorCount, (double)all / (1 << 30),
           device.l2CacheSize / 1048576.0, (int)mabn_launches_early());
    gpu_check(cudaStreamCreate(&b->stream), "stream");
    b->bytes = std::max(largest, std::min((size_t)2 << 30, free_bytes / 6)) / 256 * 256;
    for (int i = 0; i < 4; i++)
        gpu_check(cudaMalloc((void **)&b->memory[i], b->bytes), "memory");
    fill_as(b, MABN_DTYPE_BF16);
    b->copy = 1;
    const double seconds = seconds_of(b, [&](int) {
        return cudaMemcpyAsync(b->memory[1], b->memory[0], b->bytes, cudaMemcpyDeviceToDevice,
                               b->stream) == cudaSuccess
                   ? MABN_OK
                   : MABN_ERR_CUDA;
    });
    b->copy = 2.0 * (double)b->bytes / seconds;
    if (!b->json) printf("what\tdtype\tshape\tus\tGB/s\tof copy\n");
    line(b, "copy", MABN_DTYPE_U8, "large", seconds, 2.0 * (double)b->bytes);
}

static void bench_all_kernels(struct bench *b, int batch, enum mabn_dtype dtype)
{
    double total[2 * KERNELS] = {0};

    fill_as(b, dtype);
    for (const struct bench_shape &s : shapes)
        bench_kernels(b, &s, batch, dtype, total);
    for (int i = 0; i < KERNELS; i++)
        line(b, kernel_names[i], dtype, "all 53", total[2 * i], total[2 * i + 1]);
}

static void bench_all_layers(struct bench *b, int batch, enum mabn_dtype dtype)
{
    fill_as(b, dtype);
    for (const struct layer_case &l : layers) {
        double sums[2] = {0, 0}, bytes = 0;
        char name[60];
        for (const struct bench_shape &s : shapes) {
            bench_layer(b, &l, &s, batch, dtype, sums);
            bytes += (double)batch * s.side * s.side * s.channels * s.count *
                     (double)mabn_dtype_size(dtype);
        }
        snprintf(name, sizeof name, "%s forward", l.name);
        line(b, name, dtype, "all 53", sums[0], l.forward * bytes);
        snprintf(name, sizeof name, "%s backward", l.name);
        line(b, name, dtype, "all 53", sums[1], l.backward * bytes);
    }
}

int main(int argc, char **argv)
{
    const enum mabn_dtype types[] = {MABN_DTYPE_BF16, MABN_DTYPE_F16, MABN_DTYPE_F32};
    struct bench b = {};
    int batch = 256;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            b.json = true;
        else if ((batch = atoi(argv[i])) < 1) {
            fprintf(stderr, "usage: bench_kernels [--json] [BATCH]\n");
            return 2;
        }
    }
    if (!gpu_ready()) return 1;
    start(&b, (size_t)batch * 112 * 112 * 64 * 4);
    for (enum mabn_dtype dtype : types)
        bench_all_kernels(&b, batch, dtype);
    bench_all_layers(&b, batch, MABN_DTYPE_BF16);
    for (enum mabn_dtype dtype : types) {
        fill_as(&b, dtype);
        bench_others(&b, batch, dtype);
        bench_roi_align(&b, dtype);
    }
    bench_sgd(&b, MABN_DTYPE_BF16);
    for (enum mabn_dtype dtype : types)
        for (const char *name : kernel_names)
            summarize(&b, name, dtype);
    for (const struct layer_case &l : layers) {
        summarize(&b, (std::string(l.name) + " forward").c_str(), MABN_DTYPE_BF16);
        summarize(&b, (std::string(l.name) + " backward").c_str(), MABN_DTYPE_BF16);
    }
    return 0;
}
