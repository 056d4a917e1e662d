/* What an array of numbers is: element type, shape, layout.
 *
 * In memory there is one layout: activations are NHWC, convolution weights OHWI, linear weights
 * (out, in). In files, under PyTorch's names, convolution weights are OIHW; everything else is the
 * same. mabn_weights_from_file and mabn_weights_to_file are the only places that know both.
 *
 * Shapes are small values, copied freely; sizes are computed with overflow checks because some
 * shapes come from files. */
#ifndef MABN_TENSOR_TENSOR_H
#define MABN_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

enum mabn_dtype {
    MABN_DTYPE_F32,
    MABN_DTYPE_F64,
    MABN_DTYPE_F16,
    MABN_DTYPE_BF16,
    MABN_DTYPE_I8,
    MABN_DTYPE_U8,
    MABN_DTYPE_I16,
    MABN_DTYPE_I32,
    MABN_DTYPE_I64,
    MABN_DTYPE_BOOL,
};

size_t mabn_dtype_size(enum mabn_dtype dtype);      /* bytes of one element */
const char *mabn_dtype_name(enum mabn_dtype dtype); /* "float32", "int64", … */

/* Convert n elements to float32; int64 and float64 round to nearest. `in` need not be aligned. */
void mabn_values_to_f32(float *out, const void *in, size_t n, enum mabn_dtype dtype);

enum { MABN_MAX_RANK = 8 };

struct mabn_shape {
    int rank; /* 0: a scalar, one element */
    int64_t dim[MABN_MAX_RANK];
};

/* MABN_SHAPE(2, c, 9): rank, then that many dimensions (C only: a compound literal). */
struct mabn_shape mabn_shape_make(int rank, const int64_t *dims);
#define MABN_SHAPE(rank, ...) mabn_shape_make((rank), (const int64_t[]){__VA_ARGS__})

bool mabn_shape_equal(const struct mabn_shape *a, const struct mabn_shape *b);
/* Product of the dimensions in *count; false when a dimension is negative or it does not fit. */
bool mabn_shape_count(const struct mabn_shape *shape, size_t *count);
/* "(64,3,7,7)" into buf; returns buf. */
char *mabn_shape_text(const struct mabn_shape *shape, char buf[160]);

/* Convolution weights between the file's order, OIHW, and memory's, OHWI: `out` filters of `in`
 * channels and `area` = kernel height × width taps. src and dst must not overlap. */
void mabn_weights_from_file(float *dst /* (O,area,I) */, const float *src /* (O,I,area) */,
                            size_t out, size_t in, size_t area);
void mabn_weights_to_file(float *dst /* (O,I,area) */, const float *src /* (O,area,I) */,
                          size_t out, size_t in, size_t area);

MABN_END_DECLS
#endif
