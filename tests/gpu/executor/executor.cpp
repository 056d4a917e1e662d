/* The executor's scheduler. A block's threads are fibers of one pool. In a round each runs until it
 * leaves, or waits at a barrier or for its warp, then the next; after the round the scheduler
 * releases those that have met. When none can run and nobody can be released, the block is stuck:
 * that is the fault, told with what each thread waits for. A fault leaves the fibers where they are
 * and starts them anew for the next launch. */
#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdlib>
#include <map>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/* ---- changing stacks ---- */

#if defined(__x86_64__)

/* swapcontext costs two system calls a switch, and more under AddressSanitizer, and tests switch
 * millions of times. The registers that a call must preserve are pushed on the old stack and popped
 * from the new. */
struct stack_place {
    void *sp;
};
extern "C" void mabn_executor_swap(struct stack_place *from, const struct stack_place *to);
asm(".text\n"
    ".globl mabn_executor_swap\n"
    ".type mabn_executor_swap, @function\n"
    "mabn_executor_swap:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n"
    "    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq (%rsi), %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n"
    "    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size mabn_executor_swap, .-mabn_executor_swap\n");

static void place_at_start(struct stack_place *place, void *stack, size_t size, void (*entry)())
{
    uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t(15);
    void **sp = reinterpret_cast<void **>(top);
    *--sp = nullptr; /* where entry would return to */
    *--sp = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--sp = nullptr;
    place->sp = sp;
}

#else

struct stack_place {
    ucontext_t context;
};
static void mabn_executor_swap(struct stack_place *from, const struct stack_place *to)
{
    swapcontext(&from->context, &to->context);
}
static void place_at_start(struct stack_place *place, void *stack, size_t size, void (*entry)())
{
    getcontext(&place->context);
    place->context.uc_stack.ss_sp = stack;
    place->context.uc_stack.ss_size = size;
    place->context.uc_link = nullptr;
    makecontext(&place->context, entry, 0);
}

#endif

namespace executor
{
namespace
{

enum state { READY, AT_BARRIER, AT_WARP_BARRIER, AT_EXCHANGE, DONE };

constexpr size_t STACK = 128 * 1024;

struct fiber {
    struct stack_place place;
    void *stack = nullptr;
    void *fake_stack = nullptr;
    bool started = false; /* the stack is in use, if only by fiber_main */
    bool fresh = false;   /* the thread has not begun */
    enum state state = DONE;
    uint3 thread;
    unsigned rank;
    site at;
    unsigned mask;
    uint64_t given;
    uint64_t lanes[32];

    ~fiber()
    {
        free(stack);
    }
};

std::vector<std::unique_ptr<fiber>> pool;
fiber *current;
struct stack_place scheduler;
void *scheduler_fake_stack;
const void *scheduler_stack;
size_t scheduler_stack_size;
bool from_scheduler; /* the stack that was left last is the scheduler's */

const std::function<void()> *body;
unsigned turn, turns; /* the scheduler's place in a round over the threads, and how many there are */
bool faulted;
std::string fault_text;
std::map<const void *, std::unique_ptr<shared_base>> shared_of_block;
size_t static_shared, dynamic_shared;
std::map<const void *, size_t> allowed;
unsigned epoch;
unsigned warp_epoch[32];
bool any_of[2];           /* the answers at the barriers that end odd and even epochs */
unsigned any_of_epoch[2]; /* the epochs that these belong to */
enum order chosen = FORWARD;
std::map<std::string, uint64_t> launch_counts; /* by name */
std::string launch_name;

/* ---- changing over ---- */

unsigned pick(unsigned i, unsigned n)
{
    switch (chosen) {
    case REVERSE:
        return n - 1 - i;
    case SHUFFLED: { /* an odd multiplier coprime to n visits everyone once */
        unsigned k = 7919;
        while (n % k == 0)
            k += 2;
        return unsigned((uint64_t(i) * k + n / 3) % n);
    }
    default:
        return i;
    }
}

void fiber_main();

void start(fiber &f)
{
    if (!f.stack) f.stack = malloc(STACK);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(f.stack, STACK);
#endif
    f.fake_stack = nullptr;
    place_at_start(&f.place, f.stack, STACK, fiber_main);
    f.started = true;
}

/* Before a fiber runs, and on the stack of the fiber that runs now. The two are `current`: a stack
 * that waits in fiber_main may have come to another thread meanwhile. */
void come(fiber &f)
{
    if (!f.started) start(f);
    f.fresh = false;
    current = &f;
    threadIdx = f.thread;
}

void arrived(void *fake_stack)
{
#if defined(__SANITIZE_ADDRESS__)
    const void *stack;
    size_t size;
    __sanitizer_finish_switch_fiber(fake_stack, &stack, &size);
    if (from_scheduler) scheduler_stack = stack, scheduler_stack_size = size;
    from_scheduler = false;
#else
    (void)fake_stack;
#endif
}

void to_scheduler()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&current->fake_stack, scheduler_stack, scheduler_stack_size);
#endif
    mabn_executor_swap(&current->place, &scheduler);
    arrived(current->fake_stack);
}

/* This thread waits or is done: the next of the round that can run goes on, or the scheduler when
 * the round is over. */
void go_on()
{
    fiber &self = *current;
    while (turn + 1 < turns) {
        fiber &next = *pool[pick(++turn, turns)];
        if (next.state != READY) continue;
        come(next);
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(&self.fake_stack, next.stack, STACK);
#endif
        mabn_executor_swap(&self.place, &next.place);
        arrived(current->fake_stack);
        return;
    }
    to_scheduler();
}

/* The thread of this stack is done. If the thread whose turn it is next has not begun, it gets this
 * stack, which saves a change of stacks: most threads never wait. */
bool next_takes_over()
{
    if (turn + 1 >= turns) return false;
    fiber &next = *pool[pick(turn + 1, turns)];
    if (next.state != READY || !next.fresh) return false;
    turn++;
    std::swap(next.place, current->place);
    std::swap(next.stack, current->stack);
    std::swap(next.fake_stack, current->fake_stack);
    std::swap(next.started, current->started);
    come(next);
    return true;
}

void fiber_main()
{
    arrived(nullptr);
    for (;;) { /* one round a thread of some block */
        (*body)();
        current->state = DONE;
        if (!next_takes_over()) go_on();
    }
}

void resume(fiber &f)
{
    come(f);
    from_scheduler = true;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, f.stack, STACK);
#endif
    mabn_executor_swap(&scheduler, &f.place); /* comes back at the round's end */
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
    current = nullptr;
}

void wait_as(enum state state, site at)
{
    current->state = state;
    current->at = at;
    go_on();
}

/* ---- faults ---- */

std::string where(const fiber &f)
{
    char text[160];
    snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", blockIdx.x, blockIdx.y,
             blockIdx.z, f.thread.x, f.thread.y, f.thread.z);
    return text;
}

void record_fault(const std::string &text)
{
    if (!faulted) fault_text = "kernel: " + text;
    faulted = true;
}

std::string site_text(site at)
{
    const char *slash = strrchr(at.file, '/');
    return std::string(slash ? slash + 1 : at.file) + ":" + std::to_string(at.line);
}

const char *waiting_text(enum state state)
{
    switch (state) {
    case AT_BARRIER:
        return "waits at __syncthreads";
    case AT_WARP_BARRIER:
        return "waits at __syncwarp";
    case AT_EXCHANGE:
        return "waits at a warp operation";
    default:
        return "has left";
    }
}

/* ---- scheduling ---- */

bool same_site(site a, site b)
{
    return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

/* Release the threads of one warp that have met. */
bool release_warp(unsigned warp, unsigned threads)
{
    bool any = false;
    unsigned first = warp * 32, count = threads - first < 32 ? threads - first : 32;
    for (unsigned i = 0; i < count; i++) {
        fiber &f = *pool[first + i];
        if (f.state != AT_WARP_BARRIER && f.state != AT_EXCHANGE) continue;
        /* Lanes that the block does not have take no part. */
        unsigned live = count == 32 ? ~0u : (1u << count) - 1;
        unsigned mask = f.mask & live;
        bool met = true;
        for (unsigned j = 0; j < count && met; j++) {
            const fiber &g = *pool[first + j];
            if (mask >> j & 1)
                met = g.state == f.state && g.mask == f.mask && same_site(g.at, f.at);
        }
        if (!met) continue;
        enum state kind = f.state;
        uint64_t given[32] = {0};
        for (unsigned j = 0; j < count; j++)
            given[j] = pool[first + j]->given;
        for (unsigned j = 0; j < count; j++) {
            if (!(mask >> j & 1)) continue;
            memcpy(pool[first + j]->lanes, given, sizeof given);
            pool[first + j]->state = READY;
        }
        if (kind == AT_WARP_BARRIER && mask == live) warp_epoch[warp]++;
        any = true;
    }
    return any;
}

/* All live threads stand at one barrier: release them. Otherwise say who stands where. */
bool release_block(unsigned threads)
{
    const fiber &first = *pool[0];
    for (unsigned i = 0; i < threads; i++) {
        const fiber &f = *pool[i];
        if (first.state == AT_BARRIER && f.state == AT_BARRIER && same_site(f.at, first.at))
            continue;
        record_fault(where(first) + " " + waiting_text(first.state) +
                     (first.state == DONE ? "" : " " + site_text(first.at)) + ", but " + where(f) +
                     " " + waiting_text(f.state) + (f.state == DONE ? "" : " " + site_text(f.at)));
        return false;
    }
    for (unsigned i = 0; i < threads; i++)
        pool[i]->state = READY;
    epoch++;
    return true;
}

void run_block(unsigned threads)
{
    epoch = 0;
    any_of_epoch[0] = any_of_epoch[1] = ~0u;
    static_shared = 0;
    memset(warp_epoch, 0, sizeof warp_epoch);
    for (unsigned i = 0; i < threads; i++) {
        fiber &f = *pool[i];
        f.state = READY;
        f.fresh = true;
        f.rank = i;
        f.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    }
    for (;;) {
        bool done = true;
        turns = threads;
        for (turn = 0; turn < threads && !faulted; turn++) {
            fiber &f = *pool[pick(turn, threads)];
            if (f.state == READY) resume(f);
        }
        for (unsigned i = 0; i < threads; i++)
            done = done && pool[i]->state == DONE;
        if (faulted || done) break;
        bool released = false;
        for (unsigned w = 0; w * 32 < threads; w++)
            released |= release_warp(w, threads);
        if (!released && !release_block(threads)) break;
    }
    shared_of_block.clear();
}

const char *refuse(const cudaLaunchConfig_t &c, const void *kernel)
{
    uint64_t threads = uint64_t(c.blockDim.x) * c.blockDim.y * c.blockDim.z;
    if (threads == 0 || threads > 1024 || c.blockDim.z > 64) return "block size";
    if (c.gridDim.x == 0 || c.gridDim.y == 0 || c.gridDim.z == 0) return "empty grid";
    if (c.gridDim.x > 0x7fffffffu || c.gridDim.y > 65535 || c.gridDim.z > 65535) return "grid size";
    if (c.dynamicSmemBytes > allowed_shared(kernel)) return "dynamic shared memory";
    return nullptr;
}

} // namespace

static cudaError_t run(const cudaLaunchConfig_t &config, const std::function<void()> &thread_body)
{
    faulted = false;
    fault_text.clear();
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    dynamic_shared = config.dynamicSmemBytes;
    body = &thread_body;
    unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    while (pool.size() < threads)
        pool.push_back(std::make_unique<fiber>());

    unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
    for (unsigned i = 0; i < blocks && !faulted; i++) {
        unsigned b = pick(i, blocks);
        blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / (gridDim.x * gridDim.y)};
        run_block(threads);
    }
    if (!faulted) return cudaSuccess;
    for (auto &f : pool)
        f->started = false;
    return cudaErrorLaunchFailure;
}

cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel,
                   std::function<void()> thread_body)
{
    launch_counts[launch_name]++;
    launch_name.clear();
    if (const char *why = refuse(config, kernel)) {
        set_fault(std::string("kernel: refused: ") + why);
        return cudaErrorInvalidConfiguration;
    }
    /* A launch in a graph is checked again, because the limit may have been lowered since. */
    return submit(config.stream, [=]() -> cudaError_t {
        if (const char *why = refuse(config, kernel)) {
            set_fault(std::string("kernel: refused: ") + why);
            return cudaErrorInvalidConfiguration;
        }
        return run(config, thread_body);
    });
}

void fault(site at, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    record_fault(where(*current) + ": " + text + " (" + site_text(at) + ")");
    to_scheduler();
    abort(); /* a faulted fiber is never resumed */
}

void block_barrier(site at)
{
    wait_as(AT_BARRIER, at);
}

/* The slots alternate: a thread may still read one while others are at the next barrier. */
bool block_any(bool mine, site at)
{
    const unsigned slot = epoch & 1;
    if (any_of_epoch[slot] != epoch) any_of[slot] = false;
    any_of_epoch[slot] = epoch;
    any_of[slot] = any_of[slot] || mine;
    wait_as(AT_BARRIER, at);
    return any_of[slot];
}

void warp_barrier(unsigned mask, site at)
{
    current->mask = mask;
    wait_as(AT_WARP_BARRIER, at);
}

const uint64_t *warp_exchange(unsigned mask, uint64_t value, site at)
{
    if (!(mask >> lane() & 1)) fault(at, "a warp operation by a lane outside its mask");
    current->mask = mask;
    current->given = value;
    wait_as(AT_EXCHANGE, at);
    return current->lanes;
}

unsigned lane()
{
    return current->rank & 31;
}

/* ---- shared memory ---- */

shared_base *find_shared(const void *key)
{
    auto found = shared_of_block.find(key);
    return found == shared_of_block.end() ? nullptr : found->second.get();
}

void keep_shared(const void *key, shared_base *array)
{
    shared_of_block[key] = std::unique_ptr<shared_base>(array);
}

size_t dynamic_bytes()
{
    return dynamic_shared;
}
size_t &static_bytes()
{
    return static_shared;
}

namespace
{
/* Nothing orders this thread after one that touched in (epoch, warp's epoch). */
bool unordered(int self, int other_warp, unsigned at_epoch, unsigned at_warp_epoch)
{
    if (at_epoch != epoch) return false;
    return other_warp != self / 32 || at_warp_epoch == warp_epoch[self / 32];
}
} // namespace

void note_read(touch &t, site at, const char *name, size_t index)
{
    int self = int(current->rank);
    if (!t.written) fault(at, "shared '%s'[%zu] is read, but nothing wrote it", name, index);
    if (t.writer != self && unordered(self, t.writer / 32, t.write_epoch, t.write_warp_epoch))
        fault(at, "shared '%s'[%zu]: race: read, and written by thread %d, without a barrier", name,
              index, t.writer);
    bool fresh = t.read_epoch != epoch || t.reader == -1;
    t.reader = fresh || t.reader == self ? self : -2;
    t.reader_warp = fresh || t.reader_warp == self / 32 ? self / 32 : -2;
    t.read_epoch = epoch;
    t.read_warp_epoch = warp_epoch[self / 32];
}

void note_write(touch &t, site at, const char *name, size_t index)
{
    int self = int(current->rank);
    if (t.written && t.writer != self &&
        unordered(self, t.writer / 32, t.write_epoch, t.write_warp_epoch))
        fault(at, "shared '%s'[%zu]: race: written, also by thread %d, without a barrier", name,
              index, t.writer);
    if (t.reader != -1 && t.reader != self &&
        unordered(self, t.reader_warp, t.read_epoch, t.read_warp_epoch))
        fault(at, "shared '%s'[%zu]: race: written while thread %d reads", name, index, t.reader);
    t.written = true;
    t.writer = self;
    t.write_epoch = epoch;
    t.write_warp_epoch = warp_epoch[self / 32];
}

/* ---- tests' side ---- */

void set_fault(const std::string &text)
{
    fault_text = text;
}
void set_order(order order)
{
    chosen = order;
}
const char *last_fault()
{
    return fault_text.c_str();
}
uint64_t launches(const char *begin)
{
    uint64_t count = 0;
    for (const auto &kernel : launch_counts)
        if (kernel.first.compare(0, strlen(begin), begin) == 0) count += kernel.second;
    return count;
}
void name_launch(const char *kernel)
{
    launch_name = *kernel == '(' ? kernel + 1 : kernel;
}

cudaError_t allow_shared(const void *kernel, size_t bytes)
{
    if (bytes > 227 * 1024) return cudaErrorInvalidValue;
    allowed[kernel] = bytes;
    return cudaSuccess;
}
size_t allowed_shared(const void *kernel)
{
    return allowed.count(kernel) ? allowed[kernel] : 48 * 1024;
}

} // namespace executor

const char *cudaGetErrorString(cudaError_t error)
{
    if (error == cudaSuccess) return "no error";
    return *executor::last_fault() ? executor::last_fault() : "error";
}
