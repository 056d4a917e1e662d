#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/mem.h"

static int env_count(const char *name)
{
    const char *text = getenv(name);
    char *end;
    if (!text || !*text) return 0;
    long n = strtol(text, &end, 10);
    return (*end == '\0' || *end == ',') && n > 0 && n <= 4096 ? (int)n : 0;
}

int mabn_threads_available(void)
{
    cpu_set_t set;
    int n = env_count("OMP_NUM_THREADS");
    if (!n) n = env_count("SLURM_CPUS_PER_TASK");
    if (!n && !sched_getaffinity(0, sizeof set, &set)) n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

void mabn_threads_wait_asleep(char **argv)
{
    const char *name = argv[0] ? strrchr(argv[0], '/') : NULL;
    /* Set the name, which after executing that path would be "exe" for ps and pkill. */
    if (argv[0]) prctl(PR_SET_NAME, name ? name + 1 : argv[0]);
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    if (setenv("GOMP_SPINCOUNT", "2000", 1)) return;
    execv("/proc/self/exe", argv);
}

/* ---- parallel loop ---- */

struct loop {
    pthread_mutex_t lock;
    int64_t next, count, grain;
    mabn_work_fn work;
    void *context;
    mabn_status status; /* of the lowest failing index so far */
    int64_t failed_index;
    char *message;
};

struct loop_worker {
    struct loop *loop;
    int id;
};

static bool take(struct loop *loop, int64_t *first, int64_t *last)
{
    pthread_mutex_lock(&loop->lock);
    bool more = !loop->status && loop->next < loop->count;
    if (more) {
        int64_t left = loop->count - loop->next;
        *first = loop->next;
        loop->next = *last = *first + (left < loop->grain ? left : loop->grain);
    }
    pthread_mutex_unlock(&loop->lock);
    return more;
}

static void record_failure(struct loop *loop, mabn_status status, int64_t index)
{
    pthread_mutex_lock(&loop->lock);
    if (!loop->status || index < loop->failed_index) {
        free(loop->message);
        loop->status = status;
        loop->failed_index = index;
        loop->message = mabn_error_detach();
    }
    pthread_mutex_unlock(&loop->lock);
}

static void *run_worker(void *argument)
{
    struct loop_worker *worker = (struct loop_worker *)argument;
    struct loop *loop = worker->loop;
    int64_t first, last;
    while (take(loop, &first, &last)) {
        for (int64_t i = first; i < last; i++) {
            mabn_status status = loop->work(loop->context, i, worker->id);
            if (status) {
                record_failure(loop, status, i);
                break;
            }
        }
    }
    return NULL;
}

mabn_status mabn_parallel(int threads, int64_t count, int64_t grain, mabn_work_fn work,
                          void *context)
{
    struct loop loop = {
        .count = count, .grain = grain > 0 ? grain : 1, .work = work, .context = context};
    pthread_mutex_init(&loop.lock, NULL);
    if (threads < 1) threads = 1;
    if (threads > count) threads = count > 0 ? (int)count : 1;
    pthread_t *ids = (pthread_t *)mabn_xcalloc((size_t)threads, sizeof *ids);
    struct loop_worker *workers =
        (struct loop_worker *)mabn_xcalloc((size_t)threads, sizeof *workers);
    int started = 1; /* the caller is worker 0 */
    for (int i = 0; i < threads; i++)
        workers[i] = (struct loop_worker){&loop, i};
    /* It is no failure if a thread cannot be started: the others do its share. */
    while (started < threads && !pthread_create(&ids[started], NULL, run_worker, &workers[started]))
        started++;
    run_worker(&workers[0]);
    for (int i = 1; i < started; i++)
        pthread_join(ids[i], NULL);
    free(ids);
    free(workers);
    pthread_mutex_destroy(&loop.lock);
    return loop.status ? mabn_error_attach(loop.status, loop.message) : MABN_OK;
}
