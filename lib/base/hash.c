#include "base/hash.h"

#include <pthread.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

static uint64_t seed[2];

static void draw_seed(void)
{
    struct timespec now;
    if (getrandom(seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        clock_gettime(CLOCK_REALTIME, &now); /* early in a boot, or in a sandbox */
        seed[0] = (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec << 8 ^ (uint64_t)getpid();
        seed[1] = XXH3_64bits(seed, sizeof *seed);
    }
    seed[1] |= 1;
}

static inline void need_seed(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static int drawn;
    if (__atomic_load_n(&drawn, __ATOMIC_ACQUIRE)) return;
    pthread_once(&once, draw_seed);
    __atomic_store_n(&drawn, 1, __ATOMIC_RELEASE);
}

uint64_t mabn_hash_bytes(const void *bytes, size_t n)
{
    need_seed();
    return XXH3_64bits_withSeed(bytes, n, seed[0]);
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Both halves of a product with a secret random number, folded. Alone that sends consecutive keys, or
 * keys 2^32 apart, to evenly spaced places, which crowd for about three secrets in a hundred. The
 * second product scatters them. */
uint64_t mabn_hash_i64(int64_t key)
{
    need_seed();
    return fold(fold((uint64_t)key ^ seed[0], seed[1]), 0x9e3779b97f4a7c15u);
}
