/* Reading, writing, resizing and colouring pictures, compared with the results of Pillow,
 * torchvision and OpenCV for the same files (tests/golden/make_image_fixtures.py). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <zlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "image/augment.h"
#include "image/colour.h"
#include "image/image.h"
#include "image/resize.h"
#include "tap.h"

#define FOLDER "tests/golden/image/"

static struct mabn_decoder *decoder;
static struct mabn_resizer *resizer;

static unsigned crc_of(const struct mabn_image *image)
{
    return (unsigned)crc32(0, image->pixels,
                           (unsigned)(image->width * image->height * image->channels));
}

static mabn_status decode_file(struct mabn_image *image, const char *folder, const char *name,
                               const struct mabn_decode_options *options)
{
    struct mabn_input in;
    char path[300];
    snprintf(path, sizeof path, FOLDER "%s/%s", folder, name);
    MABN_TRY(mabn_input_open(&in, path, 0));
    mabn_status status = mabn_image_decode(decoder, image, in.bytes, in.size, options);
    mabn_input_release(&in);
    return status;
}

/* ---- expected.tsv ---- */

static void expect_decode(char *fields[])
{
    struct mabn_image image = {0};
    tap_status(decode_file(&image, "good", fields[1], NULL), "%s is read", fields[1]);
    tap_ok(image.width == atoi(fields[2]) && image.height == atoi(fields[3]) &&
               crc_of(&image) == strtoul(fields[4], NULL, 16),
           "%s has Pillow's pixels", fields[1]);
    mabn_image_release(&image);
}

static void expect_colour(const struct mabn_image *rgb, char *fields[])
{
    struct mabn_image image = {0};
    const double factor = atof(fields[2]);
    if (mabn_image_crop(&image, rgb, (struct mabn_rect){0, 0, rgb->width, rgb->height})) exit(1);
    if (!strcmp(fields[1], "brightness")) mabn_colour_brightness(&image, (float)factor);
    if (!strcmp(fields[1], "contrast")) mabn_colour_contrast(&image, (float)factor);
    if (!strcmp(fields[1], "saturation")) mabn_colour_saturation(&image, (float)factor);
    if (!strcmp(fields[1], "hue")) mabn_colour_hue(&image, factor);
    tap_ok(crc_of(&image) == strtoul(fields[3], NULL, 16), "%s %s as torchvision's", fields[1],
           fields[2]);
    mabn_image_release(&image);
}

static void expect_resize(const struct mabn_image *rgb, char *fields[])
{
    struct mabn_image image = {0};
    const struct mabn_region box = {atof(fields[2]), atof(fields[3]), atof(fields[4]),
                                    atof(fields[5])};
    const bool cv = !strcmp(fields[1], "cv");
    tap_status(mabn_image_resize(resizer, &image, rgb, &box, atoi(fields[6]), atoi(fields[7]),
                                 cv ? MABN_RESIZE_CV : MABN_RESIZE_PIL),
               "resize");
    tap_ok(crc_of(&image) == strtoul(fields[8], NULL, 16), "%s: %sx%s at %s,%s to %sx%s",
           cv ? "OpenCV" : "Pillow", fields[4], fields[5], fields[2], fields[3], fields[6],
           fields[7]);
    mabn_image_release(&image);
}

/* Validation's resize and centre crop, seen through the augmenter with range 255. */
static void expect_centre(const struct mabn_image *rgb, char *fields[])
{
    struct mabn_augment a;
    const int size = atoi(fields[3]);
    const size_t n = (size_t)size * size * 3;
    if (mabn_augment_preset(&a, "plain", false)) exit(1);
    a.crop = MABN_CROP_CENTRE;
    a.short_side = atoi(fields[2]);
    a.width = a.height = size;
    a.range = 255;
    a.resize = !strcmp(fields[1], "cv") ? MABN_RESIZE_CV : MABN_RESIZE_PIL;
    tap_status(mabn_augment_check(&a), "centre options");
    struct mabn_augmenter *g = mabn_augmenter_new(&a);
    const struct mabn_augment_key key = {0, 0, 0};
    float *x = mabn_xmalloc(n * sizeof *x);
    uint8_t *bytes = mabn_xmalloc(n);
    tap_status(mabn_augment_pixels(g, x, rgb->pixels, rgb->width, rgb->height, rgb->channels, &key),
               "centre crop");
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)x[i];
    tap_ok(crc32(0, bytes, (unsigned)n) == strtoul(fields[4], NULL, 16),
           "%s: shorter side %s, centre %s", fields[1], fields[2], fields[3]);
    mabn_augmenter_free(g);
    free(x);
    free(bytes);
}

static void test_expected(void)
{
    struct mabn_image rgb = {0};
    char line[300];
    FILE *file = fopen(FOLDER "expected.tsv", "r");
    if (!tap_ok(file != NULL, "expected.tsv is there")) return;
    tap_status(decode_file(&rgb, "good", "rgb.png", NULL), "the picture itself");
    while (fgets(line, sizeof line, file)) {
        char *fields[10] = {0}, *rest = line;
        for (int i = 0; i < 10; i++)
            fields[i] = strsep(&rest, "\t\n");
        if (!strcmp(fields[0], "decode")) expect_decode(fields);
        if (!strcmp(fields[0], "colour")) expect_colour(&rgb, fields);
        if (!strcmp(fields[0], "resize")) expect_resize(&rgb, fields);
        if (!strcmp(fields[0], "centre")) expect_centre(&rgb, fields);
        if (!strcmp(fields[0], "gray")) {
            struct mabn_image gray = {0};
            const struct mabn_decode_options options = {1, 1000000, 100, false};
            tap_status(decode_file(&gray, "good", "rgb.png", &options), "decode to gray");
            tap_ok(gray.channels == 1 && crc_of(&gray) == strtoul(fields[1], NULL, 16),
                   "gray is Pillow's L");
            mabn_image_release(&gray);
        }
    }
    fclose(file);
    mabn_image_release(&rgb);
}

/* ---- what must be refused ---- */

static void test_refused(void)
{
    static const struct {
        const char *name;
        mabn_status status;
        const char *text;
    } cases[] = {
        {"empty.jpg", MABN_ERR_FORMAT, "0 bytes"},
        {"zeros.jpg", MABN_ERR_FORMAT, "00 00 00 00"},
        {"text.jpg", MABN_ERR_FORMAT, "expected JPEG, PNG, WebP, BMP or GIF"},
        {"cut-header.jpg", MABN_ERR_FORMAT, "JPEG"},
        {"cut-half.jpg", MABN_ERR_FORMAT, "damaged or truncated"},
        {"cut-end.jpg", MABN_ERR_FORMAT, "damaged or truncated"},
        {"cut-progressive.jpg", MABN_ERR_FORMAT, "damaged or truncated"},
        {"broken-scan.jpg", MABN_ERR_FORMAT, "damaged or truncated"},
        {"huge.jpg", MABN_ERR_LIMIT, "65500 x 65500"},
        {"hollow.jpg", MABN_ERR_FORMAT, "cannot hold a picture of 9000 x 9000"},
        {"arithmetic.jpg", MABN_ERR_UNSUPPORTED, "arithmetic"},
        {"no-tables.jpg", MABN_ERR_FORMAT, "Quantization table"}, /* and the tables of the last file
                                                                   * are not used */
        {"no-width.jpg", MABN_ERR_FORMAT, "JPEG"},
        {"cut-half.png", MABN_ERR_FORMAT, "truncated"},
        {"broken.png", MABN_ERR_FORMAT, "PNG"},
        {"huge.png", MABN_ERR_LIMIT, "60000 x 60000"},
        {"hollow.png", MABN_ERR_FORMAT, "cannot hold a picture of 9000 x 9000"},
        {"no-height.png", MABN_ERR_FORMAT, "no pixels"},
        {"bad-colour.png", MABN_ERR_FORMAT, "colour type 5"},
    };
    struct mabn_image image = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        tap_fails(decode_file(&image, "bad", cases[i].name, NULL), cases[i].status, cases[i].text,
                  "%s is refused", cases[i].name);
    tap_status(decode_file(&image, "good", "420.jpg", NULL), "the decoder still works");

    struct mabn_decode_options options = MABN_DECODE_DEFAULTS;
    options.allow_damaged = true;
    tap_status(decode_file(&image, "bad", "cut-half.jpg", &options), "damage can be allowed: JPEG");
    tap_ok(image.width == 67 && image.height == 45, "the size is right");
    tap_status(decode_file(&image, "bad", "cut-half.png", &options), "damage can be allowed: PNG");
    options = (struct mabn_decode_options)MABN_DECODE_DEFAULTS;
    options.max_scans = 3;
    tap_fails(decode_file(&image, "good", "progressive.jpg", &options), MABN_ERR_LIMIT, "3 scans",
              "too many scans");
    options.max_pixels = 67 * 45 - 1;
    tap_fails(decode_file(&image, "good", "rgb.png", &options), MABN_ERR_LIMIT, "3014 pixels",
              "too many pixels");
    options.channels = 4;
    tap_fails(decode_file(&image, "good", "rgb.png", &options), MABN_ERR_ARG, "4 channels",
              "no 4 channels");
    mabn_image_release(&image);
}

static void test_truncation(const char *name)
{
    struct mabn_input in;
    struct mabn_image image = {0};
    char path[300];
    int failed = 0;
    snprintf(path, sizeof path, FOLDER "good/%s", name);
    if (mabn_input_open(&in, path, 0)) exit(1);
    for (int percent = 0; percent < 100; percent++) {
        const size_t size = in.size * (size_t)percent / 100;
        uint8_t *copy = mabn_xmalloc(size + 1); /* a block of its own, so that ASan sees reads past
                                                 * the end */
        memcpy(copy, in.bytes, size);
        failed += mabn_image_decode(decoder, &image, copy, size, NULL) == MABN_ERR_FORMAT;
        free(copy);
    }
    tap_ok(failed == 100, "%s cut at each percent is refused (%d of 100)", name, failed);
    mabn_image_release(&image);
    mabn_input_release(&in);
}

/* ---- headers ---- */

static void test_probe(void)
{
    static const struct {
        const char *name;
        enum mabn_image_type type;
        enum mabn_image_colour colour;
        int channels, bits;
        bool progressive, alpha;
    } cases[] = {
        {"420.jpg", MABN_IMAGE_JPEG, MABN_COLOUR_YCC, 3, 8, false, false},
        {"progressive.jpg", MABN_IMAGE_JPEG, MABN_COLOUR_YCC, 3, 8, true, false},
        {"gray.jpg", MABN_IMAGE_JPEG, MABN_COLOUR_GRAY, 1, 8, false, false},
        {"cmyk.jpg", MABN_IMAGE_JPEG, MABN_COLOUR_CMYK, 4, 8, false, false},
        {"ycck.jpg", MABN_IMAGE_JPEG, MABN_COLOUR_YCCK, 4, 8, false, false},
        {"named.JPEG", MABN_IMAGE_PNG, MABN_COLOUR_RGB, 4, 8, false, true},
        {"gray-alpha.png", MABN_IMAGE_PNG, MABN_COLOUR_GRAY, 2, 8, false, true},
        {"palette.png", MABN_IMAGE_PNG, MABN_COLOUR_PALETTE, 1, 4, false, false},
        {"rgb16.png", MABN_IMAGE_PNG, MABN_COLOUR_RGB, 3, 16, false, false},
        {"interlaced.png", MABN_IMAGE_PNG, MABN_COLOUR_RGB, 3, 8, true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mabn_image_info info;
        struct mabn_input in;
        char path[300];
        snprintf(path, sizeof path, FOLDER "good/%s", cases[i].name);
        if (mabn_input_open(&in, path, 0)) exit(1);
        tap_status(mabn_image_probe(&info, in.bytes, in.size), "%s is recognized", cases[i].name);
        tap_ok(info.type == cases[i].type && info.colour == cases[i].colour &&
                   info.channels == cases[i].channels && info.bits == cases[i].bits &&
                   info.progressive == cases[i].progressive && info.alpha == cases[i].alpha &&
                   info.width == 67 && info.height == 45,
               "%s: type %d, colour %d, %d channels of %d bits", cases[i].name, info.type,
               info.colour, info.channels, info.bits);
        mabn_input_release(&in);
    }
}

/* ---- parts ---- */

static void draw(struct mabn_image *image, int width, int height, int channels)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, 3, MABN_RNG_TEST, (uint64_t)width, (uint64_t)height);
    if (mabn_image_resize_storage(image, width, height, channels)) exit(1);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < channels; c++)
                image->pixels[((size_t)y * width + x) * channels + c] =
                    (uint8_t)(((x * (c + 1) + y * (3 - c)) ^ (x / 9 * 37)) +
                              mabn_rng_below(&rng, 20));
}

/* UNFINISHED: progressive, without its last scans. */
enum kind { SEQUENTIAL, PROGRESSIVE, UNFINISHED };

/* A JPEG with the given sampling factors of the first component and of the others, as in 2211. */
static uint8_t *encode(const struct mabn_image *image, int sampling, enum kind kind, int restart,
                       size_t *size)
{
    static const jpeg_scan_info first_scans[] = {{3, {0, 1, 2}, 0, 0, 0, 1}, {1, {0}, 1, 5, 0, 2}};
    struct jpeg_compress_struct cinfo;
    struct jpeg_error_mgr errors;
    unsigned char *bytes = NULL;
    unsigned long n = 0;
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_compress(&cinfo);
    jpeg_mem_dest(&cinfo, &bytes, &n);
    cinfo.image_width = (unsigned)image->width;
    cinfo.image_height = (unsigned)image->height;
    cinfo.input_components = image->channels;
    cinfo.in_color_space = image->channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(&cinfo);
    jpeg_set_quality(&cinfo, 70, TRUE);
    for (int i = 0; i < image->channels; i++) {
        cinfo.comp_info[i].h_samp_factor = i ? sampling / 10 % 10 : sampling / 1000;
        cinfo.comp_info[i].v_samp_factor = i ? sampling % 10 : sampling / 100 % 10;
    }
    cinfo.restart_in_rows = restart;
    if (kind == PROGRESSIVE) jpeg_simple_progression(&cinfo);
    if (kind == UNFINISHED) {
        cinfo.scan_info = first_scans;
        cinfo.num_scans = 2;
    }
    jpeg_start_compress(&cinfo, TRUE);
    while (cinfo.next_scanline < cinfo.image_height) {
        JSAMPROW row = image->pixels + (size_t)cinfo.next_scanline * image->width * image->channels;
        jpeg_write_scanlines(&cinfo, &row, 1);
    }
    jpeg_finish_compress(&cinfo);
    jpeg_destroy_compress(&cinfo);
    *size = n;
    return bytes;
}

/* Is `part` of the picture, decoded at this scale, the same as that part of the whole? */
static bool same_part(const struct mabn_image *whole, const struct mabn_image *got,
                      struct mabn_rect part)
{
    struct mabn_image crop = {0};
    if (part.x < 0 || part.y < 0 || part.x + part.width > whole->width ||
        part.y + part.height > whole->height || got->width != part.width ||
        got->height != part.height)
        return false;
    if (mabn_image_crop(&crop, whole, part)) exit(1);
    const bool same =
        !memcmp(crop.pixels, got->pixels, (size_t)part.width * part.height * got->channels);
    mabn_image_release(&crop);
    return same;
}

static void test_parts(int sampling, enum kind kind, int channels, int restart)
{
    enum { W = 203, H = 157 };
    static const char *const kinds[] = {"", ", progressive",
                                        ", progressive without its last scans"};
    struct mabn_image image = {0}, whole[4] = {{0}}, got = {0};
    struct mabn_decode_options options = MABN_DECODE_DEFAULTS;
    struct mabn_rng rng;
    struct mabn_rect part;
    size_t size;
    int scale, wrong = 0;
    draw(&image, W, H, channels);
    uint8_t *bytes = encode(&image, sampling, kind, restart, &size);
    for (int k = 0; k < 4; k++) {
        const struct mabn_rect all = {0, 0, W, H};
        if (mabn_image_decode_part(decoder, &whole[k], &part, &scale, all, W >> k, H >> k, bytes,
                                   size, &options) ||
            scale != 1 << k)
            exit(1);
    }
    mabn_rng_init(&rng, 5, MABN_RNG_TEST, (uint64_t)sampling, 0);
    for (int i = 0; i < 300; i++) {
        struct mabn_rect want;
        want.width = 1 + (int)mabn_rng_below(&rng, W);
        want.height = 1 + (int)mabn_rng_below(&rng, H);
        want.x = (int)mabn_rng_below(&rng, (uint64_t)(W - want.width) + 1);
        want.y = (int)mabn_rng_below(&rng, (uint64_t)(H - want.height) + 1);
        const int min = i % 2 ? 1 + (int)mabn_rng_below(&rng, 60) : 0;
        if (mabn_image_decode_part(decoder, &got, &part, &scale, want, min, min, bytes, size,
                                   &options)) {
            wrong++;
            continue;
        }
        const int k = scale == 8 ? 3 : scale / 2;
        const bool covers = part.x * scale <= want.x && part.y * scale <= want.y &&
                            (part.x + part.width) * scale >= want.x + want.width &&
                            (part.y + part.height) * scale >= want.y + want.height;
        const bool enough = scale == 1 || (want.width / scale >= min && want.height / scale >= min);
        wrong += !covers || !enough || !same_part(&whole[k], &got, part);
    }
    tap_ok(!wrong, "300 parts equal the whole: sampling %d, %d channels%s%s (%d differ)", sampling,
           channels, kinds[kind], restart ? ", restarts" : "", wrong);
    for (int k = 0; k < 4; k++)
        mabn_image_release(&whole[k]);
    mabn_image_release(&got);
    mabn_image_release(&image);
    free(bytes);
}

static void test_part_of_others(void)
{
    struct mabn_image image = {0};
    struct mabn_input in;
    struct mabn_rect part;
    int scale;
    const char *names[] = {"cmyk.jpg", "rgb.png"};
    for (int i = 0; i < 2; i++) {
        char path[100];
        snprintf(path, sizeof path, FOLDER "good/%s", names[i]);
        if (mabn_input_open(&in, path, 0)) exit(1);
        tap_status(mabn_image_decode_part(decoder, &image, &part, &scale,
                                          (struct mabn_rect){10, 10, 5, 5}, 1, 1, in.bytes, in.size,
                                          NULL),
                   "part of %s", names[i]);
        tap_ok(scale == 1 && part.x == 0 && part.y == 0 && part.width == 67 && image.width == 67 &&
                   image.height == 45,
               "%s comes whole", names[i]);
        mabn_input_release(&in);
    }
    mabn_image_release(&image);
}

/* ---- out and back ---- */

static void test_encode(void)
{
    struct mabn_image image = {0}, back = {0};
    uint8_t *bytes;
    size_t size;
    for (int channels = 1; channels <= 3; channels += 2) {
        draw(&image, 61, 37, channels);
        const struct mabn_decode_options options = {channels, 10000, 100, false};
        tap_status(mabn_image_encode_png(&bytes, &size, &image), "write PNG");
        tap_status(mabn_image_decode(decoder, &back, bytes, size, &options), "read it back");
        tap_ok(back.channels == channels && crc_of(&back) == crc_of(&image),
               "PNG of %d channels comes back", channels);
        free(bytes);
        tap_status(mabn_image_encode_jpeg(&bytes, &size, &image, 98), "write JPEG");
        tap_status(mabn_image_decode(decoder, &back, bytes, size, &options), "read it back");
        double sum = 0;
        const int n = 61 * 37 * channels;
        for (int i = 0; i < n; i++)
            sum += abs(back.pixels[i] - image.pixels[i]);
        tap_ok(back.width == 61 && sum / n < 16, "JPEG of %d channels comes back nearly (%.1f)",
               channels, sum / n);
        free(bytes);
    }
    tap_fails(mabn_image_encode_jpeg(&bytes, &size, &image, 101), MABN_ERR_ARG, "101",
              "no quality 101");
    mabn_image_release(&image);
    mabn_image_release(&back);
}

static void test_resize_refusals(void)
{
    struct mabn_image image = {0}, out = {0};
    draw(&image, 10, 8, 3);
    const struct mabn_region outside = {5, 5, 6, 2}, nothing = {5, 5, 0, 2};
    tap_fails(mabn_image_resize(resizer, &out, &image, &outside, 4, 4, MABN_RESIZE_CV),
              MABN_ERR_ARG, "outside", "a box that reaches outside");
    tap_fails(mabn_image_resize(resizer, &out, &image, &nothing, 4, 4, MABN_RESIZE_PIL),
              MABN_ERR_ARG, "0 x 2", "an empty box");
    tap_fails(mabn_image_resize(resizer, &out, &image, NULL, 0, 4, MABN_RESIZE_PIL), MABN_ERR_ARG,
              "0 x 4", "an empty result");
    mabn_image_release(&image);
    mabn_image_release(&out);
}

int main(void)
{
    decoder = mabn_decoder_new();
    resizer = mabn_resizer_new();
    test_expected();
    test_refused();
    test_truncation("420.jpg");
    test_truncation("progressive.jpg");
    test_truncation("rgb.png");
    test_probe();
    static const int sampling[] = {1111, 2111, 2211, 1211, 4111, 4211, 1411, 3111,
                                   3211, 4111, 2121, 1121, 2221, 2212, 1122, 4121};
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++)
        test_parts(sampling[i], SEQUENTIAL, 3, 0);
    test_parts(2211, PROGRESSIVE, 3, 0);
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++)
        test_parts(sampling[i], UNFINISHED, 3, 0);
    test_parts(1111, SEQUENTIAL, 1, 0);
    test_parts(2211, SEQUENTIAL, 3, 1);
    test_part_of_others();
    test_encode();
    test_resize_refusals();
    mabn_decoder_free(decoder);
    mabn_resizer_free(resizer);
    return tap_done();
}
