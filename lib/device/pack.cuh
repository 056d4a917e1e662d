/* Sixteen bytes at a time: how kernels read and write arrays of float32, bfloat16 and float16. They
 * compute in float32. A thread takes V values together: 16/sizeof(T) where channels and pointers allow
 * it, else 1 (mabn_pack_fits says which). */
#ifndef MABN_DEVICE_PACK_CUH
#define MABN_DEVICE_PACK_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include <type_traits>

#include "device/launch.cuh"
#include "tensor/tensor.h"

__device__ __forceinline__ float mabn_to_float(float v)
{
    return v;
}
__device__ __forceinline__ float mabn_to_float(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}
__device__ __forceinline__ void mabn_from_float(float *p, float v)
{
    *p = v;
}
__device__ __forceinline__ void mabn_from_float(__nv_bfloat16 *p, float v)
{
    *p = __float2bfloat16_rn(v);
}

__device__ __forceinline__ float mabn_to_float(__half v)
{
    return __half2float(v);
}
__device__ __forceinline__ void mabn_from_float(__half *p, float v)
{
    *p = __float2half_rn(v);
}

/* V values as they lie in memory: the result of a load before it is unpacked. */
template <typename T, int V, int BYTES = V *(int)sizeof(T)> struct mabn_vector;
template <typename T, int V> struct mabn_vector<T, V, 16> {
    using raw = uint4;
};
template <typename T, int V> struct mabn_vector<T, V, 8> {
    using raw = uint2;
};
template <typename T> struct mabn_vector<T, 1, (int)sizeof(T)> {
    using raw = T;
};

template <int V, typename T>
__device__ __forceinline__ typename mabn_vector<T, V>::raw mabn_fetch(const T *p)
{
    return *reinterpret_cast<const typename mabn_vector<T, V>::raw *>(p);
}

/* Two neighbours out of a word. bfloat16 is the upper half of float32. */
template <typename T> __device__ __forceinline__ void mabn_unpack_word(float *out, unsigned word)
{
    if constexpr (std::is_same_v<T, __half>) {
        const float2 v = __half22float2(*reinterpret_cast<const __half2 *>(&word));
        out[0] = v.x;
        out[1] = v.y;
    } else {
        out[0] = __uint_as_float(word << 16);
        out[1] = __uint_as_float(word & 0xffff0000u);
    }
}

template <typename T> __device__ __forceinline__ unsigned mabn_pack_word(float low, float high)
{
    if constexpr (std::is_same_v<T, __half>) {
        const __half2 v = __floats2half2_rn(low, high);
        return *reinterpret_cast<const unsigned *>(&v);
    } else {
        const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const unsigned *>(&v);
    }
}

/* What mabn_fetch<V>(p) got of a T array. */
template <typename T, int V>
__device__ __forceinline__ void mabn_unpack(float (&out)[V],
                                            const typename mabn_vector<T, V>::raw &raw)
{
    if constexpr (V == 1) {
        out[0] = mabn_to_float(raw);
    } else if constexpr (sizeof(T) == 4) {
        out[0] = __uint_as_float(raw.x);
        out[1] = __uint_as_float(raw.y);
        out[2] = __uint_as_float(raw.z);
        out[3] = __uint_as_float(raw.w);
    } else {
        mabn_unpack_word<T>(out, raw.x);
        mabn_unpack_word<T>(out + 2, raw.y);
        if constexpr (V == 8) {
            mabn_unpack_word<T>(out + 4, raw.z);
            mabn_unpack_word<T>(out + 6, raw.w);
        }
    }
}

/* V neighbours from p, which is aligned to their size or to 16 bytes. Coefficients stay float32
 * whatever the activations are: 8 of them are two loads. */
template <typename T, int V> __device__ __forceinline__ void mabn_load(float (&out)[V], const T *p)
{
    if constexpr (V * sizeof(T) == 32) {
        float half[4];
#pragma unroll
        for (int i = 0; i < V; i++) {
            if (i % 4 == 0) mabn_unpack<T>(half, mabn_fetch<4>(p + i));
            out[i] = half[i % 4];
        }
    } else {
        mabn_unpack<T>(out, mabn_fetch<V>(p));
    }
}

/* V neighbours as they lie in an array of T; not for V = 1. */
template <typename T, int V>
__device__ __forceinline__ typename mabn_vector<T, V>::raw mabn_pack(const float (&v)[V])
{
    if constexpr (sizeof(T) == 4)
        return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                          __float_as_uint(v[3]));
    else if constexpr (V == 4)
        return make_uint2(mabn_pack_word<T>(v[0], v[1]), mabn_pack_word<T>(v[2], v[3]));
    else
        return make_uint4(mabn_pack_word<T>(v[0], v[1]), mabn_pack_word<T>(v[2], v[3]),
                          mabn_pack_word<T>(v[4], v[5]), mabn_pack_word<T>(v[6], v[7]));
}

template <typename T, int V> __device__ __forceinline__ void mabn_store(T *p, const float (&v)[V])
{
    if constexpr (V == 1)
        mabn_from_float(p, v[0]);
    else
        *reinterpret_cast<typename mabn_vector<T, V>::raw *>(p) = mabn_pack<T>(v);
}

/* May rows of `channels` values be walked 16 bytes at a time from all these pointers? NULL ones count
 * as aligned. */
inline bool mabn_pack_fits(enum mabn_dtype dtype, int64_t channels, const void *const *pointers,
                           int count)
{
    bool ok = channels % (16 / (int64_t)mabn_dtype_size(dtype)) == 0;
    for (int i = 0; i < count; i++)
        ok = ok && reinterpret_cast<uintptr_t>(pointers[i]) % 16 == 0;
    return ok;
}

/* Call work(pointer to the element type, vector width as a type) for arrays of `dtype`; `wide`: the
 * answer of mabn_pack_fits. Only F32, BF16 and F16; else MABN_ERR_UNSUPPORTED. */
template <int V> using mabn_width = std::integral_constant<int, V>;
template <typename Work> mabn_status mabn_by_type(enum mabn_dtype dtype, bool wide, Work work)
{
    using bf16 = __nv_bfloat16;
    switch (dtype) {
    case MABN_DTYPE_F32:
        if (wide) return work(static_cast<float *>(nullptr), mabn_width<4>());
        return work(static_cast<float *>(nullptr), mabn_width<1>());
    case MABN_DTYPE_BF16:
        if (wide) return work(static_cast<bf16 *>(nullptr), mabn_width<8>());
        return work(static_cast<bf16 *>(nullptr), mabn_width<1>());
    case MABN_DTYPE_F16:
        if (wide) return work(static_cast<__half *>(nullptr), mabn_width<8>());
        return work(static_cast<__half *>(nullptr), mabn_width<1>());
    default:
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "on a GPU: only float32, bfloat16 and float16, not %s",
                         mabn_dtype_name(dtype));
    }
}

#endif
