/* The store: declaring, placing, initializing and updating parameters. What a checkpoint holds of
 * it is in tensors.c. */
#include "net/params_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/pages.h"
#include "ops/centralize.h"
#include "ops/elementwise.h"
#include "ops/init.h"
#include "ops/sgd.h"

/* ---- on the CPU ---- */

static mabn_status cpu_update(struct mabn_params *params, const struct mabn_params_sgd *sgd)
{
    struct mabn_sgd_options options;
    mabn_sgd_options_init(&options);
    options.momentum = sgd->momentum;
    options.nesterov = sgd->nesterov;
    if (sgd->grad_scale != 0) options.grad_scale = sgd->grad_scale;
    for (int i = 0, k = 0; i < params->count; i++)
        if (params->list[i].trains) params->sgd[k++].decay = params_decay(&params->list[i], sgd);
    mabn_sgd_step(&options, sgd->lr, params->sgd, params->sgd_count);
    return MABN_OK;
}

/* Of the gradients as the update uses them: filters of centralized weights without their means. */
static double cpu_gradient_norm(const struct mabn_params *params)
{
    double sum = 0;
    for (int i = 0; i < params->count; i++) {
        const struct parameter *p = &params->list[i];
        const float *g = params_gradient(params, i);
        const int64_t filters = p->centralize ? p->out : 1, row = (int64_t)p->count / filters;
        double part = 0;
        for (int64_t f = 0; g && f < filters; f++, g += row) {
            const double mean = p->centralize ? mabn_filter_mean(g, row) : 0;
            for (int64_t k = 0; k < row; k++)
                part += (g[k] - mean) * (g[k] - mean);
        }
        sum += part;
    }
    return sqrt(sum);
}

static void cpu_release(struct mabn_params *params)
{
    (void)params;
}

static const struct params_backend on_cpu = {
    .host = true, .update = cpu_update, .gradient_norm = cpu_gradient_norm, .release = cpu_release};

/* ---- making ---- */

mabn_status mabn_params_new(struct mabn_params **out, struct mabn_device *device)
{
    struct mabn_params *params = mabn_xcalloc(1, sizeof *params);
    params->device = device;
    params->backend = &on_cpu;
#if MABN_CUDA
    if (mabn_device_kind_of(device) == MABN_DEVICE_CUDA) params->backend = &mabn_params_on_gpu;
#endif
    params->version = params->state_version = 1;
    params->groups = (struct mabn_params_groups){1, true, true};
    *out = params;
    return MABN_OK;
}

void mabn_params_free(struct mabn_params *params)
{
    if (!params) return;
    params->backend->release(params);
    if (params->shares) params->weights = (struct arena){0};
    struct arena *arenas[] = {&params->weights, &params->gradients, &params->momentum,
                              &params->state};
    for (size_t i = 0; i < sizeof arenas / sizeof *arenas; i++)
        mabn_device_release(params->device, arenas[i]->base, arenas[i]->bytes);
    for (int i = 0; i < params->count; i++)
        free(params->list[i].name);
    for (int i = 0; i < params->state_count; i++)
        free(params->states[i].name);
    for (int i = 0; i < params->tensor_count; i++)
        free((char *)params->tensors[i].name);
    free(params->list);
    free(params->states);
    free(params->order);
    free(params->tensors);
    free(params->sources);
    free(params->sgd);
    free(params->packed);
    free(params);
}

/* ---- declaring ---- */

static void apply_group(struct mabn_params *params, struct parameter *p)
{
    const bool bias = p->kind == PARAMETER_BIAS || p->kind == PARAMETER_BETA;
    p->rate = bias ? params->groups.bias_rate : 1;
    p->decays = bias                         ? params->groups.decay_bias
                : p->kind == PARAMETER_GAMMA ? params->groups.decay_gamma
                                             : true;
}

static void list_order(struct mabn_params *params, int entry)
{
    MABN_GROW(params->order, params->order_count, params->order_capacity);
    params->order[params->order_count++] = entry;
}

static mabn_status refuse_new(const struct mabn_params *params, const char *name)
{
    if (!params->placed) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "'%s' is new to a model whose parameters are placed", name);
}

static mabn_status find_alike(const struct mabn_params *params, int *index, const char *name,
                              const struct mabn_shape *shape, const struct parameter *like)
{
    *index = -1;
    for (int i = 0; i < params->count; i++) {
        const struct parameter *p = &params->list[i];
        if (strcmp(p->name, name)) continue;
        if (!mabn_shape_equal(&p->shape, shape) || p->kind != like->kind ||
            p->centralize != like->centralize || p->area != like->area)
            return mabn_fail(MABN_ERR_ARG, "two different parameters are called '%s'", name);
        *index = i;
    }
    return MABN_OK;
}

mabn_status mabn_params_declare(struct mabn_params *params, int *index, const char *layer,
                                const char *suffix, struct mabn_shape shape,
                                const struct parameter *like)
{
    char *name = mabn_xasprintf("%s.%s", layer, suffix);
    mabn_status status = find_alike(params, index, name, &shape, like);
    if (!status && *index < 0) status = refuse_new(params, name);
    if (status || *index >= 0) {
        free(name);
        return status;
    }
    MABN_GROW(params->list, params->count, params->capacity);
    struct parameter *p = &params->list[params->count];
    *p = *like;
    p->name = name;
    p->shape = shape;
    p->offset = params->values;
    p->trains = !p->buffer;
    apply_group(params, p);
    *index = params->count++;
    list_order(params, *index);
    /* 64-byte aligned */
    if (!mabn_shape_count(&shape, &p->count) || p->count > (size_t)1 << 36 ||
        !mabn_size_add(params->values, (p->count + 15) & ~(size_t)15, &params->values))
        return mabn_fail(MABN_ERR_LIMIT, "'%s' is too large", p->name);
    return MABN_OK;
}

mabn_status mabn_params_declare_state(struct mabn_params *params, int *index, const char *layer,
                                      const struct mabn_norm *norm)
{
    for (int i = 0; i < params->state_count; i++) {
        const struct norm_state *s = &params->states[i];
        if (strcmp(s->name, layer)) continue;
        if (s->norm.channels != norm->channels || s->norm.options.kind != norm->options.kind ||
            s->bytes != mabn_norm_state_bytes(norm))
            return mabn_fail(MABN_ERR_ARG, "two different norms are called '%s'", layer);
        *index = i;
        return MABN_OK;
    }
    MABN_TRY(refuse_new(params, layer));
    MABN_GROW(params->states, params->state_count, params->state_capacity);
    struct norm_state *s = &params->states[params->state_count];
    *s = (struct norm_state){.name = mabn_xstrdup(layer),
                             .norm = *norm,
                             .offset = params->state.bytes,
                             .bytes = mabn_norm_state_bytes(norm)};
    params->state.bytes += s->bytes;
    *index = params->state_count++;
    list_order(params, -1 - *index);
    return MABN_OK;
}

int mabn_params_freeze(struct mabn_params *params, const char *prefix)
{
    int frozen = 0;
    if (params->placed) MABN_BUG("parameters frozen after they were placed");
    for (int i = 0; i < params->count; i++) {
        struct parameter *p = &params->list[i];
        if (p->buffer || strncmp(p->name, prefix, strlen(prefix))) continue;
        p->trains = false;
        frozen++;
    }
    return frozen;
}

void mabn_params_group(struct mabn_params *params, const struct mabn_params_groups *groups)
{
    if (params->placed) MABN_BUG("parameters grouped after they were placed");
    params->groups = *groups;
    for (int i = 0; i < params->count; i++)
        apply_group(params, &params->list[i]);
}

/* ---- placing ---- */

static mabn_status get_arena(struct mabn_params *params, struct arena *arena, size_t bytes)
{
    void *base;
    MABN_TRY(mabn_device_alloc(params->device, &base, bytes));
    arena->base = base;
    arena->bytes = bytes;
    return MABN_OK;
}

static void list_sgd(struct mabn_params *params)
{
    params->sgd = mabn_xcalloc((size_t)params->count + 1, sizeof *params->sgd);
    for (int i = 0; i < params->count; i++) {
        const struct parameter *p = &params->list[i];
        if (!p->trains) continue;
        params->sgd[params->sgd_count++] = (struct mabn_sgd_param){
            .param = params_weight(params, i),
            .buffer = (float *)params->momentum.base + p->offset,
            .grad = params_gradient(params, i),
            .count = (int64_t)p->count,
            .filters = p->centralize ? p->out : 0,
            .lr_factor = p->rate,
        };
    }
}

static mabn_status reset_state(struct mabn_params *params)
{
    char *state = mabn_xcalloc(params->state.bytes + 1, 1);
    for (int i = 0; i < params->state_count; i++)
        mabn_norm_state_reset(&params->states[i].norm, state + params->states[i].offset);
    mabn_status status =
        mabn_device_put(params->device, params->state.base, state, params->state.bytes);
    free(state);
    params->version++;
    params->state_version++;
    return status;
}

mabn_status mabn_params_place(struct mabn_params *params, bool training)
{
    const size_t floats = params->values * sizeof(float);
    if (params->placed) MABN_BUG("parameters placed twice");
    MABN_TRY(get_arena(params, &params->weights, floats));
    MABN_TRY(get_arena(params, &params->state, params->state.bytes));
    if (training) MABN_TRY(get_arena(params, &params->gradients, floats));
    if (training) MABN_TRY(get_arena(params, &params->momentum, floats));
    params->placed = true;
    params->training = training;
    mabn_params_list(params);
    if (training) list_sgd(params);
    return reset_state(params);
}

static void *copy_list(const void *list, int count, size_t size)
{
    void *copy = mabn_xcalloc((size_t)count + 1, size);
    if (count) memcpy(copy, list, (size_t)count * size);
    return copy;
}

mabn_status mabn_params_share(struct mabn_params **out, struct mabn_params *of,
                              struct mabn_device *device)
{
    struct mabn_params *p = mabn_xcalloc(1, sizeof *p);
    *out = p;
    if (!of->placed || !of->training) MABN_BUG("the values of a store that is not trained shared");
    *p = (struct mabn_params){.device = device,
                              .backend = of->backend,
                              .placed = true,
                              .training = true,
                              .shares = true,
                              .version = 1,
                              .count = of->count,
                              .state_count = of->state_count,
                              .order_count = of->order_count,
                              .groups = of->groups,
                              .values = of->values,
                              .weights = of->weights};
    p->list = copy_list(of->list, of->count, sizeof *of->list);
    p->states = copy_list(of->states, of->state_count, sizeof *of->states);
    p->order = copy_list(of->order, of->order_count, sizeof *of->order);
    for (int i = 0; i < p->count; i++)
        p->list[i].name = mabn_xstrdup(of->list[i].name);
    for (int i = 0; i < p->state_count; i++)
        p->states[i].name = mabn_xstrdup(of->states[i].name);
    p->state.bytes = of->state.bytes;
    mabn_status status = get_arena(p, &p->state, of->state.bytes);
    if (!status) status = get_arena(p, &p->gradients, of->values * sizeof(float));
    if (!status) status = reset_state(p);
    if (!status) return MABN_OK;
    mabn_params_free(p);
    *out = NULL;
    return status;
}

void mabn_params_lose(struct mabn_params *params, int parameter)
{
    struct parameter *p = &params->list[parameter];
    p->lost = true;
    mabn_forget(params_weight(params, parameter), p->count * sizeof(float));
}

/* ---- starting ---- */

/* The initial values of a parameter, in memory's order. */
static void fill_parameter(float *w, const struct parameter *p, uint64_t seed,
                           enum mabn_params_init kind)
{
    int64_t count = (int64_t)p->count;
    uint64_t id = mabn_init_id(p->name);
    double limit = p->spread;
    switch (p->fill) {
    case FILL_ZERO:
    case FILL_ONE:
        mabn_init_fill(w, count, p->fill == FILL_ONE ? 1.0f : 0.0f);
        return;
    case FILL_NORMAL:
        mabn_init_normal(w, count, 0, p->spread, seed, id);
        return;
    case FILL_CONV:
        limit = sqrt(3 / p->fan_in);
        if (kind == MABN_PARAMS_INIT_FAN_IN) break;
        mabn_init_normal(w, count, 0, sqrt(2.0 / (double)(p->out * p->area)), seed, id);
        return;
    case FILL_LINEAR:
        limit = 1 / sqrt(p->fan_in);
        break;
    case FILL_UNIFORM:
        break;
    }
    mabn_init_uniform(w, count, -limit, limit, seed, id);
}

mabn_status mabn_params_initialize(struct mabn_params *params, uint64_t seed,
                                   enum mabn_params_init kind)
{
    const size_t bytes = params->values * sizeof(float);
    if (!params->placed) MABN_BUG("parameters initialized before they were placed");
    float *values = mabn_xcalloc(params->values + 1, sizeof *values);
    for (int i = 0; i < params->count; i++)
        fill_parameter(values + params->list[i].offset, &params->list[i], seed, kind);
    mabn_status status = mabn_device_put(params->device, params->weights.base, values, bytes);
    free(values);
    if (status) return status;
    if (params->momentum.base)
        MABN_TRY(mabn_device_zero(params->device, params->momentum.base, bytes));
    return reset_state(params);
}

/* ---- updating ---- */

mabn_status mabn_params_update(struct mabn_params *params, const struct mabn_params_sgd *sgd)
{
    if (!params->training || params->shares)
        return mabn_fail(MABN_ERR_ARG, "these parameters are not trained");
    const mabn_status status = params->backend->update(params, sgd);
    params->version++;
    return status;
}

double mabn_params_gradient_norm(const struct mabn_params *params)
{
    return params->backend->gradient_norm(params);
}

struct mabn_device *mabn_params_device(const struct mabn_params *params)
{
    return params->device;
}

float *mabn_params_values(struct mabn_params *params, size_t *count)
{
    *count = params->values;
    params->version++; /* the caller may change values */
    return (float *)params->weights.base;
}

float *mabn_params_gradients(struct mabn_params *params, size_t *count)
{
    *count = params->values;
    return (float *)params->gradients.base;
}

size_t mabn_params_bytes(const struct mabn_params *params)
{
    return params->weights.bytes + params->gradients.bytes + params->momentum.bytes +
           params->state.bytes;
}
