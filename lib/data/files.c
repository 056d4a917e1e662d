#include "data/files.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "image/oddities.h"

#define MAX_FILE ((uint64_t)1 << 30)

struct mabn_files {
    char **paths; /* (count) */
    size_t count, capacity;
    pthread_key_t open; /* each thread's file at hand, a struct mabn_input */
    struct look *looks; /* (count) */
};

/* What a file's header said when it was first read. */
struct look {
    uint32_t pictures;
    uint8_t seen, alpha, orientation;
};

/* ---- which ---- */

static void add(struct mabn_files *f, char *path /* taken */)
{
    MABN_GROW(f->paths, f->count, f->capacity);
    f->paths[f->count++] = path;
}

static void visit(void *files, char *path, char *below)
{
    add(files, path);
    free(below);
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static mabn_status read_list(struct mabn_files *f, const char *path)
{
    struct mabn_input in;
    MABN_TRY(mabn_input_open_text(&in, path, 0));
    if (mabn_image_sniff(in.bytes, in.size)) { /* one photograph is a list of itself */
        mabn_input_release(&in);
        if (!strcmp(path, "-"))
            return mabn_fail(MABN_ERR_ARG,
                             "standard input is a picture: expected paths of pictures");
        add(f, mabn_xstrdup(path));
        return MABN_OK;
    }
    const char *at = (const char *)in.bytes, *end = at + in.size;
    const bool lines = !in.size || !memchr(at, 0, in.size);
    while (at < end) {
        const char *stop = memchr(at, lines ? '\n' : 0, (size_t)(end - at));
        if (!stop) stop = end;
        const char *tab = lines ? memchr(at, '\t', (size_t)(stop - at)) : NULL;
        size_t n = (size_t)((tab ? tab : stop) - at);
        if (lines && n && at[n - 1] == '\r') n--;
        if (n) add(f, mabn_xstrndup(at, n));
        at = stop + 1;
    }
    mabn_input_release(&in);
    return MABN_OK;
}

/* ---- a thread's file ---- */

static void close_file(void *input)
{
    if (input) mabn_input_release(input);
    free(input);
}

/* A loader may read a file twice. */
static void look_at(const struct mabn_files *f, uint64_t index, const struct mabn_input *in)
{
    struct mabn_image_info info;
    struct look *look = &f->looks[index];
    if (__atomic_exchange_n(&look->seen, 1, __ATOMIC_RELAXED)) return;
    if (mabn_image_probe(&info, in->bytes, in->size)) {
        mabn_error_clear(); /* for the decoder to tell */
        return;
    }
    look->pictures = info.pictures;
    look->orientation = (uint8_t)info.orientation;
    look->alpha = mabn_image_is_transparent(&info, in->bytes, in->size);
}

static mabn_status get(const void *context, uint64_t index, struct mabn_sample *sample)
{
    const struct mabn_files *f = context;
    struct mabn_input *in = pthread_getspecific(f->open);
    if (in) mabn_input_release(in);
    if (!in) {
        in = mabn_xcalloc(1, sizeof *in);
        if (pthread_setspecific(f->open, in)) MABN_BUG("no memory for a thread's file");
    }
    /* A file that cannot be opened or read is a bad sample, not a bad disk. */
    const mabn_status status = mabn_input_open(in, f->paths[index], MAX_FILE);
    if (status) return status == MABN_ERR_IO ? MABN_ERR_NOTFOUND : status;
    look_at(f, index, in);
    *sample = (struct mabn_sample){.bytes = in->bytes, .size = in->size};
    return MABN_OK;
}

static void name(const void *context, uint64_t index, char *text, size_t capacity)
{
    snprintf(text, capacity, "%s", ((const struct mabn_files *)context)->paths[index]);
}

/* ---- the whole ---- */

mabn_status mabn_files_open(struct mabn_files **files, const char *path)
{
    struct mabn_files *f = mabn_xcalloc(1, sizeof *f);
    const bool folder = strcmp(path, "-") && mabn_path_is_dir(path);
    struct mabn_hidden hidden = {0, NULL};
    *files = NULL;
    if (pthread_key_create(&f->open, close_file)) MABN_BUG("no thread-specific keys are left");
    mabn_status status =
        folder ? mabn_folder_walk(path, NULL, visit, &hidden, f) : read_list(f, path);
    mabn_hidden_tell(&hidden, path);
    if (!status && !f->count)
        status =
            mabn_fail(MABN_ERR_ARG, folder ? "'%s' holds no files" : "'%s' lists no images", path);
    if (status) {
        mabn_files_free(f);
        return status;
    }
    if (folder) qsort(f->paths, f->count, sizeof *f->paths, compare_paths);
    f->looks = mabn_xcalloc(f->count, sizeof *f->looks);
    *files = f;
    return MABN_OK;
}

void mabn_files_free(struct mabn_files *f)
{
    if (!f) return;
    close_file(pthread_getspecific(f->open)); /* this thread's own */
    pthread_key_delete(f->open);
    for (size_t i = 0; i < f->count; i++)
        free(f->paths[i]);
    free(f->paths);
    free(f->looks);
    free(f);
}

const char *mabn_files_path(const struct mabn_files *files, uint64_t index)
{
    return files->paths[index];
}

void mabn_source_of_files(struct mabn_source *source, const struct mabn_files *files)
{
    *source =
        (struct mabn_source){.count = files->count, .get = get, .name = name, .context = files};
}

static const char *path_of(const void *files, int64_t number)
{
    return mabn_files_path(files, (uint64_t)number);
}

size_t mabn_files_odd(const struct mabn_files *files, struct mabn_odd_file **list)
{
    size_t n = 0;
    *list = mabn_xcalloc(files->count, sizeof **list);
    for (size_t i = 0; i < files->count; i++) {
        const struct look *l = &files->looks[i];
        if (l->pictures > 1 || l->alpha || l->orientation > 1)
            (*list)[n++] =
                (struct mabn_odd_file){(int64_t)i, l->pictures, l->alpha, l->orientation};
    }
    return n;
}

void mabn_files_tell(const struct mabn_files *files, const struct mabn_odd_file *list, size_t n)
{
    struct mabn_image_oddities oddities = MABN_IMAGE_NO_ODDITIES;
    uint8_t *told = mabn_xcalloc(files->count, 1);
    for (size_t i = 0; i < n; i++) {
        const struct mabn_image_info info = {.pictures = list[i].pictures,
                                             .alpha = list[i].alpha,
                                             .orientation = list[i].orientation};
        if (!told[list[i].index]++) mabn_image_oddities_add(&oddities, list[i].index, &info);
    }
    mabn_free(told);
    mabn_image_oddities_tell(&oddities, path_of, files, "read", "read as stored, not turned");
}
