/* Convolutions and the fully connected layer against the CPU's. */
#include "harness.h"
#include "ops/conv_cuda.h"

static struct mabn_device *cpu;

static void test_conv(const struct mabn_conv_shape shape, enum mabn_dtype dtype)
{
    const struct mabn_conv_options options = {true, false, true, false, false, true};
    const int64_t oh = mabn_conv_out(shape.h, shape.kernel, shape.stride, shape.pad);
    const int64_t ow = mabn_conv_out(shape.w, shape.kernel, shape.stride, shape.pad);
    const size_t in = (size_t)(shape.n * shape.h * shape.w * shape.in);
    const size_t out = (size_t)(shape.n * oh * ow * shape.out);
    const size_t weights = (size_t)(shape.out * shape.kernel * shape.kernel * shape.in);
    const std::vector<float> x = gpu_random(in, 1, dtype, 0, 1),
                             dy = gpu_random(out, 2, dtype, 0, 1);
    const std::vector<float> w = gpu_random(weights, 3, dtype, 0, 0.2);
    const std::vector<float> b = gpu_random((size_t)shape.out, 4, MABN_DTYPE_F32, 0, 1);
    std::vector<float> y(out), dx = gpu_random(in, 5, dtype, 0, 1), dw(weights), db(b.size());
    gpu_array gx(x, dtype), gdy(dy, dtype), gw(w, dtype), gy(out, dtype), gdx(dx, dtype);
    gpu_values<float> gb(b), gdw(dw), gdb(db);
    struct mabn_conv_cuda_options how = {};
    struct mabn_conv_cuda *conv;
    struct mabn_conv *want;
    struct gpu_verdict verdict;
    char name[120];

    if (mabn_conv_new(&want, cpu, &shape, &options)) MABN_BUG("%s", mabn_error_message());
    std::vector<char> scratch(mabn_conv_scratch_bytes(want) + 64);
    if (mabn_conv_forward(want, y.data(), x.data(), w.data(), b.data(), scratch.data()) ||
        mabn_conv_backward_data(want, dx.data(), dy.data(), w.data(), true, scratch.data()) ||
        mabn_conv_backward_weights(want, dw.data(), db.data(), x.data(), dy.data(), scratch.data()))
        MABN_BUG("%s", mabn_error_message());
    mabn_conv_free(want);
    how.dtype = how.y_dtype = dtype;
    how.training = how.bias = true;
    if (mabn_conv_cuda_new(&conv, NULL, &shape, &how) ||
        mabn_conv_cuda_forward(conv, gy.p, gx.p, gw.p, gb.at(), NULL, NULL) ||
        mabn_conv_cuda_backward_data(conv, gdx.p, gdy.p, gw.p, true, NULL, NULL) ||
        mabn_conv_cuda_backward_weights(conv, gdw.at(), gdb.at(), gx.p, gdy.p, NULL, NULL))
        verdict.add(mabn_error_message(), 1, 0);
    mabn_conv_cuda_free(conv);
    verdict.add("y", gy.values(), y, gpu_tolerance(dtype));
    verdict.add("dx", gdx.values(), dx, gpu_tolerance(dtype));
    verdict.add("dweight", gdw.values(), dw, 1e-5);
    verdict.add("dbias", gdb.values(), db, 1e-5);
    snprintf(name, sizeof name, "convolution %s %dx%d %d>%d %d/%d", mabn_dtype_name(dtype),
             (int)shape.h, (int)shape.w, (int)shape.in, (int)shape.out, shape.kernel, shape.stride);
    verdict.print(name);
}

int main(void)
{
    if (!gpu_ready()) return tap_done();
    if (mabn_device_new(&cpu, MABN_DEVICE_CPU, 1)) MABN_BUG("%s", mabn_error_message());
    for (enum mabn_dtype dtype : {MABN_DTYPE_F32, MABN_DTYPE_BF16}) {
        test_conv({2, 6, 7, 3, 5, 3, 1, 1}, dtype);
        test_conv({1, 9, 8, 8, 4, 3, 2, 1}, dtype);
        test_conv({2, 5, 5, 4, 8, 1, 2, 0}, dtype);
        test_conv({1, 11, 11, 3, 8, 7, 2, 3}, dtype);
        test_conv({4, 1, 1, 16, 10, 1, 1, 0}, dtype);
    }
    mabn_device_free(cpu);
    return tap_done();
}
