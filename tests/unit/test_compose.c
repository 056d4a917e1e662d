/* Composed scenes: their masks agree with their pixels. */
#include <stdlib.h>
#include <unistd.h>

#include "data/compose.h"
#include "data/cutouts.h"
#include "store/dataset.h"
#include "tap.h"

enum { SIDE = 20, PICTURES = 4 };

/* Raw pictures of 20 × 20. 0: a white rectangle of 10 × 6; 1: a white ring, whose dark inside
 * belongs to it; 2: all black; 3: a rectangle of one colour. */
static void draw_picture(uint8_t *p, int which)
{
    memset(p, 0, SIDE * SIDE * 3);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            const bool ring =
                x >= 4 && x < 16 && y >= 4 && y < 16 && !(x >= 7 && x < 13 && y >= 7 && y < 13);
            const bool bar = x >= 5 && x < 15 && y >= 7 && y < 13;
            uint8_t *q = p + 3 * (y * SIDE + x);
            if ((which == 0 && bar) || (which == 1 && ring)) memset(q, 255, 3);
            if (which == 3 && bar) q[0] = 200, q[1] = 100;
        }
}

static void make_dataset(const char *path)
{
    const struct mabn_dataset_spec spec = {.kind = "imagenet",
                                           .raw = true,
                                           .height = SIDE,
                                           .width = SIDE,
                                           .channels = 3,
                                           .count = PICTURES,
                                           .command = "test",
                                           .force = true};
    const int32_t labels[PICTURES] = {0, 1, 0, 2};
    struct mabn_dataset_writer *w;
    if (mabn_dataset_writer_open(&w, path, &spec)) exit(1);
    for (int i = 0; i < PICTURES; i++) {
        uint8_t pixels[SIDE * SIDE * 3];
        const struct mabn_dataset_sample s = {.bytes = pixels,
                                              .size = sizeof pixels,
                                              .height = SIDE,
                                              .width = SIDE,
                                              .channels = 3,
                                              .format = MABN_DATASET_RAW};
        draw_picture(pixels, i);
        if (mabn_dataset_writer_add(w, i, &s)) exit(1);
    }
    if (mabn_dataset_writer_set_labels(w, labels) || mabn_dataset_writer_commit(w)) exit(1);
    mabn_dataset_writer_free(w, false);
}

static void test_cutouts(const struct mabn_cutouts *c)
{
    struct mabn_decoder *decoder = mabn_decoder_new();
    struct mabn_cutout out = {0};
    bool empty;
    tap_ok(mabn_cutouts_count(c) == 4 && mabn_cutouts_classes(c) == 3, "4 pictures, 3 classes");
    tap_str_eq(mabn_cutouts_class_name(c, 2), "class 2", "a name for a class that has none");
    tap_status(mabn_cutouts_get(c, 0, decoder, &out, &empty), "a rectangle");
    tap_ok(!empty && out.image.width == 10 && out.image.height == 6 && out.gray && out.label == 0,
           "cut to its box");
    if (mabn_cutouts_get(c, 1, decoder, &out, &empty)) exit(1);
    int inside = 0;
    for (int i = 0; i < 144; i++)
        inside += out.mask.pixels[i] == 255;
    tap_ok(out.image.width == 12 && inside == 144, "the dark inside of a ring is the ring's");
    tap_ok(!mabn_cutouts_get(c, 2, decoder, &out, &empty) && empty, "black is nothing");
    tap_ok(!mabn_cutouts_get(c, 3, decoder, &out, &empty) && !out.gray && out.label == 2,
           "colour is told from gray");
    mabn_cutout_release(&out);
    mabn_decoder_free(decoder);
}

static struct mabn_compose_options plain_options(void)
{
    struct mabn_compose_options o;
    mabn_compose_options_init(&o);
    o.width = 96;
    o.height = 64;
    o.seed = 4;
    return o;
}

/* Untinted white objects, upright and at their own size, on darker backgrounds: a pixel is 255 in
 * all channels exactly where there is a mask. */
static void test_white(const char *path)
{
    struct mabn_compose_options o = plain_options();
    struct mabn_composition s = {0};
    struct mabn_cutouts *c;
    if (mabn_cutouts_open(&c, path, 220)) exit(1); /* 220: the coloured rectangle does not count */
    o.rotation = 0;
    o.tint = 0;
    o.min_scale = o.max_scale = 0.5;
    struct mabn_composer *composer = mabn_composer_new(c, &o);
    uint8_t *pixels = malloc((size_t)o.width * (size_t)o.height);
    int wrong = 0, loose = 0, objects = 0, hidden = 0;
    for (uint64_t n = 0; n < 60; n++) {
        if (mabn_compose(composer, &s, n)) exit(1);
        int *of = calloc((size_t)o.width * (size_t)o.height, sizeof *of);
        bool *white = calloc((size_t)o.width * (size_t)o.height, sizeof *white);
        for (int k = 0; k < s.count; k++) {
            const struct mabn_composed_object *object = &s.objects[k];
            struct mabn_rect b = object->box;
            uint64_t area = 0;
            int left = 0;
            mabn_rle_decode_rows(pixels, &object->mask);
            for (int i = 0; i < o.width * o.height; i++) {
                const int x = i % o.width, y = i / o.width;
                of[i] += pixels[i];
                white[i] |= pixels[i] && object->label == 0;
                area += pixels[i];
                wrong +=
                    pixels[i] && (x < b.x || y < b.y || x >= b.x + b.width || y >= b.y + b.height);
                left += pixels[i] && x == b.x;
            }
            loose += area != object->area || !left;
            hidden += area < (uint64_t)o.min_area;
            objects++;
        }
        /* at its rim an object is blended by less than half with the background, 0 to 210 */
        for (int i = 0; i < o.width * o.height; i++) {
            const uint8_t *p = s.image.pixels + 3 * i;
            wrong += of[i] > 1;
            wrong += !of[i] && p[0] == 255 && p[1] == 255 && p[2] == 255;
            wrong += white[i] && (p[0] < 127 || p[1] < 127 || p[2] < 127);
        }
        free(of);
        free(white);
    }
    tap_ok(objects > 120 && !wrong, "%d things: masks apart, within boxes, white nowhere else",
           objects);
    tap_ok(!loose && !hidden, "areas and boxes are those of the masks, none nearly hidden");
    free(pixels);
    mabn_composer_free(composer);
    mabn_composition_release(&s);
    mabn_cutouts_free(c);
}

/* Many objects of one size in a scene: the others together hide none by more than is allowed. */
static void test_hidden(const char *path)
{
    struct mabn_compose_options o = plain_options();
    struct mabn_composition s = {0};
    struct mabn_cutouts *c;
    uint64_t least[2] = {UINT64_MAX, UINT64_MAX}, most[2] = {0};
    if (mabn_cutouts_open(&c, path, 220)) exit(1);
    o.rotation = 0;
    o.min_scale = o.max_scale = 0.4;
    o.min_objects = o.max_objects = 20;
    o.overlap = 0.5;
    struct mabn_composer *composer = mabn_composer_new(c, &o);
    for (uint64_t n = 0; n < 60; n++) {
        if (mabn_compose(composer, &s, n)) exit(1);
        for (int i = 0; i < s.count; i++) {
            const struct mabn_composed_object *object = &s.objects[i];
            if (object->area < least[object->label]) least[object->label] = object->area;
            if (object->area > most[object->label]) most[object->label] = object->area;
        }
    }
    for (int k = 0; k < 2; k++)
        tap_ok((double)least[k] >= 0.5 * (double)most[k] &&
                   (double)least[k] < 0.6 * (double)most[k],
               "of %d pixels at least %d are seen", (int)most[k], (int)least[k]);
    mabn_composer_free(composer);
    mabn_composition_release(&s);
    mabn_cutouts_free(c);
}

static bool equal(const struct mabn_composition *a, const struct mabn_composition *b)
{
    bool same =
        a->count == b->count && !memcmp(a->image.pixels, b->image.pixels,
                                        (size_t)a->image.width * (size_t)a->image.height * 3);
    for (int i = 0; same && i < a->count; i++)
        same = a->objects[i].label == b->objects[i].label &&
               a->objects[i].mask.count == b->objects[i].mask.count &&
               !memcmp(a->objects[i].mask.counts, b->objects[i].mask.counts,
                       a->objects[i].mask.count * sizeof(uint32_t));
    return same;
}

static void test_same(const struct mabn_cutouts *c)
{
    struct mabn_compose_options o = plain_options();
    struct mabn_composition a = {0}, b = {0};
    struct mabn_composer *one = mabn_composer_new(c, &o), *two = mabn_composer_new(c, &o);
    int same = 0, others = 0;
    for (uint64_t n = 0; n < 20; n++) {
        /* in another order: nothing may depend on the scene before */
        if (mabn_compose(one, &a, n) || mabn_compose(two, &b, 40 - n) || mabn_compose(two, &b, n))
            exit(1);
        same += equal(&a, &b);
        if (mabn_compose(two, &b, n + 1)) exit(1);
        others += !equal(&a, &b);
    }
    tap_ok(same == 20 && others == 20, "a scene depends on its number alone");
    mabn_composer_free(two);
    o.seed = 5;
    two = mabn_composer_new(c, &o);
    if (mabn_compose(one, &a, 3) || mabn_compose(two, &b, 3)) exit(1);
    tap_ok(!equal(&a, &b), "and on the seed");
    mabn_composer_free(one);
    mabn_composer_free(two);
    mabn_composition_release(&a);
    mabn_composition_release(&b);
}

/* Where no object may hide another, fewer fit. */
static void test_overlap(const struct mabn_cutouts *c)
{
    struct mabn_compose_options o = plain_options();
    struct mabn_composition s = {0};
    o.min_objects = o.max_objects = 12;
    int objects[2] = {0}, left_out = 0;
    for (int k = 0; k < 2; k++) {
        o.overlap = k;
        struct mabn_composer *composer = mabn_composer_new(c, &o);
        for (uint64_t n = 0; n < 20; n++) {
            if (mabn_compose(composer, &s, n)) exit(1);
            objects[k] += s.count;
            if (!k) left_out += s.left_out;
        }
        mabn_composer_free(composer);
    }
    tap_ok(objects[0] + left_out == 240 && left_out > 20 && objects[1] > objects[0],
           "without overlap %d of 240 find no room, with it %d do", left_out, 240 - objects[1]);
    mabn_composition_release(&s);
}

static void test_options(const char *path)
{
    struct mabn_compose_options o = plain_options();
    struct mabn_cutouts *c;
    tap_status(mabn_compose_check(&o), "the defaults are fine");
    o.min_objects = 7;
    tap_fails(mabn_compose_check(&o), MABN_ERR_ARG, "7 to 6 objects", "more at least than at most");
    o = plain_options();
    o.overlap = 1.5;
    tap_fails(mabn_compose_check(&o), MABN_ERR_ARG, "overlap 1.5", "more than all hidden");
    tap_fails(mabn_cutouts_open(&c, path, 255), MABN_ERR_ARG, "threshold of 255", "a threshold");
    tap_fails(mabn_cutouts_open(&c, "/nonexistent", 20), MABN_ERR_IO, "/nonexistent", "no file");
}

static void test_nothing(const char *path)
{
    const struct mabn_compose_options o = plain_options();
    struct mabn_composition s = {0};
    struct mabn_cutouts *c;
    if (mabn_cutouts_open(&c, path, 254)) exit(1);
    struct mabn_composer *composer = mabn_composer_new(c, &o);
    tap_status(mabn_compose(composer, &s, 0), "white is brighter than 254");
    mabn_composer_free(composer);
    mabn_composition_release(&s);
    mabn_cutouts_free(c);
}

int main(void)
{
    char path[64];
    struct mabn_cutouts *c;
    snprintf(path, sizeof path, "/tmp/test_compose.%d.h5", (int)getpid());
    make_dataset(path);
    tap_status(mabn_cutouts_open(&c, path, 20), "open");
    test_cutouts(c);
    test_white(path);
    test_hidden(path);
    test_same(c);
    test_overlap(c);
    test_options(path);
    test_nothing(path);
    mabn_cutouts_free(c);
    unlink(path);
    return tap_done();
}
