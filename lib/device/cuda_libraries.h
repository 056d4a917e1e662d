/* cuDNN and cuBLASLt as tables of functions, opened by dlopen with the process's first CUDA device.
 * Nothing is linked to them. For files compiled with CUDA only; mabn_cuda_cudnn and mabn_cuda_cublaslt
 * (device/cuda.h) give the tables.
 *
 * A member is the library's function of that name without the prefix, with its own prototype:
 *     cudnn->BackendFinalize(descriptor)      is cudnnBackendFinalize(descriptor)
 *     lt->MatmulDescCreate(&desc, type, type) is cublasLtMatmulDescCreate(…)
 * To add a function, add its name to the list. */
#ifndef MABN_DEVICE_CUDA_LIBRARIES_H
#define MABN_DEVICE_CUDA_LIBRARIES_H

#include <cublasLt.h>
#include <cudnn.h>

#include "base/status.h"

MABN_BEGIN_DECLS

#define MABN_CUDNN_FUNCTIONS(F) \
    F(Create)                   \
    F(Destroy)                  \
    F(SetStream)                \
    F(GetStream)                \
    F(GetVersion)               \
    F(GetErrorString)           \
    F(GetLastErrorString)       \
    F(BackendCreateDescriptor)  \
    F(BackendDestroyDescriptor) \
    F(BackendSetAttribute)      \
    F(BackendGetAttribute)      \
    F(BackendFinalize)          \
    F(BackendExecute)

#define MABN_CUBLASLT_FUNCTIONS(F)  \
    F(Create)                       \
    F(Destroy)                      \
    F(GetStatusName)                \
    F(Matmul)                       \
    F(MatmulDescCreate)             \
    F(MatmulDescDestroy)            \
    F(MatmulDescSetAttribute)       \
    F(MatrixLayoutCreate)           \
    F(MatrixLayoutDestroy)          \
    F(MatmulPreferenceCreate)       \
    F(MatmulPreferenceDestroy)      \
    F(MatmulPreferenceSetAttribute) \
    F(MatmulAlgoGetHeuristic)

#define MABN_CUDNN_MEMBER(name) __typeof__(cudnn##name) *name;
#define MABN_CUBLASLT_MEMBER(name) __typeof__(cublasLt##name) *name;

struct mabn_cudnn {
    MABN_CUDNN_FUNCTIONS(MABN_CUDNN_MEMBER)
};
struct mabn_cublaslt {
    MABN_CUBLASLT_FUNCTIONS(MABN_CUBLASLT_MEMBER)
};

/* "cudnnBackendFinalize(plan): CUDNN_STATUS_NOT_SUPPORTED: <cuDNN's own words>" as MABN_ERR_CUDA.
 */
mabn_status mabn_cudnn_fail(const struct mabn_cudnn *cudnn, cudnnStatus_t status, const char *call);
mabn_status mabn_cublaslt_fail(const struct mabn_cublaslt *lt, cublasStatus_t status,
                               const char *call);

/* Return on failure of a call of the table: MABN_CUDNN(cudnn, BackendFinalize(descriptor)). */
#define MABN_CUDNN(table, call)                                               \
    do {                                                                      \
        cudnnStatus_t mabn_cudnn_status_ = (table)->call;                     \
        if (mabn_cudnn_status_ != CUDNN_STATUS_SUCCESS)                       \
            return mabn_cudnn_fail(table, mabn_cudnn_status_, "cudnn" #call); \
    } while (0)
#define MABN_CUBLASLT(table, call)                                                     \
    do {                                                                               \
        cublasStatus_t mabn_cublaslt_status_ = (table)->call;                          \
        if (mabn_cublaslt_status_ != CUBLAS_STATUS_SUCCESS)                            \
            return mabn_cublaslt_fail(table, mabn_cublaslt_status_, "cublasLt" #call); \
    } while (0)

MABN_END_DECLS
#endif
