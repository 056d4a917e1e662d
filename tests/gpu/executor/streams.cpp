/* The executor's streams, events and graphs. What is queued in a stream is a function; it runs at
 * once, or (executor::set_late) when somebody waits for it, as late as the rules allow. A capture
 * notes functions in a graph instead, and a graph's launch queues them again. */
#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <set>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

using work = std::function<cudaError_t()>;

struct CUgraph_st;

/* A place in a stream's queue; each record of an event makes a new one. */
struct place {
    CUstream_st *stream;
    CUgraph_st *graph = nullptr; /* the place is in this capture */
    bool reached = false;
    std::chrono::steady_clock::time_point when;
};
using place_at = std::shared_ptr<place>;

struct CUevent_st {
    place_at last; /* NULL: never recorded */
    bool timed;
};

/* Work of one of a capture's streams, or an event that is recorded or waited for there. */
struct node {
    CUstream_st *stream;
    work w;
    place_at recorded, awaited;
};

/* In the order of the calls. The first stream is the one in which the capture began; the others joined by
 * waiting for an event of it. */
struct CUgraph_st {
    std::vector<node> nodes;
    std::vector<CUstream_st *> streams;
    bool broken = false;
};
/* Each stream but the first has one of the executor's own. */
struct CUgraphExec_st {
    std::vector<node> nodes;
    std::map<CUstream_st *, CUstream_st *> branches;
};

struct CUstream_st {
    bool blocking; /* in step with the default stream: never late */
    std::deque<work> queue;
    std::shared_ptr<CUgraph_st> graph; /* being captured */
};

namespace
{

CUstream_st default_stream{true, {}, nullptr};
std::set<CUstream_st *> streams{&default_stream};
int64_t until_refused = -1;
bool has_refused;
std::map<void *, size_t> blocks, host_blocks; /* of cudaMalloc, of cudaHostAlloc */
bool late = getenv("MABN_EXECUTOR_LATE") != nullptr;
cudaError_t last_error = cudaSuccess;

CUstream_st *of(cudaStream_t stream)
{
    return stream ? stream : &default_stream;
}

cudaError_t fail(cudaError_t error, const char *why)
{
    executor::set_fault(why);
    return last_error = error;
}

CUstream_st *capturing()
{
    for (CUstream_st *s : streams)
        if (s->graph) return s;
    return nullptr;
}

/* What a capture does not allow breaks it. */
cudaError_t refuse_in_capture(const char *call)
{
    CUstream_st *s = capturing();
    if (!s) return cudaSuccess;
    s->graph->broken = true;
    return fail(cudaErrorStreamCaptureUnsupported,
                (std::string(call) + " while a stream is being captured").c_str());
}

cudaError_t drain(CUstream_st *s)
{
    cudaError_t first = cudaSuccess;
    while (!s->queue.empty()) {
        work next = std::move(s->queue.front());
        s->queue.pop_front();
        cudaError_t error = next();
        if (first == cudaSuccess) first = error;
    }
    if (first != cudaSuccess) last_error = first;
    return first;
}

/* Until `p` is reached, and not further. */
cudaError_t drain_to(const std::shared_ptr<place> &p)
{
    cudaError_t first = cudaSuccess;
    while (!p->reached && !p->stream->queue.empty()) {
        work next = std::move(p->stream->queue.front());
        p->stream->queue.pop_front();
        cudaError_t error = next();
        if (first == cudaSuccess) first = error;
    }
    return first;
}

cudaError_t drain_all()
{
    cudaError_t first = cudaSuccess;
    for (CUstream_st *s : streams) {
        cudaError_t error = drain(s);
        if (first == cudaSuccess) first = error;
    }
    return first;
}

cudaError_t queue(CUstream_st *s, work w)
{
    if (s->graph) {
        s->graph->nodes.push_back({s, std::move(w), nullptr, nullptr});
        return cudaSuccess;
    }
    if (late && !s->blocking) {
        s->queue.push_back(std::move(w));
        return cudaSuccess;
    }
    cudaError_t error = w();
    if (error != cudaSuccess) last_error = error;
    return error;
}

work record(const place_at &p)
{
    return [p] {
        p->reached = true;
        p->when = std::chrono::steady_clock::now();
        return cudaSuccess;
    };
}

work await(const place_at &p, CUstream_st *s)
{
    return [p, s] { return p->stream == s || p->reached ? cudaSuccess : drain_to(p); };
}

cudaError_t set_bytes(void *dst, int value, size_t bytes)
{
    if (bytes) memset(dst, value, bytes);
    return cudaSuccess;
}

cudaError_t move_bytes(void *dst, const void *src, size_t bytes)
{
    if (bytes) memmove(dst, src, bytes);
    return cudaSuccess;
}

/* As far as asked for, and NaN. */
void *new_block(size_t bytes)
{
    void *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!p) return nullptr;
    memset(p, 0xff, bytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(static_cast<char *>(p) + bytes, (256 - bytes % 256) % 256);
#endif
    return p;
}

} // namespace

namespace executor
{

cudaError_t submit(cudaStream_t stream, std::function<cudaError_t()> w)
{
    if (!stream && capturing()) return refuse_in_capture("a launch in the default stream");
    return queue(of(stream), std::move(w));
}

const void *capture_of(cudaStream_t stream)
{
    return of(stream)->graph.get();
}

bool on_device(const void *p, size_t bytes)
{
    auto after = blocks.upper_bound(const_cast<void *>(p));
    if (after == blocks.begin()) return false;
    auto block = std::prev(after);
    const char *begin = static_cast<const char *>(block->first), *at = static_cast<const char *>(p);
    return at + bytes <= begin + block->second;
}

void set_late(bool on)
{
    drain_all();
    late = on;
}

} // namespace executor

/* ---- the device ---- */

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (device) return fail(cudaErrorInvalidValue, "the executor is one device");
    *p = {};
    snprintf(p->name, sizeof p->name, "executor");
    p->totalGlobalMem = size_t(1) << 30;
    p->major = 9;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 1 << 20;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device ? fail(cudaErrorInvalidValue, "the executor is one device") : cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device)
{
    const char *given = getenv("MABN_EXECUTOR_GPU");
    if (device) return fail(cudaErrorInvalidValue, "the executor is one device");
    snprintf(id, size_t(size), "%s", given ? given : std::to_string(getpid()).c_str());
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = *total = size_t(1) << 30;
    for (const auto &block : blocks)
        *free_bytes -= std::min(*free_bytes, block.second);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize()
{
    cudaError_t refused = refuse_in_capture("cudaDeviceSynchronize");
    return refused != cudaSuccess ? refused : drain_all();
}

cudaError_t cudaGetLastError()
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

/* ---- memory ---- */

void executor::refuse_memory(int64_t n)
{
    until_refused = n;
    has_refused = false;
}

bool executor::refused_memory()
{
    return has_refused;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    cudaError_t refused = refuse_in_capture("cudaMalloc");
    if (refused != cudaSuccess) return refused;
    const bool none = until_refused >= 0 && until_refused-- == 0;
    has_refused = has_refused || none;
    *p = !none && bytes < size_t(1) << 30 ? new_block(bytes) : nullptr;
    if (!*p) return fail(cudaErrorMemoryAllocation, "out of memory");
    blocks[*p] = bytes;
    return cudaSuccess;
}

/* Waits for the whole device. */
cudaError_t cudaFree(void *p)
{
    cudaError_t refused = refuse_in_capture("cudaFree");
    if (refused != cudaSuccess) return refused;
    if (p && !blocks.erase(p)) return fail(cudaErrorInvalidValue, "not from cudaMalloc");
    cudaError_t error = drain_all();
    free(p);
    return error;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    cudaError_t refused = refuse_in_capture("cudaHostAlloc");
    if (refused != cudaSuccess) return refused;
    *p = new_block(bytes);
    if (!*p) return fail(cudaErrorMemoryAllocation, "out of memory");
    host_blocks[*p] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    if (!host_blocks.erase(p)) return fail(cudaErrorInvalidValue, "not from cudaHostAlloc");
    cudaError_t error = drain_all();
    free(p);
    return error;
}

static bool locked(const void *p, size_t bytes)
{
    auto after = host_blocks.upper_bound(const_cast<void *>(p));
    if (after == host_blocks.begin()) return false;
    auto block = std::prev(after);
    const char *begin = static_cast<const char *>(block->first), *at = static_cast<const char *>(p);
    return at + bytes <= begin + block->second;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind)
{
    cudaError_t refused = refuse_in_capture("cudaMemcpy");
    if (refused != cudaSuccess) return refused;
    return move_bytes(dst, src, bytes);
}

cudaError_t cudaMemset(void *dst, int value, size_t bytes)
{
    cudaError_t refused = refuse_in_capture("cudaMemset");
    if (refused != cudaSuccess) return refused;
    return set_bytes(dst, value, bytes);
}

/* Memory of the host that is not locked is copied before the call returns, from it or to it; in a
 * graph it would be read at every launch, which nobody means. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    const bool out = kind == cudaMemcpyDeviceToHost;
    const bool host = out || kind == cudaMemcpyHostToDevice;
    CUstream_st *s = of(stream);
    if (host && !locked(out ? dst : src, bytes)) {
        if (s->graph) {
            s->graph->broken = true;
            return fail(cudaErrorStreamCaptureUnsupported,
                        "a capture copies host memory that is not from cudaHostAlloc");
        }
        cudaError_t error = drain(s);
        return error != cudaSuccess ? error : move_bytes(dst, src, bytes);
    }
    return executor::submit(stream, [=] { return move_bytes(dst, src, bytes); });
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    return executor::submit(stream, [=] { return set_bytes(dst, value, bytes); });
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    *stream = new CUstream_st{flags != cudaStreamNonBlocking, {}, nullptr};
    streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaError_t error = drain(stream);
    streams.erase(stream);
    delete stream;
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (of(stream)->graph) return refuse_in_capture("cudaStreamSynchronize");
    return drain(of(stream));
}

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    *event = new CUevent_st{nullptr, !(flags & cudaEventDisableTiming)};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    CUstream_st *s = of(stream);
    auto p = std::make_shared<place>();
    p->stream = s;
    p->graph = s->graph.get();
    event->last = p;
    if (!s->graph) return executor::submit(stream, record(p));
    s->graph->nodes.push_back({s, nullptr, p, nullptr});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (!event->last) return cudaSuccess;
    if (event->last->graph)
        return fail(cudaErrorCapturedEvent, "the event was recorded in a capture");
    return drain_to(event->last);
}

static std::shared_ptr<CUgraph_st> capture_under_way(const CUgraph_st *graph)
{
    for (CUstream_st *s : streams)
        if (graph && s->graph.get() == graph) return s->graph;
    return nullptr;
}

/* A stream that waits for an event of a capture joins it. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    CUstream_st *s = of(stream);
    auto p = event->last;
    if (!p) return cudaSuccess;
    const auto theirs = capture_under_way(p->graph);
    if ((p->graph && !theirs) || (s->graph && s->graph != theirs)) {
        if (CUstream_st *c = capturing()) c->graph->broken = true;
        return fail(cudaErrorStreamCaptureIsolation,
                    "a capture and a stream outside it wait for each other");
    }
    if (!theirs) return executor::submit(stream, await(p, s));
    if (!s->graph) {
        s->graph = theirs;
        theirs->streams.push_back(s);
    }
    theirs->nodes.push_back({s, nullptr, nullptr, p});
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    if (!from->timed || !to->timed || !from->last || !to->last || from->last->graph ||
        to->last->graph)
        return fail(cudaErrorInvalidResourceHandle, "events without a time");
    if (!from->last->reached || !to->last->reached) return last_error = cudaErrorNotReady;
    *milliseconds =
        std::chrono::duration<float, std::milli>(to->last->when - from->last->when).count();
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    if (!stream || stream->graph)
        return fail(cudaErrorStreamCaptureUnsupported, "the stream cannot be captured");
    stream->graph = std::make_shared<CUgraph_st>();
    stream->graph->streams.push_back(stream);
    return cudaSuccess;
}

/* Does some other stream wait for the last thing that this one does? The first need not. */
static bool unjoined(const CUgraph_st &g)
{
    for (size_t k = 1; k < g.streams.size(); k++) {
        bool waited = false;
        for (const node &n : g.nodes) {
            if (n.stream == g.streams[k]) waited = false;
            if (n.awaited && n.stream != g.streams[k] && n.awaited->stream == g.streams[k])
                waited = true;
        }
        if (!waited) return true;
    }
    return false;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = nullptr;
    if (!stream || !stream->graph || stream->graph->streams[0] != stream)
        return fail(cudaErrorIllegalState, "the stream is not being captured");
    const std::shared_ptr<CUgraph_st> captured = stream->graph;
    for (CUstream_st *s : captured->streams)
        s->graph = nullptr;
    if (captured->broken) return last_error = cudaErrorStreamCaptureInvalidated;
    if (unjoined(*captured))
        return fail(cudaErrorStreamCaptureUnjoined, "a stream of the capture was not joined again");
    *graph = new CUgraph_st(*captured);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    if (nodes) return fail(cudaErrorInvalidValue, "the executor only counts nodes");
    *count = 0; /* events are edges */
    for (const node &n : graph->nodes)
        *count += bool(n.w);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = new CUgraphExec_st{graph->nodes, {}};
    for (size_t k = 1; k < graph->streams.size(); k++) {
        CUstream_st *own = new CUstream_st{false, {}, nullptr};
        streams.insert(own);
        (*exec)->branches[graph->streams[k]] = own;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    cudaError_t error = drain_all();
    for (const auto &branch : exec->branches) {
        streams.erase(branch.second);
        delete branch.second;
    }
    delete exec;
    return error;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    if (!stream && capturing()) return refuse_in_capture("a launch in the default stream");
    std::map<place *, place_at> places; /* of this launch */
    for (const node &n : exec->nodes) {
        const auto branch = exec->branches.find(n.stream);
        CUstream_st *s = branch == exec->branches.end() ? of(stream) : branch->second;
        work w = n.w;
        if (n.recorded) {
            auto p = places[n.recorded.get()] = std::make_shared<place>();
            p->stream = s;
            w = record(p);
        } else if (n.awaited) {
            w = await(places[n.awaited.get()], s);
        }
        cudaError_t error = queue(s, w);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
