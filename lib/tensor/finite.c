/* See finite.h. Values are tested as integers, so that compilers vectorise the loops. */
#include "tensor/finite.h"

#include <stdint.h>
#include <string.h>

#include "base/mem.h"

/* special: the exponent of infinity and NaN; zero: the bits of -0, the largest that a variance may have. */
#define ANY_UNUSABLE(name, type, special, zero)                                 \
    MABN_CLONES static bool name(const void *values, size_t n, bool variance)   \
    {                                                                           \
        const type most = variance ? (type)(zero) : (type)-1;                   \
        type bad = 0;                                                           \
        for (size_t i = 0; i < n; i++) {                                        \
            type bits;                                                          \
            memcpy(&bits, (const char *)values + i * sizeof bits, sizeof bits); \
            bad |= (type)(((bits & (special)) == (special)) | (bits > most));   \
        }                                                                       \
        return bad;                                                             \
    }
ANY_UNUSABLE(any_f32, uint32_t, 0x7f800000, 0x80000000)
ANY_UNUSABLE(any_f64, uint64_t, 0x7ff0000000000000, 0x8000000000000000)
ANY_UNUSABLE(any_f16, uint16_t, 0x7c00, 0x8000)
ANY_UNUSABLE(any_bf16, uint16_t, 0x7f80, 0x8000)

bool mabn_any_unusable(const void *values, size_t n, enum mabn_dtype dtype, bool variance)
{
    switch (dtype) {
    case MABN_DTYPE_F32:
        return any_f32(values, n, variance);
    case MABN_DTYPE_F64:
        return any_f64(values, n, variance);
    case MABN_DTYPE_F16:
        return any_f16(values, n, variance);
    case MABN_DTYPE_BF16:
        return any_bf16(values, n, variance);
    default:
        return false;
    }
}

/* A running variance, or the mean squares of MABN's windows. */
static bool is_variance(const char *name)
{
    static const char *const leaves[] = {"running_var", "pre_x2", "buffer_x2"};
    const char *dot = strrchr(name, '.'), *leaf = dot ? dot + 1 : name;
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++)
        if (!strcmp(leaf, leaves[i])) return true;
    return false;
}

char *mabn_describe_unusable(const char *name, const struct mabn_shape *shape,
                             enum mabn_dtype dtype, const void *values)
{
    const char *all = values;
    const bool variance = is_variance(name);
    const size_t size = mabn_dtype_size(dtype);
    size_t count, i = 0;
    float value;
    if (!mabn_shape_count(shape, &count) || !mabn_any_unusable(values, count, dtype, variance))
        return NULL;
    while (!mabn_any_unusable(all + i * size, 1, dtype, variance))
        i++;
    mabn_values_to_f32(&value, all + i * size, 1, dtype);
    const size_t row = shape->rank ? count / (size_t)shape->dim[0] : 1;
    return mabn_xasprintf("'%s' has %g in %s %zu", name, value,
                          shape->rank > 1 ? "filter" : "channel", i / row);
}
