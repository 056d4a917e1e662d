/* The executor itself: what it runs, and each fault that it should find. The faulty kernels run
 * only here: on a GPU this program skips. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device/launch.cuh"
#include "tap.h"

#ifdef MABN_EXECUTOR

__global__ void sum_tree(float *out, const float *in, int n)
{
    MABN_SHARED(float, part, 64);
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        sum += in[i];
    part[threadIdx.x] = sum;
    for (unsigned half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = part[0];
}

__global__ void warp_sums(float *out, unsigned *votes)
{
    float v = float(threadIdx.x);
    for (int d = 16; d; d /= 2)
        v += __shfl_xor_sync(~0u, v, d);
    unsigned odd = __ballot_sync(~0u, threadIdx.x & 1);
    if (threadIdx.x % 32 == 0) {
        out[threadIdx.x / 32] = v;
        votes[threadIdx.x / 32] = odd;
    }
}

__global__ void dynamic_reverse(int *out)
{
    MABN_SHARED_DYNAMIC(int, buffer);
    buffer[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = buffer[blockDim.x - 1 - threadIdx.x];
}

/* Thread t asks whether any is t0, for t0 = 0, 1, …: true for as many rounds as there are threads. */
__global__ void votes_of_a_block(int *out)
{
    int rounds = 0;
    while (__syncthreads_or(int(threadIdx.x) == rounds))
        rounds++;
    out[threadIdx.x] = rounds;
}

__global__ void divergent_barrier(int)
{
    if (threadIdx.x < 7) __syncthreads();
}

__global__ void two_barriers(int)
{
    if (threadIdx.x < 7)
        __syncthreads();
    else
        __syncthreads();
}

__global__ void missing_barrier(int *out)
{
    MABN_SHARED(int, buffer, 64);
    buffer[threadIdx.x] = 1;
    out[threadIdx.x] = buffer[63 - threadIdx.x];
}

__global__ void missing_second_barrier(int *out)
{
    MABN_SHARED(int, buffer, 64);
    buffer[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = buffer[63 - threadIdx.x];
    buffer[threadIdx.x] = 2;
}

__global__ void warp_ordered(int *out)
{
    MABN_SHARED(int, buffer, 64);
    buffer[threadIdx.x] = int(threadIdx.x);
    __syncwarp();
    out[threadIdx.x] = buffer[threadIdx.x ^ 1];
}

__global__ void unwritten(int *out)
{
    MABN_SHARED(int, buffer, 64);
    if (threadIdx.x) buffer[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = buffer[threadIdx.x];
}

__global__ void out_of_range(int)
{
    MABN_SHARED(int, buffer, 63);
    buffer[threadIdx.x] = 1;
}

__global__ void half_a_warp(float *out)
{
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, 1.0f, 1);
}

__global__ void foreign_lane(float *out)
{
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}

static void test_runs(void)
{
    float in[1000], out[8], sums[2], first[8];
    unsigned votes[2];
    int reversed[64];

    for (int i = 0; i < 1000; i++)
        in[i] = 1.0f / float(i + 1);
    for (int order = executor::FORWARD; order <= executor::SHUFFLED; order++) {
        executor::set_order(executor::order(order));
        tap_status(MABN_LAUNCH(sum_tree, 8, 64, 0, 0, out, in, 1000), "a tree of sums runs");
        if (order == executor::FORWARD) memcpy(first, out, sizeof out);
        tap_ok(!memcmp(first, out, sizeof out), "with the same bits in order %d", order);
        double total = 0;
        for (float v : out)
            total += v;
        tap_close(total, 7.485470860550345, 1e-5, "and the right total");
        tap_status(MABN_LAUNCH(warp_sums, 1, 64, 0, 0, sums, votes), "warp operations run");
        tap_ok(sums[0] == 496 && sums[1] == 1520 && votes[0] == 0xaaaaaaaau, "and are right");
        tap_status(MABN_LAUNCH(dynamic_reverse, 1, 40, 40 * sizeof(int), 0, reversed),
                   "dynamic shared memory");
        tap_ok(reversed[0] == 39 && reversed[39] == 0, "is shared");
        tap_status(MABN_LAUNCH(votes_of_a_block, 1, 64, 0, 0, reversed), "a barrier with a vote");
        tap_ok(reversed[0] == 64 && reversed[63] == 64, "tells every thread the same");
        tap_status(MABN_LAUNCH(warp_ordered, 1, 64, 0, 0, reversed),
                   "a warp's barrier orders its threads");
    }
    executor::set_order(executor::FORWARD);
}

static void test_faults(void)
{
    int out[64];
    float values[64];

    tap_fails(MABN_LAUNCH(divergent_barrier, 1, 64, 0, 0, 0), MABN_ERR_CUDA, "has left",
              "a barrier that not all reach");
    tap_fails(MABN_LAUNCH(two_barriers, 1, 64, 0, 0, 0), MABN_ERR_CUDA, "waits at __syncthreads",
              "two barriers taken for one");
    tap_fails(MABN_LAUNCH(missing_barrier, 1, 64, 0, 0, out), MABN_ERR_CUDA, "nothing wrote",
              "no barrier after a write, the reader first");
    executor::set_order(executor::REVERSE);
    tap_fails(MABN_LAUNCH(missing_barrier, 1, 64, 0, 0, out + 0), MABN_ERR_CUDA, "shared 'buffer'",
              "the same in another order");
    executor::set_order(executor::FORWARD);
    tap_fails(MABN_LAUNCH(missing_second_barrier, 1, 64, 0, 0, out), MABN_ERR_CUDA, "race",
              "no barrier between a read and the next write");
    tap_fails(MABN_LAUNCH(unwritten, 1, 64, 0, 0, out), MABN_ERR_CUDA, "nothing wrote",
              "shared memory read before it is written");
    tap_fails(MABN_LAUNCH(out_of_range, 1, 64, 0, 0, 0), MABN_ERR_CUDA, "out of range",
              "an index past the end");
    tap_fails(MABN_LAUNCH(half_a_warp, 1, 32, 0, 0, values), MABN_ERR_CUDA, "warp operation",
              "a shuffle that half of its mask misses");
    tap_fails(MABN_LAUNCH(foreign_lane, 1, 32, 0, 0, values), MABN_ERR_CUDA, "takes no part",
              "a shuffle from outside its mask");
    tap_fails(MABN_LAUNCH(dynamic_reverse, 1, 40, 49 * 1024, 0, out), MABN_ERR_CUDA,
              "dynamic shared memory", "more shared memory than was allowed");
    tap_fails(MABN_LAUNCH(dynamic_reverse, 1, 1025, 0, 0, out), MABN_ERR_CUDA, "block size",
              "too many threads");
    tap_fails(MABN_LAUNCH(dynamic_reverse, dim3(1, 65536), 1, 0, 0, out), MABN_ERR_CUDA,
              "grid size", "too many blocks");
    tap_status(MABN_LAUNCH(dynamic_reverse, 1, 40, 40 * sizeof(int), 0, out),
               "after faults, launches run as before");
}

__global__ void count_up(int *out)
{
    if (threadIdx.x == 0) ++*out;
}

/* Late work: nothing happens before somebody waits for it. */
static void test_late(void)
{
    cudaStream_t first, second;
    cudaEvent_t event;
    int count = 0, copy = -1;

    cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    executor::set_late(true);
    tap_status(MABN_LAUNCH(count_up, 1, 32, 0, first, &count), "a launch");
    tap_ok(count == 0, "waits");
    cudaMemcpyAsync(&copy, &count, sizeof copy, cudaMemcpyDeviceToDevice, second);
    cudaStreamSynchronize(second);
    tap_ok(copy == 0, "another stream does not wait for it");
    cudaEventRecord(event, first);
    MABN_LAUNCH(count_up, 1, 32, 0, first, &count);
    cudaStreamWaitEvent(second, event, 0);
    cudaMemcpyAsync(&copy, &count, sizeof copy, cudaMemcpyDeviceToDevice, second);
    tap_ok(copy == 0 && count == 0, "nor does the host");
    cudaStreamSynchronize(second);
    tap_ok(copy == 1 && count == 1, "an event makes it wait, and no longer");
    MABN_LAUNCH(unwritten, 1, 64, 0, first, &count);
    tap_ok(cudaStreamSynchronize(first) == cudaErrorLaunchFailure && count == 2,
           "a late fault shows when it is waited for");
    executor::set_late(false);
    cudaEventDestroy(event);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
}

/* A call that a capture refuses breaks the capture. */
static void test_captures(void)
{
    cudaStream_t stream, other;
    cudaEvent_t event;
    cudaGraph_t graph;
    int count = 0, host = 0;

    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaEventRecord(event, other);
    const std::function<cudaError_t()> refused[] = {
        [&] { return cudaStreamSynchronize(stream); },
        [&] { return cudaDeviceSynchronize(); },
        [&] { return cudaMemcpy(&host, &count, 4, cudaMemcpyDeviceToHost); },
        [&] { return cudaMemset(&count, 0, 4); },
        [&] { return cudaMemcpyAsync(&host, &count, 4, cudaMemcpyDeviceToHost, stream); },
        [&] { return cudaMemsetAsync(&count, 0, 4, NULL); },
        [&] { return cudaStreamWaitEvent(stream, event, 0); },
    };
    for (const auto &call : refused) {
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        bool good = call() != cudaSuccess;
        cudaError_t error = cudaStreamEndCapture(stream, &graph);
        tap_ok(good && error == cudaErrorStreamCaptureInvalidated && !graph,
               "a capture refuses: %s", executor::last_fault());
    }
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(event, stream);
    cudaStreamWaitEvent(other, event, 0);
    tap_ok(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureUnjoined && !graph,
           "a stream that joins a capture must be waited for");
    tap_ok(cudaEventSynchronize(event) == cudaErrorCapturedEvent, "a captured event has no when");
    tap_ok(cudaStreamWaitEvent(other, event, 0) == cudaErrorStreamCaptureIsolation,
           "and is nothing to wait for once the capture has ended");
    tap_status(MABN_LAUNCH(count_up, 1, 32, 0, stream, &count), "afterwards the stream works");
    tap_ok(count == 1, "as before");
    cudaEventDestroy(event);
    cudaStreamDestroy(stream);
    cudaStreamDestroy(other);
}

static void test_conversions(void)
{
    int bad = 0;

    for (unsigned i = 0; i < 65536; i++) { /* every half, converted to float and back */
        __half h = {uint16_t(i)};
        float x = __half2float(h);
        bad += x == x ? __float2half_rn(x).bits != i : (i & 0x7c00) != 0x7c00;
        __nv_bfloat16 b = {uint16_t(i)};
        x = __bfloat162float(b);
        bad += x == x ? __float2bfloat16_rn(x).bits != i : (i & 0x7f80) != 0x7f80;
    }
    tap_ok(bad == 0, "all 16-bit floats survive the way through float32");
    tap_ok(__float2bfloat16_rn(1.00390625f).bits == 0x3f80, "bf16: a tie goes to even, down");
    tap_ok(__float2bfloat16_rn(1.01171875f).bits == 0x3f82, "bf16: and up");
    tap_ok(__float2half_rn(65519.0f).bits == 0x7bff && __float2half_rn(65520.0f).bits == 0x7c00,
           "fp16: the largest, and infinity");
    tap_ok(__float2half_rn(2.98023224e-8f).bits == 0 && __float2half_rn(2.99e-8f).bits == 1,
           "fp16: the smallest");
}

int main(void)
{
    test_runs();
    test_faults();
    test_late();
    test_captures();
    test_conversions();
    return tap_done();
}

#else

int main(void)
{
    tap_skip("the executor is for machines without a GPU");
    return tap_done();
}

#endif
