/* The loss scale of a run in float16, which a checkpoint keeps so that going on is exact. */
#include "store/h5.h"
#include "train/run.h"

static const char *const scale_names[] = {"loss_scale", "loss_scale_steps"};

mabn_status mabn_run_get_scale(const struct mabn_run *run, const char *const **names,
                               double *values, int *count)
{
    struct mabn_net_loss_scale scale;
    *count = 0;
    if (run->task->precision(run) != MABN_NET_FP16) return MABN_OK;
    MABN_TRY(mabn_net_loss_scale_get(run->task->scaled(run), &scale));
    *names = scale_names;
    values[0] = scale.scale;
    values[1] = scale.steps;
    *count = 2;
    return MABN_OK;
}

/* A run that was in another precision before has none. */
mabn_status mabn_run_set_scale(const struct mabn_run *run, const struct mabn_h5_file *h5)
{
    struct mabn_net_loss_scale scale;
    if (run->task->precision(run) != MABN_NET_FP16 || !mabn_h5_has_attribute(h5, scale_names[0]))
        return MABN_OK;
    MABN_TRY(mabn_h5_get_double(h5, scale_names[0], &scale.scale));
    MABN_TRY(mabn_h5_get_double(h5, scale_names[1], &scale.steps));
    return mabn_net_loss_scale_set(run->task->scaled(run), &scale);
}
