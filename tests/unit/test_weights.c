/* Weights in other formats: names, containers, types, views, notes. Every format is written and
 * read back. Files made by PyTorch and numpy (tests/fuzz/corpus) are read whole and cut at every
 * byte. */
#include <unistd.h>
#include <zlib.h>

#include "base/mem.h"
#include "base/rng.h"
#include "exchange/names.h"
#include "exchange/pickle.h"
#include "exchange/weights.h"
#include "exchange/zip.h"
#include "tap.h"

#define SEEDS "tests/fuzz/corpus/"

/* ---- names ---- */

static void check_ours(enum mabn_names names, const char *theirs, const char *want)
{
    char *ours = mabn_names_to_ours(names, theirs);
    tap_str_eq(ours ? ours : "-", want, "our name of %s", theirs);
    free(ours);
}

static void test_names(void)
{
    static const struct {
        enum mabn_names names;
        const char *theirs, *ours;
    } rows[] = {
        {MABN_NAMES_CAFFE2, "conv1_w", "conv1.weight"},
        {MABN_NAMES_CAFFE2, "res_conv1_bn_s", "bn1.weight"},
        {MABN_NAMES_CAFFE2, "res_conv1_bn_b", "bn1.bias"},
        {MABN_NAMES_CAFFE2, "res_conv1_bn_beta", "bn1.bias"},
        {MABN_NAMES_CAFFE2, "conv1_gn_s", "bn1.weight"},
        {MABN_NAMES_CAFFE2, "res2_0_branch2a_w", "layer1.0.conv1.weight"},
        {MABN_NAMES_CAFFE2, "res4_22_branch2c_w", "layer3.22.conv3.weight"},
        {MABN_NAMES_CAFFE2, "res5_2_branch2b_bn_s", "layer4.2.bn2.weight"},
        {MABN_NAMES_CAFFE2, "res3_0_branch1_w", "layer2.0.downsample.0.weight"},
        {MABN_NAMES_CAFFE2, "res3_0_branch1_bn_b", "layer2.0.downsample.1.bias"},
        {MABN_NAMES_CAFFE2, "res3_1_branch2a_bn_running_var", "layer2.1.bn1.running_var"},
        {MABN_NAMES_CAFFE2, "res3_1_branch2a_bn_gamma", "layer2.1.bn1.weight"},
        {MABN_NAMES_CAFFE2, "fpn_inner_res2_2_sum_lateral_w", "backbone.fpn.fpn_inner1.weight"},
        {MABN_NAMES_CAFFE2, "fpn_inner_res5_2_sum_b", "backbone.fpn.fpn_inner4.bias"},
        {MABN_NAMES_CAFFE2, "fpn_res4_5_sum_w", "backbone.fpn.fpn_layer3.weight"},
        {MABN_NAMES_CAFFE2, "conv_rpn_fpn2_w", "rpn.head.conv.weight"},
        {MABN_NAMES_CAFFE2, "_[mask]_fcn4_b", "roi_heads.mask.feature_extractor.mask_fcn4.bias"},
        {MABN_NAMES_CAFFE2, "fc6_w", "roi_heads.box.feature_extractor.fc6.weight"},
        {MABN_NAMES_CAFFE2, "res2_0_branch2d_w", "-"},
        {MABN_NAMES_CAFFE2, "res2_00_branch2a_w", "-"},
        {MABN_NAMES_TORCHVISION, "backbone.body.conv1.weight", "backbone.body.stem.conv1.weight"},
        {MABN_NAMES_TORCHVISION, "backbone.fpn.inner_blocks.3.0.bias",
         "backbone.fpn.fpn_inner4.bias"},
        {MABN_NAMES_TORCHVISION, "backbone.fpn.layer_blocks.0.1.running_mean",
         "backbone.fpn.fpn_layer1.1.running_mean"},
        {MABN_NAMES_TORCHVISION, "backbone.fpn.layer_blocks.0.weight",
         "backbone.fpn.fpn_layer1.weight"},
        {MABN_NAMES_TORCHVISION, "rpn.head.conv.1.0.bias", "rpn.head.conv.1.bias"},
        {MABN_NAMES_TORCHVISION, "roi_heads.box_head.2.1.weight",
         "roi_heads.box.feature_extractor.xconvs.7.weight"},
        {MABN_NAMES_TORCHVISION, "roi_heads.box_head.5.bias",
         "roi_heads.box.feature_extractor.fc6.bias"},
        {MABN_NAMES_TORCHVISION, "roi_heads.mask_head.1.1.bias",
         "roi_heads.mask.feature_extractor.mask_fcn2.1.bias"},
        {MABN_NAMES_TORCHVISION, "roi_heads.mask_head.mask_fcn4.weight",
         "roi_heads.mask.feature_extractor.mask_fcn4.weight"},
        {MABN_NAMES_TORCHVISION, "roi_heads.keypoint_head.0.weight", "-"},
        {MABN_NAMES_DETECTRON2, "proposal_generator.rpn_head.conv.conv1.weight",
         "rpn.head.conv.1.weight"},
        {MABN_NAMES_DETECTRON2, "stem.conv1.norm.running_mean", "bn1.running_mean"},
        {MABN_NAMES_DETECTRON2, "backbone.bottom_up.res3.0.shortcut.norm.bias",
         "layer2.0.downsample.1.bias"},
        {MABN_NAMES_DETECTRON2, "backbone.fpn_lateral5.norm.weight",
         "backbone.fpn.fpn_inner4.1.weight"},
        {MABN_NAMES_DETECTRON2, "roi_heads.box_head.conv3.norm.weight",
         "roi_heads.box.feature_extractor.xconvs.7.weight"},
        {MABN_NAMES_DETECTRON2, "roi_heads.box_head.fc1.weight",
         "roi_heads.box.feature_extractor.fc6.weight"},
        {MABN_NAMES_DETECTRON2, "roi_heads.mask_head.deconv.bias",
         "roi_heads.mask.predictor.conv5_mask.bias"},
        {MABN_NAMES_OURS, "layer4.2.bn3.num_batches_tracked", "layer4.2.bn3.num_batches_tracked"},
        {MABN_NAMES_OURS, "conv1.0.weight", "conv1.0.weight"},
        {MABN_NAMES_OURS, "head.weight", "-"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_ours(rows[i].names, rows[i].theirs, rows[i].ours);
    char *in = mabn_names_into_detector("layer1.0.bn1.weight");
    tap_str_eq(in, "backbone.body.layer1.0.bn1.weight", "into a detector");
    char *out = mabn_names_out_of_detector("backbone.body.stem.bn1.bias");
    tap_str_eq(out, "bn1.bias", "out of a detector");
    tap_ok(!mabn_names_into_detector("fc.weight"), "the classifier is not of the body");
    free(in);
    free(out);
}

/* ---- CRC ---- */

static void test_crc(void)
{
    enum { N = 5000 };
    unsigned char *bytes = mabn_xmalloc(N + 16);
    struct mabn_rng rng;
    int bad = 0;
    mabn_rng_init(&rng, 1, MABN_RNG_TEST, 0, 0);
    for (int i = 0; i < N + 16; i++)
        bytes[i] = (unsigned char)mabn_rng_u32(&rng);
    for (int n = 0; n < N; n += n < 600 ? 1 : 97)
        bad += mabn_crc32((uint32_t)n, bytes + n % 16, (size_t)n) !=
               (uint32_t)crc32((uLong)n, bytes + n % 16, (uInt)n);
    tap_ok(bad == 0, "CRC-32 equals zlib's at every length and alignment");
    free(bytes);
}

/* ---- PyTorch's own files ---- */

static struct mabn_weights *open_ok(const char *path)
{
    struct mabn_weights *w = NULL;
    tap_status(mabn_weights_open(&w, path), "open %s", path);
    return w;
}

static void check_values(struct mabn_weights *w, enum mabn_weight_part part, const char *name,
                         int n, const float *want)
{
    float got[32] = {0};
    int64_t i = mabn_weights_find(w, part, name);
    bool same = i >= 0 && mabn_weights_at(w, (size_t)i)->count == (size_t)n &&
                !mabn_weights_read_f32(w, (size_t)i, got);
    for (int k = 0; k < n; k++)
        same = same && got[k] == want[k];
    tap_ok(same, "values of %s", name);
}
#define VALUES(w, name, ...)                                                  \
    check_values((w), MABN_WEIGHT_MODEL, (name),                              \
                 (int)(sizeof((const float[]){__VA_ARGS__}) / sizeof(float)), \
                 (const float[]){__VA_ARGS__})

static void check_torch(const char *kind)
{
    char path[128];
    snprintf(path, sizeof path, SEEDS "%s/torch_types", kind);
    struct mabn_weights *w = open_ok(path);
    static const struct {
        const char *name;
        enum mabn_dtype dtype;
    } types[] = {{"f", MABN_DTYPE_F32},  {"d", MABN_DTYPE_F64}, {"h", MABN_DTYPE_F16},
                 {"b", MABN_DTYPE_BF16}, {"i", MABN_DTYPE_I64}, {"t", MABN_DTYPE_BOOL},
                 {"u", MABN_DTYPE_U8}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        int64_t k = mabn_weights_find(w, MABN_WEIGHT_MODEL, types[i].name);
        tap_ok(k >= 0 && mabn_weights_at(w, (size_t)k)->dtype == types[i].dtype, "type of %s",
               types[i].name);
    }
    VALUES(w, "d", 0, 1);
    VALUES(w, "h", 0, 1);
    VALUES(w, "b", 0, 1);
    VALUES(w, "i", 1, -1);
    VALUES(w, "t", 1, 0);
    mabn_weights_free(w);

    snprintf(path, sizeof path, SEEDS "%s/torch_views", kind);
    w = open_ok(path);
    VALUES(w, "part", 3, 4, 5, 6, 7, 8);
    VALUES(w, "turned", 0, 6, 12, 18, 1, 7, 13, 19, 2, 8, 14, 20, 3, 9, 15, 21, 4, 10, 16, 22, 5,
           11, 17, 23);
    VALUES(w, "repeated", 0, 1, 0, 1, 0, 1);
    VALUES(w, "scalar", 5);
    int64_t none = mabn_weights_find(w, MABN_WEIGHT_MODEL, "none");
    tap_ok(none >= 0 && mabn_weights_at(w, (size_t)none)->count == 0, "an empty tensor");
    mabn_weights_free(w);

    snprintf(path, sizeof path, SEEDS "%s/torch_training", kind);
    w = open_ok(path);
    tap_str_eq(mabn_weights_stripped(w), "'module.'", "module. was removed");
    check_values(w, MABN_WEIGHT_MOMENTUM, "fc.weight", 4, (const float[]){0, 1, 2, 3});
    tap_str_eq(mabn_weights_note(w, "iteration"), "7", "the iteration");
    tap_str_eq(mabn_weights_note(w, "optimizer.lr"), "0.1", "the learning rate");
    tap_str_eq(mabn_weights_note(w, "scheduler.milestones"), "[1, 2]", "a list of numbers");
    mabn_weights_free(w);
}

static void test_numpy(void)
{
    for (int p = 1; p <= 5; p++) {
        char path[64];
        snprintf(path, sizeof path, SEEDS "pickle/numpy_%d", p);
        struct mabn_weights *w = open_ok(path);
        VALUES(w, "conv1_w", 0, 1, 2, 3, 4, 5, 6, 7);
        VALUES(w, "conv1_b", 1, 2);
        VALUES(w, "t_w", 1, 1, 1, 1, 1, 1);
        VALUES(w, "big", 1, 2);
        mabn_weights_free(w);
    }
}

/* ---- cut files ---- */

static void check_cuts(const char *path)
{
    FILE *f = fopen(path, "rb");
    static unsigned char bytes[1 << 16];
    size_t size = f ? fread(bytes, 1, sizeof bytes, f) : 0, accepted = 0;
    if (f) fclose(f);
    for (size_t n = 0; n < size; n++) {
        unsigned char *cut = mabn_xmalloc(n ? n : 1); /* exact, so that sanitizers see an overrun */
        struct mabn_weights *w;
        memcpy(cut, bytes, n);
        if (!mabn_weights_open_memory(&w, cut, n, "cut")) {
            accepted++;
            mabn_weights_free(w);
        }
        free(cut);
    }
    tap_ok(size > 0 && accepted == 0, "%s cut at each of %zu bytes is refused", path, size);
}

/* ---- written and read back ---- */

enum { TENSORS = 14 };

static struct mabn_weight example(int i)
{
    static const struct mabn_shape shapes[] = {
        {.rank = 4, .dim = {2, 3, 1, 5}},
        {.rank = 0},
        {.rank = 2, .dim = {0, 3}},
        {.rank = 1, .dim = {7}},
    };
    static const char *const names[] = {
        "layer1.0.conv1.weight", "a",   "z.b", "bn1.bias", "t4", "t5", "t6", "t7", "t8", "t9",
        "layer1.0.conv1.weight", "x/y", "t12", "bn1.bias"};
    struct mabn_weight w = {
        .name = names[i], .dtype = (enum mabn_dtype)(i % 10), .shape = shapes[i % 4]};
    if (i == 10 || i == 13) w.part = MABN_WEIGHT_MOMENTUM;
    if (i == 11) w.part = MABN_WEIGHT_OTHER;
    mabn_shape_count(&w.shape, &w.count);
    w.bytes = w.count * mabn_dtype_size(w.dtype);
    return w;
}

static void example_bytes(int i, unsigned char *bytes, size_t n)
{
    for (size_t k = 0; k < n; k++)
        bytes[k] =
            (unsigned char)(example(i).dtype == MABN_DTYPE_BOOL ? k % 2 : 37 * k + (size_t)i);
}

/* A pickle of numpy arrays has neither bfloat16 nor a place for an optimizer. */
static bool fits(enum mabn_weights_format format, int i)
{
    const struct mabn_weight w = example(i);
    return format != MABN_WEIGHTS_PICKLE ||
           (w.part == MABN_WEIGHT_MODEL && w.dtype != MABN_DTYPE_BF16);
}

static void write_example(const char *path, enum mabn_weights_format format)
{
    struct mabn_weights_writer *writer;
    unsigned char bytes[512];
    tap_status(mabn_weights_create(&writer, path, format, true), "create %s", path);
    mabn_status status = MABN_OK;
    size_t index[TENSORS], count = 0;
    for (int i = 0; i < TENSORS && !status; i++) {
        struct mabn_weight w = example(i);
        index[i] = count;
        if (!fits(format, i)) continue;
        status = mabn_weights_declare(writer, &w);
        count++;
    }
    if (!status) status = mabn_weights_set_note(writer, "scheduler.note", "\"quoted\" \xc3\xa9");
    if (!status) status = mabn_weights_set_note(writer, "config", "{\"arch\":\"x\"}");
    if (!status) status = mabn_weights_set_note(writer, "step", "12");
    for (int i = TENSORS; i-- > 0 && !status;) { /* any order */
        example_bytes(i, bytes, example(i).bytes);
        if (fits(format, i)) status = mabn_weights_write(writer, index[i], bytes);
    }
    if (!status) status = mabn_weights_commit(writer);
    tap_status(status, "write %s", path);
    mabn_weights_writer_free(writer);
}

static void check_example(const char *path, enum mabn_weights_format format)
{
    struct mabn_weights *w = open_ok(path);
    unsigned char want[512], got[512];
    size_t count = 0;
    for (int i = 0; i < TENSORS; i++)
        count += fits(format, i);
    bool same = mabn_weights_format_of(w) == format && mabn_weights_count(w) == count;
    for (int i = 0; i < TENSORS && same; i++) {
        struct mabn_weight t = example(i);
        if (!fits(format, i)) continue;
        int64_t k = mabn_weights_find(w, t.part, t.name);
        const struct mabn_weight *u = k >= 0 ? mabn_weights_at(w, (size_t)k) : NULL;
        same = u && u->dtype == t.dtype && mabn_shape_equal(&u->shape, &t.shape) &&
               !mabn_weights_read(w, (size_t)k, got);
        example_bytes(i, want, t.bytes);
        same = same && !memcmp(got, want, t.bytes);
        if (!same) printf("# %s\n", t.name);
    }
    tap_ok(same, "every type and shape comes back from %s", mabn_weights_format_name(format));
    tap_str_eq(mabn_weights_note(w, "scheduler.note"), "\"quoted\" \xc3\xa9", "a note");
    tap_str_eq(mabn_weights_note(w, "config"), "{\"arch\":\"x\"}", "the description");
    tap_str_eq(mabn_weights_note(w, "step"), "12", "the step");
    mabn_weights_free(w);
}

static void test_round_trips(void)
{
    static const enum mabn_weights_format formats[] = {MABN_WEIGHTS_HDF5, MABN_WEIGHTS_TORCH,
                                                       MABN_WEIGHTS_SAFETENSORS, MABN_WEIGHTS_ONNX,
                                                       MABN_WEIGHTS_PICKLE};
    char folder[] = "/tmp/mabn-weights-XXXXXX", path[64];
    if (!mkdtemp(folder)) MABN_BUG("no temporary folder");
    snprintf(path, sizeof path, "%s/w", folder);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        write_example(path, formats[i]);
        check_example(path, formats[i]);
        if (formats[i] != MABN_WEIGHTS_HDF5) check_cuts(path); /* HDF5 is not read from memory */
    }
    struct mabn_weights_writer *writer;
    tap_fails(mabn_weights_create(&writer, path, MABN_WEIGHTS_TORCH_LEGACY, true),
              MABN_ERR_UNSUPPORTED, "not written", "PyTorch's older form is not written");
    unlink(path);
    rmdir(folder);
}

static void test_conversions(void)
{
    static const uint16_t halves[] = {0, 0x8000, 1, 0x3ff, 0x400, 0x3c00, 0xc500, 0x7bff};
    static const float want[] = {0, -0.f, 0x1p-24f, 1023 * 0x1p-24f, 0x1p-14f, 1, -5, 65504};
    float got[8];
    mabn_values_to_f32(got, halves, 8, MABN_DTYPE_F16);
    tap_ok(!memcmp(got, want, sizeof want), "float16, subnormals too");
    static const uint16_t special[] = {0x7c00, 0xfc00, 0x7e00};
    mabn_values_to_f32(got, special, 3, MABN_DTYPE_F16);
    tap_ok(got[0] == INFINITY && got[1] == -INFINITY && isnan(got[2]), "float16 infinities, NaN");
    static const uint16_t brain[] = {0x3f80, 0xc0a0};
    mabn_values_to_f32(got, brain, 2, MABN_DTYPE_BF16);
    tap_ok(got[0] == 1 && got[1] == -5, "bfloat16");
}

int main(void)
{
    test_names();
    test_crc();
    test_conversions();
    check_torch("zip");
    check_torch("pickle");
    test_numpy();
    test_round_trips();
    check_cuts(SEEDS "zip/torch_training");
    check_cuts(SEEDS "pickle/torch_views");
    check_cuts(SEEDS "pickle/numpy_2");
    check_cuts(SEEDS "safetensors/two");
    return tap_done();
}
