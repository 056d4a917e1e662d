/* Random access to the bytes of a file, or of memory: what the readers of this room parse from.
 * Large files are read piece by piece and never mapped, so memory stays near the largest tensor. */
#ifndef MABN_EXCHANGE_SOURCE_H
#define MABN_EXCHANGE_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

struct mabn_source {
    const uint8_t *memory; /* borrowed; NULL when fd is used */
    int fd;
    uint64_t size;
    char *name;                     /* for messages */
    struct mabn_source_part *parts; /* (n_parts) files appended */
    size_t n_parts;
};
/* Bytes [begin, begin + size) of the source are those of this file. */
struct mabn_source_part {
    uint64_t begin, size;
    char *location;
    int fd;
};
enum { MABN_SOURCE_MAX_PARTS = 512 };

/* Regular files only: a pipe cannot be read at random. */
MABN_MUST_USE mabn_status mabn_source_open(struct mabn_source *source, const char *path);
/* bytes are borrowed, name is copied. */
void mabn_source_init_memory(struct mabn_source *source, const void *bytes, size_t size,
                             const char *name);
/* Append the file `location`, relative to the folder of the source's own file: its *size bytes start at
 * *begin of the source. A file that was appended before is found, not appended again. Absolute paths,
 * paths with ".." and sources in memory are MABN_ERR_UNSUPPORTED. */
MABN_MUST_USE mabn_status mabn_source_append(struct mabn_source *source, const char *location,
                                             uint64_t *begin, uint64_t *size);
void mabn_source_release(struct mabn_source *source);

/* n bytes at `offset`; past the end is MABN_ERR_FORMAT ("truncated"). */
MABN_MUST_USE mabn_status mabn_source_read(const struct mabn_source *source, uint64_t offset,
                                           void *out, size_t n);

static inline uint16_t mabn_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t mabn_le32(const uint8_t *p)
{
    return (uint32_t)mabn_le16(p) | (uint32_t)mabn_le16(p + 2) << 16;
}
static inline uint64_t mabn_le64(const uint8_t *p)
{
    return (uint64_t)mabn_le32(p) | (uint64_t)mabn_le32(p + 4) << 32;
}

MABN_END_DECLS
#endif
