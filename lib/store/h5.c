/* Reading HDF5 files through the index of our own: see h5.h for the layout. libhdf5 is not used. */
#include "store/h5.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/thread.h"
#include "store/h5_private.h"

static const uint8_t signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};

struct mabn_h5_file {
    char *path;
    int fd;
    uint64_t size;
    const uint8_t *map; /* (size) */
    struct mabn_h5_table table;
    bool foreign;
};

/* ---- checksums ---- */

static mabn_status hash_more(XXH3_state_t *state, int fd, uint64_t offset, uint64_t bytes,
                             const char *path)
{
    enum { BLOCK = 1 << 20 };
    void *buffer;
    MABN_TRY(mabn_alloc(&buffer, bytes < BLOCK ? bytes : BLOCK));
    mabn_status status = MABN_OK;
    while (bytes && !status) {
        size_t n = bytes < BLOCK ? (size_t)bytes : BLOCK;
        status = mabn_pread_all(fd, buffer, n, offset, path);
        if (!status) XXH3_128bits_update(state, buffer, n);
        offset += n;
        bytes -= n;
    }
    mabn_free(buffer);
    return status;
}

static XXH3_state_t *hash_start(void)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state || XXH3_128bits_reset(state)) MABN_BUG("no memory for a checksum");
    return state;
}

static void hash_end(XXH3_state_t *state, uint8_t hash[16])
{
    XXH128_canonicalFromHash((XXH128_canonical_t *)hash, XXH3_128bits_digest(state));
    XXH3_freeState(state);
}

mabn_status mabn_h5_hash_range(int fd, uint64_t offset, uint64_t bytes, uint8_t hash[16],
                               const char *path)
{
    XXH3_state_t *state = hash_start();
    mabn_status status = hash_more(state, fd, offset, bytes, path);
    hash_end(state, hash);
    return status;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct mabn_h5_item *x = *(const struct mabn_h5_item *const *)a;
    const struct mabn_h5_item *y = *(const struct mabn_h5_item *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

mabn_status mabn_h5_hash_metadata(int fd, const struct mabn_h5_table *t, uint64_t hdf5_size,
                                  uint8_t hash[16], const char *path)
{
    const struct mabn_h5_item **items =
        (const struct mabn_h5_item **)mabn_xmalloc((t->item_count + 1) * sizeof *items);
    size_t n = 0;
    for (size_t i = 0; i < t->item_count; i++)
        if (t->items[i].bytes) items[n++] = &t->items[i];
    qsort(items, n, sizeof *items, compare_offsets);

    XXH3_state_t *state = hash_start();
    mabn_status status = MABN_OK;
    uint64_t at = 0;
    for (size_t i = 0; i <= n && !status; i++) {
        uint64_t gap_end = i < n ? items[i]->offset : hdf5_size;
        if (gap_end > at) status = hash_more(state, fd, at, gap_end - at, path);
        if (i < n) at = items[i]->offset + items[i]->bytes;
    }
    hash_end(state, hash);
    free(items);
    return status;
}

/* ---- opening ---- */

/* Without a trailer the file is of another program if it ends where its superblock says, so that
 * nothing of ours can have been cut off; anything else is damage. */
static mabn_status no_trailer(struct mabn_h5_file *f)
{
    static const size_t end_at[] = {40, 44, 28, 28}; /* by version of the superblock */
    uint8_t head[64] = {0};
    uint64_t end = 0;
    if (f->size >= sizeof head) MABN_TRY(mabn_pread_all(f->fd, head, sizeof head, 0, f->path));
    if (!mabn_h5_probe(head, sizeof head))
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is not an HDF5 file", f->path);
    if (head[8] < sizeof end_at / sizeof *end_at) memcpy(&end, head + end_at[head[8]], 8);
    if (end > f->size)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s' is truncated: at least %llu bytes expected, %llu found", f->path,
                         (unsigned long long)end, (unsigned long long)f->size);
    if (end != f->size)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s' is truncated or damaged: the index at its end is not whole",
                         f->path);
    f->foreign = true;
    return mabn_h5_index_foreign(f->fd, f->size, &f->table, f->path);
}

static mabn_status read_index(struct mabn_h5_file *f, const struct mabn_h5_trailer *t)
{
    uint8_t hash[16];
    void *bytes;
    MABN_TRY(mabn_alloc(&bytes, t->index_size));
    mabn_status status = mabn_pread_all(f->fd, bytes, t->index_size, t->hdf5_size, f->path);
    XXH128_canonicalFromHash((XXH128_canonical_t *)hash, XXH3_128bits(bytes, t->index_size));
    if (!status && memcmp(hash, t->index_hash, 16))
        status =
            mabn_fail(MABN_ERR_FORMAT, "'%s' is damaged: the index has another checksum", f->path);
    if (!status)
        status = mabn_h5_table_parse(&f->table, (const uint8_t *)bytes, t->index_size, t->hdf5_size,
                                     f->path);
    mabn_free(bytes);
    if (status) return status;
    MABN_TRY(mabn_h5_hash_metadata(f->fd, &f->table, t->hdf5_size, hash, f->path));
    if (memcmp(hash, t->metadata_hash, 16))
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is damaged: the HDF5 metadata has another checksum",
                         f->path);
    return MABN_OK;
}

static mabn_status read_trailer(struct mabn_h5_file *f)
{
    struct mabn_h5_trailer t;
    uint8_t bytes[MABN_H5_TRAILER_SIZE] = {0};
    uint64_t expected;
    if (f->size >= sizeof bytes)
        MABN_TRY(mabn_pread_all(f->fd, bytes, sizeof bytes, f->size - sizeof bytes, f->path));
    if (!mabn_h5_trailer_decode(&t, bytes)) return no_trailer(f);
    if (__builtin_add_overflow(t.hdf5_size, t.index_size, &expected) ||
        __builtin_add_overflow(expected, sizeof bytes, &expected) || expected != f->size)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s' is damaged: its trailer says %llu + %llu bytes, found %llu", f->path,
                         (unsigned long long)t.hdf5_size, (unsigned long long)t.index_size,
                         (unsigned long long)f->size);
    if (t.index_size > MABN_H5_MAX_INDEX)
        return mabn_fail(MABN_ERR_LIMIT, "'%s': an index of %llu bytes is too large", f->path,
                         (unsigned long long)t.index_size);
    return read_index(f, &t);
}

/* Takes the descriptor, also when it fails; `path` is for messages. */
static mabn_status open_fd(struct mabn_h5_file **out, int fd, const char *path)
{
    struct mabn_h5_file *f = (struct mabn_h5_file *)mabn_xcalloc(1, sizeof *f);
    struct stat info;
    mabn_status status = MABN_OK;
    f->path = mabn_xstrdup(path);
    f->fd = fd;
    *out = NULL;
    if (fstat(fd, &info))
        status = mabn_fail_errno("cannot open '%s'", path);
    else if (!S_ISREG(info.st_mode))
        status = mabn_fail(MABN_ERR_IO, "cannot read '%s': not a regular file", path);
    else
        f->size = (uint64_t)info.st_size;
    if (!status) status = read_trailer(f);
    if (!status) {
        void *map = mmap(NULL, f->size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
            status = mabn_fail_errno("cannot map '%s'", path);
        else
            f->map = (const uint8_t *)map;
    }
    if (status)
        mabn_h5_free(f);
    else
        *out = f;
    return status;
}

mabn_status mabn_h5_open(struct mabn_h5_file **file, const char *path)
{
    *file = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo must not block us */
    if (fd < 0) return mabn_fail_errno("cannot open '%s'", path);
    return open_fd(file, fd, path);
}

void mabn_h5_free(struct mabn_h5_file *f)
{
    if (!f) return;
    if (f->map) munmap((void *)(uintptr_t)f->map, f->size);
    close(f->fd);
    mabn_h5_table_release(&f->table);
    free(f->path);
    free(f);
}

bool mabn_h5_probe(const uint8_t *bytes, size_t size)
{
    return size >= sizeof signature && !memcmp(bytes, signature, sizeof signature);
}

/* ---- what is inside ---- */

const char *mabn_h5_path(const struct mabn_h5_file *f)
{
    return f->path;
}

uint64_t mabn_h5_file_size(const struct mabn_h5_file *f)
{
    return f->size;
}

bool mabn_h5_foreign(const struct mabn_h5_file *f)
{
    return f->foreign;
}

int mabn_h5_item_count(const struct mabn_h5_file *f)
{
    return (int)f->table.item_count;
}

const struct mabn_h5_item *mabn_h5_item_at(const struct mabn_h5_file *f, int item)
{
    return &f->table.items[item];
}

const struct mabn_h5_item *mabn_h5_find(const struct mabn_h5_file *f, const char *name)
{
    return mabn_h5_table_find(&f->table, name);
}

mabn_status mabn_h5_need(const struct mabn_h5_file *f, const char *name, enum mabn_h5_type type,
                         int rank, const struct mabn_h5_item **item)
{
    const struct mabn_h5_item *found = mabn_h5_find(f, name);
    *item = found;
    if (!found) return mabn_fail(MABN_ERR_NOTFOUND, "'%s' has no array '%s'", f->path, name);
    if (found->type != type)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': array '%s' is %s, expected %s", f->path, name,
                         mabn_h5_type_name(found->type), mabn_h5_type_name(type));
    if (rank >= 0 && found->rank != rank)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': array '%s' has %d dimensions, expected %d",
                         f->path, name, found->rank, rank);
    return MABN_OK;
}

int mabn_h5_attribute_count(const struct mabn_h5_file *f)
{
    return (int)f->table.attribute_count;
}

const char *mabn_h5_attribute_name(const struct mabn_h5_file *f, int attribute)
{
    return f->table.attributes[attribute].name;
}

bool mabn_h5_has_attribute(const struct mabn_h5_file *f, const char *name)
{
    return mabn_h5_table_attribute(&f->table, name) != NULL;
}

static mabn_status need_attribute(const struct mabn_h5_file *f, const char *name,
                                  enum mabn_h5_kind kind, const struct mabn_h5_attribute **a)
{
    static const char *const words[] = {"", "an integer", "a float64", "a string"};
    *a = mabn_h5_table_attribute(&f->table, name);
    if (!*a) return mabn_fail(MABN_ERR_NOTFOUND, "'%s' has no attribute '%s'", f->path, name);
    if ((*a)->kind != kind)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': attribute '%s' is not %s", f->path, name,
                         words[kind]);
    return MABN_OK;
}

mabn_status mabn_h5_get_int64(const struct mabn_h5_file *f, const char *name, int64_t *value)
{
    const struct mabn_h5_attribute *a;
    MABN_TRY(need_attribute(f, name, MABN_H5_KIND_INT64, &a));
    *value = a->integer;
    return MABN_OK;
}

mabn_status mabn_h5_get_double(const struct mabn_h5_file *f, const char *name, double *value)
{
    const struct mabn_h5_attribute *a;
    MABN_TRY(need_attribute(f, name, MABN_H5_KIND_FLOAT64, &a));
    *value = a->real;
    return MABN_OK;
}

mabn_status mabn_h5_get_string(const struct mabn_h5_file *f, const char *name, const char **value)
{
    const struct mabn_h5_attribute *a;
    MABN_TRY(need_attribute(f, name, MABN_H5_KIND_TEXT, &a));
    *value = a->text;
    return MABN_OK;
}

/* ---- reading ---- */

static mabn_status bad_item(const struct mabn_h5_file *f, const struct mabn_h5_item *item)
{
    return mabn_fail(
        MABN_ERR_FORMAT, "'%s' is damaged: array '%s' (%llu bytes at %llu) has another checksum",
        f->path, item->name, (unsigned long long)item->bytes, (unsigned long long)item->offset);
}

mabn_status mabn_h5_read(const struct mabn_h5_file *f, const struct mabn_h5_item *item, void *data)
{
    uint8_t hash[16];
    if (!item->bytes) return MABN_OK;
    MABN_TRY(mabn_pread_all(f->fd, data, item->bytes, item->offset, f->path));
    if (!item->hashed) return MABN_OK;
    XXH128_canonicalFromHash((XXH128_canonical_t *)hash, XXH3_128bits(data, item->bytes));
    return memcmp(hash, item->hash, 16) ? bad_item(f, item) : MABN_OK;
}

const uint8_t *mabn_h5_map(const struct mabn_h5_file *f, const struct mabn_h5_item *item)
{
    return f->map + item->offset;
}

static mabn_status verify_item(void *context, int64_t index, int worker)
{
    const struct mabn_h5_file *f = (const struct mabn_h5_file *)context;
    const struct mabn_h5_item *item = &f->table.items[index];
    uint8_t hash[16];
    (void)worker;
    if (!item->hashed) return MABN_OK;
    MABN_TRY(mabn_h5_hash_range(f->fd, item->offset, item->bytes, hash, f->path));
    return memcmp(hash, item->hash, 16) ? bad_item(f, item) : MABN_OK;
}

mabn_status mabn_h5_verify(const struct mabn_h5_file *f, int threads)
{
    if (f->foreign)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "'%s' has no checksums: it was written or changed by another program",
                         f->path);
    return mabn_parallel(threads, (int64_t)f->table.item_count, 1, verify_item,
                         (void *)(uintptr_t)f);
}
