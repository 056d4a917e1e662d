/* A normalization layer with the operations after it: y = act(norm(x) [+ shortcut]).
 *
 * In inference a norm that folds is computed by the convolution before it, at the norm's place in
 * the list, and the result is added to the shortcut's buffer. In training a norm without statistics
 * overwrites its input, as inference does. */
#include "net/nodes/shared.h"

/* The mask of ReLU comes from x, or from the output where x is not kept or a shortcut was added. */
static bool keeps(const struct node *node, int k)
{
    return k == 0 && mabn_norm_measures(node->norm.options.kind);
}

static bool keeps_output(const struct node *node)
{
    return node->io.relu && (node->reads[1] >= 0 || !keeps(node, 0));
}

bool mabn_node_norm_has_mask(const struct node *node)
{
    return keeps_output(node);
}

static size_t saved_bytes(const struct mabn_net *net, const struct node *node)
{
    return mabn_norm_saved_bytes(&node->norm, net->options.batch);
}

/* The shortcut's gradient is the output's gradient after ReLU; the input's gradient may overwrite
 * it. */
static bool takes_over(const struct node *node, int k)
{
    (void)node;
    return k < 2;
}

static int over(const struct mabn_net *net, const struct node *node)
{
    (void)net;
    return node->folded >= 0 ? node->reads[1] : node->reads[0];
}

/* The convolution before norm i, if only the norm reads it; otherwise -1. */
static int lone_conv(const struct mabn_net *net, int i)
{
    const int conv = net->nodes[i].reads[0];
    if (!net->nodes[conv].kind->takes_norms || mabn_net_only_reader(net, conv) != i) return -1;
    return net_is_output(net, conv) ? -1 : conv;
}

static void join(struct mabn_net *net, int i)
{
    struct node *norm = &net->nodes[i];
    const int conv = lone_conv(net, i);
    if (conv < 0) return;
    if (net->options.training) {
        if (!net->backend->pairs) return;
        norm->neighbour = conv;
        net->nodes[conv].neighbour = i;
        /* With MABN the convolution may run in the norm's place, and its input is read then. */
        if (norm->norm.options.kind == MABN_NORM_MABN) net->nodes[conv].runs_at = i;
    } else if (!net->options.no_fold && mabn_norm_folds(norm->norm.options.kind)) {
        norm->folded = conv;
        net->nodes[conv].folded = i;
        net->nodes[conv].runs_at = i;
    }
}

static void attributes(const struct node *node, struct mabn_net_node *told)
{
    told->norm = &node->norm.options;
    told->relu = node->io.relu;
}

/* ---- on the CPU ---- */

static void bind_gradients(struct mabn_net *net, struct node *node)
{
    struct mabn_norm_io *io = &node->io;
    const struct node *shortcut = net_read(net, node, 1);
    io->dy = net_buffer(net, node->grad);
    io->dx = net_dx(net, node, 0);
    io->dresidual = shortcut && shortcut->trains ? net_dx(net, node, 1) : NULL;
    io->dgamma = net_gradient(net, node->weight);
    io->dbeta = net_gradient(net, node->bias);
    io->dact = net_gradient(net, node->act);
}

static mabn_status prepare(struct mabn_net *net, struct node *node)
{
    struct mabn_norm_io *io = &node->io;
    io->samples = net->options.batch;
    io->dtype = node->dtype;
    io->positions = node->h * node->w;
    io->gamma = net_weight(net, node->weight);
    io->beta = net_weight(net, node->bias);
    io->act = net_weight(net, node->act);
    io->state = params_state(net->params, node->state);
    io->saved = net_buffer(net, node->extra);
    io->x = net_read_data(net, node, 0);
    io->residual = node->reads[1] >= 0 ? net_read_data(net, node, 1) : NULL;
    io->y = net_buffer(net, node->data);
    if (net->options.training) bind_gradients(net, node);
    net_request_scratch(net, 0, mabn_norm_scratch_bytes(&node->norm, io->samples, io->positions));
    return MABN_OK;
}

static mabn_status bind_run(struct mabn_net *net, struct node *node)
{
    struct scratch s;
    MABN_TRY(mabn_net_scratch(net, &s));
    node->io.scratch = s.ops;
    node->io.samples = net->rows;
    return MABN_OK;
}

static mabn_status forward(struct mabn_net *net, struct node *node)
{
    if (node->folded >= 0) return mabn_node_conv_infer_for(net, node->folded, node);
    MABN_TRY(bind_run(net, node));
    node->io.y = net_buffer(net, node->data);
    mabn_status status = net->options.training ? mabn_norm_forward(&node->norm, &node->io)
                                               : mabn_norm_infer(&node->norm, &node->io);
    return status ? mabn_fail_prefix(status, "'%s'", node->name) : MABN_OK;
}

static int again_or_data(const struct node *node)
{
    return node->again >= 0 ? node->again : node->data;
}

static mabn_status backward(struct mabn_net *net, struct node *node)
{
    MABN_TRY(bind_run(net, node));
    /* An output that was not kept may have been overwritten. */
    node->io.y = keeps_output(node) ? net_buffer(net, again_or_data(node)) : NULL;
    node->io.accumulate = net_adds(net, node);
    MABN_TRY(mabn_net_record_norm(net, node, &node->io)); /* before dy may be overwritten */
    return mabn_norm_backward(&node->norm, &node->io);
}

static mabn_status remake(struct mabn_net *net, struct node *node)
{
    MABN_TRY(bind_run(net, node));
    node->io.y = net_buffer(net, node->again);
    return mabn_norm_reapply(&node->norm, &node->io);
}

static mabn_status meet(struct mabn_net *net, struct node *node, bool backwards)
{
    if (!mabn_node_norm_meets(node)) return MABN_OK;
    MABN_TRY(bind_run(net, node));
    node->io.y = net_buffer(net, node->data);
    node->io.accumulate = net_adds(net, node);
    return backwards ? mabn_norm_backward(&node->norm, &node->io)
                     : mabn_norm_forward(&node->norm, &node->io);
}

static const struct node_ops cpu = {.half = true,
                                    .prepare = prepare,
                                    .forward = forward,
                                    .backward = backward,
                                    .remake = remake,
                                    .meet = meet};

/* ---- what it moves ---- */

/* fused: the next convolution does the ReLU and the shortcut's gradient. */
static double backward_bytes(const struct mabn_net *net, const struct node *node, bool fused)
{
    const struct node *shortcut = net_read(net, node, 1);
    double bytes = 2 * mabn_net_gradient_bytes(net, node) + mabn_net_output_bytes(net, node);
    if (fused) return bytes;
    if (shortcut && node->io.relu) bytes += mabn_net_output_bytes(net, node);
    if (shortcut && shortcut->trains) bytes += mabn_net_gradient_bytes(net, node);
    return bytes;
}

static void describe(const struct mabn_net *net, const struct node *node,
                     const struct net_layer_time *time, struct mabn_net_layer *layer)
{
    if (time->with_conv) {
        layer->kind = "convolution and norm";
        mabn_node_conv_describe_in(net, net_read(net, node, 0), node, layer);
    } else {
        layer->forward_bytes = 2 * mabn_net_output_bytes(net, node);
        if (node->reads[1] >= 0) layer->forward_bytes += mabn_net_output_bytes(net, node);
    }
    layer->backward_bytes = backward_bytes(net, node, time->fused);
}

const struct node_kind mabn_node_norm = {
    .name = "norm",
    .keeps = keeps,
    .keeps_output = keeps_output,
    .saved_bytes = saved_bytes,
    .takes_over = takes_over,
    .over = over,
    .remakes = true,
    .one_type = true,
    .join = join,
    .attributes = attributes,
    .describe = describe,
    .cpu = &cpu,
#if MABN_CUDA
    .cuda = &mabn_node_norm_cuda,
#endif
};

static void declare_affine(struct mabn_net *net, struct node *node)
{
    const bool buffer = !mabn_norm_trains(node->norm.options.kind);
    struct parameter gamma = {.kind = PARAMETER_GAMMA, .buffer = buffer, .fill = FILL_ONE};
    struct parameter beta = {.kind = PARAMETER_BETA, .buffer = buffer, .fill = FILL_ZERO};
    mabn_net_declare(net, node, &node->weight, "weight", MABN_SHAPE(1, node->c), &gamma);
    mabn_net_declare(net, node, &node->bias, "bias", MABN_SHAPE(1, node->c), &beta);
}

/* A norm's own activation takes the place of ReLU. FRN's comes after the shortcut is added.
 * EvoNorm-S0 has its activation only where there is no shortcut, as its authors do; with a shortcut
 * it is linear, followed by the sum and ReLU. */
static bool has_act(const struct node *node)
{
    const enum mabn_norm_kind kind = node->norm.options.kind;
    return node->io.relu && mabn_norm_act_name(kind) &&
           (kind != MABN_NORM_EVONORM_S0 || node->reads[1] < 0);
}

static void declare_act(struct mabn_net *net, struct node *node)
{
    const enum mabn_norm_kind kind = node->norm.options.kind;
    struct parameter act = {.kind = PARAMETER_GAMMA,
                            .fill = kind == MABN_NORM_FRN ? FILL_ZERO : FILL_ONE};
    if (!has_act(node)) return;
    mabn_net_declare(net, node, &node->act, mabn_norm_act_name(kind), MABN_SHAPE(1, node->c), &act);
}

/* Over a single value the variance is 0 and every output is beta, whatever the input: such a layer
 * learns nothing and passes no gradient back. MABN is not affected: it averages over many
 * statistics and subtracts no mean. */
static mabn_status check_statistics(const struct mabn_net *net, const struct node *node)
{
    const enum mabn_norm_kind kind = node->norm.options.kind;
    const int batch = net->options.batch, asked = node->norm.options.norm_batch;
    const int64_t samples = asked < 1 || asked > batch ? batch : asked;
    if (net->options.training && kind == MABN_NORM_FRN && node->h * node->w == 1)
        return mabn_fail(MABN_ERR_ARG,
                         "'%s': norm frn over a single position keeps only the sign of a value: "
                         "use larger pictures or another norm",
                         node->name);
    const bool grouped = kind == MABN_NORM_GN || kind == MABN_NORM_LN || kind == MABN_NORM_IN ||
                         kind == MABN_NORM_EVONORM_S0;
    if (net->options.training && grouped &&
        node->c / node->norm.options.groups * node->h * node->w == 1)
        return mabn_fail(MABN_ERR_ARG,
                         "'%s': norm %s over one value (%lldx%lld, as many groups as channels): "
                         "use larger pictures, fewer groups or another norm",
                         node->name, mabn_norm_kind_name(kind), (long long)node->h,
                         (long long)node->w);
    if (!net->options.training || net->options.sync || samples * node->h * node->w != 1 ||
        (kind != MABN_NORM_BN && kind != MABN_NORM_BRN))
        return MABN_OK;
    return mabn_fail(MABN_ERR_ARG,
                     "'%s': a batch statistic over one value (%lld sample of %lldx%lld): use a "
                     "larger norm batch, larger pictures or another norm",
                     node->name, (long long)samples, (long long)node->h, (long long)node->w);
}

int mabn_net_add_norm(struct mabn_net *net, int x, const char *name,
                      const struct mabn_norm_options *norm, int residual, bool relu)
{
    struct node *node = mabn_net_add(net, &mabn_node_norm, name, (int[]){x, residual}, 2);
    if (!node) return -1;
    const struct node *in = net_read(net, node, 0), *r = net_read(net, node, 1);
    node->h = in->h;
    node->w = in->w;
    node->c = in->c;
    node->io.relu = relu;
    if (r && (r->h != in->h || r->w != in->w || r->c != in->c))
        return mabn_net_refuse(
            net, mabn_fail(MABN_ERR_ARG, "'%s': the shortcut has another shape", name));
    mabn_status status = mabn_norm_init(&node->norm, norm, (int)in->c);
    if (status) return mabn_net_refuse(net, mabn_fail_prefix(status, "'%s'", name));
    status = check_statistics(net, node);
    if (status) return mabn_net_refuse(net, status);
    node->norm.sync = net->options.sync;
    if (mabn_norm_has_affine(norm->kind)) declare_affine(net, node);
    declare_act(net, node);
    status = mabn_params_declare_state(net->params, &node->state, name, &node->norm);
    if (status) return mabn_net_refuse(net, status);
    return net->status ? -1 : mabn_net_added(net, node);
}
