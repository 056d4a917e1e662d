/* Running a planned network: the order of nodes and passes, which both backends share. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "net/internal.h"
#include "net/packed.h"
#include "net/losses.h"

/* ---- precision ---- */

const struct mabn_word mabn_net_precisions[] = {
    {MABN_NET_AUTO, "auto"}, {MABN_NET_FP32, "fp32"}, {MABN_NET_TF32, "tf32"},
    {MABN_NET_BF16, "bf16"}, {MABN_NET_FP16, "fp16"}, {0, NULL},
};

const char *mabn_net_precision_name(enum mabn_net_precision precision)
{
    return mabn_word_name(mabn_net_precisions, precision);
}

/* ---- one thing at a time ---- */

mabn_status mabn_net_check(struct mabn_net *net)
{
    if (!net->status) return MABN_OK;
    char *message = net->message;
    net->message = NULL;
    return mabn_error_attach(net->status, message);
}

/* A plan without live rows computes nothing. But other shards may have rows, and their SyncBN waits for
 * this one. */
static mabn_status meet(struct mabn_net *net, bool backwards)
{
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[backwards ? net->node_count - 1 - i : i];
        if (net_ops(net, node)->meet) MABN_TRY(net_ops(net, node)->meet(net, node, backwards));
    }
    return MABN_OK;
}

mabn_status mabn_net_forward(struct mabn_net *net)
{
    MABN_TRY(mabn_net_check(net));
    if (net->rows) return net->backend->forward(net);
    for (int i = 0; i < net->node_count; i++)
        net->nodes[i].loss = 0;
    return net->options.training && net->options.sync ? meet(net, false) : MABN_OK;
}

static mabn_status check_training(const struct mabn_net *net)
{
    if (net->options.training) return MABN_OK;
    return mabn_fail(MABN_ERR_ARG, "this network was built for inference");
}

/* Without live rows nothing is computed, and gradients are zero. */
static mabn_status clear_gradients(struct mabn_net *net)
{
    for (int i = 0; i < net->node_count && !net->accumulate; i++) {
        const int all[] = {net->nodes[i].weight, net->nodes[i].bias, net->nodes[i].act};
        for (int k = 0; k < 3; k++)
            if (net_gradient(net, all[k]))
                MABN_TRY(mabn_device_zero(net->device, net_gradient(net, all[k]),
                                          net->params->list[all[k]].count * sizeof(float)));
    }
    return MABN_OK;
}

mabn_status mabn_net_backward(struct mabn_net *net)
{
    MABN_TRY(check_training(net));
    net->record_count = 0;
    if (net->rows) return net->backend->backward(net);
    MABN_TRY(clear_gradients(net));
    return net->options.sync ? meet(net, true) : MABN_OK;
}

void mabn_net_accumulate(struct mabn_net *net, bool accumulate)
{
    net->accumulate = accumulate;
}

/* A parameter's gradient is done after the backward of the first node that uses it. */
static void find_ready(struct mabn_net *net)
{
    size_t before = 0; /* end of the parameters that earlier nodes use */
    net->ready_from = mabn_xcalloc((size_t)net->node_count, sizeof *net->ready_from);
    for (int i = 0; i < net->node_count; i++) {
        const int all[] = {net->nodes[i].weight, net->nodes[i].bias, net->nodes[i].act};
        net->ready_from[i] = before;
        for (int k = 0; k < 3; k++) {
            if (all[k] < 0) continue;
            const struct parameter *p = &net->params->list[all[k]];
            if (p->offset + p->count > before) before = p->offset + p->count;
        }
    }
}

void mabn_net_tell_gradients(struct mabn_net *net, mabn_net_ready ready, void *context)
{
    net->ready = ready;
    net->ready_context = context;
    if (ready && !net->ready_from) find_ready(net);
}

mabn_status mabn_net_input_again(struct mabn_net *net, const struct node *reader,
                                 const void **input)
{
    struct node *x = net_read(net, reader, 0);
    *input = x->again >= 0 ? net_buffer(net, x->again) : net_data(net, x);
    if (x->again < 0 || &net->nodes[x->remake_for] != reader) return MABN_OK;
    return net_ops(net, x)->remake(net, x);
}

mabn_status mabn_net_update(struct mabn_net *net, const struct mabn_params_sgd *sgd)
{
    MABN_TRY(check_training(net));
    return net->backend->update(net, sgd);
}

mabn_status mabn_net_time_convolutions(struct mabn_net *net, double *seconds)
{
    MABN_TRY(mabn_net_check(net));
    return net->backend->time_convolutions(net, seconds);
}

mabn_status mabn_net_record_norm(struct mabn_net *net, const struct node *node,
                                 const struct mabn_norm_io *io)
{
    struct mabn_net_record *records = net->records + net->record_count;
    int count = 0;
    for (int i = 0; i < net->record_channel_count; i++)
        if (net->record_channels[i] < node->c)
            net->record_fitting[count++] = net->record_channels[i];
    if (!count) return MABN_OK;
    MABN_TRY(mabn_norm_record(&node->norm, io, 0, net->record_fitting, count, net->record_reference,
                              net->record_values));
    for (int i = 0; i < count; i++) {
        const struct mabn_norm_record *v = &net->record_values[i];
        records[i] = (struct mabn_net_record){
            node->name, net->record_fitting[i], v->mu_x, v->var_x, v->mu_g, v->mu_gy};
    }
    net->record_count += count;
    return MABN_OK;
}

/* ---- steps ---- */

mabn_status mabn_net_step(struct mabn_net *net, const struct mabn_params_sgd *sgd)
{
    MABN_TRY(mabn_net_check(net));
    if (sgd && !net->options.training)
        return mabn_fail(MABN_ERR_ARG, "a step of inference updates nothing");
    const int most = sgd || !net->options.training ? net->backend->depth : 1;
    if (net->behind >= most)
        return mabn_fail(MABN_ERR_ARG, "the result of an earlier step was not fetched");
    net->record_count = 0;
    MABN_TRY(net->backend->step(net, sgd));
    net->behind++;
    return MABN_OK;
}

mabn_status mabn_net_result(struct mabn_net *net, struct mabn_net_result *result)
{
    if (!net->behind) return mabn_fail(MABN_ERR_ARG, "there is no step to fetch the result of");
    MABN_TRY(net->backend->result(net, result));
    net->behind--;
    return MABN_OK;
}

mabn_status mabn_net_loss_scale_get(struct mabn_net *net, struct mabn_net_loss_scale *scale)
{
    *scale = (struct mabn_net_loss_scale){1, 0};
    return net->backend->get_scale ? net->backend->get_scale(net, scale) : MABN_OK;
}

mabn_status mabn_net_loss_scale_set(struct mabn_net *net, const struct mabn_net_loss_scale *scale)
{
    return net->backend->set_scale ? net->backend->set_scale(net, scale) : MABN_OK;
}

int mabn_net_behind(const struct mabn_net *net)
{
    return net->behind;
}

int mabn_net_depth(const struct mabn_net *net)
{
    return net->backend->depth;
}

/* ---- what goes in and comes out ---- */

void mabn_net_set_rows(struct mabn_net *net, int64_t rows)
{
    if (rows < 0 || rows > net->options.batch || (!net->options.vary_rows && rows != net->rows))
        MABN_BUG("%lld rows in a plan for %d", (long long)rows, net->options.batch);
    net->rows = rows;
}

struct mabn_net_output mabn_net_output_of(const struct mabn_net *net, const char *name)
{
    for (int i = 0; i < net->output_count; i++) {
        const struct node *node = &net->nodes[net->outputs[i].node];
        if (strcmp(net->outputs[i].name, name)) continue;
        const bool ours = net_loss_reads(net, net->outputs[i].node);
        float *gradient = ours ? NULL : net_buffer(net, node->grad);
        return (struct mabn_net_output){net_data(net, node),
                                        gradient,
                                        net->rows,
                                        node->h,
                                        node->w,
                                        node->c,
                                        net_scores(net, net->outputs[i].node) ? MABN_DTYPE_F32
                                                                              : node->dtype};
    }
    MABN_BUG("the network has no output '%s'", name);
}

struct node *mabn_net_loss_node(const struct mabn_net *net, const char *name,
                                const struct node_kind *kind)
{
    for (int i = 0; i < net->node_count; i++) {
        struct node *node = &net->nodes[i];
        if (node->kind->loss && (!kind || node->kind == kind) && !strcmp(node->name, name))
            return node;
    }
    MABN_BUG("the network has no loss '%s' of this kind", name);
}

double mabn_net_loss_of(const struct mabn_net *net, const char *loss)
{
    return mabn_net_loss_node(net, loss, NULL)->loss;
}

float *mabn_net_input(struct mabn_net *net)
{
    if (net->options.bytes) MABN_BUG("this network takes bytes");
    if (net->options.feed) MABN_BUG("this network is fed");
    return net->backend->input(net);
}

uint8_t *mabn_net_bytes(struct mabn_net *net)
{
    if (!net->options.bytes) MABN_BUG("this network takes floats");
    return net->backend->input(net);
}

mabn_status mabn_net_byte_table(struct mabn_net *net, const float *table)
{
    if (!net->options.bytes) MABN_BUG("this network takes floats");
    return net->backend->byte_table(net, table);
}

bool mabn_net_takes_bytes(const struct mabn_net *net)
{
    return net->options.bytes;
}

const float *mabn_net_logits(const struct mabn_net *net)
{
    return net->backend->logits(net);
}

/* ---- small questions ---- */

enum mabn_net_precision mabn_net_precision_of(const struct mabn_net *net)
{
    return net->options.precision;
}

int mabn_net_batch(const struct mabn_net *net)
{
    return net->options.batch;
}

int mabn_net_classes(const struct mabn_net *net)
{
    return (int)net->nodes[net->output].c;
}

struct mabn_shape mabn_net_input_shape(const struct mabn_net *net)
{
    const struct mabn_net_options *o = &net->options;
    return MABN_SHAPE(4, o->batch, o->height, o->width, o->channels);
}

void mabn_net_record(struct mabn_net *net, const int *channels, int count, bool reference)
{
    size_t wanted = (size_t)count, norms = 0;
    for (int i = 0; i < net->node_count; i++)
        norms += net_has_state(&net->nodes[i]);
    free(net->record_channels);
    free(net->record_fitting);
    free(net->record_values);
    free(net->records);
    net->record_channels = mabn_xcalloc(wanted + 1, sizeof *net->record_channels);
    net->record_fitting = mabn_xcalloc(wanted + 1, sizeof *net->record_fitting);
    net->record_values = mabn_xcalloc(wanted + 1, sizeof *net->record_values);
    net->records = mabn_xcalloc(wanted * norms + 1, sizeof *net->records);
    for (int i = 0; i < count; i++)
        net->record_channels[i] = channels[i];
    net->record_channel_count = count;
    net->record_reference = reference;
    net->record_count = 0;
}

const struct mabn_net_record *mabn_net_records(const struct mabn_net *net, int *count)
{
    *count = net->record_count;
    return net->records;
}

struct mabn_net_memory mabn_net_memory_of(const struct mabn_net *net)
{
    const size_t parameters = net->packed.bytes + mabn_packed_bytes(net->params) +
                              (net->owns_params ? mabn_params_bytes(net->params) : 0);
    return (struct mabn_net_memory){
        .activations = net->activations.bytes,
        .parameters = parameters,
        .scratch = net->weight_bytes + net->scratch_bytes + net->arena_bytes -
                   net->activations.bytes - net->packed.bytes,
    };
}
