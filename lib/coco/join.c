/* Bringing ground truth and results together: ids become indices, records are listed by image. */
#include "coco/join.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

enum { NONE = UINT32_MAX };

/* ---- a table from ids to indices ---- */

struct id_table {
    int64_t *keys;
    uint32_t *values; /* NONE: empty */
    size_t mask;
};

static void table_init(struct id_table *t, size_t n)
{
    size_t room = 16;
    while (room < 2 * n)
        room *= 2;
    t->mask = room - 1;
    t->keys = mabn_xmalloc(room * sizeof *t->keys);
    t->values = mabn_xmalloc(room * sizeof *t->values);
    memset(t->values, 0xff, room * sizeof *t->values);
}

static void table_release(struct id_table *t)
{
    free(t->keys);
    free(t->values);
}

/* Where the key is, or would be. */
static size_t table_place(const struct id_table *t, int64_t key)
{
    size_t i = (size_t)mabn_hash_i64(key) & t->mask;
    while (t->values[i] != NONE && t->keys[i] != key)
        i = (i + 1) & t->mask;
    return i;
}

/* The key's value, to be set. */
static uint32_t *table_slot(const struct id_table *t, int64_t key)
{
    size_t i = table_place(t, key);
    t->keys[i] = key;
    return &t->values[i];
}

static uint32_t table_find(const struct id_table *t, int64_t key)
{
    return t->values[table_place(t, key)];
}

/* ---- sorting ---- */

uint64_t mabn_coco_score_key(double score)
{
    uint64_t bits;
    score += 0.0; /* -0 becomes 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits >> 63 ? bits : ~(bits | (uint64_t)1 << 63);
}

static inline bool before(const struct mabn_coco_sort_item *a, const struct mabn_coco_sort_item *b)
{
    if (a->group != b->group) return a->group < b->group;
    if (a->score != b->score) return a->score < b->score;
    if (a->category != b->category) return a->category < b->category;
    return a->record < b->record;
}

static void merge(struct mabn_coco_sort_item *out, const struct mabn_coco_sort_item *a,
                  const struct mabn_coco_sort_item *a_end, const struct mabn_coco_sort_item *b_end)
{
    const struct mabn_coco_sort_item *b = a_end;
    while (a < a_end && b < b_end)
        *out++ = before(b, a) ? *b++ : *a++;
    while (a < a_end)
        *out++ = *a++;
    while (b < b_end)
        *out++ = *b++;
}

void mabn_coco_sort(struct mabn_coco_sort_item *items, struct mabn_coco_sort_item *other, size_t n)
{
    enum { RUN = 12 };
    for (size_t from = 0; from < n; from += RUN) {
        size_t to = from + RUN < n ? from + RUN : n;
        for (size_t i = from + 1; i < to; i++) {
            struct mabn_coco_sort_item item = items[i];
            size_t k = i;
            for (; k > from && before(&item, &items[k - 1]); k--)
                items[k] = items[k - 1];
            items[k] = item;
        }
    }
    struct mabn_coco_sort_item *from = items, *to = other;
    for (size_t run = RUN; run < n; run *= 2) {
        for (size_t i = 0; i < n; i += 2 * run) {
            size_t middle = i + run < n ? i + run : n, end = i + 2 * run < n ? i + 2 * run : n;
            merge(to + i, from + i, from + middle, from + end);
        }
        struct mabn_coco_sort_item *swap = from;
        from = to;
        to = swap;
    }
    if (from != items) memcpy(items, from, n * sizeof *items);
}

/* Least digit first, eleven bits at a time; digits that are all the same are passed over. */
void mabn_coco_sort_keyed(struct mabn_coco_keyed *items, struct mabn_coco_keyed *other, size_t n)
{
    enum { BITS = 11, DIGITS = 6 };
    size_t(*count)[1 << BITS] = mabn_xcalloc(DIGITS, sizeof *count);
    struct mabn_coco_keyed *from = items, *to = other;
    for (size_t i = 0; i < n; i++)
        for (int d = 0; d < DIGITS; d++)
            count[d][items[i].key >> (BITS * d) & ((1 << BITS) - 1)]++;
    for (int d = 0; d < DIGITS; d++) {
        size_t *c = count[d], sum = 0;
        if (c[from[0].key >> (BITS * d) & ((1 << BITS) - 1)] == n) continue;
        for (size_t v = 0; v < 1 << BITS; v++) {
            size_t here = c[v];
            c[v] = sum;
            sum += here;
        }
        for (size_t i = 0; i < n; i++)
            to[c[from[i].key >> (BITS * d) & ((1 << BITS) - 1)]++] = from[i];
        struct mabn_coco_keyed *swap = from;
        from = to;
        to = swap;
    }
    if (from != items) memcpy(items, from, n * sizeof *items);
    free(count);
}

static int compare_ids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Sort and drop duplicates. Returns how many are left. */
static size_t unique_ids(int64_t *ids, size_t n)
{
    size_t out = 0;
    qsort(ids, n, sizeof *ids, compare_ids);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || ids[i] != ids[i - 1]) ids[out++] = ids[i];
    return out;
}

/* ---- images and categories ---- */

static bool among(const int64_t *ids, size_t n, int64_t id)
{
    return bsearch(&id, ids, n, sizeof *ids, compare_ids) != NULL;
}

static int compare_by_text(const void *a, const void *b, void *truth)
{
    return mabn_coco_compare_ids(truth, *(const int64_t *)a, *(const int64_t *)b);
}

/* Keep those of `wanted` (NULL: all) and complain of what is not there. */
static mabn_status choose_ids(int64_t *ids, size_t *n, const int64_t *wanted, size_t n_wanted,
                              const char *what, const struct mabn_coco *truth)
{
    char id[24];
    *n = unique_ids(ids, *n);
    if (wanted) {
        for (size_t i = 0; i < n_wanted; i++)
            if (!among(ids, *n, wanted[i]))
                return mabn_fail(MABN_ERR_NOTFOUND, "%s %s is not in '%s'", what,
                                 mabn_coco_id_text(truth, wanted[i], id), truth->name);
        memcpy(ids, wanted, n_wanted * sizeof *ids); /* all are there, some perhaps twice */
        *n = unique_ids(ids, n_wanted);
    }
    if (truth->n_texts) qsort_r(ids, *n, sizeof *ids, compare_by_text, (void *)(uintptr_t)truth);
    return MABN_OK;
}

/* Likewise; `table` gives each id's place. */
static mabn_status list_ids(int64_t *ids, size_t *n, const int64_t *wanted, size_t n_wanted,
                            const char *what, const struct mabn_coco *truth, struct id_table *table)
{
    MABN_TRY(choose_ids(ids, n, wanted, n_wanted, what, truth));
    table_init(table, *n);
    for (size_t i = 0; i < *n; i++)
        *table_slot(table, ids[i]) = (uint32_t)i;
    return MABN_OK;
}

static mabn_status list_images(struct mabn_coco_join *out, const struct mabn_coco *truth,
                               const struct mabn_coco_params *p, struct id_table *images)
{
    size_t n = truth->n_images, room = n > p->n_images ? n : p->n_images;
    out->image_ids = mabn_xmalloc((room + 1) * sizeof *out->image_ids);
    for (size_t i = 0; i < n; i++)
        out->image_ids[i] = truth->images[i].id;
    MABN_TRY(list_ids(out->image_ids, &n, p->images, p->n_images, "image", truth, images));
    out->n_images = n;
    out->images = mabn_xcalloc(n + 1, sizeof *out->images);
    for (size_t i = 0; i < truth->n_images; i++) {
        uint32_t at = table_find(images, truth->images[i].id);
        if (at != NONE) out->images[at] = &truth->images[i];
    }
    return MABN_OK;
}

static mabn_status list_categories(struct mabn_coco_join *out, const struct mabn_coco *truth,
                                   const struct mabn_coco_params *p, struct id_table *categories)
{
    size_t n = truth->n_categories, room = n > p->n_categories ? n : p->n_categories;
    out->category_ids = mabn_xmalloc((room + 1) * sizeof *out->category_ids);
    for (size_t i = 0; i < n; i++)
        out->category_ids[i] = truth->categories[i].id;
    MABN_TRY(list_ids(out->category_ids, &n, p->categories, p->n_categories, "category", truth,
                      categories));
    out->n_categories = n;
    out->category_names = mabn_xcalloc(n + 1, sizeof *out->category_names);
    out->frequencies = mabn_xcalloc(n + 1, 1);
    for (size_t i = 0; i < truth->n_categories; i++) {
        uint32_t at = table_find(categories, truth->categories[i].id);
        if (at == NONE) continue;
        out->category_names[at] = truth->categories[i].name;
        out->frequencies[at] = truth->categories[i].frequency;
    }
    return MABN_OK;
}

/* ---- ground truths ---- */

/* Records of chosen images and categories, image by image, in file order. */
static uint32_t *truths_by_image(const struct mabn_coco_join *out, const struct mabn_coco *truth,
                                 const struct id_table *images, const struct id_table *categories,
                                 size_t *count)
{
    size_t *at = mabn_xcalloc(out->n_images + 1, sizeof *at);
    uint32_t *image = mabn_xmalloc((truth->n_records + 1) * sizeof *image);
    for (size_t i = 0; i < truth->n_records; i++) {
        const struct mabn_coco_record *r = &truth->records[i];
        image[i] = table_find(images, r->image_id);
        if (table_find(categories, r->category_id) == NONE) image[i] = NONE;
        if (image[i] != NONE) at[image[i] + 1]++;
    }
    for (size_t i = 0; i < out->n_images; i++)
        at[i + 1] += at[i];
    *count = at[out->n_images];
    uint32_t *list = mabn_xmalloc((*count + 1) * sizeof *list);
    for (size_t i = 0; i < truth->n_records; i++)
        if (image[i] != NONE) list[at[image[i]]++] = (uint32_t)i;
    free(image);
    free(at);
    return list;
}

/* Ids that occur twice: how many, and the first record whose id was there before. */
struct duplicates {
    size_t n;
    const struct mabn_coco_record *first;
};

/* The reference goes from records to ids and back, so an id that occurs twice stands for the last
 * record that has it, once for each occurrence. Returns what is left of the list. */
static size_t resolve_duplicates(uint32_t *list, size_t n, const struct mabn_coco *truth,
                                 struct duplicates *found)
{
    struct id_table ids = {NULL, NULL, 0};
    size_t left = 0;
    if (!truth->stands_for) table_init(&ids, truth->n_records);
    for (size_t i = 0; i < truth->n_records; i++) {
        const struct mabn_coco_record *r = &truth->records[i];
        if (truth->stands_for) {
            if (truth->stands_for[i] != i && !found->n++) found->first = r;
        } else if (!r->no_id) {
            uint32_t *slot = table_slot(&ids, r->id);
            if (*slot != NONE && !found->n++) found->first = r;
            *slot = (uint32_t)i;
        }
    }
    for (size_t i = 0; i < n && found->n; i++) {
        const struct mabn_coco_record *r = &truth->records[list[i]];
        uint32_t last = truth->stands_for ? truth->stands_for[list[i]]
                        : r->no_id        ? list[i]
                                          : table_find(&ids, r->id);
        if (last != NONE) list[left++] = last;
    }
    table_release(&ids);
    return found->n ? left : n;
}

static void tell_duplicates(const struct mabn_coco *truth, const struct duplicates *found)
{
    char id[24], line[16];
    const struct mabn_coco_record *first = found->first;
    mabn_coco_line(first->line, line);
    mabn_warn("'%s': %zu annotation%s an id that occurs twice (the first: %s%s%s); the last of "
              "each counts for all, as in pycocotools (--fix-quirks counts each as it is)",
              truth->name, found->n, found->n == 1 ? " has" : "s have",
              first->odd_id ? "a text" : mabn_coco_id_text(truth, first->id, id),
              first->line ? ", line " : "", first->line ? line + 1 : "");
}

static bool is_text(const struct mabn_coco *c, int64_t id)
{
    char buffer[24];
    return mabn_coco_id_text(c, id, buffer) != buffer;
}

/* What a text was probably meant to be: the name of a category or of an image's file, or a number
 * that the file has. Empty: nothing known. */
static const char *say_meant(char out[96], const struct mabn_coco *truth, const char *text,
                             bool image)
{
    char id[24], *end;
    const size_t n = strlen(text);
    const long long number = strtoll(text, &end, 10);
    *out = 0;
    for (size_t i = 0; image && i < truth->n_images && !*out; i++) {
        const char *name = truth->images[i].file_name;
        const bool same = name && !strncmp(name, text, n) && (!name[n] || name[n] == '.');
        if (n && same)
            snprintf(out, 96, "; it is the file_name of image %.20s",
                     mabn_coco_id_text(truth, truth->images[i].id, id));
        else if (n && !*end && truth->images[i].id == number)
            snprintf(out, 96, "; there it is a number");
    }
    for (size_t i = 0; !image && i < truth->n_categories && !*out; i++) {
        const char *name = truth->categories[i].name;
        if (n && name && !strcmp(name, text))
            snprintf(out, 96, "; it is the name of category %.20s",
                     mabn_coco_id_text(truth, truth->categories[i].id, id));
        else if (n && !*end && truth->categories[i].id == number)
            snprintf(out, 96, "; there it is a number");
    }
    return out;
}

/* Annotations that belong to no image or category of the file never count. */
static void tell_orphans(const struct mabn_coco *truth)
{
    struct id_table tables[2];
    static const char *const whats[2] = {"images", "categories"};
    char id[24], place[48];
    table_init(&tables[0], truth->n_images);
    table_init(&tables[1], truth->n_categories);
    for (size_t i = 0; i < truth->n_images; i++)
        *table_slot(&tables[0], truth->images[i].id) = 1;
    for (size_t i = 0; i < truth->n_categories; i++)
        *table_slot(&tables[1], truth->categories[i].id) = 1;
    for (int t = 0; t < 2; t++) {
        const struct mabn_coco_record *first = NULL;
        size_t n = 0;
        for (size_t i = 0; i < truth->n_records; i++) {
            const struct mabn_coco_record *r = &truth->records[i];
            if (table_find(&tables[t], t ? r->category_id : r->image_id) == NONE && !n++) first = r;
        }
        const int64_t id_of = !n ? 0 : t ? first->category_id : first->image_id;
        char meant[96] = "";
        if (n && is_text(truth, id_of))
            say_meant(meant, truth, mabn_coco_id_text(truth, id_of, id), !t);
        if (n)
            mabn_warn("'%s': %zu annotation%s of %s that are not listed (the first: %s, %s %s%s%s) "
                      "count%s for nothing",
                      truth->name, n, n == 1 ? "" : "s", whats[t],
                      mabn_coco_record_place(truth, first, place), t ? "category" : "image",
                      mabn_coco_id_text(truth, id_of, id), is_text(truth, id_of) ? ", a text" : "",
                      meant, n == 1 ? "s" : "");
        table_release(&tables[t]);
    }
}

static int compare_truths(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void list_truths(struct mabn_coco_join *out, const struct mabn_coco *truth,
                        const struct mabn_coco_params *p, const struct id_table *images,
                        const struct id_table *categories)
{
    size_t n;
    struct duplicates found = {0, NULL};
    uint32_t *list = truths_by_image(out, truth, images, categories, &n);
    if (!p->fix_quirks) n = resolve_duplicates(list, n, truth, &found);
    if (found.n && !p->quiet) tell_duplicates(truth, &found);
    /* Sort each image's by category, keeping their order: key is category, then place. */
    out->truth_start = mabn_xcalloc(out->n_images + 2, sizeof *out->truth_start);
    out->truths = mabn_xmalloc((n + 1) * sizeof *out->truths);
    uint64_t *keys = mabn_xmalloc((n + 1) * sizeof *keys);
    size_t *start = out->truth_start + 1;
    for (size_t i = 0; i < n; i++) {
        const struct mabn_coco_record *r = &truth->records[list[i]];
        uint32_t image = table_find(images, r->image_id);
        if (image != NONE && table_find(categories, r->category_id) != NONE) start[image + 1]++;
    }
    for (size_t i = 0; i < out->n_images; i++)
        start[i + 1] += start[i];
    for (size_t i = 0; i < n; i++) {
        const struct mabn_coco_record *r = &truth->records[list[i]];
        uint32_t image = table_find(images, r->image_id);
        uint32_t category = table_find(categories, r->category_id);
        if (image != NONE && category != NONE) keys[start[image]++] = (uint64_t)category << 32 | i;
    }
    for (size_t i = 0; i < out->n_images; i++) {
        size_t first = out->truth_start[i], count = out->truth_start[i + 1] - first;
        qsort(keys + first, count, sizeof *keys, compare_truths);
    }
    for (size_t i = 0; i < out->truth_start[out->n_images]; i++)
        out->truths[i] =
            (struct mabn_coco_join_truth){list[(uint32_t)keys[i]], (uint32_t)(keys[i] >> 32)};
    free(keys);
    free(list);
}

/* Areas outside all ranges of the scoring: such annotations never count. */
static void tell_areas(const struct mabn_coco *truth, const struct mabn_coco_params *p)
{
    const struct mabn_coco_record *first = NULL;
    char place[48];
    size_t n = 0;
    if (mabn_coco_area_index(p, "all") < 0) return; /* the user has chosen the ranges */
    for (size_t i = 0; i < truth->n_records; i++) {
        const struct mabn_coco_record *r = &truth->records[i];
        double area = r->has_area ? r->area : r->box.w * r->box.h;
        bool held = false;
        for (int a = 0; a < p->n_areas && !held; a++)
            held = area >= p->areas[a].low && area <= p->areas[a].high;
        if (!held && !n++) first = r;
    }
    if (n)
        mabn_warn("'%s': %zu annotation%s an area that no range of areas holds (the first: %s, "
                  "%g) and never count%s",
                  truth->name, n, n == 1 ? " has" : "s have",
                  mabn_coco_record_place(truth, first, place),
                  first->has_area ? first->area : first->box.w * first->box.h, n == 1 ? "s" : "");
}

/* Warn of annotations that pycocotools counts wrongly. */
static void tell_quirks(const struct mabn_coco *truth, bool lvis)
{
    const struct mabn_coco_record *zero = NULL, *ignored = NULL;
    char place[48];
    size_t n = 0;
    for (size_t i = 0; i < truth->n_records; i++) {
        const struct mabn_coco_record *r = &truth->records[i];
        if (r->id == 0 && !zero) zero = r;
        if (r->ignore && !r->crowd && !lvis && !n++) ignored = r;
    }
    if (zero)
        mabn_warn("'%s': an annotation has the id 0 (%s): results that find it count as wrong, as "
                  "in pycocotools (--fix-quirks counts them as right)",
                  truth->name, mabn_coco_record_place(truth, zero, place));
    if (n)
        mabn_warn("'%s': %zu annotation%s \"ignore\" (the first: %s), which has no effect, as in "
                  "pycocotools (--fix-quirks heeds it)",
                  truth->name, n, n == 1 ? " says" : "s say",
                  mabn_coco_record_place(truth, ignored, place));
}

/* A count of 0 decides that a person is not labelled, whatever the keypoints say. */
static void tell_uncounted(const struct mabn_coco *truth)
{
    const struct mabn_coco_record *first = NULL;
    char place[48];
    size_t n = 0;
    for (size_t i = 0; i < truth->n_records; i++) {
        const struct mabn_coco_record *r = &truth->records[i];
        bool visible = false;
        if (!r->has_keypoints || !r->has_num_keypoints || r->num_keypoints) continue;
        for (uint32_t k = 0; k < r->n_keypoints; k++)
            visible |= truth->numbers[r->keypoints + 3 * k + 2] > 0;
        if (visible && !n++) first = r;
    }
    if (n)
        mabn_warn("'%s': %zu annotation%s \"num_keypoints\": 0 and labelled keypoints (the first: "
                  "%s): not counted as objects, as in pycocotools",
                  truth->name, n, n == 1 ? " has" : "s have",
                  mabn_coco_record_place(truth, first, place));
}

/* Boxes of negative extent overlap nothing, nor do those whose area is beyond the largest number. */
static void tell_boxes(const struct mabn_coco *c)
{
    const struct mabn_coco_record *first = NULL, *huge = NULL;
    char place[48];
    size_t n = 0, n_huge = 0;
    for (size_t i = 0; i < c->n_records; i++) {
        const struct mabn_coco_record *r = &c->records[i];
        if (r->has_box && (r->box.w < 0 || r->box.h < 0) && !n++) first = r;
        if (r->has_box && !isfinite(r->box.w * r->box.h) && !n_huge++) huge = r;
    }
    if (n)
        mabn_warn("'%s': %zu box%s a negative width or height (the first: %s, %g x %g) and "
                  "overlap%s nothing",
                  c->name, n, n == 1 ? " has" : "es have", mabn_coco_record_place(c, first, place),
                  first->box.w, first->box.h, n == 1 ? "s" : "");
    if (n_huge)
        mabn_warn("'%s': %zu box%s too large for an area (the first: %s, %g x %g) and overlap%s "
                  "nothing",
                  c->name, n_huge, n_huge == 1 ? " is" : "es are",
                  mabn_coco_record_place(c, huge, place), huge->box.w, huge->box.h,
                  n_huge == 1 ? "s" : "");
}

/* ---- detections ---- */

/* Places of the results' images and categories, a block of records at a time. */
struct lookup {
    const struct mabn_coco *results;
    const struct id_table *images, *categories;
    uint32_t *image, *category; /* (records) */
};

enum { LOOKUP_BLOCK = 4096 };

static mabn_status look_up(void *context, int64_t block, int worker)
{
    const struct lookup *l = context;
    const size_t first = (size_t)block * LOOKUP_BLOCK, left = l->results->n_records - first,
                 last = first + (left < LOOKUP_BLOCK ? left : LOOKUP_BLOCK);
    (void)worker;
    for (size_t i = first; i < last; i++) {
        const struct mabn_coco_record *r = &l->results->records[i];
        l->image[i] = table_find(l->images, r->image_id);
        l->category[i] = table_find(l->categories, r->category_id);
    }
    return MABN_OK;
}

static mabn_status look_up_all(const struct lookup *l, int threads)
{
    const size_t blocks = (l->results->n_records + LOOKUP_BLOCK - 1) / LOOKUP_BLOCK;
    return mabn_parallel(threads ? threads : mabn_threads_available(), (int64_t)blocks, 1, look_up,
                         (void *)(uintptr_t)l);
}

/* The image is unknown: is it one that was left out on purpose? */
static mabn_status check_image(const struct mabn_coco *truth, const struct mabn_coco *results,
                               const struct mabn_coco_record *r, const struct id_table *known)
{
    char id[24], meant[96] = "";
    if (table_find(known, r->image_id) != NONE) return MABN_OK;
    const char *text = mabn_coco_id_text(results, r->image_id, id);
    if (text != id) say_meant(meant, truth, text, true);
    return mabn_fail(MABN_ERR_NOTFOUND, "'%s':%u: result %lld: image %s%s is not in '%s'%s",
                     results->name, r->line, (long long)r->id, text, text != id ? " (a text)" : "",
                     truth->name,
                     *meant ? meant
                     : (text != id) != (truth->n_texts > 0)
                         ? ": are ids numbers in one file and texts in the other?"
                         : "");
}

/* LVIS's limit of an image counts results of every category, so all are listed there at first. */
static mabn_status list_detections(struct mabn_coco_join *out, const struct mabn_coco *truth,
                                   const struct mabn_coco *results,
                                   const struct mabn_coco_params *params,
                                   const struct id_table *images, const struct id_table *categories)
{
    char id[24], meant[96] = "";
    struct id_table known, named;
    size_t n = results->n_records, strange = 0;
    const bool all = params->lvis;
    int64_t strange_id = 0;
    mabn_status status = MABN_OK;
    table_init(&known, truth->n_images);
    table_init(&named, truth->n_categories);
    for (size_t i = 0; i < truth->n_images; i++)
        *table_slot(&known, truth->images[i].id) = 1;
    for (size_t i = 0; i < truth->n_categories; i++)
        *table_slot(&named, truth->categories[i].id) = 1;
    out->detection_start = mabn_xcalloc(out->n_images + 2, sizeof *out->detection_start);
    out->detection_category = mabn_xmalloc((n + 1) * sizeof *out->detection_category);
    uint32_t *image = mabn_xmalloc((n + 1) * sizeof *image);
    size_t *start = out->detection_start + 1;
    const struct lookup lookup = {results, images, categories, image, out->detection_category};
    MABN_TRY_GOTO(look_up_all(&lookup, params->threads), done);
    for (size_t i = 0; i < n; i++) {
        const struct mabn_coco_record *r = &results->records[i];
        uint32_t category = out->detection_category[i];
        if (image[i] == NONE) MABN_TRY_GOTO(check_image(truth, results, r, &known), done);
        if (category == NONE && table_find(&named, r->category_id) == NONE && !strange++)
            strange_id = r->category_id;
        if (image[i] != NONE && (category != NONE || all)) start[image[i] + 1]++;
    }
    if (strange && is_text(results, strange_id))
        say_meant(meant, truth, mabn_coco_id_text(results, strange_id, id), false);
    if (strange && !params->quiet)
        mabn_warn(
            "'%s': %zu result%s of categories that '%s' does not have (such as %s%s%s) %s ignored",
            results->name, strange, strange == 1 ? "" : "s", truth->name,
            mabn_coco_id_text(results, strange_id, id),
            is_text(results, strange_id) ? ", a text" : "", meant, strange == 1 ? "is" : "are");
    for (size_t i = 0; i < out->n_images; i++)
        start[i + 1] += start[i];
    out->detections = mabn_xmalloc((n + 1) * sizeof *out->detections);
    for (size_t i = 0; i < n; i++)
        if (image[i] != NONE && (out->detection_category[i] != NONE || all))
            out->detections[start[image[i]]++] = (uint32_t)i;
done:
    free(image);
    table_release(&known);
    table_release(&named);
    return status;
}

/* ---- LVIS ---- */

/* Does LVIS say of this category whether the image has it? */
static bool is_known(const struct mabn_coco_join *join, const struct mabn_coco *truth, size_t image,
                     uint32_t category)
{
    const struct mabn_coco_image *info = join->images[image];
    if (category == NONE) return false; /* not listed, or not chosen */
    for (size_t g = join->truth_start[image]; g < join->truth_start[image + 1]; g++)
        if (join->truths[g].category == category) return true;
    for (size_t i = 0; i < info->n_negatives; i++)
        if (truth->listed[info->listed + i] == join->category_ids[category]) return true;
    return false;
}

static mabn_status check_lvis(const struct mabn_coco_join *join, const struct mabn_coco *truth)
{
    char id[24], line[16];
    for (size_t i = 0; i < join->n_images; i++)
        if (!join->images[i]->has_lists)
            return mabn_fail(MABN_ERR_FORMAT,
                             "'%s'%s: image %s has no \"neg_category_ids\" and "
                             "\"not_exhaustive_category_ids\": is this an LVIS file?",
                             truth->name, mabn_coco_line(join->images[i]->line, line),
                             mabn_coco_id_text(truth, join->images[i]->id, id));
    for (size_t i = 0; i < join->n_categories; i++)
        if (!join->frequencies[i] || !strchr("rcf", join->frequencies[i]))
            return mabn_fail(
                MABN_ERR_FORMAT,
                "'%s': category %s has no \"frequency\" r, c or f: is this an LVIS file?",
                truth->name, mabn_coco_id_text(truth, join->category_ids[i], id));
    return MABN_OK;
}

/* Keep the best `limit` of each image, and of these only the ones whose category LVIS knows to be there or
 * absent. */
static void choose_detections(struct mabn_coco_join *join, const struct mabn_coco *truth,
                              const struct mabn_coco *results, size_t limit)
{
    size_t kept = 0;
    for (size_t i = 0; i < join->n_images; i++) {
        size_t first = join->detection_start[i], n = join->detection_start[i + 1] - first;
        join->detection_start[i] = kept;
        if (n > limit) {
            struct mabn_coco_keyed *keyed = mabn_xmalloc(2 * n * sizeof *keyed);
            for (size_t d = 0; d < n; d++) {
                uint32_t record = join->detections[first + d];
                keyed[d] = (struct mabn_coco_keyed){
                    mabn_coco_score_key(results->records[record].score), record};
            }
            mabn_coco_sort_keyed(keyed, keyed + n, n);
            for (size_t d = 0; d < limit; d++)
                join->detections[first + d] = keyed[d].index;
            free(keyed);
            n = limit;
        }
        for (size_t d = 0; d < n; d++) {
            uint32_t record = join->detections[first + d];
            if (is_known(join, truth, i, join->detection_category[record]))
                join->detections[kept++] = record;
        }
    }
    join->detection_start[join->n_images] = kept;
}

mabn_status mabn_coco_join_make(struct mabn_coco_join *out, const struct mabn_coco *truth,
                                const struct mabn_coco *results,
                                const struct mabn_coco_params *params)
{
    struct id_table images = {NULL, NULL, 0}, categories = {NULL, NULL, 0};
    mabn_status status = MABN_OK;
    memset(out, 0, sizeof *out);
    out->kind = MABN_COCO_RESULTS_BOXES;
    if (results->n_records) {
        const struct mabn_coco_record *r = results->records;
        if (!mabn_coco_results_are_boxes(r))
            out->kind = r->segmentation.kind != MABN_SEGMENTATION_NONE
                            ? MABN_COCO_RESULTS_MASKS
                            : MABN_COCO_RESULTS_KEYPOINTS;
    }
    MABN_TRY_GOTO(list_images(out, truth, params, &images), done);
    MABN_TRY_GOTO(list_categories(out, truth, params, &categories), done);
    list_truths(out, truth, params, &images, &categories);
    if (!params->quiet) tell_orphans(truth);
    if (!params->quiet) tell_areas(truth, params);
    if (!params->quiet && !params->fix_quirks) tell_quirks(truth, params->lvis);
    if (!params->quiet && params->type == MABN_COCO_BBOX) {
        tell_boxes(truth);
        tell_boxes(results);
    }
    if (!params->quiet && params->type == MABN_COCO_KEYPOINTS) tell_uncounted(truth);
    if (params->lvis) MABN_TRY_GOTO(check_lvis(out, truth), done);
    status = list_detections(out, truth, results, params, &images, &categories);
    if (!status && params->lvis)
        choose_detections(out, truth, results, (size_t)params->max_dets[params->n_max_dets - 1]);
done:
    table_release(&images);
    table_release(&categories);
    if (status) mabn_coco_join_release(out);
    return status;
}

void mabn_coco_join_release(struct mabn_coco_join *join)
{
    free(join->image_ids);
    free(join->images);
    free(join->category_ids);
    free(join->category_names);
    free(join->frequencies);
    free(join->truth_start);
    free(join->truths);
    free(join->detection_start);
    free(join->detections);
    free(join->detection_category);
    memset(join, 0, sizeof *join);
}
