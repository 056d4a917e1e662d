/* Several pieces of work of one process that advance in step: each runs up to a point where all have to
 * meet, then the next one does. It is for the shards of a rank whose norms need each other's sums in
 * the middle of a pass (norm/sync.h).
 *
 * Each piece has a thread of its own, because it is interrupted and resumed; the last one runs in the
 * caller's thread. Only one runs at a time, in the order 0, 1, …, so they share memory without locks,
 * and results do not depend on scheduling. OpenMP's thread count and the error message belong to a
 * thread; the message of a failure is passed to the caller. Signals go to the caller's thread. */
#ifndef MABN_DIST_LOCKSTEP_H
#define MABN_DIST_LOCKSTEP_H

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_lockstep;

/* count ≥ 1; MABN_ERR_LIMIT if the system has no more threads. The threads start now, and wait. */
MABN_MUST_USE mabn_status mabn_lockstep_new(struct mabn_lockstep **lockstep, int count);
void mabn_lockstep_free(struct mabn_lockstep *lockstep); /* NULL is fine */

/* work(context, i) for i = 0 … count−1. All must meet equally often. Returns when all have returned,
 * with the first failure; after one the others fail where they meet next. */
typedef mabn_status (*mabn_lockstep_work)(void *context, int i);
MABN_MUST_USE mabn_status mabn_lockstep_run(struct mabn_lockstep *lockstep, mabn_lockstep_work work,
                                            void *context);

/* From within work i. When all are here, `all` is called once, before any goes on. */
MABN_MUST_USE mabn_status mabn_lockstep_meet(struct mabn_lockstep *lockstep, int i,
                                             mabn_status (*all)(void *context), void *context);

MABN_END_DECLS
#endif
