/* Building a network: the part that all kinds of nodes share. Failures are kept until
 * mabn_net_plan, so that model code reads like the table in a paper. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/internal.h"

/* The backend for the device, and the element type for the requested precision. */
static mabn_status choose_backend(struct mabn_net *net)
{
    enum mabn_net_precision *precision = &net->options.precision;
    net->dtype = MABN_DTYPE_F32;
    if (mabn_device_kind_of(net->device) == MABN_DEVICE_CPU) {
        net->backend = &mabn_net_cpu;
        if (net->options.bytes)
            return mabn_fail(MABN_ERR_UNSUPPORTED, "only a GPU takes pictures as bytes");
        if (net->options.feed)
            return mabn_fail(MABN_ERR_UNSUPPORTED, "only on a GPU is a network's input fed");
        if (*precision == MABN_NET_AUTO) *precision = MABN_NET_FP32;
        if (*precision == MABN_NET_BF16) net->dtype = MABN_DTYPE_BF16;
        if (*precision == MABN_NET_BF16 || *precision == MABN_NET_FP32) return MABN_OK;
        return mabn_fail(MABN_ERR_UNSUPPORTED, "the CPU computes in fp32 and bf16, not in %s",
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
    net->rows = options->batch;
    net->output = -1;
    mabn_status status = choose_backend(net);
    net->params = options->params;
    net->owns_params = !net->params;
    if (!status && net->owns_params) status = mabn_params_new(&net->params, device);
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
    if (!net->options.pool)
        mabn_device_release(net->device, net->activations.base, net->activations.bytes);
    mabn_device_release(net->device, net->packed.base, net->packed.bytes);
    for (int i = 0; i < net->node_count; i++) {
        free(net->nodes[i].name);
        free(net->nodes[i].own);
    }
    for (int i = 0; i < net->output_count; i++)
        free(net->outputs[i].name);
    if (net->owns_params) mabn_params_free(net->params);
    free(net->message);
    free(net->nodes);
    free(net->outputs);
    free(net->buffers);
    free(net->ready_from);
    free(net->record_channels);
    free(net->record_fitting);
    free(net->records);
    free(net->record_values);
    free(net);
}

struct mabn_params *mabn_net_params(const struct mabn_net *net)
{
    return net->params;
}

int mabn_net_refuse(struct mabn_net *net, mabn_status status)
{
    if (!net->status) {
        net->status = status;
        net->message = mabn_error_detach();
    }
    return -1;
}

struct node *mabn_net_add(struct mabn_net *net, const struct node_kind *kind, const char *name,
                          const int *reads, int count)
{
    if (net->status) return NULL;
    for (int k = 0; k < count; k++)
        if (reads[k] >= net->node_count || (reads[k] < 0 && !k)) {
            mabn_net_refuse(net, mabn_fail(MABN_ERR_ARG, "there is no node %d", reads[k]));
            return NULL;
        }
    MABN_GROW(net->nodes, net->node_count, net->node_capacity);
    struct node *node = &net->nodes[net->node_count];
    *node = (struct node){.kind = kind,
                          .weight = -1,
                          .bias = -1,
                          .act = -1,
                          .state = -1,
                          .folded = -1,
                          .neighbour = -1,
                          .runs_at = net->node_count,
                          .data = -1,
                          .again = -1,
                          .grad = -1,
                          .extra = -1,
                          .remake_for = -1};
    for (int k = 0; k < NODE_MAX_READS; k++) {
        node->reads[k] = k < count ? reads[k] : -1;
        node->dx[k] = -1;
    }
    node->name = mabn_xstrdup(name);
    net->node_count++;
    return node;
}

int mabn_net_added(const struct mabn_net *net, const struct node *node)
{
    return (int)(node - net->nodes);
}

void mabn_net_declare(struct mabn_net *net, const struct node *node, int *index, const char *suffix,
                      struct mabn_shape shape, const struct parameter *like)
{
    mabn_status status = mabn_params_declare(net->params, index, node->name, suffix, shape, like);
    if (!status) return;
    *index = -1;
    mabn_net_refuse(net, status);
}

void mabn_net_add_output(struct mabn_net *net, int x, const char *name)
{
    if (net->status) return;
    if (x < 1 || x >= net->node_count) {
        mabn_net_refuse(net, mabn_fail(MABN_ERR_ARG, "there is no node %d", x));
        return;
    }
    MABN_GROW(net->outputs, net->output_count, net->output_capacity);
    net->outputs[net->output_count++] = (struct output){mabn_xstrdup(name), x};
    if (net->output < 0) net->output = x;
}
