/* Recognizing the format of a file, and calling its decoder. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/codec.h"

/* ---- what a file is ---- */

/* What else a file may be, by its first bytes. */
static const char *other_kind(const uint8_t *bytes, size_t size)
{
    static const struct {
        int at, length;
        const char *bytes, *name;
    } kinds[] = {
        {0, 4, "II*\0", "a TIFF picture"},
        {0, 4, "MM\0*", "a TIFF picture"},
        {4, 8, "ftypavif", "an AVIF picture"},
        {4, 8, "ftypavis", "an AVIF picture"},
        {4, 8, "ftypheic", "a HEIC picture"},
        {4, 8, "ftypheix", "a HEIC picture"},
        {4, 8, "ftypmif1", "a HEIF picture"},
        {4, 4, "ftyp", "a video (MP4 or its like)"},
        {0, 2, "\xff\x0a", "a JPEG XL picture"},
        {4, 4, "JXL ", "a JPEG XL picture"},
        {4, 4, "jP  ", "a JPEG 2000 picture"},
        {0, 4, "\xff\x4f\xff\x51", "a JPEG 2000 picture"},
        {0, 4, "8BPS", "a Photoshop picture"},
        {0, 4, "\0\0\1\0", "an icon"},
        {0, 4, "%PDF", "a PDF document"},
        {0, 2, "P5", "a PGM picture"},
        {0, 2, "P6", "a PPM picture"},
        {0, 2, "\x1f\x8b", "compressed by gzip"},
        {0, 4, "PK\3\4", "a ZIP archive"},
        {0, 5, "<?xml", "XML or SVG text"},
        {0, 4, "<svg", "an SVG drawing"},
        {0, 9, "<!DOCTYPE", "an HTML page"},
        {0, 4, "\0\5\x16\7", "what macOS keeps beside a file (its name begins with ._)"},
        {0, 19, "version https://git", "a pointer of Git LFS (git lfs pull gets the file)"},
        {0, 9, "<!doctype", "an HTML page"},
        {0, 5, "<html", "an HTML page"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (size >= (size_t)(kinds[i].at + kinds[i].length) &&
            !memcmp(bytes + kinds[i].at, kinds[i].bytes, (size_t)kinds[i].length))
            return kinds[i].name;
    return NULL;
}

static mabn_status not_an_image(const uint8_t *bytes, size_t size)
{
    static const char expected[] = "expected JPEG, PNG, WebP, BMP or GIF";
    const char *kind = other_kind(bytes, size);
    if (!size) return mabn_fail(MABN_ERR_FORMAT, "the picture is empty (0 bytes)");
    if (kind) return mabn_fail(MABN_ERR_FORMAT, "this is %s; %s", kind, expected);
    if (size < 8) return mabn_fail(MABN_ERR_FORMAT, "no picture (%zu bytes); %s", size, expected);
    return mabn_fail(MABN_ERR_FORMAT, "no picture (it starts with %02x %02x %02x %02x); %s",
                     bytes[0], bytes[1], bytes[2], bytes[3], expected);
}

static mabn_status probe(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    switch (mabn_image_sniff(bytes, size)) {
    case MABN_IMAGE_JPEG:
        return mabn_jpeg_probe(info, bytes, size);
    case MABN_IMAGE_PNG:
        return mabn_png_probe(info, bytes, size);
    case MABN_IMAGE_WEBP:
        return mabn_webp_probe(info, bytes, size);
    case MABN_IMAGE_BMP:
        return mabn_bmp_probe(info, bytes, size);
    case MABN_IMAGE_GIF:
        return mabn_gif_probe(info, bytes, size);
    default:
        return not_an_image(bytes, size);
    }
}

mabn_status mabn_image_probe(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    memset(info, 0, sizeof *info);
    MABN_TRY(probe(info, bytes, size));
    mabn_image_count_pictures(info, bytes, size);
    info->orientation = mabn_exif_orientation(info->type, bytes, size);
    return MABN_OK;
}

/* ---- decoding ---- */

struct mabn_decoder *mabn_decoder_new(void)
{
    struct mabn_decoder *decoder = mabn_xcalloc(1, sizeof *decoder);
    decoder->jpeg = mabn_jpeg_decoder_new();
    return decoder;
}

void mabn_decoder_free(struct mabn_decoder *decoder)
{
    if (!decoder) return;
    mabn_jpeg_decoder_free(decoder->jpeg);
    free(decoder);
}

static mabn_status decode(struct mabn_decoder *decoder, struct mabn_decode_job *job,
                          const struct mabn_decode_options *options)
{
    job->options = options ? *options : (struct mabn_decode_options)MABN_DECODE_DEFAULTS;
    job->scale = 1;
    if (job->options.channels != 1 && job->options.channels != 3)
        return mabn_fail(MABN_ERR_ARG, "cannot decode to %d channels, only 1 or 3",
                         job->options.channels);
    switch (mabn_image_sniff(job->bytes, job->size)) {
    case MABN_IMAGE_JPEG:
        return mabn_jpeg_decode(decoder->jpeg, job);
    case MABN_IMAGE_PNG:
        return mabn_png_decode(job);
    case MABN_IMAGE_WEBP:
        return mabn_webp_decode(job);
    case MABN_IMAGE_BMP:
        return mabn_bmp_decode(job);
    case MABN_IMAGE_GIF:
        return mabn_gif_decode(job);
    default:
        return not_an_image(job->bytes, job->size);
    }
}

mabn_status mabn_image_decode(struct mabn_decoder *decoder, struct mabn_image *image,
                              const uint8_t *bytes, size_t size,
                              const struct mabn_decode_options *options)
{
    struct mabn_decode_job job = {.bytes = bytes, .size = size, .image = image};
    return decode(decoder, &job, options);
}

mabn_status mabn_image_decode_part(struct mabn_decoder *decoder, struct mabn_image *image,
                                   struct mabn_rect *part, int *scale, struct mabn_rect wanted,
                                   int min_width, int min_height, const uint8_t *bytes, size_t size,
                                   const struct mabn_decode_options *options)
{
    struct mabn_decode_job job = {.bytes = bytes,
                                  .size = size,
                                  .image = image,
                                  .partial = true,
                                  .wanted = wanted,
                                  .min_width = min_width,
                                  .min_height = min_height};
    MABN_TRY(decode(decoder, &job, options));
    *part = job.part;
    *scale = job.scale;
    return MABN_OK;
}

static bool is_opaque(const struct mabn_image *alpha)
{
    const size_t n = (size_t)alpha->width * (size_t)alpha->height;
    size_t i = 0;
    while (i < n && alpha->pixels[i] == 255)
        i++;
    return i == n;
}

mabn_status mabn_image_decode_alpha(struct mabn_image *alpha, bool *found, const uint8_t *bytes,
                                    size_t size)
{
    *found = false;
    switch (mabn_image_sniff(bytes, size)) {
    case MABN_IMAGE_PNG:
        return mabn_png_alpha(alpha, found, bytes, size);
    case MABN_IMAGE_WEBP:
        return mabn_webp_alpha(alpha, found, bytes, size);
    case MABN_IMAGE_GIF:
        return mabn_gif_alpha(alpha, found, bytes, size);
    case MABN_IMAGE_BMP:
        return mabn_bmp_alpha(alpha, found, bytes, size);
    default:
        return MABN_OK;
    }
}

bool mabn_image_is_transparent(const struct mabn_image_info *info, const uint8_t *bytes,
                               size_t size)
{
    struct mabn_image alpha = {0};
    bool found = false, opaque = !info->alpha;
    if (info->alpha && mabn_image_decode_alpha(&alpha, &found, bytes, size))
        mabn_error_clear(); /* for the decoder to tell */
    else if (found)
        opaque = is_opaque(&alpha);
    mabn_image_release(&alpha);
    return !opaque;
}
