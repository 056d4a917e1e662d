/* Progress of long work on stderr: a bar with rate and ETA on a terminal (redrawn at most five
 * times a second), one plain line a minute otherwise, nothing with --quiet. Shown only when the
 * work has lasted over two seconds. Thread-safe. Never touches stdout. */
#ifndef MABN_BASE_PROGRESS_H
#define MABN_BASE_PROGRESS_H

#include <stdint.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_progress;

/* `what` ("packing") and `unit` ("images") are borrowed; total 0 = unknown. */
struct mabn_progress *mabn_progress_new(const char *what, const char *unit, uint64_t total);
void mabn_progress_add(struct mabn_progress *p, uint64_t n);
void mabn_progress_set(struct mabn_progress *p, uint64_t done);
/* Short text after the bar ("loss 1.23"); copied. */
void mabn_progress_note(struct mabn_progress *p, const char *format, ...) MABN_PRINTF(2, 3);
/* Erase the bar before a message is printed; the next update shows it again. */
void mabn_progress_hide(struct mabn_progress *p);
void mabn_progress_free(struct mabn_progress *p); /* erases the bar; NULL is fine */

/* Seconds on the monotonic clock. */
double mabn_now(void);
/* With -v: "WHAT 0.14 s after the start, 0.12 s of processor time". The first number counts from before
 * the process's libraries were loaded, and is 0 where the system does not tell. The second is of all
 * threads and depends little on what else the machine does. */
void mabn_tell_start(const char *what);
/* "3:07", "1:02:45" into buf; returns buf. */
char *mabn_format_seconds(char buf[32], double seconds);

MABN_END_DECLS
#endif
