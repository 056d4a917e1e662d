/* SyncBN's ranks: whose values make a statistic.
 *
 * A call of a SyncBN layer is this rank's share of the samples. Its sums (2 numbers a channel, how many
 * elements, and whether there are any) are added over the ranks, once in forward and once in
 * backward, along the fixed tree of dist/tree.h: the same bits on every rank and in every repeat.
 * Shares may differ from rank to rank, and be empty. All ranks call the same layers in the same order.
 *
 * What a statistic is where shares differ is the option sync_reference:
 *   false  mean and biased variance over all elements of all ranks, as in PyTorch's SyncBatchNorm;
 *          running_var takes the unbiased one. The state is the same on every rank.
 *   true   the reference's: the ranks' means of x and x² averaged without weights, over the ranks that
 *          have any; the variance times n/(n−1), n this rank's elements times those ranks, both for
 *          normalizing and for running_var, which then differs a little from rank to rank.
 * With equal shares they differ in that factor alone.
 *
 * On a GPU the sums go by NCCL, in the device's own queue and in NCCL's order; without NCCL by way of
 * the host, along the tree, and every layer waits for the device. */
#ifndef MABN_NORM_SYNC_H
#define MABN_NORM_SYNC_H

#include "device/device.h"
#include "dist/comm.h"
#include "dist/nccl.h"
#include "norm/options.h"

MABN_BEGIN_DECLS

/* Over the ranks of `comm` (borrowed, as device and nccl are; nccl may be NULL), in groups of `group` neighbours: with 8 ranks and 4, ranks 0
 * to 3 make one statistic and 4 to 7 another. 0: all of them. *sync is NULL when a group is one rank,
 * which is what a layer alone has. MABN_ERR_ARG if the ranks are no multiple of group,
 * MABN_ERR_UNSUPPORTED if they have several shards each: a call is one share. */
MABN_MUST_USE mabn_status mabn_norm_sync_new(struct mabn_norm_sync **sync, struct mabn_comm *comm,
                                             int group, struct mabn_device *device,
                                             struct mabn_nccl *nccl);
void mabn_norm_sync_free(struct mabn_norm_sync *sync); /* NULL is fine */

MABN_END_DECLS
#endif
