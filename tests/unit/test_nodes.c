/* Kinds of nodes beside those of residual networks, in a small plan: gradients of the input's side and
 * of all parameters against differences; rows that vary; a bound input. */
#include "base/mem.h"
#include "net/net.h"
#include "tap.h"

enum { N = 2, H = 6, W = 5, C = 3, STEPS = 60 };

static struct mabn_device *device;

static float pseudo(uint32_t i)
{
    i = (i ^ (i >> 16)) * 0x7feb352du;
    i = (i ^ (i >> 15)) * 0x846ca68bu;
    return (float)((i ^ (i >> 16)) / 2147483648.0 - 1.0);
}

/* The loss is Σ weight·output with pseudo-random weights: so those are the output's gradient. */
static double run(struct mabn_net *net)
{
    double loss = 0;
    if (mabn_net_forward(net)) abort();
    const struct mabn_net_output y = mabn_net_output_of(net, "y");
    for (int64_t i = 0; i < y.n * y.h * y.w * y.c; i++)
        loss += (double)pseudo((uint32_t)i + 77) * y.values[i];
    return loss;
}

static void backward(struct mabn_net *net)
{
    const struct mabn_net_output y = mabn_net_output_of(net, "y");
    for (int64_t i = 0; i < y.n * y.h * y.w * y.c; i++)
        y.gradient[i] = pseudo((uint32_t)i + 77);
    if (mabn_net_backward(net)) abort();
}

/* Each value at `x`, moved both ways, against gradient `dx`. */
static double worst(struct mabn_net *net, float *x, const float *dx, size_t count)
{
    const float step = 1e-2f;
    double error = 0, size = 1e-6;
    for (size_t i = 0; i < count; i += 1 + count / STEPS) {
        const float was = x[i];
        x[i] = was + step;
        const double up = run(net);
        x[i] = was - step;
        const double down = run(net);
        x[i] = was;
        error = fmax(error, fabs((up - down) / (2 * (double)step) - (double)dx[i]));
        size = fmax(size, fabs((double)dx[i]));
    }
    return error / size;
}

static void check_parameters(struct mabn_net *net, const char *name)
{
    size_t n, m;
    float *values = mabn_params_values(mabn_net_params(net), &n);
    const float *gradients = mabn_params_gradients(mabn_net_params(net), &m);
    float *kept = mabn_xmalloc(m * sizeof *kept);
    memcpy(kept, gradients, m * sizeof *kept);
    const double error = worst(net, values, kept, n);
    tap_ok(error < 5e-3, "%s: gradients of %zu parameters, error %.1e", name, n, error);
    free(kept);
}

/* Upsampling onto a finer map, transposed convolution, sigmoid, and one map that three read. */
static void check_plan(void)
{
    struct mabn_net_options options = {
        .batch = N, .height = H, .width = W, .channels = C, .training = true, .exact = true};
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

/* RoIAlign of a bound map, then a linear layer; fewer rows than there is room for, and none. */
static void check_head(void)
{
    enum { ROOM = 9 };
    static const float boxes[4 * ROOM] = {0, 0,  20, 20, 3,  2,  11, 18, 5, 5,
                                          9, 23, 1,  7,  17, 12, 2,  2,  6, 6};
    static const int32_t images[ROOM] = {0, 1, 1, 0, 1}, levels[ROOM] = {0};
    struct mabn_net_options options = {
        .batch = ROOM, .height = 1, .width = 1, .channels = 1, .training = true, .vary_rows = true};
    const struct mabn_net_roi_align pool = {.size = 3, .sampling = 2, .scale = {0.25}};
    const struct mabn_net_conv conv = {
        .out_channels = 4, .kernel = 3, .stride = 1, .pad = 1, .bias = true};
    const struct mabn_net_linear fc = {.out = 5};
    float map[N * H * W * C], gradient[N * H * W * C] = {0};
    struct mabn_net *net;
    if (mabn_net_new(&net, device, &options)) abort();
    const int feature = mabn_net_add_bound(net, "p2", C, true);
    const int rois = mabn_net_add_roi_align(net, "pool", &feature, 1, &pool);
    const int y = mabn_net_add_conv(net, rois, "conv", &conv);
    mabn_net_add_output(net, mabn_net_add_linear(net, y, "fc", &fc), "y");
    tap_status(mabn_net_plan(net), "a head");
    if (mabn_params_initialize(mabn_net_params(net), 5, MABN_PARAMS_INIT_FAN_IN)) abort();
    for (int i = 0; i < N * H * W * C; i++)
        map[i] = pseudo((uint32_t)i + 5);
    const struct mabn_net_binding binding = {map, gradient, N, H, W};
    struct mabn_net_rois list = {5, boxes, images, levels};
    mabn_net_bind(net, feature, &binding);
    mabn_net_set_rois(net, rois, &list);
    run(net);
    backward(net);
    tap_ok(mabn_net_output_of(net, "y").n == 5, "as many rows as boxes");
    const double error = worst(net, map, gradient, N * H * W * C);
    tap_ok(error < 5e-3, "gradient of the bound map, error %.1e", error);
    check_parameters(net, "RoIAlign, linear over an area");
    list.count = 0;
    mabn_net_set_rois(net, rois, &list);
    size_t n, left = 0;
    tap_ok(run(net) == 0, "no rows");
    backward(net);
    const float *g = mabn_params_gradients(mabn_net_params(net), &n);
    for (size_t i = 0; i < n; i++)
        left += g[i] != 0;
    tap_ok(!left, "no rows: no gradient");
    mabn_net_free(net);
}

int main(void)
{
    if (mabn_device_new(&device, MABN_DEVICE_CPU, 2)) return 1;
    check_plan();
    check_head();
    mabn_device_free(device);
    return tap_done();
}
