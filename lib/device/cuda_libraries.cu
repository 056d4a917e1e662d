/* Opening cuDNN and cuBLASLt by dlopen: once a process, never closed. */
#include "device/cuda_libraries.h"

#include <dlfcn.h>
#include <stdio.h>

#include <mutex>

#include "device/internal.h"

namespace
{

struct mabn_cudnn cudnn_table;
struct mabn_cublaslt cublaslt_table;

/* First by the loader's own search, then in the usual folders of the toolkit. */
mabn_status open_library(void **library, const char *name, const char *package)
{
    char path[128], said[400];
    *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (*library) return MABN_OK;
    const char *error = dlerror();
    snprintf(said, sizeof said, "%s", error ? error : name);
    snprintf(path, sizeof path, "/usr/local/cuda/lib64/%s", name);
    *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*library) return MABN_OK;
    return mabn_fail(MABN_ERR_UNSUPPORTED,
                     "cannot load %s (%s): install it, or name the folder of %s in LD_LIBRARY_PATH",
                     package, said, name);
}

template <typename F>
mabn_status find(F *&function, void *library, const char *package, const char *name)
{
    function = reinterpret_cast<F *>(dlsym(library, name));
    if (function) return MABN_OK;
    return mabn_fail(MABN_ERR_UNSUPPORTED, "%s is too old or too new: it has no %s", package, name);
}

mabn_status open_cublaslt()
{
    const char *package = "cuBLAS of CUDA 13";
    void *library;
    MABN_TRY(open_library(&library, "libcublasLt.so.13", package));
#define FIND(function) \
    MABN_TRY(find(cublaslt_table.function, library, package, "cublasLt" #function));
    MABN_CUBLASLT_FUNCTIONS(FIND)
#undef FIND
    return MABN_OK;
}

mabn_status open_cudnn()
{
    const char *package = "cuDNN 9";
    void *library;
    MABN_TRY(open_library(&library, "libcudnn.so.9", package));
#define FIND(function) MABN_TRY(find(cudnn_table.function, library, package, "cudnn" #function));
    MABN_CUDNN_FUNCTIONS(FIND)
#undef FIND
    return MABN_OK;
}

} // namespace

/* Each device may be opened by a thread of its own. */
static mabn_status open_both()
{
    static std::mutex one_at_a_time;
    static bool opened;
    const std::lock_guard<std::mutex> guard(one_at_a_time);
    if (opened) return MABN_OK;
    /* cuDNN opens cuBLASLt itself; it gets ours if that is already open. */
    MABN_TRY(open_cublaslt());
    MABN_TRY(open_cudnn());
    opened = true;
    return MABN_OK;
}

mabn_status mabn_cuda_libraries_open(struct mabn_cuda_libraries *libraries, void *stream)
{
    MABN_TRY(open_both());
    cudnnHandle_t cudnn = nullptr;
    cublasLtHandle_t lt = nullptr;
    libraries->cudnn = &cudnn_table;
    libraries->cublaslt = &cublaslt_table;
    libraries->cudnn_version = int(cudnn_table.GetVersion());
    MABN_CUDNN(&cudnn_table, Create(&cudnn));
    libraries->cudnn_handle = cudnn;
    MABN_CUBLASLT(&cublaslt_table, Create(&lt));
    libraries->cublaslt_handle = lt;
    MABN_CUDNN(&cudnn_table, SetStream(cudnn, static_cast<cudaStream_t>(stream)));
    return MABN_OK;
}

void mabn_cuda_libraries_close(struct mabn_cuda_libraries *libraries)
{
    if (libraries->cudnn_handle)
        cudnn_table.Destroy(static_cast<cudnnHandle_t>(libraries->cudnn_handle));
    if (libraries->cublaslt_handle)
        cublaslt_table.Destroy(static_cast<cublasLtHandle_t>(libraries->cublaslt_handle));
    *libraries = {};
}

mabn_status mabn_cudnn_fail(const struct mabn_cudnn *cudnn, cudnnStatus_t status, const char *call)
{
    char said[512] = "";
    cudnn->GetLastErrorString(said, sizeof said);
    return mabn_fail(MABN_ERR_CUDA, "%s: %s%s%s", call, cudnn->GetErrorString(status),
                     *said ? ": " : "", said);
}

mabn_status mabn_cublaslt_fail(const struct mabn_cublaslt *lt, cublasStatus_t status,
                               const char *call)
{
    return mabn_fail(MABN_ERR_CUDA, "%s: %s", call, lt->GetStatusName(status));
}
