/* Private to lib/coco: lines of text with cairo, in DejaVu Sans, each letter that it lacks in the
 * first font of the system that has it (fontconfig's order). Text is UTF-8; what is not is shown as
 * U+FFFD. No shaping: letters stand side by side from left to right. */
#ifndef MABN_COCO_LETTERING_H
#define MABN_COCO_LETTERING_H

#include <cairo/cairo.h>
#include <stddef.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_lettering;

struct mabn_lettering *mabn_lettering_new(void);
void mabn_lettering_free(struct mabn_lettering *l); /* NULL is fine */

/* At the font size of `cr`. */
double mabn_lettering_width(struct mabn_lettering *l, cairo_t *cr, const char *text);
void mabn_lettering_extents(struct mabn_lettering *l, cairo_t *cr, cairo_font_extents_t *out);
/* The base line begins at x, y. */
void mabn_lettering_show(struct mabn_lettering *l, cairo_t *cr, const char *text, double x,
                         double y);

/* How many bytes of a text to keep, at most `most`, without parting a letter. */
size_t mabn_lettering_cut(const char *text, size_t most);

MABN_END_DECLS
#endif
