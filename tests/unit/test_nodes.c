/* The kinds of nodes that residual networks do not have, in a small plan: gradients of the input
 * and of all parameters against finite differences; rows that vary; a bound input. On the CPU, or
 * on the device that MABN_TEST_DEVICE names. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/losses.h"
#include "norm/options.h"
#include "tap.h"

#ifndef MABN_TEST_DEVICE
#define MABN_TEST_DEVICE "cpu"
enum { STEPS = 60 };
#else
enum { STEPS = 15 }; /* the executor is slow */
#endif
enum { N = 2, H = 6, W = 5, C = 3 };

static struct mabn_device *device;

static float pseudo(uint32_t i)
{
    i = (i ^ (i >> 16)) * 0x7feb352du;
    i = (i ^ (i >> 15)) * 0x846ca68bu;
    return (float)((i ^ (i >> 16)) / 2147483648.0 - 1.0);
}

/* Copy an array from the device to the host, and back. */
static float *fetch(const float *from, size_t count)
{
    float *host = mabn_xmalloc(count * sizeof *host + 1);
    if (mabn_device_get(device, host, from, count * sizeof *host)) abort();
    return host;
}

static void put(float *to, const float *host, size_t count)
{
    if (mabn_device_put(device, to, host, count * sizeof *host)) abort();
}

static float *on_device(const float *host, size_t count)
{
    void *memory;
    if (mabn_device_alloc(device, &memory, count * sizeof *host)) abort();
    put(memory, host, count);
    return memory;
}

/* The loss is Σ weight·output with pseudo-random weights, so the weights are the output's gradient.
 */
static double run(struct mabn_net *net)
{
    double loss = 0;
    if (mabn_net_forward(net)) abort();
    const struct mabn_net_output y = mabn_net_output_of(net, "y");
    const size_t count = (size_t)(y.n * y.h * y.w * y.c);
    float *values = fetch(y.values, count);
    for (size_t i = 0; i < count; i++)
        loss += (double)pseudo((uint32_t)i + 77) * values[i];
    free(values);
    return loss;
}

static void backward(struct mabn_net *net)
{
    const struct mabn_net_output y = mabn_net_output_of(net, "y");
    const size_t count = (size_t)(y.n * y.h * y.w * y.c);
    float *gradient = mabn_xmalloc(count * sizeof *gradient + 1);
    for (size_t i = 0; i < count; i++)
        gradient[i] = pseudo((uint32_t)i + 77);
    put(y.gradient, gradient, count);
    free(gradient);
    if (mabn_net_backward(net)) abort();
}

static double value_with(double (*value)(struct mabn_net *), struct mabn_net *net, float *x,
                         float v)
{
    size_t n;
    put(x, &v, 1);
    mabn_params_values(mabn_net_params(net), &n); /* one of these may have changed */
    return value(net);
}

/* Move each value at `x` up and down and compare the difference of `value` with the gradient `dx`.
 * Both arrays are the device's. */
static double worst_of(double (*value)(struct mabn_net *), struct mabn_net *net, float *x,
                       const float *dx, size_t count)
{
    const float step = 1e-2f;
    double error = 0, size = 1e-6;
    float *values = fetch(x, count), *gradient = fetch(dx, count);
    for (size_t i = 0; i < count; i += 1 + count / STEPS) {
        const double up = value_with(value, net, x + i, values[i] + step);
        const double down = value_with(value, net, x + i, values[i] - step);
        put(x + i, &values[i], 1);
        error = fmax(error, fabs((up - down) / (2 * (double)step) - (double)gradient[i]));
        size = fmax(size, fabs((double)gradient[i]));
    }
    free(values);
    free(gradient);
    return error / size;
}

static double worst(struct mabn_net *net, float *x, const float *dx, size_t count)
{
    return worst_of(run, net, x, dx, count);
}

static void check_parameters_of(double (*value)(struct mabn_net *), struct mabn_net *net,
                                const char *name)
{
    size_t n, m;
    float *values = mabn_params_values(mabn_net_params(net), &n);
    const float *gradients = mabn_params_gradients(mabn_net_params(net), &m);
    const double error =
        worst_of(value, net, values, gradients, n); /* forward leaves gradients alone */
    tap_ok(error < 5e-3, "%s: gradients of %zu parameters, error %.1e", name, n, error);
}

static void check_parameters(struct mabn_net *net, const char *name)
{
    check_parameters_of(run, net, name);
}

/* Upsampling onto a finer map, transposed convolution, sigmoid, and a map with three readers. */
static void check_plan(void)
{
    struct mabn_net_options options = {.batch = N,
                                       .height = H,
                                       .width = W,
                                       .channels = C,
                                       .precision = MABN_NET_FP32,
                                       .training = true,
                                       .exact = true};
    const struct mabn_net_conv half = {
        .out_channels = 4, .kernel = 3, .stride = 2, .pad = 1, .bias = true};
    const struct mabn_net_conv same = {.out_channels = 4, .kernel = 1, .stride = 1, .bias = true};
    const struct mabn_net_start start = {MABN_START_NORMAL, 0.5};
    struct mabn_net *net;
    if (mabn_net_new(&net, device, &options)) abort();
    const int x = mabn_net_add_input(net), fine = mabn_net_add_conv(net, x, "fine", &same);
    const int coarse = mabn_net_add_conv(net, fine, "coarse", &half);
    const int merged = mabn_net_add_upsample(net, fine, coarse, "merge");
    const int again = mabn_net_add_upsample(net, fine, merged, "again");
    const int shared = mabn_net_add_conv(net, again, "shared", &same);
    const int twice = mabn_net_add_conv(net, shared, "shared", &same);
    const int large = mabn_net_add_transposed_conv(net, twice, "up", 3, &start);
    mabn_net_add_output(net, mabn_net_add_sigmoid(net, large), "y");
    tap_status(mabn_net_plan(net), "a plan of new kinds");
    if (mabn_params_initialize(mabn_net_params(net), 3, MABN_PARAMS_INIT_FAN_IN)) abort();
    for (int i = 0; i < N * H * W * C; i++)
        mabn_net_input(net)[i] = pseudo((uint32_t)i);
    run(net);
    backward(net);
    check_parameters(net, "upsampling, transposed convolution, sigmoid, shared parameters");
    mabn_net_free(net);
}

/* ---- norms in place ---- */

static const char *const norm_inputs[] = {"first", "relu", "second"};
enum { NORM_INPUTS = 3 };

/* Frozen norms with ReLU: one overwrites a convolution's output; one must leave the output of the one before
 * alone, which is that one's mask; one adds a shortcut. With `apart` what they read are outputs of the plan,
 * too, and stay what they are. */
static struct mabn_net *norm_plan(bool apart)
{
    const struct mabn_net_options options = {.batch = N,
                                             .height = H,
                                             .width = W,
                                             .channels = C,
                                             .precision = MABN_NET_FP32,
                                             .training = true,
                                             .exact = true};
    const struct mabn_net_conv conv = {.out_channels = 8, .kernel = 3, .stride = 1, .pad = 1};
    struct mabn_norm_options frozen;
    struct mabn_net *net;
    mabn_norm_options_init(&frozen, MABN_NORM_FROZEN);
    if (mabn_net_new(&net, device, &options)) abort();
    const int x = mabn_net_add_input(net), first = mabn_net_add_conv(net, x, "first", &conv);
    const int relu = mabn_net_add_norm(net, first, "relu", &frozen, -1, true);
    const int shift = mabn_net_add_norm(net, relu, "shift", &frozen, -1, true);
    const int second = mabn_net_add_conv(net, shift, "second", &conv);
    const int sum = mabn_net_add_norm(net, second, "sum", &frozen, shift, true);
    const int read[NORM_INPUTS] = {first, relu, second};
    mabn_net_add_output(net, mabn_net_add_conv(net, sum, "third", &conv), "y");
    for (int k = 0; k < NORM_INPUTS && apart; k++)
        mabn_net_add_output(net, read[k], norm_inputs[k]);
    tap_status(mabn_net_plan(net), "a plan of frozen norms%s", apart ? ", not in place" : "");
    return net;
}

/* Pseudo-random, also the norms' scales, shifts and means; variances are positive. So a norm's output has not
 * its input's sign, nor would it have that of the norm of its output. */
static void fill_parameters(struct mabn_params *params)
{
    for (int i = 0; i < mabn_params_count(params); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        size_t count;
        if (t->role == MABN_PARAMS_MOMENTUM || !mabn_shape_count(&t->shape, &count)) continue;
        float *values = mabn_xmalloc(count * sizeof *values + 1);
        for (size_t k = 0; k < count; k++)
            values[k] = pseudo((uint32_t)(1000 * i) + (uint32_t)k);
        if (strstr(t->name, "running_var"))
            for (size_t k = 0; k < count; k++)
                values[k] = 1.5f + values[k];
        if (mabn_params_set(params, i, values, count * sizeof *values)) abort();
        free(values);
    }
}

static float *norm_gradients(struct mabn_net *net, bool apart, size_t *count)
{
    fill_parameters(mabn_net_params(net));
    for (int i = 0; i < N * H * W * C; i++)
        mabn_net_input(net)[i] = pseudo((uint32_t)i);
    run(net);
    for (int k = 0; k < NORM_INPUTS && apart; k++) {
        const struct mabn_net_output o = mabn_net_output_of(net, norm_inputs[k]);
        if (mabn_device_zero(device, o.gradient,
                             (size_t)(o.n * o.h * o.w * o.c) * sizeof *o.gradient))
            abort();
    }
    backward(net);
    const float *gradients = mabn_params_gradients(mabn_net_params(net), count);
    return fetch(gradients, *count);
}

/* Differences of the loss are too coarse for the mask of a ReLU. */
static void check_norms_in_place(void)
{
    struct mabn_net *net = norm_plan(false), *other = norm_plan(true);
    size_t n, m, nonzero = 0;
    float *in_place = norm_gradients(net, false, &n), *apart = norm_gradients(other, true, &m);
    for (size_t i = 0; i < n; i++)
        nonzero += in_place[i] != 0;
    tap_ok(mabn_net_memory_of(net).activations < mabn_net_memory_of(other).activations,
           "in place needs less memory");
    tap_ok(n == m && nonzero > n / 4 && !memcmp(in_place, apart, n * sizeof *apart),
           "frozen norms with ReLU, in place or not: the same gradients, bit for bit");
    free(in_place);
    free(apart);
    mabn_net_free(net);
    mabn_net_free(other);
}

/* ---- losses ---- */

static const char *const loss_names[] = {"objectness", "boxes", "classes", "masks", "of its group"};
enum { LOSSES = sizeof loss_names / sizeof *loss_names };

static double sum_of_losses(struct mabn_net *net)
{
    double sum = 0;
    if (mabn_net_forward(net)) abort();
    for (int i = 0; i < LOSSES; i++)
        sum += mabn_net_loss_of(net, loss_names[i]);
    return sum;
}

/* Two of the losses read one map. */
static struct mabn_net *net_with_losses(void)
{
    struct mabn_net_options options = {.batch = N,
                                       .height = H,
                                       .width = W,
                                       .channels = C,
                                       .precision = MABN_NET_FP32,
                                       .training = true,
                                       .exact = true};
    const struct mabn_net_conv eight = {.out_channels = 8, .kernel = 3, .stride = 1, .pad = 1};
    const struct mabn_net_smooth_l1 one = {0.3, 1}, two = {0, 2};
    const struct mabn_net_linear fc = {.out = 8};
    struct mabn_net *net;
    if (mabn_net_new(&net, device, &options)) abort();
    const int map = mabn_net_add_conv(net, mabn_net_add_input(net), "map", &eight);
    const int masks = mabn_net_add_conv(net, map, "masks", &eight);
    const int logits = mabn_net_add_linear(net, map, "fc", &fc);
    const int deltas = mabn_net_add_linear(net, map, "deltas", &fc);
    mabn_net_add_output(net, map, "map");
    mabn_net_add_sigmoid_loss(net, map, "objectness");
    mabn_net_add_smooth_l1_loss(net, map, "boxes", &one);
    mabn_net_add_softmax_loss(net, logits, "classes");
    mabn_net_add_sigmoid_loss(net, masks, "masks");
    mabn_net_add_smooth_l1_loss(net, deltas, "of its group", &two);
    tap_status(mabn_net_plan(net), "a plan with losses");
    if (mabn_params_initialize(mabn_net_params(net), 9, MABN_PARAMS_INIT_FAN_IN)) abort();
    for (int i = 0; i < N * H * W * C; i++)
        mabn_net_input(net)[i] = pseudo((uint32_t)i);
    return net;
}

/* Each row of the map has its targets in a longer row. */
static void set_targets(struct mabn_net *net)
{
    enum { ROW = H * W * 8, STRIDE = ROW + 40 };
    static float target[N * STRIDE], weight[N * STRIDE];
    static uint8_t bits[N * H * W];
    static const int32_t classes[N] = {5, 2}, channel[N] = {7, 0}, group[N] = {1, 0};
    for (int i = 0; i < N * STRIDE; i++) {
        target[i] = 0.5f + 0.5f * pseudo((uint32_t)i + 1000);
        weight[i] = i % 3 ? 1.5f : 0;
    }
    for (int i = 0; i < N * H * W; i++)
        bits[i] = i % 2;
    const struct mabn_net_sigmoid_targets objectness = {
        .target = target, .weight = weight, .stride = STRIDE, .normalizer = 7};
    const struct mabn_net_box_targets boxes = {
        .target = target, .weight = weight, .stride = STRIDE / 4, .normalizer = 20};
    const struct mabn_net_labels labels = {.labels = classes, .smoothing = 0.2, .normalizer = 2};
    const struct mabn_net_sigmoid_targets masks = {
        .channel = channel, .bits = bits, .normalizer = N * H * W};
    const struct mabn_net_box_targets grouped = {.target = target, .group = group, .normalizer = 2};
    mabn_net_set_sigmoid_targets(net, "objectness", &objectness);
    mabn_net_set_box_targets(net, "boxes", &boxes);
    mabn_net_set_labels(net, "classes", &labels);
    mabn_net_set_sigmoid_targets(net, "masks", &masks);
    mabn_net_set_box_targets(net, "of its group", &grouped);
}

static void check_losses(void)
{
    struct mabn_net *net = net_with_losses();
    size_t n;
    bool zero = sum_of_losses(net) == 0;
    if (mabn_net_backward(net)) abort();
    const float *gradients = mabn_params_gradients(mabn_net_params(net), &n);
    float *g = fetch(gradients, n);
    for (size_t i = 0; i < n; i++)
        zero = zero && g[i] == 0;
    free(g);
    tap_ok(zero, "without targets: no loss, no gradient");
    tap_ok(!mabn_net_output_of(net, "map").gradient, "a loss fills in the gradient of its scores");
    set_targets(net);
    bool all = sum_of_losses(net) > 0;
    for (int i = 0; i < LOSSES; i++)
        all = all && mabn_net_loss_of(net, loss_names[i]) > 0;
    tap_ok(all, "every loss counts");
    if (mabn_net_backward(net)) abort();
    check_parameters_of(sum_of_losses, net, "losses");
    mabn_net_free(net);
}

/* RoIAlign of a bound map, then a linear layer; with fewer rows than the capacity, and with none. */
static void check_head(void)
{
    enum { ROOM = 9 };
    static const float boxes[4 * ROOM] = {0, 0,  20, 20, 3,  2,  11, 18, 5, 5,
                                          9, 23, 1,  7,  17, 12, 2,  2,  6, 6};
    static const int32_t images[ROOM] = {0, 1, 1, 0, 1}, levels[ROOM] = {0};
    struct mabn_net_options options = {.batch = ROOM,
                                       .height = 1,
                                       .width = 1,
                                       .channels = 1,
                                       .precision = MABN_NET_FP32,
                                       .training = true,
                                       .vary_rows = true};
    const struct mabn_net_roi_align pool = {.size = 3, .sampling = 2, .scale = {0.25}};
    const struct mabn_net_conv conv = {
        .out_channels = 4, .kernel = 3, .stride = 1, .pad = 1, .bias = true};
    const struct mabn_net_linear fc = {.out = 5};
    enum { MAP = N * H * W * C };
    float host[MAP], zero[MAP] = {0};
    struct mabn_net *net;
    if (mabn_net_new(&net, device, &options)) abort();
    const int feature = mabn_net_add_bound(net, "p2", C, true);
    const int rois = mabn_net_add_roi_align(net, "pool", &feature, 1, &pool);
    const int y = mabn_net_add_conv(net, rois, "conv", &conv);
    const int scores = mabn_net_add_linear(net, y, "fc", &fc);
    mabn_net_add_output(net, scores, "y");
    mabn_net_add_softmax_loss(net, mabn_net_add_linear(net, y, "cls", &fc), "classes");
    tap_status(mabn_net_plan(net), "a head");
    if (mabn_params_initialize(mabn_net_params(net), 5, MABN_PARAMS_INIT_FAN_IN)) abort();
    for (int i = 0; i < MAP; i++)
        host[i] = pseudo((uint32_t)i + 5);
    float *map = on_device(host, MAP), *gradient = on_device(zero, MAP);
    const struct mabn_net_binding binding = {map, gradient, N, H, W};
    struct mabn_net_rois list = {.count = 5, .boxes = boxes, .image = images, .level = levels};
    mabn_net_bind(net, feature, &binding);
    mabn_net_set_rois(net, rois, &list);
    run(net);
    backward(net);
    tap_ok(mabn_net_output_of(net, "y").n == 5, "as many rows as boxes");
    const double error = worst(net, map, gradient, MAP);
    tap_ok(error < 5e-3, "gradient of the bound map, error %.1e", error);
    check_parameters(net, "RoIAlign, linear over an area");
    const int32_t classes[5] = {0, 1, 2, 3, 4};
    const struct mabn_net_labels labels = {.labels = classes, .normalizer = 5};
    mabn_net_set_labels(net, "classes", &labels);
    run(net);
    tap_ok(mabn_net_loss_of(net, "classes") > 0, "a loss of five rows");
    list.count = 0;
    mabn_net_set_rois(net, rois, &list);
    size_t n, left = 0;
    tap_ok(run(net) == 0, "no rows");
    backward(net);
    const float *gradients = mabn_params_gradients(mabn_net_params(net), &n);
    float *g = fetch(gradients, n);
    for (size_t i = 0; i < n; i++)
        left += g[i] != 0;
    free(g);
    tap_ok(!left && mabn_net_loss_of(net, "classes") == 0, "no rows: no gradient, no loss");
    mabn_net_free(net);
    mabn_device_release(device, map, sizeof host);
    mabn_device_release(device, gradient, sizeof zero);
}

int main(void)
{
    const char *word = getenv("MABN_TEST_DEVICE");
    if (mabn_device_open(&device, word ? word : MABN_TEST_DEVICE, 2)) {
        tap_skip("%s", mabn_error_message());
        return tap_done();
    }
    check_plan();
    check_norms_in_place();
    check_head();
    check_losses();
    mabn_device_free(device);
    return tap_done();
}
