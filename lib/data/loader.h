/* The loader: decode threads that turn samples into batches of pictures of one size, ahead of the
 * network (ring.h). A batch says by number which samples it holds. What is known of a sample, such
 * as its label, the caller looks up by that number.
 *
 * Threads write each sample straight into its row of a batch. What a batch holds is a function of
 * the options, the seed and its (epoch, index) alone, never of the number of threads or of timing.
 *
 *     struct mabn_loader_options options;
 *     mabn_loader_options_init(&options);
 *     options.augment = …; options.sampler = …; options.batch = 32;
 *     MABN_TRY(mabn_loader_new(&loader, &source, &options));
 *     while (!(status = mabn_loader_next(loader, &batch)) && batch) …
 *     mabn_loader_free(loader);
 */
#ifndef MABN_DATA_LOADER_H
#define MABN_DATA_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/sampler.h"
#include "image/augment.h"

MABN_BEGIN_DECLS

/* ---- where samples come from ---- */

/* One stored picture: encoded bytes, or pixels when width > 0. Borrowed from the source, at least
 * until the same thread asks it for another. */
struct mabn_sample {
    const uint8_t *bytes;
    size_t size;
    int width, height, channels; /* of raw pixels (height,width,channels); 0 when encoded */
};

/* Samples 0…count−1. The functions are called from many threads at once. `name` writes a sample's name
 * for messages; `prefetch` announces that a sample will be read soon. Both may be NULL. */
struct mabn_source {
    uint64_t count;
    mabn_status (*get)(const void *context, uint64_t index, struct mabn_sample *sample);
    void (*name)(const void *context, uint64_t index, char *text, size_t capacity);
    void (*prefetch)(const void *context, uint64_t index);
    const void *context; /* borrowed */
};

struct mabn_dataset;
/* The samples of an open dataset (store/dataset.h), which must outlive the source. */
void mabn_source_of_dataset(struct mabn_source *source, const struct mabn_dataset *dataset);

/* ---- batches ---- */

/* Stands for a sample that was left out: its row is zero. */
#define MABN_NO_SAMPLE UINT64_MAX

struct mabn_batch {
    float *x;          /* (batch,height,width,channels); rows from `count` on are zero */
    uint8_t *bytes;    /* with options.bytes, in place of x; mabn_augment_table gives the floats */
    uint64_t *samples; /* (batch) index in the source, or MABN_NO_SAMPLE */
    int count;         /* samples of this rank: options.batch, fewer in a kept last batch */
    uint64_t epoch;
    uint64_t index; /* in the epoch */
};

struct mabn_loader_options {
    struct mabn_augment augment;
    struct mabn_sampler sampler;
    int batch;       /* samples of this rank in a batch */
    int rank, ranks; /* 0 of 1 */
    int threads;     /* decode threads; 0: as many as the process may use */
    int ahead;       /* finished batches kept ready; default 2 */
    bool bytes;      /* pictures as bytes; only if mabn_augment_has_bytes */
    bool keep_last;  /* deliver the short last batch of an epoch (evaluation) */
    bool skip_bad;   /* replace an unreadable sample by the next readable one, and count it */
    bool leave_out;  /* leave an unreadable sample out: for evaluation, which uses each sample
                      * once */
    uint64_t epochs; /* stop before this epoch; 0: endless */
    uint64_t first_epoch, first_index; /* where to start */
};
/* All zero except ranks 1 and ahead 2; the caller fills in augment, sampler and batch. The
 * sampler's seed is also used for augmentation. */
void mabn_loader_options_init(struct mabn_loader_options *options);

struct mabn_loader;
/* Checks everything and starts the threads. The source is copied, its context borrowed. */
MABN_MUST_USE mabn_status mabn_loader_new(struct mabn_loader **loader,
                                          const struct mabn_source *source,
                                          const struct mabn_loader_options *options);
/* Stops the threads, whatever they are doing, and frees all. NULL is fine. */
void mabn_loader_free(struct mabn_loader *loader);

/* The next batch, valid until the next call on this loader; *batch NULL after the last. A sample
 * that cannot be decoded is an error that names it, reported when its batch's turn comes. */
MABN_MUST_USE mabn_status mabn_loader_next(struct mabn_loader *loader,
                                           const struct mabn_batch **batch);

/* Continue with batch `index` (at most an epoch's number of batches) of `epoch`; prepared batches
 * are dropped. */
MABN_MUST_USE mabn_status mabn_loader_seek(struct mabn_loader *loader, uint64_t epoch,
                                           uint64_t index);

struct mabn_loader_stats {
    uint64_t batches, samples; /* delivered */
    uint64_t bad;              /* unreadable samples that were replaced */
    double wait_seconds;       /* time that the consumer waited in mabn_loader_next */
};
/* If more than `told` samples could not be read so far, print one warning with their number and the
 * names of the first. Returns their number, to be passed as `told` the next time. */
uint64_t mabn_loader_tell_bad(struct mabn_loader *loader, uint64_t told);
/* The samples that could not be read so far, ascending. The caller frees *samples, which may be
 * NULL. */
size_t mabn_loader_bad(struct mabn_loader *loader, uint64_t **samples);
/* Print the warning for such a list; left_out: they were left out, not replaced. */
void mabn_source_tell_bad(const struct mabn_source *source, const uint64_t *samples, size_t count,
                          bool left_out);
/* For the thread that calls mabn_loader_next. */
void mabn_loader_stats(const struct mabn_loader *loader, struct mabn_loader_stats *stats);

MABN_END_DECLS
#endif
