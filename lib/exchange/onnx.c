/* ONNX as a container: reading and writing initialisers. Field numbers are those of onnx.proto. */
#include "exchange/onnx.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/weights_impl.h"

enum {
    MODEL_IR_VERSION = 1,
    MODEL_PRODUCER = 2,
    MODEL_GRAPH = 7,
    MODEL_OPSET = 8,
    MODEL_METADATA = 14,
    OPSET_VERSION = 2,
    PROPERTY_KEY = 1,
    PROPERTY_VALUE = 2,
    GRAPH_NODE = 1,
    GRAPH_NAME = 2,
    GRAPH_INITIALIZER = 5,
    NODE_INPUT = 1,
    NODE_OUTPUT = 2,
    NODE_NAME = 3,
    NODE_OP = 4,
    TENSOR_DIMS = 1,
    TENSOR_TYPE = 2,
    TENSOR_FLOATS = 4,
    TENSOR_NAME = 8,
    TENSOR_RAW = 9,
    TENSOR_DOUBLES = 10,
    TENSOR_EXTERNAL = 13,
    TENSOR_LOCATION = 14,
    WIRE_VARINT = 0,
    WIRE_64 = 1,
    WIRE_BYTES = 2,
    WIRE_32 = 5,
    IR_VERSION = 7,
    OPSET = 13,
};

static const struct {
    int onnx;
    enum mabn_dtype dtype;
} types[] = {
    {1, MABN_DTYPE_F32},  {2, MABN_DTYPE_U8},    {3, MABN_DTYPE_I8},   {5, MABN_DTYPE_I16},
    {6, MABN_DTYPE_I32},  {7, MABN_DTYPE_I64},   {9, MABN_DTYPE_BOOL}, {10, MABN_DTYPE_F16},
    {11, MABN_DTYPE_F64}, {16, MABN_DTYPE_BF16},
};
enum { TYPES = sizeof types / sizeof *types };

enum { MAX_RENAMED = 1024, MAX_SHARED = 2048 };

/* ---- reading ---- */

/* A message: bytes [at, end) of the source, read through a small window. */
struct cursor {
    const struct mabn_source *source;
    uint64_t at, end;
    uint8_t window[64];
    uint64_t window_at;
    size_t window_size;
};

struct field {
    int number, wire;
    uint64_t value;         /* varint or fixed */
    uint64_t start, length; /* of bytes */
};

static mabn_status damaged(const struct cursor *c, const char *what)
{
    return mabn_fail(MABN_ERR_FORMAT, "'%s': damaged ONNX file at offset %llu: %s", c->source->name,
                     (unsigned long long)c->at, what);
}

static mabn_status next_byte(struct cursor *c, uint8_t *byte)
{
    if (c->at >= c->end) return damaged(c, "a message ends too early");
    if (c->at < c->window_at || c->at >= c->window_at + c->window_size) {
        uint64_t left = c->end - c->at;
        c->window_size = left < sizeof c->window ? (size_t)left : sizeof c->window;
        c->window_at = c->at;
        MABN_TRY(mabn_source_read(c->source, c->at, c->window, c->window_size));
    }
    *byte = c->window[c->at++ - c->window_at];
    return MABN_OK;
}

static mabn_status next_varint(struct cursor *c, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        uint8_t byte = 0;
        MABN_TRY(next_byte(c, &byte));
        if (shift < 64) *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return MABN_OK;
    }
    return damaged(c, "a number of more than ten bytes");
}

static mabn_status next_fixed(struct cursor *c, int bytes, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < bytes; i++) {
        uint8_t byte = 0;
        MABN_TRY(next_byte(c, &byte));
        *value |= (uint64_t)byte << (8 * i);
    }
    return MABN_OK;
}

/* The next field; *more is false at the end of the message. Bytes are passed over. */
static mabn_status next_field(struct cursor *c, struct field *f, bool *more)
{
    uint64_t key = 0;
    *more = c->at < c->end;
    if (!*more) return MABN_OK;
    MABN_TRY(next_varint(c, &key));
    *f = (struct field){.number = (int)(key >> 3 & 0x1fffffff), .wire = (int)(key & 7)};
    switch (f->wire) {
    case WIRE_VARINT:
        return next_varint(c, &f->value);
    case WIRE_64:
        return next_fixed(c, 8, &f->value);
    case WIRE_32:
        return next_fixed(c, 4, &f->value);
    case WIRE_BYTES:
        MABN_TRY(next_varint(c, &f->length));
        if (f->length > c->end - c->at) return damaged(c, "a field reaches past its message");
        f->start = c->at;
        c->at += f->length;
        return MABN_OK;
    default:
        return damaged(c, "unknown kind of field");
    }
}

static struct cursor enter(const struct cursor *c, const struct field *f)
{
    struct cursor inner = {.source = c->source, .at = f->start, .end = f->start + f->length};
    return inner;
}

/* The bytes of a short field as text, malloc'd. */
static mabn_status field_text(const struct cursor *c, const struct field *f, size_t limit,
                              char **text)
{
    *text = NULL;
    if (f->wire != WIRE_BYTES || f->length > limit) return damaged(c, "text expected");
    char *bytes = mabn_xcalloc(1, (size_t)f->length + 1);
    mabn_status status = mabn_source_read(c->source, f->start, bytes, (size_t)f->length);
    if (!status && strlen(bytes) != f->length) status = damaged(c, "text with a NUL byte");
    if (status)
        free(bytes);
    else
        *text = bytes;
    return status;
}

struct tensor {
    char *name;
    uint64_t type;
    struct mabn_shape shape;
    struct field data; /* raw or floats; start 0: none */
    bool external;     /* the data are in the file `location` */
    char *location;
    uint64_t offset, length; /* length 0: up to the file's end */
};

static mabn_status add_dim(const struct cursor *c, struct tensor *t, uint64_t value)
{
    if (t->shape.rank == MABN_MAX_RANK || value > INT64_MAX)
        return damaged(c, "a shape with more than 8 dimensions, or a negative one");
    t->shape.dim[t->shape.rank++] = (int64_t)value;
    return MABN_OK;
}

static mabn_status read_dims(const struct cursor *c, struct tensor *t, const struct field *f)
{
    if (f->wire == WIRE_VARINT) return add_dim(c, t, f->value);
    if (f->wire != WIRE_BYTES) return damaged(c, "a shape of another kind");
    struct cursor inner = enter(c, f);
    while (inner.at < inner.end) {
        uint64_t value;
        MABN_TRY(next_varint(&inner, &value));
        MABN_TRY(add_dim(c, t, value));
    }
    return MABN_OK;
}

/* A key and its value, of at most `most` bytes each; either may be missing, NULL. The caller frees both,
 * also after an error. */
static mabn_status read_pair(struct cursor c, size_t most, char **key, char **value)
{
    struct field f;
    bool more = true;
    *key = *value = NULL;
    for (;;) {
        MABN_TRY(next_field(&c, &f, &more));
        if (!more) return MABN_OK;
        char **text = f.number == PROPERTY_KEY ? key : f.number == PROPERTY_VALUE ? value : NULL;
        if (!text) continue;
        free(*text);
        MABN_TRY(field_text(&c, &f, most, text));
    }
}

/* One of the pairs that tell where data in another file are. */
static mabn_status read_external(struct tensor *t, struct cursor c)
{
    char *key, *value, *end;
    mabn_status status = read_pair(c, 4096, &key, &value);
    uint64_t *number = !key || !value           ? NULL
                       : !strcmp(key, "offset") ? &t->offset
                       : !strcmp(key, "length") ? &t->length
                                                : NULL;
    if (!status && number) {
        errno = 0;
        *number = strtoull(value, &end, 10);
        if (*end || errno || *value < '0' || *value > '9')
            status = damaged(&c, "a place that is no number");
    } else if (!status && key && value && !strcmp(key, "location")) {
        free(t->location);
        t->location = value;
        value = NULL;
    }
    free(key);
    free(value);
    return status;
}

static mabn_status read_tensor_field(const struct cursor *c, struct tensor *t,
                                     const struct field *f)
{
    switch (f->number) {
    case TENSOR_DIMS:
        return read_dims(c, t, f);
    case TENSOR_TYPE:
        if (f->wire != WIRE_VARINT) return damaged(c, "a data type of another kind");
        t->type = f->value;
        return MABN_OK;
    case TENSOR_NAME:
        free(t->name);
        t->name = NULL;
        return field_text(c, f, MABN_WEIGHT_MAX_NAME, &t->name);
    case TENSOR_FLOATS:
    case TENSOR_DOUBLES:
    case TENSOR_RAW:
        if (f->wire != WIRE_BYTES) return damaged(c, "tensor data that are not packed");
        if (t->data.start) return damaged(c, "a tensor with data twice");
        t->data = *f;
        return MABN_OK;
    case TENSOR_EXTERNAL:
        if (f->wire != WIRE_BYTES) return damaged(c, "a place of another kind");
        return read_external(t, enter(c, f));
    case TENSOR_LOCATION:
        if (f->wire != WIRE_VARINT) return damaged(c, "a place of another kind");
        t->external = f->value == 1;
        return MABN_OK;
    default:
        return MABN_OK;
    }
}

/* ---- the names of folded convolutions ----
 *
 * When PyTorch exports a network it folds norms into convolutions, and calls the new weights
 * "onnx::Conv_193". The node tells where they belong: "/layer1/layer1.0/conv1/Conv" is
 * layer1.0.conv1. */

struct renamed {
    char *from, *to;
};
struct renames {
    struct renamed items[MAX_RENAMED];
    size_t count;
    /* Tensors of equal values are written once; an Identity node gives them their other names. */
    struct renamed shared[MAX_SHARED];
    size_t n_shared;
    size_t constants; /* nodes that hold a tensor themselves */
    size_t unread;    /* initialisers of types, or in forms, that are not read */
    char *first_unread;
    size_t values; /* constants of the graph, "val_7" in PyTorch's newer exporter */
    char *first_value;
};

static void release_list(struct renamed *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(items[i].from);
        free(items[i].to);
    }
}

static void release_renames(struct renames *r)
{
    release_list(r->items, r->count);
    release_list(r->shared, r->n_shared);
    free(r->first_unread);
    free(r->first_value);
    free(r);
}

static const char *renamed(const struct renames *r, const char *name)
{
    for (size_t i = 0; i < r->count; i++)
        if (!strcmp(r->items[i].from, name)) return r->items[i].to;
    return name;
}

/* The module of a node, malloc'd: a scope whose name begins with the one around it ("layer1.0" in
 * "layer1") stands for both. NULL when the name is no path. */
static char *module_of(const char *node)
{
    struct mabn_str path;
    size_t last = 0; /* where the innermost scope begins */
    if (*node != '/') return NULL;
    mabn_str_init(&path);
    for (const char *at = node + 1, *slash; (slash = strchr(at, '/')); at = slash + 1) {
        const size_t n = (size_t)(slash - at), around = path.length - last;
        if (path.length && n > around && !strncmp(at, path.text + last, around) &&
            at[around] == '.') {
            mabn_str_add_bytes(&path, at + around, n - around);
            continue;
        }
        if (path.length) mabn_str_add_char(&path, '.');
        last = path.length;
        mabn_str_add_bytes(&path, at, n);
    }
    if (path.length) return mabn_str_detach(&path);
    mabn_str_release(&path);
    return NULL;
}

static void add_rename(struct renames *r, const char *from, const char *module, const char *leaf)
{
    if (!from || strncmp(from, "onnx::", 6) || r->count == MAX_RENAMED) return;
    r->items[r->count++] =
        (struct renamed){mabn_xstrdup(from), mabn_xasprintf("%s.%s", module, leaf)};
}

/* The newer exporter keeps the names of weights, and calls a folded norm's bias after them:
 * "layer1.0.conv1.weight_bias" is layer1.0.conv1.bias. */
static void rename_fused_bias(struct renames *r, const char *weight, const char *bias)
{
    const size_t n = weight ? strlen(weight) : 0;
    if (n < 8 || strcmp(weight + n - 7, ".weight") || !bias || strncmp(bias, weight, n) ||
        strcmp(bias + n, "_bias") || r->count == MAX_RENAMED)
        return;
    r->items[r->count++] =
        (struct renamed){mabn_xstrdup(bias), mabn_xasprintf("%.*s.bias", (int)n - 7, weight)};
}

/* PyTorch names a node's result like a path; it is no tensor of the file. */
static void add_shared(struct renames *r, const char *from, const char *to)
{
    if (!from || !to || !*to || strchr(to, '/') || r->n_shared == MAX_SHARED) return;
    r->shared[r->n_shared++] = (struct renamed){mabn_xstrdup(from), mabn_xstrdup(to)};
}

static mabn_status read_node(struct renames *r, struct cursor c)
{
    char *inputs[3] = {NULL}, *output = NULL, *name = NULL, *op = NULL;
    struct field f;
    int count = 0;
    bool more = true;
    mabn_status status = MABN_OK;
    while (!status) {
        status = next_field(&c, &f, &more);
        if (status || !more) break;
        char **text = f.number == NODE_NAME                 ? &name
                      : f.number == NODE_OP                 ? &op
                      : f.number == NODE_OUTPUT             ? &output
                      : f.number == NODE_INPUT && count < 3 ? &inputs[count++]
                                                            : NULL;
        if (!text) continue;
        free(*text);
        status = field_text(&c, &f, MABN_WEIGHT_MAX_NAME, text);
    }
    char *module = !status && name && op && !strcmp(op, "Conv") ? module_of(name) : NULL;
    if (module) {
        add_rename(r, inputs[1], module, "weight");
        add_rename(r, inputs[2], module, "bias");
    }
    if (!status && op && !strcmp(op, "Conv")) rename_fused_bias(r, inputs[1], inputs[2]);
    r->constants += op && !strcmp(op, "Constant");
    if (!status && op && !strcmp(op, "Identity")) add_shared(r, inputs[0], output);
    free(module);
    free(name);
    free(op);
    free(output);
    for (int i = 0; i < 3; i++)
        free(inputs[i]);
    return status;
}

/* ---- initialisers ---- */

static mabn_status add_named(struct mabn_weights *w, const struct renames *r, const char *own,
                             enum mabn_dtype dtype, const struct tensor *t, size_t bytes)
{
    struct mabn_place place = mabn_place_at(t->data.start);
    const char *name = renamed(r, own);
    enum mabn_weight_part part;
    mabn_weights_split_name(&name, &part);
    return mabn_weights_add(w, name, part, dtype, &t->shape, &place, t->data.start + bytes);
}

/* Add a tensor under its own name and under those that Identity nodes give it. A name that was used
 * is removed from the list, because no two nodes give the same. */
static mabn_status add_names(struct mabn_weights *w, struct renames *r, enum mabn_dtype dtype,
                             const struct tensor *t, size_t bytes)
{
    struct renamed *list = r->shared;
    size_t done = 0, found = 0; /* list[0 .. found): names of this tensor */
    const char *name = t->name;
    mabn_status status;
    for (;;) {
        status = add_named(w, r, name, dtype, t, bytes);
        for (size_t i = found; i < r->n_shared; i++) {
            if (strcmp(list[i].from, name)) continue;
            struct renamed one = list[i];
            list[i] = list[found];
            list[found++] = one;
        }
        if (status || done == found) break;
        name = list[done++].to;
    }
    release_list(list, found);
    r->n_shared -= found;
    memmove(list, list + found, r->n_shared * sizeof *list);
    return status;
}

static void leave_out(struct renames *r, const struct tensor *t)
{
    if (!r->unread++) r->first_unread = mabn_xstrdup(t->name ? t->name : "");
}

/* No module of a network is called so, or its tensors would have a dot in their names. */
static bool is_value(const char *name)
{
    return !strncmp(name, "val_", 4) && name[4] && !name[4 + strspn(name + 4, "0123456789")];
}

static mabn_status add_tensor(struct mabn_weights *w, const struct cursor *c, struct renames *r,
                              const struct tensor *t)
{
    for (int i = 0; i < TYPES; i++) {
        if ((uint64_t)types[i].onnx != t->type) continue;
        size_t count, bytes;
        if (!t->name || !t->name[0]) return damaged(c, "an initialiser without a name");
        if (!mabn_shape_count(&t->shape, &count) ||
            !mabn_size_mul(count, mabn_dtype_size(types[i].dtype), &bytes))
            return damaged(c, "an impossible shape");
        if (!t->data.start && bytes) break; /* as varints, which no exporter uses for weights */
        if ((t->data.number == TENSOR_FLOATS && types[i].dtype != MABN_DTYPE_F32) ||
            (t->data.number == TENSOR_DOUBLES && types[i].dtype != MABN_DTYPE_F64))
            return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': initialiser '%s' is %s, its data are %s",
                             w->source.name, t->name, mabn_dtype_name(types[i].dtype),
                             t->data.number == TENSOR_FLOATS ? "float32" : "float64");
        if (t->data.length != bytes)
            return mabn_fail(MABN_ERR_UNSUPPORTED,
                             "'%s': initialiser '%s' has %llu bytes of data instead of %zu",
                             w->source.name, t->name, (unsigned long long)t->data.length, bytes);
        if (is_value(t->name)) {
            if (!r->values++) r->first_value = mabn_xstrdup(t->name);
            return MABN_OK;
        }
        return add_names(w, r, types[i].dtype, t, bytes);
    }
    leave_out(r, t);
    return MABN_OK;
}

/* As PyTorch's exporter writes them: all in one file beside this one, "model.onnx.data". */
static mabn_status find_external(struct mabn_weights *w, const struct cursor *c, struct tensor *t)
{
    uint64_t begin, size;
    if (!t->location || t->data.start) return damaged(c, "a tensor with data here and elsewhere");
    MABN_TRY(mabn_source_append(&w->source, t->location, &begin, &size));
    if (t->offset > size || t->length > size - t->offset)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s': '%s' is truncated: tensor '%s' is expected at %llu, the file has "
                         "%llu bytes",
                         w->source.name, t->location, t->name ? t->name : "",
                         (unsigned long long)t->offset, (unsigned long long)size);
    t->data = (struct field){.number = TENSOR_RAW,
                             .wire = WIRE_BYTES,
                             .start = begin + t->offset,
                             .length = t->length ? t->length : size - t->offset};
    return MABN_OK;
}

static mabn_status read_tensor(struct mabn_weights *w, struct renames *r, struct cursor c)
{
    struct tensor t = {0};
    struct field f;
    bool more = true;
    mabn_status status = MABN_OK;
    while (!status) {
        status = next_field(&c, &f, &more);
        if (status || !more) break;
        status = read_tensor_field(&c, &t, &f);
    }
    if (!status && t.external) status = find_external(w, &c, &t);
    if (!status) status = add_tensor(w, &c, r, &t);
    free(t.name);
    free(t.location);
    return status;
}

/* Nodes are read first, because they name the initialisers, whichever come first in the file. */
static mabn_status read_graph(struct mabn_weights *w, struct cursor c)
{
    struct renames *r = mabn_xcalloc(1, sizeof *r);
    const struct cursor begin = c;
    struct field f;
    bool more = true;
    mabn_status status = MABN_OK;
    while (!status && !(status = next_field(&c, &f, &more)) && more)
        if (f.number == GRAPH_NODE && f.wire == WIRE_BYTES) status = read_node(r, enter(&c, &f));
    c = begin;
    more = true;
    while (!status && !(status = next_field(&c, &f, &more)) && more)
        if (f.number == GRAPH_INITIALIZER && f.wire == WIRE_BYTES)
            status = read_tensor(w, r, enter(&c, &f));
    if (!status && r->unread)
        mabn_weights_remark(w,
                            "skipped %zu initialiser%s of types or forms that are not read; the "
                            "first is '%s'",
                            r->unread, r->unread == 1 ? "" : "s", r->first_unread);
    if (!status && r->values)
        mabn_weights_remark(w, "skipped %zu constant%s of the exporter's graph; the first is '%s'",
                            r->values, r->values == 1 ? "" : "s", r->first_value);
    if (!status && !w->count && r->constants)
        status = mabn_fail(MABN_ERR_UNSUPPORTED,
                           "'%s' has its tensors in %zu Constant nodes, which are not read: export "
                           "it with initialisers",
                           w->source.name, r->constants);
    release_renames(r);
    return status;
}

static mabn_status read_property(struct mabn_weights *w, struct cursor c)
{
    char *key, *value;
    mabn_status status = read_pair(c, 1 << 20, &key, &value);
    if (!status && key && value) mabn_weights_add_note(w, key, value);
    free(key);
    free(value);
    return status;
}

mabn_status mabn_onnx_open(struct mabn_weights *w)
{
    struct cursor c = {.source = &w->source, .end = w->source.size};
    struct field f;
    bool more, graph = false;
    for (;;) {
        MABN_TRY(next_field(&c, &f, &more));
        if (!more) break;
        if (f.wire != WIRE_BYTES) continue;
        if (f.number == MODEL_GRAPH) {
            if (graph) return damaged(&c, "two graphs");
            graph = true;
            MABN_TRY(read_graph(w, enter(&c, &f)));
        } else if (f.number == MODEL_METADATA) {
            MABN_TRY(read_property(w, enter(&c, &f)));
        }
    }
    return graph ? MABN_OK
                 : damaged(&c, "no graph (models of TensorFlow and Core ML begin likewise)");
}

/* ---- protobuf, written ---- */

static void put_varint(struct mabn_str *out, uint64_t value)
{
    while (value >= 0x80) {
        mabn_str_add_char(out, (char)(value | 0x80));
        value >>= 7;
    }
    mabn_str_add_char(out, (char)value);
}

void mabn_proto_int(struct mabn_str *out, int field, int64_t value)
{
    put_varint(out, (uint64_t)field << 3 | WIRE_VARINT);
    put_varint(out, (uint64_t)value);
}

void mabn_proto_float(struct mabn_str *out, int field, float value)
{
    put_varint(out, (uint64_t)field << 3 | WIRE_32);
    mabn_str_add_bytes(out, &value, 4);
}

/* Only the head of a field of n bytes; the bytes are written elsewhere. */
static void proto_head(struct mabn_str *out, int field, uint64_t n)
{
    put_varint(out, (uint64_t)field << 3 | WIRE_BYTES);
    put_varint(out, n);
}

void mabn_proto_bytes(struct mabn_str *out, int field, const void *bytes, size_t n)
{
    proto_head(out, field, n);
    mabn_str_add_bytes(out, bytes, n);
}

void mabn_proto_text(struct mabn_str *out, int field, const char *text)
{
    mabn_proto_bytes(out, field, text, strlen(text));
}

/* ---- the sink ---- */

struct sink {
    uint64_t *heads, *offsets; /* (count) of each initialiser's head and data in the file */
    struct mabn_str *head;     /* (count) the bytes before its data */
    size_t count;
};

/* GraphProto.initializer up to its raw_data. */
static void tensor_head(struct mabn_str *out, const struct mabn_weight *t)
{
    struct mabn_str body;
    mabn_str_init(&body);
    for (int i = 0; i < t->shape.rank; i++)
        mabn_proto_int(&body, TENSOR_DIMS, t->shape.dim[i]);
    for (int i = 0; i < TYPES; i++)
        if (types[i].dtype == t->dtype) mabn_proto_int(&body, TENSOR_TYPE, types[i].onnx);
    char *name = mabn_weights_join_name(t->name, t->part);
    mabn_proto_text(&body, TENSOR_NAME, name);
    free(name);
    proto_head(&body, TENSOR_RAW, t->bytes);
    proto_head(out, GRAPH_INITIALIZER, body.length + t->bytes);
    mabn_str_add_bytes(out, body.text, body.length);
    mabn_str_release(&body);
}

static void model_head(struct mabn_str *out, const struct mabn_weights_writer *writer)
{
    struct mabn_str inner;
    mabn_str_init(&inner);
    mabn_proto_int(out, MODEL_IR_VERSION, IR_VERSION);
    mabn_proto_text(out, MODEL_PRODUCER, "mabn");
    mabn_proto_int(&inner, OPSET_VERSION, OPSET);
    mabn_proto_bytes(out, MODEL_OPSET, inner.text, inner.length);
    for (size_t i = 0; i < writer->notes.count; i++) {
        mabn_str_clear(&inner);
        mabn_proto_text(&inner, PROPERTY_KEY, writer->notes.items[i].key);
        mabn_proto_text(&inner, PROPERTY_VALUE, writer->notes.items[i].value);
        mabn_proto_bytes(out, MODEL_METADATA, inner.text, inner.length);
    }
    mabn_str_release(&inner);
}

void mabn_weights_set_graph(struct mabn_weights_writer *writer, const struct mabn_str *graph)
{
    mabn_str_clear(&writer->graph);
    mabn_str_add_bytes(&writer->graph, graph->text, graph->length);
}

static mabn_status begin_onnx(struct mabn_weights_writer *writer)
{
    struct sink *s = mabn_xcalloc(1, sizeof *s);
    struct mabn_str model, graph;
    uint64_t tensors = 0;
    writer->backend = s;
    s->heads = mabn_xcalloc(writer->count + 1, sizeof *s->heads);
    s->offsets = mabn_xcalloc(writer->count + 1, sizeof *s->offsets);
    s->head = mabn_xcalloc(writer->count + 1, sizeof *s->head);
    for (; s->count < writer->count; s->count++) {
        mabn_str_init(&s->head[s->count]);
        tensor_head(&s->head[s->count], &writer->items[s->count]);
        tensors += s->head[s->count].length + writer->items[s->count].bytes;
    }
    mabn_str_init(&model);
    mabn_str_init(&graph);
    model_head(&model, writer);
    mabn_proto_text(&graph, GRAPH_NAME, "mabn");
    mabn_str_add_bytes(&graph, writer->graph.text, writer->graph.length);
    proto_head(&model, MODEL_GRAPH, graph.length + tensors);
    mabn_str_add_bytes(&model, graph.text, graph.length);
    mabn_str_release(&graph);
    uint64_t at = model.length;
    for (size_t i = 0; i < writer->count; i++) {
        s->heads[i] = at;
        s->offsets[i] = at + s->head[i].length;
        at = s->offsets[i] + writer->items[i].bytes;
    }
    mabn_status status =
        at < (uint64_t)1 << 31
            ? mabn_outfile_open(&writer->out, writer->path, writer->force)
            : mabn_fail(MABN_ERR_LIMIT, "'%s' would have %llu bytes; ONNX files end at 2 GiB",
                        writer->path, (unsigned long long)at);
    if (!status)
        status = mabn_pwrite_all(writer->out.fd, model.text, model.length, 0, writer->path);
    mabn_str_release(&model);
    return status;
}

static mabn_status put_onnx(struct mabn_weights_writer *writer, size_t index, const void *data)
{
    struct sink *s = writer->backend;
    MABN_TRY(mabn_pwrite_all(writer->out.fd, s->head[index].text, s->head[index].length,
                             s->heads[index], writer->path));
    return mabn_pwrite_all(writer->out.fd, data, writer->items[index].bytes, s->offsets[index],
                           writer->path);
}

static mabn_status finish_onnx(struct mabn_weights_writer *writer)
{
    (void)writer;
    return MABN_OK;
}

static void free_onnx(void *backend)
{
    struct sink *s = backend;
    if (!s) return;
    for (size_t i = 0; i < s->count; i++)
        mabn_str_release(&s->head[i]);
    free(s->head);
    free(s->heads);
    free(s->offsets);
    free(s);
}

const struct mabn_weights_sink mabn_onnx_sink = {begin_onnx, put_onnx, finish_onnx, free_onnx};
