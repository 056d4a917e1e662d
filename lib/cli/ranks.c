#include "cli/ranks.h"

#include <stdlib.h>

#include "base/log.h"
#include "cli/cli.h"

struct mabn_comm *mabn_cli_open_ranks(void)
{
    struct mabn_comm *comm;
    const mabn_status status = mabn_comm_open(&comm);
    if (!status) return comm;
    exit(mabn_log_rank() ? MABN_EXIT_FAILED : mabn_cli_finish(status));
}

int mabn_cli_finish_ranks(struct mabn_comm *comm, mabn_status status)
{
    const bool stopped = status == MABN_ERR_STOPPED, others = mabn_comm_rank(comm) > 0;
    if (status && !stopped) mabn_comm_fail(comm, MABN_EXIT_FAILED);
    mabn_comm_close(comm);
    if (others && stopped) return MABN_EXIT_STOPPED;
    return mabn_cli_finish(status);
}
