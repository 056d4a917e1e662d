/* Softmax cross-entropy with label smoothing: the sum over a classifier's rows, divided by the
 * normalizer. */
#include "net/losses.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/nodes/shared.h"
#include "ops/loss.h"

struct own {
    double smoothing, normalizer;
    int32_t *labels; /* (N) */
    double *losses;  /* (N) */
};

void mabn_node_loss_describe(const struct mabn_net *net, const struct node *node,
                             const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    const struct node *scores = net_read(net, node, 0);
    (void)time;
    layer->forward_bytes = mabn_net_output_bytes(net, scores);
    layer->backward_bytes = layer->forward_bytes + mabn_net_gradient_bytes(net, scores);
}

/* ---- on the CPU ---- */

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    struct own *own = node->own;
    own->labels = mabn_xmalloc((size_t)net->options.batch * sizeof *own->labels);
    for (int i = 0; i < net->options.batch; i++)
        own->labels[i] = -1;
    own->losses = mabn_xcalloc((size_t)net->options.batch, sizeof *own->losses);
    return MABN_OK;
}

static double share(const struct own *own)
{
    return own->normalizer > 0 ? 1 / own->normalizer : 0;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct own *own = node->own;
    const struct mabn_xent_out out = {.loss = own->losses};
    MABN_TRY(mabn_softmax_xent(&out, net_read_data(net, node, 0), own->labels, net->rows,
                               net_read(net, node, 0)->c, own->smoothing, share(own)));
    node->loss = 0;
    for (int64_t i = 0; i < net->rows; i++)
        node->loss += own->losses[i];
    node->loss *= share(own);
    return MABN_OK;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct own *own = node->own;
    const struct mabn_xent_out out = {.dlogits = net_dx(net, node, 0)};
    return mabn_softmax_xent(&out, net_read_data(net, node, 0), own->labels, net->rows,
                             net_read(net, node, 0)->c, own->smoothing, share(own));
}

static void release(struct node *node)
{
    struct own *own = node->own;
    free(own->labels);
    free(own->losses);
}

static const struct node_ops cpu = {
    .prepare = prepare, .forward = forward, .backward = backward, .release = release};

const struct node_kind mabn_node_softmax_loss = {
    .name = "softmax loss",
    .loss = true,
    .figure = true,
    .keeps = node_first_read,
    .describe = mabn_node_loss_describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_softmax_loss_cuda,
#endif
};

int mabn_net_add_softmax_loss(struct mabn_net *net, int scores, const char *name)
{
    struct node *node = mabn_net_add(net, &mabn_node_softmax_loss, name, &scores, 1);
    if (!node) return -1;
    const struct node *x = net_read(net, node, 0);
    if (x->h != 1 || x->w != 1)
        return mabn_net_refuse(net, mabn_fail(MABN_ERR_ARG,
                                              "'%s': expected scores of one pixel, found %lld×%lld",
                                              name, (long long)x->h, (long long)x->w));
    node->own = mabn_xcalloc(1, sizeof(struct own));
    node->h = node->w = node->c = 1;
    return mabn_net_added(net, node);
}

void mabn_net_set_labels(struct mabn_net *net, const char *loss,
                         const struct mabn_net_labels *labels)
{
    struct node *node = mabn_net_loss_node(net, loss, &mabn_node_softmax_loss);
    if (net->backend->set_labels) {
        net->backend->set_labels(net, labels);
        return;
    }
    struct own *own = node->own;
    own->smoothing = labels->smoothing;
    own->normalizer = labels->normalizer;
    memcpy(own->labels, labels->labels, (size_t)net->rows * sizeof *own->labels);
}
