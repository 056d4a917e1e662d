/* Checkpoints: names and meanings on top of store/h5.h; the layout heads checkpoint.h. */
#include "store/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define FORMAT "mabn-checkpoint"
enum { VERSION = 1 };

static const struct {
    enum mabn_dtype dtype;
    enum mabn_h5_type type;
} types[] = {
    {MABN_DTYPE_F32, MABN_H5_F32},   {MABN_DTYPE_F64, MABN_H5_F64}, {MABN_DTYPE_F16, MABN_H5_F16},
    {MABN_DTYPE_BF16, MABN_H5_BF16}, {MABN_DTYPE_I8, MABN_H5_I8},   {MABN_DTYPE_U8, MABN_H5_U8},
    {MABN_DTYPE_I16, MABN_H5_I16},   {MABN_DTYPE_I32, MABN_H5_I32}, {MABN_DTYPE_I64, MABN_H5_I64},
    {MABN_DTYPE_BOOL, MABN_H5_BOOL},
};
enum { TYPES = sizeof types / sizeof *types };

void mabn_checkpoint_meta_init(struct mabn_checkpoint_meta *meta)
{
    *meta = (struct mabn_checkpoint_meta){
        .config = "{}", .architecture = "", .norm = "", .std = {1, 1, 1}, .tool = ""};
}

/* ---- writing ---- */

struct mabn_checkpoint_writer {
    struct mabn_h5_writer *h5;
    char *path;
    char **names; /* by item number */
    size_t count, capacity;
    uint32_t *slots; /* hash table over names: number + 1, 0 empty */
    size_t slot_count;
    bool begun;
};

static void set_numbered(struct mabn_h5_writer *h5, const char *stem, const double values[3])
{
    char name[16];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s_%d", stem, i);
        mabn_h5_set_double(h5, name, values[i]);
    }
}

static void write_meta(struct mabn_h5_writer *h5, const struct mabn_checkpoint_meta *m)
{
    static const double ones[3] = {1, 1, 1};
    bool std_given = m->std[0] != 0 || m->std[1] != 0 || m->std[2] != 0;
    mabn_h5_set_string(h5, "format", FORMAT);
    mabn_h5_set_int64(h5, "version", VERSION);
    mabn_h5_set_string(h5, "config", m->config ? m->config : "{}");
    mabn_h5_set_string(h5, "architecture", m->architecture ? m->architecture : "");
    mabn_h5_set_int64(h5, "step", m->step);
    mabn_h5_set_int64(h5, "epoch", m->epoch);
    mabn_h5_set_int64(h5, "sampler_position", m->sampler_position);
    mabn_h5_set_int64(h5, "seed", m->seed);
    mabn_h5_set_string(h5, "norm", m->norm ? m->norm : "");
    mabn_h5_set_int64(h5, "centralized", m->centralized);
    mabn_h5_set_int64(h5, "folded", m->folded);
    mabn_h5_set_string(h5, "channel_order", m->bgr ? "bgr" : "rgb");
    set_numbered(h5, "mean", m->mean);
    set_numbered(h5, "std", std_given ? m->std : ones);
    mabn_h5_set_string(h5, "command", m->command ? m->command : "");
    mabn_h5_set_string(h5, "tool", m->tool ? m->tool : "");
}

mabn_status mabn_checkpoint_writer_open(struct mabn_checkpoint_writer **out, const char *path,
                                        bool force, const struct mabn_checkpoint_meta *meta)
{
    struct mabn_h5_writer *h5;
    *out = NULL;
    MABN_TRY(mabn_h5_writer_open(&h5, path, force, NULL, false));
    write_meta(h5, meta);
    struct mabn_checkpoint_writer *w = (struct mabn_checkpoint_writer *)mabn_xcalloc(1, sizeof *w);
    w->h5 = h5;
    w->path = mabn_xstrdup(path);
    *out = w;
    return MABN_OK;
}

void mabn_checkpoint_writer_free(struct mabn_checkpoint_writer *w)
{
    if (!w) return;
    mabn_h5_writer_free(w->h5, false);
    for (size_t i = 0; i < w->count; i++)
        free(w->names[i]);
    free(w->names);
    free(w->slots);
    free(w->path);
    free(w);
}

mabn_status mabn_checkpoint_declare(struct mabn_checkpoint_writer *w, const char *name,
                                    enum mabn_dtype dtype, const struct mabn_shape *shape)
{
    uint64_t dims[MABN_H5_MAX_RANK];
    size_t count;
    int t = 0, number;
    while (t < TYPES && types[t].dtype != dtype)
        t++;
    if (t == TYPES) MABN_BUG("tensor '%s' has dtype %d", name, (int)dtype);
    if (!mabn_shape_count(shape, &count))
        return mabn_fail(MABN_ERR_LIMIT, "tensor '%s' has an impossible shape", name);
    for (int i = 0; i < shape->rank; i++)
        dims[i] = (uint64_t)shape->dim[i];
    char *full = mabn_xasprintf("/%s", name);
    mabn_status status = mabn_h5_declare(w->h5, full, types[t].type, 0, shape->rank, dims, &number);
    free(full);
    if (status) return status;
    MABN_GROW(w->names, w->count, w->capacity);
    w->names[w->count++] = mabn_xstrdup(name);
    return MABN_OK;
}

void mabn_checkpoint_set_string(struct mabn_checkpoint_writer *w, const char *name,
                                const char *value)
{
    mabn_h5_set_string(w->h5, name, value);
}

void mabn_checkpoint_set_int64(struct mabn_checkpoint_writer *w, const char *name, int64_t value)
{
    mabn_h5_set_int64(w->h5, name, value);
}

void mabn_checkpoint_set_double(struct mabn_checkpoint_writer *w, const char *name, double value)
{
    mabn_h5_set_double(w->h5, name, value);
}

static size_t slot_of(const struct mabn_checkpoint_writer *w, const char *name)
{
    size_t slot = (size_t)mabn_hash_bytes(name, strlen(name)) & (w->slot_count - 1);
    while (w->slots[slot] && strcmp(w->names[w->slots[slot] - 1], name))
        slot = (slot + 1) & (w->slot_count - 1);
    return slot;
}

mabn_status mabn_checkpoint_begin(struct mabn_checkpoint_writer *w)
{
    if (w->begun) return MABN_OK;
    MABN_TRY(mabn_h5_layout(w->h5, 0));
    for (w->slot_count = 16; w->slot_count < 2 * w->count;)
        w->slot_count *= 2;
    w->slots = (uint32_t *)mabn_xcalloc(w->slot_count, sizeof *w->slots);
    for (size_t i = 0; i < w->count; i++)
        w->slots[slot_of(w, w->names[i])] = (uint32_t)i + 1;
    w->begun = true;
    return MABN_OK;
}

mabn_status mabn_checkpoint_write(struct mabn_checkpoint_writer *w, const char *name,
                                  const void *data)
{
    MABN_TRY(mabn_checkpoint_begin(w));
    uint32_t number = w->slots[slot_of(w, name)];
    if (!number) return mabn_fail(MABN_ERR_ARG, "tensor '%s' was not declared", name);
    return mabn_h5_write(w->h5, (int)number - 1, data);
}

mabn_status mabn_checkpoint_commit(struct mabn_checkpoint_writer *w)
{
    MABN_TRY(mabn_checkpoint_begin(w));
    return mabn_h5_commit(w->h5);
}

/* ---- reading ---- */

struct mabn_checkpoint {
    struct mabn_h5_file *h5;
    struct mabn_checkpoint_tensor *tensors; /* by item number */
    size_t count;
    struct mabn_checkpoint_meta meta;
};

/* Optional attributes: missing ones keep the default; ones of the wrong kind are an error. */
static mabn_status get_text(const struct mabn_h5_file *f, const char *name, const char **value)
{
    return mabn_h5_has_attribute(f, name) ? mabn_h5_get_string(f, name, value) : MABN_OK;
}

static mabn_status get_number(const struct mabn_h5_file *f, const char *name, int64_t *value)
{
    return mabn_h5_has_attribute(f, name) ? mabn_h5_get_int64(f, name, value) : MABN_OK;
}

static mabn_status get_numbered(const struct mabn_h5_file *f, const char *stem, double values[3])
{
    char name[16];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s_%d", stem, i);
        if (mabn_h5_has_attribute(f, name)) MABN_TRY(mabn_h5_get_double(f, name, &values[i]));
    }
    return MABN_OK;
}

static mabn_status read_meta(struct mabn_checkpoint_meta *m, const struct mabn_h5_file *f)
{
    const char *order = "rgb";
    int64_t centralized = 0, folded = 0;
    mabn_checkpoint_meta_init(m);
    MABN_TRY(get_text(f, "config", &m->config));
    MABN_TRY(get_text(f, "architecture", &m->architecture));
    MABN_TRY(get_text(f, "norm", &m->norm));
    MABN_TRY(get_text(f, "command", &m->command));
    MABN_TRY(get_text(f, "tool", &m->tool));
    MABN_TRY(get_text(f, "channel_order", &order));
    MABN_TRY(get_number(f, "step", &m->step));
    MABN_TRY(get_number(f, "epoch", &m->epoch));
    MABN_TRY(get_number(f, "sampler_position", &m->sampler_position));
    MABN_TRY(get_number(f, "seed", &m->seed));
    MABN_TRY(get_number(f, "centralized", &centralized));
    MABN_TRY(get_number(f, "folded", &folded));
    MABN_TRY(get_numbered(f, "mean", m->mean));
    MABN_TRY(get_numbered(f, "std", m->std));
    m->centralized = centralized != 0;
    m->folded = folded != 0;
    m->bgr = !strcmp(order, "bgr");
    if (!m->bgr && strcmp(order, "rgb"))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': channel_order is '%.20s', expected rgb or bgr",
                         mabn_h5_path(f), order);
    return MABN_OK;
}

static mabn_status read_tensors(struct mabn_checkpoint *c)
{
    int n = mabn_h5_item_count(c->h5);
    c->tensors = (struct mabn_checkpoint_tensor *)mabn_xcalloc((size_t)n + 1, sizeof *c->tensors);
    for (int i = 0; i < n; i++) {
        const struct mabn_h5_item *item = mabn_h5_item_at(c->h5, i);
        struct mabn_checkpoint_tensor *tensor = &c->tensors[i];
        int t = 0;
        while (t < TYPES && types[t].type != item->type)
            t++;
        if (t == TYPES)
            return mabn_fail(MABN_ERR_FORMAT, "'%s': tensor '%s' is %s, which tensors cannot be",
                             mabn_h5_path(c->h5), item->name, mabn_h5_type_name(item->type));
        tensor->name = item->name + 1;
        tensor->dtype = types[t].dtype;
        tensor->shape.rank = item->rank;
        for (int d = 0; d < item->rank; d++) {
            if (item->dims[d] > INT64_MAX)
                return mabn_fail(MABN_ERR_LIMIT, "'%s': tensor '%s' has an impossible shape",
                                 mabn_h5_path(c->h5), item->name);
            tensor->shape.dim[d] = (int64_t)item->dims[d];
        }
        tensor->count = item->count;
        tensor->bytes = item->bytes;
        c->count++;
    }
    return MABN_OK;
}

static mabn_status check_format(const struct mabn_h5_file *f)
{
    const char *format;
    int64_t version;
    if (mabn_h5_get_string(f, "format", &format) || strcmp(format, FORMAT))
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is not a mabn checkpoint (attribute 'format')",
                         mabn_h5_path(f));
    MABN_TRY(mabn_h5_get_int64(f, "version", &version));
    if (version != VERSION)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' is a checkpoint of version %lld, this is %d",
                         mabn_h5_path(f), (long long)version, VERSION);
    return MABN_OK;
}

mabn_status mabn_checkpoint_open(struct mabn_checkpoint **out, const char *path)
{
    struct mabn_checkpoint *c = (struct mabn_checkpoint *)mabn_xcalloc(1, sizeof *c);
    mabn_status status = mabn_h5_open(&c->h5, path);
    if (!status) status = check_format(c->h5);
    if (!status) status = read_meta(&c->meta, c->h5);
    if (!status) status = read_tensors(c);
    if (status) {
        mabn_checkpoint_free(c);
        c = NULL;
    }
    *out = c;
    return status;
}

void mabn_checkpoint_free(struct mabn_checkpoint *c)
{
    if (!c) return;
    mabn_h5_free(c->h5);
    free(c->tensors);
    free(c);
}

void mabn_checkpoint_get_meta(const struct mabn_checkpoint *c, struct mabn_checkpoint_meta *meta)
{
    *meta = c->meta;
}

const struct mabn_h5_file *mabn_checkpoint_file(const struct mabn_checkpoint *c)
{
    return c->h5;
}

size_t mabn_checkpoint_count(const struct mabn_checkpoint *c)
{
    return c->count;
}

const struct mabn_checkpoint_tensor *mabn_checkpoint_at(const struct mabn_checkpoint *c, size_t i)
{
    return &c->tensors[i];
}

const struct mabn_checkpoint_tensor *mabn_checkpoint_find(const struct mabn_checkpoint *c,
                                                          const char *name)
{
    char *full = mabn_xasprintf("/%s", name);
    const struct mabn_h5_item *item = mabn_h5_find(c->h5, full);
    free(full);
    return item ? &c->tensors[item - mabn_h5_item_at(c->h5, 0)] : NULL;
}

mabn_status mabn_checkpoint_read(const struct mabn_checkpoint *c,
                                 const struct mabn_checkpoint_tensor *tensor, void *data)
{
    return mabn_h5_read(c->h5, mabn_h5_item_at(c->h5, (int)(tensor - c->tensors)), data);
}

mabn_status mabn_checkpoint_read_as(const struct mabn_checkpoint *c, const char *name,
                                    enum mabn_dtype dtype, const struct mabn_shape *shape,
                                    void *data)
{
    const char *path = mabn_h5_path(c->h5);
    char found[160], wanted[160];
    const struct mabn_checkpoint_tensor *tensor = mabn_checkpoint_find(c, name);
    if (!tensor) return mabn_fail(MABN_ERR_NOTFOUND, "'%s' has no tensor '%s'", path, name);
    if (tensor->dtype != dtype)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s': tensor '%s' is %s, expected %s", path, name,
                         mabn_dtype_name(tensor->dtype), mabn_dtype_name(dtype));
    if (!mabn_shape_equal(&tensor->shape, shape))
        return mabn_fail(MABN_ERR_MISMATCH, "'%s': tensor '%s' has shape %s, expected %s", path,
                         name, mabn_shape_text(&tensor->shape, found),
                         mabn_shape_text(shape, wanted));
    return mabn_checkpoint_read(c, tensor, data);
}

mabn_status mabn_checkpoint_verify(const struct mabn_checkpoint *c, int threads)
{
    return mabn_h5_verify(c->h5, threads);
}

/* ---- a folder of checkpoints ---- */

char *mabn_checkpoint_step_path(const char *folder, int64_t step)
{
    char name[40];
    snprintf(name, sizeof name, "step-%09lld.h5", (long long)step);
    return mabn_path_join(folder, name);
}

/* The step in "step-000001000.h5", or -1. */
static int64_t step_of(const char *name)
{
    char *end;
    if (strncmp(name, "step-", 5) || name[5] < '0' || name[5] > '9') return -1;
    errno = 0;
    long long step = strtoll(name + 5, &end, 10);
    return errno || strcmp(end, ".h5") ? -1 : step;
}

static int compare_newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

/* Steps of the folder's files, newest first; *steps is malloc'd. */
static mabn_status list_steps(const char *folder, int64_t **steps, size_t *count)
{
    size_t capacity = 0;
    *steps = NULL;
    *count = 0;
    DIR *dir = opendir(folder);
    if (!dir && errno == ENOENT) return MABN_OK;
    if (!dir) return mabn_fail_errno("cannot open folder '%s'", folder);
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        int64_t step = step_of(entry->d_name);
        if (step < 0) continue;
        MABN_GROW(*steps, *count, capacity);
        (*steps)[(*count)++] = step;
    }
    closedir(dir);
    if (*count) qsort(*steps, *count, sizeof **steps, compare_newest_first);
    return MABN_OK;
}

mabn_status mabn_checkpoint_find_latest(const char *folder, char **path, struct mabn_str *skipped)
{
    int64_t *steps;
    size_t count;
    mabn_status status = MABN_OK;
    *path = NULL;
    MABN_TRY(list_steps(folder, &steps, &count));
    for (size_t i = 0; i < count && !*path; i++) {
        struct mabn_checkpoint *c;
        char *candidate = mabn_checkpoint_step_path(folder, steps[i]);
        status = mabn_checkpoint_open(&c, candidate);
        if (!status) status = mabn_checkpoint_verify(c, 1);
        mabn_checkpoint_free(c);
        if (!status) {
            *path = candidate;
        } else {
            mabn_str_printf(skipped, "%s\n", mabn_error_message());
            free(candidate);
        }
    }
    free(steps);
    if (status)
        return mabn_fail_prefix(status, "no checkpoint in '%s' is whole; the oldest", folder);
    return MABN_OK;
}

struct mabn_checkpoint *mabn_checkpoint_open_newest(const char *folder)
{
    struct mabn_checkpoint *found = NULL;
    int64_t *steps;
    size_t count;
    mabn_status status = list_steps(folder, &steps, &count);
    for (size_t i = 0; i < count && !found; i++) {
        char *path = mabn_checkpoint_step_path(folder, steps[i]);
        status = mabn_checkpoint_open(&found, path);
        free(path);
    }
    if (status) mabn_error_clear();
    free(steps);
    return found;
}

mabn_status mabn_checkpoint_prune(const char *folder, int keep)
{
    int64_t *steps;
    size_t count;
    mabn_status status = MABN_OK;
    MABN_TRY(list_steps(folder, &steps, &count));
    for (size_t i = keep < 1 ? 1 : (size_t)keep; i < count && !status; i++) {
        char *path = mabn_checkpoint_step_path(folder, steps[i]);
        if (unlink(path) && errno != ENOENT) status = mabn_fail_errno("cannot remove '%s'", path);
        free(path);
    }
    free(steps);
    return status;
}
