/* The algorithm of each pass of a convolution, and a pass by its algorithm.
 *
 * The choices, by shape alone, come from measurements at batch 8 on two cores (ms, the best of many); today's
 * algorithms are compared by tests/bench/bench_algorithms.
 *
 * 3×3, stride 1: Winograd F(4×4,3×3), ours (winograd.h), against oneDNN's direct in its best layout:
 *
 *                              with AVX-512 (AMD Zen 4)         with AVX2 (Zen 3)
 *                           forward   to data    to weights   forward   to data and weights
 *     64 channels, 56×56    8.1→3.9   8.3→4.1     9.1→4.1      17→5.9        43→15
 *     128 channels, 28×28   7.8→3.0   8.0→3.0     8.7→3.1      23→4.9        43→12
 *     256 channels, 14×14   7.7→4.5   7.6→4.2     8.2→4.1      17→8.4        47→19
 *     512 channels, 7×7     7.8→6.7   7.6→6.4     8.2→5.5      21→14         47→31
 *
 * oneDNN's own Winograd needs AVX-512 and a workspace that holds all tiles. It is slower (forward 4.5, 3.9, 4.8
 * and 7.0; only with 512 channels on larger pictures it is faster: 10.4 for 13.2 at 25×34). Winograd begins at
 * 32 channels and 4×4. In training it takes 16 tiles, to be worth transforming the weights (one image of 7×7,
 * 512 channels, direct→Winograd: 1.8→3.8 forward, 1.5→3.6 to data).
 *
 * A processor with two multiplications of 512 bits in a cycle is twice as fast in direct, while the weights
 * come from the same caches. There training also takes in·out/512 tiles (Intel Granite Rapids; ms, direct→
 * Winograd, the best of eight to 25, weights and pictures out of the caches at 14×14 and 7×7):
 *
 *                                       tiles   forward    to data    to weights
 *     8 of 56×56, 64 channels            1568   6.0→3.8    6.6→3.8     5.9→5.8
 *     8 of 28×28, 128 channels            392   5.7→3.8    5.7→3.6     5.3→4.4
 *     2 of 50×68, 256 channels            442    25→19      28→20       29→20
 *     8 of 14×14, 256 channels            128   5.5→7.0    6.2→7.2     6.2→7.0
 *     2 of 13×17, 256 channels             40   1.7→2.0    1.8→2.4     1.7→1.9
 *     8 of 7×7, 512 channels               32   7.5→9.9    6.5→11.5    7.1→8.8
 *     2 of 25×34, 512 channels            126    26→30      32→32       31→33
 *
 * In inference it takes in·out/2048 tiles there: one image by ResNet-50 31.6→29.1 ms on two cores, as Winograd's
 * weights, four times as large, are read from memory.
 *
 * 1×1, stride 1, to weights: direct on NHWC reaches 100 to 160 GFLOP/s, a matrix product 150 to 200
 * (64→256 at 56×56: 8.2→5.5; 256→128: 17.0→8.7). To data both are equally fast, and the product can
 * add to dx, which saves the pass that adds a block's two gradients.
 *
 * Without AVX-512 our implicit GEMM (implicit_gemm.h) is used too: for 3×3 of stride 2 in place of direct, and
 * to weights for 1×1, where oneDNN's product of a transposed matrix is slow (ms, Zen 3, the better of two runs
 * in turns). With AVX-512 oneDNN's are faster.
 *
 *                                   forward    to data    to weights
 *     3×3, 128 channels, 56×56      24→12      15→14        28→18
 *     3×3, 256 channels, 28×28      18→12      15→12        26→14
 *     3×3, 512 channels, 14×14      18→14      19→14        28→13
 *     1×1, 128→512, 28×28                                  8.1→6.6
 *     1×1, 256→1024, 14×14                                11.8→5.9
 *     1×1, 512→2048, 7×7                                   5.8→5.5
 *
 * In inference it also takes 3×3 of stride 1 where Winograd is not used: exact convolutions, and those whose
 * weights would be too large (512 channels, one image of 7×7: 3.8→3.5 on one core, 2.9→2.0 on two).
 *
 * 1×1, 64→256 at 56×56: 6.1→7.8, so small weights stay products. With 16 and 32 channels the whole
 * cifar-resnet8 became 5 % slower, so it begins at 64.
 *
 * Everything else: direct. Blocked layouts (nChw16c) through the whole network would gain about 5 %
 * on the direct ones, all of it in the 1×1 weight gradients that are matrix products here, so we
 * keep NHWC, which is better for the norms and all other operations.
 *
 * In bfloat16 on AMX everything is direct, on NHWC, which is as fast as the layouts oneDNN would
 * choose: 1 to 2 TFLOP/s a core forward. 1×1, stride 1, backward is oneDNN's matrix product: to
 * weights 2 to 10 times as fast as its convolution (512→2048 at 7×7: 10.3→1.7 ms on one core), to
 * data up to twice as fast. */
#include "ops/conv_internal.h"
#include "ops/linear.h"

/* ---- choosing by shape ---- */

static bool has_tiles(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    const int64_t tiles = s->n * ((s->h + 3) / 4) * ((s->w + 3) / 4);
    const int64_t least = mabn_device_wide(c->device) ? s->in * s->out : 0;
    if (c->options.training) return tiles >= 16 && tiles > least / 512;
    return tiles > least / 2048;
}

static bool winograd_pays(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    if (!conv_is_winograd(c)) return false;
    if (!has_tiles(c)) return false;
    /* Packed weights are four times as large: at 512×512 that is 28 MB for 3 ms. */
    if (!c->options.training && s->in * s->out > 256 * 256) return false;
    return s->in >= 32 && s->out >= 32 && s->h >= 4 && s->w >= 4 && !c->options.exact;
}

static bool implicit_pays(const struct mabn_conv *c, int which)
{
    const struct mabn_conv_shape *s = &c->shape;
    if (conv_has_avx512(c) || !conv_is_implicit(c)) return false;
    if (s->in < 64 || s->out < 64) return false;
    if (which == TO_WEIGHTS && conv_is_product(c)) return s->in * s->out > 128 * 128;
    if (which == TO_WEIGHTS) return s->stride > 1;
    if (!c->options.training && conv_is_winograd(c) && !winograd_pays(c)) return true;
    return s->kernel > 1 && s->stride > 1;
}

enum strategy mabn_conv_usual_strategy(const struct mabn_conv *c, int which)
{
    if (implicit_pays(c, which)) return IMPLICIT;
    if (which != FORWARD && conv_is_product(c)) return MATRIX;
    return winograd_pays(c) ? WINOGRAD : DIRECT;
}

/* A float32 matrix product needs no primitive: ops/linear.h. */
mabn_status mabn_conv_make_strategy(struct pass *p, struct mabn_conv *c, int which)
{
    if (c->strategy[which] == WINOGRAD) {
        mabn_conv_winograd_init(p, c, which);
        return MABN_OK;
    }
    if (c->strategy[which] == IMPLICIT) {
        mabn_conv_implicit_init(p, c, which);
        return MABN_OK;
    }
    if (c->strategy[which] != MATRIX) return mabn_conv_pass_init(p, c, which);
    return c->options.dtype == MABN_DTYPE_F32 ? MABN_OK : mabn_conv_pass_product(p, c, which);
}

bool mabn_conv_strategy_subtracts(const struct mabn_conv *c, int which)
{
    const enum strategy strategy = c->strategy[which];
    return strategy == WINOGRAD || strategy == IMPLICIT || c->pass[which].in_blocks;
}

/* ---- a pass by its algorithm ---- */

mabn_status mabn_conv_strategy_pack(struct mabn_conv *c, void *packed, const float *weight,
                                    void *scratch)
{
    if (c->strategy[FORWARD] == WINOGRAD) {
        const struct mabn_winograd tiles = mabn_conv_winograd_shape(c, false);
        mabn_winograd_weights(packed, weight, NULL, &tiles, false);
        return MABN_OK;
    }
    if (c->strategy[FORWARD] == IMPLICIT) {
        const struct mabn_implicit_gemm shape = mabn_conv_implicit_shape(c);
        mabn_implicit_gemm_weights(packed, weight, NULL, &shape, false);
        return MABN_OK;
    }
    return mabn_conv_pass_pack(&c->pass[FORWARD], c, packed, weight, NULL, scratch);
}

mabn_status mabn_conv_strategy_infer(struct mabn_conv *c, void *y, const void *x,
                                     const void *packed, const float *bias, void *scratch)
{
    if (c->strategy[FORWARD] == WINOGRAD) {
        const struct mabn_winograd_end end = {bias, c->options.add, c->options.relu};
        mabn_conv_winograd_infer(c, y, x, packed, &end, scratch);
        return MABN_OK;
    }
    if (c->strategy[FORWARD] == IMPLICIT) {
        const struct mabn_implicit_gemm_end end = {bias, c->options.add, c->options.relu};
        mabn_conv_implicit_infer(c, y, x, packed, &end, scratch);
        return MABN_OK;
    }
    return mabn_conv_pass_run(&c->pass[FORWARD], c, (void *[]){(void *)x, (void *)packed, y}, bias,
                              false, scratch);
}

mabn_status mabn_conv_strategy_forward(struct mabn_conv *c, void *y, const void *x,
                                       const float *weight, const float *means, const float *bias,
                                       void *scratch)
{
    struct pass *p = &c->pass[FORWARD];
    void *used;
    if (c->strategy[FORWARD] == WINOGRAD) {
        mabn_conv_winograd_run(c, FORWARD, y, x, weight, means,
                               &(struct mabn_winograd_end){.bias = bias}, scratch);
        return MABN_OK;
    }
    if (c->strategy[FORWARD] == IMPLICIT) {
        mabn_conv_implicit_forward(c, y, x, weight, means, bias, scratch);
        return MABN_OK;
    }
    MABN_TRY(mabn_conv_pass_weights(&used, p, c, weight, means, scratch));
    return mabn_conv_pass_run(p, c, (void *[]){(void *)x, used, y}, bias, false, scratch);
}

mabn_status mabn_conv_strategy_data(struct mabn_conv *c, void *dx, const void *dy,
                                    const float *weight, const float *means, bool add,
                                    void *scratch)
{
    const struct mabn_conv_shape *s = &c->shape;
    struct pass *p = &c->pass[TO_DATA];
    void *used;
    if (c->strategy[TO_DATA] == MATRIX && c->options.dtype == MABN_DTYPE_F32)
        return mabn_linear_backward_data(dx, dy, weight, s->n * s->h * s->w, s->in, s->out, add);
    if (c->strategy[TO_DATA] == WINOGRAD) {
        mabn_conv_winograd_run(c, TO_DATA, dx, dy, weight, means,
                               &(struct mabn_winograd_end){.add = add}, scratch);
        return MABN_OK;
    }
    if (c->strategy[TO_DATA] == IMPLICIT) {
        mabn_conv_implicit_data(c, dx, dy, weight, means, add, scratch);
        return MABN_OK;
    }
    MABN_TRY(mabn_conv_pass_weights(&used, p, c, weight, means, scratch));
    return mabn_conv_pass_run(p, c, (void *[]){dx, used, (void *)dy}, NULL, add, scratch);
}

mabn_status mabn_conv_strategy_weights(struct mabn_conv *c, float *dweight, const void *x,
                                       const void *dy, void *scratch)
{
    const struct mabn_conv_shape *s = &c->shape;
    switch (c->strategy[TO_WEIGHTS]) {
    case IMPLICIT:
        mabn_conv_implicit_gradient(c, dweight, x, dy, scratch);
        return MABN_OK;
    case WINOGRAD:
        mabn_conv_winograd_gradient(c, dweight, x, dy, scratch);
        return MABN_OK;
    case MATRIX:
        if (c->options.dtype == MABN_DTYPE_F32)
            return mabn_linear_backward_weights(dweight, NULL, x, dy, s->n * s->h * s->w, s->in,
                                                s->out);
        break;
    default:
        break;
    }
    return mabn_conv_pass_run(&c->pass[TO_WEIGHTS], c, (void *[]){(void *)x, dweight, (void *)dy},
                              NULL, false, scratch);
}
