/* The structures that a network keeps for a GPU, and the functions with which nodes run there; for
 * prepare_cuda.cu, run_cuda.cu, join_cuda.cu and the .cu files in nodes/. */
#ifndef MABN_NET_CUDA_CUH
#define MABN_NET_CUDA_CUH

#include "device/cuda.h"
#include "net/internal.h"
#include "norm/norm_cuda.h"
#include "ops/conv_cuda.h"
#include "ops/ops_cuda.h"

/* The sums that the convolutions around a norm compute for it. */
enum { SUM, SQUARE, DSUM, DOT, JOINED_SUMS }; /* Σ x, Σ x²; of the gradient g: Σ g, Σ g·x */

/* A node's fields in addition to struct node. */
struct layer {
    int shared;                  /* of a convolution or linear layer: its index in net_cuda.convs */
    struct mabn_conv_cuda *conv; /* of net_cuda.convs[shared] */
    void *work;                  /* its weights in use */
    bool owns_work;              /* they are a copy; else the parameters themselves */
    bool padded;                 /* they have more channels than the parameters */
    float *dwork;                /* the gradient of padded weights */
    const void *bias;            /* float32, or folded and of the net's type; NULL: none */
    size_t bias_at;              /* folded: floats before it in `biases` */
    struct arena own;            /* of kinds that need memory beside the arenas */
    struct mabn_norm_cuda_io io; /* of a norm */
    bool may_know;               /* MABN whose affine map is known ahead, from some step on */
    bool after, sums, before;    /* a convolution that does its neighbours' work (join_cuda.cu) */
    float *a, *b, *totals[JOINED_SUMS]; /* of a norm, each (C): shared with the convolutions */
};

/* Layers that are alike have one plan. */
struct shared_conv {
    struct mabn_conv_shape shape;
    struct mabn_conv_cuda_options options;
    struct mabn_conv_cuda *conv;
    bool chosen, after, sums,
        before; /* as in struct layer, for all that share it; chosen: they are set */
};

/* A step's results; device and host memory of the same layout. */
struct figures {
    struct mabn_cuda_xent_total total;
    struct mabn_cuda_scaler scaler;
};
struct inputs { /* at the end of a slot's upload, followed by the labels (N) */
    struct mabn_cuda_sgd_rates rates;
    float normalizer; /* of the loss */
};

/* The host's side of a step: pinned memory. */
struct slot {
    void *pictures; /* floats or bytes */
    struct inputs *inputs;
    struct figures *figures;
    float *logits;
    double normalizer; /* of the step's loss */
    struct mabn_cuda_event *uploaded, *done;
};

/* Values that a graph was captured with, in addition to those that distinguish variants. */
struct captured {
    double smoothing;
    bool update, nesterov;
    const void *scratch;
};

struct variant {
    struct mabn_cuda_graph *graph;
    bool warm; /* its work was queued once, so that it can be captured */
    struct captured with;
};

/* Slots 0 and 1 are for steps in flight. The last holds the outputs of mabn_net_forward and other
 * separate calls. */
enum { SLOTS = 2, APART = SLOTS };
enum { VARIANTS = 8 }; /* of a step: run_cuda.cu */

struct net_cuda {
    struct layer *layers;
    struct shared_conv *convs;
    int conv_count, conv_capacity;
    void *stream, *copy_stream;
    struct slot slots[SLOTS + 1];
    const struct slot *seen; /* whose logits are shown */
    double smoothing;        /* of the labels */
    int64_t steps;           /* begun */
    struct mabn_cuda_event *taken, *begin, *end;
    size_t picture_bytes, upload_bytes, figure_bytes, input_bytes; /* of a slot's blocks */

    struct arena staged, small, dwork;
    struct arena biases, half_biases; /* folded, in float32; the same, rounded */
    struct inputs *inputs;            /* on the device */
    struct figures *figures;          /* on the device */
    int32_t *labels, *ranks;
    const int32_t *labels_at;   /* the caller's labels, used instead of `labels`; NULL: none */
    const float *normalizer_at; /* the caller's normalizer; NULL: none */
    double *losses;             /* (N) */
    float *share;
    struct mabn_cuda_scaler *scaler; /* NULL: no loss scaling */
    float *byte_table;               /* (C,256), with options.bytes */

    struct mabn_cuda_sgd_param *host_params, *params;
    struct mabn_cuda_sgd_piece *pieces;
    struct arena sgd;
    int64_t piece_count;
    double weight_decay;
    int no_decay_norm_bias; /* of the list on the device; -1: not there yet */

    struct arena spare; /* gradients of a layer's parameters, to be added; NULL: none yet */
    struct arena joined, join_entries;
    size_t sums_bytes;                     /* of `joined`, at its begin: what every step clears */
    struct mabn_norm_cuda_join *join_list; /* on the device: norms that a convolution applies */
    int join_count, join_channels;

    void *scratch;
    int64_t until_known;    /* training calls; -1: never */
    uint64_t state_version; /* of the parameters that it was read from; 0: not yet */
    struct variant variants[VARIANTS], bare;
    bool no_graphs;
};

static inline void *memory(const struct mabn_net *net, int buffer)
{
    return net_buffer(net, buffer);
}

static inline bool is_half(const struct mabn_net *net)
{
    return net->dtype != MABN_DTYPE_F32;
}

/* A layer that is a convolution to the device. */
static inline bool has_weights(const struct node *node)
{
    return node->kind->cuda->conv_shape != NULL;
}

static inline struct layer *layer_of(const struct mabn_net *net, const struct node *node)
{
    return &net->cuda->layers[node - net->nodes];
}

static inline int64_t filter_size(const struct mabn_net *net, const struct node *node)
{
    return (int64_t)net->params->list[node->weight].count / node->c;
}

/* Is its one output logits? Only such networks have steps with results. */
static inline bool is_classifier(const struct mabn_net *net)
{
    const struct node *output = &net->nodes[net->output];
    return net->output_count == 1 && output->kind->scores && output->h * output->w == 1;
}

/* Bytes of the live rows of a node's output. */
static inline size_t rows_bytes(const struct mabn_net *net, const struct node *node)
{
    return (size_t)(net->rows * net_row(node)) * mabn_dtype_size(net->dtype);
}

/* prepare_cuda.cu: the backend's prepare and release; write a layer's weights in use from float32 ones on
 * the device; renew all copies made of parameters and state, after anything else has written those. */
mabn_status mabn_net_cuda_prepare(struct mabn_net *net);
void mabn_net_cuda_release(struct mabn_net *net);
mabn_status mabn_net_cuda_write_work(const struct mabn_net *net, const struct node *node,
                                     const float *weight, bool centralize);
mabn_status mabn_net_cuda_refresh(struct mabn_net *net);

/* Allocate the memory in which a layer's gradients wait to be added. To be called once, before anything
 * is queued. */
mabn_status mabn_net_cuda_get_spare(struct mabn_net *net);
/* Make the layer's own memory at least this large. */
mabn_status mabn_net_cuda_own(struct mabn_net *net, const struct node *node, size_t bytes);

/* run_cuda.cu, for the kinds: queue a copy within the device; zeros; zeros behind the live rows of a
 * node's output or its gradient. */
mabn_status mabn_net_cuda_copy(const struct mabn_net *net, void *to, const void *from,
                               size_t bytes);
mabn_status mabn_net_cuda_clear(const struct mabn_net *net, void *buffer, size_t bytes);
mabn_status mabn_net_cuda_clear_rest(const struct mabn_net *net, void *buffer,
                                     const struct node *node);

/* Where a layer's backward writes the gradients of its parameters: their own places, or where it
 * must add to what is there, spare ones which `end` adds. */
struct net_cuda_gradient {
    float *weight, *bias; /* bias NULL: the layer has none */
};
void mabn_net_cuda_gradient_begin(const struct mabn_net *net, const struct node *node,
                                  struct net_cuda_gradient *to);
mabn_status mabn_net_cuda_gradient_end(const struct mabn_net *net, const struct node *node,
                                       const struct net_cuda_gradient *to);

/* nodes/conv.cu. The first runs a convolution in training, without its neighbours' work. The second
 * runs one in inference; its result goes to the output of `at`, which is the convolution itself or the
 * norm folded into it. */
mabn_status mabn_net_cuda_conv(struct mabn_net *net, const struct node *conv);
mabn_status mabn_net_cuda_infer_conv(struct mabn_net *net, const struct node *conv,
                                     const struct node *at);

/* join_cuda.cu. The first requests the passes that this convolution and its neighbours could share. The
 * second chooses among those that exist, once everything is placed. */
void mabn_net_cuda_request_joins(const struct mabn_net *net, const struct node *conv,
                                 struct mabn_conv_cuda_options *options);
mabn_status mabn_net_cuda_prepare_joins(struct mabn_net *net);
/* Before a training forward: sums cleared, the affine maps. */
mabn_status mabn_net_cuda_begin_joined(struct mabn_net *net);
/* Does this convolution run together with its norm now? If so, the second function runs the two. */
bool mabn_net_cuda_forward_joins(const struct mabn_net *net, const struct node *conv);
mabn_status mabn_net_cuda_forward_joined(struct mabn_net *net, const struct node *conv);
/* Does this convolution compute the sums that its norm would measure? If so, the second function runs
 * the convolution and the third the norm. */
bool mabn_net_cuda_forward_sums(const struct mabn_net *net, const struct node *conv);
mabn_status mabn_net_cuda_forward_summing(struct mabn_net *net, const struct node *conv);
mabn_status mabn_net_cuda_forward_summed(struct mabn_net *net, const struct node *norm);
/* The data gradient with the ReLU and sum of the norm before it. */
mabn_status mabn_net_cuda_backward_joined(struct mabn_net *net, const struct node *conv);

#endif
