/* The JSON reader: one window over the input, refilled on demand.
 *
 * The window is followed by PADDING zero bytes. Zero is legal nowhere in JSON, so inner loops stop
 * at the end of the window without asking for it, and vector loads may run past it. At the start of
 * every value at least MARGIN bytes are in the window (unless the input ends), so numbers and
 * literals never need a refill. Strings may need one, and keep their beginning in the window. */
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/mem.h"
#include "base/str.h"

enum { WINDOW = 256 << 10, MARGIN = 1024, PADDING = 64, KEY_KEPT = 47 };

struct frame {
    bool object, fresh; /* fresh: nothing read yet */
    uint8_t key_length; /* KEY_KEPT + 1: longer than what was kept */
    char key[KEY_KEPT];
    int64_t index;
};

struct mabn_json {
    mabn_status status;
    uint8_t *p, *end; /* next byte, end of the window */
    uint8_t *value;   /* start of the value read last or waiting */
    uint8_t *buffer;  /* capacity + PADDING bytes */
    size_t capacity;
    uint64_t base;             /* bytes of input before buffer[0] */
    uint8_t *counted;          /* lines are counted up to here */
    uint64_t line, line_start; /* at `counted`: line number, offset of its first byte */
    bool eof, own_fd, begun;
    bool python;           /* NaN, Infinity and -Infinity are numbers that are not finite */
    int fd;                /* -1: memory */
    const uint8_t *memory; /* what is left of it */
    size_t memory_left;
    uint64_t size;
    char *name;
    uint8_t *scratch; /* strings with escapes */
    size_t scratch_capacity;
    int depth;
    struct frame frames[MABN_JSON_MAX_DEPTH];
};

/* ---- the window ---- */

static struct mabn_json *json_new(const char *name, size_t window)
{
    struct mabn_json *j = mabn_xmalloc(sizeof *j);
    memset(j, 0, offsetof(struct mabn_json, frames));
    j->fd = -1;
    j->name = mabn_xstrdup(name);
    j->capacity = window;
    j->buffer = mabn_xmalloc(j->capacity + PADDING);
    j->p = j->end = j->value = j->counted = j->buffer;
    memset(j->end, 0, PADDING);
    j->line = 1;
    return j;
}

static void count_lines(struct mabn_json *j, const uint8_t *to)
{
    const uint8_t *from = j->counted;
    if (to <= from) return;
    const uint8_t *last = memrchr(from, '\n', (size_t)(to - from));
    if (last) {
        uint64_t n = 0;
        for (const uint8_t *q = from; q <= last; q++)
            n += *q == '\n';
        j->line += n;
        j->line_start = j->base + (uint64_t)(last + 1 - j->buffer);
    }
    j->counted = j->buffer + (to - j->buffer);
}

static mabn_status fail_at(struct mabn_json *j, const uint8_t *at, mabn_status code,
                           const char *format, ...) MABN_PRINTF(4, 5);

/* Bytes from the source into [end, buffer+capacity). */
static mabn_status read_source(struct mabn_json *j)
{
    size_t room = j->capacity - (size_t)(j->end - j->buffer);
    size_t got = 0;
    if (j->fd < 0) {
        got = j->memory_left < room ? j->memory_left : room;
        memcpy(j->end, j->memory, got);
        j->memory += got;
        j->memory_left -= got;
        j->eof = j->memory_left == 0;
    } else {
        ssize_t n;
        do {
            n = read(j->fd, j->end, room);
        } while (n < 0 && errno == EINTR);
        if (n < 0) {
            j->status = mabn_fail_errno("cannot read '%s'", j->name);
            return j->status;
        }
        got = (size_t)n;
        j->eof = n == 0;
    }
    j->end += got;
    memset(j->end, 0, PADDING);
    return MABN_OK;
}

/* More bytes behind `end`, keeping those from `keep` on. */
static mabn_status refill(struct mabn_json *j, uint8_t *keep)
{
    size_t kept = (size_t)(j->end - keep);
    count_lines(j, keep);
    if (kept == j->capacity) {
        if (kept > MABN_JSON_MAX_STRING)
            return fail_at(j, keep, MABN_ERR_LIMIT, "string longer than %zu bytes",
                           MABN_JSON_MAX_STRING);
        ptrdiff_t p = j->p - j->buffer, value = j->value - j->buffer,
                  counted = j->counted - j->buffer;
        j->capacity *= 2;
        j->buffer = mabn_xrealloc(j->buffer, j->capacity + PADDING);
        j->p = j->buffer + p;
        j->value = j->buffer + value;
        j->counted = j->buffer + counted;
        j->end = j->buffer + kept;
    } else {
        size_t gone = (size_t)(keep - j->buffer);
        memmove(j->buffer, keep, kept);
        j->base += gone;
        j->p -= gone;
        j->counted -= gone;
        j->value = j->value > keep ? j->value - gone : j->buffer;
        j->end = j->buffer + kept;
    }
    return read_source(j);
}

/* Past white space, with MARGIN bytes in the window. The byte, 0 at the end of the input. */
static __attribute__((noinline)) int peek_slow(struct mabn_json *j)
{
    if (j->status) return 0;
    for (;;) {
        uint8_t *p = j->p;
#ifdef __SSE2__
        const __m128i space = _mm_set1_epi8(' '), newline = _mm_set1_epi8('\n'),
                      tab = _mm_set1_epi8('\t'), cr = _mm_set1_epi8('\r');
        for (;; p += 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            __m128i white =
                _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, space), _mm_cmpeq_epi8(v, newline)),
                             _mm_or_si128(_mm_cmpeq_epi8(v, tab), _mm_cmpeq_epi8(v, cr)));
            unsigned black = (unsigned)_mm_movemask_epi8(white) ^ 0xffff;
            if (black) {
                p += __builtin_ctz(black);
                break;
            }
        }
#else
        while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')
            p++;
#endif
        j->p = p;
        if (j->end - p < MARGIN && !j->eof) {
            if (refill(j, p)) return 0;
        } else if (j->begun || memcmp(p, "\xef\xbb\xbf", 3) != 0) {
            j->begun = true;
            return *p;
        } else { /* a byte order mark in front is passed over */
            j->begun = true;
            j->p += 3;
        }
    }
}

static inline int peek_byte(struct mabn_json *j)
{
    uint8_t *p = j->p;
    p += *p == ' '; /* most often there is one blank or none */
    if (*p > ' ' && j->end - p >= MARGIN) {
        j->p = p;
        return *p;
    }
    return peek_slow(j);
}

struct mabn_json *mabn_json_new_fd(int fd, const char *name)
{
    struct mabn_json *j = json_new(name, WINDOW);
    struct stat st;
    j->fd = fd;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) j->size = (uint64_t)st.st_size;
    return j;
}

struct mabn_json *mabn_json_new_bytes(const void *bytes, size_t size, const char *name)
{
    struct mabn_json *j = json_new(name, size < WINDOW ? size + 1 : WINDOW);
    j->memory = bytes;
    j->memory_left = size;
    j->size = size;
    j->eof = size == 0;
    return j;
}

mabn_status mabn_json_open(struct mabn_json **out, const char *path)
{
    *out = NULL;
    if (strcmp(path, "-") == 0) {
        *out = mabn_json_new_fd(STDIN_FILENO, "standard input");
        return MABN_OK;
    }
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mabn_fail_errno("cannot open '%s'", path);
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return mabn_fail(MABN_ERR_IO, "cannot read '%s': it is a folder", path);
    }
    *out = mabn_json_new_fd(fd, path);
    (*out)->own_fd = true;
    return MABN_OK;
}

void mabn_json_free(struct mabn_json *j)
{
    if (!j) return;
    if (j->own_fd) close(j->fd);
    free(j->buffer);
    free(j->scratch);
    free(j->name);
    free(j);
}

/* ---- errors ---- */

static void add_path(struct mabn_str *s, const struct mabn_json *j)
{
    size_t start = s->length;
    for (int i = 0; i < j->depth; i++) {
        const struct frame *f = &j->frames[i];
        if (!f->object) {
            if (f->index >= 0) mabn_str_printf(s, "[%lld]", (long long)f->index);
            continue;
        }
        if (f->fresh) continue;
        if (s->length > start) mabn_str_add_char(s, '.');
        size_t n = f->key_length < KEY_KEPT ? f->key_length : KEY_KEPT;
        for (size_t k = 0; k < n; k++) {
            char c = f->key[k];
            mabn_str_add_char(s, c > 32 && c < 127 ? c : '?');
        }
        if (f->key_length > KEY_KEPT) mabn_str_add(s, "...");
    }
    if (s->length > start) mabn_str_add(s, ": ");
}

static mabn_status fail_va(struct mabn_json *j, const uint8_t *at, mabn_status code,
                           const char *format, va_list args)
{
    if (j->status) return j->status;
    char text[512];
    vsnprintf(text, sizeof text, format, args);
    count_lines(j, at);
    uint64_t offset = j->base + (uint64_t)(at - j->buffer);
    uint64_t column = offset >= j->line_start ? offset - j->line_start + 1 : 1;
    struct mabn_str path;
    mabn_str_init(&path);
    add_path(&path, j);
    j->status = mabn_fail(code, "'%s':%llu:%llu: %s%s", j->name, (unsigned long long)j->line,
                          (unsigned long long)column, path.text, text);
    mabn_str_release(&path);
    j->p = j->value = j->end;
    return j->status;
}

static mabn_status fail_at(struct mabn_json *j, const uint8_t *at, mabn_status code,
                           const char *format, ...)
{
    va_list args;
    va_start(args, format);
    mabn_status status = fail_va(j, at, code, format, args);
    va_end(args);
    return status;
}

mabn_status mabn_json_fail(struct mabn_json *j, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    mabn_status status = fail_va(j, j->value, MABN_ERR_FORMAT, format, args);
    va_end(args);
    return status;
}

/* The kind of a file that does not begin like JSON; NULL: unknown. */
static const char *other_format(const struct mabn_json *j)
{
    static const struct {
        const char *magic, *name;
        size_t n;
    } known[] = {
        {"\xff\xfe", "UTF-16 or UTF-32 text: JSON is UTF-8 (iconv makes it)", 2},
        {"\xfe\xff", "UTF-16 text: JSON is UTF-8 (iconv makes it)", 2},
        {"\0\0\xfe\xff", "UTF-32 text: JSON is UTF-8 (iconv makes it)", 4},
        {"{\0", "UTF-16 or UTF-32 text: JSON is UTF-8 (iconv makes it)", 2},
        {"[\0", "UTF-16 or UTF-32 text: JSON is UTF-8 (iconv makes it)", 2},
        {"\0{", "UTF-16 text: JSON is UTF-8 (iconv makes it)", 2},
        {"\0[", "UTF-16 text: JSON is UTF-8 (iconv makes it)", 2},
        {"\x1f\x8b", "compressed by gzip: unpack it first", 2},
        {"BZh", "compressed by bzip2: unpack it first", 3},
        {"\xfd"
         "7zXZ",
         "compressed by xz: unpack it first", 5},
        {"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first", 4},
        {"PK\3\4", "a zip archive: unpack it first", 4},
        {"\x89HDF", "an HDF5 file", 4},
        {"\x80\2", "a pickle", 2},
        {"\x80\3", "a pickle", 2},
        {"\x80\4", "a pickle", 2},
        {"\x80\5", "a pickle", 2},
        {"version https://git-lfs", "a pointer of Git LFS: git lfs pull fetches the file", 23},
        {"<", "HTML or XML", 1},
    };
    if (j->base || j->p - j->buffer > 1 || j->p > j->end) return NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if ((size_t)(j->end - j->buffer) >= known[i].n &&
            memcmp(j->buffer, known[i].magic, known[i].n) == 0)
            return known[i].name;
    return NULL;
}

/* Does a not-a-number or an infinity begin at p, as some language writes it? */
static bool is_nan_or_infinity(const uint8_t *p)
{
    p += *p == '-' || *p == '+';
    return !strncasecmp((const char *)p, "nan", 3) || !strncasecmp((const char *)p, "inf", 3);
}

/* The failure for a value at p that is not the `wanted` one. */
static mabn_status fail_here(struct mabn_json *j, const char *wanted)
{
    if (j->status) return j->status;
    const char *other = other_format(j);
    if (other)
        return fail_at(j, j->p, MABN_ERR_FORMAT, "expected %s, but this is %s", wanted, other);
    if (j->p >= j->end)
        return fail_at(j, j->p, MABN_ERR_FORMAT, "expected %s, found the end of the %s", wanted,
                       j->size ? "file (truncated?)" : "input");
    uint8_t c = *j->p;
    if (is_nan_or_infinity(j->p))
        return fail_at(j, j->p, MABN_ERR_FORMAT,
                       "expected %s, found NaN or Infinity, which JSON does not have", wanted);
    if (c > 32 && c < 127)
        return fail_at(j, j->p, MABN_ERR_FORMAT, "expected %s, found '%c'", wanted, c);
    return fail_at(j, j->p, MABN_ERR_FORMAT, "expected %s, found byte 0x%02x", wanted, c);
}

const char *mabn_json_kind_name(enum mabn_json_kind kind)
{
    static const char *const names[] = {"nothing",  "null",     "true or false", "a number",
                                        "a string", "an array", "an object"};
    return names[kind];
}

static mabn_status fail_kind(struct mabn_json *j, enum mabn_json_kind wanted)
{
    enum mabn_json_kind found = mabn_json_peek(j);
    if (found == MABN_JSON_ERROR || (found == MABN_JSON_NULL && is_nan_or_infinity(j->p)))
        return fail_here(j, mabn_json_kind_name(wanted));
    return mabn_json_fail(j, "expected %s, found %s", mabn_json_kind_name(wanted),
                          mabn_json_kind_name(found));
}

/* ---- values ---- */

void mabn_json_allow_nan(struct mabn_json *j)
{
    j->python = true;
}

/* Does one of Python's NaN, Infinity and -Infinity begin at p, with the byte c? */
static inline bool not_finite(const struct mabn_json *j, int c)
{
    return j->python && (c == 'N' || c == 'I' || (c == '-' && j->p[1] == 'I'));
}

enum mabn_json_kind mabn_json_peek(struct mabn_json *j)
{
    int c = peek_byte(j);
    if (j->status) return MABN_JSON_ERROR;
    j->value = j->p;
    switch (c) {
    case '{':
        return MABN_JSON_OBJECT;
    case '[':
        return MABN_JSON_ARRAY;
    case '"':
        return MABN_JSON_STRING;
    case 't':
    case 'f':
        return MABN_JSON_BOOL;
    case 'n':
        return MABN_JSON_NULL;
    case '-':
        return j->p[1] == 'I' && !j->python ? MABN_JSON_ERROR : MABN_JSON_NUMBER;
    default:
        return (c >= '0' && c <= '9') || not_finite(j, c) ? MABN_JSON_NUMBER : MABN_JSON_ERROR;
    }
}

/* Start of a value that must begin with `first`. */
static inline bool starts(struct mabn_json *j, int first)
{
    int c = peek_byte(j);
    j->value = j->p;
    return c == first && !j->status;
}

static mabn_status push(struct mabn_json *j, bool object)
{
    if (j->depth == MABN_JSON_MAX_DEPTH)
        return fail_at(j, j->p, MABN_ERR_LIMIT, "nested more than %d levels deep",
                       MABN_JSON_MAX_DEPTH);
    struct frame *f = &j->frames[j->depth++];
    f->object = object;
    f->fresh = true;
    f->index = -1;
    f->key_length = 0;
    j->p++;
    return MABN_OK;
}

mabn_status mabn_json_begin_object(struct mabn_json *j)
{
    if (!starts(j, '{')) return fail_kind(j, MABN_JSON_OBJECT);
    return push(j, true);
}

mabn_status mabn_json_begin_array(struct mabn_json *j)
{
    if (!starts(j, '[')) return fail_kind(j, MABN_JSON_ARRAY);
    return push(j, false);
}

bool mabn_json_next_item(struct mabn_json *j)
{
    int c = peek_byte(j);
    if (j->status) return false;
    struct frame *f = &j->frames[j->depth - 1];
    if (c == ']') {
        j->p++;
        j->depth--;
        return false;
    }
    if (!f->fresh) {
        if (c != ',') {
            fail_here(j, "',' or ']'");
            return false;
        }
        j->p++;
        if (mabn_json_peek(j) == MABN_JSON_ERROR) {
            fail_here(j, "a value");
            return false;
        }
    } else if (mabn_json_peek(j) == MABN_JSON_ERROR) {
        fail_here(j, "a value or ']'");
        return false;
    }
    f->fresh = false;
    f->index++;
    return true;
}

/* ---- strings ---- */

/* 0 when [s, s+n) is strict UTF-8. */
static int check_utf8(const uint8_t *s, size_t n)
{
    const uint8_t *end = s + n;
    while (s < end) {
        uint8_t c = *s++;
        if (c < 0x80) continue;
        int more = c >= 0xc2 && c <= 0xdf   ? 1
                   : (c & 0xf0) == 0xe0     ? 2
                   : c >= 0xf0 && c <= 0xf4 ? 3
                                            : 0;
        if (!more || end - s < more) return -1;
        uint8_t d = *s;
        if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
            (c == 0xf4 && d > 0x8f))
            return -1;
        for (; more; more--)
            if ((*s++ & 0xc0) != 0x80) return -1;
    }
    return 0;
}

/* First byte at or after p that ends a plain run: quote, backslash or control. *high gathers bytes
 * above 127, at least those of the run. */
static inline uint8_t *scan_plain(uint8_t *p, unsigned *high)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'),
                  control = _mm_set1_epi8(0x1f);
    for (;; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        __m128i stop =
            _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash)),
                         _mm_cmpeq_epi8(_mm_min_epu8(v, control), v));
        *high |= (unsigned)_mm_movemask_epi8(v);
        unsigned mask = (unsigned)_mm_movemask_epi8(stop);
        if (mask) return p + __builtin_ctz(mask);
    }
#else
    for (; *p != '"' && *p != '\\' && *p > 0x1f; p++)
        *high |= *p & 0x80;
    return p;
#endif
}

static int hex4(const uint8_t *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int c = p[i], d = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static uint8_t *put_utf8(uint8_t *out, int c)
{
    if (c < 0x80) {
        *out++ = (uint8_t)c;
    } else if (c < 0x800) {
        *out++ = (uint8_t)(0xc0 | c >> 6);
        *out++ = (uint8_t)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *out++ = (uint8_t)(0xe0 | c >> 12);
        *out++ = (uint8_t)(0x80 | (c >> 6 & 63));
        *out++ = (uint8_t)(0x80 | (c & 63));
    } else {
        *out++ = (uint8_t)(0xf0 | c >> 18);
        *out++ = (uint8_t)(0x80 | (c >> 12 & 63));
        *out++ = (uint8_t)(0x80 | (c >> 6 & 63));
        *out++ = (uint8_t)(0x80 | (c & 63));
    }
    return out;
}

/* One escape at p (the backslash): its character in *code; the end of the escape, NULL if bad.
 * *lone: half of a pair of surrogates, which is no character. */
static const uint8_t *read_escape(const uint8_t *p, int *code, bool *lone)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p[1] != 'u') {
        const char *at = p[1] ? strchr(from, p[1]) : NULL;
        if (!at) return NULL;
        *code = to[at - from];
        return p + 2;
    }
    int c = hex4(p + 2);
    if (c < 0) return NULL;
    p += 6;
    *lone = c >= 0xd800 && c <= 0xdfff;
    if (c >= 0xd800 && c <= 0xdbff && p[0] == '\\' && p[1] == 'u') {
        int low = hex4(p + 2);
        if (low >= 0xdc00 && low <= 0xdfff) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            *lone = false;
            p += 6;
        }
    }
    *code = c;
    return p;
}

/* Resolve the escapes of [from, to) into the scratch. */
static mabn_status unescape(struct mabn_json *j, const uint8_t *from, const uint8_t *to,
                            struct mabn_json_text *text)
{
    size_t n = (size_t)(to - from);
    if (n > j->scratch_capacity) {
        free(j->scratch);
        j->scratch_capacity = n + n / 2;
        j->scratch = mabn_xmalloc(j->scratch_capacity);
    }
    uint8_t *out = j->scratch;
    while (from < to) {
        if (*from != '\\') {
            *out++ = *from++;
            continue;
        }
        int code = 0;
        bool lone = false;
        const uint8_t *next = read_escape(from, &code, &lone);
        if (!next || next > to || (lone && !j->python))
            return fail_at(j, from, MABN_ERR_FORMAT, "bad escape in a string");
        if (lone) { /* stands as it is written */
            memcpy(out, from, 6);
            out += 6;
        } else {
            out = put_utf8(out, code);
        }
        from = next;
    }
    text->bytes = (const char *)j->scratch;
    text->length = (size_t)(out - j->scratch);
    return MABN_OK;
}

/* The string at p (its quote is there). want: give the text; else only check it. */
static mabn_status scan_string(struct mabn_json *j, struct mabn_json_text *text)
{
    uint8_t *start = j->p, *p = start + 1;
    unsigned high = 0;
    bool escapes = false;
    for (;;) {
        p = scan_plain(p, &high);
        if (*p == '"') break;
        bool split = p >= j->end || (*p == '\\' && p + 1 >= j->end);
        if (split && !j->eof) { /* the rest of it is still to come */
            size_t done = (size_t)(p - start);
            j->p = start;
            MABN_TRY(refill(j, start));
            start = j->p;
            p = start + done;
        } else if (split) {
            j->p = j->end;
            return fail_here(j, "the end of a string");
        } else if (*p == '\\') {
            escapes = true;
            p += 2;
        } else {
            return fail_at(j, p, MABN_ERR_FORMAT, "control character 0x%02x in a string", *p);
        }
    }
    j->p = p + 1;
    size_t n = (size_t)(p - start) - 1;
    if (high && check_utf8(start + 1, n))
        return fail_at(j, start, MABN_ERR_FORMAT, "string is not UTF-8");
    text->bytes = (const char *)start + 1;
    text->length = n;
    return escapes ? unescape(j, start + 1, p, text) : MABN_OK;
}

mabn_status mabn_json_read_string(struct mabn_json *j, struct mabn_json_text *text)
{
    if (!starts(j, '"')) return fail_kind(j, MABN_JSON_STRING);
    return scan_string(j, text);
}

mabn_status mabn_json_read_strdup(struct mabn_json *j, char **out)
{
    struct mabn_json_text text;
    MABN_TRY(mabn_json_read_string(j, &text));
    if (memchr(text.bytes, 0, text.length)) return mabn_json_fail(j, "zero character in a string");
    *out = mabn_xstrndup(text.bytes, text.length);
    return MABN_OK;
}

mabn_status mabn_json_read_word(struct mabn_json *j, int *value, const struct mabn_word *words,
                                const char *what)
{
    char *text = NULL;
    MABN_TRY(mabn_json_read_strdup(j, &text));
    mabn_status status = mabn_word_parse(value, words, what, text);
    free(text);
    if (!status) return MABN_OK;
    char *message = mabn_error_detach();
    status = mabn_json_fail(j, "%s", message);
    free(message);
    return status;
}

/* The next key, if it is like most: at most 15 plain bytes, behind a comma and perhaps a blank, and
 * before a colon. */
static inline bool next_plain_key(struct mabn_json *j, struct frame *f, struct mabn_json_text *key)
{
#ifdef __SSE2__
    uint8_t *p = j->p;
    if (j->end - p < MARGIN || (!f->fresh && *p++ != ',')) return false;
    p += *p == ' ';
    if (*p != '"') return false;
    const __m128i v = _mm_loadu_si128((const __m128i *)(p + 1));
    const __m128i stop = _mm_or_si128(
        _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'))),
        _mm_cmpgt_epi8(_mm_set1_epi8(' '), v)); /* and above 127 */
    const unsigned n = (unsigned)__builtin_ctz((unsigned)_mm_movemask_epi8(stop) | 0x10000);
    if (n == 16 || p[n + 1] != '"' || p[n + 2] != ':') return false;
    f->fresh = false;
    f->key_length = (uint8_t)n;
    _mm_storeu_si128((__m128i *)f->key, v);
    j->value = p;
    j->p = p + n + 3;
    key->bytes = (const char *)p + 1;
    key->length = n;
    return true;
#else
    (void)j;
    (void)f;
    (void)key;
    return false;
#endif
}

bool mabn_json_next_key(struct mabn_json *j, struct mabn_json_text *key)
{
    if (j->status) return false; /* perhaps in no object at all */
    struct frame *f = &j->frames[j->depth - 1];
    if (next_plain_key(j, f, key)) return true;
    int c = peek_byte(j);
    if (j->status) return false;
    if (c == '}') {
        j->p++;
        j->depth--;
        return false;
    }
    if (!f->fresh) {
        if (c != ',') {
            fail_here(j, "',' or '}'");
            return false;
        }
        j->p++;
        c = peek_byte(j);
    }
    j->value = j->p;
    if (c != '"') {
        fail_here(j, f->fresh ? "a key or '}'" : "a key");
        return false;
    }
    if (scan_string(j, key)) return false;
    f->fresh = false;
    f->key_length = (uint8_t)(key->length <= KEY_KEPT ? key->length : KEY_KEPT + 1);
    if (key->bytes != (const char *)j->scratch)
        memcpy(f->key, key->bytes, KEY_KEPT); /* the padding is readable */
    else
        memcpy(f->key, key->bytes, key->length <= KEY_KEPT ? key->length : KEY_KEPT);
    if (*j->p == ':') {
        j->p++;
        return true;
    }
    uint8_t *p = j->p;
    for (;;) {
        while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
            p++;
        if (p < j->end || j->eof) break;
        /* The key must outlive a refill: keep the window from it on. */
        bool here = key->bytes != (const char *)j->scratch;
        uint8_t *keep = here ? (uint8_t *)key->bytes : p;
        size_t at = (size_t)(p - keep);
        if (refill(j, keep)) return false;
        p = j->buffer + at;
        if (here) key->bytes = (const char *)j->buffer;
    }
    j->p = p;
    if (*p != ':') {
        fail_here(j, "':'");
        return false;
    }
    j->p++;
    return true;
}

/* ---- numbers ---- */

struct number {
    uint64_t digits;  /* all of them, as an integer, when `exact` */
    int64_t exponent; /* of ten */
    bool negative;
    bool exact; /* at most 19 digits */
    const uint8_t *start, *stop;
};

static inline bool is_digit(uint8_t c)
{
    return (uint8_t)(c - '0') <= 9;
}

#ifdef __SSE2__
/* Most numbers are DIGITS or DIGITS.DIGITS in at most 15 bytes. Counts the digits before and after the
 * point of such a number, without a loop. False for anything else: a longer number, one with a sign
 * or an exponent, no number. */
static inline bool short_number(const uint8_t *p, unsigned *whole, unsigned *fraction)
{
    __m128i v = _mm_sub_epi8(_mm_loadu_si128((const __m128i *)p), _mm_set1_epi8('0'));
    __m128i digit = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(9)), v);
    unsigned others = ~(unsigned)_mm_movemask_epi8(digit); /* bits above 15 are set */
    unsigned n = (unsigned)__builtin_ctz(others), k = 0, end = n;
    if (p[n] == '.') {
        k = (unsigned)__builtin_ctz(others >> (n + 1));
        end = n + 1 + k;
        if (k == 0) return false;
    }
    *whole = n;
    *fraction = k;
    return n > 0 && end < 16 && (*p != '0' || n == 1) && (p[end] | 32) != 'e';
}

/* The number of the first n digits, 1 to 8, in the bytes of w. */
static inline uint64_t few_digits(uint64_t w, unsigned n)
{
    const uint64_t odd = 0x000f000f000f000f, quarter = 0x000000ff000000ff;
    w <<= 64 - 8 * n; /* zeros in front; the last digit is the highest byte */
    w = (w & odd) * 10 + (w >> 8 & odd);
    w = (w & quarter) * 100 + (w >> 16 & quarter);
    return (w & 0xffff) * 10000 + (w >> 32);
}
#endif

/* The number at p, by JSON's grammar; out->stop NULL: none begins there. */
static inline void scan_number(const uint8_t *p, struct number *out)
{
    uint64_t w = 0;
    int64_t exponent = 0;
    out->start = p;
    out->stop = NULL;
    out->negative = *p == '-';
    p += out->negative;
    const uint8_t *first = p;
    while (is_digit(*p))
        w = w * 10 + (uint64_t)(*p++ - '0');
    ptrdiff_t count = p - first;
    if (count == 0 || (*first == '0' && count > 1)) return;
    if (*p == '.') {
        const uint8_t *fraction = ++p;
        while (is_digit(*p))
            w = w * 10 + (uint64_t)(*p++ - '0');
        if (p == fraction) return;
        exponent = fraction - p;
        count += p - fraction;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        bool minus = *p == '-';
        p += minus || *p == '+';
        if (!is_digit(*p)) return;
        int64_t e = 0;
        for (; is_digit(*p); p++)
            if (e < 100000) e = e * 10 + (*p - '0');
        exponent += minus ? -e : e;
    }
    out->digits = w;
    out->exponent = exponent;
    out->exact = count <= 19;
    out->stop = p;
}

static const uint64_t powers_of_ten[20] = {
    1u,
    10u,
    100u,
    1000u,
    10000u,
    100000u,
    1000000u,
    10000000u,
    100000000u,
    1000000000u,
    10000000000u,
    100000000000u,
    1000000000000u,
    10000000000000u,
    100000000000000u,
    1000000000000000u,
    10000000000000000u,
    100000000000000000u,
    1000000000000000000u,
    10000000000000000000u,
};

static double slow_double(const struct number *n)
{
    static locale_t c_locale;
    locale_t locale = __atomic_load_n(&c_locale, __ATOMIC_ACQUIRE);
    if (!locale) { /* two threads may both make one; it is kept for good */
        locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
        __atomic_store_n(&c_locale, locale, __ATOMIC_RELEASE);
    }
    char text[MARGIN + 1]; /* strtod wants an end */
    size_t length = (size_t)(n->stop - n->start);
    memcpy(text, n->start, length);
    text[length] = 0;
    return strtod_l(text, NULL, locale);
}

/* digits / 10^q, correctly rounded: a 64-bit quotient with more than 53 good bits, and whether
 * anything remains behind it. */
static double divide_exactly(uint64_t w, int q)
{
    uint64_t d = powers_of_ten[q];
    int shift_w = __builtin_clzll(w), shift_d = __builtin_clzll(d);
    unsigned __int128 n = (unsigned __int128)(w << shift_w) << 63;
    uint64_t divisor = d << shift_d;
    uint64_t quotient = (uint64_t)(n / divisor);
    bool rest = n % divisor != 0;
    /* value = quotient * 2^(shift_d - shift_w - 63), 2^62 < quotient < 2^64 */
    int drop = quotient >> 63 ? 11 : 10;
    uint64_t mantissa = quotient >> drop, tail = quotient & ((1u << drop) - 1);
    uint64_t half = (uint64_t)1 << (drop - 1);
    if (tail > half || (tail == half && (rest || (mantissa & 1)))) mantissa++;
    return ldexp((double)mantissa, shift_d - shift_w - 63 + drop);
}

static double to_double(const struct number *n)
{
    /* Both operands exact, so one rounding. */
    if (n->exact && n->digits <= (uint64_t)1 << 53 && n->exponent >= -19 && n->exponent <= 0) {
        static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,
                                        1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19};
        double v = (double)n->digits / powers[-n->exponent];
        return n->negative ? -v : v;
    }
    if (n->exact && n->exponent >= -19 && n->exponent <= 0) {
        double v = divide_exactly(n->digits, (int)-n->exponent);
        return n->negative ? -v : v;
    }
    return slow_double(n);
}

/* The same, only if a short number begins at p. */
static inline __attribute__((always_inline)) bool scan_short(const uint8_t *p, struct number *out)
{
#ifdef __SSE2__
    static const uint32_t powers[9] = {1,      10,      100,      1000,     10000,
                                       100000, 1000000, 10000000, 100000000};
    unsigned whole, fraction;
    if (!short_number(p, &whole, &fraction) || whole > 8 || fraction > 8) return false;
    uint64_t w, after;
    memcpy(&w, p, 8);
    if (fraction == 0) {
        w = few_digits(w, whole);
    } else if (whole + fraction < 8) { /* close up over the point */
        const uint64_t front = ((uint64_t)1 << 8 * whole) - 1;
        w = few_digits((w & front) | (w >> 8 & ~front), whole + fraction);
    } else {
        memcpy(&after, p + whole + 1, 8);
        w = few_digits(w, whole) * powers[fraction] + few_digits(after, fraction);
    }
    out->start = p;
    out->stop = p + whole + (fraction ? fraction + 1 : 0);
    out->digits = w;
    out->exponent = -(int64_t)fraction;
    out->negative = false;
    out->exact = true;
    return true;
#else
    (void)p;
    (void)out;
    return false;
#endif
}

/* The double of such a number: its digits are fewer than 2^53, so there is one rounding. */
static inline double short_double(const struct number *n)
{
    static const double powers[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8};
    return (double)n->digits / powers[-n->exponent];
}

static mabn_status read_number(struct mabn_json *j, struct number *n)
{
    int c = peek_byte(j);
    j->value = j->p;
    if (scan_short(j->p, n)) { /* no window ends within 15 bytes */
        j->p = (uint8_t *)n->stop;
        return MABN_OK;
    }
    if (j->status) return j->status;
    if (not_finite(j, c)) return fail_here(j, "a number");
    if (!is_digit((uint8_t)c) && c != '-') return fail_kind(j, MABN_JSON_NUMBER);
    scan_number(j->p, n);
    if (!n->stop) {
        if (is_nan_or_infinity(j->p)) return fail_here(j, "a number");
        return mabn_json_fail(j, "malformed number");
    }
    if (n->stop - n->start >= MARGIN)
        return fail_at(j, j->p, MABN_ERR_LIMIT, "number of more than %d characters", MARGIN - 1);
    j->p = (uint8_t *)n->stop;
    return MABN_OK;
}

/* The number that comes next, if it is a short one. */
static inline bool next_short(struct mabn_json *j, struct number *n)
{
    uint8_t *p = j->p;
    p += *p == ' ';
    if (j->end - p < MARGIN || !scan_short(p, n)) return false;
    j->value = p;
    j->p = (uint8_t *)n->stop;
    return true;
}

mabn_status mabn_json_read_double(struct mabn_json *j, double *out)
{
    struct number n;
    if (next_short(j, &n)) {
        *out = short_double(&n);
        return MABN_OK;
    }
    MABN_TRY(read_number(j, &n));
    double v = to_double(&n);
    if (!isfinite(v)) return mabn_json_fail(j, "number is too large for a double");
    *out = v;
    return MABN_OK;
}

/* NULL, or why the number is not a whole one of 64 bits. */
static const char *to_int64(const struct number *n, int64_t *out)
{
    int64_t e = n->exponent;
    uint64_t w = n->digits;
    if (n->exact && w == 0) {
        *out = 0;
        return NULL;
    }
    if (!n->exact || e < -19 || e > 19) return "expected a whole number of at most 64 bits";
    if (e < 0 && w % powers_of_ten[-e]) return "expected a whole number";
    if (e < 0) w /= powers_of_ten[-e];
    if ((e > 0 && __builtin_mul_overflow(w, powers_of_ten[e], &w)) ||
        w > (uint64_t)INT64_MAX + n->negative)
        return "number does not fit 64 bits";
    *out = (int64_t)(n->negative ? 0 - w : w);
    return NULL;
}

mabn_status mabn_json_read_int64(struct mabn_json *j, int64_t *out)
{
    struct number n;
    MABN_TRY(read_number(j, &n));
    const char *why = to_int64(&n, out);
    return why ? mabn_json_fail(j, "%s", why) : MABN_OK;
}

mabn_status mabn_json_read_id(struct mabn_json *j, int64_t *out, struct mabn_json_text *text)
{
    struct number n;
    text->bytes = NULL;
    text->length = 0;
    if (!next_short(j, &n)) {
        if (peek_byte(j) == '"') return mabn_json_read_string(j, text);
        enum mabn_json_kind kind = is_digit(*j->p) ? MABN_JSON_NUMBER : mabn_json_peek(j);
        if (kind != MABN_JSON_NUMBER && kind != MABN_JSON_ERROR)
            return mabn_json_fail(j, "expected a number or a string, found %s",
                                  mabn_json_kind_name(kind));
        MABN_TRY(read_number(j, &n));
    }
    if (!to_int64(&n, out)) return MABN_OK;
    text->bytes = (const char *)n.start;
    text->length = (size_t)(n.stop - n.start);
    return MABN_OK;
}

bool mabn_json_try_double(struct mabn_json *j, double *out)
{
    struct number n;
    if (next_short(j, &n)) {
        *out = short_double(&n);
        return true;
    }
    int c = peek_byte(j);
    if (j->status) return false;
    if ((!is_digit((uint8_t)c) && c != '-') || not_finite(j, c)) {
        mabn_json_skip(j);
        return false;
    }
    if (read_number(j, &n)) return false;
    double v = to_double(&n);
    if (isfinite(v)) *out = v;
    return isfinite(v);
}

mabn_status mabn_json_read_int(struct mabn_json *j, int *out, int low, int high)
{
    int64_t v;
    MABN_TRY(mabn_json_read_int64(j, &v));
    if (v < low || v > high)
        return mabn_json_fail(j, "expected a number in [%d, %d], found %lld", low, high,
                              (long long)v);
    *out = (int)v;
    return MABN_OK;
}

/* ---- literals ---- */

static mabn_status read_literal(struct mabn_json *j, const char *word)
{
    size_t n = strlen(word);
    if (j->status) return j->status;
    if (memcmp(j->p, word, n) != 0) return fail_here(j, "a value");
    j->p += n;
    return MABN_OK;
}

mabn_status mabn_json_read_bool(struct mabn_json *j, bool *out)
{
    int c = peek_byte(j);
    j->value = j->p;
    if (c != 't' && c != 'f') return fail_kind(j, MABN_JSON_BOOL);
    MABN_TRY(read_literal(j, c == 't' ? "true" : "false"));
    *out = c == 't';
    return MABN_OK;
}

mabn_status mabn_json_read_null(struct mabn_json *j)
{
    if (!starts(j, 'n')) return fail_kind(j, MABN_JSON_NULL);
    return read_literal(j, "null");
}

/* ---- conveniences ---- */

mabn_status mabn_json_read_doubles(struct mabn_json *j, double *out, size_t n)
{
    size_t found = 0;
    MABN_TRY(mabn_json_begin_array(j));
    uint8_t *start = j->value;
    uint64_t base = j->base;
    while (mabn_json_next_item(j)) {
        if (found < n)
            MABN_TRY(mabn_json_read_double(j, &out[found]));
        else
            MABN_TRY(mabn_json_skip(j));
        found++;
    }
    if (j->base == base) j->value = start;
    if (!j->status && found != n)
        return mabn_json_fail(j, "expected %zu numbers, found %zu", n, found);
    return j->status;
}

mabn_status mabn_json_read_int64s(struct mabn_json *j, int64_t *out, size_t n)
{
    size_t found = 0;
    MABN_TRY(mabn_json_begin_array(j));
    while (mabn_json_next_item(j)) {
        if (found < n)
            MABN_TRY(mabn_json_read_int64(j, &out[found]));
        else
            MABN_TRY(mabn_json_skip(j));
        found++;
    }
    if (!j->status && found != n)
        return mabn_json_fail(j, "expected %zu numbers, found %zu", n, found);
    return j->status;
}

/* In an array, when a comma and a short number come next: that number. The shortcut of long lists. */
static inline bool next_plain(struct mabn_json *j, struct number *out)
{
    uint8_t *p = j->p;
    if (*p != ',' || j->end - p < MARGIN) return false;
    p += 1 + (p[1] == ' ');
    if (!scan_short(p, out)) return false;
    j->frames[j->depth - 1].index++;
    j->value = p;
    j->p = (uint8_t *)out->stop;
    return true;
}

bool mabn_json_try_doubles(struct mabn_json *j, double *out, size_t n)
{
    struct number number;
    uint8_t *p = j->p;
    p += *p == ' ';
    uint8_t *start = p;
    if ((size_t)(j->end - p) < MARGIN + 20 * n || *p++ != '[') return false;
    for (size_t i = 0; i < n; i++) {
        if (i && *p++ != ',') return false;
        p += *p == ' ';
        if (!scan_short(p, &number)) return false;
        out[i] = short_double(&number);
        p = (uint8_t *)number.stop;
    }
    if (*p != ']') return false;
    j->value = start;
    j->p = p + 1;
    return true;
}

mabn_status mabn_json_append_finite(struct mabn_json *j, double **items, size_t *count,
                                    size_t *capacity, size_t *odd)
{
    double *array = *items;
    size_t n = *count, room = *capacity;
    mabn_json_begin_array(j);
    while (mabn_json_next_item(j)) {
        MABN_GROW(array, n, room);
        if (mabn_json_try_double(j, &array[n]))
            n++;
        else if (!j->status)
            ++*odd;
        else
            break;
        struct number plain;
        while (next_plain(j, &plain)) {
            MABN_GROW(array, n, room);
            array[n++] = short_double(&plain);
        }
    }
    *items = array;
    *capacity = room;
    if (!j->status) *count = n;
    return j->status;
}

/* ---- skipping ---- */

static inline mabn_status skip_number(struct mabn_json *j)
{
    struct number n;
#ifdef __SSE2__
    unsigned whole, fraction;
    if (short_number(j->p, &whole, &fraction)) {
        j->p += whole + (fraction ? fraction + 1 : 0);
        return MABN_OK;
    }
#endif
    return read_number(j, &n);
}

/* A number, string or literal at p, where c stands. */
static mabn_status skip_scalar(struct mabn_json *j, int c)
{
    struct mabn_json_text text;
    switch (c) {
    case '"':
        return scan_string(j, &text);
    case 't':
        return read_literal(j, "true");
    case 'f':
        return read_literal(j, "false");
    case 'n':
        return read_literal(j, "null");
    default:
        if (not_finite(j, c))
            return read_literal(j, c == 'N' ? "NaN" : c == 'I' ? "Infinity" : "-Infinity");
        if (c != '-' && !is_digit((uint8_t)c)) return fail_here(j, "a value");
        return skip_number(j);
    }
}

/* In an array, before a comma: pass over short numbers, each behind a comma. */
static void skip_plain(struct mabn_json *j)
{
#ifdef __SSE2__
    unsigned whole, fraction;
    uint8_t *p = j->p;
    for (;;) {
        uint8_t *number = p + 1 + (p[1] == ' ');
        if (*p != ',' || j->end - p < MARGIN || !short_number(number, &whole, &fraction)) break;
        p = number + whole + (fraction ? fraction + 1 : 0);
    }
    j->p = p;
#else
    (void)j;
#endif
}

mabn_status mabn_json_skip(struct mabn_json *j)
{
    uint64_t object[MABN_JSON_MAX_DEPTH / 64] = {0}; /* one bit a level: object, else array */
    int depth = 0;
    const int room = MABN_JSON_MAX_DEPTH - j->depth;

value:;
    int c = peek_byte(j);
    j->value = j->p;
    if (j->status) return j->status;
    if (c == '[' || c == '{') {
        if (depth == room)
            return fail_at(j, j->p, MABN_ERR_LIMIT, "nested more than %d levels deep",
                           MABN_JSON_MAX_DEPTH);
        uint64_t bit = (uint64_t)1 << depth % 64;
        object[depth / 64] = c == '{' ? object[depth / 64] | bit : object[depth / 64] & ~bit;
        depth++;
        j->p++;
        if (peek_byte(j) == c + 2) { /* '[' + 2 = ']', '{' + 2 = '}' */
            j->p++;
            depth--;
            goto after;
        }
        if (c == '{') goto key;
        goto value;
    }
    MABN_TRY(skip_scalar(j, c));

after:
    if (depth == 0) return j->status;
    c = peek_byte(j);
    bool in_object = object[(depth - 1) / 64] >> (depth - 1) % 64 & 1;
    if (c == ',') {
        if (!in_object) skip_plain(j);
        if (*j->p != ',') goto after;
        j->p++;
        if (in_object) goto key;
        goto value;
    }
    if (c != (in_object ? '}' : ']')) return fail_here(j, in_object ? "',' or '}'" : "',' or ']'");
    j->p++;
    depth--;
    goto after;

key:
    if (peek_byte(j) != '"') return fail_here(j, "a key");
    struct mabn_json_text text;
    MABN_TRY(scan_string(j, &text));
    if (peek_byte(j) != ':') return fail_here(j, "':'");
    j->p++;
    goto value;
}

/* ---- documents ---- */

bool mabn_json_next_document(struct mabn_json *j)
{
    peek_slow(j);
    j->value = j->p;
    return !j->status && j->p < j->end;
}

mabn_status mabn_json_end(struct mabn_json *j)
{
    if (mabn_json_next_document(j)) return fail_here(j, "the end of the input");
    return j->status;
}

mabn_status mabn_json_status(const struct mabn_json *j)
{
    return j->status;
}

uint64_t mabn_json_line(struct mabn_json *j)
{
    if (!j->status) count_lines(j, j->value);
    return j->line;
}

uint64_t mabn_json_offset(const struct mabn_json *j)
{
    return j->base + (uint64_t)(j->p - j->buffer);
}

uint64_t mabn_json_size(const struct mabn_json *j)
{
    return j->size;
}
