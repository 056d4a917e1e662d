/* The loader's last step on the GPU: bytes to normalized activations, channels padded. Pictures
 * cross the bus as bytes, a quarter of float32's size.
 *
 * A detector's pictures are resized and flipped here as well. A thread takes one pixel of the output and
 * reads all the pixels under it, 2 × 2 to 3 × 3 of a COCO photograph. It does both passes of the 8-bit
 * resize, and computes the row sums again for each output row. That is three times the arithmetic, but no
 * picture in between is stored. */
#include "device/pack.cuh"
#include "image/raw_rule.h"
#include "ops/ops_cuda.h"

namespace
{

enum { THREADS = 256 };

/* One thread for each pixel: it reads little, and its row is written in one go where it is four or
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

enum { WIDE = 32, HIGH = 8 };

template <typename T>
__global__ void __launch_bounds__(WIDE *HIGH)
    draw_raw_kernel(T *y, const char *base, const uint64_t *places, int height, int width,
                    int padded, bool fours)
{
    const int column = (int)blockIdx.x * WIDE + (int)threadIdx.x,
              row = (int)blockIdx.y * HIGH + (int)threadIdx.y;
    if (column >= width || row >= height) return;
    const struct mabn_raw *raw =
        reinterpret_cast<const struct mabn_raw *>(base + places[blockIdx.z]);
    float v[3] = {0, 0, 0};
    if (column < raw->new_width && row < raw->new_height) mabn_raw_pixel(v, raw, column, row);
    write_pixel(y, ((int64_t)blockIdx.z * height + row) * width + column, 3, padded, fours,
                [&](int c) { return v[c]; });
}

} // namespace

/* launch(type, fours, queue): the kernel for pixels of this type; fours: whole vectors of four. */
template <typename Launch>
static mabn_status launch_pixels(const void *y, int64_t pixels, int channels, int padded,
                                 enum mabn_dtype dtype, void *stream, Launch launch)
{
    const bool fours = padded % 4 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;

    if (channels < 1 || padded < channels)
        return mabn_fail(MABN_ERR_ARG, "%d channels padded to %d", channels, padded);
    if (!pixels) return MABN_OK;
    return mabn_by_type(dtype, false, [&](auto *type, auto) {
        return launch(type, fours, static_cast<cudaStream_t>(stream));
    });
}

static unsigned blocks_for(int64_t pixels)
{
    return (unsigned)((pixels + THREADS - 1) / THREADS);
}

mabn_status mabn_cuda_round_pixels(void *y, const float *pictures, int64_t pixels, int channels,
                                   int padded, enum mabn_dtype dtype, void *stream)
{
    return launch_pixels(
        y, pixels, channels, padded, dtype, stream, [&](auto *type, bool fours, cudaStream_t s) {
            using T = std::remove_pointer_t<decltype(type)>;
            return MABN_LAUNCH(round_kernel<T>, blocks_for(pixels), THREADS, 0, s,
                               static_cast<T *>(y), pictures, pixels, channels, padded, fours);
        });
}

mabn_status mabn_cuda_look_up_pixels(void *y, const uint8_t *pictures, int64_t pixels, int channels,
                                     int padded, const float *table, enum mabn_dtype dtype,
                                     void *stream)
{
    return launch_pixels(y, pixels, channels, padded, dtype, stream,
                         [&](auto *type, bool fours, cudaStream_t s) {
                             using T = std::remove_pointer_t<decltype(type)>;
                             return MABN_LAUNCH(look_up_kernel<T>, blocks_for(pixels), THREADS, 0,
                                                s, static_cast<T *>(y), pictures, pixels, channels,
                                                padded, fours, table);
                         });
}

mabn_status mabn_cuda_draw_raw(void *y, const void *base, const uint64_t *places, int images,
                               int height, int width, int padded, enum mabn_dtype dtype,
                               void *stream)
{
    const dim3 grid((unsigned)((width + WIDE - 1) / WIDE), (unsigned)((height + HIGH - 1) / HIGH),
                    (unsigned)images);
    return launch_pixels(y, (int64_t)images * height * width, 3, padded, dtype, stream,
                         [&](auto *type, bool fours, cudaStream_t s) {
                             using T = std::remove_pointer_t<decltype(type)>;
                             return MABN_LAUNCH(draw_raw_kernel<T>, grid, dim3(WIDE, HIGH), 0, s,
                                                static_cast<T *>(y),
                                                static_cast<const char *>(base), places, height,
                                                width, padded, fours);
                         });
}
