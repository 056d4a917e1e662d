/* See weight_blocks.h. Of bfloat16 the two in a word are neighbours in the direction in which words are not:
 * where a block ends with outputs, two inputs of one; where it ends with inputs, two outputs. */
#include "ops/weight_blocks.h"

#include <string.h>

#include "tensor/bf16.h"

enum {
    AT_ONCE = 16, /* words of each output that are turned at a time */
    MOST_OUTPUTS = 64
};

/* ---- blocks ---- */

/* The blocks' directions and sizes, from the outer to the inner, without the pairs of bfloat16. In oneDNN's
 * names a is outputs, b inputs:
 *     AcdB16a2b     16 outputs, pairs of inputs: 16×1 words, outputs last
 *     ABcd8b16a2b   8 inputs, 16 outputs, pairs of inputs: 16×8 words, outputs last
 *     ABcd8a16b2a   8 outputs, 16 inputs, pairs of outputs: 8×16 words, inputs last */
static bool find_shape(struct mabn_weight_blocks *b, const struct mabn_dnnl_blocking *of)
{
    const int n = of->blocks - b->half, last = n - 1;
    if (n < 1 || n > 2 || (n == 2 && of->axis[0] == of->axis[1])) return false;
    b->outputs_last = of->axis[last] == 0;
    if (b->half && (of->block[n] != 2 || of->axis[n] != (b->outputs_last ? 1 : 0))) return false;
    if (n == 1 && !b->outputs_last) return false;
    b->outputs = of->block[b->outputs_last ? last : 0];
    b->inputs = n == 1 ? 1 : of->block[b->outputs_last ? 0 : last];
    return b->outputs <= MOST_OUTPUTS;
}

bool mabn_weight_blocks_of(struct mabn_weight_blocks *b, const mabn_dnnl_layout *layout)
{
    struct mabn_dnnl_blocking of;
    *b = (struct mabn_weight_blocks){0};
    if (!mabn_dnnl_layout_blocking(&of, layout) || (of.ndims != 2 && of.ndims != 4)) return false;
    b->half = of.type == dnnl_bf16;
    if ((!b->half && of.type != dnnl_f32) || !find_shape(b, &of)) return false;
    const int64_t in_word = b->half ? 2 : 1;
    b->output_blocks = of.padded[0] / (b->outputs * (b->outputs_last ? 1 : in_word));
    b->input_blocks = of.padded[1] / (b->inputs * (b->outputs_last ? in_word : 1));
    b->output_stride = of.strides[0] / in_word;
    b->input_stride = of.strides[1] / in_word;
    b->taps = 1;
    if (of.ndims == 2) return true;
    b->taps = of.dims[2] * of.dims[3];
    b->tap_stride = of.strides[3] / in_word;
    return of.dims[2] == 1 || of.strides[2] == of.dims[3] * of.strides[3];
}

/* ---- filling them ---- */

static inline uint32_t pair(float low, float high)
{
    return mabn_bf16_upper(low) >> 16 | (mabn_bf16_upper(high) & 0xffff0000);
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* One output's values of a tap, and its mean, which is subtracted. */
struct row {
    const float *values; /* NULL: there is no such output */
    float mean;
};

/* `count` words of one output's values, of which there are `values`, from `first` on; zeros behind them, and
 * where there is no such output. */
static inline __attribute__((always_inline)) void read_words(uint32_t *words, const struct row *row,
                                                             int64_t first, int64_t values,
                                                             int64_t count, const bool half)
{
    const int64_t here = row->values ? values - first : 0, whole = half ? here / 2 : here;
    const int64_t n = whole < count ? whole : count;
    const float *from = row->values ? row->values + first : NULL, mean = row->mean;
    if (half)
        for (int64_t k = 0; k < n; k++)
            words[k] = pair(from[2 * k] - mean, from[2 * k + 1] - mean);
    else
        for (int64_t k = 0; k < n; k++)
            words[k] = bits_of(from[k] - mean);
    for (int64_t k = n < 0 ? 0 : n; k < count; k++)
        words[k] = half && k == whole && here % 2 == 1 ? pair(from[2 * k] - mean, 0) : 0;
}

/* One tap of a block of outputs, all inputs: words of an output's inputs become those of an input's outputs. */
static inline __attribute__((always_inline)) void turn(uint32_t *to, const struct row *rows,
                                                       int64_t values,
                                                       const struct mabn_weight_blocks *b,
                                                       const bool half)
{
    uint32_t words[MOST_OUTPUTS][AT_ONCE];
    const int64_t all = b->input_blocks * b->inputs;
    for (int64_t w = 0; w < all; w += AT_ONCE) {
        const int64_t count = all - w < AT_ONCE ? all - w : (int64_t)AT_ONCE;
        for (int64_t o = 0; o < b->outputs; o++)
            read_words(words[o], &rows[o], half ? 2 * w : w, values, count, half);
        for (int64_t k = 0; k < count; k++) {
            uint32_t *line =
                to + (w + k) / b->inputs * b->input_stride + (w + k) % b->inputs * b->outputs;
            for (int64_t o = 0; o < b->outputs; o++)
                line[o] = words[o][k];
        }
    }
}

MABN_CLONES static void turn_full(uint32_t *to, const struct row *rows, int64_t values,
                                  const struct mabn_weight_blocks *b)
{
    turn(to, rows, values, b, false);
}

MABN_CLONES static void turn_half(uint32_t *to, const struct row *rows, int64_t values,
                                  const struct mabn_weight_blocks *b)
{
    turn(to, rows, values, b, true);
}

static float value_or_zero(const struct row *row, int64_t i, int64_t values)
{
    return row->values && i < values ? row->values[i] - row->mean : 0;
}

/* One block: the words of an output, or of two, stay in their order. */
MABN_CLONES static void keep(uint32_t *to, const struct row *rows, int64_t values, int64_t first,
                             const struct mabn_weight_blocks *b)
{
    const int64_t n = b->inputs;
    const bool inside = first + n <= values;
    for (int64_t o = 0; o < b->outputs; o++, to += n) {
        if (!b->half) {
            read_words(to, &rows[o], first, values, n, false);
            continue;
        }
        const struct row *low = &rows[2 * o], *high = &rows[2 * o + 1];
        if (inside && low->values && high->values) {
            const float *l = low->values + first, *h = high->values + first;
            const float l_mean = low->mean, h_mean = high->mean;
            for (int64_t k = 0; k < n; k++)
                to[k] = pair(l[k] - l_mean, h[k] - h_mean);
        } else
            for (int64_t k = 0; k < n; k++)
                to[k] = pair(value_or_zero(low, first + k, values),
                             value_or_zero(high, first + k, values));
    }
}

void mabn_weight_blocks_fill(void *to, const float *from, const float *means, int64_t outputs,
                             int64_t inputs, const struct mabn_weight_blocks *b)
{
    const int64_t of_block = b->outputs * (b->half && !b->outputs_last ? 2 : 1);
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t block = 0; block < b->output_blocks; block++)
        for (int64_t tap = 0; tap < b->taps; tap++) {
            struct row rows[2 * MOST_OUTPUTS];
            uint32_t *first = (uint32_t *)to + block * b->output_stride + tap * b->tap_stride;
            for (int64_t k = 0; k < of_block; k++) {
                const int64_t o = block * of_block + k;
                rows[k] = (struct row){0};
                if (o < outputs) rows[k].values = from + (o * b->taps + tap) * inputs;
                if (o < outputs && means) rows[k].mean = means[o];
            }
            if (b->outputs_last) {
                (b->half ? turn_half : turn_full)(first, rows, inputs, b);
                continue;
            }
            for (int64_t i = 0; i < b->input_blocks; i++)
                keep(first + i * b->input_stride, rows, inputs, i * b->inputs, b);
        }
}
