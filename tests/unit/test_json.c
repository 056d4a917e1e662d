/* The JSON reader: grammar, exact numbers, UTF-8, positions in messages, pipes and windows. */
#include "tap.h"

#include <locale.h>
#include <pthread.h>
#include <unistd.h>

#include "base/json_write.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"

static struct mabn_json *reader(const char *text)
{
    return mabn_json_new_bytes(text, strlen(text), "t.json");
}

/* The status of a whole text, skipped and read. */
static mabn_status skip_all(const char *text)
{
    struct mabn_json *j = reader(text);
    mabn_json_skip(j);
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    return status;
}

/* Read through the value; recursion is acceptable in a test. */
static void walk(struct mabn_json *j)
{
    struct mabn_json_text text;
    double number;
    bool truth;
    switch (mabn_json_peek(j)) {
    case MABN_JSON_OBJECT:
        mabn_json_begin_object(j);
        while (mabn_json_next_key(j, &text))
            walk(j);
        break;
    case MABN_JSON_ARRAY:
        mabn_json_begin_array(j);
        while (mabn_json_next_item(j))
            walk(j);
        break;
    case MABN_JSON_STRING:
        mabn_json_read_string(j, &text);
        break;
    case MABN_JSON_NUMBER:
        mabn_json_read_double(j, &number);
        break;
    case MABN_JSON_BOOL:
        mabn_json_read_bool(j, &truth);
        break;
    case MABN_JSON_NULL:
        mabn_json_read_null(j);
        break;
    case MABN_JSON_ERROR:
        mabn_json_skip(j);
        break;
    }
}

static mabn_status walk_all(const char *text)
{
    struct mabn_json *j = reader(text);
    walk(j);
    mabn_status status = mabn_json_end(j);
    mabn_json_free(j);
    return status;
}

static void test_grammar(void)
{
    static const char *const good[] = {
        "0",
        "-0",
        "1.5e-3",
        "1E+2",
        "\"\"",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        " [ ] ",
        "[[],[]]",
        "{\"a\":{}}",
        "[1,2,3]",
        "{\"a\":1,\"b\":[true,null]}",
        "\n\t\r [\n1\n]\n",
        "\"\\u00e9\\n\\\"\"",
        "\"\\ud83d\\ude00\"",
        "\"\xc3\xa9\"",
        "\"\xf0\x9f\x98\x80\"",
        "\"\x7f\"",
        "{\"\":0}",
        "{\"a\" : 1 , \"a\" : 2}",
        "\xef\xbb\xbf[1]",
        "123456789012345678901234567890",
        "[1e-400]",
    };
    static const char *const bad[] = {
        "",
        " ",
        "[",
        "]",
        "{",
        "}",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\":1 \"b\":2}",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1.e3",
        "1e",
        "1e+",
        "0x10",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "nulll",
        "tru",
        "True",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x41\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\u123\"",
        "\"\x01\"",
        "\"\n\"",
        "\"\x80\"",
        "\"\xc0\x80\"",
        "\"\xe0\x80\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xf8\x80\x80\x80\x80\"",
        "\"\xc3\"",
        "1 2",
        "[1]]",
        "[1}",
        "{\"a\":1]",
        "[\"a\":1]",
        "//x\n1",
        "1,",
        "\xef\xbb",
        "[\xef\xbb\xbf]",
        ("\x1f"
         "1"),
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        tap_status(skip_all(good[i]), "skip accepts %zu", i);
        tap_status(walk_all(good[i]), "reading accepts %zu", i);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tap_fails(skip_all(bad[i]), MABN_ERR_FORMAT, "t.json", "skip refuses %zu", i);
        tap_fails(walk_all(bad[i]), MABN_ERR_FORMAT, "t.json", "reading refuses %zu", i);
    }
    struct mabn_json *j = mabn_json_new_bytes("[1,\0 2]", 7, "t.json");
    mabn_json_skip(j);
    tap_fails(mabn_json_end(j), MABN_ERR_FORMAT, "found byte 0x00", "a zero byte is an error");
    mabn_json_free(j);
}

/* Numbers of every length: strtod's value, and the same end when skipped, also at the end of the
 * input. Short ones have a shortcut. */
static void test_lengths(void)
{
    static const char digits[] = "9081726354908172635490817263549";
    size_t wrong = 0;
    for (int zero = 0; zero < 2; zero++)
        for (size_t n = 1; n < 24; n++)
            for (size_t k = 0; k < 24; k++) {
                char text[80];
                snprintf(text, sizeof text, "[%.*s%s%.*s, 1]", zero ? 1 : (int)n,
                         zero ? "0" : digits, k ? "." : "", (int)k, digits);
                struct mabn_json *j = mabn_json_new_bytes(text, strlen(text), "t.json");
                double v[2] = {0, 0};
                wrong +=
                    mabn_json_read_doubles(j, v, 2) || v[0] != strtod(text + 1, NULL) || v[1] != 1;
                mabn_json_free(j);
                wrong += skip_all(text) != MABN_OK;
                text[strlen(text) - 4] = 0; /* the number alone */
                j = mabn_json_new_bytes(text + 1, strlen(text + 1), "t.json");
                wrong += mabn_json_read_double(j, v) || v[0] != strtod(text + 1, NULL) ||
                         mabn_json_end(j);
                mabn_json_free(j);
            }
    tap_ok(wrong == 0, "numbers of every length: %zu are wrong", wrong);
}

/* Python's NaN and Infinity, where they are allowed. */
/* What is far from the end of the window is read by shortcuts: the same values, the same grammar. */
static void test_shortcuts(void)
{
    static const struct {
        const char *text;
        bool plain, fine; /* taken by mabn_json_try_doubles; four numbers at all */
    } lists[] = {
        {"[1,2.5,3,4]", true, true},
        {" [1, 2, 3, 4]", true, true},
        {"[0.1,1234.123,1234567.1234567,0.00000001]", true, true},
        {"[12345678.12345678,2,3,4]", false, true},
        {"[1234.567,123456.7,1234567.8,99999999]", true, true},
        {"[1,2,3]", false, false},
        {"[1,2,3,4,5]", false, false},
        {"[1,2,3,4e1]", false, true},
        {"[1,-2,3,4]", false, true},
        {"[123456789,2,3,0.123456789]", false, true},
        {"[1 ,2,3,4 ]", false, true},
        {"[1,2,3,04]", false, false},
        {"[1,2,3,4.]", false, false},
        {"[1,2,3,\"4\"]", false, false},
        {"[1,2,3,]", false, false},
        {"{1,2,3,4]", false, false},
        {"{}", false, false},
    };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char text[2048];
        double v[4] = {0}, want[4] = {0};
        memset(text, ' ', sizeof text);
        memcpy(text, lists[i].text, strlen(lists[i].text));
        struct mabn_json *j = mabn_json_new_bytes(text, sizeof text, "list");
        (void)mabn_json_peek(j);
        bool taken = mabn_json_try_doubles(j, v, 4);
        if (!taken) (void)mabn_json_read_doubles(j, v, 4);
        bool fine = mabn_json_end(j) == MABN_OK;
        mabn_json_free(j);
        const char *at = lists[i].text;
        for (int k = 0; k < 4 && lists[i].fine; k++) {
            at += strcspn(at, "-0123456789");
            want[k] = strtod(at, (char **)(uintptr_t)&at);
        }
        tap_ok(taken == lists[i].plain && fine == lists[i].fine &&
                   (!fine || !memcmp(v, want, sizeof v)),
               "shortcut: %s", lists[i].text);
    }
}

static const char *const keys[] = {
    "id",       "a",      "",         "category_id12345", "fifteen_bytes_0", "sixteen_bytes_00",
    "\\u0069d", "a\\\"b", "\xc3\xa9", "segmentation"};

/* Keys in every writing have the same bytes near the end of the input and far from it. */
static void test_keys(void)
{
    static const char *const between[] = {"", " ", "  ", "\n", "\t "};
    int wrong = 0;
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        for (size_t b = 0; b < 25; b++) {
            char text[4096], near[64] = "";
            int n = snprintf(text, sizeof text, "{\"x\":1,%s\"%s\"%s:2}", between[b % 5], keys[k],
                             between[b / 5]);
            for (int far = 0; far < 2; far++) {
                struct mabn_json_text key = {NULL, 0};
                memset(text + n, ' ', sizeof text - (size_t)n);
                struct mabn_json *j =
                    mabn_json_new_bytes(text, far ? sizeof text : (size_t)n, "keys");
                int64_t one = 0, two = 0;
                mabn_json_begin_object(j);
                wrong += !mabn_json_next_key(j, &key) || !mabn_json_is(key, "x");
                mabn_json_read_int64(j, &one);
                wrong += !mabn_json_next_key(j, &key);
                if (far)
                    wrong += key.length != strlen(near) || memcmp(key.bytes, near, key.length);
                else
                    snprintf(near, sizeof near, "%.*s", (int)key.length, key.bytes);
                mabn_json_read_int64(j, &two);
                wrong += mabn_json_next_key(j, &key) || mabn_json_end(j) || one != 1 || two != 2;
                mabn_json_free(j);
            }
        }
    tap_ok(wrong == 0, "keys: the same by the shortcut and without it (%d wrong)", wrong);
    static const char *const bad[] = {"",
                                      "7",
                                      "{\"a\tb\":1}",
                                      "{\"x\":1,\"a\\:2,\"y\":3}",
                                      "{\"o\":{\"a\":1,2,3,\"b\":2}}",
                                      "{\"o\":{\"a\":1,2}}",
                                      "{\"o\":[[1,2]3,4]}",
                                      "{\"o\":[1,2}3,4]}",
                                      "{\"x\":1,\"a\\\":2}",
                                      "{\"x\":1,\"a\x01:2}",
                                      "{\"a\x01\":1}",
                                      "{\"a\":1 \"b\":2}",
                                      "{\"a\":1,,\"b\":2}",
                                      "{,\"a\":1}",
                                      "{\"a\xff\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[4096];
        memset(text, ' ', sizeof text);
        memcpy(text, bad[i], strlen(bad[i]));
        struct mabn_json *j = mabn_json_new_bytes(text, sizeof text, "bad");
        struct mabn_json_text key;
        mabn_json_begin_object(j);
        while (mabn_json_next_key(j, &key))
            mabn_json_skip(j);
        tap_ok(mabn_json_end(j) == MABN_ERR_FORMAT, "a bad key or comma is refused: %s", bad[i]);
        mabn_json_free(j);
    }
}

/* Identifiers of other forms than a few digits, far from the end too. */
static void test_ids(void)
{
    static const struct {
        const char *text;
        int64_t id;
        const char *as_text;
    } ids[] = {{"7", 7, NULL},         {"3.0", 3, NULL},
               {"12.50e1", 125, NULL}, {"-7", -7, NULL},
               {"3.5", 0, "3.5"},      {"123456789012", 123456789012, NULL},
               {"1e30", 0, "1e30"},    {"\"7\"", 0, "7"},
               {"0.10", 0, "0.10"},    {"12345678", 12345678, NULL}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        char text[4096];
        int64_t id = 0;
        struct mabn_json_text other;
        memset(text, ' ', sizeof text);
        memcpy(text + 1, ids[i].text, strlen(ids[i].text));
        struct mabn_json *j = mabn_json_new_bytes(text, sizeof text, "id");
        (void)mabn_json_peek(j);
        bool read = mabn_json_read_id(j, &id, &other) == MABN_OK;
        bool same = ids[i].as_text ? other.bytes && mabn_json_is(other, ids[i].as_text)
                                   : !other.bytes && id == ids[i].id;
        tap_ok(read && same && mabn_json_end(j) == MABN_OK, "id %s", ids[i].text);
        mabn_json_free(j);
    }
}

static void test_nan(void)
{
    static const char text[] = "[NaN, -Infinity, {\"a\": [Infinity, NaN, 2]}, NaN, 3, NaN]";
    struct mabn_json *j = mabn_json_new_bytes(text, strlen(text), "t.json");
    mabn_json_allow_nan(j);
    double v = 7;
    bool right = true;
    mabn_json_begin_array(j);
    for (int i = 0; i < 2; i++)
        right &= mabn_json_next_item(j) && mabn_json_peek(j) == MABN_JSON_NUMBER &&
                 !mabn_json_try_double(j, &v) && v == 7;
    right &= mabn_json_next_item(j) && mabn_json_skip(j) == MABN_OK;
    right &= mabn_json_next_item(j) && mabn_json_skip(j) == MABN_OK;
    right &= mabn_json_next_item(j) && mabn_json_try_double(j, &v) && v == 3;
    tap_ok(right, "NaN and Infinity are passed over");
    mabn_json_next_item(j);
    tap_fails(mabn_json_read_double(j, &v), MABN_ERR_FORMAT,
              "t.json':1:53: [5]: expected a number, found NaN",
              "where a number is needed they are errors");
    mabn_json_free(j);
    static const char *const bad[] = {"[NaN1]", "[nan]",       "[-Infinit]",
                                      "[Inf]",  "[+Infinity]", "[N]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        j = mabn_json_new_bytes(bad[i], strlen(bad[i]), "t.json");
        mabn_json_allow_nan(j);
        mabn_json_skip(j);
        tap_fails(mabn_json_end(j), MABN_ERR_FORMAT, "t.json", "%s is neither", bad[i]);
        mabn_json_free(j);
    }
}

static void test_depth(void)
{
    enum { DEEP = 100000 };
    char *text = mabn_xmalloc(2 * DEEP + 1);
    memset(text, '[', MABN_JSON_MAX_DEPTH);
    memset(text + MABN_JSON_MAX_DEPTH, ']', MABN_JSON_MAX_DEPTH);
    text[2 * MABN_JSON_MAX_DEPTH] = 0;
    tap_status(skip_all(text), "deepest nesting, skipped");
    tap_status(walk_all(text), "deepest nesting, read");
    memset(text, '[', DEEP);
    memset(text + DEEP, ']', DEEP);
    text[2 * DEEP] = 0;
    tap_fails(skip_all(text), MABN_ERR_LIMIT, "128 levels", "a bomb is refused by skip");
    tap_fails(walk_all(text), MABN_ERR_LIMIT, "128 levels", "a bomb is refused by reading");
    memset(text, '{', DEEP);
    tap_fails(skip_all(text), MABN_ERR_FORMAT, "a key", "a bomb of braces");
    free(text);
}

static double read_one(const char *text)
{
    double v = -12345;
    struct mabn_json *j = reader(text);
    mabn_json_read_double(j, &v);
    mabn_json_free(j);
    return v;
}

static void test_numbers(void)
{
    static const char *const hard[] = {
        "0.1",
        "0.3",
        "2.675",
        "1e22",
        "1e23",
        "9007199254740993",
        "9007199254740992.5",
        "0.5531082614048057",
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "4.9e-324",
        "2.4e-324",
        "1e-400",
        "8.5e-19",
        "1234567890123456789",
        "9999999999999999999e-19",
        "18446744073709551615e-1",
        "0.000000000000000000123",
        "123456789.123456789123456789",
        "1.00000000000000011102230246251565",
        "9223372036854775807",
        "179769313486231580793728971405301e276",
        "5e-1",
        "0.36442835493520626",
    };
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) {
        double want = strtod(hard[i], NULL), got = read_one(hard[i]);
        tap_ok(memcmp(&want, &got, 8) == 0, "exactly %s (%.17g)", hard[i], got);
    }
    tap_ok(signbit(read_one("-0")) && signbit(read_one("-0.0e5")), "minus zero");

    struct mabn_rng rng;
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    int wrong = 0;
    for (int i = 0; i < 200000; i++) {
        char text[64];
        uint64_t bits = mabn_rng_u64(&rng);
        double v;
        if (i % 2) {
            memcpy(&v, &bits, 8);
            if (!isfinite(v)) continue;
            snprintf(text, sizeof text, "%.*g", (int)(bits % 19) + 1, v);
        } else { /* as in files: few digits, a point anywhere */
            int after = (int)mabn_rng_below(&rng, 19);
            uint64_t n = bits >> mabn_rng_below(&rng, 64);
            char digits[32];
            int length = snprintf(digits, sizeof digits, "%020llu", (unsigned long long)n);
            const char *d = digits;
            while (*d == '0' && d - digits < length - after - 1)
                d++;
            snprintf(text, sizeof text, "%.*s%s%s", (int)(length - after - (d - digits)), d,
                     after ? "." : "", digits + length - after);
        }
        double want = strtod(text, NULL), got = read_one(text);
        if (memcmp(&want, &got, 8) != 0 && isfinite(want) && wrong++ < 5)
            printf("# %s: %.17g, want %.17g\n", text, got, want);
    }
    tap_ok(wrong == 0, "200000 random numbers are read exactly");

    struct mabn_json *j = reader("1e999");
    double d = 7;
    tap_fails(mabn_json_read_double(j, &d), MABN_ERR_FORMAT, "too large", "1e999");
    tap_ok(d == 7, "the output is untouched on an error");
    mabn_json_free(j);

    char *longer = mabn_xmalloc(3000);
    memset(longer, '1', 2999);
    longer[2999] = 0;
    tap_fails(skip_all(longer), MABN_ERR_LIMIT, "1023 characters", "a number of 3000 digits");
    free(longer);
}

static mabn_status read_whole(const char *text, int64_t *out)
{
    struct mabn_json *j = reader(text);
    mabn_status status = mabn_json_read_int64(j, out);
    mabn_json_free(j);
    return status;
}

static void test_integers(void)
{
    int64_t v;
    tap_ok(!read_whole("9223372036854775807", &v) && v == INT64_MAX, "largest");
    tap_ok(!read_whole("-9223372036854775808", &v) && v == INT64_MIN, "smallest");
    tap_ok(!read_whole("17.0", &v) && v == 17, "17.0 is whole");
    tap_ok(!read_whole("-1.2e2", &v) && v == -120, "-1.2e2 is whole");
    tap_ok(!read_whole("0e99", &v) && v == 0, "0e99 is whole");
    tap_ok(!read_whole("9007199254740993", &v) && v == 9007199254740993, "beyond 2^53, exact");
    tap_fails(read_whole("9223372036854775808", &v), MABN_ERR_FORMAT, "64 bits", "one too many");
    tap_fails(read_whole("1e30", &v), MABN_ERR_FORMAT, "64 bits", "far too many");
    tap_fails(read_whole("1.5", &v), MABN_ERR_FORMAT, "whole", "1.5");
    tap_fails(read_whole("\"1\"", &v), MABN_ERR_FORMAT, "expected a number, found a string",
              "text");
    int small = 3;
    struct mabn_json *j = reader("12");
    tap_fails(mabn_json_read_int(j, &small, 0, 11), MABN_ERR_FORMAT, "in [0, 11], found 12",
              "range");
    mabn_json_free(j);
}

static void test_strings(void)
{
    struct mabn_json *j =
        reader("[\"a\\\\b\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20ac\\ud83d\\ude00\", \"plain\"]");
    struct mabn_json_text text;
    mabn_json_begin_array(j);
    mabn_json_next_item(j);
    mabn_json_read_string(j, &text);
    tap_ok(mabn_json_is(text, "a\\b/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "escapes");
    mabn_json_next_item(j);
    char *copy = NULL;
    tap_status(mabn_json_read_strdup(j, &copy), "strdup");
    tap_str_eq(copy, "plain", "a plain string");
    free(copy);
    tap_ok(!mabn_json_next_item(j), "end of the array");
    tap_status(mabn_json_end(j), "end of the document");
    mabn_json_free(j);

    j = reader("\"a\\u0000b\"");
    tap_ok(!mabn_json_read_string(j, &text) && text.length == 3, "\\u0000 is kept");
    mabn_json_free(j);
    j = reader("\"a\\u0000b\"");
    tap_fails(mabn_json_read_strdup(j, &copy), MABN_ERR_FORMAT, "zero character",
              "not in a C string");
    mabn_json_free(j);
}

static void test_messages(void)
{
    struct mabn_json *j = reader("{\n \"annotations\": [\n  {\"bbox\": [1, 2, 3, 4]},\n"
                                 "  {\"bbox\": [1, \"2\"]}\n]}");
    struct mabn_json_text key;
    double box[4];
    mabn_json_begin_object(j);
    mabn_json_next_key(j, &key);
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        mabn_json_begin_object(j);
        while (mabn_json_next_key(j, &key))
            mabn_json_read_doubles(j, box, 4);
    }
    tap_fails(mabn_json_status(j), MABN_ERR_FORMAT,
              "'t.json':4:16: annotations[1].bbox[1]: expected a number, found a string",
              "file, line, column and path");
    tap_fails(mabn_json_fail(j, "later"), MABN_ERR_FORMAT, "expected a number",
              "the first error stays");
    mabn_json_free(j);

    j = reader("[[1,2,3]]");
    mabn_json_begin_array(j);
    mabn_json_next_item(j);
    tap_fails(mabn_json_read_doubles(j, box, 4), MABN_ERR_FORMAT,
              "'t.json':1:2: [0]: expected 4 numbers, found 3", "too few numbers");
    mabn_json_free(j);

    j = reader("[\n{\"a\":1},\n{\"a\":2}]");
    mabn_json_begin_array(j);
    mabn_json_next_item(j);
    tap_ok(mabn_json_line(j) == 2, "line of the first item");
    mabn_json_skip(j);
    mabn_json_next_item(j);
    tap_ok(mabn_json_line(j) == 3, "line of the second item");
    mabn_json_free(j);

    tap_fails(mabn_json_open(&j, "/nonexistent.json"), MABN_ERR_IO,
              "cannot open '/nonexistent.json'", "a missing file");
    tap_fails(mabn_json_open(&j, "/tmp"), MABN_ERR_IO, "folder", "a folder");
}

/* Write a text into a pipe in pieces of a given size. */
struct feed {
    int fd;
    const char *text;
    size_t size, piece;
};

static void *feed_run(void *context)
{
    struct feed *f = context;
    for (size_t done = 0; done < f->size;) {
        size_t n = f->size - done < f->piece ? f->size - done : f->piece;
        ssize_t wrote = write(f->fd, f->text + done, n);
        if (wrote <= 0) break;
        done += (size_t)wrote;
    }
    close(f->fd);
    return NULL;
}

/* A large document with every kind of value, read from pipes that deliver odd pieces. */
static void test_pipe(void)
{
    struct mabn_str s;
    mabn_str_init(&s);
    mabn_str_add(&s, "[");
    for (int i = 0; i < 20000; i++)
        mabn_str_printf(&s, "%s{\"id\"%*s:%*s%d.25, \"name\\u0041%d\":\"%*s\\n\xc3\xa9\"}",
                        i ? ",\n" : "", i % 7, "", i % 23, "", i, i, i % 301, "x");
    mabn_str_add(&s, ", {\"long\": \"");
    for (int i = 0; i < 700000; i++)
        mabn_str_add_char(&s, (char)('a' + i % 26));
    mabn_str_add(&s, "\"}]\n");
    static const size_t pieces[] = {997, 4096, 65536};
    for (size_t k = 0; k < 3; k++) {
        int fds[2];
        if (pipe(fds)) return;
        struct feed feed = {fds[1], s.text, s.length, pieces[k]};
        pthread_t thread;
        pthread_create(&thread, NULL, feed_run, &feed);
        struct mabn_json *j = mabn_json_new_fd(fds[0], "pipe");
        struct mabn_json_text key, text;
        double sum = 0;
        size_t bytes = 0;
        mabn_json_begin_array(j);
        while (mabn_json_next_item(j)) {
            mabn_json_begin_object(j);
            while (mabn_json_next_key(j, &key)) {
                double v;
                if (mabn_json_is(key, "id")) {
                    mabn_json_read_double(j, &v);
                    sum += v;
                } else if (key.length > 5 && !memcmp(key.bytes, "nameA", 5)) {
                    mabn_json_read_string(j, &text);
                    bytes += text.length;
                } else if (mabn_json_is(key, "long")) {
                    mabn_json_read_string(j, &text);
                    tap_ok(text.length == 700000 && text.bytes[699999] == 'a' + 699999 % 26,
                           "a string longer than the window");
                } else {
                    mabn_json_fail(j, "unknown key of %zu bytes", key.length);
                }
            }
        }
        tap_status(mabn_json_end(j), "pieces of %zu", pieces[k]);
        tap_ok(mabn_json_line(j) == 20001, "lines are counted: %llu",
               (unsigned long long)mabn_json_line(j));
        tap_close(sum, 20000 * 0.25 + 19999.0 * 20000 / 2, 0, "numbers across windows");
        size_t want = 0;
        for (size_t i = 0; i < 20000; i++)
            want += (i % 301 ? i % 301 : 1) + 3;
        tap_ok(bytes == want, "strings across windows");
        mabn_json_free(j);
        pthread_join(thread, NULL);
        close(fds[0]);
    }
    mabn_str_release(&s);
}

/* Cut a valid document at every byte: each is refused. */
static void test_truncation(void)
{
    static const char text[] = "{\"a\": [1.5, -2e3, \"x\\u00e9\\ud83d\\ude00\"], \"b\": {\"c\": "
                               "null, \"d\": [true, false]}, \"e\": []}";
    int accepted = 0;
    for (size_t n = 0; n + 1 < sizeof text; n++) {
        char *copy = mabn_xstrndup(text, n);
        accepted += skip_all(copy) == MABN_OK;
        accepted += walk_all(copy) == MABN_OK;
        free(copy);
    }
    tap_ok(accepted == 0, "no proper prefix is accepted");
    tap_status(walk_all(text), "the whole is");
}

static void test_lines(void)
{
    struct mabn_json *j = reader("{\"a\":1}\n{\"a\":2}\n\n{\"a\":3}");
    struct mabn_json_text key;
    int64_t v, sum = 0, count = 0;
    while (mabn_json_next_document(j)) {
        mabn_json_begin_object(j);
        while (mabn_json_next_key(j, &key))
            if (!mabn_json_read_int64(j, &v)) sum += v;
        count++;
    }
    tap_status(mabn_json_status(j), "JSON Lines");
    tap_ok(count == 3 && sum == 6, "three documents");
    mabn_json_free(j);
    j = reader("");
    tap_ok(!mabn_json_next_document(j) && mabn_json_status(j) == MABN_OK, "no line is fine");
    mabn_json_free(j);
}

static void test_writing(void)
{
    struct mabn_json_writer w;
    struct mabn_str text;
    mabn_str_init(&text);
    mabn_json_writer_init(&w, &text);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_int(&w, "a\"b", INT64_MIN);
    mabn_json_put_array(&w, "list");
    mabn_json_put_double(&w, NULL, 0.1);
    mabn_json_put_double(&w, NULL, NAN);
    mabn_json_put_rounded(&w, NULL, 1234.5678, 6);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_end(&w);
    mabn_json_put_end(&w);
    mabn_json_put_bool(&w, "yes", true);
    mabn_json_put_string(&w, "text", "line\n\xff");
    mabn_json_put_string(&w, "none", NULL);
    mabn_json_put_raw(&w, "raw", "[1]");
    mabn_json_put_end(&w);
    const char *want = "{\"a\\\"b\":-9223372036854775808,\"list\":[0.1,null,1234.57,{}],"
                       "\"yes\":true,\"text\":\"line\\n\xef\xbf\xbd\",\"none\":null,\"raw\":[1]}";
    tap_str_eq(text.text, want, "what is written");
    tap_status(walk_all(text.text), "reads back");
    mabn_str_clear(&text);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_end(&w);
    mabn_str_add_char(&text, '\n');
    mabn_json_put_array(&w, NULL);
    mabn_json_put_end(&w);
    tap_str_eq(text.text, "{}\n[]", "several documents, and a string that was emptied");
    mabn_str_release(&text);
}

static void test_layout(void)
{
    struct mabn_json_writer w;
    struct mabn_str text;
    const double numbers[2] = {1, -0.5};
    mabn_str_init(&text);
    mabn_json_writer_init_spaced(&w, &text);
    mabn_json_put_object(&w, NULL);
    mabn_json_put_line(&w, 2);
    mabn_json_put_doubles(&w, "a", numbers, 2);
    mabn_json_put_bool(&w, "b", false);
    mabn_json_put_line(&w, 2);
    mabn_json_put_object(&w, "c");
    mabn_json_put_int(&w, "d", 1);
    mabn_json_put_members(&w, "{\"e\":2,\"f\":3}");
    mabn_json_put_int(&w, "g", 4);
    mabn_json_put_end(&w);
    mabn_json_put_line(&w, 0);
    mabn_json_put_end(&w);
    tap_str_eq(text.text,
               "{\n  \"a\": [1, -0.5], \"b\": false,\n"
               "  \"c\": {\"d\": 1, \"e\":2,\"f\":3, \"g\": 4}\n}",
               "spaces and lines");
    tap_status(walk_all(text.text), "reads back");
    mabn_str_release(&text);
}

int main(void)
{
    test_grammar();
    test_lengths();
    test_shortcuts();
    test_keys();
    test_ids();
    test_nan();
    test_depth();
    test_numbers();
    test_integers();
    test_strings();
    test_messages();
    test_pipe();
    test_truncation();
    test_lines();
    test_writing();
    test_layout();
    if (setlocale(LC_NUMERIC, "de_DE.UTF-8"))
        tap_close(read_one("1234567890123456789012.5"), 1234567890123456789012.5, 0, "any locale");
    else
        tap_skip("no German locale here");
    return tap_done();
}
