/* What the ranks of tests/dist/dist.bats do: test_dist WHAT [NUMBER]. Rank 0 prints the results. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/signal.h"
#include "dist/comm.h"
#include "model/model.h"
#include "train/shards.h"

static struct mabn_comm *comm;
static int argument, rank, ranks;

#define CHECK(condition)                                                                        \
    do {                                                                                        \
        if (!(condition)) return mabn_fail(MABN_ERR_DIST, "line %d: %s", __LINE__, #condition); \
    } while (0)

static void sleep_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* A shard's numbers: of all sizes, so that the order of adding shows. */
static void fill(float *values, size_t n, int shard)
{
    uint32_t x = 2654435761u * (uint32_t)(shard + 1);
    for (size_t i = 0; i < n; i++) {
        x = 1664525u * x + 1013904223u;
        values[i] = (float)((double)x / 4294967296.0 - 0.5) * (float)(1 << (x >> 8) % 16);
    }
}

/* This rank's parts of n numbers, one after the other in a stack of buffers. */
static float *make_parts(size_t n)
{
    int shards = mabn_comm_shards(comm), first = mabn_comm_first_shard(comm);
    int local = mabn_comm_local_shards(comm), depth = 0;
    size_t most = (size_t)mabn_tree_depth(shards, first, local);
    float *stack = (float *)mabn_xcalloc(most * (n ? n : 1), sizeof *stack);
    for (int s = first; s < first + local; s++) {
        fill(stack + (size_t)depth++ * n, n, s);
        for (int m = mabn_tree_merges(shards, first, s); m > 0; m--, depth--)
            mabn_tree_add(MABN_DIST_F32, stack + (size_t)(depth - 2) * n,
                          stack + (size_t)(depth - 1) * n, n);
    }
    return depth == mabn_comm_parts(comm) ? stack : NULL;
}

static mabn_status sum_of(size_t n, uint64_t *hash)
{
    struct mabn_comm_sum sum = {.type = MABN_DIST_F32, .count = n};
    float *parts = make_parts(n), *result = (float *)mabn_xcalloc(n ? n : 1, sizeof *result);
    CHECK(parts);
    for (int i = 0; i < mabn_comm_parts(comm); i++)
        sum.parts[i] = parts + (size_t)i * n;
    sum.result = n % 2 ? result : parts;
    MABN_TRY(mabn_comm_sum_start(comm, &sum));
    MABN_TRY(mabn_comm_sum_wait(comm, &sum));
    MABN_TRY(mabn_comm_check_same(comm, "the sum", sum.result, n * sizeof *result));
    *hash = XXH3_64bits_withSeed(sum.result, n * sizeof *result, *hash);
    free(parts);
    free(result);
    return MABN_OK;
}

/* One line: a hash over sums of several sizes, of `argument` shards. */
static mabn_status test_sums(void)
{
    static const size_t sizes[] = {0, 1, 7, 100, 1000, 65537, 5000001};
    uint64_t hash = 0;
    MABN_TRY(mabn_comm_set_shards(comm, argument));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        MABN_TRY(sum_of(sizes[i], &hash));
    if (rank == 0) printf("sums %d %016llx\n", argument, (unsigned long long)hash);
    return MABN_OK;
}

/* Several sums under way, in order, while small waiting ones go past them. */
static mabn_status test_overlap(void)
{
    enum { SUMS = 4, N = 3000000 };
    struct mabn_comm_sum sums[SUMS];
    float *parts[SUMS];
    for (int i = 0; i < SUMS; i++) {
        parts[i] = make_parts(N);
        sums[i] = (struct mabn_comm_sum){
            .type = MABN_DIST_F32, .count = N, .parts = {parts[i]}, .result = parts[i]};
        MABN_TRY(mabn_comm_sum_start(comm, &sums[i]));
    }
    int64_t one = 1;
    MABN_TRY(mabn_comm_sum(comm, MABN_DIST_I64, &one, 1));
    CHECK(one == ranks);
    bool before = ranks > 1 && !mabn_comm_sum_test(comm, &sums[SUMS - 1]);
    for (int naps = 0; !mabn_comm_sum_test(comm, &sums[SUMS - 1]) && naps < 2000; naps++)
        sleep_ms(5);
    CHECK(mabn_comm_sum_test(comm, &sums[SUMS - 1])); /* with nobody waiting for it */
    for (int i = 0; i < SUMS; i++) {
        MABN_TRY(mabn_comm_sum_wait(comm, &sums[i]));
        CHECK(!memcmp(parts[i], parts[0], N * sizeof(float)));
    }
    if (rank == 0) printf("overlap %s\n", before ? "yes" : "no");
    for (int i = 0; i < SUMS; i++)
        free(parts[i]);
    return MABN_OK;
}

static mabn_status test_gather(void)
{
    size_t n = rank == 1 ? 0 : (size_t)(rank + 1) * 1000003;
    char *mine = (char *)mabn_xmalloc(n + 1);
    memset(mine, 'a' + rank, n);
    size_t *sizes = (size_t *)mabn_xcalloc((size_t)ranks, sizeof *sizes);
    void *all;
    MABN_TRY(mabn_comm_gather(comm, mine, n, &all, sizes));
    size_t at = 0;
    for (int r = 0; r < ranks && rank == 0; r++) {
        CHECK(sizes[r] == (r == 1 ? 0 : (size_t)(r + 1) * 1000003));
        for (size_t i = 0; i < sizes[r]; i++)
            CHECK(((char *)all)[at + i] == 'a' + r);
        at += sizes[r];
    }
    CHECK(rank == 0 || !all);
    mabn_free(all);
    free(mine);
    free(sizes);
    char text[40] = "";
    if (rank == 0) strcpy(text, "said by rank 0");
    MABN_TRY(mabn_comm_broadcast(comm, text, sizeof text));
    CHECK(!strcmp(text, "said by rank 0"));
    int64_t low[2] = {rank, -rank}, high[2] = {rank, -rank}, bits = 1 << rank;
    MABN_TRY(mabn_comm_fold(comm, MABN_COMM_MIN, low, 2));
    MABN_TRY(mabn_comm_fold(comm, MABN_COMM_MAX, high, 2));
    MABN_TRY(mabn_comm_fold(comm, MABN_COMM_OR, &bits, 1));
    CHECK(low[0] == 0 && low[1] == 1 - ranks && high[0] == ranks - 1 && high[1] == 0);
    CHECK(bits == (1 << ranks) - 1);
    if (rank == 0) printf("gather %zu\n", at);
    return MABN_OK;
}

static mabn_status test_same(void)
{
    int value = rank == 1 ? 7 : 8;
    return mabn_comm_check_same(comm, "the numbers", &value, sizeof value);
}

/* As --check-ranks: one weight of rank 1 is off by its last bit. */
static mabn_status test_parameters(void)
{
    struct mabn_device *device;
    struct mabn_model model;
    struct mabn_net *net;
    struct mabn_net_options options = {.batch = 1, .height = 8, .width = 8, .training = true};
    struct mabn_shards shards;
    size_t count;
    MABN_TRY(mabn_device_new(&device, MABN_DEVICE_CPU, 1));
    MABN_TRY(mabn_model_init(&model, "cifar-resnet8"));
    MABN_TRY(mabn_model_set_norm(&model, "bn"));
    MABN_TRY(mabn_model_build(&net, device, &model, &options));
    MABN_TRY(mabn_params_initialize(mabn_net_params(net), 1, MABN_PARAMS_INIT_FAN_OUT));
    mabn_shards_init(&shards, comm);
    MABN_TRY(mabn_shards_start(&shards, mabn_net_params(net)));
    MABN_TRY(mabn_shards_check(&shards, "after step 1"));
    float *values = mabn_params_values(mabn_net_params(net), &count);
    if (rank == 1) values[count / 2] = nextafterf(values[count / 2], 1);
    mabn_status status = mabn_shards_check(&shards, "after step 2");
    mabn_shards_release(&shards);
    mabn_net_free(net);
    mabn_device_free(device);
    return status;
}

static mabn_status test_who(void)
{
    for (int r = 0; r < ranks; r++) {
        MABN_TRY(mabn_comm_barrier(comm));
        if (r != rank) continue;
        printf("rank %d of %d, local %d of %d, %d threads, %s\n", rank, ranks,
               mabn_comm_local_rank(comm), mabn_comm_local_ranks(comm), mabn_comm_threads(comm),
               mabn_comm_binding(comm));
        fflush(stdout);
    }
    return MABN_OK;
}

/* ---- steps, and what befalls a rank at the 20th ---- */

static mabn_status no_trouble(void)
{
    return MABN_OK;
}

static mabn_status die(void)
{
    return raise(SIGKILL) ? MABN_ERR_DIST : MABN_OK;
}

static mabn_status freeze(void)
{
    return raise(SIGSTOP) ? MABN_ERR_DIST : MABN_OK;
}

static mabn_status stall(void)
{
    pid_t self = getpid();
    if (fork() == 0) {
        sleep_ms(3000);
        kill(self, SIGCONT);
        _exit(0);
    }
    return freeze();
}

static mabn_status get_stuck(void)
{
    mabn_comm_note(comm, 20, "reading data");
    sleep_ms(60000);
    return MABN_OK;
}

static mabn_status terminate(void)
{
    return raise(SIGTERM) ? MABN_ERR_DIST : MABN_OK;
}

static mabn_status fail(void)
{
    return mabn_fail(MABN_ERR_FORMAT, "'x.h5': the data are bad");
}

static mabn_status leave(void)
{
    exit(0);
}

static mabn_status step(int64_t number, bool *stop)
{
    double loss = 1;
    unsigned agreed;
    mabn_comm_note(comm, number, NULL);
    sleep_ms(5);
    MABN_TRY(mabn_comm_sum(comm, MABN_DIST_F64, &loss, 1));
    CHECK(loss == ranks);
    MABN_TRY(mabn_comm_vote(comm, mabn_stop_requested() != 0, &agreed));
    *stop = agreed != 0;
    return MABN_OK;
}

/* All ranks must leave after the same step: each tells it to the others. */
static mabn_status say_stopped(int64_t number)
{
    int64_t low = number, high = number;
    MABN_TRY(mabn_comm_fold(comm, MABN_COMM_MIN, &low, 1));
    MABN_TRY(mabn_comm_fold(comm, MABN_COMM_MAX, &high, 1));
    CHECK(low == high);
    if (rank == 0) printf("stopped together\n");
    return MABN_ERR_STOPPED;
}

static mabn_status steps(mabn_status (*trouble)(void), int64_t last)
{
    bool stop = false;
    mabn_signals_graceful();
    for (int64_t i = 1; i <= last; i++) {
        if (i == 20 && rank == argument) MABN_TRY(trouble());
        MABN_TRY(step(i, &stop));
        if (stop) return say_stopped(i);
    }
    if (rank == 0) printf("done\n");
    return MABN_OK;
}

static const struct {
    const char *name;
    mabn_status (*test)(void);
    mabn_status (*trouble)(void);
    int64_t steps;
} tests[] = {
    {"sums", test_sums, NULL, 0},
    {"overlap", test_overlap, NULL, 0},
    {"gather", test_gather, NULL, 0},
    {"same", test_same, NULL, 0},
    {"parameters", test_parameters, NULL, 0},
    {"who", test_who, NULL, 0},
    {"run", NULL, no_trouble, 60},
    {"long", NULL, no_trouble, 4000},
    {"die", NULL, die, 4000},
    {"freeze", NULL, freeze, 4000},
    {"stall", NULL, stall, 40},
    {"stuck", NULL, get_stuck, 40},
    {"term", NULL, terminate, 4000},
    {"fail", NULL, fail, 4000},
    {"leave", NULL, leave, 4000},
};

static int finish(mabn_status status)
{
    if (status == MABN_ERR_STOPPED) {
        mabn_comm_close(comm);
        return 75;
    }
    if (status == MABN_ERR_MISMATCH && rank) status = MABN_OK; /* rank 0 says it */
    if (status) {
        mabn_comm_fail(comm, 1);
        fprintf(stderr, "test_dist: %s\n", mabn_error_message());
        return 1;
    }
    mabn_comm_close(comm);
    return 0;
}

int main(int argc, char **argv)
{
    mabn_log_set_program("test_dist");
    mabn_signals_install();
    mabn_status status = mabn_comm_open(&comm);
    if (status) {
        if (!mabn_log_rank()) fprintf(stderr, "test_dist: %s\n", mabn_error_message());
        return 1;
    }
    rank = mabn_comm_rank(comm);
    ranks = mabn_comm_ranks(comm);
    argument = argc > 2 ? atoi(argv[2]) : 0;
    for (size_t i = 0; argc > 1 && i < sizeof tests / sizeof *tests; i++)
        if (!strcmp(argv[1], tests[i].name))
            return finish(tests[i].test ? tests[i].test()
                                        : steps(tests[i].trouble, tests[i].steps));
    fprintf(stderr, "usage: test_dist WHAT [NUMBER]\n");
    return 2;
}
