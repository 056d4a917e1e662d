/* The outline is walked with the mask on the right: down its right sides, up its left ones. At a
 * corner where two pixels touch diagonally the walk turns right, so they are parts of their own.
 * Every loop goes along the upper edge of some pixel, so all loops are found by looking for upper
 * edges that no walk has passed. */
#include "coco/outline.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { INSIDE = 1, PASSED = 2 };

/* The mask's box, with a border of one pixel, in rows. */
struct tracing {
    struct mabn_outline *out;
    size_t stride;
    int x, y; /* of the box in the image */
    bool holes;
};

static void add_corner(struct mabn_outline *out, double x, double y)
{
    if (out->n + 2 > out->room) {
        out->room = 2 * out->room + 64;
        out->xy = mabn_xrealloc(out->xy, out->room * sizeof *out->xy);
    }
    out->xy[out->n++] = x;
    out->xy[out->n++] = y;
}

static void add_size(struct mabn_outline *out, size_t numbers)
{
    MABN_GROW(out->sizes, out->count, out->size_room);
    out->sizes[out->count++] = (uint32_t)numbers;
}

/* The pixel to the lower right of a corner of the box, which counts from 0. */
static uint8_t *pixel(const struct tracing *t, int x, int y)
{
    return t->out->pixels + (size_t)(y + 1) * t->stride + (size_t)(x + 1);
}

static bool inside(const struct tracing *t, int x, int y)
{
    return *pixel(t, x, y) & INSIDE;
}

/* One loop from the upper left corner of a pixel, eastward; returns twice its area, negative for a
 * hole. */
static double walk(struct tracing *t, int x0, int y0)
{
    static const int step[4][2] = {{1, 0}, {0, 1}, {-1, 0}, {0, -1}}; /* east south west north */
    /* pixels ahead of a walker who comes to a corner: on the right hand, on the left */
    static const int right[4][2] = {{0, 0}, {-1, 0}, {-1, -1}, {0, -1}};
    static const int left[4][2] = {{0, -1}, {0, 0}, {-1, 0}, {-1, -1}};
    int x = x0, y = y0, d = 0;
    double area = 0;
    do {
        const int from_x = x, from_y = y;
        add_corner(t->out, t->x + x, t->y + y);
        int turn = 0;
        while (!turn) {
            if (d == 0) *pixel(t, x, y) |= PASSED;
            x += step[d][0];
            y += step[d][1];
            if (!inside(t, x + right[d][0], y + right[d][1]))
                turn = 1;
            else if (inside(t, x + left[d][0], y + left[d][1]))
                turn = 3;
        }
        area += (double)from_x * y - (double)x * from_y;
        d = (d + turn) % 4;
    } while (x != x0 || y != y0 || d != 0);
    return area;
}

/* Join all loops to one polygon: each begins where the one before it ended, and in the end the
 * joining lines are walked back. */
static void join_loops(struct mabn_outline *out)
{
    const size_t loops = out->count, n = out->n;
    double *from = mabn_xmalloc(n * sizeof *from);
    size_t *start = mabn_xmalloc(loops * sizeof *start), at = 0;
    memcpy(from, out->xy, n * sizeof *from);
    out->n = 0;
    for (size_t k = 0; k < loops; at += out->sizes[k++]) {
        start[k] = at;
        for (size_t i = 0; i < out->sizes[k]; i += 2)
            add_corner(out, from[at + i], from[at + i + 1]);
        add_corner(out, from[at], from[at + 1]);
    }
    for (size_t k = loops - 1; k-- > 1;)
        add_corner(out, from[start[k]], from[start[k] + 1]);
    out->count = 0;
    add_size(out, out->n);
    free(from);
    free(start);
}

/* The pixels of the mask's box into out->pixels. */
static mabn_status draw_box(struct tracing *t, const struct mabn_rle *mask, int *width, int *height)
{
    struct mabn_outline *out = t->out;
    const uint32_t h = mask->height;
    const struct mabn_box box = mabn_rle_box(mask);
    t->x = (int)box.x;
    t->y = (int)box.y;
    *width = (int)box.w;
    *height = (int)box.h;
    t->stride = (size_t)*width + 2;
    const size_t bytes = t->stride * ((size_t)*height + 2);
    if (bytes > out->pixel_room) {
        mabn_free(out->pixels);
        out->pixels = NULL;
        out->pixel_room = 0;
        MABN_TRY(mabn_alloc((void **)&out->pixels, bytes));
        out->pixel_room = bytes;
    }
    memset(out->pixels, 0, bytes);
    uint64_t at = 0;
    for (size_t i = 0; i < mask->count; at += mask->counts[i++])
        for (uint64_t p = at; i % 2 && p < at + mask->counts[i]; p++)
            *pixel(t, (int)(p / h) - t->x, (int)(p % h) - t->y) = INSIDE;
    return MABN_OK;
}

mabn_status mabn_outline_of_rle(struct mabn_outline *out, const struct mabn_rle *mask)
{
    struct tracing t = {.out = out};
    int width, height;
    out->n = out->count = 0;
    if (!mabn_rle_area(mask)) return MABN_OK;
    MABN_TRY(draw_box(&t, mask, &width, &height));
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            if (*pixel(&t, x, y) != INSIDE || inside(&t, x, y - 1)) continue;
            const size_t before = out->n;
            t.holes |= walk(&t, x, y) < 0;
            add_size(out, out->n - before);
        }
    if (out->n > UINT32_MAX / 4)
        return mabn_fail(MABN_ERR_LIMIT, "a mask with %zu corners", out->n / 2);
    if (t.holes) join_loops(out);
    return MABN_OK;
}

void mabn_outline_release(struct mabn_outline *outline)
{
    free(outline->xy);
    free(outline->sizes);
    mabn_free(outline->pixels);
    *outline = (struct mabn_outline){0};
}
