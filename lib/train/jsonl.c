#include "train/jsonl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

/* The "step" of a line that we wrote; -1 if it has none, INT64_MAX if it is incomplete. */
static int64_t step_of(const char *line, size_t length)
{
    int64_t step = -1;
    struct mabn_json_text key;
    struct mabn_json *j = mabn_json_new_bytes(line, length, "log");
    mabn_json_begin_object(j);
    while (mabn_json_next_key(j, &key)) {
        if (mabn_json_is(key, "step"))
            mabn_json_read_int64(j, &step);
        else
            mabn_json_skip(j);
    }
    if (mabn_json_end(j)) step = INT64_MAX;
    mabn_json_free(j);
    mabn_error_clear();
    return step;
}

/* Rewrite the file without the lines after keep_step. */
static mabn_status trim(const char *path, int64_t keep_step)
{
    struct mabn_input in;
    struct mabn_str kept;
    MABN_TRY(mabn_input_open_text(&in, path, 0));
    mabn_str_init(&kept);
    const char *at = (const char *)in.bytes, *end = at + in.size;
    while (at < end) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) break; /* incomplete */
        if (step_of(at, (size_t)(stop - at)) <= keep_step)
            mabn_str_add_bytes(&kept, at, (size_t)(stop + 1 - at));
        at = stop + 1;
    }
    mabn_status status = MABN_OK;
    if (kept.length != in.size) status = mabn_write_file(path, kept.text, kept.length, true);
    mabn_str_release(&kept);
    mabn_input_release(&in);
    return status;
}

mabn_status mabn_jsonl_open(struct mabn_jsonl *log, const char *path, int64_t keep_step)
{
    struct stat st;
    log->fd = -1;
    log->path = NULL;
    bool to_stdout = !strcmp(path, "-");
    if (!to_stdout && keep_step >= 0 && !stat(path, &st) && S_ISREG(st.st_mode))
        MABN_TRY(trim(path, keep_step));
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (keep_step < 0 ? O_TRUNC : 0);
    log->fd = to_stdout ? dup(STDOUT_FILENO) : open(path, flags, 0666);
    if (log->fd < 0) return mabn_fail_errno("cannot write '%s'", path);
    log->path = mabn_xstrdup(to_stdout ? "standard output" : path);
    return MABN_OK;
}

mabn_status mabn_jsonl_write(struct mabn_jsonl *log, const struct mabn_str *line)
{
    if (log->fd < 0) return MABN_OK;
    struct mabn_str whole;
    mabn_str_init(&whole);
    mabn_str_add(&whole, line->text);
    mabn_str_add_char(&whole, '\n');
    mabn_status status = mabn_write_all(log->fd, whole.text, whole.length, log->path);
    mabn_str_release(&whole);
    return status;
}

void mabn_jsonl_close(struct mabn_jsonl *log)
{
    if (log->fd >= 0) close(log->fd);
    free(log->path);
    log->fd = -1;
    log->path = NULL;
}

bool mabn_jsonl_ends_with(const char *path, const char *start)
{
    struct mabn_input in;
    if (mabn_input_open_text(&in, path, 0)) {
        mabn_error_clear();
        return false;
    }
    const char *bytes = (const char *)in.bytes;
    size_t at = in.size;
    while (at > 0 && (at == in.size || bytes[at - 1] != '\n'))
        at--;
    const size_t n = strlen(start);
    const bool ends = in.size - at >= n && !memcmp(bytes + at, start, n);
    mabn_input_release(&in);
    return ends;
}
