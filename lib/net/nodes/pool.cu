/* Max pooling, and the mean over an image, on a GPU. */
#include "net/cuda.cuh"

static struct mabn_pool_shape pool_shape(const struct mabn_net *net, const struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    const struct mabn_pool_shape shape = {
        net->rows, x->h, x->w, x->c, node->conv.kernel, node->conv.stride, node->conv.pad};
    return shape;
}

static mabn_status max_forward(struct mabn_net *net, struct node *node)
{
    const struct mabn_pool_shape shape = pool_shape(net, node);
    return mabn_cuda_maxpool_forward(memory(net, node->data), (uint8_t *)memory(net, node->extra),
                                     net_read_data(net, node, 0), &shape, net->dtype,
                                     net->cuda->stream);
}

static mabn_status max_backward(struct mabn_net *net, struct node *node)
{
    const struct mabn_pool_shape shape = pool_shape(net, node);
    if (!net_read(net, node, 0)->trains) return MABN_OK;
    return mabn_cuda_maxpool_backward(net_dx(net, node, 0), memory(net, node->grad),
                                      (uint8_t *)memory(net, node->extra), &shape, net->dtype,
                                      net->cuda->stream);
}

static mabn_status mean_forward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    return mabn_cuda_avgpool_forward(memory(net, node->data), net_read_data(net, node, 0),
                                     net->rows, x->h * x->w, x->c, net->dtype, net->cuda->stream);
}

static mabn_status mean_backward(struct mabn_net *net, struct node *node)
{
    const struct node *x = net_read(net, node, 0);
    if (!x->trains) return MABN_OK;
    return mabn_cuda_avgpool_backward(net_dx(net, node, 0), memory(net, node->grad), net->rows,
                                      x->h * x->w, x->c, net->dtype, net->cuda->stream);
}

extern "C" const struct node_ops mabn_node_max_pool_cuda = {
    false, NULL, max_forward, max_backward, NULL, NULL, NULL, NULL, NULL, NULL};
extern "C" const struct node_ops mabn_node_global_pool_cuda = {
    false, NULL, mean_forward, mean_backward, NULL, NULL, NULL, NULL, NULL, NULL};
