/* Convolution: sizes. The work is in conv_cpu.c and the files that it names. */
#include "ops/conv.h"

int64_t mabn_conv_out(int64_t size, int kernel, int stride, int pad)
{
    int64_t room = size + 2 * (int64_t)pad - kernel;
    return room < 0 ? 0 : room / stride + 1;
}
