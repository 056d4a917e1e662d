/* The readers of HDF5 datasets and checkpoints. An input is
 *
 *   u8 mode, u16 n, n bytes of index, the rest: the HDF5 part
 *
 * from which a file with a right trailer is made (mode 1: with right hashes of the arrays as well),
 * since a mutation would hardly ever hit a checksum; or (mode 0) the rest is the file as it is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"
#include "store/checkpoint.h"
#include "store/dataset.h"
#include "store/h5_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fd = -1;
static char path[64];

static void put(const void *bytes, size_t n, uint64_t offset)
{
    if (mabn_pwrite_all(fd, bytes, n, offset, path)) abort();
}

/* Index with the arrays' hashes put right; the trailer's hashes always are. */
static void make_file(const uint8_t *index, size_t n, const uint8_t *body, size_t h, bool mend)
{
    struct mabn_h5_table table = {0};
    struct mabn_h5_trailer trailer = {.hdf5_size = h};
    struct mabn_str text;
    uint8_t bytes[MABN_H5_TRAILER_SIZE];
    mabn_str_init(&text);
    put(body, h, 0);
    if (!mabn_h5_table_parse(&table, index, n, h, path)) {
        for (size_t i = 0; mend && i < table.item_count; i++)
            if (mabn_h5_hash_range(fd, table.items[i].offset, table.items[i].bytes,
                                   table.items[i].hash, path))
                abort();
        mabn_h5_table_encode(&table, &text);
        if (mabn_h5_hash_metadata(fd, &table, h, trailer.metadata_hash, path)) abort();
    } else {
        mabn_str_add_bytes(&text, index, n);
    }
    trailer.index_size = text.length;
    XXH128_canonicalFromHash((XXH128_canonical_t *)trailer.index_hash,
                             XXH3_128bits(text.text, text.length));
    mabn_h5_trailer_encode(&trailer, bytes);
    put(text.text, text.length, h);
    put(bytes, sizeof bytes, h + text.length);
    mabn_str_release(&text);
    mabn_h5_table_release(&table);
}

static void use_dataset(const struct mabn_dataset *ds)
{
    char name[32];
    for (int64_t i = 0; i < mabn_dataset_count(ds) && i < 64; i++) {
        const uint8_t *bytes;
        size_t n;
        volatile uint8_t sink = 0;
        if (!mabn_dataset_image(ds, i, &bytes, &n)) sink = bytes[n - 1];
        (void)sink;
        mabn_dataset_image_name(ds, i, name, sizeof name);
        mabn_dataset_prefetch(ds, i);
        int label = mabn_dataset_label(ds, i);
        if (label >= 0 && mabn_dataset_class_name(ds, label))
            (void)strlen(mabn_dataset_class_name(ds, label));
    }
    if (mabn_dataset_verify(ds, 1)) mabn_error_clear();
}

static void use_checkpoint(const struct mabn_checkpoint *c)
{
    struct mabn_checkpoint_meta meta;
    mabn_checkpoint_get_meta(c, &meta);
    for (size_t i = 0; i < mabn_checkpoint_count(c); i++) {
        const struct mabn_checkpoint_tensor *t = mabn_checkpoint_at(c, i);
        void *data;
        if (mabn_checkpoint_find(c, t->name) != t) abort();
        if (mabn_alloc(&data, t->bytes)) abort();
        if (mabn_checkpoint_read(c, t, data)) mabn_error_clear();
        mabn_free(data);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mabn_dataset *ds;
    struct mabn_checkpoint *c;
    if (size < 3 || size > 1 << 16) return 0;
    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0)) abort();
    size_t n = (size_t)(data[1] | data[2] << 8);
    if (!(data[0] & 3))
        put(data + 3, size - 3, 0);
    else if (n > size - 3)
        return 0;
    else
        make_file(data + 3, n, data + 3 + n, size - 3 - n, data[0] & 1);
    if (!mabn_dataset_open(&ds, path)) use_dataset(ds);
    mabn_dataset_free(ds);
    if (!mabn_checkpoint_open(&c, path)) use_checkpoint(c);
    mabn_checkpoint_free(c);
    return 0;
}
