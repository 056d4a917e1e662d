/* What is trained: classification, detection. The loop (train.c), the checkpoints (state.c) and the
 * schedule are the same for all; a task says what a step, an evaluation and a line of the log are.
 *
 * To add a task:
 *   1. a file task_<name>.c with its table, which is declared below;
 *   2. a row in `tasks` (setup.c): the kind of dataset it is for, its default batch and learning rate;
 *      a new kind of dataset is described in store/dataset.h and written by mabn-pack;
 *   3. its model in model/model_file.h;
 *   4. its options in cmd/mabn-train.c and its evaluation in cmd/mabn-eval.c, with man pages;
 *   5. a bats file in tests/cli, as mabn-train-coco.bats.
 * Everything else asks the table.
 *
 * The loop, for a run that was set up and started:
 *
 *     while there are steps     begin (a step; its result may come with a later one)
 *                               finish, when as many are behind as may be: the result into meters
 *         now and then          means (of the meters, into a line), validate, checkpoint
 *     finish, while any is behind  */
#ifndef MABN_TRAIN_TASK_H
#define MABN_TRAIN_TASK_H

#include "base/json_write.h"
#include "base/status.h"
#include "model/model_file.h"
#include "train/train.h"

MABN_BEGIN_DECLS

struct mabn_run;

enum { MABN_MAX_METERS = 16 };

struct mabn_task {
    const char *name;

    /* Sums since the last step line, run->meter. They are saved in checkpoints under these names,
     * so that lines after a resume are the same. */
    int meters;
    const char *const *meter_names;

    /* Figures of a validation that the best can be chosen by, NULL at the end. The default is the first,
     * unless set_up chooses another. */
    const char *const *figures;

    /* Open the datasets; decide on the model, the course (run->course, schedule, steps) and the
     * pictures; build the networks; set run->params; print what was decided. */
    mabn_status (*set_up)(struct mabn_run *run);
    void (*release)(struct mabn_run *run); /* also after a failed set_up */
    /* Step 0: initial parameters, or those of a model. May set run->step, to continue a run of
     * another program. */
    mabn_status (*start)(struct mabn_run *run);
    /* run->step is known: start loading data. */
    mabn_status (*load)(struct mabn_run *run);

    mabn_status (*begin)(struct mabn_run *run, double lr);
    mabn_status (*after)(struct mabn_run *run); /* after run->step was incremented; NULL: nothing */
    int (*behind)(const struct mabn_run *run);  /* steps in flight: begun and not finished */
    int (*depth)(const struct mabn_run *run);   /* the most steps in flight */
    /* Finish the oldest step in flight. For a loss that is not finite return mabn_run_not_finite. */
    mabn_status (*finish)(struct mabn_run *run, int64_t step);

    /* Write the fields of a step line (from the meters), of a start line, of a validation line. */
    void (*means)(struct mabn_run *run, struct mabn_json_writer *line);
    void (*describe)(const struct mabn_run *run, struct mabn_json_writer *line);
    mabn_status (*validate)(struct mabn_run *run, struct mabn_json_writer *line);
    double (*waited)(const struct mabn_run *run); /* seconds spent waiting for data, in total */

    /* Fill in the model's part of a checkpoint. */
    void (*save)(const struct mabn_run *run, struct mabn_model_save *save);
    /* The plan that has the run's loss scale, which checkpoints of runs in float16 keep. */
    struct mabn_net *(*scaled)(const struct mabn_run *run);
    enum mabn_net_precision (*precision)(const struct mabn_run *run);
};

extern const struct mabn_task mabn_task_classify, mabn_task_detect;

MABN_END_DECLS
#endif
