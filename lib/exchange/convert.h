/* Converting checkpoints: from the tensors of a file in any format and naming to the tensors of one
 * of our networks, or to the same tensors in another container.
 *
 *     open      read the table of contents, translate names (names.h), decide what network it is
 *     complain  name the file's tensors without a place and the network's tensors without values
 *     write     stream, one tensor at a time
 *
 * The network is the first of these that there is: the one that `like` holds; the one that the file
 * itself describes, as our own checkpoints do; the one that its names and shapes reveal. The last can
 * be a residual network of model/model.h or a detector of model/detector.h, with the pixels and boxes
 * of the program that uses such names. Without a network names are translated, and missing tensors
 * cannot be noticed. */
#ifndef MABN_EXCHANGE_CONVERT_H
#define MABN_EXCHANGE_CONVERT_H

#include <stdbool.h>

#include "base/progress.h"
#include "base/str.h"
#include "model/model.h"
#include "exchange/names.h"
#include "exchange/weights.h"

MABN_BEGIN_DECLS

enum mabn_convert_body {
    MABN_BODY_AS_IS,
    MABN_BODY_CLASSIFIER, /* keep the body only, under a classifier's names */
    MABN_BODY_DETECTOR,   /* put the body under a detector's names, drop the classifier */
};

/* The network's input: 8-bit pixels in this channel order, minus mean, divided by std. */
enum mabn_convert_pixels {
    MABN_PIXELS_AUTO,        /* as the file says, else by its names and norm */
    MABN_PIXELS_TORCHVISION, /* RGB, mean 123.675 116.28 103.53, std 58.395 57.12 57.375 */
    MABN_PIXELS_REFERENCE,   /* BGR as it is */
    MABN_PIXELS_DETECTRON,   /* BGR, mean 102.9801 115.9465 122.7717 */
};

struct mabn_convert_options {
    int names;         /* enum mabn_names, or -1: guess */
    bool as_is;        /* change the container only */
    bool suffix;       /* match by the longest suffix, as the reference's loader does */
    bool fold_frozen;  /* turn norms into frozen ones: scale and bias */
    bool fold;         /* fold norms into the convolutions before them: for ONNX */
    bool average;      /* use the moving average of the weights that the file also holds */
    bool no_counters;  /* leave out num_batches_tracked, which inference does not use */
    bool weights_only; /* drop momentum, step and state */
    enum mabn_convert_body body;
    enum mabn_convert_pixels pixels;
    int stride_in_1x1;      /* -1: by the names */
    const char *norm;       /* in the syntax of --norm; NULL: from the tensors */
    double frozen_eps;      /* of a detector's frozen norms; < 0: its program's value */
    const char *categories; /* of a detector's classes: a JSON file or dataset, or NULL */
    int to;                 /* enum mabn_names: write a detector for that program; -1: for mabn */
    const char *like;       /* a checkpoint whose names and shapes are used, or NULL */
};
/* Defaults: derive everything, allow no mismatches. */
void mabn_convert_options_init(struct mabn_convert_options *options);

struct mabn_convert;

MABN_MUST_USE mabn_status mabn_convert_open(struct mabn_convert **c, const char *path,
                                            const struct mabn_convert_options *options);
void mabn_convert_free(struct mabn_convert *c); /* NULL is fine */

/* A TSV table: source name, shape, type, our name ("-": no place; a missing one has source "-"). */
void mabn_convert_list(const struct mabn_convert *c, struct mabn_str *tsv);
/* The family of networks that the unmatched names belong to, if it is known but not supported: "a
 * detector of mmdetection". NULL: unknown. */
const char *mabn_convert_other_family(const struct mabn_convert *convert);
/* One line for each unmatched and each missing tensor, at most `limit` of each kind and then the number
 * of the others (limit 0: all). Returns how many there are of both kinds. */
size_t mabn_convert_complain(const struct mabn_convert *c, size_t limit, struct mabn_str *lines);
/* Remarks for the user (what was left out, "weights are not centralized"), a line each; reads the
 * weights. */
MABN_MUST_USE mabn_status mabn_convert_remarks(struct mabn_convert *c, struct mabn_str *lines);
/* The file and the result: "PyTorch zip, names of …, 161 tensors; resnet50, norm mabn, 1000 classes",
 * without the part behind ";" if no network is known. */
void mabn_convert_describe(const struct mabn_convert *c, struct mabn_str *text);
/* True if no tool could use the output: no network is known, none was requested by options, and no name
 * is a detector's. */
bool mabn_convert_is_unknown(const struct mabn_convert *c);

/* `command` and `tool` are recorded. Progress, in bytes, may be NULL. */
MABN_MUST_USE mabn_status mabn_convert_write(struct mabn_convert *c, const char *path,
                                             enum mabn_weights_format format, bool force,
                                             const char *command, const char *tool,
                                             struct mabn_progress *progress);
uint64_t mabn_convert_bytes(const struct mabn_convert *c); /* of all tensors to be written */

/* ---- comparing ---- */

struct mabn_compare {
    size_t tensors, differing, missing; /* compared; beyond tolerance; only in one of the two */
    double max_abs, max_rel;
    char *worst; /* name of the tensor with max_abs, or NULL; caller frees */
};
/* Tensor by tensor, under our names. A value differs when |a − b| > atol + rtol·|b|; NaN equals
 * only NaN. Relative differences are over the larger of |a| and |b|. Lines of TSV for what differs:
 * name, max abs, max rel, index of the worst value; or name and what is wrong. */
MABN_MUST_USE mabn_status mabn_compare_weights(const char *a, const char *b, double atol,
                                               double rtol, struct mabn_compare *result,
                                               struct mabn_str *lines);

MABN_END_DECLS
#endif
