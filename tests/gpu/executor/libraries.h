/* NVIDIA's libraries on the executor: stand-ins for cuDNN's backend interface (cudnn.cpp,
 * cudnn_run.cpp), cuBLASLt (cublaslt.cpp) and, between processes of one machine, NCCL (nccl.cpp),
 * which lib's own code opens, asks and runs.
 *
 * They were written from the libraries' documentation. What they are given they check as strictly
 * as that says and compute on the CPU, in the stream's order; a call that the real ones would
 * refuse is refused, and what they may do with memory (use all of a workspace, add sums to what is
 * there) they do. That lib's code and they agree says that lib's code does what we understood. */
#ifndef MABN_TESTS_GPU_EXECUTOR_LIBRARIES_H
#define MABN_TESTS_GPU_EXECUTOR_LIBRARIES_H

#include <cstddef>
#include <cstdint>
#include <string>

#include "dist/nccl_api.h"

namespace executor
{

/* What they offer. A device reads `there` when it is opened, a plan the rest when it is made. */
struct offer {
    bool there;           /* or the environment has MABN_EXECUTOR_LIBRARIES */
    bool plans = true;    /* cuDNN: any */
    bool ends = true;     /* cuDNN: with bias, residual and ReLU behind a convolution */
    bool compiled = true; /* cuDNN: other operations around one, by kernels that it compiles */
    bool runs = true;     /* cuDNN: these kernels can run */
    bool products = true; /* cuBLASLt: any */
    bool rounds = false;  /* cuDNN: what is stored is rounded before a fused operation reads it */
};
extern struct offer libraries;

/* How many of their descriptors, handles and plans were not freed. */
int64_t library_objects();
/* Plans and products run so far, captured ones once. */
int64_t library_runs();

/* ---- inside ---- */

extern const struct mabn_nccl_calls nccl; /* nccl.cpp */

void count_object(int change);
void count_run();
std::string formatted(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Of type cudnnDataType_t or cudaDataType_t. */
enum element { FLOAT32, FLOAT16, BFLOAT16 };
size_t element_bytes(enum element type);
float load_element(const void *array, int64_t index, enum element type);
void store_element(void *array, int64_t index, enum element type, float value);
/* Rounded as tensor cores read a float32: to 10 bits of mantissa. */
float as_tf32(float x);

} // namespace executor

#endif
