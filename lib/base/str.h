/* A growing string. Invariant: after _init, `text` is never NULL and always NUL-terminated at
 * text[length]; it may point to static storage, so never free it: use _release or _detach. */
#ifndef MABN_BASE_STR_H
#define MABN_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_str {
    char *text;
    size_t length;
    size_t capacity; /* 0: text is the static empty string */
};

void mabn_str_init(struct mabn_str *s);
void mabn_str_release(struct mabn_str *s);
void mabn_str_clear(struct mabn_str *s);   /* length 0, keeps the storage */
char *mabn_str_detach(struct mabn_str *s); /* malloc'd text, caller frees; s is as after _init */

void mabn_str_add(struct mabn_str *s, const char *text);
void mabn_str_add_bytes(struct mabn_str *s, const void *bytes, size_t n);
void mabn_str_add_char(struct mabn_str *s, char c);
void mabn_str_printf(struct mabn_str *s, const char *format, ...) MABN_PRINTF(2, 3);

/* Append `text` as a JSON string, quotes included; bytes that are not UTF-8 become U+FFFD. */
void mabn_str_add_json(struct mabn_str *s, const char *text);
/* Are two texts the same JSON string? One that was read from JSON has lost what was not UTF-8. */
bool mabn_same_in_json(const char *a, const char *b);
/* Append one word as a POSIX shell would need it, quoted where necessary. */
void mabn_str_add_shell(struct mabn_str *s, const char *word);
/* Append a double in the shortest form that reads back exactly; NaN and infinities become null. */
void mabn_str_add_double(struct mabn_str *s, double value);
/* The same for a float (shortest that reads back as the same float). */
void mabn_str_add_float(struct mabn_str *s, float value);

MABN_END_DECLS
#endif
