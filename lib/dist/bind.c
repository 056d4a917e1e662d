/* Cores for ranks. By default mpirun binds one or two ranks of a host to a single core each, and more
 * ranks to a whole package or not at all, which is wrong for programs with threads. So, unless the user
 * asked the launcher for a binding, we divide the job's cores on this host among its ranks, in blocks of
 * neighbours. The binding of srun is kept. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/thread.h"
#include "dist/internal.h"

struct core {
    int package, core, cpu;
};

static int topology(int cpu, const char *name)
{
    char path[96];
    int value = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, name);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%d", &value) != 1) value = 0;
    fclose(file);
    return value;
}

static int compare(const void *a, const void *b)
{
    const struct core *x = (const struct core *)a, *y = (const struct core *)b;
    if (x->package != y->package) return x->package < y->package ? -1 : 1;
    if (x->core != y->core) return x->core < y->core ? -1 : 1;
    return (x->cpu > y->cpu) - (x->cpu < y->cpu);
}

/* Hyperthreads of a core are neighbours in this order, and so are cores of a package. */
static int order_cores(int order[CPU_SETSIZE], const cpu_set_t *all)
{
    struct core cores[CPU_SETSIZE];
    int n = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, all)) continue;
        cores[n++] =
            (struct core){topology(cpu, "physical_package_id"), topology(cpu, "core_id"), cpu};
    }
    qsort(cores, (size_t)n, sizeof *cores, compare);
    for (int i = 0; i < n; i++)
        order[i] = cores[i].cpu;
    return n;
}

bool mabn_bind_share(cpu_set_t *share, const int *order, int cores, int local_rank, int local_ranks)
{
    CPU_ZERO(share);
    if (cores < local_ranks) return false;
    int first = (int)((int64_t)cores * local_rank / local_ranks);
    int end = (int)((int64_t)cores * (local_rank + 1) / local_ranks);
    for (int i = first; i < end; i++)
        CPU_SET(order[i], share);
    return true;
}

/* ---- whose binding counts ---- */

static bool user_bound(void)
{
    return getenv("OMPI_MCA_hwloc_base_binding_policy") ||
           getenv("OMPI_MCA_rmaps_base_mapping_policy") ||
           getenv("PRTE_MCA_hwloc_default_binding_policy") || getenv("HYDRA_BINDING") ||
           getenv("HYDRA_TOPO_BINDING");
}

static pid_t parent_of(pid_t pid, char name[32])
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    char *open = strchr(text, '('), *close = strrchr(text, ')');
    int parent;
    if (!open || !close || sscanf(close + 1, " %*c %d", &parent) != 1) return 0;
    snprintf(name, 32, "%.*s", (int)(close - open - 1), open + 1);
    return (pid_t)parent;
}

/* The cores that the job may use are those of the launcher's process on this host. */
static bool launcher_cores(cpu_set_t *cores)
{
    static const char *const daemons[] = {"mpirun",          "orterun",        "orted",
                                          "prterun",         "prted",          "mpiexec",
                                          "hydra_pmi_proxy", "mpirun.openmpi", "mpiexec.hydra"};
    char name[32];
    pid_t pid = getppid();
    for (int i = 0; i < 8 && pid > 1; i++) {
        pid_t parent = parent_of(pid, name);
        for (size_t k = 0; k < sizeof daemons / sizeof *daemons; k++)
            if (!strncmp(name, daemons[k], 15))
                return !sched_getaffinity(pid, sizeof *cores, cores);
        pid = parent;
    }
    return false;
}

static bool same_host(const struct mabn_comm *comm, int rank)
{
    return !strcmp(comm->peers[rank].host, comm->peers[comm->rank].host);
}

/* Do this host's ranks all have the cores of this one? */
static bool shared(const struct mabn_comm *comm, const cpu_set_t *cores)
{
    for (int r = 0; r < comm->ranks; r++)
        if (same_host(comm, r) && !CPU_EQUAL(cores, &comm->peers[r].cpus)) return false;
    return true;
}

/* Every thread of this process, those of MPI too. */
static bool bind_all(const cpu_set_t *share)
{
    bool bound = !sched_setaffinity(0, sizeof *share, share);
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) return bound;
    for (struct dirent *entry; (entry = readdir(tasks));)
        if (isdigit((unsigned char)entry->d_name[0]))
            sched_setaffinity(atoi(entry->d_name), sizeof *share, share);
    closedir(tasks);
    return bound;
}

static void list_cores(char *text, size_t size, const cpu_set_t *cores)
{
    size_t used = 0;
    *text = '\0';
    for (int a = 0; a < CPU_SETSIZE && used + 16 < size; a++) {
        if (!CPU_ISSET(a, cores)) continue;
        int b = a;
        while (b + 1 < CPU_SETSIZE && CPU_ISSET(b + 1, cores))
            b++;
        used += (size_t)snprintf(text + used, size - used, b > a ? "%s%d-%d" : "%s%d",
                                 used ? "," : "", a, b);
        a = b;
    }
}

void mabn_bind(struct mabn_comm *comm)
{
    cpu_set_t cores = comm->peers[comm->rank].cpus, launcher, share;
    int order[CPU_SETSIZE];
    char list[96];
    bool ours =
        comm->launcher.kind != MABN_LAUNCHER_SRUN && !user_bound() && launcher_cores(&launcher);
    if (ours) cores = launcher;
    int n = order_cores(order, &cores);
    int each = n / comm->local_ranks;
    comm->threads = mabn_threads_available();
    if (!ours && !shared(comm, &cores)) {
        list_cores(list, sizeof list, &cores);
        snprintf(comm->binding, sizeof comm->binding, "cores %s, as %s gave them", list,
                 comm->launcher.name);
    } else if (!mabn_bind_share(&share, order, n, comm->local_rank, comm->local_ranks)) {
        if (ours) bind_all(&cores);
        snprintf(comm->binding, sizeof comm->binding, "not bound: %d cores for %d ranks", n,
                 comm->local_ranks);
        each = 1;
    } else if (bind_all(&share)) {
        list_cores(list, sizeof list, &share);
        snprintf(comm->binding, sizeof comm->binding, "bound to cores %s", list);
        comm->threads = mabn_threads_available();
        return;
    }
    if (comm->threads > each && !getenv("OMP_NUM_THREADS") && shared(comm, &cores))
        comm->threads = each > 0 ? each : 1;
}
