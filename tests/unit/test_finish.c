/* The last steps of augmentation: vector loops and tables give the same bits at every width. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "image/finish.h"
#include "tap.h"

enum { HEIGHT = 3, WIDEST = 50, GUARD = 64 };

static uint8_t pixel(const struct mabn_image *in, int x, int y, int c)
{
    return in
        ->pixels[((size_t)y * (size_t)in->width + (size_t)x) * (size_t)in->channels + (size_t)c];
}

/* finish.h's definition, one value at a time. */
static uint8_t wanted(const struct mabn_image *in, int x, int y, int c,
                      const struct mabn_finish *finish)
{
    const int from = finish->swap ? 2 - c : c;
    const uint8_t v = pixel(in, finish->flip ? in->width - 1 - x : x, y, from);
    return finish->lit ? finish->lit[c][v] : v;
}

static void draw(struct mabn_image *image, int width, int channels, struct mabn_rng *rng)
{
    if (mabn_image_resize_storage(image, width, HEIGHT, channels)) exit(1);
    for (int i = 0; i < width * HEIGHT * channels; i++)
        image->pixels[i] = (uint8_t)mabn_rng_u32(rng);
}

/* Counts wrong values, and values written behind the end. */
static int wrong_bytes(const struct mabn_image *in, const struct mabn_finish *finish)
{
    const size_t n = (size_t)in->width * HEIGHT * (size_t)in->channels;
    uint8_t *out = mabn_xmalloc(n + GUARD), *at = out;
    int wrong = 0;
    memset(out, 77, n + GUARD);
    mabn_finish_bytes(out, in, finish);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < in->width; x++)
            for (int c = 0; c < in->channels; c++)
                wrong += *at++ != wanted(in, x, y, c, finish);
    for (int i = 0; i < GUARD; i++)
        wrong += *at++ != 77;
    free(out);
    return wrong;
}

static int wrong_floats(struct mabn_finisher *finisher, const float table[3][256],
                        const struct mabn_image *in, const struct mabn_finish *finish)
{
    const size_t n = (size_t)in->width * HEIGHT * (size_t)in->channels;
    float *out = mabn_xmalloc((n + GUARD) * sizeof *out), *at = out;
    int wrong = 0;
    for (size_t i = 0; i < n + GUARD; i++)
        out[i] = 1e9f;
    mabn_finish_floats(finisher, out, in, finish);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < in->width; x++)
            for (int c = 0; c < in->channels; c++, at++)
                wrong += memcmp(at, &table[c][wanted(in, x, y, c, finish)], sizeof *at) != 0;
    for (int i = 0; i < GUARD; i++)
        wrong += *at++ != 1e9f;
    free(out);
    return wrong;
}

/* Every width, mirrored or not, in both channel orders. */
static void test_shapes(const char *name, const struct mabn_normalization *n,
                        const uint8_t lit[3][256])
{
    struct mabn_rng rng;
    struct mabn_image image = {0};
    struct mabn_finisher *finisher = mabn_finisher_new(n);
    float table[3][256];
    int bytes = 0, floats = 0;
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    mabn_normalization_table(n, table);
    for (int width = 1; width <= WIDEST; width++)
        for (int way = 0; way < (n->channels == 3 ? 4 : 2); way++) {
            const struct mabn_finish finish = {.flip = way & 1, .swap = way & 2, .lit = lit};
            draw(&image, width, n->channels, &rng);
            bytes += wrong_bytes(&image, &finish);
            floats += wrong_floats(finisher, (const float(*)[256])table, &image, &finish);
        }
    tap_ok(!bytes, "%s: bytes (%d wrong)", name, bytes);
    tap_ok(!floats, "%s: floats, to the bit (%d wrong)", name, floats);
    mabn_finisher_free(finisher);
    mabn_image_release(&image);
}

static void shift_table(uint8_t lit[256], int shift)
{
    for (int v = 0; v < 256; v++)
        lit[v] = (uint8_t)(v + shift < 0 ? 0 : v + shift > 255 ? 255 : v + shift);
}

static void test_lit(const struct mabn_normalization *n)
{
    uint8_t lit[3][256];
    shift_table(lit[0], 3);
    shift_table(lit[1], -5);
    shift_table(lit[2], 0);
    test_shapes("lit", n, (const uint8_t(*)[256])lit);
    shift_table(lit[0], -127);
    shift_table(lit[1], 126);
    shift_table(lit[2], 127);
    test_shapes("lit to the ends", n, (const uint8_t(*)[256])lit);
    shift_table(lit[0], 200);
    test_shapes("lit beyond them", n, (const uint8_t(*)[256])lit);
    shift_table(lit[0], 3);
    lit[2][255] = 254; /* as rounding may leave it */
    lit[0][0] = 4;
    test_shapes("lit by no addition", n, (const uint8_t(*)[256])lit);
}

int main(void)
{
    const struct mabn_normalization plain = {3, 255, {0, 0, 0}, {1, 1, 1}};
    const struct mabn_normalization colour = {
        3, 1, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};
    const struct mabn_normalization odd = {3, 0.7, {-1e3f, 0, 1e-30f}, {3e5f, 7e-20f, 1e30f}};
    const struct mabn_normalization gray = {1, 1, {0.1307f, 9, 9}, {0.3081f, 9, 9}};
    test_shapes("plain", &plain, NULL);
    test_shapes("mean and deviation", &colour, NULL);
    test_shapes("strange mean and deviation", &odd, NULL);
    test_shapes("gray", &gray, NULL);
    test_lit(&plain);
    test_lit(&colour);
    return tap_done();
}
