#include "train/behind.h"

#include <signal.h>
#include <stdlib.h>

#include "base/mem.h"

static mabn_status work(struct mabn_behind *b)
{
    MABN_TRY(mabn_checkpoint_commit(b->writer));
    return b->folder ? mabn_checkpoint_prune(b->folder, b->keep) : MABN_OK;
}

static void *run(void *argument)
{
    struct mabn_behind *b = argument;
    b->status = work(b);
    b->message = b->status ? mabn_error_detach() : NULL;
    mabn_checkpoint_writer_free(b->writer);
    b->writer = NULL;
    __atomic_store_n(&b->ended, 1, __ATOMIC_RELEASE);
    return NULL;
}

void mabn_behind_start(struct mabn_behind *b, struct mabn_checkpoint_writer *writer,
                       const char *folder, int keep)
{
    sigset_t all, before;
    if (b->busy) MABN_BUG("a second model file behind the training");
    *b = (struct mabn_behind){.busy = true,
                              .writer = writer,
                              .folder = folder ? mabn_xstrdup(folder) : NULL,
                              .keep = keep};
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    b->threaded = !pthread_create(&b->thread, NULL, run, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!b->threaded) run(b);
}

bool mabn_behind_busy(const struct mabn_behind *b)
{
    return b->busy;
}

bool mabn_behind_done(const struct mabn_behind *b)
{
    return b->busy && __atomic_load_n(&b->ended, __ATOMIC_ACQUIRE);
}

mabn_status mabn_behind_wait(struct mabn_behind *b)
{
    if (!b->busy) return MABN_OK;
    if (b->threaded) pthread_join(b->thread, NULL);
    const mabn_status status = b->status;
    char *message = b->message;
    free(b->folder);
    *b = (struct mabn_behind){.busy = false};
    return status ? mabn_error_attach(status, message) : MABN_OK;
}
