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

static mabn_status first_of_animation(struct mabn_decode_job *job)
{
    WebPData data = {job->bytes, job->size};
    WebPAnimDecoderOptions options;
    uint8_t *canvas;
    int when;
    if (!WebPAnimDecoderOptionsInit(&options))
        return mabn_fail(MABN_ERR_UNSUPPORTED, "WebP: another version of libwebpdemux");
    options.color_mode = MODE_RGBA;
    WebPAnimDecoder *decoder = WebPAnimDecoderNew(&data, &options);
    bool got = decoder && WebPAnimDecoderGetNext(decoder, &canvas, &when);
    size_t n = (size_t)job->image->width * (size_t)job->image->height;
    for (size_t i = 0; i < n && got; i++)
        for (size_t c = 0; c < 3; c++)
            job->image->pixels[3 * i + c] = canvas[4 * i + c];
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
        MABN_TRY(first_of_animation(job));
    else if (!WebPDecodeRGBInto(job->bytes, job->size, image->pixels, stride * (size_t)info.height,
                                (int)stride))
        return mabn_fail(MABN_ERR_FORMAT, "WebP: truncated or damaged");
    return mabn_image_set_channels(image, job->options.channels);
}
