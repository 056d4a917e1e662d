/* The words of an enum: one table gives its names, its parser and its list.
 *
 *     static const struct mabn_word stems[] = {{STEM_LARGE, "large"}, {STEM_SMALL, "small"}, {0}};
 *
 * A table ends with a NULL word. Several words may have the same value; the first is its name. The
 * error for an unknown word is the same everywhere: unknown stem 'huge': expected large, small */
#ifndef MABN_BASE_WORDS_H
#define MABN_BASE_WORDS_H

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"

MABN_BEGIN_DECLS

struct mabn_word {
    int value;
    const char *word;
};

/* The value of a word. If it is not in the table: MABN_ERR_ARG, with a message that lists the
 * table; `what` names the kind of word ("stem"). */
MABN_MUST_USE mabn_status mabn_word_parse(int *value, const struct mabn_word *words,
                                          const char *what, const char *text);
/* The error for a word that is none of `expected`, a list: for sets of words that are no table. */
MABN_MUST_USE mabn_status mabn_word_unknown(const char *what, const char *text,
                                            const char *expected);
/* The first word with this value; "?" when there is none. */
const char *mabn_word_name(const struct mabn_word *words, int value);
/* All words of the table, in its order. */
void mabn_word_list(struct mabn_str *out, const struct mabn_word *words, const char *separator);

MABN_END_DECLS
#endif
