/* A log of JSON Lines that survives kills: lines are appended whole; a run that goes on from step s
 * first drops the lines of later steps and a last line that was cut short, so that the log of a
 * disturbed run reads as if nothing had happened. */
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

/* Create or go on with a file. keep_step < 0: start afresh; otherwise lines whose "step" is larger
 * are dropped. "-" is standard output. */
MABN_MUST_USE mabn_status mabn_jsonl_open(struct mabn_jsonl *log, const char *path,
                                          int64_t keep_step);
/* Append the text and a newline, in one write. */
MABN_MUST_USE mabn_status mabn_jsonl_write(struct mabn_jsonl *log, const struct mabn_str *line);
void mabn_jsonl_close(struct mabn_jsonl *log);
/* Does the file's last line begin with this text? False also when it cannot be read. */
bool mabn_jsonl_ends_with(const char *path, const char *start);

MABN_END_DECLS
#endif
