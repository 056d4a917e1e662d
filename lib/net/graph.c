/* The nodes of a network as other rooms see them. */
#include "net/graph.h"

#include "net/internal.h"

int mabn_net_node_count(const struct mabn_net *net)
{
    return net->node_count;
}

struct mabn_net_node mabn_net_node_at(const struct mabn_net *net, int i)
{
    const struct node *node = &net->nodes[i];
    struct mabn_net_node described = {.name = node->name,
                                      .kind = node->kind->name,
                                      .height = node->h,
                                      .width = node->w,
                                      .channels = node->c};
    memcpy(described.reads, node->reads, sizeof described.reads);
    if (node->kind->attributes) node->kind->attributes(node, &described);
    for (int k = 0; k < net->output_count; k++)
        if (net->outputs[k].node == i) described.output = net->outputs[k].name;
    return described;
}

int mabn_net_find_node(const struct mabn_net *net, const char *name, const char *kind)
{
    for (int i = 0; i < net->node_count; i++)
        if (!strcmp(net->nodes[i].name, name) && !strcmp(net->nodes[i].kind->name, kind)) return i;
    return -1;
}

int mabn_net_norm_behind(const struct mabn_net *net, int i)
{
    const int reader = mabn_net_only_reader(net, i);
    if (reader < 0 || !mabn_net_node_at(net, reader).norm) return -1;
    return net->nodes[reader].reads[0] == i ? reader : -1;
}
