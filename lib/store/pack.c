/* From image files to a dataset: each thread reads, sniffs, perhaps shrinks one file at a time and
 * hands it to the dataset's writer, which puts them in order. */
#include "store/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/signal.h"
#include "base/thread.h"
#include "image/image.h"
#include "image/oddities.h"
#include "image/resize.h"
#include "store/idx.h"
#include "store/listing.h"

#define MAX_FILE ((off_t)1 << 30)

/* One thread's storage, reused from file to file. */
struct worker {
    uint8_t *bytes; /* of the file */
    size_t capacity;
    uint8_t *encoded; /* malloc'd by the encoder, or NULL */
    struct mabn_decoder *decoder;
    struct mabn_image image, small;
    struct mabn_resizer *resizer;
};

struct pack {
    struct mabn_dataset_writer *w;
    const char *const *paths;
    const struct mabn_pack_options *options;
    struct worker *workers; /* (threads) */
    struct mabn_progress *progress;
    int64_t done;
    struct mabn_image_oddities oddities;
};

/* ---- one file ---- */

/* Size and time: enough to see that a file was changed. Never 0. */
static uint64_t fingerprint(const struct stat *info)
{
    const int64_t facts[3] = {info->st_size, info->st_mtim.tv_sec, info->st_mtim.tv_nsec};
    return XXH3_64bits(facts, sizeof facts) | 1;
}

static mabn_status read_file(struct worker *me, const char *path, size_t *size, uint64_t *source)
{
    struct stat info;
    mabn_status status = MABN_OK;
    *source = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo must not block us */
    if (fd < 0) return mabn_fail_errno("cannot open '%s'", path);
    if (fstat(fd, &info))
        status = mabn_fail_errno("cannot read '%s'", path);
    else if (!S_ISREG(info.st_mode))
        status = mabn_fail(MABN_ERR_FORMAT, "'%s' is not a regular file", path);
    else if (info.st_size > MAX_FILE)
        status = mabn_fail(MABN_ERR_LIMIT, "'%s' is larger than 1 GiB", path);
    else if (!info.st_size)
        status = mabn_fail(MABN_ERR_FORMAT, "'%s' is empty", path);
    if (!status) {
        *source = fingerprint(&info);
        *size = (size_t)info.st_size;
        if (*size > me->capacity) {
            free(me->bytes);
            me->capacity = *size < 1 << 16 ? 1 << 16 : *size + *size / 4;
            me->bytes = (uint8_t *)mabn_xmalloc(me->capacity);
        }
        status = mabn_pread_all(fd, me->bytes, *size, 0, path);
    }
    close(fd);
    return status;
}

/* Decode, shrink if the short side is larger than asked, encode as JPEG. */
static mabn_status shrink(struct worker *me, const struct mabn_image_info *info, int short_side,
                          int quality, struct mabn_dataset_sample *s)
{
    struct mabn_decode_options decode = MABN_DECODE_DEFAULTS;
    int64_t w = info->width, h = info->height, size = short_side;
    bool gray = info->colour == MABN_COLOUR_GRAY;
    decode.channels = gray ? 1 : 3;
    MABN_TRY(
        mabn_image_decode(me->decoder, &me->image, (const uint8_t *)s->bytes, s->size, &decode));
    int new_w = (int)(w <= h ? size : size * w / h), new_h = (int)(h <= w ? size : size * h / w);
    MABN_TRY(mabn_image_resize(me->resizer, &me->small, &me->image, NULL, new_w, new_h,
                               MABN_RESIZE_PIL));
    free(me->encoded); /* what was decoded, perhaps */
    me->encoded = NULL;
    MABN_TRY(mabn_image_encode_jpeg(&me->encoded, &s->size, &me->small, quality));
    s->bytes = me->encoded;
    s->width = new_w;
    s->height = new_h;
    s->channels = decode.channels;
    s->format = MABN_DATASET_JPEG;
    return MABN_OK;
}

/* Decode, apply the EXIF orientation if requested, encode again: a JPEG as JPEG, others as PNG. */
static mabn_status encode_again(struct worker *me, const struct mabn_image_info *info, bool turn,
                                int quality, struct mabn_dataset_sample *s)
{
    struct mabn_decode_options decode = MABN_DECODE_DEFAULTS;
    bool jpeg = info->type == MABN_IMAGE_JPEG;
    decode.channels = info->colour == MABN_COLOUR_GRAY ? 1 : 3;
    MABN_TRY(
        mabn_image_decode(me->decoder, &me->image, (const uint8_t *)s->bytes, s->size, &decode));
    if (turn) MABN_TRY(mabn_image_turn(&me->image, info->orientation));
    free(me->encoded);
    me->encoded = NULL;
    MABN_TRY(jpeg ? mabn_image_encode_jpeg(&me->encoded, &s->size, &me->image, quality)
                  : mabn_image_encode_png(&me->encoded, &s->size, &me->image));
    s->bytes = me->encoded;
    s->width = me->image.width;
    s->height = me->image.height;
    s->channels = decode.channels;
    s->format = jpeg ? MABN_DATASET_JPEG : MABN_DATASET_PNG;
    return MABN_OK;
}

static const char *path_of(const void *pack, int64_t number)
{
    return ((const struct pack *)pack)->paths[number];
}

/* Checks of the image's content, and decoding where needed. */
static mabn_status prepare(struct pack *p, struct worker *me, int64_t number,
                           struct mabn_dataset_sample *s)
{
    const struct mabn_pack_options *o = p->options;
    struct mabn_image_info info;
    const uint8_t *bytes = (const uint8_t *)s->bytes;
    MABN_TRY(mabn_image_probe(&info, bytes, s->size));
    MABN_TRY(mabn_image_check(&info, bytes, s->size));
    s->height = info.height;
    s->width = info.width;
    s->channels = info.channels;
    s->format = info.type == MABN_IMAGE_PNG ? MABN_DATASET_PNG : MABN_DATASET_JPEG;
    bool turn = info.orientation > 1 && o->exif;
    info.alpha = mabn_image_is_transparent(&info, bytes, s->size);
    mabn_image_oddities_add(&p->oddities, number, &info);
    if (o->check) MABN_TRY(o->check(o->context, number, &info));
    if (turn || (info.type != MABN_IMAGE_JPEG && info.type != MABN_IMAGE_PNG)) {
        MABN_TRY(encode_again(me, &info, turn, o->quality, s));
        bytes = (const uint8_t *)s->bytes;
        MABN_TRY(mabn_image_probe(&info, bytes, s->size));
    }
    int side = info.height < info.width ? info.height : info.width;
    if (o->resize_short && side > o->resize_short)
        return shrink(me, &info, o->resize_short, o->quality, s);
    if (o->verify) return mabn_image_decode(me->decoder, &me->image, bytes, s->size, NULL);
    return MABN_OK;
}

static bool may_skip(mabn_status status)
{
    return status != MABN_ERR_NOMEM && status != MABN_ERR_STOPPED;
}

static mabn_status pack_one(void *context, int64_t index, int worker)
{
    struct pack *p = (struct pack *)context;
    struct worker *me = &p->workers[worker];
    int64_t number = p->done + index;
    const char *path = p->paths[number];
    struct mabn_dataset_sample sample = {0};
    mabn_status status;

    if (mabn_stop_requested()) {
        mabn_dataset_writer_cancel(p->w, number);
        return mabn_fail(MABN_ERR_STOPPED, "stopped by %s after %lld images",
                         mabn_signal_name(mabn_stop_requested()), (long long)number);
    }
    status = read_file(me, path, &sample.size, &sample.source);
    if (!status) {
        sample.bytes = me->bytes;
        status = prepare(p, me, number, &sample);
        if (status) status = mabn_fail_prefix(status, "'%s'", path);
    }
    mabn_progress_add(p->progress, 1);
    if (!status) {
        status = mabn_dataset_writer_add(p->w, number, &sample);
    } else if (p->options->skip_bad && may_skip(status)) {
        mabn_progress_hide(p->progress);
        mabn_warn("skipped: %s", mabn_error_message());
        status = mabn_dataset_writer_skip(p->w, number, sample.source);
    }
    if (status) mabn_dataset_writer_cancel(p->w, number);
    return status;
}

/* ---- all files ---- */

/* Discard the results of an earlier run from the first file on that has changed. */
static mabn_status check_done(const struct pack *p)
{
    struct stat info;
    int64_t done = mabn_dataset_writer_done(p->w);
    for (int64_t i = 0; i < done; i++) {
        uint64_t source =
            stat(p->paths[i], &info) || !S_ISREG(info.st_mode) ? 0 : fingerprint(&info);
        if (source != mabn_dataset_writer_source(p->w, i) ||
            (!p->options->skip_bad && mabn_dataset_writer_skipped(p->w, i)))
            return mabn_dataset_writer_rewind(p->w, i);
    }
    return MABN_OK;
}

mabn_status mabn_pack_files(struct mabn_dataset_writer *w, const char *const *paths, int64_t count,
                            const struct mabn_pack_options *options)
{
    int threads = options->threads;
    struct pack p = {
        .w = w, .paths = paths, .options = options, .oddities = MABN_IMAGE_NO_ODDITIES};
    MABN_TRY(check_done(&p));
    p.done = mabn_dataset_writer_done(w);
    if (p.done)
        mabn_info("continuing after %lld of %lld images", (long long)p.done, (long long)count);
    p.workers = (struct worker *)mabn_xcalloc((size_t)threads, sizeof *p.workers);
    for (int i = 0; i < threads; i++) {
        p.workers[i].decoder = mabn_decoder_new();
        p.workers[i].resizer = mabn_resizer_new();
    }
    p.progress = mabn_progress_new("packing", "images", (uint64_t)count);
    mabn_progress_set(p.progress, (uint64_t)p.done);
    mabn_status status = mabn_parallel(threads, count - p.done, 1, pack_one, &p);
    mabn_progress_free(p.progress);
    if (!status)
        mabn_image_oddities_tell(
            &p.oddities, path_of, &p, "packed",
            options->exif ? "packed turned" : "packed as stored, not turned (--exif turns them)");
    for (int i = 0; i < threads; i++) {
        mabn_decoder_free(p.workers[i].decoder);
        mabn_resizer_free(p.workers[i].resizer);
        mabn_image_release(&p.workers[i].image);
        mabn_image_release(&p.workers[i].small);
        free(p.workers[i].bytes);
        free(p.workers[i].encoded);
    }
    free(p.workers);
    return status;
}

void mabn_pack_key(const char *const *paths, int64_t count, const struct mabn_pack_options *options,
                   const char *command, uint8_t key[16])
{
    const int32_t facts[4] = {options->resize_short, options->quality, options->verify,
                              options->exif};
    XXH3_state_t *state = XXH3_createState();
    if (!state || XXH3_128bits_reset(state)) MABN_BUG("no memory for a checksum");
    XXH3_128bits_update(state, facts, sizeof facts);
    XXH3_128bits_update(state, command, strlen(command) + 1);
    for (int64_t i = 0; i < count; i++)
        XXH3_128bits_update(state, paths[i], strlen(paths[i]) + 1);
    XXH128_canonicalFromHash((XXH128_canonical_t *)key, XXH3_128bits_digest(state));
    XXH3_freeState(state);
}

/* ---- whole datasets ---- */

/* Say in the message what a failed run leaves. */
mabn_status mabn_pack_say_kept(mabn_status status, const char *path)
{
    char *partial = mabn_xasprintf("%s.partial", path), *message = mabn_error_detach();
    if (mabn_path_exists(partial))
        mabn_fail(status, "%s (the work so far is kept in '%s': the same command continues)",
                  message, partial);
    else
        mabn_fail(status, "%s", message);
    free(message);
    free(partial);
    return status;
}

mabn_status mabn_pack_listing(const struct mabn_pack_output *out,
                              const struct mabn_listing *listing,
                              const struct mabn_pack_options *options)
{
    const char *const *paths = (const char *const *)listing->paths;
    struct mabn_dataset_spec spec = {
        .kind = "imagenet", .count = listing->count, .command = out->command, .force = out->force};
    struct mabn_dataset_writer *w;
    mabn_pack_key(paths, listing->count, options, out->command, spec.key);
    MABN_TRY(mabn_dataset_writer_open(&w, out->path, &spec));
    mabn_dataset_writer_set_string(w, "tool", out->tool);
    mabn_status status = mabn_pack_files(w, paths, listing->count, options);
    if (!status) status = mabn_dataset_writer_set_labels(w, listing->labels);
    if (!status) status = mabn_dataset_writer_set_names(w, (const char *const *)listing->names);
    if (!status && listing->class_count)
        status = mabn_dataset_writer_set_classes(w, (const char *const *)listing->classes,
                                                 listing->class_count);
    if (!status) status = mabn_dataset_writer_commit(w);
    mabn_dataset_writer_free(w, true);
    return status ? mabn_pack_say_kept(status, out->path) : MABN_OK;
}

static mabn_status check_idx(const struct mabn_idx *images, const struct mabn_idx *labels)
{
    if (images->rank < 3)
        return mabn_fail(MABN_ERR_MISMATCH,
                         "images have %d dimensions, expected 3 or 4: are the "
                         "two files in the right order?",
                         images->rank);
    if (labels->rank != 1)
        return mabn_fail(MABN_ERR_MISMATCH, "labels have %d dimensions, expected 1", labels->rank);
    if (labels->dims[0] != images->dims[0])
        return mabn_fail(MABN_ERR_MISMATCH, "there are %u images but %u labels",
                         (unsigned)images->dims[0], (unsigned)labels->dims[0]);
    for (int i = 1; i < images->rank; i++)
        if (images->dims[i] > 65535 || (i == 3 && images->dims[i] > 4))
            return mabn_fail(MABN_ERR_LIMIT, "images measure %u in dimension %d",
                             (unsigned)images->dims[i], i);
    return MABN_OK;
}

static mabn_status add_idx_images(struct mabn_dataset_writer *w, const struct mabn_idx *images,
                                  const struct mabn_dataset_spec *spec)
{
    size_t size = (size_t)spec->height * (size_t)spec->width * (size_t)spec->channels;
    struct mabn_dataset_sample s = {.size = size,
                                    .height = spec->height,
                                    .width = spec->width,
                                    .channels = spec->channels,
                                    .format = MABN_DATASET_RAW};
    for (int64_t i = 0; i < spec->count; i++) {
        s.bytes = images->data + (size_t)i * size;
        MABN_TRY(mabn_dataset_writer_add(w, i, &s));
    }
    return MABN_OK;
}

mabn_status mabn_pack_idx(const struct mabn_pack_output *out, const struct mabn_idx *images,
                          const struct mabn_idx *labels, const char *const *classes,
                          int64_t class_count)
{
    MABN_TRY(check_idx(images, labels));
    for (size_t i = 0; class_count && i < labels->count; i++)
        if (labels->data[i] >= class_count)
            return mabn_fail(MABN_ERR_MISMATCH,
                             "label %d (image %zu) is not in the class file, which names %lld: "
                             "labels count from 0",
                             labels->data[i], i, (long long)class_count);
    struct mabn_dataset_spec spec = {.kind = "imagenet",
                                     .raw = true,
                                     .count = images->dims[0],
                                     .command = out->command,
                                     .force = out->force,
                                     .height = (int)images->dims[1],
                                     .width = (int)images->dims[2],
                                     .channels = images->rank == 4 ? (int)images->dims[3] : 1};
    struct mabn_dataset_writer *w;
    int32_t *list = (int32_t *)mabn_xmalloc(labels->count * sizeof *list);
    for (size_t i = 0; i < labels->count; i++)
        list[i] = labels->data[i];
    mabn_status status = mabn_dataset_writer_open(&w, out->path, &spec);
    if (!status) {
        mabn_dataset_writer_set_string(w, "tool", out->tool);
        status = add_idx_images(w, images, &spec);
    }
    if (!status) status = mabn_dataset_writer_set_labels(w, list);
    if (!status && class_count) status = mabn_dataset_writer_set_classes(w, classes, class_count);
    if (!status) status = mabn_dataset_writer_commit(w);
    mabn_dataset_writer_free(w, false);
    if (!status && !class_count) mabn_listing_tell_unused(list, (int64_t)labels->count, out->path);
    free(list);
    return status;
}
