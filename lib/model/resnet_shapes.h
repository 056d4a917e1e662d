/* The residual networks that can be built.
 *
 *   resnet18 resnet34            basic blocks            (torchvision's names and shapes)
 *   resnet50 resnet101 resnet152 bottlenecks, stride in the 3×3 unless stride_in_1x1
 *   resnet10                     basic blocks 1,1,1,1
 *   cifar-resnet8 14 20 32 44 56 3×3 stem, three stages of width, 2·width, 4·width, (depth−2)/6
 *                                basic blocks each; 1×1 shortcuts where the shape changes
 * A model of the first three rows with the small stem (3×3, stride 1, no pooling) suits images of
 * about 32×32. To add one is to add a row to the table in resnet_shapes.c.  */
#ifndef MABN_MODEL_RESNET_SHAPES_H
#define MABN_MODEL_RESNET_SHAPES_H

#include <stdbool.h>

#include "base/attr.h"

MABN_BEGIN_DECLS

struct mabn_resnet_shape {
    const char *arch;
    bool bottleneck, cifar;
    int stages;
    int blocks[4]; /* of each stage */
};

/* NULL when there is no such architecture. */
const struct mabn_resnet_shape *mabn_resnet_find(const char *arch);
/* All of them, NULL-terminated. */
const char *const *mabn_resnet_archs(void);

MABN_END_DECLS
#endif
