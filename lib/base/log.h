/* Messages for people, always on stderr, always one line, prefixed with the tool's name
 * ("mabn-train: ..."). Only tools choose the level and the name; the library reports failure by
 * status (base/status.h) and uses mabn_warn for what a user must know although work goes on.
 *
 * With several ranks only rank 0 prints information; any rank may warn, prefixed "[rank 3]". */
#ifndef MABN_BASE_LOG_H
#define MABN_BASE_LOG_H

#include "base/attr.h"

MABN_BEGIN_DECLS

enum mabn_log_level { MABN_LOG_QUIET, MABN_LOG_NORMAL, MABN_LOG_VERBOSE };

void mabn_log_set_program(const char *name /* borrowed, static */);
const char *mabn_log_program(void);
void mabn_log_set_level(enum mabn_log_level level);
enum mabn_log_level mabn_log_level_now(void);
void mabn_log_set_rank(int rank, int ranks);
int mabn_log_rank(void);

void mabn_warn(const char *format, ...) MABN_PRINTF(1, 2);    /* all levels: "…: warning: …" */
void mabn_info(const char *format, ...) MABN_PRINTF(1, 2);    /* normal and verbose */
void mabn_verbose(const char *format, ...) MABN_PRINTF(1, 2); /* verbose only */

MABN_END_DECLS
#endif
