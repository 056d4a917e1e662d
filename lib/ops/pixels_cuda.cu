/* The loader's last step on the GPU: bytes to normalized activations, channels padded. Pictures
 * cross the bus as bytes, a quarter of float32's size. */
#include "device/pack.cuh"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256, PIXELS = 4 /* a thread: three words */ };

template <typename T>
__device__ __forceinline__ void put_pixel(T *out, const uint8_t (&bytes)[PIXELS * 3], int i,
                                          int channels, bool fours,
                                          const struct mabn_cuda_pixels &how)
{
    float v[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < 3; c++)
        v[c] = fmaf(how.scale[c], (float)bytes[i * 3 + c], how.shift[c]);
    for (int c0 = 0; c0 < channels; c0 += 4) {
        if (fours)
            mabn_store(out + c0, v);
        else
            for (int c = 0; c < 4 && c0 + c < channels; c++)
                mabn_from_float(out + c0 + c, v[c]);
        v[0] = v[1] = v[2] = 0;
    }
}

/* Where each picture is treated on its own. */
struct pictures {
    const struct mabn_cuda_pixels *how; /* (n), or NULL: all alike */
    const uint8_t *flip;                /* (n) or NULL */
    unsigned pixels, width;             /* of a picture */
};

template <typename T>
__global__ void __launch_bounds__(THREADS)
    pixels_kernel(T *y, const uint8_t *pictures, int64_t pixels, int channels, bool words,
                  bool fours, struct mabn_cuda_pixels how, struct pictures each)
{
    const int64_t first = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PIXELS;
    uint8_t bytes[PIXELS * 3];

    if (words && first + PIXELS <= pixels) {
        const unsigned *p = reinterpret_cast<const unsigned *>(pictures + first * 3);
#pragma unroll
        for (int i = 0; i < 3; i++) {
            const unsigned word = p[i];
#pragma unroll
            for (int j = 0; j < 4; j++)
                bytes[i * 4 + j] = (uint8_t)(word >> (8 * j));
        }
    } else {
#pragma unroll
        for (int i = 0; i < PIXELS * 3; i++)
            bytes[i] = first * 3 + i < pixels * 3 ? pictures[first * 3 + i] : 0;
    }
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
        if (first + i >= pixels) continue;
        int64_t to = first + i;
        if (each.how) {
            const unsigned at = (unsigned)to, picture = at / each.pixels;
            if (i == 0 || at % each.pixels == 0) how = each.how[picture];
            if (each.flip && each.flip[picture]) to = at - 2 * (at % each.width) + each.width - 1;
        }
        put_pixel(y + to * channels, bytes, i, channels, fours, how);
    }
}

/* A thread a pixel: what it reads is little, and its row is written in one go where it is four or
 * eight values wide. */
template <typename T, typename Value>
__device__ __forceinline__ void write_pixel(T *y, int64_t i, int channels, int padded, bool fours,
                                            Value value)
{
    for (int c0 = 0; c0 < padded; c0 += 4) {
        float v[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[k] = c0 + k < channels ? value(c0 + k) : 0.0f;
        if (fours)
            mabn_store(y + i * padded + c0, v);
        else
            for (int k = 0; k < 4 && c0 + k < padded; k++)
                mabn_from_float(y + i * padded + c0 + k, v[k]);
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    look_up_kernel(T *y, const uint8_t *pictures, int64_t pixels, int channels, int padded,
                   bool fours, const float *table)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pixels) return;
    write_pixel(y, i, channels, padded, fours,
                [&](int c) { return table[c * 256 + pictures[i * channels + c]]; });
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    round_kernel(T *y, const float *pictures, int64_t pixels, int channels, int padded, bool fours)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pixels) return;
    write_pixel(y, i, channels, padded, fours, [&](int c) { return pictures[i * channels + c]; });
}

} // namespace

static mabn_status launch_pixels(void *y, const uint8_t *pictures, int64_t pixels, int channels,
                                 const struct mabn_cuda_pixels &how, const struct pictures &each,
                                 enum mabn_dtype dtype, void *stream)
{
    const int64_t threads = (pixels + PIXELS - 1) / PIXELS;
    const bool words = reinterpret_cast<uintptr_t>(pictures) % 4 == 0;
    const bool fours = channels % 4 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;

    if (channels < 3) return mabn_fail(MABN_ERR_ARG, "pixels need 3 channels, not %d", channels);
    if (!pixels) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(pixels_kernel<T>, (unsigned)((threads + THREADS - 1) / THREADS), THREADS,
                           0, static_cast<cudaStream_t>(stream), static_cast<T *>(y), pictures,
                           pixels, channels, words, fours, how, each);
    });
}

mabn_status mabn_cuda_normalize_pixels(void *y, const uint8_t *pictures, int64_t pixels,
                                       int channels, const struct mabn_cuda_pixels *how,
                                       enum mabn_dtype dtype, void *stream)
{
    return launch_pixels(y, pictures, pixels, channels, *how, {NULL, NULL, 1, 1}, dtype, stream);
}

mabn_status mabn_cuda_normalize_pictures(void *y, const uint8_t *pictures,
                                         const struct mabn_cuda_pictures *shape, int channels,
                                         const struct mabn_cuda_pixels *how, const uint8_t *flip,
                                         enum mabn_dtype dtype, void *stream)
{
    const int64_t pixels = (int64_t)shape->height * shape->width;

    if (shape->n < 0 || shape->height < 1 || shape->width < 1)
        return mabn_fail(MABN_ERR_ARG, "pictures of %d×%d", shape->height, shape->width);
    if (shape->n > INT32_MAX / pixels)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "more than 2^31 pixels at once");
    return launch_pixels(y, pictures, shape->n * pixels, channels, {},
                         {how, flip, (unsigned)pixels, (unsigned)shape->width}, dtype, stream);
}

mabn_status mabn_cuda_round_pixels(void *y, const float *pictures, int64_t pixels, int channels,
                                   int padded, enum mabn_dtype dtype, void *stream)
{
    const bool fours = padded % 4 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;

    if (channels < 1 || padded < channels)
        return mabn_fail(MABN_ERR_ARG, "%d channels padded to %d", channels, padded);
    if (!pixels) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(round_kernel<T>, (unsigned)((pixels + THREADS - 1) / THREADS), THREADS,
                           0, static_cast<cudaStream_t>(stream), static_cast<T *>(y), pictures,
                           pixels, channels, padded, fours);
    });
}

mabn_status mabn_cuda_look_up_pixels(void *y, const uint8_t *pictures, int64_t pixels, int channels,
                                     int padded, const float *table, enum mabn_dtype dtype,
                                     void *stream)
{
    const bool fours = padded % 4 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;

    if (channels < 1 || padded < channels)
        return mabn_fail(MABN_ERR_ARG, "%d channels padded to %d", channels, padded);
    if (!pixels) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        using T = std::remove_pointer_t<decltype(type)>;
        return MABN_LAUNCH(look_up_kernel<T>, (unsigned)((pixels + THREADS - 1) / THREADS), THREADS,
                           0, static_cast<cudaStream_t>(stream), static_cast<T *>(y), pictures,
                           pixels, channels, padded, fours, table);
    });
}
