/* The structures that the files of this room share: nodes, buffers, backends, networks. Not for other
 * rooms. */
#ifndef MABN_NET_INTERNAL_H
#define MABN_NET_INTERNAL_H

#include <string.h>

#include "net/graph.h"
#include "net/net.h"
#include "net/params_internal.h"
#include "norm/norm.h"
#include "ops/conv.h"

MABN_BEGIN_DECLS

enum { NODE_MAX_READS = MABN_NET_MAX_READS };

struct node;
struct net_layer_time;
struct mabn_net_labels; /* net/losses.h */

/* How one backend runs one kind of node. NULL: nothing to do. net_data, net_dx, net_weight and
 * net_gradient give the pointers. */
struct node_ops {
    bool half; /* CPU: it can also compute in bfloat16 */
    mabn_status (*prepare)(struct mabn_net *net, struct node *node); /* once, after placing */
    mabn_status (*forward)(struct mabn_net *net, struct node *node);
    /* Writes the gradient of each read that trains, or adds to it where node->dx_adds[k] is set.
     * With node->parameters_add it adds to the gradients of its parameters. */
    mabn_status (*backward)(struct mabn_net *net, struct node *node);
    /* Recompute the node's output, bit for bit, into buffer node->again. */
    mabn_status (*remake)(struct mabn_net *net, struct node *node);
    /* Inference, after the parameters changed: renew what forward reads in their place (packed or
     * folded weights). */
    mabn_status (*refresh)(struct mabn_net *net, struct node *node);
    /* Only the convolutions or matrix products, for mabn_net_time_convolutions. */
    mabn_status (*bare)(struct mabn_net *net, struct node *node);
    void (*release)(struct node *node);
    /* The shape of the convolution that computes the node on `rows` rows. NULL: none does. */
    struct mabn_conv_shape (*conv_shape)(const struct mabn_net *net, const struct node *node,
                                         int64_t rows);
    /* In a plan without live rows, which computes nothing: take part in the sums of other shards. */
    mabn_status (*meet)(struct mabn_net *net, struct node *node, bool backwards);
};

/* A kind of node. Other files ask its table, not which kind a node is.
 *
 * To add a kind:
 *   1. its file in nodes/, with its mabn_net_add_… and this table at the end, and beside it a .cu file
 *      with the functions for a GPU;
 *   2. its tables, declared below, and mabn_net_add_…, declared in net.h (of a loss in losses.h);
 *   3. its case in tests/unit/test_nodes.c;
 *   4. a row in exchange/onnx_graph.c, if classifiers use it. */
struct node_kind {
    const char *name; /* "convolution": for output and messages */
    bool input;       /* its values come from outside the plan */
    bool pads_input;  /* reads inputs whose channels are padded */
    bool takes_norms; /* work of the norms next to it may be fused into it: in inference the whole
                       * norm behind it, in training on a GPU see join_cuda.cu */
    bool transposed;  /* its own functions call the passes of its convolution in other roles */
    bool scores;      /* on a GPU: can write float32 in a plan of another type */
    /* Does backward need the output of read k? The output of the node itself? */
    bool (*keeps)(const struct node *node, int k);
    bool (*keeps_output)(const struct node *node);
    /* Bytes kept from forward to backward, in addition to outputs. */
    size_t (*saved_bytes)(const struct mabn_net *net, const struct node *node);
    /* Can backward add to the gradient of read k? Can it write that gradient over the node's own? A
     * kind that cannot add writes to a separate buffer, which is added afterwards. */
    bool (*adds)(const struct node *node, int k);
    bool (*takes_over)(const struct node *node, int k);
    /* Inference: the read whose buffer the output may overwrite; -1: none. */
    int (*over)(const struct mabn_net *net, const struct node *node);
    /* Its value is one number, node->loss. It has no output and no gradient of its own, and backward
     * begins at it. */
    bool loss;
    bool figure;  /* a loss that on a GPU comes with a step's result; at most one in a network */
    bool remakes; /* save_memory: its output can be dropped and recomputed */
    bool finds_again; /* a reader of this kind gets such an output from mabn_net_input_again */
    /* Its output has the type of what it reads; other kinds take any types. */
    bool one_type;
    /* Before inference or training is planned: join with a neighbouring node. */
    void (*join)(struct mabn_net *net, int node);
    /* Fill in the fields of mabn_net_node_at that not all kinds have. */
    void (*attributes)(const struct node *node, struct mabn_net_node *told);
    /* The bytes it moves and the operations it does, for mabn_net_time_layers. */
    void (*describe)(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer);
    const struct node_ops *cpu, *cuda; /* NULL: the backend has none */
};

extern const struct node_kind mabn_node_input, mabn_node_conv, mabn_node_norm, mabn_node_max_pool,
    mabn_node_global_pool, mabn_node_linear, mabn_node_upsample, mabn_node_transposed_conv,
    mabn_node_sigmoid, mabn_node_roi_align, mabn_node_softmax_loss, mabn_node_sigmoid_loss,
    mabn_node_smooth_l1_loss;
/* From the .cu files in nodes/. */
extern const struct node_ops mabn_node_conv_cuda, mabn_node_linear_cuda, mabn_node_norm_cuda,
    mabn_node_max_pool_cuda, mabn_node_global_pool_cuda, mabn_node_upsample_cuda,
    mabn_node_transposed_conv_cuda, mabn_node_sigmoid_cuda, mabn_node_roi_align_cuda,
    mabn_node_softmax_loss_cuda, mabn_node_sigmoid_loss_cuda, mabn_node_smooth_l1_loss_cuda;

/* A node and its one output, (N,h,w,c). */
struct node {
    const struct node_kind *kind;
    char *name;
    int reads[NODE_MAX_READS]; /* nodes; -1: none. For a norm [1] is the shortcut */
    int64_t h, w, c;
    enum mabn_dtype dtype; /* of the output and its gradient; of a GPU's scores, the gradient's */
    int weight, bias;      /* parameters; of a norm gamma and beta; -1: none */
    int act;               /* of a norm: its activation's parameter; -1: none */
    void *own;             /* the kind's own fields; freed with the node */

    struct mabn_net_conv conv; /* of a convolution; a pool uses kernel, stride and pad */
    struct mabn_conv *op;
    int folded;            /* inference: for a convolution the norm that runs it, for a norm the
                           * convolution that it is folded into; -1: none */
    int neighbour;         /* training on a GPU: for a convolution the norm that is its only reader,
                           * for that norm the convolution. Work of one may be fused into the other;
                           * with MABN the convolution may run in the norm's place. -1: none */
    int runs_at;           /* the node in whose place this one is executed: itself, or its norm */
    struct packed *packed; /* inference on the CPU: packed weights; NULL: none */
    float *means;          /* training on the CPU: a centralized one's filter means; NULL: none */

    struct mabn_norm norm;
    struct mabn_norm_io io;
    int state; /* of a norm: its state in the store; -1: none */

    bool trains;                  /* this node, or one before it, has a parameter that is trained */
    bool dx_adds[NODE_MAX_READS]; /* backward: the read already has a gradient, which is added to */
    int dx[NODE_MAX_READS];       /* the buffer that backward writes it to; -1: none */
    bool parameters_add;          /* another node's backward has already written the gradients of
                                   * the same parameters */

    int data, again, grad, extra; /* buffers; -1: none. again: the recomputed output; extra: a
                                   * norm's saved values, a pool's winners */
    int remake_for;               /* the node whose backward makes `again` */

    double loss; /* of a loss */

    /* An input whose values are another plan's. */
    bool bound;
    struct mabn_net_binding binding;
};

/* A part of the activation arena, in use from step `first` to step `last` (both included). Steps:
 * forward of node i is step i, the caller's turn is step n, backward of node i is step 2n − i. */
struct buffer {
    size_t bytes, offset;
    int first, last;
};

/* Of a node, for mabn_net_time_layers. */
struct net_layer_time {
    double forward, backward; /* seconds */
    bool elsewhere;           /* a convolution whose forward runs in its norm's place */
    bool with_conv;           /* the norm of such a convolution */
    bool with_norm;           /* a convolution whose backward includes the norm before it */
    bool fused;               /* norm whose ReLU backward the next convolution does */
};

/* A backend: what runs a planned network. Planning, arenas and named tensors are common to all. */
struct net_backend {
    int depth;     /* the value of mabn_net_depth */
    int row_bytes; /* the input's channels are padded to this many bytes where convolutions read
                    * it */
    bool pairs;    /* in training, work of a norm may be fused into its convolutions */
    bool mixes;    /* in a bfloat16 network, inputs, outputs, the scores that losses read, and their
                    * gradients are float32 */
    const struct node_ops *(*ops)(const struct node_kind *kind); /* NULL: it has none */
    /* Once everything is placed: make the primitives, and the memory that they need in addition to
     * the arenas. */
    mabn_status (*prepare)(struct mabn_net *net);
    void (*release)(struct mabn_net *net); /* also after a failed prepare */
    void *(*input)(struct mabn_net *net);  /* floats, or bytes with options.bytes */
    mabn_status (*byte_table)(struct mabn_net *net, const float *table);
    /* As mabn_net_set_labels; NULL where the node does it. */
    void (*set_labels)(struct mabn_net *net, const struct mabn_net_labels *labels);
    const float *(*logits)(const struct mabn_net *net);
    /* As mabn_net_<name>, after the arguments were checked. */
    mabn_status (*forward)(struct mabn_net *net);
    mabn_status (*backward)(struct mabn_net *net);
    mabn_status (*update)(struct mabn_net *net, const struct mabn_params_sgd *sgd);
    mabn_status (*step)(struct mabn_net *net, const struct mabn_params_sgd *sgd);
    mabn_status (*result)(struct mabn_net *net, struct mabn_net_result *result);
    /* NULL where losses are never scaled. */
    mabn_status (*get_scale)(struct mabn_net *net, struct mabn_net_loss_scale *scale);
    mabn_status (*set_scale)(struct mabn_net *net, const struct mabn_net_loss_scale *scale);
    mabn_status (*time_convolutions)(struct mabn_net *net, double *seconds);
    mabn_status (*time_layers)(struct mabn_net *net, struct net_layer_time *times /* (nodes) */);
    mabn_status (*time_copy)(struct mabn_net *net, void *to, const void *from, size_t bytes,
                             double *seconds);
};

extern const struct net_backend mabn_net_cpu;
extern const struct net_backend mabn_net_cuda;

/* An output with a name. In training it has a gradient, which the caller writes before backward. */
struct output {
    char *name;
    int node;
};

struct mabn_net {
    struct mabn_device *device;
    const struct net_backend *backend;
    struct net_cuda *cuda; /* what run_cuda.cu keeps; NULL on the CPU */
    struct mabn_net_options options;
    enum mabn_dtype dtype; /* of activations, their gradients and the weights in use */
    struct mabn_params *params;
    bool owns_params;
    mabn_status status; /* the first failure of a call that cannot report one, such as those that
                         * build */
    char *message;      /* of `status` */
    bool planned;
    int behind;           /* steps begun whose result was not fetched */
    int64_t rows;         /* of the next run: the live ones; options.batch where they do not vary */
    const int32_t *live;  /* on a GPU, in its memory: the number of live rows among `rows`; NULL:
                           * all */
    bool accumulate;      /* backward adds to all gradients of parameters */
    mabn_net_ready ready; /* given to mabn_net_tell_gradients, or NULL */
    void *ready_context;
    size_t *ready_from; /* (node_count) from which float on gradients are done after a node's
                         * backward */

    struct node *nodes;
    int node_count, node_capacity;
    struct output *outputs;
    int output_count, output_capacity;
    int output; /* the first output's node: a classifier's logits */
    struct buffer *buffers;
    int buffer_count, buffer_capacity;

    struct arena activations;
    size_t arena_bytes;  /* of all arenas, a backend's own as well */
    struct arena packed; /* on a GPU: weights as convolutions read them, where that differs */
    uint64_t version; /* of the parameters that packed, folded and rounded copies were made from */

    int64_t input_channels; /* as the first convolution reads them: padded on a GPU */

    /* The CPU's. */
    float *fold_a, *fold_b; /* as many floats as the widest node has channels */
    /* Shared scratch: a layer's weights in use, then the operations' own. */
    size_t weight_bytes, scratch_bytes;

    int *record_channels, record_channel_count; /* requested */
    int *record_fitting;                        /* those of them that the layer at hand has */
    bool record_reference;
    struct mabn_norm_record *record_values; /* of one layer */
    struct mabn_net_record *records;
    int record_count;
};

static inline bool net_stale(const struct mabn_net *net)
{
    return net->version != net->params->version;
}

static inline const struct node_ops *net_ops(const struct mabn_net *net, const struct node *node)
{
    return net->backend->ops(node->kind);
}

static inline int net_backward_step(const struct mabn_net *net, int node)
{
    return 2 * net->node_count - node;
}

/* Arrays of a node have its dtype. */
static inline void *net_buffer(const struct mabn_net *net, int buffer)
{
    return buffer < 0 ? NULL : (void *)(net->activations.base + net->buffers[buffer].offset);
}

static inline float *net_weight(const struct mabn_net *net, int parameter)
{
    return params_weight(net->params, parameter);
}

static inline float *net_gradient(const struct mabn_net *net, int parameter)
{
    return params_gradient(net->params, parameter);
}

/* Values of a node's output, for the plan's capacity of rows. */
static inline int64_t net_values(const struct mabn_net *net, const struct node *node)
{
    return net->options.batch * node->h * node->w * node->c;
}

/* Values of one row of a node's output. */
static inline int64_t net_row(const struct node *node)
{
    return node->h * node->w * node->c;
}

/* Does backward run this node? */
static inline bool net_goes_back(const struct node *node)
{
    return node->kind->loss ? node->trains : node->grad >= 0;
}

/* Does the node keep a norm's state in the store? Then its fields `norm` and `io` are in use. */
static inline bool net_has_state(const struct node *node)
{
    return node->state >= 0;
}

static inline bool net_reads(const struct node *node, int x)
{
    for (int k = 0; k < NODE_MAX_READS; k++)
        if (node->reads[k] == x) return true;
    return false;
}

/* Is node x an output of the network? */
static inline bool net_is_output(const struct mabn_net *net, int x)
{
    for (int k = 0; k < net->output_count; k++)
        if (net->outputs[k].node == x) return true;
    return false;
}

/* Does a loss read node x? */
static inline bool net_loss_reads(const struct mabn_net *net, int x)
{
    for (int j = x + 1; j < net->node_count; j++)
        if (net->nodes[j].kind->loss && net_reads(&net->nodes[j], x)) return true;
    return false;
}

/* Is the output of node x a score: float32 although the plan is in a type of 2 bytes? On a GPU outputs
 * are that no layer reads, only losses or the caller. Their gradient is of the plan's type. */
static inline bool net_scores(const struct mabn_net *net, int x)
{
    if (net->backend->mixes || net->dtype == MABN_DTYPE_F32) return false;
    for (int j = x + 1; j < net->node_count; j++)
        if (net_reads(&net->nodes[j], x) && !net->nodes[j].kind->loss) return false;
    return net_is_output(net, x) || net_loss_reads(net, x);
}

/* The k-th node that is read, NULL if none. */
static inline struct node *net_read(const struct mabn_net *net, const struct node *node, int k)
{
    return node->reads[k] < 0 ? NULL : &net->nodes[node->reads[k]];
}

/* A node's output. */
static inline void *net_data(const struct mabn_net *net, const struct node *node)
{
    return node->bound ? (void *)node->binding.values : net_buffer(net, node->data);
}

static inline const void *net_read_data(const struct mabn_net *net, const struct node *node, int k)
{
    return net_data(net, &net->nodes[node->reads[k]]);
}

/* Where backward writes the gradient of the k-th read; NULL: none is needed. */
static inline void *net_dx(const struct mabn_net *net, const struct node *node, int k)
{
    if (node->reads[k] < 0 || !net->nodes[node->reads[k]].trains) return NULL;
    if (net->nodes[node->reads[k]].bound) return net->nodes[node->reads[k]].binding.gradient;
    return net_buffer(net, node->dx[k]);
}

/* Bytes of this many rows of a node's output. */
static inline size_t net_row_bytes(const struct node *node, int64_t rows)
{
    return (size_t)(rows * net_row(node)) * mabn_dtype_size(node->dtype);
}

static inline size_t net_align(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

/* plan.c */
mabn_status mabn_net_get_arena(struct mabn_net *net, struct arena *arena, size_t bytes);

/* The only reader of node x, or -1. */
int mabn_net_only_reader(const struct mabn_net *net, int x);

/* build.c, for the files in nodes/: a new node. NULL when building has failed already, or when reads[0],
 * or another of the `count` reads that is not negative, is not a node. Failures are kept for
 * mabn_net_plan. */
struct node *mabn_net_add(struct mabn_net *net, const struct node_kind *kind, const char *name,
                          const int *reads, int count);
int mabn_net_added(const struct mabn_net *net, const struct node *node); /* its number */
int mabn_net_refuse(struct mabn_net *net, mabn_status status);           /* returns -1 */
/* Declare a parameter of the node; the number in *index stays -1 when that fails. */
void mabn_net_declare(struct mabn_net *net, const struct node *node, int *index, const char *suffix,
                      struct mabn_shape shape, const struct parameter *like);

/* run_cpu.c, for the files in nodes/: the device's scratch, cut in two. */
struct scratch {
    float *weights; /* a layer's weights in use, or a gradient that is then added */
    void *ops;      /* the operations' own */
};
mabn_status mabn_net_scratch(struct mabn_net *net, struct scratch *s);
static inline void net_request_scratch(struct mabn_net *net, size_t weights, size_t ops)
{
    if (weights > net->weight_bytes) net->weight_bytes = (weights + 255) & ~(size_t)255;
    if (ops > net->scratch_bytes) net->scratch_bytes = ops;
}
/* run_cpu.c: where a layer's backward writes the gradients of its parameters. Usually in their own
 * places. Where it must add to what is there, into `weights` and fold_a; `end` then adds them. */
struct net_gradients {
    float *weight, *bias; /* NULL: the layer has none */
};
struct net_gradients mabn_net_gradients_begin(const struct mabn_net *net, const struct node *node,
                                              float *weights);
void mabn_net_gradients_end(const struct mabn_net *net, const struct node *node,
                            const struct net_gradients *to);
/* run.c: the output of the node's first read as forward computed it: kept, or recomputed by the
 * reader that needs it first. */
mabn_status mabn_net_input_again(struct mabn_net *net, const struct node *reader,
                                 const void **input);
static inline bool net_adds(const struct mabn_net *net, const struct node *node)
{
    return net->accumulate || node->parameters_add;
}

/* nodes/conv.c, for a node that it prepared: the primitives for the live rows, and the number of
 * rows they are made for. */
mabn_status mabn_node_conv_find(struct mabn_net *net, struct node *node, struct mabn_conv **op,
                                int64_t *rows);
/* Live rows are followed by zeros up to `rows`. */
static inline void net_clear_rows(void *buffer, int64_t live, int64_t rows, const struct node *of)
{
    if (rows > live)
        memset((char *)buffer + net_row_bytes(of, live), 0, net_row_bytes(of, rows - live));
}

/* nodes/conv.c, for a norm. The first runs the convolution that the norm is folded into. The second
 * describes the two as one layer: multiply-adds and bytes of the forward. */
mabn_status mabn_node_conv_infer_for(struct mabn_net *net, int conv, const struct node *norm);
void mabn_node_conv_describe_in(const struct mabn_net *net, const struct node *conv,
                                const struct node *norm, struct mabn_net_layer *layer);

/* How weights start: as the layer says, or by the rule of its kind. */
#define net_fill(start, by_kind)                          \
    ((start)->rule == MABN_START_NORMAL    ? FILL_NORMAL  \
     : (start)->rule == MABN_START_UNIFORM ? FILL_UNIFORM \
                                           : (by_kind))

/* layers.c, for `describe`: bytes of a node's output, of its gradient, of its weights in use. */
double mabn_net_output_bytes(const struct mabn_net *net, const struct node *node);
double mabn_net_gradient_bytes(const struct mabn_net *net, const struct node *node);
double mabn_net_weight_bytes(const struct mabn_net *net, const struct node *node);

/* run.c: the loss with this name, of this kind (NULL: of any); MABN_BUG when there is none. */
struct node *mabn_net_loss_node(const struct mabn_net *net, const char *name,
                                const struct node_kind *kind);

/* run.c: report a kept failure. */
mabn_status mabn_net_check(struct mabn_net *net);
/* Record a norm's statistics before its backward. `io` is in host memory and holds at least the
 * first run. */
mabn_status mabn_net_record_norm(struct mabn_net *net, const struct node *node,
                                 const struct mabn_norm_io *io);

MABN_END_DECLS
#endif
