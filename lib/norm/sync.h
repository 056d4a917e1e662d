/* SyncBN's shards: whose values make a statistic.
 *
 * A call of a SyncBN layer is one shard's share of the samples. Its sums (2 numbers a channel, how many
 * elements, and whether there are any) are added over the shards, once in forward and once in
 * backward, along the fixed tree of dist/tree.h: the same bits everywhere, in every repeat, and on any
 * number of ranks. Shares may differ from shard to shard, and be empty. All call the same layers in the
 * same order.
 *
 * With one shard a rank the sum waits for the other ranks. With several, the shards of a rank advance
 * in step (dist/lockstep.h): each goes through the network up to a layer that needs the others' sums
 * and leaves them there; after the last, the rank's sums are added up and go to the other ranks; then
 * all go on. So each shard of a rank keeps its activations and gradients at the same time, as its own
 * rank would, and has a device (scratch), a plan and a store (mabn_params_share) of its own. On the CPU
 * alone: on a GPU, shards in step are refused.
 *
 * What a statistic is where shares differ is the option sync_reference; its ranks are our shards:
 *   false  mean and biased variance over all elements of all shards, as in PyTorch's SyncBatchNorm;
 *          running_var takes the unbiased one. The state is the same for every shard.
 *   true   the reference's: the shards' means of x and x² averaged without weights, over the shards that
 *          have any; the variance times n/(n−1), n this shard's elements times those shards, both for
 *          normalizing and for running_var, which then differs a little from shard to shard.
 * With equal shares they differ in that factor alone.
 *
 * On a GPU the sums go by NCCL, in the device's own queue and in NCCL's order; without NCCL by way of
 * the host, along the tree, and every layer waits for the device. */
#ifndef MABN_NORM_SYNC_H
#define MABN_NORM_SYNC_H

#include "device/device.h"
#include "dist/comm.h"
#include "dist/lockstep.h"
#include "dist/nccl.h"
#include "norm/options.h"

MABN_BEGIN_DECLS

/* Of the shards of `comm` that this rank carries: sync[i] is for the layers of its shard i. comm, device,
 * nccl (may be NULL) and lockstep are borrowed; lockstep, of as many as the rank has shards, may be NULL
 * where it has one. In groups of `group` neighbours: with 8 shards and 4, shards 0 to 3 make one
 * statistic and 4 to 7 another. 0: all of them. *sync is NULL when a group is one shard, which is what
 * a layer alone has. MABN_ERR_ARG if the shards are no multiple of group, MABN_ERR_UNSUPPORTED with
 * several shards a rank on a GPU. */
MABN_MUST_USE mabn_status mabn_norm_sync_new(struct mabn_norm_sync **sync, struct mabn_comm *comm,
                                             int group, struct mabn_device *device,
                                             struct mabn_nccl *nccl,
                                             struct mabn_lockstep *lockstep);
/* Whether mabn_norm_sync_new would need a lockstep; also fails as it would. */
MABN_MUST_USE mabn_status mabn_norm_sync_steps(bool *steps, const struct mabn_comm *comm, int group,
                                               bool on_gpu);
void mabn_norm_sync_free(struct mabn_norm_sync *sync); /* NULL is fine */

MABN_END_DECLS
#endif
