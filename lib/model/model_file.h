/* A network in a checkpoint, as mabn-init and mabn-train write and mabn-eval reads it.
 *
 * On top of the layout in store/checkpoint.h, `config` is the model's description (model/model.h),
 * and there is one more attribute:
 *   input        string   of a classifier: JSON object, how a picture becomes its input when evaluating
 *   categories   string   of a detector: JSON array of objects, each with "id" and "name"
 * With `input` in the file, a user need not repeat how a network was fed in training. */
#ifndef MABN_MODEL_MODEL_FILE_H
#define MABN_MODEL_MODEL_FILE_H

#include "base/status.h"
#include "base/str.h"
#include "image/augment.h"
#include "model/detector.h"
#include "model/model.h"
#include "model/taken.h"
#include "store/checkpoint.h"

MABN_BEGIN_DECLS

/* Holds a classifier or a detector; the other one's fields are not set. */
struct mabn_model_file {
    bool detects;                  /* a detector */
    struct mabn_detector detector; /* detector: its description */
    const char *categories;        /* detector: as above; NULL: not known */
    struct mabn_model model;       /* classifier: its description */
    struct mabn_augment input;     /* classifier: its input when evaluating */
    struct mabn_checkpoint *checkpoint;
    struct mabn_checkpoint_meta meta; /* strings borrowed from the checkpoint */
};

/* Open a file and read all but the tensors. A file without `input` (converted from another format)
 * gets the "imagenet" validation crop with the file's own channel order, mean and deviation. */
MABN_MUST_USE mabn_status mabn_model_file_open(struct mabn_model_file *file, const char *path);
void mabn_model_file_release(struct mabn_model_file *file);

/* Which mismatches are allowed when tensors are loaded. */
struct mabn_model_load {
    bool momentum;      /* also load the optimizer's momentum, to resume exactly */
    bool some_momentum; /* load the momentum that the file has; other parameters keep theirs */
    bool other_state;   /* norm state that is missing in the file keeps its initial value */
    bool other_windows; /* a layer with another window than in the file starts its window and
                         * counter anew and keeps the running variance */
    bool other_head;    /* a classifier ("fc.…") of another shape keeps its initial value */
    bool new_head;      /* and so does one of the same shape */
    bool new_classes;   /* what a detector predicts for each class keeps its initial value */
    /* What a detector predicts for class k, from 0, is what the file's predicts for class_of[k]; NULL:
     * classes are the same. Needs the detector's description. */
    const int *class_of;
    const struct mabn_detector *detector; /* the network's */
    struct mabn_taken *taken;             /* what was taken is added to it; may be NULL */
};
/* Load the file's tensors into a network built for it. A tensor that is missing or has another
 * shape is an error that names it, unless `load` allows it. */
MABN_MUST_USE mabn_status mabn_model_file_load(const struct mabn_model_file *file,
                                               struct mabn_params *params,
                                               const struct mabn_model_load *load);

/* *what: a value or state that is not finite, or a negative variance ("'bn1.running_var' has nan in
 * channel 3"), malloc'd; NULL if there is none. mabn_model_file_load refuses such files. */
MABN_MUST_USE mabn_status mabn_model_find_bad(const struct mabn_params *params, char **what);

/* The tensors of a classifier's body into a detector's: weights, and of the norms' state what a
 * trained network needs (running averages; windows and counters begin anew). What else the detector
 * has keeps its initial values. taken: which is which. */
MABN_MUST_USE mabn_status mabn_model_file_load_body(const struct mabn_model_file *file,
                                                    struct mabn_params *params,
                                                    struct mabn_taken *taken);

/* The norms' state of each shard of a run (train/shards.h), which checkpoints hold besides the mean
 * over shards. */
struct mabn_shard_tensor {
    char *name;
    enum mabn_dtype dtype;
    struct mabn_shape shape; /* (shards, values) */
    char *data;              /* NULL: all shards have the same values, so this is not saved */
};
struct mabn_shard_states {
    struct mabn_shard_tensor *tensors;
    int count;
};

/* What a saved file has besides its network's tensors, for a classifier or a detector. */
struct mabn_model_save {
    const struct mabn_model *model;
    const struct mabn_augment *input;
    const struct mabn_detector *detector; /* NULL: a classifier */
    const char *categories;               /* JSON [{"id":1,"name":"person"},…] in the order of its
                                           * classes; NULL: not known */
    int64_t step, epoch, sampler_position, seed;
    const char *command, *tool;
    bool momentum; /* save the optimizer's state, to resume exactly */
    /* Further attributes: names and values of strings and doubles; may be 0. */
    const char *const *string_names, *const *strings;
    int n_strings;
    const char *const *double_names;
    const double *doubles;
    int n_doubles;
    int shards; /* of the run; 0: neither it nor shard_states are saved */
    const struct mabn_shard_states *shard_states;
};
MABN_MUST_USE mabn_status mabn_model_file_save(const char *path, bool force,
                                               const struct mabn_params *params,
                                               const struct mabn_model_save *save);

/* All but the last part of it: the file has every byte, but is not synced, checked and named yet.
 * mabn_checkpoint_commit does that, also in another thread, while the parameters go on changing. */
MABN_MUST_USE mabn_status mabn_model_file_write(struct mabn_checkpoint_writer **writer,
                                                const char *path, bool force,
                                                const struct mabn_params *params,
                                                const struct mabn_model_save *save);

/* Another input size, with the shorter side before a centre crop in proportion. */
void mabn_input_resize(struct mabn_augment *input, int size);
/* The input description as one JSON object, and back (what is missing keeps its value). */
void mabn_input_to_json(const struct mabn_augment *input, struct mabn_str *json);
MABN_MUST_USE mabn_status mabn_input_from_json(struct mabn_augment *input, const char *json,
                                               const char *name);

MABN_END_DECLS
#endif
