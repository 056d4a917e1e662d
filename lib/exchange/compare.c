/* Comparing two checkpoints, tensor by tensor, under our names. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "exchange/convert.h"
#include "exchange/weights_impl.h"

/* A tensor of one side, under the name by which it is compared. */
struct named {
    char *name;
    size_t index;
};

struct side {
    struct mabn_weights *w;
    struct named *items; /* sorted by name */
    size_t count;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* Momenta have a prefix, so that both parts are sorted in one list. */
static char *compared_name(enum mabn_names names, const struct mabn_weight *t)
{
    char *ours = mabn_names_to_ours(names, t->name);
    char *full = mabn_weights_join_name(ours ? ours : t->name, t->part);
    free(ours);
    return full;
}

static mabn_status open_side(struct side *s, const char *path)
{
    MABN_TRY(mabn_weights_open(&s->w, path));
    enum mabn_names names = mabn_names_guess(s->w);
    s->items = mabn_xcalloc(mabn_weights_count(s->w) + 1, sizeof *s->items);
    for (size_t i = 0; i < mabn_weights_count(s->w); i++) {
        const struct mabn_weight *t = mabn_weights_at(s->w, i);
        if (t->part == MABN_WEIGHT_OTHER || mabn_names_ignored(names, t->name)) continue;
        s->items[s->count].name = compared_name(names, t);
        s->items[s->count++].index = i;
    }
    qsort(s->items, s->count, sizeof *s->items, by_name);
    return MABN_OK;
}

static void release_side(struct side *s)
{
    for (size_t i = 0; i < s->count; i++)
        free(s->items[i].name);
    free(s->items);
    mabn_weights_free(s->w);
}

static bool same_dims(const struct mabn_shape *a, const struct mabn_shape *b)
{
    int64_t x[MABN_MAX_RANK], y[MABN_MAX_RANK];
    int n = 0, m = 0;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != 1) x[n++] = a->dim[i];
    for (int i = 0; i < b->rank; i++)
        if (b->dim[i] != 1) y[m++] = b->dim[i];
    return n == m && !memcmp(x, y, (size_t)n * sizeof *x);
}

static double value_at(const void *data, size_t i, enum mabn_dtype dtype)
{
    if (dtype == MABN_DTYPE_F64) return ((const double *)data)[i];
    if (dtype == MABN_DTYPE_I64) return (double)((const int64_t *)data)[i];
    if (dtype == MABN_DTYPE_I32) return ((const int32_t *)data)[i];
    float f;
    mabn_values_to_f32(&f, (const char *)data + i * mabn_dtype_size(dtype), 1, dtype);
    return f;
}

struct difference {
    double max_abs, max_rel;
    size_t worst, beyond;
};

static void compare_values(struct difference *d, const void *a, enum mabn_dtype da, const void *b,
                           enum mabn_dtype db, size_t n, double atol, double rtol)
{
    *d = (struct difference){0};
    for (size_t i = 0; i < n; i++) {
        double x = value_at(a, i, da), y = value_at(b, i, db);
        if (x == y || (isnan(x) && isnan(y))) continue;
        double abs = fabs(x - y), rel = abs / fmax(fabs(x), fabs(y));
        if (isnan(abs)) abs = rel = INFINITY;
        if (!(abs <= atol + rtol * fabs(y))) d->beyond++;
        if (abs > d->max_abs) {
            d->max_abs = abs;
            d->worst = i;
        }
        if (rel > d->max_rel) d->max_rel = rel;
    }
}

static mabn_status compare_pair(struct side *a, struct side *b, const struct named *x,
                                const struct named *y, double atol, double rtol,
                                struct mabn_compare *result, struct mabn_str *lines)
{
    const struct mabn_weight *t = mabn_weights_at(a->w, x->index);
    const struct mabn_weight *u = mabn_weights_at(b->w, y->index);
    char s1[160], s2[160];
    result->tensors++;
    if (!same_dims(&t->shape, &u->shape)) {
        mabn_str_printf(lines, "%s\tshapes %s and %s\n", x->name, mabn_shape_text(&t->shape, s1),
                        mabn_shape_text(&u->shape, s2));
        result->differing++;
        return MABN_OK;
    }
    void *p = NULL, *q = NULL;
    mabn_status status;
    MABN_TRY_GOTO(mabn_alloc(&p, t->bytes), out);
    MABN_TRY_GOTO(mabn_alloc(&q, u->bytes), out);
    MABN_TRY_GOTO(mabn_weights_read(a->w, x->index, p), out);
    MABN_TRY_GOTO(mabn_weights_read(b->w, y->index, q), out);
    if (t->dtype == u->dtype && !memcmp(p, q, t->bytes)) goto out;
    struct difference d;
    compare_values(&d, p, t->dtype, q, u->dtype, t->count, atol, rtol);
    if (d.max_abs > result->max_abs) {
        result->max_abs = d.max_abs;
        free(result->worst);
        result->worst = mabn_xstrdup(x->name);
    }
    if (d.max_rel > result->max_rel) result->max_rel = d.max_rel;
    if (d.beyond) {
        result->differing++;
        mabn_str_printf(lines, "%s\t%.9g\t%.9g\t%zu\n", x->name, d.max_abs, d.max_rel, d.worst);
    }
out:
    mabn_free(p);
    mabn_free(q);
    return status;
}

mabn_status mabn_compare_weights(const char *a, const char *b, double atol, double rtol,
                                 struct mabn_compare *result, struct mabn_str *lines)
{
    struct side x = {0}, y = {0};
    mabn_status status;
    *result = (struct mabn_compare){0};
    MABN_TRY_GOTO(open_side(&x, a), out);
    MABN_TRY_GOTO(open_side(&y, b), out);
    for (size_t i = 0, k = 0; i < x.count || k < y.count;) {
        int order = i == x.count ? 1 : k == y.count ? -1 : by_name(&x.items[i], &y.items[k]);
        if (order == 0) {
            MABN_TRY_GOTO(compare_pair(&x, &y, &x.items[i], &y.items[k], atol, rtol, result, lines),
                          out);
            i++;
            k++;
            continue;
        }
        mabn_str_printf(lines, "%s\tonly in '%s'\n", order < 0 ? x.items[i].name : y.items[k].name,
                        order < 0 ? a : b);
        result->missing++;
        if (order < 0)
            i++;
        else
            k++;
    }
out:
    release_side(&x);
    release_side(&y);
    return status;
}
