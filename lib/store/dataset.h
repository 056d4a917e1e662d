/* Packed image datasets: many images in one HDF5 file, read by many threads without locks.
 *
 * Layout (HDF5; every array contiguous; see store/h5.h for the checks around it):
 *
 *   attributes of /
 *     format        string   "mabn-dataset"
 *     version       int64    1
 *     kind          string   "imagenet" (one label an image) or "coco" (annotations, below)
 *     encoding      string   "encoded" (each image as JPEG or PNG bytes) or "raw" (uint8, H×W×C)
 *     count         int64    N, number of images
 *     classes       int64    K, number of classes (0: none)
 *     command       string   the options that decided the content; not -j, not the output's name
 *     tool          string   "mabn-pack 0.1.0"
 *     height, width, channels  int64  (raw only) the shape of every image
 *   /images/bytes     u8  (total)  all images end to end
 *   /images/offset    u64 (N)      where image i begins in /images/bytes
 *   /images/length    u32 (N)      its bytes
 *   /images/height    u32 (N)      pixels, as the file's header says (EXIF rotation not applied)
 *   /images/width     u32 (N)
 *   /images/channels  u8  (N)      1 gray, 2 gray+alpha, 3 colour, 4 CMYK or colour+alpha
 *   /images/format    u8  (N)      0 raw, 1 JPEG, 2 PNG
 *   /images/checksum  u64 (N)      XXH3-64 (seed 0) of the image's bytes
 *   /images/name      string (N)   path below the packed folder, or as listed   (optional)
 *   /labels           i32 (N)      class of image i, in [0,K)                    (imagenet)
 *   /classes          string (K)   class names                                   (optional)
 *
 * Other kinds add groups of their own (/coco/...) with mabn_dataset_writer_add_array,
 * and read them with store/h5.h on mabn_dataset_file(). */
#ifndef MABN_STORE_DATASET_H
#define MABN_STORE_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "store/h5.h"

MABN_BEGIN_DECLS

enum mabn_dataset_format {
    MABN_DATASET_RAW = 0,
    MABN_DATASET_JPEG = 1,
    MABN_DATASET_PNG = 2,
};

/* ---- writing ----
 *
 * Images are numbered 0..count-1 by the caller and may be added by many threads; the file's bytes
 * depend only on the numbers. Every number is settled once, by _add or _skip; a thread waits in
 * _add until all lower numbers have got their places, so hand numbers out one at a time in rising
 * order (mabn_parallel with grain 1) and call _cancel when a number cannot be settled. Skipped
 * images leave no trace: the samples behind them move up.
 *
 *     mabn_dataset_writer_open(&w, path, &spec);
 *     for i in [mabn_dataset_writer_done(w), count): _add or _skip      (from many threads)
 *     mabn_dataset_writer_set_labels(w, labels); ..._add_array(w, "/coco/boxes", ...);
 *     mabn_dataset_writer_commit(w);
 *     mabn_dataset_writer_free(w, keep_partial); */

struct mabn_dataset_writer;

struct mabn_dataset_spec {
    const char *kind;            /* "imagenet", "coco" */
    bool raw;                    /* all images are uint8 of the shape below */
    int height, width, channels; /* raw only */
    int64_t count;               /* numbers that will be settled */
    const char *command;         /* recorded; leave out what does not change the content */
    bool force;                  /* replace an existing file */
    /* A digest of what decides the content (names of the inputs, options). With a key a killed run
     * is continued by the next with the same key: its work lies in PATH.partial and PATH.journal.
     * All zero: not restartable. */
    uint8_t key[16];
};

struct mabn_dataset_sample {
    const void *bytes; /* (size) borrowed */
    size_t size;       /* at most 1 GiB */
    int height, width, channels;
    enum mabn_dataset_format format;
    uint64_t source; /* fingerprint of the input (size, time), to see that it changed; may be 0 */
};

MABN_MUST_USE mabn_status mabn_dataset_writer_open(struct mabn_dataset_writer **w, const char *path,
                                                   const struct mabn_dataset_spec *spec);
/* Numbers below this one were settled by the run that this one continues; 0 for a new file. */
int64_t mabn_dataset_writer_done(const struct mabn_dataset_writer *w);
/* The fingerprint that `number` was settled with. */
uint64_t mabn_dataset_writer_source(const struct mabn_dataset_writer *w, int64_t number);
bool mabn_dataset_writer_skipped(const struct mabn_dataset_writer *w, int64_t number);
/* Settle again from `number` on (its input has changed since); before the first _add. */
MABN_MUST_USE mabn_status mabn_dataset_writer_rewind(struct mabn_dataset_writer *w, int64_t number);

MABN_MUST_USE mabn_status mabn_dataset_writer_add(struct mabn_dataset_writer *w, int64_t number,
                                                  const struct mabn_dataset_sample *sample);
MABN_MUST_USE mabn_status mabn_dataset_writer_skip(struct mabn_dataset_writer *w, int64_t number,
                                                   uint64_t source);
/* `number` will not be settled: adding a higher one returns MABN_ERR_STOPPED; lower ones can still
 * be added. */
void mabn_dataset_writer_cancel(struct mabn_dataset_writer *w, int64_t number);

/* After the last image: */
int64_t mabn_dataset_writer_kept(const struct mabn_dataset_writer *w); /* N */
/* Place of image `number` in the file, or -1 when it was skipped. */
int64_t mabn_dataset_writer_place(struct mabn_dataset_writer *w, int64_t number);
/* By number (count entries); entries of skipped images are dropped. Copied. */
MABN_MUST_USE mabn_status mabn_dataset_writer_set_labels(struct mabn_dataset_writer *w,
                                                         const int32_t *labels /* (count) */);
MABN_MUST_USE mabn_status mabn_dataset_writer_set_names(struct mabn_dataset_writer *w,
                                                        const char *const *names /* (count) */);
MABN_MUST_USE mabn_status mabn_dataset_writer_set_classes(struct mabn_dataset_writer *w,
                                                          const char *const *names /* (classes) */,
                                                          int64_t classes);
/* Anything else, as it is to stand in the file. Copied. */
MABN_MUST_USE mabn_status mabn_dataset_writer_add_array(struct mabn_dataset_writer *w,
                                                        const char *name, enum mabn_h5_type type,
                                                        int rank, const uint64_t *dims,
                                                        const void *data);
void mabn_dataset_writer_set_string(struct mabn_dataset_writer *w, const char *attribute,
                                    const char *value);
void mabn_dataset_writer_set_int64(struct mabn_dataset_writer *w, const char *attribute,
                                   int64_t value);

MABN_MUST_USE mabn_status mabn_dataset_writer_commit(struct mabn_dataset_writer *w);
/* Free. If not committed, remove what was written, or with `keep_partial` keep it to be continued,
 * unless writing itself failed, so that a full disk does not stay full. NULL is fine. */
void mabn_dataset_writer_free(struct mabn_dataset_writer *w, bool keep_partial);

/* ---- reading ---- */

struct mabn_dataset;

/* Checks everything but the images' bytes. */
MABN_MUST_USE mabn_status mabn_dataset_open(struct mabn_dataset **ds, const char *path);
void mabn_dataset_free(struct mabn_dataset *ds); /* NULL is fine */

const char *mabn_dataset_path(const struct mabn_dataset *ds);
const char *mabn_dataset_kind(const struct mabn_dataset *ds);
int64_t mabn_dataset_count(const struct mabn_dataset *ds);
bool mabn_dataset_is_raw(const struct mabn_dataset *ds);
/* The file itself, for the arrays of other groups (annotations). */
const struct mabn_h5_file *mabn_dataset_file(const struct mabn_dataset *ds);

/* Image i: a pointer into the mapped file, valid until the dataset is freed. Its checksum is
 * compared (a small fraction of decoding it). Thread-safe, no locks. */
MABN_MUST_USE mabn_status mabn_dataset_image(const struct mabn_dataset *ds, int64_t i,
                                             const uint8_t **bytes, size_t *size);
enum mabn_dataset_format mabn_dataset_image_format(const struct mabn_dataset *ds, int64_t i);
int mabn_dataset_image_height(const struct mabn_dataset *ds, int64_t i);
int mabn_dataset_image_width(const struct mabn_dataset *ds, int64_t i);
int mabn_dataset_image_channels(const struct mabn_dataset *ds, int64_t i);
/* Name of image i into buf (cut to fit; "#i" when the file has no names); returns buf. */
char *mabn_dataset_image_name(const struct mabn_dataset *ds, int64_t i, char *buf, size_t size);
/* Tell the kernel that image i will be read soon (for files that are not cached). */
void mabn_dataset_prefetch(const struct mabn_dataset *ds, int64_t i);

/* Labels and classes; -1, 0 and NULL when the file has none. */
int mabn_dataset_label(const struct mabn_dataset *ds, int64_t i);
bool mabn_dataset_has_labels(const struct mabn_dataset *ds);
int mabn_dataset_classes(const struct mabn_dataset *ds);
const char *mabn_dataset_class_name(const struct mabn_dataset *ds, int class_index);

/* A digest of the samples: images (by their checksums), their order, labels and names of classes.
 * File names and the packing command do not count. */
uint64_t mabn_dataset_identity(const struct mabn_dataset *ds);

/* Check every byte: all arrays and all images. */
MABN_MUST_USE mabn_status mabn_dataset_verify(const struct mabn_dataset *ds, int threads);

MABN_END_DECLS
#endif
