/* Residual networks (He et al. 2015), with torchvision's names: conv1, bn1, layer1.0.conv1, …,
 * layer1.0.downsample.0 (convolution) and .1 (norm), fc. The cifar-resnets have three layers. */
#ifndef MABN_MODEL_RESNET_H
#define MABN_MODEL_RESNET_H

#include "model/model.h"
#include "model/resnet_shapes.h"

MABN_BEGIN_DECLS

/* The part that a layer of a body belongs to, by its name without the place's prefix; of other
 * layers MABN_PART_STEM. */
enum mabn_model_part mabn_resnet_part_of(const char *name);

/* Where a body's names stand in a larger model. */
struct mabn_resnet_place {
    const char *stem, *stages; /* prefixes: "backbone.body.stem.", "backbone.body."; or "" */
    bool stem_bias;            /* the first convolution has a bias */
};
/* Append the nodes of the body to a new net; stages[i]: the output of stage i, of four or three. */
void mabn_resnet_add_body(struct mabn_net *net, const struct mabn_model *model,
                          const struct mabn_resnet_place *place, int stages[4]);

MABN_END_DECLS
#endif
