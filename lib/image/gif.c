/* The first picture of a GIF, through giflib, on a canvas of the whole GIF's size: around it is the
 * transparent colour if there is one, else the first. */
#include <gif_lib.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/codec.h"

struct source {
    const uint8_t *bytes;
    size_t size, at;
};

static int read_bytes(GifFileType *gif, GifByteType *out, int n)
{
    struct source *s = gif->UserData;
    size_t left = s->size - s->at, got = (size_t)n < left ? (size_t)n : left;
    memcpy(out, s->bytes + s->at, got);
    s->at += got;
    return (int)got;
}

static uint32_t le16(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8;
}

mabn_status mabn_gif_probe(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    if (size < 13)
        return mabn_fail(MABN_ERR_FORMAT, "GIF is truncated: %zu bytes, a header has 13", size);
    const size_t table = bytes[10] & 0x80 ? (size_t)3 << ((bytes[10] & 7) + 1) : 0;
    if (size < 13 + table)
        return mabn_fail(MABN_ERR_FORMAT,
                         "GIF is truncated in its colour table, after %zu of %zu colours",
                         (size - 13) / 3, table / 3);
    uint32_t width = le16(bytes + 6), height = le16(bytes + 8);
    MABN_TRY(mabn_image_check_size(width, height, UINT64_MAX));
    *info = (struct mabn_image_info){.type = MABN_IMAGE_GIF,
                                     .colour = MABN_COLOUR_PALETTE,
                                     .width = (int)width,
                                     .height = (int)height,
                                     .channels = 1,
                                     .bits = 8};
    return MABN_OK;
}

static mabn_status gif_failed(const char *what, int code)
{
    if (code == D_GIF_ERR_READ_FAILED || code == D_GIF_ERR_EOF_TOO_SOON)
        return mabn_fail(MABN_ERR_FORMAT, "GIF is truncated");
    const char *why = GifErrorString(code);
    return mabn_fail(MABN_ERR_FORMAT, "GIF: %s%s%s", what, why ? ": " : "", why ? why : "");
}

/* Up to the first picture; the transparent colour, -1: none. */
static mabn_status find_picture(GifFileType *gif, int *transparent)
{
    GifRecordType type;
    *transparent = -1;
    for (;;) {
        if (DGifGetRecordType(gif, &type) == GIF_ERROR) return gif_failed("no block", gif->Error);
        if (type == IMAGE_DESC_RECORD_TYPE) break;
        if (type == TERMINATE_RECORD_TYPE)
            return mabn_fail(MABN_ERR_FORMAT, "GIF: there is no picture in it");
        GifByteType *block = NULL;
        int code = 0;
        if (type != EXTENSION_RECORD_TYPE) continue;
        if (DGifGetExtension(gif, &code, &block) == GIF_ERROR)
            return gif_failed("a bad block", gif->Error);
        if (code == GRAPHICS_EXT_FUNC_CODE && block && block[0] >= 4)
            *transparent = block[1] & 1 ? block[4] : -1;
        while (block)
            if (DGifGetExtensionNext(gif, &block) == GIF_ERROR)
                return gif_failed("a bad block", gif->Error);
    }
    return DGifGetImageDesc(gif) == GIF_ERROR ? gif_failed("a bad picture", gif->Error) : MABN_OK;
}

static void put_colour(uint8_t *out, const ColorMapObject *map, int index)
{
    GifColorType c = {0, 0, 0};
    if (index < map->ColorCount) c = map->Colors[index];
    out[0] = c.Red;
    out[1] = c.Green;
    out[2] = c.Blue;
}

/* Rows of an interlaced picture come in four passes. */
static int row_of(int n, int height, bool interlaced)
{
    static const int start[4] = {0, 4, 2, 1}, step[4] = {8, 8, 4, 2};
    if (!interlaced) return n;
    for (int pass = 0; pass < 4; pass++) {
        int rows = (height - start[pass] + step[pass] - 1) / step[pass];
        if (rows < 0) rows = 0;
        if (n < rows) return start[pass] + n * step[pass];
        n -= rows;
    }
    return 0;
}

/* One row of the picture; x from `left` on. */
typedef void put_row(struct mabn_image *image, int left, int y, const GifPixelType *row, int n,
                     const void *context);

static mabn_status read_rows(GifFileType *gif, struct mabn_image *image, bool allow_damaged,
                             put_row *put, const void *context)
{
    const GifImageDesc d = gif->Image;
    GifPixelType *row = mabn_xmalloc((size_t)d.Width + 1);
    int n = d.Left < image->width ? image->width - d.Left : 0;
    mabn_status status = MABN_OK;
    if (n > d.Width) n = d.Width;
    for (int i = 0; i < d.Height && !status; i++) {
        if (DGifGetLine(gif, row, d.Width) == GIF_ERROR) {
            status = allow_damaged ? MABN_OK : gif_failed("bad pixels", gif->Error);
            break;
        }
        int y = d.Top + row_of(i, d.Height, d.Interlace);
        if (y < image->height) put(image, d.Left, y, row, n, context);
    }
    free(row);
    return status;
}

static void put_colours(struct mabn_image *image, int left, int y, const GifPixelType *row, int n,
                        const void *map)
{
    uint8_t *out = image->pixels + 3 * ((size_t)y * (size_t)image->width + (size_t)left);
    for (int x = 0; x < n; x++)
        put_colour(out + 3 * x, map, row[x]);
}

static mabn_status read_gif(GifFileType *gif, struct mabn_decode_job *job)
{
    int transparent;
    struct mabn_image *image = job->image;
    MABN_TRY(find_picture(gif, &transparent));
    const ColorMapObject *map = gif->Image.ColorMap ? gif->Image.ColorMap : gif->SColorMap;
    if (!map) return mabn_fail(MABN_ERR_FORMAT, "GIF: no palette");
    MABN_TRY(mabn_image_resize_storage(image, job->part.width, job->part.height, 3));
    size_t n = (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < n; i++)
        put_colour(image->pixels + 3 * i, map, transparent < 0 ? 0 : transparent);
    return read_rows(gif, image, job->options.allow_damaged, put_colours, map);
}

/* Fails for a picture that is too large, by itself or for so few bytes. */
static mabn_status open_gif(GifFileType **gif, struct source *source, struct mabn_image_info *info,
                            uint64_t max_pixels)
{
    int code = 0;
    MABN_TRY(mabn_gif_probe(info, source->bytes, source->size));
    MABN_TRY(mabn_image_check_size((uint64_t)info->width, (uint64_t)info->height, max_pixels));
    if ((uint64_t)info->width * (uint64_t)info->height / 4096 > source->size)
        return mabn_fail(MABN_ERR_FORMAT,
                         "GIF is truncated: %zu bytes cannot hold a picture of %d x %d",
                         source->size, info->width, info->height);
    *gif = DGifOpen(source, read_bytes, &code);
    return *gif ? MABN_OK : gif_failed("no header", code);
}

mabn_status mabn_gif_decode(struct mabn_decode_job *job)
{
    struct mabn_image_info info;
    struct source source = {job->bytes, job->size, 0};
    GifFileType *gif;
    int code;
    MABN_TRY(open_gif(&gif, &source, &info, job->options.max_pixels));
    job->part = (struct mabn_rect){0, 0, info.width, info.height};
    mabn_status status = read_gif(gif, job);
    DGifCloseFile(gif, &code);
    return status ? status : mabn_image_set_channels(job->image, job->options.channels);
}

/* ---- alpha ---- */

static void put_opacity(struct mabn_image *image, int left, int y, const GifPixelType *row, int n,
                        const void *transparent)
{
    uint8_t *out = image->pixels + (size_t)y * (size_t)image->width + (size_t)left;
    for (int x = 0; x < n; x++)
        out[x] = row[x] == *(const int *)transparent ? 0 : 255;
}

mabn_status mabn_gif_alpha(struct mabn_image *alpha, bool *found, const uint8_t *bytes, size_t size)
{
    const struct mabn_decode_options limits = MABN_DECODE_DEFAULTS;
    struct mabn_image_info info;
    struct source source = {bytes, size, 0};
    GifFileType *gif;
    int code, transparent;
    MABN_TRY(open_gif(&gif, &source, &info, limits.max_pixels));
    mabn_status status = find_picture(gif, &transparent);
    *found = !status && transparent >= 0;
    if (*found) {
        status = mabn_image_resize_storage(alpha, info.width, info.height, 1);
        if (!status) {
            memset(alpha->pixels, 0, (size_t)info.width * (size_t)info.height);
            status = read_rows(gif, alpha, false, put_opacity, &transparent);
        }
    }
    DGifCloseFile(gif, &code);
    return status;
}
