/* Schedules, paces, logs that survive kills, prediction lines, model files. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "tap.h"
#include "train/evaluate.h"
#include "train/jsonl.h"
#include "model/model_file.h"
#include "train/pace.h"
#include "train/schedule.h"

static char folder[] = "/tmp/mabn-test-train-XXXXXX";
static char path[64];

static void schedules(void)
{
    struct mabn_schedule s = {.kind = MABN_SCHEDULE_STEP,
                              .lr = 0.1,
                              .steps = 600,
                              .milestones = {150, 300, 450},
                              .n_milestones = 3,
                              .gamma = 0.1};
    tap_close(mabn_schedule_lr(&s, 149), 0.1, 0, "before the first milestone");
    tap_close(mabn_schedule_lr(&s, 150), 0.01, 1e-16, "from the first milestone on");
    tap_close(mabn_schedule_lr(&s, 599), 0.0001, 1e-16, "after the third");
    s.warmup = 10;
    tap_close(mabn_schedule_lr(&s, 0), 0.01, 1e-16, "warm-up begins at lr/warmup");
    tap_close(mabn_schedule_lr(&s, 9), 0.1, 1e-16, "and ends at lr");
    s.kind = MABN_SCHEDULE_COSINE;
    tap_close(mabn_schedule_lr(&s, 10), 0.1, 1e-16, "cosine begins at lr");
    tap_close(mabn_schedule_lr(&s, 305), 0.05, 1e-12, "is at half in the middle");
    tap_close(mabn_schedule_lr(&s, 600), 0, 1e-16, "and ends at 0");
    s.warmup = s.steps = 5;
    tap_ok(mabn_schedule_lr(&s, 4) == 0.1, "a warm-up as long as the run");
}

static bool is_span(struct mabn_pace_span span, int steps, double seconds, double waited)
{
    return span.steps == steps && span.seconds == seconds && span.waited == waited;
}

/* A step takes a second from 100 s on, a quarter of it waiting; results arrive one step late. */
static void paces(void)
{
    struct mabn_pace pace;
    mabn_pace_start(&pace, 100, 7);
    tap_ok(is_span(mabn_pace_line(&pace, 101, 0.25, 8, 9), 1, 1, 0.25), "pace: the first line");
    tap_ok(is_span(mabn_pace_line(&pace, 103, 0.75, 10, 11), 2, 2, 0.5), "two steps on");
    struct mabn_pace_span span = mabn_pace_line(&pace, 103.0625, 0.75, 11, 11);
    tap_ok(is_span(span, 4, 3.0625, 0.75), "a result that came at once tells of all");
    span = mabn_pace_line(&pace, 103.125, 0.75, 12, 11);
    tap_ok(is_span(span, 5, 3.125, 0.75), "so does a second");
    mabn_pace_pause(&pace, 10);
    tap_ok(is_span(mabn_pace_line(&pace, 114.125, 1, 13, 14), 1, 1, 0.25),
           "what comes after tells of itself, without the pause");
    span = mabn_pace_line(&pace, 114.25, 1, 14, 14);
    tap_ok(is_span(span, 2, 1.125, 0.25), "and begins a new count");
    mabn_pace_start(&pace, 200, 20);
    tap_ok(is_span(mabn_pace_line(&pace, 204, 0, 24, 24), 4, 4, 0), "results that are not late");
    tap_ok(is_span(mabn_pace_line(&pace, 206, 0, 26, 26), 2, 2, 0), "each tell of themselves");
}

static void logs(void)
{
    static const char before[] = "{\"t\":\"start\",\"step\":0}\n{\"step\":1}\n{\"step\":2}\n"
                                 "{\"step\":3}\n{\"step\":1";
    struct mabn_jsonl log;
    struct mabn_input in;
    struct mabn_str line;
    tap_status(mabn_write_file(path, before, sizeof before - 1, true), "a log cut short");
    tap_status(mabn_jsonl_open(&log, path, 2), "go on at step 2");
    mabn_str_init(&line);
    mabn_str_add(&line, "{\"step\":4}");
    tap_status(mabn_jsonl_write(&log, &line), "append");
    mabn_jsonl_close(&log);
    mabn_str_release(&line);
    tap_status(mabn_input_open(&in, path, 0), "read it");
    static const char after[] =
        "{\"t\":\"start\",\"step\":0}\n{\"step\":1}\n{\"step\":2}\n{\"step\":4}\n";
    tap_ok(in.size == sizeof after - 1 && !memcmp(in.bytes, after, in.size),
           "later lines and the cut one are gone");
    mabn_input_release(&in);
    tap_status(mabn_jsonl_open(&log, path, -1), "start afresh");
    mabn_jsonl_close(&log);
    struct stat st;
    tap_ok(!stat(path, &st) && st.st_size == 0, "empties the file");
}

static void predictions(void)
{
    static const float logits[] = {0, 2, 2, -1, 3, 0.5F, 1};
    struct mabn_str line;
    mabn_str_init(&line);
    mabn_prediction_line(&line, 7, 4, logits, 7, false);
    tap_ok(strstr(line.text, "{\"sample\":7,\"label\":4,\"top\":[4,1,2,6,5],\"prob\":[0.4947") ==
               line.text,
           "best first, equal ones by number: %s", line.text);
    double loss = strtod(strstr(line.text, "\"loss\":") + 7, NULL);
    tap_close(loss, 0.703732, 1e-5, "cross-entropy");
    mabn_str_clear(&line);
    mabn_prediction_line(&line, 0, -1, logits, 2, true);
    tap_ok(strstr(line.text, "\"label\":null,\"top\":[1,0]") &&
               strstr(line.text, "\"loss\":null,\"logits\":[0,2]"),
           "no label, few classes, logits: %s", line.text);
    mabn_str_release(&line);
}

/* Labels come from the dataset by a sample's number. */
static void labels(void)
{
    uint64_t samples[] = {2, 0, MABN_NO_SAMPLE, 1};
    const struct mabn_batch batch = {.samples = samples, .count = 3};
    const struct mabn_dataset_spec spec = {.kind = "imagenet",
                                           .raw = true,
                                           .height = 1,
                                           .width = 1,
                                           .channels = 1,
                                           .count = 3,
                                           .command = "test",
                                           .force = true};
    const struct mabn_dataset_sample pixel = {
        .bytes = samples, .size = 1, .height = 1, .width = 1, .channels = 1};
    const char *classes[] = {"a", "b", "c"};
    const int32_t of[] = {1, 0, 2};
    int32_t got[4];
    struct mabn_dataset_writer *w;
    struct mabn_dataset *data;
    if (mabn_dataset_writer_open(&w, path, &spec)) abort();
    for (int i = 0; i < 3; i++)
        if (mabn_dataset_writer_add(w, i, &pixel)) abort();
    if (mabn_dataset_writer_set_classes(w, classes, 3) || mabn_dataset_writer_set_labels(w, of))
        abort();
    tap_status(mabn_dataset_writer_commit(w), "a dataset");
    mabn_dataset_writer_free(w, false);
    tap_status(mabn_dataset_open(&data, path), "opens");
    mabn_eval_labels(got, 4, &batch, data);
    tap_ok(got[0] == 2 && got[1] == 1 && got[2] == -1 && got[3] == -1,
           "labels by number; none for a sample left out, none behind the batch");
    mabn_eval_labels(got, 4, &batch, NULL);
    tap_ok(got[0] == -1 && got[3] == -1, "none without a dataset");
    mabn_dataset_free(data);
}

static void inputs(void)
{
    struct mabn_augment a, b;
    struct mabn_str json;
    mabn_str_init(&json);
    tap_status(mabn_augment_preset(&a, "torchvision", false), "a preset");
    a.bgr = true;
    mabn_input_to_json(&a, &json);
    tap_status(mabn_augment_preset(&b, "imagenet", false), "another");
    tap_status(mabn_input_from_json(&b, json.text, "json"), "read back");
    tap_ok(b.bgr && b.range == a.range && b.resize == a.resize && b.short_side == a.short_side &&
               !memcmp(a.mean, b.mean, sizeof a.mean) &&
               !memcmp(a.deviation, b.deviation, sizeof a.deviation),
           "is the same");
    mabn_input_resize(&b, 112);
    tap_ok(b.width == 112 && b.short_side == 128, "half the size, half the short side");
    tap_fails(mabn_input_from_json(&b, "{\"crop\":\"oval\"}", "json"), MABN_ERR_FORMAT, "oval",
              "an unknown crop");
    tap_fails(mabn_input_from_json(&b, "{\"mean\":[1,2]}", "json"), MABN_ERR_FORMAT, "mean",
              "two means");
    mabn_str_release(&json);
}

/* A network that is saved and loaded is the same; one with another shape is refused. */
static void model_files(void)
{
    struct mabn_device *device;
    struct mabn_model model;
    struct mabn_net *a = NULL, *b = NULL;
    struct mabn_model_file file;
    struct mabn_net_options options = {.batch = 2, .height = 8, .width = 8, .training = true};
    tap_status(mabn_device_new(&device, MABN_DEVICE_CPU, 1), "a device");
    tap_status(mabn_model_init(&model, "cifar-resnet8"), "a model");
    tap_status(mabn_model_set_norm(&model, "mabn"), "with MABN");
    model.base_width = 4;
    model.height = model.width = 8;
    tap_status(mabn_model_build(&a, device, &model, &options), "a network");
    if (mabn_params_initialize(mabn_net_params(a), 3, MABN_PARAMS_INIT_FAN_OUT)) abort();
    struct mabn_augment input;
    tap_status(mabn_augment_preset(&input, "cifar", false), "its input");
    struct mabn_model_save save = {
        .model = &model, .input = &input, .step = 12, .seed = 3, .momentum = true};
    tap_status(mabn_model_file_save(path, true, mabn_net_params(a), &save), "save");
    tap_status(mabn_model_file_open(&file, path), "open");
    tap_ok(file.meta.step == 12 && file.meta.centralized && !strcmp(file.meta.norm, "mabn"),
           "what the file says");
    tap_close(file.meta.mean[0], 255 * input.mean[0], 1e-4, "mean in pixel values");
    tap_status(mabn_model_build(&b, device, &file.model, &options), "build from the file");
    struct mabn_model_load load = {.momentum = true};
    tap_status(mabn_model_file_load(&file, mabn_net_params(b), &load), "load");
    size_t n, m;
    const float *p = mabn_params_values(mabn_net_params(a), &n),
                *q = mabn_params_values(mabn_net_params(b), &m);
    tap_ok(n == m && !memcmp(p, q, n * sizeof *p), "the same parameters");
    mabn_net_free(b);
    b = NULL;
    file.model.classes = 3;
    tap_status(mabn_model_build(&b, device, &file.model, &options), "another classifier");
    tap_fails(mabn_model_file_load(&file, mabn_net_params(b), &load), MABN_ERR_MISMATCH, "fc.",
              "is refused");
    load = (struct mabn_model_load){.other_head = true};
    tap_status(mabn_model_file_load(&file, mabn_net_params(b), &load), "unless allowed");
    mabn_net_free(a);
    mabn_net_free(b);
    mabn_model_file_release(&file);
    mabn_device_free(device);
}

int main(void)
{
    if (!mkdtemp(folder)) return 1;
    snprintf(path, sizeof path, "%s/file", folder);
    schedules();
    paces();
    logs();
    predictions();
    labels();
    inputs();
    model_files();
    unlink(path);
    rmdir(folder);
    return tap_done();
}
