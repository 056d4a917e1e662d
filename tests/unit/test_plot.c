/* Ticks, their labels, and what figures refuse. How figures look is judged by eye. */
#include "plot/figure.h"
#include "tap.h"

static void ticks(void)
{
    double t[32];
    int n = mabn_plot_ticks(MABN_SCALE_LINEAR, 0, 1, 5, t);
    tap_ok(n == 6 && t[0] == 0, "linear ticks of [0,1]");
    tap_close(t[5], 1, 1e-12, "the last is 1");
    n = mabn_plot_ticks(MABN_SCALE_LINEAR, -0.3, 0.3, 6, t);
    tap_ok(n == 7 && t[3] == 0, "0 is exactly 0 among them");
    n = mabn_plot_ticks(MABN_SCALE_LOG2, 0.9, 36, 10, t);
    tap_ok(n == 6 && t[0] == 1 && t[5] == 32, "powers of two");
    n = mabn_plot_ticks(MABN_SCALE_LOG10, 1e-6, 1e6, 5, t);
    tap_ok(n >= 3 && n <= 5, "decades are thinned out, %d ticks", n);
    n = mabn_plot_ticks(MABN_SCALE_LOG10, 2, 9, 5, t);
    tap_ok(n > 2 && t[1] - t[0] == t[2] - t[1], "less than two decades: linear steps");
    tap_ok(mabn_plot_ticks(MABN_SCALE_LINEAR, 1, 1, 5, t) == 0, "no width, no ticks");
    for (double scale = 1e-9; scale < 1e12; scale *= 7) {
        n = mabn_plot_ticks(MABN_SCALE_LINEAR, -scale / 3, scale, 8, t);
        if (n < 3 || n > 9) tap_ok(0, "%d ticks at scale %g", n, scale);
    }
}

static void labels(void)
{
    static const struct {
        double value, step;
        const char *text;
    } cases[] = {{0, 1, "0"},        {0.5, 0.5, "0.5"},      {20000, 5000, "20k"},
                 {5000, 5000, "5k"}, {-0.05, 0.05, "-0.05"}, {1e-5, 1e-5, "1e-5"},
                 {2e7, 1e7, "2e7"},  {100, 50, "100"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        mabn_plot_tick_label(text, cases[i].value, cases[i].step);
        tap_str_eq(text, cases[i].text, "label of %g", cases[i].value);
    }
    char a[32], b[32];
    mabn_plot_tick_label(a, 12500, 500);
    mabn_plot_tick_label(b, 13000, 500);
    tap_ok(strcmp(a, b) != 0, "neighbours differ: %s and %s", a, b);
}

static void figures(void)
{
    const double x[] = {1, 2, 3}, y[] = {1, NAN, 2}, none[] = {NAN, NAN, NAN};
    struct mabn_figure *figure = mabn_figure_new("title", "note");
    struct mabn_panel *panel = mabn_figure_add_panel(figure, "y", "x");
    tap_ok(!mabn_figure_has_data(figure), "an empty figure has no data");
    mabn_panel_add(panel, "a", MABN_LOOK_LINE, x, none, NULL, 3);
    tap_ok(!mabn_figure_has_data(figure), "nor one of NaNs");
    mabn_panel_add(panel, "b", MABN_LOOK_POINTS, x, y, NULL, 3);
    mabn_panel_set_scale(panel, MABN_SCALE_LOG2, MABN_SCALE_LOG10);
    tap_ok(mabn_figure_has_data(figure), "one point is data");
    tap_fails(mabn_figure_save(figure, "x.pdf", 0, 0, true), MABN_ERR_ARG, ".png or .svg",
              "an unknown ending");
    tap_fails(mabn_figure_save(figure, "/nowhere/x.svg", 0, 0, true), MABN_ERR_IO, "/nowhere",
              "a folder that is not there");
    mabn_figure_free(figure);
    mabn_figure_free(NULL);
}

int main(void)
{
    ticks();
    labels();
    figures();
    return tap_done();
}
