/* See conv_cuda_fast.h.
 *
 * cuDNN is asked first, but for a fully connected layer, and for what a matrix product does and
 * cuDNN does not: a 1×1 convolution's gradients, float32 from half-width factors, or added to what
 * is there, without a further pass. A bias is added in the activations' type: cuDNN has such
 * kernels ready, while one of float32 has it compile a kernel for a second or more; so does adding a
 * gradient, which is left to a pass of our own (or to tuning). */
#include "ops/conv_cuda_fast.h"

#include <stdio.h>

#include <algorithm>
#include <vector>

#include "base/mem.h"
#include "device/cuda.h"
#include "device/cuda_libraries.h"
#include "device/launch.cuh"
#include "ops/cublaslt_matmul.h"
#include "ops/cudnn_graph.h"

struct mabn_conv_fast {
    char name[32];
    bool add;
    enum mabn_dtype bias;
    struct mabn_matmul *matmul; /* one of the two */
    bool swap;                  /* the product's first factor is b */
    struct mabn_cudnn_plan *plan;
    int out, a, b, bias_id, before; /* ids in the plan; -1: none */
};

namespace
{

enum { TUNE_PLANS = 8, TUNE_PRODUCTS = 3, TUNE_SAMPLES = 5 };
const size_t WORKSPACE = (size_t)512 << 20;

struct layer {
    struct mabn_device *device;
    struct mabn_conv_shape s;
    int64_t oh, ow;
    const struct mabn_conv_cuda_options *options;
    struct mabn_conv_want want;
};

typedef std::vector<struct mabn_conv_fast *> ways;

struct mabn_conv_fast *new_way(const struct layer *l)
{
    struct mabn_conv_fast *way = static_cast<struct mabn_conv_fast *>(mabn_xcalloc(1, sizeof *way));
    way->add = l->want.add;
    way->bias_id = way->before = -1;
    return way;
}

/* ---- cuDNN ---- */

int picture(struct mabn_cudnn_graph *g, const struct layer *l, enum mabn_dtype dtype, bool is_x)
{
    if (is_x) return mabn_cudnn_tensor(g, dtype, l->s.n, l->s.in, l->s.h, l->s.w);
    return mabn_cudnn_tensor(g, dtype, l->s.n, l->s.out, l->oh, l->ow);
}

int passing(struct mabn_cudnn_graph *g, const struct layer *l, bool is_x)
{
    if (is_x) return mabn_cudnn_virtual(g, l->s.n, l->s.in, l->s.h, l->s.w);
    return mabn_cudnn_virtual(g, l->s.n, l->s.out, l->oh, l->ow);
}

int filters(struct mabn_cudnn_graph *g, const struct layer *l, enum mabn_dtype dtype)
{
    return mabn_cudnn_tensor(g, dtype, l->s.out, l->s.in, l->s.kernel, l->s.kernel);
}

/* out = relu(before + v + bias), what of it is wanted; the order is that of the kernels that cuDNN
 * has ready. */
void draw_end(struct mabn_cudnn_graph *g, const struct layer *l, struct mabn_conv_fast *way, int v,
              bool is_x)
{
    const struct mabn_conv_want *w = &l->want;

    if (w->add) {
        way->before = picture(g, l, w->out, is_x);
        const int sum = w->bias || w->relu ? passing(g, l, is_x) : way->out;
        mabn_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, sum, v, way->before);
        v = sum;
    }
    if (w->bias) {
        way->bias_id = mabn_cudnn_tensor(g, way->bias, 1, l->s.out, 1, 1);
        const int sum = w->relu ? passing(g, l, is_x) : way->out;
        mabn_cudnn_pointwise(g, CUDNN_POINTWISE_ADD, sum, v, way->bias_id);
        v = sum;
    }
    if (w->relu) mabn_cudnn_pointwise(g, CUDNN_POINTWISE_RELU_FWD, way->out, v, -1);
}

void draw(struct mabn_cudnn_graph *g, const struct layer *l, struct mabn_conv_fast *way)
{
    const enum mabn_dtype dtype = l->options->dtype;
    const bool ends = l->want.add || l->want.bias || l->want.relu;
    const bool is_x = l->want.pass == MABN_CONV_BACKWARD_DATA;
    enum mabn_cudnn_direction direction = MABN_CUDNN_FORWARD;

    way->bias = dtype;
    switch (l->want.pass) {
    case MABN_CONV_FORWARD:
        way->a = picture(g, l, dtype, true);
        way->b = filters(g, l, dtype);
        break;
    case MABN_CONV_BACKWARD_DATA:
        direction = MABN_CUDNN_DATA;
        way->a = picture(g, l, dtype, false);
        way->b = filters(g, l, dtype);
        break;
    case MABN_CONV_BACKWARD_WEIGHTS:
        direction = MABN_CUDNN_FILTER;
        way->a = picture(g, l, dtype, true);
        way->b = picture(g, l, dtype, false);
        break;
    }
    way->out = direction == MABN_CUDNN_FILTER ? filters(g, l, l->want.out)
                                              : picture(g, l, l->want.out, is_x);
    const int v = ends ? passing(g, l, is_x) : way->out;
    mabn_cudnn_convolve(g, direction, v, way->a, way->b, l->s.stride, l->s.pad);
    if (ends) draw_end(g, l, way, v, is_x);
}

mabn_status add_plans(const struct layer *l, int max, ways *all)
{
    const struct mabn_cudnn_target target = {
        mabn_cuda_cudnn(l->device), static_cast<cudnnHandle_t>(mabn_cuda_cudnn_handle(l->device)),
        NULL};
    const bool exact = l->options->dtype == MABN_DTYPE_F32 && !l->options->tf32;
    const struct mabn_cudnn_demands demands = {exact, false, WORKSPACE};
    struct mabn_cudnn_plan *plans[TUNE_PLANS];
    struct mabn_conv_fast *drawn;
    int count = 0;

    if (!target.cudnn || !target.handle)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "there is no cuDNN");
    if (l->want.pass == MABN_CONV_BACKWARD_DATA && l->want.add && !l->options->tune)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "cuDNN would compile a kernel");
    struct mabn_cudnn_graph *g = mabn_cudnn_graph_new(&target);
    drawn = new_way(l);
    draw(g, l, drawn);
    mabn_status status = mabn_cudnn_plans(g, &demands, plans, max, &count);
    for (int i = 0; i < count; i++) {
        struct mabn_conv_fast *way = new_way(l);
        *way = *drawn;
        way->plan = plans[i];
        snprintf(way->name, sizeof way->name, "cuDNN engine %lld",
                 (long long)mabn_cudnn_plan_engine(plans[i]));
        all->push_back(way);
    }
    free(drawn);
    mabn_cudnn_graph_free(g);
    return status;
}

/* ---- cuBLASLt ---- */

bool is_product(const struct mabn_conv_shape *s)
{
    return s->kernel == 1 && s->stride == 1 && s->pad == 0;
}

/* y = x·weightᵀ, dx = dy·weight, dweight = dyᵀ·x */
struct mabn_matmul_shape product_of(const struct layer *l)
{
    const int64_t positions = l->s.n * l->oh * l->ow;
    struct mabn_matmul_shape shape = {};

    shape.rows = positions;
    shape.dtype = l->options->dtype;
    shape.d_dtype = l->want.out;
    shape.tf32 = l->options->tf32;
    shape.bias = l->want.bias;
    switch (l->want.pass) {
    case MABN_CONV_FORWARD:
        shape.columns = l->s.out;
        shape.inner = l->s.in;
        shape.turn_b = true;
        break;
    case MABN_CONV_BACKWARD_DATA:
        shape.columns = l->s.in;
        shape.inner = l->s.out;
        break;
    case MABN_CONV_BACKWARD_WEIGHTS:
        shape.rows = l->s.out;
        shape.columns = l->s.in;
        shape.inner = positions;
        shape.turn_a = true;
        break;
    }
    return shape;
}

mabn_status add_products(const struct layer *l, int max, ways *all)
{
    const struct mabn_cublaslt *lt = mabn_cuda_cublaslt(l->device);
    const cublasLtHandle_t handle =
        static_cast<cublasLtHandle_t>(mabn_cuda_cublaslt_handle(l->device));
    const struct mabn_matmul_shape shape = product_of(l);

    if (!is_product(&l->s)) return mabn_fail(MABN_ERR_UNSUPPORTED, "not a matrix product");
    if (!lt || !handle) return mabn_fail(MABN_ERR_UNSUPPORTED, "there is no cuBLASLt");
    if (l->want.relu || (l->want.bias && l->want.out != MABN_DTYPE_F32))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "cuBLASLt adds no such bias");
    for (int i = 0; i < max; i++) {
        struct mabn_matmul *matmul;
        mabn_status status = mabn_matmul_new(&matmul, lt, handle, &shape, WORKSPACE, i);
        if (status) return i ? MABN_OK : status;
        struct mabn_conv_fast *way = new_way(l);
        way->matmul = matmul;
        way->swap = l->want.pass == MABN_CONV_BACKWARD_WEIGHTS;
        way->bias = MABN_DTYPE_F32;
        snprintf(way->name, sizeof way->name, i ? "cuBLASLt %d" : "cuBLASLt", i);
        all->push_back(way);
    }
    return MABN_OK;
}

/* ---- which ---- */

bool products_first(const struct layer *l)
{
    if (!is_product(&l->s)) return false;
    if (l->s.h == 1 && l->s.w == 1) return true;
    return l->want.pass == MABN_CONV_BACKWARD_WEIGHTS ||
           (l->want.pass == MABN_CONV_BACKWARD_DATA && l->want.add);
}

/* The first way, in the order above. */
mabn_status first_way(const struct layer *l, ways *all)
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

/* Arrays of the right sizes, to time with. */
struct arrays {
    void *out, *a, *b, *bias, *workspace;

    explicit arrays(const struct layer *l) : out(), a(), b(), bias(), workspace()
    {
        const size_t x = (size_t)(l->s.n * l->s.h * l->s.w * l->s.in);
        const size_t y = (size_t)(l->s.n * l->oh * l->ow * l->s.out);
        const size_t w = (size_t)(l->s.out * l->s.in * l->s.kernel * l->s.kernel);
        sizes[0] = l->want.pass == MABN_CONV_FORWARD         ? y
                   : l->want.pass == MABN_CONV_BACKWARD_DATA ? x
                                                             : w;
        sizes[1] = l->want.pass == MABN_CONV_BACKWARD_DATA ? y : x;
        sizes[2] = l->want.pass == MABN_CONV_BACKWARD_WEIGHTS ? y : w;
        sizes[3] = (size_t)l->s.out;
    }
    ~arrays()
    {
        for (void *p : {out, a, b, bias, workspace})
            (void)cudaFree(p);
    }
    mabn_status allocate(size_t space)
    {
        void **const list[] = {&out, &a, &b, &bias};
        for (int i = 0; i < 4; i++) {
            MABN_CUDA_TRY(cudaMalloc(list[i], sizes[i] * sizeof(float)));
            MABN_CUDA_TRY(cudaMemset(*list[i], 0, sizes[i] * sizeof(float)));
        }
        if (space) MABN_CUDA_TRY(cudaMalloc(&workspace, space));
        MABN_CUDA_TRY(cudaDeviceSynchronize());
        return MABN_OK;
    }

  private:
    size_t sizes[4];
};

/* The least time of a few runs. */
mabn_status time_way(const struct mabn_conv_fast *way, const struct arrays *at, cudaStream_t stream,
                     cudaEvent_t begin, cudaEvent_t end, float *least)
{
    *least = INFINITY;
    for (int i = 0; i <= TUNE_SAMPLES; i++) {
        float ms;
        MABN_CUDA_TRY(cudaEventRecord(begin, stream));
        MABN_TRY(mabn_conv_fast_run(way, at->out, at->a, at->b, at->bias, at->workspace, stream));
        MABN_CUDA_TRY(cudaEventRecord(end, stream));
        MABN_CUDA_TRY(cudaEventSynchronize(end));
        MABN_CUDA_TRY(cudaEventElapsedTime(&ms, begin, end));
        if (i > 0) *least = std::min(*least, ms);
    }
    return MABN_OK;
}

/* Which of them is the fastest; where one fails it is passed over. */
mabn_status fastest_way(const struct layer *l, const ways &all, size_t *best)
{
    const cudaStream_t stream = static_cast<cudaStream_t>(mabn_cuda_stream(l->device));
    cudaEvent_t begin, end;
    size_t space = 0;
    float least = INFINITY;
    struct arrays at(l);

    for (const struct mabn_conv_fast *way : all)
        space = std::max(space, mabn_conv_fast_workspace(way));
    MABN_TRY(at.allocate(space));
    MABN_CUDA_TRY(cudaEventCreate(&begin));
    MABN_CUDA_TRY(cudaEventCreate(&end));
    for (size_t i = 0; i < all.size(); i++) {
        float ms;
        if (time_way(all[i], &at, stream, begin, end, &ms) || !(ms < least)) continue;
        least = ms;
        *best = i;
    }
    (void)cudaEventDestroy(begin);
    (void)cudaEventDestroy(end);
    return MABN_OK;
}

mabn_status tuned_way(const struct layer *l, ways *all)
{
    size_t best = 0;

    if (add_plans(l, TUNE_PLANS, all) && add_products(l, TUNE_PRODUCTS, all))
        return MABN_ERR_UNSUPPORTED;
    if (all->size() && (*all)[0]->plan) (void)add_products(l, TUNE_PRODUCTS, all);
    if (fastest_way(l, *all, &best)) best = 0; /* no room to try: the first */
    std::swap((*all)[0], (*all)[best]);
    return MABN_OK;
}

} // namespace

mabn_status mabn_conv_fast_new(struct mabn_conv_fast **fast, struct mabn_device *device,
                               const struct mabn_conv_shape *shape,
                               const struct mabn_conv_cuda_options *options,
                               const struct mabn_conv_want *want)
{
    const struct layer l = {device,
                            *shape,
                            mabn_conv_out(shape->h, shape->kernel, shape->stride, shape->pad),
                            mabn_conv_out(shape->w, shape->kernel, shape->stride, shape->pad),
                            options,
                            *want};
    ways all;

    *fast = NULL;
    MABN_TRY(options->tune ? tuned_way(&l, &all) : first_way(&l, &all));
    *fast = all[0];
    for (size_t i = 1; i < all.size(); i++)
        mabn_conv_fast_free(all[i]);
    return MABN_OK;
}

void mabn_conv_fast_free(struct mabn_conv_fast *fast)
{
    if (!fast) return;
    mabn_matmul_free(fast->matmul);
    mabn_cudnn_plan_free(fast->plan);
    free(fast);
}

size_t mabn_conv_fast_workspace(const struct mabn_conv_fast *fast)
{
    return fast->plan ? mabn_cudnn_plan_workspace(fast->plan) : mabn_matmul_workspace(fast->matmul);
}

enum mabn_dtype mabn_conv_fast_bias(const struct mabn_conv_fast *fast)
{
    return fast->bias;
}

const char *mabn_conv_fast_name(const struct mabn_conv_fast *fast)
{
    return fast->name;
}

mabn_status mabn_conv_fast_run(const struct mabn_conv_fast *fast, void *out, const void *a,
                               const void *b, const void *bias, void *workspace, void *stream)
{
    const int all_ids[] = {fast->out, fast->a, fast->b, fast->bias_id, fast->before};
    void *const all[] = {out, const_cast<void *>(a), const_cast<void *>(b),
                         const_cast<void *>(bias), out};
    void *pointers[5];
    int ids[5], count = 0;

    if (fast->matmul)
        return mabn_matmul_run(fast->matmul, out, fast->swap ? b : a, fast->swap ? a : b,
                               static_cast<const float *>(bias), fast->add, workspace, stream);
    for (int i = 0; i < 5; i++) {
        if (all_ids[i] < 0) continue;
        ids[count] = all_ids[i];
        pointers[count++] = all[i];
    }
    return mabn_cudnn_run(fast->plan, ids, pointers, count, workspace, stream);
}
