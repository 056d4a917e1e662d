/* Several plans of a GPU, queued one after the other as one step. A detector trains so.
 *
 *     mabn_net_queue_ready                 for each plan: renew the weights in use, queue the input
 *     mabn_net_queue_forward, _backward    and the caller's own work between them
 *     mabn_net_queued                      for each plan: it has run once more
 *
 * Nothing here waits. The work that ready queues comes first and cannot be captured. The rest may be
 * captured in a CUDA graph if targets, boxes and normalizers lie on the device (net/losses.h). Losses
 * stay on the device too, as sums that are not divided by the normalizer yet. After ready the next input
 * goes to other memory: ask mabn_net_input again. */
#ifndef MABN_NET_QUEUE_H
#define MABN_NET_QUEUE_H

#include "net/net.h"

MABN_BEGIN_DECLS

MABN_MUST_USE mabn_status mabn_net_queue_ready(struct mabn_net *net);
MABN_MUST_USE mabn_status mabn_net_queue_forward(struct mabn_net *net);
MABN_MUST_USE mabn_status mabn_net_queue_backward(struct mabn_net *net);
void mabn_net_queued(struct mabn_net *net);
/* With options.feed: the input on the device, (n,h,w,padded) of `dtype`. The first `channels` are the
 * picture's. The feed must write all of it, padding included, in the device's stream. */
struct mabn_net_fed {
    void *x;
    int64_t n, h, w;
    int channels, padded;
    enum mabn_dtype dtype;
};
struct mabn_net_fed mabn_net_fed_of(const struct mabn_net *net);
/* The values that a captured graph depends on and that may differ in the next step. Valid after ready.
 * A graph may be launched again if its plans' stamps are those it was captured with. */
struct mabn_net_queue_stamp {
    const void *scratch;
    bool known; /* all MABN layers' maps are known before the batch (norm_cuda.h) */
    bool accumulate;
};
struct mabn_net_queue_stamp mabn_net_queue_stamp_of(const struct mabn_net *net);
/* Where the loss's sum is on the device, once a forward is queued. MABN_BUG: there is no such loss. */
const double *mabn_net_queue_loss(const struct mabn_net *net, const char *loss);

MABN_END_DECLS
#endif
