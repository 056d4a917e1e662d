/* The communication thread. It makes every MPI call from MPI_Init to MPI_Finalize, with one collective
 * at a time on each lane. It sleeps between tests, because a thread that waits inside MPI uses up the
 * core that the rank's own threads need. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/internal.h"

/* EAGER_TESTS come without a sleep: a small message takes microseconds, a sleep a hundred. */
enum { EAGER_TESTS = 200, NAP_US = 50, IDLE_MS = 20, TURN_MS = 1000, LEAVE_SECONDS = 10 };

int64_t mabn_dist_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static struct timespec after_ms(int64_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

int mabn_job_allgather(struct mabn_comm *comm, struct mabn_comm_job *job)
{
    struct mabn_lane *lane = &comm->lanes[job->lane];
    if (job->stage++) return 0;
    for (int r = 0; r < comm->ranks; r++) {
        lane->counts[r] = job->bytes;
        lane->offsets[r] = r * job->bytes;
    }
    return comm->mpi->allgather(job->lane, job->send, job->bytes, job->receive, lane->counts,
                                lane->offsets)
               ? -1
               : 1;
}

int mabn_job_gather(struct mabn_comm *comm, struct mabn_comm_job *job)
{
    struct mabn_lane *lane = &comm->lanes[job->lane];
    if (job->stage++) return 0;
    return comm->mpi->gather(job->lane, job->send, job->bytes, job->receive, lane->counts,
                             lane->offsets)
               ? -1
               : 1;
}

int mabn_job_broadcast(struct mabn_comm *comm, struct mabn_comm_job *job)
{
    if (job->stage++) return 0;
    return comm->mpi->broadcast(job->lane, job->receive, job->bytes) ? -1 : 1;
}

/* ---- the thread ---- */

static void set_error(struct mabn_comm *comm, const char *text)
{
    pthread_mutex_lock(&comm->lock);
    if (!comm->error) comm->error = mabn_xstrdup(text);
    pthread_cond_broadcast(&comm->news);
    pthread_mutex_unlock(&comm->lock);
}

static void finish_job(struct mabn_comm *comm, struct mabn_lane *lane)
{
    pthread_mutex_lock(&comm->lock);
    struct mabn_comm_job *job = lane->first;
    lane->first = job->next;
    lane->running = false;
    job->finished = true;
    pthread_cond_broadcast(&comm->news);
    pthread_mutex_unlock(&comm->lock);
}

/* Advance a lane; true if there was something to do. */
static bool advance_lane(struct mabn_comm *comm, int index)
{
    struct mabn_lane *lane = &comm->lanes[index];
    int done = 0;
    if (lane->running) {
        if (comm->mpi->test(index, &done)) goto failed;
        if (!done) return false;
    }
    pthread_mutex_lock(&comm->lock);
    struct mabn_comm_job *job = lane->first;
    pthread_mutex_unlock(&comm->lock);
    if (!job) return false;
    lane->running = true;
    switch (job->advance(comm, job)) {
    case 0:
        finish_job(comm, lane);
        return true;
    case 1:
        return true;
    }
failed:
    set_error(comm, lane->allocation_failed ? lane->allocation_failed : comm->mpi->error());
    return false;
}

static bool has_work(const struct mabn_comm *comm)
{
    return comm->lanes[0].first || comm->lanes[1].first;
}

/* Wait a little for a job; false when it is time to leave. */
static bool wait_for_work(struct mabn_comm *comm, bool *work)
{
    pthread_mutex_lock(&comm->lock);
    if (!comm->abort_code && !(has_work(comm) && !comm->error) && comm->state == COMM_READY) {
        struct timespec until = after_ms(IDLE_MS);
        pthread_cond_timedwait(&comm->work, &comm->lock, &until);
    }
    *work = has_work(comm) && !comm->error;
    bool stay = comm->state == COMM_READY || *work;
    pthread_mutex_unlock(&comm->lock);
    if (MABN_LOAD(comm->abort_code)) comm->mpi->abort(comm->abort_code);
    return stay;
}

static void nap(int idle)
{
    struct timespec t = {0, NAP_US * 1000};
    if (idle < EAGER_TESTS)
        sched_yield();
    else
        nanosleep(&t, NULL);
}

static void serve(struct mabn_comm *comm)
{
    int idle = 0;
    bool work;
    while (wait_for_work(comm, &work)) {
        bool moved = false;
        for (int i = 0; i < MABN_MPI_LANES && !comm->error; i++)
            moved |= advance_lane(comm, i);
        if (!work) comm->mpi->progress();
        idle = moved ? 0 : idle + 1;
        if (work && idle) nap(idle);
    }
}

static void set_state(struct mabn_comm *comm, int state)
{
    pthread_mutex_lock(&comm->lock);
    comm->state = state;
    pthread_cond_broadcast(&comm->news);
    pthread_mutex_unlock(&comm->lock);
}

static void *communicate(void *argument)
{
    struct mabn_comm *comm = (struct mabn_comm *)argument;
    if (comm->mpi->start(&comm->rank, &comm->ranks)) {
        set_error(comm, comm->mpi->error());
        return NULL;
    }
    set_state(comm, COMM_READY);
    serve(comm);
    /* After a failure MPI_Finalize may wait for ever. */
    if (!comm->error && comm->mpi->finish()) set_error(comm, comm->mpi->error());
    set_state(comm, COMM_LEFT);
    return NULL;
}

/* ---- for the other threads ---- */

static mabn_status thread_error(const struct mabn_comm *comm)
{
    return mabn_fail(MABN_ERR_DIST, "%s: %s", comm->launcher.name, comm->error);
}

static int start_thread(struct mabn_comm *comm)
{
    sigset_t all, before;
    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&comm->thread, NULL, communicate, comm);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

/* The watchdog does not run yet, so the ranks that wait inside MPI_Init notice a frozen one. Rank 0 reports
 * it; if rank 0 froze, rank 1 does a little later. The first to exit ends the job. */
static mabn_status wait_for_start(struct mabn_comm *comm)
{
    const int rank = comm->launcher.rank;
    const struct timespec until = after_ms(comm->stuck_ms + TURN_MS * (rank < 2 ? rank : 2));
    int late = 0;
    pthread_mutex_lock(&comm->lock);
    while (comm->state == COMM_STARTING && !comm->error && !late)
        late = comm->stuck_ms ? pthread_cond_timedwait(&comm->news, &comm->lock, &until)
                              : pthread_cond_wait(&comm->news, &comm->lock);
    pthread_mutex_unlock(&comm->lock);
    if (comm->error) return thread_error(comm);
    if (!late) return MABN_OK;
    if (rank == 1) mabn_log_set_rank(0, comm->launcher.ranks);
    return mabn_fail(
        MABN_ERR_DIST,
        "%s: MPI has not started after %lld s: a rank froze or never came (MABN_TIMEOUT "
        "allows more)",
        comm->launcher.name, (long long)comm->stuck_ms / 1000);
}

mabn_status mabn_worker_start(struct mabn_comm *comm)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&comm->lock, NULL);
    pthread_cond_init(&comm->work, &monotonic);
    pthread_cond_init(&comm->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    errno = start_thread(comm);
    if (errno) return mabn_fail_errno("cannot start a thread");
    return wait_for_start(comm);
}

void mabn_worker_post(struct mabn_comm *comm, struct mabn_comm_job *job)
{
    struct mabn_lane *lane = &comm->lanes[job->lane];
    job->next = NULL;
    job->stage = 0;
    job->finished = false;
    pthread_mutex_lock(&comm->lock);
    job->number = ++comm->number;
    if (lane->first)
        lane->last->next = job;
    else
        lane->first = job;
    lane->last = job;
    pthread_cond_signal(&comm->work);
    pthread_mutex_unlock(&comm->lock);
    MABN_STORE(comm->watched.entered, job->number);
}

mabn_status mabn_worker_wait(struct mabn_comm *comm, struct mabn_comm_job *job)
{
    int64_t start = mabn_dist_now_ms();
    MABN_STORE(comm->watched.waiting_since, start);
    MABN_STORE(comm->watched.waiting_in, job->number);
    pthread_mutex_lock(&comm->lock);
    while (!job->finished && !comm->error)
        pthread_cond_wait(&comm->news, &comm->lock);
    bool finished = job->finished;
    pthread_mutex_unlock(&comm->lock);
    MABN_STORE(comm->watched.waiting_in, 0);
    comm->waited += (double)(mabn_dist_now_ms() - start) / 1000;
    return finished ? MABN_OK : thread_error(comm);
}

void mabn_worker_leave(struct mabn_comm *comm)
{
    struct timespec until = after_ms(LEAVE_SECONDS * 1000);
    int late = 0;
    pthread_mutex_lock(&comm->lock);
    comm->state = COMM_LEAVING;
    pthread_cond_signal(&comm->work);
    while (comm->state != COMM_LEFT && !late)
        late = pthread_cond_timedwait(&comm->news, &comm->lock, &until);
    pthread_mutex_unlock(&comm->lock);
    if (!late) pthread_join(comm->thread, NULL);
}

void mabn_worker_abort(struct mabn_comm *comm, int code)
{
    /* Without the lock, whose owner may be stuck. A missed signal costs IDLE_MS. */
    MABN_STORE(comm->abort_code, code);
    pthread_cond_signal(&comm->work);
}
