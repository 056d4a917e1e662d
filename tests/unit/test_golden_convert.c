/* Detectors of torchvision and detectron2, converted and run: their detections in the recorded
 * pictures are compared with those of the original programs. Converted back, the tensors have their
 * old names and the same bits.
 *
 * $MABN_GOLDEN names a folder with det/tv_v1.h5, det/tv_v1.pth and so on. The weights are random
 * and amplify rounding, so a recording says for each mask how many pixels are near the threshold. */
#include <hdf5.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "device/device.h"
#include "exchange/convert.h"
#include "h5array.h"
#include "model/rcnn.h"
#include "model/model_file.h"

static hid_t file;
static struct mabn_device *device;
static char folder[512], converted[64];

#define get(...) h5array_read(file, h5array_name(__VA_ARGS__))

/* ---- what was found ---- */

/* The nearest detection to the box that has this label and is not taken yet; -1: none. */
static int64_t nearest(const struct mabn_detections *d, const bool *taken, int32_t label,
                       const float *box, double *distance)
{
    int64_t best = -1;
    for (int64_t i = 0; i < d->count; i++) {
        double far = 0;
        if (taken[i] || d->label[i] != label) continue;
        for (int k = 0; k < 4; k++)
            far = fmax(far, fabs((double)d->box[4 * i + k] - box[k]));
        if (best < 0 || far < *distance) {
            best = i;
            *distance = far;
        }
    }
    return best;
}

/* The number of pixels in which two masks differ. */
static double pixels_apart(const struct mabn_rle *got, const char *text, size_t n)
{
    struct mabn_rle want;
    mabn_rle_init(&want);
    if (mabn_rle_from_string(&want, text, n, got->height, got->width)) abort();
    const double both = (double)(mabn_rle_area(got) + mabn_rle_area(&want));
    const double iou = both > 0 ? mabn_rle_iou(got, &want, false) : 1;
    mabn_rle_release(&want);
    return both * (1 - iou) / (1 + iou);
}

/* torchvision pastes a mask of 28×28 into whole pixels of the box that is larger by 2/28, whose edges it
 * truncates. Where the boxes' difference `far` can move an edge to another pixel, the masks differ
 * everywhere. */
static bool is_at_pixel_edge(const float *box, double far)
{
    for (int k = 0; k < 2; k++) {
        const double a = (double)box[k], b = (double)box[k + 2];
        const double centre = (a + b) / 2, half = (b - a) / 2 * (30.0 / 28);
        const double low = centre - half, high = centre + half, margin = 2 * far + 1e-4;
        if (fabs(low - nearbyint(low)) < margin || fabs(high - nearbyint(high)) < margin)
            return true;
    }
    return false;
}

static void compare(const char *what, const char *group, const struct mabn_rcnn_found *found,
                    bool background_last)
{
    struct h5array boxes = get("%s/boxes", group), scores = get("%s/scores", group),
                   labels = get("%s/%s", group, background_last ? "classes" : "labels"),
                   near = get("%s/mask_near", group);
    const struct mabn_detections *d = &found->boxes;
    char name[96];
    size_t each, strange = 0, masks = 0, compared = 0;
    double box = 0, score = 0;
    bool *taken = mabn_xcalloc((size_t)d->count + 1, sizeof *taken);
    snprintf(name, sizeof name, "%s/rle_counts", group);
    char *rle = h5array_strings(file, &each, name);
    for (size_t i = 0; i < scores.count; i++) {
        double far = 0;
        const int64_t at = nearest(d, taken, (int32_t)labels.values[i] + background_last,
                                   boxes.values + 4 * i, &far);
        if (at < 0 || far > 0.05) {
            strange++;
            continue;
        }
        taken[at] = true;
        box = fmax(box, far);
        score = fmax(score, fabs((double)d->score[at] - scores.values[i]));
        if (!background_last && is_at_pixel_edge(boxes.values + 4 * i, far)) continue;
        const char *text = rle + i * each;
        compared++;
        masks +=
            pixels_apart(&found->masks[at], text, strnlen(text, each)) > (double)near.values[i] + 2;
    }
    tap_ok((size_t)d->count == scores.count && !strange,
           "%s: %lld detections, %zu recorded, %zu of them not found; boxes within %.1e pixels",
           what, (long long)d->count, scores.count, strange, box);
    tap_ok(score < 5e-4, "%s: scores within %.1e", what, score);
    tap_ok(!masks && compared > scores.count * 3 / 4,
           "%s: %zu of %zu masks differ where the maps are not near the threshold", what, masks,
           compared);
    free(taken);
    free(rle);
    free(boxes.values);
    free(scores.values);
    free(labels.values);
    free(near.values);
}

/* ---- a converted model ---- */

static void convert(const char *from, const char *to, const struct mabn_convert_options *options)
{
    struct mabn_convert *c;
    struct mabn_str lines;
    mabn_str_init(&lines);
    if (mabn_convert_open(&c, from, options) ||
        mabn_convert_write(c, to, MABN_WEIGHTS_HDF5, true, "", "", NULL)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    tap_ok(mabn_convert_complain(c, 0, &lines) == 0, "%s: every tensor has its place%s", from,
           lines.text);
    mabn_convert_free(c);
    mabn_str_release(&lines);
}

static void detect(struct mabn_rcnn *rcnn, const char *image, struct mabn_rcnn_found *found)
{
    struct h5array x = get("%s/input", image), size = get("%s/resized_hw", image),
                   original = get("%s/original_hw", image);
    const struct mabn_rcnn_image network = {.width = (int)size.values[1],
                                            .height = (int)size.values[0]};
    const struct mabn_rcnn_size whole = {(int)original.values[1], (int)original.values[0]};
    struct mabn_rcnn_figures figures;
    float *input;
    if (mabn_rcnn_input(rcnn, &input, 1, (int)x.shape[2], (int)x.shape[3])) abort();
    to_nhwc(input, x.values, 1, 3, (size_t)(x.shape[2] * x.shape[3]));
    if (mabn_rcnn_detect(rcnn, &network, &whole, found, &figures)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    free(x.values);
    free(size.values);
    free(original.values);
}

/* group: of the recording, before or after the image's name. */
static void run(const char *name, const char *before, const char *after)
{
    const struct mabn_rcnn_options options = {.images = 1, .no_fold = true};
    const struct mabn_model_load load = {.momentum = false};
    struct mabn_model_file model;
    struct mabn_params *params;
    struct mabn_rcnn *rcnn;
    if (mabn_model_file_open(&model, converted) || mabn_params_new(&params, device) ||
        mabn_detector_declare(params, device, &model.detector, false) ||
        mabn_model_file_load(&model, params, &load) ||
        mabn_rcnn_new(&rcnn, device, &model.detector, params, &options)) {
        printf("Bail out! %s\n", mabn_error_message());
        exit(1);
    }
    for (int i = 0; i < 2; i++) {
        struct mabn_rcnn_found found = {0};
        char what[64], image[16], group[64];
        snprintf(image, sizeof image, "image%d", i);
        snprintf(group, sizeof group, "%s%s%s", before, image, after);
        snprintf(what, sizeof what, "%s %s%s", name, before, image);
        detect(rcnn, image, &found);
        compare(what, group, &found, !strcmp(model.detector.convention, "detectron2"));
        mabn_rcnn_found_release(&found);
    }
    mabn_rcnn_free(rcnn);
    mabn_params_free(params);
    mabn_model_file_release(&model);
}

/* Back to the program's own names: the same tensors. `apart` are those in only one of the files,
 * such as counters, or a convolution whose older name differs from ours. */
static void check_back(const char *from, int names, size_t apart)
{
    struct mabn_convert_options options;
    struct mabn_convert *c;
    struct mabn_compare result;
    struct mabn_str lines;
    char back[80];
    mabn_convert_options_init(&options);
    options.to = names;
    options.weights_only = true;
    snprintf(back, sizeof back, "%s.back", converted);
    mabn_str_init(&lines);
    if (mabn_convert_open(&c, converted, &options)) {
        tap_ok(false, "%s: %s", from, mabn_error_message());
        return;
    }
    const enum mabn_weights_format format =
        strstr(from, ".pkl") ? MABN_WEIGHTS_PICKLE : MABN_WEIGHTS_TORCH;
    tap_status(mabn_convert_write(c, back, format, true, "", "", NULL), "%s: written back", from);
    mabn_convert_free(c);
    tap_status(mabn_compare_weights(from, back, 0, 0, &result, &lines), "%s: compared", from);
    tap_ok(result.tensors > 200 && !result.differing && result.missing == apart,
           "%s: of %zu tensors %zu differ, %zu are only in one", from, result.tensors,
           result.differing, result.missing);
    free(result.worst);
    mabn_str_release(&lines);
    unlink(back);
}

static bool open_recording(const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/det/%s.h5", folder, name);
    if (access(path, R_OK)) return false;
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) h5array_bail("recording", path);
    return true;
}

static void check(const char *recording, const char *weights, double frozen_eps, int names,
                  size_t apart)
{
    struct mabn_convert_options options;
    char path[600];
    if (!open_recording(recording)) {
        tap_skip("%s is not there", recording);
        return;
    }
    mabn_convert_options_init(&options);
    options.frozen_eps = frozen_eps;
    snprintf(path, sizeof path, "%s/det/%s", folder, weights);
    convert(path, converted, &options);
    if (frozen_eps > 0)
        run(weights, "eps1e-5/", "");
    else
        run(weights, "", "/final");
    H5Fclose(file);
    check_back(path, names, apart);
}

int main(void)
{
    if (!getenv("MABN_GOLDEN")) {
        tap_skip("MABN_GOLDEN names no folder of recordings");
        return tap_done();
    }
    snprintf(folder, sizeof folder, "%s", getenv("MABN_GOLDEN"));
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    snprintf(converted, sizeof converted, "/tmp/mabn-test-convert-%d.h5", (int)getpid());
    if (mabn_device_new(&device, MABN_DEVICE_CPU, 2)) return 1;
    check("tv_v1", "tv_v1.pth", -1, MABN_NAMES_TORCHVISION, 0);
    check("tv_v1", "tv_v1_old.pth", -1, MABN_NAMES_TORCHVISION, 4);
    check("tv_v1", "tv_v1.pth", 1e-5, MABN_NAMES_TORCHVISION, 53);
    check("tv_v2", "tv_v2.pth", -1, MABN_NAMES_TORCHVISION, 0);
    check("d2", "d2.pth", -1, MABN_NAMES_DETECTRON2, 0);
    check("d2", "d2.pkl", -1, MABN_NAMES_DETECTRON2, 0);
    check("d2", "d2_old.pkl", -1, MABN_NAMES_DETECTRON2, 5);
    unlink(converted);
    mabn_device_free(device);
    return tap_done();
}
