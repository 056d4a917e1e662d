/* The plan of a conversion, shared by convert.c (which makes it) and convert_write.c (which carries
 * it out). Every tensor of the source becomes an item with our name; every tensor to be written an
 * entry that says where its values come from. Private to this room. */
#ifndef MABN_EXCHANGE_CONVERT_IMPL_H
#define MABN_EXCHANGE_CONVERT_IMPL_H

#include "net/net.h"
#include "exchange/convert.h"

/* A tensor of the source. */
struct item {
    size_t source; /* index in the file */
    char *ours;    /* NULL: no place */
    bool ignored;  /* known, and of no use */
    bool used;
};

enum origin {
    FROM_ITEM,
    FRESH,            /* as in a new network, or in the `like` file */
    CONSTANT,         /* `constant` everywhere */
    FOLDED_WEIGHT,    /* weight / sqrt(var + eps) */
    FOLDED_BIAS,      /* bias − mean · folded weight */
    SHIFTED_MEAN,     /* running mean − the convolution's bias */
    FOLDED_CONV,      /* a convolution's weight with its norm */
    FOLDED_CONV_BIAS, /* its bias: what is left of the norm */
    CENTERED,         /* a convolution's weight, minus each filter's mean */
    CLASSES_ROTATED,  /* detectron2's background is the last class, ours the first */
    BACKGROUND_ADDED, /* detectron2 has no rows for the background: zeros in front */
};

/* A tensor to be written. */
struct entry {
    struct mabn_weight weight; /* name owned */
    enum origin origin;
    size_t item;
    size_t net; /* FRESH: index in the network's tensors, or in `like` */
    float constant;
};

struct mabn_convert {
    struct mabn_convert_options options;
    struct mabn_weights *source;
    enum mabn_names names;
    char *prefix;   /* cut off in front of all names, or NULL */
    bool own;       /* a file of ours: its notes can be believed */
    bool has_model; /* `model` says what the network is */
    struct mabn_model model;
    struct mabn_device *device;
    struct mabn_net *net; /* tensors of the model; NULL without one */
    struct mabn_weights *like;
    struct mabn_model before; /* the source's norms, where `model` folds them */
    bool folded;              /* the source's norms are in its convolutions: biases instead */
    bool detector_mabn;       /* without a model: a detector of the reference with MABN */
    struct item *items;
    size_t item_count;
    size_t *by_name; /* items with a name of the model part, sorted by it */
    size_t by_name_count;
    struct entry *entries;
    size_t entry_count, entry_capacity;
    char **missing;
    size_t missing_count, missing_capacity;
    bool fresh; /* the network's tensors were initialized */
};

/* The source's item of the model part with this name of ours; NULL when there is none. */
struct item *mabn_convert_find(const struct mabn_convert *c, const char *ours);
/* Of the source, at the layer of this name: are convolutions centralized when used, and what is
 * the norm's epsilon? */
bool mabn_convert_centers(const struct mabn_convert *c, const char *name);
double mabn_convert_eps(const struct mabn_convert *c, const char *name);
/* The norm behind a convolution ("layer1.0.conv1" → "layer1.0.bn1"), malloc'd; NULL: no such. */
char *mabn_convert_norm_of(const char *conv);
/* The same for STEM.LEAF, where STEM is `name` without its last part. */
struct item *mabn_convert_sibling(const struct mabn_convert *c, const char *name, const char *leaf);
const struct mabn_weight *mabn_convert_tensor(const struct mabn_convert *c,
                                              const struct item *item);

#endif
