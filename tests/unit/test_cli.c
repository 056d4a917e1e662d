/* cli: every kind of option, what it refuses, and the message. mabn_cli_start ends the process on
 * misuse, so each case runs in a child, whose stderr and exit status are checked. */
#include "tap.h"

#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/cli.h"

static struct {
    bool fold;
    int batch;
    int64_t bytes, seed;
    double lr;
    const char *out;
    int norm;
    int preset;
} o;

static mabn_status preset(const char *name, void *value)
{
    (void)value;
    if (strcmp(name, "big")) return mabn_fail(MABN_ERR_ARG, "unknown preset '%s'", name);
    o.batch = 256;
    o.lr = 0.1;
    return MABN_OK;
}

static const struct mabn_word norms[] = {{0, "bn"}, {1, "mabn"}, {0, NULL}};
static const struct mabn_option options[] = {
    MABN_OPT_FLAG(0, "fold", &o.fold, "fold"),
    MABN_OPT_INT('b', "batch", &o.batch, 1, 4096, "N", "batch"),
    MABN_OPT_SIZE(0, "bytes", &o.bytes, "SIZE", "bytes"),
    MABN_OPT_SEED(&o.seed),
    MABN_OPT_DOUBLE(0, "lr", &o.lr, 0, 100, "X", "rate"),
    MABN_OPT_STRING('o', "out", &o.out, "FILE", "output"),
    MABN_OPT_CHOICE(0, "norm", &o.norm, norms, "norm"),
    MABN_OPT_PRESET(0, "preset", preset, NULL, "NAME", "preset"),
    MABN_OPTIONS_COMMON,
    MABN_OPT_END,
};
static const struct mabn_cli cli = {
    .name = "mabn-test",
    .usage = "[OPTION]... FILE...",
    .summary = "Test.",
    .options = options,
    .min_args = 1,
    .max_args = 2,
};

static char said[4096]; /* what the child wrote to stderr (or stdout) */

/* Run these arguments in a child that prints its configuration; returns the exit status. */
static int child(const char *const *words, int fd)
{
    int pipe_ends[2], status, argc = 0;
    if (pipe(pipe_ends)) exit(1);
    while (words[argc])
        argc++;
    fflush(stdout);
    pid_t pid = fork();
    if (!pid) {
        dup2(pipe_ends[1], fd);
        close(fd == 1 ? 2 : 1);
        close(pipe_ends[0]);
        char **args;
        memset(&o, 0, sizeof o);
        o.fold = true;
        o.batch = 32;
        mabn_cli_start(&cli, argc, (char **)(uintptr_t)words, &args);
        dprintf(fd, "fold=%d batch=%d bytes=%lld seed=%lld lr=%g out=%s norm=%d ", o.fold, o.batch,
                (long long)o.bytes, (long long)o.seed, o.lr, o.out ? o.out : "none", o.norm);
        dprintf(fd, "first=%s given=%d %s", args[0], mabn_cli_given("batch"),
                mabn_cli_command_line());
        _exit(0);
    }
    close(pipe_ends[1]);
    size_t n = 0;
    ssize_t got;
    while (n + 1 < sizeof said && (got = read(pipe_ends[0], said + n, sizeof said - 1 - n)) > 0)
        n += (size_t)got;
    said[n] = '\0';
    close(pipe_ends[0]);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define RUN(...) child((const char *const[]){"mabn-test", __VA_ARGS__, NULL}, 2)

static void accepts(void)
{
    tap_ok(RUN("-b64", "in", "--bytes=2K", "--lr", "1e-3", "--no-fold", "--norm=mabn", "-o", "-") ==
               0,
           "a good command line");
    tap_ok(strstr(said, "fold=0 batch=64 bytes=2048 seed=0 lr=0.001 out=- norm=1 "),
           "its configuration: %s", said);
    tap_ok(strstr(said, "first=in given=1 mabn-test -b64 in"), "argument and command line kept");
    tap_ok(RUN("--lr", "0.5", "--preset", "big", "in put") == 0 && strstr(said, "lr=0.5") &&
               strstr(said, "batch=256") && strstr(said, "'in put'"),
           "a preset comes first wherever it stands; words are quoted");
    tap_ok(RUN("--", "--lr") == 0 && strstr(said, "first=--lr"), "-- ends the options");
    tap_ok(RUN("-", "--seed", "9223372036854775807") == 0 &&
               strstr(said, "seed=9223372036854775807"),
           "- is an argument; the largest seed arrives whole");
    tap_ok(RUN("x", "-b", "4K") == 0 && strstr(said, "batch=4000"), "K is 1000 for counts");
}

static void refuses(void)
{
    static const struct {
        const char *words[3], *message;
    } bad[] = {
        {{"--batch", "0", "x"}, "--batch: 0 is not between 1 and 4096"},
        {{"--batch", "3.5", "x"}, "--batch: '3.5' is not a whole number"},
        {{"--batch", "12x", "x"}, "--batch: '12x' is not a whole number"},
        {{"--batch", "", "x"}, "--batch: '' is not a whole number"},
        {{"--batch", "99999999999999999999", "x"}, "is not a whole number"},
        {{"--bytes", "-1", "x"}, "--bytes: -1 must be at least 0"},
        {{"--lr", "nan", "x"}, "--lr: 'nan' is not a number"},
        {{"--lr", "1e999", "x"}, "--lr: '1e999' is not a number"},
        {{"--lr", "-1", "x"}, "--lr: -1 is not between 0 and 100"},
        {{"--norm", "gn", "x"}, "unknown --norm 'gn': expected bn, mabn"},
        {{"--preset", "small", "x"}, "--preset: unknown preset 'small'"},
        {{"--fold=1", "x", NULL}, "option '--fold' takes no value"},
        {{"--batc", "3", "x"}, "unknown option '--batc'"},
        {{"-z", "x", NULL}, "unknown option '-z'"},
        {{"x", "--lr", NULL}, "option '--lr' needs a value"},
        {{"x", "y", "z"}, "unexpected argument 'z'"},
        {{"-v", NULL, NULL}, "missing arguments"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *const *w = bad[i].words;
        tap_ok(RUN(w[0], w[1], w[2]) == 2 && strstr(said, bad[i].message), "refuses: %s",
               bad[i].message);
        if (!strstr(said, bad[i].message)) printf("#   said: %s\n", said);
    }
}

int main(void)
{
    accepts();
    refuses();
    tap_ok(child((const char *const[]){"mabn-test", "--help", NULL}, 1) == 0 &&
               strstr(said, "-b, --batch N") && strstr(said, "batch [32]") &&
               strstr(said, "--norm bn|mabn") && strstr(said, "fold [on]"),
           "--help shows live defaults");
    tap_ok(child((const char *const[]){"mabn-test", "--list-options", NULL}, 1) == 0 &&
               !strncmp(said, "--fold\n--batch=\n", 16),
           "--list-options serves completion");
    return tap_done();
}
