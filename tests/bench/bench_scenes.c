/* How many photographs a second the scene loader prepares for a detector.
 *
 *     bench_scenes [-j THREADS] [-r ROUNDS] [-s SECONDS] FOLDER
 *
 * FOLDER: photographs. For each family of detectors' pictures the medians over the rounds: photographs a
 * second, processor time of one, which other work on the machine disturbs less, and what 16 processors like
 * these would feed by that. "raw": only decoded, for a GPU that does the rest; it does the same for all
 * families but for the resizing's weights. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/progress.h"
#include "base/thread.h"
#include "data/scene_loader.h"

enum { MOST_ROUNDS = 64 };

static void die(const char *what)
{
    fprintf(stderr, "bench_scenes: %s: %s\n", what, mabn_error_message());
    exit(1);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct speed {
    double rate, cpu; /* photographs a second; milliseconds of processor time of one */
};

static struct speed time_loader(const struct mabn_scene_set *set, const char *preset, bool raw,
                                int threads, double seconds)
{
    struct mabn_scene_loader_options o;
    struct mabn_scene_loader *loader;
    const struct mabn_scene_batch *b;
    mabn_scene_loader_options_init(&o);
    if (mabn_scene_preset(&o.scene, preset, true)) die(preset);
    o.sampler = (struct mabn_scene_sampler_options){
        .count = mabn_scene_set_count(set), .batch = 2, .shuffle = true, .group = true, .seed = 1};
    o.raw = raw;
    o.threads = threads;
    o.epochs = 0;
    if (mabn_scene_loader_new(&loader, set, &o)) die("loader");
    for (int i = 0; i < 4; i++) /* what was prepared while nobody looked */
        if (mabn_scene_loader_next(loader, &b)) die("loader");
    const double wall = mabn_now(), cpu = cpu_seconds();
    double done = 0;
    while (mabn_now() - wall < seconds) {
        if (mabn_scene_loader_next(loader, &b)) die("loader");
        done += b->count;
    }
    const struct speed speed = {done / (mabn_now() - wall), 1e3 * (cpu_seconds() - cpu) / done};
    mabn_scene_loader_free(loader);
    return speed;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static void time_family(const struct mabn_scene_set *set, const char *preset, bool raw, int threads,
                        int rounds, double seconds)
{
    double rate[MOST_ROUNDS], cpu[MOST_ROUNDS];
    for (int r = 0; r < rounds; r++) {
        const struct speed speed = time_loader(set, preset, raw, threads, seconds);
        rate[r] = speed.rate;
        cpu[r] = speed.cpu;
    }
    const double ms = median(cpu, rounds);
    printf("%-12s %-4s %8.1f %8.2f %8.1f %8.0f\n", preset, raw ? "raw" : "", median(rate, rounds),
           ms, 1e3 / ms, 16e3 / ms);
}

int main(int argc, char **argv)
{
    int threads = mabn_threads_available(), rounds = 5, option;
    double seconds = 2;
    struct mabn_scene_set *set;
    uint64_t bad;
    while ((option = getopt(argc, argv, "j:r:s:")) != -1) {
        if (option == 'j') threads = atoi(optarg);
        if (option == 'r') rounds = atoi(optarg);
        if (option == 's') seconds = atof(optarg);
    }
    if (threads < 1 || rounds < 1 || rounds > MOST_ROUNDS || !(seconds > 0) || optind + 1 != argc) {
        fprintf(stderr, "usage: bench_scenes [-j THREADS] [-r ROUNDS] [-s SECONDS] FOLDER\n");
        return 2;
    }
    if (mabn_scene_set_scan(&set, argv[optind], &bad)) die(argv[optind]);
    printf("%llu photographs, %d threads, median of %d rounds of %g s\n",
           (unsigned long long)mabn_scene_set_count(set), threads, rounds, seconds);
    printf("%-17s %8s %8s %8s %8s\n", "", "images/s", "CPU ms", "by 1", "by 16");
    for (const struct mabn_word *family = mabn_scene_presets; family->word; family++)
        for (int raw = 0; raw < 2; raw++)
            time_family(set, family->word, raw, threads, rounds, seconds);
    mabn_scene_set_free(set);
    return 0;
}
