/* Philox4x32-10. Key: the 64-bit seed. Counter word 0 counts blocks; words 1 to 3 hold purpose
 * and the two ids, which a Philox round of their own mixes down when they need more than 96 bits. */
#include "base/rng.h"

#include "base/philox.h"

#include <math.h>
#include <string.h>

void mabn_rng_init(struct mabn_rng *rng, uint64_t seed, enum mabn_rng_purpose purpose, uint64_t a,
                   uint64_t b)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t ids[4] = {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)};
    uint32_t mixed[4];
    memset(rng, 0, sizeof *rng);
    /* The stream's own key and counter come from encrypting the ids under (seed, purpose). */
    key[1] ^= (uint32_t)purpose * 0x9E3779B1u;
    mabn_philox(ids, key, mixed);
    rng->key[0] = key[0] ^ mixed[0];
    rng->key[1] = key[1];
    rng->counter[1] = mixed[1];
    rng->counter[2] = mixed[2];
    rng->counter[3] = mixed[3];
    rng->used = 4;
}

uint32_t mabn_rng_u32(struct mabn_rng *rng)
{
    return mabn_philox_u32(rng);
}

uint64_t mabn_rng_u64(struct mabn_rng *rng)
{
    return mabn_philox_u64(rng);
}

double mabn_rng_uniform(struct mabn_rng *rng)
{
    return (double)(mabn_rng_u64(rng) >> 11) * 0x1p-53;
}

double mabn_rng_range(struct mabn_rng *rng, double low, double high)
{
    return low + (high - low) * mabn_rng_uniform(rng);
}

uint64_t mabn_rng_below(struct mabn_rng *rng, uint64_t n)
{
    return mabn_philox_below(rng, n);
}

double mabn_rng_normal(struct mabn_rng *rng)
{
    double u = 1.0 - mabn_rng_uniform(rng); /* (0,1]: the logarithm stays finite */
    double v = mabn_rng_uniform(rng);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}
