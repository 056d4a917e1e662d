/* A thin layer over oneDNN, the same for its versions 2 and 3: a checked call, layouts, and
 * operations whose buffers are given by pointer.
 *
 * An operation is a primitive with its memory objects; buffers are bound at each run, so that a
 * plan may move them. Scratchpads are the caller's (mabn_device_scratch). Enums (DNNL_ARG_SRC,
 * dnnl_f32, dnnl_nhwc …) are oneDNN's own; they agree between the versions. What differs, layouts
 * and creating primitives, is wrapped here and nowhere else. */
#ifndef MABN_DEVICE_DNNL_H
#define MABN_DEVICE_DNNL_H

#include <stdbool.h>
#include <stddef.h>

#include <oneapi/dnnl/dnnl.h>

#include "base/status.h"
#include "device/device.h"

MABN_BEGIN_DECLS

mabn_status mabn_dnnl_fail(dnnl_status_t status, const char *call);

/* Return on failure of a oneDNN call. */
#define MABN_DNNL(call)                                                         \
    do {                                                                        \
        dnnl_status_t mabn_dnnl_status_ = (call);                               \
        if (mabn_dnnl_status_) return mabn_dnnl_fail(mabn_dnnl_status_, #call); \
    } while (0)

/* ---- layouts ---- */

/* Sizes, type and order of an array in memory: oneDNN's memory descriptor, which is a struct in
 * version 2 and opaque in 3. A pointer to one passes straight to either's functions. */
#if DNNL_VERSION_MAJOR >= 3
typedef struct dnnl_memory_desc mabn_dnnl_layout;
#else
typedef dnnl_memory_desc_t mabn_dnnl_layout;
#endif

/* To be freed even if it fails. */
MABN_MUST_USE dnnl_status_t mabn_dnnl_layout_new(mabn_dnnl_layout **layout, int ndims,
                                                 const dnnl_dims_t dims, dnnl_data_type_t type,
                                                 dnnl_format_tag_t order);
void mabn_dnnl_layout_free(mabn_dnnl_layout *layout); /* NULL is fine */

/* A blocked layout: along some axes values are cut into blocks, which lie inside each other; `block` and `axis`
 * from the outer to the inner one. `strides`, in values, are from one block to the next. */
struct mabn_dnnl_blocking {
    dnnl_data_type_t type;
    int ndims, blocks;
    int64_t dims[4], padded[4], strides[4]; /* padded: in whole blocks */
    int64_t block[4], axis[4];
};
/* False if it is of another kind, or has more than four axes or blocks. */
bool mabn_dnnl_layout_blocking(struct mabn_dnnl_blocking *out, const mabn_dnnl_layout *layout);

/* ---- operations ---- */

enum { MABN_DNNL_MAX_ARGS = 5 };

struct mabn_dnnl_op {
    dnnl_primitive_t primitive; /* NULL: nothing to run */
    dnnl_exec_arg_t args[MABN_DNNL_MAX_ARGS];
    int count;
    size_t scratch; /* bytes of scratchpad */
};

/* An argument: DNNL_ARG_… and its layout. */
struct mabn_dnnl_arg {
    int arg;
    const mabn_dnnl_layout *layout;
};

/* Frees `desc`, also on failure. At most MABN_DNNL_MAX_ARGS - 1 arguments, whose layouts are copied;
 * the scratchpad is added. */
MABN_MUST_USE mabn_status mabn_dnnl_op_init(struct mabn_dnnl_op *op, struct mabn_device *device,
                                            dnnl_primitive_desc_t desc,
                                            const struct mabn_dnnl_arg *args, int count);
void mabn_dnnl_op_release(struct mabn_dnnl_op *op); /* a zeroed op is fine */
/* The layout of argument `arg`, counted as given to init; owned by the op. */
const mabn_dnnl_layout *mabn_dnnl_op_layout(const struct mabn_dnnl_op *op, int arg);
/* `buffers`: one for each argument, as given to init; `scratch`: at least op->scratch bytes. */
MABN_MUST_USE mabn_status mabn_dnnl_op_run(struct mabn_dnnl_op *op, struct mabn_device *device,
                                           void *const *buffers, void *scratch);

/* A conversion between two layouts or types of the same array; add: dst += instead of dst =. */
MABN_MUST_USE mabn_status mabn_dnnl_reorder_init(struct mabn_dnnl_op *op,
                                                 struct mabn_device *device,
                                                 const mabn_dnnl_layout *from,
                                                 const mabn_dnnl_layout *to, bool add);

/* One pass of a convolution. */
struct mabn_dnnl_conv {
    dnnl_prop_kind_t pass; /* forward_training, forward_inference, backward_data or _weights */
    dnnl_alg_kind_t algorithm;
    const mabn_dnnl_layout *x, *weights, *y; /* or their gradients */
    const mabn_dnnl_layout *bias;            /* forward; NULL: none */
    /* Backward: the forward pass's x, weights and y, where types differ from the above; NULL: as
     * they are. */
    const mabn_dnnl_layout *forward_x, *forward_weights, *forward_y;
    dnnl_dims_t strides, pads;
    bool add, relu; /* forward_inference: y = relu(y_before + conv(x) + bias) */
};

/* *desc is the caller's, usually for mabn_dnnl_op_init. Fails without a message, and without a
 * descriptor, when there is no such implementation. */
MABN_MUST_USE dnnl_status_t mabn_dnnl_conv_desc(dnnl_primitive_desc_t *desc,
                                                struct mabn_device *device,
                                                const struct mabn_dnnl_conv *conv);

/* c (M,N) = a (M,K) · b (K,N); add: c +=. */
struct mabn_dnnl_product {
    const mabn_dnnl_layout *a, *b, *c;
    bool add;
};

/* Likewise. The arguments are DNNL_ARG_SRC, _WEIGHTS and _DST. */
MABN_MUST_USE dnnl_status_t mabn_dnnl_product_desc(dnnl_primitive_desc_t *desc,
                                                   struct mabn_device *device,
                                                   const struct mabn_dnnl_product *product);

MABN_END_DECLS
#endif
