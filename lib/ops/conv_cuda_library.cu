/* See conv_cuda_library.h.
 *
 * cuDNN is tried first, with two exceptions: a fully connected layer, and a 1×1 convolution's gradient
 * that is float32 from factors of 2 bytes or is added to existing values. Those a matrix product computes
 * without a further pass, and cuDNN does not.
 *
 * cuDNN has precompiled kernels that add a bias in the activations' type; for a float32 bias it would
 * compile one, which takes some seconds. It would also compile a kernel that adds a gradient, so a pass
 * of our own adds it (with tuning, cuDNN's kernel is tried where no matrix product does it). A pass with
 * a normalization is always compiled. */
#include "ops/conv_cuda_library.h"

#include <stdio.h>

#include <algorithm>
#include <vector>

#include "base/mem.h"
#include "device/cuda.h"
#include "device/cuda_libraries.h"
#include "device/launch.cuh"
#include "ops/cublaslt_matmul.h"
#include "ops/cudnn_graph.h"

/* The arrays of a pass: OUT, A and B as conv_cuda_library.h has them, what was in OUT before, and a
 * normalization's (SCALE and SHIFT are its map's a and b). */
enum { OUT, A, B, BIAS, BEFORE, Z, RESIDUAL, X, Y, SCALE, SHIFT, SUM, PRODUCTS, ARRAYS };

struct mabn_conv_library {
    char name[32];
    bool add;
    enum mabn_dtype bias;
    struct mabn_matmul *matmul; /* either this, or the plan */
    bool swap;                  /* the product's first factor is b */
    struct mabn_cudnn_plan *plan;
    int ids[ARRAYS]; /* in the plan; -1: not there */
};

namespace
{

/* A compiled plan takes some seconds to make, and a network has dozens. */
enum {
    FILL_BLOCK = 256,
    TUNE_PLANS = 8,
    TUNE_COMPILED = 1,
    TUNE_PRODUCTS = 3,
    TUNE_SAMPLES = 3,
    TUNE_RUNS = 10
};
const double TUNE_HOLD = 0.002; /* seconds that the device is held up while the host queues the runs
                                 * of a sample */
const size_t WORKSPACE = (size_t)512 << 20;

struct layer {
    struct mabn_device *device;
    struct mabn_conv_shape s;
    int64_t oh, ow;
    const struct mabn_conv_cuda_options *options;
    struct mabn_conv_request request;
    enum mabn_cudnn_direction direction;
    bool joined; /* with a normalization */
};

enum mabn_cudnn_direction direction_of(enum mabn_conv_pass pass)
{
    switch (pass) {
    case MABN_CONV_BACKWARD_DATA:
    case MABN_CONV_BACKWARD_NORM:
        return MABN_CUDNN_DATA;
    case MABN_CONV_BACKWARD_WEIGHTS:
        return MABN_CUDNN_FILTER;
    default:
        return MABN_CUDNN_FORWARD;
    }
}

bool is_product(const struct mabn_conv_shape *s)
{
    return s->kernel == 1 && s->stride == 1 && s->pad == 0;
}

/* Does it add to a data gradient? cuDNN compiles a kernel for that. */
bool adds_gradient(const struct layer *l)
{
    return l->request.pass == MABN_CONV_BACKWARD_DATA && l->request.add;
}

typedef std::vector<struct mabn_conv_library *> strategies;

struct mabn_conv_library *new_strategy(const struct layer *l)
{
    struct mabn_conv_library *strategy =
        static_cast<struct mabn_conv_library *>(mabn_xcalloc(1, sizeof *strategy));
    strategy->add = l->request.add;
    for (int &id : strategy->ids)
        id = -1;
    return strategy;
}

/* How many values an array has. */
size_t count_of(const struct layer *l, int array)
{
    const size_t x = (size_t)(l->s.n * l->s.h * l->s.w * l->s.in);
    const size_t y = (size_t)(l->s.n * l->oh * l->ow * l->s.out);
    const size_t w = (size_t)(l->s.out * l->s.in * l->s.kernel * l->s.kernel);
    const bool data = l->direction == MABN_CUDNN_DATA, filter = l->direction == MABN_CUDNN_FILTER;

    switch (array) {
    case OUT:
        return data ? x : filter ? w : y;
    case A:
        return data ? y : x;
    case B:
        return filter ? y : w;
    case Z:
    case RESIDUAL:
        return y;
    case X:
    case Y:
        return x;
    default:
        return (size_t)(data ? l->s.in : l->s.out);
    }
}

/* ---- cuDNN ---- */

/* like_x: of x's and dx's shape, not of y's */
int picture(struct mabn_cudnn_graph *g, const struct layer *l, enum mabn_dtype dtype, bool like_x)
{
    if (like_x) return mabn_cudnn_tensor(g, dtype, l->s.n, l->s.in, l->s.h, l->s.w);
    return mabn_cudnn_tensor(g, dtype, l->s.n, l->s.out, l->oh, l->ow);
}

/* The same, passed between operations and never stored. */
int passing(struct mabn_cudnn_graph *g, const struct layer *l, bool like_x)
{
    if (like_x) return mabn_cudnn_virtual(g, l->s.n, l->s.in, l->s.h, l->s.w);
    return mabn_cudnn_virtual(g, l->s.n, l->s.out, l->oh, l->ow);
}

int filters(struct mabn_cudnn_graph *g, const struct layer *l, enum mabn_dtype dtype)
{
    return mabn_cudnn_tensor(g, dtype, l->s.out, l->s.in, l->s.kernel, l->s.kernel);
}

/* out = relu(before + v + bias), with the parts requested; in the order of cuDNN's precompiled
 * kernels. */
void draw_end(struct mabn_cudnn_graph *g, const struct layer *l, struct mabn_conv_library *strategy,
              int v, bool like_x)
{
    const struct mabn_conv_request *w = &l->request;

    if (w->add) {
        strategy->ids[BEFORE] = picture(g, l, w->out, like_x);
        const int sum = w->bias || w->relu ? passing(g, l, like_x) : strategy->ids[OUT];
        mabn_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, sum, v, strategy->ids[BEFORE]);
        v = sum;
    }
    if (w->bias) {
        strategy->ids[BIAS] = mabn_cudnn_tensor(g, strategy->bias, 1, l->s.out, 1, 1);
        const int sum = w->relu ? passing(g, l, like_x) : strategy->ids[OUT];
        mabn_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, sum, v, strategy->ids[BIAS]);
        v = sum;
    }
    if (w->relu) mabn_cudnn_pointwise(g, CUDNN_POINTWISE_RELU_FWD, strategy->ids[OUT], v, -1);
}

/* A value for each channel. */
int channels(struct mabn_cudnn_graph *g, const struct layer *l)
{
    return mabn_cudnn_tensor(g, MABN_DTYPE_F32, 1,
                             l->direction == MABN_CUDNN_DATA ? l->s.in : l->s.out, 1, 1);
}

/* out = scale·v + shift */
void draw_map(struct mabn_cudnn_graph *g, const struct layer *l, struct mabn_conv_library *strategy,
              int out, int v)
{
    const int scaled = passing(g, l, l->direction == MABN_CUDNN_DATA);

    strategy->ids[SCALE] = channels(g, l);
    strategy->ids[SHIFT] = channels(g, l);
    mabn_cudnn_pointwise(g, CUDNN_POINTWISE_MUL, scaled, v, strategy->ids[SCALE]);
    mabn_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, out, scaled, strategy->ids[SHIFT]);
}

/* SUM = Σ a, if requested; PRODUCTS = Σ a·b */
void draw_sums(struct mabn_cudnn_graph *g, const struct layer *l,
               struct mabn_conv_library *strategy, int a, int b)
{
    const int product = passing(g, l, l->direction == MABN_CUDNN_DATA);

    if (l->request.sum) {
        strategy->ids[SUM] = channels(g, l);
        mabn_cudnn_sum(g, strategy->ids[SUM], a);
    }
    mabn_cudnn_pointwise(g, CUDNN_POINTWISE_MUL, product, a, b);
    strategy->ids[PRODUCTS] = channels(g, l);
    mabn_cudnn_sum(g, strategy->ids[PRODUCTS], product);
}

/* After y: z = relu(scale·y + shift + residual), Σ y². */
void draw_norm_out(struct mabn_cudnn_graph *g, const struct layer *l,
                   struct mabn_conv_library *strategy, int y)
{
    const struct mabn_conv_request *w = &l->request;

    strategy->ids[Z] = picture(g, l, w->out, false);
    int v = w->add || w->relu ? passing(g, l, false) : strategy->ids[Z];
    draw_map(g, l, strategy, v, y);
    if (w->add) {
        const int sum = w->relu ? passing(g, l, false) : strategy->ids[Z];
        strategy->ids[RESIDUAL] = picture(g, l, w->out, false);
        mabn_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, sum, v, strategy->ids[RESIDUAL]);
        v = sum;
    }
    if (w->relu) mabn_cudnn_pointwise(g, CUDNN_POINTWISE_RELU_FWD, strategy->ids[Z], v, -1);
    draw_sums(g, l, strategy, y, y);
}

/* After the data gradient v: OUT = mask(v + before), Σ OUT·x, and Σ OUT if requested. */
void draw_norm_in(struct mabn_cudnn_graph *g, const struct layer *l,
                  struct mabn_conv_library *strategy, int v)
{
    const struct mabn_conv_request *w = &l->request;
    int of = -1; /* the mask: where this is above 0 */

    strategy->ids[X] = picture(g, l, w->out, true);
    if (w->add) {
        const int sum = w->mask ? passing(g, l, true) : strategy->ids[OUT];
        strategy->ids[BEFORE] = picture(g, l, w->out, true);
        mabn_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, sum, v, strategy->ids[BEFORE]);
        v = sum;
    }
    if (w->mask == MABN_CONV_MASK_Y) of = strategy->ids[Y] = picture(g, l, w->out, true);
    if (w->mask == MABN_CONV_MASK_X)
        draw_map(g, l, strategy, of = passing(g, l, true), strategy->ids[X]);
    if (w->mask) mabn_cudnn_pointwise(g, CUDNN_POINTWISE_RELU_BWD, strategy->ids[OUT], v, of);
    draw_sums(g, l, strategy, strategy->ids[OUT], strategy->ids[X]);
}

/* Is the convolution's result stored as an array, or only passed on? */
bool writes_result(const struct mabn_conv_request *w)
{
    switch (w->pass) {
    case MABN_CONV_FORWARD_NORM:
    case MABN_CONV_FORWARD_SUMS:
        return true;
    case MABN_CONV_BACKWARD_NORM:
        return !w->add && !w->mask;
    default:
        return !w->add && !w->bias && !w->relu;
    }
}

void draw(struct mabn_cudnn_graph *g, const struct layer *l, struct mabn_conv_library *strategy)
{
    const enum mabn_dtype dtype = l->options->dtype;
    const bool data = l->direction == MABN_CUDNN_DATA, filter = l->direction == MABN_CUDNN_FILTER;

    strategy->bias = dtype;
    strategy->ids[A] = picture(g, l, dtype, !data);
    strategy->ids[B] = filter ? picture(g, l, dtype, false) : filters(g, l, dtype);
    strategy->ids[OUT] =
        filter ? filters(g, l, l->request.out) : picture(g, l, l->request.out, data);
    const int v = writes_result(&l->request) ? strategy->ids[OUT] : passing(g, l, data);
    mabn_cudnn_convolve(g, l->direction, v, strategy->ids[A], strategy->ids[B], l->s.stride,
                        l->s.pad);
    if (l->request.pass == MABN_CONV_FORWARD_NORM)
        draw_norm_out(g, l, strategy, v);
    else if (l->request.pass == MABN_CONV_BACKWARD_NORM)
        draw_norm_in(g, l, strategy, v);
    else if (l->request.pass == MABN_CONV_FORWARD_SUMS)
        draw_sums(g, l, strategy, v, v);
    else if (!writes_result(&l->request))
        draw_end(g, l, strategy, v, data);
}

mabn_status add_plans(const struct layer *l, int max, strategies *all)
{
    const struct mabn_cudnn_target target = {
        mabn_cuda_cudnn(l->device), static_cast<cudnnHandle_t>(mabn_cuda_cudnn_handle(l->device)),
        NULL};
    const bool exact = l->options->dtype == MABN_DTYPE_F32 && !l->options->tf32;
    const struct mabn_cudnn_demands demands = {exact, false, WORKSPACE};
    struct mabn_cudnn_plan *plans[TUNE_PLANS];
    struct mabn_conv_library *drawn;
    int count = 0;

    if (!target.cudnn || !target.handle)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "there is no cuDNN");
    if (adds_gradient(l) && (!l->options->tune || is_product(&l->s)))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "cuDNN would compile a kernel");
    /* cuDNN does not document what happens to elements of dx that get no product of the
     * convolution. */
    if (l->request.pass == MABN_CONV_BACKWARD_NORM && l->s.stride > l->s.kernel)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "a data gradient with gaps is not joined");
    /* cuDNN 9.19 takes five seconds and more to find that it cannot compile this. */
    if (l->request.pass == MABN_CONV_BACKWARD_NORM && l->s.stride > 1 && l->request.sum)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "a strided data gradient has no two sums");
    struct mabn_cudnn_graph *g = mabn_cudnn_graph_new(&target);
    drawn = new_strategy(l);
    draw(g, l, drawn);
    mabn_status status = mabn_cudnn_plans(g, &demands, plans, max, &count);
    for (int i = 0; i < count; i++) {
        struct mabn_conv_library *strategy = new_strategy(l);
        *strategy = *drawn;
        strategy->plan = plans[i];
        snprintf(strategy->name, sizeof strategy->name, "cuDNN engine %lld",
                 (long long)mabn_cudnn_plan_engine(plans[i]));
        all->push_back(strategy);
    }
    free(drawn);
    mabn_cudnn_graph_free(g);
    return status;
}

/* ---- cuBLASLt ---- */

/* y = x·weightᵀ, dx = dy·weight, dweight = dyᵀ·x */
struct mabn_matmul_shape product_of(const struct layer *l)
{
    const int64_t positions = l->s.n * l->oh * l->ow;
    struct mabn_matmul_shape shape = {};

    shape.rows = positions;
    shape.dtype = l->options->dtype;
    shape.d_dtype = l->request.out;
    shape.tf32 = l->options->tf32;
    shape.bias = l->request.bias;
    switch (l->direction) {
    case MABN_CUDNN_FORWARD:
        shape.columns = l->s.out;
        shape.inner = l->s.in;
        shape.turn_b = true;
        break;
    case MABN_CUDNN_DATA:
        shape.columns = l->s.in;
        shape.inner = l->s.out;
        break;
    case MABN_CUDNN_FILTER:
        shape.rows = l->s.out;
        shape.columns = l->s.in;
        shape.inner = positions;
        shape.turn_a = true;
        break;
    }
    return shape;
}

mabn_status add_products(const struct layer *l, int max, strategies *all)
{
    const struct mabn_cublaslt *lt = mabn_cuda_cublaslt(l->device);
    const cublasLtHandle_t handle =
        static_cast<cublasLtHandle_t>(mabn_cuda_cublaslt_handle(l->device));
    const struct mabn_matmul_shape shape = product_of(l);

    if (!is_product(&l->s) || l->joined)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "not a matrix product");
    if (!lt || !handle) return mabn_fail(MABN_ERR_UNSUPPORTED, "there is no cuBLASLt");
    if (l->request.relu || (l->request.bias && l->request.out != MABN_DTYPE_F32))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "cuBLASLt adds no such bias");
    for (int i = 0; i < max; i++) {
        struct mabn_matmul *matmul;
        mabn_status status = mabn_matmul_new(&matmul, lt, handle, &shape, WORKSPACE, i);
        if (status) return i ? MABN_OK : status;
        struct mabn_conv_library *strategy = new_strategy(l);
        strategy->matmul = matmul;
        strategy->swap = l->direction == MABN_CUDNN_FILTER;
        strategy->bias = MABN_DTYPE_F32;
        snprintf(strategy->name, sizeof strategy->name, i ? "cuBLASLt %d" : "cuBLASLt", i);
        all->push_back(strategy);
    }
    return MABN_OK;
}

/* ---- which ---- */

bool products_first(const struct layer *l)
{
    if (!is_product(&l->s)) return false;
    if (l->s.h == 1 && l->s.w == 1) return true;
    return l->request.pass == MABN_CONV_BACKWARD_WEIGHTS || adds_gradient(l);
}

/* The first implementation, in the order above. */
mabn_status first_strategy(const struct layer *l, strategies *all)
{
    if (products_first(l) && add_products(l, 1, all) == MABN_OK) return MABN_OK;
    if (add_plans(l, 1, all) == MABN_OK) return MABN_OK;
    char *reason = mabn_error_detach();
    if (!products_first(l) && add_products(l, 1, all) == MABN_OK) {
        free(reason);
        return MABN_OK;
    }
    return mabn_error_attach(MABN_ERR_UNSUPPORTED, reason);
}

/* Values to time with: of either sign, from 1/2 to below 1 in all three types. Zeros would switch fewer
 * transistors and run faster. */
__global__ void fill_kernel(uint16_t *p, size_t words, uint16_t base, uint16_t mantissa)
{
    const size_t i = (size_t)blockIdx.x * FILL_BLOCK + threadIdx.x;
    if (i >= words) return;
    uint32_t h = (uint32_t)i * 2654435761u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    p[i] = (uint16_t)((h & 0x8000) | base | (h >> 16 & mantissa));
}

mabn_status fill(void *p, size_t bytes, enum mabn_dtype dtype, cudaStream_t stream)
{
    const size_t words = bytes / sizeof(uint16_t);
    const bool half = dtype == MABN_DTYPE_F16;
    return MABN_LAUNCH(fill_kernel, (unsigned)((words + FILL_BLOCK - 1) / FILL_BLOCK), FILL_BLOCK,
                       0, stream, static_cast<uint16_t *>(p), words, half ? 0x3800 : 0x3f00,
                       half ? 0x3ff : 0x7f);
}

/* Arrays of the right sizes and events, to time with. */
struct arrays {
    void *p[ARRAYS], *workspace;
    struct mabn_conv_cuda_norm_out norm_out;
    struct mabn_conv_cuda_norm_in norm_in;
    struct mabn_conv_arrays at;
    cudaEvent_t begin, end;

    arrays() : p(), workspace(), norm_out(), norm_in(), at(), begin(), end()
    {
    }
    arrays(const arrays &) = delete;
    arrays &operator=(const arrays &) = delete;
    ~arrays()
    {
        for (void *pointer : p)
            (void)cudaFree(pointer);
        (void)cudaFree(workspace);
        if (begin) (void)cudaEventDestroy(begin);
        if (end) (void)cudaEventDestroy(end);
    }
    mabn_status allocate(const struct layer *l, size_t space, cudaStream_t stream)
    {
        MABN_CUDA_TRY(cudaEventCreate(&begin));
        MABN_CUDA_TRY(cudaEventCreate(&end));
        for (int i = 0; i < ARRAYS; i++) {
            if (i == BEFORE || (i > BEFORE && !l->joined)) continue;
            MABN_CUDA_TRY(cudaMalloc(&p[i], count_of(l, i) * sizeof(float)));
            MABN_TRY(fill(p[i], count_of(l, i) * sizeof(float), l->options->dtype, stream));
        }
        if (space) MABN_CUDA_TRY(cudaMalloc(&workspace, space));
        MABN_CUDA_TRY(cudaDeviceSynchronize());
        const float *const a = static_cast<float *>(p[SCALE]), *b = static_cast<float *>(p[SHIFT]);
        float *const sum = static_cast<float *>(p[SUM]);
        float *const products = static_cast<float *>(p[PRODUCTS]);
        norm_out = {p[Z], p[RESIDUAL], a, b, products};
        norm_in = {p[X], p[Y], a, b, products, sum};
        at = {p[OUT], p[A], p[B], p[BIAS], &norm_out, &norm_in, sum, products}; /* the same a, b */
        return MABN_OK;
    }
};

/* The shortest time of a few samples, each of several runs back to back. */
mabn_status time_strategy(const struct layer *l, const struct mabn_conv_library *strategy,
                          const struct arrays *at, cudaStream_t stream, float *least)
{
    *least = INFINITY;
    for (int i = 0; i <= TUNE_SAMPLES; i++) {
        float ms;
        if (i) MABN_TRY(mabn_cuda_hold(l->device, TUNE_HOLD)); /* the first is not counted */
        MABN_CUDA_TRY(cudaEventRecord(at->begin, stream));
        for (int run = i ? TUNE_RUNS : 1; run; run--)
            MABN_TRY(mabn_conv_library_run(strategy, &at->at, at->workspace, stream));
        MABN_CUDA_TRY(cudaEventRecord(at->end, stream));
        MABN_CUDA_TRY(cudaEventSynchronize(at->end));
        MABN_CUDA_TRY(cudaEventElapsedTime(&ms, at->begin, at->end));
        if (i > 0) *least = std::min(*least, ms);
    }
    return MABN_OK;
}

/* The fastest of them; those that fail are skipped. *best is unchanged if none could be timed. */
mabn_status fastest_strategy(const struct layer *l, const strategies &all, size_t *best)
{
    const cudaStream_t stream = static_cast<cudaStream_t>(mabn_cuda_stream(l->device));
    size_t space = 0;
    float least = INFINITY;
    struct arrays at;

    for (const struct mabn_conv_library *strategy : all)
        space = std::max(space, mabn_conv_library_workspace(strategy));
    MABN_TRY(at.allocate(l, space, stream));
    for (size_t i = 0; i < all.size(); i++) {
        float ms;
        if (time_strategy(l, all[i], &at, stream, &ms)) {
            (void)cudaGetLastError(); /* of a launch that a library made */
            continue;
        }
        if (!(ms < least)) continue;
        least = ms;
        *best = i;
    }
    return MABN_OK;
}

mabn_status tuned_strategy(const struct layer *l, strategies *all)
{
    const size_t none = SIZE_MAX;
    size_t best = none;

    if (add_plans(l, l->joined || adds_gradient(l) ? TUNE_COMPILED : TUNE_PLANS, all) &&
        add_products(l, TUNE_PRODUCTS, all))
        return MABN_ERR_UNSUPPORTED;
    if (all->size() && (*all)[0]->plan) (void)add_products(l, TUNE_PRODUCTS, all);
    /* No memory for timing: take the first one that was not compiled, because a compiled one might
     * not run. */
    const mabn_status tried = fastest_strategy(l, *all, &best);
    if (best == none && (!tried || l->joined || (adds_gradient(l) && (*all)[0]->plan)))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "none of the libraries' kernels ran");
    if (best != none) std::swap((*all)[0], (*all)[best]);
    return MABN_OK;
}

} // namespace

mabn_status mabn_conv_library_new(struct mabn_conv_library **conv, struct mabn_device *device,
                                  const struct mabn_conv_shape *shape,
                                  const struct mabn_conv_cuda_options *options,
                                  const struct mabn_conv_request *request)
{
    const struct layer l = {device,
                            *shape,
                            mabn_conv_out(shape->h, shape->kernel, shape->stride, shape->pad),
                            mabn_conv_out(shape->w, shape->kernel, shape->stride, shape->pad),
                            options,
                            *request,
                            direction_of(request->pass),
                            request->pass == MABN_CONV_FORWARD_NORM ||
                                request->pass == MABN_CONV_BACKWARD_NORM ||
                                request->pass == MABN_CONV_FORWARD_SUMS};
    strategies all;

    const mabn_status status = options->tune ? tuned_strategy(&l, &all) : first_strategy(&l, &all);
    *conv = status ? NULL : all[0];
    for (size_t i = status ? 0 : 1; i < all.size(); i++)
        mabn_conv_library_free(all[i]);
    return status;
}

void mabn_conv_library_free(struct mabn_conv_library *conv)
{
    if (!conv) return;
    mabn_matmul_free(conv->matmul);
    mabn_cudnn_plan_free(conv->plan);
    free(conv);
}

size_t mabn_conv_library_workspace(const struct mabn_conv_library *conv)
{
    return conv->plan ? mabn_cudnn_plan_workspace(conv->plan) : mabn_matmul_workspace(conv->matmul);
}

enum mabn_dtype mabn_conv_library_bias(const struct mabn_conv_library *conv)
{
    return conv->bias;
}

const char *mabn_conv_library_name(const struct mabn_conv_library *conv)
{
    return conv->name;
}

/* What a plan's array is in this call. */
static const void *pointer_of(const struct mabn_conv_arrays *at, int array)
{
    const struct mabn_conv_cuda_norm_out *out = at->norm_out;
    const struct mabn_conv_cuda_norm_in *in = at->norm_in;

    switch (array) {
    case OUT:
    case BEFORE:
        return at->out;
    case A:
        return at->a;
    case B:
        return at->b;
    case BIAS:
        return at->bias;
    case Z:
        return out->z;
    case RESIDUAL:
        return out->residual;
    case X:
        return in->x;
    case Y:
        return in->y;
    case SCALE:
        return out ? out->a : in->a;
    case SHIFT:
        return out ? out->b : in->b;
    case SUM:
        return at->sum;
    default:
        return at->products;
    }
}

mabn_status mabn_conv_library_run(const struct mabn_conv_library *conv,
                                  const struct mabn_conv_arrays *at, void *workspace, void *stream)
{
    void *pointers[ARRAYS];
    int ids[ARRAYS], count = 0;

    if (conv->matmul)
        return mabn_matmul_run(conv->matmul, at->out, conv->swap ? at->b : at->a,
                               conv->swap ? at->a : at->b, static_cast<const float *>(at->bias),
                               conv->add, workspace, stream);
    for (int i = 0; i < ARRAYS; i++) {
        if (conv->ids[i] < 0) continue;
        ids[count] = conv->ids[i];
        pointers[count++] = const_cast<void *>(pointer_of(at, i));
    }
    return mabn_cudnn_run(conv->plan, ids, pointers, count, workspace, stream);
}
