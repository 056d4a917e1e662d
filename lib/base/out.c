/* glibc throws the buffer away when it could not be written: a later flush or close has nothing left
 * to fail on, and only the stream's error flag, which has no number, tells that something is lost. */
#include "base/out.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int first_error;

static void check(bool good)
{
    if (!good && !first_error) first_error = errno ? errno : EIO;
}

void mabn_out_print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    check(vprintf(format, args) >= 0);
    va_end(args);
}

void mabn_out_write(const void *bytes, size_t length)
{
    check(fwrite(bytes, 1, length, stdout) == length);
}

void mabn_out_flush(void)
{
    check(!fflush(stdout));
}

mabn_status mabn_out_status(void)
{
    if (!first_error) return MABN_OK;
    errno = first_error;
    return mabn_fail_errno("cannot write standard output");
}

mabn_status mabn_out_close(void)
{
    errno = 0;
    check(!fclose(stdout));
    return mabn_out_status();
}
