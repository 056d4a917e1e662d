/* Pictures on their way to a GPU's plans: one set of memory for the plans of all shapes, as large as the
 * largest batch so far.
 *
 *     copy stream      a slot, pinned, to `staged`
 *     compute stream   from there to the input of the plan: raw pictures are drawn, floats rounded and padded
 *
 * Of two slots the host fills one while the other crosses the bus; once the pictures have left `staged`,
 * the next can come while the plan computes. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/cuda.h"
#include "model/rcnn_cuda.h"
#include "net/queue.h"
#include "ops/ops_cuda.h"

enum { SLOTS = 2 };

struct slot {
    void *base; /* pinned */
    size_t bytes;
    struct rcnn_pictures pictures;
    bool fresh; /* not fed yet */
    struct mabn_cuda_event *uploaded;
};

struct rcnn_input {
    struct slot slots[SLOTS];
    int64_t fed, again; /* of the next feed: its number, or −1 and an earlier one's */
    void *staged;
    size_t staged_bytes;
    struct mabn_cuda_event *taken;
};

static mabn_status get_input(struct mabn_rcnn *r, struct rcnn_input **out)
{
    struct rcnn_input *in = *out = r->input;
    if (in) return MABN_OK;
    in = *out = r->input = (struct rcnn_input *)mabn_xcalloc(1, sizeof *in);
    in->again = -1;
    for (struct slot &slot : in->slots)
        MABN_TRY(mabn_cuda_event_new(&slot.uploaded, r->device, false));
    return mabn_cuda_event_new(&in->taken, r->device, false);
}

void mabn_rcnn_cuda_input_free(struct mabn_rcnn *r)
{
    struct rcnn_input *in = r->input;
    if (!in) return;
    if (mabn_device_wait(r->device)) { /* reported by whoever waited before; nothing runs now */
    }
    for (struct slot &slot : in->slots) {
        mabn_cuda_host_release(r->device, slot.base);
        mabn_cuda_event_free(slot.uploaded);
    }
    mabn_cuda_event_free(in->taken);
    mabn_device_release(r->device, in->staged, in->staged_bytes);
    free(in);
    r->input = NULL;
}

/* Raw pictures differ in size: half as much again, so that this is seldom. */
static size_t grown(size_t have, size_t bytes)
{
    return bytes > have + have / 2 ? bytes : have + have / 2;
}

static mabn_status need_staged(struct mabn_rcnn *r, struct rcnn_input *in, size_t bytes)
{
    if (bytes <= in->staged_bytes) return MABN_OK;
    const size_t more = grown(in->staged_bytes, bytes);
    MABN_TRY(mabn_device_wait(r->device)); /* pictures under way lie there */
    mabn_device_release(r->device, in->staged, in->staged_bytes);
    in->staged = NULL;
    in->staged_bytes = 0;
    MABN_TRY(mabn_device_alloc(r->device, &in->staged, more));
    in->staged_bytes = more;
    return MABN_OK;
}

static mabn_status need_slot(struct mabn_rcnn *r, struct slot *slot, size_t bytes)
{
    if (bytes <= slot->bytes) return MABN_OK;
    const size_t more = grown(slot->bytes, bytes);
    mabn_cuda_host_release(r->device, slot->base);
    slot->base = NULL;
    slot->bytes = 0;
    MABN_TRY(mabn_cuda_host_alloc(r->device, &slot->base, more));
    slot->bytes = more;
    return MABN_OK;
}

mabn_status mabn_rcnn_cuda_input(struct mabn_rcnn *r, void **memory,
                                 const struct rcnn_pictures *pictures)
{
    struct rcnn_input *in;
    MABN_TRY(get_input(r, &in));
    struct slot *slot = &in->slots[in->fed % SLOTS];
    slot->fresh = false;
    MABN_TRY(mabn_cuda_event_wait(slot->uploaded));
    MABN_TRY(need_slot(r, slot, pictures->bytes));
    MABN_TRY(need_staged(r, in, pictures->bytes));
    slot->pictures = *pictures;
    slot->fresh = true;
    *memory = slot->base;
    return MABN_OK;
}

int64_t mabn_rcnn_cuda_next_feed(const struct mabn_rcnn *r)
{
    return r->input ? r->input->fed : 0;
}

void mabn_rcnn_cuda_feed_again(struct mabn_rcnn *r, int64_t number)
{
    r->input->again = number;
}

/* New pictures, or where there are none, those of the last feed. */
static struct slot *choose(struct rcnn_input *in)
{
    int64_t number = in->fed - 1;
    if (in->again >= 0)
        number = in->again;
    else if (in->slots[in->fed % SLOTS].fresh)
        number = in->fed++;
    in->again = -1;
    return number < 0 ? NULL : &in->slots[number % SLOTS];
}

static mabn_status draw(const struct rcnn_input *in, const struct slot *slot,
                        const struct mabn_net_fed *to, void *stream)
{
    if (slot->pictures.raw)
        return mabn_cuda_draw_raw(to->x, in->staged, (const uint64_t *)in->staged, (int)to->n,
                                  (int)to->h, (int)to->w, to->padded, to->dtype, stream);
    return mabn_cuda_round_pixels(to->x, (const float *)in->staged, to->n * to->h * to->w,
                                  to->channels, to->padded, to->dtype, stream);
}

mabn_status mabn_rcnn_cuda_feed(void *context, struct mabn_net *net)
{
    struct mabn_rcnn *r = (struct mabn_rcnn *)context;
    void *stream = mabn_cuda_stream(r->device), *copies = mabn_cuda_copy_stream(r->device);
    const struct mabn_net_fed to = mabn_net_fed_of(net);
    struct rcnn_input *in = r->input;
    struct slot *slot = in ? choose(in) : NULL;
    if (!slot || slot->pictures.images != to.n || slot->pictures.height != to.h ||
        slot->pictures.width != to.w)
        return mabn_fail(MABN_ERR_ARG, "there are no pictures for the plan of %d of %d×%d",
                         (int)to.n, (int)to.h, (int)to.w);
    slot->fresh = false;
    MABN_TRY(mabn_cuda_event_order(in->taken, copies));
    MABN_TRY(mabn_cuda_copy_in(r->device, in->staged, slot->base, slot->pictures.bytes, copies));
    MABN_TRY(mabn_cuda_event_record(slot->uploaded, copies));
    MABN_TRY(mabn_cuda_event_order(slot->uploaded, stream));
    MABN_TRY(draw(in, slot, &to, stream));
    return mabn_cuda_event_record(in->taken, stream);
}
