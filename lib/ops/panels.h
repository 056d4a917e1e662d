/* Matrix products on panels of 16 floats, for the convolutions that are not oneDNN's (winograd.h,
 * implicit_gemm.h). Private to ops.
 *
 * A panel is 16 channels of several rows, (row, 16): a cache line for each row. The functions are inlined into
 * MABN_CLONES functions of their callers. A sum's order is that of k, whatever the number of rows. */
#ifndef MABN_OPS_PANELS_H
#define MABN_OPS_PANELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LANES = 16,
    BLOCK = 6,  /* rows that a product computes at once */
    DEPTH = 256 /* and how much of a sum before the next rows */
};

/* Half a panel: a register with AVX2. Compilers divide it where registers are smaller. */
typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(32)));
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* c (rows,16) = a (rows,in) · u (in,16), or added to it; a in panels that are `panel` floats apart. */
ALWAYS_INLINE void product(float *c, const float *a, size_t panel, int64_t in, const float *u,
                           const int rows, bool add)
{
    vec sum[BLOCK][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        sum[r][0] = add ? *(const vec *)(c + r * LANES) : (vec){0};
        sum[r][1] = add ? *(const vec *)(c + r * LANES + 8) : (vec){0};
    }
    for (int64_t k = 0; k < in; k += LANES, a += panel)
        for (int l = 0; l < LANES; l++, u += LANES) {
            const vec u0 = *(const vec *)u, u1 = *(const vec *)(u + 8);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                sum[r][0] += a[r * LANES + l] * u0;
                sum[r][1] += a[r * LANES + l] * u1;
            }
        }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        *(vec *)(c + r * LANES) = sum[r][0];
        *(vec *)(c + r * LANES + 8) = sum[r][1];
    }
}

/* Fewer than BLOCK rows. */
ALWAYS_INLINE void product_of(float *c, const float *a, size_t panel, int64_t in, const float *u,
                              int64_t rows, bool add)
{
    switch (rows) {
    case 5:
        product(c, a, panel, in, u, 5, add);
        break;
    case 4:
        product(c, a, panel, in, u, 4, add);
        break;
    case 3:
        product(c, a, panel, in, u, 3, add);
        break;
    case 2:
        product(c, a, panel, in, u, 2, add);
        break;
    case 1:
        product(c, a, panel, in, u, 1, add);
        break;
    }
}

/* The same for any number of rows. Fewer than four rows take as long as four, since a sum waits for the one
 * before: of the last seven to nine two blocks are made. u is taken DEPTH rows at a time, which stay in the
 * first cache. */
ALWAYS_INLINE void products(float *c, const float *a, size_t panel, int64_t in, const float *u,
                            int64_t rows, bool add)
{
    for (int64_t k = 0; k < in; k += DEPTH, a += DEPTH / LANES * panel, u += DEPTH * LANES) {
        const int64_t depth = in - k < DEPTH ? in - k : (int64_t)DEPTH;
        int64_t t = 0;
        for (; rows - t > 9 || rows - t == BLOCK; t += BLOCK)
            product(c + t * LANES, a + t * LANES, panel, depth, u, BLOCK, add || k);
        for (int64_t now; t < rows; t += now) {
            now = rows - t < BLOCK ? rows - t : (rows - t + 1) / 2;
            product_of(c + t * LANES, a + t * LANES, panel, depth, u, now, add || k);
        }
    }
}

/* Rows that a thread computes at a time, `most` at most: equally many for all threads, and in whole blocks
 * where there are many. */
static inline int64_t even_share(int64_t rows, int64_t most, int64_t threads)
{
    const int64_t rounds = (rows + most * threads - 1) / (most * threads),
                  pieces = rounds * threads;
    const int64_t share = (rows + pieces - 1) / pieces, blocks = (share + BLOCK - 1) / BLOCK;
    return blocks > 8 && blocks * BLOCK <= most ? blocks * BLOCK : share;
}

/* c (rows,16), whose rows are c_row floats apart, = Σ over t of d (t,rows) · v (t,16), both in panels;
 * or added to it. */
ALWAYS_INLINE void outer_product(float *c, size_t c_row, const float *d, const float *v,
                                 int64_t count, const int rows, const int add)
{
    vec sum[BLOCK][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        sum[r][0] = add ? *(const vec *)(c + (size_t)r * c_row) : (vec){0};
        sum[r][1] = add ? *(const vec *)(c + (size_t)r * c_row + 8) : (vec){0};
    }
    for (int64_t t = 0; t < count; t++, d += LANES, v += LANES) {
        const vec v0 = *(const vec *)v, v1 = *(const vec *)(v + 8);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            sum[r][0] += d[r] * v0;
            sum[r][1] += d[r] * v1;
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        *(vec *)(c + (size_t)r * c_row) = sum[r][0];
        *(vec *)(c + (size_t)r * c_row + 8) = sum[r][1];
    }
}

/* 16 rows. */
ALWAYS_INLINE void outer_products(float *c, size_t c_row, const float *d, const float *v,
                                  int64_t count, const int add)
{
    outer_product(c, c_row, d, v, count, 6, add);
    outer_product(c + 6 * c_row, c_row, d + 6, v, count, 6, add);
    outer_product(c + 12 * c_row, c_row, d + 12, v, count, 4, add);
}

#endif
