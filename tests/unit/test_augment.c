/* Augmentation: exact where values are defined, always repeatable, and distributed as documented. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "image/augment.h"
#include "tap.h"

/* A picture whose pixels hold their own position: red x, green y, blue 100. */
static void draw(struct mabn_image *image, int width, int height)
{
    if (mabn_image_resize_storage(image, width, height, 3)) exit(1);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            uint8_t *p = image->pixels + ((size_t)y * width + x) * 3;
            p[0] = (uint8_t)(x + 1);
            p[1] = (uint8_t)(y + 1);
            p[2] = 100;
        }
}

/* Options in which white is 255 and nothing is random. */
static struct mabn_augment plain(int width, int height)
{
    struct mabn_augment a;
    if (mabn_augment_preset(&a, "plain", true)) exit(1);
    a.width = width;
    a.height = height;
    a.range = 255;
    return a;
}

static float *apply(const struct mabn_augment *a, const struct mabn_image *image, uint64_t position)
{
    const struct mabn_augment_key key = {11, 2, position};
    float *x = mabn_xmalloc((size_t)a->width * a->height * a->channels * sizeof *x);
    struct mabn_augmenter *g = mabn_augmenter_new(a);
    mabn_status status = mabn_augment_check(a);
    if (!status)
        status = mabn_augment_pixels(g, x, image->pixels, image->width, image->height,
                                     image->channels, &key);
    if (status) {
        printf("# %s\n", mabn_error_message());
        exit(1);
    }
    mabn_augmenter_free(g);
    return x;
}

/* ---- presets ---- */

static void test_presets(void)
{
    struct mabn_augment a;
    for (const struct mabn_word *p = mabn_augment_presets; p->word; p++)
        for (int training = 0; training < 2; training++) {
            tap_status(mabn_augment_preset(&a, p->word, training), "preset %s", p->word);
            if (!a.width) a.width = a.height = 28;
            tap_status(mabn_augment_check(&a), "preset %s holds together", p->word);
        }
    tap_fails(mabn_augment_preset(&a, "nosuch", true), MABN_ERR_ARG, "'nosuch'", "no other preset");
    a = plain(28, 28);
    a.deviation[1] = 0;
    tap_fails(mabn_augment_check(&a), MABN_ERR_ARG, "channel 1", "deviation 0");
    a = plain(28, 28);
    a.channels = 1;
    a.hue = 0.1;
    tap_fails(mabn_augment_check(&a), MABN_ERR_ARG, "need 3 channels", "hue of gray");
    a = plain(300, 28);
    a.crop = MABN_CROP_CENTRE;
    a.short_side = 256;
    tap_fails(mabn_augment_check(&a), MABN_ERR_ARG, "shorter side",
              "a crop larger than the picture");
}

/* ---- numbers ---- */

static void test_normalize(void)
{
    struct mabn_image image = {0};
    struct mabn_augment a;
    draw(&image, 32, 32);
    if (mabn_augment_preset(&a, "cifar", false)) exit(1);
    float *x = apply(&a, &image, 0);
    int wrong = 0;
    for (int i = 0; i < 32 * 32 * 3; i++) {
        const float want = ((float)image.pixels[i] / 255.0f - a.mean[i % 3]) / a.deviation[i % 3];
        wrong += x[i] != want;
    }
    tap_ok(!wrong, "mean and deviation as torchvision, to the bit");
    free(x);

    a = plain(32, 32);
    a.bgr = true;
    x = apply(&a, &image, 0);
    tap_ok(x[0] == 100 && x[1] == 1 && x[2] == 1 && x[3 * 31 + 2] == 32, "BGR 0...255");
    free(x);

    a = plain(32, 32);
    a.flip = 1;
    x = apply(&a, &image, 0);
    tap_ok(x[0] == 32 && x[3 * 31] == 1 && x[3 * 31 + 1] == 1, "flip");
    free(x);

    a = plain(32, 32);
    a.channels = 1;
    x = apply(&a, &image, 0);
    tap_ok(x[0] == (19595 + 38470 + 100 * 7471 + 0x8000) >> 16, "colour to gray");
    free(x);

    struct mabn_image gray = {0};
    if (mabn_image_resize_storage(&gray, 32, 32, 1)) exit(1);
    memset(gray.pixels, 9, 32 * 32);
    gray.pixels[0] = 5;
    a = plain(32, 32);
    x = apply(&a, &gray, 0);
    tap_ok(x[0] == 5 && x[1] == 5 && x[2] == 5 && x[3] == 9, "gray to colour");
    free(x);
    mabn_image_release(&gray);
    mabn_image_release(&image);
}

/* ---- crops ---- */

static void test_pad(void)
{
    struct mabn_image image = {0};
    struct mabn_augment a = plain(32, 32);
    int seen[9][9] = {{0}}, wrong = 0, places = 0;
    draw(&image, 32, 32);
    a.crop = MABN_CROP_PAD;
    a.pad = 4;
    for (uint64_t i = 0; i < 2000; i++) {
        float *x = apply(&a, &image, i);
        const float *centre = x + (16 * 32 + 16) * 3;
        const int dx = (int)centre[0] - 17, dy = (int)centre[1] - 17;
        if (abs(dx) > 4 || abs(dy) > 4) {
            wrong++;
        } else {
            seen[dy + 4][dx + 4]++;
            for (int y = 0; y < 32; y++)
                for (int c = 0; c < 32; c++) {
                    const bool in = c + dx >= 0 && c + dx < 32 && y + dy >= 0 && y + dy < 32;
                    const float *p = x + (y * 32 + c) * 3;
                    wrong += p[0] != (in ? (float)(c + dx + 1) : 0) ||
                             p[1] != (in ? (float)(y + dy + 1) : 0) || p[2] != (in ? 100 : 0);
                }
        }
        free(x);
    }
    for (int i = 0; i < 81; i++)
        places += seen[i / 9][i % 9] > 5;
    tap_ok(!wrong, "padded crops are shifted pictures with zeros");
    tap_ok(places == 81, "all 81 shifts come up (%d)", places);

    a.width = a.height = 60;
    const struct mabn_augment_key key = {0, 0, 0};
    struct mabn_augmenter *g = mabn_augmenter_new(&a);
    float *x = mabn_xmalloc(60 * 60 * 3 * sizeof *x);
    tap_fails(mabn_augment_pixels(g, x, image.pixels, 32, 32, 3, &key), MABN_ERR_MISMATCH,
              "too small", "a picture too small to crop");
    free(x);
    mabn_augmenter_free(g);
    mabn_image_release(&image);
}

/* Derive a crop's position and size from its first and last pixels. */
static void test_random_crop(enum mabn_crop_kind kind, const char *name)
{
    enum { W = 200, H = 120, N = 3000 };
    struct mabn_image image = {0};
    struct mabn_augment a = plain(64, 64);
    double area = 0, least = 1, most = 0, left = 0, top = 0, aspect_least = 9, aspect_most = 0;
    int large = 0;
    draw(&image, W, H);
    a.crop = kind;
    a.resize = MABN_RESIZE_CV;
    for (uint64_t i = 0; i < N; i++) {
        float *x = apply(&a, &image, i);
        const float *middle = x + (32 * 64 + 31) * 3;
        const double sx = (x[32 * 64 * 3 + 40 * 3] - x[32 * 64 * 3 + 24 * 3]) / 16.0 * 64;
        const double sy = (x[40 * 64 * 3 + 32 * 3 + 1] - x[24 * 64 * 3 + 32 * 3 + 1]) / 16.0 * 64;
        const double part = sx * sy / (W * H);
        area += part / N;
        least = fmin(least, part);
        most = fmax(most, part);
        large += part > 0.63;
        aspect_least = fmin(aspect_least, sx / sy);
        aspect_most = fmax(aspect_most, sx / sy);
        left += middle[0] / N;
        top += middle[1] / N;
        free(x);
    }
    printf("# %s: area %.3f (%.3f...%.3f), aspect %.2f...%.2f, middle %.1f\n", name, area, least,
           most, aspect_least, aspect_most, left);
    /* In a 200 x 120 picture a square fits for areas up to 0.6. Larger areas come only from ten
     * failed attempts (0.43¹⁰ of all crops). A box of aspect ¾ to 4/3 fits for areas up to 0.8. */
    const bool square = kind == MABN_CROP_SQUARE;
    tap_close(area, square ? 0.34 : 0.37, 0.03, "%s: mean area", name);
    tap_ok(least > 0.06 && least < 0.11 && most > 0.55 && (square ? large <= 5 : most < 0.83),
           "%s: areas", name);
    tap_ok(square ? aspect_least > 0.85 && aspect_most < 1.18
                  : aspect_least < 0.8 && aspect_least > 0.65 && aspect_most > 1.25 &&
                        aspect_most < 1.55,
           "%s: aspect ratio", name);
    tap_close(left, 100, 2, "%s: neither left nor right is preferred", name);
    tap_close(top, 60, 1.5, "%s: neither top nor bottom is preferred", name);
    mabn_image_release(&image);
}

/* A narrow picture, in which no square fits: the window of the last attempt, with zeros outside. */
static void test_square_outside(void)
{
    struct mabn_image image = {0};
    struct mabn_augment a = plain(40, 40);
    int zero = 0, filled = 0;
    draw(&image, 8, 200);
    a.crop = MABN_CROP_SQUARE;
    a.area_min = a.area_max = 1; /* edge 40, which becomes 40 pixels: no resizing */
    a.resize = MABN_RESIZE_CV;
    for (uint64_t i = 0; i < 50; i++) {
        float *x = apply(&a, &image, i);
        for (int k = 0; k < 1600; k++) {
            zero += x[3 * k + 2] == 0;
            filled += x[3 * k + 2] == 100;
        }
        free(x);
    }
    tap_ok(filled == 50 * 8 * 40 && zero == 50 * 32 * 40, "a window that sticks out holds zeros");
    a.width = a.height = 20;
    float *x = apply(&a, &image, 1), sum = 0;
    for (int k = 0; k < 400; k++)
        sum += x[3 * k + 2];
    tap_close(sum, 100 * 4 * 20, 1, "and shrinks with them");
    free(x);
    mabn_image_release(&image);
}

static void test_centre_without_resize(void)
{
    struct mabn_image image = {0};
    struct mabn_augment a = plain(10, 10);
    draw(&image, 21, 15);
    a.crop = MABN_CROP_CENTRE;
    float *x = apply(&a, &image, 0);
    tap_ok(x[0] == 7 && x[1] == 3, "centre crop rounds half to even (%g,%g)", (double)x[0],
           (double)x[1]); /* 5.5 → 6, 2.5 → 2 */
    free(x);
    mabn_image_release(&image);
}

/* ---- colour ---- */

static void test_lighting(void)
{
    enum { N = 20000 };
    /* expected of the three channels' shifts: covariance V·λ²·Vᵀ·0.1² */
    static const double value[3] = {0.2175, 0.0188, 0.0045};
    static const double vector[3][3] = {
        {-0.5675, 0.7192, 0.4009}, {-0.5808, -0.0045, -0.8140}, {-0.5836, -0.6948, 0.4203}};
    struct mabn_image image = {0};
    struct mabn_augment a = plain(1, 1);
    double mean[3] = {0}, square[3] = {0};
    if (mabn_image_resize_storage(&image, 1, 1, 3)) exit(1);
    memset(image.pixels, 128, 3);
    a.lighting = 0.1;
    struct mabn_augmenter *g = mabn_augmenter_new(&a);
    int whole = 0, near = 0, exact = 0;
    for (uint64_t i = 0; i < N; i++) {
        const struct mabn_augment_key key = {1, 1, i};
        float x[3];
        double alpha[3];
        struct mabn_rng rng;
        if (mabn_augment_pixels(g, x, image.pixels, 1, 1, 3, &key)) exit(1);
        mabn_rng_init(&rng, key.seed, MABN_RNG_LIGHTING, key.epoch, key.position);
        for (int k = 0; k < 3; k++)
            alpha[k] = mabn_rng_normal(&rng) * 0.1;
        for (int c = 0; c < 3; c++) {
            whole += x[c] == floorf(x[c]);
            double shift = 0; /* from the same stream */
            for (int k = 0; k < 3; k++)
                shift += vector[c][k] * value[k] * alpha[k];
            const double want = floor(128 + 255 * shift);
            near += fabs(x[c] - want) <= 1;
            exact += x[c] == want;
            mean[c] += (x[c] + 0.5 - 128) / N;
            square[c] += (x[c] + 0.5 - 128) * (x[c] + 0.5 - 128) / N;
        }
    }
    tap_ok(whole == 3 * N, "lighting leaves 8-bit values");
    tap_ok(near == 3 * N && exact > 3 * N - 10, "lighting is the formula (%d of %d)", exact, 3 * N);
    for (int c = 0; c < 3; c++) {
        double variance = 1.0 / 12;
        for (int k = 0; k < 3; k++)
            variance += pow(vector[c][k] * value[k] * 0.1 * 255, 2);
        tap_close(mean[c], 0, 0.1, "lighting: mean of channel %d", c);
        tap_close(sqrt(square[c] / variance), 1, 0.02, "lighting: deviation of channel %d", c);
    }
    mabn_augmenter_free(g);
    float *rgb = apply(&a, &image, 5);
    a.bgr = true;
    float *bgr = apply(&a, &image, 5);
    tap_ok(rgb[0] == bgr[2] && rgb[1] == bgr[1] && rgb[2] == bgr[0] && rgb[0] != rgb[2],
           "lighting knows the channels when they are turned round");
    free(rgb);
    free(bgr);
    mabn_image_release(&image);
}

static void test_jitter(void)
{
    struct mabn_image image = {0};
    struct mabn_augment a = plain(16, 16);
    draw(&image, 16, 16);
    a.brightness = 0.4;
    double least = 1000, most = 0;
    for (uint64_t i = 0; i < 500; i++) {
        float *x = apply(&a, &image, i);
        least = fmin(least, x[2]);
        most = fmax(most, x[2]);
        free(x);
    }
    tap_ok(least >= 59 && least < 63 && most <= 140 && most > 137, "brightness 0.6...1.4 of 100");
    tap_ok(image.pixels[2] == 100, "the source is left alone");
    mabn_image_release(&image);
}

static void test_erase(void)
{
    struct mabn_image image = {0};
    struct mabn_augment a = plain(32, 32);
    double area = 0;
    int times = 0;
    draw(&image, 32, 32);
    a.erase = 0.25;
    for (uint64_t i = 0; i < 4000; i++) {
        float *x = apply(&a, &image, i);
        int zero = 0;
        for (int k = 0; k < 1024; k++)
            zero += x[3 * k] == 0 && x[3 * k + 1] == 0 && x[3 * k + 2] == 0;
        times += zero > 0;
        area += zero / 1024.0;
        free(x);
    }
    tap_close(times / 4000.0, 0.25, 0.02, "erased one time in four");
    tap_close(area / times, 0.175, 0.01, "mean area erased");
    mabn_image_release(&image);
}

/* ---- bytes ---- */

/* Bytes looked up in the table give the floats, to the bit. */
static void test_bytes(const char *preset, bool training, int channels)
{
    struct mabn_image image = {0};
    struct mabn_augment a;
    float table[3][256];
    int wrong = 0;
    draw(&image, 40, 50);
    if (mabn_augment_preset(&a, preset, training)) exit(1);
    a.width = a.height = 32;
    a.short_side = a.crop == MABN_CROP_CENTRE ? 36 : a.short_side;
    a.channels = channels;
    if (channels == 1) a.lighting = 0;
    a.brightness = training ? 0.2 : 0;
    mabn_augment_table(&a, table);
    for (uint64_t i = 0; i < 8; i++) {
        const struct mabn_augment_key key = {11, 2, i};
        const int n = 32 * 32 * channels;
        uint8_t *bytes = mabn_xmalloc((size_t)n);
        float *x = apply(&a, &image, i);
        struct mabn_augmenter *g = mabn_augmenter_new(&a);
        mabn_augmenter_set_bytes(g);
        if (mabn_augment_pixels(g, bytes, image.pixels, 40, 50, 3, &key)) exit(1);
        for (int k = 0; k < n; k++)
            wrong += x[k] != table[k % channels][bytes[k]];
        mabn_augmenter_free(g);
        free(bytes);
        free(x);
    }
    tap_ok(!wrong && mabn_augment_has_bytes(&a), "%s, %s, %d channels: bytes are the floats",
           preset, training ? "training" : "validation", channels);
    a.erase = 0.5;
    tap_ok(!mabn_augment_has_bytes(&a), "but not with erased parts");
    mabn_image_release(&image);
}

/* ---- encoded pictures ---- */

/* Decoding only the part that is needed changes nothing: a JPEG gives the same as its pixels. */
static void test_encoded(const char *preset, bool training, int width, int height)
{
    struct mabn_image image = {0};
    struct mabn_augment a;
    struct mabn_decoder *decoder = mabn_decoder_new();
    uint8_t *bytes;
    size_t size;
    int differ = 0, seen = 0;
    if (mabn_augment_preset(&a, preset, training)) exit(1);
    if (!a.width) a.width = a.height = 28;
    if (a.crop == MABN_CROP_CENTRE) a.short_side = 72;
    a.width = a.height = a.width > 64 ? 64 : a.width;
    draw(&image, width, height);
    if (mabn_image_encode_jpeg(&bytes, &size, &image, 80) ||
        mabn_image_decode(decoder, &image, bytes, size, NULL))
        exit(1);
    const size_t n = (size_t)a.width * a.height * 3;
    struct mabn_augmenter *g = mabn_augmenter_new(&a);
    float *x = mabn_xmalloc(n * sizeof *x), *y = mabn_xmalloc(n * sizeof *y);
    for (uint64_t i = 0; i < 100; i++) {
        const struct mabn_augment_key key = {5, 0, i};
        if (mabn_augment_encoded(g, x, bytes, size, &key) ||
            mabn_augment_pixels(g, y, image.pixels, width, height, 3, &key))
            continue;
        seen++;
        differ += memcmp(x, y, n * sizeof *x) != 0;
    }
    tap_ok(seen == 100 && !differ, "%s, %s, %dx%d: a JPEG as its pixels (%d of %d differ)", preset,
           training ? "training" : "validation", width, height, differ, seen);
    mabn_augmenter_free(g);
    mabn_decoder_free(decoder);
    mabn_image_release(&image);
    free(bytes);
    free(x);
    free(y);
}

/* Scaled decoding changes pixels but shows the same scene. */
static void test_scaled(const char *preset, bool training)
{
    struct mabn_image image = {0};
    struct mabn_augment a;
    uint8_t *bytes;
    size_t size;
    double worst = 0;
    if (mabn_image_resize_storage(&image, 900, 700, 3)) exit(1);
    for (int y = 0; y < 700; y++)
        for (int x = 0; x < 900; x++) {
            uint8_t *p = image.pixels + ((size_t)y * 900 + x) * 3;
            p[0] = (uint8_t)(x * 255 / 900);
            p[1] = (uint8_t)(y * 255 / 700);
            p[2] = (uint8_t)(128 + 100 * sin(x / 40.0) * cos(y / 50.0));
        }
    if (mabn_image_encode_jpeg(&bytes, &size, &image, 95) ||
        mabn_augment_preset(&a, preset, training))
        exit(1);
    a.width = a.height = 64;
    if (a.crop == MABN_CROP_CENTRE) a.short_side = 80;
    a.lighting = 0;
    a.range = 255;
    for (int c = 0; c < 3; c++)
        a.mean[c] = 0, a.deviation[c] = 1;
    struct mabn_augmenter *exact = mabn_augmenter_new(&a);
    a.scaled_decode = true;
    struct mabn_augmenter *quick = mabn_augmenter_new(&a);
    const size_t n = 64 * 64 * 3;
    float *x = mabn_xmalloc(n * sizeof *x), *y = mabn_xmalloc(n * sizeof *y);
    for (uint64_t i = 0; i < 50; i++) {
        const struct mabn_augment_key key = {5, 0, i};
        double sum = 0;
        if (mabn_augment_encoded(exact, x, bytes, size, &key) ||
            mabn_augment_encoded(quick, y, bytes, size, &key)) {
            printf("# %s\n", mabn_error_message());
            worst = 1e9;
            break;
        }
        for (size_t k = 0; k < n; k++)
            sum += fabs((double)x[k] - y[k]) / (double)n;
        worst = fmax(worst, sum);
    }
    tap_ok(worst < 1.5, "%s, %s: scaled decoding differs by %.2f of 255 at most, in the mean",
           preset, training ? "training" : "validation", worst);
    mabn_augmenter_free(exact);
    mabn_augmenter_free(quick);
    mabn_image_release(&image);
    free(bytes);
    free(x);
    free(y);
}

static void test_keys(void)
{
    struct mabn_image image = {0};
    struct mabn_augment a;
    draw(&image, 50, 60);
    if (mabn_augment_preset(&a, "imagenet", true)) exit(1);
    float *x = apply(&a, &image, 3), *same = apply(&a, &image, 3), *other = apply(&a, &image, 4);
    const size_t bytes = 224 * 224 * 3 * sizeof *x;
    tap_ok(!memcmp(x, same, bytes), "the same key gives the same");
    tap_ok(memcmp(x, other, bytes) != 0, "another position gives another");
    free(x);
    free(same);
    free(other);
    mabn_image_release(&image);
}

int main(void)
{
    test_presets();
    test_normalize();
    test_pad();
    test_random_crop(MABN_CROP_SQUARE, "square crop");
    test_random_crop(MABN_CROP_RESIZED, "resized crop");
    test_square_outside();
    test_centre_without_resize();
    test_lighting();
    test_jitter();
    test_erase();
    test_bytes("imagenet", true, 3);
    test_bytes("imagenet", false, 3);
    test_bytes("torchvision", true, 3);
    test_bytes("cifar", true, 1);
    test_bytes("plain", false, 3);
    test_encoded("imagenet", true, 200, 130);
    test_encoded("imagenet", true, 20, 130);
    test_encoded("imagenet", false, 200, 130);
    test_encoded("torchvision", true, 130, 201);
    test_encoded("torchvision", false, 130, 201);
    test_encoded("cifar", true, 32, 32);
    test_encoded("plain", true, 50, 40);
    test_scaled("imagenet", true);
    test_scaled("torchvision", true);
    test_scaled("torchvision", false);
    test_keys();
    return tap_done();
}
