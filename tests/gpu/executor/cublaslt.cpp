/* A stand-in for cuBLASLt (libraries.h): D = alpha·op(A)·op(B) + beta·C (+ bias), matrices by
 * columns. The bias has D's type and a value for each of D's rows. */
#include <cublasLt.h>

#include <cmath>

#include "libraries.h"

using namespace executor;

struct cublasLtContext {
    int unused;
};
struct cublasLtMatmulDescOpaque_t {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    cublasOperation_t turn_a, turn_b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};
struct cublasLtMatrixLayoutOpaque_t {
    cudaDataType type;
    int64_t rows, columns, ld;
};
struct cublasLtMatmulPreferenceOpaque_t {
    uint64_t workspace;
    uint32_t schemes, alignment[4]; /* of A, B, C, D */
};

namespace
{

/* What an algorithm was chosen for, in its opaque words; it will do nothing else. */
enum { SUM_OF, SCHEME, WORKSPACE, ALIGNMENT, BIAS_ALIGNMENT };

enum element element_of(cudaDataType type)
{
    return type == CUDA_R_32F ? FLOAT32 : type == CUDA_R_16F ? FLOAT16 : BFLOAT16;
}

template <typename T> cublasStatus_t take(T *to, const void *value, size_t bytes)
{
    if (!value || bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

struct product {
    cublasLtMatmulDescOpaque_t desc;
    cublasLtMatrixLayoutOpaque_t a, b, c, d;
    int64_t rows, columns, inner;
};

/* Do they fit together? */
cublasStatus_t describe(product *p, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                        cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                        cublasLtMatrixLayout_t d)
{
    if (!desc || !a || !b || !c || !d) return CUBLAS_STATUS_INVALID_VALUE;
    *p = {*desc, *a, *b, *c, *d, d->rows, d->columns, 0};
    const bool turn_a = desc->turn_a == CUBLAS_OP_T, turn_b = desc->turn_b == CUBLAS_OP_T;

    p->inner = turn_a ? a->rows : a->columns;
    for (const cublasLtMatrixLayout_t m : {a, b, c, d})
        if (m->rows < 1 || m->columns < 1 || m->ld < m->rows) return CUBLAS_STATUS_INVALID_VALUE;
    if ((turn_a ? a->columns : a->rows) != p->rows || (turn_b ? b->columns : b->rows) != p->inner ||
        (turn_b ? b->rows : b->columns) != p->columns || c->rows != p->rows ||
        c->columns != p->columns)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (desc->scale != CUDA_R_32F || a->type != b->type || c->type != d->type ||
        (d->type != a->type && d->type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32 && a->type != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

/* So that an algorithm is used for what it was chosen for only. */
uint64_t sum_of(const product &p)
{
    const uint64_t words[] = {
        (uint64_t)p.desc.compute,  (uint64_t)p.desc.turn_a, (uint64_t)p.desc.turn_b,
        (uint64_t)p.desc.epilogue, (uint64_t)p.a.type,      (uint64_t)p.d.type,
        (uint64_t)p.a.rows,        (uint64_t)p.a.columns,   (uint64_t)p.b.rows,
        (uint64_t)p.b.columns,     (uint64_t)p.d.rows,      (uint64_t)p.d.columns};
    uint64_t sum = 1469598103934665603u;
    for (uint64_t word : words)
        sum = (sum ^ word) * 1099511628211u;
    return sum;
}

/* The largest power of two, to 256, that divides an address; NULL's is 256. */
uint64_t alignment_of(const void *p)
{
    uint64_t a = 256;
    while ((uintptr_t)p % a)
        a /= 2;
    return a;
}

/* ---- computing ---- */

struct job {
    product p;
    const void *a, *b, *c;
    void *d, *workspace;
    size_t workspace_bytes;
    float alpha, beta;
    bool poisoned;
};

float read(const job &j, const void *from, const cublasLtMatrixLayoutOpaque_t &m, bool turned,
           int64_t row, int64_t column)
{
    const int64_t at = turned ? column + row * m.ld : row + column * m.ld;
    const float v = load_element(from, at, element_of(m.type));
    return j.p.desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? as_tf32(v) : v;
}

/* op(m) by rows, or its transpose. */
std::vector<float> read_all(const job &j, const void *from, const cublasLtMatrixLayoutOpaque_t &m,
                            bool turned, bool by_columns)
{
    const int64_t rows = turned ? m.columns : m.rows, columns = turned ? m.rows : m.columns;
    std::vector<float> all((size_t)(rows * columns));

    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            all[(size_t)(by_columns ? c * rows + r : r * columns + c)] =
                read(j, from, m, turned, r, c);
    return all;
}

__attribute__((no_sanitize("address", "undefined"))) double dot(const float *a, const float *b,
                                                                int64_t count)
{
    double sum[8] = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++)
            sum[k] += (double)a[i + k] * b[i + k];
    for (; i < count; i++)
        sum[0] += (double)a[i] * b[i];
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

void compute(const job &j)
{
    const product &p = j.p;
    const std::vector<float> a = read_all(j, j.a, p.a, p.desc.turn_a == CUBLAS_OP_T, false);
    const std::vector<float> b = read_all(j, j.b, p.b, p.desc.turn_b == CUBLAS_OP_T, true);
    const enum element type = element_of(p.d.type);

    if (j.workspace_bytes) memset(j.workspace, 0xff, j.workspace_bytes);
    for (int64_t column = 0; column < p.columns; column++)
        for (int64_t row = 0; row < p.rows; row++) {
            double v =
                j.alpha * dot(&a[(size_t)(row * p.inner)], &b[(size_t)(column * p.inner)], p.inner);
            if (j.beta != 0) v += (double)j.beta * load_element(j.c, row + column * p.c.ld, type);
            if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS)
                v += load_element(p.desc.bias, row, type);
            store_element(j.d, row + column * p.d.ld, type, j.poisoned ? NAN : (float)v);
        }
    if (j.workspace_bytes) memset(j.workspace, 0xff, j.workspace_bytes);
}

/* ---- algorithms ---- */

struct offered {
    uint64_t workspace;
    uint32_t scheme;
    cublasStatus_t state;
};
/* The unfit first. Sums in place, or in the output's type, must not be used. */
const offered ALGORITHMS[] = {
    {0, CUBLASLT_REDUCTION_SCHEME_INPLACE, CUBLAS_STATUS_SUCCESS},
    {1u << 20, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, CUBLAS_STATUS_SUCCESS},
    {(uint64_t)3 << 30, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, CUBLAS_STATUS_SUCCESS},
    {0, CUBLASLT_REDUCTION_SCHEME_NONE, CUBLAS_STATUS_NOT_SUPPORTED},
    {4099, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, CUBLAS_STATUS_SUCCESS},
    {0, CUBLASLT_REDUCTION_SCHEME_NONE, CUBLAS_STATUS_SUCCESS},
    {777, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, CUBLAS_STATUS_SUCCESS}};

cublasLtMatmulHeuristicResult_t result_of(const offered &o, const product &p,
                                          const cublasLtMatmulPreferenceOpaque_t &want)
{
    cublasLtMatmulHeuristicResult_t r;

    memset(&r, 0xff, sizeof r); /* what is not told is not to be read */
    r.state = o.state;
    if (o.state != CUBLAS_STATUS_SUCCESS) return r;
    r.workspaceSize = o.workspace;
    r.wavesCount = 1;
    r.algo.data[SUM_OF] = sum_of(p);
    r.algo.data[SCHEME] = o.scheme;
    r.algo.data[WORKSPACE] = o.workspace;
    r.algo.data[ALIGNMENT] = 0;
    for (int i = 0; i < 4; i++)
        r.algo.data[ALIGNMENT] |= (uint64_t)want.alignment[i] << 16 * i;
    r.algo.data[BIAS_ALIGNMENT] = alignment_of(p.desc.bias);
    return r;
}

bool aligned(const cublasLtMatmulAlgo_t &algo, const void *const pointers[4])
{
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointers[i] % (algo.data[ALIGNMENT] >> 16 * i & 0xffff)) return false;
    return true;
}

/* In the order of the documentation's list of what is invalid. */
cublasStatus_t check(const job &j, const cublasLtMatmulAlgo_t *algo)
{
    const void *const pointers[4] = {j.a, j.b, j.c, j.d};
    const product &p = j.p;
    const size_t size = element_bytes(element_of(p.d.type));

    if (!algo || !j.a || !j.b || !j.d || (j.beta != 0 && !j.c)) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[SUM_OF] != sum_of(p) || !aligned(*algo, pointers))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[WORKSPACE] > j.workspace_bytes ||
        (algo->data[WORKSPACE] && (!j.workspace || (uintptr_t)j.workspace % 256)))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (j.c == j.d && p.c.ld != p.d.ld) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.desc.epilogue == CUBLASLT_EPILOGUE_BIAS &&
        (!p.desc.bias || (uintptr_t)p.desc.bias % algo->data[BIAS_ALIGNMENT]))
        return CUBLAS_STATUS_INVALID_VALUE;
    for (const void *in : {j.a, j.b})
        if (in < static_cast<const char *>(j.d) +
                     (size_t)((p.columns - 1) * p.d.ld + p.rows) * size &&
            in >= j.d)
            return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> cublasStatus_t forget(T *object)
{
    delete object;
    count_object(-1);
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> cublasStatus_t keep(T **to, const T &object)
{
    *to = new T(object);
    count_object(1);
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

/* ---- the interface ---- */

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                                 : "CUBLAS_STATUS_INVALID_VALUE";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return keep(handle, {0});
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return forget(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    return keep(desc,
                {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr});
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return forget(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes)
{
    switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&desc->turn_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return take(&desc->turn_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&desc->bias, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld)
{
    return keep(layout, {type, (int64_t)rows, (int64_t)columns, ld});
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return forget(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    return keep(preference, {0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}});
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return forget(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t bytes)
{
    switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return take(&preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return take(&preference->schemes, value, bytes);
    default:
        return take(&preference->alignment[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                    value, bytes);
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int room,
                                              cublasLtMatmulHeuristicResult_t results[], int *count)
{
    product p;

    *count = 0;
    if (!handle || !preference || room < 1) return CUBLAS_STATUS_INVALID_VALUE;
    const cublasStatus_t status = describe(&p, desc, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (!libraries.products) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (const offered &o : ALGORITHMS) {
        if (o.workspace > preference->workspace || *count == room) continue;
        if (o.scheme && !(o.scheme & preference->schemes)) continue;
        results[(*count)++] = result_of(o, p, *preference);
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* Pointers and factors are noted now, memory is read when the stream comes to it. */
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    job j;

    if (!handle || !alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = describe(&j.p, desc, a_layout, b_layout, c_layout, d_layout);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    j.a = a;
    j.b = b;
    j.c = c;
    j.d = d;
    j.workspace = workspace;
    j.workspace_bytes = workspace_bytes;
    j.alpha = *static_cast<const float *>(alpha);
    j.beta = *static_cast<const float *>(beta);
    status = check(j, algo);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    j.workspace_bytes = algo->data[WORKSPACE];
    j.poisoned = algo->data[SCHEME] == CUBLASLT_REDUCTION_SCHEME_INPLACE ||
                 algo->data[SCHEME] == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    count_run();
    const cudaError_t error = executor::submit(stream, [j] {
        compute(j);
        return cudaSuccess;
    });
    /* A launch is checked like this; an older error is taken for its own. */
    if (error != cudaSuccess || cudaGetLastError() != cudaSuccess)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    return CUBLAS_STATUS_SUCCESS;
}
