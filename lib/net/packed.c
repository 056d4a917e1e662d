/* A store's packed weights: found, placed as one block, and released. */
#include "net/packed.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct packed_block {
    void *base;
    size_t bytes;
    int users;
};

static size_t round_up(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static bool same(const struct packed_source *a, const struct packed_source *b)
{
    return a->weight == b->weight && a->bias == b->bias && a->norm_weight == b->norm_weight &&
           a->norm_state == b->norm_state && a->folded == b->folded &&
           a->centralized == b->centralized;
}

struct packed *mabn_packed_get(struct mabn_params *params, const struct packed_source *source,
                               struct mabn_conv *op, int64_t out)
{
    for (int i = 0; i < params->packed_count; i++) {
        struct packed *p = params->packed[i];
        if (!same(&p->source, source) || !mabn_conv_packs_alike(p->op, op)) continue;
        p->users++;
        return p;
    }
    struct packed *p = mabn_xcalloc(1, sizeof *p);
    *p = (struct packed){.source = *source,
                         .op = mabn_conv_hold(op),
                         .params = params,
                         .weight_bytes = round_up(mabn_conv_packed_bytes(op)),
                         .bias_bytes = round_up((size_t)out * sizeof(float)),
                         .users = 1};
    MABN_GROW(params->packed, params->packed_count, params->packed_capacity);
    params->packed[params->packed_count++] = p;
    return p;
}

mabn_status mabn_packed_place(struct mabn_params *params)
{
    struct packed_block *block = mabn_xcalloc(1, sizeof *block);
    for (int i = 0; i < params->packed_count; i++)
        if (!params->packed[i]->weights)
            block->bytes += params->packed[i]->weight_bytes + params->packed[i]->bias_bytes;
    const mabn_status status =
        block->bytes ? mabn_device_alloc(params->device, &block->base, block->bytes) : MABN_OK;
    if (status || !block->bytes) {
        free(block);
        return status;
    }
    char *at = block->base;
    for (int i = 0; i < params->packed_count; i++) {
        struct packed *p = params->packed[i];
        if (p->weights) continue;
        p->block = block;
        p->weights = at;
        p->bias = (float *)(at + p->weight_bytes);
        at += p->weight_bytes + p->bias_bytes;
        block->users++;
    }
    return MABN_OK;
}

void mabn_packed_release(struct packed *p)
{
    if (!p || --p->users) return;
    struct mabn_params *params = p->params;
    int i = 0;
    while (params->packed[i] != p)
        i++;
    memmove(&params->packed[i], &params->packed[i + 1],
            (size_t)(--params->packed_count - i) * sizeof *params->packed);
    if (p->block && !--p->block->users) {
        mabn_device_release(params->device, p->block->base, p->block->bytes);
        free(p->block);
    }
    mabn_conv_free(p->op);
    free(p);
}

size_t mabn_packed_bytes(const struct mabn_params *params)
{
    size_t bytes = 0;
    for (int i = 0; i < params->packed_count; i++)
        bytes += params->packed[i]->weight_bytes + params->packed[i]->bias_bytes;
    return bytes;
}
