/* The named tensors of a store, as checkpoints hold them: values, the norms' state, momentum and
 * gradients, in the order of files. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/params_internal.h"
#include "ops/centralize.h"

static void list_tensor(struct mabn_params *params, struct mabn_params_tensor tensor, int source)
{
    int capacity = params->tensor_capacity;
    MABN_GROW(params->tensors, params->tensor_count, params->tensor_capacity);
    if (capacity != params->tensor_capacity)
        params->sources = mabn_xrealloc(params->sources,
                                        (size_t)params->tensor_capacity * sizeof *params->sources);
    params->sources[params->tensor_count] = source;
    params->tensors[params->tensor_count++] = tensor;
}

static void list_parameter(struct mabn_params *params, int index, enum mabn_params_role role)
{
    const struct parameter *p = &params->list[index];
    if (role == MABN_PARAMS_VALUE && p->buffer) role = MABN_PARAMS_STATE;
    list_tensor(params,
                (struct mabn_params_tensor){.name = mabn_xstrdup(p->name),
                                            .role = role,
                                            .dtype = MABN_DTYPE_F32,
                                            .shape = p->shape,
                                            .trains = p->trains,
                                            .rate = p->rate,
                                            .decays = p->decays},
                index);
}

static void list_state(struct mabn_params *params, int index)
{
    const struct norm_state *s = &params->states[index];
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(&s->norm, params_state(params, index), list);
    for (int k = 0; k < count; k++)
        list_tensor(params,
                    (struct mabn_params_tensor){
                        .name = mabn_xasprintf("%s.%s", s->name, list[k].name),
                        .role = MABN_PARAMS_STATE,
                        .dtype = list[k].dtype == MABN_NORM_I64 ? MABN_DTYPE_I64 : MABN_DTYPE_F32,
                        .shape = mabn_shape_make(list[k].rank, list[k].shape),
                        .moves = !list[k].constant},
                    -1 - (index * MABN_NORM_MAX_TENSORS + k));
}

void mabn_params_list(struct mabn_params *params)
{
    for (int i = 0; i < params->order_count; i++) {
        if (params->order[i] < 0)
            list_state(params, -1 - params->order[i]);
        else
            list_parameter(params, params->order[i], MABN_PARAMS_VALUE);
    }
    for (int role = MABN_PARAMS_MOMENTUM; params->training && role <= MABN_PARAMS_GRADIENT; role++)
        for (int i = 0; i < params->count; i++)
            if (params->list[i].trains) list_parameter(params, i, (enum mabn_params_role)role);
}

int mabn_params_count(const struct mabn_params *params)
{
    return params->tensor_count;
}

const struct mabn_params_tensor *mabn_params_at(const struct mabn_params *params, int index)
{
    return &params->tensors[index];
}

int mabn_params_find(const struct mabn_params *params, const char *name, enum mabn_params_role role)
{
    for (int i = 0; i < params->tensor_count; i++)
        if (params->tensors[i].role == role && !strcmp(params->tensors[i].name, name)) return i;
    return -1;
}

/* For a tensor whose source is negative: its entry in a norm's state. */
static struct mabn_norm_tensor state_entry(const struct mabn_params *params, int source)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    const int index = (-1 - source) / MABN_NORM_MAX_TENSORS;
    mabn_norm_state_list(&params->states[index].norm, params_state(params, index), list);
    return list[(-1 - source) % MABN_NORM_MAX_TENSORS];
}

/* Where a tensor's numbers are; *p is its parameter, NULL for the state of a norm. */
static char *tensor_data(const struct mabn_params *params, int index, const struct parameter **p)
{
    int source = params->sources[index];
    *p = NULL;
    if (source < 0) return state_entry(params, source).data;
    enum mabn_params_role role = params->tensors[index].role;
    const struct arena *arena = role == MABN_PARAMS_MOMENTUM   ? &params->momentum
                                : role == MABN_PARAMS_GRADIENT ? &params->gradients
                                                               : &params->weights;
    *p = &params->list[source];
    if ((*p)->lost && role == MABN_PARAMS_VALUE)
        MABN_BUG("the values of '%s', which a plan has taken", (*p)->name);
    return arena->base + (*p)->offset * sizeof(float);
}

static mabn_status check_size(const struct mabn_params *params, int index, size_t bytes)
{
    const struct mabn_params_tensor *t = &params->tensors[index];
    size_t count;
    if (!mabn_shape_count(&t->shape, &count) || count * mabn_dtype_size(t->dtype) != bytes)
        return mabn_fail(MABN_ERR_ARG, "'%s': %zu bytes given, %zu needed", t->name, bytes,
                         count * mabn_dtype_size(t->dtype));
    return MABN_OK;
}

mabn_status mabn_params_get(const struct mabn_params *params, int index, void *values, size_t bytes)
{
    const struct parameter *p;
    MABN_TRY(check_size(params, index, bytes));
    const char *data = tensor_data(params, index, &p);
    if (!p || p->area < 1) return mabn_device_get(params->device, values, data, bytes);
    float *memory = mabn_xmalloc(bytes);
    mabn_status status = mabn_device_get(params->device, memory, data, bytes);
    if (p->centralize && params->tensors[index].role == MABN_PARAMS_GRADIENT)
        mabn_centralize_backward(memory, memory, p->out, p->in * p->area);
    if (!status)
        mabn_weights_to_file(values, memory, (size_t)p->out, (size_t)p->in, (size_t)p->area);
    free(memory);
    return status;
}

mabn_status mabn_params_set(struct mabn_params *params, int index, const void *values, size_t bytes)
{
    const struct parameter *p;
    MABN_TRY(check_size(params, index, bytes));
    char *data = tensor_data(params, index, &p);
    if (!p && state_entry(params, params->sources[index]).constant) return MABN_OK;
    __atomic_add_fetch(&params->version, 1, __ATOMIC_RELAXED); /* others may set tensors, too */
    if (!p) __atomic_add_fetch(&params->state_version, 1, __ATOMIC_RELAXED);
    if (!p || p->area < 1) return mabn_device_put(params->device, data, values, bytes);
    if (params->backend->host) {
        mabn_weights_from_file((float *)data, values, (size_t)p->out, (size_t)p->in,
                               (size_t)p->area);
        return MABN_OK;
    }
    float *memory = mabn_xmalloc(bytes);
    mabn_weights_from_file(memory, values, (size_t)p->out, (size_t)p->in, (size_t)p->area);
    mabn_status status = mabn_device_put(params->device, data, memory, bytes);
    free(memory);
    return status;
}

/* ---- the state of the norms ---- */

size_t mabn_params_state_bytes(const struct mabn_params *params)
{
    return params->state.bytes;
}

mabn_status mabn_params_get_state(const struct mabn_params *params, void *block)
{
    return mabn_device_get(params->device, block, params->state.base, params->state.bytes);
}

mabn_status mabn_params_set_state(struct mabn_params *params, const void *block)
{
    params->version++;
    params->state_version++;
    return mabn_device_put(params->device, params->state.base, block, params->state.bytes);
}

bool mabn_params_state_floats(const struct mabn_params *params, int run, size_t *offset,
                              size_t *count)
{
    for (int i = 0; i < params->tensor_count; i++) {
        const struct mabn_params_tensor *t = &params->tensors[i];
        if (!t->moves || t->dtype != MABN_DTYPE_F32 || run--) continue;
        const struct mabn_norm_tensor entry = state_entry(params, params->sources[i]);
        *offset = (size_t)((const char *)entry.data - params->state.base);
        *count = entry.bytes / sizeof(float);
        return true;
    }
    return false;
}

/* ---- from store to store ---- */

static mabn_status copy_arena(struct mabn_params *dst, struct arena *to,
                              const struct mabn_params *src, const struct arena *from)
{
    char *host = mabn_xmalloc(from->bytes + 1);
    mabn_status status = mabn_device_get(src->device, host, from->base, from->bytes);
    if (!status) status = mabn_device_put(dst->device, to->base, host, from->bytes);
    free(host);
    return status;
}

static bool same_model(const struct mabn_params *a, const struct mabn_params *b)
{
    bool same = a->count == b->count && a->values == b->values &&
                a->state.bytes == b->state.bytes && a->state_count == b->state_count;
    for (int i = 0; same && i < a->count; i++)
        same = !strcmp(a->list[i].name, b->list[i].name) && a->list[i].count == b->list[i].count;
    for (int i = 0; same && i < a->state_count; i++)
        same = a->states[i].norm.options.kind == b->states[i].norm.options.kind &&
               a->states[i].bytes == b->states[i].bytes;
    return same;
}

mabn_status mabn_params_copy(struct mabn_params *dst, const struct mabn_params *src)
{
    if (!same_model(dst, src))
        return mabn_fail(MABN_ERR_MISMATCH, "the two networks are not of the same model");
    dst->version++;
    dst->state_version++;
    MABN_TRY(copy_arena(dst, &dst->weights, src, &src->weights));
    return copy_arena(dst, &dst->state, src, &src->state);
}
