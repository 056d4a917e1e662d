/* Fully connected layers as matrix products by oneDNN. A 1×1 convolution with stride 1 is the same
 * over N·H·W rows, and uses these functions too. */
#include "ops/linear.h"

#include <string.h>

#include "device/dnnl.h"
#include "tensor/bf16.h"

enum {
    COLUMNS = 256, /* summed at a time */
    PARTS = 16
};

mabn_status mabn_linear_forward(float *y, const float *x, const float *weight, const float *bias,
                                int64_t n, int64_t in, int64_t out)
{
    if (bias)
        for (int64_t i = 0; i < n; i++)
            memcpy(y + i * out, bias, (size_t)out * sizeof *y);
    MABN_DNNL(
        dnnl_sgemm('N', 'T', n, out, in, 1.0f, x, in, weight, in, bias ? 1.0f : 0.0f, y, out));
    return MABN_OK;
}

mabn_status mabn_linear_backward_data(float *dx, const float *dy, const float *weight, int64_t n,
                                      int64_t in, int64_t out, bool add)
{
    MABN_DNNL(
        dnnl_sgemm('N', 'N', n, in, out, 1.0f, dy, out, weight, in, add ? 1.0f : 0.0f, dx, in));
    return MABN_OK;
}

mabn_status mabn_linear_backward_weights(float *dweight, float *dbias, const float *x,
                                         const float *dy, int64_t n, int64_t in, int64_t out)
{
    MABN_DNNL(dnnl_sgemm('T', 'N', out, in, n, 1.0f, dy, out, x, in, 0.0f, dweight, in));
    if (dbias) mabn_column_sums(dbias, dy, MABN_DTYPE_F32, n, out);
    return MABN_OK;
}

/* sum (width) = Σ of rows, in double: rows may be many (a convolution's bias). */
static inline __attribute__((always_inline)) void sum_rows(double *sum, const void *a, int64_t rows,
                                                           int64_t columns, int64_t first,
                                                           int64_t width, const bool half)
{
    memset(sum, 0, (size_t)width * sizeof *sum);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < width; c++)
            sum[c] += (double)mabn_at(a, r * columns + first + c, half);
}

MABN_CLONES static void sum_rows_full(double *sum, const void *a, int64_t rows, int64_t columns,
                                      int64_t first, int64_t width)
{
    sum_rows(sum, a, rows, columns, first, width, false);
}

MABN_CLONES static void sum_rows_half(double *sum, const void *a, int64_t rows, int64_t columns,
                                      int64_t first, int64_t width)
{
    sum_rows(sum, a, rows, columns, first, width, true);
}

/* Many rows are cut into PARTS, whatever the number of threads, so that the bits do not depend on
 * it. */
static void sum_columns(float *sums, const void *a, bool half, int64_t rows, int64_t columns,
                        int64_t first, int64_t width)
{
    double sum[PARTS][COLUMNS];
    const int64_t parts = rows < 64 * PARTS ? 1 : PARTS, each = (rows + parts - 1) / parts;
    const int64_t size = half ? sizeof(uint16_t) : sizeof(float);

#pragma omp parallel for schedule(static) if (rows * width > 65536)
    for (int64_t p = 0; p < parts; p++) {
        const int64_t start = p * each, count = start + each < rows ? each : rows - start;
        const void *from = (const char *)a + start * columns * size;
        (half ? sum_rows_half : sum_rows_full)(sum[p], from, count, columns, first, width);
    }
    for (int64_t c = 0; c < width; c++) {
        double total = sum[0][c];
        for (int64_t p = 1; p < parts; p++)
            total += sum[p][c];
        sums[first + c] = (float)total;
    }
}

void mabn_column_sums(float *sums, const void *a, enum mabn_dtype dtype, int64_t rows,
                      int64_t columns)
{
    for (int64_t first = 0; first < columns; first += COLUMNS)
        sum_columns(sums, a, dtype == MABN_DTYPE_BF16, rows, columns, first,
                    columns - first < COLUMNS ? columns - first : COLUMNS);
}

MABN_CLONES static void add_row(void *a, const float *bias, int64_t first, int64_t columns)
{
    for (int64_t c = 0; c < columns; c++)
        mabn_put(a, first + c, mabn_at(a, first + c, false) + bias[c], false);
}

MABN_CLONES static void add_row_half(void *a, const float *bias, int64_t first, int64_t columns)
{
    for (int64_t c = 0; c < columns; c++)
        mabn_put(a, first + c, mabn_at(a, first + c, true) + bias[c], true);
}

void mabn_add_bias(void *a, const float *bias, enum mabn_dtype dtype, int64_t rows, int64_t columns)
{
#pragma omp parallel for schedule(static) if (rows * columns > 65536)
    for (int64_t r = 0; r < rows; r++)
        (dtype == MABN_DTYPE_BF16 ? add_row_half : add_row)(a, bias, r * columns, columns);
}
