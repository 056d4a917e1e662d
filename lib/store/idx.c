#include "store/idx.h"

#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "base/mem.h"

/* The bytes of a file, plain or through inflate. */
struct source {
    const uint8_t *bytes;
    size_t size, at;
    bool compressed;
    z_stream stream;
    const char *name;
};

static mabn_status start(struct source *s, const uint8_t *bytes, size_t size, const char *name)
{
    *s = (struct source){.bytes = bytes, .size = size, .name = name};
    if (size < 2 || bytes[0] != 0x1f || bytes[1] != 0x8b) return MABN_OK;
    s->compressed = true;
    if (inflateInit2(&s->stream, 15 + 16) != Z_OK)
        return mabn_fail(MABN_ERR_NOMEM, "no memory to decompress '%s'", name);
    return MABN_OK;
}

/* Up to n bytes; fewer at the end of the data. */
static mabn_status inflate_some(struct source *s, uint8_t *out, size_t n, size_t *got)
{
    *got = 0;
    while (*got < n) {
        size_t in = s->size - s->at, room = n - *got;
        s->stream.next_in = (Bytef *)(uintptr_t)(s->bytes + s->at);
        s->stream.avail_in = in < (1u << 30) ? (uInt)in : 1u << 30;
        s->stream.next_out = out + *got;
        s->stream.avail_out = room < (1u << 30) ? (uInt)room : 1u << 30;
        uInt before = s->stream.avail_out;
        int result = inflate(&s->stream, Z_NO_FLUSH);
        s->at = (size_t)(s->stream.next_in - s->bytes);
        *got += before - s->stream.avail_out;
        if (result == Z_STREAM_END) return MABN_OK;
        if (result == Z_BUF_ERROR ||
            (result == Z_OK && s->at == s->size && *got < n && before == s->stream.avail_out))
            return mabn_fail(MABN_ERR_FORMAT, "'%s' is truncated: gzip data end at byte %zu",
                             s->name, s->at);
        if (result != Z_OK)
            return mabn_fail(MABN_ERR_FORMAT, "'%s' is damaged: gzip says '%s' at byte %zu",
                             s->name, s->stream.msg ? s->stream.msg : "error", s->at);
    }
    return MABN_OK;
}

static mabn_status take(struct source *s, uint8_t *out, size_t n, size_t *got)
{
    if (s->compressed) return inflate_some(s, out, n, got);
    *got = s->size - s->at < n ? s->size - s->at : n;
    memcpy(out, s->bytes + s->at, *got);
    s->at += *got;
    return MABN_OK;
}

static mabn_status take_header(struct source *s, struct mabn_idx *idx)
{
    uint8_t head[4], dim[4];
    size_t got;
    MABN_TRY(take(s, head, sizeof head, &got));
    if (got < sizeof head || head[0] || head[1])
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is not an idx file: it must begin with two zeros",
                         s->name);
    if (head[2] != 8)
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "'%s' holds elements of type 0x%02x, only unsigned bytes (0x08) are read",
                         s->name, head[2]);
    if (head[3] < 1 || head[3] > 4)
        return mabn_fail(MABN_ERR_FORMAT, "'%s' has %d dimensions, expected 1 to 4", s->name,
                         head[3]);
    idx->rank = head[3];
    idx->count = 1;
    for (int i = 0; i < idx->rank; i++) {
        MABN_TRY(take(s, dim, sizeof dim, &got));
        if (got < sizeof dim)
            return mabn_fail(MABN_ERR_FORMAT, "'%s' is truncated in its header", s->name);
        idx->dims[i] =
            (uint32_t)dim[0] << 24 | (uint32_t)dim[1] << 16 | (uint32_t)dim[2] << 8 | dim[3];
        if (!idx->dims[i] || !mabn_size_mul(idx->count, idx->dims[i], &idx->count))
            return mabn_fail(MABN_ERR_FORMAT, "'%s' has impossible dimensions", s->name);
    }
    return MABN_OK;
}

static mabn_status take_elements(struct source *s, struct mabn_idx *idx)
{
    void *data;
    uint8_t more;
    size_t got, possible = s->size;
    /* deflate cannot pack more than 1032 bytes into one */
    if (s->compressed && !mabn_size_mul(possible, 1032, &possible)) possible = SIZE_MAX;
    if (idx->count > possible)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s' is truncated: its header says %zu elements, the file has %zu bytes",
                         s->name, idx->count, s->size);
    MABN_TRY(mabn_alloc(&data, idx->count));
    idx->data = (uint8_t *)data;
    MABN_TRY(take(s, idx->data, idx->count, &got));
    if (got < idx->count)
        return mabn_fail(MABN_ERR_FORMAT, "'%s' is truncated: %zu elements expected, %zu found",
                         s->name, idx->count, got);
    MABN_TRY(take(s, &more, 1, &got)); /* also makes gzip compare its checksum */
    if (got || s->at != s->size)
        return mabn_fail(MABN_ERR_FORMAT, "'%s' has bytes left over after its %zu elements",
                         s->name, idx->count);
    return MABN_OK;
}

mabn_status mabn_idx_parse(struct mabn_idx *idx, const uint8_t *bytes, size_t size,
                           const char *name)
{
    struct source s;
    *idx = (struct mabn_idx){0};
    MABN_TRY(start(&s, bytes, size, name));
    mabn_status status = take_header(&s, idx);
    if (!status) status = take_elements(&s, idx);
    if (s.compressed) inflateEnd(&s.stream);
    if (status) mabn_idx_release(idx);
    return status;
}

mabn_status mabn_idx_read(struct mabn_idx *idx, const char *path)
{
    struct mabn_input in;
    *idx = (struct mabn_idx){0};
    MABN_TRY(mabn_input_open(&in, path, 0));
    mabn_status status = mabn_idx_parse(idx, in.bytes, in.size, in.name);
    mabn_input_release(&in);
    return status;
}

void mabn_idx_release(struct mabn_idx *idx)
{
    mabn_free(idx->data);
    *idx = (struct mabn_idx){0};
}
