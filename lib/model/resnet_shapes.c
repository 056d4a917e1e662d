/* The table of residual networks. */
#include "model/resnet_shapes.h"

#include <string.h>

static const struct mabn_resnet_shape shapes[] = {
    {"resnet10", false, false, 4, {1, 1, 1, 1}},   {"resnet18", false, false, 4, {2, 2, 2, 2}},
    {"resnet34", false, false, 4, {3, 4, 6, 3}},   {"resnet50", true, false, 4, {3, 4, 6, 3}},
    {"resnet101", true, false, 4, {3, 4, 23, 3}},  {"resnet152", true, false, 4, {3, 8, 36, 3}},
    {"cifar-resnet8", false, true, 3, {1, 1, 1}},  {"cifar-resnet14", false, true, 3, {2, 2, 2}},
    {"cifar-resnet20", false, true, 3, {3, 3, 3}}, {"cifar-resnet32", false, true, 3, {5, 5, 5}},
    {"cifar-resnet44", false, true, 3, {7, 7, 7}}, {"cifar-resnet56", false, true, 3, {9, 9, 9}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

const struct mabn_resnet_shape *mabn_resnet_find(const char *arch)
{
    for (int i = 0; i < SHAPES; i++)
        if (!strcmp(shapes[i].arch, arch)) return &shapes[i];
    return NULL;
}

const char *const *mabn_resnet_archs(void)
{
    static const char *names[SHAPES + 1];
    for (int i = 0; i < SHAPES; i++)
        names[i] = shapes[i].arch;
    return names;
}
