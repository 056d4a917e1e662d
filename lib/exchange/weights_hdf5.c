/* Our own checkpoints (store/checkpoint.h) as named tensors and notes.
 *
 * Attributes are notes under their own names. Numbers outside the checkpoint's fixed layout end in
 * "#int64" or "#double", so that they become numbers again when they are written back. Notes of
 * other programs often have dots in their names; they are kept together in the attribute "notes", a
 * JSON object of strings. So are those whose names mean something else here: "format" and "version"
 * describe the container, but nearly every safetensors file has a "format" of its own, "pt". */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "store/checkpoint.h"
#include "exchange/weights_impl.h"

#define INT64_MARK "#int64"
#define DOUBLE_MARK "#double"

static const char model_prefix[] = "model/", momentum_prefix[] = "optimizer/momentum/",
                  state_prefix[] = "state/";

/* Attributes of the fixed layout, see fill_meta. */
static bool known_note(const char *key)
{
    static const char *const known[] = {
        "config", "architecture", "step",          "epoch",  "sampler_position", "seed",
        "norm",   "centralized",  "folded",        "mean_0", "mean_1",           "mean_2",
        "std_0",  "std_1",        "channel_order", "std_2",  "command",          "tool",
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(key, known[i])) return true;
    return false;
}

/* ---- reading ---- */

static mabn_status read_hdf5(struct mabn_weights *w, size_t index, void *out)
{
    const struct mabn_checkpoint *c = w->backend;
    return mabn_checkpoint_read(c, mabn_checkpoint_at(c, index), out);
}

static void free_hdf5(void *backend)
{
    mabn_checkpoint_free(backend);
}

static bool cut(const char **name, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(*name, prefix, n) || !(*name)[n]) return false;
    *name += n;
    return true;
}

static mabn_status add_tensor(struct mabn_weights *w, const struct mabn_checkpoint_tensor *t)
{
    const char *name = t->name;
    enum mabn_weight_part part = MABN_WEIGHT_OTHER;
    if (cut(&name, model_prefix))
        part = MABN_WEIGHT_MODEL;
    else if (cut(&name, momentum_prefix))
        part = MABN_WEIGHT_MOMENTUM;
    else
        cut(&name, state_prefix);
    /* The checkpoint's own reader has checked places and sizes. */
    struct mabn_place place = mabn_place_at(0);
    return mabn_weights_add(w, name, part, t->dtype, &t->shape, &place, w->source.size);
}

static void expand_notes(struct mabn_weights *w, const char *json)
{
    struct mabn_json *j = mabn_json_new_bytes(json, strlen(json), w->source.name);
    struct mabn_json_text key = {0};
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        char *name = mabn_xstrndup(key.bytes, key.length), *value = NULL;
        if (!mabn_json_read_strdup(j, &value)) mabn_weights_add_note(w, name, value);
        free(name);
        free(value);
    }
    mabn_json_free(j);
}

static void read_note(struct mabn_weights *w, const struct mabn_h5_file *file, const char *name)
{
    struct mabn_str key, text;
    const char *string;
    int64_t integer;
    double number;
    mabn_str_init(&key);
    mabn_str_init(&text);
    mabn_str_add(&key, name);
    if (!mabn_h5_get_string(file, name, &string)) {
        mabn_str_add(&text, string);
    } else if (!mabn_h5_get_int64(file, name, &integer)) {
        mabn_str_printf(&text, "%" PRId64, integer);
        if (!known_note(name)) mabn_str_add(&key, INT64_MARK);
    } else if (!mabn_h5_get_double(file, name, &number)) {
        mabn_str_add_double(&text, number);
        if (!known_note(name)) mabn_str_add(&key, DOUBLE_MARK);
    }
    if (!strcmp(name, "notes"))
        expand_notes(w, text.text);
    else if (strcmp(name, "format") && strcmp(name, "version"))
        mabn_weights_add_note(w, key.text, text.text);
    mabn_str_release(&key);
    mabn_str_release(&text);
}

static void read_notes(struct mabn_weights *w, const struct mabn_h5_file *file)
{
    for (int i = 0; i < mabn_h5_attribute_count(file); i++)
        read_note(w, file, mabn_h5_attribute_name(file, i));
    mabn_error_clear();
}

mabn_status mabn_weights_open_hdf5(struct mabn_weights *w)
{
    struct mabn_checkpoint *c;
    if (w->source.memory)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': HDF5 is read from files only",
                         w->source.name);
    const mabn_status status = mabn_checkpoint_open(&c, w->source.name);
    if (status) return mabn_hdf5_name_foreign(status, &w->source);
    w->backend = c;
    w->read = read_hdf5;
    w->free_backend = free_hdf5;
    for (size_t i = 0; i < mabn_checkpoint_count(c); i++)
        MABN_TRY(add_tensor(w, mabn_checkpoint_at(c, i)));
    read_notes(w, mabn_checkpoint_file(c));
    return MABN_OK;
}

/* ---- writing ---- */

struct sink {
    struct mabn_checkpoint_writer *c;
    char **names; /* of each item in the file */
    size_t count;
};

static void free_sink(void *backend)
{
    struct sink *s = backend;
    if (!s) return;
    for (size_t i = 0; i < s->count; i++)
        free(s->names[i]);
    free(s->names);
    mabn_checkpoint_writer_free(s->c);
    free(s);
}

static int64_t note_int64(const struct mabn_weights_writer *writer, const char *key)
{
    const char *text = mabn_weights_writer_note(writer, key);
    return text ? strtoll(text, NULL, 10) : 0;
}

static const char *note_text(const struct mabn_weights_writer *writer, const char *key)
{
    const char *text = mabn_weights_writer_note(writer, key);
    return text ? text : "";
}

static void note_triple(const struct mabn_weights_writer *writer, const char *stem, double *out)
{
    for (int i = 0; i < 3; i++) {
        char key[16];
        snprintf(key, sizeof key, "%s_%d", stem, i);
        const char *text = mabn_weights_writer_note(writer, key);
        if (text) out[i] = strtod(text, NULL);
    }
}

static void fill_meta(const struct mabn_weights_writer *writer, struct mabn_checkpoint_meta *meta)
{
    mabn_checkpoint_meta_init(meta);
    const char *config = mabn_weights_writer_note(writer, "config");
    if (config) meta->config = config;
    meta->architecture = note_text(writer, "architecture");
    meta->step = note_int64(writer, "step");
    meta->epoch = note_int64(writer, "epoch");
    meta->sampler_position = note_int64(writer, "sampler_position");
    meta->seed = note_int64(writer, "seed");
    meta->norm = note_text(writer, "norm");
    meta->centralized = note_int64(writer, "centralized") != 0;
    meta->folded = note_int64(writer, "folded") != 0;
    meta->bgr = !strcmp(note_text(writer, "channel_order"), "bgr");
    note_triple(writer, "mean", meta->mean);
    note_triple(writer, "std", meta->std);
    meta->command = note_text(writer, "command");
    meta->tool = note_text(writer, "tool");
}

/* Does `key` end in `mark`? Then *name is the key without it, malloc'd. */
static bool cut_mark(const char *key, const char *mark, char **name)
{
    size_t n = strlen(key), k = strlen(mark);
    if (n <= k || strcmp(key + n - k, mark)) return false;
    *name = mabn_xstrndup(key, n - k);
    return true;
}

static void add_note(struct mabn_str *json, const struct mabn_weights_note *note)
{
    mabn_str_add(json, json->length ? ", " : "{");
    mabn_str_add_json(json, note->key);
    mabn_str_add(json, ": ");
    mabn_str_add_json(json, note->value);
}

/* Notes beyond this number, and those with a longer key or value, go into the attribute "notes". */
enum { MAX_ATTRIBUTES = 200, MAX_KEY = 64, MAX_VALUE = 4096 };

/* May the note be an attribute under its own name? */
static bool is_attribute(const struct mabn_weights_note *note)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_#-";
    const size_t n = strlen(note->key);
    return n && n <= MAX_KEY && strspn(note->key, letters) == n &&
           strlen(note->value) <= MAX_VALUE && strcmp(note->key, "format") &&
           strcmp(note->key, "version") && strcmp(note->key, "notes");
}

static void set_other_notes(const struct mabn_weights_writer *writer,
                            struct mabn_checkpoint_writer *c)
{
    struct mabn_str json;
    size_t attributes = 0;
    mabn_str_init(&json);
    for (size_t i = 0; i < writer->notes.count; i++) {
        const struct mabn_weights_note *note = &writer->notes.items[i];
        char *name = NULL;
        if (known_note(note->key)) continue;
        if (!is_attribute(note) || attributes++ >= MAX_ATTRIBUTES)
            add_note(&json, note);
        else if (cut_mark(note->key, INT64_MARK, &name))
            mabn_checkpoint_set_int64(c, name, strtoll(note->value, NULL, 10));
        else if (cut_mark(note->key, DOUBLE_MARK, &name))
            mabn_checkpoint_set_double(c, name, strtod(note->value, NULL));
        else
            mabn_checkpoint_set_string(c, note->key, note->value);
        free(name);
    }
    if (json.length) {
        mabn_str_add(&json, "}");
        mabn_checkpoint_set_string(c, "notes", json.text);
    }
    mabn_str_release(&json);
}

static mabn_status begin_hdf5(struct mabn_weights_writer *writer)
{
    static const char *const prefixes[] = {
        [MABN_WEIGHT_MODEL] = model_prefix,
        [MABN_WEIGHT_MOMENTUM] = momentum_prefix,
        [MABN_WEIGHT_OTHER] = state_prefix,
    };
    struct mabn_checkpoint_meta meta;
    struct sink *s = mabn_xcalloc(1, sizeof *s);
    writer->backend = s;
    s->names = mabn_xcalloc(writer->count + 1, sizeof *s->names);
    fill_meta(writer, &meta);
    MABN_TRY(mabn_checkpoint_writer_open(&s->c, writer->path, writer->force, &meta));
    for (; s->count < writer->count; s->count++) {
        const struct mabn_weight *t = &writer->items[s->count];
        s->names[s->count] = mabn_xasprintf("%s%s", prefixes[t->part], t->name);
        mabn_status status = mabn_checkpoint_declare(s->c, s->names[s->count], t->dtype, &t->shape);
        if (status) {
            s->count++;
            return status;
        }
    }
    set_other_notes(writer, s->c);
    return mabn_checkpoint_begin(s->c);
}

static mabn_status put_hdf5(struct mabn_weights_writer *writer, size_t index, const void *data)
{
    struct sink *s = writer->backend;
    return mabn_checkpoint_write(s->c, s->names[index], data);
}

static mabn_status finish_hdf5(struct mabn_weights_writer *writer)
{
    struct sink *s = writer->backend;
    return mabn_checkpoint_commit(s->c);
}

const struct mabn_weights_sink mabn_hdf5_sink = {begin_hdf5, put_hdf5, finish_hdf5, free_sink};
