/* See conv_cuda_reference.h: direct sums in double, one thread for each result. With a normalization
 * there is one block for each channel, which also computes the channel's sums and adds them to the
 * given ones, as a library's kernels do. */
#include "ops/conv_cuda_reference.h"

#include "device/pack.cuh"
#include "device/reduce.cuh"

namespace
{

enum { THREADS = 128 };

struct sizes {
    int64_t n, h, w, in, oh, ow, out;
    int kernel, stride, pad;
};

struct sizes sizes_of(const struct mabn_conv_reference *conv)
{
    const struct mabn_conv_shape *s = &conv->shape;
    return {s->n,
            s->h,
            s->w,
            s->in,
            mabn_conv_out(s->h, s->kernel, s->stride, s->pad),
            mabn_conv_out(s->w, s->kernel, s->stride, s->pad),
            s->out,
            s->kernel,
            s->stride,
            s->pad};
}

dim3 blocks_for(int64_t items)
{
    return dim3((unsigned)((items + THREADS - 1) / THREADS));
}

__device__ __forceinline__ int64_t item_index(void)
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

/* ---- sums ---- */

/* One value of y. i: its index in (N,OH,OW,O) */
template <typename T>
__device__ double y_at(const T *x, const T *weight, int64_t i, const struct sizes &s)
{
    const int64_t o = i % s.out, ox = i / s.out % s.ow;
    const int64_t oy = i / s.out / s.ow % s.oh, n = i / s.out / s.ow / s.oh;
    double sum = 0;

    for (int ky = 0; ky < s.kernel; ky++)
        for (int kx = 0; kx < s.kernel; kx++) {
            const int64_t iy = oy * s.stride - s.pad + ky, ix = ox * s.stride - s.pad + kx;
            if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
            const T *p = x + ((n * s.h + iy) * s.w + ix) * s.in;
            const T *k = weight + ((o * s.kernel + ky) * s.kernel + kx) * s.in;
            for (int64_t c = 0; c < s.in; c++)
                sum += mabn_to_float(p[c]) * mabn_to_float(k[c]);
        }
    return sum;
}

/* One value of dx. i: its index in (N,H,W,I) */
template <typename T>
__device__ double dx_at(const T *dy, const T *weight, int64_t i, const struct sizes &s)
{
    const int64_t c = i % s.in, ix = i / s.in % s.w;
    const int64_t iy = i / s.in / s.w % s.h, n = i / s.in / s.w / s.h;
    double sum = 0;

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
    return sum;
}

/* Sum the values of the block's threads and add the sum to *sum, which may be NULL. */
template <typename Shared> __device__ void add_sum(float *sum, Shared &part, double value)
{
    const double total = mabn_block_sum<THREADS>(part, value);
    if (threadIdx.x == 0 && sum) *sum += (float)total;
}

/* ---- kernels ---- */

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
    const int64_t i = item_index();

    if (i >= s.n * s.oh * s.ow * s.out) return;
    const double sum = y_at(x, weight, i, s) + bias_of<T>(bias, float_bias, i % s.out);
    const float v = (float)(sum + (add ? mabn_to_float(y[i]) : 0));
    mabn_from_float(y + i, relu && v < 0 ? 0 : v);
}

/* A block makes channel blockIdx.x. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    conv_forward_norm(T *y, const T *x, const T *weight, T *z, const T *residual, const float *a,
                      const float *b, float *square, bool relu, struct sizes s)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t o = blockIdx.x, rows = s.n * s.oh * s.ow;
    double squares = 0;

    for (int64_t row = threadIdx.x; row < rows; row += THREADS) {
        const int64_t i = row * s.out + o;
        const float v = (float)y_at(x, weight, i, s);
        const float to = a[o] * v + b[o] + (residual ? mabn_to_float(residual[i]) : 0);
        mabn_from_float(y + i, v);
        mabn_from_float(z + i, relu && to < 0 ? 0 : to);
        squares += (double)v * v;
    }
    add_sum(square + o, part, squares);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    conv_forward_sums(T *y, const T *x, const T *weight, float *sum, float *square, struct sizes s)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t o = blockIdx.x, rows = s.n * s.oh * s.ow;
    double values = 0, squares = 0;

    for (int64_t row = threadIdx.x; row < rows; row += THREADS) {
        const int64_t i = row * s.out + o;
        const float v = (float)y_at(x, weight, i, s);
        mabn_from_float(y + i, v);
        values += v;
        squares += (double)v * v;
    }
    add_sum(sum + o, part, values);
    add_sum(square + o, part, squares);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    conv_backward_data(T *dx, const T *dy, const T *weight, bool add, struct sizes s)
{
    const int64_t i = item_index();

    if (i >= s.n * s.h * s.w * s.in) return;
    mabn_from_float(dx + i, (float)(dx_at(dy, weight, i, s) + (add ? mabn_to_float(dx[i]) : 0)));
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    conv_backward_norm(T *dx, const T *dy, const T *weight, const T *x, const T *y, const float *a,
                       const float *b, float *dot, float *sum, bool add, enum mabn_conv_mask mask,
                       struct sizes s)
{
    MABN_SHARED(double, part, THREADS);
    const int64_t c = blockIdx.x, rows = s.n * s.h * s.w;
    double values = 0, products = 0;

    for (int64_t row = threadIdx.x; row < rows; row += THREADS) {
        const int64_t i = row * s.in + c;
        const float at = mabn_to_float(x[i]);
        float v = 0;
        if (mask == MABN_CONV_MASK_NONE || (mask == MABN_CONV_MASK_X && a[c] * at + b[c] > 0) ||
            (mask == MABN_CONV_MASK_Y && mabn_to_float(y[i]) > 0))
            v = (float)(dx_at(dy, weight, i, s) + (add ? mabn_to_float(dx[i]) : 0));
        mabn_from_float(dx + i, v);
        values += v;
        products += (double)v * at;
    }
    add_sum(dot + c, part, products);
    add_sum(sum ? sum + c : nullptr, part, values);
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

mabn_status mabn_conv_reference_forward(const struct mabn_conv_reference *conv, void *y,
                                        const void *x, const void *weight, const void *bias,
                                        void *stream)
{
    const struct mabn_conv_cuda_options *o = &conv->options;
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(o->dtype, false, [&](auto *x_type, auto) {
        return mabn_by_type(o->y_dtype, false, [&](auto *y_type, auto) {
            using T = std::remove_pointer_t<decltype(x_type)>;
            using Y = std::remove_pointer_t<decltype(y_type)>;
            return MABN_LAUNCH((conv_forward<T, Y>), blocks_for(s.n * s.oh * s.ow * s.out), THREADS,
                               0, static_cast<cudaStream_t>(stream), static_cast<Y *>(y),
                               static_cast<const T *>(x), static_cast<const T *>(weight), bias,
                               o->bias_dtype == MABN_DTYPE_F32, o->add, o->relu, s);
        });
    });
}

mabn_status mabn_conv_reference_forward_norm(const struct mabn_conv_reference *conv, void *y,
                                             const void *x, const void *weight,
                                             const struct mabn_conv_cuda_norm_out *norm,
                                             void *stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(conv_forward_norm<T>, dim3((unsigned)s.out), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(y),
                           static_cast<const T *>(x), static_cast<const T *>(weight),
                           static_cast<T *>(norm->z), static_cast<const T *>(norm->residual),
                           norm->a, norm->b, norm->square, conv->options.after.relu, s);
    });
}

mabn_status mabn_conv_reference_forward_sums(const struct mabn_conv_reference *conv, void *y,
                                             const void *x, const void *weight, float *sum,
                                             float *square, void *stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(conv_forward_sums<T>, dim3((unsigned)s.out), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(y),
                           static_cast<const T *>(x), static_cast<const T *>(weight), sum, square,
                           s);
    });
}

mabn_status mabn_conv_reference_backward_data(const struct mabn_conv_reference *conv, void *dx,
                                              const void *dy, const void *weight, bool add,
                                              void *stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(conv_backward_data<T>, blocks_for(s.n * s.h * s.w * s.in), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(dx),
                           static_cast<const T *>(dy), static_cast<const T *>(weight), add, s);
    });
}

mabn_status mabn_conv_reference_backward_norm(const struct mabn_conv_reference *conv, void *dx,
                                              const void *dy, const void *weight,
                                              const struct mabn_conv_cuda_norm_in *norm,
                                              void *stream)
{
    const struct mabn_conv_cuda_before *before = &conv->options.before;
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(conv_backward_norm<T>, dim3((unsigned)s.in), THREADS, 0,
                           static_cast<cudaStream_t>(stream), static_cast<T *>(dx),
                           static_cast<const T *>(dy), static_cast<const T *>(weight),
                           static_cast<const T *>(norm->x), static_cast<const T *>(norm->y),
                           norm->a, norm->b, norm->dot, before->sum ? norm->sum : nullptr,
                           before->add, before->mask, s);
    });
}

mabn_status mabn_conv_reference_backward_weights(const struct mabn_conv_reference *conv,
                                                 float *dweight, const void *x, const void *dy,
                                                 void *stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(conv_backward_weights<T>, blocks_for(s.out * s.kernel * s.kernel * s.in),
                           THREADS, 0, static_cast<cudaStream_t>(stream), dweight,
                           static_cast<const T *>(x), static_cast<const T *>(dy), s);
    });
}

mabn_status mabn_conv_reference_backward_bias(const struct mabn_conv_reference *conv, float *dbias,
                                              const void *dy, void *stream)
{
    const struct sizes s = sizes_of(conv);

    return mabn_by_type(conv->options.dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(column_sums<T>, blocks_for(s.out), THREADS, 0,
                           static_cast<cudaStream_t>(stream), dbias, static_cast<const T *>(dy),
                           s.n * s.oh * s.ow, s.out);
    });
}
