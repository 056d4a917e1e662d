/* WebP in, through libwebp: a still picture, or the first of an animation on its canvas. */
#include <stdlib.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include "image/codec.h"

mabn_status mabn_webp_probe(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    WebPBitstreamFeatures f;
    if (WebPGetFeatures(bytes, size, &f) != VP8_STATUS_OK)
        return mabn_fail(MABN_ERR_FORMAT, "WebP: no header");
    MABN_TRY(mabn_image_check_size((uint64_t)f.width, (uint64_t)f.height, UINT64_MAX));
    *info = (struct mabn_image_info){.type = MABN_IMAGE_WEBP,
                                     .colour = MABN_COLOUR_RGB,
                                     .width = f.width,
                                     .height = f.height,
                                     .channels = f.has_alpha ? 4 : 3,
                                     .bits = 8,
                                     .progressive = f.has_animation,
                                     .alpha = f.has_alpha};
    return MABN_OK;
}

/* The channels from..from+n-1 of R, G, B and alpha into the picture, which has n. */
static mabn_status first_of_animation(struct mabn_image *image, const uint8_t *bytes, size_t size,
                                      size_t from)
{
    WebPData data = {bytes, size};
    WebPAnimDecoderOptions options;
    uint8_t *canvas;
    int when;
    if (!WebPAnimDecoderOptionsInit(&options))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "WebP: another version of libwebpdemux");
    options.color_mode = MODE_RGBA;
    WebPAnimDecoder *decoder = WebPAnimDecoderNew(&data, &options);
    bool got = decoder && WebPAnimDecoderGetNext(decoder, &canvas, &when);
    size_t n = (size_t)image->width * (size_t)image->height, channels = (size_t)image->channels;
    for (size_t i = 0; i < n && got; i++)
        for (size_t c = 0; c < channels; c++)
            image->pixels[channels * i + c] = canvas[4 * i + from + c];
    WebPAnimDecoderDelete(decoder);
    return got ? MABN_OK : mabn_fail(MABN_ERR_FORMAT, "WebP: truncated or damaged");
}

mabn_status mabn_webp_decode(struct mabn_decode_job *job)
{
    struct mabn_image_info info;
    struct mabn_image *image = job->image;
    MABN_TRY(mabn_webp_probe(&info, job->bytes, job->size));
    MABN_TRY(mabn_image_check_size((uint64_t)info.width, (uint64_t)info.height,
                                   job->options.max_pixels));
    job->part = (struct mabn_rect){0, 0, info.width, info.height};
    MABN_TRY(mabn_image_resize_storage(image, info.width, info.height, 3));
    size_t stride = 3 * (size_t)info.width;
    if (info.progressive)
        MABN_TRY(first_of_animation(image, job->bytes, job->size, 0));
    else if (!WebPDecodeRGBInto(job->bytes, job->size, image->pixels, stride * (size_t)info.height,
                                (int)stride))
        return mabn_fail(MABN_ERR_FORMAT, "WebP: truncated or damaged");
    return mabn_image_set_channels(image, job->options.channels);
}

static mabn_status alpha_of_still(struct mabn_image *alpha, const uint8_t *bytes, size_t size)
{
    int width, height;
    uint8_t *rgba = WebPDecodeRGBA(bytes, size, &width, &height);
    if (!rgba) return mabn_fail(MABN_ERR_FORMAT, "WebP: truncated or damaged");
    const size_t n = (size_t)alpha->width * (size_t)alpha->height;
    for (size_t i = 0; i < n; i++)
        alpha->pixels[i] = rgba[4 * i + 3];
    WebPFree(rgba);
    return MABN_OK;
}

mabn_status mabn_webp_alpha(struct mabn_image *alpha, bool *found, const uint8_t *bytes,
                            size_t size)
{
    const struct mabn_decode_options limits = MABN_DECODE_DEFAULTS;
    struct mabn_image_info info;
    MABN_TRY(mabn_webp_probe(&info, bytes, size));
    MABN_TRY(mabn_image_check_size((uint64_t)info.width, (uint64_t)info.height, limits.max_pixels));
    if (!info.alpha) return MABN_OK;
    MABN_TRY(mabn_image_resize_storage(alpha, info.width, info.height, 1));
    MABN_TRY(info.progressive ? first_of_animation(alpha, bytes, size, 3)
                              : alpha_of_still(alpha, bytes, size));
    *found = true;
    return MABN_OK;
}
