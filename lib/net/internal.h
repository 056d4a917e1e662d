/* What the files of this room share: nodes, parameters, buffers. Not for other rooms. */
#ifndef MABN_NET_INTERNAL_H
#define MABN_NET_INTERNAL_H

#include "net/net.h"
#include "norm/norm.h"
#include "ops/conv.h"

MABN_BEGIN_DECLS

enum node_kind {
    NODE_INPUT,
    NODE_CONV,
    NODE_NORM,
    NODE_MAX_POOL,
    NODE_GLOBAL_POOL,
    NODE_LINEAR,
};

/* A node and its one output, (N,h,w,c). */
struct node {
    enum node_kind kind;
    char *name;
    int x, residual; /* nodes read; -1: none */
    int64_t h, w, c;
    int weight, bias; /* parameters; of a norm gamma and beta; -1: none */

    struct mabn_net_conv conv; /* convolution; kernel, stride and pad of a pool */
    struct mabn_conv *op;
    int folded;           /* inference: of a convolution the norm that runs it, of a norm the
                           * convolution it took in; -1: none */
    int partner;          /* training on a GPU: of a convolution the norm that alone reads it, of
                           * that norm the convolution: one may do work of the other; MABN's may
                           * run in the norm's place; -1: none */
    size_t packed_offset; /* inference: packed weights */
    size_t bias_offset;   /* inference: folded bias, in floats */

    struct mabn_norm norm;
    struct mabn_norm_io io;
    size_t state_offset, state_bytes; /* in the state arena */

    bool trains;  /* a parameter of this node or of one before it is trained */
    bool dx_adds; /* backward: the gradient of x is there already, add to it */

    int data, again, grad, extra; /* buffers; -1: none. again: the output made a second time;
                                   * extra: the norm's saved values, the pool's winners */
    int remake_for;               /* the node whose backward makes `again` */
};

struct parameter {
    char *name;
    struct mabn_shape shape; /* in files */
    size_t offset, count;    /* in floats; the same in all arenas */
    int64_t out, in, area;   /* of a convolution's weights; area 0: same order in files */
    bool trains;
    bool decays;     /* a convolution's or linear layer's weights */
    bool centralize; /* a convolution's weights that are used without their filters' means */
    enum { FILL_CONV, FILL_LINEAR, FILL_ONE, FILL_ZERO } fill;
    double fan_in;
};

/* A stretch of the activation arena, in use from step `first` to step `last` (both included).
 * Steps: forward of node i is i, the loss is n, backward of node i is 2n − i. */
struct buffer {
    size_t bytes, offset;
    int first, last;
};

struct arena {
    char *base;
    size_t bytes;
};

/* Of a node, for mabn_net_time_layers. */
struct net_layer_time {
    double forward, backward; /* seconds */
    bool elsewhere;           /* a convolution whose forward runs in its norm's place */
    bool with_conv;           /* … that norm */
    bool with_norm;           /* a convolution whose backward does work of the norm before it … */
    bool relieved;            /* … that norm */
};

/* What runs a planned network. The planning, the arenas and the named tensors are shared. */
struct net_backend {
    int depth; /* of mabn_net_depth */
    /* Once everything is placed: primitives, and what memory they need beside the arenas. */
    mabn_status (*prepare)(struct mabn_net *net);
    void (*release)(struct mabn_net *net); /* also of what prepare left half done */
    void *(*input)(struct mabn_net *net);  /* floats, or bytes with options.bytes */
    mabn_status (*byte_table)(struct mabn_net *net, const float *table);
    int32_t *(*labels)(struct mabn_net *net);
    const float *(*logits)(const struct mabn_net *net);
    const int32_t *(*ranks)(const struct mabn_net *net);
    /* As mabn_net_<name>, of a net that was found fit for it. */
    mabn_status (*forward)(struct mabn_net *net);
    mabn_status (*loss)(struct mabn_net *net, double smoothing, double *loss);
    mabn_status (*backward)(struct mabn_net *net);
    mabn_status (*update)(struct mabn_net *net, const struct mabn_net_sgd *sgd);
    mabn_status (*step)(struct mabn_net *net, double smoothing, const struct mabn_net_sgd *sgd);
    mabn_status (*result)(struct mabn_net *net, struct mabn_net_result *result);
    /* NULL where losses are never scaled. */
    mabn_status (*get_scale)(struct mabn_net *net, struct mabn_net_loss_scale *scale);
    mabn_status (*set_scale)(struct mabn_net *net, const struct mabn_net_loss_scale *scale);
    /* Within the device's memory, after what was asked before. */
    mabn_status (*copy)(struct mabn_net *net, void *to, const void *from, size_t bytes);
    mabn_status (*time_convolutions)(struct mabn_net *net, double *seconds);
    mabn_status (*time_layers)(struct mabn_net *net, struct net_layer_time *times /* (nodes) */);
    mabn_status (*time_copy)(struct mabn_net *net, void *to, const void *from, size_t bytes,
                             double *seconds);
};

extern const struct net_backend mabn_net_cpu;
extern const struct net_backend mabn_net_cuda;

struct mabn_net {
    struct mabn_device *device;
    const struct net_backend *backend;
    struct net_cuda *cuda; /* what run_cuda.cu keeps; NULL on the CPU */
    struct mabn_net_options options;
    enum mabn_dtype dtype; /* of activations, their gradients and the weights in use */
    mabn_status status; /* the first failure of what cannot report it: building, initializing … */
    char *message;      /* … and what it said */
    bool planned;
    int behind; /* steps begun whose result was not fetched */

    struct node *nodes;
    int node_count, node_capacity, output;
    struct parameter *parameters;
    int parameter_count, parameter_capacity;
    struct buffer *buffers;
    int buffer_count, buffer_capacity;
    struct mabn_net_tensor *tensors;
    int *tensor_source; /* parameter; or node * MABN_NORM_MAX_TENSORS + its entry */
    int tensor_count, tensor_capacity;

    size_t values; /* floats in each of the three arenas below */
    struct arena weights, gradients, momentum;
    struct arena state, activations;
    size_t arena_bytes;  /* of all arenas, a backend's own as well */
    struct arena packed; /* weights as convolutions read them, where they differ */
    bool stale; /* the weights in use (packed, folded, rounded) are not of these parameters */

    int64_t input_channels; /* as the first convolution reads them: padded on a GPU */

    /* The CPU's. */
    float *folded_bias, *fold_a, *fold_b;
    struct mabn_sgd_param *sgd;
    int sgd_count;
    size_t weight_bytes,
        scratch_bytes;       /* shared scratch: a layer's weights in use, then the ops' */
    int32_t *labels, *ranks; /* (N) */
    double *losses;          /* (N) */
    struct mabn_net_result result;

    int *record_channels, *record_fitting, record_channel_count; /* wanted; those a layer has */
    bool record_reference;
    struct mabn_norm_record *record_values; /* of one layer */
    struct mabn_net_record *records;
    int record_count;
};

static inline int net_backward_step(const struct mabn_net *net, int node)
{
    return 2 * net->node_count - node;
}

static inline float *net_buffer(const struct mabn_net *net, int buffer)
{
    return buffer < 0 ? NULL : (float *)(net->activations.base + net->buffers[buffer].offset);
}

static inline float *net_weight(const struct mabn_net *net, int parameter)
{
    return parameter < 0 ? NULL : (float *)net->weights.base + net->parameters[parameter].offset;
}

static inline float *net_gradient(const struct mabn_net *net, int parameter)
{
    return parameter < 0 || !net->parameters[parameter].trains
               ? NULL
               : (float *)net->gradients.base + net->parameters[parameter].offset;
}

/* Floats of a node's output. */
static inline int64_t net_values(const struct mabn_net *net, const struct node *node)
{
    return net->options.batch * node->h * node->w * node->c;
}

static inline bool net_reads(const struct node *node, int x)
{
    return node->x == x || node->residual == x;
}

static inline size_t net_align(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

/* plan.c */
mabn_status mabn_net_get_arena(struct mabn_net *net, struct arena *arena, size_t bytes);

/* tensors.c: list what checkpoints hold, once everything is placed. */
void mabn_net_list_tensors(struct mabn_net *net);
/* The norms' state as at the start. */
mabn_status mabn_net_reset_state(struct mabn_net *net);
/* run.c: report a failure that was kept. */
mabn_status mabn_net_check(struct mabn_net *net);
/* Record a norm before its backward; `io` in host memory, of the first run at least. */
mabn_status mabn_net_record_norm(struct mabn_net *net, const struct node *node,
                                 const struct mabn_norm_io *io);

MABN_END_DECLS
#endif
