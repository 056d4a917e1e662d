/* The speed of the steps, from step line to step line.
 *
 * On a GPU a step's result arrives while the next one runs. Where the steps pause, at the end and
 * before a validation or a checkpoint, the last two results arrive at once. A line without a new
 * step since the previous one would measure only a moment, so it gives the mean over all lines
 * since the last pause. */
#ifndef MABN_TRAIN_PACE_H
#define MABN_TRAIN_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_pace_span {
    int64_t steps;
    double seconds, waited; /* waited: the part of it spent waiting for images */
};

struct mabn_pace {
    struct mabn_pace_span moving; /* since the last pause */
    bool still;                   /* the steps had paused at the last line */
    int64_t done, begun;          /* steps at the last line */
    double time;                  /* of the last line */
    double waited;                /* in all, up to the last line */
};

/* Start at `time` (seconds), `done` steps into the run, with no time waited. */
void mabn_pace_start(struct mabn_pace *pace, double time, int64_t done);
/* Leave out `seconds` that were spent on something else. */
void mabn_pace_pause(struct mabn_pace *pace, double seconds);
/* A line at `time`, in seconds. Returns the steps that it covers, and the seconds that they took and
 * waited. waited: seconds in all. done, begun: steps of the run that are finished and begun. */
struct mabn_pace_span mabn_pace_line(struct mabn_pace *pace, double time, double waited,
                                     int64_t done, int64_t begun);

MABN_END_DECLS
#endif
