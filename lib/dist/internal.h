/* Private to this room. */
#ifndef MABN_DIST_INTERNAL_H
#define MABN_DIST_INTERNAL_H

#include <pthread.h>
#include <sched.h>

#include "dist/comm.h"
#include "dist/launcher.h"
#include "dist/mpi_plugin.h"

MABN_BEGIN_DECLS

enum { MABN_HOST_NAME = 64 };

/* For variables that several threads use without a lock. */
#define MABN_LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define MABN_STORE(x, value) __atomic_store_n(&(x), value, __ATOMIC_SEQ_CST)

struct mabn_peer {
    char host[MABN_HOST_NAME];
    int64_t pid;
    cpu_set_t cpus;
};

/* What the watchdog shows other ranks of this one; written by the calling thread with MABN_STORE. */
struct mabn_watched {
    int64_t step;
    const char *doing;     /* static text or NULL */
    int64_t entered;       /* number of the last collective begun */
    int64_t waiting_in;    /* number of the one waited for; 0: computing */
    int64_t waiting_since; /* ms, mabn_dist_now_ms */
};

/* Two collectives at a time: one that the caller waits for, and a sum in the background. */
enum { LANE_NOW, LANE_BEHIND };

/* The collectives of one lane of the plug-in, which the communication thread works off. */
struct mabn_lane {
    struct mabn_comm_job *first, *last; /* waiting; first is under way once `running` */
    bool running;
    int *send_counts, *send_offsets, *counts, *offsets; /* (ranks) */
    void *send, *receive;                               /* staging, as large as was needed */
    size_t send_bytes, receive_bytes;
    const char *allocation_failed; /* static text */
};

struct mabn_comm {
    int rank, ranks, local_rank, local_ranks, threads;
    struct mabn_peer *peers; /* (ranks) */
    char binding[128];
    struct mabn_launcher launcher;
    int64_t silent_ms, stuck_ms; /* of MABN_TIMEOUT; 0: off */

    int shards, local_shards;
    struct mabn_span *parts; /* of all ranks, in order */
    int *parts_of;           /* (ranks) how many each has */
    int all_parts;

    const struct mabn_mpi *mpi; /* NULL: one process */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, news;
    struct mabn_lane lanes[MABN_MPI_LANES];
    enum { COMM_STARTING, COMM_READY, COMM_LEAVING, COMM_LEFT } state;
    int abort_code; /* MABN_STORE; not 0: call MPI_Abort with it */
    char *error;    /* the thread's; NULL: none */
    int64_t number; /* of the last job */
    double waited;

    struct mabn_comm_job vote;
    bool voted;
    unsigned my_vote, *votes; /* (ranks) */

    struct mabn_watched watched;
    struct mabn_watchdog *watchdog;

    /* Set by nccl.c for the watchdog: tells whether a sum on the GPUs has failed. Under gpu_lock. */
    pthread_mutex_t gpu_lock;
    bool (*gpu_fault)(void *context, char *text, size_t size); /* NULL: no NCCL */
    void *gpu_context;
};

/* worker.c */
MABN_MUST_USE mabn_status mabn_worker_start(struct mabn_comm *comm); /* sets rank and ranks */
void mabn_worker_post(struct mabn_comm *comm, struct mabn_comm_job *job);
MABN_MUST_USE mabn_status mabn_worker_wait(struct mabn_comm *comm, struct mabn_comm_job *job);
void mabn_worker_leave(struct mabn_comm *comm);
void mabn_worker_abort(struct mabn_comm *comm, int code); /* from the watchdog; returns at once */
/* One collective each; counts and offsets stand in the lane. */
int mabn_job_allgather(struct mabn_comm *comm, struct mabn_comm_job *job);
int mabn_job_gather(struct mabn_comm *comm, struct mabn_comm_job *job);
int mabn_job_broadcast(struct mabn_comm *comm, struct mabn_comm_job *job);

/* sum.c: begins a sum's next collective: 1 begun, 0 the sum is done, -1 failed. */
int mabn_job_sum(struct mabn_comm *comm, struct mabn_comm_job *job);
MABN_MUST_USE mabn_status mabn_shards_plan(struct mabn_comm *comm, int shards);

/* bind.c: share becomes the local_rank-th of local_ranks blocks of `order`; false when there are fewer
 * cores than ranks. order (cores): neighbours in it share a physical core or package. */
bool mabn_bind_share(cpu_set_t *share, const int *order, int cores, int local_rank,
                     int local_ranks);
void mabn_bind(struct mabn_comm *comm); /* decides, binds, and fills threads and binding */

/* watchdog.c */
MABN_MUST_USE mabn_status mabn_watchdog_start(struct mabn_comm *comm);
void mabn_watchdog_fail(struct mabn_comm *comm, int exit_code, const char *message);
void mabn_watchdog_bye(struct mabn_comm *comm); /* from now on ranks may go */
void mabn_watchdog_free(struct mabn_comm *comm);

int64_t mabn_dist_now_ms(void);

MABN_END_DECLS
#endif
