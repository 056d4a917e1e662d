/* Scratch memory of one thread: taken piece by piece, and returned by going back to a mark.
 *
 * Blocks stay for the next use, so that in the steady state nothing is allocated. Functions of this
 * room that need memory take a scratch and leave it as they found it. A zeroed scratch is valid and
 * empty. */
#ifndef MABN_DETECT_SCRATCH_H
#define MABN_DETECT_SCRATCH_H

#include <stddef.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum { MABN_SCRATCH_BLOCKS = 48 };

struct mabn_scratch {
    char *block[MABN_SCRATCH_BLOCKS];
    size_t size[MABN_SCRATCH_BLOCKS];
    int at;      /* the block pieces come from */
    size_t used; /* of it */
};

struct mabn_scratch_mark {
    int at;
    size_t used;
};

void mabn_scratch_release(struct mabn_scratch *s);
struct mabn_scratch_mark mabn_scratch_mark(const struct mabn_scratch *s);
void mabn_scratch_back(struct mabn_scratch *s, struct mabn_scratch_mark mark);

/* *(void **)out: count pieces of `size` bytes, aligned to 64, uninitialised. */
MABN_MUST_USE mabn_status mabn_scratch_take(struct mabn_scratch *s, void *out, size_t count,
                                            size_t size);

/* *out: a scratch of `bytes` in one piece of `s`, for a task of another thread. The task must need no
 * more; count 64 bytes more for each piece that it takes. *out is not released: going back in `s` ends
 * it. */
MABN_MUST_USE mabn_status mabn_scratch_lend(struct mabn_scratch *s, struct mabn_scratch *out,
                                            size_t bytes);

MABN_END_DECLS
#endif
