/* Proposals, and the targets of the RPN, the box head and the mask head. */
#include "tap.h"

#include <omp.h>
#include <stdlib.h>

#include "base/rng.h"
#include "detect/box_targets.h"
#include "detect/mask_targets.h"
#include "detect/proposals.h"
#include "detect/rpn_targets.h"

static struct mabn_scratch scratch;
static const struct mabn_box_convention *legacy, *detectron2, *torchvision;

/* ---- proposals ---- */

enum { CELLS = 12, A = 3 };

/* Two levels of 12 and 3 cells for two images. */
struct maps {
    struct mabn_rpn_maps m;
    float score[2][2 * CELLS * A], delta[2][2 * CELLS * A * 4], anchor[CELLS * A * 2 * 4];
    int width[2], height[2];
};

static void maps_fill(struct maps *s)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, 3, MABN_RNG_TEST, 0, 0);
    memset(s, 0, sizeof *s);
    s->m = (struct mabn_rpn_maps){.images = 2, .levels = 2, .anchors = {CELLS * A, 3 * A}};
    for (int l = 0; l < 2; l++) {
        s->m.score[l] = s->score[l];
        s->m.delta[l] = s->delta[l];
        for (int i = 0; i < 2 * CELLS * A; i++)
            s->score[l][i] = (float)mabn_rng_normal(&rng);
        for (int i = 0; i < 2 * CELLS * A * 4; i++)
            s->delta[l][i] = (float)mabn_rng_normal(&rng) * 0.2f;
    }
    for (int i = 0; i < CELLS * A * 2; i++) {
        float *b = s->anchor + 4 * i;
        b[0] = (float)(i % 7 * 12);
        b[1] = (float)(i % 5 * 10);
        b[2] = b[0] + 20;
        b[3] = b[1] + 16;
    }
    s->m.anchor = s->anchor;
    for (int i = 0; i < 2; i++) {
        s->width[i] = 90 - i;
        s->height[i] = 60 - i;
    }
    s->m.width = s->width;
    s->m.height = s->height;
}

static void test_caps(void)
{
    struct maps s;
    float box[2 * 64 * 4], score[2 * 64];
    int64_t count[2];
    maps_fill(&s);
    struct mabn_proposal_options o = {20, 10, 12, true, 0.7, 0};
    struct mabn_proposals p = {64, box, score, count};
    tap_ok(mabn_proposals_room(&s.m, &o) == 12, "room");
    tap_status(mabn_proposals_make(&p, &s.m, &o, legacy, &scratch), "of a batch");
    tap_ok(count[0] + count[1] == 12 && count[0] > 0 && count[1] > 0,
           "12 in both images: %d and %d", (int)count[0], (int)count[1]);
    o.whole_batch = false;
    tap_status(mabn_proposals_make(&p, &s.m, &o, legacy, &scratch), "of each image");
    bool sorted = true, inside = true;
    for (int i = 1; i < 12; i++)
        sorted &= score[64 + i] <= score[64 + i - 1];
    for (int i = 0; i < 12; i++)
        inside &= box[4 * (64 + i)] >= 0 && box[4 * (64 + i) + 2] <= 88;
    tap_ok(count[0] == 12 && count[1] == 12 && sorted && inside, "12 each, best first, clipped");
    const float truth[4] = {1, 2, 3, 4};
    mabn_proposals_add(&p, 1, truth, 1);
    tap_ok(count[1] == 13 && score[64 + 12] == 1 && !memcmp(box + 4 * (64 + 12), truth, 16),
           "a true box joins at the end");
    p.room = 13;
    mabn_proposals_add(&p, 1, truth, 1);
    tap_ok(count[1] == 13, "as far as there is room");
}

static void test_threads(void)
{
    struct maps s;
    float box[2][2 * 64 * 4] = {{0}}, score[2][2 * 64] = {{0}};
    int64_t count[2][2];
    const struct mabn_proposal_options o = {20, 10, 12, true, 0.7, 0};
    maps_fill(&s);
    for (int k = 0; k < 2; k++) {
        struct mabn_proposals p = {64, box[k], score[k], count[k]};
        omp_set_num_threads(k ? 5 : 1);
        tap_status(mabn_proposals_make(&p, &s.m, &o, legacy, &scratch), "threads");
    }
    tap_ok(!memcmp(box[0], box[1], sizeof box[0]) && !memcmp(score[0], score[1], sizeof score[0]) &&
               !memcmp(count[0], count[1], sizeof count[0]),
           "the same proposals with 1 thread and with 5");
}

static void test_nothing(void)
{
    struct maps s;
    float box[64 * 4], score[64];
    int64_t count[2];
    maps_fill(&s);
    struct mabn_proposals p = {32, box, score, count};
    const struct mabn_proposal_options o = mabn_proposal_defaults(legacy, false);
    s.m.anchors[0] = s.m.anchors[1] = 0;
    tap_status(mabn_proposals_make(&p, &s.m, &o, legacy, &scratch), "empty maps");
    tap_ok(count[0] == 0 && count[1] == 0, "no proposals");
    s.m.images = 0;
    tap_status(mabn_proposals_make(&p, &s.m, &o, legacy, &scratch), "no images");
}

/* Not finite, which detectron2 drops; narrower than torchvision accepts. */
static void test_dropped(void)
{
    struct maps s;
    float box[2 * 64 * 4], score[2 * 64];
    int64_t count[2];
    maps_fill(&s);
    struct mabn_proposals p = {64, box, score, count};
    const struct mabn_proposal_options o = {100, 0, 100, false, 0.99, 0};
    s.delta[0][0] = NAN;
    s.score[0][1] = NAN;
    tap_status(mabn_proposals_make(&p, &s.m, &o, detectron2, &scratch), "detectron2");
    tap_ok(count[0] == 45 - 2 && count[1] == 45, "two are not finite: %d, %d", (int)count[0],
           (int)count[1]);
    struct mabn_proposal_options least = mabn_proposal_defaults(torchvision, false);
    least.threshold = 0.99;
    maps_fill(&s);
    s.width[1] = 0; /* nothing is wide enough */
    tap_status(mabn_proposals_make(&p, &s.m, &least, torchvision, &scratch), "torchvision");
    tap_ok(count[0] == 45 && count[1] == 0, "narrow ones are dropped");
    tap_ok(score[0] > 0 && score[0] < 1, "torchvision's score is a probability");
}

/* ---- targets ---- */

static void test_rpn_targets(void)
{
    /* The second leaves the image, the third is neither positive nor negative, the fourth is
     * background. */
    static const float anchor[16] = {10, 10, 29, 29, -1, 10, 29, 29,
                                     10, 10, 29, 49, 60, 60, 79, 79};
    static const float box[4] = {10, 10, 29, 29};
    const struct mabn_truth truth = {1, box, NULL, 100, 100}, none = {0, NULL, NULL, 100, 100};
    const struct mabn_rpn_target_options o = mabn_rpn_target_defaults();
    const struct mabn_sample_key key = {1, 1, 1, MABN_SAMPLE_RPN};
    int32_t label[4], match[4];
    float target[4], weight[4], box_weight[4], delta[16];
    struct mabn_rpn_targets t = {target, weight, box_weight, delta, 0, 0};
    tap_status(mabn_rpn_label(label, match, anchor, 4, &truth, &o.matcher, legacy, &scratch),
               "label");
    tap_ok(label[0] == 1 && label[1] == -1 && label[2] == -1 && label[3] == 0, "legacy labels");
    tap_status(mabn_rpn_label(label, match, anchor, 4, &truth, &o.matcher, detectron2, &scratch),
               "label");
    tap_ok(label[0] == 1 && label[1] == -1 && label[2] == -1, "detectron2: between");
    tap_status(mabn_rpn_targets_make(&t, anchor, 4, &truth, &o, &key, legacy, &scratch), "make");
    tap_ok(t.sampled == 2 && t.positives == 1, "two sampled");
    tap_ok(target[0] == 1 && target[3] == 0 && weight[0] == 1 && weight[1] == 0 && weight[3] == 1 &&
               box_weight[0] == 1 && box_weight[3] == 0 && delta[0] == 0,
           "targets and weights");
    tap_status(mabn_rpn_targets_make(&t, anchor, 4, &none, &o, &key, legacy, &scratch), "no truth");
    tap_ok(t.sampled == 3 && t.positives == 0 && weight[1] == 0, "all visible are background");
}

static void test_box_targets(void)
{
    static const float proposal[16] = {0, 0, 9, 9, 50, 50, 60, 60, 0, 0, 9, 5, 100, 0, 120, 20};
    static const float box[8] = {0, 0, 9, 9, 49, 50, 60, 60};
    static const int32_t truth_label[2] = {7, 80};
    const struct mabn_truth truth = {2, box, truth_label, 200, 200}, none = {.count = 0};
    const struct mabn_box_target_options o = mabn_box_target_defaults(80);
    const struct mabn_sample_key key = {1, 1, 1, MABN_SAMPLE_BOXES};
    float at[32], delta[32], weight[8];
    int32_t image[8], label[8], object[8], row[8];
    struct mabn_box_targets t = {8, 0, 0, at, image, label, object, delta, weight};
    tap_status(mabn_box_targets_add(&t, 5, proposal, 4, &truth, &o, &key, legacy, &scratch), "add");
    tap_ok(t.count == 4 && t.positives == 3 && image[3] == 5, "three positives");
    tap_ok(label[0] == 7 && label[1] == 80 && label[2] == 7 && label[3] == 0, "labels");
    tap_ok(object[1] == 1 && object[3] == -1 && weight[2] == 1 && weight[3] == 0, "objects");
    tap_close(delta[8 + 3], 5 * log(10.0 / 6), 1e-6, "regressed to its object");
    t.count = t.positives = 0;
    tap_status(mabn_box_targets_add(&t, 0, proposal, 4, &truth, &o, &key, detectron2, &scratch),
               "add, detectron2");
    tap_ok(label[0] == 6 && label[1] == 79 && label[3] == 80, "background is last");
    tap_ok(mabn_box_targets_positive(row, &t) == 3 && row[2] == 2, "the positives");
    tap_status(mabn_box_targets_add(&t, 1, proposal, 4, &none, &o, &key, legacy, &scratch),
               "no truth");
    tap_ok(t.count == 8 && t.positives == 3 && label[4] == 0, "all background");
    const struct mabn_matcher gap = {0.8f, 0.5f, false};
    int32_t between[4], match[4];
    tap_status(mabn_box_label(between, match, proposal, 4, &truth, &gap, legacy, &scratch),
               "label");
    tap_ok(between[0] == 7 && between[2] == -1 && between[3] == 0,
           "what lies between the thresholds counts for nothing");
    tap_fails(mabn_box_targets_add(&t, 1, proposal, 1, &none, &o, &key, legacy, &scratch),
              MABN_ERR_LIMIT, "room for 8", "no room");
}

static void test_mask_target(void)
{
    static const float xy[8] = {10, 20, 50, 20, 50, 70, 10, 70};
    static const uint32_t polygon[3] = {0, 1, 1}, first[2] = {0, 8};
    static const float box[8] = {12.5f, 18.25f, 47.75f, 80.5f, 0, 0, 9, 9};
    static const int32_t object[2] = {0, 1};
    const struct mabn_outlines o = {2, polygon, first, xy, 100, 100};
    uint8_t target[2 * 784];
    int area = 0, wrong = 0;
    memset(target, 9, sizeof target);
    tap_status(mabn_mask_targets_fill(target, box, object, 2, 28, &o, legacy), "fill");
    for (int i = 0; i < 784; i++) {
        area += target[i];
        wrong += target[i] != (i / 28 >= 1 && i / 28 <= 22);
    }
    tap_ok(area == 616 && wrong == 0, "rows 1 to 22");
    for (int i = area = 0; i < 784; i++)
        area += target[784 + i];
    tap_ok(area == 0, "an object without polygons is empty");
    static const int32_t bad[1] = {2};
    tap_fails(mabn_mask_targets_fill(target, box, bad, 1, 28, &o, legacy), MABN_ERR_ARG,
              "object 2 of 2", "an object that is not there");
}

/* A box of 28 pixels in a convention without "+1", and a box with an empty side. */
static void test_mask_scale(void)
{
    static const float xy[8] = {5, 6, 20, 6, 20, 23, 5, 23};
    static const uint32_t polygon[2] = {0, 1}, first[2] = {0, 8};
    static const float box[8] = {0, 0, 28, 28, 10, 0, 10, 28};
    static const int32_t object[2] = {0, 0};
    const struct mabn_outlines o = {1, polygon, first, xy, 100, 100};
    uint8_t target[2 * 784];
    int area = 0, thin = 0;
    tap_status(mabn_mask_targets_fill(target, box, object, 2, 28, &o, legacy), "fill");
    for (int i = 0; i < 784; i++) {
        area += target[i];
        thin += target[784 + i];
    }
    tap_ok(area == 15 * 17 && target[6 * 28 + 5] && !target[6 * 28 + 20] && !target[23 * 28 + 5],
           "pixel for pixel: %d", area);
    tap_ok(thin == 28 * 17, "a side of 0 counts as 1: %d", thin);
}

static void test_odd_masks(void)
{
    static const float xy[16] = {NAN,    INFINITY, 1e30f, -1e30f, 5,      5,    3, -INFINITY,
                                 1e-30f, 3e38f,    0,     0,      -3e38f, 12.f, 7, 7};
    static const uint32_t polygon[2] = {0, 2}, first[3] = {0, 10, 16};
    static const float box[20] = {5,   5,   5,      5, 9,     9,        2,  2,  NAN,      NAN,
                                  NAN, NAN, -1e30f, 0, 1e30f, INFINITY, 99, 99, 99.0001f, 99};
    static const int32_t object[5] = {0};
    const struct mabn_outlines o = {1, polygon, first, xy, 100, 100};
    uint8_t target[5 * 784];
    int bad = 0;
    tap_status(mabn_mask_targets_fill(target, box, object, 5, 28, &o, legacy), "legacy");
    for (int i = 0; i < 5 * 784; i++)
        bad += target[i] > 1;
    tap_status(mabn_mask_targets_fill(target, box, object, 5, 28, &o, detectron2), "detectron2");
    for (int i = 0; i < 5 * 784; i++)
        bad += target[i] > 1;
    tap_ok(bad == 0, "odd polygons and boxes give zeros and ones");
}

static void test_pooled_mask(void)
{
    static const float xy[8] = {10, 10, 30, 10, 30, 30, 10, 30};
    static const uint32_t polygon[2] = {0, 1}, first[2] = {0, 8};
    static const float box[8] = {12, 12, 28, 28, 0, 0, 8, 8};
    static const int32_t object[2] = {0, 0};
    const struct mabn_outlines o = {1, polygon, first, xy, 64, 48};
    float target[2 * 784];
    tap_status(mabn_mask_targets_pool(target, box, object, 2, 28, &o, false, &scratch), "pool");
    int ones = 0, zeros = 0;
    for (int i = 0; i < 784; i++) {
        ones += fabsf(target[i] - 1) < 1e-6f;
        zeros += target[784 + i] == 0;
    }
    tap_ok(ones == 784 && zeros == 784, "inside and outside");
    static const float large[4] = {0, 0, 1e5f, 40};
    tap_fails(mabn_mask_targets_pool(target, large, object, 1, 28, &o, false, &scratch),
              MABN_ERR_LIMIT, "picture of 64 x 48", "a box far larger than the picture");
}

int main(void)
{
    if (mabn_box_convention_find(&legacy, "legacy") ||
        mabn_box_convention_find(&detectron2, "detectron2") ||
        mabn_box_convention_find(&torchvision, "torchvision"))
        return 1;
    test_caps();
    test_threads();
    test_nothing();
    test_dropped();
    test_rpn_targets();
    test_box_targets();
    test_mask_target();
    test_mask_scale();
    test_odd_masks();
    test_pooled_mask();
    mabn_scratch_release(&scratch);
    return tap_done();
}
