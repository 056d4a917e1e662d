/* Writing a dataset: images take their places in the order of their numbers while many threads
 * prepare and write them; a journal beside the file lets a killed run be continued.
 *
 * Journal (PATH.journal): header, then one record for each number from 0 on. A record is written
 * only after its image's bytes, and carries a checksum bound to its number, so what a kill leaves
 * is a prefix that can be trusted. After a reboot the page cache may have been lost with it: then
 * (the header names the boot) the bytes themselves are compared with their checksums as well. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"
#include "store/dataset.h"

enum { MAX_SAMPLE = 1 << 30, FLUSH_RECORDS = 256, BUFFER_SIZE = 1 << 18 };

enum state {
    UNSETTLED,
    PLACED,   /* its thread is writing it */
    BUFFERED, /* small images are collected, and written together */
    WRITTEN,
    SKIPPED,
};

/* In memory and, from WRITTEN or SKIPPED on, in the journal. */
struct record {
    uint64_t offset, checksum, source;
    uint32_t length, height, width;
    uint8_t channels, format, state, zero;
    uint64_t seal; /* XXH3-64 of the above, seeded with the number */
};

struct journal_header {
    char magic[8];
    uint8_t key[16];
    int64_t count;
    char boot[40]; /* /proc/sys/kernel/random/boot_id */
};

struct extra {
    char *name;
    enum mabn_h5_type type;
    size_t width;
    int rank;
    uint64_t dims[MABN_H5_MAX_RANK];
    void *data; /* mabn_alloc */
    int item;
};

struct mabn_dataset_writer {
    struct mabn_h5_writer *h5;
    char *path;
    bool raw;
    int height, width, channels; /* raw */
    int64_t count;
    struct record *records; /* (count) */

    pthread_mutex_t lock;
    pthread_cond_t turn;
    int64_t next;      /* number whose place comes next */
    int64_t cancelled; /* numbers above this one are refused */
    uint64_t end;      /* of the placed bytes */
    uint8_t *buffer;   /* (BUFFER_SIZE) what comes last before `end` */
    size_t buffered;

    atomic_bool failed; /* writing failed: nothing to continue */
    int64_t done;       /* settled by the run before */
    int64_t settled;    /* all below are settled */
    int journal;        /* descriptor, -1 none */
    char *journal_path;
    int64_t journaled; /* all below are in the journal */

    int64_t *places; /* (count) once asked for */
    struct extra *extras;
    size_t extra_count, extra_capacity;
    int64_t classes;
};

/* ---- journal ---- */

static uint64_t record_seal(const struct record *r, int64_t number)
{
    return XXH3_64bits_withSeed(r, offsetof(struct record, seal), (uint64_t)number);
}

static void fill_header(struct journal_header *h, const struct mabn_dataset_spec *spec)
{
    memset(h, 0, sizeof *h);
    memcpy(h->magic, "MABNJRN1", 8);
    memcpy(h->key, spec->key, sizeof h->key);
    h->count = spec->count;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, h->boot, sizeof h->boot - 1);
    if (got < 0) memset(h->boot, 0, sizeof h->boot); /* unknown boot: the bytes will be compared */
    if (fd >= 0) close(fd);
}

/* Are the image's bytes in the partial file what the record says? */
static bool bytes_match(struct mabn_dataset_writer *w, const struct record *r)
{
    void *bytes;
    if (mabn_alloc(&bytes, r->length)) return false;
    bool same = !mabn_h5_stream_read(w->h5, r->offset, bytes, r->length) &&
                XXH3_64bits(bytes, r->length) == r->checksum;
    mabn_free(bytes);
    return same;
}

/* Take the journal's trustworthy prefix. */
static void read_records(struct mabn_dataset_writer *w, bool compare_bytes)
{
    struct record r;
    uint8_t last;
    off_t at = sizeof(struct journal_header);
    for (int64_t i = 0; i < w->count; i++, at += (off_t)sizeof r) {
        if (pread(w->journal, &r, sizeof r, at) != (ssize_t)sizeof r) break;
        if (r.seal != record_seal(&r, i) || (r.state != WRITTEN && r.state != SKIPPED)) break;
        if (r.state == WRITTEN) {
            if (r.offset != w->end || r.length > MAX_SAMPLE) break;
            if (compare_bytes && !bytes_match(w, &r)) break;
            w->end += r.length;
        }
        w->records[i] = r;
        w->done = i + 1;
    }
    /* The partial file itself may be missing or shorter. */
    while (w->done && w->end && mabn_h5_stream_read(w->h5, w->end - 1, &last, 1)) {
        r = w->records[--w->done];
        if (r.state == WRITTEN) w->end = r.offset;
    }
}

static mabn_status open_journal(struct mabn_dataset_writer *w, const struct mabn_dataset_spec *spec)
{
    struct journal_header want, found;
    w->journal = open(w->journal_path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (w->journal < 0) return mabn_fail_errno("cannot create '%s'", w->journal_path);
    fill_header(&want, spec);
    if (pread(w->journal, &found, sizeof found, 0) == (ssize_t)sizeof found &&
        !memcmp(&found, &want, offsetof(struct journal_header, boot)))
        read_records(w, !*want.boot || memcmp(found.boot, want.boot, sizeof want.boot));
    mabn_error_clear();
    w->next = w->settled = w->journaled = w->done;
    off_t end = (off_t)(sizeof want + (size_t)w->done * sizeof(struct record));
    if (ftruncate(w->journal, end)) return mabn_fail_errno("cannot write '%s'", w->journal_path);
    return mabn_pwrite_all(w->journal, &want, sizeof want, 0, w->journal_path);
}

/* Append what is settled; the lock is held. */
static mabn_status flush_journal(struct mabn_dataset_writer *w)
{
    int64_t from = w->journaled, n = w->settled - from;
    if (w->journal < 0 || !n) return MABN_OK;
    for (int64_t i = from; i < w->settled; i++)
        w->records[i].seal = record_seal(&w->records[i], i);
    w->journaled = w->settled;
    return mabn_pwrite_all(w->journal, w->records + from, (size_t)n * sizeof *w->records,
                           sizeof(struct journal_header) + (uint64_t)from * sizeof *w->records,
                           w->journal_path);
}

/* Move `settled` over what is finished, and tell the journal. The lock is held. */
static mabn_status advance(struct mabn_dataset_writer *w)
{
    while (w->settled < w->next && w->records[w->settled].state >= WRITTEN)
        w->settled++;
    mabn_status status = w->settled - w->journaled >= FLUSH_RECORDS ? flush_journal(w) : MABN_OK;
    if (status) w->failed = true;
    return status;
}

/* Write the collected small images. The lock is held. */
static mabn_status flush_buffer(struct mabn_dataset_writer *w)
{
    if (!w->buffered) return MABN_OK;
    mabn_status status = mabn_h5_stream_write(w->h5, w->end - w->buffered, w->buffer, w->buffered);
    w->buffered = 0;
    if (status) {
        w->failed = true;
        return status;
    }
    for (int64_t i = w->settled; i < w->next; i++)
        if (w->records[i].state == BUFFERED) w->records[i].state = WRITTEN;
    return advance(w);
}

/* ---- opening and closing ---- */

static mabn_status check_spec(const struct mabn_dataset_spec *spec)
{
    if (spec->count < 1) return mabn_fail(MABN_ERR_ARG, "there are no images to pack");
    if (spec->count > 1000000000)
        return mabn_fail(MABN_ERR_LIMIT, "more than 1,000,000,000 images");
    if (spec->raw &&
        (spec->height < 1 || spec->width < 1 || spec->channels < 1 ||
         (uint64_t)spec->height * (uint64_t)spec->width > MAX_SAMPLE / 8 || spec->channels > 4))
        return mabn_fail(MABN_ERR_ARG, "raw images cannot measure %d × %d × %d", spec->height,
                         spec->width, spec->channels);
    return MABN_OK;
}

static void write_attributes(struct mabn_dataset_writer *w, const struct mabn_dataset_spec *spec)
{
    mabn_h5_set_string(w->h5, "format", "mabn-dataset");
    mabn_h5_set_int64(w->h5, "version", 1);
    mabn_h5_set_string(w->h5, "kind", spec->kind);
    mabn_h5_set_string(w->h5, "encoding", spec->raw ? "raw" : "encoded");
    mabn_h5_set_string(w->h5, "command", spec->command ? spec->command : "");
    mabn_h5_set_string(w->h5, "tool", "");
    if (!spec->raw) return;
    mabn_h5_set_int64(w->h5, "height", spec->height);
    mabn_h5_set_int64(w->h5, "width", spec->width);
    mabn_h5_set_int64(w->h5, "channels", spec->channels);
}

mabn_status mabn_dataset_writer_open(struct mabn_dataset_writer **out, const char *path,
                                     const struct mabn_dataset_spec *spec)
{
    static const uint8_t no_key[16];
    bool restartable = memcmp(spec->key, no_key, sizeof no_key) != 0;
    void *records = NULL;
    *out = NULL;
    MABN_TRY(check_spec(spec));
    MABN_TRY(mabn_alloc_zero(&records, (size_t)spec->count * sizeof(struct record)));
    struct mabn_dataset_writer *w = (struct mabn_dataset_writer *)mabn_xcalloc(1, sizeof *w);
    w->path = mabn_xstrdup(path);
    w->journal_path = mabn_xasprintf("%s.journal", path);
    w->journal = -1;
    w->raw = spec->raw;
    w->height = spec->height;
    w->width = spec->width;
    w->channels = spec->channels;
    w->count = w->cancelled = spec->count;
    w->records = (struct record *)records;
    w->buffer = (uint8_t *)mabn_xmalloc(BUFFER_SIZE);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->turn, NULL);
    mabn_status status =
        mabn_h5_writer_open(&w->h5, path, spec->force, "/images/bytes", restartable);
    if (!status && restartable) status = open_journal(w, spec);
    if (!status) write_attributes(w, spec);
    if (status)
        mabn_dataset_writer_free(w, true);
    else
        *out = w;
    return status;
}

void mabn_dataset_writer_free(struct mabn_dataset_writer *w, bool keep_partial)
{
    if (!w) return;
    if (w->journal >= 0 && !w->failed && keep_partial && (flush_buffer(w) || flush_journal(w)))
        w->failed = true;
    if (w->failed) keep_partial = false;
    if (w->journal >= 0) {
        close(w->journal);
        if (!keep_partial) unlink(w->journal_path);
    }
    mabn_h5_writer_free(w->h5, keep_partial);
    for (size_t i = 0; i < w->extra_count; i++) {
        free(w->extras[i].name);
        mabn_free(w->extras[i].data);
    }
    free(w->extras);
    free(w->places);
    mabn_free(w->records);
    free(w->buffer);
    pthread_cond_destroy(&w->turn);
    pthread_mutex_destroy(&w->lock);
    free(w->journal_path);
    free(w->path);
    free(w);
}

/* ---- images ---- */

int64_t mabn_dataset_writer_done(const struct mabn_dataset_writer *w)
{
    return w->done;
}

uint64_t mabn_dataset_writer_source(const struct mabn_dataset_writer *w, int64_t number)
{
    return w->records[number].source;
}

bool mabn_dataset_writer_skipped(const struct mabn_dataset_writer *w, int64_t number)
{
    return w->records[number].state == SKIPPED;
}

mabn_status mabn_dataset_writer_rewind(struct mabn_dataset_writer *w, int64_t number)
{
    if (number < 0 || number > w->done || w->next != w->done) MABN_BUG("rewind too late");
    for (int64_t i = w->done; i-- > number;) {
        if (w->records[i].state == WRITTEN) w->end = w->records[i].offset;
        w->records[i] = (struct record){0};
    }
    w->done = w->next = w->settled = w->journaled = number;
    off_t end = (off_t)(sizeof(struct journal_header) + (size_t)number * sizeof *w->records);
    if (w->journal >= 0 && ftruncate(w->journal, end))
        return mabn_fail_errno("cannot write '%s'", w->journal_path);
    return MABN_OK;
}

static mabn_status check_sample(const struct mabn_dataset_writer *w,
                                const struct mabn_dataset_sample *s)
{
    if (!s->size || s->size > MAX_SAMPLE)
        return mabn_fail(MABN_ERR_LIMIT, "an image of %zu bytes cannot be packed", s->size);
    if (s->height < 1 || s->width < 1 || s->channels < 1 || s->channels > 4)
        MABN_BUG("an image of %d × %d × %d", s->height, s->width, s->channels);
    if (w->raw && (s->format != MABN_DATASET_RAW || s->height != w->height ||
                   s->width != w->width || s->channels != w->channels ||
                   s->size != (size_t)s->height * (size_t)s->width * (size_t)s->channels))
        MABN_BUG("a raw image of another shape");
    return MABN_OK;
}

/* Give `number` its place, in its turn; small images (or none: bytes NULL) are dealt with at once.
 * The lock is held. */
static mabn_status place(struct mabn_dataset_writer *w, int64_t number, struct record *r,
                         const void *bytes)
{
    mabn_status status = MABN_OK;
    bool small = bytes && r->length <= BUFFER_SIZE / 8;
    if (bytes && (!small || r->length > BUFFER_SIZE - w->buffered)) status = flush_buffer(w);
    r->offset = w->end;
    r->state = !bytes ? SKIPPED : small ? BUFFERED : PLACED;
    if (small) {
        memcpy(w->buffer + w->buffered, bytes, r->length);
        w->buffered += r->length;
    }
    w->end += r->length;
    w->records[number] = *r;
    w->next++;
    pthread_cond_broadcast(&w->turn);
    return status ? status : advance(w);
}

static mabn_status settle(struct mabn_dataset_writer *w, int64_t number, struct record *r,
                          const void *bytes)
{
    mabn_status status;
    if (number < 0 || number >= w->count) MABN_BUG("image number %lld", (long long)number);
    pthread_mutex_lock(&w->lock);
    while (w->next < number && number < w->cancelled)
        pthread_cond_wait(&w->turn, &w->lock);
    if (number >= w->cancelled)
        status = mabn_fail(MABN_ERR_STOPPED, "packing was stopped");
    else if (w->next != number)
        MABN_BUG("image %lld settled twice", (long long)number);
    else
        status = place(w, number, r, bytes);
    pthread_mutex_unlock(&w->lock);
    return status;
}

mabn_status mabn_dataset_writer_add(struct mabn_dataset_writer *w, int64_t number,
                                    const struct mabn_dataset_sample *s)
{
    MABN_TRY(check_sample(w, s));
    struct record r = {
        .checksum = XXH3_64bits(s->bytes, s->size),
        .source = s->source,
        .length = (uint32_t)s->size,
        .height = (uint32_t)s->height,
        .width = (uint32_t)s->width,
        .channels = (uint8_t)s->channels,
        .format = (uint8_t)s->format,
    };
    MABN_TRY(settle(w, number, &r, s->bytes));
    if (r.state != PLACED) return MABN_OK;
    mabn_status status = mabn_h5_stream_write(w->h5, r.offset, s->bytes, s->size);
    if (status) {
        w->failed = true;
        return status;
    }
    pthread_mutex_lock(&w->lock);
    w->records[number].state = WRITTEN;
    status = advance(w);
    pthread_mutex_unlock(&w->lock);
    return status;
}

mabn_status mabn_dataset_writer_skip(struct mabn_dataset_writer *w, int64_t number, uint64_t source)
{
    struct record r = {.source = source};
    return settle(w, number, &r, NULL);
}

void mabn_dataset_writer_cancel(struct mabn_dataset_writer *w, int64_t number)
{
    pthread_mutex_lock(&w->lock);
    if (number < w->cancelled) w->cancelled = number;
    pthread_cond_broadcast(&w->turn);
    pthread_mutex_unlock(&w->lock);
}

/* ---- after the last image ---- */

static bool is_kept(const struct record *r)
{
    return r->state == BUFFERED || r->state == WRITTEN;
}

int64_t mabn_dataset_writer_kept(const struct mabn_dataset_writer *w)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < w->count; i++)
        kept += is_kept(&w->records[i]);
    return kept;
}

int64_t mabn_dataset_writer_place(struct mabn_dataset_writer *w, int64_t number)
{
    if (!w->places) {
        int64_t place = 0;
        w->places = (int64_t *)mabn_xmalloc((size_t)w->count * sizeof *w->places);
        for (int64_t i = 0; i < w->count; i++)
            w->places[i] = is_kept(&w->records[i]) ? place++ : -1;
    }
    return w->places[number];
}

/* Room for one more array; its data are filled in by the caller. */
static mabn_status new_extra(struct mabn_dataset_writer *w, const char *name,
                             enum mabn_h5_type type, size_t width, int rank, const uint64_t *dims,
                             void **data, size_t *bytes)
{
    struct extra e = {.type = type, .width = width, .rank = rank};
    if (w->next != w->count) MABN_BUG("array '%s' added before the last image", name);
    *bytes = width;
    for (int i = 0; i < rank; i++) {
        e.dims[i] = dims[i];
        if (!mabn_size_mul(*bytes, dims[i], bytes))
            return mabn_fail(MABN_ERR_LIMIT, "array '%s' is too large", name);
    }
    MABN_TRY(mabn_alloc(&e.data, *bytes));
    e.name = mabn_xstrdup(name);
    MABN_GROW(w->extras, w->extra_count, w->extra_capacity);
    w->extras[w->extra_count++] = e;
    *data = e.data;
    return MABN_OK;
}

mabn_status mabn_dataset_writer_add_array(struct mabn_dataset_writer *w, const char *name,
                                          enum mabn_h5_type type, int rank, const uint64_t *dims,
                                          const void *data)
{
    void *copy;
    size_t bytes;
    MABN_TRY(new_extra(w, name, type, mabn_h5_type_size(type), rank, dims, &copy, &bytes));
    if (bytes) memcpy(copy, data, bytes);
    return MABN_OK;
}

static mabn_status add_strings(struct mabn_dataset_writer *w, const char *name,
                               const char *const *strings, int64_t count)
{
    size_t width = 1, bytes;
    void *data;
    const uint64_t dims[1] = {(uint64_t)count};
    for (int64_t i = 0; i < count; i++) {
        size_t n = strlen(strings[i]);
        if (n > width) width = n;
    }
    MABN_TRY(new_extra(w, name, MABN_H5_STRING, width, 1, dims, &data, &bytes));
    memset(data, 0, bytes);
    for (int64_t i = 0; i < count; i++)
        memcpy((char *)data + (size_t)i * width, strings[i], strlen(strings[i]));
    return MABN_OK;
}

mabn_status mabn_dataset_writer_set_labels(struct mabn_dataset_writer *w, const int32_t *labels)
{
    int64_t kept = mabn_dataset_writer_kept(w);
    const uint64_t dims[1] = {(uint64_t)kept};
    size_t bytes;
    void *data;
    MABN_TRY(new_extra(w, "/labels", MABN_H5_I32, 4, 1, dims, &data, &bytes));
    int32_t *out = (int32_t *)data;
    for (int64_t i = 0; i < w->count; i++) {
        if (labels[i] < 0)
            return mabn_fail(MABN_ERR_ARG, "image %lld has label %d: labels count from 0",
                             (long long)i, (int)labels[i]);
        if (labels[i] >= w->classes) w->classes = labels[i] + 1;
        if (is_kept(&w->records[i])) *out++ = labels[i];
    }
    return MABN_OK;
}

mabn_status mabn_dataset_writer_set_names(struct mabn_dataset_writer *w, const char *const *names)
{
    int64_t kept = 0;
    const char **list = (const char **)mabn_xmalloc(((size_t)w->count + 1) * sizeof *list);
    for (int64_t i = 0; i < w->count; i++)
        if (is_kept(&w->records[i])) list[kept++] = names[i];
    mabn_status status = add_strings(w, "/images/name", list, kept);
    free(list);
    return status;
}

mabn_status mabn_dataset_writer_set_classes(struct mabn_dataset_writer *w, const char *const *names,
                                            int64_t classes)
{
    if (classes > w->classes) w->classes = classes;
    return add_strings(w, "/classes", names, classes);
}

void mabn_dataset_writer_set_string(struct mabn_dataset_writer *w, const char *attribute,
                                    const char *value)
{
    mabn_h5_set_string(w->h5, attribute, value);
}

void mabn_dataset_writer_set_int64(struct mabn_dataset_writer *w, const char *attribute,
                                   int64_t value)
{
    mabn_h5_set_int64(w->h5, attribute, value);
}

/* ---- commit ---- */

/* The index arrays, from the records of kept images. */
static mabn_status add_index(struct mabn_dataset_writer *w, int64_t kept)
{
    const uint64_t dims[1] = {(uint64_t)kept};
    static const struct {
        const char *name;
        enum mabn_h5_type type;
        size_t at; /* in struct record */
    } columns[] = {
        {"/images/offset", MABN_H5_U64, offsetof(struct record, offset)},
        {"/images/length", MABN_H5_U32, offsetof(struct record, length)},
        {"/images/height", MABN_H5_U32, offsetof(struct record, height)},
        {"/images/width", MABN_H5_U32, offsetof(struct record, width)},
        {"/images/channels", MABN_H5_U8, offsetof(struct record, channels)},
        {"/images/format", MABN_H5_U8, offsetof(struct record, format)},
        {"/images/checksum", MABN_H5_U64, offsetof(struct record, checksum)},
    };
    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
        size_t width = mabn_h5_type_size(columns[c].type), bytes;
        void *data;
        MABN_TRY(new_extra(w, columns[c].name, columns[c].type, width, 1, dims, &data, &bytes));
        char *out = (char *)data;
        for (int64_t i = 0; i < w->count; i++) {
            if (!is_kept(&w->records[i])) continue;
            memcpy(out, (const char *)&w->records[i] + columns[c].at, width);
            out += width;
        }
    }
    return MABN_OK;
}

static mabn_status write_file(struct mabn_dataset_writer *w)
{
    MABN_TRY(mabn_h5_layout(w->h5, w->end));
    for (size_t i = 0; i < w->extra_count; i++)
        MABN_TRY(mabn_h5_write(w->h5, w->extras[i].item, w->extras[i].data));
    MABN_TRY(mabn_h5_seal(w->h5));
    /* From here on the partial file is the result. If it were renamed first, a kill in between
     * would leave a journal without its file. */
    if (w->journal >= 0) unlink(w->journal_path);
    return mabn_h5_commit(w->h5);
}

mabn_status mabn_dataset_writer_commit(struct mabn_dataset_writer *w)
{
    int64_t kept = mabn_dataset_writer_kept(w);
    if (w->next != w->count) MABN_BUG("not all images were settled");
    if (!kept) return mabn_fail(MABN_ERR_ARG, "no image is left to pack into '%s'", w->path);
    mabn_status status = flush_buffer(w);
    if (!status) status = flush_journal(w);
    if (!status) status = add_index(w, kept);
    mabn_h5_set_int64(w->h5, "count", kept);
    mabn_h5_set_int64(w->h5, "classes", w->classes);
    for (size_t i = 0; i < w->extra_count && !status; i++) {
        struct extra *e = &w->extras[i];
        status = mabn_h5_declare(w->h5, e->name, e->type, e->width, e->rank, e->dims, &e->item);
    }
    if (!status) status = write_file(w);
    if (status) w->failed = true;
    return status;
}
