#include "cli/ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "device/device.h"

struct mabn_comm *mabn_cli_open_ranks(void)
{
    struct mabn_comm *comm;
    const mabn_status status = mabn_comm_open(&comm);
    if (!status) return comm;
    exit(mabn_log_rank() ? MABN_EXIT_FAILED : mabn_cli_finish(status));
}

const char *mabn_cli_rank_device(const struct mabn_comm *comm, const char *word)
{
    static char own[24];
    const int gpus = mabn_comm_local_ranks(comm) > 1 ? mabn_device_gpus() : 0;
    if (!gpus || (strcmp(word, "cuda") && strcmp(word, "auto"))) return word;
    snprintf(own, sizeof own, "cuda:%d", mabn_comm_local_rank(comm) % gpus);
    return own;
}

int mabn_cli_finish_ranks(struct mabn_comm *comm, mabn_status status)
{
    const bool stopped = status == MABN_ERR_STOPPED, others = mabn_comm_rank(comm) > 0;
    if (status && !stopped) mabn_comm_fail(comm, MABN_EXIT_FAILED);
    mabn_comm_close(comm);
    if (others && stopped) return MABN_EXIT_STOPPED;
    return mabn_cli_finish(status);
}
