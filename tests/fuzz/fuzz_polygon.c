/* Polygons, against COCO's rule carried out word by word: every point of the outline on the fine
 * grid, in order. One byte height, one width, one for the form of the numbers, the corners. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "coco/mask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_CORNERS = 32 };

struct points {
    int *u, *v;
    size_t n, room;
};

static void add_point(struct points *p, int u, int v)
{
    if (p->n == p->room) {
        p->room = p->room * 2 + 1024;
        p->u = realloc(p->u, p->room * sizeof(int));
        p->v = realloc(p->v, p->room * sizeof(int));
    }
    p->u[p->n] = u;
    p->v[p->n++] = v;
}

static void walk_edge(struct points *p, int xs, int ys, int xe, int ye)
{
    int dx = abs(xe - xs), dy = abs(ye - ys);
    bool wide = dx >= dy, flip = wide ? xs > xe : ys > ye;
    if (flip) {
        int x = xs, y = ys;
        xs = xe;
        ys = ye;
        xe = x;
        ye = y;
    }
    int last = wide ? dx : dy;
    if (last == 0) return; /* its one point never makes a crossing */
    double s = wide ? (double)(ye - ys) / dx : (double)(xe - xs) / dy;
    for (int d = 0; d <= last; d++) {
        int t = flip ? last - d : d;
        if (wide)
            add_point(p, t + xs, (int)(ys + s * t + .5));
        else
            add_point(p, (int)(xs + s * t + .5), t + ys);
    }
}

/* Pixels by even-odd filling behind the crossings, column by column. */
static void fill(uint8_t *mask, const struct points *p, int h, int w)
{
    uint32_t *flips = calloc((size_t)h * (size_t)w + 1, sizeof *flips);
    for (size_t i = 1; i < p->n; i++) {
        if (p->u[i] == p->u[i - 1]) continue;
        double x = p->u[i] < p->u[i - 1] ? p->u[i] : p->u[i] - 1;
        x = (x + .5) / 5 - .5;
        if (floor(x) != x || x < 0 || x > w - 1) continue;
        double y = p->v[i] < p->v[i - 1] ? p->v[i] : p->v[i - 1];
        y = (y + .5) / 5 - .5;
        y = ceil(y < 0 ? 0 : y > h ? h : y);
        flips[(size_t)x * (size_t)h + (size_t)y]++;
    }
    uint8_t now = 0;
    for (size_t i = 0; i < (size_t)h * (size_t)w; i++)
        mask[i] = now ^= flips[i] & 1;
    free(flips);
}

static double corner(const uint8_t **p, int form)
{
    int16_t v;
    memcpy(&v, *p, 2);
    *p += 2;
    switch (form & 3) {
    case 0:
        return v / 16.0 / 16; /* about the picture, on a fine grid */
    case 1:
        return v % 300 / 10.0; /* tenths, where rounding is decided */
    case 2:
        return v % 64; /* whole */
    default:
        return v / 160.0; /* far out */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    int h = data[0] % 64 + 1, w = data[1] % 64 + 1, form = data[2];
    const uint8_t *p = data + 3;
    double xy[2 * MAX_CORNERS];
    size_t n = 0;
    struct mabn_rle r;
    mabn_rle_init(&r);
    if (form & 4) { /* any doubles at all: only no crash */
        n = (size - 3) / 8 < 2 * MAX_CORNERS ? (size - 3) / 8 : 2 * MAX_CORNERS;
        if (n) memcpy(xy, p, 8 * n);
        if (!mabn_rle_from_polygon(&r, xy, n, (uint32_t)h, (uint32_t)w)) mabn_rle_area(&r);
        mabn_rle_release(&r);
        return 0;
    }
    while (n < 2 * MAX_CORNERS && p + 2 <= data + size)
        xy[n++] = corner(&p, form);
    if (mabn_rle_from_polygon(&r, xy, n, (uint32_t)h, (uint32_t)w)) abort();
    struct points points = {NULL, NULL, 0, 0};
    size_t corners = n / 2;
    for (size_t i = 0; i < corners; i++) {
        size_t k = (i + 1) % corners;
        walk_edge(&points, (int)(5 * xy[2 * i] + .5), (int)(5 * xy[2 * i + 1] + .5),
                  (int)(5 * xy[2 * k] + .5), (int)(5 * xy[2 * k + 1] + .5));
    }
    uint8_t want[64 * 64], got[64 * 64];
    fill(want, &points, h, w);
    mabn_rle_decode(got, &r);
    if (memcmp(want, got, (size_t)h * (size_t)w)) abort();
    free(points.u);
    free(points.v);
    mabn_rle_release(&r);
    return 0;
}
