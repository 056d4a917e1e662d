/* See cudnn_graph.h. Every attribute is written with the type and count given in cuDNN's reference.
 * A descriptor that cuDNN refuses fails when it is finalized, with cuDNN's own message. */
#include "ops/cudnn_graph.h"

#include <stdio.h>
#include <string.h>

#include <vector>

#include "base/mem.h"
#include "device/cuda_libraries.h"

struct mabn_cudnn_graph {
    struct mabn_cudnn_target target;
    std::vector<cudnnBackendDescriptor_t> owned; /* in the order made */
    std::vector<cudnnBackendDescriptor_t> tensors, operations;
    mabn_status status;
    char *message; /* of the first failure */
};

struct mabn_cudnn_plan {
    struct mabn_cudnn_target target;
    cudnnBackendDescriptor_t config, plan;
    int64_t engine, workspace;
};

namespace
{

typedef cudnnBackendDescriptor_t descriptor;

/* ---- attributes ---- */

mabn_status set(const struct mabn_cudnn *cudnn, descriptor d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    cudnnStatus_t status = cudnn->BackendSetAttribute(d, name, type, count, values);
    char call[80];

    if (status == CUDNN_STATUS_SUCCESS) return MABN_OK;
    snprintf(call, sizeof call, "cudnnBackendSetAttribute(%d)", (int)name);
    return mabn_cudnn_fail(cudnn, status, call);
}

mabn_status set_descriptor(const struct mabn_cudnn *cudnn, descriptor d,
                           cudnnBackendAttributeName_t name, descriptor value)
{
    return set(cudnn, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

mabn_status get(const struct mabn_cudnn *cudnn, descriptor d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values)
{
    cudnnStatus_t status = cudnn->BackendGetAttribute(d, name, type, room, count, values);
    char call[80];

    if (status == CUDNN_STATUS_SUCCESS) return MABN_OK;
    snprintf(call, sizeof call, "cudnnBackendGetAttribute(%d)", (int)name);
    return mabn_cudnn_fail(cudnn, status, call);
}

mabn_status finalize(const struct mabn_cudnn *cudnn, descriptor d, const char *what)
{
    cudnnStatus_t status = cudnn->BackendFinalize(d);
    char call[80];

    if (status == CUDNN_STATUS_SUCCESS) return MABN_OK;
    snprintf(call, sizeof call, "cudnnBackendFinalize(%s)", what);
    return mabn_cudnn_fail(cudnn, status, call);
}

void destroy(const struct mabn_cudnn *cudnn, descriptor d)
{
    if (d) (void)cudnn->BackendDestroyDescriptor(d);
}

/* A new descriptor that the graph owns. */
mabn_status make(struct mabn_cudnn_graph *g, cudnnBackendDescriptorType_t type, descriptor *d)
{
    MABN_CUDNN(g->target.cudnn, BackendCreateDescriptor(type, d));
    g->owned.push_back(*d);
    return MABN_OK;
}

/* Keep the first failure. */
void note(struct mabn_cudnn_graph *g, mabn_status status)
{
    if (!status || g->status) return;
    g->status = status;
    g->message = mabn_xstrdup(mabn_error_message());
}

/* ---- tensors and operations ---- */

cudnnDataType_t type_of(enum mabn_dtype dtype)
{
    switch (dtype) {
    case MABN_DTYPE_F16:
        return CUDNN_DATA_HALF;
    case MABN_DTYPE_BF16:
        return CUDNN_DATA_BFLOAT16;
    case MABN_DTYPE_F32:
        return CUDNN_DATA_FLOAT;
    default:
        MABN_BUG("no %s in a graph", mabn_dtype_name(dtype));
    }
}

mabn_status add_tensor(struct mabn_cudnn_graph *g, cudnnDataType_t type, const int64_t *size,
                       bool is_virtual)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;
    const int64_t c = size[1], h = size[2], w = size[3];
    const int64_t stride[4] = {h * w * c, 1, w * c, c}, alignment = 16;
    const int64_t id = (int64_t)g->tensors.size() + 1;
    descriptor d;

    MABN_TRY(make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR, &d));
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, size));
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride));
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id));
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment));
    if (is_virtual)
        MABN_TRY(set(cudnn, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual));
    MABN_TRY(finalize(cudnn, d, "tensor"));
    g->tensors.push_back(d);
    return MABN_OK;
}

int tensor(struct mabn_cudnn_graph *g, cudnnDataType_t type, const int64_t *size, bool is_virtual)
{
    if (!g->status) note(g, add_tensor(g, type, size, is_virtual));
    return g->status ? 0 : (int)g->tensors.size() - 1;
}

const cudnnDataType_t FLOAT32 = CUDNN_DATA_FLOAT;

mabn_status convolution(struct mabn_cudnn_graph *g, int stride, int pad, descriptor *d)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;
    const int64_t dims = 2, strides[2] = {stride, stride}, pads[2] = {pad, pad}, ones[2] = {1, 1};
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const cudnnBackendAttributeType_t int64 = CUDNN_TYPE_INT64;

    MABN_TRY(make(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, d));
    MABN_TRY(set(cudnn, *d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &FLOAT32));
    MABN_TRY(
        set(cudnn, *d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode));
    MABN_TRY(set(cudnn, *d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, int64, 1, &dims));
    MABN_TRY(set(cudnn, *d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, int64, 2, pads));
    MABN_TRY(set(cudnn, *d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, int64, 2, pads));
    MABN_TRY(set(cudnn, *d, CUDNN_ATTR_CONVOLUTION_DILATIONS, int64, 2, ones));
    MABN_TRY(set(cudnn, *d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, int64, 2, strides));
    return finalize(cudnn, *d, "convolution");
}

/* The names of the same attributes for the three directions. */
struct names {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t out, a, b, convolution, alpha, beta;
};
const struct names NAMES[3] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

mabn_status add_convolution(struct mabn_cudnn_graph *g, const struct names *as, int out, int a,
                            int b, int stride, int pad)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;
    const float one = 1, zero = 0;
    descriptor how, d;

    MABN_TRY(convolution(g, stride, pad, &how));
    MABN_TRY(make(g, as->type, &d));
    MABN_TRY(set_descriptor(cudnn, d, as->out, g->tensors[out]));
    MABN_TRY(set_descriptor(cudnn, d, as->a, g->tensors[a]));
    MABN_TRY(set_descriptor(cudnn, d, as->b, g->tensors[b]));
    MABN_TRY(set_descriptor(cudnn, d, as->convolution, how));
    MABN_TRY(set(cudnn, d, as->alpha, CUDNN_TYPE_FLOAT, 1, &one));
    MABN_TRY(set(cudnn, d, as->beta, CUDNN_TYPE_FLOAT, 1, &zero));
    MABN_TRY(finalize(cudnn, d, "operation convolution"));
    g->operations.push_back(d);
    return MABN_OK;
}

mabn_status add_pointwise(struct mabn_cudnn_graph *g, cudnnPointwiseMode_t mode, int out, int a,
                          int b)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;
    const bool backward = mode == CUDNN_POINTWISE_RELU_BWD;
    const float one = 1;
    descriptor how, d;

    MABN_TRY(make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, &how));
    MABN_TRY(set(cudnn, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode));
    MABN_TRY(set(cudnn, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &FLOAT32));
    MABN_TRY(finalize(cudnn, how, "pointwise"));
    MABN_TRY(make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, &d));
    MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how));
    if (backward) {
        MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_DXDESC, g->tensors[out]));
        MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_DYDESC, g->tensors[a]));
        MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, g->tensors[b]));
    } else {
        MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, g->tensors[out]));
        MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, g->tensors[a]));
        if (b >= 0)
            MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, g->tensors[b]));
    }
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_TYPE_FLOAT, 1, &one));
    if (b >= 0)
        MABN_TRY(set(cudnn, d, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, CUDNN_TYPE_FLOAT, 1, &one));
    MABN_TRY(finalize(cudnn, d, "operation pointwise"));
    g->operations.push_back(d);
    return MABN_OK;
}

mabn_status add_sum(struct mabn_cudnn_graph *g, int out, int a)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;
    const cudnnReduceTensorOp_t add = CUDNN_REDUCE_TENSOR_ADD;
    descriptor how, d;

    MABN_TRY(make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, &how));
    MABN_TRY(set(cudnn, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1,
                 &add));
    MABN_TRY(set(cudnn, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &FLOAT32));
    MABN_TRY(finalize(cudnn, how, "reduction"));
    MABN_TRY(make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, &d));
    MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how));
    MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, g->tensors[a]));
    MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, g->tensors[out]));
    MABN_TRY(finalize(cudnn, d, "operation reduction"));
    g->operations.push_back(d);
    return MABN_OK;
}

mabn_status add_statistics(struct mabn_cudnn_graph *g, int sum, int squares, int x)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;
    const cudnnGenStatsMode_t mode = CUDNN_GENSTATS_SUM_SQSUM;
    descriptor d;

    MABN_TRY(make(g, CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR, &d));
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_OPERATION_GENSTATS_MODE, CUDNN_TYPE_GENSTATS_MODE, 1, &mode));
    MABN_TRY(
        set(cudnn, d, CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &FLOAT32));
    MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_GENSTATS_XDESC, g->tensors[x]));
    MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, g->tensors[sum]));
    MABN_TRY(
        set_descriptor(cudnn, d, CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, g->tensors[squares]));
    MABN_TRY(finalize(cudnn, d, "operation statistics"));
    g->operations.push_back(d);
    return MABN_OK;
}

mabn_status make_operation_graph(struct mabn_cudnn_graph *g, descriptor *d)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;

    MABN_TRY(make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, d));
    MABN_TRY(set(cudnn, *d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                 (int64_t)g->operations.size(), g->operations.data()));
    if (g->target.handle)
        MABN_TRY(set(cudnn, *d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1,
                     &g->target.handle));
    return finalize(cudnn, *d, "operation graph");
}

/* ---- engines ---- */

/* Why an engine's notes exclude it; NULL: they do not. */
const char *objection(const cudnnBackendNumericalNote_t *notes, int64_t count,
                      const struct mabn_cudnn_demands *demands)
{
    for (int64_t i = 0; i < count; i++)
        switch (notes[i]) {
        case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
            if (!demands->nondeterministic) return "results do not repeat";
            break;
        case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
        case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
        case CUDNN_NUMERICAL_NOTE_WINOGRAD:
        case CUDNN_NUMERICAL_NOTE_FFT:
            if (demands->exact) return "not float32's sums";
            break;
        case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
            return "sums of less than float32";
        default:
            break;
        }
    return NULL;
}

/* The engine of a configuration: its number, and whether it meets the demands. */
mabn_status inspect(const struct mabn_cudnn *cudnn, descriptor config,
                    const struct mabn_cudnn_demands *demands, int64_t *number)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    mabn_status status;
    int64_t count = 0;
    descriptor engine = NULL;
    const char *against;

    MABN_CUDNN(cudnn, BackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine));
    MABN_TRY_GOTO(get(cudnn, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                      &count, &engine),
                  out);
    MABN_TRY_GOTO(
        get(cudnn, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, number),
        out);
    MABN_TRY_GOTO(get(cudnn, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                      CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count, notes),
                  out);
    against = objection(notes, count, demands);
    if (against)
        status =
            mabn_fail(MABN_ERR_UNSUPPORTED, "cuDNN engine %lld: %s", (long long)*number, against);
out:
    destroy(cudnn, engine);
    return status;
}

/* A plan of `config`, which it then owns. */
mabn_status prepare(struct mabn_cudnn_plan *plan, const struct mabn_cudnn_target *target,
                    descriptor config, const struct mabn_cudnn_demands *demands)
{
    const struct mabn_cudnn *cudnn = target->cudnn;
    int64_t count = 0;

    MABN_TRY(inspect(cudnn, config, demands, &plan->engine));
    MABN_CUDNN(cudnn,
               BackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan->plan));
    MABN_TRY(set_descriptor(cudnn, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config));
    if (target->handle)
        MABN_TRY(set(cudnn, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1,
                     &target->handle));
    else
        MABN_TRY(set_descriptor(cudnn, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
                                target->properties));
    MABN_TRY(finalize(cudnn, plan->plan, "execution plan"));
    MABN_TRY(get(cudnn, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                 &count, &plan->workspace));
    if ((size_t)plan->workspace > demands->workspace)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "cuDNN engine %lld needs %lld bytes of workspace",
                         (long long)plan->engine, (long long)plan->workspace);
    plan->config = config;
    return MABN_OK;
}

struct search {
    const struct mabn_cudnn_demands *demands;
    struct mabn_cudnn_plan **plans;
    int max, count;
    char *reason; /* why the first engine was refused */
};

void refuse(struct search *search)
{
    if (!search->reason) search->reason = mabn_xstrdup(mabn_error_message());
}

/* Make plans of the `configs` that meet the demands; those are set to NULL. */
void take(struct search *search, const struct mabn_cudnn_target *target,
          std::vector<descriptor> &configs)
{
    for (descriptor &config : configs) {
        if (search->count == search->max) return;
        struct mabn_cudnn_plan *plan =
            static_cast<struct mabn_cudnn_plan *>(mabn_xcalloc(1, sizeof *plan));
        plan->target = *target;
        if (prepare(plan, target, config, search->demands)) {
            refuse(search);
            mabn_cudnn_plan_free(plan);
            continue;
        }
        config = NULL;
        search->plans[search->count++] = plan;
    }
}

/* The configurations that one of cuDNN's heuristics proposes, in its order. */
mabn_status propose(struct mabn_cudnn_graph *g, descriptor graph, cudnnBackendHeurMode_t mode,
                    std::vector<descriptor> &configs)
{
    const struct mabn_cudnn *cudnn = g->target.cudnn;
    int64_t count = 0;
    descriptor d;

    MABN_TRY(make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &d));
    MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph));
    MABN_TRY(set(cudnn, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode));
    if (!g->target.handle)
        MABN_TRY(set_descriptor(cudnn, d, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, g->target.properties));
    MABN_TRY(finalize(cudnn, d, "heuristics"));
    MABN_TRY(get(cudnn, d, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count,
                 NULL));
    for (int64_t i = 0; i < count; i++) {
        descriptor config;
        MABN_CUDNN(cudnn, BackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config));
        configs.push_back(config);
    }
    if (count == 0) return MABN_OK;
    MABN_TRY(get(cudnn, d, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count,
                 &count, configs.data()));
    while ((int64_t)configs.size() > count) { /* fewer than announced */
        destroy(cudnn, configs.back());
        configs.pop_back();
    }
    return MABN_OK;
}

mabn_status find(struct mabn_cudnn_graph *g, struct search *search)
{
    const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B,
                                            CUDNN_HEUR_MODE_FALLBACK};
    descriptor graph;
    char said[400] = "";

    MABN_TRY(make_operation_graph(g, &graph));
    for (cudnnBackendHeurMode_t mode : modes) {
        std::vector<descriptor> configs;
        /* B proposes the same as A in another order, so it is asked only when A had nothing. */
        if (mode == CUDNN_HEUR_MODE_B && search->count > 0) continue;
        if (search->count == search->max) break;
        if (propose(g, graph, mode, configs))
            refuse(search);
        else
            take(search, &g->target, configs);
        for (descriptor config : configs)
            destroy(g->target.cudnn, config);
    }
    if (search->count > 0) return MABN_OK;
    if (search->reason) return mabn_fail(MABN_ERR_UNSUPPORTED, "%s", search->reason);
    g->target.cudnn->GetLastErrorString(said, sizeof said);
    return mabn_fail(MABN_ERR_UNSUPPORTED, "cuDNN has no engine for it%s%s", *said ? ": " : "",
                     said);
}

} // namespace

/* ---- the interface ---- */

struct mabn_cudnn_graph *mabn_cudnn_graph_new(const struct mabn_cudnn_target *target)
{
    struct mabn_cudnn_graph *g = new struct mabn_cudnn_graph();

    g->target = *target;
    return g;
}

void mabn_cudnn_graph_free(struct mabn_cudnn_graph *graph)
{
    if (!graph) return;
    while (!graph->owned.empty()) {
        destroy(graph->target.cudnn, graph->owned.back());
        graph->owned.pop_back();
    }
    free(graph->message);
    delete graph;
}

int mabn_cudnn_tensor(struct mabn_cudnn_graph *graph, enum mabn_dtype dtype, int64_t n, int64_t c,
                      int64_t h, int64_t w)
{
    const int64_t size[4] = {n, c, h, w};
    return tensor(graph, type_of(dtype), size, false);
}

int mabn_cudnn_virtual(struct mabn_cudnn_graph *graph, int64_t n, int64_t c, int64_t h, int64_t w)
{
    const int64_t size[4] = {n, c, h, w};
    return tensor(graph, CUDNN_DATA_FLOAT, size, true);
}

void mabn_cudnn_convolve(struct mabn_cudnn_graph *graph, enum mabn_cudnn_direction direction,
                         int out, int a, int b, int stride, int pad)
{
    if (!graph->status)
        note(graph, add_convolution(graph, &NAMES[direction], out, a, b, stride, pad));
}

void mabn_cudnn_pointwise(struct mabn_cudnn_graph *graph, cudnnPointwiseMode_t mode, int out, int a,
                          int b)
{
    if (!graph->status) note(graph, add_pointwise(graph, mode, out, a, b));
}

void mabn_cudnn_sum(struct mabn_cudnn_graph *graph, int out, int a)
{
    if (!graph->status) note(graph, add_sum(graph, out, a));
}

void mabn_cudnn_statistics(struct mabn_cudnn_graph *graph, int sum, int sum_of_squares, int x)
{
    if (!graph->status) note(graph, add_statistics(graph, sum, sum_of_squares, x));
}

mabn_status mabn_cudnn_plans(struct mabn_cudnn_graph *graph,
                             const struct mabn_cudnn_demands *demands,
                             struct mabn_cudnn_plan **plans, int max, int *count)
{
    struct search search = {demands, plans, max, 0, NULL};

    *count = 0;
    if (graph->status) return mabn_fail(graph->status, "%s", graph->message);
    mabn_status status = find(graph, &search);
    free(search.reason);
    *count = search.count;
    return status;
}

void mabn_cudnn_plan_free(struct mabn_cudnn_plan *plan)
{
    if (!plan) return;
    destroy(plan->target.cudnn, plan->plan);
    destroy(plan->target.cudnn, plan->config);
    free(plan);
}

int64_t mabn_cudnn_plan_engine(const struct mabn_cudnn_plan *plan)
{
    return plan->engine;
}

size_t mabn_cudnn_plan_workspace(const struct mabn_cudnn_plan *plan)
{
    return (size_t)plan->workspace;
}

mabn_status mabn_cudnn_run(const struct mabn_cudnn_plan *plan, const int *ids,
                           void *const *pointers, int count, void *workspace, void *stream)
{
    const struct mabn_cudnn *cudnn = plan->target.cudnn;
    int64_t uids[16];
    mabn_status status;
    descriptor pack = NULL;
    cudnnStatus_t result;
    cudaStream_t now;

    if (count > 16 || !plan->target.handle) MABN_BUG("%d pointers", count);
    for (int i = 0; i < count; i++)
        uids[i] = ids[i] + 1;
    /* Setting it takes some microseconds, even if the value does not change. */
    MABN_CUDNN(cudnn, GetStream(plan->target.handle, &now));
    if (now != static_cast<cudaStream_t>(stream))
        MABN_CUDNN(cudnn, SetStream(plan->target.handle, static_cast<cudaStream_t>(stream)));
    MABN_CUDNN(cudnn, BackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    MABN_TRY_GOTO(
        set(cudnn, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids), out);
    MABN_TRY_GOTO(set(cudnn, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                      count, pointers),
                  out);
    MABN_TRY_GOTO(
        set(cudnn, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace),
        out);
    MABN_TRY_GOTO(finalize(cudnn, pack, "variant pack"), out);
    result = cudnn->BackendExecute(plan->target.handle, plan->plan, pack);
    if (result != CUDNN_STATUS_SUCCESS)
        status = mabn_cudnn_fail(cudnn, result, "cudnnBackendExecute");
out:
    destroy(cudnn, pack);
    return status;
}
