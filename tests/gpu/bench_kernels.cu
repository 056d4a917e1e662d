/* bench_kernels [BATCH]: what the memory-bound kernels reach on this GPU, as a table of
 * tab-separated values. First the ceiling: a large device-to-device copy, bytes read plus bytes
 * written. Then each kernel over the norm shapes of ResNet-50 at 224×224 (batch 256), with GB/s and
 * the share of the ceiling; then whole layers, forward and backward; then sums over the network.
 *
 * A kernel's bytes are those it must move: each array once. Times are medians over replays of a
 * CUDA graph of many launches that rotate through more memory than the caches hold. */
#include "harness.h"

#ifdef MABN_EXECUTOR
#error "this program is for a GPU"
#endif

#include <algorithm>
#include <functional>

#include "norm/internal.h"
#include "norm/kernels.cuh"
#include "norm/norm_cuda.h"

enum { REPLAYS = 15 };

/* The 53 norms of ResNet-50: side, channels, how many, and in how many of them a block's residual
 * is added (the others: none). */
static const struct bench_shape {
    int side, channels, count;
} shapes[] = {
    {112, 64, 1}, {56, 64, 6},   {56, 256, 4},  {56, 128, 1}, {28, 128, 7}, {28, 512, 5},
    {28, 256, 1}, {14, 256, 11}, {14, 1024, 7}, {14, 512, 1}, {7, 512, 5},  {7, 2048, 4},
};

struct bench {
    cudaStream_t stream;
    double copy; /* bytes a second */
    char *memory[4];
    size_t bytes; /* of each */
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

static void line(const struct bench *b, const char *what, const char *shape, double seconds,
                 double bytes)
{
    printf("%s\t%s\t%.1f\t%.0f\t%.2f\n", what, shape, seconds * 1e6, bytes / seconds * 1e-9,
           bytes / seconds / b->copy);
    fflush(stdout);
}

/* Array `which` for launch `i`: another piece of its memory each time. */
static void *piece(const struct bench *b, int which, int i, size_t bytes)
{
    const size_t slot = (bytes + 255) / 256 * 256, slots = b->bytes / slot;
    return b->memory[which] + (size_t)i % slots * slot;
}

/* ---- kernels alone, bfloat16, one run of all samples ---- */

static void bench_kernels(struct bench *b, const struct bench_shape *s, int batch, double *total)
{
    const struct mabn_cuda_rows rows = {(int64_t)batch * s->side * s->side,
                                        (int64_t)batch * s->side * s->side,
                                        1,
                                        s->channels,
                                        MABN_DTYPE_BF16,
                                        true};
    const size_t bytes = (size_t)rows.rows * s->channels * 2;
    const size_t partial = (size_t)mabn_cuda_most_partials(&rows) * s->channels * sizeof(float);
    gpu_bytes sum(partial), square(partial), coef(s->channels * 6 * sizeof(float));
    float *k = (float *)coef.p;
    const struct mabn_cuda_affine affine = {k, k + s->channels, 0};
    const struct mabn_cuda_known known = {k, k + s->channels, k + 2 * s->channels, 1e-5};
    const struct mabn_cuda_counter none = {};
    char shape[40];

    gpu_check(cudaMemset(coef.p, 0x3f, coef.bytes), "cudaMemset"); /* 0.747: zeros run faster */
    snprintf(shape, sizeof shape, "%dx%dx%dx%d", batch, s->side, s->side, s->channels);
    const struct {
        const char *name;
        double arrays;
        std::function<mabn_status(int)> work;
    } kernels[] = {
        {"square", 1,
         [&](int i) {
             return mabn_cuda_square((float *)square.p, piece(b, 0, i, bytes), none, &rows,
                                     b->stream);
         }},
        {"moments", 1,
         [&](int i) {
             return mabn_cuda_moments((float *)sum.p, (float *)square.p, k, piece(b, 0, i, bytes),
                                      none, &rows, b->stream);
         }},
        {"apply", 2,
         [&](int i) {
             struct mabn_cuda_apply_in in = {};
             in.y = piece(b, 1, i, bytes);
             in.x = piece(b, 0, i, bytes);
             in.affine = affine;
             in.relu = true;
             return mabn_cuda_apply(&in, &rows, b->stream);
         }},
        {"apply+residual", 3,
         [&](int i) {
             struct mabn_cuda_apply_in in = {};
             in.y = piece(b, 1, i, bytes);
             in.x = piece(b, 0, i, bytes);
             in.residual = piece(b, 2, i, bytes);
             in.affine = affine;
             in.relu = true;
             return mabn_cuda_apply(&in, &rows, b->stream);
         }},
        {"apply+square", 2,
         [&](int i) {
             struct mabn_cuda_apply_in in = {};
             in.y = piece(b, 1, i, bytes);
             in.x = piece(b, 0, i, bytes);
             in.relu = true;
             return mabn_cuda_apply_known(&in, &known, (float *)square.p, none, &rows, b->stream);
         }},
        {"grad moments", 2,
         [&](int i) {
             struct mabn_cuda_grad in = {
                 piece(b, 0, i, bytes), piece(b, 1, i, bytes), NULL, affine, NULL, MABN_MASK_X};
             return mabn_cuda_grad_moments((float *)sum.p, (float *)square.p, &in, &rows,
                                           b->stream);
         }},
        {"grad apply", 3,
         [&](int i) {
             struct mabn_cuda_grad in = {
                 piece(b, 0, i, bytes), piece(b, 1, i, bytes), NULL, affine, NULL, MABN_MASK_X};
             return mabn_cuda_grad_apply(piece(b, 2, i, bytes), NULL, &in, k, k, k, 0, &rows,
                                         b->stream);
         }},
        {"grad apply+residual", 5,
         [&](int i) {
             struct mabn_cuda_grad in = {piece(b, 0, i, bytes),
                                         piece(b, 1, i, bytes),
                                         piece(b, 2, i, bytes),
                                         affine,
                                         NULL,
                                         MABN_MASK_Y};
             return mabn_cuda_grad_apply(piece(b, 3, i, bytes), piece(b, 0, i, bytes), &in, k, k, k,
                                         0, &rows, b->stream);
         }},
    };
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        const double seconds = seconds_of(b, kernels[i].work);
        line(b, kernels[i].name, shape, seconds, kernels[i].arrays * (double)bytes);
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
    double forward, backward; /* arrays that must move */
};
static const struct layer_case layers[] = {
    {"bn", MABN_NORM_BN, 0, false, 3, 5},
    {"mabn", MABN_NORM_MABN, 0, false, 3, 5},
    {"mabn known", MABN_NORM_MABN, 0, true, 2, 5},
    {"bn by 2", MABN_NORM_BN, 2, false, 3, 5},
    {"mabn by 2 known", MABN_NORM_MABN, 2, true, 2, 5},
    {"gn", MABN_NORM_GN, 0, false, 3, 5},
    {"ln", MABN_NORM_LN, 0, false, 3, 5},
    {"in", MABN_NORM_IN, 0, false, 3, 5},
};

static void bench_layer(struct bench *b, const struct layer_case *l, const struct bench_shape *s,
                        int batch, double *total)
{
    const int64_t positions = (int64_t)s->side * s->side;
    const size_t bytes = (size_t)batch * positions * s->channels * 2;
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
    io.samples = batch;
    io.positions = positions;
    io.dtype = MABN_DTYPE_BF16;
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
    snprintf(shape, sizeof shape, "%dx%dx%dx%d", batch, s->side, s->side, s->channels);

    double seconds = seconds_of(b, [&](int i) {
        io.x = piece(b, 0, i, bytes);
        io.y = piece(b, 1, i, bytes);
        return mabn_norm_cuda_forward(&norm, &io);
    });
    snprintf(name, sizeof name, "%s forward", l->name);
    line(b, name, shape, seconds, l->forward * (double)bytes);
    total[0] += seconds * s->count;
    io.y = NULL;
    seconds = seconds_of(b, [&](int i) {
        io.x = piece(b, 0, i, bytes);
        io.dy = piece(b, 1, i, bytes);
        io.dx = piece(b, 2, i, bytes);
        return mabn_norm_cuda_backward(&norm, &io);
    });
    snprintf(name, sizeof name, "%s backward", l->name);
    line(b, name, shape, seconds, l->backward * (double)bytes);
    total[1] += seconds * s->count;
}

/* ---- */

__global__ void fill_kernel(__nv_bfloat16 *p, size_t count, unsigned seed)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x) {
        unsigned h = (unsigned)i * 2654435761u + seed;
        h ^= h >> 15;
        h *= 2246822519u;
        h ^= h >> 13;
        p[i] = __float2bfloat16_rn((float)(h & 0xffff) / 32768.0f - 1.0f);
    }
}

static void start(struct bench *b, size_t largest)
{
    size_t free_bytes, all;
    struct cudaDeviceProp device;

    gpu_check(cudaGetDeviceProperties(&device, 0), "device");
    gpu_check(cudaMemGetInfo(&free_bytes, &all), "memory");
    printf("# %s, %d multiprocessors, %.0f GiB, L2 %.0f MiB\n", device.name,
           device.multiProcessorCount, (double)all / (1 << 30), device.l2CacheSize / 1048576.0);
    gpu_check(cudaStreamCreate(&b->stream), "stream");
    b->bytes = std::max(largest, std::min((size_t)2 << 30, free_bytes / 6)) / 256 * 256;
    for (int i = 0; i < 4; i++) {
        gpu_check(cudaMalloc((void **)&b->memory[i], b->bytes), "memory");
        if (MABN_LAUNCH(fill_kernel, 2048, 256, 0, b->stream, (__nv_bfloat16 *)b->memory[i],
                        b->bytes / 2, (unsigned)i))
            gpu_check(cudaErrorUnknown, mabn_error_message());
    }
    gpu_check(cudaStreamSynchronize(b->stream), "fill");
    b->copy = 1;
    const double seconds = seconds_of(b, [&](int) {
        return cudaMemcpyAsync(b->memory[1], b->memory[0], b->bytes, cudaMemcpyDeviceToDevice,
                               b->stream) == cudaSuccess
                   ? MABN_OK
                   : MABN_ERR_CUDA;
    });
    b->copy = 2.0 * (double)b->bytes / seconds;
    printf("what\tshape\tus\tGB/s\tof copy\n");
    line(b, "copy", "large", seconds, 2.0 * (double)b->bytes);
}

int main(int argc, char **argv)
{
    const int batch = argc > 1 ? atoi(argv[1]) : 256;
    double total[32] = {0};
    struct bench b = {};

    if (batch < 1) {
        fprintf(stderr, "usage: bench_kernels [BATCH]\n");
        return 2;
    }
    if (!gpu_ready()) return tap_done();
    start(&b, (size_t)batch * 112 * 112 * 64 * 2);
    for (const struct bench_shape &s : shapes)
        bench_kernels(&b, &s, batch, total);
    static const char *const names[] = {
        "square",       "moments",      "apply",      "apply+residual",
        "apply+square", "grad moments", "grad apply", "grad apply+residual"};
    for (int i = 0; i < 8; i++)
        line(&b, names[i], "all 53", total[2 * i], total[2 * i + 1]);
    for (const struct layer_case &l : layers) {
        double sums[2] = {0, 0}, bytes = 0;
        for (const struct bench_shape &s : shapes) {
            bench_layer(&b, &l, &s, batch, sums);
            bytes += (double)batch * s.side * s.side * s.channels * 2 * s.count;
        }
        char name[60];
        snprintf(name, sizeof name, "%s forward", l.name);
        line(&b, name, "all 53", sums[0], l.forward * bytes);
        snprintf(name, sizeof name, "%s backward", l.name);
        line(&b, name, "all 53", sums[1], l.backward * bytes);
    }
    return 0;
}
