/* Drawing annotations or detections on pictures: boxes, masks, keypoints, labels; a single picture
 * or a contact sheet.
 *
 * Colours belong to categories and are the same in every run; objects of one category in one
 * picture have shades of its colour. Larger objects are drawn first, labels last, each moved a
 * little when it would lie on another. Masks that cannot be drawn are left out, with a warning when
 * the sheet is written. Drawn with cairo; letters in DejaVu Sans, others in whatever font has them
 * (coco/lettering.h). */
#ifndef MABN_COCO_DRAW_H
#define MABN_COCO_DRAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "coco/annotations.h"
#include "image/image.h"

MABN_BEGIN_DECLS

struct mabn_draw_style {
    bool masks, boxes, labels;
    bool scores;      /* the records are results */
    double min_score; /* results below are left out */
    double text;      /* height of letters in pixels; 0: by the size of the picture */
};

struct mabn_sheet;

/* Room for `count` pictures, `columns` in a row, each fitted into tile × (3/4 tile) pixels with a
 * line of text under it. tile 0: one picture, as large as it is, without text. */
MABN_MUST_USE mabn_status mabn_sheet_new(struct mabn_sheet **out, int count, int columns, int tile);
void mabn_sheet_free(struct mabn_sheet *sheet);

/* The next picture, with n records of `c` (indices) drawn on it; names: has the categories' names. c may be
 * NULL. MABN_ERR_ARG: the sheet is full; MABN_ERR_LIMIT: the image is too large. */
MABN_MUST_USE mabn_status mabn_sheet_add(struct mabn_sheet *sheet, const struct mabn_image *image,
                                         const char *title, const struct mabn_coco *c,
                                         const uint32_t *records, size_t n,
                                         const struct mabn_coco *names,
                                         const struct mabn_draw_style *style);

/* Leave the next tile empty, but for its title. */
void mabn_sheet_skip(struct mabn_sheet *sheet, const char *title);

/* As PNG, whole or not at all. */
MABN_MUST_USE mabn_status mabn_sheet_write(struct mabn_sheet *sheet, const char *path, bool force);

MABN_END_DECLS
#endif
