/* mabn-plot: figures from training logs and tables of scores. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "plot/logs.h"
#include "plot/tables.h"

static struct {
    const char *outputs[8];
    int n_outputs;
    const char *title, *layer;
    int width, height, smooth, channel;
    bool force, more, by_step;
} o;

static mabn_status add_output(const char *argument, void *value)
{
    (void)value;
    if (o.n_outputs == 8) return mabn_fail(MABN_ERR_ARG, "more than 8 outputs");
    o.outputs[o.n_outputs++] = argument;
    return MABN_OK;
}

/* clang-format off */
#define OPT_OUTPUT MABN_OPT_CALL('o', "output", add_output, NULL, "FILE", "the picture, .png or .svg; may be given again; - is SVG on standard output")
#define OPTS_LOOK                                                                                 \
    MABN_OPT_STRING(0, "title", &o.title, "TEXT", "the figure's title"),                          \
    MABN_OPT_INT(0, "width", &o.width, 0, 10000, "POINTS", "width; PNG has two pixels to a point; 0: by the number of panels"), \
    MABN_OPT_INT(0, "height", &o.height, 0, 10000, "POINTS", "height; 0: by the number of panels"), \
    MABN_OPT_FORCE(&o.force), MABN_OPTIONS_COMMON, MABN_OPT_END

static const struct mabn_option curves_options[] = {
    OPT_OUTPUT,
    MABN_OPT_INT('s', "smooth", &o.smooth, 0, 100000, "N", "training loss as the mean over N lines; 1: no mean, 0: chosen"),
    MABN_OPT_FLAG(0, "steps", &o.by_step, "steps on the x axis, not epochs"),
    MABN_OPT_FLAG(0, "more", &o.more, "also draw validation loss, a detector's five losses, and learning rate"),
    OPTS_LOOK,
};
static const struct mabn_option sweep_options[] = {OPT_OUTPUT, OPTS_LOOK};
static const struct mabn_option scores_options[] = {OPT_OUTPUT, OPTS_LOOK};
static const struct mabn_option stats_options[] = {
    OPT_OUTPUT,
    MABN_OPT_STRING('l', "layer", &o.layer, "NAME", "the norm layer; the first in the file when not given"),
    MABN_OPT_INT('c', "channel", &o.channel, 0, 1 << 24, "N", "its channel"),
    OPTS_LOOK,
};
/* clang-format on */

enum { CURVES, SWEEP, STATS, SCORES };
static const struct mabn_cli clis[] = {
    [CURVES] = {.name = "mabn-plot curves",
                .usage = "[OPTION]... [NAME=]LOG... -o FILE",
                .summary = "training loss and validation error, or AP, for any number of logs",
                .options = curves_options,
                .epilog = "Example:\n  mabn-plot curves BN=bn/metrics.jsonl "
                          "MABN=mabn/metrics.jsonl -o curves.png",
                .min_args = 1,
                .max_args = -1},
    [SWEEP] = {.name = "mabn-plot sweep",
               .usage = "[OPTION]... LOG... -o FILE",
               .summary = "last validation error against normalization batch, a line for each norm",
               .options = sweep_options,
               .epilog = "Example:\n  mabn-plot sweep runs/*/metrics.jsonl -o sweep.svg",
               .min_args = 1,
               .max_args = -1},
    [STATS] = {.name = "mabn-plot stats",
               .usage = "[OPTION]... [NAME=]STATS... -o FILE",
               .summary = "a norm layer's recorded batch statistics over steps",
               .options = stats_options,
               .epilog = "Example:\n  mabn-plot stats b2.jsonl b32.jsonl --layer layer1.0.bn1 "
                         "-o stats.png",
               .min_args = 1,
               .max_args = -1},
    [SCORES] = {.name = "mabn-plot scores",
                .usage = "[OPTION]... [NAME=]TABLE... -o FILE",
                .summary = "tables of mabn-score coco --pr, --calibration or --confusion",
                .options = scores_options,
                .epilog = "Example:\n  mabn-plot scores old=old.tsv new=new.tsv -o pr.png",
                .min_args = 1,
                .max_args = -1},
    {.name = NULL},
};

/* NAME=FILE, unless a file of that whole name exists. The copies live as long as the program. */
static void split_name(struct mabn_log_source *log, const char *arg)
{
    const char *equals = strchr(arg, '=');
    bool named = equals && equals > arg && !mabn_path_exists(arg);
    log->name = named ? mabn_xstrndup(arg, (size_t)(equals - arg)) : NULL;
    log->path = named ? equals + 1 : arg;
}

static mabn_status draw(int which, const struct mabn_log_source *logs, int n)
{
    struct mabn_figure *figure = NULL;
    mabn_status status;
    if (which == CURVES) {
        struct mabn_curve_options curves = {o.smooth, o.by_step, o.more};
        status = mabn_plot_curves(&figure, o.title, logs, n, &curves);
    } else if (which == SWEEP) {
        status = mabn_plot_sweep(&figure, o.title, logs, n);
    } else if (which == SCORES) {
        status = mabn_plot_tables(&figure, o.title, logs, n);
    } else {
        status = mabn_plot_stats(&figure, o.title, logs, n, o.layer, o.channel);
    }
    for (int i = 0; i < o.n_outputs && !status; i++)
        status = mabn_figure_save(figure, o.outputs[i], o.width, o.height, o.force);
    mabn_figure_free(figure);
    return status;
}

int main(int argc, char **argv)
{
    char **args;
    int which =
        mabn_cli_choose(clis, "mabn-plot", "draw training logs and tables of scores", argc, argv);
    int n = mabn_cli_start(&clis[which], argc - 1, argv + 1, &args);
    if (!o.n_outputs) mabn_cli_usage_error("no picture to write: give -o FILE");
    struct mabn_log_source *logs = mabn_xcalloc((size_t)n, sizeof *logs);
    for (int i = 0; i < n; i++)
        split_name(&logs[i], args[i]);
    mabn_status status = draw(which, logs, n);
    for (int i = 0; i < n; i++)
        free((char *)logs[i].name);
    free(logs);
    return mabn_cli_finish(status);
}
