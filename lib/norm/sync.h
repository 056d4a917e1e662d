/* SyncBN over shards: which shards' values make a statistic, and how they are added up.
 *
 * Each call of a SyncBN layer handles one shard's share of the samples. Its sums (two numbers a channel,
 * the number of elements, and whether there are any) are added over all shards, once in forward and
 * once in backward. The order of the additions is the fixed tree of dist/tree.h, so the result has the
 * same bits in every repeat and on any number of ranks. Shares may differ in size and may be empty. All
 * shards call the same layers in the same order.
 *
 * With one shard a rank, the sum waits for the other ranks. With several, the shards of a rank advance
 * in step (dist/lockstep.h). Each runs the network up to a layer that needs the others' sums, and
 * leaves its own there. After the last shard the rank's sums are added up and exchanged with the other
 * ranks, and then all shards go on. Every shard therefore keeps its own activations and gradients, as
 * if it had a rank to itself, and it has a device (for scratch; on a GPU also a queue), a plan and a store
 * (mabn_params_share) of its own.
 *
 * The option sync_reference decides what a statistic is where shares differ. The reference's ranks are
 * our shards:
 *   false  mean and biased variance over all elements of all shards, as in PyTorch's SyncBatchNorm.
 *          running_var takes the unbiased variance. The state is the same for every shard.
 *   true   as in the reference: the unweighted mean, over the shards that have samples, of each
 *          shard's means of x and x². The variance is multiplied by n/(n−1), where n is this shard's
 *          number of elements times the number of those shards, for normalizing and for running_var.
 *          running_var then differs a little between shards.
 * With equal shares the two differ by that factor alone.
 *
 * On a GPU with one shard a rank NCCL adds the sums, in the device's queue and in NCCL's order. Without
 * NCCL, and with several shards a rank, they pass through the host, along the tree, and every layer waits
 * for the device. */
#ifndef MABN_NORM_SYNC_H
#define MABN_NORM_SYNC_H

#include "device/device.h"
#include "dist/comm.h"
#include "dist/lockstep.h"
#include "dist/nccl.h"
#include "norm/options.h"

MABN_BEGIN_DECLS

/* sync[i] is for the layers of this rank's shard i, which runs on devices[i]. comm, the devices, nccl and
 * lockstep are borrowed. devices may be NULL if they are CPUs; nccl may be NULL; lockstep is for all shards
 * of this rank, and may be NULL if there is one. Statistics are made in groups of `group` neighbouring
 * shards: of 8 shards in groups of 4, shards 0 to 3 make one statistic and 4 to 7 another; 0: all shards
 * make one. *sync is NULL when a group is one shard, which needs no sums. MABN_ERR_ARG if the number of
 * shards is no multiple of group. */
MABN_MUST_USE mabn_status mabn_norm_sync_new(struct mabn_norm_sync **sync, struct mabn_comm *comm,
                                             int group, struct mabn_device *const *devices,
                                             struct mabn_nccl *nccl,
                                             struct mabn_lockstep *lockstep);
/* *steps: does mabn_norm_sync_new need a lockstep? Fails where that fails. */
MABN_MUST_USE mabn_status mabn_norm_sync_steps(bool *steps, const struct mabn_comm *comm,
                                               int group);
void mabn_norm_sync_free(struct mabn_norm_sync *sync); /* NULL is fine */

MABN_END_DECLS
#endif
