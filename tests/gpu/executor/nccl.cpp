/* A stand-in for NCCL (libraries.h): sums between processes of one machine, through a file in /dev/shm
 * whose name is the unique id.
 *
 * It is non-blocking as NCCL is. A call says "in progress", the next few questions say so too, and only
 * then the sum stands in its stream; another call before is a fault. Sums of one communicator run in
 * the order of their calls, whatever their streams. Calls may be captured; then a sum runs whenever its
 * graph does, and must be in the same place as the other ranks'. Where ranks do not call the same sum (count, type,
 * how manieth) it says so and the communicator has failed. The sum is that of a ring: a chunk's begins with
 * another rank than the next one's, so that no test can take the order for lib's own. A process that
 * has died makes the others wait for ever, with ncclRemoteError for those who ask.
 *
 * MABN_EXECUTOR_NCCL in the environment offers it; as "break:N" rank 1's sum N fails as a network does:
 * it never ends, and only those who ask hear why. */
#include <cuda_runtime.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <utility>

#include "libraries.h"

using namespace executor;

namespace
{

enum { MOST_RANKS = 16, CHUNK = 1 << 16 };
enum { SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6 };

struct call {
    uint64_t number;
    size_t count;
    int type, op;
};

struct shared {
    std::atomic<int> there, finalized;
    std::atomic<uint64_t> arrived[MOST_RANKS]; /* barriers that the rank has reached */
    std::atomic<int> pid[MOST_RANKS];
    char gpu[MOST_RANKS][64];
    struct call calls[MOST_RANKS];
    alignas(64) char data[MOST_RANKS][CHUNK];
};

struct communicator {
    int rank, ranks;
    struct shared *all;
    char path[128];
    bool ready = false, finalizing = false;
    int questions = 0;             /* that still say "in progress" */
    std::function<void()> pending; /* what the last call does once they are asked */
    std::atomic<int> failed{MABN_NCCL_SUCCESS};
    std::string said;
    uint64_t barriers = 0, number = 0; /* sums that have run */
    int calls = 0;
    cudaStream_t last = nullptr;      /* of the sum called before */
    const void *last_graph = nullptr; /* its capture */
    bool queued = false;
};

std::string last_said;

communicator *of(void *handle)
{
    return static_cast<communicator *>(handle);
}

int refuse(communicator *c, int result, const std::string &why)
{
    last_said = why;
    if (c) c->said = why;
    if (c) c->failed = result;
    fprintf(stderr, "the executor's NCCL: %s\n", why.c_str());
    return result;
}

/* ---- meeting ---- */

void pause_shortly()
{
    const struct timespec t = {0, 50000};
    nanosleep(&t, nullptr);
}

/* As a kernel that spins, it comes back only with the others; what it can tell is who is gone. */
bool meet(communicator *c)
{
    const uint64_t mine = ++c->barriers;
    c->all->arrived[c->rank] = mine;
    for (int r = 0; r < c->ranks; r++)
        for (int spins = 0; c->all->arrived[r] < mine; spins++) {
            if (spins < 200) {
                sched_yield();
                continue;
            }
            if (kill(c->all->pid[r], 0) && c->failed == MABN_NCCL_SUCCESS) {
                c->said = formatted("rank %d is gone", r);
                c->failed = REMOTE_ERROR;
            }
            pause_shortly();
        }
    return c->failed == MABN_NCCL_SUCCESS;
}

/* ---- sums ---- */

size_t width(int type)
{
    return type == MABN_NCCL_FLOAT32 ? 4 : 8;
}

template <typename T> void add_ring(communicator *c, void *to, size_t n, int first)
{
    T *out = static_cast<T *>(to);
    for (size_t i = 0; i < n; i++) {
        T sum = 0;
        for (int k = 0; k < c->ranks; k++) {
            const T *from = reinterpret_cast<const T *>(c->all->data[(first + k) % c->ranks]);
            sum = k ? sum + from[i] : from[i];
        }
        out[i] = sum;
    }
}

bool agree(communicator *c, const struct call &mine)
{
    c->all->calls[c->rank] = mine;
    if (!meet(c)) return false;
    const struct call &first = c->all->calls[0];
    const bool same = first.number == mine.number && first.count == mine.count &&
                      first.type == mine.type && first.op == mine.op;
    if (!same)
        refuse(c, INVALID_USAGE,
               formatted("rank %d's sum %lu is of %zu values of type %d, rank 0's %lu of %zu of %d",
                         c->rank, (unsigned long)mine.number, mine.count, mine.type,
                         (unsigned long)first.number, first.count, first.type));
    return same;
}

void fail_as_asked(communicator *c, uint64_t number)
{
    const char *when = getenv("MABN_EXECUTOR_NCCL");
    if (c->rank != 1 || strncmp(when, "break:", 6) || number != strtoull(when + 6, nullptr, 10))
        return;
    c->said = "the cable was cut";
    c->failed = SYSTEM_ERROR;
    for (;;)
        pause_shortly();
}

void run(communicator *c, const void *send, void *receive, struct call mine)
{
    mine.number = c->number++;
    fail_as_asked(c, mine.number);
    if (c->failed != MABN_NCCL_SUCCESS || !agree(c, mine)) return;
    const size_t bytes = width(mine.type), each = CHUNK / bytes;
    int turn = 0;
    for (size_t done = 0; done < mine.count; done += each, turn++) {
        const size_t n = std::min(each, mine.count - done);
        memcpy(c->all->data[c->rank], static_cast<const char *>(send) + done * bytes, n * bytes);
        if (!meet(c)) return;
        void *to = static_cast<char *>(receive) + done * bytes;
        if (mine.type == MABN_NCCL_FLOAT32)
            add_ring<float>(c, to, n, turn % c->ranks);
        else if (mine.type == MABN_NCCL_FLOAT64)
            add_ring<double>(c, to, n, turn % c->ranks);
        else
            add_ring<int64_t>(c, to, n, turn % c->ranks);
        if (!meet(c)) return;
    }
}

/* The stream waits for the communicator's sum before, where that is in another. A graph's first sum does
 * not: lib launches graphs behind all sums before. */
void queue(communicator *c, const void *send, void *receive, struct call mine, cudaStream_t stream)
{
    cudaEvent_t event;
    const void *graph = capture_of(stream);
    if (c->queued && c->last != stream && c->last_graph == graph) {
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
        cudaEventRecord(event, c->last);
        cudaStreamWaitEvent(stream, event, 0);
        cudaEventDestroy(event);
    }
    c->last = stream;
    c->last_graph = graph;
    c->queued = true;
    submit(stream, [=] {
        run(c, send, receive, mine);
        return cudaSuccess;
    });
}

/* ---- the functions ---- */

int get_version(int *version)
{
    *version = 22809;
    return MABN_NCCL_SUCCESS;
}

const char *get_error_string(int result)
{
    switch (result) {
    case MABN_NCCL_SUCCESS:
        return "no error";
    case SYSTEM_ERROR:
        return "unhandled system error";
    case INVALID_ARGUMENT:
        return "invalid argument";
    case INVALID_USAGE:
        return "invalid usage";
    case REMOTE_ERROR:
        return "remote process exited or there was a network error";
    default:
        return "NCCL operation in progress";
    }
}

const char *get_last_error(void *handle)
{
    return handle ? of(handle)->said.c_str() : last_said.c_str();
}

int get_unique_id(struct mabn_nccl_id *id)
{
    static int count;
    snprintf(id->bytes, sizeof id->bytes, "/dev/shm/mabn-nccl-%d-%d", int(getpid()), count++);
    const int fd = open(id->bytes, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct shared)))
        return refuse(nullptr, SYSTEM_ERROR, formatted("cannot make '%s'", id->bytes));
    close(fd);
    return MABN_NCCL_SUCCESS;
}

bool good(const struct mabn_nccl_config *config)
{
    return config && config->size == sizeof *config && config->magic == 0xcafebeef &&
           config->version == MABN_NCCL_OLDEST && config->blocking == 0 &&
           config->cluster == INT_MIN && config->least_blocks == INT_MIN &&
           config->most_blocks == INT_MIN && !config->network;
}

int comm_init(void **handle, int ranks, struct mabn_nccl_id id, int rank,
              struct mabn_nccl_config *config)
{
    if (!good(config) || ranks < 1 || ranks > MOST_RANKS || rank < 0 || rank >= ranks)
        return refuse(nullptr, INVALID_ARGUMENT, "a communicator that cannot be");
    const int fd = open(id.bytes, O_RDWR);
    void *map =
        fd < 0 ? MAP_FAILED
               : mmap(nullptr, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (map == MAP_FAILED)
        return refuse(nullptr, SYSTEM_ERROR, formatted("no such id: '%.100s'", id.bytes));
    communicator *c = new communicator;
    c->rank = rank;
    c->ranks = ranks;
    c->all = static_cast<struct shared *>(map);
    memcpy(c->path, id.bytes, sizeof c->path);
    cudaDeviceGetPCIBusId(c->all->gpu[rank], sizeof c->all->gpu[rank], 0);
    c->all->pid[rank] = getpid();
    c->all->there++;
    count_object(1);
    *handle = c;
    return MABN_NCCL_IN_PROGRESS;
}

/* All are there: now it is a communicator. */
void complete(communicator *c)
{
    c->ready = true;
    c->questions = 2;
    if (c->rank == 0) unlink(c->path);
    for (int r = 0; r < c->rank; r++)
        if (!strcmp(c->all->gpu[r], c->all->gpu[c->rank]))
            refuse(c, INVALID_USAGE,
                   formatted("duplicate GPU: ranks %d and %d have %s", r, c->rank, c->all->gpu[r]));
}

int get_async_error(void *handle, int *result)
{
    communicator *c = of(handle);
    if (!c->ready && c->all->there == c->ranks) complete(c);
    *result = c->failed;
    if (*result != MABN_NCCL_SUCCESS) return MABN_NCCL_SUCCESS;
    *result = MABN_NCCL_IN_PROGRESS;
    if (!c->ready || (c->finalizing && c->all->finalized < c->ranks)) return MABN_NCCL_SUCCESS;
    if (c->questions > 0 && --c->questions > 0) return MABN_NCCL_SUCCESS;
    if (c->pending) std::exchange(c->pending, nullptr)();
    *result = MABN_NCCL_SUCCESS;
    return MABN_NCCL_SUCCESS;
}

int check_idle(communicator *c, const char *call)
{
    if (c->failed != MABN_NCCL_SUCCESS) return c->failed;
    if (c->ready && !c->questions && !c->finalizing) return MABN_NCCL_SUCCESS;
    return refuse(c, INVALID_USAGE, formatted("%s while another call is in progress", call));
}

int all_reduce(const void *send, void *receive, size_t count, int type, int op, void *handle,
               void *stream)
{
    communicator *c = of(handle);
    const int idle = check_idle(c, "ncclAllReduce");
    if (idle != MABN_NCCL_SUCCESS) return idle;
    const bool known =
        type == MABN_NCCL_FLOAT32 || type == MABN_NCCL_FLOAT64 || type == MABN_NCCL_INT64;
    if (!known || op != MABN_NCCL_SUM || !stream)
        return refuse(c, INVALID_ARGUMENT, formatted("a sum of type %d by %d", type, op));
    if (!on_device(send, count * width(type)) || !on_device(receive, count * width(type)))
        return refuse(c, INVALID_ARGUMENT, "a sum of memory that is not the GPU's");
    const struct call mine = {0, count, type, op};
    const cudaStream_t in = static_cast<cudaStream_t>(stream);
    count_run();
    c->questions = c->calls++ % 3;
    if (!c->questions) {
        queue(c, send, receive, mine, in);
        return MABN_NCCL_SUCCESS;
    }
    c->pending = [=] { queue(c, send, receive, mine, in); };
    return MABN_NCCL_IN_PROGRESS;
}

int comm_finalize(void *handle)
{
    communicator *c = of(handle);
    const int idle = check_idle(c, "ncclCommFinalize");
    if (idle != MABN_NCCL_SUCCESS) return idle;
    cudaDeviceSynchronize(); /* all that was queued is flushed */
    c->finalizing = true;
    c->all->finalized++;
    return MABN_NCCL_IN_PROGRESS;
}

int comm_abort(void *handle)
{
    communicator *c = of(handle);
    if (!c->ready) unlink(c->path);
    munmap(c->all, sizeof *c->all);
    delete c;
    count_object(-1);
    return MABN_NCCL_SUCCESS;
}

int comm_destroy(void *handle)
{
    communicator *c = of(handle);
    if (!c->finalizing || c->all->finalized < c->ranks)
        return refuse(c, INVALID_USAGE, "ncclCommDestroy before ncclCommFinalize is through");
    return comm_abort(handle);
}

} // namespace

namespace executor
{

const struct mabn_nccl_calls nccl = {
    get_version,     get_error_string, get_last_error, get_unique_id, comm_init,
    get_async_error, comm_finalize,    comm_destroy,   comm_abort,    all_reduce,
};

} // namespace executor
