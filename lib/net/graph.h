/* The nodes of a network as model code built them: for exporting the network
 * (exchange/onnx_graph.c) and for finding out which layers follow each other.
 *
 * The network need not be planned. A planned network is described as it was built, without folding
 * and fusing. */
#ifndef MABN_NET_GRAPH_H
#define MABN_NET_GRAPH_H

#include "net/net.h"

MABN_BEGIN_DECLS

enum { MABN_NET_MAX_READS = 8 };

struct mabn_net_node {
    const char *name; /* the network's; kinds that are given none have one: "max-pool" */
    const char *kind; /* "input", "convolution", "norm", "max pool", "mean pool", "linear", … */
    int reads[MABN_NET_MAX_READS];   /* other nodes; -1: none. For a norm [1] is the shortcut */
    int64_t height, width, channels; /* of its output */
    const char *output;              /* its name as an output of the network, or NULL */
    bool bias;                       /* convolution, linear */
    bool centralize;                 /* convolution */
    int kernel, stride, pad;         /* convolution, max pool */
    const struct mabn_norm_options *norm; /* norm (norm/options.h); the network's. Others: NULL */
    bool relu;                            /* norm */
};

int mabn_net_node_count(const struct mabn_net *net);
struct mabn_net_node mabn_net_node_at(const struct mabn_net *net, int i);
/* The node with this name and kind, or -1. */
int mabn_net_find_node(const struct mabn_net *net, const char *name, const char *kind);
/* The norm that reads node i, if nothing else reads it; otherwise -1. */
int mabn_net_norm_behind(const struct mabn_net *net, int i);

MABN_END_DECLS
#endif
