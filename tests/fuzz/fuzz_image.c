/* Any bytes as a picture: whole, in part, scaled, damaged. Beyond not crashing: what decodes
 * strictly has the size its header says, decodes the same with damage allowed, and its parts equal
 * the whole's. */
#include <stdlib.h>
#include <string.h>

#include "image/augment.h"
#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define CHECK(condition)           \
    do {                           \
        if (!(condition)) abort(); \
    } while (0)

static struct mabn_decoder *decoder;
static struct mabn_augmenter *augmenter;

static bool same(const struct mabn_image *a, const struct mabn_image *b)
{
    return a->width == b->width && a->height == b->height && a->channels == b->channels &&
           !memcmp(a->pixels, b->pixels, (size_t)a->width * a->height * a->channels);
}

static void start(void)
{
    struct mabn_augment a;
    CHECK(!mabn_augment_preset(&a, "torchvision", true));
    a.width = a.height = 16;
    a.scaled_decode = true;
    decoder = mabn_decoder_new();
    augmenter = mabn_augmenter_new(&a);
}

/* A rectangle within the picture, chosen by the bytes. */
static struct mabn_rect choose(const uint8_t *bytes, size_t size, int width, int height)
{
    uint64_t h = size;
    for (size_t i = 0; i < size; i++)
        h = (h ^ bytes[i]) * 1099511628211u;
    struct mabn_rect r;
    r.width = 1 + (int)(h % (uint64_t)width);
    r.height = 1 + (int)((h >> 16) % (uint64_t)height);
    r.x = (int)((h >> 32) % (uint64_t)(width - r.width + 1));
    r.y = (int)((h >> 48) % (uint64_t)(height - r.height + 1));
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct mabn_image whole, other, crop;
    static float out[16 * 16 * 3];
    struct mabn_decode_options options = MABN_DECODE_DEFAULTS;
    struct mabn_image_info info;
    struct mabn_rect part;
    int scale;
    if (!decoder) start();
    options.max_pixels = 1 << 18;
    options.max_scans = 20;

    const bool known = !mabn_image_probe(&info, bytes, size);
    const bool good = !mabn_image_decode(decoder, &whole, bytes, size, &options);
    CHECK(known || !good);
    options.allow_damaged = true;
    const bool forgiven = !mabn_image_decode(decoder, &other, bytes, size, &options);
    CHECK(forgiven || !good);
    if (good) {
        CHECK(whole.width == info.width && whole.height == info.height && whole.channels == 3);
        CHECK(same(&whole, &other));
        const struct mabn_rect want = choose(bytes, size, info.width, info.height);
        options.allow_damaged = false;
        CHECK(!mabn_image_decode_part(decoder, &other, &part, &scale, want, 0, 0, bytes, size,
                                      &options));
        CHECK(scale == 1 && !mabn_image_crop(&crop, &whole, part) && same(&crop, &other));
    }
    if (known && (uint64_t)info.width * (uint64_t)info.height <= options.max_pixels) {
        const struct mabn_augment_key key = {1, 0, size};
        (void)!mabn_augment_encoded(augmenter, out, bytes, size, &key);
        options.channels = 1;
        (void)!mabn_image_decode(decoder, &other, bytes, size, &options);
        bool found;
        if (!mabn_image_decode_alpha(&other, &found, bytes, size) && found)
            CHECK(other.width == info.width && other.height == info.height && other.channels == 1);
    }
    return 0;
}
