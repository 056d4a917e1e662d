/* Passes of a convolution by our own algorithms: shapes, scratch, weights. See winograd.h and implicit_gemm.h. */
#include "ops/conv_internal.h"

/* ---- our Winograd ---- */

struct mabn_winograd mabn_conv_winograd_shape(const struct mabn_conv *c, bool to_data)
{
    const struct mabn_conv_shape *s = &c->shape;
    return (struct mabn_winograd){.n = s->n,
                                  .h = s->h,
                                  .w = s->w,
                                  .in = to_data ? s->out : s->in,
                                  .out = to_data ? s->in : s->out,
                                  .threads = mabn_device_threads(c->device)};
}

/* How many outputs are computed at a time in training. The weights in use are four times the layer's. The
 * outputs are halved while those weights take more than 5 MiB and halves are multiples of 16. */
static int64_t winograd_part(const struct mabn_winograd *shape)
{
    struct mabn_winograd s = *shape;
    s.part = s.out;
    while (mabn_winograd_weights_bytes(&s) > (size_t)5 << 20 && s.part % 32 == 0)
        s.part /= 2;
    return s.part;
}

/* Scratch: first the weights as they are used, unless they are packed; then the products' own. */
void mabn_conv_winograd_init(struct pass *p, const struct mabn_conv *c, int which)
{
    struct mabn_winograd s = mabn_conv_winograd_shape(c, which == TO_DATA);
    const bool packed = which == FORWARD && !c->options.training;
    if (!packed) s.part = winograd_part(&s);
    p->bytes[WEIGHTS] = mabn_winograd_weights_bytes(&s);
    p->pad_offset = which == TO_WEIGHTS || packed ? 0 : conv_round(p->bytes[WEIGHTS]);
    p->scratch =
        p->pad_offset + conv_round(which == TO_WEIGHTS ? mabn_winograd_gradient_scratch_bytes(&s)
                                                       : mabn_winograd_scratch_bytes(&s));
}

void mabn_conv_winograd_infer(const struct mabn_conv *c, float *y, const float *x,
                              const float *packed, const struct mabn_winograd_end *end,
                              void *scratch)
{
    const struct mabn_winograd s = mabn_conv_winograd_shape(c, false);
    mabn_winograd_run(y, x, packed, &s, end, (char *)scratch + c->pass[FORWARD].pad_offset);
}

void mabn_conv_winograd_run(const struct mabn_conv *c, int which, float *to, const float *from,
                            const float *weight, const float *means,
                            const struct mabn_winograd_end *end, void *scratch)
{
    struct mabn_winograd layer = mabn_conv_winograd_shape(c, false),
                         s = mabn_conv_winograd_shape(c, which == TO_DATA);
    char *products = (char *)scratch + c->pass[which].pad_offset;
    s.part = layer.part = winograd_part(&s);
    for (; s.first < s.out; s.first += s.part) {
        layer.first = s.first;
        mabn_winograd_weights(scratch, weight, means, &layer, which == TO_DATA);
        mabn_winograd_run(to, from, scratch, &s, end, products);
    }
}

void mabn_conv_winograd_gradient(const struct mabn_conv *c, float *dweight, const float *x,
                                 const float *dy, void *scratch)
{
    struct mabn_winograd s = mabn_conv_winograd_shape(c, false);
    for (s.part = winograd_part(&s); s.first < s.out; s.first += s.part)
        mabn_winograd_gradient(dweight, x, dy, &s, scratch);
}

/* ---- our implicit GEMM ---- */

struct mabn_implicit_gemm mabn_conv_implicit_shape(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    return (struct mabn_implicit_gemm){.n = s->n,
                                       .h = s->h,
                                       .w = s->w,
                                       .in = s->in,
                                       .out = s->out,
                                       .oh = c->oh,
                                       .ow = c->ow,
                                       .kernel = s->kernel,
                                       .stride = s->stride,
                                       .pad = s->pad,
                                       .threads = mabn_device_threads(c->device)};
}

/* Scratch as with Winograd. */
void mabn_conv_implicit_init(struct pass *p, const struct mabn_conv *c, int which)
{
    const struct mabn_implicit_gemm s = mabn_conv_implicit_shape(c);
    const bool packed = which == FORWARD && !c->options.training;
    p->bytes[WEIGHTS] = mabn_implicit_gemm_weights_bytes(&s);
    p->pad_offset = which == TO_WEIGHTS || packed ? 0 : conv_round(p->bytes[WEIGHTS]);
    p->scratch = p->pad_offset + conv_round(which == TO_WEIGHTS
                                                ? mabn_implicit_gemm_gradient_scratch_bytes(&s)
                                                : mabn_implicit_gemm_scratch_bytes(&s));
}

void mabn_conv_implicit_infer(const struct mabn_conv *c, float *y, const float *x,
                              const float *packed, const struct mabn_implicit_gemm_end *end,
                              void *scratch)
{
    const struct mabn_implicit_gemm s = mabn_conv_implicit_shape(c);
    mabn_implicit_gemm_run(y, x, packed, &s, end, (char *)scratch + c->pass[FORWARD].pad_offset);
}

void mabn_conv_implicit_forward(const struct mabn_conv *c, float *y, const float *x,
                                const float *weight, const float *means, const float *bias,
                                void *scratch)
{
    const struct mabn_implicit_gemm s = mabn_conv_implicit_shape(c);
    const struct mabn_implicit_gemm_end end = {.bias = bias};
    mabn_implicit_gemm_weights(scratch, weight, means, &s, false);
    mabn_implicit_gemm_run(y, x, scratch, &s, &end, (char *)scratch + c->pass[FORWARD].pad_offset);
}

void mabn_conv_implicit_data(const struct mabn_conv *c, float *dx, const float *dy,
                             const float *weight, const float *means, bool add, void *scratch)
{
    const struct mabn_implicit_gemm s = mabn_conv_implicit_shape(c);
    mabn_implicit_gemm_weights(scratch, weight, means, &s, true);
    mabn_implicit_gemm_data(dx, dy, scratch, &s, add,
                            (char *)scratch + c->pass[TO_DATA].pad_offset);
}

void mabn_conv_implicit_gradient(const struct mabn_conv *c, float *dweight, const float *x,
                                 const float *dy, void *scratch)
{
    const struct mabn_implicit_gemm s = mabn_conv_implicit_shape(c);
    mabn_implicit_gemm_gradient(dweight, x, dy, &s, scratch);
}
