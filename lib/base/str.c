#include "base/str.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static char empty[1];

void mabn_str_init(struct mabn_str *s)
{
    s->text = empty;
    s->length = s->capacity = 0;
}

void mabn_str_release(struct mabn_str *s)
{
    if (s->capacity) free(s->text);
    mabn_str_init(s);
}

void mabn_str_clear(struct mabn_str *s)
{
    s->length = 0;
    if (s->capacity) s->text[0] = '\0';
}

char *mabn_str_detach(struct mabn_str *s)
{
    char *text = s->capacity ? s->text : mabn_xstrdup("");
    mabn_str_init(s);
    return text;
}

static void reserve(struct mabn_str *s, size_t more)
{
    size_t need;
    if (!mabn_size_add(s->length, more, &need) || !mabn_size_add(need, 1, &need))
        MABN_BUG("string of impossible size");
    if (need <= s->capacity) return;
    size_t capacity = s->capacity ? s->capacity : 32;
    while (capacity < need)
        capacity = capacity > SIZE_MAX / 2 ? need : 2 * capacity;
    s->text = (char *)mabn_xrealloc(s->capacity ? s->text : NULL, capacity);
    s->capacity = capacity;
}

void mabn_str_add_bytes(struct mabn_str *s, const void *bytes, size_t n)
{
    if (!n) return;
    reserve(s, n);
    memcpy(s->text + s->length, bytes, n);
    s->length += n;
    s->text[s->length] = '\0';
}

void mabn_str_add(struct mabn_str *s, const char *text)
{
    mabn_str_add_bytes(s, text, strlen(text));
}

void mabn_str_add_char(struct mabn_str *s, char c)
{
    mabn_str_add_bytes(s, &c, 1);
}

void mabn_str_printf(struct mabn_str *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) MABN_BUG("bad format '%s'", format);
    reserve(s, (size_t)n);
    va_start(args, format);
    vsnprintf(s->text + s->length, (size_t)n + 1, format, args);
    va_end(args);
    s->length += (size_t)n;
}

/* Length of the UTF-8 sequence at p (up to n bytes), 0 when it is not one: no overlong forms, no
 * surrogates, nothing above U+10FFFF. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = p[0] < 0x80             ? 1
                    : (p[0] & 0xe0) == 0xc0 ? 2
                    : (p[0] & 0xf0) == 0xe0 ? 3
                    : (p[0] & 0xf8) == 0xf0 ? 4
                                            : 0;
    if (length <= 1) return length;
    if (length > n) return 0;
    uint32_t code = p[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (p[i] & 0x3f);
    }
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return 0;
    return length;
}

void mabn_str_add_json(struct mabn_str *s, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t n = strlen(text);
    mabn_str_add_char(s, '"');
    while (n) {
        size_t length = utf8_length(p, n);
        if (!length) {
            mabn_str_add(s, "\xef\xbf\xbd");
            length = 1;
        } else if (*p == '"' || *p == '\\') {
            mabn_str_add_char(s, '\\');
            mabn_str_add_char(s, (char)*p);
        } else if (*p == '\n') {
            mabn_str_add(s, "\\n");
        } else if (*p == '\t') {
            mabn_str_add(s, "\\t");
        } else if (*p < 0x20 || *p == 0x7f) {
            mabn_str_printf(s, "\\u%04x", *p);
        } else {
            mabn_str_add_bytes(s, p, length);
        }
        p += length;
        n -= length;
    }
    mabn_str_add_char(s, '"');
}

bool mabn_same_in_json(const char *a, const char *b)
{
    struct mabn_str x, y;
    if (!strcmp(a, b)) return true;
    mabn_str_init(&x);
    mabn_str_init(&y);
    mabn_str_add_json(&x, a);
    mabn_str_add_json(&y, b);
    const bool same = !strcmp(x.text, y.text);
    mabn_str_release(&x);
    mabn_str_release(&y);
    return same;
}

void mabn_str_add_shell(struct mabn_str *s, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-+=./,:@%^";
    if (*word && strspn(word, plain) == strlen(word)) {
        mabn_str_add(s, word);
        return;
    }
    mabn_str_add_char(s, '\'');
    for (const char *p = word; *p; p++) {
        if (*p == '\'')
            mabn_str_add(s, "'\\''");
        else
            mabn_str_add_char(s, *p);
    }
    mabn_str_add_char(s, '\'');
}

void mabn_str_add_double(struct mabn_str *s, double value)
{
    char text[40];
    if (!isfinite(value)) {
        mabn_str_add(s, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    mabn_str_add(s, text);
}

void mabn_str_add_float(struct mabn_str *s, float value)
{
    char text[40];
    if (!isfinite(value)) {
        mabn_str_add(s, "null");
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    mabn_str_add(s, text);
}
