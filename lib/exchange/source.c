#include "exchange/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

mabn_status mabn_source_open(struct mabn_source *source, const char *path)
{
    memset(source, 0, sizeof *source);
    source->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (source->fd < 0) return mabn_fail_errno("cannot open '%s'", path);
    struct stat st;
    mabn_status status = MABN_OK;
    if (fstat(source->fd, &st) != 0) {
        status = mabn_fail_errno("cannot open '%s'", path);
    } else if (S_ISDIR(st.st_mode)) {
        status =
            mabn_fail(MABN_ERR_IO, "cannot open '%s': it is a folder, a file is expected", path);
    } else if (!S_ISREG(st.st_mode)) {
        status = mabn_fail(MABN_ERR_IO, "cannot open '%s': not a regular file", path);
    }
    if (status) {
        close(source->fd);
        source->fd = -1;
        return status;
    }
    source->size = (uint64_t)st.st_size;
    source->name = mabn_xstrdup(path);
    return MABN_OK;
}

void mabn_source_init_memory(struct mabn_source *source, const void *bytes, size_t size,
                             const char *name)
{
    static const uint8_t nothing[1];
    memset(source, 0, sizeof *source);
    source->memory = bytes ? bytes : nothing;
    source->fd = -1;
    source->size = size;
    source->name = mabn_xstrdup(name);
}

static mabn_status open_part(const struct mabn_source *source, struct mabn_source_part *part)
{
    const char *slash = strrchr(source->name, '/'), *location = part->location;
    struct mabn_source other;
    if (!*location || *location == '/' || !strncmp(location, "../", 3) || strstr(location, "/../"))
        return mabn_fail(MABN_ERR_UNSUPPORTED,
                         "'%s': its data are in another file, '%s', outside its folder",
                         source->name, location);
    char *path = mabn_xasprintf("%.*s%s", slash ? (int)(slash - source->name) + 1 : 0, source->name,
                                location);
    mabn_status status = mabn_source_open(&other, path);
    free(path);
    if (status) return mabn_fail_prefix(status, "'%s' has its data in another file", source->name);
    part->fd = other.fd;
    part->size = other.size;
    free(other.name);
    return MABN_OK;
}

mabn_status mabn_source_append(struct mabn_source *source, const char *location, uint64_t *begin,
                               uint64_t *size)
{
    size_t i = 0;
    while (i < source->n_parts && strcmp(source->parts[i].location, location))
        i++;
    if (i == MABN_SOURCE_MAX_PARTS)
        return mabn_fail(MABN_ERR_LIMIT, "'%s': its data are in more than %d files", source->name,
                         MABN_SOURCE_MAX_PARTS);
    if (i == source->n_parts) {
        struct mabn_source_part part = {.begin = source->size};
        if (source->memory)
            return mabn_fail(MABN_ERR_UNSUPPORTED, "'%s': its data are in another file",
                             source->name);
        part.location = mabn_xstrdup(location);
        mabn_status status = open_part(source, &part);
        if (!status && part.size > UINT64_MAX / 2 - source->size)
            status = mabn_fail(MABN_ERR_LIMIT, "'%s': too large", source->name);
        if (status) {
            free(part.location);
            return status;
        }
        source->parts = mabn_xrealloc(source->parts, (i + 1) * sizeof *source->parts);
        source->parts[source->n_parts++] = part;
        source->size += part.size;
    }
    *begin = source->parts[i].begin;
    *size = source->parts[i].size;
    return MABN_OK;
}

void mabn_source_release(struct mabn_source *source)
{
    for (size_t i = 0; i < source->n_parts; i++) {
        close(source->parts[i].fd);
        free(source->parts[i].location);
    }
    free(source->parts);
    if (source->name && source->fd >= 0) close(source->fd);
    free(source->name);
    memset(source, 0, sizeof *source);
    source->fd = -1;
}

mabn_status mabn_source_read(const struct mabn_source *source, uint64_t offset, void *out, size_t n)
{
    if (offset > source->size || n > source->size - offset)
        return mabn_fail(MABN_ERR_FORMAT,
                         "'%s': truncated: %zu bytes expected at offset %llu, the file has %llu",
                         source->name, n, (unsigned long long)offset,
                         (unsigned long long)source->size);
    if (n == 0) return MABN_OK;
    if (source->memory) {
        memcpy(out, source->memory + offset, n);
        return MABN_OK;
    }
    for (size_t i = source->n_parts; i-- > 0;) {
        const struct mabn_source_part *p = &source->parts[i];
        if (offset < p->begin) continue;
        if (n > p->begin + p->size - offset)
            return mabn_fail(MABN_ERR_FORMAT, "'%s': truncated", p->location);
        return mabn_pread_all(p->fd, out, n, offset - p->begin, p->location);
    }
    return mabn_pread_all(source->fd, out, n, offset, source->name);
}
