/* Run-length masks. Polygons are filled as COCO's rasteriser fills them, without its list of every
 * point along the outline: the outline is followed on a grid five times finer than the pixels, and
 * a pixel column is crossed where the outline steps between fine columns 5x+2 and 5x+3. Along one
 * edge those places are found by arithmetic, with the same rounding, so the cost is the number of
 * crossings, however long the edge. */
#include "coco/mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Crossings of one polygon: more are refused (128 MiB of them). */
enum { MAX_CROSSINGS = 1 << 24 };
#define MAX_COORDINATE 1e8

void mabn_rle_init(struct mabn_rle *r)
{
    memset(r, 0, sizeof *r);
}

void mabn_rle_release(struct mabn_rle *r)
{
    if (r->capacity) free(r->counts);
    mabn_rle_init(r);
}

static void reserve(struct mabn_rle *r, size_t n)
{
    if (n <= r->capacity) return;
    size_t room = n + n / 2 + 16;
    r->counts = mabn_xrealloc(r->capacity ? r->counts : NULL, room * sizeof *r->counts);
    r->capacity = room;
}

static mabn_status set_size(struct mabn_rle *r, uint32_t height, uint32_t width)
{
    if (height > INT32_MAX || width > INT32_MAX || (uint64_t)height * width > UINT32_MAX)
        return mabn_fail(MABN_ERR_LIMIT, "mask of %u x %u pixels is too large", height, width);
    r->height = height;
    r->width = width;
    r->count = 0;
    r->missing = 0;
    return MABN_OK;
}

/* Append a run. A run of length 0 that is not the first joins its neighbours. */
static inline void add_run(struct mabn_rle *r, uint32_t length, bool *join)
{
    if (*join) {
        r->counts[r->count - 1] += length;
        *join = false;
    } else if (length == 0 && r->count > 0) {
        *join = true;
    } else {
        reserve(r, r->count + 1);
        r->counts[r->count++] = length;
    }
}

/* After the last run: what is left of the image is zeros. */
static void finish_runs(struct mabn_rle *r, uint64_t sum)
{
    uint32_t rest = r->missing = (uint32_t)((uint64_t)r->height * r->width - sum);
    if (r->count % 2) {
        r->counts[r->count - 1] += rest;
    } else if (rest || r->count == 0) {
        reserve(r, r->count + 1);
        r->counts[r->count++] = rest;
    }
}

mabn_status mabn_rle_from_counts(struct mabn_rle *out, const uint32_t *counts, size_t n,
                                 uint32_t height, uint32_t width)
{
    uint64_t pixels = (uint64_t)height * width, sum = 0;
    bool join = false;
    MABN_TRY(set_size(out, height, width));
    for (size_t i = 0; i < n; i++) {
        sum += counts[i];
        if (sum > pixels)
            return mabn_fail(MABN_ERR_FORMAT,
                             "mask counts overrun the image: more than %u x %u pixels", height,
                             width);
        add_run(out, counts[i], &join);
    }
    finish_runs(out, sum);
    return MABN_OK;
}

/* ---- compressed strings ---- */

/* One number of a string, of more than one group; NULL and a message when it is not one. */
static const uint8_t *read_groups(const uint8_t *p, const uint8_t *end, int64_t *out)
{
    uint64_t group, value = 0;
    int shift = 0;
    do {
        if (p == end) {
            mabn_fail(MABN_ERR_FORMAT, "mask string ends inside a count (truncated?)");
            return NULL;
        }
        group = (uint64_t)*p++ - 48;
        if (group > 63 || shift > 35) {
            if (group > 63)
                mabn_fail(MABN_ERR_FORMAT, "byte 0x%02x in a mask string", p[-1]);
            else
                mabn_fail(MABN_ERR_FORMAT, "count too long in a mask string");
            return NULL;
        }
        value |= (group & 31) << shift;
        shift += 5;
    } while (group & 32);
    *out = (int64_t)value - (group & 16 ? (int64_t)1 << shift : 0);
    return p;
}

mabn_status mabn_rle_from_string(struct mabn_rle *out, const char *text, size_t n, uint32_t height,
                                 uint32_t width)
{
    uint64_t pixels = (uint64_t)height * width, sum = 0;
    int64_t before[2] = {0, 0}; /* the counts one and two places before, as read */
    const uint8_t *p = (const uint8_t *)text, *end = p + n;
    bool join = false;
    MABN_TRY(set_size(out, height, width));
    reserve(out, n + 1);
    for (size_t i = 0; p < end; i++) {
        uint32_t first = (uint32_t)*p - 48;
        int64_t v;
        if (first < 32) { /* one group: five bits with sign */
            v = (int64_t)(first ^ 16) - 16;
            p++;
        } else {
            p = read_groups(p, end, &v);
            if (!p) return MABN_ERR_FORMAT;
        }
        if (i > 2) v += before[1];
        if (v < 0) return mabn_fail(MABN_ERR_FORMAT, "negative count in a mask string");
        sum += (uint64_t)v;
        if (sum > pixels)
            return mabn_fail(MABN_ERR_FORMAT,
                             "mask counts overrun the image: more than %u x %u pixels", height,
                             width);
        before[1] = before[0];
        before[0] = v;
        if (v && !join)
            out->counts[out->count++] = (uint32_t)v;
        else
            add_run(out, (uint32_t)v, &join);
    }
    finish_runs(out, sum);
    return MABN_OK;
}

void mabn_rle_to_string(struct mabn_str *out, const struct mabn_rle *r)
{
    for (size_t i = 0; i < r->count; i++) {
        int64_t v = r->counts[i];
        if (i > 2) v -= r->counts[i - 2];
        bool more;
        do {
            int group = (int)(v & 31);
            v >>= 5;
            more = group & 16 ? v != -1 : v != 0;
            mabn_str_add_char(out, (char)(group + (more ? 32 : 0) + 48));
        } while (more);
    }
}

void mabn_rle_put(struct mabn_json_writer *w, const char *key, const struct mabn_rle *r)
{
    struct mabn_str counts;
    mabn_str_init(&counts);
    mabn_rle_to_string(&counts, r);
    mabn_json_put_object(w, key);
    mabn_json_put_array(w, "size");
    mabn_json_put_int(w, NULL, r->height);
    mabn_json_put_int(w, NULL, r->width);
    mabn_json_put_end(w);
    mabn_json_put_string(w, "counts", counts.text);
    mabn_json_put_end(w);
    mabn_str_release(&counts);
}

/* ---- pixels ---- */

mabn_status mabn_rle_encode(struct mabn_rle *out, const uint8_t *mask, uint32_t height,
                            uint32_t width)
{
    MABN_TRY(set_size(out, height, width));
    size_t pixels = (size_t)height * width, start = 0;
    bool now = false;
    for (size_t i = 0; i < pixels; i++) {
        if ((mask[i] != 0) == now) continue;
        reserve(out, out->count + 1);
        out->counts[out->count++] = (uint32_t)(i - start);
        start = i;
        now = !now;
    }
    reserve(out, out->count + 1);
    out->counts[out->count++] = (uint32_t)(pixels - start);
    return MABN_OK;
}

mabn_status mabn_rle_encode_rows(struct mabn_rle *out, const uint8_t *mask, uint32_t height,
                                 uint32_t width)
{
    MABN_TRY(set_size(out, height, width));
    size_t start = 0, i = 0;
    bool now = false;
    for (size_t x = 0; x < width; x++)
        for (size_t y = 0; y < height; y++, i++) {
            if ((mask[y * width + x] != 0) == now) continue;
            reserve(out, out->count + 1);
            out->counts[out->count++] = (uint32_t)(i - start);
            start = i;
            now = !now;
        }
    reserve(out, out->count + 1);
    out->counts[out->count++] = (uint32_t)(i - start);
    return MABN_OK;
}

void mabn_rle_decode(uint8_t *mask, const struct mabn_rle *r)
{
    for (size_t i = 0; i < r->count; i++) {
        memset(mask, i & 1, r->counts[i]);
        mask += r->counts[i];
    }
}

void mabn_rle_decode_rows(uint8_t *mask, const struct mabn_rle *r)
{
    size_t at = 0;
    memset(mask, 0, (size_t)r->height * r->width);
    for (size_t i = 0; i < r->count; i++) {
        size_t end = at + r->counts[i];
        if (i & 1)
            for (size_t k = at; k < end; k++)
                mask[k % r->height * r->width + k / r->height] = 1;
        at = end;
    }
}

/* ---- polygons ---- */

/* An outline point on the fine grid: truncation toward zero, as the C cast does. */
static int64_t fine(double v)
{
    return (int64_t)(5 * v + 0.5);
}

struct crossing {
    uint32_t column, row; /* row in [0, height] */
};

struct outline {
    struct crossing *items;
    size_t count, capacity;
    int64_t height, width;
};

/* The outline steps between fine columns 5x+2 and 5x+3; `low` is the smaller of its two fine rows
 * there. The boundary lies at the first pixel whose centre, at fine row 5y+2, is not above it. */
static inline void add_crossing(struct outline *o, int64_t column, int64_t low)
{
    int64_t row = low <= 2 ? 0 : (low + 2) / 5;
    o->items[o->count].column = (uint32_t)column;
    o->items[o->count++].row = (uint32_t)(row < o->height ? row : o->height);
}

/* Crossings of an edge that is wider than high: one step of a fine column at a time. Everything on
 * the fine grid fits 32 bits. */
MABN_CLONES static void cross_wide(struct outline *o, int64_t xs, int64_t ys, int64_t ye,
                                   int64_t dx, int64_t first, int64_t last)
{
    const double slope = (double)(ye - ys) / (double)dx, y = (double)ys;
    const int32_t height = (int32_t)o->height, from = (int32_t)(5 * first + 2 - xs);
    struct crossing *out = o->items + o->count;
    const int32_t n = (int32_t)(last - first + 1);
    for (int32_t i = 0; i < n; i++) {
        double t = (double)(from + 5 * i);
        int32_t v0 = (int32_t)(y + slope * t + 0.5), v1 = (int32_t)(y + slope * (t + 1) + 0.5);
        int32_t low = v0 < v1 ? v0 : v1, row = low <= 2 ? 0 : (low + 2) / 5;
        out[i].column = (uint32_t)((int32_t)first + i);
        out[i].row = (uint32_t)(row < height ? row : height);
    }
    o->count += (size_t)n;
}

/* Crossings of an edge that is higher than wide: one step of a fine row at a time; find the step at
 * which the fine column changes. u(t) is monotone, in floating point too. */
static void cross_high(struct outline *o, int64_t xs, int64_t ys, int64_t xe, int64_t dy,
                       int64_t first, int64_t last)
{
    double slope = (double)(xe - xs) / (double)dy;
#define U(t) ((int64_t)((double)xs + slope * (double)(t) + 0.5))
    for (int64_t column = first; column <= last; column++) {
        int64_t right = 5 * column + 3; /* the step is between right - 1 and right */
        int64_t t = (int64_t)(((double)right - 0.5 - (double)xs) / slope);
        if (t < 1) t = 1;
        if (t > dy) t = dy;
        if (xe > xs) { /* the first t with u(t) >= right */
            while (t > 1 && U(t - 1) >= right)
                t--;
            while (t < dy && U(t) < right)
                t++;
        } else { /* the first t with u(t) < right */
            while (t > 1 && U(t - 1) < right)
                t--;
            while (t < dy && U(t) >= right)
                t++;
        }
        add_crossing(o, column, ys + t - 1);
    }
#undef U
}

static mabn_status cross_edge(struct outline *o, int64_t xs, int64_t ys, int64_t xe, int64_t ye)
{
    int64_t low = xs < xe ? xs : xe, high = xs < xe ? xe : xs;
    /* Columns x with low <= 5x+2 and 5x+3 <= high. */
    int64_t first = low <= 2 ? 0 : (low - 2 + 4) / 5;
    int64_t last = high < 3 ? -1 : (high - 3) / 5;
    if (last > o->width - 1) last = o->width - 1;
    if (first > last) return MABN_OK;
    size_t need = o->count + (size_t)(last - first + 1);
    if (need > MAX_CROSSINGS) return mabn_fail(MABN_ERR_LIMIT, "polygon is too complicated");
    if (need > o->capacity) {
        o->capacity = need + need / 2 + 64;
        o->items = mabn_xrealloc(o->items, o->capacity * sizeof *o->items);
    }
    int64_t dx = llabs(xe - xs), dy = llabs(ye - ys);
    bool flip = dx >= dy ? xs > xe : ys > ye; /* the stepping coordinate increases */
    if (flip) {
        int64_t x = xs, y = ys;
        xs = xe;
        ys = ye;
        xe = x;
        ye = y;
    }
    if (dx >= dy)
        cross_wide(o, xs, ys, ye, dx, first, last);
    else
        cross_high(o, xs, ys, xe, dy, first, last);
    return MABN_OK;
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void sort_rows(uint32_t *row, size_t n)
{
    if (n == 2) { /* nearly always */
        uint32_t a = row[0], b = row[1];
        row[0] = a < b ? a : b;
        row[1] = a < b ? b : a;
        return;
    }
    if (n > 64) {
        qsort(row, n, sizeof *row, compare_u32);
        return;
    }
    for (size_t i = 1; i < n; i++) {
        uint32_t v = row[i];
        size_t k = i;
        for (; k > 0 && row[k - 1] > v; k--)
            row[k] = row[k - 1];
        row[k] = v;
    }
}

/* The rows of the crossings in rows[], by column, each column's sorted: where column first + c has
 * its end in ends[c]. */
static void sort_crossings(uint32_t *rows, uint32_t *ends, const struct outline *o, uint32_t first,
                           size_t columns)
{
    uint32_t sum = 0;
    memset(ends, 0, columns * sizeof *ends);
    for (size_t i = 0; i < o->count; i++)
        ends[o->items[i].column - first]++;
    for (size_t c = 0; c < columns; c++) {
        uint32_t n = ends[c];
        ends[c] = sum; /* the start, for now */
        sum += n;
    }
    for (size_t i = 0; i < o->count; i++)
        rows[ends[o->items[i].column - first]++] = o->items[i].row;
    for (size_t c = 0; c < columns; c++) {
        uint32_t from = c ? ends[c - 1] : 0;
        sort_rows(rows + from, ends[c] - from);
    }
}

/* Runs between the crossings, column by column. */
static void fill_outline(struct mabn_rle *out, const struct outline *o)
{
    uint32_t first = UINT32_MAX, last = 0;
    for (size_t i = 0; i < o->count; i++) {
        if (o->items[i].column < first) first = o->items[i].column;
        if (o->items[i].column > last) last = o->items[i].column;
    }
    bool join = false;
    uint64_t at = 0;
    reserve(out, o->count + 2);
    if (o->count) {
        size_t columns = (size_t)last - first + 1;
        uint32_t *rows = mabn_xmalloc((o->count + columns) * sizeof *rows);
        uint32_t *ends = rows + o->count;
        sort_crossings(rows, ends, o, first, columns);
        for (size_t c = 0, i = 0; c < columns; c++)
            for (; i < ends[c]; i++) {
                uint64_t position = ((uint64_t)first + c) * (uint64_t)o->height + rows[i];
                if (position > at && !join)
                    out->counts[out->count++] = (uint32_t)(position - at);
                else
                    add_run(out, (uint32_t)(position - at), &join);
                at = position;
            }
        free(rows);
    }
    add_run(out, (uint32_t)((uint64_t)out->height * out->width - at), &join);
}

mabn_status mabn_rle_from_polygon(struct mabn_rle *out, const double *xy, size_t n, uint32_t height,
                                  uint32_t width)
{
    struct outline o = {.height = height, .width = width};
    size_t corners = n / 2;
    mabn_status status = MABN_OK;
    MABN_TRY(set_size(out, height, width));
    for (size_t i = 0; i < 2 * corners; i++)
        if (!(fabs(xy[i]) <= MAX_COORDINATE))
            return mabn_fail(MABN_ERR_FORMAT, "polygon coordinate %g is out of range", xy[i]);
    for (size_t i = 0; i < corners; i++) {
        size_t k = i + 1 < corners ? i + 1 : 0;
        MABN_TRY_GOTO(cross_edge(&o, fine(xy[2 * i]), fine(xy[2 * i + 1]), fine(xy[2 * k]),
                                 fine(xy[2 * k + 1])),
                      out);
    }
    fill_outline(out, &o);
out:
    free(o.items);
    return status;
}

mabn_status mabn_rle_from_box(struct mabn_rle *out, struct mabn_box b, uint32_t height,
                              uint32_t width)
{
    double xy[8] = {b.x, b.y, b.x, b.y + b.h, b.x + b.w, b.y + b.h, b.x + b.w, b.y};
    return mabn_rle_from_polygon(out, xy, 8, height, width);
}

/* ---- merging ---- */

/* Walk two masks of one size together. */
static void merge_two(struct mabn_rle *out, const struct mabn_rle *a, const struct mabn_rle *b,
                      bool intersect)
{
    uint64_t pixels = (uint64_t)a->height * a->width, at = 0;
    size_t i = 0, k = 0;
    uint32_t left_a = a->counts[0], left_b = b->counts[0], run = 0;
    bool value_a = false, value_b = false, value = false;
    out->height = a->height;
    out->width = a->width;
    out->count = 0;
    reserve(out, a->count + b->count + 1);
    while (at < pixels) {
        uint32_t step = left_a < left_b ? left_a : left_b;
        bool now = intersect ? value_a && value_b : value_a || value_b;
        if (step && now != value) {
            out->counts[out->count++] = run;
            run = 0;
            value = now;
        }
        run += step;
        at += step;
        left_a -= step;
        left_b -= step;
        if (!left_a && i + 1 < a->count) {
            left_a = a->counts[++i];
            value_a = !value_a;
        }
        if (!left_b && k + 1 < b->count) {
            left_b = b->counts[++k];
            value_b = !value_b;
        }
    }
    out->counts[out->count++] = run;
}

static void copy_rle(struct mabn_rle *out, const struct mabn_rle *r)
{
    reserve(out, r->count);
    memcpy(out->counts, r->counts, r->count * sizeof *r->counts);
    out->count = r->count;
    out->height = r->height;
    out->width = r->width;
    out->missing = 0;
}

mabn_status mabn_rle_merge(struct mabn_rle *out, const struct mabn_rle *masks, size_t n,
                           bool intersect)
{
    if (n == 0) return mabn_rle_from_counts(out, NULL, 0, 0, 0);
    for (size_t i = 1; i < n; i++)
        if (masks[i].height != masks[0].height || masks[i].width != masks[0].width)
            return mabn_fail(MABN_ERR_MISMATCH,
                             "masks to merge differ in size: %u x %u and %u x %u", masks[0].height,
                             masks[0].width, masks[i].height, masks[i].width);
    copy_rle(out, &masks[0]);
    struct mabn_rle other;
    mabn_rle_init(&other);
    for (size_t i = 1; i < n; i++) {
        merge_two(&other, out, &masks[i], intersect);
        struct mabn_rle swap = *out;
        *out = other;
        other = swap;
    }
    mabn_rle_release(&other);
    return MABN_OK;
}

/* ---- measures ---- */

uint64_t mabn_rle_area(const struct mabn_rle *r)
{
    uint64_t area = 0;
    for (size_t i = 1; i < r->count; i += 2)
        area += r->counts[i];
    return area;
}

/* The column of a pixel, starting from that of an earlier one: most often the same or the next. */
struct column {
    uint32_t height, x;
    uint32_t start; /* its first pixel */
};

/* Go to the column of `pixel`; its row there. */
static inline uint32_t seek_row(struct column *c, uint32_t pixel)
{
    uint32_t y = pixel - c->start, next = y >= c->height;
    c->x += next;
    y -= next ? c->height : 0;
    if (y >= c->height) {
        c->x += y / c->height;
        y %= c->height;
    }
    c->start = pixel - y;
    return y;
}

struct mabn_box mabn_rle_box(const struct mabn_rle *r)
{
    struct mabn_box box = {0, 0, 0, 0};
    uint32_t h = r->height, x0 = r->width, x1 = 0, y0 = h, y1 = 0, at = 0;
    struct column column = {h, 0, 0};
    if (r->count < 2 || h == 0) return box;
    for (size_t i = 0; i + 1 < r->count; i += 2) {
        uint32_t start = at + r->counts[i], end = start + r->counts[i + 1] - 1;
        uint32_t ys = seek_row(&column, start), xs = column.x;
        uint32_t ye = seek_row(&column, end), xe = column.x;
        at = end + 1;
        if (xs < xe) {
            ys = 0;
            ye = h - 1;
        }
        if (xs < x0) x0 = xs;
        if (xe > x1) x1 = xe;
        if (ys < y0) y0 = ys;
        if (ye > y1) y1 = ye;
    }
    box = (struct mabn_box){x0, y0, x1 - x0 + 1, y1 - y0 + 1};
    return box;
}

double mabn_box_iou(struct mabn_box d, struct mabn_box g, bool crowd)
{
    double dx = d.x + d.w, gx = g.x + g.w, dy = d.y + d.h, gy = g.y + g.h;
    double w = (dx < gx ? dx : gx) - (d.x > g.x ? d.x : g.x);
    double h = (dy < gy ? dy : gy) - (d.y > g.y ? d.y : g.y);
    if (!(w > 0 && h > 0)) return 0;
    double area = d.w * d.h, both = w * h;
    return both / (crowd ? area : area + g.w * g.h - both);
}

double mabn_rle_iou(const struct mabn_rle *d, const struct mabn_rle *g, bool crowd)
{
    if (!(mabn_box_iou(mabn_rle_box(d), mabn_rle_box(g), crowd) > 0)) return 0;
    if (d->height != g->height || d->width != g->width) return -1;
    uint64_t both = 0, at_d = 0, at_g = 0;
    size_t i = 1, k = 1;
    at_d = d->counts[0];
    at_g = g->counts[0];
    while (i < d->count && k < g->count) { /* both stand at the start of a run of ones */
        uint64_t end_d = at_d + d->counts[i], end_g = at_g + g->counts[k];
        uint64_t from = at_d > at_g ? at_d : at_g, to = end_d < end_g ? end_d : end_g;
        if (to > from) both += to - from;
        if (end_d <= end_g) {
            at_d = end_d + (i + 1 < d->count ? d->counts[i + 1] : 0);
            i += 2;
        } else {
            at_g = end_g + (k + 1 < g->count ? g->counts[k + 1] : 0);
            k += 2;
        }
    }
    if (!both) return 0;
    uint64_t area = mabn_rle_area(d);
    return (double)both / (double)(crowd ? area : area + mabn_rle_area(g) - both);
}

/* ---- boundaries ---- */

uint32_t mabn_rle_boundary_distance(uint32_t height, uint32_t width)
{
    double d = rint(0.02 * sqrt((double)height * height + (double)width * width));
    return d < 1 ? 1 : (uint32_t)d;
}

/* A mask within the box around it, column by column. */
struct patch {
    uint8_t
        *inside; /* (width,height) 1: in the mask, 2: and far enough from the ends of its column */
    uint32_t x, y, width, height;
};

static void fill_patch(struct patch *p, const struct mabn_rle *r, uint32_t distance)
{
    uint64_t at = 0;
    for (size_t i = 0; i < r->count; at += r->counts[i++]) {
        uint64_t end = at + r->counts[i];
        for (uint64_t from = at; i % 2 && from < end;) { /* the run, column by column */
            uint64_t column = from / r->height, top = from % r->height;
            uint64_t bottom =
                end - column * r->height < r->height ? end - column * r->height : r->height;
            uint8_t *out = p->inside + (column - p->x) * p->height;
            for (uint64_t y = top; y < bottom; y++)
                out[y - p->y] = 1 + (y - top >= distance && bottom - 1 - y >= distance);
            from = column * r->height + bottom;
        }
    }
}

/* Where 2 * distance + 1 columns in a row are 2, the middle one is no boundary. */
static void hollow_out(struct patch *p, uint32_t distance)
{
    uint32_t *row = mabn_xcalloc((size_t)p->height + 1, sizeof *row);
    for (uint32_t x = 0; x < p->width; x++) {
        const uint8_t *column = p->inside + (size_t)x * p->height;
        for (uint32_t y = 0; y < p->height; y++) {
            row[y] = column[y] >= 2 ? row[y] + 1 : 0;
            if (row[y] >
                2 * (uint64_t)distance) /* columns behind are only read as mask from now on */
                p->inside[(size_t)(x - distance) * p->height + y] |= 4;
        }
    }
    free(row);
}

mabn_status mabn_rle_boundary(struct mabn_rle *out, const struct mabn_rle *r, uint32_t distance)
{
    struct mabn_box box = mabn_rle_box(r);
    struct patch p = {NULL, (uint32_t)box.x, (uint32_t)box.y, (uint32_t)box.w, (uint32_t)box.h};
    bool join = false;
    uint64_t at = 0;
    MABN_TRY(set_size(out, r->height, r->width));
    MABN_TRY(mabn_alloc_zero((void **)&p.inside, (size_t)p.width * p.height + 1));
    fill_patch(&p, r, distance);
    hollow_out(&p, distance);
    for (uint64_t x = 0; x < p.width; x++)
        for (uint64_t y = 0; y < p.height; y++) {
            uint8_t v = p.inside[x * p.height + y];
            if (v != 1 && v != 2) continue;
            uint64_t pixel = (p.x + x) * r->height + p.y + y, length = 1;
            while (y + 1 < p.height &&
                   (p.inside[x * p.height + y + 1] == 1 || p.inside[x * p.height + y + 1] == 2)) {
                length++;
                y++;
            }
            add_run(out, (uint32_t)(pixel - at), &join);
            add_run(out, (uint32_t)length, &join);
            at = pixel + length;
        }
    finish_runs(out, at);
    mabn_free(p.inside);
    return MABN_OK;
}
