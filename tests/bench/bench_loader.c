/* How fast the loader is, beside a bare libjpeg-turbo loop over the same bytes on the same threads.
 *
 *     bench_loader [-j THREADS] [-r ROUNDS] [-s SECONDS] FOLDER
 *
 * FOLDER: class folders of JPEGs, read into memory first. Each round times the bare loop (whole
 * pictures to RGB, one decompressor a thread) and every preset in turn; the medians over the rounds
 * are printed, with their ratios to the bare loop's: in images a second, and in processor time an
 * image, which other work on the machine disturbs less. "bytes": what a GPU is fed, which
 * normalizes them itself. Then raw 28×28 and 32×32 pictures. */
#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jpeglib.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/thread.h"
#include "data/loader.h"

struct set {
    uint8_t **bytes;
    size_t *sizes;
    uint64_t count, capacity;
    int raw_size, raw_channels; /* raw pictures: all alike */
};

static void die(const char *what)
{
    fprintf(stderr, "bench_loader: %s: %s\n", what, mabn_error_message());
    exit(1);
}

static void add_file(struct set *set, const char *path)
{
    struct mabn_input in;
    if (mabn_input_open(&in, path, 1 << 28)) die(path);
    if (mabn_image_sniff(in.bytes, in.size) == MABN_IMAGE_JPEG) {
        if (set->count == set->capacity) {
            set->capacity = 2 * set->capacity + 64;
            set->bytes = mabn_xrealloc(set->bytes, set->capacity * sizeof *set->bytes);
            set->sizes = mabn_xrealloc(set->sizes, set->capacity * sizeof *set->sizes);
        }
        set->bytes[set->count] = mabn_xmalloc(in.size);
        memcpy(set->bytes[set->count], in.bytes, in.size);
        set->sizes[set->count++] = in.size;
    }
    mabn_input_release(&in);
}

static void add_folder(struct set *set, const char *path)
{
    struct dirent **names;
    const int n = scandir(path, &names, NULL, alphasort);
    if (n < 0) {
        perror(path);
        exit(1);
    }
    for (int i = 0; i < n; i++) {
        if (names[i]->d_name[0] != '.') {
            char *inner = mabn_path_join(path, names[i]->d_name);
            if (mabn_path_is_dir(inner))
                add_folder(set, inner);
            else
                add_file(set, inner);
            free(inner);
        }
        free(names[i]);
    }
    free(names);
}

static mabn_status set_get(const void *context, uint64_t index, struct mabn_sample *sample)
{
    const struct set *set = context;
    *sample = (struct mabn_sample){.bytes = set->bytes[index], .size = set->sizes[index]};
    sample->width = sample->height = set->raw_size;
    sample->channels = set->raw_channels;
    return MABN_OK;
}

/* ---- clocks ---- */

struct speed {
    double rate; /* images a second */
    double cpu;  /* milliseconds of processor time an image, all threads */
};

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct watch {
    double wall, cpu;
};

static struct watch watch_start(void)
{
    return (struct watch){mabn_now(), cpu_seconds()};
}

static struct speed watch_stop(struct watch start, double images)
{
    return (struct speed){images / (mabn_now() - start.wall),
                          1e3 * (cpu_seconds() - start.cpu) / images};
}

/* ---- the yardstick ---- */

struct bare {
    const struct set *set;
    double seconds, start;
    atomic_llong done;
};

static mabn_status bare_thread(void *context, int64_t thread, int worker)
{
    struct bare *bare = context;
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    uint8_t *pixels = NULL;
    size_t capacity = 0;
    uint64_t i = (uint64_t)thread * 17 % bare->set->count;
    (void)worker;
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&cinfo);
    while (mabn_now() - bare->start < bare->seconds) {
        jpeg_mem_src(&cinfo, bare->set->bytes[i], bare->set->sizes[i]);
        jpeg_read_header(&cinfo, TRUE);
        cinfo.out_color_space = JCS_RGB;
        jpeg_start_decompress(&cinfo);
        const size_t stride = (size_t)cinfo.output_width * 3;
        if (stride * cinfo.output_height > capacity) {
            capacity = stride * cinfo.output_height;
            pixels = mabn_xrealloc(pixels, capacity);
        }
        while (cinfo.output_scanline < cinfo.output_height) {
            JSAMPROW row = pixels + cinfo.output_scanline * stride;
            jpeg_read_scanlines(&cinfo, &row, 1);
        }
        jpeg_finish_decompress(&cinfo);
        atomic_fetch_add(&bare->done, 1);
        i = (i + 1) % bare->set->count;
    }
    jpeg_destroy_decompress(&cinfo);
    free(pixels);
    return MABN_OK;
}

static struct speed time_bare(const struct set *set, int threads, double seconds)
{
    const struct watch start = watch_start();
    struct bare bare = {.set = set, .seconds = seconds, .start = start.wall};
    if (mabn_parallel(threads, threads, 1, bare_thread, &bare)) die("bare loop");
    return watch_stop(start, (double)bare.done);
}

/* ---- the loader ---- */

static struct speed time_loader(const struct set *set, const struct mabn_augment *augment,
                                bool bytes, int threads, double seconds, int batch)
{
    const struct mabn_source source = {.count = set->count, .get = set_get, .context = set};
    struct mabn_loader_options o;
    struct mabn_loader *loader;
    const struct mabn_batch *b;
    mabn_loader_options_init(&o);
    o.augment = *augment;
    o.batch = batch;
    o.threads = threads;
    o.bytes = bytes;
    if (mabn_sampler_init(&o.sampler, MABN_SAMPLER_SHUFFLE, set->count, set->count * 1000, 1) ||
        mabn_loader_new(&loader, &source, &o))
        die("loader");
    for (int i = 0; i < 4; i++) /* what was prepared while nobody looked */
        if (mabn_loader_next(loader, &b)) die("loader");
    const struct watch start = watch_start();
    uint64_t done = 0;
    while (mabn_now() - start.wall < seconds) {
        if (mabn_loader_next(loader, &b)) die("loader");
        done += (uint64_t)b->count;
    }
    const struct speed speed = watch_stop(start, (double)done);
    mabn_loader_free(loader);
    return speed;
}

struct contest {
    const char *name, *preset;
    bool training, scaled, bytes;
    double rate[64], cpu[64];
};

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

static void contest_jpegs(const struct set *set, int threads, int rounds, double seconds)
{
    struct contest contests[] = {
        {.name = "imagenet, training", .preset = "imagenet", .training = true},
        {.name = "imagenet, training, scaled decode",
         .preset = "imagenet",
         .training = true,
         .scaled = true},
        {.name = "imagenet, training, bytes",
         .preset = "imagenet",
         .training = true,
         .bytes = true},
        {.name = "imagenet, validation", .preset = "imagenet"},
        {.name = "torchvision, training", .preset = "torchvision", .training = true},
        {.name = "torchvision, training, bytes",
         .preset = "torchvision",
         .training = true,
         .bytes = true},
        {.name = "torchvision, validation", .preset = "torchvision"},
    };
    const int n = sizeof contests / sizeof *contests;
    struct contest bare = {.name = "libjpeg-turbo, whole pictures"};
    for (int r = 0; r < rounds; r++) {
        struct speed speed = time_bare(set, threads, seconds);
        bare.rate[r] = speed.rate;
        bare.cpu[r] = speed.cpu;
        for (int i = 0; i < n; i++) {
            struct mabn_augment a;
            if (mabn_augment_preset(&a, contests[i].preset, contests[i].training)) die("preset");
            a.scaled_decode = contests[i].scaled;
            speed = time_loader(set, &a, contests[i].bytes, threads, seconds, 32);
            contests[i].rate[r] = speed.rate;
            contests[i].cpu[r] = speed.cpu;
        }
    }
    const double unit = median(bare.rate, rounds), unit_cpu = median(bare.cpu, rounds);
    printf("%-36s %8s %6s %9s %6s\n", "", "images/s", "ratio", "CPU ms", "ratio");
    printf("%-36s %8.0f %6.2f %9.3f %6.2f\n", bare.name, unit, 1.0, unit_cpu, 1.0);
    for (int i = 0; i < n; i++) {
        const double rate = median(contests[i].rate, rounds), cpu = median(contests[i].cpu, rounds);
        printf("%-36s %8.0f %6.2f %9.3f %6.2f\n", contests[i].name, rate, rate / unit, cpu,
               unit_cpu / cpu);
    }
}

static void contest_raw(int size, int channels, const char *preset, int threads, double seconds)
{
    struct set set = {.count = 4096, .raw_size = size, .raw_channels = channels};
    struct mabn_augment a;
    struct mabn_rng rng;
    const size_t bytes = (size_t)size * size * channels;
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    uint8_t *pixels = mabn_xmalloc(bytes * set.count);
    for (size_t i = 0; i < bytes * set.count; i++)
        pixels[i] = (uint8_t)mabn_rng_u32(&rng);
    set.bytes = mabn_xmalloc(set.count * sizeof *set.bytes);
    set.sizes = mabn_xmalloc(set.count * sizeof *set.sizes);
    for (uint64_t i = 0; i < set.count; i++) {
        set.bytes[i] = pixels + i * bytes;
        set.sizes[i] = bytes;
    }
    if (mabn_augment_preset(&a, preset, true)) die("preset");
    a.width = a.height = size;
    a.channels = channels;
    const struct speed speed = time_loader(&set, &a, false, threads, seconds, 64);
    printf("raw %dx%dx%d, %-23s %8.0f %6s %9.4f\n", size, size, channels, preset, speed.rate, "",
           speed.cpu);
    free(set.bytes);
    free(set.sizes);
    free(pixels);
}

int main(int argc, char **argv)
{
    int threads = mabn_threads_available(), rounds = 5, option;
    double seconds = 1;
    while ((option = getopt(argc, argv, "j:r:s:")) != -1) {
        if (option == 'j') threads = atoi(optarg);
        if (option == 'r') rounds = atoi(optarg);
        if (option == 's') seconds = atof(optarg);
    }
    if (threads < 1 || rounds < 1 || rounds > 64 || !(seconds > 0)) {
        fprintf(stderr, "usage: bench_loader [-j THREADS] [-r ROUNDS] [-s SECONDS] [FOLDER]\n");
        return 2;
    }
    printf("%d threads, median of %d rounds of %g s\n", threads, rounds, seconds);
    if (optind < argc) {
        struct set set = {0};
        add_folder(&set, argv[optind]);
        if (!set.count) {
            fprintf(stderr, "bench_loader: no JPEG under '%s'\n", argv[optind]);
            return 1;
        }
        contest_jpegs(&set, threads, rounds, seconds);
        for (uint64_t i = 0; i < set.count; i++)
            free(set.bytes[i]);
        free(set.bytes);
        free(set.sizes);
    }
    contest_raw(28, 1, "plain", threads, seconds);
    contest_raw(32, 3, "cifar", threads, seconds);
    return 0;
}
