/* Pictures in memory; JPEG, PNG, WebP, BMP and GIF in, JPEG and PNG out.
 *
 * A picture is 8-bit, rows from the top, channels interleaved (H,W,C), 3 channels R G B or 1 gray.
 * The format is recognized by the bytes, never by the file's name (ImageNet holds a PNG named .JPEG).
 * Pictures are decoded to the requested channels: gray is copied to R, G and B; CMYK and YCCK JPEGs
 * are converted as Pillow does it (inverted storage, Adobe's convention); PNG palettes are expanded,
 * 16 bits are cut to the high 8. Alpha is dropped: a pixel has the colour that is stored under it, as
 * with Pillow's convert("RGB"). Of an animation (GIF, WebP, PNG) and of a JPEG with several
 * pictures the first is decoded. Colour profiles are ignored. The orientation in EXIF data is reported; only
 * mabn_image_turn applies it, as in torchvision.
 *
 * Decoding is exact: baseline and progressive JPEGs by the slow integer DCT with smooth chroma
 * upsampling, hence the same pixels as Pillow and OpenCV on the same libjpeg.
 *
 * Headers may lie. Before memory is allocated for a picture, its size is checked against the limits
 * and against the number of bytes in the file. Truncated and corrupt data is an
 * error (libjpeg itself only warns and paints gray) unless the caller allows it. */
#ifndef MABN_IMAGE_IMAGE_H
#define MABN_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

/* ---- pictures ---- */

struct mabn_image {
    uint8_t *pixels; /* (height,width,channels), owned; NULL while empty */
    int width, height;
    int channels;    /* 1 or 3 */
    size_t capacity; /* bytes behind `pixels`: reused when the next picture fits */
};

struct mabn_rect {
    int x, y, width, height;
};

/* A zeroed struct is a valid empty picture. */
void mabn_image_release(struct mabn_image *image);
/* Make it this size, contents undefined; keeps the storage when it is large enough. */
MABN_MUST_USE mabn_status mabn_image_resize_storage(struct mabn_image *image, int width, int height,
                                                    int channels);
/* out becomes the part `rect` of `in`, zero where that reaches outside. in and out differ. */
MABN_MUST_USE mabn_status mabn_image_crop(struct mabn_image *out, const struct mabn_image *in,
                                          struct mabn_rect rect);
/* Turn and mirror as an EXIF orientation asks for; from 5 on width and height change places. */
MABN_MUST_USE mabn_status mabn_image_turn(struct mabn_image *image, int orientation);
/* Between RGB and gray in place: gray is Pillow's "L" (weights 0.299, 0.587, 0.114). */
MABN_MUST_USE mabn_status mabn_image_set_channels(struct mabn_image *image, int channels);

/* ---- what a file is ---- */

enum mabn_image_type {
    MABN_IMAGE_UNKNOWN,
    MABN_IMAGE_JPEG,
    MABN_IMAGE_PNG,
    MABN_IMAGE_WEBP,
    MABN_IMAGE_BMP,
    MABN_IMAGE_GIF,
};

enum mabn_image_colour {
    MABN_COLOUR_GRAY,
    MABN_COLOUR_RGB,
    MABN_COLOUR_YCC,
    MABN_COLOUR_CMYK,
    MABN_COLOUR_YCCK,
    MABN_COLOUR_PALETTE,
};

struct mabn_image_info {
    enum mabn_image_type type;
    enum mabn_image_colour colour;
    int width, height;
    int channels;      /* as stored, alpha included: 1…4 (palette: 1) */
    int bits;          /* a sample: 8 for JPEG, 1…16 for PNG */
    bool progressive;  /* progressive JPEG, interlaced PNG */
    bool alpha;        /* an alpha channel, or a colour that stands for transparency */
    uint32_t pictures; /* in the file, at least 1; decoding reads the first */
    int orientation;   /* EXIF: 1 as stored, 2…8 to be turned or mirrored; 0: not said */
};

/* Only the first bytes: never fails. */
enum mabn_image_type mabn_image_sniff(const uint8_t *bytes, size_t size);

/* Reads the header only: nothing is decoded. */
MABN_MUST_USE mabn_status mabn_image_probe(struct mabn_image_info *info, const uint8_t *bytes,
                                           size_t size);

/* The checks that need no decoding: fails when a picture is larger than decoding allows by default,
 * or when its end is missing. `info` is of these bytes. */
MABN_MUST_USE mabn_status mabn_image_check(const struct mabn_image_info *info, const uint8_t *bytes,
                                           size_t size);

/* ---- decoding ---- */

struct mabn_decode_options {
    int channels;        /* 3 (default) or 1 */
    uint64_t max_pixels; /* refuse larger pictures; default 100 million */
    int max_scans;       /* refuse progressive JPEGs with more scans; default 100 */
    bool allow_damaged;  /* accept missing or corrupt data, as libjpeg and libpng do */
};
#define MABN_DECODE_DEFAULTS      \
    {                             \
        3, 100000000u, 100, false \
    }

/* A decoder's state, reused from picture to picture: one for each thread. */
struct mabn_decoder;
struct mabn_decoder *mabn_decoder_new(void);
void mabn_decoder_free(struct mabn_decoder *decoder);

/* The whole picture. options NULL: the defaults. On failure the picture's contents are
 * undefined, its storage still valid. */
MABN_MUST_USE mabn_status mabn_image_decode(struct mabn_decoder *decoder, struct mabn_image *image,
                                            const uint8_t *bytes, size_t size,
                                            const struct mabn_decode_options *options);

/* Only the part of a picture that a crop needs: rows above are entropy-decoded but not
 * transformed, and rows below are not read, so damage there is not noticed; columns likewise.
 * `image` receives exactly the pixels that the full decode has in `part`, which covers at least
 * `wanted` (clipped to the picture) and may be larger.
 *
 * With min_width > 0 a JPEG is decoded at the smallest of the scales 1/1, 1/2, 1/4, 1/8 at which
 * `wanted` still measures at least min_width × min_height; `part` then is in the coordinates of
 * the scaled picture and *scale its denominator (1, 2, 4 or 8). Scaled pixels are averages of full
 * ones: faster than decoding the whole and shrinking it, with other results. min_width 0: always 1/1.
 * Pictures that cannot be decoded in part (CMYK, all but JPEG) come whole. */
MABN_MUST_USE mabn_status mabn_image_decode_part(struct mabn_decoder *decoder,
                                                 struct mabn_image *image, struct mabn_rect *part,
                                                 int *scale, struct mabn_rect wanted, int min_width,
                                                 int min_height, const uint8_t *bytes, size_t size,
                                                 const struct mabn_decode_options *options);

/* How opaque each pixel is, 0…255, as a picture of 1 channel: for PNG, WebP and GIF files with an
 * alpha channel or a transparent colour, and BMP files with alpha. *found false: the file has neither;
 * `alpha` is left alone. Around the first picture of a GIF that is smaller than its canvas, nothing is
 * opaque. */
MABN_MUST_USE mabn_status mabn_image_decode_alpha(struct mabn_image *alpha, bool *found,
                                                  const uint8_t *bytes, size_t size);

/* Is any pixel less than opaque? Only where info->alpha says that there may be is anything decoded;
 * true as well where that fails. `info` is of these bytes. */
bool mabn_image_is_transparent(const struct mabn_image_info *info, const uint8_t *bytes,
                               size_t size);

/* ---- encoding ---- */

/* *bytes: malloc'd, the caller frees. quality 1…100; 4:2:0 chroma, optimized Huffman tables. */
MABN_MUST_USE mabn_status mabn_image_encode_jpeg(uint8_t **bytes, size_t *size,
                                                 const struct mabn_image *image, int quality);
MABN_MUST_USE mabn_status mabn_image_encode_png(uint8_t **bytes, size_t *size,
                                                const struct mabn_image *image);

MABN_END_DECLS
#endif
