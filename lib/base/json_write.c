#include "base/json_write.h"

#include <math.h>
#include <string.h>

#include "base/status.h"

void mabn_json_writer_init(struct mabn_json_writer *w, struct mabn_str *out)
{
    *w = (struct mabn_json_writer){.out = out, .line = -1};
}

void mabn_json_writer_init_spaced(struct mabn_json_writer *w, struct mabn_str *out)
{
    mabn_json_writer_init(w, out);
    w->spaced = true;
}

void mabn_json_put_line(struct mabn_json_writer *w, int indent)
{
    w->line = indent;
}

/* Begins the new line that was requested; false: none was. */
static bool break_line(struct mabn_json_writer *w)
{
    if (w->line < 0) return false;
    mabn_str_printf(w->out, "\n%*s", w->line, "");
    w->line = -1;
    return true;
}

/* Writes the comma and the space or line before a key, or before a value without a key. */
static void separate(struct mabn_json_writer *w)
{
    if (w->comma) mabn_str_add_char(w->out, ',');
    if (!break_line(w) && w->comma && w->spaced) mabn_str_add_char(w->out, ' ');
    w->comma = w->depth > 0;
}

static bool in_object(const struct mabn_json_writer *w)
{
    return w->depth && w->ends[w->depth - 1] == '}';
}

/* Writes everything before a value, its key included. */
static void begin(struct mabn_json_writer *w, const char *key)
{
    if (in_object(w) != (key != NULL)) MABN_BUG("JSON: a key is %s", key ? "too much" : "missing");
    separate(w);
    if (!key) return;
    mabn_str_add_json(w->out, key);
    mabn_str_add(w->out, w->spaced ? ": " : ":");
}

static void open(struct mabn_json_writer *w, const char *key, char bracket, char end)
{
    if (w->depth == MABN_JSON_WRITE_DEPTH) MABN_BUG("JSON: more than %d levels", w->depth);
    begin(w, key);
    mabn_str_add_char(w->out, bracket);
    w->ends[w->depth++] = end;
    w->comma = false;
}

void mabn_json_put_object(struct mabn_json_writer *w, const char *key)
{
    open(w, key, '{', '}');
}

void mabn_json_put_array(struct mabn_json_writer *w, const char *key)
{
    open(w, key, '[', ']');
}

void mabn_json_put_end(struct mabn_json_writer *w)
{
    if (!w->depth) MABN_BUG("JSON: nothing to end");
    break_line(w);
    mabn_str_add_char(w->out, w->ends[--w->depth]);
    w->comma = w->depth > 0;
}

void mabn_json_put_raw(struct mabn_json_writer *w, const char *key, const char *json)
{
    begin(w, key);
    mabn_str_add(w->out, json);
}

void mabn_json_put_members(struct mabn_json_writer *w, const char *object)
{
    const size_t length = strlen(object);
    if (!in_object(w) || length <= 2 || object[0] != '{' || object[length - 1] != '}')
        MABN_BUG("JSON: '%s' has no members for here", object);
    separate(w);
    mabn_str_add_bytes(w->out, object + 1, length - 2);
}

void mabn_json_put_null(struct mabn_json_writer *w, const char *key)
{
    mabn_json_put_raw(w, key, "null");
}

void mabn_json_put_bool(struct mabn_json_writer *w, const char *key, bool value)
{
    mabn_json_put_raw(w, key, value ? "true" : "false");
}

void mabn_json_put_string(struct mabn_json_writer *w, const char *key, const char *text)
{
    if (!text) {
        mabn_json_put_null(w, key);
        return;
    }
    begin(w, key);
    mabn_str_add_json(w->out, text);
}

void mabn_json_put_int(struct mabn_json_writer *w, const char *key, int64_t value)
{
    begin(w, key);
    mabn_str_printf(w->out, "%lld", (long long)value);
}

void mabn_json_put_double(struct mabn_json_writer *w, const char *key, double value)
{
    begin(w, key);
    mabn_str_add_double(w->out, value);
}

void mabn_json_put_float(struct mabn_json_writer *w, const char *key, float value)
{
    begin(w, key);
    mabn_str_add_float(w->out, value);
}

void mabn_json_put_doubles(struct mabn_json_writer *w, const char *key, const double *values,
                           int count)
{
    mabn_json_put_array(w, key);
    for (int i = 0; i < count; i++)
        mabn_json_put_double(w, NULL, values[i]);
    mabn_json_put_end(w);
}

void mabn_json_put_rounded(struct mabn_json_writer *w, const char *key, double value, int digits)
{
    if (!isfinite(value)) {
        mabn_json_put_null(w, key);
        return;
    }
    begin(w, key);
    mabn_str_printf(w->out, "%.*g", digits, value);
}
