/* mabn-info: show the contents of a file. */
#include <stdio.h>

#include "base/out.h"
#include "base/thread.h"
#include "cli/cli.h"
#include "coco/inspect.h"
#include "exchange/info.h"

static struct mabn_info_options o;

static const struct mabn_option options[] = {
    MABN_OPT_FLAG(0, "json", &o.json, "one JSON object a file, on one line"),
    MABN_OPT_FLAG('l', "list", &o.list, "list every array or tensor, every fault"),
    MABN_OPT_FLAG(0, "verify", &o.verify, "compare every checksum; list the faults of annotations"),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_cli cli = {
    .name = "mabn-info",
    .usage = "[OPTION]... FILE...",
    .summary = "show what datasets, checkpoints, weights files and COCO annotations contain",
    .options = options,
    .epilog = "Examples:\n  mabn-info train.h5\n  mabn-info --verify run/*.h5\n"
              "  mabn-info --verify instances_train2017.json\n"
              "  mabn-info --json model.h5 | jq -r '.arrays[].name'\n",
    .min_args = 1,
    .max_args = -1};

static mabn_status describe(struct mabn_str *text, const char *path)
{
    struct mabn_inspect_options inspect = {.json = o.json, .verify = o.verify, .all = o.list};
    if (mabn_coco_looks_like_json(path)) return mabn_coco_inspect(text, path, &inspect);
    return mabn_info_describe(text, path, &o);
}

int main(int argc, char **argv)
{
    char **args;
    struct mabn_str text;
    int count = mabn_cli_start(&cli, argc, argv, &args);
    mabn_status status = MABN_OK;
    if (!o.threads) o.threads = mabn_threads_available();
    mabn_str_init(&text);
    for (int i = 0; i < count && !status; i++) {
        mabn_str_clear(&text);
        status = describe(&text, args[i]);
        if (text.length) mabn_out_write(text.text, text.length);
    }
    mabn_str_release(&text);
    return mabn_cli_finish(status);
}
