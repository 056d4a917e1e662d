/* Packing image files into a dataset: what `mabn-pack imagenet`, `list` and `coco` share.
 *
 * Files are read by many threads, sniffed by content (never by name), their header's size
 * taken, and either copied as they are or decoded, resized or turned, and encoded again; what is
 * neither JPEG nor PNG becomes PNG. The result does not depend on the number of threads. */
#ifndef MABN_STORE_PACK_H
#define MABN_STORE_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "image/image.h"
#include "store/dataset.h"

MABN_BEGIN_DECLS

struct mabn_pack_options {
    int threads;      /* at least 1 */
    int resize_short; /* shrink a larger short side to this many pixels, as JPEG; 0: never */
    int quality;      /* JPEG quality when encoding again, 1..100 */
    bool verify;      /* decode every image completely */
    bool exif;        /* turn pictures as their EXIF data asks, and encode them again */
    bool skip_bad;    /* warn about images that cannot be used and leave them out */
    /* Called (from any thread) with what an image's header says, before anything is done to it; a
     * failure makes the image a bad one. May be NULL. */
    mabn_status (*check)(void *context, int64_t number, const struct mabn_image_info *info);
    void *context;
};

/* Digest of the inputs' names, of the options that decide the content, and of `command`: for
 * mabn_dataset_spec.key. */
void mabn_pack_key(const char *const *paths, int64_t count, const struct mabn_pack_options *options,
                   const char *command, uint8_t key[16]);

/* Settle all numbers of the writer from `paths` (count entries, as in the spec). Results of an
 * earlier run are kept for files that still have the same size and time. MABN_ERR_STOPPED if
 * mabn_stop_requested(). */
MABN_MUST_USE mabn_status mabn_pack_files(struct mabn_dataset_writer *w, const char *const *paths,
                                          int64_t count, const struct mabn_pack_options *options);

/* Add to a failure's message what is kept for the next run, if anything; returns status. */
mabn_status mabn_pack_say_kept(mabn_status status, const char *path);

struct mabn_listing;
struct mabn_idx;
/* Where the result is written, and what is recorded in it. */
struct mabn_pack_output {
    const char *path;
    bool force;
    const char *command; /* see mabn_dataset_spec */
    const char *tool;    /* "mabn-pack 0.1.0" */
};

/* A whole classification dataset from a listing (store/listing.h). A run that is stopped, killed or
 * meets a bad image leaves its work beside the output; the same call goes on from there. */
MABN_MUST_USE mabn_status mabn_pack_listing(const struct mabn_pack_output *out,
                                            const struct mabn_listing *listing,
                                            const struct mabn_pack_options *options);

/* The same from idx files (store/idx.h): raw images, in one go. classes: names, may be NULL. */
MABN_MUST_USE mabn_status mabn_pack_idx(const struct mabn_pack_output *out,
                                        const struct mabn_idx *images,
                                        const struct mabn_idx *labels, const char *const *classes,
                                        int64_t class_count);

MABN_END_DECLS
#endif
