#include "dist/comm.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "dist/internal.h"

#ifndef MABN_LIBDIR
#define MABN_LIBDIR "/usr/local/lib"
#endif

/* ---- the plug-in ---- */

static const char *look(const char *name)
{
    return getenv(name);
}

/* Beside the program's own folder, as in a build and an installation; else where the library was to
 * be installed. */
static void *open_plugin(const char *name)
{
    static const char *const places[] = {"../lib/mabn", "../../lib/mabn", NULL};
    char program[PATH_MAX], path[2 * PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash) *slash = '\0';
    for (int i = 0; i < 3; i++) {
        if (places[i])
            snprintf(path, sizeof path, "%s/%s/mabn-mpi-%s.so", program, places[i], name);
        else
            snprintf(path, sizeof path, "%s/mabn/mabn-mpi-%s.so", MABN_LIBDIR, name);
        if (access(path, R_OK)) continue;
        /* Open MPI's own plug-ins look for its symbols among the global ones. */
        return dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    }
    return NULL;
}

static mabn_status load_mpi(struct mabn_comm *comm)
{
    const struct mabn_launcher *l = &comm->launcher;
    dlerror();
    void *plugin =
        strchr(l->mpi, '/') ? dlopen(l->mpi, RTLD_NOW | RTLD_GLOBAL) : open_plugin(l->mpi);
    if (!plugin) {
        const char *why = dlerror();
        return mabn_fail(MABN_ERR_DIST,
                         "started as %d ranks by %s, but mabn's plug-in for the MPI '%s' %s%s",
                         l->ranks, l->name, l->mpi,
                         why ? "does not load: " : "is not there: install that MPI and build again",
                         why ? why : "");
    }
    const struct mabn_mpi *(*table)(void);
    *(void **)&table = dlsym(plugin, "mabn_mpi_table");
    if (!table || table()->version != MABN_MPI_VERSION)
        return mabn_fail(MABN_ERR_DIST, "the MPI plug-in '%s' is of another version of mabn",
                         l->mpi);
    comm->mpi = table();
    return MABN_OK;
}

static mabn_status start_mpi(struct mabn_comm *comm)
{
    MABN_TRY(load_mpi(comm));
    MABN_TRY(mabn_worker_start(comm));
    if (comm->ranks == comm->launcher.ranks && comm->rank == comm->launcher.rank) return MABN_OK;
    return mabn_fail(MABN_ERR_DIST,
                     "started as %d ranks by %s, but the MPI library (%s) sees %d: it is not the "
                     "launcher's own; start with that MPI's mpirun, or name the right plug-in in "
                     "MABN_MPI",
                     comm->launcher.ranks, comm->launcher.name, comm->mpi->library(), comm->ranks);
}

/* ---- open and close ---- */

enum { SILENT_S = 10, STUCK_S = 27 };

static void read_limits(struct mabn_comm *comm)
{
    const char *text = getenv("MABN_TIMEOUT");
    double silent = SILENT_S, stuck = STUCK_S;
    if (text && *text) {
        int n = sscanf(text, "%lf,%lf", &silent, &stuck);
        if (n == 1) stuck = silent * STUCK_S / SILENT_S;
        if (n < 1 || !(silent >= 0 && silent < 1e6 && stuck >= 0 && stuck < 1e6)) {
            mabn_warn("MABN_TIMEOUT='%s' is not understood: expected seconds, as in 10,27", text);
            silent = SILENT_S, stuck = STUCK_S;
        }
    }
    comm->silent_ms = (int64_t)(1000 * silent);
    comm->stuck_ms = (int64_t)(1000 * stuck);
}

static void allocate(struct mabn_comm *comm)
{
    size_t n = (size_t)comm->ranks;
    comm->peers = (struct mabn_peer *)mabn_xcalloc(n, sizeof *comm->peers);
    comm->parts_of = (int *)mabn_xcalloc(n, sizeof *comm->parts_of);
    comm->votes = (unsigned *)mabn_xcalloc(n, sizeof *comm->votes);
    for (int i = 0; i < MABN_MPI_LANES; i++) {
        struct mabn_lane *lane = &comm->lanes[i];
        int **arrays[] = {&lane->send_counts, &lane->send_offsets, &lane->counts, &lane->offsets};
        for (int k = 0; k < 4; k++)
            *arrays[k] = (int *)mabn_xcalloc(n, sizeof **arrays[k]);
    }
}

static void release(struct mabn_comm *comm)
{
    for (int i = 0; i < MABN_MPI_LANES; i++) {
        struct mabn_lane *lane = &comm->lanes[i];
        free(lane->send_counts);
        free(lane->send_offsets);
        free(lane->counts);
        free(lane->offsets);
        mabn_free(lane->send);
        mabn_free(lane->receive);
    }
    free(comm->peers);
    free(comm->parts_of);
    free(comm->parts);
    free(comm->votes);
    free(comm->error);
    free(comm);
}

static void introduce(struct mabn_peer *me)
{
    gethostname(me->host, sizeof me->host - 1);
    me->pid = getpid();
    sched_getaffinity(0, sizeof me->cpus, &me->cpus);
}

static mabn_status meet(struct mabn_comm *comm)
{
    struct mabn_peer me;
    memset(&me, 0, sizeof me);
    introduce(&me);
    MABN_TRY(mabn_comm_all_gather(comm, &me, sizeof me, comm->peers));
    comm->local_rank = comm->local_ranks = 0;
    for (int r = 0; r < comm->ranks; r++) {
        if (strcmp(comm->peers[r].host, me.host)) continue;
        comm->local_rank += r < comm->rank;
        comm->local_ranks++;
    }
    mabn_bind(comm);
    return mabn_watchdog_start(comm);
}

static mabn_status connect_ranks(struct mabn_comm *comm)
{
    MABN_TRY(start_mpi(comm));
    allocate(comm);
    MABN_TRY(mabn_shards_plan(comm, comm->ranks));
    return meet(comm);
}

mabn_status mabn_comm_open(struct mabn_comm **out)
{
    struct mabn_comm *comm = (struct mabn_comm *)mabn_xcalloc(1, sizeof *comm);
    *out = NULL;
    comm->ranks = comm->local_ranks = 1;
    comm->threads = mabn_threads_available();
    pthread_mutex_init(&comm->gpu_lock, NULL);
    mabn_status status = mabn_launcher_detect(&comm->launcher, look);
    mabn_log_set_rank(comm->launcher.rank, comm->launcher.ranks);
    if (!status && comm->launcher.ranks > 1) {
        read_limits(comm);
        status = connect_ranks(comm);
    } else if (!status) {
        allocate(comm);
        introduce(&comm->peers[0]);
        status = mabn_shards_plan(comm, 1);
    }
    /* Half-way in, the threads may still use it: then it stays. */
    if (!status)
        *out = comm;
    else if (!comm->mpi)
        release(comm);
    return status;
}

static mabn_status finish_vote(struct mabn_comm *comm)
{
    if (!comm->mpi || !comm->voted) return MABN_OK;
    comm->voted = false;
    return mabn_worker_wait(comm, &comm->vote);
}

void mabn_comm_close(struct mabn_comm *comm)
{
    if (!comm) return;
    if (comm->mpi) {
        mabn_status status = finish_vote(comm);
        if (!status) status = mabn_comm_barrier(comm);
        mabn_watchdog_bye(comm);
        if (status) mabn_worker_abort(comm, 1);
        mabn_worker_leave(comm);
        mabn_watchdog_free(comm);
        if (comm->state != COMM_LEFT) return; /* the thread is stuck inside MPI */
    }
    release(comm);
}

void mabn_comm_fail(struct mabn_comm *comm, int exit_code)
{
    if (comm && comm->mpi) mabn_watchdog_fail(comm, exit_code, mabn_error_message());
}

/* ---- what it is ---- */

int mabn_comm_rank(const struct mabn_comm *comm)
{
    return comm->rank;
}

int mabn_comm_ranks(const struct mabn_comm *comm)
{
    return comm->ranks;
}

int mabn_comm_local_rank(const struct mabn_comm *comm)
{
    return comm->local_rank;
}

int mabn_comm_local_ranks(const struct mabn_comm *comm)
{
    return comm->local_ranks;
}

const char *mabn_comm_host(const struct mabn_comm *comm, int rank)
{
    return comm->peers[rank].host;
}

const char *mabn_comm_library(const struct mabn_comm *comm)
{
    return comm->mpi ? comm->mpi->library() : "one process";
}

int mabn_comm_threads(const struct mabn_comm *comm)
{
    return comm->threads;
}

const char *mabn_comm_binding(const struct mabn_comm *comm)
{
    return comm->binding;
}

mabn_status mabn_comm_set_shards(struct mabn_comm *comm, int shards)
{
    return mabn_shards_plan(comm, shards);
}

int mabn_comm_shards(const struct mabn_comm *comm)
{
    return comm->shards;
}

int mabn_comm_first_shard(const struct mabn_comm *comm)
{
    return comm->rank * comm->local_shards;
}

int mabn_comm_local_shards(const struct mabn_comm *comm)
{
    return comm->local_shards;
}

int mabn_comm_parts(const struct mabn_comm *comm)
{
    return comm->parts_of[comm->rank];
}

/* ---- once a step ---- */

static void start_vote(struct mabn_comm *comm, unsigned mine)
{
    comm->my_vote = mine;
    comm->vote = (struct mabn_comm_job){.advance = mabn_job_allgather,
                                        .send = &comm->my_vote,
                                        .receive = comm->votes,
                                        .bytes = sizeof mine,
                                        .lane = LANE_NOW};
    mabn_worker_post(comm, &comm->vote);
    comm->voted = true;
}

mabn_status mabn_comm_vote(struct mabn_comm *comm, unsigned mine, unsigned *agreed)
{
    bool before = comm->voted;
    *agreed = comm->mpi ? 0 : mine;
    if (!comm->mpi) return MABN_OK;
    MABN_TRY(finish_vote(comm));
    for (int r = 0; r < comm->ranks && before; r++)
        *agreed |= comm->votes[r];
    start_vote(comm, mine);
    return MABN_OK;
}

void mabn_comm_note(struct mabn_comm *comm, int64_t step, const char *doing)
{
    MABN_STORE(comm->watched.step, step);
    MABN_STORE(comm->watched.doing, doing);
}

double mabn_comm_waited(const struct mabn_comm *comm)
{
    return comm->waited;
}
