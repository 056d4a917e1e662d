/* Run an inference network over a dataset and compute loss and accuracy. */
#ifndef MABN_TRAIN_EVALUATE_H
#define MABN_TRAIN_EVALUATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "data/loader.h"
#include "dist/comm.h"
#include "model/model.h"
#include "net/net.h"
#include "store/dataset.h"

MABN_BEGIN_DECLS

/* The first class that has different names in dataset and model, or -1; also -1 if one of them has
 * no names. */
int mabn_eval_other_class(const struct mabn_model *model, const struct mabn_dataset *data);
/* Does the dataset fit the model? Images may have no labels. It is an error if labels are outside
 * the model's classes or if classes have other names. */
MABN_MUST_USE mabn_status mabn_eval_check(const struct mabn_model *model,
                                          const struct mabn_dataset *data, const char *name);
/* A note when only one of the two has names of classes, so that they are judged by number. */
void mabn_eval_tell_names(const struct mabn_model *model, const struct mabn_dataset *data,
                          const char *name);

/* Should pictures be sent to this device as bytes (mabn_net_options.bytes)? */
bool mabn_eval_sends_bytes(const struct mabn_device *device, const struct mabn_augment *input);
/* Set the table of a net that takes bytes: the value of each byte. */
MABN_MUST_USE mabn_status mabn_eval_set_table(struct mabn_net *net,
                                              const struct mabn_augment *input);
/* Copy the first `values` values of a batch into the net's input, as floats or bytes. */
void mabn_eval_fill(struct mabn_net *net, const struct mabn_batch *batch, size_t values);

/* labels: (rows), those of the batch's rows. data: the dataset that its samples are in. -1: the row has no
 * label; all rows, if data is NULL. */
void mabn_eval_labels(int32_t *labels, int rows, const struct mabn_batch *batch,
                      const struct mabn_dataset *data);

/* Counts for a classifier's accuracy. */
struct mabn_top {
    int64_t labelled, top1, top5; /* rows with a label; those with the label first, or among the
                                   * first five */
};
/* Add rows of logits (rows,classes); a label of -1 is none. */
void mabn_top_add(struct mabn_top *top, const float *logits, const int32_t *labels, int64_t rows,
                  int64_t classes);

struct mabn_eval_options {
    int threads;                       /* decoding; 0: as many as the process may use */
    double smoothing;                  /* of the labels, in the loss */
    const struct mabn_dataset *labels; /* the dataset of the source, for its labels; NULL: none */
    bool skip_bad;                     /* leave unreadable images out instead of failing */
    const char *progress;              /* what to show progress as; NULL: not at all */
    /* Share the batches with these ranks, which all make the same call: rank b mod R evaluates
     * batch b. The results are over all ranks, with the same bits as from one process, and every
     * rank gets them. `each` is called only on rank 0, for all batches. NULL: one process. */
    struct mabn_comm *comm;
    /* Called for each batch, in order, with its logits (batch->count,classes); its pictures (x) are
     * no longer there. May be NULL. */
    mabn_status (*each)(void *context, const struct mabn_batch *batch, const float *logits,
                        int classes);
    void *context;
};

struct mabn_eval_result {
    int64_t images;          /* evaluated, without those left out */
    int64_t labelled;        /* those with a label, over which loss and accuracy are taken */
    double loss, top1, top5; /* mean loss; accuracy in percent */
    double seconds;
};

/* Evaluates every sample of the source once, in order, whatever the number of ranks. With skip_bad
 * unreadable samples are left out, with one warning that gives their number and names. An output
 * that is not finite is an error that names the image. MABN_ERR_STOPPED after a signal. */
MABN_MUST_USE mabn_status mabn_evaluate(struct mabn_eval_result *result, struct mabn_net *net,
                                        const struct mabn_source *source,
                                        const struct mabn_augment *input,
                                        const struct mabn_eval_options *options);

/* {"sample":i,"label":l,"top":[c1…c5],"prob":[…],"loss":x}, with "logits":[…] on demand; the loss
 * is the plain cross-entropy, null without a label. */
void mabn_prediction_line(struct mabn_str *line, uint64_t sample, int label, const float *logits,
                          int classes, bool with_logits);

/* The same for a photograph without number and label: {"file":path,"top":[c1…c5], "class":[names,
 * if the model has them],"prob":[…]}. */
void mabn_photograph_line(struct mabn_str *line, const char *path, const struct mabn_model *model,
                          const float *logits, bool with_logits);

MABN_END_DECLS
#endif
