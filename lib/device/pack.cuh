/* Sixteen bytes at a time: how kernels read and write arrays of float32 and bfloat16, computing in
 * float32. V values belong together: 16/sizeof(T) where channels and pointers allow it, else 1
 * (mabn_pack_fits says which). */
#ifndef MABN_DEVICE_PACK_CUH
#define MABN_DEVICE_PACK_CUH

#include <cuda_bf16.h>
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

/* V values as they lie in memory: what a thread keeps of loads that are on their way. */
template <typename T, int V> struct mabn_vector {
    using raw = uint4;
};
template <typename T> struct mabn_vector<T, 1> {
    using raw = T;
};

template <int V, typename T>
__device__ __forceinline__ typename mabn_vector<T, V>::raw mabn_fetch(const T *p)
{
    return *reinterpret_cast<const typename mabn_vector<T, V>::raw *>(p);
}

template <typename T> __device__ __forceinline__ void mabn_unpack(float (&out)[1], const T &raw)
{
    out[0] = mabn_to_float(raw);
}

__device__ __forceinline__ void mabn_unpack(float (&out)[4], const uint4 &raw)
{
    out[0] = __uint_as_float(raw.x);
    out[1] = __uint_as_float(raw.y);
    out[2] = __uint_as_float(raw.z);
    out[3] = __uint_as_float(raw.w);
}

/* bfloat16 is the upper half of float32. */
__device__ __forceinline__ void mabn_unpack(float (&out)[8], const uint4 &raw)
{
    const unsigned word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = __uint_as_float(word[i] << 16);
        out[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
}

template <typename T, int V> __device__ __forceinline__ void mabn_load(float (&out)[V], const T *p)
{
    mabn_unpack(out, mabn_fetch<V>(p));
}

/* Coefficients stay float32 whatever the activations are. */
__device__ __forceinline__ void mabn_load(float (&out)[8], const float *p)
{
    float low[4], high[4];
    mabn_load(low, p);
    mabn_load(high, p + 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[i] = low[i];
        out[i + 4] = high[i];
    }
}

template <typename T> __device__ __forceinline__ void mabn_store(T *p, const float (&v)[1])
{
    mabn_from_float(p, v[0]);
}

__device__ __forceinline__ void mabn_store(float *p, const float (&v)[4])
{
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}

__device__ __forceinline__ unsigned mabn_pack_bf16(float low, float high)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<unsigned *>(&v);
}

__device__ __forceinline__ void mabn_store(__nv_bfloat16 *p, const float (&v)[4])
{
    *reinterpret_cast<uint2 *>(p) =
        make_uint2(mabn_pack_bf16(v[0], v[1]), mabn_pack_bf16(v[2], v[3]));
}

__device__ __forceinline__ void mabn_store(__nv_bfloat16 *p, const float (&v)[8])
{
    *reinterpret_cast<uint4 *>(p) =
        make_uint4(mabn_pack_bf16(v[0], v[1]), mabn_pack_bf16(v[2], v[3]),
                   mabn_pack_bf16(v[4], v[5]), mabn_pack_bf16(v[6], v[7]));
}

/* Rows of `channels` values may be walked 16 bytes at a time from these pointers; NULL has no say.
 */
inline bool mabn_pack_fits(enum mabn_dtype dtype, int64_t channels, const void *const *pointers,
                           int count)
{
    bool ok = channels % (16 / (int64_t)mabn_dtype_size(dtype)) == 0;
    for (int i = 0; i < count; i++)
        ok = ok && reinterpret_cast<uintptr_t>(pointers[i]) % 16 == 0;
    return ok;
}

/* Call work(pointer to the element type, vector width as a type) for arrays of `dtype`, `wide` as
 * mabn_pack_fits has it. */
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
    default:
        return mabn_fail(MABN_ERR_UNSUPPORTED, "on a GPU: only float32 and bfloat16, not %s",
                         mabn_dtype_name(dtype));
    }
}

#endif
