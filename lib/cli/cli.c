/* Parsing is our own rather than getopt_long's, because one pass over one table must give presets
 * first, exact error texts, abbreviation-free long names and --no-NAME; it is under 200 lines. */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/out.h"
#include "base/signal.h"
#include "device/device.h"
#include "dist/launcher.h"

static const struct mabn_cli *current;
static char *given_set; /* one byte per row of the table */
static struct mabn_str command_line;

static int table_length(const struct mabn_option *options)
{
    int n = 0;
    while (options[n].kind != MABN_OPTION_END)
        n++;
    return n;
}

void mabn_cli_check_output(const char *output, const char *other)
{
    struct stat a, b;
    if (!output || !other) return;
    const bool same = !stat(output, &a) && !stat(other, &b)
                          ? S_ISREG(a.st_mode) && a.st_dev == b.st_dev && a.st_ino == b.st_ino
                          : !strcmp(output, other) && strcmp(output, "-") != 0;
    if (same) mabn_cli_usage_error("'%s' is to be written, and named a second time", output);
}

void mabn_cli_usage_error(const char *format, ...)
{
    va_list args;
    mabn_out_flush();
    if (mabn_log_rank()) exit(MABN_EXIT_USAGE); /* rank 0 says it for all */
    fprintf(stderr, "%s: ", mabn_log_program());
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " (try '%s --help')\n", current ? current->name : mabn_log_program());
    exit(MABN_EXIT_USAGE);
}

/* ---- values ---- */

/* Digits with an optional fraction for doubles and one suffix letter; the whole string or nothing. */
static bool parse_number(const char *text, double step, double *out)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || errno == ERANGE || isnan(value)) return false;
    if (step && *end) {
        const char *letters = "KMG", *at = strchr(letters, *end >= 'a' ? *end - 32 : *end);
        if (!at) return false;
        value *= pow(step, (double)(at - letters + 1));
        end++;
    }
    *out = value;
    return !*end;
}

/* Integers are parsed as integers, so that 2^63-1 arrives whole; a suffix multiplies exactly. */
static bool parse_integer(const char *text, long long step, long long *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10), factor = 1;
    if (end == text || errno == ERANGE) return false;
    if (*end) {
        const char *letters = "KMG", *at = strchr(letters, *end >= 'a' ? *end - 32 : *end);
        if (!at || end[1]) return false;
        for (const char *p = letters; p <= at; p++)
            factor *= step;
    }
    return !__builtin_mul_overflow(value, factor, out);
}

static const char *option_name(const struct mabn_option *o)
{
    static char text[80];
    if (o->long_name)
        snprintf(text, sizeof text, "--%s", o->long_name);
    else
        snprintf(text, sizeof text, "-%c", o->short_name);
    return text;
}

static void set_integer(const struct mabn_option *o, const char *text)
{
    long long value, low = LLONG_MIN, high = LLONG_MAX;
    if (o->kind == MABN_OPTION_INT) low = INT_MIN, high = INT_MAX;
    if (o->kind == MABN_OPTION_SIZE) low = 0;
    if (o->low != 0 || o->high != 0) {
        low = (long long)o->low;
        if (o->high < 9e18) high = (long long)o->high;
    }
    if (!parse_integer(text, o->kind == MABN_OPTION_SIZE ? 1024 : 1000, &value))
        mabn_cli_usage_error("%s: '%s' is not a whole number", option_name(o), text);
    if (value < low || value > high) {
        if (low == LLONG_MIN || high == LLONG_MAX)
            mabn_cli_usage_error("%s: %s must be at least %lld", option_name(o), text, low);
        mabn_cli_usage_error("%s: %s is not between %lld and %lld", option_name(o), text, low,
                             high);
    }
    if (o->kind == MABN_OPTION_INT)
        *(int *)o->value = (int)value;
    else
        *(int64_t *)o->value = value;
}

static void set_double(const struct mabn_option *o, const char *text)
{
    double value;
    if (!parse_number(text, 0, &value))
        mabn_cli_usage_error("%s: '%s' is not a number", option_name(o), text);
    if ((o->low != 0 || o->high != 0) && !(value >= o->low && value <= o->high))
        mabn_cli_usage_error("%s: %s is not between %g and %g", option_name(o), text, o->low,
                             o->high);
    *(double *)o->value = value;
}

static void set_choice(const struct mabn_option *o, const char *text)
{
    if (mabn_word_parse(o->value, o->words, option_name(o), text))
        mabn_cli_usage_error("%s", mabn_error_message());
}

/* Weak, so that a tool that computes nothing is not linked with oneDNN. Loading it would take such a tool
 * longer than all else that it does. */
extern __attribute__((weak)) const char *mabn_device_cpu_library(bool file);

static void show_libraries(void)
{
    mabn_out_print("%s %s\n", current->name, MABN_VERSION);
#ifdef __clang__
    mabn_out_print("built with %s, %s\n", __VERSION__, MABN_CUDA ? "CUDA" : "no CUDA");
#else
    mabn_out_print("built with gcc %s, %s\n", __VERSION__, MABN_CUDA ? "CUDA" : "no CUDA");
#endif
    if (mabn_device_cpu_library) mabn_out_print("%s\n", mabn_device_cpu_library(true));
}

static void show_help(const struct mabn_cli *cli);

static void apply(const struct mabn_option *o, const char *text, bool on)
{
    switch (o->kind) {
    case MABN_OPTION_FLAG:
        *(bool *)o->value = on;
        break;
    case MABN_OPTION_SWITCH:
        *(int *)o->value = on;
        break;
    case MABN_OPTION_INT:
    case MABN_OPTION_INT64:
    case MABN_OPTION_SIZE:
        set_integer(o, text);
        break;
    case MABN_OPTION_DOUBLE:
        set_double(o, text);
        break;
    case MABN_OPTION_STRING:
        *(const char **)o->value = text;
        break;
    case MABN_OPTION_CHOICE:
        set_choice(o, text);
        break;
    case MABN_OPTION_CALL:
    case MABN_OPTION_PRESET:
        if (o->call(text, o->value))
            mabn_cli_usage_error("%s: %s", option_name(o), mabn_error_message());
        break;
    case MABN_OPTION_VERBOSE:
        mabn_log_set_level(MABN_LOG_VERBOSE);
        break;
    case MABN_OPTION_QUIET:
        mabn_log_set_level(MABN_LOG_QUIET);
        break;
    case MABN_OPTION_HELP:
        show_help(current);
        exit(mabn_cli_finish(MABN_OK));
    case MABN_OPTION_VERSION:
        show_libraries();
        exit(mabn_cli_finish(MABN_OK));
    case MABN_OPTION_GROUP:
    case MABN_OPTION_END:
        break;
    }
}

static bool takes_value(const struct mabn_option *o)
{
    return o->kind >= MABN_OPTION_INT && o->kind <= MABN_OPTION_PRESET;
}

/* ---- the command line ---- */

static const struct mabn_option *find_long(const char *name, size_t n, bool *on)
{
    *on = true;
    for (const struct mabn_option *o = current->options; o->kind != MABN_OPTION_END; o++)
        if (o->long_name && strlen(o->long_name) == n && !strncmp(o->long_name, name, n)) return o;
    if (n > 3 && !strncmp(name, "no-", 3)) {
        *on = false;
        for (const struct mabn_option *o = current->options; o->kind != MABN_OPTION_END; o++)
            if ((o->kind == MABN_OPTION_FLAG || o->kind == MABN_OPTION_SWITCH) && o->long_name &&
                strlen(o->long_name) == n - 3 && !strncmp(o->long_name, name + 3, n - 3))
                return o;
    }
    return NULL;
}

static const struct mabn_option *find_short(char c)
{
    for (const struct mabn_option *o = current->options; o->kind != MABN_OPTION_END; o++)
        if (o->short_name && o->short_name == c) return o;
    return NULL;
}

/* Options are applied in the pass their kind belongs to; both passes walk the words alike. */
static void apply_in_pass(const struct mabn_option *o, const char *text, bool on, bool presets)
{
    if (presets != (o->kind == MABN_OPTION_PRESET)) return;
    given_set[o - current->options] = 1;
    apply(o, text, on);
}

/* argv[i] is "--name", "--name=value" or "--no-name"; returns the index of the last word used. */
static int parse_long(int argc, char **argv, int i, bool presets)
{
    const char *word = argv[i] + 2, *equals = strchr(word, '=');
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    bool on;
    const struct mabn_option *o = find_long(word, n, &on);
    if (!o) mabn_cli_usage_error("unknown option '--%.*s'", (int)n, word);
    if (!takes_value(o)) {
        if (equals) mabn_cli_usage_error("option '--%s' takes no value", o->long_name);
        apply_in_pass(o, NULL, on, presets);
        return i;
    }
    if (!equals && i + 1 >= argc) mabn_cli_usage_error("option '--%s' needs a value", o->long_name);
    apply_in_pass(o, equals ? equals + 1 : argv[i + 1], on, presets);
    return equals ? i : i + 1;
}

/* argv[i] is "-abc" or "-oVALUE"; returns the index of the last word used. */
static int parse_short(int argc, char **argv, int i, bool presets)
{
    for (const char *p = argv[i] + 1; *p; p++) {
        const struct mabn_option *o = find_short(*p);
        if (!o) mabn_cli_usage_error("unknown option '-%c'", *p);
        if (!takes_value(o)) {
            apply_in_pass(o, NULL, true, presets);
            continue;
        }
        if (!p[1] && i + 1 >= argc) mabn_cli_usage_error("option '-%c' needs a value", *p);
        apply_in_pass(o, p[1] ? p + 1 : argv[i + 1], true, presets);
        return p[1] ? i : i + 1;
    }
    return i;
}

static int parse_words(int argc, char **argv, char **args, bool presets)
{
    int count = 0;
    bool options = true;
    for (int i = 1; i < argc; i++) {
        if (options && !strcmp(argv[i], "--"))
            options = false;
        else if (options && !strncmp(argv[i], "--", 2))
            i = parse_long(argc, argv, i, presets);
        else if (options && argv[i][0] == '-' && argv[i][1])
            i = parse_short(argc, argv, i, presets);
        else
            args[count++] = argv[i];
    }
    return count;
}

static void remember_command_line(const char *name, int argc, char **argv)
{
    mabn_str_init(&command_line);
    mabn_str_add(&command_line, name);
    for (int i = 1; i < argc; i++) {
        mabn_str_add_char(&command_line, ' ');
        mabn_str_add_shell(&command_line, argv[i]);
    }
}

const char *mabn_cli_command_line(void)
{
    return command_line.text;
}

/* The tool's name is the first word of cli->name; messages carry that alone. */
static const char *program_of(const char *name)
{
    static char program[64];
    snprintf(program, sizeof program, "%.*s", (int)strcspn(name, " "), name);
    return program;
}

static void list_options(const struct mabn_cli *cli)
{
    for (const struct mabn_option *o = cli->options; o->kind != MABN_OPTION_END; o++)
        if (o->long_name) mabn_out_print("--%s%s\n", o->long_name, takes_value(o) ? "=" : "");
    exit(mabn_cli_finish(MABN_OK));
}

/* A program may be started with standard input, output or error closed. The first file it opens
 * would then take the free number: results would go into it, and libraries that mistake 0 for "no
 * file" would fail. Hold the numbers with descriptors that cannot be used as what they stand for,
 * so that reading or writing still fails as it does on a closed one. */
static void hold_standard_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        int held = open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        if (held >= 0 && held != fd) close(held);
    }
}

static const char *look(const char *name)
{
    return getenv(name);
}

/* Learn this rank's number, so that an error that all ranks find is reported once. If this fails,
 * mabn_cli_open_ranks reports it. */
static void find_rank(void)
{
    struct mabn_launcher launcher;
    if (mabn_launcher_detect(&launcher, look)) mabn_error_clear();
    mabn_log_set_rank(launcher.rank, launcher.ranks);
}

int mabn_cli_start(const struct mabn_cli *cli, int argc, char **argv, char ***args)
{
    hold_standard_streams();
    current = cli;
    if (cli->ranks) find_rank();
    mabn_log_set_program(program_of(cli->name));
    mabn_signals_install();
    remember_command_line(cli->name, argc, argv);
    given_set = (char *)mabn_xcalloc((size_t)table_length(cli->options) + 1, 1);
    if (argc == 2 && !strcmp(argv[1], "--list-options")) list_options(cli);
    static char **found; /* lives as long as the program; static, so that it is no leak */
    found = (char **)mabn_xcalloc((size_t)argc + 1, sizeof *found);
    parse_words(argc, argv, found, true);
    int count = parse_words(argc, argv, found, false);
    found[count] = NULL;
    if (count < cli->min_args)
        mabn_cli_usage_error(count ? "missing argument after '%s'" : "missing arguments: %s %s",
                             count ? found[count - 1] : cli->name, cli->usage);
    if (cli->max_args >= 0 && count > cli->max_args)
        mabn_cli_usage_error("unexpected argument '%s'", found[cli->max_args]);
    *args = found;
    return count;
}

bool mabn_cli_given(const char *long_name)
{
    for (int i = 0; current->options[i].kind != MABN_OPTION_END; i++)
        if (current->options[i].long_name && !strcmp(current->options[i].long_name, long_name))
            return given_set[i];
    MABN_BUG("no option '%s'", long_name);
}

const char *mabn_cli_first_given(const char *const *long_names)
{
    while (*long_names && !mabn_cli_given(*long_names))
        long_names++;
    return *long_names;
}

/* ---- help ---- */

static void add_default(const struct mabn_option *o, struct mabn_str *s)
{
    if (o->hide_default) return;
    switch (o->kind) {
    case MABN_OPTION_FLAG:
        if (*(const bool *)o->value) mabn_str_add(s, " [on]");
        break;
    case MABN_OPTION_INT:
        mabn_str_printf(s, " [%d]", *(const int *)o->value);
        break;
    case MABN_OPTION_INT64:
    case MABN_OPTION_SIZE:
        mabn_str_printf(s, " [%lld]", *(const long long *)o->value);
        break;
    case MABN_OPTION_DOUBLE:
        if (!isnan(*(const double *)o->value)) /* NaN: the default depends on other things */
            mabn_str_printf(s, " [%g]", *(const double *)o->value);
        break;
    case MABN_OPTION_STRING:
        if (*(const char *const *)o->value)
            mabn_str_printf(s, " [%s]", *(const char *const *)o->value);
        break;
    case MABN_OPTION_CHOICE:
        mabn_str_printf(s, " [%s]", mabn_word_name(o->words, *(const int *)o->value));
        break;
    default:
        break;
    }
}

static void wrap(const char *text, size_t from, size_t width)
{
    size_t column = from;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (column > from && column + 1 + n > width) {
            mabn_out_print("\n%*s", (int)from, "");
            column = from;
        } else if (column > from) {
            mabn_out_print(" ");
            column++;
        }
        mabn_out_print("%.*s", (int)n, text);
        column += n;
        text += n + strspn(text + n, " ");
    }
    mabn_out_print("\n");
}

static void show_option(const struct mabn_option *o)
{
    struct mabn_str left, right;
    if (o->kind == MABN_OPTION_GROUP) {
        mabn_out_print("\n%s:\n", o->help);
        return;
    }
    mabn_str_init(&left);
    mabn_str_init(&right);
    mabn_str_add(&left, "  ");
    if (o->short_name)
        mabn_str_printf(&left, "-%c%s", o->short_name, o->long_name ? ", " : "");
    else
        mabn_str_add(&left, "    ");
    if (o->long_name) mabn_str_printf(&left, "--%s", o->long_name);
    if (o->argument) mabn_str_printf(&left, " %s", o->argument);
    if (o->kind == MABN_OPTION_CHOICE) {
        mabn_str_add_char(&left, ' ');
        mabn_word_list(&left, o->words, "|");
    }
    mabn_str_add(&right, o->help);
    add_default(o, &right);
    if (left.length > 27)
        mabn_out_print("%s\n%*s", left.text, 29, "");
    else
        mabn_out_print("%-29s", left.text);
    wrap(right.text, 29, 98);
    mabn_str_release(&left);
    mabn_str_release(&right);
}

static void show_help(const struct mabn_cli *cli)
{
    const char *line = cli->usage;
    for (const char *lead = "usage: "; *line; lead = "       ") {
        size_t n = strcspn(line, "\n");
        mabn_out_print("%s%s %.*s\n", lead, cli->name, (int)n, line);
        line += n + (line[n] == '\n');
    }
    mabn_out_print("\n%s\n", cli->summary);
    if (cli->options[0].kind != MABN_OPTION_GROUP) mabn_out_print("\nOptions:\n");
    for (const struct mabn_option *o = cli->options; o->kind != MABN_OPTION_END; o++)
        show_option(o);
    if (cli->epilog) mabn_out_print("\n%s\n", cli->epilog);
}

static void list_commands(const struct mabn_cli *clis, const char *tool, const char *summary)
{
    mabn_out_print("usage: %s COMMAND ...\n\n%s\n\nCommands:\n", tool, summary);
    for (int i = 0; clis[i].name; i++)
        mabn_out_print("  %-12s %s\n", clis[i].name + strlen(tool) + 1, clis[i].summary);
    mabn_out_print("\nSee '%s COMMAND --help'.\n", tool);
}

int mabn_cli_choose(const struct mabn_cli *clis, const char *tool, const char *summary, int argc,
                    char **argv)
{
    static struct mabn_option common[] = {MABN_OPTIONS_COMMON, MABN_OPT_END};
    static struct mabn_cli self;
    hold_standard_streams();
    self = (struct mabn_cli){
        .name = tool, .usage = "COMMAND ...", .summary = summary, .options = common};
    current = &self;
    mabn_log_set_program(program_of(tool));
    if (argc < 2) mabn_cli_usage_error("missing command");
    for (int i = 0; clis[i].name; i++)
        if (!strcmp(argv[1], clis[i].name + strlen(tool) + 1)) return i;
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        list_commands(clis, tool, summary);
        exit(mabn_cli_finish(MABN_OK));
    }
    if (!strcmp(argv[1], "--version")) {
        show_libraries();
        exit(mabn_cli_finish(MABN_OK));
    }
    if (!strcmp(argv[1], "--list-options")) {
        for (int i = 0; clis[i].name; i++)
            mabn_out_print("%s\n", clis[i].name + strlen(tool) + 1);
        exit(mabn_cli_finish(MABN_OK));
    }
    mabn_cli_usage_error("unknown command '%s'", argv[1]);
}

/* ---- the end ---- */

int mabn_cli_finish(mabn_status status)
{
    if (status)
        fprintf(stderr, "%s: %s\n", mabn_log_program(),
                *mabn_error_message() ? mabn_error_message() : mabn_status_name(status));
    /* A full disk may show itself only when the last buffer is written. */
    if (mabn_out_close() && !status) {
        fprintf(stderr, "%s: %s\n", mabn_log_program(), mabn_error_message());
        return MABN_EXIT_FAILED;
    }
    return !status                      ? MABN_EXIT_OK
           : status == MABN_ERR_STOPPED ? MABN_EXIT_STOPPED
                                        : MABN_EXIT_FAILED;
}
