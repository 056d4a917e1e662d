/* Arrays of bfloat16. */
#include "tensor/bf16.h"

MABN_CLONES void mabn_bf16_widen(float *to, const uint16_t *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = mabn_bf16_float(from[i]);
}

MABN_CLONES void mabn_bf16_narrow(uint16_t *to, const float *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = mabn_bf16_round(from[i]);
}
