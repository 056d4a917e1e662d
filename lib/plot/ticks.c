/* Positions and labels of ticks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plot/figure.h"

/* The smallest of 1, 2, 5 × 10^k that is at least `raw`. */
static double nice_step(double raw)
{
    double power = pow(10, floor(log10(raw)));
    double unit = raw / power;
    return power * (unit <= 1.0000001 ? 1 : unit <= 2.0000001 ? 2 : unit <= 5.0000001 ? 5 : 10);
}

static int linear_ticks(double low, double high, int max_ticks, double *ticks)
{
    double step = nice_step((high - low) / max_ticks);
    double first = ceil(low / step - 1e-9);
    int n = 0;
    while (n < max_ticks + 1 && (first + n) * step <= high + step * 1e-9) {
        ticks[n] = (first + n) * step;
        if (fabs(ticks[n]) < step * 1e-9) ticks[n] = 0;
        n++;
    }
    return n;
}

static int log_ticks(double base, double low, double high, int max_ticks, double *ticks)
{
    int first = (int)ceil(log(low) / log(base) - 1e-9);
    int last = (int)floor(log(high) / log(base) + 1e-9);
    int stride = 1, n = 0;
    while ((last - first) / stride + 1 > max_ticks)
        stride++;
    /* Exponents divisible by the stride, so that 1 stays a tick. */
    while (first % stride)
        first++;
    for (int e = first; e <= last && n < max_ticks; e += stride)
        ticks[n++] = pow(base, e);
    return n;
}

int mabn_plot_ticks(enum mabn_scale scale, double low, double high, int max_ticks, double *ticks)
{
    if (!(high > low)) return 0;
    if (scale == MABN_SCALE_LOG2) return log_ticks(2, low, high, max_ticks, ticks);
    if (scale == MABN_SCALE_LOG10) {
        int n = log_ticks(10, low, high, max_ticks, ticks);
        if (n >= 2) return n;
        /* Less than two decades: linear steps are more readable. */
    }
    return linear_ticks(low, high, max_ticks, ticks);
}

/* "1e-05" → "1e-5", "1e+07" → "1e7". */
static void shorten_exponent(char *text)
{
    char *e = strchr(text, 'e');
    if (!e) return;
    char *digits = e + 2 + (e[2] == '0');
    char *to = e + 1 + (e[1] == '-');
    memmove(to, digits, strlen(digits) + 1);
}

void mabn_plot_tick_label(char text[32], double value, double step)
{
    double size = fabs(value);
    if (value == 0) {
        strcpy(text, "0");
    } else if (size >= 1e7 || size < 1e-4 || step < 1e-5) {
        snprintf(text, 32, "%.3g", value);
        shorten_exponent(text);
    } else if (size >= 1e4 || (step >= 1000 && size >= 1000)) {
        int digits = step >= 1000 ? 0 : step >= 100 ? 1 : 2;
        snprintf(text, 32, "%.*fk", digits, value / 1000);
    } else {
        int digits = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
        snprintf(text, 32, "%.*f", digits, value);
        /* log ticks: the step does not limit the digits of values below it */
        if (strtod(text, NULL) == 0) {
            snprintf(text, 32, "%.3g", value);
            shorten_exponent(text);
        }
    }
}
