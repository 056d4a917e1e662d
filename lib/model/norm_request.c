#include "model/norm_request.h"

void mabn_norm_request_apply(struct mabn_norm_options *n, const struct mabn_norm_request *request)
{
    if (request->norm_batch >= 0) n->norm_batch = request->norm_batch;
    if (request->window > 0) n->window = request->window;
    if (request->window_rule >= 0) n->window_rule = (enum mabn_window_rule)request->window_rule;
    if (request->warmup >= 0) n->warmup = request->warmup;
    if (request->r_start >= 0) n->r_start = request->r_start;
    if (request->groups > 0) n->groups = request->groups;
    if (request->eps > 0) n->eps = request->eps;
    if (request->momentum > 0) n->momentum = request->momentum;
    if (request->sync_weighted >= 0 && n->kind == MABN_NORM_SYNCBN)
        n->sync_reference = !request->sync_weighted;
}

mabn_status mabn_model_request_norm(struct mabn_model *model,
                                    const struct mabn_norm_request *request)
{
    if (request->norm) MABN_TRY(mabn_model_set_norm(model, request->norm));
    for (int p = 0; p < MABN_MODEL_PARTS; p++)
        mabn_norm_request_apply(&model->norm[p], request);
    return MABN_OK;
}
