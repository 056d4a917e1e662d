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
    const char *rest = l->next;
    while (rest < l->end && (*rest == '\n' || *rest == '\r'))
        rest++;
    if (rest >= l->end) return false; /* empty lines at the end are none */
    const char *stop = (const char *)memchr(l->next, '\n', (size_t)(l->end - l->next));
    if (!stop) stop = l->end;
    size_t n = (size_t)(stop - l->next);
    if (n && l->next[n - 1] == '\r') n--;
    *line = mabn_xstrndup(l->next, n);
    l->next = stop + 1;
    l->number++;
    return true;
}

/* Spaces around a label cannot be seen, and would make another class of it. */
static char *trimmed(const char *text)
{
    while (*text == ' ')
        text++;
    size_t n = strlen(text);
    while (n && text[n - 1] == ' ')
        n--;
    return mabn_xstrndup(text, n);
}

/* Keys and shown names from a class file. `labels`: the keys are labels, not names of folders. */
static mabn_status read_class_file(struct builder *b, const char *path, bool labels)
{
    struct mabn_input in;
    struct mabn_listing *list = b->list;
    size_t capacity = 0;
    mabn_status status = MABN_OK;
    char *line;
    MABN_TRY(mabn_input_open_text(&in, path, 1 << 28));
    struct lines lines = {(const char *)in.bytes, (const char *)in.bytes + in.size, 0};
    if (in.size && memchr(in.bytes, 0, in.size))
        status = mabn_fail(MABN_ERR_FORMAT, "'%s' holds a zero byte: expected lines of text", path);
    while (!status && next_line(&lines, &line)) {
        char *tab = strchr(line, '\t');
        if (tab) *tab = '\0';
        char *key = labels ? trimmed(line) : mabn_xstrdup(line);
        const char *shown = tab && tab[1] ? tab + 1 : key;
        if (!*key)
            status = mabn_fail(MABN_ERR_FORMAT, "'%s':%d: empty class name", path, lines.number);
        else if (list->class_count == MAX_CLASSES)
            status = mabn_fail(MABN_ERR_LIMIT, "'%s': more than %d classes", path, MAX_CLASSES);
        else {
            MABN_GROW(list->classes, (size_t)list->class_count, capacity);
            list->classes[list->class_count] = mabn_xstrdup(shown);
            add_key(b, key, (int32_t)list->class_count++);
            key = NULL;
        }
        free(key);
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
    mabn_status status = read_class_file(&b, class_file, false);
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
static mabn_status scan_top(struct builder *b, const char *folder, int *strays,
                            struct mabn_hidden *hidden)
{
    const struct dirent *entry;
    DIR *dir = opendir(folder);
    if (!dir) return mabn_fail_errno("cannot open folder '%s'", folder);
    while ((entry = readdir(dir))) {
        if (mabn_entry_is_hidden(entry, NULL, hidden)) continue;
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

/* Where all are nested, the class folders may be one level further down: train and val are no classes. */
static void tell_nested(const struct mabn_listing *list, const char *folder)
{
    const int64_t n = list->count;
    int64_t nested = 0;
    for (int64_t i = 0; i < n; i++)
        nested += strchr(strchr(list->names[i], '/') + 1, '/') != NULL;
    if (nested == n)
        mabn_warn("'%s': every image lies in a folder below its class's (such as '%s'): are the "
                  "class folders one level further down?",
                  folder, list->names[0]);
    else if (nested)
        mabn_info("'%s': %lld of %lld images lie in folders below their class's", folder,
                  (long long)nested, (long long)n);
}

static mabn_status scan_classes(struct builder *b, const char *folder, const struct builder *found,
                                struct mabn_hidden *hidden)
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
        struct class_folder class = {b, label};
        mabn_status status = mabn_folder_walk(path, key, visit, hidden, &class);
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
    struct mabn_hidden hidden = {0, NULL};
    int strays = 0;
    *list = (struct mabn_listing){0};
    mabn_status status = class_file ? read_class_file(&b, class_file, false) : MABN_OK;
    if (!status) status = scan_top(&found, folder, &strays, &hidden);
    if (!status && !found.key_count)
        status = mabn_fail(MABN_ERR_ARG, "'%s' holds no class folders", folder);
    if (!status) {
        number_classes(&found);
        status = scan_classes(&b, folder, &found, &hidden);
    }
    if (!status && strays)
        mabn_warn("%d file%s in '%s' itself %s in no class folder: skipped", strays,
                  strays == 1 ? "" : "s", folder, strays == 1 ? "is" : "are");
    mabn_hidden_tell(&hidden, folder);
    if (!status && !list->count)
        status = mabn_fail(MABN_ERR_ARG, "the class folders of '%s' hold no files", folder);
    if (!status) {
        sort_images(list);
        tell_nested(list, folder);
    }
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

/* The rest of a path without what leads nowhere, where a name begins. */
static const char *skip_idle(const char *path)
{
    while (*path == '/' || (path[0] == '.' && path[1] == '/'))
        path += *path == '/' ? 1 : 2;
    return path;
}

/* strcmp of paths: a//b and ./a/./b are a/b. */
static int compare_files(const char *a, const char *b)
{
    if (*a != '/') a = skip_idle(a);
    if (*b != '/') b = skip_idle(b);
    while (*a && *a == *b) {
        const bool begins = *a++ == '/';
        b++;
        if (begins) a = skip_idle(a), b = skip_idle(b);
    }
    return (unsigned char)*a - (unsigned char)*b;
}

static int compare_paths(const void *a, const void *b)
{
    const char *const *x = *(const char *const *const *)a, *const *y =
                                                               *(const char *const *const *)b;
    const int order = compare_files(*x, *y);
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
        if (compare_files(*sorted[i - 1], *sorted[i])) continue;
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

/* A number that is no label: "0.0", "+1", "1e3". */
static bool is_odd_number(const char *text)
{
    char *end;
    if (!text[strspn(text, "0123456789")] || strspn(text, "0123456789.+-eE") != strlen(text))
        return false;
    (void)strtod(text, &end);
    return !*end;
}

/* Such labels are names, and "10.0" comes before "2.0" then. */
static void tell_odd_numbers(const struct mabn_listing *list, const char *name)
{
    for (int64_t i = 0; i < list->count; i++)
        if (!is_odd_number(list->names[i])) return;
    mabn_warn("'%s': labels such as '%s' are taken as names, numbered in byte order: numbers are "
              "whole and without a sign",
              name, list->names[0]);
}

void mabn_listing_tell_unused(const int32_t *labels, int64_t n, const char *name)
{
    int32_t count = 0, unused = 0, first = 0;
    for (int64_t i = 0; i < n; i++)
        if (labels[i] >= count) count = labels[i] + 1;
    bool *used = (bool *)mabn_xcalloc((size_t)count + 1, sizeof *used);
    for (int64_t i = 0; i < n; i++)
        used[labels[i]] = true;
    for (int32_t k = count; k-- > 0;)
        if (!used[k]) unused++, first = k;
    free(used);
    if (unused == 1 && first == 0)
        mabn_warn("'%s': labels begin at 1: class 0, the first of %d, has no image", name, count);
    else if (unused)
        mabn_info("'%s': %d of %d classes have no image (the first: %d)", name, unused, count,
                  first);
}

/* Lines to paths and label texts (kept in `names` until they are resolved). */
static mabn_status read_lines(struct builder *b, const struct mabn_input *in)
{
    struct lines lines = {(const char *)in->bytes, (const char *)in->bytes + in->size, 0};
    char *line;
    if (in->size && memchr(in->bytes, 0, in->size))
        return mabn_fail(MABN_ERR_FORMAT, "'%s' holds a zero byte: expected lines of text",
                         in->name);
    while (next_line(&lines, &line)) {
        char *tab = strrchr(line, '\t');
        if (!tab || tab == line || !tab[1 + strspn(tab + 1, " ")]) {
            mabn_status status =
                mabn_fail(MABN_ERR_FORMAT, "'%s':%d: expected PATH, a tab and a label", in->name,
                          lines.number);
            free(line);
            return status;
        }
        *tab = '\0';
        add_image(b, line, trimmed(tab + 1), 0);
    }
    if (!b->list->count) return mabn_fail(MABN_ERR_ARG, "'%s' lists no images", in->name);
    return MABN_OK;
}

/* By the class file if there is one: all names or all numbers, since a number may be a name there
 * too; else all numbers or all names, as the first label is. */
static mabn_status resolve_labels(struct builder *b, const char *name, bool class_file)
{
    struct mabn_listing *list = b->list;
    bool numbers = !class_file && label_number(list->names[0]) >= 0;
    int64_t named = -1, numbered = -1; /* the first label that can only be a name, a number */
    for (int64_t i = 0; !class_file && !numbers && i < list->count; i++)
        add_key(b, mabn_xstrdup(list->names[i]), 0);
    if (!class_file && !numbers) {
        number_classes(b);
        tell_odd_numbers(list, name);
    }
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
        if (class_file && find_class(b, text) < 0 && numbered < 0) numbered = i;
        if (class_file && find_class(b, text) >= 0 && label_number(text) != label && named < 0)
            named = i;
        if (named >= 0 && numbered >= 0)
            return mabn_fail(MABN_ERR_MISMATCH,
                             "'%s':%lld: label '%s' is a name in the class file, label '%s' (line "
                             "%lld) only a number: expected one of both",
                             name, (long long)named + 1, list->names[named], list->names[numbered],
                             (long long)numbered + 1);
        list->labels[i] = label;
    }
    for (int64_t i = 0; i < list->count; i++) {
        free(list->names[i]);
        list->names[i] = mabn_xstrdup(list->paths[i]);
    }
    if (numbers) mabn_listing_tell_unused(list->labels, list->count, name);
    return MABN_OK;
}

mabn_status mabn_listing_read(struct mabn_listing *list, const char *path, const char *class_file)
{
    struct builder b = {.list = list};
    struct mabn_input in;
    *list = (struct mabn_listing){0};
    MABN_TRY(mabn_input_open_text(&in, path, 0));
    mabn_status status = class_file ? read_class_file(&b, class_file, true) : MABN_OK;
    if (!status) status = read_lines(&b, &in);
    if (!status) status = resolve_labels(&b, in.name, class_file != NULL);
    if (!status) tell_again(list, in.name);
    mabn_input_release(&in);
    release_builder(&b);
    if (status) mabn_listing_release(list);
    return status;
}
