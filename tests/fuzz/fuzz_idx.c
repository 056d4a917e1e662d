/* The reader of idx files, plain and through gzip. */
#include <stdint.h>
#include <stdlib.h>

#include "store/idx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mabn_idx idx;
    if (mabn_idx_parse(&idx, data, size, "input")) return 0;
    volatile uint8_t sink = idx.data[idx.count - 1];
    (void)sink;
    mabn_idx_release(&idx);
    return 0;
}
