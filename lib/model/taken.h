/* What a network takes from a file of weights: the tensors that were taken, the network's that keep their
 * initial values (fresh), and the file's that were not used. It shows a head that stays random by mistake. */
#ifndef MABN_MODEL_TAKEN_H
#define MABN_MODEL_TAKEN_H

#include <stdbool.h>

#include "base/json_write.h"
#include "store/checkpoint.h"

MABN_BEGIN_DECLS

struct mabn_taken {
    const struct mabn_checkpoint *file; /* borrowed */
    bool *used;                         /* of the file's tensors */
    struct mabn_str taken, fresh;       /* names of the network's, each with a newline */
    int n_taken, n_fresh;
};

void mabn_taken_init(struct mabn_taken *taken, const struct mabn_checkpoint *file);
void mabn_taken_release(struct mabn_taken *taken); /* zeroed is fine */
/* A weight or state of the network, and the file's tensor that it took; NULL: it stays fresh. */
void mabn_taken_add(struct mabn_taken *taken, const char *name,
                    const struct mabn_checkpoint_tensor *from);
/* A line of numbers; the names follow when more is to be said (mabn_verbose). */
void mabn_taken_tell(const struct mabn_taken *taken, const char *path);
/* Into an open object: "file", and the arrays "taken", "fresh" and "unused" of names. */
void mabn_taken_put(const struct mabn_taken *taken, struct mabn_json_writer *line,
                    const char *path);

MABN_END_DECLS
#endif
