/* What readers and writers of weights share with each single format. Private to this room.
 *
 * To add a format:
 *   1. its value in enum mabn_weights_format (weights.h);
 *   2. a file with a function that opens it, and where it is written another with a sink, both
 *      declared here;
 *   3. a row in the table of formats.c;
 *   4. its word in --to (cmd/mabn-convert.c, man/mabn-convert.1) when it is written;
 *   5. its cases in tests/unit/test_weights.c and tests/cli/mabn-convert.bats, a fuzzer in tests/fuzz. */
#ifndef MABN_EXCHANGE_WEIGHTS_IMPL_H
#define MABN_EXCHANGE_WEIGHTS_IMPL_H

#include "base/file.h"
#include "base/str.h"
#include "exchange/source.h"
#include "exchange/weights.h"
#include "exchange/zip.h"

/* Where a tensor's numbers are in the source. */
struct mabn_place {
    uint64_t offset;               /* of the first element, in bytes */
    int64_t stride[MABN_MAX_RANK]; /* in elements; used when `strided` */
    bool strided;                  /* not contiguous in C order */
    bool swapped;                  /* big-endian */
    bool latin1;                   /* bytes written as UTF-8: `length` bytes in the source */
    uint64_t length;
    size_t storage; /* index in `storages`, or SIZE_MAX: no checksum */
};

/* A run of bytes with a checksum, checked once. */
struct mabn_storage {
    uint64_t offset, size;
    uint32_t crc;
    bool checked;
};

struct mabn_weights_entry {
    struct mabn_weight weight;
    struct mabn_place place;
};

/* Notes in their order, found by their keys: a file may bring as many as it is long. */
struct mabn_weights_note {
    char *key, *value;
};
struct mabn_notes {
    struct mabn_weights_note *items;
    size_t count, capacity;
    uint32_t *slots; /* hash table over keys: index + 1, 0 empty */
    size_t slot_count;
    size_t bytes; /* of keys and values */
};
void mabn_notes_release(struct mabn_notes *notes);
/* The first note with this key; NULL: none. */
struct mabn_weights_note *mabn_notes_find(const struct mabn_notes *notes, const char *key);
/* Both are copied. */
void mabn_notes_add(struct mabn_notes *notes, const char *key, const char *value);

struct mabn_weights {
    struct mabn_source source;
    enum mabn_weights_format format;
    struct mabn_str remarks, stripped;
    char *average;   /* first part of the names of a moving average's tensors (OTHER), or NULL */
    bool is_average; /* the MODEL itself is an average: there are no other weights */
    struct mabn_weights_entry *entries;
    size_t count, capacity;
    size_t *index; /* (count) entries sorted by part and name */
    struct mabn_notes notes;
    struct mabn_storage *storages;
    size_t storage_count, storage_capacity;
    uint64_t total; /* bytes of all entries, and of their names */
    void *backend;  /* formats that read by themselves (HDF5) */
    mabn_status (*read)(struct mabn_weights *w, size_t index, void *out);
    void (*free_backend)(void *backend);
};

/* Add an entry: checks name, shape and that the numbers end at limit_end of the source or before;
 * computes count and bytes. `name` is copied. */
MABN_MUST_USE mabn_status mabn_weights_add(struct mabn_weights *w, const char *name,
                                           enum mabn_weight_part part, enum mabn_dtype dtype,
                                           const struct mabn_shape *shape,
                                           const struct mabn_place *place, uint64_t limit_end);
/* Add a remark for the user: one line, without its end. */
MABN_PRINTF(2, 3)
void mabn_weights_remark(struct mabn_weights *w, const char *format, ...);
/* Text that is too long, and notes that are more than a bounded number or together much longer than
 * the file, are left out silently. */
void mabn_weights_add_note(struct mabn_weights *w, const char *key, const char *value);
/* Formats without nests write a momentum as "optimizer.momentum.NAME" and what belongs to neither
 * model nor optimizer as "mabn.other.NAME": cut the prefix off and say which part it is. */
void mabn_weights_split_name(const char **name, enum mabn_weight_part *part);
/* The reverse; malloc'd. */
char *mabn_weights_join_name(const char *name, enum mabn_weight_part part);
/* Contiguous, unchecked place at `offset`. */
struct mabn_place mabn_place_at(uint64_t offset);

/* A new view of this source, which it takes over; format and entries are filled in afterwards. */
struct mabn_weights *mabn_weights_new(const struct mabn_source *source);
/* To be called when all entries are there: removes the prefixes of wrappers from names, and makes
 * the index. */
MABN_MUST_USE mabn_status mabn_weights_settle(struct mabn_weights *w);

/* Names or entries have changed. Two tensors of one name are an error; of those beside the weights
 * one is kept. */
MABN_MUST_USE mabn_status mabn_weights_build_index(struct mabn_weights *w);
/* Remove what wrappers such as torch.compile put into a name. */
void mabn_weights_strip_wrappers(struct mabn_weights *w, char *name);
/* Where the MODEL holds its own moving average under a name of its own ("ema_model.conv1.weight"
 * beside "model.conv1.weight"), make that OTHER. Indices change. */
MABN_MUST_USE mabn_status mabn_weights_part_average(struct mabn_weights *w);

/* One function a format, which adds the entries of an open source. */
MABN_MUST_USE mabn_status mabn_torch_open(struct mabn_weights *w);
MABN_MUST_USE mabn_status mabn_torch_legacy_open(struct mabn_weights *w);
MABN_MUST_USE mabn_status mabn_numpy_pickle_open(struct mabn_weights *w);
MABN_MUST_USE mabn_status mabn_safetensors_open(struct mabn_weights *w);
MABN_MUST_USE mabn_status mabn_onnx_open(struct mabn_weights *w);
MABN_MUST_USE mabn_status mabn_weights_open_hdf5(struct mabn_weights *w);

/* ---- files that are not read, named (foreign.c) ---- */

/* Fails, saying what it is, for a file whose first bytes are those of a known other kind. */
MABN_MUST_USE mabn_status mabn_weights_check_foreign(const struct mabn_source *source);
/* After the failure `status`: the same, or a better message where the archive or HDF5 file is of a
 * known other kind. */
MABN_MUST_USE mabn_status mabn_zip_name_foreign(mabn_status status,
                                                const struct mabn_source *source);
MABN_MUST_USE mabn_status mabn_hdf5_name_foreign(mabn_status status,
                                                 const struct mabn_source *source);

/* ---- writing ---- */

struct mabn_weights_writer {
    const struct mabn_weights_sink *sink;
    char *path;
    bool force, begun, committed;
    struct mabn_weight *items; /* names owned */
    bool *written;
    size_t count, capacity;
    struct mabn_notes notes;
    struct mabn_str graph;   /* ONNX: nodes, inputs and outputs of the graph */
    size_t unflushed;        /* bytes written since writeback was last asked for */
    struct mabn_outfile out; /* formats that write the file themselves; opened by begin */
    void *backend;           /* what begin made; free_backend frees it */
};

/* What a format does when the first tensor arrives, for each tensor, and at the end. */
struct mabn_weights_sink {
    mabn_status (*begin)(struct mabn_weights_writer *writer);
    mabn_status (*put)(struct mabn_weights_writer *writer, size_t index, const void *data);
    mabn_status (*finish)(struct mabn_weights_writer *writer); /* out is committed by the caller */
    void (*free_backend)(void *backend);                       /* not NULL */
};
extern const struct mabn_weights_sink mabn_hdf5_sink, mabn_torch_sink, mabn_safetensors_sink,
    mabn_onnx_sink, mabn_pickle_sink;

struct mabn_weights_writer *mabn_weights_writer_new(const struct mabn_weights_sink *sink,
                                                    const char *path, bool force);
/* NULL when absent. */
const char *mabn_weights_writer_note(const struct mabn_weights_writer *writer, const char *key);

#endif
