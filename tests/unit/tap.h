/* A unit test is a small main that prints TAP: `ok N - what`, `not ok N - what`, `ok N # skip`.
 *
 *     #include "tap.h"
 *     int main(void)
 *     {
 *         tap_ok(1 + 1 == 2, "addition");
 *         tap_close(y, 0.5, 1e-6, "y of the %s case", name);
 *         return tap_done();
 *     }
 */
#ifndef MABN_TESTS_TAP_H
#define MABN_TESTS_TAP_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

static int tap_count, tap_failures;

static inline void tap_line_(int ok, const char *where, const char *format, va_list args)
{
    printf("%s %d - ", ok ? "ok" : "not ok", ++tap_count);
    vprintf(format, args);
    putchar('\n');
    if (!ok) {
        tap_failures++;
        printf("#   at %s\n", where);
    }
    fflush(stdout);
}

MABN_PRINTF(3, 4) static inline int tap_ok_(int ok, const char *where, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    tap_line_(ok, where, format, args);
    va_end(args);
    return ok;
}

#define TAP_STR_(x) #x
#define TAP_STR(x) TAP_STR_(x)
#define TAP_HERE __FILE__ ":" TAP_STR(__LINE__)
#define tap_ok(condition, ...) tap_ok_(!!(condition), TAP_HERE, __VA_ARGS__)

/* A status that should be MABN_OK; prints the message when it is not. */
#define tap_status(expr, ...)                                                               \
    do {                                                                                    \
        mabn_status tap_s_ = (expr);                                                        \
        if (!tap_ok_(tap_s_ == MABN_OK, TAP_HERE, __VA_ARGS__))                             \
            printf("#   status: %s: %s\n", mabn_status_name(tap_s_), mabn_error_message()); \
    } while (0)
/* A status that should be `want`, with `text` somewhere in the message. */
#define tap_fails(expr, want, text, ...)                                                       \
    do {                                                                                       \
        mabn_status tap_s_ = (expr);                                                           \
        int tap_o_ = tap_s_ == (want) && strstr(mabn_error_message(), (text));                 \
        if (!tap_ok_(tap_o_, TAP_HERE, __VA_ARGS__))                                           \
            printf("#   status: %s: %s\n#   wanted: %s: ...%s...\n", mabn_status_name(tap_s_), \
                   mabn_error_message(), mabn_status_name(want), (text));                      \
    } while (0)
#define tap_close(got, want, tolerance, ...)                                       \
    do {                                                                           \
        double tap_g_ = (got), tap_w_ = (want);                                    \
        if (!tap_ok_(fabs(tap_g_ - tap_w_) <= (tolerance), TAP_HERE, __VA_ARGS__)) \
            printf("#   got %.17g, want %.17g\n", tap_g_, tap_w_);                 \
    } while (0)
#define tap_str_eq(got, want, ...)                                    \
    do {                                                              \
        const char *tap_g_ = (got), *tap_w_ = (want);                 \
        if (!tap_ok_(!strcmp(tap_g_, tap_w_), TAP_HERE, __VA_ARGS__)) \
            printf("#   got  %s\n#   want %s\n", tap_g_, tap_w_);     \
    } while (0)

MABN_PRINTF(1, 2) static inline void tap_skip(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("ok %d # skip ", ++tap_count);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

/* Largest |a-b| / max(1, |b|) over arrays. */
static inline double tap_max_error(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - b[i]) / fmax(1.0, fabs((double)b[i]));
        if (!(e <= worst)) worst = e;
    }
    return worst;
}

/* Largest difference, relative to the largest value wanted. */
static inline double tap_distance(const float *got, const float *want, size_t n)
{
    double error = 0, size = 1e-12;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]);
        if (!(e <= error)) error = e;
        size = fmax(size, fabs((double)want[i]));
    }
    return error / size;
}

static inline int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failures ? 1 : 0;
}

#endif
