/* Memory: small allocations, which end the program when they fail; large ones, which return a
 * status; sizes checked for overflow.
 *
 * mabn_x*: for strings, tables and other small host objects; never return NULL.
 * mabn_alloc: for anything whose size comes from a file or a network shape: 64-byte aligned,
 * returns MABN_ERR_NOMEM with the size in the message. Free with mabn_free.  */
#ifndef MABN_BASE_MEM_H
#define MABN_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

void *mabn_xmalloc(size_t size);
void *mabn_xcalloc(size_t count, size_t size);
void *mabn_xrealloc(void *p, size_t size);
char *mabn_xstrdup(const char *s);
char *mabn_xstrndup(const char *s, size_t n);
char *mabn_xasprintf(const char *format, ...) MABN_PRINTF(1, 2);

/* *out: `bytes` bytes (at least 1), aligned to 64, uninitialised / zeroed. */
MABN_MUST_USE mabn_status mabn_alloc(void **out, size_t bytes);
MABN_MUST_USE mabn_status mabn_alloc_zero(void **out, size_t bytes);
void mabn_free(void *p); /* NULL is fine */

/* *out = a * b (or a + b); false when it does not fit. */
static inline int mabn_size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline int mabn_size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Make room for one more element in a growing array: MABN_GROW(items, count, capacity). */
#define MABN_GROW(array, count, capacity)                                                      \
    do {                                                                                       \
        if ((count) >= (capacity)) {                                                           \
            (capacity) = (capacity) ? 2 * (capacity) : 16;                                     \
            *(void **)&(array) = mabn_xrealloc((array), (size_t)(capacity) * sizeof *(array)); \
        }                                                                                      \
    } while (0)

/* Peak resident memory of this process in bytes (getrusage); 0 when unknown. */
uint64_t mabn_peak_memory(void);

MABN_END_DECLS
#endif
