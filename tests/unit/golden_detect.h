/* For tests: reading the detector recordings of $MABN_GOLDEN/det, and comparing with them. */
#ifndef MABN_TESTS_GOLDEN_DETECT_H
#define MABN_TESTS_GOLDEN_DETECT_H

#include "golden.h"

#include "base/str.h"
#include "detect/paste.h"

static struct mabn_scratch scratch;

/* ---- reading ---- */

#define get(file, ...) h5array_read(file, h5array_name(__VA_ARGS__))
#define number(file, ...) h5array_number(file, h5array_name(__VA_ARGS__))
#define get_int(file, count, ...) ints_read(file, count, h5array_name(__VA_ARGS__))
#define exists(file, ...) (H5Lexists(file, h5array_name(__VA_ARGS__), H5P_DEFAULT) > 0)

/* As integers, in the same storage order; caller frees. */
static inline int32_t *ints_read(hid_t file, size_t *count, const char *name)
{
    struct h5array a = h5array_read(file, name);
    int32_t *out = malloc((a.count + 1) * sizeof *out);
    for (size_t i = 0; i < a.count; i++)
        out[i] = (int32_t)a.values[i];
    if (count) *count = a.count;
    free(a.values);
    return out;
}

/* ---- comparing ---- */

static inline void same_floats(const float *got, const struct h5array *want, double tolerance,
                               const char *what)
{
    double worst = tap_max_error(got, want->values, want->count);
    tap_ok(worst <= tolerance, "%s: %zu numbers, largest error %.2e", what, want->count, worst);
}

static inline void same_ints(const int32_t *got, const int32_t *want, size_t n, const char *what)
{
    size_t bad = 0, first = 0;
    for (size_t i = n; i-- > 0;)
        if (got[i] != want[i]) {
            bad++;
            first = i;
        }
    tap_ok(bad == 0, "%s: %zu integers", what, n);
    if (bad)
        printf("#   %zu differ, first at %zu: %d, not %d\n", bad, first, got[first], want[first]);
}

/* Paste each box's map and compare the compressed counts. valid NULL: all. */
static inline void same_rles(hid_t f, const char *rle, const float *map, const float *box, size_t n,
                             int width, int height, const struct mabn_box_convention *c,
                             const int32_t *valid)
{
    size_t length, bad = 0;
    char *want = h5array_strings(f, &length, rle);
    struct mabn_rle mask;
    struct mabn_str text;
    mabn_str_init(&text);
    mabn_rle_init(&mask);
    for (size_t i = 0; i < n; i++) {
        mabn_str_clear(&text);
        if (valid && !valid[i]) continue;
        if (mabn_paste(&mask, map + 784 * i, 28, box + 4 * i, width, height, c, &scratch)) bad++;
        mabn_rle_to_string(&text, &mask);
        if (text.length != strnlen(want + i * length, length) ||
            memcmp(text.text, want + i * length, text.length)) {
            printf("#   mask %zu differs\n", i);
            bad++;
        }
    }
    tap_ok(bad == 0, "%s: %zu pasted masks, %zu differ", rle, n, bad);
    mabn_rle_release(&mask);
    mabn_str_release(&text);
    free(want);
}

/* ---- files ---- */

static inline void with_file(const char *folder, const char *name, void (*check)(hid_t file))
{
    char path[4096];
    snprintf(path, sizeof path, "%s/det/%s", folder, name);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (!tap_ok(file >= 0, "open %s", path)) return;
    check(file);
    H5Fclose(file);
}

#endif
