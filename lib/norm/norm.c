/* Checks before the backend does the work. */
#include "norm/norm.h"

#include <string.h>

#include "norm/internal.h"

size_t mabn_norm_scratch_bytes(const struct mabn_norm *norm, int64_t samples, int64_t positions)
{
    return mabn_norm_cpu_scratch(norm, samples, positions);
}

static mabn_status check_io(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    if (io->samples < 0 || io->positions < 0) return mabn_fail(MABN_ERR_ARG, "norm: negative size");
    if (mabn_norm_has_affine(norm->options.kind) && (!io->gamma || !io->beta))
        return mabn_fail(MABN_ERR_ARG, "norm: gamma and beta are missing");
    if (mabn_norm_state_bytes(norm) && !io->state)
        return mabn_fail(MABN_ERR_ARG, "norm: state is missing");
    if (norm->options.kind == MABN_NORM_EVONORM_S0 && io->act && (io->residual || io->dresidual))
        return mabn_fail(MABN_ERR_ARG, "norm: EvoNorm-S0's activation takes no residual");
    if (norm->options.kind == MABN_NORM_FRN && io->act && !io->relu)
        return mabn_fail(MABN_ERR_ARG, "norm: FRN's tau needs relu");
    return MABN_OK;
}

/* All shards of SyncBN take part, even one that has nothing to add. */
static bool is_empty(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    return norm->options.kind != MABN_NORM_SYNCBN && (!io->samples || !io->positions);
}

mabn_status mabn_norm_forward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (is_empty(norm, io)) return MABN_OK;
    if (io->y == io->x && io->samples && mabn_norm_measures(norm->options.kind))
        return mabn_fail(MABN_ERR_ARG, "norm: y must not overwrite x, which backward needs");
    return mabn_norm_cpu_forward(norm, io);
}

mabn_status mabn_norm_reapply(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (io->samples && io->positions) mabn_norm_cpu_reapply(norm, io);
    return MABN_OK;
}

mabn_status mabn_norm_backward(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (is_empty(norm, io)) {
        size_t bytes = io->accumulate ? 0 : (size_t)norm->channels * sizeof(float);
        if (io->dgamma) memset(io->dgamma, 0, bytes);
        if (io->dbeta) memset(io->dbeta, 0, bytes);
        if (io->dact) memset(io->dact, 0, bytes);
        return MABN_OK;
    }
    if (io->relu && !io->y && io->dresidual)
        return mabn_fail(MABN_ERR_ARG, "norm: backward through ReLU with a residual needs y");
    if (io->dresidual && io->dresidual == io->dx)
        return mabn_fail(MABN_ERR_ARG, "norm: dresidual and dx must differ");
    return mabn_norm_cpu_backward(norm, io);
}

mabn_status mabn_norm_infer(const struct mabn_norm *norm, const struct mabn_norm_io *io)
{
    MABN_TRY(check_io(norm, io));
    if (!io->samples || !io->positions) return MABN_OK;
    return mabn_norm_cpu_infer(norm, io);
}
