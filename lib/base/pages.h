/* Hints about memory pages. */
#ifndef MABN_BASE_PAGES_H
#define MABN_BASE_PAGES_H

#include <stddef.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

/* Most of the `bytes` at p, an allocation of its own, will be used soon: larger pages make fewer
 * faults. Nothing happens below some megabytes, where it does not pay. */
void mabn_expect_use(void *p, size_t bytes);
/* The contents of these `bytes` at p are not needed any more, and are lost: the pages that lie whole
 * within go back to the system. */
void mabn_forget(void *p, size_t bytes);

MABN_END_DECLS
#endif
