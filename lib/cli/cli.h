/* The command line of a tool: one table of options gives parsing, strict checks, --help with the
 * live defaults, and shell completion.
 * Only cmd/ includes this room.
 *
 * To add a tool:
 *   1. cmd/mabn-x.c: defaults struct → option table → main: mabn_cli_start, one to three library
 *      calls, results by base/out.h, `return mabn_cli_finish(status)`. No mathematics in cmd/.
 *   2. man/mabn-x.1, options in the order of --help (tests/cli/help.bats compares the two).
 *   3. tests/cli/mabn-x.bats: results, bad option, missing file, truncated file, /dev/full.
 *   4. a line in man/mabn.7. The Makefile finds the files by name.
 * To add an option: a row in the tool's table, a paragraph in its man page, a test.
 *
 * A tool with subcommands (mabn-pack imagenet|idx|list) gives one struct mabn_cli each and lets
 * mabn_cli_choose pick; each has its own table, help and section in the man page.
 *
 * Exit status: 0 done, 1 failed, 2 usage, 75 stopped by a signal after saving. */
#ifndef MABN_CLI_CLI_H
#define MABN_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "base/words.h"

#define MABN_VERSION "0.1.0"

enum { MABN_EXIT_OK = 0, MABN_EXIT_FAILED = 1, MABN_EXIT_USAGE = 2, MABN_EXIT_STOPPED = 75 };

enum mabn_option_kind {
    MABN_OPTION_END,    /* closes a table */
    MABN_OPTION_GROUP,  /* a heading in --help: `help` is its text */
    MABN_OPTION_FLAG,   /* bool *: true; with a long name also --no-NAME: false */
    MABN_OPTION_SWITCH, /* int *: --NAME 1, --no-NAME 0; as it was when neither is given */
    MABN_OPTION_INT,    /* int *, in [low, high]; suffixes K M G (powers of 1000) */
    MABN_OPTION_INT64,  /* int64_t *, likewise */
    MABN_OPTION_SIZE,   /* int64_t * bytes; suffixes K M G are powers of 1024 */
    MABN_OPTION_DOUBLE, /* double *, in [low, high]; NaN refused */
    MABN_OPTION_STRING, /* const char ** (borrowed from argv) */
    MABN_OPTION_CHOICE, /* int *: the value of one of `words` */
    MABN_OPTION_CALL, /* call(arg, value): returns a status whose message becomes the usage error */
    MABN_OPTION_PRESET, /* as CALL, but all presets are applied before all other options */
    MABN_OPTION_HELP,   /* --help and --version: only through MABN_OPTIONS_COMMON */
    MABN_OPTION_VERSION,
    MABN_OPTION_VERBOSE,
    MABN_OPTION_QUIET,
};

struct mabn_option {
    enum mabn_option_kind kind;
    char short_name;               /* 0: none */
    const char *long_name;         /* without dashes */
    void *value;                   /* see the kind */
    const char *argument;          /* "N", "FILE"; NULL for flags */
    const char *help;              /* one sentence, lower case, no full stop */
    double low, high;              /* inclusive; both 0: no check (ints: the type's own range) */
    const struct mabn_word *words; /* base/words.h */
    mabn_status (*call)(const char *argument, void *value);
    bool hide_default; /* do not print "[default]" in --help (unset strings never do) */
};

/* clang-format off */
#define MABN_OPT_GROUP(text) {.kind = MABN_OPTION_GROUP, .help = (text)}
#define MABN_OPT_FLAG(s, l, v, h) \
    {.kind = MABN_OPTION_FLAG, .short_name = (s), .long_name = (l), .value = (v), .help = (h)}
#define MABN_OPT_SWITCH(s, l, v, h) \
    {.kind = MABN_OPTION_SWITCH, .short_name = (s), .long_name = (l), .value = (v), .help = (h)}
#define MABN_OPT_INT(s, l, v, lo, hi, a, h)                                                \
    {.kind = MABN_OPTION_INT, .short_name = (s), .long_name = (l), .value = (v), .argument = (a), \
     .help = (h), .low = (lo), .high = (hi)}
#define MABN_OPT_INT64(s, l, v, lo, hi, a, h)                                                \
    {.kind = MABN_OPTION_INT64, .short_name = (s), .long_name = (l), .value = (v), .argument = (a), \
     .help = (h), .low = (lo), .high = (hi)}
#define MABN_OPT_SIZE(s, l, v, a, h)                                                        \
    {.kind = MABN_OPTION_SIZE, .short_name = (s), .long_name = (l), .value = (v), .argument = (a), \
     .help = (h)}
#define MABN_OPT_DOUBLE(s, l, v, lo, hi, a, h)                                               \
    {.kind = MABN_OPTION_DOUBLE, .short_name = (s), .long_name = (l), .value = (v), .argument = (a), \
     .help = (h), .low = (lo), .high = (hi)}
#define MABN_OPT_STRING(s, l, v, a, h)                                                        \
    {.kind = MABN_OPTION_STRING, .short_name = (s), .long_name = (l), .value = (v), .argument = (a), \
     .help = (h)}
#define MABN_OPT_CHOICE(s, l, v, w, h)                                                      \
    {.kind = MABN_OPTION_CHOICE, .short_name = (s), .long_name = (l), .value = (v), .words = (w), \
     .help = (h)}
#define MABN_OPT_CALL(s, l, f, v, a, h)                                                        \
    {.kind = MABN_OPTION_CALL, .short_name = (s), .long_name = (l), .call = (f), .value = (v), \
     .argument = (a), .help = (h)}
#define MABN_OPT_PRESET(s, l, f, v, a, h)                                                        \
    {.kind = MABN_OPTION_PRESET, .short_name = (s), .long_name = (l), .call = (f), .value = (v), \
     .argument = (a), .help = (h)}
#define MABN_OPT_END {.kind = MABN_OPTION_END}

/* Rows shared by the tools: every table ends with COMMON then END. */
#define MABN_OPT_THREADS(v) \
    MABN_OPT_INT('j', "threads", (v), 0, 1024, "N", "threads to use; 0: all that this process may use")
#define MABN_OPT_DEVICE(v) \
    MABN_OPT_STRING(0, "device", (v), "DEVICE", "cpu, cuda (the first GPU), cuda:N, or auto: a GPU if one can be used")
#define MABN_OPT_PRECISION(v) \
    MABN_OPT_CHOICE(0, "precision", (v), mabn_net_precisions, "type of activations and weights in use; auto: bf16 on a GPU, and for inference on a CPU with bf16 instructions; otherwise fp32")
#define MABN_OPT_SEED(v) \
    MABN_OPT_INT64(0, "seed", (v), 0, 0, "N", "seed of every random choice")
#define MABN_OPT_FORCE(v) \
    MABN_OPT_FLAG('f', "force", (v), "replace the output if it exists")
#define MABN_OPTIONS_COMMON                                                                       \
    {.kind = MABN_OPTION_VERBOSE, .short_name = 'v', .long_name = "verbose",                      \
     .help = "say more on standard error"},                                                       \
    {.kind = MABN_OPTION_QUIET, .short_name = 'q', .long_name = "quiet",                          \
     .help = "no progress and no remarks, only warnings and errors"},                             \
    {.kind = MABN_OPTION_HELP, .short_name = 'h', .long_name = "help", .help = "show this help"}, \
    {.kind = MABN_OPTION_VERSION, .long_name = "version", .help = "show version and libraries"}
/* clang-format on */

struct mabn_cli {
    const char *name;    /* "mabn-pack imagenet": tool, then subcommand */
    const char *usage;   /* "[OPTION]... DIR -o FILE": after the name; several lines allowed */
    const char *summary; /* one line: what it does */
    const struct mabn_option *options;
    const char *epilog;     /* examples, after the options; may be NULL */
    int min_args, max_args; /* positional arguments; max -1: any number */
    bool ranks;             /* works over ranks: see cli/ranks.h */
};

/* Parse. Sets the program name, installs signal handlers, handles --help, --version and, as the only word,
 * --list-options (for shell completion); these exit 0. On any misuse it prints one line and exits 2.
 * Returns the number of positional arguments, which *args then lists (borrowed from argv). Options and
 * arguments may mix; "--" ends options. */
int mabn_cli_start(const struct mabn_cli *cli, int argc, char **argv, char ***args);

/* Pick a subcommand by argv[1]. Prints the tool's own help for --help, its version for --version and the
 * names of its subcommands for --list-options, and exits 0. Exits 2 on none or unknown. The chosen entry
 * must then be started with argc-1, argv+1. `clis` ends with name NULL; returns its index. */
int mabn_cli_choose(const struct mabn_cli *clis, const char *tool, const char *summary, int argc,
                    char **argv);

/* For MABN_OPT_DEVICE and MABN_OPT_PRECISION (an int with values of enum mabn_net_precision; 0 is
 * auto): to be called after parsing. Exits 2 if the device's name is invalid, or if the CPU is
 * requested and does not have the precision. */
MABN_BEGIN_DECLS
extern const struct mabn_word mabn_net_precisions[]; /* net/net.h */
MABN_END_DECLS
void mabn_cli_check_machine(const char *device, int precision);
/* The precision for inference on this device if `precision` is auto; otherwise `precision`.
 * `exact`: exact sums were requested. */
struct mabn_device;
int mabn_cli_infer_precision(const struct mabn_device *device, int precision, bool exact);

/* Was this option on the command line? long_name: without dashes, in the tool's table. */
bool mabn_cli_given(const char *long_name);
/* The first of a NULL-terminated list of options that was on the command line; NULL: none was. */
const char *mabn_cli_first_given(const char *const *long_names);

/* A wrong combination found after parsing: one line, then exit 2. */
MABN_NORETURN void mabn_cli_usage_error(const char *format, ...) MABN_PRINTF(1, 2);
/* A usage error if an output is the same file as an input or another output, so that --force cannot destroy
 * the user's data. NULL for either is fine. */
void mabn_cli_check_output(const char *output, const char *other);

/* The command line as one shell-quoted string, for provenance in output files; static. */
const char *mabn_cli_command_line(void);

/* The last act of every main: prints the error message if status is not ok; flushes, closes and
 * checks stdout; returns the exit status (75 for MABN_ERR_STOPPED). */
int mabn_cli_finish(mabn_status status);

#endif
