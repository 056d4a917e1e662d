#include "store/listing.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

enum { MAX_CLASSES = 1000000 };

/* Growing lists behind a listing, and the class table: keys sorted for search. */
struct builder {
    struct mabn_listing *list;
    size_t path_capacity, name_capacity, label_capacity;
    struct class_key {
        char *key; /* folder or label name */
        int32_t label;
    } * keys; /* (key_count), sorted by key */
    size_t key_count, key_capacity;
};

static void release_builder(struct builder *b)
{
    for (size_t i = 0; i < b->key_count; i++)
        free(b->keys[i].key);
    free(b->keys);
}

void mabn_listing_release(struct mabn_listing *list)
{
    for (int64_t i = 0; i < list->count; i++) {
        free(list->paths[i]);
        free(list->names[i]);
    }
    for (int64_t i = 0; i < list->class_count; i++)
        free(list->classes[i]);
    free(list->paths);
    free(list->names);
    free(list->labels);
    free(list->classes);
    *list = (struct mabn_listing){0};
}

static void add_image(struct builder *b, char *path /* taken */, char *name /* taken */,
                      int32_t label)
{
    struct mabn_listing *list = b->list;
    MABN_GROW(list->paths, (size_t)list->count, b->path_capacity);
    MABN_GROW(list->names, (size_t)list->count, b->name_capacity);
    MABN_GROW(list->labels, (size_t)list->count, b->label_capacity);
    list->paths[list->count] = path;
    list->names[list->count] = name;
    list->labels[list->count++] = label;
}

/* ---- classes ---- */

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct class_key *)a)->key, ((const struct class_key *)b)->key);
}

static void add_key(struct builder *b, char *key /* taken */, int32_t label)
{
    MABN_GROW(b->keys, b->key_count, b->key_capacity);
    b->keys[b->key_count++] = (struct class_key){key, label};
}

static int32_t find_class(const struct builder *b, const char *key)
{
    struct class_key want = {(char *)(uintptr_t)key, 0};
    if (!b->key_count) return -1;
    const struct class_key *found = (const struct class_key *)bsearch(
        &want, b->keys, b->key_count, sizeof *b->keys, compare_keys);
    return found ? found->label : -1;
}

/* The lines of a text, one at a time: *line is malloc'd, without its end. */
struct lines {
    const char *next, *end;
    int number; /* of the line last returned */
};

static bool next_line(struct lines *l, char **line)
{
    if (l->next >= l->end) return false;
    const char *stop = (const char *)memchr(l->next, '\n', (size_t)(l->end - l->next));
    if (!stop) stop = l->end;
    size_t n = (size_t)(stop - l->next);
    if (n && l->next[n - 1] == '\r') n--;
    *line = mabn_xstrndup(l->next, n);
    l->next = stop + 1;
    l->number++;
    return true;
}

/* Keys and shown names from a class file. */
static mabn_status read_class_file(struct builder *b, const char *path)
{
    struct mabn_input in;
    struct mabn_listing *list = b->list;
    size_t capacity = 0;
    mabn_status status = MABN_OK;
    char *line;
    MABN_TRY(mabn_input_open_text(&in, path, 1 << 28));
    struct lines lines = {(const char *)in.bytes, (const char *)in.bytes + in.size, 0};
    while (!status && next_line(&lines, &line)) {
        char *tab = strchr(line, '\t');
        if (tab) *tab = '\0';
        const char *shown = tab && tab[1] ? tab + 1 : line;
        if (!*line)
            status = mabn_fail(MABN_ERR_FORMAT, "'%s':%d: empty class name", path, lines.number);
        else if (list->class_count == MAX_CLASSES)
            status = mabn_fail(MABN_ERR_LIMIT, "'%s': more than %d classes", path, MAX_CLASSES);
        else {
            MABN_GROW(list->classes, (size_t)list->class_count, capacity);
            list->classes[list->class_count] = mabn_xstrdup(shown);
            add_key(b, mabn_xstrdup(line), (int32_t)list->class_count++);
        }
        free(line);
    }
    mabn_input_release(&in);
    if (status) return status;
    if (!b->key_count) return mabn_fail(MABN_ERR_FORMAT, "'%s' names no classes", path);
    qsort(b->keys, b->key_count, sizeof *b->keys, compare_keys);
    for (size_t i = 1; i < b->key_count; i++)
        if (!strcmp(b->keys[i - 1].key, b->keys[i].key))
            return mabn_fail(MABN_ERR_FORMAT, "'%s': class '%s' appears twice", path,
                             b->keys[i].key);
    return MABN_OK;
}

/* Keys (any order, perhaps repeated) become the classes in byte order. */
static void number_classes(struct builder *b)
{
    struct mabn_listing *list = b->list;
    size_t kept = 0;
    qsort(b->keys, b->key_count, sizeof *b->keys, compare_keys);
    for (size_t i = 0; i < b->key_count; i++) {
        if (kept && !strcmp(b->keys[kept - 1].key, b->keys[i].key)) {
            free(b->keys[i].key);
            continue;
        }
        b->keys[kept] = b->keys[i];
        b->keys[kept].label = (int32_t)kept;
        kept++;
    }
    b->key_count = kept;
    list->classes = (char **)mabn_xmalloc((kept + 1) * sizeof *list->classes);
    for (size_t i = 0; i < kept; i++)
        list->classes[i] = mabn_xstrdup(b->keys[i].key);
    list->class_count = (int64_t)kept;
}

mabn_status mabn_listing_read_classes(struct mabn_listing *list, const char *class_file)
{
    struct builder b = {.list = list};
    *list = (struct mabn_listing){0};
    mabn_status status = read_class_file(&b, class_file);
    release_builder(&b);
    if (status) mabn_listing_release(list);
    return status;
}

/* ---- folders ---- */

struct class_folder {
    struct builder *builder;
    int32_t label;
};

static void visit(void *folder, char *path, char *below)
{
    const struct class_folder *f = folder;
    add_image(f->builder, path, below, f->label);
}

/* The class folders, as keys; files beside them are counted. */
static mabn_status scan_top(struct builder *b, const char *folder, int *strays)
{
    const struct dirent *entry;
    DIR *dir = opendir(folder);
    if (!dir) return mabn_fail_errno("cannot open folder '%s'", folder);
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        char *path = mabn_path_join(folder, entry->d_name);
        if (mabn_entry_is_dir(path, entry))
            add_key(b, mabn_xstrdup(entry->d_name), 0);
        else
            ++*strays;
        free(path);
    }
    closedir(dir);
    return MABN_OK;
}

struct sort_entry {
    char *path, *name;
    int32_t label;
};

static int compare_entries(const void *a, const void *b)
{
    const struct sort_entry *x = (const struct sort_entry *)a;
    const struct sort_entry *y = (const struct sort_entry *)b;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void sort_images(struct mabn_listing *list)
{
    size_t n = (size_t)list->count;
    struct sort_entry *entries = (struct sort_entry *)mabn_xmalloc((n + 1) * sizeof *entries);
    for (size_t i = 0; i < n; i++)
        entries[i] = (struct sort_entry){list->paths[i], list->names[i], list->labels[i]};
    qsort(entries, n, sizeof *entries, compare_entries);
    for (size_t i = 0; i < n; i++) {
        list->paths[i] = entries[i].path;
        list->names[i] = entries[i].name;
        list->labels[i] = entries[i].label;
    }
    free(entries);
}

static mabn_status scan_classes(struct builder *b, const char *folder, const struct builder *found)
{
    const struct builder *classes = b->key_count ? b : found;
    for (size_t i = 0; i < found->key_count; i++) {
        const char *key = found->keys[i].key;
        int64_t before = b->list->count;
        int32_t label = find_class(classes, key);
        if (label < 0)
            return mabn_fail(MABN_ERR_MISMATCH, "folder '%s/%s' is not in the class file", folder,
                             key);
        char *path = mabn_path_join(folder, key);
        mabn_status status = mabn_folder_walk(path, key, visit, &(struct class_folder){b, label});
        free(path);
        if (status) return status;
        if (b->list->count == before) mabn_warn("class folder '%s/%s' is empty", folder, key);
    }
    return MABN_OK;
}

mabn_status mabn_listing_scan(struct mabn_listing *list, const char *folder, const char *class_file)
{
    struct mabn_listing none = {0};
    struct builder b = {.list = list}, found = {.list = class_file ? &none : list};
    int strays = 0;
    *list = (struct mabn_listing){0};
    mabn_status status = class_file ? read_class_file(&b, class_file) : MABN_OK;
    if (!status) status = scan_top(&found, folder, &strays);
    if (!status && !found.key_count)
        status = mabn_fail(MABN_ERR_ARG, "'%s' holds no class folders", folder);
    if (!status) {
        number_classes(&found);
        status = scan_classes(&b, folder, &found);
    }
    if (!status && strays)
        mabn_warn("%d file%s in '%s' itself %s in no class folder: skipped", strays,
                  strays == 1 ? "" : "s", folder, strays == 1 ? "is" : "are");
    if (!status && !list->count)
        status = mabn_fail(MABN_ERR_ARG, "the class folders of '%s' hold no files", folder);
    if (!status) sort_images(list);
    release_builder(&b);
    release_builder(&found);
    mabn_listing_release(&none);
    if (status) mabn_listing_release(list);
    return status;
}

/* ---- lists ---- */

/* A label as a number, or -1. */
static int32_t label_number(const char *text)
{
    char *end;
    if (*text < '0' || *text > '9') return -1;
    errno = 0;
    long value = strtol(text, &end, 10);
    return errno || *end || value >= MAX_CLASSES ? -1 : (int32_t)value;
}

static int compare_paths(const void *a, const void *b)
{
    const char *const *x = *(const char *const *const *)a, *const *y =
                                                               *(const char *const *const *)b;
    const int order = strcmp(*x, *y);
    return order ? order : (x > y) - (x < y);
}

size_t mabn_listing_again(char *const *paths, size_t count, size_t *first)
{
    char *const **sorted = (char *const **)mabn_xmalloc((count + 1) * sizeof *sorted);
    size_t again = 0;
    *first = count;
    for (size_t i = 0; i < count; i++)
        sorted[i] = &paths[i];
    qsort(sorted, count, sizeof *sorted, compare_paths);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(*sorted[i - 1], *sorted[i])) continue;
        const size_t at = (size_t)(sorted[i] - paths);
        if (!again++ || at < *first) *first = at;
    }
    free(sorted);
    return again;
}

static void tell_again(const struct mabn_listing *list, const char *name)
{
    size_t first, again = mabn_listing_again(list->paths, (size_t)list->count, &first);
    if (again)
        mabn_warn("'%s': %zu line%s an image that is listed before (the first: line %zu, '%s'): it "
                  "counts as often as it is listed",
                  name, again, again == 1 ? " has" : "s have", first + 1, list->paths[first]);
}

/* A whole number below 0, which is a class in no numbering. */
static bool is_negative(const char *text)
{
    return text[0] == '-' && text[1] && !text[1 + strspn(text + 1, "0123456789")];
}

/* Lines to paths and label texts (kept in `names` until they are resolved). */
static mabn_status read_lines(struct builder *b, const struct mabn_input *in)
{
    struct lines lines = {(const char *)in->bytes, (const char *)in->bytes + in->size, 0};
    char *line;
    while (next_line(&lines, &line)) {
        char *tab = strrchr(line, '\t');
        if (!tab || tab == line || !tab[1]) {
            mabn_status status =
                mabn_fail(MABN_ERR_FORMAT, "'%s':%d: expected PATH, a tab and a label", in->name,
                          lines.number);
            free(line);
            return status;
        }
        *tab = '\0';
        add_image(b, line, mabn_xstrdup(tab + 1), 0);
    }
    if (!b->list->count) return mabn_fail(MABN_ERR_ARG, "'%s' lists no images", in->name);
    return MABN_OK;
}

/* By the class file if there is one; else all numbers or all names, as the first label is. */
static mabn_status resolve_labels(struct builder *b, const char *name, bool class_file)
{
    struct mabn_listing *list = b->list;
    bool numbers = !class_file && label_number(list->names[0]) >= 0;
    for (int64_t i = 0; !class_file && !numbers && i < list->count; i++)
        add_key(b, mabn_xstrdup(list->names[i]), 0);
    if (!class_file && !numbers) number_classes(b);
    for (int64_t i = 0; i < list->count; i++) {
        const char *text = list->names[i];
        if (!class_file && is_negative(text))
            return mabn_fail(MABN_ERR_FORMAT,
                             "'%s':%lld: label '%s' is negative: leave out images without a class",
                             name, (long long)i + 1, text);
        int32_t label = numbers ? -1 : find_class(b, text);
        if (label < 0 && (numbers || class_file)) label = label_number(text);
        if (label < 0 && numbers)
            return mabn_fail(MABN_ERR_FORMAT,
                             "'%s':%lld: label '%s' is not a number below %d, as the first one is",
                             name, (long long)i + 1, text, MAX_CLASSES);
        if (label < 0 || (class_file && label >= list->class_count))
            return mabn_fail(MABN_ERR_MISMATCH, "'%s':%lld: label '%s' is not in the class file",
                             name, (long long)i + 1, text);
        list->labels[i] = label;
        free(list->names[i]);
        list->names[i] = mabn_xstrdup(list->paths[i]);
    }
    return MABN_OK;
}

mabn_status mabn_listing_read(struct mabn_listing *list, const char *path, const char *class_file)
{
    struct builder b = {.list = list};
    struct mabn_input in;
    *list = (struct mabn_listing){0};
    MABN_TRY(mabn_input_open_text(&in, path, 0));
    mabn_status status = class_file ? read_class_file(&b, class_file) : MABN_OK;
    if (!status) status = read_lines(&b, &in);
    if (!status) status = resolve_labels(&b, in.name, class_file != NULL);
    if (!status) tell_again(list, in.name);
    mabn_input_release(&in);
    release_builder(&b);
    if (status) mabn_listing_release(list);
    return status;
}
