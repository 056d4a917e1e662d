/* The ranks of a run: R processes of one job, started by mpirun, mpiexec or srun. A program opens
 * the communicator once, at its start, and hands it down; without a launcher it is one process, no
 * MPI is opened, no thread started, and every call here returns at once.
 *
 * Order. Every rank makes the same calls that communicate, in the same order and with the same
 * sizes. They all come from one thread at a time.
 *
 * Shards and sums. A run has V shards; R divides V; rank r carries the V/R shards from rV/R on.
 * Sums are over shards along one fixed tree (dist/tree.h), whatever R is: the same bits on every
 * rank, and the same bits for every R, as long as what a shard contributes is the same. A rank
 * hands in its *parts*: it adds up its shards' buffers by mabn_tree_merges and then has
 * mabn_comm_parts buffers left, one when V/R is a power of two. By default V = R, and a rank's part
 * is its own buffer.
 *
 * A started sum is done by another thread while the caller computes. Calls that wait have a lane of their
 * own, so they do not queue behind started sums.
 *
 * Lost ranks. A thread on every rank keeps in touch with rank 0, by TCP and not by MPI. A rank that
 * dies, freezes or does not come to where the others wait ends the whole job: one line on stderr
 * names the rank, its host and its step, and all ranks end with status MABN_EXIT_LOST. (If the launcher
 * notices a dead rank first, it ends the job with a status of its own.) MABN_TIMEOUT in the
 * environment changes the limits: seconds of silence, then seconds of waiting ("10,27"); 0
 * turns a limit off, which a debugger needs. */
#ifndef MABN_DIST_COMM_H
#define MABN_DIST_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dist/tree.h"

MABN_BEGIN_DECLS

enum { MABN_EXIT_LOST = 81 };

struct mabn_comm;

/* Find the other ranks; see that MPI knows as many as the launcher started; bind this process to
 * its share of the host's cores; start the watchdog; give the log this rank's number. On failure
 * *comm is NULL, and mabn_log's rank is set all the same, so that one rank can say it for all. */
MABN_MUST_USE mabn_status mabn_comm_open(struct mabn_comm **comm);
/* Wait for all ranks, then leave. NULL is fine. All ranks must come here, or one must fail. */
void mabn_comm_close(struct mabn_comm *comm);
/* End the job because of this rank. Rank 0 prints this thread's message (base/status.h), only the first
 * one if several ranks fail, and its own before others'. Every rank exits with exit_code. With one
 * process it prints nothing and returns. */
void mabn_comm_fail(struct mabn_comm *comm, int exit_code);

int mabn_comm_rank(const struct mabn_comm *comm);
int mabn_comm_ranks(const struct mabn_comm *comm);
int mabn_comm_local_rank(const struct mabn_comm *comm); /* among the ranks of this host */
int mabn_comm_local_ranks(const struct mabn_comm *comm);
const char *mabn_comm_host(const struct mabn_comm *comm, int rank);
/* "one process", or the MPI's own name. */
const char *mabn_comm_library(const struct mabn_comm *comm);
/* Threads for this rank: OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, else its share of the cores. */
int mabn_comm_threads(const struct mabn_comm *comm);
/* "bound to cores 0-3", "not bound: …", for a log; "" for one process. */
const char *mabn_comm_binding(const struct mabn_comm *comm);

/* ---- shards ---- */

/* V, a multiple of R and at most MABN_MAX_SHARDS. Not while a sum is under way. */
MABN_MUST_USE mabn_status mabn_comm_set_shards(struct mabn_comm *comm, int shards);
int mabn_comm_shards(const struct mabn_comm *comm);
int mabn_comm_first_shard(const struct mabn_comm *comm);
int mabn_comm_local_shards(const struct mabn_comm *comm);
int mabn_comm_parts(const struct mabn_comm *comm);

/* ---- sums over shards ---- */

struct mabn_comm_job { /* private */
    struct mabn_comm_job *next;
    int (*advance)(struct mabn_comm *comm, struct mabn_comm_job *job);
    const void *send;
    void *receive;
    int bytes, lane;
    int64_t number;
    size_t done; /* elements of a sum */
    int stage;
    bool finished;
};

/* A sum under way: the caller's storage, untouched from start until wait. */
struct mabn_comm_sum {
    enum mabn_dist_type type;
    size_t count;
    void *parts[MABN_TREE_MAX_PARTS]; /* (mabn_comm_parts) buffers (count); overwritten */
    void *result;                     /* (count); may be parts[0] */
    struct mabn_comm_job job;
};

MABN_MUST_USE mabn_status mabn_comm_sum_start(struct mabn_comm *comm, struct mabn_comm_sum *sum);
/* Whether the sum is done, without waiting. After a failure it stays false: wait gives the error. */
bool mabn_comm_sum_test(struct mabn_comm *comm, struct mabn_comm_sum *sum);
MABN_MUST_USE mabn_status mabn_comm_sum_wait(struct mabn_comm *comm, struct mabn_comm_sum *sum);
/* For small things: waits, in place. values: (mabn_comm_parts)(count), one part after the other;
 * the sum is left in the first. */
MABN_MUST_USE mabn_status mabn_comm_sum(struct mabn_comm *comm, enum mabn_dist_type type,
                                        void *values, size_t count);
/* Likewise of shards: values (mabn_comm_local_shards)(count), a row for each of this rank. The sum over
 * all shards is left in the first; the other rows are overwritten. */
MABN_MUST_USE mabn_status mabn_comm_sum_shards(struct mabn_comm *comm, enum mabn_dist_type type,
                                               void *values, size_t count);

/* ---- over ranks ---- */

MABN_MUST_USE mabn_status mabn_comm_barrier(struct mabn_comm *comm);
/* Rank 0's n bytes to all ranks. */
MABN_MUST_USE mabn_status mabn_comm_broadcast(struct mabn_comm *comm, void *bytes, size_t n);
/* values (count), in place: each becomes the minimum, maximum or OR over the ranks, on all of them. */
enum mabn_comm_fold { MABN_COMM_MIN, MABN_COMM_MAX, MABN_COMM_OR };
MABN_MUST_USE mabn_status mabn_comm_fold(struct mabn_comm *comm, enum mabn_comm_fold fold,
                                         int64_t *values, int count);
/* Every rank's bytes to rank 0, in the order of ranks. *all (mabn_free) and sizes (ranks) are set
 * on rank 0 alone; elsewhere *all is NULL. Ranks may give different n, also 0. */
MABN_MUST_USE mabn_status mabn_comm_gather(struct mabn_comm *comm, const void *bytes, size_t n,
                                           void **all, size_t *sizes);
/* Every rank's `bytes` bytes to all: all (ranks)(bytes). */
MABN_MUST_USE mabn_status mabn_comm_all_gather(struct mabn_comm *comm, const void *mine,
                                               size_t bytes, void *all);
/* All ranks hold the same bytes, or MABN_ERR_MISMATCH on all, with the first rank that differs from
 * rank 0. what: "the options", "the parameters at step 10". Compares checksums. */
MABN_MUST_USE mabn_status mabn_comm_check_same(struct mabn_comm *comm, const char *what,
                                               const void *bytes, size_t n);

/* ---- once a step ---- */

/* *agreed is the OR of what all ranks gave in their *previous* call, 0 at the first. Called once a
 * step, it shows a signal that reached one rank to all ranks after the same step. It waits only for
 * ranks that have not made the previous call. With one process *agreed is mine. */
MABN_MUST_USE mabn_status mabn_comm_vote(struct mabn_comm *comm, unsigned mine, unsigned *agreed);
/* For the watchdog's line: the step under way, and what this rank does ("reading data", a static
 * string, or NULL). */
void mabn_comm_note(struct mabn_comm *comm, int64_t step, const char *doing);
/* Seconds this rank has waited for others so far. */
double mabn_comm_waited(const struct mabn_comm *comm);

MABN_END_DECLS
#endif
