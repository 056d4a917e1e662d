/* safetensors: u64 length of the header, a JSON header, the data.
 *
 *     {"__metadata__": {"key": "text"}, "NAME": {"dtype": "F32", "shape": [2,3],
 *      "data_offsets": [begin, end]}, …}
 *
 * The format's own safety rules are enforced: the header is at most 100 MB, starts with '{' and
 * may be padded with spaces; every tensor's bytes equal its shape times its type; the data are
 * covered wholly, without overlap or hole, and nothing follows them.
 *
 * Written: tensors by falling element size, so that each is aligned, else in their own order; the
 * header padded to 8 bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/json_write.h"
#include "base/mem.h"
#include "base/str.h"
#include "exchange/weights_impl.h"

enum { MAX_HEADER = 100 * 1000 * 1000 };

static const struct {
    const char *name;
    enum mabn_dtype dtype;
} types[] = {
    {"F32", MABN_DTYPE_F32},   {"F64", MABN_DTYPE_F64}, {"F16", MABN_DTYPE_F16},
    {"BF16", MABN_DTYPE_BF16}, {"I8", MABN_DTYPE_I8},   {"U8", MABN_DTYPE_U8},
    {"I16", MABN_DTYPE_I16},   {"I32", MABN_DTYPE_I32}, {"I64", MABN_DTYPE_I64},
    {"BOOL", MABN_DTYPE_BOOL},
};

static mabn_status read_type(struct mabn_json *j, enum mabn_dtype *dtype)
{
    struct mabn_json_text text = {0};
    MABN_TRY(mabn_json_read_string(j, &text));
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (mabn_json_is(text, types[i].name)) {
            *dtype = types[i].dtype;
            return MABN_OK;
        }
    return mabn_json_fail(j, "element type '%.*s' is not supported",
                          text.length > 16 ? 16 : (int)text.length, text.bytes);
}

static mabn_status read_shape(struct mabn_json *j, struct mabn_shape *shape)
{
    mabn_json_begin_array(j);
    shape->rank = 0;
    while (mabn_json_next_item(j)) {
        int64_t dim = 0;
        MABN_TRY(mabn_json_read_int64(j, &dim));
        if (dim < 0 || shape->rank == MABN_MAX_RANK)
            return mabn_json_fail(j, "expected at most %d dimensions, none negative",
                                  MABN_MAX_RANK);
        shape->dim[shape->rank++] = dim;
    }
    return mabn_json_status(j);
}

/* Keys of tensors beside the three that are known, which are passed over as in the library. */
struct unknown {
    size_t count;
    char *first, *tensor;
};

static mabn_status pass_over(struct mabn_json *j, struct mabn_json_text key, const char *tensor,
                             struct unknown *unknown)
{
    if (!unknown->count++) {
        unknown->first = mabn_xstrndup(key.bytes, key.length < 64 ? key.length : 64);
        unknown->tensor = mabn_xstrdup(tensor);
    }
    return mabn_json_skip(j);
}

static mabn_status read_tensor(struct mabn_weights *w, struct mabn_json *j, const char *name,
                               uint64_t data, struct unknown *unknown)
{
    struct mabn_json_text key = {0};
    enum mabn_dtype dtype = MABN_DTYPE_F32;
    struct mabn_shape shape = {0};
    int64_t range[2] = {0};
    unsigned seen = 0;
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "dtype")) {
            seen |= 1;
            MABN_TRY(read_type(j, &dtype));
        } else if (mabn_json_is(key, "shape")) {
            seen |= 2;
            MABN_TRY(read_shape(j, &shape));
        } else if (mabn_json_is(key, "data_offsets")) {
            seen |= 4;
            MABN_TRY(mabn_json_read_int64s(j, range, 2));
        } else {
            MABN_TRY(pass_over(j, key, name, unknown));
        }
    }
    MABN_TRY(mabn_json_status(j));
    if (seen != 7) return mabn_json_fail(j, "needs dtype, shape and data_offsets");
    size_t count, bytes;
    if (!mabn_shape_count(&shape, &count) || !mabn_size_mul(count, mabn_dtype_size(dtype), &bytes))
        return mabn_json_fail(j, "impossible shape");
    uint64_t room = w->source.size - data;
    if (range[0] < 0 || range[1] < range[0] || (uint64_t)range[1] > room ||
        (uint64_t)(range[1] - range[0]) != bytes)
        return mabn_json_fail(j,
                              "data_offsets [%lld, %lld] do not fit %zu bytes in a file with "
                              "%llu bytes of data",
                              (long long)range[0], (long long)range[1], bytes,
                              (unsigned long long)room);
    struct mabn_place place = mabn_place_at(data + (uint64_t)range[0]);
    enum mabn_weight_part part;
    mabn_weights_split_name(&name, &part);
    return mabn_weights_add(w, name, part, dtype, &shape, &place, data + (uint64_t)range[1]);
}

/* Strings by name. No tensor depends on them, so whatever else is there is passed over and told. */
static mabn_status read_metadata(struct mabn_weights *w, struct mabn_json *j)
{
    struct mabn_json_text key = {0};
    size_t skipped = 0;
    char *first = NULL;
    const enum mabn_json_kind kind = mabn_json_peek(j);
    if (kind != MABN_JSON_OBJECT && kind != MABN_JSON_ERROR) {
        if (kind != MABN_JSON_NULL)
            mabn_weights_remark(w, "skipped '__metadata__', which is %s, not an object",
                                mabn_json_kind_name(kind));
        return mabn_json_skip(j);
    }
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        char *name = mabn_xstrndup(key.bytes, key.length), *value = NULL;
        mabn_status status = MABN_OK;
        if (mabn_json_peek(j) != MABN_JSON_STRING) {
            status = mabn_json_skip(j);
            if (!skipped++) {
                first = name;
                name = NULL;
            }
        } else {
            status = mabn_json_read_strdup(j, &value);
            if (!status) mabn_weights_add_note(w, name, value);
        }
        free(name);
        free(value);
        if (status) break;
    }
    if (skipped)
        mabn_weights_remark(w,
                            "skipped %zu of the values of '__metadata__', which should be "
                            "strings; the first is '%s'",
                            skipped, first);
    free(first);
    return mabn_json_status(j);
}

static mabn_status read_entries(struct mabn_weights *w, struct mabn_json *j, uint64_t data,
                                struct unknown *unknown)
{
    struct mabn_json_text key = {0};
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "__metadata__")) {
            MABN_TRY(read_metadata(w, j));
            continue;
        }
        if (memchr(key.bytes, 0, key.length)) return mabn_json_fail(j, "name with a NUL byte");
        char *name = mabn_xstrndup(key.bytes, key.length);
        mabn_status status = read_tensor(w, j, name, data, unknown);
        free(name);
        MABN_TRY(status);
    }
    return mabn_json_end(j);
}

static mabn_status read_header(struct mabn_weights *w, struct mabn_json *j, uint64_t data)
{
    struct unknown unknown = {0};
    mabn_status status = read_entries(w, j, data, &unknown);
    if (!status && unknown.count)
        mabn_weights_remark(
            w, "skipped keys of tensors that no reader knows: %zu, the first '%s' of '%s'",
            unknown.count, unknown.first, unknown.tensor);
    free(unknown.first);
    free(unknown.tensor);
    return status;
}

static int by_offset(const void *a, const void *b)
{
    const struct mabn_weights_entry *x = *(struct mabn_weights_entry *const *)a;
    const struct mabn_weights_entry *y = *(struct mabn_weights_entry *const *)b;
    if (x->place.offset != y->place.offset) return x->place.offset < y->place.offset ? -1 : 1;
    return x->weight.bytes < y->weight.bytes ? -1 : x->weight.bytes > y->weight.bytes;
}

/* Data must not overlap, and must have no gap and nothing behind them. */
static mabn_status check_cover(const struct mabn_weights *w, uint64_t data)
{
    struct mabn_weights_entry **sorted = mabn_xmalloc((w->count + 1) * sizeof *sorted);
    mabn_status status = MABN_OK;
    uint64_t at = data;
    for (size_t i = 0; i < w->count; i++)
        sorted[i] = &w->entries[i];
    qsort(sorted, w->count, sizeof *sorted, by_offset);
    for (size_t i = 0; i < w->count && !status; i++) {
        if (sorted[i]->place.offset != at)
            status = mabn_fail(
                MABN_ERR_FORMAT, "'%s': tensor '%s' %s", w->source.name, sorted[i]->weight.name,
                sorted[i]->place.offset < at ? "overlaps another" : "leaves a hole before it");
        at += sorted[i]->weight.bytes;
    }
    if (!status && at != w->source.size)
        status = mabn_fail(MABN_ERR_FORMAT, "'%s': %llu bytes follow the last tensor",
                           w->source.name, (unsigned long long)(w->source.size - at));
    free(sorted);
    return status;
}

mabn_status mabn_safetensors_open(struct mabn_weights *w)
{
    uint8_t head[8];
    void *header = NULL;
    MABN_TRY(mabn_source_read(&w->source, 0, head, 8));
    uint64_t length = mabn_le64(head);
    if (length > MAX_HEADER || length > w->source.size - 8)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': header of %llu bytes in a file of %llu",
                         w->source.name, (unsigned long long)length,
                         (unsigned long long)w->source.size);
    MABN_TRY(mabn_alloc(&header, (size_t)length));
    struct mabn_json *j = NULL;
    mabn_status status;
    MABN_TRY_GOTO(mabn_source_read(&w->source, 8, header, (size_t)length), out);
    j = mabn_json_new_bytes(header, (size_t)length, w->source.name);
    MABN_TRY_GOTO(read_header(w, j, 8 + length), out);
    MABN_TRY_GOTO(check_cover(w, 8 + length), out);
out:
    mabn_json_free(j);
    mabn_free(header);
    return status;
}

/* ---- writing ---- */

struct sink {
    uint64_t *offsets; /* (count) of each tensor in the file */
};

static const char *type_name(enum mabn_dtype dtype)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].dtype == dtype) return types[i].name;
    MABN_BUG("element type %d has no name", (int)dtype);
}

static void put_entry(struct mabn_json_writer *w, const struct mabn_weight *t, uint64_t offset)
{
    char *name = mabn_weights_join_name(t->name, t->part);
    mabn_json_put_object(w, name);
    mabn_json_put_string(w, "dtype", type_name(t->dtype));
    mabn_json_put_array(w, "shape");
    for (int i = 0; i < t->shape.rank; i++)
        mabn_json_put_int(w, NULL, t->shape.dim[i]);
    mabn_json_put_end(w);
    mabn_json_put_array(w, "data_offsets");
    mabn_json_put_int(w, NULL, (int64_t)offset);
    mabn_json_put_int(w, NULL, (int64_t)(offset + t->bytes));
    mabn_json_put_end(w);
    mabn_json_put_end(w);
    free(name);
}

static void put_metadata(struct mabn_json_writer *w, const struct mabn_weights_writer *writer)
{
    if (!writer->notes.count) return;
    mabn_json_put_object(w, "__metadata__");
    for (size_t i = 0; i < writer->notes.count; i++)
        mabn_json_put_string(w, writer->notes.items[i].key, writer->notes.items[i].value);
    mabn_json_put_end(w);
}

static mabn_status begin_safetensors(struct mabn_weights_writer *writer)
{
    struct sink *s = mabn_xcalloc(1, sizeof *s);
    struct mabn_json_writer w;
    struct mabn_str json;
    uint64_t at = 0;
    uint8_t head[8];
    writer->backend = s;
    MABN_TRY(mabn_outfile_open(&writer->out, writer->path, writer->force));
    s->offsets = mabn_xcalloc(writer->count + 1, sizeof *s->offsets);
    mabn_str_init(&json);
    mabn_json_writer_init(&w, &json);
    mabn_json_put_object(&w, NULL);
    put_metadata(&w, writer);
    for (size_t size = 8; size > 0; size /= 2)
        for (size_t i = 0; i < writer->count; i++) {
            if (mabn_dtype_size(writer->items[i].dtype) != size) continue;
            put_entry(&w, &writer->items[i], at);
            s->offsets[i] = at;
            at += writer->items[i].bytes;
        }
    mabn_json_put_end(&w);
    while (json.length % 8)
        mabn_str_add(&json, " ");
    for (size_t i = 0; i < writer->count; i++)
        s->offsets[i] += 8 + json.length;
    for (int i = 0; i < 8; i++)
        head[i] = (uint8_t)((uint64_t)json.length >> (8 * i));
    mabn_status status = mabn_pwrite_all(writer->out.fd, head, 8, 0, writer->path);
    if (!status) status = mabn_pwrite_all(writer->out.fd, json.text, json.length, 8, writer->path);
    mabn_str_release(&json);
    return status;
}

static mabn_status put_safetensors(struct mabn_weights_writer *writer, size_t index,
                                   const void *data)
{
    struct sink *s = writer->backend;
    return mabn_pwrite_all(writer->out.fd, data, writer->items[index].bytes, s->offsets[index],
                           writer->path);
}

static mabn_status finish_safetensors(struct mabn_weights_writer *writer)
{
    (void)writer;
    return MABN_OK;
}

static void free_safetensors(void *backend)
{
    struct sink *s = backend;
    if (!s) return;
    free(s->offsets);
    free(s);
}

const struct mabn_weights_sink mabn_safetensors_sink = {begin_safetensors, put_safetensors,
                                                        finish_safetensors, free_safetensors};
