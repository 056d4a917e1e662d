/* Scenes for a detector: sizes, ground truth, pixels, batches. tests/golden/scene has unusual
 * annotations of every kind and the results of the reference's rules (make_scene_fixtures.py). */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "coco/dataset.h"
#include "coco/outline.h"
#include "data/scene.h"
#include "data/scene_loader.h"
#include "data/scene_sampler.h"
#include "image/image.h"
#include "image/resize.h"
#include "store/dataset.h"
#include "tap.h"

#define FOLDER "tests/golden/scene/"

/* ---- a packed dataset of pictures made up on the spot ---- */

struct packed {
    char folder[64], path[100];
    struct mabn_dataset *dataset;
    struct mabn_scene_set *set;
};

static void make_picture(struct mabn_image *image, int width, int height, int seed)
{
    if (mabn_image_resize_storage(image, width, height, 3)) exit(1);
    for (int i = 0; i < width * height * 3; i++)
        image->pixels[i] =
            (uint8_t)(seed * 31 + i / 3 % width * 5 + i / 3 / width * 3 + i % 3 * 80);
}

static void write_picture(const char *path, int width, int height, int seed)
{
    struct mabn_image image = {0};
    uint8_t *bytes;
    size_t size;
    make_picture(&image, width, height, seed);
    if (mabn_image_encode_png(&bytes, &size, &image) || mabn_write_file(path, bytes, size, true))
        exit(1);
    free(bytes);
    mabn_image_release(&image);
}

/* Make the photographs that an annotation file lists, and pack them with it. */
static mabn_status pack(struct packed *p, const char *annotations)
{
    const struct mabn_coco_pack_options options = {.threads = 1};
    struct mabn_coco coco;
    *p = (struct packed){0};
    strcpy(p->folder, "/tmp/test_scene.XXXXXX");
    if (!mkdtemp(p->folder)) exit(1);
    snprintf(p->path, sizeof p->path, "%s/packed.h5", p->folder);
    MABN_TRY(mabn_coco_read(&coco, annotations, 0));
    for (size_t i = 0; i < coco.n_images; i++) {
        char path[200];
        snprintf(path, sizeof path, "%s/%s", p->folder, coco.images[i].file_name);
        write_picture(path, (int)coco.images[i].width, (int)coco.images[i].height,
                      (int)coco.images[i].id);
    }
    mabn_coco_release(&coco);
    const struct mabn_pack_output out = {p->path, true, "test", "test"};
    MABN_TRY(mabn_coco_pack(&out, p->folder, annotations, &options));
    MABN_TRY(mabn_dataset_open(&p->dataset, p->path));
    return mabn_scene_set_open(&p->set, p->dataset);
}

static void unpack(struct packed *p)
{
    mabn_scene_set_free(p->set);
    mabn_dataset_free(p->dataset);
    DIR *folder = opendir(p->folder);
    for (struct dirent *e; (e = readdir(folder));) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", p->folder, e->d_name);
        unlink(path);
    }
    closedir(folder);
    rmdir(p->folder);
}

static const char *json_path(const char *name)
{
    static char path[100];
    snprintf(path, sizeof path, "/tmp/test_scene_%s.%d.json", name, (int)getpid());
    return path;
}

static uint64_t sample_of(const struct mabn_scene_set *set, int64_t image)
{
    uint64_t i = 0;
    while (i < mabn_scene_set_count(set) && mabn_scene_set_image_id(set, i) != image)
        i++;
    return i;
}

static struct mabn_scene_options small_options(void)
{
    struct mabn_scene_options o;
    if (mabn_scene_preset(&o, "legacy", false)) exit(1);
    o.min_sizes[0] = 48;
    o.max_size = 80;
    return o;
}

/* ---- sizes ---- */

static void test_sizes(void)
{
    static const int rows[][4] = {
        {640, 480, 1066, 800}, {480, 640, 800, 1066}, {640, 427, 1199, 800},
        {500, 500, 800, 800},  {640, 360, 1333, 750}, {640, 200, 1334, 417},
        {333, 500, 800, 1201}, {800, 900, 800, 900},  {1, 1, 800, 800}};
    static const int d2[][4] = {{640, 480, 1067, 800}, {640, 360, 1333, 750}, {640, 59, 1333, 123}};
    static const int tv[][4] = {{640, 480, 1066, 800}, {640, 360, 1333, 749}, {640, 59, 1333, 122}};
    struct mabn_scene_options o;
    int w, h;
    if (mabn_scene_preset(&o, "legacy", false)) exit(1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mabn_scene_size(&o, 800, rows[i][0], rows[i][1], &w, &h);
        tap_ok(w == rows[i][2] && h == rows[i][3], "legacy: %d x %d becomes %d x %d", rows[i][0],
               rows[i][1], w, h);
    }
    if (mabn_scene_preset(&o, "detectron2", false)) exit(1);
    for (size_t i = 0; i < 3; i++) {
        mabn_scene_size(&o, 800, d2[i][0], d2[i][1], &w, &h);
        tap_ok(w == d2[i][2] && h == d2[i][3], "detectron2: %d x %d becomes %d x %d", d2[i][0],
               d2[i][1], w, h);
    }
    if (mabn_scene_preset(&o, "torchvision", false)) exit(1);
    for (size_t i = 0; i < 3; i++) {
        mabn_scene_size(&o, 800, tv[i][0], tv[i][1], &w, &h);
        tap_ok(w == tv[i][2] && h == tv[i][3], "torchvision: %d x %d becomes %d x %d", tv[i][0],
               tv[i][1], w, h);
    }
    for (int rule = 0; rule < 3; rule++) {
        if (mabn_scene_preset(&o, mabn_scene_presets[rule].word, false)) exit(1);
        mabn_scene_size(&o, 800, 20000, 3, &w, &h);
        tap_ok(w > 0 && w < 30000 && h > 0, "%s: 20000 x 3 becomes %d x %d",
               mabn_scene_presets[rule].word, w, h);
    }
}

static void test_options(void)
{
    struct mabn_scene_options o;
    tap_fails(mabn_scene_preset(&o, "caffe", true), MABN_ERR_ARG, "unknown input 'caffe'",
              "an unknown preset");
    if (mabn_scene_preset(&o, "detectron2", true)) exit(1);
    tap_ok(o.min_size_count == 6 && o.min_sizes[0] == 640 && o.min_sizes[5] == 800,
           "detectron2 trains on six sizes");
    tap_status(mabn_scene_check(&o), "a preset is fine");
    o.min_sizes[3] = 5000;
    tap_fails(mabn_scene_check(&o), MABN_ERR_ARG, "5000", "min size above max size");
    int seen[6] = {0}, flips = 0;
    if (mabn_scene_preset(&o, "detectron2", true)) exit(1);
    for (uint64_t i = 0; i < 6000; i++) {
        const struct mabn_scene_key key = {3, i / 100, i % 100};
        const struct mabn_scene_choice a = mabn_scene_choose(&o, &key);
        seen[(a.min_size - 640) / 32]++;
        flips += a.flip;
    }
    int least = 6000;
    for (int i = 0; i < 6; i++)
        least = seen[i] < least ? seen[i] : least;
    tap_ok(least > 880 && flips > 2850 && flips < 3150,
           "sizes are drawn evenly (at least %d of 1000), half are flipped (%d of 6000)", least,
           flips);
}

/* ---- ground truth ---- */

static const struct mabn_coco_record *record_of(const struct mabn_scene_set *set, int64_t id)
{
    const struct mabn_coco *c = mabn_scene_set_coco(set);
    for (size_t i = 0; i < c->n_records; i++)
        if (c->records[i].id == id) return &c->records[i];
    return NULL;
}

static int read_numbers(char *text, float *numbers, int most)
{
    int n = 0;
    for (char *word = strtok(text, "\t\n"); word && n < most; word = strtok(NULL, "\t\n"))
        numbers[n++] = strtof(word, NULL);
    return n;
}

/* Compare the current scene with the lines of expected.tsv, in their order. */
struct comparison {
    struct mabn_scene_maker *maker;
    const struct mabn_scene_set *set;
    struct mabn_scene scene;
    int object, objects_wrong, polygons_wrong, objects, polygons, scenes_wrong, left_over;
    uint32_t polygon, polygon_end;
};

static void end_scene(struct comparison *c)
{
    c->left_over += c->scene.count - c->object;
}

static void begin_scene(struct comparison *c, int image, int flip, char *rest)
{
    float size[2];
    end_scene(c);
    read_numbers(rest, size, 2);
    const struct mabn_scene_choice choice = {48, flip};
    if (mabn_scene_target(c->maker, &c->scene, sample_of(c->set, image), choice)) exit(1);
    c->scenes_wrong += (float)c->scene.width != size[0] || (float)c->scene.height != size[1] ||
                       c->scene.image_id != image;
    c->object = 0;
}

static void compare_object(struct comparison *c, char *rest)
{
    float want[6];
    read_numbers(rest, want, 6);
    const int i = c->object++;
    c->objects++;
    if (i >= c->scene.count) {
        c->objects_wrong++;
        return;
    }
    const struct mabn_coco_record *r = &mabn_scene_set_coco(c->set)->records[c->scene.records[i]];
    c->polygon = c->scene.first_polygon[i];
    c->polygon_end = c->scene.first_polygon[i + 1];
    c->objects_wrong += (float)r->id != want[0] || (float)c->scene.labels[i] != want[1] ||
                        memcmp(c->scene.boxes + 4 * i, want + 2, 4 * sizeof(float)) != 0;
}

static void compare_polygon(struct comparison *c, char *rest)
{
    float want[200];
    const int n = read_numbers(rest, want, 200) - 1; /* the annotation's number comes first */
    c->polygons++;
    if (c->polygon >= c->polygon_end) {
        c->polygons_wrong++;
        return;
    }
    const uint32_t first = c->scene.first_number[c->polygon],
                   end = c->scene.first_number[++c->polygon];
    c->polygons_wrong += (int)(end - first) != n ||
                         memcmp(c->scene.numbers + first, want + 1, (size_t)n * sizeof(float)) != 0;
}

static void test_targets(const struct packed *p)
{
    const struct mabn_scene_options o = small_options();
    struct comparison c = {.maker = mabn_scene_maker_new(p->set, &o), .set = p->set};
    FILE *file = fopen(FOLDER "expected.tsv", "r");
    char line[4000], word[16];
    int image, flip, at;
    if (!file) exit(1);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%15s %d %d%n", word, &image, &flip, &at) < 3) continue;
        if (!strcmp(word, "scene")) begin_scene(&c, image, flip, line + at);
        if (!strcmp(word, "object")) compare_object(&c, line + at);
        if (!strcmp(word, "polygon")) compare_polygon(&c, line + at);
    }
    end_scene(&c);
    fclose(file);
    tap_ok(!c.scenes_wrong, "sizes as the reference's");
    tap_ok(c.objects == 18 && !c.objects_wrong && !c.left_over,
           "%d objects as the reference's: order, labels, boxes to the bit", c.objects);
    tap_ok(c.polygons == 14 && !c.polygons_wrong, "%d polygons likewise", c.polygons);
    mabn_scene_release(&c.scene);
    mabn_scene_maker_free(c.maker);
}

/* The union of an object's polygons, as a mask. */
static void fill(struct mabn_rle *out, const struct mabn_scene *s, int object, int height,
                 int width)
{
    struct mabn_rle parts[16];
    double xy[2000];
    size_t n = 0;
    for (uint32_t k = s->first_polygon[object]; k < s->first_polygon[object + 1]; k++) {
        const uint32_t first = s->first_number[k], end = s->first_number[k + 1];
        for (uint32_t i = first; i < end; i++)
            xy[i - first] = s->numbers[i];
        mabn_rle_init(&parts[n]);
        if (mabn_rle_from_polygon(&parts[n++], xy, end - first, (uint32_t)height, (uint32_t)width))
            exit(1);
    }
    if (mabn_rle_merge(out, parts, n, false)) exit(1);
    while (n)
        mabn_rle_release(&parts[--n]);
}

static void test_run_lengths(const struct packed *p)
{
    struct mabn_scene_options o = small_options();
    struct mabn_scene scene = {0};
    struct mabn_rle want, got;
    uint8_t pixels[48 * 64], flipped[48 * 64];
    mabn_rle_init(&want);
    mabn_rle_init(&got);
    struct mabn_scene_maker *maker = mabn_scene_maker_new(p->set, &o);
    if (mabn_coco_mask(&want, mabn_scene_set_coco(p->set), record_of(p->set, 13), 48, 64)) exit(1);
    mabn_rle_decode_rows(pixels, &want);
    for (int flip = 0; flip < 2; flip++) {
        tap_status(mabn_scene_target(maker, &scene, sample_of(p->set, 16),
                                     (struct mabn_scene_choice){48, flip}),
                   "run lengths%s", flip ? ", flipped" : "");
        fill(&got, &scene, 0, 48, 64);
        mabn_rle_decode_rows(flipped, &got);
        int wrong = 0;
        for (int i = 0; i < 48 * 64; i++)
            wrong += flipped[i] != pixels[flip ? i / 64 * 64 + 63 - i % 64 : i];
        tap_ok(!wrong, "their polygons fill the same pixels");
    }
    tap_ok(scene.count == 3 && scene.first_polygon[1] == scene.first_polygon[2] &&
               scene.first_polygon[2] == scene.first_polygon[3],
           "objects without a polygon stay, without a mask");
    mabn_rle_release(&want);
    mabn_rle_release(&got);
    mabn_scene_release(&scene);
    mabn_scene_maker_free(maker);
}

/* The reference's example: (10,20,30,40) in a picture 100 wide becomes (69,20,89,40). */
static void test_flip(void)
{
    const char *text =
        "{\"images\":[{\"id\":1,\"width\":100,\"height\":100,\"file_name\":\"1.png\"}],"
        "\"categories\":[{\"id\":1,\"name\":\"a\"}],\"annotations\":[{\"id\":1,"
        "\"image_id\":1,\"category_id\":1,\"bbox\":[10,20,21,21],\"iscrowd\":0}]}";
    static const char *const names[] = {"legacy", "torchvision"};
    static const float want[2][4] = {{69, 20, 89, 40}, {69, 20, 90, 41}};
    struct packed p;
    struct mabn_scene scene = {0};
    const char *path = json_path("flip");
    if (mabn_write_file(path, text, strlen(text), true) || pack(&p, path)) exit(1);
    for (int i = 0; i < 2; i++) {
        struct mabn_scene_options o;
        if (mabn_scene_preset(&o, names[i], false)) exit(1);
        struct mabn_scene_maker *maker = mabn_scene_maker_new(p.set, &o);
        if (mabn_scene_target(maker, &scene, 0, (struct mabn_scene_choice){100, true})) exit(1);
        tap_ok(scene.count == 1 && !memcmp(scene.boxes, want[i], sizeof want[i]),
               "%s: a flipped box is %g %g %g %g", names[i], (double)scene.boxes[0],
               (double)scene.boxes[1], (double)scene.boxes[2], (double)scene.boxes[3]);
        mabn_scene_maker_free(maker);
    }
    mabn_scene_release(&scene);
    unlink(path);
    unpack(&p);
}

/* Files of earlier versions may hold polygons that are too short. */
static void test_short_polygons(const struct packed *p)
{
    const struct mabn_scene_options o = small_options();
    const struct mabn_coco_record *r = record_of(p->set, 1);
    const struct mabn_coco *coco = mabn_scene_set_coco(p->set);
    struct mabn_scene_maker *maker = mabn_scene_maker_new(p->set, &o);
    struct mabn_scene scene = {0};
    coco->lengths[r->segmentation.sizes + 1] = 4;
    if (mabn_scene_target(maker, &scene, sample_of(p->set, 7), (struct mabn_scene_choice){48, 0}))
        exit(1);
    tap_ok(scene.count == 2 && scene.first_polygon[1] == 1 && scene.first_number[1] == 8,
           "a polygon of four numbers is dropped");
    coco->lengths[r->segmentation.sizes + 1] = 6;
    mabn_scene_release(&scene);
    mabn_scene_maker_free(maker);
}

static void test_selection(const struct packed *p, const struct packed *poses)
{
    struct mabn_scene_options o = small_options();
    struct mabn_scene_census n;
    uint64_t *samples, count;
    struct mabn_str text;
    static const int64_t kept[] = {7, 12, 15, 16, 20};
    mabn_str_init(&text);
    tap_status(mabn_scene_select(p->set, &o, &samples, &count, &n), "the reference's filter");
    bool same = count == 5;
    for (uint64_t i = 0; same && i < count; i++)
        same = mabn_scene_set_image_id(p->set, samples[i]) == kept[i];
    tap_ok(same, "keeps those that it keeps");
    tap_ok(n.images == 7 && n.kept == 5 && n.bare == 1 && n.degenerate == 1 && n.empty == 1 &&
               n.objects == 9 && n.crowds == 2 && n.boxless == 1 && n.outside == 3 &&
               n.maskless == 2,
           "and counts: %d bare, %d degenerate, %d empty, %d objects, %d crowds, %d outside, %d "
           "maskless",
           (int)n.bare, (int)n.degenerate, (int)n.empty, (int)n.objects, (int)n.crowds,
           (int)n.outside, (int)n.maskless);
    mabn_scene_census_text(&text, &n);
    tap_str_eq(text.text,
               "5 of 7 photographs; left out: 1 without annotations, 1 with nothing more than 1 "
               "pixel wide and high; objects: 9, 2 without a mask; dropped: 2 crowds, 1 without "
               "a box, 3 boxes outside or empty; photographs with no object: 1",
               "in words");
    free(samples);
    o.leave_out_empty = true;
    if (mabn_scene_select(p->set, &o, &samples, &count, &n)) exit(1);
    tap_ok(count == 4 && n.left_out_empty == 1 && !n.empty, "without those that have no object");
    free(samples);
    tap_status(mabn_scene_select(poses->set, &o, &samples, &count, &n), "with keypoints");
    tap_ok(count == 1 && n.unposed == 1 && mabn_scene_set_image_id(poses->set, samples[0]) == 21,
           "nine visible are too few, ten are enough");
    free(samples);
    mabn_str_release(&text);
}

/* ---- pixels ---- */

static void test_pixels(const struct packed *p)
{
    struct mabn_scene_options o = small_options();
    struct mabn_scene scene = {0};
    struct mabn_image in = {0}, out = {0};
    struct mabn_resizer *resizer = mabn_resizer_new();
    struct mabn_scene_maker *maker = mabn_scene_maker_new(p->set, &o);
    enum { W = 96, H = 64 };
    float *x = mabn_xmalloc(3 * W * H * sizeof *x);
    make_picture(&in, 100, 30, 20);
    if (mabn_image_resize(resizer, &out, &in, NULL, 80, 24, MABN_RESIZE_PIL)) exit(1);
    for (int flip = 0; flip < 2; flip++) {
        for (int i = 0; i < 3 * W * H; i++)
            x[i] = NAN;
        tap_status(mabn_scene_make(maker, &scene, sample_of(p->set, 20),
                                   (struct mabn_scene_choice){48, flip}, x, W, H),
                   "pixels%s", flip ? ", flipped" : "");
        int wrong = 0;
        for (int y = 0; y < H; y++)
            for (int k = 0; k < 3 * W; k++) {
                const int c = k % 3, column = k / 3;
                float want = 0;
                if (y < 24 && column < 80)
                    want = (float)out.pixels[(y * 80 + (flip ? 79 - column : column)) * 3 + 2 - c] -
                           o.mean[c];
                wrong += x[y * 3 * W + k] != want;
            }
        tap_ok(!wrong && scene.width == 80 && scene.height == 24,
               "resized, B G R minus mean, zero beyond (%d wrong)", wrong);
    }
    tap_fails(mabn_scene_make(maker, &scene, sample_of(p->set, 20),
                              (struct mabn_scene_choice){48, false}, x, 64, 64),
              MABN_ERR_ARG, "80 x 24", "not into less than its size");
    free(x);
    mabn_image_release(&in);
    mabn_image_release(&out);
    mabn_resizer_free(resizer);
    mabn_scene_release(&scene);
    mabn_scene_maker_free(maker);
}

/* Photographs that are only decoded, and drawn afterwards: the same bits, in each family. */
static void test_raw(const struct packed *p)
{
    struct mabn_scene scene = {0}, other = {0};
    struct mabn_raw *block = NULL;
    size_t room = 0;
    enum { SIDE = 128, VALUES = 3 * SIDE * SIDE };
    float *want = mabn_xmalloc(VALUES * sizeof *want), *got = mabn_xmalloc(VALUES * sizeof *got);
    for (const struct mabn_word *family = mabn_scene_presets; family->word; family++) {
        struct mabn_scene_options o;
        int wrong = 0;
        if (mabn_scene_preset(&o, family->word, true)) exit(1);
        o.max_size = SIDE;
        struct mabn_scene_maker *maker = mabn_scene_maker_new(p->set, &o);
        for (uint64_t i = 0; i < mabn_scene_set_count(p->set); i++)
            for (int size = 1; size < SIDE; size += 21) {
                const struct mabn_scene_choice choice = {size, size % 2};
                for (int k = 0; k < VALUES; k++)
                    want[k] = got[k] = NAN;
                if (mabn_scene_make(maker, &scene, i, choice, want, SIDE, SIDE) ||
                    mabn_scene_make_raw(maker, &other, i, choice, &block, &room))
                    exit(1);
                mabn_raw_draw(got, SIDE, SIDE, block);
                wrong += memcmp(got, want, VALUES * sizeof *got) != 0;
                wrong += scene.count != other.count || scene.width != other.width;
            }
        tap_ok(!wrong, "%s: raw pictures, drawn afterwards (%d wrong)", family->word, wrong);
        mabn_scene_maker_free(maker);
    }
    mabn_free(block);
    free(want);
    free(got);
    mabn_scene_release(&scene);
    mabn_scene_release(&other);
}

/* ---- batches ---- */

static bool is_wide(const struct mabn_scene_set *set, uint64_t sample)
{
    int width, height;
    mabn_scene_set_size(set, sample, &width, &height);
    return height < width;
}

static void test_sampler(const struct packed *p)
{
    /* wide: 7 11 16 20 at 0 2 5 6; tall or square: 9 12 15 at 1 3 4 */
    struct mabn_scene_sampler *s;
    struct mabn_scene_sampler_options o = {.batch = 2, .group = true};
    static const uint64_t plain[][2] = {{0, 2}, {1, 3}, {4, 4}, {5, 6}};
    const uint64_t *samples;
    int count, wrong = 0;
    tap_status(mabn_scene_sampler_new(&s, p->set, &o), "groups");
    tap_ok(mabn_scene_sampler_batches(s) == 4, "2 batches of wide ones, 2 of tall ones");
    for (uint64_t i = 0; i < 4; i++) {
        mabn_scene_sampler_batch(s, 0, i, &samples, &count);
        wrong += count != (i == 2 ? 1 : 2) || samples[0] != plain[i][0] ||
                 (count == 2 && samples[1] != plain[i][1]);
    }
    tap_ok(!wrong, "in the order of their first samples, a short one kept");
    mabn_scene_sampler_free(s);

    o.shuffle = o.fill = true;
    o.seed = 5;
    if (mabn_scene_sampler_new(&s, p->set, &o)) exit(1);
    int seen[7] = {0}, mixed = 0, differ = 0, full = 0;
    uint64_t first[4];
    for (uint64_t e = 0; e < 50; e++)
        for (uint64_t i = 0; i < 4; i++) {
            mabn_scene_sampler_batch(s, e, i, &samples, &count);
            full += count == 2;
            mixed += is_wide(p->set, samples[0]) != is_wide(p->set, samples[1]);
            seen[samples[0]]++;
            seen[samples[1]]++;
            if (e) differ += first[i] != samples[0];
            first[i] = samples[0];
        }
    int least = 1000;
    for (int i = 0; i < 7; i++)
        least = seen[i] < least ? seen[i] : least;
    tap_ok(full == 200 && least >= 50, "all full, every photograph in every epoch");
    tap_ok(!mixed, "no wide one with a tall one");
    tap_ok(differ > 100, "another order each time (%d of 196 begin otherwise)", differ);
    mabn_scene_sampler_batch(s, 7, 2, &samples, &count);
    const uint64_t a = samples[0], b = samples[1];
    mabn_scene_sampler_batch(s, 9, 0, &samples, &count);
    mabn_scene_sampler_batch(s, 7, 2, &samples, &count);
    tap_ok(samples[0] == a && samples[1] == b, "an epoch comes again as it was");
    mabn_scene_sampler_free(s);

    static const uint64_t order[] = {6, 1, 0, 4, 3};
    o = (struct mabn_scene_sampler_options){.samples = order, .count = 5, .batch = 2};
    if (mabn_scene_sampler_new(&s, p->set, &o)) exit(1);
    mabn_scene_sampler_batch(s, 3, 1, &samples, &count);
    tap_ok(mabn_scene_sampler_batches(s) == 3 && count == 2 && samples[0] == 0 && samples[1] == 4,
           "a fixed order is taken as it is");
    mabn_scene_sampler_free(s);
    o.batch = 0;
    tap_fails(mabn_scene_sampler_new(&s, p->set, &o), MABN_ERR_ARG, "batch of 0", "no batch of 0");
    const uint64_t beyond[] = {7};
    o = (struct mabn_scene_sampler_options){.samples = beyond, .count = 1, .batch = 1};
    tap_fails(mabn_scene_sampler_new(&s, p->set, &o), MABN_ERR_ARG, "sample 7 of 7",
              "no sample beyond the last");
}

static struct mabn_scene_loader_options loader_options(void)
{
    struct mabn_scene_loader_options o;
    mabn_scene_loader_options_init(&o);
    o.scene = small_options();
    o.scene.min_sizes[1] = 40;
    o.scene.min_size_count = 2;
    o.scene.flip = 0.5;
    o.sampler =
        (struct mabn_scene_sampler_options){.batch = 2, .shuffle = true, .group = true, .seed = 11};
    o.epochs = 0;
    return o;
}

static uint64_t mix(uint64_t h, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
    return h;
}

static uint64_t mix_pictures(uint64_t h, const struct mabn_scene_batch *b)
{
    const size_t values = 3 * (size_t)b->width * (size_t)b->height;
    if (!b->raw) return mix(h, b->x, (size_t)b->count * values * sizeof *b->x);
    float *x = mabn_xmalloc(values * sizeof *x);
    for (int k = 0; k < b->count; k++) {
        mabn_raw_draw(x, b->width, b->height, b->raw[k]);
        h = mix(h, x, values * sizeof *x);
    }
    free(x);
    return h;
}

/* A digest of everything in the next `batches` batches. */
static uint64_t digest(struct mabn_scene_loader *loader, int batches)
{
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < batches; i++) {
        const struct mabn_scene_batch *b;
        if (mabn_scene_loader_next(loader, &b) || !b) return 0;
        h = mix_pictures(h, b);
        for (int k = 0; k < b->count; k++) {
            const struct mabn_scene *s = &b->scenes[k];
            h = mix(h, s->boxes, (size_t)s->count * 4 * sizeof *s->boxes);
            h = mix(h, s->numbers, s->first_number[s->first_polygon[s->count]] * sizeof(float));
            h = mix(h, &s->image_id, sizeof s->image_id);
        }
        h = mix(h, &b->index, sizeof b->index);
    }
    return h;
}

static void test_loader(const struct packed *p)
{
    struct mabn_scene_loader_options o = loader_options();
    struct mabn_scene_loader *loader;
    uint64_t first = 0;
    for (int threads = 1; threads <= 4; threads *= 2)
        for (int ahead = 1; ahead <= 4; ahead += 3) {
            o.threads = threads;
            o.ahead = ahead;
            tap_status(mabn_scene_loader_new(&loader, p->set, &o), "a loader");
            const uint64_t h = digest(loader, 20);
            if (!first) first = h;
            tap_ok(h && h == first, "the same batches with %d threads, %d ahead", threads, ahead);
            mabn_scene_loader_free(loader);
        }
    o.raw = true;
    if (mabn_scene_loader_new(&loader, p->set, &o)) exit(1);
    tap_ok(digest(loader, 20) == first, "the same batches as raw pictures");
    mabn_scene_loader_free(loader);
    o.raw = false;
    if (mabn_scene_loader_new(&loader, p->set, &o)) exit(1);
    tap_ok(mabn_scene_loader_batches_per_epoch(loader) == 4, "4 batches an epoch");
    digest(loader, 9);
    const uint64_t tail = digest(loader, 6);
    tap_status(mabn_scene_loader_seek(loader, 2, 1), "seek");
    tap_ok(digest(loader, 6) == tail, "going on equals seeking there");
    mabn_scene_loader_free(loader);
}

static void test_padding(const struct packed *p)
{
    struct mabn_scene_loader_options o = loader_options();
    struct mabn_scene_loader *loader;
    const struct mabn_scene_batch *b;
    int wrong = 0, seen = 0, choices[4] = {0};
    o.epochs = 6;
    if (mabn_scene_loader_new(&loader, p->set, &o)) exit(1);
    while (!mabn_scene_loader_next(loader, &b) && b) {
        int widest = 0, highest = 0;
        for (int k = 0; k < b->count; k++) {
            if (b->scenes[k].width > widest) widest = b->scenes[k].width;
            if (b->scenes[k].height > highest) highest = b->scenes[k].height;
        }
        for (int k = 0; k < b->count; k++)
            if (b->scenes[k].image_id == 15)
                choices[2 * b->scenes[k].choice.flip + (b->scenes[k].choice.min_size == 40)]++;
        wrong += b->width != (widest + 31) / 32 * 32 || b->height != (highest + 31) / 32 * 32;
        seen += b->count;
    }
    tap_ok(choices[0] < 6 && choices[1] < 6 && choices[2] < 6 && choices[3] < 6,
           "a photograph is drawn otherwise from epoch to epoch");
    tap_ok(!wrong && seen == 42, "batches are as large as their largest, to multiples of 32");
    mabn_scene_loader_free(loader);
}

/* ---- files without annotations; files that are bad ---- */

static void test_files(void)
{
    char folder[] = "/tmp/test_scene.XXXXXX", path[3][100];
    static const char *const names[] = {"000000000139.PNG", "12.png", "7.jpg"};
    struct mabn_scene_set *set;
    struct mabn_scene_loader_options o;
    struct mabn_scene_loader *loader;
    const struct mabn_scene_batch *b;
    char name[40];
    int w, h;
    if (!mkdtemp(folder)) exit(1);
    tap_fails(mabn_scene_set_scan(&set, folder, NULL), MABN_ERR_NOTFOUND, "has no pictures",
              "none yet");
    for (int i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", folder, names[i]);
        write_picture(path[i], 50 + i, 40, i);
    }
    tap_status(mabn_scene_set_scan(&set, folder, NULL), "a folder of photographs");
    mabn_scene_set_size(set, 1, &w, &h);
    tap_ok(mabn_scene_set_count(set) == 3 && mabn_scene_set_image_id(set, 0) == 139 &&
               mabn_scene_set_image_id(set, 2) == 7 && w == 51 && h == 40 &&
               !strcmp(mabn_scene_set_name(set, 1, name, sizeof name), "12.png"),
           "in order of their names, which are their ids");
    struct mabn_input in;
    if (mabn_input_open(&in, path[1], 0) || mabn_write_file(path[2], in.bytes, in.size / 2, true))
        exit(1);
    mabn_input_release(&in);
    mabn_scene_loader_options_init(&o);
    o.scene = small_options();
    if (mabn_scene_loader_new(&loader, set, &o)) exit(1);
    tap_status(mabn_scene_loader_next(loader, &b), "the first");
    tap_ok(b && b->scenes[0].count == 0 && b->width == 64 && b->height == 64, "has no objects");
    tap_status(mabn_scene_loader_next(loader, &b), "the second");
    tap_fails(mabn_scene_loader_next(loader, &b), MABN_ERR_FORMAT, "photograph 7 '7.jpg'",
              "one cut in half is named");
    mabn_scene_loader_free(loader);
    o.skip_bad = true;
    if (mabn_scene_loader_new(&loader, set, &o)) exit(1);
    int good = 0, bad = 0;
    while (!mabn_scene_loader_next(loader, &b) && b) {
        good += !b->scenes[0].bad;
        bad += b->scenes[0].bad && b->x[100] == 0;
    }
    struct mabn_scene_loader_stats stats;
    mabn_scene_loader_stats(loader, &stats);
    tap_ok(good == 2 && bad == 1 && stats.bad == 1 && stats.scenes == 3, "or passed over");
    mabn_scene_loader_free(loader);
    o.raw = true;
    if (mabn_scene_loader_new(&loader, set, &o)) exit(1);
    bool blank = false;
    while (!mabn_scene_loader_next(loader, &b) && b)
        if (b->scenes[0].bad) blank = !b->raw[0]->new_width && !b->raw[0]->new_height;
    tap_ok(blank, "or of a raw picture only the padding");
    mabn_scene_loader_free(loader);
    mabn_scene_set_free(set);
    if (mabn_write_file(path[0], "hello", 5, true)) exit(1);
    tap_fails(mabn_scene_set_scan(&set, folder, NULL), MABN_ERR_FORMAT, "000000000139.PNG",
              "what is no photograph is named");
    for (int i = 0; i < 3; i++)
        unlink(path[i]);
    rmdir(folder);
}

/* A JPEG of 40 x 24 whose left half is red and right half blue, with EXIF data that ask for it to
 * be turned by a quarter to the right. */
static void write_turned(const char *path)
{
    static const uint8_t exif[] = {0xff, 0xe1, 0, 34, 'E', 'x', 'i', 'f', 0, 0,    'M', 'M',
                                   0,    42,   0, 0,  0,   8,   0,   1,   1, 0x12, 0,   3,
                                   0,    0,    0, 1,  0,   6,   0,   0,   0, 0,    0,   0};
    struct mabn_image image = {0};
    uint8_t *bytes, *all;
    size_t size;
    if (mabn_image_resize_storage(&image, 40, 24, 3)) exit(1);
    memset(image.pixels, 0, 40 * 24 * 3);
    for (int i = 0; i < 40 * 24; i++)
        image.pixels[3 * i + (i % 40 < 20 ? 0 : 2)] = 255;
    if (mabn_image_encode_jpeg(&bytes, &size, &image, 95)) exit(1);
    all = mabn_xmalloc(size + sizeof exif);
    memcpy(all, bytes, 2);
    memcpy(all + 2, exif, sizeof exif);
    memcpy(all + 2 + sizeof exif, bytes + 2, size - 2);
    if (mabn_write_file(path, all, size + sizeof exif, true)) exit(1);
    free(all);
    free(bytes);
    mabn_image_release(&image);
}

static void test_turned(void)
{
    char folder[] = "/tmp/test_scene.XXXXXX", path[100];
    const struct mabn_scene_options o = small_options();
    struct mabn_scene_set *set;
    struct mabn_scene scene = {0};
    float *x = mabn_xmalloc(96 * 96 * 3 * sizeof *x);
    int w, h;
    if (!mkdtemp(folder)) exit(1);
    snprintf(path, sizeof path, "%s/a.jpg", folder);
    write_turned(path);
    for (int turned = 0; turned < 2; turned++) {
        if (mabn_scene_set_scan(&set, folder, NULL)) exit(1);
        if (turned) mabn_scene_set_turn(set);
        mabn_scene_set_size(set, 0, &w, &h);
        struct mabn_scene_maker *maker = mabn_scene_maker_new(set, &o);
        tap_status(
            mabn_scene_make(maker, &scene, 0, (struct mabn_scene_choice){24, false}, x, 96, 96),
            "EXIF data");
        /* red, the last of the three channels, is to the left, or above */
        const float red = 255 - o.mean[2];
        const float upper_right = x[(2 * 96 + w - 3) * 3 + 2],
                    lower_left = x[((h - 3) * 96 + 2) * 3 + 2];
        tap_ok(w == (turned ? 24 : 40) && h == (turned ? 40 : 24) && scene.width == w &&
                   fabsf((turned ? upper_right : lower_left) - red) < 20 &&
                   fabsf((turned ? lower_left : upper_right) - red) > 200,
               turned ? "looked at: turned" : "not looked at: as stored");
        mabn_scene_maker_free(maker);
        mabn_scene_set_free(set);
    }
    unlink(path);
    rmdir(folder);
    free(x);
    mabn_scene_release(&scene);
}

static void test_refusals(void)
{
    const char *text =
        "{\"images\":[{\"id\":1,\"width\":20,\"height\":10,\"file_name\":\"1.png\"}],"
        "\"categories\":[{\"id\":1,\"name\":\"a\"}],\"annotations\":[{\"id\":1,"
        "\"image_id\":1,\"category_id\":1,\"bbox\":[1,2,2,2],\"iscrowd\":0,"
        "\"segmentation\":{\"size\":[20,10],\"counts\":[10,5,185]}}]}";
    const char *path = json_path("refused");
    struct packed p;
    if (mabn_write_file(path, text, strlen(text), true)) exit(1);
    tap_fails(pack(&p, path), MABN_ERR_MISMATCH, "a mask of 10 x 20 pixels",
              "a mask of another size");
    unlink(path);
    unpack(&p);
}

int main(void)
{
    struct packed scenes, poses;
    test_sizes();
    test_options();
    tap_status(pack(&scenes, FOLDER "scenes.json"), "pack the fixture");
    tap_status(pack(&poses, FOLDER "poses.json"), "and the one with keypoints");
    test_targets(&scenes);
    test_run_lengths(&scenes);
    test_short_polygons(&scenes);
    test_flip();
    test_selection(&scenes, &poses);
    test_pixels(&scenes);
    test_raw(&scenes);
    test_sampler(&scenes);
    test_loader(&scenes);
    test_padding(&scenes);
    test_files();
    test_turned();
    test_refusals();
    unpack(&scenes);
    unpack(&poses);
    return tap_done();
}
