/* The small operations on the GPU, compared with the CPU. */
#include <algorithm>

#include "base/mem.h"
#include "harness.h"
#include "image/bilinear.h"
#include "image/finish.h"
#include "image/raw.h"
#include "image/resize.h"
#include "ops/centralize.h"
#include "ops/loss.h"
#include "ops/ops_cuda.h"
#include "ops/pool.h"
#include "ops/sgd.h"

static const enum mabn_dtype types[] = {MABN_DTYPE_F32, MABN_DTYPE_BF16, MABN_DTYPE_F16};

static void test_maxpool(const struct mabn_pool_shape s, enum mabn_dtype dtype)
{
    const int64_t oh = mabn_pool_out(s.h, s.kernel, s.stride, s.pad);
    const int64_t ow = mabn_pool_out(s.w, s.kernel, s.stride, s.pad);
    const size_t in = (size_t)(s.n * s.h * s.w * s.c), out = (size_t)(s.n * oh * ow * s.c);
    std::vector<float> x = gpu_random(in, 1, dtype, 0, 1), dy = gpu_random(out, 2, dtype, 0, 1);
    std::vector<float> y(out), dx(in);
    std::vector<uint8_t> winner(out);
    char name[120];
    struct gpu_verdict verdict;

    for (size_t i = 0; i < in; i += 3)
        x[i] = x[0]; /* equal values: the first wins */
    x[in / 2] = NAN;
    gpu_array gpu_x(x, dtype), gpu_y(out, dtype), gpu_dy(dy, dtype), gpu_dx(in, dtype);
    gpu_values<uint8_t> gpu_winner(winner);
    if (mabn_maxpool_forward(y.data(), winner.data(), x.data(), &s, MABN_DTYPE_F32) ||
        mabn_maxpool_backward(dx.data(), dy.data(), winner.data(), &s, MABN_DTYPE_F32))
        MABN_BUG("%s", mabn_error_message());
    if (mabn_cuda_maxpool_forward(gpu_y.p, gpu_winner.at(), gpu_x.p, &s, dtype, NULL) ||
        mabn_cuda_maxpool_backward(gpu_dx.p, gpu_dy.p, gpu_winner.at(), &s, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", gpu_y.values(), y, 0);
    verdict.add("winner", gpu_winner.values() == winner ? 0 : 1, 0);
    verdict.add("dx", gpu_dx.values(), dx, gpu_tolerance(dtype));
    gpu_array only(out, dtype);
    if (mabn_cuda_maxpool_forward(only.p, NULL, gpu_x.p, &s, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y without winners", only.values(), y, 0);
    snprintf(name, sizeof name, "max pool %s %dx%dx%dx%d, %d/%d pad %d", mabn_dtype_name(dtype),
             (int)s.n, (int)s.h, (int)s.w, (int)s.c, s.kernel, s.stride, s.pad);
    verdict.print(name);
}

static void test_avgpool(int64_t n, int64_t hw, int64_t c, enum mabn_dtype dtype)
{
    const size_t in = (size_t)(n * hw * c), out = (size_t)(n * c);
    const std::vector<float> x = gpu_random(in, 3, dtype, 0, 1),
                             dy = gpu_random(out, 4, dtype, 0, 1);
    std::vector<float> y(out), dx(in);
    gpu_array gpu_x(x, dtype), gpu_y(out, dtype), gpu_dy(dy, dtype), gpu_dx(in, dtype);
    struct gpu_verdict verdict;

    mabn_avgpool_forward(y.data(), x.data(), n, hw, c, MABN_DTYPE_F32);
    mabn_avgpool_backward(dx.data(), dy.data(), n, hw, c, MABN_DTYPE_F32);
    if (mabn_cuda_avgpool_forward(gpu_y.p, gpu_x.p, n, hw, c, dtype, NULL) ||
        mabn_cuda_avgpool_backward(gpu_dx.p, gpu_dy.p, n, hw, c, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", gpu_y.values(), y, gpu_tolerance(dtype));
    verdict.add("dx", gpu_dx.values(), dx, gpu_tolerance(dtype));
    verdict.print(c == 5 ? "average pool, 5 channels" : "average pool");
}

static void test_loss(int64_t n, int64_t classes, double smoothing, enum mabn_dtype dtype)
{
    const size_t count = (size_t)(n * classes);
    std::vector<float> logits = gpu_random(count, 5, MABN_DTYPE_F32, 0, 3);
    std::vector<int32_t> labels, rank((size_t)n);
    std::vector<double> loss((size_t)n);
    std::vector<float> dlogits(count);
    struct mabn_xent_out want = {loss.data(), NULL, dlogits.data()};
    struct mabn_cuda_xent_total total = {};
    struct gpu_verdict verdict;

    for (int64_t i = 0; i < n; i++)
        labels.push_back((int32_t)(i % 4 == 3 ? -1 : (i * 7) % classes));
    logits[1] = logits[0];
    const int64_t have = std::count_if(labels.begin(), labels.end(), [](int l) { return l >= 0; });
    if (mabn_softmax_xent(&want, logits.data(), labels.data(), n, classes, smoothing,
                          4.0 / (double)have))
        MABN_BUG("%s", mabn_error_message());
    double sum = 0;
    int64_t labelled = 0, top1 = 0, top5 = 0;
    for (int64_t i = 0; i < n; i++) {
        rank[i] = mabn_label_rank(&logits[i * classes], classes, labels[i]);
        sum += loss[i];
        labelled += rank[i] >= 0;
        top1 += rank[i] == 0;
        top5 += rank[i] >= 0 && rank[i] < 5;
    }

    gpu_values<float> gpu_logits(logits);
    gpu_values<int32_t> gpu_labels(labels), gpu_rank(rank);
    gpu_values<double> gpu_loss(loss);
    gpu_values<float> share({0.0f}), loss_scale({4.0f}), normalizer({(float)have});
    gpu_array gpu_dlogits(count, dtype);
    gpu_bytes gpu_total(sizeof total);
    struct mabn_cuda_xent out = {gpu_loss.at(), gpu_rank.at(), gpu_dlogits.p,
                                 (struct mabn_cuda_xent_total *)gpu_total.p};
    if (mabn_cuda_loss_share(share.at(), normalizer.at(), loss_scale.at(), NULL) ||
        mabn_cuda_softmax_xent(&out, gpu_logits.at(), gpu_labels.at(), n, classes, smoothing,
                               share.at(), dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    const std::vector<double> got = gpu_loss.values();
    for (int64_t i = 0; i < n; i++)
        verdict.add("loss", fabs(got[i] - loss[i]), 1e-10);
    verdict.add("rank", gpu_rank.values() == rank ? 0 : 1, 0);
    verdict.add("dlogits", gpu_dlogits.values(), dlogits, gpu_tolerance(dtype));
    gpu_total.get(&total);
    verdict.add("total", fabs(total.loss - sum), 1e-9);
    verdict.add("counts", total.labelled != labelled || total.top1 != top1 || total.top5 != top5,
                0);
    verdict.print("softmax cross-entropy");

    labels[0] = (int32_t)classes;
    gpu_labels.put(labels.data());
    if (mabn_cuda_softmax_xent(&out, gpu_logits.at(), gpu_labels.at(), n, classes, smoothing,
                               share.at(), dtype, NULL))
        MABN_BUG("%s", mabn_error_message());
    gpu_total.get(&total);
    tap_ok(isnan(total.loss) && isnan(gpu_dlogits.values()[0]),
           "a label out of range shows as NaN");
    const float none = 0;
    normalizer.put(&none);
    if (mabn_cuda_loss_share(share.at(), normalizer.at(), NULL, NULL))
        MABN_BUG("%s", mabn_error_message());
    tap_ok(share.values()[0] == 0, "no label: no gradient");
}

static void test_centralize(int64_t outputs, int64_t filter, enum mabn_dtype dtype)
{
    const size_t count = (size_t)(outputs * filter);
    const std::vector<float> w = gpu_random(count, 6, MABN_DTYPE_F32, 1, 1);
    std::vector<float> want(count);
    gpu_values<float> weight(w);
    gpu_array work(count, dtype);
    struct gpu_verdict verdict;

    mabn_centralize(want.data(), w.data(), outputs, filter);
    if (mabn_cuda_cast_weight(work.p, weight.at(), outputs, filter, true, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("centralized", work.values(), want, gpu_tolerance(dtype));
    if (mabn_cuda_cast_weight(work.p, weight.at(), outputs, filter, false, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("cast", work.values(), w, gpu_tolerance(dtype));
    if (mabn_cuda_cast_weight(weight.at(), weight.at(), outputs, filter, true, MABN_DTYPE_F32,
                              NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("in place", weight.values(), want, 1e-5);
    verdict.print("weight centralization and cast");
}

/* Three steps over a list of parameters of every kind. */
static void test_sgd(bool nesterov, bool reference, enum mabn_dtype dtype)
{
    static const struct {
        int64_t count, filters;
    } shapes[] = {{5 * 12, 5}, {7 * 9, 7}, {4100, 0}, {33, 0}, {3 * 700, 3}, {0, 0}};
    constexpr int COUNT = 6;
    std::vector<float> p[COUNT], buffer[COUNT], grad[COUNT];
    std::vector<struct mabn_sgd_param> want(COUNT);
    std::vector<struct mabn_cuda_sgd_param> got(COUNT);
    std::vector<gpu_values<float> *> kept;
    std::vector<gpu_array *> works;
    struct mabn_cuda_sgd_rates rates = {0.1f, 0.9f, 0.25f};
    struct mabn_sgd_options options;
    struct gpu_verdict verdict;

    for (int i = 0; i < COUNT; i++) {
        const size_t n = (size_t)shapes[i].count;
        p[i] = gpu_random(n, 100 + i, MABN_DTYPE_F32, 0, 1);
        grad[i] = gpu_random(n, 200 + i, MABN_DTYPE_F32, 0.5, 1);
        buffer[i].assign(n, 0);
        const float factor = i % 2 ? 2.0f : 1.0f, decay = i == 3 ? 0 : 0.01f;
        want[i] = {p[i].data(),       buffer[i].data(), grad[i].data(), (int64_t)n,
                   shapes[i].filters, factor,           decay};
        for (const std::vector<float> *v : {&p[i], &buffer[i], &grad[i]})
            kept.push_back(new gpu_values<float>(*v));
        works.push_back(new gpu_array(n, dtype));
        got[i] = {kept[i * 3]->at(),
                  kept[i * 3 + 1]->at(),
                  kept[i * 3 + 2]->at(),
                  i == 3 ? NULL : works[i]->p,
                  dtype,
                  (int64_t)n,
                  shapes[i].filters,
                  factor,
                  decay};
    }
    std::vector<struct mabn_cuda_sgd_piece> pieces(
        (size_t)mabn_cuda_sgd_cut(NULL, got.data(), COUNT));
    mabn_cuda_sgd_cut(pieces.data(), got.data(), COUNT);
    gpu_values<struct mabn_cuda_sgd_param> gpu_params(got);
    gpu_values<struct mabn_cuda_sgd_piece> gpu_pieces(pieces);
    gpu_values<struct mabn_cuda_sgd_rates> gpu_rates({rates});

    mabn_sgd_options_init(&options);
    options.momentum = rates.momentum;
    options.grad_scale = rates.grad_scale;
    options.nesterov = nesterov;
    options.reference = reference;
    for (int step = 0; step < 3; step++) {
        gpu_order(step);
        mabn_sgd_step(&options, 0.1, want.data(), COUNT);
        if (mabn_cuda_sgd_step(gpu_params.at(), gpu_pieces.at(), (int64_t)pieces.size(),
                               gpu_rates.at(), NULL, nesterov, reference, NULL))
            verdict.add(mabn_error_message(), 1, 0);
    }
    gpu_order(0);
    for (int i = 0; i < COUNT; i++) {
        verdict.add("parameter", kept[i * 3]->values(), p[i], 1e-5);
        verdict.add("momentum", kept[i * 3 + 1]->values(), buffer[i], 1e-5);
        std::vector<float> work = p[i];
        if (shapes[i].filters)
            mabn_centralize(work.data(), p[i].data(), shapes[i].filters,
                            shapes[i].count / shapes[i].filters);
        if (i != 3) verdict.add("work copy", works[i]->values(), work, gpu_tolerance(dtype));
    }
    for (gpu_values<float> *v : kept)
        delete v;
    for (gpu_array *v : works)
        delete v;
    verdict.print(reference ? "SGD, the reference's order" : nesterov ? "SGD, Nesterov" : "SGD");
}

/* A step with an overflow between two without is skipped, and the scale is halved; later it is
 * doubled. */
static void test_scaler(void)
{
    const struct mabn_cuda_sgd_rates rates = {0.5f, 0, 1};
    constexpr size_t COUNT = 4099;
    std::vector<float> gradient(COUNT, 65536.0f);
    gpu_values<float> param(std::vector<float>(COUNT, 3.0f)),
        buffer(std::vector<float>(COUNT, 0.0f));
    gpu_values<float> grad(gradient);
    gpu_values<struct mabn_cuda_sgd_rates> gpu_rates({rates});
    gpu_values<struct mabn_cuda_scaler> scaler(std::vector<struct mabn_cuda_scaler>(1));
    struct mabn_cuda_sgd_param p = {};
    struct gpu_verdict verdict;

    p.param = param.at();
    p.buffer = buffer.at();
    p.grad = grad.at();
    p.count = COUNT;
    p.lr_factor = 1;
    std::vector<struct mabn_cuda_sgd_piece> pieces((size_t)mabn_cuda_sgd_cut(NULL, &p, 1));
    mabn_cuda_sgd_cut(pieces.data(), &p, 1);
    gpu_values<struct mabn_cuda_sgd_param> gpu_p({p});
    gpu_values<struct mabn_cuda_sgd_piece> gpu_pieces(pieces);
    struct mabn_cuda_scaler *s = scaler.at();
    auto step = [&](size_t at, float value, size_t offset) {
        std::vector<float> g = gradient;
        g[at] = value;
        grad.put(g.data());
        if (mabn_cuda_gradients_finite(&s->overflow, grad.at() + offset, (int64_t)(COUNT - offset),
                                       NULL) ||
            mabn_cuda_sgd_step(gpu_p.at(), gpu_pieces.at(), (int64_t)pieces.size(), gpu_rates.at(),
                               s, false, false, NULL) ||
            mabn_cuda_scaler_update(s, NULL))
            verdict.add(mabn_error_message(), 1, 0);
        return scaler.values()[0];
    };

    if (mabn_cuda_scaler_init(s, NULL)) verdict.add(mabn_error_message(), 1, 0);
    struct mabn_cuda_scaler now = step(0, 65536, 0);
    verdict.add("good step", now.scale != 65536 || now.good != 1 || now.skipped_last, 0);
    verdict.add("unscaled", param.values(), std::vector<float>(COUNT, 2.5f), 0);
    /* Sizes around the ends of threads, vectors and remainders; also from an address that is not
     * aligned. */
    const size_t places[] = {0, 3, 1023, 4095, 4096, COUNT - 1};
    for (size_t i = 0; i < 6; i++) {
        now = step(places[i], i % 2 ? -INFINITY : NAN, i == 0 ? 0 : i % 2);
        verdict.add("skipped", !now.skipped_last || now.good || now.overflow, 0);
        verdict.add("count", now.skipped != (int64_t)i + 1, 0);
    }
    verdict.add("halved", now.scale != 1024 || now.inverse != 1 / 1024.0f, 0);
    verdict.add("nothing touched", param.values(), std::vector<float>(COUNT, 2.5f), 0);
    now.good = 1999;
    scaler.put(&now);
    now = step(0, 3e38f, 0);
    verdict.add("doubled", now.scale != 2048 || now.good || now.skipped_last, 0);
    verdict.print("loss scaling");
}

static void test_padding(int64_t outputs, int64_t taps, int channels, int padded,
                         enum mabn_dtype dtype)
{
    const size_t count = (size_t)(outputs * taps * channels);
    const std::vector<float> w = gpu_random(count, 7, MABN_DTYPE_F32, 1, 1);
    std::vector<float> mean(count), want((size_t)(outputs * taps * padded));
    gpu_values<float> weight(w), back(mean);
    gpu_array work(want.size(), dtype), same(want.size(), MABN_DTYPE_F32);
    struct gpu_verdict verdict;

    mabn_centralize(mean.data(), w.data(), outputs, taps * channels);
    for (size_t i = 0; i < want.size(); i++)
        if ((int)i % padded < channels) want[i] = mean[i / padded * channels + i % padded];
    if (mabn_cuda_pad_weight(work.p, weight.at(), outputs, taps, channels, padded, true, dtype,
                             NULL) ||
        mabn_cuda_pad_weight(same.p, weight.at(), outputs, taps, channels, padded, false,
                             MABN_DTYPE_F32, NULL) ||
        mabn_cuda_unpad_gradient(back.at(), (const float *)same.p, outputs, taps, channels, padded,
                                 NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("padded", work.values(), want, gpu_tolerance(dtype));
    verdict.add("and back", back.values(), w, 0);
    verdict.print("weights with padded channels");
}

static void test_elementwise(int64_t rows, int64_t channels, size_t offset, enum mabn_dtype dtype)
{
    const size_t count = (size_t)(rows * channels);
    const std::vector<float> x = gpu_random(count + offset, 8, dtype, 0, 1);
    const std::vector<float> add = gpu_random(count, 9, dtype, 0, 1);
    const std::vector<float> bias = gpu_random((size_t)channels, 10, MABN_DTYPE_F32, 0, 1);
    std::vector<float> own(x.begin() + (int64_t)offset, x.end()), y(count), plain(count);
    std::vector<float> both(count), sums((size_t)channels);
    gpu_array gx(x, dtype), gadd(add, dtype), gy(count, dtype), narrow(count, dtype);
    gpu_array wide(own, MABN_DTYPE_F32), widened(count, MABN_DTYPE_F32);
    gpu_values<float> gbias(bias), gsums(sums);
    struct gpu_verdict verdict;
    const void *from = (char *)gx.p + offset * mabn_dtype_size(dtype);

    for (size_t i = 0; i < count; i++) {
        const float v = own[i] + bias[i % (size_t)channels];
        plain[i] = v + add[i];
        y[i] = plain[i] < 0 ? 0 : plain[i];
        both[i] = own[i] + add[i];
        sums[i % (size_t)channels] += own[i];
    }
    if (mabn_cuda_add_bias(gy.p, from, gadd.p, gbias.at(), rows, channels, true, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("bias, residual, ReLU", gy.values(), y, gpu_tolerance(dtype));
    if (mabn_cuda_add(gadd.p, from, (int64_t)count, dtype, NULL) ||
        mabn_cuda_cast(widened.p, MABN_DTYPE_F32, from, dtype, (int64_t)count, NULL) ||
        mabn_cuda_cast(narrow.p, dtype, wide.p, MABN_DTYPE_F32, (int64_t)count, NULL) ||
        mabn_cuda_column_sums(gsums.at(), from, rows, channels, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("add", gadd.values(), both, gpu_tolerance(dtype));
    verdict.add("to float32", widened.values(), own, 0);
    verdict.add("from float32", narrow.values(), own, 0);
    verdict.add("column sums", gsums.values(), sums, 1e-5);
    if (mabn_cuda_add_bias(gadd.p, gadd.p, NULL, gbias.at(), rows, channels, false, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("bias in place", gadd.values(), plain, 4 * gpu_tolerance(dtype));
    verdict.print("elementwise");
}

static void test_round(int64_t pixels, int channels, int padded, enum mabn_dtype dtype)
{
    const std::vector<float> in = gpu_random((size_t)(pixels * channels), 79, MABN_DTYPE_F32, 0, 2);
    std::vector<float> want((size_t)(pixels * padded), 0.0f);
    struct gpu_verdict verdict;

    for (int64_t i = 0; i < pixels; i++)
        for (int c = 0; c < channels; c++)
            want[(size_t)(i * padded + c)] = gpu_round(in[(size_t)(i * channels + c)], dtype);
    gpu_values<float> pictures(in);
    gpu_array y(want.size(), dtype);
    if (mabn_cuda_round_pixels(y.p, pictures.at(), pixels, channels, padded, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", y.values(), want, 0);
    verdict.print("pixels rounded");
}

static void test_look_up(int64_t pixels, int channels, int padded, enum mabn_dtype dtype)
{
    const std::vector<float> table = gpu_random((size_t)channels * 256, 77, MABN_DTYPE_F32, 0, 1);
    std::vector<uint8_t> bytes((size_t)(pixels * channels));
    std::vector<float> want((size_t)(pixels * padded), 0.0f);
    struct gpu_verdict verdict;

    for (size_t i = 0; i < bytes.size(); i++)
        bytes[i] = (uint8_t)(i * 37 + 5);
    for (int64_t i = 0; i < pixels; i++)
        for (int c = 0; c < channels; c++)
            want[(size_t)(i * padded + c)] =
                gpu_round(table[(size_t)(c * 256 + bytes[(size_t)(i * channels + c)])], dtype);
    gpu_values<uint8_t> pictures(bytes);
    gpu_values<float> gpu_table(table);
    gpu_array y(want.size(), dtype);
    if (mabn_cuda_look_up_pixels(y.p, pictures.at(), pixels, channels, padded, gpu_table.at(),
                                 dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", y.values(), want, 0);
    verdict.print("pixels looked up");
}

/* A picture, as the CPU resizes and normalizes it, and as a block. */
struct picture {
    int width, height, new_width, new_height;
    enum mabn_raw_rule rule;
    bool flip, swap;
};

static void must(mabn_status status)
{
    if (status) MABN_BUG("%s", mabn_error_message());
}

static void fill_noise(struct mabn_image *image, uint64_t seed)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, 3, MABN_RNG_TEST, seed, 0);
    for (int i = 0; i < 3 * image->width * image->height; i++)
        image->pixels[i] = (uint8_t)mabn_rng_below(&rng, 256);
}

/* Into rows of `stride` floats, by the code that a CPU's loader uses. */
static void draw_on_cpu(float *x, size_t stride, const struct mabn_image *in,
                        const struct picture *p, const struct mabn_normalization *n)
{
    float table[3][256];
    struct mabn_image other = {};
    struct mabn_finish finish = {};
    finish.flip = p->flip;
    finish.swap = p->swap;
    if (p->rule == MABN_RAW_BYTES) {
        struct mabn_resizer *resizer = mabn_resizer_new();
        struct mabn_finisher *finisher = mabn_finisher_new(n);
        must(mabn_image_resize(resizer, &other, in, NULL, p->new_width, p->new_height,
                               MABN_RESIZE_PIL));
        mabn_finish_rows(finisher, x, stride, &other, &finish);
        mabn_resizer_free(resizer);
        mabn_finisher_free(finisher);
    } else {
        struct mabn_bilinear scratch = {};
        mabn_normalization_table(n, table);
        must(mabn_image_resize_storage(&other, in->width, in->height, 3));
        mabn_finish_bytes(other.pixels, in, &finish);
        must(mabn_bilinear_resize(&scratch, x, stride, p->new_width, p->new_height, &other, table));
        mabn_bilinear_release(&scratch);
    }
    mabn_image_release(&other);
}

/* All pictures in one batch, with one that is only padding behind them. */
static void test_raw(const std::vector<picture> &pictures, int height, int width, int padded,
                     enum mabn_dtype dtype)
{
    const struct mabn_normalization n = {3, 255, {102.98f, 115.95f, 122.77f}, {1, 57.375f, 0.229f}};
    const size_t images = pictures.size() + 1, pixels = (size_t)(height * width);
    std::vector<float> want(images * pixels * (size_t)padded, 0.0f), x;
    std::vector<uint8_t> upload(images * sizeof(uint64_t) + 16);
    std::vector<uint64_t> places;
    struct mabn_raw *block = NULL;
    size_t room = 0;
    float table[3][256];
    struct gpu_verdict verdict;

    mabn_normalization_table(&n, table);
    upload.resize(upload.size() & ~(size_t)15);
    for (size_t i = 0; i < images; i++) {
        places.push_back(upload.size());
        if (i < pictures.size()) {
            const struct picture &p = pictures[i];
            struct mabn_image in = {};
            const struct mabn_raw_plan plan = {p.rule, p.new_width, p.new_height,
                                               p.flip, p.swap,      table};
            must(mabn_image_resize_storage(&in, p.width, p.height, 3));
            fill_noise(&in, i);
            must(mabn_raw_pack(&block, &room, &in, &plan));
            x.assign(3 * pixels, 0.0f);
            draw_on_cpu(x.data(), 3 * (size_t)width, &in, &p, &n);
            for (size_t k = 0; k < 3 * pixels; k++)
                want[(i * pixels + k / 3) * (size_t)padded + k % 3] = gpu_round(x[k], dtype);
            mabn_image_release(&in);
        } else {
            must(mabn_raw_blank(&block, &room));
        }
        const uint8_t *bytes = (const uint8_t *)block;
        upload.insert(upload.end(), bytes, bytes + block->bytes);
    }
    memcpy(upload.data(), places.data(), images * sizeof(uint64_t));
    mabn_free(block);
    gpu_values<uint8_t> there(upload);
    gpu_array y(want.size(), dtype);
    if (mabn_cuda_draw_raw(y.p, there.p, (const uint64_t *)there.p, (int)images, height, width,
                           padded, dtype, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    verdict.add("y", y.values(), want, 0);
    char name[80];
    snprintf(name, sizeof name, "%d raw pictures in %dx%d, %s, %d channels", (int)images, height,
             width, mabn_dtype_name(dtype), padded);
    verdict.print(name);
}

/* Larger, smaller, both; single pixels; no change; odd sizes; by many times. */
static std::vector<picture> raw_pictures(void)
{
    static const int sizes[][4] = {{13, 9, 31, 22}, {61, 47, 17, 13}, {40, 7, 11, 30},
                                   {1, 1, 29, 31},  {37, 1, 1, 20},   {24, 18, 24, 18},
                                   {200, 3, 1, 1},  {31, 31, 33, 31}, {90, 120, 9, 8}};
    std::vector<picture> all;
    for (const int *s : sizes)
        for (int k = 0; k < 4; k++) {
            const int i = (int)all.size();
            all.push_back({s[0], s[1], s[2], s[3], k / 2 ? MABN_RAW_FLOATS : MABN_RAW_BYTES,
                           k % 2 == 1, i / 4 % 2 == 1});
        }
    return all;
}

int main(void)
{
    if (!gpu_ready()) return tap_done();
    for (enum mabn_dtype dtype : types) {
        test_raw(raw_pictures(), 33, 37, dtype == MABN_DTYPE_F32 ? 4 : 8, dtype);
        test_raw({{5, 6, 7, 8, MABN_RAW_BYTES, true, true}}, 8, 7, 3, dtype);
        test_maxpool({2, 7, 6, 16, 3, 2, 1}, dtype);
        test_maxpool({1, 5, 9, 5, 2, 2, 0}, dtype);
        test_maxpool({3, 4, 4, 8, 3, 1, 1}, dtype);
        test_avgpool(3, 49, 40, dtype);
        test_avgpool(2, 7, 5, dtype);
        test_loss(9, 11, 0.1, dtype);
        test_loss(3, 300, 0, dtype);
        test_centralize(6, 27, dtype);
        test_centralize(3, 576, dtype);
        test_sgd(false, false, dtype);
        test_sgd(true, false, dtype);
        test_sgd(false, true, dtype);
        test_look_up(301, 3, 8, dtype);
        test_round(301, 3, 8, dtype);
        test_look_up(301, 3, 4, dtype);
        test_round(301, 3, 4, dtype);
        test_look_up(64, 1, 1, dtype);
        test_round(64, 1, 1, dtype);
        test_padding(5, 9, 3, 8, dtype);
        test_elementwise(37, 24, 0, dtype);
        test_elementwise(50, 5, 1, dtype);
        test_elementwise(3, 1032, 0, dtype);
    }
    test_scaler();
    return tap_done();
}
