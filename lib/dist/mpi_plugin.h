/* Between the library and an MPI: a table of functions. mpi_plugin.c fills it and is built once for
 * each MPI that is found, as mabn-mpi-NAME.so; comm.c opens it by dlopen. All calls come from one
 * thread, the one that calls start. Only abort and library may come from others.
 *
 * A lane is a communicator of its own with at most one collective under way. A call that starts one
 * returns at once; test says when it is done. Buffers and arrays stay as they are until then.
 * Counts and offsets are in bytes. Everything returns 0, or else error says why. */
#ifndef MABN_DIST_MPI_PLUGIN_H
#define MABN_DIST_MPI_PLUGIN_H

#include <stddef.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

enum { MABN_MPI_VERSION = 1, MABN_MPI_LANES = 2 };

struct mabn_mpi {
    int version; /* MABN_MPI_VERSION, so that an old plug-in is noticed */
    int (*start)(int *rank, int *ranks);
    const char *(*library)(void); /* "Open MPI v4.1.4"; after start, any thread */
    const char *(*error)(void);

    int (*alltoall)(int lane, const void *send, const int *send_counts, const int *send_offsets,
                    void *receive, const int *counts, const int *offsets);
    int (*allgather)(int lane, const void *send, int count, void *receive, const int *counts,
                     const int *offsets);
    int (*gather)(int lane, const void *send, int count, void *receive, const int *counts,
                  const int *offsets);                  /* to rank 0 */
    int (*broadcast)(int lane, void *bytes, int count); /* from rank 0 */
    int (*test)(int lane, int *done);

    void (*progress)(void);  /* let the library send what it still holds */
    void (*abort)(int code); /* end all ranks; any thread */
    int (*finish)(void);
};

/* The one symbol of a plug-in. */
const struct mabn_mpi *mabn_mpi_table(void);

MABN_END_DECLS
#endif
