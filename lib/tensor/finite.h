/* Numbers that no network can use. */
#ifndef MABN_TENSOR_FINITE_H
#define MABN_TENSOR_FINITE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attr.h"
#include "tensor/tensor.h"

MABN_BEGIN_DECLS

/* Is one of n values infinite or NaN, or, in a variance, negative? Whole numbers never are. */
bool mabn_any_unusable(const void *values, size_t n, enum mabn_dtype dtype, bool variance);

/* The first such number of a tensor in file order, for a message: "'fc.weight' has nan in filter 2".
 * The caller frees it; NULL: there is none. A tensor whose name is or ends in .running_var, .pre_x2 or
 * .buffer_x2 (the mean squares of MABN's windows) is a variance. */
char *mabn_describe_unusable(const char *name, const struct mabn_shape *shape,
                             enum mabn_dtype dtype, const void *values);

MABN_END_DECLS
#endif
