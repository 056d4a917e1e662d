/* Small whole networks. Forward and all gradients are compared with PyTorch (tests/golden/net.tsv,
 * made by make_net_fixtures.py), and folded with unfolded inference. Runs repeat bit for bit, also
 * with save_memory. Names and shapes, JSON descriptions, refusals. */
#include "base/mem.h"
#include "device.h"
#include "model/norm_request.h"
#include "net/losses.h"
#include "ops/loss.h"
#include "tap.h"

static struct mabn_device *device;

/* The fixtures' hash: numbers in [-1, 1) from a name and an index. */
static float *noise(const char *name, size_t count)
{
    uint32_t h = 2166136261u;
    float *values = mabn_xmalloc(count * sizeof *values);
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    for (size_t i = 0; i < count; i++) {
        uint32_t x = (uint32_t)i * 2654435761u + h;
        x ^= x >> 16;
        x *= 0x7feb352du;
        x ^= x >> 15;
        x *= 0x846ca68bu;
        x ^= x >> 16;
        values[i] = (float)(x / 2147483648.0 - 1.0);
    }
    return values;
}

static size_t tensor_size(const struct mabn_params_tensor *t)
{
    size_t n = 0;
    if (!mabn_shape_count(&t->shape, &n)) abort();
    return n;
}

/* Parameters as the fixture script makes them. */
static void fill_parameters(struct mabn_net *net)
{
    for (int i = 0; i < mabn_params_count(mabn_net_params(net)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(net), i);
        if (t->role != MABN_PARAMS_VALUE) continue;
        size_t n = tensor_size(t), length = strlen(t->name);
        float *v = noise(t->name, n);
        bool weight = length > 6 && !strcmp(t->name + length - 6, "weight");
        for (size_t k = 0; k < n; k++) {
            double x = v[k];
            if (t->shape.rank > 1)
                x *= sqrt(3.0 / (double)(n / (size_t)t->shape.dim[0]));
            else
                x = weight ? 1 + 0.25 * x : 0.25 * x;
            v[k] = (float)x;
        }
        if (mabn_params_set(mabn_net_params(net), i, v, n * sizeof *v)) abort();
        free(v);
    }
}

/* Row i has class (3·i + step) mod classes; row `without` has no label. */
static void label(struct mabn_net *net, int step, int without)
{
    int32_t labels[16];
    const int rows = mabn_net_batch(net);
    for (int i = 0; i < rows; i++)
        labels[i] = i == without ? -1 : (i * 3 + step) % mabn_net_classes(net);
    const struct mabn_net_labels given = {
        .labels = labels, .smoothing = 0.1, .normalizer = (double)mabn_labelled(labels, rows)};
    mabn_net_set_labels(net, "loss", &given);
}

static void fill_batch(struct mabn_net *net)
{
    struct mabn_shape s = mabn_net_input_shape(net);
    size_t n;
    if (!mabn_shape_count(&s, &n)) abort();
    float *x = noise("image", n);
    memcpy(mabn_net_input(net), x, n * sizeof *x);
    free(x);
    label(net, 0, -1);
}

/* ---- against PyTorch ---- */

struct fixture {
    const char *name, *arch, *norm;
    bool early;
    int width, batch, height, columns, channels, classes;
    double tolerance; /* relative, of gradients */
};

static const struct fixture fixtures[] = {
    {"cifar-bn", "cifar-resnet8", "bn", false, 8, 4, 12, 10, 1, 10, 1e-4},
    {"cifar-gn", "cifar-resnet8", "gn", false, 8, 3, 12, 10, 3, 10, 1e-4},
    {"cifar-ln", "cifar-resnet8", "ln", false, 8, 3, 12, 10, 3, 10, 1e-4},
    {"cifar-in", "cifar-resnet8", "in", false, 8, 3, 12, 12, 3, 10, 1e-4},
    {"basic-bn", "resnet10", "bn", false, 32, 4, 127, 129, 3, 7, 1e-3},
    {"bottleneck-bn", "resnet50", "bn", false, 4, 4, 64, 64, 3, 7, 2e-3},
    {"stride-in-1x1", "resnet50", "bn", true, 4, 4, 64, 64, 3, 7, 2e-3},
};

static struct mabn_model describe(const struct fixture *f)
{
    struct mabn_model model;
    if (mabn_model_init(&model, f->arch) || mabn_model_set_norm(&model, f->norm)) abort();
    model.base_width = f->width;
    model.channels = f->channels;
    model.classes = f->classes;
    model.stride_in_1x1 = f->early;
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        model.norm[p].groups = 2;
    return model;
}

/* params: borrowed; NULL: the network has its own. */
static struct mabn_net *build_over(struct mabn_params *params, const struct mabn_model *model,
                                   int batch, int height, int width, bool training)
{
    struct mabn_net *net;
    struct mabn_net_options options = {.batch = batch,
                                       .height = height,
                                       .width = width,
                                       .precision = MABN_NET_FP32,
                                       .training = training,
                                       .params = params};
    if (mabn_model_build(&net, device, model, &options)) {
        printf("# %s\n", mabn_error_message());
        abort();
    }
    return net;
}

static struct mabn_net *build(const struct mabn_model *model, int batch, int height, int width,
                              bool training)
{
    return build_over(NULL, model, batch, height, width, training);
}

/* The values of one row of the fixtures. Returns their number; 0: there is no such row. */
static size_t find_row(const char *table, const char *name, const char *what, double *values,
                       size_t most)
{
    char key[128];
    snprintf(key, sizeof key, "\n%s\t%s\t", name, what);
    const char *at = strstr(table, key);
    size_t n = 0;
    if (!at) return 0;
    at += strlen(key);
    while (n < most) {
        char *end;
        values[n++] = strtod(at, &end);
        if (*end != '\t') break;
        at = end + 1;
    }
    return n;
}

static double logits_error(const struct mabn_net *net, const double *want, size_t n)
{
    double error = 0;
    for (size_t i = 0; i < n; i++)
        error = fmax(error, fabs((double)mabn_net_logits(net)[i] - want[i]));
    return error;
}

/* The worst relative error of the gradients' lengths and projections. */
static double gradient_error(const struct mabn_net *net, const char *table, const char *name,
                             int *compared)
{
    double worst = 0, want[2];
    for (int i = 0; i < mabn_params_count(mabn_net_params(net)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(net), i);
        if (t->role != MABN_PARAMS_GRADIENT || find_row(table, name, t->name, want, 2) != 2)
            continue;
        size_t n = tensor_size(t);
        float *g = mabn_xmalloc(n * sizeof *g), *pattern = noise("pattern", n);
        double square = 0, dot = 0;
        if (mabn_params_get(mabn_net_params(net), i, g, n * sizeof *g)) abort();
        for (size_t k = 0; k < n; k++) {
            square += (double)g[k] * g[k];
            dot += (double)g[k] * pattern[k];
        }
        double error = fmax(fabs(sqrt(square) - want[0]), fabs(dot - want[1])) / (want[0] + 1e-6);
        if (!(error <= worst)) worst = error;
        (*compared)++;
        free(g);
        free(pattern);
    }
    return worst;
}

/* The recorded statistics of channel 1, which come in layer order. */
static void check_records(const struct mabn_net *net, const char *table, const char *name)
{
    int count, compared = 0;
    double worst = 0, want[4];
    const struct mabn_net_record *r = mabn_net_records(net, &count);
    for (int i = 0; i < count; i++) {
        char what[64];
        snprintf(what, sizeof what, "record:%s", r[i].layer);
        if (r[i].channel != 1 || find_row(table, name, what, want, 4) != 4) continue;
        const double got[4] = {r[i].mu_x, r[i].var_x, r[i].mu_g, r[i].mu_gy};
        for (int k = 0; k < 4; k++)
            worst = fmax(worst, fabs(got[k] - want[k]) / (fabs(want[k]) + 1e-3));
        compared++;
    }
    tap_ok(compared == 3 && worst < 2e-3, "%s: recorded statistics of %d layers (%.1e)", name,
           compared, worst);
}

static void check_fixture(const struct fixture *f, const char *table)
{
    const int channels[] = {0, 1, 1000};
    struct mabn_model model = describe(f);
    struct mabn_net *net = build(&model, f->batch, f->height, f->columns, true);
    double want[64], error;
    int compared = 0, parameters = 0;
    fill_parameters(net);
    fill_batch(net);
    size_t n = find_row(table, f->name, "logits", want, 64);
    mabn_status s = mabn_net_forward(net);
    error = logits_error(net, want, n);
    tap_ok(!s && n == (size_t)(f->batch * f->classes) && error < 1e-4, "%s: logits (%.1e)", f->name,
           error);
    find_row(table, f->name, "loss", want, 1);
    tap_close(mabn_net_loss_of(net, "loss"), want[0], 2e-5, "%s: loss", f->name);
    bool record = !strcmp(f->norm, "bn");
    if (record) mabn_net_record(net, channels, 3, true);
    if (!s) s = mabn_net_backward(net);
    if (record) check_records(net, table, f->name);
    error = gradient_error(net, table, f->name, &compared);
    for (int i = 0; i < mabn_params_count(mabn_net_params(net)); i++)
        parameters += mabn_params_at(mabn_net_params(net), i)->role == MABN_PARAMS_VALUE;
    tap_ok(!s && compared == parameters && error < f->tolerance, "%s: %d gradients (%.1e)", f->name,
           compared, error);
    /* Validation: another network, the state of this one. */
    struct mabn_net *eval = build(&model, f->batch, f->height, f->columns, false);
    s = mabn_params_copy(mabn_net_params(eval), mabn_net_params(net));
    memcpy(mabn_net_input(eval), mabn_net_input(net),
           sizeof(float) * (size_t)(f->batch * f->height * f->columns * f->channels));
    if (!s) s = mabn_net_forward(eval);
    n = find_row(table, f->name, "eval", want, 64);
    error = logits_error(eval, want, n);
    tap_ok(!s && error < 2e-4, "%s: inference after one step (%.1e)", f->name, error);
    mabn_net_free(eval);
    mabn_net_free(net);
}

static float *values_of(const struct mabn_net *net, int index, size_t *n)
{
    *n = tensor_size(mabn_params_at(mabn_net_params(net), index));
    float *values = mabn_xmalloc(*n * sizeof *values);
    if (mabn_params_get(mabn_net_params(net), index, values, *n * sizeof *values)) abort();
    return values;
}

/* Without decay an update does not move the mean of a centralized filter, which the outputs cannot show. */
static double means_moved(struct mabn_net *net, const char *name)
{
    const struct mabn_params_sgd sgd = {.lr = 1};
    const int i = mabn_params_find(mabn_net_params(net), name, MABN_PARAMS_VALUE);
    size_t n;
    float *before = values_of(net, i, &n);
    if (mabn_net_update(net, &sgd)) abort();
    float *after = values_of(net, i, &n);
    const size_t filter = n / (size_t)mabn_params_at(mabn_net_params(net), i)->shape.dim[0];
    double worst = 0;
    for (size_t f = 0; f < n; f += filter) {
        double sum = 0, size = 1e-9;
        for (size_t k = f; k < f + filter; k++) {
            sum += (double)after[k] - (double)before[k];
            size += fabs((double)after[k] - (double)before[k]);
        }
        worst = fmax(worst, fabs(sum) / size);
    }
    free(before);
    free(after);
    return worst;
}

/* Of the gradients without their filters' means, as they are read. */
static double norm_apart(const struct mabn_net *net)
{
    double sum = 0;
    for (int i = 0; i < mabn_params_count(mabn_net_params(net)); i++) {
        if (mabn_params_at(mabn_net_params(net), i)->role != MABN_PARAMS_GRADIENT) continue;
        size_t n;
        float *g = values_of(net, i, &n);
        for (size_t k = 0; k < n; k++)
            sum += (double)g[k] * (double)g[k];
        free(g);
    }
    return fabs(mabn_params_gradient_norm(mabn_net_params(net)) / sqrt(sum) - 1);
}

static void fill_image(struct mabn_net *net, int step)
{
    char name[24];
    size_t n;
    struct mabn_shape s = mabn_net_input_shape(net);
    if (!mabn_shape_count(&s, &n)) abort();
    snprintf(name, sizeof name, "image%d", step);
    float *x = noise(name, n);
    memcpy(mabn_net_input(net), x, n * sizeof *x);
    free(x);
}

struct errors {
    double logits, loss;
    size_t compared; /* logits */
};

/* One step of the recipe, compared with the fixture, which is float64. */
static void compare_step(struct mabn_net *net, int step, const char *table, const char *fixture,
                         struct errors *worst)
{
    const struct mabn_params_sgd sgd = {.lr = 0.05, .momentum = 0.9, .weight_decay = 1e-4};
    char name[24];
    double want[80];
    fill_image(net, step);
    label(net, step, -1);
    if (mabn_net_forward(net) || mabn_net_backward(net) || mabn_net_update(net, &sgd)) abort();
    snprintf(name, sizeof name, "logits%d", step);
    const size_t n = find_row(table, fixture, name, want, 80);
    worst->compared += n;
    worst->logits = fmax(worst->logits, logits_error(net, want, n));
    snprintf(name, sizeof name, "loss%d", step);
    const bool found = find_row(table, fixture, name, want, 1) == 1;
    worst->loss = fmax(worst->loss, found ? fabs(mabn_net_loss_of(net, "loss") - want[0]) : 1);
}

/* Six steps of the recipe: MABN's windows from step to step, centralized weights, momentum and
 * decay. */
static void check_steps(const char *table)
{
    const struct fixture f = {"mabn-steps", "cifar-resnet8", "mabn", false, 8, 8, 12, 12, 3, 10, 0};
    struct mabn_model model = describe(&f);
    struct errors errors = {0};
    double want[80], worst;
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        model.norm[p].norm_batch = 2;
        model.norm[p].window = 4;
    }
    struct mabn_net *net = build(&model, f.batch, f.height, f.columns, true);
    struct mabn_net *eval = build(&model, f.batch, f.height, f.columns, false);
    fill_parameters(net);
    for (int step = 0; step < 6; step++)
        compare_step(net, step, table, f.name, &errors);
    fill_image(eval, 5);
    tap_ok(errors.compared == 480 && errors.logits < 2e-5 && errors.loss < 1e-5,
           "six steps with MABN: logits (%.1e), losses (%.1e)", errors.logits, errors.loss);
    mabn_status s = mabn_params_copy(mabn_net_params(eval), mabn_net_params(net));
    if (!s) s = mabn_net_forward(eval);
    worst = logits_error(eval, want, find_row(table, f.name, "eval", want, 80));
    tap_ok(!s && worst < 2e-5, "inference after them, folded (%.1e)", worst);
    worst = norm_apart(net);
    tap_ok(worst < 1e-6, "the norm of all gradients (%.1e)", worst);
    worst =
        fmax(means_moved(net, "conv1.weight"), means_moved(net, "layer2.0.downsample.0.weight"));
    tap_ok(worst < 1e-3, "an update leaves the means of centralized filters (%.1e)", worst);
    mabn_net_free(eval);
    mabn_net_free(net);
}

/* Steps with two image sizes in turn: two plans over one store, compared with one network in
 * PyTorch. */
static void check_two_shapes(const char *table, const char *norm)
{
    struct fixture f = {NULL, "cifar-resnet8", norm, false, 8, 4, 0, 0, 3, 10, 0};
    struct mabn_model model = describe(&f);
    struct errors errors = {0};
    char name[32];
    double want[80];
    for (int p = 0; p < MABN_MODEL_PARTS && !strcmp(norm, "mabn"); p++) {
        model.norm[p].norm_batch = 2;
        model.norm[p].window = 2; /* one step, as in the fixture */
    }
    struct mabn_net *plans[2];
    plans[0] = build(&model, f.batch, 32, 32, true);
    struct mabn_params *params = mabn_net_params(plans[0]);
    plans[1] = build_over(params, &model, f.batch, 48, 40, true);
    struct mabn_net *eval = build_over(params, &model, f.batch, 48, 40, false);
    fill_parameters(plans[0]);
    snprintf(name, sizeof name, "two-shapes-%s", norm);
    for (int step = 0; step < 6; step++)
        compare_step(plans[step % 2], step, table, name, &errors);
    tap_ok(errors.compared == 240 && errors.logits < 5e-5 && errors.loss < 1e-5,
           "%s: steps of two shapes by turns: logits (%.1e), losses (%.1e)", norm, errors.logits,
           errors.loss);
    fill_image(eval, 5);
    const mabn_status s = mabn_net_forward(eval);
    const size_t n = find_row(table, name, "eval", want, 80);
    const double worst = logits_error(eval, want, n);
    tap_ok(!s && n == 40 && worst < 5e-5, "%s: inference after them (%.1e)", norm, worst);
    mabn_net_free(eval);
    mabn_net_free(plans[1]); /* it borrows the other's parameters */
    mabn_net_free(plans[0]);
}

static void check_against_pytorch(void)
{
    const char *path = "tests/golden/net.tsv";
    FILE *file = fopen(path, "r");
    if (!file) {
        tap_ok(0, "cannot open %s: run the tests from the top folder", path);
        return;
    }
    char *table = mabn_xcalloc(1, 1 << 20);
    size_t length = fread(table, 1, (1 << 20) - 1, file);
    table[length] = 0;
    fclose(file);
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++)
        check_fixture(&fixtures[i], table);
    check_steps(table);
    check_two_shapes(table, "mabn");
    check_two_shapes(table, "bn");
    free(table);
}

/* ---- one network against itself ---- */

enum { STEPS = 4 };

/* A few steps; the bytes of all parameters and state afterwards. */
static char *train(const struct mabn_model *model, bool save_memory, size_t *bytes,
                   size_t *activations)
{
    struct mabn_net *net;
    struct mabn_net_options options = {.batch = 6,
                                       .height = 16,
                                       .width = 16,
                                       .precision = MABN_NET_FP32,
                                       .training = true,
                                       .save_memory = save_memory};
    struct mabn_params_sgd sgd = {.lr = 0.05, .momentum = 0.9, .weight_decay = 1e-4};
    if (mabn_model_build(&net, device, model, &options)) abort();
    if (mabn_params_initialize(mabn_net_params(net), 3, MABN_PARAMS_INIT_FAN_OUT)) abort();
    fill_batch(net);
    for (int i = 0; i < STEPS; i++)
        if (mabn_net_forward(net) || mabn_net_backward(net) || mabn_net_update(net, &sgd)) abort();
    char *all = NULL;
    *bytes = 0;
    *activations = mabn_net_memory_of(net).activations;
    for (int i = 0; i < mabn_params_count(mabn_net_params(net)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(net), i);
        size_t size = tensor_size(t) * mabn_dtype_size(t->dtype);
        all = mabn_xrealloc(all, *bytes + size);
        if (mabn_params_get(mabn_net_params(net), i, all + *bytes, size)) abort();
        *bytes += size;
    }
    mabn_net_free(net);
    return all;
}

/* Saving memory drops the outputs of norms, those with a shortcut where the shortcut stays. */
static void check_repeats(const char *arch, const char *norm, double share)
{
    struct mabn_model model;
    size_t bytes[3], activations[3];
    if (mabn_model_init(&model, arch) || mabn_model_set_norm(&model, norm)) abort();
    model.stem = MABN_STEM_SMALL;
    model.base_width = 32; /* 64 and more channels from layer2 on, so Winograd is used too */
    model.classes = 5;
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        model.norm[p].norm_batch = 2;
        model.norm[p].window = 4;
    }
    char *first = train(&model, false, &bytes[0], &activations[0]);
    char *second = train(&model, false, &bytes[1], &activations[1]);
    char *saving = train(&model, true, &bytes[2], &activations[2]);
    const double saved = (double)activations[2] / (double)activations[0];
    tap_ok(bytes[0] == bytes[1] && !memcmp(first, second, bytes[0]),
           "%s, %s: two runs, the same bits", arch, norm);
    tap_ok(bytes[0] == bytes[2] && !memcmp(first, saving, bytes[0]),
           "%s, %s: saving memory, the same bits", arch, norm);
    tap_ok(saved < share, "%s, %s: %.2f of the activations", arch, norm, saved);
    free(first);
    free(second);
    free(saving);
}

/* ---- several plans over one store ---- */

static struct mabn_net *plan_over(struct mabn_params *params, const struct mabn_model *model,
                                  int height, int width, bool training)
{
    struct mabn_net *net = build_over(params, model, 4, height, width, training);
    fill_batch(net);
    return net;
}

static void one_step(struct mabn_net *net)
{
    const struct mabn_params_sgd sgd = {.lr = 0.05, .weight_decay = 1e-4};
    if (mabn_net_forward(net) || mabn_net_backward(net) || mabn_net_update(net, &sgd)) abort();
}

static bool same_values(const struct mabn_net *a, const struct mabn_net *b)
{
    size_t n, m;
    const float *p = mabn_params_values(mabn_net_params(a), &n);
    const float *q = mabn_params_values(mabn_net_params(b), &m);
    float *x = mabn_xmalloc(n * sizeof *x), *y = mabn_xmalloc(m * sizeof *y);
    if (mabn_device_get(device, x, p, n * sizeof *x) ||
        mabn_device_get(device, y, q, m * sizeof *y))
        abort();
    const bool same = n == m && !memcmp(x, y, n * sizeof *x);
    free(x);
    free(y);
    return same;
}

/* Steps alternate between two shapes over one store, and between two networks that copy their
 * parameters to each other. A plan for inference that borrows the store sees the same as one that
 * got a copy. */
static void check_two_plans(const char *norm)
{
    struct mabn_model model;
    struct mabn_params *params;
    if (mabn_model_init(&model, "cifar-resnet8") || mabn_model_set_norm(&model, norm)) abort();
    if (mabn_params_new(&params, device)) abort();
    struct mabn_net *one = plan_over(params, &model, 32, 32, true),
                    *two = plan_over(params, &model, 48, 40, true),
                    *seen = plan_over(params, &model, 32, 32, false);
    struct mabn_net *first = plan_over(NULL, &model, 32, 32, true),
                    *second = plan_over(NULL, &model, 48, 40, true),
                    *copied = plan_over(NULL, &model, 32, 32, false);
    if (mabn_params_initialize(params, 4, MABN_PARAMS_INIT_FAN_OUT) ||
        mabn_params_initialize(mabn_net_params(first), 4, MABN_PARAMS_INIT_FAN_OUT))
        abort();
    for (int i = 0; i < 2; i++) {
        one_step(one);
        one_step(first);
        if (mabn_net_forward(seen) ||
            mabn_params_copy(mabn_net_params(second), mabn_net_params(first)))
            abort();
        one_step(two);
        one_step(second);
        if (mabn_params_copy(mabn_net_params(first), mabn_net_params(second))) abort();
    }
    tap_ok(same_values(one, first), "%s: two shapes over one store", norm);
    if (mabn_params_copy(mabn_net_params(copied), params) || mabn_net_forward(seen) ||
        mabn_net_forward(copied))
        abort();
    tap_ok(!memcmp(mabn_net_logits(seen), mabn_net_logits(copied), 40 * sizeof(float)),
           "%s: inference that borrows sees the newest", norm);
    struct mabn_net *nets[] = {one, two, seen, first, second, copied};
    for (int i = 0; i < 6; i++)
        mabn_net_free(nets[i]);
    mabn_params_free(params);
}

/* Two inference plans over one store pack their weights once, and each sees new values. */
static void check_shared_packing(void)
{
    struct mabn_model model;
    struct mabn_params *params;
    if (mabn_model_init(&model, "cifar-resnet8") || mabn_model_set_norm(&model, "bn") ||
        mabn_params_new(&params, device))
        abort();
    struct mabn_net *trained = plan_over(NULL, &model, 32, 32, true),
                    *one = plan_over(params, &model, 32, 32, false);
    const size_t bytes = mabn_net_memory_of(one).parameters;
    /* For another shape oneDNN may want other layouts; for the same one it does not. */
    struct mabn_net *again = plan_over(params, &model, 32, 32, false);
    if (!getenv("MABN_TEST_DEVICE"))
        tap_ok(bytes > 0 && mabn_net_memory_of(again).parameters == bytes,
               "a second plan takes no memory for weights");
    mabn_net_free(again);
    struct mabn_net *two = plan_over(params, &model, 48, 40, false),
                    *alone = plan_over(NULL, &model, 48, 40, false);
    if (mabn_params_initialize(mabn_net_params(trained), 4, MABN_PARAMS_INIT_FAN_OUT)) abort();
    for (int i = 0; i < 3; i++) {
        one_step(trained);
        if (mabn_params_copy(params, mabn_net_params(trained)) ||
            mabn_params_copy(mabn_net_params(alone), params))
            abort();
        if (i < 2 && mabn_net_forward(one)) abort(); /* it packs for both */
        if (mabn_net_forward(two) || mabn_net_forward(alone)) abort();
        tap_ok(!memcmp(mabn_net_logits(two), mabn_net_logits(alone), 40 * sizeof(float)),
               "weights packed for two plans, values %d: as for one", i);
        if (i == 1) mabn_net_free(one); /* the other keeps them */
    }
    mabn_net_free(two);
    mabn_net_free(alone);
    mabn_net_free(trained);
    mabn_params_free(params);
}

static void check_folding(const char *arch, const char *norm)
{
    struct mabn_model model;
    if (mabn_model_init(&model, arch) || mabn_model_set_norm(&model, norm)) abort();
    model.classes = 10;
    model.base_width = 16;
    model.centralize = MABN_CENTRALIZE_ON;
    struct mabn_net *net = build(&model, 4, 64, 64, true), *eval[2];
    struct mabn_net_options options = {
        .batch = 4, .height = 64, .width = 64, .precision = MABN_NET_FP32};
    struct mabn_params_sgd sgd = {.lr = 0.01};
    double error = 0, size = 0;
    if (mabn_params_initialize(mabn_net_params(net), 5, MABN_PARAMS_INIT_FAN_OUT)) abort();
    fill_batch(net);
    for (int i = 0; i < 2; i++)
        if (mabn_net_forward(net) || mabn_net_backward(net) || mabn_net_update(net, &sgd)) abort();
    for (int i = 0; i < 2; i++) {
        options.no_fold = i;
        if (mabn_model_build(&eval[i], device, &model, &options) ||
            mabn_params_copy(mabn_net_params(eval[i]), mabn_net_params(net)))
            abort();
        fill_batch(eval[i]);
        if (mabn_net_forward(eval[i])) abort();
    }
    for (int i = 0; i < 40; i++) {
        double a = mabn_net_logits(eval[0])[i], b = mabn_net_logits(eval[1])[i];
        error = fmax(error, fabs(a - b));
        size = fmax(size, fabs(b));
    }
    tap_ok(error <= 1e-4 * fmax(1, size) && size > 0, "%s, %s: folded as unfolded (%.1e of %.1e)",
           arch, norm, error, size);
    mabn_net_free(eval[0]);
    mabn_net_free(eval[1]);
    mabn_net_free(net);
}

/* ---- taking weights ---- */

static double zeros(struct mabn_net *net)
{
    size_t count, none = 0;
    const float *values = mabn_params_values(mabn_net_params(net), &count);
    for (size_t i = 0; i < count; i++)
        none += values[i] == 0;
    return (double)none / (double)count;
}

/* A plan that takes its weights computes the same bits, again and again, and the store has lost them. */
static void check_taken(const char *arch, bool no_fold)
{
    struct mabn_model model;
    if (mabn_model_init(&model, arch) || mabn_model_set_norm(&model, "bn")) abort();
    model.classes = 10;
    model.base_width = 16;
    struct mabn_net *nets[2];
    struct mabn_net_options options = {
        .batch = 2, .height = 64, .width = 64, .precision = MABN_NET_FP32, .no_fold = no_fold};
    for (int i = 0; i < 2; i++) {
        options.takes_weights = i;
        if (mabn_model_build(&nets[i], device, &model, &options) ||
            mabn_params_initialize(mabn_net_params(nets[i]), 5, MABN_PARAMS_INIT_FAN_OUT))
            abort();
    }
    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < 2; i++) {
            fill_image(nets[i], step);
            if (mabn_net_forward(nets[i])) abort();
        }
        tap_ok(!memcmp(mabn_net_logits(nets[0]), mabn_net_logits(nets[1]), 20 * sizeof(float)),
               "%s: run %d over weights that were taken: the same bits", arch, step);
    }
    if (!getenv("MABN_TEST_DEVICE"))
        tap_ok(zeros(nets[0]) < 0.1 && zeros(nets[1]) > 0.9,
               "%s: the originals of taken weights have no memory", arch);
    for (int i = 0; i < 2; i++)
        mabn_net_free(nets[i]);
}

/* ---- a step in one call ---- */

static double worst_difference(const struct mabn_net *a, const struct mabn_net *b)
{
    double worst = 0;
    for (int i = 0; i < mabn_params_count(mabn_net_params(a)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(a), i);
        size_t n = tensor_size(t), bytes = n * mabn_dtype_size(t->dtype);
        float *x = mabn_xmalloc(bytes), *y = mabn_xmalloc(bytes);
        if (mabn_params_get(mabn_net_params(a), i, x, bytes) ||
            mabn_params_get(mabn_net_params(b), i, y, bytes))
            abort();
        for (size_t k = 0; t->dtype == MABN_DTYPE_F32 && k < n; k++)
            worst = fmax(worst, fabs((double)x[k] - y[k]));
        if (t->dtype != MABN_DTYPE_F32 && memcmp(x, y, bytes)) worst = INFINITY;
        free(x);
        free(y);
    }
    return worst;
}

static struct mabn_model small_mabn(void)
{
    struct mabn_model model;
    if (mabn_model_init(&model, "cifar-resnet8") || mabn_model_set_norm(&model, "mabn")) abort();
    model.classes = 7;
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        model.norm[p].norm_batch = 2;
        model.norm[p].window = 3;
    }
    return model;
}

static void check_step(void)
{
    const struct mabn_params_sgd sgd = {.lr = 0.05, .momentum = 0.9, .weight_decay = 1e-4};
    struct mabn_model model = small_mabn();
    struct mabn_net *one = build(&model, 6, 12, 12, true), *apart = build(&model, 6, 12, 12, true);
    struct mabn_net *eval = build(&model, 6, 12, 12, false);
    struct mabn_net_result r;
    bool same = true;
    tap_fails(mabn_net_result(one, &r), MABN_ERR_ARG, "no step", "a result without a step");
    if (mabn_params_initialize(mabn_net_params(one), 3, MABN_PARAMS_INIT_FAN_OUT)) abort();
    if (mabn_params_initialize(mabn_net_params(apart), 3, MABN_PARAMS_INIT_FAN_OUT)) abort();
    for (int step = 0; step < STEPS; step++) {
        fill_batch(one);
        fill_batch(apart);
        label(one, 0, step);
        label(apart, 0, step);
        if (mabn_net_forward(apart) || mabn_net_backward(apart) || mabn_net_update(apart, &sgd))
            abort();
        if (mabn_net_step(one, &sgd) || mabn_net_behind(one) != 1) abort();
        while (mabn_net_behind(one))
            if (mabn_net_result(one, &r)) abort();
        same = same && mabn_net_loss_of(one, "loss") == mabn_net_loss_of(apart, "loss") &&
               !r.skipped && r.loss_scale == 1 &&
               !memcmp(mabn_net_logits(one), mabn_net_logits(apart), 42 * sizeof(float));
    }
    tap_ok(same, "steps in one call: the results of the calls apart");
    double worst = worst_difference(one, apart);
    tap_ok(worst == 0, "and the same network (%.1e)", worst);

    for (int i = 0; i < mabn_net_depth(one); i++)
        if (mabn_net_step(one, &sgd)) abort();
    tap_fails(mabn_net_step(one, &sgd), MABN_ERR_ARG, "not fetched", "too far behind");
    tap_fails(mabn_net_step(eval, &sgd), MABN_ERR_ARG, "inference", "an update in inference");
    if (mabn_params_copy(mabn_net_params(eval), mabn_net_params(one))) abort();
    fill_batch(eval);
    mabn_status s = mabn_net_step(eval, NULL);
    if (!s) s = mabn_net_result(eval, &r);
    float *logits = mabn_xmalloc(42 * sizeof *logits);
    memcpy(logits, mabn_net_logits(eval), 42 * sizeof *logits);
    const double loss = mabn_net_loss_of(eval, "loss");
    fill_batch(eval);
    if (mabn_net_forward(eval)) abort();
    tap_ok(!s && mabn_net_loss_of(eval, "loss") == loss && loss > 0 &&
               !memcmp(logits, mabn_net_logits(eval), 42 * sizeof *logits),
           "inference in one call");
    free(logits);

    mabn_net_free(one);
    mabn_net_free(apart);
    mabn_net_free(eval);
}

static void check_precision(void)
{
    int p = MABN_NET_AUTO;
    struct mabn_model model = small_mabn();
    struct mabn_net *net;
    struct mabn_net_options options = {
        .batch = 1, .height = 8, .width = 8, .precision = MABN_NET_FP16};
    tap_status(mabn_word_parse(&p, mabn_net_precisions, "precision", "tf32"),
               "a precision by name");
    tap_str_eq(mabn_net_precision_name((enum mabn_net_precision)p), "tf32", "and back");
    tap_fails(mabn_word_parse(&p, mabn_net_precisions, "precision", "fp8"), MABN_ERR_ARG, "bf16",
              "an unknown one");
    if (test_device_is_cpu(device))
        tap_fails(mabn_model_build(&net, device, &model, &options), MABN_ERR_UNSUPPORTED, "fp32",
                  "fp16 on the CPU");
}

/* ---- descriptions ---- */

static void check_names(void)
{
    struct mabn_model model;
    if (mabn_model_init(&model, "resnet50") || mabn_model_set_norm(&model, "mabn")) abort();
    struct mabn_net *net = build(&model, 2, 32, 32, true);
    int entries = 0;
    size_t values = 0;
    for (int i = 0; i < mabn_params_count(mabn_net_params(net)); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(mabn_net_params(net), i);
        entries += t->role == MABN_PARAMS_VALUE || t->role == MABN_PARAMS_STATE;
        if (t->role == MABN_PARAMS_VALUE) values += tensor_size(t);
    }
    tap_ok(entries == 426, "ResNet-50 with MABN has the reference's 426 entries (%d)", entries);
    tap_ok(values == 25557032, "and PyTorch's 25557032 parameters (%zu)", values);
    int i =
        mabn_params_find(mabn_net_params(net), "layer4.0.downsample.0.weight", MABN_PARAMS_VALUE);
    struct mabn_shape want = MABN_SHAPE(4, 2048, 1024, 1, 1);
    tap_ok(i >= 0 && mabn_shape_equal(&mabn_params_at(mabn_net_params(net), i)->shape, &want),
           "shapes are the files'");
    tap_ok(mabn_params_find(mabn_net_params(net), "conv1.weight", MABN_PARAMS_MOMENTUM) >= 0 &&
               mabn_params_find(mabn_net_params(net), "bn1.iters", MABN_PARAMS_STATE) >= 0 &&
               mabn_params_find(mabn_net_params(net), "bn1.iters", MABN_PARAMS_VALUE) < 0,
           "tensors are found by name and role");
    float x;
    tap_fails(mabn_params_get(mabn_net_params(net), i, &x, sizeof x), MABN_ERR_ARG, "4 bytes given",
              "a buffer of the wrong size");
    mabn_net_free(net);
}

static void check_json(void)
{
    struct mabn_model model, again;
    struct mabn_str json, back;
    mabn_str_init(&json);
    mabn_str_init(&back);
    if (mabn_model_init(&model, "resnet34") ||
        mabn_model_set_norm(&model, "body=mabn,stem=frozen,layer3=gn"))
        abort();
    model.classes = 12;
    model.centralize = MABN_CENTRALIZE_OFF;
    model.norm[MABN_PART_LAYER1].window = 7;
    model.norm[MABN_PART_LAYER1].window_rule = MABN_WINDOW_ITERATION;
    mabn_model_to_json(&model, &json);
    tap_status(mabn_model_from_json(&again, json.text), "a description reads back");
    mabn_model_to_json(&again, &back);
    tap_str_eq(back.text, json.text, "as it was");
    mabn_str_clear(&back);
    mabn_model_norm_text(&again, &back);
    tap_str_eq(back.text, "stem=frozen,layer1=mabn,layer2=mabn,layer3=gn,layer4=mabn",
               "norms part by part");
    again.norm[MABN_PART_LAYER1].momentum = 0.5;
    tap_status(mabn_model_set_norm(&again, "layer1=bn,body=mabn"), "norms chosen again");
    tap_ok(again.norm[MABN_PART_LAYER1].window == 7 &&
               again.norm[MABN_PART_LAYER1].momentum == 0.5 &&
               again.norm[MABN_PART_LAYER1].window_rule == MABN_WINDOW_ITERATION,
           "a part that keeps its kind keeps its settings");
    tap_ok(again.norm[MABN_PART_LAYER3].window == 16, "another has the defaults");
    const struct mabn_norm_request request = {.norm = "mabn",
                                              .norm_batch = -1,
                                              .window = 3,
                                              .window_rule = -1,
                                              .warmup = -1,
                                              .r_start = -1,
                                              .momentum = 0.25};
    tap_status(mabn_model_request_norm(&again, &request), "with settings asked");
    tap_ok(again.norm[MABN_PART_LAYER1].window == 3 &&
               again.norm[MABN_PART_LAYER1].momentum == 0.25 &&
               again.norm[MABN_PART_LAYER1].window_rule == MABN_WINDOW_ITERATION,
           "what is asked overrides, the rest stays");
    tap_fails(mabn_model_from_json(&again, "{\"classes\":3}"), MABN_ERR_FORMAT, "architecture",
              "no architecture");
    tap_fails(mabn_model_from_json(&again, "{\"arch\":\"resnet50\",\"stem\":\"tiny\"}"),
              MABN_ERR_FORMAT, "tiny", "an unknown stem");
    tap_fails(
        mabn_model_from_json(&again, "{\"arch\":\"resnet50\",\"norm\":{\"stem\":{\"kind\":1}}}"),
        MABN_ERR_FORMAT, "norm.stem.kind", "a number for a kind");
    tap_fails(mabn_model_init(&model, "vgg16"), MABN_ERR_ARG, "cifar-resnet20",
              "an unknown architecture lists the known");
    tap_fails(mabn_model_set_norm(&again, "head=bn"), MABN_ERR_ARG, "expected body, stem, layer1",
              "an unknown part");
    tap_fails(mabn_model_set_norm(&again, "bnn"), MABN_ERR_ARG, "bnn", "an unknown norm");
    mabn_str_release(&json);
    mabn_str_release(&back);
}

static void check_refusals(void)
{
    struct mabn_model model;
    struct mabn_net *net;
    struct mabn_net_options options = {.batch = 1, .height = 1, .width = 1};
    if (mabn_model_init(&model, "resnet18")) abort();
    tap_status(mabn_model_build(&net, device, &model, &options),
               "one pixel is enough for ResNet-18");
    tap_fails(mabn_net_backward(net), MABN_ERR_ARG, "inference", "no backward in inference");
    mabn_net_free(net);
    if (mabn_model_set_norm(&model, "layer2=gn")) abort();
    model.norm[MABN_PART_LAYER2].groups = 3;
    tap_fails(mabn_model_build(&net, device, &model, &options), MABN_ERR_ARG, "layer2.0.bn1",
              "groups that do not divide the channels");
    options.batch = 0;
    tap_fails(mabn_model_build(&net, device, &model, &options), MABN_ERR_ARG, "at least one image",
              "no image");
}

int main(void)
{
    mabn_status status = test_device_open(&device, 2);
    if (status && getenv("MABN_TEST_DEVICE")) {
        tap_skip("%s", mabn_error_message());
        return tap_done();
    }
    tap_status(status, "device");
    check_against_pytorch();
    check_repeats("resnet10", "bn", 0.8);
    check_repeats("resnet18", "bn", 0.7);
    check_repeats("cifar-resnet20", "mabn", 0.72);
    check_repeats("resnet10", "gn", 0.8);
    check_two_plans("bn");
    check_two_plans("mabn");
    check_shared_packing();
    check_folding("resnet10", "bn");
    check_folding("resnet10", "mabn");
    check_folding("cifar-resnet8", "brn");
    check_folding("resnet50", "mabn");
    check_folding("cifar-resnet8", "frozen");
    check_taken("resnet18", false);
    check_taken("resnet50", true);
    check_step();
    check_precision();
    check_names();
    check_json();
    check_refusals();
    mabn_device_free(device);
    return tap_done();
}
