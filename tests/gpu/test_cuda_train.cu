/* Training and evaluation on a CUDA device. mabn_train writes the same lines as on the CPU, each
 * with its own step although results come late. A resumed run has the same bits, a loss that is not
 * finite ends the run, and predictions are in order. */
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "harness.h"
#include "store/dataset.h"
#include "train/evaluate.h"
#include "model/model_file.h"
#include "train/train.h"

enum { IMAGES = 22, SIDE = 8, CLASSES = 3, ROW = SIDE * SIDE * 3 };

static std::string folder;

static void must(mabn_status status)
{
    if (status) MABN_BUG("%s", mabn_error_message());
}

static void make_dataset(const std::string &path)
{
    struct mabn_dataset_spec spec = {};
    struct mabn_dataset_writer *w;
    const char *classes[CLASSES] = {"a", "b", "c"};
    std::vector<int32_t> labels;
    spec.kind = "imagenet";
    spec.raw = true;
    spec.height = spec.width = SIDE;
    spec.channels = 3;
    spec.count = IMAGES;
    spec.command = "test";
    must(mabn_dataset_writer_open(&w, path.c_str(), &spec));
    for (int i = 0; i < IMAGES; i++) {
        std::vector<uint8_t> pixels(ROW);
        struct mabn_dataset_sample sample = {};
        for (int k = 0; k < ROW; k++)
            pixels[(size_t)k] = (uint8_t)((i % CLASSES * 80 + k * (i + 3) * 7) % 251);
        sample.bytes = pixels.data();
        sample.size = pixels.size();
        sample.height = sample.width = SIDE;
        sample.channels = 3;
        sample.format = MABN_DATASET_RAW;
        must(mabn_dataset_writer_add(w, i, &sample));
        labels.push_back(i % CLASSES);
    }
    must(mabn_dataset_writer_set_classes(w, classes, CLASSES));
    must(mabn_dataset_writer_set_labels(w, labels.data()));
    must(mabn_dataset_writer_commit(w));
    mabn_dataset_writer_free(w, false);
}

struct options {
    std::string data, run;
    struct mabn_train_options o;

    options(const char *name, const char *device, int steps)
        : data(folder + "/data.h5"), run(folder + "/" + name)
    {
        mabn_train_options_init(&o);
        o.train = o.val = data.c_str();
        o.run = run.c_str();
        o.tool = o.command = "test";
        o.arch = "cifar-resnet8";
        o.norm.norm = "mabn";
        o.norm.norm_batch = 2;
        o.norm.window = 3;
        o.norm.r_start = 4;
        o.base_width = 4;
        o.batch = 6;
        o.val_batch = 5;
        o.steps = steps;
        o.schedule = MABN_SCHEDULE_CONSTANT;
        o.lr = 0.05;
        o.lr_exact = true;
        o.flip = 0.5;
        o.log_every = 2;
        o.val_every = 3;
        o.save_every = 4;
        o.keep = 9;
        o.threads = o.decoders = 1;
        o.seed = 3;
        o.device = device;
        o.precision = MABN_NET_FP32;
    }
    options(const options &) = delete;
};

/* "type step" and the figures of every step and val line. */
struct lines {
    std::vector<std::string> what;
    std::vector<float> figures;
};

static float figure(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    return at ? strtof(at + strlen(key), NULL) : NAN;
}

static lines read_lines(const struct options &o)
{
    lines out;
    char line[4000];
    FILE *file = fopen((o.run + "/metrics.jsonl").c_str(), "r");
    if (!file) MABN_BUG("no metrics in '%s'", o.run.c_str());
    while (fgets(line, sizeof line, file)) {
        const char *keys[] = {"\"loss\":", "\"top1\":", "\"top5\":"};
        if (!strncmp(line, "{\"t\":\"start", 11)) continue;
        out.what.push_back(std::string(line, strcspn(line, ",")) + " " +
                           std::to_string((int)figure(line, "\"step\":")));
        if (strncmp(line, "{\"t\":\"end", 9) == 0) continue;
        for (const char *key : keys)
            out.figures.push_back(figure(line, key));
    }
    fclose(file);
    return out;
}

static void compare(struct gpu_verdict &verdict, const lines &a, const lines &b, double tolerance)
{
    verdict.add("lines", a.what == b.what && a.what.size() > 4 ? 0 : 1, 0);
    verdict.add("figures", a.figures, b.figures, tolerance);
}

static std::vector<float> weights(const struct options &o, const char *name)
{
    struct mabn_model_file file = {};
    struct mabn_device *cpu;
    struct mabn_net *net;
    struct mabn_net_options no = {};
    struct mabn_model_load load = {};
    std::vector<float> all;
    must(mabn_model_file_open(&file, (o.run + "/" + name).c_str()));
    must(mabn_device_new(&cpu, MABN_DEVICE_CPU, 1));
    no.batch = 1;
    no.height = no.width = SIDE;
    must(mabn_model_build(&net, cpu, &file.model, &no));
    must(mabn_model_file_load(&file, mabn_net_params(net), &load));
    size_t count;
    const float *p = mabn_params_values(mabn_net_params(net), &count);
    all.assign(p, p + count);
    mabn_net_free(net);
    mabn_device_free(cpu);
    mabn_model_file_release(&file);
    return all;
}

static void test_course(void)
{
    const options cpu("cpu", "cpu", 10), gpu("gpu", "cuda", 10);
    struct gpu_verdict verdict;
    must(mabn_train(&cpu.o));
    must(mabn_train(&gpu.o));
    compare(verdict, read_lines(gpu), read_lines(cpu), 1e-3);
    verdict.add("weights", weights(gpu, "model.h5"), weights(cpu, "model.h5"), 1e-3);
    verdict.print("a run: the CPU's lines");
}

static void test_going_on(const char *name, enum mabn_net_precision precision)
{
    options gpu((std::string(name) + "-whole").c_str(), "cuda", 10);
    options apart((std::string(name) + "-apart").c_str(), "cuda", 5);
    struct gpu_verdict resumed;
    gpu.o.precision = apart.o.precision = precision;
    must(mabn_train(&gpu.o));
    must(mabn_train(&apart.o));
    apart.o.steps = 10;
    apart.o.resume = true;
    must(mabn_train(&apart.o));
    resumed.add("weights", weights(apart, "model.h5"), weights(gpu, "model.h5"), 0);
    resumed.add("last figures",
                fabs(read_lines(apart).figures.back() - read_lines(gpu).figures.back()), 0);
    resumed.print((std::string(name) + ": going on, the same bits").c_str());
}

static void test_not_finite(void)
{
    options o("nan", "cuda", 10);
    o.o.lr = 1e30;
    o.o.val = NULL;
    o.o.val_every = 0;
    o.o.save_every = 1000;
    tap_fails(mabn_train(&o.o), MABN_ERR_NONFINITE, "at step", "a loss that is not finite (%s)",
              GPU_RUNS_ON);
}

/* ---- evaluation ---- */

struct seen {
    std::vector<uint64_t> samples;
    std::vector<float> logits;
};

static mabn_status see(void *context, const struct mabn_batch *batch, const float *logits,
                       int classes)
{
    struct seen *s = (struct seen *)context;
    for (int i = 0; i < batch->count; i++) {
        s->samples.push_back(batch->samples[i]);
        s->logits.insert(s->logits.end(), logits + i * classes, logits + (i + 1) * classes);
    }
    return MABN_OK;
}

static struct mabn_eval_result evaluate(const char *device_word, const std::string &model,
                                        const std::string &data, struct seen *s)
{
    struct mabn_model_file file = {};
    struct mabn_dataset *ds;
    struct mabn_source source;
    struct mabn_device *device;
    struct mabn_net *net;
    struct mabn_net_options no = {};
    struct mabn_model_load load = {};
    struct mabn_eval_options eo = {};
    struct mabn_eval_result result;
    must(mabn_model_file_open(&file, model.c_str()));
    must(mabn_dataset_open(&ds, data.c_str()));
    mabn_source_of_dataset(&source, ds);
    must(mabn_device_open(&device, device_word, 1));
    no.batch = 4;
    no.height = file.input.height;
    no.width = file.input.width;
    no.precision = MABN_NET_FP32;
    no.bytes = mabn_eval_sends_bytes(device, &file.input);
    must(mabn_model_build(&net, device, &file.model, &no));
    must(mabn_model_file_load(&file, mabn_net_params(net), &load));
    eo.threads = 1;
    eo.labels = ds;
    eo.each = see;
    eo.context = s;
    must(mabn_evaluate(&result, net, &source, &file.input, &eo));
    mabn_net_free(net);
    mabn_device_free(device);
    mabn_dataset_free(ds);
    mabn_model_file_release(&file);
    return result;
}

static void test_evaluation(void)
{
    const options gpu("gpu", "cuda", 0);
    const std::string model = gpu.run + "/model.h5";
    struct seen a, b;
    struct gpu_verdict verdict;
    const struct mabn_eval_result x = evaluate("cuda", model, gpu.data, &a);
    const struct mabn_eval_result y = evaluate("cpu", model, gpu.data, &b);
    verdict.add("samples", a.samples == b.samples && a.samples.size() == IMAGES ? 0 : 1, 0);
    verdict.add("logits", a.logits, b.logits, 1e-4);
    verdict.add("images", fabs((double)(x.images - y.images)), 0);
    verdict.add("loss", fabs(x.loss - y.loss), 1e-4);
    verdict.add("top-1", fabs(x.top1 - y.top1), 0);
    verdict.print("evaluation: the CPU's figures, in order");
}

int main(void)
{
    char name[] = "/tmp/mabn-test-cuda-train-XXXXXX";
    if (!gpu_ready()) return tap_done();
    if (!mkdtemp(name)) MABN_BUG("no folder");
    folder = name;
    mabn_log_set_level(MABN_LOG_QUIET);
    make_dataset(folder + "/data.h5");
    test_course();
    test_going_on("fp32", MABN_NET_FP32);
    test_going_on("fp16", MABN_NET_FP16);
    test_evaluation();
    test_not_finite();
    if (system(("rm -rf '" + folder + "'").c_str())) puts("# the folder stays");
    return tap_done();
}
