/* The table of a file's attributes and items: its bytes behind the HDF5 part, and back.
 *
 * The parser believes nothing: every count is compared with the bytes that are left before
 * anything is allocated, every range with the file. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "store/h5_private.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are written as memory holds them");

static const struct {
    const char *name;
    size_t size;
} types[] = {
    [MABN_H5_F32] = {"float32", 4}, [MABN_H5_F64] = {"float64", 8},
    [MABN_H5_F16] = {"float16", 2}, [MABN_H5_BF16] = {"bfloat16", 2},
    [MABN_H5_U8] = {"uint8", 1},    [MABN_H5_I8] = {"int8", 1},
    [MABN_H5_U16] = {"uint16", 2},  [MABN_H5_I16] = {"int16", 2},
    [MABN_H5_U32] = {"uint32", 4},  [MABN_H5_I32] = {"int32", 4},
    [MABN_H5_U64] = {"uint64", 8},  [MABN_H5_I64] = {"int64", 8},
    [MABN_H5_BOOL] = {"bool", 1},   [MABN_H5_STRING] = {"string", 0},
};

static bool type_known(unsigned type)
{
    return type < sizeof types / sizeof *types && types[type].name;
}

size_t mabn_h5_type_size(enum mabn_h5_type type)
{
    return type_known(type) ? types[type].size : 0;
}

const char *mabn_h5_type_name(enum mabn_h5_type type)
{
    return type_known(type) ? types[type].name : "unknown";
}

/* ---- the table ---- */

void mabn_h5_table_release(struct mabn_h5_table *t)
{
    for (size_t i = 0; i < t->item_count; i++)
        free((char *)(uintptr_t)t->items[i].name);
    for (size_t i = 0; i < t->attribute_count; i++) {
        free(t->attributes[i].name);
        free(t->attributes[i].text);
    }
    free(t->items);
    free(t->attributes);
    free(t->by_name);
    *t = (struct mabn_h5_table){0};
}

struct mabn_h5_attribute *mabn_h5_table_attribute(const struct mabn_h5_table *t, const char *name)
{
    for (size_t i = 0; i < t->attribute_count; i++)
        if (!strcmp(t->attributes[i].name, name)) return &t->attributes[i];
    return NULL;
}

struct mabn_h5_attribute *mabn_h5_table_set(struct mabn_h5_table *t, const char *name,
                                            enum mabn_h5_kind kind)
{
    struct mabn_h5_attribute *a = mabn_h5_table_attribute(t, name);
    if (!a) {
        MABN_GROW(t->attributes, t->attribute_count, t->attribute_capacity);
        a = &t->attributes[t->attribute_count++];
        *a = (struct mabn_h5_attribute){.name = mabn_xstrdup(name)};
    }
    free(a->text);
    a->text = NULL;
    a->kind = kind;
    return a;
}

/* "/a/b": components that are not empty, ".", ".." or full of control characters. */
static bool name_ok(const char *name)
{
    size_t length = strlen(name);
    if (*name != '/' || length < 2 || length > MABN_H5_MAX_NAME) return false;
    for (const char *p = name; *p;) {
        size_t n = strcspn(p + 1, "/");
        if (!n || (n == 1 && p[1] == '.') || (n == 2 && p[1] == '.' && p[2] == '.')) return false;
        for (size_t i = 1; i <= n; i++)
            if ((unsigned char)p[i] < 32 || p[i] == 127) return false;
        p += n + 1;
    }
    return true;
}

mabn_status mabn_h5_item_check(struct mabn_h5_item *item, const char *name)
{
    if (!name_ok(name))
        return mabn_fail(MABN_ERR_FORMAT, "'%.100s' is not a name for an array", name);
    if (!type_known(item->type))
        return mabn_fail(MABN_ERR_FORMAT, "array '%s' is of unknown type %d", name,
                         (int)item->type);
    if (item->type != MABN_H5_STRING) item->width = mabn_h5_type_size(item->type);
    if (!item->width || item->width > UINT32_MAX)
        return mabn_fail(MABN_ERR_FORMAT, "array '%s' has strings of %zu bytes", name, item->width);
    if (item->rank < 0 || item->rank > MABN_H5_MAX_RANK)
        return mabn_fail(MABN_ERR_FORMAT, "array '%s' has %d dimensions, at most %d are possible",
                         name, item->rank, MABN_H5_MAX_RANK);
    item->count = 1;
    bool empty = false, fits = true;
    for (int i = 0; i < item->rank; i++) {
        if (!item->dims[i])
            empty = true;
        else if (__builtin_mul_overflow(item->count, item->dims[i], &item->count))
            fits = false;
    }
    if (fits) fits = !__builtin_mul_overflow(item->count, item->width, &item->bytes);
    if (!fits || item->bytes > INT64_MAX)
        return mabn_fail(MABN_ERR_LIMIT, "array '%s' is larger than any file", name);
    if (empty) item->count = item->bytes = 0;
    return MABN_OK;
}

void mabn_h5_table_add(struct mabn_h5_table *t, const struct mabn_h5_item *item, const char *name)
{
    MABN_GROW(t->items, t->item_count, t->item_capacity);
    t->items[t->item_count] = *item;
    t->items[t->item_count++].name = mabn_xstrdup(name);
}

static int compare_names(const void *a, const void *b, void *items)
{
    const struct mabn_h5_item *list = (const struct mabn_h5_item *)items;
    return strcmp(list[*(const uint32_t *)a].name, list[*(const uint32_t *)b].name);
}

mabn_status mabn_h5_table_sort(struct mabn_h5_table *t)
{
    free(t->by_name);
    t->by_name = (uint32_t *)mabn_xmalloc((t->item_count + 1) * sizeof *t->by_name);
    for (size_t i = 0; i < t->item_count; i++)
        t->by_name[i] = (uint32_t)i;
    qsort_r(t->by_name, t->item_count, sizeof *t->by_name, compare_names, t->items);
    for (size_t i = 1; i < t->item_count; i++) {
        const char *a = t->items[t->by_name[i - 1]].name, *b = t->items[t->by_name[i]].name;
        if (!strcmp(a, b)) return mabn_fail(MABN_ERR_FORMAT, "two arrays are named '%s'", a);
    }
    return MABN_OK;
}

const struct mabn_h5_item *mabn_h5_table_find(const struct mabn_h5_table *t, const char *name)
{
    size_t low = 0, high = t->item_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct mabn_h5_item *item = &t->items[t->by_name[middle]];
        int order = strcmp(name, item->name);
        if (!order) return item;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- to bytes ---- */

static void put(struct mabn_str *out, uint64_t value, int bytes)
{
    mabn_str_add_bytes(out, &value, (size_t)bytes);
}

static int compare_offsets(const void *a, const void *b, void *items)
{
    const struct mabn_h5_item *list = (const struct mabn_h5_item *)items;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    if (list[i].offset != list[j].offset) return list[i].offset < list[j].offset ? -1 : 1;
    if (list[i].bytes != list[j].bytes) return list[i].bytes < list[j].bytes ? -1 : 1;
    return i < j ? -1 : 1;
}

static void encode_attribute(const struct mabn_h5_attribute *a, struct mabn_str *out)
{
    size_t length = a->kind == MABN_H5_KIND_TEXT ? strlen(a->text) : 8;
    put(out, a->kind, 4);
    put(out, strlen(a->name), 4);
    put(out, length, 8);
    mabn_str_add(out, a->name);
    if (a->kind == MABN_H5_KIND_TEXT)
        mabn_str_add_bytes(out, a->text, length);
    else
        mabn_str_add_bytes(out,
                           a->kind == MABN_H5_KIND_INT64 ? (const void *)&a->integer : &a->real, 8);
}

static void encode_item(const struct mabn_h5_item *item, struct mabn_str *out)
{
    put(out, item->type, 1);
    put(out, (uint64_t)item->rank, 1);
    put(out, item->hashed ? 0 : 1, 2);
    put(out, strlen(item->name), 4);
    put(out, item->type == MABN_H5_STRING ? item->width : 0, 8);
    put(out, item->offset, 8);
    put(out, item->bytes, 8);
    mabn_str_add_bytes(out, item->hash, sizeof item->hash);
    mabn_str_add_bytes(out, item->dims, (size_t)item->rank * 8);
    mabn_str_add(out, item->name);
}

void mabn_h5_table_encode(const struct mabn_h5_table *t, struct mabn_str *out)
{
    uint32_t *order = (uint32_t *)mabn_xmalloc((t->item_count + 1) * sizeof *order);
    for (size_t i = 0; i < t->item_count; i++)
        order[i] = (uint32_t)i;
    qsort_r(order, t->item_count, sizeof *order, compare_offsets, t->items);
    put(out, t->attribute_count, 4);
    put(out, t->item_count, 4);
    for (size_t i = 0; i < t->attribute_count; i++)
        encode_attribute(&t->attributes[i], out);
    for (size_t i = 0; i < t->item_count; i++)
        encode_item(&t->items[order[i]], out);
    free(order);
}

/* ---- from bytes ---- */

struct cursor {
    const uint8_t *next;
    size_t left;
};

/* n bytes, or NULL when there are not so many. */
static const uint8_t *take(struct cursor *c, uint64_t n)
{
    if (n > c->left) return NULL;
    const uint8_t *p = c->next;
    c->next += n;
    c->left -= (size_t)n;
    return p;
}

static uint64_t get(const uint8_t *p, int bytes)
{
    uint64_t value = 0;
    memcpy(&value, p, (size_t)bytes);
    return value;
}

/* A name of n bytes as a string; NULL when it is cut off, too long or holds a zero byte. */
static char *take_text(struct cursor *c, uint64_t n)
{
    const uint8_t *p = take(c, n);
    if (!p || memchr(p, 0, (size_t)n)) return NULL;
    return mabn_xstrndup((const char *)p, (size_t)n);
}

static bool parse_attribute(struct mabn_h5_table *t, struct cursor *c)
{
    const uint8_t *head = take(c, 16);
    if (!head) return false;
    uint64_t kind = get(head, 4), name_length = get(head + 4, 4), length = get(head + 8, 8);
    if (kind < MABN_H5_KIND_INT64 || kind > MABN_H5_KIND_TEXT || !name_length ||
        name_length > MABN_H5_MAX_NAME)
        return false;
    if (kind != MABN_H5_KIND_TEXT && length != 8) return false;
    char *name = take_text(c, name_length);
    if (!name) return false;
    bool ok = !mabn_h5_table_attribute(t, name);
    if (ok) {
        struct mabn_h5_attribute *a = mabn_h5_table_set(t, name, (enum mabn_h5_kind)kind);
        if (kind == MABN_H5_KIND_TEXT) {
            ok = (a->text = take_text(c, length)) != NULL;
        } else {
            const uint8_t *value = take(c, 8);
            ok = value != NULL;
            if (ok) memcpy(kind == MABN_H5_KIND_INT64 ? (void *)&a->integer : &a->real, value, 8);
        }
    }
    free(name);
    return ok;
}

/* *end: where the item before this one ended. */
static bool parse_item(struct mabn_h5_table *t, struct cursor *c, uint64_t hdf5_size, uint64_t *end)
{
    struct mabn_h5_item item = {0};
    const uint8_t *head = take(c, 48);
    if (!head) return false;
    item.type = (enum mabn_h5_type)head[0];
    item.rank = head[1];
    unsigned coverage = head[2];
    uint64_t name_length = get(head + 4, 4);
    item.width = get(head + 8, 8);
    item.offset = get(head + 16, 8);
    uint64_t bytes = get(head + 24, 8);
    memcpy(item.hash, head + 32, sizeof item.hash);
    item.hashed = coverage == 0;
    if (coverage > 1 || head[3] || item.rank > MABN_H5_MAX_RANK) return false;
    if ((item.type == MABN_H5_STRING) != (item.width != 0)) return false;
    const uint8_t *dims = take(c, (uint64_t)item.rank * 8);
    if (!dims || !name_length || name_length > MABN_H5_MAX_NAME) return false;
    memcpy(item.dims, dims, (size_t)item.rank * 8);
    char *name = take_text(c, name_length);
    bool ok = name && !mabn_h5_item_check(&item, name) && item.bytes == bytes &&
              item.offset >= *end && item.offset <= hdf5_size &&
              item.bytes <= hdf5_size - item.offset;
    if (ok) {
        mabn_h5_table_add(t, &item, name);
        *end = item.offset + item.bytes;
    }
    free(name);
    return ok;
}

mabn_status mabn_h5_table_parse(struct mabn_h5_table *t, const uint8_t *bytes, size_t size,
                                uint64_t hdf5_size, const char *path)
{
    struct cursor c = {bytes, size};
    const uint8_t *head = take(&c, 8);
    uint64_t attributes = head ? get(head, 4) : 0, items = head ? get(head + 4, 4) : 0, end = 0;
    *t = (struct mabn_h5_table){0};
    bool ok = head && attributes <= MABN_H5_MAX_ATTRIBUTES && items <= MABN_H5_MAX_ITEMS;
    for (uint64_t i = 0; ok && i < attributes; i++)
        ok = parse_attribute(t, &c);
    for (uint64_t i = 0; ok && i < items; i++)
        ok = parse_item(t, &c, hdf5_size, &end);
    if (ok && !c.left && !mabn_h5_table_sort(t)) return MABN_OK;
    mabn_h5_table_release(t);
    return mabn_fail(MABN_ERR_FORMAT, "'%s': the index is damaged at its byte %zu of %zu", path,
                     size - c.left, size);
}

/* ---- trailer ---- */

static const uint8_t trailer_magic[8] = {'M', 'A', 'B', 'N', '\r', '\n', 0x1a, '\n'};

void mabn_h5_trailer_encode(const struct mabn_h5_trailer *t, uint8_t bytes[MABN_H5_TRAILER_SIZE])
{
    uint32_t version = MABN_H5_VERSION;
    memset(bytes, 0, MABN_H5_TRAILER_SIZE);
    memcpy(bytes, trailer_magic, 8);
    memcpy(bytes + 8, &version, 4);
    memcpy(bytes + 16, &t->hdf5_size, 8);
    memcpy(bytes + 24, &t->index_size, 8);
    memcpy(bytes + 32, t->metadata_hash, 16);
    memcpy(bytes + 48, t->index_hash, 16);
    uint64_t sum = XXH3_64bits(bytes, 72);
    memcpy(bytes + 72, &sum, 8);
}

bool mabn_h5_trailer_decode(struct mabn_h5_trailer *t, const uint8_t bytes[MABN_H5_TRAILER_SIZE])
{
    if (memcmp(bytes, trailer_magic, 8) || get(bytes + 8, 4) != MABN_H5_VERSION ||
        get(bytes + 12, 4) || get(bytes + 64, 8) || get(bytes + 72, 8) != XXH3_64bits(bytes, 72))
        return false;
    t->hdf5_size = get(bytes + 16, 8);
    t->index_size = get(bytes + 24, 8);
    memcpy(t->metadata_hash, bytes + 32, 16);
    memcpy(t->index_hash, bytes + 48, 16);
    return true;
}
