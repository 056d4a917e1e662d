/* bfloat16 for the executor: storage and the two conversions that kernels use. */
#ifndef MABN_TESTS_GPU_EXECUTOR_CUDA_BF16_H
#define MABN_TESTS_GPU_EXECUTOR_CUDA_BF16_H

#include <cuda_runtime.h>

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 h)
{
    return __uint_as_float(unsigned(h.bits) << 16);
}

/* Round to nearest, ties to even; NaN stays one. */
inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

#endif
