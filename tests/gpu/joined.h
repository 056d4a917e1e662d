/* For tests of norms joined with convolutions: what the convolutions on both sides leave, made on
 * the host from an x and a dy that are there. */
#ifndef MABN_TESTS_GPU_JOINED_H
#define MABN_TESTS_GPU_JOINED_H

#include <math.h>

#include "harness.h"
#include "norm/norm_cuda.h"

/* (C): Σ p·q over the rows. */
static inline std::vector<float> joined_sums(const std::vector<float> &p,
                                             const std::vector<float> &q, size_t channels)
{
    std::vector<double> sum(channels);
    for (size_t i = 0; i < p.size(); i++)
        sum[i % channels] += (double)p[i] * q[i];
    return std::vector<float>(sum.begin(), sum.end());
}

/* What surrounds one layer. */
struct joined {
    const struct mabn_norm *norm;
    size_t channels;
    gpu_array a, b, square, dot; /* (C) */
    gpu_values<struct mabn_norm_cuda_join> list;

    joined(const struct mabn_norm *n, const struct mabn_norm_cuda_io &io)
        : norm(n), channels((size_t)n->channels), a(channels, MABN_DTYPE_F32),
          b(channels, MABN_DTYPE_F32), square(channels, MABN_DTYPE_F32),
          dot(channels, MABN_DTYPE_F32), list({entry(io)})
    {
    }

    struct mabn_norm_cuda_join entry(const struct mabn_norm_cuda_io &io) const
    {
        struct mabn_norm_cuda_join e;
        if (mabn_norm_cuda_join_init(&e, norm, io.state, io.gamma, io.beta, (float *)a.p,
                                     (float *)b.p))
            MABN_BUG("%s", mabn_error_message());
        return e;
    }

    /* All of a joined forward of x, which lies at io->x; `residual` at io->residual or empty. y may
     * have room for more. */
    mabn_status forward(struct mabn_norm_cuda_io *io, const gpu_array &y,
                        const std::vector<float> &x, const std::vector<float> &residual) const
    {
        MABN_TRY(mabn_norm_cuda_known(list.at(), 1, norm->channels, NULL));
        const std::vector<float> at = a.values(), bt = b.values();
        std::vector<float> z(x.size());
        for (size_t i = 0; i < z.size(); i++) {
            z[i] = fmaf(at[i % channels], x[i], bt[i % channels]);
            if (residual.size()) z[i] += residual[i];
            z[i] = gpu_round(io->relu && z[i] < 0 ? 0 : z[i], y.dtype);
        }
        z.resize(y.count);
        y.set(z);
        square.put(joined_sums(x, x, channels).data());
        io->y = y.p;
        io->known = true;
        io->square = (const float *)square.p;
        return mabn_norm_cuda_forward(norm, io);
    }

    /* All of a joined backward of dy, which is put behind ReLU by y and stands in `g` then. */
    mabn_status backward(struct mabn_norm_cuda_io *io, const gpu_array &g,
                         const std::vector<float> &x, std::vector<float> dy,
                         const std::vector<float> &y) const
    {
        for (size_t i = 0; io->relu && i < dy.size(); i++)
            if (y[i] <= 0) dy[i] = 0;
        g.set(dy);
        dot.put(joined_sums(dy, x, channels).data());
        io->dy = g.p;
        io->y = NULL;
        io->dot = (const float *)dot.p;
        return mabn_norm_cuda_backward(norm, io);
    }
};

#endif
