/* Conventions, scratch memory, order of scores, boxes and anchors. */
#include "tap.h"

#include <stdlib.h>

#include "base/rng.h"
#include "detect/anchors.h"
#include "detect/boxes.h"
#include "detect/order.h"

static const struct mabn_box_convention *convention(const char *name)
{
    const struct mabn_box_convention *c;
    if (mabn_box_convention_find(&c, name)) printf("Bail out! no convention %s\n", name);
    return c;
}

static void test_conventions(void)
{
    static const char *const conventions[] = {"legacy", "detectron2", "torchvision", NULL};
    const struct mabn_box_convention *c;
    for (const char *const *name = conventions; *name; name++) {
        tap_status(mabn_box_convention_find(&c, *name), "find %s", *name);
        tap_str_eq(c->name, *name, "named %s", *name);
    }
    tap_status(mabn_box_convention_find(&c, NULL), "the default");
    tap_str_eq(c->name, "legacy", "is legacy");
    tap_fails(mabn_box_convention_find(&c, "yolo"), MABN_ERR_ARG,
              "unknown box convention 'yolo': expected legacy, detectron2, torchvision",
              "an unknown one");
    tap_ok(mabn_box_threshold(convention("legacy"), 0.3) == 0.3f, "0.3 in float32");
    tap_ok((double)mabn_box_threshold(convention("torchvision"), 0.3) < 0.3,
           "0.3 as a double lies above the float below it");
    tap_ok(mabn_box_threshold(convention("torchvision"), 0.5) == 0.5f, "0.5 is exact");
}

static void test_scratch(void)
{
    struct mabn_scratch s = {0};
    const struct mabn_scratch_mark mark = mabn_scratch_mark(&s);
    char *a, *b, *c;
    tap_status(mabn_scratch_take(&s, &a, 10, 1), "a piece");
    tap_status(mabn_scratch_take(&s, &b, 1000000, 8), "a large one");
    memset(a, 1, 10);
    memset(b, 2, 8000000);
    tap_ok(a[9] == 1 && (uintptr_t)b % 64 == 0, "apart and aligned");
    mabn_scratch_back(&s, mark);
    tap_status(mabn_scratch_take(&s, &c, 10, 1), "after going back");
    tap_ok(c == a, "the same place");
    tap_fails(mabn_scratch_take(&s, &c, SIZE_MAX / 2, 8), MABN_ERR_NOMEM, "do not fit",
              "more than there is");
    mabn_scratch_release(&s);
}

/* Against a simple search for the next best. */
static void test_order(void)
{
    enum { N = 700 };
    struct mabn_scratch s = {0};
    float score[N];
    int32_t order[N], chosen[N];
    struct mabn_rng rng;
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    for (int i = 0; i < N; i++)
        score[i] = (float)mabn_rng_below(&rng, 60) / 8 - 3;
    score[5] = score[600] = NAN;
    score[9] = INFINITY;
    score[10] = -INFINITY;
    score[11] = -0.0f;
    for (int k = 1; k <= N; k += k < 50 ? 7 : 131) {
        char taken[N] = {0};
        int bad = 0;
        tap_status(mabn_order_best(order, score, N, k, &s), "the best %d", k);
        tap_status(mabn_order_chosen(chosen, score, N, k, &s), "which are the best %d", k);
        for (int j = 0; j < k; j++) {
            int best = -1;
            for (int i = 0; i < N; i++)
                if (!taken[i] && (best < 0 || score[i] > score[best] ||
                                  (isnan(score[best]) && !isnan(score[i]))))
                    best = i;
            taken[best] = 1;
            bad += order[j] != best;
        }
        for (int i = 0, j = 0; i < N; i++)
            if (taken[i]) bad += chosen[j++] != i;
        tap_ok(bad == 0, "%d of %d: %d out of place", k, N, bad);
    }
    tap_status(mabn_order_best(order, score, 0, 5, &s), "none");
    mabn_scratch_release(&s);
}

static void test_coder(void)
{
    const struct mabn_box_weights ones = {1, 1, 1, 1}, head = {10, 10, 5, 5};
    const float box[4] = {0, 0, 9, 9}, truth[4] = {2, 3, 11, 16};
    float delta[4], back[4];
    mabn_box_encode(delta, box, truth, 1, ones, 1);
    tap_close(delta[0], 0.2, 1e-7, "dx");
    tap_close(delta[1], 0.5, 1e-7, "dy");
    tap_close(delta[2], 0, 1e-7, "dw");
    tap_close(delta[3], 0.33647224, 1e-7, "dh");
    mabn_box_encode(delta, box, truth, 1, head, 1);
    mabn_box_decode(back, box, delta, head, 1);
    for (int i = 0; i < 4; i++)
        tap_close(back[i], truth[i], 1e-5, "there and back, %d", i);
    const float huge[4] = {0, 0, 100, -100};
    mabn_box_decode(back, box, huge, ones, 1);
    tap_close(back[2] - back[0] + 1, 625, 1e-2, "growth is capped at 1000/16");
    tap_close(back[3] - back[1] + 1, 0, 1e-2, "shrinking is not");
}

static void test_boxes(void)
{
    float clip[8] = {-5, -6, 200, 90, 3, 4, NAN, 7};
    mabn_box_clip(clip, 2, 100, 80, 1);
    tap_ok(clip[0] == 0 && clip[1] == 0 && clip[2] == 99 && clip[3] == 79 && isnan(clip[6]),
           "clipped");
    const float a[4] = {0, 0, 9, 9}, b[8] = {5, 5, 14, 14, 20, 20, 30, 30};
    float iou[2];
    mabn_box_iou_row(iou, a, b, 2, 1);
    tap_close(iou[0], 25.0 / 175, 1e-7, "IoU, legacy");
    tap_ok(iou[1] == 0, "IoU of boxes apart");
    mabn_box_iou_row(iou, a, b, 1, 0);
    tap_close(iou[0], 16.0 / 146, 1e-7, "IoU, elsewhere");
    tap_ok(mabn_box_large_enough(a, 10, false, 1) && !mabn_box_large_enough(a, 10, true, 1) &&
               !mabn_box_large_enough(a, 10, false, 0),
           "large enough");
}

static void test_levels(void)
{
    static const float side[] = {111, 112, 223, 224, 447, 448};
    static const int32_t want[] = {0, 1, 1, 2, 2, 3};
    const struct mabn_box_convention *c = convention("legacy");
    for (int i = 0; i < 6; i++) {
        const float box[4] = {10, 20, 10 + side[i] - 1, 20 + side[i] - 1};
        int32_t level;
        mabn_box_levels(&level, box, 1, 2, 5, c);
        tap_ok(level == want[i], "side %g: level %d", (double)side[i], level);
    }
    const float odd[12] = {5, 5, 4, 4, 0, 0, INFINITY, 9, NAN, 0, 1, 1};
    int32_t level[3];
    mabn_box_levels(level, odd, 3, 2, 5, c);
    tap_ok(level[0] == 0 && level[1] == 3 && level[2] == 0, "odd boxes have a level too");
}

/* The table of the reference, widths and heights of 32…512. */
static void test_base_anchors(void)
{
    static const float want[5][12] = {
        {-22, -10, 25, 13, -14, -14, 17, 17, -10, -22, 13, 25},
        {-40, -20, 47, 27, -28, -28, 35, 35, -20, -44, 27, 51},
        {-84, -40, 99, 55, -56, -56, 71, 71, -36, -80, 51, 95},
        {-164, -72, 195, 103, -112, -112, 143, 143, -76, -168, 107, 199},
        {-332, -152, 395, 215, -224, -224, 287, 287, -148, -328, 211, 391}};
    static const float rounded[12] = {-23, -11, 23, 11, -16, -16, 16, 16, -11, -23, 11, 23};
    const struct mabn_anchors a = mabn_anchors_usual(32);
    float got[12];
    for (int l = 0; l < 5; l++) {
        mabn_anchors_base(got, &a, l, convention("legacy"));
        tap_ok(!memcmp(got, want[l], sizeof got), "legacy anchors of P%d", l + 2);
    }
    mabn_anchors_base(got, &a, 0, convention("torchvision"));
    tap_ok(!memcmp(got, rounded, sizeof got), "torchvision's anchors of P2");
    mabn_anchors_base(got, &a, 4, convention("detectron2"));
    tap_close(got[2], 362.03867, 1e-4, "detectron2's anchors of P6: x");
    tap_close(got[3], 181.01933, 1e-4, "detectron2's anchors of P6: y");
}

static void test_grid(void)
{
    struct mabn_anchors a = mabn_anchors_usual(32);
    const struct mabn_anchor_grid grid = {800, 1088, {0, 0, 0, 0, 13}, {0, 0, 0, 0, 17}};
    const int64_t n = mabn_anchors_count(&a, &grid);
    float *box = malloc((size_t)n * 16);
    uint8_t visible[3];
    tap_ok(n == 13 * 17 * 3, "%lld anchors", (long long)n);
    mabn_anchors_fill(box, &a, &grid, convention("legacy"));
    tap_ok(box[4 * 3] == -332 + 64 && box[4 * 3 * 17 + 1] == -152 + 64, "a stride of 64");
    mabn_anchors_fill(box, &a, &grid, convention("torchvision"));
    tap_ok(box[4 * 3] == -362 + 64 && box[4 * 3 * 17 + 1] == -181 + 61,
           "torchvision's strides come from the grid");
    const float inside[12] = {0, 0, 99, 79, -1, 0, 5, 5, 0, 0, 100, 5};
    mabn_anchors_visible(visible, inside, 3, 100, 80);
    tap_ok(visible[0] && !visible[1] && !visible[2], "visible");
    free(box);
}

int main(void)
{
    test_conventions();
    test_scratch();
    test_order();
    test_coder();
    test_boxes();
    test_levels();
    test_base_anchors();
    test_grid();
    return tap_done();
}
