/* A stand-in for cuDNN's backend interface (libraries.h): descriptors, what they must hold, which
 * engines are offered for a graph, and execution's checks. What a graph computes is in
 * cudnn_run.cpp. */
#include <cudnn.h>

#include <algorithm>
#include <memory>
#include <set>

#include "cudnn_graph_run.h"

using namespace executor;

struct cudnnContext {
    cudaStream_t stream;
};

namespace
{

typedef cudnnBackendAttributeName_t attribute;
typedef cudnnBackendDescriptorType_t kind;

struct node;
typedef std::shared_ptr<node> node_ref;

struct value {
    cudnnBackendAttributeType_t type;
    int64_t count;
    std::vector<char> bytes;
    std::vector<node_ref> nodes; /* descriptors */
};

/* What the library remembers of a graph's engines. */
struct engine {
    int64_t number;
    std::vector<cudnnBackendNumericalNote_t> notes;
    int64_t workspace;
    bool plans; /* its plans can be finalized */
    bool runs;
    enum cudnn_fault fault;
};

/* A descriptor. Those that were made from it keep what they need of it when it is destroyed. */
struct node {
    kind type;
    bool final = false;
    std::map<attribute, value> values;
    std::shared_ptr<cudnn_program> program; /* an operation graph's, and what comes of it */
    std::vector<engine> engines;            /* heuristics' proposals; a configuration's: one */
};

/* What a caller holds. */
struct handle {
    node_ref inside;
};

std::string last_error;

cudnnStatus_t refuse(cudnnStatus_t status, const std::string &why)
{
    last_error = why;
    return status;
}

/* Thrown where a descriptor cannot be finalized. */
struct refusal {
    cudnnStatus_t status;
    std::string why;
};

void need(bool good, const std::string &why, cudnnStatus_t status = CUDNN_STATUS_BAD_PARAM)
{
    if (!good) throw refusal{status, why};
}

node &inside(cudnnBackendDescriptor_t d)
{
    return *static_cast<handle *>(d)->inside;
}

/* ---- attributes ---- */

struct rule {
    kind of;
    attribute name;
    cudnnBackendAttributeType_t type;
    int64_t least, most;
    bool required;
};

const kind FORWARD = CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR;
const kind DATA = CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
const kind FILTER = CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR;
const kind POINT = CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
const kind REDUCTION = CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR;
const kind GENSTATS = CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR;
const kind TENSOR = CUDNN_BACKEND_TENSOR_DESCRIPTOR;
const kind CONVOLUTION = CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR;
const kind GRAPH = CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR;
const kind HEURISTICS = CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR;
const kind PLAN = CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR;
const kind PACK = CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR;

const cudnnBackendAttributeType_t INT64 = CUDNN_TYPE_INT64, NODE = CUDNN_TYPE_BACKEND_DESCRIPTOR;
const cudnnBackendAttributeType_t DATA_TYPE = CUDNN_TYPE_DATA_TYPE;

const rule RULES[] = {
    {TENSOR, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, INT64, 1, 1, true},
    {TENSOR, CUDNN_ATTR_TENSOR_DATA_TYPE, DATA_TYPE, 1, 1, true},
    {TENSOR, CUDNN_ATTR_TENSOR_DIMENSIONS, INT64, 1, 8, true},
    {TENSOR, CUDNN_ATTR_TENSOR_STRIDES, INT64, 1, 8, true},
    {TENSOR, CUDNN_ATTR_TENSOR_UNIQUE_ID, INT64, 1, 1, true},
    {TENSOR, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, 1, false},
    {CONVOLUTION, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, DATA_TYPE, 1, 1, true},
    {CONVOLUTION, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, 1, true},
    {CONVOLUTION, CUDNN_ATTR_CONVOLUTION_DILATIONS, INT64, 1, 3, true},
    {CONVOLUTION, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, INT64, 1, 3, true},
    {CONVOLUTION, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, INT64, 1, 3, true},
    {CONVOLUTION, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, INT64, 1, 3, true},
    {CONVOLUTION, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, INT64, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, NODE, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, NODE, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, NODE, 1, 1, true},
    {FORWARD, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, NODE, 1, 1, true},
    {DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, NODE, 1, 1, true},
    {DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, NODE, 1, 1, true},
    {DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, NODE, 1, 1, true},
    {DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, NODE, 1, 1, true},
    {FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, CUDNN_TYPE_FLOAT, 1, 1, true},
    {FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, NODE, 1, 1, true},
    {FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, NODE, 1, 1, true},
    {FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, NODE, 1, 1, true},
    {FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, NODE, 1, 1, true},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1,
     true},
    {CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC, DATA_TYPE, 1, 1, true},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, NODE, 1, 1, true},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, NODE, 1, 1, true},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, NODE, 1, 1, false},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, NODE, 1, 1, false},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_TYPE_FLOAT, 1, 1, false},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2, CUDNN_TYPE_FLOAT, 1, 1, false},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_DXDESC, NODE, 1, 1, false},
    {POINT, CUDNN_ATTR_OPERATION_POINTWISE_DYDESC, NODE, 1, 1, false},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_OPERATOR,
     CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, 1, true},
    {CUDNN_BACKEND_REDUCTION_DESCRIPTOR, CUDNN_ATTR_REDUCTION_COMP_TYPE, DATA_TYPE, 1, 1, true},
    {REDUCTION, CUDNN_ATTR_OPERATION_REDUCTION_DESC, NODE, 1, 1, true},
    {REDUCTION, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, NODE, 1, 1, true},
    {REDUCTION, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, NODE, 1, 1, true},
    {GENSTATS, CUDNN_ATTR_OPERATION_GENSTATS_MODE, CUDNN_TYPE_GENSTATS_MODE, 1, 1, true},
    {GENSTATS, CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, DATA_TYPE, 1, 1, true},
    {GENSTATS, CUDNN_ATTR_OPERATION_GENSTATS_XDESC, NODE, 1, 1, true},
    {GENSTATS, CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, NODE, 1, 1, true},
    {GENSTATS, CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, NODE, 1, 1, true},
    {GRAPH, CUDNN_ATTR_OPERATIONGRAPH_OPS, NODE, 1, 50, true},
    {GRAPH, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true},
    {HEURISTICS, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, NODE, 1, 1, true},
    {HEURISTICS, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1, true},
    {PLAN, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1, true},
    {PLAN, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, NODE, 1, 1, true},
    {PACK, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, INT64, 1, 100, true},
    {PACK, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1, 100, true},
    {PACK, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1, true},
};

const rule *rule_of(kind type, attribute name)
{
    for (const rule &r : RULES)
        if (r.of == type && r.name == name) return &r;
    return nullptr;
}

size_t size_of(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
        return 8;
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return sizeof(void *);
    case CUDNN_TYPE_BOOLEAN:
        return sizeof(bool);
    default:
        return 4; /* enumerations, float */
    }
}

template <typename T> const T *all(const node &n, attribute name)
{
    return reinterpret_cast<const T *>(n.values.at(name).bytes.data());
}

template <typename T> T one(const node &n, attribute name)
{
    return *all<T>(n, name);
}

bool has(const node &n, attribute name)
{
    return n.values.count(name) > 0;
}

const node &part(const node &n, attribute name, kind type)
{
    const node &p = *n.values.at(name).nodes[0];
    need(p.type == type, formatted("attribute %d: a descriptor of kind %d", name, p.type));
    return p;
}

/* ---- tensors ---- */

cudnn_tensor read_tensor(const node &n)
{
    static const std::map<cudnnDataType_t, enum element> types = {
        {CUDNN_DATA_FLOAT, FLOAT32}, {CUDNN_DATA_HALF, FLOAT16}, {CUDNN_DATA_BFLOAT16, BFLOAT16}};
    const auto type = types.find(one<cudnnDataType_t>(n, CUDNN_ATTR_TENSOR_DATA_TYPE));
    cudnn_tensor t;

    need(type != types.end(), "a tensor's data type", CUDNN_STATUS_NOT_SUPPORTED);
    t.type = type->second;
    t.id = one<int64_t>(n, CUDNN_ATTR_TENSOR_UNIQUE_ID);
    t.alignment = one<int64_t>(n, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    t.is_virtual =
        has(n, CUDNN_ATTR_TENSOR_IS_VIRTUAL) && one<bool>(n, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
    need(n.values.at(CUDNN_ATTR_TENSOR_DIMENSIONS).count == 4 &&
             n.values.at(CUDNN_ATTR_TENSOR_STRIDES).count == 4,
         "4 dimensions and strides are what there is", CUDNN_STATUS_NOT_SUPPORTED);
    for (int d = 0; d < 4; d++) {
        t.size[d] = all<int64_t>(n, CUDNN_ATTR_TENSOR_DIMENSIONS)[d];
        t.stride[d] = all<int64_t>(n, CUDNN_ATTR_TENSOR_STRIDES)[d];
        need(t.size[d] > 0 && t.stride[d] > 0, "a tensor's sizes and strides must be positive");
    }
    return t;
}

/* Channels innermost and everything dense, as kernels for tensor cores require. */
void finalize_tensor(const node &n)
{
    const cudnn_tensor t = read_tensor(n);
    const int64_t a = t.alignment, *s = t.size;

    need(a > 0 && (a & (a - 1)) == 0 && a % (int64_t)element_bytes(t.type) == 0,
         formatted("an alignment of %lld", (long long)a));
    need(t.stride[1] == 1 && t.stride[3] == s[1] && t.stride[2] == s[3] * s[1] &&
             t.stride[0] == s[2] * s[3] * s[1],
         "strides are not NHWC's", CUDNN_STATUS_NOT_SUPPORTED);
}

void finalize_convolution(const node &n)
{
    const int64_t dims = one<int64_t>(n, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS);

    need(one<cudnnDataType_t>(n, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT,
         "a convolution's sums are float32", CUDNN_STATUS_NOT_SUPPORTED);
    need(dims == 2, "2 spatial dimensions", CUDNN_STATUS_NOT_SUPPORTED);
    for (attribute a : {CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES,
                        CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS})
        need(n.values.at(a).count == dims, formatted("attribute %d: a count of its own", a));
    for (int d = 0; d < dims; d++) {
        need(all<int64_t>(n, CUDNN_ATTR_CONVOLUTION_DILATIONS)[d] > 0, "a dilation");
        need(all<int64_t>(n, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES)[d] > 0, "a stride");
        need(all<int64_t>(n, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS)[d] >= 0 &&
                 all<int64_t>(n, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS)[d] >= 0,
             "a padding");
    }
}

/* ---- operations ---- */

/* Names of a convolution's parts: of what is like y, like x, and the filter. */
struct convolution_names {
    kind of;
    enum cudnn_kind does;
    attribute x, w, y, how, alpha, beta;
};
const convolution_names CONVOLUTIONS[] = {
    {FORWARD, CONVOLVE, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {DATA, CONVOLVE_DATA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {FILTER, CONVOLVE_FILTER, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

/* y's size must be what x, the filter, and how it moves make of it. */
cudnn_operation read_convolution(const node &n, const convolution_names &as)
{
    const cudnn_tensor x = read_tensor(part(n, as.x, TENSOR));
    const cudnn_tensor w = read_tensor(part(n, as.w, TENSOR));
    const cudnn_tensor y = read_tensor(part(n, as.y, TENSOR));
    const node &how = part(n, as.how, CONVOLUTION);
    cudnn_operation op = {};

    need(one<float>(n, as.alpha) == 1 && one<float>(n, as.beta) == 0,
         "engines take alpha 1 and beta 0", CUDNN_STATUS_NOT_SUPPORTED);
    need(one<cudnnConvolutionMode_t>(how, CUDNN_ATTR_CONVOLUTION_CONV_MODE) ==
             CUDNN_CROSS_CORRELATION,
         "engines cross-correlate", CUDNN_STATUS_NOT_SUPPORTED);
    need(x.size[0] == y.size[0] && x.size[1] == w.size[1] && y.size[1] == w.size[0],
         "pictures or channels of x, the filter and y", CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
    for (int d = 0; d < 2; d++) {
        const int64_t pre = all<int64_t>(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS)[d];
        const int64_t post = all<int64_t>(how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS)[d];
        const int64_t stride = all<int64_t>(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES)[d];
        const int64_t room = x.size[2 + d] + pre + post - w.size[2 + d];
        need(all<int64_t>(how, CUDNN_ATTR_CONVOLUTION_DILATIONS)[d] == 1, "a dilation",
             CUDNN_STATUS_NOT_SUPPORTED);
        need(room >= 0 && y.size[2 + d] == room / stride + 1, "the size of y",
             CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        op.stride[d] = stride;
        op.pad[d] = pre;
    }
    op.kind = as.does;
    if (as.does == CONVOLVE) op.in = {x.id, w.id}, op.out = {y.id};
    if (as.does == CONVOLVE_DATA) op.in = {y.id, w.id}, op.out = {x.id};
    if (as.does == CONVOLVE_FILTER) op.in = {x.id, y.id}, op.out = {w.id};
    return op;
}

/* Each size that of `whole`, or 1. */
bool spreads_over(const cudnn_tensor &t, const cudnn_tensor &whole)
{
    for (int d = 0; d < 4; d++)
        if (t.size[d] != whole.size[d] && t.size[d] != 1) return false;
    return true;
}

bool same_size(const cudnn_tensor &a, const cudnn_tensor &b)
{
    return spreads_over(a, b) && a.count() == b.count();
}

cudnn_operation read_pointwise(const node &n)
{
    const node &how =
        part(n, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    const cudnnPointwiseMode_t mode = one<cudnnPointwiseMode_t>(how, CUDNN_ATTR_POINTWISE_MODE);
    const bool back = mode == CUDNN_POINTWISE_RELU_BWD;
    const bool two = mode == CUDNN_POINTWISE_ADD || mode == CUDNN_POINTWISE_MUL;
    const attribute out =
        back ? CUDNN_ATTR_OPERATION_POINTWISE_DXDESC : CUDNN_ATTR_OPERATION_POINTWISE_YDESC;
    const attribute other =
        back ? CUDNN_ATTR_OPERATION_POINTWISE_DYDESC : CUDNN_ATTR_OPERATION_POINTWISE_BDESC;

    need(two || back || mode == CUDNN_POINTWISE_RELU_FWD, "a pointwise mode",
         CUDNN_STATUS_NOT_SUPPORTED);
    need(has(n, out), "a pointwise operation without its result");
    need(has(n, other) == (two || back), "a pointwise operation's second argument");
    need(has(n, CUDNN_ATTR_OPERATION_POINTWISE_BDESC) == two &&
             has(n, CUDNN_ATTR_OPERATION_POINTWISE_YDESC) == !back,
         "a pointwise operation's arguments are another mode's");
    for (attribute a :
         {CUDNN_ATTR_OPERATION_POINTWISE_ALPHA1, CUDNN_ATTR_OPERATION_POINTWISE_ALPHA2})
        need(!has(n, a) || one<float>(n, a) == 1, "a factor", CUDNN_STATUS_NOT_SUPPORTED);

    const cudnn_tensor x = read_tensor(part(n, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, TENSOR));
    const cudnn_tensor y = read_tensor(part(n, out, TENSOR));
    cudnn_operation op = {};
    op.kind = POINTWISE;
    op.mode = mode;
    op.in = {x.id};
    op.out = {y.id};
    need(same_size(x, y), "x and the result", CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
    if (two || back) {
        const cudnn_tensor b = read_tensor(part(n, other, TENSOR));
        need(spreads_over(b, y) && (two || same_size(b, y)), "the second argument",
             CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        op.in.push_back(b.id);
    }
    if (back) std::swap(op.in[0], op.in[1]);
    return op;
}

cudnn_operation read_sum(const node &n)
{
    const node &how =
        part(n, CUDNN_ATTR_OPERATION_REDUCTION_DESC, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    const cudnn_tensor x = read_tensor(part(n, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, TENSOR));
    const cudnn_tensor y = read_tensor(part(n, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, TENSOR));
    cudnn_operation op = {};

    need(one<cudnnReduceTensorOp_t>(how, CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_ADD,
         "a reduction that is no sum", CUDNN_STATUS_NOT_SUPPORTED);
    need(spreads_over(y, x), "a reduction's sizes", CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
    op.kind = SUM;
    op.in = {x.id};
    op.out = {y.id};
    return op;
}

cudnn_operation read_statistics(const node &n)
{
    const cudnn_tensor x = read_tensor(part(n, CUDNN_ATTR_OPERATION_GENSTATS_XDESC, TENSOR));
    cudnn_operation op = {};

    op.kind = STATISTICS;
    op.in = {x.id};
    for (attribute a :
         {CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC}) {
        const cudnn_tensor t = read_tensor(part(n, a, TENSOR));
        need(spreads_over(t, x) && t.count() == x.size[1] && t.size[1] == x.size[1],
             "statistics are of channels", CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        op.out.push_back(t.id);
    }
    return op;
}

/* The operation that a descriptor is; of any other kind: refused. */
cudnn_operation read_operation(const node &n)
{
    for (const convolution_names &as : CONVOLUTIONS)
        if (n.type == as.of) return read_convolution(n, as);
    if (n.type == POINT) return read_pointwise(n);
    if (n.type == REDUCTION) return read_sum(n);
    if (n.type == GENSTATS) return read_statistics(n);
    throw refusal{CUDNN_STATUS_BAD_PARAM, "what is in a graph must be operations"};
}

/* ---- graphs ---- */

/* Every tensor under its id: one descriptor an id. */
void collect_tensors(const node &graph, cudnn_program &p)
{
    std::map<int64_t, const node *> known;

    for (const node_ref &op : graph.values.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).nodes)
        for (const auto &entry : op->values)
            for (const node_ref &t : entry.second.nodes) {
                if (t->type != TENSOR) continue;
                const cudnn_tensor tensor = read_tensor(*t);
                const node *&as = known[tensor.id];
                need(!as || as == t.get(),
                     formatted("two tensors of id %lld", (long long)tensor.id),
                     CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES);
                as = t.get();
                p.tensors[tensor.id] = tensor;
            }
}

/* Operations in an order in which all that one reads is there before it. */
void order(cudnn_program &p, std::vector<cudnn_operation> operations)
{
    std::set<int64_t> made, will;

    for (const cudnn_operation &op : operations)
        for (int64_t id : op.out)
            need(will.insert(id).second, formatted("tensor %lld is written twice", (long long)id));
    for (const cudnn_operation &op : operations)
        for (int64_t id : op.in)
            need(!p.tensors[id].is_virtual || will.count(id),
                 formatted("nothing writes virtual tensor %lld", (long long)id));
    while (!operations.empty()) {
        auto next = std::find_if(operations.begin(), operations.end(), [&](auto &op) {
            return std::all_of(op.in.begin(), op.in.end(),
                               [&](int64_t id) { return !will.count(id) || made.count(id); });
        });
        need(next != operations.end(), "operations wait for each other");
        made.insert(next->out.begin(), next->out.end());
        p.operations.push_back(*next);
        operations.erase(next);
    }
}

/* A virtual tensor that nothing reads is a result that is lost; and all must hang together. */
void check_use(const cudnn_program &p)
{
    std::set<int64_t> read, reached;

    for (const cudnn_operation &op : p.operations)
        read.insert(op.in.begin(), op.in.end());
    for (const auto &t : p.tensors)
        need(!t.second.is_virtual || read.count(t.first),
             formatted("nothing reads virtual tensor %lld", (long long)t.first));
    for (bool first = true, grew = true; grew; first = false) {
        grew = false;
        for (const cudnn_operation &op : p.operations) {
            std::vector<int64_t> ids(op.in);
            ids.insert(ids.end(), op.out.begin(), op.out.end());
            if (!(first && reached.empty()) &&
                std::none_of(ids.begin(), ids.end(), [&](int64_t id) { return reached.count(id); }))
                continue;
            for (int64_t id : ids)
                grew |= reached.insert(id).second;
        }
    }
    need(reached.size() == p.tensors.size(), "a graph of two parts");
}

void finalize_graph(node &n)
{
    auto p = std::make_shared<cudnn_program>();
    std::vector<cudnn_operation> operations;

    p->rounds = libraries.rounds;
    collect_tensors(n, *p);
    for (const node_ref &op : n.values.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).nodes)
        operations.push_back(read_operation(*op));
    order(*p, operations);
    check_use(*p);
    n.program = p;
}

/* ---- engines ---- */

enum pattern { ALONE, WITH_END, OTHER, NOTHING };

/* A convolution alone, with the end that inference knows, or anything else around one. */
enum pattern pattern_of(const cudnn_program &p)
{
    static const cudnnPointwiseMode_t end[] = {CUDNN_POINTWISE_ADD, CUDNN_POINTWISE_ADD,
                                               CUDNN_POINTWISE_RELU_FWD};
    const cudnn_operation &first = p.operations[0];
    const enum element type = p.tensors.at(first.in[0]).type;
    int at = 0;

    for (size_t i = 0; i < p.operations.size(); i++)
        if ((p.operations[i].kind <= CONVOLVE_FILTER) != (i == 0)) return NOTHING;
    for (const auto &t : p.tensors) /* float32 from half is there for filters in no engine */
        if (!t.second.is_virtual && t.second.type != type)
            return p.operations.size() == 1 && first.kind == CONVOLVE_FILTER ? NOTHING : OTHER;
    if (p.operations.size() == 1) return ALONE;
    if (first.kind != CONVOLVE) return OTHER;
    bool bias = false;
    for (size_t i = 1; i < p.operations.size(); i++) {
        const cudnn_operation &op = p.operations[i];
        while (at < 3 && (op.kind != POINTWISE || op.mode != end[at]))
            at++;
        if (at++ >= 3) return OTHER;
        bias |=
            op.in.size() > 1 && p.tensors.at(op.in[1]).count() == p.tensors.at(op.in[0]).size[1];
    }
    return bias ? WITH_END : OTHER;
}

const cudnnBackendNumericalNote_t TENSOR_CORE = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;

/* All that may be proposed, the unfit first. Workspaces are odd: what follows must align itself. */
std::vector<engine> engines_of(const cudnn_program &p)
{
    const bool f32 = p.tensors.at(p.operations[0].in[0]).type == FLOAT32;
    const enum cudnn_fault fault = f32 ? TF32 : NO_FAULT;
    const cudnnBackendNumericalNote_t down =
        f32 ? CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS : TENSOR_CORE;
    const int64_t too_much = ((int64_t)3 << 30) + 1;
    const enum pattern pattern = pattern_of(p);
    std::vector<engine> list = {
        {90, {TENSOR_CORE}, 0, false, true, fault},
        {91, {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}, 0, true, true, POISONED},
        {92, {CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION}, 0, true, true, POISONED},
        {93, {TENSOR_CORE, down}, too_much, true, true, POISONED}};

    if (!libraries.plans || pattern == NOTHING || (pattern == WITH_END && !libraries.ends) ||
        (pattern == OTHER && !libraries.compiled))
        return {};
    if (pattern == OTHER) {
        list.push_back({7, {TENSOR_CORE, down}, 33, true, libraries.runs, fault});
        /* We know of no compiled kernel for exact float32, but the tests need one. */
        if (f32) list.push_back({8, {}, 0, true, libraries.runs, NO_FAULT});
        return list;
    }
    list.push_back({62, {TENSOR_CORE, down}, 1001, true, true, fault});
    list.push_back({0, {}, 0, true, true, NO_FAULT});
    list.push_back({61, {TENSOR_CORE, down}, 77777, true, true, fault});
    return list;
}

/* Each heuristic has something else, so that all are asked: A for forward, B for filters, and data
 * gradients only as fallback. */
void finalize_heuristics(node &n)
{
    const node &graph = part(n, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, GRAPH);
    const auto mode = one<cudnnBackendHeurMode_t>(n, CUDNN_ATTR_ENGINEHEUR_MODE);
    const std::vector<engine> all = engines_of(*graph.program);
    const enum cudnn_kind first = graph.program->operations[0].kind;

    need(!all.empty(), "no engine supports the graph's pattern",
         CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN);
    n.program = graph.program;
    if (mode == CUDNN_HEUR_MODE_A && first == CONVOLVE) n.engines = all;
    if (mode == CUDNN_HEUR_MODE_A && first == CONVOLVE_FILTER)
        throw refusal{CUDNN_STATUS_NOT_SUPPORTED, "this heuristic knows no filter gradients"};
    if (mode == CUDNN_HEUR_MODE_B && first == CONVOLVE_FILTER) n.engines = all;
    if (mode == CUDNN_HEUR_MODE_FALLBACK) n.engines = all;
}

void finalize_plan(node &n)
{
    const node &config =
        part(n, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);

    n.program = config.program;
    n.engines = config.engines;
    need(n.engines[0].plans, "this engine does not run here after all", CUDNN_STATUS_NOT_SUPPORTED);
}

void finalize_pack(const node &n)
{
    const value &ids = n.values.at(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const value &pointers = n.values.at(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    std::set<int64_t> seen;

    need(ids.count == pointers.count, "as many pointers as ids");
    for (int64_t i = 0; i < ids.count; i++) {
        need(seen.insert(all<int64_t>(n, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS)[i]).second,
             "an id is given twice", CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES);
        need(all<void *>(n, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)[i] != nullptr,
             formatted("the pointer of id %lld is NULL",
                       (long long)all<int64_t>(n, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS)[i]),
             CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    }
}

void finalize(node &n)
{
    for (const rule &r : RULES)
        need(r.of != n.type || !r.required || has(n, r.name),
             formatted("attribute %d is not set", r.name));
    switch (n.type) {
    case TENSOR:
        return finalize_tensor(n);
    case CONVOLUTION:
        return finalize_convolution(n);
    case GRAPH:
        return finalize_graph(n);
    case HEURISTICS:
        return finalize_heuristics(n);
    case PLAN:
        return finalize_plan(n);
    case PACK:
        return finalize_pack(n);
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR:
    case CUDNN_BACKEND_REDUCTION_DESCRIPTOR:
        return;
    default:
        (void)read_operation(n);
    }
}

/* ---- results ---- */

template <typename T>
cudnnStatus_t give(const std::vector<T> &from, int64_t room, int64_t *count, void *values)
{
    *count = (int64_t)from.size();
    if (room == 0) return CUDNN_STATUS_SUCCESS;
    *count = std::min(room, *count);
    if (*count) memcpy(values, from.data(), (size_t)*count * sizeof(T));
    return CUDNN_STATUS_SUCCESS;
}

/* Into descriptors that the caller made. Heuristics announce one more than they have. */
cudnnStatus_t give_engines(const node &n, kind into, int64_t room, int64_t *count, void *values)
{
    const int64_t there = (int64_t)n.engines.size();

    *count = n.type == HEURISTICS && there ? there + 1 : there;
    if (room == 0) return CUDNN_STATUS_SUCCESS;
    *count = std::min(room, there);
    for (int64_t i = 0; i < *count; i++) {
        const cudnnBackendDescriptor_t d = static_cast<cudnnBackendDescriptor_t *>(values)[i];
        if (!d || inside(d).type != into || inside(d).final)
            return refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor to put an engine into");
        inside(d).program = n.program;
        inside(d).engines = {n.engines[(size_t)i]};
        inside(d).final = true;
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t get(const node &n, attribute name, cudnnBackendAttributeType_t type, int64_t room,
                  int64_t *count, void *values)
{
    if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && n.type == HEURISTICS && type == NODE)
        return give_engines(n, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, room, count, values);
    if (name == CUDNN_ATTR_ENGINECFG_ENGINE && n.type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR &&
        type == NODE)
        return give_engines(n, CUDNN_BACKEND_ENGINE_DESCRIPTOR, room, count, values);
    if (name == CUDNN_ATTR_ENGINE_GLOBAL_INDEX && n.type == CUDNN_BACKEND_ENGINE_DESCRIPTOR &&
        type == INT64)
        return give(std::vector<int64_t>{n.engines[0].number}, room, count, values);
    if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && n.type == CUDNN_BACKEND_ENGINE_DESCRIPTOR &&
        type == CUDNN_TYPE_NUMERICAL_NOTE)
        return give(n.engines[0].notes, room, count, values);
    if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE && n.type == PLAN && type == INT64)
        return give(std::vector<int64_t>{n.engines[0].workspace}, room, count, values);
    return refuse(CUDNN_STATUS_BAD_PARAM, formatted("attribute %d is not to be got", name));
}

/* ---- execution ---- */

bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    const char *const p = static_cast<const char *>(a), *const q = static_cast<const char *>(b);
    return p < q + b_bytes && q < p + a_bytes;
}

size_t bytes_of(const cudnn_tensor &t)
{
    return (size_t)t.extent() * element_bytes(t.type);
}

/* Results may lie over nothing else; only over an input of the same shape that is read value by
 * value, when each result comes of the value in its place. */
void check_overlap(const cudnn_program &p, const cudnn_binding &b)
{
    std::set<int64_t> results, pointwise, elsewhere;

    for (const cudnn_operation &op : p.operations) {
        results.insert(op.out.begin(), op.out.end());
        (op.kind == POINTWISE ? pointwise : elsewhere).insert(op.in.begin(), op.in.end());
    }
    for (const auto &r : b.pointers) {
        if (!results.count(r.first)) continue;
        const cudnn_tensor &result = p.tensors.at(r.first);
        need(!b.workspace_bytes ||
                 !overlap(r.second, bytes_of(result), b.workspace, b.workspace_bytes),
             "a result in the workspace");
        for (const auto &o : b.pointers) {
            const cudnn_tensor &other = p.tensors.at(o.first);
            if (o.first == r.first ||
                !overlap(r.second, bytes_of(result), o.second, bytes_of(other)))
                continue;
            need(
                r.second == o.second && !results.count(o.first) && pointwise.count(o.first) &&
                    !elsewhere.count(o.first) && same_size(result, other) &&
                    result.type == other.type,
                formatted("tensors %lld and %lld overlap", (long long)r.first, (long long)o.first));
        }
    }
}

cudnn_binding bind(const node &plan, const node &pack)
{
    const cudnn_program &p = *plan.program;
    cudnn_binding b = {{},
                       one<void *>(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE),
                       (size_t)plan.engines[0].workspace};
    const int64_t count = pack.values.at(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).count;

    for (int64_t i = 0; i < count; i++) {
        const int64_t id = all<int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS)[i];
        void *const pointer = all<void *>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS)[i];
        const auto t = p.tensors.find(id);
        need(t != p.tensors.end() && !t->second.is_virtual,
             formatted("id %lld is no tensor in memory", (long long)id));
        need((uintptr_t)pointer % (uintptr_t)t->second.alignment == 0,
             formatted("tensor %lld is not aligned", (long long)id),
             CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER);
        b.pointers[id] = pointer;
    }
    for (const auto &t : p.tensors)
        need(t.second.is_virtual || b.pointers.count(t.first),
             formatted("tensor %lld has no pointer", (long long)t.first));
    need(!b.workspace_bytes || (b.workspace && (uintptr_t)b.workspace % 128 == 0),
         "no workspace, or not aligned to 128 bytes");
    check_overlap(p, b);
    return b;
}

handle *new_handle(kind type)
{
    count_object(1);
    handle *h = new handle{std::make_shared<node>()};
    h->inside->type = type;
    return h;
}

bool known(kind type)
{
    if (type == CUDNN_BACKEND_ENGINE_DESCRIPTOR || type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
        return true;
    return std::any_of(std::begin(RULES), std::end(RULES),
                       [&](const rule &r) { return r.of == type; });
}

} // namespace

/* ---- the interface ---- */

size_t cudnnGetVersion()
{
    return 91900;
}

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    static std::string text;
    text = status == CUDNN_STATUS_SUCCESS ? "CUDNN_STATUS_SUCCESS"
                                          : formatted("CUDNN_STATUS_%d", (int)status);
    return text.c_str();
}

void cudnnGetLastErrorString(char *message, size_t max_size)
{
    snprintf(message, max_size, "%s", last_error.c_str());
    last_error.clear();
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    *h = new cudnnContext{nullptr};
    count_object(1);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    delete h;
    count_object(-1);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t stream)
{
    h->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t h, cudaStream_t *stream)
{
    *stream = h->stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *descriptor)
{
    if (!known(type)) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "no such descriptor");
    *descriptor = new_handle(type);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor)
{
    delete static_cast<handle *>(descriptor);
    count_object(-1);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void *values)
{
    node &n = inside(descriptor);
    const rule *r = rule_of(n.type, name);

    if (n.final) return refuse(CUDNN_STATUS_NOT_INITIALIZED, "the descriptor is finalized");
    if (!r) return refuse(CUDNN_STATUS_NOT_SUPPORTED, formatted("no attribute %d there", name));
    if (type != r->type)
        return refuse(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE,
                      formatted("attribute %d is of type %d, not %d", name, r->type, type));
    if (count < r->least || count > r->most || !values)
        return refuse(CUDNN_STATUS_BAD_PARAM,
                      formatted("attribute %d: a count of %lld", name, (long long)count));
    value v = {type, count, {}, {}};
    v.bytes.resize((size_t)count * size_of(type));
    memcpy(v.bytes.data(), values, v.bytes.size());
    if (type == NODE)
        for (int64_t i = 0; i < count; i++) {
            const cudnnBackendDescriptor_t d =
                static_cast<const cudnnBackendDescriptor_t *>(values)[i];
            if (!d) return refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "a descriptor is NULL");
            if (!inside(d).final)
                return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
                              formatted("attribute %d: a descriptor not finalized", name));
            v.nodes.push_back(static_cast<handle *>(d)->inside);
        }
    n.values[name] = v;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room,
                                       int64_t *count, void *values)
{
    const node &n = inside(descriptor);

    if (!n.final) return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "it is not finalized");
    if (room < 0 || (room && !values) || !count)
        return refuse(CUDNN_STATUS_BAD_PARAM, "nowhere to put an attribute");
    return get(n, name, type, room, count, values);
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor)
{
    node &n = inside(descriptor);

    if (n.final) return refuse(CUDNN_STATUS_BAD_PARAM, "it is finalized already");
    try {
        finalize(n);
    } catch (const refusal &r) {
        return refuse(r.status, r.why);
    }
    n.final = true;
    return CUDNN_STATUS_SUCCESS;
}

/* Pointers are noted now, memory is read when the stream comes to it. */
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack)
{
    const node &p = inside(plan), &v = inside(pack);

    try {
        need(p.type == PLAN && p.final && v.type == PACK && v.final, "no plan, or no variant pack",
             CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
        need(one<cudnnHandle_t>(p, CUDNN_ATTR_EXECUTION_PLAN_HANDLE) == h, "another handle's plan");
        const cudnn_binding b = bind(p, v);
        need(p.engines[0].runs, "the kernel cannot be launched", CUDNN_STATUS_EXECUTION_FAILED);
        const std::shared_ptr<cudnn_program> program = p.program;
        const enum cudnn_fault fault = p.engines[0].fault;
        count_run();
        const cudaError_t error = executor::submit(h->stream, [=] {
            cudnn_compute(*program, b, fault);
            return cudaSuccess;
        });
        /* A launch is checked like this; an older error is taken for its own. */
        need(error == cudaSuccess && cudaGetLastError() == cudaSuccess, cudaGetErrorString(error),
             CUDNN_STATUS_EXECUTION_FAILED);
    } catch (const refusal &r) {
        return refuse(r.status, r.why);
    }
    return CUDNN_STATUS_SUCCESS;
}
