/* The network as ONNX nodes: the same walk as model/resnet.c, told to another listener.
 *
 * Values are named after what makes them ("layer1.0.conv1" is the convolution's output), so the
 * graph can be read beside our checkpoints. */
#include <stdio.h>
#include <string.h>

#include "model/resnet.h"
#include "exchange/onnx.h"

enum {
    GRAPH_NODE = 1,
    GRAPH_INPUT = 11,
    GRAPH_OUTPUT = 12,
    NODE_INPUT = 1,
    NODE_OUTPUT = 2,
    NODE_NAME = 3,
    NODE_OP = 4,
    NODE_ATTRIBUTE = 5,
    ATTRIBUTE_NAME = 1,
    ATTRIBUTE_F = 2,
    ATTRIBUTE_I = 3,
    ATTRIBUTE_FLOATS = 7,
    ATTRIBUTE_INTS = 8,
    ATTRIBUTE_TYPE = 20,
    TYPE_FLOAT = 1,
    TYPE_INT = 2,
    TYPE_FLOATS = 6,
    TYPE_INTS = 7,
    ELEMENT_FLOAT = 1,
    NAME = 96, /* longest name of a value here, with room */
};

struct walk {
    struct mabn_str *graph;
    const struct mabn_model *model;
    bool folded;
    enum mabn_model_part part;
    struct mabn_str node;
    char block[32];
};

/* ---- nodes ---- */

static void begin(struct walk *k, const char *op, const char *output)
{
    mabn_str_clear(&k->node);
    mabn_proto_text(&k->node, NODE_OUTPUT, output);
    mabn_proto_text(&k->node, NODE_NAME, output);
    mabn_proto_text(&k->node, NODE_OP, op);
}

static void input(struct walk *k, const char *name)
{
    mabn_proto_text(&k->node, NODE_INPUT, name);
}

/* STEM.LEAF as an input: an initialiser. */
static void leaf(struct walk *k, const char *stem, const char *name)
{
    char full[NAME];
    snprintf(full, sizeof full, "%.63s.%.31s", stem, name);
    input(k, full);
}

static void end(struct walk *k)
{
    mabn_proto_bytes(k->graph, GRAPH_NODE, k->node.text, k->node.length);
}

static void add_attribute(struct walk *k, struct mabn_str *a, int type)
{
    mabn_proto_int(a, ATTRIBUTE_TYPE, type);
    mabn_proto_bytes(&k->node, NODE_ATTRIBUTE, a->text, a->length);
    mabn_str_release(a);
}

static void ints(struct walk *k, const char *name, int count, const int64_t *values)
{
    struct mabn_str a;
    mabn_str_init(&a);
    mabn_proto_text(&a, ATTRIBUTE_NAME, name);
    for (int i = 0; i < count; i++)
        mabn_proto_int(&a, ATTRIBUTE_INTS, values[i]);
    add_attribute(k, &a, TYPE_INTS);
}

static void equal_floats(struct walk *k, const char *name, int count, float value)
{
    struct mabn_str a;
    mabn_str_init(&a);
    mabn_proto_text(&a, ATTRIBUTE_NAME, name);
    for (int i = 0; i < count; i++)
        mabn_proto_float(&a, ATTRIBUTE_FLOATS, value);
    add_attribute(k, &a, TYPE_FLOATS);
}

static void integer(struct walk *k, const char *name, int64_t value)
{
    struct mabn_str a;
    mabn_str_init(&a);
    mabn_proto_text(&a, ATTRIBUTE_NAME, name);
    mabn_proto_int(&a, ATTRIBUTE_I, value);
    add_attribute(k, &a, TYPE_INT);
}

static void real(struct walk *k, const char *name, double value)
{
    struct mabn_str a;
    mabn_str_init(&a);
    mabn_proto_text(&a, ATTRIBUTE_NAME, name);
    mabn_proto_float(&a, ATTRIBUTE_F, (float)value);
    add_attribute(k, &a, TYPE_FLOAT);
}

static void unary(struct walk *k, const char *op, const char *x, const char *y)
{
    begin(k, op, y);
    input(k, x);
    end(k);
}

static void binary(struct walk *k, const char *op, const char *a, const char *b, const char *y)
{
    begin(k, op, y);
    input(k, a);
    input(k, b);
    end(k);
}

/* ---- layers; each writes the name of its output to y ---- */

static void path(const struct walk *k, char y[NAME], const char *name)
{
    snprintf(y, NAME, "%.31s%.31s", k->block, name);
}

/* STEM plus a suffix, for values inside a layer. */
static void inner(char y[NAME], const char *stem, const char *suffix)
{
    snprintf(y, NAME, "%.63s/%.16s", stem, suffix);
}

static bool folds_here(const struct walk *k)
{
    return k->folded && mabn_norm_folds(k->model->norm[k->part].kind);
}

static void conv(struct walk *k, const char *x, const char *name, int kernel, int stride,
                 char y[NAME])
{
    char weight[NAME], mean[NAME];
    path(k, y, name);
    snprintf(weight, sizeof weight, "%.80s.weight", y);
    if (!folds_here(k) && mabn_model_centralizes(k->model, k->part)) {
        inner(mean, y, "mean");
        begin(k, "ReduceMean", mean);
        input(k, weight);
        ints(k, "axes", 3, (const int64_t[]){1, 2, 3});
        integer(k, "keepdims", 1);
        end(k);
        char centered[NAME];
        inner(centered, y, "centered");
        binary(k, "Sub", weight, mean, centered);
        memcpy(weight, centered, sizeof weight);
    }
    int64_t pad = kernel / 2;
    begin(k, "Conv", y);
    input(k, x);
    input(k, weight);
    if (folds_here(k)) leaf(k, y, "bias");
    ints(k, "kernel_shape", 2, (const int64_t[]){kernel, kernel});
    ints(k, "strides", 2, (const int64_t[]){stride, stride});
    ints(k, "pads", 4, (const int64_t[]){pad, pad, pad, pad});
    end(k);
}

/* Norms with statistics. MABN's mean is zero: its own variance minus itself. */
static void batch_norm(struct walk *k, const char *x, const char *name,
                       const struct mabn_norm_options *o, const char *y)
{
    char shape[NAME], var[NAME], mean[NAME];
    bool mabn = o->kind == MABN_NORM_MABN;
    snprintf(var, sizeof var, "%.70s.running_var", name);
    snprintf(mean, sizeof mean, "%.70s.running_mean", name);
    if (mabn) {
        char flat[NAME];
        inner(shape, name, "shape");
        inner(flat, name, "var");
        inner(mean, name, "zero");
        begin(k, "Constant", shape);
        ints(k, "value_ints", 1, (const int64_t[]){-1});
        end(k);
        binary(k, "Reshape", var, shape, flat); /* (1,C,1,1) in one of the two rules */
        binary(k, "Sub", flat, flat, mean);
        memcpy(var, flat, sizeof var);
    }
    begin(k, "BatchNormalization", y);
    input(k, x);
    leaf(k, name, "weight");
    leaf(k, name, "bias");
    input(k, mean);
    input(k, var);
    real(k, "epsilon", o->eps);
    end(k);
}

static void constant_ints(struct walk *k, const char *y, int count, const int64_t *values)
{
    begin(k, "Constant", y);
    ints(k, "value_ints", count, values);
    end(k);
}

/* weight or bias (C) as (C,1,1), combined with x. */
static void per_channel(struct walk *k, const char *op, const char *x, const char *name,
                        const char *leaf_name, const char *y)
{
    char shape[NAME], value[NAME], column[NAME];
    snprintf(value, sizeof value, "%.80s.%.12s", name, leaf_name);
    snprintf(shape, sizeof shape, "%.63s/%.12s_shape", name, leaf_name);
    snprintf(column, sizeof column, "%.63s/%.12s_column", name, leaf_name);
    constant_ints(k, shape, 3, (const int64_t[]){-1, 1, 1});
    binary(k, "Reshape", value, shape, column);
    binary(k, op, x, column, y);
}

/* Group norm: (N,C,H,W) → (N,G,…), normalize each group, back, scale and shift by channel. */
static void group_norm(struct walk *k, const char *x, const char *name,
                       const struct mabn_norm_options *o, const char *y)
{
    int groups = o->kind == MABN_NORM_GN ? o->groups : 1;
    char in[NAME], back[NAME], grouped[NAME], one[NAME], zero[NAME], normal[NAME], wide[NAME],
        scaled[NAME];
    inner(in, name, "groups");
    inner(back, name, "shape");
    inner(grouped, name, "grouped");
    inner(one, name, "one");
    inner(zero, name, "zero");
    inner(normal, name, "normal");
    inner(wide, name, "wide");
    inner(scaled, name, "scaled");
    constant_ints(k, in, 3, (const int64_t[]){0, groups, -1});
    unary(k, "Shape", x, back);
    binary(k, "Reshape", x, in, grouped);
    begin(k, "Constant", one);
    equal_floats(k, "value_floats", groups, 1);
    end(k);
    begin(k, "Constant", zero);
    equal_floats(k, "value_floats", groups, 0);
    end(k);
    begin(k, "InstanceNormalization", normal);
    input(k, grouped);
    input(k, one);
    input(k, zero);
    real(k, "epsilon", o->eps);
    end(k);
    binary(k, "Reshape", normal, back, wide);
    per_channel(k, "Mul", wide, name, "weight", scaled);
    per_channel(k, "Add", scaled, name, "bias", y);
}

static void instance_norm(struct walk *k, const char *x, const char *name,
                          const struct mabn_norm_options *o, const char *y)
{
    begin(k, "InstanceNormalization", y);
    input(k, x);
    leaf(k, name, "weight");
    leaf(k, name, "bias");
    real(k, "epsilon", o->eps);
    end(k);
}

/* y = [relu](norm(x) [+ residual]) */
static void norm(struct walk *k, const char *x, const char *name, const char *residual, bool relu,
                 char y[NAME])
{
    const struct mabn_norm_options *o = &k->model->norm[k->part];
    char stem[NAME], value[NAME];
    path(k, stem, name);
    memcpy(value, x, NAME);
    if (!folds_here(k) && o->kind != MABN_NORM_NONE) {
        memcpy(value, stem, NAME);
        if (o->kind == MABN_NORM_GN || o->kind == MABN_NORM_LN)
            group_norm(k, x, stem, o, value);
        else if (o->kind == MABN_NORM_IN)
            instance_norm(k, x, stem, o, value);
        else
            batch_norm(k, x, stem, o, value);
    }
    memcpy(y, value, NAME);
    if (residual) {
        inner(y, stem, "sum");
        binary(k, "Add", value, residual, y);
        memcpy(value, y, NAME);
    }
    if (relu) {
        inner(y, stem, "relu");
        unary(k, "Relu", value, y);
    }
}

/* ---- the network ---- */

static void shortcut(struct walk *k, const char *x, int stride, bool changes, char y[NAME])
{
    char c[NAME];
    memcpy(y, x, NAME);
    if (!changes) return;
    conv(k, x, "downsample.0", 1, stride, c);
    norm(k, c, "downsample.1", NULL, false, y);
}

static void block(struct walk *k, char x[NAME], bool bottleneck, int stride, bool changes)
{
    char skip[NAME], c[NAME], y[NAME];
    bool early = k->model->stride_in_1x1;
    shortcut(k, x, stride, changes, skip);
    conv(k, x, "conv1", bottleneck ? 1 : 3, !bottleneck || early ? stride : 1, c);
    norm(k, c, "bn1", NULL, true, y);
    conv(k, y, "conv2", 3, bottleneck && !early ? stride : 1, c);
    if (bottleneck) {
        norm(k, c, "bn2", NULL, true, y);
        conv(k, y, "conv3", 1, 1, c);
    }
    norm(k, c, bottleneck ? "bn3" : "bn2", skip, true, x);
}

static void stem(struct walk *k, char x[NAME])
{
    bool large = k->model->stem == MABN_STEM_LARGE;
    char c[NAME];
    k->part = MABN_PART_STEM;
    conv(k, x, "conv1", large ? 7 : 3, large ? 2 : 1, c);
    norm(k, c, "bn1", NULL, true, x);
    if (!large) return;
    begin(k, "MaxPool", "maxpool");
    input(k, x);
    ints(k, "kernel_shape", 2, (const int64_t[]){3, 3});
    ints(k, "strides", 2, (const int64_t[]){2, 2});
    ints(k, "pads", 4, (const int64_t[]){1, 1, 1, 1});
    end(k);
    strcpy(x, "maxpool");
}

static void body(struct walk *k, char x[NAME])
{
    const struct mabn_resnet_shape *shape = mabn_resnet_find(k->model->arch);
    int channels = k->model->base_width;
    stem(k, x);
    for (int s = 0; s < shape->stages; s++) {
        int out = (k->model->base_width << s) * (shape->bottleneck ? 4 : 1);
        k->part = (enum mabn_model_part)(MABN_PART_LAYER1 + s);
        for (int i = 0; i < shape->blocks[s]; i++) {
            int stride = s && !i ? 2 : 1;
            snprintf(k->block, sizeof k->block, "layer%d.%d.", s + 1, i);
            block(k, x, shape->bottleneck, stride, !i && (stride != 1 || channels != out));
        }
        channels = out;
    }
    k->block[0] = 0;
}

/* A ValueInfoProto: float32 with named (negative: -i is the i-th name) and fixed dimensions. */
static void value_info(struct walk *k, int field, const char *name, int rank, const int64_t *dims)
{
    static const char *const free_names[] = {"", "N", "H", "W"};
    struct mabn_str shape, dim, tensor, type;
    mabn_str_init(&shape);
    mabn_str_init(&dim);
    mabn_str_init(&tensor);
    mabn_str_init(&type);
    for (int i = 0; i < rank; i++) {
        mabn_str_clear(&dim);
        if (dims[i] < 0)
            mabn_proto_text(&dim, 2, free_names[-dims[i]]);
        else
            mabn_proto_int(&dim, 1, dims[i]);
        mabn_proto_bytes(&shape, 1, dim.text, dim.length);
    }
    mabn_proto_int(&tensor, 1, ELEMENT_FLOAT);
    mabn_proto_bytes(&tensor, 2, shape.text, shape.length);
    mabn_proto_bytes(&type, 1, tensor.text, tensor.length);
    mabn_str_clear(&dim);
    mabn_proto_text(&dim, 1, name);
    mabn_proto_bytes(&dim, 2, type.text, type.length);
    mabn_proto_bytes(k->graph, field, dim.text, dim.length);
    mabn_str_release(&shape);
    mabn_str_release(&dim);
    mabn_str_release(&tensor);
    mabn_str_release(&type);
}

void mabn_onnx_graph(struct mabn_str *graph, const struct mabn_model *model, bool folded)
{
    struct walk k = {.graph = graph, .model = model, .folded = folded};
    char x[NAME] = "input";
    mabn_str_init(&k.node);
    body(&k, x);
    unary(&k, "GlobalAveragePool", x, "pool");
    begin(&k, "Flatten", "features");
    input(&k, "pool");
    integer(&k, "axis", 1);
    end(&k);
    begin(&k, "Gemm", "logits");
    input(&k, "features");
    leaf(&k, "fc", "weight");
    leaf(&k, "fc", "bias");
    integer(&k, "transB", 1);
    end(&k);
    value_info(&k, GRAPH_INPUT, "input", 4, (const int64_t[]){-1, model->channels, -2, -3});
    value_info(&k, GRAPH_OUTPUT, "logits", 2, (const int64_t[]){-1, model->classes});
    mabn_str_release(&k.node);
}
