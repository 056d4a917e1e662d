/* Walking the values of a pickle: see pickle_weights.h.
 *
 * Values may be shared or contain themselves. Every walk therefore has a limited depth, and all
 * walks of a file share one budget of steps, so that even a malicious file takes bounded time. */
#include "exchange/pickle_weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/str.h"

enum { MAX_DEPTH = 32, MAX_SCALAR_LIST = 4096 };

struct walk {
    struct mabn_weights *w;
    const struct mabn_pickle *pickle;
    const struct mabn_storage_finder *finder;
    uint64_t steps, budget;
    struct mabn_str path;
    size_t passed_over; /* objects of unknown classes */
    char *first_passed; /* the first one's path and class */
    size_t unread;      /* tensors beside the weights that cannot be read */
    char *first_unread; /* the first one's path, and why */
};

static const struct mabn_pickle_node *at(const struct walk *k, uint32_t value)
{
    return mabn_pickle_at(k->pickle, value);
}

static mabn_status fail_at(const struct walk *k, const char *what)
{
    return mabn_fail(MABN_ERR_FORMAT, "'%s': %s: %s", k->w->source.name,
                     k->path.length ? k->path.text : "the pickled value", what);
}

/* A value that may be valid, but is not read here. Among the weights this is an error; beside them the
 * value is passed over (see read_beside). */
static mabn_status unsupported(const struct walk *k, const char *what)
{
    fail_at(k, what);
    return MABN_ERR_UNSUPPORTED;
}

static mabn_status unsupported_with(const struct walk *k, const char *format, const char *name)
{
    char text[256];
    snprintf(text, sizeof text, format, name);
    return unsupported(k, text);
}

/* `format` takes `name`. */
static mabn_status fail_with(const struct walk *k, const char *format, const char *name)
{
    char text[256];
    snprintf(text, sizeof text, format, name);
    return fail_at(k, text);
}

static mabn_status count_step(struct walk *k, int depth)
{
    if (depth > MAX_DEPTH) return unsupported(k, "nested too deeply (or in itself)");
    if (++k->steps > k->budget)
        return fail_at(k, "the same values are repeated too often (a memo bomb?)");
    return MABN_OK;
}

/* ---- the sizes of tensors ---- */

static bool read_dims(const struct walk *k, uint32_t tuple, int64_t *dims, int *rank)
{
    const struct mabn_pickle_node *t = at(k, tuple);
    if (t->kind != MABN_PICKLE_TUPLE && t->kind != MABN_PICKLE_LIST) return false;
    if (t->u.list.count > MABN_MAX_RANK) return false;
    *rank = (int)t->u.list.count;
    for (int i = 0; i < *rank; i++)
        if (!mabn_pickle_integer(k->pickle, t->u.list.items[i], &dims[i]) || dims[i] < 0)
            return false;
    return true;
}

static bool is_contiguous(const struct mabn_shape *shape, const int64_t *stride)
{
    int64_t expect = 1;
    for (int i = shape->rank - 1; i >= 0; i--) {
        if (shape->dim[i] == 0) return true;
        if (shape->dim[i] != 1 && stride[i] != expect) return false;
        if (__builtin_mul_overflow(expect, shape->dim[i], &expect)) return false;
    }
    return true;
}

/* ---- PyTorch tensors ---- */

/* The other arguments of _rebuild_tensor_v2 and _v3. requires_grad and hooks matter only in
 * training; "neg" and "conj" would change the values. */
static mabn_status check_metadata(struct walk *k, const struct mabn_pickle_node *tensor)
{
    const uint32_t last = tensor->element ? 7 : 6;
    if (tensor->u.list.count > last + 1) return unsupported(k, "a tensor with unknown arguments");
    if (tensor->u.list.count <= last) return MABN_OK;
    const struct mabn_pickle_node *metadata = at(k, tensor->u.list.items[last]);
    if (metadata->kind == MABN_PICKLE_NONE) return MABN_OK;
    if (metadata->kind != MABN_PICKLE_DICT)
        return unsupported(k, "a tensor with unknown arguments");
    for (uint32_t i = 0; i + 1 < metadata->u.list.count; i += 2) {
        const char *key = mabn_pickle_text(k->pickle, metadata->u.list.items[i]);
        int64_t value = 0;
        if (!mabn_pickle_integer(k->pickle, metadata->u.list.items[i + 1], &value) || value)
            return unsupported_with(k, "a tensor whose '%s' is set is not supported",
                                    key ? key : "?");
    }
    return MABN_OK;
}

/* The storage of a tensor: its type, and its bytes in the file. */
static mabn_status find_storage(struct walk *k, uint32_t value, enum mabn_dtype *dtype,
                                uint64_t *offset, uint64_t *size, size_t *storage)
{
    const struct mabn_pickle_node *s = at(k, value);
    if (s->kind != MABN_PICKLE_STORAGE || !k->finder)
        return unsupported(k,
                           "a tensor whose numbers are not beside it: was it written by Python's "
                           "pickle in place of torch.save?");
    const struct mabn_pickle_node *type = at(k, s->u.list.items[1]);
    const char *class = mabn_pickle_class(k->pickle, s->u.list.items[1]);
    if (class) return unsupported_with(k, "numbers of type '%s' are not supported", class);
    if (s->u.list.count > 5 && at(k, s->u.list.items[5])->kind != MABN_PICKLE_NONE)
        return unsupported(k,
                           "a view of a storage, as PyTorch before 0.4 wrote it, is not supported");
    const char *key = mabn_pickle_text(k->pickle, s->u.list.items[2]);
    int64_t count;
    if (type->kind != MABN_PICKLE_GLOBAL || type->u.integer != MABN_GLOBAL_STORAGE || !key ||
        !mabn_pickle_integer(k->pickle, s->u.list.items[4], &count) || count < 0)
        return fail_at(k, "damaged reference to a storage");
    *dtype = (enum mabn_dtype)type->element;
    MABN_TRY(k->finder->find(k->finder->context, key, offset, size, storage));
    uint64_t bytes;
    if (__builtin_mul_overflow((uint64_t)count, mabn_dtype_size(*dtype), &bytes) || bytes > *size)
        return fail_at(k, "its storage is smaller than it claims");
    *size = bytes;
    return MABN_OK;
}

static mabn_status add_tensor(struct walk *k, uint32_t value, enum mabn_weight_part part,
                              const char *name)
{
    const struct mabn_pickle_node *tensor = at(k, value);
    const uint32_t *args = tensor->u.list.items;
    struct mabn_shape shape = {0};
    struct mabn_place place = {0};
    enum mabn_dtype dtype = MABN_DTYPE_F32;
    uint64_t offset = 0, size = 0, skip;
    int64_t first;
    int strides = 0;
    MABN_TRY(find_storage(k, args[0], &dtype, &offset, &size, &place.storage));
    MABN_TRY(check_metadata(k, tensor));
    if (tensor->element) { /* the storage is of bytes */
        const char *class = mabn_pickle_class(k->pickle, args[6]);
        const struct mabn_pickle_node *type = at(k, args[6]);
        if (class) return unsupported_with(k, "numbers of type '%s' are not supported", class);
        if (type->kind != MABN_PICKLE_GLOBAL || type->u.integer != MABN_GLOBAL_TORCH_DTYPE)
            return fail_at(k, "a tensor without a type");
        dtype = (enum mabn_dtype)type->element;
    }
    const struct mabn_pickle_node *dims = at(k, args[2]);
    if (dims->kind == MABN_PICKLE_TUPLE && dims->u.list.count > MABN_MAX_RANK)
        return unsupported(k, "a tensor of more than 8 dimensions");
    if (!mabn_pickle_integer(k->pickle, args[1], &first) || first < 0 ||
        !read_dims(k, args[2], shape.dim, &shape.rank) ||
        !read_dims(k, args[3], place.stride, &strides) || strides != shape.rank)
        return fail_at(k, "damaged shape, stride or offset");
    if (__builtin_mul_overflow((uint64_t)first, mabn_dtype_size(dtype), &skip) || skip > size)
        return fail_at(k, "starts outside its storage");
    place.offset = offset + skip;
    place.strided = !is_contiguous(&shape, place.stride);
    return mabn_weights_add(k->w, name, part, dtype, &shape, &place, offset + size);
}

/* ---- numpy arrays ---- */

/* dtype("f4", …) with the byte order from its state. */
static bool read_dtype(const struct walk *k, uint32_t value, enum mabn_dtype *dtype, bool *swapped)
{
    static const struct {
        const char *name;
        enum mabn_dtype dtype;
    } names[] = {
        {"f4", MABN_DTYPE_F32}, {"f8", MABN_DTYPE_F64}, {"f2", MABN_DTYPE_F16},
        {"i1", MABN_DTYPE_I8},  {"u1", MABN_DTYPE_U8},  {"i2", MABN_DTYPE_I16},
        {"i4", MABN_DTYPE_I32}, {"i8", MABN_DTYPE_I64}, {"b1", MABN_DTYPE_BOOL},
    };
    const struct mabn_pickle_node *d = at(k, value);
    if (d->kind != MABN_PICKLE_DTYPE || d->u.list.count < 1) return false;
    const char *name = mabn_pickle_text(k->pickle, d->u.list.items[0]);
    if (!name) return false;
    char order = '<';
    if (*name == '<' || *name == '>' || *name == '|' || *name == '=') order = *name++;
    if (d->attribute) {
        const struct mabn_pickle_node *state = at(k, d->attribute);
        const char *text =
            state->u.list.count > 1 ? mabn_pickle_text(k->pickle, state->u.list.items[1]) : NULL;
        if (!text || strlen(text) != 1) return false;
        order = *text;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].name, name)) {
            *dtype = names[i].dtype;
            *swapped = order == '>';
            return order == '<' || order == '>' || order == '|' || order == '=';
        }
    return false;
}

/* For messages: as numpy writes it, or "?". */
static const char *type_name(const struct walk *k, uint32_t value)
{
    const struct mabn_pickle_node *d = at(k, value);
    const bool named = d->kind == MABN_PICKLE_DTYPE && d->u.list.count;
    const char *name = named ? mabn_pickle_text(k->pickle, d->u.list.items[0]) : NULL;
    return name ? name : "?";
}

static void fortran_strides(const struct mabn_shape *shape, int64_t *stride)
{
    int64_t step = 1;
    for (int i = 0; i < shape->rank; i++) {
        stride[i] = step;
        if (__builtin_mul_overflow(step, shape->dim[i], &step)) step = INT64_MAX;
    }
}

struct array {
    uint32_t shape, dtype, data;
    bool fortran;
};

static bool array_of(const struct walk *k, const struct mabn_pickle_node *node, struct array *a)
{
    const uint32_t *items = node->u.list.items;
    if (node->kind == MABN_PICKLE_ARRAY) {
        int64_t fortran;
        if (node->u.list.count != 5 || !mabn_pickle_integer(k->pickle, items[3], &fortran))
            return false;
        *a = (struct array){items[1], items[2], items[4], fortran != 0};
    } else {
        const char *order = mabn_pickle_text(k->pickle, items[3]);
        if (!order) return false;
        *a = (struct array){items[2], items[1], items[0], *order == 'F'};
    }
    return true;
}

static mabn_status add_array(struct walk *k, uint32_t value, enum mabn_weight_part part,
                             const char *name)
{
    struct array a;
    struct mabn_shape shape = {0};
    struct mabn_place place = {.storage = SIZE_MAX};
    enum mabn_dtype dtype = MABN_DTYPE_F32;
    size_t count, bytes;
    if (!array_of(k, at(k, value), &a) || !read_dims(k, a.shape, shape.dim, &shape.rank))
        return unsupported(k, "damaged array (or more than 8 dimensions)");
    if (!read_dtype(k, a.dtype, &dtype, &place.swapped))
        return unsupported_with(k, "an array of numpy's type '%s' is not supported",
                                type_name(k, a.dtype));
    if (!mabn_shape_count(&shape, &count) || !mabn_size_mul(count, mabn_dtype_size(dtype), &bytes))
        return fail_at(k, "impossible shape");
    const struct mabn_pickle_node *data = at(k, a.data);
    bool latin1 = data->kind == MABN_PICKLE_LATIN1;
    if (!bytes) { /* protocol 2 writes no bytes at all as a call of `bytes` */
        place = (struct mabn_place){.storage = SIZE_MAX};
        return mabn_weights_add(k->w, name, part, dtype, &shape, &place, 0);
    }
    if ((!latin1 && data->kind != MABN_PICKLE_BYTES) || data->u.string.offset == UINT64_MAX)
        return unsupported(k, "array without bytes");
    uint64_t length = data->u.string.length;
    if (latin1 ? length < bytes || length / 2 > bytes : length != bytes)
        return fail_at(k, "array whose bytes do not fit its shape");
    place.offset = data->u.string.offset;
    place.length = length;
    /* Text as long as the bytes has no byte above 127, so there is nothing to decode. */
    place.latin1 = latin1 && length != bytes;
    if (a.fortran && shape.rank > 1) {
        if (place.latin1)
            return unsupported(k, "array in Fortran order inside text is not supported");
        fortran_strides(&shape, place.stride);
        place.strided = !is_contiguous(&shape, place.stride);
    }
    return mabn_weights_add(k->w, name, part, dtype, &shape, &place, place.offset + length);
}

/* ---- everything else ---- */

/* The text of a number, boolean or string; false for other kinds. */
static bool scalar_text(const struct walk *k, uint32_t value, struct mabn_str *text)
{
    const struct mabn_pickle_node *node = at(k, value);
    const char *s;
    switch ((enum mabn_pickle_kind)node->kind) {
    case MABN_PICKLE_BOOL:
        mabn_str_add(text, node->u.integer ? "true" : "false");
        return true;
    case MABN_PICKLE_INT:
        mabn_str_printf(text, "%" PRId64, node->u.integer);
        return true;
    case MABN_PICKLE_FLOAT:
        mabn_str_add_double(text, node->u.number);
        return true;
    case MABN_PICKLE_TEXT:
    case MABN_PICKLE_BYTES:
        s = mabn_pickle_text(k->pickle, value);
        if (s) mabn_str_add(text, s);
        return s != NULL;
    default:
        return false;
    }
}

/* A short list of numbers as one note: "[0.1, 0.2]". */
static bool scalar_list(const struct walk *k, const struct mabn_pickle_node *list,
                        struct mabn_str *text)
{
    if (list->u.list.count > MAX_SCALAR_LIST) return false;
    mabn_str_add(text, "[");
    for (uint32_t i = 0; i < list->u.list.count; i++) {
        if (i) mabn_str_add(text, ", ");
        if (!scalar_text(k, list->u.list.items[i], text)) return false;
    }
    mabn_str_add(text, "]");
    return true;
}

static void add_note(struct walk *k, uint32_t value)
{
    struct mabn_str text;
    mabn_str_init(&text);
    const struct mabn_pickle_node *node = at(k, value);
    bool list = node->kind == MABN_PICKLE_LIST || node->kind == MABN_PICKLE_TUPLE;
    if (list ? scalar_list(k, node, &text) : scalar_text(k, value, &text))
        mabn_weights_add_note(k->w, k->path.text, text.text);
    mabn_str_release(&text);
}

static bool has_tensor(const struct walk *k, const struct mabn_pickle_node *node)
{
    for (uint32_t i = 0; i < node->u.list.count; i++) {
        unsigned kind = at(k, node->u.list.items[i])->kind;
        if (kind == MABN_PICKLE_TENSOR || kind == MABN_PICKLE_ARRAY || kind == MABN_PICKLE_BUFFER ||
            kind == MABN_PICKLE_DICT || kind == MABN_PICKLE_LIST || kind == MABN_PICKLE_TUPLE ||
            kind == MABN_PICKLE_OPAQUE)
            return true;
    }
    return false;
}

/* Objects of other classes are not used and never called. A tensor of a kind that is not read is
 * not such an object. */
static mabn_status pass_over(struct walk *k, const char *class)
{
    bool tensor = !strncmp(class, "torch.", 6) &&
                  (strstr(class, "_rebuild") || strstr(class, "Tensor") || strstr(class, "tensor"));
    if (tensor) return unsupported_with(k, "a tensor made by '%s' is not supported", class);
    if (!k->passed_over++) k->first_passed = mabn_xasprintf("'%s' (%s)", k->path.text, class);
    return MABN_OK;
}

/* Append ".key" to the path. Returns the old length, to cut it back, or SIZE_MAX for an unusable
 * key. */
static size_t enter(struct walk *k, const char *key, int64_t number)
{
    size_t before = k->path.length;
    if (key && (!*key || strlen(key) + before + 1 > MABN_WEIGHT_MAX_NAME)) return SIZE_MAX;
    if (before) mabn_str_add_char(&k->path, '.');
    if (key)
        mabn_str_add(&k->path, key);
    else
        mabn_str_printf(&k->path, "%" PRId64, number);
    return before;
}

static void leave(struct walk *k, size_t length)
{
    k->path.length = length;
    if (k->path.capacity) k->path.text[length] = 0;
}

static mabn_status visit(struct walk *k, uint32_t value, enum mabn_weight_part part, size_t root,
                         int depth);

/* Values beside the weights never stop the reading: one that cannot be read is counted, and all are
 * reported once. `status` is the result of reading this one. A list in the dict of the weights is beside
 * them, too, since weights have names. */
static mabn_status read_beside(struct walk *k, enum mabn_weight_part part, bool list,
                               mabn_status status)
{
    if (status != MABN_ERR_UNSUPPORTED || (part == MABN_WEIGHT_MODEL && !list)) return status;
    const char *why = strstr(mabn_error_message(), "': "); /* after 'FILE': */
    if (!k->unread++) k->first_unread = mabn_xstrdup(why ? why + 3 : mabn_error_message());
    mabn_error_clear();
    return MABN_OK;
}

/* The key of a dict's item, as text or as a number; false: it is neither, or no part of a name. */
static bool read_key(const struct walk *k, uint32_t value, const char **key, int64_t *number)
{
    *key = mabn_pickle_text(k->pickle, value);
    return *key || mabn_pickle_integer(k->pickle, value, number);
}

static mabn_status visit_items(struct walk *k, uint32_t value, enum mabn_weight_part part,
                               size_t root, int depth)
{
    const struct mabn_pickle_node *node = at(k, value);
    bool dict = node->kind == MABN_PICKLE_DICT;
    for (uint32_t i = 0; i < node->u.list.count; i += dict ? 2 : 1) {
        const char *key = NULL;
        int64_t number = i;
        uint32_t item = node->u.list.items[dict ? i + 1 : i];
        if (dict && !read_key(k, node->u.list.items[i], &key, &number)) {
            MABN_TRY(read_beside(k, part, !dict,
                                 unsupported(k, "a key that is neither text nor a whole number")));
            continue;
        }
        size_t before = enter(k, key, number);
        if (before == SIZE_MAX) {
            MABN_TRY(read_beside(k, part, !dict, unsupported(k, "an empty or very long key")));
            continue;
        }
        MABN_TRY(read_beside(k, part, !dict, visit(k, item, part, root, depth + 1)));
        leave(k, before);
    }
    return MABN_OK;
}

/* A name is the path without its first `root` bytes. */
static mabn_status visit(struct walk *k, uint32_t value, enum mabn_weight_part part, size_t root,
                         int depth)
{
    MABN_TRY(count_step(k, depth));
    const struct mabn_pickle_node *node = at(k, value);
    const char *name = k->path.text + root;
    switch ((enum mabn_pickle_kind)node->kind) {
    case MABN_PICKLE_TENSOR:
        return add_tensor(k, value, part, name);
    case MABN_PICKLE_ARRAY:
    case MABN_PICKLE_BUFFER:
        return add_array(k, value, part, name);
    case MABN_PICKLE_LIST:
    case MABN_PICKLE_TUPLE:
        if (has_tensor(k, node)) return visit_items(k, value, part, root, depth);
        add_note(k, value);
        return MABN_OK;
    case MABN_PICKLE_DICT:
        return visit_items(k, value, part, root, depth);
    case MABN_PICKLE_OPAQUE:
        return pass_over(k, mabn_pickle_class(k->pickle, value));
    default:
        add_note(k, value);
        return MABN_OK;
    }
}

/* ---- the optimizer ---- */

bool mabn_is_buffer_name(const char *name)
{
    static const char *const buffers[] = {
        "running_mean", "running_var", "num_batches_tracked", "iters",     "sta_matrix",
        "pre_x2",       "pre_gz",      "buffer_x2",           "buffer_gz",
    };
    const char *dot = strrchr(name, '.');
    const char *last = dot ? dot + 1 : name;
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if (!strcmp(last, buffers[i])) return true;
    return strstr(name, "cell_anchors.") != NULL;
}

/* A momentum buffer found in the optimizer's state, and the parameter that it belongs to. */
struct momentum {
    uint32_t tensor; /* 0: this parameter has none */
    int group;
    int64_t id;
    const char *name;
};

struct momenta {
    struct momentum *items;
    size_t count, capacity;
};

/* state[id]["momentum_buffer"]; 0 when there is none. */
static uint32_t momentum_of(const struct walk *k, uint32_t state, uint32_t id)
{
    const struct mabn_pickle_node *s = at(k, state);
    int64_t want, have;
    if (s->kind != MABN_PICKLE_DICT || !mabn_pickle_integer(k->pickle, id, &want)) return 0;
    for (uint32_t i = 0; i + 1 < s->u.list.count; i += 2)
        if (mabn_pickle_integer(k->pickle, s->u.list.items[i], &have) && have == want) {
            uint32_t t = mabn_pickle_get(k->pickle, s->u.list.items[i + 1], "momentum_buffer");
            return at(k, t)->kind == MABN_PICKLE_TENSOR ? t : 0;
        }
    return 0;
}

/* All parameters of all groups, in order. */
static mabn_status list_momenta(struct walk *k, uint32_t optimizer, struct momenta *m)
{
    uint32_t state = mabn_pickle_get(k->pickle, optimizer, "state");
    const struct mabn_pickle_node *groups =
        at(k, mabn_pickle_get(k->pickle, optimizer, "param_groups"));
    if (groups->kind != MABN_PICKLE_LIST) return MABN_OK;
    for (uint32_t g = 0; g < groups->u.list.count; g++) {
        uint32_t group = groups->u.list.items[g];
        const struct mabn_pickle_node *ids = at(k, mabn_pickle_get(k->pickle, group, "params"));
        const struct mabn_pickle_node *names =
            at(k, mabn_pickle_get(k->pickle, group, "param_names"));
        if (ids->kind != MABN_PICKLE_LIST) continue;
        bool named = names->kind == MABN_PICKLE_LIST && names->u.list.count == ids->u.list.count;
        for (uint32_t i = 0; i < ids->u.list.count; i++) {
            uint32_t id = ids->u.list.items[i];
            struct momentum one = {.group = m->count ? m->items[m->count - 1].group : 0};
            if (i == 0 && m->count) one.group++; /* groups without parameters do not count */
            /* The search below is linear: each comparison takes a step of the budget. */
            k->steps += at(k, state)->kind == MABN_PICKLE_DICT ? at(k, state)->u.list.count / 8 : 0;
            MABN_TRY(count_step(k, 0));
            one.tensor = momentum_of(k, state, id);
            if (!mabn_pickle_integer(k->pickle, id, &one.id)) one.id = (int64_t)m->count;
            if (named) one.name = mabn_pickle_text(k->pickle, names->u.list.items[i]);
            MABN_GROW(m->items, m->count, m->capacity);
            m->items[m->count++] = one;
        }
    }
    return MABN_OK;
}

static bool same_shape(const struct walk *k, uint32_t tensor, const struct mabn_shape *shape)
{
    struct mabn_shape s = {0};
    return !tensor || (read_dims(k, at(k, tensor)->u.list.items[2], s.dim, &s.rank) &&
                       mabn_shape_equal(&s, shape));
}

/* Pair them with the last momenta->count of the given parameters, because frozen parts come first.
 */
static bool pair_in_order(const struct walk *k, struct momenta *m, const size_t *parameters,
                          size_t count)
{
    if (!m->count || m->count > count) return false;
    const size_t skip = count - m->count;
    for (size_t i = 0; i < m->count; i++) {
        const struct mabn_weight *t = &k->w->entries[parameters[skip + i]].weight;
        if (!same_shape(k, m->items[i].tensor, &t->shape)) return false;
    }
    for (size_t i = 0; i < m->count; i++)
        m->items[i].name = k->w->entries[parameters[skip + i]].weight.name;
    return true;
}

static bool has_model(const struct mabn_weights *w, const char *stem, const char *leaf)
{
    char *name = mabn_xasprintf("%s%s", stem, leaf);
    bool found = false;
    for (size_t i = 0; i < w->count && !found; i++)
        found = w->entries[i].weight.part == MABN_WEIGHT_MODEL &&
                !strcmp(w->entries[i].weight.name, name);
    free(name);
    return found;
}

/* A frozen norm keeps weight and bias as buffers. It has a running_mean but no counter of batches.
 */
static bool in_frozen_norm(const struct mabn_weights *w, const char *name)
{
    const char *dot = strrchr(name, '.');
    if (!dot) return false;
    char *stem = mabn_xstrndup(name, (size_t)(dot - name));
    bool frozen =
        has_model(w, stem, ".running_mean") && !has_model(w, stem, ".num_batches_tracked");
    free(stem);
    return frozen;
}

/* ---- several groups ----
 *
 * A program that treats some parameters differently (no decay for norms, another rate for the
 * classifier) goes through the model once and puts each parameter into its group. Within a group
 * the model's order is kept. A parameter's kind decides on its group. */

enum kind { WEIGHT, NORM_WEIGHT, NORM_BIAS, BIAS, LAST_WEIGHT, LAST_BIAS, KINDS };
enum { MAX_PARAMETERS = 4096, MAX_GROUPS = 4 };

/* last_layer: the name of the last layer, which is the classifier. */
static enum kind kind_of(const struct mabn_weights *w, const struct mabn_weight *t,
                         const char *last_layer)
{
    const char *dot = strrchr(t->name, '.');
    bool bias = dot && !strcmp(dot, ".bias");
    size_t stem = dot ? (size_t)(dot - t->name) : 0;
    if (dot && strlen(last_layer) == stem && !strncmp(t->name, last_layer, stem))
        return bias ? LAST_BIAS : LAST_WEIGHT;
    if (t->shape.rank > 1) return WEIGHT;
    if (!bias) return NORM_WEIGHT;
    char *weight = mabn_xasprintf("%.*s.weight", (int)stem, t->name);
    enum kind kind = BIAS;
    for (size_t i = 0; i < w->count; i++)
        if (w->entries[i].weight.part == MABN_WEIGHT_MODEL &&
            !strcmp(w->entries[i].weight.name, weight) && w->entries[i].weight.shape.rank == 1)
            kind = NORM_BIAS;
    free(weight);
    return kind;
}

static int groups_of(const struct momenta *m)
{
    return m->count ? m->items[m->count - 1].group + 1 : 0;
}

/* Assuming that each kind is in the group given by `group`: pairing[i] is the parameter of momentum
 * i. */
static bool pair_by_kinds(const struct walk *k, const struct momenta *m, const size_t *parameters,
                          const enum kind *kinds, size_t count, const int group[KINDS],
                          size_t *pairing)
{
    size_t next[MAX_GROUPS] = {0}, end[MAX_GROUPS] = {0};
    for (size_t i = m->count; i-- > 0;)
        next[m->items[i].group] = i;
    for (size_t i = 0; i < m->count; i++)
        end[m->items[i].group] = i + 1;
    for (size_t i = 0; i < count; i++) {
        int g = group[kinds[i]];
        const struct mabn_weight *t = &k->w->entries[parameters[i]].weight;
        if (next[g] == end[g] || !same_shape(k, m->items[next[g]].tensor, &t->shape)) return false;
        pairing[next[g]++] = parameters[i];
    }
    return true;
}

/* The next assignment of kinds to groups. Kinds that the model does not have stay in group 0. */
static bool next_assignment(int group[KINDS], const bool has[KINDS], int groups)
{
    for (int i = 0; i < KINDS; i++) {
        if (!has[i]) continue;
        if (++group[i] < groups) return true;
        group[i] = 0;
    }
    return false;
}

/* All assignments that fit must lead to the same pairs; otherwise it is unknown which is meant. */
static const char *pair_groups(const struct walk *k, struct momenta *m, const size_t *parameters,
                               size_t count)
{
    if (m->count != count) return "they are not as many as the model's parameters";
    if (groups_of(m) > MAX_GROUPS) return "they are in too many groups without names";
    enum kind *kinds = mabn_xmalloc((count + 1) * sizeof *kinds);
    size_t *found = mabn_xmalloc((count + 1) * sizeof *found);
    size_t *pairing = mabn_xmalloc((count + 1) * sizeof *pairing);
    bool has[KINDS] = {false}, any = false, unclear = false;
    int group[KINDS] = {0};
    const char *last = count ? k->w->entries[parameters[count - 1]].weight.name : "";
    const char *dot = strrchr(last, '.');
    char *layer = mabn_xstrndup(last, dot ? (size_t)(dot - last) : 0);
    for (size_t i = 0; i < count; i++) {
        kinds[i] = kind_of(k->w, &k->w->entries[parameters[i]].weight, layer);
        has[kinds[i]] = true;
    }
    do {
        if (!pair_by_kinds(k, m, parameters, kinds, count, group, pairing)) continue;
        unclear |= any && memcmp(found, pairing, count * sizeof *found);
        if (!any) memcpy(found, pairing, count * sizeof *found);
        any = true;
    } while (next_assignment(group, has, groups_of(m)));
    for (size_t i = 0; i < count && any && !unclear; i++)
        m->items[i].name = k->w->entries[found[i]].weight.name;
    free(layer);
    free(pairing);
    free(found);
    free(kinds);
    if (unclear) return "their shapes fit the model's parameters in more than one order";
    return any ? NULL : "their shapes do not fit the model's parameters in any order known here";
}

/* Names for momenta without names: the model's parameters in order, or, where that does not fit,
 * without those of frozen norms. In both, leading parameters (frozen stages) may be missing. Then
 * by groups. Returns NULL, or the reason why there are none. */
static const char *pair_momenta(const struct walk *k, struct momenta *m)
{
    size_t *parameters = mabn_xmalloc((k->w->count + 1) * sizeof *parameters), count = 0, kept = 0;
    size_t *trained = mabn_xmalloc((k->w->count + 1) * sizeof *trained);
    const char *why = "the model has too many parameters";
    for (size_t i = 0; i < k->w->count; i++)
        if (k->w->entries[i].weight.part == MABN_WEIGHT_MODEL &&
            !mabn_is_buffer_name(k->w->entries[i].weight.name))
            parameters[count++] = i;
    if (pair_in_order(k, m, parameters, count)) {
        why = NULL;
    } else if (count <= MAX_PARAMETERS) {
        for (size_t i = 0; i < count; i++)
            if (!in_frozen_norm(k->w, k->w->entries[parameters[i]].weight.name))
                trained[kept++] = parameters[i];
        why = pair_in_order(k, m, trained, kept) ? NULL : pair_groups(k, m, parameters, count);
    }
    free(trained);
    free(parameters);
    return why;
}

/* State of other kinds, such as Adam's averages, is not read. */
static void tell_other_state(struct walk *k, uint32_t optimizer)
{
    const struct mabn_pickle_node *state = at(k, mabn_pickle_get(k->pickle, optimizer, "state"));
    size_t without = 0;
    const char *first = NULL;
    if (state->kind != MABN_PICKLE_DICT) return;
    for (uint32_t i = 0; i + 1 < state->u.list.count; i += 2) {
        const struct mabn_pickle_node *one = at(k, state->u.list.items[i + 1]);
        if (one->kind != MABN_PICKLE_DICT || !one->u.list.count ||
            mabn_pickle_has(k->pickle, state->u.list.items[i + 1], "momentum_buffer"))
            continue;
        if (!without++) first = mabn_pickle_text(k->pickle, one->u.list.items[0]);
    }
    if (without)
        mabn_weights_remark(k->w,
                            "the optimizer's state of %zu parameters is left out: '%s' is not the "
                            "momentum of stochastic gradient descent",
                            without, first ? first : "?");
}

static mabn_status visit_optimizer(struct walk *k, uint32_t optimizer)
{
    struct momenta m = {0};
    mabn_status status = list_momenta(k, optimizer, &m);
    bool named = m.count > 0;
    size_t tensors = 0;
    for (size_t i = 0; i < m.count; i++) {
        if (!m.items[i].name) named = false;
        tensors += m.items[i].tensor != 0;
    }
    const char *why = !status && !named && tensors ? pair_momenta(k, &m) : NULL;
    if (why)
        mabn_weights_remark(k->w, "the momentum of %zu parameters (%d group%s) is left out: %s",
                            tensors, groups_of(&m), groups_of(&m) == 1 ? "" : "s", why);
    for (size_t i = 0; i < m.count && !status; i++) {
        const struct momentum *one = &m.items[i];
        if (!one->tensor) continue;
        char name[64];
        snprintf(name, sizeof name, "optimizer.state.%" PRId64 ".momentum_buffer", one->id);
        const size_t before = enter(k, one->name ? "momentum" : name, 0);
        const enum mabn_weight_part part = one->name ? MABN_WEIGHT_MOMENTUM : MABN_WEIGHT_OTHER;
        status = read_beside(k, part, false,
                             add_tensor(k, one->tensor, part, one->name ? one->name : name));
        leave(k, before);
    }
    free(m.items);
    if (!status) tell_other_state(k, optimizer);
    return status;
}

/* The learning rate and its companions, from the first group. */
static void note_groups(struct walk *k, uint32_t optimizer)
{
    static const char *const keys[] = {"lr", "momentum", "dampening", "weight_decay", "nesterov"};
    const struct mabn_pickle_node *groups =
        at(k, mabn_pickle_get(k->pickle, optimizer, "param_groups"));
    if (groups->kind != MABN_PICKLE_LIST || !groups->u.list.count) return;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t value = mabn_pickle_get(k->pickle, groups->u.list.items[0], keys[i]);
        size_t before = enter(k, "optimizer", 0);
        enter(k, keys[i], 0);
        if (value) add_note(k, value);
        leave(k, before);
    }
}

/* ---- the root ---- */

/* Notes that our own writer put into the state dict's _metadata. */
static void read_own_notes(struct walk *k, uint32_t model)
{
    uint32_t attributes = at(k, model)->attribute;
    if (!attributes) return;
    uint32_t metadata = mabn_pickle_get(k->pickle, attributes, "_metadata");
    const struct mabn_pickle_node *own =
        at(k, mabn_pickle_get(k->pickle, metadata, MABN_TORCH_NOTES));
    if (own->kind != MABN_PICKLE_DICT) return;
    for (uint32_t i = 0; i + 1 < own->u.list.count; i += 2) {
        const char *key = mabn_pickle_text(k->pickle, own->u.list.items[i]);
        const struct mabn_pickle_node *value = at(k, own->u.list.items[i + 1]);
        if (!key || value->kind != MABN_PICKLE_TEXT || value->u.string.length > 1 << 20) continue;
        size_t n = (size_t)value->u.string.length;
        char *text = mabn_xcalloc(1, n + 1);
        if (!mabn_source_read(&k->w->source, value->u.string.offset, text, n) && strlen(text) == n)
            mabn_weights_add_note(k->w, key, text);
        free(text);
    }
}

/* The names that training programs give to the weights and to their moving average. Where a student
 * learns from its own average, that is called the teacher. */
static const char *const model_keys[] = {
    "model",  "state_dict", "model_state_dict", "blobs",       "module",         "net", "network",
    "params", "student",    "weights",          "model_state", "net_state_dict", NULL};
static const char *const average_keys[] = {"model_ema",
                                           "state_dict_ema",
                                           "ema_state_dict",
                                           "model_ema_state_dict",
                                           "ema_model",
                                           "ema",
                                           "params_ema",
                                           "teacher",
                                           "swa_model",
                                           "swa_state_dict",
                                           "model_average",
                                           "ema_weights",
                                           "ema_params",
                                           "ema_net",
                                           "net_ema",
                                           "swa",
                                           "avg_model",
                                           "teacher_model",
                                           "teacher_state_dict",
                                           "ema_model_state_dict",
                                           "swa_model_state_dict",
                                           "weights_ema",
                                           "averaged_model",
                                           NULL};

/* Is it a dict that holds a tensor itself, not only in a dict within? */
static bool holds_tensors(const struct walk *k, uint32_t dict)
{
    const struct mabn_pickle_node *node = at(k, dict);
    if (node->kind != MABN_PICKLE_DICT) return false;
    for (uint32_t i = 1; i < node->u.list.count; i += 2) {
        unsigned kind = at(k, node->u.list.items[i])->kind;
        if (kind == MABN_PICKLE_TENSOR || kind == MABN_PICKLE_ARRAY || kind == MABN_PICKLE_BUFFER)
            return true;
    }
    return false;
}

/* The value of the first of these keys that fits: under the first `lax` keys any dict does, under the
 * others only one that holds tensors. */
static uint32_t find_first(const struct walk *k, uint32_t root, const char *const *keys, size_t lax,
                           const char **key)
{
    for (size_t i = 0; keys[i]; i++) {
        uint32_t value = mabn_pickle_get(k->pickle, root, keys[i]);
        if (i < lax ? at(k, value)->kind == MABN_PICKLE_DICT : holds_tensors(k, value)) {
            *key = keys[i];
            return value;
        }
    }
    *key = NULL;
    return 0;
}

/* Below an average's key its tensors may be one nest deeper, beside its decay and its counters. */
static const char *const average_nests[] = {"shadow",
                                            "module",
                                            "model",
                                            "state_dict",
                                            "params",
                                            "ema_model",
                                            "model_ema",
                                            "ema_state_dict",
                                            "model_state_dict",
                                            "averaged_model",
                                            "weights",
                                            "shadow_params",
                                            NULL};

static bool is_list_of_tensors(const struct walk *k, uint32_t value)
{
    const struct mabn_pickle_node *node = at(k, value);
    if (node->kind != MABN_PICKLE_LIST || !node->u.list.count) return false;
    for (uint32_t i = 0; i < node->u.list.count; i++)
        if (at(k, node->u.list.items[i])->kind != MABN_PICKLE_TENSOR) return false;
    return true;
}

/* Is one of its keys the name of a layer's weight? */
static bool is_state_dict(const struct walk *k, uint32_t dict)
{
    const struct mabn_pickle_node *node = at(k, dict);
    if (!holds_tensors(k, dict)) return false;
    for (uint32_t i = 0; i < node->u.list.count; i += 2) {
        const char *key = mabn_pickle_text(k->pickle, node->u.list.items[i]);
        const size_t n = key ? strlen(key) : 0;
        if (n > 7 && !strcmp(key + n - 7, ".weight")) return true;
    }
    return false;
}

/* The tensors of an average in or below `found`, the value of `key`: their path, malloc'd; NULL: none. */
static char *average_below(const struct walk *k, uint32_t found, const char *key, uint32_t *value)
{
    for (size_t n = 0; at(k, found)->kind == MABN_PICKLE_DICT && average_nests[n]; n++) {
        *value = mabn_pickle_get(k->pickle, found, average_nests[n]);
        if (holds_tensors(k, *value) || is_list_of_tensors(k, *value))
            return mabn_xasprintf("%s.%s", key, average_nests[n]);
    }
    *value = found;
    return holds_tensors(k, found) || is_list_of_tensors(k, found) ? mabn_xstrdup(key) : NULL;
}

/* Does a key that is not in the list speak of an average? "ema_0.9999", "polyak_state". */
static bool speaks_of_average(const char *key)
{
    static const char *const words[] = {"ema",     "swa",      "polyak",  "avg",
                                        "average", "averaged", "teacher", NULL};
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    while (*(key += strcspn(key, letters))) {
        const size_t n = strspn(key, letters);
        for (size_t i = 0; words[i]; i++)
            if (strlen(words[i]) == n && !strncasecmp(key, words[i], n)) return true;
        key += n;
    }
    return false;
}

/* The average of the root: its path, malloc'd, its value and the key it is below; NULL: none. */
static char *find_average(const struct walk *k, uint32_t root, uint32_t *value, const char **key)
{
    const struct mabn_pickle_node *node = at(k, root);
    char *path = NULL;
    for (size_t i = 0; average_keys[i] && !path; i++) {
        *key = average_keys[i];
        path = average_below(k, mabn_pickle_get(k->pickle, root, *key), *key, value);
    }
    for (uint32_t i = 0; i + 1 < node->u.list.count && !path; i += 2) {
        *key = mabn_pickle_text(k->pickle, node->u.list.items[i]);
        if (!*key || !speaks_of_average(*key)) continue;
        path = average_below(k, node->u.list.items[i + 1], *key, value);
        if (path && is_state_dict(k, *value)) continue;
        free(path); /* a figure's average */
        path = NULL;
    }
    return path;
}

static int state_dicts_in(const struct walk *k, uint32_t dict)
{
    const struct mabn_pickle_node *node = at(k, dict);
    int n = 0;
    for (uint32_t i = 1; node->kind == MABN_PICKLE_DICT && i < node->u.list.count; i += 2)
        n += is_state_dict(k, node->u.list.items[i]);
    return n;
}

/* The weights where no key is known: the one state dict below the root that is not below `except`, else the
 * root itself. */
static uint32_t find_state_dict(const struct walk *k, uint32_t root, const char *except,
                                const char **key)
{
    const struct mabn_pickle_node *node = at(k, root);
    uint32_t found = 0;
    for (uint32_t i = 0; i + 1 < node->u.list.count && !holds_tensors(k, root); i += 2) {
        const uint32_t value = node->u.list.items[i + 1];
        const char *text = mabn_pickle_text(k->pickle, node->u.list.items[i]);
        if (!text || !is_state_dict(k, value) || (except && !strcmp(text, except))) continue;
        if (found) {
            *key = NULL;
            return root;
        }
        found = value;
        *key = text;
    }
    return found ? found : root;
}

static bool is_optimizer(const char *key)
{
    return !strcmp(key, "optimizer") || !strcmp(key, "optimizer_state_dict") ||
           !strcmp(key, "optim");
}

/* Everything besides the model. */
static mabn_status visit_rest(struct walk *k, uint32_t root, const char *model_key)
{
    const struct mabn_pickle_node *node = at(k, root);
    for (uint32_t i = 0; i + 1 < node->u.list.count; i += 2) {
        const char *key = mabn_pickle_text(k->pickle, node->u.list.items[i]);
        uint32_t value = node->u.list.items[i + 1];
        if (key && !strcmp(key, model_key)) continue;
        if (key && is_optimizer(key) && at(k, value)->kind == MABN_PICKLE_DICT) {
            MABN_TRY(visit_optimizer(k, value));
            note_groups(k, value);
            continue;
        }
        int64_t number = 0;
        const bool named = read_key(k, node->u.list.items[i], &key, &number);
        size_t before = named ? enter(k, key, number) : SIZE_MAX;
        if (before == SIZE_MAX) {
            MABN_TRY(
                read_beside(k, MABN_WEIGHT_OTHER, false, unsupported(k, "a key that is no name")));
            continue;
        }
        bool own = key && !strcmp(key, "mabn_other") && at(k, value)->kind == MABN_PICKLE_DICT;
        size_t skip = own ? k->path.length + 1 : 0; /* as our own writer nests them */
        MABN_TRY(
            read_beside(k, MABN_WEIGHT_OTHER, false, visit(k, value, MABN_WEIGHT_OTHER, skip, 1)));
        leave(k, before);
    }
    return MABN_OK;
}

static mabn_status visit_root(struct walk *k)
{
    const char *key, *below;
    uint32_t root = k->pickle->root;
    const char *class = mabn_pickle_class(k->pickle, root);
    if (class)
        return fail_with(k,
                         "refused: a '%s', not a dictionary of named tensors (save the "
                         "network's state_dict())",
                         class);
    if (at(k, root)->kind != MABN_PICKLE_DICT)
        return fail_at(k, "not a dictionary of named tensors");
    uint32_t model = find_first(k, root, model_keys, 4, &key);
    uint32_t value = 0;
    char *average = find_average(k, root, &value, &below);
    if (!key && average) model = find_state_dict(k, root, below, &key);
    if (!key && average && at(k, value)->kind == MABN_PICKLE_DICT) {
        key = below;
        model = value;
        k->w->is_average = true;
        mabn_weights_remark(k->w, "the weights are the moving average '%s': %s", average,
                            state_dicts_in(k, mabn_pickle_get(k->pickle, root, below)) > 1
                                ? "the others beside it are left out"
                                : "there are no others");
    } else if (key && average) {
        k->w->average = average;
        average = NULL;
    }
    free(average);
    if (!key) model = find_state_dict(k, root, NULL, &key);
    read_own_notes(k, model);
    MABN_TRY(visit(k, model, MABN_WEIGHT_MODEL, 0, 0));
    return key ? visit_rest(k, root, key) : MABN_OK;
}

mabn_status mabn_pickle_to_weights(struct mabn_weights *w, const struct mabn_pickle *pickle,
                                   const struct mabn_storage_finder *finder)
{
    struct walk k = {.w = w, .pickle = pickle, .finder = finder};
    k.budget = 4 * (uint64_t)pickle->count + 4096;
    mabn_str_init(&k.path);
    mabn_status status = visit_root(&k);
    if (!status && k.passed_over)
        mabn_weights_remark(w, "skipped %zu object%s of other classes; the first is %s",
                            k.passed_over, k.passed_over == 1 ? "" : "s", k.first_passed);
    if (!status && k.unread)
        mabn_weights_remark(w, "skipped %zu value%s beside the weights; the first is %s", k.unread,
                            k.unread == 1 ? "" : "s", k.first_unread);
    free(k.first_passed);
    free(k.first_unread);
    mabn_str_release(&k.path);
    return status;
}
