#include "train/schedule.h"

#include <math.h>

double mabn_schedule_lr(const struct mabn_schedule *schedule, int64_t step)
{
    double lr = schedule->lr;
    if (step < schedule->warmup && schedule->warmup_factor > 0) {
        const double at = (double)step / (double)schedule->warmup;
        lr *= schedule->warmup_factor * (1 - at) + at;
    } else if (step < schedule->warmup)
        return lr * (double)(step + 1) / (double)schedule->warmup;
    if (schedule->kind == MABN_SCHEDULE_COSINE && step >= schedule->warmup) {
        double length = (double)(schedule->steps - schedule->warmup);
        double at = length > 0 ? (double)(step - schedule->warmup) / length : 1;
        return lr * 0.5 * (1 + cos(M_PI * fmin(at, 1)));
    }
    if (schedule->kind == MABN_SCHEDULE_STEP)
        for (int i = 0; i < schedule->n_milestones && step >= schedule->milestones[i]; i++)
            lr *= schedule->gamma;
    return lr;
}
