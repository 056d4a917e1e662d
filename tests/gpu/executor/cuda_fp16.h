/* float16 for the executor: storage and the two conversions that kernels use. */
#ifndef MABN_TESTS_GPU_EXECUTOR_CUDA_FP16_H
#define MABN_TESTS_GPU_EXECUTOR_CUDA_FP16_H

#include <cuda_runtime.h>

struct alignas(2) __half {
    uint16_t bits;
};

inline float __half2float(__half h)
{
    unsigned sign = unsigned(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31;
    unsigned fraction = h.bits & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) {
        float tiny = float(fraction) * 5.9604644775390625e-8f; /* 2^-24 */
        return sign ? -tiny : tiny;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

/* Round to nearest, ties to even; too large becomes infinite. */
inline __half __float2half_rn(float x)
{
    unsigned u = __float_as_uint(x), sign = u >> 16 & 0x8000;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return {0x7fff};
    if (u >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};
    if (u < 0x38800000u) { /* below 2^-14: a multiple of 2^-24 */
        float scaled = __uint_as_float(u) * 16777216.0f;
        return {uint16_t(sign | unsigned(nearbyintf(scaled)))};
    }
    u -= 112u << 23;
    return {uint16_t(sign | (u + 0xfffu + (u >> 13 & 1)) >> 13)};
}

struct alignas(4) __half2 {
    __half x, y;
};

inline float2 __half22float2(__half2 h)
{
    return {__half2float(h.x), __half2float(h.y)};
}

inline __half2 __floats2half2_rn(float x, float y)
{
    return {__float2half_rn(x), __float2half_rn(y)};
}

#endif
