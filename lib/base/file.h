/* Files: outputs that appear whole or not at all, inputs that are checked before they are read.
 *
 * An output is written to a temporary name in the target's folder, synced, renamed over the target,
 * and the folder is synced: a crash, a kill or a full disk leaves the old file or the new one,
 * never a half. Temporary files ("NAME.tmp-XXXXXX") of this process are removed on failure, on exit
 * and in the handlers of base/signal.h; those that a kill -9 left are removed by the next writer of
 * the same target. */
#ifndef MABN_BASE_FILE_H
#define MABN_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

MABN_BEGIN_DECLS

/* ---- outputs ---- */

struct mabn_outfile {
    char *path;      /* target */
    char *temp_path; /* where the bytes go until commit */
    int fd;          /* open for reading and writing */
    int slot;        /* private: clean-up registry */
};

/* Create the temporary file. Fails early when the folder is missing or read-only, when the target
 * is a folder, or when it exists and `force` is false. Targets that are not regular files
 * (/dev/null, a fifo) are refused; of a symbolic link to a file that file is the target. */
MABN_MUST_USE mabn_status mabn_outfile_open(struct mabn_outfile *out, const char *path, bool force);
/* The same under a fixed name, PATH.partial, which no signal and no exit removes. What an earlier
 * run left there is kept, so that the work can continue. Refused while another process has it
 * open. */
MABN_MUST_USE mabn_status mabn_outfile_open_partial(struct mabn_outfile *out, const char *path,
                                                    bool force);
/* Sync, close, rename, sync the folder. On failure the temporary file is gone. */
MABN_MUST_USE mabn_status mabn_outfile_commit(struct mabn_outfile *out);
/* Close and remove the temporary file. Safe after commit and on a zeroed struct. */
void mabn_outfile_abort(struct mabn_outfile *out);
/* Close the file and keep it under its temporary name, to continue later. */
void mabn_outfile_keep(struct mabn_outfile *out);

/* write(2) until done. `name` is for messages. */
MABN_MUST_USE mabn_status mabn_write_all(int fd, const void *bytes, size_t n, const char *name);
MABN_MUST_USE mabn_status mabn_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset,
                                          const char *name);
/* Ask the kernel to start writing to disk what was written to fd so far, every 32 MB, so that the
 * sync at the end is short. *behind counts the n bytes just written; several threads may share it.
 * A hint: it cannot fail. */
void mabn_start_writeback(int fd, size_t *behind, size_t n);
/* Write a small text file whole, by a temporary file and a rename, as above. */
MABN_MUST_USE mabn_status mabn_write_file(const char *path, const void *bytes, size_t n,
                                          bool force);

/* ---- inputs ---- */

/* A whole file as bytes: mapped when regular, read into memory when a pipe or "-" (stdin).
 * The bytes are followed by at least one zero byte only when read, not when mapped. */
struct mabn_input {
    const uint8_t *bytes; /* (size); never NULL */
    size_t size;
    char *name; /* for messages: the path, or "standard input" */
    bool mapped;
    size_t skipped; /* private: skipped bytes before `bytes` */
    void *heap;     /* private: the bytes when they were read */
};
/* limit: refuse more than this many bytes (0: none). Directories are refused. */
MABN_MUST_USE mabn_status mabn_input_open(struct mabn_input *in, const char *path, uint64_t limit);
/* The same for text written by people: a byte order mark at its start, which some editors add, is
 * skipped; UTF-16 is refused with a message that names it. */
MABN_MUST_USE mabn_status mabn_input_open_text(struct mabn_input *in, const char *path,
                                               uint64_t limit);
void mabn_input_release(struct mabn_input *in);

/* pread until done; a short file is MABN_ERR_FORMAT ("truncated"). */
MABN_MUST_USE mabn_status mabn_pread_all(int fd, void *bytes, size_t n, uint64_t offset,
                                         const char *name);

bool mabn_path_exists(const char *path);
bool mabn_path_is_dir(const char *path);
/* Likewise for an entry of a folder; most file systems give its type with the entry. */
struct dirent;
bool mabn_entry_is_dir(const char *path, const struct dirent *entry);
/* Files and folders whose names begin with a dot, which readers of folders pass over. */
struct mabn_hidden {
    size_t n;
    char *first; /* in byte order; malloc'd */
};
/* Is it hidden? Then count it, unless it is "." or "..": its path is below `prefix` (NULL: none). */
bool mabn_entry_is_hidden(const struct dirent *entry, const char *prefix,
                          struct mabn_hidden *hidden);
/* Say how many there are, if any, and release them. */
void mabn_hidden_tell(struct mabn_hidden *hidden, const char *folder);
/* Visit every file below a folder, in no order, without hidden ones. `visit` takes the file's path, and its
 * path from the folder on with `prefix` in front (NULL: none); both are malloc'd. */
typedef void (*mabn_folder_visit)(void *context, char *path, char *below);
MABN_MUST_USE mabn_status mabn_folder_walk(const char *folder, const char *prefix,
                                           mabn_folder_visit visit, struct mabn_hidden *hidden,
                                           void *context);
/* mkdir -p for one level or more. */
MABN_MUST_USE mabn_status mabn_make_dirs(const char *path);
/* "a" + "b" → "a/b", malloc'd. */
char *mabn_path_join(const char *folder, const char *name);

MABN_END_DECLS
#endif
