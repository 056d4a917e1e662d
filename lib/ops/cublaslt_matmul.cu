/* See cublaslt_matmul.h. cuBLASLt uses column-major matrices. A row-major matrix is the transpose
 * of the column-major one in the same memory, so we request dᵀ = bᵀ·aᵀ, with b first. */
#include "ops/cublaslt_matmul.h"

#include "base/mem.h"
#include "device/cuda_libraries.h"

enum { CHOICES = 8, ALIGNMENT = 16 /* of every array, bytes */ };

struct mabn_matmul {
    const struct mabn_cublaslt *lt;
    cublasLtHandle_t handle;
    struct mabn_matmul_shape shape;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
};

namespace
{

cudaDataType_t type_of(enum mabn_dtype dtype)
{
    switch (dtype) {
    case MABN_DTYPE_F16:
        return CUDA_R_16F;
    case MABN_DTYPE_BF16:
        return CUDA_R_16BF;
    case MABN_DTYPE_F32:
        return CUDA_R_32F;
    default:
        MABN_BUG("no product of %s", mabn_dtype_name(dtype));
    }
}

mabn_status set(const struct mabn_matmul *m, cublasLtMatmulDescAttributes_t name, const void *value,
                size_t bytes)
{
    MABN_CUBLASLT(m->lt, MatmulDescSetAttribute(m->desc, name, value, bytes));
    return MABN_OK;
}

mabn_status describe(struct mabn_matmul *m)
{
    const struct mabn_matmul_shape *s = &m->shape;
    const cublasComputeType_t compute =
        s->tf32 && s->dtype == MABN_DTYPE_F32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const cublasOperation_t first = s->turn_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = s->turn_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue =
        s->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const uint64_t rows = (uint64_t)s->rows, columns = (uint64_t)s->columns;
    const uint64_t inner = (uint64_t)s->inner;
    const cudaDataType_t type = type_of(s->dtype);
    const uintptr_t somewhere = ALIGNMENT;

    MABN_CUBLASLT(m->lt, MatmulDescCreate(&m->desc, compute, CUDA_R_32F));
    MABN_TRY(set(m, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    MABN_TRY(set(m, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
    MABN_TRY(set(m, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    /* Heuristics derive the bias's alignment from this pointer; NULL would count as aligned to
     * anything. */
    if (s->bias) MABN_TRY(set(m, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &somewhere, sizeof somewhere));
    /* A row-major matrix of r rows and c columns is cuBLAS's of c rows, r columns, c apart. */
    MABN_CUBLASLT(m->lt, MatrixLayoutCreate(&m->b, type, s->turn_b ? inner : columns,
                                            s->turn_b ? columns : inner,
                                            (int64_t)(s->turn_b ? inner : columns)));
    MABN_CUBLASLT(m->lt, MatrixLayoutCreate(&m->a, type, s->turn_a ? rows : inner,
                                            s->turn_a ? inner : rows,
                                            (int64_t)(s->turn_a ? rows : inner)));
    MABN_CUBLASLT(m->lt,
                  MatrixLayoutCreate(&m->d, type_of(s->d_dtype), columns, rows, (int64_t)columns));
    return MABN_OK;
}

/* Sums must repeat and be in float32: no atomics, no partial sums in the output's type. */
mabn_status prefer(const struct mabn_matmul *m, cublasLtMatmulPreference_t preference,
                   size_t workspace)
{
    const uint64_t bytes = workspace;
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = ALIGNMENT;
    const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};

    MABN_CUBLASLT(m->lt,
                  MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                               &bytes, sizeof bytes));
    MABN_CUBLASLT(m->lt, MatmulPreferenceSetAttribute(preference,
                                                      CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                      &schemes, sizeof schemes));
    for (cublasLtMatmulPreferenceAttributes_t name : alignments)
        MABN_CUBLASLT(m->lt,
                      MatmulPreferenceSetAttribute(preference, name, &alignment, sizeof alignment));
    return MABN_OK;
}

mabn_status choose(struct mabn_matmul *m, cublasLtMatmulPreference_t preference, int choice)
{
    cublasLtMatmulHeuristicResult_t results[CHOICES];
    int count = 0;

    MABN_CUBLASLT(m->lt, MatmulAlgoGetHeuristic(m->handle, m->desc, m->b, m->a, m->d, m->d,
                                                preference, CHOICES, results, &count));
    for (int i = choice; i < count; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
        m->algo = results[i].algo;
        m->workspace = results[i].workspaceSize;
        return MABN_OK;
    }
    return mabn_fail(MABN_ERR_UNSUPPORTED, "cuBLASLt has no %s product of %lld×%lld×%lld",
                     choice ? "other" : "such", (long long)m->shape.rows,
                     (long long)m->shape.columns, (long long)m->shape.inner);
}

mabn_status prepare(struct mabn_matmul *m, size_t workspace, int choice)
{
    cublasLtMatmulPreference_t preference;

    MABN_TRY(describe(m));
    MABN_CUBLASLT(m->lt, MatmulPreferenceCreate(&preference));
    mabn_status status = prefer(m, preference, workspace);
    if (!status) status = choose(m, preference, choice);
    (void)m->lt->MatmulPreferenceDestroy(preference);
    return status;
}

} // namespace

mabn_status mabn_matmul_new(struct mabn_matmul **matmul, const struct mabn_cublaslt *lt,
                            cublasLtHandle_t handle, const struct mabn_matmul_shape *shape,
                            size_t workspace, int choice)
{
    struct mabn_matmul *m = static_cast<struct mabn_matmul *>(mabn_xcalloc(1, sizeof *m));

    m->lt = lt;
    m->handle = handle;
    m->shape = *shape;
    mabn_status status = prepare(m, workspace, choice);
    if (status) {
        mabn_matmul_free(m);
        m = NULL;
    }
    *matmul = m;
    return status;
}

void mabn_matmul_free(struct mabn_matmul *matmul)
{
    if (!matmul) return;
    for (cublasLtMatrixLayout_t layout : {matmul->a, matmul->b, matmul->d})
        if (layout) (void)matmul->lt->MatrixLayoutDestroy(layout);
    if (matmul->desc) (void)matmul->lt->MatmulDescDestroy(matmul->desc);
    free(matmul);
}

size_t mabn_matmul_workspace(const struct mabn_matmul *matmul)
{
    return matmul->workspace;
}

mabn_status mabn_matmul_run(const struct mabn_matmul *matmul, void *d, const void *a, const void *b,
                            const float *bias, bool add, void *workspace, void *stream)
{
    const struct mabn_matmul *m = matmul;
    const float one = 1, beta = add ? 1 : 0;

    if (m->shape.bias)
        MABN_TRY(set(m, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(const float *)));
    MABN_CUBLASLT(m->lt,
                  Matmul(m->handle, m->desc, &one, b, m->b, a, m->a, &beta, d, m->d, d, m->d,
                         &m->algo, workspace, m->workspace, static_cast<cudaStream_t>(stream)));
    return MABN_OK;
}
