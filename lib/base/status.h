/* Status codes and the error message: the one way a library function reports failure.
 *
 * Every function that can fail returns a mabn_status. The function that *detects* the failure
 * writes the message (what was expected, what was found, which file and where in it) with
 * mabn_fail(); everyone above only passes the status on with MABN_TRY. The message is kept per
 * thread; a tool prints it once, at the end. The library itself never prints and never exits.
 *
 * Messages follow git's form: lower case, cause first, subject quoted, no full stop:
 *     cannot open 'x.h5': No such file or directory
 *     'ann.json':918: annotations[3].bbox: expected 4 numbers, found 3
 *
 * Three kinds of trouble, never mixed: bad input → a status; our own mistake → MABN_BUG(), which
 * aborts with file and line; a failed small host allocation → the mabn_x* family of base/mem.h. */
#ifndef MABN_BASE_STATUS_H
#define MABN_BASE_STATUS_H

#include <stdarg.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

typedef enum mabn_status {
    MABN_OK = 0,
    MABN_ERR_ARG,         /* invalid or inconsistent arguments */
    MABN_ERR_IO,          /* a system call failed: open, read, write, sync, rename */
    MABN_ERR_FORMAT,      /* invalid contents of a file */
    MABN_ERR_LIMIT,       /* well formed, but larger than a limit */
    MABN_ERR_NOTFOUND,    /* a named thing (tensor, category, image) is not there */
    MABN_ERR_MISMATCH,    /* two inputs do not belong together (shapes, kinds, names) */
    MABN_ERR_UNSUPPORTED, /* valid, but not something this build or version does */
    MABN_ERR_NOMEM,       /* a large allocation failed */
    MABN_ERR_HDF5,
    MABN_ERR_DNNL,
    MABN_ERR_CUDA,
    MABN_ERR_DIST,      /* MPI, NCCL, a lost rank */
    MABN_ERR_NONFINITE, /* a loss or statistic became NaN or infinite */
    MABN_ERR_STOPPED,   /* stopped by a signal; what had to be saved was saved */
} mabn_status;

/* Record a message (printf style) for this thread and return `status`, so that
 * `return mabn_fail(MABN_ERR_FORMAT, "...")` is one line. Overwrites an earlier message. */
mabn_status mabn_fail(mabn_status status, const char *format, ...) MABN_PRINTF(2, 3);

/* The same with ": <strerror(errno)>" appended; errno is read on entry. Status MABN_ERR_IO. */
mabn_status mabn_fail_errno(const char *format, ...) MABN_PRINTF(1, 2);

/* Prepend "<text>: " to the current message, for a file name that the failing function did not
 * know; returns `status` unchanged. */
mabn_status mabn_fail_prefix(mabn_status status, const char *format, ...) MABN_PRINTF(2, 3);

/* The last message recorded in this thread; "" when there is none. Valid until the next failure. */
const char *mabn_error_message(void);
void mabn_error_clear(void);

/* Carry a failure from a worker thread to the thread that reports it: copy the message out
 * (malloc'd, caller frees) and put it back. */
char *mabn_error_detach(void);
mabn_status mabn_error_attach(mabn_status status, char *message /* taken, may be NULL */);

/* "format error", "I/O error", … for logs. */
const char *mabn_status_name(mabn_status status);

MABN_NORETURN void mabn_bug_(const char *file, int line, const char *format, ...) MABN_PRINTF(3, 4);
#define MABN_BUG(...) mabn_bug_(__FILE__, __LINE__, __VA_ARGS__)

/* Return on failure. */
#define MABN_TRY(expr)                                 \
    do {                                               \
        mabn_status mabn_try_status_ = (expr);         \
        if (mabn_try_status_) return mabn_try_status_; \
    } while (0)

/* Set the local variable `status` and go to a clean-up label on failure. */
#define MABN_TRY_GOTO(expr, label) \
    do {                           \
        status = (expr);           \
        if (status) goto label;    \
    } while (0)

MABN_END_DECLS
#endif
