/* RoIAlign: each box, pooled from one of several feature maps, becomes a row of this plan. The maps
 * are inputs bound to another plan's outputs; the boxes are set for each run (mabn_net_set_rois).
 * Maps are float32; rows in bfloat16 go through float32 scratch, PORTION at a time. */
#include "ops/roi_align.h"

#include "base/mem.h"
#include "net/nodes/shared.h"
#include "tensor/bf16.h"

enum { PORTION = 64 };

struct own {
    struct mabn_net_roi_align options;
    struct mabn_net_rois rois;
};

static int feature_count(const struct node *node)
{
    int count = 0;
    while (count < NODE_MAX_READS && node->reads[count] >= 0)
        count++;
    return count;
}

bool mabn_node_roi_align_there(const struct node *node)
{
    return ((const struct own *)node->own)->rois.on_device;
}

mabn_status mabn_node_roi_align_op(const struct mabn_net *net, const struct node *node,
                                   struct mabn_roi_align *op, struct mabn_rois *rois)
{
    const struct own *own = node->own;
    *op = (struct mabn_roi_align){.channels = node->c,
                                  .levels = feature_count(node),
                                  .rows = own->options.size,
                                  .columns = own->options.size,
                                  .sampling = own->options.sampling,
                                  .aligned = own->options.aligned};
    for (int k = 0; k < op->levels; k++) {
        const struct mabn_net_binding *b = &net_read(net, node, k)->binding;
        if (!b->values) return mabn_fail(MABN_ERR_ARG, "'%s' is not bound", node->name);
        op->images = b->n;
        op->level[k] = (struct mabn_roi_level){b->h, b->w, own->options.scale[k]};
    }
    *rois = (struct mabn_rois){net->rows, own->rois.boxes, own->rois.image, own->rois.level};
    return MABN_OK;
}

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    if (node->dtype != MABN_DTYPE_F32)
        net_request_scratch(net, (size_t)(PORTION * net_row(node)) * sizeof(float), 0);
    return MABN_OK;
}

/* The boxes from `begin` on, at most PORTION. */
static struct mabn_rois portion(const struct mabn_rois *all, int64_t begin)
{
    const int64_t left = all->count - begin;
    return (struct mabn_rois){left < PORTION ? left : PORTION, all->box + 4 * begin,
                              all->image + begin, all->level ? all->level + begin : NULL};
}

static mabn_status forward_half(struct mabn_net *net, const struct node *node,
                                const float *const *x, const struct mabn_rois *rois,
                                const struct mabn_roi_align *op)
{
    uint16_t *y = net_buffer(net, node->data);
    struct scratch s;
    MABN_TRY(mabn_net_scratch(net, &s));
    for (int64_t begin = 0; begin < rois->count; begin += PORTION) {
        const struct mabn_rois some = portion(rois, begin);
        MABN_TRY(mabn_roi_align_forward(s.weights, x, &some, op));
        mabn_bf16_narrow(y + begin * net_row(node), s.weights, some.count * net_row(node));
    }
    return MABN_OK;
}

static mabn_status backward_half(struct mabn_net *net, const struct node *node, float *const *dx,
                                 const struct mabn_rois *rois, const struct mabn_roi_align *op)
{
    const uint16_t *dy = net_buffer(net, node->grad);
    struct scratch s;
    MABN_TRY(mabn_net_scratch(net, &s));
    for (int64_t begin = 0; begin < rois->count; begin += PORTION) {
        const struct mabn_rois some = portion(rois, begin);
        mabn_bf16_widen(s.weights, dy + begin * net_row(node), some.count * net_row(node));
        MABN_TRY(mabn_roi_align_backward(dx, s.weights, &some, op, true));
    }
    return MABN_OK;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const float *x[MABN_ROI_MAX_LEVELS];
    struct mabn_roi_align op;
    struct mabn_rois rois;
    MABN_TRY(mabn_node_roi_align_op(net, node, &op, &rois));
    for (int k = 0; k < op.levels; k++)
        x[k] = net_read_data(net, node, k);
    if (node->dtype == MABN_DTYPE_BF16) return forward_half(net, node, x, &rois, &op);
    return mabn_roi_align_forward(net_buffer(net, node->data), x, &rois, &op);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    float *dx[MABN_ROI_MAX_LEVELS];
    struct mabn_roi_align op;
    struct mabn_rois rois;
    MABN_TRY(mabn_node_roi_align_op(net, node, &op, &rois));
    for (int k = 0; k < op.levels; k++)
        if (!(dx[k] = net_dx(net, node, k))) return MABN_OK; /* no gradient is needed */
    if (node->dtype == MABN_DTYPE_BF16) return backward_half(net, node, dx, &rois, &op);
    return mabn_roi_align_backward(dx, net_buffer(net, node->grad), &rois, &op, true);
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    /* Each bin reads four corners of four samples, most of them from the cache: only writes are
     * counted. */
    (void)time;
    layer->forward_bytes = mabn_net_output_bytes(net, node);
    layer->backward_bytes = mabn_net_gradient_bytes(net, node);
}

static const struct node_ops cpu = {
    .half = true, .prepare = prepare, .forward = forward, .backward = backward};

const struct node_kind mabn_node_roi_align = {
    .name = "roi align",
    .describe = describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_roi_align_cuda,
#endif
};

int mabn_net_add_roi_align(struct mabn_net *net, const char *name, const int *features, int count,
                           const struct mabn_net_roi_align *options)
{
    if (count < 1 || count > NODE_MAX_READS) MABN_BUG("RoIAlign of %d maps", count);
    struct node *node = mabn_net_add(net, &mabn_node_roi_align, name, features, count);
    if (!node) return -1;
    struct own *own = node->own = mabn_xcalloc(1, sizeof *own);
    own->options = *options;
    node->h = node->w = options->size;
    node->c = net_read(net, node, 0)->c;
    for (int k = 0; k < count; k++) {
        const struct node *x = net_read(net, node, k);
        if (!x->bound || x->c != node->c)
            return mabn_net_refuse(
                net, mabn_fail(MABN_ERR_ARG, "'%s' reads bound inputs of one width", name));
    }
    return mabn_net_added(net, node);
}

void mabn_net_set_rois(struct mabn_net *net, int node, const struct mabn_net_rois *rois)
{
    if (node < 0 || node >= net->node_count || net->nodes[node].kind != &mabn_node_roi_align)
        MABN_BUG("node %d is no RoIAlign", node);
    ((struct own *)net->nodes[node].own)->rois = *rois;
    mabn_net_set_rows(net, rois->count);
    net->live = rois->live;
}
