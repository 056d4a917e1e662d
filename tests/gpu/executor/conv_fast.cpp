/* A library's convolutions on the executor: there are none, unless a test has the plain kernels
 * pretend to be a library that knows no bias, no addition, ReLU only in a normalization, and has
 * results of one type only. So what conv_cuda.cu puts around a library's passes runs here too. */
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "conv_fast.h"
#include "ops/conv_cuda_fast.h"

bool executor_pretends_convolutions;

struct mabn_conv_fast {
    struct mabn_conv_cuda *plain;
    struct mabn_conv_want want;
    size_t count; /* of dweight */
};

mabn_status mabn_conv_fast_new(struct mabn_conv_fast **fast, struct mabn_device *,
                               const struct mabn_conv_shape *shape,
                               const struct mabn_conv_cuda_options *options,
                               const struct mabn_conv_want *want)
{
    struct mabn_conv_cuda_options plain = {};
    struct mabn_conv_cuda *conv;

    *fast = NULL;
    const bool relu = want->relu && want->pass != MABN_CONV_FORWARD_NORM;
    if (!executor_pretends_convolutions || want->bias || want->add || relu ||
        want->out != options->dtype)
        return mabn_fail(MABN_ERR_UNSUPPORTED, "there is no library");
    plain.dtype = plain.y_dtype = options->dtype;
    plain.training = plain.plain = true;
    plain.after = options->after;
    plain.before = options->before;
    MABN_TRY(mabn_conv_cuda_new(&conv, NULL, shape, &plain));
    *fast = new mabn_conv_fast{conv, *want,
                               (size_t)(shape->out * shape->kernel * shape->kernel * shape->in)};
    return MABN_OK;
}

void mabn_conv_fast_free(struct mabn_conv_fast *fast)
{
    if (fast) mabn_conv_cuda_free(fast->plain);
    delete fast;
}

/* Odd on purpose: what follows must align itself. */
size_t mabn_conv_fast_workspace(const struct mabn_conv_fast *)
{
    return 77;
}

enum mabn_dtype mabn_conv_fast_bias(const struct mabn_conv_fast *)
{
    return MABN_DTYPE_F32;
}

const char *mabn_conv_fast_name(const struct mabn_conv_fast *)
{
    return "pretended";
}

static void narrow(void *out, const std::vector<float> &from, enum mabn_dtype dtype)
{
    for (size_t i = 0; i < from.size(); i++)
        if (dtype == MABN_DTYPE_BF16)
            static_cast<__nv_bfloat16 *>(out)[i] = __float2bfloat16_rn(from[i]);
        else if (dtype == MABN_DTYPE_F16)
            static_cast<__half *>(out)[i] = __float2half_rn(from[i]);
        else
            static_cast<float *>(out)[i] = from[i];
}

mabn_status mabn_conv_fast_run(const struct mabn_conv_fast *fast, const struct mabn_conv_arrays *at,
                               void *workspace, void *stream)
{
    std::vector<float> dweight(fast->count);

    static_cast<char *>(workspace)[76] = 1;
    switch (fast->want.pass) {
    case MABN_CONV_FORWARD:
        return mabn_conv_cuda_forward(fast->plain, at->out, at->a, at->b, NULL, NULL, stream);
    case MABN_CONV_BACKWARD_DATA:
        return mabn_conv_cuda_backward_data(fast->plain, at->out, at->a, at->b, false, NULL,
                                            stream);
    case MABN_CONV_BACKWARD_WEIGHTS:
        MABN_TRY(mabn_conv_cuda_backward_weights(fast->plain, dweight.data(), NULL, at->a, at->b,
                                                 NULL, stream));
        narrow(at->out, dweight, fast->want.out);
        return MABN_OK;
    case MABN_CONV_FORWARD_NORM:
        return mabn_conv_cuda_forward_norm(fast->plain, at->out, at->a, at->b, at->norm_out, NULL,
                                           stream);
    case MABN_CONV_BACKWARD_NORM:
        return mabn_conv_cuda_backward_norm(fast->plain, at->out, at->a, at->b, at->norm_in, NULL,
                                            stream);
    case MABN_CONV_FORWARD_SUMS:
        return mabn_conv_cuda_forward_sums(fast->plain, at->out, at->a, at->b, at->sum,
                                           at->products, NULL, stream);
    }
    return MABN_OK;
}
