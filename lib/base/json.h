/* A pull parser for JSON: the caller asks for what it expects, in the order of the file, and skips
 * the rest. The reader stores nothing, so a file of any size (or a pipe) is read through one small
 * window, which grows only for a string that is longer.
 *
 * Strict: RFC 8259 grammar (also in what is skipped), UTF-8 without overlong forms or surrogates,
 * no NaN (unless allowed), no trailing commas, nesting up to MABN_JSON_MAX_DEPTH. No recursion. Numbers are read
 * exactly: correctly rounded doubles, independent of the locale, and 64-bit integers.
 *
 * Errors are sticky: the first one is recorded with file, line, column and JSON path
 *     'ann.json':918:17: annotations[3].bbox[1]: expected a number, found a string
 * and every later call returns the same status, so that loops need no check inside:
 *
 *     MABN_TRY(mabn_json_open(&j, path));
 *     mabn_json_begin_object(j);
 *     while (mabn_json_next_key(j, &key)) {
 *         if (mabn_json_is(key, "id")) mabn_json_read_int64(j, &id);
 *         else mabn_json_skip(j);
 *     }
 *     status = mabn_json_end(j);   // the sticky status, or "something follows"
 *     mabn_json_free(j);
 *
 * Every value must be read or skipped before the next key or item is asked for.
 * JSON Lines: while (mabn_json_next_document(j)) { ...one value... } then mabn_json_status(j).  */
#ifndef MABN_BASE_JSON_H
#define MABN_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/status.h"
#include "base/words.h"

MABN_BEGIN_DECLS

enum { MABN_JSON_MAX_DEPTH = 128 };

/* A larger string is refused (MABN_ERR_LIMIT). */
#define MABN_JSON_MAX_STRING ((size_t)1 << 30)

enum mabn_json_kind {
    MABN_JSON_ERROR, /* no value here: a syntax error (recorded) or the end of the input */
    MABN_JSON_NULL,
    MABN_JSON_BOOL,
    MABN_JSON_NUMBER,
    MABN_JSON_STRING,
    MABN_JSON_ARRAY,
    MABN_JSON_OBJECT,
};

/* Bytes of a key or string, escapes resolved, valid UTF-8; *not* NUL-terminated; borrowed from the
 * reader until its next call. May hold zero bytes (\u0000). */
struct mabn_json_text {
    const char *bytes;
    size_t length;
};

static inline bool mabn_json_is(struct mabn_json_text text, const char *literal)
{
    size_t n = strlen(literal);
    return text.length == n && memcmp(text.bytes, literal, n) == 0;
}

struct mabn_json;

/* Read a file, or standard input when path is "-". */
MABN_MUST_USE mabn_status mabn_json_open(struct mabn_json **out, const char *path);
/* Read from a descriptor (not closed by _free); `name` is for messages (copied). */
struct mabn_json *mabn_json_new_fd(int fd, const char *name);
/* Read bytes in memory (borrowed until _free). */
struct mabn_json *mabn_json_new_bytes(const void *bytes, size_t size, const char *name);
void mabn_json_free(struct mabn_json *j); /* NULL is fine */

/* Take what Python writes and JSON does not have: NaN, Infinity and -Infinity are numbers that are
 * not finite, passed over where no number is needed, and errors where one is; half a pair of
 * surrogates, which Python makes of file names that are not UTF-8, keeps its escape (\udce9). */
void mabn_json_allow_nan(struct mabn_json *j);

/* Kind of the value that comes next. */
enum mabn_json_kind mabn_json_peek(struct mabn_json *j);
const char *mabn_json_kind_name(enum mabn_json_kind kind); /* "a number", "an object", … */

/* Objects and arrays. next_*: true when a key was read or an item waits; false when the container
 * was closed, or on an error. */
mabn_status mabn_json_begin_object(struct mabn_json *j);
bool mabn_json_next_key(struct mabn_json *j, struct mabn_json_text *key);
mabn_status mabn_json_begin_array(struct mabn_json *j);
bool mabn_json_next_item(struct mabn_json *j);

/* Read the next value, which must be of this kind. On an error *out is unchanged. */
mabn_status mabn_json_read_string(struct mabn_json *j, struct mabn_json_text *text);
mabn_status mabn_json_read_double(struct mabn_json *j, double *out);
/* Whole numbers only; 3.0 and 1e2 are whole. */
mabn_status mabn_json_read_int64(struct mabn_json *j, int64_t *out);
/* A whole number in [low, high]. */
mabn_status mabn_json_read_int(struct mabn_json *j, int *out, int low, int high);
mabn_status mabn_json_read_bool(struct mabn_json *j, bool *out);
mabn_status mabn_json_read_null(struct mabn_json *j);
/* The next value of any kind: true and the number if it is a finite number; otherwise it is skipped
 * (its grammar is checked) and *out is unchanged. */
bool mabn_json_try_double(struct mabn_json *j, double *out);
/* A whole number of 64 bits goes to *out, and text->bytes is NULL; a string, or another number as
 * written, goes to *text. Other kinds are errors. */
mabn_status mabn_json_read_id(struct mabn_json *j, int64_t *out, struct mabn_json_text *text);

/* A string as a new C string, which the caller frees; \u0000 is refused. */
mabn_status mabn_json_read_strdup(struct mabn_json *j, char **out);
/* A string that is one of `words`; `what` names them in the error (base/words.h). On an error
 * *value stays as it was. */
mabn_status mabn_json_read_word(struct mabn_json *j, int *value, const struct mabn_word *words,
                                const char *what);
/* An array of exactly n numbers (a box, a shape). */
mabn_status mabn_json_read_doubles(struct mabn_json *j, double *out, size_t n);
mabn_status mabn_json_read_int64s(struct mabn_json *j, int64_t *out, size_t n);
/* When the next value is an array of exactly n numbers (n > 0) in a common and short form, read it.
 * false tells nothing: the value still waits, to be read in another way; *out may have been written. */
bool mabn_json_try_doubles(struct mabn_json *j, double *out, size_t n);
/* An array of numbers appended to a growing one (MABN_GROW's fields; free(*items) in the end). Items
 * that are not finite numbers are skipped; *odd counts them. */
mabn_status mabn_json_append_finite(struct mabn_json *j, double **items, size_t *count,
                                    size_t *capacity, size_t *odd);

/* Skip the next value of any kind; its grammar is checked. */
mabn_status mabn_json_skip(struct mabn_json *j);

/* Is there another document, in a file of several (JSON Lines)? False at the end of the input or on
 * an error. To be called between documents only. */
bool mabn_json_next_document(struct mabn_json *j);
/* The document is done: nothing but white space may follow. Returns the sticky status. */
mabn_status mabn_json_end(struct mabn_json *j);
mabn_status mabn_json_status(const struct mabn_json *j);

/* Record an error about the value that was read last or comes next, with the same prefix of file,
 * line, column and path. Sticky; returns MABN_ERR_FORMAT. An earlier error is kept. */
mabn_status mabn_json_fail(struct mabn_json *j, const char *format, ...) MABN_PRINTF(2, 3);

/* The position: the line (from 1) of the value that was read last or comes next, and the bytes
 * consumed so far (for progress). */
uint64_t mabn_json_line(struct mabn_json *j);
uint64_t mabn_json_offset(const struct mabn_json *j);
/* Size of the input in bytes, 0 when not known (a pipe). */
uint64_t mabn_json_size(const struct mabn_json *j);

MABN_END_DECLS
#endif
