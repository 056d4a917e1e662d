/* Describing a file as text or JSON: datasets, checkpoints, and weights in other programs' formats
 * (exchange/weights.h). The kind of file is recognized by its content.
 *
 * To add a kind of HDF5 file: a value of enum kind in info.c, between DATASET and CHECKPOINT, and a row
 * of its table `kinds`, with the file's "format" and the function that describes it. */
#ifndef MABN_EXCHANGE_INFO_H
#define MABN_EXCHANGE_INFO_H

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"

MABN_BEGIN_DECLS

struct mabn_info_options {
    bool json;   /* one JSON object on one line */
    bool verify; /* compare every checksum; a difference is a failure */
    bool list;   /* every array or tensor (JSON: always) */
    int threads; /* at least 1 */
};

/* Append the description of `path`, with a final newline. */
MABN_MUST_USE mabn_status mabn_info_describe(struct mabn_str *out, const char *path,
                                             const struct mabn_info_options *options);

MABN_END_DECLS
#endif
