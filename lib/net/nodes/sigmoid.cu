/* The sigmoid on a GPU. */
#include "net/cuda.cuh"

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    return mabn_cuda_sigmoid(memory(net, node->data), net_read_data(net, node, 0),
                             net->rows * net_row(node), net->dtype, net->cuda->stream);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    void *dx = net_dx(net, node, 0);
    if (!dx) return MABN_OK;
    return mabn_cuda_sigmoid_backward(dx, memory(net, node->grad), memory(net, node->data),
                                      net->rows * net_row(node), net->dtype, net->cuda->stream);
}

extern "C" const struct node_ops mabn_node_sigmoid_cuda = {false, NULL, forward, backward, NULL,
                                                           NULL,  NULL, NULL,    NULL,     NULL};
