/* Whole networks on a CUDA device, compared with the same networks on the CPU: every norm,
 * inference with and without folding, save_memory, copies between devices, steps as graphs and as
 * single calls, results a step late, resuming, recorded statistics, every precision. */
#include <algorithm>
#include <functional>

#include "device/device.h"
#include "harness.h"
#include "told.h"
#include "model/model.h"
#include "net/losses.h"
#include "ops/loss.h"

#ifdef MABN_EXECUTOR
#include "libraries.h"
#endif

static struct mabn_device *cpu, *gpu;
static const struct mabn_params_sgd sgd = {0.05, 0.9, 1e-4, false, false, 0};

static void must(mabn_status status)
{
    if (status) MABN_BUG("%s", mabn_error_message());
}

struct description {
    struct mabn_model model;

    description(const char *arch, const char *norm, int norm_batch = 2)
    {
        must(mabn_model_init(&model, arch));
        must(mabn_model_set_norm(&model, norm));
        model.classes = 5;
        model.base_width = 8;
        model.stem = MABN_STEM_SMALL;
        model.centralize = MABN_CENTRALIZE_ON;
        for (int p = 0; p < MABN_MODEL_PARTS; p++) {
            model.norm[p].norm_batch = norm_batch;
            model.norm[p].window = 3;
            model.norm[p].r_start = 3;
            model.norm[p].groups = 2;
        }
    }
};

/* A net that frees itself. */
struct network {
    struct mabn_net *net = nullptr;

    network(const struct mabn_model &model, struct mabn_device *device, bool training,
            enum mabn_net_precision precision = MABN_NET_FP32,
            const std::function<void(struct mabn_net_options &)> &change = nullptr)
    {
        struct mabn_net_options o = {};
        o.batch = 6;
        o.height = 8;
        o.width = 9;
        o.training = training;
        o.precision = device == cpu ? MABN_NET_AUTO : precision;
        if (change) change(o);
        must(mabn_model_build(&net, device, &model, &o));
    }
    ~network()
    {
        mabn_net_free(net);
    }
    network(const network &) = delete;
    operator struct mabn_net *() const
    {
        return net;
    }
};

/* A batch that depends on `step`; one row has no label. */
static void fill(struct mabn_net *net, int step, double smoothing = 0.1)
{
    const struct mabn_shape s = mabn_net_input_shape(net);
    size_t n = 0;
    if (!mabn_shape_count(&s, &n)) MABN_BUG("shape");
    const std::vector<float> x = gpu_random(n, 100 + (uint64_t)step, MABN_DTYPE_F32, 0.2, 1);
    memcpy(mabn_net_input(net), x.data(), n * sizeof(float));
    std::vector<int32_t> labels;
    for (int i = 0; i < s.dim[0]; i++)
        labels.push_back(i == step % 6 ? -1 : (i * 3 + step) % mabn_net_classes(net));
    const struct mabn_net_labels given = {
        labels.data(), smoothing, (double)mabn_labelled(labels.data(), s.dim[0]), false, NULL};
    mabn_net_set_labels(net, "loss", &given);
}

struct outcome {
    std::vector<float> losses, logits;
    int skipped = 0;
};

/* Steps `from` to `to`−1, with results as late as the net allows. */
static outcome run_steps(struct mabn_net *net, int from, int to)
{
    outcome out;
    struct mabn_net_result r;
    const bool training =
        mabn_params_find(mabn_net_params(net), "fc.bias", MABN_PARAMS_MOMENTUM) >= 0;
    const auto fetch = [&] {
        must(mabn_net_result(net, &r));
        out.losses.push_back((float)mabn_net_loss_of(net, "loss"));
        out.skipped += r.skipped;
        const float *logits = mabn_net_logits(net);
        out.logits.insert(out.logits.end(), logits,
                          logits + mabn_net_batch(net) * mabn_net_classes(net));
    };
    for (int step = from; step < to; step++) {
        gpu_order(step);
        fill(net, step);
        must(mabn_net_step(net, training ? &sgd : NULL));
        if (mabn_net_behind(net) == mabn_net_depth(net)) fetch();
    }
    while (mabn_net_behind(net))
        fetch();
    gpu_order(0);
    return out;
}

/* The same in single calls. */
static std::vector<float> run_apart(struct mabn_net *net, int from, int to)
{
    std::vector<float> losses;
    for (int step = from; step < to; step++) {
        fill(net, step);
        must(mabn_net_forward(net));
        must(mabn_net_backward(net));
        must(mabn_net_update(net, &sgd));
        losses.push_back((float)mabn_net_loss_of(net, "loss"));
    }
    return losses;
}

static std::vector<float> tensor(const struct mabn_net *net, int index)
{
    const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(net), index);
    size_t n = 0;
    if (!mabn_shape_count(&t->shape, &n)) MABN_BUG("shape");
    std::vector<char> bytes(n * mabn_dtype_size(t->dtype));
    must(mabn_params_get(mabn_net_params(net), index, bytes.data(), bytes.size()));
    std::vector<float> v(n);
    for (size_t i = 0; i < n; i++) {
        int64_t whole;
        if (t->dtype == MABN_DTYPE_F32) memcpy(&v[i], &bytes[i * 4], 4);
        if (t->dtype != MABN_DTYPE_I64) continue;
        memcpy(&whole, &bytes[i * 8], 8);
        v[i] = (float)whole;
    }
    return v;
}

static void compare(struct gpu_verdict &verdict, const struct mabn_net *a, const struct mabn_net *b,
                    double tolerance)
{
    if (mabn_params_count(mabn_net_params(a)) != mabn_params_count(mabn_net_params(b)))
        verdict.add("tensors", 1, 0);
    for (int i = 0; i < mabn_params_count(mabn_net_params(a)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(a), i);
        char what[80];
        snprintf(what, sizeof what, "%s (role %d)", t->name, (int)t->role);
        verdict.add(what, tensor(a, i), tensor(b, i), tolerance);
    }
}

static void compare(struct gpu_verdict &verdict, const outcome &a, const outcome &b,
                    double tolerance)
{
    verdict.add("losses", a.losses, b.losses, tolerance);
    verdict.add("logits", a.logits, b.logits, tolerance);
}

/* Of cifar-resnet8: norms, and those whose output is not last read by a convolution. */
enum { NORMS = 9, NOT_BEFORE_CONV = 3 };

static double tolerance_of(enum mabn_net_precision p)
{
    return p == MABN_NET_BF16 ? 0.15 : p == MABN_NET_FP16 ? 0.08 : p == MABN_NET_TF32 ? 0.02 : 1e-4;
}

/* ---- cases ---- */

enum { STEPS = 6 }; /* past r_start, and more than one step of each graph */

static void test_training(const char *arch, const char *norm, enum mabn_net_precision precision,
                          bool save_memory, int steps)
{
    const description d(arch, norm);
    const auto change = [&](struct mabn_net_options &o) { o.save_memory = save_memory; };
    network want(d.model, cpu, true), got(d.model, gpu, true, precision, change);
    /* A deep network is chaotic, so rounding grows from step to step. */
    const double tolerance = steps == 1 ? 2e-3 : tolerance_of(precision);
    struct gpu_verdict verdict;
    char name[120];

    must(mabn_params_initialize(mabn_net_params(want), 7, MABN_PARAMS_INIT_FAN_OUT));
    must(mabn_params_initialize(mabn_net_params(got), 7, MABN_PARAMS_INIT_FAN_OUT));
    const outcome a = run_steps(got, 0, steps), b = run_steps(want, 0, steps);
    compare(verdict, a, b, tolerance);
    if (precision == MABN_NET_FP32) compare(verdict, got, want, tolerance);
    verdict.add("skipped", a.skipped, 0);

    /* Inference after training: folded, not folded, and on the CPU. */
    network eval(d.model, gpu, false, precision), on_cpu(d.model, cpu, false);
    network plain(d.model, gpu, false, precision,
                  [](struct mabn_net_options &o) { o.no_fold = true; });
    must(mabn_params_copy(mabn_net_params(eval), mabn_net_params(got)));
    must(mabn_params_copy(mabn_net_params(plain), mabn_net_params(got)));
    must(mabn_params_copy(mabn_net_params(on_cpu), mabn_net_params(got)));
    const outcome e = run_steps(on_cpu, 20, 22);
    compare(verdict, run_steps(eval, 20, 22), e, tolerance);
    compare(verdict, run_steps(plain, 20, 22), e, tolerance);
    snprintf(name, sizeof name, "%s, %s, %s%s: training and inference as on the CPU", arch, norm,
             mabn_net_precision_name(precision), save_memory ? ", saving memory" : "");
    verdict.print(name);
}

/* Norms over the whole batch whose statistics come from the neighbouring convolutions, which also
 * apply MABN from r_start on, compared with the CPU. On the executor also graphs against single
 * calls, and a choice by time, whatever it is. (On a GPU a library takes seconds for each kernel
 * that it compiles, and its sums need not repeat.) */
static void test_joined(const char *arch, const char *norm, enum mabn_net_precision precision,
                        bool save_memory, bool early, int steps)
{
    description d(arch, norm, 0);
    for (struct mabn_norm_options &options : d.model.norm)
        if (steps == 1) options.r_start = 1;
    d.model.stride_in_1x1 = early;
    const auto change = [&](struct mabn_net_options &o) {
        o.save_memory = save_memory;
        o.join = MABN_NET_JOIN_ALWAYS;
    };
    network want(d.model, cpu, true), got(d.model, gpu, true, precision, change);
    const double tolerance = steps == 1 ? 2e-3 : tolerance_of(precision);
    struct gpu_verdict verdict;
    char name[120];

    must(mabn_params_initialize(mabn_net_params(want), 7, MABN_PARAMS_INIT_FAN_OUT));
    must(mabn_params_initialize(mabn_net_params(got), 7, MABN_PARAMS_INIT_FAN_OUT));
    const outcome a = run_steps(got, 0, steps), b = run_steps(want, 0, steps);
    compare(verdict, a, b, tolerance);
    if (precision == MABN_NET_FP32) compare(verdict, got, want, tolerance);
#ifdef MABN_EXECUTOR
    network apart(d.model, gpu, true, precision, change);
    must(mabn_params_initialize(mabn_net_params(apart), 7, MABN_PARAMS_INIT_FAN_OUT));
    verdict.add("losses", a.losses, run_apart(apart, 0, steps), 0);
    compare(verdict, got, apart, 0);
    if (precision == MABN_NET_BF16) {
        network timed(d.model, gpu, true, precision,
                      [](struct mabn_net_options &o) { o.tune = true; });
        must(mabn_params_initialize(mabn_net_params(timed), 7, MABN_PARAMS_INIT_FAN_OUT));
        compare(verdict, run_steps(timed, 0, steps), b, tolerance);
    }
#endif
    snprintf(name, sizeof name, "%s, %s, %s%s: joined with convolutions", arch, norm,
             mabn_net_precision_name(precision), save_memory ? ", saving memory" : "");
    verdict.print(name);
}

#ifdef MABN_EXECUTOR
/* The launches of a step's norms. */
struct passes {
    int measure, measure_gradient, apply, apply_gradient;

    bool operator==(const struct passes &o) const
    {
        return measure == o.measure && measure_gradient == o.measure_gradient && apply == o.apply &&
               apply_gradient == o.apply_gradient;
    }
};

static struct passes launched(void)
{
    return {(int)gpu_launches("moments_kernel"), (int)gpu_launches("grad_moments_kernel"),
            (int)gpu_launches("apply_kernel"), (int)gpu_launches("grad_apply_kernel")};
}

static struct passes step_of(struct mabn_net *net, int step)
{
    const struct passes before = launched();
    run_apart(net, step, step + 1);
    const struct passes after = launched();
    return {after.measure - before.measure, after.measure_gradient - before.measure_gradient,
            after.apply - before.apply, after.apply_gradient - before.apply_gradient};
}

/* Joining saves the passes over memory that it is meant to save, in a network whose last norm is
 * followed by a pool. */
static void test_saved(const char *norm)
{
    const description d("cifar-resnet8", norm, 0);
    const bool mabn = !strcmp(norm, "mabn");
    struct gpu_verdict verdict;

    for (enum mabn_net_join join : {MABN_NET_JOIN_NEVER, MABN_NET_JOIN_ALWAYS}) {
        const bool joins = join == MABN_NET_JOIN_ALWAYS;
        network net(d.model, gpu, true, MABN_NET_BF16,
                    [&](struct mabn_net_options &o) { o.join = join; });
        must(mabn_params_initialize(mabn_net_params(net), 7, MABN_PARAMS_INIT_FAN_OUT));
        for (int step = 0; step < 3; step++) {
            const bool known = mabn && step == 2; /* r_start is 3 */
            const struct passes got = step_of(net, step);
            const struct passes want = {joins || known ? 0 : NORMS, joins ? NOT_BEFORE_CONV : NORMS,
                                        joins && known ? 0 : NORMS, NORMS};
            if (got == want) continue;
            printf("# step %d, join %d: %d %d %d %d, not %d %d %d %d\n", step, join, got.measure,
                   got.measure_gradient, got.apply, got.apply_gradient, want.measure,
                   want.measure_gradient, want.apply, want.apply_gradient);
            verdict.add("passes", 1, 0);
        }
    }
    verdict.print((std::string(norm) + ": joining saves the passes that it should").c_str());
}

/* In which precisions joining is tried without being asked for: for batch normalization not in
 * exact float32. */
static void test_precisions(void)
{
    const description d("cifar-resnet8", "bn", 0);
    struct gpu_verdict verdict;

    for (enum mabn_net_precision p : {MABN_NET_FP32, MABN_NET_TF32}) {
        const uint64_t before = gpu_launches("conv_forward_sums");
        network net(d.model, gpu, true, p, [](struct mabn_net_options &o) {
            o.tune = true;
            o.batch = 2;
        });
        const bool tried = gpu_launches("conv_forward_sums") > before;
        verdict.add(mabn_net_precision_name(p), tried != (p == MABN_NET_TF32), 0);
    }
    verdict.print("sums of float32 are not for exact float32");
}
#endif

static void test_step_apart(enum mabn_net_precision precision)
{
    const description d("cifar-resnet8", "mabn");
    network one(d.model, gpu, true, precision), apart(d.model, gpu, true, precision);
    struct gpu_verdict verdict;
    char name[120];

    must(mabn_params_initialize(mabn_net_params(one), 7, MABN_PARAMS_INIT_FAN_OUT));
    must(mabn_params_initialize(mabn_net_params(apart), 7, MABN_PARAMS_INIT_FAN_OUT));
    const outcome a = run_steps(one, 0, STEPS);
    verdict.add("losses", a.losses, run_apart(apart, 0, STEPS), 0);
    compare(verdict, one, apart, 0);
    snprintf(name, sizeof name, "%s: steps as graphs and calls one by one, the same bits",
             mabn_net_precision_name(precision));
    verdict.print(name);
}

/* A rank's steps: told of their gradients and with SyncBN over ranks, whole or with the update left to the
 * caller. */
static void test_ranks(void)
{
    const struct mabn_norm_sync sync = told_sync();
    const auto over_ranks = [&](struct mabn_net_options &o) { o.sync = &sync; };
    const description d("cifar-resnet8", "syncbn", 0);
    network alone(d.model, gpu, true), whole(d.model, gpu, true, MABN_NET_FP32, over_ranks),
        halves(d.model, gpu, true, MABN_NET_FP32, over_ranks);
    struct told told_whole = {gpu}, told_halves = {gpu};
    struct mabn_net_result r;
    struct gpu_verdict verdict;
    std::vector<float> losses;
    for (struct mabn_net *net :
         {(struct mabn_net *)alone, (struct mabn_net *)whole, (struct mabn_net *)halves})
        must(mabn_params_initialize(mabn_net_params(net), 7, MABN_PARAMS_INIT_FAN_OUT));
    mabn_net_tell_gradients(whole, told_ready, &told_whole);
    mabn_net_tell_gradients(halves, told_ready, &told_halves);
    const outcome want = run_steps(alone, 0, STEPS);
    gpu_late(true);
    const outcome got = run_steps(whole, 0, STEPS);
    for (int step = 0; step < STEPS; step++) {
        fill(halves, step);
        must(mabn_net_step(halves, NULL));
        if (!step)
            tap_fails(mabn_net_step(halves, NULL), MABN_ERR_ARG, "not fetched", "no second step");
        must(mabn_net_result(halves, &r));
        losses.push_back((float)mabn_net_loss_of(halves, "loss"));
        must(mabn_net_update(halves, &sgd));
    }
    gpu_late(false);
    verdict.add("losses", got.losses, want.losses, 1e-5);
    verdict.add("losses of halves", losses, got.losses, 0);
    compare(verdict, whole, halves, 0);
    verdict.print("a rank's steps as graphs");
    tap_ok(told_whole.backwards == 2 && told_whole.again == STEPS - 1,
           "gradients are told where they are queued, and again");
    tap_ok(told_halves.backwards == 2 && told_halves.again == STEPS - 1, "in halves, too");
}

/* In the middle of a run, everything that a checkpoint holds is copied into a new net. */
static void test_resume(const char *norm, enum mabn_net_join join)
{
    const bool joins = join == MABN_NET_JOIN_ALWAYS;
    description d("cifar-resnet8", norm, joins ? 0 : 2);
    const int half = joins ? 2 : STEPS;
    for (struct mabn_norm_options &options : d.model.norm)
        if (joins) options.r_start = half + 2; /* after the step where it resumes */
    const auto change = [&](struct mabn_net_options &o) { o.join = join; };
    network whole(d.model, gpu, true, MABN_NET_FP32, change);
    network first(d.model, gpu, true, MABN_NET_FP32, change);
    network second(d.model, gpu, true, MABN_NET_FP32, change);
    struct gpu_verdict verdict;

    must(mabn_params_initialize(mabn_net_params(whole), 7, MABN_PARAMS_INIT_FAN_OUT));
    must(mabn_params_initialize(mabn_net_params(first), 7, MABN_PARAMS_INIT_FAN_OUT));
    must(mabn_params_initialize(mabn_net_params(second), 8, MABN_PARAMS_INIT_FAN_OUT));
    run_steps(whole, 0, 2 * half + 1);
    run_steps(first, 0, half);
    run_steps(second, 0, half + 3); /* graphs that were made before must have no effect */
    for (int i = 0; i < mabn_params_count(mabn_net_params(first)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(first), i);
        size_t n = 0;
        if (t->role == MABN_PARAMS_GRADIENT || !mabn_shape_count(&t->shape, &n)) continue;
        std::vector<char> bytes(n * mabn_dtype_size(t->dtype));
        must(mabn_params_get(mabn_net_params(first), i, bytes.data(), bytes.size()));
        must(mabn_params_set(mabn_net_params(second), i, bytes.data(), bytes.size()));
    }
    run_steps(second, half, 2 * half + 1);
    compare(verdict, second, whole, 0);
    verdict.print(
        (std::string(norm) + (joins ? ", joined" : "") + ": going on from a state, the same bits")
            .c_str());
}

static void test_records(enum mabn_net_precision precision)
{
    const description d("cifar-resnet8", "mabn");
    network want(d.model, cpu, true), got(d.model, gpu, true, precision);
    const int channels[] = {1, 6};
    int counts[2] = {0, 0};
    struct gpu_verdict verdict;
    char name[80];

    for (struct mabn_net *net : {(struct mabn_net *)want, (struct mabn_net *)got})
        must(mabn_params_initialize(mabn_net_params(net), 7, MABN_PARAMS_INIT_FAN_OUT));
    for (int step = 0; step < 5; step++) {
        for (struct mabn_net *net : {(struct mabn_net *)want, (struct mabn_net *)got}) {
            mabn_net_record(net, channels, step % 2 ? 2 : 0, false);
            run_steps(net, step, step + 1);
        }
        const struct mabn_net_record *a = mabn_net_records(want, &counts[0]);
        const struct mabn_net_record *b = mabn_net_records(got, &counts[1]);
        verdict.add("count", counts[0] == counts[1] && !counts[0] == !(step % 2) ? 0 : 1, 0);
        for (int i = 0; i < std::min(counts[0], counts[1]); i++)
            verdict.add(a[i].layer,
                        std::vector<float>{(float)b[i].mu_x, (float)b[i].var_x,
                                           (float)b[i].mu_g * 10, (float)b[i].mu_gy * 10},
                        std::vector<float>{(float)a[i].mu_x, (float)a[i].var_x,
                                           (float)a[i].mu_g * 10, (float)a[i].mu_gy * 10},
                        tolerance_of(precision));
    }
    snprintf(name, sizeof name, "%s: recorded statistics", mabn_net_precision_name(precision));
    verdict.print(name);
}

/* A scale that overflows: the step is skipped and reported, the scale halved and kept. */
static void test_overflow(void)
{
    const description d("cifar-resnet8", "bn");
    network net(d.model, gpu, true, MABN_NET_FP16);
    struct mabn_net_loss_scale scale = {ldexp(1, 100), 7};
    struct mabn_net_result r;
    struct gpu_verdict verdict;
    const int fc = mabn_params_find(mabn_net_params(net), "fc.weight", MABN_PARAMS_VALUE);

    must(mabn_params_initialize(mabn_net_params(net), 7, MABN_PARAMS_INIT_FAN_OUT));
    const std::vector<float> before = tensor(net, fc);
    must(mabn_net_loss_scale_set(net, &scale));
    fill(net, 0, 0);
    must(mabn_net_step(net, &sgd));
    must(mabn_net_result(net, &r));
    verdict.add("skipped", r.skipped ? 0 : 1, 0);
    verdict.add("scale", fabs(r.loss_scale / ldexp(1, 99) - 1), 0);
    verdict.add("weights", tensor(net, fc), before, 0);
    scale.scale = 1024;
    must(mabn_net_loss_scale_set(net, &scale));
    fill(net, 0, 0);
    must(mabn_net_step(net, &sgd));
    must(mabn_net_result(net, &r));
    must(mabn_net_loss_scale_get(net, &scale));
    verdict.add("kept", !r.skipped && scale.scale == 1024 && scale.steps == 8 ? 0 : 1, 0);
    verdict.add("moved", tensor(net, fc) != before ? 0 : 1, 0);
    scale.scale = 1000;
    verdict.add("refused", mabn_net_loss_scale_set(net, &scale) == MABN_ERR_FORMAT ? 0 : 1, 0);
    verdict.print("fp16: a step that overflows is skipped");
}

/* Pictures given as bytes have the same results. */
static void test_bytes(enum mabn_net_precision precision)
{
    const description d("cifar-resnet8", "mabn");
    network floats(d.model, gpu, true, precision);
    network bytes(d.model, gpu, true, precision,
                  [](struct mabn_net_options &o) { o.bytes = true; });
    const std::vector<float> table = gpu_random(3 * 256, 5, MABN_DTYPE_F32, 0, 1);
    struct gpu_verdict verdict;
    struct mabn_net_result r;
    char name[80];

    must(mabn_params_initialize(mabn_net_params(floats), 7, MABN_PARAMS_INIT_FAN_OUT));
    must(mabn_params_initialize(mabn_net_params(bytes), 7, MABN_PARAMS_INIT_FAN_OUT));
    must(mabn_net_byte_table(bytes, table.data()));
    for (int step = 0; step < 4; step++) {
        uint8_t *to = mabn_net_bytes(bytes);
        float *x = mabn_net_input(floats);
        for (int i = 0; i < 6 * 8 * 9 * 3; i++) {
            to[i] = (uint8_t)(i * 31 + (i >> 5) + step * 7);
            x[i] = table[(size_t)(i % 3 * 256 + to[i])];
        }
        for (struct mabn_net *net : {(struct mabn_net *)floats, (struct mabn_net *)bytes}) {
            const int32_t classes[6] = {0, 1, 2, 3, 4, 0};
            const struct mabn_net_labels labels = {classes, 0.1, 6, false, NULL};
            mabn_net_set_labels(net, "loss", &labels);
            must(mabn_net_step(net, &sgd));
            must(mabn_net_result(net, &r));
        }
        verdict.add("loss",
                    fabs(mabn_net_loss_of(floats, "loss") - mabn_net_loss_of(bytes, "loss")), 0);
    }
    compare(verdict, bytes, floats, 0);
    snprintf(name, sizeof name, "%s: pictures as bytes", mabn_net_precision_name(precision));
    verdict.print(name);
}

/* Changes that a captured step cannot know of, and refusals. */
static void test_changes(void)
{
    const description d("cifar-resnet8", "bn");
    network want(d.model, cpu, true), got(d.model, gpu, true);
    struct gpu_verdict verdict;
    struct mabn_params_sgd changed = sgd;
    double seconds = 0;

    for (struct mabn_net *net : {(struct mabn_net *)want, (struct mabn_net *)got}) {
        must(mabn_params_initialize(mabn_net_params(net), 7, MABN_PARAMS_INIT_FAN_OUT));
        run_steps(net, 0, 3);
        for (int step = 0; step < 4; step++) {
            struct mabn_net_result r;
            fill(net, step, step > 1 ? 0.2 : 0);
            changed.lr = 0.05 / (step + 1);
            changed.nesterov = step > 1;
            changed.weight_decay = step > 2 ? 1e-2 : 1e-4;
            changed.no_decay_norm_bias = step > 2;
            must(mabn_net_step(net, &changed));
            must(mabn_net_result(net, &r));
        }
    }
    compare(verdict, got, want, 1e-4);
    for (int i = 0; i < 3; i++)
        must(mabn_net_time_convolutions(got, &seconds));
    verdict.add("seconds of convolutions", seconds > 0 ? 0 : 1, 0);
    const struct mabn_net_memory m = mabn_net_memory_of(got);
    verdict.add("memory", m.activations && m.parameters ? 0 : 1, 0);
    verdict.print("rates, decay, smoothing and momentum's kind change between steps");
}

#ifdef MABN_EXECUTOR
/* The same with the stand-ins for cuDNN and cuBLASLt. A real GPU has the libraries all the time. */
static void test_libraries(void)
{
    struct mabn_device *const without = gpu;
    const int64_t before = executor::library_runs();

    printf("# with libraries\n");
    executor::libraries.there = true;
    must(mabn_device_new(&gpu, MABN_DEVICE_CUDA, 1));
    gpu_late(true);
    test_training("cifar-resnet8", "mabn", MABN_NET_FP32, true, STEPS);
    test_training("cifar-resnet8", "bn", MABN_NET_TF32, false, 3);
    test_training("cifar-resnet8", "mabn", MABN_NET_BF16, false, STEPS);
    test_overflow();
    test_joined("cifar-resnet8", "mabn", MABN_NET_FP32, false, false, STEPS);
    test_joined("cifar-resnet8", "mabn", MABN_NET_BF16, true, false, STEPS);
    test_joined("cifar-resnet8", "bn", MABN_NET_TF32, true, false, 3);
    test_joined("resnet50", "stem=bn,layer1=mabn,layer2=syncbn,layer3=brn,layer4=mabn",
                MABN_NET_FP32, true, true, 1);
    gpu_late(false);
    tap_ok(executor::library_runs() > before + 1000, "the libraries computed");
    mabn_device_free(gpu);
    tap_ok(executor::library_objects() == 0, "what was made of the libraries was freed");
    gpu = without;
}
#endif

int main(void)
{
    if (!gpu_ready()) return tap_done();
    must(mabn_device_new(&cpu, MABN_DEVICE_CPU, 1));
    must(mabn_device_new(&gpu, MABN_DEVICE_CUDA, 1));
    for (const char *norm : {"bn", "brn", "gn", "in", "frozen", "frn", "evonorm-s0"})
        test_training("cifar-resnet8", norm, MABN_NET_FP32, false, 3);
    test_training("cifar-resnet8", "mabn", MABN_NET_FP32, false, STEPS);
    test_training("cifar-resnet8", "mabn", MABN_NET_FP32, true, STEPS);
    test_training("cifar-resnet8", "mabn", MABN_NET_TF32, false, 3);
    test_training("cifar-resnet8", "mabn", MABN_NET_BF16, false, STEPS);
    test_training("cifar-resnet8", "bn", MABN_NET_FP16, false, STEPS);
    test_training("resnet50", "stem=mabn,layer1=mabn,layer2=gn,layer3=gn,layer4=gn", MABN_NET_FP32,
                  true, 1);
    test_step_apart(MABN_NET_FP32);
    test_step_apart(MABN_NET_BF16);
    test_step_apart(MABN_NET_FP16);
    test_ranks();
    test_resume("mabn", MABN_NET_JOIN_AUTO);
    test_overflow();
    test_bytes(MABN_NET_FP32);
    test_bytes(MABN_NET_BF16);
    test_records(MABN_NET_FP32);
    test_records(MABN_NET_FP16);
    test_changes();
    test_joined("cifar-resnet8", "mabn", MABN_NET_FP32, false, false, STEPS);
    test_joined("cifar-resnet8", "mabn", MABN_NET_FP32, true, false, STEPS);
    test_joined("cifar-resnet8", "mabn", MABN_NET_BF16, false, false, STEPS);
    test_joined("cifar-resnet8", "mabn", MABN_NET_FP16, false, false, STEPS);
    test_joined("cifar-resnet8", "bn", MABN_NET_FP32, true, false, 3);
    test_joined("cifar-resnet8", "bn", MABN_NET_BF16, false, false, 3);
    test_joined("cifar-resnet8", "brn", MABN_NET_FP16, false, false, 3);
    test_joined("resnet50", "stem=bn,layer1=mabn,layer2=syncbn,layer3=brn,layer4=mabn",
                MABN_NET_FP32, true, true, 1);
#ifdef MABN_EXECUTOR
    test_libraries();
    test_saved("mabn");
    test_saved("bn");
    test_precisions();
    test_resume("mabn", MABN_NET_JOIN_ALWAYS);
#endif
    mabn_device_free(gpu);
    mabn_device_free(cpu);
    return tap_done();
}
