/* mabn-init: write an initial checkpoint for an architecture and a norm. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/out.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "cli/detector_options.h"
#include "cli/norm_options.h"
#include "model/model_file.h"

enum { STEM_AUTO = -1 }; /* as the architecture has it */

static struct {
    const char *output, *input;
    struct mabn_norm_request norm;
    struct mabn_detector_request detector;
    int classes, channels, height, width, base_width, stem, centralize, init;
    int64_t seed;
    bool stride_in_1x1, list, force;
} o = {.norm = MABN_NORM_REQUEST_INIT, .detector = MABN_DETECTOR_REQUEST_INIT, .stem = STEM_AUTO};

static const struct mabn_word stems[] = {
    {STEM_AUTO, "auto"}, {MABN_STEM_LARGE, "large"}, {MABN_STEM_SMALL, "small"}, {0, NULL}};
static const struct mabn_word inits[] = {
    {MABN_PARAMS_INIT_FAN_OUT, "fan-out"}, {MABN_PARAMS_INIT_FAN_IN, "fan-in"}, {0, NULL}};

/* clang-format off */
static const struct mabn_option options[] = {
    MABN_OPT_STRING('o', "output", &o.output, "FILE", "the checkpoint to write"),
    MABN_OPT_FLAG('l', "list", &o.list, "print the table of tensors"),
    MABN_OPT_GROUP("Model"),
    MABN_OPT_INT('c', "classes", &o.classes, 0, 1 << 24, "N", "outputs of the classifier, or classes of a detector without background; 0: the architecture's"),
    MABN_OPT_INT(0, "channels", &o.channels, 0, 3, "N", "channels of the pictures, 3 or 1; 0: 3"),
    MABN_OPT_INT(0, "height", &o.height, 0, 65535, "N", "input height; 0: the architecture's"),
    MABN_OPT_INT(0, "width", &o.width, 0, 65535, "N", "input width; 0: the architecture's"),
    MABN_OPT_INT(0, "base-width", &o.base_width, 0, 4096, "N", "channels of the first stage; 0: the architecture's"),
    MABN_OPT_CHOICE(0, "stem", &o.stem, stems, "first layers: large (7x7, stride 2, pooling) or small (3x3)"),
    MABN_OPT_FLAG(0, "stride-in-1x1", &o.stride_in_1x1, "bottlenecks have their stride in the first 1x1 convolution, not in the 3x3"),
    MABN_OPT_CHOICE(0, "centralize", &o.centralize, mabn_model_centralizing, "subtract each filter's mean; auto: with mabn"),
    MABN_OPT_STRING(0, "input", &o.input, "PRESET", "how evaluation prepares pictures: imagenet, torchvision, cifar, plain"),
    MABN_OPT_GROUP("Detector"),
    MABN_OPTIONS_DETECTOR(&o.detector),
    MABN_OPT_GROUP("Norm"),
    MABN_OPT_NORM(&o.norm),
    MABN_OPTIONS_NORM(&o.norm),
    MABN_OPT_GROUP("Numbers"),
    MABN_OPT_CHOICE(0, "init", &o.init, inits, "convolutions: normal of 2/fan-out (classification) or uniform of 3/fan-in (detection)"),
    MABN_OPT_SEED(&o.seed),
    MABN_OPT_FORCE(&o.force),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};
/* clang-format on */

static const struct mabn_cli cli = {
    .name = "mabn-init",
    .usage = "[OPTION]... ARCHITECTURE -o FILE",
    .summary = "write the initial checkpoint of a network",
    .options = options,
    .epilog =
        "Architectures: resnet10 resnet18 resnet34 resnet50 resnet101 resnet152, and for small "
        "pictures\n"
        "cifar-resnet8 cifar-resnet14 cifar-resnet20 cifar-resnet32 cifar-resnet44 cifar-resnet56\n"
        "Detectors: mask-rcnn-BODY-fpn, faster-rcnn-BODY-fpn; BODY: r18 r34 r50 r101 r152\n\n"
        "Examples:\n  mabn-init resnet50 --norm mabn --classes 1000 -o r50.h5\n"
        "  mabn-init mask-rcnn-r50-fpn --norm body=frozen,fpn=mabn,heads=mabn --classes 80 -o "
        "m.h5\n",
    .min_args = 1,
    .max_args = 1};

static mabn_status describe(struct mabn_model *m, const char *arch)
{
    MABN_TRY(mabn_model_init(m, arch));
    MABN_TRY(mabn_model_set_norm(m, MABN_NORM_DEFAULT));
    MABN_TRY(mabn_model_request_norm(m, &o.norm));
    if (o.classes) m->classes = o.classes;
    if (o.channels) m->channels = o.channels;
    if (o.height) m->height = o.height;
    if (o.width) m->width = o.width;
    if (o.base_width) m->base_width = o.base_width;
    if (o.stem != STEM_AUTO) m->stem = (enum mabn_model_stem)o.stem;
    m->stride_in_1x1 = o.stride_in_1x1;
    m->centralize = (enum mabn_model_centralize)o.centralize;
    return MABN_OK;
}

static mabn_status describe_input(struct mabn_augment *input, const struct mabn_model *m)
{
    const char *preset = o.input ? o.input : m->stem == MABN_STEM_SMALL ? "cifar" : "imagenet";
    MABN_TRY(mabn_augment_preset(input, preset, false));
    input->width = m->width;
    input->height = m->height;
    input->channels = m->channels;
    return MABN_OK;
}

static void list_tensors(const struct mabn_params *params)
{
    char shape[160];
    size_t total = 0;
    mabn_out_print("name\tkind\ttype\tshape\n");
    for (int i = 0; i < mabn_params_count(params); i++) {
        const struct mabn_params_tensor *t = mabn_params_at(params, i);
        size_t count = 0;
        mabn_out_print("%s\t%s\t%s\t%s\n", t->name,
                       t->role == MABN_PARAMS_VALUE ? "parameter" : "state",
                       mabn_dtype_name(t->dtype), mabn_shape_text(&t->shape, shape));
        if (t->role == MABN_PARAMS_VALUE && mabn_shape_count(&t->shape, &count)) total += count;
    }
    mabn_info("%d tensors, %zu parameters", mabn_params_count(params), total);
}

static mabn_status describe_detector(struct mabn_detector *d, const char *arch)
{
    MABN_TRY(mabn_detector_init(d, arch));
    if (o.classes) d->classes = o.classes;
    if (o.base_width) d->body.base_width = o.base_width;
    d->body.centralize = (enum mabn_model_centralize)o.centralize;
    MABN_TRY(mabn_detector_request(d, &o.detector, false));
    if (mabn_cli_given("stride-in-1x1")) d->body.stride_in_1x1 = o.stride_in_1x1;
    MABN_TRY(mabn_detector_set_norm(d, MABN_NORM_DEFAULT));
    return mabn_detector_request_norm(d, &o.norm);
}

static mabn_status save_detector(const struct mabn_detector *d, struct mabn_params *params)
{
    const struct mabn_model_save save = {.detector = d,
                                         .seed = o.seed,
                                         .command = mabn_cli_command_line(),
                                         .tool = "mabn-init " MABN_VERSION};
    const int init = mabn_cli_given("init") ? o.init : MABN_PARAMS_INIT_FAN_IN;
    MABN_TRY(mabn_params_initialize(params, (uint64_t)o.seed, (enum mabn_params_init)init));
    return mabn_model_file_save(o.output, o.force, params, &save);
}

static mabn_status run_detector(const char *arch)
{
    struct mabn_detector detector;
    struct mabn_device *device;
    struct mabn_params *params;
    MABN_TRY(describe_detector(&detector, arch));
    MABN_TRY(mabn_device_new(&device, MABN_DEVICE_CPU, 0));
    mabn_status status = mabn_params_new(&params, device);
    if (!status) status = mabn_detector_declare(params, device, &detector, false);
    if (!status && o.list) list_tensors(params);
    if (!status && o.output) status = save_detector(&detector, params);
    mabn_params_free(params);
    mabn_device_free(device);
    return status;
}

static mabn_status run(const char *arch)
{
    struct mabn_model model;
    struct mabn_augment input;
    struct mabn_device *device;
    struct mabn_net *net = NULL;
    MABN_TRY(describe(&model, arch));
    MABN_TRY(describe_input(&input, &model));
    MABN_TRY(mabn_device_new(&device, MABN_DEVICE_CPU, 0));
    struct mabn_net_options options_of_net = {.batch = 1, .no_fold = true, .exact = true};
    mabn_status status = mabn_model_build(&net, device, &model, &options_of_net);
    if (!status && o.list) list_tensors(mabn_net_params(net));
    if (!status && o.output)
        status = mabn_params_initialize(mabn_net_params(net), (uint64_t)o.seed,
                                        (enum mabn_params_init)o.init);
    if (!status && o.output) {
        struct mabn_model_save save = {.model = &model,
                                       .input = &input,
                                       .seed = o.seed,
                                       .command = mabn_cli_command_line(),
                                       .tool = "mabn-init " MABN_VERSION};
        status = mabn_model_file_save(o.output, o.force, mabn_net_params(net), &save);
    }
    mabn_net_free(net);
    mabn_device_free(device);
    return status;
}

/* Options of the other kind of network would have no effect. */
static void check_kind(bool detector)
{
    static const char *const of_classifiers[] = {"channels", "height", "width",
                                                 "stem",     "input",  NULL};
    const char *other = mabn_cli_first_given(detector ? of_classifiers : mabn_cli_detector_options);
    if (other)
        mabn_cli_usage_error("--%s is for %s", other, detector ? "classifiers" : "detectors");
}

int main(int argc, char **argv)
{
    char **args;
    mabn_threads_wait_asleep(argv);
    mabn_cli_start(&cli, argc, argv, &args);
    if (!o.output && !o.list) mabn_cli_usage_error("give -o FILE, or --list, or both");
    if (o.channels == 2) mabn_cli_usage_error("--channels: 1 or 3, not 2");
    const bool detector = strstr(args[0], "-rcnn-") != NULL;
    check_kind(detector);
    return mabn_cli_finish(detector ? run_detector(args[0]) : run(args[0]));
}
