/* Checkpoints: a network's tensors and everything that is needed to resume training, in one HDF5
 * file.
 *
 * Layout (HDF5; every array contiguous; see store/h5.h for the checks around it):
 *
 *   attributes of /
 *     format          string   "mabn-checkpoint"
 *     version         int64    1
 *     config          string   JSON object: architecture and options, enough to build the network
 *     architecture    string   "resnet50", … (a copy of config's, for people)
 *     step, epoch, sampler_position, seed   int64   where training stands (0 for a fresh network)
 *     norm            string   "bn", "mabn", "frozen", …; as `--norm` takes it
 *     centralized     int64    1: weights are to be centralized when used (mean not yet removed)
 *     folded          int64    1: normalization is already folded into the convolutions
 *     channel_order   string   "rgb" or "bgr": order of the input's channels
 *     mean_0..2, std_0..2  float64  input = (pixel in 0..255 - mean) / std, in channel order
 *     command, tool   string   what made the file
 *   /model/NAME              parameters and buffers under their PyTorch names and in PyTorch
 *                            shapes (convolutions O,I,H,W; linear O,I)
 *   /optimizer/momentum/NAME momentum of parameter NAME, same shape      (training only)
 *   /state/...               whatever else the trainer needs to go on    (training only)
 *
 * Names are given to the functions below without the leading "/": "model/conv1.weight".  */
#ifndef MABN_STORE_CHECKPOINT_H
#define MABN_STORE_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "store/h5.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* What the file says about its weights, and how far training has come. */
struct mabn_checkpoint_meta {
    const char *config;       /* JSON object; NULL reads as "{}" */
    const char *architecture; /* may be "" */
    int64_t step, epoch, sampler_position, seed;
    const char *norm; /* "bn", "mabn", …; "" unknown */
    bool centralized;
    bool folded;
    bool bgr;               /* channel order of the input */
    double mean[3], std[3]; /* std all 0: not given (read as 1) */
    const char *command;    /* may be NULL */
    const char *tool;       /* "mabn-train 0.1.0" */
};
/* Zeros, empty strings, std 1. */
void mabn_checkpoint_meta_init(struct mabn_checkpoint_meta *meta);

/* ---- writing: declare everything, then stream; memory is the caller's one tensor ---- */

struct mabn_checkpoint_writer;

MABN_MUST_USE mabn_status mabn_checkpoint_writer_open(struct mabn_checkpoint_writer **w,
                                                      const char *path, bool force,
                                                      const struct mabn_checkpoint_meta *meta);
MABN_MUST_USE mabn_status mabn_checkpoint_declare(struct mabn_checkpoint_writer *w,
                                                  const char *name, enum mabn_dtype dtype,
                                                  const struct mabn_shape *shape);
/* Further attributes, before the first write; read them with mabn_h5_get_*. */
void mabn_checkpoint_set_string(struct mabn_checkpoint_writer *w, const char *name,
                                const char *value);
void mabn_checkpoint_set_int64(struct mabn_checkpoint_writer *w, const char *name, int64_t value);
void mabn_checkpoint_set_double(struct mabn_checkpoint_writer *w, const char *name, double value);

/* All is declared: lay out the file. The first write does it too. */
MABN_MUST_USE mabn_status mabn_checkpoint_begin(struct mabn_checkpoint_writer *w);
/* One declared tensor, whole, row-major; in any order, each once; after begin, several threads may
 * write different tensors. */
MABN_MUST_USE mabn_status mabn_checkpoint_write(struct mabn_checkpoint_writer *w, const char *name,
                                                const void *data);
/* Fails when a declared tensor was not written. Syncs, reads back and checks, renames. */
MABN_MUST_USE mabn_status mabn_checkpoint_commit(struct mabn_checkpoint_writer *w);
void mabn_checkpoint_writer_free(struct mabn_checkpoint_writer *w); /* NULL is fine */

/* ---- reading ---- */

struct mabn_checkpoint;

MABN_MUST_USE mabn_status mabn_checkpoint_open(struct mabn_checkpoint **c, const char *path);
void mabn_checkpoint_free(struct mabn_checkpoint *c); /* NULL is fine */

/* Strings are borrowed from the checkpoint. */
void mabn_checkpoint_get_meta(const struct mabn_checkpoint *c, struct mabn_checkpoint_meta *meta);
const struct mabn_h5_file *mabn_checkpoint_file(const struct mabn_checkpoint *c);

struct mabn_checkpoint_tensor {
    const char *name; /* "model/conv1.weight" */
    enum mabn_dtype dtype;
    struct mabn_shape shape;
    size_t count, bytes; /* product of the dimensions; count × element size */
};

/* Tensors in the file's order. */
size_t mabn_checkpoint_count(const struct mabn_checkpoint *c);
const struct mabn_checkpoint_tensor *mabn_checkpoint_at(const struct mabn_checkpoint *c, size_t i);
/* NULL when there is none. */
const struct mabn_checkpoint_tensor *mabn_checkpoint_find(const struct mabn_checkpoint *c,
                                                          const char *name);
/* Read one tensor into `data` (tensor->bytes, the file's type) and check its hash. Thread-safe. */
MABN_MUST_USE mabn_status mabn_checkpoint_read(const struct mabn_checkpoint *c,
                                               const struct mabn_checkpoint_tensor *tensor,
                                               void *data);
/* The same by name, after checking that type and shape are as expected. */
MABN_MUST_USE mabn_status mabn_checkpoint_read_as(const struct mabn_checkpoint *c, const char *name,
                                                  enum mabn_dtype dtype,
                                                  const struct mabn_shape *shape, void *data);
/* Check every byte. */
MABN_MUST_USE mabn_status mabn_checkpoint_verify(const struct mabn_checkpoint *c, int threads);

/* ---- a folder of checkpoints: DIR/step-000001000.h5 ---- */

/* malloc'd path for a step. */
char *mabn_checkpoint_step_path(const char *folder, int64_t step);
/* The newest checkpoint (highest step) that verifies completely. *path is malloc'd; NULL if the
 * folder holds none, which is not an error. The reasons why newer ones were skipped are appended to
 * `skipped`, a line each. Fails if the folder holds checkpoints but none verifies. */
MABN_MUST_USE mabn_status mabn_checkpoint_find_latest(const char *folder, char **path,
                                                      struct mabn_str *skipped);
/* The newest whose attributes can be read, without verifying it; NULL if there is none. For
 * settings that are needed before a run is set up. */
struct mabn_checkpoint *mabn_checkpoint_open_newest(const char *folder);
/* Remove all but the newest `keep` (at least 1) step files. */
MABN_MUST_USE mabn_status mabn_checkpoint_prune(const char *folder, int keep);

MABN_END_DECLS
#endif
