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
