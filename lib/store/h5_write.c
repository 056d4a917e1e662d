/* Writing an HDF5 file: declare, lay out, write arrays at their offsets, seal with the index. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/thread.h"
#include "store/h5_private.h"

struct mabn_h5_writer {
    struct mabn_outfile out;
    struct mabn_h5_table table;
    atomic_bool *written; /* (table.item_count) from layout on */
    bool stream;          /* item 0 is the stream array */
    bool partial, laid_out, sealed;
    uint64_t stream_offset;
    uint64_t hdf5_size;
    size_t unflushed; /* bytes written since writeback was last asked for */
};

/* The place of the stream array depends only on its name: find it by laying out a file with nothing
 * else in it. The real layout must agree later. */
static mabn_status place_stream(struct mabn_h5_writer *w, const char *name)
{
    struct mabn_h5_table table = {0};
    struct mabn_h5_item item = {.type = MABN_H5_U8, .rank = 1, .dims = {1}};
    uint64_t size;
    MABN_TRY(mabn_h5_item_check(&item, name));
    mabn_h5_table_add(&w->table, &item, name);
    mabn_h5_table_add(&table, &item, name);
    int fd = memfd_create("mabn layout", MFD_CLOEXEC);
    mabn_status status = fd < 0 ? mabn_fail_errno("cannot create a file in memory")
                                : mabn_h5_lay_out(fd, &table, &size, "a file in memory");
    if (!status) w->stream_offset = table.items[0].offset;
    if (fd >= 0) close(fd);
    mabn_h5_table_release(&table);
    return status;
}

mabn_status mabn_h5_writer_open(struct mabn_h5_writer **out, const char *path, bool force,
                                const char *stream, bool partial)
{
    struct mabn_h5_writer *w = (struct mabn_h5_writer *)mabn_xcalloc(1, sizeof *w);
    w->stream = stream != NULL;
    w->partial = partial;
    mabn_status status = partial ? mabn_outfile_open_partial(&w->out, path, force)
                                 : mabn_outfile_open(&w->out, path, force);
    if (!status && stream) status = place_stream(w, stream);
    if (status) {
        mabn_h5_writer_free(w, true);
        w = NULL;
    }
    *out = w;
    return status;
}

void mabn_h5_writer_free(struct mabn_h5_writer *w, bool keep_partial)
{
    if (!w) return;
    if (w->partial && keep_partial)
        mabn_outfile_keep(&w->out);
    else
        mabn_outfile_abort(&w->out);
    mabn_h5_table_release(&w->table);
    free(w->written);
    free(w);
}

mabn_status mabn_h5_stream_write(struct mabn_h5_writer *w, uint64_t offset, const void *bytes,
                                 size_t n)
{
    return mabn_pwrite_all(w->out.fd, bytes, n, w->stream_offset + offset, w->out.path);
}

mabn_status mabn_h5_stream_read(struct mabn_h5_writer *w, uint64_t offset, void *bytes, size_t n)
{
    return mabn_pread_all(w->out.fd, bytes, n, w->stream_offset + offset, w->out.temp_path);
}

void mabn_h5_set_int64(struct mabn_h5_writer *w, const char *name, int64_t value)
{
    mabn_h5_table_set(&w->table, name, MABN_H5_KIND_INT64)->integer = value;
}

void mabn_h5_set_double(struct mabn_h5_writer *w, const char *name, double value)
{
    mabn_h5_table_set(&w->table, name, MABN_H5_KIND_FLOAT64)->real = value;
}

void mabn_h5_set_string(struct mabn_h5_writer *w, const char *name, const char *value)
{
    mabn_h5_table_set(&w->table, name, MABN_H5_KIND_TEXT)->text = mabn_xstrdup(value);
}

mabn_status mabn_h5_declare(struct mabn_h5_writer *w, const char *name, enum mabn_h5_type type,
                            size_t width, int rank, const uint64_t *dims, int *number)
{
    struct mabn_h5_item item = {.type = type, .width = width, .rank = rank, .hashed = true};
    if (w->laid_out) MABN_BUG("array '%s' declared after the layout", name);
    if (w->table.item_count >= MABN_H5_MAX_ITEMS)
        return mabn_fail(MABN_ERR_LIMIT, "'%s': more than %d arrays", w->out.path,
                         MABN_H5_MAX_ITEMS);
    for (int i = 0; i < rank && i < MABN_H5_MAX_RANK; i++)
        item.dims[i] = dims[i];
    MABN_TRY(mabn_h5_item_check(&item, name));
    if (number) *number = (int)w->table.item_count;
    mabn_h5_table_add(&w->table, &item, name);
    return MABN_OK;
}

static mabn_status check_room(const struct mabn_h5_writer *w, uint64_t already)
{
    struct statvfs disk;
    uint64_t needed = 65536;
    for (size_t i = 0; i < w->table.item_count; i++)
        needed += w->table.items[i].bytes + 512;
    needed -= already;
    if (fstatvfs(w->out.fd, &disk) || !disk.f_blocks)
        return MABN_OK; /* unknown: writing will show */
    uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (room >= needed) return MABN_OK;
    return mabn_fail(MABN_ERR_IO,
                     "cannot write '%s': %llu more bytes needed, %llu left on the disk",
                     w->out.path, (unsigned long long)needed, (unsigned long long)room);
}

/* Bytes that are neither metadata nor array must be zero, whatever an earlier run left here. */
static mabn_status clear_gaps(struct mabn_h5_writer *w, uint64_t stream_bytes)
{
    if (ftruncate(w->out.fd, (off_t)(w->stream_offset + stream_bytes)))
        return mabn_fail_errno("cannot write '%s'", w->out.path);
    void *zeros = mabn_xcalloc(1, w->stream_offset + 1);
    mabn_status status = mabn_pwrite_all(w->out.fd, zeros, w->stream_offset, 0, w->out.path);
    free(zeros);
    return status;
}

mabn_status mabn_h5_layout(struct mabn_h5_writer *w, uint64_t stream_bytes)
{
    if (w->laid_out) MABN_BUG("'%s' laid out twice", w->out.path);
    MABN_TRY(mabn_h5_table_sort(&w->table));
    if (w->stream) {
        w->table.items[0].dims[0] = stream_bytes;
        MABN_TRY(mabn_h5_item_check(&w->table.items[0], w->table.items[0].name));
    }
    MABN_TRY(check_room(w, stream_bytes));
    MABN_TRY(clear_gaps(w, stream_bytes));
    MABN_TRY(mabn_h5_lay_out(w->out.fd, &w->table, &w->hdf5_size, w->out.path));
    if (stream_bytes && w->table.items[0].offset != w->stream_offset)
        MABN_BUG("the stream array moved from %llu to %llu", (unsigned long long)w->stream_offset,
                 (unsigned long long)w->table.items[0].offset);
    if (ftruncate(w->out.fd, (off_t)w->hdf5_size))
        return mabn_fail_errno("cannot write '%s'", w->out.path);
    w->written = (atomic_bool *)mabn_xcalloc(w->table.item_count + 1, sizeof *w->written);
    w->laid_out = true;
    return MABN_OK;
}

mabn_status mabn_h5_write(struct mabn_h5_writer *w, int number, const void *data)
{
    if (!w->laid_out || number < 0 || (size_t)number >= w->table.item_count ||
        (w->stream && !number))
        MABN_BUG("array %d cannot be written now", number);
    struct mabn_h5_item *item = &w->table.items[number];
    if (atomic_exchange(&w->written[number], true))
        return mabn_fail(MABN_ERR_ARG, "array '%s' was written twice", item->name);
    XXH128_canonicalFromHash((XXH128_canonical_t *)item->hash, XXH3_128bits(data, item->bytes));
    MABN_TRY(mabn_pwrite_all(w->out.fd, data, item->bytes, item->offset, w->out.path));
    mabn_start_writeback(w->out.fd, &w->unflushed, item->bytes);
    return MABN_OK;
}

/* Index and trailer behind the HDF5 part. */
static mabn_status write_index(struct mabn_h5_writer *w)
{
    struct mabn_h5_trailer trailer = {.hdf5_size = w->hdf5_size};
    struct mabn_str index;
    uint8_t bytes[MABN_H5_TRAILER_SIZE];
    const char *path = w->out.path;
    mabn_str_init(&index);
    mabn_h5_table_encode(&w->table, &index);
    trailer.index_size = index.length;
    XXH128_canonicalFromHash((XXH128_canonical_t *)trailer.index_hash,
                             XXH3_128bits(index.text, index.length));
    mabn_status status = mabn_h5_hash_metadata(w->out.fd, &w->table, w->hdf5_size,
                                               trailer.metadata_hash, w->out.temp_path);
    mabn_h5_trailer_encode(&trailer, bytes);
    if (!status) status = mabn_pwrite_all(w->out.fd, index.text, index.length, w->hdf5_size, path);
    if (!status)
        status = mabn_pwrite_all(w->out.fd, bytes, sizeof bytes, w->hdf5_size + index.length, path);
    mabn_str_release(&index);
    return status;
}

mabn_status mabn_h5_seal(struct mabn_h5_writer *w)
{
    struct mabn_h5_file *check;
    if (!w->laid_out) MABN_BUG("'%s' sealed before its layout", w->out.path);
    for (size_t i = w->stream ? 1 : 0; i < w->table.item_count; i++)
        if (!w->written[i] && w->table.items[i].bytes)
            return mabn_fail(MABN_ERR_ARG, "array '%s' was never written", w->table.items[i].name);
    for (size_t i = 0; i < w->table.item_count; i++)
        if (!w->table.items[i].bytes) /* hash of nothing, written or not */
            XXH128_canonicalFromHash((XXH128_canonical_t *)w->table.items[i].hash,
                                     XXH3_128bits(NULL, 0));
    MABN_TRY(write_index(w));
    if (fsync(w->out.fd)) return mabn_fail_errno("cannot write '%s'", w->out.path);
    MABN_TRY(mabn_h5_open(&check, w->out.temp_path));
    mabn_status status = mabn_h5_verify(check, mabn_threads_available() > 1 ? 2 : 1);
    mabn_h5_free(check);
    if (status) return mabn_fail_prefix(status, "reading back what was written");
    w->sealed = true;
    return MABN_OK;
}

mabn_status mabn_h5_commit(struct mabn_h5_writer *w)
{
    if (!w->sealed) MABN_TRY(mabn_h5_seal(w));
    return mabn_outfile_commit(&w->out);
}
