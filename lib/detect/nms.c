#include "detect/nms.h"

#include <stdlib.h>
#include <string.h>

#include "detect/order.h"

enum { BLOCK = 64 };

/* The boxes that stayed, by coordinate. */
struct kept {
    float *x1, *y1, *x2, *y2, *area;
    int64_t count;
};

struct candidate {
    float x1, y1, x2, y2, area;
};

static inline float overlap(const struct kept *k, int64_t i, const struct candidate *c, float one)
{
    const float left = k->x1[i] > c->x1 ? k->x1[i] : c->x1;
    const float top = k->y1[i] > c->y1 ? k->y1[i] : c->y1;
    const float right = k->x2[i] < c->x2 ? k->x2[i] : c->x2;
    const float bottom = k->y2[i] < c->y2 ? k->y2[i] : c->y2;
    float w = right - left + one, h = bottom - top + one;
    w = w > 0 ? w : 0;
    h = h > 0 ? h : 0;
    return w * h;
}

/* Whether one of kept boxes [from, from + n) overlaps the candidate too much. `low` is a little
 * less than the threshold, so that a product never misses what the division finds. */
static inline bool block_suppresses(const struct kept *k, int64_t from, int64_t n,
                                    const struct candidate *c, float threshold, float low,
                                    float one)
{
    int32_t maybe = 0;
    for (int64_t i = from; i < from + n; i++) {
        const float both = overlap(k, i, c, one);
        maybe |= both >= low * (k->area[i] + c->area - both);
    }
    if (!maybe) return false;
    for (int64_t i = from; i < from + n; i++) {
        const float both = overlap(k, i, c, one);
        if (both / (k->area[i] + c->area - both) > threshold) return true;
    }
    return false;
}

static inline bool suppressed(const struct kept *k, const struct candidate *c, float threshold,
                              float low, float one)
{
    int64_t i = 0;
    for (; i + BLOCK <= k->count; i += BLOCK)
        if (block_suppresses(k, i, BLOCK, c, threshold, low, one)) return true;
    return block_suppresses(k, i, k->count - i, c, threshold, low, one);
}

MABN_CLONES
static int64_t suppress(int32_t *keep, const float *box, int64_t n, int64_t most, float threshold,
                        float one, struct kept *k)
{
    const float low = threshold * 0.99999f;
    for (int64_t i = 0; i < n && k->count < most; i++) {
        const float *b = box + 4 * i;
        const struct candidate c = {b[0], b[1], b[2], b[3],
                                    (b[2] - b[0] + one) * (b[3] - b[1] + one)};
        if (suppressed(k, &c, threshold, low, one)) continue;
        k->x1[k->count] = c.x1;
        k->y1[k->count] = c.y1;
        k->x2[k->count] = c.x2;
        k->y2[k->count] = c.y2;
        k->area[k->count] = c.area;
        keep[k->count++] = (int32_t)i;
    }
    return k->count;
}

int64_t mabn_nms_sorted(int32_t *keep, const float *box, int64_t n, int64_t most, float threshold,
                        float one, float *room)
{
    const int64_t stride = (n < most ? n : most) + 64;
    struct kept k = {room, room + stride, room + 2 * stride, room + 3 * stride, room + 4 * stride,
                     0};

    if (threshold > 0) return suppress(keep, box, n, most, threshold, one, &k);
    for (int64_t i = 0; i < n; i++)
        keep[i] = (int32_t)i;
    return n;
}

static int compare_index(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

mabn_status mabn_nms(int32_t *keep, int64_t *kept, const float *box, const float *score, int64_t n,
                     int64_t most, float threshold, float one, bool ascending,
                     struct mabn_scratch *scratch)
{
    const struct mabn_scratch_mark mark = mabn_scratch_mark(scratch);
    mabn_status status;
    float *sorted, *room;
    int32_t *order;

    *kept = 0;
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &order, (size_t)n, sizeof *order), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &sorted, (size_t)n, 4 * sizeof *sorted), out);
    MABN_TRY_GOTO(mabn_scratch_take(scratch, &room, MABN_NMS_ROOM(n), sizeof *room), out);
    MABN_TRY_GOTO(mabn_order_best(order, score, n, n, scratch), out);
    for (int64_t i = 0; i < n; i++)
        memcpy(sorted + 4 * i, box + 4 * (int64_t)order[i], 4 * sizeof *sorted);
    const int64_t stays =
        mabn_nms_sorted(keep, sorted, n, ascending ? n : most, threshold, one, room);
    for (int64_t i = 0; i < stays; i++)
        keep[i] = order[keep[i]];
    if (ascending) qsort(keep, (size_t)stays, sizeof *keep, compare_index);
    *kept = stays > most && threshold > 0 ? most : stays;
out:
    mabn_scratch_back(scratch, mark);
    return status;
}

void mabn_nms_shift(float *out, const float *box, int64_t n, int32_t group, float largest)
{
    const float by = (float)group * (largest + 1);
    for (int64_t i = 0; i < 4 * n; i++)
        out[i] = box[i] + by;
}
