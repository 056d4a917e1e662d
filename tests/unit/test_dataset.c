/* Datasets: samples that many threads add are read back in order, whatever the threads do and
 * however often packing was interrupted; damage is noticed. */
#include "store/dataset.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/thread.h"
#include "tap.h"

enum { COUNT = 1000 };

static char folder[] = "/tmp/mabn-test-XXXXXX";

/* "Image" i: its bytes depend on i and on the version of its input. */
static size_t fill(uint8_t bytes[600], int64_t i, int version)
{
    size_t size = 1 + (size_t)(i * 7919 % 600);
    for (size_t k = 0; k < size; k++)
        bytes[k] = (uint8_t)(i * 31 + (int64_t)k * 7 + version);
    return size;
}

struct job {
    struct mabn_dataset_writer *w;
    int64_t fail_at; /* this input fails */
    int version;     /* version of the inputs from number 700 on */
    atomic_int added;
};

static mabn_status add_one(void *context, int64_t index, int worker)
{
    struct job *job = (struct job *)context;
    uint8_t bytes[600];
    int64_t i = index + mabn_dataset_writer_done(job->w);
    int version = i >= 700 ? job->version : 0;
    (void)worker;
    if (i == job->fail_at) {
        mabn_dataset_writer_cancel(job->w, i);
        return mabn_fail(MABN_ERR_IO, "number %lld failed", (long long)i);
    }
    if (i % 10 == 3) return mabn_dataset_writer_skip(job->w, i, (uint64_t)version);
    struct mabn_dataset_sample sample = {
        .bytes = bytes,
        .size = fill(bytes, i, version),
        .height = 1 + (int)(i % 5),
        .width = 2,
        .channels = 3,
        .format = i % 2 ? MABN_DATASET_JPEG : MABN_DATASET_PNG,
        .source = (uint64_t)version,
    };
    atomic_fetch_add(&job->added, 1);
    return mabn_dataset_writer_add(job->w, i, &sample);
}

/* Pack, continuing where an earlier run stopped; the first changed input is detected. */
static mabn_status pack(const char *path, int threads, int64_t fail_at, int version, uint8_t key,
                        int *added)
{
    struct mabn_dataset_spec spec = {
        .kind = "imagenet", .count = COUNT, .command = "test", .key = {key}};
    struct job job = {.fail_at = fail_at, .version = version};
    int32_t labels[COUNT];
    char text[COUNT][16];
    const char *names[COUNT], *classes[] = {"first", "second", "the third"};
    for (int i = 0; i < COUNT; i++) {
        labels[i] = i % 3;
        snprintf(text[i], sizeof text[i], "n%d.jpg", i);
        names[i] = text[i];
    }
    MABN_TRY(mabn_dataset_writer_open(&job.w, path, &spec));
    mabn_status status = MABN_OK;
    for (int64_t i = 700; i < mabn_dataset_writer_done(job.w) && !status; i++)
        if (mabn_dataset_writer_source(job.w, i) != (uint64_t)version)
            status = mabn_dataset_writer_rewind(job.w, i);
    if (!status)
        status = mabn_parallel(threads, COUNT - mabn_dataset_writer_done(job.w), 1, add_one, &job);
    if (added) *added = job.added;
    const double boxes[6] = {1, 2, 3, 4, 5, 6};
    const uint64_t dims[2] = {2, 3};
    if (!status) status = mabn_dataset_writer_set_labels(job.w, labels);
    if (!status) status = mabn_dataset_writer_set_classes(job.w, classes, 3);
    if (!status) status = mabn_dataset_writer_set_names(job.w, names);
    if (!status)
        status = mabn_dataset_writer_add_array(job.w, "/more/boxes", MABN_H5_F64, 2, dims, boxes);
    if (!status) status = mabn_dataset_writer_commit(job.w);
    mabn_dataset_writer_free(job.w, true);
    return status;
}

static bool same_file(const char *a, const char *b)
{
    struct mabn_input x, y;
    if (mabn_input_open(&x, a, 0)) return false;
    if (mabn_input_open(&y, b, 0)) {
        mabn_input_release(&x);
        return false;
    }
    bool same = x.size == y.size && !memcmp(x.bytes, y.bytes, x.size);
    mabn_input_release(&x);
    mabn_input_release(&y);
    return same;
}

static void test_contents(const char *path)
{
    struct mabn_dataset *ds;
    uint8_t want[600];
    char name[32];
    int64_t i = 0;
    int wrong = 0;
    tap_status(mabn_dataset_open(&ds, path), "open");
    tap_str_eq(mabn_dataset_kind(ds), "imagenet", "kind");
    tap_ok(mabn_dataset_count(ds) == 900, "skipped images are gone");
    tap_ok(!mabn_dataset_is_raw(ds), "encoded");
    for (int64_t number = 0; number < COUNT; number++) {
        const uint8_t *bytes;
        size_t size, n = fill(want, number, 0);
        if (number % 10 == 3) continue;
        if (mabn_dataset_image(ds, i, &bytes, &size) || size != n || memcmp(bytes, want, n))
            wrong++;
        if (mabn_dataset_label(ds, i) != number % 3) wrong++;
        if (mabn_dataset_image_height(ds, i) != 1 + number % 5) wrong++;
        if (mabn_dataset_image_format(ds, i) != (number % 2 ? MABN_DATASET_JPEG : MABN_DATASET_PNG))
            wrong++;
        snprintf((char *)want, sizeof want, "n%lld.jpg", (long long)number);
        if (strcmp(mabn_dataset_image_name(ds, i, name, sizeof name), (char *)want)) wrong++;
        i++;
    }
    tap_ok(!wrong, "every image, label, size, format and name in order");
    tap_ok(mabn_dataset_classes(ds) == 3, "three classes");
    tap_str_eq(mabn_dataset_class_name(ds, 2), "the third", "their names");
    tap_ok(!mabn_dataset_class_name(ds, 3), "no fourth");
    mabn_dataset_prefetch(ds, 899);
    const struct mabn_h5_item *item;
    double boxes[6] = {0};
    tap_status(mabn_h5_need(mabn_dataset_file(ds), "/more/boxes", MABN_H5_F64, 2, &item), "extra");
    tap_status(mabn_h5_read(mabn_dataset_file(ds), item, boxes), "read it");
    tap_ok(item->dims[0] == 2 && item->dims[1] == 3 && boxes[5] == 6, "its values");
    tap_status(mabn_dataset_verify(ds, 2), "verify");
    mabn_dataset_free(ds);
}

static void test_resume(const char *whole)
{
    char *path = mabn_path_join(folder, "resumed.h5");
    char *journal = mabn_xasprintf("%s.journal", path), *part = mabn_xasprintf("%s.partial", path);
    int added;
    tap_fails(pack(path, 3, 512, 0, 1, &added), MABN_ERR_IO, "number 512 failed", "cut off");
    tap_ok(mabn_path_exists(part) && mabn_path_exists(journal), "what is done is kept");
    tap_ok(!mabn_path_exists(path), "nothing under the final name");
    tap_fails(pack(path, 2, 900, 0, 1, &added), MABN_ERR_IO, "number 900 failed", "and again");
    tap_ok(added <= 900 - 512 + 3, "only the rest was added (%d)", added);
    tap_status(pack(path, 2, -1, 0, 1, &added), "finished");
    tap_ok(added <= 103, "only the rest was added (%d)", added);
    tap_ok(same_file(whole, path), "bit for bit the file of an undisturbed run");
    tap_ok(!mabn_path_exists(part) && !mabn_path_exists(journal), "nothing left behind");
    unlink(path);

    tap_fails(pack(path, 1, 800, 9, 1, NULL), MABN_ERR_IO, "failed", "cut off, other inputs");
    tap_status(pack(path, 1, -1, 0, 1, &added), "inputs changed since");
    tap_ok(added == 270, "packed again from the first that changed (%d)", added);
    tap_ok(same_file(whole, path), "the same file");
    unlink(path);

    tap_fails(pack(path, 1, 800, 0, 2, NULL), MABN_ERR_IO, "failed", "cut off, another key");
    tap_status(pack(path, 1, -1, 0, 1, &added), "started over");
    tap_ok(added == 900, "all were added");
    tap_ok(same_file(whole, path), "the same file");
    unlink(path);

    /* A torn journal and a truncated partial file are used as far as they reach. */
    tap_fails(pack(path, 1, 800, 0, 1, NULL), MABN_ERR_IO, "failed", "cut off");
    tap_ok(!truncate(journal, 72 + 48 * 300 + 20), "the journal is torn");
    tap_status(pack(path, 1, -1, 0, 1, &added), "finished");
    tap_ok(added > 600 && added < 900, "from the torn record on (%d)", added);
    tap_ok(same_file(whole, path), "the same file");
    unlink(path);
    tap_fails(pack(path, 1, 800, 0, 1, NULL), MABN_ERR_IO, "failed", "cut off");
    tap_ok(!truncate(part, 60000), "the partial file is short");
    tap_status(pack(path, 1, -1, 0, 1, &added), "finished");
    tap_ok(same_file(whole, path), "the same file");
    unlink(path);
    tap_fails(pack(path, 1, 800, 0, 1, NULL), MABN_ERR_IO, "failed", "cut off");
    tap_ok(!unlink(part), "the partial file is gone");
    tap_status(pack(path, 1, -1, 0, 1, &added), "finished");
    tap_ok(added == 900 && same_file(whole, path), "all again, the same file");
    free(path);
    free(journal);
    free(part);
}

/* After a reboot the bytes are compared, because unsynced pages may have been lost. */
static void test_reboot(const char *whole)
{
    char *path = mabn_path_join(folder, "reboot.h5");
    char *journal = mabn_xasprintf("%s.journal", path), *part = mabn_xasprintf("%s.partial", path);
    int added, fd;
    char lost[64] = {0};
    tap_fails(pack(path, 1, 800, 0, 1, NULL), MABN_ERR_IO, "failed", "cut off");
    fd = open(journal, O_RDWR);
    tap_ok(pwrite(fd, "another boot", 12, 32) == 12, "the machine was started again");
    close(fd);
    fd = open(part, O_RDWR);
    tap_ok(pwrite(fd, lost, sizeof lost, 100000) == sizeof lost, "and lost a page");
    close(fd);
    tap_status(pack(path, 1, -1, 0, 1, &added), "finished");
    tap_ok(added > 180 && added < 900, "from the lost page on (%d)", added);
    tap_ok(same_file(whole, path), "the same file");
    free(path);
    free(journal);
    free(part);
}

static void test_raw(void)
{
    char *path = mabn_path_join(folder, "raw.h5");
    struct mabn_dataset_writer *w;
    struct mabn_dataset *ds;
    struct mabn_dataset_spec spec = {
        .kind = "imagenet", .raw = true, .height = 4, .width = 3, .channels = 1, .count = 5};
    uint8_t bytes[12];
    const int32_t labels[5] = {0, 9, 2, 3, 4}, negative[5] = {0, -1, 2, 3, 4};
    const uint8_t *got;
    size_t size;
    tap_status(mabn_dataset_writer_open(&w, path, &spec), "raw");
    for (int i = 0; i < 5; i++) {
        memset(bytes, i, sizeof bytes);
        struct mabn_dataset_sample s = {
            .bytes = bytes, .size = sizeof bytes, .height = 4, .width = 3, .channels = 1};
        tap_status(mabn_dataset_writer_add(w, i, &s), "add");
    }
    tap_fails(mabn_dataset_writer_set_labels(w, negative), MABN_ERR_ARG, "label -1", "bad label");
    mabn_dataset_writer_free(w, true);
    tap_ok(!mabn_path_exists(path), "nothing appears");
    tap_status(mabn_dataset_writer_open(&w, path, &spec), "raw");
    for (int i = 0; i < 5; i++) {
        memset(bytes, i, sizeof bytes);
        struct mabn_dataset_sample s = {
            .bytes = bytes, .size = sizeof bytes, .height = 4, .width = 3, .channels = 1};
        tap_status(mabn_dataset_writer_add(w, i, &s), "add");
    }
    tap_status(mabn_dataset_writer_set_labels(w, labels), "labels");
    tap_status(mabn_dataset_writer_commit(w), "commit");
    mabn_dataset_writer_free(w, false);
    tap_status(mabn_dataset_open(&ds, path), "open");
    tap_ok(mabn_dataset_is_raw(ds) && mabn_dataset_classes(ds) == 10, "raw, ten classes");
    tap_status(mabn_dataset_image(ds, 3, &got, &size), "image");
    tap_ok(size == 12 && got[11] == 3, "its pixels");
    tap_ok(!mabn_dataset_class_name(ds, 0), "classes have no names");
    mabn_dataset_free(ds);
    free(path);
}

static void test_damage(const char *whole)
{
    struct mabn_input in;
    char *copy = mabn_path_join(folder, "damaged.h5");
    struct mabn_dataset *ds;
    size_t unnoticed = 0, uncut = 0;
    tap_status(mabn_input_open(&in, whole, 0), "read the file");
    int fd = open(copy, O_RDWR | O_CREAT, 0600);
    tap_status(mabn_pwrite_all(fd, in.bytes, in.size, 0, copy), "copy");
    for (size_t i = 0; i < in.size; i += 97) {
        uint8_t byte = (uint8_t)(in.bytes[i] ^ (1 << (i % 8)));
        if (pwrite(fd, &byte, 1, (off_t)i) != 1) break;
        mabn_status status = mabn_dataset_open(&ds, copy);
        if (!status) status = mabn_dataset_verify(ds, 1);
        mabn_dataset_free(ds);
        if (!status) unnoticed++;
        if (pwrite(fd, &in.bytes[i], 1, (off_t)i) != 1) break;
    }
    tap_ok(!unnoticed, "flipped bits are noticed (%zu missed)", unnoticed);
    for (size_t n = in.size - 1; n > 200; n -= 199) {
        if (ftruncate(fd, (off_t)n)) break;
        if (mabn_dataset_open(&ds, copy) != MABN_ERR_FORMAT) uncut++;
        mabn_dataset_free(ds);
    }
    tap_ok(!uncut, "truncations are refused");
    close(fd);
    mabn_input_release(&in);
    tap_fails(mabn_dataset_open(&ds, folder), MABN_ERR_IO, "not a regular file", "a folder");
    tap_fails(mabn_dataset_open(&ds, "/nonexistent"), MABN_ERR_IO, "No such file", "no file");
    free(copy);
}

int main(void)
{
    if (!mkdtemp(folder)) return 1;
    char *one = mabn_path_join(folder, "one.h5"), *four = mabn_path_join(folder, "four.h5");
    tap_status(pack(one, 1, -1, 0, 1, NULL), "pack with one thread");
    tap_status(pack(four, 4, -1, 0, 1, NULL), "pack with four");
    tap_ok(same_file(one, four), "the same bytes");
    tap_fails(pack(four, 1, -1, 0, 1, NULL), MABN_ERR_IO, "exists", "not replaced unless asked");
    test_contents(one);
    test_resume(one);
    test_reboot(one);
    test_raw();
    test_damage(one);
    free(one);
    free(four);
    char *command = mabn_xasprintf("rm -rf '%s'", folder);
    if (system(command)) return 1;
    free(command);
    return tap_done();
}
