/* Networks in bfloat16 on the CPU, compared with the same networks in float32: inference,
 * gradients, memory. */
#include "base/mem.h"
#include "base/rng.h"
#include "device.h"
#include "model/model.h"
#include "model/norm_request.h"
#include "net/losses.h"
#include "ops/centralize.h"
#include "ops/conv.h"
#include "tap.h"
#include "tensor/bf16.h"

static struct mabn_device *device;

enum { BATCH = 6, SIZE = 64 };

static const char *const norms[] = {"mabn", "bn", "brn",  "syncbn", "frozen",    "gn",
                                    "ln",   "in", "none", "frn",    "evonorm-s0"};
enum { NORMS = sizeof norms / sizeof *norms };

static struct mabn_net *build(const char *arch, const char *norm,
                              const struct mabn_net_options *given)
{
    struct mabn_net_options options = *given;
    struct mabn_model model;
    struct mabn_net *net;
    options.batch = BATCH;
    options.height = options.width = SIZE;
    options.channels = 3;
    if (mabn_model_init(&model, arch) || mabn_model_set_norm(&model, norm)) abort();
    model.base_width = 16;
    model.classes = 10;
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        model.norm[p].groups = 4;
        model.norm[p].norm_batch = options.training && *norm == 'm' ? 2 : 0;
        model.norm[p].r_start = 2;
    }
    if (mabn_model_build(&net, device, &model, &options)) {
        printf("Bail out! %s: %s\n", norm, mabn_error_message());
        exit(1);
    }
    return net;
}

static void fill(struct mabn_net *net, uint64_t step)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, 5, MABN_RNG_TEST, step, 0);
    for (size_t i = 0; i < (size_t)BATCH * SIZE * SIZE * 3; i++)
        mabn_net_input(net)[i] = (float)mabn_rng_normal(&rng);
    int32_t labels[BATCH];
    for (int i = 0; i < BATCH; i++)
        labels[i] = (i * 3 + (int)step) % 10;
    mabn_net_set_labels(net, "loss", &(struct mabn_net_labels){labels, 0, BATCH, false, NULL});
}

static double run_loss(struct mabn_net *net)
{
    if (mabn_net_forward(net)) abort();
    return mabn_net_loss_of(net, "loss");
}

/* The Euclidean norm of a − b, divided by that of b. */
static double distance(const float *a, const float *b, size_t count)
{
    double apart = 0, all = 1e-30;
    for (size_t i = 0; i < count; i++) {
        apart += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    return sqrt(apart / all);
}

static double logits_apart(const struct mabn_net *a, const struct mabn_net *b)
{
    return distance(mabn_net_logits(a), mabn_net_logits(b), (size_t)BATCH * 10);
}

/* ---- convolutions of bfloat16 values, compared with float32 ---- */

static float *draw(size_t count, double deviation)
{
    static struct mabn_rng rng;
    static bool seeded;
    float *v = mabn_xmalloc((count + 1) * sizeof *v);
    if (!seeded) mabn_rng_init(&rng, 8, MABN_RNG_TEST, 0, 0);
    seeded = true;
    for (size_t i = 0; i < count; i++)
        v[i] = mabn_bf16_float(mabn_bf16_round((float)(deviation * mabn_rng_normal(&rng))));
    return v;
}

/* `values` converted to the type, or back; the caller frees. */
static void *as_type(const float *values, size_t count, enum mabn_dtype dtype)
{
    void *to = mabn_xmalloc((count + 1) * sizeof(float));
    if (dtype == MABN_DTYPE_BF16)
        mabn_bf16_narrow(to, values, (int64_t)count);
    else
        memcpy(to, values, count * sizeof *values);
    return to;
}

static float *as_floats(const void *values, size_t count, enum mabn_dtype dtype)
{
    float *to = mabn_xmalloc((count + 1) * sizeof *to);
    if (dtype == MABN_DTYPE_BF16)
        mabn_bf16_widen(to, values, (int64_t)count);
    else
        memcpy(to, values, count * sizeof *to);
    return to;
}

struct sizes {
    size_t x, y, w, out;
};

struct results {
    float *y, *dx, *dw, *db, *inferred;
};

/* given: x, y, weights, bias, and the filters' means or NULL. */
static void run_conv(struct results *r, const struct mabn_conv_shape *shape,
                     const struct mabn_conv_options *options, const struct sizes *n,
                     float *const given[5])
{
    struct mabn_conv_options o = *options;
    struct mabn_conv *conv;
    void *scratch, *packed;
    void *x = as_type(given[0], n->x, o.x_dtype), *dx = as_type(given[0], n->x, o.x_dtype);
    void *y = as_type(given[1], n->y, o.y_dtype), *dy = as_type(given[1], n->y, o.y_dtype);
    r->dw = mabn_xmalloc(n->w * sizeof(float));
    r->db = mabn_xmalloc(n->out * sizeof(float));
    o.bias = true;
    o.training = true;
    o.centralize = given[4];
    if (mabn_conv_new(&conv, device, shape, &o) ||
        mabn_alloc(&scratch, mabn_conv_scratch_bytes(conv) + 64) ||
        mabn_conv_forward(conv, y, x, given[2], given[4], given[3], scratch) ||
        mabn_conv_backward_data(conv, dx, dy, given[2], given[4], false, scratch) ||
        mabn_conv_backward_data(conv, dx, dy, given[2], given[4], true, scratch) ||
        mabn_conv_backward_weights(conv, r->dw, r->db, x, dy, scratch)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    r->y = as_floats(y, n->y, o.y_dtype);
    r->dx = as_floats(dx, n->x, o.x_dtype);
    mabn_conv_free(conv);
    mabn_free(scratch);
    o.training = false;
    o.add = o.relu = true;
    if (mabn_conv_new(&conv, device, shape, &o) ||
        mabn_alloc(&scratch, mabn_conv_scratch_bytes(conv) + 64) ||
        mabn_alloc(&packed, mabn_conv_packed_bytes(conv) + 64) ||
        mabn_conv_pack(conv, packed, given[2], scratch) ||
        mabn_conv_infer(conv, dy, x, packed, given[3], scratch)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    r->inferred = as_floats(dy, n->y, o.y_dtype);
    mabn_conv_free(conv);
    mabn_free(scratch);
    mabn_free(packed);
    void *all[] = {x, dx, y, dy};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void free_results(struct results *r)
{
    float *all[] = {r->y, r->dx, r->dw, r->db, r->inferred};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* The filters' means go before the rounding. */
static void check_less_means(const struct mabn_conv_shape *s,
                             const struct mabn_conv_options *options, const struct sizes *n,
                             float *const given[5])
{
    float *means = draw(n->out, 0.1), *less = draw(n->w, 1);
    struct results a, b;
    run_conv(&a, s, options, n, (float *[]){given[0], given[1], given[2], given[3], means});
    mabn_subtract_means(less, given[2], means, s->out, (int64_t)(n->w / n->out));
    run_conv(&b, s, options, n, (float *[]){given[0], given[1], less, given[3], NULL});
    tap_ok(!memcmp(a.y, b.y, n->y * sizeof *a.y) && !memcmp(a.dx, b.dx, n->x * sizeof *a.dx),
           "%dx%d/%d: less the filters' means, to the last bit", s->kernel, s->kernel, s->stride);
    free_results(&a);
    free_results(&b);
    free(means);
    free(less);
}

static void check_conv(struct mabn_conv_shape s, enum mabn_dtype x, enum mabn_dtype y)
{
    const struct mabn_conv_options half = {.dtype = MABN_DTYPE_BF16, .x_dtype = x, .y_dtype = y};
    const size_t side = (size_t)(mabn_conv_out(s.h, s.kernel, s.stride, s.pad) *
                                 mabn_conv_out(s.w, s.kernel, s.stride, s.pad));
    const struct sizes n = {.x = (size_t)(s.n * s.h * s.w * s.in),
                            .y = (size_t)(s.n * s.out) * side,
                            .w = (size_t)(s.out * s.in * s.kernel * s.kernel),
                            .out = (size_t)s.out};
    float *given[] = {draw(n.x, 1), draw(n.y, 1), draw(n.w, 0.1), draw(n.out, 1), NULL};
    struct results a, b;
    run_conv(&a, &s, &half, &n, given);
    run_conv(&b, &s, &(struct mabn_conv_options){.exact = true}, &n, given);
    const double worst = fmax(fmax(distance(a.y, b.y, n.y), distance(a.dx, b.dx, n.x)),
                              fmax(fmax(distance(a.dw, b.dw, n.w), distance(a.db, b.db, n.out)),
                                   distance(a.inferred, b.inferred, n.y)));
    tap_ok(worst < 4e-3, "%dx%d/%d, %lld to %lld channels, %s in, %s out: %.2g apart", s.kernel,
           s.kernel, s.stride, (long long)s.in, (long long)s.out, mabn_dtype_name(x),
           mabn_dtype_name(y), worst);
    if (x == y) check_less_means(&s, &half, &n, given);
    free_results(&a);
    free_results(&b);
    for (int i = 0; i < 4; i++)
        free(given[i]);
}

static void check_convs(void)
{
    static const struct mabn_conv_shape shapes[] = {
        {2, 17, 15, 3, 64, 7, 2, 3}, {2, 14, 14, 64, 64, 1, 1, 0}, {3, 7, 9, 32, 96, 1, 2, 0},
        {2, 13, 8, 32, 64, 3, 1, 1}, {2, 9, 9, 48, 16, 3, 2, 1},   {1, 37, 1, 100, 10, 1, 1, 0},
        {2, 12, 10, 5, 7, 3, 1, 1},
    };
    const enum mabn_dtype full = MABN_DTYPE_F32, half = MABN_DTYPE_BF16;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_conv(shapes[i], half, half);
        check_conv(shapes[i], full, half);
        check_conv(shapes[i], half, full);
    }
}

/* Where operands are converted, results are to the last bit those of the float32 convolution of the
 * rounded operands, rounded. Here x and the weights come unrounded. */
static void check_converted(void)
{
    const struct mabn_conv_shape s = {2, 11, 13, 32, 48, 3, 1, 1};
    const size_t nx = (size_t)(s.n * s.h * s.w * s.in), ny = (size_t)(s.n * s.h * s.w * s.out),
                 nw = (size_t)(s.out * s.in * 9);
    const struct sizes n = {nx, ny, nw, (size_t)s.out};
    float *given[] = {draw(nx, 1), draw(ny, 1), draw(nw, 0.1), draw(n.out, 1), NULL};
    struct results a, b;
    for (size_t i = 0; i < nx; i++)
        given[0][i] *= 1.001f;
    for (size_t i = 0; i < nw; i++)
        given[2][i] *= 1.001f;
    run_conv(&a, &s,
             &(struct mabn_conv_options){
                 .dtype = MABN_DTYPE_BF16, .x_dtype = MABN_DTYPE_F32, .y_dtype = MABN_DTYPE_BF16},
             &n, given);
    for (size_t i = 0; i < nx; i++)
        given[0][i] = mabn_bf16_float(mabn_bf16_round(given[0][i]));
    for (size_t i = 0; i < nw; i++)
        given[2][i] = mabn_bf16_float(mabn_bf16_round(given[2][i]));
    run_conv(&b, &s, &(struct mabn_conv_options){0}, &n, given);
    for (size_t i = 0; i < ny; i++) {
        b.y[i] = mabn_bf16_float(mabn_bf16_round(b.y[i]));
        b.inferred[i] = mabn_bf16_float(mabn_bf16_round(b.inferred[i]));
    }
    tap_ok(!memcmp(a.y, b.y, ny * sizeof(float)), "converted: forward, to the last bit");
    tap_ok(!memcmp(a.dx, b.dx, nx * sizeof(float)), "converted: backward to data");
    tap_ok(!memcmp(a.dw, b.dw, nw * sizeof(float)), "converted: backward to weights");
    tap_ok(!memcmp(a.inferred, b.inferred, ny * sizeof(float)), "converted: inference, added to");
    struct mabn_conv *half, *full;
    if (mabn_conv_new(&half, device, &s, &(struct mabn_conv_options){.dtype = MABN_DTYPE_BF16}) ||
        mabn_conv_new(&full, device, &s, &(struct mabn_conv_options){0}))
        abort();
    tap_ok(mabn_conv_packs_alike(half, half) && !mabn_conv_packs_alike(half, full) &&
               !mabn_conv_packs_alike(full, half),
           "converted: packed weights are rounded, and not shared with float32");
    mabn_conv_free(half);
    mabn_conv_free(full);
    free_results(&a);
    free_results(&b);
    for (int i = 0; i < 4; i++)
        free(given[i]);
}

/* ---- inference ---- */

static void check_inference(const char *arch, const char *norm)
{
    const struct mabn_params_sgd sgd = {.lr = 0.01, .momentum = 0.9};
    struct mabn_net *train =
        build(arch, norm, &(struct mabn_net_options){.training = true, .precision = MABN_NET_FP32});
    struct mabn_params *params = mabn_net_params(train);
    if (mabn_params_initialize(params, 3, false)) abort();
    const uint64_t steps = *norm == 'n' || *norm == 'f' ? 0 : 4; /* none and frozen keep no state */
    for (uint64_t step = 0; step < steps; step++) {
        fill(train, step);
        run_loss(train);
        if (mabn_net_backward(train) || mabn_net_update(train, &sgd)) abort();
    }
    for (int apart = 0; apart < 2; apart++) {
        struct mabn_net *nets[2];
        struct mabn_net_memory memory[2];
        for (int half = 0; half < 2; half++) {
            nets[half] =
                build(arch, norm,
                      &(struct mabn_net_options){.precision = half ? MABN_NET_BF16 : MABN_NET_FP32,
                                                 .no_fold = apart,
                                                 .params = params});
            fill(nets[half], 9);
            run_loss(nets[half]);
            memory[half] = mabn_net_memory_of(nets[half]);
        }
        const double error = logits_apart(nets[1], nets[0]);
        tap_ok(error > 0 && error < 0.02, "%s, %s%s: logits are %.2g apart", arch, norm,
               apart ? ", not folded" : "", error);
        /* Input pictures are float32 in both; so are weights where bfloat16 is converted. Elsewhere they
         * are half, or an eighth of weights that Winograd transforms. The packed weights of both lie in
         * one store, so the second network's are the difference. */
        const double most = mabn_device_bf16(device) == MABN_BF16_CONVERTED ? 1.01 : 0.6;
        const double activations = (double)memory[1].activations / (double)memory[0].activations;
        const double weights = (double)memory[1].parameters / (double)memory[0].parameters - 1;
        tap_ok(activations < 0.7 && weights > 0.1 && weights < most,
               "bfloat16: %.2f of the memory for activations, %.2f for weights", activations,
               weights);
        for (int half = 0; half < 2; half++)
            mabn_net_free(nets[half]);
    }
    mabn_net_free(train);
}

/* ---- training ---- */

/* All gradients in one array; the caller frees. */
static float *gradients(const struct mabn_net *net, size_t *count)
{
    struct mabn_params *params = mabn_net_params(net);
    float *all = NULL;
    *count = 0;
    for (int i = 0; i < mabn_params_count(params); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        size_t n;
        if (t->role != MABN_PARAMS_GRADIENT || !mabn_shape_count(&t->shape, &n)) continue;
        all = mabn_xrealloc(all, (*count + n) * sizeof *all);
        if (mabn_params_get(params, i, all + *count, n * sizeof *all)) abort();
        *count += n;
    }
    return all;
}

/* Both networks start from the same parameters. One step advances the norms; the gradients of the
 * next are compared. */
static void check_training(const char *arch, const char *norm, bool save_memory, double tolerance)
{
    struct mabn_net *nets[2];
    float *grads[2];
    double losses[2];
    size_t count = 0;
    for (int half = 0; half < 2; half++) {
        nets[half] =
            build(arch, norm,
                  &(struct mabn_net_options){.training = true,
                                             .precision = half ? MABN_NET_BF16 : MABN_NET_FP32,
                                             .save_memory = save_memory});
        if (mabn_params_initialize(mabn_net_params(nets[half]), 3, false)) abort();
        for (uint64_t step = 0; step < 2; step++) {
            fill(nets[half], step);
            losses[half] = run_loss(nets[half]);
            if (mabn_net_backward(nets[half])) abort();
        }
        grads[half] = gradients(nets[half], &count);
    }
    const double error = distance(grads[1], grads[0], count);
    tap_ok(error > 0 && error < tolerance, "%s, %s%s: gradients are %.2g apart", arch, norm,
           save_memory ? ", memory saved" : "", error);
    tap_close(losses[1], losses[0], 0.01 * losses[0], "the loss in bfloat16 is close to float32's");
    const struct mabn_net_memory full = mabn_net_memory_of(nets[0]),
                                 less = mabn_net_memory_of(nets[1]);
    tap_ok((double)less.activations < 0.65 * (double)full.activations,
           "bfloat16: %.2f of the memory", (double)less.activations / (double)full.activations);
    for (int half = 0; half < 2; half++) {
        free(grads[half]);
        mabn_net_free(nets[half]);
    }
}

/* ---- a detector's kinds of nodes, and rows that vary ---- */

static struct mabn_net *build_nodes(enum mabn_net_precision precision, bool vary)
{
    struct mabn_net *net;
    const struct mabn_net_options options = {.batch = BATCH,
                                             .height = 16,
                                             .width = 16,
                                             .channels = 3,
                                             .training = true,
                                             .precision = precision,
                                             .vary_rows = vary};
    struct mabn_net_conv conv = {
        .out_channels = 16, .kernel = 3, .stride = 1, .pad = 1, .bias = true};
    struct mabn_norm_options none;
    mabn_norm_options_init(&none, MABN_NORM_NONE);
    if (mabn_net_new(&net, device, &options)) abort();
    const int fine = mabn_net_add_conv(net, mabn_net_add_input(net), "fine", &conv);
    conv.stride = 2;
    const int coarse = mabn_net_add_conv(net, fine, "coarse", &conv);
    const int merged = mabn_net_add_upsample(net, fine, coarse, "merged");
    const int act = mabn_net_add_norm(net, merged, "relu", &none, -1, true);
    const int up = mabn_net_add_transposed_conv(net, act, "up", 8, &(struct mabn_net_start){0});
    const int soft = mabn_net_add_sigmoid(net, up);
    conv = (struct mabn_net_conv){.out_channels = 4, .kernel = 1, .stride = 1, .bias = true};
    mabn_net_add_output(net, mabn_net_add_conv(net, soft, "last", &conv), "last");
    mabn_net_add_output(net, merged, "merged"); /* makes it float32, and with it the nodes that
                                                 * share its type */
    const struct mabn_net_linear linear = {.out = 5};
    mabn_net_add_output(net, mabn_net_add_linear(net, act, "linear", &linear), "linear");
    if (mabn_net_plan(net) || mabn_params_initialize(mabn_net_params(net), 3, false)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    return net;
}

/* Forward and backward of `rows` rows; gradients and outputs in one array. */
static float *run_nodes(struct mabn_net *net, int rows, size_t *count)
{
    static const char *const outputs[] = {"last", "merged", "linear"};
    struct mabn_rng rng;
    mabn_rng_init(&rng, 6, MABN_RNG_TEST, (uint64_t)rows, 0);
    mabn_net_set_rows(net, rows);
    for (int i = 0; i < rows * 16 * 16 * 3; i++)
        mabn_net_input(net)[i] = (float)mabn_rng_normal(&rng);
    if (mabn_net_forward(net)) abort();
    float *all = NULL;
    size_t at = 0;
    for (int k = 0; k < 3; k++) {
        const struct mabn_net_output o = mabn_net_output_of(net, outputs[k]);
        const size_t n = (size_t)(o.n * o.h * o.w * o.c);
        all = mabn_xrealloc(all, (at + n) * sizeof *all);
        memcpy(all + at, o.values, n * sizeof *all);
        at += n;
        for (size_t i = 0; i < n; i++)
            o.gradient[i] = (float)mabn_rng_normal(&rng);
    }
    if (mabn_net_backward(net)) abort();
    float *found = gradients(net, count);
    all = mabn_xrealloc(all, (at + *count) * sizeof *all);
    memcpy(all + at, found, *count * sizeof *all);
    *count += at;
    free(found);
    return all;
}

static void check_nodes(bool vary)
{
    struct mabn_net *full = build_nodes(MABN_NET_FP32, vary),
                    *half = build_nodes(MABN_NET_BF16, vary);
    for (int rows = vary ? 1 : BATCH; rows <= BATCH; rows += 5) {
        size_t count = 0;
        float *a = run_nodes(full, rows, &count), *b = run_nodes(half, rows, &count);
        const double error = distance(b, a, count);
        tap_ok(error > 0 && error < 0.02, "a detector's nodes, %d rows%s: %.2g apart", rows,
               vary ? " of those there may be" : "", error);
        free(a);
        free(b);
    }
    mabn_net_free(full);
    mabn_net_free(half);
}

int main(void)
{
    if (test_device_open(&device, 1)) return 1;
    if (!test_device_is_cpu(device)) {
        printf("1..0 # SKIP the device is no CPU\n");
        return 0;
    }
    check_convs();
    if (mabn_device_bf16(device) == MABN_BF16_CONVERTED) check_converted();
    check_inference("resnet50", "mabn");
    check_inference("resnet50", "gn");
    for (int i = 0; i < NORMS; i++)
        check_inference("cifar-resnet8", norms[i]);
    /* Where statistics come from few values, rounding flips ReLUs. The norms themselves are exact:
     * see test_norm. */
    check_training("resnet10", "gn", false, 0.16);
    check_training("resnet50", "gn", true, 0.25);
    for (int i = 0; i < NORMS; i++)
        check_training("cifar-resnet8", norms[i], false,
                       !strcmp(norms[i], "frn")     ? 0.03
                       : strchr("efgln", *norms[i]) ? 0.02
                                                    : 0.06);
    check_nodes(false);
    check_nodes(true);
    mabn_device_free(device);
    return tap_done();
}
