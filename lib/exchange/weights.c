/* The common part of all readers: checks of names and sizes, the sorted index, and reading numbers
 * from the places that a format gives. */
#include "exchange/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "exchange/weights_impl.h"

enum { MAX_NOTES = 65536, MAX_NOTE = 1 << 20, SLACK = 1 << 20 };

/* ---- adding entries ---- */

/* Names are printed and written to other files, so they must be valid UTF-8 without control
 * characters. */
static bool plain_text(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    while (*p) {
        int more = *p < 0x80 ? 0 : *p >> 5 == 6 ? 1 : *p >> 4 == 14 ? 2 : *p >> 3 == 30 ? 3 : -1;
        if (*p < 0x20 || *p == 0x7f || more < 0) return false;
        if (*p == 0xc0 || *p == 0xc1) return false;
        for (p++; more > 0; more--, p++)
            if (*p >> 6 != 2) return false;
    }
    return true;
}

static mabn_status check_name(const struct mabn_weights *w, const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > MABN_WEIGHT_MAX_NAME || !plain_text(name))
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "'%s': tensor %zu: its name is empty, too long or not plain UTF-8 text",
                         w->source.name, w->count);
    /* Names are never used as paths here. Such names are refused to protect other programs. */
    if (name[0] == '/' || !strncmp(name, "../", 3) || strstr(name, "/../") || !strcmp(name, ".."))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': tensor name '%s' looks like a path",
                         w->source.name, name);
    return MABN_OK;
}

/* Last byte + 1 that the tensor touches; false on overflow. */
static bool span_end(const struct mabn_weight *t, const struct mabn_place *place, uint64_t *end)
{
    uint64_t size = mabn_dtype_size(t->dtype), last = 0;
    if (t->count == 0) {
        *end = place->offset;
        return true;
    }
    if (place->latin1) return !__builtin_add_overflow(place->offset, place->length, end);
    if (!place->strided) return !__builtin_add_overflow(place->offset, t->bytes, end);
    for (int i = 0; i < t->shape.rank; i++) {
        uint64_t reach;
        if (place->stride[i] < 0 ||
            __builtin_mul_overflow((uint64_t)(t->shape.dim[i] - 1), (uint64_t)place->stride[i],
                                   &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return false;
    }
    return !__builtin_mul_overflow(last + 1, size, end) && last + 1 != 0 &&
           !__builtin_add_overflow(place->offset, *end, end);
}

/* A view may repeat its storage, but tensors may not be much larger than the file. */
static mabn_status check_total(struct mabn_weights *w, const struct mabn_weight *t)
{
    w->total += t->bytes + strlen(t->name);
    if (t->bytes > w->source.size + SLACK || w->total > 8 * (w->source.size + SLACK))
        return mabn_fail(MABN_ERR_LIMIT, "'%s': tensor '%s' claims %zu bytes, the file has %llu",
                         w->source.name, t->name, t->bytes, (unsigned long long)w->source.size);
    return MABN_OK;
}

mabn_status mabn_weights_add(struct mabn_weights *w, const char *name, enum mabn_weight_part part,
                             enum mabn_dtype dtype, const struct mabn_shape *shape,
                             const struct mabn_place *place, uint64_t limit_end)
{
    MABN_TRY(check_name(w, name));
    if (w->count >= MABN_WEIGHT_MAX_COUNT)
        return mabn_fail(MABN_ERR_LIMIT, "'%s': more than %d tensors", w->source.name,
                         MABN_WEIGHT_MAX_COUNT);
    struct mabn_weight t = {.name = name, .part = part, .dtype = dtype, .shape = *shape};
    uint64_t end;
    if (!mabn_shape_count(shape, &t.count) ||
        !mabn_size_mul(t.count, mabn_dtype_size(dtype), &t.bytes) || !span_end(&t, place, &end))
        return mabn_fail(MABN_ERR_FORMAT, "'%s': tensor '%s': impossible shape", w->source.name,
                         name);
    if (end > limit_end || limit_end > w->source.size)
        return mabn_fail(
            MABN_ERR_FORMAT, "'%s': tensor '%s' reaches to byte %llu, but its data end at %llu",
            w->source.name, name, (unsigned long long)end, (unsigned long long)limit_end);
    MABN_TRY(check_total(w, &t));
    t.name = mabn_xstrdup(name);
    MABN_GROW(w->entries, w->count, w->capacity);
    w->entries[w->count].weight = t;
    w->entries[w->count++].place = *place;
    return MABN_OK;
}

static size_t note_slot(const struct mabn_notes *notes, const char *key)
{
    size_t slot = (size_t)mabn_hash_bytes(key, strlen(key)) & (notes->slot_count - 1);
    while (notes->slots[slot] && strcmp(notes->items[notes->slots[slot] - 1].key, key))
        slot = (slot + 1) & (notes->slot_count - 1);
    return slot;
}

struct mabn_weights_note *mabn_notes_find(const struct mabn_notes *notes, const char *key)
{
    uint32_t number = notes->slot_count ? notes->slots[note_slot(notes, key)] : 0;
    return number ? &notes->items[number - 1] : NULL;
}

/* Room for one more key. */
static void grow_slots(struct mabn_notes *notes)
{
    if (2 * (notes->count + 1) <= notes->slot_count) return;
    notes->slot_count = notes->slot_count ? 2 * notes->slot_count : 32;
    free(notes->slots);
    notes->slots = mabn_xcalloc(notes->slot_count, sizeof *notes->slots);
    for (size_t i = 0; i < notes->count; i++) {
        size_t slot = note_slot(notes, notes->items[i].key);
        if (!notes->slots[slot]) notes->slots[slot] = (uint32_t)i + 1;
    }
}

void mabn_notes_add(struct mabn_notes *notes, const char *key, const char *value)
{
    grow_slots(notes);
    size_t slot = note_slot(notes, key);
    MABN_GROW(notes->items, notes->count, notes->capacity);
    notes->items[notes->count].key = mabn_xstrdup(key);
    notes->items[notes->count++].value = mabn_xstrdup(value);
    if (!notes->slots[slot]) notes->slots[slot] = (uint32_t)notes->count;
    notes->bytes += strlen(key) + strlen(value);
}

void mabn_notes_release(struct mabn_notes *notes)
{
    for (size_t i = 0; i < notes->count; i++) {
        free(notes->items[i].key);
        free(notes->items[i].value);
    }
    free(notes->items);
    free(notes->slots);
    memset(notes, 0, sizeof *notes);
}

void mabn_weights_add_note(struct mabn_weights *w, const char *key, const char *value)
{
    const size_t n = strlen(key), m = strlen(value);
    if (w->notes.count >= MAX_NOTES || !n || n > MABN_WEIGHT_MAX_NAME || m > MAX_NOTE ||
        w->notes.bytes + n + m > 8 * (w->source.size + SLACK) || !plain_text(key))
        return;
    mabn_notes_add(&w->notes, key, value);
}

static const char *const part_prefixes[] = {
    [MABN_WEIGHT_MODEL] = "",
    [MABN_WEIGHT_MOMENTUM] = "optimizer.momentum.",
    [MABN_WEIGHT_OTHER] = "mabn.other.",
};

void mabn_weights_split_name(const char **name, enum mabn_weight_part *part)
{
    *part = MABN_WEIGHT_MODEL;
    for (int p = MABN_WEIGHT_MOMENTUM; p <= MABN_WEIGHT_OTHER; p++) {
        size_t n = strlen(part_prefixes[p]);
        if (strncmp(*name, part_prefixes[p], n) || !(*name)[n]) continue;
        *name += n;
        *part = (enum mabn_weight_part)p;
        return;
    }
}

char *mabn_weights_join_name(const char *name, enum mabn_weight_part part)
{
    return mabn_xasprintf("%s%s", part_prefixes[part], name);
}

struct mabn_place mabn_place_at(uint64_t offset)
{
    struct mabn_place place = {.offset = offset, .storage = SIZE_MAX};
    return place;
}

void mabn_weights_remark(struct mabn_weights *w, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    mabn_str_printf(&w->remarks, "%s\n", text);
}

const char *mabn_weights_remarks(const struct mabn_weights *w)
{
    return w->remarks.text;
}

static void remove_entry(struct mabn_weights *w, size_t i)
{
    free((char *)w->entries[i].weight.name);
    memmove(&w->entries[i], &w->entries[i + 1], (w->count - i - 1) * sizeof *w->entries);
    w->count--;
}

/* ---- the index ---- */

static int compare_keys(const struct mabn_weight *a, const struct mabn_weight *b)
{
    if (a->part != b->part) return a->part < b->part ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int compare_entries(const void *a, const void *b, void *context)
{
    const struct mabn_weights *w = context;
    return compare_keys(&w->entries[*(const size_t *)a].weight,
                        &w->entries[*(const size_t *)b].weight);
}

static void sort_index(struct mabn_weights *w)
{
    free(w->index);
    w->index = mabn_xmalloc((w->count + 1) * sizeof *w->index);
    for (size_t i = 0; i < w->count; i++)
        w->index[i] = i;
    qsort_r(w->index, w->count, sizeof *w->index, compare_entries, w);
}

/* Beside the weights two paths may give one name ("a.b", and b in a). One of the tensors is kept. */
static void drop_doubles(struct mabn_weights *w)
{
    bool *drop = mabn_xcalloc(w->count + 1, sizeof *drop);
    size_t doubles = 0, first = 0, kept = 0;
    for (size_t i = 1; i < w->count; i++) {
        const size_t a = w->index[i - 1], b = w->index[i];
        if (w->entries[b].weight.part != MABN_WEIGHT_OTHER ||
            compare_keys(&w->entries[a].weight, &w->entries[b].weight))
            continue;
        drop[b] = true;
        if (!doubles++) first = b;
    }
    if (doubles)
        mabn_weights_remark(w,
                            "skipped %zu tensor%s beside the weights whose name another has; "
                            "the first is '%s'",
                            doubles, doubles == 1 ? "" : "s", w->entries[first].weight.name);
    for (size_t i = 0; i < w->count; i++) {
        if (drop[i])
            free((char *)w->entries[i].weight.name);
        else
            w->entries[kept++] = w->entries[i];
    }
    w->count = kept;
    free(drop);
    if (doubles) sort_index(w);
}

mabn_status mabn_weights_build_index(struct mabn_weights *w)
{
    sort_index(w);
    if (!w->read) drop_doubles(w); /* a reader of its own counts entries as the file has them */
    for (size_t i = 1; i < w->count; i++) {
        const struct mabn_weight *t = &w->entries[w->index[i]].weight;
        if (!compare_keys(&w->entries[w->index[i - 1]].weight, t))
            return mabn_fail(MABN_ERR_FORMAT, "'%s': two tensors are called '%s'", w->source.name,
                             t->name);
    }
    return MABN_OK;
}

int64_t mabn_weights_find(const struct mabn_weights *w, enum mabn_weight_part part,
                          const char *name)
{
    struct mabn_weight key = {.name = name, .part = part};
    size_t low = 0, high = w->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = compare_keys(&key, &w->entries[w->index[mid]].weight);
        if (c == 0) return (int64_t)w->index[mid];
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return -1;
}

/* What wrappers insert into names where a part of the network is wrapped. */
static const char *const wrappers[] = {"_orig_mod.", "_fsdp_wrapped_module.",
                                       "_checkpoint_wrapped_module."};

static void tell_stripped(struct mabn_weights *w, const char *what)
{
    if (strstr(w->stripped.text, what)) return;
    mabn_str_printf(&w->stripped, "%s'%s'", w->stripped.length ? ", " : "", what);
}

void mabn_weights_strip_wrappers(struct mabn_weights *w, char *name)
{
    for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers; i++) {
        const size_t n = strlen(wrappers[i]);
        for (char *p = name; (p = strstr(p, wrappers[i]));) {
            bool whole = p == name || p[-1] == '.';
            if (!whole || !p[n]) {
                p++;
                continue;
            }
            memmove(p, p + n, strlen(p + n) + 1);
            tell_stripped(w, wrappers[i]);
        }
    }
}

static const char module[] = "module.";

/* Cut every part "module." out of a name; was there one? */
static bool cut_modules(char *name)
{
    const size_t n = sizeof module - 1;
    bool found = false;
    for (char *p = name; (p = strstr(p, module));) {
        if ((p != name && p[-1] != '.') || !p[n]) {
            p++;
            continue;
        }
        memmove(p, p + n, strlen(p + n) + 1);
        found = true;
    }
    return found;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Where parts of a network were wrapped ("features.module.0.weight", and a classifier that was put
 * on later), "module." stands in some names only. It is cut off unless two names became one. */
static void strip_inner_modules(struct mabn_weights *w)
{
    char **names = mabn_xcalloc(w->count + 1, sizeof *names);
    size_t n = 0;
    bool found = false, twice = false;
    for (size_t i = 0; i < w->count; i++) {
        const struct mabn_weight *t = &w->entries[i].weight;
        if (t->part != MABN_WEIGHT_MODEL) continue;
        names[n] = mabn_xstrdup(t->name);
        found |= cut_modules(names[n++]);
    }
    qsort(names, n, sizeof *names, compare_texts);
    for (size_t i = 1; i < n; i++)
        twice |= !strcmp(names[i - 1], names[i]);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    if (!found || twice) return;
    for (size_t i = 0; i < w->count; i++)
        if (w->entries[i].weight.part != MABN_WEIGHT_OTHER)
            cut_modules((char *)w->entries[i].weight.name);
    tell_stripped(w, module);
}

/* "If all loaded keys start with `module.`, that prefix is stripped." The counter of an average,
 * which PyTorch keeps beside its `module.`, is dropped. */
static void strip_module(struct mabn_weights *w)
{
    const size_t n = sizeof module - 1;
    size_t models = 0, counter = SIZE_MAX;
    for (size_t i = 0; i < w->count; i++)
        if (w->entries[i].weight.part != MABN_WEIGHT_OTHER)
            mabn_weights_strip_wrappers(w, (char *)w->entries[i].weight.name);
    for (size_t i = 0; i < w->count; i++) {
        struct mabn_weight *t = &w->entries[i].weight;
        if (t->part != MABN_WEIGHT_MODEL) continue;
        if (!strcmp(t->name, "n_averaged") && t->count == 1) {
            counter = i;
            continue;
        }
        if (strncmp(t->name, module, n) || !t->name[n]) {
            strip_inner_modules(w);
            return;
        }
        models++;
    }
    if (!models) return;
    tell_stripped(w, module);
    if (counter != SIZE_MAX && !w->read) {
        remove_entry(w, counter);
        w->is_average = true;
        mabn_weights_remark(w,
                            "the weights are an average, as 'n_averaged' beside them says: there "
                            "are no others");
    }
    for (size_t i = 0; i < w->count; i++) {
        struct mabn_weight *t = &w->entries[i].weight;
        char *name = (char *)t->name;
        if (t->part != MABN_WEIGHT_OTHER && !strncmp(name, module, n) && name[n])
            memmove(name, name + n, strlen(name + n) + 1);
    }
}

mabn_status mabn_weights_cut_prefix(struct mabn_weights *w, const char *prefix)
{
    const size_t n = strlen(prefix);
    for (size_t i = 0; i < w->count; i++) {
        struct mabn_weight *t = &w->entries[i].weight;
        char *name = (char *)t->name;
        if (t->part != MABN_WEIGHT_OTHER && !strncmp(name, prefix, n) && name[n])
            memmove(name, name + n, strlen(name + n) + 1);
    }
    return mabn_weights_build_index(w);
}

/* ---- opening and closing ---- */

struct mabn_weights *mabn_weights_new(const struct mabn_source *source)
{
    struct mabn_weights *w = mabn_xcalloc(1, sizeof *w);
    w->source = *source;
    mabn_str_init(&w->remarks);
    mabn_str_init(&w->stripped);
    return w;
}

mabn_status mabn_weights_settle(struct mabn_weights *w)
{
    strip_module(w);
    return mabn_weights_build_index(w);
}

void mabn_weights_free(struct mabn_weights *w)
{
    if (!w) return;
    if (w->free_backend) w->free_backend(w->backend);
    for (size_t i = 0; i < w->count; i++)
        free((char *)w->entries[i].weight.name);
    free(w->entries);
    free(w->index);
    mabn_notes_release(&w->notes);
    mabn_str_release(&w->remarks);
    mabn_str_release(&w->stripped);
    free(w->average);
    free(w->storages);
    mabn_source_release(&w->source);
    free(w);
}

enum mabn_weights_format mabn_weights_format_of(const struct mabn_weights *w)
{
    return w->format;
}
const char *mabn_weights_path(const struct mabn_weights *w)
{
    return w->source.name;
}
const char *mabn_weights_stripped(const struct mabn_weights *w)
{
    return w->stripped.text;
}
size_t mabn_weights_count(const struct mabn_weights *w)
{
    return w->count;
}
const struct mabn_weight *mabn_weights_at(const struct mabn_weights *w, size_t index)
{
    return &w->entries[index].weight;
}
size_t mabn_weights_note_count(const struct mabn_weights *w)
{
    return w->notes.count;
}
const char *mabn_weights_note_at(const struct mabn_weights *w, size_t index, const char **value)
{
    if (value) *value = w->notes.items[index].value;
    return w->notes.items[index].key;
}
const char *mabn_weights_note(const struct mabn_weights *w, const char *key)
{
    const struct mabn_weights_note *note = mabn_notes_find(&w->notes, key);
    return note ? note->value : NULL;
}

/* ---- reading numbers ---- */

static mabn_status crc_error(const struct mabn_weights *w, const struct mabn_weight *t)
{
    return mabn_fail(MABN_ERR_FORMAT, "'%s': tensor '%s': its bytes do not match their CRC-32",
                     w->source.name, t->name);
}

/* The checksum of a storage of which a tensor is only a part. */
static mabn_status check_storage(struct mabn_weights *w, const struct mabn_weight *t,
                                 struct mabn_storage *s)
{
    const size_t block = 1 << 20;
    uint8_t *bytes = mabn_xmalloc(block);
    uint32_t crc = 0;
    mabn_status status = MABN_OK;
    for (uint64_t at = 0; at < s->size && !status; at += block) {
        size_t n = s->size - at < block ? (size_t)(s->size - at) : block;
        status = mabn_source_read(&w->source, s->offset + at, bytes, n);
        if (!status) crc = mabn_crc32(crc, bytes, n);
    }
    free(bytes);
    if (status) return status;
    if (crc != s->crc) return crc_error(w, t);
    s->checked = true;
    return MABN_OK;
}

static void gather(uint8_t **out, const uint8_t *in, const struct mabn_shape *shape,
                   const int64_t *stride, size_t size, int axis)
{
    if (axis == shape->rank) {
        memcpy(*out, in, size);
        *out += size;
        return;
    }
    for (int64_t i = 0; i < shape->dim[axis]; i++)
        gather(out, in + (size_t)i * (size_t)stride[axis] * size, shape, stride, size, axis + 1);
}

static mabn_status read_strided(struct mabn_weights *w, const struct mabn_weights_entry *e,
                                void *out)
{
    uint64_t end = 0;
    if (e->weight.count == 0 || !span_end(&e->weight, &e->place, &end)) return MABN_OK;
    size_t span = (size_t)(end - e->place.offset);
    void *bytes = NULL;
    MABN_TRY(mabn_alloc(&bytes, span));
    mabn_status status = mabn_source_read(&w->source, e->place.offset, bytes, span);
    uint8_t *cursor = out;
    if (!status)
        gather(&cursor, bytes, &e->weight.shape, e->place.stride, mabn_dtype_size(e->weight.dtype),
               0);
    mabn_free(bytes);
    return status;
}

/* Bytes written as UTF-8 text of the code points 0…255. */
static mabn_status read_latin1(struct mabn_weights *w, const struct mabn_weights_entry *e,
                               uint8_t *out)
{
    const size_t block = 1 << 16;
    uint8_t *in = mabn_xmalloc(block);
    size_t filled = 0;
    unsigned lead = 0;
    mabn_status status = MABN_OK;
    for (uint64_t at = 0; at < e->place.length && !status; at += block) {
        size_t n = e->place.length - at < block ? (size_t)(e->place.length - at) : block;
        status = mabn_source_read(&w->source, e->place.offset + at, in, n);
        for (size_t i = 0; i < n && !status; i++) {
            unsigned c = in[i];
            bool good = lead ? c >> 6 == 2 : c < 0x80 || c == 0xc2 || c == 0xc3;
            if (good && !lead && c >= 0x80) {
                lead = c;
                continue;
            }
            if (!good || filled == e->weight.bytes)
                status = mabn_fail(MABN_ERR_FORMAT, "'%s': array '%s' does not hold %zu bytes",
                                   w->source.name, e->weight.name, e->weight.bytes);
            else
                out[filled++] = (uint8_t)(lead ? (lead & 3) << 6 | (c & 0x3f) : c);
            lead = 0;
        }
    }
    free(in);
    if (!status && (lead || filled != e->weight.bytes))
        status = mabn_fail(MABN_ERR_FORMAT, "'%s': array '%s' holds %zu bytes instead of %zu",
                           w->source.name, e->weight.name, filled, e->weight.bytes);
    return status;
}

static void swap_bytes(uint8_t *p, size_t count, size_t size)
{
    for (size_t i = 0; i < count; i++, p += size)
        for (size_t k = 0; k < size / 2; k++) {
            uint8_t b = p[k];
            p[k] = p[size - 1 - k];
            p[size - 1 - k] = b;
        }
}

static mabn_status read_raw(struct mabn_weights *w, const struct mabn_weights_entry *e, void *out)
{
    const struct mabn_weight *t = &e->weight;
    struct mabn_storage *s = e->place.storage == SIZE_MAX ? NULL : &w->storages[e->place.storage];
    bool whole = s && !e->place.strided && t->bytes == s->size;
    if (s && !s->checked && !whole) MABN_TRY(check_storage(w, t, s));
    if (e->place.strided) return read_strided(w, e, out);
    if (!whole || s->checked) return mabn_source_read(&w->source, e->place.offset, out, t->bytes);
    const size_t piece = 1 << 18; /* small enough that the CRC finds the bytes in the cache */
    uint32_t crc = 0;
    for (size_t at = 0; at < t->bytes; at += piece) {
        size_t n = t->bytes - at < piece ? t->bytes - at : piece;
        MABN_TRY(mabn_source_read(&w->source, e->place.offset + at, (uint8_t *)out + at, n));
        crc = mabn_crc32(crc, (uint8_t *)out + at, n);
    }
    if (crc != s->crc) return crc_error(w, t);
    s->checked = true;
    return MABN_OK;
}

mabn_status mabn_weights_read(struct mabn_weights *w, size_t index, void *out)
{
    if (w->read) return w->read(w, index, out);
    const struct mabn_weights_entry *e = &w->entries[index];
    MABN_TRY(e->place.latin1 ? read_latin1(w, e, out) : read_raw(w, e, out));
    if (e->place.swapped) swap_bytes(out, e->weight.count, mabn_dtype_size(e->weight.dtype));
    return MABN_OK;
}

mabn_status mabn_weights_read_f32(struct mabn_weights *w, size_t index, float *out)
{
    const struct mabn_weight *t = &w->entries[index].weight;
    if (t->dtype == MABN_DTYPE_F32) return mabn_weights_read(w, index, out);
    void *raw = NULL;
    MABN_TRY(mabn_alloc(&raw, t->bytes));
    mabn_status status = mabn_weights_read(w, index, raw);
    if (!status) mabn_values_to_f32(out, raw, t->count, t->dtype);
    mabn_free(raw);
    return status;
}
