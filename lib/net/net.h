/* A network is a plan: a list of nodes built once for an input shape, with every buffer placed
 * before the first step.
 *
 * Model code (lib/model) builds the nodes, then mabn_net_plan places the buffers and prepares the
 * primitives. A step then walks the list forward and backward. It allocates nothing and makes no
 * decision that depends on shapes.
 *
 * Parameters. A plan borrows a store (net/params.h) or makes one of its own. Several plans, of other
 * shapes or for validation, may share a store; all see its newest values.
 *
 * Inference reuses activation memory by liveness. It folds every norm that can be folded, and weight
 * centralization, into the convolution before it.
 *
 * Training keeps the inputs of convolutions and norms for backward, and nothing else. Gradients take
 * over each other's buffers. With save_memory the outputs of norms are not kept but recomputed from
 * the norm's input. On a CPU that includes every second output of a norm with a shortcut.
 *
 * Inputs, outputs and losses have names. In training an output that no loss reads has a gradient as
 * well, which the caller fills between forward and backward, usually through a plan that reads the
 * output. An input can be *bound* to another plan's output: forward reads it where it lies, backward
 * adds to its gradient there. Losses (net/losses.h) are nodes like the others.
 *
 * Rows. A plan has room for options.batch rows. With options.vary_rows each run may take fewer,
 * down to none at all, without planning again (mabn_net_set_rows).
 *
 * One training step of a classifier:
 *     fill mabn_net_input, mabn_net_set_labels
 *     mabn_net_forward, mabn_net_backward, mabn_net_update
 * One inference batch: fill the input, mabn_net_forward, read mabn_net_logits. Where rows do not
 * vary the batch is always whole: with fewer images, leave the rest as it is and ignore those rows
 * (no row of an inference batch depends on another).
 *
 * To add a layer: follow the list at struct node_kind in internal.h.
 *
 * Everything is bitwise repeatable for a given thread count. */
#ifndef MABN_NET_NET_H
#define MABN_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/words.h"
#include "device/device.h"
#include "net/params.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_net;
struct mabn_norm_options; /* norm/options.h */
struct mabn_norm_sync;

/* The type of activations, their gradients and the weights in use. Sums, statistics, parameters and the
 * optimizer's arrays are float32 or double in all. The CPU computes in float32 and bfloat16. */
enum mabn_net_precision {
    MABN_NET_AUTO, /* float32 on the CPU, bfloat16 on a GPU */
    MABN_NET_FP32,
    MABN_NET_TF32, /* float32, multiplied by tensor cores with 10 bits of mantissa */
    MABN_NET_BF16,
    MABN_NET_FP16, /* with dynamic loss scaling in training */
};
extern const struct mabn_word mabn_net_precisions[]; /* "auto", "fp32", "tf32", "bf16", "fp16" */
const char *mabn_net_precision_name(enum mabn_net_precision precision);

/* Memory for the activations of several plans, of which one runs at a time: each of them may write all
 * of it. A zeroed struct is an empty pool, but `outgrown` must be set. When a new plan needs more memory,
 * `outgrown` is called, which must free all plans over the old memory; then the pool grows. */
struct mabn_net_memory_pool {
    void *base;
    size_t bytes;
    void (*outgrown)(void *context);
    void *context;
};
void mabn_net_pool_release(struct mabn_net_memory_pool *pool, struct mabn_device *device);

enum mabn_net_join {
    MABN_NET_JOIN_AUTO, /* with `tune` where it is quicker; else nowhere */
    MABN_NET_JOIN_NEVER,
    MABN_NET_JOIN_ALWAYS, /* wherever it can be done: for tests and measurements */
};

struct mabn_net_options {
    int batch, height, width,
        channels; /* of the input; if all inputs are bound, only batch counts */
    enum mabn_net_precision precision;
    bool training;
    bool no_fold; /* inference: do not fold norms into convolutions, for comparisons */
    bool exact;   /* direct convolution sums, no Winograd: slower, for comparisons */
    bool tune; /* choose convolutions by timing: on a GPU for each plan, on a CPU whose device tunes
                   * (device/tune.h) once; not with vary_rows on a CPU */
    /* On a GPU: let convolutions do work of the BN, BRN, SyncBN and MABN layers around them that
     * normalize over the whole batch (norm_cuda.h), where the device's library can. Its sums need
     * not repeat bit for bit, so results do not either. */
    enum mabn_net_join join;
    bool bytes; /* pictures come as bytes; on a GPU only, which normalizes them itself */
    /* On a GPU, in place of mabn_net_input: a function that writes the input on the device
     * (mabn_net_fed_of, net/queue.h). It is called each time before a forward is queued. */
    mabn_status (*feed)(void *context, struct mabn_net *net);
    void *feed_context;
    bool save_memory; /* training: recompute outputs of norms */
    bool vary_rows;   /* a run may take fewer rows than `batch` */
    /* Inference on a CPU, for the only plan of a store whose weights will not change: the first forward
     * packs the weights of each convolution and gives the memory of the originals back. They cannot be
     * read from then on. */
    bool takes_weights;
    const struct mabn_norm_sync *sync; /* for SyncBN; borrowed, NULL: one shard */
    struct mabn_params *params;        /* borrowed; NULL: the network has a store of its own */
    struct mabn_net_memory_pool *pool; /* borrowed; NULL: activations of its own */
};

/* ---- building: for lib/model; each call appends a node and returns the id of its output ---- */

/* MABN_ERR_ARG, MABN_ERR_LIMIT: the input's size; MABN_ERR_UNSUPPORTED: the device cannot do it. */
MABN_MUST_USE mabn_status mabn_net_new(struct mabn_net **net, struct mabn_device *device,
                                       const struct mabn_net_options *options);
void mabn_net_free(struct mabn_net *net); /* NULL is fine */

/* How a layer's weights start; {0}: by the rule given to mabn_params_initialize. */
struct mabn_net_start {
    enum { MABN_START_DEFAULT, MABN_START_NORMAL, MABN_START_UNIFORM } rule;
    double spread; /* NORMAL: standard deviation; UNIFORM: half the width of the range */
};

struct mabn_net_conv {
    int out_channels;
    int kernel, stride, pad; /* square */
    bool bias;
    bool centralize;             /* subtract each filter's mean from the weights that are used */
    struct mabn_net_start start; /* of the weights; a bias starts at 0 when this is given */
};

/* The network input, (N,H,W,C). */
int mabn_net_add_input(struct mabn_net *net);
/* An input of `channels` that is another plan's output; see mabn_net_bind. With `gradient` backward
 * adds to that output's gradient. Only RoIAlign reads one. */
int mabn_net_add_bound(struct mabn_net *net, const char *name, int channels, bool gradient);
/* "<name>.weight" and, with bias, "<name>.bias". */
int mabn_net_add_conv(struct mabn_net *net, int x, const char *name,
                      const struct mabn_net_conv *conv);
/* y = act(norm(x) [+ residual]); residual: a node or -1. State and affine under "<name>.…". */
int mabn_net_add_norm(struct mabn_net *net, int x, const char *name,
                      const struct mabn_norm_options *norm, int residual, bool relu);
int mabn_net_add_max_pool(struct mabn_net *net, int x, int kernel, int stride, int pad);
int mabn_net_add_global_pool(struct mabn_net *net, int x); /* mean over H,W → (N,1,1,C) */
/* Reads (N,h,w,C) as h·w·C values, gives (N,1,1,out). In files its weights' columns are in the order
 * C,h,w. */
struct mabn_net_linear {
    int out;
    bool no_bias;
    struct mabn_net_start start;
};
int mabn_net_add_linear(struct mabn_net *net, int x, const char *name,
                        const struct mabn_net_linear *linear);

/* y = fine + coarse upsampled to its size by the nearest value. */
int mabn_net_add_upsample(struct mabn_net *net, int fine, int coarse, const char *name);
/* 2×2 with stride 2, with bias: twice the height and width. Weights (in,out,2,2) in files. */
int mabn_net_add_transposed_conv(struct mabn_net *net, int x, const char *name, int out,
                                 const struct mabn_net_start *start);
/* y = 1/(1 + e^−x) */
int mabn_net_add_sigmoid(struct mabn_net *net, int x);

enum { MABN_NET_MAX_FEATURES = 8 };

/* RoIAlign (ops/roi_align.h): boxes of bound feature maps become rows, (K,size,size,C). */
struct mabn_net_roi_align {
    int size, sampling;
    bool aligned;
    double scale[MABN_NET_MAX_FEATURES]; /* of each map: its pixels to one of the image */
};
int mabn_net_add_roi_align(struct mabn_net *net, const char *name, const int *features, int count,
                           const struct mabn_net_roi_align *options);

/* What the network computes. mabn_net_logits is the first output. */
void mabn_net_add_output(struct mabn_net *net, int x, const char *name);

/* Failures of the calls above (names, shapes) are reported here, so that model code need not check each
 * line. A store that is not placed yet is placed. MABN_ERR_UNSUPPORTED: the device lacks a kind of node;
 * MABN_ERR_NOMEM. To be called once. */
MABN_MUST_USE mabn_status mabn_net_plan(struct mabn_net *net);
/* Only report failures: for a network that was built to declare its parameters. */
MABN_MUST_USE mabn_status mabn_net_built(struct mabn_net *net);

/* ---- running ---- */

struct mabn_params *mabn_net_params(const struct mabn_net *net);

/* The rows of the runs that follow: 0 to options.batch. Without options.vary_rows only the whole batch. */
void mabn_net_set_rows(struct mabn_net *net, int64_t rows);

/* An output's memory, (n,h,w,c), for the n rows of the last run. `gradient` is NULL in inference and
 * where a loss reads the output. Otherwise the caller fills it between forward and backward. Both are
 * float32, with one exception: on a GPU in bfloat16 or float16, an output that layers of the plan read
 * as well is of that type. */
struct mabn_net_output {
    float *values, *gradient;
    int64_t n, h, w, c;
    enum mabn_dtype dtype;
};
/* MABN_BUG when there is none of this name. */
struct mabn_net_output mabn_net_output_of(const struct mabn_net *net, const char *name);

/* Where a bound input's values are from now on, and where its gradient is added (NULL: nowhere). Both
 * are of the other plan's type, (n,h,w,channels). On a GPU both plans must be of the same type. */
struct mabn_net_binding {
    const float *values;
    float *gradient;
    int64_t n, h, w;
};
void mabn_net_bind(struct mabn_net *net, int input, const struct mabn_net_binding *binding);

/* The boxes of a RoIAlign for the runs that follow, which have as many rows as there are boxes. The arrays
 * are borrowed until the backward of the last of those runs is done. */
struct mabn_net_rois {
    int64_t count;
    const float *boxes;           /* (K,4) x1, y1, x2, y2 in pixels of the image */
    const int32_t *image, *level; /* (K) which image, which of the maps */
    /* On a GPU: the three arrays are in its memory. If `live` is not NULL, it is one number in that
     * memory, and only the first *live of the `count` boxes are boxes. The rows behind them are
     * computed all the same, so losses must have no targets for them. */
    bool on_device;
    const int32_t *live;
};
void mabn_net_set_rois(struct mabn_net *net, int node, const struct mabn_net_rois *rois);

/* Whether backward adds to the gradients of parameters from now on, instead of overwriting. */
void mabn_net_accumulate(struct mabn_net *net, bool accumulate);

float *mabn_net_input(struct mabn_net *net);              /* (N,H,W,C): fill before forward */
uint8_t *mabn_net_bytes(struct mabn_net *net);            /* in its place, with options.bytes */
const float *mabn_net_logits(const struct mabn_net *net); /* (N,classes), after forward */
/* With options.bytes: what a byte is to the network, channel by channel (C,256). */
MABN_MUST_USE mabn_status mabn_net_byte_table(struct mabn_net *net, const float *table);
bool mabn_net_takes_bytes(const struct mabn_net *net);
int mabn_net_batch(const struct mabn_net *net);
enum mabn_net_precision mabn_net_precision_of(const struct mabn_net *net); /* never auto */
int mabn_net_classes(const struct mabn_net *net);
struct mabn_shape mabn_net_input_shape(const struct mabn_net *net);

/* Outputs and losses. Training: batch statistics, and the norms' moving state advances. Inference:
 * neither. */
MABN_MUST_USE mabn_status mabn_net_forward(struct mabn_net *net);
/* Gradients overwrite. Once after each forward. */
MABN_MUST_USE mabn_status mabn_net_backward(struct mabn_net *net);

/* From now on every backward calls `ready` each time it has completed more gradients: it no longer
 * touches those of mabn_params_gradients from the float `from` on. From call to call `from` falls, to 0. On
 * a GPU the gradients are complete once the work queued before the call is done. What `ready` queues may be
 * captured in a CUDA graph with the step. Each launch of the graph is followed by one call with
 * MABN_NET_READY_AGAIN, which says that all of it was queued again. A capture that fails is followed by the
 * calls of another backward. If `ready` fails, backward fails. `ready` NULL: no calls. */
#define MABN_NET_READY_AGAIN SIZE_MAX
typedef mabn_status (*mabn_net_ready)(void *context, size_t from);
void mabn_net_tell_gradients(struct mabn_net *net, mabn_net_ready ready, void *context);

/* mabn_params_update of the network's store. */
MABN_MUST_USE mabn_status mabn_net_update(struct mabn_net *net, const struct mabn_params_sgd *sgd);

/* ---- running behind ----
 *
 * The same work in one call. On a GPU it is one captured graph, and the call returns before it is done:
 *
 *     for (;;) {
 *         fill mabn_net_input, mabn_net_set_labels
 *         mabn_net_step(net, &sgd)
 *         if (mabn_net_behind(net) == mabn_net_depth(net)) mabn_net_result(net, &result)
 *     }
 *     while (mabn_net_behind(net)) mabn_net_result(net, &result)
 *
 * On the CPU depth is 1: a step's result is there when it returns. On a GPU it is 2: the result of
 * step k comes while step k+1 runs, and the host waits for nothing else. After mabn_net_step the input
 * is other memory than before, so ask for it again. Anything else that is asked of the net or its
 * parameters waits for the steps that were begun. Their results can still be fetched. */

struct mabn_net_result {
    bool skipped; /* float16: gradients overflowed, nothing was updated, the scale was halved */
    double loss_scale; /* float16; else 1 */
};

/* Training: forward, backward and update. With sgd NULL the update is left to the caller, who first
 * fetches the result: then the gradients are there. Inference: forward; sgd is NULL. */
MABN_MUST_USE mabn_status mabn_net_step(struct mabn_net *net, const struct mabn_params_sgd *sgd);
/* The result of the oldest step not fetched yet; mabn_net_logits and mabn_net_loss_of are then that
 * step's, until the next step. */
MABN_MUST_USE mabn_status mabn_net_result(struct mabn_net *net, struct mabn_net_result *result);
int mabn_net_behind(const struct mabn_net *net); /* steps begun whose result was not fetched */
int mabn_net_depth(const struct mabn_net *net);  /* the most there may be */

/* float16: the loss scale, and the steps since it last changed; kept in checkpoints, so that a resumed run
 * is exact. In other precisions 1 and 0, and setting it does nothing. MABN_ERR_FORMAT: a scale that is
 * not a power of two, or out of range. */
struct mabn_net_loss_scale {
    double scale, steps;
};
MABN_MUST_USE mabn_status mabn_net_loss_scale_get(struct mabn_net *net,
                                                  struct mabn_net_loss_scale *scale);
MABN_MUST_USE mabn_status mabn_net_loss_scale_set(struct mabn_net *net,
                                                  const struct mabn_net_loss_scale *scale);

/* ---- looking inside ---- */

/* The four statistics of a norm layer's channel over the first normalization run of the batch:
 * struct mabn_norm_record (norm/norm.h) says what each is. */
struct mabn_net_record {
    const char *layer;
    int channel;
    double mu_x, var_x, mu_g, mu_gy;
};
/* Record these channels (those that a layer has) of every norm in each training step, with the reference
 * recorder's own definition of mu_gy or the paper's; count 0 stops. Backward fails with
 * MABN_ERR_UNSUPPORTED at a norm that cannot be recorded (mabn_norm_record). */
void mabn_net_record(struct mabn_net *net, const int *channels, int count, bool reference);
/* The records of the last backward, in layer order; owned by the net, valid until the next. */
const struct mabn_net_record *mabn_net_records(const struct mabn_net *net, int *count);

/* Bytes of planned memory. activations: with their gradients. parameters: with gradients, momentum and
 * state if the store is the network's own; and packed weights, those of the whole store. scratch: also a
 * backend's other arrays. */
struct mabn_net_memory {
    size_t activations, parameters, scratch;
};
struct mabn_net_memory mabn_net_memory_of(const struct mabn_net *net);

/* Seconds for one pass over only the convolutions and linear layers, with the plan's own primitives:
 * the yardstick of mabn-bench. In training a pass is forward and both backwards. Destroys activations
 * and gradients. */
MABN_MUST_USE mabn_status mabn_net_time_convolutions(struct mabn_net *net, double *seconds);

/* What a layer takes, and what it must move. */
struct mabn_net_layer {
    const char *name, *kind;         /* "layer1.0.bn1", "norm"; the net's */
    int64_t height, width, channels; /* of the output */
    double forward, backward;        /* seconds; 0 where it has none, or a neighbour does it */
    /* Each array that it reads or writes counts once. A layer that must read one twice (BN in training)
     * therefore takes longer than a copy of this many bytes, at best. */
    double forward_bytes, backward_bytes;
    double macs; /* multiply-adds, forward */
};
int mabn_net_layer_count(const struct mabn_net *net);
/* One forward (training: backward too) on what is in the input, and how long each of its
 * layers took; `layers` has mabn_net_layer_count. The norms' state moves on as in a step. */
MABN_MUST_USE mabn_status mabn_net_time_layers(struct mabn_net *net, struct mabn_net_layer *layers);
/* The ceiling: a large copy within the device's memory, bytes read plus bytes written. Destroys
 * activations. */
MABN_MUST_USE mabn_status mabn_net_time_copy(struct mabn_net *net, double *bytes_per_second);

MABN_END_DECLS
#endif
