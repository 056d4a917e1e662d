/* What a user asks of a network's norms: one struct for every tool that makes or changes a network.
 * What is not asked stays as the network has it. */
#ifndef MABN_MODEL_NORM_REQUEST_H
#define MABN_MODEL_NORM_REQUEST_H

#include "model/model.h"

MABN_BEGIN_DECLS

struct mabn_norm_request {
    const char *norm;     /* as mabn_model_set_norm takes it; NULL: not asked */
    int norm_batch;       /* < 0: not asked */
    int window;           /* < 1: not asked */
    int window_rule;      /* enum mabn_window_rule; < 0: not asked */
    int warmup, r_start;  /* < 0: not asked */
    int groups;           /* < 1: not asked */
    double eps, momentum; /* 0: not asked */
    int sync_weighted;    /* 0 or 1: !sync_reference; < 0: not asked */
};
#define MABN_NORM_REQUEST_INIT               \
    {                                        \
        NULL, -1, 0, -1, -1, -1, 0, 0, 0, -1 \
    }

/* The norm of a new network of which nothing is asked. */
#define MABN_NORM_DEFAULT "mabn"

/* MABN_ERR_ARG: unknown words. Numbers are checked when the network is built. */
MABN_MUST_USE mabn_status mabn_model_request_norm(struct mabn_model *model,
                                                  const struct mabn_norm_request *request);

/* All but the kind, to one norm. */
void mabn_norm_request_apply(struct mabn_norm_options *norm,
                             const struct mabn_norm_request *request);

MABN_END_DECLS
#endif
