/* The GPU's norms and weight centralization in float32, compared with the authors' own layers
 * (golden.h). Each trajectory runs three times: measured and then applied; in one pass as soon as y
 * is known; and, where a call is one run, joined with its convolutions from then on. */
#include "harness.h"

#include "golden.h"
#include "joined.h"
#include "norm/norm_cuda.h"
#include "ops/ops_cuda.h"

static const enum mabn_dtype F32 = MABN_DTYPE_F32;

enum way { MEASURED, KNOWN, JOINED };
static const char *const way_names[] = {"", ", known", ", joined"};

static std::vector<float> running_var(const struct mabn_norm *norm, std::vector<char> state)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    const int count = mabn_norm_state_list(norm, state.data(), list);
    for (int i = 0; i < count; i++)
        if (!strcmp(list[i].name, "running_var"))
            return std::vector<float>((float *)list[i].data,
                                      (float *)list[i].data + norm->channels);
    return {};
}

static std::vector<float> nhwc(const float *in, size_t n, const struct golden_case *k)
{
    std::vector<float> out(n * k->c * k->hw);
    to_nhwc(out.data(), in, n, k->c, k->hw);
    return out;
}

static std::vector<float> nchw(const std::vector<float> &in, size_t n, const struct golden_case *k)
{
    std::vector<float> out(in.size());
    to_nchw(out.data(), in.data(), n, k->c, k->hw);
    return out;
}

static void compare(struct golden_worst *w, const char *what, const std::vector<float> &got,
                    const float *want, double scale, size_t row)
{
    golden_compare(w, what, got.data(), want, got.size(), scale, row);
}

static void run_trajectory(const char *name, const struct mabn_norm_options *options,
                           const struct golden_case *k, enum way way)
{
    const size_t one = k->n * k->c * k->hw, rows = k->x.shape[0], eval_n = k->eval_x.shape[0];
    const int64_t n_most = (int64_t)std::max(k->n, eval_n), positions = (int64_t)k->hw;
    struct golden_worst w[6] = {};
    struct mabn_norm norm;
    struct mabn_norm_cuda_io io = {};
    std::string label = std::string(name) + way_names[way];

    if (mabn_norm_init(&norm, options, (int)k->c)) MABN_BUG("%s", mabn_error_message());
    if (way == JOINED && !mabn_norm_cuda_can_join(&norm, (int64_t)k->n)) return;
    std::vector<char> first(mabn_norm_state_bytes(&norm));
    mabn_norm_state_reset(&norm, first.data());
    int64_t until = mabn_norm_calls_until_known(&norm, first.data(), (int64_t)k->n);
    gpu_values<char> state(first);
    gpu_bytes saved(mabn_norm_saved_bytes(&norm, n_most));
    gpu_bytes scratch(mabn_norm_cuda_scratch_bytes(&norm, n_most, positions));
    gpu_values<float> gamma(std::vector<float>(k->weight.values, k->weight.values + k->c));
    gpu_values<float> beta(std::vector<float>(k->bias.values, k->bias.values + k->c));
    gpu_array x((size_t)n_most * k->c * k->hw, F32), y(x.count, F32), dy(one, F32), dx(one, F32);
    gpu_array dgamma(k->c, F32), dbeta(k->c, F32);
    io.samples = (int64_t)k->n;
    io.positions = positions;
    io.dtype = F32;
    io.gamma = gamma.at();
    io.beta = beta.at();
    io.state = state.p;
    io.saved = saved.p;
    io.scratch = scratch.p;
    io.x = x.p;
    io.y = y.p;
    io.dy = dy.p;
    io.dx = dx.p;
    io.dgamma = (float *)dgamma.p;
    io.dbeta = (float *)dbeta.p;

    const struct joined join(&norm, io);
    auto step = [&](const std::vector<float> &in, const std::vector<float> &gy) -> mabn_status {
        if (way != JOINED || until) {
            io.known = way == KNOWN && until == 0;
            MABN_TRY(mabn_norm_cuda_forward(&norm, &io));
            return mabn_norm_cuda_backward(&norm, &io);
        }
        MABN_TRY(join.forward(&io, y, in, {}));
        MABN_TRY(join.backward(&io, dy, in, gy, {}));
        io.y = y.p;
        return MABN_OK;
    };
    auto take = [&](const gpu_array &a, size_t n) {
        std::vector<float> v = a.values();
        v.resize(n * k->c * k->hw);
        return nchw(v, n, k);
    };
    for (size_t row = 0; row<rows; row++, until -= until> 0) {
        double scale[2];
        std::vector<float> in = nhwc(k->x.values + row * one, k->n, k);
        const std::vector<float> gy = nhwc(k->gy.values + row * one, k->n, k);
        in.resize(x.count);
        x.put(in.data());
        dy.put(gy.data());
        in.resize(one);
        if (step(in, gy)) {
            tap_ok(0, "%s: %s", label.c_str(), mabn_error_message());
            break;
        }
        golden_sum_scales(scale, k, row);
        compare(&w[0], "y", take(y, k->n), k->y.values + row * one, 0, row);
        compare(&w[1], "gx", take(dx, k->n), k->gx.values + row * one, 0, row);
        compare(&w[2], "gweight", dgamma.values(), k->gweight.values + row * k->c, scale[0], row);
        compare(&w[3], "gbias", dbeta.values(), k->gbias.values + row * k->c, scale[1], row);
        compare(&w[4], "running_var", running_var(&norm, state.values()),
                k->running_var.values + row * k->c, 0, row);
    }
    io.samples = (int64_t)eval_n;
    std::vector<float> in = nhwc(k->eval_x.values, eval_n, k);
    in.resize(x.count);
    x.put(in.data());
    tap_status(mabn_norm_cuda_infer(&norm, &io), "%s: inference", label.c_str());
    compare(&w[5], "eval_y", take(y, eval_n), k->eval_y.values, 0, 0);
    golden_judge(label.c_str(), w, 6);
}

static void check_case(hid_t g, const char *name, bool subbatch)
{
    struct golden_case k = golden_read(g);
    struct mabn_norm_options o;

    golden_options(&o, g, subbatch);
    for (enum way way : {MEASURED, KNOWN, JOINED})
        run_trajectory(name, &o, &k, way);
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

static void centralize_gradient(float *gw, int64_t outputs, int64_t filter)
{
    gpu_array g(std::vector<float>(gw, gw + outputs * filter), F32);
    if (mabn_cuda_cast_weight(g.p, (const float *)g.p, outputs, filter, true, F32, NULL))
        MABN_BUG("%s", mabn_error_message());
    g.get(gw);
}

static void check_cenconv(hid_t g, const char *name)
{
    struct golden_conv_case k = golden_conv_read(g);
    struct golden_worst worst[3] = {};
    gpu_array weight(std::vector<float>(k.w.values, k.w.values + k.w.count), F32);
    gpu_array work(k.w.count, F32);

    tap_status(mabn_cuda_cast_weight(work.p, (const float *)weight.p, k.shape.o,
                                     (int64_t)k.w.count / k.shape.o, true, F32, NULL),
               "%s: centralize", name);
    const std::vector<float> w = work.values();
    golden_conv_check(&worst[0], "y", &k, w.data(), GOLDEN_Y, centralize_gradient);
    golden_conv_check(&worst[1], "gx", &k, w.data(), GOLDEN_GX, centralize_gradient);
    golden_conv_check(&worst[2], "gweight", &k, w.data(), GOLDEN_GW, centralize_gradient);
    golden_judge(name, worst, 3);
    golden_conv_free(&k);
}

int main(void)
{
    if (!gpu_ready()) return tap_done();
    const char *folder = golden_folder();
    if (!folder) return tap_done();
    golden_file(folder, "mabn_formal.h5", check_formal);
    golden_file(folder, "mabn_subbatch.h5", check_subbatch);
    golden_file(folder, "cenconv2d.h5", check_cenconv);
    return tap_done();
}
