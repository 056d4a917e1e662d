/* Zip archives as PyTorch writes them: entries stored (never compressed), found through the
 * central directory at the end.
 *
 * The reader compares what the archive says twice: sizes, CRCs, names and methods of the central
 * directory must equal those of the local headers, whose sizes and CRC may also follow the data.
 * Entries must lie inside the file, before the directory, and must not overlap; names are unique,
 * relative and plain. Encrypted, compressed and split archives are refused. Zip64 is read and written.
 * The CRC-32 of the data is left to those who read them (torch.c, weights.c). */
#ifndef MABN_EXCHANGE_ZIP_H
#define MABN_EXCHANGE_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "exchange/source.h"

MABN_BEGIN_DECLS

enum { MABN_ZIP_MAX_ENTRIES = 262144 };

struct mabn_zip_entry {
    char *name;
    uint64_t header; /* offset of the local header */
    uint64_t offset; /* of the first data byte */
    uint64_t size;
    uint32_t crc;
};

struct mabn_zip {
    struct mabn_zip_entry *entries; /* sorted by name */
    size_t count;
};

/* Read and check the directory. */
MABN_MUST_USE mabn_status mabn_zip_open(struct mabn_zip *zip, const struct mabn_source *source);
/* Calls `visit` with each name in the directory, whatever else is wrong with the archive. */
MABN_MUST_USE mabn_status mabn_zip_names(const struct mabn_source *source,
                                         void (*visit)(void *context, const char *name),
                                         void *context);
void mabn_zip_release(struct mabn_zip *zip);
/* NULL when there is no such entry. */
const struct mabn_zip_entry *mabn_zip_find(const struct mabn_zip *zip, const char *name);

/* CRC-32 (zip, PNG) of n more bytes; start with 0. Uses carry-less multiplication where the
 * processor has it. */
uint32_t mabn_crc32(uint32_t crc, const void *bytes, size_t n);

/* ---- writing ---- */

/* Entries are written one after another to a file open for writing; their data start at multiples
 * of 64 bytes, as torch.save's do. Names are borrowed until the end. No times: the same entries
 * give the same bytes. */
struct mabn_zip_writer {
    int fd;
    const char *name; /* of the file, for messages; borrowed */
    uint64_t position;
    struct mabn_zip_written {
        const char *name; /* borrowed */
        uint64_t header, offset, size;
        uint32_t crc;
    } * entries;
    size_t count, capacity;
};

void mabn_zip_writer_init(struct mabn_zip_writer *writer, int fd, const char *name);
void mabn_zip_writer_release(struct mabn_zip_writer *writer);
/* Reserve the next entry of `size` bytes. */
void mabn_zip_writer_add(struct mabn_zip_writer *writer, const char *entry, uint64_t size);
/* Header and data of entry `index` (in order of addition); entries in any order. */
MABN_MUST_USE mabn_status mabn_zip_writer_put(struct mabn_zip_writer *writer, size_t index,
                                              const void *data);
/* The directory, after all entries were put. */
MABN_MUST_USE mabn_status mabn_zip_writer_finish(struct mabn_zip_writer *writer);

MABN_END_DECLS
#endif
