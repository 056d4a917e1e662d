/* From the recorded network outputs of detectron2 and torchvision to the proposals, detections and
 * masks that those programs report ($MABN_GOLDEN/det/{d2,tv_v1,tv_v2}.h5). Each stage starts from
 * the recording of the stage before, so its decisions must be the same. */
#include "golden_detect.h"

#include "detect/detections.h"
#include "detect/proposals.h"

static const struct mabn_box_convention *convention;

/* The maps of one image in the layout of our RPN head. */
struct rpn {
    struct mabn_rpn_maps maps;
    float *score[5], *delta[5], *anchor;
    int width, height;
};

static struct rpn rpn_read(hid_t f, int image)
{
    struct rpn r = {.maps = {.images = 1, .levels = 5}};
    const struct mabn_anchors a = mabn_anchors_usual(32);
    struct h5array input = get(f, "image%d/input", image);
    struct mabn_anchor_grid grid = {(int)input.shape[2], (int)input.shape[3], {0}, {0}};
    int32_t *hw = get_int(f, NULL, "image%d/resized_hw", image);
    for (int l = 0; l < 5; l++) {
        struct h5array s = get(f, "image%d/rpn/logits%d", image, l + 2);
        struct h5array d = get(f, "image%d/rpn/deltas%d", image, l + 2);
        grid.h[l] = (int64_t)s.shape[2];
        grid.w[l] = (int64_t)s.shape[3];
        r.score[l] = malloc(s.count * 4);
        r.delta[l] = malloc(d.count * 4);
        to_nhwc(r.score[l], s.values, 1, 3, s.count / 3);
        to_nhwc(r.delta[l], d.values, 1, 12, s.count / 3);
        r.maps.score[l] = r.score[l];
        r.maps.delta[l] = r.delta[l];
        r.maps.anchors[l] = mabn_anchors_in_level(&a, &grid, l);
        free(s.values);
        free(d.values);
    }
    r.height = hw[0];
    r.width = hw[1];
    r.anchor = malloc((size_t)mabn_anchors_count(&a, &grid) * 16);
    mabn_anchors_fill(r.anchor, &a, &grid, convention);
    r.maps.anchor = r.anchor;
    free(hw);
    free(input.values);
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

/* To 5e-5 of a pixel: that much the last bit of exp changes a large box whose corner lies near 0. */
static bool same_box(const float *a, const float *b)
{
    for (int i = 0; i < 4; i++)
        if (!(fabsf(a[i] - b[i]) <= 5e-5f)) return false;
    return true;
}

/* Two detections whose scores differ only in the last bits may be swapped. */
static void check_proposals(hid_t f, int image)
{
    struct rpn r = rpn_read(f, image);
    struct h5array want = get(f, "image%d/proposals", image);
    const int64_t n = (int64_t)want.shape[0];
    const struct mabn_proposal_options o = mabn_proposal_defaults(convention, false);
    float *box = malloc(1000 * 16), *score = malloc(1000 * 4);
    int64_t count, missing = 0, moved = 0;
    struct mabn_proposals p = {1000, box, score, &count};
    r.maps.width = &r.width;
    r.maps.height = &r.height;
    tap_status(mabn_proposals_make(&p, &r.maps, &o, convention, &scratch), "proposals");
    for (int64_t i = 0; i < n && i < count; i++) {
        int64_t at = -1;
        for (int64_t k = i > 3 ? i - 3 : 0; k < count && k < i + 4; k++)
            if (same_box(box + 4 * i, want.values + 4 * k) &&
                (at < 0 || llabs(k - i) < llabs(at - i)))
                at = k;
        missing += at < 0;
        moved += at >= 0 && at != i;
    }
    tap_ok(count == n && missing == 0 && moved <= 2,
           "%s, image %d: %lld proposals, %lld missing, %lld out of place", convention->name, image,
           (long long)count, (long long)missing, (long long)moved);
    free(box);
    free(score);
    free(want.values);
    rpn_free(&r);
}

/* The deltas of the recorded pairs, in their places. */
static float *spread_deltas(hid_t f, int image, size_t rows, int groups)
{
    size_t count;
    int32_t *pair = get_int(f, &count, "image%d/roi/pairs", image);
    struct h5array delta = get(f, "image%d/roi/pair_deltas", image);
    float *all = calloc(rows * (size_t)groups * 4, 4);
    for (size_t i = 0; i < count / 2; i++)
        memcpy(all + ((size_t)pair[2 * i] * (size_t)groups + (size_t)pair[2 * i + 1]) * 4,
               delta.values + 4 * i, 16);
    free(pair);
    free(delta.values);
    return all;
}

static void check_detections(hid_t f, int image, const char *boxes, const char *group,
                             double min_score)
{
    const bool d2 = convention->background_last;
    struct h5array proposal = get(f, "image%d/proposals", image);
    struct h5array logit = get(f, "image%d/roi/class_logits", image);
    struct h5array box = get(f, "image%d/%s/%s", image, group, boxes);
    struct h5array score = get(f, "image%d/%s/scores", image, group);
    int32_t *label = get_int(f, NULL, "image%d/%s/%s", image, group, d2 ? "classes" : "labels");
    int32_t *hw = get_int(f, NULL, "image%d/resized_hw", image);
    const int classes = (int)logit.shape[1] - 1;
    float *delta = spread_deltas(f, image, proposal.shape[0], d2 ? classes : classes + 1);
    struct mabn_detection_options o = mabn_detection_defaults(classes);
    const struct mabn_box_scores in = {
        (int64_t)proposal.shape[0], proposal.values, logit.values, delta, hw[1], hw[0]};
    struct mabn_detections d = {0};
    char what[80];
    snprintf(what, sizeof what, "%s, image %d, %s", convention->name, image, group);
    o.min_score = min_score;
    tap_status(mabn_detections_make(&d, &in, &o, convention, &scratch), "%s", what);
    if (tap_ok(d.count == (int64_t)score.count, "%s: %lld detections", what, (long long)d.count)) {
        for (int64_t i = 0; i < d.count; i++)
            d.label[i] -= d2;
        same_ints(d.label, label, score.count, what);
        same_floats(d.box, &box, 2e-6, what);
        same_floats(d.score, &score, 1e-6, what);
    }
    mabn_detections_release(&d);
    free(delta);
    free(label);
    free(hw);
    free(proposal.values);
    free(logit.values);
    free(box.values);
    free(score.values);
}

static void check_final(hid_t f, int image)
{
    struct h5array box = get(f, "image%d/net/boxes", image);
    struct h5array map = get(f, "image%d/net/mask_prob", image);
    struct h5array want = get(f, "image%d/final/boxes", image);
    int32_t *hw = get_int(f, NULL, "image%d/resized_hw", image);
    int32_t *original = get_int(f, NULL, "image%d/original_hw", image);
    struct mabn_detections d = {.count = (int64_t)box.shape[0], .box = box.values};
    const size_t n = box.shape[0];
    char rle[60];
    d.score = calloc(n, 4);
    d.label = calloc(n, 4);
    d.source = calloc(n, 4);
    d.mask = calloc(n, 4);
    mabn_detections_scale(&d, hw[1], hw[0], original[1], original[0], convention);
    tap_ok(d.count == (int64_t)want.shape[0], "none is dropped");
    same_floats(d.box, &want, 0, "boxes in the original image");
    snprintf(rle, sizeof rle, "image%d/final/rle_counts", image);
    same_rles(f, rle, map.values, d.box, n, original[1], original[0], convention, NULL);
    d.box = NULL;
    mabn_detections_release(&d);
    free(hw);
    free(original);
    free(box.values);
    free(map.values);
    free(want.values);
}

static void check_program(hid_t f)
{
    for (int image = 0; image < 2; image++) {
        check_proposals(f, image);
        check_detections(f, image, "boxes", "net", 0.05);
        check_detections(f, image, "net_boxes", "score_thresh_0.01", 0.01);
        check_final(f, image);
    }
}

int main(void)
{
    static const char *const program[][2] = {
        {"detectron2", "d2.h5"}, {"torchvision", "tv_v1.h5"}, {"torchvision", "tv_v2.h5"}};
    const char *folder = golden_folder();
    if (!folder) return tap_done();
    for (int i = 0; i < 3; i++) {
        tap_status(mabn_box_convention_find(&convention, program[i][0]), "%s", program[i][0]);
        with_file(folder, program[i][1], check_program);
    }
    mabn_scratch_release(&scratch);
    return tap_done();
}
