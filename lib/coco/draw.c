/* Drawing on photographs. Masks are painted at the photograph's own size and scaled with it; lines
 * and letters are drawn at the size of the output, so that they stay sharp. */
#include "coco/draw.h"

#include <cairo/cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "coco/lettering.h"

enum { GAP = 8, TITLE = 22, MAX_SIDE = 32000, MAX_LABELS = 512 };

struct rectangle {
    double x, y, w, h;
};

struct mabn_sheet {
    cairo_surface_t *surface; /* NULL until the first picture, when tile is 0 */
    int count, columns, tile, done;
    size_t bare; /* records without anything to draw, and which the first is */
    bool bare_result;
    char first_bare[48];
    size_t odd; /* masks that could not be drawn, and why the first could not */
    char why[256];
    struct mabn_lettering *letters;
};

/* Everything while one picture is drawn. */
struct canvas {
    cairo_t *cr;
    double x, y, scale;   /* where the photograph's corner is, and its enlargement */
    double width, height; /* on the output */
    double text, line;
    const struct mabn_coco *c, *names;
    const struct mabn_draw_style *style;
    struct mabn_sheet *sheet;
    struct rectangle labels[MAX_LABELS]; /* taken places */
    int n_labels;
};

struct colour {
    double r, g, b;
};

struct drawn {
    const struct mabn_coco_record *record;
    struct mabn_coco_record copy; /* with a box, whatever the record has */
    double size;
    size_t nth; /* of its category in the picture */
};

/* ---- colours ---- */

static struct colour from_hsv(double h, double s, double v)
{
    double i = floor(h * 6), f = h * 6 - i;
    double p = v * (1 - s), q = v * (1 - f * s), t = v * (1 - (1 - f) * s);
    switch ((int)i % 6) {
    case 0:
        return (struct colour){v, t, p};
    case 1:
        return (struct colour){q, v, p};
    case 2:
        return (struct colour){p, v, t};
    case 3:
        return (struct colour){p, q, v};
    case 4:
        return (struct colour){t, p, v};
    default:
        return (struct colour){v, p, q};
    }
}

static double lightness(struct colour c)
{
    return 0.3 * c.r + 0.59 * c.g + 0.11 * c.b;
}

/* The colour of the nth object of a category in a picture: lighter, darker, slightly different in
 * hue. */
static struct colour shade(struct colour c, size_t nth)
{
    static const double lighter[] = {0, 0.4, -0.3, 0.2, -0.15, 0.55, -0.45};
    double by = lighter[nth % 7], aside = nth % 3 == 1 ? 0.12 : nth % 3 == 2 ? -0.12 : 0;
    double *part[3] = {&c.r, &c.g, &c.b};
    for (int i = 0; i < 3 && nth; i++) {
        double v = *part[i];
        v = by > 0 ? v + (1 - v) * by : v * (1 + by);
        v += i == (int)(nth / 7 % 3) ? aside : 0;
        *part[i] = v < 0 ? 0 : v > 1 ? 1 : v;
    }
    return c;
}

/* Hues a golden section apart: neighbours in the list of categories look different. */
static struct colour colour_of_category(const struct canvas *v, int64_t category)
{
    size_t k = 0;
    while (v->names && k < v->names->n_categories && v->names->categories[k].id != category)
        k++;
    double h = 0.58 + (double)k * 0.6180339887498949;
    static const double saturations[] = {0.85, 0.6, 1.0}, values[] = {1.0, 0.95, 0.82};
    struct colour c = from_hsv(h - floor(h), saturations[k / 7 % 3], values[k / 3 % 3]);
    double light = lightness(c), white = light < 0.4 ? (0.4 - light) / (1 - light) : 0;
    c.r += (1 - c.r) * white; /* blues would be lost on dark ground */
    c.g += (1 - c.g) * white;
    c.b += (1 - c.b) * white;
    return c;
}

static struct colour colour_of(const struct canvas *v, const struct drawn *d)
{
    return shade(colour_of_category(v, d->record->category_id), d->nth);
}

static void set_colour(const struct canvas *v, struct colour c, double alpha)
{
    cairo_set_source_rgba(v->cr, c.r, c.g, c.b, alpha);
}

/* Of a category; "category ID" where the annotations do not name it. */
static const char *name_of(const struct canvas *v, int64_t category, char *buffer, size_t room)
{
    char id[24];
    for (size_t k = 0; v->names && k < v->names->n_categories; k++)
        if (v->names->categories[k].id == category && v->names->categories[k].name)
            return v->names->categories[k].name;
    snprintf(buffer, room, "category %s", mabn_coco_id_text(v->c, category, id));
    return buffer;
}

/* ---- the photograph ---- */

static cairo_surface_t *photograph(const struct mabn_image *image)
{
    cairo_surface_t *s =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, image->width, image->height);
    if (cairo_surface_status(s)) return s;
    size_t stride = (size_t)cairo_image_surface_get_stride(s), n = (size_t)image->channels;
    uint8_t *out = cairo_image_surface_get_data(s);
    cairo_surface_flush(s);
    for (size_t y = 0; y < (size_t)image->height; y++) {
        uint32_t *row = (uint32_t *)(void *)(out + y * stride);
        const uint8_t *in = image->pixels + y * (size_t)image->width * n;
        for (size_t x = 0; x < (size_t)image->width; x++, in += n)
            row[x] = (uint32_t)in[0] << 16 | (uint32_t)in[n > 1 ? 1 : 0] << 8 | in[n > 2 ? 2 : 0];
    }
    cairo_surface_mark_dirty(s);
    return s;
}

static mabn_status paint(const struct canvas *v, cairo_surface_t *s)
{
    cairo_save(v->cr);
    cairo_rectangle(v->cr, v->x, v->y, v->width, v->height);
    cairo_clip(v->cr);
    cairo_translate(v->cr, v->x, v->y);
    cairo_scale(v->cr, v->scale, v->scale);
    cairo_set_source_surface(v->cr, s, 0, 0);
    cairo_pattern_set_filter(cairo_get_source(v->cr),
                             v->scale > 1.5 ? CAIRO_FILTER_NEAREST : CAIRO_FILTER_GOOD);
    cairo_pattern_set_extend(cairo_get_source(v->cr), CAIRO_EXTEND_PAD);
    cairo_paint(v->cr);
    cairo_restore(v->cr);
    return cairo_surface_status(s) ? mabn_fail(MABN_ERR_NOMEM, "cannot draw: %s",
                                               cairo_status_to_string(cairo_surface_status(s)))
                                   : MABN_OK;
}

/* ---- masks ---- */

/* Is pixel (x,y) of a mask on its border? */
static bool on_border(const uint8_t *m, int h, int w, int x, int y)
{
    const uint8_t *p = m + (size_t)y * (size_t)w + (size_t)x;
    return x == 0 || y == 0 || x == w - 1 || y == h - 1 || !p[-1] || !p[1] || !p[-w] || !p[w];
}

static uint32_t premultiplied(struct colour c, double alpha)
{
    return (uint32_t)(alpha * 255 + 0.5) << 24 | (uint32_t)(c.r * alpha * 255 + 0.5) << 16 |
           (uint32_t)(c.g * alpha * 255 + 0.5) << 8 | (uint32_t)(c.b * alpha * 255 + 0.5);
}

static mabn_status draw_mask(const struct canvas *v, const struct drawn *d, int height, int width)
{
    const struct mabn_coco_record *r = d->record;
    struct mabn_rle mask;
    uint8_t *pixels = NULL;
    mabn_rle_init(&mask);
    mabn_status status = mabn_coco_mask(&mask, v->c, r, (uint32_t)height, (uint32_t)width);
    if (!status && (mask.height != (uint32_t)height || mask.width != (uint32_t)width))
        status = mabn_coco_fail(v->c, r, MABN_ERR_MISMATCH,
                                "its mask is %u x %u pixels, the image %d x %d", mask.width,
                                mask.height, width, height);
    if (!status) status = mabn_alloc((void **)&pixels, (size_t)height * (size_t)width);
    if (status) {
        mabn_rle_release(&mask);
        return status;
    }
    mabn_rle_decode_rows(pixels, &mask);
    mabn_rle_release(&mask);
    struct colour c = colour_of(v, d);
    uint32_t inside = premultiplied(c, 0.4), border = premultiplied(c, 0.9);
    cairo_surface_t *s = cairo_image_surface_create(CAIRO_FORMAT_ARGB32, width, height);
    cairo_surface_flush(s);
    for (int y = 0; y < height && !cairo_surface_status(s); y++) {
        uint32_t *row = (uint32_t *)(void *)(cairo_image_surface_get_data(s) +
                                             (size_t)y * (size_t)cairo_image_surface_get_stride(s));
        for (int x = 0; x < width; x++)
            if (pixels[(size_t)y * (size_t)width + (size_t)x])
                row[x] = on_border(pixels, height, width, x, y) ? border : inside;
    }
    cairo_surface_mark_dirty(s);
    status = paint(v, s);
    cairo_surface_destroy(s);
    mabn_free(pixels);
    return status;
}

/* ---- boxes and keypoints ---- */

static void draw_box(const struct canvas *v, const struct drawn *d)
{
    const struct mabn_coco_record *r = &d->copy;
    struct colour c = colour_of(v, d);
    double x = v->x + r->box.x * v->scale, y = v->y + r->box.y * v->scale;
    double w = r->box.w * v->scale, h = r->box.h * v->scale;
    static const double dashes[] = {6, 4};
    cairo_save(v->cr);
    cairo_rectangle(v->cr, v->x, v->y, v->width, v->height);
    cairo_clip(v->cr);
    cairo_rectangle(v->cr, x, y, w, h);
    cairo_set_source_rgba(v->cr, 0, 0, 0, 0.5);
    cairo_set_line_width(v->cr, v->line + 1.5);
    cairo_stroke_preserve(v->cr);
    if (r->crowd) cairo_set_dash(v->cr, dashes, 2, 0);
    set_colour(v, c, 1);
    cairo_set_line_width(v->cr, v->line);
    cairo_stroke(v->cr);
    cairo_restore(v->cr);
}

/* A category's own skeleton; for people COCO's if the file has none. */
static size_t bones_of(const struct canvas *v, const struct mabn_coco_record *r,
                       const uint32_t **out)
{
    static const uint32_t person[][2] = {{16, 14}, {14, 12}, {17, 15}, {15, 13}, {12, 13}, {6, 12},
                                         {7, 13},  {6, 7},   {6, 8},   {7, 9},   {8, 10},  {9, 11},
                                         {2, 3},   {1, 2},   {1, 3},   {2, 4},   {3, 5}};
    for (size_t k = 0; v->names && k < v->names->n_categories; k++) {
        const struct mabn_coco_category *c = &v->names->categories[k];
        if (c->id != r->category_id) continue;
        *out = v->names->bones + 2 * c->bones;
        if (c->n_bones) return c->n_bones;
        *out = &person[0][0];
        return c->name && !strcmp(c->name, "person") && r->n_keypoints == 17
                   ? sizeof person / sizeof *person
                   : 0;
    }
    return 0;
}

static void draw_bones(const struct canvas *v, const struct mabn_coco_record *r)
{
    const double *k = v->c->numbers + r->keypoints;
    const uint32_t *bones;
    size_t n = bones_of(v, r, &bones);
    for (size_t i = 0; i < n; i++) {
        uint32_t from = bones[2 * i], to = bones[2 * i + 1];
        if (from > r->n_keypoints || to > r->n_keypoints) continue;
        const double *a = k + 3 * (from - 1), *b = k + 3 * (to - 1);
        if (!(a[2] > 0) || !(b[2] > 0)) continue;
        cairo_move_to(v->cr, v->x + a[0] * v->scale, v->y + a[1] * v->scale);
        cairo_line_to(v->cr, v->x + b[0] * v->scale, v->y + b[1] * v->scale);
        cairo_stroke(v->cr);
    }
}

static void draw_keypoints(const struct canvas *v, const struct drawn *d)
{
    const struct mabn_coco_record *r = d->record;
    const double *k = v->c->numbers + r->keypoints;
    struct colour c = colour_of(v, d);
    cairo_save(v->cr);
    cairo_rectangle(v->cr, v->x, v->y, v->width, v->height);
    cairo_clip(v->cr);
    cairo_set_line_width(v->cr, v->line);
    cairo_set_line_cap(v->cr, CAIRO_LINE_CAP_ROUND);
    set_colour(v, c, 0.9);
    draw_bones(v, r);
    for (uint32_t i = 0; i < r->n_keypoints; i++, k += 3) {
        if (!(k[2] > 0)) continue;
        cairo_arc(v->cr, v->x + k[0] * v->scale, v->y + k[1] * v->scale, v->line + 0.5, 0,
                  2 * M_PI);
        cairo_set_source_rgb(v->cr, 1, 1, 1);
        cairo_fill_preserve(v->cr);
        set_colour(v, c, 1);
        cairo_stroke(v->cr);
    }
    cairo_restore(v->cr);
}

/* ---- labels ---- */

static bool taken(const struct canvas *v, const struct rectangle *r)
{
    for (int i = 0; i < v->n_labels; i++) {
        const struct rectangle *o = &v->labels[i];
        if (r->x < o->x + o->w && o->x < r->x + r->w && r->y < o->y + o->h && o->y < r->y + r->h)
            return true;
    }
    return false;
}

static void keep_inside(const struct canvas *v, struct rectangle *r)
{
    if (r->x + r->w > v->x + v->width) r->x = v->x + v->width - r->w;
    if (r->y + r->h > v->y + v->height) r->y = v->y + v->height - r->h;
    if (r->x < v->x) r->x = v->x;
    if (r->y < v->y) r->y = v->y;
}

/* Above the box, inside at its top, below it, inside at its bottom; else step down until there is room. */
static struct rectangle place_label(const struct canvas *v, const struct mabn_coco_record *r,
                                    double w, double h)
{
    double x = v->x + r->box.x * v->scale - v->line / 2, top = v->y + r->box.y * v->scale;
    double bottom = top + r->box.h * v->scale;
    const double tries[] = {top - h, top, bottom, bottom - h};
    struct rectangle first = {x, top < v->y + h ? top : top - h, w, h};
    keep_inside(v, &first);
    for (size_t i = 0; i < 4; i++) {
        struct rectangle place = {x, tries[i], w, h};
        if (tries[i] < v->y || tries[i] + h > v->y + v->height) continue;
        keep_inside(v, &place);
        if (!taken(v, &place)) return place;
    }
    for (struct rectangle place = first; place.y + h <= v->y + v->height; place.y += h / 2)
        if (!taken(v, &place)) return place;
    return first;
}

static void draw_label(struct canvas *v, const struct drawn *d)
{
    const struct mabn_coco_record *r = &d->copy;
    char text[160], buffer[128];
    cairo_font_extents_t f;
    const char *name = name_of(v, r->category_id, buffer, sizeof buffer);
    int length = (int)mabn_lettering_cut(name, 100);
    const char *more = name[length] ? "\xe2\x80\xa6" : "";
    if (v->style->scores)
        snprintf(text, sizeof text, "%.*s%s %.2f", length, name, more, r->score);
    else
        snprintf(text, sizeof text, "%.*s%s%s", length, name, more, r->crowd ? " (crowd)" : "");
    cairo_set_font_size(v->cr, v->text);
    mabn_lettering_extents(v->sheet->letters, v->cr, &f);
    double pad = v->text / 4, width = mabn_lettering_width(v->sheet->letters, v->cr, text);
    struct rectangle p = place_label(v, r, width + 2 * pad, f.ascent + f.descent);
    if (v->n_labels < MAX_LABELS) v->labels[v->n_labels++] = p;
    struct colour c = colour_of(v, d);
    cairo_rectangle(v->cr, p.x, p.y, p.w, p.h);
    set_colour(v, c, 0.85);
    cairo_fill(v->cr);
    if (lightness(c) > 0.5)
        cairo_set_source_rgb(v->cr, 0, 0, 0);
    else
        cairo_set_source_rgb(v->cr, 1, 1, 1);
    mabn_lettering_show(v->sheet->letters, v->cr, text, p.x + pad, p.y + f.ascent);
}

/* ---- one picture ---- */

static int compare_drawn(const void *a, const void *b)
{
    const struct drawn *x = a, *y = b;
    if (x->size != y->size) return x->size > y->size ? -1 : 1;
    return x->record < y->record ? -1 : x->record > y->record;
}

/* The box around pairs of numbers, `step` apart. */
static struct mabn_box box_around(const double *xy, size_t n, size_t step)
{
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (size_t i = 0; i < n; i++, xy += step) {
        x0 = fmin(x0, xy[0]);
        x1 = fmax(x1, xy[0]);
        y0 = fmin(y0, xy[1]);
        y1 = fmax(y1, xy[1]);
    }
    return n ? (struct mabn_box){x0, y0, x1 - x0, y1 - y0} : (struct mabn_box){0, 0, 0, 0};
}

/* Masks that cannot be drawn are counted, and reported at the end. */
static mabn_status pass_over(struct canvas *v, mabn_status status)
{
    if (!status || status == MABN_ERR_NOMEM) return status;
    if (!v->sheet->odd++) snprintf(v->sheet->why, sizeof v->sheet->why, "%s", mabn_error_message());
    return MABN_OK;
}

/* Give records without a box one: around the mask, or the keypoints. */
static mabn_status derive_box(struct canvas *v, struct drawn *d)
{
    struct mabn_coco_record *r = &d->copy;
    const struct mabn_segmentation *s = &r->segmentation;
    mabn_status status = MABN_OK;
    if (!r->has_box && mabn_segmentation_is_mask(s)) {
        struct mabn_rle mask;
        mabn_rle_init(&mask);
        status = mabn_coco_mask(&mask, v->c, r, 0, 0);
        if (!status) r->box = mabn_rle_box(&mask);
        mabn_rle_release(&mask);
    } else if (!r->has_box && s->kind == MABN_SEGMENTATION_POLYGONS) {
        size_t n = 0;
        for (uint32_t i = 0; i < s->n; i++)
            n += v->c->lengths[s->sizes + i];
        r->box = box_around(v->c->numbers + s->at, n / 2, 2);
    } else if (!r->has_box && r->has_keypoints) {
        r->box = box_around(v->c->numbers + r->keypoints, r->n_keypoints, 3);
    } else if (!r->has_box && s->kind == MABN_SEGMENTATION_NONE && !v->sheet->bare++) {
        (void)mabn_coco_record_place(v->c, d->record, v->sheet->first_bare);
        v->sheet->bare_result = v->style->scores;
    }
    d->size = r->box.w * r->box.h;
    return pass_over(v, status);
}

/* The records to draw, larger ones first, each with its number among those of its category. */
static mabn_status list_records(struct canvas *v, const uint32_t *records, size_t n,
                                struct drawn *list, size_t *count)
{
    mabn_status status = MABN_OK;
    *count = 0;
    for (size_t i = 0; i < n && !status; i++) {
        const struct mabn_coco_record *r = &v->c->records[records[i]];
        if (v->style->scores && r->score < v->style->min_score) continue;
        struct drawn *d = &list[*count];
        *d = (struct drawn){.record = r, .copy = *r};
        for (size_t k = 0; k < *count; k++)
            d->nth += list[k].record->category_id == r->category_id;
        status = derive_box(v, d);
        ++*count;
    }
    qsort(list, *count, sizeof *list, compare_drawn);
    return status;
}

static mabn_status draw_records(struct canvas *v, const uint32_t *records, size_t n, int height,
                                int width)
{
    struct drawn *list = mabn_xcalloc(n + 1, sizeof *list);
    size_t count;
    mabn_status status = list_records(v, records, n, list, &count);
    for (size_t i = 0; i < count && v->style->masks && !status; i++)
        if (list[i].record->segmentation.kind != MABN_SEGMENTATION_NONE)
            status = pass_over(v, draw_mask(v, &list[i], height, width));
    for (size_t i = 0; i < count && !status; i++) {
        if (v->style->boxes) draw_box(v, &list[i]);
        if (list[i].record->has_keypoints) draw_keypoints(v, &list[i]);
    }
    for (size_t i = 0; i < count && v->style->labels && !status; i++)
        draw_label(v, &list[i]);
    free(list);
    return status;
}

/* ---- the sheet ---- */

mabn_status mabn_sheet_new(struct mabn_sheet **out, int count, int columns, int tile)
{
    int64_t rows = columns > 0 ? (count + columns - 1) / columns : 0;
    int64_t width = (int64_t)columns * (tile + GAP) + GAP;
    int64_t height = rows * (tile * 3 / 4 + TITLE + GAP) + GAP;
    *out = NULL;
    if (count < 1 || columns < 1 || tile < 0)
        return mabn_fail(MABN_ERR_ARG, "a sheet needs pictures, columns and a size");
    if (tile && (width > MAX_SIDE || height > MAX_SIDE))
        return mabn_fail(MABN_ERR_LIMIT, "a sheet of %lld x %lld pixels is too large (%d a side)",
                         (long long)width, (long long)height, MAX_SIDE);
    struct mabn_sheet *s = mabn_xcalloc(1, sizeof *s);
    *s = (struct mabn_sheet){.count = count, .columns = columns, .tile = tile};
    s->letters = mabn_lettering_new();
    if (tile) {
        s->surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)width, (int)height);
        cairo_t *cr = cairo_create(s->surface);
        cairo_set_source_rgb(cr, 0.12, 0.12, 0.13);
        cairo_paint(cr);
        cairo_destroy(cr);
    }
    *out = s;
    return MABN_OK;
}

void mabn_sheet_free(struct mabn_sheet *s)
{
    if (!s) return;
    if (s->surface) cairo_surface_destroy(s->surface);
    mabn_lettering_free(s->letters);
    free(s);
}

/* Cut a title to the width of a tile, with an ellipsis (bytes of a UTF-8 letter stay together). */
static void show_title(const struct mabn_sheet *s, cairo_t *cr, const char *title, double x,
                       double y, double width)
{
    char text[256];
    size_t n = mabn_lettering_cut(title, 240);
    cairo_set_font_size(cr, 13);
    snprintf(text, sizeof text, "%.*s", (int)n, title);
    while (mabn_lettering_width(s->letters, cr, text) > width && n > 0) {
        n = mabn_lettering_cut(title, n - 1);
        snprintf(text, sizeof text, "%.*s\xe2\x80\xa6", (int)n, title);
    }
    cairo_set_source_rgb(cr, 0.85, 0.85, 0.85);
    mabn_lettering_show(s->letters, cr, text, x, y);
}

/* Where the next picture goes. */
static mabn_status open_canvas(struct mabn_sheet *s, struct canvas *v,
                               const struct mabn_image *image, const char *title)
{
    if (s->done == s->count) return mabn_fail(MABN_ERR_ARG, "the sheet is full");
    if (image->width > MAX_SIDE || image->height > MAX_SIDE)
        return mabn_fail(MABN_ERR_LIMIT, "image of %d x %d pixels is too large to draw on",
                         image->width, image->height);
    v->scale = 1;
    v->width = image->width;
    v->height = image->height;
    if (s->tile) {
        double box_h = s->tile * 3 / 4;
        v->scale = fmin((double)s->tile / image->width, box_h / image->height);
        v->width = image->width * v->scale;
        v->height = image->height * v->scale;
        double left = GAP + s->done % s->columns * (s->tile + GAP);
        double top = GAP + s->done / s->columns * (s->tile * 3 / 4 + TITLE + GAP);
        v->x = floor(left + (s->tile - v->width) / 2);
        v->y = floor(top + (box_h - v->height) / 2);
        v->cr = cairo_create(s->surface);
        show_title(s, v->cr, title, left, top + box_h + TITLE - 6, s->tile);
    } else {
        s->surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, image->width, image->height);
        v->cr = cairo_create(s->surface);
    }
    s->done++;
    double side = fmin(v->width, v->height);
    v->text = v->style->text > 0 ? v->style->text : fmax(10, fmin(40, side / 34));
    v->line = fmax(1.5, fmin(8, side / 240));
    return MABN_OK;
}

mabn_status mabn_sheet_add(struct mabn_sheet *s, const struct mabn_image *image, const char *title,
                           const struct mabn_coco *c, const uint32_t *records, size_t n,
                           const struct mabn_coco *names, const struct mabn_draw_style *style)
{
    struct canvas *v = mabn_xcalloc(1, sizeof *v);
    v->c = c;
    v->names = names;
    v->style = style;
    v->sheet = s;
    mabn_status status = open_canvas(s, v, image, title);
    if (!status) {
        cairo_surface_t *photo = photograph(image);
        status = paint(v, photo);
        cairo_surface_destroy(photo);
        if (!status && c) status = draw_records(v, records, n, image->height, image->width);
        if (!status && cairo_status(v->cr))
            status = mabn_fail(MABN_ERR_NOMEM, "cannot draw: %s",
                               cairo_status_to_string(cairo_status(v->cr)));
        cairo_destroy(v->cr);
    }
    free(v);
    return status;
}

void mabn_sheet_skip(struct mabn_sheet *s, const char *title)
{
    double left = GAP + s->done % s->columns * (s->tile + GAP);
    double bottom = GAP + s->done / s->columns * (s->tile * 3 / 4 + TITLE + GAP) + s->tile * 3 / 4;
    if (s->done++ >= s->count || !s->surface) return;
    cairo_t *cr = cairo_create(s->surface);
    show_title(s, cr, title, left, bottom + TITLE - 6, s->tile);
    cairo_destroy(cr);
}

/* ---- output ---- */

struct png_output {
    struct mabn_outfile file;
    mabn_status status;
};

static cairo_status_t write_png(void *closure, const unsigned char *bytes, unsigned n)
{
    struct png_output *out = closure;
    out->status = mabn_write_all(out->file.fd, bytes, n, out->file.path);
    return out->status ? CAIRO_STATUS_WRITE_ERROR : CAIRO_STATUS_SUCCESS;
}

mabn_status mabn_sheet_write(struct mabn_sheet *s, const char *path, bool force)
{
    struct png_output out;
    memset(&out, 0, sizeof out);
    if (!s->surface) return mabn_fail(MABN_ERR_ARG, "nothing was drawn");
    if (s->bare)
        mabn_warn("%zu %s%s no box, mask or keypoints to draw (the first: %s)", s->bare,
                  s->bare_result ? "result" : "annotation", s->bare == 1 ? " has" : "s have",
                  s->first_bare);
    if (s->odd)
        mabn_warn("%zu mask%s could not be drawn (the first: %s)", s->odd, s->odd == 1 ? "" : "s",
                  s->why);
    MABN_TRY(mabn_outfile_open(&out.file, path, force));
    cairo_status_t wrote = cairo_surface_write_to_png_stream(s->surface, write_png, &out);
    if (!out.status && wrote)
        out.status =
            mabn_fail(MABN_ERR_IO, "cannot write '%s': %s", path, cairo_status_to_string(wrote));
    if (!out.status) return mabn_outfile_commit(&out.file);
    mabn_outfile_abort(&out.file);
    return out.status;
}
