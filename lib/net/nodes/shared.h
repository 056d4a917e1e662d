/* Shared by the .c file of a kind and the .cu file beside it, and used by no others. */
#ifndef MABN_NET_NODES_SHARED_H
#define MABN_NET_NODES_SHARED_H

#include "net/internal.h"
#include "net/losses.h"
#include "ops/roi_align.h"
#include "ops/transposed_conv.h"
#include "ops/upsample.h"

MABN_BEGIN_DECLS

struct smooth_l1_own {
    struct mabn_net_smooth_l1 options;
    struct mabn_net_box_targets targets;
};

/* Is the norm's output kept, from which backward takes ReLU's mask? */
bool mabn_node_norm_has_mask(const struct node *node);
/* The operation on the live rows. */
struct mabn_upsample mabn_node_upsample_op(const struct mabn_net *net, const struct node *node);
struct mabn_transposed_conv mabn_node_transposed_conv_op(const struct mabn_net *net,
                                                         const struct node *node);
/* For a RoIAlign also its boxes, in the caller's memory. The shapes are those of the maps that are
 * bound now. */
MABN_MUST_USE mabn_status mabn_node_roi_align_op(const struct mabn_net *net,
                                                 const struct node *node, struct mabn_roi_align *op,
                                                 struct mabn_rois *rois);
/* Whether the caller keeps them on the device. */
bool mabn_node_roi_align_there(const struct node *node);

MABN_END_DECLS
#endif
