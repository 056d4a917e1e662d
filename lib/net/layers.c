/* The time that each layer of a planned network takes, and the bytes it has to move. */
#include <stdlib.h>

#include "base/mem.h"
#include "net/internal.h"

double mabn_net_output_bytes(const struct mabn_net *net, const struct node *node)
{
    const bool score = net_scores(net, mabn_net_added(net, node));
    return (double)net_values(net, node) *
           (double)(score ? sizeof(float) : mabn_dtype_size(node->dtype));
}

double mabn_net_gradient_bytes(const struct mabn_net *net, const struct node *node)
{
    return (double)net_values(net, node) * (double)mabn_dtype_size(node->dtype);
}

double mabn_net_weight_bytes(const struct mabn_net *net, const struct node *node)
{
    return (double)net->params->list[node->weight].count * (double)mabn_dtype_size(net->dtype);
}

int mabn_net_layer_count(const struct mabn_net *net)
{
    return net->node_count - 1;
}

mabn_status mabn_net_time_layers(struct mabn_net *net, struct mabn_net_layer *layers)
{
    MABN_TRY(mabn_net_check(net));
    struct net_layer_time *times = mabn_xcalloc((size_t)net->node_count, sizeof *times);
    const mabn_status status = net->backend->time_layers(net, times);
    for (int i = 1; i < net->node_count && !status; i++) {
        const struct node *node = &net->nodes[i];
        struct mabn_net_layer *layer = &layers[i - 1];
        *layer = (struct mabn_net_layer){.name = node->name,
                                         .kind = node->kind->name,
                                         .height = node->h,
                                         .width = node->w,
                                         .channels = node->c,
                                         .forward = times[i].forward,
                                         .backward = times[i].backward};
        node->kind->describe(net, node, &times[i], layer);
        if (times[i].elsewhere) layer->macs = layer->forward_bytes = 0;
        if (!net->options.training || !net_goes_back(node)) layer->backward_bytes = 0;
    }
    free(times);
    return status;
}

mabn_status mabn_net_time_copy(struct mabn_net *net, double *bytes_per_second)
{
    const size_t most = (size_t)1 << 30;
    size_t half = net->activations.bytes / 2 / 256 * 256;
    double seconds;
    MABN_TRY(mabn_net_check(net));
    if (half > most) half = most;
    MABN_TRY(net->backend->time_copy(net, net->activations.base, net->activations.base + half, half,
                                     &seconds));
    *bytes_per_second = 2 * (double)half / seconds;
    return MABN_OK;
}
