/* The plain convolution: see conv_cuda.h. Slow, and right. */
#include "ops/conv_cuda.h"

#include "base/mem.h"
#include "device/pack.cuh"

struct mabn_conv_cuda {
    struct mabn_conv_shape shape;
    struct mabn_conv_cuda_options options;
    int64_t oh, ow;
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

template <typename T, typename Y>
__global__ void __launch_bounds__(THREADS)
    conv_forward(Y *y, const T *x, const T *weight, const float *bias, bool add, bool relu,
                 struct sizes s)
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
    const float v = (float)(sum + (bias ? bias[o] : 0) + (add ? mabn_to_float(y[i]) : 0));
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

} // namespace

static mabn_status plain_forward(const struct mabn_conv_cuda *conv, void *y, const void *x,
                                 const void *weight, const float *bias, cudaStream_t stream)
{
    const struct mabn_conv_cuda_options *o = &conv->options;
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(o->dtype, false, [&](auto *x_type, auto) {
        return mabn_by_type(o->y_dtype, false, [&](auto *y_type, auto) {
            using T = std::remove_pointer_t<decltype(x_type)>;
            using Y = std::remove_pointer_t<decltype(y_type)>;
            return MABN_LAUNCH((conv_forward<T, Y>), blocks_for(s.n * s.oh * s.ow * s.out), THREADS,
                               0, stream, static_cast<Y *>(y), static_cast<const T *>(x),
                               static_cast<const T *>(weight), bias, o->add, o->relu, s);
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
    if (o->training && (o->add || o->relu))
        return mabn_fail(MABN_ERR_ARG, "convolution: add and relu are for inference");
    return MABN_OK;
}

mabn_status mabn_conv_cuda_new(struct mabn_conv_cuda **conv, struct mabn_device *device,
                               const struct mabn_conv_shape *shape,
                               const struct mabn_conv_cuda_options *options)
{
    (void)device;
    *conv = NULL;
    MABN_TRY(check(shape, options));
    *conv = static_cast<struct mabn_conv_cuda *>(mabn_xcalloc(1, sizeof **conv));
    (*conv)->shape = *shape;
    (*conv)->options = *options;
    (*conv)->oh = mabn_conv_out(shape->h, shape->kernel, shape->stride, shape->pad);
    (*conv)->ow = mabn_conv_out(shape->w, shape->kernel, shape->stride, shape->pad);
    return MABN_OK;
}

void mabn_conv_cuda_free(struct mabn_conv_cuda *conv)
{
    free(conv);
}

size_t mabn_conv_cuda_workspace(const struct mabn_conv_cuda *conv)
{
    (void)conv;
    return 0;
}

const char *mabn_conv_cuda_describe(const struct mabn_conv_cuda *conv, enum mabn_conv_pass pass)
{
    const struct mabn_conv_cuda_options *o = &conv->options;

    if (pass != MABN_CONV_FORWARD && !o->training) return "none";
    if (pass == MABN_CONV_BACKWARD_DATA && o->no_dx) return "none";
    return "plain";
}

mabn_status mabn_conv_cuda_infer(struct mabn_conv_cuda *conv, void *y, const void *x,
                                 const void *weight, const float *bias, void *, void *stream)
{
    return plain_forward(conv, y, x, weight, bias, static_cast<cudaStream_t>(stream));
}

mabn_status mabn_conv_cuda_forward(struct mabn_conv_cuda *conv, void *y, const void *x,
                                   const void *weight, const float *bias, void *, void *stream)
{
    return plain_forward(conv, y, x, weight, bias, static_cast<cudaStream_t>(stream));
}

mabn_status mabn_conv_cuda_backward_data(struct mabn_conv_cuda *conv, void *dx, const void *dy,
                                         const void *weight, bool add, void *, void *stream)
{
    return plain_backward_data(conv, dx, dy, weight, add, static_cast<cudaStream_t>(stream));
}

mabn_status mabn_conv_cuda_backward_weights(struct mabn_conv_cuda *conv, float *dweight,
                                            float *dbias, const void *x, const void *dy, void *,
                                            void *stream)
{
    const cudaStream_t in = static_cast<cudaStream_t>(stream);

    if (dbias) MABN_TRY(plain_bias(conv, dbias, dy, in));
    return plain_backward_weights(conv, dweight, x, dy, in);
}
