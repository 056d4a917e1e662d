/* Filled, outlines give exactly the mask that they were made from. */
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "coco/outline.h"
#include "tap.h"

/* The union of the polygons, each filled by COCO's rule. */
static void fill(struct mabn_rle *out, const struct mabn_outline *o, uint32_t height,
                 uint32_t width)
{
    struct mabn_rle *parts = mabn_xcalloc(o->count + 1, sizeof *parts);
    const double *xy = o->xy;
    for (size_t p = 0; p < o->count; xy += o->sizes[p++])
        if (mabn_rle_from_polygon(&parts[p], xy, o->sizes[p], height, width)) exit(1);
    if (o->count ? mabn_rle_merge(out, parts, o->count, false)
                 : mabn_rle_from_counts(out, NULL, 0, height, width))
        exit(1);
    for (size_t p = 0; p < o->count; p++)
        mabn_rle_release(&parts[p]);
    free(parts);
}

static bool same(const struct mabn_rle *a, const struct mabn_rle *b)
{
    return a->height == b->height && a->width == b->width && a->count == b->count &&
           !memcmp(a->counts, b->counts, a->count * sizeof *a->counts);
}

static bool survives(struct mabn_outline *o, const uint8_t *pixels, uint32_t height, uint32_t width)
{
    struct mabn_rle mask, filled;
    mabn_rle_init(&mask);
    mabn_rle_init(&filled);
    if (mabn_rle_encode_rows(&mask, pixels, height, width) || mabn_outline_of_rle(o, &mask))
        exit(1);
    fill(&filled, o, height, width);
    const bool fine = same(&mask, &filled);
    mabn_rle_release(&mask);
    mabn_rle_release(&filled);
    return fine;
}

/* Noise of every density: holes in islands in holes, touching at corners. */
static void test_noise(struct mabn_outline *o)
{
    enum { ROUNDS = 2000, MOST = 24 };
    uint8_t pixels[MOST * MOST];
    int wrong = 0;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        struct mabn_rng rng;
        mabn_rng_init(&rng, 1, MABN_RNG_TEST, 77, i);
        const uint32_t height = 1 + (uint32_t)mabn_rng_below(&rng, MOST),
                       width = 1 + (uint32_t)mabn_rng_below(&rng, MOST);
        const double density = mabn_rng_uniform(&rng);
        for (uint32_t k = 0; k < height * width; k++)
            pixels[k] = mabn_rng_uniform(&rng) < density;
        wrong += !survives(o, pixels, height, width);
    }
    tap_ok(!wrong, "%d of %d masks of noise come back", ROUNDS - wrong, ROUNDS);
}

static void test_shapes(struct mabn_outline *o)
{
    static const uint8_t two[] = {1, 1, 0, 0, /**/ 1, 1, 0, 0, /**/ 0, 0, 1, 1};
    static const uint8_t ring[] = {1, 1, 1, /**/ 1, 0, 1, /**/ 1, 1, 1};
    static const double square[] = {0, 0, 2, 0, 2, 2, 0, 2};
    static const uint8_t none[6] = {0};
    tap_ok(survives(o, two, 3, 4) && o->count == 2 && o->sizes[0] == 8 && o->sizes[1] == 8 &&
               !memcmp(o->xy, square, sizeof square),
           "pixels that touch at a corner: two polygons, only corners in them");
    tap_ok(survives(o, ring, 3, 3) && o->count == 1, "a ring: one polygon");
    tap_ok(survives(o, none, 2, 3) && o->count == 0, "nothing: none");
}

/* In a picture that would need gigabytes as pixels. */
static void test_huge(struct mabn_outline *o)
{
    const uint32_t counts[] = {4000000000u, 3, 60000 - 3, 3, 200000};
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    if (mabn_rle_from_counts(&mask, counts, 5, 60000, 70000)) exit(1);
    tap_status(mabn_outline_of_rle(o, &mask), "six pixels of 60000 x 70000");
    tap_ok(o->count == 1 && o->sizes[0] == 8 && o->pixel_room < 10000,
           "take no more than they are");
    mabn_rle_release(&mask);
}

int main(void)
{
    struct mabn_outline o = {0};
    test_noise(&o);
    test_shapes(&o);
    test_huge(&o);
    mabn_outline_release(&o);
    return tap_done();
}
