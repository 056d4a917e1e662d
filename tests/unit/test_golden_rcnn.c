/* A small Mask R-CNN with MABN trained for a few steps, compared with a recording from the authors'
 * own detector: proposals, samples, mask targets, the five losses, gradients, and the weights and
 * state at the end. It starts from a state before MABN's window is used, and from one after.
 *
 * $MABN_GOLDEN names a folder with det/det_tiny_train.h5, det_tiny_start.pth and det_tiny_late.pth.
 * The recording says for each parameter how far its gradient in float32 is from float64; ours may
 * be a few times as far. */
#include <hdf5.h>
#include <unistd.h>

#include "base/mem.h"
#include "device.h"
#include "h5array.h"
#include "model/rcnn.h"
#include "exchange/weights.h"

enum { IMAGES = 2 };

static hid_t file;
static struct mabn_device *device;

#define get(...) h5array_read(file, h5array_name(__VA_ARGS__))

static bool there(const char *name)
{
    return H5Lexists(file, name, H5P_DEFAULT) > 0;
}

/* ---- the detector ---- */

static struct mabn_detector describe(void)
{
    struct mabn_detector d;
    struct mabn_norm_options *norms[8];
    if (mabn_detector_init(&d, "mask-rcnn-r50-fpn") || mabn_detector_set_norm(&d, "mabn")) abort();
    d.body.base_width = 8;
    d.body.expansion = 2;
    d.fpn_width = d.box_conv_width = d.mask_width = 16;
    d.box_width = 32;
    for (int i = 0; i < MABN_DETECTOR_LEVELS; i++)
        d.anchor_size[i] = 16 << i;
    d.train = (struct mabn_detector_counts){300, 200, 250};
    d.test = (struct mabn_detector_counts){200, 100, 100};
    d.box_batch = 64;
    if (mabn_detector_norms(&d, norms) != 8) abort();
    return d;
}

/* Load every tensor from the file, and its momentum if there is any. */
static int load(struct mabn_params *params, const char *path)
{
    struct mabn_weights *w;
    int missing = 0;
    if (mabn_weights_open(&w, path)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    for (int i = 0; i < mabn_params_count(params); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        const bool momentum = t->role == MABN_PARAMS_MOMENTUM;
        if (t->role == MABN_PARAMS_GRADIENT) continue;
        int64_t k =
            mabn_weights_find(w, momentum ? MABN_WEIGHT_MOMENTUM : MABN_WEIGHT_MODEL, t->name);
        if (k < 0) {
            missing += !momentum;
            continue;
        }
        const struct mabn_weight *source = mabn_weights_at(w, (size_t)k);
        void *bytes = mabn_xmalloc(source->bytes);
        if (mabn_weights_read(w, (size_t)k, bytes) ||
            mabn_params_set(params, i, bytes, source->bytes)) {
            printf("# %s\n", mabn_error_message());
            missing++;
        }
        free(bytes);
    }
    mabn_weights_free(w);
    return missing;
}

/* ---- pictures ---- */

struct batch {
    struct h5array x, boxes[IMAGES], labels[IMAGES], xy[IMAGES];
    int32_t *ints[IMAGES];
    uint32_t *polygons[IMAGES], *numbers[IMAGES];
    struct mabn_rcnn_image image[IMAGES];
};

static uint32_t *offsets(const struct h5array *a, int scale)
{
    uint32_t *out = mabn_xcalloc(a->count, sizeof *out);
    for (size_t i = 0; i < a->count; i++)
        out[i] = (uint32_t)a->values[i] * (uint32_t)scale;
    return out;
}

static void read_batch(struct batch *b, const char *run, int which)
{
    struct h5array size = get("%s/batch%d/image_hw", run, which);
    b->x = get("%s/batch%d/images", run, which);
    for (int i = 0; i < IMAGES; i++) {
        b->boxes[i] = get("%s/batch%d/target%d/boxes", run, which, i);
        b->labels[i] = get("%s/batch%d/target%d/labels", run, which, i);
        b->xy[i] = get("%s/batch%d/target%d/masks/xy", run, which, i);
        struct h5array objects = get("%s/batch%d/target%d/masks/inst_ptr", run, which, i),
                       polygons = get("%s/batch%d/target%d/masks/poly_ptr", run, which, i);
        b->polygons[i] = offsets(&objects, 1);
        /* Either of points or of numbers. */
        const bool points = 2 * polygons.values[polygons.count - 1] == (float)b->xy[i].count;
        b->numbers[i] = offsets(&polygons, points ? 2 : 1);
        b->ints[i] = mabn_xcalloc(b->labels[i].count, sizeof(int32_t));
        for (size_t k = 0; k < b->labels[i].count; k++)
            b->ints[i][k] = (int32_t)b->labels[i].values[k];
        b->image[i] = (struct mabn_rcnn_image){.number = (uint64_t)i,
                                               .width = (int)size.values[2 * i + 1],
                                               .height = (int)size.values[2 * i],
                                               .count = (int)b->labels[i].count,
                                               .boxes = b->boxes[i].values,
                                               .labels = b->ints[i],
                                               .first_polygon = b->polygons[i],
                                               .first_number = b->numbers[i],
                                               .numbers = b->xy[i].values};
        free(objects.values);
        free(polygons.values);
    }
    free(size.values);
}

static void free_batch(struct batch *b)
{
    free(b->x.values);
    for (int i = 0; i < IMAGES; i++) {
        free(b->boxes[i].values);
        free(b->labels[i].values);
        free(b->xy[i].values);
        free(b->ints[i]);
        free(b->polygons[i]);
        free(b->numbers[i]);
    }
}

static void fill_input(struct mabn_rcnn *rcnn, const struct batch *b)
{
    float *x;
    const size_t hw = (size_t)(b->x.shape[2] * b->x.shape[3]);
    if (mabn_rcnn_input(rcnn, &x, IMAGES, (int)b->x.shape[2], (int)b->x.shape[3])) abort();
    to_nhwc(x, b->x.values, IMAGES, 3, hw);
}

/* ---- one step ---- */

static void check_proposals(const char *run, int step, const struct mabn_rcnn_trace *t)
{
    for (int i = 0; i < IMAGES; i++) {
        struct h5array want = get("%s/step%d/proposals/%d/boxes", run, step, i);
        const bool count = (size_t)t->counts[i] * 4 == want.count;
        tap_ok(count, "%s, step %d: %lld proposals of image %d", run, step, (long long)t->counts[i],
               i);
        if (count) {
            double error = tap_distance(t->proposals + 4 * i * t->room, want.values, want.count);
            tap_ok(error < 2e-4, "%s, step %d: proposals of image %d: %.1e", run, step, i, error);
        }
        free(want.values);
    }
}

static void check_boxes(const char *run, int step, const struct mabn_rcnn_trace *t)
{
    int64_t row = 0, positive = 0;
    for (int i = 0; i < IMAGES; i++) {
        struct h5array boxes = get("%s/step%d/rois/%d/boxes", run, step, i),
                       labels = get("%s/step%d/rois/%d/labels", run, step, i),
                       deltas = get("%s/step%d/rois/%d/regression_targets", run, step, i),
                       masks = get("%s/step%d/mask_targets/%d", run, step, i);
        bool same = row + (int64_t)labels.count <= t->boxes;
        for (size_t k = 0; same && k < labels.count; k++)
            same = t->label[row + (int64_t)k] == (int32_t)labels.values[k] &&
                   t->image[row + (int64_t)k] == i;
        tap_ok(same, "%s, step %d: sampled boxes and labels of image %d", run, step, i);
        if (same)
            tap_ok(tap_distance(t->box + 4 * row, boxes.values, boxes.count) < 2e-4,
                   "%s, step %d: sampled boxes of image %d", run, step, i);
        size_t differ = 0, pixels = 28 * 28;
        for (size_t k = 0; k < masks.count && positive + (int64_t)masks.shape[0] <= t->positives;
             k++)
            differ += t->masks[(size_t)positive * pixels + k] != (uint8_t)masks.values[k];
        tap_ok(positive + (int64_t)masks.shape[0] <= t->positives && !differ,
               "%s, step %d: targets of masks of image %d: %zu of %zu differ", run, step, i, differ,
               masks.count);
        row += (int64_t)labels.count;
        positive += (int64_t)masks.shape[0];
        free(boxes.values);
        free(labels.values);
        free(deltas.values);
        free(masks.values);
    }
}

static void check_losses(const char *run, int step, const struct mabn_rcnn_figures *f,
                         double tolerance)
{
    for (int k = 0; k < MABN_RCNN_LOSSES; k++) {
        struct h5array want = get("%s/steps/%s", run, mabn_rcnn_loss_names[k]);
        const double error = fabs(f->loss[k] - want.values[step]);
        tap_ok(error <= tolerance * (fabs(want.values[step]) + 1e-3),
               "%s, step %d: %s %.6g, recorded %.6g", run, step, mabn_rcnn_loss_names[k],
               f->loss[k], want.values[step]);
        free(want.values);
    }
}

static void check_gradients(const char *run, int step, struct mabn_params *params,
                            const struct h5array *norms, const struct h5array *errors,
                            char (*names)[96])
{
    /* After a step, rounding decides on which side of zero a ReLU finds some values. */
    const double slack = step ? 1e-2 : 1e-4;
    int wrong = 0, compared = 0;
    double worst = 0;
    const size_t count = (size_t)norms->shape[1];
    for (size_t p = 0; p < count; p++) {
        const int i = mabn_params_find(params, names[p], MABN_PARAMS_GRADIENT);
        size_t n;
        if (i < 0 || !mabn_shape_count(&mabn_params_at(params, i)->shape, &n)) {
            wrong++;
            continue;
        }
        float *g = mabn_xmalloc(n * sizeof *g);
        if (mabn_params_get(params, i, g, n * sizeof *g)) abort();
        double sum = 0, want = norms->values[(size_t)step * count + p];
        for (size_t k = 0; k < n; k++)
            sum += (double)g[k] * g[k];
        const double allowed = slack + 8 * errors->values[(size_t)step * count + p];
        const double error = fabs(sqrt(sum) - want) / (want + 1e-9);
        if (error > allowed) {
            wrong++;
            printf("# %s: |gradient| %.6g, recorded %.6g\n", names[p], sqrt(sum), want);
        }
        if (error > worst) worst = error;
        free(g);
        compared++;
        char path[160];
        snprintf(path, sizeof path, "%s/step%d/grad/%s", run, step, names[p]);
        char group[64];
        snprintf(group, sizeof group, "%s/step%d/grad", run, step);
        if (!there(group) || !there(path)) continue;
        struct h5array full = get("%s", path);
        g = mabn_xmalloc(n * sizeof *g);
        if (mabn_params_get(params, i, g, n * sizeof *g)) abort();
        const double far = tap_distance(g, full.values, n);
        if (far > 10 * slack + 20 * errors->values[(size_t)step * count + p]) {
            printf("# %s: gradient differs by %.1e\n", names[p], far);
            wrong++;
        }
        free(g);
        free(full.values);
    }
    tap_ok(!wrong && compared == (int)count, "%s, step %d: %d gradients, lengths within %.1e", run,
           step, compared, worst);
}

/* ---- testing ---- */

/* Compare masks, except for pixels whose probability is within rounding of a half. */
static void check_masks(const char *test, const struct mabn_rcnn_found *found)
{
    char name[160];
    size_t each, wrong = 0;
    snprintf(name, sizeof name, "%s/rle", test);
    char *want = h5array_strings(file, &each, name);
    struct h5array near = get("%s/rle_closest_to_half", test);
    for (int64_t i = 0; i < found->boxes.count; i++) {
        struct mabn_str got;
        mabn_str_init(&got);
        mabn_rle_to_string(&got, &found->masks[i]);
        const char *w = want + (size_t)i * each;
        const size_t n = strnlen(w, each);
        if ((got.length != n || memcmp(got.text, w, n)) && near.values[i] > 1e-4f) wrong++;
        mabn_str_release(&got);
    }
    tap_ok(!wrong, "%s: masks of %lld detections, %zu differ", test, (long long)found->boxes.count,
           wrong);
    free(want);
    free(near.values);
}

static void check_found(const char *test, const struct mabn_rcnn_found *found)
{
    struct h5array boxes = get("%s/json_bbox", test), scores = get("%s/scores", test),
                   labels = get("%s/labels", test);
    const struct mabn_detections *d = &found->boxes;
    bool same = (size_t)d->count == scores.count;
    tap_ok(same, "%s: %lld detections, recorded %zu", test, (long long)d->count, scores.count);
    double box = 0;
    for (size_t i = 0; same && i < scores.count; i++) {
        const float *b = d->box + 4 * i, *w = boxes.values + 4 * i;
        const float got[4] = {b[0], b[1], b[2] - b[0] + 1, b[3] - b[1] + 1};
        for (int k = 0; k < 4; k++)
            box = fmax(box, fabs((double)got[k] - w[k]));
        if (d->label[i] != (int32_t)labels.values[i]) same = false;
    }
    tap_ok(same && box < 2e-2, "%s: labels, and boxes within %.1e pixels", test, box);
    if (same)
        tap_ok(tap_distance(d->score, scores.values, scores.count) < 1e-4, "%s: scores", test);
    if (same) check_masks(test, found);
    free(boxes.values);
    free(scores.values);
    free(labels.values);
}

static void check_tests(const char *run, const struct mabn_detector *d, struct mabn_params *params)
{
    const struct mabn_rcnn_options options = {.images = 1};
    struct mabn_rcnn *rcnn;
    if (mabn_rcnn_new(&rcnn, device, d, params, &options)) abort();
    for (int t = 0; t < 2; t++) {
        char test[64];
        snprintf(test, sizeof test, "%s/test%d", run, t);
        struct h5array x = get("%s/image", test), size = get("%s/image_hw", test),
                       original = get("%s/original_hw", test);
        const struct mabn_rcnn_image image = {.width = (int)size.values[1],
                                              .height = (int)size.values[0]};
        const struct mabn_rcnn_size whole = {(int)original.values[1], (int)original.values[0]};
        struct mabn_rcnn_found found = {0};
        struct mabn_rcnn_figures figures;
        float *input;
        if (mabn_rcnn_input(rcnn, &input, 1, (int)x.shape[2], (int)x.shape[3])) abort();
        to_nhwc(input, x.values, 1, 3, (size_t)(x.shape[2] * x.shape[3]));
        if (mabn_rcnn_detect(rcnn, &image, &whole, &found, &figures)) {
            printf("Bail out! %s\n", mabn_error_message());
            exit(1);
        }
        check_found(test, &found);
        mabn_rcnn_found_release(&found);
        free(x.values);
        free(size.values);
        free(original.values);
    }
    mabn_rcnn_free(rcnn);
}

/* ---- runs ---- */

static char (*read_names(size_t *count))[96]
{
    hid_t set = H5Dopen2(file, "param_names", H5P_DEFAULT), space = H5Dget_space(set);
    hid_t type = H5Dget_type(set);
    *count = (size_t)H5Sget_simple_extent_npoints(space);
    const size_t size = H5Tget_size(type);
    char *raw = mabn_xcalloc(*count + 1, size), (*names)[96] = mabn_xcalloc(*count, 96);
    if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, raw) < 0) abort();
    for (size_t i = 0; i < *count; i++)
        memcpy(names[i], raw + i * size, size < 95 ? size : 95);
    free(raw);
    H5Tclose(type);
    H5Sclose(space);
    H5Dclose(set);
    return names;
}

static void check_end(const char *run, struct mabn_params *params, char (*names)[96], size_t count)
{
    int wrong = 0;
    for (size_t p = 0; p < count; p++) {
        char path[160];
        snprintf(path, sizeof path, "%s/final/weight/%s", run, names[p]);
        if (!there(path)) continue;
        struct h5array want = get("%s", path);
        const int i = mabn_params_find(params, names[p], MABN_PARAMS_VALUE);
        float *w = mabn_xmalloc(want.count * sizeof *w);
        if (i < 0 || mabn_params_get(params, i, w, want.count * sizeof *w)) abort();
        const double error = tap_distance(w, want.values, want.count);
        if (error > 1e-4) {
            printf("# %s: %.1e\n", names[p], error);
            wrong++;
        }
        free(w);
        free(want.values);
    }
    tap_ok(!wrong, "%s: weights at the end", run);
}

/* All steps, or only the first few on a slow device: MABN_TEST_STEPS; 0: all. */
#ifndef MABN_TEST_STEPS
#define MABN_TEST_STEPS 0
#endif
static int steps_to_try(int all)
{
    const char *text = getenv("MABN_TEST_STEPS");
    const int most = text ? atoi(text) : MABN_TEST_STEPS;
    return most > 0 && most < all ? most : all;
}

static void check_run(const char *folder, const char *run, char (*names)[96], size_t count)
{
    const struct mabn_detector d = describe();
    const struct mabn_rcnn_options options = {
        .training = true, .images = IMAGES, .exact = true, .spread = true};
    struct h5array rate = get("%s/steps/lr", run), norms = get("%s/steps/param_grad_norm", run),
                   errors = get("%s/steps/param_grad_rel_err", run);
    struct mabn_params *params;
    struct mabn_rcnn *rcnn;
    struct batch batch[2];
    char path[512];
    snprintf(path, sizeof path, "%s/det/det_tiny_%s.pth", folder, run);
    if (mabn_params_new(&params, device) || mabn_detector_declare(params, device, &d, true) ||
        mabn_rcnn_new(&rcnn, device, &d, params, &options)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    tap_ok(!load(params, path), "%s: every tensor is in the file", run);
    for (int i = 0; i < 2; i++)
        read_batch(&batch[i], run, i);
    const int steps = steps_to_try((int)rate.count);
    for (int step = 0; step < steps; step++) {
        const struct batch *b = &batch[step % 2];
        struct mabn_params_sgd sgd = {
            .lr = rate.values[step], .momentum = 0.9, .weight_decay = 1e-4};
        struct mabn_rcnn_figures figures;
        struct mabn_rcnn_trace trace;
        fill_input(rcnn, b);
        if (mabn_rcnn_step(rcnn, b->image, (uint64_t)step, &figures)) {
            printf("Bail out! %s\n", mabn_error_message());
            exit(1);
        }
        if (mabn_rcnn_trace(rcnn, &trace)) abort();
        check_losses(run, step, &figures, step ? 1e-3 : 1e-4);
        check_proposals(run, step, &trace);
        check_boxes(run, step, &trace);
        check_gradients(run, step, params, &norms, &errors, names);
        if (mabn_params_update(params, &sgd)) abort();
    }
    if (steps == (int)rate.count) {
        check_end(run, params, names, count);
        check_tests(run, &d, params);
    }
    for (int i = 0; i < 2; i++)
        free_batch(&batch[i]);
    free(rate.values);
    free(norms.values);
    free(errors.values);
    mabn_rcnn_free(rcnn);
    mabn_params_free(params);
}

#ifndef MABN_TEST_DEVICE
#define MABN_TEST_DEVICE "cpu"
#endif

int main(void)
{
    const char *folder = getenv("MABN_GOLDEN"), *word = getenv("MABN_TEST_DEVICE");
    char path[512];
    size_t count;
    snprintf(path, sizeof path, "%s/det/det_tiny_train.h5", folder ? folder : "");
    if (!folder || access(path, R_OK)) {
        tap_skip("MABN_GOLDEN names no folder with det/det_tiny_train.h5");
        return tap_done();
    }
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) return 1;
    if (mabn_device_open(&device, word ? word : MABN_TEST_DEVICE, 2)) {
        tap_skip("%s", mabn_error_message());
        return tap_done();
    }
    char(*names)[96] = read_names(&count);
    check_run(folder, "start", names, count);
    check_run(folder, "late", names, count);
    free(names);
    H5Fclose(file);
    mabn_device_free(device);
    return tap_done();
}
