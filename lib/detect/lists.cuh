/* Many lists of scores or boxes at once, for kernels that find the best of each and suppress. Lists
 * are in device memory, and their lengths may be known only there. */
#ifndef MABN_DETECT_LISTS_CUH
#define MABN_DETECT_LISTS_CUH

#include "detect/anchors.h"
#include "detect/kernels.cuh"

/* List i has the kind i % kinds and is number i / kinds of that kind. Its n[kind] scores start at
 * score[kind] + (i / kinds)·n[kind]; the best k[kind] of them are wanted. */
struct mabn_score_lists {
    int64_t lists;
    int kinds;
    const float *score[MABN_ANCHOR_LEVELS];
    int64_t n[MABN_ANCHOR_LEVELS], k[MABN_ANCHOR_LEVELS];
    bool sigmoid; /* ranked by probability */
    /* Not NULL: each list consists of slots of `slot` scores. Only the first live[s] scores of slot s,
     * counted through all lists, are valid. NULL: all scores are. */
    const int32_t *live;
    int64_t slot;
};

/* The search for the last of a list's best scores. */
struct mabn_list_search {
    uint64_t prefix; /* key of the last that is wanted */
    int32_t left;    /* its rank, from 1, among the keys with the digits known so far */
    int32_t wanted, gathered;
    int32_t count[256];
};

/* Fill s (lists). The valid scores with a key up to the prefix are then the wanted ones. */
MABN_MUST_USE mabn_status mabn_cuda_lists_search(struct mabn_list_search *s,
                                                 const struct mabn_score_lists *lists,
                                                 cudaStream_t stream);
/* The same where every valid score is wanted; no list may have more than its k. */
MABN_MUST_USE mabn_status mabn_cuda_lists_all(struct mabn_list_search *s,
                                              const struct mabn_score_lists *lists,
                                              cudaStream_t stream);
/* order (lists,room): of lists that were searched the s[i].wanted best, best first. keys (lists,room):
 * scratch. room: at least every k, at most MABN_CUDA_ORDER_MOST. */
MABN_MUST_USE mabn_status mabn_cuda_lists_sort(int32_t *order, uint64_t *keys, int64_t room,
                                               struct mabn_list_search *s,
                                               const struct mabn_score_lists *lists,
                                               cudaStream_t stream);

/* Lists of boxes, best first: list i in rows i·room … i·room + count[i] − 1; count NULL: room. */
struct mabn_box_lists {
    int64_t lists, room;
    const float *box;
    const int32_t *count;
    const float *by; /* (lists) how far the boxes of a list are moved; NULL: not */
    float one;
};
/* keep (lists,room), kept (lists): as mabn_nms_sorted. mask (lists,room,words) where words is
 * room/64, rounded up: scratch. */
MABN_MUST_USE mabn_status mabn_cuda_lists_suppress(int32_t *keep, int32_t *kept, uint64_t *mask,
                                                   const struct mabn_box_lists *lists, int64_t most,
                                                   float threshold, cudaStream_t stream);

__device__ __forceinline__ float mabn_probability_of(float logit)
{
    return 1 / (1 + expf(-logit));
}

/* Is score i of this list valid, and what is its key? */
__device__ __forceinline__ bool mabn_key_in(uint64_t *key, const struct mabn_score_lists &l,
                                            int64_t list, int64_t i)
{
    const int kind = (int)(list % l.kinds);
    const int64_t n = l.n[kind], number = list / l.kinds;
    if (i >= n) return false;
    if (l.live && i % l.slot >= l.live[number * (n / l.slot) + i / l.slot]) return false;
    const float score = l.score[kind][number * n + i];
    *key = key_of(l.sigmoid ? mabn_probability_of(score) : score, i);
    return true;
}

#endif
