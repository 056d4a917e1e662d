/* Sums in an order of our own. MPI's all-reduce gives the same bits on all ranks, but which bits depends
 * on its algorithm, and it chooses that by size and number of ranks. So every rank gets its slice of all
 * ranks' parts (alltoall), adds them along the tree, and sends the sum to all (allgather). This moves
 * 2(R−1)/R of the data, as a ring does. For small sums every rank gets all parts and adds them. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "dist/internal.h"

enum {
    SMALL = 4096,    /* bytes of all parts: in one round */
    CHUNK = 1 << 24, /* bytes of a part sent at a time: counts are ints */
    GRAIN = 16,      /* slices are whole cache lines */
};

mabn_status mabn_shards_plan(struct mabn_comm *comm, int shards)
{
    if (shards < 1 || shards > MABN_MAX_SHARDS)
        return mabn_fail(MABN_ERR_ARG, "%d shards: expected 1 to %d", shards, MABN_MAX_SHARDS);
    if (shards % comm->ranks)
        return mabn_fail(MABN_ERR_ARG, "%d shards cannot be shared out evenly by %d ranks", shards,
                         comm->ranks);
    int each = shards / comm->ranks;
    comm->shards = shards;
    comm->local_shards = each;
    comm->all_parts = 0;
    comm->parts =
        (struct mabn_span *)mabn_xrealloc(comm->parts, (size_t)shards * sizeof *comm->parts);
    for (int r = 0; r < comm->ranks; r++) {
        struct mabn_span mine[MABN_TREE_MAX_PARTS];
        int n = mabn_tree_parts(mine, shards, r * each, each);
        memcpy(comm->parts + comm->all_parts, mine, (size_t)n * sizeof *mine);
        comm->parts_of[r] = n;
        comm->all_parts += n;
    }
    return MABN_OK;
}

static struct mabn_comm_sum *sum_of(struct mabn_comm_job *job)
{
    return (struct mabn_comm_sum *)((char *)job - offsetof(struct mabn_comm_sum, job));
}

static bool reserve(struct mabn_lane *lane, void **buffer, size_t *have, size_t need)
{
    if (need <= *have) return true;
    mabn_free(*buffer);
    *buffer = NULL;
    *have = 0;
    if (mabn_alloc(buffer, need)) {
        lane->allocation_failed = "out of memory for a sum over ranks";
        return false;
    }
    *have = need;
    return true;
}

/* The elements of the current chunk; where in it the slice of rank r starts. */
static size_t chunk_count(const struct mabn_comm_sum *sum, size_t width)
{
    size_t left = sum->count - sum->job.done;
    return left < CHUNK / width ? left : CHUNK / width;
}

static size_t slice_start(size_t n, int r, int ranks)
{
    size_t grains = (n + GRAIN - 1) / GRAIN;
    size_t start = grains * (size_t)r / (size_t)ranks * GRAIN;
    return start < n ? start : n;
}

static const char *part_at(const struct mabn_comm_sum *sum, int part, size_t element)
{
    return (const char *)sum->parts[part] + element * mabn_dist_type_bytes(sum->type);
}

/* received: all parts of `n` elements, one after the other. */
static void *add_up(const struct mabn_comm *comm, enum mabn_dist_type type, void *received,
                    size_t n)
{
    void *buffers[MABN_MAX_SHARDS];
    for (int i = 0; i < comm->all_parts; i++)
        buffers[i] = (char *)received + (size_t)i * n * mabn_dist_type_bytes(type);
    mabn_tree_sum(type, buffers, comm->parts, comm->shards, n);
    return received;
}

/* Every rank gets all parts. */
static int start_small(struct mabn_comm *comm, struct mabn_comm_sum *sum, size_t width)
{
    struct mabn_lane *lane = &comm->lanes[sum->job.lane];
    size_t bytes = sum->count * width;
    int mine = comm->parts_of[comm->rank], offset = 0;
    if (!reserve(lane, &lane->send, &lane->send_bytes, (size_t)mine * bytes) ||
        !reserve(lane, &lane->receive, &lane->receive_bytes, (size_t)comm->all_parts * bytes))
        return -1;
    for (int i = 0; i < mine; i++)
        memcpy((char *)lane->send + (size_t)i * bytes, sum->parts[i], bytes);
    for (int r = 0; r < comm->ranks; r++) {
        lane->counts[r] = comm->parts_of[r] * (int)bytes;
        lane->offsets[r] = offset;
        offset += lane->counts[r];
    }
    return comm->mpi->allgather(sum->job.lane, lane->send, lane->counts[comm->rank], lane->receive,
                                lane->counts, lane->offsets)
               ? -1
               : 1;
}

/* Each rank gets its slice of each of my parts. A single part is sent without a copy. */
static const void *pack(struct mabn_comm *comm, const struct mabn_comm_sum *sum, size_t n,
                        size_t width)
{
    struct mabn_lane *lane = &comm->lanes[sum->job.lane];
    int mine = comm->parts_of[comm->rank], offset = 0;
    for (int r = 0; r < comm->ranks; r++) {
        size_t start = slice_start(n, r, comm->ranks);
        size_t bytes = (slice_start(n, r + 1, comm->ranks) - start) * width;
        lane->send_counts[r] = mine * (int)bytes;
        lane->send_offsets[r] = offset;
        for (int i = 0; i < mine && mine > 1; i++)
            memcpy((char *)lane->send + offset + (size_t)i * bytes,
                   part_at(sum, i, sum->job.done + start), bytes);
        offset += lane->send_counts[r];
    }
    return mine > 1 ? lane->send : part_at(sum, 0, sum->job.done);
}

static int start_slices(struct mabn_comm *comm, struct mabn_comm_sum *sum, size_t width)
{
    struct mabn_lane *lane = &comm->lanes[sum->job.lane];
    size_t n = chunk_count(sum, width);
    size_t slice =
        (slice_start(n, comm->rank + 1, comm->ranks) - slice_start(n, comm->rank, comm->ranks)) *
        width;
    int offset = 0, mine = comm->parts_of[comm->rank];
    if (!reserve(lane, &lane->send, &lane->send_bytes, mine > 1 ? (size_t)mine * n * width : 0) ||
        !reserve(lane, &lane->receive, &lane->receive_bytes, (size_t)comm->all_parts * slice))
        return -1;
    const void *packed = pack(comm, sum, n, width);
    for (int r = 0; r < comm->ranks; r++) {
        lane->counts[r] = comm->parts_of[r] * (int)slice;
        lane->offsets[r] = offset;
        offset += lane->counts[r];
    }
    return comm->mpi->alltoall(sum->job.lane, packed, lane->send_counts, lane->send_offsets,
                               lane->receive, lane->counts, lane->offsets)
               ? -1
               : 1;
}

static int start_hand_round(struct mabn_comm *comm, struct mabn_comm_sum *sum, size_t width)
{
    struct mabn_lane *lane = &comm->lanes[sum->job.lane];
    size_t n = chunk_count(sum, width);
    for (int r = 0; r < comm->ranks; r++) {
        size_t start = slice_start(n, r, comm->ranks);
        lane->offsets[r] = (int)(start * width);
        lane->counts[r] = (int)((slice_start(n, r + 1, comm->ranks) - start) * width);
    }
    size_t mine = (size_t)lane->counts[comm->rank] / width;
    const void *added = add_up(comm, sum->type, lane->receive, mine);
    return comm->mpi->allgather(sum->job.lane, added, lane->counts[comm->rank],
                                (char *)sum->result + sum->job.done * width, lane->counts,
                                lane->offsets)
               ? -1
               : 1;
}

int mabn_job_sum(struct mabn_comm *comm, struct mabn_comm_job *job)
{
    struct mabn_comm_sum *sum = sum_of(job);
    size_t width = mabn_dist_type_bytes(sum->type);
    bool small = sum->count <= SMALL / width / (size_t)comm->all_parts;
    int stage = job->stage++;
    if (small && stage) {
        memcpy(sum->result, add_up(comm, sum->type, comm->lanes[job->lane].receive, sum->count),
               sum->count * width);
        return 0;
    }
    if (small) return start_small(comm, sum, width);
    if (stage % 2) return start_hand_round(comm, sum, width);
    if (stage) job->done += chunk_count(sum, width);
    return job->done < sum->count ? start_slices(comm, sum, width) : 0;
}
