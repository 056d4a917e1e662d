/* A detector's decisions on an NVIDIA GPU: counterparts of anchors.h, boxes.h, order.h and nms.h,
 * which say what each computes. Nothing here asks the host: counts may lie on the device.
 *
 * Every pointer is device memory unless it says otherwise. Calls only launch kernels in `stream`
 * (cudaStream_t) and may be captured in a CUDA graph. Indices are exactly the CPU's, because overlaps
 * are computed in its order of operations. Decoded boxes differ by the rounding of exp. */
#ifndef MABN_DETECT_DETECT_CUDA_H
#define MABN_DETECT_DETECT_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "detect/anchors.h"
#include "detect/boxes.h"

MABN_BEGIN_DECLS

/* box (h·w·ratios,4): the anchors of one level. base (ratios,4), on the host: mabn_anchors_base's. */
MABN_MUST_USE mabn_status mabn_cuda_anchors_level(float *box, const float *base, int ratios,
                                                  int64_t h, int64_t w, int64_t stride_y,
                                                  int64_t stride_x, void *stream);

/* out (n,4): delta (·,4) applied to box (·,4), both at index[i], and clipped to a picture of this
 * size. index (n) NULL: i itself. */
MABN_MUST_USE mabn_status mabn_cuda_box_decode(float *out, const float *box, const float *delta,
                                               const int32_t *index, int64_t n,
                                               struct mabn_box_weights weights, int width,
                                               int height, float one, void *stream);

/* As mabn_order_best, for k up to MABN_CUDA_ORDER_MOST; scratch: of mabn_cuda_order_bytes. */
enum { MABN_CUDA_ORDER_MOST = 4096 };
size_t mabn_cuda_order_bytes(int64_t k);
MABN_MUST_USE mabn_status mabn_cuda_order_best(int32_t *order, const float *score, int64_t n,
                                               int64_t k, void *scratch, void *stream);

/* As mabn_nms_sorted of the first *count of n boxes (count NULL: all), n up to MABN_CUDA_NMS_MOST:
 * keep (n), *kept (1). scratch: of mabn_cuda_nms_bytes. */
enum { MABN_CUDA_NMS_MOST = 8192 };
size_t mabn_cuda_nms_bytes(int64_t n);
MABN_MUST_USE mabn_status mabn_cuda_nms_sorted(int32_t *keep, int32_t *kept, const float *box,
                                               const int32_t *count, int64_t n, int64_t most,
                                               float threshold, float one, void *scratch,
                                               void *stream);

MABN_END_DECLS
#endif
