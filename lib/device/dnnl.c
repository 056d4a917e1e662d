/* oneDNN operations with buffers bound at run time, in the C interface of version 2 or 3. */
#include "device/dnnl.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/internal.h"

mabn_status mabn_dnnl_fail(dnnl_status_t status, const char *call)
{
    if (status == dnnl_out_of_memory) return mabn_fail(MABN_ERR_NOMEM, "oneDNN is out of memory");
    return mabn_fail(MABN_ERR_DNNL, "oneDNN status %d from %s", (int)status, call);
}

/* ---- layouts ---- */

dnnl_status_t mabn_dnnl_layout_new(mabn_dnnl_layout **layout, int ndims, const dnnl_dims_t dims,
                                   dnnl_data_type_t type, dnnl_format_tag_t order)
{
#if DNNL_VERSION_MAJOR >= 3
    *layout = NULL;
    return dnnl_memory_desc_create_with_tag(layout, ndims, dims, type, order);
#else
    *layout = mabn_xmalloc(sizeof **layout);
    return dnnl_memory_desc_init_by_tag(*layout, ndims, dims, type, order);
#endif
}

void mabn_dnnl_layout_free(mabn_dnnl_layout *layout)
{
#if DNNL_VERSION_MAJOR >= 3
    if (layout) dnnl_memory_desc_destroy(layout);
#else
    free(layout);
#endif
}

static void copy_dims(int64_t *to, const int64_t *from, int count)
{
    for (int i = 0; i < count; i++)
        to[i] = from[i];
}

bool mabn_dnnl_layout_blocking(struct mabn_dnnl_blocking *out, const mabn_dnnl_layout *layout)
{
    const int most = sizeof out->dims / sizeof *out->dims;
#if DNNL_VERSION_MAJOR >= 3
    dnnl_format_kind_t kind = dnnl_format_kind_undef;
    const dnnl_dims_t *dims, *padded, *strides, *blocks, *axes;
    if (dnnl_memory_desc_query(layout, dnnl_query_format_kind, &kind) || kind != dnnl_blocked ||
        dnnl_memory_desc_query(layout, dnnl_query_data_type, &out->type) ||
        dnnl_memory_desc_query(layout, dnnl_query_ndims_s32, &out->ndims) ||
        dnnl_memory_desc_query(layout, dnnl_query_inner_nblks_s32, &out->blocks) ||
        dnnl_memory_desc_query(layout, dnnl_query_dims, (void *)&dims) ||
        dnnl_memory_desc_query(layout, dnnl_query_padded_dims, (void *)&padded) ||
        dnnl_memory_desc_query(layout, dnnl_query_strides, (void *)&strides) ||
        dnnl_memory_desc_query(layout, dnnl_query_inner_blks, (void *)&blocks) ||
        dnnl_memory_desc_query(layout, dnnl_query_inner_idxs, (void *)&axes) || out->ndims > most ||
        out->blocks > most)
        return false;
    copy_dims(out->dims, *dims, out->ndims);
    copy_dims(out->padded, *padded, out->ndims);
    copy_dims(out->strides, *strides, out->ndims);
    copy_dims(out->block, *blocks, out->blocks);
    copy_dims(out->axis, *axes, out->blocks);
#else
    const dnnl_blocking_desc_t *b = &layout->format_desc.blocking;
    if (layout->format_kind != dnnl_blocked || layout->extra.flags || layout->ndims > most ||
        b->inner_nblks > most)
        return false;
    out->type = layout->data_type;
    out->ndims = layout->ndims;
    out->blocks = b->inner_nblks;
    copy_dims(out->dims, layout->dims, out->ndims);
    copy_dims(out->padded, layout->padded_dims, out->ndims);
    copy_dims(out->strides, b->strides, out->ndims);
    copy_dims(out->block, b->inner_blks, out->blocks);
    copy_dims(out->axis, b->inner_idxs, out->blocks);
#endif
    return true;
}

static int64_t channels_of(const mabn_dnnl_layout *layout)
{
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_dims_t *dims;
    return dnnl_memory_desc_query(layout, dnnl_query_dims, (void *)&dims) ? 0 : (*dims)[1];
#else
    return layout->dims[1];
#endif
}

/* ---- operations ---- */

static mabn_status init_memory(struct mabn_dnnl_op *op, dnnl_engine_t engine, int arg,
                               const mabn_dnnl_layout *layout)
{
    dnnl_exec_arg_t *a = &op->args[op->count];
    a->arg = arg;
    MABN_DNNL(dnnl_memory_create(&a->memory, layout, engine, DNNL_MEMORY_NONE));
    op->count++;
    return MABN_OK;
}

mabn_status mabn_dnnl_op_init(struct mabn_dnnl_op *op, struct mabn_device *device,
                              dnnl_primitive_desc_t desc, const struct mabn_dnnl_arg *args,
                              int count)
{
    mabn_status status = MABN_OK;
    dnnl_engine_t engine = device->dnnl_engine;
    *op = (struct mabn_dnnl_op){0};
    if (count >= MABN_DNNL_MAX_ARGS) MABN_BUG("%d arguments", count);
    for (int i = 0; i < count; i++)
        MABN_TRY_GOTO(init_memory(op, engine, args[i].arg, args[i].layout), out);
    const mabn_dnnl_layout *pad = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    if (pad) op->scratch = dnnl_memory_desc_get_size(pad);
    if (op->scratch) MABN_TRY_GOTO(init_memory(op, engine, DNNL_ARG_SCRATCHPAD, pad), out);
    dnnl_status_t made = dnnl_primitive_create(&op->primitive, desc);
    if (made) status = mabn_dnnl_fail(made, "dnnl_primitive_create");
out:
    dnnl_primitive_desc_destroy(desc);
    if (status) mabn_dnnl_op_release(op);
    return status;
}

void mabn_dnnl_op_release(struct mabn_dnnl_op *op)
{
    for (int i = 0; i < op->count; i++)
        dnnl_memory_destroy(op->args[i].memory);
    if (op->primitive) dnnl_primitive_destroy(op->primitive);
    *op = (struct mabn_dnnl_op){0};
}

const mabn_dnnl_layout *mabn_dnnl_op_layout(const struct mabn_dnnl_op *op, int arg)
{
    const mabn_dnnl_layout *layout = NULL;
    if (dnnl_memory_get_memory_desc(op->args[arg].memory, &layout)) MABN_BUG("argument %d", arg);
    return layout;
}

mabn_status mabn_dnnl_op_run(struct mabn_dnnl_op *op, struct mabn_device *device,
                             void *const *buffers, void *scratch)
{
    int given = op->count - (op->scratch ? 1 : 0);
    dnnl_stream_t stream = device->dnnl_stream;
    for (int i = 0; i < given; i++)
        MABN_DNNL(dnnl_memory_set_data_handle(op->args[i].memory, buffers[i]));
    if (op->scratch) MABN_DNNL(dnnl_memory_set_data_handle(op->args[given].memory, scratch));
    MABN_DNNL(dnnl_primitive_execute(op->primitive, stream, op->count, op->args));
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_SYCL
    MABN_DNNL(dnnl_stream_wait(stream)); /* other runtimes have finished on return */
#endif
    return MABN_OK;
}

/* The caller's scratchpad, then y += , then ReLU. */
static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, bool add, bool relu)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t e = dnnl_primitive_attr_create(attr);
    if (!e) e = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    if (!e) e = dnnl_post_ops_create(&ops);
#if DNNL_VERSION_MAJOR >= 3
    if (!e && add) e = dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
    if (!e && relu) e = dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_relu, 0.0f, 0.0f);
#else
    if (!e && add) e = dnnl_post_ops_append_sum(ops, 1.0f);
    if (!e && relu) e = dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
#endif
    if (!e) e = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops) dnnl_post_ops_destroy(ops);
    return e;
}

mabn_status mabn_dnnl_reorder_init(struct mabn_dnnl_op *op, struct mabn_device *device,
                                   const mabn_dnnl_layout *from, const mabn_dnnl_layout *to,
                                   bool add)
{
    dnnl_engine_t engine = device->dnnl_engine;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t e = make_attr(&attr, add, false);
    if (!e) e = dnnl_reorder_primitive_desc_create(&desc, from, engine, to, engine, attr);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (e) return mabn_dnnl_fail(e, "dnnl_reorder_primitive_desc_create");
    struct mabn_dnnl_arg args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    return mabn_dnnl_op_init(op, device, desc, args, 2);
}

/* ---- convolution ---- */

/* oneDNN's AVX2 kernel for the gradient of 1x1 weights with a stride copies the pixels it reads to a
 * scratch. The scratch is too small when the channels of x are no multiple of 8. Sums are wrong then, or
 * threads wait for each other for ever (seen in 2.6.3). */
static bool is_broken(dnnl_primitive_desc_t desc, const struct mabn_dnnl_conv *c)
{
    const char *name = "";
    if (c->pass != dnnl_backward_weights || c->strides[0] * c->strides[1] == 1) return false;
    if (dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, (void *)&name)) return false;
    return strstr(name, "1x1") && strstr(name, "avx") && !strstr(name, "avx512") &&
           channels_of(c->x) % 8;
}

/* make_pass: a descriptor of one pass. `hint`: that of the forward pass, for a backward one. */
#if DNNL_VERSION_MAJOR >= 3
static dnnl_status_t skip_broken(dnnl_primitive_desc_t *desc, const struct mabn_dnnl_conv *c)
{
    dnnl_status_t e = dnnl_success;
    while (!e && is_broken(*desc, c))
        e = dnnl_primitive_desc_next_impl(*desc);
    if (!e) return e;
    dnnl_primitive_desc_destroy(*desc);
    *desc = NULL;
    return e;
}

static dnnl_status_t make_pass(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                               dnnl_prop_kind_t pass, const struct mabn_dnnl_conv *c,
                               dnnl_primitive_desc_t hint, dnnl_primitive_attr_t attr)
{
    if (pass == dnnl_backward_data)
        return dnnl_convolution_backward_data_primitive_desc_create(
            out, engine, c->algorithm, c->x, c->weights, c->y, c->strides, NULL, c->pads, c->pads,
            hint, attr);
    if (pass == dnnl_backward_weights) {
        dnnl_status_t e = dnnl_convolution_backward_weights_primitive_desc_create(
            out, engine, c->algorithm, c->x, c->weights, NULL, c->y, c->strides, NULL, c->pads,
            c->pads, hint, attr);
        return e ? e : skip_broken(out, c);
    }
    return dnnl_convolution_forward_primitive_desc_create(out, engine, pass, c->algorithm, c->x,
                                                          c->weights, c->bias, c->y, c->strides,
                                                          NULL, c->pads, c->pads, attr);
}
#else
/* The first implementation that works. */
static dnnl_status_t first_good(dnnl_primitive_desc_t *out, const dnnl_convolution_desc_t *of,
                                dnnl_primitive_attr_t attr, dnnl_engine_t engine,
                                dnnl_primitive_desc_t hint, const struct mabn_dnnl_conv *c)
{
    dnnl_primitive_desc_iterator_t all;
    dnnl_status_t e = dnnl_primitive_desc_iterator_create(&all, of, attr, engine, hint);
    if (e) return e;
    *out = dnnl_primitive_desc_iterator_fetch(all);
    while (!e && *out && is_broken(*out, c)) {
        dnnl_primitive_desc_destroy(*out);
        *out = NULL;
        e = dnnl_primitive_desc_iterator_next(all);
        if (!e) *out = dnnl_primitive_desc_iterator_fetch(all);
    }
    dnnl_primitive_desc_iterator_destroy(all);
    return e || *out ? e : dnnl_out_of_memory;
}

static dnnl_status_t make_pass(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                               dnnl_prop_kind_t pass, const struct mabn_dnnl_conv *c,
                               dnnl_primitive_desc_t hint, dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t desc;
    dnnl_status_t e;
    if (pass == dnnl_backward_data)
        e = dnnl_convolution_backward_data_desc_init(&desc, c->algorithm, c->x, c->weights, c->y,
                                                     c->strides, c->pads, c->pads);
    else if (pass == dnnl_backward_weights)
        e = dnnl_convolution_backward_weights_desc_init(&desc, c->algorithm, c->x, c->weights, NULL,
                                                        c->y, c->strides, c->pads, c->pads);
    else
        e = dnnl_convolution_forward_desc_init(&desc, pass, c->algorithm, c->x, c->weights, c->bias,
                                               c->y, c->strides, c->pads, c->pads);
    return e ? e : first_good(out, &desc, attr, engine, hint, c);
}
#endif

dnnl_status_t mabn_dnnl_conv_desc(dnnl_primitive_desc_t *desc, struct mabn_device *device,
                                  const struct mabn_dnnl_conv *conv)
{
    dnnl_engine_t engine = device->dnnl_engine;
    bool backward = conv->pass == dnnl_backward_data || conv->pass == dnnl_backward_weights;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t hint = NULL;
    dnnl_status_t e = make_attr(&attr, conv->add, conv->relu);
    struct mabn_dnnl_conv forward = *conv;
    if (conv->forward_x) forward.x = conv->forward_x;
    if (conv->forward_weights) forward.weights = conv->forward_weights;
    if (conv->forward_y) forward.y = conv->forward_y;
    if (!e && backward) e = make_pass(&hint, engine, dnnl_forward_training, &forward, NULL, attr);
    if (!e) e = make_pass(desc, engine, conv->pass, conv, hint, attr);
    if (hint) dnnl_primitive_desc_destroy(hint);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return e;
}

/* ---- matrix product ---- */

dnnl_status_t mabn_dnnl_product_desc(dnnl_primitive_desc_t *desc, struct mabn_device *device,
                                     const struct mabn_dnnl_product *p)
{
    dnnl_engine_t engine = device->dnnl_engine;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t e = make_attr(&attr, p->add, false);
#if DNNL_VERSION_MAJOR >= 3
    if (!e) e = dnnl_matmul_primitive_desc_create(desc, engine, p->a, p->b, NULL, p->c, attr);
#else
    dnnl_matmul_desc_t of;
    if (!e) e = dnnl_matmul_desc_init(&of, p->a, p->b, NULL, p->c);
    if (!e) e = dnnl_primitive_desc_create(desc, &of, attr, engine, NULL);
#endif
    if (attr) dnnl_primitive_attr_destroy(attr);
    return e;
}
