/* How fast the steps are, from step line to step line.
 *
 * On a GPU a step's result comes while the next one runs, and where the steps stop, at the end and
 * before a validation or a checkpoint, the last two results come at once. A line without a step
 * begun since the one before it would tell of a moment: it gives the mean over all lines since the
 * steps last stood still so. */
#ifndef MABN_TRAIN_PACE_H
#define MABN_TRAIN_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_pace_span {
    int64_t steps;
    double seconds, waited; /* waited: of these, for images */
};

struct mabn_pace {
    struct mabn_pace_span moving; /* since the steps stood still */
    bool still;                   /* they did at the last line */
    int64_t done, begun;          /* steps, when it was written; */
    double time, waited;          /* then, and in all */
};

/* Begin at `time`, `done` steps into the run, without having waited. */
void mabn_pace_start(struct mabn_pace *pace, double time, int64_t done);
/* Something else took `seconds`. */
void mabn_pace_pause(struct mabn_pace *pace, double seconds);
/* A line at `time`: the figures that it gives. */
struct mabn_pace_span mabn_pace_line(struct mabn_pace *pace, double time, double waited,
                                     int64_t done, int64_t begun);

MABN_END_DECLS
#endif
