/* The norms of a conversion's source: where they are, what they do, and whether the convolutions
 * before them are centralized. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/convert_impl.h"

static int part_of(const char *name)
{
    bool layer = !strncmp(name, "layer", 5) && name[5] >= '1' && name[5] <= '4';
    return layer ? MABN_PART_LAYER1 + name[5] - '1' : MABN_PART_STEM;
}

/* The norm of a detector's layer of this name; NULL: it has none, ever. */
static const struct mabn_norm_options *norm_in(const struct mabn_detector *d, const char *name)
{
    static const char body[] = "backbone.body.";
    if (!strncmp(name, body, strlen(body))) return &d->body.norm[part_of(name + strlen(body))];
    if (!strncmp(name, "backbone.fpn.", 13)) return &d->fpn;
    if (!strncmp(name, "roi_heads.box.feature", 21)) return &d->box;
    return strncmp(name, "roi_heads.mask.feature", 22) ? NULL : &d->mask;
}

bool mabn_convert_centers(const struct mabn_convert *c, const char *name)
{
    if (c->has_detector) {
        const struct mabn_norm_options *norm = norm_in(&c->detector_before, name);
        return norm && mabn_detector_centralizes(&c->detector_before, norm);
    }
    if (!c->has_model) return c->detector_mabn;
    return mabn_model_centralizes(&c->before, (enum mabn_model_part)part_of(name));
}

double mabn_convert_eps(const struct mabn_convert *c, const char *name)
{
    if (c->has_detector) {
        const struct mabn_norm_options *norm = norm_in(&c->detector_before, name);
        return norm ? norm->eps : 1e-5;
    }
    return c->has_model ? c->before.norm[part_of(name)].eps : 1e-5;
}

bool mabn_convert_freezes(const struct mabn_convert *c, const char *name)
{
    const struct mabn_norm_options *norm = norm_in(&c->detector, name);
    return c->has_detector && norm && norm->kind == MABN_NORM_FROZEN;
}

bool mabn_convert_loses_norm(const struct mabn_convert *c, const char *name)
{
    const struct mabn_norm_options *before = norm_in(&c->detector_before, name),
                                   *after = norm_in(&c->detector, name);
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

/* A detector's layer outside its body, its norm, and what the layer is called while it has one: the
 * layers are numbered only where norms are between them. */
static const struct {
    const char *conv, *norm, *with_norm;
} pairs[] = {
    {"backbone.fpn.fpn_inner{k}", "backbone.fpn.fpn_inner{k}.1", "backbone.fpn.fpn_inner{k}.0"},
    {"backbone.fpn.fpn_layer{k}", "backbone.fpn.fpn_layer{k}.1", "backbone.fpn.fpn_layer{k}.0"},
    {"roi_heads.box.feature_extractor.xconvs.{k*2}",
     "roi_heads.box.feature_extractor.xconvs.{k*3+1}",
     "roi_heads.box.feature_extractor.xconvs.{k*3}"},
    {"roi_heads.box.feature_extractor.fc{k}", "roi_heads.box.feature_extractor.fc{k}.1",
     "roi_heads.box.feature_extractor.fc{k}.0"},
    {"roi_heads.mask.feature_extractor.mask_fcn{k}",
     "roi_heads.mask.feature_extractor.mask_fcn{k}.1",
     "roi_heads.mask.feature_extractor.mask_fcn{k}.0"},
};
enum { PAIRS = sizeof pairs / sizeof *pairs };

static char *norm_in_net(const struct mabn_net *net, const char *conv)
{
    const int i = mabn_net_find_node(net, conv, "convolution");
    const int norm = i < 0 ? -1 : mabn_net_norm_behind(net, i);
    return norm < 0 ? NULL : mabn_xstrdup(mabn_net_node_at(net, norm).name);
}

char *mabn_convert_norm_of(const struct mabn_convert *c, const char *conv)
{
    char *norm = NULL;
    if (c->net) return norm_in_net(c->net, conv);
    for (size_t i = 0; i < PAIRS && !norm; i++)
        norm = mabn_names_translate(pairs[i].conv, pairs[i].norm, conv);
    return norm;
}

char *mabn_convert_unfolded(const char *conv)
{
    char *name = NULL;
    for (size_t i = 0; i < PAIRS && !name; i++)
        name = mabn_names_translate(pairs[i].conv, pairs[i].with_norm, conv);
    return name;
}
