/* The computations between a detector's plans in a training step, in the order in which a step
 * calls them: from the recorded maps of the RPN (after the first step, from its recorded proposals)
 * to proposals, samples and the targets of all three heads. All steps in
 * $MABN_GOLDEN/det/det_tiny_train.h5; the samples must be the same. */
#include "golden_detect.h"

#include "detect/box_targets.h"
#include "detect/mask_targets.h"
#include "detect/proposals.h"

static const struct mabn_box_convention *legacy;

enum { IMAGES = 2, BATCH = 64, ROOM = 300 };

/* A step's maps and ground truth, and the results computed from them. */
struct step {
    char path[40], batch[40];
    bool with_maps; /* only the first step has recorded maps */
    struct mabn_rpn_maps maps;
    float *score[5], *delta[5], *anchor;
    int64_t n; /* anchors */
    int width[IMAGES], height[IMAGES];
    struct h5array truth_box[IMAGES];
    int32_t *truth_label[IMAGES];

    float box[IMAGES * ROOM * 4], proposal_score[IMAGES * ROOM];
    int64_t count[IMAGES];
    float at[IMAGES * BATCH * 4], delta_to[IMAGES * BATCH * 4], weight[IMAGES * BATCH];
    int32_t image[IMAGES * BATCH], label[IMAGES * BATCH], object[IMAGES * BATCH];
};

static void step_read(struct step *s, hid_t f)
{
    const struct mabn_anchors a = mabn_anchors_usual(16);
    struct h5array images = get(f, "%s/images", s->batch);
    struct mabn_anchor_grid grid = {(int)images.shape[2], (int)images.shape[3], {0}, {0}};
    int32_t *hw = get_int(f, NULL, "%s/image_hw", s->batch);
    s->maps = (struct mabn_rpn_maps){.images = IMAGES, .levels = 5};
    for (int l = 0; l < 5; l++) {
        grid.h[l] = l < 4 ? grid.padded_height >> (l + 2) : (grid.h[3] + 1) / 2;
        grid.w[l] = l < 4 ? grid.padded_width >> (l + 2) : (grid.w[3] + 1) / 2;
        s->maps.anchors[l] = mabn_anchors_in_level(&a, &grid, l);
    }
    for (int l = 0; l < 5 && s->with_maps; l++) {
        struct h5array o = get(f, "%s/rpn/objectness/P%d", s->path, l + 2);
        struct h5array d = get(f, "%s/rpn/deltas/P%d", s->path, l + 2);
        s->score[l] = malloc(o.count * 4);
        s->delta[l] = malloc(d.count * 4);
        to_nhwc(s->score[l], o.values, IMAGES, 3, o.shape[2] * o.shape[3]);
        to_nhwc(s->delta[l], d.values, IMAGES, 12, o.shape[2] * o.shape[3]);
        s->maps.score[l] = s->score[l];
        s->maps.delta[l] = s->delta[l];
        free(o.values);
        free(d.values);
    }
    for (int i = 0; i < IMAGES; i++) {
        s->height[i] = hw[2 * i];
        s->width[i] = hw[2 * i + 1];
        s->truth_box[i] = get(f, "%s/target%d/boxes", s->batch, i);
        s->truth_label[i] = get_int(f, NULL, "%s/target%d/labels", s->batch, i);
    }
    s->n = mabn_anchors_count(&a, &grid);
    s->anchor = malloc((size_t)s->n * 16);
    mabn_anchors_fill(s->anchor, &a, &grid, legacy);
    s->maps.anchor = s->anchor;
    s->maps.width = s->width;
    s->maps.height = s->height;
    free(hw);
    free(images.values);
}

static void step_free(struct step *s)
{
    for (int l = 0; l < 5; l++) { /* NULL without maps */
        free(s->score[l]);
        free(s->delta[l]);
    }
    for (int i = 0; i < IMAGES; i++) {
        free(s->truth_box[i].values);
        free(s->truth_label[i]);
    }
    free(s->anchor);
}

static struct mabn_truth truth_of(const struct step *s, int i)
{
    return (struct mabn_truth){(int64_t)s->truth_box[i].shape[0], s->truth_box[i].values,
                               s->truth_label[i], s->width[i], s->height[i]};
}

static void check_rpn(struct step *s, hid_t f, int i)
{
    const size_t n = (size_t)s->n;
    const struct mabn_truth truth = truth_of(s, i);
    const struct mabn_sample_key key = {0, 0, 0, MABN_SAMPLE_RPN};
    struct mabn_rpn_target_options o = mabn_rpn_target_defaults();
    struct mabn_rpn_targets t = {malloc(n * 4), malloc(n * 4), malloc(n * 4), malloc(n * 16), 0, 0};
    size_t positives, negatives;
    int32_t *pos = get_int(f, &positives, "%s/rpn_pos/%d", s->path, i);
    int32_t *neg = get_int(f, &negatives, "%s/rpn_neg/%d", s->path, i);
    size_t bad = 0;
    o.sampler.spread = true;
    tap_status(mabn_rpn_targets_make(&t, s->anchor, s->n, &truth, &o, &key, legacy, &scratch),
               "%s: RPN targets %d", s->path, i);
    for (size_t k = 0; k < positives; k++)
        bad += t.box_weight[pos[k]] != 1 || t.target[pos[k]] != 1 || t.weight[pos[k]] != 1;
    for (size_t k = 0; k < negatives; k++)
        bad += t.box_weight[neg[k]] != 0 || t.target[neg[k]] != 0 || t.weight[neg[k]] != 1;
    tap_ok(bad == 0 && (size_t)t.positives == positives &&
               (size_t)t.sampled == positives + negatives,
           "%s, image %d: %lld of %lld anchors positive", s->path, i, (long long)t.positives,
           (long long)t.sampled);
    free(pos);
    free(neg);
    free(t.target);
    free(t.weight);
    free(t.box_weight);
    free(t.delta);
}

static void check_proposals(struct step *s, hid_t f)
{
    struct mabn_proposals p = {ROOM, s->box, s->proposal_score, s->count};
    struct mabn_proposal_options o = mabn_proposal_defaults(legacy, true);
    o.before = 300;
    o.level = 200;
    o.total = 250;
    tap_status(mabn_proposals_make(&p, &s->maps, &o, legacy, &scratch), "%s: proposals", s->path);
    for (int i = 0; i < IMAGES; i++) {
        struct h5array want = get(f, "%s/proposals/%d/boxes", s->path, i);
        mabn_proposals_add(&p, i, s->truth_box[i].values, (int64_t)s->truth_box[i].shape[0]);
        if (tap_ok(s->count[i] == (int64_t)want.shape[0], "%s, image %d: %lld proposals", s->path,
                   i, (long long)s->count[i]))
            same_floats(s->box + i * ROOM * 4, &want, 2e-6, s->path);
        free(want.values);
    }
}

/* Steps without recorded maps have recorded proposals. */
static void read_proposals(struct step *s, hid_t f)
{
    for (int i = 0; i < IMAGES; i++) {
        struct h5array box = get(f, "%s/proposals/%d/boxes", s->path, i);
        s->count[i] = (int64_t)box.shape[0];
        memcpy(s->box + i * ROOM * 4, box.values, box.count * 4);
        free(box.values);
    }
}

static void check_boxes(struct step *s, hid_t f, struct mabn_box_targets *t)
{
    struct mabn_box_target_options o = mabn_box_target_defaults(80);
    const struct mabn_sample_key key = {0, 0, 0, MABN_SAMPLE_BOXES};
    o.sampler.batch = BATCH;
    o.sampler.spread = true;
    for (int i = 0; i < IMAGES; i++) {
        const struct mabn_truth truth = truth_of(s, i);
        const int64_t first = t->count;
        struct h5array box = get(f, "%s/rois/%d/boxes", s->path, i);
        struct h5array delta = get(f, "%s/rois/%d/regression_targets", s->path, i);
        int32_t *label = get_int(f, NULL, "%s/rois/%d/labels", s->path, i);
        tap_status(mabn_box_targets_add(t, i, s->box + i * ROOM * 4, s->count[i], &truth, &o, &key,
                                        legacy, &scratch),
                   "%s: box targets %d", s->path, i);
        same_ints(t->label + first, label, box.shape[0], "labels of the sampled boxes");
        same_floats(t->box + 4 * first, &box, 2e-6, "the sampled boxes");
        for (size_t k = 0; k < box.shape[0]; k++)
            if (label[k] == 0) memset(delta.values + 4 * k, 0, 16);
        same_floats(t->delta + 4 * first, &delta, 1e-5, "their regression targets");
        free(box.values);
        free(delta.values);
        free(label);
    }
}

static void check_masks(struct step *s, hid_t f, const struct mabn_box_targets *t, int i)
{
    float box[BATCH * 4];
    int32_t row[IMAGES * BATCH], object[BATCH];
    const int64_t positives = mabn_box_targets_positive(row, t);
    int64_t n = 0;
    for (int64_t k = 0; k < positives; k++) {
        if (t->image[row[k]] != i) continue;
        memcpy(box + 4 * n, t->box + 4 * (int64_t)row[k], 16);
        object[n++] = t->object[row[k]];
    }
    struct h5array want = get(f, "%s/mask_targets/%d", s->path, i);
    int32_t *polygon = get_int(f, NULL, "%s/target%d/masks/inst_ptr", s->batch, i);
    int32_t *first = get_int(f, NULL, "%s/target%d/masks/poly_ptr", s->batch, i);
    struct h5array numbers = get(f, "%s/target%d/masks/xy", s->batch, i);
    const struct mabn_outlines o = {(int64_t)s->truth_box[i].shape[0],
                                    (const uint32_t *)polygon,
                                    (const uint32_t *)first,
                                    numbers.values,
                                    s->width[i],
                                    s->height[i]};
    uint8_t *got = malloc(BATCH * 784);
    size_t bad = 0;
    tap_status(mabn_mask_targets_fill(got, box, object, n, 28, &o, legacy), "%s: mask targets %d",
               s->path, i);
    for (size_t k = 0; k < want.count && k < (size_t)n * 784; k++)
        bad += (float)got[k] != want.values[k];
    tap_ok(n == (int64_t)want.shape[0] && bad == 0, "%s, image %d: %lld masks, %zu pixels differ",
           s->path, i, (long long)n, bad);
    free(got);
    free(polygon);
    free(first);
    free(numbers.values);
    free(want.values);
}

static void check_step(hid_t f, const char *state, int number)
{
    struct step *s = calloc(1, sizeof *s);
    snprintf(s->path, sizeof s->path, "%s/step%d", state, number);
    snprintf(s->batch, sizeof s->batch, "%s/batch%d", state, number % 2);
    struct mabn_box_targets t = {IMAGES * BATCH, 0,         0,           s->at,    s->image,
                                 s->label,       s->object, s->delta_to, s->weight};
    s->with_maps = exists(f, "%s/rpn", s->path);
    step_read(s, f);
    for (int i = 0; i < IMAGES; i++)
        check_rpn(s, f, i);
    if (s->with_maps)
        check_proposals(s, f);
    else
        read_proposals(s, f);
    check_boxes(s, f, &t);
    for (int i = 0; i < IMAGES; i++)
        check_masks(s, f, &t, i);
    step_free(s);
    free(s);
}

static void check_steps(hid_t f)
{
    char path[60];
    int steps = 0;
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 5; k++) {
            const char *state = i ? "late" : "start";
            snprintf(path, sizeof path, "%s/step%d", state, k);
            if (!exists(f, "%s", path)) continue;
            check_step(f, state, k);
            steps++;
        }
    tap_ok(steps > 0, "%d steps", steps);
}

int main(void)
{
    const char *folder = golden_folder();
    if (!folder) return tap_done();
    tap_status(mabn_box_convention_find(&legacy, NULL), "legacy");
    with_file(folder, "det_tiny_train.h5", check_steps);
    mabn_scratch_release(&scratch);
    return tap_done();
}
