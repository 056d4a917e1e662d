/* Detections on an NVIDIA GPU: as detections.h, for all images of a batch, from the box head's output
 * in device memory, without involving the host.
 *
 * The same detections in the same order as on the CPU. Probabilities and decoded sides differ by the
 * rounding of exp. Calls only queue work in `stream` (cudaStream_t) and may be captured.
 * Every pointer is device memory. */
#ifndef MABN_DETECT_DETECTIONS_CUDA_H
#define MABN_DETECT_DETECTIONS_CUDA_H

#include "detect/detections.h"
#include "detect/proposals_cuda.h"

MABN_BEGIN_DECLS

/* The box head's rows: the proposals of all images, one image behind another. Rows behind the last
 * are empty boxes of image 0. */
struct mabn_cuda_box_rows {
    int64_t room;
    float *box;     /* (room,4) */
    int32_t *image; /* (room) */
    int32_t *level; /* (room) as of mabn_box_levels from 2 to 5 */
    int32_t *first; /* (images+1) image i has rows first[i] … first[i+1] − 1 */
};
/* room: at least all images' proposals. */
MABN_MUST_USE mabn_status mabn_cuda_box_rows_fill(const struct mabn_cuda_box_rows *rows,
                                                  const struct mabn_cuda_proposals *proposals,
                                                  int64_t images,
                                                  const struct mabn_box_convention *c,
                                                  void *stream);

/* As struct mabn_box_scores, of all images. */
struct mabn_cuda_box_scores {
    int64_t images, most; /* rows of an image at most */
    struct mabn_cuda_box_rows rows;
    const float *logit;        /* (rows.room,classes+1) */
    const float *delta;        /* (rows.room,4·groups) */
    const int *width, *height; /* (images) */
};

/* As struct mabn_detections; rows behind the last of an image are empty boxes with label −1. */
struct mabn_cuda_detections {
    int64_t room;    /* rows of an image */
    float *box;      /* (images·room,4) */
    float *score;    /* (images·room) */
    int32_t *label;  /* (images·room) */
    int32_t *source; /* (images·room) */
    int32_t *image;  /* (images·room) */
    int32_t *level;  /* (images·room) as of struct mabn_cuda_box_rows */
    int32_t *count;  /* (images) more than `room` where more tie than fit; those are not written */
    int32_t *live;   /* (images) at most `room` */
};

/* Can one block sort and suppress a class's boxes, and choose among what stays? Otherwise, and with
 * options->across, the CPU makes the detections. */
bool mabn_cuda_detections_fit(int64_t images, int64_t most,
                              const struct mabn_detection_options *options,
                              const struct mabn_box_convention *c);
/* Bytes of scratch in device memory. */
size_t mabn_cuda_detections_bytes(const struct mabn_cuda_box_scores *scores,
                                  const struct mabn_detection_options *options);
MABN_MUST_USE mabn_status mabn_cuda_detections_make(const struct mabn_cuda_detections *out,
                                                    const struct mabn_cuda_box_scores *scores,
                                                    const struct mabn_detection_options *options,
                                                    const struct mabn_box_convention *c,
                                                    void *scratch, void *stream);

MABN_END_DECLS
#endif
