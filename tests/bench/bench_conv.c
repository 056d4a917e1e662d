/* Times of every convolution of ResNet-50 at 224, as the library runs them: forward (inference and
 * training), to data, to weights. Usage: bench_conv [BATCH [exact]] */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/progress.h"
#include "ops/conv.h"

enum { ROUNDS = 7 };

static const struct {
    int in, size, out, kernel, stride, count;
} layers[] = {
    {3, 224, 64, 7, 2, 1},    {64, 56, 64, 1, 1, 1},    {64, 56, 64, 3, 1, 3},
    {64, 56, 256, 1, 1, 4},   {256, 56, 64, 1, 1, 2},   {256, 56, 128, 1, 1, 1},
    {128, 56, 128, 3, 2, 1},  {128, 28, 512, 1, 1, 4},  {256, 56, 512, 1, 2, 1},
    {512, 28, 128, 1, 1, 3},  {128, 28, 128, 3, 1, 3},  {512, 28, 256, 1, 1, 1},
    {256, 28, 256, 3, 2, 1},  {256, 14, 1024, 1, 1, 6}, {512, 28, 1024, 1, 2, 1},
    {1024, 14, 256, 1, 1, 5}, {256, 14, 256, 3, 1, 5},  {1024, 14, 512, 1, 1, 1},
    {512, 14, 512, 3, 2, 1},  {512, 7, 2048, 1, 1, 3},  {1024, 14, 2048, 1, 2, 1},
    {2048, 7, 512, 1, 1, 2},  {512, 7, 512, 3, 1, 2},
};

static double total[4];

/* Best of ROUNDS, seconds: infer, forward, to data, to weights. */
static mabn_status time_layer(struct mabn_device *device, struct mabn_conv_shape s, bool exact,
                              double best[4])
{
    struct mabn_conv *infer, *train;
    struct mabn_conv_options io = {.exact = exact}, to = {.training = true, .exact = exact};
    MABN_TRY(mabn_conv_new(&infer, device, &s, &io));
    MABN_TRY(mabn_conv_new(&train, device, &s, &to));
    int64_t o = mabn_conv_out(s.h, s.kernel, s.stride, s.pad);
    size_t nx = (size_t)(s.n * s.h * s.w * s.in) * 4, ny = (size_t)(s.n * o * o * s.out) * 4;
    size_t nw = (size_t)(s.out * s.kernel * s.kernel * s.in) * 4;
    void *x, *y, *w, *packed, *scratch;
    size_t need = mabn_conv_scratch_bytes(train);
    if (mabn_conv_scratch_bytes(infer) > need) need = mabn_conv_scratch_bytes(infer);
    MABN_TRY(mabn_device_scratch(device, &scratch, need));
    MABN_TRY(mabn_alloc_zero(&x, nx));
    MABN_TRY(mabn_alloc_zero(&y, ny));
    MABN_TRY(mabn_alloc_zero(&w, nw));
    MABN_TRY(mabn_alloc_zero(&packed, mabn_conv_packed_bytes(infer)));
    MABN_TRY(mabn_conv_pack(infer, packed, w, scratch));
    for (int r = 0; r < ROUNDS; r++)
        for (int k = 0; k < 4; k++) {
            double t = mabn_now();
            if (k == 0) MABN_TRY(mabn_conv_infer(infer, y, x, packed, NULL, scratch));
            if (k == 1) MABN_TRY(mabn_conv_forward(train, y, x, w, NULL, NULL, scratch));
            if (k == 2) MABN_TRY(mabn_conv_backward_data(train, x, y, w, NULL, false, scratch));
            if (k == 3) MABN_TRY(mabn_conv_backward_weights(train, w, NULL, x, y, scratch));
            t = mabn_now() - t;
            if (!r || t < best[k]) best[k] = t;
        }
    mabn_free(x);
    mabn_free(y);
    mabn_free(w);
    mabn_free(packed);
    mabn_conv_free(infer);
    mabn_conv_free(train);
    return MABN_OK;
}

/* Multiply-adds of one forward pass. */
static double macs(const struct mabn_conv_shape *s)
{
    const int64_t oh = mabn_conv_out(s->h, s->kernel, s->stride, s->pad);
    const int64_t ow = mabn_conv_out(s->w, s->kernel, s->stride, s->pad);
    return (double)s->n * (double)(oh * ow) * (double)(s->in * s->out) * s->kernel * s->kernel;
}

int main(int argc, char **argv)
{
    struct mabn_device *device;
    int batch = argc > 1 ? atoi(argv[1]) : 8;
    if (mabn_device_new(&device, MABN_DEVICE_CPU, 0)) return 1;
    printf("# %s, batch %d; ms\n# in size out k/stride\tinfer\tforward\tdata\tweights\n",
           mabn_device_name(device), batch);
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        struct mabn_conv_shape s = {
            batch,         layers[i].size,   layers[i].size,   layers[i].in,
            layers[i].out, layers[i].kernel, layers[i].stride, layers[i].kernel / 2};
        double best[4];
        if (time_layer(device, s, argc > 2, best)) {
            fprintf(stderr, "%s\n", mabn_error_message());
            return 1;
        }
        printf("%d %d %d %d/%d x%d", layers[i].in, layers[i].size, layers[i].out, layers[i].kernel,
               layers[i].stride, layers[i].count);
        for (int k = 0; k < 4; k++) {
            total[k] += best[k] * layers[i].count;
            printf("\t%.2f (%.0f)", best[k] * 1e3, 2e-9 * macs(&s) / best[k]);
        }
        putchar('\n');
    }
    printf("total\t%.1f\t%.1f\t%.1f\t%.1f\n", total[0] * 1e3, total[1] * 1e3, total[2] * 1e3,
           total[3] * 1e3);
    mabn_device_free(device);
    return 0;
}
