/* Residual networks (He et al. 2015), with torchvision's names: conv1, bn1, layer1.0.conv1, …,
 * layer1.0.downsample.0 (convolution) and .1 (norm), fc. The cifar-resnets have three layers. */
#ifndef MABN_MODEL_RESNET_H
#define MABN_MODEL_RESNET_H

#include "model/model.h"
#include "model/resnet_shapes.h"

MABN_BEGIN_DECLS

/* The part to which a layer of a body belongs, by its name without the place's prefix;
 * MABN_PART_STEM for other layers. */
enum mabn_model_part mabn_resnet_part_of(const char *name);

/* The prefixes of a body's names in a larger model. */
struct mabn_resnet_place {
    const char *stem, *stages; /* prefixes: "backbone.body.stem.", "backbone.body."; or "" */
    bool stem_bias;            /* the first convolution has a bias */
};
/* Append the nodes of the body to a new net. stages[i] becomes the output of stage i, of which
 * there are four or three. */
void mabn_resnet_add_body(struct mabn_net *net, const struct mabn_model *model,
                          const struct mabn_resnet_place *place, int stages[4]);

MABN_END_DECLS
#endif
