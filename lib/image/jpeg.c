/* JPEG in and out, through libjpeg-turbo.
 *
 * libjpeg reports fatal errors by calling error_exit, which must not return: we longjmp out of it.
 * To keep that harmless, everything that may fail runs inside guarded(), and all state lives in
 * the decoder struct, so no local variable is ever read after a jump.
 *
 * Truncation and corruption are mere warnings to libjpeg, which goes on and paints gray. Here the
 * first warning that means wrong pixels ends the decoding, unless damage is allowed. */
#include "image/image.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "base/mem.h"
#include "image/codec.h"

enum { MISALIGN = 8 }; /* bytes, see step_part() */

struct mabn_jpeg_decoder {
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    mabn_status status;          /* of the failure that jumped */
    bool allow_damaged;          /* pass over warnings of wrong pixels */
    int max_scans;               /* 0: not limited */
    struct mabn_decode_job *job; /* at hand */
    struct mabn_image row;       /* one row of CMYK, or wider than what is kept */
};

/* ---- libjpeg's callbacks ---- */

static void on_error(j_common_ptr cinfo)
{
    struct mabn_jpeg_decoder *jpeg = cinfo->client_data;
    char text[JMSG_LENGTH_MAX];
    cinfo->err->format_message(cinfo, text);
    jpeg->status = mabn_fail(MABN_ERR_FORMAT, "JPEG: %s", text);
    longjmp(jpeg->jump, 1);
}

/* Warnings after which the pixels are still right. */
static bool is_harmless(int code)
{
    return code == JWRN_EXTRANEOUS_DATA || code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM ||
           code == JWRN_BOGUS_ICC;
}

static void on_message(j_common_ptr cinfo, int level)
{
    struct mabn_jpeg_decoder *jpeg = cinfo->client_data;
    char text[JMSG_LENGTH_MAX];
    if (level >= 0 || is_harmless(cinfo->err->msg_code)) return;
    if (jpeg->allow_damaged) return;
    cinfo->err->format_message(cinfo, text);
    jpeg->status = mabn_fail(MABN_ERR_FORMAT, "JPEG is damaged or truncated: %s", text);
    longjmp(jpeg->jump, 1);
}

static void on_output(j_common_ptr cinfo)
{
    (void)cinfo;
}

/* A small file with thousands of progressive scans can keep libjpeg busy for minutes. */
static void on_progress(j_common_ptr cinfo)
{
    struct mabn_jpeg_decoder *jpeg = cinfo->client_data;
    if (!jpeg->max_scans || jpeg->cinfo.input_scan_number <= jpeg->max_scans) return;
    jpeg->status =
        mabn_fail(MABN_ERR_LIMIT, "JPEG has more than the limit of %d scans", jpeg->max_scans);
    longjmp(jpeg->jump, 1);
}

static mabn_status guarded(struct mabn_jpeg_decoder *jpeg, void (*step)(struct mabn_jpeg_decoder *))
{
    jpeg->status = MABN_OK;
    if (!setjmp(jpeg->jump)) step(jpeg);
    return jpeg->status;
}

/* ---- life ---- */

/* libjpeg's object lives for one picture: kept for the next, it would lend a file without tables
 * of its own those of the file before. */
static void step_create(struct mabn_jpeg_decoder *jpeg)
{
    jpeg_create_decompress(&jpeg->cinfo);
}

static mabn_status begin(struct mabn_jpeg_decoder *jpeg, struct mabn_decode_job *job)
{
    jpeg->job = job;
    jpeg->allow_damaged = job->options.allow_damaged;
    jpeg->max_scans = job->options.max_scans;
    jpeg->cinfo.err = jpeg_std_error(&jpeg->errors);
    jpeg->errors.error_exit = on_error;
    jpeg->errors.emit_message = on_message;
    jpeg->errors.output_message = on_output;
    jpeg->cinfo.client_data = jpeg;
    MABN_TRY(guarded(jpeg, step_create));
    jpeg->progress.progress_monitor = on_progress;
    jpeg->cinfo.progress = &jpeg->progress;
    return MABN_OK;
}

static void end(struct mabn_jpeg_decoder *jpeg)
{
    jpeg_destroy_decompress(&jpeg->cinfo);
    jpeg->job = NULL;
}

struct mabn_jpeg_decoder *mabn_jpeg_decoder_new(void)
{
    return mabn_xcalloc(1, sizeof(struct mabn_jpeg_decoder));
}

void mabn_jpeg_decoder_free(struct mabn_jpeg_decoder *jpeg)
{
    if (!jpeg) return;
    mabn_image_release(&jpeg->row);
    free(jpeg);
}

/* ---- the header ---- */

static void step_header(struct mabn_jpeg_decoder *jpeg)
{
    jpeg_mem_src(&jpeg->cinfo, jpeg->job->bytes, (unsigned long)jpeg->job->size);
    jpeg_read_header(&jpeg->cinfo, TRUE);
}

static mabn_status fill_info(struct mabn_image_info *info,
                             const struct jpeg_decompress_struct *cinfo)
{
    info->type = MABN_IMAGE_JPEG;
    info->width = (int)cinfo->image_width;
    info->height = (int)cinfo->image_height;
    info->channels = cinfo->num_components;
    info->bits = cinfo->data_precision;
    info->progressive = cinfo->progressive_mode;
    switch (cinfo->jpeg_color_space) {
    case JCS_GRAYSCALE:
        info->colour = MABN_COLOUR_GRAY;
        return MABN_OK;
    case JCS_RGB:
        info->colour = MABN_COLOUR_RGB;
        return MABN_OK;
    case JCS_YCbCr:
        info->colour = MABN_COLOUR_YCC;
        return MABN_OK;
    case JCS_CMYK:
        info->colour = MABN_COLOUR_CMYK;
        return MABN_OK;
    case JCS_YCCK:
        info->colour = MABN_COLOUR_YCCK;
        return MABN_OK;
    default:
        return mabn_fail(MABN_ERR_UNSUPPORTED, "JPEG with %d colour components",
                         cinfo->num_components);
    }
}

/* Every Huffman-coded 8×8 block costs at least a bit, so a file of so many bytes cannot hold more
 * than so many blocks: a short file that claims to be huge is refused before memory is taken for
 * it. Arithmetic coding knows no such bound, nor do we know a data set that uses it. */
static mabn_status check_plausible(const struct jpeg_decompress_struct *cinfo, size_t size)
{
    uint64_t blocks = 0;
    if (cinfo->arith_code)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "JPEG is arithmetic-coded (jpegtran can convert it)");
    for (int i = 0; i < cinfo->num_components; i++)
        blocks +=
            (uint64_t)cinfo->comp_info[i].width_in_blocks * cinfo->comp_info[i].height_in_blocks;
    if (blocks / 8 > size)
        return mabn_fail(MABN_ERR_FORMAT,
                         "JPEG is truncated: %zu bytes cannot hold a picture of %u x %u", size,
                         cinfo->image_width, cinfo->image_height);
    return MABN_OK;
}

mabn_status mabn_jpeg_probe(struct mabn_image_info *info, const uint8_t *bytes, size_t size)
{
    struct mabn_jpeg_decoder jpeg = {0};
    struct mabn_decode_job job = {.bytes = bytes, .size = size};
    mabn_status status = begin(&jpeg, &job);
    if (!status) status = guarded(&jpeg, step_header);
    if (!status) status = fill_info(info, &jpeg.cinfo);
    if (!status) status = check_plausible(&jpeg.cinfo, size);
    end(&jpeg);
    return status;
}

/* ---- the pixels ---- */

/* Pillow's CMYK → RGB, on the inverted values that Adobe's programs store. */
static void convert_cmyk(uint8_t *rgb, const uint8_t *cmyk, int width)
{
    for (int i = 0; i < width; i++, rgb += 3, cmyk += 4) {
        const unsigned not_k = cmyk[3];
        for (int c = 0; c < 3; c++) {
            unsigned t = (255u - cmyk[c]) * not_k + 128;
            t = ((t >> 8) + t) >> 8;
            rgb[c] = (uint8_t)(not_k > t ? not_k - t : 0);
        }
    }
}

static bool is_cmyk(const struct jpeg_decompress_struct *cinfo)
{
    return cinfo->jpeg_color_space == JCS_CMYK || cinfo->jpeg_color_space == JCS_YCCK;
}

/* Set the output's colour space and scale; find the part to keep. */
static mabn_status choose_output(struct mabn_jpeg_decoder *jpeg)
{
    struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
    struct mabn_decode_job *job = jpeg->job;
    struct mabn_rect full = {0, 0, (int)cinfo->image_width, (int)cinfo->image_height};
    if (is_cmyk(cinfo))
        cinfo->out_color_space = JCS_CMYK;
    else
        cinfo->out_color_space = job->options.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    cinfo->dct_method = JDCT_ISLOW;
    job->part = full;
    if (!job->partial || is_cmyk(cinfo)) return MABN_OK;
    struct mabn_rect w = mabn_rect_clip(job->wanted, full.width, full.height);
    if (!w.width)
        return mabn_fail(MABN_ERR_ARG, "the requested part lies outside the picture of %d x %d",
                         full.width, full.height);
    int s = 1;
    if (job->min_width > 0)
        while (s < 8 && w.width / (2 * s) >= job->min_width &&
               w.height / (2 * s) >= job->min_height)
            s *= 2;
    job->scale = s;
    cinfo->scale_num = 1;
    cinfo->scale_denom = (unsigned)s;
    job->part.x = w.x / s;
    job->part.y = w.y / s;
    job->part.width = (w.x + w.width + s - 1) / s - job->part.x;
    job->part.height = (w.y + w.height + s - 1) / s - job->part.y;
    return MABN_OK;
}

static void step_start(struct mabn_jpeg_decoder *jpeg)
{
    jpeg_start_decompress(&jpeg->cinfo);
}

static void step_cmyk(struct mabn_jpeg_decoder *jpeg)
{
    struct mabn_image *image = jpeg->job->image;
    for (int y = 0; y < image->height; y++) {
        JSAMPROW row = jpeg->row.pixels;
        jpeg_read_scanlines(&jpeg->cinfo, &row, 1);
        convert_cmyk(image->pixels + (size_t)y * image->width * 3, row, image->width);
    }
}

static void step_whole(struct mabn_jpeg_decoder *jpeg)
{
    const struct mabn_image *image = jpeg->job->image;
    const size_t stride = (size_t)image->width * image->channels;
    while (jpeg->cinfo.output_scanline < jpeg->cinfo.output_height) {
        JSAMPROW rows[8];
        const unsigned y = jpeg->cinfo.output_scanline;
        unsigned n = jpeg->cinfo.output_height - y;
        if (n > 8) n = 8;
        for (unsigned i = 0; i < n; i++)
            rows[i] = image->pixels + (y + i) * stride;
        jpeg_read_scanlines(&jpeg->cinfo, rows, n);
    }
}

/* A progressive file that ends before its coefficients are exact is smoothed by libjpeg, which looks
 * at blocks two away, and takes the edge of what is decoded for the picture's. */
static bool is_smoothed(const struct jpeg_decompress_struct *cinfo)
{
    enum { SMOOTHED = 10 }; /* coefficients that smoothing guesses, at most */
    if (!cinfo->progressive_mode || !cinfo->coef_bits) return false;
    for (int c = 0; c < cinfo->num_components; c++)
        for (int i = 0; i < SMOOTHED; i++)
            if (cinfo->coef_bits[c][i] != 0) return true;
    return false;
}

/* Smooth upsampling looks at the neighbours of a pixel, which do not exist at the edge of what is
 * decoded, so a margin of one chroma sample is decoded and thrown away: then the part equals the
 * same part of the whole (tests/unit/test_image.c compares them). */
static void step_part(struct mabn_jpeg_decoder *jpeg)
{
    struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
    const struct mabn_rect part = jpeg->job->part;
    const int margin_x = cinfo->max_h_samp_factor, margin_y = cinfo->max_v_samp_factor;
    JDIMENSION x = part.x > margin_x ? (JDIMENSION)(part.x - margin_x) : 0;
    JDIMENSION right = (JDIMENSION)(part.x + part.width + margin_x);
    if (right > cinfo->output_width) right = cinfo->output_width;
    JDIMENSION width = right - x;
    /* libjpeg-turbo 2.1.5 gets columns of scaled pictures wrong when chroma is 4:1 across */
    const bool smoothed = is_smoothed(cinfo);
    const bool columns = !smoothed && (cinfo->max_h_samp_factor <= 2 || jpeg->job->scale == 1);
    if (columns && width < cinfo->output_width)
        jpeg_crop_scanline(cinfo, &x, &width);
    else
        x = 0;
    if (!smoothed && part.y > margin_y) jpeg_skip_scanlines(cinfo, (JDIMENSION)(part.y - margin_y));

    const struct mabn_image *image = jpeg->job->image;
    const size_t stride = (size_t)image->width * image->channels;
    /* libjpeg-turbo writes aligned rows around the cache, and we read them at once: so misalign */
    JSAMPROW row = jpeg->row.pixels + MISALIGN;
    const uint8_t *from = row + ((size_t)part.x - x) * image->channels;
    while ((int)cinfo->output_scanline < part.y)
        jpeg_read_scanlines(cinfo, &row, 1);
    for (int y = 0; y < part.height; y++) {
        jpeg_read_scanlines(cinfo, &row, 1);
        memcpy(image->pixels + (size_t)y * stride, from, stride);
    }
}

static mabn_status decode_pixels(struct mabn_jpeg_decoder *jpeg)
{
    struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
    const struct mabn_decode_job *job = jpeg->job;
    const int channels = is_cmyk(cinfo) ? 3 : job->options.channels;
    const struct mabn_rect part = job->part;
    MABN_TRY(mabn_image_resize_storage(job->image, part.width, part.height, channels));
    MABN_TRY(guarded(jpeg, step_start));
    if (is_cmyk(cinfo)) {
        MABN_TRY(mabn_image_resize_storage(&jpeg->row, 4 * part.width, 1, 1));
        MABN_TRY(guarded(jpeg, step_cmyk));
        return mabn_image_set_channels(job->image, job->options.channels);
    }
    if (part.width == (int)cinfo->output_width && part.height == (int)cinfo->output_height)
        return guarded(jpeg, step_whole);
    MABN_TRY(
        mabn_image_resize_storage(&jpeg->row, (int)cinfo->output_width + MISALIGN, 1, channels));
    return guarded(jpeg, step_part);
}

mabn_status mabn_jpeg_decode(struct mabn_jpeg_decoder *jpeg, struct mabn_decode_job *job)
{
    struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
    struct mabn_image_info info = {0};
    mabn_status status;
    MABN_TRY_GOTO(begin(jpeg, job), out);
    MABN_TRY_GOTO(guarded(jpeg, step_header), out);
    MABN_TRY_GOTO(fill_info(&info, cinfo), out);
    MABN_TRY_GOTO(
        mabn_image_check_size(cinfo->image_width, cinfo->image_height, job->options.max_pixels),
        out);
    MABN_TRY_GOTO(check_plausible(cinfo, job->size), out);
    MABN_TRY_GOTO(choose_output(jpeg), out);
    MABN_TRY_GOTO(decode_pixels(jpeg), out);
out:
    end(jpeg);
    return status;
}

/* ---- out ---- */

struct jpeg_writer {
    struct jpeg_compress_struct cinfo;
    struct jpeg_error_mgr errors;
    jmp_buf jump;
    const struct mabn_image *image;
    int quality;
    unsigned char *bytes;
    unsigned long size;
};

static void on_write_error(j_common_ptr cinfo)
{
    struct jpeg_writer *w = cinfo->client_data;
    char text[JMSG_LENGTH_MAX];
    cinfo->err->format_message(cinfo, text);
    (void)mabn_fail(MABN_ERR_ARG, "cannot encode JPEG: %s", text);
    longjmp(w->jump, 1);
}

static void write_jpeg(struct jpeg_writer *w)
{
    const struct mabn_image *image = w->image;
    jpeg_create_compress(&w->cinfo);
    jpeg_mem_dest(&w->cinfo, &w->bytes, &w->size);
    w->cinfo.image_width = (JDIMENSION)image->width;
    w->cinfo.image_height = (JDIMENSION)image->height;
    w->cinfo.input_components = image->channels;
    w->cinfo.in_color_space = image->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&w->cinfo);
    jpeg_set_quality(&w->cinfo, w->quality, TRUE);
    w->cinfo.optimize_coding = TRUE;
    jpeg_start_compress(&w->cinfo, TRUE);
    while (w->cinfo.next_scanline < w->cinfo.image_height) {
        JSAMPROW row =
            image->pixels + (size_t)w->cinfo.next_scanline * image->width * image->channels;
        jpeg_write_scanlines(&w->cinfo, &row, 1);
    }
    jpeg_finish_compress(&w->cinfo);
}

mabn_status mabn_image_encode_jpeg(uint8_t **bytes, size_t *size, const struct mabn_image *image,
                                   int quality)
{
    struct jpeg_writer w = {.image = image, .quality = quality};
    *bytes = NULL;
    if (quality < 1 || quality > 100)
        return mabn_fail(MABN_ERR_ARG, "JPEG quality %d is not in 1...100", quality);
    w.cinfo.err = jpeg_std_error(&w.errors);
    w.errors.error_exit = on_write_error;
    w.errors.output_message = on_output;
    w.cinfo.client_data = &w;
    if (setjmp(w.jump)) {
        jpeg_destroy_compress(&w.cinfo);
        free(w.bytes);
        return MABN_ERR_ARG;
    }
    write_jpeg(&w);
    jpeg_destroy_compress(&w.cinfo);
    *bytes = w.bytes;
    *size = w.size;
    return MABN_OK;
}
