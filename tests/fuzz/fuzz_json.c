/* The JSON reader: by reading and by skipping, at once and across windows. All must agree. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WINDOW = 256 << 10 };

struct outcome {
    mabn_status status;
    uint64_t digest; /* of all that was read */
    int too_large;   /* a number that skipping accepts */
};

static void mix(struct outcome *o, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++)
        o->digest = (o->digest ^ p[i]) * 0x100000001b3u;
}

static void read_scalar(struct mabn_json *j, struct outcome *o, enum mabn_json_kind kind)
{
    struct mabn_json_text text;
    double number = 0;
    bool truth = false;
    switch (kind) {
    case MABN_JSON_STRING:
        if (!mabn_json_read_string(j, &text)) mix(o, text.bytes, text.length);
        break;
    case MABN_JSON_NUMBER:
        if (mabn_json_read_double(j, &number)) o->too_large = 1;
        mix(o, &number, sizeof number);
        break;
    case MABN_JSON_BOOL:
        mabn_json_read_bool(j, &truth);
        mix(o, &truth, 1);
        break;
    default:
        mabn_json_read_null(j);
    }
}

/* Walk any document with the reading calls, without recursion. */
static struct outcome walk(struct mabn_json *j)
{
    struct outcome o = {MABN_OK, 0xcbf29ce484222325u, 0};
    bool object[MABN_JSON_MAX_DEPTH + 1];
    int depth = 0;
    do {
        enum mabn_json_kind kind;
        if (depth) {
            struct mabn_json_text key;
            bool more = object[depth] ? mabn_json_next_key(j, &key) : mabn_json_next_item(j);
            if (!more) {
                if (mabn_json_status(j)) break;
                depth--;
                mix(&o, "end", 3);
                continue;
            }
            if (object[depth]) mix(&o, key.bytes, key.length);
        }
        kind = mabn_json_peek(j);
        if (kind == MABN_JSON_ERROR) {
            mabn_json_read_null(j); /* records what is wrong */
            break;
        }
        if (kind == MABN_JSON_OBJECT || kind == MABN_JSON_ARRAY) {
            bool is_object = kind == MABN_JSON_OBJECT;
            if (is_object ? mabn_json_begin_object(j) : mabn_json_begin_array(j)) break;
            object[++depth] = is_object;
            mix(&o, "begin", 5);
        } else {
            read_scalar(j, &o, kind);
        }
    } while (depth > 0 && !mabn_json_status(j));
    o.status = mabn_json_end(j);
    return o;
}

static struct outcome run(const void *bytes, size_t size, bool skip)
{
    struct mabn_json *j = mabn_json_new_bytes(bytes, size, "fuzz");
    struct outcome o = {MABN_OK, 0, 0};
    if (skip) {
        mabn_json_skip(j);
        o.status = mabn_json_end(j);
    } else {
        o = walk(j);
    }
    if (mabn_json_offset(j) > size || mabn_json_line(j) > size + 1) abort();
    mabn_json_free(j);
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome read = run(data, size, false), skip = run(data, size, true);
    if (read.status != skip.status && !read.too_large) abort();

    /* The same behind so many blanks that the first window ends inside it. */
    if (size >= 4 && size < 4096 && data[0] % 4 == 0 && memcmp(data, "\xef\xbb\xbf", 3) != 0) {
        static char *padded;
        if (!padded) padded = malloc(WINDOW + 4096);
        size_t blanks = WINDOW - (data[size / 2] + 256u * data[1]) % (size + 1);
        memset(padded, ' ', blanks);
        memcpy(padded + blanks, data, size);
        struct outcome far = run(padded, blanks + size, false);
        if (far.status != read.status || far.digest != read.digest) abort();
    }
    return 0;
}
