#include "base/hash.h"

#include <pthread.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

static uint64_t seed;

static void draw_seed(void)
{
    struct timespec now;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed) return;
    clock_gettime(CLOCK_REALTIME, &now); /* early in a boot, or in a sandbox */
    seed = (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec << 8 ^ (uint64_t)getpid();
}

uint64_t mabn_hash_bytes(const void *bytes, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, draw_seed);
    return XXH3_64bits_withSeed(bytes, n, seed);
}

uint64_t mabn_hash_i64(int64_t key)
{
    return mabn_hash_bytes(&key, sizeof key);
}
