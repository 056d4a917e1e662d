/* The parts of NCCL that are called, declared here so that no file needs its header. Private to this
 * room and to the stand-in under tests/gpu/executor.
 *
 * None of this has changed since NCCL 2.17. Results and types are ints with the values of nccl.h. The
 * configuration begins with its size and version, from which a newer library knows which fields to
 * leave at their defaults. */
#ifndef MABN_DIST_NCCL_API_H
#define MABN_DIST_NCCL_API_H

#include <limits.h>
#include <stddef.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

enum { MABN_NCCL_OLDEST = 21700 };                         /* in the form of ncclGetVersion */
enum { MABN_NCCL_SUCCESS = 0, MABN_NCCL_IN_PROGRESS = 7 }; /* ncclResult_t */
enum { MABN_NCCL_INT64 = 4, MABN_NCCL_FLOAT32 = 7, MABN_NCCL_FLOAT64 = 8 }; /* ncclDataType_t */
enum { MABN_NCCL_SUM = 0 };                                                 /* ncclRedOp_t */

struct mabn_nccl_id { /* ncclUniqueId */
    char bytes[128];
};

struct mabn_nccl_config { /* ncclConfig_t of 2.17 */
    size_t size;
    unsigned magic, version;
    int blocking;
    int cluster, least_blocks, most_blocks; /* INT_MIN: NCCL's choice */
    const char *network;                    /* NULL: likewise */
};
#define MABN_NCCL_CONFIG_INIT                                                               \
    {                                                                                       \
        sizeof(struct mabn_nccl_config), 0xcafebeef, MABN_NCCL_OLDEST, 0, INT_MIN, INT_MIN, \
            INT_MIN, NULL                                                                   \
    }

/* A communicator is ncclComm_t, a stream cudaStream_t. */
struct mabn_nccl_calls {
    int (*GetVersion)(int *version);
    const char *(*GetErrorString)(int result);
    const char *(*GetLastError)(void *comm); /* NULL: of this thread */
    int (*GetUniqueId)(struct mabn_nccl_id *id);
    int (*CommInitRankConfig)(void **comm, int ranks, struct mabn_nccl_id id, int rank,
                              struct mabn_nccl_config *config);
    int (*CommGetAsyncError)(void *comm, int *result);
    int (*CommFinalize)(void *comm);
    int (*CommDestroy)(void *comm);
    int (*CommAbort)(void *comm);
    int (*AllReduce)(const void *send, void *receive, size_t count, int type, int op, void *comm,
                     void *stream);
};
#define MABN_NCCL_FUNCTIONS(F) \
    F(GetVersion)              \
    F(GetErrorString)          \
    F(GetLastError)            \
    F(GetUniqueId)             \
    F(CommInitRankConfig)      \
    F(CommGetAsyncError)       \
    F(CommFinalize)            \
    F(CommDestroy)             \
    F(CommAbort)               \
    F(AllReduce)

MABN_END_DECLS
#endif
