#include "dist/lockstep.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"

struct seat {
    struct mabn_lockstep *lockstep;
    int i;
    pthread_t thread;
    pthread_cond_t called;
    enum { SEAT_AHEAD, SEAT_BUSY, SEAT_DONE } work; /* of this run */
};

struct mabn_lockstep {
    pthread_mutex_t lock;
    int count, started; /* threads beside the caller's */
    int turn;           /* the seat that may run; -1: none */
    bool leaving;
    mabn_lockstep_work work;
    void *context;
    mabn_status status; /* the first failure of a run */
    char *message;
    struct seat *seats;
};

/* ---- turns; all with the lock ---- */

static void call(struct mabn_lockstep *l, int i)
{
    l->turn = i;
    pthread_cond_signal(&l->seats[i].called);
}

/* The next one that has work, or the last one, which ends the run. */
static void pass_on(struct mabn_lockstep *l, int i)
{
    do
        i++;
    while (i < l->count - 1 && l->seats[i].work == SEAT_DONE);
    call(l, i);
}

static void wait_for_turn(struct mabn_lockstep *l, int i)
{
    while (l->turn != i && !l->leaving)
        pthread_cond_wait(&l->seats[i].called, &l->lock);
}

static void keep_failure(struct mabn_lockstep *l, mabn_status status)
{
    if (!status || l->status) return;
    l->status = status;
    l->message = mabn_error_detach();
}

/* ---- work ---- */

static void do_work(struct mabn_lockstep *l, int i)
{
    l->seats[i].work = SEAT_BUSY;
    pthread_mutex_unlock(&l->lock);
    const mabn_status status = l->work(l->context, i);
    pthread_mutex_lock(&l->lock);
    l->seats[i].work = SEAT_DONE;
    keep_failure(l, status);
}

static void *sit(void *argument)
{
    struct seat *seat = (struct seat *)argument;
    struct mabn_lockstep *l = seat->lockstep;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        wait_for_turn(l, seat->i);
        if (l->leaving) break;
        do_work(l, seat->i);
        pass_on(l, seat->i);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* The last one has returned. The others have, too, unless something failed. */
static void dismiss(struct mabn_lockstep *l)
{
    const int last = l->count - 1;
    for (int i = 0; i < last; i++) {
        if (l->seats[i].work == SEAT_DONE) continue;
        if (!l->status) MABN_BUG("work %d meets more often than work %d", i, last);
        call(l, i); /* it fails where it waits */
        wait_for_turn(l, last);
    }
}

mabn_status mabn_lockstep_run(struct mabn_lockstep *l, mabn_lockstep_work work, void *context)
{
    const int last = l->count - 1;
    pthread_mutex_lock(&l->lock);
    l->work = work;
    l->context = context;
    l->status = MABN_OK;
    for (int i = 0; i < l->count; i++)
        l->seats[i].work = SEAT_AHEAD;
    call(l, 0);
    wait_for_turn(l, last);
    do_work(l, last);
    dismiss(l);
    l->turn = -1;
    const mabn_status status = l->status;
    char *message = l->message;
    l->message = NULL;
    pthread_mutex_unlock(&l->lock);
    return status ? mabn_error_attach(status, message) : MABN_OK;
}

mabn_status mabn_lockstep_meet(struct mabn_lockstep *l, int i, mabn_status (*all)(void *context),
                               void *context)
{
    const int last = l->count - 1;
    pthread_mutex_lock(&l->lock);
    if (!l->status && i < last) {
        pass_on(l, i);
        wait_for_turn(l, i);
    } else if (!l->status) {
        for (int k = 0; k < last; k++)
            if (l->seats[k].work != SEAT_BUSY)
                MABN_BUG("work %d meets more often than work %d", last, k);
        keep_failure(l, all(context));
        if (last) {
            call(l, 0);
            wait_for_turn(l, last);
        }
    }
    const mabn_status status = l->status;
    pthread_mutex_unlock(&l->lock);
    return status ? mabn_fail(status, "another shard of this rank has failed") : MABN_OK;
}

/* ---- coming and going ---- */

mabn_status mabn_lockstep_new(struct mabn_lockstep **out, int count)
{
    struct mabn_lockstep *l = (struct mabn_lockstep *)mabn_xcalloc(1, sizeof *l);
    sigset_t all, before;
    *out = l;
    l->count = count;
    l->turn = -1;
    l->seats = (struct seat *)mabn_xcalloc((size_t)count, sizeof *l->seats);
    pthread_mutex_init(&l->lock, NULL);
    for (int i = 0; i < count; i++) {
        l->seats[i].lockstep = l;
        l->seats[i].i = i;
        pthread_cond_init(&l->seats[i].called, NULL);
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (l->started < count - 1 &&
           !pthread_create(&l->seats[l->started].thread, NULL, sit, &l->seats[l->started]))
        l->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (l->started == count - 1) return MABN_OK;
    mabn_lockstep_free(l);
    *out = NULL;
    return mabn_fail(MABN_ERR_LIMIT, "cannot start %d threads for the shards of this rank",
                     count - 1);
}

void mabn_lockstep_free(struct mabn_lockstep *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->leaving = true;
    for (int i = 0; i < l->started; i++)
        pthread_cond_signal(&l->seats[i].called);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->started; i++)
        pthread_join(l->seats[i].thread, NULL);
    for (int i = 0; i < l->count; i++)
        pthread_cond_destroy(&l->seats[i].called);
    pthread_mutex_destroy(&l->lock);
    free(l->message);
    free(l->seats);
    free(l);
}
