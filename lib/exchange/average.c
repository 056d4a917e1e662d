/* Moving averages of the weights: recognizing one among the weights, and using it in their place.
 *
 * A file's own key for it ("model_ema") is found by its reader, see pickle_weights.c. Here are those
 * that a module keeps beside the network itself, so that both are in one state dict:
 *
 *     ema_model.conv1.weight  beside  model.conv1.weight   or  conv1.weight
 *     ema_conv1_weight        beside  conv1.weight         (a buffer's name cannot have dots) */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/pickle_weights.h"

static const char *const average_names[] = {
    "ema_model",      "model_ema",      "ema",          "ema_net",        "net_ema",
    "ema_network",    "ema_encoder",    "ema_backbone", "averaged_model", "average_model",
    "avg_model",      "model_avg",      "swa_model",    "teacher",        "teacher_model",
    "target_encoder", "target_network", "target_net",   "encoder_k",      "momentum_encoder",
};

static const char module[] = "module.";
enum { MODULE = sizeof module - 1 };

static struct mabn_weight *entry(const struct mabn_weights *w, size_t i)
{
    return &w->entries[i].weight;
}

static void rename_entry(struct mabn_weight *t, char *name)
{
    free((char *)t->name);
    t->name = name;
}

/* The name after "KEY.", or NULL. */
static const char *after(const struct mabn_weight *t, const char *key)
{
    const size_t n = strlen(key);
    return !strncmp(t->name, key, n) && t->name[n] == '.' && t->name[n + 1] ? t->name + n + 1
                                                                            : NULL;
}

/* A number that an average keeps beside its tensors: n_averaged, decay, step. */
static bool is_counter(const struct mabn_weight *t, const char *rest)
{
    return t->count == 1 && !strchr(rest, '.');
}

/* ---- among the weights ---- */

/* The MODEL tensor that REST of the average belongs to, if it is called PREFIX + REST. */
static const struct mabn_weight *original(const struct mabn_weights *w, const char *prefix,
                                          size_t length, const char *rest)
{
    char *name = mabn_xasprintf("%.*s%s", (int)length, prefix, rest);
    const int64_t i = mabn_weights_find(w, MABN_WEIGHT_MODEL, name);
    free(name);
    return i < 0 ? NULL : entry(w, (size_t)i);
}

/* Do all tensors below KEY belong to a MODEL tensor of the same shape? `skip`: "module." in front. */
static bool all_fit(const struct mabn_weights *w, const char *key, size_t skip, const char *prefix,
                    size_t length)
{
    for (size_t i = 0; i < w->count; i++) {
        const char *rest = entry(w, i)->part == MABN_WEIGHT_MODEL ? after(entry(w, i), key) : NULL;
        if (!rest || is_counter(entry(w, i), rest)) continue;
        if (skip && strncmp(rest, module, skip)) return false;
        const struct mabn_weight *t = original(w, prefix, length, rest + skip);
        if (!t || after(t, key) || !mabn_shape_equal(&t->shape, &entry(w, i)->shape)) return false;
    }
    return true;
}

/* Tensors below KEY become OTHER, named KEY.NAME where NAME is the MODEL's; counters do too. */
static void set_apart(struct mabn_weights *w, const char *key, size_t skip, const char *prefix,
                      size_t length)
{
    for (size_t i = 0; i < w->count; i++) {
        struct mabn_weight *t = entry(w, i);
        if (t->part != MABN_WEIGHT_MODEL) continue;
        const char *rest = after(t, key);
        if (rest || is_counter(t, t->name)) t->part = MABN_WEIGHT_OTHER;
        if (!rest) continue;
        if (!is_counter(t, rest))
            rename_entry(t, mabn_xasprintf("%s.%.*s%s", key, (int)length, prefix, rest + skip));
    }
    w->average = mabn_xstrdup(key);
}

/* Set the average below KEY apart, if there is one. Its first name tells the prefix that the same names
 * have in the network. */
static bool part_below(struct mabn_weights *w, const char *key)
{
    const char *first = NULL;
    for (size_t i = 0; i < w->count && !first; i++)
        if (entry(w, i)->part == MABN_WEIGHT_MODEL && (first = after(entry(w, i), key)) &&
            is_counter(entry(w, i), first))
            first = NULL;
    if (!first) return false;
    int tries = 8; /* a file may have any number of names that fit the first */
    for (size_t skip = 0; skip <= MODULE; skip += MODULE) {
        if (skip && strncmp(first, module, skip)) break;
        const size_t n = strlen(first + skip);
        for (size_t i = 0; i < w->count && tries; i++) {
            const struct mabn_weight *t = entry(w, i);
            const size_t length = strlen(t->name);
            if (t->part != MABN_WEIGHT_MODEL || after(t, key) || length < n ||
                strcmp(t->name + length - n, first + skip) ||
                (length > n && t->name[length - n - 1] != '.'))
                continue;
            tries--;
            char *prefix = mabn_xstrndup(t->name, length - n);
            const bool fits = all_fit(w, key, skip, prefix, length - n);
            if (fits) set_apart(w, key, skip, prefix, length - n);
            free(prefix);
            if (fits) return true;
        }
    }
    return false;
}

/* ema_conv1_weight, of conv1.weight. Every name that begins with "ema_" must be one. */
static bool part_underscored(struct mabn_weights *w)
{
    static const char start[] = "ema_";
    size_t begins = 0, found = 0, *of = mabn_xcalloc(w->count + 1, sizeof *of);
    for (size_t i = 0; i < w->count; i++) {
        if (entry(w, i)->part != MABN_WEIGHT_MODEL) continue;
        if (!strncmp(entry(w, i)->name, start, sizeof start - 1)) begins++;
    }
    for (size_t i = 0; i < w->count && begins; i++) {
        if (entry(w, i)->part != MABN_WEIGHT_MODEL || !strchr(entry(w, i)->name, '.')) continue;
        char *name = mabn_xasprintf("%s%s", start, entry(w, i)->name);
        for (char *p = name; (p = strchr(p, '.'));)
            *p = '_';
        const int64_t k = mabn_weights_find(w, MABN_WEIGHT_MODEL, name);
        free(name);
        if (k < 0 || !mabn_shape_equal(&entry(w, (size_t)k)->shape, &entry(w, i)->shape)) continue;
        found += !of[k];
        of[k] = i + 1;
    }
    const bool fits = found && found == begins;
    for (size_t k = 0; k < w->count && fits; k++) {
        if (!of[k]) continue;
        entry(w, k)->part = MABN_WEIGHT_OTHER;
        rename_entry(entry(w, k), mabn_xasprintf("ema.%s", entry(w, of[k] - 1)->name));
    }
    free(of);
    if (fits) w->average = mabn_xstrdup("ema");
    return fits;
}

mabn_status mabn_weights_part_average(struct mabn_weights *w)
{
    bool found = false;
    if (w->read || w->average) return MABN_OK; /* a reader of its own counts entries as they are */
    for (size_t i = 0; i < sizeof average_names / sizeof *average_names && !found; i++)
        found = part_below(w, average_names[i]);
    return found || part_underscored(w) ? mabn_weights_build_index(w) : MABN_OK;
}

/* ---- in place of the weights ---- */

const char *mabn_weights_average(const struct mabn_weights *w)
{
    return w->average;
}

static const char *average_name(const struct mabn_weights *w, size_t i)
{
    return entry(w, i)->part == MABN_WEIGHT_OTHER ? after(entry(w, i), w->average) : NULL;
}

/* Is the average a list, with numbers for names? */
static bool is_numbered(const struct mabn_weights *w)
{
    for (size_t i = 0; i < w->count; i++) {
        const char *rest = average_name(w, i);
        if (rest && rest[strspn(rest, "0123456789")]) return false;
    }
    return true;
}

/* A list holds the parameters in their order: take their names. */
static mabn_status name_numbered(struct mabn_weights *w)
{
    size_t next = 0, count = 0;
    for (size_t i = 0; i < w->count; i++)
        count += average_name(w, i) != NULL;
    for (size_t i = 0; i < w->count; i++) {
        struct mabn_weight *t = entry(w, i);
        if (!average_name(w, i)) continue;
        while (next < w->count && (entry(w, next)->part != MABN_WEIGHT_MODEL ||
                                   mabn_is_buffer_name(entry(w, next)->name)))
            next++;
        if (next == w->count || !mabn_shape_equal(&entry(w, next)->shape, &t->shape))
            return mabn_fail(MABN_ERR_MISMATCH,
                             "'%s': the average '%s' is a list of %zu tensors without names, which "
                             "do not fit the parameters in their order",
                             w->source.name, w->average, count);
        rename_entry(t, mabn_xasprintf("%s.%s", w->average, entry(w, next++)->name));
    }
    return MABN_OK;
}

/* A "module." in front of all names of the average; its counters have none. */
static bool all_in_module(const struct mabn_weights *w)
{
    bool any = false;
    for (size_t i = 0; i < w->count; i++) {
        const char *rest = average_name(w, i);
        if (!rest || is_counter(entry(w, i), rest)) continue;
        if (strncmp(rest, module, MODULE) || !rest[MODULE]) return false;
        any = true;
    }
    return any;
}

static void remove_marked(struct mabn_weights *w, const bool *marked)
{
    size_t kept = 0;
    for (size_t i = 0; i < w->count; i++) {
        if (marked[i])
            free((char *)entry(w, i)->name);
        else
            w->entries[kept++] = w->entries[i];
    }
    w->count = kept;
}

/* The average becomes MODEL and the weights, for the time being, MOMENTUM. */
static void swap_parts(struct mabn_weights *w)
{
    const size_t skip = all_in_module(w) ? MODULE : 0;
    bool *gone = mabn_xcalloc(w->count + 1, sizeof *gone);
    for (size_t i = 0; i < w->count; i++) {
        struct mabn_weight *t = entry(w, i);
        const char *rest = average_name(w, i);
        if (rest && is_counter(t, rest) && mabn_weights_find(w, MABN_WEIGHT_MODEL, rest) < 0) {
            gone[i] = true;
        } else if (rest) {
            char *name = mabn_xstrdup(rest + (strncmp(rest, module, skip) ? 0 : skip));
            mabn_weights_strip_wrappers(w, name);
            rename_entry(t, name);
        }
        if (t->part == MABN_WEIGHT_MOMENTUM) gone[i] = true;
        if (t->part == MABN_WEIGHT_MODEL) t->part = MABN_WEIGHT_MOMENTUM;
        if (rest) t->part = MABN_WEIGHT_MODEL;
    }
    remove_marked(w, gone);
    free(gone);
}

/* Tensors that the average lacks, such as the statistics of norms, are taken from the weights. */
static void complete(struct mabn_weights *w)
{
    bool *gone = mabn_xcalloc(w->count + 1, sizeof *gone);
    size_t kept = 0, both = 0;
    const char *first = NULL;
    for (size_t i = 0; i < w->count; i++) {
        if (entry(w, i)->part != MABN_WEIGHT_MOMENTUM) continue;
        gone[i] = mabn_weights_find(w, MABN_WEIGHT_MODEL, entry(w, i)->name) >= 0;
        both += gone[i];
        if (!gone[i] && !kept++) first = entry(w, i)->name;
    }
    if (both && kept)
        mabn_weights_remark(w,
                            "the average lacks %zu tensors, which are those of the weights; the "
                            "first is '%s'",
                            kept, first);
    for (size_t i = 0; i < w->count; i++) {
        if (entry(w, i)->part != MABN_WEIGHT_MOMENTUM) continue;
        if (both)
            entry(w, i)->part = MABN_WEIGHT_MODEL;
        else
            gone[i] = true;
    }
    remove_marked(w, gone);
    free(gone);
}

mabn_status mabn_weights_use_average(struct mabn_weights *w)
{
    if (!w->average && w->is_average) return MABN_OK;
    if (!w->average)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s' holds no moving average of its weights",
                         w->source.name);
    if (is_numbered(w)) MABN_TRY(name_numbered(w));
    swap_parts(w);
    free(w->average);
    w->average = NULL;
    MABN_TRY(mabn_weights_build_index(w));
    complete(w);
    return mabn_weights_build_index(w);
}
