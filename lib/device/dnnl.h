/* oneDNN behind a few words: a checked call, and an operation whose buffers are given by pointer.
 *
 * An operation is a primitive with its memory objects; buffers are bound at each run, so that a
 * plan may move them. Scratchpads are the caller's (mabn_device_scratch). */
#ifndef MABN_DEVICE_DNNL_H
#define MABN_DEVICE_DNNL_H

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

enum { MABN_DNNL_MAX_ARGS = 5 };

struct mabn_dnnl_op {
    dnnl_primitive_t primitive; /* NULL: nothing to run */
    dnnl_exec_arg_t args[MABN_DNNL_MAX_ARGS];
    int count;
    size_t scratch; /* bytes of scratchpad */
};

/* What one argument is: DNNL_ARG_… and its descriptor. */
struct mabn_dnnl_arg {
    int arg;
    const dnnl_memory_desc_t *desc;
};

/* Takes `desc` in any case. At most MABN_DNNL_MAX_ARGS - 1 arguments; the scratchpad is added. */
MABN_MUST_USE mabn_status mabn_dnnl_op_init(struct mabn_dnnl_op *op, struct mabn_device *device,
                                            dnnl_primitive_desc_t desc,
                                            const struct mabn_dnnl_arg *args, int count);
void mabn_dnnl_op_release(struct mabn_dnnl_op *op); /* a zeroed op is fine */
/* `buffers`: in the order of init; `scratch`: at least op->scratch bytes. */
MABN_MUST_USE mabn_status mabn_dnnl_op_run(struct mabn_dnnl_op *op, struct mabn_device *device,
                                           void *const *buffers, void *scratch);

/* A conversion between two layouts of the same array; add: dst += instead of dst =. */
MABN_MUST_USE mabn_status mabn_dnnl_reorder_init(struct mabn_dnnl_op *op,
                                                 struct mabn_device *device,
                                                 const dnnl_memory_desc_t *from,
                                                 const dnnl_memory_desc_t *to, int add);

MABN_END_DECLS
#endif
