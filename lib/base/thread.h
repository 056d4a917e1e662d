/* Threads: how many to use, and a parallel loop for irregular work.
 *
 * Numeric kernels use OpenMP (the run-time oneDNN uses too, so threads are shared); everything
 * that waits on files or decodes images uses these pthreads. */
#ifndef MABN_BASE_THREAD_H
#define MABN_BASE_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

MABN_BEGIN_DECLS

/* Threads this process may use: OMP_NUM_THREADS, else SLURM_CPUS_PER_TASK, else the affinity mask. */
int mabn_threads_available(void);

/* Let OpenMP threads that wait for each other spin only briefly and then sleep: on a machine with
 * other load (or our own decoders), spinning threads take processor time from those they wait for.
 * libgomp decides this before main, from the environment, so this sets GOMP_SPINCOUNT and executes
 * the program again; first thing in main. Does nothing when the user has set OMP_WAIT_POLICY or
 * GOMP_SPINCOUNT, or where the program cannot be executed again.
 *
 * Two cores, ms a training step of a small network (cifar-resnet8, batch 32), alone and beside
 * fifteen other processes: never spinning 19–23 and 36–57; count 2000 17 and 50; 5000 13 (alone);
 * 10000 and up 13 and 240–2400.  */
void mabn_threads_wait_asleep(char **argv);

/* Call work(context, index, worker) for every index in [0,count), on `threads` threads; indices are
 * given out in increasing order, in runs of `grain`. worker is in [0,threads). After a failure no
 * more indices are given out; the failure with the lowest index is returned with its message. */
typedef mabn_status (*mabn_work_fn)(void *context, int64_t index, int worker);
MABN_MUST_USE mabn_status mabn_parallel(int threads, int64_t count, int64_t grain,
                                        mabn_work_fn work, void *context);

MABN_END_DECLS
#endif
