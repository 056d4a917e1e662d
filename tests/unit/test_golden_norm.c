/* The CPU's norms and weight centralization against the authors' own layers (golden.h), and MABN at
 * larger normalization batches against the paper's equations in PyTorch (tests/golden/mabn.h5). */
#include "golden.h"

#include "ops/centralize.h"

static float *running_var(const struct mabn_norm *norm, void *state)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(norm, state, list);
    for (int i = 0; i < count; i++)
        if (!strcmp(list[i].name, "running_var")) return list[i].data;
    return NULL;
}

static void run_trajectory(const char *name, const struct mabn_norm_options *options,
                           const struct golden_case *k)
{
    const size_t one = k->n * k->c * k->hw, rows = k->x.shape[0];
    const size_t eval_n = k->eval_x.shape[0], eval = k->eval_x.count;
    const size_t most = one > eval ? one : eval;
    struct golden_worst w[6] = {{0}};
    struct mabn_norm norm;
    float *buf[6], *dgamma = calloc(k->c, sizeof(float)), *dbeta = calloc(k->c, sizeof(float));

    tap_status(mabn_norm_init(&norm, options, (int)k->c), "%s: options", name);
    for (int i = 0; i < 6; i++)
        buf[i] = calloc(most, sizeof(float));
    const int64_t n_most = (int64_t)(k->n > eval_n ? k->n : eval_n);
    struct mabn_norm_io io = {.samples = (int64_t)k->n,
                              .positions = (int64_t)k->hw,
                              .gamma = k->weight.values,
                              .beta = k->bias.values,
                              .state = malloc(mabn_norm_state_bytes(&norm)),
                              .saved = malloc(mabn_norm_saved_bytes(&norm, n_most)),
                              .x = buf[0],
                              .y = buf[1],
                              .dy = buf[2],
                              .dx = buf[3],
                              .dgamma = dgamma,
                              .dbeta = dbeta};
    io.scratch = malloc(mabn_norm_scratch_bytes(&norm, n_most, io.positions));
    mabn_norm_state_reset(&norm, io.state);

    for (size_t row = 0; row < rows; row++) {
        double scale[2];
        to_nhwc(buf[0], k->x.values + row * one, k->n, k->c, k->hw);
        to_nhwc(buf[2], k->gy.values + row * one, k->n, k->c, k->hw);
        if (mabn_norm_forward(&norm, &io) || mabn_norm_backward(&norm, &io)) {
            tap_ok(0, "%s: %s", name, mabn_error_message());
            break;
        }
        golden_sum_scales(scale, k, row);
        to_nchw(buf[4], buf[1], k->n, k->c, k->hw);
        golden_compare(&w[0], "y", buf[4], k->y.values + row * one, one, 0, row);
        to_nchw(buf[4], buf[3], k->n, k->c, k->hw);
        golden_compare(&w[1], "gx", buf[4], k->gx.values + row * one, one, 0, row);
        golden_compare(&w[2], "gweight", dgamma, k->gweight.values + row * k->c, k->c, scale[0],
                       row);
        golden_compare(&w[3], "gbias", dbeta, k->gbias.values + row * k->c, k->c, scale[1], row);
        golden_compare(&w[4], "running_var", running_var(&norm, io.state),
                       k->running_var.values + row * k->c, k->c, 0, row);
    }
    io.samples = (int64_t)eval_n;
    to_nhwc(buf[0], k->eval_x.values, eval_n, k->c, k->hw);
    tap_status(mabn_norm_infer(&norm, &io), "%s: inference", name);
    to_nchw(buf[4], buf[1], eval_n, k->c, k->hw);
    golden_compare(&w[5], "eval_y", buf[4], k->eval_y.values, eval, 0, 0);
    golden_judge(name, w, 6);

    for (int i = 0; i < 6; i++)
        free(buf[i]);
    free(dgamma);
    free(dbeta);
    free(io.state);
    free(io.saved);
    free(io.scratch);
}

static void check_case(hid_t g, const char *name, bool subbatch)
{
    struct golden_case k = golden_read(g);
    struct mabn_norm_options o;

    golden_options(&o, g, subbatch);
    run_trajectory(name, &o, &k);
    golden_free(&k);
}

static void check_formal(hid_t g, const char *name)
{
    check_case(g, name, false);
}

static void check_subbatch(hid_t g, const char *name)
{
    check_case(g, name, true);
}

static void check_paper(hid_t g, const char *name)
{
    struct golden_case k = golden_read(g);
    struct mabn_norm_options o;

    golden_options(&o, g, true);
    o.warmup = (int)h5array_attribute(g, "warmup_iters");
    o.r_start = (int)h5array_attribute(g, "r_start");
    if (strstr(name, "iteration")) o.window_rule = MABN_WINDOW_ITERATION;
    run_trajectory(name, &o, &k);
    golden_free(&k);
}

static void centralize_gradient(float *gw, int64_t outputs, int64_t filter)
{
    mabn_centralize_backward(gw, gw, outputs, filter);
}

static void check_cenconv(hid_t g, const char *name)
{
    struct golden_conv_case k = golden_conv_read(g);
    struct golden_worst worst[3] = {{0}};
    float *w = calloc(k.w.count, sizeof(float));

    mabn_centralize(w, k.w.values, k.shape.o, (int64_t)k.w.count / k.shape.o);
    golden_conv_check(&worst[0], "y", &k, w, GOLDEN_Y, centralize_gradient);
    golden_conv_check(&worst[1], "gx", &k, w, GOLDEN_GX, centralize_gradient);
    golden_conv_check(&worst[2], "gweight", &k, w, GOLDEN_GW, centralize_gradient);
    golden_judge(name, worst, 3);
    free(w);
    golden_conv_free(&k);
}

int main(void)
{
    golden_file("tests/golden", "mabn.h5", check_paper);
    const char *folder = golden_folder();
    if (!folder) return tap_done();
    golden_file(folder, "mabn_formal.h5", check_formal);
    golden_file(folder, "mabn_subbatch.h5", check_subbatch);
    golden_file(folder, "cenconv2d.h5", check_cenconv);
    return tap_done();
}
