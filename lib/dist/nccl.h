/* Sums of GPU memory over ranks by NCCL, beside the communicator that the ranks have already.
 *
 * NCCL is opened at run time (libnccl.so.2), as cuDNN is, and never linked. It is used if every rank
 * finds the same version, 2.17 or later, and has a GPU of its own. Otherwise mabn_nccl_open gives the
 * reason, the same on all ranks, and sums go through the host (dist/comm.h).
 *
 * Order. NCCL adds in an order of its own: all ranks get the same bits, but which bits depends on
 * the number of ranks. Use dist/comm.h for the bits of dist/tree.h.
 *
 * All calls come from the thread whose current GPU this is. Every rank makes the same calls in the same
 * order; streams may differ from call to call. NCCL is non-blocking: a call returns when NCCL has
 * accepted it, or after 60 s with an error. If a sum fails later, the watchdog ends the job
 * (MABN_EXIT_LOST). */
#ifndef MABN_DIST_NCCL_H
#define MABN_DIST_NCCL_H

#include "base/str.h"
#include "dist/comm.h"

MABN_BEGIN_DECLS

struct mabn_nccl;

/* Collective. gpu: a name of this rank's GPU that no other GPU of the host has, "" without one.
 * *nccl is NULL if NCCL is not used; then `why` is a line for the log, empty if no rank has a GPU
 * or there is one rank. comm is borrowed; one such object at a time. */
MABN_MUST_USE mabn_status mabn_nccl_open(struct mabn_nccl **nccl, struct mabn_comm *comm,
                                         const char *gpu, struct mabn_str *why);
/* orderly: every rank calls this, with no sum under way; otherwise NCCL is aborted. NULL is fine. */
void mabn_nccl_close(struct mabn_nccl *nccl, bool orderly);

/* "NCCL 2.28.9" */
const char *mabn_nccl_name(const struct mabn_nccl *nccl);

/* Queue in `stream`: values (count), in the GPU's memory, becomes the sum over all ranks. */
MABN_MUST_USE mabn_status mabn_nccl_sum(struct mabn_nccl *nccl, enum mabn_dist_type type,
                                        void *values, size_t count, void *stream);

MABN_END_DECLS
#endif
