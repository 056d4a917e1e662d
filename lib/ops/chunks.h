/* Sums whose order does not depend on the number of threads. [0,count) is always cut into the same
 * portions; one thread sums a portion, and the portions are added in their order. */
#ifndef MABN_OPS_CHUNKS_H
#define MABN_OPS_CHUNKS_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

enum { MABN_CHUNKS = 256 };

#ifdef __CUDACC__
#define MABN_CHUNKS_EVERYWHERE __host__ __device__
#else
#define MABN_CHUNKS_EVERYWHERE
#endif

/* Portion i of [0,count) is [begin(count, i), begin(count, i + 1)); some are empty when count is
 * small. */
MABN_CHUNKS_EVERYWHERE static inline int64_t mabn_chunk_begin(int64_t count, int i)
{
    return count / MABN_CHUNKS * i + count % MABN_CHUNKS * i / MABN_CHUNKS;
}

static inline double mabn_chunks_sum(const double parts[MABN_CHUNKS])
{
    double sum = 0;
    for (int i = 0; i < MABN_CHUNKS; i++)
        sum += parts[i];
    return sum;
}

MABN_END_DECLS
#endif
