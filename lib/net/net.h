/* A network is a plan: a list of nodes built once for an input shape, with every buffer placed
 * before the first step.
 *
 * Model code (lib/model) builds the nodes, then mabn_net_plan places the buffers and prepares the
 * primitives. After that a step allocates nothing, decides nothing and looks at no shape: it walks
 * the list forward, and backward.
 *
 *   Parameters, gradients and momentum are one arena each, with named views under PyTorch's names
 *   ("layer1.0.conv1.weight"). Norm state is owned by the norms (lib/norm) and named the same way.
 *   Inference reuses activation memory by liveness and folds every norm that can be folded
 *   (weight centralization included) into the convolution before it.
 *   Training keeps what backward reads (inputs of convolutions and of norms, nothing else), and
 *   gradients take over each other's buffers; with save_memory the inputs of convolutions inside
 *   a block are computed again from the norm's input instead of kept.
 *
 * One training step:
 *     fill mabn_net_input and mabn_net_labels
 *     mabn_net_forward, mabn_net_loss, mabn_net_backward, mabn_net_update
 * One inference batch: fill the input, mabn_net_forward, read mabn_net_logits. The batch is always
 * whole: with fewer images, leave the rest as it is and ignore those rows (no row of an inference
 * batch depends on another).
 *
 * To validate during training, build a second net with training = false and mabn_net_copy into it
 * before each validation. Everything is bitwise repeatable for a given thread count. */
#ifndef MABN_NET_NET_H
#define MABN_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_net;
struct mabn_norm_options; /* norm/norm.h */
struct mabn_norm_sync;

/* What activations, their gradients and the weights in use are kept in. Sums, statistics,
 * parameters and optimizer are float32 in all. The CPU computes in float32. */
enum mabn_net_precision {
    MABN_NET_AUTO, /* float32 on the CPU, bfloat16 on a GPU */
    MABN_NET_FP32,
    MABN_NET_TF32, /* float32, multiplied by tensor cores with 10 bits of mantissa */
    MABN_NET_BF16,
    MABN_NET_FP16, /* with dynamic loss scaling in training */
};
/* "auto", "fp32", "tf32", "bf16", "fp16". */
const char *mabn_net_precision_name(enum mabn_net_precision precision);
MABN_MUST_USE mabn_status mabn_net_precision_parse(enum mabn_net_precision *precision,
                                                   const char *name);

enum mabn_net_join {
    MABN_NET_JOIN_AUTO, /* with `tune` where it is quicker; else nowhere */
    MABN_NET_JOIN_NEVER,
    MABN_NET_JOIN_ALWAYS, /* wherever it can be done: for tests and measurements */
};

struct mabn_net_options {
    int batch, height, width, channels; /* of the input */
    enum mabn_net_precision precision;
    bool training;
    bool no_fold; /* inference: keep norms apart from convolutions, to compare */
    bool exact;   /* plain convolution sums, no Winograd: slower, for comparisons */
    bool tune;    /* on a GPU: choose convolutions by time, not the same from run to run */
    /* On a GPU: let convolutions do work of the BN, BRN, SyncBN and MABN layers around them that
     * normalize over the whole batch (norm_cuda.h), where the device's library can. Its sums need
     * not repeat bit for bit, so results do not either. */
    enum mabn_net_join join;
    bool bytes;       /* pictures come as bytes; on a GPU only, which normalizes them itself */
    bool save_memory; /* training: compute again what lies between norm input and block output */
    const struct mabn_norm_sync *sync; /* for SyncBN; borrowed, NULL: one rank */
};

/* ---- building: for lib/model; each call appends a node and returns the id of its output ---- */

MABN_MUST_USE mabn_status mabn_net_new(struct mabn_net **net, struct mabn_device *device,
                                       const struct mabn_net_options *options);
void mabn_net_free(struct mabn_net *net); /* NULL is fine */

struct mabn_net_conv {
    int out_channels;
    int kernel, stride, pad; /* square */
    bool bias;
    bool centralize; /* subtract each filter's mean from the weights that are used */
};

/* The network input, (N,H,W,C). */
int mabn_net_add_input(struct mabn_net *net);
/* "<name>.weight" and, with bias, "<name>.bias". */
int mabn_net_add_conv(struct mabn_net *net, int x, const char *name,
                      const struct mabn_net_conv *conv);
/* y = act(norm(x) [+ residual]); residual: a node or -1. State and affine under "<name>.…". */
int mabn_net_add_norm(struct mabn_net *net, int x, const char *name,
                      const struct mabn_norm_options *norm, int residual, bool relu);
int mabn_net_add_max_pool(struct mabn_net *net, int x, int kernel, int stride, int pad);
int mabn_net_add_global_pool(struct mabn_net *net, int x); /* mean over H,W → (N,1,1,C) */
int mabn_net_add_linear(struct mabn_net *net, int x, const char *name, int out);

/* The last node's output is what the network computes. Failures of the calls above (names, shapes,
 * memory) are reported here, so that model code need not check each line. */
MABN_MUST_USE mabn_status mabn_net_plan(struct mabn_net *net, int output);

/* ---- running ---- */

float *mabn_net_input(struct mabn_net *net);              /* (N,H,W,C): fill before forward */
uint8_t *mabn_net_bytes(struct mabn_net *net);            /* in its place, with options.bytes */
int32_t *mabn_net_labels(struct mabn_net *net);           /* (N): fill before loss; -1: no label */
const float *mabn_net_logits(const struct mabn_net *net); /* (N,classes), after forward */
/* With options.bytes: what a byte is to the network, channel by channel (C,256). */
MABN_MUST_USE mabn_status mabn_net_byte_table(struct mabn_net *net, const float *table);
bool mabn_net_takes_bytes(const struct mabn_net *net);
int mabn_net_batch(const struct mabn_net *net);
enum mabn_net_precision mabn_net_precision_of(const struct mabn_net *net); /* never auto */
int mabn_net_classes(const struct mabn_net *net);
struct mabn_shape mabn_net_input_shape(const struct mabn_net *net);

/* Training: batch statistics, and the norms' moving state advances. Inference: neither. */
MABN_MUST_USE mabn_status mabn_net_forward(struct mabn_net *net);
/* Mean cross-entropy with label smoothing over the rows with a label; in training also the
 * gradient of the logits. A loss that is not finite is returned as it is: the caller decides. */
MABN_MUST_USE mabn_status mabn_net_loss(struct mabn_net *net, double smoothing, double *loss);
/* After loss: for each row, how many classes stand before the true one (0: right; below 5: right in
 * the top five), -1 without a label. */
const int32_t *mabn_net_ranks(const struct mabn_net *net); /* (N) */
/* Gradients overwrite. Once after each forward and loss. */
MABN_MUST_USE mabn_status mabn_net_backward(struct mabn_net *net);

struct mabn_net_sgd {
    double lr, momentum, weight_decay;
    bool nesterov;
    bool no_decay_norm_bias; /* decay only convolution and linear weights (default: everything) */
};
/* buf = momentum·buf + grad + decay·p; p -= lr·buf. */
MABN_MUST_USE mabn_status mabn_net_update(struct mabn_net *net, const struct mabn_net_sgd *sgd);

/* ---- running behind ----
 *
 * The same work as one call, which on a GPU is one captured graph and returns before it is done:
 *
 *     for (;;) {
 *         fill mabn_net_input and mabn_net_labels
 *         mabn_net_step(net, smoothing, &sgd)
 *         if (mabn_net_behind(net) == mabn_net_depth(net)) mabn_net_result(net, &result)
 *     }
 *     while (mabn_net_behind(net)) mabn_net_result(net, &result)
 *
 * On the CPU depth is 1 and a step's result is there when it returns; on a GPU it is 2: the result
 * of step k comes while step k+1 runs, and the host waits for nothing else. After mabn_net_step the
 * input and labels are other memory than before: ask again. Anything else that is asked of the net
 * (tensors, a copy, mabn_net_forward) waits for the steps begun; their results stay to be fetched.
 */

struct mabn_net_result {
    double loss; /* mean over the rows with a label; 0 without any */
    int64_t labelled, top1, top5;
    bool skipped; /* float16: gradients overflowed, nothing was updated, the scale was halved */
    double loss_scale; /* float16; else 1 */
};

/* Training: forward, loss, backward, update. Inference: forward and loss; sgd is NULL. */
MABN_MUST_USE mabn_status mabn_net_step(struct mabn_net *net, double smoothing,
                                        const struct mabn_net_sgd *sgd);
/* The result of the oldest step not fetched yet; mabn_net_logits and mabn_net_ranks are then that
 * step's, until the next step. */
MABN_MUST_USE mabn_status mabn_net_result(struct mabn_net *net, struct mabn_net_result *result);
int mabn_net_behind(const struct mabn_net *net); /* steps begun whose result was not fetched */
int mabn_net_depth(const struct mabn_net *net);  /* the most there may be */

/* float16: the loss scale, and the steps since it last changed; in checkpoints, so that going on is
 * exact. In other precisions 1 and 0, and setting it does nothing. */
struct mabn_net_loss_scale {
    double scale, steps;
};
MABN_MUST_USE mabn_status mabn_net_loss_scale_get(struct mabn_net *net,
                                                  struct mabn_net_loss_scale *scale);
MABN_MUST_USE mabn_status mabn_net_loss_scale_set(struct mabn_net *net,
                                                  const struct mabn_net_loss_scale *scale);

/* No parameter is infinite or not a number. */
MABN_MUST_USE mabn_status mabn_net_finite(struct mabn_net *net, bool *finite);

/* The arenas, for all-reduce, checks and counting. */
float *mabn_net_parameters(struct mabn_net *net, size_t *count); /* device memory */
float *mabn_net_gradients(struct mabn_net *net, size_t *count);  /* likewise; NULL in inference */

/* ---- named tensors: what a checkpoint holds ---- */

enum mabn_net_role {
    MABN_NET_PARAMETER,
    MABN_NET_STATE,    /* of the norms: running statistics, windows, counters */
    MABN_NET_MOMENTUM, /* same names as the parameters; training nets only */
    MABN_NET_GRADIENT, /* likewise: for tests and inspection, not for checkpoints */
};

struct mabn_net_tensor {
    const char *name;
    enum mabn_net_role role;
    enum mabn_dtype dtype;
    struct mabn_shape shape; /* as in files: convolution weights OIHW */
};

int mabn_net_tensor_count(const struct mabn_net *net);
const struct mabn_net_tensor *mabn_net_tensor_at(const struct mabn_net *net, int index);
/* Index, or -1. */
int mabn_net_tensor_find(const struct mabn_net *net, const char *name, enum mabn_net_role role);
/* Copy a tensor out or in, in file order; `bytes` must be its exact size. Setting a constant one
 * (MABN's sta_matrix) is accepted and does nothing. */
MABN_MUST_USE mabn_status mabn_net_tensor_get(const struct mabn_net *net, int index, void *values,
                                              size_t bytes);
MABN_MUST_USE mabn_status mabn_net_tensor_set(struct mabn_net *net, int index, const void *values,
                                              size_t bytes);
/* Parameters and state of one net into another of the same model. */
MABN_MUST_USE mabn_status mabn_net_copy(struct mabn_net *dst, const struct mabn_net *src);

enum mabn_net_init {
    MABN_NET_INIT_FAN_OUT, /* convolutions N(0, 2/fan_out): classification */
    MABN_NET_INIT_FAN_IN,  /* convolutions uniform in ±sqrt(3/fan_in): detection bodies */
};
/* All parameters and state as at the start: convolutions by `kind`, linear layers uniform in
 * ±1/sqrt(fan_in), norms 1 and 0; momentum 0. The same numbers for the same seed and names,
 * whatever the thread count. */
void mabn_net_initialize(struct mabn_net *net, uint64_t seed, enum mabn_net_init kind);

/* ---- looking inside ---- */

/* The four statistics of a norm layer's channel over the first normalization run of the batch:
 * struct mabn_norm_record (norm/norm.h) says what each is. */
struct mabn_net_record {
    const char *layer;
    int channel;
    double mu_x, var_x, mu_g, mu_gy;
};
/* Record these channels (those that a layer has) of every norm in each training step, with the
 * reference recorder's own definition of mu_gy or the paper's; count 0 stops. */
void mabn_net_record(struct mabn_net *net, const int *channels, int count, bool reference);
/* The records of the last backward, in layer order; owned by the net, valid until the next. */
const struct mabn_net_record *mabn_net_records(const struct mabn_net *net, int *count);

/* Bytes of planned memory: activations and their gradients; parameters, gradients and momentum;
 * scratch. */
struct mabn_net_memory {
    size_t activations, parameters, scratch;
};
struct mabn_net_memory mabn_net_memory_of(const struct mabn_net *net);

/* Seconds that one pass (training: forward and both backwards) over only the convolutions and
 * linear layers takes with the plan's own primitives and nothing between: the yardstick of
 * mabn-bench. Destroys activations and gradients. */
MABN_MUST_USE mabn_status mabn_net_time_convolutions(struct mabn_net *net, double *seconds);

/* What a layer takes, and what it must move. */
struct mabn_net_layer {
    const char *name, *kind;         /* "layer1.0.bn1", "norm"; the net's. Pools have no name: "" */
    int64_t height, width, channels; /* of the output */
    double forward, backward;        /* seconds; 0 where it has none, or its neighbour does it */
    /* Each array that it reads or writes, once: a layer that has to read one twice (BN in training)
     * takes longer than a copy of so many bytes at best. */
    double forward_bytes, backward_bytes;
    double macs; /* multiply-adds, forward */
};
int mabn_net_layer_count(const struct mabn_net *net);
/* One forward (training: loss and backward too) on what is in the input, and how long each of its
 * layers took; `layers` has mabn_net_layer_count. The norms' state moves on as in a step. */
MABN_MUST_USE mabn_status mabn_net_time_layers(struct mabn_net *net, struct mabn_net_layer *layers);
/* The ceiling: a large copy within the device's memory, bytes read plus bytes written. Destroys
 * activations. */
MABN_MUST_USE mabn_status mabn_net_time_copy(struct mabn_net *net, double *bytes_per_second);

MABN_END_DECLS
#endif
