/* RoIAlign, compared with its definition and with recordings from maskrcnn-benchmark, torchvision
 * and Detectron2 ($MABN_GOLDEN); backward is the transpose of forward; the same bits with any
 * number of threads. */
#include "golden.h"

#include <omp.h>
#include <unistd.h>

#include "draw.h"
#include "ops/roi_align.h"

/* ---- against the definition ---- */

enum { BOXES = 40 };

struct fixture {
    struct mabn_roi_align op;
    float box[4 * BOXES];
    int32_t image[BOXES], level[BOXES];
    struct mabn_rois rois;
    float *x[MABN_ROI_MAX_LEVELS], *dx[MABN_ROI_MAX_LEVELS];
    double *want[MABN_ROI_MAX_LEVELS];
    float *y, *y2, *dy;
    int64_t out;
};

static int64_t map_size(const struct mabn_roi_align *op, int level)
{
    return op->images * op->level[level].h * op->level[level].w * op->channels;
}

/* Boxes inside, over every border, outside, thin, empty, and with corners swapped. */
static void draw_boxes(struct fixture *f)
{
    for (int r = 0; r < BOXES; r++) {
        for (int i = 0; i < 4; i++)
            f->box[4 * r + i] = (float)(mabn_rng_uniform(&rng) * 200 - 50);
        f->image[r] = (int32_t)mabn_rng_below(&rng, (uint64_t)f->op.images);
        f->level[r] = (int32_t)mabn_rng_below(&rng, (uint64_t)f->op.levels);
        if (r % 3) {
            f->box[4 * r + 2] = f->box[4 * r] + (float)mabn_rng_uniform(&rng) * 80;
            f->box[4 * r + 3] = f->box[4 * r + 1] + (float)mabn_rng_uniform(&rng) * 80;
        }
    }
    f->box[2] = f->box[0];
    f->box[4 + 0] = f->box[4 + 1] = 1e4f;
    f->box[4 + 2] = f->box[4 + 3] = 1.1e4f;
    f->box[8 + 0] = f->box[8 + 1] = -20;
    f->box[8 + 2] = f->box[8 + 3] = 200;
}

static void fixture_init(struct fixture *f, int64_t channels, int rows, int columns, int sampling,
                         bool aligned)
{
    memset(f, 0, sizeof *f);
    f->op = (struct mabn_roi_align){.images = 3,
                                    .channels = channels,
                                    .levels = 3,
                                    .level = {{29, 23, 0.25}, {15, 12, 0.125}, {1, 3, 0.03125}},
                                    .rows = rows,
                                    .columns = columns,
                                    .sampling = sampling,
                                    .aligned = aligned};
    draw_boxes(f);
    f->rois = (struct mabn_rois){BOXES, f->box, f->image, f->level};
    f->out = BOXES * rows * columns * channels;
    f->y = draw(f->out);
    f->y2 = draw(f->out);
    f->dy = draw(f->out);
    for (int l = 0; l < f->op.levels; l++) {
        f->x[l] = draw(map_size(&f->op, l));
        f->dx[l] = draw(map_size(&f->op, l));
        f->want[l] = calloc((size_t)map_size(&f->op, l), sizeof **f->want);
    }
}

static void fixture_free(struct fixture *f)
{
    for (int l = 0; l < f->op.levels; l++) {
        free(f->x[l]);
        free(f->dx[l]);
        free(f->want[l]);
    }
    free(f->y);
    free(f->y2);
    free(f->dy);
}

static const float *const *maps(float *const *x)
{
    return (const float *const *)x;
}

static double worst_gradient(const struct fixture *f)
{
    double worst = 0;
    for (int l = 0; l < f->op.levels; l++)
        for (int64_t i = 0; i < map_size(&f->op, l); i++) {
            const double e = fabs(f->dx[l][i] - f->want[l][i]) / fmax(1, fabs(f->want[l][i]));
            if (!(e <= worst)) worst = e;
        }
    return worst;
}

/* <dy, A x> = <A' dy, x>. */
static void check_transpose(const struct fixture *f, const char *name)
{
    double out = 0, in = 0;
    for (int64_t i = 0; i < f->out; i++)
        out += (double)f->dy[i] * f->y2[i];
    for (int l = 0; l < f->op.levels; l++)
        for (int64_t i = 0; i < map_size(&f->op, l); i++)
            in += f->want[l][i] * f->x[l][i];
    tap_close(in, out, 1e-4 * fmax(1, fabs(out)), "%s: backward is the transpose", name);
}

static void check_threads(struct fixture *f, const char *name)
{
    float *copy[MABN_ROI_MAX_LEVELS];
    bool same = true;
    for (int l = 0; l < f->op.levels; l++) {
        const size_t bytes = (size_t)map_size(&f->op, l) * sizeof(float);
        copy[l] = memcpy(malloc(bytes), f->dx[l], bytes);
    }
    for (int threads = 1; threads <= 8; threads += threads == 1 ? 2 : 5) {
        omp_set_num_threads(threads);
        same = same && !mabn_roi_align_forward(f->y2, maps(f->x), &f->rois, &f->op) &&
               !mabn_roi_align_backward(f->dx, f->dy, &f->rois, &f->op, false) &&
               !memcmp(f->y, f->y2, (size_t)f->out * sizeof *f->y);
        for (int l = 0; l < f->op.levels; l++)
            same = same && !memcmp(copy[l], f->dx[l], (size_t)map_size(&f->op, l) * sizeof(float));
    }
    tap_ok(same, "%s: the same with 1, 3 and 8 threads", name);
    for (int l = 0; l < f->op.levels; l++)
        free(copy[l]);
}

static void check_add(struct fixture *f, const char *name)
{
    bool doubled = true;
    tap_status(mabn_roi_align_backward(f->dx, f->dy, &f->rois, &f->op, true), "%s: add", name);
    for (int l = 0; l < f->op.levels; l++)
        for (int64_t i = 0; i < map_size(&f->op, l); i++)
            doubled = doubled &&
                      fabs(f->dx[l][i] - 2 * f->want[l][i]) <= 2e-5 * fmax(1, fabs(f->want[l][i]));
    tap_ok(doubled, "%s: with add, the gradient is added to what is there", name);
}

static void check_definition(int64_t channels, int rows, int columns, int sampling, bool aligned)
{
    struct fixture f;
    char name[100];
    snprintf(name, sizeof name, "%lld channels, %d×%d, sampling %d%s", (long long)channels, rows,
             columns, sampling, aligned ? ", aligned" : "");
    fixture_init(&f, channels, rows, columns, sampling, aligned);
    tap_status(mabn_roi_align_forward(f.y, maps(f.x), &f.rois, &f.op), "%s: forward", name);
    tap_status(mabn_roi_align_backward(f.dx, f.dy, &f.rois, &f.op, false), "%s: backward", name);
    tap_status(mabn_roi_align_forward_reference(f.y2, maps(f.x), &f.rois, &f.op), "%s", name);
    tap_status(mabn_roi_align_backward_reference(f.want, f.dy, &f.rois, &f.op), "%s", name);
    const double y = tap_max_error(f.y, f.y2, (size_t)f.out), dx = worst_gradient(&f);
    tap_ok(y < 1e-6, "%s: y as the definition: %.1e", name, y);
    tap_ok(dx < 1e-5, "%s: dx as the definition: %.1e", name, dx);
    check_transpose(&f, name);
    check_threads(&f, name);
    check_add(&f, name);
    fixture_free(&f);
}

/* ---- edges ---- */

static void test_linear_map(void)
{
    /* Bilinear samples of a plane lie on it, so a bin's value is the plane at its centre. */
    float x[16 * 20], y[4];
    const float box[4] = {8, 4, 40, 36}, *map = x;
    const int32_t image = 0;
    const struct mabn_rois rois = {1, box, &image, NULL};
    struct mabn_roi_align op = {1, 1, 1, {{16, 20, 0.25}}, 2, 2, 2, false};
    for (int i = 0; i < 16 * 20; i++)
        x[i] = (float)(3 * (i / 20) + i % 20);
    tap_status(mabn_roi_align_forward(y, &map, &rois, &op), "a plane");
    tap_ok(y[0] == 3 * 3 + 4 && y[1] == 3 * 3 + 8 && y[2] == 3 * 7 + 4 && y[3] == 3 * 7 + 8,
           "bins of a plane: %g %g %g %g", y[0], y[1], y[2], y[3]);
    op.aligned = true;
    tap_status(mabn_roi_align_forward(y, &map, &rois, &op), "a plane, aligned");
    tap_ok(y[0] == 3 * 2.5f + 3.5f && y[3] == 3 * 6.5f + 7.5f, "aligned: half a pixel back");
}

static void test_edges(void)
{
    struct fixture f;
    bool zero = true;
    fixture_init(&f, 5, 7, 7, 2, false);
    f.rois.count = 0;
    tap_status(mabn_roi_align_forward(NULL, maps(f.x), &f.rois, &f.op), "no boxes: forward");
    tap_status(mabn_roi_align_backward(f.dx, NULL, &f.rois, &f.op, true), "no boxes: add");
    tap_ok(f.dx[0][0] != 0, "no boxes: nothing added");
    tap_status(mabn_roi_align_backward(f.dx, NULL, &f.rois, &f.op, false), "no boxes: backward");
    for (int l = 0; l < f.op.levels; l++)
        for (int64_t i = 0; i < map_size(&f.op, l); i++)
            zero = zero && f.dx[l][i] == 0;
    tap_ok(zero, "no boxes: the gradient is zero");
    f.rois.count = BOXES;
    f.box[4 * 7 + 2] = NAN;
    tap_fails(mabn_roi_align_forward(f.y, maps(f.x), &f.rois, &f.op), MABN_ERR_NONFINITE,
              "box 7 is not finite", "NaN in a box");
    f.box[4 * 7 + 2] = 3e38f;
    tap_status(mabn_roi_align_forward(f.y, maps(f.x), &f.rois, &f.op), "a huge box, sampling 2");
    f.op.sampling = 0;
    tap_fails(mabn_roi_align_backward(f.dx, f.dy, &f.rois, &f.op, false), MABN_ERR_LIMIT, "box 7",
              "a huge box, adaptive");
    f.box[4 * 7 + 2] = 10;
    f.image[9] = 3;
    tap_fails(mabn_roi_align_forward(f.y, maps(f.x), &f.rois, &f.op), MABN_ERR_ARG,
              "box 9: image 3 of 3", "no such image");
    f.image[9] = 0;
    f.level[11] = -1;
    tap_fails(mabn_roi_align_forward(f.y, maps(f.x), &f.rois, &f.op), MABN_ERR_ARG,
              "box 11: level -1 of 3", "no such level");
    fixture_free(&f);
}

/* ---- recordings ---- */

/* Rows of rois (K,5): image, then the box. */
static void split_rois(float *box, int32_t *image, const struct h5array *rois)
{
    for (size_t r = 0; r < rois->shape[0]; r++) {
        image[r] = (int32_t)rois->values[5 * r];
        memcpy(box + 4 * r, rois->values + 5 * r + 1, 4 * sizeof *box);
    }
}

static float *nhwc(const struct h5array *a)
{
    float *out = malloc((a->count + 1) * sizeof *out);
    to_nhwc(out, a->values, a->shape[0], a->shape[1], a->shape[2] * a->shape[3]);
    return out;
}

/* The recorded float32 gradient has an error of its own, from positions rounded to float32 and from
 * long sums. Ours may not be worse. */
static void check_gradient(const float *got, const struct h5array *single,
                           const struct h5array *exact, const char *name)
{
    float *want = nhwc(exact), *theirs = nhwc(single);
    const double e = tap_max_error(got, want, exact->count);
    const double own = tap_max_error(theirs, want, exact->count);
    tap_ok(e < 1.5 * own + 1e-6, "%s: dx: %.1e, the recording itself %.1e", name, e, own);
    free(want);
    free(theirs);
}

/* Largest difference from a recorded (N,C,H,W). */
static double against(const float *got, const struct h5array *want)
{
    float *w = nhwc(want);
    const double worst = tap_max_error(got, w, want->count);
    free(w);
    return worst;
}

static bool bits_equal(const float *got, const struct h5array *want)
{
    float *w = nhwc(want);
    bool same = true;
    for (size_t i = 0; i < want->count; i++)
        same = same && got[i] == w[i];
    free(w);
    return same;
}

static void check_recorded(hid_t g, const char *name)
{
    struct h5array x = h5array_read(g, "x"), y = h5array_read(g, "y"), gy = h5array_read(g, "gy");
    struct h5array gx = h5array_read(g, "gx"), gx64 = h5array_read(g, "gx64");
    struct h5array rois = h5array_read(g, "rois");
    const int64_t k = (int64_t)rois.shape[0];
    float *in = nhwc(&x), *dy = nhwc(&gy), *out = draw((int64_t)y.count);
    float *dx = draw((int64_t)x.count), *box = draw(4 * k);
    int32_t *image = malloc((size_t)k * sizeof *image);
    const struct mabn_roi_align op = {
        (int64_t)x.shape[0],
        (int64_t)x.shape[1],
        1,
        {{(int64_t)x.shape[2], (int64_t)x.shape[3], h5array_number(g, "spatial_scale")}},
        (int)y.shape[2],
        (int)y.shape[3],
        (int)h5array_number(g, "sampling_ratio"),
        false};
    const struct mabn_rois all = {k, box, image, NULL};
    split_rois(box, image, &rois);
    tap_status(mabn_roi_align_forward(out, maps(&in), &all, &op), "%s", name);
    tap_status(mabn_roi_align_backward(&dx, dy, &all, &op, false), "%s", name);
    tap_ok(bits_equal(out, &y), "%s: y bit for bit (%.1e)", name, against(out, &y));
    check_gradient(dx, &gx, &gx64, name);
    struct h5array *arrays[] = {&x, &y, &gy, &gx, &gx64, &rois};
    float *floats[] = {in, dy, out, dx, box};
    for (int i = 0; i < 6; i++)
        free(arrays[i]->values);
    for (int i = 0; i < 5; i++)
        free(floats[i]);
    free(image);
}

/* Four levels at once. */
static void check_pyramid(hid_t g, const char *name)
{
    struct h5array y = h5array_read(g, "y"), gy = h5array_read(g, "gy"), x[4], gx[4];
    struct h5array boxes[2] = {h5array_read(g, "boxes0"), h5array_read(g, "boxes1")};
    struct h5array levels = h5array_read(g, "levels");
    const int64_t k = (int64_t)levels.count;
    float *in[4], *dx[4], *dy = nhwc(&gy), *out = draw((int64_t)y.count), *box = draw(4 * k);
    int32_t *index = calloc((size_t)(2 * k), sizeof *index);
    struct mabn_roi_align op = {
        2, (int64_t)y.shape[1], 4, {{0}}, (int)y.shape[2], (int)y.shape[3], 2, false};
    const struct mabn_rois all = {k, box, index, index + k};

    for (int l = 0; l < 4; l++) {
        char what[8];
        snprintf(what, sizeof what, "x%d", l + 2);
        x[l] = h5array_read(g, what);
        snprintf(what, sizeof what, "gx%d", l + 2);
        gx[l] = h5array_read(g, what);
        in[l] = nhwc(&x[l]);
        dx[l] = draw((int64_t)x[l].count);
        op.level[l] =
            (struct mabn_roi_level){(int64_t)x[l].shape[2], (int64_t)x[l].shape[3], 1.0 / (4 << l)};
    }
    memcpy(box, boxes[0].values, boxes[0].count * sizeof *box);
    memcpy(box + boxes[0].count, boxes[1].values, boxes[1].count * sizeof *box);
    for (int64_t r = 0; r < k; r++) {
        index[r] = r >= (int64_t)boxes[0].shape[0];
        index[k + r] = (int32_t)levels.values[r];
    }
    tap_status(mabn_roi_align_forward(out, maps(in), &all, &op), "%s", name);
    tap_status(mabn_roi_align_backward(dx, dy, &all, &op, false), "%s", name);
    tap_ok(bits_equal(out, &y), "%s: y bit for bit (%.1e)", name, against(out, &y));
    for (int l = 0; l < 4; l++) {
        tap_ok(against(dx[l], &gx[l]) < 1e-5, "%s: dx of level %d: %.1e", name, l,
               against(dx[l], &gx[l]));
        free(x[l].values);
        free(gx[l].values);
        free(in[l]);
        free(dx[l]);
    }
    free(y.values);
    free(gy.values);
    free(boxes[0].values);
    free(boxes[1].values);
    free(levels.values);
    free(dy);
    free(out);
    free(box);
    free(index);
}

static void check_dialect(hid_t g, const char *name, int sampling, bool aligned)
{
    struct h5array x = h5array_read(g, "features"), y = h5array_read(g, name);
    struct h5array rois = h5array_read(g, "rois");
    const int64_t k = (int64_t)rois.shape[0];
    float *in = nhwc(&x), *out = draw((int64_t)y.count), *box = draw(4 * k);
    int32_t *image = malloc((size_t)k * sizeof *image);
    const struct mabn_roi_align op = {(int64_t)x.shape[0],
                                      (int64_t)x.shape[1],
                                      1,
                                      {{(int64_t)x.shape[2], (int64_t)x.shape[3], 0.25}},
                                      (int)y.shape[2],
                                      (int)y.shape[3],
                                      sampling,
                                      aligned};
    const struct mabn_rois all = {k, box, image, NULL};
    split_rois(box, image, &rois);
    tap_status(mabn_roi_align_forward(out, maps(&in), &all, &op), "%s", name);
    tap_ok(bits_equal(out, &y), "%s: y bit for bit (%.1e)", name, against(out, &y));
    free(x.values);
    free(y.values);
    free(rois.values);
    free(in);
    free(out);
    free(box);
    free(image);
}

/* Open a file in the folder's det/. Negative, after printing a skip, when there is none. */
static hid_t open_recording(const char *folder, const char *file)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/det/%s", folder, file);
    hid_t id = access(path, R_OK) ? -1 : H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (id < 0) tap_skip("no %s", path);
    return id;
}

static void test_recorded_alignment(const char *folder)
{
    static const char *const cases[] = {"q7s2", "q14s2", "q7s0", "q2s2", "q5x3s3", "q7s2_coarse"};
    hid_t file = open_recording(folder, "det_roialign.h5");
    if (file < 0) return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[64];
        snprintf(path, sizeof path, "align/%s", cases[i]);
        hid_t g = H5Gopen2(file, path, H5P_DEFAULT);
        check_recorded(g, cases[i]);
        H5Gclose(g);
    }
    for (int i = 0; i < 2; i++) {
        hid_t g = H5Gopen2(file, i ? "pool14" : "pool7", H5P_DEFAULT);
        check_pyramid(g, i ? "pool14" : "pool7");
        H5Gclose(g);
    }
    H5Fclose(file);
}

static void test_recorded_dialects(const char *folder)
{
    hid_t file = open_recording(folder, "dialect_ops.h5");
    if (file < 0) return;
    hid_t g = H5Gopen2(file, "roi_align", H5P_DEFAULT);
    check_dialect(g, "tv_7", 2, false);
    check_dialect(g, "tv_14", 2, false);
    check_dialect(g, "d2_7", 0, true);
    check_dialect(g, "d2_14", 0, true);
    H5Gclose(g);
    H5Fclose(file);
}

int main(void)
{
    mabn_rng_init(&rng, 12, MABN_RNG_TEST, 0, 0);
    check_definition(1, 7, 7, 2, false);
    check_definition(5, 2, 3, 0, true);
    check_definition(17, 5, 3, 3, true);
    check_definition(64, 7, 7, 0, false);
    check_definition(40, 14, 14, 2, false);
    check_definition(3, 1, 1, 1, true);
    test_linear_map();
    test_edges();
    const char *folder = golden_folder();
    if (folder) {
        test_recorded_alignment(folder);
        test_recorded_dialects(folder);
    }
    return tap_done();
}
