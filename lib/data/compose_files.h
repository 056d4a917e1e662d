/* Composed scenes (compose.h) as a folder that tools for COCO read:
 *
 *   FOLDER/images/000000000001.png …   one file a scene; or .jpg
 *   FOLDER/instances.json              images, categories and annotations in COCO's form
 *
 * Image ids are 1, 2, 3, …, category ids 1 + class. Masks are polygons that COCO's rule fills to
 * exactly the pixels (coco/outline.h), or compressed run lengths. The annotation file is written
 * last, whole or not at all: a folder that has one is complete. The bytes depend on the options,
 * never on the number of threads. */
#ifndef MABN_DATA_COMPOSE_FILES_H
#define MABN_DATA_COMPOSE_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/compose.h"

MABN_BEGIN_DECLS

struct mabn_compose_output {
    const char *folder; /* created if missing */
    uint64_t count;     /* scenes, ≥ 1 */
    bool force;         /* replace an existing annotation file */
    bool run_lengths;   /* masks as run lengths, not polygons */
    int quality;        /* of JPEG files, 1…100; 0: PNG */
    int threads;        /* ≥ 1 */
    const char *tool;   /* "mabn-compose 0.1.0", for the file's "info" */
};

struct mabn_compose_totals {
    uint64_t objects, left_out; /* because they would hide too much */
};

MABN_MUST_USE mabn_status mabn_compose_files(struct mabn_compose_totals *totals,
                                             const struct mabn_cutouts *cutouts,
                                             const struct mabn_compose_options *options,
                                             const struct mabn_compose_output *output);

MABN_END_DECLS
#endif
