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

void mabn_source_release(struct mabn_source *source)
{
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
    return mabn_pread_all(source->fd, out, n, offset, source->name);
}
