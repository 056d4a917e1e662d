/* Shuffling without a table: a permutation of [0, samples) is a Feistel network on an even
 * number of bits that holds it, repeated while the result falls outside (Black and Rogaway,
 * "Ciphers with arbitrary finite domains", CT-RSA 2002). Any position of any epoch costs the same,
 * and nothing is stored, be there ten samples or ten billion. */
#include "data/sampler.h"

#include "base/rng.h"

enum { ROUNDS = 6 };

static void set_keys(struct mabn_sampler *s, uint64_t epoch, uint64_t pass)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, s->seed, MABN_RNG_SAMPLER, epoch, pass);
    for (int i = 0; i < ROUNDS; i++)
        s->round_keys[i] = mabn_rng_u64(&rng);
    s->epoch = epoch;
    s->pass = pass;
}

mabn_status mabn_sampler_init(struct mabn_sampler *s, enum mabn_sampler_kind kind, uint64_t samples,
                              uint64_t length, uint64_t seed)
{
    if (!samples) return mabn_fail(MABN_ERR_ARG, "no samples to draw from");
    if (samples > UINT64_MAX / 8) return mabn_fail(MABN_ERR_ARG, "too many samples");
    *s = (struct mabn_sampler){
        .kind = kind, .samples = samples, .length = length ? length : samples, .seed = seed};
    s->half_bits = 4; /* on fewer bits the orders are not equally likely */
    while (s->half_bits < 32 && (uint64_t)1 << (2 * s->half_bits) < samples)
        s->half_bits++;
    set_keys(s, 0, 0);
    return MABN_OK;
}

/* 64 bits to 64 well mixed ones (the finalizer of MurmurHash3). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

static uint64_t permute(const struct mabn_sampler *s, uint64_t i)
{
    const unsigned bits = s->half_bits;
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    do {
        uint64_t left = i >> bits, right = i & mask;
        for (int r = 0; r < ROUNDS; r++) {
            const uint64_t t = left ^ (mix(right ^ s->round_keys[r]) & mask);
            left = right;
            right = t;
        }
        i = left << bits | right;
    } while (i >= s->samples);
    return i;
}

uint64_t mabn_sampler_at(struct mabn_sampler *s, uint64_t epoch, uint64_t position)
{
    const uint64_t pass = position / s->samples, place = position % s->samples;
    struct mabn_rng rng;
    switch (s->kind) {
    case MABN_SAMPLER_SHUFFLE:
        if (epoch != s->epoch || pass != s->pass) set_keys(s, epoch, pass);
        return permute(s, place);
    case MABN_SAMPLER_REPLACEMENT:
        mabn_rng_init(&rng, s->seed, MABN_RNG_SAMPLER, epoch, position);
        return mabn_rng_below(&rng, s->samples);
    default:
        return place;
    }
}

uint64_t mabn_sampler_batches(const struct mabn_sampler *s, uint64_t batch, int keep_last)
{
    return s->length / batch + (keep_last && s->length % batch ? 1 : 0);
}

void mabn_sampler_slice(const struct mabn_sampler *s, uint64_t batch, uint64_t index, int rank,
                        int ranks, uint64_t *first, uint64_t *count)
{
    const uint64_t part = batch / (uint64_t)ranks;
    uint64_t begin = index * batch + (uint64_t)rank * part, end = begin + part;
    if (begin > s->length) begin = s->length;
    if (end > s->length) end = s->length;
    *first = begin;
    *count = end - begin;
}
