/* See tune.h. */
#include "device/tune.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "device/internal.h"

static const char first_line[] = "# mabn tune 1";

struct choice {
    char *machine, *key, *value;
};

struct mabn_tune {
    char *path, *machine;
    struct choice *list;
    int count, capacity;
    bool changed;
};

/* ---- where ---- */

/* The folder of `path` and those above it, as far as they are missing. */
static mabn_status make_folders(const char *path)
{
    char *copy = mabn_xstrdup(path);
    mabn_status status = MABN_OK;
    for (char *p = strchr(copy + 1, '/'); p && !status; p = strchr(p + 1, '/')) {
        *p = 0;
        if (mkdir(copy, 0777) && errno != EEXIST)
            status = mabn_fail(MABN_ERR_IO, "cannot make folder '%s': %s", copy, strerror(errno));
        *p = '/';
    }
    free(copy);
    return status;
}

static mabn_status default_path(char **path)
{
    const char *file = getenv("MABN_TUNE_FILE"), *cache = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    *path = NULL;
    if (file && *file) {
        *path = mabn_xstrdup(file);
        return MABN_OK;
    }
    if (cache && *cache == '/')
        *path = mabn_xasprintf("%s/mabn/tune.tsv", cache);
    else if (home && *home == '/')
        *path = mabn_xasprintf("%s/.cache/mabn/tune.tsv", home);
    else
        return mabn_fail(MABN_ERR_ARG, "no folder for tuned choices: set MABN_TUNE_FILE or HOME");
    return make_folders(*path);
}

/* ---- the file ---- */

static void append(struct mabn_tune *t, const char *machine, const char *key, const char *value)
{
    MABN_GROW(t->list, t->count, t->capacity);
    t->list[t->count++] =
        (struct choice){mabn_xstrdup(machine), mabn_xstrdup(key), mabn_xstrdup(value)};
}

static mabn_status read_line(struct mabn_tune *t, char *line, int number)
{
    char *key = strchr(line, '\t'), *value = key ? strchr(key + 1, '\t') : NULL;
    if (number == 1 && !strcmp(line, first_line)) return MABN_OK;
    if (number == 1 || !value || strchr(value + 1, '\t'))
        return mabn_fail(MABN_ERR_FORMAT, "'%s', line %d: not a tuned choice of mabn", t->path,
                         number);
    *key++ = *value++ = 0;
    append(t, line, key, value);
    return MABN_OK;
}

static mabn_status read_file(struct mabn_tune *t)
{
    struct mabn_input in;
    mabn_status status = MABN_OK;
    if (!mabn_path_exists(t->path)) return MABN_OK;
    MABN_TRY(mabn_input_open_text(&in, t->path, (uint64_t)16 << 20));
    char *text = mabn_xstrndup((const char *)in.bytes, in.size), *rest = text, *line;
    for (int number = 1; !status && (line = strsep(&rest, "\n")); number++)
        if (*line || (number == 1 && rest)) status = read_line(t, line, number);
    free(text);
    mabn_input_release(&in);
    return status;
}

mabn_status mabn_tune_open(struct mabn_tune **tune, const char *path, const char *machine)
{
    struct mabn_tune *t = mabn_xcalloc(1, sizeof *t);
    mabn_status status = MABN_OK;
    *tune = NULL;
    t->machine = mabn_xstrdup(machine);
    if (path)
        t->path = mabn_xstrdup(path);
    else
        status = default_path(&t->path);
    if (!status) status = read_file(t);
    if (status)
        mabn_tune_free(t);
    else
        *tune = t;
    return status;
}

void mabn_tune_free(struct mabn_tune *t)
{
    if (!t) return;
    for (int i = 0; i < t->count; i++) {
        free(t->list[i].machine);
        free(t->list[i].key);
        free(t->list[i].value);
    }
    free(t->list);
    free(t->machine);
    free(t->path);
    free(t);
}

const char *mabn_tune_path(const struct mabn_tune *t)
{
    return t->path;
}

const char *mabn_tune_find(const struct mabn_tune *t, const char *key)
{
    for (int i = 0; i < t->count; i++)
        if (!strcmp(t->list[i].key, key) && !strcmp(t->list[i].machine, t->machine))
            return t->list[i].value;
    return NULL;
}

void mabn_tune_add(struct mabn_tune *t, const char *key, const char *choice)
{
    append(t, t->machine, key, choice);
    t->changed = true;
}

mabn_status mabn_tune_save(struct mabn_tune *t)
{
    struct mabn_str text;
    if (!t->changed) return MABN_OK;
    mabn_str_init(&text);
    mabn_str_printf(&text, "%s\n", first_line);
    for (int i = 0; i < t->count; i++)
        mabn_str_printf(&text, "%s\t%s\t%s\n", t->list[i].machine, t->list[i].key,
                        t->list[i].value);
    mabn_status status = mabn_write_file(t->path, text.text, text.length, true);
    mabn_str_release(&text);
    if (!status) t->changed = false;
    return status;
}

/* ---- of a device ---- */

/* "Intel(R) Xeon(R) Platinum 8481C", or "" where the system does not say. */
static void processor_name(char *name, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    name[0] = 0;
    while (f && !name[0] && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        snprintf(name, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
        name[strcspn(name, "\t\n")] = 0;
    }
    if (f) fclose(f);
}

mabn_status mabn_device_tune(struct mabn_device *device, bool timing)
{
    char processor[128];
    if (device->kind != MABN_DEVICE_CPU || device->tune) return MABN_OK;
    processor_name(processor, sizeof processor);
    char *machine = mabn_xasprintf("%s, %s, %d threads", processor, mabn_device_cpu_library(false),
                                   device->threads);
    mabn_status status = mabn_tune_open(&device->tune, NULL, machine);
    free(machine);
    device->times = !status && timing;
    return status;
}

struct mabn_tune *mabn_device_tuning(const struct mabn_device *device)
{
    return device->tune;
}

bool mabn_device_times(const struct mabn_device *device)
{
    return device->times;
}
