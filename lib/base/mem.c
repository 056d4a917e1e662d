#include "base/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* No small allocation of ours can fail on a working machine; unwinding would be untested code. */
MABN_NORETURN static void die_of_memory(size_t size)
{
    fprintf(stderr, "fatal: out of memory (%zu bytes)\n", size);
    _exit(1);
}

void *mabn_xmalloc(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (!p) die_of_memory(size);
    return p;
}

void *mabn_xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) die_of_memory(count * size);
    return p;
}

void *mabn_xrealloc(void *p, size_t size)
{
    p = realloc(p, size ? size : 1);
    if (!p) die_of_memory(size);
    return p;
}

char *mabn_xstrdup(const char *s)
{
    return mabn_xstrndup(s, strlen(s));
}

char *mabn_xstrndup(const char *s, size_t n)
{
    char *copy = (char *)mabn_xmalloc(n + 1);
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

char *mabn_xasprintf(const char *format, ...)
{
    va_list args;
    char *text;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0) die_of_memory(0);
    va_end(args);
    return text;
}

mabn_status mabn_alloc(void **out, size_t bytes)
{
    *out = NULL;
    if (bytes > SIZE_MAX / 2 || posix_memalign(out, 64, bytes ? bytes : 1)) {
        *out = NULL;
        return mabn_fail(MABN_ERR_NOMEM, "out of memory: cannot allocate %zu bytes", bytes);
    }
    return MABN_OK;
}

mabn_status mabn_alloc_zero(void **out, size_t bytes)
{
    MABN_TRY(mabn_alloc(out, bytes));
    memset(*out, 0, bytes);
    return MABN_OK;
}

void mabn_free(void *p)
{
    free(p);
}

uint64_t mabn_peak_memory(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage)) return 0;
    return (uint64_t)usage.ru_maxrss * 1024;
}
