#include "train/shards.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* In floats: summing fewer at a time would cost more than overlapping gains. */
enum { SMALLEST_BUCKET = 1 << 14 };

#define STATE_PREFIX "state/shards/"

void mabn_shards_init(struct mabn_shards *s, struct mabn_comm *comm)
{
    *s = (struct mabn_shards){.comm = comm, .count = 1, .local = 1, .ranks = 1, .in_store = -1};
    if (!comm) return;
    s->count = mabn_comm_shards(comm);
    s->first = mabn_comm_first_shard(comm);
    s->local = mabn_comm_local_shards(comm);
    s->rank = mabn_comm_rank(comm);
    s->ranks = mabn_comm_ranks(comm);
}

void mabn_shards_release(struct mabn_shards *s)
{
    for (int i = 0; i < MABN_TREE_MAX_PARTS && !s->lockstep; i++)
        mabn_free(s->parts[i]);
    for (int i = 0; i + 1 < s->local && s->seats; i++) {
        mabn_params_free(s->seats[i].params);
        mabn_device_free(s->seats[i].device);
    }
    free(s->seats);
    mabn_lockstep_free(s->lockstep);
    mabn_free(s->states);
    free(s->sums);
    mabn_free(s->staged_all);
    *s = (struct mabn_shards){.count = 0};
}

static char *state_of(const struct mabn_shards *s, int i)
{
    return s->states + (size_t)i * s->state_bytes;
}

/* ---- in step ---- */

struct opening {
    struct mabn_shards *shards;
    const struct mabn_device *device;
    struct mabn_params *params;
    mabn_lockstep_work make;
    void *context;
};

static bool has_seat(const struct mabn_shards *s, int i)
{
    return s->lockstep && i + 1 < s->local;
}

static mabn_status open_seat(void *context, int i)
{
    const struct opening *o = (const struct opening *)context;
    if (!has_seat(o->shards, i)) return MABN_OK;
    return mabn_device_open_beside(&o->shards->seats[i].device, o->device);
}

mabn_status mabn_shards_step(struct mabn_shards *s, struct mabn_device *device)
{
    struct opening o = {.shards = s, .device = device};
    s->nccl = NULL;
    MABN_TRY(mabn_lockstep_new(&s->lockstep, s->local));
    s->seats = (struct mabn_shard_seat *)mabn_xcalloc((size_t)s->local, sizeof *s->seats);
    return mabn_lockstep_run(s->lockstep, open_seat, &o);
}

static mabn_status furnish_seat(void *context, int i)
{
    const struct opening *o = (const struct opening *)context;
    if (!has_seat(o->shards, i)) return MABN_OK;
    struct mabn_shard_seat *seat = &o->shards->seats[i];
    MABN_TRY(mabn_params_share(&seat->params, o->params, seat->device));
    return o->make(o->context, i);
}

mabn_status mabn_shards_seat(struct mabn_shards *s, struct mabn_params *params,
                             mabn_lockstep_work make, void *context)
{
    struct opening o = {.shards = s, .params = params, .make = make, .context = context};
    return s->lockstep ? mabn_lockstep_run(s->lockstep, furnish_seat, &o) : MABN_OK;
}

const struct mabn_shard_seat *mabn_shards_seat_of(const struct mabn_shards *s, int i)
{
    return has_seat(s, i) ? &s->seats[i] : NULL;
}

static bool on_gpu(const struct mabn_shards *s)
{
    return mabn_device_kind_of(mabn_params_device(s->params)) != MABN_DEVICE_CPU;
}

/* Allocate room for partial sums: one fewer than the most that exist at a time, because the newest stays
 * in the store. */
static mabn_status get_parts(struct mabn_shards *s)
{
    const int depth = mabn_tree_depth(s->count, s->first, s->local);
    s->gradients = mabn_params_gradients(s->params, &s->floats);
    if (s->nccl) return MABN_OK;
    if (on_gpu(s)) {
        const size_t before = s->lockstep ? (size_t)(s->local - 1) * s->floats : 0;
        void *staged;
        MABN_TRY(mabn_alloc(&staged, (before + s->floats) * sizeof(float)));
        s->staged_all = (float *)staged;
        s->gradients = s->staged = s->staged_all + before;
    }
    s->sums = (struct mabn_comm_sum *)mabn_xcalloc(MABN_SHARDS_BUCKETS + 1, sizeof *s->sums);
    if (s->lockstep) return MABN_OK; /* they are in their own stores */
    for (int i = 0; i + 1 < depth; i++) {
        void *part;
        MABN_TRY(mabn_alloc(&part, s->floats * sizeof(float)));
        s->parts[i] = (float *)part;
    }
    return MABN_OK;
}

mabn_status mabn_shards_start(struct mabn_shards *s, struct mabn_params *params)
{
    void *states;
    s->params = params;
    s->state_bytes = mabn_params_state_bytes(params);
    if (s->count == 1) return MABN_OK;
    MABN_TRY(mabn_alloc(&states, (size_t)s->local * s->state_bytes));
    s->states = (char *)states;
    for (int i = 0; i < s->local; i++)
        MABN_TRY(mabn_params_get_state(params, state_of(s, i)));
    return get_parts(s);
}

/* ---- a step ---- */

static mabn_status enter(struct mabn_shards *s, int i)
{
    if (i == 0) s->sent = s->floats;
    if (s->count == 1 || s->in_store == i) return MABN_OK;
    return mabn_params_set_state(has_seat(s, i) ? s->seats[i].params : s->params, state_of(s, i));
}

/* A shard that is alone in the store leaves its state there until it is needed elsewhere. */
static mabn_status take_state(struct mabn_shards *s)
{
    const int i = s->in_store;
    s->in_store = -1;
    return i < 0 ? MABN_OK : mabn_params_get_state(s->params, state_of(s, i));
}

bool mabn_shards_accumulates(const struct mabn_shards *s)
{
    return s->nccl != NULL;
}

/* Add gradients [from, to) of the shard in the store, and of as many partial sums as the tree says,
 * into the store; returns how many partial sums are left. */
static int merge_gradients(struct mabn_shards *s, int i, size_t from, size_t to)
{
    int depth = s->depth;
    for (int m = mabn_tree_merges(s->count, s->first, s->first + i); m > 0; m--)
        mabn_tree_add(MABN_DIST_F32, s->gradients + from, s->parts[--depth] + from, to - from);
    return depth;
}

/* The gradients of shard i, in step. On a GPU: the copy on the host, made when the shard was done. */
static float *seat_gradients(const struct mabn_shards *s, int i)
{
    size_t n;
    return s->staged ? s->staged_all + (size_t)i * s->floats
                     : mabn_params_gradients(s->seats[i].params, &n);
}

/* The same for shards in step: all shards at once, each with its own store. */
static int merge_seats(struct mabn_shards *s, size_t from, size_t to)
{
    int depth = 0;
    for (int i = 0; i + 1 < s->local; i++) {
        float *top = seat_gradients(s, i);
        for (int m = mabn_tree_merges(s->count, s->first, s->first + i); m > 0; m--)
            mabn_tree_add(MABN_DIST_F32, top + from, s->parts[--depth] + from, to - from);
        s->parts[depth++] = top;
    }
    s->depth = depth;
    return merge_gradients(s, s->local - 1, from, to);
}

/* Copy the gradients from a GPU to the host, or back. */
static mabn_status move_gradients(struct mabn_shards *s, bool back)
{
    struct mabn_device *device = mabn_params_device(s->params);
    size_t n;
    float *there = mabn_params_gradients(s->params, &n);
    return back ? mabn_device_put(device, there, s->staged, n * sizeof(float))
                : mabn_device_get(device, s->staged, there, n * sizeof(float));
}

static mabn_status leave_seat(const struct mabn_shards *s, int i)
{
    const struct mabn_shard_seat *seat = &s->seats[i];
    size_t n;
    MABN_TRY(mabn_params_get_state(seat->params, state_of(s, i)));
    if (!s->staged) return MABN_OK;
    const float *there = mabn_params_gradients(seat->params, &n);
    return mabn_device_get(seat->device, seat_gradients(s, i), there, n * sizeof *there);
}

static mabn_status leave(struct mabn_shards *s, int i)
{
    if (s->count == 1) return MABN_OK;
    if (has_seat(s, i)) return leave_seat(s, i);
    s->in_store = i;
    if (s->local > 1) MABN_TRY(take_state(s));
    if (s->nccl) return MABN_OK;
    if (s->staged) MABN_TRY(move_gradients(s, false));
    if (s->lockstep || i + 1 == s->local) return MABN_OK;
    s->depth = merge_gradients(s, i, 0, s->floats);
    memcpy(s->parts[s->depth++], s->gradients, s->floats * sizeof(float));
    return MABN_OK;
}

struct passing {
    struct mabn_shards *shards;
    mabn_lockstep_work pass;
    void *context;
};

static mabn_status go_through(void *context, int i)
{
    const struct passing *p = (const struct passing *)context;
    MABN_TRY(enter(p->shards, i));
    MABN_TRY(p->pass(p->context, i));
    return leave(p->shards, i);
}

mabn_status mabn_shards_run(struct mabn_shards *s, mabn_lockstep_work pass, void *context)
{
    struct passing p = {s, pass, context};
    if (s->lockstep) MABN_TRY(mabn_device_wait(mabn_params_device(s->params))); /* the update */
    if (s->lockstep) return mabn_lockstep_run(s->lockstep, go_through, &p);
    for (int i = 0; i < s->local; i++)
        MABN_TRY(go_through(&p, i));
    return MABN_OK;
}

/* Queue a sum by NCCL after the kernels that make these gradients, in parallel with later kernels. */
static mabn_status queue_sum(struct mabn_shards *s, size_t from)
{
    void *queue;
    const size_t count = s->sent - from;
    s->sent = from;
    MABN_TRY(mabn_device_side_begin(mabn_params_device(s->params), &queue));
    return mabn_nccl_sum(s->nccl, MABN_DIST_F32, s->gradients + from, count, queue);
}

/* Queue the sum of all remaining gradients. The device's later work waits for all sums. */
static mabn_status queue_last_sum(struct mabn_shards *s)
{
    if (s->sent) MABN_TRY(queue_sum(s, 0));
    return mabn_device_side_end(mabn_params_device(s->params));
}

/* Start one more sum, of everything from `from` on that is not being summed yet. */
static mabn_status send(struct mabn_shards *s, size_t from)
{
    if (s->nccl) return queue_sum(s, from);
    struct mabn_comm_sum *sum = &s->sums[s->n_sums++];
    const int depth = s->lockstep ? merge_seats(s, from, s->sent)
                                  : merge_gradients(s, s->local - 1, from, s->sent);
    *sum = (struct mabn_comm_sum){
        .type = MABN_DIST_F32, .count = s->sent - from, .result = s->gradients + from};
    for (int i = 0; i < depth; i++)
        sum->parts[i] = s->parts[i] + from;
    sum->parts[depth] = s->gradients + from;
    s->sent = from;
    return mabn_comm_sum_start(s->comm, sum);
}

/* Buckets are fixed by the plan: all ranks have the same. A GPU's sums end here, so that a step with them
 * can be one graph. */
mabn_status mabn_shards_ready(void *shards, size_t from)
{
    struct mabn_shards *s = (struct mabn_shards *)shards;
    size_t least = s->floats / MABN_SHARDS_BUCKETS + 1;
    if (least < SMALLEST_BUCKET) least = SMALLEST_BUCKET;
    if (s->ranks == 1 || s->staged) return MABN_OK;
    if (from == MABN_NET_READY_AGAIN) {
        s->sent = 0;
        return MABN_OK;
    }
    if (from > s->sent) s->sent = s->floats; /* what was queued before was not captured */
    if (s->nccl && !from) return queue_last_sum(s);
    return s->sent < from + least ? MABN_OK : send(s, from);
}

mabn_status mabn_shards_sum(struct mabn_shards *s)
{
    if (s->count == 1) return MABN_OK;
    if (s->nccl) return s->sent ? queue_last_sum(s) : MABN_OK;
    if (s->sent) MABN_TRY(send(s, 0));
    s->depth = 0;
    for (int i = 0; i < s->n_sums; i++)
        MABN_TRY(mabn_comm_sum_wait(s->comm, &s->sums[i]));
    s->n_sums = 0;
    return s->staged ? move_gradients(s, true) : MABN_OK;
}

mabn_status mabn_shards_add(struct mabn_shards *s, double *values, int n)
{
    return s->count == 1 ? MABN_OK
                         : mabn_comm_sum_shards(s->comm, MABN_DIST_F64, values, (size_t)n);
}

/* ---- one state for all ---- */

/* Copy the floats of `block`, one run after the other, into `packed`; if `divide` is not 0, copy them back,
 * divided by it. packed NULL: only count. Returns the number of floats. */
static size_t pack(const struct mabn_shards *s, char *block, float *packed, int divide)
{
    size_t offset, count, total = 0;
    for (int run = 0; mabn_params_state_floats(s->params, run, &offset, &count); run++) {
        float *values = (float *)(void *)(block + offset);
        for (size_t k = 0; k < count && packed; k++) {
            if (divide)
                values[k] = packed[total + k] / (float)divide;
            else
                packed[total + k] = values[k];
        }
        total += count;
    }
    return total;
}

mabn_status mabn_shards_merge(struct mabn_shards *s)
{
    if (s->count == 1) return MABN_OK;
    MABN_TRY(take_state(s));
    const size_t n = pack(s, s->states, NULL, 0);
    void *rows, *mean;
    MABN_TRY(mabn_alloc(&rows, (size_t)s->local * n * sizeof(float)));
    mabn_status status = mabn_alloc(&mean, s->state_bytes);
    if (status) goto out;
    for (int i = 0; i < s->local; i++)
        pack(s, state_of(s, i), (float *)rows + (size_t)i * n, 0);
    memcpy(mean, s->states, s->state_bytes); /* counters, which all shards have alike */
    status = mabn_comm_sum_shards(s->comm, MABN_DIST_F32, rows, n);
    if (!status) {
        pack(s, (char *)mean, (float *)rows, s->count);
        status = mabn_params_set_state(s->params, mean);
    }
    mabn_free(mean);
out:
    mabn_free(rows);
    return status;
}

/* ---- checkpoints ---- */

static size_t bytes_of(const struct mabn_params_tensor *t)
{
    size_t count;
    if (!mabn_shape_count(&t->shape, &count)) MABN_BUG("tensor '%s' overflows", t->name);
    return count * mabn_dtype_size(t->dtype);
}

/* The tensor of all shards that belongs to tensor `index` of the store; data NULL: there is
 * none. */
static mabn_status new_tensor(const struct mabn_shards *s, struct mabn_shard_tensor *tensor,
                              int index)
{
    const struct mabn_params_tensor *t = mabn_params_at(s->params, index);
    void *data;
    *tensor = (struct mabn_shard_tensor){.name = NULL};
    if (!t->moves) return MABN_OK;
    MABN_TRY(mabn_alloc(&data, (size_t)s->count * bytes_of(t)));
    *tensor = (struct mabn_shard_tensor){
        .name = mabn_xasprintf(STATE_PREFIX "%s", t->name),
        .dtype = t->dtype,
        .shape = MABN_SHAPE(2, s->count, (int64_t)(bytes_of(t) / mabn_dtype_size(t->dtype))),
        .data = (char *)data,
    };
    return MABN_OK;
}

/* blocks: every shard's, in order. */
static mabn_status sort_states(struct mabn_shards *s, struct mabn_shard_states *states,
                               const char *blocks)
{
    const int count = mabn_params_count(s->params);
    states->tensors =
        (struct mabn_shard_tensor *)mabn_xcalloc((size_t)count + 1, sizeof *states->tensors);
    states->count = count;
    for (int i = 0; i < count; i++)
        MABN_TRY(new_tensor(s, &states->tensors[i], i));
    for (int k = 0; k < s->count; k++) {
        MABN_TRY(mabn_params_set_state(s->params, blocks + (size_t)k * s->state_bytes));
        for (int i = 0; i < count; i++) {
            const size_t bytes = bytes_of(mabn_params_at(s->params, i));
            if (!states->tensors[i].data) continue;
            MABN_TRY(
                mabn_params_get(s->params, i, states->tensors[i].data + (size_t)k * bytes, bytes));
        }
    }
    return MABN_OK;
}

mabn_status mabn_shards_collect(struct mabn_shards *s, struct mabn_shard_states *states)
{
    void *blocks;
    *states = (struct mabn_shard_states){.tensors = NULL};
    if (s->count == 1) return MABN_OK;
    MABN_TRY(take_state(s));
    size_t *sizes = (size_t *)mabn_xcalloc((size_t)s->ranks, sizeof *sizes);
    mabn_status status =
        mabn_comm_gather(s->comm, s->states, (size_t)s->local * s->state_bytes, &blocks, sizes);
    free(sizes);
    if (status || s->rank) return status;
    status = sort_states(s, states, (const char *)blocks);
    mabn_free(blocks);
    if (status) mabn_shard_states_release(states);
    return status;
}

void mabn_shard_states_release(struct mabn_shard_states *states)
{
    for (int i = 0; i < states->count; i++) {
        free(states->tensors[i].name);
        mabn_free(states->tensors[i].data);
    }
    free(states->tensors);
    *states = (struct mabn_shard_states){.tensors = NULL};
}

/* Row by row into the shards' blocks, by way of the store. */
mabn_status mabn_shards_restore(struct mabn_shards *s, const struct mabn_checkpoint *checkpoint)
{
    struct mabn_shard_states states = {.tensors = NULL};
    if (s->count == 1) return MABN_OK;
    s->in_store = -1;
    states.count = mabn_params_count(s->params);
    states.tensors =
        (struct mabn_shard_tensor *)mabn_xcalloc((size_t)states.count + 1, sizeof *states.tensors);
    mabn_status status;
    for (int i = 0; i < states.count; i++) {
        struct mabn_shard_tensor *t = &states.tensors[i];
        MABN_TRY_GOTO(new_tensor(s, t, i), out);
        if (!t->data) continue;
        MABN_TRY_GOTO(mabn_checkpoint_read_as(checkpoint, t->name, t->dtype, &t->shape, t->data),
                      out);
    }
    for (int k = 0; k < s->local; k++) {
        MABN_TRY_GOTO(mabn_params_set_state(s->params, state_of(s, k)), out);
        for (int i = 0; i < states.count; i++) {
            const size_t bytes = bytes_of(mabn_params_at(s->params, i));
            if (!states.tensors[i].data) continue;
            MABN_TRY_GOTO(mabn_params_set(s->params, i,
                                          states.tensors[i].data + (size_t)(s->first + k) * bytes,
                                          bytes),
                          out);
        }
        MABN_TRY_GOTO(mabn_params_get_state(s->params, state_of(s, k)), out);
    }
    status = MABN_OK;
out:
    mabn_shard_states_release(&states);
    return status;
}

/* ---- the same everywhere ---- */

mabn_status mabn_shards_check(struct mabn_shards *s, const char *when)
{
    if (s->ranks == 1) return MABN_OK;
    size_t n;
    const float *values = mabn_params_values(s->params, &n);
    void *host = NULL;
    if (on_gpu(s)) {
        MABN_TRY(mabn_alloc(&host, n * sizeof(float)));
        mabn_status status =
            mabn_device_get(mabn_params_device(s->params), host, values, n * sizeof(float));
        if (status) {
            mabn_free(host);
            return status;
        }
    }
    char *what = mabn_xasprintf("the parameters %s", when);
    mabn_status status =
        mabn_comm_check_same(s->comm, what, host ? host : values, n * sizeof(float));
    free(what);
    mabn_free(host);
    return status;
}
