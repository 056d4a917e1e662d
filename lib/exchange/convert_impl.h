/* The plan of a conversion, made by convert.c and executed by convert_write.c. Every tensor of the
 * source becomes an item with our name; every tensor to be written an entry that says where its
 * values come from. Private to this room. */
#ifndef MABN_EXCHANGE_CONVERT_IMPL_H
#define MABN_EXCHANGE_CONVERT_IMPL_H

#include <string.h>

#include "exchange/convert.h"
#include "model/detector.h"
#include "net/graph.h"

/* A tensor of the source. */
struct item {
    size_t source; /* index in the file */
    char *ours;    /* NULL: no place */
    bool ignored;  /* known, but not used */
    bool used;
};

enum origin {
    FROM_ITEM,
    FRESH,            /* initial values, or those of the `like` file */
    CONSTANT,         /* `constant` everywhere */
    FOLDED_WEIGHT,    /* weight / sqrt(var + eps) */
    FOLDED_BIAS,      /* bias − mean · folded weight */
    SHIFTED_MEAN,     /* running mean − the convolution's bias */
    FOLDED_CONV,      /* a convolution's weight with its norm */
    FOLDED_CONV_BIAS, /* its bias, from the norm */
    CENTERED,         /* a convolution's weight, minus each filter's mean */
    CLASSES_ROTATED,  /* detectron2's background is the last class, ours the first */
    BACKGROUND_ADDED, /* detectron2 has no rows for the background: zeros in front */
    CLASSES_ROTATED_BACK,
    BACKGROUND_DROPPED,
    EPS_MOVED, /* a norm's weight, for an epsilon of `constant` in place of its own */
    ANCHORS,   /* of level `item` */
};

/* A tensor to be written. */
struct entry {
    struct mabn_weight weight; /* name owned */
    enum origin origin;
    size_t item;
    size_t net; /* FRESH: index in the network's tensors, or in `like` */
    float constant;
    bool flipped;     /* a convolution whose three input channels are reversed */
    long place;       /* in the file, where the network decides: register_order() in convert.c */
    const char *ours; /* our name, where `weight` has another program's; owned. NULL: the same */
};

struct mabn_convert {
    struct mabn_convert_options options;
    struct mabn_weights *source;
    enum mabn_names names;
    char *prefix;   /* cut off in front of all names, or NULL */
    bool own;       /* a file of ours, whose notes are used */
    bool has_model; /* `model` says what the network is */
    struct mabn_model model;
    bool has_detector; /* then `detector` does, and `model` does not count */
    struct mabn_detector detector;
    struct mabn_str categories; /* of the detector, in the form of model files; "": not known */
    bool assumes_coco;          /* assumed to be COCO's from the number of classes */
    struct mabn_device *device;
    struct mabn_net *net;       /* of the model; NULL without one */
    struct mabn_params *params; /* its tensors, or the detector's; NULL without either */
    bool owns_params;
    struct mabn_weights *like;
    struct mabn_model before;             /* the source's norms, where `model` folds them */
    struct mabn_detector detector_before; /* the same of a detector */
    bool folded;        /* the source's norms are in its convolutions: biases instead */
    bool detector_mabn; /* without a model: a detector of the reference with MABN */
    struct item *items;
    size_t item_count;
    size_t *by_name; /* items with a name of the model part, sorted by it */
    size_t by_name_count;
    struct entry *entries;
    size_t entry_count, entry_capacity;
    char **missing;
    size_t missing_count, missing_capacity;
    bool fresh;          /* the network's tensors were initialized */
    size_t odd_counters; /* values of num_batches_tracked that are no counts, and the first */
    const struct entry *first_counter;
    double first_count;
};

/* ---- convert_items.c ---- */

static inline const char *leaf_of(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* Make the items, give them our names, sort them. */
MABN_MUST_USE mabn_status mabn_convert_name_items(struct mabn_convert *c);
/* The source's item of the model part with this name of ours; NULL when there is none. */
struct item *mabn_convert_find(const struct mabn_convert *c, const char *ours);
/* STEM.LEAF; NULL: not there. */
struct item *mabn_convert_leaf(const struct mabn_convert *c, const char *stem, const char *leaf);
/* The same for STEM.LEAF, where STEM is `name` without its last part. */
struct item *mabn_convert_sibling(const struct mabn_convert *c, const char *name, const char *leaf);
const struct mabn_weight *mabn_convert_tensor(const struct mabn_convert *c,
                                              const struct item *item);
/* Length of a tensor along an axis; 0: no such tensor or axis. */
int64_t mabn_convert_dim(const struct mabn_convert *c, const char *ours, int axis);
/* The residual network whose blocks have names that begin with `body` ("" or "backbone.body."), or
 * NULL. */
const char *mabn_convert_guess_arch(const struct mabn_convert *c, const char *body);
/* A norm, from the names of the state beside STEM.weight and STEM.bias. */
void mabn_convert_guess_norm(const struct mabn_convert *c, const char *stem,
                             struct mabn_norm_options *norm);

/* Is any of the names a detector's? */
bool mabn_convert_names_detector(const struct mabn_convert *c);

/* ---- convert_detector.c ---- */

/* Recognize a detector by the file's names and shapes; sets has_detector and categories. Does
 * nothing if the file has no whole detector. MABN_ERR_UNSUPPORTED names a part that is not
 * supported. */
MABN_MUST_USE mabn_status mabn_convert_guess_detector(struct mabn_convert *c);
/* The detector of a file of ours, by its own description, which its tensors must agree with. */
MABN_MUST_USE mabn_status mabn_convert_read_detector(struct mabn_convert *c, const char *config);

/* The assumptions that the file does not confirm, a line each. */
MABN_MUST_USE mabn_status mabn_convert_tell_detector(struct mabn_convert *c,
                                                     struct mabn_str *lines);

/* ---- convert_family.c ---- */

/* Change the entries of the detector for options.to: names, order of classes and other differences.
 * MABN_ERR_UNSUPPORTED names what that program does not support. */
MABN_MUST_USE mabn_status mabn_convert_to_family(struct mabn_convert *c);
/* The settings that the program needs and its files do not hold, and what is lost; a line each. */
void mabn_convert_tell_family(const struct mabn_convert *c, struct mabn_str *lines);

/* ---- entries ---- */

static inline const char *entry_name(const struct entry *e)
{
    return e->ours ? e->ours : e->weight.name;
}

struct entry *mabn_convert_add_entry(struct mabn_convert *c, const char *name,
                                     const struct mabn_weight *t);
void mabn_convert_remove_entry(struct mabn_convert *c, size_t i);

/* ---- convert_norms.c ---- */

/* Of the source, at the layer of this name: are convolutions centralized when used, what is the
 * norm's epsilon? */
bool mabn_convert_centers(const struct mabn_convert *c, const char *name);
double mabn_convert_eps(const struct mabn_convert *c, const char *name);
/* The norms that have a weight and a bias alone, which leaves their kind open; a line. */
void mabn_convert_tell_norms(const struct mabn_convert *c, struct mabn_str *lines);
/* Is this a norm of the classifier that can go into the convolution before it? */
bool mabn_convert_folds(const struct mabn_convert *c, const char *norm);
/* Is the norm frozen in the result? */
bool mabn_convert_freezes(const struct mabn_convert *c, const char *name);
/* Does the layer of this name, in a detector, have a norm that is to be folded away? */
bool mabn_convert_loses_norm(const struct mabn_convert *c, const char *name);
/* Is it the weight of a convolution that the reference centralizes: of one that a norm follows? */
bool mabn_convert_is_centered(const struct mabn_weight *t);
/* Names for a layer, malloc'd. First, of the norm behind it; NULL: none. (For a classifier the
 * network tells.) Second, of a detector's layer that is given by its name without a norm: its name
 * with one. */
char *mabn_convert_norm_of(const struct mabn_convert *c, const char *conv);
char *mabn_convert_unfolded(const struct mabn_convert *c, const char *conv);

#endif
