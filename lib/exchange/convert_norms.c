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
