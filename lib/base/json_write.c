#include "base/json_write.h"

#include <math.h>

#include "base/status.h"

void mabn_json_writer_init(struct mabn_json_writer *w, struct mabn_str *out)
{
    *w = (struct mabn_json_writer){.out = out};
}

/* What stands before a value. */
static void begin(struct mabn_json_writer *w, const char *key)
{
    bool in_object = w->depth && w->ends[w->depth - 1] == '}';
    if (in_object != (key != NULL)) MABN_BUG("JSON: a key is %s", key ? "too much" : "missing");
    if (w->comma) mabn_str_add_char(w->out, ',');
    w->comma = w->depth > 0;
    if (!key) return;
    mabn_str_add_json(w->out, key);
    mabn_str_add_char(w->out, ':');
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
    mabn_str_add_char(w->out, w->ends[--w->depth]);
    w->comma = w->depth > 0;
}

void mabn_json_put_raw(struct mabn_json_writer *w, const char *key, const char *json)
{
    begin(w, key);
    mabn_str_add(w->out, json);
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

void mabn_json_put_rounded(struct mabn_json_writer *w, const char *key, double value, int digits)
{
    if (!isfinite(value)) {
        mabn_json_put_null(w, key);
        return;
    }
    begin(w, key);
    mabn_str_printf(w->out, "%.*g", digits, value);
}
