/* cuDNN's graphs. The caller describes tensors and operations on them. cuDNN proposes engines that
 * compute the whole in a kernel or two. An engine becomes a plan, which is run on pointers. For .cu files
 * that are compiled by nvcc; only cuDNN's backend interface (cudnn_graph.h of cuDNN 9) is used.
 *
 *     struct mabn_cudnn_graph *g = mabn_cudnn_graph_new(&target);
 *     const int x = mabn_cudnn_tensor(g, MABN_DTYPE_BF16, n, c, h, w);
 *     …
 *     mabn_cudnn_convolve(g, MABN_CUDNN_FORWARD, y, x, weight, stride, pad);
 *     mabn_cudnn_plans(g, &demands, plans, 1, &count)
 *
 * Calls that describe keep the first failure, which mabn_cudnn_plans reports. Everything is NHWC;
 * sums and pointwise arithmetic are float32. A graph may be freed before its plans. */
#ifndef MABN_OPS_CUDNN_GRAPH_H
#define MABN_OPS_CUDNN_GRAPH_H

#include <cudnn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_cudnn;

/* The device to plan for. Without a handle, plans are made for the GPU that `properties` describes,
 * which need not be present, and cannot be run. */
struct mabn_cudnn_target {
    const struct mabn_cudnn *cudnn;
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t properties;
};

/* ---- describing ---- */

struct mabn_cudnn_graph;
struct mabn_cudnn_graph *mabn_cudnn_graph_new(const struct mabn_cudnn_target *target);
void mabn_cudnn_graph_free(struct mabn_cudnn_graph *graph); /* NULL is fine */

/* The id of a new tensor (N,H,W,C), 16-byte aligned in memory; ids count from 0. A bias or a sum
 * over positions is (1,1,1,C). */
int mabn_cudnn_tensor(struct mabn_cudnn_graph *graph, enum mabn_dtype dtype, int64_t n, int64_t c,
                      int64_t h, int64_t w);
/* A float32 tensor that is passed between operations and never stored in memory. */
int mabn_cudnn_virtual(struct mabn_cudnn_graph *graph, int64_t n, int64_t c, int64_t h, int64_t w);

enum mabn_cudnn_direction { MABN_CUDNN_FORWARD, MABN_CUDNN_DATA, MABN_CUDNN_FILTER };
/* out, a, b: y, x, weight; dx, dy, weight; dweight, x, dy. */
void mabn_cudnn_convolve(struct mabn_cudnn_graph *graph, enum mabn_cudnn_direction direction,
                         int out, int a, int b, int stride, int pad);
/* out = mode(a, b); b: -1 for a mode of one argument. RELU_BWD: a is dy, b is x. */
void mabn_cudnn_pointwise(struct mabn_cudnn_graph *graph, cudnnPointwiseMode_t mode, int out, int a,
                          int b);
/* out (1,1,1,C) = sums over positions. */
void mabn_cudnn_sum(struct mabn_cudnn_graph *graph, int out, int a);
/* Sums of x and of x². */
void mabn_cudnn_statistics(struct mabn_cudnn_graph *graph, int sum, int sum_of_squares, int x);

/* ---- plans ---- */

struct mabn_cudnn_demands {
    bool exact;            /* float32: no tensor cores, no transforms */
    bool nondeterministic; /* results need not repeat bit for bit */
    size_t workspace;      /* at most, bytes */
};

struct mabn_cudnn_plan;
/* Plans of the first engines, at most `max`, that meet the demands and can be prepared, in the order of
 * cuDNN's heuristics; *count of them. None: MABN_ERR_UNSUPPORTED and cuDNN's reason. The caller frees
 * each. */
MABN_MUST_USE mabn_status mabn_cudnn_plans(struct mabn_cudnn_graph *graph,
                                           const struct mabn_cudnn_demands *demands,
                                           struct mabn_cudnn_plan **plans, int max, int *count);
void mabn_cudnn_plan_free(struct mabn_cudnn_plan *plan); /* NULL is fine */
int64_t mabn_cudnn_plan_engine(const struct mabn_cudnn_plan *plan);
size_t mabn_cudnn_plan_workspace(const struct mabn_cudnn_plan *plan);
/* pointers[k] is the memory of tensor ids[k]. Each tensor that is not virtual is given once; at most 16. */
MABN_MUST_USE mabn_status mabn_cudnn_run(const struct mabn_cudnn_plan *plan, const int *ids,
                                         void *const *pointers, int count, void *workspace,
                                         void *stream);

MABN_END_DECLS
#endif
