/* RoIAlign on a GPU. The boxes lie there, or come from the host with each run. */
#include "net/cuda.cuh"
#include "net/nodes/shared.h"

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    const size_t box = 4 * sizeof(float) + 2 * sizeof(int32_t);
    return mabn_net_get_arena(net, &layer_of(net, node)->own, (size_t)net->options.batch * box);
}

/* Where the boxes lie on the device. */
static struct mabn_cuda_rois on_device(const struct mabn_net *net, const struct node *node,
                                       const struct mabn_rois *given)
{
    if (mabn_node_roi_align_there(node)) {
        const struct mabn_cuda_rois there = {net->rows, net->live, given->box, given->image,
                                             given->level};
        return there;
    }
    const int64_t room = net->options.batch;
    float *box = (float *)layer_of(net, node)->own.base;
    int32_t *image = (int32_t *)(box + 4 * room), *level = image + room;
    const struct mabn_cuda_rois rois = {net->rows, NULL, box, image, level};
    return rois;
}

static mabn_status upload(struct mabn_net *net, const struct mabn_cuda_rois *to,
                          const struct mabn_rois *from)
{
    const size_t n = (size_t)from->count;
    MABN_TRY(mabn_device_put(net->device, (void *)to->box, from->box, n * 4 * sizeof(float)));
    MABN_TRY(mabn_device_put(net->device, (void *)to->image, from->image, n * sizeof(int32_t)));
    if (!from->level) return mabn_device_zero(net->device, (void *)to->level, n * sizeof(int32_t));
    return mabn_device_put(net->device, (void *)to->level, from->level, n * sizeof(int32_t));
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const void *x[MABN_ROI_MAX_LEVELS];
    struct mabn_roi_align op;
    struct mabn_rois given;
    MABN_TRY(mabn_node_roi_align_op(net, node, &op, &given));
    const struct mabn_cuda_rois rois = on_device(net, node, &given);
    if (!mabn_node_roi_align_there(node)) {
        MABN_TRY(mabn_rois_check(&given, &op));
        MABN_TRY(upload(net, &rois, &given));
    }
    for (int k = 0; k < op.levels; k++)
        x[k] = net_read_data(net, node, k);
    return mabn_cuda_roi_align_forward(memory(net, node->data), x, &rois, &op, net->dtype,
                                       net->cuda->stream);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    void *dx[MABN_ROI_MAX_LEVELS];
    struct mabn_roi_align op;
    struct mabn_rois given;
    MABN_TRY(mabn_node_roi_align_op(net, node, &op, &given));
    const struct mabn_cuda_rois rois = on_device(net, node, &given);
    for (int k = 0; k < op.levels; k++)
        if (!(dx[k] = net_dx(net, node, k))) return MABN_OK; /* no gradient is needed */
    if (net->dtype == MABN_DTYPE_F32 && mabn_cuda_roi_align_adds_atomically())
        return mabn_cuda_roi_align_backward_atomic((float *const *)dx,
                                                   (const float *)memory(net, node->grad), &rois,
                                                   &op, net->cuda->stream);
    return mabn_cuda_roi_align_backward(dx, memory(net, node->grad), &rois, &op, true, net->dtype,
                                        net->cuda->stream);
}

extern "C" const struct node_ops mabn_node_roi_align_cuda = {
    false, prepare, forward, backward, NULL, NULL, NULL, NULL, NULL, NULL};
