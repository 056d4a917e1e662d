/* Samplers draw as documented; the loader delivers samples in order, whatever its threads do. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "image/image.h"
#include "store/dataset.h"
#include "tap.h"

/* ---- samplers ---- */

static void test_shuffle(uint64_t n)
{
    struct mabn_sampler s;
    char *seen = mabn_xcalloc(n, 1);
    uint64_t once = 0, fixed = 0, same = 0;
    tap_status(mabn_sampler_init(&s, MABN_SAMPLER_SHUFFLE, n, 0, 42), "shuffle %d", (int)n);
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t x = mabn_sampler_at(&s, 3, i);
        if (x < n && !seen[x]) once++;
        if (x < n) seen[x] = 1;
        fixed += x == i;
    }
    for (uint64_t i = 0; i < n; i++)
        same += mabn_sampler_at(&s, 3, i) == mabn_sampler_at(&s, 4, i);
    tap_ok(once == n, "shuffle %d: every sample once", (int)n);
    if (n >= 100)
        tap_ok(fixed < 12 && same < 12, "shuffle %d: %d in place, %d as in the next epoch", (int)n,
               (int)fixed, (int)same);
    free(seen);
}

/* All orders of four samples occur about equally often. */
static void test_shuffle_orders(void)
{
    enum { EPOCHS = 24000 };
    int count[256] = {0}, orders = 0;
    double chi = 0;
    struct mabn_sampler s;
    tap_status(mabn_sampler_init(&s, MABN_SAMPLER_SHUFFLE, 4, 0, 1), "four samples");
    for (uint64_t e = 0; e < EPOCHS; e++) {
        int code = 0;
        for (uint64_t i = 0; i < 4; i++)
            code = code * 4 + (int)mabn_sampler_at(&s, e, i);
        count[code]++;
    }
    for (int i = 0; i < 256; i++)
        if (count[i]) {
            orders++;
            chi += pow(count[i] - EPOCHS / 24.0, 2) / (EPOCHS / 24.0);
        }
    tap_ok(orders == 24, "all 24 orders of four");
    tap_ok(chi < 60, "about equally often (chi-square %.1f on 23 degrees)", chi);
}

static void test_replacement(void)
{
    enum { N = 1000, DRAWS = 100000 };
    struct mabn_sampler s, again;
    int count[N] = {0};
    double chi = 0;
    tap_status(mabn_sampler_init(&s, MABN_SAMPLER_REPLACEMENT, N, DRAWS, 7), "with replacement");
    again = s;
    bool same = true;
    for (uint64_t i = 0; i < DRAWS; i++)
        count[mabn_sampler_at(&s, 0, i)]++;
    for (int i = 0; i < N; i++)
        chi += pow(count[i] - DRAWS / (double)N, 2) / (DRAWS / (double)N);
    for (uint64_t i = 500; i-- > 0;) /* backwards: there is no state */
        same &= mabn_sampler_at(&s, 1, i) == mabn_sampler_at(&again, 1, i);
    tap_ok(chi > 850 && chi < 1160, "uniform (chi-square %.0f on 999 degrees)", chi);
    tap_ok(same, "a draw depends on epoch and position alone");
}

static void test_slices(void)
{
    struct mabn_sampler s;
    uint64_t first, count, next = 0;
    bool joined = true;
    if (mabn_sampler_init(&s, MABN_SAMPLER_SEQUENTIAL, 103, 0, 0)) exit(1);
    tap_ok(mabn_sampler_batches(&s, 12, 0) == 8 && mabn_sampler_batches(&s, 12, 1) == 9,
           "batches, without and with the short last one");
    for (uint64_t b = 0; b < 9; b++)
        for (int rank = 0; rank < 4; rank++) {
            mabn_sampler_slice(&s, 12, b, rank, 4, &first, &count);
            joined &= !count || first == next;
            next += count;
        }
    tap_ok(joined && next == 103, "four ranks take everything once, in order");
    mabn_sampler_slice(&s, 12, 8, 3, 4, &first, &count);
    tap_ok(count == 0, "a rank may have nothing of the last batch");
    tap_fails(mabn_sampler_init(&s, MABN_SAMPLER_SHUFFLE, 0, 0, 0), MABN_ERR_ARG, "no samples",
              "no samples");
    if (mabn_sampler_init(&s, MABN_SAMPLER_SHUFFLE, 10, 25, 5)) exit(1);
    int seen[10] = {0};
    for (uint64_t i = 0; i < 20; i++)
        seen[mabn_sampler_at(&s, 0, i)]++;
    bool twice = true;
    for (int i = 0; i < 10; i++)
        twice &= seen[i] == 2;
    tap_ok(twice, "a longer epoch goes round again");
    if (mabn_sampler_init(&s, MABN_SAMPLER_SHUFFLE, 100, 200, 5)) exit(1);
    int equal = 0;
    for (uint64_t i = 0; i < 100; i++)
        equal += mabn_sampler_at(&s, 0, i) == mabn_sampler_at(&s, 0, i + 100);
    tap_ok(equal < 10, "in another order (%d of 100 in the same place)", equal);
}

/* ---- the loader ---- */

/* Gradients that begin with a pixel holding the sample's number; one or two files may be truncated.
 */
struct set {
    uint8_t *bytes[64];
    size_t sizes[64];
    uint64_t count;
    uint64_t bad, bad2; /* the broken ones; count: none */
    bool slow;          /* uneven decode times, so that threads overtake each other */
};

static void set_init(struct set *set, uint64_t count, bool raw)
{
    struct mabn_image image = {0};
    *set = (struct set){.count = count, .bad = count, .bad2 = count};
    for (uint64_t i = 0; i < count; i++) {
        if (mabn_image_resize_storage(&image, 24, 20, 3)) exit(1);
        for (int k = 0; k < 24 * 20 * 3; k++)
            image.pixels[k] = (uint8_t)(3 * i + (uint64_t)(k / 3 % 24 * 2 + k / 72));
        if (raw) {
            set->sizes[i] = 24 * 20 * 3;
            set->bytes[i] = mabn_xmalloc(set->sizes[i]);
            memcpy(set->bytes[i], image.pixels, set->sizes[i]);
        } else if (mabn_image_encode_jpeg(&set->bytes[i], &set->sizes[i], &image, 95)) {
            exit(1);
        }
    }
    mabn_image_release(&image);
}

static void set_release(struct set *set)
{
    for (uint64_t i = 0; i < set->count; i++)
        free(set->bytes[i]);
}

static mabn_status get_jpeg(const void *context, uint64_t i, struct mabn_sample *sample)
{
    const struct set *set = context;
    if (set->slow && i % 7 == 0) nanosleep(&(struct timespec){0, 2000000}, NULL);
    *sample = (struct mabn_sample){.bytes = set->bytes[i],
                                   .size = i == set->bad || i == set->bad2 ? 50 : set->sizes[i]};
    return MABN_OK;
}

static mabn_status get_raw(const void *context, uint64_t i, struct mabn_sample *sample)
{
    const struct set *set = context;
    *sample = (struct mabn_sample){
        .bytes = set->bytes[i], .size = set->sizes[i], .width = 24, .height = 20, .channels = 3};
    return MABN_OK;
}

static void name_sample(const void *context, uint64_t i, char *text, size_t capacity)
{
    (void)context;
    snprintf(text, capacity, "class/picture%d.jpg", (int)i);
}

static struct mabn_source source_of(const struct set *set, bool raw)
{
    return (struct mabn_source){
        .count = set->count, .get = raw ? get_raw : get_jpeg, .name = name_sample, .context = set};
}

static struct mabn_loader_options options_for(const struct set *set, enum mabn_sampler_kind kind,
                                              int batch)
{
    struct mabn_loader_options o;
    mabn_loader_options_init(&o);
    if (mabn_augment_preset(&o.augment, "torchvision", true) ||
        mabn_sampler_init(&o.sampler, kind, set->count, 0, 99))
        exit(1);
    o.augment.width = o.augment.height = 16;
    o.batch = batch;
    o.threads = 2;
    return o;
}

/* A digest of everything in `batches` batches; 0 when the loader fails. */
static uint64_t digest(struct mabn_loader *loader, int batches, size_t row)
{
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < batches; i++) {
        const struct mabn_batch *b;
        if (mabn_loader_next(loader, &b) || !b) return 0;
        const uint8_t *x = (const uint8_t *)b->x;
        for (size_t k = 0; k < row * sizeof(float) * (size_t)b->count; k++)
            h = (h ^ x[k]) * 1099511628211u;
        for (int k = 0; k < b->count; k++)
            h = (h ^ b->samples[k]) * 1099511628211u;
        h = (h ^ b->epoch ^ b->index << 20) * 1099511628211u;
    }
    return h;
}

static void test_order(bool raw)
{
    const size_t row = 16 * 16 * 3;
    struct set set;
    struct mabn_loader *loader;
    set_init(&set, 50, raw);
    set.slow = true;
    const struct mabn_source source = source_of(&set, raw);
    struct mabn_loader_options o = options_for(&set, MABN_SAMPLER_SHUFFLE, 8);
    uint64_t first = 0;
    for (int threads = 1; threads <= 8; threads *= 2)
        for (int ahead = 1; ahead <= 5; ahead += 4) {
            o.threads = threads;
            o.ahead = ahead;
            tap_status(mabn_loader_new(&loader, &source, &o), "%d threads, %d ahead", threads,
                       ahead);
            const uint64_t h = digest(loader, 15, row);
            if (!first) first = h;
            tap_ok(h && h == first, "the same batches with %d threads, %d ahead%s", threads, ahead,
                   raw ? ", raw" : "");
            mabn_loader_free(loader);
        }
    /* resume and seek: batch 9 of 6 an epoch is batch 3 of epoch 1 */
    o.first_epoch = 1;
    o.first_index = 3;
    tap_status(mabn_loader_new(&loader, &source, &o), "started at 1:3");
    const uint64_t tail = digest(loader, 4, row);
    mabn_loader_free(loader);
    o.first_epoch = o.first_index = 0;
    if (mabn_loader_new(&loader, &source, &o)) exit(1);
    digest(loader, 9, row);
    tap_ok(tail && digest(loader, 4, row) == tail, "going on equals starting there");
    tap_status(mabn_loader_seek(loader, 1, 3), "seek back");
    tap_ok(digest(loader, 4, row) == tail, "and so does seeking");
    int same = 0;
    for (int i = 0; i < 20; i++) {
        if (mabn_loader_seek(loader, 1, 3)) break;
        same += digest(loader, 4, row) == tail;
    }
    tap_ok(same == 20, "every time (%d of 20)", same);
    tap_fails(mabn_loader_seek(loader, 0, 9), MABN_ERR_ARG, "epoch of 6", "not beyond the end");
    mabn_loader_free(loader);
    set_release(&set);
}

static void test_contents(void)
{
    struct set set;
    struct mabn_loader *loader;
    const struct mabn_batch *b;
    struct mabn_loader_stats stats;
    set_init(&set, 30, false);
    const struct mabn_source source = source_of(&set, false);
    struct mabn_loader_options o = options_for(&set, MABN_SAMPLER_SEQUENTIAL, 8);
    if (mabn_augment_preset(&o.augment, "plain", false)) exit(1);
    o.augment.width = 24;
    o.augment.height = 20;
    o.augment.range = 255;
    o.keep_last = true;
    o.epochs = 2;
    tap_status(mabn_loader_new(&loader, &source, &o), "validation");
    int batches = 0, samples = 0, wrong = 0;
    while (!mabn_loader_next(loader, &b) && b) {
        for (int i = 0; i < b->count; i++, samples++) {
            const int want = samples % 30;
            wrong +=
                b->samples[i] != (uint64_t)want || fabs(b->x[(size_t)i * 1440] - 3 * want) > 1.5;
        }
        for (int i = b->count; i < 8; i++)
            wrong += b->x[(size_t)i * 1440 + 700] != 0;
        wrong += b->epoch != (uint64_t)(batches / 4) || b->index != (uint64_t)(batches % 4);
        batches++;
    }
    tap_ok(batches == 8 && samples == 60 && !wrong, "two epochs of 30 in order, the last short");
    tap_ok(!mabn_loader_next(loader, &b) && !b, "the end is the end");
    mabn_loader_stats(loader, &stats);
    tap_ok(stats.batches == 8 && stats.samples == 60 && stats.wait_seconds >= 0, "counted");
    mabn_loader_free(loader);
    set_release(&set);
}

/* The ranks' parts together are what a single rank gets, pixels included. */
static void test_ranks(void)
{
    struct set set;
    struct mabn_loader *one, *part[3];
    const struct mabn_batch *whole, *b;
    set_init(&set, 40, false);
    const struct mabn_source source = source_of(&set, false);
    struct mabn_loader_options o = options_for(&set, MABN_SAMPLER_REPLACEMENT, 12);
    const size_t row = 16 * 16 * 3;
    int wrong = 0;
    if (mabn_loader_new(&one, &source, &o)) exit(1);
    o.batch = 4;
    o.ranks = 3;
    for (o.rank = 0; o.rank < 3; o.rank++)
        if (mabn_loader_new(&part[o.rank], &source, &o)) exit(1);
    for (int i = 0; i < 7; i++) {
        wrong += mabn_loader_next(one, &whole) || !whole;
        for (int rank = 0; rank < 3; rank++) {
            wrong += mabn_loader_next(part[rank], &b) || !b || b->count != 4;
            wrong += memcmp(b->x, whole->x + (size_t)rank * 4 * row, 4 * row * sizeof(float)) != 0;
            wrong += memcmp(b->samples, whole->samples + rank * 4, 4 * sizeof(uint64_t)) != 0;
        }
    }
    tap_ok(!wrong, "three ranks together see what one sees");
    mabn_loader_free(one);
    for (int rank = 0; rank < 3; rank++)
        mabn_loader_free(part[rank]);
    set_release(&set);
}

static void test_bad_sample(void)
{
    struct set set;
    struct mabn_loader *loader;
    const struct mabn_batch *b;
    struct mabn_loader_stats stats;
    set_init(&set, 30, false);
    set.bad = 19;
    set.bad2 = 22;
    const struct mabn_source source = source_of(&set, false);
    struct mabn_loader_options o = options_for(&set, MABN_SAMPLER_SEQUENTIAL, 8);
    for (int threads = 1; threads <= 4; threads += 3) {
        o.threads = threads;
        if (mabn_loader_new(&loader, &source, &o)) exit(1);
        tap_status(mabn_loader_next(loader, &b), "batch 0 is good");
        tap_status(mabn_loader_next(loader, &b), "batch 1 is good");
        tap_fails(mabn_loader_next(loader, &b), MABN_ERR_FORMAT,
                  "sample 19 'class/picture19.jpg': JPEG", "the bad sample is named in its turn");
        tap_ok(!b, "no batch then");
        tap_fails(mabn_loader_next(loader, &b), MABN_ERR_FORMAT, "sample 19", "and again");
        tap_status(mabn_loader_seek(loader, 1, 0), "seeking past it");
        tap_status(mabn_loader_next(loader, &b), "goes on");
        mabn_loader_free(loader);
    }
    o.skip_bad = true;
    if (mabn_loader_new(&loader, &source, &o)) exit(1);
    for (int i = 0; i < 3; i++)
        tap_status(mabn_loader_next(loader, &b), "with skip_bad");
    tap_ok(b->samples[3] == 20 && b->samples[4] == 20, "the next one takes its place");
    mabn_loader_stats(loader, &stats);
    tap_ok(stats.bad == 2, "and both are counted");
    mabn_loader_free(loader);
    set_release(&set);
}

static void test_stop(void)
{
    struct set set;
    struct mabn_loader *loader;
    const struct mabn_batch *b;
    set_init(&set, 50, false);
    set.slow = true;
    const struct mabn_source source = source_of(&set, false);
    struct mabn_loader_options o = options_for(&set, MABN_SAMPLER_REPLACEMENT, 16);
    for (int i = 0; i < 40; i++) {
        o.threads = 1 + i % 5;
        if (mabn_loader_new(&loader, &source, &o)) exit(1);
        for (int k = 0; k < i % 3; k++)
            if (mabn_loader_next(loader, &b)) exit(1);
        if (i % 4 == 3 && mabn_loader_seek(loader, 2, 1)) exit(1);
        mabn_loader_free(loader);
    }
    tap_ok(true, "stopped at any time");
    o.batch = 51;
    tap_fails(mabn_loader_new(&loader, &source, &o), MABN_ERR_ARG, "less than a batch",
              "an epoch shorter than a batch");
    o.batch = 0;
    tap_fails(mabn_loader_new(&loader, &source, &o), MABN_ERR_ARG, "batch of 0",
              "no empty batches");
    o.batch = 8;
    o.sampler.samples = 49;
    tap_fails(mabn_loader_new(&loader, &source, &o), MABN_ERR_MISMATCH, "49", "another's sampler");
    set_release(&set);
}

/* A packed dataset as source: it delivers what was packed, names included. */
static void test_dataset(bool raw)
{
    struct set set;
    struct mabn_dataset_writer *w;
    struct mabn_dataset *ds;
    struct mabn_source source;
    struct mabn_loader *loader;
    const struct mabn_batch *b;
    char path[] = "/tmp/mabn-test-data-XXXXXX", name[100];
    int32_t labels[20];
    char texts[20][20];
    const char *names[20];
    const int fd = mkstemp(path);
    if (fd < 0) exit(1);
    close(fd);
    set_init(&set, 20, raw);
    const struct mabn_dataset_spec spec = {.kind = "imagenet",
                                           .raw = raw,
                                           .height = 20,
                                           .width = 24,
                                           .channels = 3,
                                           .count = 20,
                                           .command = "test",
                                           .force = true};
    if (mabn_dataset_writer_open(&w, path, &spec)) exit(1);
    for (int i = 0; i < 20; i++) {
        const struct mabn_dataset_sample sample = {.bytes = set.bytes[i],
                                                   .size = i == 13 && !raw ? 99 : set.sizes[i],
                                                   .height = 20,
                                                   .width = 24,
                                                   .channels = 3,
                                                   .format =
                                                       raw ? MABN_DATASET_RAW : MABN_DATASET_JPEG};
        if (mabn_dataset_writer_add(w, i, &sample)) exit(1);
        labels[i] = i % 10;
        snprintf(texts[i], sizeof texts[i], "a/%d.jpg", i);
        names[i] = texts[i];
    }
    const char *classes[10] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};
    if (mabn_dataset_writer_set_classes(w, classes, 10) ||
        mabn_dataset_writer_set_labels(w, labels) || mabn_dataset_writer_set_names(w, names))
        exit(1);
    tap_status(mabn_dataset_writer_commit(w), "a dataset%s", raw ? ", raw" : "");
    mabn_dataset_writer_free(w, false);
    tap_status(mabn_dataset_open(&ds, path), "opens");
    mabn_source_of_dataset(&source, ds);
    source.name(source.context, 13, name, sizeof name);
    tap_str_eq(name, "a/13.jpg", "its names");
    struct mabn_loader_options o = options_for(&set, MABN_SAMPLER_SEQUENTIAL, 10);
    o.epochs = 1;
    tap_status(mabn_loader_new(&loader, &source, &o), "a loader on it");
    tap_status(mabn_loader_next(loader, &b), "loads");
    tap_ok(b && b->count == 10 && b->samples[7] == 7, "samples");
    if (raw)
        tap_status(mabn_loader_next(loader, &b), "to the end");
    else
        tap_fails(mabn_loader_next(loader, &b), MABN_ERR_FORMAT, "sample 13 'a/13.jpg'",
                  "a bad picture is named");
    mabn_loader_free(loader);
    mabn_dataset_free(ds);
    set_release(&set);
    remove(path);
}

/* Batches of bytes equal batches of floats before normalization; a short batch is padded. */
static void test_bytes(void)
{
    struct set set;
    struct mabn_loader *loaders[2];
    const struct mabn_batch *floats, *bytes;
    float table[3][256];
    int wrong = 0, batches = 0;
    set_init(&set, 11, true);
    const struct mabn_source source = source_of(&set, true);
    struct mabn_loader_options o = options_for(&set, MABN_SAMPLER_SHUFFLE, 4);
    o.epochs = 1;
    o.keep_last = true;
    mabn_augment_table(&o.augment, table);
    for (int i = 0; i < 2; i++) {
        o.bytes = i;
        tap_status(mabn_loader_new(&loaders[i], &source, &o), i ? "bytes" : "floats");
    }
    while (!mabn_loader_next(loaders[0], &floats) && floats) {
        if (mabn_loader_next(loaders[1], &bytes) || !bytes || bytes->x || floats->bytes) exit(1);
        wrong += bytes->count != floats->count ||
                 memcmp(bytes->samples, floats->samples, 4 * sizeof *bytes->samples) != 0;
        for (int k = 0; k < floats->count * 16 * 16 * 3; k++)
            wrong += floats->x[k] != table[k % 3][bytes->bytes[k]];
        for (int k = bytes->count * 16 * 16 * 3; k < 4 * 16 * 16 * 3; k++)
            wrong += bytes->bytes[k] != 0;
        batches++;
    }
    tap_ok(!wrong && batches == 3, "the same batches, as bytes");
    mabn_loader_free(loaders[0]);
    mabn_loader_free(loaders[1]);
    o.augment.erase = 0.1;
    tap_fails(mabn_loader_new(&loaders[0], &source, &o), MABN_ERR_ARG, "bytes",
              "no bytes with erased parts");
    set_release(&set);
}

int main(void)
{
    test_shuffle(1);
    test_shuffle(2);
    test_shuffle(5);
    test_shuffle(1000);
    test_shuffle(65537);
    test_shuffle_orders();
    test_replacement();
    test_slices();
    test_order(false);
    test_order(true);
    test_contents();
    test_bytes();
    test_ranks();
    test_bad_sample();
    test_stop();
    test_dataset(false);
    test_dataset(true);
    return tap_done();
}
