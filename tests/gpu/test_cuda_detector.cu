/* A detector's operations on the GPU, compared with the CPU. */
#include "harness.h"
#include "ops/chunks.h"
#include "ops/ops_cuda.h"
#include "ops/sigmoid.h"
#include "ops/sigmoid_loss.h"

static const enum mabn_dtype types[] = {MABN_DTYPE_F32, MABN_DTYPE_BF16, MABN_DTYPE_F16};

#define MUST(expr)                                      \
    do {                                                \
        if (expr) MABN_BUG("%s", mabn_error_message()); \
    } while (0)

/* ---- RoIAlign ---- */

struct boxes {
    std::vector<float> box;
    std::vector<int32_t> image, level;
    struct mabn_rois rois(int64_t count) const
    {
        return {count, box.data(), image.data(), level.data()};
    }
};

/* Inside, over the borders, outside, thin, corners swapped. */
static struct boxes draw_boxes(size_t count, const struct mabn_roi_align &op)
{
    struct boxes b;
    struct mabn_rng rng;
    mabn_rng_init(&rng, 21, MABN_RNG_TEST, count, 0);
    for (size_t r = 0; r < count; r++) {
        const double x = mabn_rng_range(&rng, -30, 100), y = mabn_rng_range(&rng, -30, 100);
        b.box.push_back((float)x);
        b.box.push_back((float)y);
        b.box.push_back((float)(x + mabn_rng_range(&rng, r % 5 ? 0 : -40, 60)));
        b.box.push_back((float)(y + mabn_rng_range(&rng, r % 7 ? 0 : -40, 60)));
        b.image.push_back((int32_t)mabn_rng_below(&rng, (uint64_t)op.images));
        b.level.push_back((int32_t)mabn_rng_below(&rng, (uint64_t)op.levels));
    }
    return b;
}

static size_t map_size(const struct mabn_roi_align &op, int level)
{
    return (size_t)(op.images * op.level[level].h * op.level[level].w * op.channels);
}

/* Room for `room` boxes, of which `live` count. */
static void test_roi_align(const struct mabn_roi_align &op, size_t room, size_t live,
                           enum mabn_dtype dtype)
{
    const size_t one = (size_t)(op.rows * op.columns * op.channels);
    const struct boxes b = draw_boxes(room, op);
    const struct mabn_rois rois = b.rois((int64_t)live);
    gpu_values<float> box(b.box);
    gpu_values<int32_t> image(b.image), level(b.level), count({(int32_t)live});
    const struct mabn_cuda_rois gpu_rois = {(int64_t)room, count.at(), box.at(), image.at(),
                                            level.at()};
    std::vector<float> x[MABN_ROI_MAX_LEVELS], dx[MABN_ROI_MAX_LEVELS], y(room * one);
    std::vector<gpu_array *> gpu_x, gpu_dx;
    const float *x_at[MABN_ROI_MAX_LEVELS];
    float *dx_at[MABN_ROI_MAX_LEVELS];
    const void *gpu_x_at[MABN_ROI_MAX_LEVELS];
    void *gpu_dx_at[MABN_ROI_MAX_LEVELS];
    const std::vector<float> dy = gpu_random(room * one, 2, dtype, 0, 1);
    gpu_array gpu_y(room * one, dtype), gpu_dy(dy, dtype);
    struct gpu_verdict verdict;
    char name[120];

    for (int l = 0; l < op.levels; l++) {
        x[l] = gpu_random(map_size(op, l), 10 + (uint64_t)l, dtype, 0, 1);
        dx[l].resize(map_size(op, l));
        gpu_x.push_back(new gpu_array(x[l], dtype));
        gpu_dx.push_back(new gpu_array(x[l].size(), dtype));
        x_at[l] = x[l].data();
        dx_at[l] = dx[l].data();
        gpu_x_at[l] = gpu_x[(size_t)l]->p;
        gpu_dx_at[l] = gpu_dx[(size_t)l]->p;
    }
    MUST(mabn_roi_align_forward(y.data(), x_at, &rois, &op));
    MUST(mabn_roi_align_backward(dx_at, dy.data(), &rois, &op, false));
    if (mabn_cuda_roi_align_forward(gpu_y.p, gpu_x_at, &gpu_rois, &op, dtype, NULL) ||
        mabn_cuda_roi_align_backward(gpu_dx_at, gpu_dy.p, &gpu_rois, &op, false, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", gpu_y.values(), y, gpu_tolerance(dtype));
    for (int l = 0; l < op.levels; l++)
        verdict.add("dx", gpu_dx[(size_t)l]->values(), dx[l], gpu_tolerance(dtype));
    gpu_order(1);
    if (mabn_cuda_roi_align_backward(gpu_dx_at, gpu_dy.p, &gpu_rois, &op, true, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    gpu_order(0);
    for (int l = 0; l < op.levels; l++) {
        for (float &v : dx[l])
            v *= 2;
        verdict.add("dx, added", gpu_dx[(size_t)l]->values(), dx[l], 2 * gpu_tolerance(dtype));
    }
    if (dtype == MABN_DTYPE_F32 &&
        mabn_cuda_roi_align_backward_atomic((float *const *)gpu_dx_at, (const float *)gpu_dy.p,
                                            &gpu_rois, &op, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    for (int l = 0; l < op.levels; l++) {
        for (float &v : dx[l])
            v *= 1.5f;
        if (dtype == MABN_DTYPE_F32)
            verdict.add("dx, added atomically", gpu_dx[(size_t)l]->values(), dx[l],
                        3 * gpu_tolerance(dtype));
        delete gpu_x[(size_t)l];
        delete gpu_dx[(size_t)l];
    }
    snprintf(name, sizeof name, "RoIAlign %s, %d channels, %dx%d, sampling %d, %d of %d boxes",
             mabn_dtype_name(dtype), (int)op.channels, op.rows, op.columns, op.sampling, (int)live,
             (int)room);
    verdict.print(name);
}

/* Boxes that the CPU refuses: NaN forward, nothing backward. */
static void test_bad_boxes(void)
{
    struct mabn_roi_align op = {1, 3, 1, {{4, 5, 0.5}}, 2, 2, 2, false};
    const std::vector<float> box = {0, 0, 4, NAN, 0, 0, 4, 4, 1, 1, 5, 6};
    gpu_values<float> gpu_box(box);
    gpu_values<int32_t> image({0, 1, 0});
    const struct mabn_cuda_rois rois = {3, NULL, gpu_box.at(), image.at(), NULL};
    const std::vector<float> x = gpu_random(60, 1, MABN_DTYPE_F32, 0, 1);
    const std::vector<float> ones(36, 1.0f);
    gpu_array gpu_x(x, MABN_DTYPE_F32), y(36, MABN_DTYPE_F32), dy(ones, MABN_DTYPE_F32);
    gpu_array dx(60, MABN_DTYPE_F32);
    const void *x_at[] = {gpu_x.p};
    void *dx_at[] = {dx.p};

    MUST(mabn_cuda_roi_align_forward(y.p, x_at, &rois, &op, MABN_DTYPE_F32, NULL));
    MUST(mabn_cuda_roi_align_backward(dx_at, dy.p, &rois, &op, false, MABN_DTYPE_F32, NULL));
    double sum = 0;
    for (float v : dx.values())
        sum += v;
    MUST(mabn_cuda_roi_align_backward_atomic((float *const *)dx_at, (const float *)dy.p, &rois, &op,
                                             NULL));
    double twice = 0;
    for (float v : dx.values())
        twice += v;
    const std::vector<float> got = y.values();
    tap_ok(std::isnan(got[0]) && std::isnan(got[12]) && !std::isnan(got[24]),
           "boxes that are not finite, or in no image, show as NaN");
    tap_close(sum, 12, 1e-5, "and get no gradient");
    tap_close(twice, 24, 1e-5, "nor by atomic additions");
    op.rows = 33;
    tap_fails(mabn_cuda_roi_align_forward(y.p, x_at, &rois, &op, MABN_DTYPE_F32, NULL),
              MABN_ERR_ARG, "33", "too many bins");
}

/* ---- maps ---- */

static void test_upsample(const struct mabn_upsample &s, enum mabn_dtype dtype)
{
    const size_t small = (size_t)(s.n * s.h * s.w * s.c);
    const size_t large = (size_t)(s.n * s.out_h * s.out_w * s.c);
    const std::vector<float> a = gpu_random(large, 3, dtype, 0, 1);
    const std::vector<float> b = gpu_random(small, 4, dtype, 0, 1);
    std::vector<float> y(large), db(small);
    gpu_array gpu_a(a, dtype), gpu_b(b, dtype), gpu_db(small, dtype), gpu_y(large, dtype);
    struct gpu_verdict verdict;

    mabn_upsample_add(y.data(), a.data(), b.data(), &s, MABN_DTYPE_F32);
    mabn_upsample_backward(db.data(), a.data(), &s, false, MABN_DTYPE_F32);
    if (mabn_cuda_upsample_add(gpu_y.p, gpu_a.p, gpu_b.p, &s, dtype, NULL) ||
        mabn_cuda_upsample_backward(gpu_db.p, gpu_a.p, &s, false, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", gpu_y.values(), y, gpu_tolerance(dtype));
    verdict.add("db", gpu_db.values(), db, gpu_tolerance(dtype));
    db = b;
    mabn_upsample_backward(db.data(), a.data(), &s, true, MABN_DTYPE_F32);
    if (mabn_cuda_upsample_backward(gpu_b.p, gpu_a.p, &s, true, dtype, NULL) ||
        mabn_cuda_upsample_add(gpu_a.p, gpu_a.p, gpu_b.p, &s, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("db, added", gpu_b.values(), db, gpu_tolerance(dtype));
    mabn_upsample_add(y.data(), a.data(), gpu_b.values().data(), &s, MABN_DTYPE_F32);
    verdict.add("y in place", gpu_a.values(), y, gpu_tolerance(dtype));
    verdict.print("upsampling with addition");
}

/* The matrix product is computed here, in double. */
static void test_interleave(const struct mabn_transposed_conv &op, bool relu, enum mabn_dtype dtype)
{
    const size_t rows = (size_t)(op.n * op.h * op.w), width = (size_t)(4 * op.out);
    const std::vector<float> x = gpu_random(rows * (size_t)op.in, 7, MABN_DTYPE_F32, 0, 1);
    const std::vector<float> w = gpu_random(width * (size_t)op.in, 8, MABN_DTYPE_F32, 0, 1);
    const std::vector<float> bias = gpu_random((size_t)op.out, 9, MABN_DTYPE_F32, 0, 1);
    std::vector<float> g(rows * width), y(rows * width);
    std::vector<uint8_t> scratch(mabn_transposed_conv_scratch_bytes(op.out));
    struct gpu_verdict verdict;

    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < width; j++) {
            double sum = 0;
            for (size_t c = 0; c < (size_t)op.in; c++)
                sum += (double)x[r * (size_t)op.in + c] * w[c * width + j];
            g[r * width + j] = gpu_round((float)sum, dtype);
        }
    MUST(mabn_transposed_conv_forward(y.data(), x.data(), w.data(), bias.data(), &op, relu,
                                      scratch.data()));
    gpu_array gpu_g(g, dtype), gpu_y(y.size(), dtype), back(g.size(), dtype);
    gpu_values<float> gpu_bias(bias);
    if (mabn_cuda_interleave(gpu_y.p, gpu_g.p, gpu_bias.at(), &op, relu, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", gpu_y.values(), y, 4 * gpu_tolerance(dtype));
    if (mabn_cuda_interleave(gpu_y.p, gpu_g.p, NULL, &op, false, dtype, NULL) ||
        mabn_cuda_deinterleave(back.p, gpu_y.p, &op, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("there and back", back.values(), g, 0);
    verdict.print("around a transposed convolution");
}

static void test_sigmoid(size_t count, enum mabn_dtype dtype)
{
    std::vector<float> x = gpu_random(count, 11, dtype, 0, 3), y(count), dx(count);
    const std::vector<float> dy = gpu_random(count, 12, dtype, 0, 1);
    x[0] = INFINITY;
    x[1] = -INFINITY;
    x[2] = NAN;
    gpu_array gpu_x(x, dtype), gpu_y(count, dtype), gpu_dy(dy, dtype), gpu_dx(count, dtype);
    struct gpu_verdict verdict;

    mabn_sigmoid(y.data(), x.data(), (int64_t)count, MABN_DTYPE_F32);
    if (mabn_cuda_sigmoid(gpu_y.p, gpu_x.p, (int64_t)count, dtype, NULL) ||
        mabn_cuda_sigmoid_backward(gpu_dx.p, gpu_dy.p, gpu_y.p, (int64_t)count, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", gpu_y.values(), y, gpu_tolerance(dtype));
    mabn_sigmoid_backward(dx.data(), dy.data(), gpu_y.values().data(), (int64_t)count,
                          MABN_DTYPE_F32);
    verdict.add("dx", gpu_dx.values(), dx, gpu_tolerance(dtype));
    verdict.print("sigmoid");
}

/* ---- losses ---- */

/* Weights, every third 0; labels, every fifth −1. */
static std::vector<float> draw_weights(size_t count)
{
    std::vector<float> w = gpu_random(count, 13, MABN_DTYPE_F32, 2, 0.5);
    for (size_t i = 0; i < count; i += 3)
        w[i] = 0;
    return w;
}

static std::vector<int32_t> draw_labels(size_t count, int64_t classes)
{
    std::vector<int32_t> labels;
    for (size_t i = 0; i < count; i++)
        labels.push_back(i % 5 == 3 ? -1 : (int32_t)((int64_t)i * 7 % classes));
    return labels;
}

/* Compare the results of a loss on the GPU with the CPU's. */
struct loss_output {
    gpu_values<double> loss{std::vector<double>(1)}, parts{std::vector<double>(MABN_CHUNKS)};
    gpu_values<float> scale{std::vector<float>{0.25f}};
    gpu_array gradient;
    struct mabn_cuda_loss out;

    loss_output(size_t count, enum mabn_dtype dtype) : gradient(count, dtype)
    {
        out = {loss.at(), parts.at(), gradient.p, scale.at()};
    }
    /* want: the CPU's, with scale 0.25 */
    void judge(const char *name, double want, const std::vector<float> &want_gradient)
    {
        struct gpu_verdict verdict;
        verdict.add("loss", fabs(0.25 * loss.values()[0] - want), 1e-12 * (1 + fabs(want)));
        verdict.add("gradient", gradient.values(), want_gradient, gpu_tolerance(gradient.dtype));
        verdict.print(name);
    }
};

static void test_sigmoid_xent(size_t count, enum mabn_dtype dtype)
{
    const std::vector<float> w = draw_weights(count);
    std::vector<float> x = gpu_random(count, 14, MABN_DTYPE_F32, 0, 3), target(count),
                       gradient(count);
    double want;
    if (count) x[0] = NAN; /* its weight is 0: it must not be read */
    for (size_t i = 0; i < count; i++)
        target[i] = (float)(i % 4) / 3;
    gpu_values<float> gpu_x(x);
    gpu_values<float> gpu_target(target), gpu_w(w);
    loss_output got(count, dtype);

    mabn_sigmoid_xent(&want, gradient.data(), x.data(), target.data(), w.data(), (int64_t)count,
                      0.25);
    MUST(mabn_cuda_sigmoid_xent(&got.out, gpu_x.at(), gpu_target.at(), gpu_w.at(), (int64_t)count,
                                dtype, NULL));
    got.judge("sigmoid cross-entropy", want, gradient);
    got.out.gradient = NULL;
    got.out.scale = NULL;
    MUST(mabn_cuda_sigmoid_xent(&got.out, gpu_x.at(), gpu_target.at(), gpu_w.at(), (int64_t)count,
                                dtype, NULL));
    tap_ok(fabs(0.25 * got.loss.values()[0] - want) <= 1e-12 * (1 + fabs(want)),
           "without a gradient");
}

static void test_mask_loss(int64_t boxes, int64_t pixels, int64_t classes, enum mabn_dtype dtype)
{
    const size_t count = (size_t)(boxes * pixels * classes);
    const std::vector<float> x = gpu_random(count, 15, MABN_DTYPE_F32, 0, 3);
    const std::vector<int32_t> labels = draw_labels((size_t)boxes, classes);
    std::vector<uint8_t> target((size_t)(boxes * pixels));
    std::vector<float> gradient(count);
    double want;
    for (size_t i = 0; i < target.size(); i++)
        target[i] = i / 3 % 2;
    gpu_values<float> gpu_x(x);
    gpu_values<int32_t> gpu_labels(labels);
    gpu_values<uint8_t> gpu_target(target);
    loss_output got(count, dtype);

    mabn_mask_loss(&want, gradient.data(), x.data(), labels.data(), target.data(), boxes, pixels,
                   classes, 0.25);
    MUST(mabn_cuda_mask_loss(&got.out, gpu_x.at(), gpu_labels.at(), gpu_target.at(), boxes, pixels,
                             classes, dtype, NULL));
    got.judge("mask loss", want, gradient);
}

static void test_smooth_l1(int64_t rows, int64_t groups, double beta, enum mabn_dtype dtype)
{
    const size_t count = (size_t)(rows * 4 * groups);
    const struct mabn_smooth_l1 op = {rows, groups, beta, 0.25};
    const std::vector<float> x = gpu_random(count, 16, MABN_DTYPE_F32, 0, 1);
    const std::vector<float> target = gpu_random((size_t)(4 * rows), 17, MABN_DTYPE_F32, 0, 1);
    const std::vector<float> w = draw_weights((size_t)rows);
    const std::vector<int32_t> group = draw_labels((size_t)rows, groups);
    std::vector<float> gradient(count);
    double want;
    gpu_values<float> gpu_x(x);
    gpu_values<float> gpu_target(target), gpu_w(w);
    gpu_values<int32_t> gpu_group(group);
    loss_output got(count, dtype);

    mabn_smooth_l1(&want, gradient.data(), x.data(), target.data(), group.data(), w.data(), &op);
    MUST(mabn_cuda_smooth_l1(&got.out, gpu_x.at(), gpu_target.at(), gpu_group.at(), gpu_w.at(), &op,
                             dtype, NULL));
    got.judge("smooth L1", want, gradient);
}

int main(void)
{
    if (!gpu_ready()) return tap_done();
    const struct mabn_roi_align narrow = {2, 5, 2, {{13, 10, 0.25}, {7, 5, 0.125}}, 3, 4, 2, false};
    struct mabn_roi_align wide = {2, 16, 3, {{13, 18, 0.25}, {7, 9, 0.125}, {1, 2, 0.02}},
                                  7, 7,  0, true};
    for (enum mabn_dtype dtype : types) {
        test_roi_align(narrow, 9, 7, dtype);
        test_roi_align(wide, 20, 20, dtype);
        test_upsample({2, 16, 3, 4, 5, 8}, dtype);
        test_upsample({1, 5, 4, 3, 8, 6}, dtype);
        test_interleave({2, 3, 4, 6, 8}, true, dtype);
        test_interleave({1, 2, 5, 3, 3}, false, dtype);
        test_sigmoid(1000, dtype);
        test_sigmoid_xent(3001, dtype);
        test_mask_loss(6, 49, 5, dtype);
        test_smooth_l1(333, 3, 1, dtype);
        test_smooth_l1(50, 1, 0, dtype);
    }
    wide.sampling = 2;
    wide.aligned = false;
    test_roi_align(wide, 300, 290, MABN_DTYPE_F32); /* more boxes than a block has threads */
    test_roi_align(narrow, 4, 0, MABN_DTYPE_F32);
    test_sigmoid_xent(0, MABN_DTYPE_F32);
    test_bad_boxes();
    return tap_done();
}
