/* Detections and pasted masks. */
#include "tap.h"

#include <stdlib.h>

#include "base/rng.h"
#include "detect/detections.h"
#include "detect/paste.h"

static struct mabn_scratch scratch;
static const struct mabn_box_convention *legacy, *detectron2, *torchvision;

/* ---- detections: four proposals, two classes; the first two overlap ---- */

static const float proposal[16] = {0, 0, 19, 19, 1, 0, 20, 19, 50, 50, 80, 80, 100, 10, 120, 40};
static const float zeros[4 * 4 * 3];
/* Logits whose softmax is about .09 .24 .66 and so on, with the background first and with it last.
 */
static const float logit[12] = {0, 1, 2, 0, 1, 2.5f, 0, 3, 0, 6, 0, 0};
static const float logit_last[12] = {1, 2, 0, 1, 2.5f, 0, 3, 0, 0, 0, 0, 6};

static struct mabn_box_scores scores(const float *l)
{
    return (struct mabn_box_scores){4, proposal, l, zeros, 90, 70};
}

static void test_class_order(void)
{
    struct mabn_detections d = {0};
    const struct mabn_box_scores in = scores(logit);
    struct mabn_detection_options o = mabn_detection_defaults(2);
    tap_status(mabn_detections_make(&d, &in, &o, legacy, &scratch), "legacy");
    /* class 1: of rows 0 and 1 (.24, .17) row 0 is kept, and row 2; class 2: row 1 suppresses row
     * 0. */
    tap_ok(d.count == 3 && d.label[0] == 1 && d.source[0] == 0 && d.label[1] == 1 &&
               d.source[1] == 2 && d.label[2] == 2 && d.source[2] == 1,
           "class by class: %d", (int)d.count);
    tap_close(d.score[1], exp(3) / (exp(3) + 2), 1e-6, "a probability");
    tap_ok(d.box[4 + 2] == 80 && d.box[4 + 3] == 69, "clipped to the image");
    o.across = true;
    tap_status(mabn_detections_make(&d, &in, &o, legacy, &scratch), "across classes");
    /* Rows 0 and 1 overlap: of (.24, .66) and (.17, .76) row 1 as class 2 is best. */
    tap_ok(d.count == 2 && d.label[0] == 1 && d.source[0] == 2 && d.label[1] == 2 &&
               d.source[1] == 1,
           "one thing a place: %d", (int)d.count);
    o.across = false;
    o.most = 1;
    tap_status(mabn_detections_make(&d, &in, &o, legacy, &scratch), "the best");
    tap_ok(d.count == 1 && d.source[0] == 2, "one");
    o.min_score = 0.99;
    tap_status(mabn_detections_make(&d, &in, &o, legacy, &scratch), "nothing good enough");
    tap_ok(d.count == 0, "none");
    mabn_detections_release(&d);
}

static void test_ties(void)
{
    static const float equal[12] = {0, 2, 0, 0, 2, 0, 0, 2, 0, 9, 0, 0};
    struct mabn_detections d = {0};
    const struct mabn_box_scores in = scores(equal);
    struct mabn_detection_options o = mabn_detection_defaults(2);
    o.most = 1;
    tap_status(mabn_detections_make(&d, &in, &o, legacy, &scratch), "ties");
    tap_ok(d.count == 2, "legacy keeps all that tie with the last: %d", (int)d.count);
    tap_status(mabn_detections_make(&d, &in, &o, torchvision, &scratch), "ties");
    tap_ok(d.count == 1 && d.source[0] == 0, "torchvision keeps one");
    mabn_detections_release(&d);
}

static void test_best_first(void)
{
    struct mabn_detections d = {0};
    struct mabn_box_scores in = scores(logit_last);
    struct mabn_detection_options o = mabn_detection_defaults(2);
    tap_status(mabn_detections_make(&d, &in, &o, detectron2, &scratch), "detectron2");
    tap_ok(d.count == 3 && d.source[0] == 2 && d.label[0] == 1 && d.source[1] == 1 &&
               d.label[1] == 2 && d.source[2] == 0 && d.score[0] > d.score[1],
           "best first, background last");
    tap_ok(d.mask[2] == 2, "numbered");
    d.box[4] = 30; /* inside out: dropped when scaled */
    d.box[6] = 20;
    mabn_detections_scale(&d, 90, 70, 180, 35, detectron2);
    tap_ok(d.count == 2 && d.mask[1] == 2 && d.box[2] == 160 && d.box[3] == 35,
           "scaled, clipped, empty ones dropped");
    float odd[16];
    memcpy(odd, proposal, sizeof odd);
    odd[8] = NAN;
    in.proposal = odd;
    tap_status(mabn_detections_make(&d, &in, &o, detectron2, &scratch), "not finite");
    tap_ok(d.count == 2 && d.source[0] == 1, "a box that is not finite is dropped");
    in.n = 0;
    tap_status(mabn_detections_make(&d, &in, &o, detectron2, &scratch), "no proposals");
    tap_ok(d.count == 0, "none");
    mabn_detections_release(&d);
}

static void test_records(void)
{
    static const float box[4] = {1, 2, 11, 22};
    static const int32_t label[2] = {1, 2};
    static const float mask[8] = {0, 9, -9, 9, 0, 0, 0, 0}; /* 2 detections, 2 pixels, 2 channels */
    double record[4];
    float p[4];
    mabn_detection_record(record, box, legacy);
    tap_ok(record[0] == 1 && record[2] == 11 && record[3] == 21, "legacy counts both ends");
    mabn_detection_record(record, box, detectron2);
    tap_ok(record[2] == 10 && record[3] == 20, "elsewhere not");
    tap_status(mabn_mask_probability(p, mask, label, 2, 2, 2, detectron2), "probabilities");
    tap_ok(p[0] == 0.5f && p[1] < 0.001f, "of the class's channel");
    tap_status(mabn_mask_probability(p, mask, label, 2, 2, 1, detectron2), "one channel");
    tap_ok(p[1] > 0.999f, "for all classes");
    tap_fails(mabn_mask_probability(p, mask, label, 2, 2, 2, legacy), MABN_ERR_ARG,
              "detection 1: class 2, masks of 2 classes", "a class without a channel");
}

/* ---- pasting, against each pixel computed separately ---- */

static double map_at(const float *map, int side, int x, int y)
{
    return x < 0 || y < 0 || x >= side || y >= side ? 0 : (double)map[y * side + x];
}

static double bilinear(const float *map, int side, double x, double y)
{
    const double fx = floor(x), fy = floor(y), wx = x - fx, wy = y - fy;
    const int ix = fx < -9 ? -9 : fx > 999 ? 999 : (int)fx;
    const int iy = fy < -9 ? -9 : fy > 999 ? 999 : (int)fy;
    return (map_at(map, side, ix, iy) * (1 - wx) + map_at(map, side, ix + 1, iy) * wx) * (1 - wy) +
           (map_at(map, side, ix, iy + 1) * (1 - wx) + map_at(map, side, ix + 1, iy + 1) * wx) * wy;
}

static double value_sample(const float *map, int side, const float *box, int x, int y)
{
    const double gx = (x + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5;
    const double gy = (y + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5;
    return bilinear(map, side, gx, gy);
}

static double value_resize(const float *map, int side, const float *box, int x, int y)
{
    const float s = (float)(side + 2) / (float)side;
    const float hx = (box[2] - box[0]) * 0.5f * s, cx = (box[2] + box[0]) * 0.5f;
    const float hy = (box[3] - box[1]) * 0.5f * s, cy = (box[3] + box[1]) * 0.5f;
    const int x0 = (int)(cx - hx), x1 = (int)(cx + hx), y0 = (int)(cy - hy), y1 = (int)(cy + hy);
    if (x < x0 || x > x1 || y < y0 || y > y1) return 0;
    const double w = x1 - x0 + 1, h = y1 - y0 + 1;
    const double gx = fmax((x - x0 + 0.5) * (side + 2) / w - 0.5, 0);
    const double gy = fmax((y - y0 + 0.5) * (side + 2) / h - 0.5, 0);
    return bilinear(map, side, gx - 1, gy - 1);
}

static void test_paste(const struct mabn_box_convention *c, int side)
{
    static const float boxes[][4] = {{10, 20, 60, 90},         {-20.5f, -10.2f, 30.4f, 25.7f},
                                     {80, 60, 130, 95},        {5.25f, 7, 6.5f, 8.75f},
                                     {-40, -40, 140, 120},     {0, 0, 1, 79},
                                     {30.5f, 2, 31.5f, 77.3f}, {97, 70, 400, 4000}};
    enum { W = 100, H = 80 };
    float *map = malloc((size_t)(side * side) * 4);
    uint8_t *got = malloc(W * H);
    struct mabn_rng rng;
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    mabn_rng_init(&rng, 11, MABN_RNG_TEST, (uint64_t)side, 0);
    for (size_t b = 0; b < sizeof boxes / sizeof *boxes; b++) {
        int wrong = 0, inside = 0;
        for (int i = 0; i < side * side; i++)
            map[i] = (float)mabn_rng_uniform(&rng);
        if (mabn_paste(&mask, map, side, boxes[b], W, H, c, &scratch)) wrong++;
        mabn_rle_decode(got, &mask);
        for (int x = 0; x < W; x++)
            for (int y = 0; y < H; y++) {
                const double v = c->paste == MABN_PASTE_RESIZE
                                     ? value_resize(map, side, boxes[b], x, y)
                                     : value_sample(map, side, boxes[b], x, y);
                inside += v > 0.5;
                wrong += got[x * H + y] != (v > 0.5) && fabs(v - 0.5) > 1e-5;
            }
        tap_ok(wrong == 0, "%s, map of %d, box %zu: %d pixels inside, %d wrong", c->name, side, b,
               inside, wrong);
    }
    mabn_rle_release(&mask);
    free(map);
    free(got);
}

static void test_threshold(void)
{
    float half[4] = {0.5f, 0.5f, 0.5f, 0.5f}, one[4] = {1, 1, 1, 1};
    static const float box[4] = {2, 2, 8, 8};
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    tap_status(mabn_paste(&mask, half, 2, box, 10, 10, legacy, &scratch), "a half, legacy");
    tap_ok(mabn_rle_area(&mask) == 0, "is outside");
    tap_status(mabn_paste(&mask, half, 2, box, 10, 10, detectron2, &scratch), "a half, detectron2");
    tap_ok(mabn_rle_area(&mask) == 16, "is inside, away from the border: %d",
           (int)mabn_rle_area(&mask));
    tap_status(mabn_paste(&mask, one, 2, box, 10, 10, detectron2, &scratch), "ones");
    tap_ok(mabn_rle_area(&mask) == 32, "all but corners: %d", (int)mabn_rle_area(&mask));
    mabn_rle_release(&mask);
}

static void test_odd_boxes(void)
{
    static const float odd[][4] = {{NAN, 0, 5, 5},
                                   {0, 0, INFINITY, 5},
                                   {9, 9, 2, 2},
                                   {-1e30f, -1e30f, 1e30f, 1e30f},
                                   {200, 200, 300, 300},
                                   {-90, -90, -50, -50},
                                   {3e38f, 0, -3e38f, 5},
                                   {5, 5, 5, 5},
                                   {-3e38f, -3e38f, 3e38f, 3e38f},
                                   {5, 5, 5.0000005f, 6}};
    float map[784];
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    for (int i = 0; i < 784; i++)
        map[i] = i % 3 ? 0.9f : NAN;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        tap_status(mabn_paste(&mask, map, 28, odd[i], 100, 80, legacy, &scratch), "odd box %zu", i);
        tap_ok(mask.height == 80 && mask.width == 100, "a mask of the image");
        tap_status(mabn_paste(&mask, map, 28, odd[i], 100, 80, detectron2, &scratch),
                   "odd box %zu, detectron2", i);
    }
    tap_status(mabn_paste(&mask, map, 28, odd[3], 0, 0, legacy, &scratch), "an image of nothing");
    tap_fails(mabn_paste(&mask, map, 0, odd[3], 10, 10, legacy, &scratch), MABN_ERR_ARG,
              "map of side 0", "no map");
    mabn_rle_release(&mask);
}

int main(void)
{
    if (mabn_box_convention_find(&legacy, "legacy") ||
        mabn_box_convention_find(&detectron2, "detectron2") ||
        mabn_box_convention_find(&torchvision, "torchvision"))
        return 1;
    test_class_order();
    test_ties();
    test_best_first();
    test_records();
    test_paste(legacy, 28);
    test_paste(legacy, 7);
    test_paste(torchvision, 28);
    test_paste(detectron2, 28);
    test_paste(detectron2, 5);
    test_threshold();
    test_odd_boxes();
    mabn_scratch_release(&scratch);
    return tap_done();
}
