/* Weights in the blocks that a primitive of oneDNN reads, from our order (O,taps,I): in float32, or rounded to
 * bfloat16. oneDNN's own conversions take 1.2 to 2.8 times as long (the largest of ResNet-50, two Zen 4 cores),
 * and in training all weights are converted forward and again to data. Private to ops. */
#ifndef MABN_OPS_WEIGHT_BLOCKS_H
#define MABN_OPS_WEIGHT_BLOCKS_H

#include "device/dnnl.h"

MABN_BEGIN_DECLS

struct mabn_weight_blocks {
    bool half;               /* words of 32 bits are two bfloat16, not a float32 */
    bool outputs_last;       /* a block ends with outputs next to each other, not with inputs */
    int64_t outputs, inputs; /* words of a block in these directions; outputs at most 64 */
    int64_t output_blocks, input_blocks; /* those at the end filled up with zeros */
    int64_t output_stride, input_stride, taps, tap_stride; /* in words, of blocks and of taps */
};

/* False: not such blocks, or not of weights (O,I) or (O,I,height,width). */
bool mabn_weight_blocks_of(struct mabn_weight_blocks *blocks, const mabn_dnnl_layout *layout);

/* `to` has the layout's bytes; `from` (outputs,taps,inputs); `means` (outputs) are subtracted, unless NULL. */
void mabn_weight_blocks_fill(void *to, const float *from, const float *means, int64_t outputs,
                             int64_t inputs, const struct mabn_weight_blocks *blocks);

MABN_END_DECLS
#endif
