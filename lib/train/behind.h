/* Commit a checkpoint (store/checkpoint.h) while training goes on: one at a time, in a thread of its own.
 *
 *     mabn_behind_start(b, writer, …)    returns at once
 *     mabn_behind_done(b)                polled: has it ended?
 *     mabn_behind_wait(b)                wait for its end; returns the status of the commit
 *
 * The file's bytes were written before, while the parameters stood still: the system's cache of files
 * holds them, so no copy of the network is needed. The commit then waits for the disk and reads the whole
 * file back, which takes long.
 *
 * All calls come from one thread. A zeroed struct is valid and has nothing under way. */
#ifndef MABN_TRAIN_BEHIND_H
#define MABN_TRAIN_BEHIND_H

#include <pthread.h>
#include <stdbool.h>

#include "base/status.h"
#include "store/checkpoint.h"

MABN_BEGIN_DECLS

struct mabn_behind { /* private */
    bool busy, threaded;
    int ended; /* set by the thread, atomically */
    pthread_t thread;
    struct mabn_checkpoint_writer *writer;
    char *folder;
    int keep;
    mabn_status status;
    char *message;
};

/* Takes ownership of writer. After a successful commit, all but the newest `keep` checkpoints in folder
 * are removed. folder NULL: none are. No other commit may be under way. If no thread can be started, the
 * file is committed before this returns. */
void mabn_behind_start(struct mabn_behind *behind, struct mabn_checkpoint_writer *writer,
                       const char *folder, int keep);
bool mabn_behind_busy(const struct mabn_behind *behind);
bool mabn_behind_done(const struct mabn_behind *behind); /* busy, and wait would return at once */
MABN_MUST_USE mabn_status mabn_behind_wait(struct mabn_behind *behind);

MABN_END_DECLS
#endif
