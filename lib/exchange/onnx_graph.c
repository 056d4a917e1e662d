/* A network's nodes as ONNX nodes.
 *
 * Values are named after what makes them ("layer1.0.conv1" is the convolution's output), so the
 * graph can be read beside our checkpoints. From the output backwards, each node is written after
 * all that it reads, a shortcut before the branch beside it.
 *
 * To export another kind of node: its function here, and a row in `kinds`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/onnx.h"
#include "net/graph.h"
#include "norm/norm.h"

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
    const struct mabn_net *net;
    bool folded;
    struct mabn_str node;
    char (*values)[NAME]; /* of the network's nodes: the name of its result; "": not written yet */
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

/* STEM plus a suffix, for values inside a layer. */
static void inner(char y[NAME], const char *stem, const char *suffix)
{
    snprintf(y, NAME, "%.63s/%.16s", stem, suffix);
}

static bool folds(const struct walk *k, const struct mabn_norm_options *norm)
{
    return k->folded && mabn_norm_folds(norm->kind);
}

/* Is the norm behind this convolution folded into it? */
static bool takes_norm(const struct walk *k, int i)
{
    const int norm = mabn_net_norm_behind(k->net, i);
    return norm >= 0 && folds(k, mabn_net_node_at(k->net, norm).norm);
}

static const char *value_read(const struct walk *k, const struct mabn_net_node *node, int read)
{
    return k->values[node->reads[read]];
}

static void name_value(char y[NAME], const char *name)
{
    snprintf(y, NAME, "%.62s", name);
}

/* The filters minus their means; `weight` becomes their name. */
static void centralize(struct walk *k, const char *name, char weight[NAME])
{
    char mean[NAME], centered[NAME];
    inner(mean, name, "mean");
    begin(k, "ReduceMean", mean);
    input(k, weight);
    ints(k, "axes", 3, (const int64_t[]){1, 2, 3});
    integer(k, "keepdims", 1);
    end(k);
    inner(centered, name, "centered");
    binary(k, "Sub", weight, mean, centered);
    memcpy(weight, centered, NAME);
}

static void window(struct walk *k, const struct mabn_net_node *node)
{
    const int64_t pad = node->pad;
    ints(k, "kernel_shape", 2, (const int64_t[]){node->kernel, node->kernel});
    ints(k, "strides", 2, (const int64_t[]){node->stride, node->stride});
    ints(k, "pads", 4, (const int64_t[]){pad, pad, pad, pad});
}

static void conv(struct walk *k, int i, const struct mabn_net_node *node, char y[NAME])
{
    const bool with_norm = takes_norm(k, i);
    char weight[NAME];
    name_value(y, node->name);
    snprintf(weight, sizeof weight, "%.80s.weight", y);
    if (!with_norm && node->centralize) centralize(k, y, weight);
    begin(k, "Conv", y);
    input(k, value_read(k, node, 0));
    input(k, weight);
    if (with_norm || node->bias) leaf(k, y, "bias");
    window(k, node);
    end(k);
}

/* Norms with statistics. MABN has no mean, but the operator needs one: zeros of the right length are
 * made as the variance minus itself. */
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
        /* With one of the two window rules the variance is (1,C,1,1). */
        binary(k, "Reshape", var, shape, flat);
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

/* y = [relu](norm(x) [+ shortcut]) */
static void norm(struct walk *k, int i, const struct mabn_net_node *node, char y[NAME])
{
    const struct mabn_norm_options *o = node->norm;
    const char *x = value_read(k, node, 0);
    char stem[NAME], value[NAME];
    (void)i;
    name_value(stem, node->name);
    memcpy(value, x, NAME);
    if (!folds(k, o) && o->kind != MABN_NORM_NONE) {
        memcpy(value, stem, NAME);
        if (o->kind == MABN_NORM_GN || o->kind == MABN_NORM_LN)
            group_norm(k, x, stem, o, value);
        else if (o->kind == MABN_NORM_IN)
            instance_norm(k, x, stem, o, value);
        else
            batch_norm(k, x, stem, o, value);
    }
    memcpy(y, value, NAME);
    if (node->reads[1] >= 0) {
        inner(y, stem, "sum");
        binary(k, "Add", value, value_read(k, node, 1), y);
        memcpy(value, y, NAME);
    }
    if (node->relu) {
        inner(y, stem, "relu");
        unary(k, "Relu", value, y);
    }
}

static void network_input(struct walk *k, int i, const struct mabn_net_node *node, char y[NAME])
{
    (void)k;
    (void)i;
    (void)node;
    strcpy(y, "input");
}

static void max_pool(struct walk *k, int i, const struct mabn_net_node *node, char y[NAME])
{
    (void)i;
    strcpy(y, "maxpool");
    begin(k, "MaxPool", y);
    input(k, value_read(k, node, 0));
    window(k, node);
    end(k);
}

static void mean_pool(struct walk *k, int i, const struct mabn_net_node *node, char y[NAME])
{
    (void)i;
    strcpy(y, "pool");
    unary(k, "GlobalAveragePool", value_read(k, node, 0), y);
}

static void linear(struct walk *k, int i, const struct mabn_net_node *node, char y[NAME])
{
    (void)i;
    begin(k, "Flatten", "features");
    input(k, value_read(k, node, 0));
    integer(k, "axis", 1);
    end(k);
    name_value(y, node->output ? node->output : node->name);
    begin(k, "Gemm", y);
    input(k, "features");
    leaf(k, node->name, "weight");
    leaf(k, node->name, "bias");
    integer(k, "transB", 1);
    end(k);
}

/* ---- the network ---- */

static const struct {
    const char *kind;
    void (*write)(struct walk *k, int i, const struct mabn_net_node *node, char y[NAME]);
} kinds[] = {
    {"input", network_input}, {"convolution", conv},    {"norm", norm},
    {"max pool", max_pool},   {"mean pool", mean_pool}, {"linear", linear},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Write node i, after everything that it reads. */
static void write_node(struct walk *k, int i)
{
    const struct mabn_net_node node = mabn_net_node_at(k->net, i);
    if (*k->values[i]) return;
    for (int r = MABN_NET_MAX_READS - 1; r >= 0; r--)
        if (node.reads[r] >= 0) write_node(k, node.reads[r]);
    for (int r = 0; r < KINDS; r++) {
        if (strcmp(kinds[r].kind, node.kind)) continue;
        kinds[r].write(k, i, &node, k->values[i]);
        return;
    }
    MABN_BUG("'%s': no ONNX for a %s", node.name, node.kind);
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

void mabn_onnx_graph(struct mabn_str *graph, const struct mabn_net *net, bool folded)
{
    const int count = mabn_net_node_count(net);
    struct walk k = {.graph = graph, .net = net, .folded = folded};
    struct mabn_net_node node = {0};
    k.values = mabn_xcalloc((size_t)count, sizeof *k.values);
    mabn_str_init(&k.node);
    for (int i = 0; i < count && !node.output; i++) {
        node = mabn_net_node_at(net, i);
        if (node.output) write_node(&k, i);
    }
    const int64_t channels = mabn_net_node_at(net, 0).channels;
    value_info(&k, GRAPH_INPUT, "input", 4, (const int64_t[]){-1, channels, -2, -3});
    value_info(&k, GRAPH_OUTPUT, node.output, 2, (const int64_t[]){-1, node.channels});
    mabn_str_release(&k.node);
    free(k.values);
}
