/* Functions that a kind shares with its .cu file, or with kinds that are alike. */
#ifndef MABN_NET_NODES_SHARED_H
#define MABN_NET_NODES_SHARED_H

#include "net/internal.h"
#include "net/losses.h"
#include "ops/roi_align.h"
#include "ops/transposed_conv.h"
#include "ops/upsample.h"

MABN_BEGIN_DECLS

/* For the tables: the first read alone. */
static inline bool node_first_read(const struct node *node, int k)
{
    (void)node;
    return k == 0;
}

/* For attributes: the window of a kind that has one. */
static inline void mabn_node_window_attributes(const struct node *node, struct mabn_net_node *told)
{
    told->kernel = node->conv.kernel;
    told->stride = node->conv.stride;
    told->pad = node->conv.pad;
}

/* describe of a kind that a convolution computes; of a loss. */
void mabn_node_conv_describe(const struct mabn_net *net, const struct node *node,
                             const struct net_layer_time *time, struct mabn_net_layer *layer);
void mabn_node_loss_describe(const struct mabn_net *net, const struct node *node,
                             const struct net_layer_time *time, struct mabn_net_layer *layer);
/* release of a kind that a convolution computes on the CPU. */
void mabn_node_conv_release(struct node *node);

struct smooth_l1_own {
    struct mabn_net_smooth_l1 options;
    struct mabn_net_box_targets targets;
};

/* Is the norm's output kept, from which backward takes ReLU's mask? */
bool mabn_node_norm_has_mask(const struct node *node);
/* The operation on the live rows, as ops/ describes it. */
struct mabn_upsample mabn_node_upsample_op(const struct mabn_net *net, const struct node *node);
struct mabn_transposed_conv mabn_node_transposed_conv_op(const struct mabn_net *net,
                                                         const struct node *node);
/* For a RoIAlign also its boxes, in the caller's memory. The shapes are those of the maps that are
 * bound now. */
MABN_MUST_USE mabn_status mabn_node_roi_align_op(const struct mabn_net *net,
                                                 const struct node *node, struct mabn_roi_align *op,
                                                 struct mabn_rois *rois);
/* Are its boxes on the device? */
bool mabn_node_roi_align_there(const struct node *node);
/* Does this norm sum over several shards? */
static inline bool mabn_node_norm_meets(const struct node *norm)
{
    return norm->norm.sync && norm->norm.options.kind == MABN_NORM_SYNCBN;
}

MABN_END_DECLS
#endif
