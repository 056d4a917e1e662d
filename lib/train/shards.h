/* The shards of a run (dist/comm.h) that this rank carries: one after the other, or in step.
 *
 * A shard owns a slice of every step's batch and its own state of the norms: running averages, MABN's
 * windows, counters. Each shard runs forward and backward by itself:
 *
 *     mabn_shards_run(shards, pass, …)     for each shard i of this rank:
 *                                              its state goes into its store of parameters
 *                                              pass(…, i) leaves gradients in that store
 *                                              the state comes out, the gradients go to the sum
 *     mabn_shards_sum(shards)              the store has the sum over all shards
 *     mabn_net_update                      with 1/count in sgd.grad_scale
 *
 * Shards that run one after the other share one store, plan and memory. SyncBN over several shards of a
 * rank needs shards in step (norm/sync.h). Those have a device, a store and a plan each; the last shard's
 * are the run's. On a GPU they share it, and all their sums pass through the host.
 *
 * In the pass of the last shard, backward may report gradients as soon as they are complete
 * (mabn_shards_ready). Their sums start in buckets while backward computes the others.
 *
 * On a GPU NCCL (dist/nccl.h) adds gradients where they are: each shard's on top of those before it
 * (mabn_shards_accumulates), and the sums over ranks start in buckets as above. Without NCCL they pass
 * through the host.
 *
 * The sum follows one tree over shards. It has the same bits on any number of ranks, provided that
 * these have equally many threads; NCCL's order is its own. Shards have equally many images, so a
 * shard's mean loss counts 1/count.
 *
 * Evaluation and finished models have one state. Its running averages and windows are the unweighted
 * means over shards, added along the same tree. (The reference evaluates with its first process's
 * state.) Checkpoints hold every shard's own state as well, as one tensor /state/shards/NAME (count,
 * values) for each tensor of the norms' state.
 *
 * With one shard nothing is copied or added, and all calls return at once. With one shard a rank its
 * state stays in the store from step to step. */
#ifndef MABN_TRAIN_SHARDS_H
#define MABN_TRAIN_SHARDS_H

#include "base/status.h"
#include "dist/comm.h"
#include "dist/lockstep.h"
#include "dist/nccl.h"
#include "model/model_file.h"
#include "net/params.h"
#include "store/checkpoint.h"

MABN_BEGIN_DECLS

/* A shard that runs in step with others. */
struct mabn_shard_seat {
    struct mabn_device *device;
    struct mabn_params *params;
};

struct mabn_shards {
    struct mabn_comm *comm;     /* borrowed; NULL: one process */
    struct mabn_nccl *nccl;     /* borrowed; NULL: sums pass through the host */
    struct mabn_params *params; /* borrowed */
    int count, first, local;    /* of the run; this rank has first to first+local−1 */
    int rank, ranks;
    struct mabn_lockstep *lockstep; /* NULL: one after the other */
    /* private */
    struct mabn_shard_seat *seats; /* in step: (local − 1) */
    size_t state_bytes;
    char *states;     /* (local)(state_bytes) */
    int in_store;     /* whose state is in the store, newer than in `states`; -1: nobody's */
    float *gradients; /* the store's, or `staged`: a GPU's, on the host */
    float *staged;
    float *staged_all;                 /* in step: (local)(floats), the last of which is `staged` */
    float *parts[MABN_TREE_MAX_PARTS]; /* gradients added up so far, beside those in the store */
    int depth;                         /* how many of them are in use */
    size_t floats, sent;               /* gradients; sums have been started from `sent` on */
    struct mabn_comm_sum *sums;        /* (MABN_SHARDS_BUCKETS + 1) under way */
    int n_sums;
};
enum { MABN_SHARDS_BUCKETS = 8 };

/* As many as mabn_comm_set_shards said. To be called before there are parameters. The caller may set
 * nccl afterwards. */
void mabn_shards_init(struct mabn_shards *shards, struct mabn_comm *comm);
void mabn_shards_release(struct mabn_shards *shards);
/* Before there are parameters: this rank's shards, of which there are several, will run in step, on devices
 * beside this one. Then nccl is not used. */
MABN_MUST_USE mabn_status mabn_shards_step(struct mabn_shards *shards, struct mabn_device *device);
/* In step: make(context, i) builds the network of each shard but the last, which has one already. They
 * use the values of `params`, which is placed. It is called on the shard's own thread, which is also its
 * device's. */
MABN_MUST_USE mabn_status mabn_shards_seat(struct mabn_shards *shards, struct mabn_params *params,
                                           mabn_lockstep_work make, void *context);
/* The device and store of shard i; NULL where they are the run's. */
const struct mabn_shard_seat *mabn_shards_seat_of(const struct mabn_shards *shards, int i);
/* All shards begin with the state in the store. */
MABN_MUST_USE mabn_status mabn_shards_start(struct mabn_shards *shards, struct mabn_params *params);

MABN_MUST_USE mabn_status mabn_shards_run(struct mabn_shards *shards, mabn_lockstep_work pass,
                                          void *context);
/* Must shards after this rank's first add their gradients to those in the store? */
bool mabn_shards_accumulates(const struct mabn_shards *shards);
/* The last shard's gradients from the float `from` on are complete (mabn_net_tell_gradients). */
MABN_MUST_USE mabn_status mabn_shards_ready(void *shards, size_t from);
MABN_MUST_USE mabn_status mabn_shards_sum(struct mabn_shards *shards);
/* values: (local)(n), a row for each shard of this rank. The first row receives the sums over all
 * shards, the same on all ranks; the other rows are overwritten. */
MABN_MUST_USE mabn_status mabn_shards_add(struct mabn_shards *shards, double *values, int n);

/* Put the mean state into the store, until the next run. */
MABN_MUST_USE mabn_status mabn_shards_merge(struct mabn_shards *shards);

/* Every shard's state for a checkpoint, on rank 0. Empty on other ranks, and with one shard. */
MABN_MUST_USE mabn_status mabn_shards_collect(struct mabn_shards *shards,
                                              struct mabn_shard_states *states);
void mabn_shard_states_release(struct mabn_shard_states *states);
/* Take the states of this rank's shards from a checkpoint. */
MABN_MUST_USE mabn_status mabn_shards_restore(struct mabn_shards *shards,
                                              const struct mabn_checkpoint *checkpoint);

/* Do all ranks have the same parameters, to the last bit? If not, MABN_ERR_MISMATCH on all of them,
 * with the first rank that differs. when: "at step 10". */
MABN_MUST_USE mabn_status mabn_shards_check(struct mabn_shards *shards, const char *when);

MABN_END_DECLS
#endif
