/* For tests of norms joined with convolutions: the results of the convolutions on both sides,
 * computed on the host from given x and dy. */
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

/* Relative errors of the sums, like those of atomic additions of floats. */
struct joined_errors {
    double sum, square, dsum, dot;
};

/* The neighbours of one layer. */
struct joined {
    const struct mabn_norm *norm;
    size_t channels;
    gpu_array a, b, sum, square, dsum, dot; /* (C) */
    gpu_values<struct mabn_norm_cuda_join> list;
    struct joined_errors errors = {};

    joined(const struct mabn_norm *n, const struct mabn_norm_cuda_io &io)
        : norm(n), channels((size_t)n->channels), a(channels, MABN_DTYPE_F32),
          b(channels, MABN_DTYPE_F32), sum(channels, MABN_DTYPE_F32),
          square(channels, MABN_DTYPE_F32), dsum(channels, MABN_DTYPE_F32),
          dot(channels, MABN_DTYPE_F32), list({entry(io)})
    {
    }

    struct mabn_norm_cuda_join entry(const struct mabn_norm_cuda_io &io) const
    {
        struct mabn_norm_cuda_join e = {};
        if (norm->options.kind != MABN_NORM_MABN) return e;
        if (mabn_norm_cuda_join_init(&e, norm, io.state, io.gamma, io.beta, (float *)a.p,
                                     (float *)b.p))
            MABN_BUG("%s", mabn_error_message());
        return e;
    }

    /* Σ p·q, wrong by `error`. */
    void put_sums(const gpu_array &to, const std::vector<float> &p, const std::vector<float> &q,
                  double error) const
    {
        std::vector<float> sums = joined_sums(p, q, channels);
        for (float &v : sums)
            v = (float)(v * (1 + error));
        to.put(sums.data());
    }

    /* A forward whose x, at io->x, has been measured by the convolution; y at io->y. */
    mabn_status measured(struct mabn_norm_cuda_io *io, const std::vector<float> &x) const
    {
        const bool mabn = norm->options.kind == MABN_NORM_MABN;
        put_sums(sum, x, std::vector<float>(x.size(), 1), errors.sum);
        put_sums(square, x, x, errors.square);
        io->known = false;
        io->sum = mabn ? NULL : (const float *)sum.p;
        io->square = (const float *)square.p;
        return mabn_norm_cuda_forward(norm, io);
    }

    /* The whole joined forward of x, which lies at io->x; `residual` lies at io->residual or is
     * empty. y may have room for more. */
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
        put_sums(square, x, x, errors.square);
        io->y = y.p;
        io->known = true;
        io->sum = NULL;
        io->square = (const float *)square.p;
        return mabn_norm_cuda_forward(norm, io);
    }

    /* The whole joined backward of dy. `g` receives dy after ReLU, with the mask from y. */
    mabn_status backward(struct mabn_norm_cuda_io *io, const gpu_array &g,
                         const std::vector<float> &x, std::vector<float> dy,
                         const std::vector<float> &y) const
    {
        for (size_t i = 0; io->relu && i < dy.size(); i++)
            if (y[i] <= 0) dy[i] = 0;
        g.set(dy);
        put_sums(dot, dy, x, errors.dot);
        put_sums(dsum, dy, std::vector<float>(dy.size(), 1), errors.dsum);
        io->dy = g.p;
        io->y = NULL;
        io->dsum = norm->options.kind == MABN_NORM_MABN ? NULL : (const float *)dsum.p;
        io->dot = (const float *)dot.p;
        return mabn_norm_cuda_backward(norm, io);
    }
};

#endif
