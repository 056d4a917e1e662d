/* Building a network: nodes and their parameters. Failures are kept until mabn_net_plan, so that
 * model code reads like the paper's table. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/internal.h"
#include "ops/conv.h"
#include "ops/pool.h"

/* Which backend runs on the device, and the element type that the precision asks for there. */
static mabn_status choose_backend(struct mabn_net *net)
{
    enum mabn_net_precision *precision = &net->options.precision;
    net->dtype = MABN_DTYPE_F32;
    if (mabn_device_kind_of(net->device) == MABN_DEVICE_CPU) {
        net->backend = &mabn_net_cpu;
        if (net->options.bytes)
            return mabn_fail(MABN_ERR_UNSUPPORTED, "only a GPU takes pictures as bytes");
        if (*precision == MABN_NET_AUTO) *precision = MABN_NET_FP32;
        if (*precision == MABN_NET_FP32) return MABN_OK;
        return mabn_fail(MABN_ERR_UNSUPPORTED, "the CPU computes in fp32 only, not in %s",
                         mabn_net_precision_name(*precision));
    }
#if MABN_CUDA
    net->backend = &mabn_net_cuda;
    if (*precision == MABN_NET_AUTO) *precision = MABN_NET_BF16;
    if (*precision == MABN_NET_BF16) net->dtype = MABN_DTYPE_BF16;
    if (*precision == MABN_NET_FP16) net->dtype = MABN_DTYPE_F16;
    return MABN_OK;
#else
    return mabn_fail(MABN_ERR_UNSUPPORTED, "this build has no CUDA device");
#endif
}

mabn_status mabn_net_new(struct mabn_net **out, struct mabn_device *device,
                         const struct mabn_net_options *options)
{
    *out = NULL;
    if (options->batch < 1 || options->height < 1 || options->width < 1 || options->channels < 1)
        return mabn_fail(MABN_ERR_ARG, "a network needs at least one image, pixel and channel");
    if (options->batch > 1 << 20 || options->height > 1 << 16 || options->width > 1 << 16 ||
        options->channels > 1 << 16)
        return mabn_fail(MABN_ERR_LIMIT, "a network input of %d×%d×%d×%d is too large",
                         options->batch, options->height, options->width, options->channels);
    struct mabn_net *net = mabn_xcalloc(1, sizeof *net);
    net->device = device;
    net->options = *options;
    net->output = -1;
    net->stale = true;
    mabn_status status = choose_backend(net);
    if (status) {
        free(net);
        return status;
    }
    *out = net;
    return MABN_OK;
}

void mabn_net_free(struct mabn_net *net)
{
    if (!net) return;
    net->backend->release(net);
    struct arena *arenas[] = {&net->weights, &net->gradients,   &net->momentum,
                              &net->state,   &net->activations, &net->packed};
    for (size_t i = 0; i < sizeof arenas / sizeof *arenas; i++)
        mabn_device_release(net->device, arenas[i]->base, arenas[i]->bytes);
    for (int i = 0; i < net->node_count; i++)
        free(net->nodes[i].name);
    for (int i = 0; i < net->parameter_count; i++)
        free(net->parameters[i].name);
    for (int i = 0; i < net->tensor_count; i++)
        free((char *)net->tensors[i].name);
    free(net->message);
    free(net->nodes);
    free(net->parameters);
    free(net->buffers);
    free(net->tensors);
    free(net->tensor_source);
    free(net->record_channels);
    free(net->record_fitting);
    free(net->records);
    free(net->record_values);
    free(net);
}

/* Keep the first failure for mabn_net_plan. */
static int refuse(struct mabn_net *net, mabn_status status)
{
    if (!net->status) {
        net->status = status;
        net->message = mabn_error_detach();
    }
    return -1;
}

static struct node *add_node(struct mabn_net *net, enum node_kind kind, int x, const char *name)
{
    MABN_GROW(net->nodes, net->node_count, net->node_capacity);
    struct node *node = &net->nodes[net->node_count++];
    *node = (struct node){.kind = kind,
                          .x = x,
                          .residual = -1,
                          .weight = -1,
                          .bias = -1,
                          .folded = -1,
                          .partner = -1,
                          .data = -1,
                          .again = -1,
                          .grad = -1,
                          .extra = -1,
                          .remake_for = -1};
    node->name = mabn_xstrdup(name);
    return node;
}

/* Did building fail, or is x not a node? */
static bool cannot_add(struct mabn_net *net, int x)
{
    if (net->status) return true;
    if (x >= 0 && x < net->node_count) return false;
    refuse(net, mabn_fail(MABN_ERR_ARG, "there is no node %d", x));
    return true;
}

/* "<node>.<suffix>"; the arena offset is decided here, 64-byte aligned. */
static int add_parameter(struct mabn_net *net, const struct node *node, const char *suffix,
                         struct mabn_shape shape, struct parameter template)
{
    MABN_GROW(net->parameters, net->parameter_count, net->parameter_capacity);
    struct parameter *p = &net->parameters[net->parameter_count];
    *p = template;
    p->name = mabn_xasprintf("%s.%s", node->name, suffix);
    p->shape = shape;
    p->offset = net->values;
    for (int i = 0; i < net->parameter_count; i++)
        if (!strcmp(net->parameters[i].name, p->name))
            refuse(net, mabn_fail(MABN_ERR_ARG, "two parameters are called '%s'", p->name));
    if (!mabn_shape_count(&shape, &p->count) || p->count > (size_t)1 << 36 ||
        !mabn_size_add(net->values, (p->count + 15) & ~(size_t)15, &net->values))
        refuse(net, mabn_fail(MABN_ERR_LIMIT, "'%s' is too large", p->name));
    return net->parameter_count++;
}

int mabn_net_add_input(struct mabn_net *net)
{
    if (net->status) return -1;
    struct node *node = add_node(net, NODE_INPUT, -1, "input");
    node->h = net->options.height;
    node->w = net->options.width;
    node->c = net->options.channels;
    return net->node_count - 1;
}

int mabn_net_add_conv(struct mabn_net *net, int x, const char *name,
                      const struct mabn_net_conv *conv)
{
    if (cannot_add(net, x)) return -1;
    struct node in = net->nodes[x];
    struct node *node = add_node(net, NODE_CONV, x, name);
    node->conv = *conv;
    node->h = mabn_conv_out(in.h, conv->kernel, conv->stride, conv->pad);
    node->w = mabn_conv_out(in.w, conv->kernel, conv->stride, conv->pad);
    node->c = conv->out_channels;
    if (node->h < 1 || node->w < 1 || node->c < 1)
        return refuse(net,
                      mabn_fail(MABN_ERR_ARG, "'%s': the image has become too small: %lld×%lld",
                                name, (long long)in.h, (long long)in.w));
    int64_t k = conv->kernel;
    struct parameter weight = {.out = node->c,
                               .in = in.c,
                               .area = k * k,
                               .trains = true,
                               .decays = true,
                               .centralize = conv->centralize,
                               .fill = FILL_CONV,
                               .fan_in = (double)(in.c * k * k)};
    node->weight = add_parameter(net, node, "weight", MABN_SHAPE(4, node->c, in.c, k, k), weight);
    struct parameter bias = {.trains = true, .fill = FILL_LINEAR, .fan_in = weight.fan_in};
    if (conv->bias) node->bias = add_parameter(net, node, "bias", MABN_SHAPE(1, node->c), bias);
    return net->node_count - 1;
}

int mabn_net_add_norm(struct mabn_net *net, int x, const char *name,
                      const struct mabn_norm_options *norm, int residual, bool relu)
{
    if (cannot_add(net, x) || (residual >= 0 && cannot_add(net, residual))) return -1;
    struct node in = net->nodes[x];
    if (residual >= 0) {
        const struct node *r = &net->nodes[residual];
        if (r->h != in.h || r->w != in.w || r->c != in.c)
            return refuse(net,
                          mabn_fail(MABN_ERR_ARG, "'%s': the shortcut has another shape", name));
    }
    struct node *node = add_node(net, NODE_NORM, x, name);
    node->residual = residual;
    node->h = in.h;
    node->w = in.w;
    node->c = in.c;
    node->io.relu = relu;
    mabn_status status = mabn_norm_init(&node->norm, norm, (int)in.c);
    if (status) return refuse(net, mabn_fail_prefix(status, "'%s'", name));
    node->norm.sync = net->options.sync;
    if (mabn_norm_has_affine(norm->kind)) {
        struct parameter gamma = {.trains = mabn_norm_trains(norm->kind), .fill = FILL_ONE};
        struct parameter beta = {.trains = gamma.trains, .fill = FILL_ZERO};
        node->weight = add_parameter(net, node, "weight", MABN_SHAPE(1, in.c), gamma);
        node->bias = add_parameter(net, node, "bias", MABN_SHAPE(1, in.c), beta);
    }
    return net->node_count - 1;
}

int mabn_net_add_max_pool(struct mabn_net *net, int x, int kernel, int stride, int pad)
{
    if (cannot_add(net, x)) return -1;
    struct node in = net->nodes[x];
    struct node *node = add_node(net, NODE_MAX_POOL, x, "max-pool");
    node->conv = (struct mabn_net_conv){.kernel = kernel, .stride = stride, .pad = pad};
    node->h = mabn_pool_out(in.h, kernel, stride, pad);
    node->w = mabn_pool_out(in.w, kernel, stride, pad);
    node->c = in.c;
    if (node->h < 1 || node->w < 1)
        return refuse(net, mabn_fail(MABN_ERR_ARG, "the image is too small for pooling: %lld×%lld",
                                     (long long)in.h, (long long)in.w));
    return net->node_count - 1;
}

int mabn_net_add_global_pool(struct mabn_net *net, int x)
{
    if (cannot_add(net, x)) return -1;
    int64_t c = net->nodes[x].c;
    struct node *node = add_node(net, NODE_GLOBAL_POOL, x, "global-pool");
    node->h = node->w = 1;
    node->c = c;
    return net->node_count - 1;
}

int mabn_net_add_linear(struct mabn_net *net, int x, const char *name, int out)
{
    if (cannot_add(net, x)) return -1;
    struct node in = net->nodes[x];
    struct node *node = add_node(net, NODE_LINEAR, x, name);
    node->h = node->w = 1;
    node->c = out;
    if (out < 1) return refuse(net, mabn_fail(MABN_ERR_ARG, "'%s': %d outputs", name, out));
    if (in.h != 1 || in.w != 1)
        return refuse(net,
                      mabn_fail(MABN_ERR_ARG, "'%s': a linear layer needs pooled input", name));
    struct parameter weight = {
        .trains = true, .decays = true, .fill = FILL_LINEAR, .fan_in = (double)in.c};
    struct parameter bias = {.trains = true, .fill = FILL_LINEAR, .fan_in = (double)in.c};
    node->weight = add_parameter(net, node, "weight", MABN_SHAPE(2, out, in.c), weight);
    node->bias = add_parameter(net, node, "bias", MABN_SHAPE(1, out), bias);
    return net->node_count - 1;
}
