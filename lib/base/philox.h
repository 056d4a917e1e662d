/* The generator of rng.h itself, inline: for rng.c, and for kernels that draw on a GPU what the CPU
 * would draw. */
#ifndef MABN_BASE_PHILOX_H
#define MABN_BASE_PHILOX_H

#include "base/rng.h"

#ifdef __CUDACC__
#define MABN_PHILOX_EVERYWHERE __host__ __device__
#else
#define MABN_PHILOX_EVERYWHERE
#endif

MABN_PHILOX_EVERYWHERE static inline void mabn_philox(const uint32_t counter[4],
                                                      const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* As mabn_rng_u32, mabn_rng_u64, mabn_rng_below. */
MABN_PHILOX_EVERYWHERE static inline uint32_t mabn_philox_u32(struct mabn_rng *rng)
{
    if (rng->used == 4) {
        mabn_philox(rng->counter, rng->key, rng->block);
        rng->counter[0]++;
        rng->used = 0;
    }
    return rng->block[rng->used++];
}

MABN_PHILOX_EVERYWHERE static inline uint64_t mabn_philox_u64(struct mabn_rng *rng)
{
    const uint64_t low = mabn_philox_u32(rng);
    return low | (uint64_t)mabn_philox_u32(rng) << 32;
}

MABN_PHILOX_EVERYWHERE static inline uint64_t mabn_philox_below(struct mabn_rng *rng, uint64_t n)
{
    const uint64_t reject_below = (0 - n) % n; /* 2^64 mod n: drawing below it would favour small
                                                * values */
    uint64_t draw;
    do
        draw = mabn_philox_u64(rng);
    while (draw < reject_below);
    return draw % n;
}

#endif
