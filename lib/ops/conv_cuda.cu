/* How each pass of conv_cuda.h is computed, and the steps around a library's call.
 *
 * A library is asked for the whole pass, with bias, addition and ReLU. If it has none, it computes
 * the convolution alone, and `finish` does the rest in one pass over the result. Results that the
 * library has only in `dtype`, or that must be added to existing values, go to the workspace first.
 * A pass with a normalization is done by a library as a whole or not at all. */
#include "ops/conv_cuda.h"

#include <stdio.h>

#include "base/mem.h"
#include "device/pack.cuh"
#include "ops/conv_cuda_library.h"
#include "ops/conv_cuda_reference.h"

/* How one pass is computed. */
struct strategy {
    bool there;                        /* it may be called */
    struct mabn_conv_library *library; /* NULL: the reference kernels do it */
    struct mabn_conv_request request;  /* of the pass */
    bool whole;                        /* it includes bias, addition and ReLU */
    bool apart;                        /* the library's result goes to the workspace */
    enum mabn_dtype result;            /* the type of the library's result */
    size_t result_at, bias_at;         /* in the workspace, after the library's own part */
    char name[48];
};

enum { FORWARD, DATA, DATA_ADD, WEIGHTS, FORWARD_NORM, BACKWARD_NORM, FORWARD_SUMS, STRATEGIES };

struct mabn_conv_cuda {
    struct mabn_conv_reference layer;
    struct strategy strategies[STRATEGIES];
    size_t workspace;
};

namespace
{

enum { THREADS = 128 };

dim3 blocks_for(int64_t items)
{
    return dim3((unsigned)((items + THREADS - 1) / THREADS));
}

__device__ __forceinline__ int64_t item_index(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

/* out = relu(out + v + bias), with the parts requested; v may be out. V values for each thread. */
template <typename T, typename O, int V>
__global__ void __launch_bounds__(THREADS)
    conv_finish(O *out, const T *v, const float *bias, bool add, bool relu, int64_t groups,
                int64_t channels)
{
    const int64_t group = item_index();
    float sum[V], other[V];

    if (group >= groups) return;
    mabn_load(sum, v + group * V);
    if (bias) {
        const int64_t c = group * V % channels;
        for (int k = 0; k < V; k++)
            sum[k] += bias[c + k];
    }
    if (add) {
        mabn_load(other, out + group * V);
        for (int k = 0; k < V; k++)
            sum[k] += other[k];
    }
    for (int k = 0; k < V; k++)
        if (relu && sum[k] < 0) sum[k] = 0;
    mabn_store(out + group * V, sum);
}

} // namespace

static mabn_status finish(void *out, enum mabn_dtype out_dtype, const void *v,
                          enum mabn_dtype v_dtype, const float *bias, bool add, bool relu,
                          int64_t rows, int64_t channels, cudaStream_t stream)
{
    const void *pointers[] = {out, v};
    /* Without a bias rows do not matter. */
    const int64_t row = bias ? channels : rows * channels;
    const bool wide =
        mabn_pack_fits(out_dtype, row, pointers, 2) && mabn_pack_fits(v_dtype, row, pointers, 2);

    return mabn_by_type(out_dtype, wide, [&](auto *o_type, auto o_width) {
        return mabn_by_type(v_dtype, wide, [&](auto *v_type, auto v_width) {
            using O = std::remove_pointer_t<decltype(o_type)>;
            using T = std::remove_pointer_t<decltype(v_type)>;
            constexpr int ow = decltype(o_width)::value, vw = decltype(v_width)::value;
            constexpr int V = ow < vw ? ow : vw;
            const int64_t groups = rows * channels / V;
            return MABN_LAUNCH((conv_finish<T, O, V>), blocks_for(groups), THREADS, 0, stream,
                               static_cast<O *>(out), static_cast<const T *>(v), bias, add, relu,
                               groups, channels);
        });
    });
}

/* ---- an implementation by the libraries ---- */

static size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* The size of a pass's result: this many rows of this many channels. */
static void extent(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass, int64_t *rows,
                   int64_t *channels)
{
    const struct mabn_conv_shape *s = &conv->layer.shape;

    *channels = pass == MABN_CONV_FORWARD ? s->out : s->in;
    *rows = s->out * s->kernel * s->kernel;
    if (pass == MABN_CONV_BACKWARD_DATA) *rows = s->n * s->h * s->w;
    if (pass == MABN_CONV_FORWARD)
        *rows = s->n * mabn_conv_out(s->h, s->kernel, s->stride, s->pad) *
                mabn_conv_out(s->w, s->kernel, s->stride, s->pad);
}

/* Find an implementation for `request`: as a whole, then without bias, addition and ReLU, then with a
 * result of `dtype`. */
static void find_strategy(struct mabn_conv_cuda *conv, struct mabn_device *device,
                          const struct mabn_conv_request *request, struct strategy *strategy)
{
    const struct mabn_conv_cuda_options *o = &conv->layer.options;
    const bool ends = request->bias || request->add || request->relu;
    const enum mabn_conv_mask none = MABN_CONV_MASK_NONE;
    const struct mabn_conv_request attempts[] = {
        *request,
        {request->pass, request->out, false, false, false, none, false},
        {request->pass, o->dtype, false, false, false, none, false}};

    for (int i = 0; i < 3 && !strategy->library; i++) {
        if ((i == 1 && !ends) || (i == 2 && request->out == o->dtype)) continue;
        if (mabn_conv_library_new(&strategy->library, device, &conv->layer.shape, o, &attempts[i]))
            continue;
        strategy->whole = i == 0;
        strategy->result = attempts[i].out;
        strategy->apart = i > 0 && (request->add || strategy->result != request->out);
    }
}

/* Where its parts of the workspace are, and its name. */
static void place_strategy(struct mabn_conv_cuda *conv, struct strategy *strategy)
{
    int64_t rows, channels;
    size_t bytes;

    snprintf(strategy->name, sizeof strategy->name, strategy->there ? "reference" : "none");
    if (!strategy->library) return;
    extent(conv, strategy->request.pass, &rows, &channels);
    strategy->result_at = aligned(mabn_conv_library_workspace(strategy->library));
    strategy->bias_at = strategy->result_at;
    if (strategy->apart)
        strategy->bias_at += aligned((size_t)(rows * channels) * mabn_dtype_size(strategy->result));
    bytes = strategy->bias_at;
    if (strategy->request.bias) bytes += aligned((size_t)conv->layer.shape.out * sizeof(float));
    if (bytes > conv->workspace) conv->workspace = bytes;
    snprintf(strategy->name, sizeof strategy->name, "%s%s",
             mabn_conv_library_name(strategy->library), strategy->whole ? "" : " and a pass");
}

/* Is it never called? */
static bool excluded(const struct mabn_conv_cuda_options *o, int strategy)
{
    switch (strategy) {
    case FORWARD:
        return false;
    case DATA:
        return !o->training || o->no_dx;
    case DATA_ADD:
        return !o->training || o->no_dx || o->no_add;
    case FORWARD_NORM:
        return !o->after.requested;
    case BACKWARD_NORM:
        return !o->before.requested;
    case FORWARD_SUMS:
        return !o->after.sums;
    default:
        return !o->training;
    }
}

/* A pass with a normalization: by a library, unless the pass without it uses the reference kernels
 * too. */
static void find_joined(struct mabn_conv_cuda *conv, struct mabn_device *device,
                        const struct strategy *alone, struct strategy *strategy)
{
    strategy->whole = true;
    strategy->there =
        !alone->library || !mabn_conv_library_new(&strategy->library, device, &conv->layer.shape,
                                                  &conv->layer.options, &strategy->request);
}

static void find(struct mabn_conv_cuda *conv, struct mabn_device *device, int i)
{
    struct strategy *strategy = &conv->strategies[i];

    if (i == FORWARD_NORM || i == FORWARD_SUMS)
        find_joined(conv, device, &conv->strategies[FORWARD], strategy);
    else if (i == BACKWARD_NORM)
        find_joined(conv, device, &conv->strategies[DATA], strategy);
    else if (device && !conv->layer.options.reference)
        find_strategy(conv, device, &strategy->request, strategy);
}

static void plan(struct mabn_conv_cuda *conv, struct mabn_device *device)
{
    const struct mabn_conv_cuda_options *o = &conv->layer.options;
    const enum mabn_conv_mask none = MABN_CONV_MASK_NONE;
    const struct mabn_conv_request requests[STRATEGIES] = {
        {MABN_CONV_FORWARD, o->y_dtype, o->bias, o->add, o->relu, none, false},
        {MABN_CONV_BACKWARD_DATA, o->dtype, false, false, false, none, false},
        {MABN_CONV_BACKWARD_DATA, o->dtype, false, true, false, none, false},
        {MABN_CONV_BACKWARD_WEIGHTS, MABN_DTYPE_F32, false, false, false, none, false},
        {MABN_CONV_FORWARD_NORM, o->dtype, false, o->after.residual, o->after.relu, none, false},
        {MABN_CONV_BACKWARD_NORM, o->dtype, false, o->before.add, false, o->before.mask,
         o->before.sum},
        {MABN_CONV_FORWARD_SUMS, o->dtype, false, false, false, none, true}};

    for (int i = 0; i < STRATEGIES; i++) {
        struct strategy *strategy = &conv->strategies[i];
        strategy->request = requests[i];
        strategy->there = !excluded(o, i);
        if (strategy->there) find(conv, device, i);
        place_strategy(conv, strategy);
    }
    mabn_error_clear();
}

/* The bias in type `dtype`, converted in the workspace if necessary. */
static mabn_status bias_as(const struct mabn_conv_cuda *conv, const struct strategy *strategy,
                           enum mabn_dtype dtype, const void **bias, char *workspace,
                           cudaStream_t stream)
{
    const enum mabn_dtype given = conv->layer.options.bias_dtype;

    if (!*bias || given == dtype) return MABN_OK;
    MABN_TRY(finish(workspace + strategy->bias_at, dtype, *bias, given, NULL, false, false, 1,
                    conv->layer.shape.out, stream));
    *bias = workspace + strategy->bias_at;
    return MABN_OK;
}

static mabn_status run_strategy(const struct mabn_conv_cuda *conv, const struct strategy *strategy,
                                void *out, const void *a, const void *b, const void *bias,
                                void *workspace, cudaStream_t stream)
{
    char *const space = static_cast<char *>(workspace);
    const struct mabn_conv_request *request = &strategy->request;
    void *const result = strategy->apart ? space + strategy->result_at : out;
    int64_t rows, channels;

    MABN_TRY(bias_as(conv, strategy,
                     strategy->whole ? mabn_conv_library_bias(strategy->library) : MABN_DTYPE_F32,
                     &bias, space, stream));
    const struct mabn_conv_arrays arrays = {result, a,    b,    strategy->whole ? bias : NULL,
                                            NULL,   NULL, NULL, NULL};
    MABN_TRY(mabn_conv_library_run(strategy->library, &arrays, workspace, stream));
    if (strategy->whole) return MABN_OK;
    extent(conv, request->pass, &rows, &channels);
    return finish(out, request->out, result, strategy->result, static_cast<const float *>(bias),
                  request->add, request->relu, rows, channels, stream);
}

/* ---- the interface ---- */

static mabn_status check(const struct mabn_conv_shape *shape,
                         const struct mabn_conv_cuda_options *o)
{
    if (shape->n < 1 || shape->in < 1 || shape->out < 1 || shape->stride < 1 || shape->pad < 0 ||
        mabn_conv_out(shape->h, shape->kernel, shape->stride, shape->pad) < 1 ||
        mabn_conv_out(shape->w, shape->kernel, shape->stride, shape->pad) < 1)
        return mabn_fail(MABN_ERR_ARG, "convolution: empty shape");
    if (o->y_dtype != o->dtype && o->y_dtype != MABN_DTYPE_F32)
        return mabn_fail(MABN_ERR_ARG, "convolution: %s from %s", mabn_dtype_name(o->y_dtype),
                         mabn_dtype_name(o->dtype));
    if (o->bias_dtype != o->dtype && o->bias_dtype != MABN_DTYPE_F32)
        return mabn_fail(MABN_ERR_ARG, "convolution: a bias of %s", mabn_dtype_name(o->bias_dtype));
    if (o->training && (o->add || o->relu))
        return mabn_fail(MABN_ERR_ARG, "convolution: add and relu are for inference");
    if ((o->after.requested || o->after.sums) &&
        (!o->training || o->bias || o->y_dtype != o->dtype))
        return mabn_fail(MABN_ERR_ARG, "convolution: no normalization joins its result");
    if (o->before.requested && (!o->training || o->no_dx))
        return mabn_fail(MABN_ERR_ARG, "convolution: no normalization joins its data gradient");
    return MABN_OK;
}

mabn_status mabn_conv_cuda_new(struct mabn_conv_cuda **conv, struct mabn_device *device,
                               const struct mabn_conv_shape *shape,
                               const struct mabn_conv_cuda_options *options)
{
    *conv = NULL;
    MABN_TRY(check(shape, options));
    *conv = static_cast<struct mabn_conv_cuda *>(mabn_xcalloc(1, sizeof **conv));
    (*conv)->layer.shape = *shape;
    (*conv)->layer.options = *options;
    plan(*conv, device);
    return MABN_OK;
}

void mabn_conv_cuda_free(struct mabn_conv_cuda *conv)
{
    if (!conv) return;
    for (int i = 0; i < STRATEGIES; i++) {
        const struct strategy *strategy = &conv->strategies[i];
        mabn_conv_library_free(strategy->library);
    }
    free(conv);
}

size_t mabn_conv_cuda_workspace(const struct mabn_conv_cuda *conv)
{
    return conv->workspace;
}

static const struct strategy *strategy_of(const struct mabn_conv_cuda *conv,
                                          enum mabn_conv_pass pass)
{
    static const int strategies[] = {FORWARD,      DATA,          WEIGHTS,
                                     FORWARD_NORM, BACKWARD_NORM, FORWARD_SUMS};

    return &conv->strategies[strategies[pass]];
}

const char *mabn_conv_cuda_describe(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass)
{
    return strategy_of(conv, pass)->name;
}

bool mabn_conv_cuda_joins(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass)
{
    return strategy_of(conv, pass)->there;
}

static mabn_status forward(const struct mabn_conv_cuda *conv, void *y, const void *x,
                           const void *weight, const void *bias, void *workspace, void *stream)
{
    const struct strategy *strategy = &conv->strategies[FORWARD];
    const cudaStream_t in = static_cast<cudaStream_t>(stream);

    if (!bias != !conv->layer.options.bias)
        return mabn_fail(MABN_ERR_ARG, "convolution: expected %s, as the options say",
                         bias ? "no bias" : "a bias");
    if (strategy->library) return run_strategy(conv, strategy, y, x, weight, bias, workspace, in);
    return mabn_conv_reference_forward(&conv->layer, y, x, weight, bias, stream);
}

mabn_status mabn_conv_cuda_infer(struct mabn_conv_cuda *conv, void *y, const void *x,
                                 const void *weight, const void *bias, void *workspace,
                                 void *stream)
{
    return forward(conv, y, x, weight, bias, workspace, stream);
}

mabn_status mabn_conv_cuda_forward(struct mabn_conv_cuda *conv, void *y, const void *x,
                                   const void *weight, const void *bias, void *workspace,
                                   void *stream)
{
    return forward(conv, y, x, weight, bias, workspace, stream);
}

mabn_status mabn_conv_cuda_backward_data(struct mabn_conv_cuda *conv, void *dx, const void *dy,
                                         const void *weight, bool add, void *workspace,
                                         void *stream)
{
    const struct strategy *strategy = &conv->strategies[add ? DATA_ADD : DATA];
    const cudaStream_t in = static_cast<cudaStream_t>(stream);

    if (!strategy->there)
        return mabn_fail(MABN_ERR_ARG, "convolution: the options exclude this data gradient");
    if (strategy->library) return run_strategy(conv, strategy, dx, dy, weight, NULL, workspace, in);
    return mabn_conv_reference_backward_data(&conv->layer, dx, dy, weight, add, stream);
}

mabn_status mabn_conv_cuda_backward_weights(struct mabn_conv_cuda *conv, float *dweight,
                                            float *dbias, const void *x, const void *dy,
                                            void *workspace, void *stream)
{
    const struct strategy *strategy = &conv->strategies[WEIGHTS];
    const cudaStream_t in = static_cast<cudaStream_t>(stream);

    if (dbias) MABN_TRY(mabn_conv_reference_backward_bias(&conv->layer, dbias, dy, stream));
    if (strategy->library) return run_strategy(conv, strategy, dweight, x, dy, NULL, workspace, in);
    return mabn_conv_reference_backward_weights(&conv->layer, dweight, x, dy, stream);
}

mabn_status mabn_conv_cuda_forward_norm(struct mabn_conv_cuda *conv, void *y, const void *x,
                                        const void *weight,
                                        const struct mabn_conv_cuda_norm_out *norm, void *workspace,
                                        void *stream)
{
    const struct strategy *strategy = &conv->strategies[FORWARD_NORM];
    const struct mabn_conv_arrays arrays = {y, x, weight, NULL, norm, NULL, NULL, norm->square};

    if (!strategy->there || !norm->residual != !strategy->request.add)
        return mabn_fail(MABN_ERR_ARG, "convolution: no such normalization joins it");
    if (strategy->library)
        return mabn_conv_library_run(strategy->library, &arrays, workspace, stream);
    return mabn_conv_reference_forward_norm(&conv->layer, y, x, weight, norm, stream);
}

mabn_status mabn_conv_cuda_forward_sums(struct mabn_conv_cuda *conv, void *y, const void *x,
                                        const void *weight, float *sum, float *square,
                                        void *workspace, void *stream)
{
    const struct strategy *strategy = &conv->strategies[FORWARD_SUMS];
    const struct mabn_conv_arrays arrays = {y, x, weight, NULL, NULL, NULL, sum, square};

    if (!strategy->there) return mabn_fail(MABN_ERR_ARG, "convolution: it leaves no sums");
    if (strategy->library)
        return mabn_conv_library_run(strategy->library, &arrays, workspace, stream);
    return mabn_conv_reference_forward_sums(&conv->layer, y, x, weight, sum, square, stream);
}

mabn_status mabn_conv_cuda_backward_norm(struct mabn_conv_cuda *conv, void *dx, const void *dy,
                                         const void *weight,
                                         const struct mabn_conv_cuda_norm_in *norm, void *workspace,
                                         void *stream)
{
    const struct strategy *strategy = &conv->strategies[BACKWARD_NORM];
    const struct mabn_conv_arrays arrays = {dx, dy, weight, NULL, NULL, norm, norm->sum, norm->dot};

    if (!strategy->there) return mabn_fail(MABN_ERR_ARG, "convolution: no normalization joins it");
    if (strategy->library)
        return mabn_conv_library_run(strategy->library, &arrays, workspace, stream);
    return mabn_conv_reference_backward_norm(&conv->layer, dx, dy, weight, norm, stream);
}
