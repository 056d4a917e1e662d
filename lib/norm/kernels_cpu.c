/* The heavy kernels on the CPU: see kernels.h.
 *
 * Each body is written once, with flags that are constants where it is used. Every combination thus
 * becomes its own loop without branches, for each instruction set. Sums add four rows at a time and go
 * to double every BLOCK rows, after 16 float additions: a relative error of about 1e-7.
 *
 * Every loop walks a whole row, then the next, in the order of memory. Several rows side by side, or rows
 * cut into parts, reach half of its bandwidth.
 *
 * Rows are float32 or bfloat16; all arithmetic is float32. A bfloat16 row is read as 32-bit words of
 * two values each, which shifts and masks take apart and put together: moving 16-bit values
 * between vector lanes takes longer than reading them. Coefficients and float sums then lie in the
 * words' order: first those of all even channels, then those of all odd ones. */
#include "norm/kernels.h"

#include <string.h>

#include "tensor/bf16.h"

#define BLOCK 64     /* rows between two flushes to double */
#define COLUMNS 2048 /* channels whose float sums are kept at a time; even */
/* Of an array of them: with powers of two the same channel of all arrays would fall into one set of the
 * first cache. */
#define ROOM (COLUMNS + 48)

#define BODY static inline __attribute__((always_inline))

enum format {
    FULL,  /* float32 */
    WORDS, /* bfloat16, an even number of channels */
    HALF,  /* bfloat16, any number: value by value, for the simplest processor */
    FORMATS
};

static enum format format_of(bool half, int64_t width)
{
    return !half ? FULL : width % 2 ? HALF : WORDS;
}

/* Values in a lane; lane l of column c is channel c·LANES + l, and is kept at l·columns + c. */
#define LANES(format) ((format) == WORDS ? 2 : 1)

BODY int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Column c of the row at offset o. */
BODY void get(float v[2], const void *p, int64_t o, int64_t c, const enum format format)
{
    uint32_t word;
    if (format != WORDS) {
        v[0] = mabn_at(p, o + c, format == HALF);
        return;
    }
    memcpy(&word, (const uint16_t *)p + o + 2 * c, sizeof word);
    const uint32_t even = word << 16, odd = word & 0xffff0000;
    memcpy(&v[0], &even, sizeof even);
    memcpy(&v[1], &odd, sizeof odd);
}

BODY void put(void *p, int64_t o, int64_t c, const float v[2], const enum format format)
{
    if (format != WORDS) {
        mabn_put(p, o + c, v[0], format == HALF);
        return;
    }
    const uint32_t word = mabn_bf16_upper(v[0]) >> 16 | (mabn_bf16_upper(v[1]) & 0xffff0000);
    memcpy((uint16_t *)p + o + 2 * c, &word, sizeof word);
}

/* `from` (width) in the order of the lanes: itself, or a copy in `room`. */
BODY const float *in_lanes(float *room, const float *from, int64_t width, const enum format format)
{
    if (format != WORDS) return from;
    for (int64_t c = 0; c < width / 2; c++) {
        room[c] = from[2 * c];
        room[width / 2 + c] = from[2 * c + 1];
    }
    return room;
}

BODY void flush(double *total, float *part, int64_t width, const enum format format)
{
    const int64_t n = width / LANES(format);
    for (int64_t c = 0; c < n; c++)
        for (int l = 0; l < LANES(format); l++)
            total[c * LANES(format) + l] += part[l * n + c];
    memset(part, 0, (size_t)width * sizeof *part);
}

/* ---- sums of four rows: (0 + 1) + (2 + 3) ---- */

enum turn { FIRST, SECOND, THIRD, FOURTH, ALONE }; /* of the row at hand */

struct sums {
    float total[ROOM];
    float pair[ROOM], third[ROOM]; /* rows 0 + 1; row 2 */
};

BODY void clear(struct sums *s, int64_t width)
{
    memset(s->total, 0, (size_t)min64(width, COLUMNS) * sizeof *s->total);
}

BODY void add_up(struct sums *s, int64_t i, float v, const enum turn turn)
{
    if (turn == FIRST) s->pair[i] = v;
    if (turn == SECOND) s->pair[i] += v;
    if (turn == THIRD) s->third[i] = v;
    if (turn == FOURTH) s->total[i] += s->pair[i] + (s->third[i] + v);
    if (turn == ALONE) s->total[i] += v;
}

/* ---- forward sums ---- */

/* Float sums over columns c0 to c0 + w. */
struct moments {
    const void *x;
    const float *shift; /* in lanes; NULL: only squares */
    struct sums *s, *q;
    int64_t n; /* columns */
};

BODY void moments_of_row(const struct moments *m, int64_t o, const enum turn turn,
                         const bool shifted, const enum format format)
{
    const struct moments k = *m;

#pragma GCC ivdep
    for (int64_t c = 0; c < k.n; c++) {
        float x[2];
        get(x, k.x, o, c, format);
        for (int l = 0; l < LANES(format); l++) {
            const int64_t i = l * k.n + c;
            const float d = shifted ? x[l] - k.shift[i] : x[l];
            if (shifted) add_up(k.s, i, d, turn);
            add_up(k.q, i, d * d, turn);
        }
    }
}

BODY void moments_body(double *sum, double *square, const void *x, const float *shift, int64_t rows,
                       int64_t width, const bool shifted, const enum format format)
{
    float room[ROOM];
    struct sums s, q;

    if (shifted) clear(&s, width);
    clear(&q, width);
    for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
        const int64_t end = min64(r0 + BLOCK, rows);
        for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
            const int64_t w = min64(COLUMNS, width - c0);
            struct moments m = {x, NULL, &s, &q, w / LANES(format)};
            if (shifted) m.shift = in_lanes(room, shift + c0, w, format);
            int64_t r = r0, o = r * width + c0;
            for (; r + 4 <= end; r += 4, o += 4 * width) {
                moments_of_row(&m, o, FIRST, shifted, format);
                moments_of_row(&m, o + width, SECOND, shifted, format);
                moments_of_row(&m, o + 2 * width, THIRD, shifted, format);
                moments_of_row(&m, o + 3 * width, FOURTH, shifted, format);
            }
            for (; r < end; r++, o += width)
                moments_of_row(&m, o, ALONE, shifted, format);
            if (shifted) flush(sum + c0, s.total, w, format);
            flush(square + c0, q.total, w, format);
        }
    }
}

#define MOMENTS_AS(clones, name, shifted, format)                                           \
    clones static void name(double *sum, double *square, const void *x, const float *shift, \
                            int64_t rows, int64_t width)                                    \
    {                                                                                       \
        moments_body(sum, square, x, shift, rows, width, shifted, format);                  \
    }
#define MOMENTS(name, shifted)                            \
    MOMENTS_AS(MABN_CLONES, name##_full, shifted, FULL)   \
    MOMENTS_AS(MABN_CLONES, name##_words, shifted, WORDS) \
    MOMENTS_AS(, name##_half, shifted, HALF)
MOMENTS(square, false)
MOMENTS(moments, true)

#define ALL(name)                              \
    {                                          \
        name##_full, name##_words, name##_half \
    }

void mabn_kernel_square(double *square, const void *x, bool half, int64_t rows, int64_t width)
{
    static void (*const kernels[FORMATS])(double *, double *, const void *, const float *, int64_t,
                                          int64_t) = ALL(square);
    kernels[format_of(half, width)](0, square, x, 0, rows, width);
}

void mabn_kernel_moments(double *sum, double *square, const void *x, bool half, const float *shift,
                         int64_t rows, int64_t width)
{
    static void (*const kernels[FORMATS])(double *, double *, const void *, const float *, int64_t,
                                          int64_t) = ALL(moments);
    kernels[format_of(half, width)](sum, square, x, shift, rows, width);
}

/* ---- forward apply ---- */

BODY float affine(float x, float a, float b, float residual, const bool add, const bool relu)
{
    float v = a * x + b;
    if (add) v += residual;
    return relu ? (v < 0 ? 0 : v) : v; /* NaN passes */
}

struct applying {
    void *y;
    const void *x, *residual;
    const float *a, *b; /* in lanes */
    struct sums *q;     /* of x² */
    int64_t n;          /* columns */
};

BODY void apply_row(const struct applying *given, int64_t o, const enum turn turn, const bool add,
                    const bool relu, const bool sum, const enum format format)
{
    const struct applying k = *given;

#pragma GCC ivdep
    for (int64_t c = 0; c < k.n; c++) {
        float x[2], s[2], v[2];
        get(x, k.x, o, c, format);
        if (add) get(s, k.residual, o, c, format);
        for (int l = 0; l < LANES(format); l++) {
            const int64_t i = l * k.n + c;
            if (sum) add_up(k.q, i, x[l] * x[l], turn);
            v[l] = affine(x[l], k.a[i], k.b[i], add ? s[l] : 0, add, relu);
        }
        put(k.y, o, c, v, format);
    }
}

BODY void apply_body(void *y, double *square, const void *x, const void *residual, const float *a,
                     const float *b, int64_t rows, int64_t width, const bool add, const bool relu,
                     const bool sum, const enum format format)
{
    float room_a[ROOM], room_b[ROOM];
    struct sums q;

    if (sum) clear(&q, width);
    for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
        const int64_t end = min64(r0 + BLOCK, rows);
        for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
            const int64_t w = min64(COLUMNS, width - c0), n = w / LANES(format);
            const struct applying k = {y,
                                       x,
                                       residual,
                                       in_lanes(room_a, a + c0, w, format),
                                       in_lanes(room_b, b + c0, w, format),
                                       &q,
                                       n};
            int64_t r = r0, o = r * width + c0;
            for (; sum && r + 4 <= end; r += 4, o += 4 * width) {
                apply_row(&k, o, FIRST, add, relu, sum, format);
                apply_row(&k, o + width, SECOND, add, relu, sum, format);
                apply_row(&k, o + 2 * width, THIRD, add, relu, sum, format);
                apply_row(&k, o + 3 * width, FOURTH, add, relu, sum, format);
            }
            for (; r < end; r++, o += width)
                apply_row(&k, o, ALONE, add, relu, sum, format);
            if (sum) flush(square + c0, q.total, w, format);
        }
    }
}

#define APPLY_AS(clones, name, add, relu, sum, format)                                    \
    clones static void name(void *y, double *square, const void *x, const void *residual, \
                            const float *a, const float *b, int64_t rows, int64_t width)  \
    {                                                                                     \
        apply_body(y, square, x, residual, a, b, rows, width, add, relu, sum, format);    \
    }
#define APPLY(name, add, relu, sum)                            \
    APPLY_AS(MABN_CLONES, name##_full, add, relu, sum, FULL)   \
    APPLY_AS(MABN_CLONES, name##_words, add, relu, sum, WORDS) \
    APPLY_AS(, name##_half, add, relu, sum, HALF)
APPLY(apply_plain, false, false, false)
APPLY(apply_relu, false, true, false)
APPLY(apply_add, true, false, false)
APPLY(apply_add_relu, true, true, false)
APPLY(apply_plain_sum, false, false, true)
APPLY(apply_relu_sum, false, true, true)
APPLY(apply_add_sum, true, false, true)
APPLY(apply_add_relu_sum, true, true, true)

void mabn_kernel_apply(void *y, double *square, const void *x, const void *residual, bool half,
                       const float *a, const float *b, bool relu, int64_t rows, int64_t width)
{
    static void (*const kernels[2][2][2][FORMATS])(
        void *, double *, const void *, const void *, const float *, const float *, int64_t,
        int64_t) = {{{ALL(apply_plain), ALL(apply_relu)}, {ALL(apply_add), ALL(apply_add_relu)}},
                    {{ALL(apply_plain_sum), ALL(apply_relu_sum)},
                     {ALL(apply_add_sum), ALL(apply_add_relu_sum)}}};
    kernels[!!square][!!residual][relu][format_of(half, width)](y, square, x, residual, a, b, rows,
                                                                width);
}

/* ---- backward ---- */

/* What masked() needs of the channels c0 to c0 + w, in lanes. */
struct grad_columns {
    const float *a, *b, *shift;
    int64_t n;
};

/* g (2): the gradient behind ReLU in column c of the row at offset o. x (2): the input. */
BODY void masked(float g[2], const float x[2], const struct mabn_kernel_grad *in,
                 const struct grad_columns *k, int64_t o, int64_t c, const enum mabn_mask mask,
                 const enum format format)
{
    float y[2];
    get(g, in->dy, o, c, format);
    if (mask == MABN_MASK_Y) get(y, in->y, o, c, format);
    for (int l = 0; l < LANES(format); l++) {
        const int64_t i = l * k->n + c;
        if (mask == MABN_MASK_Y) g[l] = y[l] <= 0 ? 0 : g[l];
        if (mask == MABN_MASK_X) g[l] = k->a[i] * x[l] + k->b[i] <= 0 ? 0 : g[l];
    }
}

struct grad_rooms {
    float a[ROOM], b[ROOM], shift[ROOM];
};

BODY struct grad_columns columns_at(struct grad_rooms *room, const struct mabn_kernel_grad *in,
                                    int64_t c0, int64_t w, const enum mabn_mask mask,
                                    const bool shifted, const enum format format)
{
    struct grad_columns k = {.n = w / LANES(format)};
    if (mask == MABN_MASK_X) k.a = in_lanes(room->a, in->a + c0, w, format);
    if (mask == MABN_MASK_X) k.b = in_lanes(room->b, in->b + c0, w, format);
    if (shifted) k.shift = in_lanes(room->shift, in->shift + c0, w, format);
    return k;
}

struct grad_sums {
    const struct mabn_kernel_grad *in;
    struct grad_columns at;
    struct sums *s, *q;
    void *g; /* written, or NULL */
};

BODY void grad_moments_of_row(const struct grad_sums *m, int64_t o, const enum turn turn,
                              const enum mabn_mask mask, const bool write, const enum format format)
{
    const struct grad_sums k = *m;
    const struct mabn_kernel_grad in = *m->in;

#pragma GCC ivdep
    for (int64_t c = 0; c < k.at.n; c++) {
        float x[2], g[2];
        get(x, in.x, o, c, format);
        masked(g, x, &in, &k.at, o, c, mask, format);
        if (write) put(k.g, o, c, g, format);
        for (int l = 0; l < LANES(format); l++) {
            const int64_t i = l * k.at.n + c;
            add_up(k.s, i, g[l], turn);
            add_up(k.q, i, g[l] * (x[l] - k.at.shift[i]), turn);
        }
    }
}

BODY void grad_moments_body(double *sum, double *dot, void *g, const struct mabn_kernel_grad *given,
                            int64_t rows, int64_t width, const enum mabn_mask mask,
                            const bool write, const enum format format)
{
    const struct mabn_kernel_grad in = *given;
    struct grad_rooms room;
    struct sums s, q;

    clear(&s, width);
    clear(&q, width);
    for (int64_t r0 = 0; r0 < rows; r0 += BLOCK) {
        const int64_t end = min64(r0 + BLOCK, rows);
        for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
            const int64_t w = min64(COLUMNS, width - c0);
            const struct grad_sums m = {&in, columns_at(&room, &in, c0, w, mask, true, format), &s,
                                        &q, g};
            int64_t r = r0, o = r * width + c0;
            for (; r + 4 <= end; r += 4, o += 4 * width) {
                grad_moments_of_row(&m, o, FIRST, mask, write, format);
                grad_moments_of_row(&m, o + width, SECOND, mask, write, format);
                grad_moments_of_row(&m, o + 2 * width, THIRD, mask, write, format);
                grad_moments_of_row(&m, o + 3 * width, FOURTH, mask, write, format);
            }
            for (; r < end; r++, o += width)
                grad_moments_of_row(&m, o, ALONE, mask, write, format);
            flush(sum + c0, s.total, w, format);
            flush(dot + c0, q.total, w, format);
        }
    }
}

#define GRAD_MOMENTS_AS(clones, name, mask, write, format)                                        \
    clones static void name(double *sum, double *dot, void *g, const struct mabn_kernel_grad *in, \
                            int64_t rows, int64_t width)                                          \
    {                                                                                             \
        grad_moments_body(sum, dot, g, in, rows, width, mask, write, format);                     \
    }
#define GRAD_MOMENTS(name, mask, write)                            \
    GRAD_MOMENTS_AS(MABN_CLONES, name##_full, mask, write, FULL)   \
    GRAD_MOMENTS_AS(MABN_CLONES, name##_words, mask, write, WORDS) \
    GRAD_MOMENTS_AS(, name##_half, mask, write, HALF)
GRAD_MOMENTS(grad_moments_none, MABN_MASK_NONE, false)
GRAD_MOMENTS(grad_moments_y, MABN_MASK_Y, false)
GRAD_MOMENTS(grad_moments_x, MABN_MASK_X, false)
GRAD_MOMENTS(grad_moments_none_write, MABN_MASK_NONE, true)
GRAD_MOMENTS(grad_moments_y_write, MABN_MASK_Y, true)
GRAD_MOMENTS(grad_moments_x_write, MABN_MASK_X, true)

void mabn_kernel_grad_moments(double *sum, double *dot, void *g, const struct mabn_kernel_grad *in,
                              int64_t rows, int64_t width)
{
    static void (*const kernels[2][3][FORMATS])(
        double *, double *, void *, const struct mabn_kernel_grad *, int64_t, int64_t) = {
        {ALL(grad_moments_none), ALL(grad_moments_y), ALL(grad_moments_x)},
        {ALL(grad_moments_none_write), ALL(grad_moments_y_write), ALL(grad_moments_x_write)}};
    kernels[!!g][in->mask][format_of(in->half, width)](sum, dot, g, in, rows, width);
}

BODY void grad_apply_body(void *dx, void *dresidual, const struct mabn_kernel_grad *given,
                          const float *p, const float *q, const float *r, int64_t rows,
                          int64_t width, const enum mabn_mask mask, const bool full,
                          const bool residual, const enum format format)
{
    const struct mabn_kernel_grad in = *given;
    const bool reads_x = full || mask == MABN_MASK_X;
    float room_p[ROOM], room_q[ROOM], room_r[ROOM];
    struct grad_rooms room;

    for (int64_t c0 = 0; c0 < width; c0 += COLUMNS) {
        const int64_t w = min64(COLUMNS, width - c0), n = w / LANES(format);
        const struct grad_columns k = columns_at(&room, &in, c0, w, mask, full, format);
        const float *kp = in_lanes(room_p, p + c0, w, format);
        const float *kq = full ? in_lanes(room_q, q + c0, w, format) : 0;
        const float *kr = full ? in_lanes(room_r, r + c0, w, format) : 0;
        for (int64_t row = 0; row < rows; row++) {
            const int64_t o = row * width + c0;
#pragma GCC ivdep
            for (int64_t c = 0; c < n; c++) {
                float x[2], g[2], v[2];
                if (reads_x) get(x, in.x, o, c, format);
                masked(g, x, &in, &k, o, c, mask, format);
                for (int l = 0; l < LANES(format); l++) {
                    const int64_t i = l * n + c;
                    const float own = full ? kq[i] * (x[l] - k.shift[i]) + kr[i] : 0;
                    v[l] = full ? kp[i] * g[l] + own : kp[i] * g[l];
                }
                if (residual) put(dresidual, o, c, g, format);
                put(dx, o, c, v, format);
            }
        }
    }
}

#define GRAD_APPLY_AS(clones, name, mask, full, residual, format)                          \
    clones static void name(void *dx, void *dres, const struct mabn_kernel_grad *in,       \
                            const float *p, const float *q, const float *r, int64_t rows,  \
                            int64_t width)                                                 \
    {                                                                                      \
        grad_apply_body(dx, dres, in, p, q, r, rows, width, mask, full, residual, format); \
    }
#define GRAD_APPLY(name, mask, full, residual)                            \
    GRAD_APPLY_AS(MABN_CLONES, name##_full, mask, full, residual, FULL)   \
    GRAD_APPLY_AS(MABN_CLONES, name##_words, mask, full, residual, WORDS) \
    GRAD_APPLY_AS(, name##_half, mask, full, residual, HALF)
GRAD_APPLY(grad_scale_none, MABN_MASK_NONE, false, false)
GRAD_APPLY(grad_scale_y, MABN_MASK_Y, false, false)
GRAD_APPLY(grad_scale_x, MABN_MASK_X, false, false)
GRAD_APPLY(grad_scale_none_add, MABN_MASK_NONE, false, true)
GRAD_APPLY(grad_scale_y_add, MABN_MASK_Y, false, true)
GRAD_APPLY(grad_scale_x_add, MABN_MASK_X, false, true)
GRAD_APPLY(grad_full_none, MABN_MASK_NONE, true, false)
GRAD_APPLY(grad_full_y, MABN_MASK_Y, true, false)
GRAD_APPLY(grad_full_x, MABN_MASK_X, true, false)
GRAD_APPLY(grad_full_none_add, MABN_MASK_NONE, true, true)
GRAD_APPLY(grad_full_y_add, MABN_MASK_Y, true, true)
GRAD_APPLY(grad_full_x_add, MABN_MASK_X, true, true)

void mabn_kernel_grad_apply(void *dx, void *dresidual, const struct mabn_kernel_grad *in,
                            const float *p, const float *q, const float *r, int64_t rows,
                            int64_t width)
{
    static void (*const kernels[2][2][3][FORMATS])(void *, void *, const struct mabn_kernel_grad *,
                                                   const float *, const float *, const float *,
                                                   int64_t, int64_t) = {
        {{ALL(grad_scale_none), ALL(grad_scale_y), ALL(grad_scale_x)},
         {ALL(grad_scale_none_add), ALL(grad_scale_y_add), ALL(grad_scale_x_add)}},
        {{ALL(grad_full_none), ALL(grad_full_y), ALL(grad_full_x)},
         {ALL(grad_full_none_add), ALL(grad_full_y_add), ALL(grad_full_x_add)}}};
    kernels[!!q][!!dresidual][in->mask][format_of(in->half, width)](dx, dresidual, in, p, q, r,
                                                                    rows, width);
}
