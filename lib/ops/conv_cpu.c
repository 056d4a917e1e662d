/* Convolution on the CPU by oneDNN.
 *
 * Outside, everything is NHWC and OHWI. Inside, each pass (forward, backward to data, backward to
 * weights) is one oneDNN primitive with the layouts that it prefers. There are conversions only
 * where those differ from ours: always for the weights, and for activations only with Winograd.
 *
 * The choices, by shape alone, come from measurements on two AVX-512 cores at batch 8 (ms, best of 8).
 *
 * 3×3, stride 1: Winograd F(4×4,3×3) in place of direct halves the time, and more than pays for
 * converting x and y to its blocked layout and back:
 *
 *                                   forward    to data    to weights
 *     64 channels, 56×56            8.8→4.1    9.2→4.2    10.1→4.9
 *     128 channels, 28×28           8.8→4.0    9.1→3.9     9.7→5.1
 *     256 channels, 14×14           8.4→4.8    8.3→4.9     9.8→6.0
 *     512 channels, 7×7             7.9→7.2    7.8→7.2    15.9→10.2
 *     64 channels, 7×7, batch 64    2.0→1.5    2.3→1.4     2.3→1.6     one core
 *     32 channels, 14×14, batch 32  1.1→0.9    1.1→1.0     1.1→0.9     one core
 *
 * 16 channels: no gain; 512 channels, 2×2: twice as slow. So Winograd is used from 32 channels and 4×4
 * on. Its workspace grows with the picture, so large pictures are cut into parts (below).
 *
 * 1×1, stride 1, to weights: direct on NHWC reaches 100 to 160 GFLOP/s, a matrix product 150 to 200
 * (64→256 at 56×56: 8.2→5.5; 256→128: 17.0→8.7). To data both are equally fast, and the product can
 * add to dx, which saves the pass that adds a block's two gradients.
 *
 * oneDNN has Winograd only with AVX-512. Elsewhere ours is used (winograd.h), for the same shapes (ms,
 * two cores with AVX2, batch 8, against oneDNN's direct in its best layout):
 *
 *                                   forward    to data and weights
 *     64 channels, 56×56           16.8→5.9      43→15
 *     128 channels, 28×28          22.7→4.9      43→12
 *     256 channels, 14×14          16.5→8.4      47→19
 *     512 channels, 7×7            20.6→14       47→31
 *
 * There our implicit GEMM (implicit_gemm.h) is used too: for 3×3 of stride 2 in place of direct, and to
 * weights for 1×1, where oneDNN's product of a transposed matrix is slow (ms, likewise, the better of two
 * runs in turns):
 *
 *                                   forward    to data    to weights
 *     3×3, 128 channels, 56×56      24→12      15→14        28→18
 *     3×3, 256 channels, 28×28      18→12      15→12        26→14
 *     3×3, 512 channels, 14×14      18→14      19→14        28→13
 *     1×1, 128→512, 28×28                                  8.1→6.6
 *     1×1, 256→1024, 14×14                                11.8→5.9
 *     1×1, 512→2048, 7×7                                   5.8→5.5
 *
 * 1×1, 64→256 at 56×56: 6.1→7.8, so small weights stay products. With 16 and 32 channels the whole
 * cifar-resnet8 became 5 % slower, so it begins at 64.
 *
 * Everything else: direct. Blocked layouts (nChw16c) through the whole network would gain about 5 %
 * on the direct ones, all of it in the 1×1 weight gradients that are matrix products here, so we
 * keep NHWC, which is better for the norms and all other operations.
 *
 * In bfloat16 on AMX everything is direct, on NHWC, which is as fast as the layouts oneDNN would
 * choose: 1 to 2 TFLOP/s a core forward. 1×1, stride 1, backward is oneDNN's matrix product: to
 * weights 2 to 10 times as fast as its convolution (512→2048 at 7×7: 10.3→1.7 ms on one core), to
 * data up to twice as fast. */
#include "ops/conv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/words.h"
#include "device/dnnl.h"
#include "device/tune.h"
#include "ops/elementwise.h"
#include "ops/implicit_gemm.h"
#include "ops/linear.h"
#include "ops/winograd.h"
#include "tensor/tensor.h"

enum { SRC, WEIGHTS, DST, TENSORS };
enum { FORWARD, TO_DATA, TO_WEIGHTS };

/* The algorithm of a pass, chosen by shape, or with options.tune by timing. */
enum strategy {
    WINOGRAD, /* oneDNN's F(4×4,3×3), on blocked layouts; direct where it has none */
    DIRECT,   /* on NHWC */
    BLOCKED,  /* direct, on the layouts that oneDNN prefers; chosen only by timing */
    MATRIX,   /* a matrix product: 1×1, stride 1, backward */
    TILES,    /* our F(4×4,3×3) */
    IMPLICIT, /* our implicit GEMM */
    STRATEGIES
};
static const struct mabn_word strategies[] = {{WINOGRAD, "winograd"},
                                              {DIRECT, "direct"},
                                              {BLOCKED, "blocked"},
                                              {MATRIX, "matrix"},
                                              {TILES, "tiles"},
                                              {IMPLICIT, "implicit"},
                                              {0, NULL}};

/* One primitive with its conversions. The tensor it writes is `output`. */
struct pass {
    int output;
    struct mabn_dnnl_op run;
    struct mabn_dnnl_op convert[TENSORS]; /* to the primitive's layout; for the output, from it */
    struct mabn_dnnl_op convert_add;      /* for the output, adding */
    struct mabn_dnnl_op convert_before;   /* for what the output is added to: to the primitive's
                                           * layout */
    size_t bytes[TENSORS];                /* in the primitive's layout */
    size_t offset[TENSORS];               /* of the converted copy in scratch */
    struct mabn_dnnl_op run_add;          /* of a matrix product: adding to the output */
    bool from_oihw;                       /* Winograd's packed weights are only made from OIHW */
    size_t pad_offset;                    /* of the primitive's scratchpad */
    size_t scratch;                       /* in all */
};

struct mabn_conv {
    struct mabn_device *device;
    struct mabn_conv_shape shape;
    struct mabn_conv_options options;
    int64_t oh, ow;
    enum strategy strategy[3];
    struct pass pass[3];
    struct mabn_conv *part; /* computes passes that are done in parts; NULL: none */
    struct mabn_conv *full; /* the float32 convolution that computes bfloat16; NULL: oneDNN does */
    size_t scratch;
    int holders; /* in addition to the one who made it */
};

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

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

/* The primitive descriptor of a pass with one algorithm and element type; an error when there is none. */
static dnnl_status_t make_primitive_desc(dnnl_primitive_desc_t *out, const struct mabn_conv *c,
                                         int which, enum mabn_dtype dtype,
                                         dnnl_alg_kind_t algorithm, dnnl_format_tag_t activations)
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
        .algorithm = algorithm,
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

/* Can it be computed by F(4×4,3×3)? */
static bool is_winograd(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    return c->options.dtype == MABN_DTYPE_F32 && s->kernel == 3 && s->stride == 1 && s->pad == 1 &&
           s->in % 16 == 0 && s->out % 16 == 0;
}

/* oneDNN has Winograd where it has bfloat16: with AVX-512. */
static bool onednn_has_winograd(const struct mabn_conv *c)
{
    return mabn_device_bf16(c->device) != MABN_BF16_CONVERTED;
}

static bool winograd_pays(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    if (!is_winograd(c)) return false;
    /* Packed weights are four times as large: at 512×512 that is 28 MB for 3 ms. */
    if (!c->options.training && s->in * s->out > 256 * 256) return false;
    return s->in >= 32 && s->out >= 32 && s->h >= 4 && s->w >= 4 && !c->options.exact;
}

/* ---- passes ---- */

static const int pass_args[3][TENSORS] = {
    [FORWARD] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
    [TO_DATA] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
    [TO_WEIGHTS] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST},
};

static void pass_release(struct pass *p)
{
    mabn_dnnl_op_release(&p->run);
    mabn_dnnl_op_release(&p->run_add);
    mabn_dnnl_op_release(&p->convert_add);
    mabn_dnnl_op_release(&p->convert_before);
    for (int i = 0; i < TENSORS; i++)
        mabn_dnnl_op_release(&p->convert[i]);
}

/* Conversions of one tensor between our layout and the primitive's. Sets the bytes of its copy. */
static mabn_status convert_tensor(struct pass *p, struct mabn_conv *c, int i,
                                  const mabn_dnnl_layout *ours, const mabn_dnnl_layout *used,
                                  size_t *copy_bytes)
{
    *copy_bytes = p->bytes[i];
    if (i == p->output) {
        if (i == SRC)
            MABN_TRY(mabn_dnnl_reorder_init(&p->convert_add, c->device, used, ours, true));
        if (i == DST && c->options.add)
            MABN_TRY(mabn_dnnl_reorder_init(&p->convert_before, c->device, ours, used, false));
        return mabn_dnnl_reorder_init(&p->convert[i], c->device, used, ours, false);
    }
    if (!mabn_dnnl_layout_is_opaque(used))
        return mabn_dnnl_reorder_init(&p->convert[i], c->device, ours, used, false);
    mabn_dnnl_layout *oihw = NULL;
    mabn_status status = MABN_OK;
    dnnl_status_t e = weights_layout(&oihw, c, dnnl_f32, dnnl_oihw);
    if (e) status = mabn_dnnl_fail(e, "a layout of weights");
    if (!status) status = mabn_dnnl_reorder_init(&p->convert[i], c->device, oihw, used, false);
    /* Packed weights are stored elsewhere; scratch is needed only for reordering OHWI to OIHW. */
    if (!status) *copy_bytes = dnnl_memory_desc_get_size(oihw);
    p->from_oihw = true;
    mabn_dnnl_layout_free(oihw);
    return status;
}

/* Give the pass its conversions and lay out its scratch. */
static mabn_status pass_convert(struct pass *p, struct mabn_conv *c, const struct layouts *ours)
{
    size_t at = 0, pad = p->run.scratch;
    for (int i = 0; i < TENSORS; i++) {
        const mabn_dnnl_layout *used = mabn_dnnl_op_layout(&p->run, i);
        size_t copy_bytes;
        p->bytes[i] = dnnl_memory_desc_get_size(used);
        if (dnnl_memory_desc_equal(used, ours->tensor[i])) continue;
        MABN_TRY(convert_tensor(p, c, i, ours->tensor[i], used, &copy_bytes));
        p->offset[i] = at;
        at += round64(copy_bytes);
        if (p->convert[i].scratch > pad) pad = p->convert[i].scratch;
        if (p->convert_add.scratch > pad) pad = p->convert_add.scratch;
        if (p->convert_before.scratch > pad) pad = p->convert_before.scratch;
    }
    if (p->run_add.scratch > pad) pad = p->run_add.scratch;
    if (p->output == SRC && !p->convert[SRC].primitive &&
        !p->run_add.primitive) { /* scratch for what is added */
        p->offset[SRC] = at;
        at += round64(p->bytes[SRC]);
    }
    p->pad_offset = at;
    p->scratch = at + round64(pad);
    return MABN_OK;
}

/* The first algorithm that oneDNN has. For a few shapes it has no bfloat16, or not in NHWC. */
static dnnl_status_t choose_primitive(dnnl_primitive_desc_t *desc, const struct mabn_conv *c,
                                      int which)
{
    const enum strategy strategy = c->strategy[which];
    const dnnl_alg_kind_t winograd = dnnl_convolution_winograd, direct = dnnl_convolution_direct;
    const enum mabn_dtype dtype = c->options.dtype;
    dnnl_status_t e = dnnl_runtime_error;
    if (strategy == BLOCKED)
        e = make_primitive_desc(desc, c, which, dtype, direct, dnnl_format_tag_any);
    if (strategy == WINOGRAD)
        e = make_primitive_desc(desc, c, which, dtype, winograd, dnnl_nChw16c);
    if (e) e = make_primitive_desc(desc, c, which, dtype, direct, dnnl_nhwc);
    if (e && dtype != MABN_DTYPE_F32)
        e = make_primitive_desc(desc, c, which, dtype, direct, dnnl_format_tag_any);
    if (e && dtype != MABN_DTYPE_F32)
        e = make_primitive_desc(desc, c, which, MABN_DTYPE_F32, direct, dnnl_nhwc);
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

static mabn_status matrix_init(struct pass *p, struct mabn_conv *c, int which)
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

static mabn_status pass_init(struct pass *p, struct mabn_conv *c, int which)
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

/* Run one pass. `tensors` are in our layouts, except weights that are packed already. */
static mabn_status pass_run(struct pass *p, struct mabn_conv *c, void *const tensors[TENSORS],
                            const float *bias, bool add, bool packed, void *scratch)
{
    char *base = scratch;
    void *pad = base + p->pad_offset;
    void *buffers[4] = {tensors[0], tensors[1], tensors[2], (void *)bias};
    for (int i = 0; i < TENSORS; i++) {
        if (!p->convert[i].primitive || (i == WEIGHTS && packed)) continue;
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

/* ---- our Winograd ---- */

static struct mabn_winograd tiles_shape(const struct mabn_conv *c, bool to_data)
{
    const struct mabn_conv_shape *s = &c->shape;
    return (struct mabn_winograd){.n = s->n,
                                  .h = s->h,
                                  .w = s->w,
                                  .in = to_data ? s->out : s->in,
                                  .out = to_data ? s->in : s->out,
                                  .threads = mabn_device_threads(c->device)};
}

/* How many outputs are computed at a time in training. The weights in use are four times the layer's. The
 * outputs are halved while those weights take more than 5 MiB and halves are multiples of 16. */
static int64_t tiles_part(const struct mabn_winograd *shape)
{
    struct mabn_winograd s = *shape;
    s.part = s.out;
    while (mabn_winograd_weights_bytes(&s) > (size_t)5 << 20 && s.part % 32 == 0)
        s.part /= 2;
    return s.part;
}

/* Scratch: first the weights as they are used, unless they are packed; then the products' own. */
static void tiles_init(struct pass *p, const struct mabn_conv *c, int which)
{
    struct mabn_winograd s = tiles_shape(c, which == TO_DATA);
    const bool packed = which == FORWARD && !c->options.training;
    if (!packed) s.part = tiles_part(&s);
    p->bytes[WEIGHTS] = mabn_winograd_weights_bytes(&s);
    p->pad_offset = which == TO_WEIGHTS || packed ? 0 : round64(p->bytes[WEIGHTS]);
    p->scratch =
        p->pad_offset + round64(which == TO_WEIGHTS ? mabn_winograd_gradient_scratch_bytes(&s)
                                                    : mabn_winograd_scratch_bytes(&s));
}

/* Forward or to data: weights of the layer, or packed ones. */
static void tiles_run(const struct mabn_conv *c, int which, float *to, const float *from,
                      const float *weight, const float *packed, const struct mabn_winograd_end *end,
                      void *scratch)
{
    struct mabn_winograd layer = tiles_shape(c, false), s = tiles_shape(c, which == TO_DATA);
    char *products = (char *)scratch + c->pass[which].pad_offset;
    if (packed) {
        mabn_winograd_run(to, from, packed, &s, end, products);
        return;
    }
    s.part = layer.part = tiles_part(&s);
    for (; s.first < s.out; s.first += s.part) {
        layer.first = s.first;
        mabn_winograd_weights(scratch, weight, &layer, which == TO_DATA);
        mabn_winograd_run(to, from, scratch, &s, end, products);
    }
}

static void tiles_gradient(const struct mabn_conv *c, float *dweight, const float *x,
                           const float *dy, void *scratch)
{
    struct mabn_winograd s = tiles_shape(c, false);
    for (s.part = tiles_part(&s); s.first < s.out; s.first += s.part)
        mabn_winograd_gradient(dweight, x, dy, &s, scratch);
}

/* ---- our implicit GEMM ---- */

static struct mabn_implicit_gemm implicit_shape(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    return (struct mabn_implicit_gemm){.n = s->n,
                                       .h = s->h,
                                       .w = s->w,
                                       .in = s->in,
                                       .out = s->out,
                                       .oh = c->oh,
                                       .ow = c->ow,
                                       .kernel = s->kernel,
                                       .stride = s->stride,
                                       .pad = s->pad,
                                       .threads = mabn_device_threads(c->device)};
}

/* Scratch as in tiles_init. */
static void implicit_init(struct pass *p, const struct mabn_conv *c, int which)
{
    const struct mabn_implicit_gemm s = implicit_shape(c);
    const bool packed = which == FORWARD && !c->options.training;
    p->bytes[WEIGHTS] = mabn_implicit_gemm_weights_bytes(&s);
    p->pad_offset = which == TO_WEIGHTS || packed ? 0 : round64(p->bytes[WEIGHTS]);
    p->scratch =
        p->pad_offset + round64(which == TO_WEIGHTS ? mabn_implicit_gemm_gradient_scratch_bytes(&s)
                                                    : mabn_implicit_gemm_scratch_bytes(&s));
}

/* Forward: weights of the layer, or packed ones. */
static void implicit_run(const struct mabn_conv *c, float *y, const float *x, const float *weight,
                         const float *packed, const struct mabn_implicit_gemm_end *end,
                         void *scratch)
{
    const struct mabn_implicit_gemm s = implicit_shape(c);
    if (!packed) mabn_implicit_gemm_weights(scratch, weight, &s, false);
    mabn_implicit_gemm_run(y, x, packed ? packed : scratch, &s, end,
                           (char *)scratch + c->pass[FORWARD].pad_offset);
}

static void implicit_data(const struct mabn_conv *c, float *dx, const float *dy,
                          const float *weight, bool add, void *scratch)
{
    const struct mabn_implicit_gemm s = implicit_shape(c);
    mabn_implicit_gemm_weights(scratch, weight, &s, true);
    mabn_implicit_gemm_data(dx, dy, scratch, &s, add,
                            (char *)scratch + c->pass[TO_DATA].pad_offset);
}

static void implicit_gradient(const struct mabn_conv *c, float *dweight, const float *x,
                              const float *dy, void *scratch)
{
    const struct mabn_implicit_gemm s = implicit_shape(c);
    mabn_implicit_gemm_gradient(dweight, x, dy, &s, scratch);
}

/* ---- the layer ---- */

static mabn_status check_shape(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    size_t n;
    struct mabn_shape x = MABN_SHAPE(4, s->n, s->h, s->w, s->in);
    struct mabn_shape y = MABN_SHAPE(4, s->n, c->oh, c->ow, s->out);
    if (s->n < 1 || s->in < 1 || s->out < 1 || s->kernel < 1 || s->stride < 1 || s->pad < 0 ||
        c->oh < 1 || c->ow < 1)
        return mabn_fail(MABN_ERR_ARG,
                         "a %d×%d convolution of stride %d does not fit an input of %lld×%lld",
                         s->kernel, s->kernel, s->stride, (long long)s->h, (long long)s->w);
    if (!mabn_shape_count(&x, &n) || n > (size_t)1 << 40 || !mabn_shape_count(&y, &n) ||
        n > (size_t)1 << 40)
        return mabn_fail(MABN_ERR_LIMIT, "a convolution of %lld×%lld×%lld×%lld values is too large",
                         (long long)s->n, (long long)s->h, (long long)s->w, (long long)s->in);
    return MABN_OK;
}

static bool is_product(const struct mabn_conv *c)
{
    return c->shape.kernel == 1 && c->shape.stride == 1 && c->shape.pad == 0;
}

/* Can it be computed by our implicit GEMM? */
static bool is_implicit(const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    return c->options.dtype == MABN_DTYPE_F32 && s->in % 16 == 0 && s->out % 16 == 0 &&
           s->kernel <= MABN_IMPLICIT_GEMM_KERNEL;
}

static bool implicit_pays(const struct mabn_conv *c, int which)
{
    const struct mabn_conv_shape *s = &c->shape;
    if (onednn_has_winograd(c) || !is_implicit(c)) return false; /* not measured with AVX-512 */
    if (s->in < 64 || s->out < 64) return false;
    if (which == TO_WEIGHTS && is_product(c)) return s->in * s->out > 128 * 128;
    if (which == TO_WEIGHTS) return s->stride > 1;
    return s->kernel > 1 && s->stride > 1;
}

static enum strategy usual_strategy(const struct mabn_conv *c, int which)
{
    if (implicit_pays(c, which)) return IMPLICIT;
    if (which != FORWARD && is_product(c)) return MATRIX;
    if (!winograd_pays(c)) return DIRECT;
    return onednn_has_winograd(c) ? WINOGRAD : TILES;
}

/* A float32 matrix product needs no primitive: ops/linear.h. */
static mabn_status make_strategy(struct pass *p, struct mabn_conv *c, int which)
{
    if (c->strategy[which] == TILES) {
        tiles_init(p, c, which);
        return MABN_OK;
    }
    if (c->strategy[which] == IMPLICIT) {
        implicit_init(p, c, which);
        return MABN_OK;
    }
    if (c->strategy[which] != MATRIX) return pass_init(p, c, which);
    return c->options.dtype == MABN_DTYPE_F32 ? MABN_OK : matrix_init(p, c, which);
}

/* ---- choosing by time ---- */

struct trial {
    void *x, *y;
    float *weight, *dweight, *bias;
};

static void trial_release(struct trial *t)
{
    void *all[] = {t->x, t->y, t->weight, t->dweight, t->bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        mabn_free(all[i]);
}

/* Packed weights may be larger than ours: four times with Winograd, and rounded up to whole
 * blocks. */
static mabn_status trial_init(struct trial *t, const struct mabn_conv *c)
{
    const struct mabn_conv_shape *s = &c->shape;
    const size_t area = (size_t)(s->kernel * s->kernel), block = 64;
    const size_t weights = ((size_t)s->out + block) * ((size_t)s->in + block) * area * 16;
    *t = (struct trial){0};
    MABN_TRY(mabn_alloc_zero(&t->x, (size_t)(s->n * s->h * s->w * s->in) * sizeof(float)));
    MABN_TRY(mabn_alloc_zero(&t->y, (size_t)(s->n * c->oh * c->ow * s->out) * sizeof(float)));
    MABN_TRY(mabn_alloc_zero((void **)&t->weight, weights));
    MABN_TRY(mabn_alloc_zero((void **)&t->dweight, weights));
    return mabn_alloc_zero((void **)&t->bias, (size_t)s->out * sizeof(float));
}

static mabn_status run_strategy(struct mabn_conv *c, int which, struct trial *t, void *scratch)
{
    const float *bias = c->options.bias ? t->bias : NULL;
    if (which == TO_DATA) return mabn_conv_backward_data(c, t->x, t->y, t->weight, false, scratch);
    if (which == TO_WEIGHTS)
        return mabn_conv_backward_weights(c, t->dweight, NULL, t->x, t->y, scratch);
    if (c->options.training) return mabn_conv_forward(c, t->y, t->x, t->weight, bias, scratch);
    return mabn_conv_infer(c, t->y, t->x, t->weight, bias, scratch);
}

/* The best of a few runs; infinite where the algorithm does not exist. */
static mabn_status time_strategy(double *seconds, const struct mabn_conv *c, int which,
                                 enum strategy strategy, struct trial *t)
{
    enum { RUNS = 5 };
    struct mabn_conv one = {
        .device = c->device, .shape = c->shape, .options = c->options, .oh = c->oh, .ow = c->ow};
    void *scratch;
    *seconds = INFINITY;
    one.strategy[which] = strategy;
    if (make_strategy(&one.pass[which], &one, which)) {
        pass_release(&one.pass[which]);
        return MABN_OK;
    }
    mabn_status status =
        mabn_device_scratch(c->device, &scratch, round64(one.pass[which].scratch) + 64);
    for (int i = 0; i < RUNS && !status; i++) {
        const double start = mabn_now();
        status = run_strategy(&one, which, t, scratch);
        const double took = mabn_now() - start;
        if (i && took < *seconds) *seconds = took; /* the first warms up */
    }
    pass_release(&one.pass[which]);
    return status;
}

/* May this strategy be chosen, by timing here or by a file of choices from another machine? */
static bool is_candidate(const struct mabn_conv *c, int which, enum strategy strategy)
{
    if (strategy == MATRIX) return which != FORWARD && is_product(c);
    if (strategy == IMPLICIT) return is_implicit(c);
    return strategy == WINOGRAD || strategy == TILES ? is_winograd(c) : true;
}

/* The fastest. The default is kept unless another is more than 5 % faster, which is more than
 * noise. */
static mabn_status time_strategies(enum strategy *best, const struct mabn_conv *c, int which)
{
    const enum strategy usual = *best;
    double seconds[STRATEGIES];
    struct trial t;
    mabn_status status = trial_init(&t, c);
    for (int w = 0; w < STRATEGIES && !status; w++) {
        seconds[w] = INFINITY;
        if (w == WINOGRAD && !onednn_has_winograd(c)) continue;
        if (is_candidate(c, which, (enum strategy)w))
            status = time_strategy(&seconds[w], c, which, (enum strategy)w, &t);
    }
    for (int w = 0; w < STRATEGIES && !status; w++)
        if (seconds[w] < seconds[*best] && seconds[w] < 0.95 * seconds[usual])
            *best = (enum strategy)w;
    trial_release(&t);
    return status;
}

static void tune_key(char *key, size_t size, const struct mabn_conv *c, int which)
{
    static const char *const passes[] = {"forward", "to-data", "to-weights"};
    const struct mabn_conv_shape *s = &c->shape;
    const struct mabn_conv_options *o = &c->options;
    snprintf(key, size, "%s %s %s-%s %lldx%lldx%lldx%lld-%lld k%d s%d p%d%s%s%s",
             o->training || which != FORWARD ? passes[which] : "inference",
             mabn_dtype_name(o->dtype), mabn_dtype_name(o->x_dtype), mabn_dtype_name(o->y_dtype),
             (long long)s->n, (long long)s->h, (long long)s->w, (long long)s->in, (long long)s->out,
             s->kernel, s->stride, s->pad, o->bias ? " bias" : "", o->add ? " add" : "",
             o->relu ? " relu" : "");
}

/* The algorithm that was chosen before; otherwise, on a device that may time, the fastest one
 * now. */
static mabn_status tune_pass(struct mabn_conv *c, int which)
{
    struct mabn_tune *tune = mabn_device_tuning(c->device);
    char key[200];
    if (!tune) return MABN_OK;
    tune_key(key, sizeof key, c, which);
    const char *chosen = mabn_tune_find(tune, key);
    if (!chosen && !mabn_device_times(c->device)) return MABN_OK;
    if (!chosen) {
        MABN_TRY(time_strategies(&c->strategy[which], c, which));
        mabn_tune_add(tune, key, mabn_word_name(strategies, c->strategy[which]));
        return MABN_OK;
    }
    int known;
    if (mabn_word_parse(&known, strategies, "algorithm", chosen))
        return mabn_fail_prefix(MABN_ERR_FORMAT, "'%s': %s", mabn_tune_path(tune), key);
    if (!is_candidate(c, which, (enum strategy)known))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': %s: '%s' cannot do it", mabn_tune_path(tune), key,
                         chosen);
    c->strategy[which] = (enum strategy)known;
    return MABN_OK;
}

static mabn_status init_passes(struct mabn_conv *c)
{
    MABN_TRY(check_shape(c));
    for (int i = FORWARD; i <= (c->options.training ? TO_WEIGHTS : FORWARD); i++) {
        if (i == TO_DATA && c->options.no_dx) continue;
        if (c->options.tune && !c->options.exact) MABN_TRY(tune_pass(c, i));
        MABN_TRY(make_strategy(&c->pass[i], c, i));
        if (c->pass[i].scratch > c->scratch) c->scratch = c->pass[i].scratch;
    }
    return MABN_OK;
}

/* ---- parts ----
 *
 * Winograd's workspace holds all tiles at once: 266 MB for 256 channels at 200×272. Where forward
 * or backward to data need more scratch than options.part_bytes, they are computed in parts: by a
 * convolution of fewer images or, for a single image, of a strip of its rows. A strip is computed
 * together with the row above and the row below it. The results in these two rows lack neighbours
 * and are discarded, except at the edges of the image. The last strip is as high as the others and
 * starts earlier. Gradients of weights are sums over the parts. For a strip, dy's rows that belong to its
 * neighbours are replaced by zeros. */

enum { PART_BYTES = 128 << 20 }; /* the default */

static size_t most_scratch(const struct mabn_conv *c)
{
    size_t forward = c->pass[FORWARD].scratch, back = c->pass[TO_DATA].scratch;
    return forward > back ? forward : back;
}

/* The shape of a part; false: computed whole. */
static bool part_shape(const struct mabn_conv *c, struct mabn_conv_shape *part)
{
    const size_t limit = c->options.part_bytes ? c->options.part_bytes : PART_BYTES;
    const int64_t wanted = (int64_t)(most_scratch(c) / limit) + 1;
    *part = c->shape;
    if (wanted == 1 || !winograd_pays(c)) return false;
    if (c->strategy[FORWARD] == TILES && c->strategy[TO_DATA] == TILES)
        return false; /* it takes little */
    for (int64_t k = wanted; k < part->n; k++)
        if (part->n % k == 0) {
            part->n /= k;
            return true;
        }
    if (part->n > 1) { /* a prime number of images */
        part->n = 1;
        return true;
    }
    if (c->options.add) return false;
    int64_t tiles = (c->shape.h + 3) / 4; /* of four rows */
    part->h = (tiles + wanted - 1) / wanted * 4 + 2;
    return part->h < c->shape.h;
}

static bool in_strips(const struct mabn_conv *c)
{
    return c->part->shape.n == c->shape.n;
}

static int64_t parts_of(const struct mabn_conv *c)
{
    const int64_t rows = c->part->shape.h - 2;
    return in_strips(c) ? (c->shape.h + rows - 1) / rows : c->shape.n / c->part->shape.n;
}

/* Bytes of one row of x or of y. */
static size_t row_bytes(const struct mabn_conv *c, bool x)
{
    const size_t size = mabn_dtype_size(x ? c->options.x_dtype : c->options.y_dtype);
    return (size_t)(x ? c->shape.w * c->shape.in : c->ow * c->shape.out) * size;
}

static size_t weights_bytes(const struct mabn_conv *c)
{
    return round64((size_t)(c->shape.out * c->shape.in * 9) * sizeof(float));
}

/* Scratch in addition to the part's. Training: a gradient of weights, then in strips a strip of x or y.
 * Inference in strips: one row. */
static size_t beside_bytes(const struct mabn_conv *c)
{
    const size_t rows = c->options.training ? (size_t)c->part->shape.h : 1;
    const size_t x = row_bytes(c, true), y = row_bytes(c, false);
    const size_t strip = in_strips(c) ? round64(rows * (x > y ? x : y)) : 0;
    return strip + (c->options.training ? weights_bytes(c) : 0);
}

static bool weights_in_parts(const struct mabn_conv *c)
{
    return c->part && (!in_strips(c) || c->strategy[TO_WEIGHTS] == WINOGRAD);
}

static mabn_status init_part(struct mabn_conv *c)
{
    struct mabn_conv_shape shape;
    if (!part_shape(c, &shape)) return MABN_OK;
    MABN_TRY(mabn_conv_new(&c->part, c->device, &shape, &c->options));
    for (int i = FORWARD; i <= TO_WEIGHTS; i++)
        if (i != TO_WEIGHTS || weights_in_parts(c)) pass_release(&c->pass[i]);
    c->scratch = beside_bytes(c) + c->part->scratch;
    if (!weights_in_parts(c) && c->pass[TO_WEIGHTS].scratch > c->scratch)
        c->scratch = c->pass[TO_WEIGHTS].scratch;
    return MABN_OK;
}

/* A pass over x and y that a part can do: forward, or backward to data. */
struct job {
    int which;
    bool packed; /* weights */
    bool add;
    char *to;
    const char *from;
    const void *weights;
    const float *bias;
};

static mabn_status run_job(struct mabn_conv *c, const struct job *j, void *scratch)
{
    if (j->which == TO_DATA)
        return mabn_conv_backward_data(c, j->to, j->from, j->weights, j->add, scratch);
    if (j->packed) return mabn_conv_infer(c, j->to, j->from, j->weights, j->bias, scratch);
    return mabn_conv_forward(c, j->to, j->from, j->weights, j->bias, scratch);
}

/* The first row of the window in which the strip from row `first` is computed. */
static int64_t window_of(const struct mabn_conv *c, int64_t first)
{
    const int64_t last = c->shape.h - c->part->shape.h;
    return !first ? 0 : first - 1 < last ? first - 1 : last;
}

/* The rows of that strip. */
static int64_t strip_rows(const struct mabn_conv *c, int64_t first)
{
    const int64_t most = c->part->shape.h - 2, left = c->shape.h - first;
    return most < left ? most : left;
}

static mabn_status run_strip(struct mabn_conv *c, const struct job *j, int64_t first, char *beside)
{
    const int64_t at = window_of(c, first);
    const size_t row = row_bytes(c, j->which == TO_DATA);
    char *scratch = beside + beside_bytes(c), *to = j->to + (size_t)at * row;
    struct job strip = *j;
    strip.from += (size_t)at * row_bytes(c, j->which == FORWARD);
    if (j->add) {
        strip.to = beside;
        strip.add = false;
        MABN_TRY(run_job(c->part, &strip, scratch));
        add_beside(j->to + (size_t)first * row, beside + (size_t)(first - at) * row,
                   c->options.x_dtype, (size_t)strip_rows(c, first) * row);
        return MABN_OK;
    }
    strip.to = to;
    if (first) memcpy(beside, to, row);
    MABN_TRY(run_job(c->part, &strip, scratch));
    if (first) memcpy(to, beside, row);
    return MABN_OK;
}

static mabn_status run_parts(struct mabn_conv *c, const struct job *j, void *scratch)
{
    char *beside = scratch;
    const size_t rows = (size_t)(c->part->shape.n * c->shape.h);
    for (int64_t k = 0; k < parts_of(c); k++) {
        struct job part = *j;
        if (in_strips(c)) {
            MABN_TRY(run_strip(c, j, k * (c->part->shape.h - 2), beside));
            continue;
        }
        part.to += (size_t)k * rows * row_bytes(c, j->which == TO_DATA);
        part.from += (size_t)k * rows * row_bytes(c, j->which == FORWARD);
        MABN_TRY(run_job(c->part, &part, beside + beside_bytes(c)));
    }
    return MABN_OK;
}

/* dy's rows of the strip from row `first`, between zeros up to the height of its window. */
static void copy_strip(char *to, const struct mabn_conv *c, const char *dy, int64_t first)
{
    const size_t row = row_bytes(c, false), above = (size_t)(first - window_of(c, first)) * row;
    const size_t own = (size_t)strip_rows(c, first) * row;
    memset(to, 0, above);
    memcpy(to + above, dy + (size_t)first * row, own);
    memset(to + above + own, 0, (size_t)c->part->shape.h * row - above - own);
}

/* The sum of the parts' gradients. */
static mabn_status weights_of_parts(struct mabn_conv *c, float *dweight, const char *x,
                                    const char *dy, char *beside)
{
    const int64_t rows = in_strips(c) ? c->part->shape.h - 2 : c->part->shape.n * c->shape.h;
    char *strip = beside + weights_bytes(c), *scratch = beside + beside_bytes(c);
    for (int64_t k = 0; k < parts_of(c); k++) {
        const int64_t first = k * rows, from = in_strips(c) ? window_of(c, first) : first;
        const char *gradient = dy + (size_t)first * row_bytes(c, false);
        if (in_strips(c)) {
            copy_strip(strip, c, dy, first);
            gradient = strip;
        }
        MABN_TRY(mabn_conv_backward_weights(c->part, k ? (float *)beside : dweight, NULL,
                                            x + (size_t)from * row_bytes(c, true), gradient,
                                            scratch));
        if (k) mabn_add(dweight, dweight, (float *)beside, c->shape.out * c->shape.in * 9, false);
    }
    return MABN_OK;
}

/* The convolution that does the work: packed weights are in its layout. */
static const struct mabn_conv *smallest(const struct mabn_conv *c)
{
    while (c->part || c->full)
        c = c->part ? c->part : c->full;
    return c;
}

/* ---- bfloat16 by float32 ----
 *
 * Without AVX-512 oneDNN has no bfloat16. Operands are converted to float32 in scratch, which is
 * exact, and the results are rounded. Operands that are float32 are rounded in scratch to values that
 * bfloat16 has. Packed weights are rounded too, and stay float32. */

/* Scratch: x, y and the weights in float32, then that of the float32 convolution. */
struct wide {
    float *x, *y, *weight;
    void *scratch;
};

static int64_t x_count(const struct mabn_conv *c)
{
    return c->shape.n * c->shape.h * c->shape.w * c->shape.in;
}

static int64_t y_count(const struct mabn_conv *c)
{
    return c->shape.n * c->oh * c->ow * c->shape.out;
}

static int64_t weight_count(const struct mabn_conv *c)
{
    return c->shape.out * c->shape.in * c->shape.kernel * c->shape.kernel;
}

static size_t wide_bytes(int64_t count)
{
    return round64((size_t)count * sizeof(float));
}

static struct wide wide_of(const struct mabn_conv *c, void *scratch)
{
    char *at = scratch;
    struct wide w = {.x = scratch};
    w.y = (float *)(at += wide_bytes(x_count(c)));
    w.weight = (float *)(at += wide_bytes(y_count(c)));
    w.scratch = at + wide_bytes(weight_count(c));
    return w;
}

static mabn_status init_full(struct mabn_conv *c)
{
    struct mabn_conv_options options = c->options;
    options.dtype = options.x_dtype = options.y_dtype = MABN_DTYPE_F32;
    MABN_TRY(check_shape(c));
    MABN_TRY(mabn_conv_new(&c->full, c->device, &c->shape, &options));
    c->scratch = wide_bytes(x_count(c)) + wide_bytes(y_count(c)) + wide_bytes(weight_count(c)) +
                 c->full->scratch;
    return MABN_OK;
}

/* The operand in float32. */
static const float *widen(float *room, const void *from, enum mabn_dtype dtype, int64_t count)
{
    mabn_round_through_half(room, from, dtype, count);
    return room;
}

/* Where the result is computed: itself if it is float32, else `room`, with its values if they are
 * added to. */
static float *result_in(float *room, void *to, enum mabn_dtype dtype, int64_t count, bool add)
{
    if (dtype == MABN_DTYPE_F32) return to;
    if (add) mabn_round_through_half(room, to, dtype, count);
    return room;
}

static mabn_status result_out(mabn_status status, void *to, const float *from, int64_t count)
{
    if (!status && to != (const void *)from) mabn_narrow(to, from, count);
    return status;
}

static mabn_status wide_forward(struct mabn_conv *c, void *y, const void *x, const void *weight,
                                bool packed, const float *bias, void *scratch)
{
    const struct wide w = wide_of(c, scratch);
    const struct mabn_conv_options *o = &c->options;
    float *to = result_in(w.y, y, o->y_dtype, y_count(c), packed && o->add);
    const float *from = widen(w.x, x, o->x_dtype, x_count(c));
    mabn_status status;
    if (packed)
        status = mabn_conv_infer(c->full, to, from, weight, bias, w.scratch);
    else
        status = mabn_conv_forward(c->full, to, from,
                                   widen(w.weight, weight, MABN_DTYPE_F32, weight_count(c)), bias,
                                   w.scratch);
    return result_out(status, y, to, y_count(c));
}

static mabn_status wide_data(struct mabn_conv *c, void *dx, const void *dy, const float *weight,
                             bool add, void *scratch)
{
    const struct wide w = wide_of(c, scratch);
    float *to = result_in(w.x, dx, c->options.x_dtype, x_count(c), add);
    const float *from = widen(w.y, dy, c->options.y_dtype, y_count(c));
    weight = widen(w.weight, weight, MABN_DTYPE_F32, weight_count(c));
    return result_out(mabn_conv_backward_data(c->full, to, from, weight, add, w.scratch), dx, to,
                      x_count(c));
}

static mabn_status wide_weights(struct mabn_conv *c, float *dweight, const void *x, const void *dy,
                                void *scratch)
{
    const struct wide w = wide_of(c, scratch);
    return mabn_conv_backward_weights(c->full, dweight, NULL,
                                      widen(w.x, x, c->options.x_dtype, x_count(c)),
                                      widen(w.y, dy, c->options.y_dtype, y_count(c)), w.scratch);
}

/* ---- the layer's calls ---- */

mabn_status mabn_conv_new(struct mabn_conv **conv, struct mabn_device *device,
                          const struct mabn_conv_shape *shape,
                          const struct mabn_conv_options *options)
{
    struct mabn_conv *c = mabn_xcalloc(1, sizeof *c);
    *conv = NULL;
    c->device = device;
    c->shape = *shape;
    c->options = *options;
    c->oh = mabn_conv_out(shape->h, shape->kernel, shape->stride, shape->pad);
    c->ow = mabn_conv_out(shape->w, shape->kernel, shape->stride, shape->pad);
    for (int i = FORWARD; i <= TO_WEIGHTS; i++)
        c->strategy[i] = usual_strategy(c, i);
    mabn_status status;
    if (c->options.dtype == MABN_DTYPE_BF16 && mabn_device_bf16(device) == MABN_BF16_CONVERTED) {
        status = init_full(c);
    } else {
        status = init_passes(c);
        if (!status) status = init_part(c);
    }
    if (status) {
        mabn_conv_free(c);
        return status;
    }
    *conv = c;
    return MABN_OK;
}

struct mabn_conv *mabn_conv_hold(struct mabn_conv *c)
{
    c->holders++;
    return c;
}

void mabn_conv_free(struct mabn_conv *c)
{
    if (!c || c->holders--) return;
    mabn_conv_free(c->part);
    mabn_conv_free(c->full);
    for (int i = 0; i < 3; i++)
        pass_release(&c->pass[i]);
    free(c);
}

size_t mabn_conv_scratch_bytes(const struct mabn_conv *c)
{
    return c->scratch;
}

size_t mabn_conv_packed_bytes(const struct mabn_conv *c)
{
    return round64(smallest(c)->pass[FORWARD].bytes[WEIGHTS]);
}

bool mabn_conv_packs_alike(const struct mabn_conv *a, const struct mabn_conv *b)
{
    const enum strategy of_a = smallest(a)->strategy[FORWARD],
                        of_b = smallest(b)->strategy[FORWARD];
    if (!a->full != !b->full) return false; /* one rounds its weights */
    if (of_a == TILES || of_a == IMPLICIT || of_b == TILES || of_b == IMPLICIT)
        return of_a == of_b && a->shape.in == b->shape.in && a->shape.out == b->shape.out &&
               a->shape.kernel == b->shape.kernel;
    return dnnl_memory_desc_equal(mabn_dnnl_op_layout(&smallest(a)->pass[FORWARD].run, WEIGHTS),
                                  mabn_dnnl_op_layout(&smallest(b)->pass[FORWARD].run, WEIGHTS));
}

mabn_status mabn_conv_pack(struct mabn_conv *c, void *packed, const float *weight, void *scratch)
{
    struct pass *p = &c->pass[FORWARD];
    const struct mabn_conv_shape *s = &c->shape;
    if (c->part) return mabn_conv_pack(c->part, packed, weight, scratch);
    if (c->full) {
        const struct wide w = wide_of(c, scratch);
        weight = widen(w.weight, weight, MABN_DTYPE_F32, weight_count(c));
        return mabn_conv_pack(c->full, packed, weight, w.scratch);
    }
    if (c->strategy[FORWARD] == TILES) {
        const struct mabn_winograd tiles = tiles_shape(c, false);
        mabn_winograd_weights(packed, weight, &tiles, false);
        return MABN_OK;
    }
    if (c->strategy[FORWARD] == IMPLICIT) {
        const struct mabn_implicit_gemm shape = implicit_shape(c);
        mabn_implicit_gemm_weights(packed, weight, &shape, false);
        return MABN_OK;
    }
    if (p->from_oihw) {
        float *oihw = (float *)((char *)scratch + p->offset[WEIGHTS]);
        mabn_weights_to_file(oihw, weight, (size_t)s->out, (size_t)s->in,
                             (size_t)(s->kernel * s->kernel));
        weight = oihw;
    }
    if (p->convert[WEIGHTS].primitive)
        return mabn_dnnl_op_run(&p->convert[WEIGHTS], c->device, (void *[]){(void *)weight, packed},
                                (char *)scratch + p->pad_offset);
    memcpy(packed, weight, p->bytes[WEIGHTS]);
    return MABN_OK;
}

mabn_status mabn_conv_infer(struct mabn_conv *c, void *y, const void *x, const void *packed,
                            const float *bias, void *scratch)
{
    if (c->full) return wide_forward(c, y, x, packed, true, bias, scratch);
    if (c->strategy[FORWARD] == TILES && !c->part) {
        const struct mabn_winograd_end end = {bias, c->options.add, c->options.relu};
        tiles_run(c, FORWARD, y, x, NULL, packed, &end, scratch);
        return MABN_OK;
    }
    if (c->strategy[FORWARD] == IMPLICIT && !c->part) {
        const struct mabn_implicit_gemm_end end = {bias, c->options.add, c->options.relu};
        implicit_run(c, y, x, NULL, packed, &end, scratch);
        return MABN_OK;
    }
    const struct job job = {FORWARD, true, false, y, x, packed, bias};
    if (c->part) return run_parts(c, &job, scratch);
    return pass_run(&c->pass[FORWARD], c, (void *[]){(void *)x, (void *)packed, y}, bias, false,
                    true, scratch);
}

mabn_status mabn_conv_forward(struct mabn_conv *c, void *y, const void *x, const float *weight,
                              const float *bias, void *scratch)
{
    if (c->full) return wide_forward(c, y, x, weight, false, bias, scratch);
    if (c->strategy[FORWARD] == TILES && !c->part) {
        tiles_run(c, FORWARD, y, x, weight, NULL, &(struct mabn_winograd_end){.bias = bias},
                  scratch);
        return MABN_OK;
    }
    if (c->strategy[FORWARD] == IMPLICIT && !c->part) {
        implicit_run(c, y, x, weight, NULL, &(struct mabn_implicit_gemm_end){.bias = bias},
                     scratch);
        return MABN_OK;
    }
    const struct job job = {FORWARD, false, false, y, x, weight, bias};
    if (c->part) return run_parts(c, &job, scratch);
    return pass_run(&c->pass[FORWARD], c, (void *[]){(void *)x, (void *)weight, y}, bias, false,
                    false, scratch);
}

mabn_status mabn_conv_backward_data(struct mabn_conv *c, void *dx, const void *dy,
                                    const float *weight, bool add, void *scratch)
{
    const struct mabn_conv_shape *s = &c->shape;
    if (c->full) return wide_data(c, dx, dy, weight, add, scratch);
    if (c->strategy[TO_DATA] == MATRIX && c->options.dtype == MABN_DTYPE_F32)
        return mabn_linear_backward_data(dx, dy, weight, s->n * s->h * s->w, s->in, s->out, add);
    if (c->strategy[TO_DATA] == TILES && !c->part) {
        tiles_run(c, TO_DATA, dx, dy, weight, NULL, &(struct mabn_winograd_end){.add = add},
                  scratch);
        return MABN_OK;
    }
    if (c->strategy[TO_DATA] == IMPLICIT && !c->part) {
        implicit_data(c, dx, dy, weight, add, scratch);
        return MABN_OK;
    }
    const struct job job = {TO_DATA, false, add, dx, dy, weight, NULL};
    if (c->part) return run_parts(c, &job, scratch);
    return pass_run(&c->pass[TO_DATA], c, (void *[]){dx, (void *)weight, (void *)dy}, NULL, add,
                    false, scratch);
}

mabn_status mabn_conv_backward_weights(struct mabn_conv *c, float *dweight, float *dbias,
                                       const void *x, const void *dy, void *scratch)
{
    const struct mabn_conv_shape *s = &c->shape;
    if (c->strategy[TO_WEIGHTS] == MATRIX && c->options.dtype == MABN_DTYPE_F32)
        return mabn_linear_backward_weights(dweight, dbias, x, dy, s->n * s->h * s->w, s->in,
                                            s->out);
    if (c->full)
        MABN_TRY(wide_weights(c, dweight, x, dy, scratch));
    else if (weights_in_parts(c))
        MABN_TRY(weights_of_parts(c, dweight, x, dy, scratch));
    else if (c->strategy[TO_WEIGHTS] == IMPLICIT)
        implicit_gradient(c, dweight, x, dy, scratch);
    else if (c->strategy[TO_WEIGHTS] == TILES)
        tiles_gradient(c, dweight, x, dy, scratch);
    else
        MABN_TRY(pass_run(&c->pass[TO_WEIGHTS], c, (void *[]){(void *)x, dweight, (void *)dy}, NULL,
                          false, false, scratch));
    if (dbias) mabn_column_sums(dbias, dy, c->options.y_dtype, s->n * c->oh * c->ow, s->out);
    return MABN_OK;
}
