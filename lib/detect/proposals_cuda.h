/* Proposals on an NVIDIA GPU: as proposals.h, for maps in device memory, without involving the
 * host.
 *
 * The same boxes in the same order as on the CPU. Probabilities and decoded sides differ by the rounding
 * of exp. Calls only launch kernels in `stream` (cudaStream_t) and may be captured. */
#ifndef MABN_DETECT_PROPOSALS_CUDA_H
#define MABN_DETECT_PROPOSALS_CUDA_H

#include "detect/convention.h"
#include "detect/proposals.h"

MABN_BEGIN_DECLS

/* As struct mabn_proposals, all on the device. */
struct mabn_cuda_proposals {
    int64_t room;
    float *box;     /* (images·room,4) */
    float *score;   /* (images·room) */
    int32_t *count; /* (images) */
};

/* Can one block sort and suppress this many? Otherwise the CPU makes the proposals. */
bool mabn_cuda_proposals_fit(const struct mabn_rpn_maps *maps,
                             const struct mabn_proposal_options *options);
/* Bytes of scratch in device memory. */
size_t mabn_cuda_proposals_bytes(const struct mabn_rpn_maps *maps,
                                 const struct mabn_proposal_options *options);
/* Every pointer of maps and out is device memory. */
MABN_MUST_USE mabn_status mabn_cuda_proposals_make(struct mabn_cuda_proposals *out,
                                                   const struct mabn_rpn_maps *maps,
                                                   const struct mabn_proposal_options *options,
                                                   const struct mabn_box_convention *c,
                                                   void *scratch, void *stream);

MABN_END_DECLS
#endif
