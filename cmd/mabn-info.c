/* mabn-info: what is in a file. */
#include <stdio.h>

#include "base/thread.h"
#include "cli/cli.h"
#include "store/info.h"

static struct mabn_info_options o;

static const struct mabn_option options[] = {
    MABN_OPT_FLAG(0, "json", &o.json, "one JSON object a file, on one line"),
    MABN_OPT_FLAG('l', "list", &o.list, "list every array or tensor"),
    MABN_OPT_FLAG(0, "verify", &o.verify, "compare every checksum in the file"),
    MABN_OPT_THREADS(&o.threads),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};

static const struct mabn_cli cli = {
    "mabn-info",
    "[OPTION]... FILE...",
    "what is in datasets, checkpoints and weights files",
    options,
    "Examples:\n  mabn-info train.h5\n  mabn-info --verify run/*.h5\n"
    "  mabn-info --json model.h5 | jq -r '.arrays[].name'\n",
    1,
    -1};

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
        status = mabn_info_describe(&text, args[i], &o);
        if (!status) fputs(text.text, stdout);
    }
    mabn_str_release(&text);
    return mabn_cli_finish(status);
}
