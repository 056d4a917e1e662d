/* Pictures in memory, and recognizing the formats of files. */
#include "image/image.h"

#include <string.h>

#include "base/mem.h"
#include "image/codec.h"

void mabn_image_release(struct mabn_image *image)
{
    mabn_free(image->pixels);
    memset(image, 0, sizeof *image);
}

mabn_status mabn_image_resize_storage(struct mabn_image *image, int width, int height, int channels)
{
    size_t bytes;
    if (width < 1 || height < 1 || (channels != 1 && channels != 3))
        return mabn_fail(MABN_ERR_ARG, "impossible size of a picture: %d x %d x %d", width, height,
                         channels);
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
    if (width > INT32_MAX / 4 || height > INT32_MAX / 4)
        return mabn_fail(MABN_ERR_LIMIT,
                         "the picture is %llu x %llu, more than the limit of %d pixels a side",
                         (unsigned long long)width, (unsigned long long)height, INT32_MAX / 4);
    if (width * height > max_pixels)
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

/* ---- kinds of files ---- */

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
