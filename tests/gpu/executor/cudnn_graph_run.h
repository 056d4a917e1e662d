/* What a finalized cuDNN graph computes: made by cudnn.cpp, computed by cudnn_run.cpp. */
#ifndef MABN_TESTS_GPU_EXECUTOR_CUDNN_GRAPH_RUN_H
#define MABN_TESTS_GPU_EXECUTOR_CUDNN_GRAPH_RUN_H

#include <map>
#include <vector>

#include <cudnn.h>

#include "libraries.h"

namespace executor
{

/* Dimensions N, C, H, W; a filter's: O, I, KH, KW. */
struct cudnn_tensor {
    int64_t id, size[4], stride[4], alignment;
    enum element type;
    bool is_virtual;

    int64_t count() const
    {
        return size[0] * size[1] * size[2] * size[3];
    }
    /* In elements, from the first to behind the last. */
    int64_t extent() const
    {
        int64_t last = 0;
        for (int d = 0; d < 4; d++)
            last += (size[d] - 1) * stride[d];
        return last + 1;
    }
};

enum cudnn_kind { CONVOLVE, CONVOLVE_DATA, CONVOLVE_FILTER, POINTWISE, SUM, STATISTICS };

struct cudnn_operation {
    enum cudnn_kind kind;
    std::vector<int64_t> in, out; /* ids of tensors */
    /* convolutions: x, w; dy, w; x, dy */
    int64_t stride[2], pad[2];
    /* pointwise */
    cudnnPointwiseMode_t mode; /* RELU_BWD: dy, x */
};

struct cudnn_program {
    std::map<int64_t, cudnn_tensor> tensors;
    std::vector<cudnn_operation> operations; /* in an order in which they can be done */
    bool rounds;                             /* libraries.h */
};

struct cudnn_binding {
    std::map<int64_t, void *> pointers;
    void *workspace;
    size_t workspace_bytes;
};

enum cudnn_fault { NO_FAULT, TF32, POISONED };
/* Compute; `fault`: how the engine falls short of float32's sums. */
void cudnn_compute(const cudnn_program &program, const cudnn_binding &binding,
                   enum cudnn_fault fault);

} // namespace executor

#endif
