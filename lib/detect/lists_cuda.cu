/* See lists.cuh.
 *
 * The best of a list: the key of the last wanted score is found digit by digit, the most significant
 * first. The keys up to it are gathered in any order, and then sorted by one block a list. */
#include "detect/lists.cuh"

#include "detect/detect_cuda.h"

namespace
{

enum { WORD = 64, DIGITS = 256, SORT_THREADS = 1024, WALK_THREADS = 128 };
enum { MOST_WORDS = MABN_CUDA_NMS_MOST / WORD };

/* ---- the best ---- */

__device__ int64_t there(const struct mabn_score_lists &l, int64_t list, int64_t n)
{
    const int64_t slots = l.live ? n / l.slot : 0;
    int64_t sum = 0;
    for (int64_t s = 0; s < slots; s++)
        sum += l.live[list / l.kinds * slots + s];
    return l.live ? sum : n;
}

__global__ void start_search(struct mabn_list_search *all, struct mabn_score_lists l,
                             uint64_t prefix)
{
    struct mabn_list_search *s = &all[blockIdx.x];
    const int kind = (int)(blockIdx.x % (unsigned)l.kinds);
    if (threadIdx.x == 0) {
        const int64_t n = there(l, blockIdx.x, l.n[kind]);
        s->prefix = prefix;
        s->left = s->wanted = (int32_t)(n < l.k[kind] ? n : l.k[kind]);
        s->gathered = 0;
    }
    s->count[threadIdx.x] = 0;
}

/* The threads of a warp that found the same digit count it together: most scores share their first
 * ones. */
__global__ void __launch_bounds__(THREADS)
    count_digits(struct mabn_list_search *all, struct mabn_score_lists l, int shift)
{
    struct mabn_list_search *s = &all[blockIdx.y];
    const uint64_t known = shift < 56 ? ~(uint64_t)0 << (shift + 8) : 0;
    uint64_t key = 0;
    const bool counts = mabn_key_in(&key, l, blockIdx.y, item()) && !((key ^ s->prefix) & known);
    const unsigned digit = (unsigned)(key >> shift) & 255;
    unsigned alike = __ballot_sync(~0u, counts);
    for (int bit = 0; bit < 8; bit++) {
        const bool set = digit >> bit & 1;
        const unsigned votes = __ballot_sync(~0u, set);
        alike &= set ? votes : ~votes;
    }
    const unsigned before = (1u << threadIdx.x % WARP) - 1;
    if (counts && !(alike & before)) atomicAdd(&s->count[digit], (int32_t)__popc(alike));
}

/* A thread a digit. Chosen is the digit whose keys, with those of smaller digits, reach the last wanted
 * score. */
__global__ void __launch_bounds__(DIGITS) choose_digit(struct mabn_list_search *all, int shift)
{
    MABN_SHARED(int32_t, part, DIGITS);
    struct mabn_list_search *s = &all[blockIdx.x];
    const int d = (int)threadIdx.x;
    const int32_t mine = s->count[d], left = s->left;
    int32_t upto = mine;
    for (int step = 1; step < DIGITS; step *= 2) {
        part[d] = upto;
        __syncthreads();
        if (d >= step) upto += part[d - step];
        __syncthreads();
    }
    s->count[d] = 0;
    if (upto < left || upto - mine >= left) return;
    s->left = left - (upto - mine);
    s->prefix |= (uint64_t)d << shift;
}

__global__ void gather_keys(uint64_t *keys, int64_t room, struct mabn_list_search *all,
                            struct mabn_score_lists l)
{
    struct mabn_list_search *s = &all[blockIdx.y];
    uint64_t key;
    if (s->wanted && mabn_key_in(&key, l, blockIdx.y, item()) && key <= s->prefix)
        keys[blockIdx.y * room + atomicAdd(&s->gathered, 1)] = key;
}

/* Bitonic, in shared memory; what is missing to a power of two sorts last. */
__global__ void __launch_bounds__(SORT_THREADS)
    sort_keys(int32_t *order, const uint64_t *keys, int64_t room,
              const struct mabn_list_search *all, int size)
{
    MABN_SHARED(uint64_t, a, MABN_CUDA_ORDER_MOST);
    const int self = (int)threadIdx.x, k = all[blockIdx.x].wanted;
    const int64_t row = blockIdx.x * room;
    for (int i = self; i < size; i += (int)blockDim.x)
        a[i] = i < k ? keys[row + i] : ~(uint64_t)0;
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step; step /= 2) {
            __syncthreads();
            for (int i = self; i < size; i += (int)blockDim.x) {
                const int other = i ^ step;
                if (other < i) continue;
                const uint64_t x = a[i], y = a[other];
                if ((x > y) != ((i & run) != 0)) {
                    a[i] = y;
                    a[other] = x;
                }
            }
        }
    __syncthreads();
    for (int i = self; i < k; i += (int)blockDim.x)
        order[row + i] = (int32_t)(uint32_t)a[i];
}

/* ---- suppression ---- */

__device__ int64_t live_in(const struct mabn_box_lists &l, int64_t list)
{
    return l.count && l.count[list] < l.room ? l.count[list] : l.room;
}

/* A thread a box and word: which boxes of the word, behind it in the list, it suppresses. */
__global__ void __launch_bounds__(WORD)
    suppress_kernel(uint64_t *mask, struct mabn_box_lists l, int64_t words, float threshold)
{
    const int64_t list = blockIdx.z, live = live_in(l, list);
    const int64_t i = (int64_t)blockIdx.x * WORD + threadIdx.x, first = (int64_t)blockIdx.y * WORD;
    const float by = l.by ? l.by[list] : 0;
    const float *box = l.box + 4 * list * l.room;
    if (i >= live || blockIdx.y < blockIdx.x) return;
    const struct corners mine = corners_moved(box + 4 * i, by, l.one);
    uint64_t bits = 0;
    for (int64_t j = first > i ? first : i + 1; j < first + WORD && j < live; j++)
        if (overlap(mine, corners_moved(box + 4 * j, by, l.one), l.one) > threshold)
            bits |= (uint64_t)1 << (j - first);
    mask[(list * l.room + i) * words + blockIdx.y] = bits;
}

/* Which boxes of a word stay, `most` at most. Those in `gone` have been suppressed before. */
template <typename Rows>
__device__ uint64_t stay(Rows &rows, uint64_t gone, int64_t boxes, int64_t most)
{
    uint64_t stays = 0;
    for (int b = 0; b < WORD && b < boxes && most > 0; b++) {
        if (gone >> b & 1) continue;
        stays |= (uint64_t)1 << b;
        gone |= rows[b];
        most--;
    }
    return stays;
}

__device__ __forceinline__ int count_bits(uint64_t bits)
{
    return __popc((unsigned)bits) + __popc((unsigned)(bits >> 32));
}

/* One block walks a list, word by word: one thread decides within the word, all then suppress in the
 * words behind it. */
__global__ void __launch_bounds__(WALK_THREADS)
    walk_kernel(int32_t *keep, int32_t *kept, const uint64_t *mask, struct mabn_box_lists l,
                int64_t words, int64_t most)
{
    MABN_SHARED(uint64_t, removed, MOST_WORDS);
    MABN_SHARED(uint64_t, rows, WORD);
    MABN_SHARED(uint64_t, decided, 1);
    const int64_t list = blockIdx.x, live = live_in(l, list);
    const int self = (int)threadIdx.x;
    int64_t stays = 0;
    mask += list * l.room * words;
    for (int64_t w = self; w < words; w += WALK_THREADS)
        removed[w] = 0;
    for (int64_t w = 0; w * WORD < live && stays < most; w++) {
        const int64_t i = w * WORD + self;
        __syncthreads();
        if (self < WORD) rows[self] = i < live ? mask[i * words + w] : 0;
        __syncthreads();
        if (self == 0) decided[0] = stay(rows, removed[w], live - w * WORD, most - stays);
        __syncthreads();
        const uint64_t bits = decided[0];
        if (self < WORD && bits >> self & 1)
            keep[list * l.room + stays + count_bits(bits & (((uint64_t)1 << self) - 1))] =
                (int32_t)i;
        for (int64_t v = w + 1 + self; v < words; v += WALK_THREADS) {
            uint64_t gone = removed[v];
            for (int b = 0; b < WORD; b++)
                if (bits >> b & 1) gone |= mask[(w * WORD + b) * words + v];
            removed[v] = gone;
        }
        stays += count_bits(bits);
    }
    if (self == 0) kept[list] = (int32_t)stays;
}

__global__ void keep_all(int32_t *keep, int32_t *kept, struct mabn_box_lists l)
{
    const int64_t list = blockIdx.y, live = live_in(l, list), i = item();
    if (i < live) keep[list * l.room + i] = (int32_t)i;
    if (i == 0) kept[list] = (int32_t)live;
}

int64_t longest(const struct mabn_score_lists *l)
{
    int64_t n = 1;
    for (int kind = 0; kind < l->kinds; kind++)
        n = l->n[kind] > n ? l->n[kind] : n;
    return n;
}

} // namespace

/* Digits of the index that are 0 in all keys are known beforehand. */
mabn_status mabn_cuda_lists_search(struct mabn_list_search *s, const struct mabn_score_lists *l,
                                   cudaStream_t stream)
{
    const int64_t n = longest(l);
    const dim3 grid(blocks(n), (unsigned)l->lists);
    MABN_TRY(MABN_LAUNCH(start_search, (unsigned)l->lists, DIGITS, 0, stream, s, *l, (uint64_t)0));
    for (int shift = 56; shift >= 0; shift -= 8) {
        if (shift < 32 && (n - 1) >> shift == 0) continue;
        MABN_TRY(MABN_LAUNCH(count_digits, grid, THREADS, 0, stream, s, *l, shift));
        MABN_TRY(MABN_LAUNCH(choose_digit, (unsigned)l->lists, DIGITS, 0, stream, s, shift));
    }
    return MABN_OK;
}

mabn_status mabn_cuda_lists_all(struct mabn_list_search *s, const struct mabn_score_lists *l,
                                cudaStream_t stream)
{
    return MABN_LAUNCH(start_search, (unsigned)l->lists, DIGITS, 0, stream, s, *l, ~(uint64_t)0);
}

mabn_status mabn_cuda_lists_sort(int32_t *order, uint64_t *keys, int64_t room,
                                 struct mabn_list_search *s, const struct mabn_score_lists *l,
                                 cudaStream_t stream)
{
    int size = 1;
    if (room > MABN_CUDA_ORDER_MOST)
        return mabn_fail(MABN_ERR_LIMIT, "the best %lld of a list", (long long)room);
    while (size < room)
        size *= 2;
    MABN_TRY(MABN_LAUNCH(gather_keys, dim3(blocks(longest(l)), (unsigned)l->lists), THREADS, 0,
                         stream, keys, room, s, *l));
    return MABN_LAUNCH(sort_keys, (unsigned)l->lists, SORT_THREADS, 0, stream, order, keys, room, s,
                       size);
}

mabn_status mabn_cuda_lists_suppress(int32_t *keep, int32_t *kept, uint64_t *mask,
                                     const struct mabn_box_lists *l, int64_t most, float threshold,
                                     cudaStream_t stream)
{
    const int64_t words = (l->room + WORD - 1) / WORD;
    const unsigned lists = (unsigned)l->lists;
    if (l->room > MABN_CUDA_NMS_MOST)
        return mabn_fail(MABN_ERR_LIMIT, "suppression among %lld boxes", (long long)l->room);
    if (l->room < 1 || !(threshold > 0))
        return MABN_LAUNCH(keep_all, dim3(blocks(l->room > 0 ? l->room : 1), lists), THREADS, 0,
                           stream, keep, kept, *l);
    MABN_TRY(MABN_LAUNCH(suppress_kernel, dim3((unsigned)words, (unsigned)words, lists), WORD, 0,
                         stream, mask, *l, words, threshold));
    return MABN_LAUNCH(walk_kernel, lists, WALK_THREADS, 0, stream, keep, kept, mask, *l, words,
                       most);
}

/* ---- one list ---- */

size_t mabn_cuda_order_bytes(int64_t k)
{
    return sizeof(struct mabn_list_search) + (size_t)(k > 0 ? k : 0) * sizeof(uint64_t);
}

mabn_status mabn_cuda_order_best(int32_t *order, const float *score, int64_t n, int64_t k,
                                 void *scratch, void *stream)
{
    struct mabn_list_search *s = static_cast<struct mabn_list_search *>(scratch);
    struct mabn_score_lists l = {};
    if (k > n) k = n;
    if (k < 1) return MABN_OK;
    if (k > MABN_CUDA_ORDER_MOST || n > INT32_MAX)
        return mabn_fail(MABN_ERR_LIMIT, "the best %lld of %lld", (long long)k, (long long)n);
    l.lists = l.kinds = 1;
    l.score[0] = score;
    l.n[0] = n;
    l.k[0] = k;
    MABN_TRY(mabn_cuda_lists_search(s, &l, static_cast<cudaStream_t>(stream)));
    return mabn_cuda_lists_sort(order, reinterpret_cast<uint64_t *>(s + 1), k, s, &l,
                                static_cast<cudaStream_t>(stream));
}

size_t mabn_cuda_nms_bytes(int64_t n)
{
    return (size_t)n * (size_t)((n + WORD - 1) / WORD) * sizeof(uint64_t);
}

mabn_status mabn_cuda_nms_sorted(int32_t *keep, int32_t *kept, const float *box,
                                 const int32_t *count, int64_t n, int64_t most, float threshold,
                                 float one, void *scratch, void *stream)
{
    struct mabn_box_lists l = {};
    l.lists = 1;
    l.room = n > 0 ? n : 0;
    l.box = box;
    l.count = count;
    l.one = one;
    return mabn_cuda_lists_suppress(keep, kept, static_cast<uint64_t *>(scratch), &l, most,
                                    threshold, static_cast<cudaStream_t>(stream));
}
