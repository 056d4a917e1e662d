/* MPI behind dist/mpi_plugin.h. Not part of the library: see there. */
#include "dist/mpi_plugin.h"

#include <fcntl.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static MPI_Comm lanes[MABN_MPI_LANES];
static MPI_Request requests[MABN_MPI_LANES];
static char message[MPI_MAX_ERROR_STRING], version[MPI_MAX_LIBRARY_VERSION_STRING];

static int check(int code)
{
    int length;
    if (code == MPI_SUCCESS) return 0;
    if (MPI_Error_string(code, message, &length) != MPI_SUCCESS) strcpy(message, "MPI error");
    return code;
}

/* Keep Open MPI from printing paragraphs where our watchdog prints a line, from handling SIGSEGV, and
 * from starting a daemon when there is no launcher. */
static void quieten(void)
{
    setenv("OMPI_MCA_orte_execute_quiet", "1", 0);
    setenv("OMPI_MCA_btl_base_warn_peer_error", "0", 0);
    setenv("OMPI_MCA_opal_signal", "", 0);
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
}

static int start(int *rank, int *ranks)
{
    int level, length;
    quieten();
    if (check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level))) return 1;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, ranks);
    MPI_Get_library_version(version, &length);
    for (int i = 0; i < MABN_MPI_LANES; i++) {
        requests[i] = MPI_REQUEST_NULL;
        if (check(MPI_Comm_dup(MPI_COMM_WORLD, &lanes[i]))) return 1;
    }
    return 0;
}

static const char *library(void)
{
    version[strcspn(version, ",\n")] = '\0'; /* "Open MPI v4.1.4", "MPICH Version: 4.0.2" */
    for (char *tab; (tab = strchr(version, '\t'));)
        *tab = ' ';
    return version;
}

static const char *error(void)
{
    return message;
}

static int alltoall(int lane, const void *send, const int *send_counts, const int *send_offsets,
                    void *receive, const int *counts, const int *offsets)
{
    return check(MPI_Ialltoallv(send, send_counts, send_offsets, MPI_BYTE, receive, counts, offsets,
                                MPI_BYTE, lanes[lane], &requests[lane]));
}

static int allgather(int lane, const void *send, int count, void *receive, const int *counts,
                     const int *offsets)
{
    return check(MPI_Iallgatherv(send, count, MPI_BYTE, receive, counts, offsets, MPI_BYTE,
                                 lanes[lane], &requests[lane]));
}

static int gather(int lane, const void *send, int count, void *receive, const int *counts,
                  const int *offsets)
{
    return check(MPI_Igatherv(send, count, MPI_BYTE, receive, counts, offsets, MPI_BYTE, 0,
                              lanes[lane], &requests[lane]));
}

static int broadcast(int lane, void *bytes, int count)
{
    return check(MPI_Ibcast(bytes, count, MPI_BYTE, 0, lanes[lane], &requests[lane]));
}

static int test(int lane, int *done)
{
    return check(MPI_Test(&requests[lane], done, MPI_STATUS_IGNORE));
}

static void progress(void)
{
    int found;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &found, MPI_STATUS_IGNORE);
}

/* The caller has printed the reason. MPICH would print its own, too. */
static void abort_all(int code)
{
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere >= 0) dup2(nowhere, STDERR_FILENO);
    MPI_Abort(MPI_COMM_WORLD, code);
}

/* After MPI_Finalize, even a failed one, MPI 3 allows no call, not even MPI_Error_string: Open MPI would
 * end the process with a page of text. */
static int finish(void)
{
    for (int i = 0; i < MABN_MPI_LANES; i++)
        if (check(MPI_Comm_free(&lanes[i]))) return 1;
    const int code = MPI_Finalize();
    if (code != MPI_SUCCESS) snprintf(message, sizeof message, "MPI_Finalize failed with %d", code);
    return code;
}

const struct mabn_mpi *mabn_mpi_table(void)
{
    static const struct mabn_mpi table = {MABN_MPI_VERSION, start,  library,   error, alltoall,
                                          allgather,        gather, broadcast, test,  progress,
                                          abort_all,        finish};
    return &table;
}
