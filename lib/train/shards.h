/* The shards of a run (dist/comm.h) that this rank carries, one after the other or in step.
 *
 * A shard owns a slice of every step's batch and the state of the norms: running averages, MABN's
 * windows, counters. So each goes through the network by itself, forward and backward:
 *
 *     mabn_shards_run(shards, pass, …)     for each shard i of this rank
 *                                              its state into its store of parameters
 *                                              pass(…, i): gradients are left in its store
 *                                              its state out of it, its gradients to the sum
 *     mabn_shards_sum(shards)              the sum over all shards is in the store
 *
 * One after the other they share one store, plan and memory. In step, which SyncBN over several shards
 * of a rank needs (norm/sync.h), each has its own device, store and plan; the last shard's are the run's.
 *
 * In the last pass of the last shard, backward may hand in gradients as it goes on, by
 * mabn_shards_ready: their sums then start in buckets, while it computes the others.
 *
 *     mabn_net_update, with 1/count in sgd.grad_scale
 *
 * On a GPU gradients are added up where they are by NCCL (dist/nccl.h), if there is one: a shard's go
 * on top of those before (mabn_shards_accumulates), and the sums over ranks start in buckets as above.
 * Without NCCL they cross to the host for this and back.
 *
 * But for NCCL, which has an order of its own, the sum follows one tree over shards, so it has the same bits on any number of ranks, as long as
 * these have as many threads. Shards have equally many images, so a shard's mean loss counts 1/count.
 *
 * Evaluation and finished models have one state: running averages, and windows too, are the
 * unweighted means over shards, added along the same tree. (The reference evaluates with its first
 * process's alone.) Checkpoints hold every shard's own state as well, as one tensor
 * /state/shards/NAME (count, values) for each tensor of the norms' state.
 *
 * With one shard nothing is copied or added, and all calls return at once. With one a rank its state
 * stays in the store from step to step. */
#ifndef MABN_TRAIN_SHARDS_H
#define MABN_TRAIN_SHARDS_H

#include "base/status.h"
#include "dist/comm.h"
#include "dist/lockstep.h"
#include "dist/nccl.h"
#include "net/params.h"
#include "store/checkpoint.h"

MABN_BEGIN_DECLS

/* One of the shards that go in step. */
struct mabn_shard_seat {
    struct mabn_device *device;
    struct mabn_params *params;
};

struct mabn_shards {
    struct mabn_comm *comm;     /* borrowed; NULL: one process */
    struct mabn_nccl *nccl;     /* borrowed; NULL: sums by way of the host */
    struct mabn_params *params; /* borrowed */
    int count, first, local;    /* of the run; this rank's are first … first+local−1 */
    int rank, ranks;
    struct mabn_lockstep *lockstep; /* NULL: one after the other */
    /* private */
    struct mabn_shard_seat *seats; /* in step: (local − 1) */
    size_t state_bytes;
    char *states;     /* (local)(state_bytes) */
    int in_store;     /* whose state is in the store, newer than in `states`; -1: nobody's */
    float *gradients; /* the store's own, or of a GPU's on the host: `staged` */
    float *staged;
    float *parts[MABN_TREE_MAX_PARTS]; /* gradients added up so far, beside those in the store */
    int depth;                         /* of them in use */
    size_t floats, sent;               /* gradients; from where on their sums have been started */
    struct mabn_comm_sum *sums;        /* (MABN_SHARDS_BUCKETS + 1) under way */
    int n_sums;
};
enum { MABN_SHARDS_BUCKETS = 8 };

/* How many there are, as mabn_comm_set_shards said; before there are parameters. Then the caller may
 * set nccl. */
void mabn_shards_init(struct mabn_shards *shards, struct mabn_comm *comm);
void mabn_shards_release(struct mabn_shards *shards);
/* Before there are parameters: the shards of this rank, several, are to go in step on CPUs of as many
 * threads as this one. */
MABN_MUST_USE mabn_status mabn_shards_step(struct mabn_shards *shards, struct mabn_device *device);
/* In step: make(context, i) for each shard but the last, whose network is there already, over the values
 * of `params`, which are placed. Called on the shard's own thread, which is its device's. */
MABN_MUST_USE mabn_status mabn_shards_seat(struct mabn_shards *shards, struct mabn_params *params,
                                           mabn_lockstep_work make, void *context);
/* What shard i's plan is made of; NULL where it is the run's. */
const struct mabn_shard_seat *mabn_shards_seat_of(const struct mabn_shards *shards, int i);
/* All shards begin with the state that is in the store. */
MABN_MUST_USE mabn_status mabn_shards_start(struct mabn_shards *shards, struct mabn_params *params);

MABN_MUST_USE mabn_status mabn_shards_run(struct mabn_shards *shards, mabn_lockstep_work pass,
                                          void *context);
/* Whether shards after this rank's first must add their gradients to what is in the store. */
bool mabn_shards_accumulates(const struct mabn_shards *shards);
/* The last shard's gradients from the float `from` on are whole (mabn_net_tell_gradients). */
MABN_MUST_USE mabn_status mabn_shards_ready(void *shards, size_t from);
MABN_MUST_USE mabn_status mabn_shards_sum(struct mabn_shards *shards);
/* values: (local)(n), a row for each shard of this rank. The sums over all shards are left in the
 * first row, the same on all ranks; the other rows are overwritten. */
MABN_MUST_USE mabn_status mabn_shards_add(struct mabn_shards *shards, double *values, int n);

/* The mean state into the store, until the next enter. */
MABN_MUST_USE mabn_status mabn_shards_merge(struct mabn_shards *shards);

/* On rank 0 every shard's state, as it goes into a checkpoint; empty elsewhere and with one shard. */
struct mabn_shard_tensor {
    char *name;
    enum mabn_dtype dtype;
    struct mabn_shape shape; /* (count, values) */
    char *data;
};
struct mabn_shard_states {
    struct mabn_shard_tensor *tensors;
    int count;
};
MABN_MUST_USE mabn_status mabn_shards_collect(struct mabn_shards *shards,
                                              struct mabn_shard_states *states);
void mabn_shard_states_release(struct mabn_shard_states *states);
/* This rank's shards' states from a checkpoint. */
MABN_MUST_USE mabn_status mabn_shards_restore(struct mabn_shards *shards,
                                              const struct mabn_checkpoint *checkpoint);

/* All ranks have the same parameters to the last bit, or MABN_ERR_MISMATCH on all, with
 * the first rank that differs. when: "at step 10". */
MABN_MUST_USE mabn_status mabn_shards_check(struct mabn_shards *shards, const char *when);

MABN_END_DECLS
#endif
