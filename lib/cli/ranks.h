/* Many processes, for the tools that work over ranks (dist/comm.h). Such a tool says `.ranks = true`
 * in its struct mabn_cli, and its main goes
 *
 *     int n = mabn_cli_start(&cli, argc, argv, &args);
 *     … checks of options, which all ranks have alike …
 *     options.comm = mabn_cli_open_ranks();
 *     return mabn_cli_finish_ranks(options.comm, mabn_train(&options));
 *
 * Without a launcher that is one process: no MPI is opened, no thread started. */
#ifndef MABN_CLI_RANKS_H
#define MABN_CLI_RANKS_H

#include "base/status.h"
#include "dist/comm.h"

/* After parsing, before anything that takes long or writes. When it fails rank 0 prints one line,
 * and all exit. */
struct mabn_comm *mabn_cli_open_ranks(void);

/* The device for this rank. With several ranks on a host, "cuda" and "auto" become the GPU with the
 * rank's number on this host, modulo the number of visible GPUs. A launcher may make one GPU visible to
 * each rank. Returns a static string, or `word`. */
const char *mabn_cli_rank_device(const struct mabn_comm *comm, const char *word);

/* In place of mabn_cli_finish. After success, or a stop by a signal, it waits for all ranks and
 * closes `comm`; rank 0 reports the stop. A failure of any rank ends the job: one line is printed,
 * which names the rank if it is not rank 0, and all exit. */
int mabn_cli_finish_ranks(struct mabn_comm *comm, mabn_status status);

#endif
