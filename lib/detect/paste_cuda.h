/* Pasting masks on an NVIDIA GPU: paste.h for all masks of an image, to the same pixels.
 *
 * Two calls, since only the device knows how long the run lengths are: the host reads the counts
 * between them. Calls only launch kernels in `stream` (cudaStream_t). */
#ifndef MABN_DETECT_PASTE_CUDA_H
#define MABN_DETECT_PASTE_CUDA_H

#include "detect/paste.h"

MABN_BEGIN_DECLS

/* On the device: maps (n,side,side) of probabilities, boxes (n,4) in an image of this size. */
struct mabn_cuda_paste {
    const float *map, *box;
    int64_t n;
    int side, width, height;
};

/* count (n): at how many pixels, column by column, a mask changes its value. */
MABN_MUST_USE mabn_status mabn_cuda_paste_count(int32_t *count, const struct mabn_cuda_paste *p,
                                                const struct mabn_box_convention *c, void *stream);
/* The places of those pixels (x·height + y), mask i's from place[first[i]] on, in ascending order;
 * first (n) on the device. */
MABN_MUST_USE mabn_status mabn_cuda_paste_places(uint32_t *place, const int64_t *first,
                                                 const struct mabn_cuda_paste *p,
                                                 const struct mabn_box_convention *c, void *stream);
/* logit (n,pixels): of all (n,pixels,channels), for box i the channel label[i] − first, or the only
 * channel; zeros where there is no such channel. */
MABN_MUST_USE mabn_status mabn_cuda_paste_select(float *logit, const float *all,
                                                 const int32_t *label, int32_t first, int64_t n,
                                                 int64_t pixels, int64_t channels, void *stream);

MABN_END_DECLS
#endif
