/* The error message is one fixed buffer per thread: recording a failure must not itself fail. */
#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char message[4096];

/* Control characters from hostile file names and files must not reach a terminal. */
static void clean(void)
{
    for (char *p = message; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
}

mabn_status mabn_fail(mabn_status status, const char *format, ...)
{
    char text[sizeof message]; /* arguments may point into the present message */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(message, text, sizeof text);
    clean();
    return status;
}

mabn_status mabn_fail_errno(const char *format, ...)
{
    int saved = errno;
    char text[sizeof message];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, ": %s", strerror(saved));
    memcpy(message, text, sizeof text);
    clean();
    return MABN_ERR_IO;
}

mabn_status mabn_fail_prefix(mabn_status status, const char *format, ...)
{
    char text[2 * sizeof message];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof message - 3, format, args);
    va_end(args);
    if (n < 0) return status;
    if ((size_t)n > sizeof message - 4) n = (int)(sizeof message - 4);
    snprintf(text + n, sizeof text - (size_t)n, ": %s", message);
    text[sizeof message - 1] = '\0';
    memcpy(message, text, sizeof message);
    clean();
    return status;
}

const char *mabn_error_message(void)
{
    return message;
}

void mabn_error_clear(void)
{
    message[0] = '\0';
}

char *mabn_error_detach(void)
{
    return strdup(message); /* NULL when out of memory: attach then keeps the status alone */
}

mabn_status mabn_error_attach(mabn_status status, char *text)
{
    if (status) mabn_fail(status, "%s", text ? text : mabn_status_name(status));
    free(text);
    return status;
}

const char *mabn_status_name(mabn_status status)
{
    static const char *const names[] = {
        [MABN_OK] = "ok",
        [MABN_ERR_ARG] = "wrong argument",
        [MABN_ERR_IO] = "I/O error",
        [MABN_ERR_FORMAT] = "format error",
        [MABN_ERR_LIMIT] = "limit exceeded",
        [MABN_ERR_NOTFOUND] = "not found",
        [MABN_ERR_MISMATCH] = "mismatch",
        [MABN_ERR_UNSUPPORTED] = "unsupported",
        [MABN_ERR_NOMEM] = "out of memory",
        [MABN_ERR_HDF5] = "HDF5 error",
        [MABN_ERR_DNNL] = "oneDNN error",
        [MABN_ERR_CUDA] = "CUDA error",
        [MABN_ERR_DIST] = "communication error",
        [MABN_ERR_NONFINITE] = "not finite",
        [MABN_ERR_STOPPED] = "stopped",
    };
    if ((unsigned)status < sizeof names / sizeof *names) return names[status];
    return "unknown status";
}

void mabn_bug_(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "BUG: %s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}
