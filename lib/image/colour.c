/* Brightness, contrast and saturation blend the picture with a degenerate one (black, its mean
 * gray, its grayscale): degenerate + factor·(value − degenerate), in float, cut to 8 bits. Hue goes
 * through 8-bit HSV. The first two are functions of the value alone: a table. */
#include "image/colour.h"

#include <math.h>

static uint8_t blend(int degenerate, int value, float factor)
{
    const float x = (float)degenerate + factor * (float)(value - degenerate);
    return x <= 0 ? 0 : x >= 255 ? 255 : (uint8_t)x;
}

static size_t values(const struct mabn_image *image)
{
    return (size_t)image->width * image->height * image->channels;
}

static uint8_t gray_of(const uint8_t *p)
{
    return (uint8_t)((p[0] * 19595u + p[1] * 38470u + p[2] * 7471u + 0x8000) >> 16);
}

static void blend_all(struct mabn_image *image, int degenerate, float factor)
{
    uint8_t table[256];
    for (int v = 0; v < 256; v++)
        table[v] = blend(degenerate, v, factor);
    const size_t n = values(image);
    for (size_t i = 0; i < n; i++)
        image->pixels[i] = table[image->pixels[i]];
}

void mabn_colour_brightness(struct mabn_image *image, float factor)
{
    blend_all(image, 0, factor);
}

void mabn_colour_contrast(struct mabn_image *image, float factor)
{
    const size_t n = values(image), step = (size_t)image->channels;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i += step)
        sum += step == 3 ? gray_of(image->pixels + i) : image->pixels[i];
    blend_all(image, (int)((double)sum / (double)(n / step) + 0.5), factor);
}

void mabn_colour_saturation(struct mabn_image *image, float factor)
{
    if (image->channels != 3) return;
    const size_t n = values(image);
    for (uint8_t *p = image->pixels; p < image->pixels + n; p += 3) {
        const int gray = gray_of(p);
        for (int c = 0; c < 3; c++)
            p[c] = blend(gray, p[c], factor);
    }
}

static int clamp8(int v)
{
    return v < 0 ? 0 : v > 255 ? 255 : v;
}

/* 8-bit hue and saturation; the value is the maximum. */
static void to_hsv(const uint8_t *p, int hsv[3])
{
    const int r = p[0], g = p[1], b = p[2];
    const int high = r > g ? (r > b ? r : b) : (g > b ? g : b);
    const int low = r < g ? (r < b ? r : b) : (g < b ? g : b);
    hsv[0] = hsv[1] = 0;
    hsv[2] = high;
    if (low == high) return;
    const float range = (float)(high - low), s = range / (float)high;
    const float rc = (float)(high - r) / range, gc = (float)(high - g) / range,
                bc = (float)(high - b) / range;
    float h;
    if (r == high)
        h = bc - gc;
    else if (g == high)
        h = (float)(2.0 + rc - bc);
    else
        h = (float)(4.0 + gc - rc);
    h = (float)fmod(h / 6.0 + 1.0, 1.0);
    hsv[0] = clamp8((int)(h * 255.0));
    hsv[1] = clamp8((int)(s * 255.0));
}

static void from_hsv(uint8_t *p, int h, int s, int v)
{
    if (!s) {
        p[0] = p[1] = p[2] = (uint8_t)v;
        return;
    }
    const double sector = (float)h * 6.0 / 255.0;
    const int i = (int)floor(sector);
    const float f = (float)(sector - (float)i), fs = (float)((float)s / 255.0);
    const uint8_t t[4] = {
        (uint8_t)v,
        (uint8_t)clamp8((int)round(v * (1.0 - fs))),
        (uint8_t)clamp8((int)round(v * (1.0 - fs * f))),
        (uint8_t)clamp8((int)round(v * (1.0 - fs * (1.0 - f)))),
    };
    /* which of value, p, q, t each channel gets, by sector of the circle */
    static const uint8_t which[6][3] = {{0, 3, 1}, {2, 0, 1}, {1, 0, 3},
                                        {1, 2, 0}, {3, 1, 0}, {0, 1, 2}};
    for (int c = 0; c < 3; c++)
        p[c] = t[which[i % 6][c]];
}

void mabn_colour_hue(struct mabn_image *image, double turn)
{
    if (image->channels != 3) return;
    const int shift = (int)(turn * 255);
    const size_t n = values(image);
    for (uint8_t *p = image->pixels; p < image->pixels + n; p += 3) {
        int hsv[3];
        to_hsv(p, hsv);
        from_hsv(p, (hsv[0] + shift) & 255, hsv[1], hsv[2]);
    }
}
