/* What ranks do together: sums over shards, and the small things over ranks. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "dist/internal.h"

/* ---- sums ---- */

static mabn_status start_sum(struct mabn_comm *comm, struct mabn_comm_sum *sum, int lane)
{
    sum->job = (struct mabn_comm_job){.advance = mabn_job_sum, .lane = lane};
    if (comm->mpi) {
        mabn_worker_post(comm, &sum->job);
    } else {
        size_t bytes = sum->count * mabn_dist_type_bytes(sum->type);
        if (sum->result != sum->parts[0]) memcpy(sum->result, sum->parts[0], bytes);
        sum->job.finished = true;
    }
    return MABN_OK;
}

mabn_status mabn_comm_sum_start(struct mabn_comm *comm, struct mabn_comm_sum *sum)
{
    return start_sum(comm, sum, LANE_BEHIND);
}

bool mabn_comm_sum_test(struct mabn_comm *comm, struct mabn_comm_sum *sum)
{
    if (!comm->mpi) return true;
    pthread_mutex_lock(&comm->lock);
    bool finished = sum->job.finished;
    pthread_mutex_unlock(&comm->lock);
    return finished;
}

mabn_status mabn_comm_sum_wait(struct mabn_comm *comm, struct mabn_comm_sum *sum)
{
    return comm->mpi ? mabn_worker_wait(comm, &sum->job) : MABN_OK;
}

mabn_status mabn_comm_sum(struct mabn_comm *comm, enum mabn_dist_type type, void *values,
                          size_t count)
{
    struct mabn_comm_sum sum = {.type = type, .count = count, .result = values};
    for (int i = 0; i < comm->parts_of[comm->rank]; i++)
        sum.parts[i] = (char *)values + (size_t)i * count * mabn_dist_type_bytes(type);
    MABN_TRY(start_sum(comm, &sum, LANE_NOW));
    return mabn_comm_sum_wait(comm, &sum);
}

mabn_status mabn_comm_sum_shards(struct mabn_comm *comm, enum mabn_dist_type type, void *values,
                                 size_t count)
{
    const size_t row = count * mabn_dist_type_bytes(type);
    const int first = comm->rank * comm->local_shards;
    char *top = (char *)values;
    for (int i = 0; i < comm->local_shards; i++, top += row) {
        char *next = (char *)values + (size_t)i * row;
        if (top != next) memcpy(top, next, row);
        for (int m = mabn_tree_merges(comm->shards, first, first + i); m > 0; m--, top -= row)
            mabn_tree_add(type, top - row, top, count);
    }
    return mabn_comm_sum(comm, type, values, count);
}

/* ---- over ranks ---- */

mabn_status mabn_comm_all_gather(struct mabn_comm *comm, const void *mine, size_t bytes, void *all)
{
    struct mabn_comm_job job = {.advance = mabn_job_allgather,
                                .send = mine,
                                .receive = all,
                                .bytes = (int)bytes,
                                .lane = LANE_NOW};
    if (bytes > (size_t)(INT_MAX / comm->ranks))
        return mabn_fail(MABN_ERR_LIMIT, "%zu bytes are too many to gather at a time", bytes);
    if (!comm->mpi) {
        memcpy(all, mine, bytes);
        return MABN_OK;
    }
    mabn_worker_post(comm, &job);
    return mabn_worker_wait(comm, &job);
}

mabn_status mabn_comm_barrier(struct mabn_comm *comm)
{
    if (!comm->mpi) return MABN_OK;
    char mine = 0, *all = (char *)mabn_xmalloc((size_t)comm->ranks);
    mabn_status status = mabn_comm_all_gather(comm, &mine, 1, all);
    free(all);
    return status;
}

enum { BROADCAST_AT_ONCE = 1 << 26, GATHER_AT_ONCE = 1 << 24 };

mabn_status mabn_comm_broadcast(struct mabn_comm *comm, void *bytes, size_t n)
{
    for (size_t done = 0; comm->mpi && done < n;) {
        size_t now = n - done < BROADCAST_AT_ONCE ? n - done : BROADCAST_AT_ONCE;
        struct mabn_comm_job job = {.advance = mabn_job_broadcast,
                                    .receive = (char *)bytes + done,
                                    .bytes = (int)now,
                                    .lane = LANE_NOW};
        mabn_worker_post(comm, &job);
        MABN_TRY(mabn_worker_wait(comm, &job));
        done += now;
    }
    return MABN_OK;
}

static int64_t fold_two(enum mabn_comm_fold fold, int64_t a, int64_t b)
{
    switch (fold) {
    case MABN_COMM_MIN:
        return a < b ? a : b;
    case MABN_COMM_MAX:
        return a > b ? a : b;
    case MABN_COMM_OR:
        return a | b;
    }
    MABN_BUG("unknown fold %d", (int)fold);
}

mabn_status mabn_comm_fold(struct mabn_comm *comm, enum mabn_comm_fold fold, int64_t *values,
                           int count)
{
    if (!comm->mpi) return MABN_OK;
    size_t bytes = (size_t)count * sizeof *values;
    int64_t *all = (int64_t *)mabn_xcalloc((size_t)comm->ranks * (size_t)count, sizeof *all);
    mabn_status status = mabn_comm_all_gather(comm, values, bytes, all);
    memcpy(values, all, bytes);
    for (int r = 1; r < comm->ranks && !status; r++)
        for (int i = 0; i < count; i++)
            values[i] = fold_two(fold, values[i], all[(size_t)r * (size_t)count + (size_t)i]);
    free(all);
    return status;
}

/* One round: bytes [done, done + most) of every rank, into their places. */
static mabn_status gather_round(struct mabn_comm *comm, const char *bytes, size_t n, size_t done,
                                size_t most, char *all, const uint64_t *sizes)
{
    struct mabn_lane *lane = &comm->lanes[LANE_NOW];
    int total = 0;
    void *staging = NULL;
    for (int r = 0; r < comm->ranks; r++) {
        size_t left = sizes[r] > done ? (size_t)sizes[r] - done : 0;
        lane->counts[r] = (int)(left < most ? left : most);
        lane->offsets[r] = total;
        total += lane->counts[r];
    }
    if (comm->rank == 0) MABN_TRY(mabn_alloc(&staging, (size_t)total));
    struct mabn_comm_job job = {.advance = mabn_job_gather,
                                .send = bytes + (done < n ? done : n),
                                .receive = staging,
                                .bytes = lane->counts[comm->rank],
                                .lane = LANE_NOW};
    mabn_worker_post(comm, &job);
    mabn_status status = mabn_worker_wait(comm, &job);
    size_t start = 0;
    for (int r = 0; r < comm->ranks && comm->rank == 0 && !status; r++) {
        if (lane->counts[r])
            memcpy(all + start + done, (char *)staging + lane->offsets[r], (size_t)lane->counts[r]);
        start += (size_t)sizes[r];
    }
    mabn_free(staging);
    return status;
}

mabn_status mabn_comm_gather(struct mabn_comm *comm, const void *bytes, size_t n, void **all,
                             size_t *sizes)
{
    size_t total = 0, largest = 0, most = INT_MAX / 2 / (size_t)comm->ranks;
    uint64_t mine = n, *every = (uint64_t *)mabn_xcalloc((size_t)comm->ranks, sizeof *every);
    *all = NULL;
    mabn_status status = mabn_comm_all_gather(comm, &mine, sizeof mine, every);
    for (int r = 0; r < comm->ranks && !status; r++) {
        total += (size_t)every[r];
        if (every[r] > largest) largest = (size_t)every[r];
        if (comm->rank == 0) sizes[r] = (size_t)every[r];
    }
    if (most > GATHER_AT_ONCE) most = GATHER_AT_ONCE;
    if (!status && comm->rank == 0) status = mabn_alloc(all, total);
    if (!comm->mpi && !status && n) memcpy(*all, bytes, n);
    for (size_t done = 0; comm->mpi && done < largest && !status; done += most)
        status = gather_round(comm, (const char *)bytes, n, done, most, (char *)*all, every);
    free(every);
    if (!status) return MABN_OK;
    mabn_free(*all);
    *all = NULL;
    return status;
}

mabn_status mabn_comm_check_same(struct mabn_comm *comm, const char *what, const void *bytes,
                                 size_t n)
{
    uint64_t mine = XXH3_64bits(bytes, n);
    uint64_t *all = (uint64_t *)mabn_xcalloc((size_t)comm->ranks, sizeof *all);
    mabn_status status = mabn_comm_all_gather(comm, &mine, sizeof mine, all);
    for (int r = 1; r < comm->ranks && !status; r++)
        if (all[r] != all[0])
            status = mabn_fail(MABN_ERR_MISMATCH,
                               "%s: rank %d on %s has others than rank 0 on %s (checksums %016llx, "
                               "%016llx)",
                               what, r, comm->peers[r].host, comm->peers[0].host,
                               (unsigned long long)all[r], (unsigned long long)all[0]);
    free(all);
    return status;
}
