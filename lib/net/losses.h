/* Losses: nodes that compare scores with what they should be.
 *
 * Forward computes a loss's value, one number (mabn_net_loss_of). Backward begins at the losses:
 * each gives its scores their gradient. An output that a loss reads therefore has no gradient for
 * the caller to fill in.
 *
 * The targets come with the run, as the boxes of a RoIAlign do, and with them the normalizer, by which
 * the loss's sum is divided. The caller gives it, because it may count rows of other plans, of other
 * feature maps or of other ranks. With normalizer 0, and without targets, the loss and its gradient are 0.
 *
 * mabn_net_set_labels copies the labels of as many rows as the next run has. The other targets are
 * borrowed until the backward of that run is done.
 *
 * On a GPU targets may lie on the device (on_device; stride must be 0), and the normalizer too
 * (normalizer_at, one float). Such a loss is queued and stays there (net/queue.h).
 *
 * mabn_net_add_… return the node's id, or -1; mabn_net_plan reports the failure. The setters are
 * MABN_BUG when the network has no loss of this name and kind.
 *
 * To add a loss: the list at struct node_kind (internal.h); its kind has `loss` set and its functions are
 * declared here. */
#ifndef MABN_NET_LOSSES_H
#define MABN_NET_LOSSES_H

#include "net/net.h"

MABN_BEGIN_DECLS

/* The value of the last forward, or of the step that mabn_net_result fetched. It may not be finite:
 * the caller decides what to do then. MABN_BUG when the network has no loss of this name. */
double mabn_net_loss_of(const struct mabn_net *net, const char *loss);

/* ---- softmax cross-entropy with label smoothing (ops/loss.h) ----
 *
 * scores (N,1,1,classes): Σ loss(row) / normalizer, in training usually over the number of rows
 * that have a label (mabn_labelled). */
struct mabn_net_labels {
    const int32_t *labels; /* (N) each below `classes`; -1: no label, the row counts nothing */
    double smoothing;      /* 0 to below 1 */
    double normalizer;
    bool on_device; /* the labels are borrowed then */
    const float *normalizer_at;
};
int mabn_net_add_softmax_loss(struct mabn_net *net, int scores, const char *name);
void mabn_net_set_labels(struct mabn_net *net, const char *loss,
                         const struct mabn_net_labels *labels);

/* ---- sigmoid cross-entropy with weights (ops/sigmoid_loss.h) ----
 *
 * scores (N,h,w,c): Σ weight·loss(score, target) / normalizer. Either every score has a target, or one
 * channel of each row counts and has a mask. The mask is `bits` or, if that is NULL, `target`, (N,h,w)
 * from 0 to 1, which only the CPU has (a GPU's forward: MABN_ERR_UNSUPPORTED). */
struct mabn_net_sigmoid_targets {
    const float *target, *weight; /* (N) rows of h·w·c values; weight NULL: all 1 */
    int64_t stride;               /* values from one row to the next; 0: h·w·c */
    const int32_t *channel;       /* (N); NULL: all count. A row of channel -1 does not count */
    const uint8_t *bits;          /* (N,h,w) 0 or 1, where `channel` is given */
    double normalizer;
    bool on_device;
    const float *normalizer_at;
};
int mabn_net_add_sigmoid_loss(struct mabn_net *net, int scores, const char *name);
void mabn_net_set_sigmoid_targets(struct mabn_net *net, const char *loss,
                                  const struct mabn_net_sigmoid_targets *targets);

/* ---- smooth L1 of boxes with weights (ops/smooth_l1.h) ----
 *
 * scores (N,h,w,c) hold h·w·c/(4·groups) boxes a row. Each box has four numbers for every group, and
 * those of its own group count: Σ weight·loss(scores − target) / normalizer. */
struct mabn_net_smooth_l1 {
    double beta;
    int groups; /* 1, or the number of classes */
};
struct mabn_net_box_targets {
    const float *target;  /* (N) rows of (boxes,4) */
    const float *weight;  /* (N) rows of (boxes); NULL: all 1 */
    const int32_t *group; /* (N) rows of (boxes); NULL: all 0; outside 0…groups−1: not counted */
    int64_t stride;       /* boxes from one row to the next; 0: as many as a row has */
    double normalizer;
    bool on_device;
    const float *normalizer_at;
};
int mabn_net_add_smooth_l1_loss(struct mabn_net *net, int scores, const char *name,
                                const struct mabn_net_smooth_l1 *options);
void mabn_net_set_box_targets(struct mabn_net *net, const char *loss,
                              const struct mabn_net_box_targets *targets);

MABN_END_DECLS
#endif
