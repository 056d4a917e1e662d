/* What a network holds, by name: parameters, the norms' state, momentum and gradients; and the
 * small questions about it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/internal.h"
#include "ops/centralize.h"
#include "ops/elementwise.h"
#include "ops/init.h"

static void list_tensor(struct mabn_net *net, char *name, enum mabn_net_role role,
                        enum mabn_dtype dtype, struct mabn_shape shape, int source)
{
    int capacity = net->tensor_capacity;
    MABN_GROW(net->tensors, net->tensor_count, net->tensor_capacity);
    if (capacity != net->tensor_capacity)
        net->tensor_source = mabn_xrealloc(net->tensor_source, (size_t)net->tensor_capacity *
                                                                   sizeof *net->tensor_source);
    net->tensor_source[net->tensor_count] = source;
    net->tensors[net->tensor_count++] = (struct mabn_net_tensor){name, role, dtype, shape};
}

static void list_parameter(struct mabn_net *net, int index, enum mabn_net_role role)
{
    const struct parameter *p = &net->parameters[index];
    if (role == MABN_NET_PARAMETER && !p->trains) role = MABN_NET_STATE; /* a frozen norm's */
    list_tensor(net, mabn_xstrdup(p->name), role, MABN_DTYPE_F32, p->shape, index);
}

static char *state_block(const struct mabn_net *net, const struct node *node)
{
    return net->state.base + node->state_offset;
}

static void list_state(struct mabn_net *net, int index)
{
    const struct node *node = &net->nodes[index];
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    int count = mabn_norm_state_list(&node->norm, state_block(net, node), list);
    for (int k = 0; k < count; k++)
        list_tensor(net, mabn_xasprintf("%s.%s", node->name, list[k].name), MABN_NET_STATE,
                    list[k].dtype == MABN_NORM_I64 ? MABN_DTYPE_I64 : MABN_DTYPE_F32,
                    mabn_shape_make(list[k].rank, list[k].shape),
                    -1 - (index * MABN_NORM_MAX_TENSORS + k));
}

void mabn_net_list_tensors(struct mabn_net *net)
{
    /* In the model's order: a layer's parameters, then its state. */
    for (int i = 0; i < net->node_count; i++) {
        const struct node *node = &net->nodes[i];
        if (node->weight >= 0) list_parameter(net, node->weight, MABN_NET_PARAMETER);
        if (node->bias >= 0) list_parameter(net, node->bias, MABN_NET_PARAMETER);
        if (node->kind == NODE_NORM) list_state(net, i);
    }
    for (int role = MABN_NET_MOMENTUM; net->options.training && role <= MABN_NET_GRADIENT; role++)
        for (int i = 0; i < net->parameter_count; i++)
            if (net->parameters[i].trains) list_parameter(net, i, role);
}

/* ---- by name ---- */

int mabn_net_tensor_count(const struct mabn_net *net)
{
    return net->tensor_count;
}

const struct mabn_net_tensor *mabn_net_tensor_at(const struct mabn_net *net, int index)
{
    return &net->tensors[index];
}

int mabn_net_tensor_find(const struct mabn_net *net, const char *name, enum mabn_net_role role)
{
    for (int i = 0; i < net->tensor_count; i++)
        if (net->tensors[i].role == role && !strcmp(net->tensors[i].name, name)) return i;
    return -1;
}

/* The entry of a norm's state behind a tensor whose source is negative. */
static struct mabn_norm_tensor state_entry(const struct mabn_net *net, int source)
{
    struct mabn_norm_tensor list[MABN_NORM_MAX_TENSORS];
    const struct node *node = &net->nodes[(-1 - source) / MABN_NORM_MAX_TENSORS];
    mabn_norm_state_list(&node->norm, state_block(net, node), list);
    return list[(-1 - source) % MABN_NORM_MAX_TENSORS];
}

/* Where a tensor's numbers are; *p is its parameter, NULL for the state of a norm. */
static char *tensor_data(const struct mabn_net *net, int index, const struct parameter **p)
{
    int source = net->tensor_source[index];
    *p = NULL;
    if (source < 0) return state_entry(net, source).data;
    enum mabn_net_role role = net->tensors[index].role;
    const struct arena *arena = role == MABN_NET_MOMENTUM   ? &net->momentum
                                : role == MABN_NET_GRADIENT ? &net->gradients
                                                            : &net->weights;
    *p = &net->parameters[source];
    return arena->base + (*p)->offset * sizeof(float);
}

static mabn_status check_size(const struct mabn_net *net, int index, size_t bytes)
{
    const struct mabn_net_tensor *t = &net->tensors[index];
    size_t count;
    if (!mabn_shape_count(&t->shape, &count) || count * mabn_dtype_size(t->dtype) != bytes)
        return mabn_fail(MABN_ERR_ARG, "'%s': %zu bytes given, %zu needed", t->name, bytes,
                         count * mabn_dtype_size(t->dtype));
    return MABN_OK;
}

mabn_status mabn_net_tensor_get(const struct mabn_net *net, int index, void *values, size_t bytes)
{
    const struct parameter *p;
    MABN_TRY(check_size(net, index, bytes));
    const char *data = tensor_data(net, index, &p);
    if (!p || p->area < 1) return mabn_device_get(net->device, values, data, bytes);
    float *memory = mabn_xmalloc(bytes);
    mabn_status status = mabn_device_get(net->device, memory, data, bytes);
    /* A GPU's backward leaves the means in: its update takes them off on the way. */
    if (net->cuda && p->centralize && net->tensors[index].role == MABN_NET_GRADIENT)
        mabn_centralize_backward(memory, memory, p->out, p->in * p->area);
    if (!status)
        mabn_weights_to_file(values, memory, (size_t)p->out, (size_t)p->in, (size_t)p->area);
    free(memory);
    return status;
}

mabn_status mabn_net_tensor_set(struct mabn_net *net, int index, const void *values, size_t bytes)
{
    const struct parameter *p;
    MABN_TRY(check_size(net, index, bytes));
    char *data = tensor_data(net, index, &p);
    if (!p && state_entry(net, net->tensor_source[index]).constant) return MABN_OK;
    net->stale = true;
    if (!p || p->area < 1) return mabn_device_put(net->device, data, values, bytes);
    float *memory = mabn_xmalloc(bytes);
    mabn_weights_from_file(memory, values, (size_t)p->out, (size_t)p->in, (size_t)p->area);
    mabn_status status = mabn_device_put(net->device, data, memory, bytes);
    free(memory);
    return status;
}

static mabn_status copy_arena(struct mabn_net *dst, struct arena *to, const struct mabn_net *src,
                              const struct arena *from)
{
    if (dst->device == src->device)
        return dst->backend->copy(dst, to->base, from->base, from->bytes);
    char *host = mabn_xmalloc(from->bytes + 1);
    mabn_status status = mabn_device_get(src->device, host, from->base, from->bytes);
    if (!status) status = mabn_device_put(dst->device, to->base, host, from->bytes);
    free(host);
    return status;
}

mabn_status mabn_net_copy(struct mabn_net *dst, const struct mabn_net *src)
{
    bool same = dst->parameter_count == src->parameter_count && dst->values == src->values &&
                dst->state.bytes == src->state.bytes && dst->node_count == src->node_count;
    for (int i = 0; same && i < dst->parameter_count; i++)
        same = !strcmp(dst->parameters[i].name, src->parameters[i].name) &&
               dst->parameters[i].count == src->parameters[i].count;
    for (int i = 0; same && i < dst->node_count; i++)
        same = dst->nodes[i].norm.options.kind == src->nodes[i].norm.options.kind &&
               dst->nodes[i].state_bytes == src->nodes[i].state_bytes;
    if (!same) return mabn_fail(MABN_ERR_MISMATCH, "the two networks are not of the same model");
    dst->stale = true;
    MABN_TRY(copy_arena(dst, &dst->weights, src, &src->weights));
    return copy_arena(dst, &dst->state, src, &src->state);
}

/* A parameter as at the start, in memory's order. */
static void fill_parameter(float *w, const struct parameter *p, uint64_t seed,
                           enum mabn_net_init kind)
{
    int64_t count = (int64_t)p->count;
    uint64_t id = mabn_init_id(p->name);
    double limit;
    switch (p->fill) {
    case FILL_ZERO:
    case FILL_ONE:
        mabn_init_fill(w, count, p->fill == FILL_ONE ? 1.0f : 0.0f);
        break;
    case FILL_LINEAR:
        limit = 1 / sqrt(p->fan_in);
        mabn_init_uniform(w, count, -limit, limit, seed, id);
        break;
    case FILL_CONV:
        limit = sqrt(3 / p->fan_in);
        if (kind == MABN_NET_INIT_FAN_IN)
            mabn_init_uniform(w, count, -limit, limit, seed, id);
        else
            mabn_init_normal(w, count, 0, sqrt(2.0 / (double)(p->out * p->area)), seed, id);
        break;
    }
}

mabn_status mabn_net_reset_state(struct mabn_net *net)
{
    char *state = mabn_xcalloc(net->state.bytes + 1, 1);
    for (int i = 0; i < net->node_count; i++)
        if (net->nodes[i].kind == NODE_NORM)
            mabn_norm_state_reset(&net->nodes[i].norm, state + net->nodes[i].state_offset);
    mabn_status status = mabn_device_put(net->device, net->state.base, state, net->state.bytes);
    free(state);
    net->stale = true;
    return status;
}

static mabn_status initialize(struct mabn_net *net, uint64_t seed, enum mabn_net_init kind)
{
    size_t bytes = net->values * sizeof(float);
    float *values = mabn_xcalloc(net->values + 1, sizeof *values);
    for (int i = 0; i < net->parameter_count; i++)
        fill_parameter(values + net->parameters[i].offset, &net->parameters[i], seed, kind);
    mabn_status status = mabn_device_put(net->device, net->weights.base, values, bytes);
    free(values);
    if (status) return status;
    if (net->momentum.base) MABN_TRY(mabn_device_zero(net->device, net->momentum.base, bytes));
    return mabn_net_reset_state(net);
}

void mabn_net_initialize(struct mabn_net *net, uint64_t seed, enum mabn_net_init kind)
{
    mabn_status status = initialize(net, seed, kind);
    if (!status || net->status) return;
    net->status = status; /* the next call that can will report it */
    net->message = mabn_error_detach();
}

mabn_status mabn_net_finite(struct mabn_net *net, bool *finite)
{
    if (mabn_device_kind_of(net->device) == MABN_DEVICE_CPU) {
        *finite = mabn_all_finite((const float *)net->weights.base, (int64_t)net->values);
        return MABN_OK;
    }
    size_t bytes = net->values * sizeof(float);
    float *values = mabn_xmalloc(bytes + 1);
    mabn_status status = mabn_device_get(net->device, values, net->weights.base, bytes);
    *finite = !status && mabn_all_finite(values, (int64_t)net->values);
    free(values);
    return status;
}

/* ---- small questions ---- */

enum mabn_net_precision mabn_net_precision_of(const struct mabn_net *net)
{
    return net->options.precision;
}

int mabn_net_batch(const struct mabn_net *net)
{
    return net->options.batch;
}

int mabn_net_classes(const struct mabn_net *net)
{
    return (int)net->nodes[net->output].c;
}

struct mabn_shape mabn_net_input_shape(const struct mabn_net *net)
{
    const struct mabn_net_options *o = &net->options;
    return MABN_SHAPE(4, o->batch, o->height, o->width, o->channels);
}

float *mabn_net_parameters(struct mabn_net *net, size_t *count)
{
    *count = net->values;
    net->stale = true; /* the caller may write */
    return (float *)net->weights.base;
}

float *mabn_net_gradients(struct mabn_net *net, size_t *count)
{
    *count = net->values;
    return (float *)net->gradients.base;
}

void mabn_net_record(struct mabn_net *net, const int *channels, int count, bool reference)
{
    size_t wanted = (size_t)count, norms = 0;
    for (int i = 0; i < net->node_count; i++)
        norms += net->nodes[i].kind == NODE_NORM;
    free(net->record_channels);
    free(net->record_fitting);
    free(net->record_values);
    free(net->records);
    net->record_channels = mabn_xcalloc(wanted + 1, sizeof *net->record_channels);
    net->record_fitting = mabn_xcalloc(wanted + 1, sizeof *net->record_fitting);
    net->record_values = mabn_xcalloc(wanted + 1, sizeof *net->record_values);
    net->records = mabn_xcalloc(wanted * norms + 1, sizeof *net->records);
    for (int i = 0; i < count; i++)
        net->record_channels[i] = channels[i];
    net->record_channel_count = count;
    net->record_reference = reference;
    net->record_count = 0;
}

const struct mabn_net_record *mabn_net_records(const struct mabn_net *net, int *count)
{
    *count = net->record_count;
    return net->records;
}

struct mabn_net_memory mabn_net_memory_of(const struct mabn_net *net)
{
    size_t parameters = net->weights.bytes + net->gradients.bytes + net->momentum.bytes +
                        net->state.bytes + net->packed.bytes;
    return (struct mabn_net_memory){
        .activations = net->activations.bytes,
        .parameters = parameters,
        .scratch = net->weight_bytes + net->scratch_bytes + net->arena_bytes -
                   net->activations.bytes - parameters,
    };
}
