/* Convolutions and the fully connected layer, by the reference kernels and by the libraries,
 * compared with the CPU. On the executor the libraries are stand-ins, which offer more or less. On
 * a GPU also ResNet-50's shapes: the libraries compared with the reference kernels. */
#include "harness.h"

#include <time.h>

#include "device/cuda.h"
#include "device/device.h"
#include "ops/conv_cuda.h"

#ifdef MABN_EXECUTOR
#include "libraries.h"
static const bool on_gpu = false;
#else
static const bool on_gpu = true;
#endif

static struct mabn_device *cpu, *gpu;

/* What the stand-ins offer. */
static const struct offer {
    const char *name;
    bool plans, ends, compiled, products, tune;
    bool f32, joined; /* tested in float32 as well as bfloat16; with normalizations */
} offers[] = {{"everything", true, true, true, true, false, true, true},
              {"everything, tuned", true, true, true, true, true, false, true},
              {"cuDNN", true, true, true, false, false, false, false},
              {"convolutions alone", true, false, false, false, false, true, true},
              {"products", false, false, false, true, false, true, false},
              {"nothing", false, false, false, false, false, false, true}};
static const struct offer *offered = &offers[0];

static void set_offer(const struct offer *offer)
{
    offered = offer;
#ifdef MABN_EXECUTOR
    executor::libraries = {true, offer->plans,    offer->ends, offer->compiled,
                           true, offer->products, offer->tune};
#endif
    printf("# the libraries have: %s\n", on_gpu ? "whatever they have" : offer->name);
}

static struct mabn_conv_cuda_options options_of(enum mabn_dtype dtype, bool training)
{
    struct mabn_conv_cuda_options o = {};
    o.dtype = o.y_dtype = dtype;
    o.training = training;
    return o;
}

/* One layer on the GPU, with a workspace of exactly the size it requests. */
struct layer {
    struct mabn_conv_cuda *conv;
    struct gpu_bytes *workspace = nullptr;
    void *stream; /* the device's own, where work may be late */

    layer(struct mabn_device *device, const struct mabn_conv_shape &shape,
          struct mabn_conv_cuda_options options)
        : stream(device ? mabn_cuda_stream(device) : NULL)
    {
        options.tune |= offered->tune && !on_gpu;
        if (mabn_conv_cuda_new(&conv, device, &shape, &options))
            MABN_BUG("%s", mabn_error_message());
        workspace = new struct gpu_bytes(mabn_conv_cuda_workspace(conv));
    }
    ~layer()
    {
        mabn_conv_cuda_free(conv);
        delete workspace;
    }
    layer(const layer &) = delete;
    layer &operator=(const layer &) = delete;
    const char *by(enum mabn_conv_pass pass) const
    {
        return mabn_conv_cuda_describe(conv, pass);
    }
    void wait() const
    {
        gpu_check(cudaDeviceSynchronize(), "wait");
    }
};

/* The arrays of a layer and the CPU's results. */
struct problem {
    struct mabn_conv_shape shape;
    enum mabn_dtype dtype;
    std::vector<float> x, dy, w, b, dx, y_before, y, dx_want, dw, db;

    problem(const struct mabn_conv_shape &s, enum mabn_dtype type) : shape(s), dtype(type)
    {
        const size_t oh = (size_t)mabn_conv_out(s.h, s.kernel, s.stride, s.pad);
        const size_t ow = (size_t)mabn_conv_out(s.w, s.kernel, s.stride, s.pad);
        const size_t in = (size_t)(s.n * s.h * s.w * s.in);
        const size_t out = (size_t)(s.n * s.out) * oh * ow;
        const size_t weights = (size_t)(s.out * s.kernel * s.kernel * s.in);
        x = gpu_random(in, 1, dtype, 0, 1);
        dy = gpu_random(out, 2, dtype, 0, 1);
        w = gpu_random(weights, 3, dtype, 0, 0.2);
        b = gpu_random((size_t)s.out, 4, dtype, 0, 1);
        dx = gpu_random(in, 5, dtype, 0, 1);
        y_before = gpu_random(out, 6, dtype, 0, 1);
        y.resize(out);
        dw.resize(weights);
        db.resize(b.size());
    }

    void solve()
    {
        struct mabn_conv_options options = {};
        options.training = options.bias = options.exact = true;
        struct mabn_conv *want;

        if (mabn_conv_new(&want, cpu, &shape, &options)) MABN_BUG("%s", mabn_error_message());
        std::vector<char> scratch(mabn_conv_scratch_bytes(want) + 64);
        dx_want = dx;
        if (mabn_conv_forward(want, y.data(), x.data(), w.data(), nullptr, b.data(),
                              scratch.data()) ||
            mabn_conv_backward_data(want, dx_want.data(), dy.data(), w.data(), nullptr, true,
                                    scratch.data()) ||
            mabn_conv_backward_weights(want, dw.data(), db.data(), x.data(), dy.data(),
                                       scratch.data()))
            MABN_BUG("%s", mabn_error_message());
        mabn_conv_free(want);
    }

    /* y of an inference */
    std::vector<float> inferred(bool bias, bool add, bool relu) const
    {
        std::vector<float> v(y);
        for (size_t i = 0; i < v.size(); i++) {
            if (!bias) v[i] -= b[i % b.size()];
            if (add) v[i] += y_before[i];
            if (relu && v[i] < 0) v[i] = 0;
        }
        return v;
    }
    std::string name(const char *what, const char *by) const
    {
        char text[200];
        snprintf(text, sizeof text, "%s %s n%d %dx%d %d>%d %d/%d+%d: %s", what,
                 mabn_dtype_name(dtype), (int)shape.n, (int)shape.h, (int)shape.w, (int)shape.in,
                 (int)shape.out, shape.kernel, shape.stride, shape.pad, by);
        return text;
    }
};

/* A library sums in float32, not in double. Where a pass of our own follows, the result is rounded
 * to `dtype` before a term is added that may be as large. */
static double tolerance(enum mabn_dtype dtype, const char *by)
{
    if (!strcmp(by, "reference")) return gpu_tolerance(dtype);
    return (strstr(by, "and a pass") ? 6 : 2) * gpu_tolerance(dtype) + 2e-5;
}

/* A library may return a filter's gradient in `dtype`. */
static double sum_tolerance(enum mabn_dtype dtype, const char *by)
{
    return strcmp(by, "reference") ? gpu_tolerance(dtype) + 2e-5 : 1e-5;
}

static bool is_product(const struct mabn_conv_shape &s)
{
    return s.kernel == 1 && s.stride == 1 && s.pad == 0;
}

/* On the executor the implementation is known: what is offered is used, in the order that
 * conv_cuda.h documents, and of cuDNN's engines the first that meets the requirements. product:
 * cuBLASLt has it, and comes before cuDNN; compiled: cuDNN has it only as a compiled kernel. */
struct expected {
    bool product, compiled, tf32;
};

static void expect_by(const char *by, const struct problem &p, const struct mabn_device *device,
                      const struct expected &e, struct gpu_verdict *verdict)
{
    const bool products = device && offered->products && is_product(p.shape);
    const bool exact = p.dtype == MABN_DTYPE_F32 && !e.tf32;
    const bool compiled = e.compiled && offered->compiled;
    std::string want = "reference";

    if (on_gpu) return;
    if (offered->tune && device) { /* chosen by time: any is right */
        if (!strcmp(by, "reference")) verdict->add("reference", 1, 0);
        return;
    }
    if (products) want = "cuBLASLt";
    if (device && offered->plans && !(products && e.product))
        want = std::string("cuDNN engine ") + (exact      ? compiled ? "8" : "0"
                                               : compiled ? "7"
                                                          : "62");
    const size_t n = want.size();
    if (strncmp(by, want.c_str(), n) || (by[n] && by[n] != ' '))
        verdict->add((std::string(by) + " in place of " + want).c_str(), 1, 0);
}

/* As little aligned as allowed: 16 bytes into its memory. */
struct bias_array {
    struct gpu_array room;
    char *p;

    bias_array(std::vector<float> b, enum mabn_dtype dtype) : room(behind(b, dtype), dtype)
    {
        p = static_cast<char *>(room.p) + 16;
    }
    static std::vector<float> behind(std::vector<float> b, enum mabn_dtype dtype)
    {
        b.insert(b.begin(), 16 / mabn_dtype_size(dtype), NAN);
        return b;
    }
};

static void test_training(const struct problem &p, struct mabn_device *device,
                          enum mabn_dtype y_dtype, bool bias, bool tf32)
{
    struct mabn_conv_cuda_options options = options_of(p.dtype, true);
    gpu_array x(p.x, p.dtype), dy(p.dy, p.dtype), w(p.w, p.dtype), y(p.y.size(), y_dtype);
    gpu_array dx(p.dx.size(), p.dtype), dx_added(p.dx, p.dtype);
    gpu_values<float> dw(p.dw), db(p.db);
    struct bias_array b(p.b, MABN_DTYPE_F32);
    const double slack = tf32 ? 0.02 : 0;
    std::vector<float> dx_alone(p.dx_want);
    struct gpu_verdict verdict;

    options.y_dtype = y_dtype;
    options.bias = bias;
    options.tf32 = tf32;
    struct layer layer(device, p.shape, options);
    void *const space = layer.workspace->p;
    if (mabn_conv_cuda_forward(layer.conv, y.p, x.p, w.p, bias ? b.p : NULL, space, layer.stream) ||
        mabn_conv_cuda_backward_data(layer.conv, dx.p, dy.p, w.p, false, space, layer.stream) ||
        mabn_conv_cuda_backward_data(layer.conv, dx_added.p, dy.p, w.p, true, space,
                                     layer.stream) ||
        mabn_conv_cuda_backward_weights(layer.conv, dw.at(), db.at(), x.p, dy.p, space,
                                        layer.stream))
        verdict.add(mabn_error_message(), 1, 0);
    layer.wait();
    for (size_t i = 0; i < dx_alone.size(); i++)
        dx_alone[i] -= p.dx[i];
    const char *const by = layer.by(MABN_CONV_FORWARD);
    const char *const data_by = layer.by(MABN_CONV_BACKWARD_DATA);
    const char *const weights_by = layer.by(MABN_CONV_BACKWARD_WEIGHTS);
    const bool flat = p.shape.h == 1 && p.shape.w == 1;
    const bool other_bias = bias && p.dtype != MABN_DTYPE_F32 && y_dtype == p.dtype;
    expect_by(by, p, device, {flat && !other_bias, y_dtype != p.dtype, tf32}, &verdict);
    expect_by(data_by, p, device, {flat, false, tf32}, &verdict);
    expect_by(weights_by, p, device, {true, false, tf32}, &verdict);
    verdict.add("y", y.values(), p.inferred(bias, false, false), tolerance(p.dtype, by) + slack);
    verdict.add("dx", dx.values(), dx_alone, tolerance(p.dtype, data_by) + slack);
    verdict.add("dx added to", dx_added.values(), p.dx_want,
                (strcmp(data_by, "reference") ? 3 : 1) * tolerance(p.dtype, data_by) + slack);
    verdict.add("dweight", dw.values(), p.dw, sum_tolerance(p.dtype, weights_by) + slack);
    verdict.add("dbias", db.values(), p.db, 1e-5);
    verdict.print(p.name(tf32 ? "tf32 training" : "training", by).c_str());
}

static void test_inference(const struct problem &p, struct mabn_device *device, bool bias, bool add,
                           bool relu, enum mabn_dtype bias_dtype)
{
    struct mabn_conv_cuda_options options = options_of(p.dtype, false);
    gpu_array x(p.x, p.dtype), w(p.w, p.dtype), y(p.y_before, p.dtype);
    struct bias_array b(p.b, bias_dtype);
    struct gpu_verdict verdict;
    char what[60];

    options.bias = bias;
    options.add = add;
    options.relu = relu;
    options.bias_dtype = bias_dtype;
    struct layer layer(device, p.shape, options);
    if (mabn_conv_cuda_infer(layer.conv, y.p, x.p, w.p, bias ? b.p : NULL, layer.workspace->p,
                             layer.stream))
        verdict.add(mabn_error_message(), 1, 0);
    layer.wait();
    const char *const by = layer.by(MABN_CONV_FORWARD);
    expect_by(by, p, device, {false, !bias && (add || relu), false}, &verdict);
    verdict.add("y", y.values(), p.inferred(bias, add, relu), tolerance(p.dtype, by));
    snprintf(what, sizeof what, "inference%s%s%s", bias ? "+bias" : "", add ? "+add" : "",
             relu ? "+relu" : "");
    verdict.print(p.name(what, by).c_str());
}

static void test_shape(const struct mabn_conv_shape &shape, enum mabn_dtype dtype,
                       struct mabn_device *device)
{
    struct problem p(shape, dtype);
    const bool product = shape.h == 1 && shape.w == 1;

    p.solve();
    test_training(p, device, product ? MABN_DTYPE_F32 : dtype, product, false);
    test_inference(p, device, true, true, true, MABN_DTYPE_F32);
    if (device && dtype == MABN_DTYPE_F32) test_training(p, device, dtype, true, true);
}

/* Every combination of additions in inference, and of types. */
static void test_ends(const struct mabn_conv_shape &shape, enum mabn_dtype dtype,
                      struct mabn_device *device)
{
    struct problem p(shape, dtype);

    p.solve();
    for (int which = 0; which < 8; which++)
        for (enum mabn_dtype bias_dtype : {MABN_DTYPE_F32, dtype})
            test_inference(p, device, which & 1, which & 2, which & 4, bias_dtype);
    test_training(p, device, dtype, true, false);
    test_training(p, device, MABN_DTYPE_F32, true, false);
}

/* ---- with a normalization ---- */

/* The arrays of a normalization before or behind a layer, and the expected results of the layer's
 * passes with it. */
struct joint {
    const struct problem *p;
    std::vector<float> a, b, residual;                /* behind: (O), (O), like y */
    std::vector<float> a0, b0, nx, ny;                /* before: (I), (I), like x */
    std::vector<float> z, sum, square, dx, dot, dsum; /* and what the errors of sums are relative
                                                       * to: */
    std::vector<float> sum_scale, square_scale, dot_scale, dsum_scale;

    explicit joint(const struct problem &problem) : p(&problem)
    {
        const size_t in = (size_t)p->shape.in, out = (size_t)p->shape.out;
        a = gpu_random(out, 11, MABN_DTYPE_F32, 1, 0.3);
        b = gpu_random(out, 12, MABN_DTYPE_F32, 0, 0.5);
        residual = p->y_before;
        a0 = gpu_random(in, 13, MABN_DTYPE_F32, 0.2, 1);
        b0 = gpu_random(in, 14, MABN_DTYPE_F32, 0, 0.5);
        nx = gpu_random(p->x.size(), 15, p->dtype, 0.3, 1);
        ny = gpu_random(p->x.size(), 16, p->dtype, 0, 1);
        b0[0] = 0;
        for (size_t i = 0; i < nx.size(); i++) {
            /* Values are zero, which ReLU does not pass, or far from where rounding decides. */
            if (i % 5 == 0) nx[i] = ny[i] = 0;
            while (nx[i] != 0 && fabs(a0[i % in] * nx[i] + b0[i % in]) < 1e-2)
                nx[i] = gpu_round(nx[i] + 0.25f, p->dtype);
        }
    }

    void forward(bool with_residual, bool relu)
    {
        const std::vector<float> y = p->inferred(false, false, false);
        std::vector<double> sums[3];

        for (std::vector<double> &s : sums)
            s.resize(a.size());
        z.resize(y.size());
        for (size_t i = 0; i < y.size(); i++) {
            const size_t o = i % a.size();
            z[i] = a[o] * y[i] + b[o] + (with_residual ? residual[i] : 0);
            if (relu && z[i] < 0) z[i] = 0;
            sums[0][o] += y[i];
            sums[1][o] += fabs(y[i]);
            sums[2][o] += (double)y[i] * y[i];
        }
        sum.assign(sums[0].begin(), sums[0].end());
        sum_scale.assign(sums[1].begin(), sums[1].end());
        square.assign(sums[2].begin(), sums[2].end());
        square_scale = square;
    }
    void backward(bool add, enum mabn_conv_mask mask)
    {
        std::vector<double> sums[4];

        for (std::vector<double> &s : sums)
            s.resize(a0.size());
        dx = p->dx_want;
        for (size_t i = 0; i < dx.size(); i++) {
            const size_t c = i % a0.size();
            if (!add) dx[i] -= p->dx[i];
            if (mask == MABN_CONV_MASK_X && !(a0[c] * nx[i] + b0[c] > 0)) dx[i] = 0;
            if (mask == MABN_CONV_MASK_Y && !(ny[i] > 0)) dx[i] = 0;
            sums[0][c] += (double)dx[i] * nx[i];
            sums[1][c] += fabs((double)dx[i] * nx[i]);
            sums[2][c] += dx[i];
            sums[3][c] += fabs(dx[i]);
        }
        dot.assign(sums[0].begin(), sums[0].end());
        dot_scale.assign(sums[1].begin(), sums[1].end());
        dsum.assign(sums[2].begin(), sums[2].end());
        dsum_scale.assign(sums[3].begin(), sums[3].end());
    }
};

/* Errors of sums, relative to the magnitudes that were added. */
static double share(const std::vector<float> &got, const std::vector<float> &want,
                    const std::vector<float> &scale)
{
    double worst = 0;

    for (size_t i = 0; i < want.size(); i++) {
        const double e = fabs((double)got[i] - want[i]) / (scale[i] + 1e-3);
        if (!(e <= worst)) worst = std::isnan(e) ? INFINITY : e;
    }
    return worst;
}

/* A library may multiply the value after it was rounded. */
static double share_tolerance(enum mabn_dtype dtype, const char *by)
{
    return strcmp(by, "reference") ? 2 * gpu_tolerance(dtype) : 1e-5;
}

/* Must the pass be joined? With the reference kernels always. Else where cuDNN compiles kernels,
 * except for a data gradient with gaps, and a strided one with two sums. */
static void expect_joined(const struct layer &layer, const struct problem &p,
                          enum mabn_conv_pass pass, bool two_sums, struct gpu_verdict *verdict)
{
    const bool forward = pass != MABN_CONV_BACKWARD_NORM;
    const bool plain =
        !strcmp(layer.by(forward ? MABN_CONV_FORWARD : MABN_CONV_BACKWARD_DATA), "reference");
    const bool joins = mabn_conv_cuda_joins(layer.conv, pass);
    const bool refused =
        !forward && (p.shape.stride > p.shape.kernel || (p.shape.stride > 1 && two_sums));
    const bool should = plain || (offered->compiled && !refused);

    if (plain || !on_gpu) verdict->add("is joined", joins == should ? 0 : 1, 0);
    verdict->add("says so", (strcmp(layer.by(pass), "none") != 0) == joins ? 0 : 1, 0);
}

static void test_forward_norm(struct joint &j, struct mabn_device *device, bool residual, bool relu)
{
    const struct problem &p = *j.p;
    struct mabn_conv_cuda_options options = options_of(p.dtype, true);
    gpu_array x(p.x, p.dtype), w(p.w, p.dtype), y(p.y.size(), p.dtype), z(p.y.size(), p.dtype);
    gpu_array r(j.residual, p.dtype);
    gpu_values<float> a(j.a), b(j.b), square(std::vector<float>(j.a.size()));
    struct gpu_verdict verdict;
    char what[80];

    options.after = {true, residual, relu, false};
    struct layer layer(device, p.shape, options);
    const char *const by = layer.by(MABN_CONV_FORWARD_NORM);
    const struct mabn_conv_cuda_norm_out norm = {z.p, residual ? r.p : NULL, a.at(), b.at(),
                                                 square.at()};
    const bool failed = mabn_conv_cuda_forward_norm(layer.conv, y.p, x.p, w.p, &norm,
                                                    layer.workspace->p, layer.stream) != MABN_OK;
    layer.wait();
    expect_joined(layer, p, MABN_CONV_FORWARD_NORM, false, &verdict);
    if (failed == mabn_conv_cuda_joins(layer.conv, MABN_CONV_FORWARD_NORM))
        verdict.add(failed ? mabn_error_message() : "runs, although not joined", 1, 0);
    if (!failed) {
        j.forward(residual, relu);
        verdict.add("y", y.values(), p.inferred(false, false, false), tolerance(p.dtype, by));
        verdict.add("z", z.values(), j.z, 2 * tolerance(p.dtype, by));
        verdict.add("square", share(square.values(), j.square, j.square_scale),
                    share_tolerance(p.dtype, by));
    }
    snprintf(what, sizeof what, "forward+norm%s%s", residual ? "+residual" : "",
             relu ? "+relu" : "");
    verdict.print(p.name(what, by).c_str());
}

static void test_forward_sums(struct joint &j, struct mabn_device *device)
{
    const struct problem &p = *j.p;
    struct mabn_conv_cuda_options options = options_of(p.dtype, true);
    gpu_array x(p.x, p.dtype), w(p.w, p.dtype), y(p.y.size(), p.dtype);
    gpu_values<float> sum(std::vector<float>(j.a.size())), square(std::vector<float>(j.a.size()));
    struct gpu_verdict verdict;

    options.after.sums = true;
    struct layer layer(device, p.shape, options);
    const char *const by = layer.by(MABN_CONV_FORWARD_SUMS);
    const bool failed =
        mabn_conv_cuda_forward_sums(layer.conv, y.p, x.p, w.p, sum.at(), square.at(),
                                    layer.workspace->p, layer.stream) != MABN_OK;
    layer.wait();
    expect_joined(layer, p, MABN_CONV_FORWARD_SUMS, true, &verdict);
    verdict.add("no other pass is", mabn_conv_cuda_joins(layer.conv, MABN_CONV_FORWARD_NORM), 0);
    if (failed == mabn_conv_cuda_joins(layer.conv, MABN_CONV_FORWARD_SUMS))
        verdict.add(failed ? mabn_error_message() : "runs, although not joined", 1, 0);
    if (!failed) {
        j.forward(false, false);
        verdict.add("y", y.values(), p.inferred(false, false, false), tolerance(p.dtype, by));
        verdict.add("sum", share(sum.values(), j.sum, j.sum_scale), share_tolerance(p.dtype, by));
        verdict.add("square", share(square.values(), j.square, j.square_scale),
                    share_tolerance(p.dtype, by));
    }
    verdict.print(p.name("forward+sums", by).c_str());
}

static void test_backward_norm(struct joint &j, struct mabn_device *device, bool add,
                               enum mabn_conv_mask mask, bool with_sum)
{
    static const char *const masks[] = {"", "+mask of x", "+mask of y"};
    const struct problem &p = *j.p;
    struct mabn_conv_cuda_options options = options_of(p.dtype, true);
    gpu_array dy(p.dy, p.dtype), w(p.w, p.dtype), dx_added(p.dx, p.dtype);
    gpu_array dx_alone(p.dx.size(), p.dtype), nx(j.nx, p.dtype), ny(j.ny, p.dtype);
    gpu_array &dx = add ? dx_added : dx_alone;
    gpu_values<float> a(j.a0), b(j.b0), dot(std::vector<float>(j.a0.size()));
    gpu_values<float> sum(std::vector<float>(j.a0.size()));
    const bool of_x = mask == MABN_CONV_MASK_X;
    struct gpu_verdict verdict;
    char what[80];

    options.before = {true, add, mask, with_sum};
    struct layer layer(device, p.shape, options);
    const char *const by = layer.by(MABN_CONV_BACKWARD_NORM);
    const struct mabn_conv_cuda_norm_in norm = {nx.p,
                                                mask == MABN_CONV_MASK_Y ? ny.p : NULL,
                                                of_x ? a.at() : NULL,
                                                of_x ? b.at() : NULL,
                                                dot.at(),
                                                with_sum ? sum.at() : NULL};
    const bool failed = mabn_conv_cuda_backward_norm(layer.conv, dx.p, dy.p, w.p, &norm,
                                                     layer.workspace->p, layer.stream) != MABN_OK;
    layer.wait();
    expect_joined(layer, p, MABN_CONV_BACKWARD_NORM, with_sum, &verdict);
    if (failed == mabn_conv_cuda_joins(layer.conv, MABN_CONV_BACKWARD_NORM))
        verdict.add(failed ? mabn_error_message() : "runs, although not joined", 1, 0);
    if (!failed) {
        j.backward(add, mask);
        verdict.add("dx", dx.values(), j.dx, 2 * tolerance(p.dtype, by));
        verdict.add("dot", share(dot.values(), j.dot, j.dot_scale), share_tolerance(p.dtype, by));
        if (with_sum)
            verdict.add("sum", share(sum.values(), j.dsum, j.dsum_scale),
                        share_tolerance(p.dtype, by));
    }
    snprintf(what, sizeof what, "backward+norm%s%s%s", add ? "+add" : "", masks[mask],
             with_sum ? "+sum" : "");
    verdict.print(p.name(what, by).c_str());
}

/* Every kind of normalization, on `device`. */
static void test_joined(const struct mabn_conv_shape &shape, enum mabn_dtype dtype,
                        struct mabn_device *device)
{
    struct problem p(shape, dtype);
    int order = 0;

    p.solve();
    struct joint j(p);
    for (int which = 0; which < 4; which++) {
        gpu_order(order++);
        test_forward_norm(j, device, which & 1, which & 2);
    }
    gpu_order(order++);
    test_forward_sums(j, device);
    for (int which = 0; which < 12; which++) {
        gpu_order(order++);
        test_backward_norm(j, device, which & 1, (enum mabn_conv_mask)(which / 2 % 3), which >= 6);
    }
    gpu_order(0);
}

static void test_joined_shapes(enum mabn_dtype dtype, struct mabn_device *device)
{
    static const struct mabn_conv_shape shapes[] = {
        {2, 6, 7, 3, 5, 3, 1, 1},    {1, 9, 8, 8, 4, 3, 2, 1},   {2, 5, 5, 4, 8, 1, 2, 0},
        {3, 12, 13, 8, 16, 3, 1, 1}, {1, 4, 4, 33, 16, 1, 1, 0}, {2, 9, 9, 16, 8, 1, 1, 0}};

    for (const struct mabn_conv_shape &shape : shapes)
        test_joined(shape, dtype, device);
}

/* Arrays too large to be timed: the first strategy is taken, and CUDA's error about the memory is
 * not left for others. */
static void test_no_room(void)
{
    const struct mabn_conv_shape large = {64, 512, 512, 16, 16, 1, 1, 0};
    struct mabn_conv_cuda_options options = options_of(MABN_DTYPE_BF16, true);
    struct problem p({2, 8, 8, 8, 8, 1, 1, 0}, MABN_DTYPE_BF16);
    struct mabn_conv_cuda *conv;

    options.tune = true;
    tap_ok(!mabn_conv_cuda_new(&conv, gpu, &large, &options) &&
               strcmp(mabn_conv_cuda_describe(conv, MABN_CONV_FORWARD), "reference"),
           "a choice by time without memory to try");
    mabn_conv_cuda_free(conv);
    p.solve();
    test_training(p, gpu, MABN_DTYPE_BF16, false, false);
}

/* Kernels that cuDNN compiles but that cannot run: a choice by time passes them over; without
 * timing, running them is an error. */
static void test_not_running(void)
{
    struct problem p({2, 6, 5, 8, 16, 3, 1, 1}, MABN_DTYPE_BF16);
    struct mabn_conv_cuda_options options = options_of(MABN_DTYPE_BF16, true);
    struct mabn_conv_cuda *conv;

#ifdef MABN_EXECUTOR
    executor::libraries.runs = false;
#endif
    p.solve();
    options.after.requested = options.before.requested = options.tune = true;
    if (mabn_conv_cuda_new(&conv, gpu, &p.shape, &options)) MABN_BUG("%s", mabn_error_message());
    tap_ok(!mabn_conv_cuda_joins(conv, MABN_CONV_FORWARD_NORM) &&
               !mabn_conv_cuda_joins(conv, MABN_CONV_BACKWARD_NORM),
           "kernels that were tried and do not run are not joined");
    mabn_conv_cuda_free(conv);
    set_offer(&offers[1]);
#ifdef MABN_EXECUTOR
    executor::libraries.runs = false;
#endif
    test_training(p, gpu, MABN_DTYPE_BF16, false, false);
    set_offer(&offers[0]);
}

/* Options that do not fit together, and passes that were not requested. */
static void test_refusals(void)
{
    const struct mabn_conv_shape shape = {1, 4, 4, 2, 3, 3, 1, 1},
                                 too_small = {1, 2, 2, 2, 3, 3, 1, 0};
    struct mabn_conv_cuda_options training = options_of(MABN_DTYPE_BF16, true), bad;
    struct mabn_conv_cuda *conv;

    tap_ok(mabn_conv_cuda_new(&conv, gpu, &too_small, &training) && !conv, "an empty result");
    bad = training;
    bad.relu = true;
    tap_ok(mabn_conv_cuda_new(&conv, gpu, &shape, &bad) && !conv, "ReLU in training");
    bad = training;
    bad.y_dtype = MABN_DTYPE_F16;
    tap_ok(mabn_conv_cuda_new(&conv, gpu, &shape, &bad) && !conv, "float16 from bfloat16");
    bad = training;
    bad.bias_dtype = MABN_DTYPE_F16;
    tap_ok(mabn_conv_cuda_new(&conv, gpu, &shape, &bad) && !conv, "a float16 bias to bfloat16");
    bad = training;
    bad.bias = bad.after.requested = true;
    tap_ok(mabn_conv_cuda_new(&conv, gpu, &shape, &bad) && !conv, "a bias and a normalization");
    bad = training;
    bad.bias = bad.after.sums = true;
    tap_ok(mabn_conv_cuda_new(&conv, gpu, &shape, &bad) && !conv, "a bias and sums");
    bad = training;
    bad.no_dx = bad.before.requested = true;
    tap_ok(mabn_conv_cuda_new(&conv, gpu, &shape, &bad) && !conv, "a norm of no data gradient");
    bad = options_of(MABN_DTYPE_BF16, false);
    bad.after.requested = true;
    tap_ok(mabn_conv_cuda_new(&conv, gpu, &shape, &bad) && !conv, "a normalization's inference");
    bad = training;
    bad.no_add = true;
    tap_ok(!mabn_conv_cuda_new(&conv, gpu, &shape, &bad) &&
               mabn_conv_cuda_backward_data(conv, NULL, NULL, NULL, true, NULL, NULL),
           "to add where that was ruled out");
    mabn_conv_cuda_free(conv);
    training.no_dx = training.reference = true;
    struct layer layer(gpu, shape, training);
    tap_ok(!mabn_conv_cuda_joins(layer.conv, MABN_CONV_FORWARD_NORM) &&
               !mabn_conv_cuda_joins(layer.conv, MABN_CONV_BACKWARD_NORM) &&
               !mabn_conv_cuda_joins(layer.conv, MABN_CONV_FORWARD_SUMS) &&
               !strcmp(layer.by(MABN_CONV_FORWARD_NORM), "none"),
           "nothing joins unasked");
    tap_ok(!strcmp(layer.by(MABN_CONV_FORWARD), "reference") &&
               !strcmp(layer.by(MABN_CONV_BACKWARD_DATA), "none") &&
               !strcmp(layer.by(MABN_CONV_BACKWARD_WEIGHTS), "reference"),
           "what was chosen is told");
}

/* ---- ResNet-50's shapes: the libraries against the plain kernels ---- */

static const struct mabn_conv_shape resnet[] = {
    {2, 224, 224, 4, 64, 7, 2, 3},    {2, 56, 56, 64, 64, 1, 1, 0},
    {2, 56, 56, 64, 64, 3, 1, 1},     {2, 56, 56, 64, 256, 1, 1, 0},
    {2, 56, 56, 256, 64, 1, 1, 0},    {2, 56, 56, 256, 128, 1, 1, 0},
    {2, 56, 56, 128, 128, 3, 2, 1},   {2, 28, 28, 128, 512, 1, 1, 0},
    {2, 56, 56, 256, 512, 1, 2, 0},   {2, 28, 28, 512, 128, 1, 1, 0},
    {2, 28, 28, 128, 128, 3, 1, 1},   {2, 28, 28, 512, 256, 1, 1, 0},
    {2, 28, 28, 256, 256, 3, 2, 1},   {2, 14, 14, 256, 1024, 1, 1, 0},
    {2, 28, 28, 512, 1024, 1, 2, 0},  {2, 14, 14, 1024, 256, 1, 1, 0},
    {2, 14, 14, 256, 256, 3, 1, 1},   {2, 14, 14, 1024, 512, 1, 1, 0},
    {2, 14, 14, 512, 512, 3, 2, 1},   {2, 7, 7, 512, 2048, 1, 1, 0},
    {2, 14, 14, 1024, 2048, 1, 2, 0}, {2, 7, 7, 2048, 512, 1, 1, 0},
    {2, 7, 7, 512, 512, 3, 1, 1},     {2, 1, 1, 2048, 1000, 1, 1, 0}};

struct results {
    std::vector<float> y, dx, dx_added, dw, z, square, dot, sum, squares, dsum;
    std::string by;
};

static struct results run_all(const struct problem &p, struct mabn_device *device, bool tune)
{
    struct mabn_conv_cuda_options options = options_of(p.dtype, true);
    gpu_array x(p.x, p.dtype), dy(p.dy, p.dtype), w(p.w, p.dtype), y(p.y.size(), p.dtype);
    gpu_array dx(p.dx.size(), p.dtype), dx_added(p.dx, p.dtype);
    gpu_values<float> dw(p.dw);

    options.tune = tune;
    struct layer layer(device, p.shape, options);
    void *const space = layer.workspace->p;
    if (mabn_conv_cuda_forward(layer.conv, y.p, x.p, w.p, NULL, space, layer.stream) ||
        mabn_conv_cuda_backward_data(layer.conv, dx.p, dy.p, w.p, false, space, layer.stream) ||
        mabn_conv_cuda_backward_data(layer.conv, dx_added.p, dy.p, w.p, true, space,
                                     layer.stream) ||
        mabn_conv_cuda_backward_weights(layer.conv, dw.at(), NULL, x.p, dy.p, space, layer.stream))
        printf("# %s\n", mabn_error_message());
    layer.wait();
    return {y.values(),
            dx.values(),
            dx_added.values(),
            dw.values(),
            {},
            {},
            {},
            {},
            {},
            {},
            std::string(layer.by(MABN_CONV_FORWARD)) + ", " + layer.by(MABN_CONV_BACKWARD_DATA) +
                ", " + layer.by(MABN_CONV_BACKWARD_WEIGHTS)};
}

static void test_resnet(const struct mabn_conv_shape &shape, bool tune)
{
    /* One unit in the last place between two roundings, and the gradient's own error. */
    const double two = 2 * gpu_tolerance(MABN_DTYPE_BF16) + 1e-4;
    const struct problem p(shape, MABN_DTYPE_BF16);
    const struct results want = run_all(p, NULL, false), got = run_all(p, gpu, tune);
    const struct results again = run_all(p, gpu, false);
    struct gpu_verdict verdict;

    verdict.add("y", got.y, want.y, two);
    verdict.add("dx", got.dx, want.dx, two);
    verdict.add("dx added to", got.dx_added, want.dx_added, 2 * two);
    verdict.add("dweight", got.dw, want.dw, two);
    if (!tune)
        verdict.add("the same again",
                    again.y == got.y && again.dx == got.dx && again.dw == got.dw ? 0 : 1, 0);
    verdict.print(p.name(tune ? "ResNet-50, tuned" : "ResNet-50", got.by.c_str()).c_str());
}

/* The same with a normalization on each side: the resulting arrays. Sums need not repeat. */
static struct results run_joined(const struct problem &p, const struct joint &j,
                                 struct mabn_device *device)
{
    struct mabn_conv_cuda_options options = options_of(p.dtype, true);
    gpu_array x(p.x, p.dtype), dy(p.dy, p.dtype), w(p.w, p.dtype), y(p.y.size(), p.dtype);
    gpu_array z(p.y.size(), p.dtype), residual(j.residual, p.dtype), dx(p.dx, p.dtype);
    gpu_array nx(j.nx, p.dtype), ny(j.ny, p.dtype);
    const std::vector<float> none(j.a.size()), none0(j.a0.size());
    gpu_values<float> a(j.a), b(j.b), square(none), sum(none), squares(none);
    gpu_values<float> a0(j.a0), b0(j.b0), dot(none0), dsum(none0);

    options.after = {true, true, true, true};
    options.before = {true, true, MABN_CONV_MASK_X, true};
    struct layer layer(device, p.shape, options);
    void *const space = layer.workspace->p;
    const struct mabn_conv_cuda_norm_out out = {z.p, residual.p, a.at(), b.at(), square.at()};
    const struct mabn_conv_cuda_norm_in in = {nx.p, ny.p, a0.at(), b0.at(), dot.at(), dsum.at()};
    struct results r;
    r.by = std::string(layer.by(MABN_CONV_FORWARD_NORM)) + ", " + layer.by(MABN_CONV_FORWARD_SUMS) +
           ", " + layer.by(MABN_CONV_BACKWARD_NORM);
    if (mabn_conv_cuda_joins(layer.conv, MABN_CONV_FORWARD_NORM)) {
        if (mabn_conv_cuda_forward_norm(layer.conv, y.p, x.p, w.p, &out, space, layer.stream))
            printf("# %s\n", mabn_error_message());
        layer.wait();
        r.y = y.values();
        r.z = z.values();
        r.square = square.values();
    }
    if (mabn_conv_cuda_joins(layer.conv, MABN_CONV_FORWARD_SUMS)) {
        if (mabn_conv_cuda_forward_sums(layer.conv, y.p, x.p, w.p, sum.at(), squares.at(), space,
                                        layer.stream))
            printf("# %s\n", mabn_error_message());
        layer.wait();
        r.sum = sum.values();
        r.squares = squares.values();
    }
    if (mabn_conv_cuda_joins(layer.conv, MABN_CONV_BACKWARD_NORM)) {
        if (mabn_conv_cuda_backward_norm(layer.conv, dx.p, dy.p, w.p, &in, space, layer.stream))
            printf("# %s\n", mabn_error_message());
        layer.wait();
        r.dx = dx.values();
        r.dot = dot.values();
        r.dsum = dsum.values();
    }
    return r;
}

static void test_resnet_joined(const struct mabn_conv_shape &shape, enum mabn_dtype dtype)
{
    const double two = 2 * gpu_tolerance(dtype) + 1e-4;
    const struct problem p(shape, dtype);
    const struct joint j(p);
    const struct results want = run_joined(p, j, NULL), got = run_joined(p, j, gpu);
    struct gpu_verdict verdict;

    if (!got.y.empty()) {
        verdict.add("y", got.y, want.y, two);
        verdict.add("z", got.z, want.z, 2 * two);
        verdict.add("square", got.square, want.square, two);
    }
    if (!got.sum.empty()) {
        verdict.add("sum", share(got.sum, want.sum, want.squares), two);
        verdict.add("squares", got.squares, want.squares, two);
    }
    if (!got.dx.empty()) {
        const std::vector<float> rows(want.dot.size(), (float)(shape.n * shape.h * shape.w));
        verdict.add("sum of dx", share(got.dsum, want.dsum, rows), two);
        verdict.add("dx", got.dx, want.dx, 2 * two);
        verdict.add("dot", share(got.dot, want.dot, rows), two);
    }
    verdict.print(p.name("ResNet-50 with norms", got.by.c_str()).c_str());
}

/* cuDNN compiles a kernel for each, which takes seconds: the most informative first, as long as
 * time is left. */
static void test_libraries_joined(void)
{
    const time_t end = time(NULL) + 45;

    test_resnet_joined(resnet[2], MABN_DTYPE_BF16);
    test_resnet_joined(resnet[4], MABN_DTYPE_BF16);
    test_joined({3, 12, 13, 8, 16, 3, 1, 1}, MABN_DTYPE_BF16, gpu);
    test_resnet_joined(resnet[13], MABN_DTYPE_F16);
    for (int i : {16, 6, 3, 19, 22, 10})
        if (time(NULL) < end) test_resnet_joined(resnet[i], MABN_DTYPE_BF16);
}

static void test_all(enum mabn_dtype dtype, struct mabn_device *device)
{
    static const struct mabn_conv_shape shapes[] = {
        {2, 6, 7, 3, 5, 3, 1, 1},   {1, 9, 8, 8, 4, 3, 2, 1},   {2, 5, 5, 4, 8, 1, 2, 0},
        {1, 11, 11, 3, 8, 7, 2, 3}, {4, 1, 1, 16, 10, 1, 1, 0}, {1, 7, 5, 1, 3, 5, 1, 2},
        {3, 4, 4, 33, 16, 1, 1, 0}, {1, 6, 6, 16, 33, 3, 1, 0}, {2, 8, 8, 8, 8, 1, 1, 0},
        {1, 5, 9, 5, 1, 5, 2, 2}};

    for (const struct mabn_conv_shape &shape : shapes)
        test_shape(shape, dtype, device);
    test_ends({2, 6, 5, 16, 24, 3, 1, 1}, dtype, device);
    if (device && offered->products) test_ends({2, 5, 6, 8, 16, 1, 1, 0}, dtype, device);
    /* On a GPU: below, as long as time is left. */
    if (!device || (!on_gpu && offered->joined && (offered->compiled || dtype != MABN_DTYPE_F32)))
        test_joined_shapes(dtype, device);
}

static void test_resnets(void)
{
    for (const struct mabn_conv_shape &shape : resnet)
        test_resnet(shape, false);
    test_resnet(resnet[4], true);
    test_libraries_joined();
}

int main(void)
{
    const enum mabn_dtype dtypes[] = {MABN_DTYPE_F32, MABN_DTYPE_BF16, MABN_DTYPE_F16};

    if (!gpu_ready()) return tap_done();
    set_offer(&offers[0]);
    if (mabn_device_new(&cpu, MABN_DEVICE_CPU, 1) || mabn_device_open(&gpu, "cuda", 1))
        MABN_BUG("%s", mabn_error_message());
    for (enum mabn_dtype dtype : dtypes)
        test_all(dtype, NULL);
    for (const struct offer &offer : offers) {
        if (on_gpu && &offer != offers) break;
        set_offer(&offer);
        gpu_late((&offer - offers) % 2 == 0);
        for (enum mabn_dtype dtype : dtypes)
            if (&offer == offers || dtype == MABN_DTYPE_BF16 ||
                (dtype == MABN_DTYPE_F32 && offer.f32))
                test_all(dtype, gpu);
        gpu_late(false);
    }
    set_offer(&offers[0]);
    test_refusals();
    if (on_gpu)
        test_resnets();
    else {
        test_no_room();
        test_not_running();
    }
    mabn_device_free(gpu);
    mabn_device_free(cpu);
#ifdef MABN_EXECUTOR
    tap_ok(executor::library_objects() == 0, "what was made of the libraries was freed");
#endif
    return tap_done();
}
