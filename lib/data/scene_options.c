#include "data/scene_options.h"

#include <math.h>

#include "base/rng.h"

/* ---- options ---- */

const struct mabn_word mabn_scene_presets[] = {
    {0, "legacy"}, {1, "detectron2"}, {2, "torchvision"}, {0, NULL}};

static const struct mabn_scene_options presets[] = {
    {.rule = MABN_SCENE_LEGACY,
     .inclusive = true,
     .bgr = true,
     .range = 255,
     .mean = {102.9801f, 115.9465f, 122.7717f},
     .deviation = {1, 1, 1}},
    {.rule = MABN_SCENE_DETECTRON2,
     .bgr = true,
     .range = 255,
     .mean = {103.530f, 116.280f, 123.675f},
     .deviation = {1, 1, 1},
     .leave_out_empty = true},
    {.rule = MABN_SCENE_TORCHVISION,
     .range = 1,
     .mean = {0.485f, 0.456f, 0.406f},
     .deviation = {0.229f, 0.224f, 0.225f}},
};

mabn_status mabn_scene_preset(struct mabn_scene_options *options, const char *name, bool training)
{
    int i;
    MABN_TRY(mabn_word_parse(&i, mabn_scene_presets, "input", name));
    *options = presets[i];
    options->min_sizes[0] = 800;
    options->min_size_count = 1;
    options->max_size = 1333;
    options->multiple = 32;
    options->flip = training ? 0.5 : 0;
    if (training && options->rule == MABN_SCENE_DETECTRON2) {
        options->min_size_count = 0;
        for (int size = 640; size <= 800; size += 32)
            options->min_sizes[options->min_size_count++] = size;
    }
    return MABN_OK;
}

enum { MOST_PIXELS = 1 << 15 };

mabn_status mabn_scene_check(const struct mabn_scene_options *o)
{
    if (o->min_size_count < 1 || o->min_size_count > MABN_SCENE_SIZES)
        return mabn_fail(MABN_ERR_ARG, "%d training sizes: expected 1 to %d", o->min_size_count,
                         MABN_SCENE_SIZES);
    for (int i = 0; i < o->min_size_count; i++)
        if (o->min_sizes[i] < 1 || o->min_sizes[i] > o->max_size)
            return mabn_fail(MABN_ERR_ARG,
                             "a smaller side of %d pixels: expected 1 to the largest side, %d",
                             o->min_sizes[i], o->max_size);
    if (o->max_size > MOST_PIXELS)
        return mabn_fail(MABN_ERR_ARG, "a larger side of %d pixels: expected at most %d",
                         o->max_size, MOST_PIXELS);
    if (o->multiple < 1 || o->multiple > 1024)
        return mabn_fail(MABN_ERR_ARG, "sides padded to multiples of %d: expected 1 to 1024",
                         o->multiple);
    if (!(o->flip >= 0 && o->flip <= 1))
        return mabn_fail(MABN_ERR_ARG, "a flip with probability %g: expected 0 to 1", o->flip);
    for (int c = 0; c < 3; c++)
        if (!(o->deviation[c] > 0) || !isfinite(o->mean[c]))
            return mabn_fail(MABN_ERR_ARG, "mean %g and deviation %g of channel %d are not valid",
                             (double)o->mean[c], (double)o->deviation[c], c);
    if (!(o->range > 0))
        return mabn_fail(MABN_ERR_ARG, "a range of %g: expected above 0", o->range);
    return MABN_OK;
}

/* ---- sizes and choices ---- */

static void legacy_size(int s, int m, int w, int h, int *nw, int *nh)
{
    const double small = w < h ? w : h, large = w < h ? h : w;
    if (large / small * s > m) s = (int)rint(m * small / large);
    *nw = w;
    *nh = h;
    if ((w <= h && w == s) || (h <= w && h == s)) return;
    *nw = w < h ? s : (int)((double)((int64_t)s * w) / h);
    *nh = w < h ? (int)((double)((int64_t)s * h) / w) : s;
}

static void detectron2_size(int s, int m, int w, int h, int *nw, int *nh)
{
    const double k = (double)s / (w < h ? w : h);
    double x = h < w ? k * w : s, y = h < w ? s : k * h;
    const double large = x > y ? x : y;
    if (large > m) {
        const double shrink = m / large;
        x *= shrink;
        y *= shrink;
    }
    *nw = (int)(x + 0.5);
    *nh = (int)(y + 0.5);
}

static void torchvision_size(int s, int m, int w, int h, int *nw, int *nh)
{
    const double a = (double)s / (w < h ? w : h), b = (double)m / (w < h ? h : w);
    const double k = a < b ? a : b;
    *nw = (int)(w * k);
    *nh = (int)(h * k);
}

void mabn_scene_size(const struct mabn_scene_options *o, int min_size, int width, int height,
                     int *new_width, int *new_height)
{
    static void (*const rules[])(int, int, int, int, int *, int *) = {
        [MABN_SCENE_LEGACY] = legacy_size,
        [MABN_SCENE_DETECTRON2] = detectron2_size,
        [MABN_SCENE_TORCHVISION] = torchvision_size,
    };
    rules[o->rule](min_size, o->max_size, width, height, new_width, new_height);
    if (*new_width < 1) *new_width = 1;
    if (*new_height < 1) *new_height = 1;
}

struct mabn_scene_choice mabn_scene_choose(const struct mabn_scene_options *o,
                                           const struct mabn_scene_key *key)
{
    struct mabn_rng rng;
    struct mabn_scene_choice choice;
    mabn_rng_init(&rng, key->seed, MABN_RNG_AUGMENT, key->epoch, key->sample);
    choice.min_size = o->min_sizes[mabn_rng_below(&rng, (uint64_t)o->min_size_count)];
    choice.flip = mabn_rng_uniform(&rng) < o->flip;
    return choice;
}
