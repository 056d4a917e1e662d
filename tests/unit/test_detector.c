/* Descriptions of detectors: JSON, what is refused, norms part by part; and, with $MABN_GOLDEN, every
 * tensor's name, shape, rate and decay against the reference's models (det/names_det_*.tsv). */
#include <unistd.h>

#include "base/mem.h"
#include "device.h"
#include "model/detector_request.h"
#include "tap.h"

static struct mabn_device *device;

/* ---- descriptions ---- */

static void check_json(void)
{
    struct mabn_detector a, b;
    struct mabn_str x, y;
    const struct mabn_detector_request request = {.fpn_width = 64,
                                                  .box_head = MABN_BOX_HEAD_2FC,
                                                  .box_convs = 2,
                                                  .mask_convs = 1,
                                                  .stem_bias = 1,
                                                  .convention = "detectron2",
                                                  .anchors = {8, 16, 32, 64, 128},
                                                  .frozen = 2,
                                                  .min_size = 160,
                                                  .proposals = 500,
                                                  .min_score = 0.1,
                                                  .detections = 7};
    mabn_str_init(&x);
    mabn_str_init(&y);
    tap_status(mabn_detector_init(&a, "mask-rcnn-r34-fpn"), "a detector");
    a.body.expansion = 3;
    tap_status(mabn_detector_request(&a, &request, false), "with everything asked");
    tap_status(mabn_detector_set_norm(&a, "body=frozen,fpn=gn,heads=mabn"), "norms by part");
    mabn_detector_to_json(&a, &x);
    tap_ok(mabn_detector_describes(x.text), "its description is a detector's");
    tap_status(mabn_detector_from_json(&b, x.text), "read back");
    mabn_detector_to_json(&b, &y);
    tap_ok(!strcmp(x.text, y.text), "the same");
    tap_ok(b.max_size == 267 && b.test.proposals == 250,
           "the longer side and the test's proposals "
           "in proportion: %d, %d",
           b.max_size, b.test.proposals);
    mabn_str_clear(&x);
    mabn_detector_norm_text(&b, &x);
    tap_ok(!strcmp(x.text, "body=frozen,fpn=gn,box=mabn,mask=mabn"), "%s", x.text);
    b.mask.window = 5;
    b.mask.window_rule = MABN_WINDOW_SUBBATCH;
    tap_status(mabn_detector_set_norm(&b, "mabn"), "the same norm again");
    tap_ok(b.mask.window == 5 && b.mask.window_rule == MABN_WINDOW_SUBBATCH,
           "a head that keeps its norm keeps its settings");
    tap_ok(b.fpn.window == 16 && b.fpn.window_rule == MABN_WINDOW_ITERATION,
           "another has a detector's defaults");
    mabn_str_release(&x);
    mabn_str_release(&y);
}

static void check_refusals(void)
{
    static const char *const bad[] = {
        "{}",
        "[]",
        "{\"arch\":\"resnet50\"}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"fpn_width\":0}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"classes\":1000000}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"convention\":\"none\"}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"convention\":\"torchvision and more\"}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"nms\":7}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"anchor_size\":[1,2,3,4,5,6]}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"box_head\":\"3fc\"}",
        "{\"arch\":\"mask-rcnn-r50-fpn\",\"body\":\"{\\\"arch\\\":\\\"x\\\"}\"}",
    };
    struct mabn_detector d;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        tap_ok(mabn_detector_from_json(&d, bad[i]) != MABN_OK, "refused: %s", bad[i]);
    tap_ok(mabn_detector_init(&d, "mask-rcnn-r20-fpn") != MABN_OK, "an unknown body");
    if (mabn_detector_init(&d, "faster-rcnn-r50-fpn")) abort();
    tap_ok(mabn_detector_set_norm(&d, "tail=bn") != MABN_OK, "an unknown part");
    const struct mabn_detector_request wider = {.fpn_width = 32,
                                                .box_head = -1,
                                                .box_convs = -1,
                                                .mask_convs = -1,
                                                .stem_bias = -1,
                                                .frozen = -1,
                                                .min_score = -1};
    tap_ok(mabn_detector_request(&d, &wider, true) != MABN_OK, "another width for weights");
}

/* ---- the reference's tensors ---- */

static bool shape_is(const struct mabn_shape *shape, const char *text)
{
    char own[64] = "";
    size_t n = 0;
    for (int i = 0; i < shape->rank; i++)
        n += (size_t)snprintf(own + n, sizeof own - n, "%s%lld", i ? "x" : "",
                              (long long)shape->dim[i]);
    return !strcmp(shape->rank ? own : "scalar", text);
}

static bool row_fits(const struct mabn_params_tensor *t, const char *shape, const char *kind,
                     const char *rate, const char *decay)
{
    if (!shape_is(&t->shape, shape)) return false;
    if (!strcmp(kind, "buffer")) return t->role == MABN_PARAMS_STATE;
    if (t->role != MABN_PARAMS_VALUE) return false;
    if (!strcmp(rate, "-")) return !t->trains;
    return t->trains && t->rate == atof(rate) && t->decays == (atof(decay) > 0);
}

static void check_names(const char *folder, const char *name, const char *norm,
                        const struct mabn_detector_request *request, bool early)
{
    struct mabn_params *params;
    struct mabn_detector d;
    char path[512], line[512];
    int rows = 0, wrong = 0, values = 0;
    if (mabn_detector_init(&d, "mask-rcnn-r50-fpn") || mabn_detector_request(&d, request, false) ||
        mabn_detector_set_norm(&d, norm) || mabn_params_new(&params, device))
        abort();
    d.body.stride_in_1x1 = early;
    tap_status(mabn_detector_declare(params, device, &d, true), "%s: declared", name);
    snprintf(path, sizeof path, "%s/det/names_det_%s.tsv", folder, name);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        char tensor[160], shape[64], type[32], kind[32], rate[32], decay[32];
        if (line[0] == '#' ||
            sscanf(line, "%159s %63s %31s %31s %31s %31s", tensor, shape, type, kind, rate,
                   decay) != 6 ||
            !strcmp(tensor, "name") || strstr(tensor, "anchor_generator"))
            continue;
        int i = mabn_params_find(params, tensor, MABN_PARAMS_VALUE);
        if (i < 0) i = mabn_params_find(params, tensor, MABN_PARAMS_STATE);
        rows++;
        if (i >= 0 && row_fits(mabn_params_at(params, i), shape, kind, rate, decay)) continue;
        if (wrong++ < 5) printf("# %s", line);
    }
    for (int i = 0; i < mabn_params_count(params); i++)
        values += mabn_params_at(params, i)->role <= MABN_PARAMS_STATE;
    tap_ok(f && !wrong && rows == values, "%s: %d tensors as in the reference, %d of our own", name,
           rows, values - rows);
    if (f) fclose(f);
    mabn_params_free(params);
}

static void check_reference(void)
{
    const char *folder = getenv("MABN_GOLDEN");
    struct mabn_detector_request conv = MABN_DETECTOR_REQUEST_INIT, fc = conv, bias = conv,
                                 frozen = conv;
    char path[512];
    snprintf(path, sizeof path, "%s/det/names_det_mabn.tsv", folder ? folder : "");
    if (!folder || access(path, R_OK)) {
        tap_skip("MABN_GOLDEN names no folder with det/names_det_mabn.tsv");
        return;
    }
    bias.stem_bias = 1;
    fc.box_head = MABN_BOX_HEAD_2FC;
    fc.frozen = 2;
    frozen.frozen = 2;
    check_names(folder, "mabn", "mabn", &conv, true);
    check_names(folder, "syncbn", "syncbn", &bias, true);
    check_names(folder, "frozenbn_1x", "frozen", &fc, true);
    check_names(folder, "gn", "gn", &fc, false);
    check_names(folder, "gn_xconv1fc", "gn", &frozen, false);
    check_names(folder, "gn_scratch_xconv1fc", "gn", &conv, false);
}

int main(void)
{
    if (mabn_device_new(&device, MABN_DEVICE_CPU, 2)) return 1;
    check_json();
    check_refusals();
    check_reference();
    mabn_device_free(device);
    return tap_done();
}
