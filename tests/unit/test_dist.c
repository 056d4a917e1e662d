/* The tree of sums, the launcher's environment, shares of cores, and the one-process communicator.
 */
#include <stdbool.h>

#include "base/mem.h"
#include "dist/comm.h"
#include "dist/internal.h"
#include "dist/lockstep.h"
#include "tap.h"

/* ---- the tree ---- */

/* The tree of 6, written out: ((0+1)+(2+3))+(4+5). */
static void test_shape(void)
{
    struct mabn_span parts[MABN_TREE_MAX_PARTS];
    float v[6] = {1e8f, 1.25f, -1e8f, 3.5f, 7.125f, 1e-3f};
    float expected = ((v[0] + v[1]) + (v[2] + v[3])) + (v[4] + v[5]);
    void *buffers[6];
    for (int i = 0; i < 6; i++) {
        parts[i] = (struct mabn_span){i, 1};
        buffers[i] = &v[i];
    }
    mabn_tree_sum(MABN_DIST_F32, buffers, parts, 6, 1);
    tap_ok(v[0] == expected, "six leaves are added as the tree says");
    int n = mabn_tree_parts(parts, 12, 3, 3);
    tap_ok(n == 2 && parts[0].first == 3 && parts[0].count == 1 && parts[1].first == 4 &&
               parts[1].count == 2,
           "shards 3 to 5 of 12 are the parts 3 and 4+5");
    tap_ok(mabn_tree_parts(parts, 8, 4, 4) == 1 && parts[0].first == 4 && parts[0].count == 4,
           "half of 8 is one part");
}

/* As `ranks` ranks do it: each adds its own values on a stack, then the parts are added. */
static float sum_by(const float *leaves, int shards, int ranks)
{
    float *stack = (float *)mabn_xcalloc((size_t)shards, sizeof *stack);
    struct mabn_span *all = (struct mabn_span *)mabn_xcalloc((size_t)shards, sizeof *all);
    void **buffers = (void **)mabn_xcalloc((size_t)shards, sizeof *buffers);
    int depth = 0, total = 0, each = shards / ranks;
    for (int r = 0; r < ranks; r++) {
        struct mabn_span mine[MABN_TREE_MAX_PARTS];
        int base = depth, deepest = 0, n = mabn_tree_parts(mine, shards, r * each, each);
        for (int s = r * each; s < (r + 1) * each; s++) {
            stack[depth++] = leaves[s];
            if (depth - base > deepest) deepest = depth - base;
            for (int m = mabn_tree_merges(shards, r * each, s); m > 0; m--, depth--)
                mabn_tree_add(MABN_DIST_F32, &stack[depth - 2], &stack[depth - 1], 1);
        }
        if (depth - base != n || deepest != mabn_tree_depth(shards, r * each, each)) return NAN;
        for (int i = 0; i < n; i++)
            all[total++] = mine[i];
    }
    for (int i = 0; i < total; i++)
        buffers[i] = &stack[i];
    mabn_tree_sum(MABN_DIST_F32, buffers, all, shards, 1);
    float sum = stack[0];
    free(stack);
    free(all);
    free(buffers);
    return sum;
}

static void test_any_ranks(void)
{
    float leaves[96];
    bool same = true, chain_differs = false;
    for (int i = 0; i < 96; i++)
        leaves[i] = (float)((i * 7919 % 101) - 50) * (float)(1 << i % 17) / 3;
    for (int shards = 1; shards <= 96; shards++) {
        float one = sum_by(leaves, shards, 1), chain = 0;
        for (int ranks = 1; ranks <= shards; ranks++)
            if (shards % ranks == 0) same = same && sum_by(leaves, shards, ranks) == one;
        for (int i = 0; i < shards; i++)
            chain += leaves[i];
        chain_differs |= chain != one;
    }
    tap_ok(same, "1 to 96 shards: the same bits at every number of ranks that divides them");
    tap_ok(chain_differs, "where a plain sum would have others");
}

static void test_types(void)
{
    double d[2] = {0.5, 1e300}, e[2] = {0.25, 1};
    int64_t i[2] = {INT64_MAX, 5}, j[2] = {1, -7};
    mabn_tree_add(MABN_DIST_F64, d, e, 2);
    mabn_tree_add(MABN_DIST_I64, i, j, 2);
    tap_ok(d[0] == 0.75 && d[1] == 1e300 && i[0] == INT64_MIN && i[1] == -2,
           "doubles and integers");
}

/* ---- the launcher ---- */

static const char *const *environment;

static const char *look(const char *name)
{
    for (const char *const *e = environment; *e; e += 2)
        if (!strcmp(e[0], name)) return e[1];
    return NULL;
}

static void detect(const char *what, const char *const *variables, int rank, int ranks,
                   const char *mpi)
{
    struct mabn_launcher l;
    environment = variables;
    mabn_status status = mabn_launcher_detect(&l, look);
    tap_ok(!status && l.rank == rank && l.ranks == ranks &&
               (mpi ? l.mpi && !strcmp(l.mpi, mpi) : ranks == 1),
           "%s: rank %d of %d, %s", what, l.rank, l.ranks, l.mpi ? l.mpi : "no MPI");
}

static void test_launchers(void)
{
    detect("no launcher", (const char *const[]){NULL}, 0, 1, NULL);
    detect("mpirun",
           (const char *const[]){"OMPI_COMM_WORLD_SIZE", "4", "OMPI_COMM_WORLD_RANK", "3",
                                 "PMIX_RANK", "3", NULL},
           3, 4, "openmpi");
    detect("mpirun of one rank",
           (const char *const[]){"OMPI_COMM_WORLD_SIZE", "1", "PMIX_RANK", "0", NULL}, 0, 1, NULL);
    detect("mpiexec", (const char *const[]){"PMI_RANK", "1", "PMI_SIZE", "2", NULL}, 1, 2, "mpich");
    detect("srun --mpi=pmix",
           (const char *const[]){"PMIX_RANK", "5", "SLURM_STEP_NUM_TASKS", "8", "SLURM_STEP_ID",
                                 "0", "SLURM_PROCID", "5", NULL},
           5, 8, "openmpi");
    detect("srun --mpi=pmi2",
           (const char *const[]){"PMI_RANK", "5", "PMI_SIZE", "8", "SLURM_STEP_NUM_TASKS", "8",
                                 "SLURM_STEP_ID", "0", NULL},
           5, 8, "mpich");
    detect("a batch job's shell",
           (const char *const[]){"SLURM_PROCID", "0", "SLURM_NTASKS", "4", NULL}, 0, 1, NULL);
    detect("MABN_MPI",
           (const char *const[]){"PMI_RANK", "1", "PMI_SIZE", "2", "MABN_MPI", "/x/y.so", NULL}, 1,
           2, "/x/y.so");
    struct mabn_launcher l;
    environment = (const char *const[]){"SLURM_STEP_NUM_TASKS", "8", "SLURM_STEP_ID", "0", NULL};
    tap_ok(mabn_launcher_detect(&l, look) == MABN_ERR_DIST &&
               strstr(mabn_error_message(), "--mpi=pmix"),
           "srun without MPI is an error that says what to do");
}

/* ---- cores ---- */

static void test_shares(void)
{
    int order[] = {0, 8, 1, 9, 2, 10, 3};
    cpu_set_t share, seen;
    int least = 99, most = 0, total = 0;
    CPU_ZERO(&seen);
    for (int r = 0; r < 3; r++) {
        bool ok = mabn_bind_share(&share, order, 7, r, 3);
        int n = ok ? CPU_COUNT(&share) : 0;
        least = n < least ? n : least;
        most = n > most ? n : most;
        total += n;
        CPU_OR(&seen, &seen, &share);
    }
    tap_ok(total == 7 && CPU_COUNT(&seen) == 7 && least == 2 && most == 3,
           "7 cores for 3 ranks: 2 or 3 each, none twice");
    mabn_bind_share(&share, order, 7, 0, 3);
    tap_ok(CPU_ISSET(0, &share) && CPU_ISSET(8, &share), "neighbours stay together");
    tap_ok(!mabn_bind_share(&share, order, 7, 0, 8), "fewer cores than ranks: no share");
}

/* ---- one process ---- */

static void test_one_sum(struct mabn_comm *comm)
{
    float a[3] = {1, 2, 3}, b[3];
    struct mabn_comm_sum sum = {.type = MABN_DIST_F32, .count = 3, .parts = {a}, .result = b};
    tap_ok(!mabn_comm_sum_start(comm, &sum) && mabn_comm_sum_test(comm, &sum) &&
               !mabn_comm_sum_wait(comm, &sum) && !memcmp(a, b, sizeof a),
           "a sum of one rank is its part");
}

static void test_one(void)
{
    struct mabn_comm *comm;
    tap_status(mabn_comm_open(&comm), "opens without a launcher");
    tap_ok(mabn_comm_rank(comm) == 0 && mabn_comm_ranks(comm) == 1 &&
               mabn_comm_local_ranks(comm) == 1 && *mabn_comm_host(comm, 0) &&
               mabn_comm_threads(comm) > 0,
           "one rank");
    tap_ok(!mabn_comm_set_shards(comm, 12) && mabn_comm_local_shards(comm) == 12 &&
               mabn_comm_parts(comm) == 1 && mabn_comm_shards(comm) == 12,
           "carries all shards, which make one part");
    tap_ok(mabn_comm_set_shards(comm, 0) == MABN_ERR_ARG &&
               mabn_comm_set_shards(comm, MABN_MAX_SHARDS + 1) == MABN_ERR_ARG,
           "no shards and too many are refused");
    test_one_sum(comm);
    unsigned agreed = 9;
    tap_ok(!mabn_comm_vote(comm, 4, &agreed) && agreed == 4, "agrees with itself at once");
    void *all;
    size_t size;
    tap_ok(!mabn_comm_gather(comm, "bytes", 5, &all, &size) && size == 5 &&
               !memcmp(all, "bytes", 5),
           "gathers from itself");
    mabn_free(all);
    int64_t value = 3;
    tap_ok(!mabn_comm_fold(comm, MABN_COMM_MAX, &value, 1) && value == 3 &&
               !mabn_comm_barrier(comm) && !mabn_comm_broadcast(comm, &value, 8) &&
               !mabn_comm_check_same(comm, "it", &value, 8),
           "the rest does nothing");
    mabn_comm_fail(comm, 1);
    mabn_comm_close(comm);
    mabn_comm_close(NULL);
}

/* ---- in step ---- */

struct turns {
    struct mabn_lockstep *lockstep;
    int count, rounds, fails_at; /* the round in which work 1 fails; -1: none */
    int next, sum, meetings;     /* whose turn is next */
    bool in_order;
};

static mabn_status met(void *context)
{
    struct turns *t = (struct turns *)context;
    t->in_order = t->in_order && t->next == t->count;
    t->next = 0;
    t->meetings++;
    return t->meetings == 7 ? mabn_fail(MABN_ERR_DIST, "the seventh") : MABN_OK;
}

static mabn_status take_turns(void *context, int i)
{
    struct turns *t = (struct turns *)context;
    for (int round = 0; round < t->rounds; round++) {
        t->in_order = t->in_order && t->next == i;
        t->next++;
        t->sum += i;
        if (i == 1 && round == t->fails_at) return mabn_fail(MABN_ERR_FORMAT, "work 1 has failed");
        MABN_TRY(mabn_lockstep_meet(t->lockstep, i, met, t));
    }
    t->next++;
    return MABN_OK;
}

static void test_lockstep(void)
{
    for (int count = 1; count <= 4; count++) {
        struct turns t = {.count = count, .rounds = 5, .fails_at = -1, .in_order = true};
        tap_ok(!mabn_lockstep_new(&t.lockstep, count) &&
                   !mabn_lockstep_run(t.lockstep, take_turns, &t) && t.in_order &&
                   t.next == count && t.meetings == 5 && t.sum == 5 * count * (count - 1) / 2,
               "%d pieces of work take turns", count);
        t.next = t.meetings = t.sum = 0;
        tap_ok(!mabn_lockstep_run(t.lockstep, take_turns, &t) && t.in_order && t.meetings == 5,
               "once more on the same threads");
        for (int fails_at = 0; count > 1 && fails_at < 3; fails_at++) {
            t.next = t.meetings = 0;
            t.fails_at = fails_at;
            const mabn_status status = mabn_lockstep_run(t.lockstep, take_turns, &t);
            tap_ok(status == MABN_ERR_FORMAT && t.meetings == fails_at &&
                       !strcmp(mabn_error_message(), "work 1 has failed"),
                   "%d: the first failure comes out", count);
        }
        t.next = t.meetings = 0;
        t.fails_at = -1;
        t.rounds = 9;
        tap_ok(mabn_lockstep_run(t.lockstep, take_turns, &t) == MABN_ERR_DIST && t.meetings == 7 &&
                   !strcmp(mabn_error_message(), "the seventh"),
               "a failure of a meeting, too");
        mabn_lockstep_free(t.lockstep);
    }
    mabn_lockstep_free(NULL);
}

int main(void)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE",
                                            "SLURM_STEP_NUM_TASKS", "MABN_MPI"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]); /* this test may itself run under a launcher */
    test_shape();
    test_any_ranks();
    test_types();
    test_launchers();
    test_shares();
    test_one();
    test_lockstep();
    return tap_done();
}
