#include "base/progress.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

struct mabn_progress {
    pthread_mutex_t lock;
    const char *what, *unit;
    uint64_t total, done;
    double start, last_draw;
    bool terminal, quiet, drawn;
    char note[80];
};

double mabn_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds since this process began, to the hundredth. */
static double process_seconds(void)
{
    /* The 22nd word of the line; the second is the program's name in brackets. */
    char line[1024];
    unsigned long long began = 0;
    struct timespec now;
    FILE *f = fopen("/proc/self/stat", "r");
    if (!f) return 0;
    const char *at = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    fclose(f);
    for (int word = 3; at && word <= 22; word++)
        at = strchr(at + 1, ' ');
    if (!at || sscanf(at, "%llu", &began) != 1 || clock_gettime(CLOCK_BOOTTIME, &now)) return 0;
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec -
           (double)began / (double)sysconf(_SC_CLK_TCK);
}

void mabn_tell_start(const char *what)
{
    struct timespec used = {0};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    mabn_verbose("%s %.2f s after the start, %.2f s of processor time", what, process_seconds(),
                 (double)used.tv_sec + 1e-9 * (double)used.tv_nsec);
}

char *mabn_format_seconds(char buf[32], double seconds)
{
    long s = seconds > 0 ? (long)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(buf, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, 32, "%ld:%02ld", s / 60, s % 60);
    return buf;
}

struct mabn_progress *mabn_progress_new(const char *what, const char *unit, uint64_t total)
{
    struct mabn_progress *p = (struct mabn_progress *)mabn_xcalloc(1, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    p->what = what;
    p->unit = unit;
    p->total = total;
    p->start = mabn_now();
    p->terminal = isatty(STDERR_FILENO) && !(getenv("TERM") && !strcmp(getenv("TERM"), "dumb"));
    p->quiet = mabn_log_level_now() == MABN_LOG_QUIET;
    return p;
}

static int terminal_width(void)
{
    struct winsize size;
    if (!ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col > 20) return size.ws_col;
    return 80;
}

/* "packing  [=====>    ]  48%  1234/2560 images  812/s  ETA 0:07  note" */
static void compose(const struct mabn_progress *p, double now, struct mabn_str *line)
{
    double elapsed = now - p->start, rate = elapsed > 0 ? (double)p->done / elapsed : 0;
    char eta[32];
    mabn_str_add(line, p->what);
    if (p->total) {
        int filled = (int)(24.0 * (double)p->done / (double)p->total);
        if (filled > 24) filled = 24;
        if (p->terminal) {
            mabn_str_add(line, " [");
            for (int i = 0; i < 24; i++)
                mabn_str_add_char(line, i < filled ? '=' : i == filled ? '>' : ' ');
            mabn_str_add_char(line, ']');
        }
        mabn_str_printf(line, " %3d%%  %llu/%llu %s",
                        (int)(100.0 * (double)p->done / (double)p->total),
                        (unsigned long long)p->done, (unsigned long long)p->total, p->unit);
    } else {
        mabn_str_printf(line, "  %llu %s", (unsigned long long)p->done, p->unit);
    }
    mabn_str_printf(line, rate >= 10 ? "  %.0f/s" : "  %.2f/s", rate);
    if (p->total && p->done && p->done <= p->total)
        mabn_str_printf(line, "  ETA %s",
                        mabn_format_seconds(eta, (double)(p->total - p->done) / rate));
    if (p->note[0]) mabn_str_printf(line, "  %s", p->note);
}

static void draw(struct mabn_progress *p)
{
    double now = mabn_now(), interval = p->terminal ? 0.2 : 60;
    if (p->quiet || now - p->start < 2 || now - p->last_draw < interval) return;
    if (!p->terminal && !p->last_draw && now - p->start < interval) return;
    struct mabn_str line;
    mabn_str_init(&line);
    compose(p, now, &line);
    if (p->terminal) {
        size_t width = (size_t)terminal_width() - 1;
        fprintf(stderr, "\r%.*s\033[K", (int)(line.length < width ? line.length : width),
                line.text);
    } else {
        fprintf(stderr, "%s: %s\n", mabn_log_program(), line.text);
    }
    fflush(stderr);
    mabn_str_release(&line);
    p->last_draw = now;
    p->drawn = p->terminal;
}

void mabn_progress_add(struct mabn_progress *p, uint64_t n)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->done += n;
    draw(p);
    pthread_mutex_unlock(&p->lock);
}

void mabn_progress_set(struct mabn_progress *p, uint64_t done)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->done = done;
    draw(p);
    pthread_mutex_unlock(&p->lock);
}

void mabn_progress_note(struct mabn_progress *p, const char *format, ...)
{
    if (!p) return;
    va_list args;
    va_start(args, format);
    pthread_mutex_lock(&p->lock);
    vsnprintf(p->note, sizeof p->note, format, args);
    pthread_mutex_unlock(&p->lock);
    va_end(args);
}

static void erase(struct mabn_progress *p)
{
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
}

void mabn_progress_hide(struct mabn_progress *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    erase(p);
    pthread_mutex_unlock(&p->lock);
}

void mabn_progress_free(struct mabn_progress *p)
{
    if (!p) return;
    erase(p);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
