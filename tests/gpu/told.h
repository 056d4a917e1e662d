/* Whom a step tells of its gradients, in tests: as if they were summed over ranks in a second queue. */
#ifndef TESTS_GPU_TOLD_H
#define TESTS_GPU_TOLD_H

#include "device/device.h"
#include "net/net.h"
#include "norm/options.h"

struct told {
    struct mabn_device *device;
    int backwards = 0, again = 0;
};

static mabn_status told_ready(void *context, size_t from)
{
    struct told *t = (struct told *)context;
    void *queue;
    if (from == MABN_NET_READY_AGAIN) {
        t->again++;
        return MABN_OK;
    }
    t->backwards += from == 0;
    MABN_TRY(mabn_device_side_begin(t->device, &queue));
    return from ? MABN_OK : mabn_device_side_end(t->device);
}

/* Ranks that are one: SyncBN's sums are their own, and only queued. */
static mabn_status told_nothing_to_add(void *, double *, size_t)
{
    return MABN_OK;
}

static inline struct mabn_norm_sync told_sync(void)
{
    struct mabn_norm_sync sync = {};
    sync.all_reduce = sync.queue = told_nothing_to_add;
    sync.groups = 1;
    sync.queues = true;
    return sync;
}

#endif
