/* Transposed convolution 2×2, stride 2, as matrix products.
 *
 * With G (NHW, 4O) = the four outputs of each input position side by side, (a,b,o):
 *
 *     forward G = x·W,   dx = G·Wᵀ,   dW = xᵀ·G
 *
 * G is y with its rows interleaved: positions (i,j) and both b of one row 2i+a lie together in y.
 * It is computed and rearranged in portions that stay in the cache. */
#include "ops/transposed_conv.h"

#include <string.h>

#include "device/dnnl.h"
#include "ops/linear.h"

enum { PORTION = 1024 }; /* rows of G at a time */

size_t mabn_transposed_conv_scratch_bytes(int64_t out)
{
    return (size_t)(PORTION * 4 * out) * sizeof(float);
}

static int64_t portion(int64_t begin, int64_t rows)
{
    return rows - begin < PORTION ? rows - begin : PORTION;
}

/* Where row r of G has its outputs (a, 0, 0) in y: 2·O floats. */
static int64_t place(const struct mabn_transposed_conv *op, int64_t r, int64_t a)
{
    return ((r / op->w * 2 + a) * op->w + r % op->w) * 2 * op->out;
}

/* y = g + bias, over 2·O floats. */
MABN_CLONES static void put(float *y, const float *g, const float *bias, int64_t out, bool relu)
{
    for (int b = 0; b < 2; b++)
        for (int64_t o = 0; o < out; o++) {
            const float v = bias ? g[b * out + o] + bias[o] : g[b * out + o];
            y[b * out + o] = relu && v < 0 ? 0 : v;
        }
}

static void take_apart(float *y, const float *g, const float *bias,
                       const struct mabn_transposed_conv *op, int64_t begin, bool relu)
{
    const int64_t rows = portion(begin, op->n * op->h * op->w);
#pragma omp parallel for schedule(static) if (rows * op->out > 4096)
    for (int64_t r = 0; r < rows; r++)
        for (int a = 0; a < 2; a++)
            put(y + place(op, begin + r, a), g + (2 * r + a) * 2 * op->out, bias, op->out, relu);
}

static void put_together(float *g, const float *y, const struct mabn_transposed_conv *op,
                         int64_t begin)
{
    const int64_t rows = portion(begin, op->n * op->h * op->w), half = 2 * op->out;
#pragma omp parallel for schedule(static) if (rows * op->out > 4096)
    for (int64_t r = 0; r < rows; r++)
        for (int a = 0; a < 2; a++)
            memcpy(g + (2 * r + a) * half, y + place(op, begin + r, a), (size_t)half * sizeof *g);
}

mabn_status mabn_transposed_conv_forward(float *y, const float *x, const float *weight,
                                         const float *bias, const struct mabn_transposed_conv *op,
                                         bool relu, void *scratch)
{
    const int64_t rows = op->n * op->h * op->w, width = 4 * op->out;
    for (int64_t r = 0; r < rows; r += PORTION) {
        MABN_DNNL(dnnl_sgemm('N', 'N', portion(r, rows), width, op->in, 1.0f, x + r * op->in,
                             op->in, weight, width, 0.0f, (float *)scratch, width));
        take_apart(y, scratch, bias, op, r, relu);
    }
    return MABN_OK;
}

mabn_status mabn_transposed_conv_backward_data(float *dx, const float *dy, const float *weight,
                                               const struct mabn_transposed_conv *op, bool add,
                                               void *scratch)
{
    const int64_t rows = op->n * op->h * op->w, width = 4 * op->out;
    for (int64_t r = 0; r < rows; r += PORTION) {
        put_together(scratch, dy, op, r);
        MABN_DNNL(dnnl_sgemm('N', 'T', portion(r, rows), op->in, width, 1.0f, (float *)scratch,
                             width, weight, width, add ? 1.0f : 0.0f, dx + r * op->in, op->in));
    }
    return MABN_OK;
}

mabn_status mabn_transposed_conv_backward_weights(float *dweight, float *dbias, const float *x,
                                                  const float *dy,
                                                  const struct mabn_transposed_conv *op,
                                                  void *scratch)
{
    const int64_t rows = op->n * op->h * op->w, width = 4 * op->out;
    if (rows == 0) memset(dweight, 0, (size_t)(op->in * width) * sizeof *dweight);
    for (int64_t r = 0; r < rows; r += PORTION) {
        put_together(scratch, dy, op, r);
        MABN_DNNL(dnnl_sgemm('T', 'N', op->in, width, portion(r, rows), 1.0f, x + r * op->in,
                             op->in, (float *)scratch, width, r ? 1.0f : 0.0f, dweight, width));
    }
    if (dbias) mabn_column_sums(dbias, dy, MABN_DTYPE_F32, 4 * rows, op->out);
    return MABN_OK;
}
