#include "model/taken.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define PREFIX "model/"

void mabn_taken_init(struct mabn_taken *t, const struct mabn_checkpoint *file)
{
    *t = (struct mabn_taken){.file = file};
    t->used = mabn_xcalloc(mabn_checkpoint_count(file) + 1, sizeof *t->used);
    mabn_str_init(&t->taken);
    mabn_str_init(&t->fresh);
}

void mabn_taken_release(struct mabn_taken *t)
{
    if (!t->file) return;
    free(t->used);
    mabn_str_release(&t->taken);
    mabn_str_release(&t->fresh);
    *t = (struct mabn_taken){.file = NULL};
}

void mabn_taken_add(struct mabn_taken *t, const char *name,
                    const struct mabn_checkpoint_tensor *from)
{
    struct mabn_str *list = from ? &t->taken : &t->fresh;
    mabn_str_add(list, name);
    mabn_str_add_char(list, '\n');
    if (from) {
        t->used[from - mabn_checkpoint_at(t->file, 0)] = true;
        t->n_taken++;
    } else {
        t->n_fresh++;
    }
}

/* The name of the file's i-th tensor if it is a weight that was not used, else NULL. */
static const char *unused_at(const struct mabn_taken *t, size_t i)
{
    const char *name = mabn_checkpoint_at(t->file, i)->name;
    return t->used[i] || strncmp(name, PREFIX, strlen(PREFIX)) ? NULL : name + strlen(PREFIX);
}

/* How many of the file's weights ("model/…") were not used. */
static int count_unused(const struct mabn_taken *t)
{
    int n = 0;
    for (size_t i = 0; i < mabn_checkpoint_count(t->file); i++)
        n += unused_at(t, i) != NULL;
    return n;
}

/* ---- lists ---- */

/* Each line of `names` to the log, or into the open array. */
static void each_name(const struct mabn_str *names, const char *what, struct mabn_json_writer *w)
{
    char *copy = mabn_xstrdup(names->length ? names->text : ""), *rest = copy, *name;
    while ((name = strsep(&rest, "\n"))) {
        if (!*name) continue;
        if (w)
            mabn_json_put_string(w, NULL, name);
        else
            mabn_verbose("%s: %s", what, name);
    }
    free(copy);
}

static void each_unused(const struct mabn_taken *t, struct mabn_json_writer *w)
{
    for (size_t i = 0; i < mabn_checkpoint_count(t->file); i++) {
        const char *name = unused_at(t, i);
        if (name && w) mabn_json_put_string(w, NULL, name);
        if (name && !w) mabn_verbose("unused: %s", name);
    }
}

void mabn_taken_tell(const struct mabn_taken *t, const char *path)
{
    mabn_info(
        "'%s': %d tensors taken, %d of the network are fresh, %d of the file unused (-v names "
        "them, and metrics.jsonl)",
        path, t->n_taken, t->n_fresh, count_unused(t));
    each_name(&t->taken, "taken", NULL);
    each_name(&t->fresh, "fresh", NULL);
    each_unused(t, NULL);
}

void mabn_taken_put(const struct mabn_taken *t, struct mabn_json_writer *w, const char *path)
{
    mabn_json_put_string(w, "file", path);
    mabn_json_put_array(w, "taken");
    each_name(&t->taken, NULL, w);
    mabn_json_put_end(w);
    mabn_json_put_array(w, "fresh");
    each_name(&t->fresh, NULL, w);
    mabn_json_put_end(w);
    mabn_json_put_array(w, "unused");
    each_unused(t, w);
    mabn_json_put_end(w);
}
