#include "base/pages.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

void mabn_expect_use(void *p, size_t bytes)
{
    enum { WORTH_IT = 4 << 20 };
    if (!p || bytes < WORTH_IT) return;
    /* To the edges of its mapping, which stays one for mremap. */
    const uintptr_t from = (uintptr_t)p / PAGE * PAGE;
    const uintptr_t to = ((uintptr_t)p + bytes + PAGE - 1) / PAGE * PAGE;
    (void)!madvise((void *)from, to - from, MADV_HUGEPAGE);
}

void mabn_forget(void *p, size_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)p + page - 1) / page * page;
    const uintptr_t to = ((uintptr_t)p + bytes) / page * page;
    if (from < to) (void)!madvise((void *)from, to - from, MADV_DONTNEED);
}
