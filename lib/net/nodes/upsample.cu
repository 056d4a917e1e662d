/* Upsampling with addition on a GPU. */
#include "net/cuda.cuh"
#include "net/nodes/shared.h"

enum { FINE, COARSE };

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const struct mabn_upsample op = mabn_node_upsample_op(net, node);
    return mabn_cuda_upsample_add(memory(net, node->data), net_read_data(net, node, FINE),
                                  net_read_data(net, node, COARSE), &op, net->dtype,
                                  net->cuda->stream);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    const struct mabn_upsample op = mabn_node_upsample_op(net, node);
    void *dfine = net_dx(net, node, FINE), *dcoarse = net_dx(net, node, COARSE);
    const void *dy = memory(net, node->grad);
    if (dcoarse)
        MABN_TRY(mabn_cuda_upsample_backward(dcoarse, dy, &op, node->dx_adds[COARSE], net->dtype,
                                             net->cuda->stream));
    if (!dfine || dfine == dy) return MABN_OK;
    return mabn_net_cuda_copy(net, dfine, dy, rows_bytes(net, node));
}

extern "C" const struct node_ops mabn_node_upsample_cuda = {false, NULL, forward, backward, NULL,
                                                            NULL,  NULL, NULL,    NULL,     NULL};
