/* Zip: see zip.h; the layout is PKWARE's APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12
 * (central directory), 4.3.14–16 (end records) and 4.5.3 (zip64 extra field). */
#include "exchange/zip.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum {
    LOCAL_SIZE = 30,
    CENTRAL_SIZE = 46,
    END_SIZE = 22,
    END64_SIZE = 56,
    LOCATOR_SIZE = 20,
    LOCAL_MAGIC = 0x04034b50,
    CENTRAL_MAGIC = 0x02014b50,
    END_MAGIC = 0x06054b50,
    END64_MAGIC = 0x06064b50,
    LOCATOR_MAGIC = 0x07064b50,
    ZIP64_TAG = 1,
    PADDING_TAG = 0x4246, /* "FB", torch's own padding field */
    ALIGNMENT = 64,
    FLAG_DESCRIPTOR = 1 << 3, /* sizes and CRC follow the data; the local header may hold zeros */
    FLAG_UTF8 = 1 << 11,
    MAX_NAME = 4096,
};
#define NO16 0xffffu
#define NO32 0xffffffffu

/* ---- reading ---- */

struct directory {
    uint64_t offset, size, count;
    uint64_t end; /* first byte after the directory: the archive's data end before it */
};

/* PyTorch writes the 64-bit end record even where the short one is enough. It is used whenever its
 * locator exists, and both must agree. */
static mabn_status read_end64(struct directory *d, const struct mabn_source *source,
                              uint64_t end_offset)
{
    uint8_t locator[LOCATOR_SIZE] = {0}, end[END64_SIZE];
    if (end_offset >= LOCATOR_SIZE)
        MABN_TRY(mabn_source_read(source, end_offset - LOCATOR_SIZE, locator, LOCATOR_SIZE));
    if (mabn_le32(locator) != LOCATOR_MAGIC) {
        if (d->count != NO16 && d->size != NO32 && d->offset != NO32) return MABN_OK;
        return mabn_fail(MABN_ERR_FORMAT, "'%s': zip64 locator is missing", source->name);
    }
    uint64_t at = mabn_le64(locator + 8);
    if (mabn_le32(locator + 4) != 0 || mabn_le32(locator + 16) != 1)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': zip archive in several parts", source->name);
    MABN_TRY(mabn_source_read(source, at, end, END64_SIZE));
    if (mabn_le32(end) != END64_MAGIC || at > end_offset - LOCATOR_SIZE ||
        mabn_le64(end + 24) != mabn_le64(end + 32) ||
        (d->count != NO16 && d->count != mabn_le64(end + 32)) ||
        (d->size != NO32 && d->size != mabn_le64(end + 40)) ||
        (d->offset != NO32 && d->offset != mabn_le64(end + 48)))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': damaged zip64 end record", source->name);
    d->count = mabn_le64(end + 32);
    d->size = mabn_le64(end + 40);
    d->offset = mabn_le64(end + 48);
    d->end = at;
    return MABN_OK;
}

/* The end record is at the end of the file, followed only by a comment of at most 64 KiB. */
static mabn_status find_directory(struct directory *d, const struct mabn_source *source)
{
    size_t tail = source->size < END_SIZE + NO16 ? (size_t)source->size : END_SIZE + NO16;
    if (tail < END_SIZE)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': too short for a zip archive", source->name);
    uint8_t *bytes = mabn_xmalloc(tail);
    mabn_status status = mabn_source_read(source, source->size - tail, bytes, tail);
    const uint8_t *end = NULL;
    for (size_t i = tail - END_SIZE + 1; !status && !end && i-- > 0;)
        if (mabn_le32(bytes + i) == END_MAGIC && mabn_le16(bytes + i + 20) == tail - END_SIZE - i)
            end = bytes + i;
    if (!status && !end)
        status = mabn_fail(MABN_ERR_FORMAT,
                           "'%s': zip end record not found (truncated, or bytes were appended)",
                           source->name);
    if (!status) {
        uint64_t at = source->size - tail + (uint64_t)(end - bytes);
        d->count = mabn_le16(end + 10);
        d->size = mabn_le32(end + 12);
        d->offset = mabn_le32(end + 16);
        d->end = at;
        if (mabn_le16(end + 4) != 0 && mabn_le16(end + 4) != NO16)
            status =
                mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': zip archive in several parts", source->name);
        else
            status = read_end64(d, source, at);
    }
    free(bytes);
    if (status) return status;
    if (d->offset > d->end || d->size != d->end - d->offset)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s': zip directory of %llu bytes at offset %llu does not end at its end "
                         "record (%llu)",
                         source->name, (unsigned long long)d->size, (unsigned long long)d->offset,
                         (unsigned long long)d->end);
    if (d->count > MABN_ZIP_MAX_ENTRIES || d->count > d->size / CENTRAL_SIZE)
        return mabn_fail(MABN_ERR_LIMIT, "'%s': zip directory claims %llu entries in %llu bytes",
                         source->name, (unsigned long long)d->count, (unsigned long long)d->size);
    return MABN_OK;
}

/* Names are never used as paths, but there is no honest reason for such a name. */
static bool plain_name(const uint8_t *name, size_t n)
{
    if (n == 0 || n > MAX_NAME || name[0] == '/') return false;
    for (size_t i = 0; i < n; i++) {
        if (name[i] < 0x20 || name[i] == 0x7f || name[i] == '\\' || name[i] == ':') return false;
        bool start = i == 0 || name[i - 1] == '/';
        if (start && name[i] == '.' && i + 1 < n && name[i + 1] == '.' &&
            (i + 2 == n || name[i + 2] == '/'))
            return false;
    }
    return true;
}

/* The zip64 extra field has a 64-bit value for each 32-bit field that is all ones. */
static bool read_zip64_extra(const uint8_t *extra, size_t n, uint64_t *fields[], int wanted)
{
    if (wanted == 0) return true;
    for (size_t i = 0; i + 4 <= n;) {
        size_t length = mabn_le16(extra + i + 2);
        if (length > n - i - 4) return false;
        if (mabn_le16(extra + i) == ZIP64_TAG) {
            if (length < 8 * (size_t)wanted) return false;
            for (int k = 0; k < wanted; k++)
                *fields[k] = mabn_le64(extra + i + 4 + 8 * k);
            return true;
        }
        i += 4 + length;
    }
    return false;
}

struct header {
    const uint8_t *name;
    size_t name_length;
    uint64_t compressed, size, offset;
    uint32_t crc;
    unsigned flags, method;
};

/* One central entry at p; *used: bytes it takes. */
static mabn_status parse_central(struct header *h, size_t *used, const uint8_t *p, size_t left,
                                 const char *file)
{
    if (left < CENTRAL_SIZE || mabn_le32(p) != CENTRAL_MAGIC)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': damaged zip directory", file);
    size_t n = mabn_le16(p + 28), m = mabn_le16(p + 30), k = mabn_le16(p + 32);
    if (n + m + k > left - CENTRAL_SIZE)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': zip directory entry reaches past its end", file);
    *used = CENTRAL_SIZE + n + m + k;
    h->flags = mabn_le16(p + 8);
    h->method = mabn_le16(p + 10);
    h->crc = mabn_le32(p + 16);
    h->compressed = mabn_le32(p + 20);
    h->size = mabn_le32(p + 24);
    h->offset = mabn_le32(p + 42);
    h->name = p + CENTRAL_SIZE;
    h->name_length = n;
    uint64_t *fields[3];
    int wanted = 0;
    if (h->size == NO32) fields[wanted++] = &h->size;
    if (h->compressed == NO32) fields[wanted++] = &h->compressed;
    if (h->offset == NO32) fields[wanted++] = &h->offset;
    if (!plain_name(h->name, n))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': zip entry name is not a plain relative name",
                         file);
    if (!read_zip64_extra(h->name + n, m, fields, wanted))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': entry '%.*s': zip64 field is missing", file,
                         (int)n, h->name);
    return MABN_OK;
}

static mabn_status check_kind(const struct header *h, const char *file)
{
    int n = (int)h->name_length;
    if (h->flags & ~(unsigned)(FLAG_DESCRIPTOR | FLAG_UTF8))
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "'%s': entry '%.*s': zip flags %#x (encrypted?) are not supported", file,
                         n, h->name, h->flags);
    if (h->method != 0)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "'%s': entry '%.*s' is compressed (method %u); torch.save stores entries",
                         file, n, h->name, h->method);
    if (h->compressed != h->size)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': entry '%.*s' is stored but has two sizes", file, n,
                         h->name);
    return MABN_OK;
}

/* Compare the local header with the directory, and find the data. */
static mabn_status check_local(struct mabn_zip_entry *entry, const struct header *h,
                               const struct directory *d, const struct mabn_source *source)
{
    uint8_t local[LOCAL_SIZE];
    MABN_TRY(mabn_source_read(source, h->offset, local, LOCAL_SIZE));
    size_t n = mabn_le16(local + 26), m = mabn_le16(local + 28);
    if (mabn_le32(local) != LOCAL_MAGIC || n != h->name_length)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': entry '%s': no local header at offset %llu",
                         source->name, entry->name, (unsigned long long)h->offset);
    uint8_t *rest = mabn_xmalloc(n + m + 1);
    mabn_status status = mabn_source_read(source, h->offset + LOCAL_SIZE, rest, n + m);
    uint64_t size = mabn_le32(local + 22), compressed = mabn_le32(local + 18);
    if (!status) {
        uint64_t *fields[2];
        int wanted = 0;
        if (size == NO32) fields[wanted++] = &size;
        if (compressed == NO32) fields[wanted++] = &compressed;
        bool later = (mabn_le16(local + 6) & FLAG_DESCRIPTOR) != 0;
        bool told = size == 0 && compressed == 0 && mabn_le32(local + 14) == 0 && later;
        if (memcmp(rest, h->name, n) != 0)
            status =
                mabn_fail(MABN_ERR_FORMAT, "'%s': entry '%s' has another name in its local header",
                          source->name, entry->name);
        else if (mabn_le16(local + 6) != h->flags || mabn_le16(local + 8) != h->method)
            status = mabn_fail(MABN_ERR_FORMAT,
                               "'%s': entry '%s' has another method in its local header",
                               source->name, entry->name);
        else if (!told && (!read_zip64_extra(rest + n, m, fields, wanted) || size != h->size ||
                           compressed != h->size || mabn_le32(local + 14) != h->crc))
            status = mabn_fail(MABN_ERR_FORMAT,
                               "'%s': entry '%s' has another size or CRC in its local header",
                               source->name, entry->name);
    }
    free(rest);
    if (status) return status;
    entry->header = h->offset;
    entry->offset = h->offset + LOCAL_SIZE + n + m;
    entry->size = h->size;
    entry->crc = h->crc;
    if (entry->offset > d->offset || entry->size > d->offset - entry->offset)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s': entry '%s' claims %llu bytes and reaches into the zip directory",
                         source->name, entry->name, (unsigned long long)entry->size);
    return MABN_OK;
}

static int by_header(const void *a, const void *b)
{
    const struct mabn_zip_entry *x = a, *y = b;
    return x->header < y->header ? -1 : x->header > y->header;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct mabn_zip_entry *)a)->name,
                  ((const struct mabn_zip_entry *)b)->name);
}

static mabn_status check_layout(struct mabn_zip *zip, const char *file)
{
    qsort(zip->entries, zip->count, sizeof *zip->entries, by_header);
    for (size_t i = 1; i < zip->count; i++) {
        const struct mabn_zip_entry *a = &zip->entries[i - 1], *b = &zip->entries[i];
        if (a->offset + a->size > b->header)
            return mabn_fail(MABN_ERR_FORMAT, "'%s': zip entries '%s' and '%s' overlap", file,
                             a->name, b->name);
    }
    qsort(zip->entries, zip->count, sizeof *zip->entries, by_name);
    for (size_t i = 1; i < zip->count; i++)
        if (!strcmp(zip->entries[i - 1].name, zip->entries[i].name))
            return mabn_fail(MABN_ERR_FORMAT, "'%s': two zip entries are called '%s'", file,
                             zip->entries[i].name);
    return MABN_OK;
}

mabn_status mabn_zip_names(const struct mabn_source *source,
                           void (*visit)(void *context, const char *name), void *context)
{
    struct directory d = {0};
    struct header h;
    size_t at = 0, used;
    void *bytes = NULL;
    MABN_TRY(find_directory(&d, source));
    MABN_TRY(mabn_alloc(&bytes, (size_t)d.size));
    mabn_status status = mabn_source_read(source, d.offset, bytes, (size_t)d.size);
    for (uint64_t i = 0; i < d.count && !status; i++, at += used) {
        status = parse_central(&h, &used, (uint8_t *)bytes + at, (size_t)d.size - at, source->name);
        if (status) break;
        char *name = mabn_xstrndup((const char *)h.name, h.name_length);
        visit(context, name);
        free(name);
    }
    mabn_free(bytes);
    return status;
}

mabn_status mabn_zip_open(struct mabn_zip *zip, const struct mabn_source *source)
{
    memset(zip, 0, sizeof *zip);
    struct directory d = {0};
    MABN_TRY(find_directory(&d, source));
    void *bytes = NULL;
    MABN_TRY(mabn_alloc(&bytes, (size_t)d.size));
    mabn_status status = mabn_source_read(source, d.offset, bytes, (size_t)d.size);
    if (status) goto out;
    zip->entries = mabn_xcalloc((size_t)d.count + 1, sizeof *zip->entries);
    size_t at = 0;
    for (uint64_t i = 0; i < d.count; i++) {
        struct header h;
        size_t used = 0;
        MABN_TRY_GOTO(
            parse_central(&h, &used, (uint8_t *)bytes + at, (size_t)d.size - at, source->name),
            out);
        MABN_TRY_GOTO(check_kind(&h, source->name), out);
        struct mabn_zip_entry *entry = &zip->entries[zip->count++];
        entry->name = mabn_xstrndup((const char *)h.name, h.name_length);
        MABN_TRY_GOTO(check_local(entry, &h, &d, source), out);
        at += used;
    }
    if (at != d.size)
        status = mabn_fail(MABN_ERR_FORMAT, "'%s': zip directory has more bytes than entries",
                           source->name);
    else
        status = check_layout(zip, source->name);
out:
    mabn_free(bytes);
    if (status) mabn_zip_release(zip);
    return status;
}

void mabn_zip_release(struct mabn_zip *zip)
{
    for (size_t i = 0; i < zip->count; i++)
        free(zip->entries[i].name);
    free(zip->entries);
    memset(zip, 0, sizeof *zip);
}

const struct mabn_zip_entry *mabn_zip_find(const struct mabn_zip *zip, const char *name)
{
    struct mabn_zip_entry key = {.name = (char *)name};
    if (!zip->count) return NULL;
    return bsearch(&key, zip->entries, zip->count, sizeof *zip->entries, by_name);
}

/* ---- writing ---- */

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v & NO16);
    put16(p + 2, v >> 16);
}
static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p + 4, (uint32_t)(v >> 32));
}

void mabn_zip_writer_init(struct mabn_zip_writer *writer, int fd, const char *name)
{
    memset(writer, 0, sizeof *writer);
    writer->fd = fd;
    writer->name = name;
}

void mabn_zip_writer_release(struct mabn_zip_writer *writer)
{
    free(writer->entries);
    memset(writer, 0, sizeof *writer);
}

/* Extra field of a local header: zip64 sizes when needed (20 bytes), then padding (at least 4). */
static size_t local_extra(const struct mabn_zip_written *e)
{
    return (size_t)(e->offset - e->header) - LOCAL_SIZE - strlen(e->name);
}

void mabn_zip_writer_add(struct mabn_zip_writer *writer, const char *entry, uint64_t size)
{
    MABN_GROW(writer->entries, writer->count, writer->capacity);
    struct mabn_zip_written *e = &writer->entries[writer->count++];
    uint64_t least = LOCAL_SIZE + strlen(entry) + (size >= NO32 ? 20 : 0) + 4;
    e->name = entry;
    e->size = size;
    e->crc = 0;
    e->header = writer->position;
    e->offset = (e->header + least + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    writer->position = e->offset + size;
}

/* Write the data piece by piece, so that the CRC finds them in the cache. */
static mabn_status put_data(struct mabn_zip_writer *writer, struct mabn_zip_written *e,
                            const uint8_t *data)
{
    const size_t piece = 1 << 18;
    for (uint64_t at = 0; at < e->size; at += piece) {
        size_t n = e->size - at < piece ? (size_t)(e->size - at) : piece;
        e->crc = mabn_crc32(e->crc, data + at, n);
        MABN_TRY(mabn_pwrite_all(writer->fd, data + at, n, e->offset + at, writer->name));
    }
    return MABN_OK;
}

mabn_status mabn_zip_writer_put(struct mabn_zip_writer *writer, size_t index, const void *data)
{
    struct mabn_zip_written *e = &writer->entries[index];
    MABN_TRY(put_data(writer, e, data));
    size_t n = strlen(e->name), extra = local_extra(e), length = (size_t)(e->offset - e->header);
    bool large = e->size >= NO32;
    uint8_t *h = mabn_xcalloc(1, length), *x = h + LOCAL_SIZE + n;
    put32(h, LOCAL_MAGIC);
    put16(h + 4, large ? 45 : 20);
    put16(h + 12, 0x0021); /* 1 January 1980: zip cannot leave the date out */
    put32(h + 14, e->crc);
    put32(h + 18, large ? NO32 : (uint32_t)e->size);
    put32(h + 22, large ? NO32 : (uint32_t)e->size);
    put16(h + 26, (unsigned)n);
    put16(h + 28, (unsigned)extra);
    memcpy(h + LOCAL_SIZE, e->name, n);
    if (large) {
        put16(x, ZIP64_TAG);
        put16(x + 2, 16);
        put64(x + 4, e->size);
        put64(x + 12, e->size);
        x += 20;
        extra -= 20;
    }
    put16(x, PADDING_TAG);
    put16(x + 2, (unsigned)(extra - 4));
    memset(x + 4, 'Z', extra - 4);
    mabn_status status = mabn_pwrite_all(writer->fd, h, length, e->header, writer->name);
    free(h);
    return status;
}

static size_t central_record(uint8_t *p, const struct mabn_zip_written *e)
{
    size_t n = strlen(e->name);
    bool big = e->size >= NO32, far = e->header >= NO32;
    unsigned extra = big || far ? 4 + 8 * (2 * big + far) : 0;
    memset(p, 0, CENTRAL_SIZE);
    put32(p, CENTRAL_MAGIC);
    put16(p + 4, 45);
    put16(p + 6, big || far ? 45 : 20);
    put16(p + 14, 0x0021);
    put32(p + 16, e->crc);
    put32(p + 20, big ? NO32 : (uint32_t)e->size);
    put32(p + 24, big ? NO32 : (uint32_t)e->size);
    put16(p + 28, (unsigned)n);
    put16(p + 30, extra);
    put32(p + 42, far ? NO32 : (uint32_t)e->header);
    memcpy(p + CENTRAL_SIZE, e->name, n);
    uint8_t *x = p + CENTRAL_SIZE + n;
    if (extra) {
        put16(x, ZIP64_TAG);
        put16(x + 2, extra - 4);
        x += 4;
    }
    if (big) {
        put64(x, e->size);
        put64(x + 8, e->size);
        x += 16;
    }
    if (far) put64(x, e->header);
    return CENTRAL_SIZE + n + extra;
}

static size_t end_records(uint8_t *p, uint64_t count, uint64_t size, uint64_t offset)
{
    bool large = count >= NO16 || size >= NO32 || offset >= NO32;
    memset(p, 0, END64_SIZE + LOCATOR_SIZE + END_SIZE);
    uint8_t *end = p;
    if (large) {
        put32(p, END64_MAGIC);
        put64(p + 4, END64_SIZE - 12);
        put16(p + 12, 45);
        put16(p + 14, 45);
        put64(p + 24, count);
        put64(p + 32, count);
        put64(p + 40, size);
        put64(p + 48, offset);
        uint8_t *locator = p + END64_SIZE;
        put32(locator, LOCATOR_MAGIC);
        put64(locator + 8, offset + size);
        put32(locator + 16, 1);
        end = locator + LOCATOR_SIZE;
    }
    put32(end, END_MAGIC);
    put16(end + 8, large ? NO16 : (unsigned)count);
    put16(end + 10, large ? NO16 : (unsigned)count);
    put32(end + 12, large ? NO32 : (uint32_t)size);
    put32(end + 16, large ? NO32 : (uint32_t)offset);
    return (size_t)(end + END_SIZE - p);
}

mabn_status mabn_zip_writer_finish(struct mabn_zip_writer *writer)
{
    size_t room = END64_SIZE + LOCATOR_SIZE + END_SIZE;
    for (size_t i = 0; i < writer->count; i++)
        room += CENTRAL_SIZE + strlen(writer->entries[i].name) + 28;
    uint8_t *bytes = mabn_xmalloc(room);
    size_t size = 0;
    for (size_t i = 0; i < writer->count; i++)
        size += central_record(bytes + size, &writer->entries[i]);
    size_t all = size + end_records(bytes + size, writer->count, size, writer->position);
    mabn_status status = mabn_pwrite_all(writer->fd, bytes, all, writer->position, writer->name);
    free(bytes);
    return status;
}
