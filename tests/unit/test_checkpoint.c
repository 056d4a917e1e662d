/* Checkpoints: they are read as they were written, every damaged byte is noticed, a file appears
 * whole or not at all, and the newest good one is found. */
#include "store/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "tap.h"

static char folder[] = "/tmp/mabn-test-XXXXXX";

static char *in_folder(const char *name)
{
    return mabn_path_join(folder, name);
}

/* A small checkpoint; `offset` is added to the values. */
static mabn_status write_sample(const char *path, float offset, bool force)
{
    struct mabn_checkpoint_writer *w;
    struct mabn_checkpoint_meta meta;
    float weight[2 * 3 * 3 * 3], momentum[54];
    int64_t counter = 41;
    uint16_t half[5] = {0x3f80, 1, 2, 3, 4};
    for (int i = 0; i < 54; i++) {
        weight[i] = (float)i + offset;
        momentum[i] = -(float)i;
    }
    mabn_checkpoint_meta_init(&meta);
    meta.config = "{\"classes\": 10}";
    meta.architecture = "resnet18";
    meta.norm = "mabn";
    meta.step = 7;
    meta.centralized = meta.bgr = true;
    meta.mean[1] = 1.5;
    const struct mabn_shape conv = MABN_SHAPE(4, 2, 3, 3, 3), five = MABN_SHAPE(1, 5);
    const struct mabn_shape scalar = {0}, none = MABN_SHAPE(2, 0, 4);
    MABN_TRY(mabn_checkpoint_writer_open(&w, path, force, &meta));
    mabn_status status = mabn_checkpoint_declare(w, "model/conv1.weight", MABN_DTYPE_F32, &conv);
    if (!status) status = mabn_checkpoint_declare(w, "model/it", MABN_DTYPE_I64, &scalar);
    if (!status) status = mabn_checkpoint_declare(w, "model/b", MABN_DTYPE_BF16, &five);
    if (!status) status = mabn_checkpoint_declare(w, "model/none", MABN_DTYPE_F32, &none);
    if (!status)
        status =
            mabn_checkpoint_declare(w, "optimizer/momentum/conv1.weight", MABN_DTYPE_F32, &conv);
    mabn_checkpoint_set_double(w, "best", 0.75);
    if (!status) status = mabn_checkpoint_write(w, "optimizer/momentum/conv1.weight", momentum);
    if (!status) status = mabn_checkpoint_write(w, "model/conv1.weight", weight);
    if (!status) status = mabn_checkpoint_write(w, "model/it", &counter);
    if (!status) status = mabn_checkpoint_write(w, "model/b", half);
    if (!status) status = mabn_checkpoint_commit(w);
    mabn_checkpoint_writer_free(w);
    return status;
}

static void test_round_trip(void)
{
    struct mabn_checkpoint *c;
    struct mabn_checkpoint_meta meta;
    char *path = in_folder("a.h5");
    float weight[54] = {0};
    int64_t counter = 0;
    double best = 0;
    const struct mabn_shape conv = MABN_SHAPE(4, 2, 3, 3, 3), other = MABN_SHAPE(4, 2, 3, 1, 9);
    const struct mabn_shape scalar = {0};

    tap_status(write_sample(path, 0.5f, false), "write");
    tap_status(mabn_checkpoint_open(&c, path), "open");
    mabn_checkpoint_get_meta(c, &meta);
    tap_str_eq(meta.config, "{\"classes\": 10}", "config");
    tap_str_eq(meta.norm, "mabn", "norm");
    tap_ok(meta.step == 7 && meta.centralized && meta.bgr && !meta.folded, "numbers and flags");
    tap_ok(meta.mean[0] == 0 && meta.mean[1] == 1.5 && meta.std[2] == 1, "mean and std");
    tap_status(mabn_h5_get_double(mabn_checkpoint_file(c), "best", &best), "own attribute");
    tap_ok(best == 0.75, "its value");
    tap_ok(mabn_checkpoint_count(c) == 5, "five tensors");
    tap_ok(mabn_checkpoint_find(c, "model/none")->bytes == 0, "an empty tensor");
    tap_ok(mabn_checkpoint_find(c, "model/b")->dtype == MABN_DTYPE_BF16, "bfloat16");
    tap_ok(!mabn_checkpoint_find(c, "model/other"), "none of that name");
    tap_status(mabn_checkpoint_read_as(c, "model/conv1.weight", MABN_DTYPE_F32, &conv, weight),
               "read a tensor");
    tap_ok(weight[0] == 0.5f && weight[53] == 53.5f, "its values");
    tap_status(mabn_checkpoint_read_as(c, "model/it", MABN_DTYPE_I64, &scalar, &counter), "scalar");
    tap_ok(counter == 41, "its value");
    tap_fails(mabn_checkpoint_read_as(c, "model/conv1.weight", MABN_DTYPE_F32, &other, weight),
              MABN_ERR_MISMATCH, "has shape (2,3,3,3), expected (2,3,1,9)", "wrong shape");
    tap_fails(mabn_checkpoint_read_as(c, "model/x", MABN_DTYPE_F32, &conv, weight),
              MABN_ERR_NOTFOUND, "no tensor 'model/x'", "missing tensor");
    tap_status(mabn_checkpoint_verify(c, 2), "verify");
    mabn_checkpoint_free(c);
    tap_fails(write_sample(path, 0, false), MABN_ERR_IO, "exists", "not replaced unless asked");
    tap_status(write_sample(path, 0, true), "replaced when asked");
    free(path);
}

static void test_misuse(void)
{
    struct mabn_checkpoint_writer *w;
    struct mabn_checkpoint_meta meta;
    char *path = in_folder("misuse.h5");
    float x[4] = {0};
    const struct mabn_shape four = MABN_SHAPE(1, 4);
    mabn_checkpoint_meta_init(&meta);
    tap_status(mabn_checkpoint_writer_open(&w, path, false, &meta), "open");
    tap_status(mabn_checkpoint_declare(w, "model/a", MABN_DTYPE_F32, &four), "declare");
    tap_fails(mabn_checkpoint_declare(w, "model//a", MABN_DTYPE_F32, &four), MABN_ERR_FORMAT,
              "not a name", "empty component");
    tap_fails(mabn_checkpoint_declare(w, "model/../a", MABN_DTYPE_F32, &four), MABN_ERR_FORMAT,
              "not a name", "..");
    tap_status(mabn_checkpoint_declare(w, "model/b", MABN_DTYPE_F32, &four), "declare");
    tap_status(mabn_checkpoint_write(w, "model/a", x), "write");
    tap_fails(mabn_checkpoint_write(w, "model/a", x), MABN_ERR_ARG, "twice", "written twice");
    tap_fails(mabn_checkpoint_write(w, "model/c", x), MABN_ERR_ARG, "not declared", "undeclared");
    tap_fails(mabn_checkpoint_commit(w), MABN_ERR_ARG, "'/model/b' was never written", "unwritten");
    mabn_checkpoint_writer_free(w);
    tap_ok(!mabn_path_exists(path), "nothing appears");
    tap_status(mabn_checkpoint_writer_open(&w, path, false, &meta), "open");
    tap_status(mabn_checkpoint_declare(w, "model/a", MABN_DTYPE_F32, &four), "declare");
    tap_status(mabn_checkpoint_declare(w, "model/a", MABN_DTYPE_F32, &four), "declare again");
    tap_fails(mabn_checkpoint_write(w, "model/a", x), MABN_ERR_FORMAT, "two arrays", "same name");
    mabn_checkpoint_writer_free(w);
    tap_fails(mabn_checkpoint_writer_open(&w, "/nonexistent/x.h5", false, &meta), MABN_ERR_IO,
              "/nonexistent/x.h5", "no such folder");
    free(path);
}

static mabn_status read_all(const char *path)
{
    struct mabn_checkpoint *c;
    mabn_status status = mabn_checkpoint_open(&c, path);
    if (!status) status = mabn_checkpoint_verify(c, 1);
    mabn_checkpoint_free(c);
    return status;
}

/* Flip one bit of each byte in turn; cut the file at every length. */
static void test_damage(void)
{
    struct mabn_input in;
    char *path = in_folder("damage.h5"), *copy = in_folder("copy.h5");
    size_t unnoticed = 0, uncut = 0, silent = 0, foreign = 0;
    tap_status(write_sample(path, 1, false), "write");
    tap_status(mabn_input_open(&in, path, 0), "read back");
    size_t step = in.size > 200000 ? 7 : 1;
    int fd = open(copy, O_RDWR | O_CREAT | O_TRUNC, 0600);
    tap_status(mabn_pwrite_all(fd, in.bytes, in.size, 0, copy), "copy");
    tap_status(read_all(copy), "the copy is good");
    for (size_t i = 0; i < in.size; i += step) {
        uint8_t byte = (uint8_t)(in.bytes[i] ^ (1 << (i % 8)));
        if (pwrite(fd, &byte, 1, (off_t)i) != 1) break;
        mabn_error_clear();
        if (!read_all(copy))
            unnoticed++;
        else if (!strstr(mabn_error_message(), copy))
            silent++;
        if (pwrite(fd, &in.bytes[i], 1, (off_t)i) != 1) break;
    }
    tap_ok(!unnoticed, "every flipped bit is noticed (%zu bytes, %zu missed)", in.size, unnoticed);
    tap_ok(!silent, "and the message names the file");
    tap_status(read_all(copy), "the copy is whole again");
    for (size_t n = in.size; n-- > 0;) {
        if (ftruncate(fd, (off_t)n)) break;
        mabn_status status = read_all(copy);
        if (status == MABN_ERR_UNSUPPORTED)
            foreign++;
        else if (status != MABN_ERR_FORMAT)
            uncut++;
    }
    tap_ok(!uncut, "every truncation is refused");
    tap_ok(foreign == 1, "but at HDF5's own end, where it is a file without checksums");
    close(fd);
    mabn_input_release(&in);
    free(path);
    free(copy);
}

static void test_same_bytes(void)
{
    struct mabn_input a, b;
    char *first = in_folder("same1.h5"), *second = in_folder("same2.h5");
    tap_status(write_sample(first, 2, false), "write");
    sleep(1); /* the time must not become part of the file */
    tap_status(write_sample(second, 2, false), "write again");
    tap_status(mabn_input_open(&a, first, 0), "read");
    tap_status(mabn_input_open(&b, second, 0), "read");
    tap_ok(a.size == b.size && !memcmp(a.bytes, b.bytes, a.size), "same input, same bytes");
    mabn_input_release(&a);
    mabn_input_release(&b);
    free(first);
    free(second);
}

static void damage_file(const char *path)
{
    int fd = open(path, O_RDWR);
    off_t middle = lseek(fd, 0, SEEK_END) / 2;
    char byte = 0x55;
    if (pwrite(fd, &byte, 1, middle) != 1 || pwrite(fd, &byte, 1, 12) != 1) abort();
    close(fd);
}

static void test_folder(void)
{
    struct mabn_str skipped;
    char *run = in_folder("run"), *found = NULL;
    mabn_str_init(&skipped);
    tap_status(mabn_checkpoint_find_latest(run, &found, &skipped), "no folder is not an error");
    tap_ok(!found, "nothing found");
    tap_status(mabn_make_dirs(run), "make it");
    for (int step = 100; step <= 500; step += 100) {
        char *path = mabn_checkpoint_step_path(run, step);
        if (write_sample(path, (float)step, false)) abort();
        free(path);
    }
    char *newest = mabn_checkpoint_step_path(run, 500), *next = mabn_checkpoint_step_path(run, 400);
    tap_status(mabn_checkpoint_find_latest(run, &found, &skipped), "find");
    tap_str_eq(found, newest, "the newest");
    tap_ok(!skipped.length, "none skipped");
    free(found);
    damage_file(newest);
    tap_status(mabn_checkpoint_find_latest(run, &found, &skipped), "find");
    tap_str_eq(found, next, "the newest that is whole");
    tap_ok(strstr(skipped.text, newest) != NULL, "and says which was passed over");
    free(found);
    tap_status(mabn_checkpoint_prune(run, 2), "prune");
    tap_ok(mabn_path_exists(newest) && mabn_path_exists(next), "two newest kept");
    char *old = mabn_checkpoint_step_path(run, 300);
    tap_ok(!mabn_path_exists(old), "older ones gone");
    damage_file(next);
    tap_fails(mabn_checkpoint_find_latest(run, &found, &skipped), MABN_ERR_FORMAT, "no checkpoint",
              "none is whole");
    tap_ok(!found, "nothing returned");
    mabn_str_release(&skipped);
    free(run);
    free(newest);
    free(next);
    free(old);
}

int main(void)
{
    if (!mkdtemp(folder)) return 1;
    test_round_trip();
    test_misuse();
    test_damage();
    test_same_bytes();
    test_folder();
    char *command = mabn_xasprintf("rm -rf '%s'", folder);
    if (system(command)) return 1;
    free(command);
    return tap_done();
}
