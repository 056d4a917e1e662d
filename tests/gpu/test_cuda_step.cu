/* Whole training steps of a small residual network with MABN and centralized weights. Forward,
 * loss, backward and SGD are put together from the GPU's operations and compared with the same
 * network planned by lib/net. */
#include "harness.h"
#include "net/losses.h"
#include "norm/norm.h"
#include "norm/norm_cuda.h"
#include "ops/conv_cuda.h"
#include "ops/ops_cuda.h"

static struct mabn_device *cpu;

/* ---- a small network, twice ---- */

enum { N = 6, SIZE = 9, POOLED = 5, WIDTH = 8, CLASSES = 5, STEPS = 3 };
static const double LR = 0.1, MOMENTUM = 0.9, DECAY = 1e-3, SMOOTHING = 0.1;

static struct mabn_norm_options norm_options(void)
{
    struct mabn_norm_options o;
    mabn_norm_options_init(&o, MABN_NORM_MABN);
    o.norm_batch = 2;
    o.window = 4;
    o.r_start = 2;
    return o;
}

static struct mabn_net *cpu_network(void)
{
    struct mabn_net_options options = {};
    const struct mabn_net_conv three = {WIDTH, 3, 1, 1, false, true, {}},
                               one = {WIDTH, 1, 1, 0, false, true, {}};
    const struct mabn_norm_options norm = norm_options();
    struct mabn_net *net;

    options.batch = N;
    options.height = options.width = SIZE;
    options.channels = 3;
    options.training = true;
    if (mabn_net_new(&net, cpu, &options)) MABN_BUG("%s", mabn_error_message());
    int x = mabn_net_add_conv(net, mabn_net_add_input(net), "conv1", &three);
    x = mabn_net_add_norm(net, x, "bn1", &norm, -1, true);
    const int shortcut = mabn_net_add_max_pool(net, x, 3, 2, 1);
    x = mabn_net_add_conv(net, shortcut, "conv2", &three);
    x = mabn_net_add_norm(net, x, "bn2", &norm, -1, true);
    x = mabn_net_add_conv(net, x, "conv3", &one);
    x = mabn_net_add_norm(net, x, "bn3", &norm, shortcut, true);
    struct mabn_net_linear fc = {};
    fc.out = CLASSES;
    x = mabn_net_add_linear(net, mabn_net_add_global_pool(net, x), "fc", &fc);
    mabn_net_add_output(net, x, "logits");
    mabn_net_add_softmax_loss(net, x, "loss");
    if (mabn_net_plan(net)) MABN_BUG("%s", mabn_error_message());
    if (mabn_params_initialize(mabn_net_params(net), 7, MABN_PARAMS_INIT_FAN_OUT)) abort();
    return net;
}

/* A parameter of the CPU's network, in memory's order. */
static std::vector<float> parameter(const struct mabn_net *net, const char *name, int area)
{
    const int index = mabn_params_find(mabn_net_params(net), name, MABN_PARAMS_VALUE);
    if (index < 0) MABN_BUG("no parameter '%s'", name);
    const struct mabn_shape *shape = &mabn_params_at(mabn_net_params(net), index)->shape;
    size_t count;
    if (!mabn_shape_count(shape, &count)) MABN_BUG("shape");
    std::vector<float> file(count), memory(count);
    if (mabn_params_get(mabn_net_params(net), index, file.data(), count * sizeof(float)))
        MABN_BUG("%s", mabn_error_message());
    if (area == 0) return file;
    mabn_weights_from_file(memory.data(), file.data(), (size_t)shape->dim[0], (size_t)shape->dim[1],
                           (size_t)area);
    return memory;
}

struct weights { /* master, momentum, gradient, and the copy used in computing */
    gpu_values<float> master, momentum, gradient;
    gpu_array work;
    int64_t filters;

    weights(const std::vector<float> &from, int64_t rows, enum mabn_dtype dtype)
        : master(from), momentum(std::vector<float>(from.size(), 0.0f)), gradient(from),
          work(from.size(), dtype), filters(rows)
    {
    }
};

struct conv_layer {
    struct mabn_conv_cuda *conv;
    struct weights w;

    conv_layer(const struct mabn_net *net, const char *name, const struct mabn_conv_shape &shape,
               bool centralize, enum mabn_dtype dtype, enum mabn_dtype y_dtype)
        : w(parameter(net, (std::string(name) + ".weight").c_str(),
                      centralize ? shape.kernel * shape.kernel : 0),
            centralize ? shape.out : 0, dtype)
    {
        struct mabn_conv_cuda_options options = {};
        options.dtype = dtype;
        options.y_dtype = y_dtype;
        options.training = true;
        options.bias = !centralize;
        if (mabn_conv_cuda_new(&conv, NULL, &shape, &options)) MABN_BUG("%s", mabn_error_message());
        if (mabn_cuda_cast_weight(w.work.p, w.master.at(), shape.out,
                                  (int64_t)(w.work.count / (size_t)shape.out), centralize, dtype,
                                  NULL))
            MABN_BUG("%s", mabn_error_message());
    }
    ~conv_layer()
    {
        mabn_conv_cuda_free(conv);
    }
};

struct norm_layer {
    struct mabn_norm norm;
    struct mabn_norm_cuda_io io = {};
    struct weights gamma, beta;
    gpu_bytes state, saved, scratch;
    gpu_array x, y, dx;

    static struct mabn_norm make(void)
    {
        const struct mabn_norm_options o = norm_options();
        struct mabn_norm n;
        if (mabn_norm_init(&n, &o, WIDTH)) MABN_BUG("%s", mabn_error_message());
        return n;
    }

    norm_layer(const struct mabn_net *net, const char *name, int64_t positions,
               enum mabn_dtype dtype)
        : norm(make()), gamma(parameter(net, (std::string(name) + ".weight").c_str(), 0), 0, dtype),
          beta(parameter(net, (std::string(name) + ".bias").c_str(), 0), 0, dtype),
          state(mabn_norm_state_bytes(&norm)), saved(mabn_norm_saved_bytes(&norm, N)),
          scratch(mabn_norm_cuda_scratch_bytes(&norm, N, positions)),
          x((size_t)(N * positions * WIDTH), dtype), y(x.count, dtype), dx(x.count, dtype)
    {
        std::vector<char> first(state.bytes);
        mabn_norm_state_reset(&norm, first.data());
        state.put(first.data());
        io.samples = N;
        io.positions = positions;
        io.dtype = dtype;
        io.relu = true;
        io.gamma = gamma.master.at();
        io.beta = beta.master.at();
        io.state = state.p;
        io.saved = saved.p;
        io.scratch = scratch.p;
        io.x = x.p;
        io.dx = dx.p;
        io.dgamma = gamma.gradient.at();
        io.dbeta = beta.gradient.at();
    }
    mabn_status forward(const void *residual, bool known)
    {
        io.y = y.p;
        io.residual = residual;
        io.known = known;
        return mabn_norm_cuda_forward(&norm, &io);
    }
    mabn_status backward(const void *dy, void *dresidual)
    {
        io.dy = dy;
        io.dresidual = dresidual;
        if (!dresidual) io.y = NULL;
        return mabn_norm_cuda_backward(&norm, &io);
    }
};

struct network {
    enum mabn_dtype dtype;
    conv_layer conv1, conv2, conv3, fc;
    norm_layer bn1, bn2, bn3;
    struct weights fc_bias;
    gpu_array pooled, dpooled, da, features, dfeatures;
    gpu_values<float> normalizer{{(float)N}};
    gpu_bytes winner, logits, dlogits, loss, rank, total, share;
    gpu_values<struct mabn_cuda_scaler> scaler; /* in use for float16 */
    gpu_values<struct mabn_cuda_sgd_rates> rates;
    std::vector<struct mabn_cuda_sgd_param> list;
    std::vector<struct mabn_cuda_sgd_piece> cut;
    gpu_bytes params, pieces;

    network(const struct mabn_net *net, enum mabn_dtype type)
        : dtype(type), conv1(net, "conv1", {N, SIZE, SIZE, 3, WIDTH, 3, 1, 1}, true, type, type),
          conv2(net, "conv2", {N, POOLED, POOLED, WIDTH, WIDTH, 3, 1, 1}, true, type, type),
          conv3(net, "conv3", {N, POOLED, POOLED, WIDTH, WIDTH, 1, 1, 0}, true, type, type),
          fc(net, "fc", {N, 1, 1, WIDTH, CLASSES, 1, 1, 0}, false, type, MABN_DTYPE_F32),
          bn1(net, "bn1", SIZE * SIZE, type), bn2(net, "bn2", POOLED * POOLED, type),
          bn3(net, "bn3", POOLED * POOLED, type),
          fc_bias(parameter(net, "fc.bias", 0), 0, MABN_DTYPE_F32),
          pooled((size_t)N * POOLED * POOLED * WIDTH, type), dpooled(pooled.count, type),
          da((size_t)N * SIZE * SIZE * WIDTH, type), features((size_t)N * WIDTH, type),
          dfeatures(features.count, type), winner(pooled.count), logits(N * CLASSES * 4),
          dlogits(N * CLASSES * 4), loss(N * 8), rank(N * 4),
          total(sizeof(struct mabn_cuda_xent_total)), share(sizeof(float)),
          scaler({{1024, 1 / 1024.0f, 0, 0, 0, 0, 0}}), rates({{(float)LR, (float)MOMENTUM, 1.0f}}),
          list(params_of()), cut(cut_of()), params(list.size() * sizeof list[0]),
          pieces(cut.size() * sizeof cut[0])
    {
        for (norm_layer *layer : {&bn1, &bn2, &bn3})
            layer->io.scaler = scaler_or_null();
        params.put(list.data());
        pieces.put(cut.data());
    }

    struct mabn_cuda_scaler *scaler_or_null() const
    {
        return dtype == MABN_DTYPE_F16 ? scaler.at() : NULL;
    }

    std::vector<struct mabn_cuda_sgd_param> params_of()
    {
        std::vector<struct mabn_cuda_sgd_param> all;
        for (struct weights *w : {&conv1.w, &conv2.w, &conv3.w, &fc.w, &fc_bias, &bn1.gamma,
                                  &bn1.beta, &bn2.gamma, &bn2.beta, &bn3.gamma, &bn3.beta})
            all.push_back({w->master.at(), w->momentum.at(), w->gradient.at(), w->work.p,
                           w->work.dtype, (int64_t)w->work.count, w->filters, 1, (float)DECAY});
        return all;
    }
    std::vector<struct mabn_cuda_sgd_piece> cut_of()
    {
        std::vector<struct mabn_cuda_sgd_piece> all(
            (size_t)mabn_cuda_sgd_cut(NULL, list.data(), (int)list.size()));
        mabn_cuda_sgd_cut(all.data(), list.data(), (int)list.size());
        return all;
    }

    mabn_status forward(const void *input, bool known)
    {
        const struct mabn_pool_shape pool = {N, SIZE, SIZE, WIDTH, 3, 2, 1};
        MABN_TRY(
            mabn_conv_cuda_forward(conv1.conv, bn1.x.p, input, conv1.w.work.p, NULL, NULL, NULL));
        MABN_TRY(bn1.forward(NULL, known));
        MABN_TRY(
            mabn_cuda_maxpool_forward(pooled.p, (uint8_t *)winner.p, bn1.y.p, &pool, dtype, NULL));
        MABN_TRY(mabn_conv_cuda_forward(conv2.conv, bn2.x.p, pooled.p, conv2.w.work.p, NULL, NULL,
                                        NULL));
        MABN_TRY(bn2.forward(NULL, known));
        MABN_TRY(
            mabn_conv_cuda_forward(conv3.conv, bn3.x.p, bn2.y.p, conv3.w.work.p, NULL, NULL, NULL));
        MABN_TRY(bn3.forward(pooled.p, known));
        MABN_TRY(
            mabn_cuda_avgpool_forward(features.p, bn3.y.p, N, POOLED * POOLED, WIDTH, dtype, NULL));
        return mabn_conv_cuda_forward(fc.conv, logits.p, features.p, fc.w.work.p,
                                      fc_bias.master.at(), NULL, NULL);
    }

    mabn_status backward(const void *input, const int32_t *labels)
    {
        const struct mabn_cuda_xent out = {(double *)loss.p, (int32_t *)rank.p, dlogits.p,
                                           (struct mabn_cuda_xent_total *)total.p};
        const struct mabn_pool_shape pool = {N, SIZE, SIZE, WIDTH, 3, 2, 1};
        const struct mabn_cuda_scaler *s = scaler_or_null();
        MABN_TRY(
            mabn_cuda_loss_share((float *)share.p, normalizer.at(), s ? &s->scale : NULL, NULL));
        MABN_TRY(mabn_cuda_softmax_xent(&out, (const float *)logits.p, labels, N, CLASSES,
                                        SMOOTHING, (const float *)share.p, dtype, NULL));
        MABN_TRY(mabn_conv_cuda_backward_weights(fc.conv, fc.w.gradient.at(), fc_bias.gradient.at(),
                                                 features.p, dlogits.p, NULL, NULL));
        MABN_TRY(mabn_conv_cuda_backward_data(fc.conv, dfeatures.p, dlogits.p, fc.w.work.p, false,
                                              NULL, NULL));
        MABN_TRY(
            mabn_cuda_avgpool_backward(da.p, dfeatures.p, N, POOLED * POOLED, WIDTH, dtype, NULL));
        MABN_TRY(bn3.backward(da.p, dpooled.p));
        MABN_TRY(conv_backward(conv3, da.p, bn3.dx.p, bn2.y.p, false));
        MABN_TRY(bn2.backward(da.p, NULL));
        MABN_TRY(conv_backward(conv2, dpooled.p, bn2.dx.p, pooled.p, true));
        MABN_TRY(mabn_cuda_maxpool_backward(da.p, dpooled.p, (const uint8_t *)winner.p, &pool,
                                            dtype, NULL));
        MABN_TRY(bn1.backward(da.p, NULL));
        return conv_backward(conv1, NULL, bn1.dx.p, input, false);
    }

    mabn_status conv_backward(conv_layer &layer, void *dx, const void *dy, const void *x, bool add)
    {
        MABN_TRY(mabn_conv_cuda_backward_weights(layer.conv, layer.w.gradient.at(), NULL, x, dy,
                                                 NULL, NULL));
        if (!dx) return MABN_OK;
        return mabn_conv_cuda_backward_data(layer.conv, dx, dy, layer.w.work.p, add, NULL, NULL);
    }

    mabn_status update()
    {
        struct mabn_cuda_scaler *s = scaler_or_null();
        for (const struct mabn_cuda_sgd_param &p : list)
            if (s) MABN_TRY(mabn_cuda_gradients_finite(&s->overflow, p.grad, p.count, NULL));
        MABN_TRY(mabn_cuda_sgd_step((const struct mabn_cuda_sgd_param *)params.p,
                                    (const struct mabn_cuda_sgd_piece *)pieces.p,
                                    (int64_t)cut.size(), rates.at(), s, false, false, NULL));
        return s ? mabn_cuda_scaler_update(s, NULL) : MABN_OK;
    }
};

static void test_steps(enum mabn_dtype dtype)
{
    struct mabn_net *net = cpu_network();
    struct network gpu(net, dtype);
    const struct mabn_params_sgd sgd = {LR, MOMENTUM, DECAY, false, false, 0};
    /* The effect of one rounding some steps later. */
    const double tolerance = dtype == MABN_DTYPE_BF16 ? 0.1 : dtype == MABN_DTYPE_F16 ? 0.02 : 2e-4;
    std::vector<int32_t> labels;
    struct gpu_verdict verdict;

    for (int i = 0; i < N; i++)
        labels.push_back((i * 3) % CLASSES);
    const struct mabn_net_labels given = {labels.data(), SMOOTHING, N, false, NULL};
    mabn_net_set_labels(net, "loss", &given);
    gpu_values<int32_t> gpu_labels(labels);
    for (int step = 0; step < STEPS; step++) {
        const std::vector<float> x =
            gpu_random((size_t)N * SIZE * SIZE * 3, 70 + step, dtype, 0.3, 1);
        gpu_array gpu_x(x, dtype);
        struct mabn_cuda_xent_total total;

        memcpy(mabn_net_input(net), x.data(), x.size() * sizeof(float));
        if (mabn_net_forward(net) || mabn_net_backward(net) || mabn_net_update(net, &sgd))
            MABN_BUG("%s", mabn_error_message());
        gpu_order(step);
        if (gpu.forward(gpu_x.p, step > 0) || gpu.backward(gpu_x.p, gpu_labels.at()) ||
            gpu.update())
            verdict.add(mabn_error_message(), 1, 0);
        gpu.total.get(&total);
        verdict.add("loss", fabs(total.loss / N - mabn_net_loss_of(net, "loss")), tolerance);
    }
    gpu_order(0);
    verdict.add("conv1", gpu.conv1.w.master.values(), parameter(net, "conv1.weight", 9), tolerance);
    verdict.add("conv2", gpu.conv2.w.master.values(), parameter(net, "conv2.weight", 9), tolerance);
    verdict.add("conv3", gpu.conv3.w.master.values(), parameter(net, "conv3.weight", 1), tolerance);
    verdict.add("fc", gpu.fc.w.master.values(), parameter(net, "fc.weight", 0), tolerance);
    verdict.add("fc bias", gpu.fc_bias.master.values(), parameter(net, "fc.bias", 0), tolerance);
    verdict.add("gamma", gpu.bn1.gamma.master.values(), parameter(net, "bn1.weight", 0), tolerance);
    verdict.add("beta", gpu.bn3.beta.master.values(), parameter(net, "bn3.bias", 0), tolerance);
    char name[60];
    snprintf(name, sizeof name, "training steps, %s", mabn_dtype_name(dtype));
    verdict.print(name);
    mabn_net_free(net);
}

int main(void)
{
    if (!gpu_ready()) return tap_done();
    if (mabn_device_new(&cpu, MABN_DEVICE_CPU, 1)) MABN_BUG("%s", mabn_error_message());
    for (enum mabn_dtype dtype : {MABN_DTYPE_F32, MABN_DTYPE_BF16, MABN_DTYPE_F16}) {
        test_steps(dtype);
    }
    mabn_device_free(cpu);
    return tap_done();
}
