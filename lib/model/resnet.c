/* Residual networks as lists of nodes. Basic block: 3×3, 3×3. Bottleneck: 1×1, 3×3, 1×1 with four
 * times the channels; the stride is in the 3×3 (torchvision, and the classification half of the
 * reference) or in the first 1×1 (its detection half). */
#include "model/resnet.h"

#include <stdio.h>

#include "net/losses.h"

enum mabn_model_part mabn_resnet_part_of(const char *name)
{
    int stage = 0;
    return sscanf(name, "layer%1d.", &stage) == 1 && stage >= 1 && stage <= 4
               ? (enum mabn_model_part)(MABN_PART_LAYER1 + stage - 1)
               : MABN_PART_STEM;
}

/* The current place in the model. */
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

/* The body, global pooling and the classifier: the output node. */
static int add_classifier(struct mabn_net *net, const struct mabn_model *model)
{
    const struct mabn_resnet_place place = {"", "", false};
    const struct mabn_net_linear fc = {.out = model->classes};
    int stages[4];
    mabn_resnet_add_body(net, model, &place, stages);
    const int features = stages[mabn_resnet_find(model->arch)->stages - 1];
    return mabn_net_add_linear(net, mabn_net_add_global_pool(net, features), "fc", &fc);
}

mabn_status mabn_model_build(struct mabn_net **out, struct mabn_device *device,
                             const struct mabn_model *model, const struct mabn_net_options *options)
{
    struct mabn_net_options o = *options;
    struct mabn_net *net;
    *out = NULL;
    if (!model->classes)
        return mabn_fail(MABN_ERR_ARG, "a %s without a classifier (mabn-train adds one)",
                         model->arch);
    if (!mabn_resnet_find(model->arch) || model->classes < 1 || model->base_width < 1 ||
        model->base_width > 1 << 12 || model->classes > 1 << 24)
        return mabn_fail(MABN_ERR_ARG, "a model '%s' of width %d with %d classes cannot be built",
                         model->arch, model->base_width, model->classes);
    if (!o.height) o.height = model->height;
    if (!o.width) o.width = model->width;
    o.channels = model->channels;
    MABN_TRY(mabn_net_new(&net, device, &o));
    const int logits = add_classifier(net, model);
    mabn_net_add_output(net, logits, "logits");
    mabn_net_add_softmax_loss(net, logits, "loss");
    mabn_status status = mabn_net_plan(net);
    if (status) {
        mabn_net_free(net);
        return status;
    }
    *out = net;
    return MABN_OK;
}
