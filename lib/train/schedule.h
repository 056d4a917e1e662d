/* Learning rates: a function of the step alone, so a resumed run needs no state for them. */
#ifndef MABN_TRAIN_SCHEDULE_H
#define MABN_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum mabn_schedule_kind {
    MABN_SCHEDULE_STEP,   /* times gamma at each milestone */
    MABN_SCHEDULE_COSINE, /* half a cosine: lr at step `warmup`, 0 at step `steps`, which is one
                           * after the last: no step has rate 0 */
    MABN_SCHEDULE_CONSTANT,
};

enum { MABN_MAX_MILESTONES = 16 };

struct mabn_schedule {
    enum mabn_schedule_kind kind;
    double lr;            /* the peak: --lr after scaling */
    int64_t steps;        /* of the whole run */
    int64_t warmup;       /* steps of linear rise: step s < warmup has lr·(s+1)/warmup */
    double warmup_factor; /* > 0: step s < warmup has lr·(f·(1 − s/warmup) + s/warmup) instead */
    int64_t milestones[MABN_MAX_MILESTONES]; /* ascending; from each of these steps on the rate is
                                              * multiplied by gamma */
    int n_milestones;
    double gamma;
};

/* The rate of step 0, 1, … */
double mabn_schedule_lr(const struct mabn_schedule *schedule, int64_t step);

MABN_END_DECLS
#endif
