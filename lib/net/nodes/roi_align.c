/* RoIAlign: boxes of several feature maps, which are inputs bound to another plan's outputs, become
 * the rows of this plan. The boxes come with the run (mabn_net_set_rois). */
#include "ops/roi_align.h"

#include "base/mem.h"
#include "net/internal.h"

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

/* The shapes are those of what is bound now. */
static mabn_status describe_call(const struct mabn_net *net, const struct node *node,
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

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    const float *x[MABN_ROI_MAX_LEVELS];
    struct mabn_roi_align op;
    struct mabn_rois rois;
    MABN_TRY(describe_call(net, node, &op, &rois));
    for (int k = 0; k < op.levels; k++)
        x[k] = net_read_data(net, node, k);
    return mabn_roi_align_forward(net_buffer(net, node->data), x, &rois, &op);
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    float *dx[MABN_ROI_MAX_LEVELS];
    struct mabn_roi_align op;
    struct mabn_rois rois;
    MABN_TRY(describe_call(net, node, &op, &rois));
    for (int k = 0; k < op.levels; k++)
        if (!(dx[k] = net_dx(net, node, k))) return MABN_OK; /* nobody wants it */
    return mabn_roi_align_backward(dx, net_buffer(net, node->grad), &rois, &op, true);
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    /* Four corners and four samples a bin, most of them in the cache: only what is written. */
    (void)time;
    layer->forward_bytes = mabn_net_output_bytes(net, node);
    layer->backward_bytes = mabn_net_gradient_bytes(net, node);
}

static const struct node_ops cpu = {.forward = forward, .backward = backward};

const struct node_kind mabn_node_roi_align = {
    .name = "roi align",
    .describe = describe,
    .cpu = &cpu,
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
}
