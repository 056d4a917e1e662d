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

/* ---- matching ---- */

/* A block an object: the largest overlap of all boxes with it. */
__global__ void __launch_bounds__(THREADS)
    most_kernel(int32_t *most, const float *object, const float *box, int64_t n, float one)
{
    MABN_SHARED(int32_t, part, THREADS);
    const int32_t largest = largest_overlap(object + 4 * blockIdx.x, box, n, one, part);
    if (threadIdx.x == 0) most[blockIdx.x] = largest;
}

/* which (n): the object that each box overlaps most. */
__global__ void match_kernel(int32_t *match, int32_t *which, const float *object, int64_t objects,
                             const float *box, int64_t n, float one, struct mabn_matcher m)
{
    const int64_t i = item();
    if (i >= n) return;
    const struct corners mine = corners_of(box + 4 * i, one);
    float best = -1;
    int32_t object_of_best = 0;
    for (int64_t g = 0; g < objects; g++) {
        const float v = overlap(corners_of(object + 4 * g, one), mine, one);
        if (v > best) {
            best = v;
            object_of_best = (int32_t)g;
        }
    }
    which[i] = object_of_best;
    match[i] = best < m.low    ? (int32_t)MABN_MATCH_BACKGROUND
               : best < m.high ? (int32_t)MABN_MATCH_BETWEEN
                               : object_of_best;
}

__global__ void rescue_kernel(int32_t *match, const int32_t *which, const int32_t *most,
                              const float *object, int64_t objects, const float *box, int64_t n,
                              float one)
{
    const int64_t i = item();
    if (i >= n) return;
    const struct corners mine = corners_of(box + 4 * i, one);
    for (int64_t g = 0; g < objects; g++) {
        const float v = overlap(corners_of(object + 4 * g, one), mine, one);
        if (v == v && ordered(v + 0.0f) == most[g]) match[i] = which[i];
    }
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

size_t mabn_cuda_match_bytes(int64_t objects, int64_t n)
{
    return (size_t)(objects + n) * sizeof(int32_t);
}

mabn_status mabn_cuda_match_boxes(int32_t *match, const float *object, int64_t objects,
                                  const float *box, int64_t n, float one,
                                  const struct mabn_matcher *m, void *scratch, void *stream)
{
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    int32_t *most = static_cast<int32_t *>(scratch), *which = most + objects;
    if (n < 1) return MABN_OK;
    MABN_TRY(MABN_LAUNCH(match_kernel, blocks(n), THREADS, 0, to, match, which, object, objects,
                         box, n, one, *m));
    if (!m->rescue || objects < 1) return MABN_OK;
    MABN_TRY(
        MABN_LAUNCH(most_kernel, (unsigned)objects, THREADS, 0, to, most, object, box, n, one));
    return MABN_LAUNCH(rescue_kernel, blocks(n), THREADS, 0, to, match, which, most, object,
                       objects, box, n, one);
}
