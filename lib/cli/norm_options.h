/* The options that say what a network's norms are: the same rows, words and defaults in every tool
 * that makes a network. `r` is a struct mabn_norm_request *. */
#ifndef MABN_CLI_NORM_OPTIONS_H
#define MABN_CLI_NORM_OPTIONS_H

#include "cli/cli.h"
#include "model/norm_request.h"

/* clang-format off */
#define MABN_OPT_NORM(r) \
    MABN_OPT_STRING('n', "norm", &(r)->norm, "NORM", "bn, brn, syncbn, mabn, frozen, gn, ln, in, frn, evonorm-s0 or none; or part by part: body=mabn,stem=frozen; default: mabn, or as in a given model")
#define MABN_OPTIONS_NORM(r) \
    MABN_OPT_INT('B', "norm-batch", &(r)->norm_batch, -1, 1 << 20, "N", "images of one batch statistic; 0: the whole batch; -1: as in a given model, or the whole batch"), \
    MABN_OPT_INT('m', "window", &(r)->window, -1, 1 << 16, "M", "mabn: statistics in the moving average; 0: 16, or as in a given model"), \
    MABN_OPT_CALL(0, "window-rule", mabn_cli_window_rule, &(r)->window_rule, "RULE", "mabn: the window runs over sub-batches (subbatch) or over iterations (iteration)"), \
    MABN_OPT_INT(0, "norm-warmup", &(r)->warmup, -1, 1 << 30, "N", "mabn, iteration rule: steps before the window is used; -1: 100"), \
    MABN_OPT_INT(0, "r-start", &(r)->r_start, -1, 1 << 30, "N", "mabn: first step with the renormalizing factor; -1: as in the reference"), \
    MABN_OPT_INT(0, "groups", &(r)->groups, 0, 1 << 16, "N", "gn and evonorm-s0: groups of channels; 0: 32, or as in a given model"), \
    MABN_OPT_DOUBLE(0, "norm-eps", &(r)->eps, 0, 1, "E", "added to variances; 0: the norm's default, or as in a given model"), \
    MABN_OPT_DOUBLE(0, "norm-momentum", &(r)->momentum, 0, 1, "A", "share of the old running value that is kept; 0: the norm's default, or as in a given model"), \
    MABN_OPT_SWITCH(0, "sync-weighted", &(r)->sync_weighted, "syncbn: every value counts equally; --no-sync-weighted: every shard, as in the reference. Default: every value, unless a preset or a given model says otherwise")
/* clang-format on */

/* For MABN_OPTIONS_NORM: a word to an int, enum mabn_window_rule. */
mabn_status mabn_cli_window_rule(const char *argument, void *value);

#endif
