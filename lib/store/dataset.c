/* Reading datasets: the index arrays are read and checked once, images are pointers into the
 * mapped file. */
#include "store/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/progress.h"
#include "base/thread.h"

struct mabn_dataset {
    struct mabn_h5_file *h5;
    const char *kind;
    int64_t count;
    bool raw;
    const uint8_t *bytes; /* of all images, mapped */
    uint64_t *offset, *checksum;
    uint32_t *length, *height, *width;
    uint8_t *channels, *format;
    int32_t *label; /* NULL: none */
    int classes;
    char *class_names;  /* (classes, class_width), NULL: none */
    size_t class_width; /* with the final zero */
    const char *names;  /* (count, name_width) mapped, NULL: none */
    size_t name_width;
};

static mabn_status bad(const struct mabn_dataset *ds, const char *what)
{
    return mabn_fail(MABN_ERR_FORMAT, "'%s' is not a valid dataset: %s", mabn_h5_path(ds->h5),
                     what);
}

/* One index array, whole; *out is mabn_alloc'd. */
static mabn_status read_column(struct mabn_dataset *ds, const char *name, enum mabn_h5_type type,
                               void *out)
{
    const struct mabn_h5_item *item;
    void *data;
    MABN_TRY(mabn_h5_need(ds->h5, name, type, 1, &item));
    if (item->count != (uint64_t)ds->count)
        return mabn_fail(MABN_ERR_FORMAT, "'%s': array '%s' has %llu entries for %lld images",
                         mabn_h5_path(ds->h5), name, (unsigned long long)item->count,
                         (long long)ds->count);
    MABN_TRY(mabn_alloc(&data, item->bytes));
    memcpy(out, &data, sizeof data);
    return mabn_h5_read(ds->h5, item, data);
}

static mabn_status read_attributes(struct mabn_dataset *ds)
{
    const char *format, *encoding;
    int64_t version, classes;
    const struct mabn_h5_file *f = ds->h5;
    if (mabn_h5_get_string(f, "format", &format) || strcmp(format, "mabn-dataset"))
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is not a mabn dataset (attribute 'format')",
                         mabn_h5_path(f));
    MABN_TRY(mabn_h5_get_int64(f, "version", &version));
    if (version != 1)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' is a dataset of version %lld, this is 1",
                         mabn_h5_path(f), (long long)version);
    MABN_TRY(mabn_h5_get_string(f, "kind", &ds->kind));
    MABN_TRY(mabn_h5_get_string(f, "encoding", &encoding));
    MABN_TRY(mabn_h5_get_int64(f, "count", &ds->count));
    MABN_TRY(mabn_h5_get_int64(f, "classes", &classes));
    ds->raw = !strcmp(encoding, "raw");
    if (!ds->raw && strcmp(encoding, "encoded")) return bad(ds, "unknown encoding");
    if (ds->count < 1) return bad(ds, "it holds no images");
    if (classes < 0 || classes > INT32_MAX) return bad(ds, "an impossible number of classes");
    ds->classes = (int)classes;
    return MABN_OK;
}

static mabn_status check_images(struct mabn_dataset *ds)
{
    const struct mabn_h5_item *bytes;
    MABN_TRY(mabn_h5_need(ds->h5, "/images/bytes", MABN_H5_U8, 1, &bytes));
    ds->bytes = mabn_h5_map(ds->h5, bytes);
    for (int64_t i = 0; i < ds->count; i++) {
        uint64_t size = (uint64_t)ds->height[i] * ds->width[i];
        if (!ds->length[i] || ds->offset[i] > bytes->bytes ||
            ds->length[i] > bytes->bytes - ds->offset[i])
            return bad(ds, "an image lies outside /images/bytes");
        if (!size || ds->height[i] > INT32_MAX || ds->width[i] > INT32_MAX || ds->channels[i] < 1 ||
            ds->channels[i] > 4 || ds->format[i] > MABN_DATASET_PNG)
            return bad(ds, "an image has an impossible size or format");
        if (ds->raw != (ds->format[i] == MABN_DATASET_RAW))
            return bad(ds, "raw and encoded images are mixed");
        /* size < 2^62, channels ≤ 4: no overflow */
        if (ds->raw && (ds->height[i] != ds->height[0] || ds->width[i] != ds->width[0] ||
                        ds->channels[i] != ds->channels[0] || size > UINT32_MAX ||
                        size * ds->channels[i] != ds->length[i]))
            return bad(ds, "raw images differ in size");
        if (ds->label && (ds->label[i] < 0 || ds->label[i] >= ds->classes))
            return bad(ds, "a label is outside the classes");
    }
    return MABN_OK;
}

static mabn_status read_classes(struct mabn_dataset *ds)
{
    const struct mabn_h5_item *item;
    void *names, *data;
    if (!mabn_h5_find(ds->h5, "/classes")) return MABN_OK;
    MABN_TRY(mabn_h5_need(ds->h5, "/classes", MABN_H5_STRING, 1, &item));
    if (item->count != (uint64_t)ds->classes) return bad(ds, "class names and classes differ");
    ds->class_width = item->width + 1; /* no overflow: the items fit into the file */
    MABN_TRY(mabn_alloc(&data, item->bytes));
    mabn_status status = mabn_h5_read(ds->h5, item, data);
    if (!status) status = mabn_alloc_zero(&names, (size_t)item->count * ds->class_width);
    if (!status) {
        ds->class_names = (char *)names;
        for (uint64_t k = 0; k < item->count; k++)
            memcpy(ds->class_names + k * ds->class_width, (char *)data + k * item->width,
                   item->width);
    }
    mabn_free(data);
    return status;
}

static mabn_status read_names(struct mabn_dataset *ds)
{
    const struct mabn_h5_item *item;
    if (!mabn_h5_find(ds->h5, "/images/name")) return MABN_OK;
    MABN_TRY(mabn_h5_need(ds->h5, "/images/name", MABN_H5_STRING, 1, &item));
    if (item->count != (uint64_t)ds->count) return bad(ds, "names and images differ in number");
    ds->names = (const char *)mabn_h5_map(ds->h5, item);
    ds->name_width = item->width;
    return MABN_OK;
}

static mabn_status read_dataset(struct mabn_dataset *ds)
{
    MABN_TRY(read_attributes(ds));
    MABN_TRY(read_column(ds, "/images/offset", MABN_H5_U64, &ds->offset));
    MABN_TRY(read_column(ds, "/images/length", MABN_H5_U32, &ds->length));
    MABN_TRY(read_column(ds, "/images/height", MABN_H5_U32, &ds->height));
    MABN_TRY(read_column(ds, "/images/width", MABN_H5_U32, &ds->width));
    MABN_TRY(read_column(ds, "/images/channels", MABN_H5_U8, &ds->channels));
    MABN_TRY(read_column(ds, "/images/format", MABN_H5_U8, &ds->format));
    MABN_TRY(read_column(ds, "/images/checksum", MABN_H5_U64, &ds->checksum));
    if (mabn_h5_find(ds->h5, "/labels"))
        MABN_TRY(read_column(ds, "/labels", MABN_H5_I32, &ds->label));
    MABN_TRY(check_images(ds));
    MABN_TRY(read_classes(ds));
    return read_names(ds);
}

mabn_status mabn_dataset_open(struct mabn_dataset **out, const char *path)
{
    struct mabn_dataset *ds = (struct mabn_dataset *)mabn_xcalloc(1, sizeof *ds);
    mabn_status status = mabn_h5_open(&ds->h5, path);
    if (!status) status = read_dataset(ds);
    if (status) {
        mabn_dataset_free(ds);
        ds = NULL;
    }
    *out = ds;
    return status;
}

void mabn_dataset_free(struct mabn_dataset *ds)
{
    if (!ds) return;
    mabn_free(ds->offset);
    mabn_free(ds->length);
    mabn_free(ds->height);
    mabn_free(ds->width);
    mabn_free(ds->channels);
    mabn_free(ds->format);
    mabn_free(ds->checksum);
    mabn_free(ds->label);
    mabn_free(ds->class_names);
    mabn_h5_free(ds->h5);
    free(ds);
}

const char *mabn_dataset_path(const struct mabn_dataset *ds)
{
    return mabn_h5_path(ds->h5);
}

const char *mabn_dataset_kind(const struct mabn_dataset *ds)
{
    return ds->kind;
}

int64_t mabn_dataset_count(const struct mabn_dataset *ds)
{
    return ds->count;
}

bool mabn_dataset_is_raw(const struct mabn_dataset *ds)
{
    return ds->raw;
}

const struct mabn_h5_file *mabn_dataset_file(const struct mabn_dataset *ds)
{
    return ds->h5;
}

static void check_number(const struct mabn_dataset *ds, int64_t i)
{
    if (i < 0 || i >= ds->count) MABN_BUG("image %lld of %lld", (long long)i, (long long)ds->count);
}

mabn_status mabn_dataset_image(const struct mabn_dataset *ds, int64_t i, const uint8_t **bytes,
                               size_t *size)
{
    check_number(ds, i);
    *bytes = ds->bytes + ds->offset[i];
    *size = ds->length[i];
    if (XXH3_64bits(*bytes, *size) == ds->checksum[i]) return MABN_OK;
    return mabn_fail(MABN_ERR_FORMAT, "'%s' is damaged: image %lld (%u bytes) has another checksum",
                     mabn_h5_path(ds->h5), (long long)i, (unsigned)ds->length[i]);
}

enum mabn_dataset_format mabn_dataset_image_format(const struct mabn_dataset *ds, int64_t i)
{
    check_number(ds, i);
    return (enum mabn_dataset_format)ds->format[i];
}

int mabn_dataset_image_height(const struct mabn_dataset *ds, int64_t i)
{
    check_number(ds, i);
    return (int)ds->height[i];
}

int mabn_dataset_image_width(const struct mabn_dataset *ds, int64_t i)
{
    check_number(ds, i);
    return (int)ds->width[i];
}

int mabn_dataset_image_channels(const struct mabn_dataset *ds, int64_t i)
{
    check_number(ds, i);
    return ds->channels[i];
}

char *mabn_dataset_image_name(const struct mabn_dataset *ds, int64_t i, char *buf, size_t size)
{
    check_number(ds, i);
    if (ds->names) {
        const char *name = ds->names + (size_t)i * ds->name_width;
        int n = ds->name_width < 100000 ? (int)strnlen(name, ds->name_width) : 100000;
        snprintf(buf, size, "%.*s", n, name);
    } else {
        snprintf(buf, size, "#%lld", (long long)i);
    }
    return buf;
}

void mabn_dataset_prefetch(const struct mabn_dataset *ds, int64_t i)
{
    check_number(ds, i);
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)(ds->bytes + ds->offset[i]);
    uintptr_t first = start & ~(page - 1);
    madvise((void *)first, start + ds->length[i] - first, MADV_WILLNEED);
}

int mabn_dataset_label(const struct mabn_dataset *ds, int64_t i)
{
    check_number(ds, i);
    return ds->label ? ds->label[i] : -1;
}

bool mabn_dataset_has_labels(const struct mabn_dataset *ds)
{
    return ds->label != NULL;
}

int mabn_dataset_classes(const struct mabn_dataset *ds)
{
    return ds->classes;
}

const char *mabn_dataset_class_name(const struct mabn_dataset *ds, int class_index)
{
    if (class_index < 0 || class_index >= ds->classes || !ds->class_names) return NULL;
    return ds->class_names + (size_t)class_index * ds->class_width;
}

struct verify {
    const struct mabn_dataset *ds;
    struct mabn_progress *progress;
};

static mabn_status verify_image(void *context, int64_t i, int worker)
{
    const struct verify *v = (const struct verify *)context;
    const uint8_t *bytes;
    size_t size;
    (void)worker;
    mabn_progress_add(v->progress, 1);
    return mabn_dataset_image(v->ds, i, &bytes, &size);
}

uint64_t mabn_dataset_identity(const struct mabn_dataset *ds)
{
    const uint64_t facts[3] = {(uint64_t)ds->count, (uint64_t)ds->classes, ds->raw};
    const size_t n = (size_t)ds->count;
    XXH3_state_t *state = XXH3_createState();
    if (!state || XXH3_64bits_reset(state)) MABN_BUG("no memory for a checksum");
    XXH3_64bits_update(state, facts, sizeof facts);
    XXH3_64bits_update(state, ds->checksum, n * sizeof *ds->checksum);
    if (ds->label) XXH3_64bits_update(state, ds->label, n * sizeof *ds->label);
    for (int c = 0; ds->class_names && c < ds->classes; c++) {
        const char *name = mabn_dataset_class_name(ds, c);
        XXH3_64bits_update(state, name, strlen(name) + 1);
    }
    uint64_t identity = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return identity;
}

mabn_status mabn_dataset_verify(const struct mabn_dataset *ds, int threads)
{
    MABN_TRY(mabn_h5_verify(ds->h5, threads));
    struct verify v = {ds, mabn_progress_new("checking", "images", (uint64_t)ds->count)};
    mabn_status status = mabn_parallel(threads, ds->count, 64, verify_image, &v);
    mabn_progress_free(v.progress);
    return status;
}
