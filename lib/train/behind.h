/* Write a model file while training goes on: one at a time, in a thread of its own.
 *
 *     mabn_behind_start(b, copy, …)      returns at once
 *     mabn_behind_done(b)                polled: has it ended?
 *     mabn_behind_wait(b)                wait for its end; returns the status of the write
 *
 * All calls come from one thread. A zeroed struct is valid and has nothing under way. */
#ifndef MABN_TRAIN_BEHIND_H
#define MABN_TRAIN_BEHIND_H

#include <pthread.h>
#include <stdbool.h>

#include "base/status.h"
#include "train/model_file.h"

MABN_BEGIN_DECLS

struct mabn_behind { /* private */
    bool busy, threaded;
    int ended; /* set by the thread, atomically */
    pthread_t thread;
    struct mabn_model_copy *copy;
    char *folder;
    int keep;
    mabn_status status;
    char *message;
};

/* copy is taken over. With a folder, once the file is whole all but the newest `keep` checkpoints in it
 * are removed. Nothing may be under way. If no thread can be started, the file is written at once. */
void mabn_behind_start(struct mabn_behind *behind, struct mabn_model_copy *copy, const char *folder,
                       int keep);
bool mabn_behind_busy(const struct mabn_behind *behind);
bool mabn_behind_done(const struct mabn_behind *behind); /* busy, and wait would return at once */
MABN_MUST_USE mabn_status mabn_behind_wait(struct mabn_behind *behind);

MABN_END_DECLS
#endif
