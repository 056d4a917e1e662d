/* Blocks grow: a new one is at least as large as all before it, so that 48 are never used up. */
#include "detect/scratch.h"

#include <string.h>

#include "base/mem.h"

void mabn_scratch_release(struct mabn_scratch *s)
{
    for (int i = 0; i < MABN_SCRATCH_BLOCKS; i++)
        mabn_free(s->block[i]);
    memset(s, 0, sizeof *s);
}

struct mabn_scratch_mark mabn_scratch_mark(const struct mabn_scratch *s)
{
    return (struct mabn_scratch_mark){s->at, s->used};
}

void mabn_scratch_back(struct mabn_scratch *s, struct mabn_scratch_mark mark)
{
    s->at = mark.at;
    s->used = mark.used;
}

/* The next block is replaced when it is too small; nothing stands in it. */
static mabn_status next_block(struct mabn_scratch *s, size_t bytes)
{
    const int next = s->block[s->at] ? s->at + 1 : s->at;
    size_t size = 1 << 16;

    if (next == MABN_SCRATCH_BLOCKS) return mabn_fail(MABN_ERR_NOMEM, "scratch memory is used up");
    for (int i = 0; i < next; i++)
        size += s->size[i];
    if (size < bytes) size = bytes;
    if (s->size[next] < bytes) {
        mabn_free(s->block[next]);
        s->block[next] = NULL;
        s->size[next] = 0;
        MABN_TRY(mabn_alloc((void **)&s->block[next], size));
        s->size[next] = size;
    }
    s->at = next;
    s->used = 0;
    return MABN_OK;
}

mabn_status mabn_scratch_take(struct mabn_scratch *s, void *out, size_t count, size_t size)
{
    size_t bytes;
    void *piece;

    if (!mabn_size_mul(count, size, &bytes) || !mabn_size_add(bytes, 63, &bytes))
        return mabn_fail(MABN_ERR_NOMEM, "%zu pieces of %zu bytes do not fit in memory", count,
                         size);
    bytes &= ~(size_t)63;
    if (!s->block[s->at] || s->size[s->at] - s->used < bytes) MABN_TRY(next_block(s, bytes));
    piece = s->block[s->at] + s->used;
    s->used += bytes;
    memcpy(out, &piece, sizeof piece);
    return MABN_OK;
}

mabn_status mabn_scratch_lend(struct mabn_scratch *s, struct mabn_scratch *out, size_t bytes)
{
    memset(out, 0, sizeof *out);
    MABN_TRY(mabn_scratch_take(s, &out->block[0], bytes, 1));
    out->size[0] = bytes;
    return MABN_OK;
}
