/* A user's settings for the norms of a network: one struct for every tool that makes or changes a
 * network. A setting that is not given leaves the network unchanged. */
#ifndef MABN_MODEL_NORM_REQUEST_H
#define MABN_MODEL_NORM_REQUEST_H

#include "model/model.h"

MABN_BEGIN_DECLS

struct mabn_norm_request {
    const char *norm;     /* in the syntax of mabn_model_set_norm; NULL: not given */
    int norm_batch;       /* < 0: not given */
    int window;           /* < 1: not given */
    int window_rule;      /* enum mabn_window_rule; < 0: not given */
    int warmup, r_start;  /* < 0: not given */
    int groups;           /* < 1: not given */
    double eps, momentum; /* 0: not given */
    int sync_weighted;    /* syncbn only; 0 or 1: !sync_reference; < 0: not given */
};
#define MABN_NORM_REQUEST_INIT               \
    {                                        \
        NULL, -1, 0, -1, -1, -1, 0, 0, 0, -1 \
    }

/* The norm of a new network without other settings. */
#define MABN_NORM_DEFAULT "mabn"

/* MABN_ERR_ARG: unknown words. Numbers are checked when the network is built. */
MABN_MUST_USE mabn_status mabn_model_request_norm(struct mabn_model *model,
                                                  const struct mabn_norm_request *request);

/* Apply everything but the kind to one norm. */
void mabn_norm_request_apply(struct mabn_norm_options *norm,
                             const struct mabn_norm_request *request);

MABN_END_DECLS
#endif
