/* Every algorithm of a float32 convolution in training, in turns: the tables of lib/ops/conv_strategy.c. Prints
 * the best of ROUNDS in ms, and which one the shape alone would choose.
 *
 *     bench_algorithms BATCH SIDE IN OUT KERNEL STRIDE [ROUNDS [cold]]
 *
 * cold: other memory is written before each, so that weights and pictures are out of the caches. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/progress.h"
#include "ops/conv_internal.h"

enum { SPOILED = 64 << 20 };

static const char *const names[STRATEGIES] = {[WINOGRAD] = "winograd",
                                              [DIRECT] = "direct",
                                              [BLOCKED] = "blocked",
                                              [MATRIX] = "matrix",
                                              [IMPLICIT] = "implicit"};

struct arrays {
    float *x, *y, *weight, *dweight;
    char *spoil; /* SPOILED bytes, or NULL */
};

static bool can(const struct mabn_conv *c, int which, int strategy)
{
    if (strategy == MATRIX) return which != FORWARD && conv_is_product(c);
    if (strategy == IMPLICIT) return conv_is_implicit(c);
    return strategy != WINOGRAD || conv_is_winograd(c);
}

static mabn_status run(struct mabn_conv *c, int which, const struct arrays *a, void *scratch)
{
    if (which == FORWARD)
        return mabn_conv_strategy_forward(c, a->y, a->x, a->weight, NULL, NULL, scratch);
    if (which == TO_DATA)
        return mabn_conv_strategy_data(c, a->x, a->y, a->weight, NULL, false, scratch);
    return mabn_conv_strategy_weights(c, a->dweight, a->x, a->y, scratch);
}

static mabn_status time_once(double *best, struct mabn_conv *c, int which, const struct arrays *a,
                             void *scratch)
{
    for (size_t i = 0; a->spoil && i < SPOILED; i += 64)
        a->spoil[i]++;
    const double start = mabn_now();
    MABN_TRY(run(c, which, a, scratch));
    *best = fmin(*best, mabn_now() - start);
    return MABN_OK;
}

static mabn_status time_pass(const struct mabn_conv *like, int which, const struct arrays *a,
                             int rounds)
{
    struct mabn_conv conv[STRATEGIES];
    double best[STRATEGIES];
    bool there[STRATEGIES];
    size_t need = 0;
    void *scratch;
    for (int s = 0; s < STRATEGIES; s++) {
        conv[s] = *like;
        conv[s].strategy[which] = (enum strategy)s;
        best[s] = INFINITY;
        there[s] =
            can(like, which, s) && !mabn_conv_make_strategy(&conv[s].pass[which], &conv[s], which);
        if (there[s] && conv[s].pass[which].scratch > need) need = conv[s].pass[which].scratch;
    }
    MABN_TRY(mabn_device_scratch(like->device, &scratch, need + 64));
    for (int r = 0; r < rounds; r++)
        for (int s = 0; s < STRATEGIES; s++)
            if (there[s]) MABN_TRY(time_once(&best[s], &conv[s], which, a, scratch));
    printf("%s", (const char *[]){"forward", "to data", "to weights"}[which]);
    for (int s = 0; s < STRATEGIES; s++)
        if (there[s]) printf("\t%s %.2f", names[s], best[s] * 1e3);
    printf("\t(usual: %s)\n", names[mabn_conv_usual_strategy(like, which)]);
    for (int s = 0; s < STRATEGIES; s++)
        mabn_conv_pass_release(&conv[s].pass[which]);
    return MABN_OK;
}

int main(int argc, char **argv)
{
    struct mabn_conv c = {.options = {.training = true}};
    struct arrays a = {0};
    if (argc < 7) {
        fprintf(stderr,
                "usage: bench_algorithms BATCH SIDE IN OUT KERNEL STRIDE [ROUNDS [cold]]\n");
        return 2;
    }
    const int n = atoi(argv[1]), side = atoi(argv[2]), in = atoi(argv[3]), out = atoi(argv[4]),
              kernel = atoi(argv[5]), stride = atoi(argv[6]);
    c.shape = (struct mabn_conv_shape){n, side, side, in, out, kernel, stride, kernel / 2};
    c.oh = c.ow = mabn_conv_out(side, kernel, stride, kernel / 2);
    const size_t weights = (size_t)(in * out * kernel * kernel);
    a.x = mabn_xcalloc((size_t)n * (size_t)(side * side * in), sizeof *a.x);
    a.y = mabn_xcalloc((size_t)n * (size_t)(c.oh * c.ow * out), sizeof *a.y);
    a.weight = mabn_xcalloc(weights, sizeof *a.weight);
    a.dweight = mabn_xcalloc(weights, sizeof *a.dweight);
    if (argc > 8) a.spoil = mabn_xcalloc(SPOILED, 1);
    mabn_status status = mabn_device_new(&c.device, MABN_DEVICE_CPU, 0);
    for (int which = FORWARD; which <= TO_WEIGHTS && !status; which++)
        status = time_pass(&c, which, &a, argc > 7 ? atoi(argv[7]) : 10);
    if (status) fprintf(stderr, "bench_algorithms: %s\n", mabn_error_message());
    mabn_device_free(c.device);
    free(a.x);
    free(a.y);
    free(a.weight);
    free(a.dweight);
    free(a.spoil);
    return status ? 1 : 0;
}
