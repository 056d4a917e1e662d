/* The shortcuts of JSON against the general parser, on random odd files: one list of tokens is
 * written as Python writes it, where keys, boxes and short numbers are taken by shortcuts, and with
 * tabs and blanks between any two tokens, where they are not. Both must give the same records and
 * the same warnings, or the same refusal; whole and cut off at any byte. */
#include "tap.h"

#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "coco/annotations.h"

enum { ALL = MABN_COCO_KEEP_SEGMENTATIONS | MABN_COCO_KEEP_KEYPOINTS, TOKENS = 4000 };

/* ---- random files, as tokens ---- */

struct file {
    uint64_t random;
    double odd;                /* how likely something odd is at each place */
    const char *token[TOKENS]; /* borrowed from `text`, or static */
    bool blank[TOKENS];        /* a blank before it, when written tightly */
    size_t n;
    char text[16 * TOKENS];
    size_t used;
};

static unsigned below(struct file *f, unsigned n)
{
    f->random = f->random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((f->random >> 33) * n >> 31);
}

static bool odd(struct file *f)
{
    return below(f, 10000) < f->odd * 10000;
}

static void put(struct file *f, const char *token)
{
    if (f->n == TOKENS) return;
    f->blank[f->n] = false;
    f->token[f->n++] = token;
}

#define PICK(f, list) (list)[below(f, sizeof(list) / sizeof *(list))]

static void put_number(struct file *f)
{
    char *text = f->text + f->used;
    const size_t room = sizeof f->text - f->used;
    static const int widths[] = {1, 1, 2, 3, 3, 4, 6, 7, 8, 9, 12, 15};
    if (room < 64) {
        put(f, "7");
        return;
    }
    int n = 0, whole = PICK(f, widths), fraction = below(f, 2) ? 0 : PICK(f, widths);
    for (int i = 0; i < whole; i++)
        text[n++] = (char)('0' + (i || whole == 1 ? below(f, 10) : 1 + below(f, 9)));
    if (fraction) text[n++] = '.';
    for (int i = 0; i < fraction; i++)
        text[n++] = (char)('0' + below(f, 10));
    text[n++] = 0;
    f->used += (size_t)n;
    put(f, text);
}

static void put_value(struct file *f, int depth);

/* Comma between items: sometimes none, or two, or something else. */
static void put_comma(struct file *f)
{
    static const char *const others[] = {",,", ":", ";", " ", "]", "}", ", ,"};
    put(f, odd(f) && below(f, 8) == 0 ? PICK(f, others) : ",");
}

static void put_numbers(struct file *f, unsigned n)
{
    put(f, "[");
    for (unsigned i = 0; i < n; i++) {
        if (i) put_comma(f);
        if (odd(f))
            put_value(f, 2);
        else
            put_number(f);
    }
    put(f, "]");
}

static void put_value(struct file *f, int depth)
{
    static const char *const values[] = {"0",
                                         "-0",
                                         "-3",
                                         "-1.5",
                                         "1e2",
                                         "1E+2",
                                         "25e-1",
                                         "0.1e1",
                                         "04",
                                         "1.",
                                         ".5",
                                         "+1",
                                         "-",
                                         "1e",
                                         "12345678",
                                         "123456789",
                                         "0.123456789",
                                         "12345678.12345678",
                                         "123456789012345",
                                         "1234567890123456",
                                         "9007199254740993",
                                         "9223372036854775807",
                                         "9223372036854775808",
                                         "1237940039285380274899124225",
                                         "1e999",
                                         "-1e999",
                                         "1e-400",
                                         "NaN",
                                         "Infinity",
                                         "-Infinity",
                                         "nan",
                                         "inf",
                                         "None",
                                         "null",
                                         "true",
                                         "false",
                                         "True",
                                         "\"\"",
                                         "\"3\"",
                                         "\"1.5\"",
                                         "\"NaN\"",
                                         "\"a\\u0041\"",
                                         "\"\\ud83d\\ude00\"",
                                         "\"\\ud800\"",
                                         "\"\\x\"",
                                         "\"\xc3\xa9\"",
                                         "\"\xff\"",
                                         "\"\t\"",
                                         "\"a\\\"b\"",
                                         "\"lPk`0\"",
                                         "{",
                                         "]",
                                         "}",
                                         "'3'"};
    switch (depth < 4 ? below(f, 8) : 7) {
    case 0:
        put_numbers(f, below(f, 9));
        break;
    case 1:
        put(f, "[");
        put_value(f, depth + 1);
        put(f, "]");
        break;
    case 2:
        put(f, "{");
        put(f, "\"size\"");
        put(f, ":");
        put_value(f, depth + 1);
        put(f, "}");
        break;
    default:
        put(f, PICK(f, values));
    }
}

static void put_segmentation(struct file *f)
{
    static const char *const strings[] = {"\"lPk`0\"", "\"c14<0\"", "\"\"", "\"o\\\\o\""};
    if (below(f, 3)) {
        put(f, "[");
        for (unsigned i = 0, n = below(f, 4); i < n; i++) {
            if (i) put_comma(f);
            put_numbers(f, odd(f) ? below(f, 9) : 6 + 2 * below(f, 8));
        }
        put(f, "]");
        return;
    }
    put(f, "{");
    for (unsigned i = 0, first = below(f, 2); i < 2; i++) {
        if (i) put_comma(f);
        put(f, i == first ? "\"size\"" : "\"counts\"");
        put(f, ":");
        if (odd(f))
            put_value(f, 1);
        else if (i == first)
            put_numbers(f, 2);
        else if (below(f, 2))
            put(f, PICK(f, strings));
        else
            put_numbers(f, below(f, 12));
    }
    put(f, "}");
}

static void put_record(struct file *f)
{
    static const char *const keys[] = {
        "\"image_id\"",  "\"category_id\"", "\"bbox\"",    "\"score\"", "\"segmentation\"",
        "\"keypoints\"", "\"area\"",        "\"iscrowd\"", "\"id\"",    "\"num_keypoints\""};
    static const char *const odd_keys[] = {"\"\"",
                                           "\"\\u0062box\"",
                                           "\"bbox\\:\"",
                                           "\"bbox\t\"",
                                           "\"a\\\"b\"",
                                           "\"fifteen_bytes_0\"",
                                           "\"sixteen_bytes_00\"",
                                           "\"seventeen_bytes_0\"",
                                           "\"\xc3\xa9\"",
                                           "\"\xff\"",
                                           "\"ignore\"",
                                           "bbox",
                                           "\"attributes_of_a_very_long_name_that_no_one_keeps\""};
    const unsigned n = sizeof keys / sizeof *keys, start = below(f, n);
    put(f, "{");
    for (unsigned i = 0; i < n; i++) {
        const char *key = odd(f)   ? PICK(f, odd_keys)
                          : odd(f) ? PICK(f, keys)
                                   : keys[(start + i) % n];
        if (i) put_comma(f);
        put(f, key);
        put(f, odd(f) && below(f, 20) == 0 ? " " : ":");
        if (odd(f))
            put_value(f, 0);
        else if (key == keys[2])
            put_numbers(f, 4);
        else if (key == keys[4])
            put_segmentation(f);
        else if (key == keys[5])
            put_numbers(f, 3 * below(f, 6));
        else if (key == keys[7])
            put(f, below(f, 2) ? "0" : "1");
        else
            put_number(f);
    }
    put(f, "}");
}

static void make(struct file *f, uint64_t seed, bool results)
{
    static const double odds[] = {0, 0.003, 0.01, 0.03};
    f->random = seed;
    f->n = f->used = 0;
    (void)below(f, 2);
    f->odd = PICK(f, odds);
    if (!results) put(f, "{\"images\": [{\"id\": 5}], \"categories\": [], \"annotations\": ");
    put(f, "[");
    for (unsigned i = 0, n = below(f, 5); i < n; i++) {
        if (i) put_comma(f);
        put_record(f);
    }
    put(f, "]");
    if (!results) put(f, "}");
    bool dense = below(f, 3) == 0;
    for (size_t i = 1; i < f->n; i++)
        f->blank[i] = !dense && (*f->token[i - 1] == ',' || *f->token[i - 1] == ':') && !odd(f);
}

/* The first `end` tokens, the last of them cut to `bytes`. */
static void write_file(struct mabn_str *out, const struct file *f, size_t end, size_t bytes,
                       bool apart)
{
    static const char *const between[] = {"\t", " \t ", "\t\t"};
    mabn_str_clear(out);
    for (size_t i = 0; i < end; i++) {
        mabn_str_add(out, apart ? between[i % 3] : f->blank[i] ? " " : "");
        mabn_str_add_bytes(out, f->token[i], i + 1 < end ? strlen(f->token[i]) : bytes);
    }
}

/* ---- reading, and what a reader sees of it ---- */

static int told = -1; /* a file that stands for standard error meanwhile */

static mabn_status read_file(struct mabn_coco *c, struct mabn_str *words, const struct mabn_str *s,
                             bool results)
{
    char text[4096];
    fflush(stderr);
    int terminal = dup(2);
    if (ftruncate(told, 0) || lseek(told, 0, SEEK_SET) || dup2(told, 2) < 0) abort();
    mabn_status status = mabn_coco_read_bytes(c, s->text, s->length, results, ALL);
    fflush(stderr);
    dup2(terminal, 2);
    close(terminal);
    mabn_str_clear(words);
    ssize_t n = pread(told, text, sizeof text, 0);
    mabn_str_add_bytes(words, text, n > 0 ? (size_t)n : 0);
    if (status) { /* without the column */
        const char *message = mabn_error_message(), *line = strstr(message, "':1:");
        mabn_str_add(words, line ? line + 4 + strspn(line + 4, "0123456789") : message);
    }
    return status;
}

static void add_record(struct mabn_str *out, const struct mabn_coco *c,
                       const struct mabn_coco_record *r)
{
    const struct mabn_segmentation *s = &r->segmentation;
    mabn_str_printf(out, "%lld %lld %lld s%a a%a n%u ", (long long)(r->no_id ? 0 : r->id),
                    (long long)r->image_id, (long long)r->category_id, r->score,
                    r->has_area ? r->area : 0, r->has_num_keypoints ? r->num_keypoints : 0);
    if (r->has_box) mabn_str_printf(out, "b%a,%a,%a,%a ", r->box.x, r->box.y, r->box.w, r->box.h);
    mabn_str_printf(out, "%d%d%d%d%d%d%d%d%d%d%d%d ", r->crowd, r->ignore, r->has_area, r->has_box,
                    r->has_num_keypoints, r->has_keypoints, r->odd_id, r->no_id, r->odd_box,
                    r->odd_area, r->odd_crowd, r->odd_keypoints);
    mabn_str_printf(out, "k%u,%zu m%d,%u,%u,%u,%zu,%zu\n", r->n_keypoints,
                    r->has_keypoints ? r->keypoints : 0, s->kind, s->n, s->height, s->width,
                    s->kind ? s->at : 0, s->kind == MABN_SEGMENTATION_POLYGONS ? s->sizes : 0);
    (void)c;
}

static void add_coco(struct mabn_str *out, const struct mabn_coco *c)
{
    for (size_t i = 0; i < c->n_records; i++)
        add_record(out, c, &c->records[i]);
    for (size_t i = 0; i < c->n_numbers; i++)
        mabn_str_printf(out, " %a", c->numbers[i]);
    for (size_t i = 0; i < c->n_lengths; i++)
        mabn_str_printf(out, " %u", c->lengths[i]);
    for (size_t i = 0; i < c->n_texts; i++)
        mabn_str_printf(out, " %lld=%s", (long long)c->texts[i].id, c->texts[i].text);
    mabn_str_add_bytes(out, c->bytes, c->n_bytes);
}

/* Read both forms; what is seen of each must be the same. *fine: they were read. */
static bool same(const struct mabn_str *tight, const struct mabn_str *apart, bool results,
                 bool *fine)
{
    struct mabn_str seen[2];
    mabn_status status[2];
    for (int i = 0; i < 2; i++) {
        struct mabn_coco c;
        mabn_str_init(&seen[i]);
        status[i] = read_file(&c, &seen[i], i ? apart : tight, results);
        if (status[i]) continue;
        add_coco(&seen[i], &c);
        mabn_coco_release(&c);
    }
    bool equal = status[0] == status[1] && seen[0].length == seen[1].length &&
                 !memcmp(seen[0].text, seen[1].text, seen[0].length);
    if (!equal) printf("# %s\n# tight: %s\n# apart: %s\n", tight->text, seen[0].text, seen[1].text);
    for (int i = 0; i < 2; i++)
        mabn_str_release(&seen[i]);
    *fine = !status[0];
    return equal;
}

static struct file file;

static void test_whole(bool results)
{
    struct mabn_str tight, apart;
    int wrong = 0, read = 0, files = 3000;
    mabn_str_init(&tight);
    mabn_str_init(&apart);
    for (int seed = 0; seed < files && wrong < 3; seed++) {
        bool fine;
        make(&file, (uint64_t)seed, results);
        const size_t last = strlen(file.token[file.n - 1]);
        write_file(&tight, &file, file.n, last, false);
        write_file(&apart, &file, file.n, last, true);
        for (int i = 0; i < 2048; i++) /* the shortcuts want something to follow */
            mabn_str_add_char(&tight, ' ');
        wrong += !same(&tight, &apart, results, &fine);
        read += fine;
    }
    tap_ok(wrong == 0 && read > files / 4 && read < files * 9 / 10,
           "%s: %d random files, %d read, the others refused, by shortcuts as without",
           results ? "results" : "annotations", files, read);
    mabn_str_release(&tight);
    mabn_str_release(&apart);
}

static void test_cut(bool results)
{
    struct mabn_str tight, apart;
    int wrong = 0, read = 0, n = 0;
    mabn_str_init(&tight);
    mabn_str_init(&apart);
    for (uint64_t seed = 0; seed < 12 && !wrong; seed++) {
        make(&file, seed, results);
        for (size_t end = 1; end <= file.n; end++)
            for (size_t bytes = 1; bytes <= strlen(file.token[end - 1]); bytes++) {
                bool fine;
                write_file(&tight, &file, end, bytes, false);
                write_file(&apart, &file, end, bytes, true);
                wrong += !same(&tight, &apart, results, &fine);
                read += fine;
                n++;
            }
    }
    tap_ok(wrong == 0 && read < n / 100, "%s cut off at %d places, likewise",
           results ? "results" : "annotations", n);
    mabn_str_release(&tight);
    mabn_str_release(&apart);
}

static void add_numbers(struct mabn_str *tight, struct mabn_str *apart, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        file.n = file.used = 0;
        put_number(&file);
        mabn_str_printf(tight, "%s%s", i ? "," : "", file.token[0]);
        mabn_str_printf(apart, "%s%s", i ? " ,\t " : "\t", file.token[0]);
    }
}

/* Lists that are longer than the window of the input, with its end at any place of a number. */
static void test_long(void)
{
    struct mabn_str tight, apart;
    int wrong = 0, read = 0;
    mabn_str_init(&tight);
    mabn_str_init(&apart);
    for (unsigned k = 0; k < 12; k++) {
        bool fine;
        mabn_str_clear(&tight);
        mabn_str_clear(&apart);
        mabn_str_printf(&tight, "[{\"image_id\":1,\"category_id\":1,\"score\":%u,", k);
        mabn_str_printf(&apart, "[{\"image_id\":1,\"category_id\":1,\"score\":%u,", k);
        mabn_str_add(&tight, k % 3 ? "\"bbox\":[1,2,3,4],\"segmentation\":[[" : "\"keypoints\":[");
        mabn_str_add(&apart, k % 3 ? "\"bbox\":[1,2,3,4],\"segmentation\":[[" : "\"keypoints\":[");
        add_numbers(&tight, &apart, 90000);
        mabn_str_add(&tight, k % 3 == 2 ? "]],\"attributes\":[" : k % 3 ? "]]}]" : "]}]");
        mabn_str_add(&apart, k % 3 == 2 ? "]],\"attributes\":[" : k % 3 ? "]]}]" : "]}]");
        if (k % 3 == 2) { /* and passed over */
            add_numbers(&tight, &apart, 90000);
            mabn_str_add(&tight, "]}]");
            mabn_str_add(&apart, "]}]");
        }
        wrong += !same(&tight, &apart, true, &fine);
        read += fine;
    }
    tap_ok(wrong == 0 && read == 12, "lists longer than the window");
    mabn_str_release(&tight);
    mabn_str_release(&apart);
}

int main(void)
{
    FILE *f = tmpfile();
    if (!f) return 1;
    told = fileno(f);
    for (int results = 0; results < 2; results++) {
        test_whole(results);
        test_cut(results);
    }
    test_long();
    fclose(f);
    return tap_done();
}
