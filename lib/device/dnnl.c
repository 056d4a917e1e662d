/* oneDNN operations with buffers bound at run time. */
#include "device/dnnl.h"

#include "base/mem.h"

mabn_status mabn_dnnl_fail(dnnl_status_t status, const char *call)
{
    if (status == dnnl_out_of_memory) return mabn_fail(MABN_ERR_NOMEM, "oneDNN is out of memory");
    return mabn_fail(MABN_ERR_DNNL, "oneDNN status %d from %s", (int)status, call);
}

static mabn_status init_memory(struct mabn_dnnl_op *op, dnnl_engine_t engine, int arg,
                               const dnnl_memory_desc_t *desc)
{
    dnnl_exec_arg_t *a = &op->args[op->count];
    a->arg = arg;
    MABN_DNNL(dnnl_memory_create(&a->memory, desc, engine, DNNL_MEMORY_NONE));
    op->count++;
    return MABN_OK;
}

mabn_status mabn_dnnl_op_init(struct mabn_dnnl_op *op, struct mabn_device *device,
                              dnnl_primitive_desc_t desc, const struct mabn_dnnl_arg *args,
                              int count)
{
    mabn_status status = MABN_OK;
    dnnl_engine_t engine = mabn_device_dnnl_engine(device);
    *op = (struct mabn_dnnl_op){0};
    if (count >= MABN_DNNL_MAX_ARGS) MABN_BUG("%d arguments", count);
    for (int i = 0; i < count; i++)
        MABN_TRY_GOTO(init_memory(op, engine, args[i].arg, args[i].desc), out);
    const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    if (pad) op->scratch = dnnl_memory_desc_get_size(pad);
    if (op->scratch) MABN_TRY_GOTO(init_memory(op, engine, DNNL_ARG_SCRATCHPAD, pad), out);
    dnnl_status_t made = dnnl_primitive_create(&op->primitive, desc);
    if (made) status = mabn_dnnl_fail(made, "dnnl_primitive_create");
out:
    dnnl_primitive_desc_destroy(desc);
    if (status) mabn_dnnl_op_release(op);
    return status;
}

void mabn_dnnl_op_release(struct mabn_dnnl_op *op)
{
    for (int i = 0; i < op->count; i++)
        dnnl_memory_destroy(op->args[i].memory);
    if (op->primitive) dnnl_primitive_destroy(op->primitive);
    *op = (struct mabn_dnnl_op){0};
}

mabn_status mabn_dnnl_op_run(struct mabn_dnnl_op *op, struct mabn_device *device,
                             void *const *buffers, void *scratch)
{
    int given = op->count - (op->scratch ? 1 : 0);
    dnnl_stream_t stream = mabn_device_dnnl_stream(device);
    for (int i = 0; i < given; i++)
        MABN_DNNL(dnnl_memory_set_data_handle(op->args[i].memory, buffers[i]));
    if (op->scratch) MABN_DNNL(dnnl_memory_set_data_handle(op->args[given].memory, scratch));
    MABN_DNNL(dnnl_primitive_execute(op->primitive, stream, op->count, op->args));
    return MABN_OK;
}

mabn_status mabn_dnnl_reorder_init(struct mabn_dnnl_op *op, struct mabn_device *device,
                                   const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                                   int add)
{
    dnnl_engine_t engine = mabn_device_dnnl_engine(device);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (!s) s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!s) s = dnnl_post_ops_create(&ops);
    if (!s && add) s = dnnl_post_ops_append_sum(ops, 1.0f);
    if (!s && add) s = dnnl_primitive_attr_set_post_ops(attr, ops);
    if (!s) s = dnnl_reorder_primitive_desc_create(&desc, from, engine, to, engine, attr);
    if (ops) dnnl_post_ops_destroy(ops);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (s) return mabn_dnnl_fail(s, "dnnl_reorder_primitive_desc_create");
    struct mabn_dnnl_arg args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    return mabn_dnnl_op_init(op, device, desc, args, 2);
}
