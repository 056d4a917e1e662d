/* Reading PyTorch's files.
 *
 * zip (1.6 and later): entries FOLDER/data.pkl (the pickle), FOLDER/data/KEY (raw storages),
 * FOLDER/version, FOLDER/byteorder; whatever the folder is called.
 * legacy (before): pickles of a magic number, a version, a dict of type sizes, the object and the
 * list of storage keys; then for each key an int64 element count and the raw storage. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/pickle_weights.h"

static size_t add_storage(struct mabn_weights *w, uint64_t offset, uint64_t size, uint32_t crc)
{
    MABN_GROW(w->storages, w->storage_count, w->storage_capacity);
    w->storages[w->storage_count] = (struct mabn_storage){offset, size, crc, false};
    return w->storage_count++;
}

/* ---- zip ---- */

struct archive {
    struct mabn_weights *w;
    struct mabn_zip zip;
    char *folder;    /* with its slash */
    size_t *storage; /* of each zip entry: index in w->storages + 1, or 0 */
};

/* The one entry FOLDER/data.pkl. */
static mabn_status find_pickle(struct archive *a, const struct mabn_zip_entry **pickle)
{
    const char *file = a->w->source.name;
    *pickle = NULL;
    for (size_t i = 0; i < a->zip.count; i++) {
        const char *name = a->zip.entries[i].name, *slash = strchr(name, '/');
        const char *base = slash ? slash + 1 : name;
        if (!strcmp(base, "constants.pkl"))
            return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' is a program, not weights", file);
        if (strcmp(base, "data.pkl")) continue;
        if (*pickle)
            return mabn_fail(MABN_ERR_FORMAT, "'%s': two entries are called data.pkl", file);
        *pickle = &a->zip.entries[i];
        a->folder = mabn_xstrndup(name, (size_t)(base - name));
    }
    if (!*pickle)
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is a zip archive, but not one of PyTorch's", file);
    return MABN_OK;
}

static const struct mabn_zip_entry *in_folder(const struct archive *a, const char *name)
{
    char *path = mabn_xasprintf("%s%s", a->folder, name);
    const struct mabn_zip_entry *entry = mabn_zip_find(&a->zip, path);
    free(path);
    return entry;
}

static mabn_status check_byte_order(const struct archive *a)
{
    const struct mabn_zip_entry *entry = in_folder(a, "byteorder");
    char text[8] = {0};
    if (!entry) return MABN_OK;
    if (entry->size < sizeof text)
        MABN_TRY(mabn_source_read(&a->w->source, entry->offset, text, (size_t)entry->size));
    if (!strcmp(text, "little")) return MABN_OK;
    return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': byte order '%s' (only little is supported)",
                     a->w->source.name, strcmp(text, "big") ? "?" : "big");
}

static mabn_status check_crc(const struct archive *a, const struct mabn_zip_entry *entry)
{
    uint8_t block[4096];
    uint32_t crc = 0;
    for (uint64_t done = 0; done < entry->size; done += sizeof block) {
        size_t n = entry->size - done < sizeof block ? (size_t)(entry->size - done) : sizeof block;
        MABN_TRY(mabn_source_read(&a->w->source, entry->offset + done, block, n));
        crc = mabn_crc32(crc, block, n);
    }
    if (crc == entry->crc) return MABN_OK;
    return mabn_fail(MABN_ERR_FORMAT, "'%s': entry '%s' does not match its CRC-32",
                     a->w->source.name, entry->name);
}

static mabn_status find_in_zip(void *context, const char *key, uint64_t *offset, uint64_t *size,
                               size_t *storage)
{
    struct archive *a = context;
    char *name = mabn_xasprintf("data/%s", key);
    const struct mabn_zip_entry *entry = in_folder(a, name);
    free(name);
    if (!entry)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': storage '%s' is not in the archive",
                         a->w->source.name, key);
    size_t *slot = &a->storage[entry - a->zip.entries];
    if (!*slot) *slot = add_storage(a->w, entry->offset, entry->size, entry->crc) + 1;
    *storage = *slot - 1;
    *offset = entry->offset;
    *size = entry->size;
    return MABN_OK;
}

static mabn_status open_archive(struct archive *a, const struct mabn_zip_entry **pickle)
{
    const struct mabn_source *source = &a->w->source;
    mabn_status status = mabn_zip_open(&a->zip, source);
    if (!status) status = find_pickle(a, pickle);
    return status ? mabn_zip_name_foreign(status, source) : MABN_OK;
}

mabn_status mabn_torch_open(struct mabn_weights *w)
{
    struct archive a = {.w = w};
    struct mabn_pickle pickle = {0};
    const struct mabn_zip_entry *entry = NULL;
    mabn_status status;
    MABN_TRY_GOTO(open_archive(&a, &entry), out);
    MABN_TRY_GOTO(check_byte_order(&a), out);
    MABN_TRY_GOTO(check_crc(&a, entry), out);
    MABN_TRY_GOTO(mabn_pickle_read(&pickle, &w->source, entry->offset, entry->size), out);
    a.storage = mabn_xcalloc(a.zip.count + 1, sizeof *a.storage);
    struct mabn_storage_finder finder = {find_in_zip, &a};
    MABN_TRY_GOTO(mabn_pickle_to_weights(w, &pickle, &finder), out);
out:
    mabn_pickle_release(&pickle);
    free(a.storage);
    free(a.folder);
    mabn_zip_release(&a.zip);
    return status;
}

/* ---- legacy ---- */

struct stored {
    const char *key;
    uint64_t offset, size; /* known after the storages were measured */
    size_t element;        /* bytes of one */
};

struct stream {
    struct mabn_weights *w;
    struct mabn_pickle pickle; /* the object */
    struct stored *stored;     /* sorted by key */
    size_t count;
};

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct stored *)a)->key, ((const struct stored *)b)->key);
}

/* Bytes of a number of a type that is not read, but may stand beside the weights; 0: unknown. */
static size_t unread_element(const char *class)
{
    static const struct {
        const char *name;
        size_t bytes;
    } types[] = {{"ComplexFloatStorage", 8}, {"ComplexDoubleStorage", 16}, {"QInt8Storage", 1},
                 {"QUInt8Storage", 1},       {"QInt32Storage", 4},         {"QUInt4x2Storage", 1},
                 {"QUInt2x4Storage", 1}};
    for (size_t i = 0; class && i < sizeof types / sizeof *types; i++)
        if (!strncmp(class, "torch.", 6) && !strcmp(class + 6, types[i].name))
            return types[i].bytes;
    return 0;
}

/* Only the references in the object's pickle tell the element sizes. */
static void learn_elements(struct stream *s)
{
    for (size_t i = 0; i < s->pickle.count; i++) {
        const struct mabn_pickle_node *node = mabn_pickle_at(&s->pickle, (uint32_t)i);
        if (node->kind != MABN_PICKLE_STORAGE) continue;
        const struct mabn_pickle_node *type = mabn_pickle_at(&s->pickle, node->u.list.items[1]);
        struct stored key = {.key = mabn_pickle_text(&s->pickle, node->u.list.items[2])};
        if (!key.key) continue;
        struct stored *found = bsearch(&key, s->stored, s->count, sizeof key, by_key);
        if (!found) continue;
        found->element = type->kind == MABN_PICKLE_GLOBAL
                             ? mabn_dtype_size((enum mabn_dtype)type->element)
                             : unread_element(mabn_pickle_class(&s->pickle, node->u.list.items[1]));
    }
}

/* The storages follow the pickles in the order of the key list. */
static mabn_status measure_storages(struct stream *s, const struct mabn_pickle *keys)
{
    const struct mabn_source *source = &s->w->source;
    const struct mabn_pickle_node *list = mabn_pickle_at(keys, keys->root);
    uint64_t at = keys->end;
    for (uint32_t i = 0; i < list->u.list.count; i++) {
        struct stored key = {.key = mabn_pickle_text(keys, list->u.list.items[i])};
        struct stored *found = bsearch(&key, s->stored, s->count, sizeof key, by_key);
        uint8_t head[8];
        MABN_TRY(mabn_source_read(source, at, head, 8));
        uint64_t count = mabn_le64(head);
        if (!found->element)
            return mabn_fail(MABN_ERR_FORMAT, "'%s': storage '%s' belongs to no tensor",
                             source->name, key.key);
        if (__builtin_mul_overflow(count, found->element, &found->size) ||
            found->size > source->size - at - 8)
            return mabn_fail(MABN_ERR_FORMAT,
                             "'%s': truncated: storage '%s' at offset %llu claims %llu elements",
                             source->name, key.key, (unsigned long long)at,
                             (unsigned long long)count);
        found->offset = at + 8;
        at += 8 + found->size;
    }
    if (at != source->size)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': %llu bytes follow the last storage", source->name,
                         (unsigned long long)(source->size - at));
    return MABN_OK;
}

static mabn_status read_keys(struct stream *s, const struct mabn_pickle *keys)
{
    const struct mabn_pickle_node *list = mabn_pickle_at(keys, keys->root);
    const char *file = s->w->source.name;
    if (list->kind != MABN_PICKLE_LIST)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': the list of storages is missing", file);
    s->count = list->u.list.count;
    s->stored = mabn_xcalloc(s->count + 1, sizeof *s->stored);
    for (size_t i = 0; i < s->count; i++) {
        s->stored[i].key = mabn_pickle_text(keys, list->u.list.items[i]);
        if (!s->stored[i].key)
            return mabn_fail(MABN_ERR_FORMAT, "'%s': a storage key is not text", file);
    }
    qsort(s->stored, s->count, sizeof *s->stored, by_key);
    for (size_t i = 1; i < s->count; i++)
        if (!strcmp(s->stored[i - 1].key, s->stored[i].key))
            return mabn_fail(MABN_ERR_FORMAT, "'%s': two storages have the key '%s'", file,
                             s->stored[i].key);
    learn_elements(s);
    return measure_storages(s, keys);
}

static mabn_status find_in_stream(void *context, const char *name, uint64_t *offset, uint64_t *size,
                                  size_t *storage)
{
    struct stream *s = context;
    struct stored key = {.key = name};
    struct stored *found = bsearch(&key, s->stored, s->count, sizeof key, by_key);
    if (!found)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': storage '%s' is not in the file",
                         s->w->source.name, name);
    *offset = found->offset;
    *size = found->size;
    *storage = SIZE_MAX;
    return MABN_OK;
}

/* Version (1001) and system info (little_endian must be true). */
static mabn_status check_preamble(struct mabn_weights *w, uint64_t *at)
{
    struct mabn_pickle p;
    for (int i = 0; i < 3; i++) {
        MABN_TRY(mabn_pickle_read(&p, &w->source, *at, w->source.size - *at));
        const struct mabn_pickle_node *root = mabn_pickle_at(&p, p.root);
        int64_t value = 0;
        bool good = true;
        if (i == 0)
            good = root->kind == MABN_PICKLE_BIGINT;
        else if (i == 1)
            good = mabn_pickle_integer(&p, p.root, &value) && value == 1001;
        else
            good = mabn_pickle_integer(&p, mabn_pickle_get(&p, p.root, "little_endian"), &value) &&
                   value == 1;
        *at = p.end;
        mabn_pickle_release(&p);
        if (!good)
            return mabn_fail(MABN_ERR_UNSUPPORTED,
                             "'%s': a PyTorch file of another version or byte order",
                             w->source.name);
    }
    return MABN_OK;
}

mabn_status mabn_torch_legacy_open(struct mabn_weights *w)
{
    struct stream s = {.w = w};
    struct mabn_pickle keys = {0};
    uint64_t at = 0;
    mabn_status status;
    MABN_TRY(check_preamble(w, &at));
    MABN_TRY_GOTO(mabn_pickle_read(&s.pickle, &w->source, at, w->source.size - at), out);
    at = s.pickle.end;
    MABN_TRY_GOTO(mabn_pickle_read(&keys, &w->source, at, w->source.size - at), out);
    MABN_TRY_GOTO(read_keys(&s, &keys), out);
    struct mabn_storage_finder finder = {find_in_stream, &s};
    MABN_TRY_GOTO(mabn_pickle_to_weights(w, &s.pickle, &finder), out);
out:
    free(s.stored);
    mabn_pickle_release(&keys);
    mabn_pickle_release(&s.pickle);
    return status;
}

/* ---- numpy ---- */

mabn_status mabn_numpy_pickle_open(struct mabn_weights *w)
{
    struct mabn_pickle pickle = {0};
    MABN_TRY(mabn_pickle_read(&pickle, &w->source, 0, w->source.size));
    mabn_status status = MABN_OK;
    if (pickle.end != w->source.size)
        status = mabn_fail(MABN_ERR_FORMAT, "'%s': %llu bytes follow the pickle", w->source.name,
                           (unsigned long long)(w->source.size - pickle.end));
    else
        status = mabn_pickle_to_weights(w, &pickle, NULL);
    mabn_pickle_release(&pickle);
    return status;
}
