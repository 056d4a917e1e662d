/* Element types and shapes; the two orders of convolution weights. */
#include "tensor/tensor.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static const struct {
    size_t size;
    const char *name;
} dtypes[] = {
    [MABN_DTYPE_F32] = {4, "float32"}, [MABN_DTYPE_F64] = {8, "float64"},
    [MABN_DTYPE_F16] = {2, "float16"}, [MABN_DTYPE_BF16] = {2, "bfloat16"},
    [MABN_DTYPE_I8] = {1, "int8"},     [MABN_DTYPE_U8] = {1, "uint8"},
    [MABN_DTYPE_I16] = {2, "int16"},   [MABN_DTYPE_I32] = {4, "int32"},
    [MABN_DTYPE_I64] = {8, "int64"},   [MABN_DTYPE_BOOL] = {1, "bool"},
};

size_t mabn_dtype_size(enum mabn_dtype dtype)
{
    return dtypes[dtype].size;
}

const char *mabn_dtype_name(enum mabn_dtype dtype)
{
    return dtypes[dtype].name;
}

struct mabn_shape mabn_shape_make(int rank, const int64_t *dims)
{
    struct mabn_shape shape = {.rank = rank};
    if (rank < 0 || rank > MABN_MAX_RANK) MABN_BUG("shape of rank %d", rank);
    for (int i = 0; i < rank; i++)
        shape.dim[i] = dims[i];
    return shape;
}

bool mabn_shape_equal(const struct mabn_shape *a, const struct mabn_shape *b)
{
    return a->rank == b->rank && !memcmp(a->dim, b->dim, (size_t)a->rank * sizeof *a->dim);
}

bool mabn_shape_count(const struct mabn_shape *shape, size_t *count)
{
    *count = 1;
    for (int i = 0; i < shape->rank; i++)
        if (shape->dim[i] < 0 || !mabn_size_mul(*count, (size_t)shape->dim[i], count)) return false;
    return true;
}

char *mabn_shape_text(const struct mabn_shape *shape, char buf[160])
{
    size_t at = 0;
    buf[at++] = '(';
    for (int i = 0; i < shape->rank && at < 150; i++)
        at += (size_t)snprintf(buf + at, 160 - at, i ? ",%lld" : "%lld", (long long)shape->dim[i]);
    if (at > 158) at = 158;
    buf[at++] = ')';
    buf[at] = 0;
    return buf;
}

void mabn_weights_from_file(float *dst, const float *src, size_t out, size_t in, size_t area)
{
    if (area == 1) {
        memcpy(dst, src, out * in * sizeof *dst);
        return;
    }
#pragma omp parallel for schedule(static) if (out * in * area > 16384)
    for (size_t o = 0; o < out; o++) {
        const float *from = src + o * in * area;
        float *to = dst + o * in * area;
        for (size_t a = 0; a < area; a++)
            for (size_t i = 0; i < in; i++)
                to[a * in + i] = from[i * area + a];
    }
}

void mabn_weights_to_file(float *dst, const float *src, size_t out, size_t in, size_t area)
{
#pragma omp parallel for schedule(static) if (out * in * area > 16384)
    for (size_t o = 0; o < out; o++) {
        const float *from = src + o * in * area;
        float *to = dst + o * in * area;
        for (size_t i = 0; i < in; i++)
            for (size_t a = 0; a < area; a++)
                to[i * area + a] = from[a * in + i];
    }
}

/* ---- to float32 ---- */

static uint16_t bits_at(const void *in, size_t i)
{
    uint16_t bits;
    memcpy(&bits, (const char *)in + i * sizeof bits, sizeof bits);
    return bits;
}

static float from_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    uint32_t bits;
    float f;
    if (exponent == 0) {
        f = (float)fraction * 0x1p-24f; /* zero and subnormals, exactly */
        memcpy(&bits, &f, 4);
        bits |= sign;
    } else if (exponent == 31) {
        bits = sign | 0x7f800000u | fraction << 13;
    } else {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    }
    memcpy(&f, &bits, 4);
    return f;
}

#define CONVERT(type)                                          \
    for (size_t i = 0; i < n; i++) {                           \
        type v;                                                \
        memcpy(&v, (const char *)in + i * sizeof v, sizeof v); \
        out[i] = (float)v;                                     \
    }                                                          \
    break

void mabn_values_to_f32(float *out, const void *in, size_t n, enum mabn_dtype dtype)
{
    switch (dtype) {
    case MABN_DTYPE_F32:
        memcpy(out, in, n * sizeof *out);
        break;
    case MABN_DTYPE_F64:
        CONVERT(double);
    case MABN_DTYPE_F16:
        for (size_t i = 0; i < n; i++)
            out[i] = from_half(bits_at(in, i));
        break;
    case MABN_DTYPE_BF16:
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)bits_at(in, i) << 16;
            memcpy(out + i, &bits, 4);
        }
        break;
    case MABN_DTYPE_I8:
        CONVERT(int8_t);
    case MABN_DTYPE_BOOL:
    case MABN_DTYPE_U8:
        CONVERT(uint8_t);
    case MABN_DTYPE_I16:
        CONVERT(int16_t);
    case MABN_DTYPE_I32:
        CONVERT(int32_t);
    case MABN_DTYPE_I64:
        CONVERT(int64_t);
    }
}
