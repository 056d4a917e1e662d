/* Planning a conversion: names, which network it is, what will be written. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/resnet.h"
#include "exchange/convert_impl.h"
#include "exchange/pickle_weights.h"
#include "exchange/weights_impl.h"

enum { MAX_WINDOW = 1024, MAX_WIDTH = 4096 };

void mabn_convert_options_init(struct mabn_convert_options *options)
{
    *options =
        (struct mabn_convert_options){.names = -1, .stride_in_1x1 = -1, .frozen_eps = -1, .to = -1};
}

/* ---- which network is it ---- */

/* Norms without statistics look like group norms. They are batch norms that have lost their statistics
 * if another stage has batch statistics, since a body never mixes the two kinds without a description.
 * The same holds if the number of groups does not divide the channels. */
static void settle_stages(struct mabn_model *m, int stages)
{
    bool batch = false;
    for (int p = 0; p <= stages; p++)
        batch |= m->norm[p].kind == MABN_NORM_BN ||
                 (m->norm[p].kind == MABN_NORM_GN && m->base_width % m->norm[p].groups);
    for (int p = 0; p <= stages && batch; p++)
        if (m->norm[p].kind == MABN_NORM_GN) mabn_norm_options_init(&m->norm[p], MABN_NORM_BN);
}

static mabn_status guess_model(struct mabn_convert *c)
{
    const char *arch = mabn_convert_guess_arch(c, "");
    if (!arch) return MABN_OK;
    struct mabn_model *m = &c->model;
    MABN_TRY(mabn_model_init(m, arch));
    m->base_width = (int)mabn_convert_dim(c, "conv1.weight", 0);
    m->channels = (int)mabn_convert_dim(c, "conv1.weight", 1);
    m->stem = mabn_convert_dim(c, "conv1.weight", 2) == 3 ? MABN_STEM_SMALL : MABN_STEM_LARGE;
    m->classes = (int)mabn_convert_dim(c, "fc.weight", 0);
    m->stride_in_1x1 = mabn_resnet_find(arch)->bottleneck && c->names != MABN_NAMES_OURS;
    if (m->channels < 1 || m->base_width < 1 || m->base_width > MAX_WIDTH) return MABN_OK;
    mabn_convert_guess_norm(c, "bn1", &m->norm[MABN_PART_STEM]);
    for (int s = 1; s <= mabn_resnet_find(arch)->stages; s++) {
        char stem[32];
        snprintf(stem, sizeof stem, "layer%d.0.bn1", s);
        mabn_convert_guess_norm(c, stem, &m->norm[MABN_PART_STEM + s]);
    }
    settle_stages(m, mabn_resnet_find(arch)->stages);
    c->has_model = true;
    return MABN_OK;
}

static mabn_status check_dim(const struct mabn_convert *c, const char *name, int axis, int64_t want)
{
    const struct item *item = mabn_convert_find(c, name);
    int64_t have = mabn_convert_dim(c, name, axis);
    if (!item || have == want) return MABN_OK;
    return mabn_fail(MABN_ERR_MISMATCH, "'%s': '%s' has %lld where a %s of width %d has %lld%s",
                     mabn_weights_path(c->source), mabn_convert_tensor(c, item)->name,
                     (long long)have, c->model.arch, c->model.base_width, (long long)want,
                     strstr(name, "conv2") ? " (ResNeXt and wide ResNets are not read)" : "");
}

/* Before a network is built from a file's description, check that its first and widest tensors
 * exist and have the described size. Memory is then bounded by the file's size. */
static mabn_status check_model(const struct mabn_convert *c)
{
    const struct mabn_model *m = &c->model;
    const struct mabn_resnet_shape *shape = mabn_resnet_find(m->arch);
    const int last = shape->stages;
    char name[64];
    if (m->base_width < 1 || m->base_width > MAX_WIDTH)
        return mabn_fail(MABN_ERR_LIMIT, "'%s': a network of width %d",
                         mabn_weights_path(c->source), m->base_width);
    const int width = m->base_width << (last - 1);
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        if (m->norm[p].window > MAX_WINDOW)
            return mabn_fail(MABN_ERR_LIMIT, "'%s': a window of %d statistics",
                             mabn_weights_path(c->source), m->norm[p].window);
    snprintf(name, sizeof name, "layer%d.0.conv2.weight", last);
    if (!mabn_convert_find(c, "conv1.weight") || !mabn_convert_find(c, name) ||
        (m->classes && !mabn_convert_find(c, "fc.weight")))
        return mabn_fail(MABN_ERR_MISMATCH,
                         "'%s' should be a %s, but has no conv1, %s or fc.weight",
                         mabn_weights_path(c->source), m->arch, name);
    MABN_TRY(check_dim(c, "conv1.weight", 0, m->base_width));
    MABN_TRY(check_dim(c, "conv1.weight", 1, m->channels));
    MABN_TRY(check_dim(c, name, 0, width));
    MABN_TRY(check_dim(c, name, 1, width));
    MABN_TRY(check_dim(c, "fc.weight", 0, m->classes));
    return check_dim(c, "fc.weight", 1, shape->bottleneck ? 4 * width : width);
}

/* The network of --like, if that file describes one. Its tensors are used as they are, so nothing
 * is checked. */
static mabn_status model_of_like(struct mabn_convert *c)
{
    MABN_TRY(mabn_weights_open(&c->like, c->options.like));
    const char *config = mabn_weights_note(c->like, "config");
    if (!config || config[0] != '{' || config[1] == '}') return MABN_OK;
    const bool detector = mabn_detector_describes(config);
    mabn_error_clear();
    if (detector) {
        MABN_TRY(mabn_detector_from_json(&c->detector, config));
        c->has_detector = true;
        return MABN_OK;
    }
    mabn_status status = mabn_model_from_json(&c->model, config);
    if (status == MABN_OK) c->has_model = true;
    if (status) mabn_error_clear(); /* another kind of network */
    return MABN_OK;
}

/* In a file whose norms were folded, convolutions have biases. The network then has frozen norms
 * with scale 1, which add the bias. */
static void freeze_folded(struct mabn_convert *c)
{
    c->folded = c->names == MABN_NAMES_OURS && mabn_convert_find(c, "conv1.bias") &&
                !mabn_convert_find(c, "bn1.weight");
    for (int p = 0; p < MABN_MODEL_PARTS && c->folded; p++)
        if (!c->own || mabn_norm_folds(c->model.norm[p].kind))
            mabn_norm_options_init(&c->model.norm[p], MABN_NORM_FROZEN);
    if (c->folded) c->model.centralize = MABN_CENTRALIZE_AUTO;
}

/* The network of a file of ours: a classifier, a detector, or a detector's body alone. */
static mabn_status own_model(struct mabn_convert *c)
{
    const char *config = mabn_weights_note(c->source, "config");
    const bool detector = mabn_detector_describes(config);
    mabn_error_clear();
    if (detector && c->options.body == MABN_BODY_AS_IS)
        return mabn_convert_read_detector(c, config);
    if (detector) {
        struct mabn_detector d;
        MABN_TRY(mabn_detector_from_json(&d, config));
        c->model = d.body;
        c->model.classes = 0;
    } else {
        MABN_TRY(mabn_model_from_json(&c->model, config));
    }
    c->has_model = true;
    return MABN_OK;
}

static mabn_status decide_model(struct mabn_convert *c)
{
    if (c->options.like) return model_of_like(c);
    if (c->options.as_is || c->options.body == MABN_BODY_DETECTOR) return MABN_OK;
    if (c->own) {
        MABN_TRY(own_model(c));
    } else {
        if (c->options.body == MABN_BODY_AS_IS) MABN_TRY(mabn_convert_guess_detector(c));
        if (!c->has_detector) MABN_TRY(guess_model(c));
    }
    if (!c->has_model) return MABN_OK;
    freeze_folded(c);
    if (c->options.norm) MABN_TRY(mabn_model_set_norm(&c->model, c->options.norm));
    if (c->options.stride_in_1x1 >= 0) c->model.stride_in_1x1 = c->options.stride_in_1x1;
    return check_model(c);
}

/* The network's tensors. Images are small, because only names and shapes are needed. */
static mabn_status build_net(struct mabn_convert *c)
{
    MABN_TRY(mabn_device_new(&c->device, MABN_DEVICE_CPU, 1));
    if (c->has_detector) {
        c->owns_params = true;
        MABN_TRY(mabn_params_new(&c->params, c->device));
        return mabn_detector_declare(c->params, c->device, &c->detector, false);
    }
    struct mabn_net_options o = {.batch = 1, .height = 32, .width = 32, .no_fold = true};
    struct mabn_model model = c->model;
    if (!model.classes) model.classes = 1; /* its classifier is not written */
    MABN_TRY(mabn_model_build(&c->net, c->device, &model, &o));
    c->params = mabn_net_params(c->net);
    return MABN_OK;
}

/* ---- entries ---- */

static void add_missing(struct mabn_convert *c, const char *name)
{
    MABN_GROW(c->missing, c->missing_count, c->missing_capacity);
    c->missing[c->missing_count++] = mabn_xstrdup(name);
}

/* The item for a name of the network: the one with the same name, or with --suffix the one that is
 * its longest suffix. */
static struct item *match_item(struct mabn_convert *c, const char *name)
{
    struct item *best = mabn_convert_find(c, name);
    size_t best_length = 0;
    if (best || !c->options.suffix) return best;
    size_t n = strlen(name);
    for (size_t i = 0; i < c->by_name_count; i++) {
        struct item *item = &c->items[c->by_name[i]];
        size_t k = strlen(item->ours);
        if (k <= n && k > best_length && !strcmp(name + n - k, item->ours)) {
            best = item;
            best_length = k;
        }
    }
    return best;
}

static bool is_float(enum mabn_dtype d)
{
    return d == MABN_DTYPE_F32 || d == MABN_DTYPE_F64 || d == MABN_DTYPE_F16 ||
           d == MABN_DTYPE_BF16;
}

/* Equal except for dimensions of 1: running_var (C) and (1,C,1,1). */
static bool same_values(const struct mabn_shape *a, const struct mabn_shape *b)
{
    int i = 0, j = 0;
    for (;;) {
        while (i < a->rank && a->dim[i] == 1)
            i++;
        while (j < b->rank && b->dim[j] == 1)
            j++;
        if (i == a->rank || j == b->rank) return i == a->rank && j == b->rank;
        if (a->dim[i++] != b->dim[j++]) return false;
    }
}

static mabn_status check_shape(const struct mabn_convert *c, const struct item *item,
                               const char *name, const struct mabn_shape *want)
{
    const struct mabn_weight *t = mabn_convert_tensor(c, item);
    char a[160], b[160];
    if (same_values(&t->shape, want)) return MABN_OK;
    return mabn_fail(MABN_ERR_MISMATCH, "'%s': '%s' has shape %s, but '%s' needs %s",
                     mabn_weights_path(c->source), t->name, mabn_shape_text(&t->shape, a), name,
                     mabn_shape_text(want, b));
}

/* State that a file may lack: it is the same in every network, or starts again. */
static bool starts_anew(const struct mabn_convert *c, const char *name)
{
    const char *leaf = leaf_of(name);
    if (!strcmp(leaf, "num_batches_tracked") || !strcmp(leaf, "sta_matrix")) return true;
    if (c->options.fold_frozen && !strcmp(leaf, "running_mean"))
        return mabn_convert_sibling(c, name, "running_var") != NULL;
    bool frozen = !strcmp(leaf, "running_mean") || !strcmp(leaf, "running_var");
    return frozen && c->names != MABN_NAMES_OURS && mabn_convert_sibling(c, name, "weight") &&
           !mabn_convert_sibling(c, name, "running_mean");
}

/* The bias of the convolution before a norm, whose state is STEM.LEAF; NULL: there is none. */
static struct item *folded_bias(const struct mabn_convert *c, const char *name)
{
    char *stem = mabn_xstrndup(name, (size_t)(strrchr(name, '.') - name));
    const int norm = mabn_net_find_node(c->net, stem, "norm");
    free(stem);
    if (norm < 0) return NULL;
    const int conv = mabn_net_node_at(c->net, norm).reads[0];
    return mabn_convert_leaf(c, mabn_net_node_at(c->net, conv).name, "bias");
}

/* From a file whose norms were folded: a frozen norm's tensor, made of the convolution's bias. */
static bool add_folded_norm(struct mabn_convert *c, const struct mabn_weight *want)
{
    const char *leaf = leaf_of(want->name);
    struct item *bias = c->folded && leaf != want->name ? folded_bias(c, want->name) : NULL;
    if (!bias || !mabn_shape_equal(&mabn_convert_tensor(c, bias)->shape, &want->shape))
        return false;
    struct entry *e = mabn_convert_add_entry(c, want->name, want);
    bias->used = true;
    e->item = (size_t)(bias - c->items);
    if (!strcmp(leaf, "bias")) return true;
    e->origin = CONSTANT;
    e->constant = strcmp(leaf, "running_mean") ? 1 : 0;
    return true;
}

static void use_norm(struct mabn_convert *c, const char *norm)
{
    static const char *const leaves[] = {"weight", "bias", "running_mean", "running_var"};
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        struct item *item = mabn_convert_leaf(c, norm, leaves[i]);
        if (item) item->used = true;
    }
}

/* A detector's layer into which its norm is folded, as --fold-frozen does outside the body. */
static bool add_folded_layer(struct mabn_convert *c, const struct mabn_weight *want)
{
    const char *leaf = leaf_of(want->name);
    if (!mabn_convert_loses_norm(c, want->name) || leaf == want->name) return false;
    char *stem = mabn_xstrndup(want->name, (size_t)(leaf - want->name) - 1);
    char *norm = mabn_convert_norm_of(c, stem), *conv = mabn_convert_unfolded(c, stem);
    struct item *item = norm && conv ? mabn_convert_leaf(c, conv, "weight") : NULL;
    const bool fits = item && mabn_shape_equal(&mabn_convert_tensor(c, item)->shape, &want->shape),
               bias = item && !strcmp(leaf, "bias");
    if (fits || bias) {
        struct entry *e = mabn_convert_add_entry(c, want->name, want);
        e->origin = bias ? FOLDED_CONV_BIAS : FOLDED_CONV;
        e->item = (size_t)(item - c->items);
        item->used = true;
        use_norm(c, norm);
    }
    free(stem);
    free(norm);
    free(conv);
    return fits || bias;
}

static mabn_status add_wanted(struct mabn_convert *c, const struct mabn_weight *want, size_t net)
{
    if (add_folded_layer(c, want)) return MABN_OK;
    struct item *item = match_item(c, want->name);
    if (!item && add_folded_norm(c, want)) return MABN_OK;
    if (!item) {
        if (!starts_anew(c, want->name)) add_missing(c, want->name);
        struct entry *e = mabn_convert_add_entry(c, want->name, want);
        e->origin = FRESH;
        e->net = net;
        return MABN_OK;
    }
    const struct mabn_weight *t = mabn_convert_tensor(c, item);
    MABN_TRY(check_shape(c, item, want->name, &want->shape));
    item->used = true;
    struct entry *e = mabn_convert_add_entry(c, want->name, want);
    if (is_float(want->dtype) != is_float(t->dtype) && want->dtype != MABN_DTYPE_I64)
        return mabn_fail(MABN_ERR_MISMATCH, "'%s': '%s' is %s, but '%s' needs %s",
                         mabn_weights_path(c->source), t->name, mabn_dtype_name(t->dtype),
                         want->name, mabn_dtype_name(want->dtype));
    e->item = (size_t)(item - c->items);
    return MABN_OK;
}

static mabn_status entries_of_net(struct mabn_convert *c)
{
    for (int i = 0; i < mabn_params_count(c->params); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(c->params, i);
        struct mabn_weight want = {.name = t->name, .dtype = t->dtype, .shape = t->shape};
        if (c->has_model && !c->model.classes && !strncmp(t->name, "fc.", 3)) continue;
        if (t->role == MABN_PARAMS_VALUE || t->role == MABN_PARAMS_STATE)
            MABN_TRY(add_wanted(c, &want, (size_t)i));
    }
    return MABN_OK;
}

/* --like: names, shapes and types of another checkpoint, and its values where the source has none.
 */
static mabn_status entries_like(struct mabn_convert *c)
{
    for (size_t i = 0; i < mabn_weights_count(c->like); i++) {
        const struct mabn_weight *t = mabn_weights_at(c->like, i);
        if (t->part == MABN_WEIGHT_MODEL) MABN_TRY(add_wanted(c, t, i));
    }
    return MABN_OK;
}

/* No network is known: everything that has a name. */
static void entries_of_items(struct mabn_convert *c)
{
    for (size_t i = 0; i < c->item_count; i++) {
        struct item *item = &c->items[i];
        const struct mabn_weight *t = mabn_convert_tensor(c, item);
        if (!item->ours || t->part != MABN_WEIGHT_MODEL) continue;
        item->used = true;
        mabn_convert_add_entry(c, item->ours, t)->item = i;
    }
}

/* The momentum of what is written, and our own state. */
static void add_training_state(struct mabn_convert *c)
{
    size_t models = c->entry_count;
    for (size_t i = 0; i < c->item_count; i++) {
        struct item *item = &c->items[i];
        const struct mabn_weight *t = mabn_convert_tensor(c, item);
        if (!item->ours || t->part == MABN_WEIGHT_MODEL) continue;
        bool wanted = t->part == MABN_WEIGHT_OTHER || c->options.as_is;
        for (size_t k = 0; k < models && !wanted; k++)
            wanted = !strcmp(c->entries[k].weight.name, item->ours) &&
                     mabn_shape_equal(&c->entries[k].weight.shape, &t->shape);
        if (!wanted) continue;
        item->used = true;
        mabn_convert_add_entry(c, item->ours, t)->item = i;
    }
}

/* ---- norms that become frozen ---- */

static bool is_norm_state(const char *leaf)
{
    return mabn_is_buffer_name(leaf) && strcmp(leaf, "running_mean") && strcmp(leaf, "running_var");
}

/* A norm with statistics: its weight and bias are folded, its statistics become 0 and 1. */
static void fold_entry(struct mabn_convert *c, struct entry *e)
{
    const char *name = e->weight.name, *leaf = leaf_of(name);
    if (e->origin == FOLDED_CONV || e->origin == FOLDED_CONV_BIAS) return;
    if (mabn_convert_centers(c, name) && mabn_convert_is_centered(&e->weight)) e->origin = CENTERED;
    struct item *var = mabn_convert_sibling(c, name, "running_var");
    struct item *mean = mabn_convert_sibling(c, name, "running_mean");
    if (leaf == name || !var) return;
    var->used = true;
    if (mean) mean->used = true;
    if (!strcmp(leaf, "weight")) {
        e->origin = FOLDED_WEIGHT;
    } else if (!strcmp(leaf, "bias")) {
        e->origin = FOLDED_BIAS;
    } else {
        e->origin = CONSTANT;
        e->constant = !strcmp(leaf, "running_var");
        e->weight.shape =
            (struct mabn_shape){.rank = 1, .dim = {(int64_t)mabn_convert_tensor(c, var)->count}};
    }
}

/* Without a network, every folded norm must get a running_mean. */
static void add_frozen_mean(struct mabn_convert *c, size_t i)
{
    const char *name = c->entries[i].weight.name;
    if (strcmp(leaf_of(name), "running_var")) return;
    char *mean = mabn_xasprintf("%.*smean", (int)(strlen(name) - 3), name);
    if (!mabn_convert_find(c, mean)) {
        struct mabn_weight t = c->entries[i].weight;
        struct entry *e = mabn_convert_add_entry(c, mean, &t);
        e->origin = CONSTANT;
        e->constant = 0;
    }
    free(mean);
}

static void fold_entries(struct mabn_convert *c)
{
    for (size_t i = 0; i < c->entry_count;) {
        if (!c->params && is_norm_state(leaf_of(c->entries[i].weight.name))) {
            mabn_convert_remove_entry(c, i);
            continue;
        }
        fold_entry(c, &c->entries[i++]);
    }
    for (size_t i = 0, n = c->entry_count; i < n && !c->params; i++)
        add_frozen_mean(c, i);
    for (size_t i = 0; i < c->item_count; i++)
        if (c->items[i].ours && is_norm_state(leaf_of(c->items[i].ours))) c->items[i].used = true;
}

/* ---- norms that go into convolutions ---- */

/* Every convolution whose norm folds gets a bias; the norm's tensors are dropped. */
static void fold_convolutions(struct mabn_convert *c)
{
    size_t n = c->entry_count;
    for (size_t i = 0; i < n; i++) {
        struct entry *e = &c->entries[i];
        const char *leaf = leaf_of(e->weight.name);
        if (strcmp(leaf, "weight") || e->weight.shape.rank != 4) continue;
        char *conv = mabn_xstrndup(e->weight.name, (size_t)(leaf - e->weight.name) - 1);
        char *norm = mabn_convert_norm_of(c, conv);
        if (norm && mabn_convert_folds(c, norm)) {
            char *bias = mabn_xasprintf("%s.bias", conv);
            struct mabn_weight t = {.dtype = MABN_DTYPE_F32,
                                    .shape = {.rank = 1, .dim = {e->weight.shape.dim[0]}}};
            e->origin = FOLDED_CONV;
            size_t item = e->item;
            struct entry *b = mabn_convert_add_entry(c, bias, &t);
            b->origin = FOLDED_CONV_BIAS;
            b->item = item;
            free(bias);
        }
        free(norm);
        free(conv);
    }
    for (size_t i = 0; i < c->entry_count;) {
        const char *name = c->entries[i].weight.name, *leaf = leaf_of(name);
        char *stem = mabn_xstrndup(name, leaf > name ? (size_t)(leaf - name) - 1 : 0);
        if (c->entries[i].weight.part == MABN_WEIGHT_MODEL && mabn_convert_folds(c, stem))
            mabn_convert_remove_entry(c, i);
        else
            i++;
        free(stem);
    }
}

/* ---- other differences of detectors and pickles ---- */

/* For detectors that are not recognized as a whole: detectron2 has the background last in
 * cls_score, and none in the class-specific outputs. */
static void adapt_classes(struct mabn_convert *c)
{
    if (c->names != MABN_NAMES_DETECTRON2 || c->has_detector) return;
    for (size_t i = 0; i < c->entry_count; i++) {
        struct entry *e = &c->entries[i];
        if (e->origin != FROM_ITEM || !e->weight.shape.rank) continue;
        if (strstr(e->weight.name, "box.predictor.cls_score.")) {
            e->origin = CLASSES_ROTATED;
        } else if (strstr(e->weight.name, "box.predictor.bbox_pred.") ||
                   strstr(e->weight.name, "mask.predictor.mask_fcn_logits.")) {
            e->origin = BACKGROUND_ADDED;
            e->weight.shape.dim[0] += strstr(e->weight.name, "bbox_pred") ? 4 : 1;
        }
    }
}

/* The reference's classifier and detector keep MABN's state differently: running_var as (C) and
 * (1,C,1,1), and different windows. A detector takes over only running_var; its windows and counter
 * start again, as they do where no match is found. */
static void adapt_mabn_state(struct mabn_convert *c)
{
    if (c->options.body != MABN_BODY_DETECTOR || c->like || c->options.fold_frozen) return;
    for (size_t i = 0; i < c->entry_count;) {
        struct entry *e = &c->entries[i];
        const char *leaf = leaf_of(e->weight.name);
        bool mabn = mabn_convert_sibling(c, e->weight.name, "running_var") &&
                    !mabn_convert_sibling(c, e->weight.name, "running_mean");
        if (mabn && is_norm_state(leaf)) {
            mabn_convert_remove_entry(c, i);
            continue;
        }
        if (mabn && !strcmp(leaf, "running_var") && e->weight.shape.rank == 1)
            e->weight.shape =
                (struct mabn_shape){.rank = 4, .dim = {1, e->weight.shape.dim[0], 1, 1}};
        i++;
    }
}

/* In Caffe2's networks the stem may have a bias, which ours does not have: y = (x + b − mean)·k +
 * β. */
static void adapt_stem_bias(struct mabn_convert *c)
{
    struct item *bias = mabn_convert_find(c, "conv1.bias");
    if (!c->net || !bias || bias->used) return;
    for (size_t i = 0; i < c->entry_count; i++)
        if (!strcmp(c->entries[i].weight.name, "bn1.running_mean") &&
            (c->entries[i].origin == FRESH || c->entries[i].origin == FROM_ITEM)) {
            c->entries[i].origin = SHIFTED_MEAN;
            bias->used = true;
        }
}

/* ---- order ---- */

/* PyTorch registers layers in the order of the network, except that a shortcut's layers come after
 * the norm that adds it. An optimizer numbers parameters in that order. */
static long register_order(const struct mabn_net *net, int i)
{
    const int count = mabn_net_node_count(net);
    for (int k = i + 1; k < count; k++) {
        const struct mabn_net_node norm = mabn_net_node_at(net, k);
        if (!strcmp(norm.kind, "norm") && norm.reads[1] >= i && norm.reads[0] < i)
            return (long)k * (count + 1) + i + 1;
    }
    return (long)i * (count + 1);
}

/* Tensors that belong to no layer of the network come last. */
static long place_of(const struct mabn_net *net, const char *name)
{
    static const char *const leaves[] = {
        "weight",     "bias",   "running_mean", "running_var", "num_batches_tracked",
        "sta_matrix", "pre_x2", "pre_gz",       "iters"};
    enum { LEAVES = sizeof leaves / sizeof *leaves };
    const char *leaf = leaf_of(name);
    const size_t stem = leaf > name ? (size_t)(leaf - name) - 1 : 0;
    int i = 0, k = 0;
    for (; i < mabn_net_node_count(net); i++) {
        const char *layer = mabn_net_node_at(net, i).name;
        if (strlen(layer) == stem && !strncmp(layer, name, stem)) break;
    }
    if (i == mabn_net_node_count(net) || !stem) return LONG_MAX;
    while (k < LEAVES && strcmp(leaf, leaves[k]))
        k++;
    return register_order(net, i) * (LEAVES + 1) + k;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->weight.part != y->weight.part) return x->weight.part < y->weight.part ? -1 : 1;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return strcmp(x->weight.name, y->weight.name);
}

static void sort_entries(struct mabn_convert *c)
{
    for (size_t i = 0; i < c->entry_count; i++)
        c->entries[i].place = place_of(c->net, c->entries[i].weight.name);
    qsort(c->entries, c->entry_count, sizeof *c->entries, compare_entries);
}

/* ---- opening ---- */

static mabn_status make_entries(struct mabn_convert *c)
{
    if (c->options.like)
        MABN_TRY(entries_like(c));
    else if (c->params)
        MABN_TRY(entries_of_net(c));
    else
        entries_of_items(c);
    if (c->options.as_is) {
        add_training_state(c);
        return MABN_OK;
    }
    if (c->options.fold_frozen) fold_entries(c);
    adapt_classes(c);
    adapt_mabn_state(c);
    adapt_stem_bias(c);
    for (size_t i = 0; i < c->entry_count && c->options.no_counters;)
        if (!strcmp(leaf_of(c->entries[i].weight.name), "num_batches_tracked"))
            mabn_convert_remove_entry(c, i);
        else
            i++;
    if (c->options.fold && c->net) fold_convolutions(c);
    add_training_state(c);
    if (c->options.to >= 0) MABN_TRY(mabn_convert_to_family(c));
    for (size_t i = 0; i < c->entry_count; i++) {
        struct mabn_weight *t = &c->entries[i].weight;
        if (!mabn_shape_count(&t->shape, &t->count) ||
            !mabn_size_mul(t->count, mabn_dtype_size(t->dtype), &t->bytes))
            return mabn_fail(MABN_ERR_LIMIT, "tensor '%s' is too large", t->name);
    }
    if (c->net) sort_entries(c);
    return MABN_OK;
}

/* In a body a norm that folds becomes a frozen one. Elsewhere it disappears, and its convolution
 * has a bias. */
static void freeze_detector(struct mabn_detector *d)
{
    struct mabn_norm_options *norms[8];
    const int count = mabn_detector_norms(d, norms);
    for (int p = 0; p < count; p++)
        if (mabn_norm_folds(norms[p]->kind))
            mabn_norm_options_init(norms[p],
                                   p < MABN_MODEL_PARTS ? MABN_NORM_FROZEN : MABN_NORM_NONE);
    d->body.centralize = MABN_CENTRALIZE_AUTO;
}

/* The source's norms, and what they become. */
static void freeze_model(struct mabn_convert *c)
{
    static const char stem[] = "backbone.body.stem.bn1.running_var";
    c->before = c->model;
    c->detector_before = c->detector;
    c->detector_mabn = mabn_convert_find(c, stem) && !mabn_convert_sibling(c, stem, "running_mean");
    if (c->has_detector && c->options.fold_frozen) freeze_detector(&c->detector);
    if (!c->has_model || !c->options.fold_frozen) return;
    for (int p = 0; p < MABN_MODEL_PARTS; p++) {
        if (!mabn_norm_folds(c->model.norm[p].kind)) continue;
        mabn_norm_options_init(&c->model.norm[p], MABN_NORM_FROZEN);
    }
    c->model.centralize = MABN_CENTRALIZE_AUTO;
}

/* Which tensors of the file are the model, and under which names. */
static mabn_status choose_weights(struct mabn_convert *c)
{
    struct mabn_weights *w = c->source;
    if (c->options.average) MABN_TRY(mabn_weights_use_average(w));
    size_t models = 0;
    for (size_t i = 0; i < mabn_weights_count(w); i++)
        models += mabn_weights_at(w, i)->part == MABN_WEIGHT_MODEL;
    const char *why = mabn_weights_remarks(w);
    if (!models && !(c->options.as_is && mabn_weights_count(w)))
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s' holds no weights: not one tensor of a network%s%.*s",
                         mabn_weights_path(w), *why ? "; " : "", (int)strcspn(why, "\n"), why);
    if (models && !c->options.as_is && !c->options.suffix) c->prefix = mabn_names_prefix(w);
    return c->prefix ? mabn_weights_cut_prefix(w, c->prefix) : MABN_OK;
}

mabn_status mabn_convert_open(struct mabn_convert **out, const char *path,
                              const struct mabn_convert_options *options)
{
    struct mabn_convert *c = mabn_xcalloc(1, sizeof *c);
    mabn_status status;
    *out = NULL;
    c->options = *options;
    mabn_str_init(&c->categories);
    MABN_TRY_GOTO(mabn_weights_open(&c->source, path), out);
    MABN_TRY_GOTO(choose_weights(c), out);
    c->names = options->names >= 0 ? (enum mabn_names)options->names : mabn_names_guess(c->source);
    const char *config = mabn_weights_note(c->source, "config");
    c->own = config && config[0] == '{' && config[1] != '}';
    MABN_TRY_GOTO(mabn_convert_name_items(c), out);
    MABN_TRY_GOTO(decide_model(c), out);
    if (c->options.to >= 0 && !c->has_detector) {
        status = mabn_fail(MABN_ERR_UNSUPPORTED,
                           "'%s' is not a detector: --to PROGRAM is for detectors", path);
        goto out;
    }
    freeze_model(c);
    if ((c->has_model || c->has_detector) && !c->like) MABN_TRY_GOTO(build_net(c), out);
    MABN_TRY_GOTO(make_entries(c), out);
out:
    if (status)
        mabn_convert_free(c);
    else
        *out = c;
    return status;
}

void mabn_convert_free(struct mabn_convert *c)
{
    if (!c) return;
    for (size_t i = 0; i < c->item_count; i++)
        free(c->items[i].ours);
    for (size_t i = 0; i < c->entry_count; i++) {
        free((char *)c->entries[i].weight.name);
        free((char *)c->entries[i].ours);
    }
    for (size_t i = 0; i < c->missing_count; i++)
        free(c->missing[i]);
    free(c->prefix);
    free(c->items);
    free(c->by_name);
    free(c->entries);
    free(c->missing);
    mabn_net_free(c->net);
    if (c->owns_params) mabn_params_free(c->params);
    mabn_str_release(&c->categories);
    mabn_device_free(c->device);
    mabn_weights_free(c->like);
    mabn_weights_free(c->source);
    free(c);
}

/* ---- telling ---- */

bool mabn_convert_is_unknown(const struct mabn_convert *c)
{
    if (c->has_model || c->has_detector || c->options.as_is || c->options.like || c->options.body)
        return false;
    return !mabn_convert_names_detector(c);
}

static void list_row(struct mabn_str *tsv, const char *theirs, const struct mabn_weight *t,
                     const char *ours)
{
    char shape[160];
    mabn_str_printf(tsv, "%s\t%s\t%s\t%s\n", theirs, mabn_shape_text(&t->shape, shape),
                    mabn_dtype_name(t->dtype), ours);
}

void mabn_convert_list(const struct mabn_convert *c, struct mabn_str *tsv)
{
    for (size_t i = 0; i < c->item_count; i++) {
        const struct item *item = &c->items[i];
        const struct mabn_weight *t = mabn_convert_tensor(c, item);
        char *theirs = mabn_weights_join_name(t->name, t->part);
        char *ours = item->used ? mabn_weights_join_name(item->ours, t->part) : mabn_xstrdup("-");
        list_row(tsv, theirs, t, ours);
        free(theirs);
        free(ours);
    }
    for (size_t i = 0; i < c->missing_count; i++)
        for (size_t k = 0; k < c->entry_count; k++)
            if (!strcmp(c->entries[k].weight.name, c->missing[i]))
                list_row(tsv, "-", &c->entries[k].weight, c->missing[i]);
}

static bool is_unmatched(const struct mabn_convert *c, const struct item *item)
{
    return !item->used && !item->ignored && mabn_convert_tensor(c, item)->part == MABN_WEIGHT_MODEL;
}

const char *mabn_convert_other_family(const struct mabn_convert *c)
{
    static const struct {
        const char *part, *family;
    } families[] = {
        {"neck.lateral_convs.", "a detector of mmdetection"},
        {"neck.fpn_convs.", "a detector of mmdetection"},
        {"bbox_head.", "a detector of mmdetection"},
        {"transformer.encoder.", "a detector like DETR"},
        {"dfl.conv.weight", "a YOLO of ultralytics"},
        {"class_token", "a vision transformer"},
        {"cls_token", "a vision transformer"},
        {"features.0.", "a network like VGG, MobileNet, EfficientNet or DenseNet"},
    };
    for (size_t i = 0; i < c->item_count; i++)
        for (size_t k = 0; k < sizeof families / sizeof *families; k++)
            if (is_unmatched(c, &c->items[i]) &&
                strstr(mabn_convert_tensor(c, &c->items[i])->name, families[k].part))
                return families[k].family;
    return NULL;
}

static void add_rest(struct mabn_str *lines, const char *kind, size_t count, size_t limit)
{
    if (limit && count > limit) mabn_str_printf(lines, "%s: %zu more\n", kind, count - limit);
}

size_t mabn_convert_complain(const struct mabn_convert *c, size_t limit, struct mabn_str *lines)
{
    size_t unmatched = 0;
    for (size_t i = 0; i < c->item_count; i++) {
        const struct mabn_weight *t = mabn_convert_tensor(c, &c->items[i]);
        char shape[160];
        if (!is_unmatched(c, &c->items[i]) || (unmatched++ >= limit && limit)) continue;
        mabn_str_printf(lines, "unmatched: '%s' %s\n", t->name, mabn_shape_text(&t->shape, shape));
    }
    add_rest(lines, "unmatched", unmatched, limit);
    for (size_t i = 0; i < c->missing_count && (!limit || i < limit); i++)
        mabn_str_printf(lines, "missing: '%s'\n", c->missing[i]);
    add_rest(lines, "missing", c->missing_count, limit);
    return unmatched + c->missing_count;
}

static void describe_detector(const struct mabn_convert *c, struct mabn_str *text)
{
    const struct mabn_detector *d = &c->detector;
    mabn_str_printf(text, "; %s, norm ", d->arch);
    mabn_detector_norm_text(d, text);
    mabn_str_printf(text,
                    ", %d classes, boxes as in %s, stride in the %s, pixels %s from 0 to %g, mean "
                    "%g %g %g, deviation %g %g %g",
                    d->classes, d->convention, d->body.stride_in_1x1 ? "first 1×1" : "3×3",
                    d->bgr ? "BGR" : "RGB", d->range, d->pixel_mean[0], d->pixel_mean[1],
                    d->pixel_mean[2], d->pixel_deviation[0], d->pixel_deviation[1],
                    d->pixel_deviation[2]);
}

void mabn_convert_describe(const struct mabn_convert *c, struct mabn_str *text)
{
    mabn_str_printf(text, "%s, names of %s",
                    mabn_weights_format_name(mabn_weights_format_of(c->source)),
                    mabn_names_title(c->names));
    const char *stripped = mabn_weights_stripped(c->source);
    if (*stripped) mabn_str_printf(text, ", without %s", stripped);
    if (c->prefix) mabn_str_printf(text, ", without '%s'", c->prefix);
    mabn_str_printf(text, ", %zu tensors", c->entry_count);
    if (c->has_detector) describe_detector(c, text);
    if (!c->has_model) return;
    mabn_str_printf(text, "; %s, norm ", c->model.arch);
    mabn_model_norm_text(&c->model, text);
    if (c->model.classes)
        mabn_str_printf(text, ", %d classes", c->model.classes);
    else
        mabn_str_add(text, ", no classifier");
}

uint64_t mabn_convert_bytes(const struct mabn_convert *c)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < c->entry_count; i++)
        bytes += c->entries[i].weight.bytes;
    return bytes;
}

/* The share of a convolution's energy in its filters' means, times the filter's length: about 1 for
 * random weights, less for weights trained centralized, more for others. */
static double mean_energy(const float *w, size_t filters, size_t n)
{
    double means = 0, all = 0;
    for (size_t f = 0; f < filters; f++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            sum += w[f * n + i];
            all += (double)w[f * n + i] * w[f * n + i];
        }
        means += sum * sum / (double)n;
    }
    return all > 0 ? means / all * (double)n : 0;
}

/* Tensors that belong to neither model nor optimizer. */
static void tell_left_out(const struct mabn_convert *c, struct mabn_str *lines)
{
    const char *average = mabn_weights_average(c->source), *first = NULL;
    size_t count = 0, n = average ? strlen(average) : 0;
    for (size_t i = 0; i < c->item_count; i++) {
        const struct mabn_weight *t = mabn_convert_tensor(c, &c->items[i]);
        bool of_average = n && !strncmp(t->name, average, n) && t->name[n] == '.';
        if (t->part != MABN_WEIGHT_OTHER || c->items[i].used || of_average ||
            !strncmp(t->name, "optimizer.state.", 16))
            continue;
        if (!count++) first = t->name;
    }
    if (average)
        mabn_str_printf(lines,
                        "the file holds a moving average of the weights too, '%s', which is left "
                        "out (--average takes it instead)\n",
                        average);
    if (count && !c->options.weights_only)
        mabn_str_printf(lines, "%zu tensor%s beside the weights left out; the first is '%s'\n",
                        count, count == 1 ? "" : "s", first);
}

mabn_status mabn_convert_remarks(struct mabn_convert *c, struct mabn_str *lines)
{
    mabn_str_add(lines, mabn_weights_remarks(c->source));
    if (!c->options.as_is) tell_left_out(c, lines);
    mabn_convert_tell_norms(c, lines);
    MABN_TRY(mabn_convert_tell_detector(c, lines));
    if (c->options.to >= 0) mabn_convert_tell_family(c, lines);
    bool wants = (c->has_model && mabn_model_centralizes(&c->model, MABN_PART_LAYER1)) ||
                 (c->has_detector && mabn_model_centralizes(&c->detector.body, MABN_PART_LAYER1));
    bool like_mabn = false;
    for (size_t i = 0; c->like && i < mabn_weights_count(c->like); i++)
        like_mabn |= !strcmp(leaf_of(mabn_weights_at(c->like, i)->name), "buffer_x2") ||
                     !strcmp(leaf_of(mabn_weights_at(c->like, i)->name), "pre_x2");
    size_t convs = 0, off = 0;
    if (!wants && !like_mabn) return MABN_OK;
    for (size_t i = 0; i < c->entry_count; i++) {
        const struct entry *e = &c->entries[i];
        if (e->origin != FROM_ITEM || e->weight.part != MABN_WEIGHT_MODEL ||
            !mabn_convert_is_centered(&e->weight) || !e->weight.shape.dim[0])
            continue;
        size_t filters = (size_t)e->weight.shape.dim[0];
        void *values = NULL;
        MABN_TRY(mabn_alloc(&values, e->weight.count * sizeof(float)));
        mabn_status status = mabn_weights_read_f32(c->source, c->items[e->item].source, values);
        convs++;
        if (!status) off += mean_energy(values, filters, e->weight.count / filters) > 4;
        mabn_free(values);
        MABN_TRY(status);
    }
    if (2 * off > convs)
        mabn_str_printf(lines,
                        "%zu of %zu convolutions have filters whose mean is not near zero: these "
                        "weights were not trained with weight centralization, and fine-tuning MABN "
                        "from them is known to fail\n",
                        off, convs);
    return MABN_OK;
}
