/* SyncBN on several ranks, for tests/dist/sync.bats and tests/peer/sync.py. "rank" is a shard below, which
 * has a rank of its own unless the third argument says how many shards there are:
 *
 *     test_sync bn           12 samples on all ranks are BN of 12
 *     test_sync shares       so are unequal shares, of which one is empty
 *     test_sync groups N     groups of N ranks are BN of their own samples
 *     test_sync rows         a plan of whose rows rank r has 3 − 3r at first, then 3
 *     test_sync file FILE    steps that a peer recorded, of rank 0, rank 1, …
 *
 * FILE is an HDF5 file in which each group is a case: weight, bias, and for each rank a group
 * rank0, … with x and gy (steps,N,C,…), and the results y64, gx64, gweight64, gbias64,
 * running_mean64, running_var64; N may be 0. An attribute `weighted` of the case that is not 0 means
 * all elements alike, otherwise the means of the ranks alike. Rank 0 prints a line a check, and
 * a hash of every rank's results. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/mem.h"
#include "device/device.h"
#include "dist/lockstep.h"
#include "net/net.h"
#include "norm/norm.h"
#include "norm/state.h"
#include "norm/sync.h"

#include "../unit/h5array.h"

static struct mabn_comm *comm;
static struct mabn_norm_sync *syncs;
static int ranks;
/* Of the shard whose turn it is; each has a thread of its own. */
static _Thread_local struct mabn_norm_sync *sync;
static _Thread_local int rank;

/* ---- a layer ---- */

struct layer {
    struct mabn_norm norm;
    struct mabn_norm_io io;
    size_t count; /* of x */
    float *gamma, *beta, *x, *y, *dy, *dx, *dgamma, *dbeta, *running_mean, *running_var;
    void *memory[3];
};

static float *floats(size_t n)
{
    return mabn_xcalloc(n + 1, sizeof(float));
}

static void layer_new(struct layer *l, enum mabn_norm_kind kind, bool reference, int64_t samples,
                      int64_t positions, int channels)
{
    struct mabn_norm_options o;
    struct mabn_norm_tensor tensors[8];
    const size_t c = (size_t)channels;
    memset(l, 0, sizeof *l);
    mabn_norm_options_init(&o, kind);
    o.sync_reference = reference;
    if (mabn_norm_init(&l->norm, &o, channels)) MABN_BUG("%s", mabn_error_message());
    l->norm.sync = kind == MABN_NORM_SYNCBN ? sync : NULL;
    l->count = (size_t)(samples * positions) * c;
    float **arrays[] = {&l->x, &l->y, &l->dy, &l->dx};
    for (int i = 0; i < 4; i++)
        *arrays[i] = floats(l->count);
    float **small[] = {&l->gamma, &l->beta, &l->dgamma, &l->dbeta};
    for (int i = 0; i < 4; i++)
        *small[i] = floats(c);
    const size_t bytes[3] = {mabn_norm_state_bytes(&l->norm),
                             mabn_norm_saved_bytes(&l->norm, samples),
                             mabn_norm_scratch_bytes(&l->norm, samples, positions)};
    for (int i = 0; i < 3; i++)
        if (mabn_alloc(&l->memory[i], bytes[i] + 64)) MABN_BUG("%s", mabn_error_message());
    mabn_norm_state_reset(&l->norm, l->memory[0]);
    const int n = mabn_norm_state_list(&l->norm, l->memory[0], tensors);
    for (int i = 0; i < n; i++) {
        if (!strcmp(tensors[i].name, "running_mean")) l->running_mean = tensors[i].data;
        if (!strcmp(tensors[i].name, "running_var")) l->running_var = tensors[i].data;
    }
    l->io = (struct mabn_norm_io){.samples = samples,
                                  .positions = positions,
                                  .gamma = l->gamma,
                                  .beta = l->beta,
                                  .state = l->memory[0],
                                  .saved = l->memory[1],
                                  .scratch = l->memory[2],
                                  .x = l->x,
                                  .y = l->y,
                                  .dy = l->dy,
                                  .dx = l->dx,
                                  .dgamma = l->dgamma,
                                  .dbeta = l->dbeta};
}

static void layer_free(struct layer *l)
{
    float *all[] = {l->gamma, l->beta, l->x, l->y, l->dy, l->dx, l->dgamma, l->dbeta};
    for (int i = 0; i < 8; i++)
        free(all[i]);
    for (int i = 0; i < 3; i++)
        mabn_free(l->memory[i]);
}

static mabn_status step(struct layer *l)
{
    MABN_TRY(mabn_norm_forward(&l->norm, &l->io));
    l->io.y = NULL; /* no ReLU */
    const mabn_status status = mabn_norm_backward(&l->norm, &l->io);
    l->io.y = l->y;
    return status;
}

/* ---- against BN of all samples in one process ---- */

enum { CHANNELS = 6, POSITIONS = 35 };

static void draw(float *values, size_t n, uint32_t seed)
{
    uint32_t x = 2654435761u * (seed + 1);
    for (size_t i = 0; i < n; i++) {
        x = 1664525u * x + 1013904223u;
        values[i] = (float)(x >> 8) / (1 << 23) - 1 + (float)(seed % 3);
    }
}

static double worst(double so_far, const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        so_far = fmax(so_far, fabs((double)a[i] - b[i]));
    return so_far;
}

static unsigned long long hash(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

/* This rank's share of `total` samples in a group that begins at rank `first`; at: where it begins. */
static mabn_status compare(const int *shares, int first, int size, uint32_t seed)
{
    struct layer whole, mine;
    int total = 0, at = 0;
    double far[3] = {0};
    for (int r = 0; r < size; r++) {
        if (first + r < rank) at += shares[r];
        total += shares[r];
    }
    layer_new(&whole, MABN_NORM_BN, false, total, POSITIONS, CHANNELS);
    layer_new(&mine, MABN_NORM_SYNCBN, false, shares[rank - first], POSITIONS, CHANNELS);
    draw(whole.gamma, CHANNELS, 7);
    memcpy(mine.gamma, whole.gamma, CHANNELS * sizeof(float));
    for (uint32_t s = 0; s < 5; s++) {
        const size_t from = (size_t)at * POSITIONS * CHANNELS;
        draw(whole.x, whole.count, seed + 2 * s);
        draw(whole.dy, whole.count, seed + 2 * s + 1);
        memcpy(mine.x, whole.x + from, mine.count * sizeof(float));
        memcpy(mine.dy, whole.dy + from, mine.count * sizeof(float));
        MABN_TRY(step(&whole));
        MABN_TRY(step(&mine));
        far[0] = worst(far[0], mine.y, whole.y + from, mine.count);
        far[1] = worst(far[1], mine.dx, whole.dx + from, mine.count);
    }
    far[2] = worst(worst(0, mine.running_var, whole.running_var, CHANNELS), mine.running_mean,
                   whole.running_mean, CHANNELS);
    if (!(far[0] < 1e-5 && far[1] < 1e-5 && far[2] < 1e-6))
        return mabn_fail(MABN_ERR_MISMATCH, "rank %d: y %.1e, dx %.1e, state %.1e from BN", rank,
                         far[0], far[1], far[2]);
    if (size == ranks)
        MABN_TRY(mabn_comm_check_same(comm, "the state", mine.memory[0],
                                      mabn_norm_state_bytes(&mine.norm)));
    if (!rank)
        printf("%016llx %016llx %016llx %016llx\n",
               hash(mine.memory[0], mabn_norm_state_bytes(&mine.norm)),
               hash(mine.y, mine.count * sizeof(float)), hash(mine.dx, mine.count * sizeof(float)),
               hash(mine.dgamma, CHANNELS * sizeof(float)));
    layer_free(&whole);
    layer_free(&mine);
    return MABN_OK;
}

static mabn_status test_bn(const char *argument)
{
    int shares[16];
    (void)argument;
    for (int r = 0; r < ranks; r++)
        shares[r] = 12 / ranks;
    return compare(shares, 0, ranks, 1);
}

static mabn_status test_shares(const char *argument)
{
    static const int shares[] = {3, 0, 5, 1};
    (void)argument;
    return compare(shares, 0, ranks, 2);
}

static mabn_status test_groups(const char *argument)
{
    const int size = atoi(argument), first = rank / size * size;
    int shares[16];
    for (int r = 0; r < size; r++)
        shares[r] = 2 + r;
    return compare(shares, first, size, 3 + (uint32_t)first);
}

/* ---- a plan whose rows vary, as a detector's heads ---- */

static mabn_status pass(struct mabn_net *net, int64_t rows)
{
    mabn_net_set_rows(net, rows);
    const struct mabn_net_output y = mabn_net_output_of(net, "y");
    draw(mabn_net_input(net), (size_t)(rows * 3 * 3 * 5), (uint32_t)rank);
    MABN_TRY(mabn_net_forward(net));
    for (int64_t i = 0; i < rows * y.h * y.w * y.c; i++)
        y.gradient[i] = (float)(i % 7) - 3;
    return mabn_net_backward(net);
}

static mabn_status test_rows(const char *argument)
{
    const struct mabn_net_options options = {.batch = 3,
                                             .height = 3,
                                             .width = 3,
                                             .channels = 5,
                                             .training = true,
                                             .vary_rows = true,
                                             .sync = sync};
    const struct mabn_net_conv conv = {.out_channels = 8, .kernel = 3, .stride = 1, .pad = 1};
    struct mabn_norm_options norm;
    struct mabn_device *device;
    struct mabn_net *net;
    size_t count;
    (void)argument;
    mabn_norm_options_init(&norm, MABN_NORM_SYNCBN);
    MABN_TRY(mabn_device_new(&device, MABN_DEVICE_CPU, 1));
    MABN_TRY(mabn_net_new(&net, device, &options));
    int x = mabn_net_add_input(net);
    for (int i = 0; i < 2; i++) {
        const char *names[2][2] = {{"conv1", "bn1"}, {"conv2", "bn2"}};
        x = mabn_net_add_conv(net, x, names[i][0], &conv);
        x = mabn_net_add_norm(net, x, names[i][1], &norm, -1, true);
    }
    mabn_net_add_output(net, x, "y");
    MABN_TRY(mabn_net_plan(net));
    MABN_TRY(mabn_params_initialize(mabn_net_params(net), 1, MABN_PARAMS_INIT_FAN_OUT));
    MABN_TRY(pass(net, rank ? 0 : 3));
    const float *gradients = mabn_params_gradients(mabn_net_params(net), &count);
    for (size_t i = 0; rank && i < count; i++)
        if (gradients[i] != 0) return mabn_fail(MABN_ERR_MISMATCH, "a gradient of no rows");
    MABN_TRY(pass(net, 0)); /* no rank has any */
    MABN_TRY(pass(net, 3));
    MABN_TRY(mabn_comm_barrier(comm));
    if (!rank) printf("ok\n");
    mabn_net_free(net);
    mabn_device_free(device);
    return MABN_OK;
}

/* ---- against what a peer recorded ---- */

enum { Y, GX, GWEIGHT, GBIAS, MEAN, VAR, RESULTS };
static const char *const result_names[RESULTS] = {"y64",     "gx64",           "gweight64",
                                                  "gbias64", "running_mean64", "running_var64"};

struct recorded {
    struct h5array x, gy, results[RESULTS];
    size_t n, c, hw;
};

static void read_rank(struct recorded *k, hid_t group)
{
    char name[16];
    snprintf(name, sizeof name, "rank%d", rank);
    hid_t g = H5Gopen2(group, name, H5P_DEFAULT);
    k->x = h5array_read(g, "x");
    k->gy = h5array_read(g, "gy");
    for (int i = 0; i < RESULTS; i++)
        k->results[i] = h5array_read(g, result_names[i]);
    H5Gclose(g);
    k->n = k->x.shape[1];
    k->c = k->x.shape[2];
    k->hw = 1;
    for (int i = 3; i < k->x.rank; i++)
        k->hw *= k->x.shape[i];
}

/* Relative to the largest value, for sums of n terms to the largest term times √n at least. */
static void judge(double *far, const float *got, const struct h5array *want, size_t row, size_t n)
{
    const float *values = want->values + row * n;
    double scale = 1e-30, most = 0;
    for (size_t i = 0; i < n; i++) {
        scale = fmax(scale, fabs(values[i]));
        most = fmax(most, fabs((double)got[i] - values[i]));
    }
    if (!(most / scale <= *far)) *far = most / scale;
}

static mabn_status run_case(hid_t group, const char *name)
{
    struct recorded k;
    struct layer l;
    double far[RESULTS] = {0};
    const bool weighted = H5Aexists(group, "weighted") > 0 && h5array_attribute(group, "weighted");
    struct h5array weight = h5array_read(group, "weight"), bias = h5array_read(group, "bias");
    read_rank(&k, group);
    layer_new(&l, MABN_NORM_SYNCBN, !weighted, (int64_t)k.n, (int64_t)k.hw, (int)k.c);
    memcpy(l.gamma, weight.values, k.c * sizeof(float));
    memcpy(l.beta, bias.values, k.c * sizeof(float));
    float *turned = floats(l.count);
    for (size_t row = 0; row < k.x.shape[0]; row++) {
        to_nhwc(l.x, k.x.values + row * l.count, k.n, k.c, k.hw);
        to_nhwc(l.dy, k.gy.values + row * l.count, k.n, k.c, k.hw);
        MABN_TRY(step(&l));
        to_nchw(turned, l.y, k.n, k.c, k.hw);
        judge(&far[Y], turned, &k.results[Y], row, l.count);
        to_nchw(turned, l.dx, k.n, k.c, k.hw);
        judge(&far[GX], turned, &k.results[GX], row, l.count);
        judge(&far[GWEIGHT], l.dgamma, &k.results[GWEIGHT], row, k.c);
        judge(&far[GBIAS], l.dbeta, &k.results[GBIAS], row, k.c);
        judge(&far[MEAN], l.running_mean, &k.results[MEAN], row, k.c);
        judge(&far[VAR], l.running_var, &k.results[VAR], row, k.c);
    }
    for (int i = 0; i < RESULTS; i++)
        if (!(far[i] < 2e-5))
            return mabn_fail(MABN_ERR_MISMATCH, "%s, rank %d: %s is %.1e off", name, rank,
                             result_names[i], far[i]);
    if (!rank) printf("ok %s: y %.0e, dx %.0e, dgamma %.0e\n", name, far[Y], far[GX], far[GWEIGHT]);
    struct h5array *all[] = {&weight, &bias, &k.x, &k.gy};
    for (int i = 0; i < 4; i++)
        free(all[i]->values);
    for (int i = 0; i < RESULTS; i++)
        free(k.results[i].values);
    free(turned);
    layer_free(&l);
    return MABN_OK;
}

static mabn_status test_file(const char *path)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    H5G_info_t info;
    mabn_status status = MABN_OK;
    if (file < 0 || H5Gget_info(file, &info) < 0)
        return mabn_fail(MABN_ERR_IO, "cannot open '%s'", path);
    for (hsize_t i = 0; i < info.nlinks && !status; i++) {
        char name[64];
        H5Lget_name_by_idx(file, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name,
                           H5P_DEFAULT);
        hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
        status = run_case(group, name);
        H5Gclose(group);
    }
    H5Fclose(file);
    return status;
}

static const struct {
    const char *name;
    mabn_status (*test)(const char *argument);
} tests[] = {{"bn", test_bn},
             {"shares", test_shares},
             {"groups", test_groups},
             {"rows", test_rows},
             {"file", test_file}};

struct asked {
    const char *what, *argument;
};

static mabn_status run_test(void *context, int i)
{
    const struct asked *asked = context;
    rank = mabn_comm_first_shard(comm) + i;
    sync = syncs ? &syncs[i] : NULL;
    for (size_t k = 0; k < sizeof tests / sizeof *tests; k++)
        if (!strcmp(asked->what, tests[k].name)) return tests[k].test(asked->argument);
    return mabn_fail(MABN_ERR_ARG, "no test '%s'", asked->what);
}

static mabn_status run(const struct asked *asked, int shards)
{
    struct mabn_lockstep *lockstep;
    if (shards) MABN_TRY(mabn_comm_set_shards(comm, shards));
    ranks = mabn_comm_shards(comm);
    MABN_TRY(mabn_lockstep_new(&lockstep, mabn_comm_local_shards(comm)));
    mabn_status status =
        mabn_norm_sync_new(&syncs, comm, strcmp(asked->what, "groups") ? 0 : atoi(asked->argument),
                           NULL, NULL, lockstep);
    if (!status) status = mabn_lockstep_run(lockstep, run_test, (void *)asked);
    mabn_norm_sync_free(syncs);
    mabn_lockstep_free(lockstep);
    return status;
}

int main(int argc, char **argv)
{
    const struct asked asked = {argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "0"};
    mabn_log_set_program("test_sync");
    mabn_status status = mabn_comm_open(&comm);
    if (status) {
        fprintf(stderr, "test_sync: %s\n", mabn_error_message());
        return 1;
    }
    status = run(&asked, argc > 3 ? atoi(argv[3]) : 0);
    if (status) {
        mabn_comm_fail(comm, 1);
        fprintf(stderr, "test_sync: %s\n", mabn_error_message());
        return 1;
    }
    mabn_comm_close(comm);
    return 0;
}
