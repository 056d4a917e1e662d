/* The description of a model: everything needed to build its network, stored in checkpoints as one
 * JSON object.
 *
 *     struct mabn_model model;
 *     MABN_TRY(mabn_model_init(&model, "resnet50"));
 *     MABN_TRY(mabn_model_set_norm(&model, "mabn"));
 *     model.classes = 1000;
 *     MABN_TRY(mabn_model_build(&net, device, &model, &options));
 *
 * Which architectures there are: model/resnet_shapes.h.  */
#ifndef MABN_MODEL_MODEL_H
#define MABN_MODEL_MODEL_H

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"
#include "base/words.h"
#include "net/net.h"
#include "norm/norm.h"

MABN_BEGIN_DECLS

/* Parts of a model whose norm can be chosen by itself: "stem", "layer1" … "layer4"; "body" is all
 * of them. */
enum mabn_model_part {
    MABN_PART_STEM,
    MABN_PART_LAYER1,
    MABN_PART_LAYER2,
    MABN_PART_LAYER3,
    MABN_PART_LAYER4,
    MABN_MODEL_PARTS
};

enum mabn_model_stem { MABN_STEM_LARGE, MABN_STEM_SMALL };
enum mabn_model_centralize { MABN_CENTRALIZE_AUTO, MABN_CENTRALIZE_ON, MABN_CENTRALIZE_OFF };
extern const struct mabn_word mabn_model_stems[];        /* "large", "small" */
extern const struct mabn_word mabn_model_centralizing[]; /* "auto", "on", "off" */

struct mabn_model {
    char arch[32];
    int classes; /* 1000, or 10 for cifar-resnets; 0: a body without one */
    /* The names of the classes: `classes` strings, each with its final NUL; NULL: not known. They
     * are kept until the program ends and shared by all models with the same names, so that a model
     * can be copied as a value. */
    const char *class_names;
    int channels;      /* of the images: 3 (or 1) */
    int height, width; /* the input size it is meant for: 224 or 32; any size may be built */
    int base_width;    /* channels of the first stage: 64, or 16 for cifar-resnets */
    enum mabn_model_stem stem;
    bool stride_in_1x1;
    int expansion; /* of a bottleneck: output channels divided by inner channels; 4. Only detectors
                    * change it, and keep it in their own description */
    enum mabn_model_centralize centralize; /* auto: where the norm is MABN */
    struct mabn_norm_options norm[MABN_MODEL_PARTS];
};

/* The defaults of an architecture, norm "bn". Unknown: MABN_ERR_ARG with the list. */
MABN_MUST_USE mabn_status mabn_model_init(struct mabn_model *model, const char *arch);

/* "mabn", or part by part: "body=mabn,stem=frozen" (later entries win; parts not named keep what
 * they have). Sets the kind with its own defaults (norm_batch, window, … are set afterwards). */
MABN_MUST_USE mabn_status mabn_model_set_norm(struct mabn_model *model, const char *spec);
/* The shortest spec that gives these kinds: "mabn" or "stem=frozen,layer1=mabn,…". */
void mabn_model_norm_text(const struct mabn_model *model, struct mabn_str *text);
/* Are the convolutions of this part centralized? */
bool mabn_model_centralizes(const struct mabn_model *model, enum mabn_model_part part);

/* Copies the names; NULL: not known. Set `classes` first. */
void mabn_model_set_class_names(struct mabn_model *model, const char *const *names /* (classes) */);
/* NULL when the names are not known. */
const char *mabn_model_class_name(const struct mabn_model *model, int class_index);

/* The first class that has different names in the two, or -1; also -1 if one of them has no
 * names. */
int mabn_model_other_class(const struct mabn_model *a, const struct mabn_model *b);

/* One JSON object. When it is read, missing fields get their defaults. */
void mabn_model_to_json(const struct mabn_model *model, struct mabn_str *json);
MABN_MUST_USE mabn_status mabn_model_from_json(struct mabn_model *model, const char *json);

/* Build and plan the network for options->batch images of options->height × width (0: the model's
 * own); options->channels is taken from the model. The output "logits" has the softmax loss "loss"
 * (net/losses.h). Parameters are zero until they are set:
 * mabn_params_initialize, mabn_params_copy or mabn_params_set. */
MABN_MUST_USE mabn_status mabn_model_build(struct mabn_net **net, struct mabn_device *device,
                                           const struct mabn_model *model,
                                           const struct mabn_net_options *options);

MABN_END_DECLS
#endif
