/* Signals. Two modes:
 *
 * default (every tool): SIGINT, SIGTERM and SIGHUP remove this process's temporary files and then
 * end the process by the signal, so that the shell sees it; SIGPIPE keeps its default.
 *
 * graceful (mabn-train, mabn-pack): the first SIGINT or SIGTERM only sets a flag that work loops
 * poll; a second SIGINT acts as in default mode. SIGUSR1 sets a "save now" flag.  */
#ifndef MABN_BASE_SIGNAL_H
#define MABN_BASE_SIGNAL_H

#include <stdbool.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

void mabn_signals_install(void);  /* default mode; called by cli at start */
void mabn_signals_graceful(void); /* switch to graceful mode */

int mabn_stop_requested(void);  /* the signal's number, or 0 */
bool mabn_save_requested(void); /* true once for each SIGUSR1 since the last call */
const char *mabn_signal_name(int signal_number);

/* Private to base/file.c: registry of temporary files to unlink (async-signal-safe). */
int mabn_tempfile_register(const char *path);
void mabn_tempfile_forget(int slot);

MABN_END_DECLS
#endif
