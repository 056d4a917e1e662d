/* Matrix products by cuBLASLt, which compute 1×1 convolutions and fully connected layers. For .cu
 * files that are compiled by nvcc.
 *
 * Matrices are row-major and dense: d (rows,columns) = a·b [+ d] [+ bias], where a is (rows,inner),
 * or (inner,rows) when turned, and b (inner,columns), or (columns,inner) when turned. Sums are
 * float32, in an order that repeats. Arrays are 16-byte aligned device memory. */
#ifndef MABN_OPS_CUBLASLT_MATMUL_H
#define MABN_OPS_CUBLASLT_MATMUL_H

#include <cublasLt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_cublaslt;

struct mabn_matmul_shape {
    int64_t rows, columns, inner;
    bool turn_a, turn_b;
    enum mabn_dtype dtype;   /* of a and b: F32, F16, BF16 */
    enum mabn_dtype d_dtype; /* the same or F32 */
    bool tf32;               /* F32: multiply with 10 bits of mantissa, on tensor cores */
    bool bias;               /* (columns) float32, added by the product; d must be F32 */
};

struct mabn_matmul;
/* One of the algorithms that cuBLASLt's heuristics propose within `workspace` bytes: the first that can
 * run, from number `choice` on (0 is the best). MABN_ERR_UNSUPPORTED: there is none. */
MABN_MUST_USE mabn_status mabn_matmul_new(struct mabn_matmul **matmul,
                                          const struct mabn_cublaslt *lt, cublasLtHandle_t handle,
                                          const struct mabn_matmul_shape *shape, size_t workspace,
                                          int choice);
void mabn_matmul_free(struct mabn_matmul *matmul); /* NULL is fine */
size_t mabn_matmul_workspace(const struct mabn_matmul *matmul);
/* add: d is added to. bias is NULL without shape.bias. */
MABN_MUST_USE mabn_status mabn_matmul_run(const struct mabn_matmul *matmul, void *d, const void *a,
                                          const void *b, const float *bias, bool add,
                                          void *workspace, void *stream);

MABN_END_DECLS
#endif
