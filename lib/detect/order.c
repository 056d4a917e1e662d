/* Scores become 32-bit keys that ascend as scores descend. The k-th key is found by three counting
 * passes over its digits, and the chosen are then sorted digit by digit, which keeps the order of
 * equal ones. */
#include "detect/order.h"

#include <string.h>

enum { DIGIT = 11, VALUES = 1 << DIGIT, PASSES = 3 };

static inline uint32_t key_of(float score)
{
    uint32_t bits;
    score += 0.0f; /* −0 becomes 0 */
    memcpy(&bits, &score, sizeof bits);
    if (score != score) return UINT32_MAX;
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

static inline uint32_t digit_of(uint32_t key, int pass)
{
    return key >> (DIGIT * pass) & (VALUES - 1);
}

/* The k-th smallest key; *equal: how many with exactly that key are among the k. */
static uint32_t find_threshold(const uint32_t *key, int64_t n, int64_t k, int64_t *equal)
{
    uint32_t prefix = 0, mask = 0;
    for (int pass = PASSES - 1; pass >= 0; pass--) {
        int64_t count[VALUES] = {0};
        uint32_t d = 0;
        for (int64_t i = 0; i < n; i++)
            if ((key[i] & mask) == prefix) count[digit_of(key[i], pass)]++;
        for (; k > count[d]; d++)
            k -= count[d];
        prefix |= d << (DIGIT * pass);
        mask |= (uint32_t)(VALUES - 1) << (DIGIT * pass);
    }
    *equal = k;
    return prefix;
}

static void choose(int32_t *order, const uint32_t *key, int64_t n, int64_t k)
{
    int64_t equal, m = 0;
    uint32_t threshold = find_threshold(key, n, k, &equal);
    for (int64_t i = 0; i < n && m < k; i++) {
        if (key[i] > threshold) continue;
        if (key[i] == threshold && equal-- <= 0) continue;
        order[m++] = (int32_t)i;
    }
}

static void sort_pass(int32_t *to, const int32_t *from, const uint32_t *key, int64_t n, int pass)
{
    int64_t start[VALUES] = {0}, sum = 0;
    for (int64_t i = 0; i < n; i++)
        start[digit_of(key[from[i]], pass)]++;
    for (int d = 0; d < VALUES; d++) {
        int64_t here = start[d];
        start[d] = sum;
        sum += here;
    }
    for (int64_t i = 0; i < n; i++)
        to[start[digit_of(key[from[i]], pass)]++] = from[i];
}

static void sort_few(int32_t *order, const uint32_t *key, int64_t n)
{
    for (int64_t i = 1; i < n; i++) {
        int32_t v = order[i];
        int64_t j = i;
        for (; j > 0 && key[order[j - 1]] > key[v]; j--)
            order[j] = order[j - 1];
        order[j] = v;
    }
}

static mabn_status chosen_with_keys(int32_t *order, uint32_t **key, const float *score, int64_t n,
                                    int64_t k, struct mabn_scratch *scratch)
{
    MABN_TRY(mabn_scratch_take(scratch, key, (size_t)n, sizeof **key));
    for (int64_t i = 0; i < n; i++)
        (*key)[i] = key_of(score[i]);
    choose(order, *key, n, k);
    return MABN_OK;
}

mabn_status mabn_order_chosen(int32_t *order, const float *score, int64_t n, int64_t k,
                              struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    mabn_status status = MABN_OK;
    uint32_t *key;

    if (k > n) k = n;
    if (k > 0) status = chosen_with_keys(order, &key, score, n, k, scratch);
    mabn_scratch_back(scratch, mark);
    return status;
}

mabn_status mabn_order_best(int32_t *order, const float *score, int64_t n, int64_t k,
                            struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    mabn_status status = MABN_OK;
    int32_t *other;
    uint32_t *key;

    if (k > n) k = n;
    if (k <= 0) return MABN_OK;
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &other, (size_t)k, sizeof *other), out);
    MABN_TRY_GOTO(chosen_with_keys(order, &key, score, n, k, scratch), out);
    if (k <= 48) {
        sort_few(order, key, k);
        goto out;
    }
    sort_pass(other, order, key, k, 0);
    sort_pass(order, other, key, k, 1);
    sort_pass(other, order, key, k, 2);
    memcpy(order, other, (size_t)k * sizeof *order);
out:
    mabn_scratch_back(scratch, mark);
    return status;
}
