/* Groups have no communicators of their own: every group has its place in one sum over all ranks, and
 * adds zeros to the others' places. That moves more bytes than need be, but a layer's sums are few. */
#include "norm/sync.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct ranks {
    struct mabn_norm_sync sync;
    struct mabn_comm *comm;
    struct mabn_device *device;
    struct mabn_nccl *nccl;
    double *places; /* (groups)(count) */
    size_t room;
};

static void reserve(struct ranks *r, size_t all)
{
    if (all <= r->room) return;
    free(r->places);
    r->places = mabn_xmalloc(all * sizeof *r->places);
    r->room = all;
}

static mabn_status add_over_group(void *context, double *values, size_t count)
{
    struct ranks *r = context;
    const size_t all = count * (size_t)r->sync.groups;
    if (r->sync.groups == 1) return mabn_comm_sum(r->comm, MABN_DIST_F64, values, count);
    reserve(r, all);
    double *place = r->places + (size_t)r->sync.mine * count;
    memset(r->places, 0, all * sizeof *r->places);
    memcpy(place, values, count * sizeof *values);
    MABN_TRY(mabn_comm_sum(r->comm, MABN_DIST_F64, r->places, all));
    memcpy(values, place, count * sizeof *values);
    return MABN_OK;
}

static mabn_status queue_sum(void *context, double *places, size_t count)
{
    struct ranks *r = context;
    const size_t all = count * (size_t)r->sync.groups, bytes = all * sizeof *places;
    if (r->nccl)
        return mabn_nccl_sum(r->nccl, MABN_DIST_F64, places, all, mabn_device_queue(r->device));
    reserve(r, all);
    MABN_TRY(mabn_device_get(r->device, r->places, places, bytes));
    MABN_TRY(mabn_comm_sum(r->comm, MABN_DIST_F64, r->places, all));
    return mabn_device_put(r->device, places, r->places, bytes);
}

mabn_status mabn_norm_sync_new(struct mabn_norm_sync **sync, struct mabn_comm *comm, int group,
                               struct mabn_device *device, struct mabn_nccl *nccl)
{
    const int ranks = mabn_comm_ranks(comm), size = group ? group : ranks;
    *sync = NULL;
    if (size < 1 || ranks % size)
        return mabn_fail(MABN_ERR_ARG, "%d ranks cannot be cut into groups of %d", ranks, size);
    if (mabn_comm_local_shards(comm) > 1)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "SyncBN needs a rank for each shard: there are %d shards on %d ranks",
                         mabn_comm_shards(comm), ranks);
    if (size == 1) return MABN_OK;
    struct ranks *r = mabn_xcalloc(1, sizeof *r);
    r->sync = (struct mabn_norm_sync){.all_reduce = add_over_group,
                                      .queue = queue_sum,
                                      .context = r,
                                      .ranks = size,
                                      .groups = ranks / size,
                                      .mine = mabn_comm_rank(comm) / size};
    r->comm = comm;
    r->device = device;
    r->nccl = nccl;
    *sync = &r->sync;
    return MABN_OK;
}

void mabn_norm_sync_free(struct mabn_norm_sync *sync)
{
    if (!sync) return;
    struct ranks *r = sync->context;
    free(r->places);
    free(r);
}
