/* PNG in and out, through libpng, with the same care about longjmp as jpeg.c: all state lives in
 * a struct, and nothing local is read after a jump. */
#include "image/image.h"

#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/codec.h"

struct reader {
    struct mabn_decode_job *job;
    png_structp png;
    png_infop info;
    size_t position;
    png_bytep *rows; /* (height) */
    bool pixels_begun;
};

/* ---- the header ---- */

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* PNG's table of depths, a bit for each. */
static unsigned depths_of(int colour)
{
    switch (colour) {
    case PNG_COLOR_TYPE_GRAY:
        return 1 << 1 | 1 << 2 | 1 << 4 | 1 << 8 | 1 << 16;
    case PNG_COLOR_TYPE_PALETTE:
        return 1 << 1 | 1 << 2 | 1 << 4 | 1 << 8;
    default:
        return 1 << 8 | 1 << 16;
    }
}

mabn_status mabn_png_probe(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    if (size < 29 || be32(bytes + 8) != 13 || memcmp(bytes + 12, "IHDR", 4))
        return mabn_fail(MABN_ERR_FORMAT, "PNG: no header");
    const uint32_t width = be32(bytes + 16), height = be32(bytes + 20);
    const int colour = bytes[25];
    MABN_TRY(mabn_image_check_size(width, height, UINT64_MAX));
    info->type = MABN_IMAGE_PNG;
    info->width = (int)width;
    info->height = (int)height;
    info->bits = bytes[24];
    info->progressive = bytes[28] != 0;
    info->alpha = colour & PNG_COLOR_MASK_ALPHA;
    if (colour <= PNG_COLOR_TYPE_RGB_ALPHA &&
        (info->bits > 16 || !(depths_of(colour) >> info->bits & 1)))
        return mabn_fail(MABN_ERR_FORMAT, "PNG: %d bits for colour type %d do not exist",
                         info->bits, colour);
    switch (colour) {
    case PNG_COLOR_TYPE_GRAY:
    case PNG_COLOR_TYPE_GRAY_ALPHA:
        info->colour = MABN_COLOUR_GRAY;
        info->channels = 1 + info->alpha;
        return MABN_OK;
    case PNG_COLOR_TYPE_RGB:
    case PNG_COLOR_TYPE_RGB_ALPHA:
        info->colour = MABN_COLOUR_RGB;
        info->channels = 3 + info->alpha;
        return MABN_OK;
    case PNG_COLOR_TYPE_PALETTE:
        info->colour = MABN_COLOUR_PALETTE;
        info->channels = 1;
        return MABN_OK;
    default:
        return mabn_fail(MABN_ERR_FORMAT, "PNG: colour type %d does not exist", colour);
    }
}

/* ---- libpng's callbacks ---- */

static void on_error(png_structp png, png_const_charp text)
{
    (void)mabn_fail(MABN_ERR_FORMAT, "PNG: %s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png, (void)text; /* about chunks that we do not use */
}

static void on_read(png_structp png, png_bytep out, size_t n)
{
    struct reader *r = png_get_io_ptr(png);
    if (n > r->job->size - r->position) png_error(png, "truncated");
    memcpy(out, r->job->bytes + r->position, n);
    r->position += n;
}

/* ---- decoding ---- */

/* Whatever the file holds, ask libpng for 8-bit gray or RGB without alpha. */
static void ask_for_plain_pixels(struct reader *r)
{
    const int colour = png_get_color_type(r->png, r->info);
    if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(r->png);
    if (colour == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(r->png);
    png_set_strip_16(r->png);
    png_set_strip_alpha(r->png);
    if (!(colour & PNG_COLOR_MASK_COLOR) && r->job->options.channels == 3)
        png_set_gray_to_rgb(r->png);
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
}

static mabn_status make_room(struct reader *r)
{
    const uint32_t width = png_get_image_width(r->png, r->info);
    const uint32_t height = png_get_image_height(r->png, r->info);
    const int channels = png_get_channels(r->png, r->info);
    struct mabn_image *image = r->job->image;
    MABN_TRY(mabn_image_resize_storage(image, (int)width, (int)height, channels));
    const size_t stride = (size_t)width * (size_t)channels;
    if (png_get_rowbytes(r->png, r->info) != stride)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "PNG: rows of an unexpected size");
    memset(image->pixels, 0, stride * height); /* what damage leaves out */
    r->rows = mabn_xmalloc(height * sizeof *r->rows);
    for (uint32_t y = 0; y < height; y++)
        r->rows[y] = image->pixels + y * stride;
    return MABN_OK;
}

/* Returns MABN_OK or the failure; jumps are caught here. */
static mabn_status read_png(struct reader *r)
{
    if (setjmp(png_jmpbuf(r->png)))
        return r->pixels_begun && r->job->options.allow_damaged ? MABN_OK : MABN_ERR_FORMAT;
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, INT32_MAX / 4, INT32_MAX / 4); /* ours are checked already */
    png_set_chunk_malloc_max(r->png, 1 << 20);                 /* profiles and texts: skipped */
    png_read_info(r->png, r->info);
    ask_for_plain_pixels(r);
    MABN_TRY(make_room(r));
    r->pixels_begun = true;
    png_read_image(r->png, r->rows);
    png_read_end(r->png, NULL);
    return MABN_OK;
}

/* Deflate shrinks at best 1032 times, so a short file cannot be a huge picture. */
mabn_status mabn_png_check(const struct mabn_image_info *info, size_t size)
{
    const uint64_t bits = (uint64_t)info->width * info->height * info->channels * info->bits;
    if (bits / 8 / 1032 > size)
        return mabn_fail(MABN_ERR_FORMAT,
                         "PNG is truncated: %zu bytes cannot hold a picture of %d x %d", size,
                         info->width, info->height);
    return MABN_OK;
}

mabn_status mabn_png_decode(struct mabn_decode_job *job)
{
    struct mabn_image_info info = {0};
    struct reader r = {.job = job};
    MABN_TRY(mabn_png_probe(&info, job->bytes, job->size));
    MABN_TRY(mabn_image_check_size((uint64_t)info.width, (uint64_t)info.height,
                                   job->options.max_pixels));
    MABN_TRY(mabn_png_check(&info, job->size));
    job->part = (struct mabn_rect){0, 0, info.width, info.height};
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, on_error, on_warning);
    if (r.png) r.info = png_create_info_struct(r.png);
    if (!r.info) {
        png_destroy_read_struct(&r.png, NULL, NULL);
        return mabn_fail(MABN_ERR_NOMEM, "cannot initialize libpng");
    }
    mabn_status status = read_png(&r);
    png_destroy_read_struct(&r.png, &r.info, NULL);
    free(r.rows);
    if (!status) status = mabn_image_set_channels(job->image, job->options.channels);
    return status;
}

/* ---- alpha ---- */

static mabn_status read_alpha(struct mabn_image *alpha, png_image *png)
{
    const size_t pixels = (size_t)png->width * png->height;
    uint8_t *rgba;
    MABN_TRY(mabn_alloc((void **)&rgba, 4 * pixels));
    mabn_status status = mabn_image_resize_storage(alpha, (int)png->width, (int)png->height, 1);
    if (!status && !png_image_finish_read(png, NULL, rgba, 0, NULL))
        status = mabn_fail(MABN_ERR_FORMAT, "PNG: %s", png->message);
    for (size_t i = 0; !status && i < pixels; i++)
        alpha->pixels[i] = rgba[4 * i + 3];
    mabn_free(rgba);
    return status;
}

mabn_status mabn_png_alpha(struct mabn_image *alpha, bool *found, const uint8_t *bytes, size_t size)
{
    const struct mabn_decode_options limits = MABN_DECODE_DEFAULTS;
    struct mabn_image_info info = {0};
    png_image png = {.version = PNG_IMAGE_VERSION};
    mabn_status status = MABN_OK;
    MABN_TRY(mabn_png_probe(&info, bytes, size));
    MABN_TRY(mabn_image_check_size((uint64_t)info.width, (uint64_t)info.height, limits.max_pixels));
    MABN_TRY(mabn_png_check(&info, size));
    if (!png_image_begin_read_from_memory(&png, bytes, size))
        return mabn_fail(MABN_ERR_FORMAT, "PNG: %s", png.message);
    if (png.format & PNG_FORMAT_FLAG_ALPHA) {
        png.format = PNG_FORMAT_RGBA;
        status = read_alpha(alpha, &png);
        *found = !status;
    }
    png_image_free(&png);
    return status;
}

/* ---- out ---- */

struct writer {
    const struct mabn_image *image;
    png_structp png;
    png_infop info;
    uint8_t *bytes;
    size_t size, capacity;
};

static void on_write(png_structp png, png_bytep bytes, size_t n)
{
    struct writer *w = png_get_io_ptr(png);
    if (n > w->capacity - w->size) {
        w->capacity = 2 * w->capacity + n + 4096;
        w->bytes = mabn_xrealloc(w->bytes, w->capacity);
    }
    memcpy(w->bytes + w->size, bytes, n);
    w->size += n;
}

static void on_flush(png_structp png)
{
    (void)png;
}

static bool write_png(struct writer *w)
{
    const struct mabn_image *image = w->image;
    if (setjmp(png_jmpbuf(w->png))) return false;
    png_set_write_fn(w->png, w, on_write, on_flush);
    png_set_IHDR(w->png, w->info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 image->channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(w->png, w->info);
    for (int y = 0; y < image->height; y++)
        png_write_row(w->png, image->pixels + (size_t)y * image->width * image->channels);
    png_write_end(w->png, NULL);
    return true;
}

mabn_status mabn_image_encode_png(uint8_t **bytes, size_t *size, const struct mabn_image *image)
{
    struct writer w = {.image = image};
    *bytes = NULL;
    w.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, on_error, on_warning);
    if (w.png) w.info = png_create_info_struct(w.png);
    const bool done = w.info && write_png(&w);
    const bool started = w.info != NULL;
    png_destroy_write_struct(&w.png, &w.info);
    if (!done) {
        free(w.bytes);
        return started ? MABN_ERR_FORMAT : mabn_fail(MABN_ERR_NOMEM, "cannot initialize libpng");
    }
    *bytes = w.bytes;
    *size = w.size;
    return MABN_OK;
}
