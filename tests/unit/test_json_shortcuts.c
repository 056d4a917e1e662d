/* The shortcuts of the JSON reader against its grammar. Shortcuts are taken only where much of the
 * window is left, so a short text is read without them and the same text with blanks behind it is
 * read with them: values and messages must be the same. Documents are random, many of them spoilt. */
#include "tap.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/json.h"
#include "base/rng.h"
#include "base/str.h"

enum { DOCUMENT = 1000, BLANKS = 4096 }; /* shorter than the reader's margin; longer than it */

static struct mabn_rng rng;
static bool good; /* documents without faults, and some long ones */

static int pick(int n)
{
    return (int)mabn_rng_below(&rng, (uint32_t)n);
}

/* ---- random documents ---- */

static const char *gap(void)
{
    static const char *const gaps[] = {"", "", "", "", " ", " ", " ", "  ", "\n", "\t", "\r\n "};
    return gaps[pick(sizeof gaps / sizeof *gaps)];
}

static void add_digits(struct mabn_str *s, int n)
{
    for (int i = 0; i < n; i++)
        mabn_str_add_char(s, (char)('0' + pick(10)));
}

static void add_number(struct mabn_str *s)
{
    static const char *const odd[] = {
        "NaN", "Infinity", "-Infinity", "nan", "inf", "1e400", "01",   "1.", ".5",  "-",  "1e",
        "0x1", "1e5",      "2E-3",      "-0",  "0",   "0.0",   "null", "+1", "1 2", "--1"};
    if (!good && pick(60) == 0) {
        mabn_str_add(s, odd[pick(sizeof odd / sizeof *odd)]);
        return;
    }
    if (pick(12) == 0) mabn_str_add_char(s, '-');
    if (pick(6) == 0) {
        mabn_str_add_char(s, '0');
    } else {
        mabn_str_add_char(s, (char)('1' + pick(9)));
        add_digits(s, pick(8) ? pick(6) : pick(22));
    }
    if (pick(2)) {
        mabn_str_add_char(s, '.');
        add_digits(s, 1 + (pick(8) ? pick(5) : pick(20)));
    }
    if (pick(20) == 0) mabn_str_printf(s, "%s%d", pick(2) ? "e" : "E-", pick(40));
}

static void add_text(struct mabn_str *s)
{
    static const char *const texts[] = {"id",         "bbox",
                                        "",           "image_id",
                                        "a\\\"b",     "fifteen_bytes",
                                        "\\u0069",    "sixteen_bytes_00",
                                        "\xc3\xa9",   "\\:",
                                        "a\\",        "score",
                                        "category_i", "fifteen_bytes_",
                                        "x\x01y",     "segmentation_long"};
    mabn_str_printf(s, "\"%s\"", texts[pick(8) ? pick(8) : pick(16)]);
}

static void add_value(struct mabn_str *s, int depth);

/* Some thousand bytes of the plainest numbers. */
static void add_long_list(struct mabn_str *s)
{
    mabn_str_add(s, "[1");
    for (int n = 200 + pick(400); n > 0; n--) {
        mabn_str_add(s, pick(2) ? ",1" : ", 1");
        add_digits(s, pick(8));
        if (pick(2)) mabn_str_add(s, ".5");
    }
    mabn_str_add(s, "]");
}

static void add_list(struct mabn_str *s, int depth)
{
    const int n = pick(4) ? pick(6) : pick(16);
    const bool numbers = pick(3) > 0;
    mabn_str_add(s, "[");
    for (int i = 0; i < n; i++) {
        if (i) mabn_str_printf(s, "%s%s", pick(9) ? "" : gap(), good || pick(200) ? "," : ";");
        mabn_str_add(s, gap());
        if (numbers)
            add_number(s);
        else
            add_value(s, depth + 1);
    }
    mabn_str_printf(s, "%s]", pick(9) ? "" : gap());
}

static void add_value(struct mabn_str *s, int depth)
{
    static const char *const words[] = {"true", "false", "null", "\"\"", "{}", "[]"};
    const int kind = depth > 3 ? 3 + pick(3) : pick(7);
    if (good && pick(60) == 0) {
        add_long_list(s);
    } else if (kind < 2) {
        add_list(s, depth);
    } else if (kind == 2) {
        const int n = pick(5);
        mabn_str_add(s, "{");
        for (int i = 0; i < n; i++) {
            mabn_str_printf(s, "%s%s", i ? "," : "", gap());
            add_text(s);
            mabn_str_printf(s, "%s:%s", pick(9) ? "" : gap(), gap());
            add_value(s, depth + 1);
        }
        mabn_str_printf(s, "%s}", pick(9) ? "" : gap());
    } else if (kind == 3) {
        mabn_str_add(s, words[pick(6)]);
    } else if (kind == 4) {
        add_text(s);
    } else {
        add_number(s);
    }
}

/* Change, cut or repeat a little. */
static void spoil(struct mabn_str *s)
{
    static const char bytes[] = "[]{},:\"0123456789.eE+-\\ nN\n";
    if (!s->length) return;
    const size_t at = (size_t)pick((int)s->length);
    if (pick(3) == 0) {
        s->length = at;
        s->text[at] = 0;
    } else {
        s->text[at] = bytes[pick(sizeof bytes - 1)];
    }
}

static void make_document(struct mabn_str *s)
{
    do {
        mabn_str_clear(s);
        add_value(s, 0);
        if (!good && pick(3) == 0) spoil(s);
    } while (s->length >= DOCUMENT && !good);
}

/* ---- what a reader tells ---- */

/* Which of a value's readers is used: the same for each reading of a document. */
static unsigned choice(unsigned *turn)
{
    *turn = *turn * 1103515245u + 12345u;
    return *turn >> 16;
}

static void tell_numbers(struct mabn_str *log, const double *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        mabn_str_printf(log, " %a", v[i]);
}

static void tell_value(struct mabn_json *j, struct mabn_str *log, unsigned *turn);

static void tell_array(struct mabn_json *j, struct mabn_str *log, unsigned *turn)
{
    static double *list; /* kept: other lists are appended */
    static size_t room;
    double v[4] = {0};
    size_t n = 0, odd = 0;
    switch (choice(turn) % 4) {
    case 0: /* four numbers, or an error */
        if (!mabn_json_try_doubles(j, v, 4) && mabn_json_read_doubles(j, v, 4)) return;
        tell_numbers(log, v, 4);
        if (choice(turn) % 64 == 0) mabn_json_fail(j, "this list is refused"); /* where is it? */
        return;
    case 1:
        if (mabn_json_append_finite(j, &list, &n, &room, &odd)) return;
        mabn_str_printf(log, " list, %zu odd", odd);
        tell_numbers(log, list, n);
        return;
    case 2:
        mabn_str_printf(log, " skipped");
        mabn_json_skip(j);
        return;
    default:
        mabn_json_begin_array(j);
        while (mabn_json_next_item(j))
            tell_value(j, log, turn);
        mabn_str_printf(log, " end");
    }
}

static void tell_number(struct mabn_json *j, struct mabn_str *log, unsigned *turn)
{
    struct mabn_json_text text;
    double v = 0;
    int64_t id = 0;
    switch (choice(turn) % 4) {
    case 0:
        if (!mabn_json_read_double(j, &v)) tell_numbers(log, &v, 1);
        return;
    case 1:
        if (mabn_json_try_double(j, &v)) tell_numbers(log, &v, 1);
        return;
    case 2:
        if (mabn_json_read_id(j, &id, &text)) return;
        mabn_str_printf(log, " id %lld %.*s", (long long)id, (int)text.length,
                        text.bytes ? text.bytes : "");
        return;
    default:
        mabn_json_skip(j);
    }
}

static void tell_value(struct mabn_json *j, struct mabn_str *log, unsigned *turn)
{
    struct mabn_json_text text;
    double v[4] = {0};
    const unsigned how = choice(turn) % 8;
    if (how == 0) { /* without looking first, as COCO's readers do */
        if (mabn_json_try_double(j, v)) tell_numbers(log, v, 1);
        return;
    }
    if (how == 1 && mabn_json_try_doubles(j, v, 4)) {
        tell_numbers(log, v, 4);
        return;
    }
    if (how == 1 && mabn_json_peek(j) == MABN_JSON_ARRAY) {
        if (!mabn_json_read_doubles(j, v, 4)) tell_numbers(log, v, 4);
        return;
    }
    switch (mabn_json_peek(j)) {
    case MABN_JSON_OBJECT:
        mabn_json_begin_object(j);
        while (mabn_json_next_key(j, &text)) {
            mabn_str_printf(log, " '%.*s':", (int)text.length, text.bytes);
            tell_value(j, log, turn);
        }
        return;
    case MABN_JSON_ARRAY:
        tell_array(j, log, turn);
        return;
    case MABN_JSON_STRING:
        if (!mabn_json_read_string(j, &text))
            mabn_str_printf(log, " \"%.*s\"", (int)text.length, text.bytes);
        return;
    case MABN_JSON_NUMBER:
        tell_number(j, log, turn);
        return;
    default:
        mabn_json_skip(j);
    }
}

/* A document of `size` bytes; the error, if any, at the end of the log. */
static void tell(struct mabn_str *log, const char *text, size_t size, unsigned turn)
{
    struct mabn_json *j = mabn_json_new_bytes(text, size, "t");
    mabn_str_clear(log);
    if (turn % 3 == 0) mabn_json_allow_nan(j);
    tell_value(j, log, &turn);
    if (mabn_json_end(j)) mabn_str_printf(log, " ERROR %s", mabn_error_message());
    mabn_json_free(j);
}

/* ---- tests ---- */

/* What is cut off ends where the blanks end. */
static bool same(const struct mabn_str *a, const struct mabn_str *b)
{
    const char *end = "found the end of the", *ea = strstr(a->text, end),
               *eb = strstr(b->text, end);
    if (!ea || !eb) return !strcmp(a->text, b->text);
    const char *ca = strstr(a->text, " ERROR "), *cb = strstr(b->text, " ERROR ");
    return ca - a->text == cb - b->text && !memcmp(a->text, b->text, (size_t)(ca - a->text));
}

static void test_random(int count)
{
    struct mabn_str document, near, far;
    int different = 0, errors = 0;
    char *padded = malloc(DOCUMENT + BLANKS);
    mabn_str_init(&document);
    mabn_str_init(&near);
    mabn_str_init(&far);
    for (int i = 0; i < count; i++) {
        make_document(&document);
        memset(padded, ' ', DOCUMENT + BLANKS);
        memcpy(padded, document.text, document.length);
        tell(&near, document.text, document.length, (unsigned)i);
        tell(&far, padded, document.length + BLANKS, (unsigned)i);
        errors += strstr(near.text, " ERROR ") != NULL;
        if (same(&near, &far)) continue;
        if (!different++)
            printf("# %s\n# without shortcuts:%s\n# with them:%s\n", document.text, near.text,
                   far.text);
    }
    tap_ok(!different, "%d of %d random documents read otherwise by shortcuts", different, count);
    tap_ok(errors > count / 10 && errors < count * 9 / 10, "%d of them are in error", errors);
    free(padded);
    mabn_str_release(&document);
    mabn_str_release(&near);
    mabn_str_release(&far);
}

struct feed {
    int fd;
    const char *text;
    size_t size;
};

/* A socket of packets: each fills the reader's window a little, and the window ends with it. */
static void *send_packets(void *context)
{
    const struct feed *f = context;
    for (size_t done = 0, i = 0; done < f->size; i++) {
        const size_t piece = 600 + i * 37 % 1100, left = f->size - done;
        const ssize_t sent = send(f->fd, f->text + done, piece < left ? piece : left, MSG_NOSIGNAL);
        if (sent <= 0) break;
        done += (size_t)sent;
    }
    close(f->fd);
    return NULL;
}

/* Good documents in one array, and what each alone tells, a line each. */
static void make_many(struct mabn_str *all, struct mabn_str *lines, int count)
{
    struct mabn_str document, line;
    mabn_str_init(&document);
    mabn_str_init(&line);
    good = true;
    mabn_str_add(all, "[");
    for (int made = 0; made < count;) {
        make_document(&document);
        tell(&line, document.text, document.length, 3 * (unsigned)made);
        if (strstr(line.text, " ERROR ")) continue;
        mabn_str_printf(all, "%s%s%s", made++ ? "," : "", gap(), document.text);
        mabn_str_printf(lines, "%s\n", line.text);
    }
    mabn_str_add(all, "]");
    mabn_str_release(&document);
    mabn_str_release(&line);
}

static void test_windows(int count)
{
    struct mabn_str all, wanted, found;
    struct feed feed;
    pthread_t thread;
    int fds[2];
    mabn_str_init(&all);
    mabn_str_init(&wanted);
    mabn_str_init(&found);
    make_many(&all, &wanted, count);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds)) abort();
    feed = (struct feed){fds[1], all.text, all.length};
    pthread_create(&thread, NULL, send_packets, &feed);
    struct mabn_json *j = mabn_json_new_fd(fds[0], "t");
    mabn_json_allow_nan(j);
    mabn_json_begin_array(j);
    for (unsigned i = 0; mabn_json_next_item(j); i++) {
        unsigned turn = 3 * i;
        tell_value(j, &found, &turn);
        mabn_str_add(&found, "\n");
    }
    tap_status(mabn_json_end(j), "%zu bytes of %d documents", all.length, count);
    tap_ok(!strcmp(found.text, wanted.text), "wherever a window ends, the same as each alone");
    mabn_json_free(j);
    close(fds[0]);
    pthread_join(thread, NULL);
    mabn_str_release(&all);
    mabn_str_release(&wanted);
    mabn_str_release(&found);
}

int main(void)
{
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    test_random(60000);
    test_windows(20000);
    return tap_done();
}
