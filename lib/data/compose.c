/* The scene is painted from the bottom up, beside a map that says which object each pixel shows. An
 * object that is smaller than its cut-out is first shrunk with antialiasing, and then rotated with
 * bilinear sampling. Both work on colours multiplied by coverage, so that edges blend with what
 * lies beneath and have no black rim. A pixel belongs to the object that covers at least half of
 * it. */
#include "data/compose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "image/resize.h"

enum { TRIES = 30, EMPTY_TRIES = 50, NONE = 0 };

/* ---- options ---- */

void mabn_compose_options_init(struct mabn_compose_options *options)
{
    *options = (struct mabn_compose_options){.width = 128,
                                             .height = 128,
                                             .min_objects = 2,
                                             .max_objects = 6,
                                             .min_scale = 0.25,
                                             .max_scale = 0.5,
                                             .rotation = 45,
                                             .mirror = true,
                                             .overlap = 0.4,
                                             .min_area = 24,
                                             .tint = 0.7};
}

mabn_status mabn_compose_check(const struct mabn_compose_options *o)
{
    if (o->width < 16 || o->height < 16 || o->width > 4096 || o->height > 4096)
        return mabn_fail(MABN_ERR_ARG, "scenes of %d x %d pixels: expected 16 to 4096", o->width,
                         o->height);
    if (o->min_objects < 0 || o->max_objects < 1 || o->min_objects > o->max_objects ||
        o->max_objects > 1000)
        return mabn_fail(MABN_ERR_ARG, "%d to %d objects in a scene: expected 0 to 1000, ascending",
                         o->min_objects, o->max_objects);
    if (!(o->min_scale > 0 && o->min_scale <= o->max_scale && o->max_scale <= 1))
        return mabn_fail(MABN_ERR_ARG,
                         "objects of %g to %g of the scene: expected above 0 to 1, ascending",
                         o->min_scale, o->max_scale);
    if (!(o->rotation >= 0 && o->rotation <= 180) || !(o->overlap >= 0 && o->overlap <= 1) ||
        !(o->tint >= 0 && o->tint <= 1))
        return mabn_fail(MABN_ERR_ARG,
                         "rotation %g is not in 0...180, or overlap %g or tint %g not in 0...1",
                         o->rotation, o->overlap, o->tint);
    if (o->min_area < 1)
        return mabn_fail(MABN_ERR_ARG, "a smallest visible area of %d pixels: expected 1 or more",
                         o->min_area);
    return MABN_OK;
}

/* ---- life ---- */

/* An object as it will be painted, in its own box. */
struct stamp {
    int width, height;
    float *colour;   /* (height,width,3) 0…255, multiplied by coverage */
    float *coverage; /* (height,width) 0…1 */
    size_t room;     /* pixels */
    uint64_t area;   /* pixels covered by half or more */
};

struct mabn_composer {
    const struct mabn_cutouts *cutouts;
    struct mabn_compose_options o;
    struct mabn_decoder *decoder;
    struct mabn_resizer *resizer;
    struct mabn_cutout cutout;
    struct mabn_image image, mask; /* shrunk */
    struct stamp stamp;
    uint16_t *shown;   /* (height,width) 1 + object, or NONE */
    uint64_t *wholes;  /* (objects) pixels of each if it were alone */
    uint64_t *seen;    /* (objects) pixels of each that can be seen */
    uint64_t *covered; /* (objects) pixels of each that the stamp covers */
    uint8_t *pixels;   /* (height,width) */
};

struct mabn_composer *mabn_composer_new(const struct mabn_cutouts *cutouts,
                                        const struct mabn_compose_options *options)
{
    struct mabn_composer *c = mabn_xcalloc(1, sizeof *c);
    const size_t pixels = (size_t)options->width * (size_t)options->height,
                 objects = (size_t)options->max_objects;
    c->cutouts = cutouts;
    c->o = *options;
    c->decoder = mabn_decoder_new();
    c->resizer = mabn_resizer_new();
    c->shown = mabn_xcalloc(pixels, sizeof *c->shown);
    c->pixels = mabn_xcalloc(pixels, 1);
    c->wholes = mabn_xcalloc(objects, sizeof *c->wholes);
    c->seen = mabn_xcalloc(objects, sizeof *c->seen);
    c->covered = mabn_xcalloc(objects, sizeof *c->covered);
    return c;
}

void mabn_composer_free(struct mabn_composer *c)
{
    if (!c) return;
    mabn_decoder_free(c->decoder);
    mabn_resizer_free(c->resizer);
    mabn_cutout_release(&c->cutout);
    mabn_image_release(&c->image);
    mabn_image_release(&c->mask);
    free(c->stamp.colour);
    free(c->stamp.coverage);
    free(c->shown);
    free(c->pixels);
    free(c->wholes);
    free(c->seen);
    free(c->covered);
    free(c);
}

void mabn_composition_release(struct mabn_composition *s)
{
    mabn_image_release(&s->image);
    for (int i = 0; i < s->room; i++)
        mabn_rle_release(&s->objects[i].mask);
    free(s->objects);
    *s = (struct mabn_composition){0};
}

/* ---- backgrounds ---- */

struct colour {
    double c[3];
};

static struct colour draw_colour(struct mabn_rng *rng, double low, double high)
{
    struct colour colour;
    for (int c = 0; c < 3; c++)
        colour.c[c] = mabn_rng_range(rng, low, high);
    return colour;
}

/* a at t = 0, b at t = 1. */
static void put_pixel(uint8_t *p, const struct colour *a, const struct colour *b, double t,
                      double grain)
{
    for (int c = 0; c < 3; c++) {
        const double v = a->c[c] + t * (b->c[c] - a->c[c]) + grain;
        p[c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v + 0.5);
    }
}

static void paint_gradient(struct mabn_image *image, struct mabn_rng *rng, const struct colour *a,
                           const struct colour *b)
{
    const double angle = mabn_rng_range(rng, 0, 6.283185307179586);
    const double dx = cos(angle), dy = sin(angle);
    const double reach = fabs(dx) * image->width + fabs(dy) * image->height;
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) {
            const double at =
                dx * (x + 0.5 - image->width / 2.0) + dy * (y + 0.5 - image->height / 2.0);
            put_pixel(image->pixels + 3 * ((size_t)y * image->width + x), a, b, 0.5 + at / reach,
                      0);
        }
}

enum { LATTICE = 17, OCTAVES = 3 };

static double smooth(double t)
{
    return t * t * (3 - 2 * t);
}

static double lattice_value(double lattice[LATTICE][LATTICE], double x, double y)
{
    const int i = (int)x, j = (int)y;
    const double u = smooth(x - i), v = smooth(y - j);
    const double top = lattice[j][i] + u * (lattice[j][i + 1] - lattice[j][i]);
    const double low = lattice[j + 1][i] + u * (lattice[j + 1][i + 1] - lattice[j + 1][i]);
    return top + v * (low - top);
}

/* Smooth noise of three sizes, the finer the weaker, and a little grain. */
static void paint_noise(struct mabn_image *image, struct mabn_rng *rng, const struct colour *a,
                        const struct colour *b)
{
    static const int cells[OCTAVES] = {4, 8, 16};
    static const double weights[OCTAVES] = {0.57, 0.29, 0.14};
    double lattice[OCTAVES][LATTICE][LATTICE];
    for (int k = 0; k < OCTAVES; k++)
        for (int i = 0; i <= cells[k]; i++)
            for (int j = 0; j <= cells[k]; j++)
                lattice[k][i][j] = mabn_rng_uniform(rng);
    const double grain = mabn_rng_range(rng, 0, 20);
    for (int y = 0; y < image->height; y++)
        for (int x = 0; x < image->width; x++) {
            double t = 0;
            for (int k = 0; k < OCTAVES; k++)
                t += weights[k] * lattice_value(lattice[k], (x + 0.5) / image->width * cells[k],
                                                (y + 0.5) / image->height * cells[k]);
            put_pixel(image->pixels + 3 * ((size_t)y * image->width + x), a, b, t,
                      grain * (mabn_rng_uniform(rng) - 0.5));
        }
}

static void paint_background(struct mabn_composer *c, struct mabn_image *image, uint64_t number)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, c->o.seed, MABN_RNG_COMPOSE, number, 0);
    enum mabn_compose_background kind = c->o.background;
    if (kind == MABN_BACKGROUND_MIXED)
        kind = (enum mabn_compose_background)(MABN_BACKGROUND_PLAIN + mabn_rng_below(&rng, 3));
    const struct colour a = draw_colour(&rng, 0, 200), b = draw_colour(&rng, 0, 200);
    switch (kind) {
    case MABN_BACKGROUND_GRADIENT:
        paint_gradient(image, &rng, &a, &b);
        break;
    case MABN_BACKGROUND_NOISE:
        paint_noise(image, &rng, &a, &b);
        break;
    default:
        for (size_t i = 0; i < (size_t)image->width * (size_t)image->height; i++)
            put_pixel(image->pixels + 3 * i, &a, &a, 0, 0);
    }
}

/* ---- stamps ---- */

struct pose {
    double scale; /* of the cut-out's pixels */
    double angle; /* radians */
    bool mirror;
    double tint[3]; /* factors */
};

static struct pose draw_pose(const struct mabn_composer *c, struct mabn_rng *rng)
{
    const struct mabn_image *image = &c->cutout.image;
    const int longer = image->width > image->height ? image->width : image->height;
    const int shorter = c->o.width < c->o.height ? c->o.width : c->o.height;
    struct pose pose;
    pose.scale = mabn_rng_range(rng, c->o.min_scale, c->o.max_scale) * shorter / longer;
    pose.angle = mabn_rng_range(rng, -c->o.rotation, c->o.rotation) * 3.141592653589793 / 180;
    pose.mirror = mabn_rng_uniform(rng) < 0.5 && c->o.mirror;
    const struct colour colour = draw_colour(rng, 0, 1);
    const double most = fmax(colour.c[0], fmax(colour.c[1], colour.c[2])); /* one channel stays
                                                                            * bright */
    for (int k = 0; k < 3; k++)
        pose.tint[k] = c->cutout.gray && most > 0 ? 1 - c->o.tint * (1 - colour.c[k] / most) : 1;
    return pose;
}

static void make_room(struct stamp *s, size_t pixels)
{
    if (pixels <= s->room) return;
    s->room = pixels;
    s->colour = mabn_xrealloc(s->colour, 3 * pixels * sizeof *s->colour);
    s->coverage = mabn_xrealloc(s->coverage, pixels * sizeof *s->coverage);
}

/* Coverage and colour at a place of the shrunk cut-out; nothing beyond it. */
static void sample(const struct mabn_image *image, const struct mabn_image *mask, double x,
                   double y, float colour[3], float *coverage)
{
    const int x0 = (int)floor(x - 0.5), y0 = (int)floor(y - 0.5);
    const double u = x - 0.5 - x0, v = y - 0.5 - y0;
    double sums[4] = {0};
    for (int k = 0; k < 4; k++) {
        const int px = x0 + (k & 1), py = y0 + (k >> 1);
        const double weight = (k & 1 ? u : 1 - u) * (k >> 1 ? v : 1 - v);
        if (px < 0 || py < 0 || px >= image->width || py >= image->height) continue;
        const size_t at = (size_t)py * image->width + px;
        for (int c = 0; c < 3; c++)
            sums[c] += weight * image->pixels[3 * at + c];
        sums[3] += weight * mask->pixels[at];
    }
    for (int c = 0; c < 3; c++)
        colour[c] = (float)sums[c];
    *coverage = (float)(sums[3] / 255);
}

/* Paint image and mask, scaled and turned about their middle, into the stamp. */
static void turn(struct stamp *s, const struct mabn_image *image, const struct mabn_image *mask,
                 double scale, const struct pose *pose)
{
    const double cosine = cos(pose->angle), sine = sin(pose->angle);
    const double w = image->width * scale, h = image->height * scale;
    s->width = (int)ceil(fabs(w * cosine) + fabs(h * sine)) + 2;
    s->height = (int)ceil(fabs(w * sine) + fabs(h * cosine)) + 2;
    make_room(s, (size_t)s->width * (size_t)s->height);
    s->area = 0;
    for (int y = 0; y < s->height; y++)
        for (int x = 0; x < s->width; x++) {
            const size_t at = (size_t)y * s->width + x;
            const double dx = x + 0.5 - s->width / 2.0, dy = y + 0.5 - s->height / 2.0;
            const double sx = (dx * cosine + dy * sine) / scale,
                         sy = (dy * cosine - dx * sine) / scale;
            float *colour = s->colour + 3 * at;
            sample(image, mask, image->width / 2.0 + (pose->mirror ? -sx : sx),
                   image->height / 2.0 + sy, colour, &s->coverage[at]);
            for (int c = 0; c < 3; c++)
                colour[c] *= (float)pose->tint[c];
            s->area += s->coverage[at] >= 0.5f;
        }
}

static int shrunk(int side, double scale)
{
    const int n = (int)lround(side * scale);
    return n < 1 ? 1 : n;
}

static mabn_status make_stamp(struct mabn_composer *c, const struct pose *pose)
{
    const struct mabn_image *image = &c->cutout.image, *mask = &c->cutout.mask;
    if (pose->scale >= 1) {
        turn(&c->stamp, image, mask, pose->scale, pose);
        return MABN_OK;
    }
    const int w = shrunk(image->width, pose->scale), h = shrunk(image->height, pose->scale);
    MABN_TRY(mabn_image_resize(c->resizer, &c->image, image, NULL, w, h, MABN_RESIZE_PIL));
    MABN_TRY(mabn_image_resize(c->resizer, &c->mask, mask, NULL, w, h, MABN_RESIZE_PIL));
    turn(&c->stamp, &c->image, &c->mask, 1, pose);
    return MABN_OK;
}

/* ---- putting down ---- */

/* A random left or upper side such that the stamp lies inside the scene, as far as possible. */
static int draw_place(struct mabn_rng *rng, int scene, int stamp)
{
    const int room = scene - stamp;
    if (room <= 0) return room / 2;
    return (int)mabn_rng_below(rng, (uint64_t)room + 1);
}

static bool covers(const struct stamp *s, int x, int y)
{
    return s->coverage[(size_t)y * s->width + x] >= 0.5f;
}

/* Would every object still be visible enough? *inside: the stamp's own pixels inside the scene. */
static bool fits(struct mabn_composer *c, int left, int top, int count, uint64_t *inside)
{
    const struct stamp *s = &c->stamp;
    *inside = 0;
    memset(c->covered, 0, (size_t)count * sizeof *c->covered);
    for (int y = 0; y < s->height; y++)
        for (int x = 0; x < s->width; x++) {
            const int sx = left + x, sy = top + y;
            if (sx < 0 || sy < 0 || sx >= c->o.width || sy >= c->o.height || !covers(s, x, y))
                continue;
            const uint16_t object = c->shown[(size_t)sy * c->o.width + sx];
            ++*inside;
            if (object != NONE) c->covered[object - 1]++;
        }
    for (int i = 0; i < count; i++) {
        const uint64_t left_of_it = c->seen[i] - c->covered[i];
        if (!c->covered[i]) continue;
        if (left_of_it < (uint64_t)c->o.min_area ||
            (double)left_of_it < (1 - c->o.overlap) * (double)c->wholes[i])
            return false;
    }
    return *inside >= (uint64_t)c->o.min_area;
}

static void put_down(struct mabn_composer *c, struct mabn_image *image, int left, int top,
                     int object)
{
    const struct stamp *s = &c->stamp;
    for (int y = 0; y < s->height; y++)
        for (int x = 0; x < s->width; x++) {
            const int sx = left + x, sy = top + y;
            const size_t from = (size_t)y * s->width + x, to = (size_t)sy * c->o.width + sx;
            if (sx < 0 || sy < 0 || sx >= c->o.width || sy >= c->o.height) continue;
            const float a = s->coverage[from];
            for (int k = 0; k < 3 && a > 0; k++) {
                uint8_t *p = &image->pixels[3 * to + k];
                const float v = s->colour[3 * from + k] + (1 - a) * (float)*p;
                *p = (uint8_t)(v > 255 ? 255 : v + 0.5f);
            }
            if (covers(s, x, y)) c->shown[to] = (uint16_t)(1 + object);
        }
    for (int i = 0; i < object; i++)
        c->seen[i] -= c->covered[i];
}

/* A random cut-out that is not empty. */
static mabn_status draw_cutout(struct mabn_composer *c, struct mabn_rng *rng, uint64_t *index)
{
    bool empty = true;
    for (int i = 0; empty && i < EMPTY_TRIES; i++) {
        *index = mabn_rng_below(rng, mabn_cutouts_count(c->cutouts));
        MABN_TRY(mabn_cutouts_get(c->cutouts, *index, c->decoder, &c->cutout, &empty));
    }
    if (!empty) return MABN_OK;
    return mabn_fail(MABN_ERR_FORMAT,
                     "no object in any of %d random pictures: is the threshold too high?",
                     EMPTY_TRIES);
}

static mabn_status add_object(struct mabn_composer *c, struct mabn_composition *out,
                              uint64_t number, int which)
{
    struct mabn_rng rng;
    uint64_t index, inside;
    mabn_rng_init(&rng, c->o.seed, MABN_RNG_COMPOSE, number, 1 + (uint64_t)which);
    MABN_TRY(draw_cutout(c, &rng, &index));
    const struct pose pose = draw_pose(c, &rng);
    MABN_TRY(make_stamp(c, &pose));
    for (int i = 0; i < TRIES; i++) {
        const int left = draw_place(&rng, c->o.width, c->stamp.width),
                  top = draw_place(&rng, c->o.height, c->stamp.height);
        if (!fits(c, left, top, out->count, &inside)) continue;
        put_down(c, &out->image, left, top, out->count);
        c->wholes[out->count] = c->seen[out->count] = inside;
        out->objects[out->count].label = c->cutout.label;
        out->objects[out->count++].cutout = index;
        return MABN_OK;
    }
    out->left_out++;
    return MABN_OK;
}

/* ---- what is seen ---- */

static mabn_status find_mask(struct mabn_composer *c, struct mabn_composed_object *object,
                             int number)
{
    const int w = c->o.width, h = c->o.height;
    int x0 = w, y0 = h, x1 = -1, y1 = -1;
    object->area = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const size_t at = (size_t)y * w + x;
            c->pixels[at] = c->shown[at] == number + 1;
            if (!c->pixels[at]) continue;
            object->area++;
            x0 = x < x0 ? x : x0;
            x1 = x > x1 ? x : x1;
            y0 = y < y0 ? y : y0;
            y1 = y > y1 ? y : y1;
        }
    object->box = (struct mabn_rect){x0, y0, x1 - x0 + 1, y1 - y0 + 1};
    return mabn_rle_encode_rows(&object->mask, c->pixels, (uint32_t)h, (uint32_t)w);
}

static void make_object_room(struct mabn_composition *out, int objects)
{
    if (objects <= out->room) return;
    out->objects = mabn_xrealloc(out->objects, (size_t)objects * sizeof *out->objects);
    for (; out->room < objects; out->room++) {
        out->objects[out->room] = (struct mabn_composed_object){0};
        mabn_rle_init(&out->objects[out->room].mask);
    }
}

mabn_status mabn_compose(struct mabn_composer *c, struct mabn_composition *out, uint64_t number)
{
    struct mabn_rng rng;
    mabn_rng_init(&rng, c->o.seed, MABN_RNG_COMPOSE, number, UINT64_MAX);
    const int wanted =
        c->o.min_objects +
        (int)mabn_rng_below(&rng, (uint64_t)(c->o.max_objects - c->o.min_objects) + 1);
    MABN_TRY(mabn_image_resize_storage(&out->image, c->o.width, c->o.height, 3));
    make_object_room(out, c->o.max_objects);
    out->count = out->left_out = 0;
    memset(c->shown, 0, (size_t)c->o.width * (size_t)c->o.height * sizeof *c->shown);
    paint_background(c, &out->image, number);
    for (int i = 0; i < wanted; i++)
        MABN_TRY(add_object(c, out, number, i));
    for (int i = 0; i < out->count; i++)
        MABN_TRY(find_mask(c, &out->objects[i], i));
    return MABN_OK;
}
