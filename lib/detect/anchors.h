/* Anchors: the boxes that the RPN starts from, with one size for each level and every ratio h/w.
 *
 * Order: level (P2…P6), row y, column x, ratio. The ratio varies fastest, as in the RPN head's maps,
 * which are NHWC. The grid covers the padded picture. */
#ifndef MABN_DETECT_ANCHORS_H
#define MABN_DETECT_ANCHORS_H

#include <stdint.h>

#include "detect/convention.h"

MABN_BEGIN_DECLS

enum { MABN_ANCHOR_LEVELS = 8, MABN_ANCHOR_RATIOS = 8 };

struct mabn_anchors {
    int levels, ratios;
    int stride[MABN_ANCHOR_LEVELS];   /* 4, 8, 16, 32, 64 */
    double size[MABN_ANCHOR_LEVELS];  /* 32, 64, 128, 256, 512 */
    double ratio[MABN_ANCHOR_RATIOS]; /* 0.5, 1, 2 */
};

/* The grids of one padded picture. */
struct mabn_anchor_grid {
    int padded_height, padded_width;
    int64_t h[MABN_ANCHOR_LEVELS], w[MABN_ANCHOR_LEVELS];
};

/* The usual: five levels, three ratios, sizes of `first` (32), twice that, …. */
struct mabn_anchors mabn_anchors_usual(double first);

/* Anchors of a level, and of all levels. */
int64_t mabn_anchors_in_level(const struct mabn_anchors *a, const struct mabn_anchor_grid *grid,
                              int level);
int64_t mabn_anchors_count(const struct mabn_anchors *a, const struct mabn_anchor_grid *grid);

/* box (ratios,4): the anchors of a level at the first cell. */
void mabn_anchors_base(float *box, const struct mabn_anchors *a, int level,
                       const struct mabn_box_convention *c);
/* box (mabn_anchors_count,4): all of them. */
void mabn_anchors_fill(float *box, const struct mabn_anchors *a,
                       const struct mabn_anchor_grid *grid, const struct mabn_box_convention *c);

/* visible (n): 1 for an anchor that stays inside an image of this size, without padding:
 * x1 ≥ 0, y1 ≥ 0, x2 < width, y2 < height. */
void mabn_anchors_visible(uint8_t *visible, const float *box, int64_t n, int width, int height);

MABN_END_DECLS
#endif
