/* A log of JSON Lines that survives kills. Lines are appended whole. A run that resumes at step s
 * first drops the lines of later steps and an incomplete last line, so that the log of an
 * interrupted run equals that of an uninterrupted one. */
#ifndef MABN_TRAIN_JSONL_H
#define MABN_TRAIN_JSONL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"

MABN_BEGIN_DECLS

struct mabn_jsonl {
    int fd; /* -1: closed, lines go nowhere */
    char *path;
};

/* Create or continue a file. keep_step < 0: start a new one; otherwise drop lines whose "step" is
 * larger. "-" is standard output. */
MABN_MUST_USE mabn_status mabn_jsonl_open(struct mabn_jsonl *log, const char *path,
                                          int64_t keep_step);
/* Append the text and a newline, in one write. */
MABN_MUST_USE mabn_status mabn_jsonl_write(struct mabn_jsonl *log, const struct mabn_str *line);
void mabn_jsonl_close(struct mabn_jsonl *log);
/* Does the file's last line begin with this text? False also when it cannot be read. */
bool mabn_jsonl_ends_with(const char *path, const char *start);

MABN_END_DECLS
#endif
