/* A pass of a convolution by oneDNN: one primitive, on the layouts that it prefers. There are conversions where
 * those differ from ours, NHWC and OHWI: always for the weights, and for activations only if BLOCKED. */
#include <string.h>

#include "ops/conv_internal.h"
#include "ops/elementwise.h"

/* ---- layouts and primitives ---- */

/* Layouts of the three tensors and the bias: those of our arrays, or any that the primitive
 * prefers. */
struct layouts {
    mabn_dnnl_layout *tensor[TENSORS], *bias;
};

static void layouts_release(struct layouts *l)
{
    for (int i = 0; i < TENSORS; i++)
        mabn_dnnl_layout_free(l->tensor[i]);
    mabn_dnnl_layout_free(l->bias);
    *l = (struct layouts){0};
}

static dnnl_data_type_t type_of(enum mabn_dtype dtype)
{
    return dtype == MABN_DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

static dnnl_status_t weights_layout(mabn_dnnl_layout **layout, const struct mabn_conv *c,
                                    dnnl_data_type_t type, dnnl_format_tag_t order)
{
    const struct mabn_conv_shape *s = &c->shape;
    dnnl_dims_t dims = {s->out, s->in, s->kernel, s->kernel};
    return mabn_dnnl_layout_new(layout, 4, dims, type, order);
}

/* `l` is zeroed; `types`: of the three tensors. */
static dnnl_status_t layouts_init(struct layouts *l, const struct mabn_conv *c,
                                  const dnnl_data_type_t *types, dnnl_format_tag_t activations,
                                  dnnl_format_tag_t weights)
{
    const struct mabn_conv_shape *s = &c->shape;
    dnnl_dims_t x = {s->n, s->in, s->h, s->w}, y = {s->n, s->out, c->oh, c->ow}, b = {s->out};
    dnnl_status_t e = mabn_dnnl_layout_new(&l->tensor[SRC], 4, x, types[SRC], activations);
    if (!e) e = mabn_dnnl_layout_new(&l->tensor[DST], 4, y, types[DST], activations);
    if (!e) e = mabn_dnnl_layout_new(&l->bias, 1, b, dnnl_f32, dnnl_a);
    if (!e) e = weights_layout(&l->tensor[WEIGHTS], c, types[WEIGHTS], weights);
    return e;
}

/* The primitive descriptor of a pass with one element type; an error when there is none. */
static dnnl_status_t make_primitive_desc(dnnl_primitive_desc_t *out, const struct mabn_conv *c,
                                         int which, enum mabn_dtype dtype,
                                         dnnl_format_tag_t activations)
{
    const struct mabn_conv_shape *s = &c->shape;
    const struct mabn_conv_options *o = &c->options;
    const bool full = dtype == MABN_DTYPE_F32;
    const dnnl_prop_kind_t passes[] = {
        [FORWARD] = o->training ? dnnl_forward_training : dnnl_forward_inference,
        [TO_DATA] = dnnl_backward_data,
        [TO_WEIGHTS] = dnnl_backward_weights,
    };
    /* Inputs have the type that is multiplied, the output has the requested type. */
    const dnnl_data_type_t read = type_of(dtype);
    const dnnl_data_type_t types[] = {
        [SRC] = which == TO_DATA && !full ? type_of(o->x_dtype) : read,
        [WEIGHTS] = which == TO_WEIGHTS ? dnnl_f32 : read,
        [DST] = which == FORWARD && !full ? type_of(o->y_dtype) : read,
    };
    const dnnl_data_type_t all[] = {read, read, read};
    struct layouts l = {0}, forward = {0};
    dnnl_status_t e = layouts_init(&l, c, types, activations, dnnl_format_tag_any);
    if (!e) e = layouts_init(&forward, c, all, activations, dnnl_format_tag_any);
    struct mabn_dnnl_conv conv = {
        .pass = passes[which],
        .algorithm = dnnl_convolution_direct,
        .x = l.tensor[SRC],
        .weights = l.tensor[WEIGHTS],
        .y = l.tensor[DST],
        .forward_x = forward.tensor[SRC],
        .forward_weights = forward.tensor[WEIGHTS],
        .forward_y = forward.tensor[DST],
        .bias = o->bias && which == FORWARD ? l.bias : NULL,
        .strides = {s->stride, s->stride},
        .pads = {s->pad, s->pad},
        .add = o->add && !o->training,
        .relu = o->relu && !o->training,
    };
    if (!e) e = mabn_dnnl_conv_desc(out, c->device, &conv);
    layouts_release(&l);
    layouts_release(&forward);
    return e;
}

/* ---- passes ---- */

static const int pass_args[3][TENSORS] = {
    [FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
    [TO_DATA] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
    [TO_WEIGHTS] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST},
};

void mabn_conv_pass_release(struct pass *p)
{
    mabn_dnnl_op_release(&p->run);
    mabn_dnnl_op_release(&p->run_add);
    mabn_dnnl_op_release(&p->convert_add);
    mabn_dnnl_op_release(&p->convert_before);
    for (int i = 0; i < TENSORS; i++)
        mabn_dnnl_op_release(&p->convert[i]);
}

/* Conversions of one tensor between our layout and the primitive's. */
static mabn_status convert_tensor(struct pass *p, struct mabn_conv *c, int i,
                                  const mabn_dnnl_layout *ours, const mabn_dnnl_layout *used)
{
    if (i == p->output) {
        if (i == SRC)
            MABN_TRY(mabn_dnnl_reorder_init(&p->convert_add, c->device, used, ours, true));
        if (i == DST && c->options.add)
            MABN_TRY(mabn_dnnl_reorder_init(&p->convert_before, c->device, ours, used, false));
        return mabn_dnnl_reorder_init(&p->convert[i], c->device, used, ours, false);
    }
    if (i == WEIGHTS && (p->in_blocks = mabn_weight_blocks_of(&p->blocks, used))) return MABN_OK;
    return mabn_dnnl_reorder_init(&p->convert[i], c->device, ours, used, false);
}

mabn_status mabn_conv_pass_pack(struct pass *p, struct mabn_conv *c, void *packed,
                                const float *weight, const float *means, void *scratch)
{
    if (p->in_blocks) {
        mabn_weight_blocks_fill(packed, weight, means, c->shape.out, c->shape.in, &p->blocks);
        return MABN_OK;
    }
    if (p->convert[WEIGHTS].primitive)
        return mabn_dnnl_op_run(&p->convert[WEIGHTS], c->device, (void *[]){(void *)weight, packed},
                                (char *)scratch + p->pad_offset);
    memcpy(packed, weight, p->bytes[WEIGHTS]);
    return MABN_OK;
}

mabn_status mabn_conv_pass_weights(void **used, struct pass *p, struct mabn_conv *c,
                                   const float *weight, const float *means, void *scratch)
{
    const bool converts = p->in_blocks || p->convert[WEIGHTS].primitive;
    *used = converts ? (char *)scratch + p->offset[WEIGHTS] : (void *)weight;
    return converts ? mabn_conv_pass_pack(p, c, *used, weight, means, scratch) : MABN_OK;
}

/* Give the pass its conversions and lay out its scratch. */
static mabn_status pass_convert(struct pass *p, struct mabn_conv *c, const struct layouts *ours)
{
    size_t at = 0, pad = p->run.scratch;
    for (int i = 0; i < TENSORS; i++) {
        const mabn_dnnl_layout *used = mabn_dnnl_op_layout(&p->run, i);
        p->bytes[i] = dnnl_memory_desc_get_size(used);
        if (dnnl_memory_desc_equal(used, ours->tensor[i])) continue;
        MABN_TRY(convert_tensor(p, c, i, ours->tensor[i], used));
        p->offset[i] = at;
        at += conv_round(p->bytes[i]);
        if (p->convert[i].scratch > pad) pad = p->convert[i].scratch;
        if (p->convert_add.scratch > pad) pad = p->convert_add.scratch;
        if (p->convert_before.scratch > pad) pad = p->convert_before.scratch;
    }
    if (p->run_add.scratch > pad) pad = p->run_add.scratch;
    if (p->output == SRC && !p->convert[SRC].primitive &&
        !p->run_add.primitive) { /* scratch for what is added */
        p->offset[SRC] = at;
        at += conv_round(p->bytes[SRC]);
    }
    p->pad_offset = at;
    p->scratch = at + conv_round(pad);
    return MABN_OK;
}

/* The first primitive that oneDNN has. For a few shapes it has no bfloat16, or not in NHWC. */
static dnnl_status_t choose_primitive(dnnl_primitive_desc_t *desc, const struct mabn_conv *c,
                                      int which)
{
    const enum mabn_dtype dtype = c->options.dtype;
    dnnl_status_t e = dnnl_runtime_error;
    if (c->strategy[which] == BLOCKED)
        e = make_primitive_desc(desc, c, which, dtype, dnnl_format_tag_any);
    if (e) e = make_primitive_desc(desc, c, which, dtype, dnnl_nhwc);
    if (e && dtype != MABN_DTYPE_F32)
        e = make_primitive_desc(desc, c, which, dtype, dnnl_format_tag_any);
    if (e && dtype != MABN_DTYPE_F32)
        e = make_primitive_desc(desc, c, which, MABN_DTYPE_F32, dnnl_nhwc);
    return e;
}

/* Make the pass's primitive. */
static mabn_status pass_make(struct pass *p, struct mabn_conv *c, int which,
                             const struct layouts *ours)
{
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t e = choose_primitive(&desc, c, which);
    if (e) return mabn_dnnl_fail(e, "dnnl_primitive_desc_create for a convolution");
    static const dnnl_query_t queries[3][TENSORS] = {
        {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md},
        {dnnl_query_diff_src_md, dnnl_query_weights_md, dnnl_query_diff_dst_md},
        {dnnl_query_src_md, dnnl_query_diff_weights_md, dnnl_query_diff_dst_md},
    };
    struct mabn_dnnl_arg args[4];
    for (int i = 0; i < TENSORS; i++)
        args[i] = (struct mabn_dnnl_arg){pass_args[which][i],
                                         dnnl_primitive_desc_query_md(desc, queries[which][i], 0)};
    args[3] = (struct mabn_dnnl_arg){DNNL_ARG_BIAS, ours->bias};
    return mabn_dnnl_op_init(&p->run, c->device, desc, args,
                             c->options.bias && which == FORWARD ? 4 : 3);
}

/* ---- matrix products, for 1×1 convolutions backward in bfloat16 ---- */

/* dx (M,I) = dy (M,O) · W (O,I);  dW (O,I) = dyᵀ (O,M) · x (M,I). With types[…] and W's order. */
static dnnl_status_t matrix_layouts(struct layouts *l, const struct mabn_conv *c, int which,
                                    const dnnl_data_type_t *types, dnnl_format_tag_t weights)
{
    const struct mabn_conv_shape *s = &c->shape;
    const int64_t rows = s->n * s->h * s->w;
    dnnl_dims_t x = {rows, s->in}, w = {s->out, s->in}, dy = {rows, s->out},
                across = {s->out, rows};
    dnnl_status_t e = mabn_dnnl_layout_new(&l->tensor[SRC], 2, x, types[SRC], dnnl_ab);
    if (!e) e = mabn_dnnl_layout_new(&l->tensor[WEIGHTS], 2, w, types[WEIGHTS], weights);
    if (!e && which == TO_DATA)
        e = mabn_dnnl_layout_new(&l->tensor[DST], 2, dy, types[DST], dnnl_ab);
    if (!e && which == TO_WEIGHTS)
        e = mabn_dnnl_layout_new(&l->tensor[DST], 2, across, types[DST], dnnl_ba);
    return e;
}

static mabn_status product_init(struct mabn_dnnl_op *op, struct mabn_conv *c, int which, bool add)
{
    const bool data = which == TO_DATA;
    const dnnl_data_type_t types[] = {[SRC] = data ? type_of(c->options.x_dtype) : dnnl_bf16,
                                      [WEIGHTS] = data ? dnnl_bf16 : dnnl_f32,
                                      [DST] = dnnl_bf16};
    struct layouts l = {0};
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t e = matrix_layouts(&l, c, which, types, data ? dnnl_format_tag_any : dnnl_ab);
    const struct mabn_dnnl_product product = {.a = l.tensor[DST],
                                              .b = l.tensor[data ? WEIGHTS : SRC],
                                              .c = l.tensor[data ? SRC : WEIGHTS],
                                              .add = add};
    if (!e) e = mabn_dnnl_product_desc(&desc, c->device, &product);
    layouts_release(&l);
    if (e) return mabn_dnnl_fail(e, "dnnl_primitive_desc_create for a matrix product");
    const mabn_dnnl_layout *b = dnnl_primitive_desc_query_md(desc, dnnl_query_weights_md, 0);
    const mabn_dnnl_layout *to = dnnl_primitive_desc_query_md(desc, dnnl_query_dst_md, 0);
    const mabn_dnnl_layout *a = dnnl_primitive_desc_query_md(desc, dnnl_query_src_md, 0);
    const struct mabn_dnnl_arg args[] = {
        [SRC] = {data ? DNNL_ARG_DST : DNNL_ARG_WEIGHTS, data ? to : b},
        [WEIGHTS] = {data ? DNNL_ARG_WEIGHTS : DNNL_ARG_DST, data ? b : to},
        [DST] = {DNNL_ARG_SRC, a}};
    return mabn_dnnl_op_init(op, c->device, desc, args, TENSORS);
}

mabn_status mabn_conv_pass_product(struct pass *p, struct mabn_conv *c, int which)
{
    const dnnl_data_type_t types[] = {[SRC] = type_of(c->options.x_dtype),
                                      [WEIGHTS] = dnnl_f32,
                                      [DST] = type_of(c->options.y_dtype)};
    struct layouts ours = {0};
    mabn_status status = MABN_OK;
    p->output = which == TO_DATA ? SRC : WEIGHTS;
    dnnl_status_t e = matrix_layouts(&ours, c, which, types, dnnl_ab);
    if (e) status = mabn_dnnl_fail(e, "the layouts of a matrix product");
    if (!status) status = product_init(&p->run, c, which, false);
    if (!status && which == TO_DATA) status = product_init(&p->run_add, c, which, true);
    if (!status) status = pass_convert(p, c, &ours);
    layouts_release(&ours);
    return status;
}

/* ---- a pass ---- */

mabn_status mabn_conv_pass_init(struct pass *p, struct mabn_conv *c, int which)
{
    static const int outputs[] = {[FORWARD] = DST, [TO_DATA] = SRC, [TO_WEIGHTS] = WEIGHTS};
    const dnnl_data_type_t types[] = {[SRC] = type_of(c->options.x_dtype),
                                      [WEIGHTS] = dnnl_f32,
                                      [DST] = type_of(c->options.y_dtype)};
    struct layouts ours = {0};
    mabn_status status = MABN_OK;
    dnnl_status_t e = layouts_init(&ours, c, types, dnnl_nhwc, dnnl_ohwi);
    p->output = outputs[which];
    if (e) status = mabn_dnnl_fail(e, "the layouts of a convolution");
    if (!status) status = pass_make(p, c, which, &ours);
    if (!status) status = pass_convert(p, c, &ours);
    layouts_release(&ours);
    return status;
}

/* y += the result in scratch. */
static void add_beside(void *y, const void *computed, enum mabn_dtype dtype, size_t bytes)
{
    const int64_t count = (int64_t)(bytes / mabn_dtype_size(dtype));
    if (dtype == MABN_DTYPE_BF16)
        mabn_add_half(y, y, computed, count);
    else
        mabn_add(y, y, computed, count, false);
}

mabn_status mabn_conv_pass_run(struct pass *p, struct mabn_conv *c, void *const tensors[TENSORS],
                               const float *bias, bool add, void *scratch)
{
    char *base = scratch;
    void *pad = base + p->pad_offset;
    void *buffers[4] = {tensors[0], tensors[1], tensors[2], (void *)bias};
    for (int i = 0; i < TENSORS; i++) {
        if (!p->convert[i].primitive || (i == WEIGHTS && i != p->output)) continue;
        buffers[i] = base + p->offset[i];
        if (i == p->output) continue;
        MABN_TRY(
            mabn_dnnl_op_run(&p->convert[i], c->device, (void *[]){tensors[i], buffers[i]}, pad));
    }
    int o = p->output;
    bool converted = p->convert[o].primitive != NULL;
    if (add && p->run_add.primitive) return mabn_dnnl_op_run(&p->run_add, c->device, buffers, pad);
    if (add && !converted) buffers[o] = base + p->offset[o];
    if (p->convert_before.primitive)
        MABN_TRY(mabn_dnnl_op_run(&p->convert_before, c->device, (void *[]){tensors[o], buffers[o]},
                                  pad));
    MABN_TRY(mabn_dnnl_op_run(&p->run, c->device, buffers, pad));
    if (converted)
        return mabn_dnnl_op_run(add ? &p->convert_add : &p->convert[o], c->device,
                                (void *[]){buffers[o], tensors[o]}, pad);
    if (add) add_beside(tensors[o], buffers[o], c->options.x_dtype, p->bytes[o]);
    return MABN_OK;
}
