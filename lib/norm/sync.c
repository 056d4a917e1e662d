/* See sync.h. Groups have no communicators of their own. Every group has its place in one sum over all
 * shards, and adds zeros at the others' places. That moves more bytes than necessary, but a layer's sums
 * are few. */
#include "norm/sync.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct share {
    struct shares *all;
    int i, group; /* number among this rank's shards; number of its group */
    struct mabn_device *device;
};

struct shares {
    struct mabn_norm_sync *sync; /* (local) */
    struct share *shares;        /* (local) */
    struct mabn_comm *comm;
    struct mabn_nccl *nccl;
    struct mabn_lockstep *lockstep;
    int groups, local;
    double *places; /* (groups)(count): the sums over all shards */
    double *rows;   /* (local)(groups)(count): what each shard in step adds */
    size_t places_room, rows_room;
    size_t count; /* values of the sum under way, of all groups */
};

static double *reserve(double *array, size_t *room, size_t count)
{
    if (count <= *room) return array;
    free(array);
    *room = count;
    return mabn_xmalloc(count * sizeof *array);
}

/* One shard: its values at its group's place. */
static mabn_status add_alone(struct shares *s, int group, double *values, size_t count)
{
    const size_t all = count * (size_t)s->groups;
    if (s->groups == 1) return mabn_comm_sum(s->comm, MABN_DIST_F64, values, count);
    s->places = reserve(s->places, &s->places_room, all);
    double *place = s->places + (size_t)group * count;
    memset(s->places, 0, all * sizeof *s->places);
    memcpy(place, values, count * sizeof *values);
    MABN_TRY(mabn_comm_sum(s->comm, MABN_DIST_F64, s->places, all));
    memcpy(values, place, count * sizeof *values);
    return MABN_OK;
}

/* Called when the rows of all shards of this rank are complete. By then all have read the result of the
 * previous sum. Afterwards the rows are free: the first shard that continues writes its next one. */
static mabn_status add_rows(void *context)
{
    struct shares *s = context;
    MABN_TRY(mabn_comm_sum_shards(s->comm, MABN_DIST_F64, s->rows, s->count));
    s->places = reserve(s->places, &s->places_room, s->count);
    memcpy(s->places, s->rows, s->count * sizeof *s->places);
    return MABN_OK;
}

/* The row of shard i in step, for sums of `all` values, those of all groups. */
static double *row_of(struct shares *s, int i, size_t all)
{
    if (i == 0) {
        s->rows = reserve(s->rows, &s->rows_room, (size_t)s->local * all);
        s->count = all;
    }
    if (s->count != all) MABN_BUG("shards sum %zu and %zu values", s->count, all);
    return s->rows + (size_t)i * all;
}

static mabn_status add_over_group(void *context, double *values, size_t count)
{
    const struct share *mine = context;
    struct shares *s = mine->all;
    const size_t all = count * (size_t)s->groups, at = (size_t)mine->group * count;
    if (s->local == 1) return add_alone(s, mine->group, values, count);
    double *row = row_of(s, mine->i, all);
    memset(row, 0, all * sizeof *row);
    memcpy(row + at, values, count * sizeof *values);
    MABN_TRY(mabn_lockstep_meet(s->lockstep, mine->i, add_rows, s));
    memcpy(values, s->places + at, count * sizeof *values);
    return MABN_OK;
}

/* Add up on the host, where the shards of this rank meet. */
static mabn_status add_here(const struct share *mine, double *places, size_t all)
{
    struct shares *s = mine->all;
    const size_t bytes = all * sizeof *places;
    if (s->local == 1) {
        s->places = reserve(s->places, &s->places_room, all);
        MABN_TRY(mabn_device_get(mine->device, s->places, places, bytes));
        MABN_TRY(mabn_comm_sum(s->comm, MABN_DIST_F64, s->places, all));
    } else {
        MABN_TRY(mabn_device_get(mine->device, row_of(s, mine->i, all), places, bytes));
        MABN_TRY(mabn_lockstep_meet(s->lockstep, mine->i, add_rows, s));
    }
    return mabn_device_put(mine->device, places, s->places, bytes);
}

static mabn_status queue_sum(void *context, double *places, size_t count)
{
    const struct share *mine = context;
    struct shares *s = mine->all;
    const size_t all = count * (size_t)s->groups;
    if (!s->sync->queues) return add_here(mine, places, all);
    return mabn_nccl_sum(s->nccl, MABN_DIST_F64, places, all, mabn_device_queue(mine->device));
}

mabn_status mabn_norm_sync_steps(bool *steps, const struct mabn_comm *comm, int group)
{
    const int shards = mabn_comm_shards(comm), size = group ? group : shards;
    *steps = false;
    if (size < 1 || shards % size)
        return mabn_fail(MABN_ERR_ARG, "%d shards cannot be cut into groups of %d", shards, size);
    *steps = size > 1 && mabn_comm_local_shards(comm) > 1;
    return MABN_OK;
}

mabn_status mabn_norm_sync_new(struct mabn_norm_sync **sync, struct mabn_comm *comm, int group,
                               struct mabn_device *const *devices, struct mabn_nccl *nccl,
                               struct mabn_lockstep *lockstep)
{
    const int shards = mabn_comm_shards(comm), size = group ? group : shards;
    bool steps;
    *sync = NULL;
    MABN_TRY(mabn_norm_sync_steps(&steps, comm, group));
    if (size == 1) return MABN_OK;
    if (steps && !lockstep) MABN_BUG("shards of a rank in one statistic, but not in step");
    struct shares *s = mabn_xcalloc(1, sizeof *s);
    s->comm = comm;
    s->nccl = nccl;
    s->lockstep = lockstep;
    s->groups = shards / size;
    s->local = mabn_comm_local_shards(comm);
    s->sync = mabn_xcalloc((size_t)s->local, sizeof *s->sync);
    s->shares = mabn_xcalloc((size_t)s->local, sizeof *s->shares);
    for (int i = 0; i < s->local; i++) {
        const int mine = (mabn_comm_first_shard(comm) + i) / size;
        s->shares[i] = (struct share){s, i, mine, devices ? devices[i] : NULL};
        s->sync[i] = (struct mabn_norm_sync){.all_reduce = add_over_group,
                                             .queue = queue_sum,
                                             .context = &s->shares[i],
                                             .groups = s->groups,
                                             .mine = mine,
                                             .queues = nccl && s->local == 1};
    }
    *sync = s->sync;
    return MABN_OK;
}

void mabn_norm_sync_free(struct mabn_norm_sync *sync)
{
    if (!sync) return;
    struct shares *s = ((const struct share *)sync->context)->all;
    free(s->rows);
    free(s->places);
    free(s->shares);
    free(s->sync);
    free(s);
}
