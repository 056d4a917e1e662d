/* Standard output, where tools print their results. Writing goes on after a failure, because a tool
 * looks at the end whether all was written; by then errno says nothing of it any more. The error
 * number of the first write that failed is therefore kept here, and cmd/ and lib/ print nowhere else.
 *
 * One thread at a time. */
#ifndef MABN_BASE_OUT_H
#define MABN_BASE_OUT_H

#include <stddef.h>

#include "base/attr.h"
#include "base/status.h"

MABN_BEGIN_DECLS

void mabn_out_print(const char *format, ...) MABN_PRINTF(1, 2);
void mabn_out_write(const void *bytes, size_t length);
void mabn_out_flush(void);

/* Whether all writes so far went well: "cannot write standard output: No space left on device". What
 * is still in the buffer is not included; mabn_out_close writes that too, and is called once. */
mabn_status mabn_out_status(void);
mabn_status mabn_out_close(void);

MABN_END_DECLS
#endif
