/* Weights as convolutions read them in inference: folded with their norm, centralized, in the layout
 * that the primitive prefers. They belong to the store that they are made from. Plans over one store
 * share them where their convolutions pack alike, so that a plan for another shape of pictures does not
 * need the memory or the time again. On the CPU only; not for other rooms. */
#ifndef MABN_NET_PACKED_H
#define MABN_NET_PACKED_H

#include "net/params_internal.h"
#include "ops/conv.h"

MABN_BEGIN_DECLS

/* The parameters and state from which weights are packed. */
struct packed_source {
    int weight, bias;            /* parameters; -1: none */
    int norm_weight, norm_state; /* of the norm that is folded in; -1: none */
    bool folded, centralized;
};

struct packed_block;

/* The packed weights of one source, for all convolutions that pack alike. */
struct packed {
    struct packed_source source;
    struct mabn_conv *op; /* held; others that pack alike share these weights */
    void *weights;        /* NULL: no memory yet */
    float *bias;          /* (out): the bias in use */
    uint64_t version;     /* of the store when they were made; 0: not yet */

    struct mabn_params *params;
    struct packed_block *block; /* the memory, which several may have in common */
    size_t weight_bytes, bias_bytes;
    int users;
};

/* The packed weights of this source for an operation like `op`, of `out` channels: found, or new and
 * without memory. To be released. */
struct packed *mabn_packed_get(struct mabn_params *params, const struct packed_source *source,
                               struct mabn_conv *op, int64_t out);
/* Allocate memory, as one block, for all packed weights of the store that have none. */
MABN_MUST_USE mabn_status mabn_packed_place(struct mabn_params *params);
void mabn_packed_release(struct packed *packed); /* NULL is fine */
/* Bytes of all packed weights of a store. */
size_t mabn_packed_bytes(const struct mabn_params *params);

MABN_END_DECLS
#endif
