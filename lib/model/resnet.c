/* Residual networks as lists of nodes. Basic block: 3×3, 3×3. Bottleneck: 1×1, 3×3, 1×1 with four
 * times the channels; the stride is in the 3×3 (torchvision, and the classification half of the
 * reference) or in the first 1×1 (its detection half). */
#include "model/resnet.h"

#include <stdio.h>
#include <string.h>

static const struct mabn_resnet_shape shapes[] = {
    {"resnet10", false, false, 4, {1, 1, 1, 1}},   {"resnet18", false, false, 4, {2, 2, 2, 2}},
    {"resnet34", false, false, 4, {3, 4, 6, 3}},   {"resnet50", true, false, 4, {3, 4, 6, 3}},
    {"resnet101", true, false, 4, {3, 4, 23, 3}},  {"resnet152", true, false, 4, {3, 8, 36, 3}},
    {"cifar-resnet8", false, true, 3, {1, 1, 1}},  {"cifar-resnet14", false, true, 3, {2, 2, 2}},
    {"cifar-resnet20", false, true, 3, {3, 3, 3}}, {"cifar-resnet32", false, true, 3, {5, 5, 5}},
    {"cifar-resnet44", false, true, 3, {7, 7, 7}}, {"cifar-resnet56", false, true, 3, {9, 9, 9}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

const struct mabn_resnet_shape *mabn_resnet_find(const char *arch)
{
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].arch, arch)) return &shapes[i];
    return NULL;
}

const char *const *mabn_model_archs(void)
{
    static const char *names[SHAPES + 1];
    for (int i = 0; i < SHAPES; i++)
        names[i] = shapes[i].arch;
    return names;
}

enum mabn_model_part mabn_resnet_part_of(const char *name)
{
    int stage = 0;
    return sscanf(name, "layer%1d.", &stage) == 1 && stage >= 1 && stage <= 4
               ? (enum mabn_model_part)(MABN_PART_LAYER1 + stage - 1)
               : MABN_PART_STEM;
}

/* Where we are in the model. */
struct builder {
    struct mabn_net *net;
    const struct mabn_model *model;
    enum mabn_model_part part;
    bool bias;      /* of the convolutions */
    char block[64]; /* "layer1.0." */
};

static int conv(const struct builder *b, int x, const char *name, int out, int kernel, int stride)
{
    char full[96];
    snprintf(full, sizeof full, "%s%s", b->block, name);
    struct mabn_net_conv c = {.out_channels = out,
                              .kernel = kernel,
                              .stride = stride,
                              .pad = kernel / 2,
                              .bias = b->bias,
                              .centralize = mabn_model_centralizes(b->model, b->part)};
    return mabn_net_add_conv(b->net, x, full, &c);
}

static int norm(const struct builder *b, int x, const char *name, int residual, bool relu)
{
    char full[96];
    snprintf(full, sizeof full, "%s%s", b->block, name);
    return mabn_net_add_norm(b->net, x, full, &b->model->norm[b->part], residual, relu);
}

/* The shortcut of a block: x itself, or a 1×1 convolution with norm where the shape changes. */
static int shortcut(const struct builder *b, int x, int out, int stride, bool changes)
{
    if (!changes) return x;
    return norm(b, conv(b, x, "downsample.0", out, 1, stride), "downsample.1", -1, false);
}

static int basic_block(const struct builder *b, int x, int width, int stride, bool changes)
{
    int y = norm(b, conv(b, x, "conv1", width, 3, stride), "bn1", -1, true);
    y = conv(b, y, "conv2", width, 3, 1);
    return norm(b, y, "bn2", shortcut(b, x, width, stride, changes), true);
}

static int bottleneck(const struct builder *b, int x, int width, int stride, bool changes)
{
    const bool early = b->model->stride_in_1x1;
    const int out = b->model->expansion * width;
    int y = norm(b, conv(b, x, "conv1", width, 1, early ? stride : 1), "bn1", -1, true);
    y = norm(b, conv(b, y, "conv2", width, 3, early ? 1 : stride), "bn2", -1, true);
    y = conv(b, y, "conv3", out, 1, 1);
    return norm(b, y, "bn3", shortcut(b, x, out, stride, changes), true);
}

static int stem(struct builder *b, int x, const struct mabn_resnet_place *place)
{
    bool large = b->model->stem == MABN_STEM_LARGE;
    b->part = MABN_PART_STEM;
    snprintf(b->block, sizeof b->block, "%s", place->stem);
    b->bias = place->stem_bias;
    int y = conv(b, x, "conv1", b->model->base_width, large ? 7 : 3, large ? 2 : 1);
    b->bias = false;
    y = norm(b, y, "bn1", -1, true);
    return large ? mabn_net_add_max_pool(b->net, y, 3, 2, 1) : y;
}

void mabn_resnet_add_body(struct mabn_net *net, const struct mabn_model *model,
                          const struct mabn_resnet_place *place, int stages[4])
{
    const struct mabn_resnet_shape *shape = mabn_resnet_find(model->arch);
    struct builder b = {.net = net, .model = model};
    int x = stem(&b, mabn_net_add_input(net), place);
    int channels = model->base_width;
    for (int s = 0; s < shape->stages; s++) {
        int width = model->base_width << s,
            out = shape->bottleneck ? model->expansion * width : width;
        b.part = (enum mabn_model_part)(MABN_PART_LAYER1 + s);
        for (int i = 0; i < shape->blocks[s]; i++) {
            int stride = s && !i ? 2 : 1;
            bool changes = !i && (stride != 1 || channels != out);
            snprintf(b.block, sizeof b.block, "%slayer%d.%d.", place->stages, s + 1, i);
            x = shape->bottleneck ? bottleneck(&b, x, width, stride, changes)
                                  : basic_block(&b, x, width, stride, changes);
        }
        channels = out;
        stages[s] = x;
    }
}

int mabn_resnet_add_classifier(struct mabn_net *net, const struct mabn_model *model)
{
    const struct mabn_resnet_place place = {"", "", false};
    const struct mabn_net_linear fc = {.out = model->classes};
    int stages[4];
    mabn_resnet_add_body(net, model, &place, stages);
    const int features = stages[mabn_resnet_find(model->arch)->stages - 1];
    return mabn_net_add_linear(net, mabn_net_add_global_pool(net, features), "fc", &fc);
}
