/* Polygons around a mask, along the edges of its pixels.
 *
 * mabn_rle_from_polygon, and COCO's own tools, fill the union of the polygons to exactly the mask.
 * Corners are whole numbers: pixel (x,y) reaches from x to x + 1. A mask without holes has one
 * polygon for each of its parts (pixels that touch at a corner only are parts of their own). A mask
 * with holes is a single polygon: its outlines and its holes one after the other, joined by lines
 * that are walked there and back, which even-odd filling does not see. */
#ifndef MABN_COCO_OUTLINE_H
#define MABN_COCO_OUTLINE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "coco/mask.h"

MABN_BEGIN_DECLS

/* Zeroed is valid. Polygon p has sizes[p] numbers x, y, x, y, …, end to end in xy. */
struct mabn_outline {
    double *xy;
    size_t n;
    uint32_t *sizes; /* (count) */
    size_t count;
    /* private: room, and the pixels around which the outline goes */
    size_t room, size_room, pixel_room;
    uint8_t *pixels;
};

/* Replaces what `out` held and uses its storage again. An empty mask has no polygons. Takes memory
 * for the pixels within the mask's box. */
MABN_MUST_USE mabn_status mabn_outline_of_rle(struct mabn_outline *out,
                                              const struct mabn_rle *mask);
void mabn_outline_release(struct mabn_outline *outline);

MABN_END_DECLS
#endif
