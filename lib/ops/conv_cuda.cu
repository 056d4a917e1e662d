/* The plain convolution, slow and right, and what surrounds a library's: see conv_cuda.h.
 *
 * A pass of a library is asked for whole, bias, addition and ReLU in it. Where it has no such, it
 * computes the convolution alone and `finish` does the rest in one pass over the result; where it
 * only has results of `dtype`, or they are to be added to what is there, they go to the workspace
 * first. */
#include "ops/conv_cuda.h"

#include <stdio.h>

#include "base/mem.h"
#include "device/pack.cuh"
#include "ops/conv_cuda_fast.h"

/* How a library does one pass. */
struct way {
    struct mabn_conv_fast *fast; /* NULL: the plain kernels do it */
    struct mabn_conv_want want;  /* of the pass */
    bool whole;                  /* want's end is in it */
    bool apart;                  /* its result goes to the workspace */
    enum mabn_dtype result;      /* the type of that */
    size_t result_at, bias_at;   /* in the workspace, after the library's own part */
    char name[48];
};

enum { FORWARD, DATA, DATA_ADD, WEIGHTS, WAYS };

struct mabn_conv_cuda {
    struct mabn_conv_shape shape;
    struct mabn_conv_cuda_options options;
    int64_t oh, ow;
    struct way ways[WAYS];
    size_t workspace;
};

namespace
{

enum { THREADS = 128 };

struct sizes {
    int64_t n, h, w, in, oh, ow, out;
    int kernel, stride, pad;
};

struct sizes sizes_of(const struct mabn_conv_cuda *conv)
{
    const struct mabn_conv_shape *s = &conv->shape;
    return {s->n, s->h, s->w, s->in, conv->oh, conv->ow, s->out, s->kernel, s->stride, s->pad};
}

dim3 blocks_for(int64_t items)
{
    return dim3((unsigned)((items + THREADS - 1) / THREADS));
}

__device__ __forceinline__ int64_t item_index(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

/* A bias is float32, or of the activations' type. */
template <typename T>
__device__ __forceinline__ float bias_of(const void *bias, bool is_float, int64_t o)
{
    if (!bias) return 0;
    if (is_float) return static_cast<const float *>(bias)[o];
    return mabn_to_float(static_cast<const T *>(bias)[o]);
}

template <typename T, typename Y>
__global__ void __launch_bounds__(THREADS)
    conv_forward(Y *y, const T *x, const T *weight, const void *bias, bool float_bias, bool add,
                 bool relu, struct sizes s)
{
    const int64_t i = item_index(), o = i % s.out, ox = i / s.out % s.ow;
    const int64_t oy = i / s.out / s.ow % s.oh, n = i / s.out / s.ow / s.oh;
    double sum = 0;

    if (n >= s.n) return;
    for (int ky = 0; ky < s.kernel; ky++)
        for (int kx = 0; kx < s.kernel; kx++) {
            const int64_t iy = oy * s.stride - s.pad + ky, ix = ox * s.stride - s.pad + kx;
            if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
            const T *p = x + ((n * s.h + iy) * s.w + ix) * s.in;
            const T *k = weight + ((o * s.kernel + ky) * s.kernel + kx) * s.in;
            for (int64_t c = 0; c < s.in; c++)
                sum += mabn_to_float(p[c]) * mabn_to_float(k[c]);
        }
    sum += bias_of<T>(bias, float_bias, o);
    const float v = (float)(sum + (add ? mabn_to_float(y[i]) : 0));
    mabn_from_float(y + i, relu && v < 0 ? 0 : v);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    conv_backward_data(T *dx, const T *dy, const T *weight, bool add, struct sizes s)
{
    const int64_t i = item_index(), c = i % s.in, ix = i / s.in % s.w;
    const int64_t iy = i / s.in / s.w % s.h, n = i / s.in / s.w / s.h;
    double sum = 0;

    if (n >= s.n) return;
    for (int ky = 0; ky < s.kernel; ky++)
        for (int kx = 0; kx < s.kernel; kx++) {
            const int64_t ty = iy + s.pad - ky, tx = ix + s.pad - kx;
            if (ty < 0 || tx < 0 || ty % s.stride || tx % s.stride) continue;
            const int64_t oy = ty / s.stride, ox = tx / s.stride;
            if (oy >= s.oh || ox >= s.ow) continue;
            const T *p = dy + ((n * s.oh + oy) * s.ow + ox) * s.out;
            for (int64_t o = 0; o < s.out; o++)
                sum += mabn_to_float(p[o]) *
                       mabn_to_float(weight[((o * s.kernel + ky) * s.kernel + kx) * s.in + c]);
        }
    mabn_from_float(dx + i, (float)(sum + (add ? mabn_to_float(dx[i]) : 0)));
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    conv_backward_weights(float *dweight, const T *x, const T *dy, struct sizes s)
{
    const int64_t i = item_index(), c = i % s.in, kx = i / s.in % s.kernel;
    const int64_t ky = i / s.in / s.kernel % s.kernel, o = i / s.in / s.kernel / s.kernel;
    double sum = 0;

    if (o >= s.out) return;
    for (int64_t n = 0; n < s.n; n++)
        for (int64_t oy = 0; oy < s.oh; oy++)
            for (int64_t ox = 0; ox < s.ow; ox++) {
                const int64_t iy = oy * s.stride - s.pad + ky, ix = ox * s.stride - s.pad + kx;
                if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
                sum += mabn_to_float(x[((n * s.h + iy) * s.w + ix) * s.in + c]) *
                       mabn_to_float(dy[((n * s.oh + oy) * s.ow + ox) * s.out + o]);
            }
    dweight[i] = (float)sum;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    column_sums(float *sums, const T *dy, int64_t rows, int64_t columns)
{
    const int64_t o = item_index();
    double sum = 0;

    if (o >= columns) return;
    for (int64_t row = 0; row < rows; row++)
        sum += mabn_to_float(dy[row * columns + o]);
    sums[o] = (float)sum;
}

/* out = relu(out + v + bias), what of it is asked; v may be out. V values a thread. */
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

static mabn_status plain_forward(const struct mabn_conv_cuda *conv, void *y, const void *x,
                                 const void *weight, const void *bias, cudaStream_t stream)
{
    const struct mabn_conv_cuda_options *o = &conv->options;
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(o->dtype, false, [&](auto *x_type, auto) {
        return mabn_by_type(o->y_dtype, false, [&](auto *y_type, auto) {
            using T = std::remove_pointer_t<decltype(x_type)>;
            using Y = std::remove_pointer_t<decltype(y_type)>;
            return MABN_LAUNCH((conv_forward<T, Y>), blocks_for(s.n * s.oh * s.ow * s.out), THREADS,
                               0, stream, static_cast<Y *>(y), static_cast<const T *>(x),
                               static_cast<const T *>(weight), bias,
                               o->bias_dtype == MABN_DTYPE_F32, o->add, o->relu, s);
        });
    });
}

static mabn_status plain_backward_data(const struct mabn_conv_cuda *conv, void *dx, const void *dy,
                                       const void *weight, bool add, cudaStream_t stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(conv_backward_data<T>, blocks_for(s.n * s.h * s.w * s.in), THREADS, 0,
                           stream, static_cast<T *>(dx), static_cast<const T *>(dy),
                           static_cast<const T *>(weight), add, s);
    });
}

static mabn_status plain_backward_weights(const struct mabn_conv_cuda *conv, float *dweight,
                                          const void *x, const void *dy, cudaStream_t stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(conv_backward_weights<T>, blocks_for(s.out * s.kernel * s.kernel * s.in),
                           THREADS, 0, stream, dweight, static_cast<const T *>(x),
                           static_cast<const T *>(dy), s);
    });
}

static mabn_status plain_bias(const struct mabn_conv_cuda *conv, float *dbias, const void *dy,
                              cudaStream_t stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(column_sums<T>, blocks_for(s.out), THREADS, 0, stream, dbias,
                           static_cast<const T *>(dy), s.n * s.oh * s.ow, s.out);
    });
}

/* ---- a library's way ---- */

static size_t aligned(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

/* What a pass computes: this many rows of so many channels. */
static void extent(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass, int64_t *rows,
                   int64_t *channels)
{
    const struct sizes s = sizes_of(conv);

    *channels = pass == MABN_CONV_FORWARD ? s.out : s.in;
    *rows = pass == MABN_CONV_FORWARD         ? s.n * s.oh * s.ow
            : pass == MABN_CONV_BACKWARD_DATA ? s.n * s.h * s.w
                                              : s.out * s.kernel * s.kernel;
}

/* Find a way for `want`: whole, then without its end, then with a result of `dtype`. */
static void find_way(struct mabn_conv_cuda *conv, struct mabn_device *device,
                     const struct mabn_conv_want *want, struct way *way)
{
    const struct mabn_conv_cuda_options *o = &conv->options;
    const bool ends = want->bias || want->add || want->relu;
    const struct mabn_conv_want asks[] = {*want,
                                          {want->pass, want->out, false, false, false},
                                          {want->pass, o->dtype, false, false, false}};

    way->want = *want;
    for (int i = 0; i < 3 && !way->fast; i++) {
        if ((i == 1 && !ends) || (i == 2 && want->out == o->dtype)) continue;
        if (mabn_conv_fast_new(&way->fast, device, &conv->shape, o, &asks[i])) continue;
        way->whole = i == 0;
        way->result = asks[i].out;
        way->apart = i > 0 && (want->add || way->result != want->out);
    }
}

/* Where its parts of the workspace are, and its name. */
static void place_way(struct mabn_conv_cuda *conv, struct way *way)
{
    int64_t rows, channels;
    size_t bytes;

    if (!way->fast) {
        snprintf(way->name, sizeof way->name, "plain");
        return;
    }
    extent(conv, way->want.pass, &rows, &channels);
    way->result_at = aligned(mabn_conv_fast_workspace(way->fast));
    way->bias_at = way->result_at;
    if (way->apart)
        way->bias_at += aligned((size_t)(rows * channels) * mabn_dtype_size(way->result));
    bytes = way->bias_at;
    if (way->want.bias) bytes += aligned((size_t)conv->shape.out * sizeof(float));
    if (bytes > conv->workspace) conv->workspace = bytes;
    snprintf(way->name, sizeof way->name, "%s%s", mabn_conv_fast_name(way->fast),
             way->whole ? "" : " and a pass");
}

static void plan(struct mabn_conv_cuda *conv, struct mabn_device *device)
{
    const struct mabn_conv_cuda_options *o = &conv->options;
    const struct mabn_conv_want wants[WAYS] = {
        {MABN_CONV_FORWARD, o->y_dtype, o->bias, o->add, o->relu},
        {MABN_CONV_BACKWARD_DATA, o->dtype, false, false, false},
        {MABN_CONV_BACKWARD_DATA, o->dtype, false, true, false},
        {MABN_CONV_BACKWARD_WEIGHTS, MABN_DTYPE_F32, false, false, false}};

    for (int i = 0; i < WAYS; i++) {
        struct way *way = &conv->ways[i];
        const bool never =
            (i != FORWARD && !o->training) || ((i == DATA || i == DATA_ADD) && o->no_dx);
        if (never) {
            snprintf(way->name, sizeof way->name, "none");
            continue;
        }
        if (device && !o->plain) find_way(conv, device, &wants[i], way);
        place_way(conv, way);
    }
    mabn_error_clear();
}

/* The bias as type `wanted`, converted in the workspace where it is not. */
static mabn_status bias_as(const struct mabn_conv_cuda *conv, const struct way *way,
                           enum mabn_dtype wanted, const void **bias, char *workspace,
                           cudaStream_t stream)
{
    const enum mabn_dtype given = conv->options.bias_dtype;

    if (!*bias || given == wanted) return MABN_OK;
    MABN_TRY(finish(workspace + way->bias_at, wanted, *bias, given, NULL, false, false, 1,
                    conv->shape.out, stream));
    *bias = workspace + way->bias_at;
    return MABN_OK;
}

static mabn_status run_way(const struct mabn_conv_cuda *conv, const struct way *way, void *out,
                           const void *a, const void *b, const void *bias, void *workspace,
                           cudaStream_t stream)
{
    char *const space = static_cast<char *>(workspace);
    const struct mabn_conv_want *want = &way->want;
    void *const result = way->apart ? space + way->result_at : out;
    int64_t rows, channels;

    MABN_TRY(bias_as(conv, way, way->whole ? mabn_conv_fast_bias(way->fast) : MABN_DTYPE_F32, &bias,
                     space, stream));
    MABN_TRY(
        mabn_conv_fast_run(way->fast, result, a, b, way->whole ? bias : NULL, workspace, stream));
    if (way->whole) return MABN_OK;
    extent(conv, want->pass, &rows, &channels);
    return finish(out, want->out, result, way->result, static_cast<const float *>(bias), want->add,
                  want->relu, rows, channels, stream);
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
    return MABN_OK;
}

mabn_status mabn_conv_cuda_new(struct mabn_conv_cuda **conv, struct mabn_device *device,
                               const struct mabn_conv_shape *shape,
                               const struct mabn_conv_cuda_options *options)
{
    *conv = NULL;
    MABN_TRY(check(shape, options));
    *conv = static_cast<struct mabn_conv_cuda *>(mabn_xcalloc(1, sizeof **conv));
    (*conv)->shape = *shape;
    (*conv)->options = *options;
    (*conv)->oh = mabn_conv_out(shape->h, shape->kernel, shape->stride, shape->pad);
    (*conv)->ow = mabn_conv_out(shape->w, shape->kernel, shape->stride, shape->pad);
    plan(*conv, device);
    return MABN_OK;
}

void mabn_conv_cuda_free(struct mabn_conv_cuda *conv)
{
    if (!conv) return;
    for (struct way &way : conv->ways)
        mabn_conv_fast_free(way.fast);
    free(conv);
}

size_t mabn_conv_cuda_workspace(const struct mabn_conv_cuda *conv)
{
    return conv->workspace;
}

const char *mabn_conv_cuda_describe(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass)
{
    return conv
        ->ways[pass == MABN_CONV_FORWARD         ? FORWARD
               : pass == MABN_CONV_BACKWARD_DATA ? DATA
                                                 : WEIGHTS]
        .name;
}

static mabn_status forward(const struct mabn_conv_cuda *conv, void *y, const void *x,
                           const void *weight, const void *bias, void *workspace, void *stream)
{
    const struct way *way = &conv->ways[FORWARD];
    const cudaStream_t in = static_cast<cudaStream_t>(stream);

    if (!bias != !conv->options.bias) return mabn_fail(MABN_ERR_ARG, "convolution: bias or none?");
    if (way->fast) return run_way(conv, way, y, x, weight, bias, workspace, in);
    return plain_forward(conv, y, x, weight, bias, in);
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
    const struct way *way = &conv->ways[add ? DATA_ADD : DATA];
    const cudaStream_t in = static_cast<cudaStream_t>(stream);

    if (way->fast) return run_way(conv, way, dx, dy, weight, NULL, workspace, in);
    return plain_backward_data(conv, dx, dy, weight, add, in);
}

mabn_status mabn_conv_cuda_backward_weights(struct mabn_conv_cuda *conv, float *dweight,
                                            float *dbias, const void *x, const void *dy,
                                            void *workspace, void *stream)
{
    const struct way *way = &conv->ways[WEIGHTS];
    const cudaStream_t in = static_cast<cudaStream_t>(stream);

    if (dbias) MABN_TRY(plain_bias(conv, dbias, dy, in));
    if (way->fast) return run_way(conv, way, dweight, x, dy, NULL, workspace, in);
    return plain_backward_weights(conv, dweight, x, dy, in);
}
