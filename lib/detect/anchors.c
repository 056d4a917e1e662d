#include "detect/anchors.h"

#include <math.h>

struct mabn_anchors mabn_anchors_usual(double first)
{
    struct mabn_anchors a = {.levels = 5, .ratios = 3, .ratio = {0.5, 1, 2}};
    for (int l = 0; l < a.levels; l++) {
        a.stride[l] = 4 << l;
        a.size[l] = first * (1 << l);
    }
    return a;
}

int64_t mabn_anchors_in_level(const struct mabn_anchors *a, const struct mabn_anchor_grid *grid,
                              int level)
{
    return grid->h[level] * grid->w[level] * a->ratios;
}

int64_t mabn_anchors_count(const struct mabn_anchors *a, const struct mabn_anchor_grid *grid)
{
    int64_t n = 0;
    for (int l = 0; l < a->levels; l++)
        n += mabn_anchors_in_level(a, grid, l);
    return n;
}

/* maskrcnn-benchmark: the sides are rounded on a box of the stride, then scaled to the size. */
static void base_on_stride(float *box, double stride, double size, double ratio)
{
    const double w0 = nearbyint(sqrt(stride * stride / ratio));
    const double w = w0 * (size / stride), h = nearbyint(w0 * ratio) * (size / stride);
    const double centre = 0.5 * (stride - 1);
    box[0] = (float)(centre - 0.5 * (w - 1));
    box[1] = (float)(centre - 0.5 * (h - 1));
    box[2] = (float)(centre + 0.5 * (w - 1));
    box[3] = (float)(centre + 0.5 * (h - 1));
}

static void base_exact(float *box, double size, double ratio)
{
    const double w = sqrt(size * size / ratio), h = ratio * w;
    box[0] = (float)(-w / 2);
    box[1] = (float)(-h / 2);
    box[2] = (float)(w / 2);
    box[3] = (float)(h / 2);
}

static void base_rounded(float *box, double size, double ratio)
{
    const float tall = sqrtf((float)ratio), wide = 1 / tall;
    const float w = wide * (float)size, h = tall * (float)size;
    box[0] = nearbyintf(-w / 2);
    box[1] = nearbyintf(-h / 2);
    box[2] = nearbyintf(w / 2);
    box[3] = nearbyintf(h / 2);
}

void mabn_anchors_base(float *box, const struct mabn_anchors *a, int level,
                       const struct mabn_box_convention *c)
{
    for (int r = 0; r < a->ratios; r++, box += 4)
        switch (c->anchors) {
        case MABN_ANCHOR_ON_STRIDE:
            base_on_stride(box, a->stride[level], a->size[level], a->ratio[r]);
            break;
        case MABN_ANCHOR_EXACT:
            base_exact(box, a->size[level], a->ratio[r]);
            break;
        case MABN_ANCHOR_ROUNDED:
            base_rounded(box, a->size[level], a->ratio[r]);
            break;
        }
}

static float *fill_level(float *box, const float *base, int ratios, int64_t h, int64_t w,
                         int64_t stride_y, int64_t stride_x)
{
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++)
            for (int r = 0; r < ratios; r++, box += 4) {
                const float dx = (float)(x * stride_x), dy = (float)(y * stride_y);
                box[0] = base[4 * r] + dx;
                box[1] = base[4 * r + 1] + dy;
                box[2] = base[4 * r + 2] + dx;
                box[3] = base[4 * r + 3] + dy;
            }
    return box;
}

void mabn_anchors_fill(float *box, const struct mabn_anchors *a,
                       const struct mabn_anchor_grid *grid, const struct mabn_box_convention *c)
{
    for (int l = 0; l < a->levels; l++) {
        float base[4 * MABN_ANCHOR_RATIOS];
        int64_t sy = a->stride[l], sx = a->stride[l];
        if (c->stride_from_grid && grid->h[l] > 0 && grid->w[l] > 0) {
            sy = grid->padded_height / grid->h[l];
            sx = grid->padded_width / grid->w[l];
        }
        mabn_anchors_base(base, a, l, c);
        box = fill_level(box, base, a->ratios, grid->h[l], grid->w[l], sy, sx);
    }
}

void mabn_anchors_visible(uint8_t *visible, const float *box, int64_t n, int width, int height)
{
    const float w = (float)width, h = (float)height;
    for (int64_t i = 0; i < n; i++, box += 4)
        visible[i] = box[0] >= 0 && box[1] >= 0 && box[2] < w && box[3] < h;
}
