/* The structure of a store of parameters, for the files of this room. */
#ifndef MABN_NET_PARAMS_INTERNAL_H
#define MABN_NET_PARAMS_INTERNAL_H

#include "net/params.h"
#include "norm/norm.h"

MABN_BEGIN_DECLS

struct arena {
    char *base;
    size_t bytes;
};

enum parameter_kind { PARAMETER_WEIGHT, PARAMETER_BIAS, PARAMETER_GAMMA, PARAMETER_BETA };

struct parameter {
    char *name;
    struct mabn_shape shape; /* in files */
    size_t offset, count;    /* in floats; the same in all arenas */
    int64_t out, in, area;   /* of weights that files keep as (O,I,area), memory as (O,area,I);
                              * area 0: same order in both */
    enum parameter_kind kind;
    bool buffer;     /* a frozen norm's: state to a checkpoint, never trained */
    bool trains;     /* not a buffer, not frozen */
    bool centralize; /* a convolution's weights that are used without their filters' means */
    bool lost;       /* a plan has given its values' memory back (options.takes_weights) */
    enum {
        FILL_CONV,   /* by mabn_params_init */
        FILL_LINEAR, /* uniform in ±1/sqrt(fan_in) */
        FILL_ONE,
        FILL_ZERO,
        FILL_NORMAL,  /* N(0, spread²) */
        FILL_UNIFORM, /* in ±spread */
    } fill;
    double fan_in, spread;
    double rate; /* factor on the learning rate */
    bool decays; /* by its group */
};

/* The state of one norm layer. */
struct norm_state {
    char *name;
    struct mabn_norm norm;
    size_t offset, bytes; /* in the state arena */
};

struct mabn_params {
    struct mabn_device *device;
    const struct params_backend *backend;
    bool placed, training;
    bool shares;      /* the weights are another store's */
    uint64_t version; /* of values and state; plans that keep copies made of them compare it */
    uint64_t state_version; /* of the state alone; training does not change it */

    struct parameter *list;
    int count, capacity;
    struct norm_state *states;
    int state_count, state_capacity;
    int *order; /* as declared: parameter, or -1 - state */
    int order_count, order_capacity;
    struct mabn_params_tensor *tensors;
    int *sources; /* of a tensor: parameter; or -1 - (state * MABN_NORM_MAX_TENSORS + its entry) */
    int tensor_count, tensor_capacity;
    struct mabn_params_groups groups;

    size_t values; /* floats in each of weights, gradients, momentum */
    struct arena weights, gradients, momentum, state;
    struct mabn_sgd_param *sgd;
    int sgd_count;
    struct packed **packed; /* on the CPU: weights packed for inference (packed.h) */
    int packed_count, packed_capacity;
    struct params_cuda *cuda; /* what params_cuda.cu keeps; NULL before the first update */
};

/* Where a store is. Functions are as mabn_params_<name>. */
struct params_backend {
    bool host; /* its memory is the host's */
    mabn_status (*update)(struct mabn_params *params, const struct mabn_params_sgd *sgd);
    /* NaN where the gradients cannot be fetched. */
    double (*gradient_norm)(const struct mabn_params *params);
    void (*release)(struct mabn_params *params); /* what it keeps beside the arenas */
};
extern const struct params_backend mabn_params_on_gpu; /* params_cuda.cu */

/* The weight decay of a parameter in this update. */
static inline double params_decay(const struct parameter *p, const struct mabn_params_sgd *sgd)
{
    const bool decays = p->decays && (p->kind == PARAMETER_WEIGHT || !sgd->no_decay_norm_bias);
    return decays ? sgd->weight_decay : 0;
}

/* params_cuda.cu: the loss scaler of plans that train these parameters in float16; in device memory, made
 * when it is first requested. Their gradients contain its scale as a factor, which the update removes. */
struct mabn_cuda_scaler;
MABN_MUST_USE mabn_status mabn_params_cuda_scaler(struct mabn_params *params,
                                                  struct mabn_cuda_scaler **scaler);

/* Declare "<layer>.<suffix>", or find it when it was declared alike. MABN_ERR_ARG: it was declared
 * differently, or is new to a store that is placed; MABN_ERR_LIMIT: too large. */
MABN_MUST_USE mabn_status mabn_params_declare(struct mabn_params *params, int *index,
                                              const char *layer, const char *suffix,
                                              struct mabn_shape shape,
                                              const struct parameter *like);
/* Likewise the state of a norm. */
MABN_MUST_USE mabn_status mabn_params_declare_state(struct mabn_params *params, int *index,
                                                    const char *layer,
                                                    const struct mabn_norm *norm);

/* tensors.c: list the named tensors, once everything is placed. */
void mabn_params_list(struct mabn_params *params);

/* Give the memory of a parameter's values back to the system. They cannot be read from then on. */
void mabn_params_lose(struct mabn_params *params, int parameter);

static inline float *params_weight(const struct mabn_params *params, int parameter)
{
    return parameter < 0 ? NULL : (float *)params->weights.base + params->list[parameter].offset;
}

/* NULL where there is none. */
static inline float *params_gradient(const struct mabn_params *params, int parameter)
{
    return parameter < 0 || !params->list[parameter].trains || !params->gradients.base
               ? NULL
               : (float *)params->gradients.base + params->list[parameter].offset;
}

static inline char *params_state(const struct mabn_params *params, int state)
{
    return state < 0 ? NULL : params->state.base + params->states[state].offset;
}

MABN_END_DECLS
#endif
