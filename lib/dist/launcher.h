/* Which launcher started this process, by its environment. Private to this room and its tests.
 *
 * The number of processes is OMPI_COMM_WORLD_SIZE, else PMI_SIZE, else SLURM_STEP_NUM_TASKS;
 * without any of them, or with 1, there is one process and no MPI. SLURM_NTASKS and SLURM_PROCID
 * alone say nothing: the shell of a batch job has them too.
 *
 *     started by              tells its ranks                               MPI
 *     mpirun (Open MPI)       OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE    openmpi
 *     mpiexec (MPICH)         PMI_RANK, PMI_SIZE                            mpich
 *     srun --mpi=pmix         PMIX_RANK, SLURM_STEP_NUM_TASKS               openmpi
 *     srun --mpi=pmi2         PMI_RANK, PMI_SIZE, SLURM_STEP_NUM_TASKS      mpich
 *     srun --mpi=none         SLURM_STEP_ID, SLURM_STEP_NUM_TASKS           an error
 *
 * MABN_MPI in the environment overrides: "openmpi", "mpich", or the path of a plug-in. */
#ifndef MABN_DIST_LAUNCHER_H
#define MABN_DIST_LAUNCHER_H

#include "base/status.h"

MABN_BEGIN_DECLS

enum mabn_launcher_kind {
    MABN_LAUNCHER_NONE,
    MABN_LAUNCHER_MPIRUN,
    MABN_LAUNCHER_HYDRA,
    MABN_LAUNCHER_SRUN,
};

struct mabn_launcher {
    enum mabn_launcher_kind kind;
    const char *name; /* "mpirun", … */
    int rank, ranks;  /* as the launcher says; 0 and 1 without one */
    const char *mpi;  /* "openmpi", "mpich" or a path; borrowed from the environment */
};

/* look: getenv, or a test's own. Fails under srun without PMI; *launcher has the ranks even then. */
MABN_MUST_USE mabn_status mabn_launcher_detect(struct mabn_launcher *launcher,
                                               const char *(*look)(const char *name));

MABN_END_DECLS
#endif
