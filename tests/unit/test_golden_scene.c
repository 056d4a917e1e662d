/* Scenes compared with the authors' own pipeline on COCO photographs: sizes, ground truth, resized
 * and flipped pixels and the network's input, all to the bit.
 *
 * $MABN_GOLDEN names a folder with det/det_transforms.h5 and det/dialect_ops.h5, and $MABN_SHARED
 * one with the photographs (data/coco-tiny). */
#include <dirent.h>
#include <unistd.h>

#include <zlib.h>

#include "h5array.h"

#include "base/file.h"
#include "base/mem.h"
#include "coco/dataset.h"
#include "data/scene.h"
#include "store/dataset.h"

/* ---- sizes ---- */

static void check_sizes(hid_t file, const char *name, int min, int max)
{
    struct mabn_scene_options o;
    int wrong = 0, w, h;
    char path[100];
    if (mabn_scene_preset(&o, "legacy", false)) exit(1);
    o.max_size = max;
    snprintf(path, sizeof path, "size/%s/in_wh", name);
    struct h5array in = h5array_read(file, path);
    snprintf(path, sizeof path, "size/%s/out_wh", name);
    struct h5array out = h5array_read(file, path);
    for (size_t i = 0; i < in.shape[0]; i++) {
        mabn_scene_size(&o, min, (int)in.values[2 * i], (int)in.values[2 * i + 1], &w, &h);
        wrong += w != (int)out.values[2 * i] || h != (int)out.values[2 * i + 1];
    }
    tap_ok(!wrong && in.shape[0] > 0, "%s: %d sizes", name, (int)in.shape[0]);
    free(in.values);
    free(out.values);
}

static void check_other_sizes(hid_t file)
{
    struct mabn_scene_options d2, tv;
    int wrong = 0, w, h;
    if (mabn_scene_preset(&d2, "detectron2", false) || mabn_scene_preset(&tv, "torchvision", false))
        exit(1);
    struct h5array table = h5array_read(file, "sizes/table");
    for (size_t i = 0; i < table.shape[0]; i++) {
        const float *row = table.values + 8 * i;
        d2.max_size = tv.max_size = (int)row[3];
        mabn_scene_size(&d2, (int)row[2], (int)row[1], (int)row[0], &w, &h);
        wrong += h != (int)row[4] || w != (int)row[5];
        mabn_scene_size(&tv, (int)row[2], (int)row[1], (int)row[0], &w, &h);
        wrong += h != (int)row[6] || w != (int)row[7];
    }
    tap_ok(!wrong && table.shape[0] > 0, "detectron2 and torchvision: %d sizes",
           (int)table.shape[0]);
    free(table.values);
}

/* ---- photographs ---- */

struct photographs {
    const char *shared;
    char packed[100];
    struct mabn_dataset *dataset;
    struct mabn_scene_set *set;
};

static bool open_photographs(struct photographs *p, const char *split)
{
    const struct mabn_coco_pack_options options = {.threads = 2};
    char folder[4096], annotations[4096];
    snprintf(folder, sizeof folder, "%s/data/coco-tiny/%s", p->shared, split);
    snprintf(annotations, sizeof annotations, "%s/data/coco-tiny/annotations/instances_%s.json",
             p->shared, split);
    snprintf(p->packed, sizeof p->packed, "/tmp/test_golden_scene.%d.h5", (int)getpid());
    const struct mabn_pack_output out = {p->packed, true, "test", "test"};
    mabn_status status = mabn_coco_pack(&out, folder, annotations, &options);
    if (!status) status = mabn_dataset_open(&p->dataset, p->packed);
    if (!status) status = mabn_scene_set_open(&p->set, p->dataset);
    tap_status(status, "pack %s", split);
    return !status;
}

static void close_photographs(struct photographs *p)
{
    mabn_scene_set_free(p->set);
    mabn_dataset_free(p->dataset);
    unlink(p->packed);
    p->set = NULL;
    p->dataset = NULL;
}

static bool find(const struct mabn_scene_set *set, int64_t image, uint64_t *sample)
{
    for (*sample = 0; *sample < mabn_scene_set_count(set); ++*sample)
        if (mabn_scene_set_image_id(set, *sample) == image) return true;
    return false;
}

static int differ(const float *got, size_t n, hid_t group, const char *name)
{
    struct h5array want = h5array_read(group, name);
    const int wrong = want.count != n || memcmp(got, want.values, n * sizeof *got) != 0;
    free(want.values);
    return wrong;
}

/* The ground truth in coordinates of the photograph itself. */
static void check_target(const struct mabn_scene_set *set, uint64_t sample, hid_t group,
                         const char *name)
{
    struct mabn_scene_options o;
    float *boxes = NULL, *labels = NULL;
    size_t first, end, n = 0;
    int width, height;
    if (mabn_scene_preset(&o, "legacy", false)) exit(1);
    mabn_scene_set_records(set, sample, &first, &end);
    mabn_scene_set_size(set, sample, &width, &height);
    boxes = mabn_xcalloc(end - first + 1, 4 * sizeof *boxes);
    labels = mabn_xcalloc(end - first + 1, sizeof *labels);
    for (size_t i = first; i < end; i++) {
        labels[n] = (float)mabn_scene_set_category(set, i) + 1;
        n +=
            mabn_scene_box(&o, &mabn_scene_set_coco(set)->records[i], width, height, boxes + 4 * n);
    }
    tap_ok(!differ(boxes, 4 * n, group, "target/boxes") &&
               !differ(labels, n, group, "target/labels"),
           "%s: %d boxes and labels", name, (int)n);
    free(boxes);
    free(labels);
}

/* Compare the lists of offsets, as floats, with poly_ptr and inst_ptr. */
static int differ_lists(const struct mabn_scene *s, hid_t group)
{
    const size_t polygons = s->first_polygon[s->count];
    float *list = mabn_xcalloc(polygons + (size_t)s->count + 2, sizeof *list);
    for (int i = 0; i <= s->count; i++)
        list[i] = (float)s->first_polygon[i];
    int wrong = differ(list, (size_t)s->count + 1, group, "inst_ptr");
    for (size_t i = 0; i <= polygons; i++)
        list[i] = (float)s->first_number[i];
    wrong += differ(list, polygons + 1, group, "poly_ptr");
    free(list);
    return wrong;
}

static void check_boxes(const struct mabn_scene *s, hid_t group, const char *name)
{
    const size_t numbers = s->first_number[s->first_polygon[s->count]];
    tap_ok(!differ(s->boxes, 4 * (size_t)s->count, group, "boxes"), "%s: boxes", name);
    tap_ok(!differ(s->numbers, numbers, group, "xy") && !differ_lists(s, group),
           "%s: %d numbers of polygons", name, (int)numbers);
}

/* Converted back to R, G, B bytes, the input has the recorded checksum. */
static void check_pixels(const struct mabn_scene_options *o, const struct mabn_scene *s,
                         const float *x, int padded, hid_t group, const char *path,
                         const char *name)
{
    uint32_t want = 0;
    uint8_t *bytes = mabn_xmalloc((size_t)s->width * s->height * 3), *to = bytes;
    int off = 0;
    for (int y = 0; y < s->height; y++)
        for (int k = 0; k < 3 * s->width; k++, to++) {
            const int c = 2 - k % 3;
            const float v = x[(size_t)y * padded * 3 + k / 3 * 3 + c];
            *to = (uint8_t)lrintf(v + o->mean[c]);
            off += (float)*to - o->mean[c] != v;
        }
    hid_t set = H5Dopen2(group, path, H5P_DEFAULT);
    if (set < 0 || H5Dread(set, H5T_NATIVE_UINT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, &want) < 0)
        h5array_bail("data set", path);
    H5Dclose(set);
    tap_ok(!off && crc32(0, bytes, (uInt)(to - bytes)) == want, "%s: every pixel of %d x %d", name,
           s->width, s->height);
    free(bytes);
}

/* Every 16th value of a (3,H,W) tensor. */
static void check_tensor(const struct mabn_scene *s, const float *x, int padded, hid_t group,
                         const char *name)
{
    struct h5array want = h5array_read(group, "tensor_sample16");
    const int h = (int)want.shape[1], w = (int)want.shape[2];
    int wrong = h != (s->height + 15) / 16 || w != (s->width + 15) / 16;
    for (int c = 0; !wrong && c < 3; c++)
        for (int y = 0; y < h; y++)
            for (int i = 0; i < w; i++)
                wrong += want.values[(c * h + y) * w + i] !=
                         x[((size_t)y * 16 * padded + (size_t)i * 16) * 3 + c];
    tap_ok(!wrong, "%s: the network's input", name);
    free(want.values);
}

static void check_scale(const struct mabn_scene_set *set, uint64_t sample, hid_t group, int min,
                        int max, const char *name)
{
    struct mabn_scene_options o;
    struct mabn_scene scene = {0};
    char title[100];
    if (mabn_scene_preset(&o, "legacy", false)) exit(1);
    o.max_size = max;
    struct mabn_scene_maker *maker = mabn_scene_maker_new(set, &o);
    enum { PADDED = 1408 };
    float *x = mabn_xcalloc((size_t)PADDED * PADDED * 3, sizeof *x);
    for (int flip = 0; flip < 2; flip++) {
        const struct mabn_scene_choice choice = {min, flip};
        snprintf(title, sizeof title, "%s at %d%s", name, min, flip ? ", flipped" : "");
        tap_status(mabn_scene_make(maker, &scene, sample, choice, x, PADDED, PADDED), "%s", title);
        hid_t at = flip ? H5Gopen2(group, "hflip", H5P_DEFAULT) : group;
        check_boxes(&scene, at, title);
        check_pixels(&o, &scene, x, PADDED, at, flip ? "crc32" : "resized/crc32", title);
        if (!flip) check_tensor(&scene, x, PADDED, group, title);
        if (flip) H5Gclose(at);
    }
    free(x);
    mabn_scene_release(&scene);
    mabn_scene_maker_free(maker);
}

/* How many of the recorded photographs this set has. */
static int check_photographs(const struct mabn_scene_set *set, hid_t file)
{
    int found = 0;
    for (int i = 0; i < 100; i++) {
        char name[40];
        uint64_t sample;
        snprintf(name, sizeof name, "image%d", i);
        if (H5Lexists(file, name, H5P_DEFAULT) <= 0) break;
        hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
        int64_t id = 0;
        hid_t at = H5Dopen2(group, "image_id", H5P_DEFAULT);
        H5Dread(at, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &id);
        H5Dclose(at);
        if (find(set, id, &sample)) {
            found++;
            check_target(set, sample, group, name);
            static const int scales[][2] = {{192, 320}, {800, 1333}};
            for (int k = 0; k < 2; k++) {
                char scale[20];
                snprintf(scale, sizeof scale, "s%d", scales[k][0]);
                hid_t sub = H5Gopen2(group, scale, H5P_DEFAULT);
                check_scale(set, sample, sub, scales[k][0], scales[k][1], name);
                H5Gclose(sub);
            }
        }
        H5Gclose(group);
    }
    return found;
}

/* ---- torchvision's resize in float32 ---- */

static void check_torchvision_image(const struct mabn_scene_set *set, uint64_t sample, hid_t group,
                                    int row, int column)
{
    struct mabn_scene_options o;
    struct mabn_scene scene = {0};
    if (mabn_scene_preset(&o, "torchvision", false)) exit(1);
    struct h5array hw = h5array_read(group, "hw"), sizes = h5array_read(group, "min_max"),
                   want = h5array_read(group, "sample");
    o.max_size = (int)sizes.values[1];
    struct mabn_scene_maker *maker = mabn_scene_maker_new(set, &o);
    enum { PADDED = 1408 };
    float *x = mabn_xcalloc((size_t)PADDED * PADDED * 3, sizeof *x);
    const struct mabn_scene_choice choice = {(int)sizes.values[0], false};
    tap_status(mabn_scene_make(maker, &scene, sample, choice, x, PADDED, PADDED), "torchvision");
    int wrong = scene.height != (int)hw.values[0] || scene.width != (int)hw.values[1];
    const int h = (int)want.shape[1], w = (int)want.shape[2];
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < h; y++)
            for (int i = 0; i < w; i++)
                wrong += want.values[(c * h + y) * w + i] !=
                         x[((size_t)y * row * PADDED + (size_t)i * column) * 3 + c];
    tap_ok(!wrong, "torchvision's input of %d x %d (%d of %d differ)", scene.width, scene.height,
           wrong, (int)want.count);
    free(x);
    free(hw.values);
    free(sizes.values);
    free(want.values);
    mabn_scene_release(&scene);
    mabn_scene_maker_free(maker);
}

static void check_torchvision(const struct mabn_scene_set *set, hid_t file)
{
    static const int steps[3][2] = {{20, 28}, {10, 8}, {4, 6}}; /* of the samples, as the file's
                                                                 * "about" attribute says */
    for (int i = 0; i < 3; i++) {
        char path[40], name[17] = "";
        uint64_t sample;
        snprintf(path, sizeof path, "tv_resize/%d", i);
        hid_t group = H5Gopen2(file, path, H5P_DEFAULT);
        if (group < 0) h5array_bail("group", path);
        hid_t at = H5Dopen2(group, "file_name", H5P_DEFAULT), type = H5Dget_type(at);
        H5Dread(at, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, name);
        H5Tclose(type);
        H5Dclose(at);
        if (find(set, atoll(name), &sample))
            check_torchvision_image(set, sample, group, steps[i][0], steps[i][1]);
        H5Gclose(group);
    }
}

static hid_t open_golden(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/det/%s", folder, name);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    tap_ok(file >= 0, "open %s", path);
    return file;
}

int main(void)
{
    const char *folder = getenv("MABN_GOLDEN");
    struct photographs p = {.shared = getenv("MABN_SHARED")};
    if (!folder || !*folder) {
        tap_skip("MABN_GOLDEN is not set");
        return tap_done();
    }
    hid_t transforms = open_golden(folder, "det_transforms.h5");
    hid_t dialects = open_golden(folder, "dialect_ops.h5");
    if (transforms < 0 || dialects < 0) return tap_done();
    check_sizes(transforms, "min800_max1333", 800, 1333);
    check_sizes(transforms, "min600_max1000", 600, 1000);
    check_sizes(transforms, "min192_max320", 192, 320);
    check_other_sizes(dialects);
    if (!p.shared || !*p.shared) {
        tap_skip("MABN_SHARED is not set: no photographs");
    } else {
        static const char *const splits[] = {"train2017", "val2017"};
        int found = 0;
        for (int i = 0; i < 2; i++) {
            if (open_photographs(&p, splits[i])) {
                found += check_photographs(p.set, transforms);
                check_torchvision(p.set, dialects);
            }
            close_photographs(&p);
        }
        tap_ok(found > 0, "%d photographs", found);
    }
    H5Fclose(transforms);
    H5Fclose(dialects);
    return tap_done();
}
