/* How fast the norms are, against what memory gives in the same run.
 *
 *     bench_norm [BATCH [SECONDS [cpu] [bf16]]]  default 8 images, about 0.3 s a figure
 *
 * With "cpu", one thread's processor time counts instead of the clock: for machines that do other
 * work besides. With "bf16" activations and their gradients are bfloat16.
 *
 * For ResNet-50's norm layers at 224 by 224 (the distinct shapes; "all" is all 53, weighted),
 * training forward and backward with ReLU, mask from x. Columns: norm, norm batch, shape,
 * milliseconds and GB/s of forward and of backward, then each GB/s as a part of copying that
 * tensor. The bytes counted are the least a layer can do with: forward x in, y out; backward dy and
 * x in, dx out; passes beyond those (the second read of x, say) count as lost time, unless the
 * caches serve them.
 *
 * One warm call, then the median of interleaved rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <omp.h>

#include "base/progress.h"
#include "base/rng.h"
#include "norm/norm.h"
#include "tensor/bf16.h"

struct shape {
    int hw, channels, layers;
};

static const struct shape shapes[] = {{112 * 112, 64, 1}, {56 * 56, 64, 6},   {56 * 56, 256, 4},
                                      {56 * 56, 128, 1},  {28 * 28, 128, 7},  {28 * 28, 512, 5},
                                      {28 * 28, 256, 1},  {14 * 14, 256, 11}, {14 * 14, 1024, 7},
                                      {14 * 14, 512, 1},  {7 * 7, 512, 5},    {7 * 7, 2048, 4}};
enum { SHAPES = sizeof shapes / sizeof *shapes, ROUNDS = 9 };

struct norm_case {
    const char *name;
    enum mabn_norm_kind kind;
    int norm_batch;
    bool steady; /* MABN past its warm-up */
};

static const struct norm_case cases[] = {
    {"frozen", MABN_NORM_FROZEN, 0, false}, {"bn", MABN_NORM_BN, 0, false},
    {"bn", MABN_NORM_BN, 2, false},         {"mabn-start", MABN_NORM_MABN, 2, false},
    {"mabn", MABN_NORM_MABN, 2, true},      {"mabn", MABN_NORM_MABN, 0, true},
    {"gn", MABN_NORM_GN, 0, false},         {"ln", MABN_NORM_LN, 0, false},
    {"in", MABN_NORM_IN, 0, false}};
enum { CASES = sizeof cases / sizeof *cases };

struct times {
    double copy, forward, backward; /* seconds a call, medians */
};

static bool processor_time;
static bool half; /* bfloat16 */

static double now(void)
{
    struct timespec t;
    if (!processor_time) return mabn_now();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *memory(size_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes + 64)) abort();
    memset(p, 0, bytes);
    return p;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static size_t bytes_of(int64_t values)
{
    return (size_t)values * (half ? sizeof(uint16_t) : sizeof(float));
}

static void copy(void *y, const void *x, int64_t count)
{
    const int64_t bytes = (int64_t)bytes_of(count), block = 1 << 18;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < bytes; i += block)
        memcpy((char *)y + i, (const char *)x + i, (size_t)(bytes - i < block ? bytes - i : block));
}

static void *random_values(int64_t count, double spread, struct mabn_rng *rng)
{
    void *p = memory(bytes_of(count));
    for (int64_t i = 0; i < count; i++)
        mabn_put(p, i, (float)mabn_rng_range(rng, -spread, spread), half);
    return p;
}

static void check(mabn_status status)
{
    if (!status) return;
    fprintf(stderr, "bench_norm: %s\n", mabn_error_message());
    exit(1);
}

static void setup(struct mabn_norm *norm, struct mabn_norm_io *io, const struct norm_case *k,
                  const struct shape *s, int batch)
{
    struct mabn_norm_options o;
    const int64_t count = (int64_t)batch * s->hw * s->channels;
    float *gamma = memory((size_t)s->channels * sizeof *gamma);
    struct mabn_rng rng;

    mabn_norm_options_init(&o, k->kind);
    o.norm_batch = k->norm_batch;
    o.r_start = k->steady ? 1 : 0;
    check(mabn_norm_init(norm, &o, s->channels));
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    for (int c = 0; c < s->channels; c++)
        gamma[c] = 1;
    memset(io, 0, sizeof *io);
    io->dtype = half ? MABN_DTYPE_BF16 : MABN_DTYPE_F32;
    io->samples = batch;
    io->positions = s->hw;
    io->relu = true;
    io->gamma = gamma;
    io->beta = memory((size_t)s->channels * sizeof(float));
    io->state = memory(mabn_norm_state_bytes(norm));
    io->saved = memory(mabn_norm_saved_bytes(norm, batch));
    io->scratch = memory(mabn_norm_scratch_bytes(norm, batch, s->hw));
    io->x = random_values(count, 1.5, &rng);
    io->y = memory(bytes_of(count));
    io->dy = random_values(count, 1, &rng);
    io->dx = memory(bytes_of(count));
    io->dgamma = memory((size_t)s->channels * sizeof(float));
    io->dbeta = memory((size_t)s->channels * sizeof(float));
    mabn_norm_state_reset(norm, io->state);
}

static void release(struct mabn_norm_io *io)
{
    const void *all[] = {io->x,     io->y,     io->dy,      io->dx,     io->gamma, io->beta,
                         io->state, io->saved, io->scratch, io->dgamma, io->dbeta};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free((void *)(uintptr_t)all[i]);
}

static struct times measure(const struct norm_case *k, const struct shape *s, int batch,
                            double seconds)
{
    struct mabn_norm norm;
    struct mabn_norm_io io;
    const int64_t count = (int64_t)batch * s->hw * s->channels;
    double v[3][ROUNDS];

    setup(&norm, &io, k, s, batch);
    void *y = io.y;
    check(mabn_norm_forward(&norm, &io));
    check(mabn_norm_backward(&norm, &io));
    int repeats = (int)(seconds / ROUNDS / (4e-10 * (double)count) / 3) + 1;
    for (int round = 0; round < ROUNDS; round++) {
        double t0 = now();
        for (int i = 0; i < repeats; i++)
            copy(y, io.x, count);
        double t1 = now();
        for (int i = 0; i < repeats; i++)
            check(mabn_norm_forward(&norm, &io));
        double t2 = now();
        io.y = NULL;
        for (int i = 0; i < repeats; i++)
            check(mabn_norm_backward(&norm, &io));
        double t3 = now();
        io.y = y;
        v[0][round] = (t1 - t0) / repeats;
        v[1][round] = (t2 - t1) / repeats;
        v[2][round] = (t3 - t2) / repeats;
    }
    release(&io);
    struct times t = {median(v[0], ROUNDS), median(v[1], ROUNDS), median(v[2], ROUNDS)};
    return t;
}

static void print(const struct norm_case *k, const char *shape, struct times t, double values)
{
    const double pass = (double)bytes_of(1) * values / 1e9; /* GB */
    const double forward = 2 * pass / t.forward, backward = 3 * pass / t.backward;
    const double copied = 2 * pass / t.copy;
    printf("%s\t%d\t%s\t%.3f\t%.1f\t%.2f\t%.3f\t%.1f\t%.2f\n", k->name, k->norm_batch, shape,
           t.forward * 1e3, forward, forward / copied, t.backward * 1e3, backward,
           backward / copied);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const int batch = argc > 1 ? atoi(argv[1]) : 8;
    const double seconds = argc > 2 ? atof(argv[2]) : 0.3;

    for (int i = 3; i < argc; i++) {
        if (!strcmp(argv[i], "cpu")) processor_time = true;
        if (!strcmp(argv[i], "bf16")) half = true;
    }
    if (processor_time) omp_set_num_threads(1);
    printf("norm\tnorm_batch\tshape\tforward_ms\tforward_GB/s\tof_copy\tbackward_ms\t"
           "backward_GB/s\tof_copy\n");
    for (int c = 0; c < CASES; c++) {
        struct times all = {0, 0, 0};
        double values = 0;
        for (int s = 0; s < SHAPES; s++) {
            const struct shape *shape = &shapes[s];
            char name[64];
            struct times t = measure(&cases[c], shape, batch, seconds);
            const double n = (double)batch * shape->hw * shape->channels;
            snprintf(name, sizeof name, "%dx%dx%d", batch, shape->hw, shape->channels);
            print(&cases[c], name, t, n);
            all.copy += shape->layers * t.copy;
            all.forward += shape->layers * t.forward;
            all.backward += shape->layers * t.backward;
            values += shape->layers * n;
        }
        print(&cases[c], "all", all, values);
    }
    return 0;
}
