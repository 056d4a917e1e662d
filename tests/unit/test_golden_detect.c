/* lib/detect compared with the authors' detector, detectron2 and torchvision (the files of
 * $MABN_GOLDEN/det). Matching, suppression, sampling, filling and run lengths are exact; results of
 * exp, log and division agree to float32 rounding. */
#include "golden_detect.h"

#include "detect/anchors.h"
#include "detect/box_targets.h"
#include "detect/boxes.h"
#include "detect/detections.h"
#include "detect/mask_targets.h"
#include "detect/match.h"
#include "detect/nms.h"
#include "detect/order.h"
#include "detect/paste.h"
#include "detect/proposals.h"
#include "detect/rpn_targets.h"
#include "detect/sample.h"

static const struct mabn_box_convention *legacy, *detectron2, *torchvision;

/* ---- anchors, coder, overlap, matching ---- */

static void check_bases(hid_t f, const char *name, double first)
{
    const struct mabn_anchors a = mabn_anchors_usual(first);
    for (int l = 0; l < 5; l++) {
        struct h5array want = get(f, "base/%s/P%d", name, l + 2);
        float got[12];
        char what[40];
        snprintf(what, sizeof what, "base anchors %s P%d", name, l + 2);
        mabn_anchors_base(got, &a, l, legacy);
        same_floats(got, &want, 0, what);
        free(want.values);
    }
}

static struct mabn_anchor_grid grid_of(hid_t f, const char *level_hw, const char *padded_hw)
{
    struct mabn_anchor_grid g = {0};
    int32_t *hw = get_int(f, NULL, "%s", level_hw), *padded = get_int(f, NULL, "%s", padded_hw);
    for (int l = 0; l < 5; l++) {
        g.h[l] = hw[2 * l];
        g.w[l] = hw[2 * l + 1];
    }
    g.padded_height = padded[0];
    g.padded_width = padded[1];
    free(hw);
    free(padded);
    return g;
}

static void check_visible(hid_t f, const char *name, const float *box, int64_t n)
{
    struct h5array want = get(f, "grid/%s/visible", name);
    int32_t *hw = get_int(f, NULL, "grid/%s/image_hw", name);
    uint8_t *visible = malloc((size_t)n);
    size_t bad = 0;
    for (int i = 0; i < 2; i++) {
        mabn_anchors_visible(visible, box, n, hw[2 * i + 1], hw[2 * i]);
        for (int64_t k = 0; k < n; k++)
            bad += (float)visible[k] != want.values[i * n + k];
    }
    tap_ok(bad == 0, "grid %s: visible anchors", name);
    free(visible);
    free(hw);
    free(want.values);
}

static void check_grid(hid_t f, const char *name)
{
    char level_hw[40], padded_hw[40], what[60];
    snprintf(level_hw, sizeof level_hw, "grid/%s/level_hw", name);
    snprintf(padded_hw, sizeof padded_hw, "grid/%s/padded_hw", name);
    snprintf(what, sizeof what, "grid %s", name);
    const struct mabn_anchor_grid grid = grid_of(f, level_hw, padded_hw);
    int32_t *sizes = get_int(f, NULL, "grid/%s/sizes", name);
    const struct mabn_anchors a = mabn_anchors_usual(sizes[0]);
    const int64_t n = mabn_anchors_count(&a, &grid);
    float *box = malloc((size_t)n * 16);
    mabn_anchors_fill(box, &a, &grid, legacy);
    if (exists(f, "grid/%s/anchors", name)) {
        struct h5array want = get(f, "grid/%s/anchors", name);
        tap_ok((size_t)n * 4 == want.count, "grid %s: %lld anchors", name, (long long)n);
        same_floats(box, &want, 0, what);
        free(want.values);
        check_visible(f, name, box, n);
    } else {
        struct h5array want = get(f, "grid/%s/sample", name);
        size_t count;
        int32_t *index = get_int(f, &count, "grid/%s/sample_index", name);
        for (size_t i = 0; i < count; i++)
            memmove(box + 4 * i, box + 4 * index[i], 16);
        same_floats(box, &want, 0, what);
        free(index);
        free(want.values);
    }
    free(box);
    free(sizes);
}

static void check_coder(hid_t f, const char *name, struct mabn_box_weights w)
{
    struct h5array box = get(f, "coder/%s/proposal", name), gt = get(f, "coder/%s/gt", name);
    struct h5array deltas = get(f, "coder/%s/deltas", name);
    struct h5array encode = get(f, "coder/%s/encode", name);
    struct h5array decode = get(f, "coder/%s/decode", name);
    struct h5array clipped = get(f, "coder/%s/decode_clipped_640x480", name);
    const size_t n = box.count / 4, groups = deltas.count / box.count;
    float *got = malloc(deltas.count * sizeof *got);
    mabn_box_encode(got, box.values, gt.values, (int64_t)n, w, 1);
    same_floats(got, &encode, 1e-6, "encode");
    for (size_t i = 0; i < n * groups; i++)
        mabn_box_decode(got + 4 * i, box.values + 4 * (i / groups), deltas.values + 4 * i, w, 1);
    same_floats(got, &decode, 1e-6, "decode");
    mabn_box_clip(got, (int64_t)(n * groups), 640, 480, 1);
    same_floats(got, &clipped, 1e-6, "decode and clip");
    free(got);
    struct h5array *all[] = {&box, &gt, &deltas, &encode, &decode, &clipped};
    for (int i = 0; i < 6; i++)
        free(all[i]->values);
}

static void check_small(hid_t f, const char *name, double min)
{
    struct h5array boxes = get(f, "clip_small/clipped");
    size_t count, n = 0;
    int32_t *want = get_int(f, &count, "clip_small/%s", name);
    int32_t *got = malloc(boxes.count * sizeof *got);
    for (size_t i = 0; i < boxes.count / 4; i++)
        if (mabn_box_large_enough(boxes.values + 4 * i, min, false, 1)) got[n++] = (int32_t)i;
    tap_ok(n == count, "%s: %zu boxes", name, n);
    same_ints(got, want, n < count ? n : count, name);
    free(got);
    free(want);
    free(boxes.values);
}

static void check_iou(hid_t f)
{
    struct h5array a = get(f, "iou/boxes1"), b = get(f, "iou/boxes2"), want = get(f, "iou/iou");
    float *got = malloc(want.count * sizeof *got);
    const size_t n = b.count / 4;
    for (size_t i = 0; i < a.count / 4; i++)
        mabn_box_iou_row(got + i * n, a.values + 4 * i, b.values, (int64_t)n, 1);
    same_floats(got, &want, 0, "IoU");
    free(got);
    free(a.values);
    free(b.values);
    free(want.values);
}

static void check_matcher(hid_t f, const char *name, const char *which, struct mabn_matcher m)
{
    struct h5array iou = get(f, "matcher/%s/iou", name);
    const int64_t objects = (int64_t)iou.shape[0], n = (int64_t)iou.shape[1];
    int32_t *want = get_int(f, NULL, "matcher/%s/%s", name, which), *got = malloc((size_t)n * 4);
    char what[60];
    snprintf(what, sizeof what, "matcher %s %s", name, which);
    tap_status(mabn_match_matrix(got, iou.values, objects, n, &m, &scratch), "%s", what);
    same_ints(got, want, (size_t)n, what);
    if (exists(f, "matcher/%s/gt", name)) {
        struct h5array gt = get(f, "matcher/%s/gt", name), box = get(f, "matcher/%s/boxes", name);
        tap_status(mabn_match_boxes(got, gt.values, objects, box.values, n, 1, &m, &scratch),
                   "%s from boxes", what);
        same_ints(got, want, (size_t)n, what);
        free(gt.values);
        free(box.values);
    }
    free(got);
    free(want);
    free(iou.values);
}

static herr_t check_nms(hid_t g, const char *name, const H5L_info_t *info, void *context)
{
    (void)info;
    (void)context;
    struct h5array box = get(g, "%s/boxes", name), score = get(g, "%s/scores", name);
    size_t count;
    int32_t *want = get_int(g, &count, "%s/keep", name);
    const int64_t n = (int64_t)score.count;
    int64_t most = (int64_t)number(g, "%s/max_proposals", name), kept;
    const float threshold = mabn_box_threshold(legacy, number(g, "%s/threshold", name));
    int32_t *got = malloc((size_t)(n + 1) * 4);
    tap_status(mabn_nms(got, &kept, box.values, score.values, n, most > 0 ? most : n, threshold, 1,
                        true, &scratch),
               "nms %s", name);
    tap_ok((size_t)kept == count, "nms %s: keeps %lld", name, (long long)kept);
    same_ints(got, want, (size_t)kept < count ? (size_t)kept : count, name);
    free(got);
    free(want);
    free(box.values);
    free(score.values);
    return 0;
}

static void check_anchors_file(hid_t f)
{
    const struct mabn_matcher rpn = {0.7f, 0.3f, true}, nolow = {0.7f, 0.3f, false};
    const struct mabn_matcher heads = {0.5f, 0.5f, false};
    static const char *const cases[] = {"crafted", "crafted_zero_gt", "real"};
    check_bases(f, "coco", 32);
    check_bases(f, "small", 16);
    check_grid(f, "a");
    check_grid(f, "b");
    check_grid(f, "c");
    check_coder(f, "w10_10_5_5", (struct mabn_box_weights){10, 10, 5, 5});
    check_coder(f, "w1_1_1_1", (struct mabn_box_weights){1, 1, 1, 1});
    check_small(f, "keep_min0", 0);
    check_small(f, "keep_min8", 8);
    check_small(f, "keep_min16", 16);
    check_iou(f);
    for (int i = 0; i < 3; i++) {
        check_matcher(f, cases[i], "rpn", rpn);
        check_matcher(f, cases[i], "rpn_nolow", nolow);
        check_matcher(f, cases[i], "heads", heads);
    }
    hid_t g = H5Gopen2(f, "nms", H5P_DEFAULT);
    H5Literate(g, H5_INDEX_NAME, H5_ITER_INC, NULL, check_nms, NULL);
    H5Gclose(g);
}

/* ---- proposals and RPN targets ---- */

struct rpn {
    struct mabn_rpn_maps maps;
    float *score[5], *delta[5], *anchor;
    int width[2], height[2];
    int64_t n;
};

static struct rpn rpn_read(hid_t f, const char *objectness)
{
    struct rpn r = {.maps = {.images = 2, .levels = 5}};
    const struct mabn_anchor_grid grid = grid_of(f, "level_hw", "padded_hw");
    int32_t *sizes = get_int(f, NULL, "anchor_sizes"), *hw = get_int(f, NULL, "image_hw");
    const struct mabn_anchors a = mabn_anchors_usual(sizes[0]);
    for (int l = 0; l < 5; l++) {
        const size_t cells = (size_t)(grid.h[l] * grid.w[l]);
        struct h5array s = get(f, "%s/P%d", objectness, l + 2), d = get(f, "deltas/P%d", l + 2);
        r.score[l] = malloc(s.count * 4);
        r.delta[l] = malloc(d.count * 4);
        to_nhwc(r.score[l], s.values, 2, 3, cells);
        to_nhwc(r.delta[l], d.values, 2, 12, cells);
        r.maps.score[l] = r.score[l];
        r.maps.delta[l] = r.delta[l];
        r.maps.anchors[l] = (int64_t)cells * 3;
        free(s.values);
        free(d.values);
    }
    for (int i = 0; i < 2; i++) {
        r.height[i] = hw[2 * i];
        r.width[i] = hw[2 * i + 1];
    }
    r.n = mabn_anchors_count(&a, &grid);
    r.anchor = malloc((size_t)r.n * 16);
    mabn_anchors_fill(r.anchor, &a, &grid, legacy);
    r.maps.anchor = r.anchor;
    free(sizes);
    free(hw);
    return r;
}

static void rpn_free(struct rpn *r)
{
    for (int l = 0; l < 5; l++) {
        free(r->score[l]);
        free(r->delta[l]);
    }
    free(r->anchor);
}

static struct mabn_proposal_options proposal_options(hid_t f, const char *config, bool training)
{
    const char *phase = training ? "TRAIN" : "TEST";
    struct mabn_proposal_options o = mabn_proposal_defaults(legacy, training);
    o.before = (int64_t)number(f, "proposals/%s/config/PRE_NMS_TOP_N_%s", config, phase);
    o.level = (int64_t)number(f, "proposals/%s/config/POST_NMS_TOP_N_%s", config, phase);
    o.total = (int64_t)number(f, "proposals/%s/config/FPN_POST_NMS_TOP_N_%s", config, phase);
    o.threshold = number(f, "proposals/%s/config/NMS_THRESH", config);
    o.min_size = number(f, "proposals/%s/config/MIN_SIZE", config);
    o.whole_batch =
        training && number(f, "proposals/%s/config/FPN_POST_NMS_PER_BATCH", config) != 0;
    return o;
}

static void check_proposals(hid_t f, const char *config, const char *phase)
{
    const bool training = phase[1] == 'r';
    const struct mabn_proposal_options o = proposal_options(f, config, training);
    struct rpn r = rpn_read(f, strstr(phase, "tied") ? "objectness_tied" : "objectness");
    r.maps.width = r.width;
    r.maps.height = r.height;
    int64_t count[2];
    struct mabn_proposals p = {.room = mabn_proposals_room(&r.maps, &o) + 16, .count = count};
    p.box = malloc((size_t)p.room * 2 * 16);
    p.score = malloc((size_t)p.room * 2 * 4);
    tap_status(mabn_proposals_make(&p, &r.maps, &o, legacy, &scratch), "%s %s", config, phase);
    for (int i = 0; i < 2; i++) {
        struct h5array gt = get(f, "gt_boxes/%d", i);
        struct h5array box = get(f, "proposals/%s/%s/%d/boxes", config, phase, i);
        struct h5array score = get(f, "proposals/%s/%s/%d/objectness", config, phase, i);
        char what[80];
        snprintf(what, sizeof what, "proposals %s %s, image %d", config, phase, i);
        if (training) mabn_proposals_add(&p, i, gt.values, (int64_t)gt.count / 4);
        if (tap_ok(count[i] == (int64_t)score.count, "%s: %lld", what, (long long)count[i])) {
            same_floats(p.box + i * p.room * 4, &box, 1e-6, what);
            same_floats(p.score + i * p.room, &score, 1e-6, what);
        }
        free(gt.values);
        free(box.values);
        free(score.values);
    }
    free(p.box);
    free(p.score);
    rpn_free(&r);
}

static void check_rpn_labels(hid_t f, const struct rpn *r, int i)
{
    struct h5array gt = get(f, "gt_boxes/%d", i);
    struct h5array delta = get(f, "labels/%d_positive_targets", i);
    const struct mabn_truth truth = {(int64_t)gt.count / 4, gt.values, NULL, r->width[i],
                                     r->height[i]};
    const struct mabn_rpn_target_options o = mabn_rpn_target_defaults();
    int32_t *want = get_int(f, NULL, "labels/%d", i);
    int32_t *label = malloc((size_t)r->n * 4), *match = malloc((size_t)r->n * 4);
    float *got = malloc(delta.count * 4);
    size_t m = 0;
    tap_status(mabn_rpn_label(label, match, r->anchor, r->n, &truth, &o.matcher, legacy, &scratch),
               "RPN labels %d", i);
    same_ints(label, want, (size_t)r->n, "RPN labels");
    for (int64_t k = 0; k < r->n; k++)
        if (label[k] == 1 && 4 * m < delta.count)
            mabn_box_encode(got + 4 * m++, r->anchor + 4 * k, gt.values + 4 * match[k], 1,
                            (struct mabn_box_weights){1, 1, 1, 1}, 1);
    same_floats(got, &delta, 1e-6, "RPN regression targets");
    free(got);
    free(label);
    free(match);
    free(want);
    free(gt.values);
    free(delta.values);
}

static void check_rpn_sample(hid_t f, const struct rpn *r, int i)
{
    struct h5array gt = get(f, "gt_boxes/%d", i);
    const struct mabn_truth truth = {(int64_t)gt.count / 4, gt.values, NULL, r->width[i],
                                     r->height[i]};
    struct mabn_rpn_target_options o = mabn_rpn_target_defaults();
    const struct mabn_sample_key key = {1, 2, (uint64_t)i, MABN_SAMPLE_RPN};
    const size_t n = (size_t)r->n;
    struct mabn_rpn_targets t = {malloc(n * 4), malloc(n * 4), malloc(n * 4), malloc(n * 16), 0, 0};
    size_t positives, negatives, bad = 0, p = 0, q = 0;
    int32_t *pos = get_int(f, &positives, "loss/spread/pos_index/%d", i);
    int32_t *neg = get_int(f, &negatives, "loss/spread/neg_index/%d", i);
    o.sampler.spread = true;
    tap_status(mabn_rpn_targets_make(&t, r->anchor, r->n, &truth, &o, &key, legacy, &scratch),
               "RPN sample %d", i);
    for (size_t k = 0; k < n; k++) {
        const bool is_pos = p < positives && pos[p] == (int32_t)k;
        const bool is_neg = q < negatives && neg[q] == (int32_t)k;
        bad += t.target[k] != (float)is_pos || t.box_weight[k] != (float)is_pos ||
               t.weight[k] != (float)(is_pos || is_neg);
        p += is_pos;
        q += is_neg;
    }
    tap_ok(bad == 0 && (size_t)t.positives == positives &&
               (size_t)t.sampled == positives + negatives,
           "RPN sample %d: %lld of %lld positive", i, (long long)t.positives, (long long)t.sampled);
    free(pos);
    free(neg);
    free(t.target);
    free(t.weight);
    free(t.box_weight);
    free(t.delta);
    free(gt.values);
}

static void check_rpn_file(hid_t f)
{
    static const char *const configs[] = {"real", "small", "small_min12", "small_per_image"};
    static const char *const phases[] = {"train", "test", "train_tied", "test_tied"};
    for (int c = 0; c < 4; c++)
        for (int p = 0; p < 4; p++)
            if (exists(f, "proposals/%s/%s", configs[c], phases[p]))
                check_proposals(f, configs[c], phases[p]);
    struct rpn r = rpn_read(f, "objectness");
    for (int i = 0; i < 2; i++) {
        check_rpn_labels(f, &r, i);
        check_rpn_sample(f, &r, i);
    }
    rpn_free(&r);
}

/* ---- box and mask targets ---- */

static void check_box_targets(hid_t f, const char *name)
{
    struct mabn_box_target_options o = mabn_box_target_defaults(80);
    o.sampler.batch = (int64_t)number(f, "%s/batch_size_per_image", name);
    o.sampler.fraction = number(f, "%s/positive_fraction", name);
    o.sampler.spread = true;
    for (int i = 0; i < 2; i++) {
        struct h5array gt = get(f, "%s/in/%d/gt_boxes", name, i);
        struct h5array proposal = get(f, "%s/in/%d/proposals", name, i);
        int32_t *gt_label = get_int(f, NULL, "%s/in/%d/gt_labels", name, i);
        struct h5array want_delta = get(f, "%s/sample_targets/%d", name, i);
        size_t count, n = proposal.count / 4;
        int32_t *all = get_int(f, NULL, "%s/all_labels/%d", name, i);
        int32_t *index = get_int(f, &count, "%s/sample_index/%d", name, i);
        int32_t *want = get_int(f, NULL, "%s/sample_labels/%d", name, i);
        const struct mabn_truth truth = {(int64_t)gt.count / 4, gt.values, gt_label, 0, 0};
        const struct mabn_sample_key key = {0, 0, 0, MABN_SAMPLE_BOXES};
        int32_t *label = malloc(n * 4), *match = malloc(n * 4), *image = malloc(n * 4);
        int32_t *object = malloc(n * 4);
        struct mabn_box_targets t = {
            (int64_t)n, 0, 0, malloc(n * 16), image, label, object, malloc(n * 16), malloc(n * 4)};
        char what[80];
        snprintf(what, sizeof what, "%s, image %d", name, i);
        tap_status(mabn_box_label(label, match, proposal.values, (int64_t)n, &truth, &o.matcher,
                                  legacy, &scratch),
                   "%s", what);
        same_ints(label, all, n, what);
        tap_status(mabn_box_targets_add(&t, i, proposal.values, (int64_t)n, &truth, &o, &key,
                                        legacy, &scratch),
                   "%s", what);
        tap_ok((size_t)t.count == count, "%s: %lld sampled, %lld positive", what,
               (long long)t.count, (long long)t.positives);
        same_ints(t.label, want, count, what);
        size_t moved = 0;
        for (size_t k = 0; k < count; k++) {
            moved += memcmp(t.box + 4 * k, proposal.values + 4 * index[k], 16) != 0;
            if (want[k] == 0) memset(want_delta.values + 4 * k, 0, 16);
        }
        tap_ok(moved == 0, "%s: the boxes sampled", what);
        same_floats(t.delta, &want_delta, 1e-6, what);
        free(t.box);
        free(t.delta);
        free(t.weight);
        free(label);
        free(match);
        free(image);
        free(object);
        free(index);
        free(want);
        free(all);
        free(gt_label);
        free(gt.values);
        free(proposal.values);
        free(want_delta.values);
    }
}

/* Read the masks of one image and compare them with the filled ones. */
struct outlines {
    struct mabn_outlines o;
    int32_t *first_polygon, *first_number;
    struct h5array numbers;
};

static struct outlines outlines_read(hid_t f, const char *path, int width, int height)
{
    struct outlines r;
    size_t count;
    r.first_polygon = get_int(f, &count, "%s/inst_ptr", path);
    r.first_number = get_int(f, NULL, "%s/poly_ptr", path);
    r.numbers = get(f, "%s/xy", path);
    r.o = (struct mabn_outlines){(int64_t)count - 1,
                                 (const uint32_t *)r.first_polygon,
                                 (const uint32_t *)r.first_number,
                                 r.numbers.values,
                                 width,
                                 height};
    return r;
}

static void outlines_free(struct outlines *r)
{
    free(r->first_polygon);
    free(r->first_number);
    free(r->numbers.values);
}

static void same_masks(const uint8_t *got, const struct h5array *want, const char *what)
{
    size_t bad = 0;
    for (size_t i = 0; i < want->count; i++)
        bad += (float)got[i] != want->values[i];
    tap_ok(bad == 0, "%s: %zu pixels, %zu differ", what, want->count, bad);
}

static void check_mask_targets(hid_t f, const char *name)
{
    char path[80];
    snprintf(path, sizeof path, "mask_target/%s", name);
    int32_t *wh = get_int(f, NULL, "%s/image_wh", path);
    int32_t *object = get_int(f, NULL, "%s/gt_index", path);
    struct h5array box = get(f, "%s/rois", path), want = get(f, "%s/mask", path);
    struct outlines r = outlines_read(f, path, wh[0], wh[1]);
    uint8_t *got = malloc(want.count);
    tap_status(
        mabn_mask_targets_fill(got, box.values, object, (int64_t)box.count / 4, 28, &r.o, legacy),
        "%s", path);
    same_masks(got, &want, path);
    free(got);
    free(wh);
    free(object);
    free(box.values);
    free(want.values);
    outlines_free(&r);
}

/* The positives are matched again, as the mask head does. */
static void check_mask_loss(hid_t f, int i)
{
    char path[80];
    snprintf(path, sizeof path, "mask_loss/in/%d/gt_masks", i);
    int32_t *wh = get_int(f, NULL, "mask_loss/in/%d/image_wh", i);
    struct h5array box = get(f, "mask_loss/in/%d/rois", i);
    struct h5array gt = get(f, "mask_loss/in/%d/gt_boxes", i);
    struct h5array want = get(f, "mask_loss/targets/%d", i);
    struct outlines r = outlines_read(f, path, wh[0], wh[1]);
    int32_t *object = malloc(box.count * 4);
    uint8_t *got = malloc(want.count);
    const struct mabn_matcher best = {.high = -1, .low = -1};
    tap_status(mabn_match_boxes(object, gt.values, (int64_t)gt.count / 4, box.values,
                                (int64_t)box.count / 4, 1, &best, &scratch),
               "objects of the mask loss");
    tap_status(
        mabn_mask_targets_fill(got, box.values, object, (int64_t)box.count / 4, 28, &r.o, legacy),
        "targets of the mask loss");
    same_masks(got, &want, "targets of the mask loss");
    free(got);
    free(object);
    free(wh);
    free(box.values);
    free(gt.values);
    free(want.values);
    outlines_free(&r);
}

/* ---- detections and masks ---- */

static void check_post(hid_t f, const char *name)
{
    struct h5array logit = get(f, "post/%s/class_logits", name);
    struct h5array delta = get(f, "post/%s/box_regression", name);
    struct mabn_detection_options o = mabn_detection_defaults((int32_t)logit.shape[1] - 1);
    struct mabn_detections d = {0};
    size_t row = 0;
    o.min_score = number(f, "post/%s/score_thresh", name);
    o.threshold = number(f, "post/%s/nms", name);
    o.most = (int64_t)number(f, "post/%s/detections_per_img", name);
    for (int i = 0; i < 2; i++) {
        char what[60];
        size_t count;
        snprintf(what, sizeof what, "detections %s, image %d", name, i);
        struct h5array proposal = get(f, "post/%s/%d/proposals", name, i);
        struct h5array box = get(f, "post/%s/%d/boxes", name, i);
        struct h5array score = get(f, "post/%s/%d/scores", name, i);
        int32_t *label = get_int(f, &count, "post/%s/%d/labels", name, i);
        int32_t *wh = get_int(f, NULL, "post/%s/%d/image_wh", name, i);
        const struct mabn_box_scores in = {(int64_t)proposal.shape[0],
                                           proposal.values,
                                           logit.values + row * logit.shape[1],
                                           delta.values + row * delta.shape[1],
                                           wh[0],
                                           wh[1]};
        tap_status(mabn_detections_make(&d, &in, &o, legacy, &scratch), "%s", what);
        if (tap_ok(d.count == (int64_t)count, "%s: %lld", what, (long long)d.count)) {
            same_ints(d.label, label, count, what);
            same_floats(d.box, &box, 1e-6, what);
            same_floats(d.score, &score, 1e-6, what);
        }
        row += proposal.shape[0];
        free(proposal.values);
        free(box.values);
        free(score.values);
        free(label);
        free(wh);
    }
    mabn_detections_release(&d);
    free(logit.values);
    free(delta.values);
}

static void check_mask_post(hid_t f)
{
    struct h5array logit = get(f, "mask_post/mask_logits");
    size_t row = 0;
    for (int i = 0; i < 2; i++) {
        char rle[40];
        struct h5array box = get(f, "mask_post/%d/boxes", i), prob = get(f, "mask_post/%d/prob", i);
        struct h5array scaled = get(f, "mask_post/%d/boxes_original", i);
        struct h5array json = get(f, "mask_post/%d/json_bbox", i);
        int32_t *label = get_int(f, NULL, "mask_post/%d/labels", i);
        int32_t *wh = get_int(f, NULL, "mask_post/%d/image_wh", i);
        int32_t *original = get_int(f, NULL, "mask_post/%d/original_wh", i);
        const size_t n = box.shape[0], channels = logit.shape[1];
        float *nhwc = malloc(n * channels * 784 * 4), *got = malloc(n * 784 * 4), bad = 0;
        to_nhwc(nhwc, logit.values + row * channels * 784, n, channels, 784);
        tap_status(
            mabn_mask_probability(got, nhwc, label, (int64_t)n, 784, (int64_t)channels, legacy),
            "mask probabilities");
        same_floats(got, &prob, 1e-6, "mask probabilities");
        struct mabn_detections d = {.count = (int64_t)n, .box = box.values};
        mabn_detections_scale(&d, wh[0], wh[1], original[0], original[1], legacy);
        same_floats(d.box, &scaled, 0, "boxes in the original image");
        for (size_t k = 0; k < n; k++) {
            double record[4];
            mabn_detection_record(record, d.box + 4 * k, legacy);
            for (int j = 0; j < 4; j++)
                bad += (float)record[j] != json.values[4 * k + (size_t)j];
        }
        tap_ok(bad == 0, "boxes as they are written");
        snprintf(rle, sizeof rle, "mask_post/%d/rle", i);
        same_rles(f, rle, prob.values, d.box, n, original[0], original[1], legacy, NULL);
        row += n;
        free(nhwc);
        free(got);
        free(label);
        free(wh);
        free(original);
        free(box.values);
        free(prob.values);
        free(scaled.values);
        free(json.values);
    }
    free(logit.values);
}

static void check_paste(hid_t f, const char *name)
{
    char rle[60];
    struct h5array box = get(f, "paste/%s/boxes", name), prob = get(f, "paste/%s/prob", name);
    int32_t *wh = get_int(f, NULL, "paste/%s/image_wh", name);
    snprintf(rle, sizeof rle, "paste/%s/rle", name);
    same_rles(f, rle, prob.values, box.values, box.shape[0], wh[0], wh[1], legacy, NULL);
    free(box.values);
    free(prob.values);
    free(wh);
}

static void check_heads_file(hid_t f)
{
    static const char *const posts[] = {"cap10", "few", "many", "nms", "none", "ties"};
    for (int i = 0; i < 6; i++)
        check_post(f, posts[i]);
    check_mask_post(f);
    check_box_targets(f, "box_loss");
    check_box_targets(f, "box_loss_real_batch");
    check_mask_loss(f, 0);
    check_mask_loss(f, 1);
}

static void check_transforms_file(hid_t f)
{
    char name[20];
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "case%d", i);
        check_mask_targets(f, name);
    }
    check_mask_targets(f, "square");
    check_paste(f, "case0");
    check_paste(f, "case1");
    check_paste(f, "edges");
}

/* ---- the other conventions ---- */

/* The polygon of object i in double. Rounded to float32, two of eight masks would differ by a
 * pixel. */
static void pool_exact(hid_t f, float *target, const float *box, int i, int height, int width)
{
    int32_t *first = get_int(f, NULL, "mask_targets/poly_ptr");
    double *xy = calloc((size_t)first[8], sizeof *xy);
    float *picture = malloc((size_t)height * (size_t)width * 4);
    hid_t set = H5Dopen2(f, "mask_targets/xy", H5P_DEFAULT);
    struct mabn_rle mask;
    mabn_rle_init(&mask);
    H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, xy);
    H5Dclose(set);
    tap_status(mabn_rle_from_polygon(&mask, xy + first[i], (size_t)(first[i + 1] - first[i]),
                                     (uint32_t)height, (uint32_t)width),
               "mask %d", i);
    mabn_mask_picture(picture, &mask);
    tap_status(mabn_mask_pool(target, picture, height, width, box, 1, 28, false), "pool %d", i);
    mabn_rle_release(&mask);
    free(picture);
    free(xy);
    free(first);
}

static void check_dialect_masks(hid_t f)
{
    struct h5array box = get(f, "mask_targets/rois"), tv = get(f, "mask_targets/tv");
    struct h5array polygon = get(f, "mask_targets/d2_polygon");
    struct h5array bitmask = get(f, "mask_targets/d2_bitmask");
    int32_t *hw = get_int(f, NULL, "mask_targets/image_hw");
    for (int32_t i = 0; i < 8; i++) {
        struct outlines r = outlines_read(f, "mask_targets", hw[2 * i + 1], hw[2 * i]);
        uint8_t fill[784];
        float soft[784], pool[784];
        const struct h5array want[] = {{.values = polygon.values + 784 * i, .count = 784},
                                       {.values = bitmask.values + 784 * i, .count = 784},
                                       {.values = tv.values + 784 * i, .count = 784}};
        tap_status(mabn_mask_targets_fill(fill, box.values + 4 * i, &i, 1, 28, &r.o, detectron2),
                   "detectron2's mask target %d", i);
        same_masks(fill, &want[0], "detectron2's polygon target");
        tap_status(
            mabn_mask_targets_pool(pool, box.values + 4 * i, &i, 1, 28, &r.o, true, &scratch),
            "detectron2's pooled target %d", i);
        for (int k = 0; k < 784; k++)
            fill[k] = pool[k] >= 0.5f;
        same_masks(fill, &want[1], "detectron2's bitmask target");
        pool_exact(f, soft, box.values + 4 * i, i, hw[2 * i], hw[2 * i + 1]);
        same_floats(soft, &want[2], 0, "torchvision's mask target");
        outlines_free(&r);
    }
    free(hw);
    free(box.values);
    free(tv.values);
    free(polygon.values);
    free(bitmask.values);
}

static void check_dialect_levels(hid_t f)
{
    struct h5array box = get(f, "levels/boxes");
    const size_t n = box.count / 4;
    int32_t *d2 = get_int(f, NULL, "levels/d2"), *tv = get_int(f, NULL, "levels/tv");
    int32_t *got = malloc(n * 4), least = 9;
    for (size_t i = 0; i < n; i++)
        least = d2[i] < least ? d2[i] : least;
    mabn_box_levels(got, box.values, (int64_t)n, 2, 5, detectron2);
    for (size_t i = 0; i < n; i++)
        got[i] += least;
    same_ints(got, d2, n, "detectron2's levels");
    mabn_box_levels(got, box.values, (int64_t)n, 2, 5, torchvision);
    for (size_t i = 0; i < n; i++)
        got[i] += least;
    same_ints(got, tv, n, "torchvision's levels");
    free(got);
    free(d2);
    free(tv);
    free(box.values);
}

static void check_dialect_decode(hid_t f, const char *name, struct mabn_box_weights w)
{
    struct h5array box = get(f, "decode/boxes"), delta = get(f, "decode/deltas");
    struct h5array want = get(f, "decode/%s", name);
    float *got = malloc(want.count * 4);
    for (size_t i = 0; i < want.count / 4; i++)
        mabn_box_decode(got + 4 * i, box.values + 4 * (i / 2), delta.values + 4 * i, w, 0);
    same_floats(got, &want, 1e-6, name);
    free(got);
    free(box.values);
    free(delta.values);
    free(want.values);
}

static void check_dialect_anchors(hid_t f, int height, int width)
{
    struct mabn_anchors a = mabn_anchors_usual(32);
    struct mabn_anchor_grid grid = {height, width, {0}, {0}};
    struct h5array want = get(f, "tv_anchors/%dx%d/P6", height, width);
    for (int l = 0; l < 5; l++) {
        grid.h[l] = l < 4 ? height >> (l + 2) : (grid.h[3] + 1) / 2;
        grid.w[l] = l < 4 ? width >> (l + 2) : (grid.w[3] + 1) / 2;
    }
    const int64_t n = mabn_anchors_count(&a, &grid), last = mabn_anchors_in_level(&a, &grid, 4);
    float *box = malloc((size_t)n * 16);
    mabn_anchors_fill(box, &a, &grid, torchvision);
    same_floats(box + 4 * (n - last), &want, 0, "torchvision's anchors of P6");
    free(box);
    free(want.values);
}

static void check_dialect_paste(hid_t f)
{
    struct h5array box = get(f, "paste/boxes"), map = get(f, "paste/masks");
    int32_t *hw = get_int(f, NULL, "paste/hw"), *valid = get_int(f, NULL, "paste/valid");
    same_rles(f, "paste/tv_rle", map.values, box.values, 60, hw[1], hw[0], torchvision, valid);
    same_rles(f, "paste/d2_rle", map.values, box.values, 60, hw[1], hw[0], detectron2, valid);
    free(box.values);
    free(map.values);
    free(hw);
    free(valid);
}

/* Suppression by group, with the boxes shifted apart or not; best first. */
static void check_dialect_nms(hid_t f, const char *name, bool moved)
{
    struct h5array box = get(f, "nms/%s/boxes", name), score = get(f, "nms/%s/scores", name);
    size_t n = score.count, count, m = 0;
    int32_t *group = get_int(f, NULL, "nms/%s/idxs", name);
    int32_t *want = get_int(f, &count, "nms/%s/keep", name);
    int32_t *keep = malloc(n * 4), *at = malloc(n * 4), *order = malloc(n * 4);
    float *b = malloc(n * 16), *s = malloc(n * 4), largest = 0;
    bool *stays = calloc(n, sizeof *stays);
    const float threshold = mabn_box_threshold(torchvision, number(f, "nms/%s/threshold", name));
    for (size_t i = 0; i < 4 * n; i++)
        largest = box.values[i] > largest ? box.values[i] : largest;
    for (int32_t g = 0; g < 100; g++) {
        int64_t in = 0, kept;
        for (size_t i = 0; i < n; i++) {
            if (group[i] != g) continue;
            memcpy(b + 4 * in, box.values + 4 * i, 16);
            if (moved) mabn_nms_shift(b + 4 * in, box.values + 4 * i, 1, g, largest);
            at[in] = (int32_t)i;
            s[in++] = score.values[i];
        }
        if (mabn_nms(keep, &kept, b, s, in, in, threshold, 0, true, &scratch)) continue;
        for (int64_t k = 0; k < kept; k++)
            stays[at[keep[k]]] = true;
    }
    for (size_t i = 0; i < n; i++) {
        if (!stays[i]) continue;
        at[m] = (int32_t)i;
        s[m++] = score.values[i];
    }
    tap_status(mabn_order_best(order, s, (int64_t)m, (int64_t)m, &scratch), "order");
    for (size_t i = 0; i < m; i++)
        keep[i] = at[order[i]];
    if (tap_ok(m == count, "batched nms %s keeps %zu", name, m)) same_ints(keep, want, m, name);
    free(group);
    free(want);
    free(keep);
    free(at);
    free(order);
    free(b);
    free(s);
    free(stays);
    free(box.values);
    free(score.values);
}

static void check_dialects_file(hid_t f)
{
    check_dialect_paste(f);
    check_dialect_nms(f, "trick", true);
    check_dialect_nms(f, "vanilla", false);
    const struct mabn_box_weights ones = {1, 1, 1, 1}, head = {10, 10, 5, 5};
    check_dialect_masks(f);
    check_dialect_levels(f);
    check_dialect_decode(f, "rpn_d2", ones);
    check_dialect_decode(f, "rpn_tv", ones);
    check_dialect_decode(f, "roi_d2", head);
    check_dialect_decode(f, "roi_tv", head);
    check_dialect_anchors(f, 256, 352);
    check_dialect_anchors(f, 416, 1344);
    check_dialect_anchors(f, 800, 1088);
}

int main(void)
{
    const char *folder = golden_folder();
    if (!folder) return tap_done();
    tap_status(mabn_box_convention_find(&legacy, NULL), "legacy");
    tap_status(mabn_box_convention_find(&detectron2, "detectron2"), "detectron2");
    tap_status(mabn_box_convention_find(&torchvision, "torchvision"), "torchvision");
    with_file(folder, "det_anchors.h5", check_anchors_file);
    with_file(folder, "det_rpn.h5", check_rpn_file);
    with_file(folder, "det_heads.h5", check_heads_file);
    with_file(folder, "det_transforms.h5", check_transforms_file);
    with_file(folder, "dialect_ops.h5", check_dialects_file);
    mabn_scratch_release(&scratch);
    return tap_done();
}
