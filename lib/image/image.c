/* Picture storage, type sniffing, and the hand-out to the formats. */
#include "image/image.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/codec.h"

/* ---- storage ---- */

void mabn_image_release(struct mabn_image *image)
{
    mabn_free(image->pixels);
    memset(image, 0, sizeof *image);
}

mabn_status mabn_image_resize_storage(struct mabn_image *image, int width, int height, int channels)
{
    size_t bytes;
    if (width < 1 || height < 1 || (channels != 1 && channels != 3))
        return mabn_fail(MABN_ERR_ARG, "no picture can be %d x %d x %d", width, height, channels);
    if (!mabn_size_mul((size_t)width * (size_t)channels, (size_t)height, &bytes))
        return mabn_fail(MABN_ERR_LIMIT, "a picture of %d x %d does not fit in memory", width,
                         height);
    if (bytes > image->capacity) {
        void *pixels;
        MABN_TRY(mabn_alloc(&pixels, bytes));
        mabn_free(image->pixels);
        image->pixels = pixels;
        image->capacity = bytes;
    }
    image->width = width;
    image->height = height;
    image->channels = channels;
    return MABN_OK;
}

mabn_status mabn_image_crop(struct mabn_image *out, const struct mabn_image *in,
                            struct mabn_rect rect)
{
    const struct mabn_rect inner = mabn_rect_clip(rect, in->width, in->height);
    const size_t c = (size_t)in->channels, stride = (size_t)rect.width * c;
    MABN_TRY(mabn_image_resize_storage(out, rect.width, rect.height, in->channels));
    if (inner.width < rect.width || inner.height < rect.height)
        memset(out->pixels, 0, stride * (size_t)rect.height);
    for (int y = 0; y < inner.height; y++)
        memcpy(out->pixels + (size_t)(inner.y + y - rect.y) * stride +
                   (size_t)(inner.x - rect.x) * c,
               in->pixels + ((size_t)(inner.y + y) * in->width + inner.x) * c,
               (size_t)inner.width * c);
    return MABN_OK;
}

void mabn_image_flip_horizontal(struct mabn_image *image)
{
    const int w = image->width, c = image->channels;
    for (int y = 0; y < image->height; y++) {
        uint8_t *left = image->pixels + (size_t)y * w * c;
        uint8_t *right = left + (size_t)(w - 1) * c;
        for (; left < right; left += c, right -= c)
            for (int i = 0; i < c; i++) {
                uint8_t t = left[i];
                left[i] = right[i];
                right[i] = t;
            }
    }
}

/* Where pixel (x,y) of the turned picture comes from: columns and rows change places first, then
 * each may run backwards. */
mabn_status mabn_image_turn(struct mabn_image *image, int orientation)
{
    static const struct {
        bool swap, left, up;
    } turns[9] = {{0, 0, 0}, {0, 0, 0}, {0, 1, 0}, {0, 1, 1}, {0, 0, 1},
                  {1, 0, 0}, {1, 0, 1}, {1, 1, 1}, {1, 1, 0}};
    struct mabn_image out = {0};
    if (orientation < 2 || orientation > 8) return MABN_OK;
    bool swap = turns[orientation].swap, left = turns[orientation].left, up = turns[orientation].up;
    int w = image->width, h = image->height;
    size_t c = (size_t)image->channels;
    MABN_TRY(mabn_image_resize_storage(&out, swap ? h : w, swap ? w : h, image->channels));
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++) {
            int sx = swap ? y : x, sy = swap ? x : y;
            if (left) sx = w - 1 - sx;
            if (up) sy = h - 1 - sy;
            memcpy(out.pixels + ((size_t)y * (size_t)out.width + (size_t)x) * c,
                   image->pixels + ((size_t)sy * (size_t)w + (size_t)sx) * c, c);
        }
    mabn_image_release(image);
    *image = out;
    return MABN_OK;
}

mabn_status mabn_image_set_channels(struct mabn_image *image, int channels)
{
    const size_t n = (size_t)image->width * image->height;
    if (channels == image->channels) return MABN_OK;
    if (channels == 1) {
        uint8_t *p = image->pixels;
        for (size_t i = 0; i < n; i++)
            p[i] =
                (p[3 * i] * 19595u + p[3 * i + 1] * 38470u + p[3 * i + 2] * 7471u + 0x8000) >> 16;
        image->channels = 1;
        return MABN_OK;
    }
    struct mabn_image wide = {0};
    MABN_TRY(mabn_image_resize_storage(&wide, image->width, image->height, channels));
    for (size_t i = 0; i < n; i++)
        memset(wide.pixels + 3 * i, image->pixels[i], 3);
    mabn_image_release(image);
    *image = wide;
    return MABN_OK;
}

mabn_status mabn_image_check_size(uint64_t width, uint64_t height, uint64_t max_pixels)
{
    if (!width || !height) return mabn_fail(MABN_ERR_FORMAT, "the picture has no pixels");
    if (width > INT32_MAX / 4 || height > INT32_MAX / 4 || width * height > max_pixels)
        return mabn_fail(
            MABN_ERR_LIMIT, "the picture is %llu x %llu, more than the limit of %llu pixels",
            (unsigned long long)width, (unsigned long long)height, (unsigned long long)max_pixels);
    return MABN_OK;
}

struct mabn_rect mabn_rect_clip(struct mabn_rect wanted, int width, int height)
{
    int64_t x0 = wanted.x, y0 = wanted.y;
    int64_t x1 = x0 + wanted.width, y1 = y0 + wanted.height;
    if (x0 < 0) x0 = 0;
    if (y0 < 0) y0 = 0;
    if (x1 > width) x1 = width;
    if (y1 > height) y1 = height;
    if (x0 >= x1 || y0 >= y1) return (struct mabn_rect){0, 0, 0, 0};
    return (struct mabn_rect){(int)x0, (int)y0, (int)(x1 - x0), (int)(y1 - y0)};
}

/* ---- what a file is ---- */

enum mabn_image_type mabn_image_sniff(const uint8_t *bytes, size_t size)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (size >= 3 && bytes[0] == 0xff && bytes[1] == 0xd8 && bytes[2] == 0xff)
        return MABN_IMAGE_JPEG;
    if (size >= sizeof png && !memcmp(bytes, png, sizeof png)) return MABN_IMAGE_PNG;
    if (size >= 12 && !memcmp(bytes, "RIFF", 4) && !memcmp(bytes + 8, "WEBP", 4))
        return MABN_IMAGE_WEBP;
    if (size >= 6 && (!memcmp(bytes, "GIF87a", 6) || !memcmp(bytes, "GIF89a", 6)))
        return MABN_IMAGE_GIF;
    if (size >= 18 && !memcmp(bytes, "BM", 2) && bytes[15] <= 1 && !bytes[16] && !bytes[17])
        return MABN_IMAGE_BMP;
    return MABN_IMAGE_UNKNOWN;
}

const char *mabn_image_type_name(enum mabn_image_type type)
{
    static const char *const names[] = {"unknown", "JPEG", "PNG", "WebP", "BMP", "GIF"};
    return names[type];
}

const char *mabn_image_colour_name(enum mabn_image_colour kind)
{
    static const char *const names[] = {"gray", "RGB", "YCbCr", "CMYK", "YCCK", "palette"};
    return names[kind];
}

/* What else a file may be, by its first bytes. */
static const char *other_kind(const uint8_t *bytes, size_t size)
{
    static const struct {
        int at, length;
        const char *bytes, *name;
    } kinds[] = {
        {0, 4, "II*\0", "a TIFF picture"},       {0, 4, "MM\0*", "a TIFF picture"},
        {4, 8, "ftypavif", "an AVIF picture"},   {4, 8, "ftypavis", "an AVIF picture"},
        {4, 8, "ftypheic", "a HEIC picture"},    {4, 8, "ftypheix", "a HEIC picture"},
        {4, 8, "ftypmif1", "a HEIF picture"},    {4, 4, "ftyp", "a video (MP4 or its like)"},
        {0, 2, "\xff\x0a", "a JPEG XL picture"}, {4, 4, "JXL ", "a JPEG XL picture"},
        {4, 4, "jP  ", "a JPEG 2000 picture"},   {0, 4, "\xff\x4f\xff\x51", "a JPEG 2000 picture"},
        {0, 4, "8BPS", "a Photoshop picture"},   {0, 4, "\0\0\1\0", "an icon"},
        {0, 4, "%PDF", "a PDF document"},        {0, 2, "P5", "a PGM picture"},
        {0, 2, "P6", "a PPM picture"},           {0, 2, "\x1f\x8b", "compressed by gzip"},
        {0, 4, "PK\3\4", "a ZIP archive"},       {0, 5, "<?xml", "XML or SVG text"},
        {0, 4, "<svg", "an SVG drawing"},        {0, 9, "<!DOCTYPE", "an HTML page"},
        {0, 9, "<!doctype", "an HTML page"},     {0, 5, "<html", "an HTML page"},
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
