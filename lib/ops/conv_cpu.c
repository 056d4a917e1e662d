/* Convolution on the CPU: a layer's calls. conv_strategy.c chooses the algorithm of each pass, conv_tune.c by
 * time; conv_pass.c has the passes that oneDNN computes, conv_ours.c those by our own algorithms.
 * Outside, everything is NHWC and OHWI. */
#include "ops/conv.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/centralize.h"
#include "ops/conv_internal.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

/* ---- making ---- */

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

static mabn_status init_passes(struct mabn_conv *c)
{
    for (int i = FORWARD; i <= (c->options.training ? TO_WEIGHTS : FORWARD); i++) {
        if (i == TO_DATA && c->options.no_dx) continue;
        if (c->options.tune && !c->options.exact) MABN_TRY(mabn_conv_tune_pass(c, i));
        MABN_TRY(mabn_conv_make_strategy(&c->pass[i], c, i));
        if (c->pass[i].scratch > c->scratch) c->scratch = c->pass[i].scratch;
    }
    return MABN_OK;
}

/* The convolution that does the work: packed weights are in its layout. */
static const struct mabn_conv *worker(const struct mabn_conv *c)
{
    return c->full ? c->full : c;
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
    return conv_round((size_t)count * sizeof(float));
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
    options.centralize = false;
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

static mabn_status wide_pack(struct mabn_conv *c, void *packed, const float *weight, void *scratch)
{
    const struct wide w = wide_of(c, scratch);
    weight = widen(w.weight, weight, MABN_DTYPE_F32, weight_count(c));
    return mabn_conv_pack(c->full, packed, weight, w.scratch);
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
                                   widen(w.weight, weight, MABN_DTYPE_F32, weight_count(c)), NULL,
                                   bias, w.scratch);
    return result_out(status, y, to, y_count(c));
}

static mabn_status wide_data(struct mabn_conv *c, void *dx, const void *dy, const float *weight,
                             bool add, void *scratch)
{
    const struct wide w = wide_of(c, scratch);
    float *to = result_in(w.x, dx, c->options.x_dtype, x_count(c), add);
    const float *from = widen(w.y, dy, c->options.y_dtype, y_count(c));
    weight = widen(w.weight, weight, MABN_DTYPE_F32, weight_count(c));
    return result_out(mabn_conv_backward_data(c->full, to, from, weight, NULL, add, w.scratch), dx,
                      to, x_count(c));
}

static mabn_status wide_weights(struct mabn_conv *c, float *dweight, const void *x, const void *dy,
                                void *scratch)
{
    const struct wide w = wide_of(c, scratch);
    return mabn_conv_backward_weights(c->full, dweight, NULL,
                                      widen(w.x, x, c->options.x_dtype, x_count(c)),
                                      widen(w.y, dy, c->options.y_dtype, y_count(c)), w.scratch);
}

/* ---- the filters' means ----
 *
 * Where a pass cannot subtract them while it arranges the weights, that is done before, at the end of scratch. */

static bool subtracts(const struct mabn_conv *c, int which)
{
    return !c->full && mabn_conv_strategy_subtracts(c, which);
}

static void reserve_centralized(struct mabn_conv *c)
{
    const bool all = subtracts(c, FORWARD) && (c->options.no_dx || subtracts(c, TO_DATA));
    if (c->options.centralize && !all) c->centralized = wide_bytes(weight_count(c));
    c->scratch += c->centralized;
}

static void subtract_before(const struct mabn_conv *c, int which, const float **weight,
                            const float **means, void *scratch)
{
    if (!*means || subtracts(c, which)) return;
    float *to = (float *)((char *)scratch + c->scratch - c->centralized);
    mabn_subtract_means(to, *weight, *means, c->shape.out, weight_count(c) / c->shape.out);
    *weight = to;
    *means = NULL;
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
        c->strategy[i] = mabn_conv_usual_strategy(c, i);
    const bool converted =
        c->options.dtype == MABN_DTYPE_BF16 && mabn_device_bf16(device) == MABN_BF16_CONVERTED;
    mabn_status status = check_shape(c);
    if (!status) status = converted ? init_full(c) : init_passes(c);
    if (status) {
        mabn_conv_free(c);
        return status;
    }
    reserve_centralized(c);
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
    mabn_conv_free(c->full);
    for (int i = 0; i < 3; i++)
        mabn_conv_pass_release(&c->pass[i]);
    free(c);
}

size_t mabn_conv_scratch_bytes(const struct mabn_conv *c)
{
    return c->scratch;
}

size_t mabn_conv_packed_bytes(const struct mabn_conv *c)
{
    return conv_round(worker(c)->pass[FORWARD].bytes[WEIGHTS]);
}

bool mabn_conv_packs_alike(const struct mabn_conv *a, const struct mabn_conv *b)
{
    const enum strategy of_a = worker(a)->strategy[FORWARD], of_b = worker(b)->strategy[FORWARD];
    if (!a->full != !b->full) return false; /* one rounds its weights */
    if (of_a == WINOGRAD || of_a == IMPLICIT || of_b == WINOGRAD || of_b == IMPLICIT)
        return of_a == of_b && a->shape.in == b->shape.in && a->shape.out == b->shape.out &&
               a->shape.kernel == b->shape.kernel;
    return dnnl_memory_desc_equal(mabn_dnnl_op_layout(&worker(a)->pass[FORWARD].run, WEIGHTS),
                                  mabn_dnnl_op_layout(&worker(b)->pass[FORWARD].run, WEIGHTS));
}

mabn_status mabn_conv_pack(struct mabn_conv *c, void *packed, const float *weight, void *scratch)
{
    return c->full ? wide_pack(c, packed, weight, scratch)
                   : mabn_conv_strategy_pack(c, packed, weight, scratch);
}

mabn_status mabn_conv_infer(struct mabn_conv *c, void *y, const void *x, const void *packed,
                            const float *bias, void *scratch)
{
    return c->full ? wide_forward(c, y, x, packed, true, bias, scratch)
                   : mabn_conv_strategy_infer(c, y, x, packed, bias, scratch);
}

mabn_status mabn_conv_forward(struct mabn_conv *c, void *y, const void *x, const float *weight,
                              const float *means, const float *bias, void *scratch)
{
    subtract_before(c, FORWARD, &weight, &means, scratch);
    return c->full ? wide_forward(c, y, x, weight, false, bias, scratch)
                   : mabn_conv_strategy_forward(c, y, x, weight, means, bias, scratch);
}

mabn_status mabn_conv_backward_data(struct mabn_conv *c, void *dx, const void *dy,
                                    const float *weight, const float *means, bool add,
                                    void *scratch)
{
    subtract_before(c, TO_DATA, &weight, &means, scratch);
    return c->full ? wide_data(c, dx, dy, weight, add, scratch)
                   : mabn_conv_strategy_data(c, dx, dy, weight, means, add, scratch);
}

mabn_status mabn_conv_backward_weights(struct mabn_conv *c, float *dweight, float *dbias,
                                       const void *x, const void *dy, void *scratch)
{
    const struct mabn_conv_shape *s = &c->shape;
    if (c->full)
        MABN_TRY(wide_weights(c, dweight, x, dy, scratch));
    else
        MABN_TRY(mabn_conv_strategy_weights(c, dweight, x, dy, scratch));
    if (dbias) mabn_column_sums(dbias, dy, c->options.y_dtype, s->n * c->oh * c->ow, s->out);
    return MABN_OK;
}
