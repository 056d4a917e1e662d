/* probe_conv: what cuDNN and cuBLASLt offer for ResNet-50's convolutions, in bfloat16, and how
 * fast.
 *
 *     probe_conv [-n BATCH] [-t SECONDS] [-p PLANS] [-o WORD] [-s] [-j]
 *
 * For each of the 23 distinct shapes at 224×224: forward, data gradient and filter gradient by the
 * first plan of cuDNN's heuristics, by the fastest of up to PLANS (8), and as a matrix product
 * where the kernel is 1×1; then each pattern of convolution and what surrounds it in a plan of
 * lib/net: whether cuDNN makes one kernel of it (its reason where not), by which engine, and the
 * time against that of the convolution alone. Times are medians of 20 after a warm-up, in
 * milliseconds.
 *
 * -d: bf16 (the default), fp16, tf32 or fp32. -o WORD: only patterns whose name has WORD in it. -j:
 * one JSON object a line. -s: only whether there are plans for an H100, on a machine that needs no
 * GPU. -t: stop after SECONDS (900).
 *
 * The work is done in a child process, so that a crash, a hang or a broken context costs one line:
 * the parent notes it and goes on with the next. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/status.h"
#include "device/cuda_libraries.h"
#include "device/launch.cuh"
#include "ops/conv.h"
#include "ops/cublaslt_matmul.h"
#include "ops/cudnn_graph.h"

enum {
    SAMPLES = 20,
    TRIALS = 5,
    WARM_UP = 2,
    MAX_PLANS = 16,
    COMPILED_PLANS = 2,
    ITEM_SECONDS = 60
};
static const size_t WORKSPACE = (size_t)1 << 30;

/* ---- shapes ---- */

static const struct site {
    int side, in, out, kernel, stride, count; /* count: how many of the 53 */
    bool telling;
} sites[] = {
    /* The pictures' three channels are padded; 4 and 8 are tried. */
    {224, 4, 64, 7, 2, 1, false},    {224, 8, 64, 7, 2, 0, false},
    {56, 64, 64, 1, 1, 1, false},    {56, 64, 64, 3, 1, 3, true},
    {56, 64, 256, 1, 1, 4, true},    {56, 256, 64, 1, 1, 2, true},
    {56, 256, 128, 1, 1, 1, false},  {56, 128, 128, 3, 2, 1, true},
    {28, 128, 512, 1, 1, 4, false},  {56, 256, 512, 1, 2, 1, false},
    {28, 512, 128, 1, 1, 3, false},  {28, 128, 128, 3, 1, 3, true},
    {28, 512, 256, 1, 1, 1, false},  {28, 256, 256, 3, 2, 1, false},
    {14, 256, 1024, 1, 1, 6, true},  {28, 512, 1024, 1, 2, 1, false},
    {14, 1024, 256, 1, 1, 5, false}, {14, 256, 256, 3, 1, 5, true},
    {14, 1024, 512, 1, 1, 1, false}, {14, 512, 512, 3, 2, 1, false},
    {7, 512, 2048, 1, 1, 3, false},  {14, 1024, 2048, 1, 2, 1, false},
    {7, 2048, 512, 1, 1, 2, false},  {7, 512, 512, 3, 1, 2, false},
};
enum { SITES = sizeof sites / sizeof sites[0] };

static struct mabn_conv_shape shape_of(const struct site *s, int batch)
{
    return {batch, s->side, s->side, s->in, s->out, s->kernel, s->stride, s->kernel / 2};
}

static struct {
    int batch, seconds, plans;
    const char *only, *type;
    enum mabn_dtype dtype;
    bool exact, tf32;
    bool support, json;
    time_t end;
} args = {256, 900, 8, "", "bf16", MABN_DTYPE_BF16, false, false, false, false, 0};

/* ---- patterns ---- */

/* A graph under construction, and its memory. */
struct drawing {
    struct mabn_cudnn_graph *graph;
    struct mabn_conv_shape s;
    int64_t oh, ow;
    struct array {
        int id;
        size_t bytes;
        enum mabn_dtype dtype;
    };
    std::vector<struct array> arrays;

    int array(enum mabn_dtype dtype, int64_t n, int64_t c, int64_t h, int64_t w)
    {
        const int id = mabn_cudnn_tensor(graph, dtype, n, c, h, w);
        arrays.push_back({id, (size_t)(n * c * h * w) * mabn_dtype_size(dtype), dtype});
        return id;
    }
    int x()
    {
        return array(args.dtype, s.n, s.in, s.h, s.w);
    }
    int y()
    {
        return array(args.dtype, s.n, s.out, oh, ow);
    }
    int weight(enum mabn_dtype dtype)
    {
        return array(dtype, s.out, s.in, s.kernel, s.kernel);
    }
    int channels(int64_t c) /* coefficients or sums */
    {
        return array(MABN_DTYPE_F32, 1, c, 1, 1);
    }
    int passing_x()
    {
        return mabn_cudnn_virtual(graph, s.n, s.in, s.h, s.w);
    }
    int passing_y()
    {
        return mabn_cudnn_virtual(graph, s.n, s.out, oh, ow);
    }
    void convolve(enum mabn_cudnn_direction direction, int out, int a, int b)
    {
        mabn_cudnn_convolve(graph, direction, out, a, b, s.stride, s.pad);
    }
    void point(cudnnPointwiseMode_t mode, int out, int a, int b)
    {
        mabn_cudnn_pointwise(graph, mode, out, a, b);
    }
    int convolved() /* y = conv(x), passing */
    {
        const int y = passing_y();
        const int from = x();
        convolve(MABN_CUDNN_FORWARD, y, from, weight(args.dtype));
        return y;
    }
    /* scale·v + bias, passing */
    int affine(int v, bool is_x)
    {
        const int scaled = is_x ? passing_x() : passing_y(), all = is_x ? passing_x() : passing_y();
        const int64_t c = is_x ? s.in : s.out;
        point(CUDNN_POINTWISE_MUL, scaled, v, channels(c));
        point(CUDNN_POINTWISE_ADD, all, scaled, channels(c));
        return all;
    }
    void sum_of_products(int a, int b, bool is_x)
    {
        const int product = is_x ? passing_x() : passing_y();
        point(CUDNN_POINTWISE_MUL, product, a, b);
        mabn_cudnn_sum(graph, channels(is_x ? s.in : s.out), product);
    }
};

static void forward(struct drawing &d)
{
    const int y = d.y(), x = d.x();
    d.convolve(MABN_CUDNN_FORWARD, y, x, d.weight(args.dtype));
}
static void data(struct drawing &d)
{
    const int dx = d.x(), dy = d.y();
    d.convolve(MABN_CUDNN_DATA, dx, dy, d.weight(args.dtype));
}
static void filter(struct drawing &d)
{
    const int dw = d.weight(MABN_DTYPE_F32), x = d.x();
    d.convolve(MABN_CUDNN_FILTER, dw, x, d.y());
}
static void filter_bf16(struct drawing &d)
{
    const int dw = d.weight(args.dtype), x = d.x();
    d.convolve(MABN_CUDNN_FILTER, dw, x, d.y());
}
/* A bias of the activations' type: one of float32 would be compiled. */
static void bias16_relu(struct drawing &d)
{
    const int y = d.convolved(), biased = d.passing_y();
    d.point(CUDNN_POINTWISE_ADD, biased, y, d.array(args.dtype, 1, d.s.out, 1, 1));
    d.point(CUDNN_POINTWISE_RELU_FWD, d.y(), biased, -1);
}
static void bias16_add_relu(struct drawing &d)
{
    const int y = d.convolved(), biased = d.passing_y(), sum = d.passing_y();
    d.point(CUDNN_POINTWISE_ADD, sum, y, d.y());
    d.point(CUDNN_POINTWISE_ADD, biased, sum, d.array(args.dtype, 1, d.s.out, 1, 1));
    d.point(CUDNN_POINTWISE_RELU_FWD, d.y(), biased, -1);
}
/* Batch normalization's statistics as one operation. */
static void statistics(struct drawing &d)
{
    const int y = d.y(), x = d.x();
    d.convolve(MABN_CUDNN_FORWARD, y, x, d.weight(args.dtype));
    const int sum = d.channels(d.s.out);
    mabn_cudnn_statistics(d.graph, sum, d.channels(d.s.out), y);
}
/* The same as two sums. */
static void sums(struct drawing &d)
{
    const int y = d.y(), x = d.x();
    d.convolve(MABN_CUDNN_FORWARD, y, x, d.weight(args.dtype));
    mabn_cudnn_sum(d.graph, d.channels(d.s.out), y);
    d.sum_of_products(y, y, false);
}
/* MABN's whole forward: y, which backward reads; z = relu(affine(y)); Σy². */
static void mabn_forward(struct drawing &d)
{
    const int y = d.y(), x = d.x();
    d.convolve(MABN_CUDNN_FORWARD, y, x, d.weight(args.dtype));
    const int z = d.affine(y, false);
    d.point(CUDNN_POINTWISE_RELU_FWD, d.y(), z, -1);
    d.sum_of_products(y, y, false);
}
/* The same with z = relu(affine(y) + residual). */
static void mabn_forward_add(struct drawing &d)
{
    const int y = d.y(), x = d.x(), sum = d.passing_y();
    d.convolve(MABN_CUDNN_FORWARD, y, x, d.weight(args.dtype));
    d.point(CUDNN_POINTWISE_ADD, sum, d.affine(y, false), d.y());
    d.point(CUDNN_POINTWISE_RELU_FWD, d.y(), sum, -1);
    d.sum_of_products(y, y, false);
}
static int data_passing(struct drawing &d)
{
    const int dx = d.passing_x(), dy = d.y();
    d.convolve(MABN_CUDNN_DATA, dx, dy, d.weight(args.dtype));
    return dx;
}
static void data_add(struct drawing &d)
{
    const int dx = data_passing(d), other = d.x();
    d.point(CUDNN_POINTWISE_ADD, d.x(), dx, other);
}
/* Backward: dz = dReLU(dx, affine(x)), Σdz·x, and Σdz where requested. */
static void backward(struct drawing &d, bool sum)
{
    const int dx = data_passing(d), x = d.x(), dz = d.x();
    d.point(CUDNN_POINTWISE_RELU_BWD, dz, dx, d.affine(x, true));
    if (sum) mabn_cudnn_sum(d.graph, d.channels(d.s.in), dz);
    d.sum_of_products(dz, x, true);
}
/* The same behind a residual: dz = dReLU(dx + other, z). */
static void backward_add(struct drawing &d, bool sum)
{
    const int dx = data_passing(d), other = d.x(), all = d.passing_x(), z = d.x(), dz = d.x();
    d.point(CUDNN_POINTWISE_ADD, all, dx, other);
    d.point(CUDNN_POINTWISE_RELU_BWD, dz, all, z);
    if (sum) mabn_cudnn_sum(d.graph, d.channels(d.s.in), dz);
    d.sum_of_products(dz, d.x(), true);
}
static void mabn_backward(struct drawing &d)
{
    backward(d, false);
}
static void mabn_backward_add(struct drawing &d)
{
    backward_add(d, false);
}
static void bn_backward(struct drawing &d)
{
    backward(d, true);
}
static void bn_backward_add(struct drawing &d)
{
    backward_add(d, true);
}
static int prologue(struct drawing &d)
{
    const int z = d.affine(d.x(), true), rectified = d.passing_x();
    d.point(CUDNN_POINTWISE_RELU_FWD, rectified, z, -1);
    return rectified;
}
static void prologue_forward(struct drawing &d)
{
    const int z = prologue(d), y = d.y();
    d.convolve(MABN_CUDNN_FORWARD, y, z, d.weight(args.dtype));
}
static void prologue_filter_bf16(struct drawing &d)
{
    const int z = prologue(d), dw = d.weight(args.dtype);
    d.convolve(MABN_CUDNN_FILTER, dw, z, d.y());
}

/* First the patterns that lib/ops uses, then those that may be worth fusing, the most informative
 * first. */
static const struct pattern {
    const char *name;
    void (*draw)(struct drawing &d);
    enum mabn_cudnn_direction direction; /* what its time is compared with */
    bool alone;
    bool compiled; /* cuDNN compiles a kernel, a second or two each */
} patterns[] = {
    {"forward", forward, MABN_CUDNN_FORWARD, true, false},
    {"data", data, MABN_CUDNN_DATA, true, false},
    {"filter>half", filter_bf16, MABN_CUDNN_FILTER, true, false},
    {"filter", filter, MABN_CUDNN_FILTER, false, false},
    {"conv+bias16+relu", bias16_relu, MABN_CUDNN_FORWARD, false, false},
    {"conv+bias16+add+relu", bias16_add_relu, MABN_CUDNN_FORWARD, false, false},
    {"affine+relu+conv", prologue_forward, MABN_CUDNN_FORWARD, false, false},
    {"affine+relu+filter>half", prologue_filter_bf16, MABN_CUDNN_FILTER, false, false},
    {"conv>y,z,sum y2", mabn_forward, MABN_CUDNN_FORWARD, false, true},
    {"conv>y,sum y,sum y2", sums, MABN_CUDNN_FORWARD, false, true},
    {"data+mask x>dz,sum", mabn_backward, MABN_CUDNN_DATA, false, true},
    {"data+mask x>dz,2 sums", bn_backward, MABN_CUDNN_DATA, false, true},
    {"conv>y,statistics", statistics, MABN_CUDNN_FORWARD, false, true},
    {"conv>y,z+add,sum y2", mabn_forward_add, MABN_CUDNN_FORWARD, false, true},
    {"data+add+mask>dz,sum", mabn_backward_add, MABN_CUDNN_DATA, false, true},
    {"data+add+mask>dz,2 sums", bn_backward_add, MABN_CUDNN_DATA, false, true},
    {"data+add", data_add, MABN_CUDNN_DATA, false, true},
};
enum { PATTERNS = sizeof patterns / sizeof patterns[0], ITEMS = SITES * PATTERNS };

/* The pairs of shape and pattern, in the order in which they are tried: first those that need no
 * compiling, then one shape of each kind, in case time is short, then the others. */
static struct item {
    int site, pattern;
} items[ITEMS];

static void order_items(void)
{
    int count = 0;

    for (int turn = 0; turn < 3; turn++)
        for (int p = 0; p < PATTERNS; p++)
            for (int s = 0; s < SITES; s++)
                if (turn == (!patterns[p].compiled ? 0 : sites[s].telling ? 1 : 2))
                    items[count++] = {s, p};
}

/* ---- what is shared with the parent ---- */

struct shared {
    volatile int item;      /* being worked on */
    volatile time_t since;  /* when it was begun */
    double alone[SITES][3]; /* milliseconds */
};

/* ---- libraries ---- */

static struct mabn_cudnn cudnn;
static struct mabn_cublaslt lt;

static void *library(const char *name)
{
    char path[120];
    void *library = dlopen(name, RTLD_NOW);

    if (library) return library;
    snprintf(path, sizeof path, "/usr/local/cuda/lib64/%s", name);
    library = dlopen(path, RTLD_NOW);
    if (library) return library;
    fprintf(stderr, "probe_conv: cannot open %s: %s\n", name, dlerror());
    _exit(1);
}

template <typename F> static void find(F *&function, void *in, const char *name)
{
    function = reinterpret_cast<F *>(dlsym(in, name));
    if (function) return;
    fprintf(stderr, "probe_conv: no %s: %s\n", name, dlerror());
    _exit(1);
}

static void open_libraries(void)
{
    void *const dnn = library("libcudnn.so.9");
#define FIND_CUDNN(name) find(cudnn.name, dnn, "cudnn" #name);
    MABN_CUDNN_FUNCTIONS(FIND_CUDNN)
    if (args.support) return;
    void *const blas = library("libcublasLt.so.13");
#define FIND_LT(name) find(lt.name, blas, "cublasLt" #name);
    MABN_CUBLASLT_FUNCTIONS(FIND_LT)
}

/* An H100 in cuDNN's description. */
static const char H100[] =
    "{\"deviceVer\":900,\"driverVer\":13000,\"cudaDeviceId\":0,\"deviceName\":\"NVIDIA H100\","
    "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
    "\"regsPerBlock\":65536,\"multiProcessorCount\":132,\"warpSize\":32,"
    "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":232448,"
    "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,"
    "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,"
    "\"supportCoopLaunch\":1,\"totalGlobalMem\":85000000000,\"smClockRateKHz\":1980000,"
    "\"memClockRateKHz\":2619000,\"l2CacheSize\":52428800}";

static mabn_status describe_h100(struct mabn_cudnn_target *target)
{
    MABN_CUDNN(&cudnn,
               BackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &target->properties));
    MABN_CUDNN(&cudnn,
               BackendSetAttribute(target->properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                                   CUDNN_TYPE_CHAR, (int64_t)sizeof H100, H100));
    MABN_CUDNN(&cudnn, BackendFinalize(target->properties));
    return MABN_OK;
}

/* ---- memory and time ---- */

struct machine {
    struct mabn_cudnn_target target;
    cublasLtHandle_t lt;
    cudaStream_t stream;
    cudaEvent_t begin, end;
    void *workspace;
};

__global__ void fill(void *p, size_t count, enum mabn_dtype dtype)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < count;
         i += (size_t)gridDim.x * blockDim.x) {
        unsigned h = (unsigned)i * 2654435761u;
        h ^= h >> 15;
        const float v = (float)(h & 0xffff) / 32768.0f - 1.0f;
        if (dtype == MABN_DTYPE_BF16)
            static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16_rn(v);
        else if (dtype == MABN_DTYPE_F16)
            static_cast<__half *>(p)[i] = __float2half_rn(v);
        else
            static_cast<float *>(p)[i] = v;
    }
}

struct memory {
    std::vector<int> ids;
    std::vector<void *> pointers;

    ~memory()
    {
        for (void *p : pointers)
            cudaFree(p);
    }
    mabn_status allocate(const struct machine *m, const std::vector<struct drawing::array> &arrays)
    {
        for (const struct drawing::array &a : arrays) {
            void *p;
            MABN_CUDA_TRY(cudaMalloc(&p, a.bytes));
            ids.push_back(a.id);
            pointers.push_back(p);
            MABN_TRY(MABN_LAUNCH(fill, dim3(1024), dim3(256), 0, m->stream, p,
                                 a.bytes / mabn_dtype_size(a.dtype), a.dtype));
        }
        return MABN_OK;
    }
};

template <typename Work>
static mabn_status time_of(const struct machine *m, int samples, double *ms, Work work)
{
    std::vector<float> times;

    for (int i = 0; i < WARM_UP + samples; i++) {
        float t = 0;
        MABN_CUDA_TRY(cudaEventRecord(m->begin, m->stream));
        MABN_TRY(work());
        MABN_CUDA_TRY(cudaEventRecord(m->end, m->stream));
        MABN_CUDA_TRY(cudaEventSynchronize(m->end));
        MABN_CUDA_TRY(cudaEventElapsedTime(&t, m->begin, m->end));
        if (i >= WARM_UP) times.push_back(t);
    }
    std::sort(times.begin(), times.end());
    *ms = times[times.size() / 2];
    return MABN_OK;
}

/* ---- one item ---- */

struct outcome {
    int count; /* plans */
    long long engine, best_engine;
    double first, best, product; /* ms; 0: not known */
    size_t workspace;
    char reason[400];
};

static void explain(struct outcome *o)
{
    snprintf(o->reason, sizeof o->reason, "%s", mabn_error_message());
    for (char *c = o->reason; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c > '~' || *c == '"' || *c == '\\') *c = ' ';
}

static mabn_status time_plans(struct machine *m, const struct drawing &d,
                              struct mabn_cudnn_plan **plans, struct outcome *o)
{
    struct memory memory;
    int best = -1;

    MABN_TRY(memory.allocate(m, d.arrays));
    for (int i = 0; i < o->count; i++) {
        double ms = 0;
        auto run = [&] {
            return mabn_cudnn_run(plans[i], memory.ids.data(), memory.pointers.data(),
                                  (int)memory.ids.size(), m->workspace, m->stream);
        };
        if (time_of(m, i ? TRIALS : SAMPLES, &ms, run)) {
            explain(o);
            if (cudaGetLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess)
                return MABN_ERR_CUDA;
            continue;
        }
        if (i == 0) o->first = ms;
        if (best < 0 || ms < o->best) {
            best = i;
            o->best = ms;
        }
    }
    if (best < 0) return MABN_OK;
    o->best_engine = mabn_cudnn_plan_engine(plans[best]);
    if (best == 0) return MABN_OK;
    return time_of(m, SAMPLES, &o->best, [&] {
        return mabn_cudnn_run(plans[best], memory.ids.data(), memory.pointers.data(),
                              (int)memory.ids.size(), m->workspace, m->stream);
    });
}

/* A 1×1 convolution as a matrix product: out, a, b in mabn_cudnn_convolve's order. */
static mabn_status time_product(struct machine *m, const struct drawing &d,
                                enum mabn_cudnn_direction direction, double *ms)
{
    const int64_t positions = d.s.n * d.oh * d.ow;
    struct mabn_matmul_shape shape = {};
    std::vector<struct drawing::array> arrays(d.arrays);
    struct mabn_matmul *matmul;
    struct memory memory;

    shape.rows = positions;
    shape.columns = d.s.out;
    shape.inner = d.s.in;
    shape.turn_b = true;
    shape.dtype = shape.d_dtype = args.dtype;
    shape.tf32 = args.tf32;
    if (direction == MABN_CUDNN_DATA) {
        shape.columns = d.s.in;
        shape.inner = d.s.out;
        shape.turn_b = false;
    } else if (direction == MABN_CUDNN_FILTER) {
        shape.rows = d.s.out;
        shape.columns = d.s.in;
        shape.inner = positions;
        shape.turn_a = true;
        shape.turn_b = false;
        shape.d_dtype = MABN_DTYPE_F32;
        arrays[0].bytes *= sizeof(float) / mabn_dtype_size(arrays[0].dtype);
        arrays[0].dtype = MABN_DTYPE_F32;
    }
    MABN_TRY(memory.allocate(m, arrays));
    /* dweight = dyᵀ·x: dy is first. */
    const int a = direction == MABN_CUDNN_FILTER ? 2 : 1;
    MABN_TRY(mabn_matmul_new(&matmul, &lt, m->lt, &shape, WORKSPACE, 0));
    mabn_status status = time_of(m, SAMPLES, ms, [&] {
        return mabn_matmul_run(matmul, memory.pointers[0], memory.pointers[a],
                               memory.pointers[3 - a], NULL, false, m->workspace, m->stream);
    });
    mabn_matmul_free(matmul);
    return status;
}

static mabn_status probe(struct machine *m, const struct site *site, const struct pattern *pattern,
                         struct outcome *o)
{
    const struct mabn_cudnn_demands demands = {args.exact, false, WORKSPACE};
    struct mabn_cudnn_plan *plans[MAX_PLANS];
    struct drawing d = {mabn_cudnn_graph_new(&m->target), shape_of(site, args.batch)};
    mabn_status status;

    d.oh = mabn_conv_out(d.s.h, d.s.kernel, d.s.stride, d.s.pad);
    d.ow = mabn_conv_out(d.s.w, d.s.kernel, d.s.stride, d.s.pad);
    pattern->draw(d);
    const int most = pattern->compiled ? std::min(args.plans, (int)COMPILED_PLANS) : args.plans;
    if (mabn_cudnn_plans(d.graph, &demands, plans, most, &o->count)) explain(o);
    if (o->count > 0) {
        o->engine = o->best_engine = mabn_cudnn_plan_engine(plans[0]);
        o->workspace = mabn_cudnn_plan_workspace(plans[0]);
    }
    status = args.support ? MABN_OK : time_plans(m, d, plans, o);
    if (status) explain(o);
    if (!status && !args.support && pattern->alone && site->kernel == 1 && site->stride == 1 &&
        time_product(m, d, pattern->direction, &o->product))
        explain(o);
    for (int i = 0; i < o->count; i++)
        mabn_cudnn_plan_free(plans[i]);
    mabn_cudnn_graph_free(d.graph);
    return status;
}

/* ---- printing ---- */

static const char *text_of(double ms, char text[16])
{
    if (ms > 0)
        snprintf(text, 16, "%.3f", ms);
    else
        snprintf(text, 16, "-");
    return text;
}

static void print(const struct site *s, const struct pattern *p, const struct outcome *o,
                  double alone)
{
    char shape[40], first[16], best[16], product[16], ratio[16] = "-", engine[40] = "-";

    snprintf(shape, sizeof shape, "%dx%d %d>%d %dx%d/%d", s->side, s->side, s->in, s->out,
             s->kernel, s->kernel, s->stride);
    if (args.json) {
        printf("{\"shape\":\"%s\",\"count\":%d,\"batch\":%d,\"type\":\"%s\",\"pattern\":\"%s\","
               "\"plans\":%d,"
               "\"engine\":%lld,\"best_engine\":%lld,\"first_ms\":%.4f,\"best_ms\":%.4f,"
               "\"cublaslt_ms\":%.4f,\"alone_ms\":%.4f,\"workspace\":%zu,\"reason\":\"%s\"}\n",
               shape, s->count, args.batch, args.type, p->name, o->count, o->engine, o->best_engine,
               o->first, o->best, o->product, alone, o->workspace, o->reason);
    } else {
        if (o->count > 0) snprintf(engine, sizeof engine, "%lld/%lld", o->engine, o->best_engine);
        if (alone > 0 && o->best > 0) snprintf(ratio, sizeof ratio, "%.2f", o->best / alone);
        printf("%-22s x%d %-24s %3d %9s %8s %8s %8s %6s %5zuM  %s\n", shape, s->count, p->name,
               o->count, engine, text_of(o->first, first), text_of(o->best, best),
               text_of(o->product, product), ratio, o->workspace >> 20, o->reason);
    }
    fflush(stdout);
}

static void print_head(void)
{
    if (args.json) return;
    printf("# batch %d, %s%s; engine: first/fastest; ratio: fastest against the convolution "
           "alone\n%-22s    %-24s %3s %9s %8s %8s %8s %6s %6s  %s\n",
           args.batch, args.type, args.support ? ", plans for an H100, nothing run" : "", "# shape",
           "pattern", "n", "engine", "first", "fastest", "cuBLASLt", "ratio", "space", "why not");
    fflush(stdout);
}

/* ---- child and parent ---- */

static mabn_status set_up(struct machine *m)
{
    m->target.cudnn = &cudnn;
    open_libraries();
    if (args.support) return describe_h100(&m->target);
    MABN_CUDA_TRY(cudaStreamCreate(&m->stream));
    MABN_CUDA_TRY(cudaEventCreate(&m->begin));
    MABN_CUDA_TRY(cudaEventCreate(&m->end));
    MABN_CUDA_TRY(cudaMalloc(&m->workspace, WORKSPACE));
    MABN_CUDNN(&cudnn, Create(&m->target.handle));
    MABN_CUBLASLT(&lt, Create(&m->lt));
    return MABN_OK;
}

static bool skipped(int item)
{
    return !strstr(patterns[items[item].pattern].name, args.only);
}

/* Work through the items from `item` on, and exit. */
static void work(struct shared *shared, int item)
{
    struct machine m = {};

    if (set_up(&m)) {
        fprintf(stderr, "probe_conv: %s\n", mabn_error_message());
        _exit(2);
    }
    for (; item < ITEMS && time(NULL) < args.end; item++) {
        const struct site *site = &sites[items[item].site];
        const struct pattern *pattern = &patterns[items[item].pattern];
        double *alone = &shared->alone[items[item].site][pattern->direction];
        struct outcome o = {};

        if (skipped(item)) continue;
        shared->since = time(NULL);
        shared->item = item;
        const mabn_status status = probe(&m, site, pattern, &o);
        if (pattern->alone) *alone = o.best;
        print(site, pattern, &o, *alone);
        if (status) _exit(3); /* the context may be broken: a new process continues */
    }
    _exit(0);
}

/* Wait for the child; true: it reached the end. */
static bool watch(struct shared *shared, pid_t child, int *status)
{
    for (;;) {
        if (waitpid(child, status, WNOHANG) == child) return *status == 0;
        if (time(NULL) > args.end + 20 || time(NULL) - shared->since > ITEM_SECONDS + 60)
            kill(child, SIGKILL);
        usleep(50000);
    }
}

static void usage(void)
{
    fprintf(stderr,
            "usage: probe_conv [-n BATCH] [-d TYPE] [-t SECONDS] [-p PLANS] [-o WORD] [-s] [-j]\n");
    exit(2);
}

static int number(const char *text, int most)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (*end || value < 1 || value > most) usage();
    return (int)value;
}

static void choose_type(const char *name)
{
    static const struct {
        const char *name;
        enum mabn_dtype dtype;
        bool exact, tf32;
    } types[] = {{"bf16", MABN_DTYPE_BF16, false, false},
                 {"fp16", MABN_DTYPE_F16, false, false},
                 {"tf32", MABN_DTYPE_F32, false, true},
                 {"fp32", MABN_DTYPE_F32, true, false}};

    for (const auto &t : types)
        if (!strcmp(t.name, name)) {
            args.type = t.name;
            args.dtype = t.dtype;
            args.exact = t.exact;
            args.tf32 = t.tf32;
            return;
        }
    usage();
}

static void parse(int argc, char **argv)
{
    static const struct option words[] = {{"json", no_argument, NULL, 'j'},
                                          {"support", no_argument, NULL, 's'},
                                          {"batch", required_argument, NULL, 'n'},
                                          {NULL, 0, NULL, 0}};
    int option;

    while ((option = getopt_long(argc, argv, "n:d:t:p:o:sj", words, NULL)) != -1)
        switch (option) {
        case 'n':
            args.batch = number(optarg, 4096);
            break;
        case 'd':
            choose_type(optarg);
            break;
        case 't':
            args.seconds = number(optarg, 100000);
            break;
        case 'p':
            args.plans = number(optarg, MAX_PLANS);
            break;
        case 'o':
            args.only = optarg;
            break;
        case 's':
            args.support = true;
            break;
        case 'j':
            args.json = true;
            break;
        default:
            usage();
        }
    if (optind < argc) usage();
}

int main(int argc, char **argv)
{
    struct shared *shared = static_cast<struct shared *>(
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    int item = 0;

    parse(argc, argv);
    if (shared == MAP_FAILED) return 1;
    args.end = time(NULL) + args.seconds;
    order_items();
    print_head();
    while (item < ITEMS && time(NULL) < args.end) {
        int status;
        shared->item = -1;
        shared->since = time(NULL);
        fflush(stdout);
        const pid_t child = fork();
        if (child < 0) return 1;
        if (child == 0) work(shared, item);
        if (watch(shared, child, &status)) break;
        if (WIFEXITED(status) && WEXITSTATUS(status) <= 2) return 1; /* nothing to probe with */
        if (shared->item < 0) return 1;
        if (WIFSIGNALED(status)) {
            struct outcome o = {};
            snprintf(o.reason, sizeof o.reason, "killed by signal %d", WTERMSIG(status));
            print(&sites[items[shared->item].site], &patterns[items[shared->item].pattern], &o, 0);
        }
        item = shared->item + 1;
    }
    if (time(NULL) >= args.end) printf("# out of time\n");
    return 0;
}
