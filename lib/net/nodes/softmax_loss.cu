/* Softmax cross-entropy on a GPU. Labels and normalizer lie there, or travel with the pictures
 * (run_cuda.cu). */
#include "net/cuda.cuh"

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct net_cuda *c = net->cuda;
    const struct node *scores = net_read(net, node, 0);
    const struct mabn_cuda_xent out = {c->losses, c->ranks, NULL, &c->figures->total};
    return mabn_cuda_softmax_xent(&out, (const float *)net_read_data(net, node, 0),
                                  c->labels_at ? c->labels_at : c->labels, net->rows, scores->c,
                                  c->smoothing, NULL, net->dtype, c->stream);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct net_cuda *c = net->cuda;
    const struct node *scores = net_read(net, node, 0);
    const struct mabn_cuda_xent out = {c->losses, c->ranks, net_dx(net, node, 0), NULL};
    MABN_TRY(mabn_cuda_loss_share(c->share,
                                  c->normalizer_at ? c->normalizer_at : &c->inputs->normalizer,
                                  c->scaler ? &c->scaler->scale : NULL, c->stream));
    return mabn_cuda_softmax_xent(&out, (const float *)net_read_data(net, node, 0),
                                  c->labels_at ? c->labels_at : c->labels, net->rows, scores->c,
                                  c->smoothing, c->share, net->dtype, c->stream);
}

extern "C" const struct node_ops mabn_node_softmax_loss_cuda = {
    false, NULL, forward, backward, NULL, NULL, NULL, NULL, NULL, NULL};
