/* Numbers that no network can use. */
#ifndef MABN_TENSOR_FINITE_H
#define MABN_TENSOR_FINITE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* Is one of n values infinite or NaN, or, of a variance, negative? Whole numbers never are. */
bool mabn_any_unusable(const void *values, size_t n, enum mabn_dtype dtype, bool variance);

MABN_END_DECLS
#endif
