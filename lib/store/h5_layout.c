/* The one place where libhdf5 writes: the metadata of a new file. (It reads in h5_foreign.c,
 * through the same driver.)
 *
 * HDF5 reaches the file through a small driver of ours that writes with checked pwrite(2) and
 * remembers the first failure, so that what H5Fclose returns does not matter. Nothing is truncated
 * and no array is touched: arrays are contiguous, allocated at once, never filled. Times are not
 * tracked, so the same calls give the same bytes.
 *
 * Format V18 (superblock 2) on purpose: "latest" of HDF5 1.10 would mark the file as open for
 * writing when a process dies. */
#include <hdf5.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "store/h5_private.h"

/* ---- the driver ---- */

struct driver_info {
    int fd;
    uint64_t size;      /* of a file that is read; 0: a new one */
    const char *path;   /* for messages */
    mabn_status status; /* of the first failure */
};

struct driver_file {
    H5FD_t head; /* must come first */
    haddr_t end_allocated, end_written;
    struct driver_info *info;
};

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t fapl, haddr_t max_address)
{
    (void)name, (void)flags, (void)max_address;
    struct driver_info *const *info = (struct driver_info *const *)H5Pget_driver_info(fapl);
    struct driver_file *f = info ? (struct driver_file *)calloc(1, sizeof *f) : NULL;
    if (!f) return NULL;
    f->info = *info;
    f->end_written = f->info->size;
    return &f->head;
}

static herr_t driver_close(H5FD_t *file)
{
    free(file);
    return 0;
}

static herr_t driver_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA;
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver_file *)file)->end_allocated;
}

static herr_t driver_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t address)
{
    (void)type;
    ((struct driver_file *)file)->end_allocated = address;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const struct driver_file *)file)->end_written;
}

static herr_t driver_read(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t address,
                          size_t size, void *buffer)
{
    struct driver_file *f = (struct driver_file *)file;
    (void)type, (void)transfer;
    mabn_status status = mabn_pread_all(f->info->fd, buffer, size, address, f->info->path);
    if (status && !f->info->status) f->info->status = status;
    return status ? -1 : 0;
}

/* A failed write is remembered and reported to HDF5 as done: else H5Fclose would keep the file
 * open, and HDF5 would try again when the program ends. */
static herr_t driver_write(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t address,
                           size_t size, const void *buffer)
{
    struct driver_file *f = (struct driver_file *)file;
    struct driver_info *info = f->info;
    (void)type, (void)transfer;
    if (info->size) return -1; /* a file that is read */
    if (!info->status) info->status = mabn_pwrite_all(info->fd, buffer, size, address, info->path);
    if (address + size > f->end_written) f->end_written = address + size;
    return 0;
}

static herr_t driver_truncate(H5FD_t *file, hid_t transfer, hbool_t closing)
{
    struct driver_file *f = (struct driver_file *)file;
    (void)transfer, (void)closing;
    f->end_written = f->end_allocated;
    return 0;
}

static const H5FD_class_t driver_class = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)513, /* private to this process */
#endif
    .name = "mabn",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(struct driver_info *), /* copied, not owned */
    .open = driver_open,
    .close = driver_close,
    .query = driver_query,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

/* ---- the layout ---- */

/* Every handle of one file in the making, and one flag that remembers any failure. */
struct layout {
    hid_t driver, access, create, group, dataset, file;
    hid_t half; /* IEEE binary16 */
    bool failed;
};

/* Remember a failure of any HDF5 call; pass its value on. */
static hid_t keep(struct layout *l, hid_t value)
{
    if (value < 0) l->failed = true;
    return value;
}
#define MABN_H5(l, call) ((void)keep((l), (hid_t)(call)))

static hid_t make_half(struct layout *l)
{
    hid_t type = keep(l, H5Tcopy(H5T_IEEE_F32LE));
    MABN_H5(l, H5Tset_fields(type, 15, 10, 5, 0, 10));
    MABN_H5(l, H5Tset_size(type, 2));
    MABN_H5(l, H5Tset_ebias(type, 15));
    return type;
}

static hid_t make_text(struct layout *l, size_t width)
{
    hid_t type = keep(l, H5Tcopy(H5T_C_S1));
    MABN_H5(l, H5Tset_size(type, width));
    MABN_H5(l, H5Tset_strpad(type, H5T_STR_NULLPAD));
    MABN_H5(l, H5Tset_cset(type, H5T_CSET_UTF8));
    return type;
}

static hid_t type_of(struct layout *l, const struct mabn_h5_item *item)
{
    switch (item->type) {
    case MABN_H5_F32:
        return keep(l, H5Tcopy(H5T_IEEE_F32LE));
    case MABN_H5_F64:
        return keep(l, H5Tcopy(H5T_IEEE_F64LE));
    case MABN_H5_F16:
        return keep(l, H5Tcopy(l->half));
    case MABN_H5_U8:
    case MABN_H5_BOOL:
        return keep(l, H5Tcopy(H5T_STD_U8LE));
    case MABN_H5_I8:
        return keep(l, H5Tcopy(H5T_STD_I8LE));
    case MABN_H5_BF16:
    case MABN_H5_U16:
        return keep(l, H5Tcopy(H5T_STD_U16LE));
    case MABN_H5_I16:
        return keep(l, H5Tcopy(H5T_STD_I16LE));
    case MABN_H5_U32:
        return keep(l, H5Tcopy(H5T_STD_U32LE));
    case MABN_H5_I32:
        return keep(l, H5Tcopy(H5T_STD_I32LE));
    case MABN_H5_U64:
        return keep(l, H5Tcopy(H5T_STD_U64LE));
    case MABN_H5_I64:
        return keep(l, H5Tcopy(H5T_STD_I64LE));
    case MABN_H5_STRING:
        return make_text(l, item->width);
    }
    return keep(l, -1);
}

static void write_attribute(struct layout *l, hid_t where, const struct mabn_h5_attribute *a)
{
    size_t width = a->kind == MABN_H5_KIND_TEXT && *a->text ? strlen(a->text) : 1;
    hid_t type = a->kind == MABN_H5_KIND_TEXT    ? make_text(l, width)
                 : a->kind == MABN_H5_KIND_INT64 ? keep(l, H5Tcopy(H5T_STD_I64LE))
                                                 : keep(l, H5Tcopy(H5T_IEEE_F64LE));
    const void *value = a->kind == MABN_H5_KIND_TEXT    ? (const void *)a->text
                        : a->kind == MABN_H5_KIND_INT64 ? (const void *)&a->integer
                                                        : (const void *)&a->real;
    hid_t space = keep(l, H5Screate(H5S_SCALAR));
    hid_t handle = keep(l, H5Acreate2(where, a->name, type, space, H5P_DEFAULT, H5P_DEFAULT));
    MABN_H5(l, H5Awrite(handle, type, value));
    MABN_H5(l, H5Aclose(handle));
    MABN_H5(l, H5Sclose(space));
    MABN_H5(l, H5Tclose(type));
}

/* The groups above an item, made by hand because automatic ones would track times. */
static void make_groups(struct layout *l, const char *name)
{
    char prefix[MABN_H5_MAX_NAME + 1];
    for (const char *p = strchr(name + 1, '/'); p && !l->failed; p = strchr(p + 1, '/')) {
        memcpy(prefix, name, (size_t)(p - name));
        prefix[p - name] = '\0';
        htri_t there = H5Lexists(l->file, prefix, H5P_DEFAULT);
        MABN_H5(l, there);
        if (there) continue;
        hid_t group = keep(l, H5Gcreate2(l->file, prefix, H5P_DEFAULT, l->group, H5P_DEFAULT));
        MABN_H5(l, H5Gclose(group));
    }
}

static void make_item(struct layout *l, struct mabn_h5_item *item)
{
    hsize_t dims[MABN_H5_MAX_RANK];
    make_groups(l, item->name);
    for (int i = 0; i < item->rank; i++)
        dims[i] = item->dims[i];
    hid_t space =
        keep(l, item->rank ? H5Screate_simple(item->rank, dims, NULL) : H5Screate(H5S_SCALAR));
    hid_t type = type_of(l, item);
    hid_t set =
        keep(l, H5Dcreate2(l->file, item->name, type, space, H5P_DEFAULT, l->dataset, H5P_DEFAULT));
    if (item->type == MABN_H5_BF16 || item->type == MABN_H5_BOOL) {
        char dtype[] = "dtype", bfloat[] = "bfloat16", boolean[] = "bool";
        struct mabn_h5_attribute a = {.name = dtype,
                                      .kind = MABN_H5_KIND_TEXT,
                                      .text = item->type == MABN_H5_BF16 ? bfloat : boolean};
        write_attribute(l, set, &a);
    }
    if (item->bytes && !l->failed) {
        haddr_t offset = H5Dget_offset(set);
        if (offset == HADDR_UNDEF) l->failed = true;
        item->offset = offset;
    }
    MABN_H5(l, H5Dclose(set));
    MABN_H5(l, H5Tclose(type));
    MABN_H5(l, H5Sclose(space));
}

static void make_properties(struct layout *l, struct driver_info *info)
{
    l->driver = keep(l, H5FDregister(&driver_class));
    l->access = keep(l, H5Pcreate(H5P_FILE_ACCESS));
    MABN_H5(l, H5Pset_driver(l->access, l->driver, &info));
    MABN_H5(l, H5Pset_libver_bounds(l->access, H5F_LIBVER_V18, H5F_LIBVER_V18));
    MABN_H5(l, H5Pset_alignment(l->access, 1024, 64));
    MABN_H5(l, H5Pset_meta_block_size(l->access, 32768));
    l->create = keep(l, H5Pcreate(H5P_FILE_CREATE));
    MABN_H5(l, H5Pset_obj_track_times(l->create, 0));
    l->group = keep(l, H5Pcreate(H5P_GROUP_CREATE));
    MABN_H5(l, H5Pset_obj_track_times(l->group, 0));
    l->dataset = keep(l, H5Pcreate(H5P_DATASET_CREATE));
    MABN_H5(l, H5Pset_obj_track_times(l->dataset, 0));
    MABN_H5(l, H5Pset_layout(l->dataset, H5D_CONTIGUOUS));
    MABN_H5(l, H5Pset_alloc_time(l->dataset, H5D_ALLOC_TIME_EARLY));
    MABN_H5(l, H5Pset_fill_time(l->dataset, H5D_FILL_TIME_NEVER));
    l->half = make_half(l);
}

static void make_file(struct layout *l, struct mabn_h5_table *t)
{
    l->file = keep(l, H5Fcreate("mabn", H5F_ACC_TRUNC, l->create, l->access));
    for (size_t i = 0; i < t->item_count && !l->failed; i++)
        make_item(l, &t->items[i]);
    for (size_t i = 0; i < t->attribute_count && !l->failed; i++)
        write_attribute(l, l->file, &t->attributes[i]);
    MABN_H5(l, H5Fflush(l->file, H5F_SCOPE_GLOBAL));
}

/* The end of the HDF5 part, as the superblock has it. */
static mabn_status read_end(int fd, uint64_t *hdf5_size, const char *path)
{
    uint8_t superblock[48];
    MABN_TRY(mabn_pread_all(fd, superblock, sizeof superblock, 0, path));
    if (superblock[8] != 2) MABN_BUG("HDF5 wrote superblock %d, not 2", superblock[8]);
    memcpy(hdf5_size, superblock + 28, 8);
    return MABN_OK;
}

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER; /* libhdf5 is not reentrant */

void mabn_h5_lock(void)
{
    pthread_mutex_lock(&one_at_a_time);
}

void mabn_h5_unlock(void)
{
    pthread_mutex_unlock(&one_at_a_time);
}

int64_t mabn_h5_open_foreign(int fd, uint64_t size)
{
    static struct driver_info info; /* must outlive the file: one file a process */
    struct driver_info *pointer = &info;
    info = (struct driver_info){.fd = fd, .size = size, .path = "HDF5 file"};
    hid_t driver = H5FDregister(&driver_class), access = H5Pcreate(H5P_FILE_ACCESS);
    if (driver < 0 || access < 0 || H5Pset_driver(access, driver, &pointer) < 0) return -1;
    return H5Fopen("mabn", H5F_ACC_RDONLY, access);
}

static void lay_out(struct layout *l, struct mabn_h5_table *t, struct driver_info *info)
{
    H5E_auto2_t printer;
    void *printer_data;
    MABN_H5(l, H5open());
    H5Eget_auto2(H5E_DEFAULT, &printer, &printer_data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* errors are ours to report */
    make_properties(l, info);
    if (!l->failed) make_file(l, t);
    if (l->file > 0) MABN_H5(l, H5Fclose(l->file));
    const hid_t lists[] = {l->access, l->create, l->group, l->dataset};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (lists[i] > 0) MABN_H5(l, H5Pclose(lists[i]));
    if (l->half > 0) MABN_H5(l, H5Tclose(l->half));
    if (l->driver > 0) MABN_H5(l, H5FDunregister(l->driver));
    H5Eset_auto2(H5E_DEFAULT, printer, printer_data);
}

mabn_status mabn_h5_lay_out(int fd, struct mabn_h5_table *t, uint64_t *hdf5_size, const char *path)
{
    static const struct driver_info nowhere = {.fd = -1, .path = "", .status = MABN_ERR_HDF5};
    struct driver_info *info = (struct driver_info *)mabn_xmalloc(sizeof *info);
    struct layout l = {0};
    *info = (struct driver_info){.fd = fd, .path = path};
    mabn_h5_lock();
    lay_out(&l, t, info);
    mabn_h5_unlock();
    mabn_status status = info->status;
    if (!status && l.failed)
        status = mabn_fail(MABN_ERR_HDF5, "cannot lay out '%s': HDF5 refused", path);
    if (l.failed)
        *info = nowhere; /* HDF5 may still hold the file; make that harmless */
    else
        free(info);
    if (status) return status;
    MABN_TRY(read_end(fd, hdf5_size, path));
    for (size_t i = 0; i < t->item_count; i++)
        if (!t->items[i].bytes) t->items[i].offset = *hdf5_size;
    return MABN_OK;
}
