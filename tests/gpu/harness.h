/* One harness for kernel tests on the executor and on a real GPU: arrays that exist on both sides,
 * in float32, bfloat16 or float16, and comparison within an element type's rounding. A test is a
 * .cu main:
 *
 *     int main(void)
 *     {
 *         if (!gpu_ready()) return tap_done();
 *         …
 *         return tap_done();
 *     } */
#ifndef MABN_TESTS_GPU_HARNESS_H
#define MABN_TESTS_GPU_HARNESS_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "base/rng.h"
#include "tap.h"
#include "tensor/tensor.h"

#ifdef MABN_EXECUTOR
#define GPU_RUNS_ON "executor"
/* A test case can run with several orders of blocks and threads, which must give the same bits. */
static inline void gpu_order(int order)
{
    executor::set_order(executor::order(order % 3));
}
/* Work queued in a device's streams runs only when it is waited for. */
static inline void gpu_late(bool late)
{
    executor::set_late(late);
}
/* After so many more allocations of device memory one fails; < 0: none does. False on a GPU, where all go
 * on as ever. */
static inline bool gpu_refuse(int64_t n)
{
    executor::refuse_memory(n);
    return true;
}
/* Has it? */
static inline bool gpu_refused(void)
{
    return executor::refused_memory();
}
/* Launches so far of kernels whose name begins so; 0 on a GPU, where nothing counts them. */
static inline uint64_t gpu_launches(const char *begin)
{
    return executor::launches(begin);
}
#else
#define GPU_RUNS_ON "GPU"
static inline uint64_t gpu_launches(const char *)
{
    return 0;
}
static inline void gpu_order(int)
{
}
static inline void gpu_late(bool)
{
}
static inline bool gpu_refuse(int64_t)
{
    return false;
}
static inline bool gpu_refused(void)
{
    return false;
}
#endif

/* Is there a GPU or the executor? If not, print a skip. */
static inline bool gpu_ready(void)
{
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) return true;
    tap_skip("no GPU here: %s", error == cudaSuccess ? "no device" : cudaGetErrorString(error));
    return false;
}

static inline void gpu_check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess) return;
    printf("Bail out! %s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

/* Device memory, full of NaN at first. */
struct gpu_bytes {
    void *p = nullptr;
    size_t bytes;

    explicit gpu_bytes(size_t n) : bytes(n)
    {
        if (!n) return;
        gpu_check(cudaMalloc(&p, n), "cudaMalloc");
        gpu_check(cudaMemset(p, 0xff, n), "cudaMemset");
    }
    ~gpu_bytes()
    {
        cudaFree(p);
    }
    gpu_bytes(const gpu_bytes &) = delete;
    gpu_bytes &operator=(const gpu_bytes &) = delete;

    void put(const void *from) const
    {
        if (bytes) gpu_check(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice), "copy in");
    }
    void get(void *to) const
    {
        if (bytes) gpu_check(cudaMemcpy(to, p, bytes, cudaMemcpyDeviceToHost), "copy out");
    }
};

/* A copy of an array of plain values. */
template <typename T> struct gpu_values : gpu_bytes {
    explicit gpu_values(const std::vector<T> &host) : gpu_bytes(host.size() * sizeof(T))
    {
        put(host.data());
    }
    T *at() const
    {
        return static_cast<T *>(p);
    }
    std::vector<T> values() const
    {
        std::vector<T> host(bytes / sizeof(T));
        get(host.data());
        return host;
    }
};

/* The float, rounded to the type. */
static inline float gpu_round(float v, enum mabn_dtype dtype)
{
    if (dtype == MABN_DTYPE_F16) return __half2float(__float2half_rn(v));
    return dtype == MABN_DTYPE_BF16 ? __bfloat162float(__float2bfloat16_rn(v)) : v;
}

static inline void gpu_convert(__nv_bfloat16 *to, float v)
{
    *to = __float2bfloat16_rn(v);
}
static inline void gpu_convert(__half *to, float v)
{
    *to = __float2half_rn(v);
}
static inline void gpu_convert(float *to, __nv_bfloat16 v)
{
    *to = __bfloat162float(v);
}
static inline void gpu_convert(float *to, __half v)
{
    *to = __half2float(v);
}

/* An array of floats on the host and of `dtype` on the device. */
struct gpu_array : gpu_bytes {
    enum mabn_dtype dtype;
    size_t count;

    gpu_array(size_t n, enum mabn_dtype type)
        : gpu_bytes(n * mabn_dtype_size(type)), dtype(type), count(n)
    {
    }
    gpu_array(const std::vector<float> &host, enum mabn_dtype type) : gpu_array(host.size(), type)
    {
        set(host);
    }
    void set(const std::vector<float> &host) const
    {
        if (dtype == MABN_DTYPE_F32) put(host.data());
        if (dtype == MABN_DTYPE_BF16) put_as<__nv_bfloat16>(host);
        if (dtype == MABN_DTYPE_F16) put_as<__half>(host);
    }
    std::vector<float> values() const
    {
        std::vector<float> host(count);
        if (dtype == MABN_DTYPE_F32) get(host.data());
        if (dtype == MABN_DTYPE_BF16) get_as<__nv_bfloat16>(host);
        if (dtype == MABN_DTYPE_F16) get_as<__half>(host);
        return host;
    }

  private:
    template <typename T> void put_as(const std::vector<float> &host) const
    {
        std::vector<T> half(count);
        for (size_t i = 0; i < count; i++)
            gpu_convert(&half[i], host[i]);
        put(half.data());
    }
    template <typename T> void get_as(std::vector<float> &host) const
    {
        std::vector<T> half(count);
        get(half.data());
        for (size_t i = 0; i < count; i++)
            gpu_convert(&host[i], half[i]);
    }
};

/* `count` normal numbers, rounded to `dtype`, from random stream `stream`. */
static inline std::vector<float> gpu_random(size_t count, uint64_t stream, enum mabn_dtype dtype,
                                            double mean, double deviation)
{
    std::vector<float> v(count);
    struct mabn_rng rng;
    mabn_rng_init(&rng, 11, MABN_RNG_TEST, stream, 0);
    for (float &x : v)
        x = gpu_round(float(mean + deviation * mabn_rng_normal(&rng)), dtype);
    return v;
}

/* Largest |got − want|/max(1,|want|); infinite where one is NaN and the other is not. */
static inline double gpu_error(const std::vector<float> &got, const std::vector<float> &want)
{
    double worst = got.size() == want.size() ? 0 : INFINITY;
    for (size_t i = 0; i < got.size() && i < want.size(); i++) {
        if (std::isnan(got[i]) && std::isnan(want[i])) continue;
        double e = fabs(double(got[i]) - want[i]) / fmax(1.0, fabs(double(want[i])));
        if (!(e <= worst)) worst = std::isnan(e) ? INFINITY : e;
    }
    return worst;
}

/* The error of one rounding to the type, on top of float32's 1e-5. */
static inline double gpu_tolerance(enum mabn_dtype dtype)
{
    if (dtype == MABN_DTYPE_F16) return 1.0 / 2048 + 1e-5;
    return dtype == MABN_DTYPE_BF16 ? 1.0 / 256 + 1e-5 : 1e-5;
}

/* One line for several arrays: `gpu_agree` notes the worst, `gpu_agreed` prints. */
struct gpu_verdict {
    bool good = true;
    std::string text;

    void add(const char *what, double error, double tolerance)
    {
        char line[120];
        if (error <= tolerance) return;
        good = false;
        snprintf(line, sizeof line, "#   %s: error %.3g > %.3g\n", what, error, tolerance);
        text += line;
    }
    void add(const char *what, const std::vector<float> &got, const std::vector<float> &want,
             double tolerance)
    {
        add(what, gpu_error(got, want), tolerance);
    }
    void print(const char *name)
    {
        if (!tap_ok(good, "%s (%s)", name, GPU_RUNS_ON)) fputs(text.c_str(), stdout);
    }
};

#endif
