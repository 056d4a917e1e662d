/* The tensors of the source under our names, and facts that follow from a single tensor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/convert_impl.h"
#include "model/resnet.h"

const struct mabn_weight *mabn_convert_tensor(const struct mabn_convert *c, const struct item *item)
{
    return mabn_weights_at(c->source, item->source);
}

/* ---- items and their names ---- */

static char *move_body(const struct mabn_convert *c, char *name)
{
    if (!name) return NULL;
    bool detector = mabn_names_is_detector(name);
    char *moved = NULL;
    if (c->options.body == MABN_BODY_DETECTOR && !detector)
        moved = mabn_names_into_detector(name);
    else if (c->options.body == MABN_BODY_CLASSIFIER && detector)
        moved = mabn_names_out_of_detector(name);
    else
        return name;
    free(name);
    return moved;
}

/* Is it left behind on purpose: the classifier layer when a body goes into a detector, or the detector's
 * other parts when the body is taken out? */
static bool left_behind(const struct mabn_convert *c, const char *ours)
{
    if (c->options.body == MABN_BODY_DETECTOR) return !strncmp(ours, "fc.", 3);
    if (c->options.body == MABN_BODY_CLASSIFIER)
        return mabn_names_is_detector(ours) && strncmp(ours, "backbone.body.", 14);
    return false;
}

static void name_item(struct mabn_convert *c, struct item *item)
{
    const struct mabn_weight *t = mabn_convert_tensor(c, item);
    if (c->options.as_is) {
        item->ours = mabn_xstrdup(t->name);
        return;
    }
    item->ignored = mabn_names_ignored(c->names, t->name) ||
                    (t->part != MABN_WEIGHT_MODEL && c->options.weights_only) ||
                    (t->part == MABN_WEIGHT_OTHER && !c->own);
    if (item->ignored) return;
    if (t->part == MABN_WEIGHT_OTHER) {
        item->ours = mabn_xstrdup(t->name);
        return;
    }
    char *ours = c->options.suffix ? mabn_xstrdup(t->name) : mabn_names_to_ours(c->names, t->name);
    if (ours && left_behind(c, ours)) {
        item->ignored = true;
        free(ours);
        return;
    }
    item->ours = move_body(c, ours);
}

bool mabn_convert_names_detector(const struct mabn_convert *c)
{
    for (size_t i = 0; i < c->item_count; i++)
        if (c->items[i].ours && mabn_names_is_detector(c->items[i].ours)) return true;
    return false;
}

/* Caffe2 and detectron2 use the same names for a body alone and in a detector. In a whole detector
 * it gets the detector's names. */
static void place_body(struct mabn_convert *c)
{
    if (c->options.body != MABN_BODY_AS_IS || c->names == MABN_NAMES_OURS || c->options.suffix ||
        !mabn_convert_names_detector(c))
        return;
    for (size_t i = 0; i < c->item_count; i++) {
        char *moved = c->items[i].ours ? mabn_names_into_detector(c->items[i].ours) : NULL;
        if (!moved) continue;
        free(c->items[i].ours);
        c->items[i].ours = moved;
    }
}

static int compare_items(const void *a, const void *b, void *context)
{
    const struct mabn_convert *c = context;
    return strcmp(c->items[*(const size_t *)a].ours, c->items[*(const size_t *)b].ours);
}

static void index_items(struct mabn_convert *c)
{
    c->by_name = mabn_xmalloc((c->item_count + 1) * sizeof *c->by_name);
    c->by_name_count = 0;
    for (size_t i = 0; i < c->item_count; i++)
        if (c->items[i].ours && mabn_convert_tensor(c, &c->items[i])->part == MABN_WEIGHT_MODEL)
            c->by_name[c->by_name_count++] = i;
    qsort_r(c->by_name, c->by_name_count, sizeof *c->by_name, compare_items, c);
}

struct item *mabn_convert_find(const struct mabn_convert *c, const char *ours)
{
    size_t low = 0, high = c->by_name_count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = strcmp(ours, c->items[c->by_name[mid]].ours);
        if (order == 0) return &c->items[c->by_name[mid]];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

struct item *mabn_convert_sibling(const struct mabn_convert *c, const char *name, const char *leaf)
{
    char *other = mabn_xasprintf("%.*s%s", (int)(leaf_of(name) - name), name, leaf);
    struct item *item = mabn_convert_find(c, other);
    free(other);
    return item;
}

struct item *mabn_convert_leaf(const struct mabn_convert *c, const char *stem, const char *leaf)
{
    char *name = mabn_xasprintf("%s.%s", stem, leaf);
    struct item *item = mabn_convert_find(c, name);
    free(name);
    return item;
}

/* "X.weight" is "X.0.weight" where a norm "X.1" follows; the names of Caffe2 and detectron2 do not
 * show this. */
static void number_layers(struct mabn_convert *c)
{
    bool any = false;
    for (size_t i = 0; i < c->item_count; i++) {
        struct item *item = &c->items[i];
        size_t n = item->ours ? strlen(item->ours) : 0;
        if (n < 8 || strcmp(item->ours + n - 7, ".weight")) continue;
        char *stem = mabn_xstrndup(item->ours, n - 7);
        if (mabn_convert_leaf(c, stem, "1.weight") && !mabn_convert_leaf(c, stem, "0.weight")) {
            free(item->ours);
            item->ours = mabn_xasprintf("%s.0.weight", stem);
            any = true;
        }
        free(stem);
    }
    if (any) {
        free(c->by_name);
        index_items(c);
    }
}

/* Layers that other programs number in the same way whether or not other layers come between: the
 * box head's convolutions without norms, and a single convolution of the RPN. */
static void renumber_layers(struct mabn_convert *c)
{
    static const char xconvs[] = "roi_heads.box.feature_extractor.xconvs";
    static const struct {
        const char *from, *to;
    } rows[] = {{"roi_heads.box.feature_extractor.xconvs.{k*3}.*",
                 "roi_heads.box.feature_extractor.xconvs.{k*2}.*"},
                {"rpn.head.conv.0.*", "rpn.head.conv.*"}};
    const bool wanted[] = {mabn_convert_leaf(c, xconvs, "0.bias") &&
                               !mabn_convert_leaf(c, xconvs, "1.weight"),
                           mabn_convert_leaf(c, "rpn.head.conv", "0.weight") &&
                               !mabn_convert_leaf(c, "rpn.head.conv", "1.weight")};
    for (size_t i = 0; i < c->item_count; i++)
        for (size_t k = 0; k < 2 && c->items[i].ours; k++) {
            char *ours =
                wanted[k] ? mabn_names_translate(rows[k].from, rows[k].to, c->items[i].ours) : NULL;
            if (!ours) continue;
            free(c->items[i].ours);
            c->items[i].ours = ours;
        }
    free(c->by_name);
    index_items(c);
}

mabn_status mabn_convert_name_items(struct mabn_convert *c)
{
    c->item_count = mabn_weights_count(c->source);
    c->items = mabn_xcalloc(c->item_count + 1, sizeof *c->items);
    for (size_t i = 0; i < c->item_count; i++) {
        c->items[i].source = i;
        name_item(c, &c->items[i]);
    }
    if (!c->options.as_is) place_body(c);
    index_items(c);
    if (!c->options.as_is && !c->options.suffix && c->names != MABN_NAMES_OURS) {
        number_layers(c);
        renumber_layers(c);
    }
    for (size_t i = 1; i < c->by_name_count && !c->options.suffix; i++) {
        const struct item *a = &c->items[c->by_name[i - 1]], *b = &c->items[c->by_name[i]];
        if (!strcmp(a->ours, b->ours))
            return mabn_fail(MABN_ERR_MISMATCH, "'%s': '%s' and '%s' are both our '%s'",
                             mabn_weights_path(c->source), mabn_convert_tensor(c, a)->name,
                             mabn_convert_tensor(c, b)->name, a->ours);
    }
    return MABN_OK;
}

/* ---- telling from names and shapes ---- */

int64_t mabn_convert_dim(const struct mabn_convert *c, const char *ours, int axis)
{
    const struct item *item = mabn_convert_find(c, ours);
    if (!item) return 0;
    const struct mabn_weight *t = mabn_convert_tensor(c, item);
    return axis < t->shape.rank ? t->shape.dim[axis] : 0;
}

static int count_blocks(const struct mabn_convert *c, const char *body, int stage)
{
    char name[64];
    int n = 0;
    for (;; n++) {
        snprintf(name, sizeof name, "%slayer%d.%d.conv1.weight", body, stage, n);
        if (!mabn_convert_find(c, name)) return n;
    }
}

const char *mabn_convert_guess_arch(const struct mabn_convert *c, const char *body)
{
    char name[64];
    int blocks[4] = {0}, stages = 0;
    while (stages < 4 && (blocks[stages] = count_blocks(c, body, stages + 1)) > 0)
        stages++;
    snprintf(name, sizeof name, "%slayer1.0.conv3.weight", body);
    bool bottleneck = mabn_convert_find(c, name) != NULL;
    for (const char *const *arch = mabn_resnet_archs(); *arch; arch++) {
        const struct mabn_resnet_shape *s = mabn_resnet_find(*arch);
        if (s->stages == stages && s->bottleneck == bottleneck &&
            !memcmp(s->blocks, blocks, (size_t)stages * sizeof *blocks))
            return *arch;
    }
    return NULL;
}

void mabn_convert_guess_norm(const struct mabn_convert *c, const char *stem,
                             struct mabn_norm_options *norm)
{
    const struct item *weight = mabn_convert_leaf(c, stem, "weight");
    char *name = mabn_xasprintf("%s.pre_x2", stem);
    char *buffer = mabn_xasprintf("%s.buffer_x2", stem);
    int64_t rows = mabn_convert_dim(c, name, 0), buffer_rows = mabn_convert_dim(c, buffer, 0);
    free(name);
    free(buffer);
    bool mean = mabn_convert_leaf(c, stem, "running_mean") != NULL;
    bool group = weight && strstr(mabn_convert_tensor(c, weight)->name, "_gn_");
    const enum mabn_norm_kind with_act[] = {MABN_NORM_FRN, MABN_NORM_EVONORM_S0};
    for (size_t i = 0; i < sizeof with_act / sizeof *with_act; i++)
        if (mabn_convert_leaf(c, stem, mabn_norm_act_name(with_act[i]))) {
            mabn_norm_options_init(norm, with_act[i]);
            return;
        }
    if (rows > 0 || buffer_rows > 0) {
        mabn_norm_options_init(norm, MABN_NORM_MABN);
        norm->window_rule = rows > 0 ? MABN_WINDOW_SUBBATCH : MABN_WINDOW_ITERATION;
        norm->window = (int)(rows > 0 ? rows : buffer_rows);
        norm->norm_batch = 2;
    } else if (mabn_convert_leaf(c, stem, "running_var") && !mean) {
        mabn_norm_options_init(norm, MABN_NORM_MABN);
        norm->norm_batch = 2;
    } else if (mean && mabn_convert_leaf(c, stem, "num_batches_tracked")) {
        mabn_norm_options_init(norm, MABN_NORM_BN);
    } else if (mean) {
        const bool frozen = c->names == MABN_NAMES_DETECTRON2 || c->names == MABN_NAMES_TORCHVISION;
        mabn_norm_options_init(norm, frozen ? MABN_NORM_FROZEN : MABN_NORM_BN);
    } else if (group || c->names == MABN_NAMES_OURS || c->names == MABN_NAMES_TORCHVISION) {
        mabn_norm_options_init(norm, MABN_NORM_GN);
    } else {
        mabn_norm_options_init(norm, MABN_NORM_FROZEN);
    }
}

/* ---- entries ---- */

struct entry *mabn_convert_add_entry(struct mabn_convert *c, const char *name,
                                     const struct mabn_weight *t)
{
    MABN_GROW(c->entries, c->entry_count, c->entry_capacity);
    struct entry *e = &c->entries[c->entry_count++];
    *e = (struct entry){.weight = *t};
    e->weight.name = mabn_xstrdup(name);
    return e;
}

void mabn_convert_remove_entry(struct mabn_convert *c, size_t i)
{
    free((char *)c->entries[i].weight.name);
    memmove(&c->entries[i], &c->entries[i + 1], (c->entry_count - i - 1) * sizeof *c->entries);
    c->entry_count--;
}
