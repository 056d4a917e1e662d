#include "base/words.h"

#include <string.h>

/* False, and *value as it was, when it is none of them. */
static bool find(int *value, const struct mabn_word *words, const char *text)
{
    for (; words->word; words++)
        if (!strcmp(words->word, text)) {
            *value = words->value;
            return true;
        }
    return false;
}

const char *mabn_word_name(const struct mabn_word *words, int value)
{
    for (; words->word; words++)
        if (words->value == value) return words->word;
    return "?";
}

void mabn_word_list(struct mabn_str *out, const struct mabn_word *words, const char *separator)
{
    for (const struct mabn_word *w = words; w->word; w++)
        mabn_str_printf(out, "%s%s", w == words ? "" : separator, w->word);
}

mabn_status mabn_word_parse(int *value, const struct mabn_word *words, const char *what,
                            const char *text)
{
    if (find(value, words, text)) return MABN_OK;
    struct mabn_str list;
    mabn_str_init(&list);
    mabn_word_list(&list, words, ", ");
    mabn_status status = mabn_word_unknown(what, text, list.text);
    mabn_str_release(&list);
    return status;
}

mabn_status mabn_word_unknown(const char *what, const char *text, const char *expected)
{
    return mabn_fail(MABN_ERR_ARG, "unknown %s '%s': expected %s", what, text, expected);
}
