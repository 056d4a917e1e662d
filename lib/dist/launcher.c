#include "dist/launcher.h"

#include <stdbool.h>
#include <stdlib.h>

static int number(const char *text, int otherwise)
{
    char *end;
    if (!text || !*text) return otherwise;
    long n = strtol(text, &end, 10);
    return *end == '\0' && n >= 0 && n <= 1 << 20 ? (int)n : otherwise;
}

static mabn_status detect(struct mabn_launcher *l, const char *(*look)(const char *))
{
    const char *pmix = look("PMIX_RANK"), *pmi = look("PMI_RANK");
    int slurm = number(look("SLURM_STEP_NUM_TASKS"), 1);
    if (look("OMPI_COMM_WORLD_SIZE")) {
        *l = (struct mabn_launcher){MABN_LAUNCHER_MPIRUN, "mpirun",
                                    number(look("OMPI_COMM_WORLD_RANK"), 0),
                                    number(look("OMPI_COMM_WORLD_SIZE"), 1), "openmpi"};
    } else if (pmi && look("PMI_SIZE")) {
        bool srun = look("SLURM_STEP_ID") != NULL && slurm > 1;
        *l = (struct mabn_launcher){srun ? MABN_LAUNCHER_SRUN : MABN_LAUNCHER_HYDRA,
                                    srun ? "srun --mpi=pmi2" : "mpiexec", number(pmi, 0),
                                    number(look("PMI_SIZE"), 1), "mpich"};
    } else if (pmix && slurm > 1) {
        *l = (struct mabn_launcher){MABN_LAUNCHER_SRUN, "srun --mpi=pmix", number(pmix, 0), slurm,
                                    "openmpi"};
    } else if (slurm > 1 && look("SLURM_STEP_ID")) {
        *l = (struct mabn_launcher){MABN_LAUNCHER_SRUN, "srun", number(look("SLURM_PROCID"), 0),
                                    slurm, "openmpi"};
        return mabn_fail(MABN_ERR_DIST,
                         "started as %d processes by srun, which gives them no MPI: use srun "
                         "--mpi=pmix (or pmi2 for MPICH)",
                         slurm);
    }
    return MABN_OK;
}

mabn_status mabn_launcher_detect(struct mabn_launcher *launcher,
                                 const char *(*look)(const char *name))
{
    *launcher = (struct mabn_launcher){MABN_LAUNCHER_NONE, "no launcher", 0, 1, NULL};
    MABN_TRY(detect(launcher, look));
    const char *chosen = look("MABN_MPI");
    if (launcher->ranks > 1 && chosen && *chosen) launcher->mpi = chosen;
    return MABN_OK;
}
