/* The parameters of a model, apart from the plans that use them.
 *
 * A store owns names, values, gradients, momentum, the state of the norms, and what the update
 * needs to know of each parameter: its group (rate factor, decay), and whether it is trained. Any
 * number of plans (net/net.h) can borrow one store: for training and validation, for each padded
 * image shape, for body and heads.
 *
 *     mabn_params_new(&params, device)
 *     build networks with options.params = params     names are declared, nothing is allocated
 *     mabn_params_freeze(params, "layer1.")            while they still can be changed
 *     mabn_params_place(params, training)              one arena a kind; no new names after this
 *     mabn_net_plan(net) for each network, any time later
 *     mabn_params_initialize, or mabn_params_set
 *
 * A network that is given no store makes one of its own, which it places when it is planned.
 *
 * Declaring a name again gives the same parameter, if shape and kind agree. Several nodes of a plan
 * may use it, and their gradients add up. All parameters are float32 on the device. Gradients and
 * momentum exist only in stores that are placed for training. */
#ifndef MABN_NET_PARAMS_H
#define MABN_NET_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "device/device.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

struct mabn_params;

MABN_MUST_USE mabn_status mabn_params_new(struct mabn_params **params, struct mabn_device *device);
/* After every network that borrows it; NULL is fine. */
void mabn_params_free(struct mabn_params *params);

/* Allocate what was declared so far, and reset the norms' state; with `training` also gradients and
 * momentum. To be called once. MABN_ERR_NOMEM. */
MABN_MUST_USE mabn_status mabn_params_place(struct mabn_params *params, bool training);

/* A store that shares the values of `of` but has gradients and a state of the norms of its own. It is for
 * several passes that run at the same time: the caller adds their gradients up and updates `of`. The
 * shared store has no momentum and is never updated. `of` is placed for training and outlives it. The
 * device may be another one of the same memory. */
MABN_MUST_USE mabn_status mabn_params_share(struct mabn_params **params, struct mabn_params *of,
                                            struct mabn_device *device);

/* ---- groups ---- */

/* Parameters whose name begins with `prefix` ("" for all) are not trained: no gradient, no update,
 * no decay. Before placing. Returns how many. */
int mabn_params_freeze(struct mabn_params *params, const char *prefix);

/* How the update treats certain kinds of parameters. Biases are the "bias" of convolutions and
 * linear layers and the beta of norms. */
struct mabn_params_groups {
    double bias_rate; /* multiplies the learning rate of biases; 1, in the detection recipe 2 */
    bool decay_bias;  /* weight decay on biases; true by default */
    bool decay_gamma; /* weight decay on the norms' gammas; true by default */
};
void mabn_params_group(struct mabn_params *params, const struct mabn_params_groups *groups);

struct mabn_params_sgd {
    double lr, momentum, weight_decay;
    bool nesterov;
    bool no_decay_norm_bias; /* only weights of convolutions and linear layers decay, whatever the
                              * groups say */
    double grad_scale;       /* multiplies every gradient first; 0 is 1 */
};
/* buf = momentum·buf + grad + decay·p; p -= lr·buf, for every trained parameter (ops/sgd.h). MABN_ERR_ARG
 * for a store that is not placed for training, or is a shared one. */
MABN_MUST_USE mabn_status mabn_params_update(struct mabn_params *params,
                                             const struct mabn_params_sgd *sgd);
/* The Euclidean norm of all gradients, summed in a fixed order. On a GPU they are copied to the
 * host first; NaN where that fails. */
double mabn_params_gradient_norm(const struct mabn_params *params);

/* ---- named tensors: what a checkpoint holds ---- */

enum mabn_params_role {
    MABN_PARAMS_VALUE,
    MABN_PARAMS_STATE, /* of the norms: running statistics, windows, counters; and other buffers */
    MABN_PARAMS_MOMENTUM, /* same names as the values; stores for training only */
    MABN_PARAMS_GRADIENT, /* likewise: for tests and inspection, not for checkpoints */
};

struct mabn_params_tensor {
    const char *name; /* PyTorch's: "layer1.0.conv1.weight" */
    enum mabn_params_role role;
    enum mabn_dtype dtype;
    struct mabn_shape shape; /* as in files: convolution weights OIHW */
    bool trains;             /* a value that the update changes */
    double rate;             /* factor on its learning rate */
    bool decays;             /* the update applies weight decay to it */
    bool moves;              /* state that training changes */
};

/* In the model's order: a layer's parameters, then its state. */
int mabn_params_count(const struct mabn_params *params);
const struct mabn_params_tensor *mabn_params_at(const struct mabn_params *params, int index);
/* Index, or -1. */
int mabn_params_find(const struct mabn_params *params, const char *name,
                     enum mabn_params_role role);
/* Copy a tensor out or in, in file order; MABN_ERR_ARG if `bytes` is not its exact size. Setting a
 * constant one (MABN's sta_matrix) is accepted and does nothing. On a CPU several threads may set
 * different ones at a time. */
MABN_MUST_USE mabn_status mabn_params_get(const struct mabn_params *params, int index, void *values,
                                          size_t bytes);
MABN_MUST_USE mabn_status mabn_params_set(struct mabn_params *params, int index, const void *values,
                                          size_t bytes);
/* The state of all norms as one block of host memory, for callers that keep several states. */
size_t mabn_params_state_bytes(const struct mabn_params *params);
MABN_MUST_USE mabn_status mabn_params_get_state(const struct mabn_params *params, void *block);
MABN_MUST_USE mabn_status mabn_params_set_state(struct mabn_params *params, const void *block);
/* The floats of a block that training changes (without counters and constants), as runs 0, 1 and so
 * on: *count floats from byte *offset. False after the last run. */
bool mabn_params_state_floats(const struct mabn_params *params, int run, size_t *offset,
                              size_t *count);
/* Copy values and state from one store to another; MABN_ERR_MISMATCH if it is not of the same model. */
MABN_MUST_USE mabn_status mabn_params_copy(struct mabn_params *dst, const struct mabn_params *src);

/* Initial values of parameters, where the model gives no rule for the layer. */
enum mabn_params_init {
    MABN_PARAMS_INIT_FAN_OUT, /* convolutions N(0, 2/fan_out): classification */
    MABN_PARAMS_INIT_FAN_IN,  /* convolutions uniform in ±sqrt(3/fan_in): detection bodies */
};
/* Set all values and state to their initial ones: convolutions by `kind`, linear layers uniform in
 * ±1/sqrt(fan_in), norms 1 and 0, unless the layer has its own rule; momentum 0. The numbers depend
 * on seed and names only, not on the number of threads. */
MABN_MUST_USE mabn_status mabn_params_initialize(struct mabn_params *params, uint64_t seed,
                                                 enum mabn_params_init kind);

struct mabn_device *mabn_params_device(const struct mabn_params *params);
/* The arenas, for all-reduce, checks and counting: *count floats on the device. Parameters begin at
 * multiples of 64 bytes, with zeros between. Asking for the values counts as changing them. Gradients of
 * centralized weights still contain their filters' means, which the update subtracts. */
float *mabn_params_values(struct mabn_params *params, size_t *count);
float *mabn_params_gradients(struct mabn_params *params, size_t *count); /* NULL without training */
size_t mabn_params_bytes(const struct mabn_params *params);              /* of all arenas */

MABN_END_DECLS
#endif
