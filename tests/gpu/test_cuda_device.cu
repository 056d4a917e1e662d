/* The CUDA device: memory, captures, events. */
#include "device/cuda.h"
#include "device/launch.cuh"
#include "harness.h"

static __global__ void add(int *sum, const int *term, int count)
{
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x))
        sum[i] += term[i];
}

enum { COUNT = 1000, BYTES = COUNT * sizeof(int) };

struct fixture {
    struct mabn_device *device;
    int *sum, *term; /* device memory */
    int host[COUNT];

    mabn_status launch()
    {
        return MABN_LAUNCH(add, dim3(1), dim3(64), 0,
                           static_cast<cudaStream_t>(mabn_cuda_stream(device)), sum, term, COUNT);
    }
    void fill(int *on_device, int first, int step)
    {
        for (int i = 0; i < COUNT; i++)
            host[i] = first + step * i;
        tap_status(mabn_device_put(device, on_device, host, BYTES), "put");
    }
    /* sum[i] is first + step·i. */
    bool holds(int first, int step)
    {
        bool good = mabn_device_get(device, host, sum, BYTES) == MABN_OK;
        for (int i = 0; i < COUNT && good; i++)
            good = host[i] == first + step * i;
        return good;
    }
};

static void test_words(void)
{
    struct mabn_device *device;

    tap_fails(mabn_device_open(&device, "cuda:x", 1), MABN_ERR_ARG, "'cuda:x'", "no such word");
    tap_fails(mabn_device_open(&device, "cuda:999", 1), MABN_ERR_UNSUPPORTED, "no cuda:999",
              "no such GPU");
    tap_ok(device == NULL, "and no device");
    tap_status(mabn_device_open(&device, "auto", 1), "auto");
    tap_ok(mabn_device_kind_of(device) == MABN_DEVICE_CUDA, "is the GPU");
    mabn_device_free(device);
}

static void test_limits(struct fixture *f)
{
    const struct mabn_cuda_limits *limits = mabn_cuda_limits_of(f->device);

    printf("# %s\n", mabn_device_name(f->device));
    tap_ok(strstr(mabn_device_name(f->device), "GiB, ") != NULL, "a name");
    tap_ok(limits->major >= 8 && limits->processors > 0 && limits->memory > 0 && limits->l2 > 0,
           "limits");
    tap_ok(mabn_cuda_stream(f->device) && mabn_cuda_copy_stream(f->device), "two streams");
}

static void test_memory(struct fixture *f)
{
    void *p;

    tap_ok(f->holds(0, 0), "new memory is zero");
    tap_ok(reinterpret_cast<uintptr_t>(f->sum) % 256 == 0, "and aligned");
    f->fill(f->sum, 5, 2);
    tap_ok(f->holds(5, 2), "get what was put");
    tap_status(mabn_device_zero(f->device, f->sum + 10, BYTES - 40), "zero a part");
    tap_ok(!f->holds(5, 2) && f->host[9] == 23 && f->host[10] == 0, "and no more");
    tap_status(mabn_device_put(f->device, NULL, NULL, 0), "nothing to put");
    tap_fails(mabn_device_alloc(f->device, &p, size_t(1) << 50), MABN_ERR_NOMEM,
              "out of GPU memory", "a petabyte");
    tap_status(mabn_device_wait(f->device), "which leaves no trace");

    tap_status(mabn_device_scratch(f->device, &p, 1000), "scratch");
    void *before = p;
    tap_status(mabn_device_scratch(f->device, &p, 500), "less of it");
    tap_ok(p == before, "is the same");
    tap_status(mabn_device_scratch(f->device, &p, 100000), "more of it");
    tap_status(mabn_device_zero(f->device, p, 100000), "is all there");
}

static void test_graph(struct fixture *f)
{
    struct mabn_cuda_graph *graph;

    f->fill(f->sum, 0, 0);
    f->fill(f->term, 1, 1);
    tap_status(mabn_cuda_capture_begin(f->device), "begin a capture");
    mabn_status status = f->launch();
    if (!status) status = f->launch();
    tap_status(mabn_cuda_capture_end(f->device, &graph, status), "end it");
    tap_ok(mabn_cuda_graph_nodes(graph) == 2, "two launches are two nodes");
    tap_ok(f->holds(0, 0), "that have not run");
    tap_status(mabn_cuda_graph_launch(f->device, graph), "launch");
    tap_ok(f->holds(2, 2), "now they have");
    f->fill(f->term, 0, 10);
    tap_status(mabn_cuda_graph_launch(f->device, graph), "launch again");
    tap_status(mabn_cuda_graph_launch(f->device, graph), "and again");
    tap_ok(f->holds(2, 42), "with what memory holds by then");
    mabn_cuda_graph_free(graph);
}

/* The side queue joins a capture. Each queue's work needs the other's before it. */
static void test_branch(struct fixture *f, bool late)
{
    struct mabn_cuda_graph *graph;
    void *side = NULL;

    f->fill(f->sum, 0, 0);
    f->fill(f->term, 1, 0);
    gpu_late(late);
    tap_status(mabn_cuda_capture_begin(f->device), "begin a capture of two queues");
    mabn_status status = f->launch();
    if (!status) status = mabn_device_side_begin(f->device, &side);
    if (!status)
        status = MABN_LAUNCH(add, dim3(1), dim3(64), 0, static_cast<cudaStream_t>(side), f->term,
                             (const int *)f->term, COUNT);
    if (!status) status = mabn_device_side_end(f->device);
    if (!status) status = f->launch();
    tap_status(mabn_cuda_capture_end(f->device, &graph, status), "end it");
    tap_ok(mabn_cuda_graph_nodes(graph) == 3, "three launches");
    tap_ok(f->holds(0, 0), "that have not run");
    for (int i = 0; i < 2; i++)
        tap_status(mabn_cuda_graph_launch(f->device, graph), "launch");
    tap_ok(f->holds(9, 0), "in order"); /* 1 + 2 + 2 + 4 */
    tap_status(mabn_device_side_begin(f->device, &side), "afterwards the side queue works");
    tap_status(mabn_device_side_end(f->device), "as before");
    mabn_cuda_graph_free(graph);

    tap_status(mabn_cuda_capture_begin(f->device), "begin another");
    status = mabn_device_side_begin(f->device, &side);
    if (!status)
        status = MABN_LAUNCH(add, dim3(1), dim3(64), 0, static_cast<cudaStream_t>(side), f->sum,
                             (const int *)f->term, COUNT);
    tap_fails(mabn_cuda_capture_end(f->device, &graph, status), MABN_ERR_CUDA,
              "cudaStreamEndCapture", "a side queue that does not come back");
    gpu_late(false);
}

static void test_broken_captures(struct fixture *f)
{
    struct mabn_cuda_graph *graph;
    void *p;

    f->fill(f->sum, 0, 0);
    f->fill(f->term, 1, 0);
    tap_status(mabn_cuda_capture_begin(f->device), "begin a capture");
    tap_fails(mabn_device_alloc(f->device, &p, 10), MABN_ERR_CUDA, "captured", "no allocation");
    tap_fails(mabn_device_get(f->device, f->host, f->sum, 4), MABN_ERR_CUDA, "captured", "no get");
    tap_fails(mabn_device_wait(f->device), MABN_ERR_CUDA, "captured", "no wait");
    tap_fails(mabn_cuda_capture_begin(f->device), MABN_ERR_CUDA, "captured", "no second capture");
    mabn_status status = f->launch();
    tap_status(mabn_cuda_capture_end(f->device, &graph, status), "and none of it does harm");
    tap_ok(graph && mabn_cuda_graph_nodes(graph) == 1, "to the graph");
    mabn_cuda_graph_free(graph);

    tap_status(mabn_cuda_capture_begin(f->device), "begin another");
    status = f->launch();
    if (!status) status = mabn_fail(MABN_ERR_ARG, "a plan that fails");
    tap_fails(mabn_cuda_capture_end(f->device, &graph, status), MABN_ERR_ARG, "a plan that fails",
              "a failure in between is passed on");
    tap_ok(graph == NULL, "without a graph");

    tap_status(mabn_cuda_capture_begin(f->device), "begin a third");
    status = f->launch();
    tap_ok(cudaMalloc(&p, 4) != cudaSuccess, "a bare cudaMalloc is refused");
    tap_fails(mabn_cuda_capture_end(f->device, &graph, status), MABN_ERR_CUDA,
              "cudaStreamEndCapture", "and breaks it");
    tap_ok(graph == NULL, "without a graph");

    tap_ok(f->holds(0, 0), "nothing of all this ran");
    tap_status(f->launch(), "the stream still works");
    tap_ok(f->holds(1, 0), "indeed");
    tap_fails(mabn_cuda_capture_end(f->device, &graph, MABN_OK), MABN_ERR_CUDA, "no capture",
              "no end without a beginning");
}

/* Terms are copied in the copy stream while sums are computed, three times through the same memory.
 */
static void test_events(struct fixture *f)
{
    struct mabn_cuda_event *in, *used, *from, *to;
    void *stream = mabn_cuda_stream(f->device), *copies = mabn_cuda_copy_stream(f->device), *p;
    double seconds = -1;

    f->fill(f->sum, 0, 0);
    tap_status(mabn_cuda_host_alloc(f->device, &p, BYTES), "locked memory");
    int *locked = static_cast<int *>(p);
    tap_ok(locked[0] == 0 && locked[COUNT - 1] == 0, "is zero");
    tap_status(mabn_cuda_event_new(&in, f->device, false), "an event");
    tap_status(mabn_cuda_event_new(&used, f->device, false), "another");
    tap_status(mabn_cuda_event_new(&from, f->device, true), "a timed one");
    tap_status(mabn_cuda_event_new(&to, f->device, true), "another");
    tap_status(mabn_cuda_event_wait(in), "an event never recorded is reached");

    gpu_late(true);
    tap_status(mabn_cuda_event_record(from, stream), "record");
    mabn_status status = MABN_OK;
    for (int round = 1; round <= 3 && !status; round++) {
        status = mabn_cuda_event_wait(in); /* the last copy has read `locked` */
        for (int i = 0; i < COUNT; i++)
            locked[i] = round * i;
        if (!status) status = mabn_cuda_event_order(used, copies);
        if (!status) status = mabn_cuda_copy_in(f->device, f->term, locked, BYTES, copies);
        if (!status) status = mabn_cuda_event_record(in, copies);
        if (!status) status = mabn_cuda_event_order(in, stream);
        if (!status) status = f->launch();
        if (!status) status = mabn_cuda_event_record(used, stream);
    }
    tap_status(status, "three rounds");
    tap_status(mabn_cuda_event_record(to, stream), "record");
    tap_status(mabn_cuda_copy_out(f->device, locked, f->sum, BYTES, stream), "copy out");
    tap_status(mabn_cuda_event_record(used, stream), "record");
    tap_status(mabn_cuda_event_wait(used), "wait");
    tap_ok(locked[0] == 0 && locked[7] == 42 && locked[COUNT - 1] == 6 * (COUNT - 1),
           "each saw its own");
    gpu_late(false);
    tap_status(mabn_cuda_event_seconds(&seconds, from, to), "time");
    tap_ok(seconds >= 0 && seconds < 60, "is plausible: %.3g s", seconds);
    tap_ok(mabn_cuda_event_seconds(&seconds, in, used) == MABN_ERR_CUDA,
           "untimed events have none");
    tap_status(mabn_device_wait(f->device), "which leaves no trace");

    mabn_cuda_event_free(in);
    mabn_cuda_event_free(used);
    mabn_cuda_event_free(from);
    mabn_cuda_event_free(to);
    mabn_cuda_host_release(f->device, locked);
}

int main(void)
{
    struct fixture f = {};
    void *sum, *term;

    if (!gpu_ready()) return tap_done();
    test_words();
    tap_status(mabn_device_new(&f.device, MABN_DEVICE_CUDA, 1), "device");
    if (!f.device) return tap_done();
    tap_status(mabn_device_alloc(f.device, &sum, BYTES), "alloc");
    tap_status(mabn_device_alloc(f.device, &term, BYTES), "alloc");
    f.sum = static_cast<int *>(sum);
    f.term = static_cast<int *>(term);
    test_limits(&f);
    test_memory(&f);
    test_graph(&f);
    test_branch(&f, false);
    test_branch(&f, true);
    test_broken_captures(&f);
    test_events(&f);
    mabn_device_release(f.device, f.sum, BYTES);
    mabn_device_release(f.device, f.term, BYTES);
    mabn_device_free(f.device);
    return tap_done();
}
