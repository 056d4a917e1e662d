/* Named tensors in a file of any format: one view over PyTorch's .pth (zip and legacy stream),
 * Detectron's numpy .pkl, safetensors, ONNX initialisers and our own HDF5 checkpoints.
 *
 * The format is recognised by content, never by the file's name. Opening reads only the table of
 * contents and checks it against the file's size; each tensor is then read on demand, contiguous
 * (C order) and little-endian in the caller's buffer, so a program needs memory for its largest
 * tensor only. What the file holds is sorted into
 *
 *   parts     MODEL     tensors of the network, under the names of the file. Nests such as
 *                       {model: …}, {state_dict: …} or {blobs: …} are opened; a `module.` in
 *                       front of every name is removed, as the reference's loader does, and
 *                       what torch.compile and its like put into names ("_orig_mod."). So is a
 *                       `module.` within or before some names, unless two names would become one.
 *             MOMENTUM  the optimizer's momentum buffer of the model tensor of the same name.
 *             OTHER     every other tensor, under its dotted path.
 *   notes     small facts, key → text: numbers and strings of the pickle's nest by dotted path
 *             ("iteration", "optimizer.lr"), safetensors' __metadata__, our
 *             attributes. A writer stores them and a reader finds them again, in every format.
 *
 * Nothing in a file can run code. Only ONNX files can name other files, in or below their own folder.
 * Sizes are compared with the file's before they are used. See pickle.h, zip.h, safetensors.c and onnx.h
 * for what is accepted. */
#ifndef MABN_EXCHANGE_WEIGHTS_H
#define MABN_EXCHANGE_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

enum {
    MABN_WEIGHT_MAX_NAME = 4096,   /* bytes, without the NUL */
    MABN_WEIGHT_MAX_COUNT = 65536, /* tensors in a file */
};

enum mabn_weight_part { MABN_WEIGHT_MODEL, MABN_WEIGHT_MOMENTUM, MABN_WEIGHT_OTHER };

struct mabn_weight {
    const char *name; /* unique within its part */
    enum mabn_weight_part part;
    enum mabn_dtype dtype;
    struct mabn_shape shape; /* PyTorch's order: OIHW for convolutions */
    size_t count;            /* of elements: the product of the dimensions */
    size_t bytes;            /* count × the size of one */
};

enum mabn_weights_format {
    MABN_WEIGHTS_HDF5,
    MABN_WEIGHTS_TORCH, /* zip */
    MABN_WEIGHTS_TORCH_LEGACY,
    MABN_WEIGHTS_PICKLE, /* numpy arrays, as Detectron and detectron2 write them */
    MABN_WEIGHTS_SAFETENSORS,
    MABN_WEIGHTS_ONNX,
};
const char *mabn_weights_format_name(enum mabn_weights_format format); /* "PyTorch zip" */
/* By the ending of a file's name (".pth"); false when no format has it. */
bool mabn_weights_format_by_ending(enum mabn_weights_format *format, const char *path);

/* ---- reading ---- */

struct mabn_weights;

MABN_MUST_USE mabn_status mabn_weights_open(struct mabn_weights **out, const char *path);
/* The same over bytes in memory (borrowed until free); `name` is for messages. HDF5 and ONNX's external
 * data are refused. */
MABN_MUST_USE mabn_status mabn_weights_open_memory(struct mabn_weights **out, const void *bytes,
                                                   size_t size, const char *name);
void mabn_weights_free(struct mabn_weights *w); /* NULL is fine */

enum mabn_weights_format mabn_weights_format_of(const struct mabn_weights *w);
const char *mabn_weights_path(const struct mabn_weights *w);
/* All that was removed from names, quoted ("'module.', '_orig_mod.'"); "": nothing. */
const char *mabn_weights_stripped(const struct mabn_weights *w);

/* What was left out or chosen while the file was read, a line each; "" when there is nothing. */
const char *mabn_weights_remarks(const struct mabn_weights *w);
/* The key of a moving average of the weights that the file holds too, or NULL. */
const char *mabn_weights_average(const struct mabn_weights *w);
/* Use the average as the MODEL, with what it lacks from the weights; momentum, which belongs to the
 * weights, is dropped. Nothing changes where the MODEL is an average itself. Fails if there is none.
 * Indices change. */
MABN_MUST_USE mabn_status mabn_weights_use_average(struct mabn_weights *w);
/* Cut the prefix off all names of MODEL and MOMENTUM that begin with it and are longer. */
MABN_MUST_USE mabn_status mabn_weights_cut_prefix(struct mabn_weights *w, const char *prefix);

size_t mabn_weights_count(const struct mabn_weights *w);
/* Entries are in the file's own order. The pointer lives as long as w. */
const struct mabn_weight *mabn_weights_at(const struct mabn_weights *w, size_t index);
/* Index of the entry, or -1. */
int64_t mabn_weights_find(const struct mabn_weights *w, enum mabn_weight_part part,
                          const char *name);
/* The tensor as it is stored: at(index)->bytes bytes. */
MABN_MUST_USE mabn_status mabn_weights_read(struct mabn_weights *w, size_t index, void *out);
/* The tensor converted to float32: at(index)->count numbers. */
MABN_MUST_USE mabn_status mabn_weights_read_f32(struct mabn_weights *w, size_t index, float *out);

size_t mabn_weights_note_count(const struct mabn_weights *w);
/* key and *value live as long as w. */
const char *mabn_weights_note_at(const struct mabn_weights *w, size_t index, const char **value);
/* NULL when there is no such note. */
const char *mabn_weights_note(const struct mabn_weights *w, const char *key);

/* ---- writing ---- */

/* 1. create, 2. declare every tensor and note, 3. write each tensor whole, in any order (after
 * begin, several threads may write different tensors), 4. commit. The target appears whole or not
 * at all. Output depends on the input only: the same calls give the same bytes. */
struct mabn_weights_writer;

MABN_MUST_USE mabn_status mabn_weights_create(struct mabn_weights_writer **out, const char *path,
                                              enum mabn_weights_format format, bool force);
/* Name, part, dtype and shape of *w are used; count and bytes are computed. */
MABN_MUST_USE mabn_status mabn_weights_declare(struct mabn_weights_writer *writer,
                                               const struct mabn_weight *w);
MABN_MUST_USE mabn_status mabn_weights_set_note(struct mabn_weights_writer *writer, const char *key,
                                                const char *value);
/* All is declared: create the output. The first write does it too. */
MABN_MUST_USE mabn_status mabn_weights_begin(struct mabn_weights_writer *writer);
/* index: position in the order of declaration. */
MABN_MUST_USE mabn_status mabn_weights_write(struct mabn_weights_writer *writer, size_t index,
                                             const void *data);
MABN_MUST_USE mabn_status mabn_weights_commit(struct mabn_weights_writer *writer);
/* Also to be called after commit; an uncommitted output is removed. NULL is fine. */
void mabn_weights_writer_free(struct mabn_weights_writer *writer);

MABN_END_DECLS
#endif
