/* base: strings, files, random numbers, threads. tensor: numbers that no network can use. */
#include "tap.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/words.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/thread.h"
#include "base/rng.c" /* reaches mabn_philox() */
#include "tensor/finite.h"

static char folder[] = "/tmp/mabn-test-base-XXXXXX";

static void test_str(void)
{
    struct mabn_str s;
    mabn_str_init(&s);
    tap_str_eq(s.text, "", "a new string is empty");
    mabn_str_add_json(&s, "a\"b\\c\n\x01\xff\xc3\xa9\xed\xa0\x80");
    tap_str_eq(s.text,
               "\"a\\\"b\\\\c\\n\\u0001\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"",
               "JSON string: escapes, bad bytes and a surrogate replaced");
    mabn_str_clear(&s);
    mabn_str_add_double(&s, 0.1);
    mabn_str_add_char(&s, ' ');
    mabn_str_add_double(&s, 0.1 + 0.2);
    mabn_str_add_char(&s, ' ');
    mabn_str_add_float(&s, 0.1f);
    mabn_str_add_char(&s, ' ');
    mabn_str_add_double(&s, NAN);
    tap_str_eq(s.text, "0.1 0.30000000000000004 0.1 null", "shortest numbers that read back");
    char *text = mabn_str_detach(&s);
    tap_ok(text[0] == '0' && s.length == 0, "detach leaves an empty string");
    free(text);
    mabn_str_release(&s);
}

static void test_words(void)
{
    enum size { SMALL = -1, LARGE = 7 };
    static const struct mabn_word sizes[] = {
        {LARGE, "large"}, {SMALL, "small"}, {LARGE, "big"}, {0, NULL}};
    int value = 0;
    tap_ok(!mabn_word_parse(&value, sizes, "size", "small") && value == SMALL &&
               !mabn_word_parse(&value, sizes, "size", "big") && value == LARGE,
           "a word has its value");
    tap_str_eq(mabn_word_name(sizes, LARGE), "large", "a value has its first word");
    tap_str_eq(mabn_word_name(sizes, 0), "?", "a value without a word");
    value = 3;
    tap_ok(mabn_word_parse(&value, sizes, "size", "lar") == MABN_ERR_ARG && value == 3 &&
               mabn_word_parse(&value, sizes, "size", "") == MABN_ERR_ARG,
           "part of a word is no word");
    tap_str_eq(mabn_error_message(), "unknown size '': expected large, small, big",
               "what was expected is told");
}

static void test_status(void)
{
    tap_ok(mabn_fail(MABN_ERR_FORMAT, "bad %s\n", "line") == MABN_ERR_FORMAT, "fail returns");
    tap_str_eq(mabn_error_message(), "bad line?", "control characters do not reach a terminal");
    tap_ok(mabn_fail_prefix(MABN_ERR_FORMAT, "'%s'", "f.json") == MABN_ERR_FORMAT,
           "prefix returns");
    tap_str_eq(mabn_error_message(), "'f.json': bad line?", "prefix goes in front");
    char huge[6000];
    memset(huge, 'x', sizeof huge);
    huge[sizeof huge - 1] = 0;
    tap_ok(mabn_fail(MABN_ERR_ARG, "%s", huge) && mabn_fail_prefix(MABN_ERR_ARG, "%s", huge),
           "endless messages are cut, not overrun");
}

static char *read_back(const char *path)
{
    struct mabn_input in;
    if (mabn_input_open(&in, path, 0)) return mabn_xstrdup("(unreadable)");
    char *text = mabn_xstrndup((const char *)in.bytes, in.size);
    mabn_input_release(&in);
    return text;
}

/* Writes are cut into pieces; starts and lengths here lie around the cuts. */
static void test_pwrite(void)
{
    static const struct {
        uint64_t offset;
        size_t n;
    } cases[] = {{0, 0}, {0, 131072}, {131071, 2}, {7, 400001}, {262144, 1}, {131073, 131071}};
    static uint8_t bytes[400001], back[400001];
    char *path = mabn_path_join(folder, "pieces");
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
        uint64_t end = cases[k].n ? cases[k].offset + cases[k].n : 0;
        size_t behind = 0;
        struct stat info;
        mabn_status status = mabn_pwrite_all(fd, bytes, cases[k].n, cases[k].offset, path);
        mabn_start_writeback(fd, &behind, 64 << 20);
        if (!status) status = mabn_pread_all(fd, back, cases[k].n, cases[k].offset, path);
        tap_ok(!status && !memcmp(bytes, back, cases[k].n) && !fstat(fd, &info) &&
                   (uint64_t)info.st_size == end,
               "%zu bytes at %d are written whole", cases[k].n, (int)cases[k].offset);
        close(fd);
    }
    unlink(path);
    free(path);
}

/* Temporary files of a child that still runs, and of one that is dead but not yet waited for. */
static void check_zombie(const char *path)
{
    siginfo_t info;
    const pid_t child = fork();
    if (!child) {
        pause();
        _exit(0);
    }
    char *name = mabn_xasprintf("out.txt.tmp-%ld-0", (long)child);
    char *theirs = mabn_path_join(folder, name);
    close(open(theirs, O_CREAT | O_WRONLY, 0600));
    tap_status(mabn_write_file(path, "x", 1, true), "write beside another writer's file");
    tap_ok(mabn_path_exists(theirs), "a running process's temporary file stays");
    kill(child, SIGKILL);
    waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT);
    tap_status(mabn_write_file(path, "x", 1, true), "write beside a zombie's file");
    tap_ok(!mabn_path_exists(theirs), "a zombie's temporary file is swept");
    waitpid(child, NULL, 0);
    free(name);
    free(theirs);
}

static void test_files(void)
{
    char *path = mabn_path_join(folder, "out.txt");
    struct mabn_outfile out;
    tap_status(mabn_outfile_open(&out, path, false), "open an output");
    tap_status(mabn_write_all(out.fd, "half", 4, path), "write");
    tap_ok(!mabn_path_exists(path), "nothing under the final name before commit");
    char *temp = mabn_xstrdup(out.temp_path);
    mabn_outfile_abort(&out);
    tap_ok(!mabn_path_exists(temp) && !mabn_path_exists(path), "abort leaves nothing");
    mabn_outfile_abort(&out);

    tap_status(mabn_write_file(path, "whole", 5, false), "write a whole file");
    char *text = read_back(path);
    tap_str_eq(text, "whole", "reads back");
    tap_fails(mabn_write_file(path, "other", 5, false), MABN_ERR_IO, "exists",
              "refuses to replace");
    tap_status(mabn_write_file(path, "new", 3, true), "replaces by force");
    free(text);
    text = read_back(path);
    tap_str_eq(text, "new", "the new content");

    char *dead = mabn_path_join(folder, "out.txt.tmp-999999999-0");
    close(open(dead, O_CREAT | O_WRONLY, 0600));
    tap_status(mabn_write_file(path, "x", 1, true), "write beside a dead writer's file");
    tap_ok(!mabn_path_exists(dead), "a dead process's temporary file is swept");

    check_zombie(path);

    struct mabn_input in;
    tap_fails(mabn_input_open(&in, folder, 0), MABN_ERR_IO, "folder", "a folder is no input");
    tap_fails(mabn_input_open(&in, "/nonexistent/x", 0), MABN_ERR_IO, "No such file", "missing");
    tap_fails(mabn_input_open(&in, "/dev/zero", 1 << 20), MABN_ERR_LIMIT, "limit", "endless input");
    tap_fails(mabn_outfile_open(&out, folder, true), MABN_ERR_ARG, "folder",
              "a folder is no output");
    tap_fails(mabn_outfile_open(&out, "/dev/full", true), MABN_ERR_ARG, "regular", "nor a device");
    tap_fails(mabn_outfile_open(&out, "/nonexistent/x", true), MABN_ERR_IO, "cannot create",
              "nor a file in a missing folder");
    char *link = mabn_path_join(folder, "link.txt");
    tap_ok(!symlink("out.txt", link), "a link to a file");
    tap_fails(mabn_write_file(link, "y", 1, false), MABN_ERR_IO, "exists", "is not replaced");
    tap_status(mabn_write_file(link, "through", 7, true), "by force, what it leads to is");
    free(text);
    text = read_back(path);
    struct stat info;
    tap_str_eq(text, "through", "the file has the new content");
    tap_ok(!lstat(link, &info) && S_ISLNK(info.st_mode), "and the link is a link");
    free(link);
    char *deep = mabn_path_join(folder, "a/b/c");
    tap_status(mabn_make_dirs(deep), "mkdir -p");
    tap_ok(mabn_path_is_dir(deep), "the folders are there");
    free(text);
    free(temp);
    free(dead);
    free(deep);
    free(path);
}

static void test_rng(void)
{
    uint32_t zero[4] = {0}, key[2] = {0}, out[4];
    mabn_philox(zero, key, out);
    tap_ok(out[0] == 0x6627e8d5 && out[1] == 0xe169c58d && out[2] == 0xbc57ac4c &&
               out[3] == 0x9b00dbd8,
           "Philox4x32-10 gives the published answer for zeros");
    uint32_t ones[4] = {~0u, ~0u, ~0u, ~0u}, one_key[2] = {~0u, ~0u};
    mabn_philox(ones, one_key, out);
    tap_ok(out[0] == 0x408f276d && out[1] == 0x41c83b0e && out[2] == 0xa20bc7c6 &&
               out[3] == 0x6d5451fd,
           "and for ones");
    struct mabn_rng a, b;
    mabn_rng_init(&a, 7, MABN_RNG_TEST, 1, 2);
    mabn_rng_init(&b, 7, MABN_RNG_TEST, 1, 2);
    tap_ok(mabn_rng_u32(&a) == mabn_rng_u32(&b), "the same ids, the same numbers");
    mabn_rng_init(&b, 7, MABN_RNG_TEST, 2, 1);
    tap_ok(mabn_rng_u64(&a) != mabn_rng_u64(&b), "other ids, other numbers");
    double sum = 0, squares = 0;
    int counts[6] = {0}, n = 60000;
    for (int i = 0; i < n; i++) {
        double x = mabn_rng_normal(&a);
        sum += x;
        squares += x * x;
        counts[mabn_rng_below(&a, 6)]++;
    }
    tap_close(sum / n, 0, 0.02, "normal: mean");
    tap_close(squares / n, 1, 0.03, "normal: variance");
    int low = n, high = 0;
    for (int i = 0; i < 6; i++) {
        if (counts[i] < low) low = counts[i];
        if (counts[i] > high) high = counts[i];
    }
    tap_ok(low > 9600 && high < 10400, "below: even (%d to %d)", low, high);
}

static mabn_status square(void *context, int64_t i, int worker)
{
    (void)worker;
    if (i == 700 || i == 900) return mabn_fail(MABN_ERR_ARG, "item %lld", (long long)i);
    ((int64_t *)context)[i] = i * i;
    return MABN_OK;
}

static void test_threads(void)
{
    int64_t results[1000] = {0}, wrong = 0;
    tap_status(mabn_parallel(4, 600, 7, square, results), "parallel loop");
    for (int64_t i = 0; i < 600; i++)
        wrong += results[i] != i * i;
    tap_ok(!wrong, "every index once");
    tap_fails(mabn_parallel(4, 1000, 1, square, results), MABN_ERR_ARG, "item 700",
              "the first failure is the one reported");
    tap_status(mabn_parallel(4, 0, 1, square, results), "an empty loop");
}

/* n values, all 1 but the one at `odd`. */
static bool with_odd(uint64_t one, uint64_t bits, size_t odd, size_t n, enum mabn_dtype dtype,
                     bool variance)
{
    char values[64 * 8];
    const size_t size = mabn_dtype_size(dtype);
    for (size_t i = 0; i < n; i++)
        memcpy(values + i * size, i == odd ? &bits : &one, size); /* little-endian */
    return mabn_any_unusable(values, n, dtype, variance);
}

static void test_unusable(void)
{
    static const struct {
        enum mabn_dtype dtype;
        uint64_t one, infinity, sign;
    } types[] = {{MABN_DTYPE_F32, 0x3f800000, 0x7f800000, 0x80000000},
                 {MABN_DTYPE_F64, 0x3ff0000000000000, 0x7ff0000000000000, 0x8000000000000000},
                 {MABN_DTYPE_F16, 0x3c00, 0x7c00, 0x8000},
                 {MABN_DTYPE_BF16, 0x3f80, 0x7f80, 0x8000}};
    for (int t = 0; t < 4; t++) {
        const enum mabn_dtype d = types[t].dtype;
        const uint64_t one = types[t].one, inf = types[t].infinity, sign = types[t].sign;
        int bad = 0;
        for (size_t n = 1; n < 64; n += 3)
            for (size_t k = 0; k < n; k++)
                for (int v = 0; v < 2; v++) {
                    bad += !with_odd(one, inf, k, n, d, v) + !with_odd(one, inf | sign, k, n, d, v);
                    bad += !with_odd(one, inf + 1, k, n, d, v); /* a NaN */
                    bad += with_odd(one, inf - 1, k, n, d, v);  /* the largest number */
                    bad += with_odd(one, sign, k, n, d, v);     /* -0 */
                    bad += with_odd(one, one | sign, k, n, d, v) != v;
                }
        tap_ok(!bad, "%s: numbers that no network can use, at any place", mabn_dtype_name(d));
    }
    tap_ok(!with_odd(1, UINT64_MAX, 0, 3, MABN_DTYPE_I64, true), "a whole number is always one");
    const float weights[6] = {1, 2, 3, 4, NAN, INFINITY}, variance[3] = {1, -2, 1};
    const struct mabn_shape matrix = MABN_SHAPE(2, 3, 2), vector = MABN_SHAPE(1, 3);
    char *said = mabn_describe_unusable("fc.weight", &matrix, MABN_DTYPE_F32, weights);
    tap_str_eq(said, "'fc.weight' has nan in filter 2", "the first of them is named");
    free(said);
    said = mabn_describe_unusable("bn1.running_var", &vector, MABN_DTYPE_F32, variance);
    tap_str_eq(said, "'bn1.running_var' has -2 in channel 1", "a negative variance");
    free(said);
    said = mabn_describe_unusable("bn1.pre_x2", &vector, MABN_DTYPE_F32, variance);
    tap_str_eq(said, "'bn1.pre_x2' has -2 in channel 1", "a negative mean square of a window");
    free(said);
    said = mabn_describe_unusable("bn1.buffer_x2", &vector, MABN_DTYPE_F32, variance);
    tap_str_eq(said, "'bn1.buffer_x2' has -2 in channel 1", "by its other name, too");
    free(said);
    tap_ok(!mabn_describe_unusable("bn1.running_mean", &vector, MABN_DTYPE_F32, variance),
           "a mean may be negative");
}

int main(void)
{
    if (!mkdtemp(folder)) return 1;
    test_str();
    test_words();
    test_status();
    test_files();
    test_pwrite();
    test_rng();
    test_threads();
    test_unusable();
    char *command = mabn_xasprintf("rm -rf %s", folder);
    if (system(command)) puts("# the scratch folder stays");
    free(command);
    return tap_done();
}
