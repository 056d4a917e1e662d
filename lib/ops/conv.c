/* Convolution: sizes. The work is in conv_cpu.c. */
#include "ops/conv.h"

int64_t mabn_conv_out(int64_t size, int kernel, int stride, int pad)
{
    int64_t room = size + 2 * (int64_t)pad - kernel;
    return room < 0 ? 0 : room / stride + 1;
}

double mabn_conv_macs(const struct mabn_conv_shape *s)
{
    int64_t oh = mabn_conv_out(s->h, s->kernel, s->stride, s->pad);
    int64_t ow = mabn_conv_out(s->w, s->kernel, s->stride, s->pad);
    return (double)s->n * (double)(oh * ow) * (double)(s->in * s->out) * s->kernel * s->kernel;
}
