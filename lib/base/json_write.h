/* Writes JSON text value by value to a string; the writer adds commas, quotes and brackets.
 *
 *     struct mabn_json_writer w;
 *     mabn_json_writer_init(&w, &text);
 *     mabn_json_put_object(&w, NULL);
 *     mabn_json_put_int(&w, "images", 50000);
 *     mabn_json_put_end(&w);                       {"images":50000}
 *
 * In an object each value has a key; in an array, and at the top, the key is NULL. A missing key or
 * end is a bug (MABN_BUG). Values at the top follow each other without a separator. The writer keeps
 * no text of its own: the caller may empty the string at any time, between two values too.
 *
 * Text is compact, unless `spaced` asks for a space after commas and colons, and mabn_json_put_line
 * for new lines. */
#ifndef MABN_BASE_JSON_WRITE_H
#define MABN_BASE_JSON_WRITE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

MABN_BEGIN_DECLS

enum { MABN_JSON_WRITE_DEPTH = 32 };

struct mabn_json_writer {
    struct mabn_str *out; /* borrowed */
    int depth;
    bool comma;  /* before the next value */
    bool spaced; /* ", " and ": " */
    int line; /* spaces at the start of the line that the next value or end begins; -1: no line */
    char ends[MABN_JSON_WRITE_DEPTH];
};

void mabn_json_writer_init(struct mabn_json_writer *w, struct mabn_str *out);
void mabn_json_writer_init_spaced(struct mabn_json_writer *w, struct mabn_str *out);

void mabn_json_put_object(struct mabn_json_writer *w, const char *key);
void mabn_json_put_array(struct mabn_json_writer *w, const char *key);
void mabn_json_put_end(struct mabn_json_writer *w); /* of the innermost object or array */

/* The next value, or the next end, begins a line, after so many spaces. */
void mabn_json_put_line(struct mabn_json_writer *w, int indent);

/* Bytes that are not UTF-8 become U+FFFD; text NULL: null. */
void mabn_json_put_string(struct mabn_json_writer *w, const char *key, const char *text);
void mabn_json_put_int(struct mabn_json_writer *w, const char *key, int64_t value);
void mabn_json_put_bool(struct mabn_json_writer *w, const char *key, bool value);
void mabn_json_put_null(struct mabn_json_writer *w, const char *key);
/* The shortest text that reads back exactly; NaN and infinities become null. */
void mabn_json_put_double(struct mabn_json_writer *w, const char *key, double value);
void mabn_json_put_float(struct mabn_json_writer *w, const char *key, float value);
void mabn_json_put_doubles(struct mabn_json_writer *w, const char *key, const double *values,
                           int count); /* an array */
/* Rounded to that many significant digits. */
void mabn_json_put_rounded(struct mabn_json_writer *w, const char *key, double value, int digits);
/* A value that is already JSON. */
void mabn_json_put_raw(struct mabn_json_writer *w, const char *key, const char *json);
/* All members of an object that is already JSON and not empty. */
void mabn_json_put_members(struct mabn_json_writer *w, const char *object);

MABN_END_DECLS
#endif
