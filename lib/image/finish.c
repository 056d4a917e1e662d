/* Lighting, flip, channel order, normalization: see finish.h.
 *
 * The plain loops over tables are the definition. The AVX2 ones beside them give the same bits:
 * normalization by the table's own operations in the same order, which IEEE arithmetic rounds the
 * same way, and lighting by saturating additions, which is what its tables are but for one in some
 * thousands, where a value's rounding sticks out; those are looked up. */
#include "image/finish.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "image/avx2.h"

/* Values after which vectors of 8 meet the same channels again, for 1 channel and for 3. */
enum { PERIOD = 24 };

struct mabn_finisher {
    int channels;
    float table[3][256];
    float range, means[PERIOD], deviations[PERIOD]; /* of PERIOD values in a row */
    uint8_t *row; /* (width,channels) of the widest picture so far */
    size_t row_cap;
};

void mabn_normalization_table(const struct mabn_normalization *n, float table[3][256])
{
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) {
            const float x = (float)v * (float)n->range / 255.0f;
            table[c][v] = (x - n->mean[c]) / n->deviation[c];
        }
}

struct mabn_finisher *mabn_finisher_new(const struct mabn_normalization *n)
{
    struct mabn_finisher *f = mabn_xcalloc(1, sizeof *f);
    f->channels = n->channels;
    f->range = (float)n->range;
    for (int i = 0; i < PERIOD; i++) {
        f->means[i] = n->mean[i % n->channels];
        f->deviations[i] = n->deviation[i % n->channels];
    }
    mabn_normalization_table(n, f->table);
    return f;
}

void mabn_finisher_free(struct mabn_finisher *f)
{
    if (!f) return;
    free(f->row);
    free(f);
}

/* ---- bytes ---- */

static void arrange_gray(uint8_t *out, const uint8_t *in, int width)
{
    for (int x = 0; x < width; x++)
        out[x] = in[width - 1 - x];
}

/* Pixels from `x` of the output on. */
static void arrange_plain(uint8_t *out, const uint8_t *in, int x, int width,
                          const struct mabn_finish *finish)
{
    const int step = finish->flip ? -3 : 3, c0 = finish->swap ? 2 : 0, c2 = finish->swap ? 0 : 2;
    const uint8_t *p = in + (size_t)(finish->flip ? width - 1 - x : x) * 3;
    out += (size_t)x * 3;
    if (finish->lit)
        for (; x < width; x++, p += step, out += 3) {
            out[0] = finish->lit[0][p[c0]];
            out[1] = finish->lit[1][p[1]];
            out[2] = finish->lit[2][p[c2]];
        }
    else
        for (; x < width; x++, p += step, out += 3) {
            out[0] = p[c0];
            out[1] = p[1];
            out[2] = p[c2];
        }
}

#if WITH_AVX2
/* Five pixels in the lower 15 bytes: where each comes from, and what lighting adds and takes. */
struct five {
    uint8_t from[16], add[16], take[16];
};

/* False when some table of the lighting is not a saturating addition. */
static bool make_five(struct five *five, const struct mabn_finish *finish)
{
    memset(five, 0, sizeof *five);
    for (int i = 0; i < 15; i++) {
        const int pixel = finish->flip ? 4 - i / 3 : i / 3, c = finish->swap ? 2 - i % 3 : i % 3;
        /* of a flipped row the 16 bytes that end with the five pixels are read */
        five->from[i] = (uint8_t)(3 * pixel + c + finish->flip);
    }
    for (int c = 0; finish->lit && c < 3; c++) {
        const uint8_t *lit = finish->lit[c];
        const int shift = lit[128] - 128;
        int differ = 0;
        for (int v = 0; v < 256; v++) {
            const int want = v + shift < 0 ? 0 : v + shift > 255 ? 255 : v + shift;
            differ |= lit[v] ^ want;
        }
        if (differ) return false;
        for (int i = c; i < 15; i += 3) {
            five->add[i] = (uint8_t)(shift > 0 ? shift : 0);
            five->take[i] = (uint8_t)(shift < 0 ? -shift : 0);
        }
    }
    return true;
}

/* Reads and writes 16 bytes for five pixels, all within the rows. Returns how many were done. */
AVX2 static int arrange_avx2(uint8_t *out, const uint8_t *in, int width, bool flip,
                             const struct five *five)
{
    const __m128i from = _mm_loadu_si128((const __m128i *)five->from);
    const __m128i add = _mm_loadu_si128((const __m128i *)five->add);
    const __m128i take = _mm_loadu_si128((const __m128i *)five->take);
    int x = 0;
    for (; x + 6 <= width; x += 5) {
        const uint8_t *p = flip ? in + (size_t)(width - 5 - x) * 3 - 1 : in + (size_t)x * 3;
        __m128i v = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)p), from);
        v = _mm_subs_epu8(_mm_adds_epu8(v, add), take);
        _mm_storeu_si128((__m128i *)(out + (size_t)x * 3), v);
    }
    return x;
}
#endif

static bool changes(const struct mabn_finish *finish)
{
    return finish->flip || finish->swap || finish->lit;
}

/* How the rows of a picture are arranged. */
struct loops {
    const struct mabn_finish *finish;
    bool gray, avx2;
#if WITH_AVX2
    struct five five;
#endif
};

static struct loops loops_of(const struct mabn_finish *finish, const struct mabn_image *in)
{
    struct loops loops = {.finish = finish, .gray = in->channels == 1};
#if WITH_AVX2
    loops.avx2 = !loops.gray && __builtin_cpu_supports("avx2") && make_five(&loops.five, finish);
#endif
    return loops;
}

static void arrange_row(uint8_t *out, const uint8_t *in, int width, const struct loops *loops)
{
    int done = 0;
    if (loops->gray) {
        arrange_gray(out, in, width);
        return;
    }
#if WITH_AVX2
    if (loops->avx2) done = arrange_avx2(out, in, width, loops->finish->flip, &loops->five);
#endif
    arrange_plain(out, in, done, width, loops->finish);
}

void mabn_finish_bytes(uint8_t *out, const struct mabn_image *in, const struct mabn_finish *finish)
{
    const size_t stride = (size_t)in->width * (size_t)in->channels;
    if (!changes(finish)) {
        memcpy(out, in->pixels, stride * (size_t)in->height);
        return;
    }
    const struct loops loops = loops_of(finish, in);
    for (int y = 0; y < in->height; y++)
        arrange_row(out + (size_t)y * stride, in->pixels + (size_t)y * stride, in->width, &loops);
}

/* ---- floats ---- */

/* Values from `i` on of a row that begins with channel 0. */
static void normalize_plain(const struct mabn_finisher *f, float *out, const uint8_t *in, size_t i,
                            size_t n)
{
    if (f->channels == 1)
        for (; i < n; i++)
            out[i] = f->table[0][in[i]];
    else
        for (; i < n; i += 3) {
            out[i] = f->table[0][in[i]];
            out[i + 1] = f->table[1][in[i + 1]];
            out[i + 2] = f->table[2][in[i + 2]];
        }
}

#if WITH_AVX2
/* From a value of channel 0 on, PERIOD at a time; returns how many were done. */
AVX2 static size_t normalize_avx2(const struct mabn_finisher *f, float *out, const uint8_t *in,
                                  size_t n)
{
    const __m256 range = _mm256_set1_ps(f->range), white = _mm256_set1_ps(255);
    size_t i = 0;
    for (; i + PERIOD <= n; i += PERIOD)
        for (size_t k = 0; k < PERIOD; k += 8) {
            const __m128i bytes = _mm_loadl_epi64((const __m128i *)(in + i + k));
            __m256 x = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            x = _mm256_div_ps(_mm256_mul_ps(x, range), white);
            x = _mm256_sub_ps(x, _mm256_loadu_ps(f->means + k));
            x = _mm256_div_ps(x, _mm256_loadu_ps(f->deviations + k));
            _mm256_storeu_ps(out + i + k, x);
        }
    return i;
}
#endif

static void normalize(const struct mabn_finisher *f, float *out, const uint8_t *in, size_t n)
{
    size_t done = 0;
#if WITH_AVX2
    if (__builtin_cpu_supports("avx2")) done = normalize_avx2(f, out, in, n);
#endif
    normalize_plain(f, out, in, done, n);
}

void mabn_finish_floats(struct mabn_finisher *f, float *out, const struct mabn_image *in,
                        const struct mabn_finish *finish)
{
    const size_t row = (size_t)in->width * (size_t)in->channels;
    if (changes(finish))
        mabn_finish_rows(f, out, row, in, finish);
    else
        normalize(f, out, in->pixels, row * (size_t)in->height);
}

void mabn_finish_rows(struct mabn_finisher *f, float *out, size_t stride,
                      const struct mabn_image *in, const struct mabn_finish *finish)
{
    const size_t row = (size_t)in->width * (size_t)in->channels;
    const struct loops loops = loops_of(finish, in);
    if (row > f->row_cap) {
        f->row = mabn_xrealloc(f->row, row);
        f->row_cap = row;
    }
    for (int y = 0; y < in->height; y++) {
        const uint8_t *from = in->pixels + (size_t)y * row;
        if (changes(finish)) {
            arrange_row(f->row, from, in->width, &loops);
            from = f->row;
        }
        normalize(f, out + (size_t)y * stride, from, row);
    }
}
