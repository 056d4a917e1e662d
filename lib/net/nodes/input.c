/* Inputs: pictures that the caller fills in, or another plan's output. */
#include "net/internal.h"

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    (void)net;
    (void)node;
    (void)time;
    (void)layer; /* moves nothing */
}

static const struct node_ops nothing = {.half = true};

const struct node_kind mabn_node_input = {
    .name = "input",
    .input = true,
    .describe = describe,
    .cpu = &nothing,
    .cuda = &nothing,
};

int mabn_net_add_input(struct mabn_net *net)
{
    struct node *node = mabn_net_add(net, &mabn_node_input, "input", NULL, 0);
    if (!node) return -1;
    node->h = net->options.height;
    node->w = net->options.width;
    node->c = net->options.channels;
    return mabn_net_added(net, node);
}

int mabn_net_add_bound(struct mabn_net *net, const char *name, int channels, bool gradient)
{
    struct node *node = mabn_net_add(net, &mabn_node_input, name, NULL, 0);
    if (!node) return -1;
    node->bound = true;
    node->trains = gradient;
    node->h = node->w = 0; /* known when it is bound */
    node->c = channels;
    return mabn_net_added(net, node);
}

void mabn_net_bind(struct mabn_net *net, int input, const struct mabn_net_binding *binding)
{
    if (input < 0 || input >= net->node_count || !net->nodes[input].bound)
        MABN_BUG("node %d is no bound input", input);
    net->nodes[input].binding = *binding;
}
