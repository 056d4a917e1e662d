/* The norms of a conversion's source: where they are, what they do, and whether the convolutions
 * before them are centralized. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/convert_impl.h"
#include "model/resnet.h"

bool mabn_convert_centers(const struct mabn_convert *c, const char *name)
{
    if (c->has_detector) {
        const struct mabn_norm_options *norm = mabn_detector_norm_of(&c->detector_before, name);
        return norm && mabn_detector_centralizes(&c->detector_before, norm);
    }
    if (!c->has_model) return c->detector_mabn;
    return mabn_model_centralizes(&c->before, mabn_resnet_part_of(name));
}

double mabn_convert_eps(const struct mabn_convert *c, const char *name)
{
    if (c->has_detector) {
        const struct mabn_norm_options *norm = mabn_detector_norm_of(&c->detector_before, name);
        return norm ? norm->eps : 1e-5;
    }
    return c->has_model ? c->before.norm[mabn_resnet_part_of(name)].eps : 1e-5;
}

bool mabn_convert_freezes(const struct mabn_convert *c, const char *name)
{
    const struct mabn_norm_options *norm = mabn_detector_norm_of(&c->detector, name);
    return c->has_detector && norm && norm->kind == MABN_NORM_FROZEN;
}

bool mabn_convert_loses_norm(const struct mabn_convert *c, const char *name)
{
    const struct mabn_norm_options *before = mabn_detector_norm_of(&c->detector_before, name),
                                   *after = mabn_detector_norm_of(&c->detector, name);
    return c->has_detector && before && before->kind != MABN_NORM_NONE &&
           after->kind == MABN_NORM_NONE;
}

bool mabn_convert_folds(const struct mabn_convert *c, const char *norm)
{
    const int i = mabn_net_find_node(c->net, norm, "norm");
    return i >= 0 && mabn_norm_folds(mabn_net_node_at(c->net, i).norm->kind);
}

bool mabn_convert_is_centered(const struct mabn_weight *t)
{
    return t->shape.rank == 4 && !strcmp(leaf_of(t->name), "weight") &&
           strncmp(t->name, "rpn.", 4) && !strstr(t->name, ".predictor.");
}

static char *norm_in_net(const struct mabn_net *net, const char *conv)
{
    const int i = mabn_net_find_node(net, conv, "convolution");
    const int norm = i < 0 ? -1 : mabn_net_norm_behind(net, i);
    return norm < 0 ? NULL : mabn_xstrdup(mabn_net_node_at(net, norm).name);
}

/* The layer whose name without its norm is `conv`. */
static bool find_layer(const struct mabn_convert *c, const char *conv,
                       struct mabn_detector_layer *layer)
{
    for (int i = 0; mabn_detector_layer_at(&c->detector_before, i, layer); i++)
        if (!strcmp(layer->alone, conv)) return true;
    return false;
}

char *mabn_convert_norm_of(const struct mabn_convert *c, const char *conv)
{
    struct mabn_detector_layer layer;
    if (c->net) return norm_in_net(c->net, conv);
    return find_layer(c, conv, &layer) ? mabn_xstrdup(layer.after) : NULL;
}

char *mabn_convert_unfolded(const struct mabn_convert *c, const char *conv)
{
    struct mabn_detector_layer layer;
    return find_layer(c, conv, &layer) ? mabn_xstrdup(layer.with) : NULL;
}

/* ---- norms of an uncertain kind ---- */

/* The kind of the norm that has this tensor, as it was decided. */
static enum mabn_norm_kind kind_of(const struct mabn_convert *c, const char *name)
{
    const struct mabn_norm_options *norm = NULL;
    if (c->has_detector)
        norm = mabn_detector_norm_of(&c->detector_before, name);
    else if (c->has_model)
        norm = &c->before.norm[mabn_resnet_part_of(name)];
    return norm ? norm->kind : MABN_NORM_NONE;
}

/* Is it the weight of a norm whose kind is told neither by its state nor, as in Detectron, by its name? */
static bool is_bare(const struct mabn_convert *c, const struct item *item)
{
    static const char *const state[] = {"running_mean", "running_var", "pre_x2", "buffer_x2"};
    const struct mabn_weight *t = mabn_convert_tensor(c, item);
    if (!item->ours || t->part != MABN_WEIGHT_MODEL || t->shape.rank != 1 ||
        strcmp(leaf_of(item->ours), "weight") || strstr(t->name, "_gn_") ||
        strstr(t->name, "_bn_") || !mabn_convert_sibling(c, item->ours, "bias"))
        return false;
    for (size_t i = 0; i < sizeof state / sizeof *state; i++)
        if (mabn_convert_sibling(c, item->ours, state[i])) return false;
    return true;
}

void mabn_convert_tell_norms(const struct mabn_convert *c, struct mabn_str *lines)
{
    const char *first = NULL;
    enum mabn_norm_kind kind = MABN_NORM_NONE;
    size_t count = 0;
    if (c->own || c->options.norm || c->options.as_is || c->folded) return;
    for (size_t i = 0; i < c->item_count; i++) {
        if (!is_bare(c, &c->items[i])) continue;
        const enum mabn_norm_kind one = kind_of(c, c->items[i].ours);
        if (one != MABN_NORM_GN && one != MABN_NORM_FROZEN) continue;
        if (count++) continue;
        first = mabn_convert_tensor(c, &c->items[i])->name;
        kind = one;
    }
    if (!count) return;
    mabn_str_printf(lines,
                    "%zu norm%s a weight and a bias but no statistics (the first: '%s'), which is "
                    "taken for %s; for another kind use --norm: for batch norms whose statistics "
                    "are lost, --norm bn --partial, then mabn-eval --recalibrate\n",
                    count, count == 1 ? " has" : "s have", first,
                    kind == MABN_NORM_GN ? "group norm" : "frozen norms");
}
