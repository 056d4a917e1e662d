/* Crop, resize, colour, flip, normalize: see augment.h for the steps and their order.
 *
 * The crop is chosen from the picture's size alone, before decoding, so that only what it needs is
 * decoded. The last steps, from lighting to floats, are finish.h's. */
#include "image/augment.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "image/codec.h"
#include "image/colour.h"
#include "image/finish.h"

struct mabn_augmenter {
    struct mabn_augment a;
    struct mabn_decoder *decoder;
    struct mabn_resizer *resizer;
    struct mabn_finisher *finisher;
    struct mabn_image decoded; /* the part of the file that was needed */
    struct mabn_image sized;   /* at the output's size */
    uint8_t lit[3][256];       /* this sample's lighting, by output channel */
    bool bytes;                /* write these, not floats */
};

/* ---- presets ---- */

enum { IMAGENET, TORCHVISION, CIFAR, PLAIN };

const struct mabn_word mabn_augment_presets[] = {{IMAGENET, "imagenet"},
                                                 {TORCHVISION, "torchvision"},
                                                 {CIFAR, "cifar"},
                                                 {PLAIN, "plain"},
                                                 {0, NULL}};
const struct mabn_word mabn_augment_crops[] = {
    {MABN_CROP_NONE, "none"},       {MABN_CROP_CENTRE, "centre"}, {MABN_CROP_SQUARE, "square"},
    {MABN_CROP_RESIZED, "resized"}, {MABN_CROP_PAD, "pad"},       {0, NULL}};
const struct mabn_word mabn_augment_resizes[] = {
    {MABN_RESIZE_PIL, "pil"}, {MABN_RESIZE_CV, "cv"}, {0, NULL}};
const struct mabn_word mabn_augment_orders[] = {{0, "rgb"}, {1, "bgr"}, {0, NULL}};

static void set_normalization(struct mabn_augment *a, double range, const float mean[3],
                              const float deviation[3])
{
    a->range = range;
    memcpy(a->mean, mean, sizeof a->mean);
    memcpy(a->deviation, deviation, sizeof a->deviation);
}

static void preset_imagenet(struct mabn_augment *a, bool training)
{
    a->width = a->height = 224;
    a->resize = MABN_RESIZE_CV;
    a->range = 255;
    a->bgr = true;
    if (training) {
        a->crop = MABN_CROP_SQUARE;
        a->lighting = 0.1;
        a->flip = 0.5;
    } else {
        a->crop = MABN_CROP_CENTRE;
        a->short_side = 256;
    }
}

static void preset_torchvision(struct mabn_augment *a, bool training)
{
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
    a->width = a->height = 224;
    set_normalization(a, 1, mean, deviation);
    if (training) {
        a->crop = MABN_CROP_RESIZED;
        a->flip = 0.5;
    } else {
        a->crop = MABN_CROP_CENTRE;
        a->short_side = 256;
    }
}

static void preset_cifar(struct mabn_augment *a, bool training)
{
    static const float mean[3] = {0.4914f, 0.4822f, 0.4465f};
    static const float deviation[3] = {0.2470f, 0.2435f, 0.2616f};
    a->width = a->height = 32;
    set_normalization(a, 1, mean, deviation);
    if (training) {
        a->crop = MABN_CROP_PAD;
        a->pad = 4;
        a->flip = 0.5;
    }
}

mabn_status mabn_augment_preset(struct mabn_augment *a, const char *name, bool training)
{
    int preset;
    MABN_TRY(mabn_word_parse(&preset, mabn_augment_presets, "augmentation", name));
    *a = (struct mabn_augment){.channels = 3,
                               .crop = MABN_CROP_NONE,
                               .resize = MABN_RESIZE_PIL,
                               .area_min = 0.08,
                               .area_max = 1,
                               .aspect_min = 3.0 / 4,
                               .aspect_max = 4.0 / 3,
                               .attempts = 10,
                               .erase_area_min = 0.02,
                               .erase_area_max = 0.33,
                               .erase_aspect_min = 0.3,
                               .erase_aspect_max = 3.3,
                               .range = 1,
                               .deviation = {1, 1, 1}};
    if (preset == IMAGENET) preset_imagenet(a, training);
    if (preset == TORCHVISION) preset_torchvision(a, training);
    if (preset == CIFAR) preset_cifar(a, training);
    return MABN_OK;
}

/* ---- checks ---- */

static bool is_part(double low, double high, double largest)
{
    return low > 0 && low <= high && high <= largest;
}

static mabn_status check_crop(const struct mabn_augment *a)
{
    const bool random = a->crop == MABN_CROP_SQUARE || a->crop == MABN_CROP_RESIZED;
    if (random && !is_part(a->area_min, a->area_max, 1))
        return mabn_fail(MABN_ERR_ARG, "the crop's area %g...%g is not within (0,1]", a->area_min,
                         a->area_max);
    if (random && (a->attempts < 1 || a->attempts > 1000))
        return mabn_fail(MABN_ERR_ARG, "%d attempts at a crop: not in 1...1000", a->attempts);
    if (a->crop == MABN_CROP_RESIZED && !is_part(a->aspect_min, a->aspect_max, 100))
        return mabn_fail(MABN_ERR_ARG, "the crop's aspect ratio %g...%g is not within (0,100]",
                         a->aspect_min, a->aspect_max);
    if (a->crop == MABN_CROP_PAD && (a->pad < 0 || a->pad >= a->width || a->pad >= a->height))
        return mabn_fail(MABN_ERR_ARG, "padding of %d does not suit an output of %d x %d", a->pad,
                         a->width, a->height);
    if (a->crop == MABN_CROP_CENTRE && a->short_side &&
        (a->short_side < a->width || a->short_side < a->height || a->short_side > 16384))
        return mabn_fail(MABN_ERR_ARG, "a shorter side of %d does not suit an output of %d x %d",
                         a->short_side, a->width, a->height);
    return MABN_OK;
}

static mabn_status check_colour(const struct mabn_augment *a)
{
    const double strength[] = {a->brightness, a->contrast, a->saturation, a->lighting};
    for (int i = 0; i < 4; i++)
        if (!(strength[i] >= 0 && strength[i] <= 100))
            return mabn_fail(MABN_ERR_ARG, "colour change of strength %g: not in 0...100",
                             strength[i]);
    if (!(a->hue >= 0 && a->hue <= 0.5))
        return mabn_fail(MABN_ERR_ARG, "hue jitter %g is not in 0...0.5", a->hue);
    if (a->channels == 1 && (a->saturation > 0 || a->hue > 0 || a->lighting > 0 || a->bgr))
        return mabn_fail(MABN_ERR_ARG, "saturation, hue, lighting and BGR need 3 channels, not 1");
    return MABN_OK;
}

mabn_status mabn_augment_check(const struct mabn_augment *a)
{
    if (a->width < 1 || a->height < 1 || a->width > 16384 || a->height > 16384)
        return mabn_fail(MABN_ERR_ARG, "pictures of %d x %d: sizes must be in 1...16384", a->width,
                         a->height);
    if (a->channels != 1 && a->channels != 3)
        return mabn_fail(MABN_ERR_ARG, "pictures of %d channels: must be 1 or 3", a->channels);
    MABN_TRY(check_crop(a));
    MABN_TRY(check_colour(a));
    if (!(a->flip >= 0 && a->flip <= 1) || !(a->erase >= 0 && a->erase <= 1))
        return mabn_fail(MABN_ERR_ARG, "flip %g and erase %g must be probabilities", a->flip,
                         a->erase);
    if (a->erase > 0 && (!is_part(a->erase_area_min, a->erase_area_max, 1) ||
                         !is_part(a->erase_aspect_min, a->erase_aspect_max, 100)))
        return mabn_fail(
            MABN_ERR_ARG,
            "an erased part of area %g...%g and aspect ratio %g...%g: not within (0,1] and (0,100]",
            a->erase_area_min, a->erase_area_max, a->erase_aspect_min, a->erase_aspect_max);
    if (!(a->range > 0 && a->range <= 65536))
        return mabn_fail(MABN_ERR_ARG, "a range of %g is not in (0,65536]", a->range);
    for (int c = 0; c < a->channels; c++)
        if (!isfinite(a->mean[c]) || !isfinite(a->deviation[c]) || a->deviation[c] <= 0)
            return mabn_fail(MABN_ERR_ARG, "mean %g and deviation %g of channel %d are not valid",
                             (double)a->mean[c], (double)a->deviation[c], c);
    return MABN_OK;
}

bool mabn_augment_has_bytes(const struct mabn_augment *a)
{
    return !(a->erase > 0); /* which puts normalized zeros */
}

static struct mabn_normalization normalization(const struct mabn_augment *a)
{
    struct mabn_normalization n = {.channels = a->channels, .range = a->range};
    memcpy(n.mean, a->mean, sizeof n.mean);
    memcpy(n.deviation, a->deviation, sizeof n.deviation);
    return n;
}

void mabn_augment_table(const struct mabn_augment *a, float table[3][256])
{
    const struct mabn_normalization n = normalization(a);
    mabn_normalization_table(&n, table);
}

/* ---- life ---- */

struct mabn_augmenter *mabn_augmenter_new(const struct mabn_augment *augment)
{
    struct mabn_augmenter *g = mabn_xcalloc(1, sizeof *g);
    const struct mabn_normalization n = normalization(augment);
    g->a = *augment;
    g->decoder = mabn_decoder_new();
    g->resizer = mabn_resizer_new();
    g->finisher = mabn_finisher_new(&n);
    return g;
}

void mabn_augmenter_set_bytes(struct mabn_augmenter *g)
{
    g->bytes = true;
}

void mabn_augmenter_free(struct mabn_augmenter *g)
{
    if (!g) return;
    mabn_decoder_free(g->decoder);
    mabn_resizer_free(g->resizer);
    mabn_finisher_free(g->finisher);
    mabn_image_release(&g->decoded);
    mabn_image_release(&g->sized);
    free(g);
}

/* ---- which part of the picture ---- */

/* A uniform integer of low...high, both included. */
static int pick(struct mabn_rng *rng, int low, int high)
{
    return low + (int)mabn_rng_below(rng, (uint64_t)(high - low) + 1);
}

static struct mabn_rect square_crop(const struct mabn_augment *a, int w, int h,
                                    struct mabn_rng *rng)
{
    struct mabn_rect crop = {0};
    for (int i = 0; i < a->attempts; i++) {
        const double area = (double)w * h * mabn_rng_range(rng, a->area_min, a->area_max);
        int e = (int)lrint(sqrt(area));
        if (e < 1) e = 1;
        crop.x = pick(rng, w < e ? w - e : 0, w > e ? w - e : 0);
        crop.y = pick(rng, h < e ? h - e : 0, h > e ? h - e : 0);
        crop.width = crop.height = e;
        if (e <= w && e <= h) break;
    }
    return crop;
}

static double log_uniform(struct mabn_rng *rng, double low, double high)
{
    return exp(mabn_rng_range(rng, log(low), log(high)));
}

static struct mabn_rect resized_crop(const struct mabn_augment *a, int w, int h,
                                     struct mabn_rng *rng)
{
    struct mabn_rect crop = {0, 0, w, h};
    for (int i = 0; i < a->attempts; i++) {
        const double area = (double)w * h * mabn_rng_range(rng, a->area_min, a->area_max);
        const double aspect = log_uniform(rng, a->aspect_min, a->aspect_max);
        const long cw = lrint(sqrt(area * aspect)), ch = lrint(sqrt(area / aspect));
        if (cw < 1 || ch < 1 || cw > w || ch > h) continue;
        const int y = pick(rng, 0, h - (int)ch), x = pick(rng, 0, w - (int)cw);
        return (struct mabn_rect){x, y, (int)cw, (int)ch};
    }
    if ((double)w / h < a->aspect_min)
        crop.height = (int)lrint(w / a->aspect_min);
    else if ((double)w / h > a->aspect_max)
        crop.width = (int)lrint(h * a->aspect_max);
    if (crop.width < 1) crop.width = 1;
    if (crop.height < 1) crop.height = 1;
    crop.x = (w - crop.width) / 2;
    crop.y = (h - crop.height) / 2;
    return crop;
}

/* Size of the whole picture when its shorter side becomes `side`; the conventions round
 * differently. */
static int longer_side(int shorter, int longer, int side, enum mabn_resize_kind kind)
{
    if (kind == MABN_RESIZE_CV) return (int)floor((double)side / shorter * longer + 0.5);
    return (int)((int64_t)side * longer / shorter);
}

/* Fill in the resize: job->box to width × height, and which window of that is needed. */
static mabn_status plan_crop(const struct mabn_augment *a, int w, int h, struct mabn_rng *rng,
                             struct mabn_resize_job *job)
{
    struct mabn_rect crop = {0, 0, w, h};
    job->kind = a->resize;
    job->width = a->width;
    job->height = a->height;
    job->window = (struct mabn_rect){0, 0, a->width, a->height};
    switch (a->crop) {
    case MABN_CROP_NONE:
        break;
    case MABN_CROP_SQUARE:
        crop = square_crop(a, w, h, rng);
        break;
    case MABN_CROP_RESIZED:
        crop = resized_crop(a, w, h, rng);
        break;
    case MABN_CROP_PAD:
        if (w + 2 * a->pad < a->width || h + 2 * a->pad < a->height)
            return mabn_fail(MABN_ERR_MISMATCH,
                             "the picture is %d x %d: too small for crops of %d x %d", w, h,
                             a->width, a->height);
        crop.width = a->width;
        crop.height = a->height;
        crop.x = pick(rng, -a->pad, w + a->pad - a->width);
        crop.y = pick(rng, -a->pad, h + a->pad - a->height);
        break;
    case MABN_CROP_CENTRE:
        if (a->short_side) {
            job->width = w <= h ? a->short_side : longer_side(h, w, a->short_side, a->resize);
            job->height = h <= w ? a->short_side : longer_side(w, h, a->short_side, a->resize);
            job->window.x = (int)lrint((job->width - a->width) / 2.0);
            job->window.y = (int)lrint((job->height - a->height) / 2.0);
        } else {
            crop.x = (int)lrint((w - a->width) / 2.0);
            crop.y = (int)lrint((h - a->height) / 2.0);
            crop.width = a->width;
            crop.height = a->height;
        }
        break;
    }
    job->box = (struct mabn_region){crop.x, crop.y, crop.width, crop.height};
    return MABN_OK;
}

/* ---- from the picture to the output's size ---- */

/* Where the pixels come from: an encoded picture, or else borrowed pixels. */
struct picture {
    const uint8_t *bytes; /* (size) encoded; NULL: `raw` is used */
    size_t size;
    struct mabn_image raw;
    int width, height;
};

/* Bring the part of the picture that the job needs to job->in and job->part; with scaled decoding
 * the job's box is changed to match. */
static mabn_status fetch(struct mabn_augmenter *g, const struct picture *picture,
                         struct mabn_rect needed, bool may_scale, struct mabn_resize_job *job)
{
    struct mabn_decode_options options = MABN_DECODE_DEFAULTS;
    int scale = 1;
    if (!picture->bytes) {
        job->in = &picture->raw;
        job->part = (struct mabn_rect){0, 0, picture->width, picture->height};
        return MABN_OK;
    }
    options.channels = g->a.channels;
    if (may_scale) { /* a pixel more at each side, at the smallest scale */
        needed.x -= 16, needed.width += 32;
        needed.y -= 16, needed.height += 32;
    }
    MABN_TRY(mabn_image_decode_part(g->decoder, &g->decoded, &job->part, &scale, needed,
                                    may_scale ? job->window.width : 0, job->window.height,
                                    picture->bytes, picture->size, &options));
    job->in = &g->decoded;
    job->box.x /= scale;
    job->box.y /= scale;
    job->box.width /= scale;
    job->box.height /= scale;
    return MABN_OK;
}

static mabn_status copy_crop(const struct mabn_resize_job *job, struct mabn_image *out)
{
    const struct mabn_rect rect = {(int)job->box.x - job->part.x, (int)job->box.y - job->part.y,
                                   (int)job->box.width, (int)job->box.height};
    return mabn_image_crop(out, job->in, rect);
}

/* *pixels: the cropped and resized picture, g->sized or (untouched) the raw one itself. */
static mabn_status make_size(struct mabn_augmenter *g, const struct picture *picture,
                             struct mabn_rng *rng, const struct mabn_image **pixels)
{
    struct mabn_resize_job job = {0};
    *pixels = &g->sized;
    MABN_TRY(plan_crop(&g->a, picture->width, picture->height, rng, &job));
    const struct mabn_rect crop = {(int)job.box.x, (int)job.box.y, (int)job.box.width,
                                   (int)job.box.height};
    const struct mabn_rect inner = mabn_rect_clip(crop, picture->width, picture->height);
    const bool inside = inner.width == crop.width && inner.height == crop.height;
    const bool same = crop.width == job.width && crop.height == job.height &&
                      job.window.width == job.width && job.window.height == job.height;
    if (same || !inside) {
        MABN_TRY(fetch(g, picture, inner, false, &job));
        if (same && inside && job.in->width == job.width && job.in->height == job.height) {
            *pixels = job.in;
            return MABN_OK;
        }
        if (same) return copy_crop(&job, &g->sized);
        struct mabn_image padded = {0}; /* rare: a square crop that did not fit */
        mabn_status status = copy_crop(&job, &padded);
        const struct mabn_region whole = {0, 0, crop.width, crop.height};
        if (!status)
            status = mabn_image_resize(g->resizer, &g->sized, &padded, &whole, job.width,
                                       job.height, job.kind);
        mabn_image_release(&padded);
        return status;
    }
    struct mabn_rect needed = {0};
    MABN_TRY(mabn_resize_reach(&job, &needed));
    MABN_TRY(fetch(g, picture, needed, g->a.scaled_decode, &job));
    return mabn_resize_run(g->resizer, &g->sized, &job);
}

/* ---- colour ---- */

/* PCA lighting (Krizhevsky et al. 2012): the tables behind a shift along ImageNet's principal
 * colour axes; the shifted value is clipped to 8 bits, as in the reference. */
static void light_tables(struct mabn_augmenter *g, const struct mabn_augment_key *key)
{
    static const float value[3] = {0.2175f, 0.0188f, 0.0045f};
    static const float vector[3][3] = {{-0.5675f, 0.7192f, 0.4009f},
                                       {-0.5808f, -0.0045f, -0.8140f},
                                       {-0.5836f, -0.6948f, 0.4203f}};
    struct mabn_rng rng;
    float alpha[3];
    mabn_rng_init(&rng, key->seed, MABN_RNG_LIGHTING, key->epoch, key->position);
    for (int k = 0; k < 3; k++)
        alpha[k] = (float)(mabn_rng_normal(&rng) * g->a.lighting) * value[k];
    for (int c = 0; c < 3; c++) {
        const float *row = vector[g->a.bgr ? 2 - c : c];
        const float shift = row[0] * alpha[0] + row[1] * alpha[1] + row[2] * alpha[2];
        for (int v = 0; v < 256; v++) {
            const float x = ((float)v / 255.0f + shift) * 255.0f;
            g->lit[c][v] = x <= 0 ? 0 : x >= 255 ? 255 : (uint8_t)x;
        }
    }
}

/* torchvision's ColorJitter: the four changes in random order, each by a random factor. */
static void jitter(struct mabn_image *image, const struct mabn_augment *a, struct mabn_rng *rng)
{
    int order[4] = {0, 1, 2, 3};
    for (int i = 3; i > 0; i--) {
        const int j = pick(rng, 0, i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    const double strength[3] = {a->brightness, a->contrast, a->saturation};
    for (int i = 0; i < 4; i++) {
        const int kind = order[i];
        if (kind == 3) {
            if (a->hue > 0) mabn_colour_hue(image, mabn_rng_range(rng, -a->hue, a->hue));
            continue;
        }
        const double s = strength[kind];
        if (!(s > 0)) continue;
        const float factor = (float)mabn_rng_range(rng, s < 1 ? 1 - s : 0, 1 + s);
        if (kind == 0)
            mabn_colour_brightness(image, factor);
        else if (kind == 1)
            mabn_colour_contrast(image, factor);
        else
            mabn_colour_saturation(image, factor);
    }
}

/* ---- the output ---- */

/* torchvision's RandomErasing with value 0. */
static void erase(float *out, const struct mabn_augment *a, struct mabn_rng *rng)
{
    const int w = a->width, h = a->height, c = a->channels;
    for (int i = 0; i < 10; i++) {
        const double area =
            (double)w * h * mabn_rng_range(rng, a->erase_area_min, a->erase_area_max);
        const double aspect = log_uniform(rng, a->erase_aspect_min, a->erase_aspect_max);
        const long eh = lrint(sqrt(area * aspect)), ew = lrint(sqrt(area / aspect));
        if (eh >= h || ew >= w) continue;
        const int y0 = pick(rng, 0, h - (int)eh), x0 = pick(rng, 0, w - (int)ew);
        for (int y = y0; y < y0 + eh; y++)
            memset(out + ((size_t)y * w + x0) * c, 0, (size_t)ew * c * sizeof *out);
        return;
    }
}

static mabn_status run(struct mabn_augmenter *g, void *out, const struct picture *picture,
                       const struct mabn_augment_key *key)
{
    const struct mabn_augment *a = &g->a;
    const struct mabn_image *pixels;
    struct mabn_rng rng;
    mabn_rng_init(&rng, key->seed, MABN_RNG_AUGMENT, key->epoch, key->position);
    MABN_TRY(make_size(g, picture, &rng, &pixels));
    const bool jitters = a->brightness > 0 || a->contrast > 0 || a->saturation > 0 || a->hue > 0;
    if (pixels == &picture->raw && (jitters || pixels->channels != a->channels)) {
        MABN_TRY(mabn_image_crop(&g->sized, pixels,
                                 (struct mabn_rect){0, 0, pixels->width, pixels->height}));
        pixels = &g->sized;
    }
    if (pixels->channels != a->channels) MABN_TRY(mabn_image_set_channels(&g->sized, a->channels));
    if (a->lighting > 0) light_tables(g, key);
    if (jitters) jitter(pixels == &g->sized ? &g->sized : &g->decoded, a, &rng);
    const struct mabn_finish finish = {
        .flip = a->flip > 0 && mabn_rng_uniform(&rng) < a->flip,
        .swap = a->bgr,
        .lit = a->lighting > 0 ? (const uint8_t(*)[256])g->lit : NULL,
    };
    if (g->bytes)
        mabn_finish_bytes(out, pixels, &finish);
    else
        mabn_finish_floats(g->finisher, out, pixels, &finish);
    if (!g->bytes && a->erase > 0 && mabn_rng_uniform(&rng) < a->erase) erase(out, a, &rng);
    return MABN_OK;
}

mabn_status mabn_augment_encoded(struct mabn_augmenter *g, void *out, const uint8_t *bytes,
                                 size_t size, const struct mabn_augment_key *key)
{
    struct mabn_image_info info;
    MABN_TRY(mabn_image_probe(&info, bytes, size));
    const struct picture picture = {
        .bytes = bytes, .size = size, .width = info.width, .height = info.height};
    return run(g, out, &picture, key);
}

mabn_status mabn_augment_pixels(struct mabn_augmenter *g, void *out, const uint8_t *pixels,
                                int width, int height, int channels,
                                const struct mabn_augment_key *key)
{
    if (width < 1 || height < 1 || (channels != 1 && channels != 3))
        return mabn_fail(MABN_ERR_ARG, "impossible size of a picture: %d x %d x %d", width, height,
                         channels);
    const struct picture picture = {.raw = {.pixels = (uint8_t *)pixels,
                                            .width = width,
                                            .height = height,
                                            .channels = channels},
                                    .width = width,
                                    .height = height};
    return run(g, out, &picture, key);
}
