/* A detector's losses, compared with definitions in double and with losses and gradients recorded
 * from maskrcnn-benchmark ($MABN_GOLDEN); gradients by finite differences; the same bits with any
 * number of threads. */
#include "golden.h"

#include <omp.h>
#include <unistd.h>

#include "base/rng.h"
#include "ops/loss.h"
#include "ops/sigmoid_loss.h"
#include "ops/smooth_l1.h"

static struct mabn_rng rng;

static float *draw(int64_t count, double size)
{
    float *v = malloc(((size_t)count + 1) * sizeof *v);
    for (int64_t i = 0; i < count; i++)
        v[i] = (float)(size * mabn_rng_normal(&rng));
    return v;
}

/* Weights, every third 0. */
static float *draw_weights(int64_t count)
{
    float *v = draw(count, 1);
    for (int64_t i = 0; i < count; i++)
        v[i] = mabn_rng_below(&rng, 3) ? fabsf(v[i]) : 0;
    return v;
}

/* Every fifth −1. */
static int32_t *draw_labels(int64_t count, int64_t classes)
{
    int32_t *v = malloc(((size_t)count + 1) * sizeof *v);
    for (int64_t i = 0; i < count; i++)
        v[i] = i % 5 == 3 ? -1 : (int32_t)mabn_rng_below(&rng, (uint64_t)classes);
    return v;
}

static void judge(const char *name, double loss, double want, double worst)
{
    tap_close(loss, want, 1e-10 * fmax(1, fabs(want)), "%s: value", name);
    tap_ok(worst < 1e-6, "%s: gradient: %.1e", name, worst);
}

/* The same bits whatever the number of threads; `again` runs it with the same arguments. */
#define SAME_BITS(name, loss, dx, count, again)                               \
    do {                                                                      \
        const double loss_ = (loss);                                          \
        const size_t bytes_ = (size_t)(count) * sizeof *(dx);                 \
        float *copy_ = memcpy(malloc(bytes_ + 1), (dx), bytes_);              \
        bool same_ = true;                                                    \
        for (int threads_ = 1; threads_ <= 7; threads_ += 3) {                \
            omp_set_num_threads(threads_);                                    \
            again;                                                            \
            same_ = same_ && loss_ == (loss) && !memcmp(copy_, (dx), bytes_); \
        }                                                                     \
        tap_ok(same_, "%s: the same with 1, 4 and 7 threads", name);          \
        free(copy_);                                                          \
    } while (0)

/* ---- sigmoid ---- */

static double sigmoid_xent(double l, double t)
{
    return -t * log(1 / (1 + exp(-l))) - (1 - t) * log(1 / (1 + exp(l)));
}

static double sigmoid_slope(double l, double t)
{
    return (sigmoid_xent(l + 1e-5, t) - sigmoid_xent(l - 1e-5, t)) / 2e-5;
}

static void check_sigmoid(int64_t count)
{
    float *x = draw(count, 3), *t = draw(count, 1), *w = draw_weights(count), *dx = draw(count, 1);
    const double scale = 0.37;
    double loss = 0, want = 0, worst = 0;

    for (int64_t i = 0; i < count; i++)
        t[i] = i % 4 ? (float)(i % 2) : (float)mabn_rng_uniform(&rng);
    mabn_sigmoid_xent(&loss, dx, x, t, w, count, scale);
    for (int64_t i = 0; i < count; i++) {
        want += scale * w[i] * sigmoid_xent(x[i], t[i]);
        worst = fmax(worst, fabs(dx[i] - scale * w[i] * sigmoid_slope(x[i], t[i])));
    }
    judge("sigmoid cross-entropy", loss, want, worst);
    SAME_BITS("sigmoid cross-entropy", loss, dx, count,
              mabn_sigmoid_xent(&loss, dx, x, t, w, count, scale));
    want = loss;
    mabn_sigmoid_xent(&loss, NULL, x, t, w, count, scale);
    tap_ok(loss == want, "without a gradient");
    mabn_sigmoid_xent(&loss, x, x, t, w, count, scale);
    tap_ok(loss == want && !memcmp(x, dx, (size_t)count * sizeof *x), "in place");
    free(x);
    free(t);
    free(w);
    free(dx);
}

static void test_sigmoid(void)
{
    const float x[4] = {800, -800, NAN, 2}, t[4] = {0, 0, 1, 1}, w[4] = {1, 1, 0, 1};
    float dx[4];
    double loss;
    check_sigmoid(0);
    check_sigmoid(7);
    check_sigmoid(20011);
    mabn_sigmoid_xent(&loss, dx, x, t, w, 3, 1);
    tap_ok(loss == 800 && dx[0] == 1 && dx[1] == 0, "large logits do not overflow");
    tap_ok(dx[2] == 0, "NaN with weight 0 is not looked at");
    mabn_sigmoid_xent(&loss, dx, x, t, NULL, 4, 1);
    tap_ok(isnan(loss) && isnan(dx[2]), "NaN goes through");
}

static void test_mask_left_out(void)
{
    const float x[4] = {1, 2, 3, 4};
    const int32_t labels[2] = {2, -1};
    const uint8_t target[2] = {1, 0};
    float dx[4] = {7, 7, 7, 7};
    double loss;
    mabn_mask_loss(&loss, dx, x, labels, target, 2, 1, 2, 1);
    tap_ok(loss == 0 && dx[0] == 0 && dx[3] == 0, "mask loss: labels out of range are left out");
}

/* Targets between 0 and 1, by the loss of single elements. */
static void check_soft_mask(const float *x, const int32_t *labels, int64_t boxes, int64_t pixels,
                            int64_t classes)
{
    const int64_t count = boxes * pixels;
    float *dx = draw(count * classes, 1), *t = malloc((size_t)(count + 1) * sizeof *t);
    double loss, want = 0, worst = 0;
    for (int64_t i = 0; i < count; i++)
        t[i] = (float)mabn_rng_below(&rng, 101) / 100;
    mabn_soft_mask_loss(&loss, dx, x, labels, t, boxes, pixels, classes, 0.3);
    for (int64_t i = 0; i < count * classes; i++) {
        const int64_t at = i / classes;
        const bool own = labels[at / pixels] == i % classes;
        if (own) want += 0.3 * sigmoid_xent(x[i], t[at]);
        worst = fmax(worst, fabs(dx[i] - (own ? 0.3 * sigmoid_slope(x[i], t[at]) : 0)));
    }
    judge("soft mask loss", loss, want, worst);
    free(dx);
    free(t);
}

static void check_mask(int64_t boxes, int64_t pixels, int64_t classes)
{
    const int64_t count = boxes * pixels;
    float *x = draw(count * classes, 3), *dx = draw(count * classes, 1);
    int32_t *labels = draw_labels(boxes, classes);
    uint8_t *t = malloc((size_t)count + 1);
    const double scale = 1.7;
    double loss, want = 0, worst = 0;

    for (int64_t i = 0; i < count; i++)
        t[i] = (uint8_t)mabn_rng_below(&rng, 2);
    mabn_mask_loss(&loss, dx, x, labels, t, boxes, pixels, classes, scale);
    for (int64_t i = 0; i < count * classes; i++) {
        const int64_t at = i / classes;
        const bool own = labels[at / pixels] == i % classes;
        if (own) want += scale * sigmoid_xent(x[i], t[at]);
        worst = fmax(worst, fabs(dx[i] - (own ? scale * sigmoid_slope(x[i], t[at]) : 0)));
    }
    judge("mask loss", loss, want, worst);
    SAME_BITS("mask loss", loss, dx, count * classes,
              mabn_mask_loss(&loss, dx, x, labels, t, boxes, pixels, classes, scale));
    check_soft_mask(x, labels, boxes, pixels, classes);
    free(x);
    free(dx);
    free(labels);
    free(t);
}

/* ---- smooth L1 ---- */

static double l1(double d, double beta)
{
    return fabs(d) < beta ? 0.5 * d * d / beta : fabs(d) - beta / 2;
}

static void check_smooth_l1(int64_t rows, int64_t groups, double beta)
{
    const int64_t width = 4 * groups;
    float *x = draw(rows * width, 1), *t = draw(4 * rows, 1), *w = draw_weights(rows);
    float *dx = draw(rows * width, 1);
    int32_t *group = draw_labels(rows, groups);
    const struct mabn_smooth_l1 op = {rows, groups, beta, 0.21};
    double loss, want = 0, worst = 0;

    mabn_smooth_l1(&loss, dx, x, t, group, w, &op);
    for (int64_t i = 0; i < rows * width; i++) {
        const int64_t r = i / width, c = i % width;
        const double d = (double)x[i] - t[4 * r + c % 4];
        double slope = (l1(d + 1e-6, beta) - l1(d - 1e-6, beta)) / 2e-6;
        if (c / 4 != group[r]) slope = 0;
        /* The second derivative jumps at beta, the first at 0 when beta is. */
        if (fabs(fabs(d) - beta) < 2e-6) continue;
        if (c / 4 == group[r]) want += op.scale * w[r] * l1(d, beta);
        worst = fmax(worst, fabs(dx[i] - op.scale * w[r] * slope));
    }
    judge("smooth L1", loss, want, worst);
    SAME_BITS("smooth L1", loss, dx, rows * width, mabn_smooth_l1(&loss, dx, x, t, group, w, &op));
    free(x);
    free(t);
    free(w);
    free(dx);
    free(group);
}

static void test_smooth_l1(void)
{
    const float x[8] = {1, 2, 3, 4, 5, 6, 7, 8}, t[4] = {1, 2.5f, 3, 2};
    const int32_t group = 0, background = 2;
    const struct mabn_smooth_l1 l1_op = {1, 1, 0, 1}, two = {1, 2, 0.5, 1};
    float dx[8];
    double loss;

    check_smooth_l1(0, 3, 1);
    check_smooth_l1(5, 1, 1.0 / 9);
    check_smooth_l1(3001, 7, 1);
    check_smooth_l1(513, 2, 0);
    mabn_smooth_l1(&loss, dx, x, t, NULL, NULL, &l1_op);
    tap_ok(loss == 2.5, "beta 0 is L1");
    tap_ok(dx[0] == 0 && dx[1] == -1 && dx[3] == 1, "its gradient is the sign, 0 at 0");
    mabn_smooth_l1(&loss, dx, x, t, &group, NULL, &two);
    tap_ok(loss == 0.25 + 1.75 && dx[1] == -1 && dx[4] == 0 && dx[7] == 0, "one class of two");
    mabn_smooth_l1(&loss, dx, x, t, &background, NULL, &two);
    tap_ok(loss == 0 && dx[0] == 0 && dx[7] == 0, "a group past the last is the background");
}

/* ---- recordings ---- */

static hid_t open_recording(const char *folder, const char *file)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/det/%s", folder, file);
    hid_t id = access(path, R_OK) ? -1 : H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (id < 0) tap_skip("no %s", path);
    return id;
}

#define read_at(group, ...) h5array_read(group, h5array_name(__VA_ARGS__))

/* The recordings carry float32 rounding, so errors are relative to the largest gradient. */
static void against(const char *name, double loss, double want, const float *got,
                    const float *recorded, size_t count)
{
    struct golden_worst worst = {0};
    golden_compare(&worst, "gradient", got, recorded, count, 0, 0);
    tap_close(loss, want, 1e-6 * fabs(want), "%s: value %.9g", name, loss);
    golden_judge(name, &worst, 1);
}

static float *nhwc(const struct h5array *a)
{
    float *out = malloc((a->count + 1) * sizeof *out);
    to_nhwc(out, a->values, a->shape[0], a->shape[1], a->shape[2] * a->shape[3]);
    return out;
}

/* All maps of one kind, level after level, (row, column, anchor): one long array for each image. */
static void join_levels(float *out, hid_t file, const char *kind, size_t per_image)
{
    size_t at = 0;
    for (int l = 2; l <= 6; l++) {
        struct h5array a = read_at(file, "%s/P%d", kind, l);
        float *v = nhwc(&a);
        const size_t one = a.count / a.shape[0];
        for (size_t n = 0; n < a.shape[0]; n++)
            memcpy(out + n * per_image + at, v + n * one, one * sizeof *out);
        at += one;
        free(v);
        free(a.values);
    }
    tap_ok(at == per_image, "%s: %zu values", kind, at);
}

enum { ANCHORS = 12276 };

/* label 1 and 0 with weight 1 where sampled; targets of the positives. Returns the sample's size.
 */
static size_t read_sample(float *label, float *target, float *sampled, float *positive, hid_t file,
                          const char *sample)
{
    size_t size = 0;
    for (int n = 0; n < 2; n++) {
        struct h5array pos = read_at(file, "loss/%s/pos_index/%d", sample, n);
        struct h5array neg = read_at(file, "loss/%s/neg_index/%d", sample, n);
        struct h5array all = read_at(file, "labels/%d", n);
        struct h5array t = read_at(file, "labels/%d_positive_targets", n);
        size_t next = 0;
        for (size_t i = 0; i < ANCHORS; i++)
            if (all.values[i] == 1)
                memcpy(target + 4 * (n * ANCHORS + i), t.values + 4 * next++, 4 * sizeof *target);
        for (size_t i = 0; i < pos.count + neg.count; i++) {
            const bool p = i < pos.count;
            const size_t at =
                (size_t)n * ANCHORS + (size_t)(p ? pos.values[i] : neg.values[i - pos.count]);
            sampled[at] = 1;
            label[at] = positive[at] = p;
        }
        size += pos.count + neg.count;
        free(pos.values);
        free(neg.values);
        free(all.values);
        free(t.values);
    }
    return size;
}

static void check_rpn(hid_t file, const char *sample)
{
    const size_t count = 2 * ANCHORS;
    float *storage = calloc(count * 22, sizeof *storage), *logits = storage;
    float *label = logits + count, *sampled = label + count, *positive = sampled + count;
    float *dlogits = positive + count, *recorded = dlogits + count, *deltas = recorded + count;
    float *target = deltas + 4 * count, *ddeltas = target + 4 * count;
    float *recorded4 = ddeltas + 4 * count;
    char name[100];
    double loss;

    join_levels(logits, file, "objectness", ANCHORS);
    join_levels(deltas, file, "deltas", 4 * ANCHORS);
    const double scale = 1.0 / (double)read_sample(label, target, sampled, positive, file, sample);
    snprintf(name, sizeof name, "loss/%s", sample);
    hid_t g = H5Gopen2(file, name, H5P_DEFAULT);
    snprintf(name, sizeof name, "loss/%s/grad_objectness", sample);
    join_levels(recorded, file, name, ANCHORS);
    mabn_sigmoid_xent(&loss, dlogits, logits, label, sampled, (int64_t)count, scale);
    against(name, loss, h5array_number(g, "loss_objectness64"), dlogits, recorded, count);
    snprintf(name, sizeof name, "loss/%s/grad_deltas", sample);
    join_levels(recorded4, file, name, 4 * ANCHORS);
    const struct mabn_smooth_l1 op = {(int64_t)count, 1, 1.0 / 9, scale};
    mabn_smooth_l1(&loss, ddeltas, deltas, target, NULL, positive, &op);
    against(name, loss, h5array_number(g, "loss_rpn_box_reg64"), ddeltas, recorded4, 4 * count);
    H5Gclose(g);
    free(storage);
}

static void check_box_head(hid_t file, const char *name)
{
    hid_t g = H5Gopen2(file, name, H5P_DEFAULT);
    struct h5array x = h5array_read(g, "class_logits"), dx = h5array_read(g, "grad_class_logits");
    struct h5array b = h5array_read(g, "box_regression");
    struct h5array db = h5array_read(g, "grad_box_regression");
    const int64_t rows = (int64_t)x.shape[0], classes = (int64_t)x.shape[1];
    float *got = draw((int64_t)b.count, 1), *target = draw(4 * rows, 1);
    int32_t *label = malloc((size_t)rows * sizeof *label);
    const struct mabn_smooth_l1 op = {rows, classes, 1, 1.0 / (double)rows};
    double loss;
    size_t at = 0;

    for (int n = 0; n < 2; n++) {
        struct h5array l = read_at(g, "sample_labels/%d", n);
        struct h5array t = read_at(g, "sample_targets/%d", n);
        memcpy(target + 4 * at, t.values, t.count * sizeof *target);
        for (size_t i = 0; i < l.count; i++)
            label[at++] = (int32_t)l.values[i];
        free(l.values);
        free(t.values);
    }
    double *losses = calloc((size_t)rows, sizeof *losses);
    const struct mabn_xent_out out = {.loss = losses, .dlogits = got};
    tap_status(mabn_softmax_xent(&out, x.values, label, rows, classes, 0, op.scale), "%s", name);
    loss = 0;
    for (int64_t r = 0; r < rows; r++)
        loss += op.scale * losses[r];
    free(losses);
    against(name, loss, h5array_number(g, "loss_classifier64"), got, dx.values, x.count);
    for (int64_t r = 0; r < rows; r++)
        if (label[r] == 0) label[r] = -1; /* the background has no box */
    mabn_smooth_l1(&loss, got, b.values, target, label, NULL, &op);
    against(name, loss, h5array_number(g, "loss_box_reg64"), got, db.values, b.count);
    H5Gclose(g);
    free(x.values);
    free(dx.values);
    free(b.values);
    free(db.values);
    free(got);
    free(target);
    free(label);
}

static void check_mask_head(hid_t file)
{
    hid_t g = H5Gopen2(file, "mask_loss", H5P_DEFAULT);
    struct h5array x = h5array_read(g, "mask_logits"), dx = h5array_read(g, "grad_mask_logits");
    const int64_t boxes = (int64_t)x.shape[0], classes = (int64_t)x.shape[1];
    const int64_t pixels = (int64_t)(x.shape[2] * x.shape[3]);
    float *in = nhwc(&x), *want = nhwc(&dx), *got = draw((int64_t)x.count, 1);
    int32_t *label = malloc((size_t)boxes * sizeof *label);
    uint8_t *target = malloc((size_t)(boxes * pixels));
    size_t at = 0, pixel = 0;
    double loss;

    for (int n = 0; n < 2; n++) {
        struct h5array l = read_at(g, "matched_labels/%d", n), t = read_at(g, "targets/%d", n);
        for (size_t i = 0; i < l.count; i++)
            label[at++] = (int32_t)l.values[i];
        for (size_t i = 0; i < t.count; i++)
            target[pixel++] = (uint8_t)t.values[i];
        free(l.values);
        free(t.values);
    }
    mabn_mask_loss(&loss, got, in, label, target, boxes, pixels, classes,
                   1.0 / (double)(boxes * pixels));
    against("mask_loss", loss, h5array_number(g, "loss_mask64"), got, want, x.count);
    H5Gclose(g);
    free(x.values);
    free(dx.values);
    free(in);
    free(want);
    free(got);
    free(label);
    free(target);
}

static void test_recordings(const char *folder)
{
    hid_t file = open_recording(folder, "det_rpn.h5");
    if (file >= 0) {
        check_rpn(file, "random");
        check_rpn(file, "spread");
        H5Fclose(file);
    }
    file = open_recording(folder, "det_heads.h5");
    if (file >= 0) {
        check_box_head(file, "box_loss");
        check_box_head(file, "box_loss_real_batch");
        check_mask_head(file);
        H5Fclose(file);
    }
}

int main(void)
{
    mabn_rng_init(&rng, 13, MABN_RNG_TEST, 0, 0);
    test_sigmoid();
    check_mask(0, 9, 3);
    check_mask(5, 7, 1);
    check_mask(11, 28 * 28, 5);
    test_mask_left_out();
    test_smooth_l1();
    const char *folder = golden_folder();
    if (folder) test_recordings(folder);
    return tap_done();
}
