/* A sum over a block's threads, for kernels (launch.cuh). */
#ifndef MABN_DEVICE_REDUCE_CUH
#define MABN_DEVICE_REDUCE_CUH

#include "device/launch.cuh"

/* The sum of all threads' values, given to all of them: in double, always in the same order. THREADS is
 * the block's size, a power of two. `part` is MABN_SHARED(double, part, THREADS); it may be used again
 * on return. */
template <int THREADS, typename Shared> __device__ double mabn_block_sum(Shared &part, double value)
{
    part[threadIdx.x] = value;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();
    const double total = part[0];
    __syncthreads();
    return total;
}

#endif
