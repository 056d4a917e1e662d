/* How fast the steps are: see pace.h. */
#include "train/pace.h"

void mabn_pace_start(struct mabn_pace *pace, double time, int64_t done)
{
    *pace = (struct mabn_pace){.done = done, .begun = done, .time = time};
}

void mabn_pace_pause(struct mabn_pace *pace, double seconds)
{
    pace->time += seconds;
}

struct mabn_pace_span mabn_pace_line(struct mabn_pace *pace, double time, double waited,
                                     int64_t done, int64_t begun)
{
    const struct mabn_pace_span none = {0, 0, 0};
    const struct mabn_pace_span span = {done - pace->done, time - pace->time,
                                        waited - pace->waited};
    const bool still = begun == pace->begun;
    struct mabn_pace_span moving = pace->still && !still ? none : pace->moving;
    moving.steps += span.steps;
    moving.seconds += span.seconds;
    moving.waited += span.waited;
    *pace = (struct mabn_pace){moving, still, done, begun, time, waited};
    return still ? moving : span;
}
