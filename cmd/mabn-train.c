/* mabn-train: train a classifier or a detector on a dataset, into a run folder. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/signal.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "cli/detector_options.h"
#include "cli/norm_options.h"
#include "cli/ranks.h"
#include "train/train.h"

static struct mabn_train_options o;

/* ---- options with values of their own form ---- */

/* "a,b,c" → numbers; returns how many, or -1 when one is not a number or there are too many. */
static int parse_list(double *values, int most, const char *text)
{
    int n = 0;
    for (;;) {
        char *end;
        double value = strtod(text, &end);
        if (end == text || n == most || value != value) return -1;
        values[n++] = value;
        if (!*end) return n;
        if (*end != ',') return -1;
        text = end + 1;
    }
}

static mabn_status three_numbers(const char *argument, void *value)
{
    double *three = value;
    int n = parse_list(three, 3, argument);
    if (n != 1 && n != 3)
        return mabn_fail(MABN_ERR_ARG, "expected one or three numbers, found '%s'", argument);
    if (n == 1) three[1] = three[2] = three[0];
    return MABN_OK;
}

static mabn_status jitter(const char *argument, void *value)
{
    double *four = value;
    memset(four, 0, 4 * sizeof *four);
    if (parse_list(four, 4, argument) < 1)
        return mabn_fail(MABN_ERR_ARG, "expected brightness,contrast,saturation,hue, found '%s'",
                         argument);
    return MABN_OK;
}

static mabn_status milestones(const char *argument, void *value)
{
    (void)value;
    int n = parse_list(o.milestones, MABN_MAX_MILESTONES, argument);
    if (n < 1)
        return mabn_fail(MABN_ERR_ARG, "expected up to %d epochs, found '%s'", MABN_MAX_MILESTONES,
                         argument);
    for (int i = 1; i < n; i++)
        if (o.milestones[i] < o.milestones[i - 1])
            return mabn_fail(MABN_ERR_ARG, "milestones must ascend, found '%s'", argument);
    o.n_milestones = n;
    return MABN_OK;
}

static mabn_status channels(const char *argument, void *value)
{
    (void)value;
    double list[MABN_MAX_RECORD_CHANNELS];
    int n = parse_list(list, MABN_MAX_RECORD_CHANNELS, argument);
    for (int i = 0; i < n; i++) {
        o.channels[i] = list[i] >= 0 && list[i] < 1e6 ? (int)list[i] : -1;
        if (o.channels[i] != list[i]) n = -1;
    }
    if (n < 1) return mabn_fail(MABN_ERR_ARG, "expected channel numbers, found '%s'", argument);
    o.n_channels = n;
    return MABN_OK;
}

static mabn_status allow(const char *argument, void *value)
{
    enum { NORM, CENTRALIZED, FOLDED, CLASSES, INPUT, STRIDE };
    static const struct mabn_word kinds[] = {
        {NORM, "norm"},   {CENTRALIZED, "centralized"}, {FOLDED, "folded"}, {CLASSES, "classes"},
        {INPUT, "input"}, {STRIDE, "stride"},           {0, NULL}};
    bool *const flags[] = {[NORM] = &o.allow_norm,     [CENTRALIZED] = &o.allow_centralized,
                           [FOLDED] = &o.allow_folded, [CLASSES] = &o.allow_classes,
                           [INPUT] = &o.allow_input,   [STRIDE] = &o.allow_stride};
    char *copy = mabn_xstrdup(argument), *rest = copy, *word;
    mabn_status status = MABN_OK;
    (void)value;
    while (!status && (word = strsep(&rest, ","))) {
        int kind = 0;
        status = mabn_word_parse(&kind, kinds, "kind", word);
        if (!status) *flags[kind] = true;
    }
    free(copy);
    return status;
}

static void preset_imagenet(void)
{
    static const double epochs[] = {30, 60, 90};
    o.arch = "resnet50";
    o.norm.norm = "mabn";
    o.norm.norm_batch = 2;
    o.norm.window = 16;
    o.norm.window_rule = MABN_WINDOW_SUBBATCH;
    o.augment = "imagenet";
    o.size = 224;
    o.replacement = true;
    o.batch = 256;
    o.epochs = 120;
    o.epoch_steps = 5000;
    o.schedule = MABN_SCHEDULE_STEP;
    o.lr = 0.1;
    o.lr_batch = 256;
    memcpy(o.milestones, epochs, sizeof epochs);
    o.n_milestones = 3;
    o.smoothing = 0.1;
    o.preset_shards = 8;
}

/* The reference's Mask R-CNN: 16 images a step, two at a time. */
enum { PRESET_BATCH = 16 };
static int64_t preset_steps; /* of such a preset; 0: none was asked for */

static void preset_coco(const char *norm, int64_t first, int64_t second, int64_t steps)
{
    o.arch = "mask-rcnn-r50-fpn";
    o.norm.norm = norm;
    o.norm.norm_batch = 2;
    o.norm.sync_weighted = 0;
    o.batch = PRESET_BATCH;
    o.accumulate = 8;
    o.steps = preset_steps = steps;
    o.schedule = MABN_SCHEDULE_STEP;
    o.lr = 0.02;
    o.lr_batch = PRESET_BATCH;
    o.milestone_steps[0] = first;
    o.milestone_steps[1] = second;
    o.n_milestone_steps = 2;
    o.warmup_steps = 500;
    o.warmup_factor = 1.0 / 3;
    o.log_every = 20;
    o.save_every = 2500;
}

static mabn_status preset(const char *argument, void *value)
{
    enum { IMAGENET, COCO_SCRATCH, COCO_FINE_TUNE, COCO_1X };
    static const struct mabn_word presets[] = {{IMAGENET, "imagenet"},
                                               {COCO_SCRATCH, "coco-scratch"},
                                               {COCO_FINE_TUNE, "coco-fine-tune"},
                                               {COCO_1X, "coco-1x"},
                                               {0, NULL}};
    int which;
    (void)value;
    MABN_TRY(mabn_word_parse(&which, presets, "preset", argument));
    if (which == IMAGENET) preset_imagenet();
    if (which == COCO_SCRATCH || which == COCO_FINE_TUNE)
        preset_coco("mabn", 120000, 160000, 180000);
    if (which == COCO_1X) {
        preset_coco("frozen", 60000, 80000, 90000);
        o.detector.box_head = MABN_BOX_HEAD_2FC;
        o.detector.frozen = 2;
    }
    return MABN_OK;
}

static mabn_status steps_list(const char *argument, void *value)
{
    double list[MABN_MAX_MILESTONES];
    (void)value;
    int n = parse_list(list, MABN_MAX_MILESTONES, argument);
    if (n < 1) return mabn_fail(MABN_ERR_ARG, "expected steps, found '%s'", argument);
    for (int i = 0; i < n; i++) {
        if (!(list[i] >= 1 && list[i] < 1e15) || (i && list[i] <= list[i - 1]))
            return mabn_fail(MABN_ERR_ARG, "milestones must ascend, found '%s'", argument);
        o.milestone_steps[i] = (int64_t)list[i];
    }
    o.n_milestone_steps = n;
    return MABN_OK;
}

static mabn_status sizes_list(const char *argument, void *value)
{
    double list[MABN_SCENE_SIZES];
    (void)value;
    int n = parse_list(list, MABN_SCENE_SIZES, argument);
    for (int i = 0; i < n; i++) {
        o.train_sizes[i] = list[i] >= 1 && list[i] <= 16384 ? (int)list[i] : -1;
        if (o.train_sizes[i] != list[i]) n = -1;
    }
    if (n < 1) return mabn_fail(MABN_ERR_ARG, "expected sizes in pixels, found '%s'", argument);
    o.n_train_sizes = n;
    return MABN_OK;
}

/* ---- the table ---- */

static const struct mabn_word samplers[] = {{0, "shuffle"}, {1, "replacement"}, {0, NULL}};
static const struct mabn_word schedules[] = {{MABN_SCHEDULE_STEP, "step"},
                                             {MABN_SCHEDULE_COSINE, "cosine"},
                                             {MABN_SCHEDULE_CONSTANT, "constant"},
                                             {0, NULL}};
enum { DROP, KEEP };
static const struct mabn_word empties[] = {{DROP, "drop"}, {KEEP, "keep"}, {0, NULL}};
static int sampler, precision, empty;

/* clang-format off */
static const struct mabn_option options[] = {
    MABN_OPT_GROUP("Files"),
    MABN_OPT_STRING('t', "train", &o.train, "FILE", "the dataset to train on"),
    MABN_OPT_STRING(0, "val", &o.val, "FILE", "the dataset to validate on"),
    MABN_OPT_STRING('o', "output", &o.run, "DIR", "the run folder"),
    MABN_OPT_FLAG(0, "resume", &o.resume, "resume from the newest checkpoint in the run folder, if there is one"),
    MABN_OPT_FLAG(0, "resume-model", &o.resume_model, "continue from MODEL with its momentum: a converted training checkpoint of PyTorch"),
    MABN_OPT_INT64(0, "start-step", &o.start_step, -1, 1e12, "N", "with --resume-model: the step that MODEL was saved at; -1: as the file says"),
    MABN_OPT_FLAG('f', "force", &o.force, "start again in a folder that holds a run"),
    MABN_OPT_CALL(0, "allow-weights", allow, NULL, "KIND,...", "use a MODEL that differs in norm, centralized, folded, classes, input or stride"),

    MABN_OPT_GROUP("Recipe"),
    MABN_OPT_PRESET(0, "preset", preset, NULL, "NAME", "the reference's recipes: imagenet (ResNet-50), coco-scratch, coco-fine-tune, coco-1x (Mask R-CNN); other options override parts of it"),
    MABN_OPT_INT('b', "batch", &o.batch, 0, 1 << 20, "N", "images of one SGD step; 0: 256, for detectors 2"),
    MABN_OPT_INT(0, "accumulate", &o.accumulate, 1, 1 << 16, "N", "detectors: passes that a step's images are cut into, to save memory; at least one for each shard"),
    MABN_OPT_INT64(0, "epochs", &o.epochs, 0, 1e9, "N", "times through the data"),
    MABN_OPT_INT64(0, "epoch-steps", &o.epoch_steps, 0, 1e9, "N", "steps of an epoch; 0: once through the data"),
    MABN_OPT_INT64(0, "steps", &o.steps, 0, 1e12, "N", "steps of the run; 0: all epochs"),
    MABN_OPT_CHOICE(0, "sampler", &sampler, samplers, "order of the images: each once an epoch, or drawn with replacement"),
    MABN_OPT_DOUBLE(0, "lr", &o.lr, 0, 1e30, "RATE", "peak learning rate, for a batch of --lr-batch images; by default 0.1, for detectors 0.02"),
    MABN_OPT_DOUBLE(0, "lr-batch", &o.lr_batch, 0, 1e9, "N", "the batch for which --lr is given; the rate is scaled to --batch; 0: 256, for detectors 16"),
    MABN_OPT_FLAG(0, "lr-exact", &o.lr_exact, "use --lr as it is, whatever the batch"),
    MABN_OPT_CHOICE(0, "schedule", &o.schedule, schedules, "course of the learning rate"),
    MABN_OPT_CALL(0, "milestones", milestones, NULL, "E,...", "step schedule: the epochs after which the rate is multiplied by --gamma"),
    MABN_OPT_CALL(0, "milestone-steps", steps_list, NULL, "S,...", "step schedule: the same, in steps"),
    MABN_OPT_DOUBLE(0, "gamma", &o.gamma, 0, 1, "X", "step schedule: the factor"),
    MABN_OPT_DOUBLE(0, "warmup-epochs", &o.warmup_epochs, 0, 1e6, "E", "epochs in which the rate rises linearly"),
    MABN_OPT_INT64(0, "warmup-steps", &o.warmup_steps, 0, 1e12, "N", "the same, in steps; 0: use --warmup-epochs"),
    MABN_OPT_DOUBLE(0, "warmup-factor", &o.warmup_factor, 0, 1, "X", "fraction of the rate in the first step; 0: 1/warmup steps"),
    MABN_OPT_DOUBLE(0, "momentum", &o.momentum, 0, 1, "X", "of SGD"),
    MABN_OPT_FLAG(0, "nesterov", &o.nesterov, "Nesterov's momentum"),
    MABN_OPT_DOUBLE(0, "weight-decay", &o.weight_decay, 0, 1, "X", "of SGD"),
    MABN_OPT_FLAG(0, "no-decay-norm-bias", &o.no_decay_norm_bias, "decay only the weights of convolutions and linear layers"),
    MABN_OPT_DOUBLE(0, "label-smoothing", &o.smoothing, 0, 1, "X", "share of the target that is spread over all classes"),
    MABN_OPT_DOUBLE(0, "clip-norm", &o.clip_norm, 0, 1e30, "X", "detectors: largest norm of the gradient; 0: no limit"),
    MABN_OPT_SEED(&o.seed),

    MABN_OPT_GROUP("Network (of a new model, or overriding MODEL)"),
    MABN_OPT_STRING(0, "arch", &o.arch, "NAME", "architecture, see mabn-init; by default resnet50 or mask-rcnn-r50-fpn"),
    MABN_OPT_NORM(&o.norm),
    MABN_OPTIONS_NORM(&o.norm),
    MABN_OPT_STRING(0, "centralize", &o.centralize, "WHEN", "weight centralization: auto (with MABN), on, off"),
    MABN_OPT_INT(0, "base-width", &o.base_width, 0, 4096, "N", "channels of the first stage; 0: the architecture's"),
    MABN_OPT_STRING(0, "stem", &o.stem, "SIZE", "large (7x7 and pooling) or small (3x3)"),
    MABN_OPT_FLAG(0, "stride-in-1x1", &o.stride_in_1x1, "bottlenecks have their stride in the first 1x1 convolution"),
    MABN_OPT_SWITCH(0, "save-memory", &o.save_memory, "recompute some activations in the backward pass; not given: only for detectors on CPUs"),
    MABN_OPT_FLAG(0, "exact", &o.exact, "do not use Winograd convolutions; over ranks with GPUs, add in the order of CPUs. Slower; for comparisons"),

    MABN_OPT_GROUP("Detector (on a dataset of kind coco)"),
    MABN_OPTIONS_DETECTOR(&o.detector),
    MABN_OPT_CHOICE(0, "empty", &empty, empties, "photographs without an object: left out of training, or kept"),
    MABN_OPT_CALL(0, "train-sizes", sizes_list, NULL, "S,...", "shorter sides, one chosen at random for each training picture; by default --min-size"),

    MABN_OPT_GROUP("Pictures"),
    MABN_OPT_STRING(0, "augment", &o.augment, "NAME", "imagenet, torchvision, cifar or plain; by default chosen by the images' size"),
    MABN_OPT_INT(0, "size", &o.size, 0, 4096, "PIXELS", "side of the network's input; 0: that of the augmentation or the data"),
    MABN_OPT_STRING(0, "crop", &o.crop, "KIND", "in training: none, centre, square, resized or pad"),
    MABN_OPT_DOUBLE(0, "crop-area", &o.area_min, 0, 1, "X", "smallest share of the picture's area in a crop"),
    MABN_OPT_INT(0, "pad", &o.pad, -1, 4096, "PIXELS", "crop pad: zeros on each side; -1: the augmentation's"),
    MABN_OPT_INT(0, "short-side", &o.short_side, -1, 65536, "PIXELS", "in validation: shorter side before the centre crop; -1: the augmentation's"),
    MABN_OPT_STRING(0, "resize", &o.resize, "KIND", "pil (Pillow's, antialiased) or cv (OpenCV's)"),
    MABN_OPT_DOUBLE(0, "flip", &o.flip, 0, 1, "P", "probability of a horizontal flip"),
    MABN_OPT_DOUBLE(0, "lighting", &o.lighting, 0, 10, "X", "deviation of the PCA lighting noise"),
    MABN_OPT_CALL(0, "jitter", jitter, o.jitter, "B,C,S,H", "brightness, contrast, saturation and hue jitter"),
    MABN_OPT_DOUBLE(0, "erase", &o.erase, 0, 1, "P", "probability of random erasing"),
    MABN_OPT_STRING(0, "channel-order", &o.order, "ORDER", "rgb or bgr"),
    MABN_OPT_DOUBLE(0, "range", &o.range, 0, 1e6, "X", "value of white before mean and deviation: 1 or 255"),
    MABN_OPT_CALL(0, "mean", three_numbers, o.mean, "X[,Y,Z]", "subtracted from the pixels, in units of --range"),
    MABN_OPT_CALL(0, "std", three_numbers, o.deviation, "X[,Y,Z]", "divisor of the pixels, in units of --range"),
    MABN_OPT_FLAG(0, "skip-bad", &o.skip_bad, "replace unreadable images instead of failing"),

    MABN_OPT_GROUP("Watching"),
    MABN_OPT_STRING('l', "log", &o.log, "FILE", "write the metrics to FILE instead of standard output"),
    MABN_OPT_INT64(0, "log-every", &o.log_every, 1, 1e9, "N", "steps between lines"),
    MABN_OPT_INT64(0, "val-every", &o.val_every, -1, 1e9, "N", "steps between validations; 0: every epoch, -1: at the end"),
    MABN_OPT_INT(0, "val-batch", &o.val_batch, 0, 1 << 20, "N", "images of a validation batch; 0: as --batch"),
    MABN_OPT_INT64(0, "save-every", &o.save_every, 0, 1e9, "N", "steps between checkpoints; 0: every epoch"),
    MABN_OPT_INT(0, "keep", &o.keep, 1, 1000000, "K", "checkpoints to keep"),
    MABN_OPT_STRING(0, "best", &o.best, "FIGURE", "the figure of a validation that decides what best.h5 is: top1, top5, loss; for a detector mask_ap, box_ap, loss or another figure in its lines"),
    MABN_OPT_INT(0, "patience", &o.patience, 0, 1000000, "N", "end the run after N validations without a better one; 0: never"),
    MABN_OPT_INT(0, "early-images", &o.early_images, 0, 64, "N", "detectors: number of training pictures drawn into DIR/early.png, with their targets"),
    MABN_OPT_STRING(0, "record-stats", &o.stats, "FILE", "write each norm layer's four batch statistics to FILE"),
    MABN_OPT_INT64(0, "stats-every", &o.stats_every, 1, 1e9, "N", "steps between recorded statistics"),
    MABN_OPT_CALL(0, "stats-channels", channels, NULL, "C,...", "channels whose statistics are recorded; 0 when not given"),
    MABN_OPT_FLAG(0, "stats-reference", &o.stats_reference, "record mu_gy as the reference's recorder defines it"),

    MABN_OPT_GROUP("Machine"),
    MABN_OPT_DEVICE(&o.device),
    MABN_OPT_PRECISION(&precision),
    MABN_OPT_FLAG(0, "tune", &o.tune, "choose convolution algorithms by timing: on a CPU once, kept in a file; on a GPU in every run, so that last bits may differ"),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPT_INT(0, "decoders", &o.decoders, 0, 1024, "N", "threads that read and decode images; 0: as --threads"),

    MABN_OPT_GROUP("Ranks (started by mpirun, mpiexec or srun)"),
    MABN_OPT_INT(0, "shards", &o.shards, 0, MABN_MAX_SHARDS, "N", "parts that every batch is cut into, each with norm statistics of its own. 0: a resumed run keeps its number; a new run has one for each rank, or 8 with the preset imagenet on 2, 4 or 8 ranks"),
    MABN_OPT_INT(0, "sync-group", &o.sync_group, 0, MABN_MAX_SHARDS, "N", "syncbn: neighbouring shards whose images make one statistic; 0: all shards"),
    MABN_OPT_INT64(0, "check-ranks", &o.check_ranks, 0, 1e12, "N", "steps between comparisons of all ranks' parameters; 0: only at the start"),

    MABN_OPT_GROUP("General"),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};
/* clang-format on */

static const struct mabn_cli cli = {
    .name = "mabn-train",
    .usage = "[OPTION]... --train DATA [--val DATA] -o DIR [MODEL]",
    .summary = "train a classifier or a detector; metrics go to standard output as JSON Lines",
    .options = options,
    .epilog = "Examples:\n"
              "  mabn-train --arch cifar-resnet20 --norm mabn --norm-batch 2 --batch 32 \\\n"
              "      --train train.h5 --val val.h5 -o run > run.jsonl\n"
              "  mabn-train --preset imagenet --train train.h5 --val val.h5 -o run --resume\n"
              "  mabn-train --preset coco-scratch --train coco.h5 -o det --resume\n"
              "  mabn-convert checkpoint.pth -o c.h5\n"
              "  mabn-train --resume-model --train train.h5 -o run c.h5",
    .min_args = 0,
    .max_args = 1,
    .ranks = true,
};

/* Logs are opened for writing before the datasets are read. */
static void check_logs(const char *model)
{
    const char *const inputs[] = {o.train, o.val, model};
    char *metrics = mabn_path_join(o.run, "metrics.jsonl");
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        mabn_cli_check_output(o.log, inputs[i]);
        mabn_cli_check_output(o.stats, inputs[i]);
    }
    mabn_cli_check_output(o.log, metrics);
    mabn_cli_check_output(o.stats, metrics);
    mabn_cli_check_output(o.stats, o.log);
    free(metrics);
}

static void check(int args, char *const *model)
{
    if (!o.train) mabn_cli_usage_error("no dataset to train on: give --train FILE");
    if (!o.run) mabn_cli_usage_error("no run folder: give -o DIR");
    if (!o.epochs && !o.steps) mabn_cli_usage_error("--epochs 0 needs --steps");
    if (o.batch && o.norm.norm_batch > o.batch)
        mabn_cli_usage_error("--norm-batch %d is larger than --batch %d: a statistic cannot have "
                             "more images than a step",
                             o.norm.norm_batch, o.batch);
    if (o.schedule == MABN_SCHEDULE_STEP && !o.n_milestones && !o.n_milestone_steps)
        mabn_cli_usage_error("--schedule step needs --milestones");
    if (o.lr_exact && mabn_cli_given("lr-batch"))
        mabn_cli_usage_error("--lr-exact and --lr-batch contradict each other");
    if (!o.val && (o.best || o.patience))
        mabn_cli_usage_error("--best and --patience compare validations: give --val FILE");
    mabn_cli_check_machine(o.device, precision);
    if (o.force && o.resume) mabn_cli_usage_error("--force and --resume contradict each other");
    if (o.resume_model && !args) mabn_cli_usage_error("--resume-model needs a MODEL");
    if (o.start_step >= 0 && !o.resume_model)
        mabn_cli_usage_error("--start-step needs --resume-model");
    if (args && (o.base_width || o.stem || o.stride_in_1x1))
        mabn_cli_usage_error(
            "--base-width, --stem and --stride-in-1x1 shape a new network; MODEL has "
            "its own");
    check_logs(args ? *model : NULL);
}

/* A detector's preset counts steps of 16 images. With another batch, scale its steps so that the run sees as
 * many images. Returns true if they were scaled. */
static bool scale_course(void)
{
    /* An option in epochs overrides the preset's steps. */
    if (preset_steps && mabn_cli_given("epochs") && !mabn_cli_given("steps")) o.steps = 0;
    if (mabn_cli_given("milestones") && !mabn_cli_given("milestone-steps")) o.n_milestone_steps = 0;
    if (mabn_cli_given("warmup-epochs") && !mabn_cli_given("warmup-steps")) o.warmup_steps = 0;
    if (!preset_steps || o.batch == PRESET_BATCH || !o.batch || mabn_cli_given("steps") ||
        mabn_cli_given("epochs") || mabn_cli_given("milestones") ||
        mabn_cli_given("milestone-steps") || mabn_cli_given("lr-exact"))
        return false;
    o.steps = o.steps * PRESET_BATCH / o.batch;
    for (int i = 0; i < o.n_milestone_steps; i++)
        o.milestone_steps[i] = o.milestone_steps[i] * PRESET_BATCH / o.batch;
    if (!mabn_cli_given("warmup-steps")) o.warmup_steps = o.warmup_steps * PRESET_BATCH / o.batch;
    return true;
}

static void tell_scaled_course(void)
{
    mabn_info(
        "the preset's %lld steps of %d images are %lld of %d; milestones and warm-up likewise",
        (long long)preset_steps, PRESET_BATCH, (long long)o.steps, o.batch);
}

/* Options that only one kind of network heeds; the dataset decides which kind it is. */
static void note_kind(void)
{
    static const char *const of_detectors[] = {"empty",      "train-sizes",  "clip-norm",
                                               "accumulate", "early-images", NULL};
    static const char *const of_classifiers[] = {
        "augment",         "size",   "crop",       "crop-area", "pad",
        "short-side",      "resize", "lighting",   "erase",     "channel-order",
        "label-smoothing", "stem",   "centralize", "val-batch", NULL};
    o.for_detectors = mabn_cli_first_given(mabn_cli_detector_options);
    if (!o.for_detectors) o.for_detectors = mabn_cli_first_given(of_detectors);
    o.for_classifiers = mabn_cli_first_given(of_classifiers);
}

int main(int argc, char **argv)
{
    char **args;
    mabn_threads_wait_asleep(argv);
    mabn_train_options_init(&o);
    int n = mabn_cli_start(&cli, argc, argv, &args);
    if (mabn_cli_given("sampler") || !o.replacement) o.replacement = sampler == 1;
    check(n, args);
    o.keep_empty = empty == KEEP;
    o.lr_given = mabn_cli_given("lr");
    note_kind();
    const bool scaled = scale_course();
    if (mabn_cli_given("batch") && !mabn_cli_given("accumulate") && o.accumulate > 1)
        o.accumulate =
            o.batch > 2 && o.batch % 2 == 0 ? o.batch / 2 : 1; /* from a preset: two images a
                                                                * pass */
    o.precision = (enum mabn_net_precision)precision;
    o.weights = n ? args[0] : NULL;
    o.comm = mabn_cli_open_ranks();
    o.device = mabn_cli_rank_device(o.comm, o.device);
    if (!o.threads && mabn_comm_ranks(o.comm) > 1) o.threads = mabn_comm_threads(o.comm);
    o.decoders = o.decoders ? o.decoders : o.threads;
    if (scaled && mabn_comm_rank(o.comm) == 0) tell_scaled_course();
    if (!o.log) o.log = "-";
    o.command = mabn_cli_command_line();
    o.tool = "mabn-train " MABN_VERSION;
    mabn_signals_graceful();
    return mabn_cli_finish_ranks(o.comm, mabn_train(&o));
}
