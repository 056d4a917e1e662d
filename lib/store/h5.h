/* HDF5 files with checksums, for datasets and checkpoints.
 *
 * libhdf5 only lays out the metadata of a new file; all data are written and read by our own code.
 * A file holds contiguous, uncompressed arrays in groups, and attributes on the root group: any
 * HDF5 program reads it. After HDF5's last byte (where HDF5 does not look) there is our own index,
 * with every array's name, type, shape, place and checksum. Our readers use only that index, so
 * untrusted bytes never reach libhdf5, many threads can read without a global lock, and opening
 * takes only a few reads. A file without the index (made or changed by another program) is indexed
 * by libhdf5 in a child process, which may crash without harm.
 *
 * Why not H5Dwrite and H5Dread: a writer killed in place loses the file; on a full disk H5Fclose
 * still returns success; damaged files crash libhdf5 1.10 in about one of 200 cases. Here every
 * byte goes through checked pwrite(2) into a temporary file, is synced, checked and renamed
 * (base/file.h), and every byte of the result is covered by a checksum.
 *
 * Layout of a file (all integers little-endian):
 *
 *   [0, H)      the HDF5 file: version-2 superblock, V18 format, no times (same input, same bytes)
 *   [H, H+T)    index:
 *       u32 attributes, u32 items
 *       each attribute: u8 kind (1 int64, 2 float64, 3 string), u8[3] zero, u32 name length,
 *                       u64 value length; name; value
 *       each item, by rising offset:
 *                       u8 type (enum mabn_h5_type), u8 rank, u8 coverage, u8 zero,
 *                       u32 name length, u64 string width (type STRING, else 0),
 *                       u64 offset, u64 bytes, u8[16] XXH3-128 of the bytes (canonical order),
 *                       u64 dims[rank]; name ("/images/bytes")
 *       coverage 0: the hash covers the item; 1: per-sample checksums elsewhere in the file do
 *       (/images/checksum), and the hash is zero
 *   [H+T, +80)  trailer: "MABN\r\n\x1a\n", u32 version 1, u32 zero, u64 H, u64 T,
 *                        XXH3-128 of the HDF5 metadata (all of [0,H) that no item covers),
 *                        XXH3-128 of the index, u64 zero, u64 XXH3-64 of the 72 bytes before
 *
 * Limits, checked before anything is allocated: 1,000,000 items and 4,096 attributes, rank 8, names
 * of 4,096 bytes, index of 1 GiB, items inside [0,H), in order and disjoint, dims × type =
 * bytes.   */
#ifndef MABN_STORE_H5_H
#define MABN_STORE_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

/* Values are part of the file format: never renumber. */
enum mabn_h5_type {
    MABN_H5_F32 = 1,
    MABN_H5_F64 = 2,
    MABN_H5_F16 = 3,
    MABN_H5_BF16 = 4, /* stored as uint16, attribute dtype = "bfloat16" */
    MABN_H5_U8 = 5,
    MABN_H5_I8 = 6,
    MABN_H5_U16 = 7,
    MABN_H5_I16 = 8,
    MABN_H5_U32 = 9,
    MABN_H5_I32 = 10,
    MABN_H5_U64 = 11,
    MABN_H5_I64 = 12,
    MABN_H5_BOOL = 13,   /* stored as uint8, attribute dtype = "bool" */
    MABN_H5_STRING = 14, /* fixed width, UTF-8, padded with zeros */
};

enum { MABN_H5_MAX_RANK = 8 };

/* Bytes of one element; 0 for STRING (its width is the item's) and for unknown types. */
size_t mabn_h5_type_size(enum mabn_h5_type type);
/* "float32", "bfloat16", "string", … (numpy's words). */
const char *mabn_h5_type_name(enum mabn_h5_type type);

/* ---- writing ---- */

struct mabn_h5_writer;

/* Start a file. With `stream` (an item's path, or NULL) the file begins with one u8 array whose
 * length is not known yet: its bytes may be written at once with mabn_h5_stream_write, before
 * anything else is declared. `partial` keeps the unfinished file under a fixed name
 * (PATH.partial) that survives a kill, so that a caller with a journal can go on from it; what is
 * there already is left in place. Otherwise the file is a temporary one that vanishes. */
MABN_MUST_USE mabn_status mabn_h5_writer_open(struct mabn_h5_writer **w, const char *path,
                                              bool force, const char *stream, bool partial);

/* Write to the stream array; thread-safe. */
MABN_MUST_USE mabn_status mabn_h5_stream_write(struct mabn_h5_writer *w, uint64_t offset,
                                               const void *bytes, size_t n);
/* Read back what was written (to check a partial file); short: MABN_ERR_FORMAT. */
MABN_MUST_USE mabn_status mabn_h5_stream_read(struct mabn_h5_writer *w, uint64_t offset,
                                              void *bytes, size_t n);

/* Attributes of the root group; a second value for the same name replaces the first. */
void mabn_h5_set_int64(struct mabn_h5_writer *w, const char *name, int64_t value);
void mabn_h5_set_double(struct mabn_h5_writer *w, const char *name, double value);
void mabn_h5_set_string(struct mabn_h5_writer *w, const char *name, const char *value);

/* Announce an array ("/model/conv1.weight"); groups on the way are made. width: STRING only.
 * Fails on bad or double names. *item (may be NULL): its number for mabn_h5_write. */
MABN_MUST_USE mabn_status mabn_h5_declare(struct mabn_h5_writer *w, const char *name,
                                          enum mabn_h5_type type, size_t width, int rank,
                                          const uint64_t *dims, int *item);

/* All is declared: lay out the file. stream_bytes: final length of the stream array (0 if none).
 * Fails early if the disk clearly has too little space. */
MABN_MUST_USE mabn_status mabn_h5_layout(struct mabn_h5_writer *w, uint64_t stream_bytes);

/* Write one whole array, in any order, each once; thread-safe for different items. */
MABN_MUST_USE mabn_status mabn_h5_write(struct mabn_h5_writer *w, int item, const void *data);

/* Every array was written: add index and trailer, sync, and check (all hashed items are read back).
 */
MABN_MUST_USE mabn_status mabn_h5_seal(struct mabn_h5_writer *w);
/* Seal if that was not done, rename, sync the folder. The writer can then only be freed. */
MABN_MUST_USE mabn_status mabn_h5_commit(struct mabn_h5_writer *w);

/* Free; an uncommitted file is removed, unless it is partial and `keep_partial`. NULL is fine. */
void mabn_h5_writer_free(struct mabn_h5_writer *w, bool keep_partial);

/* ---- reading ---- */

struct mabn_h5_item {
    const char *name; /* "/model/conv1.weight" */
    enum mabn_h5_type type;
    size_t width; /* bytes of one element, strings included */
    int rank;
    uint64_t dims[MABN_H5_MAX_RANK];
    uint64_t count;  /* product of dims */
    uint64_t offset; /* in the file */
    uint64_t bytes;  /* count * width */
    uint8_t hash[16];
    bool hashed; /* false: covered by per-sample checksums, or a foreign file */
};

struct mabn_h5_file;

/* Open: checks trailer, index and metadata before anything else. The bytes of the items are
 * checked when they are read. */
MABN_MUST_USE mabn_status mabn_h5_open(struct mabn_h5_file **file, const char *path);
void mabn_h5_free(struct mabn_h5_file *file); /* NULL is fine */

/* Does this file begin like an HDF5 file? For tools that take several formats. */
bool mabn_h5_probe(const uint8_t *bytes, size_t size);

const char *mabn_h5_path(const struct mabn_h5_file *file);
uint64_t mabn_h5_file_size(const struct mabn_h5_file *file);
bool mabn_h5_foreign(const struct mabn_h5_file *file); /* no index of ours: no checksums */

int mabn_h5_item_count(const struct mabn_h5_file *file);
const struct mabn_h5_item *mabn_h5_item_at(const struct mabn_h5_file *file, int item);
/* NULL when there is none. */
const struct mabn_h5_item *mabn_h5_find(const struct mabn_h5_file *file, const char *name);
/* The same, but its absence, another type or another rank (rank < 0: any) is an error. */
MABN_MUST_USE mabn_status mabn_h5_need(const struct mabn_h5_file *file, const char *name,
                                       enum mabn_h5_type type, int rank,
                                       const struct mabn_h5_item **item);

/* Attributes. _get_*: MABN_ERR_NOTFOUND when missing, MABN_ERR_FORMAT when of another kind. */
int mabn_h5_attribute_count(const struct mabn_h5_file *file);
const char *mabn_h5_attribute_name(const struct mabn_h5_file *file, int attribute);
bool mabn_h5_has_attribute(const struct mabn_h5_file *file, const char *name);
MABN_MUST_USE mabn_status mabn_h5_get_int64(const struct mabn_h5_file *file, const char *name,
                                            int64_t *value);
MABN_MUST_USE mabn_status mabn_h5_get_double(const struct mabn_h5_file *file, const char *name,
                                             double *value);
/* *value is borrowed from the file. */
MABN_MUST_USE mabn_status mabn_h5_get_string(const struct mabn_h5_file *file, const char *name,
                                             const char **value);

/* Read one array whole into `data` (item->bytes) and check its hash; thread-safe. */
MABN_MUST_USE mabn_status mabn_h5_read(const struct mabn_h5_file *file,
                                       const struct mabn_h5_item *item, void *data);
/* The array's bytes in the mapped file, unchecked: for arrays with checksums of their own. Valid
 * until the file is freed. */
const uint8_t *mabn_h5_map(const struct mabn_h5_file *file, const struct mabn_h5_item *item);

/* Read and check every hashed item. */
MABN_MUST_USE mabn_status mabn_h5_verify(const struct mabn_h5_file *file, int threads);

MABN_END_DECLS
#endif
