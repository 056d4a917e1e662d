/* Run-length masks, compared with numbers of the official tools and with pixels. */
#include "tap.h"

#include "base/mem.h"
#include "base/rng.h"
#include "coco/mask.h"

/* Made with the official C code (pycocotools 2.0). */
struct vector {
    const char *name, *string;
    uint32_t height, width;
    size_t corners; /* numbers in xy; 0: counts are given */
    double xy[12];
    size_t n;
    uint32_t counts[20];
    uint64_t area;
    double box[4];
};

static const struct vector vectors[] = {
    {"square",
     "93500000g0",
     8,
     8,
     8,
     {1, 1, 1, 4, 5, 4, 5, 1},
     9,
     {9, 3, 5, 3, 5, 3, 5, 3, 28},
     12,
     {1, 1, 4, 3}},
    {"triangle",
     "091O1O1O1O1O1O1O1O;",
     10,
     10,
     6,
     {0, 0, 10, 0, 0, 10},
     19,
     {0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 5, 4, 6, 3, 7, 2, 8, 1, 19},
     45,
     {0, 0, 9, 9}},
    {"fractions",
     "P1373NN1N2OV1",
     10,
     12,
     6,
     {2.3, 1.7, 7.9, 3.2, 4.4, 8.6},
     11,
     {32, 3, 7, 6, 5, 4, 6, 2, 8, 1, 46},
     16,
     {3, 2, 5, 6}},
    {"over the edges",
     "0642N1Oc10\\N2N2NN",
     10,
     12,
     8,
     {-3, 2, 6, -2.5, 14, 5, 5.5, 13},
     15,
     {0, 6, 4, 8, 2, 9, 1, 60, 1, 8, 3, 6, 5, 4, 3},
     101,
     {0, 0, 12, 10}},
    {"crossing itself",
     "083N2N2N;0E2N2N29",
     10,
     10,
     8,
     {0, 0, 9, 9, 9, 0, 0, 9},
     17,
     {0, 8, 3, 6, 5, 4, 7, 2, 18, 2, 7, 4, 5, 6, 3, 8, 12},
     40,
     {0, 0, 9, 8}},
    {"box",
     "j044000>",
     8,
     8,
     8,
     {2.5, 1.5, 2.5, 5.5, 5.5, 5.5, 5.5, 1.5},
     7,
     {26, 4, 4, 4, 4, 4, 18},
     12,
     {3, 2, 3, 4}},
    {"box on the grid",
     "a044000g0",
     8,
     8,
     8,
     {2, 1, 2, 5, 5, 5, 5, 1},
     7,
     {17, 4, 4, 4, 4, 4, 27},
     12,
     {2, 1, 3, 4}},
    {"column", "231N", 7, 1, 0, {0}, 4, {2, 3, 1, 1}, 4, {0, 2, 1, 5}},
    {"nothing", "<", 3, 4, 0, {0}, 1, {12}, 0, {0, 0, 0, 0}},
    {"all", "0<", 3, 4, 0, {0}, 2, {0, 12}, 12, {0, 0, 4, 3}},
};

static void check_vector(const struct vector *v)
{
    struct mabn_rle r, s;
    struct mabn_str text;
    mabn_rle_init(&r);
    mabn_rle_init(&s);
    mabn_str_init(&text);
    mabn_status status = v->corners
                             ? mabn_rle_from_polygon(&r, v->xy, v->corners, v->height, v->width)
                             : mabn_rle_from_counts(&r, v->counts, v->n, v->height, v->width);
    tap_status(status, "%s is made", v->name);
    tap_ok(r.count == v->n && !memcmp(r.counts, v->counts, 4 * v->n), "%s: counts", v->name);
    mabn_rle_to_string(&text, &r);
    tap_str_eq(text.text, v->string, "%s: string", v->name);
    tap_status(mabn_rle_from_string(&s, v->string, strlen(v->string), v->height, v->width),
               "%s: string is read", v->name);
    tap_ok(s.count == v->n && !memcmp(s.counts, v->counts, 4 * v->n), "%s: and back", v->name);
    tap_ok(mabn_rle_area(&r) == v->area, "%s: area", v->name);
    struct mabn_box b = mabn_rle_box(&r);
    tap_ok(b.x == v->box[0] && b.y == v->box[1] && b.w == v->box[2] && b.h == v->box[3],
           "%s: box %g,%g,%g,%g", v->name, b.x, b.y, b.w, b.h);
    mabn_rle_release(&r);
    mabn_rle_release(&s);
    mabn_str_release(&text);
}

static void test_box(void)
{
    struct mabn_rle r;
    struct mabn_str text;
    mabn_rle_init(&r);
    mabn_str_init(&text);
    tap_status(mabn_rle_from_box(&r, (struct mabn_box){2.5, 1.5, 3, 4}, 8, 8), "a box");
    mabn_rle_to_string(&text, &r);
    tap_str_eq(text.text, "j044000>", "a box as mask");
    /* The mask target of the reference: an RoI's window of a polygon, on 28 by 28. */
    double xy[] = {10, 20, 50, 20, 50, 70, 10, 70};
    for (int i = 0; i < 8; i++)
        xy[i] =
            i % 2 ? (xy[i] - 18.25) * 28 / (80.5 - 18.25) : (xy[i] - 12.5) * 28 / (47.75 - 12.5);
    tap_status(mabn_rle_from_polygon(&r, xy, 8, 28, 28), "a mask target");
    tap_ok(mabn_rle_area(&r) == 616 && r.count == 57 && r.counts[0] == 1 && r.counts[56] == 5,
           "rows 1 to 22 of all columns");
    static const uint32_t counts[] = {1000, 5, 995, 7, 993, 3, 100};
    tap_status(mabn_rle_from_counts(&r, counts, 7, 100, 50), "counts that stop short");
    tap_ok(r.count == 7 && r.counts[6] == 1997 && mabn_rle_area(&r) == 15, "are filled up");
    struct mabn_box b = mabn_rle_box(&r);
    tap_ok(b.x == 10 && b.y == 0 && b.w == 21 && b.h == 7, "their box");
    tap_close(mabn_box_iou((struct mabn_box){0, 0, 10, 10}, (struct mabn_box){5, 5, 10, 10}, false),
              0.14285714285714285, 0, "box overlap");
    tap_close(mabn_box_iou((struct mabn_box){0, 0, 10, 10}, (struct mabn_box){5, 5, 10, 10}, true),
              0.25, 0, "box overlap with a crowd");
    mabn_rle_release(&r);
    mabn_str_release(&text);
}

static void test_limits(void)
{
    struct mabn_rle r;
    mabn_rle_init(&r);
    static const uint32_t over[] = {3, 10}, huge[] = {4000000000u, 4000000000u};
    tap_fails(mabn_rle_from_counts(&r, over, 2, 3, 4), MABN_ERR_FORMAT, "overrun the image",
              "counts");
    tap_fails(mabn_rle_from_counts(&r, huge, 2, 2, 2), MABN_ERR_FORMAT, "overrun",
              "counts that wrap");
    tap_fails(mabn_rle_from_string(&r, "39", 2, 3, 3), MABN_ERR_FORMAT, "overrun", "string");
    tap_fails(mabn_rle_from_string(&r, "o", 1, 9, 9), MABN_ERR_FORMAT, "truncated", "half a count");
    tap_fails(mabn_rle_from_string(&r, "oooooooooo", 10, 9, 9), MABN_ERR_FORMAT, "too long",
              "a count without end");
    tap_fails(mabn_rle_from_string(&r, "1 1", 3, 9, 9), MABN_ERR_FORMAT, "byte 0x20", "a blank");
    tap_fails(mabn_rle_from_string(&r, "p", 1, 9, 9), MABN_ERR_FORMAT, "byte 0x70",
              "a letter too far");
    tap_fails(mabn_rle_from_string(&r, "O", 1, 9, 9), MABN_ERR_FORMAT, "negative",
              "a negative count");
    tap_fails(mabn_rle_from_string(&r, "1", 1, 1u << 31, 1), MABN_ERR_LIMIT, "too large",
              "height 2^31");
    tap_fails(mabn_rle_from_string(&r, "1", 1, 1u << 17, 1u << 17), MABN_ERR_LIMIT, "too large",
              "2^34 pixels");
    const double far[] = {0, 0, 1e9, 5, 3, 3}, nan[] = {0, 0, NAN, 5, 3, 3};
    tap_fails(mabn_rle_from_polygon(&r, far, 6, 9, 9), MABN_ERR_FORMAT, "out of range",
              "a far corner");
    tap_fails(mabn_rle_from_polygon(&r, nan, 6, 9, 9), MABN_ERR_FORMAT, "out of range", "NaN");
    static double zigzag[4000];
    for (int i = 0; i < 4000; i++)
        zigzag[i] = i % 4 < 2 ? 0 : 5e7;
    tap_fails(mabn_rle_from_polygon(&r, zigzag, 4000, 40, 50000000), MABN_ERR_LIMIT, "complicated",
              "a polygon of too many crossings");
    tap_status(mabn_rle_from_string(&r, "0", 1, 0, 0), "an image without pixels");
    tap_ok(mabn_rle_area(&r) == 0 && mabn_rle_box(&r).w == 0, "has nothing in it");
    tap_status(mabn_rle_from_string(&r, "", 0, 3, 3), "no counts");
    tap_ok(r.count == 1 && r.counts[0] == 9, "are all zeros");
    tap_status(mabn_rle_from_polygon(&r, NULL, 0, 3, 3), "a polygon without corners");
    tap_ok(r.count == 1 && r.counts[0] == 9, "is empty");
    struct mabn_rle two[2] = {{.height = 3, .width = 3}, {.height = 3, .width = 4}};
    tap_fails(mabn_rle_merge(&r, two, 2, false), MABN_ERR_MISMATCH, "differ in size", "merging");
    mabn_rle_release(&r);
}

enum { SIDE = 40 };

static void random_mask(struct mabn_rng *rng, uint8_t *mask, uint32_t pixels)
{
    uint64_t run = 1 + mabn_rng_below(rng, 30);
    uint8_t value = 0;
    for (uint32_t i = 0; i < pixels; i++) {
        if (mabn_rng_below(rng, run) == 0) value = !value;
        mask[i] = value;
    }
}

/* Every operation against pixels, on random masks of odd sizes. */
static void test_random(void)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, 3, MABN_RNG_TEST, 0, 0);
    struct mabn_rle r[3], merged;
    uint8_t pixels[3][SIDE * SIDE], out[SIDE * SIDE], rows[SIDE * SIDE];
    int trips = 0, merges = 0, overlaps = 0, areas = 0, boxes = 0;
    for (int i = 0; i < 3; i++)
        mabn_rle_init(&r[i]);
    mabn_rle_init(&merged);
    enum { ROUNDS = 2000 };
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t h = 1 + (uint32_t)mabn_rng_below(&rng, SIDE),
                 w = 1 + (uint32_t)mabn_rng_below(&rng, SIDE);
        uint32_t n = h * w;
        struct mabn_str text;
        mabn_str_init(&text);
        for (int i = 0; i < 3; i++) {
            random_mask(&rng, pixels[i], n);
            if (mabn_rle_encode(&r[i], pixels[i], h, w)) return;
        }
        mabn_rle_to_string(&text, &r[0]);
        if (mabn_rle_from_string(&merged, text.text, text.length, h, w)) return;
        mabn_rle_decode(out, &merged);
        mabn_rle_decode_rows(rows, &merged);
        bool same = merged.count == r[0].count && !memcmp(out, pixels[0], n);
        for (uint32_t y = 0; y < h; y++)
            for (uint32_t x = 0; x < w; x++)
                same &= rows[y * w + x] == out[x * h + y];
        if (mabn_rle_encode_rows(&merged, rows, h, w)) return;
        same &= merged.count == r[0].count && !memcmp(merged.counts, r[0].counts, 4 * merged.count);
        trips += same;
        mabn_str_release(&text);

        bool intersect = round % 2;
        uint64_t both = 0, any = 0, area = 0;
        if (mabn_rle_merge(&merged, r, 3, intersect)) return;
        mabn_rle_decode(out, &merged);
        bool right = true;
        for (uint32_t i = 0; i < n; i++) {
            int sum = pixels[0][i] + pixels[1][i] + pixels[2][i];
            right &= out[i] == (intersect ? sum == 3 : sum > 0);
            both += pixels[0][i] & pixels[1][i];
            any += pixels[0][i] | pixels[1][i];
            area += pixels[0][i];
        }
        merges += right;
        areas += mabn_rle_area(&r[0]) == area;
        double iou = both ? (double)both / (double)any : 0,
               crowd = both ? (double)both / (double)area : 0;
        overlaps +=
            mabn_rle_iou(&r[0], &r[1], false) == iou && mabn_rle_iou(&r[0], &r[1], true) == crowd;
        struct mabn_box b = mabn_rle_box(&r[0]);
        bool inside = true;
        for (uint32_t i = 0; i < n; i++)
            if (pixels[0][i])
                inside &= i / h >= b.x && i / h < b.x + b.w && i % h >= b.y && i % h < b.y + b.h;
        boxes += inside;
    }
    tap_ok(trips == ROUNDS, "encode, string, decode: %d of %d", trips, ROUNDS);
    tap_ok(merges == ROUNDS, "union and intersection: %d", merges);
    tap_ok(areas == ROUNDS, "area: %d", areas);
    tap_ok(overlaps == ROUNDS, "overlap: %d", overlaps);
    tap_ok(boxes == ROUNDS, "box: %d", boxes);
    for (int i = 0; i < 3; i++)
        mabn_rle_release(&r[i]);
    mabn_rle_release(&merged);
}

/* A pixel belongs to the boundary if a pixel within the distance is outside; this looks at all of
 * them. */
static bool near_outside(const uint8_t *m, int h, int w, int x, int y, int d)
{
    for (int i = x - d; i <= x + d; i++)
        for (int k = y - d; k <= y + d; k++)
            if (i < 0 || k < 0 || i >= w || k >= h || !m[i * h + k]) return true;
    return false;
}

static void test_boundaries(void)
{
    enum { H = 23, W = 31 };
    uint8_t m[H * W], b[H * W];
    struct mabn_rle mask, border;
    mabn_rle_init(&mask);
    mabn_rle_init(&border);
    tap_ok(mabn_rle_boundary_distance(480, 640) == 16 && mabn_rle_boundary_distance(9, 9) == 1,
           "2 %% of the diagonal, at least 1");
    for (int n = 0; n < 60; n++) {
        uint32_t seed = 977u * (uint32_t)n + 5, distance = 1 + (uint32_t)n % 5, wrong = 0;
        for (int i = 0; i < H * W; i++) {
            seed = seed * 1664525u + 1013904223u;
            m[i] = n == 0 ? 0 : n == 1 ? 1 : seed >> 24 < (n % 3 ? 250u : 60u);
        }
        tap_status(mabn_rle_encode(&mask, m, H, W), "mask %d", n);
        tap_status(mabn_rle_boundary(&border, &mask, distance), "its boundary");
        mabn_rle_decode(b, &border);
        for (int i = 0; i < H * W; i++)
            wrong += b[i] != (m[i] && near_outside(m, H, W, i / H, i % H, (int)distance));
        tap_ok(wrong == 0, "of distance %u: %u pixels wrong", distance, wrong);
    }
    mabn_rle_release(&mask);
    mabn_rle_release(&border);
}

int main(void)
{
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        check_vector(&vectors[i]);
    test_box();
    test_limits();
    test_random();
    test_boundaries();
    return tap_done();
}
