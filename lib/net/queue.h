/* Several plans of a GPU, conducted as one stretch of its queue: what a detector's step is.
 *
 *     mabn_net_queue_ready      each plan: weights as they are used, the input on its way
 *     mabn_net_queue_forward, _backward, and what stands between
 *     mabn_net_queued           each plan: it has run once more
 *
 * Nothing here waits. What ready queues stands before all else and cannot be captured; the rest may be
 * captured in a CUDA graph where targets, boxes and normalizers lie on the device (net/losses.h). Losses
 * stay there, too: as bare sums, which the normalizer divides. After ready the input is other memory
 * than before. */
#ifndef MABN_NET_QUEUE_H
#define MABN_NET_QUEUE_H

#include "net/net.h"

MABN_BEGIN_DECLS

MABN_MUST_USE mabn_status mabn_net_queue_ready(struct mabn_net *net);
MABN_MUST_USE mabn_status mabn_net_queue_forward(struct mabn_net *net);
MABN_MUST_USE mabn_status mabn_net_queue_backward(struct mabn_net *net);
void mabn_net_queued(struct mabn_net *net);
/* With options.feed: the input (n,h,w,padded) of `dtype`, on the device, of which the first `channels` are
 * the picture's; to be written in the device's stream, all of it. */
struct mabn_net_fed {
    void *x;
    int64_t n, h, w;
    int channels, padded;
    enum mabn_dtype dtype;
};
struct mabn_net_fed mabn_net_fed_of(const struct mabn_net *net);
/* What of a plan is part of a graph and may be another in the next step; after ready. */
struct mabn_net_queue_stamp {
    const void *scratch;
    bool known, accumulate;
};
struct mabn_net_queue_stamp mabn_net_queue_stamp_of(const struct mabn_net *net);
/* On the device: once a forward was queued. */
const double *mabn_net_queue_loss(const struct mabn_net *net, const char *loss);

MABN_END_DECLS
#endif
