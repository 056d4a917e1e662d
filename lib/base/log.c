/* Each message is one write to stderr, so that lines of several threads never mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/str.h"

static const char *program = "mabn";
static enum mabn_log_level level = MABN_LOG_NORMAL;
static int my_rank, all_ranks = 1;

void mabn_log_set_program(const char *name)
{
    program = name;
}

const char *mabn_log_program(void)
{
    return program;
}

void mabn_log_set_level(enum mabn_log_level new_level)
{
    level = new_level;
}

enum mabn_log_level mabn_log_level_now(void)
{
    return level;
}

void mabn_log_set_rank(int rank, int ranks)
{
    my_rank = rank;
    all_ranks = ranks;
}

int mabn_log_rank(void)
{
    return my_rank;
}

static void say(const char *kind, const char *format, va_list args)
{
    char text[4096];
    struct mabn_str line;
    mabn_str_init(&line);
    vsnprintf(text, sizeof text, format, args);
    if (all_ranks > 1 && *kind) mabn_str_printf(&line, "[rank %d] ", my_rank);
    mabn_str_printf(&line, "%s: %s%s\n", program, kind, text);
    fwrite(line.text, 1, line.length, stderr);
    mabn_str_release(&line);
}

void mabn_warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say("warning: ", format, args);
    va_end(args);
}

void mabn_info(const char *format, ...)
{
    if (level < MABN_LOG_NORMAL || my_rank) return;
    va_list args;
    va_start(args, format);
    say("", format, args);
    va_end(args);
}

void mabn_verbose(const char *format, ...)
{
    if (level < MABN_LOG_VERBOSE || my_rank) return;
    va_list args;
    va_start(args, format);
    say("", format, args);
    va_end(args);
}
