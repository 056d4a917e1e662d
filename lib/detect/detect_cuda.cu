/* See detect_cuda.h. */
#include "detect/detect_cuda.h"

#include "detect/kernels.cuh"

namespace
{

/* ---- anchors and boxes ---- */

struct base_boxes {
    float box[4 * MABN_ANCHOR_RATIOS];
};

__global__ void anchors_kernel(float *box, struct base_boxes base, int ratios, int64_t h, int64_t w,
                               int64_t stride_y, int64_t stride_x)
{
    const int64_t i = item(), cell = i / ratios;
    const int r = (int)(i % ratios);
    if (i >= h * w * ratios) return;
    const float dx = (float)(cell % w * stride_x), dy = (float)(cell / w * stride_y);
    for (int k = 0; k < 4; k++)
        box[4 * i + k] = __fadd_rn(base.box[4 * r + k], k % 2 ? dy : dx);
}

__global__ void decode_kernel(float *out, const float *box, const float *delta,
                              const int32_t *index, int64_t n, struct mabn_box_weights weights,
                              float right, float bottom, float one)
{
    const int64_t i = item();
    if (i >= n) return;
    const int64_t from = index ? index[i] : i;
    decode_box(out + 4 * i, box + 4 * from, delta + 4 * from, weights, one);
    clip_box(out + 4 * i, right, bottom);
}

} // namespace

mabn_status mabn_cuda_anchors_level(float *box, const float *base, int ratios, int64_t h, int64_t w,
                                    int64_t stride_y, int64_t stride_x, void *stream)
{
    struct base_boxes all = {};
    if (ratios < 1 || ratios > MABN_ANCHOR_RATIOS)
        return mabn_fail(MABN_ERR_ARG, "%d anchors a cell", ratios);
    if (h < 1 || w < 1) return MABN_OK;
    for (int i = 0; i < 4 * ratios; i++)
        all.box[i] = base[i];
    return MABN_LAUNCH(anchors_kernel, blocks(h * w * ratios), THREADS, 0,
                       static_cast<cudaStream_t>(stream), box, all, ratios, h, w, stride_y,
                       stride_x);
}

mabn_status mabn_cuda_box_decode(float *out, const float *box, const float *delta,
                                 const int32_t *index, int64_t n, struct mabn_box_weights weights,
                                 int width, int height, float one, void *stream)
{
    if (n < 1) return MABN_OK;
    return MABN_LAUNCH(decode_kernel, blocks(n), THREADS, 0, static_cast<cudaStream_t>(stream), out,
                       box, delta, index, n, weights, (float)width - one, (float)height - one, one);
}
