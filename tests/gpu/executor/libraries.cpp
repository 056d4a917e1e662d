/* Opening the stand-ins the way lib opens the libraries, and what both use. */
#include "libraries.h"

#include <cstdarg>
#include <cstdlib>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device/internal.h"

/* lib's own code, but for whether there is anything to open. */
#define mabn_cuda_libraries_open open_libraries
#include "device/cuda_libraries.cu"
#undef mabn_cuda_libraries_open

mabn_status mabn_cuda_libraries_open(struct mabn_cuda_libraries *libraries, void *stream)
{
    *libraries = {};
    return executor::libraries.there ? open_libraries(libraries, stream) : MABN_OK;
}

/* ---- dlopen ---- */

namespace
{

struct function {
    const char *name;
    void *address;
};

#define CUDNN_ENTRY(name) {"cudnn" #name, reinterpret_cast<void *>(cudnn##name)},
#define CUBLASLT_ENTRY(name) {"cublasLt" #name, reinterpret_cast<void *>(cublasLt##name)},
function cudnn_functions[] = {MABN_CUDNN_FUNCTIONS(CUDNN_ENTRY){nullptr, nullptr}};
function cublaslt_functions[] = {MABN_CUBLASLT_FUNCTIONS(CUBLASLT_ENTRY){nullptr, nullptr}};

/* nccl.cpp's; where the environment has MABN_EXECUTOR_NCCL. */
#define NCCL_ENTRY(name) {"nccl" #name, reinterpret_cast<void *>(executor::nccl.name)},
function nccl_functions[] = {MABN_NCCL_FUNCTIONS(NCCL_ENTRY){nullptr, nullptr}};

int64_t objects, runs;

} // namespace

void *executor_dlopen(const char *name, int)
{
    if (!strcmp(name, "libcudnn.so.9")) return cudnn_functions;
    if (!strcmp(name, "libcublasLt.so.13")) return cublaslt_functions;
    if (!strcmp(name, "libnccl.so.2") && getenv("MABN_EXECUTOR_NCCL")) return nccl_functions;
    return nullptr;
}

void *executor_dlsym(void *library, const char *name)
{
    for (const function *f = static_cast<function *>(library); f->name; f++)
        if (!strcmp(f->name, name)) return f->address;
    return nullptr;
}

const char *executor_dlerror()
{
    return "the executor has no such library";
}

/* ---- what both use ---- */

namespace executor
{

struct offer libraries = {getenv("MABN_EXECUTOR_LIBRARIES") != nullptr};

int64_t library_objects()
{
    return objects;
}

int64_t library_runs()
{
    return runs;
}

void count_object(int change)
{
    objects += change;
}

void count_run()
{
    runs++;
}

std::string formatted(const char *format, ...)
{
    char text[400];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    return text;
}

size_t element_bytes(enum element type)
{
    return type == FLOAT32 ? 4 : 2;
}

float load_element(const void *array, int64_t index, enum element type)
{
    switch (type) {
    case FLOAT32:
        return static_cast<const float *>(array)[index];
    case FLOAT16:
        return __half2float(static_cast<const __half *>(array)[index]);
    default:
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(array)[index]);
    }
}

void store_element(void *array, int64_t index, enum element type, float value)
{
    switch (type) {
    case FLOAT32:
        static_cast<float *>(array)[index] = value;
        break;
    case FLOAT16:
        static_cast<__half *>(array)[index] = __float2half_rn(value);
        break;
    default:
        static_cast<__nv_bfloat16 *>(array)[index] = __float2bfloat16_rn(value);
    }
}

float as_tf32(float x)
{
    unsigned u = __float_as_uint(x);
    if ((u & 0x7f800000u) == 0x7f800000u) return x;
    return __uint_as_float((u + 0xfffu + (u >> 13 & 1)) & ~0x1fffu);
}

} // namespace executor
