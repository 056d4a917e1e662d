#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/signal.h"

/* ---- outputs ---- */

/* The folder part of a path, malloc'd: "." when there is none. */
static char *folder_of(const char *path)
{
    char *copy = mabn_xstrdup(path);
    char *folder = mabn_xstrdup(dirname(copy));
    free(copy);
    return folder;
}

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Gone, or dead and not yet waited for, as children of a launcher may stay for long. */
static bool is_gone(long pid)
{
    char path[40], line[512];
    if (kill((pid_t)pid, 0)) return errno == ESRCH;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    const char *name_end = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    if (f) fclose(f);
    return name_end && !strncmp(name_end, ") Z", 3);
}

/* A "NAME.tmp-PID-N" whose process is gone was left by a kill -9. */
static void sweep_leftovers(const char *folder, const char *name)
{
    DIR *dir = opendir(folder);
    if (!dir) return;
    size_t n = strlen(name);
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        char *end;
        if (strncmp(entry->d_name, name, n) || strncmp(entry->d_name + n, ".tmp-", 5)) continue;
        long pid = strtol(entry->d_name + n + 5, &end, 10);
        if (*end != '-' || pid <= 0 || pid == getpid()) continue;
        if (is_gone(pid)) unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

static mabn_status check_target(const char *path, bool force)
{
    struct stat info;
    if (!*path) return mabn_fail(MABN_ERR_ARG, "the output name is empty");
    if (path[strlen(path) - 1] == '/')
        return mabn_fail(MABN_ERR_ARG, "output '%s' names a folder", path);
    if (stat(path, &info)) return MABN_OK; /* the usual case: not there yet */
    if (S_ISDIR(info.st_mode)) return mabn_fail(MABN_ERR_ARG, "output '%s' is a folder", path);
    if (!S_ISREG(info.st_mode))
        return mabn_fail(MABN_ERR_ARG,
                         "output '%s' is not a regular file: this format cannot be streamed", path);
    if (!force)
        return mabn_fail(MABN_ERR_IO, "output '%s' exists: use --force to replace it", path);
    return MABN_OK;
}

/* The file that is replaced, malloc'd: of a symbolic link the file it leads to, so that the link stays, and
 * never itself replaced. A link to nothing is. */
static mabn_status find_target(const char *path, bool force, char **target)
{
    struct stat info;
    MABN_TRY(check_target(path, force));
    const bool link = !lstat(path, &info) && S_ISLNK(info.st_mode) && mabn_path_exists(path);
    *target = link ? realpath(path, NULL) : mabn_xstrdup(path);
    return *target ? MABN_OK : mabn_fail_errno("cannot follow the link '%s'", path);
}

mabn_status mabn_outfile_open(struct mabn_outfile *out, const char *path, bool force)
{
    static _Atomic unsigned serial;
    char *target;
    *out = (struct mabn_outfile){.fd = -1, .slot = -1};
    MABN_TRY(find_target(path, force, &target));
    char *folder = folder_of(target);
    sweep_leftovers(folder, name_of(target));
    free(folder);
    char *temp = mabn_xasprintf("%s.tmp-%ld-%u", target, (long)getpid(), serial++);
    out->slot = mabn_tempfile_register(temp);
    out->fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (out->fd < 0) {
        mabn_status status = mabn_fail_errno("cannot create '%s'", path);
        mabn_tempfile_forget(out->slot);
        out->slot = -1;
        free(temp);
        free(target);
        return status;
    }
    out->path = target;
    out->temp_path = temp;
    return MABN_OK;
}

mabn_status mabn_outfile_open_partial(struct mabn_outfile *out, const char *path, bool force)
{
    char *target;
    *out = (struct mabn_outfile){.fd = -1, .slot = -1};
    MABN_TRY(find_target(path, force, &target));
    char *temp = mabn_xasprintf("%s.partial", target);
    mabn_status status = MABN_OK;
    int fd = open(temp, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        status = mabn_fail_errno("cannot create '%s'", temp);
    else if (flock(fd, LOCK_EX | LOCK_NB) &&
             errno == EWOULDBLOCK) /* this file system has no locks: continue without */
        status = mabn_fail(MABN_ERR_IO, "another process is writing '%s'", temp);
    if (status) {
        if (fd >= 0) close(fd);
        free(temp);
        free(target);
        return status;
    }
    out->fd = fd;
    out->path = target;
    out->temp_path = temp;
    return MABN_OK;
}

static mabn_status sync_folder(const char *path)
{
    mabn_status status = MABN_OK;
    char *folder = folder_of(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems cannot sync a folder (EINVAL); then there is nothing to wait for. */
    if (fd < 0 || (fsync(fd) && errno != EINVAL && errno != ENOTSUP))
        status = mabn_fail_errno("cannot sync folder '%s'", folder);
    if (fd >= 0) close(fd);
    free(folder);
    return status;
}

static void forget(struct mabn_outfile *out)
{
    mabn_tempfile_forget(out->slot);
    free(out->path);
    free(out->temp_path);
    *out = (struct mabn_outfile){.fd = -1, .slot = -1};
}

mabn_status mabn_outfile_commit(struct mabn_outfile *out)
{
    mabn_status status = MABN_OK;
    int fd = out->fd;
    out->fd = -1;
    if (fsync(fd)) status = mabn_fail_errno("cannot write '%s'", out->path);
    if (close(fd) && !status) status = mabn_fail_errno("cannot write '%s'", out->path);
    if (!status && rename(out->temp_path, out->path))
        status = mabn_fail_errno("cannot rename '%s' to '%s'", out->temp_path, out->path);
    if (status) {
        unlink(out->temp_path);
        forget(out);
        return status;
    }
    status = sync_folder(out->path);
    forget(out);
    return status;
}

void mabn_outfile_abort(struct mabn_outfile *out)
{
    if (!out->temp_path) return;
    if (out->fd >= 0) close(out->fd);
    unlink(out->temp_path);
    forget(out);
}

void mabn_outfile_keep(struct mabn_outfile *out)
{
    if (!out->temp_path) return;
    if (out->fd >= 0) close(out->fd);
    forget(out);
}

mabn_status mabn_write_all(int fd, const void *bytes, size_t n, const char *name)
{
    const char *p = (const char *)bytes;
    while (n) {
        ssize_t wrote = write(fd, p, n < (1u << 30) ? n : 1u << 30);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return mabn_fail_errno("cannot write '%s'", name);
        p += wrote;
        n -= (size_t)wrote;
    }
    return MABN_OK;
}

/* Written in pieces of the size that cp uses, which end where the file's pages do. A write of many
 * megabytes has the page cache take memory in blocks of as many, and where those blocks were given
 * back (a virtual machine returns its large free blocks to the host) each page costs a fault there:
 * 1 GB then takes 3 seconds of system time instead of 0.6. */
static size_t piece_at(uint64_t offset, size_t n)
{
    const size_t piece = 1 << 17;
    size_t room = piece - (size_t)(offset % piece);
    return n < room ? n : room;
}

mabn_status mabn_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset, const char *name)
{
    const char *p = (const char *)bytes;
    while (n) {
        ssize_t wrote = pwrite(fd, p, piece_at(offset, n), (off_t)offset);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return mabn_fail_errno("cannot write '%s'", name);
        p += wrote;
        n -= (size_t)wrote;
        offset += (uint64_t)wrote;
    }
    return MABN_OK;
}

void mabn_start_writeback(int fd, size_t *behind, size_t n)
{
    const size_t enough = 32 << 20;
    if (__atomic_add_fetch(behind, n, __ATOMIC_RELAXED) < enough) return;
    __atomic_store_n(behind, 0, __ATOMIC_RELAXED);
    (void)sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

mabn_status mabn_write_file(const char *path, const void *bytes, size_t n, bool force)
{
    struct mabn_outfile out;
    MABN_TRY(mabn_outfile_open(&out, path, force));
    mabn_status status = mabn_write_all(out.fd, bytes, n, path);
    if (status) {
        mabn_outfile_abort(&out);
        return status;
    }
    return mabn_outfile_commit(&out);
}

/* ---- inputs ---- */

static mabn_status read_stream(struct mabn_input *in, int fd, uint64_t limit)
{
    size_t capacity = 1 << 16, size = 0;
    uint8_t *bytes = (uint8_t *)malloc(capacity + 1);
    for (;;) {
        ssize_t got = bytes ? read(fd, bytes + size, capacity - size) : 0;
        if (!bytes) return mabn_fail(MABN_ERR_NOMEM, "out of memory reading %s", in->name);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            free(bytes);
            return mabn_fail_errno("cannot read '%s'", in->name);
        }
        size += (size_t)got;
        if (limit && size > limit) {
            free(bytes);
            return mabn_fail(MABN_ERR_LIMIT, "'%s' is larger than the limit of %llu bytes",
                             in->name, (unsigned long long)limit);
        }
        if (!got) break;
        if (size == capacity) {
            uint8_t *larger = (uint8_t *)realloc(bytes, 2 * capacity + 1);
            if (!larger) free(bytes);
            bytes = larger;
            capacity *= 2;
        }
    }
    bytes[size] = 0;
    in->bytes = in->heap = bytes;
    in->size = size;
    return MABN_OK;
}

static mabn_status map_file(struct mabn_input *in, int fd, const struct stat *info, uint64_t limit)
{
    static const uint8_t nothing[1];
    uint64_t size = (uint64_t)info->st_size;
    if (limit && size > limit)
        return mabn_fail(MABN_ERR_LIMIT, "'%s' has %llu bytes, more than the limit of %llu",
                         in->name, (unsigned long long)size, (unsigned long long)limit);
    in->bytes = nothing;
    if (!size) return MABN_OK;
    void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) return mabn_fail_errno("cannot map '%s'", in->name);
    in->bytes = (const uint8_t *)map;
    in->size = size;
    in->mapped = true;
    return MABN_OK;
}

mabn_status mabn_input_open(struct mabn_input *in, const char *path, uint64_t limit)
{
    struct stat info;
    bool standard = !strcmp(path, "-");
    *in = (struct mabn_input){.name = mabn_xstrdup(standard ? "standard input" : path)};
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    mabn_status status;
    if (fd < 0 || fstat(fd, &info))
        status = mabn_fail_errno("cannot open '%s'", in->name);
    else if (S_ISDIR(info.st_mode))
        status = mabn_fail(MABN_ERR_IO, "cannot read '%s': it is a folder", in->name);
    else if (S_ISREG(info.st_mode) && !standard)
        status = map_file(in, fd, &info, limit);
    else
        status = read_stream(in, fd, limit);
    if (fd >= 0 && !standard) close(fd);
    if (status) mabn_input_release(in);
    return status;
}

mabn_status mabn_input_open_text(struct mabn_input *in, const char *path, uint64_t limit)
{
    MABN_TRY(mabn_input_open(in, path, limit));
    if (in->size >= 3 && !memcmp(in->bytes, "\xef\xbb\xbf", 3)) {
        in->skipped = 3;
        in->bytes += in->skipped;
        in->size -= in->skipped;
        return MABN_OK;
    }
    if (in->size < 2 || (memcmp(in->bytes, "\xff\xfe", 2) && memcmp(in->bytes, "\xfe\xff", 2)))
        return MABN_OK;
    mabn_status status =
        mabn_fail(MABN_ERR_UNSUPPORTED, "'%s' is UTF-16 text: save it as UTF-8", in->name);
    mabn_input_release(in);
    return status;
}

void mabn_input_release(struct mabn_input *in)
{
    if (in->mapped) munmap((void *)(uintptr_t)(in->bytes - in->skipped), in->size + in->skipped);
    free(in->heap);
    free(in->name);
    *in = (struct mabn_input){0};
}

mabn_status mabn_pread_all(int fd, void *bytes, size_t n, uint64_t offset, const char *name)
{
    char *p = (char *)bytes;
    while (n) {
        ssize_t got = pread(fd, p, n < (1u << 30) ? n : 1u << 30, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return mabn_fail_errno("cannot read '%s'", name);
        if (!got)
            return mabn_fail(MABN_ERR_FORMAT,
                             "'%s' is truncated: it ends at byte %llu, %zu more expected", name,
                             (unsigned long long)offset, n);
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return MABN_OK;
}

bool mabn_path_exists(const char *path)
{
    struct stat info;
    return !stat(path, &info);
}

bool mabn_path_is_dir(const char *path)
{
    struct stat info;
    return !stat(path, &info) && S_ISDIR(info.st_mode);
}

bool mabn_entry_is_dir(const char *path, const struct dirent *entry)
{
    if (entry->d_type == DT_DIR) return true;
    if (entry->d_type != DT_UNKNOWN && entry->d_type != DT_LNK) return false;
    return mabn_path_is_dir(path);
}

enum { MAX_DEPTH = 32 };

bool mabn_entry_is_hidden(const struct dirent *entry, const char *prefix,
                          struct mabn_hidden *hidden)
{
    const char *name = entry->d_name;
    if (name[0] != '.') return false;
    if (!strcmp(name, ".") || !strcmp(name, "..")) return true;
    char *path = prefix ? mabn_path_join(prefix, name) : mabn_xstrdup(name);
    if (!hidden->n++ || strcmp(path, hidden->first) < 0) {
        free(hidden->first);
        hidden->first = path;
    } else {
        free(path);
    }
    return true;
}

void mabn_hidden_tell(struct mabn_hidden *hidden, const char *folder)
{
    if (hidden->n)
        mabn_info("'%s': %zu hidden file%s or folder%s passed over (the first: '%s')", folder,
                  hidden->n, hidden->n == 1 ? "" : "s", hidden->n == 1 ? " is" : "s are",
                  hidden->first);
    free(hidden->first);
    *hidden = (struct mabn_hidden){0, NULL};
}

static mabn_status walk(const char *folder, const char *prefix, int depth, mabn_folder_visit visit,
                        struct mabn_hidden *hidden, void *context)
{
    const struct dirent *entry;
    mabn_status status = MABN_OK;
    if (depth > MAX_DEPTH)
        return mabn_fail(MABN_ERR_LIMIT, "'%s': folders are nested more than %d deep", folder,
                         MAX_DEPTH);
    DIR *dir = opendir(folder);
    if (!dir) return mabn_fail_errno("cannot open folder '%s'", folder);
    while (!status && (entry = readdir(dir))) {
        if (mabn_entry_is_hidden(entry, prefix, hidden)) continue;
        char *path = mabn_path_join(folder, entry->d_name);
        char *below = prefix ? mabn_path_join(prefix, entry->d_name) : mabn_xstrdup(entry->d_name);
        if (!mabn_entry_is_dir(path, entry)) {
            visit(context, path, below);
            continue;
        }
        status = walk(path, below, depth + 1, visit, hidden, context);
        free(path);
        free(below);
    }
    closedir(dir);
    return status;
}

mabn_status mabn_folder_walk(const char *folder, const char *prefix, mabn_folder_visit visit,
                             struct mabn_hidden *hidden, void *context)
{
    return walk(folder, prefix, 0, visit, hidden, context);
}

mabn_status mabn_make_dirs(const char *path)
{
    char *copy = mabn_xstrdup(path);
    mabn_status status = MABN_OK;
    for (char *p = copy + 1; !status && *copy; p++) {
        if (*p && *p != '/') continue;
        char end = *p;
        *p = '\0';
        if (mkdir(copy, 0777) && (errno != EEXIST || !mabn_path_is_dir(copy)))
            status = mabn_fail_errno("cannot create folder '%s'", copy);
        *p = end;
        if (!end) break;
    }
    free(copy);
    return status;
}

char *mabn_path_join(const char *folder, const char *name)
{
    size_t n = strlen(folder);
    return mabn_xasprintf("%s%s%s", folder, n && folder[n - 1] != '/' ? "/" : "", name);
}
