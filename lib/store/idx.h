/* The idx format of MNIST and similar datasets: arrays of bytes.
 *
 *   0,0, type (8: unsigned byte), rank; rank × u32 big-endian dimensions; the elements
 *
 * plain or compressed by gzip.  */
#ifndef MABN_STORE_IDX_H
#define MABN_STORE_IDX_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_idx {
    int rank; /* 1..4 */
    uint32_t dims[4];
    size_t count;  /* product of dims */
    uint8_t *data; /* (count) */
};

/* Elements of another type are MABN_ERR_UNSUPPORTED; bytes missing or left over, a bad checksum:
 * MABN_ERR_FORMAT. */
MABN_MUST_USE mabn_status mabn_idx_read(struct mabn_idx *idx, const char *path);
/* The same from memory; `name` is for messages. */
MABN_MUST_USE mabn_status mabn_idx_parse(struct mabn_idx *idx, const uint8_t *bytes, size_t size,
                                         const char *name);
void mabn_idx_release(struct mabn_idx *idx);

MABN_END_DECLS
#endif
