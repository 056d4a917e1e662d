#include "detect/boxes.h"

#include <math.h>

static const float MAX_LOG = 4.135166556742356f; /* ln(1000/16) */

void mabn_box_encode(float *delta, const float *box, const float *truth, int64_t n,
                     struct mabn_box_weights weights, float one)
{
    for (int64_t i = 0; i < n; i++, delta += 4, box += 4, truth += 4) {
        const float w = box[2] - box[0] + one, h = box[3] - box[1] + one;
        const float tw = truth[2] - truth[0] + one, th = truth[3] - truth[1] + one;
        const float cx = box[0] + 0.5f * w, cy = box[1] + 0.5f * h;
        const float tx = truth[0] + 0.5f * tw, ty = truth[1] + 0.5f * th;
        delta[0] = weights.x * (tx - cx) / w;
        delta[1] = weights.y * (ty - cy) / h;
        delta[2] = weights.w * logf(tw / w);
        delta[3] = weights.h * logf(th / h);
    }
}

void mabn_box_decode(float *out, const float *box, const float *delta,
                     struct mabn_box_weights weights, float one)
{
    const float w = box[2] - box[0] + one, h = box[3] - box[1] + one;
    const float cx = box[0] + 0.5f * w, cy = box[1] + 0.5f * h;
    const float dx = delta[0] / weights.x, dy = delta[1] / weights.y;
    float dw = delta[2] / weights.w, dh = delta[3] / weights.h;
    if (dw > MAX_LOG) dw = MAX_LOG;
    if (dh > MAX_LOG) dh = MAX_LOG;
    const float px = dx * w + cx, py = dy * h + cy;
    const float pw = expf(dw) * w, ph = expf(dh) * h;
    out[0] = px - 0.5f * pw;
    out[1] = py - 0.5f * ph;
    out[2] = px + 0.5f * pw - one;
    out[3] = py + 0.5f * ph - one;
}

static inline float clip(float v, float high)
{
    if (v < 0) v = 0;
    return v > high ? high : v;
}

void mabn_box_clip(float *box, int64_t n, int width, int height, float one)
{
    const float right = (float)width - one, bottom = (float)height - one;
    for (int64_t i = 0; i < n; i++, box += 4) {
        box[0] = clip(box[0], right);
        box[1] = clip(box[1], bottom);
        box[2] = clip(box[2], right);
        box[3] = clip(box[3], bottom);
    }
}

bool mabn_box_large_enough(const float *box, double min, bool more, float one)
{
    const float w = box[2] - box[0] + one, h = box[3] - box[1] + one;
    const float m = (float)min;
    return more ? w > m && h > m : w >= m && h >= m;
}

MABN_CLONES
void mabn_box_iou_row(float *iou, const float *box, const float *boxes, int64_t n, float one)
{
    const float x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3];
    const float area = (x2 - x1 + one) * (y2 - y1 + one);
    for (int64_t i = 0; i < n; i++) {
        const float *b = boxes + 4 * i;
        const float other = (b[2] - b[0] + one) * (b[3] - b[1] + one);
        const float left = b[0] > x1 ? b[0] : x1, top = b[1] > y1 ? b[1] : y1;
        const float right = b[2] < x2 ? b[2] : x2, bottom = b[3] < y2 ? b[3] : y2;
        float w = right - left + one, h = bottom - top + one;
        w = w > 0 ? w : 0;
        h = h > 0 ? h : 0;
        iou[i] = w * h / (area + other - w * h);
    }
}

/* size: with the epsilon where it is added inside. */
static float rule_of_levels(float size, const struct mabn_box_convention *c)
{
    return floorf(4 + log2f(size) + (c->epsilon_inside ? 0 : (float)c->level_epsilon));
}

static int level_of(const float *box, const struct mabn_box_convention *c)
{
    const float w = box[2] - box[0] + c->one, h = box[3] - box[1] + c->one;
    const float ratio = sqrtf(w * h) / 224.0f;
    const float level =
        rule_of_levels(c->epsilon_inside ? ratio + (float)c->level_epsilon : ratio, c);
    return level > 16 ? 16 : level > 0 ? (int)level : 0; /* NaN: 0 */
}

float mabn_box_level_from(int level, const struct mabn_box_convention *c)
{
    float below = ldexpf(1, level - 6), from = ldexpf(1, level - 2);
    for (;;) {
        const float middle = below + (from - below) / 2;
        if (middle <= below || middle >= from) return from;
        if (rule_of_levels(middle, c) >= (float)level)
            from = middle;
        else
            below = middle;
    }
}

void mabn_box_levels(int32_t *level, const float *box, int64_t n, int lowest, int highest,
                     const struct mabn_box_convention *c)
{
    for (int64_t i = 0; i < n; i++) {
        int k = level_of(box + 4 * i, c);
        if (k < lowest) k = lowest;
        if (k > highest) k = highest;
        level[i] = k - lowest;
    }
}
