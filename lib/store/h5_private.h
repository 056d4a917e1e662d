/* Between the h5_*.c files: the table of attributes and items that a file's index holds. */
#ifndef MABN_STORE_H5_PRIVATE_H
#define MABN_STORE_H5_PRIVATE_H

#include "base/str.h"
#include "store/h5.h"

MABN_BEGIN_DECLS

enum {
    MABN_H5_TRAILER_SIZE = 80,
    MABN_H5_VERSION = 1,
    MABN_H5_MAX_NAME = 4096,
    MABN_H5_MAX_ITEMS = 1000000,
    MABN_H5_MAX_ATTRIBUTES = 4096,
};
#define MABN_H5_MAX_INDEX ((uint64_t)1 << 30)

enum mabn_h5_kind { MABN_H5_KIND_INT64 = 1, MABN_H5_KIND_FLOAT64 = 2, MABN_H5_KIND_TEXT = 3 };

struct mabn_h5_attribute {
    char *name;
    enum mabn_h5_kind kind;
    int64_t integer;
    double real;
    char *text;
};

struct mabn_h5_table {
    struct mabn_h5_item *items; /* names owned */
    size_t item_count, item_capacity;
    struct mabn_h5_attribute *attributes;
    size_t attribute_count, attribute_capacity;
    uint32_t *by_name; /* (item_count) after mabn_h5_table_sort */
};

struct mabn_h5_trailer {
    uint64_t hdf5_size, index_size;
    uint8_t metadata_hash[16], index_hash[16];
};

/* h5_index.c */
void mabn_h5_table_release(struct mabn_h5_table *t);
struct mabn_h5_attribute *mabn_h5_table_attribute(const struct mabn_h5_table *t,
                                                  const char *name); /* or NULL */
struct mabn_h5_attribute *mabn_h5_table_set(struct mabn_h5_table *t, const char *name,
                                            enum mabn_h5_kind kind);
/* Fill count and bytes of an item from type, width and dims; check them and its name. */
MABN_MUST_USE mabn_status mabn_h5_item_check(struct mabn_h5_item *item, const char *name);
/* Take a checked item; the name is copied. */
void mabn_h5_table_add(struct mabn_h5_table *t, const struct mabn_h5_item *item, const char *name);
/* Fails on two items of one name, or an item below another ("/a" and "/a/b"). */
MABN_MUST_USE mabn_status mabn_h5_table_sort(struct mabn_h5_table *t);
const struct mabn_h5_item *mabn_h5_table_find(const struct mabn_h5_table *t, const char *name);
void mabn_h5_table_encode(const struct mabn_h5_table *t, struct mabn_str *out);
/* `path` for messages. The result is sorted; on failure the table is empty. */
MABN_MUST_USE mabn_status mabn_h5_table_parse(struct mabn_h5_table *t, const uint8_t *bytes,
                                              size_t size, uint64_t hdf5_size, const char *path);
void mabn_h5_trailer_encode(const struct mabn_h5_trailer *t, uint8_t bytes[MABN_H5_TRAILER_SIZE]);
/* false: these are not a trailer's bytes. */
bool mabn_h5_trailer_decode(struct mabn_h5_trailer *t, const uint8_t bytes[MABN_H5_TRAILER_SIZE]);

/* h5.c: XXH3-128 of a range of the file; of everything in [0,hdf5_size) that no item covers. */
MABN_MUST_USE mabn_status mabn_h5_hash_range(int fd, uint64_t offset, uint64_t bytes,
                                             uint8_t hash[16], const char *path);
MABN_MUST_USE mabn_status mabn_h5_hash_metadata(int fd, const struct mabn_h5_table *t,
                                                uint64_t hdf5_size, uint8_t hash[16],
                                                const char *path);

/* h5_layout.c: have libhdf5 write the metadata of a file with this table into fd (nothing else is
 * touched); sets every item's offset and *hdf5_size. The first item comes first. */
MABN_MUST_USE mabn_status mabn_h5_lay_out(int fd, struct mabn_h5_table *t, uint64_t *hdf5_size,
                                          const char *path);

/* While it is locked no other code of ours uses libhdf5. */
void mabn_h5_lock(void);
void mabn_h5_unlock(void);
/* An HDF5 file of `size` bytes opened for reading through the driver; hid_t, negative on failure.
 */
int64_t mabn_h5_open_foreign(int fd, uint64_t size);

/* h5_foreign.c: the table of a file without an index, through libhdf5 in a child process. */
MABN_MUST_USE mabn_status mabn_h5_index_foreign(int fd, uint64_t size, struct mabn_h5_table *t,
                                                const char *path);

MABN_END_DECLS
#endif
