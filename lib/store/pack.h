/* Packing image files into a dataset: what `mabn-pack imagenet`, `list` and `coco` share.
 *
 * Files are read by many threads, sniffed by content (never by name), their header's size
 * taken, and either copied as they are or decoded, resized and encoded again. The result does not
 * depend on the number of threads. */
#ifndef MABN_STORE_PACK_H
#define MABN_STORE_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "store/dataset.h"

MABN_BEGIN_DECLS

struct mabn_pack_options {
    int threads;      /* at least 1 */
    int resize_short; /* shrink the short side to this many pixels; 0: leave images as they are */
    int quality;      /* JPEG quality when encoding again, 1..100 */
    bool verify;      /* decode every image completely */
    bool skip_bad;    /* warn about images that cannot be used and leave them out */
    /* Called (from any thread) with the size an image's header gives, before resizing; a failure
     * makes the image a bad one. May be NULL. */
    mabn_status (*check)(void *context, int64_t number, int height, int width);
    void *context;
};

/* Digest of the inputs for mabn_dataset_spec.key: every path with its file's size and time, the
 * options that change the content, and `extra` (the canonical command). Missing files count as
 * size -1: they are reported when they are read. */
void mabn_pack_key(const char *const *paths, int64_t count, const char *extra, uint8_t key[16]);

/* Settle all numbers of the writer from `paths` (count entries, as the spec said). Checks
 * mabn_stop_requested(): then MABN_ERR_STOPPED. */
MABN_MUST_USE mabn_status mabn_pack_files(struct mabn_dataset_writer *w, const char *const *paths,
                                          int64_t count, const struct mabn_pack_options *options);

MABN_END_DECLS
#endif
