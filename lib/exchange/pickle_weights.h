/* From the values of a pickle to named tensors and notes: what .pth and .pkl files have in common.
 * Private to this room. */
#ifndef MABN_EXCHANGE_PICKLE_WEIGHTS_H
#define MABN_EXCHANGE_PICKLE_WEIGHTS_H

#include "exchange/pickle.h"
#include "exchange/weights_impl.h"

MABN_BEGIN_DECLS

/* Where PyTorch's storages are: find sets *offset, *size (bytes) and *storage (index in w->storages or
 * SIZE_MAX) for a key. Files without storages have no finder (NULL). */
struct mabn_storage_finder {
    mabn_status (*find)(void *context, const char *key, uint64_t *offset, uint64_t *size,
                        size_t *storage);
    void *context;
};

/* Sort everything below the pickle's root into entries and notes of w:
 *   {model: …}, {state_dict: …}, {model_state_dict: …}, {blobs: …} and a few more or the root
 * itself hold the MODEL; beside it {model_ema: …} and its like hold a moving average, which is
 * OTHER; {optimizer: {state, param_groups}} holds MOMENTUM, paired with the model's parameters by
 * the group's param_names where they are, else by order, else group by group. Objects of classes
 * that are not known are passed over. What is left out becomes a remark. */
MABN_MUST_USE mabn_status mabn_pickle_to_weights(struct mabn_weights *w,
                                                 const struct mabn_pickle *pickle,
                                                 const struct mabn_storage_finder *finder);

/* Is this tensor's last name that of a buffer, never of a trained parameter? */
bool mabn_is_buffer_name(const char *name);

/* Key under which a state dict's `_metadata` keeps our notes. */
#define MABN_TORCH_NOTES "mabn"

MABN_END_DECLS
#endif
