/* NCCL by dlopen, once a process, never closed. Its calls and the watchdog's question whether all is
 * well take turns (comm->gpu_lock): a communicator is one thread's at a time. */
#include "dist/nccl.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "dist/internal.h"
#include "dist/nccl_api.h"

enum { ANSWER_SECONDS = 60, POLL_US = 100, GPU_NAME = 64 };

struct mabn_nccl {
    struct mabn_comm *comm;
    void *handle; /* ncclComm_t */
    char name[32];
};

static struct mabn_nccl_calls calls;

/* ---- the library ---- */

static mabn_status open_library(void)
{
    static bool opened;
    if (opened) return MABN_OK;
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *error = dlerror();
        return mabn_fail(MABN_ERR_UNSUPPORTED, "%s", error ? error : "cannot load libnccl.so.2");
    }
#define FIND(function)                                            \
    *(void **)&calls.function = dlsym(library, "nccl" #function); \
    if (!calls.function)                                          \
        return mabn_fail(MABN_ERR_UNSUPPORTED, "libnccl.so.2 has no nccl%s", #function);
    MABN_NCCL_FUNCTIONS(FIND)
#undef FIND
    opened = true;
    return MABN_OK;
}

static mabn_status fail(const struct mabn_nccl *n, int result, const char *call)
{
    const char *said = calls.GetLastError(n ? n->handle : NULL);
    return mabn_fail(MABN_ERR_DIST, "nccl%s: %s%s%s", call, calls.GetErrorString(result),
                     said && *said ? ": " : "", said ? said : "");
}

/* Wait until the call that returned `result` has finished. */
static mabn_status settle(struct mabn_nccl *n, int result, const char *call)
{
    const struct timespec pause = {0, POLL_US * 1000};
    const int64_t start = mabn_dist_now_ms();
    while (result == MABN_NCCL_IN_PROGRESS) {
        if (mabn_dist_now_ms() - start > ANSWER_SECONDS * 1000)
            return mabn_fail(MABN_ERR_DIST, "nccl%s: no answer in %d s", call, ANSWER_SECONDS);
        nanosleep(&pause, NULL);
        const int asked = calls.CommGetAsyncError(n->handle, &result);
        if (asked != MABN_NCCL_SUCCESS) result = asked;
    }
    return result == MABN_NCCL_SUCCESS ? MABN_OK : fail(n, result, call);
}

/* ---- whether it is used ---- */

struct candidate {
    char gpu[GPU_NAME], why[200];
    int32_t version;
};

static struct candidate introduce(const char *gpu)
{
    struct candidate me;
    int version = 0;
    memset(&me, 0, sizeof me);
    snprintf(me.gpu, sizeof me.gpu, "%s", gpu);
    if (!*gpu) return me;
    if (open_library()) {
        snprintf(me.why, sizeof me.why, "%s", mabn_error_message());
        mabn_error_clear();
    } else if (calls.GetVersion(&version) != MABN_NCCL_SUCCESS || version < MABN_NCCL_OLDEST) {
        snprintf(me.why, sizeof me.why, "NCCL is older than 2.17");
    }
    me.version = version;
    return me;
}

static bool same_gpu(const struct mabn_comm *comm, const struct candidate *all, int a, int b)
{
    return !strcmp(comm->peers[a].host, comm->peers[b].host) && !strcmp(all[a].gpu, all[b].gpu);
}

/* The first reason against NCCL; `why` stays empty if there is none. */
static void object(struct mabn_str *why, const struct mabn_comm *comm, const struct candidate *all)
{
    for (int r = 0; r < comm->ranks && !why->length; r++) {
        const char *host = comm->peers[r].host;
        if (!*all[r].gpu)
            mabn_str_printf(why, "rank %d on %s has no GPU", r, host);
        else if (*all[r].why)
            mabn_str_printf(why, "rank %d on %s: %s", r, host, all[r].why);
        else if (all[r].version != all[0].version)
            mabn_str_printf(why, "rank %d on %s has NCCL %d, rank 0 has %d", r, host,
                            (int)all[r].version, (int)all[0].version);
        for (int k = 0; k < r && !why->length; k++)
            if (same_gpu(comm, all, k, r))
                mabn_str_printf(why, "ranks %d and %d share a GPU of %s", k, r, host);
    }
}

static mabn_status choose(struct mabn_comm *comm, const char *gpu, struct mabn_str *why,
                          int *version)
{
    const struct candidate me = introduce(gpu);
    struct candidate *all = (struct candidate *)mabn_xcalloc((size_t)comm->ranks, sizeof *all);
    const mabn_status status = mabn_comm_all_gather(comm, &me, sizeof me, all);
    bool any = false;
    for (int r = 0; r < comm->ranks; r++)
        any |= *all[r].gpu != '\0';
    *version = 0;
    if (!status && any) {
        object(why, comm, all);
        if (!why->length) *version = all[0].version;
    }
    free(all);
    return status;
}

/* ---- open and close ---- */

/* For the watchdog: NCCL's error as text; false if there is none. It does not wait. */
static bool find_fault(void *context, char *text, size_t size)
{
    const struct mabn_nccl *n = (const struct mabn_nccl *)context;
    int result = MABN_NCCL_SUCCESS;
    const int asked = calls.CommGetAsyncError(n->handle, &result);
    if (asked != MABN_NCCL_SUCCESS) result = asked;
    if (result == MABN_NCCL_SUCCESS || result == MABN_NCCL_IN_PROGRESS) return false;
    const char *said = calls.GetLastError(n->handle);
    snprintf(text, size, "NCCL: %s%s%s", calls.GetErrorString(result), said && *said ? ": " : "",
             said ? said : "");
    return true;
}

static void show_watchdog(struct mabn_comm *comm, struct mabn_nccl *n)
{
    pthread_mutex_lock(&comm->gpu_lock);
    comm->gpu_context = n;
    comm->gpu_fault = n ? find_fault : NULL;
    pthread_mutex_unlock(&comm->gpu_lock);
}

static mabn_status start(struct mabn_nccl *n)
{
    struct mabn_comm *comm = n->comm;
    struct mabn_nccl_config config = MABN_NCCL_CONFIG_INIT;
    struct mabn_nccl_id id;
    memset(&id, 0, sizeof id);
    int64_t result = comm->rank ? MABN_NCCL_SUCCESS : calls.GetUniqueId(&id);
    MABN_TRY(mabn_comm_broadcast(comm, &result, sizeof result));
    if (result != MABN_NCCL_SUCCESS) return fail(NULL, (int)result, "GetUniqueId");
    MABN_TRY(mabn_comm_broadcast(comm, &id, sizeof id));
    const int code = calls.CommInitRankConfig(&n->handle, comm->ranks, id, comm->rank, &config);
    return settle(n, code, "CommInitRankConfig");
}

mabn_status mabn_nccl_open(struct mabn_nccl **out, struct mabn_comm *comm, const char *gpu,
                           struct mabn_str *why)
{
    int version;
    *out = NULL;
    if (!comm || comm->ranks == 1) return MABN_OK;
    MABN_TRY(choose(comm, gpu, why, &version));
    if (!version) return MABN_OK;
    struct mabn_nccl *n = (struct mabn_nccl *)mabn_xcalloc(1, sizeof *n);
    n->comm = comm;
    snprintf(n->name, sizeof n->name, "NCCL %d.%d.%d", version / 10000, version % 10000 / 100,
             version % 100);
    const mabn_status status = start(n);
    if (status) {
        mabn_nccl_close(n, false);
        return status;
    }
    show_watchdog(comm, n);
    *out = n;
    return MABN_OK;
}

void mabn_nccl_close(struct mabn_nccl *n, bool orderly)
{
    if (!n) return;
    show_watchdog(n->comm, NULL);
    if (n->handle && orderly && settle(n, calls.CommFinalize(n->handle), "CommFinalize")) {
        mabn_error_clear();
        orderly = false;
    }
    if (n->handle) (orderly ? calls.CommDestroy : calls.CommAbort)(n->handle);
    free(n);
}

const char *mabn_nccl_name(const struct mabn_nccl *n)
{
    return n->name;
}

/* ---- sums ---- */

static int type_of(enum mabn_dist_type type)
{
    switch (type) {
    case MABN_DIST_F32:
        return MABN_NCCL_FLOAT32;
    case MABN_DIST_F64:
        return MABN_NCCL_FLOAT64;
    case MABN_DIST_I64:
        return MABN_NCCL_INT64;
    }
    MABN_BUG("unknown type %d", (int)type);
}

mabn_status mabn_nccl_sum(struct mabn_nccl *n, enum mabn_dist_type type, void *values, size_t count,
                          void *stream)
{
    pthread_mutex_lock(&n->comm->gpu_lock);
    const int code =
        calls.AllReduce(values, values, count, type_of(type), MABN_NCCL_SUM, n->handle, stream);
    const mabn_status status = settle(n, code, "AllReduce");
    pthread_mutex_unlock(&n->comm->gpu_lock);
    return status;
}
